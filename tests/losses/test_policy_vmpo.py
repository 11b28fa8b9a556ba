"""V-MPO: a loop in NumPy, worked numbers, masks, the flow of gradients, and rlax as a peer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.jitted import quick_jit
from helpers.peers import rlax

loss_of = quick_jit(losses.vmpo_loss, static_argnames="top_fraction")


def batch(size=8, seed=0):
    generator = np.random.default_rng(seed)
    log_pi, adv, kl = -generator.exponential(size=(3, size))
    return log_pi, adv + 0.5, -0.02 * kl


def loop(log_pi, adv, kl, temperature, alpha, top, eps_temperature=0.1, eps_alpha=0.01):
    """Policy, temperature, KL and alpha losses of a batch, from the `top` best advantages."""
    best = sorted(range(len(adv)), key=lambda i: -adv[i])[:top]
    weights = np.exp(adv[best] / temperature)
    policy = -np.sum(weights / weights.sum() * log_pi[best])
    dual = temperature * (eps_temperature + np.log(np.mean(weights)))
    return policy, dual, alpha * np.mean(kl), np.mean(alpha * (eps_alpha - kl))


def means(out):
    return [np.mean(part) for part in out[1:5]]


def test_worked():
    # Of advantages (0, ln 3, -5, -9) at temperature 1 the upper two weigh 1/4 and 3/4:
    # policy -(1/4 * -1 + 3/4 * -2); temperature 0.1 + log((1 + 3) / 2); 2 * mean KL 0.005;
    # 2 * (0.01 - 0.005).
    log_pi, adv = jnp.array([-1.0, -2.0, -3.0, -4.0]), jnp.array([0.0, np.log(3.0), -5.0, -9.0])
    out = loss_of(log_pi, adv, jnp.full(4, 0.005), 1.0, 2.0, jnp.ones(4))
    np.testing.assert_allclose(out.weights, [0.25, 0.75, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(means(out), [1.75, 0.1 + np.log(2.0), 0.01, 0.01], rtol=1e-5)
    np.testing.assert_allclose(out.loss, sum(out[1:5]), rtol=1e-6)


@pytest.mark.parametrize("fraction", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 30.0])
def test_equals_the_loop(temperature, fraction):
    args = batch()
    with jax.enable_x64(True):
        out = loss_of(*args, temperature, 3.0, np.ones(8), top_fraction=fraction)
        out = jax.tree.map(np.asarray, out)
    wanted = loop(*args, temperature, 3.0, int(8 * fraction))
    np.testing.assert_allclose(means(out), wanted, rtol=1e-7)  # rlax adds 1e-10 to the sum


def test_masked_samples_are_as_if_absent():
    args = batch(6)
    # Two of eight are masked, and hold anything; half of the others are the upper three of six.
    mask = np.array([1, 1, 0, 1, 1, 0, 1, 1.0])
    padded = [np.full(8, np.nan) for _ in args]
    for x, y in zip(padded, args, strict=True):
        x[mask != 0] = y
    out = loss_of(*padded, 0.5, 2.0, mask)
    np.testing.assert_allclose(means(out), loop(*args, 0.5, 2.0, 3), rtol=1e-5)
    for part in (out.weights, out.policy_loss, out.kl_loss, out.alpha_loss):
        np.testing.assert_array_equal(np.asarray(part)[mask == 0], 0.0)
    # Nothing left: no loss, no gradient.
    empty = jax.value_and_grad(lambda *x: jnp.sum(losses.vmpo_loss(*x, 1.0, 1.0, jnp.zeros(6))[0]))
    value, gradient = quick_jit(empty)(*args)
    assert value == 0.0 and not np.any(gradient)


def test_masked_samples_do_not_drown_low_advantages():
    # All advantages far below 0, where rlax reads a masked one as 0 and adds 1e-10 to the sum.
    log_pi, adv, kl = batch(4)
    adv = adv - 30.0
    mask = np.array([1.0, 1.0, 1.0, 0.0])
    out = loss_of(log_pi, adv, kl, 0.5, 1.0, mask)
    kept = [x[:3] for x in (log_pi, adv, kl)]
    np.testing.assert_allclose(means(out), loop(*kept, 0.5, 1.0, 1), rtol=1e-4)
    np.testing.assert_allclose(jnp.sum(out.weights), 1.0, rtol=1e-5)
    # Control: so it does.
    penalty = rlax.LagrangePenalty(jnp.float32(0.5), 0.1)
    _, parts = rlax.vmpo_loss(
        *(jnp.asarray(x) for x in (log_pi, adv)), penalty, [(jnp.asarray(kl), penalty)],
        restarting_weights=jnp.asarray(mask),
    )  # fmt: skip
    assert jnp.sum(parts.normalized_weights) < 1e-3


@pytest.mark.peer
def test_peer():
    log_pi, adv, kl = map(jnp.asarray, batch(16))
    temperature, alpha = jnp.float32(0.7), jnp.float32(1.5)
    bounds = (rlax.LagrangePenalty(temperature, 0.1), rlax.LagrangePenalty(alpha, 0.01))
    loss, parts = rlax.vmpo_loss(log_pi, adv, bounds[0], [(kl, bounds[1])])
    out = loss_of(log_pi, adv, kl, temperature, alpha, jnp.ones(16))
    np.testing.assert_allclose(out.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(out.weights, parts.normalized_weights, rtol=1e-5)


def test_a_shift_of_advantages_is_a_shift_of_the_temperature_loss():
    log_pi, adv, kl = batch()
    for shift in (-1e3, 10.0):
        base, moved = (loss_of(log_pi, x, kl, 0.5, 1.0, np.ones(8)) for x in (adv, adv + shift))
        np.testing.assert_allclose(moved.weights, base.weights, rtol=2e-3)
        gap = moved.temperature_loss - base.temperature_loss
        np.testing.assert_allclose(gap, shift, rtol=1e-5)


def test_whose_gradient_goes_where():
    log_pi, adv, kl = map(jnp.asarray, batch())

    def mean(part):
        function = lambda *x: jnp.mean(getattr(losses.vmpo_loss(*x, jnp.ones(8)), part))  # noqa: E731
        return jax.grad(function, range(5))(log_pi, adv, kl, 0.5, 2.0)

    out = loss_of(log_pi, adv, kl, 0.5, 2.0, jnp.ones(8))
    parts = quick_jit(lambda: {part: mean(part) for part in losses.Vmpo._fields[1:5]})()
    goes = {name: [bool(np.any(g)) for g in gradient] for name, gradient in parts.items()}
    assert goes == {
        "policy_loss": [True, False, False, False, False],
        "temperature_loss": [False, False, False, True, False],
        "kl_loss": [False, False, True, False, False],
        "alpha_loss": [False, False, False, False, True],
    }
    np.testing.assert_allclose(parts["policy_loss"][0], -out.weights, rtol=1e-5)
    np.testing.assert_allclose(parts["kl_loss"][2], jnp.full(8, 2.0 / 8), rtol=1e-5)
    np.testing.assert_allclose(parts["alpha_loss"][4], 0.01 - jnp.mean(kl), rtol=1e-4)
    # The temperature's is its bound less the KL of the weights from uniform, over the upper half.
    weights = np.sort(out.weights)[4:]
    divergence = np.sum(weights * np.log(4.0 * weights))
    np.testing.assert_allclose(parts["temperature_loss"][3], 0.1 - divergence, rtol=1e-4)


def test_errors_name_the_argument():
    args = batch()
    for change, pattern in [
        ({"top_fraction": 0.0}, "top_fraction must .* got 0"),
        ({"top_fraction": 1.5}, "top_fraction must .* got 1.5"),
        ({"top_fraction": 0.1}, "top_fraction must .* N = 8 samples, got 0.1"),
        ({"epsilon_alpha": -0.1}, "epsilon_alpha must .* got -0.1"),
        ({"epsilon_temperature": 0.0}, "epsilon_temperature must .* got 0"),
    ]:
        with pytest.raises(ValueError, match=pattern):
            losses.vmpo_loss(*args, 1.0, 1.0, np.ones(8), **change)
    with pytest.raises(ValueError, match="^mask must have 8 .* log_pi_a_t has, got 7"):
        losses.vmpo_loss(*args, 1.0, 1.0, np.ones(7))


NAMES = ("log_pi_a_t", "adv_t", "kl_t")
ARRAYS = dict(zip(NAMES, (jnp.asarray(x, jnp.float32) for x in batch()), strict=True))
ARRAYS |= {"temperature": jnp.float32(0.5), "alpha": jnp.float32(2.0)}
ARRAYS |= {"mask": jnp.array([1.0, 1, 0, 1, 1, 1, 1, 1])}
LEARNED = ("log_pi_a_t", "kl_t", "temperature", "alpha")
CASE = Case(losses.vmpo_loss, ARRAYS, LEARNED, values=NAMES)


# Not by finite differences: each part is a constant to some of what it is a function of.
def test_contract():
    check_contract(CASE, but=("differentiates",))

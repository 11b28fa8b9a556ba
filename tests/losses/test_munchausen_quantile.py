"""M-IQN: worked numbers, a loop, means equal to M-DQN's, planted mistakes, gradients."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.contract import Case, check_contract

TAU = 0.03
Q_S, Q_NEXT = np.array([1.0, 0.98, 0.5]), np.array([0.2, 0.25, 0.1])
N, M, K, A = 4, 7, 5, 3


def around(q, rows, spread=0.3):
    """Quantile values [rows, A] whose means over rows are exactly q, up to rounding."""
    noise = spread * np.random.default_rng(rows).normal(size=(rows, q.size))
    return jnp.asarray(q[None, :] + noise - noise.mean(axis=0)[None, :], jnp.float32)


STEP = {"a_tm1": jnp.int32(1), "r_t": jnp.float32(0.3), "discount_t": jnp.float32(0.9)}
TARGETS = {"target_dist_q_tm1": around(Q_S, K), "target_dist_q_t": around(Q_NEXT, M)}
ONLINE = {"dist_q_tm1": around(Q_S, N), "tau_tm1": losses.quantile_midpoints(N)}
HYPER = {"temperature": 0.3, "alpha": 0.8}
CASES = [
    Case(
        losses.munchausen_quantile_target,
        STEP | TARGETS,
        (),
        HYPER,
        values=tuple(TARGETS),
        free=(
            "target_dist_q_tm1",
            "target_dist_q_t",
        ),
    ),
    Case(
        losses.munchausen_quantile_q_learning,
        ONLINE | STEP | TARGETS,
        tuple(ONLINE),
        HYPER | {"huber_kappa": 0.7},
        values=("dist_q_tm1", *TARGETS),
        free=(
            "target_dist_q_tm1",
            "target_dist_q_t",
        ),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)


def loop_log_policy(q, tau):
    top = max(q)
    log_sum = math.log(sum(math.exp((value - top) / tau) for value in q))
    return [value - top - tau * log_sum for value in q]


def loop_target(a, r, discount, dist_s, dist_next, policy, tau, alpha, clip):
    """As the paper's code: the expectation over actions inside each quantile."""
    bonus = min(max(loop_log_policy(dist_s.mean(axis=0), tau)[a], clip), 0.0)
    log_pi = loop_log_policy(policy.mean(axis=0), tau)
    atoms = []
    for row in dist_next:
        soft = 0.0
        for value, log_probability in zip(row, log_pi, strict=True):
            soft += math.exp(log_probability / tau) * (value - log_probability)
        atoms.append(r + alpha * bonus + discount * soft)
    return np.array(atoms)


@pytest.mark.parametrize(
    ("q_s", "a", "r", "discount", "expected"),
    [
        pytest.param(Q_S, 1, 0.5, 0.99, 0.7236181933, id="plain"),
        pytest.param(np.array([3.0, 0.98, 0.5]), 2, -1.0, 0.99, -1.6471938133, id="clipped"),
        pytest.param(Q_S, 0, 1.0, 0.0, 0.9888120066, id="terminal"),
    ],
)
def test_the_mean_of_the_atoms_is_the_scalar_target(q_s, a, r, discount, expected):
    # The worked targets of M-DQN, with a zero-mean spread added to their values.
    target = losses.munchausen_quantile_target(a, r, discount, around(q_s, K), around(Q_NEXT, M))
    np.testing.assert_allclose(jnp.mean(target), expected, atol=1e-6)
    # discount = 0 collapses all atoms.
    assert (float(jnp.ptp(target)) > 0.1) == (discount > 0.0)


@pytest.mark.parametrize("own_policy", [False, True])
@pytest.mark.parametrize("hyper", [(0.03, 0.9, -1.0), (0.5, 0.3, -0.2), (2.0, 1.0, -math.inf)])
def test_equals_the_loop(hyper, own_policy):
    names = dict(zip(("temperature", "alpha", "clip"), hyper, strict=True))
    generator = np.random.default_rng(5)
    policy = generator.normal(size=(2, A)) if own_policy else None
    target_dists = generator.normal(size=(K, A)), generator.normal(size=(M, A))
    args = 2, -0.4, 0.99, *target_dists
    wanted = loop_target(*args, target_dists[1] if policy is None else policy, *hyper)
    with jax.enable_x64(True):
        options = names | {
            "target_dist_q_t_policy": policy if policy is None else jnp.asarray(policy)
        }
        wide = args[:3] + tuple(map(jnp.asarray, target_dists))
        got = losses.munchausen_quantile_target(*wide, **options)
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
        online = jnp.asarray(np.asarray(ONLINE["dist_q_tm1"]), jnp.float64)
        tau = jnp.asarray(np.asarray(ONLINE["tau_tm1"]), jnp.float64)
        loss = losses.munchausen_quantile_q_learning(
            online, tau, *wide, **options, huber_kappa=0.6, divide_by_kappa=True
        )
    total = 0.0
    for value, fraction in zip(np.asarray(online)[:, 2], np.asarray(tau), strict=True):
        u = wanted - value
        size = np.where(np.abs(u) <= 0.6, 0.5 * u**2, 0.6 * (np.abs(u) - 0.3)) / 0.6
        total += np.mean(np.abs(fraction - (u < 0.0)) * size)
    np.testing.assert_allclose(loss, total, rtol=1e-10)


def test_one_quantile_is_munchausen_q_learning():
    q_tm1, q_s, q_next = (jnp.asarray(x, jnp.float32) for x in (Q_S - 0.1, Q_S, Q_NEXT))
    target = losses.munchausen_quantile_target(1, 0.5, 0.99, q_s[None], q_next[None])
    scalar = losses.munchausen_target(1, 0.5, 0.99, q_s, q_next)
    np.testing.assert_allclose(target, scalar[None], atol=1e-6)
    # Half the Huber loss, as the median's weight is 1/2 on both sides.
    args = 1, 0.5, 0.99
    loss = losses.munchausen_quantile_q_learning(
        q_tm1[:, None].T, jnp.array([0.5]), *args, q_s[None], q_next[None]
    )
    half = 0.5 * losses.munchausen_loss(q_tm1, *args, q_s, q_next)
    np.testing.assert_allclose(loss, half, rtol=1e-5)


def test_limits():
    # alpha = 0 and no temperature: QR-DQN. With alpha, Advantage Learning's reward added to it.
    args = *ONLINE.values(), *STEP.values()
    cold = functools.partial(
        losses.munchausen_quantile_q_learning, *args, *TARGETS.values(), temperature=1e-5
    )
    plain = losses.quantile_q_learning(*args, TARGETS["target_dist_q_t"])
    np.testing.assert_allclose(cold(alpha=0.0), plain, atol=1e-4)
    advantage = 0.9 * (0.98 - 1.0)
    raised = losses.quantile_q_learning(
        *args[:3], STEP["r_t"] + advantage, *args[4:], TARGETS["target_dist_q_t"]
    )
    np.testing.assert_allclose(cold(alpha=0.9), raised, atol=1e-4)
    assert abs(raised - plain) > 1e-3


def test_is_not_the_mixture_of_the_actions():
    # Two actions of equal means and opposite quantiles: averaged they cancel, mixed they do not.
    dist = jnp.array([[-1.0, 1.0], [1.0, -1.0]])
    averaged = losses.munchausen_quantile_target(
        0, 0.0, 1.0, dist, dist, temperature=1.0, alpha=0.0
    )
    np.testing.assert_allclose(averaged, [math.log(2.0)] * 2, rtol=1e-6)  # the entropy alone
    args = jnp.zeros((2, 2)), jnp.array([0.25, 0.75]), 0, 0.0, 1.0
    ours = losses.munchausen_quantile_q_learning(*args, dist, dist, temperature=1.0, alpha=0.0)
    mixed = losses.quantile_expected_sarsa(
        *args[:3], math.log(2.0), 1.0, dist, jnp.array([0.5, 0.5])
    )
    assert abs(ours - mixed) > 0.1


def test_forbidden_actions_take_no_part():
    masked = [
        jnp.concatenate([x, jnp.full((x.shape[0], 1), -jnp.inf)], axis=1) for x in TARGETS.values()
    ]
    got = losses.munchausen_quantile_target(*STEP.values(), *masked)
    wanted = losses.munchausen_quantile_target(*STEP.values(), *TARGETS.values())
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_the_policy_at_t_may_come_from_other_fractions():
    with pytest.raises(ValueError, match="^target_dist_q_t_policy must have .* entries .*, got 2"):
        losses.munchausen_quantile_target(
            *STEP.values(), *TARGETS.values(), target_dist_q_t_policy=jnp.zeros((3, 2))
        )
    with pytest.raises(ValueError, match="^temperature must .* got 0"):
        losses.munchausen_quantile_target(*STEP.values(), *TARGETS.values(), temperature=0.0)

"""Scales of intrinsic rewards: worked sequences, loops in NumPy, masks, devices, invariances."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.jitted import quick_jit

reward_update = quick_jit(losses.reward_normaliser_update, static_argnames=("clip", "axis_name"))
moments_update = quick_jit(losses.running_moments_update)


def rewards_of(batches, masks=None, dtype=jnp.float32, **hyper):
    """Rewards of one batch after another, and the states between."""
    state, rewards, states = losses.reward_normaliser_init(dtype), [], []
    masks = [np.ones_like(batch) for batch in batches] if masks is None else masks
    for batch, mask in zip(batches, masks, strict=True):
        state, reward = reward_update(state, batch, mask, **hyper)
        rewards.append(np.asarray(reward))
        states.append(state)
    return rewards, states


def loop_rewards(batches, masks, decay=0.99, eps=1e-8, clip=True):
    """The recursion as published, with its power of the decay; masked entries dropped."""
    m1 = m2 = threshold = 0.0
    updates, out = 0, []
    for batch, mask in zip(batches, masks, strict=True):
        kept = batch[mask != 0]
        if kept.size:
            updates += 1
            m1 = decay * m1 + (1 - decay) * kept.mean()
            m2 = decay * m2 + (1 - decay) * np.mean(kept**2)
            correction = 1 - decay**updates
            sigma = np.sqrt(max(m2 / correction - (m1 / correction) ** 2, 0.0) + eps)
            threshold = decay * threshold + (1 - decay) * np.mean(kept / sigma)
            floor = threshold / correction if clip else -np.inf
            out.append(np.where(mask != 0, np.maximum(batch / sigma - floor, 0.0), 0.0))
            if not clip:
                out[-1] = np.where(mask != 0, batch / sigma, 0.0)
        else:
            out.append(np.zeros_like(batch))
    return out


def test_published_sequence():
    batches = [np.array(x, float) for x in ([1, 2, 3, 4], [2, 2, 4, 4], [0, 0, 0, 10])]
    wanted = [
        (1.1180340, 2.2360680, [0, 0, 0.4472136, 1.3416408]),
        (1.0894358, 2.4961941, [0, 0, 1.1754312, 1.1754312]),
        (2.6672611, 1.9713286, [0, 0, 0, 1.7778357]),
    ]
    with jax.enable_x64(True):
        rewards, states = rewards_of(batches, dtype=jnp.float64)
        scaled, _ = rewards_of(batches, dtype=jnp.float64, clip=False)
    states = jax.tree.map(np.asarray, states)
    for batch, reward, state, plain, row in zip(
        batches, rewards, states, scaled, wanted, strict=True
    ):
        sigma, threshold, clipped = row
        mean, square, level = (x / state.weight for x in state[:3])
        np.testing.assert_allclose(np.sqrt(square - mean**2 + 1e-8), sigma, atol=6e-8)
        np.testing.assert_allclose(level, threshold, atol=6e-8)
        np.testing.assert_allclose(reward, clipped, atol=6e-8)
        np.testing.assert_allclose(plain, batch / sigma, rtol=1e-7)
    np.testing.assert_allclose(rewards_of(batches)[0], rewards, atol=2e-6)  # float32


def test_share_that_clipping_keeps():
    generator = np.random.default_rng(0)
    # E[max(x - mean, 0)] in standard deviations: 1 / sqrt(2 pi) of a normal, 1 / e of an
    # exponential, whatever their scales.
    normal, exponential = generator.normal(50.0, 3.0, 400_000), generator.exponential(0.2, 400_000)
    for batch, share in [(normal, 0.3989), (exponential, 0.3679)]:
        (reward,), _ = rewards_of([batch.astype(np.float32)])
        np.testing.assert_allclose(np.mean(reward), share, atol=3e-3)


@pytest.mark.parametrize("hyper", [{}, {"decay": 0.5, "eps": 0.1}, {"decay": 0.0, "clip": False}])
def test_equals_the_loop_with_masks(hyper):
    generator = np.random.default_rng(1)
    batches = generator.exponential(2.0, size=(6, 5, 3))
    masks = generator.integers(0, 2, size=(6, 5, 3)).astype(float)
    masks[0], masks[3] = 0.0, 0.0  # whole batches without a transition, the first among them
    with jax.enable_x64(True):
        got, states = rewards_of(batches, masks, jnp.float64, **hyper)
    np.testing.assert_allclose(got, loop_rewards(batches, masks, **hyper), rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(states[3], states[2])
    assert not np.any(states[0])


def test_masked_entries_may_hold_anything():
    batches = [np.array([1.0, 2.0, np.nan, 5.0]), np.array([3.0, np.inf, 1.0, 0.5])]
    masks = [np.array([1.0, 1.0, 0.0, 1.0]), np.array([1.0, 0.0, 1.0, 1.0])]
    got, _ = rewards_of(batches, masks)
    few, _ = rewards_of([batch[mask != 0] for batch, mask in zip(batches, masks, strict=True)])
    for reward, mask, wanted in zip(got, masks, few, strict=True):
        np.testing.assert_allclose(reward[mask != 0], wanted, rtol=1e-6)
        assert not np.any(reward[mask == 0])
    # Control: counted as zeros they would change the scale.
    zeros, _ = rewards_of([np.nan_to_num(batch, posinf=0.0) for batch in batches])
    assert np.max(np.abs(zeros[0] - got[0])) > 0.1


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    st.lists(
        st.lists(st.floats(0.125, 100, width=32), min_size=4, max_size=4), min_size=2, max_size=4
    ),
    st.floats(0.0625, 1000, width=32),
)
def test_scale_of_raw_rewards_does_not_matter(batches, scale):
    batches = np.array(batches)
    batches[0] += np.arange(4.0)  # some variance, far above eps
    with jax.enable_x64(True):
        wanted = rewards_of(batches, dtype=jnp.float64, eps=1e-14)[0]
        got = rewards_of(scale * batches, dtype=jnp.float64, eps=1e-14)[0]
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_constant_rewards_pay_nothing_and_stay_finite():
    for level in (0.0, 3.0):
        rewards, _ = rewards_of([np.full(4, level)] * 5)
        np.testing.assert_allclose(rewards, 0.0, atol=1e-2)


def test_parts_on_devices_equal_the_whole():
    batch = np.random.default_rng(2).exponential(size=(3, 4, 2)).astype(np.float32)
    mask = (batch > 0.3).astype(np.float32)
    each = functools.partial(losses.reward_normaliser_update, axis_name="devices")
    start = losses.reward_normaliser_init()
    states, rewards = quick_jit(jax.vmap(each, (None, 0, 0), axis_name="devices"))(
        start, batch, mask
    )
    state, reward = reward_update(start, batch, mask)
    np.testing.assert_allclose(rewards, reward, rtol=1e-5, atol=1e-6)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, np.full(3, y), rtol=1e-5), states, state
    )
    each = functools.partial(losses.running_moments_update, axis_name="devices")
    start = losses.running_moments_init((2,))
    parts = quick_jit(jax.vmap(each, (None, 0, 0), axis_name="devices"))(start, batch, mask[..., 0])
    whole = moments_update(start, batch, mask[..., 0])
    for part, total in zip(parts, whole, strict=True):
        np.testing.assert_allclose(part, np.stack([total] * 3), rtol=1e-5)


def test_states_go_through_scan_and_keep_their_dtype():
    r = jnp.ones((4, 6, 2), jnp.bfloat16)

    def step(states, chunk):
        scale, returns = states
        scale, first = losses.reward_normaliser_update(scale, chunk, jnp.ones_like(chunk))
        returns, second = losses.return_normaliser_update(returns, chunk, jnp.ones_like(chunk))
        return (scale, returns), (first, second)

    start = losses.reward_normaliser_init(), losses.return_normaliser_init(2)
    states, rewards = quick_jit(lambda start: jax.lax.scan(step, start, r))(start)
    assert {leaf.dtype for leaf in jax.tree.leaves((states, rewards))} == {jnp.dtype("float32")}
    with jax.enable_x64(True):
        wide = reward_update(start[0], np.ones(3), np.ones(3))
        assert wide[0].mean.dtype == jnp.float32 and wide[1].dtype == jnp.float64


def test_errors_name_the_argument():
    reward, returns = losses.reward_normaliser_init(), losses.return_normaliser_init(2)
    x = jnp.ones((5, 2))
    for call, pattern in [
        (
            lambda: losses.reward_normaliser_update(reward, x, x[0]),
            "^mask must .* rank 2 .* rank 1",
        ),
        (
            lambda: losses.reward_normaliser_update(reward, x, x[1:]),
            "^mask must .*uncertainty has, got 4",
        ),
        (lambda: losses.reward_normaliser_update(reward, x, x, decay=1.0), "decay must .* got 1"),
        (lambda: losses.reward_normaliser_update(reward, x, x, eps=0.0), "eps must .* got 0"),
        (
            lambda: losses.return_normaliser_update(returns, x.T, x.T),
            "^returns must have 5 .* has, got 2",
        ),
        (
            lambda: losses.return_normaliser_update(returns, x, x, discount=1.5),
            "discount must .*1.5",
        ),
        (
            lambda: losses.running_moments_update(returns.moments, x, x[:, 0]),
            "^x must .* got rank 2",
        ),
        (lambda: losses.standardise(returns.moments, x[0]), "^x must .* rank 0 .* rank 1"),
        (lambda: losses.standardise(returns.moments, x[0, 0], clip=0.0), "clip must .* got 0"),
    ]:
        with pytest.raises(ValueError, match=pattern):
            call()


def dtype_of(x):
    return jnp.promote_types(getattr(x, "dtype", jnp.float32), jnp.float32)


def first_rewards(uncertainty, mask, *, eps):
    """Rewards of a second batch: its arguments are arrays only, as the contract wants them."""
    start = losses.reward_normaliser_init(dtype_of(uncertainty))
    state, _ = losses.reward_normaliser_update(start, uncertainty, mask, eps=eps)
    return losses.reward_normaliser_update(state, uncertainty, mask, eps=eps)


def first_returns(r_t, mask, *, discount, eps):
    start = losses.return_normaliser_init(3, dtype_of(r_t))
    return losses.return_normaliser_update(start, r_t, mask, discount=discount, eps=eps)


def standard(x, *, eps):
    return losses.standardise(MOMENTS, x, eps=eps)


RAW = jnp.array([[0.1, 2.0, 0.4], [1.5, 0.3, 0.9]])
ON = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
MOMENTS = losses.RunningMoments(jnp.float32(9.0), jnp.float32(0.5), jnp.float32(2.0))
CASES = [
    Case(first_rewards, {"uncertainty": RAW, "mask": ON}, (), {"eps": 0.1}, {}, ("uncertainty",)),
    Case(first_returns, {"r_t": RAW, "mask": ON}, (), {"discount": 0.9, "eps": 0.1}, {}, ("r_t",)),
    Case(standard, {"x": jnp.float32(0.3)}, ("x",), {"eps": 0.1}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    # Uncertainties may have any rank, if their mask has the same.
    check_contract(case, but=("refuses_a_wrong_rank",) if case.function is first_rewards else ())

"""Running moments and RND's return normaliser: loops in NumPy, splits, controls."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import losses
from helpers.jitted import full_jit, quick_jit

return_update = quick_jit(losses.return_normaliser_update)
moments_update = full_jit(losses.running_moments_update)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.integers(0, 2), min_size=8, max_size=8), st.integers(0, 1000))
def test_moments_do_not_depend_on_the_split(parts, seed):
    x = np.random.default_rng(seed).normal(100.0, 2.0, size=(8, 3))
    state = losses.running_moments_init((3,))
    for part in range(3):
        state = moments_update(state, x, np.equal(parts, part).astype(float))
    assert state.seen == 8
    np.testing.assert_allclose(state.mean, x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(state.variance, x.var(0), rtol=1e-3)


def test_moments_keep_small_spreads_on_large_means():
    x = np.random.default_rng(3).normal(1e4, 1.0, size=(20, 50, 2)).astype(np.float32)
    state = losses.running_moments_init((2,))
    for batch in x:
        state = moments_update(state, batch, np.ones(50))
    exact = x.astype(float).reshape(-1, 2).var(0)
    np.testing.assert_allclose(state.variance, exact, rtol=1e-2)
    # Control: the difference of two means of float32, as moving averages have it, has no digit.
    flat = x.reshape(-1, 2)
    naive = np.mean(np.square(flat), 0) - np.square(np.mean(flat, 0))
    assert np.max(np.abs(naive / exact - 1.0)) > 0.1


def test_standardise():
    state = losses.RunningMoments(jnp.float32(9.0), jnp.array([1.0, 2.0]), jnp.array([4.0, 0.25]))
    # (3 - 1) / 2 and (1 - 2) / 0.5; then 9 and -18 deviations, clipped.
    got = losses.standardise(state, jnp.array([3.0, 1.0]))
    np.testing.assert_allclose(got, [1.0, -2.0], rtol=1e-6)
    far = jnp.array([19.0, -7.0])
    np.testing.assert_array_equal(losses.standardise(state, far), [5.0, -5.0])
    np.testing.assert_allclose(losses.standardise(state, far, clip=np.inf), [9.0, -18.0], rtol=1e-6)


def loop_returns(r, mask, start, discount):
    returns, out = start.astype(float).copy(), []
    for row, on in zip(r, mask, strict=True):
        for b in range(r.shape[1]):
            if on[b]:
                returns[b] = discount * returns[b] + row[b]
        out.append(returns.copy())
    return np.array(out)


def test_return_normaliser_equals_the_loop_over_chunks():
    generator = np.random.default_rng(4)
    r = generator.exponential(size=(3, 6, 4))
    mask = (generator.uniform(size=r.shape) > 0.2).astype(float)
    start, seen = np.zeros(4), []
    with jax.enable_x64(True):
        state = losses.return_normaliser_init(4, jnp.float64)
        for chunk, on in zip(r, mask, strict=True):
            state, reward = return_update(state, chunk, on, discount=0.9)
            returns = loop_returns(chunk, on, start, 0.9)
            start = returns[-1]
            seen.extend(returns[on != 0])
            wanted = np.where(on != 0, chunk / np.sqrt(np.var(seen) + 1e-8), 0.0)
            np.testing.assert_allclose(reward, wanted, rtol=1e-9)
            np.testing.assert_allclose(state.returns, start, rtol=1e-9)
    # Controls: neither a filter that each chunk resets, nor time backwards, nor axes swapped.
    reset = [loop_returns(c, np.ones_like(c), np.zeros(4), 0.9) for c in r]
    whole = loop_returns(r.reshape(18, 4), np.ones((18, 4)), np.zeros(4), 0.9)
    backwards = loop_returns(r.reshape(18, 4)[::-1], np.ones((18, 4)), np.zeros(4), 0.9)
    swapped = loop_returns(r.reshape(18, 4).T, np.ones((4, 18)), np.zeros(18), 0.9)
    state, _ = return_update(
        losses.return_normaliser_init(4), r.reshape(18, 4), np.ones((18, 4)), discount=0.9
    )
    np.testing.assert_allclose(state.moments.variance, whole.var(), rtol=1e-4)
    for wrong in (np.concatenate(reset), backwards, swapped):
        assert abs(wrong.var() / whole.var() - 1.0) > 0.01


def test_constant_reward_fills_the_filter():
    state = losses.return_normaliser_init(2)
    for _ in range(10):
        state, _ = return_update(state, np.full((100, 2), 0.3), np.ones((100, 2)), discount=0.97)
    np.testing.assert_allclose(state.returns, 0.3 / (1 - 0.97), rtol=1e-5)

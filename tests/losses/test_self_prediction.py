"""BYOL-Explore's losses: the number of terms, worked numbers, loops in NumPy, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bellmax import losses
from helpers.jitted import jitted, quick_jit

# Links of two episodes in a chunk of 5 steps: step 1 is a final observation, step 2 a first one.
RESET = np.array([1.0, 0.0, 1.0, 1.0])
mask_of = quick_jit(losses.horizon_mask, static_argnames="horizons")
loss_of = quick_jit(losses.normalised_prediction_loss)
loss_and_gradient = quick_jit(jax.value_and_grad(losses.normalised_prediction_loss))


@functools.partial(quick_jit, static_argnums=1)
def terms(transition_t, horizons):
    """K(p) and the number of terms of each transition, counted by the functions themselves."""
    mask = losses.horizon_mask(jnp.asarray(transition_t), horizons=horizons)
    ones = jnp.ones_like(mask)
    per_start = losses.self_prediction_loss(ones, mask, average=False)
    return per_start, losses.prediction_uncertainty(ones, mask)


def chunk(steps=7, horizons=3, features=4, seed=0):
    generator = np.random.default_rng(seed)
    predictions = generator.normal(size=(horizons, steps - 1, features))
    return predictions, generator.normal(size=(steps, features))


def loop(predictions, targets, transition_t, average=True):
    """Losses of starts and uncertainties of transitions, a term at a time."""
    horizons, starts, _ = predictions.shape
    loss, count, uncertainty = np.zeros(starts), np.zeros(starts), np.zeros(starts)
    for p in range(starts):
        for k in range(1, horizons + 1):
            if p + k > starts or any(transition_t[p + i] == 0 for i in range(k)):
                continue
            x, y = predictions[k - 1, p], targets[p + k]
            cosine = np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y))
            loss[p] += 2.0 - 2.0 * cosine
            count[p] += 1
            uncertainty[p + k - 1] += 2.0 - 2.0 * cosine
    return loss / np.maximum(count, 1) if average else loss, uncertainty


def _both(predictions, targets, transition_t, average=True):
    mask = losses.horizon_mask(transition_t, horizons=predictions.shape[0])
    errors = losses.horizon_losses(predictions, targets, mask)
    loss = losses.self_prediction_loss(errors, mask, average=average)
    return loss, losses.prediction_uncertainty(errors, mask)


both = quick_jit(_both, static_argnums=3)


@pytest.mark.parametrize(
    ("steps", "horizons", "per_start", "per_transition", "total"),
    [
        (5, 3, [3, 3, 2, 1], [1, 2, 3, 3], 9),
        (10, 8, [8, 8, 7, 6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6, 7, 8, 8], 44),
        (6, 1, [1] * 5, [1] * 5, 5),
        (4, 6, [3, 2, 1], [1, 2, 3], 6),  # more horizons than the chunk has
        (128, 8, None, None, 988),
    ],
)
def test_bookkeeping_of_terms(steps, horizons, per_start, per_transition, total):
    starts, transitions = terms(np.ones(steps - 1), horizons)
    assert jnp.sum(starts) == jnp.sum(transitions) == total
    if per_start is not None:
        np.testing.assert_array_equal(starts, per_start)
        np.testing.assert_array_equal(transitions, per_transition)


def test_bookkeeping_across_a_reset():
    # Streams that reset at once have no final observation: there the transition from step 1 ends
    # the episode and step 2 is the next one's first. The link from 1 to 2 is what must not be
    # crossed, so their done[1] = 1 is our transition_t[1] = 0, and the terms are the same.
    mask = mask_of(RESET, horizons=3)
    valid = {(int(p), int(k) + 1) for k, p in zip(*np.nonzero(mask), strict=True)}
    assert valid == {(0, 1), (2, 1), (2, 2), (3, 1)}
    np.testing.assert_array_equal(terms(RESET, 3)[1], [1, 0, 1, 2])
    # In our stream the same episode has its final observation too, as step 2 (the last of it):
    # predicting into it counts, (0, 2) and (1, 1); past it does not.
    starts, transitions = terms(np.array([1.0, 1.0, 0.0, 1.0, 1.0]), 3)
    np.testing.assert_array_equal(starts, [2, 1, 0, 2, 1])
    np.testing.assert_array_equal(transitions, [1, 2, 0, 1, 2])


def test_mask_rows_are_products_of_links():
    transition_t = np.random.default_rng(1).integers(0, 2, 12).astype(np.float32)
    mask = mask_of(transition_t, horizons=4)
    for k, p in np.ndindex(4, 12):
        inside = p + k < 12
        assert mask[k, p] == (inside and bool(np.all(transition_t[p : p + k + 1])))
    np.testing.assert_array_equal(mask[0], transition_t)


def test_worked_loss_and_gradient():
    # cos((3, 4), (1, 0)) = 0.6, so 2 - 1.2; -2 / 5 * ((1, 0) - 0.6 * (0.6, 0.8)) the gradient.
    x, y = np.array([3.0, 4.0], np.float32), np.array([1.0, 0.0], np.float32)
    loss, gradient = loss_and_gradient(x, y)
    np.testing.assert_allclose(loss, 0.8, rtol=1e-6)
    np.testing.assert_allclose(gradient, [-0.256, 0.192], rtol=1e-6)
    np.testing.assert_allclose(np.vdot(gradient, x), 0.0, atol=1e-6)
    for scale in (1e-3, 7.0, 1e6):
        np.testing.assert_allclose(loss_of(scale * x, y), 0.8, rtol=1e-5)
        np.testing.assert_allclose(loss_of(x, scale * y), 0.8, rtol=1e-5)
    for other, expected in [(x, 0.0), (np.array([-4.0, 3.0], np.float32), 2.0), (-x, 4.0)]:
        np.testing.assert_allclose(loss_of(x, other), expected, atol=1e-6)


def test_zero_vectors_have_finite_gradients():
    zero, one = np.zeros(2, np.float32), np.array([0.0, 2.0], np.float32)
    for x, y, expected in [(zero, one, 1.0), (one, zero, 1.0), (zero, zero, 0.0)]:
        loss, gradient = loss_and_gradient(x, y)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        assert np.all(np.isfinite(gradient))
    # Control: division by a norm has none.
    naive = jax.grad(lambda x: jnp.sum(jnp.square(x / jnp.linalg.norm(x) - one)))
    assert not np.any(np.isfinite(quick_jit(naive)(zero)))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    st.lists(st.floats(-10, 10, width=32), min_size=6, max_size=6), st.floats(0.125, 64, width=32)
)
def test_loss_is_a_bounded_function_of_the_angle(values, scale):
    x, y = np.array(values[:3], np.float32), np.array(values[3:], np.float32)
    scale = np.float32(scale)
    loss = loss_of(x, y)
    assert 0.0 <= loss <= 4.0 + 1e-5
    np.testing.assert_allclose(loss, loss_of(y, x), atol=1e-6)
    if min(np.linalg.norm(x), np.linalg.norm(y)) > 1e-2:  # far above sqrt(eps)
        np.testing.assert_allclose(loss_of(scale * x, y), loss, atol=1e-5)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("transition_t", [np.ones(6), np.array([1, 1, 0, 1, 1, 1.0]), np.zeros(6)])
@pytest.mark.parametrize("horizons", [1, 9])
def test_equals_the_loop(horizons, transition_t, average):
    predictions, targets = chunk(7, horizons)
    with jax.enable_x64(True):
        got = both(predictions, targets, transition_t, average)
    wanted = loop(predictions, targets, transition_t, average)
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got[1], wanted[1], rtol=1e-9, atol=1e-9)


def test_perfect_and_shifted_world_models():
    # States in a cycle as one-hot latents. The right model has no error; one that is a state ahead
    # is at a right angle each time, so transition t gets 2 for each of its min(K, t + 1) terms.
    steps, horizons, states = 9, 4, 6
    latents = np.eye(states)[np.arange(steps) % states]
    ahead = np.arange(steps - 1)[None, :] + np.arange(1, horizons + 1)[:, None]
    loss, uncertainty = both(np.eye(states)[ahead % states], latents, np.ones(steps - 1))
    np.testing.assert_allclose(loss, 0.0, atol=1e-9)
    np.testing.assert_allclose(uncertainty, 0.0, atol=1e-9)
    _, uncertainty = both(np.eye(states)[(ahead + 1) % states], latents, np.ones(steps - 1))
    expected = 2.0 * np.minimum(horizons, np.arange(1, steps))
    np.testing.assert_allclose(uncertainty, expected, rtol=1e-6)
    # Directions drawn at random are at right angles on average.
    predictions, targets = chunk(400, 8, 16)
    loss, _ = both(predictions, targets, np.ones(399))
    np.testing.assert_allclose(jnp.mean(loss), 2.0, atol=0.05)


def test_control_uncertainty_is_not_the_loss_of_a_start():
    predictions, targets = chunk()
    loss, uncertainty = both(predictions, targets, np.ones(6), average=False)
    np.testing.assert_allclose(jnp.sum(loss), jnp.sum(uncertainty), rtol=1e-6)
    assert jnp.max(jnp.abs(loss - uncertainty)) > 0.5
    # One wrong prediction, from step 1 of step 3, is the uncertainty of the transition to step 3.
    errors = np.zeros((3, 6), np.float32)
    errors[1, 1] = 1.5
    mask = mask_of(np.ones(6), horizons=3)
    np.testing.assert_array_equal(
        jitted.prediction_uncertainty(errors, mask), 1.5 * (np.arange(6) == 2)
    )


def test_gradients_respect_masks_and_targets():
    predictions, targets = map(jnp.asarray, chunk(5, 3))
    transition_t = jnp.asarray(RESET)

    def loss(predictions, targets, transition_t):
        return jnp.sum(_both(predictions, targets, transition_t)[0])

    gradients = quick_jit(jax.grad(loss, (0, 1, 2)))(predictions, targets, transition_t)
    mask = mask_of(transition_t, horizons=3)
    moved = np.any(np.asarray(gradients[0]) != 0.0, axis=-1)
    np.testing.assert_array_equal(moved, np.asarray(mask) != 0.0)
    assert not np.any(gradients[1]) and not np.any(gradients[2])
    pay = lambda x: jnp.sum(_both(x, targets, transition_t)[1])  # noqa: E731
    assert not np.any(quick_jit(jax.grad(pay))(predictions))
    # Asked for, targets learn: but none that is only reachable across the reset.
    errors = lambda y: jnp.sum(  # noqa: E731
        losses.horizon_losses(predictions, y, mask, stop_target_gradients=False)
    )
    reached = np.any(np.asarray(quick_jit(jax.grad(errors))(targets)) != 0.0, axis=-1)
    np.testing.assert_array_equal(reached, [False, True, False, True, True])


def test_masked_entries_have_no_effect():
    predictions, targets = chunk(5, 3)
    changed = predictions.copy()
    mask = mask_of(RESET, horizons=3)
    changed[np.asarray(mask) == 0] = 1e3
    wanted, got = both(predictions, targets, RESET), both(changed, targets, RESET)
    for x, y in zip(wanted, got, strict=True):
        np.testing.assert_array_equal(x, y)
    # Values at masked places have no influence on later computations either.

    loud = np.where(np.asarray(mask) != 0, 1.0, np.nan).astype(np.float32)
    assert np.all(np.isfinite(jitted.self_prediction_loss(loud, mask)))
    assert np.all(np.isfinite(jitted.prediction_uncertainty(loud, mask)))


def test_novelty_wears_off():
    # A corridor of 12 states with random latents; the world model is a table, trained by its loss
    # on walks that turn back at state 5. What was never seen must pay more than what was.
    horizons, seen, states = 2, 6, 12
    update = losses.reward_normaliser_update
    generator = np.random.default_rng(0)
    latents = generator.normal(size=(states, 8)).astype(np.float32)
    table = generator.normal(size=(horizons, states, 8)).astype(np.float32)
    walk = np.array([*range(seen), *range(seen - 2, 0, -1)] * 2)
    # To the right only, as the table knows no action: transitions to the left are not learned.
    links = (np.diff(walk) > 0).astype(np.float32)

    def step(carry, _):
        table, state = carry

        def mean_loss(table):
            loss, uncertainty = _both(table[:, walk[:-1]], latents[walk], links)
            return jnp.mean(loss), uncertainty

        gradient, uncertainty = jax.grad(mean_loss, has_aux=True)(table)
        state, _ = update(state, uncertainty, jnp.asarray(links))
        return (table - 20.0 * gradient, state), jnp.sum(uncertainty)

    @quick_jit
    def run(table):
        start = table, losses.reward_normaliser_init()
        (table, state), totals = jax.lax.scan(step, start, None, length=60)
        _, uncertainty = _both(table[:, :-1], latents, jnp.ones(states - 1))
        return totals, update(state, uncertainty, jnp.ones(states - 1))[1]

    totals, reward = map(np.asarray, run(table))
    assert totals[-1] < 0.02 * totals[0] and np.all(totals[10::10] < totals[:-10:10])
    assert np.max(reward[: seen - 1]) < np.median(reward) <= np.min(reward[seen - 1 :])

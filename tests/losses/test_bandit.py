"""The bandit: both published updates by hand, equal feedbacks, sampling, transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.jitted import jitted, quick_jit

STATE = {"weights": jnp.array([0.3, -0.5, 0.1]), "recent": jnp.array([0.0, 1.0, -2.0, 0.5])}
PLAYED = {"arm": jnp.int32(1), "feedback": jnp.float32(0.7)}


def bandit_update(weights, recent, arm, feedback, **hyper):
    state = losses.BanditState(weights, recent, jnp.int32(3))
    return losses.bandit_update(state, arm, feedback, **hyper)


def bandit_update_windowed(weights, recent, arm, feedback, **hyper):
    state = losses.BanditState(weights, recent, jnp.int32(3))
    return losses.bandit_update_windowed(state, arm, feedback, **hyper)


ALL = ("weights", "recent", "feedback")
CASES = [
    Case(
        bandit_update,
        STATE | PLAYED,
        ALL,
        {"step_size": 0.2},
        values=("recent", "feedback"),
        free=(
            "weights",
            "recent",
        ),
        keeps=(
            "feedback",
            "step_size",
            "recent",
        ),
    ),
    Case(
        bandit_update_windowed,
        STATE | PLAYED,
        ALL,
        {"step_size": 0.2, "decay": 0.9},
        values=("recent", "feedback"),
        free=(
            "weights",
            "recent",
        ),
        keeps=(
            "feedback",
            "step_size",
            "decay",
        ),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_contract(case):
    check_contract(case)


class LoopBandit:
    """Lists and floats, as the published code keeps them; equal feedbacks count as none."""

    def __init__(self, arms, window=5):
        self.w, self.buffer, self.window = [0.0] * arms, [], window

    def paper(self, arm, feedback, step_size):
        total = sum(np.exp(x) for x in self.w)
        self.w[arm] += step_size * feedback / (np.exp(self.w[arm]) / total)

    def windowed(self, arm, feedback, step_size=0.1, decay=0.9, floor=1e-4):
        self.buffer = [*self.buffer, feedback][-self.window :]
        mean = sum(self.buffer) / len(self.buffer)
        variance = sum((x - mean) ** 2 for x in self.buffer) / len(self.buffer)
        normalised = (feedback - mean) / np.sqrt(variance) if len(set(self.buffer)) > 1 else 0.0
        self.w[arm] *= decay
        self.w[arm] += step_size * normalised / max(np.exp(self.w[arm]), floor)


def test_worked_papers_rule():
    # From equal weights p = 1/4: w[1] = 0.1 * 2 / 0.25 = 0.8. Then p[2] = 0.191368 and
    # w[2] = -0.1 / 0.191368.
    state = jitted.bandit_update(losses.bandit_init(4), 1, 2.0)
    np.testing.assert_allclose(state.weights, [0.0, 0.8, 0.0, 0.0], atol=1e-6)
    p = special.softmax(state.weights)
    np.testing.assert_allclose(p, [0.191368, 0.425897, 0.191368, 0.191368], atol=1e-6)
    state = jitted.bandit_update(state, 2, -1.0)
    np.testing.assert_allclose(state.weights, [0.0, 0.8, -0.522554, 0.0], atol=1e-6)
    p = special.softmax(state.weights)
    np.testing.assert_allclose(p, [0.207532, 0.461870, 0.123067, 0.207532], atol=1e-6)


def test_worked_windowed_rule():
    state = losses.bandit_init(2)
    # The first feedback is its own mean: 0. Then (20 - 15) / 5 = 1. Then (-5 - 25/3) / 10.274.
    for arm, feedback, expected in (
        (0, 10.0, [0.0, 0.0]),
        (1, 20.0, [0.0, 0.1]),
        (0, -5.0, [-0.129777, 0.1]),
    ):
        state = jitted.bandit_update_windowed(state, arm, feedback)
        np.testing.assert_allclose(state.weights, expected, atol=1e-6)
    assert int(state.filled) == 3
    # (7 - 8) / 8.916 = -0.112154. w = 0.9 * 0.1 = 0.09 first, and its exponential divides.
    state = jitted.bandit_update_windowed(state, 1, 7.0)
    np.testing.assert_allclose(state.weights[1], 0.09 - 0.0112154 * np.exp(-0.09), atol=1e-6)
    # Control: dividing by the exponential before the decay.
    assert abs(float(state.weights[1]) - (0.09 - 0.0112154 * np.exp(-0.1))) > 5e-5


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(0, 10**6), st.booleans())
def test_equal_the_loop(seed, windowed):
    """Over forty updates in a scan, with feedback of the size of returns where it is normalised."""
    generator = np.random.default_rng(seed)
    arms = generator.integers(3, size=40)
    feedbacks = generator.normal(size=40) * (1000.0 if windowed else 0.3)
    loop = LoopBandit(3)
    for arm, feedback in zip(arms, feedbacks, strict=True):
        loop.windowed(arm, feedback) if windowed else loop.paper(arm, feedback, 0.1)
    with jax.enable_x64(True):
        rule = SCAN_WINDOWED if windowed else SCAN_PAPER
        state = rule(arms, feedbacks)
    np.testing.assert_allclose(state.weights, loop.w, rtol=1e-9, atol=1e-9)


def _scan(update):
    def run(arms, feedbacks):
        step = lambda state, played: (update(state, *played), None)  # noqa: E731
        return jax.lax.scan(step, losses.bandit_init(3), (arms, feedbacks))[0]

    return quick_jit(run)


SCAN_PAPER, SCAN_WINDOWED = map(_scan, (losses.bandit_update, losses.bandit_update_windowed))


@pytest.mark.parametrize("feedback", [0.0, 3000.1, -1e-3, 1e6])
def test_equal_feedbacks_change_nothing(feedback):
    state = losses.bandit_init(2, window=4)
    for _ in range(7):
        state = jitted.bandit_update_windowed(state, 0, feedback)
        np.testing.assert_array_equal(state.weights, np.zeros(2))
    assert int(state.filled) == 4


def test_gradients_stay_finite_at_equal_feedbacks():
    def weight(feedback):
        return losses.bandit_update_windowed(losses.bandit_init(2), 0, feedback).weights[0]

    assert quick_jit(jax.grad(weight))(1.0) == 0.0


def test_unlikely_arms_hit_the_floor():
    weights = jnp.array([-20.0, 0.0])
    state = losses.BanditState(weights, jnp.array([1.0]), jnp.int32(1))
    state = state._replace(recent=jnp.array([0.0, 1.0]), filled=jnp.int32(2))
    got = jitted.bandit_update_windowed(state, 0, 2.0, floor=0.5)
    np.testing.assert_allclose(got.weights[0], -18.0 + 0.1 * 1.0 / 0.5, rtol=1e-6)  # (2 - 1.5)/0.5
    got = jitted.bandit_update(state, 0, 2.0, floor=0.5)
    np.testing.assert_allclose(got.weights[0], -20.0 + 0.1 * 2.0 / 0.5, rtol=1e-6)


def test_sampling_frequencies():
    state = losses.bandit_init(4)._replace(weights=jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4])))
    keys = jax.random.split(jax.random.key(0), 20_000)
    arms = quick_jit(jax.vmap(losses.bandit_sample, (None, 0)))(state, keys)
    assert arms.dtype == jnp.int32
    counts = np.bincount(arms, minlength=4)
    assert stats.chisquare(counts, 20_000 * np.array([0.1, 0.2, 0.3, 0.4])).pvalue > 0.01
    # Control: the test tells these frequencies from uniform ones.
    assert stats.chisquare(counts).pvalue < 1e-6


def test_learns_the_best_arm():
    """Arm 2 earns 1 and the others nothing, with noise; both rules come to prefer it."""

    def run(update, key):
        def step(state, key):
            key_arm, key_noise = jax.random.split(key)
            arm = losses.bandit_sample(state, key_arm)
            feedback = (arm == 2) + 0.3 * jax.random.normal(key_noise)
            return update(state, arm, feedback), arm

        return jax.lax.scan(step, losses.bandit_init(3), jax.random.split(key, 200))[1]

    keys = jax.random.split(jax.random.key(1), 20)
    for update in (losses.bandit_update, losses.bandit_update_windowed):
        arms = np.asarray(quick_jit(jax.vmap(functools.partial(run, update)))(keys))
        assert np.mean(arms[:, -60:] == 2) > 0.6
        assert abs(np.mean(arms[:, 0] == 2) - 1 / 3) < 0.3


def test_sweeps_of_hyper_parameters():
    sizes, decays = jnp.array([0.1, 0.4]), jnp.array([0.9, 0.5])
    state = losses.BanditState(*STATE.values(), jnp.int32(3))
    update = lambda size, decay: losses.bandit_update_windowed(  # noqa: E731
        state, 0, 2.0, step_size=size, decay=decay
    )
    mapped = quick_jit(jax.vmap(update))(sizes, decays).weights
    for i in range(2):
        expected = update(float(sizes[i]), float(decays[i])).weights
        np.testing.assert_allclose(mapped[i], expected, rtol=1e-6)


def test_errors_name_the_argument():
    state = losses.bandit_init(2)
    for call, words in (
        (lambda: losses.bandit_init(0), "^num_arms must be an integer of at least 1, got 0"),
        (lambda: losses.bandit_init(2, window=0), "^window must .* got 0"),
        (lambda: losses.bandit_update(state, 0, 1.0, step_size=0.0), "^step_size must .* got 0.0"),
        (lambda: losses.bandit_update(state, 0, 1.0, floor=-1.0), "^floor must .* got -1.0"),
        (lambda: losses.bandit_update_windowed(state, 0, 1.0, decay=1.1), "^decay must .* got 1.1"),
        (lambda: losses.bandit_update_windowed(state, 0, 1.0, floor=0.0), "^floor must .* got 0.0"),
        (lambda: losses.bandit_update(state, 0.0, 1.0), "^arm must .* got dtype"),
        (
            lambda: losses.bandit_sample(state._replace(weights=0.0), jax.random.key(0)),
            "^weights must .* got rank",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            call()

"""NumPy numbers are checked like Python numbers, and wrong sizes are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses

Q, ONES = jnp.array([0.5, 1.0, -1.0]), jnp.ones(4)
NUMPY = [np.float32, np.float64, np.float16, np.array]


@pytest.mark.parametrize("kind", NUMPY)
def test_ranges_of_numpy_scalars(kind):
    for call, words in [
        (lambda: losses.soft_value(Q, temperature=kind(-1.0)), "temperature must .* got -1.0"),
        (lambda: losses.munchausen_term(Q, 1, clip=kind(1.0)), "clip must .* got 1.0"),
        (
            lambda: losses.lambda_returns(ONES, ONES, ONES, ONES, lambda_=kind(1.5)),
            "lambda_ must .* got 1.5",
        ),
        (lambda: losses.expectile_loss(0.5, alpha=kind(np.nan)), "alpha must .* got nan"),
        (lambda: losses.huber_loss(0.5, delta=kind(0.0)), "delta must .* got 0.0"),
    ]:
        with pytest.raises(ValueError, match=f"^{words}"):
            call()


@pytest.mark.parametrize("number", [np.int64(2), np.int8(2), np.array(2), 2])
def test_sizes_of_numpy_integers(number):
    assert losses.n_step_returns(ONES, ONES, ONES, ONES, n=number).shape == (4,)
    assert losses.quantile_midpoints(number).shape == (2,)
    assert losses.horizon_mask(ONES, horizons=number).shape == (2, 4)
    assert losses.bandit_init(number, window=number).recent.shape == (2,)
    assert losses.elliptical_bonus_init(number).shape == (2, 2)
    assert losses.return_normaliser_init(number).returns.shape == (2,)


@pytest.mark.parametrize("number", [0, -1, np.int64(0), 1.5, np.float32(2), True, None, "2"])
def test_other_sizes_are_named(number):
    for call, name in [
        (lambda: losses.n_step_returns(ONES, ONES, ONES, ONES, n=number), "n"),
        (lambda: losses.quantile_midpoints(number), "n"),
        (lambda: losses.horizon_mask(ONES, horizons=number), "horizons"),
        (lambda: losses.bandit_init(number), "num_arms"),
        (lambda: losses.bandit_init(2, window=number), "window"),
        (lambda: losses.elliptical_bonus_init(number), "features"),
        (lambda: losses.return_normaliser_init(number), "environments"),
    ]:
        with pytest.raises(ValueError, match=f"^{name} must be an integer of at least 1, got "):
            call()


def test_hyper_parameters_that_are_no_numbers_are_named():
    for wrong in (None, "0.1", [0.1], {}):
        with pytest.raises(ValueError, match="^temperature must be a number, got "):
            losses.soft_value(Q, temperature=wrong)
    with pytest.raises(ValueError, match=r"^temperature must be a scalar, got shape \(1,\)"):
        losses.soft_value(Q, temperature=np.ones(1))


def test_states_are_checked():
    moments = losses.running_moments_init((3,))
    with pytest.raises(ValueError, match="^variance must have .* entries .*, got 2"):
        losses.standardise(moments._replace(variance=jnp.ones(2)), jnp.ones(3))
    with pytest.raises(ValueError, match="^mean must .* got rank 1"):
        state = losses.reward_normaliser_init()
        losses.reward_normaliser_update(state._replace(mean=jnp.ones(1)), ONES, ONES)


def test_integers_are_exact_or_refused():
    for reward in (3, np.int64(-3), jnp.int32(7), np.bool_(True), jnp.uint8(200)):
        got = losses.q_learning(Q, 0, reward, 1, Q)
        np.testing.assert_array_equal(got, losses.q_learning(Q, 0, float(reward), 1.0, Q))
    with pytest.raises(
        ValueError, match=r"^r_t must be floats, or integers .* got 16777217 in size"
    ):
        losses.q_learning(Q, 0, 2**24 + 1, 0.9, Q)


def test_a_wide_hyper_parameter_widens():
    with jax.enable_x64(True):
        arrays = np.ones(4, np.float32), np.ones(4, np.float32), *np.ones((2, 4), np.float32)
        assert losses.lambda_returns(*arrays, lambda_=np.float64(0.5)).dtype == jnp.float64
        assert losses.lambda_returns(*arrays, lambda_=0.5).dtype == jnp.float32
        assert losses.q_lambda_coefficients(np.zeros(3, int), lambda_=0.5).dtype == jnp.float32
        state = losses.return_normaliser_init(2)
        mask = np.ones((3, 2), np.float32)
        new, reward = losses.return_normaliser_update(state, mask, mask, discount=np.float64(0.9))
        assert (new.returns.dtype, reward.dtype) == (jnp.float32, jnp.float64)

"""Batches of a rule with its hyper-parameters bound, and the mean under a mask."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import losses
from helpers.contract import Case, check_contract
from helpers.jitted import quick_jit

Q = jnp.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])


def test_hyper_parameters_are_bound_for_the_batch():
    arrays = Q, jnp.array([0, 2]), jnp.array([1.0, 0.5]), jnp.full(2, 0.9), Q + 1.0, Q - 1.0
    rule = losses.batched(losses.munchausen_loss, temperature=0.1, huber_delta=np.inf)
    got = quick_jit(rule)(*arrays)
    for i in range(2):
        one = [x[i] for x in arrays]
        wanted = losses.munchausen_loss(*one, temperature=0.1, huber_delta=np.inf)
        np.testing.assert_allclose(got[i], wanted, rtol=1e-6)
    with pytest.raises(ValueError, match="vmap was requested"):
        # What `batched` is for: jax.vmap maps keyword arguments.
        jax.vmap(losses.munchausen_loss)(*arrays, temperature=0.1)


def test_an_array_is_shared_by_name_and_a_keyword_of_the_call_is_mapped():
    dist = jnp.stack([Q.T, Q.T + 1.0])
    step = {"a_tm1": jnp.array([0, 1]), "r_t": jnp.zeros(2), "discount_t": jnp.ones(2)}
    tau = losses.quantile_midpoints(3)
    got = losses.batched(losses.quantile_q_learning, tau_tm1=tau)(
        dist_q_tm1=dist, **step, dist_q_t=dist
    )
    first = {name: x[0] for name, x in step.items()}
    wanted = losses.quantile_q_learning(dist[0], tau, **first, dist_q_t=dist[0])
    np.testing.assert_allclose(got[0], wanted, rtol=1e-6)
    each = losses.batched(losses.soft_value)(Q, temperature=jnp.array([0.1, 1.0]))
    np.testing.assert_allclose(each[1], losses.soft_value(Q[1], temperature=1.0), rtol=1e-6)


def test_every_rule_of_one_example_can_be_bound():
    for name in losses.__all__:
        rule = getattr(losses, name)
        if inspect.isclass(rule):
            continue
        parameters = inspect.signature(rule).parameters.values()
        hyper = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        assert callable(losses.batched(rule, **dict.fromkeys(hyper, 0.5))), name


def test_an_unknown_name_is_refused_at_once():
    with pytest.raises(TypeError, match="temprature"):
        losses.batched(losses.soft_value, temprature=0.1)


MEAN = {"values": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "mask": jnp.array([[1.0, 0.0], [0.5, 1.0]])}


def test_contract():
    case = Case(losses.masked_mean, MEAN, ("values", "mask"), values=("values",), keeps=("values",))
    # Values may have any rank, if the mask has the same. The mask is a weight: its dtype counts.
    check_contract(case, but=("refuses_a_wrong_rank",))


def test_masked_mean():
    np.testing.assert_allclose(losses.masked_mean(**MEAN), (1.0 + 1.5 + 4.0) / 2.5, rtol=1e-6)
    assert losses.masked_mean(jnp.ones(3), jnp.zeros(3, bool)) == 0.0
    assert losses.masked_mean(jnp.array([1.0, np.nan, 3.0]), jnp.array([1, 0, 1])) == 2.0
    gradient = jax.grad(losses.masked_mean)(jnp.array([1.0, np.inf, 3.0]), jnp.array([1.0, 0, 1]))
    np.testing.assert_array_equal(gradient, [0.5, 0.0, 0.5])

"""Agents whose hyper-parameters are traced: every marked number of every agent."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.agents import registry
from bellmax.launch.config.points import at_point, points_of, traceable_keys
from bellmax.launch.config.run_config import load
from bellmax.launch.training.experiment import build

RECURRENT = ["--agent.network.latent-size=4", "--agent.network.memory-size=4"]
ON_POLICY = ["--env.num-envs=4", "--agent.batch-size=4", "--rollout-length=12", *RECURRENT]
ROLLOUT = ["--env.num-envs=4", "--agent.batch-size=48", "--rollout-length=12"]
SMALL = ["--agent.network.hidden=4", "--steps=200", "--warmup-steps=40", "--updates-per-rollout=1"]
REPLAY = ["--env.num-envs=4", "--agent.batch-size=8", "--replay.capacity=200"]
# Of each agent the variants with other parts of its loss.
VARIANTS = {
    "dqn": [[], ["--agent.double"], ["--agent.variance-weighting"]],
    "munchausen_dqn": [[]],
    "c51": [[], ["--agent.n-step=3", "--agent.trace=retrace"]],
    "iqn": [[], ["--agent.munchausen"]],
    "pqn": [[], ["--agent.num-quantiles=4"], ["--agent.munchausen"]],
    "qr_dqn_retrace": [
        ["--agent.n-step=3"],
        ["--agent.n-step=1", "--agent.trace=one_step", "--agent.munchausen"],
        ["--agent.n-step=2", "--agent.target-epsilon=0.1"],
        ["--agent.n-step=2", "--agent.trace=q_lambda"],
    ],
    "va_learning": [["--agent.n-step=2", "--agent.trace=retrace"]],
    "td3": [[]],
    "expectrl": [[], ["--agent.alpha=auto", "--agent.bandit=exponential"], ["--agent.alpha=auto"]],
    "on_policy": [[], ["--agent.policy-loss=ppo"]],
    "byol_explore": [[]],
    "rnd": [[]],
    "icm": [[]],
    "count_bonus": [["--agent.intrinsic.normaliser=scaled"]],
}
CASES = [(name, options) for name, variants in VARIANTS.items() for options in variants]
NAMES = [" ".join([name, *options]) for name, options in CASES]
FAST = ("munchausen_dqn", "qr_dqn_retrace --agent.n-step=3", "expectrl", "byol_explore")
# Traced here; the slow test trains all of them.
SOME = [
    pytest.param(*case, id=name) for case, name in zip(CASES, NAMES, strict=True) if name in FAST
]


def numbers(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def traced_and_alone(name, options):
    """(experiment of one point with every marked number, that of the same run without vmap)."""
    kind = REPLAY if name not in ("on_policy", "byol_explore", "rnd", "icm", "count_bonus") else ()
    kind = ROLLOUT if name == "pqn" else kind
    task = ["--env.name=bellmax/Pendulum"] if name in ("td3", "expectrl") else []
    config = load(name, [*SMALL, *(kind or ON_POLICY), *task, *options])
    keys = traceable_keys(type(config.agent))
    if isinstance(getattr(config.agent, "alpha", None), str):
        keys.remove("agent.alpha")  # a number there is another agent
    if getattr(config.agent, "variance_weighting", False):
        keys.remove("agent.target_rate")  # must be 1
    values = {key: (_value(config, key),) for key in keys}
    varied = dataclasses.replace(config, vmap=values)
    return build(varied), build(at_point(varied, points_of(varied)[0]))


def _value(config, key):
    """A value that is not the default, and of which every branch is the default's."""
    value = config
    for name in key.split("."):
        value = getattr(value, name)
    return 0.3 if value is None else float(np.float32(value * 0.9 or 0.1))


def test_every_agent_has_a_case():
    assert set(VARIANTS) == set(registry.names())


@pytest.mark.parametrize(("name", "options"), SOME)
def test_every_marked_number_can_be_traced(name, options):
    varied, alone = traced_and_alone(name, options)
    states = [jax.eval_shape(x.runner.init, jnp.zeros(1, jnp.int32)) for x in (varied, alone)]
    assert states[0] == states[1]
    count = jnp.int32(2)
    after = [
        jax.eval_shape(x.runner.advance, state, count, count)
        for x, state in zip((varied, alone), states, strict=True)
    ]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after[0]) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after[1]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), CASES, ids=NAMES)
def test_traced_numbers_learn_what_plain_ones_do(name, options):
    states = []
    for experiment in traced_and_alone(name, options):
        state, interval = experiment.runner.advance(experiment.init(), np.int32(12), np.int32(4))
        assert interval.finite.all() and experiment.runner.traces == [1]
        states.append(list(map(numbers, jax.tree.leaves((state.learner, interval)))))
    for one, other in zip(*states, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-5)

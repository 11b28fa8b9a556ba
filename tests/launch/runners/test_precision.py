"""`precision` and `network.dtype`: what is computed in which precision, and that agents learn."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.agents.shared.base import Batch
from bellmax.envs import make_vector_env
from bellmax.launch.config.run_config import load
from bellmax.launch.runners.device_runner import example_step
from bellmax.launch.runners.evaluation import evaluation_rows
from bellmax.launch.training.experiment import build

SMALL = ["--agent.network.hidden", "8", "--evaluation-episodes=8"]


def make_learn(config):
    """(`learn` of a run's agent, shapes of its state and of a batch of two sequences)."""
    agent = build(config).agent
    env = make_vector_env(config.env)
    length = agent.replay.sequence_length
    step = example_step(agent, jax.eval_shape(env.reset, jax.random.key(0))[1])
    steps = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, length, *x.shape[1:]), x.dtype), step)
    batch = Batch(steps, jax.ShapeDtypeStruct((2,), jnp.float32))
    return agent.learn, jax.eval_shape(agent.init, jax.random.key(0)), batch


def products(config, platform):
    """The precisions of the matrix products in a gradient step compiled for a platform."""
    learn, state, batch = make_learn(config)
    traced = jax.jit(learn).trace(state, batch, jax.random.key(0))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    lines = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    return {"".join(re.findall(r"precision = \[(\w+), \1\]", line)) for line in lines}


@pytest.mark.parametrize(
    ("precision", "expected"), [("default", "DEFAULT"), ("high", "HIGH"), ("highest", "HIGHEST")]
)
def test_products_of_a_gradient_step_have_the_precision(precision, expected):
    config = load("dqn/cartpole", [*SMALL, "--precision", precision])
    assert products(config, "tpu") == {expected}


def test_the_default_is_what_jax_is_set_to():
    with jax.default_matmul_precision("highest"):
        assert products(load("dqn/cartpole", SMALL), "cuda") == {"HIGHEST"}


HEADS = {
    "dqn": [],
    "munchausen_dqn": ["--agent.network.dueling"],
    "qr_dqn_retrace": ["--agent.num-quantiles=5"],
    "va_learning": [],
    "c51": [],
    "iqn": ["--agent.num-quantiles=5"],
}
HALF = [(f"{agent}/cartpole", options) for agent, options in HEADS.items()]
HALF += [("expectrl/pendulum", []), ("munchausen_dqn/minatar_breakout", [])]
# A head takes the features of any torso alike; IQN multiplies them by those of the fractions.
SLOW = [
    (f"{agent}/pixel_catch", [*HEADS[agent], f"--agent.network.torso={torso}"])
    for agent, torso in (("dqn", "nature"), ("dqn", "impala"), ("iqn", "nature"))
]


@pytest.mark.parametrize(
    ("preset", "options"), [*HALF, *(pytest.param(*x, marks=pytest.mark.slow) for x in SLOW)]
)
def test_losses_and_parameters_of_a_half_precision_network_are_single_precision(preset, options):
    config = load(preset, [*options, "--agent.network.dtype=bfloat16"])
    learn, state, batch = make_learn(config)
    jaxpr = jax.make_jaxpr(learn)(state, batch, jax.random.key(0))
    assert "bf16" in str(jaxpr)  # the network is computed in half precision
    after, output = jax.eval_shape(learn, state, batch, jax.random.key(0))
    floats = {x.dtype for x in jax.tree.leaves((after, output)) if jnp.issubdtype(x, jnp.floating)}
    assert floats == {np.dtype(np.float32)}


def test_the_losses_of_a_recurrent_network_in_half_precision_are_single_precision():
    options = ["--agent.network.dtype=bfloat16", "--agent.network.hidden=8", "--env.num-envs=4"]
    options += ["--agent.batch-size=4", "--rollout-length=9", "--updates-per-rollout=1"]
    runner = build(load("byol_explore/deepsea", options)).runner
    state = jax.eval_shape(runner.init, jnp.zeros(1, jnp.int32))
    jaxpr, (after, interval) = jax.make_jaxpr(runner.advance, return_shape=True)(state, 0, 1)
    assert "bf16" in str(jaxpr)
    floats = {x.dtype for x in jax.tree.leaves((after.learner, after.actor.memory, interval))}
    assert {x for x in floats if jnp.issubdtype(x, jnp.floating)} == {np.dtype(np.float32)}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dqn_learns_in_either_precision(dtype):
    options = ["--env.name=bellmax/Catch", "--agent.epsilon-steps=20000", "--warmup-steps=1000"]
    options += ["--seeds=2", "--evaluation-episodes=16", f"--agent.network.dtype={dtype}"]
    experiment = build(load("dqn/cartpole", options))
    warmup = experiment.config.warmup_steps // experiment.config.env.num_envs
    state, metrics = experiment.runner.advance(experiment.init(), np.int32(warmup), np.int32(5_000))
    assert bool(metrics.finite.all())
    rows = evaluation_rows(experiment.evaluate(state, 0), experiment.seeds, 0)
    returns = np.array([row["episode_return"] for row in rows])
    assert returns.mean() >= 0.8, returns

"""Policies on their own: one small file a seed, and the function that acts by it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp

from bellmax import UserError
from bellmax.envs.statistics import normalise
from bellmax.launch.checkpoints import write_whole
from bellmax.launch.config import load
from bellmax.launch.experiment import Experiment, build
from bellmax.launch.train_state import TrainState

Policy = Callable[[Any], jax.Array]


def save_policies(experiment: Experiment, state: TrainState, run: Path) -> Path:
    """Writes what acting needs of each seed to run/policy/seed-<seed>.msgpack."""
    folder = run / "policy"
    folder.mkdir(parents=True, exist_ok=True)
    acting = experiment.agent.actor_params(state.learner), state.env.statistics
    for i, seed in enumerate(experiment.seeds):
        one = jax.device_get(jax.tree.map(lambda x, i=i: x[i], acting))
        write_whole(folder / f"seed-{seed}.msgpack", flax.serialization.to_bytes(one))
    return folder


def load_policy(run: Path, seed: int | None = None) -> Policy:
    """The greedy policy of a finished run.

    Args:
      run: the run's folder.
      seed: of the learner; the run's first one by default.

    Returns:
      act(observations [N, ...]) -> actions [N], deterministic; for feed-forward agents.

    Raises:
      UserError: the run has no policy of that seed, or its file is damaged.
    """
    config = load(run)
    seed = config.seed if seed is None else seed
    path = run / "policy" / f"seed-{seed}.msgpack"
    if not path.is_file():
        raise UserError(f"there is no policy {path}; is the run finished, and the seed one of its?")
    experiment = build(config)
    agent, abstract = experiment.agent, experiment.abstract_state()
    acting = agent.actor_params(abstract.learner), abstract.env.statistics
    template = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), acting)
    try:
        restored: Any = flax.serialization.from_bytes(template, path.read_bytes())
    except Exception as error:  # what a broken file raises depends on where it is broken
        raise UserError(f"{path} is damaged; `bellmax resume {run}` writes it again") from error
    params, statistics = restored

    @jax.jit
    def act(observations: jax.Array) -> jax.Array:
        count = observations.shape[0]
        if statistics:
            observations = normalise(statistics, observations)
        seen = observations, agent.initial_memory(count), jnp.zeros(count, bool)
        return agent.act(params, *seen, jax.random.key(0), jnp.int32(0), evaluate=True).action

    return act

"""Policies on their own: one small file a seed, and the functions that act by it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp

from bellmax import UserError
from bellmax.agents import Memory
from bellmax.launch.config.run_config import load_to_play
from bellmax.launch.distributed.files import write_whole
from bellmax.launch.runners.evaluation import make_greedy
from bellmax.launch.runners.train_state import TrainState
from bellmax.launch.training.experiment import Experiment, build


class Policy(NamedTuple):
    """A trained agent that acts greedily on N environments at once.

    initial_memory(N) -> memory before the first observation; () for most feed-forward agents.
    act(observation [N, ...], memory, is_first [N], key) -> (action [N] or [N, D], memory):
        observations as the task shows them (frames stacked as in training, not normalised);
        `is_first` is True where one opens an episode, where the memory starts anew. Compiled once
        for each N; bellmax's own agents draw nothing from the key.
    """

    initial_memory: Callable[[int], Memory]
    act: Callable[[Any, Memory, Any, jax.Array], tuple[jax.Array, Memory]]


def save_policies(experiment: Experiment, state: TrainState, run: Path) -> Path:
    """Writes what acting needs of each seed to run/policy/seed-<seed>.msgpack."""
    folder = run / "policy"
    folder.mkdir(parents=True, exist_ok=True)
    acting = experiment.policy_inputs(state)
    for i, seed in enumerate(experiment.seeds):
        one = jax.device_get(jax.tree.map(lambda x, i=i: x[i], acting))
        write_whole(folder / f"seed-{seed}.msgpack", flax.serialization.to_bytes(one))
    return folder


def load_policy(run: str | Path, seed: int | None = None) -> Policy:
    """The greedy policy of a finished run.

    Args:
      run: the run's folder.
      seed: of the learner; the run's first one by default.

    Returns:
      A Policy; it plays as `bellmax evaluate` does.

    Raises:
      UserError: the run has no policy of that seed, or its file is damaged.
    """
    run = Path(run)
    config = load_to_play(run)
    seed = config.seed if seed is None else seed
    path = run / "policy" / f"seed-{seed}.msgpack"
    if not path.is_file():
        raise UserError(f"there is no policy {path}; is the run finished, and the seed one of its?")
    experiment = build(config)
    agent, acting = experiment.agent, experiment.policy_inputs(experiment.abstract_state())
    template = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), acting)
    try:
        restored: Any = flax.serialization.from_bytes(template, path.read_bytes())
    except Exception as error:  # what a broken file raises depends on where it is broken
        raise UserError(f"{path} is damaged; `bellmax resume {run}` writes it again") from error
    greedy = make_greedy(agent)

    @jax.jit
    def act(
        observation: jax.Array, memory: Memory, is_first: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Memory]:
        return greedy(restored, observation, memory, is_first, key, 0)

    return Policy(agent.initial_memory, act)

"""Trained policies without a run: one small file for each seed, and functions that act."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import flax.serialization
import jax
import jax.numpy as jnp
from dm_env import specs

from bellmax import UserError, must
from bellmax.agents import Memory
from bellmax.launch.config.run_config import load_to_play
from bellmax.launch.distributed.files import write_whole
from bellmax.launch.runners.evaluation import make_greedy, make_values
from bellmax.launch.runners.train_state import TrainState
from bellmax.launch.training.experiment import Experiment, build


class Act(Protocol):
    """See `Policy`."""

    def __call__(
        self, observation: Any, memory: Memory, is_first: Any, key: jax.Array | None = None
    ) -> tuple[jax.Array, Memory]: ...


class Policy(NamedTuple):
    """A trained agent that acts greedily on N environments at once.

    initial_memory(N) -> memory before the first observation; () for most feed-forward agents.
    act(observation [N, ...], memory, is_first [N], key=None) -> (action [N] or [N, D], memory):
        observations as the task shows them (frames stacked as in training, not normalised);
        `is_first` is True for the first observation of an episode and resets the memory. Compiled
        once for each N. Policies of bellmax's agents are deterministic; a stochastic policy needs
        a new key at each call.
    values(observation, memory, is_first) -> named tuple of the network's outputs: q_values [N, A],
        and quantiles [N, K, A] if the network has them. For agents that learn action values.

    Both raise UserError if the observations differ from the task's in shape or kind of dtype.
    """

    initial_memory: Callable[[int], Memory]
    act: Act
    values: Callable[[Any, Memory, Any], Any]


def save_policies(experiment: Experiment, state: TrainState, run: Path) -> Path:
    """Write the parameters that acting needs, one file a seed: run/policy/seed-<seed>.msgpack.

    The state may lack what `Experiment.policy_inputs` does not need.
    """
    folder = run / "policy"
    folder.mkdir(parents=True, exist_ok=True)
    acting = experiment.policy_inputs(state)
    for i, seed in enumerate(experiment.seeds):
        one = jax.device_get(jax.tree.map(lambda x, i=i: x[i], acting))
        write_whole(folder / f"seed-{seed}.msgpack", flax.serialization.to_bytes(one))
    return folder


def load_policy(run: str | Path, seed: int | None = None) -> Policy:
    """Return the greedy policy of a finished run.

    Args:
      run: the run's folder.
      seed: seed of the learner; None is the run's first.

    Returns:
      A Policy, which plays as in `bellmax evaluate`.

    Raises:
      UserError: the run has no policy of that seed, or its file is damaged.
    """
    run = Path(run)
    config = load_to_play(run)
    seed = config.seed if seed is None else seed
    path = run / "policy" / f"seed-{seed}.msgpack"
    if not path.is_file():
        raise UserError(
            f"there is no policy {path}; check that the run is finished and has that seed"
        )
    experiment = build(config)
    agent, acting = experiment.agent, experiment.policy_inputs(experiment.abstract_state())
    template = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), acting)
    try:
        restored: Any = flax.serialization.from_bytes(template, path.read_bytes())
    except Exception as error:  # the type depends on the damage
        raise UserError(f"{path} is damaged; `bellmax resume {run}` writes it again") from error
    greedy = jax.jit(make_greedy(agent))
    read_values = jax.jit(make_values(agent.values)) if agent.values else None
    any_dtype = config.env.normalise_observations

    def act(
        observation: Any, memory: Memory, is_first: Any, key: jax.Array | None = None
    ) -> tuple[jax.Array, Memory]:
        observation, is_first = jnp.asarray(observation), jnp.asarray(is_first)
        check_observation(experiment.observation, observation, is_first, any_dtype=any_dtype)
        key = jax.random.key(0) if key is None else key
        return greedy(restored, observation, memory, is_first, key, 0)

    def values(observation: Any, memory: Memory, is_first: Any) -> Any:
        if read_values is None:
            raise UserError(
                must(
                    "agent.name",
                    "an agent that learns action values",
                    f"{config.agent_name!r}, whose policy has none",
                )
            )
        observation, is_first = jnp.asarray(observation), jnp.asarray(is_first)
        check_observation(experiment.observation, observation, is_first, any_dtype=any_dtype)
        return read_values(restored, observation, memory, is_first)

    return Policy(agent.initial_memory, act, values)


def check_observation(
    spec: specs.Array, observation: jax.Array, is_first: jax.Array, *, any_dtype: bool = False
) -> None:
    """Raise UserError if `observation` is not a batch [N, ...] of a task's observations.

    Args:
      spec: spec of one observation.
      observation: the array to check.
      is_first: the array to check with it, [N].
      any_dtype: whether every dtype is allowed.
    """
    if is_first.ndim != 1:
        raise UserError(must("is_first", "of shape (N,)", is_first.shape))
    expected = *is_first.shape, *spec.shape
    if observation.shape != expected:
        hint = "add an axis of environments" if observation.shape == spec.shape else ""
        raise UserError(
            must(
                "observation",
                f"of shape {expected}, {spec.shape} for each entry of is_first",
                observation.shape,
                hint,
            )
        )
    if not any_dtype and _kind(observation.dtype) != _kind(spec.dtype):
        raise UserError(
            must(
                "observation",
                f"{spec.dtype} of shape {expected}",
                f"{observation.dtype} of shape {observation.shape}",
            )
        )


def _kind(dtype: Any) -> Any:
    kinds = jnp.floating, jnp.unsignedinteger, jnp.signedinteger, jnp.bool_
    return next((kind for kind in kinds if jnp.issubdtype(dtype, kind)), dtype)

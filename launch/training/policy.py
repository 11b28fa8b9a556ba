"""Policies on their own: one small file a seed, and the functions that act by it."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import flax.serialization
import jax
import jax.numpy as jnp
from dm_env import specs

from bellmax import UserError
from bellmax.agents import Memory
from bellmax.launch.config.run_config import load_to_play
from bellmax.launch.distributed.files import make_folder, write_whole
from bellmax.launch.runners.evaluation import make_greedy, make_values
from bellmax.launch.runners.train_state import TrainState
from bellmax.launch.training.experiment import Experiment, build
from bellmax.launch.training.folders import resume_command

_CHECKSUM = "checksum"


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
        `is_first` is True where one opens an episode, which resets the memory. Compiled once for
        each N. bellmax's own agents draw nothing; give an agent that does a new key at each call.
    values(observation, memory, is_first) -> named tuple of the network's outputs: q_values [N, A],
        with quantiles [N, K, A] where the network has them. For agents that learn action values.

    Both raise UserError if the observations have another shape or kind of dtype than the task's.
    """

    initial_memory: Callable[[int], Memory]
    act: Act
    values: Callable[[Any, Memory, Any], Any]


def save_policies(experiment: Experiment, state: TrainState, run: Path) -> Path:
    """Writes what acting needs of each seed to run/policy/seed-<seed>.msgpack."""
    folder = run / "policy"
    make_folder(folder)
    acting = experiment.policy_inputs(state)
    for i, seed in enumerate(experiment.seeds):
        one = jax.device_get(jax.tree.map(lambda x, i=i: x[i], acting))
        write_whole(folder / f"seed-{seed}.msgpack", _to_bytes(one))
    return folder


def load_policy(run: str | Path, seed: int | None = None, *, trust: bool = False) -> Policy:
    """The greedy policy of a finished run.

    Args:
      run: the run's folder.
      seed: of the learner; the run's first one by default.
      trust: whether the run's configuration may name code of the user's own, which is imported.

    Returns:
      A Policy; it plays as `bellmax evaluate` does.

    Raises:
      UserError: the run has no policy of that seed, or its file is damaged.
    """
    run = Path(run)
    config = load_to_play(run, trust=trust)
    seed = config.seed if seed is None else seed
    path = run / "policy" / f"seed-{seed}.msgpack"
    if not path.is_file():
        raise UserError(f"there is no policy {path}; is the run finished, and the seed one of its?")
    experiment = build(config)
    agent, acting = experiment.agent, experiment.policy_inputs(experiment.abstract_state())
    template = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), acting)
    try:
        restored: Any = _from_bytes(template, path.read_bytes())
    except Exception as error:  # what a broken file raises depends on where it is broken
        raise UserError(f"{path} is damaged; `{resume_command(run)}` writes it again") from error
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
                "agent.name must be an agent that learns action values, got "
                f"{config.agent_name!r}, whose policy has none"
            )
        observation, is_first = jnp.asarray(observation), jnp.asarray(is_first)
        check_observation(experiment.observation, observation, is_first, any_dtype=any_dtype)
        return read_values(restored, observation, memory, is_first)

    return Policy(agent.initial_memory, act, values)


def _to_bytes(inputs: Any) -> bytes:
    """Return msgpack of `inputs` as flax reads it, with the CRC-32 of the rest as `checksum`."""
    content = flax.serialization.to_state_dict(inputs)
    checksum = zlib.crc32(flax.serialization.msgpack_serialize(content))
    return flax.serialization.msgpack_serialize({**content, _CHECKSUM: checksum})


def _from_bytes(template: Any, data: bytes) -> Any:
    content: Any = flax.serialization.msgpack_restore(data)
    # Of bellmax 0.2 and older it has none.
    known = content.pop(_CHECKSUM, None)
    if known not in (None, zlib.crc32(flax.serialization.msgpack_serialize(content))):
        raise ValueError("it has changed")
    restored = flax.serialization.from_state_dict(template, content)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (template, restored)]
    if shapes[0] != shapes[1]:
        raise ValueError("it is that of another network")
    return restored


def check_observation(
    spec: specs.Array, observation: jax.Array, is_first: jax.Array, *, any_dtype: bool = False
) -> None:
    """Raise UserError where observations are not a batch [N, ...] of those of a task.

    Args:
      spec: of one observation.
      observation: what came.
      is_first: what came with it, [N].
      any_dtype: whether every dtype is allowed.
    """
    if is_first.ndim != 1:
        raise UserError(f"is_first must be of shape (N,), got {is_first.shape}")
    expected = *is_first.shape, *spec.shape
    if observation.shape != expected:
        hint = "; add an axis of environments" if observation.shape == spec.shape else ""
        raise UserError(
            f"observation must be of shape {expected}, {spec.shape} for each entry of is_first, "
            f"got {observation.shape}{hint}"
        )
    if not any_dtype and _kind(observation.dtype) != _kind(spec.dtype):
        raise UserError(
            f"observation must be {spec.dtype} of shape {expected}, got {observation.dtype} of "
            f"shape {observation.shape}"
        )


def _kind(dtype: Any) -> Any:
    kinds = jnp.floating, jnp.unsignedinteger, jnp.signedinteger, jnp.bool_
    return next((kind for kind in kinds if jnp.issubdtype(dtype, kind)), dtype)

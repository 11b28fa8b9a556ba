"""Trained policies without a run: one small file for each seed, and functions that act."""

import contextlib
import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import flax.serialization
import jax
import jax.numpy as jnp
from dm_env import specs

from bellmax import UserError, must
from bellmax.agents import Agent, Memory
from bellmax.envs import PackedArray
from bellmax.launch.config.points import at_point, listed, point_name, points_of
from bellmax.launch.config.run_config import load, load_to_play, to_yaml
from bellmax.launch.distributed.files import make_folder, write_whole
from bellmax.launch.reporting import hub
from bellmax.launch.runners.base import PolicyInputs
from bellmax.launch.runners.evaluation import make_greedy, make_values, split_action
from bellmax.launch.runners.train_state import TrainState
from bellmax.launch.training.experiment import Experiment, build
from bellmax.launch.training.folders import resume_command

_CHECKSUM, _STEP, _SCORE = "checksum", "step", "score"  # keys of a file besides the inputs


class Act(Protocol):
    """See `Policy`."""

    def __call__(
        self,
        observation: Any,
        memory: Memory,
        is_first: Any,
        key: jax.Array | None = None,
        *,
        reward: Any = None,
        action_mask: Any = None,
    ) -> tuple[jax.Array, Memory]: ...


class Policy(NamedTuple):
    """A trained agent that acts greedily on N environments at once.

    initial_memory(N) -> memory before the first observation; () for most feed-forward agents.
    act(observation [N, ...], memory, is_first [N], key=None) -> (action [N] or [N, D], memory):
        observations as the task shows them (frames stacked as in training, not normalised), an
        image with a vector as {name: [N, ...]};
        actions of several numbers, such as MultiDiscrete's, are the task's own, [N, ...].
        `is_first` is True for the first observation of an episode and resets the memory. Compiled
        once for each N. Policies of bellmax's agents are deterministic; a stochastic policy needs
        a new key at each call. `action_mask` [N, A] bool, which actions are legal, for tasks that
        show it; `reward` [N], of the action before, for agents with an objective other than mean.
    values(observation, memory, is_first) -> named tuple of the network's outputs: q_values [N, A],
        and quantiles [N, K, A] if the network has them. For agents that learn action values.

    Both raise UserError if the observations differ from the task's in shape or kind of dtype.
    """

    initial_memory: Callable[[int], Memory]
    act: Act
    values: Callable[[Any, Memory, Any], Any]


def save_policies(experiment: Experiment, state: TrainState, folder: Path, step: int) -> None:
    """Write the policy inputs of each seed to folder/seed-<seed>.msgpack, and config.yaml.

    `load_policy`, `bellmax evaluate` and `bellmax record` need no other files. A run with `vmap`
    has such a folder for each point, folder/<point>, with the configuration of that point.

    Args:
      experiment: the experiment of the run.
      state: its state; leaves that `Experiment.policy_inputs` does not use may be None.
      folder: created if it is missing.
      step: step of the state, in environment steps per seed.
    """
    acting = experiment.policy_inputs(state)
    for point, places in experiment.groups:
        _save(experiment, acting, places, point_folder(folder, point), {_STEP: step})


def save_best(
    experiment: Experiment, state: TrainState, folder: Path, step: int, group: int, score: float
) -> None:
    """Write the policies of one point, as `save_policies`, to `best` in the point's folder.

    Args:
      experiment, state, folder, step: as in `save_policies`.
      group: the point's place in `Experiment.groups`; 0 without `vmap`.
      score: mean return over its seeds in the evaluation of that step.
    """
    point, places = experiment.groups[group]
    facts = {_STEP: step, _SCORE: float(score)}
    where = point_folder(folder, point) / "best"
    _save(experiment, experiment.policy_inputs(state), places, where, facts)


def _save(
    experiment: Experiment, acting: Any, places: Sequence[int], folder: Path, facts: dict[str, Any]
) -> None:
    make_folder(folder)
    # A policy that is played has no loggers.
    config = dataclasses.replace(experiment.config, loggers=(), wandb=None, tensorboard=False)
    config = at_point(config, experiment.points[places[0]])
    write_whole(folder / "config.yaml", to_yaml(config).encode())
    for i in places:
        one = jax.device_get(jax.tree.map(lambda x, i=i: x[i], acting))
        write_whole(folder / f"seed-{experiment.seeds[i]}.msgpack", policy_to_bytes(one, facts))


def point_folder(folder: Path, point: Mapping[str, Any]) -> Path:
    """Return the folder of a point's policies in the folder of a run's policies."""
    return folder / point_name(point) if point else folder


def policy_folder(run: Path, *, best: bool = False) -> Path:
    """Return the folder of a run's policies; `run` may be such a folder itself."""
    within = run / "policy"
    folder = run if not within.is_dir() and any(run.glob("seed-*.msgpack")) else within
    return folder / "best" if best else folder


def best_score(folder: Path) -> float | None:
    """Return the mean return of the policies in a folder `best`; None if it has none."""
    for path in folder.glob("seed-*.msgpack"):
        with contextlib.suppress(Exception):  # damaged: the next one replaces it
            return _content(path.read_bytes())[1][_SCORE]
    return None


def read_policies(
    run: Path, experiment: Experiment, *, best: bool = False
) -> tuple[int, PolicyInputs]:
    """Return the step of a run's policies, and their inputs with a leading [S].

    Raises:
      UserError: a policy is missing or damaged.
    """
    folder, within = policy_folder(run), "best" if best else ""
    learners = zip(experiment.points, experiment.seeds, strict=True)
    paths = [point_folder(folder, p) / within / f"seed-{seed}.msgpack" for p, seed in learners]
    read = [_read(path, experiment, run) for path in paths]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[one for _, one in read])
    return read[0][0], stacked


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise UserError(
            f"there is no policy {path}; it is written with the run's first checkpoint, one file "
            "for each seed"
        )


def _read(path: Path, experiment: Experiment, run: Path) -> tuple[int, PolicyInputs]:
    _check_exists(path)
    acting = experiment.policy_inputs(experiment.abstract_state())
    template = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), acting)
    try:
        return policy_from_bytes(template, path.read_bytes())
    except Exception as error:  # the type depends on the damage
        raise UserError(f"{path} is damaged; `{resume_command(run)}` writes it again") from error


def _to_array(spec: Any, observation: Any) -> jax.Array:
    """Return observations as an array; a dictionary of a PackedArray's parts is packed."""
    if isinstance(spec, PackedArray) and isinstance(observation, Mapping):
        try:
            observation = spec.pack(observation)
        except ValueError as error:
            raise UserError(f"observation: {error}") from error
    return jnp.asarray(observation)


def load_policy(
    run: str | Path,
    seed: int | None = None,
    *,
    point: str | Mapping[str, float] | None = None,
    best: bool = False,
    trust: bool = False,
) -> Policy:
    """Return the greedy policy of a run's newest checkpoint, or of its best evaluation.

    Args:
      run: the run's folder, or the folder `policy` of it alone, or `hf://owner/name`, a repository
        that `bellmax push` wrote (`@revision` may follow), with the extra `hub`.
      seed: seed of the learner; None takes the run's first.
      point: of a run with `vmap`: its values by key, or the name of its folder in `policy`.
      best: whether to take the policy of the best evaluation, by the mean over seeds.
      trust: whether the run's configuration may name code of the user's own, which is imported.

    Returns:
      A Policy, which acts as in `bellmax evaluate`.

    Raises:
      UserError: the run has no policy of that point or seed, its file is damaged, or the repository
        cannot be read.
    """
    shared = str(run).startswith(hub.PREFIX)
    run = hub.fetch(hub.read_repo(str(run)), policies_only=True) if shared else Path(run)
    if point is not None:
        run = _find_point(run, point, trust=trust)
    config = load_to_play(run, trust=trust)
    seed = config.seed if seed is None else seed
    path = policy_folder(run, best=best) / f"seed-{seed}.msgpack"
    _check_exists(path)
    experiment = build(config)
    agent, restored = experiment.agent, _read(path, experiment, run)[1]
    greedy = jax.jit(make_greedy(agent))
    read_values = jax.jit(make_values(agent.values)) if agent.values else None
    any_dtype = config.env.normalise_observations

    def act(
        observation: Any,
        memory: Memory,
        is_first: Any,
        key: jax.Array | None = None,
        *,
        reward: Any = None,
        action_mask: Any = None,
    ) -> tuple[jax.Array, Memory]:
        observation, is_first = (
            _to_array(experiment.observation, observation),
            jnp.asarray(is_first),
        )
        check_observation(experiment.observation, observation, is_first, any_dtype=any_dtype)
        key = jax.random.key(0) if key is None else key
        extras = _extras(agent, {"reward": reward, "action_mask": action_mask})
        action, memory = greedy(restored, observation, memory, is_first, key, 0, extras)
        return split_action(experiment.action, action), memory

    def values(observation: Any, memory: Memory, is_first: Any) -> Any:
        if read_values is None:
            raise UserError(
                must(
                    "agent.name",
                    "an agent that learns action values",
                    f"{config.agent_name!r}, whose policy has none",
                )
            )
        observation, is_first = (
            _to_array(experiment.observation, observation),
            jnp.asarray(is_first),
        )
        check_observation(experiment.observation, observation, is_first, any_dtype=any_dtype)
        return read_values(restored, observation, memory, is_first)

    return Policy(agent.initial_memory, act, values)


def _find_point(run: Path, point: str | Mapping[str, float], *, trust: bool) -> Path:
    """Return the folder of a point's policies of a run; UserError names those that there are."""
    config, folder = load(run, trust=trust), policy_folder(run)
    names = [point_name(each) for each in points_of(config) if each]
    if not names:
        raise UserError(must("point", f"left out, as {run} has no vmap", str(point)))
    wanted = point if isinstance(point, str) else point_name({**point})
    if wanted not in names:
        raise UserError(must("point", f"one of {listed(names)}", wanted))
    return folder / wanted


def _extras(agent: Agent, given: dict[str, Any]) -> dict[str, Any]:
    """Return what the agent `sees` among what a user gave.

    Raises:
      UserError: the user gave None of something.
    """
    for name in agent.sees:
        if given[name] is None:
            raise UserError(must(name, "given for this policy", "None"))
    return {name: jnp.asarray(given[name]) for name in agent.sees}


def policy_to_bytes(inputs: Any, facts: dict[str, Any]) -> bytes:
    """Return `inputs` and `facts` in flax's msgpack format, with a CRC-32 of the content."""
    content = flax.serialization.to_state_dict(inputs) | facts
    checksum = zlib.crc32(flax.serialization.msgpack_serialize(content))
    return flax.serialization.msgpack_serialize({**content, _CHECKSUM: checksum})


def _content(data: bytes) -> tuple[Any, dict[str, Any]]:
    """Return the state dictionary and the facts in the bytes of a policy."""
    content: Any = flax.serialization.msgpack_restore(data)
    # Files of an older format have no checksum.
    known = content.pop(_CHECKSUM, None)
    if known not in (None, zlib.crc32(flax.serialization.msgpack_serialize(content))):
        raise ValueError("it has changed")
    facts = {name: content.pop(name) for name in (_STEP, _SCORE) if name in content}
    return content, facts


def policy_from_bytes(template: Any, data: bytes) -> tuple[int, Any]:
    """Return the step and the inputs in the bytes of a policy, with the structure of `template`.

    Raises:
      Exception: the bytes are damaged, or are of another network; the type depends on the damage.
    """
    content, facts = _content(data)
    restored = flax.serialization.from_state_dict(template, content)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (template, restored)]
    if shapes[0] != shapes[1]:
        raise ValueError("its shapes are those of another network")
    return facts.get(_STEP, 0), restored


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

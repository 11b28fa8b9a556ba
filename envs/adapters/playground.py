"""MuJoCo Playground's tasks under the environment contract. Imported on first use."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.adapters.shared.dtypes import own_dtypes, same_dtypes
from bellmax.envs.adapters.shared.mujoco import no_log, theirs
from bellmax.envs.base import EnvSpec, TimeStep
from bellmax.envs.errors import making
from bellmax.envs.options import check_options, check_types, check_unwrapped, import_extra, unknown

_IMPL = "jax"  # Playground's own choice, warp, needs an NVIDIA GPU
_OBSERVED = "state"  # of a dict; the others are for critics, such as privileged_state


def make(task: str, **options: Any) -> "PlaygroundEnv":
    """Makes a task of MuJoCo Playground, such as `CartpoleBalance`.

    Args:
      task: one of `list_tasks()`. Those of locomotion and manipulation download MuJoCo Menagerie,
        the models of robots, when the first of them is made.
      **options: fields of the task's configuration, nested as there, such as episode_length, the
        time limit in control steps; impl is the physics engine, jax (the default) or warp.

    Raises:
      UserError: Playground is not installed, it has no such task or option, or its observations are
        images.
    """
    registry = _registry()
    if task not in registry.ALL_ENVS:
        raise unknown("task", task, list_tasks(), of="playground")
    name = f"playground/{task}"
    with making(name, options), theirs(), no_log():
        config = registry.get_default_config(task)
        nominal, given = _flat(config.to_dict()), _flat(options)
        check_options(name, given, nominal)
        check_types(given, nominal)
        if given.get("episode_length", 1) < 1:
            allowed = "at least 1 environment step"
            raise UserError(must("episode_length", allowed, given["episode_length"]))
        if given.get("vision"):
            raise UserError(must("vision", f"false for {name}", "true"))
        impl = {"impl": _IMPL} if "impl" in nominal else {}
        env = registry.load(task, config=config, config_overrides={**impl, **given})
    return PlaygroundEnv(task, env)


def from_playground(env: Any) -> "PlaygroundEnv":
    """Takes an environment object of MuJoCo Playground, such as one of your own class.

    Args:
      env: a `mujoco_playground.MjxEnv`; its configuration has the time limit, episode_length.

    Raises:
      UserError: it is in a wrapper of Playground, or its observations are images.
    """
    hint = "return the environment itself, which bellmax resets and limits in time"
    check_unwrapped(env, "playground._src.wrapper", "a Playground environment", hint)
    return PlaygroundEnv(type(env).__name__, env)


def list_tasks() -> list[str]:
    """Playground's tasks, without the prefix `playground/`."""
    return sorted(_registry().ALL_ENVS)


class PlaygroundState(NamedTuple):
    """inner: Playground's own state. time: [] int32, environment steps since the reset."""

    inner: Any
    time: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class PlaygroundEnv:
    """One task of MuJoCo Playground: actions [A] in [-1, 1], observations [O] float32.

    Of observations in a dict the agent sees `state`. An action is repeated as often as the task's
    action_repeat says, with the sum of the rewards, until the task ends. Playground's `done` is a
    termination; after episode_length / action_repeat steps the episode is truncated.

    task: Playground's name of the task. env: Playground's object.
    """

    task: str
    env: Any

    @property
    def spec(self) -> EnvSpec:
        with theirs():
            seen = _observed(jax.eval_shape(self.env.reset, jax.random.key(0)).obs)
        if seen is None or len(seen.shape) != 1:
            got = "None" if seen is None else f"shape {seen.shape}"
            raise UserError(must(f"observations of playground/{self.task}", "a vector", got))
        low = np.full(self.env.action_size, -1.0, np.float32)
        return EnvSpec(
            name=f"playground/{self.task}",
            observation=specs.Array(seen.shape, np.float32, "observation"),
            action=specs.BoundedArray(low.shape, np.float32, low, -low, "action"),
            time_limit=self._time_limit,
        )

    def reset(self, key: jax.Array) -> tuple[PlaygroundState, TimeStep]:
        with theirs():
            inner = own_dtypes(self.env.reset(key))
        no = jnp.zeros((), bool)
        observation = _observed(inner.obs).astype(jnp.float32)
        state = PlaygroundState(inner, jnp.zeros((), jnp.int32))
        return state, TimeStep(observation, jnp.float32(0), terminated=no, truncated=no)

    def step(
        self, state: PlaygroundState, action: jax.Array, key: jax.Array
    ) -> tuple[PlaygroundState, TimeStep]:
        del key  # Playground keeps keys of its own in its states
        action = jnp.clip(action, -1.0, 1.0)

        def once(carry, _):
            inner, reward, over = carry
            # Tasks write to the dicts of the state that they get: they get a copy of them.
            after = self.env.step(jax.tree.map(lambda x: x, inner), action)
            after = same_dtypes(inner, after)
            earned = jnp.where(over, 0.0, jnp.asarray(after.reward, jnp.float32).reshape(()))
            kept = jax.tree.map(lambda a, b: jnp.where(over, a, b), inner, after)
            return (kept, reward + earned, over | _is_done(after)), None

        start = state.inner, jnp.zeros((), jnp.float32), jnp.zeros((), bool)
        with theirs():
            if self._action_repeat == 1:
                (inner, reward, terminated), _ = once(start, None)
            else:
                carry, _ = jax.lax.scan(once, start, None, self._action_repeat)
                inner, reward, terminated = carry
        time, limit = state.time + 1, self._time_limit
        late = jnp.zeros((), bool) if limit is None else time >= limit
        observation = _observed(inner.obs).astype(jnp.float32)
        ts = TimeStep(observation, reward, terminated, truncated=~terminated & late)
        return PlaygroundState(inner, time), ts

    @property
    def _action_repeat(self) -> int:
        return int(getattr(self.env._config, "action_repeat", 1))

    @property
    def _time_limit(self) -> int | None:
        length = getattr(self.env._config, "episode_length", None)
        return None if length is None else max(1, -(-int(length) // self._action_repeat))


def _is_done(state: Any) -> jax.Array:
    return jnp.asarray(vars(state)["done"]).reshape(()) > 0


def _observed(observation: Any) -> Any:
    return observation.get(_OBSERVED) if isinstance(observation, Mapping) else observation


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The fields of a nested configuration by dotted name."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        inside = isinstance(value, Mapping)
        found |= _flat(value, f"{before}{name}.") if inside else {f"{before}{name}": value}
    return found


def _registry() -> Any:
    with theirs():
        return import_extra("mujoco_playground", "playground").registry

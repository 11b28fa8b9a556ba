"""The environment contract: what a task is, and what the stream of its steps looks like."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from dm_env import specs

EnvState: TypeAlias = Any  # any pytree of arrays; only its environment looks inside


class EnvSpec(NamedTuple):
    """What an agent must know of a task before it sees it.

    `observation` and `action` describe one observation and one action, unbatched. `time_limit`
    is in environment steps, None without one. `reward_range` is (low, high) of one reward, None
    if unknown.
    """

    name: str
    observation: specs.Array
    action: specs.Array
    time_limit: int | None = None
    reward_range: tuple[float, float] | None = None


class TimeStep(NamedTuple):
    """What one reset or step of an unbatched environment returns.

    observation: [...] as the spec says.
    reward: [] float32, what the action earned; 0 at a reset.
    terminated: [] bool, the task ended here: no return lies beyond.
    truncated: [] bool, a time limit cut the episode here: returns lie beyond, unseen.
    """

    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array


class Environment(Protocol):
    """A pure-JAX task, unbatched. It never resets itself: `vectorise` does that."""

    @property
    def spec(self) -> EnvSpec: ...

    def reset(self, key: jax.Array) -> tuple[EnvState, TimeStep]: ...

    def step(
        self, state: EnvState, action: jax.Array, key: jax.Array
    ) -> tuple[EnvState, TimeStep]: ...


@runtime_checkable
class Parametric(Environment, Protocol):
    """A task with numbers that can be changed, such as masses, without making it anew."""

    @property
    def parameters(self) -> dict[str, float]:
        """The nominal value of what may be changed, by name, in the task's own units."""
        ...

    def with_parameters(self, values: Mapping[str, jax.Array | float]) -> Environment:
        """The task with these values; parameters that are not named have their nominal value.

        Nothing persists: values given to an earlier call are forgotten. The spec stays the nominal
        one.

        Args:
          values: [] float each, traced or not: `jax.vmap` over values makes a batch of tasks.

        Raises:
          UserError: a name that is not in `parameters`.
        """
        ...


@runtime_checkable
class Countable(Environment, Protocol):
    """A task that says which of finitely many cells a state is in, to count what was visited."""

    @property
    def num_cells(self) -> int:
        """How many cells there are; not all of them need be within reach."""
        ...

    def cell(self, env_state: EnvState) -> jax.Array:
        """The cell of one unbatched state, [] int32 in [0, num_cells).

        It is of the state that this environment's own `reset` and `step` return, not of what a
        wrapper made of it.
        """
        ...


@runtime_checkable
class Drawable(Environment, Protocol):
    """A task that draws pictures of its states, on the host."""

    def draw(self, env_state: EnvState) -> np.ndarray:
        """A picture, [H, W, 3] uint8 of always the same size, of one unbatched state of numpy.

        The state is of this environment's own `reset` and `step`, not what a wrapper made of it.
        """
        ...


class Step(NamedTuple):
    """One observation and what was done at it: the unit of the stream, of replay and of learning.

    Leading axes are added by whoever holds it: [N] environments, [B, T] sampled sequences.

    observation: [...] o_t.
    action: [] or [...] a_t, chosen at o_t.
    reward: [] float32 r_{t+1}, what a_t earned.
    discount: [] float32 d_{t+1}: 0.0 if the environment terminated, else 1.0 (no gamma in it).
    is_first: [] bool, o_t opens an episode.
    is_last: [] bool, o_t closes an episode: its action, reward and discount mean nothing.
    behaviour: pytree, what the actor knew when it chose a_t; () if nothing.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    is_first: jax.Array
    is_last: jax.Array
    behaviour: Any = ()

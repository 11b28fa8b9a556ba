"""The environment contract: specs, time steps, and protocols for environments."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from dm_env import specs

EnvState: TypeAlias = Any  # any pytree of arrays, opaque to everything but its environment


class EnvSpec(NamedTuple):
    """Static description of a task: what an agent must know before the first step.

    `observation` and `action` describe one observation and one action, unbatched. `time_limit` is
    in environment steps, None if the task has no limit. `reward_range` is (low, high) of one
    reward, None if unknown. `action_mask`: whether time steps show which actions are legal, for
    discrete actions.
    """

    name: str
    observation: specs.Array
    action: specs.Array
    time_limit: int | None = None
    reward_range: tuple[float, float] | None = None
    action_mask: bool = False


class TimeStep(NamedTuple):
    """Result of one reset or step of an unbatched environment.

    observation: [...] as the spec says.
    reward: [] float32, what the action earned; 0 at a reset.
    terminated: [] bool, the task ended here: the value of this observation is 0.
    truncated: [] bool, a time limit cut the episode here: the value of this observation is not 0,
      so bootstrap from it.
    action_mask: [A] bool, which actions are legal at this observation; () unless the spec has
      `action_mask`. At least one is, except where the episode terminated.
    """

    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    action_mask: Any = ()


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
    """A task whose numeric parameters, such as masses, can change without rebuilding it."""

    @property
    def parameters(self) -> dict[str, float]:
        """Nominal value of each parameter, by name, in the task's own units."""
        ...

    def with_parameters(self, values: Mapping[str, jax.Array | float]) -> Environment:
        """Return the task with these values; parameters that are not named keep the nominal value.

        Calls do not accumulate: values of an earlier call are dropped. The spec stays the nominal
        one.

        Args:
          values: [] float each, traced or not: `jax.vmap` over values makes a batch of tasks.

        Raises:
          UserError: a name that is not in `parameters`.
        """
        ...


@runtime_checkable
class Countable(Environment, Protocol):
    """A task that maps each state to one of finitely many cells, to count visited cells."""

    @property
    def num_cells(self) -> int:
        """Number of cells; some may be unreachable."""
        ...

    def cell(self, env_state: EnvState) -> jax.Array:
        """The cell of one unbatched state, [] int32 in [0, num_cells).

        The state is one that this environment's own `reset` and `step` return, without wrappers.
        """
        ...


@runtime_checkable
class Drawable(Environment, Protocol):
    """A task that draws pictures of its states, on the host."""

    def draw(self, env_state: EnvState) -> np.ndarray:
        """Draw one unbatched state (NumPy arrays): [H, W, 3] uint8, always of the same size.

        The state is one that this environment's own `reset` and `step` return, without wrappers.
        """
        ...


class Step(NamedTuple):
    """One observation and the action taken at it: the unit of rollouts, replay and learning.

    Leading axes depend on the context: [N] environments, [B, T] sampled sequences.

    observation: [...] o_t.
    action: [] or [...] a_t, chosen at o_t.
    reward: [] float32 r_{t+1}, what a_t earned.
    discount: [] float32 d_{t+1}: 0.0 if the environment terminated, else 1.0 (no gamma in it).
    is_first: [] bool, o_t is the first observation of an episode.
    is_last: [] bool, o_t is the last observation of an episode: its action, reward and discount
      are placeholders and must be ignored.
    behaviour: pytree that the actor stores with a_t, such as its log-probability; () if none.
    action_mask: [A] bool, which actions are legal at o_t; () if the task hides it.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    discount: jax.Array
    is_first: jax.Array
    is_last: jax.Array
    behaviour: Any = ()
    action_mask: Any = ()

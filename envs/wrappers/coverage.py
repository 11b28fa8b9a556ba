"""Coverage of a task: finds the cells of a Countable environment inside its wrappers."""

from collections.abc import Callable
from typing import TypeAlias

import jax

from bellmax import UserError
from bellmax.envs.base import Countable, Environment, EnvState
from bellmax.envs.wrappers.frame_stack import FrameStack
from bellmax.envs.wrappers.randomised import Randomised
from bellmax.envs.wrappers.time_limit import TimeLimit

Cell: TypeAlias = Callable[[EnvState], jax.Array]


def find_cells(env: Environment) -> tuple[int, Cell]:
    """Return the number of cells of a task, and the function from its (wrapped) state to [] int32.

    Raises:
      UserError: the task's states cannot be counted.
    """
    inner, depth = env, 0
    while isinstance(inner, TimeLimit | FrameStack | Randomised):
        inner, depth = inner.env, depth + 1
    if not isinstance(inner, Countable):
        raise UserError(
            f"env.coverage: the states of {env.spec.name} cannot be counted; the task lacks "
            "num_cells and cell"
        )
    count = inner.cell

    def cell(state: EnvState) -> jax.Array:
        for _ in range(depth):
            state = state.env_state
        return count(state)

    return inner.num_cells, cell

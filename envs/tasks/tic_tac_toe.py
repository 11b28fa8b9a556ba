"""Tic-tac-toe against a random opponent: a task that shows which actions are legal."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax.envs.base import EnvSpec, TimeStep
from bellmax.envs.tasks import drawing

_LINES = np.array(
    [[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]],
    np.int32,
)


class TicTacToeState(NamedTuple):
    """board: [9] int32, row by row: 1 the agent's, -1 the opponent's, 0 empty."""

    board: jax.Array


@dataclasses.dataclass(frozen=True)
class TicTacToe:
    """Three in a row win. Reward 1 for a win, -1 for a loss, 0 for a draw; the agent begins.

    The opponent takes a random empty cell. The legal actions are the empty cells, and `action_mask`
    shows them; a move to another cell loses at once.
    """

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec(
            name="bellmax/TicTacToe",
            observation=specs.BoundedArray((3, 3, 2), np.float32, 0.0, 1.0, "observation"),
            action=specs.DiscreteArray(9, np.int32, "action"),
            reward_range=(-1.0, 1.0),
            action_mask=True,
        )

    @functools.cached_property
    def optimal_return(self) -> float:
        """Expected return of the best policy, by backward induction over all boards."""

        @functools.cache
        def value(board: tuple[int, ...]) -> float:
            empty = [i for i in range(9) if not board[i]]
            return max(after(_put(board, i, 1)) for i in empty)

        def after(board: tuple[int, ...]) -> float:
            """Expected return after the agent's move."""
            empty = [i for i in range(9) if not board[i]]
            if _has_won(board, 1) or not empty:
                return float(_has_won(board, 1))
            replies = [_put(board, i, -1) for i in empty]
            return sum(-1.0 if _has_won(b, -1) else value(b) for b in replies) / len(empty)

        return value((0,) * 9)

    def reset(self, key: jax.Array) -> tuple[TicTacToeState, TimeStep]:
        del key  # every game starts with an empty board
        state, no = TicTacToeState(jnp.zeros(9, jnp.int32)), jnp.zeros((), bool)
        return state, self._show(state, jnp.float32(0), no)

    def step(
        self, state: TicTacToeState, action: jax.Array, key: jax.Array
    ) -> tuple[TicTacToeState, TimeStep]:
        legal = state.board[action] == 0
        moved = jnp.where(legal, state.board.at[action].set(1), state.board)
        won, empty = _won(moved, 1), moved == 0
        over = won | ~legal | ~jnp.any(empty)
        draws = jax.random.uniform(key, (9,), jnp.float32)
        reply = jnp.argmax(jnp.where(empty, draws, -1.0))
        board = jnp.where(over, moved, moved.at[reply].set(-1))
        lost = ~legal | _won(board, -1)
        reward = won.astype(jnp.float32) - lost.astype(jnp.float32)
        return TicTacToeState(board), self._show(TicTacToeState(board), reward, over | lost)

    def draw(self, env_state: TicTacToeState) -> np.ndarray:
        return drawing.planes(np.asarray(_planes(np.asarray(env_state.board))))

    def _show(self, state: TicTacToeState, reward: jax.Array, terminated: jax.Array) -> TimeStep:
        no = jnp.zeros((), bool)
        observation = jnp.asarray(_planes(state.board), jnp.float32)
        return TimeStep(observation, reward, terminated, no, state.board == 0)


def _planes(board: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    """[3, 3, 2] bool: the agent's cells, and the opponent's."""
    pack = np if isinstance(board, np.ndarray) else jnp
    return pack.stack([board == 1, board == -1], axis=-1).reshape(3, 3, 2)


def _won(board: jax.Array, player: int) -> jax.Array:
    return jnp.any(jnp.all(board[_LINES] == player, axis=1))


def _put(board: tuple[int, ...], cell: int, player: int) -> tuple[int, ...]:
    return (*board[:cell], player, *board[cell + 1 :])


def _has_won(board: tuple[int, ...], player: int) -> bool:
    return any(all(board[i] == player for i in line) for line in _LINES.tolist())

"""pgx's games under the environment contract, one player against others. Imported on first use."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.adapters.shared.dtypes import default_promotion, own_dtypes, same_dtypes
from bellmax.envs.base import EnvSpec, EnvState, TimeStep
from bellmax.envs.options import check_choice, check_options, import_extra, unknown

OPPONENTS = ("random", "winning")
# Moves of both sides after which pgx declares a draw to keep games short.
_MOST_MOVES = {"animal_shogi": 256, "chess": 512, "gardner_chess": 256, "shogi": 512}
# Games without chance or hidden cards, of few enough actions to try all of them.
_TRIED = ("animal_shogi", "connect_four", "hex", "othello", "tic_tac_toe")
_LARGEST = {"backgammon": 3.0}  # reward of one game; 1 in the board games
_BOARD = (*_TRIED, "chess", "gardner_chess", "go_9x9", "go_19x19", "shogi")
_AGENT = 0  # pgx's id of the agent's player; pgx draws which id begins

# opponent(state, key) -> [] int32, a legal action of the state's current player.
Opponent = Callable[[Any, jax.Array], jax.Array]


def make(task: str, *, opponent: str = "random", **options: Any) -> "PgxEnv":
    """Makes a game of pgx, such as `connect_four`.

    Args:
      task: one of `list_tasks()`.
      opponent: who plays the other sides: `random`, uniform over the legal actions; `winning` takes
        an action that wins at once if there is one, and is random otherwise (for animal_shogi,
        connect_four, hex, othello and tic_tac_toe).
      **options: none; others are refused.

    Raises:
      UserError: pgx is not installed, it has no such game or option, or the opponent does not
        play it.
    """
    tasks = list_tasks()
    if task not in tasks:
        raise unknown("game", task, tasks, of="pgx")
    check_options(f"pgx/{task}", options, ("opponent",))
    check_choice("opponent", opponent, OPPONENTS)
    if opponent == "winning" and task not in _TRIED:
        hint = f"winning plays {', '.join(_TRIED)}"
        raise UserError(must("opponent", f"random for pgx/{task}", "'winning'", hint))
    return from_pgx(import_extra("pgx", "pgx").make(task), opponent)


def from_pgx(env: Any, opponent: str | Opponent = "random") -> "PgxEnv":
    """Takes a pgx environment object.

    Args:
      env: a `pgx.Env`.
      opponent: a name, as in `make`, or a function of pgx's state and a key that returns a legal
        action of the state's current player, such as a trained policy.
    """
    return PgxEnv(str(env.id), env, opponent)


def list_tasks() -> list[str]:
    """pgx's games, without the prefix `pgx/`."""
    return list(import_extra("pgx", "pgx").available_envs())


@dataclasses.dataclass(frozen=True, eq=False)
class PgxEnv:
    """One game of pgx as seen by one player, who begins in a random half of the games.

    A step is the agent's action and those of the others until it is the agent's turn again, or the
    game is over; the reward is the sum of the agent's rewards meanwhile. Observations are pgx's,
    from the agent's side: bool where pgx's are, else float32. `action_mask` shows the legal
    actions; an illegal one loses. Games of one player (2048, MinAtar) have no opponent.

    pgx ends chess, Gardner chess, shogi and animal shogi with a draw after a number of moves, which
    is a truncation here. Go's limit is a termination, because the score then decides the game.

    task: pgx's name of the game. env: pgx's object. opponent: see `from_pgx`.
    """

    task: str
    env: Any
    opponent: str | Opponent = "random"

    @property
    def spec(self) -> EnvSpec:
        with default_promotion():
            state = jax.eval_shape(self.env.init, jax.random.key(0))
            seen = jax.eval_shape(self._observe, state)
        observation: specs.Array = specs.Array(seen.shape, seen.dtype, "observation")
        if seen.dtype == bool:
            observation = specs.BoundedArray(seen.shape, np.bool_, False, True, "observation")
        moves = _MOST_MOVES.get(self.task)
        largest = 1.0 if self.task in _BOARD else _LARGEST.get(self.task)
        return EnvSpec(
            name=f"pgx/{self.task}",
            observation=observation,
            action=specs.DiscreteArray(state.legal_action_mask.shape[0], np.int32, "action"),
            time_limit=None if moves is None else moves // 2,
            reward_range=None if largest is None else (-largest, largest),
            action_mask=True,
        )

    def reset(self, key: jax.Array) -> tuple[EnvState, TimeStep]:
        keys = jax.random.split(key)
        with default_promotion():
            state = own_dtypes(self.env.init(keys[0]))
            state, _ = self._others(state, keys[1])
            return state, self._show(state, jnp.float32(0))._replace(truncated=jnp.zeros((), bool))

    def step(self, state: EnvState, action: jax.Array, key: jax.Array) -> tuple[EnvState, TimeStep]:
        keys = jax.random.split(key)
        with default_promotion():
            new = same_dtypes(state, self.env.step(state, action, keys[0]))
            earned = new.rewards[_AGENT].astype(jnp.float32)
            new, more = self._others(new, keys[1])
            return new, self._show(new, earned + more)

    def _others(self, state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        """Play the other sides until it is the agent's turn; what the agent earned meanwhile."""
        zero = jnp.zeros((), jnp.float32)
        if self.env.num_players == 1:
            return state, zero

        def waits(carry):
            state, *_ = carry
            over = state.terminated | state.truncated
            return ~over & (state.current_player != _AGENT)

        def play(carry):
            state, key, earned = carry
            key, chooses, steps = jax.random.split(key, 3)
            new = self.env.step(state, self._choose(state, chooses), steps)
            earned = earned + new.rewards[_AGENT].astype(jnp.float32)
            return same_dtypes(state, new), key, earned

        state, _, earned = jax.lax.while_loop(waits, play, (state, key, zero))
        return state, earned

    def _choose(self, state: Any, key: jax.Array) -> jax.Array:
        if callable(self.opponent):
            return self.opponent(state, key)
        mask = state.legal_action_mask
        score = jax.random.uniform(key, mask.shape, jnp.float32)
        if self.opponent == "winning":
            every = jnp.arange(mask.shape[0], dtype=jnp.int32)
            after = jax.vmap(lambda action: self.env.step(state, action, key))(every)
            score += after.rewards[:, state.current_player] > 0
        return jnp.argmax(jnp.where(mask, score, -1.0)).astype(jnp.int32)

    def _show(self, state: Any, reward: jax.Array) -> TimeStep:
        ended = jnp.asarray(state.terminated, bool)
        truncated = jnp.asarray(state.truncated, bool) & ~ended
        if moves := _MOST_MOVES.get(self.task):
            cut = ended & (state._step_count >= moves) & jnp.all(state.rewards == 0)
            ended, truncated = ended & ~cut, truncated | cut
        return TimeStep(self._observe(state), reward, ended, truncated, state.legal_action_mask)

    def _observe(self, state: Any) -> jax.Array:
        # `observe` shows a finished game from the side of the player whose turn it would be.
        seen = self.env._observe(state, jnp.int32(_AGENT))
        return seen if seen.dtype == bool else seen.astype(jnp.float32)

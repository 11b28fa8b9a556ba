"""Finite MDPs with exactly known values."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax import UserError, must
from bellmax.envs.base import EnvSpec, TimeStep
from bellmax.envs.tasks import drawing
from bellmax.envs.tasks.solvers import policy_evaluation, value_iteration

__all__ = [
    "TabularMDP",
    "TabularState",
    "TwoStateChain",
    "policy_evaluation",
    "random_mdp",
    "value_iteration",
]


class TabularState(NamedTuple):
    """state: [] int32, index of the state. time: [] int32, steps since the reset."""

    state: jax.Array
    time: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class TabularMDP:
    """A finite MDP with one-hot observations.

    p: [S, A, S] probability of each next state; rows sum to 1.
    r: [S, A] reward of each action.
    terminal: [S] bool, states that terminate when entered; None for none.
    initial: [S] probability of each initial state; None for uniform over non-terminal states.
    time_limit: environment steps to truncation; None for never.
    """

    p: np.ndarray
    r: np.ndarray
    _: dataclasses.KW_ONLY
    terminal: np.ndarray | None = None
    initial: np.ndarray | None = None
    time_limit: int | None = None
    name: str = "bellmax/TabularMDP"

    def __post_init__(self):
        num_states, num_actions = np.shape(self.r)
        allowed = (num_states, num_actions, num_states)
        if np.shape(self.p) != allowed:
            hint = "r is [S, A] and p [S, A, S]"
            raise UserError(must("p", f"of shape {allowed}", np.shape(self.p), hint))
        if np.min(self.p) < 0:
            raise UserError(must("p", "at least 0 everywhere", np.min(self.p)))
        sums = np.sum(self.p, -1)
        if not np.allclose(sums, 1):
            wrong = sums.flat[np.argmax(np.abs(sums - 1))]
            raise UserError(must("every row p[s, a]", "1 in sum", wrong))

    @property
    def spec(self) -> EnvSpec:
        num_states, num_actions = self.r.shape
        return EnvSpec(
            name=self.name,
            observation=specs.BoundedArray((num_states,), np.float32, 0.0, 1.0, "observation"),
            action=specs.DiscreteArray(num_actions, np.int32, "action"),
            time_limit=self.time_limit,
            reward_range=(float(min(0.0, np.min(self.r))), float(max(0.0, np.max(self.r)))),
        )

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return np.zeros(len(self.r), bool) if self.terminal is None else np.asarray(self.terminal)

    def reset(self, key: jax.Array) -> tuple[TabularState, TimeStep]:
        initial = self.initial
        if initial is None:
            initial = ~self._ends / np.sum(~self._ends)
        first = _draw(key, jnp.asarray(_cumulative(initial), jnp.float32))
        no = jnp.zeros((), bool)
        state = TabularState(first, jnp.zeros((), jnp.int32))
        return state, TimeStep(self._observe(first), jnp.float32(0), terminated=no, truncated=no)

    def step(
        self, state: TabularState, action: jax.Array, key: jax.Array
    ) -> tuple[TabularState, TimeStep]:
        cumulative = jnp.asarray(_cumulative(self.p), jnp.float32)
        reached = _draw(key, cumulative[state.state, action])
        reward = jnp.asarray(self.r, jnp.float32)[state.state, action]
        terminated = jnp.asarray(self._ends)[reached]
        time = state.time + 1
        late = jnp.zeros((), bool) if self.time_limit is None else time >= self.time_limit
        ts = TimeStep(self._observe(reached), reward, terminated, truncated=late & ~terminated)
        return TabularState(reached, time), ts

    def draw(self, env_state: TabularState) -> np.ndarray:
        return drawing.chain(len(self.r), int(env_state.state), self._ends)

    def _observe(self, state: jax.Array) -> jax.Array:
        return (jnp.arange(len(self.r)) == state).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class TwoStateChain:
    """Two states that never terminate, truncated so often that confusing the two ends shows.

    States 0 and 1; action 0 stays, action 1 switches. r = [[0.5, -1], [1, 0]]: staying in state 0
    gives a small reward, leaving it costs 1, staying in state 1 gives the largest reward. Episodes
    start in either state and are truncated after `time_limit` steps; no step terminates.

    True Q at discount g >= 0.75 (for which leaving state 0 is optimal), where v1 = 1 / (1 - g) and
    v0 = g v1 - 1:
      Q(1, stay) = v1    Q(1, switch) = g v0    Q(0, switch) = v0    Q(0, stay) = 0.5 + g v0
    At g = 0.9: 10, 7.2, 8, 7.7. A learner that treats truncation as termination has, with limit L
    and states independent of time (a uniform policy), an effective discount of h = g (1 - 1 / L).
    At g = 0.9 and L = 3, h = 0.6: 2.5, 0.75, 0.5, 1.25, so it wrongly stays in state 0 too.
    """

    time_limit: int = 3

    def __post_init__(self):
        if self.time_limit < 1:
            raise UserError(must("TwoStateChain's time_limit", ">= 1", self.time_limit))

    @functools.cached_property
    def mdp(self) -> TabularMDP:
        """The task as a TabularMDP."""
        stay, switch = np.eye(2), np.eye(2)[::-1]
        r = np.array([[0.5, -1.0], [1.0, 0.0]])
        name = "bellmax/TwoStateChain"
        return TabularMDP(np.stack([stay, switch], 1), r, time_limit=self.time_limit, name=name)

    @property
    def spec(self) -> EnvSpec:
        return self.mdp.spec

    def reset(self, key: jax.Array) -> tuple[TabularState, TimeStep]:
        return self.mdp.reset(key)

    def step(
        self, state: TabularState, action: jax.Array, key: jax.Array
    ) -> tuple[TabularState, TimeStep]:
        return self.mdp.step(state, action, key)

    def draw(self, env_state: TabularState) -> np.ndarray:
        return self.mdp.draw(env_state)

    def true_q(self, gamma: float) -> np.ndarray:
        """[2, 2] float64, the optimal Q[state, action], in closed form; gamma in [0.75, 1)."""
        if not 0.75 <= gamma < 1:
            raise ValueError(must("gamma", "in [0.75, 1)", gamma))
        v1 = 1 / (1 - gamma)
        v0 = gamma * v1 - 1
        return np.array([[0.5 + gamma * v0, v0], [v1, gamma * v0]])

    def truncation_as_death_q(self, gamma: float) -> np.ndarray:
        """[2, 2] float64, the fixed point of a learner that does not bootstrap at truncations."""
        effective = gamma * (1 - 1 / self.time_limit)
        return value_iteration(self.mdp.p, self.mdp.r, effective)


def random_mdp(
    key: jax.Array,
    num_states: int,
    num_actions: int,
    *,
    branching: int = 3,
    time_limit: int | None = None,
) -> TabularMDP:
    """A Garnet MDP: each action reaches `branching` random states; rewards are N(0, 1).

    Source: Archibald, McKinnon and Thomas 1995. Deviation: rewards belong to (state, action).
    """
    branching = min(branching, num_states)
    rows = num_states * num_actions
    next_key, p_key, r_key = jax.random.split(key, 3)
    drawn = jax.random.uniform(next_key, (rows, num_states), jnp.float32)
    order = np.argsort(np.asarray(drawn), axis=-1)
    drawn = jax.random.exponential(p_key, (rows, branching), jnp.float32)
    weights = np.asarray(drawn, np.float64)
    p = np.zeros((rows, num_states))
    np.put_along_axis(p, order[:, :branching], weights / weights.sum(-1, keepdims=True), axis=-1)
    r = np.asarray(jax.random.normal(r_key, (num_states, num_actions), jnp.float32), np.float64)
    return TabularMDP(p.reshape(num_states, num_actions, -1), r, time_limit=time_limit)


def _cumulative(p: np.ndarray) -> np.ndarray:
    """Cumulative sums that end in exactly 1, so that no draw exceeds the last possible state."""
    sums = np.cumsum(p, -1)
    return sums / sums[..., -1:]


def _draw(key: jax.Array, cumulative: jax.Array) -> jax.Array:
    """Sample an index, [] int32, by inverting the cumulative sums [S] at one uniform draw."""
    return jnp.sum(jax.random.uniform(key, dtype=jnp.float32) >= cumulative).astype(jnp.int32)

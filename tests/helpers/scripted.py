"""Scripted environments."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from bellmax.envs import EnvSpec, TimeStep


class CounterState(NamedTuple):
    time: jax.Array
    total: jax.Array


@dataclasses.dataclass(frozen=True)
class Counter:
    """Observes (steps since the reset, sum of actions); ends at `ends_at`, as `truncates` says.

    The reward is 10 times the action. An action of 2 terminates at once.
    """

    ends_at: int = 5
    truncates: bool = False

    @property
    def spec(self):
        return EnvSpec(
            name="test/Counter",
            observation=specs.Array((2,), np.float32, "observation"),
            action=specs.DiscreteArray(3, np.int32, "action"),
            time_limit=self.ends_at if self.truncates else None,
        )

    def reset(self, key):
        del key
        state = CounterState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
        no = jnp.zeros((), bool)
        return state, TimeStep(jnp.zeros(2), jnp.zeros(()), no, no)

    def step(self, state, action, key):
        del key
        state = CounterState(state.time + 1, state.total + action)
        over = state.time >= self.ends_at
        terminated = (action == 2) | (over & (not self.truncates))
        observation = jnp.stack([state.time, state.total]).astype(jnp.float32)
        reward = 10.0 * action.astype(jnp.float32)
        return state, TimeStep(observation, reward, terminated, over & ~terminated)


def play(env, actions, *, seed=0, statistics=None):
    """Steps a VectorEnv through actions [T, N]; the stream [T + 1, N, ...] and all its states.

    It can be traced.
    """
    keys = jax.random.split(jax.random.key(seed), len(actions) + 1)
    state, first = env.reset(keys[0], statistics=statistics)

    def body(state, x):
        state, seen = env.step(state, *x)
        return state, (seen, state)

    _, rest = jax.lax.scan(body, state, (jnp.asarray(actions), keys[1:]))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), (first, state), rest)


def rollout(env, actions, **options):
    """`play`, compiled: the stream and the last state."""
    stream, states = jax.jit(lambda actions: play(env, actions, **options))(actions)
    return jax.device_get((stream, jax.tree.map(lambda x: x[-1], states)))


def numpy_stream(actions, *, ends_at, truncates, clip):
    """What the stream of N `Counter`s must be, by a loop: one row of fields a step."""
    length, num_envs = np.shape(actions)
    rows = []
    time, total, ret = (np.zeros(num_envs) for _ in range(3))
    was_last = np.zeros(num_envs, bool)
    rows.append([(0.0, 0.0, 0.0, 1.0, True, False, False, 0.0, 0) for _ in range(num_envs)])
    for t in range(length):
        row = []
        for i in range(num_envs):
            if was_last[i]:
                time[i] = total[i] = ret[i] = 0
                was_last[i] = False
                row.append((0.0, 0.0, 0.0, 1.0, True, False, False, 0.0, 0))
                continue
            action = actions[t][i]
            time[i] += 1
            total[i] += action
            reward = 10.0 * action
            ret[i] += reward
            over = time[i] >= ends_at
            terminated = action == 2 or (over and not truncates)
            truncated = over and not terminated
            was_last[i] = terminated or truncated
            if clip is not None:
                reward = float(np.clip(reward, -clip, clip))
            discount = 0.0 if terminated else 1.0
            seen = (time[i], total[i])
            row.append((*seen, reward, discount, False, was_last[i], truncated, ret[i], time[i]))
        rows.append(row)
    return np.array(rows, np.float64)

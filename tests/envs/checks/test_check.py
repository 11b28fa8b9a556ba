"""`check_env` names planted faults, and finds none in our own environments."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax.envs import check_env, random_mdp
from helpers import scripted


@dataclasses.dataclass(frozen=True)
class Broken:
    """A `Counter` with its spec, reset or step changed."""

    spec_change: dict[str, Any] = dataclasses.field(default_factory=dict)
    on_reset: Any = lambda state, ts: (state, ts)
    on_step: Any = lambda state, ts: (state, ts)
    truncates: bool = True

    @property
    def _env(self):
        return scripted.Counter(5, self.truncates)

    @property
    def spec(self):
        return self._env.spec._replace(**self.spec_change)

    def reset(self, key):
        return self.on_reset(*self._env.reset(key))

    def step(self, state, action, key):
        return self.on_step(*self._env.step(state, action, key))


def changed(**fields):
    """Change fields of the time step; each change is a function of the field."""
    return lambda state, ts: (state, ts._replace(**{k: f(ts) for k, f in fields.items()}))


def fail(state, ts):
    raise RuntimeError("out of fuel\nand much more")


HOST = itertools.count()
BOUNDED = specs.BoundedArray((2,), np.float32, 0.0, 3.0)
FAULTS = {
    "step: observation must have shape (2,) and dtype float32, got (1,)": Broken(
        on_step=changed(observation=lambda t: t.observation[:1])
    ),
    "step: observation must have shape (2,) and dtype float32, got (2,) and int32": Broken(
        on_step=changed(observation=lambda t: t.observation.astype(jnp.int32))
    ),
    "step: reward must have shape () and dtype float32, got (1,)": Broken(
        on_step=changed(reward=lambda t: t.reward[None])
    ),
    "step: reward must have shape () and dtype float32, got () and int32": Broken(
        on_step=changed(reward=lambda t: t.reward.astype(jnp.int32))
    ),
    "step: a reward is not finite": Broken(on_step=changed(reward=lambda t: t.reward / 0.0)),
    "step: rewards range from 0 to 20, outside": Broken({"reward_range": (0.0, 10.0)}),
    "reset: the reward must be 0": Broken(on_reset=changed(reward=lambda t: t.reward + 1)),
    "step: terminated must have shape () and dtype bool, got () and float32": Broken(
        on_step=changed(terminated=lambda t: t.terminated.astype(jnp.float32))
    ),
    "reset: truncated must be a jax array, got a bool": Broken(
        on_reset=changed(truncated=lambda t: False)
    ),
    "terminated and truncated are both True": Broken(
        on_step=changed(terminated=lambda t: t.terminated | t.truncated)
    ),
    "reset: terminated and truncated must both be False": Broken(
        on_reset=changed(terminated=lambda t: ~t.terminated)
    ),
    "spec.time_limit is 4, but": Broken({"time_limit": 4}),
    "step: an observation is not finite at [0].": Broken(
        on_step=changed(observation=lambda t: jnp.log(t.observation - 1))
    ),
    "step: an observation is outside the bounds": Broken({"observation": BOUNDED}),
    "state.total is int32[] after reset but float32[] after step": Broken(
        on_step=lambda s, t: (s._replace(total=s.total * 1.0), t)
    ),
    "return states of different structure": Broken(on_step=lambda s, t: ((s, s), t)),
    "step is not a pure function": Broken(on_step=changed(reward=lambda t: t.reward + next(HOST))),
    "reset is not a pure function": Broken(
        on_reset=changed(observation=lambda t: t.observation + np.random.rand())
    ),
    "step raises RuntimeError: out of fuel": Broken(on_step=fail),
    "reset raises RuntimeError: out of fuel": Broken(on_reset=fail),
    "step must return (state, TimeStep), got a tuple": Broken(on_step=lambda s, t: (s, tuple(t))),
    "step raises TracerBoolConversionError": Broken(
        on_step=lambda s, t: (s, t) if t.terminated else (s, t)
    ),
    "spec must be a bellmax.envs.EnvSpec, got a dict": type("NoSpec", (), {"spec": {}})(),
    "spec.action must be a dm_env spec, got a int": Broken({"action": 3}),
    "spec.time_limit must be at least 1": Broken({"time_limit": 0}),
    "spec.reward_range must be (low, high)": Broken({"reward_range": (1.0, 0.0)}),
    "It cannot be made: UserError: unknown environment 'bellmax/Nothing'": "bellmax/Nothing",
}


@pytest.mark.parametrize("words", FAULTS)
def test_fault_is_named(words):
    problems = check_env(FAULTS[words])
    assert any(words in problem for problem in problems), problems
    assert not any("\n" in problem for problem in problems)


OWN = [
    "bellmax/CartPole",
    "bellmax/Catch",
    "bellmax/DeepSea",
    "bellmax/Gamble",
    "bellmax/TicTacToe",
    "bellmax/TwoStateChain",
    random_mdp(jax.random.key(0), 5, 2, time_limit=9),
    scripted.Counter(),
    Broken(),
    Broken({"time_limit": 6}),  # declaring a longer limit than the real one is allowed
]


@pytest.mark.parametrize("env", OWN)
def test_nothing_is_found_where_nothing_is_wrong(env):
    assert check_env(env) == []

"""Training a linear agent on a tabular task in the compiled runner, and the values it must find."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from bellmax.envs import TwoStateChain, vectorise
from bellmax.launch.replay.ring import make_replay
from bellmax.launch.runners.device_runner import make_runner

GAMMA = 0.9
CHAIN = TwoStateChain()
SHARED = {
    "discount": GAMMA,
    "batch_size": 256,
    "learning_rate": 0.1,
    "final_learning_rate": 1e-4,
    "learning_rate_steps": 3000,
    "target_period": 20,
    "epsilon_end": 1.0,  # uniform behaviour, which the fixed point of the control assumes
}


@dataclasses.dataclass(frozen=True)
class Deaths:
    """Negative control: the same task with truncations reported as terminations."""

    env: object

    @property
    def spec(self):
        return self.env.spec

    def reset(self, key):
        return self.env.reset(key)

    def step(self, state, action, key):
        state, ts = self.env.step(state, action, key)
        no = jnp.zeros((), bool)
        return state, ts._replace(terminated=ts.terminated | ts.truncated, truncated=no)


def replay_of(agent, config):
    return make_replay(
        capacity=32_000,
        num_envs=32,
        rollout_length=1,
        sequence_length=agent.replay.sequence_length,
        batch_size=config.batch_size,
    )


def learnt(make, config, env):
    """Parameters of a linear agent after training on 32 copies of a task, to its last step size.

    Without replay a batch is a whole rollout.
    """
    vector = vectorise(env, 32)
    agent = make(config, vector.spec)
    replay, length = None, config.batch_size // 32
    if not agent.replay.on_policy:
        replay, length = replay_of(agent, config), 1
    runner = make_runner(agent, vector, replay, rollout_length=length, updates_per_rollout=1)
    warmup = 1000 if replay else 0
    state, interval = runner.advance(runner.init(jnp.arange(1)), warmup, config.learning_rate_steps)
    assert bool(interval.finite.all()) and runner.traces == [1]
    return jax.tree.map(lambda x: x[0], state.learner.params)["params"]


def munchausen_q(p, r, config, gamma):
    """The fixed point of Munchausen value iteration with its clip, in float64."""
    q, tau = np.zeros(r.shape), config.temperature
    for _ in range(5000):
        top = q.max(-1, keepdims=True)
        log_pi = q - top - tau * np.log(np.exp((q - top) / tau).sum(-1, keepdims=True))
        soft = (q - log_pi)[:, 0]
        q, before = r + config.alpha * np.maximum(log_pi, config.clip) + gamma * p @ soft, q
    assert np.abs(q - before).max() < 1e-9
    return q

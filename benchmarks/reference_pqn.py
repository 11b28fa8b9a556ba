"""A bare PQN loop on gymnax's CartPole or MinAtar Breakout: the yardstick of `pqn`.

The hyper-parameters are those of the presets pqn/cartpole and pqn/minatar_breakout. An iteration is
a rollout, its lambda-returns, and all passes over its shuffled transitions.

    python benchmarks/speed.py --agent pqn [--task minatar_breakout]
"""

from typing import NamedTuple

import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import optax
from timing import compiled_loop

GAMMA, MINIBATCH = 0.99, 128


class Task(NamedTuple):
    """envs N, length L, passes over a rollout, and the rest of a preset."""

    name: str
    envs: int
    length: int
    passes: int
    step_size: float
    decay: float
    reward_scale: float
    epsilon_end: float
    epsilon_steps: int
    rollouts: int


TASKS = {
    "cartpole": Task("CartPole-v1", 32, 64, 4, 1e-4, 0.95, 0.1, 0.2, 100_000, 244),
    "minatar_breakout": Task(
        "Breakout-MinAtar", 128, 32, 2, 5e-4, 0.65, 1.0, 0.05, 1_000_000, 2441
    ),
}


class QNetwork(nn.Module):
    """The networks of the presets: layer normalisation before each activation."""

    num_actions: int
    images: bool

    @nn.compact
    def __call__(self, x):
        widths = (256, 256)
        if self.images:
            shifts = [(i, j) for i in range(3) for j in range(3)]
            x = jnp.concatenate([x[:, i : i + 8, j : j + 8] for i, j in shifts], axis=-1)
            x = nn.relu(nn.LayerNorm()(nn.Dense(16)(x)))
            widths = (128,)
        x = x.reshape(x.shape[0], -1)
        for width in widths:
            x = nn.relu(nn.LayerNorm()(nn.Dense(width)(x)))
        return nn.Dense(self.num_actions)(x)


def returns(decay, reward, end, v, last):
    """Q(lambda) returns [L, N] of rewards, ends and values [L, N], and values [N] after them."""

    def back(carry, row):
        later, v_next = carry
        reward, end, v = row
        mixed = decay * later + (1 - decay) * v_next
        target = reward + GAMMA * (1 - end) * mixed
        return (target, v), target

    return jax.lax.scan(back, (last, last), (reward, end, v), reverse=True)[1]


def make_update(network, optimizer):
    """Returns the gradient step of a minibatch (observations, actions, targets), for a scan."""

    def update(carry, batch):
        params, opt_state = carry
        obs, action, target = batch

        def loss(params):
            q = network.apply(params, obs)
            taken = jnp.take_along_axis(q, action[:, None], axis=1)[:, 0]
            return 0.5 * jnp.mean((target - taken) ** 2)

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    return update


def make(name, seeds, rollouts):
    """Returns `go()`, which runs `rollouts` more iterations of every seed, compiled and warm."""
    task = TASKS[name]
    env, env_params = gymnax.make(task.name)
    network = QNetwork(env.num_actions, images=task.name.endswith("MinAtar"))
    parts = task.envs * task.length // MINIBATCH
    decays = task.rollouts * task.passes * parts
    rate = optax.linear_schedule(task.step_size, 0.0, decays)
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.radam(rate))
    epsilon_at = optax.linear_schedule(1.0, task.epsilon_end, task.epsilon_steps)
    update = make_update(network, optimizer)

    def init(key):
        params_key, reset_key, key = jax.random.split(key, 3)
        keys = jax.random.split(reset_key, task.envs)
        obs, env_state = jax.vmap(env.reset, (0, None))(keys, env_params)
        params = network.init(params_key, obs.astype(jnp.float32))
        return params, optimizer.init(params), obs.astype(jnp.float32), env_state, key, 0

    def env_step(key, state, action):
        obs, state, reward, terminated, truncated, _ = env.step(key, state, action, env_params)
        return obs.astype(jnp.float32), state, reward, terminated | truncated

    def collect(params, obs, env_state, key, now):
        def step(carry, _):
            obs, env_state, key, now = carry
            key, explore_key, action_key, step_key = jax.random.split(key, 4)
            q = network.apply(params, obs)
            random = jax.random.randint(action_key, (task.envs,), 0, env.num_actions)
            explore = jax.random.uniform(explore_key, (task.envs,)) < epsilon_at(now)
            action = jnp.where(explore, random, q.argmax(-1))
            keys = jax.random.split(step_key, task.envs)
            after, env_state, reward, end = jax.vmap(env_step)(keys, env_state, action)
            seen = obs, action, task.reward_scale * reward, end, q.max(-1)
            return (after, env_state, key, now + task.envs), seen

        carry = obs, env_state, key, now
        return jax.lax.scan(step, carry, None, length=task.length)

    def iteration(carry, _):
        params, opt_state, obs, env_state, key, now = carry
        key, own = jax.random.split(key)
        (obs, env_state, own, now), seen = collect(params, obs, env_state, own, now)
        shown, action, reward, end, v = seen
        last = network.apply(params, obs).max(-1)
        flat = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
        whole = jax.tree.map(flat, (shown, action, returns(task.decay, reward, end, v, last)))

        def one_pass(carry, key):
            order = jax.random.permutation(key, task.envs * task.length)
            split = lambda x: x[order].reshape(parts, MINIBATCH, *x.shape[1:])  # noqa: E731
            return jax.lax.scan(update, carry, jax.tree.map(split, whole))

        keys = jax.random.split(own, task.passes)
        (params, opt_state), _ = jax.lax.scan(one_pass, (params, opt_state), keys)
        return (params, opt_state, obs, env_state, key, now), reward.mean()

    def run(carry):
        return jax.lax.scan(iteration, carry, None, length=rollouts)[0]

    return compiled_loop(init, run, seeds)

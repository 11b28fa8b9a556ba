"""A bare DQN loop on CartPole: the yardstick of the on-device runner, with no framework.

10 environments, batch 128, one gradient step per 10 environment steps, MLP 120-84, Adam 2.5e-4,
10,000 transitions of replay, a target copied every 50 gradient steps; gymnax's CartPole.
`speed.py` and the accelerator script run it.
"""

import functools

import gymnax
import jax
import jax.numpy as jnp
import optax
from timing import compiled_loop

ENVS, BATCH, CAPACITY, GAMMA, TARGET_PERIOD, SIZES = 10, 128, 10_000, 0.99, 50, (4, 120, 84, 2)
env, env_params = gymnax.make("CartPole-v1")
optimizer = optax.adam(2.5e-4)


def init_params(key):
    keys = jax.random.split(key, len(SIZES) - 1)
    shapes = zip(keys, SIZES, SIZES[1:], strict=False)
    return [(jax.random.normal(k, (m, n)) / m**0.5, jnp.zeros(n)) for k, m, n in shapes]


def q_values(params, x):
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = params[-1]
    return x @ w + b


def init(key, capacity=CAPACITY):
    """The loop's carry: (params, target, opt_state, replay, observation, env_state, key, i)."""
    params_key, reset_key, key = jax.random.split(key, 3)
    params = init_params(params_key)
    obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(reset_key, ENVS), env_params)
    replay = {
        "obs": jnp.zeros((capacity, 4)),
        "action": jnp.zeros(capacity, jnp.int32),
        "reward": jnp.zeros(capacity),
        "end": jnp.zeros(capacity),
        "next_obs": jnp.zeros((capacity, 4)),
    }
    target = jax.tree.map(jnp.copy, params)
    zero = jnp.zeros((), jnp.int32)
    return params, target, optimizer.init(params), replay, obs, env_state, key, zero


def act(params, obs, key, i):
    explore_key, action_key = jax.random.split(key)
    epsilon = jnp.clip(1 - i * ENVS / 250_000 * 0.95, 0.05, 1.0)
    random = jax.random.randint(action_key, (ENVS,), 0, 2)
    greedy = q_values(params, obs).argmax(-1)
    return jnp.where(jax.random.uniform(explore_key, (ENVS,)) < epsilon, random, greedy)


def env_step(key, state, action):
    obs, state, reward, terminated, truncated, _ = env.step(key, state, action, env_params)
    return obs, state, reward, terminated | truncated


def update(params, target, opt_state, batch):
    bootstrap = q_values(target, batch["next_obs"]).max(-1)
    y = batch["reward"] + GAMMA * (1 - batch["end"]) * bootstrap

    def loss(params):
        taken = q_values(params, batch["obs"])[jnp.arange(BATCH), batch["action"]]
        return jnp.mean((taken - y) ** 2)

    updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def iteration(carry, _):
    params, target, opt_state, replay, obs, env_state, key, i = carry
    key, act_key, step_key, sample_key = jax.random.split(key, 4)
    action = act(params, obs, act_key, i)
    step_keys = jax.random.split(step_key, ENVS)
    next_obs, env_state, reward, end = jax.vmap(env_step)(step_keys, env_state, action)
    step = {"obs": obs, "action": action, "reward": reward, "end": end, "next_obs": next_obs}
    capacity = replay["reward"].shape[0]
    at = (i * ENVS) % capacity
    replay = {
        name: jax.lax.dynamic_update_slice_in_dim(kept, step[name].astype(kept.dtype), at, 0)
        for name, kept in replay.items()
    }
    filled = jnp.minimum((i + 1) * ENVS, capacity)
    index = jax.random.randint(sample_key, (BATCH,), 0, filled)
    batch = {name: kept[index] for name, kept in replay.items()}
    params, opt_state = update(params, target, opt_state, batch)
    due = i % TARGET_PERIOD == 0
    target = jax.tree.map(lambda new, old: jnp.where(due, new, old), params, target)
    return (params, target, opt_state, replay, next_obs, env_state, key, i + 1), reward.mean()


def run(carry, updates):
    """`updates` iterations, each of 10 environment steps and one gradient step."""
    return jax.lax.scan(iteration, carry, None, length=updates)[0]


def make(seeds, updates, capacity=CAPACITY):
    """Returns `go()`, which runs `updates` more iterations of every seed, compiled and warm."""
    one, init_one = (
        functools.partial(run, updates=updates),
        functools.partial(init, capacity=capacity),
    )
    return compiled_loop(init_one, one, seeds)

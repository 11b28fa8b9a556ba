"""DQN on CartPole in one file: environment, replay and learner in one compiled program.

    python examples/dqn_single_file.py [--steps 500000] [--seed 0] [--seeds 1]

README.md shows how `munchausen_single_file.py` differs from this file: in its loss.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import optax

from bellmax.envs import CartPole

ENVS, BATCH, CAPACITY, WARMUP = 10, 128, 10_000, 1_000  # the last in transitions
GAMMA, LEARNING_RATE, TARGET_PERIOD, EPSILON_STEPS = 0.99, 2.5e-4, 50, 250_000
env, optimizer = CartPole(), optax.adam(LEARNING_RATE)


def init_params(key, sizes=(4, 120, 84, 2)):
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = zip(keys, sizes, sizes[1:], strict=False)
    return [(jax.random.normal(k, (m, n)) / m**0.5, jnp.zeros(n)) for k, m, n in shapes]


def q_network(params, x):
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    w, b = params[-1]
    return x @ w + b


def loss(params, target, batch):
    q_tm1 = q_network(params, batch["observation"])
    q_t = q_network(target, batch["next_observation"])
    y = batch["reward"] + batch["discount"] * q_t.max(axis=-1)
    td_error = y - q_tm1[jnp.arange(BATCH), batch["action"]]
    return jnp.mean(td_error**2) / 2


def act(params, observation, epsilon, key):
    explore_key, action_key = jax.random.split(key)
    random = jax.random.randint(action_key, (ENVS,), 0, 2)
    greedy = q_network(params, observation).argmax(axis=-1)
    return jnp.where(jax.random.uniform(explore_key, (ENVS,)) < epsilon, random, greedy)


def env_step(env_state, action, key):
    """One step, and a reset if the episode ended; the transition has the final observation."""
    env_state, step = env.step(env_state, action, key)
    fresh_state, fresh = env.reset(key)
    ended = step.terminated | step.truncated
    pick = functools.partial(jax.tree.map, lambda new, old: jnp.where(ended, new, old))
    # A time limit is not a termination: the discount is 0 only where the task itself ended.
    discount = GAMMA * (1.0 - step.terminated)
    result = {"reward": step.reward, "discount": discount, "next_observation": step.observation}
    return pick(fresh_state, env_state), pick(fresh.observation, step.observation), result, ended


def learn(learner, replay, i, key):
    """One gradient step; the parameters stay until there are WARMUP transitions."""
    params, target, opt_state = learner
    index = jax.random.randint(key, (BATCH,), 0, jnp.minimum((i + 1) * ENVS, CAPACITY))
    batch = jax.tree.map(lambda kept: kept[index], replay)
    updates, opt_state = optimizer.update(jax.grad(loss)(params, target, batch), opt_state)
    params = optax.apply_updates(params, updates)
    due = i % TARGET_PERIOD == 0
    target = jax.tree.map(lambda new, old: jnp.where(due, new, old), params, target)
    new, starts = (params, target, opt_state), i * ENVS >= WARMUP
    return jax.tree.map(lambda new, old: jnp.where(starts, new, old), new, learner)


def iteration(carry, i):
    learner, replay, env_state, observation, episode_return, key = carry
    key, act_key, env_key, learn_key = jax.random.split(key, 4)
    epsilon = jnp.clip(1.0 - 0.95 * i * ENVS / EPSILON_STEPS, 0.05, 1.0)
    action = act(learner[0], observation, epsilon, act_key)
    env_keys = jax.random.split(env_key, ENVS)
    env_state, shown, result, ended = jax.vmap(env_step)(env_state, action, env_keys)
    transition = {"observation": observation, "action": action, **result}
    at = i * ENVS % CAPACITY
    write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=at, axis=0)
    replay = jax.tree.map(write, replay, transition)
    learner = learn(learner, replay, i, learn_key)
    episode_return = episode_return + result["reward"]
    log = {"episodes": ended.sum(), "return": (episode_return * ended).sum()}
    episode_return = jnp.where(ended, 0.0, episode_return)
    return (learner, replay, env_state, shown, episode_return, key), log


def train(key, steps):
    """Trains one seed; returns its parameters and the log, [steps / 10] each. For jit and vmap."""
    params_key, reset_key, key = jax.random.split(key, 3)
    params = init_params(params_key)
    env_state, first = jax.vmap(env.reset)(jax.random.split(reset_key, ENVS))
    replay = {
        "observation": jnp.zeros((CAPACITY, 4)),
        "action": jnp.zeros(CAPACITY, jnp.int32),
        "reward": jnp.zeros(CAPACITY),
        "discount": jnp.zeros(CAPACITY),
        "next_observation": jnp.zeros((CAPACITY, 4)),
    }
    learner = params, params, optimizer.init(params)
    carry = learner, replay, env_state, first.observation, jnp.zeros(ENVS), key
    (learner, *_), log = jax.lax.scan(iteration, carry, jnp.arange(steps // ENVS))
    return learner[0], log


def evaluate(params, key, episodes=100):
    """Mean return of the greedy policy."""
    state, first = jax.vmap(env.reset)(jax.random.split(key, episodes))

    def step(carry, _):
        state, observation, going = carry
        action = q_network(params, observation).argmax(axis=-1)
        state, step = jax.vmap(env.step, (0, 0, None))(state, action, key)
        carry = state, step.observation, going & ~(step.terminated | step.truncated)
        return carry, step.reward * going

    carry = state, first.observation, jnp.ones(episodes, bool)
    return jax.lax.scan(step, carry, None, length=env.time_limit)[1].sum(axis=0).mean()


def main(argv=None):
    """Prints the learning curve, and returns the greedy returns, one a seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500_000, help="environment steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="2,000 steps, which show nothing")
    arguments = parser.parse_args(argv)
    total = 2_000 if arguments.small else arguments.steps
    seeds = jnp.arange(arguments.seed, arguments.seed + arguments.seeds)
    keys = jax.vmap(jax.random.key)(seeds)
    one = functools.partial(train, steps=total)
    params, log = jax.jit(jax.vmap(one))(keys)
    parts = jnp.array_split(log["return"], 10, axis=1), jnp.array_split(log["episodes"], 10, axis=1)
    for i, (returns, episodes) in enumerate(zip(*parts, strict=True)):
        mean = returns.sum(axis=1) / jnp.maximum(episodes.sum(axis=1), 1)
        steps = (i + 1) * total // 10
        print(f"step {steps:>9,}: training return {', '.join(f'{x:.1f}' for x in mean)}")
    returns = jax.jit(jax.vmap(evaluate))(params, keys)
    print(f"greedy return over 100 episodes: {', '.join(f'{x:.1f}' for x in returns)}")
    return [float(x) for x in returns]


if __name__ == "__main__":
    main()

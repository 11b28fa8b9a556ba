"""Shares of the parts in the time of a training iteration, by leaving out one part at a time.

An iteration of dqn/cartpole is one vector step, one write to replay, one sample and one gradient
step. A part's share is the whole minus the iteration without it; shares need not add up to 1, as
the compiler joins what is left. FLOPs are XLA's own count of one iteration.

    python benchmarks/iteration.py [--preset dqn/cartpole] [--seeds 1] [--rounds 7] [--out i.json]
"""

import argparse
import json
import statistics
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from timing import alternate, table

from bellmax.agents import registry
from bellmax.agents.shared.base import ActorOutput, Batch, LearnOutput
from bellmax.envs import make_vector_env
from bellmax.launch.config.run_config import load
from bellmax.launch.replay.ring import make_replay
from bellmax.launch.runners.device_runner import example_step, make_runner


def parts(config):
    _, make_agent = registry.load(config.agent_name)
    env = make_vector_env(config.env)
    agent = make_agent(config.agent, env.spec)
    replay = make_replay(
        capacity=config.replay.capacity,
        num_envs=config.env.num_envs,
        rollout_length=config.rollout_length,
        sequence_length=agent.replay.sequence_length,
        batch_size=agent.replay.batch_size,
        prioritised=config.replay.prioritised,
    )
    return agent, env, replay


def without_learning(agent, env, replay):
    """`learn` counts its steps and returns zeros."""

    def learn(state, batch, key):
        del key
        zero = jnp.zeros(()) * batch.weights[0]
        metrics = {"loss": zero, "q_value": zero}
        return state._replace(steps=state.steps + 1), LearnOutput(metrics, batch.weights)

    return agent._replace(learn=learn), env, replay


def without_acting(agent, env, replay):
    """Return the agent with constant actions, without network and random bits."""

    def act(params, inputs, *, evaluate=False):
        action = (inputs.is_first + inputs.step).astype(jnp.int32) % 2
        return ActorOutput(action, inputs.memory, ())

    return agent._replace(act=act), env, replay


def without_environment(agent, env, replay):
    """Return a learning phase without environment steps."""

    def step(state, action, key):
        del key
        _, seen = jax.eval_shape(env.reset, jax.random.key(0))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), seen)
        return state, zeros._replace(reward=action.astype(jnp.float32))

    return agent, env._replace(step=step), replay


def without_sampling(agent, env, replay):
    """Return a replay whose samples are always the oldest slots, read as one slice."""
    batch, length = agent.replay.batch_size, agent.replay.sequence_length

    def sample(state, key):
        found = jax.eval_shape(replay.sample, state, key)
        steps = jax.tree.map(
            lambda kept: kept.reshape(-1, *kept.shape[2:])[: batch * length].reshape(
                batch, length, *kept.shape[2:]
            ),
            state.storage,
        )
        return found._replace(
            batch=Batch(steps, jnp.ones(batch)), indices=jnp.zeros(batch, jnp.int32)
        )

    return agent, env, replay._replace(sample=sample)


VARIANTS = {
    "gradient step": without_learning,
    "choosing actions": without_acting,
    "environments": without_environment,
    "sampling replay": without_sampling,
}


def make(config, change, iterations):
    """`go()`: iterations of the runner, compiled and warm."""
    agent, env, replay = change(*parts(config)) if change else parts(config)
    runner = make_runner(
        agent,
        env,
        replay,
        rollout_length=config.rollout_length,
        updates_per_rollout=config.updates_per_rollout,
        num_seeds=config.seeds,
    )
    state = runner.init(jnp.arange(config.seeds, dtype=jnp.int32))
    advance = runner.advance.lower(state, np.int32(0), np.int32(0)).compile()
    warmup = config.warmup_steps // config.env.num_envs
    held = [advance(state, np.int32(warmup), np.int32(iterations))[0]]

    def go():
        held[0] = jax.block_until_ready(advance(held[0], np.int32(0), np.int32(iterations))[0])

    jax.block_until_ready(held[0])
    return go


def learn_flops(config):
    """XLA's count of the floating-point operations of one gradient step, of all seeds."""
    agent, env, _ = parts(config)
    step = example_step(agent, env)
    size, length = agent.replay.batch_size, agent.replay.sequence_length

    def one(key):
        steps = jax.tree.map(lambda x: jnp.zeros((size, length, *x.shape[1:]), x.dtype), step)
        return agent.learn(agent.init(key), Batch(steps, jnp.ones(size)), key)

    def init_only(key):
        return agent.init(key)

    costs = [jax.jit(f).lower(jax.random.key(0)).cost_analysis() for f in (one, init_only)]
    return config.seeds * (costs[0]["flops"] - costs[1]["flops"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="dqn/cartpole")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--iterations", type=int, default=5_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    config = load(arguments.preset, [f"--seeds={arguments.seeds}"])
    changes = {"nothing": None, **VARIANTS}
    sides = {name: make(config, change, arguments.iterations) for name, change in changes.items()}
    seconds = alternate(sides, arguments.rounds)
    micro = {n: 1e6 * statistics.median(s) / arguments.iterations for n, s in seconds.items()}
    whole = micro["nothing"]
    rows = [
        {"left out": n, "us an iteration": t, "us of the part": whole - t, "share": 1 - t / whole}
        for n, t in micro.items()
    ]
    print(table(rows))
    flops = learn_flops(config)
    achieved = flops / ((whole - micro["gradient step"]) * 1e-6)
    print(f"\none gradient step: {flops / 1e6:.1f} MFLOP, at {achieved / 1e9:.1f} GFLOP/s")
    if arguments.out:
        result = {"rows": rows, "flops": flops, "flops_per_second": achieved, "seconds": seconds}
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

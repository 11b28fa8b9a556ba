"""Difference between critics' values and returns of the policies in finished TD3 and ExpectRL runs.

The greedy policy of each seed plays episodes of up to 1,000 steps without a time limit before that;
the critic's value of each action in the first half is compared with the discounted return that
followed it. Of several critics the mean is taken.

    python benchmarks/overestimation.py RUN...
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from arguments import parse
from report import interval
from runs import add_runs, chosen_runs
from timing import table

from bellmax.agents import ActInput, Agent
from bellmax.agents.shared.actor_critic import check_action
from bellmax.envs import make, make_vector_env
from bellmax.launch.config.run_config import RunConfig, load
from bellmax.launch.runners.train_state import TrainState
from bellmax.launch.studies.evaluate import restore
from bellmax.launch.training.experiment import build
from bellmax.networks import make_critics

LENGTH, EPISODES = 1000, 10
SMALL = "td3/pendulum --steps 1000 --warmup-steps 500 --agent.network.hidden 8 --seeds 2"


def measure(run: Path, length: int) -> dict[str, np.ndarray]:
    """Return the results of `compare` for a finished run."""
    config = load(run, trust=True)
    experiment = build(config)
    _, state, _ = restore(run, experiment, "latest")
    return compare(config, experiment.agent, state, length)


def compare(
    config: RunConfig, agent: Agent, state: TrainState, length: int = LENGTH
) -> dict[str, np.ndarray]:
    """[S] mean value, mean discounted return and mean difference of each seed's policy."""
    hyper = config.agent
    task = make(config.env.name, **{**config.env.options, "time_limit": length})
    env = make_vector_env(config.env, num_envs=EPISODES, evaluation=True, env=task)
    params = state.learner.params.critics
    num_seeds = jax.tree.leaves(params)[0].shape[0]
    num_critics = jax.tree.leaves(params)[0].shape[1]
    alphas = len(hyper.alphas) if getattr(hyper, "alpha", None) == "auto" else 1
    shape = hyper.network, env.spec.observation, check_action(env.spec)
    critics = make_critics(*shape, num_critics, alphas)

    def play(acting, critic_params, statistics, key):
        env_state, seen = env.reset(key, statistics=statistics)
        memory = agent.initial_memory(EPISODES)

        def step(carry, key):
            env_state, seen, memory, going = carry
            act_key, env_key = jax.random.split(key)
            known = seen.observation, memory, seen.is_first, act_key, jnp.int32(0)
            output = agent.act(acting, ActInput(*known), evaluate=True)
            values = critics.apply(critic_params, seen.observation, output.action).mean(axis=1)
            arm = output.memory if alphas > 1 else jnp.zeros(EPISODES, jnp.int32)
            value = jnp.take_along_axis(values, arm[:, None], axis=1)[:, 0]
            env_state, after = env.step(env_state, output.action, env_key)
            record = value, after.reward, after.discount, going
            return (env_state, after, output.memory, going & ~after.is_last), record

        start = env_state, seen, memory, jnp.ones(EPISODES, bool)
        return jax.lax.scan(step, start, jax.random.split(key, length))[1]

    acting = agent.actor_params(state.learner)
    keys = jax.random.split(jax.random.key(123), num_seeds)
    statistics = state.env.statistics
    value, reward, discount, going = jax.device_get(
        jax.jit(jax.vmap(play))(acting, params, statistics, keys)
    )
    reward, discount = reward * going, discount * going
    returns = np.zeros_like(reward)
    follows = np.zeros_like(reward[:, 0])
    for t in reversed(range(length)):
        follows = reward[:, t] + hyper.discount * discount[:, t] * follows
        returns[:, t] = follows
    counted = going & (np.arange(length) < length // 2)[None, :, None]

    def mean(x: np.ndarray) -> np.ndarray:
        return (x * counted).sum(axis=(1, 2)) / counted.sum(axis=(1, 2))

    return {"value": mean(value), "return": mean(returns), "difference": mean(value - returns)}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_runs(parser)
    parser.add_argument("--length", type=int, default=LENGTH, help="of the longest episodes")
    arguments = parse(parser, words, length=50)
    rows = []
    for run in chosen_runs(parser, arguments, SMALL):
        measured = measure(run, arguments.length)
        found = {name: interval(values) for name, values in measured.items()}
        rows.append({"run": run.name, **found})
    print(table(rows))


if __name__ == "__main__":
    main()

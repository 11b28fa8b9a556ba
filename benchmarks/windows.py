"""Windows in the replay of a finished run of QR-DQN-Retrace: how long they stay uncut, and how much
one-step, Retrace and uncorrected targets differ on the same replay and network.

    python benchmarks/windows.py RUN...
"""

import argparse
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from arguments import parse
from report import interval
from runs import add_runs, chosen_runs
from timing import table

from bellmax.agents.qr_dqn_retrace import window_targets
from bellmax.agents.shared.value_based import apply_sequence
from bellmax.envs import make_vector_env
from bellmax.launch.config.run_config import load
from bellmax.launch.replay.ring import make_replay, seed_axes
from bellmax.launch.studies.evaluate import restore
from bellmax.launch.training.experiment import build
from bellmax.networks import make_q_network, quantile_head

BATCH = 4096
SMALL = (
    "qr_dqn_retrace/cartpole --steps 2000 --warmup-steps 1000 --agent.network.hidden 8 --seeds 2"
)


def measure(run: Path) -> dict[str, np.ndarray]:
    """Each [S], over windows that start within an episode; targets are means of distributions."""
    config = load(run, trust=True)
    hyper = replace(config.agent, n_step=max(config.agent.n_step, 3), trace="retrace")
    experiment = build(config)
    _, state, _ = restore(run, experiment, "latest")
    env = make_vector_env(config.env)
    head = quantile_head(hyper.num_quantiles)
    actions = env.spec.action.num_values
    network = make_q_network(hyper.network, env.spec.observation, actions, head)
    replay = make_replay(
        capacity=config.replay.capacity,
        num_envs=config.env.num_envs,
        rollout_length=config.rollout_length,
        sequence_length=hyper.n_step + 1,
        batch_size=BATCH,
    )

    def one(memory, target_params, key):
        steps = replay.sample(memory, key).batch.steps
        after = jax.tree.map(lambda x: x[:, 1:], steps)
        led_to = apply_sequence(network, target_params, after.observation)
        targets = {}
        for trace in ("one_step", "retrace", "uncorrected"):
            rule, part = replace(hyper, trace=trace), steps
            dist, selector = led_to.quantiles, led_to.q_values
            if trace == "one_step":
                rule = replace(rule, n_step=1)
                part = jax.tree.map(lambda x: x[:, :2], steps)
                dist, selector = dist[:, :1], selector[:, :1]
            atoms = window_targets(rule, part, dist, selector)
            targets[trace] = jnp.sum(atoms.atoms * atoms.weights, axis=-1)[:, 0]
        greedy = led_to.q_values.argmax(axis=-1)
        stays = (after.action == greedy) & ~after.is_last
        return targets, jnp.cumprod(stays[:, :-1], axis=1), ~steps.is_last[:, 0]

    keys = jax.random.split(jax.random.key(0), config.seeds)
    sample = jax.jit(jax.vmap(one, in_axes=(seed_axes, 0, 0)))
    targets, stays, counted = jax.device_get(
        sample(state.replay, state.learner.target_params, keys)
    )

    def mean(x: np.ndarray) -> np.ndarray:
        return np.sum(x * counted, axis=1) / counted.sum(axis=1)

    step = targets["one_step"]
    found = {"uncut after 1": mean(stays[..., 0]), "uncut after 2": mean(stays[..., -1])}
    found["one-step target"] = mean(step)
    for trace in ("retrace", "uncorrected"):
        difference = targets[trace] - step
        found[f"{trace} less it"] = mean(difference)
        found[f"deviation of {trace} from it"] = np.sqrt(mean(difference**2))
    return found


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The windows of runs of QR-DQN-Retrace.")
    add_runs(parser)
    arguments = parse(parser, words)
    rows = []
    for run in chosen_runs(parser, arguments, SMALL):
        found = {name: interval(values, 2) for name, values in measure(run).items()}
        rows.append({"run": run.name, **found})
    print(table(rows))


if __name__ == "__main__":
    main()

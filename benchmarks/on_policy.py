"""Speed of on-policy agents, in total and of acting alone, in environment steps per second.

Acting is timed by rollouts of the warm-up, without learning; learning is the difference to others.

    python benchmarks/on_policy.py [PRESET ...] [--rounds 9]
"""

import argparse
import time

import jax
import numpy as np
from arguments import parse
from timing import table

from bellmax.launch.config.run_config import load
from bellmax.launch.training.experiment import build

PRESETS = (
    "byol_explore/deepsea",
    "byol_explore/deepsea --agent.horizon 1",
    "byol_explore/deepsea --agent.horizon 8",
    "rnd/deepsea",
    "icm/deepsea",
    "count_bonus/deepsea",
    "on_policy/deepsea",
    "byol_explore/minigrid_doorkey_8x8",
    "on_policy/minigrid_doorkey_8x8",
)


def measure(words: list[str], rounds: int, rollouts: int) -> dict[str, str]:
    preset, *options = words
    config = load(preset, options)
    experiment = build(config)
    state = experiment.init()
    seconds: dict[str, list[float]] = {"act": [], "all": []}
    for turn in range(rounds + 1):  # the first one compiles
        for name, calls in (("act", (rollouts, 0)), ("all", (0, rollouts))):
            started = time.perf_counter()
            state, _ = experiment.runner.advance(state, *map(np.int32, calls))
            jax.block_until_ready(state.vector_steps)
            if turn:
                seconds[name].append(time.perf_counter() - started)
    act, whole = (np.median(seconds[name]) for name in ("act", "all"))
    per_gradient = (whole - act) / rollouts / config.updates_per_rollout
    steps = rollouts * config.rollout_length * config.env.num_envs * config.seeds
    return {
        "agent": f"`{' '.join(words)}`",
        "steps/s": f"{steps / whole:,.0f}",
        "acting alone, steps/s": f"{steps / act:,.0f}",
        "share of learning": f"{1 - act / whole:.0%}",
        "one gradient step, ms": f"{1e3 * per_gradient:.2f}",
    }


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", default=PRESETS, metavar="PRESET")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rollouts", type=int, default=10, help="in a turn")
    arguments = parse(parser, words, rounds=1, rollouts=2, presets=["on_policy/deepsea"])
    rest = arguments.rounds, arguments.rollouts
    rows = [measure(preset.split(), *rest) for preset in arguments.presets]
    print(f"jax {jax.__version__}, {jax.local_devices()[0].device_kind}\n\n{table(rows)}")


if __name__ == "__main__":
    main()

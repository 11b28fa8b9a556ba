"""Steady-state speed of bellmax's DQN or PQN against a bare loop at equal hyper-parameters.

Sides are compiled once and then take turns in each round, so that noise of the machine affects all
alike. Medians, and the ratios within rounds, are reported.

    python benchmarks/speed.py [--seeds 1 8] [--rounds 7] [--updates 10000] [--out speed.json]
    python benchmarks/speed.py --agent pqn [--task minatar_breakout] [--small]
    python benchmarks/speed.py --rejax PYTHON      PYTHON has rejax "gymnax<1" six jax installed
    python benchmarks/speed.py --ablate            what logging, evaluation and checkpoints cost
"""

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path

import jax
import numpy as np
import reference_dqn
import reference_pqn
from arguments import parse
from timing import Peer, alternate, ratios, table

ENVS = reference_dqn.ENVS


def make_bellmax(seeds, updates, capacity):
    """Returns `go()`: `updates` more iterations of the preset dqn/cartpole, compiled and warm."""
    from bellmax.launch.config.run_config import load
    from bellmax.launch.training.experiment import build

    experiment = build(load("dqn/cartpole", [f"--seeds={seeds}", f"--replay.capacity={capacity}"]))
    state = experiment.init()
    advance = experiment.runner.advance.lower(state, np.int32(0), np.int32(0)).compile()
    held = [advance(state, np.int32(1000), np.int32(updates))[0]]

    def go():
        held[0] = jax.block_until_ready(advance(held[0], np.int32(0), np.int32(updates))[0])

    jax.block_until_ready(held[0])
    return go


def make_bellmax_pqn(task, seeds, rollouts):
    """Returns `go()`: `rollouts` more rollouts of a preset of pqn, each with its gradient steps."""
    from bellmax.launch.config.run_config import load
    from bellmax.launch.training.experiment import build

    experiment = build(load(f"pqn/{task}", [f"--seeds={seeds}"]))
    state = experiment.init()
    advance = experiment.runner.advance.lower(state, np.int32(0), np.int32(0)).compile()
    held = [state]

    def go():
        held[0] = jax.block_until_ready(advance(held[0], np.int32(0), np.int32(rollouts))[0])

    go()
    return go


def compare_pqn(task, seeds, rollouts, rounds):
    """Rows of one table: environment and gradient steps/s of each side, and their ratio."""
    sides = {
        "bare loop": reference_pqn.make(task, seeds, rollouts),
        "bellmax": make_bellmax_pqn(task, seeds, rollouts),
    }
    seconds, shape = alternate(sides, rounds), reference_pqn.TASKS[task]
    steps = seeds * rollouts * shape.envs * shape.length
    rows = []
    for name, taken in seconds.items():
        rate = steps / statistics.median(taken)
        row = {"side": name, "task": task, "seeds": seeds, "env_steps_per_second": rate}
        row["gradient_steps_per_second"] = rate * shape.passes / reference_pqn.MINIBATCH
        rows.append(row | {"seconds": taken} | ratios(seconds["bare loop"], taken))
    return rows


def compare(seeds, updates, capacity, rounds, python):
    """Rows of one table: each side's gradient steps/s and how it compares with the bare loop."""
    sides = {
        "bare loop": reference_dqn.make(seeds, updates, capacity),
        "bellmax": make_bellmax(seeds, updates, capacity),
    }
    worker = Path(__file__).with_name("rejax_dqn.py")
    command = [python, worker, seeds, updates, capacity]
    rejax = Peer(command) if python else None
    if rejax:
        sides["rejax"] = rejax.go
    seconds = alternate(sides, rounds)
    if rejax:
        rejax.close()
    rows = []
    for name, taken in seconds.items():
        rate = seeds * updates / statistics.median(taken)
        row = {"side": name, "seeds": seeds, "gradient_steps_per_second": rate}
        row |= {"env_steps_per_second": rate * ENVS, "seconds": taken}
        rows.append(row | ratios(seconds["bare loop"], taken))
    if rejax:
        rows[1]["times_rejax"] = ratios(seconds["rejax"], seconds["bellmax"])
    return rows


def ablate(rounds, steps):
    """Compare the wall clock of a whole run, as of `bellmax train`, with that of `advance` alone.

    Both start from the same initialised state, after compilation.
    """
    sides = {"advance alone": make_advance_alone(steps)}
    everything = {"log_every": steps // 10, "evaluate_every": steps // 10}
    everything |= {"checkpoint_every": steps // 2}
    parts = {
        "whole session": everything,
        "session, no evaluation between": everything | {"evaluate_every": 0},
        "session, only the end": dict.fromkeys(everything, 0) | {"log_every": steps},
    }
    for name, intervals in parts.items():
        sides[name] = make_session(intervals | {"steps": steps})
    seconds = alternate(sides, rounds)
    base = seconds["advance alone"]
    return [
        {"side": name, "run_seconds": statistics.median(taken), "seconds": taken}
        | ratios(base, taken)
        for name, taken in seconds.items()
    ]


def make_advance_alone(steps):
    from bellmax.launch.config.run_config import load
    from bellmax.launch.training.experiment import build

    config = load("dqn/cartpole", [f"--steps={steps}"])
    experiment = build(config)
    state = experiment.init()
    advance = experiment.runner.advance.lower(state, np.int32(0), np.int32(0)).compile()
    warmup = math.ceil(config.warmup_steps / ENVS)
    rest = config.steps // ENVS - warmup

    def go():
        state = experiment.init()
        jax.block_until_ready(advance(state, np.int32(warmup), np.int32(rest))[0])

    return go


def make_session(options):
    """`go()` is a whole `Session` of the preset into a temporary folder; compiles only once."""
    from bellmax.launch.config.run_config import load
    from bellmax.launch.reporting.metrics import MetricsLog
    from bellmax.launch.reporting.progress import Progress
    from bellmax.launch.training.checkpoints import Checkpoints
    from bellmax.launch.training.experiment import build
    from bellmax.launch.training.loop import Session

    overrides = [f"--{name}={value}" for name, value in options.items()]
    config = load("dqn/cartpole", overrides)
    experiment = build(config)
    state = experiment.init()
    advance = experiment.runner.advance.lower(state, np.int32(0), np.int32(0)).compile()
    jax.block_until_ready(experiment.evaluate(state, 0))

    def go():
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints(Path(folder) / "checkpoints", keep=config.keep_checkpoints)
            progress = Progress(config.steps)
            with MetricsLog(Path(folder)) as log, progress:
                session = Session(experiment, checkpoints, log, progress)
                session._compile = lambda state: advance
                session.advance_to_end(experiment.init())

    return go


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--agent", choices=("dqn", "pqn"), default="dqn")
    parser.add_argument("--task", choices=tuple(reference_pqn.TASKS), default="cartpole")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=10_000, help="iterations in a turn of dqn")
    parser.add_argument("--rollouts", type=int, default=20, help="iterations in a turn of pqn")
    text = "transitions of replay; rejax's sampling takes time in proportion"
    parser.add_argument("--capacity", type=int, default=reference_dqn.CAPACITY, help=text)
    parser.add_argument("--rejax", metavar="PYTHON")
    parser.add_argument("--ablate", action="store_true")
    parser.add_argument("--steps", type=int, default=500_000, help="of the run of --ablate")
    parser.add_argument("--out", type=Path)
    small = {"seeds": [2], "rounds": 1, "updates": 100, "rollouts": 2, "steps": 20000}
    arguments = parse(parser, words, **small)
    if arguments.ablate:
        rows = ablate(arguments.rounds, arguments.steps)
    elif arguments.agent == "pqn":
        rest = arguments.rollouts, arguments.rounds
        rows = [
            row for seeds in arguments.seeds for row in compare_pqn(arguments.task, seeds, *rest)
        ]
    else:
        rest = arguments.updates, arguments.capacity, arguments.rounds, arguments.rejax
        rows = [row for seeds in arguments.seeds for row in compare(seeds, *rest)]
    print(table(rows))
    for row in rows:
        if "times_rejax" in row:
            found = "{ratio:.1f} ({ratio_min:.1f} to {ratio_max:.1f})".format(**row["times_rejax"])
            print(f"\nbellmax with {row['seeds']} seeds is {found} times as fast as rejax")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""How much of a task does a bonus explore, and does it find the reward? MiniGrid and a noisy TV.

Coverage counts the cells that training visited in any environment; docs/guides/environments.md
defines the cells of each task. Returns are those of greedy episodes, and of the episodes that ended
in the last tenth of training, whose actions are sampled. Runs that are complete in DIR are not
repeated, others continue.

    python benchmarks/curiosity.py --runs DIR [--tasks doorkey ...] [--agents byol_explore ...]
"""

import argparse
from pathlib import Path

import numpy as np
from arguments import SCRATCH, parse
from report import draw, dress, interval, legend, panels, save, thousands
from runs import column, evaluations, train
from timing import table

MINIGRID = "{}/minigrid_doorkey_8x8 --env.name xminigrid/MiniGrid-{}"
FIXED = f"{MINIGRID} --env.options.layout 0"
NOISY = "{}/deepsea --env.name bellmax/NoisyGrid --env.options.size 13 --env.options.noise {}"
# Title, command and environment steps.
TASKS = {
    "doorkey_8": ("DoorKey-8x8", MINIGRID, "DoorKey-8x8", 1_000_000),
    "doorkey": ("DoorKey-16x16", MINIGRID, "DoorKey-16x16", 1_000_000),
    "blocked": ("BlockedUnlockPickUp", MINIGRID, "BlockedUnlockPickUp", 1_000_000),
    "locked_room": ("LockedRoom", MINIGRID, "LockedRoom", 1_000_000),
    "doorkey_fixed": ("DoorKey-16x16, one layout", FIXED, "DoorKey-16x16", 1_000_000),
    "blocked_fixed": ("BlockedUnlockPickUp, one layout", FIXED, "BlockedUnlockPickUp", 1_000_000),
    "dark_tv": ("NoisyGrid, dark TV", NOISY, "none", 300_000),
    "noisy_tv": ("NoisyGrid, noise", NOISY, "always", 300_000),
    "remote_tv": ("NoisyGrid, remote control", NOISY, "remote", 300_000),
}
AGENTS = ("byol_explore", "rnd", "on_policy", "icm")


def command(task: str, agent: str, arguments: argparse.Namespace) -> list[str]:
    _, template, name, steps = TASKS[task]
    steps = arguments.steps or steps
    every = steps // 20
    options = f"--steps {steps} --evaluate-every {every} --log-every {every}"
    options += f" --checkpoint-every {steps} --evaluation-episodes 16"
    options += f" --seed {arguments.first_seed} --seeds {arguments.seeds}"
    if arguments.reward_free:
        options += " --agent.extrinsic-scale 0"
    if arguments.scale is not None and agent != "on_policy":
        options += f" --agent.intrinsic.scale {arguments.scale}"
    return [*template.format(agent, name).split(), *options.split(), *arguments.overrides]


def last_returns(folder: Path) -> np.ndarray:
    """Return [seeds] mean returns of episodes in the last tenth of training, 0 without episodes."""
    steps, returns = column(folder, "train", "episode_return")
    late = steps > 0.9 * steps[-1]
    ended = column(folder, "train", "episodes")[1][:, late]
    sums = np.nansum(returns[:, late].astype(float) * ended, axis=1)
    return sums / np.maximum(ended.sum(axis=1), 1)


def show(tasks: dict[str, dict[str, Path]], arguments: argparse.Namespace) -> None:
    """Prints the table of all tasks and draws their curves, a column a task."""
    rows = []
    figure, axes = panels(2, len(tasks), share=False)
    for place, (task, runs) in enumerate(tasks.items()):
        for number, (agent, folder) in enumerate(runs.items()):
            steps, returns = evaluations(folder)
            at, cells = column(folder, "train", "coverage")
            rows.append(
                {
                    "task": TASKS[task][0],
                    "agent": f"`{agent}`",
                    "return, greedy": interval(returns[:, -1]),
                    "return in training": interval(last_returns(folder)),
                    "cells, half-way": interval(cells[:, cells.shape[1] // 2]),
                    "cells, end": interval(cells[:, -1]),
                }
            )
            draw(axes[0, place], steps, returns, label=agent, number=number)
            draw(axes[1, place], at, cells, label=agent, number=number)
        dress(axes[0, place], TASKS[task][0], "", "return")
        dress(axes[1, place], "", "environment steps", "cells visited")
        for axis in axes[:, place]:
            thousands(axis)
    print(f"\n{arguments.seeds} seeds\n\n{table(rows)}\n", flush=True)
    legend(figure, axes[0, 0], len(arguments.agents))
    save(figure, arguments.plots, arguments.plot)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/curiosity"), help="their folder")
    parser.add_argument("--plots", type=Path, default=Path("docs/results"))
    parser.add_argument("--plot", default="minigrid", help="name of the plot")
    parser.add_argument("--tasks", nargs="+", default=["doorkey", "blocked"], choices=TASKS)
    parser.add_argument("--agents", nargs="+", default=list(AGENTS[:3]), choices=AGENTS)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=None, help="in place of each task's own")
    parser.add_argument("--scale", type=float, default=None, help="weight of the bonus")
    parser.add_argument("--reward-free", action="store_true", help="the bonus alone counts")
    parser.add_argument("overrides", nargs="*", help="options of bellmax train, after --")
    few = {"tasks": ["noisy_tv"], "agents": ["rnd"], "seeds": 2, "steps": 1280}
    arguments = parse(parser, words, runs=SCRATCH, plots=SCRATCH, **few)
    tasks: dict[str, dict[str, Path]] = {}
    for task in arguments.tasks:
        for agent in arguments.agents:
            folder = arguments.runs / f"{task}_{agent}"
            words = command(task, agent, arguments)
            if int(words[words.index("--steps") + 1]) not in evaluations(folder)[0]:
                train(folder, words)
            tasks.setdefault(task, {})[agent] = folder
    show(tasks, arguments)


if __name__ == "__main__":
    main()

"""Do agents learn on host environments? Gymnasium's CartPole, Acrobot and Hopper.

A seed is a run of its own. Runs that are complete in DIR are not repeated, others continue.

    python benchmarks/host_learning.py --runs DIR [--tasks cartpole ...] [--sbx PYTHON]

PYTHON is that of an environment with `pip install sbx-rl "gymnasium[mujoco]"`: its TD3 learns
Hopper too, on the same budget.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
from arguments import SCRATCH, parse
from report import draw, dress, interval, legend, panels, save, thousands
from runs import evaluations, train
from timing import table


class Task(NamedTuple):
    """solved: Gymnasium's own threshold, None where the budget is too short for it."""

    title: str
    agents: dict[str, str]
    seeds: int
    steps: int
    every: int
    solved: float | None


EARLY = "--warmup-steps 5000 --agent.random-steps 5000"  # a fifth of the presets'
TASKS = {
    "cartpole": Task(
        "CartPole-v1",
        {"munchausen_dqn": "munchausen_dqn/gymnasium_cartpole"},
        seeds=10,
        steps=1_000_000,
        every=100_000,
        solved=475.0,
    ),
    "acrobot": Task(
        "Acrobot-v1",
        {"munchausen_dqn": "munchausen_dqn/gymnasium_acrobot"},
        seeds=10,
        steps=300_000,
        every=30_000,
        solved=-100.0,
    ),
    "hopper": Task(
        "Hopper-v5",
        {name: f"{name}/hopper {EARLY}" for name in ("expectrl", "td3")},
        seeds=3,
        steps=50_000,
        every=5_000,
        solved=None,
    ),
}
SBX = "SBX's TD3"
SMALL = "--warmup-steps 500 --evaluation-episodes 2 --evaluation-max-steps 20"


def learn(
    task: Task, agent: str, seed: int, folder: Path, overrides: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """([P] steps, [P] returns) of one run."""
    words = task.agents[agent].split()
    options = f"--steps {task.steps} --evaluate-every {task.every} --evaluation-episodes "
    options += f"{10 if task.solved is None else 100} --checkpoint-every {task.steps} --seed {seed}"
    if task.steps not in evaluations(folder)[0]:
        train(folder, [*words, *options.split(), *overrides])
    steps, returns = evaluations(folder)
    return steps, returns[0]


def learn_sbx(task: Task, seed: int, folder: Path, python: str) -> tuple[np.ndarray, np.ndarray]:
    """The same of SBX's TD3."""
    out = folder.with_suffix(".json")
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name("sbx_learning.py")
        numbers = map(str, (seed, task.steps, task.every, 5_000))
        subprocess.run([python, str(script), *numbers, str(out)], check=True)
    rows = np.array(json.loads(out.read_text()))
    return rows[:, 0], rows[:, 1]


def show(results: dict, arguments: argparse.Namespace) -> None:
    """The table of results[task][agent] = (steps [P], returns [seeds, P]), and the curves."""
    rows = []
    figure, axes = panels(1, len(results), share=False)
    for place, (name, agents) in enumerate(results.items()):
        task = TASKS[name]
        for number, (agent, (steps, returns)) in enumerate(agents.items()):
            last = returns[:, -1]
            solved = "" if task.solved is None else f"{sum(last >= task.solved)} of {len(last)}"
            rows.append(
                {
                    "task": task.title,
                    "agent": agent,
                    "steps": f"{steps[-1]:,.0f}",
                    "return by seed": ", ".join(f"{value:.0f}" for value in last),
                    "mean": interval(last),
                    "solved": solved,
                }
            )
            draw(axes[0, place], steps, returns, label=agent, number=number)
        title = task.title if len(agents) > 1 else f"{task.title}, {next(iter(agents))}"
        dress(axes[0, place], title, "environment steps", "evaluation return")
        thousands(axes[0, place])
    print(f"\n{table(rows)}\n", flush=True)
    legend(figure, axes[0, -1], 4)
    names = [] if len(results) == len(TASKS) else list(results)
    save(figure, arguments.plots, "_".join(["host", *names]))


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/host"), help="their folder")
    parser.add_argument("--plots", type=Path, default=Path("docs/results"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, help="in place of each task's own")
    parser.add_argument("--sbx", metavar="PYTHON")
    parser.add_argument("--steps", type=int, help="in place of each task's own")
    parser.add_argument("overrides", nargs="*", help="options of bellmax train, after --")
    few = {"tasks": ["cartpole"], "seeds": 2, "steps": 1600, "overrides": SMALL.split()}
    arguments = parse(parser, words, runs=SCRATCH, plots=SCRATCH, **few)
    results: dict[str, dict] = {}
    for name in arguments.tasks:
        task = TASKS[name]
        if steps := arguments.steps:
            task = task._replace(steps=steps, every=steps // 10)
        first = arguments.first_seed
        seeds = range(first, first + (arguments.seeds or task.seeds))
        folder = arguments.runs / name
        agents = results.setdefault(name, {})
        for agent in task.agents:
            folders = [folder / f"{agent}_{seed}" for seed in seeds]
            asked = zip(seeds, folders, strict=True)
            each = [learn(task, agent, *one, arguments.overrides) for one in asked]
            agents[agent] = each[0][0], np.array([returns for _, returns in each])
        if name == "hopper" and arguments.sbx:
            each = [learn_sbx(task, seed, folder / f"sbx_{seed}", arguments.sbx) for seed in seeds]
            agents[SBX] = each[0][0], np.array([returns for _, returns in each])
    show(results, arguments)


if __name__ == "__main__":
    main()

"""Which bonus finds the reward of a DeepSea, and after how many steps?

Every agent learns every size with the task's preset, in which only size and length change; its
seeds are vmapped in one program. A seed has solved a size at the first evaluation whose greedy
policy earns at least 0.9, or half of the best return if moves slip (--stochastic). Runs that are
complete in DIR are not repeated, others continue.

    python benchmarks/exploration.py --runs DIR [--sizes 10 20] [--agents byol_explore ...]
"""

import argparse
from pathlib import Path

import numpy as np
from arguments import SCRATCH, parse
from report import draw, dress, legend, median_of, panels, save, thousands
from runs import column, evaluations, train
from scipy.stats import binomtest
from timing import table

from bellmax.launch.reporting.plot import COLOURS

BYOL = "byol_explore/deepsea"
AGENTS = {
    "byol_explore": BYOL,
    "rnd": "rnd/deepsea",
    "icm": "icm/deepsea",
    "count_bonus": "count_bonus/deepsea",
    "on_policy": "on_policy/deepsea",
    "munchausen_dqn": "munchausen_dqn/deepsea --env.coverage",
    "vmpo": f"{BYOL} --agent.policy-loss vmpo",
    "horizon_1": f"{BYOL} --agent.horizon 1",
    # Longer rollouts; otherwise a third of the steps would be too close to the end for predictions.
    "horizon_8": f"{BYOL} --agent.horizon 8 --rollout-length 40 --updates-per-rollout 8",
    # Uncut, bonuses are ten times as large on average.
    "no_clipping": f"{BYOL} --agent.intrinsic.normaliser scaled --agent.intrinsic.scale 0.002",
    "random_target": f"{BYOL} --agent.target-decay 1",
    "not_shared": f"{BYOL} --agent.shared false",
    "random": "munchausen_dqn/deepsea --env.coverage --agent.epsilon-start 1 --agent.epsilon-end 1",
}
PLAIN = ("byol_explore", "rnd", "icm", "count_bonus", "on_policy", "munchausen_dqn")
# Environment steps by size, chosen on the seeds 100 to 102.
STEPS = {10: 200_000, 20: 400_000, 30: 1_000_000, 40: 2_000_000}
SOLVED = 0.9  # of 0.99


def command(agent: str, size: int, arguments: argparse.Namespace) -> list[str]:
    steps = arguments.steps or STEPS[size]
    every = steps // 25
    options = f"--env.options.size {size} --steps {steps} --evaluate-every {every}"
    options += f" --log-every {every} --checkpoint-every {steps}"
    options += f" --evaluation-episodes {1024 if arguments.stochastic else 4}"
    seeds = f"--seed {arguments.first_seed} --seeds {arguments.seeds}"
    curious = agent not in ("munchausen_dqn", "random")
    if arguments.reward_free and curious:
        options += " --agent.extrinsic-scale 0"
    if arguments.stochastic:
        options += " --env.options.deterministic false"
    return [*AGENTS[agent].split(), *options.split(), *seeds.split(), *arguments.overrides]


def threshold(size: int, stochastic: bool) -> float:
    """The mean return that counts as solved; half of the best one where moves slip.

    There the two ends of the bottom row pay N(0, 1) too: over 1,024 episodes 0.03.
    """
    return 0.5 * (1 - 1 / size) ** (size - 1) if stochastic else SOLVED


def solved_after(steps: np.ndarray, solved: np.ndarray) -> np.ndarray:
    """[seeds] steps of the first evaluation that was solved [seeds, P], inf for none."""
    return np.where(solved.any(axis=1), steps[solved.argmax(axis=1)], np.inf)


def wilson(count: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of the probability of what came up `count` times."""
    interval = binomtest(int(count), of).proportion_ci(method="wilson")
    return interval.low, interval.high


def share(count: int, of: int) -> str:
    """`k of n [low, high]`."""
    low, high = wilson(count, of)
    return f"{count} of {of} [{low:.2f}, {high:.2f}]"


def show(size: int, runs: dict[str, Path], arguments: argparse.Namespace) -> None:
    """Prints the table of a size and draws its curves."""
    rows = []
    figure, axes = panels(1, 2, share=False)
    for number, (agent, folder) in enumerate(runs.items()):
        steps, returns = evaluations(folder)
        solved = returns >= threshold(size, arguments.stochastic)
        after = solved_after(steps, solved)
        at, coverage = column(folder, "train", "coverage")
        half = coverage[:, np.searchsorted(at, at[-1] / 2)].mean()
        rows.append(
            {
                "agent": f"`{agent}`",
                "solved": share(int(np.isfinite(after).sum()), len(after)),
                "solved at the end": share(int(solved[:, -1].sum()), len(after)),
                "steps to solve, median": median_of(after, steps[-1]),
                "cells, half-way": f"{half:.0f}",
                "cells, end": f"{coverage[:, -1].mean():.0f}",
            }
        )
        line = {"color": COLOURS[number % len(COLOURS)], "label": agent}
        counts = np.array([(after <= step).sum() for step in steps])
        bounds = np.array([wilson(count, len(after)) for count in counts])
        axes[0, 0].fill_between(
            steps, *bounds.T, step="post", color=line["color"], alpha=0.12, linewidth=0
        )
        axes[0, 0].step(steps, counts / len(after), where="post", **line)
        draw(axes[0, 1], at, coverage, label=agent, number=number)
    print(f"\nDeepSea {size} x {size}, {arguments.seeds} seeds, {int(steps[-1]):,} steps\n")
    print(f"{table(rows)}\n", flush=True)
    dress(axes[0, 0], f"DeepSea {size}", "environment steps", "share of seeds that have solved it")
    dress(axes[0, 1], "", "environment steps", "cells visited")
    for axis in axes[0]:
        thousands(axis)
    legend(figure, axes[0, 0], min(len(runs), 6))
    save(figure, arguments.plots, f"deepsea_{size}{arguments.suffix}")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/deepsea"), help="their folder")
    parser.add_argument("--plots", type=Path, default=Path("docs/results"))
    parser.add_argument("--suffix", default="", help="of the plots' names")
    parser.add_argument("--sizes", nargs="+", type=int, default=[10, 20], choices=STEPS)
    parser.add_argument("--agents", nargs="+", default=list(PLAIN), choices=AGENTS)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=None, help="in place of each size's own")
    parser.add_argument("--reward-free", action="store_true", help="the bonus alone counts")
    parser.add_argument("--stochastic", action="store_true", help="one right move in N slips")
    parser.add_argument("overrides", nargs="*", help="options of bellmax train, after --")
    few = {"sizes": [10], "agents": ["count_bonus"], "seeds": 2, "steps": 1280}
    arguments = parse(parser, words, runs=SCRATCH, plots=SCRATCH, **few)
    for size in arguments.sizes:
        runs = {agent: arguments.runs / f"{size}_{agent}" for agent in arguments.agents}
        for agent, folder in runs.items():
            words = command(agent, size, arguments)
            if int(words[words.index("--steps") + 1]) not in evaluations(folder)[0]:
                train(folder, words)
        show(size, runs, arguments)


if __name__ == "__main__":
    main()

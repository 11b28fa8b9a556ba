"""Do the claims of QR-DQN-Retrace and VA-learning hold on MinAtar?

Each family of agents learns each game under one protocol, its seeds vmapped in one program. The
score of a run is the mean of its evaluations in the last quarter of training; over games, scores
are divided by the mean of the family's first agent and reported as an interquartile mean with a
bootstrap interval stratified by game. Runs that are complete in DIR are not repeated,
others continue.

    python benchmarks/minatar.py --runs DIR [--games breakout ...] [--families quantiles ...]
"""

import argparse
from pathlib import Path

import numpy as np
from arguments import SCRATCH, parse
from report import draw, dress, interval, legend, panels, save, thousands
from runs import evaluations, train
from timing import table

from bellmax.launch.reporting.statistics import bootstrap_interval, interquartile_mean

GAMES = ("asterix", "breakout", "freeway", "space_invaders")
# The decay of epsilon is shorter than in the presets, which are for 10M steps.
PROTOCOL = "--agent.epsilon-steps 100000"
SMALL = "--warmup-steps 500 --evaluation-episodes 2 --evaluation-max-steps 20 "
SMALL += "--agent.network.torso mlp --agent.network.hidden 8"
FAMILIES = {
    "quantiles": {
        "one_step": "qr_dqn_retrace --agent.trace one_step --agent.n-step 1",
        "retrace": "qr_dqn_retrace",
        "uncorrected": "qr_dqn_retrace --agent.trace uncorrected",
    },
    "advantages": {
        "q_learning": "dqn",
        "va": "va_learning",
        "behaviour_dueling": "va_learning --agent.loss behaviour_dueling",
        "uniform_dueling": "va_learning --agent.loss behaviour_dueling --agent.behaviour uniform",
    },
}
AGENTS = [agent for family in FAMILIES.values() for agent in family]
TITLES = {"quantiles": "QR-DQN, K = 1 and 3", "advantages": "VA-learning, dueling and Q-learning"}


def chosen(family: str, arguments: argparse.Namespace) -> dict[str, str]:
    """The agents of a family that were asked for."""
    return {name: v for name, v in FAMILIES[family].items() if name in arguments.agents}


def command(game: str, agent: str, arguments: argparse.Namespace) -> list[str]:
    preset, *options = agent.split()
    every, logs = arguments.evaluate_every, max(arguments.steps // 5, arguments.evaluate_every)
    shared = f"--seed {arguments.first_seed} --seeds {arguments.seeds} --steps {arguments.steps}"
    shared += f" --evaluate-every {every} --evaluation-episodes 20 --log-every {logs}"
    asked = *options, *PROTOCOL.split(), *shared.split(), *arguments.overrides
    return [f"{preset}/minatar_{game}", *asked]


def score(steps: np.ndarray, returns: np.ndarray, end: int) -> np.ndarray:
    """[seeds] mean return of the evaluations in the last quarter."""
    return returns[:, steps > 0.75 * end].mean(axis=1)


def show(family: str, results: dict, arguments: argparse.Namespace) -> None:
    """Prints the family's table and draws its curves; results[game, agent] = (steps, returns)."""
    agents, games = chosen(family, arguments), arguments.games
    end = arguments.steps
    scores = {key: score(*result, end) for key, result in results.items()}
    first = next(iter(agents))
    rows = []
    for agent in agents:
        row = {"agent": f"`{agent}`"}
        row |= {game.replace("_", " "): interval(scores[game, agent]) for game in games}
        relative = [scores[game, agent] / scores[game, first].mean() for game in games]
        low, high = bootstrap_interval(np.transpose(relative), interquartile_mean)
        middle = interquartile_mean(relative)
        row["of the first, IQM over games"] = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
        rows.append(row)
    print(f"\n{family}, {arguments.seeds} seeds, {end:,} steps\n\n{table(rows)}\n")
    figure, axes = panels(1, len(games), share=False)
    for column, game in zip(axes[0], games, strict=True):
        for number, agent in enumerate(agents):
            draw(column, *results[game, agent], label=agent, number=number)
        dress(column, game.replace("_", " "), "environment steps", "evaluation return")
        thousands(column)
    figure.suptitle(TITLES[family])
    legend(figure, axes[0, 0], len(agents))
    save(figure, arguments.plots, f"minatar_{family}")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/minatar"), help="their folder")
    parser.add_argument("--plots", type=Path, default=Path("docs/results"))
    parser.add_argument("--games", nargs="+", default=GAMES, choices=GAMES)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--evaluate-every", type=int, default=50_000)
    parser.add_argument("--agents", nargs="+", default=AGENTS, choices=AGENTS)
    parser.add_argument("overrides", nargs="*", help="options of bellmax train, after --")
    few = {"games": ["breakout"], "families": ["advantages"], "agents": ["q_learning", "va"]}
    few |= {"seeds": 2, "steps": 1000, "evaluate_every": 500, "overrides": SMALL.split()}
    arguments = parse(parser, words, runs=SCRATCH, plots=SCRATCH, **few)
    for family in arguments.families:
        results = {}
        for game in arguments.games:
            for agent, options in chosen(family, arguments).items():
                folder = arguments.runs / f"{game}_{agent}"
                result = evaluations(folder)
                if arguments.steps not in result[0]:
                    train(folder, command(game, options, arguments))
                    result = evaluations(folder)
                results[game, agent] = result
        show(family, results, arguments)


if __name__ == "__main__":
    main()

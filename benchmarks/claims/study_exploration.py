"""BYOL-Explore against no bonus on DeepSea, and its ablations on aliased observations."""

import functools

import numpy as np
from benchmarks.claims.agent_runs import design, evaluation_options, train_job
from benchmarks.claims.lanes import Lanes
from benchmarks.claims.study import Study

STEPS = {"deepsea-10": 100_000, "deepsea-20": 400_000, "deepsea-30": 1_000_000}
STEPS |= {"deepsea-40": 2_000_000, "aliased-10": 200_000, "aliased-14": 300_000}
SOLVED = 0.9
BYOL = "byol_explore/deepsea"
ABLATIONS = {
    "byol_explore": f"{BYOL}",
    "one_step_ahead": f"{BYOL} --agent.horizon 1",
    "random_target": f"{BYOL} --agent.target-decay 1",
    # Uncut, bonuses are ten times as large on average.
    "no_clipping": f"{BYOL} --agent.intrinsic.normaliser scaled",
}


def measure(lanes: Lanes, task: str) -> dict[str, np.ndarray]:
    """solve: [lanes] share of the budget until the first evaluation that is solved, 1 for never."""
    steps, solved = lanes.steps, lanes.returns >= SOLVED
    first = np.where(solved.any(axis=1), steps[solved.argmax(axis=1)] / steps[-1], 1.0)
    found = {"solve": first, "solved": solved.any(axis=1).astype(float)}
    return found | {"cells": lanes.logs["coverage"][:, -1]}


def command(task: str, side: str, tuning: bool, presets: dict[str, str]) -> list[str]:
    kind, size = task.split("-")
    words = presets[side].split() + evaluation_options(STEPS[task], 25, 4)
    if kind == "aliased":
        words += ["--env.name", "benchmarks.claims.tasks:AliasedDeepSea"]
    return [*words, "--env.options.size", size]


def minutes(task: str, tuning: bool) -> float:
    """On one core, at 16,000 steps a second of one seed."""
    return STEPS[task] * (12 if tuning else 10) / 16_000 / 60 + 0.4


def make_deepsea() -> Study:
    presets = {"on_policy": "on_policy/deepsea", "byol_explore": BYOL}
    presets["rnd"] = "rnd/deepsea"
    rates = (3e-4, 1e-3, 2e-3)
    scale = "agent.intrinsic.scale", (0.01, 0.03)
    return Study(
        claim="byol_explore",
        name="exploration_deepsea",
        question="Does BYOL-Explore find the one reward of DeepSea where no bonus does not?",
        tasks=("deepsea-10", "deepsea-20", "deepsea-30", "deepsea-40"),
        sides={
            "on_policy": design(
                rates, "agent.advantage_decay", (0.9, 0.95), "agent.entropy_cost", (0.01, 0.03)
            ),
            "byol_explore": design(rates, "agent.target_decay", (0.97, 0.99), *scale),
            "rnd": design(rates, "agent.advantage_decay", (0.9, 0.95), *scale),
        },
        metrics={"solve": "lower"},
        run=functools.partial(
            train_job, command=functools.partial(command, presets=presets), measure=measure
        ),
        tuning_seeds=(100, 101),
        test_seeds=tuple(range(2000, 2010)),
        unit="environment steps",
        curve="evaluation return",
        together=True,
        minutes=minutes,
        reported=("solved", "cells"),
        tuned_on={f"deepsea-{size}": "deepsea-10" for size in (20, 30, 40)},
        notes="One recurrent actor-critic (PPO) that differs in its bonus alone. `solve` is the "
        "share of the budget until the first greedy evaluation of at least 0.9. Six trials a side: "
        "three step sizes, two values of the target's decay (where there is no target network: of "
        "lambda) and two of the bonus' weight (no bonus: of the entropy's).",
    )


def make_ablations() -> Study:
    rates, scale = (3e-4, 1e-3, 2e-3), "agent.intrinsic.scale"
    decay = "agent.advantage_decay", (0.9, 0.95)
    tried = {side: design(rates, *decay, scale, (0.01, 0.03)) for side in ABLATIONS}
    tried["no_clipping"] = design(rates, *decay, scale, (0.001, 0.003))
    return Study(
        claim="byol_explore",
        name="exploration_aliased",
        question="Do steps ahead, the learnt target and clipping matter where observations are "
        "aliased?",
        tasks=("aliased-10", "aliased-14"),
        sides=tried,
        metrics={"solve": "lower"},
        run=functools.partial(
            train_job, command=functools.partial(command, presets=ABLATIONS), measure=measure
        ),
        tuning_seeds=(100, 101),
        test_seeds=tuple(range(2000, 2010)),
        unit="environment steps",
        curve="evaluation return",
        together=True,
        minutes=minutes,
        reported=("solved", "cells"),
        tuned_on={"aliased-14": "aliased-10"},
        notes="DeepSea whose cells show one of six symbols: only the way there tells where one is. "
        "Six trials a side: three step sizes, two values of lambda, two of the bonus' weight.",
    )

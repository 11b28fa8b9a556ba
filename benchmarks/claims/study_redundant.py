"""VA-learning and dueling with small networks where there are many actions."""

import functools

import numpy as np
from benchmarks.claims.agent_runs import design, evaluation_options, train_job
from benchmarks.claims.lanes import Lanes
from benchmarks.claims.study import Study

STEPS, SOLVED = 60_000, 0.9
DUELING = "va_learning --agent.loss behaviour_dueling"
SIDES = {
    "q_learning": "dqn",
    "va": "va_learning",
    "uniform_dueling": f"{DUELING} --agent.behaviour uniform",
    "behaviour_dueling": DUELING,
}


def command(task: str, side: str, tuning: bool) -> list[str]:
    agent, *options = SIDES[side].split()
    # The presets of the four agents are one but for the agent's name.
    words = ["dqn/deepsea", "--agent.name", agent, *options]
    words += ["--env.name", "benchmarks.claims.tasks:redundant_deepsea"]
    words += ["--env.options.size", "8", "--env.options.copies", task.removeprefix("copies-")]
    words += ["--agent.target-period", "1", "--agent.epsilon-steps", str(STEPS // 2)]
    return words + evaluation_options(STEPS, 20, 4)


def measure(lanes: Lanes, task: str) -> dict[str, np.ndarray]:
    """solve: [lanes] share of the budget until the first evaluation that is solved, 1 for never."""
    solved = lanes.returns >= SOLVED
    first = np.where(solved.any(axis=1), lanes.steps[solved.argmax(axis=1)] / lanes.steps[-1], 1.0)
    return {"solve": first, "solved": solved.any(axis=1).astype(float)}


def make_study() -> Study:
    rates, rate = (3e-4, 1e-3, 3e-3), ("agent.target_rate", (0.02, 0.005))
    own = design(rates, *rate, "agent.huber_delta", (0.1, 1.0))
    return Study(
        claim="va_learning",
        name="va_redundant",
        question="Does it help small networks that have many actions?",
        tasks=("copies-10", "copies-1", "copies-50"),
        sides=dict.fromkeys(SIDES, own),
        metrics={"solve": "lower"},
        run=functools.partial(train_job, command=command, measure=measure),
        tuning_seeds=(100, 101),
        test_seeds=tuple(range(2000, 2010)),
        unit="environment steps",
        curve="evaluation return",
        together=True,
        minutes=lambda task, tuning: 2.0,
        reported=("solved", "return"),
        notes="DeepSea of 8 x 8 whose two actions there are 10, 1 or 50 times each. `solve` is the "
        "share of the budget until the first greedy evaluation of at least 0.9. Six trials a side: "
        "step size, rate of the target network, Huber threshold.",
    )

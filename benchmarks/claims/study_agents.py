"""Six value agents on MinAtar with sticky actions, as the presets have them: a table, no claim."""

import functools

from benchmarks.claims.agent_runs import evaluation_options, nothing, train_job
from benchmarks.claims.study import Study
from benchmarks.claims.study_minatar import GAMES

STEPS = 1_000_000
PQN_ROLLOUT, PQN_UPDATES = 128 * 32, 64  # environment and gradient steps of the preset's iteration
SIDES = {
    "pqn": "pqn",
    "munchausen_dqn": "munchausen_dqn",
    "dqn": "dqn",
    "c51": "c51",
    "iqn": "iqn",
    "m_iqn": "iqn --agent.munchausen true",
}
RATES = dict.fromkeys(SIDES, 2.5e-4) | {"pqn": 5e-4}  # of the presets
STEP_SECONDS = 0.002  # of an environment step of one seed on one core: assumed, not measured


def command(task: str, side: str, tuning: bool, steps: int) -> list[str]:
    agent, *options = SIDES[side].split()
    words = [f"{agent}/minatar_{task}", *options]
    words += ["--env.name", "benchmarks.claims.tasks:sticky_minatar"]
    words += ["--env.options.game", GAMES[task]]
    if side == "pqn":  # schedules as shares of the run, as in the preset
        updates = max(1, steps // PQN_ROLLOUT) * PQN_UPDATES
        words += ["--agent.learning-rate-steps", str(updates)]
        words += ["--agent.epsilon-steps", str(steps // 10)]
    else:
        words += ["--agent.epsilon-steps", str(steps // 3)]
    return words + evaluation_options(steps, 20, 50)


def minutes(task: str, tuning: bool, seeds: int, steps: int) -> float:
    return seeds * steps * STEP_SECONDS / 60 + 1


def make_study(steps: int = STEPS) -> Study:
    seeds = (3000, 3001, 3002)
    return Study(
        claim="minatar",
        name="minatar_agents",
        question="What do the presets of six value agents earn on MinAtar in 1M steps?",
        tasks=tuple(GAMES),
        sides={side: ({"agent.learning_rate": RATES[side]},) for side in SIDES},
        metrics={"return": "higher"},
        run=functools.partial(
            train_job, command=functools.partial(command, steps=steps), measure=nothing
        ),
        tuning_seeds=(),
        test_seeds=seeds,
        unit="environment steps",
        curve="evaluation return",
        together=True,
        minutes=functools.partial(minutes, seeds=len(seeds), steps=steps),
        reported=("mean_return",),
        notes=f"gymnax's games with sticky actions 0.1, {steps:,} steps, the presets without "
        "tuning; epsilon falls over the first third of the steps (PQN: a tenth, and its learning "
        "rate to 0 at the end). `return` is the mean of the evaluations in the last quarter, "
        "`mean_return` that of all.",
    )

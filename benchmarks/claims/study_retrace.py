"""Retrace against one step and uncorrected windows, with networks."""

import functools

from benchmarks.claims.agent_runs import design, evaluation_options, nothing, train_job
from benchmarks.claims.study import Study

CONFIG = "benchmarks/claims/configs/far_quantiles.yaml"
TASKS = {"mountain_car": "gymnax/MountainCar-v0", "acrobot": "gymnax/Acrobot-v1"}
TRACES = ("one_step", "retrace", "uncorrected")
STEPS = 150_000


def command(task: str, side: str, tuning: bool) -> list[str]:
    words = [CONFIG, "--env.name", TASKS[task], "--agent.trace", side]
    return words + evaluation_options(STEPS, 15, 20)


def make_study() -> Study:
    rates, rate = (3e-4, 1e-3, 3e-3), ("agent.target_rate", (0.02, 0.005))
    windows = design(rates, *rate, "agent.n_step", (3, 10))
    # K = 5 takes the place of the middle step size's repetition of 3 and 10.
    windows = tuple(
        t | {"agent.n_step": 5} if t["agent.learning_rate"] == 1e-3 else t for t in windows
    )
    one = tuple(
        t | {"agent.n_step": 1} for t in design(rates, *rate, "agent.huber_delta", (1.0, 10.0))
    )
    return Study(
        claim="qr_dqn_retrace",
        name="retrace_control",
        question="Does Retrace help networks where the reward is far and exploration random?",
        tasks=("mountain_car", "acrobot"),
        sides={"one_step": one, "retrace": windows, "uncorrected": windows},
        metrics={"mean_return": "higher"},
        run=functools.partial(train_job, command=command, measure=nothing),
        tuning_seeds=(100, 101, 102),
        test_seeds=tuple(range(2000, 2010)),
        unit="environment steps",
        curve="evaluation return",
        together=True,
        minutes=lambda task, tuning: 2.5 if tuning else 1.5,
        reported=("return",),
        notes="QR-DQN of 32 quantiles, two layers of 64. Six trials a side: step size, rate of "
        "the target network, and K in 3, 5, 10, or for one step the Huber threshold.",
    )

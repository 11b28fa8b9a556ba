"""ExpectRL's one pessimistic critic against TD3's two and against one without pessimism."""

import functools

import numpy as np
import overestimation
from benchmarks.claims.agent_runs import design, evaluation_options, train_job
from benchmarks.claims.lanes import Lanes
from benchmarks.claims.study import Study

STEPS = {"pendulum": 20_000, "hopper": 100_000, "walker2d": 100_000, "halfcheetah": 100_000}
SIDES = {
    "td3": "td3 --agent.reduce min",
    "one_critic": "td3 --agent.num-critics 1",
    "expectrl": "expectrl",
}


def command(task: str, side: str, tuning: bool) -> list[str]:
    agent, *options = SIDES[side].split()
    words = [f"{agent}/pendulum", *options]
    if task != "pendulum":
        words += f"--env.name brax/{task} --env.num-envs 8 --updates-per-rollout 4".split()
        words += "--warmup-steps 5000 --agent.random-steps 5000".split()
        words += "--agent.network.hidden 128,128 --replay.capacity 100000".split()
    return words + evaluation_options(STEPS[task], 10, 10)


def measure(lanes: Lanes, task: str) -> dict[str, np.ndarray]:
    """overestimation: [lanes] the critic's value less the discounted return of its policy."""
    found = overestimation.compare(lanes.config, lanes.agent, lanes.state)
    size = np.maximum(np.abs(found["return"]), 1.0)
    return {"overestimation": found["difference"], "relative": found["difference"] / size}


def minutes(task: str, tuning: bool) -> float:
    """On one core, at 0.6 ms a gradient step of one seed, 5 ms on brax's tasks."""
    steps, seeds = STEPS[task], 12 if tuning else 10
    each = 0.0006 if task == "pendulum" else 0.0025
    return steps * seeds * each / 60 + 0.5


def make_study() -> Study:
    rates, rate = (3e-4, 1e-3, 2e-3), ("agent.target_rate", (0.005, 0.02))
    noise = design(rates, *rate, "agent.target_noise", (0.1, 0.2))
    return Study(
        claim="expectrl",
        name="expectrl_control",
        question="Does one pessimistic critic do the work of TD3's two?",
        tasks=("pendulum", "hopper", "walker2d", "halfcheetah"),
        sides={
            "td3": noise,
            "one_critic": noise,
            "expectrl": design(rates, *rate, "agent.alpha", (0.3, 0.4)),
        },
        metrics={"mean_return": "higher"},
        run=functools.partial(train_job, command=command, measure=measure),
        tuning_seeds=(100, 101),
        test_seeds=tuple(range(2000, 2010)),
        unit="environment steps",
        curve="evaluation return",
        together=True,
        minutes=minutes,
        reported=("return", "overestimation", "relative"),
        notes="Six trials a side: step size, rate of the target networks, and alpha, or for TD3 "
        "the noise of the target's actions.",
    )

"""MinAtar with sticky actions: M-DQN against DQN, Retrace and VA-learning against their bases."""

import functools

from benchmarks.claims import action_gap
from benchmarks.claims.agent_runs import design, evaluation_options, nothing, train_job
from benchmarks.claims.lanes import Lanes
from benchmarks.claims.study import Study

GAMES = {"breakout": "Breakout", "asterix": "Asterix", "freeway": "Freeway"}
GAMES |= {"space_invaders": "SpaceInvaders"}
RATES = 1e-4, 2.5e-4, 5e-4
# Of a gradient step, in the place of copies every 250 and 1,000: a leaf, where a period is not.
RATE = "agent.target_rate", (0.004, 0.001)
LEARN_SECONDS = 0.0016  # of a gradient step of one seed on one core


def command(task: str, side: str, tuning: bool, agents: dict[str, str], steps: int) -> list[str]:
    agent, *options = agents[side].split()
    words = [f"{agent}/minatar_breakout", *options]
    words += ["--env.name", "benchmarks.claims.tasks:sticky_minatar"]
    words += ["--env.options.game", GAMES[task]]
    steps = min(steps, 100_000) if tuning else steps
    words += ["--agent.epsilon-steps", str(steps // 3), "--warmup-steps", "5000"]
    words += ["--agent.target-period", "1"]
    return words + evaluation_options(steps, 10, 20)


def gaps(lanes: Lanes, task: str) -> dict:
    return action_gap.measure(lanes)


def minutes(task: str, tuning: bool, steps: int) -> float:
    gradient_steps = (min(steps, 100_000) * 12 if tuning else steps * 5) / 4
    return gradient_steps * LEARN_SECONDS / 60 + 1


def _study(claim, name, question, agents, sides, steps, measure, reported) -> Study:
    return Study(
        claim=claim,
        name=name,
        question=question,
        tasks=tuple(GAMES),
        sides=sides,
        metrics={"mean_return": "higher"},
        run=functools.partial(
            train_job,
            command=functools.partial(command, agents=agents, steps=steps),
            measure=measure,
        ),
        tuning_seeds=(100, 101),
        test_seeds=tuple(range(2000, 2005)),
        unit="environment steps",
        curve="evaluation return",
        together=True,
        minutes=functools.partial(minutes, steps=steps),
        reported=("return", *reported),
        tuned_on={game: "breakout" for game in list(GAMES)[1:]},
        notes=f"gymnax's games with sticky actions 0.1, {steps:,} steps, tuned on Breakout over "
        "100,000 steps. Six trials a side: step size, rate of the target network, and a parameter "
        "of its own.",
    )


def make_munchausen(steps: int = 300_000) -> Study:
    return _study(
        "munchausen_dqn",
        f"munchausen_minatar_{steps // 1000}k",
        "Does M-DQN earn more than DQN on MinAtar, with larger action gaps?",
        {"dqn": "dqn", "munchausen_dqn": "munchausen_dqn"},
        {
            "dqn": design(RATES, *RATE, "agent.huber_delta", (1, 10)),
            "munchausen_dqn": design(RATES, *RATE, "agent.temperature", (0.01, 0.03)),
        },
        steps,
        gaps,
        ("relative_gap",),
    )


def make_retrace(steps: int = 300_000) -> Study:
    windows = design(RATES, *RATE, "agent.n_step", (3, 5))
    one = design(RATES, *RATE, "agent.huber_delta", (0.1, 1))
    base = "qr_dqn_retrace --agent.trace"
    return _study(
        "qr_dqn_retrace",
        f"retrace_minatar_{steps // 1000}k",
        "Does Retrace help QR-DQN on MinAtar?",
        {"one_step": f"{base} one_step --agent.n-step 1"}
        | {trace: f"{base} {trace}" for trace in ("retrace", "uncorrected")},
        {"one_step": one, "retrace": windows, "uncorrected": windows},
        steps,
        nothing,
        (),
    )


def make_va(steps: int = 300_000) -> Study:
    own = design(RATES, *RATE, "agent.huber_delta", (1, 10))
    dueling = "va_learning --agent.loss behaviour_dueling"
    return _study(
        "va_learning",
        f"va_minatar_{steps // 1000}k",
        "Does VA-learning help on MinAtar?",
        {
            "q_learning": "dqn",
            "va": "va_learning",
            "uniform_dueling": f"{dueling} --agent.behaviour uniform",
            "behaviour_dueling": dueling,
        },
        dict.fromkeys(("q_learning", "va", "uniform_dueling", "behaviour_dueling"), own),
        steps,
        nothing,
        (),
    )

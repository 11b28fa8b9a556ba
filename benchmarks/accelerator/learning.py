"""The section on learning: Munchausen DQN and DQN on MinAtar, in turns, with checkpoints."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from benchmarks.accelerator import plan
from benchmarks.accelerator.programs import Program, prepare, start
from benchmarks.accelerator.work import Work, fits
from minatar import PROTOCOL
from report import interval

from bellmax import UserError
from bellmax.launch.config.run_config import to_yaml
from bellmax.launch.runners.evaluation import evaluation_rows
from bellmax.launch.training.checkpoints import Checkpoints

AGENTS = ("munchausen_dqn", "dqn")
GAMES = ("minatar_breakout", "minatar_space_invaders", "minatar_asterix", "minatar_freeway")
SEEDS, SLOWDOWN = 16, 2.0  # seeds without figures of speed; what more of them may cost
STEPS, EVERY = 500_000, 25_000  # environment steps per seed of a game, and of one turn
MOST_SEEDS = 256  # more of them make the interval hardly narrower


class Learner:
    """One agent on one game, in a run's folder of which `bellmax evaluate` reads the checkpoint.

    `bellmax resume` does not: the checkpoint has no replay.
    """

    def __init__(self, program: Program, folder: Path):
        self.program, self.folder = program, folder
        self.state, self.steps, self.seconds = start(program), 0, 0.0
        self.saved: int | None = None
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=1)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(to_yaml(program.config))
        # Compiled now, so that the first turn is a measure of the others.
        jax.block_until_ready(program.experiment.evaluate(self.state, 0))

    def turn(self, steps: int) -> dict[str, Any]:
        """Train for some more environment steps per seed, and evaluate."""
        experiment, began = self.program.experiment, time.monotonic()
        rollouts = steps // self.program.config.env.num_envs
        self.state, metrics = self.program.advance(self.state, np.int32(0), np.int32(rollouts))
        jax.block_until_ready(self.state)
        self.seconds += time.monotonic() - began
        self.steps = int(self.state.vector_steps) * self.program.config.env.num_envs
        episodes = experiment.evaluate(self.state, self.steps)
        rows = evaluation_rows(episodes, experiment.seeds, self.steps)
        returns = [row["episode_return"] for row in rows]
        self._save()
        return {
            "agent": self.program.config.agent_name,
            "seeds": len(returns),
            "steps": self.steps,
            "return": interval(returns) if len(returns) > 1 else f"{returns[0]:.3g}",
            "training, s": self.seconds,
            "finite": bool(metrics.finite.all()),
            "returns": returns,
        }

    def _save(self) -> None:
        """Save all but the replay, which is most of the bytes and which no evaluation needs."""
        self.checkpoints.save(self.steps, self.state._replace(replay=()), metric=None, extra={})
        self.saved = self.steps


def measure_learning(work: Work) -> Iterator[Any]:
    """Games one after the other, for as long as there is time."""
    seeds = 2 if work.small else _seeds(work.rows.get("rates", []))
    steps, every = (2_000, 1_000) if work.small else (STEPS, EVERY)
    for game in ("cartpole",) if work.small else GAMES:
        if work.left() < 5:
            yield f"`{game}` did not fit"
            return
        try:
            learners = [_learner(work, agent, game, seeds) for agent in AGENTS]
        except UserError as error:
            yield f"`{game}` was passed over: {error}"
            return
        taken: list[float] = []
        while learners[0].steps < steps and fits(work, taken):
            began = time.monotonic()
            for learner in learners:
                yield {"game": game} | learner.turn(every)
            taken = [time.monotonic() - began]
        for learner in learners:
            name, saved = learner.folder.name, learner.saved
            kept = "no checkpoint" if saved is None else f"checkpoint {saved:,}"
            yield f"`{name}`: {learner.steps:,} steps, {kept}"


def _seeds(rates: list[dict[str, Any]]) -> int:
    preset = "munchausen_dqn/minatar_breakout"
    found = plan.seeds_that_fit(rates, preset, slowdown=SLOWDOWN, default=SEEDS)
    return min(found, MOST_SEEDS)


def _learner(work: Work, agent: str, game: str, seeds: int) -> Learner:
    options = [*PROTOCOL.split(), f"--seeds={seeds}", "--evaluation-episodes=20"]
    if work.small:
        options += ["--replay.capacity=2000", "--warmup-steps=500", "--evaluation-max-steps=100"]
    program = prepare(f"{agent}/{game}", options, with_init=False)
    folder = work.out / "runs" / f"{game}_{agent}"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run, with other steps
    return Learner(program, folder)

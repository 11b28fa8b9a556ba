"""The checks of benchmarks/soak.py find each step that is lost, doubled or mislabelled."""

import functools
import importlib
from pathlib import Path

import numpy as np
import pytest

from bellmax.envs import LoopBatch
from bellmax.envs.host import HostVector
from bellmax.launch.actors.actor import Actor

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def soak(monkeypatch):
    """The modules soak_checks and soak_task; a benchmark is no package and imports by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("soak_checks"), importlib.import_module("soak_task")


def test_the_soak_sees_what_is_lost_doubled_or_mislabelled(soak, tmp_path):
    checks, task = soak
    ledger = tmp_path / "ledger"
    env = HostVector(LoopBatch(functools.partial(task.FaultyCartPole, str(ledger), 40), 4))

    def soaked(rollouts):
        return functools.reduce(checks.Tally.take, rollouts, checks.Tally())

    def act(observation, memory, is_first, now):
        return observation, np.arange(now, now + 4, dtype=np.int32) % 2, (), ()

    actor = Actor(env, lambda acting: act, length=4, observes=False, normalised=False, seed=0)
    taken = [actor.collect(None, (), now) for now in range(0, 400, 4)]
    rollouts = [collected.records for collected, _ in taken]
    whole = soaked(rollouts)
    assert not any(whole.verdict) and whole.steps == 400
    assert whole.transitions == sum(sums.env_steps for _, sums in taken)
    raised = task.read_ledger(ledger, "raised")
    assert len(raised) > 20 and len(whole.numbers) == 4 + len(raised)
    assert all(whole.numbers[i] == number - 1 for i, number in raised.items())

    at = next(i for i, steps in enumerate(rollouts) if i > 9 and steps.is_last.any())
    before, one, after = rollouts[:at], rollouts[at], rollouts[at + 1 :]
    wrong = {
        "lost": [[*before, *after], [*before, one, *after[1:]], rollouts[1:]],
        "doubled": [[*before, one, *rollouts[at:]], [*rollouts, *rollouts]],
        "mislabelled": [
            [*before, changed, *after]
            for changed in (
                one._replace(is_first=~one.is_first),
                one._replace(is_last=np.zeros_like(one.is_last)),
                one._replace(is_last=np.ones_like(one.is_last)),
                one._replace(action=1 - one.action),
                one._replace(reward=one.reward + 1),
                one._replace(discount=1 - one.discount),
            )
        ],
    }
    for kind, streams in wrong.items():
        for stream in streams:
            assert getattr(soaked(stream).verdict, kind) > 0, kind

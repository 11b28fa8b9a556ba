"""Spaces without an entry, without an action or without numbers are refused in a sentence."""

import gymnasium
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.envs import (
    HostVector,
    LoopBatch,
    check_env,
    from_dm_env,
    from_gymnasium,
    make_batch,
    vectorise,
)
from helpers.odd_tasks import JaxChanged, gym_with
from helpers.scripted_host import DmCounter, HostCounter

CASES = [
    ("action", specs.BoundedArray((0,), np.float32, -1.0, 1.0), "have at least one entry"),
    ("action", specs.Array((2, 0), np.float32), "at least one entry, got shape (2, 0)"),
    ("action", specs.BoundedArray((2,), np.float32, np.nan, 1.0), "must be numbers, got NaN"),
    ("action", specs.BoundedArray((2,), np.int32, 0, 3), "must be a dm_env DiscreteArray or"),
    ("action", specs.StringArray(()), "must be numeric, got dtype"),
    ("action", 3, "must be a dm_env spec, got a int"),
    ("observation", specs.Array((0,), np.float32), "must have at least one entry, got shape (0,)"),
    ("observation", specs.BoundedArray((2,), np.float32, 0.0, np.nan), "must be numbers, got NaN"),
]


class JaxTask(JaxChanged):
    """A sound JAX task with another spec."""

    def __init__(self, **parts):
        super().__init__()
        self.parts = parts

    @property
    def spec(self):
        return self.inner.spec._replace(name="mine", **self.parts)


def host_task(**parts):
    task = HostCounter()
    task.spec = task.spec._replace(name="mine", **parts)
    return task


@pytest.mark.parametrize(("part", "spec", "words"), CASES)
def test_specs_that_no_agent_can_use(part, spec, words):
    for use in (
        lambda: vectorise(JaxTask(**{part: spec}), 2),
        lambda: HostVector(LoopBatch(lambda: host_task(**{part: spec}), 1)),
    ):
        with pytest.raises(UserError) as error:
            use()
        assert str(error.value).startswith("mine: ") and words in str(error.value)
    for task in (JaxTask(**{part: spec}), host_task(**{part: spec})):
        (problem,) = check_env(task)
        assert words in problem and problem.endswith(".")


def test_spaces_of_gymnasium_without_an_entry():
    for part in ("action_space", "observation_space"):
        env = gym_with(**{part: gymnasium.spaces.Box(-1, 1, (0,))})
        with pytest.raises(UserError, match="mine: .* must have at least one entry, got shape"):
            HostVector(LoopBatch(lambda env=env: from_gymnasium(env, "mine"), 1))


def test_specs_of_dm_env_without_an_entry():
    class NoAction(DmCounter):
        def action_spec(self):
            return specs.Array((0,), np.float64)

    with pytest.raises(UserError, match="mine: spec.action must have at least one entry"):
        HostVector(LoopBatch(lambda: from_dm_env(NoAction, "mine"), 1))


@pytest.mark.parametrize("name", ["no_actions", "low_above_high", "no_bits"])
def test_spaces_that_cannot_be_made(name):
    with pytest.raises(UserError, match=rf"{name} cannot be made: .*odd_tasks.py, line \d+\)"):
        make_batch(f"helpers.odd_tasks:{name}", 1)

"""A CartPole that raises at random, and whose observations identify their instance and step.

In addition to the numbers that the policy needs, an observation has four marks that identify each
step in replay. They are integers times 2**-100, which is exact in float32 and too small to affect a
network.
"""

import fcntl
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from dm_env import specs

from bellmax.envs import EnvSpec
from bellmax.envs.host import HostTimeStep

_SCALE = 2.0**-100
_LIMIT = 500
TERMINATED, TRUNCATED = 1, 2


class Marks(NamedTuple):
    """The marks of a step, int64.

    instance: its number. number: observations that this instance showed before.
    ending: 1 if the episode terminates here, 2 if a time limit cuts it, else 0.
    action: 1 plus the action that led here, 0 at a reset.
    """

    instance: np.ndarray
    number: np.ndarray
    ending: np.ndarray
    action: np.ndarray


class FaultyCartPole:
    """CartPole-v1 as a HostEnvironment that raises in one of `fault_every` steps; 0 for never.

    `ledger` is a file to which every instance writes `made INSTANCE PID`, and `raised INSTANCE
    NUMBER` with the number of the observation that was due. It also numbers the instances.
    """

    def __init__(self, ledger: str, fault_every: int):
        self.spec = EnvSpec(
            "soak/FaultyCartPole",
            specs.Array((8,), np.float32, "observation"),
            specs.DiscreteArray(2, np.int32, "action"),
            time_limit=_LIMIT,
        )
        self._ledger = ledger
        self._risk = 1 / fault_every if fault_every else 0.0
        self._instance, self._number = _enter(ledger), -1
        self._rng = np.random.default_rng()
        self._physics, self._time = np.zeros(4), 0

    def reset(self, seed: int | None) -> HostTimeStep:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._physics, self._time = self._rng.uniform(-0.05, 0.05, 4), 0
        return self._show(reward=0.0, ending=0, action=0)

    def step(self, action: np.ndarray) -> HostTimeStep:
        if self._rng.random() < self._risk:
            _append(self._ledger, f"raised {self._instance} {self._number + 1}\n")
            raise RuntimeError("the pole broke")
        self._physics, self._time = _swing(self._physics, 10.0 if action else -10.0), self._time + 1
        fallen = abs(self._physics[0]) > 2.4 or abs(self._physics[2]) > 0.2095
        ending = TERMINATED if fallen else TRUNCATED if self._time == _LIMIT else 0
        return self._show(reward=1.0, ending=ending, action=1 + int(action))

    def _show(self, *, reward: float, ending: int, action: int) -> HostTimeStep:
        self._number += 1
        marks = np.array([self._instance, self._number, ending, action]) * _SCALE
        observation = np.concatenate([self._physics, marks]).astype(np.float32)
        return HostTimeStep(observation, reward, ending == TERMINATED, ending == TRUNCATED)

    def render(self) -> np.ndarray:
        return np.zeros((1, 1, 3), np.uint8)

    def close(self) -> None:
        pass


def read_marks(observation: np.ndarray) -> Marks:
    """The marks of observations [..., 8]."""
    marks = np.asarray(observation, np.float64)[..., 4:] / _SCALE
    return Marks(*np.moveaxis(marks.astype(np.int64), -1, 0))


def read_ledger(path: Path, word: str) -> dict[int, int]:
    """Return what each instance wrote after `word`, in order."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return {int(instance): int(value) for said, instance, value in lines if said == word}


def _enter(ledger: str) -> int:
    with open(ledger, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        instance = sum(line.startswith("made") for line in file)
        file.write(f"made {instance} {os.getpid()}\n")
        file.flush()
    return instance


def _append(path: str, line: str) -> None:
    with open(path, "a") as file:
        file.write(line)


def _swing(physics: np.ndarray, force: float) -> np.ndarray:
    """One Euler step of Gymnasium's CartPole-v1."""
    x, speed, angle, spin = physics.tolist()
    sine, cosine = float(np.sin(angle)), float(np.cos(angle))
    push = (force + 0.05 * spin**2 * sine) / 1.1
    twist = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
    gain = push - 0.05 * twist * cosine / 1.1
    return np.array(
        [x + 0.02 * speed, speed + 0.02 * gain, angle + 0.02 * spin, spin + 0.02 * twist]
    )

"""Parallel runs of a sweep, and the effect of signals, tested without processes."""

import contextlib
import os
import shutil
import sys
import types

import pytest

from bellmax import UserError
from bellmax.launch.studies.sweep.jobs import run_jobs
from bellmax.launch.studies.sweep.plan import Job
from bellmax.launch.studies.sweep.pools import Ended, Pool, make_pool


class Fakes:
    """A pool without processes, which records its calls."""

    def __init__(self, width):
        self.told, self.alive, self.most = [], set(), 0
        self.pool = Pool(lambda: width, self.start, self.poll, self.stop, self.kill)

    def start(self, job):
        self.told.append(("start", job.name))
        self.alive.add(job.name)
        self.most = max(self.most, len(self.alive))
        return job.name

    def poll(self, name):
        self.alive.discard(name)
        return Ended(0, "")

    def stop(self, name, number):
        self.told.append(("stop", name, number))

    def kill(self, name):
        self.told.append(("kill", name))


JOBS = [Job(name, {}, [], None) for name in "abc"]


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr("bellmax.launch.studies.sweep.jobs._PAUSE", 0)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_the_number_of_runs_at_once(at_once, width):
    fakes, ended = Fakes(width), []
    run_jobs(JOBS, fakes.pool, [], lambda job: None, lambda job, _: ended.append(job.name))
    assert sorted(ended) == ["a", "b", "c"] and fakes.most == min(width, 3)
    assert fakes.told == [("start", name) for name in "abc"]


def test_a_signal_is_passed_on_once_and_nothing_starts_after_it(at_once):
    fakes, came, looks = Fakes(2), [], []

    def poll(name):
        looks.append(name)
        came.extend([2] if len(looks) == 1 else [])
        return Ended(130, "") if name == "a" or len(looks) > 6 else None

    run_jobs(JOBS, fakes.pool._replace(poll=poll), came, lambda j: None, lambda j, e: None)
    assert fakes.told == [("start", "a"), ("start", "b"), ("stop", "b", 2)]


def test_a_second_signal_leaves_no_process_behind(at_once):
    fakes = Fakes(2)

    def poll(name):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(JOBS, fakes.pool._replace(poll=poll), [], lambda j: None, lambda j, e: None)
    assert fakes.told[2:] == [("kill", "a"), ("kill", "b")]


def test_a_process_can_be_killed_after_its_end_was_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with make_pool("1", tmp_path) as pool:
        handle = pool.start(JOBS[0])
        handle[0].wait()
        assert pool.poll(handle) == Ended(1, "")
        pool.kill(handle)


class FakeRay:
    """A fake of Ray in this process; a call after it is `lost` would start another Ray."""

    def __init__(self, exceptions, loses_at, fails):
        self.exceptions, self._loses_at, self._fails = exceptions, loses_at, fails
        self.lost = False
        self._calls = {"cluster_resources": {"CPU": 2.0}, "remote": "task", "cancel": None}
        self._calls |= {"wait": (["task"], []), "get": None}

    def is_initialized(self):
        return not self.lost

    def remote(self, **_):
        return lambda _: types.SimpleNamespace(remote=lambda *_: self._answer("remote"))

    def __getattr__(self, name):
        return lambda *_, **__: self._answer(name)

    def _answer(self, name):
        assert not self.lost, f"{name} starts another Ray"
        if name == self._loses_at:
            self.lost = True
            raise ConnectionError("GRPC connection failed")
        if name == "get" and self._fails:
            raise self._fails
        return self._calls[name]


@pytest.fixture
def ray_pool(monkeypatch, tmp_path):
    ray = pytest.importorskip("ray")

    def make(loses_at=None, fails=None, join=lambda *_: None):
        there = contextlib.nullcontext()
        monkeypatch.setattr(
            "bellmax.launch.distributed.ray_cluster.connected", lambda *a: join(*a) or there
        )
        monkeypatch.setitem(sys.modules, "ray", FakeRay(ray.exceptions, loses_at, fails))
        return make_pool("ray", tmp_path)

    return make


@pytest.mark.parametrize("loses_at", ["cluster_resources", "remote", "wait", "get", "cancel"])
def test_a_lost_cluster_is_a_sentence_and_no_other_is_started(at_once, ray_pool, loses_at):
    came = []
    starts = came.append if loses_at == "cancel" else lambda job: None
    with pytest.raises(UserError, match="is lost .*`bellmax sweep` continues it") as told:
        with ray_pool(loses_at) as pool:
            run_jobs(JOBS, pool, came, starts, lambda job, _: None)
    assert getattr(told.value, "exit_code", 2) == 1


def test_a_ray_of_its_own_has_all_cores(ray_pool, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "")  # as if it were not set
    joined = []
    with ray_pool(join=lambda *given: joined.append(given)):
        assert joined == [("ray", os.cpu_count())]


def test_what_a_task_of_ray_raised_is_its_end(ray_pool):
    errors = pytest.importorskip("ray").exceptions
    own = errors.RayTaskError("run", "lines\nConnectionError: no disk", ConnectionError("no disk"))
    for error, words in [(own.as_instanceof_cause(), "no disk"), (errors.RayError(), "RayError")]:
        with ray_pool(fails=error) as pool:
            ended = pool.poll("task")
        assert ended is not None and ended.code == 1 and ended.error.endswith(words)

"""What of a sweep runs at once, and what a signal does to it: without processes."""

import pytest

from bellmax.launch.sweep import run_jobs
from bellmax.launch.sweep_plan import Job
from bellmax.launch.sweep_pools import Ended, Pool


class Fakes:
    """A pool of nothing, which remembers what it was told."""

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
    monkeypatch.setattr("bellmax.launch.sweep._PAUSE", 0)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_so_many_run_at_once(at_once, width):
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

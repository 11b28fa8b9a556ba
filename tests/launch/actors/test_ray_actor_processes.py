"""The local part of a Ray actor, tested with a fake of Ray."""

import socket
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.launch.actors.ray_actor import ParameterStore, RemoteActor
from bellmax.launch.config.run_config import load
from bellmax.launch.distributed.ray_cluster import LostClusterError

ray = pytest.importorskip("ray")
DEATH = "The actor died.\n\tpid: 3\nThe actor is dead because of lice."


class FakeRay:
    """A fake of Ray in this process, whose calls with numbers in `deadly` die."""

    exceptions, busy = ray.exceptions, False

    def __init__(self, deadly):
        self.deadly, self.calls, self.put_there, self.begun = deadly, 0, [], []

    def remote(self, _):
        return types.SimpleNamespace(options=lambda **_: types.SimpleNamespace(remote=self.begin))

    def begin(self, folder):
        def say(value):
            return types.SimpleNamespace(remote=lambda *arguments: lambda: value(*arguments))

        return types.SimpleNamespace(
            ready=say(lambda: True),
            build=say(lambda config, key, seed, seen: self.begun.append((seed, seen)) or True),
            collect=say(self.collect),
            close=say(lambda: None),
        )

    def collect(self, reference, memory, now):
        self.calls += 1
        if self.calls in self.deadly:
            raise ray.exceptions.RayActorError(error_msg=DEATH)
        return (
            types.SimpleNamespace(after=now),
            (reference, memory),
            {"raised": 1},
            f"fault {self.calls}",
        )

    def put(self, value):
        self.put_there.append(value)
        return len(self.put_there)

    def get(self, call, timeout=None):
        if timeout and self.busy:
            raise ray.exceptions.GetTimeoutError
        return call()

    def is_initialized(self):
        return True

    def cluster_resources(self):
        return {"CPU": 3.0}

    def available_resources(self):
        return {}

    def kill(self, _):
        pass


def fake(monkeypatch, deadly=()):
    made = FakeRay(deadly)
    monkeypatch.setitem(sys.modules, "ray", made)
    return made


def make_actor(store=None):
    config = load("dqn/cartpole", ["--env.num-envs", "2"])
    return RemoteActor(config, jax.random.key(0), lambda *now: now, 0, store or ParameterStore())


def test_parameters_are_stored_once_per_publication_and_only_on_request(monkeypatch):
    there, store = fake(monkeypatch), ParameterStore()
    one, other = make_actor(store), make_actor(store)
    assert there.put_there == []
    for number, weights in enumerate((jnp.zeros(2), jnp.ones(2)), 1):
        published = {"weights": weights}
        for actor in (one, other, one):
            _, (reference, memory) = actor.collect(published, jnp.ones(3), 0)
            assert reference == len(there.put_there) == number
            assert isinstance(memory, np.ndarray)
        assert isinstance(there.put_there[-1]["weights"], np.ndarray)
        np.testing.assert_array_equal(there.put_there[-1]["weights"], weights)


def test_a_replacement_has_another_seed_and_continues_from_the_delivered_rollouts(monkeypatch):
    there = fake(monkeypatch, deadly={1, 3, 4})
    actor = make_actor()
    for now in (0, 5, 10):
        actor.collect((), (), now)
    assert there.begun == [((0, 0), None), ((0, 1), None), ((5, 2), 0), ((5, 3), 0)]
    assert dict(actor.faults) == {"died": 3, "raised": 2} and actor.first_fault == "fault 2"


def test_ten_replacements_in_a_row_are_enough(monkeypatch):
    there = fake(monkeypatch, deadly={*range(1, 11), *range(12, 99)})
    actor = make_actor()
    actor.collect((), (), 0)
    with pytest.raises(UserError, match="10 replacements in a row, the last because of lice"):
        actor.collect((), (), 5)
    assert there.calls == 22 and actor.faults["died"] == 20


def test_an_actor_without_a_cpu_and_a_lost_cluster_are_errors(monkeypatch):
    there = fake(monkeypatch)
    there.busy = True
    with pytest.raises(UserError, match="got no CPU .* within 120 s: 0 of its 3 are free"):
        make_actor().collect((), (), 0)
    there.busy = False
    monkeypatch.setattr(there, "get", lambda *_, **__: socket.create_connection(("127.0.0.1", 1)))
    with pytest.raises(LostClusterError, match="connection .* is lost .*`bellmax resume`") as told:
        make_actor().collect((), (), 0)
    assert told.value.exit_code == 1

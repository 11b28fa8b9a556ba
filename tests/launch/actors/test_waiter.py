"""How long the learner waits for actors, and its messages."""

import queue
import threading

import jax
import pytest

from bellmax.launch.actors import waiter as waiter_module
from bellmax.launch.actors.pools import ActorPool
from bellmax.launch.actors.waiter import ActorTimeoutError, ActorWaiter


@pytest.fixture(autouse=True)
def short(monkeypatch):
    for name in ("STUCK_SECONDS", "GIVE_UP_SECONDS", "_POLL_SECONDS"):
        monkeypatch.setattr(waiter_module, name, 0.01)


def queues(*filled):
    made = [queue.SimpleQueue() for _ in filled]
    for one, full in zip(made, filled, strict=True):
        if full:
            one.put("rollout")
    return made


def test_it_says_once_whom_it_waits_for():
    late, said = queues(True, False, True, False), []

    def say(text):
        said.append(text)
        for one in (late[1], late[3]):
            threading.Timer(0.3, one.put, ["rollout"]).start()

    waiting = ActorWaiter()
    waiting.say = say
    assert waiting.take(late) == ["rollout"] * 4
    (sentence,) = said
    assert sentence.startswith("no rollout from actors 2, 4 of 4 for 0 s; with env.timeout")


def test_the_waiter_gives_up_only_after_stop_and_raises_an_actors_exception():
    waiting = ActorWaiter()
    assert not waiting.stopping
    waiting.stop()
    assert waiting.stopping and waiting.take(queues(True, True)) == ["rollout"] * 2
    with pytest.raises(ActorTimeoutError, match="actor 2 of 2"):
        waiting.take(queues(True, False))
    (broken,) = queues(False)
    broken.put(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        ActorWaiter().take([broken])


class Hanging:
    """A Collector that waits for an event."""

    def __init__(self):
        self.num_envs, self.faults, self.first_fault = 1, {}, ""
        self.event, self.closed = threading.Event(), False

    def collect(self, policy, memory, now):
        self.event.wait()
        raise ValueError("late")

    def close(self):
        self.closed = True


@pytest.mark.parametrize("lock_step", [True, False])
def test_a_hanging_actor_thread_does_not_block_the_exit(lock_step):
    actor = Hanging()
    pool = ActorPool(lambda key, seed, now: actor, 1, ahead=None if lock_step else 1)
    pool.start(jax.random.key(0), jax.random.key(1), (), 0)
    pool.publish(())
    pool.stop()
    with pytest.raises(ActorTimeoutError):
        pool.take((), 0)
    pool.close()
    (thread,) = [t for t in threading.enumerate() if t.name == "actor-0"]
    assert not actor.closed and thread.daemon and waiter_module.are_left_behind()
    actor.event.set()
    thread.join(10)
    assert not waiter_module.are_left_behind()

"""The host runner: actors step host environments, the learner runs compiled gradient steps.

It has the functions of the on-device runner and keeps the same `TrainState`; what the learner does
with a rollout is the same code (`bellmax.launch.runners.learning`). The environments themselves are
not in the state: after a resume their episodes begin anew.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs
from jax.sharding import Mesh

from bellmax.agents import Agent
from bellmax.agents.base import Outcome
from bellmax.envs import VectorTimeStep
from bellmax.envs.host import HostVector
from bellmax.envs.statistics import normalise
from bellmax.launch.actors.actor import (
    Act,
    Acting,
    Actor,
    ActorFactory,
    Collector,
    HostRollout,
    RolloutSums,
)
from bellmax.launch.actors.pools import Pool, faults
from bellmax.launch.actors.waiter import ActorTimeoutError, ActorWaiter
from bellmax.launch.replay import ring as replay_lib
from bellmax.launch.runners import learner_functions as phases
from bellmax.launch.runners.device_runner import example_step, zero_metrics
from bellmax.launch.runners.learner_functions import first_timestep
from bellmax.launch.runners.random import numpy_seeds
from bellmax.launch.runners.train_state import IntervalMetrics, TrainState

_FINITE_EVERY = 32  # rollouts between two looks at the losses, each of which waits for the device


class HostRunner:
    """Wires actors, replay and learner of one agent; the learner's state has a leading [1].

    Args:
      agent: the agent.
      observation: the spec of what one environment shows, before normalisation.
      make_env: makes the environments of one actor, num_envs / num_actors of them.
      replay: made for these shapes; None for an on-policy agent, which runs in lock-step.
      num_envs: N, over all actors.
      num_actors: threads that step environments.
      rollout_length: L, vector steps between learning phases.
      updates_per_rollout: gradient steps in a learning phase.
      normalised: whether the agent sees observations normalised.
      lock_step: actors and learner take turns, so that a run repeats exactly.
      ahead: otherwise, rollouts of each actor that may wait for the learner.
      host_memory: whether replay is kept beside the CPU and not on the learner's device.
      mesh: of devices that share the replay and each batch; None for one device.
      actor_device: where actors act; None for the learner's first device.
      hire: makes actors that live elsewhere; None makes them here.

    Attributes:
      traces: how often a learning phase was compiled, as a list that grows.
      waiter: how the learner waits for actors, and tells it.
    """

    def __init__(
        self,
        agent: Agent,
        observation: specs.Array,
        make_env: Callable[[], HostVector],
        replay: replay_lib.Replay | None,
        *,
        num_envs: int,
        num_actors: int,
        rollout_length: int,
        updates_per_rollout: int,
        normalised: bool,
        lock_step: bool,
        ahead: int,
        host_memory: bool = False,
        mesh: Mesh | None = None,
        actor_device: Any = None,
        hire: ActorFactory | None = None,
    ):
        self.traces: list[int] = []
        self.waiter = ActorWaiter()
        self._earlier: dict[str, int] = {}
        self._agent, self._make_env = agent, make_env
        self._num_envs, self._num_actors = num_envs, num_actors
        self._length = rollout_length
        self._ahead = None if lock_step or replay is None else ahead
        self._observation, self._normalised = observation, normalised
        self._frame_stack = 1 if replay is None else replay.frame_stack
        self._actors: list[Collector] = []
        self._hire = hire
        self._pool: Pool | None = None
        self._example = example_step(agent, first_timestep(observation, num_envs, normalised))
        self._actor_device = actor_device
        if mesh is not None and actor_device is None:
            self._actor_device = mesh.devices.flat[0]
        self._host_memory = host_memory
        make: Any = phases.in_host_memory
        if not host_memory:
            make = functools.partial(phases.on_device, mesh=mesh)
        self._phases: phases.LearnerFunctions = make(
            agent,
            observation,
            replay,
            self._example,
            num_envs=num_envs,
            updates=updates_per_rollout,
            normalised=normalised,
            traces=self.traces,
        )
        self.init, self.place = self._phases.init, self._phases.place
        self._act = jax.jit(self._act_one, static_argnums=(0, 1))

    @property
    def stopping(self) -> bool:
        """Whether `advance` was asked to return after the rollout that it is at."""
        return self.waiter.stopping

    def compile(self, state: TrainState) -> Callable[..., tuple[TrainState, IntervalMetrics]]:
        """Compiles learning phases, all but those of replay in host memory; returns `advance`."""
        if self._host_memory:
            return self.advance
        collected, counts = self._abstract_rollout(), np.zeros(2, np.int32)
        self._phases = self._phases.compile(state, self._nothing, collected, counts)
        return self.advance

    def advance(
        self, state: TrainState, warmup: Any, rollouts: Any
    ) -> tuple[TrainState, IntervalMetrics]:
        """`warmup` rollouts without learning, then `rollouts` with; it donates the state.

        Returns early where `stop` was called, without a rollout that does not come, and, soon,
        where a loss was not finite. Raises what stopped an actor.
        """
        if self._pool is None:
            state = self._start(state)
        pool: Any = self._pool
        interval = self._nothing
        now, totals = int(state.vector_steps), RolloutSums(0, 0, 0.0, 0)
        given = self._phases.publish(state)
        held, keys = self._phases.hold(state)
        for taken in range(int(warmup) + int(rollouts)):
            if self.stopping or (taken % _FINITE_EVERY == 0 and not bool(interval.finite.all())):
                break
            acting, memory = self._to_actors(given)
            pool.publish(acting)
            try:
                collected, sums = self._from_actors(*pool.take(memory, now))
            except ActorTimeoutError:
                break
            counts = np.array([sums.env_steps, sums.episodes], np.int32)
            if taken < warmup:
                held, given = self._phases.fill(held, collected, counts)
            else:
                held, interval, given = self._phases.learn(held, keys, interval, collected, counts)
            totals = totals.plus(sums)
            now += self._length
        return self._phases.release(held, keys), interval._replace(
            episodes=jnp.array([totals.episodes], jnp.int32),
            episode_return=jnp.array([totals.episode_return], jnp.float32),
            episode_length=jnp.array([totals.episode_length], jnp.int32),
        )

    def make_actor(self, key: jax.Array, seed: int, seen: VectorTimeStep | None = None) -> Actor:
        """One actor, here.

        Args:
          key: of its acting.
          seed: of its environments.
          seen: as in `Actor`.
        """
        # As data and leaves: keys go through Python at each call, and dictionaries are sorted.
        key_impl, data = jax.random.key_impl(key), self._to_actors(jax.random.key_data(key))

        def bind(acting: Acting) -> Act:
            leaves, tree = jax.tree.flatten(acting)
            return functools.partial(self._act, key_impl, tree, data, leaves)

        return Actor(
            self._make_env(),
            bind,
            length=self._length,
            observes=self._agent.observe is not None,
            normalised=self._normalised,
            frames=self._frame_stack > 1,
            seed=seed,
            seen=seen,
        )

    def report(self) -> dict[str, float]:
        """Seconds since the last call that the learner and an actor waited; restarts so far."""
        if self._pool is None:
            return {}
        waits, counts = self._pool.waits(), self.restarts()
        restarts = {f"restarts_{reason.replace(' ', '_')}": n for reason, n in counts.items()}
        return {"learner_waited": waits.learner, "actors_waited": waits.actors, **restarts}

    def restarts(self) -> dict[str, int]:
        """How often something of the actors was made anew in the whole run, by reason."""
        counts = Counter(self._earlier)
        counts.update(faults(self._actors))
        return dict(counts)

    def count_on(self, restarts: Mapping[str, int]) -> None:
        """Counts on from those of a run that this one resumes."""
        self._earlier = dict(restarts)

    def stop(self) -> None:
        """Asks `advance` to return after the rollout that it is at."""
        self.waiter.stop()

    def close(self) -> None:
        """Stops the actors and frees their environments."""
        if self._pool is not None:
            self._pool.close()
        else:  # some may be there though another one could not be made
            for actor in self._actors:
                actor.close()
        self._pool, self._actors = None, []

    @functools.cached_property
    def _nothing(self) -> IntervalMetrics:
        """Of an interval's start. A gradient step is traced for it: a third of a second, once."""
        return zero_metrics(self._agent, self._example, 1)

    def _start(self, state: TrainState) -> TrainState:
        """Starts the actors; the state, in which the episodes that others left in flight end."""
        now = int(state.vector_steps)
        memory = self._to_actors(jax.tree.map(_first, state.actor.memory))
        for i in range(self._num_actors):
            key = _first(state.keys.act)
            key = key if self._num_actors == 1 else jax.random.fold_in(key, i)
            seed = functools.partial(_seed, state.keys.env[0], i)
            hired = self._hire(key, seed, now) if self._hire else self.make_actor(key, seed(now))
            self._actors.append(hired)
        options = {"memory": memory, "now": now, "waiter": self.waiter}
        self._pool = Pool(self._actors, ahead=self._ahead, **options)
        state = self.place(state)
        if now == 0 or state.replay == ():
            return state
        return state._replace(replay=_end_episodes(state.replay))

    def _to_actors(self, tree: Any) -> Any:
        return tree if self._actor_device is None else jax.device_put(tree, self._actor_device)

    def _from_actors(
        self, collected: HostRollout, sums: RolloutSums
    ) -> tuple[HostRollout, RolloutSums]:
        """What is on the actors' device, on the host: the learner's may be another."""
        if self._actor_device is not None:
            before, memory = jax.device_get((collected.before, collected.memory))
            collected = collected._replace(before=before, memory=memory)
        return collected, sums

    def _act_one(
        self,
        key_impl: Any,
        tree: Any,
        key_data: jax.Array,
        leaves: list[jax.Array],
        observation: Any,
        memory: Any,
        is_first: Any,
        now: Any,
    ) -> tuple[Any, Any, Any, Any]:
        params, statistics = jax.tree.unflatten(tree, leaves)
        if self._normalised:
            observation = normalise(statistics, observation)
        key = jax.random.fold_in(jax.random.wrap_key_data(key_data, impl=key_impl), now)
        step = now * self._num_envs
        output = self._agent.act(params, observation, memory, is_first, key, step)
        seen = observation if self._normalised else ()
        return seen, output.action, output.memory, output.behaviour

    def _abstract_rollout(self) -> HostRollout:
        """Shapes and dtypes of what actors hand over."""

        def rows(x: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self._length, *x.shape), x.dtype)

        memory = jax.eval_shape(lambda: self._agent.initial_memory(self._num_envs))
        after = jax.eval_shape(lambda: first_timestep(self._observation, self._num_envs, False))
        outcome = Outcome(memory, after.episode_return, after.is_last)
        example = jax.eval_shape(
            lambda step: replay_lib.newest_frame(step, self._frame_stack), self._example
        )
        return HostRollout(
            records=jax.tree.map(rows, example),
            before=memory,
            after=after,
            memory=memory,
            outcome=jax.tree.map(rows, outcome) if self._agent.observe else (),
            raw=rows(after.observation) if self._normalised else (),
        )


@functools.partial(jax.jit, donate_argnums=0)
def _end_episodes(replay: replay_lib.ReplayState) -> replay_lib.ReplayState:
    """Makes the newest steps in replay the last of their episodes: what followed is not known."""
    storage = replay.storage
    newest = (replay.cursor - 1) % storage.is_last.shape[1]
    storage = storage._replace(is_last=storage.is_last.at[:, newest].set(True))
    return replay._replace(storage=storage)


def _seed(key: jax.Array, number: int, now: int, replaced: int = 0) -> int:
    """Of the environments of actor `number` that begins at vector step `now`."""
    # The step counts too: a resumed run has other episodes than it had at its start.
    (seed,) = numpy_seeds(key, 1, now, number, *([replaced] if replaced else []))
    return seed


def _first(x: Any) -> Any:
    return x[0]

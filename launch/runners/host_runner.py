"""The host runner: actors step host environments, the learner runs compiled gradient steps.

It fulfils the same protocol as the device runner, keeps the same `TrainState`, and shares the code
of learning phases (`bellmax.launch.runners.learning`). The environments are not part of the state:
a resumed run starts new episodes.
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

from bellmax.agents import Agent, Outcome
from bellmax.launch.replay import ring as replay_lib
from bellmax.launch.runners.base import (
    ActorTimeoutError,
    HostRollout,
    RolloutSource,
    RolloutSums,
)
from bellmax.launch.runners.device_runner import example_step, zero_metrics
from bellmax.launch.runners.learner_functions import (
    LearnerFunctions,
    first_timestep,
    in_host_memory,
    on_device,
)
from bellmax.launch.runners.train_state import IntervalMetrics, TrainState

# Rollouts between checks that the losses are finite; each check waits for the device.
_FINITE_EVERY = 32


class HostRunner:
    """A `Runner` that learns from rollouts of actors; its state has a leading [1].

    Args:
      agent: the agent.
      observation: spec of one environment's observation, before normalisation.
      source: the actors.
      replay: a replay for these shapes; None for an on-policy agent, whose actors run in lock-step.
      num_envs: N, over all actors.
      rollout_length: L, vector steps between learning phases.
      updates_per_rollout: gradient steps in a learning phase.
      normalised: whether the agent sees observations normalised.
      host_memory: whether replay is in host memory and not on the learner's device.
      mesh: of devices that share the replay and each batch; None for one device.
      mask_size: A, the number of actions, if the task shows which are legal; else 0.

    Attributes:
      traces: a list that grows by one entry whenever a learning phase is compiled.
      functions: the learner's compiled functions.
    """

    resumes_episodes = False

    def __init__(
        self,
        agent: Agent,
        observation: specs.Array,
        source: RolloutSource,
        replay: replay_lib.Replay | None,
        *,
        num_envs: int,
        rollout_length: int,
        updates_per_rollout: int,
        normalised: bool,
        host_memory: bool = False,
        mesh: Mesh | None = None,
        mask_size: int = 0,
    ):
        self.traces: list[int] = []
        self._earlier: dict[str, int] = {}
        self._agent, self._source = agent, source
        self._num_envs, self._length = num_envs, rollout_length
        self._observation, self._normalised = observation, normalised
        self._frame_stack = 1 if replay is None else replay.frame_stack
        self._started = False
        self._mask_size = mask_size
        self._example = example_step(
            agent, first_timestep(observation, num_envs, normalised, mask_size)
        )
        self._host_memory = host_memory
        make: Any = in_host_memory if host_memory else functools.partial(on_device, mesh=mesh)
        self.functions: LearnerFunctions = make(
            agent,
            observation,
            replay,
            self._example,
            num_envs=num_envs,
            updates=updates_per_rollout,
            normalised=normalised,
            traces=self.traces,
        )
        self.init, self.place = self.functions.init, self.functions.place
        if replay is not None:
            axes = replay_lib.seed_axes
            over_seeds = jax.vmap(replay.end_episodes, in_axes=(axes,), out_axes=axes)
            self._end_episodes = jax.jit(over_seeds, donate_argnums=0)

    def compile(self, state: TrainState) -> Callable[..., tuple[TrainState, IntervalMetrics]]:
        """Compile the learning phase, unless replay is in host memory; return `advance`."""
        if not self._host_memory:
            shapes = self.zero_metrics, self.abstract_rollout(), np.zeros(2, np.int32)
            self.functions = self.functions.compile(state, *shapes)
        return self.advance

    def advance(
        self, state: TrainState, warmup: Any, rollouts: Any
    ) -> tuple[TrainState, IntervalMetrics]:
        """Take `warmup` rollouts without learning, then `rollouts` with it; donates the state.

        Returns early after `stop`, without waiting for an actor that hangs, and within 32 rollouts
        after a loss that is not finite.

        Raises:
          Exception: the exception that stopped an actor.
        """
        if not self._started:
            state = self._start(state)
        source, functions = self._source, self.functions
        interval = self.zero_metrics
        now, totals = int(state.vector_steps), RolloutSums(0, 0, 0.0, 0)
        inputs = functions.publish(state)
        packed, keys = functions.pack(state)
        for taken in range(int(warmup) + int(rollouts)):
            if source.stopping or (taken % _FINITE_EVERY == 0 and not bool(interval.finite.all())):
                break
            source.publish(inputs.policy)
            try:
                rollout, sums = source.take(inputs.memory, now)
            except ActorTimeoutError:
                break
            counts = np.array([sums.env_steps, sums.episodes], np.int32)
            if taken < warmup:
                packed, inputs = functions.add_rollout(packed, rollout, counts)
            else:
                packed, interval, inputs = functions.learn(packed, keys, interval, rollout, counts)
            totals = totals.plus(sums)
            now += self._length
        return functions.unpack(packed, keys), interval._replace(
            episodes=jnp.array([totals.episodes], jnp.int32),
            episode_return=jnp.array([totals.episode_return], jnp.float32),
            episode_length=jnp.array([totals.episode_length], jnp.int32),
        )

    def report(self) -> dict[str, float]:
        """Return seconds waited by learner and actors since the last call, and restarts so far."""
        if not self._started:
            return {}
        waits, counts = self._source.waits(), self.restarts()
        restarts = {f"restarts_{reason.replace(' ', '_')}": n for reason, n in counts.items()}
        return {"learner_waited": waits.learner, "actors_waited": waits.actors, **restarts}

    def restarts(self) -> dict[str, int]:
        """Return the number of restarts of environments and actors in the whole run, by reason."""
        counts = Counter(self._earlier)
        # Unlike +, `update` keeps counts of 0, which are columns of the log.
        counts.update(self._source.faults())
        return dict(counts)

    def resume_restarts(self, restarts: Mapping[str, int]) -> None:
        """Add `restarts`, those before this run was resumed, to the counts."""
        self._earlier = dict(restarts)

    def on_message(self, say: Callable[[str], None]) -> None:
        """Set the function that takes a sentence for the user."""
        self._source.on_message(say)

    def stop(self) -> None:
        """Ask `advance` to return after its current rollout."""
        self._source.stop()

    def close(self) -> None:
        """Stop the actors and free their environments."""
        self._source.close()
        self._started = False

    @functools.cached_property
    def zero_metrics(self) -> IntervalMetrics:
        """Zero-initialised metrics of an interval; cached, as tracing their shapes takes 0.3 s."""
        return zero_metrics(self._agent, self._example, 1)

    def _start(self, state: TrainState) -> TrainState:
        """Start the actors; return the state, in whose replay unfinished episodes are ended."""
        now = int(state.vector_steps)
        memory = jax.tree.map(lambda x: x[0], state.actor.memory)
        self._source.start(state.keys.act[0], state.keys.env[0], memory, now)
        self._started = True
        state = self.place(state)
        if now == 0 or state.replay == ():
            return state
        return state._replace(replay=self._end_episodes(state.replay))

    def abstract_rollout(self) -> HostRollout:
        """Return the shapes and dtypes of the rollouts that actors send."""

        def rows(x: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self._length, *x.shape), x.dtype)

        memory = jax.eval_shape(lambda: self._agent.initial_memory(self._num_envs))
        given = self._observation, self._num_envs, False, self._mask_size
        after = jax.eval_shape(lambda: first_timestep(*given))
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

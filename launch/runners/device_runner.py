"""The on-device runner: environment, replay and learner of S seeds in one compiled program.

`DeviceRunner.advance` does all training: a loop that only fills the replay, then a loop of
rollout, replay add and gradient steps. The lengths of both loops are run-time values, so one
compilation serves the warm-up, every logging interval and the last, shorter one. On-policy agents
have no replay and learn from the rollout itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bellmax.agents import ActInput, Agent, Batch, LearnOutput, Outcome
from bellmax.envs import Step, VectorEnv, VectorState, VectorTimeStep
from bellmax.launch.replay import ring as replay_lib
from bellmax.launch.runners.base import Varied
from bellmax.launch.runners.learning import Learning, from_replay, from_rollout
from bellmax.launch.runners.random import stream
from bellmax.launch.runners.sharding import make_split, place, shardings
from bellmax.launch.runners.train_state import (
    ActorState,
    IntervalMetrics,
    Rollout,
    TrainState,
    initial_state,
    over_seeds,
    seed_axes,
)


@dataclass(frozen=True)
class DeviceRunner:
    """A `Runner` whose environments are part of the compiled program, so that it cannot hang."""

    init: Callable[[jax.Array], TrainState]
    advance: jax.stages.Wrapped
    traces: list[int]
    place: Callable[[TrainState], TrainState]

    @property
    def resumes_episodes(self) -> bool:
        """Whether unfinished episodes are part of the state."""
        return True

    def compile(self, state: TrainState) -> Callable[..., tuple[TrainState, IntervalMetrics]]:
        """Return `advance`, compiled for the shapes of a state."""
        length = np.int32(0)
        return self.advance.lower(state, length, length).compile()

    def restarts(self) -> dict[str, int]:
        """Return no restarts: nothing can fail on the device."""
        return {}

    def resume_restarts(self, restarts: Mapping[str, int]) -> None:
        """Do nothing: there are no restarts on the device."""

    def report(self) -> dict[str, float]:
        """Return no columns."""
        return {}

    def on_message(self, say: Callable[[str], None]) -> None:
        """Do nothing: this runner has no messages."""

    def stop(self) -> None:
        """Do nothing: a compiled call of `advance` runs to its end."""

    def close(self) -> None:
        """Do nothing: its environments have no resources outside jax."""


def make_runner(
    agent: Agent,
    env: VectorEnv,
    replay: replay_lib.Replay | None,
    *,
    rollout_length: int,
    updates_per_rollout: int,
    num_seeds: int = 1,
    varied: Varied | None = None,
    mesh: Mesh | None = None,
) -> DeviceRunner:
    """Make the runner of one agent on one vector environment.

    Args:
      agent, env, replay: the parts. The replay must have been made for these shapes; None for an
        on-policy agent.
      rollout_length: L, vector steps between learning phases.
      updates_per_rollout: gradient steps in a learning phase.
      num_seeds: S, independent learners.
      varied: hyper-parameters in which they differ; `agent` has those of one of them.
      mesh: of devices that share the environments, the replay and each batch; None for one device.
    """
    values, make = Varied({}, lambda values: agent) if varied is None else varied
    values, split = dict(values), make_split(mesh)

    def phases(values: Mapping[str, Any]) -> tuple[Any, Learning]:
        """Return the functions of one learner: `collect`, and those of its learning phase."""
        agent, updates = make(values), updates_per_rollout
        collect = _make_collect(agent, env, rollout_length)
        if replay is None:
            return collect, from_rollout(agent, env.num_envs, updates, split)
        return collect, from_replay(agent, replay, updates, split)

    traces: list[int] = []
    example = example_step(agent, jax.eval_shape(env.reset, jax.random.key(0))[1])
    state_axes = seed_axes(replay is None)
    # A point that diverges ends alone, while the seeds of a run without points end together.
    finite = jnp.all if varied is None else jnp.any
    single = replay is None and num_seeds == 1
    run = _make_advance(phases, values, finite, state_axes, single)

    def advance(state: TrainState, warmup: jax.Array, rollouts: jax.Array):
        traces.append(len(traces) + 1)
        return run(state, zero_metrics(agent, example, num_seeds), warmup, rollouts)

    init_each = jax.vmap(_make_init(make, env, replay, example), out_axes=state_axes)

    def init_all(seeds: jax.Array) -> TrainState:
        return init_each(values, seeds)

    shapes = jax.eval_shape(init_all, jnp.zeros(num_seeds, jnp.int32))
    # With None, jax decides where results are placed.
    where = None if mesh is None else shardings(mesh, shapes)
    whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return DeviceRunner(
        jax.jit(init_all, out_shardings=where),
        jax.jit(advance, donate_argnums=0, out_shardings=(where, whole)),
        traces,
        lambda state: state if where is None else place(state, where),
    )


def _make_advance(
    phases: Callable[[Mapping[str, Any]], tuple[Any, Learning]],
    values: Mapping[str, Any],
    finite: Callable[[jax.Array], jax.Array],
    state_axes: TrainState,
    single: bool,
) -> Callable[..., tuple[TrainState, IntervalMetrics]]:
    """Make the loops of `advance` over rollouts of all seeds, given the functions of one seed.

    Args:
      phases: from the values of a learner to its functions.
      values: leaves [S].
      finite: from whether each learner's losses are finite, [S], to whether the loop continues.
      state_axes: as `seed_axes` returns.
      single: as `over_seeds` takes it.
    """

    def fill_one(
        values: Any, state: TrainState, interval: IntervalMetrics
    ) -> tuple[TrainState, IntervalMetrics]:
        collect, learning = phases(values)
        state, interval, rollout = collect(state, interval)
        return learning.keep(state, rollout), interval

    def iterate_one(
        values: Any, state: TrainState, interval: IntervalMetrics
    ) -> tuple[TrainState, IntervalMetrics]:
        collect, (keep, learn) = phases(values)
        state, interval, rollout = collect(state, interval)
        return learn(keep(state, rollout), rollout, interval)

    axes = state_axes, 0
    fill_all = over_seeds(fill_one, (0, *axes), axes, single=single)
    iterate_all = over_seeds(iterate_one, (0, *axes), axes, single=single)

    def run(state: TrainState, interval: IntervalMetrics, warmup: Any, rollouts: Any):
        def fill(i: jax.Array, carry: tuple[TrainState, IntervalMetrics]):
            return fill_all(values, *carry)

        def unfinished(carry: tuple[jax.Array, TrainState, IntervalMetrics]) -> jax.Array:
            return (carry[0] < rollouts) & finite(carry[2].finite)

        def iterate(carry: tuple[jax.Array, TrainState, IntervalMetrics]):
            i, state, interval = carry
            return i + 1, *iterate_all(values, state, interval)

        state, interval = jax.lax.fori_loop(0, warmup, fill, (state, interval))
        carry = jnp.zeros((), jnp.int32), state, interval
        _, state, interval = jax.lax.while_loop(unfinished, iterate, carry)
        return state, interval

    return run


def _make_init(
    make: Callable[[Mapping[str, Any]], Agent],
    env: VectorEnv,
    replay: replay_lib.Replay | None,
    example: Step,
) -> Callable[[Mapping[str, Any], jax.Array], TrainState]:
    """Make the function from the values and the seed [] of a learner to its initial state."""

    def init(values: Mapping[str, Any], seed: jax.Array) -> TrainState:
        env_state, timestep = env.reset(stream(jax.random.key(seed), "reset"))
        buffer = () if replay is None else replay.init(example)
        parts = {"timestep": timestep, "env": env_state, "replay": buffer}
        return initial_state(make(values), seed, env.num_envs, **parts)

    return init


def _make_collect(agent: Agent, env: VectorEnv, length: int):
    """Make `collect`: one rollout of `length` vector steps."""

    def collect(
        state: TrainState, interval: IntervalMetrics
    ) -> tuple[TrainState, IntervalMetrics, Rollout]:
        params = agent.actor_params(state.learner)

        def step(carry: tuple[ActorState, VectorState, IntervalMetrics], now: jax.Array) -> Any:
            actor, env_state, interval = carry
            seen = actor.timestep
            key = jax.random.fold_in(state.keys.act, now)
            steps = now * env.num_envs
            shown = seen.observation, actor.memory, seen.is_first, key, steps
            inputs = ActInput(*shown, **agent.extras(seen))
            output = agent.act(params, inputs)
            key = jax.random.fold_in(state.keys.env, now)
            env_state, timestep = env.step(env_state, output.action, key)
            record = Step(
                seen.observation,
                output.action,
                timestep.reward,
                timestep.discount,
                seen.is_first,
                seen.is_last,
                output.behaviour,
                seen.action_mask,
            )
            ended = timestep.is_last
            outcome = Outcome(output.memory, timestep.episode_return, ended)
            episodes = jnp.sum(ended, dtype=jnp.int32)
            actor = ActorState(
                timestep,
                output.memory,
                actor.env_steps + jnp.sum(~seen.is_last, dtype=jnp.int32),
                actor.episodes + episodes,
            )
            interval = interval._replace(
                episodes=interval.episodes + episodes,
                episode_return=interval.episode_return + jnp.sum(timestep.episode_return * ended),
                episode_length=interval.episode_length + jnp.sum(timestep.episode_length * ended),
            )
            return (actor, env_state, interval), (record, outcome if agent.observe else ())

        now = state.vector_steps + jnp.arange(length)
        carry = state.actor, state.env, interval
        if length == 1:
            carry, both = step(carry, now[0])
            records, outcomes = _add_axis(both)
        else:
            carry, (records, outcomes) = jax.lax.scan(step, carry, now)
        actor, env_state, interval = carry
        learner = agent.observe(state.learner, outcomes) if agent.observe else state.learner
        rollout = Rollout(records, state.actor.memory, actor.timestep)
        state = state._replace(
            learner=learner, actor=actor, env=env_state, vector_steps=state.vector_steps + length
        )
        return state, interval, rollout

    return collect


def example_step(agent: Agent, seen: VectorTimeStep) -> Step:
    """Return shapes and dtypes of a vector step, leaves [N, ...], given those of a time step."""
    num_envs = seen.is_last.shape[0]

    def one(seen: VectorTimeStep, key: jax.Array) -> Step:
        params = agent.actor_params(agent.init(key))
        memory = agent.initial_memory(num_envs)
        now = jnp.zeros((), jnp.int32)
        inputs = ActInput(seen.observation, memory, seen.is_first, key, now, **agent.extras(seen))
        output = agent.act(params, inputs)
        flags, own = (seen.is_first, seen.is_last), (output.behaviour, seen.action_mask)
        return Step(seen.observation, output.action, seen.reward, seen.discount, *flags, *own)

    return jax.eval_shape(one, seen, jax.random.key(0))


def zero_metrics(agent: Agent, step: Step, num_seeds: int) -> IntervalMetrics:
    """Return zero-initialised interval metrics; `step` has the shapes of a vector step."""

    def learn(key: jax.Array) -> LearnOutput:
        size, length = agent.replay.batch_size, agent.replay.sequence_length
        steps = jax.tree.map(lambda x: jnp.zeros((size, length, *x.shape[1:]), x.dtype), step)
        state, memory = agent.init(key), agent.initial_memory(size)
        batch = Batch(steps, jnp.ones(size), memory)
        if agent.prepare is not None:
            state, batch, _ = agent.prepare(state, batch, memory)
        return agent.learn(state, batch, key)[1]

    names = jax.eval_shape(learn, jax.random.key(0)).metrics
    zero, count = jnp.zeros(num_seeds), jnp.zeros(num_seeds, jnp.int32)
    return IntervalMetrics({name: zero for name in names}, count, count, zero, count, zero == 0)


def _add_axis(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[None], tree)

"""What the learner of the host runner does with rollouts, compiled.

`on_device` keeps replay on the learner's device, in one program with the gradient steps. So that it
may be larger than that device's memory, `in_host_memory` keeps it beside the CPU and moves batches.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from dm_env import specs
from jax.sharding import Mesh

from bellmax.agents import Agent, Memory
from bellmax.agents.base import Batch, LearnerState
from bellmax.envs import Step, VectorState, VectorTimeStep
from bellmax.envs.statistics import initial_statistics, merge_statistics, normalise
from bellmax.launch.actors.actor import Acting, HostRollout
from bellmax.launch.replay import ring as replay_lib
from bellmax.launch.runners.learning import from_replay, from_rollout
from bellmax.launch.runners.sharding import make_split, place, shardings
from bellmax.launch.runners.train_state import (
    ActorState,
    IntervalMetrics,
    Keys,
    Rollout,
    TrainState,
    count,
    initial_state,
    seed_axes,
)


class LearnerFunctions(NamedTuple):
    """Functions of states with a leading [1] of seeds.

    `fill` and `learn` take, donate and return a state as it is held between rollouts: without keys,
    which never change, and by `on_device` as a bare list. A call of a compiled program takes a
    while for every array and container, whatever it does with them.

    init(seeds [1]) -> TrainState
    hold(state) -> (held, keys)
    release(held, keys) -> state
    publish(state) -> Given: a copy, as the state itself is donated while actors still act. The
        other two return one too.
    fill(held, collected, counts [2]) -> (held, given): takes a rollout, of so many environment
        steps and ended episodes, and learns nothing.
    learn(held, keys, interval, collected, counts [2]) -> (held, interval, given): takes it and
        learns.
    place(state) -> state: where the other functions want it, as after it was read from a file.
    """

    init: Any
    hold: Callable[[TrainState], tuple[Any, Keys]]
    release: Callable[[Any, Keys], TrainState]
    publish: Any
    fill: Any
    learn: Any
    place: Callable[[TrainState], TrainState]

    def compile(
        self, state: TrainState, interval: IntervalMetrics, collected: HostRollout, counts: Any
    ) -> "LearnerFunctions":
        """The same, compiled for the shapes of these; of `on_device` only."""
        held, keys = self.hold(state)
        learn = self.learn.lower(held, keys, interval, collected, counts).compile()
        return self._replace(fill=self.fill.lower(held, collected, counts).compile(), learn=learn)


class Given(NamedTuple):
    """What actors need of a state: to act, and the memory [N, ...] that it holds."""

    acting: Acting
    memory: Memory


def _hold(state: TrainState) -> tuple[TrainState, Keys]:
    nothing: Any = ()
    return state._replace(keys=nothing), state.keys


def _release(held: TrainState, keys: Keys) -> TrainState:
    return held._replace(keys=keys)


def on_device(
    agent: Agent,
    observation: specs.Array,
    replay: replay_lib.Replay | None,
    example: Step,
    *,
    num_envs: int,
    updates: int,
    normalised: bool,
    traces: list[int],
    mesh: Mesh | None = None,
) -> LearnerFunctions:
    """Replay and gradient steps in one program; without replay, on-policy.

    Args:
      agent, replay: what learns, and from what.
      observation: the spec of what one environment shows, before normalisation.
      example: shapes of one vector step.
      num_envs: N.
      updates: gradient steps in a learning phase.
      normalised: whether the agent sees observations normalised.
      traces: gets an entry whenever `learn` is compiled.
      mesh: of devices that share the replay and each batch; None for one device.
    """
    axes, split = seed_axes(replay is None), make_split(mesh)
    if replay is None:
        keep, learn_from = from_rollout(agent, num_envs, updates, split)
    else:
        keep, learn_from = from_replay(agent, replay, updates, split)

    def init_one(seed: jax.Array) -> TrainState:
        memory = () if replay is None else replay.init(example)
        return _start(agent, observation, num_envs, normalised, seed)._replace(replay=memory)

    def fill_one(state: TrainState, collected: HostRollout, counts: jax.Array) -> TrainState:
        return keep(*_absorb(state, collected, counts, agent))

    def learn_one(
        state: TrainState,
        keys: Keys,
        interval: IntervalMetrics,
        collected: HostRollout,
        counts: jax.Array,
    ) -> tuple[TrainState, IntervalMetrics]:
        traces.append(len(traces) + 1)
        state, rollout = _absorb(state, collected, counts, agent)
        state, interval = learn_from(keep(state, rollout)._replace(keys=keys), rollout, interval)
        return _hold(state)[0], interval

    init = jax.vmap(init_one, out_axes=axes)
    shapes = jax.eval_shape(init, jnp.zeros(1, jnp.int32))
    tree = jax.tree.structure(_hold(shapes)[0])
    bare, _ = _hold(axes)
    fill_all = jax.vmap(fill_one, in_axes=(bare, None, None), out_axes=bare)
    learn_all = jax.vmap(learn_one, in_axes=(bare, 0, 0, None, None), out_axes=(bare, 0))
    publish = _make_publish(agent, axes)

    def hold(state: TrainState) -> tuple[list[jax.Array], Keys]:
        held, keys = _hold(state)
        return tree.flatten_up_to(held), keys

    def release(held: list[jax.Array], keys: Keys) -> TrainState:
        return _release(jax.tree.unflatten(tree, held), keys)

    def fill(held: list[jax.Array], *given: Any) -> tuple[list[jax.Array], Given]:
        state = fill_all(jax.tree.unflatten(tree, held), *given)
        return tree.flatten_up_to(state), publish(state)

    def learn(held: list[jax.Array], *given: Any) -> tuple[list[jax.Array], IntervalMetrics, Given]:
        state, interval = learn_all(jax.tree.unflatten(tree, held), *given)
        return tree.flatten_up_to(state), interval, publish(state)

    # None leaves it to jax where results are.
    where = None if mesh is None else shardings(mesh, shapes)
    held_where = None if where is None else hold(where)[0]
    return LearnerFunctions(
        init=jax.jit(init, out_shardings=where),
        hold=hold,
        release=release,
        publish=jax.jit(publish),
        fill=jax.jit(fill, donate_argnums=0, out_shardings=(held_where, None)),
        learn=jax.jit(learn, donate_argnums=0, out_shardings=(held_where, None, None)),
        place=lambda state: state if where is None else place(state, where),
    )


def _make_publish(agent: Agent, axes: TrainState) -> Callable[[TrainState], Given]:
    def publish(state: TrainState) -> Given:
        params = jax.vmap(agent.actor_params, in_axes=(axes.learner,))(state.learner)
        acting = params, state.env.statistics
        return Given(*jax.tree.map(lambda x: x[0], (acting, state.actor.memory)))

    return publish


def first_timestep(observation: specs.Array, num_envs: int, normalised: bool) -> VectorTimeStep:
    """A time step of zeros, [N, ...], at which episodes open."""
    dtype = jnp.float32 if normalised else observation.dtype
    zeros = jnp.zeros(num_envs)
    no = zeros > 0
    return VectorTimeStep(
        observation=jnp.zeros((num_envs, *observation.shape), dtype),
        reward=zeros,
        discount=zeros + 1,
        is_first=~no,
        is_last=no,
        truncated=no,
        episode_return=zeros,
        episode_length=zeros.astype(jnp.int32),
    )


def _start(
    agent: Agent, observation: specs.Array, num_envs: int, normalised: bool, seed: jax.Array
) -> TrainState:
    """The state of one seed at the start, without replay."""
    none: Any = ()
    statistics = initial_statistics(observation.shape) if normalised else none
    env = VectorState(none, none, none, none, statistics)
    return initial_state(agent, seed, num_envs, timestep=none, env=env, replay=none)


def _absorb(
    state: TrainState, collected: HostRollout, counts: jax.Array, agent: Agent
) -> tuple[TrainState, Rollout]:
    """The state after a rollout, before anything is learned from it."""
    after, statistics = collected.after, state.env.statistics
    if statistics:
        raw = collected.raw
        statistics = merge_statistics(statistics, raw.reshape(-1, *raw.shape[2:]))
        after = after._replace(observation=normalise(statistics, after.observation))
    learner = state.learner
    if agent.observe is not None:
        learner = agent.observe(learner, collected.outcome)
    before = state.actor
    counted = before.env_steps + counts[0], before.episodes + counts[1]
    state = state._replace(
        learner=learner,
        actor=ActorState((), collected.memory, *counted),
        env=state.env._replace(statistics=statistics),
        vector_steps=state.vector_steps + collected.records.reward.shape[0],
    )
    return state, Rollout(collected.records, collected.before, after)


def in_host_memory(
    agent: Agent,
    observation: specs.Array,
    replay: replay_lib.Replay,
    example: Step,
    *,
    num_envs: int,
    updates: int,
    normalised: bool,
    traces: list[int],
) -> LearnerFunctions:
    """Replay beside the CPU, gradient steps on the first device; arguments as in `on_device`."""
    cpu = jax.local_devices(backend="cpu")[0]
    axes = seed_axes(False)
    ring = axes.replay

    def absorb_one(state: TrainState, collected: HostRollout, counts: jax.Array) -> TrainState:
        return _absorb(state, collected, counts, agent)[0]

    start = functools.partial(_start, agent, observation, num_envs, normalised)
    started = axes._replace(replay=())
    bare = _hold(axes)[0]._replace(replay=())
    init_bare = jax.jit(jax.vmap(start, out_axes=started))
    init_replay = jax.jit(jax.vmap(lambda _: replay.init(example), out_axes=ring))
    absorb = _over_seeds(absorb_one, (bare, None, None), bare, donate=(0,))
    add = _over_seeds(replay.add, (ring, None), ring, donate=(0,))
    update = _make_update(agent, replay, axes, traces)
    publish_bare = jax.jit(_make_publish(agent, axes))

    def init(seeds: jax.Array) -> TrainState:
        with jax.default_device(cpu):
            memory = init_replay(seeds)
        return init_bare(seeds)._replace(replay=memory)

    def place(state: TrainState) -> TrainState:
        return state._replace(replay=jax.device_put(state.replay, cpu))

    def take(state: TrainState, collected: HostRollout, counts: Any) -> TrainState:
        memory = add(state.replay, collected.records)
        return absorb(state._replace(replay=()), collected, counts)._replace(replay=memory)

    def publish(state: TrainState) -> Given:
        return publish_bare(state._replace(replay=()))

    def fill(state: TrainState, collected: HostRollout, counts: Any) -> tuple[TrainState, Given]:
        state = take(state, collected, counts)
        return state, publish(state)

    def learn(
        state: TrainState,
        keys: Keys,
        interval: IntervalMetrics,
        collected: HostRollout,
        counts: Any,
    ) -> tuple[TrainState, IntervalMetrics, Given]:
        state = take(state, collected, counts)
        interval, steps = jax.tree.map(jnp.copy, interval), int(state.learner.steps)
        keys = keys._replace(replay=jax.device_put(keys.replay, cpu))
        for i in range(updates):
            state, interval = update(state, interval, keys, steps + i)
        return state, interval, publish(state)

    return LearnerFunctions(init, _hold, _release, publish, fill, learn, place)


def _make_update(
    agent: Agent, replay: replay_lib.Replay, axes: TrainState, traces: list[int]
) -> Callable[[TrainState, IntervalMetrics, Keys, int], tuple[TrainState, IntervalMetrics]]:
    """One gradient step on a sample of a replay beside the CPU, where its key is too.

    It is told how many were taken: to read that from the state would wait for the device.
    """
    cpu, device = jax.local_devices(backend="cpu")[0], jax.local_devices()[0]
    learner, ring = axes.learner, axes.replay

    def sample_one(memory: Any, key: jax.Array, steps: jax.Array) -> replay_lib.Sample:
        return replay.sample(memory, jax.random.fold_in(key, steps))

    def learn_one(
        learner: LearnerState, interval: IntervalMetrics, batch: Batch, key: jax.Array
    ) -> tuple[LearnerState, IntervalMetrics, jax.Array]:
        traces.append(len(traces) + 1)
        learner, output = agent.learn(learner, batch, jax.random.fold_in(key, learner.steps))
        return learner, count(interval, output), output.priorities

    sample = _over_seeds(sample_one, (ring, 0, None), 0)
    learn = _over_seeds(learn_one, (learner, 0, 0, 0), (learner, 0, 0), donate=(0, 1))
    rank = _over_seeds(replay.update_priorities, (ring, 0, 0), ring, donate=(0,))

    def update(
        state: TrainState, interval: IntervalMetrics, keys: Keys, steps: int
    ) -> tuple[TrainState, IntervalMetrics]:
        drawn = sample(state.replay, keys.replay, steps)
        batch = jax.device_put(drawn.batch, device)
        learner, interval, priorities = learn(state.learner, interval, batch, keys.learn)
        memory = rank(state.replay, drawn.indices, jax.device_put(priorities, cpu))
        return state._replace(learner=learner, replay=memory), interval

    return update


def _over_seeds(function: Any, axes_in: Any, axes_out: Any, donate: tuple[int, ...] = ()) -> Any:
    return jax.jit(jax.vmap(function, in_axes=axes_in, out_axes=axes_out), donate_argnums=donate)

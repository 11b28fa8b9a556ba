"""The compiled functions of the host runner's learner.

`on_device` keeps replay on the learner's device, in one program with the gradient steps.
`in_host_memory` keeps a replay that is too large for the device in host memory, and copies batches
to the device.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from dm_env import specs
from jax.sharding import Mesh

from bellmax.agents import Agent, Batch, LearnerState
from bellmax.envs import Step, VectorState, VectorTimeStep
from bellmax.envs.statistics import initial_statistics, merge_statistics, normalise
from bellmax.launch.replay import ring as replay_lib
from bellmax.launch.runners.base import ActorInputs, HostRollout, PolicyInputs
from bellmax.launch.runners.learning import Learning, from_replay, from_rollout
from bellmax.launch.runners.sharding import make_split, place, shardings
from bellmax.launch.runners.train_state import (
    ActorState,
    IntervalMetrics,
    Keys,
    Rollout,
    TrainState,
    count,
    initial_state,
    over_seeds,
    seed_axes,
)


class LearnerFunctions(NamedTuple):
    """Functions of states with a leading [1] of seeds.

    `add_rollout` and `learn` take, donate and return a packed state: without its keys, which never
    change, and for `on_device` as a list of arrays. Packing saves time, because each array and
    container costs time in every call of a compiled program. The packed form is private to `pack`
    and `unpack`.

    init(seeds [1]) -> TrainState
    pack(state) -> (packed, keys)
    unpack(packed, keys) -> state
    publish(state) -> ActorInputs: a copy, because the state is donated while actors use it.
    add_rollout(packed, rollout, counts [2]) -> (packed, ActorInputs): adds a rollout without
        learning; counts are its environment steps and ended episodes.
    learn(packed, keys, interval, rollout, counts [2]) -> (packed, interval, ActorInputs): adds a
        rollout and learns.
    place(state) -> state, on the devices that the other functions use.
    """

    init: Any
    pack: Callable[[TrainState], tuple[Any, Keys]]
    unpack: Callable[[Any, Keys], TrainState]
    publish: Any
    add_rollout: Any
    learn: Any
    place: Callable[[TrainState], TrainState]

    def compile(
        self, state: TrainState, interval: IntervalMetrics, rollout: HostRollout, counts: Any
    ) -> "LearnerFunctions":
        """Return functions of `on_device` compiled for the shapes of the arguments."""
        packed, keys = self.pack(state)
        learn = self.learn.lower(packed, keys, interval, rollout, counts).compile()
        return self._replace(
            add_rollout=self.add_rollout.lower(packed, rollout, counts).compile(), learn=learn
        )


def _pack(state: TrainState) -> tuple[TrainState, Keys]:
    nothing: Any = ()
    return state._replace(keys=nothing), state.keys


def _unpack(packed: TrainState, keys: Keys) -> TrainState:
    return packed._replace(keys=keys)


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
    """Make functions with replay and gradient steps in one program, or for an on-policy agent.

    Args:
      agent: the agent. replay: what it samples; None for an on-policy agent.
      observation: the spec of what one environment shows, before normalisation.
      example: shapes of one vector step.
      num_envs: N.
      updates: gradient steps in a learning phase.
      normalised: whether the agent sees observations normalised.
      traces: a list that grows by an entry whenever `learn` is compiled.
      mesh: of devices that share the replay and each batch; None for one device.
    """
    axes, split = seed_axes(replay is None), make_split(mesh)
    if replay is None:
        learning = from_rollout(agent, num_envs, updates, split)
    else:
        learning = from_replay(agent, replay, updates, split)
    add_one, learn_one = _make_phases(agent, learning, traces)

    def init_one(seed: jax.Array) -> TrainState:
        buffer = () if replay is None else replay.init(example)
        return _start(agent, observation, num_envs, normalised, seed)._replace(replay=buffer)

    init = jax.vmap(init_one, out_axes=axes)
    shapes = jax.eval_shape(init, jnp.zeros(1, jnp.int32))
    tree, keyless = jax.tree.structure(_pack(shapes)[0]), _pack(axes)[0]
    add_all = jax.vmap(add_one, in_axes=(keyless, None, None), out_axes=keyless)
    axes_in, axes_out = (keyless, 0, 0, None, None), (keyless, 0)
    learn_all = over_seeds(learn_one, axes_in, axes_out, single=replay is None)
    publish = _make_publish(agent, axes)

    def pack(state: TrainState) -> tuple[list[jax.Array], Keys]:
        packed, keys = _pack(state)
        return tree.flatten_up_to(packed), keys

    def unpack(packed: list[jax.Array], keys: Keys) -> TrainState:
        return _unpack(jax.tree.unflatten(tree, packed), keys)

    def add_rollout(packed: list[jax.Array], *given: Any) -> tuple[list[jax.Array], ActorInputs]:
        state = add_all(jax.tree.unflatten(tree, packed), *given)
        return tree.flatten_up_to(state), publish(state)

    def learn(
        packed: list[jax.Array], *given: Any
    ) -> tuple[list[jax.Array], IntervalMetrics, ActorInputs]:
        state, interval = learn_all(jax.tree.unflatten(tree, packed), *given)
        return tree.flatten_up_to(state), interval, publish(state)

    # With None, jax decides where results are placed.
    where = None if mesh is None else shardings(mesh, shapes)
    packed_where = None if where is None else pack(where)[0]
    return LearnerFunctions(
        init=jax.jit(init, out_shardings=where),
        pack=pack,
        unpack=unpack,
        publish=jax.jit(publish),
        add_rollout=jax.jit(add_rollout, donate_argnums=0, out_shardings=(packed_where, None)),
        learn=jax.jit(learn, donate_argnums=0, out_shardings=(packed_where, None, None)),
        place=lambda state: state if where is None else place(state, where),
    )


def _make_phases(
    agent: Agent, learning: Learning, traces: list[int]
) -> tuple[Callable[..., TrainState], Callable[..., tuple[TrainState, IntervalMetrics]]]:
    """Make `add_rollout` and `learn` of one seed, for states without their keys."""
    keep, learn_from = learning

    def add_one(state: TrainState, rollout: HostRollout, counts: jax.Array) -> TrainState:
        return keep(*_record_rollout(state, rollout, counts, agent))

    def learn_one(
        state: TrainState,
        keys: Keys,
        interval: IntervalMetrics,
        rollout: HostRollout,
        counts: jax.Array,
    ) -> tuple[TrainState, IntervalMetrics]:
        traces.append(len(traces) + 1)
        state, steps = _record_rollout(state, rollout, counts, agent)
        state, interval = learn_from(keep(state, steps)._replace(keys=keys), steps, interval)
        return _pack(state)[0], interval

    return add_one, learn_one


def _make_publish(agent: Agent, axes: TrainState) -> Callable[[TrainState], ActorInputs]:
    def publish(state: TrainState) -> ActorInputs:
        params = jax.vmap(agent.actor_params, in_axes=(axes.learner,))(state.learner)
        inputs = ActorInputs(PolicyInputs(params, state.env.statistics), state.actor.memory)
        return jax.tree.map(lambda x: x[0], inputs)

    return publish


def first_timestep(
    observation: specs.Array, num_envs: int, normalised: bool, mask_size: int = 0
) -> VectorTimeStep:
    """Return a time step of zeros, [N, ...], with `is_first`; mask_size: A, 0 without masks."""
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
        action_mask=jnp.ones((num_envs, mask_size), bool) if mask_size else (),
    )


def _start(
    agent: Agent, observation: specs.Array, num_envs: int, normalised: bool, seed: jax.Array
) -> TrainState:
    """Return the initial state of one seed, without replay."""
    none: Any = ()
    statistics = initial_statistics(observation.shape) if normalised else none
    env = VectorState(none, none, none, none, statistics)
    return initial_state(agent, seed, num_envs, timestep=none, env=env, replay=none)


def _record_rollout(
    state: TrainState, rollout: HostRollout, counts: jax.Array, agent: Agent
) -> tuple[TrainState, Rollout]:
    """Update a state, except its replay and parameters, by a rollout; return it and the rollout."""

    after, statistics = rollout.after, state.env.statistics
    if statistics:
        raw = rollout.raw
        statistics = merge_statistics(statistics, raw.reshape(-1, *raw.shape[2:]))
        after = after._replace(observation=normalise(statistics, after.observation))
    learner = state.learner
    if agent.observe is not None:
        learner = agent.observe(learner, rollout.outcome)
    before = state.actor
    counted = before.env_steps + counts[0], before.episodes + counts[1]
    state = state._replace(
        learner=learner,
        actor=ActorState((), rollout.memory, *counted),
        env=state.env._replace(statistics=statistics),
        vector_steps=state.vector_steps + rollout.records.reward.shape[0],
    )
    return state, Rollout(rollout.records, rollout.before, after)


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
    """Make functions with replay in host memory; gradient steps run on the first device.

    Arguments as in `on_device`.
    """
    cpu = jax.local_devices(backend="cpu")[0]
    axes = seed_axes(False)
    start = functools.partial(_start, agent, observation, num_envs, normalised)
    init_rest = jax.jit(jax.vmap(start, out_axes=axes._replace(replay=())))
    init_replay = jax.jit(jax.vmap(lambda _: replay.init(example), out_axes=axes.replay))
    add = _make_host_add(agent, replay, axes)
    update = _make_update(agent, replay, axes, traces)
    publish_rest = jax.jit(_make_publish(agent, axes))

    def init(seeds: jax.Array) -> TrainState:
        with jax.default_device(cpu):
            buffer = init_replay(seeds)
        return init_rest(seeds)._replace(replay=buffer)

    def place(state: TrainState) -> TrainState:
        return state._replace(replay=jax.device_put(state.replay, cpu))

    def publish(state: TrainState) -> ActorInputs:
        return publish_rest(state._replace(replay=()))

    def add_rollout(
        state: TrainState, rollout: HostRollout, counts: Any
    ) -> tuple[TrainState, ActorInputs]:
        state = add(state, rollout, counts)
        return state, publish(state)

    def learn(
        state: TrainState,
        keys: Keys,
        interval: IntervalMetrics,
        rollout: HostRollout,
        counts: Any,
    ) -> tuple[TrainState, IntervalMetrics, ActorInputs]:
        state = add(state, rollout, counts)
        interval, steps = jax.tree.map(jnp.copy, interval), int(state.learner.steps)
        keys = keys._replace(replay=jax.device_put(keys.replay, cpu))
        for i in range(updates):
            state, interval = update(state, interval, keys, steps + i)
        return state, interval, publish(state)

    return LearnerFunctions(init, _pack, _unpack, publish, add_rollout, learn, place)


def _make_host_add(
    agent: Agent, replay: replay_lib.Replay, axes: TrainState
) -> Callable[[TrainState, HostRollout, Any], TrainState]:
    """Make `add`: a rollout goes to replay in host memory, its statistics to the device."""
    rest = _pack(axes)[0]._replace(replay=())

    def record_one(state: TrainState, rollout: HostRollout, counts: jax.Array) -> TrainState:
        return _record_rollout(state, rollout, counts, agent)[0]

    record = _over_seeds(record_one, (rest, None, None), rest, donate=(0,))
    add_records = _over_seeds(replay.add, (axes.replay, None), axes.replay, donate=(0,))

    def add(state: TrainState, rollout: HostRollout, counts: Any) -> TrainState:
        buffer = add_records(state.replay, rollout.records)
        return record(state._replace(replay=()), rollout, counts)._replace(replay=buffer)

    return add


def _make_update(
    agent: Agent, replay: replay_lib.Replay, axes: TrainState, traces: list[int]
) -> Callable[[TrainState, IntervalMetrics, Keys, int], tuple[TrainState, IntervalMetrics]]:
    """Make `update`: one gradient step on a sample of a replay in host memory.

    The caller passes the number of gradient steps, because reading it from the state would wait for
    the device.
    """
    cpu, device = jax.local_devices(backend="cpu")[0], jax.local_devices()[0]
    learner, ring = axes.learner, axes.replay

    def sample_one(buffer: Any, key: jax.Array, steps: jax.Array) -> replay_lib.Sample:
        return replay.sample(buffer, jax.random.fold_in(key, steps))

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
        buffer = rank(state.replay, drawn.indices, jax.device_put(priorities, cpu))
        return state._replace(learner=learner, replay=buffer), interval

    return update


def _over_seeds(function: Any, axes_in: Any, axes_out: Any, donate: tuple[int, ...] = ()) -> Any:
    return jax.jit(jax.vmap(function, in_axes=axes_in, out_axes=axes_out), donate_argnums=donate)

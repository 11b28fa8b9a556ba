"""Sharding of a run: environments, replay and batches are split over devices, the learner is not.

Agents are unchanged. jax's partitioner makes one program for all devices from the shardings of the
state, and sums the gradients of a split batch over the devices.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bellmax import UserError, must
from bellmax.launch.runners.train_state import ActorState, TrainState

AXIS = "devices"
# split(batch) -> the same batch, leaves [B, ...], split over the devices.
Split: TypeAlias = Callable[[Any], Any]


def make_mesh(count: int, devices: Sequence[Any] | None = None) -> Mesh | None:
    """Return a mesh of the first `count` devices, or None if `count` is 1.

    Args:
      count: number of devices.
      devices: the devices to choose from; None takes all devices of the run.

    Raises:
      UserError: there are fewer devices, or a run of several processes does not use all.
    """
    devices = jax.devices() if devices is None else devices
    if count > len(devices):
        raise UserError(
            must(
                "devices",
                f"at most {len(devices)}, the number of {devices[0].platform} devices",
                count,
            )
        )
    if jax.process_count() > 1 and count != len(devices):
        raise UserError(
            must(
                "devices",
                f"{len(devices)}, all devices of the {jax.process_count()} processes",
                count,
            )
        )
    if count == 1:
        return None
    return jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def make_split(mesh: Mesh | None) -> Split:
    """Return the function that gives each device of the mesh a part of a batch."""
    if mesh is None:
        return lambda batch: batch
    sharding = NamedSharding(mesh, P(AXIS))
    return lambda batch: jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x, sharding), batch
    )


def shardings(mesh: Mesh, state: TrainState) -> TrainState:
    """Return the sharding of each leaf: split by environment, or replicated on every device.

    Args:
      mesh: of devices.
      state: shapes only.
    """
    whole: Any = NamedSharding(mesh, P())
    by_environment = NamedSharding(mesh, P(None, AXIS))

    def put(tree: Any, sharding: NamedSharding) -> Any:
        return jax.tree.map(lambda _: sharding, tree)

    env, actor, replay = state.env, state.actor, state.replay
    split_env = put(env, by_environment)._replace(
        statistics=put(env.statistics, whole), visited=put(env.visited, whole)
    )
    split_actor = ActorState(
        put(actor.timestep, by_environment), put(actor.memory, by_environment), whole, whole
    )
    if replay != ():
        storage = put(replay.storage, NamedSharding(mesh, P(None, None, AXIS)))
        replay = put(replay, whole)._replace(storage=storage)
    return TrainState(
        put(state.learner, whole), split_actor, split_env, replay, put(state.keys, whole), whole
    )


def place(state: Any, where: Any) -> Any:
    """Place a state by its `shardings`; leaves that already have theirs are not copied.

    With several processes every leaf must already have its sharding.
    """

    def put(x: jax.Array, sharding: NamedSharding) -> jax.Array:
        is_placed = x.sharding.is_equivalent_to(sharding, x.ndim)
        return x if is_placed else jax.device_put(x, sharding)

    return jax.tree.map(put, state, where)


def with_shardings(mesh: Mesh, state: TrainState) -> TrainState:
    """Return the shapes of a state with their `shardings`."""

    def put(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(put, state, shardings(mesh, state))

"""A host runner for tests, of a few environments in this process."""

import jax

from bellmax.agents.munchausen_dqn import MunchausenDQNConfig, make_munchausen_dqn
from bellmax.launch.actors.local import LocalActors
from bellmax.launch.actors.pools import ActorPool
from bellmax.launch.replay.ring import make_replay
from bellmax.launch.runners.host_runner import HostRunner
from bellmax.networks import NetworkConfig
from helpers.host_tasks import CountingBatch
from helpers.stored import by_step

SMALL = {"network": NetworkConfig(hidden=(16,)), "batch_size": 16, "epsilon_steps": 500}
NUM_ENVS, SEED = 4, 3


def make_counting_agent():
    """Return an agent for CountingBatch."""
    return make_munchausen_dqn(MunchausenDQNConfig(**SMALL), CountingBatch(0, 1).spec)


def make_host(
    agent,
    observation,
    make_env,
    replay,
    *,
    num_envs=NUM_ENVS,
    num_actors=1,
    rollout_length=1,
    updates_per_rollout=1,
    normalised=False,
    ahead=None,
    device=None,
    **options,
):
    """Return a host runner and its actors in this process; ahead=None is lock-step."""
    make_actor = LocalActors(
        agent,
        make_env,
        num_envs=num_envs,
        rollout_length=rollout_length,
        normalised=normalised,
        newest_frames=replay is not None and replay.frame_stack > 1,
        device=device,
    )
    return HostRunner(
        agent,
        observation,
        ActorPool(make_actor, num_actors, ahead=ahead, device=device),
        replay,
        num_envs=num_envs,
        rollout_length=rollout_length,
        updates_per_rollout=updates_per_rollout,
        normalised=normalised,
        **options,
    )


def replay_for(agent, length=1, num_envs=NUM_ENVS, capacity=400, **kwargs):
    spec = agent.replay
    if spec.on_policy:
        return None
    return make_replay(
        capacity=capacity,
        num_envs=num_envs,
        rollout_length=length,
        sequence_length=spec.sequence_length,
        batch_size=spec.batch_size,
        **kwargs,
    )


def stored(state, num_envs=NUM_ENVS):
    """Steps of every environment in the order in which they were added, leaves [C, N, ...]."""
    return by_step(jax.tree.map(lambda x: x[0], state.replay.storage), num_envs)

"""The action gap of DQN or M-DQN after training: how far the best action is ahead."""

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.claims.lanes import Lanes

from bellmax.envs import make_vector_env
from bellmax.launch.replay.ring import make_replay, seed_axes
from bellmax.networks import make_q_network


def measure(lanes: Lanes, batch: int = 1024) -> dict[str, np.ndarray]:
    """relative_gap: [lanes] best less second value on replay, over the mean size of a value."""
    config, state = lanes.config, lanes.state
    spec = make_vector_env(config.env).spec
    network = make_q_network(config.agent.network, spec.observation, spec.action.num_values)
    replay = make_replay(
        capacity=config.replay.capacity,
        num_envs=config.env.num_envs,
        rollout_length=config.rollout_length,
        sequence_length=config.agent.n_step + 1,
        batch_size=batch,
    )

    def one(memory, params, key):
        steps = replay.sample(memory, key).batch.steps
        q = jnp.sort(network.apply(params, steps.observation[:, 0]).q_values, axis=-1)
        return (q[:, -1] - q[:, -2]).mean() / jnp.abs(q).mean()

    keys = jax.random.split(jax.random.key(0), len(lanes.returns))
    gaps = jax.jit(jax.vmap(one, in_axes=(seed_axes, 0, 0)))
    return {"relative_gap": np.asarray(gaps(state.replay, state.learner.params, keys))}

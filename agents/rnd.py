"""RND: the bonus is the error of a network that predicts the output of a fixed random network.

raw reward of reaching o = |predictor(o) - random(o)|^2, and the predictor's loss
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bellmax import losses
from bellmax.agents.configs.on_policy import RNDConfig
from bellmax.agents.on_policy import make_on_policy_agent
from bellmax.agents.shared.base import Agent, Params
from bellmax.agents.shared.intrinsic import Chunk, Intrinsic, no_memory, transition_mask
from bellmax.envs import EnvSpec
from bellmax.networks import check_arrays, make_torso


class RNDState(NamedTuple):
    """target: parameters of the random network. moments: of all observations so far."""

    target: Params
    moments: losses.RunningMoments


def make_rnd(config: RNDConfig, spec: EnvSpec) -> Agent:
    """Makes the actor-critic with RND's bonus.

    Deviations: one value function for the sum of both rewards, so that intrinsic returns end with
      the episode (the paper: two value functions, the intrinsic one non-episodic); the predictor
      is trained on every step; observation moments start with the first rollout (the paper: with
      random steps before training).

    Raises:
      UserError: the task's actions are not discrete, or the torso does not fit its observations.
    """
    return make_on_policy_agent(config, spec, rnd_bonus(config, spec), config.intrinsic)


class RandomFeatures(nn.Module):
    """[B, ...] -> [B, features]: the agent's torso, `extra` hidden layers and a linear layer."""

    config: RNDConfig
    extra: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = make_torso(self.config.network.torso, self.config.rnd_hidden, jnp.float32)(x)
        for _ in range(self.extra):
            x = nn.relu(nn.Dense(self.config.rnd_features)(x))
        return nn.Dense(self.config.rnd_features)(x)


def rnd_bonus(config: RNDConfig, spec: EnvSpec) -> Intrinsic:
    """Makes the RND bonus, which any agent can use."""
    check_arrays(spec.observation, "RND")
    shape = spec.observation.shape
    target_net, predictor = RandomFeatures(config, 0), RandomFeatures(config, 1)

    def init(key: jax.Array, encoder: Params) -> tuple[Params, RNDState]:
        del encoder
        keys = jax.random.split(key)
        seen = jnp.zeros((1, *shape))
        moments = losses.running_moments_init(shape)
        return predictor.init(keys[0], seen), RNDState(target_net.init(keys[1], seen), moments)

    def errors(params: Params, state: RNDState, chunk: Chunk) -> jax.Array:
        """Prediction errors [S, B] at the successor observations."""
        reached = chunk.steps.observation[1:]
        lead = reached.shape[:2]
        flat = reached.reshape(-1, *shape).astype(jnp.float32)

        def scale(x: jax.Array) -> jax.Array:
            return losses.standardise(state.moments, x, clip=config.observation_clip)

        seen = jax.vmap(scale)(flat)
        outputs: Any = predictor.apply(params, seen), target_net.apply(state.target, seen)
        return jax.vmap(losses.rnd_error)(*outputs).reshape(lead)

    def reward(params: Params, state: RNDState, encoder: Params, chunk: Chunk):
        del encoder
        reached = chunk.steps.observation[1:].astype(jnp.float32)
        moments = losses.running_moments_update(
            state.moments, reached, transition_mask(chunk.steps)
        )
        state = state._replace(moments=moments)
        return state, (), errors(params, state, chunk)

    def loss(params: Params, state: RNDState, chunk: Chunk) -> jax.Array:
        return losses.masked_mean(errors(params, state, chunk), transition_mask(chunk.steps))

    return Intrinsic(init, no_memory, reward, loss, lambda params, state, encoder: state)

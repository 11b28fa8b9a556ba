"""BYOL-Explore: curiosity from the prediction errors of a world model in its own latent space.

b_t = GRU(b_{t-1}, [f(o_t), a_{t-1}]),  b_{t,0} = b_t,  b_{t,k} = GRU'(b_{t,k-1}, a_{t+k-1})
L(t, k) = |u(g(b_{t,k})) - u(f_target(o_{t+k}))|^2,  u(x) = x / |x|
world-model loss of t: mean over k of L(t, k);  raw reward of reaching o_t: sum over k of L(t-k, k)
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from bellmax import losses
from bellmax.agents.configs.on_policy import BYOLExploreConfig
from bellmax.agents.on_policy import make_on_policy_agent
from bellmax.agents.shared.base import Agent, Memory, Params, count_actions
from bellmax.agents.shared.intrinsic import Chunk, Intrinsic, transition_mask
from bellmax.envs import EnvSpec, Step
from bellmax.networks import GRU, RecurrentNetwork, make_recurrent_network


class WorldModelParams(NamedTuple):
    """open_loop: the GRU over actions. encoder, cell: () if shared with the agent."""

    open_loop: Params
    predictor: Params
    encoder: Params = ()
    cell: Params = ()


def make_byol_explore(config: BYOLExploreConfig, spec: EnvSpec) -> Agent:
    """Makes the actor-critic with BYOL-Explore's bonus.

    Not verified against the paper's full text, which was not available: layer sizes,
    `target_decay`, the division of the loss by the number of horizons, and the treatment of episode
    ends: here the memory is reset, predictions stop at an end, and the last observation itself is a
    target.

    Raises:
      UserError: the task's actions are not discrete, or the torso does not fit its observations.
    """
    return make_on_policy_agent(config, spec, byol_bonus(config, spec), config.intrinsic)


class Predictor(nn.Module):
    """Beliefs [..., M] -> predicted latents [..., D]."""

    hidden: tuple[int, ...]
    latent_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(self.latent_size)(x)


class WorldModel(NamedTuple):
    """Networks and sizes of the world model. horizon: K, in environment steps."""

    horizon: int
    num_actions: int
    net: RecurrentNetwork
    open_loop: GRU
    predictor: Predictor


def byol_bonus(config: BYOLExploreConfig, spec: EnvSpec) -> Intrinsic:
    """Makes the world model's bonus; if `shared` is false, any agent can use it.

    The bonus' state is the parameters of the target encoder.
    """
    num_actions = count_actions(spec)
    net = make_recurrent_network(config.network, spec.observation, num_actions)
    open_loop = GRU(config.network.memory_size)
    predictor = Predictor(tuple(config.predictor_hidden), config.network.latent_size)
    model = WorldModel(config.horizon, num_actions, net, open_loop, predictor)

    def init(key: jax.Array, encoder: Params) -> tuple[WorldModelParams, Params]:
        keys = jax.random.split(key, 3)
        belief = jnp.zeros((1, config.network.memory_size))
        params = WorldModelParams(
            open_loop.init(keys[0], belief, jnp.zeros((1, num_actions)), method="both"),
            predictor.init(keys[1], belief),
        )
        if not config.shared:
            own = net.init(keys[2])
            params = params._replace(encoder=own.encoder, cell=own.cell)
            encoder = own.encoder
        return params, jax.tree.map(jnp.copy, encoder)

    def initial_memory(batch_size: int) -> Memory:
        return () if config.shared else net.initial_memory(batch_size)

    def believe(params: WorldModelParams, chunk: Chunk) -> jax.Array:
        """Beliefs [T, B, M], the agent's or the world model's own."""
        if config.shared:
            return chunk.beliefs
        steps = chunk.steps
        latents = net.encode(params.encoder, steps.observation)
        return net.unroll(params.cell, latents, steps.action, steps.is_first, chunk.memory)

    def reward(params: WorldModelParams, state: Params, encoder: Params, chunk: Chunk):
        del encoder
        beliefs = believe(params, chunk)
        found = _errors(model, params, state, chunk.steps, beliefs)
        raw = jax.vmap(losses.prediction_uncertainty, in_axes=2, out_axes=1)(*found)
        memory = chunk.memory
        if not config.shared:
            # The next chunk starts at this chunk's last step.
            memory = memory._replace(belief=beliefs[-2], action=chunk.steps.action[-2])
        return state, memory, raw

    def loss(params: WorldModelParams, state: Params, chunk: Chunk) -> jax.Array:
        found = _errors(model, params, state, chunk.steps, believe(params, chunk))
        each = jax.vmap(losses.self_prediction_loss, in_axes=2, out_axes=1)(*found)
        return config.world_model_cost * losses.masked_mean(each, transition_mask(chunk.steps))

    def update(params: WorldModelParams, state: Params, encoder: Params) -> Params:
        new = encoder if config.shared else params.encoder
        return optax.incremental_update(new, state, 1.0 - config.target_decay)

    return Intrinsic(init, initial_memory, reward, loss, update)


def _predict(
    model: WorldModel, params: WorldModelParams, beliefs: jax.Array, actions: jax.Array
) -> jax.Array:
    """Predicted latents [K, S, B, D]; entry [k - 1, t] predicts step t + k.

    beliefs: [S, B, M]. actions: [S, B].
    """
    taken = jax.nn.one_hot(actions, model.num_actions)
    projected: Any = model.open_loop.apply(params.open_loop, taken, method="project")
    starts, last = jnp.arange(actions.shape[0]), actions.shape[0] - 1

    def ahead(belief: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Beyond the chunk the action is arbitrary: those predictions are masked.
        projected_k = projected[jnp.minimum(starts + k, last)]
        new: Any = model.open_loop.apply(params.open_loop, belief, projected_k)
        return new, new

    _, opened = jax.lax.scan(ahead, beliefs, jnp.arange(model.horizon))
    predictions: Any = model.predictor.apply(params.predictor, opened)
    return predictions


def _errors(
    model: WorldModel, params: WorldModelParams, target: Params, steps: Step, beliefs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Errors and their mask, each [K, S, B], of steps [T, B, ...] and beliefs [T, B, M]."""
    predictions = _predict(model, params, beliefs[:-1], steps.action[:-1])
    targets = model.net.encode(target, steps.observation)

    def one(predictions: jax.Array, targets: jax.Array, transition: jax.Array):
        mask = losses.horizon_mask(transition, horizons=model.horizon)
        return losses.horizon_losses(predictions, targets, mask), mask

    each = jax.vmap(one, in_axes=(2, 1, 1), out_axes=2)
    return each(predictions, targets, transition_mask(steps))

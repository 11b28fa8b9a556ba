"""Distributional agents and VA-learning, linear in one-hot observations, with random parameters."""

import functools
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bellmax.agents import iqn
from bellmax.agents.configs.value_based import C51Config, IQNConfig
from bellmax.agents.qr_dqn_retrace import QRDQNRetraceConfig
from bellmax.agents.shared.base import Batch
from bellmax.agents.va_learning import VALearningConfig
from bellmax.networks import CategoricalOutput, NetworkConfig, QuantileOutput, VAOutput
from helpers.jitted import quick_jit, random_like
from helpers.windows import KEY, SPEC

N = 5


class LinearQuantiles(nn.Module):
    """A table of quantiles for one-hot observations."""

    num_actions: int
    num_quantiles: int

    @nn.compact
    def __call__(self, x):
        flat = nn.Dense(self.num_quantiles * self.num_actions, use_bias=False)(x)
        quantiles = flat.reshape(-1, self.num_quantiles, self.num_actions)
        return QuantileOutput(quantiles.mean(1), quantiles)


class BinnedQuantiles(nn.Module):
    """The table of `LinearQuantiles` as a function of the fraction: constant in each bin."""

    num_actions: int
    num_quantiles: int

    @nn.compact
    def __call__(self, x, fractions=None):
        flat = nn.Dense(self.num_quantiles * self.num_actions, use_bias=False)(x)
        quantiles = flat.reshape(-1, self.num_quantiles, self.num_actions)
        if fractions is not None:
            bins = (fractions * self.num_quantiles).astype(jnp.int32)
            quantiles = jnp.take_along_axis(quantiles, bins[:, :, None], axis=1)
        return QuantileOutput(quantiles.mean(1), quantiles)


class LinearLogits(nn.Module):
    """A table of logits on a grid for one-hot observations."""

    num_actions: int
    num_atoms: int
    v_min: float
    v_max: float

    @nn.compact
    def __call__(self, x):
        flat = nn.Dense(self.num_actions * self.num_atoms, use_bias=False)(x)
        logits = flat.reshape(-1, self.num_actions, self.num_atoms)
        atoms = jnp.linspace(self.v_min, self.v_max, self.num_atoms)
        return CategoricalOutput(jax.nn.softmax(logits) @ atoms, logits)


class LinearVA(nn.Module):
    """Tables of V, f and the behaviour's logits for one-hot observations."""

    num_actions: int

    @nn.compact
    def __call__(self, x):
        value = nn.Dense(1, use_bias=False)(x)
        raw = nn.Dense(self.num_actions, use_bias=False)(x)
        logits = nn.Dense(self.num_actions, use_bias=False)(x)
        mu = jax.lax.stop_gradient(jax.nn.softmax(logits))
        advantage = raw - jnp.sum(mu * raw, axis=-1, keepdims=True)
        return VAOutput(value + advantage, value[:, 0], advantage, logits)


def network(name):
    return NetworkConfig(module=f"{__name__}:{name}")


QR = QRDQNRetraceConfig(network=network("LinearQuantiles"), num_quantiles=N, batch_size=16)
IQN = IQNConfig(
    network=network("BinnedQuantiles"),
    num_quantiles=N,
    num_target_quantiles=N,
    num_policy_quantiles=N,
    batch_size=16,
)
C51 = C51Config(network=network("LinearLogits"), num_atoms=21, v_min=-4.0, v_max=4.0, batch_size=16)
VA = VALearningConfig(network=network("LinearVA"), batch_size=16)


def midpoints(key, batch, count):
    """Stands for `iqn.draw_fractions`."""
    return jnp.broadcast_to((jnp.arange(count) + 0.5) / count, (batch, count))


def make_iqn_at(draw):
    """Like `make_iqn`, but with fractions from `draw`."""

    def make(config, spec):
        agent = iqn.make_iqn(config, spec)

        def learn(*args):
            with mock.patch.object(iqn, "draw_fractions", draw):  # while it is traced
                return agent.learn(*args)

        return agent._replace(learn=learn)

    return make


make_iqn_at_midpoints = make_iqn_at(midpoints)


def random_params(agent, seed):
    """Parameters of an agent's shapes; only shapes are traced."""
    return random_like(jax.eval_shape(lambda: agent.init(KEY).params), seed)


@functools.cache
def compiled(make, config):
    """An agent, and one learning step from any parameters, compiled."""
    agent = make(config, SPEC)

    def learn(params, target_params, steps, weights):
        state = agent.init(KEY)._replace(params=params, target_params=target_params)
        return agent.learn(state, Batch(steps, weights), KEY)

    return agent, quick_jit(learn)


def gradient_of(make, config, steps, params, target_params, weights=None):
    """Gradient, state and output of one learning step: Adam's first moment is a tenth of it."""
    weights = np.ones(len(steps.reward)) if weights is None else weights
    _, learn = compiled(make, config)
    state, output = learn(params, target_params, steps, np.asarray(weights, np.float32))
    gradient = jax.tree.map(lambda m: 10 * np.asarray(m), state.opt_state[0].mu["params"])
    return gradient, state, output

"""QR-DQN-Retrace and a batch of steps at the shapes of Atari, with the settings of DQN Zoo."""

import flax.linen as nn
import jax
import numpy as np
from dm_env import specs

from bellmax.agents.qr_dqn_retrace import QRDQNRetraceConfig, make_qr_dqn_retrace
from bellmax.agents.shared.base import Batch
from bellmax.envs import EnvSpec, Step
from bellmax.networks import NetworkConfig, QuantileOutput

N, BATCH, SHAPE, GAMMA = 201, 32, (84, 84, 4), 0.99
LEARNING_RATE, ADAM_EPSILON, MAX_NORM = 5e-5, 0.01 / 32, 10.0


class Given(nn.Module):
    """A network without computation: its output is the observation plus a learned shift."""

    num_actions: int
    num_quantiles: int

    @nn.compact
    def __call__(self, x):
        shift = self.param("shift", nn.initializers.zeros, x.shape[1:])
        return QuantileOutput((x + shift).mean(axis=1), x + shift)


def make_agent(
    num_actions, options, given=False, dtype="float32", batch_size=BATCH, num_quantiles=N
):
    """Make QR-DQN-Retrace with these options; `given` replaces the network; outputs in `dtype`."""
    network = {"module": f"{__name__}:Given"} if given else {"torso": "nature", "dtype": dtype}
    config = QRDQNRetraceConfig(
        num_quantiles=num_quantiles,
        batch_size=batch_size,
        discount=GAMMA,
        learning_rate=LEARNING_RATE,
        adam_epsilon=ADAM_EPSILON,
        max_gradient_norm=MAX_NORM,
        target_period=2500,  # DQN Zoo: every 40,000 frames, with a step every 16
        network=NetworkConfig(**network),
        **options,
    )
    pixels = specs.Array(SHAPE, np.uint8)
    outputs = specs.Array((num_quantiles, num_actions), np.float32)
    observation = outputs if given else pixels
    action = specs.DiscreteArray(num_actions)
    return make_qr_dqn_retrace(config, EnvSpec("atari shapes", observation, action))


def make_batch(num_actions, length, given=False, batch_size=BATCH, num_quantiles=N):
    """Return random steps [B, length]; some close an episode, but never the first of a row."""
    rng = np.random.default_rng(0)
    rows = batch_size, length
    if given:
        shape = *rows, num_quantiles, num_actions
        observation = rng.normal(size=shape).astype(np.float32)
    else:
        observation = rng.integers(0, 256, (*rows, *SHAPE), np.uint8)
    is_last = rng.random(rows) < 0.02
    is_last[:, 0] = False
    steps = Step(
        observation=observation,
        action=rng.integers(0, num_actions, rows, np.int32),
        reward=rng.integers(-1, 2, rows).astype(np.float32),
        discount=(rng.random(rows) > 0.02).astype(np.float32),
        is_first=np.zeros(rows, bool),
        is_last=is_last,
        behaviour=np.full(rows, -np.log(num_actions), np.float32),
    )
    return jax.device_put(Batch(steps, np.ones(batch_size, np.float32)))

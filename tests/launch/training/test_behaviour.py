"""The log-probabilities in replay are those of the policy at the same step."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.agents.qr_dqn_retrace import QRDQNRetraceConfig, make_qr_dqn_retrace
from bellmax.envs import Catch, vectorise
from bellmax.launch.replay.ring import make_replay
from bellmax.launch.runners.device_runner import make_runner
from bellmax.networks import NetworkConfig, QuantileOutput
from helpers.stored import by_step

NUM_ENVS, ACTIONS, N = 3, 3, 4


class Tied(nn.Module):
    """Quantiles that are always equal for actions 1 and 2, so that they tie."""

    num_actions: int
    num_quantiles: int

    @nn.compact
    def __call__(self, x):
        flat = nn.Dense(2 * self.num_quantiles)(x.reshape(len(x), -1))
        quantiles = flat.reshape(-1, self.num_quantiles, 2)[:, :, jnp.array([0, 1, 1])]
        return QuantileOutput(quantiles.mean(1), quantiles)


def q_values(params, observation):
    """[N, A] in float64, as the module above has them."""
    dense = params["params"]["Dense_0"]
    flat = observation.reshape(len(observation), -1).astype(float) @ dense["kernel"] + dense["bias"]
    return flat.reshape(-1, N, 2).mean(1)[:, [0, 1, 1]]


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 3])
def test_replay_holds_the_log_probability_of_each_action_when_it_was_taken(length):
    """Each rollout acts with its own parameters and epsilon, while both change."""
    config = QRDQNRetraceConfig(
        network=NetworkConfig(module=f"{__name__}:Tied"),
        num_quantiles=N,
        batch_size=16,
        n_step=3,
        target_epsilon=0.1,
        learning_rate=0.01,
        epsilon_start=0.9,
        epsilon_end=0.3,
        epsilon_steps=400,
    )
    vector = vectorise(Catch(rows=5, columns=4), NUM_ENVS)
    agent = make_qr_dqn_retrace(config, vector.spec)
    replay = make_replay(
        capacity=600 * NUM_ENVS,
        num_envs=NUM_ENVS,
        rollout_length=length,
        sequence_length=agent.replay.sequence_length,
        batch_size=config.batch_size,
    )
    runner = make_runner(agent, vector, replay, rollout_length=length, updates_per_rollout=1)
    state, acted_with = runner.init(jnp.array([3])), []
    for rollout in range(180):
        acted_with.append(jax.tree.map(lambda x: np.array(x[0]), state.learner.params))
        state, _ = runner.advance(state, int(rollout < 10), int(rollout >= 10))
    first, last = (p["params"]["Dense_0"]["kernel"] for p in (acted_with[0], acted_with[-1]))
    assert np.abs(last - first).max() > 0.1
    storage = by_step(jax.tree.map(lambda x: x[0], state.replay.storage), NUM_ENVS)
    seen = set()
    for now in range(180 * length):
        q = q_values(acted_with[now // length], storage.observation[now])
        assert np.abs(q[:, 0] - q[:, 1]).min() > 1e-6  # no tie that rounding could break
        greedy = q.argmax(axis=1)  # of equal values the first
        epsilon = 0.9 + (0.3 - 0.9) * min(now * NUM_ENVS / 400, 1)
        probability = np.full((NUM_ENVS, ACTIONS), epsilon / ACTIONS)
        probability[np.arange(NUM_ENVS), greedy] += 1 - epsilon
        np.testing.assert_allclose(probability.sum(axis=1), 1)
        taken = storage.action[now]
        wanted = np.log(probability[np.arange(NUM_ENVS), taken])
        np.testing.assert_allclose(storage.behaviour[now], wanted, rtol=1e-5, atol=1e-6)
        seen |= set(zip(greedy.tolist(), taken.tolist(), strict=True))
    # Every action was taken with each greedy action, so also the tied twin of the greedy one.
    assert seen == {(greedy, taken) for greedy in (0, 1) for taken in range(3)}

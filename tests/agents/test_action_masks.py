"""No agent takes, bootstraps from or counts an illegal action."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax.agents import ActInput
from bellmax.agents.c51 import make_c51
from bellmax.agents.configs.value_based import C51Config
from bellmax.agents.iqn import make_iqn
from bellmax.agents.on_policy import OnPolicyConfig, make_on_policy
from bellmax.agents.qr_dqn_retrace import make_qr_dqn_retrace
from bellmax.agents.shared.acting import draw_action
from bellmax.agents.shared.base import Batch
from bellmax.agents.va_learning import make_va_learning
from bellmax.envs import EnvSpec
from bellmax.networks import NetworkConfig, RecurrentNetworkConfig
from helpers.jitted import compile_agent, quick_jit, random_like
from helpers.linear_agents import C51, IQN, QR, VA
from helpers.windows import AGENTS as DQN
from helpers.windows import KEY, random_steps

STATES, ACTIONS, BATCH = 6, 4, 16
SPEC = EnvSpec(
    "test/Masked",
    specs.Array((STATES,), np.float32),
    specs.DiscreteArray(ACTIONS),
    action_mask=True,
)
# The legal actions of each state; none is where an episode terminated.
LEGAL = np.array(
    [[1, 1, 0, 1], [0, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool
)
EPSILON = {"n_step": 3, "target_epsilon": 0.2, "trace_decay": 0.9}
AGENTS = {
    **DQN,
    "one_step": (make_qr_dqn_retrace, replace(QR, trace="one_step")),
    "m_qr_dqn": (make_qr_dqn_retrace, replace(QR, trace="one_step", munchausen=True)),
    "retrace": (make_qr_dqn_retrace, replace(QR, n_step=3)),
    "retrace_decay": (make_qr_dqn_retrace, replace(QR, n_step=3, trace_decay=0.8)),
    "retrace_epsilon": (make_qr_dqn_retrace, replace(QR, **EPSILON)),
    "retrace_every": (make_qr_dqn_retrace, replace(QR, **EPSILON, anchor="every")),
    "q_lambda": (make_qr_dqn_retrace, replace(QR, n_step=3, trace="q_lambda", trace_decay=0.8)),
    "va": (make_va_learning, replace(VA, n_step=2, double=True)),
    "va_retrace": (make_va_learning, replace(VA, n_step=3, trace="retrace")),
    "dueling": (make_va_learning, replace(VA, loss="behaviour_dueling")),
    "iqn": (make_iqn, replace(IQN, n_step=2)),
    "m_iqn": (make_iqn, replace(IQN, munchausen=True, n_step=3, temperature=0.3)),
    "c51": (make_c51, C51),
    "c51_n_step": (make_c51, replace(C51, trace="n_step", n_step=3, selector="online")),
    "c51_retrace": (make_c51, replace(C51, **EPSILON, trace="retrace")),
    "c51_q_lambda": (
        make_c51,
        replace(C51, **EPSILON, trace="q_lambda", target_mixing=0.3, regression="cramer"),
    ),
}
every_agent = pytest.mark.parametrize("make, config", AGENTS.values(), ids=AGENTS)


def windows(config, seed=0):
    """Windows with ends anywhere, one-hot observations, legal actions and their masks."""
    rng = np.random.default_rng(seed)
    steps = random_steps(config.n_step + 1, batch=BATCH, seed=seed)
    terminated = np.roll(np.asarray(steps.discount) == 0, 1, axis=1)
    state = np.where(terminated, 5, rng.integers(0, 5, terminated.shape))
    drawn = rng.random((*state.shape, ACTIONS)) + LEGAL[state]
    behaviour = np.log(rng.uniform(0.2, 0.9, state.shape)).astype(np.float32)
    return steps._replace(
        observation=jnp.asarray(np.eye(STATES, dtype=np.float32)[state]),
        action=jnp.asarray(drawn.argmax(axis=-1).astype(np.int32)),
        behaviour=jnp.asarray(behaviour),
        action_mask=jnp.asarray(LEGAL[state]),
    )


def illegal_entries(config, kernel):
    """Where a table [S, K * A] belongs to an illegal action; no entry of one for a value [S, 1].

    A table of C51 is [S, A * M].
    """
    if kernel.shape[1] == 1:
        return np.zeros(kernel.shape, bool)
    # Where no action is legal, all of them count.
    illegal = ~(LEGAL | ~LEGAL.any(axis=1, keepdims=True))
    if isinstance(config, C51Config):
        return np.repeat(illegal, config.num_atoms, axis=1)
    return np.tile(illegal, kernel.shape[1] // ACTIONS)


def spoil(config, params, value):
    """Parameters whose illegal actions have this value; with C51 logits with this slope."""
    slope = 1.0
    if isinstance(config, C51Config):
        slope = np.tile(np.linspace(0.0, 1.0, config.num_atoms), ACTIONS)
    return jax.tree.map(lambda x: jnp.where(illegal_entries(config, x), value * slope, x), params)


@every_agent
def test_values_of_illegal_actions_have_no_influence_and_no_gradient(make, config):
    agent, steps = make(config, SPEC), windows(config)
    assert agent.sees == ("action_mask",)
    shapes = jax.eval_shape(lambda: agent.init(KEY).params)

    @quick_jit
    def learn(params, target_params):
        state = agent.init(KEY)._replace(params=params, target_params=target_params)
        after, output = agent.learn(state, Batch(steps, jnp.ones(BATCH)), KEY)
        return after.opt_state[0].mu, output

    both = random_like(shapes, 1), random_like(shapes, 2)
    (ours, output), (theirs, other) = (
        learn(*(spoil(config, params, value) for params in both)) for value in (-3.0, 40.0)
    )
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5)  # noqa: E731
    assert np.isfinite(output.metrics["loss"]) and output.metrics["loss"] > 0
    jax.tree.map(close, output, other)
    jax.tree.map(close, ours, theirs)
    for kernel in jax.tree.leaves(ours):
        # What a module centres over all actions cancels up to rounding.
        reached = np.asarray(kernel)[illegal_entries(config, kernel)]
        np.testing.assert_allclose(reached, 0.0, atol=1e-9)
    # Negative control: the same entries matter to an agent that is not told.
    blind = make(config, SPEC._replace(action_mask=False))

    @quick_jit
    def learn_blind(params, target_params):
        state = blind.init(KEY)._replace(params=params, target_params=target_params)
        unmasked = Batch(steps._replace(action_mask=()), jnp.ones(BATCH))
        return blind.learn(state, unmasked, KEY)[1].metrics["loss"]

    low, high = (learn_blind(*(spoil(config, p, value) for p in both)) for value in (-3.0, 40.0))
    assert not np.isclose(low, high, rtol=1e-3)


@every_agent
def test_no_illegal_action_is_taken(make, config):
    config = replace(config, epsilon_start=0.5, epsilon_end=0.5)
    agent = make(config, SPEC)
    params = random_like(jax.eval_shape(lambda: agent.init(KEY).params), 3)
    agent = compile_agent(agent)
    state = np.tile(np.arange(STATES), 500)
    observation, mask = np.eye(STATES, dtype=np.float32)[state], LEGAL[state]
    first = np.zeros(len(state), bool)
    inputs = ActInput(observation, (), first, KEY, np.int32(0), action_mask=mask)
    output, greedy = agent.act(params, inputs), agent.act(params, inputs, evaluate=True)
    counts = LEGAL.any(axis=1)
    for action in (output.action, greedy.action):
        assert mask[np.arange(len(state)), action][counts[state]].all()
    for s in range(STATES):  # all legal actions are tried, and no other
        tried = set(np.asarray(output.action)[state == s].tolist())
        assert tried == set(np.flatnonzero(LEGAL[s] if counts[s] else np.ones(ACTIONS)).tolist())
    if not isinstance(output.behaviour, tuple):
        number = np.where(counts, LEGAL.sum(axis=1), ACTIONS)[state]
        chosen = np.asarray(output.action) == np.asarray(greedy.action)
        np.testing.assert_allclose(np.exp(output.behaviour), 0.5 / number + 0.5 * chosen, rtol=1e-5)


def test_random_actions_are_uniform_over_the_legal_ones():
    choice = jnp.linspace(0, 1, 1200, endpoint=False)
    for mask in ([1, 0, 1, 1], [0, 0, 0, 1]):
        legal = jnp.tile(jnp.array(mask, bool), (1200, 1))
        action, count = quick_jit(draw_action, static_argnums=1)(choice, 4, legal)
        share = np.bincount(action, minlength=4) / 1200
        np.testing.assert_allclose(share, np.array(mask) / sum(mask), atol=2e-3)
        assert (np.asarray(count) == sum(mask)).all()


RECURRENT = NetworkConfig(hidden=(4,), memory="gru", memory_size=4)


def test_a_recurrent_agent_masks_too():
    make, config = AGENTS["double"]
    config = replace(config, network=RECURRENT, sequence_length=6, burn_in=1)
    agent = make(config, SPEC)
    steps = windows(replace(config, n_step=5))
    hidden = np.array([1, 1, 0, 1], bool)  # at every step
    legal = jnp.asarray(np.where(hidden[np.asarray(steps.action)], steps.action, 0))
    mask = jnp.broadcast_to(jnp.asarray(hidden), (*steps.reward.shape, ACTIONS))
    memory = agent.initial_memory(BATCH)
    first = jnp.zeros(BATCH, bool)
    params = random_like(jax.eval_shape(lambda: agent.init(KEY).params), 1)

    @quick_jit
    def run(params):
        seen = ActInput(steps.observation[:, 0], memory, first, KEY, 0, action_mask=mask[:, 0])
        output = agent.act(params, seen)
        state = agent.init(KEY)._replace(params=params, target_params=params)
        stored = jax.tree.map(lambda x: jnp.stack([x] * 6, axis=1), output.behaviour)
        given = steps._replace(action=legal, behaviour=stored, action_mask=mask)
        return output.action, agent.learn(state, Batch(given, jnp.ones(BATCH)), KEY)[1]

    bias = params.heads["params"]["Dense_0"]["bias"]
    action, output = run(params)
    params.heads["params"]["Dense_0"]["bias"] = bias.at[2].set(50.0)
    other, same = run(params)
    assert (np.asarray(action) != 2).all()
    np.testing.assert_array_equal(action, other)
    jax.tree.map(np.testing.assert_array_equal, output, same)


@pytest.mark.parametrize("policy_loss", ["vmpo", "ppo"])
def test_a_policy_has_no_illegal_actions(policy_loss):
    network = RecurrentNetworkConfig(hidden=(4,), latent_size=4, memory_size=4, head_hidden=())
    config = OnPolicyConfig(policy_loss=policy_loss, batch_size=8, network=network)
    agent = make_on_policy(config, SPEC)
    hidden, length = jnp.array([True, True, False, True]), 6
    params = random_like(jax.eval_shape(lambda: agent.init(KEY).params), 1)
    seen = jax.random.normal(KEY, (length, 8, STATES))
    mask = jnp.broadcast_to(hidden, (length, 8, ACTIONS))

    @quick_jit
    def run(params):
        memory, rows = agent.initial_memory(8), []
        state = agent.init(KEY)._replace(params=params)
        acting = agent.actor_params(state)
        for t in range(length):
            key, first = jax.random.key(t), jnp.zeros(8, bool)
            given = ActInput(seen[t], memory, first, key, 0, action_mask=mask[t])
            output = agent.act(acting, given)
            memory = output.memory
            rows.append((output.action, output.behaviour))
        action, log_prob = (jnp.stack(x, axis=1) for x in zip(*rows, strict=True))
        steps = random_steps(length, batch=8)._replace(
            observation=jnp.swapaxes(seen, 0, 1),
            action=action,
            behaviour=log_prob,
            action_mask=jnp.swapaxes(mask, 0, 1),
        )
        batch = Batch(steps, jnp.ones(8), agent.initial_memory(8))
        state, batch, _ = agent.prepare(state, batch, memory)
        after, output = agent.learn(state, batch, KEY)
        return action, output.metrics, after.opt_state[0].mu.network.heads

    head = params.network.heads["params"]["Dense_0"]
    action, metrics, gradient = run(params)
    head["bias"] = head["bias"].at[2].set(50.0)
    other, same, _ = run(params)
    assert (np.asarray(action) != 2).all() and len(np.unique(action)) == 3
    np.testing.assert_array_equal(action, other)
    jax.tree.map(np.testing.assert_array_equal, metrics, same)
    assert all(np.isfinite(x) for x in metrics.values()) and metrics["entropy"] <= np.log(3) + 1e-5
    assert gradient["params"]["Dense_0"]["bias"][2] == 0
    assert np.asarray(gradient["params"]["Dense_0"]["bias"])[[0, 1, 3]].all()

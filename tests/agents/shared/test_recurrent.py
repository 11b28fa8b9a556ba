"""Value-based agents with memory: the network over time, windows of sequences, and acting."""

import functools
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError
from bellmax.agents import ActInput
from bellmax.agents.c51 import C51Config, make_c51
from bellmax.agents.dqn import DQNConfig, make_dqn
from bellmax.agents.iqn import IQNConfig, make_iqn
from bellmax.agents.munchausen_dqn import MunchausenDQNConfig, make_munchausen_dqn
from bellmax.agents.qr_dqn_retrace import QRDQNRetraceConfig, make_qr_dqn_retrace
from bellmax.agents.shared.base import Batch
from bellmax.agents.shared.recurrent import RecurrentBehaviour, cut_windows, mix_priorities
from bellmax.agents.shared.value_based import Target, make_value_agent
from bellmax.agents.va_learning import VALearningConfig, make_va_learning
from bellmax.networks import (
    LSTM,
    NetworkConfig,
    RecurrentMemory,
    implicit_quantile_head,
    make_q_network,
    make_recurrent_q_network,
)
from helpers.jitted import compile_agent, quick_jit, random_like
from helpers.marked import some_slow
from helpers.windows import KEY, NUM_ACTIONS, SPEC, random_steps

B, T, BURN = 6, 9, 3
NETWORK = NetworkConfig(hidden=(5,), memory="gru", memory_size=4)
SMALL = {"network": NETWORK, "batch_size": B, "sequence_length": T, "burn_in": BURN}
CONFIG = DQNConfig(**SMALL, n_step=2, priority_share=0.7)
FRACTIONS = {"num_quantiles": 4, "num_target_quantiles": 3, "num_policy_quantiles": 5}
AGENTS = {
    "dqn": (make_dqn, CONFIG),
    "double": (make_dqn, replace(CONFIG, double=True, network=replace(NETWORK, memory="lstm"))),
    "munchausen": (make_munchausen_dqn, MunchausenDQNConfig(**SMALL, n_step=2)),
    "retrace": (
        make_qr_dqn_retrace,
        QRDQNRetraceConfig(**SMALL, n_step=3, num_quantiles=4, target_epsilon=0.1),
    ),
    "every": (make_qr_dqn_retrace, QRDQNRetraceConfig(**SMALL, n_step=3, anchor="every")),
    "iqn": (make_iqn, IQNConfig(**SMALL, n_step=2, **FRACTIONS)),
    "m_iqn": (make_iqn, IQNConfig(**SMALL, n_step=2, munchausen=True, **FRACTIONS)),
    "c51": (make_c51, C51Config(**SMALL, trace="n_step", n_step=2, num_atoms=5, v_min=-2, v_max=2)),
    "va": (make_va_learning, VALearningConfig(**SMALL, n_step=2, double=True)),
}
both_cells = pytest.mark.parametrize("cell", ["gru", "lstm"])


@functools.cache
def network_of(cell):
    """The network of a cell, and parameters at random."""
    network = make_recurrent_q_network(replace(NETWORK, memory=cell), SPEC.observation, NUM_ACTIONS)
    return network, random_like(jax.eval_shape(network.init, KEY), 0, 0.7)


def sequences(cell="gru", seed=0, keep_log_prob=False):
    """Sequences with ends anywhere, and a memory at random before each of their steps."""
    steps, rng = random_steps(T, batch=B, seed=seed), np.random.default_rng(seed)
    size = 4 if cell == "gru" else 8
    belief = jnp.asarray(rng.normal(size=(B, T, size)), jnp.float32)
    action = jnp.asarray(rng.integers(0, NUM_ACTIONS, (B, T)), jnp.int32)
    own = jnp.log(jnp.full((B, T), 0.4)) if keep_log_prob else ()
    return steps._replace(behaviour=RecurrentBehaviour(RecurrentMemory(belief, action), own))


def test_the_cell_is_flax_lstm():
    cell, rng = LSTM(5), np.random.default_rng(1)
    carry, x = rng.normal(size=(2, 10)).astype(np.float32), np.full((2, 3), 0.3, np.float32)
    init = functools.partial(cell.init, method="both")
    params = random_like(jax.eval_shape(init, KEY, carry, x), 0, 0.6)
    ours, theirs = jax.tree.map(np.asarray, params["params"]), {}
    for i, gate in enumerate("ifgo"):
        part = slice(5 * i, 5 * i + 5)
        theirs[f"i{gate}"] = {"kernel": ours["input"]["kernel"][:, part]}
        hidden = {"kernel": ours["hidden"]["kernel"][:, part], "bias": ours["hidden"]["bias"][part]}
        theirs[f"h{gate}"] = hidden
    before = carry[:, 5:], carry[:, :5]  # flax's order is (cell, output)
    (c, h), _ = quick_jit(nn.OptimizedLSTMCell(5).apply)({"params": theirs}, before, x)
    got = quick_jit(functools.partial(cell.apply, method="both"))(params, carry, x)
    np.testing.assert_allclose(got, np.concatenate([h, c], axis=1), rtol=1e-5)
    fresh = quick_jit(init)(KEY, carry, x)["params"]["hidden"]["bias"]
    np.testing.assert_array_equal(fresh, np.repeat([0.0, 1.0, 0.0, 0.0], 5))


@both_cells
@pytest.mark.parametrize("cut", [1, 4, 8])
def test_two_chunks_are_the_whole(cell, cut):
    network, params = network_of(cell)
    steps = sequences(cell)
    memory = jax.tree.map(lambda x: x[:, 0], steps.behaviour.memory)

    @quick_jit
    def unroll(steps, memory):
        return network.unroll(params, steps.observation, steps.action, steps.is_first, memory)

    whole, after = unroll(steps, memory)
    first, between = unroll(jax.tree.map(lambda x: x[:, :cut], steps), memory)
    second, end = unroll(jax.tree.map(lambda x: x[:, cut:], steps), between)
    joined = np.concatenate([first, second], axis=1)
    np.testing.assert_allclose(joined, whole, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), end, after)


@both_cells
def test_acting_is_the_unroll_and_stores_the_memory_before_each_step(cell):
    network, params = network_of(cell)
    agent = compile_agent(make_dqn(replace(CONFIG, network=replace(NETWORK, memory=cell)), SPEC))
    steps, memory = sequences(cell), agent.initial_memory(B)
    actions, values, stored = [], [], []
    read = quick_jit(agent.values)
    for t in range(T):
        seen = steps.observation[:, t], memory, steps.is_first[:, t]
        values.append(read(params, *seen).q_values)
        output = agent.act(params, ActInput(*seen, jax.random.key(t), np.int32(3000)))
        stored.append(output.behaviour.memory)
        np.testing.assert_array_equal(output.memory.action, output.action)
        memory = output.memory
        actions.append(output.action)
        greedy = agent.act(params, ActInput(*seen, KEY, np.int32(0)), evaluate=True)
        np.testing.assert_array_equal(greedy.action, values[-1].argmax(axis=1))
    assert len(np.unique(np.stack(actions))) == NUM_ACTIONS
    acted = jnp.stack(actions, axis=1)
    for start in (0, 2):  # from the initial memory, and from one that was stored
        part = [x[:, start:] for x in (steps.observation, acted, steps.is_first)]

        @quick_jit
        def unrolled(memory, observation, action, first):
            features, _ = network.unroll(params, observation, action, first, memory)
            return network.head(params, features.reshape(-1, 4)).q_values

        q_values = np.asarray(unrolled(stored[start], *part)).reshape(B, -1, NUM_ACTIONS)
        np.testing.assert_allclose(q_values, np.stack(values[start:], 1), rtol=1e-4, atol=1e-5)


def test_the_loss_is_that_of_a_loop_over_windows():
    """DQN of two steps, by hand: outputs step by step, targets and Huber losses in NumPy."""
    network, params = network_of("gru")
    target_params = random_like(params, 5, 0.7)
    steps = sequences()

    @quick_jit
    def outputs(params, observation, first, memory):
        features, belief = network.step(params, observation, first, memory)
        return network.head(params, features).q_values, belief

    tables = []
    for weights in (params, target_params):
        memory, rows = jax.tree.map(lambda x: x[:, 0], steps.behaviour.memory), []
        for t in range(T):
            q, belief = outputs(weights, steps.observation[:, t], steps.is_first[:, t], memory)
            memory = RecurrentMemory(belief, steps.action[:, t])
            rows.append(np.asarray(q))
        tables.append(np.stack(rows, axis=1))
    s, gamma = jax.tree.map(np.asarray, steps), CONFIG.discount
    weights, each = np.random.default_rng(3).uniform(0.5, 1.0, B).astype(np.float32), []
    errors = [[] for _ in range(B)]
    for b in range(B):
        for t in range(BURN, T - 2):
            if s.is_last[b, t]:
                continue
            total, product, i = 0.0, 1.0, t
            while i < t + 2 and not (i > t and s.is_last[b, i]):
                total += product * s.reward[b, i]
                product *= gamma * s.discount[b, i]
                i += 1
            error = total + product * tables[1][b, i].max() - tables[0][b, t, s.action[b, t]]
            errors[b].append(abs(error))
            huber = error**2 / 2 if abs(error) < 1 else abs(error) - 0.5
            each.append(weights[b] * huber)
    agent = compile_agent(make_dqn(CONFIG, SPEC))
    state = agent.init(KEY)._replace(params=params, target_params=target_params)
    _, output = agent.learn(state, Batch(steps, jnp.asarray(weights)), KEY)
    np.testing.assert_allclose(output.metrics["loss"], np.mean(each), rtol=1e-4)
    mixed = [0.7 * max(e) + 0.3 * np.mean(e) if e else 0.0 for e in errors]
    np.testing.assert_allclose(output.priorities, mixed, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", some_slow(AGENTS, ("double", "every", "c51", "m_iqn")))
def test_every_agent_learns_from_its_windows_and_not_from_the_burn_in(case):
    """No gradient reaches what only the burn-in sees; what it shows changes the loss."""
    make, config = case
    cell, keep = config.network.memory, getattr(config, "target_epsilon", 0) > 0
    agent, steps = make(config, SPEC), sequences(cell, keep_log_prob=keep)
    steps = steps._replace(is_first=jnp.zeros((B, T), bool), is_last=jnp.zeros((B, T), bool))
    state = agent.init(KEY)._replace(params=random_like(agent.init(KEY).params, 1, 0.7))

    @quick_jit
    def learn(steps):
        after, output = agent.learn(state, Batch(steps, jnp.ones(B)), KEY)
        return after.params, output

    params, output = learn(steps)
    assert np.isfinite(output.metrics["loss"]) and output.priorities.shape == (B,)
    assert (np.asarray(output.priorities) > 0).all()
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), params, state.params)
    assert max(jax.tree.leaves(moved.encoder)) > 0 and max(jax.tree.leaves(moved.cell)) > 0
    other = steps._replace(observation=steps.observation.at[:, 0].add(1.0))
    assert learn(other)[1].metrics["loss"] != output.metrics["loss"]


def test_a_head_with_inputs_is_read_at_the_features_of_its_step():
    """IQN gives its head other fractions for each window, after both networks were unrolled."""
    head, fractions = implicit_quantile_head(5), jnp.linspace(0.1, 0.9, 3)[None]
    network = make_recurrent_q_network(NETWORK, SPEC.observation, NUM_ACTIONS, head)
    params, steps = random_like(jax.eval_shape(network.init, KEY), 0, 0.7), sequences()
    mask = jnp.arange(B * T * NUM_ACTIONS).reshape(B, T, NUM_ACTIONS) % 3 > 0
    windows = cut_windows(network, CONFIG, params, params, steps._replace(action_mask=mask))
    start = jax.tree.map(lambda x: x[:, 0], steps.behaviour.memory)
    features, _ = network.unroll(params, steps.observation, steps.action, steps.is_first, start)
    number, table = jnp.array([4]), windows.params
    read = windows.network.apply(table, number, fractions).quantiles
    row, t = divmod(4, T - BURN)
    at = row, BURN + t
    expected = network.head(params, features[at][None], fractions).quantiles
    legal = np.broadcast_to(mask[at], read.shape)
    np.testing.assert_allclose(read[legal], expected[legal], rtol=1e-5, atol=1e-6)
    assert (read[~legal] < expected.min()).all() and legal.any() and not legal.all()


def test_no_gradient_flows_through_the_burn_in():
    network, params = network_of("gru")
    steps = sequences()._replace(is_first=jnp.zeros((B, T), bool))

    @quick_jit
    @jax.grad
    def gradient(observation):
        windows = cut_windows(
            network, CONFIG, params, params, steps._replace(observation=observation)
        )
        return jnp.sum(jnp.sin(windows.params.output.q_values))

    reached = np.abs(gradient(steps.observation)).max(axis=(0, 2))
    assert (reached[:BURN] == 0).all() and (reached[BURN:] > 0).all()


@both_cells
def test_where_an_episode_opens_the_stored_memory_has_no_influence(cell):
    """Without burn-in a sequence from the first step of an episode is learned from scratch."""
    network = replace(NETWORK, memory=cell)
    agent = compile_agent(make_dqn(replace(CONFIG, burn_in=0, network=network), SPEC))
    steps, state = sequences(cell), agent.init(KEY)
    steps = steps._replace(is_first=steps.is_first.at[:, 0].set(True))
    zero = jax.tree.map(jnp.zeros_like, steps.behaviour)
    ours, theirs = (
        agent.learn(state, Batch(s, jnp.ones(B)), KEY)
        for s in (steps, steps._replace(behaviour=zero))
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    going = steps._replace(is_first=jnp.zeros((B, T), bool))
    ours, theirs = (
        agent.learn(state, Batch(s, jnp.ones(B)), KEY)[1].metrics["loss"]
        for s in (going, going._replace(behaviour=zero))
    )
    assert ours != theirs


def test_priorities_mix_the_largest_and_the_mean():
    priority = jnp.array([1.0, 3.0, 0.0, 0.0, 2.0, 0.0])
    mask = jnp.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    found = mix_priorities(priority, mask, 0.9, 2)
    np.testing.assert_allclose(found, [0.9 * 3 + 0.1 * 2, 2.0], rtol=1e-6)
    np.testing.assert_array_equal(mix_priorities(jnp.zeros(4), jnp.zeros(4), 0.9, 2), [0.0, 0.0])


def test_a_network_without_memory_has_no_part_of_it():
    """Feed-forward agents keep their program: nothing of a memory is in state or replay."""
    agent = make_dqn(DQNConfig(batch_size=B, sequence_length=T), SPEC)
    assert agent.initial_memory(3) == () and agent.replay.sequence_length == 2
    seen = ActInput(jnp.zeros((2, 4)), (), jnp.ones(2, bool), KEY, jnp.int32(0))
    output = jax.eval_shape(lambda: agent.act(agent.init(KEY).params, seen))
    assert output.memory == () and output.behaviour == ()
    network = make_q_network(NetworkConfig(), SPEC.observation, NUM_ACTIONS)
    shapes = [jax.eval_shape(f, KEY) for f in (network.init, lambda key: agent.init(key).params)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"burn_in": 7},
            r"agent.sequence_length must be above agent.burn_in \+ agent.n_step = 9 for "
            "agent.network.memory gru, got 9",
        ),
        (
            {"network": replace(NETWORK, module="a:B")},
            "agent.network.module must be left out for agent.network.memory gru, got a:B",
        ),
        (
            {"network": replace(NETWORK, torso="nature")},
            "agent.network.torso must be mlp for observations",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        make_dqn(replace(CONFIG, **changes), SPEC)


def test_target_parameters_of_an_agents_own_are_refused():
    target = Target(lambda params: (params, params), lambda params, target, steps: target)
    with pytest.raises(
        UserError, match="agent.network.memory must be none for this agent, got gru"
    ):
        make_value_agent(CONFIG, SPEC, lambda *_: None, target=target)

"""PQN with memory, with action masks, and with both."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax.agents.pqn import PQNConfig, make_pqn, make_targets
from bellmax.agents.shared.base import ActInput, Batch
from bellmax.envs import EnvSpec
from bellmax.networks import NetworkConfig
from helpers.jitted import compile_agent, random_like
from helpers.marked import some_slow
from helpers.windows import random_steps

B, T, ACTIONS, KEY = 6, 7, 4, jax.random.key(0)
SPEC = EnvSpec("test/Any", specs.Array((4,), np.float32), specs.DiscreteArray(ACTIONS))
MASKED = SPEC._replace(action_mask=True)
PLAIN = PQNConfig(
    batch_size=3, epsilon_start=0.5, epsilon_end=0.5, reward_scale=0.5, max_gradient_norm=None
)
GRU = NetworkConfig(hidden=(5,), norm="layer", memory="gru", memory_size=3)
LSTM = dataclasses.replace(GRU, memory="lstm")
NONE = dataclasses.replace(GRU, memory="none")
KINDS = {
    "plain": {},
    "munchausen": {"munchausen": True, "temperature": 0.3},
    "quantiles": {"num_quantiles": 3, "huber_delta": 1.0},
}
every_kind = pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)


def each_pair(networks, fast):
    """Parameters (network, changes), of which those not in `fast` are slow."""
    cases = {f"{n}-{k}": (x, changes) for n, x in networks.items() for k, changes in KINDS.items()}
    return some_slow(cases, set(cases) - set(fast))


@functools.cache
def compiled(config, masked=False):
    return compile_agent(make_pqn(config, MASKED if masked else SPEC))


def parameters(config, seed=3):
    return random_like(jax.eval_shape(lambda: make_pqn(config, SPEC).init(KEY).params), seed)


def act_through(agent, params, steps, masks=None):
    """The rollout [B, T + 1] that the agent's actions make of random steps, and its memory."""
    memory, rows = jax.tree.map(lambda x: x + 0.5, agent.initial_memory(B)), []
    memory = jax.tree.map(lambda x, y: x.astype(y.dtype), memory, agent.initial_memory(B))
    before = memory
    for t in range(T):
        mask = () if masks is None else masks[:, t]
        seen = steps.observation[:, t], memory, steps.is_first[:, t]
        output = agent.act(params, ActInput(*seen, jax.random.key(t), jnp.int32(0), (), mask))
        memory = output.memory
        rows.append((output.action, output.behaviour))
    rows.append(jax.tree.map(jnp.zeros_like, rows[0]))  # as `learning.with_next` has them
    action, behaviour = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *rows)
    steps = steps._replace(action=action, behaviour=behaviour)
    steps = steps._replace(action_mask=() if masks is None else masks)
    return Batch(steps, jnp.ones(B), before), memory


def random_rollout(seed=0):
    return random_steps(T + 1, B, seed)


def random_masks(seed=0):
    """Legal actions [B, T + 1, A]; none at some steps, as where an episode terminated."""
    rng = np.random.default_rng(seed)
    legal = rng.random((B, T + 1, ACTIONS)) < 0.5
    legal[:2, 3], legal[:, -1] = False, (False, True, True, False)
    return legal


def taken(values, action):
    """Values [B, T, A], or quantiles [B, T, K, A], of the actions [B, T]."""
    index = action[..., None] if values.ndim == 3 else action[..., None, None]
    return jnp.take_along_axis(values, index, axis=-1)[..., 0]


@pytest.mark.parametrize(
    "case", each_pair({"gru": GRU, "lstm": LSTM}, fast=("gru-plain", "lstm-quantiles"))
)
def test_learning_recomputes_the_values_that_the_actor_chose_by(case):
    network, changes = case
    config = dataclasses.replace(PLAIN, network=network, **changes)
    agent, params = compiled(config), parameters(config)
    state = agent.init(KEY)._replace(params=params)
    batch, memory = act_through(agent, params, random_rollout())
    _, rows, after = agent.prepare(state, batch, memory)
    jax.tree.map(np.testing.assert_array_equal, (after, rows.memory), (memory, batch.memory))
    assert not agent.replay.transitions and rows.steps.reward.shape == (B, T)
    target = taken(batch.steps.behaviour[:, :T], rows.steps.action)
    assert rows.aux.shape == target.shape
    rows = rows._replace(aux=target)
    output = agent.learn(state, rows, KEY)[1].metrics
    stale = rows._replace(memory=jax.tree.map(jnp.zeros_like, rows.memory))
    other = agent.learn(state, stale, KEY)[1].metrics
    value = np.asarray(target).reshape(B, T, -1).mean(axis=-1)[~np.asarray(rows.steps.is_last)]
    np.testing.assert_allclose(output["q_value"], value.mean(), rtol=1e-4)
    assert not np.isclose(other["q_value"], value.mean(), rtol=1e-4)
    if config.num_quantiles is None:  # each prediction is its target
        assert output["loss"] < 1e-10 < 1e-5 < other["loss"]


@every_kind
def test_targets_bootstrap_from_the_memory_after_the_rollout(changes):
    config = dataclasses.replace(PLAIN, network=GRU, **changes)
    agent, params = compiled(config), parameters(config)
    state = agent.init(KEY)._replace(params=params)
    batch, memory = act_through(agent, params, random_rollout())
    steps = batch.steps
    continues = jnp.full((B, T), config.trace_decay)
    if config.num_quantiles is not None:
        key = jax.random.fold_in(state.aux, state.steps)
        continues = jax.random.bernoulli(key, config.trace_decay, (B, T)).astype(jnp.float32)

    def targets(memory):
        seen = steps.observation[:, -1], memory, steps.is_first[:, -1]
        output = agent.values(params, *seen)
        last = getattr(output, "quantiles", output.q_values)
        values = jnp.concatenate([steps.behaviour[:, :-1], last[:, None]], axis=1)
        return jax.vmap(functools.partial(make_targets, config))(steps, values, continues)

    found = agent.prepare(state, batch, memory)[1].aux
    np.testing.assert_allclose(found, targets(memory), rtol=1e-5, atol=1e-6)
    assert not np.allclose(found, targets(batch.memory), rtol=1e-3)


def spoil(params, value):
    """Add a value to action 2 in the output layer, whose bias alone has a size of 4 or 12."""

    def changed(x):
        return x.at[2::ACTIONS].add(value) if x.ndim == 1 and x.size % ACTIONS == 0 else x

    return jax.tree.map(changed, params)


@pytest.mark.parametrize(
    "case",
    each_pair(
        {"memory": GRU, "plain": NONE}, fast=("memory-plain", "memory-quantiles", "plain-plain")
    ),
)
def test_values_of_illegal_actions_have_no_influence_and_no_gradient(case):
    network, changes = case
    config = dataclasses.replace(PLAIN, network=network, **changes)
    masks = jnp.broadcast_to(jnp.array([True, True, False, True]), (B, T + 1, ACTIONS))
    steps = random_rollout()

    def run(value, masks):
        agent, params = compiled(config, masks is not None), spoil(parameters(config), value)
        state = agent.init(KEY)._replace(params=params)
        batch, memory = act_through(agent, params, steps, masks)
        _, rows, _ = agent.prepare(state, batch, memory)
        after, output = agent.learn(state, rows, KEY)
        return batch.steps.action, rows.aux, output.metrics, after.opt_state[0].mu

    assert make_pqn(config, MASKED).sees == ("action_mask",)
    ours, theirs = (run(value, masks) for value in (-3.0, 50.0))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, ours, theirs)
    assert sorted(np.unique(ours[0])) == [0, 1, 3] and np.isfinite(ours[1]).all()
    for gradient in jax.tree.leaves(ours[3]):
        if gradient.ndim == 1 and gradient.size % ACTIONS == 0:
            assert (gradient.reshape(-1, ACTIONS)[:, 2] == 0).all() and gradient.any()
    # Negative control: an agent that is not told takes the action and bootstraps from it.
    low, high = (run(value, None) for value in (-3.0, 50.0))
    assert 2 in np.asarray(high[0]) and not np.allclose(low[1], high[1], rtol=1e-2)


@pytest.mark.parametrize("network", [GRU, NONE], ids=["memory", "plain"])
def test_targets_are_those_of_a_loop_over_the_legal_actions(network):
    config = dataclasses.replace(PLAIN, network=network)
    agent, params, masks = compiled(config, True), parameters(config), random_masks()
    state = agent.init(KEY)._replace(params=params)
    batch, memory = act_through(agent, params, random_rollout(), jnp.asarray(masks))
    found = np.asarray(agent.prepare(state, batch, memory)[1].aux).reshape(B, T)
    steps, legal = jax.tree.map(np.asarray, batch.steps), masks | ~masks.any(-1, keepdims=True)
    assert legal[:, :T][np.arange(B)[:, None], np.arange(T), steps.action[:, :T]].all()
    last = agent.values(params, steps.observation[:, -1], memory, steps.is_first[:, -1])
    q = np.concatenate([steps.behaviour[:, :-1], np.asarray(last.q_values)[:, None]], axis=1)
    for b in range(B):
        later = np.nan
        for t in reversed(range(T)):
            best = max(q[b, t + 1, a] for a in range(ACTIONS) if legal[b, t + 1, a])
            cut = t + 1 == T or steps.is_last[b, t + 1]
            mixed = config.trace_decay * later + (1 - config.trace_decay) * best
            later = best if cut else mixed
            later = 0.5 * steps.reward[b, t] + config.discount * steps.discount[b, t] * later
            if not steps.is_last[b, t]:
                np.testing.assert_allclose(found[b, t], later, rtol=1e-4, atol=1e-5)

"""Shared code of value-based agents: windows, masks, target updates and exploration."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs

from bellmax import UserError
from bellmax.agents import ActInput
from bellmax.agents.dqn import DQNConfig, make_dqn
from bellmax.agents.shared import value_based
from bellmax.agents.shared.base import Batch, update_target
from bellmax.agents.shared.value_based import apply_sequence, transitions
from bellmax.networks import NetworkConfig, make_q_network
from helpers.jitted import quick_jit
from helpers.windows import (
    AGENTS,
    KEY,
    NUM_ACTIONS,
    SMALL,
    SPEC,
    closing_windows,
    compiled,
    every_agent,
    learn_once,
    random_steps,
)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_windows_fold_as_a_loop_does(n):
    gamma = 0.9
    steps = random_steps(n + 1, batch=64, seed=n, garbage=1e3)
    t = transitions(steps, gamma)
    s = jax.tree.map(np.asarray, steps)
    lengths = set()
    for b in range(64):
        np.testing.assert_array_equal(t.mask[b], 0.0 if s.is_last[b, 0] else 1.0)
        np.testing.assert_array_equal(t.observation[b], s.observation[b, 0])
        assert t.action[b] == s.action[b, 0]
        if s.is_last[b, 0]:
            continue
        total, product, i = 0.0, 1.0, 0
        while i < n and not (i and s.is_last[b, i]):
            total += product * s.reward[b, i]
            product *= gamma * s.discount[b, i]
            i += 1
        lengths.add((i, product == 0))
        np.testing.assert_allclose(t.reward[b], total, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(t.discount[b], product, rtol=1e-5)
        np.testing.assert_array_equal(t.next_observation[b], s.observation[b, i])
    # The data had whole windows and, for n > 1, windows cut by truncation and by termination.
    assert {i for i, _ in lengths} == set(range(1, n + 1))
    assert n == 1 or {(1, True), (1, False)} <= lengths


@pytest.mark.parametrize("period, rate", [(1, 1.0), (4, 1.0), (1, 0.25), (3, 0.5)])
def test_target_moves_by_period_and_rate(period, rate):
    target, wanted = {"w": jnp.zeros(2)}, np.zeros(2)
    for step in range(1, 10):
        params = {"w": jnp.full(2, float(step))}
        target = update_target(params, target, jnp.int32(step), period, rate)
        if step % period == 0:
            wanted = rate * step + (1 - rate) * wanted
        np.testing.assert_allclose(target["w"], wanted * np.ones(2), rtol=1e-6)


def test_exploration_follows_the_schedule():
    config = DQNConfig(**SMALL, epsilon_start=1.0, epsilon_end=0.2, epsilon_steps=100)
    agent = compiled(make_dqn, config)
    params = agent.init(KEY).params
    count = 20_000
    observation = np.ones((count, 4), np.float32)
    greedy = int((np.ones(4) @ np.asarray(params["params"]["Dense_0"]["kernel"])).argmax())
    rest = np.zeros(count, bool), KEY
    for step, epsilon in [(0, 1.0), (50, 0.6), (100, 0.2), (10**6, 0.2)]:
        output = agent.act(params, ActInput(observation, (), *rest, np.int32(step)))
        assert output.action.shape == (count,) and output.action.dtype == jnp.int32
        shares = np.bincount(output.action, minlength=NUM_ACTIONS) / count
        wanted = np.full(NUM_ACTIONS, epsilon / NUM_ACTIONS)
        wanted[greedy] += 1 - epsilon
        np.testing.assert_allclose(shares, wanted, atol=4 * np.sqrt(0.25 / count))
    output = agent.act(params, ActInput(observation, (), *rest, np.int32(0)), evaluate=True)
    assert (np.asarray(output.action) == greedy).all()


@pytest.mark.parametrize("final", [None, 0.01])
def test_step_size_decays_linearly(final):
    """Adam moves by its step size while the gradient is constant."""
    schedule = {"final_learning_rate": final, "learning_rate_steps": 5}
    agent = compiled(make_dqn, replace(AGENTS["dqn"][1], **schedule))
    steps = random_steps(2)._replace(
        observation=jnp.ones((16, 2, 4)),
        reward=jnp.full((16, 2), 1e4),
        is_last=jnp.zeros((16, 2), bool),
        action=jnp.zeros((16, 2), jnp.int32),
    )
    state = agent.init(KEY)
    for i in range(8):
        before = np.asarray(state.params["params"]["Dense_0"]["kernel"])[:, 0]
        state, _ = agent.learn(state, Batch(steps, jnp.ones(16)), KEY)
        rate = 0.1 if final is None else 0.1 + (final - 0.1) * min(i, 5) / 5
        moved = np.asarray(state.params["params"]["Dense_0"]["kernel"])[:, 0] - before
        np.testing.assert_allclose(moved, np.full(4, rate), rtol=1e-3)
    assert state.steps == 8


@every_agent
def test_weights_scale_the_loss_and_priorities_are_errors(make, config):
    steps = random_steps(config.n_step + 1)
    weights = np.random.default_rng(1).random(16)
    _, plain, gradient = learn_once(make, config, steps)
    _, halved, half = learn_once(make, config, steps, np.full(16, 0.5))
    np.testing.assert_allclose(half, gradient / 2, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(halved.metrics["loss"], plain.metrics["loss"] / 2, rtol=1e-5)
    np.testing.assert_array_equal(plain.priorities, halved.priorities)
    error, mask = np.asarray(plain.priorities), 1 - np.asarray(steps.is_last[:, 0])
    loss = np.where(error < 1, error**2 / 2, error - 0.5)
    _, output, _ = learn_once(make, config, steps, weights)
    np.testing.assert_allclose(
        output.metrics["loss"], (loss * weights * mask).sum() / mask.sum(), rtol=1e-5
    )


@every_agent
def test_steps_at_and_past_an_episode_end_have_no_influence(make, config):
    """Windows that start at a closing step add nothing; its reward and discount are ignored."""
    clean, dirty = (random_steps(config.n_step + 1, garbage=g) for g in (0.0, 1e6))
    assert bool(clean.is_last[:, 0].any())
    _, ours, gradient = learn_once(make, config, clean)
    _, theirs, same = learn_once(make, config, dirty)
    np.testing.assert_array_equal(gradient, same)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    kept = np.flatnonzero(~np.asarray(clean.is_last[:, 0]))
    some = jax.tree.map(lambda x: np.asarray(x)[kept], clean)
    _, fewer, alone = learn_once(make, config, some)
    np.testing.assert_allclose(alone, gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fewer.metrics["q_value"], ours.metrics["q_value"], rtol=1e-4)
    state, output, gradient = learn_once(make, config, closing_windows(clean))
    assert not gradient.any() and not output.priorities.any() and output.metrics["loss"] == 0
    jax.tree.map(
        np.testing.assert_array_equal, state.params, compiled(make, config).init(KEY).params
    )


@pytest.mark.parametrize("make, config", [AGENTS["dqn"], AGENTS["munchausen"]])
def test_continuous_actions_are_refused(make, config):
    spec = SPEC._replace(action=specs.BoundedArray((2,), np.float32, -1, 1))
    with pytest.raises(UserError, match="must be a task with discrete actions, got test/Any"):
        make(config, spec)


@pytest.mark.parametrize("differentiated", [False, True])
def test_windows_taken_step_by_step_are_windows_taken_at_once(monkeypatch, differentiated):
    network = make_q_network(NetworkConfig(hidden=(8,)), SPEC.observation, NUM_ACTIONS)
    params = quick_jit(network.init)(KEY)
    observation = jax.random.normal(KEY, (5, 3, *SPEC.observation.shape))

    def run():
        def total(params):
            q_values = apply_sequence(network, params, observation).q_values
            return jnp.sum(jnp.sin(q_values)), q_values

        return quick_jit(jax.grad(total, has_aux=True) if differentiated else total)(params)

    at_once = run()
    monkeypatch.setattr(value_based, "CPU_VALUES", 1)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, at_once, run())
    program = jax.jit(lambda p: apply_sequence(network, p, observation)).trace(params)
    for platform, times in [("cpu", 3), ("tpu", 1)]:  # step by step or at once, two layers each
        text = program.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.dot_general") == 2 * times

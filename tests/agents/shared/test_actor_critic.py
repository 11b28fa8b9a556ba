"""TD3 and ExpectRL: two gradient steps by hand, actions in the task's units, sweeps, errors."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dm_env import specs

from bellmax import UserError
from helpers.jitted import quick_jit
from helpers.planes import (
    AGENTS,
    HIGH,
    KEY,
    LOW,
    SPEC,
    act,
    actor_by_hand,
    actor_loss_by_hand,
    assert_close,
    compiled,
    critic_loss_by_hand,
    every_agent,
    random_batch,
    random_state,
)
from helpers.sweeps import check_sweep


@every_agent
def test_two_gradient_steps_are_those_by_hand(make, config):
    """The first moves the critics alone; the second the critics, then the actor and all targets."""
    agent, batch = compiled(make, config), random_batch()
    start, adam = random_state(agent), optax.adam(config.learning_rate)

    @quick_jit
    def critics_by_hand(state, moments, key):
        loss_of = critic_loss_by_hand(config, state, batch, jax.random.normal(key, (8, 2)))
        loss, gradient = jax.value_and_grad(loss_of)(state.params.critics)
        updates, moments = adam.update(gradient, moments)
        return loss, optax.apply_updates(state.params.critics, updates), moments

    state, moments = start, quick_jit(adam.init)(start.params.critics)
    for step, key in enumerate(jax.random.split(KEY, 2)):
        loss, critics, moments = critics_by_hand(state, moments, key)
        before, (state, output) = state, agent.learn(state, batch, key)
        np.testing.assert_allclose(output.metrics["loss"], loss, rtol=1e-5)
        assert_close(state.params.critics, critics)
        assert state.steps == step + 1
        if step == 0:
            jax.tree.map(np.testing.assert_array_equal, state.params.actor, start.params.actor)
            jax.tree.map(np.testing.assert_array_equal, state.target_params, start.target_params)
    between = before._replace(params=before.params._replace(critics=state.params.critics))

    @quick_jit
    def actor_by_gradient(actor):
        gradient = jax.grad(actor_loss_by_hand(between, batch))(actor)
        updates, _ = adam.update(gradient, adam.init(actor))
        return optax.apply_updates(actor, updates)

    assert_close(state.params.actor, actor_by_gradient(before.params.actor))
    mix = lambda t, p: 0.9 * np.asarray(t) + 0.1 * np.asarray(p)  # noqa: E731
    polyak = jax.tree.map(mix, start.target_params, state.params)
    assert_close(state.target_params, polyak)


@every_agent
@pytest.mark.parametrize("delay", [1, 3])
def test_the_actor_and_the_targets_move_every_delay_steps(make, config, delay):
    agent, batch = compiled(make, replace(config, policy_delay=delay)), random_batch()
    state = agent.init(KEY)
    for step in range(1, 8):
        before, (state, _) = state, agent.learn(state, batch, KEY)
        for old, new in (
            (before.params.actor, state.params.actor),
            (before.target_params, state.target_params),
        ):
            same = jax.tree.leaves(jax.tree.map(np.array_equal, old, new))
            assert not all(same) if step % delay == 0 else all(same)


@every_agent
def test_time_limits_bootstrap_and_closing_steps_are_masked(make, config):
    agent, batch = compiled(make, config), random_batch()
    state, learn = random_state(agent), agent.learn
    dirty = random_batch(garbage=1e3)
    clean, output = learn(state, batch, KEY)
    again, same = learn(state, dirty, KEY)
    jax.tree.map(np.testing.assert_array_equal, clean.params, again.params)
    np.testing.assert_array_equal(output.priorities, same.priorities)
    priorities = np.asarray(output.priorities)
    assert priorities[2] == 0 and (np.delete(priorities, 2) > 0).all()
    # Row 1 was truncated, so its bootstrap matters. Row 0 terminated, so nothing after it does.
    for row, matters in ((0, False), (1, True), (2, False)):
        seen = np.array(batch.steps.observation)
        seen[row, 1] += 1.0
        other = batch._replace(steps=batch.steps._replace(observation=seen))
        _, moved = learn(state, other, KEY)
        assert bool(moved.metrics["loss"] != output.metrics["loss"]) == matters


@every_agent
def test_acts_within_bounds_and_in_the_units_of_the_task(make, config):
    agent = compiled(make, replace(config, random_steps=100))
    state = random_state(agent)
    seen = np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32)
    exact = np.asarray(act(agent, state, seen, evaluate=True).action)
    assert exact.dtype == np.float32 and exact.shape == (4000, 2)
    by_hand = quick_jit(jax.vmap(actor_by_hand, (None, 0)))(state.params.actor, seen)
    arm = 0  # of equal weights the first is chosen
    np.testing.assert_allclose(exact, np.asarray(by_hand)[:, arm], rtol=1e-5, atol=1e-5)
    if config.alpha != "auto" if hasattr(config, "alpha") else True:
        noisy = np.asarray(act(agent, state, seen, step=100).action)
        assert (noisy >= LOW).all() and (noisy <= HIGH).all()
        inside = (exact > LOW + 1) & (exact < HIGH - 1)
        for d in range(2):
            rows = inside[:, d]
            noise = (noisy - exact)[rows, d] / (HIGH[d] - LOW[d]) * 2
            assert rows.sum() > 300 and abs(noise.std() - 0.1) < 0.015 and abs(noise.mean()) < 0.02
    random = np.asarray(act(agent, state, seen, step=99).action)
    share = (random - LOW) / (HIGH - LOW)
    assert 0 <= share.min() < 0.01 and 0.99 < share.max() <= 1
    np.testing.assert_allclose(share.mean(axis=0), 0.5, atol=0.02)
    np.testing.assert_allclose(share.std(axis=0), 1 / np.sqrt(12), atol=0.01)


SWEEP = {"learning_rate": 0.05, "discount": 0.5, "target_noise": 1.0, "target_rate": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["td3", "expectrl"])
def test_every_agent_of_a_sweep_learns_as_alone(name):
    make, config = AGENTS[name]
    sweep = {**SWEEP, "alpha": 0.9} if name == "expectrl" else SWEEP
    batch = random_batch()

    def learnt(**changes):
        agent = make(replace(config, **changes), SPEC)
        state, _ = jax.lax.scan(
            lambda s, key: (agent.learn(s, batch, key)[0], ()),
            agent.init(KEY),
            jax.random.split(KEY, 6),
        )
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state.params)])

    check_sweep(learnt, config, sweep, rtol=1e-3, atol=1e-4)


UNFIT = {
    "discrete": (specs.DiscreteArray(3), "a task with continuous actions"),
    "unbounded": (specs.Array((2,), np.float32), "a task with bounded actions"),
    "infinite": (specs.BoundedArray((2,), np.float32, -np.inf, 1.0), "a task with bounded actions"),
    "scalar": (specs.BoundedArray((), np.float32, -1.0, 1.0), "whose action is a vector"),
    "matrix": (specs.BoundedArray((2, 2), np.float32, -1.0, 1.0), "with shape (2, 2)"),
}


@pytest.mark.parametrize(("action", "sentence"), UNFIT.values(), ids=UNFIT)
@pytest.mark.parametrize("make, config", [AGENTS["td3"], AGENTS["auto"]], ids=["td3", "auto"])
def test_refuses_other_actions_in_one_sentence(make, config, action, sentence):
    with pytest.raises(UserError) as error:
        make(config, SPEC._replace(action=action))
    assert str(error.value).startswith("env.name must be ") and sentence in str(error.value)

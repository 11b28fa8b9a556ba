"""TD3 and ExpectRL: one gradient step by hand, exact fixed points, acting, the bandit, refusals."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dm_env import specs

from bellmax import UserError, losses
from bellmax.agents.base import Batch, Outcome
from bellmax.agents.expectrl import ExpectRLConfig, make_expectrl
from bellmax.agents.td3 import TD3Config, make_td3
from bellmax.envs import EnvSpec, Step
from bellmax.networks import ContinuousNetworkConfig

LOW, HIGH = np.array([-2.0, 1.0], np.float32), np.array([2.0, 4.0], np.float32)
ACTION = specs.BoundedArray((2,), np.float32, LOW, HIGH)
SPEC = EnvSpec("test/Plane", specs.Array((3,), np.float32), ACTION)
KEY = jax.random.key(0)
SMALL = {"network": ContinuousNetworkConfig(hidden=(5,)), "batch_size": 8, "learning_rate": 0.01}
TD3 = TD3Config(**SMALL, target_rate=0.1)
EXPECTRL = ExpectRLConfig(**SMALL, target_rate=0.1)
AUTO = replace(EXPECTRL, alpha="auto", alphas=(0.2, 0.5, 0.7))
AGENTS = {
    "td3": (make_td3, TD3),
    "mean": (make_td3, replace(TD3, reduce="mean", num_critics=3)),
    "single": (make_td3, replace(TD3, num_critics=1)),
    "expectrl": (make_expectrl, EXPECTRL),
    "auto": (make_expectrl, AUTO),
}
every_agent = pytest.mark.parametrize("make, config", AGENTS.values(), ids=AGENTS)


def random_batch(size=8, seed=0, garbage=0.0):
    """Windows of two steps with both kinds of end; the third starts at a closing step."""
    rng = np.random.default_rng(seed)
    last = np.zeros((size, 2), bool)
    last[2, 0] = last[0, 1] = last[1, 1] = True
    discount = np.ones((size, 2))
    discount[0, 0] = 0.0  # terminated; row 1 was truncated
    observation = rng.normal(size=(size, 2, 3))
    action = rng.uniform(LOW, HIGH, size=(size, 2, 2))
    reward = rng.normal(size=(size, 2))
    reward[2, 0] += garbage
    action[2, 0] += garbage
    fields = (x.astype(np.float32) for x in (observation, action, reward, discount))
    steps = Step(*map(jnp.asarray, fields), jnp.zeros((size, 2), bool), jnp.asarray(last))
    weights = jnp.asarray(rng.uniform(0.5, 1.0, size), jnp.float32)
    return Batch(steps, weights)


def dense(layer, x):
    return jnp.einsum("io,i->o", layer["kernel"], x) + layer["bias"]


def actor_by_hand(params, observation):
    """[K, D] actions of one observation."""
    hidden = jax.nn.relu(dense(params["params"]["MLP_0"]["Dense_0"], observation))
    flat = jnp.tanh(dense(params["params"]["Dense_0"], hidden)).reshape(-1, 2)
    return (HIGH + LOW)[None] / 2 + (HIGH - LOW)[None] / 2 * flat


def critic_by_hand(params, c, observation, action):
    """[K] values of critic c for one action."""
    one = jax.tree.map(lambda x: x[c], params["params"])
    scaled = (action - (HIGH + LOW) / 2) / ((HIGH - LOW) / 2)
    hidden = dense(one["MLP_0"]["Dense_0"], jnp.concatenate([observation, scaled]))
    return dense(one["Dense_0"], jax.nn.relu(hidden))


def num_critics(config):
    return getattr(config, "num_critics", 1)


def critic_loss_by_hand(config, state, batch, noise):
    """The critics' loss, transition by transition, as a function of their parameters."""
    steps, target = batch.steps, state.target_params
    alphas = {"auto": getattr(config, "alphas", ())}.get(getattr(config, "alpha", 0), None)
    alphas = alphas or (getattr(config, "alpha", 0.5),)

    def loss_of(params):
        total = 0.0
        for b in range(len(noise)):
            if steps.is_last[b, 0]:
                continue
            actions = actor_by_hand(target.actor, steps.observation[b, 1])
            for k, alpha in enumerate(alphas):
                clipped = jnp.clip(noise[b] * config.target_noise, -0.5, 0.5) * (HIGH - LOW) / 2
                action = jnp.clip(actions[k] + clipped, LOW, HIGH)
                q_t = [
                    critic_by_hand(target.critics, c, steps.observation[b, 1], action)[k]
                    for c in range(num_critics(config))
                ]
                reduced = sum(q_t) / len(q_t) if config == AGENTS["mean"][1] else min(q_t)
                y = steps.reward[b, 0] + 0.99 * steps.discount[b, 0] * reduced
                for c in range(num_critics(config)):
                    q = critic_by_hand(params, c, steps.observation[b, 0], steps.action[b, 0])[k]
                    weight = 2 * jnp.where(y - q < 0, 1 - alpha, alpha)
                    total += batch.weights[b] * weight * (y - q) ** 2
        return total / (1 - steps.is_last[:, 0]).sum()

    return loss_of


def actor_loss_by_hand(state, batch):
    steps = batch.steps

    def loss_of(params):
        total = 0.0
        for b in range(len(batch.weights)):
            if not steps.is_last[b, 0]:
                for k, action in enumerate(actor_by_hand(params, steps.observation[b, 0])):
                    observation = steps.observation[b, 0]
                    total -= critic_by_hand(state.params.critics, 0, observation, action)[k]
        return total / (1 - steps.is_last[:, 0]).sum()

    return loss_of


def random_state(agent):
    """Another target network, and biases that are not zero."""
    state = agent.init(KEY)

    def moved(tree, seed):
        leaves, structure = jax.tree.flatten(tree)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        new = [x + 0.5 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(structure, new)

    return state._replace(params=moved(state.params, 1), target_params=moved(state.params, 2))


def assert_close(a, b, rtol=2e-4, atol=2e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@every_agent
def test_two_gradient_steps_are_those_by_hand(make, config):
    """The first moves the critics alone; the second the critics, then the actor and all targets."""
    agent, batch = make(config, SPEC), random_batch()
    start = random_state(agent)
    learn, adam = jax.jit(agent.learn), optax.adam(config.learning_rate)
    state, moments = start, adam.init(start.params.critics)
    for step, key in enumerate(jax.random.split(KEY, 2)):
        noise = jax.random.normal(key, (8, 2))
        loss, gradient = jax.value_and_grad(critic_loss_by_hand(config, state, batch, noise))(
            state.params.critics
        )
        updates, moments = adam.update(gradient, moments)
        critics = optax.apply_updates(state.params.critics, updates)
        before, (state, output) = state, learn(state, batch, key)
        np.testing.assert_allclose(output.metrics["loss"], loss, rtol=1e-5)
        assert_close(state.params.critics, critics)
        assert state.steps == step + 1
        if step == 0:
            jax.tree.map(np.testing.assert_array_equal, state.params.actor, start.params.actor)
            jax.tree.map(np.testing.assert_array_equal, state.target_params, start.target_params)
    between = before._replace(params=before.params._replace(critics=state.params.critics))
    gradient = jax.grad(actor_loss_by_hand(between, batch))(before.params.actor)
    updates, _ = adam.update(gradient, adam.init(before.params.actor))
    assert_close(state.params.actor, optax.apply_updates(before.params.actor, updates))
    polyak = jax.tree.map(lambda t, p: 0.9 * t + 0.1 * p, start.target_params, state.params)
    assert_close(state.target_params, polyak)


@every_agent
@pytest.mark.parametrize("delay", [1, 3])
def test_the_actor_and_the_targets_move_every_delay_steps(make, config, delay):
    agent, batch = make(replace(config, policy_delay=delay), SPEC), random_batch()
    state, learn = agent.init(KEY), jax.jit(agent.learn)
    for step in range(1, 8):
        before, (state, _) = state, learn(state, batch, KEY)
        for old, new in (
            (before.params.actor, state.params.actor),
            (before.target_params, state.target_params),
        ):
            same = [
                bool((x == y).all()) for x, y in zip(*map(jax.tree.leaves, (old, new)), strict=True)
            ]
            assert not all(same) if step % delay == 0 else all(same)


@every_agent
def test_a_time_limit_bootstraps_and_a_closing_step_counts_for_nothing(make, config):
    agent, batch = make(config, SPEC), random_batch()
    state, learn = random_state(agent), jax.jit(agent.learn)
    dirty = random_batch(garbage=1e3)
    clean, output = learn(state, batch, KEY)
    again, same = learn(state, dirty, KEY)
    jax.tree.map(np.testing.assert_array_equal, clean.params, again.params)
    np.testing.assert_array_equal(output.priorities, same.priorities)
    assert output.priorities[2] == 0 and (np.delete(output.priorities, 2) > 0).all()
    # Row 1 was truncated: what lies beyond its end matters. Row 0 terminated: nothing does.
    for row, matters in ((0, False), (1, True), (2, False)):
        seen = batch.steps.observation.at[row, 1].add(1.0)
        other = batch._replace(steps=batch.steps._replace(observation=seen))
        _, moved = learn(state, other, KEY)
        assert bool(moved.metrics["loss"] != output.metrics["loss"]) == matters


@pytest.mark.parametrize("delay", [1, 2])
def test_expectrl_at_one_half_is_td3_with_one_critic(delay):
    """Update for update, from the same parameters on the same batches."""
    shared = {**SMALL, "policy_delay": delay, "target_rate": 0.05}
    ours = make_expectrl(ExpectRLConfig(**shared, alpha=0.5), SPEC)
    theirs = make_td3(TD3Config(**shared, num_critics=1), SPEC)
    a, b = ours.init(KEY), theirs.init(KEY)
    learns = jax.jit(ours.learn), jax.jit(theirs.learn)
    start = a
    for i in range(30):
        batch, key = random_batch(seed=i), jax.random.key(i)
        (a, out_a), (b, out_b) = learns[0](a, batch, key), learns[1](b, batch, key)
        assert_close((a.params, a.target_params), (b.params, b.target_params), 1e-5, 1e-6)
        np.testing.assert_allclose(out_a.priorities, out_b.priorities, rtol=1e-4, atol=1e-6)
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), start.params, a.params)
    assert min(jax.tree.leaves(moved)) > 0.01


LINEAR = ContinuousNetworkConfig(hidden=())


def fixed_point(alpha, p, r, terminal=(), gamma=0.9):
    """[S, K] what an ExpectRL critic, linear in one-hot states, learns of a Markov chain.

    Every transition (s, s') is in the batch, its weight p(s'|s): the loss is the exact expectation.
    The actor stays at the middle of the action's range, which is the only action in the batch.
    """
    count = len(p)
    config = ExpectRLConfig(
        network=LINEAR,
        batch_size=count * count,
        learning_rate=0.02,
        discount=gamma,
        alpha="auto" if isinstance(alpha, tuple) else alpha,
        alphas=alpha if isinstance(alpha, tuple) else (0.5,),
        target_noise=0.0,
        target_rate=1.0,
        policy_delay=1,
    )
    action = specs.BoundedArray((1,), np.float32, -1.0, 1.0)
    spec = EnvSpec("test/Chain", specs.Array((count,), np.float32), action)
    agent = make_expectrl(config, spec)
    s, t = (x.ravel() for x in np.indices((count, count)))
    eye = np.eye(count, dtype=np.float32)
    observation = jnp.asarray(np.stack([eye[s], eye[t]], 1))
    reward = jnp.asarray(np.stack([r[s, t]] * 2, 1), jnp.float32)
    discount = jnp.asarray(np.stack([~np.isin(t, terminal)] * 2, 1), jnp.float32)
    no = jnp.zeros((count * count, 2), bool)
    steps = Step(observation, jnp.zeros((*no.shape, 1)), reward, discount, no, no)
    batch = Batch(steps, jnp.asarray(p[s, t] * count, jnp.float32))
    state = agent.init(KEY)
    still = jax.tree.map(jnp.zeros_like, state.params.actor)

    def learn(state, _):
        params = state.params._replace(actor=still)
        target = state.target_params._replace(actor=still)
        return agent.learn(state._replace(params=params, target_params=target), batch, KEY)[0], ()

    state = jax.jit(lambda s: jax.lax.scan(learn, s, length=6000)[0])(state)
    layer = state.params.critics["params"]["Dense_0"]
    return np.asarray(layer["kernel"][0, :count] + layer["bias"])


def test_learns_the_expectile_of_a_fair_coin():
    """Oracle 7: V = alpha / (1 - gamma) where the reward is 0 or 1; each head its own."""
    # Two states that look at each other: what is paid depends on where the coin leads.
    p = np.full((2, 2), 0.5)
    r = np.array([[0.0, 1.0], [0.0, 1.0]])
    values = fixed_point((0.2, 0.3, 0.5), p, r)
    np.testing.assert_allclose(values, np.tile([2.0, 3.0, 5.0], (2, 1)), rtol=2e-3)


def test_learns_the_expectile_of_an_ending():
    """Oracle 8: 1 / (1 - gamma alpha) where each step pays 1 and half of them are the last."""
    p, r = np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    values = fixed_point(0.3, p, r, terminal=(1,))
    np.testing.assert_allclose(values[0], 1 / (1 - 0.9 * 0.3), rtol=2e-3)


def test_alpha_is_inert_when_nothing_is_random():
    p = np.roll(np.eye(3), 1, axis=1)
    r = np.tile(np.array([1.0, -2.0, 3.0])[:, None], (1, 3))
    values = fixed_point((0.1, 0.5, 0.9), p, r, gamma=0.5)
    exact = np.linalg.solve(np.eye(3) - 0.5 * p, r[:, 0])
    np.testing.assert_allclose(values, np.tile(exact[:, None], (1, 3)), atol=5e-3)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 0.7])
def test_learns_the_fixed_point_of_the_expectile_operator(alpha):
    rng = np.random.default_rng(int(10 * alpha))
    p, r = rng.dirichlet(np.ones(5), 5), rng.normal(size=(5, 5))
    values = fixed_point(alpha, p, r, gamma=0.8)
    v = np.zeros(5)
    for _ in range(200):
        v = np.asarray(
            losses.expectile_value_operator(
                *map(jnp.asarray, (v, r[:, None], p[:, None], np.ones((5, 1)))),
                gamma=0.8,
                alpha=alpha,
            )
        )
    np.testing.assert_allclose(values[:, 0], v, atol=5e-3)
    mean = np.linalg.solve(np.eye(5) - 0.8 * p, (p * r).sum(axis=1))
    assert np.abs(values[:, 0] - mean).max() > 0.1  # not what alpha = 1/2 learns


def act(agent, state, observation, step=10**6, key=KEY, **kwargs):
    memory = agent.initial_memory(len(observation))
    first = jnp.ones(len(observation), bool)
    params = agent.actor_params(state)
    return agent.act(params, observation, memory, first, key, jnp.int32(step), **kwargs)


@every_agent
def test_acts_within_bounds_and_in_the_units_of_the_task(make, config):
    agent = make(replace(config, random_steps=100), SPEC)
    state = random_state(agent)
    seen = jax.random.normal(KEY, (4000, 3))
    exact = np.asarray(act(agent, state, seen, evaluate=True).action)
    assert exact.dtype == np.float32 and exact.shape == (4000, 2)
    by_hand = jax.vmap(lambda x: actor_by_hand(state.params.actor, x))(seen)
    arm = 0  # of equal weights the first
    np.testing.assert_allclose(exact, by_hand[:, arm], rtol=1e-5, atol=1e-5)
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


def test_a_bandit_draws_the_head_that_acts_through_an_episode():
    agent = make_expectrl(replace(AUTO, random_steps=0, exploration_noise=0.0), SPEC)
    state = random_state(agent)
    weights = jnp.array([0.0, 1.0, -1.0])
    chooser = state.extra._replace(bandit=state.extra.bandit._replace(weights=weights))
    state = state._replace(extra=chooser)
    seen = jax.random.normal(KEY, (6000, 3))
    output = act(agent, state, seen)
    counts = np.bincount(output.memory, minlength=3) / 6000
    np.testing.assert_allclose(counts, jax.nn.softmax(weights), atol=0.02)
    by_hand = jax.vmap(lambda x: actor_by_hand(state.params.actor, x))(seen)
    np.testing.assert_allclose(
        output.action, by_hand[np.arange(6000), output.memory], rtol=1e-5, atol=1e-5
    )
    params, first = agent.actor_params(state), jnp.arange(6000) % 2 == 0
    later = agent.act(params, seen, output.memory, first, jax.random.key(9), jnp.int32(5))
    kept = np.asarray(later.memory == output.memory)
    assert kept[1::2].all() and 0.3 < kept[::2].mean() < 0.7
    best = act(agent, state, seen, evaluate=True)
    assert (best.memory == 1).all()


@pytest.mark.parametrize("rule", ["windowed", "exponential"])
def test_the_bandit_is_fed_the_rise_of_the_return_in_the_order_of_time(rule):
    numbers = {"bandit_scale": 50.0, "bandit_step_size": 0.2, "bandit_decay": 0.8}
    config = replace(AUTO, bandit=rule, **numbers, bandit_floor=0.2)
    agent = make_expectrl(config, SPEC)
    rng = np.random.default_rng(0)
    arms, returns = rng.integers(0, 3, (6, 4)), rng.normal(size=(6, 4)) * 100
    ended = rng.random((6, 4)) < 0.4
    outcome = Outcome(*map(jnp.asarray, (arms, returns.astype(np.float32), ended)))
    state = agent.init(KEY)
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        state = jax.jit(agent.observe)(state, jax.tree.map(lambda x, part=part: x[part], outcome))
    fed, before, episodes = losses.bandit_init(3), None, 0
    for time, env in zip(*np.nonzero(ended), strict=True):
        if before is not None:
            rise, arm = returns[time, env] - before, arms[time, env]
            if rule == "windowed":
                fed = losses.bandit_update_windowed(fed, arm, rise, step_size=0.2, decay=0.8)
            else:
                fed = losses.bandit_update(fed, arm, rise / 50, step_size=0.2, floor=0.2)
        before, episodes = returns[time, env], episodes + 1
    assert episodes > 6 and np.abs(fed.weights).max() > 0.1
    assert_close(state.extra.bandit, fed, 1e-3, 1e-4)
    np.testing.assert_allclose(state.extra.last_return, before, rtol=1e-6)
    assert state.extra.episodes == episodes
    # Learning leaves the bandit alone, and feeding it leaves the parameters.
    after, _ = agent.learn(state, random_batch(), KEY)
    jax.tree.map(np.testing.assert_array_equal, after.extra, state.extra)
    jax.tree.map(np.testing.assert_array_equal, state.params, agent.init(KEY).params)


SWEEP = {"learning_rate": 0.05, "discount": 0.5, "target_noise": 1.0, "target_rate": 0.5}


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

    rows = {n: np.full(len(sweep), getattr(config, n), np.float32) for n in sweep}
    for i, n in enumerate(sweep):
        rows[n][i] = sweep[n]
    many = jax.jit(jax.vmap(lambda row: learnt(**row)))(jax.tree.map(jnp.asarray, rows))
    plain = learnt()
    for i, n in enumerate(sweep):
        np.testing.assert_allclose(many[i], learnt(**{n: sweep[n]}), rtol=1e-3, atol=1e-4)
        assert np.abs(many[i] - plain).max() > 1e-3, n


UNFIT = {
    "discrete": (specs.DiscreteArray(3), "discrete actions; this agent needs continuous"),
    "unbounded": (specs.Array((2,), np.float32), "need finite bounds"),
    "infinite": (specs.BoundedArray((2,), np.float32, -np.inf, 1.0), "need finite bounds"),
    "scalar": (specs.BoundedArray((), np.float32, -1.0, 1.0), "shape (), but a vector is needed"),
    "matrix": (specs.BoundedArray((2, 2), np.float32, -1.0, 1.0), "shape (2, 2), but a vector"),
}


@pytest.mark.parametrize(("action", "sentence"), UNFIT.values(), ids=UNFIT)
@pytest.mark.parametrize("make, config", [AGENTS["td3"], AGENTS["auto"]], ids=["td3", "auto"])
def test_refuses_other_actions_in_one_sentence(make, config, action, sentence):
    with pytest.raises(UserError) as error:
        make(config, SPEC._replace(action=action))
    assert str(error.value).startswith("env.name: ") and sentence in str(error.value)

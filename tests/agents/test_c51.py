"""C51: targets by hand and by the notes' numbers, mixing, both regressions, refusals."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax import UserError, losses
from bellmax.agents.c51 import make_c51, window_targets
from bellmax.agents.configs.value_based import C51Config
from bellmax.envs import Step
from bellmax.networks import NetworkConfig
from helpers.jitted import jitted, quick_jit
from helpers.linear_agents import C51, gradient_of, network, random_params
from helpers.windows import NUM_ACTIONS, SPEC, random_steps

ATOMS = np.linspace(C51.v_min, C51.v_max, C51.num_atoms)


def softmax(x):
    odds = np.exp(x - x.max(axis=-1, keepdims=True))
    return odds / odds.sum(axis=-1, keepdims=True)


def project(atoms, weights, grid):
    """Masses on a grid of equal spacing, each weight to the two neighbours of its atom."""
    masses = np.zeros(len(grid))
    for z, weight in zip(np.clip(atoms, grid[0], grid[-1]), weights, strict=True):
        place = (z - grid[0]) / (grid[1] - grid[0])
        below = min(int(np.floor(place)), len(grid) - 2)
        masses[below] += weight * (1 - (place - below))
        masses[below + 1] += weight * (place - below)
    return masses


def target_by_hand(config, s, b, logits, log_prob):
    """Projected target of the first step of window b, action by action in float64."""
    shift, scale, trace, atoms, weights = 0.0, 1.0, 1.0, [], []
    for k in range(config.n_step):
        shift += scale * s.reward[b, k]
        scale *= config.discount * s.discount[b, k]
        at_end = s.is_last[b, k + 1]
        ended, action = k + 1 == config.n_step or at_end, int(s.action[b, k + 1])
        probs = softmax(logits[k])
        pi = np.full(NUM_ACTIONS, config.target_epsilon / NUM_ACTIONS)
        pi[(probs @ ATOMS).argmax()] += 1 - config.target_epsilon
        if config.trace in ("one_step", "n_step"):
            c = 0.0 if ended else 1.0
            pi = pi if ended else c * np.eye(NUM_ACTIONS)[action]
        else:
            ratio = min(1, pi[action] / np.exp(log_prob[b, k + 1]))
            ratio = 1.0 if config.trace == "q_lambda" else ratio
            c = 0.0 if ended else config.trace_decay * ratio
            if not at_end:
                pi *= 1 - config.target_mixing
                pi[action] += config.target_mixing
        for j in range(NUM_ACTIONS):
            atoms += list(shift + scale * ATOMS)
            weights += list(trace * (pi[j] - c * (j == action)) * probs[j])
        trace *= c
        if ended:
            break
    assert abs(sum(weights) - 1) < 1e-9
    return project(atoms, weights, ATOMS)


@pytest.mark.parametrize("regression", ["cross_entropy", "cramer"])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"n_step": 3, "trace": "n_step"},
        {"n_step": 3, "trace": "retrace", "trace_decay": 0.7},
        {"n_step": 3, "trace": "retrace", "target_epsilon": 0.3},
        {"n_step": 3, "trace": "q_lambda", "trace_decay": 0.8, "target_mixing": 0.3},
    ],
    ids=lambda changed: changed.get("trace", "one_step"),
)
def test_a_gradient_step_is_the_rule_by_hand(changed, regression):
    config = replace(C51, regression=regression, **changed)
    agent = make_c51(config, SPEC)
    params, target_params = random_params(agent, 1), random_params(agent, 2)
    steps = random_steps(config.n_step + 1)
    log_prob = np.log(np.random.default_rng(0).uniform(0.2, 0.9, steps.reward.shape))
    if config.target_epsilon:
        steps = steps._replace(behaviour=jnp.asarray(log_prob, jnp.float32))
    else:
        log_prob = np.zeros_like(log_prob)  # a greedy target needs none: pi is 0 or 1
    found, _, output = gradient_of(make_c51, config, steps, params, target_params)
    s = jax.tree.map(lambda x: np.asarray(x, float), steps)
    kernel, target = (
        np.asarray(p["params"]["Dense_0"]["kernel"], float).reshape(4, NUM_ACTIONS, -1)
        for p in (params, target_params)
    )
    gradient, loss, count = np.zeros_like(kernel), 0.0, (1 - s.is_last[:, 0]).sum()
    for b in np.flatnonzero(s.is_last[:, 0] == 0):
        logits = np.einsum("kd,dam->kam", s.observation[b, 1:], target)
        masses = target_by_hand(config, s, b, logits, log_prob)
        action, x = int(s.action[b, 0]), s.observation[b, 0]
        probs = softmax(x @ kernel[:, action])
        if regression == "cross_entropy":
            slope = probs - masses
            loss -= masses @ np.log(probs) / count
        else:
            error = np.cumsum(masses - probs)[:-1]
            loss += np.sum(np.diff(ATOMS) * error**2) / count
            by_prob = np.zeros(len(ATOMS))
            for i in range(len(ATOMS)):
                by_prob[i] = -2 * np.sum((np.diff(ATOMS) * error)[i:])
            slope = probs * (by_prob - probs @ by_prob)
        gradient[:, action] += np.outer(x, slope) / count
    np.testing.assert_allclose(output.metrics["loss"], loss, rtol=2e-5)
    found = found["Dense_0"]["kernel"].reshape(gradient.shape)
    np.testing.assert_allclose(found, gradient, atol=2e-5)


GRID = np.arange(-2.0, 3.0)
TWO = C51Config(n_step=2, discount=0.5, num_atoms=5, v_min=-2.0, v_max=2.0)


def one_window(config, masses, selector=None, **changed):
    """The target of one window of two steps on `GRID`.

    masses: [K, A, M], probabilities at the successors. selector: [K, A], by default their means.
    """
    probs = np.asarray(masses, np.float32)
    selector = probs @ GRID if selector is None else np.asarray(selector)
    fields = {
        "observation": np.zeros((1, 3, 1)),
        "action": np.array([[0, 1, 0]]),
        "reward": np.array([[1.0, 0.0, 0.0]]),
        "discount": np.ones((1, 3)),
        "is_first": np.zeros((1, 3), bool),
        "is_last": np.zeros((1, 3), bool),
        "behaviour": (),
    }
    arrays = GRID, Step(**(fields | changed)), np.log(np.maximum(probs, 1e-30))[None]
    single = {"f": np.float32, "i": np.int32, "b": bool}
    arrays = jax.tree.map(lambda x: jnp.asarray(x, single[x.dtype.kind]), (*arrays, selector[None]))
    target = quick_jit(lambda *a: window_targets(config, *a))(*arrays)
    return jax.tree.map(lambda x: np.asarray(x)[0], target)


def test_worked_window():
    """lambda 1, K = 2, gamma 1/2, rewards 1 and 0.

    At the first successor the greedy action gives 0 and the taken one 2; at the second the greedy
    action gives -1.
    """
    masses = [[np.eye(5)[2], np.eye(5)[4]], [np.eye(5)[1], np.eye(5)[0]]]
    found = {}
    for trace in ("q_lambda", "retrace"):
        target = one_window(replace(TWO, trace=trace), masses, selector=[[1, 0], [1, 0]])
        found[trace] = project(target.atoms, target.weights, GRID)
    # delta_1 - delta_2 + delta_0.75, mean -0.25; and the trace is cut at once.
    np.testing.assert_allclose(found["q_lambda"], [0, 0, 0.25, 1.75, -1], atol=1e-6)
    np.testing.assert_allclose(found["q_lambda"] @ GRID, -0.25, atol=1e-6)
    np.testing.assert_allclose(found["retrace"], [0, 0, 0, 1, 0], atol=1e-6)


def random_window(seed=0, **changed):
    rng = np.random.default_rng(seed)
    config = replace(TWO, trace="q_lambda", **changed)
    masses = rng.dirichlet(np.ones(5), size=(2, 2))
    reward = rng.normal(size=(1, 3)).astype(np.float32)
    action = rng.integers(0, 2, size=(1, 3))
    return config, masses, {"reward": reward, "action": action}


@pytest.mark.parametrize("seed", range(4))
def test_the_mean_is_the_scalar_target(seed):
    """That of Harutyunyan's Q(lambda) with the mixed policy, before the grid's ends."""
    config, masses, fields = random_window(seed, trace_decay=0.8, target_mixing=0.3)
    target = one_window(config, masses, **fields)
    q = masses @ GRID
    action = fields["action"][0, 1:]
    pi = 0.7 * np.eye(2)[q.argmax(axis=-1)] + 0.3 * np.eye(2)[action]
    window = fields["reward"][0, :2], np.full(2, 0.5), q, action, pi, np.full(2, 0.8), np.ones(2)
    wanted = jitted.off_policy_returns(*(jnp.asarray(x) for x in window))[0]
    np.testing.assert_allclose(target.atoms @ target.weights, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(target.weights.sum(), 1.0, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_mixing_of_at_least_lambda_leaves_no_negative_mass(seed):
    config, masses, fields = random_window(seed, trace_decay=0.6, target_mixing=0.6)
    assert one_window(config, masses, **fields).weights.min() >= -1e-7
    less = replace(config, target_mixing=0.0)
    not_greedy = 1 - (masses[0] @ GRID).argmax()
    action = np.array([[0, not_greedy, 0]])
    signed = one_window(less, masses, reward=fields["reward"], action=action)
    assert signed.weights.min() < -0.01


def test_without_decay_it_is_one_step():
    config, masses, fields = random_window(trace_decay=0.0)
    target = one_window(config, masses, **fields)
    np.testing.assert_allclose(target.weights[5:], np.zeros(5), atol=1e-7)
    greedy = masses[0][(masses[0] @ GRID).argmax()]
    np.testing.assert_allclose(target.weights[:5], greedy, rtol=1e-5)
    np.testing.assert_allclose(target.atoms[:5], fields["reward"][0, 0] + 0.5 * GRID, rtol=1e-6)


def test_at_the_last_step_of_an_episode_the_taken_action_is_no_action():
    """A time limit after the first transition: the greedy bootstrap, whatever the placeholder."""
    config, masses, fields = random_window(trace_decay=0.8, target_mixing=0.5)
    last = np.array([[False, True, False]])
    greedy = masses[0][(masses[0] @ GRID).argmax()]
    for action in (0, 1):
        taken = np.array([[0, action, 0]])
        target = one_window(config, masses, reward=fields["reward"], action=taken, is_last=last)
        np.testing.assert_allclose(target.weights[:5], greedy, rtol=1e-5)
        np.testing.assert_array_equal(target.weights[5:], np.zeros(5))


def test_one_step_is_the_loss_of_the_library():
    params = [random_params(make_c51(C51, SPEC), seed) for seed in (1, 2)]
    steps = random_steps(2)
    _, _, output = gradient_of(make_c51, C51, steps, *params)

    def logits(p, i):
        kernel = np.asarray(p["params"]["Dense_0"]["kernel"]).reshape(4, NUM_ACTIONS, -1)
        return np.einsum("bd,dam->bam", steps.observation[:, i], kernel)

    rule = losses.batched(losses.categorical_q_learning, q_atoms_tm1=ATOMS.astype(np.float32))
    grid = np.broadcast_to(ATOMS.astype(np.float32), (16, len(ATOMS)))
    each = quick_jit(rule)(
        q_logits_tm1=logits(params[0], 0),
        a_tm1=steps.action[:, 0],
        r_t=steps.reward[:, 0],
        discount_t=C51.discount * steps.discount[:, 0],
        q_atoms_t=grid,
        q_logits_t=logits(params[1], 1),
    )
    mask = 1.0 - np.asarray(steps.is_last)[:, 0]
    np.testing.assert_allclose(output.metrics["loss"], each @ mask / mask.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    "changed, sentence",
    [
        ({"n_step": 3}, "agent.n_step must be 1 for agent.trace one_step, got 3"),
        ({"v_min": 2.0, "v_max": 2.0}, "agent.v_max must be above agent.v_min, 2.0, got 2.0"),
        ({"target_mixing": 0.1}, "agent.target_mixing must be 0 for agent.trace one_step, got 0.1"),
        (
            {"trace": "retrace", "target_mixing": 0.1},
            "agent.target_mixing must be 0 for agent.trace retrace, got 0.1",
        ),
        (
            {"trace": "n_step", "target_epsilon": 0.1},
            "agent.target_epsilon must be 0 for agent.trace n_step, got 0.1",
        ),
        ({"network": NetworkConfig(dueling=True)}, "agent.network.dueling must be false"),
        ({"network": network("LinearVA")}, "cannot build .*num_atoms=21"),
    ],
)
def test_options_that_contradict_are_refused(changed, sentence):
    with pytest.raises(UserError, match=sentence):
        make_c51(replace(C51, **changed), SPEC)

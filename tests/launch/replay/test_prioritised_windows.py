"""Prioritised replay of QR-DQN-Retrace's windows against a replay and a loss written in NumPy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bellmax.agents.qr_dqn_retrace import QRDQNRetraceConfig, make_qr_dqn_retrace
from bellmax.envs import Catch, vectorise
from bellmax.launch.replay import sum_tree
from bellmax.launch.replay.ring import make_replay
from bellmax.launch.runners.device_runner import make_runner
from bellmax.networks import NetworkConfig, QuantileOutput
from helpers.stored import by_step

ALPHA, BETA = 0.7, 0.5
N, ACTIONS, BATCH = 4, 3, 16


class LinearQuantiles(nn.Module):
    num_actions: int
    num_quantiles: int

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        flat = nn.Dense(self.num_quantiles * self.num_actions, use_bias=False)(x)
        quantiles = flat.reshape(-1, self.num_quantiles, self.num_actions)
        return QuantileOutput(quantiles.mean(1), quantiles)


class NumpyReplay:
    """Whole streams in lists; what may be drawn, and how likely, from the definitions alone."""

    def __init__(self, slots, num_envs, window):
        self.slots, self.num_envs, self.window = slots, num_envs, window
        self.steps, self.priority, self.largest = [], {}, 1.0

    def add(self, rollout):
        """`rollout`: dict of arrays [L, N, ...]. New windows get the largest priority so far."""
        length = len(rollout["is_last"])
        self.steps += [{k: v[i] for k, v in rollout.items()} for i in range(length)]
        held = range(max(0, len(self.steps) - self.slots), len(self.steps) - self.window + 1)
        for env in range(self.num_envs):
            for t in held:
                if not self.steps[t]["is_last"][env]:
                    self.priority.setdefault((t, env), self.largest)
        self.priority = {k: p for k, p in self.priority.items() if k[0] in held}

    def leaf(self, t, env):
        """Where a window is in the ring: its first slot, environments side by side."""
        return t % self.slots * self.num_envs + env

    def leaves(self):
        found = np.zeros(self.slots * self.num_envs)
        for (t, env), priority in self.priority.items():
            found[self.leaf(t, env)] = priority
        return found

    def set(self, windows, errors):
        for window, error in zip(windows, errors, strict=True):
            self.priority[window] = (error + 1e-6) ** ALPHA
        self.largest = max([self.largest, *(self.priority[w] for w in windows)])

    def probability(self, window):
        return self.priority[window] / sum(self.priority.values())

    def weights(self, windows):
        """(N p) ** -beta over the batch's largest, where the number of windows N cancels."""
        raw = [(len(self.priority) * self.probability(w)) ** -BETA for w in windows]
        return np.array(raw) / max(raw)

    def read(self, window):
        t, env = window
        return [{k: v[env] for k, v in step.items()} for step in self.steps[t : t + self.window]]


def window_loss(config, window, quantiles, target_quantiles):
    """The loss of one window for a greedy target policy without decay, in float64.

    A greedy Retrace target is one bootstrap: at the first action that is not greedy, at the end of
    the episode, or at the end of the window.
    """
    reward, discount = 0.0, 1.0
    for k in range(1, len(window)):
        reward += discount * window[k - 1]["reward"]
        discount *= config.discount * window[k - 1]["discount"]
        dist = target_quantiles(window[k]["observation"])
        greedy = dist.mean(0).argmax()
        if window[k]["is_last"] or window[k]["action"] != greedy:
            break
    atoms = reward + discount * dist[:, greedy]
    loss, own = 0.0, quantiles(window[0]["observation"])[:, int(window[0]["action"])]
    for i, theta in enumerate(own):
        for atom in atoms:
            u, kappa = atom - theta, config.huber_delta
            huber = u * u / 2 if abs(u) <= kappa else kappa * (abs(u) - kappa / 2)
            loss += abs((i + 0.5) / N - (u < 0)) * huber / N
    return loss


def from_replay(replay_state, slot, count, num_envs):
    """`count` vector steps at a ring's slot, as NumPy, without seeds."""
    storage = by_step(replay_state.storage, num_envs)
    where = (slot + np.arange(count)) % storage.is_last.shape[0]
    stored = {name: x for name, x in storage._asdict().items() if isinstance(x, np.ndarray)}
    return {name: x[where] for name, x in stored.items()}


@functools.cache  # tests share what takes seconds to compile
def make(seed, num_envs, length, slots, n_step, huber_delta):
    """A runner on Catch, its replay and agent; a ring of `slots` vector steps."""
    network = NetworkConfig(module=f"{__name__}:LinearQuantiles")
    config = QRDQNRetraceConfig(
        network=network,
        batch_size=BATCH,
        num_quantiles=N,
        n_step=n_step,
        huber_delta=huber_delta,
        learning_rate=0.05,
        target_period=3,
        epsilon_start=0.5,
        epsilon_end=0.5,
    )
    env = vectorise(Catch(rows=6, columns=4), num_envs, time_limit=4 if seed % 2 else None)
    agent = make_qr_dqn_retrace(config, env.spec)
    replay = make_replay(
        capacity=slots * num_envs,
        num_envs=num_envs,
        rollout_length=length,
        sequence_length=n_step + 1,
        batch_size=BATCH,
        prioritised=True,
        priority_exponent=ALPHA,
        importance_exponent=BETA,
    )
    runner = make_runner(agent, env, replay, rollout_length=length, updates_per_rollout=1)
    return config, replay, runner


# (seed, num_envs, rollout_length, slots, n_step, huber_delta)
RUNS = [(0, 3, 1, 24, 3, 1.0), (1, 2, 2, 22, 3, 0.3), (2, 1, 4, 40, 5, 1.0), (3, 4, 1, 9, 1, 1.0)]
EACH = [RUNS[0], *(pytest.param(run, marks=pytest.mark.slow) for run in RUNS[1:])]


@pytest.mark.parametrize("shape", EACH, ids=str)
def test_training_keeps_the_priorities_that_numpy_does(shape):
    """Each rollout has one gradient step, and the ring is filled three times.

    After each, every priority of the tree is that of the NumPy replay, which adds the same steps
    and sets the priorities of the drawn windows to their losses, computed by hand.
    """
    seed, num_envs, length, slots, n_step, _ = shape
    config, replay, runner = make(*shape)
    numpy_replay = NumpyReplay(slots, num_envs, n_step + 1)
    state = runner.init(jnp.array([seed]))
    sample = jax.jit(replay.sample)
    for turn in range(-5, 3 * slots // length):
        learner = jax.tree.map(lambda x: np.array(x[0] if x.ndim else x), state.learner)
        slot = int(state.replay.cursor)
        key = jax.random.fold_in(state.keys.replay[0], learner.steps)
        state, interval = runner.advance(state, int(turn < 0), int(turn >= 0))
        memory = jax.tree.map(lambda x: x[0] if x.ndim else x, state.replay)
        numpy_replay.add(from_replay(memory, slot, length, num_envs))
        if turn >= 0:
            # As the learner sampled it: with new windows, before the update of priorities.
            seen = with_leaves(memory, numpy_replay.leaves())
            drawn = jax.device_get(sample(seen, key))
            windows = windows_of(drawn.indices, numpy_replay)
            weights = numpy_replay.weights(windows)
            np.testing.assert_allclose(drawn.batch.weights, weights, rtol=1e-4)
            losses = losses_of(config, learner, [numpy_replay.read(w) for w in windows])
            np.testing.assert_allclose(interval.learn["loss"][0], (weights * losses).mean(), 1e-4)
            numpy_replay.set(windows, losses)
        np.testing.assert_allclose(
            memory.priorities[0][: slots * num_envs], numpy_replay.leaves(), 2e-4
        )
        np.testing.assert_allclose(memory.max_priority, numpy_replay.largest, rtol=2e-4)
    assert sum(step["is_last"].any() for step in numpy_replay.steps) > 5


def with_leaves(memory, leaves):
    """The replay with these priorities in its tree."""
    tree = sum_tree.init(len(leaves))
    tree = sum_tree.update(tree, jnp.arange(len(leaves)), jnp.asarray(leaves, jnp.float32))
    return memory._replace(priorities=tree)


def windows_of(indices, numpy_replay):
    """(time, environment) of the windows at these places; each must be one that may be drawn."""
    where = {numpy_replay.leaf(*window): window for window in numpy_replay.priority}
    return [where[int(index)] for index in indices]


def losses_of(config, learner, windows):
    kernels = [
        np.asarray(p["params"]["Dense_0"]["kernel"], np.float64)
        for p in (learner.params, learner.target_params)
    ]
    online, target = (
        lambda observation, k=kernel: (observation.reshape(-1) @ k).reshape(N, ACTIONS)
        for kernel in kernels
    )
    return np.array([window_loss(config, window, online, target) for window in windows])


@pytest.mark.parametrize("shape", EACH, ids=str)
def test_windows_are_drawn_as_often_as_numpy_says_and_never_cross_the_write_head(shape):
    """Each sample is compared field by field with the stream in NumPy."""
    seed, num_envs, length, slots, n_step, _ = shape
    _, replay, runner = make(*shape)
    numpy_replay = NumpyReplay(slots, num_envs, n_step + 1)
    state = runner.init(jnp.array([seed]))
    for _ in range((2 * slots + slots // 2) // length):
        slot = int(state.replay.cursor)
        state, _ = runner.advance(state, 1, 0)
        memory = jax.tree.map(lambda x: x[0] if x.ndim else x, state.replay)
        numpy_replay.add(from_replay(memory, slot, length, num_envs))
    assert int(memory.cursor) not in (0, slots - 1)  # wrapped, and cut somewhere inside
    windows = sorted(numpy_replay.priority)
    errors = np.random.default_rng(seed).exponential(size=len(windows)) ** 2
    indices = jnp.array([numpy_replay.leaf(*window) for window in windows])
    memory = replay.update_priorities(memory, indices, jnp.asarray(errors, jnp.float32))
    numpy_replay.set(windows, errors)
    draws, counts = 500, dict.fromkeys(windows, 0)
    drawn = jax.jit(jax.vmap(replay.sample, (None, 0)))(
        memory, jax.random.split(jax.random.key(seed), draws)
    )
    drawn = jax.device_get(drawn)
    for i in range(draws):
        batch = windows_of(drawn.indices[i], numpy_replay)
        np.testing.assert_allclose(drawn.batch.weights[i], numpy_replay.weights(batch), rtol=1e-4)
        for window in batch:
            counts[window] += 1
        for j, window in enumerate(batch if i < 20 else []):
            for t, step in enumerate(numpy_replay.read(window)):
                for name, value in step.items():
                    found = getattr(drawn.batch.steps, name)[i, j, t]
                    np.testing.assert_array_equal(found, value)
    expected = np.array([numpy_replay.probability(w) for w in windows]) * draws * BATCH
    found = np.array([counts[w] for w in windows])
    # Stratified draws vary less than independent ones, so four deviations are a loose bound.
    assert (np.abs(found - expected) <= 4 * np.sqrt(expected) + 1).all()
    firsts = [numpy_replay.read(w)[0]["is_last"] for w in windows]
    inner = [any(s["is_last"] for s in numpy_replay.read(w)[1:]) for w in windows]
    assert not any(firsts) and any(inner)


def test_the_control_without_new_priorities_would_be_found():
    """Negative control: the comparison fails if the drawn windows keep their priorities."""
    seed, num_envs, length, slots, n_step, _ = shape = RUNS[0]
    config, replay, runner = make(*shape)
    numpy_replay = NumpyReplay(slots, num_envs, n_step + 1)
    state = runner.init(jnp.array([seed]))
    for turn in range(15):
        slot = int(state.replay.cursor)
        state, _ = runner.advance(state, int(turn < 10), int(turn >= 10))
        memory = jax.tree.map(lambda x: x[0] if x.ndim else x, state.replay)
        numpy_replay.add(from_replay(memory, slot, length, num_envs))
    leaves = np.asarray(memory.priorities[0][: slots * num_envs])
    np.testing.assert_array_equal(leaves > 0, numpy_replay.leaves() > 0)
    assert np.abs(leaves - numpy_replay.leaves()).max() > 0.1

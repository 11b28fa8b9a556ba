"""Munchausen Q-learning against Q-learning where every target is noisy: sampled value iteration.

A sweep draws one transition for every state and action and moves the table towards its target;
the target table is copied after `period` sweeps, with all that its samples erred by. M-DQN's
term averages such errors over copies, where Q-learning takes the maximum of the last ones.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.claims.grids import grid
from benchmarks.claims.study import Outcome, Study

from bellmax import losses
from bellmax.envs import random_mdp, value_iteration

STATES, GAMMA, POINTS = 20, 0.95, 25
SIDES = ("dqn", "soft_dqn", "munchausen_dqn")


@functools.lru_cache(maxsize=4)
def draw(actions: int, seeds: tuple[int, ...]):
    """p [M, S, A, S], r [M, S, A], optimum [M, S, A]."""
    each = [random_mdp(jax.random.key(seed), STATES, actions) for seed in seeds]
    optimum = [value_iteration(mdp.p, mdp.r, GAMMA) for mdp in each]
    arrays = [mdp.p for mdp in each], [mdp.r for mdp in each], optimum
    return tuple(jnp.asarray(np.stack(x), jnp.float32) for x in arrays)


def td_errors(side: str, hyper, q, q_bar, r, s_t):
    """[S, A] errors of a sweep that drew the rewards r and next states s_t, both [S, A]."""
    actions = jnp.arange(q.shape[1])

    def one(q_tm1, q_bar_tm1, a, r, s_t):
        discount = jnp.float32(GAMMA)
        if side == "dqn":
            return losses.q_learning(q_tm1, a, r, discount, q_bar[s_t])
        alpha = hyper["alpha"] if side == "munchausen_dqn" else 0.0
        options = {"temperature": hyper["temperature"], "alpha": alpha, "clip": hyper["clip"]}
        return losses.munchausen_q_learning(q_tm1, a, r, discount, q_bar_tm1, q_bar[s_t], **options)

    of_state = jax.vmap(one, in_axes=(None, None, 0, 0, 0))
    return jax.vmap(of_state, in_axes=(0, 0, None, 0, 0))(q, q_bar, actions, r, s_t)


def measure(p, r, optimum, q):
    """[2]: value that the greedy policy lacks over what the uniform one lacks; the action gap."""

    def value(pi):
        towards = jnp.einsum("sa,sat->st", pi, p)
        return jnp.linalg.solve(jnp.eye(len(p)) - GAMMA * towards, jnp.sum(pi * r, axis=-1))

    best = optimum.max(axis=-1)
    greedy = jax.nn.one_hot(q.argmax(axis=-1), q.shape[1])
    uniform = jnp.full_like(q, 1 / q.shape[1])
    lost = jnp.mean(best - value(greedy)) / jnp.mean(best - value(uniform))
    ranked = jnp.sort(q, axis=-1)
    return jnp.stack([lost, jnp.mean(ranked[:, -1] - ranked[:, -2])])


@functools.partial(jax.jit, static_argnames=("side", "sweeps"))
def learn(mdps, keys, hyper, noise, *, side: str, sweeps: int):
    """[trials, M, P, 2] as `measure`; the same draws for every trial and side."""

    def one(hyper, mdp, key):
        p, r, optimum = mdp
        cumulative = jnp.cumsum(p, axis=-1)[..., :-1]

        def sweep(carry, key):
            q, q_bar, count = carry
            p_key, r_key = jax.random.split(key)
            uniform = jax.random.uniform(p_key, r.shape)[..., None]
            s_t = jnp.sum(uniform >= cumulative, axis=-1)
            earned = r + noise * jax.random.normal(r_key, r.shape)
            q = q + hyper["step_size"] * td_errors(side, hyper, q, q_bar, earned, s_t)
            count = count + 1
            due = count % hyper["period"] == 0
            return (q, jnp.where(due, q, q_bar), count), None

        def look(carry, keys):
            carry = jax.lax.scan(sweep, carry, keys)[0]
            return carry, measure(p, r, optimum, carry[0])

        start = jnp.zeros_like(r), jnp.zeros_like(r), jnp.int32(0)
        keys = jax.random.split(key, (POINTS, sweeps // POINTS))
        return jax.lax.scan(look, start, keys)[1]

    return jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, None))(hyper, mdps, keys)


def run(task, side, trials, seeds, name, *, sweeps: int) -> Outcome:
    actions, noise = (float(part) for part in task.removeprefix("actions-").split("-noise-"))
    mdps = draw(int(actions), tuple(seeds))
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32) + 40_000)
    defaults = {"temperature": 0.03, "alpha": 0.9, "clip": -1.0}
    hyper = {
        key: jnp.array([trial.get(key, default) for trial in trials], jnp.float32)
        for key, default in (defaults | {"step_size": 1.0}).items()
    }
    hyper["period"] = jnp.array([trial["period"] for trial in trials], jnp.int32)
    found = learn(mdps, keys, hyper, jnp.float32(noise), side=side, sweeps=sweeps)
    found = np.asarray(found, np.float64)
    ranked = np.sort(np.asarray(mdps[2]), axis=-1)
    true_gap = (ranked[..., -1] - ranked[..., -2]).mean(axis=-1)
    scores = {"lost": found[..., 0].mean(axis=-1), "lost_end": found[..., -5:, 0].mean(axis=-1)}
    scores["gap_over_true_gap"] = found[..., -5:, 1].mean(axis=-1) / true_gap
    return Outcome(scores, np.linspace(0, sweeps, POINTS + 1)[1:], found[..., 0])


def make_study(*, sweeps=1000, tuning=6, test=30, tasks=None) -> Study:
    common = {"period": (1, 5, 25)}
    plain = grid(step_size=np.geomspace(0.03, 1, 12), **common)
    own = grid(step_size=np.geomspace(0.03, 1, 4), **common, temperature=(0.03, 0.1, 0.3))
    return Study(
        claim="munchausen_dqn",
        name="munchausen_tables",
        question="Does M-DQN's term find better policies where every target is noisy?",
        tasks=tasks or ("actions-4-noise-1", "actions-4-noise-3", "actions-20-noise-1"),
        sides={"dqn": plain, "soft_dqn": own, "munchausen_dqn": own},
        metrics={"lost": "lower", "lost_end": "lower"},
        run=functools.partial(run, sweeps=sweeps),
        tuning_seeds=tuple(range(1000, 1000 + tuning)),
        test_seeds=tuple(range(2000, 2000 + test)),
        unit="sweeps over all states and actions",
        curve="share of value lost",
        together=True,
        paired=True,
        logarithmic=True,
        minutes=lambda task, tuning: 0.7 if tuning else 0.3,
        reported=("gap_over_true_gap",),
        notes="Garnet MDPs of 20 states, gamma 0.95, alpha 0.9, clip -1, noise added to every "
        "reward. Each side has 36 trials: step size, sweeps between copies of the target table "
        "(1, 5, 25), and the temperature; Q-learning, which has none, has three times as many "
        "step sizes in the same range.",
    )

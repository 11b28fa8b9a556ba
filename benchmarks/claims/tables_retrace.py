"""Quantiles of returns from off-policy windows: one step, Retrace and uncorrected K steps.

Control on tables of 16 quantiles: the greedy policy of a target table is bootstrapped from, and
one window of a fixed behaviour's endless stream is learnt at each interaction.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tabular_problems
from benchmarks.claims import far_problems
from benchmarks.claims.far_problems import Control
from benchmarks.claims.grids import grid
from benchmarks.claims.study import Outcome, Study

from bellmax import losses

QUANTILES, LONGEST, POINTS, CHUNK = 16, 10, 25, 20


def target_of(side: str, k, control: Control, bootstrap, window):
    """Atoms [N] for the first step of a window of up to LONGEST steps, of which k are used."""
    states, actions = window
    continues = control.continues[states[1:]]
    q = bootstrap(states[1:])
    greedy = q.mean(axis=-1).argmax(axis=-1)
    dist_v = jnp.take_along_axis(q, greedy[:, None, None], axis=1)[:, 0]
    trace = continues * (jnp.arange(LONGEST) < k - 1)
    if side == "retrace":
        trace = trace * (actions[1:] == greedy)
    reward = control.problem.r[states[:-1], actions[:-1]]
    discount = control.gamma * continues
    return losses.distributional_n_step_target(reward, discount, dist_v, trace).atoms


def value_lost(control: Control, theta) -> jax.Array:
    """[] share of the optimal value at the start that the greedy policy of a table lacks.

    For random MDPs it is what the greedy policy lacks over what mu lacks.
    """
    problem = control.problem

    def value(pi):
        p = jnp.einsum("sa,sat->st", pi, problem.p) * control.continues[None, :]
        r = jnp.sum(pi * problem.r, axis=-1)
        return control.start @ jnp.linalg.solve(jnp.eye(len(p)) - control.gamma * p, r)

    greedy = jax.nn.one_hot(theta.mean(axis=-1).argmax(axis=-1), problem.r.shape[1])
    best = value(problem.pi)
    return (best - value(greedy)) / (best - value(problem.mu))


@functools.partial(jax.jit, static_argnames=("side",))
def learn(control: Control, windows, hyper, *, side: str):
    """[trials, M, P, 2]: W1 to the law of the optimal policy, and the value lost."""

    def one(hyper, control, windows):
        tau = losses.quantile_midpoints(QUANTILES)
        live = hyper["period"] <= 1

        def step(carry, window):
            theta, theta_bar = carry

            def bootstrap(states):
                return jnp.where(live, theta[states], theta_bar[states])

            atoms = target_of(side, hyper["k"], control, bootstrap, window)
            here = window[0][0], window[1][0]
            new = losses.quantile_td(theta[here], tau, atoms, step_size=hyper["step_size"])
            return (theta.at[here].set(new), theta_bar), None

        def chunk(carry, part):
            theta, theta_bar, updates = carry
            theta = jax.lax.scan(step, (theta, theta_bar), part)[0][0]
            updates = updates + CHUNK
            due = updates % jnp.maximum(hyper["period"], CHUNK) == 0
            return (theta, jnp.where(due, theta, theta_bar), updates), None

        def look(carry, part):
            carry = jax.lax.scan(chunk, carry, part)[0]
            each = tabular_problems.wasserstein(carry[0], control.law).mean(axis=-1)
            error = jnp.sum(each * control.counted) / control.counted.sum()
            return carry, jnp.stack([error, value_lost(control, carry[0])])

        shape = POINTS, -1, CHUNK, LONGEST + 1
        parts = jax.tree.map(lambda x: x.reshape(shape), windows)
        theta = jnp.zeros((*control.problem.r.shape, QUANTILES))
        return jax.lax.scan(look, (theta, theta, jnp.int32(0)), parts)[1]

    return jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, None))(hyper, control, windows)


@functools.lru_cache(maxsize=2)
def draw(task: str, seeds: tuple[int, ...], updates: int):
    """Windows (states, actions), each [M, updates, LONGEST + 1]; all sides see the same ones."""
    control = far_problems.stack(task, seeds)
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32) + 30_000)
    walk = jax.vmap(lambda key, problem: tabular_problems.stream(key, problem, updates, LONGEST))
    return tuple(jax.jit(walk)(keys, control.problem))


def run(task, side, trials, seeds, name, *, updates: int) -> Outcome:
    control = far_problems.stack(task, tuple(seeds))
    windows = draw(task, tuple(seeds), updates)
    hyper = {
        "step_size": jnp.array([trial["step_size"] for trial in trials], jnp.float32),
        "period": jnp.array([trial["period"] for trial in trials], jnp.int32),
        "k": jnp.array([trial.get("k", 1) for trial in trials], jnp.int32),
    }
    found = np.asarray(learn(control, windows, hyper, side=side), np.float64)
    start = np.abs(np.asarray(control.law)).mean(axis=(2, 3)) * np.asarray(control.counted)
    start = start.sum(axis=1) / np.asarray(control.counted).sum(axis=1)
    scores = {"w1": found[..., 0].mean(axis=-1) / start, "lost": found[..., 1].mean(axis=-1)}
    scores["w1_end"] = found[..., -1, 0] / start
    x = np.linspace(0, updates, POINTS + 1)[1:]
    return Outcome(scores, x, found[..., 0] / start[:, None])


def make_study(
    name: str, tasks, largest: float, *, updates=10_000, tuning=6, test=20, smallest=0.005
) -> Study:
    periods = (1, 100, 1000)
    plain = grid(step_size=largest * np.geomspace(smallest, 1, 12), period=periods)
    own = grid(step_size=largest * np.geomspace(smallest, 1, 4), period=periods, k=(3, 5, 10))
    return Study(
        claim="qr_dqn_retrace",
        name=name,
        question="Do Retrace's windows learn the law of the optimal return from fewer steps?",
        tasks=tuple(tasks),
        sides={"one_step": plain, "retrace": own, "uncorrected": own},
        metrics={"w1": "lower", "lost": "lower"},
        run=functools.partial(run, updates=updates),
        tuning_seeds=tuple(range(1000, 1000 + tuning)),
        test_seeds=tuple(range(2000, 2000 + test)),
        unit="interactions",
        curve="W1 to the law, over that of zeros",
        together=True,
        paired=True,
        logarithmic=True,
        minutes=lambda task, tuning: 2.0 if task == "deepsea-20" else 0.7,
        reported=("w1_end",),
        notes="Tables of 16 quantiles, a fixed behaviour, greedy control. Each side has 36 trials: "
        "step size, interactions between copies of the target table (1, 100, 1,000), and K in 3, "
        "5, 10; one step, which has no K, has three times as many step sizes in the same range.",
    )


def make_studies(**options) -> list[Study]:
    far = ("corridor-20", "deepsea-10", "corridor-50", "deepsea-20")
    return [
        make_study("retrace_far", far, 1.0, **options),
        make_study("retrace_random", ("random-8",), 6.4, smallest=0.02, **options),
    ]

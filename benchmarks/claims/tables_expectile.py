"""Expectile Q-learning against Q-learning and clipped double Q-learning, on random MDPs.

What a pessimistic value is for: the policy's value in the worst environment near the true one, and
an estimate that does not exceed what the policy earns.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tabular_advantage as advantage
from benchmarks.claims.grids import grid
from benchmarks.claims.study import Outcome, Study

from bellmax import losses

WORST = 0.2  # the expectile whose ball of environments the worst case is taken over
TABLES = 3  # most tables of a trial of the clipped double form


def policy_value(problem, pi, gamma: float, alpha: float, iterations: int):
    """[S] value of pi in the worst environment of the ball of `alpha`; at 1/2, in the true one."""

    def apply(v, _):
        options = {"gamma": gamma, "alpha": alpha}
        return losses.expectile_value_operator(v, problem.r, problem.p, pi, **options), None

    return jax.lax.scan(apply, jnp.zeros(len(pi)), length=iterations)[0]


@functools.partial(jax.jit, static_argnames=("side", "setting"))
def learn(sample: advantage.Sample, noise, hyper, *, side: str, setting: advantage.Setting):
    """[trials, M, P, 3]: worst-case value, true value, and estimate less true value."""

    def one(hyper, sample, key):
        problem = sample.problems
        in_use = jnp.arange(TABLES) < (hyper["tables"] if side == "double" else 1)

        def combined(q):
            """[..., A] of q [TABLES, ..., A]: the smallest of the tables in use."""
            shape = (TABLES,) + (1,) * (q.ndim - 1)
            return jnp.where(in_use.reshape(shape), q, jnp.inf).min(axis=0)

        def step(carry, seen):
            q, visits = carry
            s_tm1, a_tm1, s_t, key = seen
            r_key, mask_key = jax.random.split(key)
            r_t = problem.r[s_tm1, a_tm1] + noise * jax.random.normal(r_key)
            visits = visits.at[s_tm1, a_tm1].add(1)
            size = hyper["step_size"] * visits[s_tm1, a_tm1] ** -hyper["decay"]
            target = r_t + setting.gamma * combined(q[:, s_t]).max()
            error = target - q[:, s_tm1, a_tm1]
            # Half of the expectile's weight, so that alpha 1/2 is the plain step.
            weight = 2 * jnp.abs(hyper["alpha"] - (error < 0))
            # Tables that saw the same would be equal: each learns from half of the steps.
            learns = jax.random.bernoulli(mask_key, 0.5, (TABLES,)) | (side != "double")
            move = jnp.minimum(size * weight, 1.0) * error * learns
            return (q.at[:, s_tm1, a_tm1].add(move), visits), None

        def look(carry, part):
            carry = jax.lax.scan(step, carry, part)[0]
            q = combined(carry[0])
            pi = jax.nn.one_hot(q.argmax(axis=-1), q.shape[1])
            worst = policy_value(problem, pi, setting.gamma, WORST, 120)
            true = policy_value(problem, pi, setting.gamma, 0.5, 120)
            found = worst, true, q.max(axis=-1) - true
            return carry, jnp.stack([x.mean() for x in found])

        walked = sample.states[:-1], sample.actions[:-1], sample.states[1:]
        seen = *walked, jax.random.split(key, walked[0].shape[0])
        parts = jax.tree.map(lambda x: x.reshape(setting.points, -1, *x.shape[1:]), seen)
        shape = problem.r.shape
        start = jnp.zeros((TABLES, *shape)), jnp.zeros(shape)
        return jax.lax.scan(look, start, parts)[1]

    keys = jax.random.split(jax.random.key(7), len(sample.states))
    return jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, None))(hyper, sample, keys)


@functools.lru_cache(maxsize=2)
def draw(setting: advantage.Setting, seeds: tuple[int, ...]):
    """The sample, and [M] mean over states of the best worst-case value and the best true one."""
    sample = advantage.make_sample(setting, seeds, "uniform")

    def best(problem, alpha):
        def apply(q, _):
            options = {"gamma": setting.gamma, "alpha": alpha}
            return losses.expectile_bellman_operator(q, problem.r, problem.p, **options), None

        q = jax.lax.scan(apply, jnp.zeros_like(problem.r), length=150)[0]
        return q.max(axis=-1).mean()

    both = [jax.jit(jax.vmap(lambda p, a=a: best(p, a)))(sample.problems) for a in (WORST, 0.5)]
    return sample, *(np.asarray(x, np.float64) for x in both)


def run(task, side, trials, seeds, name, *, visits: int) -> Outcome:
    noise = float(task.removeprefix("noise-"))
    setting = advantage.Setting(5, states=10, visits=visits, points=20)
    sample, robust, optimal = draw(setting, tuple(seeds))
    keys = {"step_size": 0.1, "decay": 0.0, "alpha": 0.5}
    hyper = {key: jnp.array([t.get(key, x) for t in trials]) for key, x in keys.items()}
    hyper["tables"] = jnp.array([t.get("tables", 1) for t in trials], jnp.int32)
    found = learn(sample, jnp.float32(noise), hyper, side=side, setting=setting)
    found = np.asarray(found, np.float64)
    late = slice(setting.points // 2, None)
    worst, true = robust[:, None] - found[..., 0], optimal[:, None] - found[..., 1]
    scores = {
        "worst_case_lost": worst[..., late].mean(axis=-1),
        "true_lost": true[..., late].mean(axis=-1),
        "overestimation": found[..., late, 2].mean(axis=-1),
    }
    x = np.linspace(0, setting.interactions, setting.points + 1)[1:]
    return Outcome(scores, x, worst)


def make_study(*, visits=400, tuning=6, test=30, tasks=("noise-0", "noise-3")) -> Study:
    common = {"decay": (0.0, 0.3, 0.6)}
    plain = grid(step_size=np.geomspace(0.02, 1, 12), **common)
    few = np.geomspace(0.02, 1, 4)
    return Study(
        claim="expectrl",
        name="expectile_tables",
        question="Does an expectile learn policies for the worst case, and values that do not "
        "exceed what they earn?",
        tasks=tasks,
        sides={
            "q_learning": plain,
            "double": grid(step_size=few, **common, tables=(2, 3))
            + grid(step_size=np.geomspace(0.03, 0.7, 4), **common, tables=(2,)),
            "expectile": grid(step_size=few, **common, alpha=(0.2, 0.3, 0.4)),
        },
        metrics={"worst_case_lost": "lower", "true_lost": "lower"},
        run=functools.partial(run, visits=visits),
        tuning_seeds=tuple(range(1000, 1000 + tuning)),
        test_seeds=tuple(range(2000, 2000 + test)),
        unit="interactions",
        curve="worst-case value that the greedy policy lacks (reward units)",
        together=True,
        paired=True,
        logarithmic=True,
        minutes=lambda task, tuning: 0.7 if tuning else 0.3,
        reported=("overestimation",),
        notes="Garnet MDPs of 10 states and 5 actions, gamma 0.9, uniform behaviour, noise added "
        f"to every reward. The worst case is over the ball of environments of expectile {WORST}. "
        "Each side has 36 trials: step size, its fall with visits, and alpha, the number of tables "
        "(2 or 3, with more step sizes), or more step sizes.",
    )

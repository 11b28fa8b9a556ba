"""VA-learning, dueling and Q-learning on random MDPs, each with its own best step sizes.

A task is `KIND-ACTIONS`: KIND of behaviour and number of actions. There is no target network in a
table; in its place the step size may fall with the number of visits.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import tabular_advantage as advantage
from benchmarks.claims.grids import grid
from benchmarks.claims.study import Outcome, Study
from tabular_problems import Problem

METHODS = {
    "q_learning": "Q-learning",
    "va": "VA-learning",
    "uniform_dueling": "uniform dueling",
    "behaviour_dueling": "behaviour dueling",
}
METRICS = ("q", "gap", "regret")


def regret(problem: Problem, optimum: jax.Array, q: jax.Array, gamma: float) -> jax.Array:
    """[] what the greedy policy of q lacks in value, over what the uniform policy lacks."""

    def value(pi):
        p = jnp.einsum("sa,sat->st", pi, problem.p)
        return jnp.linalg.solve(jnp.eye(len(p)) - gamma * p, jnp.sum(pi * problem.r, axis=-1))

    best = optimum.max(axis=-1)
    greedy = jax.nn.one_hot(q.argmax(axis=-1), q.shape[1])
    uniform = jnp.full_like(q, 1 / q.shape[1])
    return jnp.mean(best - value(greedy)) / jnp.mean(best - value(uniform))


@functools.partial(jax.jit, static_argnames=("method", "setting"))
def learn(sample: advantage.Sample, hyper, *, method: str, setting: advantage.Setting):
    """[trials, M, P, 3] errors of Q, of gaps, and regret; hyper: [trials] each."""

    def one(hyper, sample):
        problem, optimum = sample.problems, sample.optimum
        mu = advantage.centre(method, problem.mu)

        def step(carry, transition):
            tables, visits = carry
            s_tm1, a_tm1, s_t = transition
            visits = visits.at[s_tm1, a_tm1].add(1)
            size = hyper["step_size"] * visits[s_tm1, a_tm1] ** -hyper["decay"]
            size_v = hyper["ratio"] * hyper["step_size"]
            size_v = size_v * visits[s_tm1].sum() ** -hyper["decay"]
            here = s_tm1, a_tm1, problem.r[s_tm1, a_tm1], jnp.float32(setting.gamma), s_t
            tables = advantage.update(method, tables, mu, *here, size, size_v)
            return (tables, visits), None

        def errors_after(carry, part):
            carry = jax.lax.scan(step, carry, part)[0]
            q = advantage.q_values(method, carry[0], mu)
            error = q - optimum
            gap = error - jnp.mean(error, axis=-1, keepdims=True)
            found = map(advantage.root_mean_square, (error, gap))
            return carry, jnp.stack([*found, regret(problem, optimum, q, setting.gamma)])

        walked = sample.states[:-1], sample.actions[:-1], sample.states[1:]
        parts = jax.tree.map(lambda x: x.reshape(setting.points, -1), walked)
        tables = advantage.start(method, problem, optimum, at_optimum=False)
        return jax.lax.scan(errors_after, (tables, jnp.zeros_like(optimum)), parts)[1]

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(hyper, sample)


@functools.lru_cache(maxsize=2)
def draw(setting: advantage.Setting, kind: str, seeds: tuple[int, ...]) -> advantage.Sample:
    return advantage.make_sample(setting, seeds, kind)


def run(task, side, trials, seeds, name, *, visits: int, states: int) -> Outcome:
    kind, actions = task.split("-")
    setting = advantage.Setting(int(actions), states=states, visits=visits)
    sample = draw(setting, kind, tuple(seeds))
    keys = ("step_size", "decay", "ratio")
    hyper = {key: jnp.array([trial.get(key, 1.0) for trial in trials]) for key in keys}
    found = np.asarray(learn(sample, hyper, method=METHODS[side], setting=setting), np.float64)
    scores = {
        "q": advantage.area(found[..., 0]),
        "gap": advantage.area(found[..., 1]),
        "regret": found[..., 2].mean(axis=-1),
    }
    x = np.linspace(0, setting.interactions, setting.points + 1)[1:]
    return Outcome(scores, x, found[..., 0])


def make_study(
    *, actions=(2, 10, 50, 5, 20), tuning=8, test=30, visits=100, states=20, sides=tuple(METHODS)
) -> Study:
    plain = grid(step_size=np.geomspace(0.05, 1.0, 12), decay=(0.0, 0.3, 0.6))
    own = grid(step_size=np.geomspace(0.05, 1.0, 4), decay=(0.0, 0.3, 0.6), ratio=(0.2, 0.5, 1.0))
    tried = {"q_learning": plain, "va": own, "uniform_dueling": own, "behaviour_dueling": own}
    return Study(
        claim="va_learning",
        name="va_tables",
        question="Does a value that all actions of a state share speed up learning in tables?",
        tasks=tuple(f"{kind}-{n}" for n in actions for kind in advantage.BEHAVIOURS),
        sides={side: tried[side] for side in sides},
        metrics=dict.fromkeys(METRICS, "lower"),
        run=functools.partial(run, visits=visits, states=states),
        tuning_seeds=tuple(range(1000, 1000 + tuning)),
        test_seeds=tuple(range(2000, 2000 + test)),
        unit="interactions",
        curve="RMSE of Q",
        together=True,
        paired=True,
        logarithmic=True,
        minutes=lambda task, tuning: 0.02 * int(task.split("-")[1]) + 0.1,
        notes=f"Garnet MDPs of {states} states, gamma 0.9, one trajectory of {visits} interactions "
        "for each state and action. Each side has 36 trials: step size, its fall with visits, and "
        "the ratio of the step sizes of V and A; Q-learning, which has no V, has three times as "
        "many step sizes in the same range.",
    )

"""Windows of scalar values for multi-step rules: one worked by hand, and random ones."""

import numpy as np

from helpers.jitted import jitted

Q = np.array([[1.0, 2.0], [0.0, 0.5], [3.0, -1.0]])
A_T, R, D = np.array([0, 1, 0]), np.array([1.0, 0.0, 2.0]), np.array([0.9, 0.9, 0.0])
PI, MU = np.array([[0.2, 0.8], [0.5, 0.5], [1.0, 0.0]]), np.array([0.5, 0.25, 0.8])
ONES = np.ones(3)


def random_sequence(seed=0, t=6, a=4):
    generator = np.random.default_rng(seed)
    return {
        "q_tm1": generator.normal(size=(t, a)),
        "a_tm1": generator.integers(a, size=t),
        "r_t": generator.normal(size=t),
        "discount_t": generator.uniform(0.5, 1.0, size=t),
        "q_t": generator.normal(size=(t, a)),
        "a_t": generator.integers(a, size=t),
        "pi_t": generator.dirichlet(np.ones(a), size=t),
        "mu_t": generator.uniform(0.1, 1.0, size=t),
        "trace_t": np.ones(t),
    }


def pick(sequence, *names):
    return [sequence[name] for name in names]


PREDICTION = ("q_tm1", "a_tm1", "r_t", "discount_t", "q_t")
METHODS = {
    "retrace": lambda s: jitted.retrace(
        *pick(s, *PREDICTION, "a_t", "pi_t", "mu_t", "trace_t"), lambda_=0.9
    ),
    "peng": lambda s: jitted.peng_q_lambda(*pick(s, *PREDICTION, "trace_t"), lambda_=0.8),
    "watkins": lambda s: jitted.watkins_q_lambda(
        *pick(s, *PREDICTION, "a_t", "trace_t"), lambda_=0.8
    ),
    "n-step": lambda s: jitted.n_step_q_learning(*pick(s, *PREDICTION, "trace_t"), n=4),
    "v-trace": lambda s: jitted.v_trace(
        s["q_tm1"][:, 0],
        *pick(s, "r_t", "discount_t"),
        s["q_t"][:, 0],
        *pick(s, "mu_t", "trace_t"),
        lambda_=0.9,
        clip_rho=0.7,
    ),
}

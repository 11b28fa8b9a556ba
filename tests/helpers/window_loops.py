"""Multi-step targets as plain loops in float64, and the comparison of signed measures.

A measure is a list of (atom, weight). Nothing here uses bellmax.
"""

import numpy as np


def random_window(seed=0, t=5, n=7, a=3):
    """A window by argument name, with the target policy stochastic and nothing cut."""
    generator = np.random.default_rng(seed)
    return {
        "r_t": generator.normal(size=t),
        "discount_t": generator.uniform(0.7, 1.0, size=t),
        "dist_q_t": generator.normal(size=(t, n, a)) * 2.0,
        "a_t": generator.integers(a, size=t),
        "pi_t": generator.dirichlet(np.ones(a), size=t),
        "mu_t": generator.uniform(0.1, 1.0, size=t),
        "trace_t": np.ones(t),
    }


def loop_target(r_t, discount_t, dist_q_t, a_t, pi_t, c_t, trace_t, anchor=0):
    """The mixture as the paper's forward sum over n."""
    steps, atoms, actions = dist_q_t.shape
    measure, shift, scale, trace = [], 0.0, 1.0, 1.0
    for k in range(anchor, steps):
        shift += scale * r_t[k]
        scale *= discount_t[k]
        c = c_t[k] * trace_t[k] if k < steps - 1 else 0.0
        for b in range(actions):
            weight = trace * (pi_t[k, b] - (c if b == a_t[k] else 0.0))
            for j in range(atoms):
                measure.append((shift + scale * dist_q_t[k, j, b], weight / atoms))
        trace *= c
    return measure


def push(measure, r, discount):
    return [(r + discount * z, w) for z, w in measure]


def eta(dist_q, b, weight=1.0):
    return [(z, weight / len(dist_q)) for z in dist_q[:, b]]


def backward_target(r_t, discount_t, dist_q_t, a_t, pi_t, c_t, trace_t, anchor=0):
    """The same by recursion from the end; each step maps the later distribution."""
    later = []
    for k in reversed(range(anchor, len(r_t))):
        inside = []
        for b in range(pi_t.shape[1]):
            inside += eta(dist_q_t[k], b, pi_t[k, b])
        if k < len(r_t) - 1:
            c = c_t[k] * trace_t[k]
            inside += [(z, c * w) for z, w in later] + eta(dist_q_t[k], a_t[k], -c)
        later = push(inside, r_t[k], discount_t[k])
    return later


def telescoped_target(first, r_t, discount_t, dist_q_t, a_t, pi_t, c_t, trace_t):
    """`first` plus the path-dependent errors, for any distribution `first` at the anchor."""
    measure, shift, scale, trace, here = list(first), 0.0, 1.0, 1.0, first
    for k in range(len(r_t)):
        measure += [(z, -trace * w) for z, w in push(here, shift, scale)]
        shift, scale = shift + scale * r_t[k], scale * discount_t[k]
        for b in range(pi_t.shape[1]):
            ahead = eta(dist_q_t[k], b, trace * pi_t[k, b])
            measure += push(ahead, shift, scale)
        here, trace = eta(dist_q_t[k], a_t[k]), trace * c_t[k] * trace_t[k]
    return measure


def as_measure(target):
    return list(zip(np.asarray(target.atoms), np.asarray(target.weights), strict=True))


def cdf(measure, points):
    """Mass strictly below each point."""
    z, w = np.array(measure).T
    order = np.argsort(z)
    below = np.concatenate([[0.0], np.cumsum(w[order])])
    return below[np.searchsorted(z[order], points)]


def cdf_gap(first, second):
    """The integral of the distance of two signed CDFs: 0 means one measure."""
    z = np.sort(np.concatenate([np.array(first)[:, 0], np.array(second)[:, 0]]))
    middle = (z[1:] + z[:-1]) / 2
    return np.sum(np.abs(cdf(first, middle) - cdf(second, middle)) * np.diff(z))


def mean(measure):
    return sum(z * w for z, w in measure)

"""Losses at the shapes of their papers, forward and gradient, against rlax or the naive form.

A batch is mapped over and averaged; the gradient is that of the first array. Sides take turns.

    python benchmarks/losses.py [--rounds 31] [--only quantile]
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import rlax
from arguments import parse
from timing import alternate, table

from bellmax import losses

N, ATOMS, A, B, D = 201, 51, 18, 32, 512
TAU = losses.quantile_midpoints(N)
SUPPORT = jnp.linspace(-10.0, 10.0, ATOMS)
KEYS = iter(jax.random.split(jax.random.key(0), 100))


class Row(NamedTuple):
    """A loss of one example, what it is compared with, and a batch of arrays for both."""

    name: str
    shape: str
    ours: Callable[..., Any]
    other_name: str
    other: Callable[..., Any] | None
    arrays: tuple[jax.Array, ...]


def normal(*shape):
    return jax.random.normal(next(KEYS), shape)


def actions(*shape):
    return jax.random.randint(next(KEYS), shape, 0, A)


def policies(*shape):
    return jax.nn.softmax(normal(*shape))


def step():
    """a_tm1, r_t, discount_t of a batch."""
    return actions(B), normal(B), jnp.full(B, 0.99)


def naive_munchausen(q_tm1, a_tm1, r_t, discount_t, target_q_tm1, target_q_t, tau=0.03):
    log_pi_tm1, log_pi = (tau * jax.nn.log_softmax(q / tau) for q in (target_q_tm1, target_q_t))
    value = jnp.sum(jax.nn.softmax(target_q_t / tau) * (target_q_t - log_pi))
    target = r_t + 0.9 * jnp.clip(log_pi_tm1[a_tm1], -1.0, 0.0) + discount_t * value
    return jax.lax.stop_gradient(target) - q_tm1[a_tm1]


def naive_self_prediction(predictions, targets, mask):
    """A loop over horizons; XLA takes minutes to compile one over starts too."""
    unit = lambda x: x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)  # noqa: E731
    total, starts = 0.0, predictions.shape[1]
    for k in range(predictions.shape[0]):
        aimed = jax.lax.stop_gradient(unit(targets[k + 1 :]))
        error = unit(predictions[k, : starts - k]) - aimed
        total += jnp.sum(mask[k, : starts - k, None] * error * error)
    return total


def value_rows():
    q, q_t, q_other = normal(B, A), normal(B, A), normal(B, A)
    logits = normal(B, A, ATOMS), normal(B, A, ATOMS)
    yield Row("q_learning", f"A={A}", losses.q_learning, "rlax", rlax.q_learning, (q, *step(), q_t))
    yield Row(
        *("munchausen_q_learning", f"A={A}", losses.munchausen_q_learning),
        *("naive", naive_munchausen, (q, *step(), q_other, q_t)),
    )
    yield Row(
        *("va_learning", f"A={A}", lambda f, v, *rest: sum(losses.va_learning(v, f, *rest))),
        *("", None, (q, normal(B), actions(B), normal(B), normal(B), normal(B), normal(B), q_t)),
    )
    yield Row(
        *("categorical_q_learning", f"A={A}, {ATOMS} atoms"),
        lambda x, y, *step: losses.categorical_q_learning(SUPPORT, x, *step, SUPPORT, y),
        *("rlax", lambda x, y, *step: rlax.categorical_q_learning(SUPPORT, x, *step, SUPPORT, y)),
        (*logits, *step()),
    )


def quantile_rows():
    dist, dist_t, dist_other = (normal(B, N, A) for _ in range(3))
    shape = f"N={N}, A={A}"
    yield Row(
        *("quantile_q_learning", shape),
        lambda x, y, *step: losses.quantile_q_learning(x, TAU, *step, y),
        "rlax",
        lambda x, y, *step: rlax.quantile_q_learning(x, TAU, *step, y, y, huber_param=1.0),
        (dist, dist_t, *step()),
    )
    yield Row(
        *("munchausen_quantile_q_learning", shape),
        lambda x, y, z, *step: losses.munchausen_quantile_q_learning(x, TAU, *step, y, z),
        *("", None, (dist, dist_other, dist_t, *step())),
    )
    for k in (3, 5):
        rewards, discounts, trace = normal(B, k), jnp.full((B, k), 0.99), jnp.ones((B, k))
        window = rewards, discounts, normal(B, k, N, A), actions(B, k)

        def sparse(x, a, *window, method="auto"):
            return losses.greedy_distributional_retrace(x, TAU, a, *window, method=method)

        def dense(x, a, r, discount, dist_t, a_t, trace):
            pi = jax.nn.one_hot(jnp.argmax(dist_t.mean(axis=1), axis=-1), A)
            c = jnp.take_along_axis(pi, a_t[:, None], axis=-1)[:, 0]
            rest = r, discount, dist_t, a_t, pi, c, trace
            return losses.distributional_retrace(x, TAU, a, *rest, method="pairwise")

        yield Row(
            *("greedy_distributional_retrace", f"K={k}, {shape}", sparse, "dense, all pairs"),
            *(dense, (dist, actions(B), *window, trace)),
        )


def sequence_rows():
    k = 20
    q, q_t, pi = normal(B, k, A), normal(B, k, A), policies(B, k, A)
    a, a_t, r, discount = actions(B, k), actions(B, k), normal(B, k), jnp.full((B, k), 0.99)
    mu, trace = jnp.full((B, k), 0.5), jnp.ones((B, k))
    yield Row(
        *("retrace", f"T={k}, A={A}"),
        lambda q, q_t, a, a_t, r, d, pi, mu, trace: losses.retrace(
            q, a, r, d, q_t, a_t, pi, mu, trace, lambda_=0.9
        ),
        *("rlax", lambda *arrays: rlax.retrace(*arrays[:-1], 0.9)),
        (q, q_t, a, a_t, r, discount, pi, mu, trace),
    )
    yield Row(
        *("peng_q_lambda", f"T={k}, A={A}"),
        lambda *arrays: losses.peng_q_lambda(*arrays, lambda_=0.9),
        *("rlax", lambda *arrays: rlax.q_lambda(*arrays[:-1], 0.9)),
        (q, a, r, discount, q_t, trace),
    )
    yield Row(
        *("v_trace", f"T={k}"),
        lambda v, v_t, r, d, rho, trace: losses.v_trace(v, r, d, v_t, rho, trace),
        *("rlax", lambda *arrays: rlax.vtrace(*arrays[:-1])),
        (normal(B, k), normal(B, k), r, discount, jnp.full((B, k), 0.9), trace),
    )


def other_rows():
    b, horizons, length = 256, 8, 64
    reward, discount = normal(b), jnp.full(b, 0.99)
    yield Row(
        *("expectile_td_loss", ""),
        lambda *arrays: losses.expectile_td_loss(*arrays, alpha=0.3),
        *("squared error", lambda q, r, d, q_t: jnp.square(r + d * q_t - q)),
        (normal(b), reward, discount, normal(b)),
    )
    yield Row(
        *("clipped_double_q_learning", "C=2", losses.clipped_double_q_learning, "", None),
        (normal(b, 2), reward, discount, normal(b, 2)),
    )
    mask = jax.vmap(lambda x: losses.horizon_mask(x, horizons=horizons))(jnp.ones((8, length - 1)))
    yield Row(
        *("horizon_losses", f"K={horizons}, T={length}, D={D}, batch 8"),
        *(losses.horizon_losses, "loop over k", naive_self_prediction),
        (normal(8, horizons, length - 1, D), normal(8, length, D), mask),
    )
    yield Row(
        *("rnd_error", f"D={D}", losses.rnd_error, "", None, (normal(b, D), normal(b, D))),
    )
    yield Row(
        *("intrinsic_curiosity", f"A={A}, D={D}", lambda *x: losses.intrinsic_curiosity(*x).loss),
        *("", None, (normal(b, A), actions(b), normal(b, D), normal(b, D))),
    )
    yield Row(
        *("clipped_surrogate_loss", "T=128", jax.vmap(losses.clipped_surrogate_loss)),
        *("rlax", lambda x, y, adv: rlax.clipped_surrogate_pg_loss(jnp.exp(x - y), adv, 0.2)),
        (normal(8, 128) * 0.1, normal(8, 128) * 0.1, normal(8, 128)),
    )


ROWS = {
    "value": value_rows,
    "quantile": quantile_rows,
    "sequence": sequence_rows,
    "other": other_rows,
}


def measure(row, rounds):
    """Return a row of the table: microseconds of a compiled batch; above 1, ours is faster."""
    sides = {}
    for name, one in (("ours", row.ours), ("other", row.other)):
        if one is None:
            continue

        def mean(first, *rest, one=one):
            return jnp.mean(jax.vmap(one)(first, *rest))

        for kind, function in (("forward", mean), ("gradient", jax.grad(mean))):
            compiled = jax.jit(function).lower(*row.arrays).compile()

            def go(compiled=compiled):
                jax.block_until_ready(compiled(*row.arrays))

            go()
            sides[name, kind] = go
    seconds = alternate(sides, rounds)
    middle = {side: 1e6 * statistics.median(each) for side, each in seconds.items()}
    line = {"loss": row.name, "shapes": row.shape, "against": row.other_name}
    for kind in ("forward", "gradient"):
        line[f"{kind}, us"] = middle["ours", kind]
        other = middle.get(("other", kind))
        line[f"{kind} ratio"] = other / middle["ours", kind] if other else ""
    return line


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--only", choices=ROWS)
    arguments = parse(parser, words, rounds=2, only="value")
    families = [ROWS[arguments.only]] if arguments.only else ROWS.values()
    lines = [measure(row, arguments.rounds) for rows in families for row in rows()]
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, batch {B} where none is given")
    print(table(lines))


if __name__ == "__main__":
    main()

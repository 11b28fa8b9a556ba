"""The two forms of quantile regression: N values against M = K * N atoms, as K quantile targets.

A gradient of the mean loss of a batch, compiled; the forms take turns. Prints a table, and the
largest difference of the two gradients over the largest entry of one.

    python benchmarks/quantile.py [--quantiles 201] [--targets 1 3 5 10] [--batch 32] [--kappa 1]
"""

import argparse
import functools
import statistics

import jax
import jax.numpy as jnp
from arguments import parse
from timing import alternate, ratios, table

from bellmax.losses import quantile_midpoints, quantile_regression
from bellmax.losses.quantile_sorted import sorting_pays


def gradient(method, tau, kappa):
    def loss(dist_tm1, target, weights):
        def each(dist_tm1, target, weights):
            return quantile_regression(
                dist_tm1, tau, target, weights=weights, huber_kappa=kappa, method=method
            )

        return jnp.mean(jax.vmap(each)(dist_tm1, target, weights))

    return jax.jit(jax.grad(loss))


def call(function, arrays):
    """Wait for a call; the result is dropped, as `alternate` would take it for seconds."""
    jax.block_until_ready(function(*arrays))


def compare(n, k, batch, kappa, rounds):
    """One row of the table: milliseconds of each form for K targets of N quantiles."""
    keys = jax.random.split(jax.random.key(k), 3)
    shape = batch, k * n
    weights = jax.nn.softmax(jax.random.normal(keys[2], shape))
    arrays = jax.random.normal(keys[0], (batch, n)), jax.random.normal(keys[1], shape), weights
    tau = quantile_midpoints(n)
    functions = {name: gradient(name, tau, kappa) for name in ("pairwise", "sorted")}
    one, other = (function(*arrays) for function in functions.values())
    sides = {name: functools.partial(call, f, arrays) for name, f in functions.items()}
    seconds = alternate(sides, rounds)
    cpu = jax.default_backend() == "cpu"
    return {
        "N": n,
        "M": k * n,
        **{f"{name}, ms": 1e3 * statistics.median(each) for name, each in seconds.items()},
        **ratios(seconds["pairwise"], seconds["sorted"]),
        "difference": float(jnp.max(jnp.abs(one - other)) / jnp.max(jnp.abs(one))),
        "auto takes": "sorted" if sorting_pays(n, k * n, cpu=cpu) else "pairwise",
    }


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quantiles", type=int, nargs="+", default=[201])
    parser.add_argument("--targets", type=int, nargs="+", default=[1, 3, 5, 10])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--kappa", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=21)
    args = parse(parser, words, quantiles=[11], targets=[1, 3], batch=4, rounds=3)
    sizes = [(n, k) for n in args.quantiles for k in args.targets]
    rows = [compare(n, k, args.batch, args.kappa, args.rounds) for n, k in sizes]
    print(f"jax {jax.__version__}, {jax.default_backend()}, batch {args.batch}")
    print(table(rows))


if __name__ == "__main__":
    main()

"""A tiny language model, trained by one of 26 losses of `bellmax.losses.sequence`.

    python examples/sequence/train.py --loss dpo [--beta 0.1] [--seeds 3] [--steps 200] [--small]

A causal transformer of two layers writes strings of 6 tokens out of 6. The reference is trained on
strings of a random Markov chain; the reward is the share of neighbours that count upwards. There
are few enough strings to enumerate, so reward and KL from the reference are exact.

Losses of pairs and some of groups learn from strings of the reference, the others from their own.
Those that need prompts (SRPO), thoughts (JEPO), short answers (majority votes), values of tokens, a
teacher (GKD) or demonstrations (IQ-Learn) do not fit these strings.
"""

import argparse
import functools
import itertools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from objectives import LOSSES, MOST, SHARPNESS, K, best_string

from bellmax.losses import sequence as seq

PAIRS, GROUPS = 32, 8  # examples of a step
POOL = 8192  # strings of the reference that offline losses learn from
LEARNING_RATE = 3e-3


class Sizes(NamedTuple):
    vocabulary: int = 6
    length: int = 6
    width: int = 16
    pretraining: int = 400
    layers: int = 2


class Transformer(nn.Module):
    """Logits [L, V] of each token of a string [L], given those before it."""

    sizes: Sizes

    @nn.compact
    def __call__(self, tokens):
        vocabulary, length, width, _, layers = self.sizes
        start = jnp.full(1, vocabulary)
        x = nn.Embed(vocabulary + 1, width)(jnp.concatenate([start, tokens[:-1]]))
        x = x + nn.Embed(length, width)(jnp.arange(length))
        mask = nn.make_causal_mask(jnp.zeros(length))
        for _ in range(layers):
            x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x), mask=mask)
            x = x + nn.Dense(width)(nn.gelu(nn.Dense(2 * width)(nn.LayerNorm()(x))))
        return nn.Dense(vocabulary)(nn.LayerNorm()(x))


def reward(tokens):
    """Share of neighbours [..., L] where the second is the successor of the first."""
    return jnp.mean((tokens[..., 1:] == tokens[..., :-1] + 1).astype(jnp.float32), axis=-1)


def log_probs(model, params, strings):
    """[N, L] log-probabilities of the tokens of strings [N, L]."""
    logits = jax.vmap(lambda x: model.apply(params, x))(strings)
    return jax.vmap(lambda x, y: seq.token_log_probs(x, y, jnp.ones(y.shape)))(logits, strings)


def sample(logits_of, key, number, length):
    """Strings [N, L] of a model, token by token; logits_of: of strings [N, L], [N, L, V]."""

    def step(strings, now):
        t, key = now
        token = jax.random.categorical(key, logits_of(strings)[:, t])
        return strings.at[:, t].set(token), None

    strings = jnp.zeros((number, length), jnp.int32)
    return jax.lax.scan(step, strings, (jnp.arange(length), jax.random.split(key, length)))[0]


def everything(model, params):
    """Log-probabilities [V^L] of all strings, in the order of `itertools.product`."""
    vocabulary, length, *_ = model.sizes
    prefixes = np.array(list(itertools.product(range(vocabulary), repeat=length - 1)))
    prefixes = np.concatenate([prefixes, np.zeros((len(prefixes), 1), int)], axis=1)

    def one(prefix):
        log_p = jax.nn.log_softmax(model.apply(params, prefix))
        before = log_p[jnp.arange(length - 1), prefix[:-1]]
        return jnp.sum(before) + log_p[-1]

    return jnp.reshape(jax.lax.map(one, jnp.asarray(prefixes), batch_size=512), -1)


def all_rewards(sizes):
    strings = itertools.product(range(sizes.vocabulary), repeat=sizes.length)
    return reward(np.array(list(strings)))


class Problem(NamedTuple):
    """A reference, strings drawn from it, and exact numbers of all strings."""

    model: Transformer
    ref: dict
    pool: dict  # strings [N, L], log_ref [N, L], r [N]
    log_ref: jax.Array  # [V^L]
    r: jax.Array  # [V^L]


def make_problem(sizes, seed=0):
    """Train the reference on strings of a random Markov chain."""
    model = Transformer(sizes)
    ref, pool, log_ref = jax.jit(functools.partial(_pretrain, model))(jax.random.key(seed))
    return Problem(model, ref, pool, log_ref, all_rewards(sizes))


def _pretrain(model, key):
    """The reference, a pool of its strings, and the log-probabilities of all strings."""
    sizes = model.sizes
    init, chain, draw, train, write = jax.random.split(key, 5)
    transitions = 1.5 * jax.random.normal(chain, (sizes.vocabulary + 1, sizes.vocabulary))

    def chains(strings):
        start = jnp.full((len(strings), 1), sizes.vocabulary)
        return transitions[jnp.concatenate([start, strings[:, :-1]], axis=1)]

    data = sample(chains, draw, POOL, sizes.length)
    params = model.init(init, data[0])
    optimiser = optax.adam(3e-3)

    def step(carry, key):
        params, state = carry
        batch = data[jax.random.randint(key, (128,), 0, POOL)]
        loss = lambda params: -jnp.mean(jnp.sum(log_probs(model, params, batch), -1))  # noqa: E731
        updates, state = optimiser.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(train, sizes.pretraining)
    (ref, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), keys)
    logits_of = jax.vmap(lambda x: model.apply(ref, x))
    strings = sample(logits_of, write, POOL, sizes.length)
    pool = {"strings": strings, "log_ref": log_probs(model, ref, strings), "r": reward(strings)}
    return ref, pool, everything(model, ref)


def draw_batch(problem, kind, params, key):
    """Draw the inputs of a loss for a step, with leading axes [pairs, 2] or [groups, K]."""
    model, pool, length = problem.model, problem.pool, problem.model.sizes.length
    key, other = jax.random.split(key)
    if kind != "online":
        shape = (PAIRS, 2) if kind == "pairs" else (GROUPS, K)
        rows = jax.tree.map(lambda x: x[jax.random.randint(key, shape, 0, POOL)], pool)
        if kind == "pairs":  # labels of Bradley and Terry, the preferred string first
            odds = SHARPNESS * (rows["r"][:, 0] - rows["r"][:, 1])
            swap = ~jax.random.bernoulli(other, jax.nn.sigmoid(odds))
            order = jnp.stack([swap, ~swap], axis=1).astype(int)
            rows = {n: jax.vmap(lambda x, i: x[i])(x, order) for n, x in rows.items()}
        return rows
    own = jax.vmap(lambda x: model.apply(params, x))
    theirs = jax.vmap(lambda x: model.apply(problem.ref, x))
    strings = sample(own, key, GROUPS * K, length)
    rows = {"strings": strings, "r": reward(strings)}
    rows["log_ref"] = log_probs(model, problem.ref, strings)
    mix = jax.vmap(jax.vmap(lambda x, y: seq.mixture_logits(x, y, b=0.5)))
    first, second = jax.random.split(other)
    # The compiler removes everything that the loss does not read.
    rows["rival_r"] = reward(sample(lambda x: mix(own(x), theirs(x)), first, GROUPS * K, length))
    chosen = jax.random.randint(second, (GROUPS, MOST), 0, POOL)
    grouped = jax.tree.map(lambda x: jnp.reshape(x, (GROUPS, K, *x.shape[1:])), rows)
    grouped["pool_strings"], grouped["pool_r"] = pool["strings"][chosen], pool["r"][chosen]
    grouped["pool_all_r"] = jnp.broadcast_to(pool["r"][:256], (GROUPS, 256))
    return grouped


def make_train(problem, name, steps):
    """train(key, beta) -> (reward, KL) of the policy, both exact."""
    train = make_train_of(problem, [name], steps)
    return lambda key, beta: train(key, beta, 0)


def make_train_of(problem, names, steps):
    """train(key, beta, i) for losses that learn from strings of one kind; i is one of them.

    They share a program, which compiles for longer than any of them trains.
    """
    kind = LOSSES[names[0]][1]
    model = problem.model
    optimiser = optax.adam(optax.linear_schedule(LEARNING_RATE, 0.0, steps))

    def total(params, rows, beta, i):
        def known(strings):
            flat = jnp.reshape(strings, (-1, strings.shape[-1]))
            return jnp.reshape(log_probs(model, params, flat), strings.shape)

        rows = rows | {"log_pi": known(rows["strings"])}
        if "bond" in names:
            rows["best_log_pi"] = known(jax.vmap(best_string, (0, None))(rows, beta))
        each = [jnp.mean(jax.vmap(LOSSES[n][0], (0, None))(rows, beta)) for n in names]
        return jnp.stack(each)[i]

    def train(key, beta, i):
        def step(carry, key):
            params, state = carry
            rows = draw_batch(problem, kind, params, key)
            updates, state = optimiser.update(jax.grad(total)(params, rows, beta, i), state)
            return (optax.apply_updates(params, updates), state), None

        start = problem.ref, optimiser.init(problem.ref)
        (params, _), _ = jax.lax.scan(step, start, jax.random.split(key, steps))
        return measure(problem, params)

    return train


def measure(problem, params):
    """Exact expected reward and KL from the reference."""
    log_pi = everything(problem.model, params)
    pi = jnp.exp(log_pi)
    return jnp.sum(pi * problem.r), jnp.sum(pi * (log_pi - problem.log_ref))


def best_possible(problem, betas):
    """Exact (reward, KL) of `ref * exp(r / beta) / Z`, which no policy of that KL surpasses."""

    def one(beta):
        log_pi = jax.nn.log_softmax(problem.log_ref + problem.r / beta)
        pi = jnp.exp(log_pi)
        return jnp.sum(pi * problem.r), jnp.sum(pi * (log_pi - problem.log_ref))

    return jax.lax.map(one, jnp.asarray(betas))


def sizes_of(small):
    return Sizes(vocabulary=4, length=4, width=8, pretraining=50, layers=1) if small else Sizes()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", choices=LOSSES, default="dpo")
    parser.add_argument("--beta", type=float, default=0.1, help="regularisation of the loss")
    parser.add_argument("--seeds", type=int, default=3, help="learners, trained at once")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--small", action="store_true", help="4 tokens out of 4, a narrow model")
    options = parser.parse_args(argv)
    problem = make_problem(sizes_of(options.small))
    train = make_train(problem, options.loss, options.steps)
    keys = jax.random.split(jax.random.key(1), options.seeds)
    rewards, kls = jax.jit(jax.vmap(train, (0, None)))(keys, options.beta)
    before = float(jnp.sum(jnp.exp(problem.log_ref) * problem.r))
    for seed, (value, kl) in enumerate(zip(rewards, kls, strict=True)):
        print(
            f"{options.loss} seed {seed}: reward {value:.3f} (reference {before:.3f}), KL {kl:.3f}"
        )
    return np.asarray(rewards), np.asarray(kls), before


if __name__ == "__main__":
    main()

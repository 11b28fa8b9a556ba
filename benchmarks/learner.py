"""A gradient step at the shapes of Atari: QR-DQN-Retrace against the step of DQN Zoo's QR-DQN.

Nature network on 84x84x4 bytes, N=201, batch 32, Adam 5e-5 after clipping the gradient to norm 10.
The other side is haiku and rlax (`pip install dm-haiku`), with the settings of DQN Zoo. From the
same parameters and batch, one step of both must give the same loss, gradient and parameters, or
the script stops. Steps are compiled once, states donated, and take turns.

The share of the loss is the time of the agent's own `learn` with a network that does nothing (the
observations are its outputs): targets, loss and their gradient, and Adam on N A numbers.

By default glibc frees and reallocates the memory of a step at every call, which costs time. With
MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=8589934592 in the environment it keeps the
memory. Report both.

    python benchmarks/learner.py [--actions 18] [--rounds 41] [--more] [--out learner.json]
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rlax
from arguments import import_peer, parse
from atari_shapes import (
    ADAM_EPSILON,
    BATCH,
    GAMMA,
    LEARNING_RATE,
    MAX_NORM,
    SHAPE,
    N,
    make_agent,
    make_batch,
)
from timing import alternate, ratios, table

TOLERANCE = 1e-4  # of the largest entry, of sums over thousands of float32
KEY = jax.random.key(0)
ZOO = "DQN Zoo's"
SIDES: dict[str, dict[str, Any]] = {
    "one_step": {"trace": "one_step"},
    "Retrace K=5": {"n_step": 5},
}
MORE: dict[str, dict[str, Any]] = {
    "Retrace K=3": {"n_step": 3},
    "Retrace K=5, every step learns": {"n_step": 5, "anchor": "every"},
    "Retrace K=5, target epsilon 0.01": {"n_step": 5, "target_epsilon": 0.01},
}


class Sizes(NamedTuple):
    """Of a side."""

    num_actions: int
    num_quantiles: int = N
    batch_size: int = BATCH


def make_agent_of(sizes, options, given=False):
    rest = {"batch_size": sizes.batch_size, "num_quantiles": sizes.num_quantiles}
    return make_agent(sizes.num_actions, options, given, **rest)


def make_batch_of(sizes, length, given=False):
    return make_batch(sizes.num_actions, length, given, sizes.batch_size, sizes.num_quantiles)


def make_zoo(sizes):
    """`init(key) -> (params, opt_state)` and `step(params, opt_state, target_params, batch)`."""
    hk = import_peer("haiku", "dm-haiku")
    n, num_actions = sizes.num_quantiles, sizes.num_actions

    def forward(x):
        x = x.astype(jnp.float32) / 255.0
        for channels, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            x = jax.nn.relu(hk.Conv2D(channels, kernel, stride, padding="VALID")(x))
        x = jax.nn.relu(hk.Linear(512)(hk.Flatten()(x)))
        return hk.Linear(n * num_actions)(x).reshape(-1, n, num_actions)

    network = hk.without_apply_rng(hk.transform(forward))
    adam = optax.adam(LEARNING_RATE, eps=ADAM_EPSILON)
    optimizer = optax.chain(optax.clip_by_global_norm(MAX_NORM), adam)
    tau = (jnp.arange(n) + 0.5) / n
    each_loss = jax.vmap(rlax.quantile_q_learning, in_axes=(0, None, 0, 0, 0, 0, 0, None))

    def loss_fn(params, target_params, steps):
        dist_tm1 = network.apply(params, steps.observation[:, 0])
        dist_t = network.apply(target_params, steps.observation[:, 1])
        step = steps.action[:, 0], steps.reward[:, 0], GAMMA * steps.discount[:, 0]
        return jnp.mean(each_loss(dist_tm1, tau, *step, dist_t, dist_t, 1.0))

    def init(key):
        params = network.init(key, jnp.zeros((1, *SHAPE), jnp.uint8))
        return params, optimizer.init(params)

    def step(params, opt_state, target_params, batch):
        loss, gradient = jax.value_and_grad(loss_fn)(params, target_params, batch.steps)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    return init, step


def to_haiku(params):
    """Return the arrays of a flax tree of NatureConv and QuantileHead under haiku's names."""
    torso, head = params["params"]["NatureConv_0"], params["params"]["QuantileHead_0"]
    layers = {f"conv2_d_{i}" if i else "conv2_d": torso[f"Conv_{i}"] for i in range(3)}
    layers |= {"linear": torso["Dense_0"], "linear_1": head["Dense_0"]}
    return {name: {"w": x["kernel"], "b": x["bias"]} for name, x in layers.items()}


def check_same_step(sizes):
    """Return the differences of one step of both sides, relative to the largest entry.

    Adam's first moment after one step is a tenth of the clipped gradient.

    Raises:
      SystemExit: the differences exceed TOLERANCE.
    """
    init, step = make_zoo(sizes)
    agent = make_agent_of(sizes, SIDES["one_step"])
    batch = make_batch_of(sizes, agent.replay.sequence_length)
    keys = jax.random.split(jax.random.key(1))
    state = jax.jit(agent.init)(keys[0])
    state = state._replace(target_params=jax.jit(agent.init)(keys[1]).params)
    params, target_params = to_haiku(state.params), to_haiku(state.target_params)
    opt_state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(init, KEY)[1])
    params, opt_state, loss = jax.jit(step)(params, opt_state, target_params, batch)
    state, output = jax.jit(agent.learn)(state, batch, KEY)
    pairs = {
        "loss": (output.metrics["loss"], loss),
        "gradient": (to_haiku(state.opt_state[1][0].mu), opt_state[1][0].mu),
        "parameters": (to_haiku(state.params), params),
    }

    def difference(x, y):
        return float(jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(y)))

    found = {
        name: max(jax.tree.leaves(jax.tree.map(difference, *pair))) for name, pair in pairs.items()
    }
    if not max(found.values()) < TOLERANCE:
        raise SystemExit(f"the two steps differ, so their times are not comparable: {found}")
    return found


def zoo_side(sizes):
    """`go()`: one gradient step, parameters and optimiser state donated."""
    init, step = make_zoo(sizes)
    params, opt_state = jax.jit(init)(KEY)
    target_params = jax.tree.map(jnp.copy, params)
    batch = make_batch_of(sizes, 2)
    jitted = jax.jit(step, donate_argnums=(0, 1))
    compiled = jitted.lower(params, opt_state, target_params, batch).compile()
    held = [(params, opt_state)]

    def go():
        *state, loss = compiled(*held[0], target_params, batch)
        held[0] = jax.block_until_ready((state, loss))[0]

    go()
    return go


def agent_side(sizes, options, given=False):
    """`go()`: one `learn` of the agent, its whole state donated."""
    agent = make_agent_of(sizes, options, given)
    batch = make_batch_of(sizes, agent.replay.sequence_length, given)
    state = jax.jit(agent.init)(KEY)
    compiled = jax.jit(agent.learn, donate_argnums=0).lower(state, batch, KEY).compile()
    held = [state]

    def go():
        held[0] = jax.block_until_ready(compiled(held[0], batch, KEY))[0]

    go()
    return go


def compare(sizes, options, rounds):
    """Rows of the table, and the seconds of every call."""
    made = {ZOO: zoo_side(sizes)}
    for name, changed in options.items():
        made[name] = agent_side(sizes, changed)
        made[name, "loss"] = agent_side(sizes, changed, given=True)
    seconds = alternate(made, rounds)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    rows = []
    for name in (ZOO, *options):
        row = {"step": name, "A": sizes.num_actions, "ms": 1e3 * middle[name]}
        of_zoo = ratios(seconds[name], seconds[ZOO])
        row |= {"of DQN Zoo's": of_zoo["ratio"], "least": of_zoo["ratio_min"]}
        row |= {"most": of_zoo["ratio_max"]}
        if name != ZOO:
            row["loss, ms"] = 1e3 * middle[name, "loss"]
            row["loss, share"] = middle[name, "loss"] / middle[name]
        rows.append(row)
    return rows, {" ".join(np.atleast_1d(name)): each for name, each in seconds.items()}


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--actions", type=int, nargs="+", default=[18])
    parser.add_argument("--quantiles", type=int, default=N)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--more", action="store_true", help="other forms of Retrace too")
    parser.add_argument("--out", type=Path)
    arguments = parse(parser, words, rounds=1, actions=[3], quantiles=11, batch=2)
    results = []
    for num_actions in arguments.actions:
        sizes = Sizes(num_actions, arguments.quantiles, arguments.batch)
        found = check_same_step(sizes)
        print(f"A={num_actions}: one step of DQN Zoo's and ours differs by", end=" ")
        print(", ".join(f"{value:.1e} ({name})" for name, value in found.items()))
        options = SIDES | (MORE if arguments.more else {})
        rows, seconds = compare(sizes, options, arguments.rounds)
        results.append({"rows": rows, "seconds": seconds, "differences": found})
    shapes = f"N={arguments.quantiles}, batch {arguments.batch}"
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {shapes}\n")
    print(table([row for result in results for row in result["rows"]]))
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""A gradient step of IQN against Dopamine's formula, written plainly with flax, rlax and optax.

Nature network on 84x84x4 bytes, N = N' = 64, K = 32, 64 cosines, batch 32, Adam 5e-5: the settings
of Dopamine. `--torso minatar` has MinAtar's shapes and the preset's 8, 8 and 16 fractions. From
the same parameters, batch and fractions, one step of both must give the same loss, gradient and
parameters, or the script stops. Steps are compiled once, states donated, and take turns.

The plain side applies the target network twice to the next observation, for the action and for the
atoms, as Dopamine does; it draws the fractions of the batch at once and means over midpoints, as
bellmax does.

    python benchmarks/implicit_quantile.py [--torso nature] [--actions 18] [--rounds 21]
"""

import argparse
import functools
import statistics
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import rlax
from arguments import parse
from dm_env import specs
from timing import alternate, ratios, table

from bellmax.agents import Batch, IQNConfig, make_iqn
from bellmax.envs import EnvSpec, Step
from bellmax.networks import NetworkConfig

TOLERANCE = 1e-4  # of the largest entry, of sums over thousands of float32
KEY = jax.random.key(0)
GAMMA, BATCH, COSINES = 0.99, 32, 64
SIZES: dict[str, dict[str, Any]] = {
    "nature": {
        "shape": (84, 84, 4),
        "fractions": (64, 64, 32),
        "torso": "nature",
        "convolutions": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
        "hidden": 512,
    },
    "minatar": {
        "shape": (10, 10, 4),
        "fractions": (8, 8, 16),
        "torso": "minatar",
        "convolutions": ((16, 3, 1),),
        "hidden": 128,
    },
}


class Plain(nn.Module):
    """Dopamine's network: [B, ...] and fractions [B, N] -> [B, N, A]."""

    num_actions: int
    convolutions: tuple[tuple[int, int, int], ...]
    hidden: int

    @nn.compact
    def __call__(self, x, fractions):
        x = x.astype(jnp.float32) / 255.0
        for features, width, stride in self.convolutions:
            x = nn.relu(nn.Conv(features, (width, width), (stride, stride), padding="VALID")(x))
        x = x.reshape(x.shape[0], -1)
        multiples = jnp.pi * jnp.arange(1, COSINES + 1, dtype=jnp.float32)
        cosines = jnp.cos(multiples[None, None, :] * fractions[:, :, None])
        x = x[:, None, :] * nn.relu(nn.Dense(x.shape[-1])(cosines))
        x = nn.relu(nn.Dense(self.hidden)(x))
        return nn.Dense(self.num_actions)(x)


def make_agent(sizes, num_actions):
    """The IQN agent at these sizes."""
    online, target, policy = sizes["fractions"]
    config = IQNConfig(
        num_quantiles=online,
        num_target_quantiles=target,
        num_policy_quantiles=policy,
        embedding_size=COSINES,
        batch_size=BATCH,
        discount=GAMMA,
        learning_rate=5e-5,
        adam_epsilon=0.01 / 32,
        target_period=2000,
        network=NetworkConfig(torso=sizes["torso"]),
    )
    observation = specs.Array(sizes["shape"], np.uint8)
    return make_iqn(config, EnvSpec("shapes", observation, specs.DiscreteArray(num_actions)))


def make_plain(sizes, num_actions):
    """`init(key) -> (params, opt_state)` and `step(state, target_params, batch, key)`."""
    network = Plain(num_actions, sizes["convolutions"], sizes["hidden"])
    optimizer = optax.adam(5e-5, eps=0.01 / 32)
    online, target, policy = sizes["fractions"]
    midpoints = jnp.tile((jnp.arange(policy) + 0.5)[None, :] / policy, (BATCH, 1))
    each_loss = jax.vmap(rlax.quantile_q_learning, in_axes=(0, 0, 0, 0, 0, 0, 0, None))

    def loss_fn(params, target_params, steps, key):
        tau, tau_t = (
            jax.random.uniform(k, (BATCH, count))
            for k, count in zip(jax.random.split(key), (online, target), strict=True)
        )
        dist_tm1 = network.apply(params, steps.observation[:, 0], tau)
        selector = network.apply(target_params, steps.observation[:, 1], midpoints)
        dist_t = network.apply(target_params, steps.observation[:, 1], tau_t)
        step = steps.action[:, 0], steps.reward[:, 0], GAMMA * steps.discount[:, 0]
        return jnp.mean(each_loss(dist_tm1, tau, *step, selector, dist_t, 1.0))

    def init(key):
        params = network.init(key, jnp.zeros((1, *sizes["shape"]), jnp.uint8), jnp.zeros((1, 1)))
        return params, optimizer.init(params)

    def step(state, target_params, batch, key):
        params, opt_state = state
        gradients = jax.value_and_grad(loss_fn)(params, target_params, batch.steps, key)
        updates, opt_state = optimizer.update(gradients[1], opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), gradients[0]

    return init, step


def make_batch(sizes, num_actions):
    """Random transitions [B, 2], a few of which terminate."""
    rng = np.random.default_rng(0)
    rows = BATCH, 2
    steps = Step(
        observation=rng.integers(0, 256, (*rows, *sizes["shape"]), np.uint8),
        action=rng.integers(0, num_actions, rows, np.int32),
        reward=rng.integers(-1, 2, rows).astype(np.float32),
        discount=(rng.random(rows) > 0.1).astype(np.float32),
        is_first=np.zeros(rows, bool),
        is_last=np.zeros(rows, bool),
        behaviour=(),
    )
    return jax.device_put(Batch(steps, np.ones(BATCH, np.float32)))


def to_plain(params, torso):
    """The agent's tree under the plain module's names, the same arrays."""
    head = params["params"]["ImplicitQuantileHead_0"]
    inner = params["params"][{"nature": "NatureConv_0", "minatar": "MinAtarConv_0"}[torso]]
    if torso == "minatar":  # a flattened kernel [9 C, F], shift after shift
        dense = inner["PatchConv_0"]["Dense_0"]
        kernel = dense["kernel"].reshape(3, 3, -1, dense["kernel"].shape[-1])
        inner = {"Conv_0": {"kernel": kernel, "bias": dense["bias"]}}
    names = ("embedding", "hidden", "quantiles")
    return {"params": {**inner, **{f"Dense_{i}": head[name] for i, name in enumerate(names)}}}


def check_same_step(sizes, num_actions):
    """How far one step of both sides differs, as shares of the largest entry.

    Raises:
      SystemExit: they do not compute the same.
    """
    agent, batch = make_agent(sizes, num_actions), make_batch(sizes, num_actions)
    _, step = make_plain(sizes, num_actions)
    keys = jax.random.split(jax.random.key(1))
    state = jax.jit(agent.init)(keys[0])
    state = state._replace(target_params=jax.jit(agent.init)(keys[1]).params)
    convert = functools.partial(to_plain, torso=sizes["torso"])
    params, target_params = convert(state.params), convert(state.target_params)
    opt_state = optax.adam(5e-5, eps=0.01 / 32).init(params)
    # The agent's loss gets this key.
    plain, loss = jax.jit(step)(
        (params, opt_state), target_params, batch, jax.random.fold_in(KEY, 1)
    )
    state, output = jax.jit(agent.learn)(state, batch, KEY)
    pairs = {
        "loss": (output.metrics["loss"], loss),
        "gradient": (convert(state.opt_state[0].mu), plain[1][0].mu),
        "parameters": (convert(state.params), plain[0]),
    }

    def difference(x, y):
        return float(jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(y)))

    found = {
        name: max(jax.tree.leaves(jax.tree.map(difference, *pair))) for name, pair in pairs.items()
    }
    if not max(found.values()) < TOLERANCE:
        raise SystemExit(f"the two steps differ, so their times are not comparable: {found}")
    return found


def side(step, state, arguments):
    """`go()`: one gradient step, its state donated."""
    compiled = jax.jit(step, donate_argnums=0).lower(state, *arguments).compile()
    held = [state]

    def go():
        held[0] = jax.block_until_ready(compiled(held[0], *arguments))[0]

    go()
    return go


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torso", choices=list(SIZES), default="nature")
    parser.add_argument("--actions", type=int, default=18)
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parse(parser, words, torso="minatar", rounds=3)
    sizes, actions = SIZES[arguments.torso], arguments.actions
    found = check_same_step(sizes, actions)
    print("one step of both sides differs by", end=" ")
    print(", ".join(f"{value:.1e} ({name})" for name, value in found.items()))
    agent, batch = make_agent(sizes, actions), make_batch(sizes, actions)
    init, step = make_plain(sizes, actions)
    plain = jax.jit(init)(KEY)
    sides = {
        "plain": side(step, plain, (jax.tree.map(jnp.copy, plain[0]), batch, KEY)),
        "bellmax": side(agent.learn, jax.jit(agent.init)(KEY), (batch, KEY)),
    }
    seconds = alternate(sides, arguments.rounds)
    rows = [
        {"step": name, "ms": 1e3 * statistics.median(each)} | ratios(seconds["plain"], each)
        for name, each in seconds.items()
    ]
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {sizes['torso']}, A={actions}\n")
    print(table(rows))


if __name__ == "__main__":
    main()

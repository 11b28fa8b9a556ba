"""Objectives of the return's law other than its mean, by a stock of the rewards so far.

c_{t+1} = (c_t + r_{t+1}) / gamma, so that gamma^t (c_t + return from t) = c_0 + return from 0
Policies depend on the observation and the stock c, and maximise E f(c + G). Every f here is
positively homogeneous, so that the maximiser does not depend on gamma^t.

Source: Pires et al. 2025, "Optimizing return distributions with distributional dynamic
programming", arXiv:2501.13028. Not verified against the full text, which was not available.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from dm_env import specs

from bellmax import UserError, must
from bellmax.agents.shared.base import (
    ActInput,
    ActorOutput,
    Agent,
    Batch,
    LearnerState,
    LearnOutput,
    Memory,
    Params,
)
from bellmax.envs import EnvSpec
from bellmax.networks import Network, check_arrays

_BOUND = 1e4  # of the stock, in units of its scale
_STARTS = 129  # starts of the stock among which an evaluation chooses
_FEATURES = 2
_ALLOWED = "mean, cvar:SHARE with SHARE in (0, 1], below:LEVEL or homeostasis:LEVEL"


class Objective(NamedTuple):
    """A functional of the law of the return.

    utility: f, from c_0 + G to a number, entry by entry.
    start: c_0 if it is fixed; None if it is chosen, which adds -c_0 to the objective.
    score: from returns [E], equally likely, to the objective [].
    scale: size of stocks, in reward units.
    """

    utility: Callable[[jax.Array], jax.Array]
    start: float | None
    score: Callable[[jax.Array], jax.Array]
    scale: float


class StockMemory(NamedTuple):
    """stock: [N] float32, at the last observation. inner: memory of the agent without stock."""

    stock: jax.Array
    inner: Memory


class StockBehaviour(NamedTuple):
    """stock: [N] float32, at this observation. inner: behaviour of the agent without stock."""

    stock: jax.Array
    inner: Any


def read_objective(text: str, return_range: tuple[float, float] | None) -> Objective | None:
    """Return the objective that a text names; None for the mean.

    Args:
      text: mean, cvar:SHARE, below:LEVEL or homeostasis:LEVEL.
      return_range: lowest and highest return, in reward units; cvar needs it.

    Raises:
      UserError: the text is something else, or the range is missing or empty.
    """
    if text == "mean":
        return None
    name, _, number = text.partition(":")
    try:
        level = float(number)
    except ValueError:
        level = float("nan")
    if name not in ("cvar", "below", "homeostasis") or not abs(level) < 1e9:
        raise UserError(must("agent.objective", _ALLOWED, text))
    if name == "cvar":
        if not 0 < level <= 1:
            raise UserError(must("agent.objective", _ALLOWED, text))
        if return_range is None or not return_range[0] < return_range[1]:
            allowed = f"the lowest and the highest return for agent.objective {text}"
            raise UserError(must("agent.return_range", allowed, return_range))
        scale = max(map(abs, return_range))
        below = lambda x: jnp.minimum(x, 0.0) / level  # noqa: E731
        return Objective(below, None, lambda returns: _cvar(returns, level), scale)
    utility = (lambda x: -jnp.abs(x)) if name == "homeostasis" else (lambda x: -1.0 * (x < 0))
    scale = max(1.0, abs(level))
    return Objective(utility, -level, lambda returns: jnp.mean(utility(returns - level)), scale)


def _cvar(returns: jax.Array, share: float) -> jax.Array:
    """Mean of the lowest `share` of returns [E]; a return may count in part."""
    count = returns.shape[0]
    weights = jnp.clip(share * count - jnp.arange(count), 0.0, 1.0)
    return jnp.sum(weights * jnp.sort(returns)) / (share * count)


def next_stock(stock: jax.Array, reward: jax.Array, discount: float, scale: float) -> jax.Array:
    """Return the stock after a reward; `discount` is gamma."""
    bound = _BOUND * scale
    return jnp.clip((stock + reward) / discount, -bound, bound)


def stock_spec(spec: EnvSpec) -> EnvSpec:
    """Return the spec of a task with the features of the stock in its observation, a vector.

    Raises:
      UserError: the observation is one of finitely many numbers.
    """
    check_arrays(spec.observation, "agents with agent.objective")
    size = math.prod(spec.observation.shape)
    return spec._replace(observation=specs.Array((size + _FEATURES,), "float32", "observation"))


def join(observation: jax.Array, stock: jax.Array) -> jax.Array:
    """Join observations [*lead, ...] and stocks [*lead] to vectors [*lead, D + 1]."""
    flat = observation.reshape(*stock.shape, -1)
    flat = flat.astype(jnp.float32) / (255.0 if observation.dtype == jnp.uint8 else 1.0)
    return jnp.concatenate([flat, stock[..., None]], axis=-1)


def see_stock(network: Network, objective: Objective) -> Network:
    """Return the network of vectors [B, D + 1] whose q-values are E f(c + Z), by its quantiles."""

    def apply(params: Params, joined: jax.Array) -> Any:
        stock = joined[:, -1:]
        near = jnp.clip(stock / objective.scale, -3.0, 3.0)
        far = jnp.sign(stock) * jnp.log1p(jnp.abs(stock))
        output = network.apply(params, jnp.concatenate([joined[:, :-1], near, far], axis=1))
        return output._replace(q_values=expected_utility(objective, stock, output.quantiles))

    return Network(network.init, apply)


def expected_utility(objective: Objective, stock: jax.Array, quantiles: jax.Array) -> jax.Array:
    """Return E f(c + Z) [B, A] of stocks [B, 1] and quantiles [B, N, A]."""
    return jnp.mean(objective.utility(stock[:, :, None] + quantiles), axis=1)


def with_stock(
    inner: Agent,
    objective: Objective,
    *,
    discount: float,
    return_range: tuple[float, float] | None,
) -> Agent:
    """Return an agent that keeps the stock for one whose network sees it.

    In training c_0 is uniform over minus the range of returns if it is not fixed. An evaluation
    then starts at the c_0 with the largest -c_0 + max_a E f(c_0 + Z).

    Args:
      inner: the agent, with `see_stock`.
      objective: the objective.
      discount: gamma, per step.
      return_range: as in `read_objective`.
    """
    low, high = (0.0, 0.0) if return_range is None else return_range
    assert inner.values is not None
    read = inner.values

    def begin(params: Params, inputs: ActInput, memory: Memory, evaluate: bool) -> jax.Array:
        count = inputs.is_first.shape[0]
        if objective.start is not None:
            return jnp.full(count, objective.start, jnp.float32)
        if not evaluate:
            key = jax.random.fold_in(inputs.key, 1)
            return -jax.random.uniform(key, (count,), jnp.float32, low, high)
        starts = -jnp.linspace(low, high, _STARTS)

        def gain(start: jax.Array) -> jax.Array:
            seen = join(inputs.observation, jnp.full(count, start))
            q_values = read(params, seen, memory, inputs.is_first).q_values
            return jnp.max(q_values, axis=-1) - start

        return starts[jnp.argmax(jax.vmap(gain)(starts), axis=0)]

    def act(params: Params, inputs: ActInput, *, evaluate: bool = False) -> ActorOutput:
        memory: StockMemory = inputs.memory
        later = next_stock(memory.stock, inputs.reward, discount, objective.scale)
        first = begin(params, inputs, memory.inner, evaluate)
        stock = jnp.where(inputs.is_first, first, later)
        seen = inputs._replace(observation=join(inputs.observation, stock), memory=memory.inner)
        output = inner.act(params, seen, evaluate=evaluate)
        carried, stored = (
            StockMemory(stock, output.memory),
            StockBehaviour(stock, output.behaviour),
        )
        return ActorOutput(output.action, carried, stored)

    def learn(
        state: LearnerState, batch: Batch, key: jax.Array
    ) -> tuple[LearnerState, LearnOutput]:
        steps, behaviour = batch.steps, batch.steps.behaviour
        seen = join(steps.observation, behaviour.stock)
        steps = steps._replace(observation=seen, behaviour=behaviour.inner)
        return inner.learn(state, batch._replace(steps=steps), key)

    def values(params: Params, observation: Any, memory: StockMemory, is_first: Any) -> Any:
        return read(params, join(observation, memory.stock), memory.inner, is_first)

    return inner._replace(
        initial_memory=lambda size: StockMemory(jnp.zeros(size), inner.initial_memory(size)),
        act=act,
        learn=learn,
        values=values,
        sees=("reward", *inner.sees),
        score=objective.score,
    )

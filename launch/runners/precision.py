"""Precision of the matrix products in an agent's networks and losses."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from bellmax.agents import Agent


def with_precision(agent: Agent, precision: str) -> Agent:
    """Return the agent with a given precision of float32 matrix products and convolutions.

    Args:
      agent: the agent; the returned one has the same functions with the same arguments.
      precision: `default`, `high` or `highest`, of `jax.default_matmul_precision`. On a TPU they
        multiply in one, three and six passes of bfloat16. On a GPU `default` and `high` may use
        TF32, and `highest` is float32. A CPU always computes in float32.
    """
    if precision == "default":  # jax's own setting, which a user may have changed
        return agent
    wrap = functools.partial(_at_precision, precision)
    return agent._replace(
        act=wrap(agent.act),
        learn=wrap(agent.learn),
        observe=wrap(agent.observe),
        prepare=wrap(agent.prepare),
        values=wrap(agent.values),
    )


def _at_precision(precision: str, function: Callable[..., Any] | None) -> Any:
    if function is None:
        return None

    @functools.wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return function(*arguments, **options)

    return wrapped

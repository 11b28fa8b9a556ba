"""Checks of agents and losses of the user's own, when they are traced.

A mistake becomes one sentence with the file and line of the user's code. The checks compare shapes
and structures only: they cost nothing in the compiled program.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bellmax import UserError, must
from bellmax.agents.shared.base import (
    ActInput,
    ActorOutput,
    Agent,
    Batch,
    LearnerState,
    LearnOutput,
)
from bellmax.envs import EnvSpec
from bellmax.envs.errors import in_a_sentence, place

# Fields of an Agent that are called while programs are traced, in addition to `act` and `learn`.
_OTHERS = ("init", "actor_params", "initial_memory", "observe", "prepare", "values")


def check_fields(
    output: Any,
    kind: type,
    shapes: Mapping[str, tuple[int, ...]],
    function: Callable[..., Any],
    *,
    hint: str = "",
) -> None:
    """Check the output of a user's function: its type, and the shapes of its fields.

    Args:
      output: what the function returned.
      kind: the named tuple that it must return.
      shapes: field -> shape.
      function: the user's function, for its file and line.
      hint: end of the sentence about a wrong shape.

    Raises:
      UserError: the type or a shape differs; the sentence has both shapes.
    """
    where = place(function)
    if not isinstance(output, kind):
        fields = ", ".join(f"{name} {_show(shape)}" for name, shape in shapes.items())
        allowed = f"{_a(kind)} with {fields}"
        raise UserError(must(f"the function{where}", allowed, describe(output), verb="return"))
    for name, shape in shapes.items():
        what = f"{kind.__name__}.{name} of the function"
        check_array(getattr(output, name), shape, function, what=what, hint=hint)


def check_array(
    value: Any,
    shape: tuple[int, ...],
    function: Callable[..., Any],
    *,
    what: str = "the output of the function",
    hint: str = "",
) -> None:
    """Raise UserError unless what a user's function returned has a shape."""
    if not _is_array(value) or jnp.shape(value) != shape:
        allowed = f"of shape {_show(shape)}"
        raise UserError(must(f"{what}{place(function)}", allowed, describe(value), hint))


def guard(name: str, make_agent: Callable[..., Any]) -> Callable[..., Agent]:
    """Return a user's `make_agent` whose agents turn mistakes into UserErrors.

    Args:
      name: `module.path:make_agent`.
      make_agent: (config, env_spec) -> Agent.
    """

    @functools.wraps(make_agent)
    def make(config: Any, spec: EnvSpec) -> Agent:
        with in_a_sentence(f"agent.name: {name} cannot be made", place(make_agent)):
            agent = make_agent(config, spec)
        if not isinstance(agent, Agent):
            found, where = describe(agent), place(make_agent)
            raise UserError(must(f"agent.name: {name}{where}", "an Agent", found, verb="return"))

        def guarded(field: str, function: Any = None) -> Callable[..., Any]:
            function = function or getattr(agent, field)

            @functools.wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                start = f"agent.name: `{field}` of {name} failed"
                with in_a_sentence(start, place(make_agent)):
                    return function(*args, **kwargs)

            return call

        others = {field: guarded(field) for field in _OTHERS if getattr(agent, field) is not None}
        act = _checked_act(guarded("act"), agent.act, spec)
        learn = _checked_learn(guarded("learn"), agent.learn)
        schedules = {key: guarded(key, value) for key, value in agent.schedules.items()}
        return agent._replace(act=act, learn=learn, schedules=schedules, **others)

    return make


def _checked_act(act: Any, own: Any, spec: EnvSpec) -> Any:
    @functools.wraps(act)
    def checked(params: Any, inputs: ActInput, *, evaluate: bool = False) -> ActorOutput:
        output = act(params, inputs, evaluate=evaluate)
        shape = *inputs.is_first.shape, *spec.action.shape
        check_fields(output, ActorOutput, {"action": shape}, own)
        return output

    return checked


def _checked_learn(learn: Any, own: Any) -> Any:
    @functools.wraps(learn)
    def checked(state: LearnerState, batch: Batch, key: jax.Array) -> tuple[Any, LearnOutput]:
        result = learn(state, batch, key)
        field = f"`learn`{place(own)}"
        if not (isinstance(result, tuple) and len(result) == 2):
            allowed = "(LearnerState, LearnOutput)"
            raise UserError(must(field, allowed, describe(result), verb="return"))
        after, output = result
        if not isinstance(after, LearnerState) or _layout(after) != _layout(state):
            allowed = "a LearnerState with the structure, shapes and dtypes of the one it gets"
            found = _first_difference(state, after)
            raise UserError(must(field, allowed, found, verb="return"))
        check_fields(output, LearnOutput, {"priorities": batch.weights.shape}, own)
        check_metrics(output.metrics, own, needed="loss")
        return after, output

    return checked


def check_metrics(metrics: Any, function: Callable[..., Any], *, needed: str = "") -> None:
    """Raise UserError unless metrics map names to numbers, and have the name `needed`."""
    where = place(function)
    if not isinstance(metrics, Mapping) or (needed and needed not in metrics):
        allowed = "a dict of numbers by name" + (f", with {needed!r}" if needed else "")
        given = f"a dict with {', '.join(map(repr, metrics)) or 'nothing'}"
        got = given if isinstance(metrics, Mapping) else describe(metrics)
        raise UserError(must(f"metrics of the function{where}", allowed, got))
    for name, value in metrics.items():
        if not _is_array(value) or jnp.shape(value):
            what = f"the metric {name!r} of the function{where}"
            raise UserError(must(what, "one number", describe(value)))


def describe(value: Any) -> str:
    """Return what a value is, for a message: dtype and shape of an array, else its type."""
    if _is_array(value):
        return f"{jnp.result_type(value)} of shape {_show(jnp.shape(value))}"
    return "None" if value is None else _a(type(value))


def _a(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOaeio' else 'a'} {kind.__name__}"


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") or isinstance(value, bool | int | float)


def _show(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _layout(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(x), jnp.result_type(x)) for x in leaves]


def _first_difference(before: Any, after: Any) -> str:
    if not isinstance(after, LearnerState):
        return describe(after)
    for field, old, new in zip(before._fields, before, after, strict=True):
        olds, news = (jax.tree_util.tree_leaves_with_path(x) for x in (old, new))
        if jax.tree.structure(old) != jax.tree.structure(new):
            return f"another structure of {field}"
        for (path, x), (_, y) in zip(olds, news, strict=True):
            if _layout(x) != _layout(y):
                leaf = f"{field}{jax.tree_util.keystr(path)}"
                return f"{leaf} as {describe(y)}, which was {describe(x)}"
    return "another structure"

"""Environments that a factory of the user's own makes, named `module.path:factory`.

It returns a JAX environment, a host environment, or an environment object of a suite, which the
suite's adapter takes.
"""

import contextlib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from bellmax import UserError, must
from bellmax.envs.adapters.dm_env import from_dm_env
from bellmax.envs.adapters.gymnasium import from_gymnasium
from bellmax.envs.base import EnvSpec
from bellmax.envs.errors import making
from bellmax.envs.host.base import HostEnvironment
from bellmax.envs.options import check_arguments, load_callable, nearest

# Arguments of `from_gymnasium`, which options of a task may have too.
_OF_ADAPTER = ("observation_key", "action_mask")
# JAX suites whose environment objects an adapter takes.
_SUITES = ("gymnax", "brax", "craftax", "jumanji", "navix", "pgx", "playground", "xminigrid")
_PACKAGES = {"playground": "mujoco_playground"}  # of suites whose name is another
# What an environment of each kind has besides reset and step, see `kind_of`.
_MEMBERS = {
    "gymnasium": ("observation_space", "action_space"),
    "dm_env": ("observation_spec", "action_spec"),
}


def _load(name: str) -> Callable[..., Any]:
    return load_callable(name, "env.name", "makes an environment")


def call(name: str, options: dict[str, Any]) -> Any:
    """Call the user's factory after checking the names of its options.

    Raises:
      UserError: the factory raises an exception, or returns no environment; the message names the
        file and line in the user's code.
    """
    factory = _load(name)
    options = _of_factory(factory, options)
    check_arguments(name, factory, options)
    with making(name, options):
        made = from_suite(factory(**options))
        if not kind_of(made):
            raise UserError(
                must(
                    name,
                    "an Environment with spec, reset and step, a gymnasium.Env or a "
                    "dm_env.Environment",
                    f"{_kind_in_words(made)}{_hint(made)}",
                    verb="return",
                )
            )
    return made


def _of_factory(factory: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options without those of Gymnasium's adapter that the factory has no argument for."""
    parameters = _parameters(factory)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return options
    return {k: v for k, v in options.items() if k in parameters or k not in _OF_ADAPTER}


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """The parameters of a factory by name; None if it has no signature, as some builtins."""
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return None


def from_suite(made: Any) -> Any:
    """Return an environment object of a JAX suite in that suite's adapter.

    Args:
      made: an object, or (environment, params) as gymnax.make returns. Objects of other packages
        are returned unchanged.

    Raises:
      UserError: the adapter does not take it.
    """
    env, *params = made if type(made) is tuple and len(made) == 2 else (made,)
    packages = _packages(env)
    if isinstance(getattr(env, "spec", None), EnvSpec):
        return made
    for suite in _SUITES:
        if _PACKAGES.get(suite, suite) in packages:
            adapter = importlib.import_module(f"bellmax.envs.adapters.{suite}")
            return getattr(adapter, f"from_{suite}")(env, *params)
    return made


def kind_of(made: Any) -> str:
    """Kind of an environment: `jax`, `host`, `gymnasium`, `dm_env`, or an empty string if unknown.

    It is recognised by its attributes, so its package need not be installed.
    """

    def has(*members: str) -> bool:
        return all(hasattr(made, member) for member in members)

    if isinstance(made, type) or not has("reset", "step"):
        return ""
    if not isinstance(getattr(made, "spec", None), EnvSpec):
        if "gym" in _packages(made):
            return ""
        for kind, members in _MEMBERS.items():
            if has(*members):
                return kind
        if getattr(made, "spec", None) is None or "gymnasium" in _packages(made):
            return ""
    return "jax" if _is_pure(made) else "host"


def make_host(name: str, options: dict[str, Any], *, render: bool = False) -> HostEnvironment:
    """Make the user's own environment as a HostEnvironment.

    Args:
      name: `module.path:factory`.
      options: arguments of the factory.
      render: whether to set the factory's argument `render_mode`, if it has one, to "rgb_array".
    """
    if render and "render_mode" in (_parameters(_load(name)) or {}):
        options = {"render_mode": "rgb_array", **options}
    made = call(name, options)
    kind = kind_of(made)
    if kind == "jax":  # `is_host` was not asked, because of a timeout
        allowed = f"left out for {name}, a JAX environment"
        raise UserError(must("env.timeout", allowed, "one", "only host environments have one"))
    if kind == "gymnasium":
        ours = options.keys() - _of_factory(_load(name), options).keys()
        return from_gymnasium(made, name, **{key: options[key] for key in ours})
    if kind == "dm_env":
        close(made)  # `from_dm_env` calls the factory again for every seed
        with making(name, options):
            return from_dm_env(
                functools.partial(
                    load_callable(name, "env.name", "makes an environment"), **options
                ),
                name,
            )
    return made


def close(made: Any) -> None:
    """Close an environment and ignore its exceptions."""
    with contextlib.suppress(Exception, SystemExit):
        made.close()


def _is_pure(made: Any) -> bool:
    """Whether `step` is that of a JAX environment: (state, action, key) and not (action)."""
    try:
        parameters = inspect.signature(made.step).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return not (hasattr(made, "render") and hasattr(made, "close"))
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return not (hasattr(made, "render") and hasattr(made, "close"))
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters) != 1


def _packages(made: Any) -> set[str]:
    """The packages that the environment's classes come from."""
    return {cls.__module__.partition(".")[0] for cls in type(made).__mro__}


def _kind_in_words(made: Any) -> str:
    if isinstance(made, type):
        return f"the class {made.__name__}"
    return "None" if made is None else f"a {type(made).__name__}"


def _hint(made: Any) -> str:
    """What to change so that `kind_of` recognises an object."""
    if made is None:
        return "; does the factory lack a `return`"
    if isinstance(made, type):
        return f"; return an instance, {made.__name__}()"
    if "gym" in _packages(made):
        return "; it is of the package gym, derive it from gymnasium.Env"
    needed = ["reset", "step", *(m for members in _MEMBERS.values() for m in members), "spec"]
    names = [name for name in dir(made) if not name.startswith("_") and name not in needed]
    for member in needed:
        near = nearest(member, names, least=0.85)
        if near and not hasattr(made, member):
            return f" with {near!r}; did you mean {member}?"
    if "gymnasium" in _packages(made):
        lacks = [m for m in _MEMBERS["gymnasium"] if not hasattr(made, m)]
        return f" without {' and '.join(lacks)}; set them in __init__"
    return ""

"""Environments that a factory of the user's own makes, named `module.path:factory`."""

import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import Any

from bellmax import UserError
from bellmax.envs.adapters.dm_env import from_dm_env
from bellmax.envs.adapters.gymnasium import from_gymnasium
from bellmax.envs.host.base import HostEnvironment
from bellmax.envs.options import check_arguments, suggest


def load_factory(name: str) -> Callable[..., Any]:
    """Import the callable `module.path:factory`; UserError if there is none."""
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"environment {name!r} needs the module {error.name!r}; install it or add its folder "
            "to PYTHONPATH"
        ) from error
    except ValueError as error:
        raise UserError(
            f"env.name must be of the form module.path:factory, got {name!r}"
        ) from error
    factory: Any = getattr(module, attribute, None)
    if not callable(factory):
        raise UserError(
            f"module {module_name!r} has no callable {attribute!r}"
            f"{suggest(attribute, [n for n in vars(module) if not n.startswith('_')])}"
        )
    return factory


def call(name: str, options: dict[str, Any]) -> Any:
    """Call the user's factory after checking the names of its options."""
    factory = load_factory(name)
    check_arguments(name, factory, options)
    made = factory(**options)
    if not kind_of(made):
        raise UserError(
            f"{name} must return an Environment with spec, reset and step, a gymnasium.Env or a "
            f"dm_env.Environment, got a {type(made).__name__}"
        )
    return made


def kind_of(made: Any) -> str:
    """Kind of an environment: `jax`, `host`, `gymnasium`, `dm_env`, or an empty string if unknown.

    It is recognised by its attributes, so its package need not be installed.
    """

    def has(*members: str) -> bool:
        return all(hasattr(made, member) for member in members)

    if not has("reset", "step"):
        return ""
    if has("observation_space", "action_space"):
        return "gymnasium"
    if has("observation_spec", "action_spec"):
        return "dm_env"
    if not has("spec"):
        return ""
    return "host" if has("render", "close") else "jax"


def make_host(name: str, options: dict[str, Any]) -> HostEnvironment:
    """Make the user's own environment as a HostEnvironment."""
    made = call(name, options)
    kind = kind_of(made)
    if kind == "gymnasium":
        return from_gymnasium(made, name)
    if kind == "dm_env":
        close(made)  # `from_dm_env` calls the factory again for every seed
        return from_dm_env(functools.partial(load_factory(name), **options), name)
    return made


def close(made: Any) -> None:
    """Close an environment and ignore its exceptions."""
    with contextlib.suppress(Exception):
        made.close()

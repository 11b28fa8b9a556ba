"""Environments by name: `bellmax/<Task>`, `<suite>/<Task>` of an extra, `module.path:factory`."""

import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from bellmax import UserError
from bellmax.envs.base import Environment

# Modules are imported when asked for: naming the tasks costs nothing.
_OWN = {
    "bellmax/CartPole": ("bellmax.envs.cartpole", "CartPole"),
    "bellmax/Catch": ("bellmax.envs.catch", "Catch"),
    "bellmax/DeepSea": ("bellmax.envs.deepsea", "DeepSea"),
    "bellmax/NoisyGrid": ("bellmax.envs.noisy_tv", "NoisyGrid"),
    "bellmax/Pendulum": ("bellmax.envs.pendulum", "Pendulum"),
    "bellmax/PixelCatch": ("bellmax.envs.pixel_catch", "PixelCatch"),
    "bellmax/TwoStateChain": ("bellmax.envs.tabular", "TwoStateChain"),
}
# Each has an extra and an adapter of its name, and writes its tasks so.
_SUITES = {"gymnax": "<Task>", "brax": "<task>", "craftax": "<Task>", "xminigrid": "<Task>"}


def make(name: str, **options: Any) -> Environment:
    """The environment of that name.

    Args:
      name: `bellmax/<Task>`; `gymnax/<Task>`, `brax/<task>`, `craftax/<Task>` or
        `xminigrid/<Task>` (need the extra of that name); or `module.path:factory`, a callable of
        yours that takes the options and returns an Environment.
      **options: what the task's factory takes, by name.

    Raises:
      UserError: no such name or option, or something that it needs is not installed.
    """
    if name in _OWN:
        module, attribute = _OWN[name]
        return _call(name, getattr(importlib.import_module(module), attribute), options)
    suite, _, task = name.partition("/")
    if suite in _SUITES and task:
        return importlib.import_module(f"bellmax.envs.{suite}_adapter").make(task, **options)
    if ":" in name:
        return _call(name, _load_factory(name), options)
    written = ", ".join(f"`{suite}/{task}`" for suite, task in _SUITES.items())
    raise UserError(
        f"There is no environment {name!r}{suggest(name, list_names())}; "
        f"{written} and `module.path:factory` work too."
    )


def list_names(*, with_gymnax: bool = False) -> list[str]:
    """Names that `make` takes.

    Args:
      with_gymnax: adds gymnax's own if it is installed, which imports it (5 seconds). Otherwise
        `gymnax/<Task>` stands for all of them. So do `brax/<task>`, `craftax/<Task>` and
        `xminigrid/<Task>` for theirs, each if it is installed.
    """
    names = sorted(_OWN)
    for suite, task in _SUITES.items():
        if importlib.util.find_spec(suite) is None:
            continue
        if suite == "gymnax" and with_gymnax:
            from bellmax.envs import gymnax_adapter

            names += [f"gymnax/{task}" for task in gymnax_adapter.list_tasks()]
        else:
            names.append(f"{suite}/{task}")
    return names


def suggest(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?`-like half of a sentence, or the empty string."""
    lower = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    if not nearest:  # `CartPole` for `bellmax/CartPole`
        nearest = [full for full in lower if full.split("/")[-1] == word.lower()][:1]
    return f", did you mean {lower[nearest[0]]!r}" if nearest else ""


def check_parameters(task: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises UserError if one of `names` is no parameter of the task; `known` are all."""
    _check_names(f"{task} has no parameter", names, known, "it has")


def check_options(task: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises UserError if one of `names` is no option of the task; `known` are all."""
    _check_names(f"{task} has no option", names, known, "it takes")


def _check_names(lacks: str, names: Iterable[str], known: Iterable[str], has: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise UserError(f"{lacks} {name!r}{suggest(name, known)}; {has} {listed}.")


def _load_factory(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"The environment {name!r} needs the module {error.name!r}, which Python cannot find; "
            "install it or add its folder to PYTHONPATH."
        ) from error
    except ValueError as error:
        raise UserError(f"{name!r} is not of the form module.path:factory.") from error
    factory: Any = getattr(module, attribute, None)
    if not callable(factory):
        raise UserError(
            f"The module {module_name!r} has no callable {attribute!r}"
            f"{suggest(attribute, [n for n in vars(module) if not n.startswith('_')])}."
        )
    return factory


def _call(name: str, factory: Callable[..., Any], options: dict[str, Any]) -> Environment:
    """Calls the factory after its options were checked by name."""
    _check_options(name, factory, options)
    env = factory(**options)
    if any(not hasattr(env, member) for member in ("spec", "reset", "step")):
        raise UserError(
            f"{name} returned a {type(env).__name__}, not an Environment with spec, reset and step."
        )
    return env


def _check_options(name: str, factory: Callable[..., Any], options: dict[str, Any]) -> None:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # some builtins do not say what they take
        return
    kinds = {p.kind for p in parameters}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    allowed = [p.name for p in named]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        check_options(name, options, allowed)
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise UserError(f"{name} needs the option {parameter.name!r}.")

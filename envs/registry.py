"""Environments by name: `bellmax/<Task>`, `<suite>/<Task>` of an extra, `module.path:factory`.

`make` makes JAX environments, `make_batch` host environments; `is_host` tells which a name is.
"""

import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bellmax import UserError

if TYPE_CHECKING:
    from bellmax.envs.base import Environment
    from bellmax.envs.host.base import HostBatch, HostEnvironment

# Modules are imported on first use: listing the tasks imports none.
_OWN = {
    "bellmax/CartPole": ("bellmax.envs.tasks.cartpole", "CartPole"),
    "bellmax/Catch": ("bellmax.envs.tasks.catch", "Catch"),
    "bellmax/DeepSea": ("bellmax.envs.tasks.deepsea", "DeepSea"),
    "bellmax/NoisyGrid": ("bellmax.envs.tasks.noisy_grid", "NoisyGrid"),
    "bellmax/Pendulum": ("bellmax.envs.tasks.pendulum", "Pendulum"),
    "bellmax/PixelCatch": ("bellmax.envs.tasks.pixel_catch", "PixelCatch"),
    "bellmax/TwoStateChain": ("bellmax.envs.tasks.tabular", "TwoStateChain"),
}
# JAX suites and the form of their task names; each has an extra and an adapter of the same name.
_SUITES = {"gymnax": "<Task>", "brax": "<task>", "craftax": "<Task>", "xminigrid": "<Task>"}
# The same for suites of host environments, and packages whose name differs from the suite's.
HOST_SUITES = {
    "ale": "<Game>",
    "bsuite": "<id>/<number>",
    "dm_control": "<domain>-<task>",
    "envpool": "<Task>",
    "gymnasium": "<Task>",
    "minigrid": "<Task>",
}
_PACKAGES = {"ale": "ale_py"}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_POOLS = ("ale", "envpool")  # adapters that make batches; the others make single tasks


def make(name: str, **options: Any) -> "Environment":
    """The pure-JAX environment of that name.

    Args:
      name: `bellmax/<Task>`; `gymnax/<Task>`, `brax/<task>`, `craftax/<Task>` or `xminigrid/<Task>`
        (need the extra of that name); or `module.path:factory`, your own callable that takes the
        options and returns an Environment.
      **options: keyword arguments of the task's factory.

    Raises:
      UserError: no such name or option, a dependency is not installed, or it is a host
        environment.
    """
    if name in _OWN:
        module, attribute = _OWN[name]
        factory = getattr(importlib.import_module(module), attribute)
        _check_factory_options(name, factory, options)
        check_types(options, defaults_of(factory))
        return factory(**options)
    suite, _, task = name.partition("/")
    if suite in _SUITES and task:
        return importlib.import_module(f"bellmax.envs.adapters.{suite}").make(task, **options)
    if suite in HOST_SUITES and task:
        raise _not_jax(name)
    if ":" in name:
        made = _call(name, options)
        if kind_of(made) != "jax":
            _close(made)
            raise _not_jax(name)
        return made
    raise _unknown(name)


def is_host(name: str, **options: Any) -> bool:
    """Whether the name is a host environment, which `make_batch` makes.

    A `module.path:factory` is called to inspect what it returns.

    Raises:
      UserError: no such name, or no such option of the user's own factory.
    """
    suite, _, task = name.partition("/")
    if task and (name in _OWN or suite in _SUITES or suite in HOST_SUITES):
        return suite in HOST_SUITES
    if ":" not in name:
        raise _unknown(name)
    made = _call(name, options)
    if kind_of(made) == "jax":
        return False
    _close(made)
    return True


def is_pool(name: str) -> bool:
    """Whether host environments of that name step in their package's thread pool."""
    return name.partition("/")[0] in _POOLS


def make_batch(
    name: str,
    num_envs: int,
    *,
    time_limit: int | None = None,
    timeout: float | None = None,
    render: bool = False,
    **options: Any,
) -> "HostBatch":
    """Make a batch of host environments.

    Args:
      name: of a suite in `HOST_SUITES`, which needs the extra of that name; or
        `module.path:factory`, your own callable that takes the options and returns a
        gymnasium.Env, a dm_env.Environment or a HostEnvironment.
      num_envs: N >= 1.
      time_limit: truncates episodes after this number of steps, 1 or more; the task's own limit
        applies if it is shorter.
      timeout: seconds that a reset or step may take, above 0; each task then runs in its own
        process.
      render: whether the tasks can draw pictures; ignored for your own factory.
      **options: keyword arguments of the task's factory.

    Raises:
      UserError: no such name or option, an argument is out of range, a dependency is not
        installed, or it is a JAX environment.
    """
    suite, _, task = name.partition("/")
    if suite in HOST_SUITES and task:
        adapter = importlib.import_module(f"bellmax.envs.adapters.{suite}")
        if is_pool(name):
            limits = {"time_limit": time_limit, "timeout": timeout}
            return adapter.make_batch(task, num_envs, **limits, render=render, **options)
        make_one = functools.partial(adapter.make, task, render=render, **options)
    elif is_host(name, **options):
        make_one = functools.partial(_make_users, name, options)
    else:
        raise UserError(f"{name} is a JAX environment; make it with bellmax.envs.make")
    from bellmax.envs.host.loop import LoopBatch

    return LoopBatch(make_one, num_envs, time_limit=time_limit, timeout=timeout)


def list_names(*, with_gymnax: bool = False) -> list[str]:
    """Names that `make` and `make_batch` take.

    Args:
      with_gymnax: whether to list gymnax's tasks if it is installed, which imports it (5 seconds).
        Otherwise `gymnax/<Task>` stands for all of them. Of every other installed suite one pattern
        is listed, such as `brax/<task>` or `gymnasium/<Task>`.
    """
    names = sorted(_OWN)
    for suite, task in {**_SUITES, **HOST_SUITES}.items():
        if importlib.util.find_spec(_PACKAGES.get(suite, suite)) is None:
            continue
        if suite == "gymnax" and with_gymnax:
            from bellmax.envs.adapters import gymnax as gymnax_adapter

            names += [f"gymnax/{task}" for task in gymnax_adapter.list_tasks()]
        else:
            names.append(f"{suite}/{task}")
    return names


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module that the given extra installs.

    Raises:
      UserError: the module or one of its dependencies is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f'{error.name} is not installed: pip install "bellmax[{extra}]"') from error


def suggest(word: str, known: Iterable[str]) -> str:
    """The text `, did you mean 'x'` with the closest known name, or an empty string."""
    lower = {name.lower(): name for name in known}
    nearest = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.5)
    if not nearest:  # `CartPole` for `bellmax/CartPole`
        nearest = [full for full in lower if full.split("/")[-1] == word.lower()][:1]
    return f", did you mean {lower[nearest[0]]!r}" if nearest else ""


def check_parameters(task: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises UserError if one of `names` is not in `known`, the task's parameters."""
    _check_names(f"{task} has no parameter", names, known, "it has")


def check_options(task: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises UserError if one of `names` is not in `known`, the task's options."""
    _check_names(f"{task} has no option", names, known, "it takes")


def check_types(options: Mapping[str, Any], nominal: Mapping[str, Any]) -> None:
    """Raises UserError if the type of an option differs from the type of its nominal value.

    Only types of YAML are checked; other types, such as arrays, are accepted.
    """
    for name, value in options.items():
        kind, given = type(nominal.get(name)), type(value)
        # An int is accepted as a float, as YAML may read one; no other type is converted.
        if {kind, given} <= {*_KINDS} and given is not kind and (kind, given) != (float, int):
            raise UserError(f"{name} must be {_KINDS[kind]}, got {value!r}")


def defaults_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """Default values of a factory's arguments, by name."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _check_names(lacks: str, names: Iterable[str], known: Iterable[str], has: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise UserError(f"{lacks} {name!r}{suggest(name, known)}; {has} {listed}")


def _load_factory(name: str) -> Callable[..., Any]:
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


def _call(name: str, options: dict[str, Any]) -> Any:
    """Call the user's factory after checking the names of its options."""
    factory = _load_factory(name)
    _check_factory_options(name, factory, options)
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


def _make_users(name: str, options: dict[str, Any]) -> "HostEnvironment":
    """Make the user's own environment as a HostEnvironment."""
    made = _call(name, options)
    kind = kind_of(made)
    if kind == "gymnasium":
        from bellmax.envs.adapters.gymnasium import from_gymnasium

        return from_gymnasium(made, name)
    if kind == "dm_env":
        from bellmax.envs.adapters.dm_env import from_dm_env

        _close(made)  # `from_dm_env` calls the factory again for every seed
        return from_dm_env(functools.partial(_load_factory(name), **options), name)
    return made


def _close(made: Any) -> None:
    with contextlib.suppress(Exception):
        made.close()


def _not_jax(name: str) -> UserError:
    return UserError(f"{name} is a host environment; make it with bellmax.envs.make_batch")


def _unknown(name: str) -> UserError:
    suites = {**_SUITES, **HOST_SUITES}
    written = ", ".join(f"`{suite}/{task}`" for suite, task in suites.items())
    return UserError(
        f"there is no environment {name!r}{suggest(name, list_names())}; "
        f"other forms are {written} and `module.path:factory`"
    )


def _check_factory_options(name: str, factory: Callable[..., Any], options: dict[str, Any]) -> None:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # some builtins have no signature
        return
    kinds = {p.kind for p in parameters}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    allowed = [p.name for p in named]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        check_options(name, options, allowed)
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise UserError(f"{name} needs the option {parameter.name!r}")

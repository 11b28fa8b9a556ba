"""Environments by name: `bellmax/<Task>`, `<suite>/<Task>` of an extra, `module.path:factory`.

`make` makes JAX environments, `make_batch` host environments; `is_host` tells which a name is.
"""

import functools
import importlib
import importlib.util
import re
from typing import TYPE_CHECKING, Any

from bellmax import UserError
from bellmax.envs.options import check_arguments, check_integers, check_types, defaults_of, unknown

if TYPE_CHECKING:
    from bellmax.envs.base import Environment
    from bellmax.envs.host.base import HostBatch

# Modules are imported on first use: listing the tasks imports none.
_OWN = tuple(
    f"bellmax/{task}"
    for task in (
        *("CartPole", "Catch", "DeepSea", "Gamble", "NoisyGrid"),
        *("Pendulum", "PixelCatch", "TicTacToe", "TwoStateChain"),
    )
)
# JAX suites and the form of their task names; each has an extra and an adapter of the same name.
_SUITES = {
    "gymnax": "<Task>",
    "brax": "<task>",
    "craftax": "<Task>",
    "jumanji": "<Task>",
    "navix": "<Task>",
    "pgx": "<game>",
    "playground": "<Task>",
    "xminigrid": "<Task>",
}
# The same for suites of host environments, and packages whose name differs from the suite's.
HOST_SUITES = {
    "ale": "<Game>",
    "bsuite": "<id>/<number>",
    "dm_control": "<domain>-<task>",
    "envpool": "<Task>",
    "gymnasium": "<Task>",
    "minigrid": "<Task>",
}
_PACKAGES = {"ale": "ale_py", "playground": "mujoco_playground"}
_POOLS = ("ale", "envpool")  # adapters that make batches; the others make single tasks


def make(name: str, **options: Any) -> "Environment":
    """The pure-JAX environment of that name.

    Args:
      name: `bellmax/<Task>`; `<suite>/<Task>` of a suite of JAX environments, such as
        `gymnax/<Task>`, which needs the extra of that name; or `module.path:factory`, your own
        callable that takes the options and returns an Environment.
      **options: keyword arguments of the task's factory.

    Raises:
      UserError: no such name or option, a dependency is not installed, or it is a host
        environment.
    """
    check_integers(name, options)
    if name in _OWN:
        own = getattr(importlib.import_module("bellmax.envs.tasks"), name.partition("/")[2])
        check_arguments(name, own, options)
        check_types(options, defaults_of(own))
        return own(**options)
    suite, _, task = name.partition("/")
    if suite in _SUITES and task:
        return importlib.import_module(f"bellmax.envs.adapters.{suite}").make(task, **options)
    if suite in HOST_SUITES and task:
        raise _not_jax(name)
    if ":" in name:
        from bellmax.envs.adapters import factory

        made = factory.call(name, options)
        if factory.kind_of(made) != "jax":
            factory.close(made)
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
    from bellmax.envs.adapters import factory

    made = factory.call(name, options)
    if factory.kind_of(made) == "jax":
        return False
    factory.close(made)
    return True


def is_own(name: str) -> bool:
    """Whether a name is `module.path:factory`, the user's own."""
    return ":" in name and name.partition("/")[0] not in (*_SUITES, *HOST_SUITES)


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
      render: whether the tasks can draw pictures. The argument `render_mode` of your own factory,
        if it has one, is then "rgb_array".
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
    elif (timeout is not None and is_own(name)) or is_host(name, **options):
        from bellmax.envs.adapters.factory import make_host

        make_one = functools.partial(make_host, name, options, render=render)
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
    names = list(_OWN)
    for suite, task in {**_SUITES, **HOST_SUITES}.items():
        if importlib.util.find_spec(_PACKAGES.get(suite, suite)) is None:
            continue
        if suite == "gymnax" and with_gymnax:
            from bellmax.envs.adapters import gymnax

            names += [f"gymnax/{task}" for task in gymnax.list_tasks()]
        else:
            names.append(f"{suite}/{task}")
    return names


def _not_jax(name: str) -> UserError:
    return UserError(f"{name} is a host environment; make it with bellmax.envs.make_batch")


def _unknown(name: str) -> UserError:
    if ours := _known_elsewhere(name):
        return UserError(f"unknown environment {name!r}; did you mean {ours}?")
    suites = {**_SUITES, **HOST_SUITES}
    forms = [f"{suite}/{task}" for suite, task in suites.items()]
    return unknown("environment", name, list_names(), [*forms, "module.path:factory"])


def _known_elsewhere(name: str) -> str | None:
    """Return our name of a task for one that another library gives it."""
    if atari := re.fullmatch(r"(?:ALE/)?(\w+?)(?:NoFrameskip|Deterministic)?-v[045]", name):
        game = f"ale/{atari[1]}"
        if name.startswith("ALE/") or "NoFrameskip" in name or "Deterministic" in name:
            return game
    suite, slash, task = name.partition("/")
    if slash and suite.lower() in ("gym", "gymnasium"):
        return f"gymnasium/{task}"
    if grid := re.fullmatch(r"MiniGrid-(.+?)(?:-v\d+)?", name):
        return f"minigrid/{grid[1]}"
    if "/" in name or importlib.util.find_spec("gymnasium") is None:
        return None
    import gymnasium

    return f"gymnasium/{name}" if name in gymnasium.registry else None

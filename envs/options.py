"""Options and parameters of tasks: their names and types, extras, and nearest names in messages."""

import contextlib
import difflib
import importlib
import importlib.metadata
import inspect
import pathlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import bellmax
from bellmax import UserError, must
from bellmax.envs.errors import import_own

_MOST_LISTED = 30  # names in a message
_LONGEST = 90  # characters of a name in a message
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module that the given extra installs.

    Raises:
      UserError: the module or one of its dependencies is not installed.
    """
    with needs_extra(extra):
        return importlib.import_module(module)


@contextlib.contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Tell how to install an extra if a module that is imported in the block is not installed.

    Raises:
      UserError: instead of ModuleNotFoundError.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: {install_command(extra)}") from error


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this installation.

    No package index has bellmax: in a clone its folder is named, elsewhere what the extra requires.
    """
    clone = pathlib.Path(bellmax.__file__).resolve().parents[2]
    if (clone / "pyproject.toml").is_file() and (clone / "src" / "bellmax").is_dir():
        return f'pip install "{clone}[{extra}]"'
    found = extra_requirements().get(extra, [])
    return f"pip install {' '.join(map(shlex.quote, found))}" if found else f"install {extra}"


def extra_requirements() -> dict[str, list[str]]:
    """Return what each extra of bellmax requires by its metadata, such as `gymnax>=1.0.1`."""
    try:
        lines = importlib.metadata.requires("bellmax") or []
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        lines = []
    extras: dict[str, list[str]] = {}
    for line in lines:
        if extra := re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", line):
            extras.setdefault(extra.group(1), []).append(line.partition(";")[0].strip())
    return extras


def load_callable(name: str, key: str, purpose: str) -> Callable[..., Any]:
    """Import the user's callable `module.path:name`.

    Args:
      name: of the callable.
      key: of the configuration, for messages.
      purpose: what it does, for messages, such as "makes an environment".

    Raises:
      UserError: there is no such module or callable, or the module raises an exception.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UserError(must(key, "of the form module.path:name", repr(name)))
    module = import_own(module_name, f"{key} {name!r}")
    found: Any = getattr(module, attribute, None)
    if found is None:
        names = [n for n in vars(module) if not n.startswith("_")]
        raise unknown("callable", attribute, names, of=f"module {module_name!r} in {key}")
    if not callable(found):
        raise UserError(
            must(
                f"{key} {name}", f"a function or class that {purpose}", f"a {type(found).__name__}"
            )
        )
    return found


def unknown(
    kind: str, word: str, choices: Iterable[str], instead: Iterable[str] = (), *, of: str = ""
) -> UserError:
    """Return the error for a name that is not among `choices`, with the nearest one.

    Args:
      kind: what the name is of, such as "preset".
      word: the name.
      choices: the known names.
      instead: what to list when none is near, by default the choices if they are few.
      of: what the name belongs to.
    """
    choices = list(choices)
    listed = list(instead) or (choices if len(choices) <= _MOST_LISTED else [])
    hint = did_you_mean(word, choices) or (f"choose from {', '.join(listed)}" if listed else "")
    shown = repr(word) if len(word) <= _LONGEST else f"{word[: _LONGEST - 3]!r}..."
    whose = f" of {of}" if of else ""
    return UserError(f"unknown {kind} {shown}{whose}" + (f"; {hint}" if hint else ""))


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `did you mean NAME?`, or "" where no choice is near."""
    near = nearest(word, choices)
    return f"did you mean {near}?" if near else ""


def nearest(word: str, known: Iterable[str], *, least: float = 0.6) -> str | None:
    """Return the known name most like `word`: by the whole, by its last part, or by initials.

    Case is ignored. A section is not near its own keys. `least`: the smallest likeness, in [0, 1].
    """
    word = word[:200]  # a longer one is near none, and slow to compare
    parts = "[.]" if "/" in word else "[./]"

    def likeness(name: str) -> float:
        whole = difflib.SequenceMatcher(None, word.lower(), name.lower()).ratio()
        last, tail = (re.split(parts, text.lower())[-1] for text in (word, name))
        initials = "".join(part[:1] for part in tail.split("_"))
        in_part = difflib.SequenceMatcher(None, last, tail).ratio() - 0.01
        return max(whole, in_part, 0.8 * (len(last) > 1 and last == initials))

    each = [(likeness(name), name) for name in known if not word.startswith(f"{name}.")]
    return max([(like, name) for like, name in each if like >= least], default=(0, None))[1]


def check_parameters(task: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises UserError if one of `names` is not in `known`, the task's parameters."""
    _check_names("parameter", names, known, task)


def check_unwrapped(
    env: Any,
    wrappers: str,
    what: str,
    hint: str = "return the environment itself, which bellmax resets and observes",
) -> None:
    """Raise UserError if an environment object is in a wrapper of its own package.

    Args:
      env: the object.
      wrappers: a part of the name of the package's module of wrappers.
      what: the kind of environment with its article, for the message.
      hint: what to do instead.
    """
    if any(wrappers in cls.__module__ for cls in type(env).__mro__):
        got = f"a {type(env).__name__}"
        raise UserError(must(what, "in a wrapper", got, hint, verb="not be"))


def check_options(task: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises UserError if one of `names` is not in `known`, the task's options."""
    _check_names("option", names, known, task)


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise UserError, with the nearest choice, if the value of an option is not among them."""
    choices = list(choices)
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise UserError(must(name, f"one of {', '.join(choices)}", repr(value), hint))


def check_types(options: Mapping[str, Any], nominal: Mapping[str, Any]) -> None:
    """Raises UserError if the type of an option differs from the type of its nominal value.

    Only types of YAML are checked; other types, such as arrays, are accepted.
    """
    for name, value in options.items():
        kind, given = type(nominal.get(name)), type(value)
        # An int is accepted as a float, as YAML may read one; no other type is converted.
        if {kind, given} <= {*_KINDS} and given is not kind and (kind, given) != (float, int):
            raise UserError(must(name, _KINDS[kind], repr(value)))


def check_integers(name: str, options: Mapping[str, Any]) -> None:
    """Raises UserError if an option of a JAX task is an integer that jax does not hold."""
    for option, value in options.items():
        if type(value) is int and not -(2**31) <= value < 2**31:
            field, allowed = f"env.options.{option} of {name}", "an integer of 32 bits"
            raise UserError(must(field, allowed, value, "jax has no larger ones"))


def defaults_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """Default values of a factory's arguments, by name."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def check_arguments(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raises UserError if a factory has no argument of an option's name, or needs another."""
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


def _check_names(kind: str, names: Iterable[str], known: Iterable[str], task: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise unknown(kind, name, known, known, of=task)

"""Points of a run: values of hyper-parameters that its learners differ in (`vmap`)."""

import collections
import dataclasses
import hashlib
import itertools
import math
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bellmax import UserError
from bellmax.agents import is_traceable
from bellmax.envs.options import unknown
from bellmax.launch.config.aliases import known_as
from bellmax.launch.config.fields import hints, section_type
from bellmax.launch.config.sentences import ConfigError, must, show

Point = dict[str, float]  # value by dotted key
Config = Any  # the RunConfig of run_config.py, which imports this module
MOST_LEARNERS = 65_536
_NAME_LENGTH = 120  # characters; file systems allow 255 bytes


def points_of(config: Config) -> list[Point]:
    """Return the points of a run: the product of the values, the last key's fastest.

    A run without `vmap` has one point without values.
    """
    return [dict(zip(config.vmap, each, strict=True)) for each in _product(config.vmap)]


def learners_of(config: Config) -> list[tuple[Point, int]]:
    """Return the point and the seed of each learner of a run, the seeds of a point together."""
    seeds = range(config.seed, config.seed + config.seeds)
    return [(point, seed) for point in points_of(config) for seed in seeds]


def point_name(values: Mapping[str, Any]) -> str:
    """Return the name of a point or run from its keys and values, safe in any shell and file."""
    lasts = collections.Counter(key.rpartition(".")[2] for key in values)
    words = []
    for key, value in values.items():
        last = key.rpartition(".")[2]
        text = "-".join(map(value_text, value)) if isinstance(value, list) else value_text(value)
        words.append(f"{last if lasts[last] == 1 else key}={text}")
    whole = ",".join(words) or "run"
    name = re.sub(r"[^A-Za-z0-9._+=,-]", "-", whole)
    if len(name) <= _NAME_LENGTH:
        return name
    return f"{name[: _NAME_LENGTH - 9]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def listed(names: Sequence[str]) -> str:
    """Return names with commas between them, at most ten."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} others" if len(names) > 10 else "")


def check_one_point(run: Path, config: Config) -> None:
    """Raise UserError for a run with `vmap`, of which one point must be named."""
    if config.vmap:
        names = [point_name(point) for point in points_of(config)]
        raise UserError(
            must(
                "RUN",
                "the folder of one point of vmap",
                str(run),
                hint=f"its points are in {run / 'policy'}: {listed(names)}",
            )
        )


def at_point(config: Config, point: Mapping[str, Any]) -> Config:
    """Return the configuration of a run with the values of a point alone; they may be traced."""
    for key, value in point.items():
        config = _replaced(config, key.split("."), value)
    return dataclasses.replace(config, vmap={})


def traceable_keys(agent: type) -> list[str]:
    """Return the dotted keys of an agent's configuration that are marked as traceable."""
    return _traceable(agent, "agent.")


def mistakes_in_points(config: Config, validate: Callable[[str, float], Any]) -> list[str]:
    """Return one line for each mistake in `vmap`.

    Args:
      config: a configuration whose other values are valid.
      validate: raises ConfigError if a value of a key is not allowed.
    """
    if not config.vmap:
        return []
    traceable = traceable_keys(type(config.agent))
    lines = [line for line in (_unknown_key(config, key, traceable) for key in config.vmap) if line]
    static = [key for key in config.vmap if key not in traceable]
    if static and not lines:
        allowed = f"of numbers that one program can vary ({', '.join(traceable) or 'none'})"
        hint = "`bellmax sweep` trains a run for each value"
        which = "is" if len(static) == 1 else "are"
        got = f"{', '.join(static)}, which {which} static"
        return [f"vmap must be {allowed}, got {got}; {hint}"]
    for key, values in config.vmap.items():
        if key in static:
            continue
        if len(set(values)) < max(len(values), 1):
            given = ",".join(map(str, values))
            lines.append(must(f"vmap.{key}", "one or more values that differ", given))
        for value in values:
            try:
                validate(key, value)
            except ConfigError as error:
                lines += str(error).splitlines()
    count = config.seeds * math.prod(map(len, config.vmap.values()))
    if count > MOST_LEARNERS:
        lines.append(must("vmap", f"at most {MOST_LEARNERS} learners, points times seeds", count))
    return list(dict.fromkeys(lines))


def _unknown_key(config: Config, key: str, traceable: Sequence[str]) -> str | None:
    section: Any = config
    for name in key.split("."):
        if not dataclasses.is_dataclass(section) or not hasattr(section, name):
            if ours := known_as(key, traceable):
                return f"unknown key {show(f'vmap.{key}')}; did you mean vmap.{ours}?"
            known = [f"vmap.{each}" for each in traceable]
            return str(unknown("key", f"vmap.{key}", known, known))
        section = getattr(section, name)
    return None


def _traceable(cls: type, prefix: str) -> list[str]:
    found = []
    for name, hint in hints(cls).items():
        if is_traceable(hint):
            found.append(f"{prefix}{name}")
        elif inner := section_type(hint):
            found += _traceable(typing.cast(type, inner), f"{prefix}{name}.")
    return found


def _product(values: Mapping[str, Sequence[float]]) -> list[tuple[float, ...]]:
    return list(itertools.product(*values.values()))


def _replaced(section: Any, path: Sequence[str], value: Any) -> Any:
    name, *rest = path
    inner = _replaced(getattr(section, name), rest, value) if rest else value
    return dataclasses.replace(section, **{name: inner})


def value_text(value: Any) -> str:
    """Return a value of a configuration as text, `null` and `true` as they would be typed."""
    return show(value) if value is None or isinstance(value, bool) else str(value)

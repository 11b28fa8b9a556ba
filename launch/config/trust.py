"""Code that a configuration names as `module:name`, and whether it may be imported.

A run's folder may come from someone else, and its configuration can name any function of any
module. Code named there is refused unless the user trusts the run or has named the same module in
the command. Presets and YAML files named by the user are trusted.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from bellmax.launch.config.overrides import flatten
from bellmax.launch.config.sentences import ConfigError, must

# Keys whose text is code if it has the form module:name, and keys whose text is always code.
_NAMES = ("env.name", "agent.name", "loggers")
_MODULES = ("agent.network.module", "agent.network.actor", "agent.network.critic")
# An option of some Gymnasium tasks is the name of another task.
_OPTIONS = ("env.options.", "agent.network.options.")
_CODE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.-]*", re.ASCII)
# Files next to the config.yaml of a run, but not next to other YAML files.
_OF_A_RUN = ("versions.json", "metrics.jsonl", "checkpoints", "policy")


def is_of_run(path: Path) -> bool:
    """Return whether a YAML file is the configuration in the folder of a run."""
    there = any((path.parent / name).exists() for name in _OF_A_RUN)
    return path.name == "config.yaml" and (there or any(path.parent.glob("seed-*.msgpack")))


def code_in(mapping: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the code, `module:name`, that a configuration names, by dotted key.

    Args:
      mapping: the configuration, nested or by dotted key, resolved or as typed.
    """
    found = {key: [*_code_of(key, value)] for key, value in flatten(mapping).items()}
    return {key: names for key, names in found.items() if names}


def modules_in(mapping: Mapping[str, Any]) -> set[str]:
    """Return the modules of the code that a configuration names; `mapping` as in `code_in`."""
    return {_module(name) for names in code_in(mapping).values() for name in names}


def check_trusted(mapping: Mapping[str, Any], where: str, modules: Collection[str]) -> None:
    """Raise ConfigError if a run's configuration names code of modules not in `modules`."""
    lines = [
        must(
            f"{key}{f' of {where}' if where else ''}",
            "trusted before its code is imported",
            name,
            hint="read that code, then add --trust (trust=True in Python)",
        )
        for key, names in code_in(mapping).items()
        for name in names
        if _module(name) not in modules
    ]
    if lines:
        raise ConfigError(lines)


def _code_of(key: str, value: Any) -> Iterator[str]:
    for text in _texts(value):
        if key in _MODULES:
            yield text
        elif key in _NAMES:
            # A list may be typed as a,b.
            yield from (part.strip() for part in text.split(",") if ":" in part)
        elif key.startswith(_OPTIONS) and _CODE.fullmatch(text):
            yield text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield str(value)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, Mapping):  # in a list
        yield from _texts([*value.values()])


def _module(name: str) -> str:
    """Return the module of `module:name` or `suite/module:name`."""
    return name.partition(":")[0].rpartition("/")[2]

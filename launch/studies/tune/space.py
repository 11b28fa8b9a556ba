"""The space of a search: which values each key may have."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bellmax import UserError, must
from bellmax.launch.config.overrides import flatten
from bellmax.launch.config.run_config import Source, resolve, to_dict
from bellmax.launch.config.sentences import Argument, ConfigError
from bellmax.launch.config.yaml_files import dump_value, read_yaml

_RANGE = {"low", "high", "log", "step"}
_SEEDS = ("seed", "seeds")


class Dimension(NamedTuple):
    """The values of a key: a range, or choices as they would be typed.

    low, high: ends of the range, both included; both integers for a key of integers.
    log: whether the logarithm is uniform. step: distance of allowed values; None for all.
    choices: empty for a range.
    """

    key: str
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: tuple[str, ...] = ()

    def suggest(self, trial: Any) -> str:
        """Return the value that an optuna trial suggests, as it would be typed."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        ends = self.key, self.low, self.high
        if isinstance(self.low, int):
            return str(trial.suggest_int(*ends, step=int(self.step or 1), log=self.log))
        return repr(trial.suggest_float(*ends, step=self.step, log=self.log))


def read_space(
    path: Path, source: Source, fixed: Mapping[str, Any], *, trust: bool = False
) -> list[Dimension]:
    """Read a space, and check each end and each choice as a value of the configuration.

    Args:
      path: a YAML file: by dotted key a list of values, or a mapping of `low`, `high`, and `log` or
        `step`.
      source: configuration of the search.
      fixed: values by dotted key that all trials have.
      trust: whether the configuration of a run's folder may name code.

    Raises:
      UserError: the file is no space; one line for each value that the key does not allow.
    """
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise UserError(must(str(path), "a mapping of keys to values", repr(content)))
    space, lines = [], []
    for key, given in content.items():
        try:
            space.append(_read(str(key), given, source, fixed, trust=trust))
        except ConfigError as error:
            lines += str(error).splitlines()
    if lines:
        raise ConfigError(lines, str(path))
    return space


def _read(
    key: str, given: Any, source: Source, fixed: Mapping[str, Any], *, trust: bool
) -> Dimension:
    if key in _SEEDS:
        raise ConfigError([must(key, "left to `--seed` and `--seeds`", "values to search")])
    if key in fixed:
        raise ConfigError([must(key, "searched or given as an option", "both")])
    if isinstance(given, list) and len(given) > 1:
        texts = tuple(dict.fromkeys(map(dump_value, given)))
        for text in texts:
            _resolved(key, Argument(text), source, fixed, trust=trust)
        return Dimension(key, choices=texts)
    if not isinstance(given, Mapping) or not {"low", "high"} <= set(given) <= _RANGE:
        allowed = "a list of two or more values, or low and high, with log: true or step if wanted"
        raise ConfigError([must(key, allowed, dump_value(given))])
    low, high = (_resolved(key, given[n], source, fixed, trust=trust) for n in ("low", "high"))
    log, step = given.get("log", False), given.get("step")
    checks = {
        "low and high": (_are_numbers(low, high), "numbers", f"{low!r} and {high!r}"),
        "low": (_are_numbers(low, high) and low < high, f"below high = {high}", low),
        "log": (isinstance(log, bool), "true or false", log),
        "step": (step is None or (_are_numbers(step) and step > 0), "a number above 0", step),
    }
    checks["log and step"] = (not (log and step), "not both given", f"log {log}, step {step}")
    checks["low for log"] = (log is not True or low > 0, "above 0", low)
    for name, (fits, allowed, got) in checks.items():
        if not fits:
            raise ConfigError([must(f"{name} of {key}", allowed, got)])
    if isinstance(low, int) and isinstance(step, float):
        raise ConfigError([must(f"step of {key}", "an integer, as the key is one", step)])
    return Dimension(key, low, high, log, step)


def _resolved(
    key: str, value: Any, source: Source, fixed: Mapping[str, Any], *, trust: bool
) -> Any:
    """Return a value as the configuration has it; raise ConfigError if it does not allow it."""
    return flatten(to_dict(resolve(source, {**fixed, key: value}, trust=trust))).get(key)


def _are_numbers(*values: Any) -> bool:
    numbers = [x for x in values if isinstance(x, int | float) and not isinstance(x, bool)]
    return len(numbers) == len(values) and all(map(math.isfinite, numbers))

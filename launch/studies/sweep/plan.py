"""The plan of a sweep: combinations of values, names of folders, and existing runs."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bellmax import UserError
from bellmax.launch.config.options import read_overrides
from bellmax.launch.config.overrides import flatten
from bellmax.launch.config.points import point_name, value_text
from bellmax.launch.config.sentences import FLAG, Argument, must
from bellmax.launch.config.yaml_files import read_yaml

MOST_RUNS = 10_000
RECORD = "sweep.yaml"


class Job(NamedTuple):
    """One run of a sweep.

    name: name of its folder and its log. values: resolved values of the varied keys.
    arguments: command-line arguments of `bellmax`. config: its RunConfig.
    """

    name: str
    values: dict[str, str]
    arguments: list[str]
    config: Any


def read_values(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of each key, in the given order; the last of equal options counts.

    Args:
      overrides: options as typed; commas separate values: ["--seed", "0,1", "--steps=300"].

    Raises:
      UserError: an unknown option, or two equal values.
    """
    return {key: split_values(key, text) for key, text in read_overrides(overrides).items()}


def split_values(key: str, text: str) -> list[str]:
    """Split a text at its commas, except commas in brackets or quotes.

    Quotes around a whole value are removed: `"64,64",128` are `64,64` and `128`.
    """
    if text is FLAG:
        return [text]
    if not isinstance(text, str):
        raise UserError(must(key, "values with commas between them", text))
    try:
        parts = yaml.compose(f"[{text}]", Loader=yaml.SafeLoader).value
    except yaml.YAMLError:
        parts = None
    if parts is None or text.rstrip().endswith(","):
        allowed = "values with a comma between two, all brackets and quotes closed"
        raise UserError(must(key, allowed, text))
    values = []
    for part in parts:
        quoted = isinstance(part, yaml.ScalarNode) and part.style
        as_typed = text[part.start_mark.index - 1 : part.end_mark.index - 1]
        values.append(part.value if quoted else as_typed)
    return values or [text]


def plan_runs(
    source: str, values: Mapping[str, Sequence[str]], out: Path, *, trust: bool = False
) -> list[Job]:
    """Return a validated job for each combination of values; the last key varies fastest.

    Raises:
      UserError: a key or value is wrong, there are too many jobs, or two would be the same run.
    """
    from bellmax.launch.config.run_config import read_source, resolve, to_dict

    found = read_source(source)

    count = math.prod(map(len, values.values()))
    if count > MOST_RUNS:
        raise UserError(must("a sweep", f"at most {MOST_RUNS} runs", count))
    varied = sorted(key for key, several in values.items() if len(several) > 1)
    plan: dict[str, Job] = {}
    for combination in itertools.product(*values.values()):
        typed: dict[str, Any] = dict(zip(values, combination, strict=True))
        config = resolve(found, as_given(typed), trust=trust)
        if config.vmap:
            hint = "one run of `bellmax train` has all its points"
            raise UserError(must("vmap", "left out of a sweep", ", ".join(config.vmap), hint=hint))
        resolved = typed | flatten(to_dict(config))  # `typed` may have whole sections
        name = point_name({key: resolved[key] for key in varied})
        if name in plan:
            raise UserError(f"two combinations of the values would be the same run {name}")
        texts = {key: value_text(resolved[key]) for key in varied}
        arguments = train_arguments(source, out / name, typed, trust=trust)
        plan[name] = Job(name, texts, arguments, config)
    return list(plan.values())


def as_given(typed: Mapping[str, Any]) -> dict[str, Any]:
    """Return texts by dotted key as the command line gives them to `resolve`."""
    return {key: text if text is FLAG else Argument(text) for key, text in typed.items()}


def train_arguments(
    source: str, folder: Path, typed: Mapping[str, Any], *, trust: bool
) -> list[str]:
    """Return the arguments of `bellmax` that train or continue a run with values as typed."""
    options = [f"--{key}" if text is FLAG else f"--{key}={text}" for key, text in typed.items()]
    return ["train", source, "--out", str(folder), "--resume", *["--trust"] * trust, *options]


def read_record(source: str, values: Mapping[str, Sequence[str]], out: Path) -> dict[str, Any]:
    """Return the contents of sweep.yaml: the source, and the values of each different command."""
    from bellmax.launch.config.run_config import list_presets

    known = source if source in list_presets() else str(Path(source).absolute())
    new = {key: [str(value) for value in several] for key, several in values.items()}
    if not out.is_dir() or not any(out.iterdir()):
        return {"source": known, "values": [new]}
    path = out / RECORD
    if not path.is_file():
        raise UserError(f"{out} is not empty and holds no sweep; name a new folder with --out")
    before = read_yaml(path)
    if not isinstance(before, dict) or not isinstance(before.get("values"), list):
        raise UserError(f"{path} is not what `bellmax sweep` wrote; name a new folder with --out")
    if before.get("source") != known:
        raise UserError(
            f"{out} holds a sweep of {before.get('source')}, not of {known}; name a new folder "
            "with --out"
        )
    return before if new in before["values"] else {**before, "values": [*before["values"], new]}


def check_started(plan: list[Job], out: Path) -> None:
    """Raise UserError if an existing run was started with other settings."""
    from bellmax.launch.training.train import check_resumable

    for job in plan:
        if (out / job.name / "config.yaml").is_file():
            check_resumable(out / job.name, job.config)

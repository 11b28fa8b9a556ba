"""The command line as tyro reads it: the options, their help, and the values given.

Tyro accepts any text for any option. `schema.build` validates it as it validates files, so that a
file and an option give the same message, `1e6` is an integer, and all mistakes are reported
together.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from bellmax import UserError
from bellmax.launch.config import fields
from bellmax.launch.config.aliases import known_as
from bellmax.launch.config.sentences import (
    FLAG,
    NOTHING,
    Argument,
    choices_of,
    describe,
    must,
    show,
)
from bellmax.launch.config.yaml_files import dump_value

_ASSIGNED = re.compile(r"\+?([A-Za-z_][\w.-]*)=", re.ASCII)
# Keys that most agents have.
_COMMON = ("learning_rate", "discount", "batch_size", "target_rate", "n_step", "network.hidden")


def read_command(cls: type, tokens: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the given values of a command's fields by key, and the remaining tokens.

    Raises:
      UserError: an option has no value.
    """
    import tyro

    try:
        made, rest = tyro.cli(
            command_class(cls, reads=True),
            args=list(tokens),
            return_unknown_args=True,
            add_help=False,
            console_outputs=False,
        )
    except SystemExit:
        # A missing value: the only mistake that tyro detects when every value is text.
        flags = {fields.key_of(cls, n) for n, hint in fields.hints(cls).items() if hint is bool}
        followed = itertools.pairwise([*tokens, "--"])
        names = [token.replace("_", "-") for token, after in followed if after.startswith("--")]
        name = next((n for n in names if n in fields.keys(cls) and n not in flags), "an option")
        raise UserError(must(name, "followed by a value", NOTHING)) from None
    given = {name: value for name, value in vars(made).items() if value not in (None, False, ())}
    return {fields.key_of(cls, name): value for name, value in given.items()}, rest


def read_overrides(tokens: Sequence[str]) -> dict[str, Any]:
    """Return the values on the command line by dotted key: text, several texts, or FLAG if none.

    Args:
      tokens: `--a.b value`, `--a.b=value`, `--a.b x y` or `--a.b`; the last of equal keys counts.

    Raises:
      UserError: a token is neither an option nor its value.
    """
    typed: dict[str, Any] = {}
    strays, key = [], ""
    for token in tokens:
        name, equals, value = token.removeprefix("--").partition("=")
        if token.startswith("--") and all(name.split(".")):
            key = name.replace("-", "_")
            typed[key] = Argument(value) if equals else FLAG
        elif not key or (typed[key] is not FLAG and _ASSIGNED.match(token)):
            strays.append(token)
        elif typed[key] is FLAG:
            typed[key] = Argument(token)
        else:
            before = typed[key] if isinstance(typed[key], list) else [typed[key]]
            typed[key] = [*before, Argument(token)]
    if strays:
        hint = "overrides look like --agent.learning-rate 1e-3"
        if found := _ASSIGNED.match(strays[0]):  # Hydra's syntax, key=value
            hint = f"did you mean --{strays[0].removeprefix('+').replace('_', '-')}?"
            if ours := known_as(found[1], [f"agent.{name}" for name in _COMMON]):
                hint = f"did you mean --{ours.replace('_', '-')}={strays[0].partition('=')[2]}?"
        raise UserError(f"unexpected argument {', '.join(map(show, strays))}; {hint}")
    return typed


def option_class(cls: Any, types: Mapping[str, Any] | None = None, instance: Any = None) -> type:
    """Return a dataclass for tyro's help and completion: an option for each leaf of a section.

    Args:
      cls, types: as in `schema.build`.
      instance: of `cls`; help shows its values.
    """
    from tyro.conf import arg

    members = []
    for name, hint in fields.hints(cls, types).items():
        value, inner = fields.default_of(cls, name, instance), fields.section_type(hint)
        if inner:
            made = option_class(inner, None, value)
            kind, value = Annotated[made, arg(help=inner.__doc__)], made()
        else:
            details = {"name": fields.key_of(cls, name), "help": fields.comments(cls).get(name, "")}
            kind = _leaf("*", describe(hint), choices_of(hint), **details)
        members.append((name, kind, dataclasses.field(default_factory=lambda v=value: v)))
    return dataclasses.make_dataclass(cls.__name__, members, namespace={"__doc__": cls.__doc__})


def command_class(cls: Any, configuration: type | None = None, *, reads: bool = False) -> type:
    """Return a dataclass for tyro: the options of a command, then those of a configuration.

    Args:
      cls: a dataclass of `cli.options`.
      configuration: an `option_class`.
      reads: for parsing instead of for help: the command's argument may be missing, and any value
        is accepted.
    """
    from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

    members: list[Any] = []
    for name, hint in fields.hints(cls).items():
        key = fields.key_of(cls, name)
        metavar = cls.__dataclass_fields__[name].metadata.get("option", key)
        # The help texts state the defaults, which depend on other options.
        details = {"help": fields.comments(cls).get(name), "help_behavior_hint": ""}
        many = hint == tuple[str, ...]
        if hint is bool:
            members.append((name, Annotated[FlagCreatePairsOff[bool], arg(**details)], False))
        elif not key.startswith("--"):
            kind = Positional[_leaf("*" if many else 1, metavar, **details)]
            members.append((name, kind, None) if reads else (name, kind))
        elif many:
            kind = Annotated[tuple[str, ...], arg(metavar=metavar, **details)]
            members.append((name, UseAppendAction[kind], ()))
        else:
            known = () if reads else choices_of(hint)
            members.append((name, _leaf(1, metavar or describe(hint), known, **details), None))
    if configuration:
        kind = Annotated[configuration, arg(name="")]
        members.append(("configuration", kind, dataclasses.field(default_factory=configuration)))
    namespace = {"__doc__": cls.__doc__}
    return dataclasses.make_dataclass(cls.__name__, members, namespace=namespace, kw_only=True)


def _leaf(nargs: Any, metavar: str, choices: Sequence[str] = (), **details: Any) -> Any:
    import tyro

    def read(values: list[Any]) -> Any:
        # tyro gives [[]] for a missing argument that an unknown option follows.
        texts = [Argument(value) for value in values if isinstance(value, str)]
        return texts if nargs == "*" else next(iter(texts), None)

    spec = tyro.constructors.PrimitiveConstructorSpec(
        nargs=nargs,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [_as_typed(value)],
        choices=tuple(choices) or None,
    )
    return Annotated[Any, spec, tyro.conf.arg(**details)]


def _as_typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else dump_value(value)

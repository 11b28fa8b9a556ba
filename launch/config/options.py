"""The command line as tyro reads it: which options there are, their help, and what was typed.

Tyro takes any text for any option. `schema.build` judges it, as it judges files, so that a file
and an option give the same sentence, `1e6` is an integer, and all mistakes come at once.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from bellmax import UserError
from bellmax.launch.config import fields
from bellmax.launch.config.sentences import FLAG, NOTHING, Argument, choices_of, describe, must
from bellmax.launch.config.yaml_files import dump_value


@dataclasses.dataclass(frozen=True)
class _Typed:
    """What was typed for an option; all else in what tyro returns is a default."""

    value: Any


def option(name: str, metavar: str = "", default: Any = dataclasses.MISSING) -> Any:
    """Return a field of a command's dataclass: the option `--name`, or the argument `NAME`."""
    return dataclasses.field(default=default, metadata={"option": name, "metavar": metavar})


def read_command(cls: type, tokens: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return what was typed for the fields of a command, and the tokens that are none of them.

    Raises:
      UserError: an option has no value.
    """
    import tyro

    try:
        made, rest = tyro.cli(
            command_class(cls),
            args=list(tokens),
            return_unknown_args=True,
            add_help=False,
            console_outputs=False,
        )
    except SystemExit:  # the one error that tyro can see where every value is text
        raise UserError(_without_value(cls, tokens)) from None
    plain = {k: v for k, v in vars(made).items() if v and not isinstance(v, _Typed)}
    typed = {k: v for k, v in _typed(cls, made).items() if v is not FLAG}
    return plain | typed, rest  # plain: flags, and options that may be repeated


def read_overrides(
    cls: type, tokens: Sequence[str], sections: Mapping[str, type]
) -> tuple[dict[str, Any], list[str]]:
    """Return what was typed by dotted key, in the order typed, and tokens that are no overrides.

    Args:
      cls, sections: as in `schema.build`.
      tokens: `--a.b value`, `--a.b=value`, or `--a.b` alone, which means true; of two the last.
    """
    import tyro

    made, rest = tyro.cli(
        option_class(cls, sections), args=list(tokens), return_unknown_args=True, add_help=False
    )
    # Tyro does not know the keys of free-form sections, such as env.options.size, nor mistyped
    # ones. Both are taken as they are: `schema.build` knows which is which.
    typed, strays, key = _typed(cls, made, sections), [], ""
    for token in rest:
        name, equals, value = token.removeprefix("--").partition("=")
        if token.startswith("--") and all(name.split(".")):
            key = name.replace("-", "_")
            typed[key] = _text([value] if equals else []).value
        elif key:
            before = typed[key]
            values = before if isinstance(before, list) else [before] * (before is not FLAG)
            typed[key] = _text([*values, token]).value
        else:
            strays.append(token)
    order = [t.removeprefix("--").partition("=")[0].replace("-", "_") for t in tokens]
    return dict(sorted(typed.items(), key=lambda item: order.index(item[0]))), strays


def option_class(
    cls: Any,
    sections: Mapping[str, type] | None = None,
    instance: Any = None,
    *,
    completes: bool = False,
) -> type:
    """Return a dataclass for tyro: an option for each leaf of a configuration.

    Args:
      cls, sections: as in `schema.build`.
      instance: of `cls`; help shows its values.
      completes: for completion in a shell, not for reading: values are limited to known ones.
    """
    from tyro.conf import arg

    members = []
    for name, hint in fields.hints(cls, sections).items():
        value, inner = fields.default_of(cls, name, instance), fields.section_type(hint)
        if inner:
            made = option_class(inner, None, value, completes=completes)
            kind, value = Annotated[made, arg(help=inner.__doc__)], made()
        else:
            text = fields.comments(cls).get(name, "")
            key = cls.__dataclass_fields__[name].metadata.get("key")
            known = choices_of(hint) if completes else ()
            # Any number of values: tyro itself would refuse an option without one.
            kind = _leaf("*", describe(hint), known, name=key, help=text)
        members.append((name, kind, dataclasses.field(default_factory=lambda v=value: v)))
    return dataclasses.make_dataclass(cls.__name__, members, namespace={"__doc__": cls.__doc__})


def command_class(
    cls: Any,
    configuration: type | None = None,
    *,
    argument: Literal["optional", "required", "none"] = "optional",
    completes: bool = False,
) -> type:
    """Return a dataclass for tyro: the options of a command, then those of a configuration.

    Args:
      cls: a dataclass of `option`s.
      configuration: an `option_class`.
      argument: whether the command's argument can be left out, or has been given.
      completes: as in `option_class`.
    """
    from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg

    members: list[Any] = []
    for name, hint in fields.hints(cls).items():
        metadata = cls.__dataclass_fields__[name].metadata
        label, metavar, many = metadata["option"], metadata["metavar"], hint == tuple[str, ...]
        # Defaults are in the text: they depend on other options.
        known = choices_of(hint) if completes else ()
        details = {"help": fields.comments(cls).get(name), "help_behavior_hint": ""}
        if hint is bool:
            members.append((name, Annotated[FlagCreatePairsOff[bool], arg(**details)], False))
        elif not label.startswith("--"):
            kind = Positional[_leaf("*" if many else 1, label, **details)]
            members += {"optional": [(name, kind, None)], "required": [(name, kind)]}.get(
                argument, []
            )
        elif many:
            kind = Annotated[tuple[str, ...], arg(metavar=metavar, **details)]
            members.append((name, UseAppendAction[kind], ()))
        else:
            members.append((name, _leaf(1, metavar or describe(hint), known, **details), None))
    if configuration:
        kind = Annotated[configuration, arg(name="")]
        members.append(("configuration", kind, dataclasses.field(default_factory=configuration)))
    namespace = {"__doc__": cls.__doc__}
    return dataclasses.make_dataclass(cls.__name__, members, namespace=namespace, kw_only=True)


def _without_value(cls: Any, tokens: Sequence[str]) -> str:
    hints = fields.hints(cls)
    takes = [f.metadata["option"] for f in dataclasses.fields(cls) if hints[f.name] is not bool]
    for token, after in itertools.pairwise([*tokens, "--"]):
        if token.replace("_", "-") in takes and after.startswith("--"):
            return must(token.replace("_", "-"), "followed by a value", NOTHING)
    return must("an option", "followed by a value", NOTHING)


def _leaf(nargs: Any, metavar: str, choices: Sequence[str] = (), **details: Any) -> Any:
    import tyro

    spec = tyro.constructors.PrimitiveConstructorSpec(
        nargs=nargs,
        metavar=metavar,
        instance_from_str=_text,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [_as_typed(value)],
        choices=tuple(choices) or None,
    )
    return Annotated[Any, spec, tyro.conf.arg(**details)]


def _as_typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else dump_value(value)


def _text(values: list[Any]) -> _Typed:
    # An argument that is left out before an unknown option comes as [[]] from tyro.
    values = [value for value in values if isinstance(value, str)]
    if len(values) > 1:  # `--agent.network.hidden 64 64`; a mistake where one value is asked for
        return _Typed([Argument(value) for value in values])
    return _Typed(Argument(values[0]) if values else FLAG)


def _typed(
    cls: Any, made: Any, sections: Mapping[str, type] | None = None, prefix: str = ""
) -> dict[str, Any]:
    """Return what was typed in the instance that tyro made of `option_class(cls, sections)`."""
    result: dict[str, Any] = {}
    for name, hint in fields.hints(cls, sections).items():
        value, key = getattr(made, name), f"{prefix}{name}"
        if inner := fields.section_type(hint):
            result |= _typed(inner, value, prefix=f"{key}.")
        elif isinstance(value, _Typed):
            result[cls.__dataclass_fields__[name].metadata.get("key", key)] = value.value
    return result

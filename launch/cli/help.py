"""Help of `bellmax` and its commands, and completion for shells: both are tyro's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, make_dataclass
from typing import Any

import bellmax
from bellmax.agents import registry
from bellmax.launch.cli.commands import COMMANDS, Command
from bellmax.launch.config import fields, run_config
from bellmax.launch.config.options import command_class, option_class
from bellmax.launch.training.folders import run_folder

_OVERRIDES = """

Any key of the configuration is an option too, such as --agent.learning-rate 1e-3;
`bellmax {} NAME --help` lists them all with the values that NAME gives them."""


def program(tokens: Sequence[str]) -> int:
    """Answer `--help` and `--tyro-print-completion SHELL`; return the exit code."""
    import tyro

    keys = None
    if tokens[0] not in ("-h", "--help"):  # completion, which knows the keys of every agent
        some = run_config.RunConfig(agent_name="dqn")
        agents = _union([registry.config_class(name) for name in registry.names()])
        keys = option_class(run_config.RunConfig, {"agent": agents}, some)
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        options: Any = command_class(command.options, keys if command.overrides else None)
        app.command(options, name=name)
    return _exit_code(app.cli, prog="bellmax", description=bellmax.__doc__, args=list(tokens))


def command_help(
    name: str, command: Command, typed: Mapping[str, Any], overrides: Sequence[str]
) -> int:
    """Print the help of a command, including the configuration keys of its preset or agent."""
    import tyro

    text, keys = command.options.__doc__ or "", None
    source = typed.get("PRESET|FILE") or (run_folder(typed["RUN"]) if "RUN" in typed else None)
    if command.overrides and source:
        config = run_config.load(source, overrides, trust=bool(typed.get("--trust")))
        keys = option_class(run_config.RunConfig, {"agent": type(config.agent)}, config)
    elif command.overrides and name != "check-env":
        text += _OVERRIDES.format(name)
    options = command_class(command.options, keys)
    return _exit_code(tyro.cli, options, prog=f"bellmax {name}", description=text, args=["--help"])


def _exit_code(function: Callable[..., Any], *arguments: Any, **options: Any) -> int:
    try:
        function(*arguments, **options)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _union(classes: Sequence[type]) -> type:
    """Return a dataclass with the keys of all classes, for completion."""
    members: dict[str, list[Any]] = {}
    for cls in classes:
        for name, hint in fields.hints(cls).items():
            members.setdefault(name, []).append(hint)
    kinds = {}
    for name, hints in members.items():
        sections = list(dict.fromkeys(filter(None, map(fields.section_type, hints))))
        kinds[name] = _union(sections) if sections else hints[0]
    return make_dataclass("Any", [(n, k, field(default=None)) for n, k in kinds.items()])

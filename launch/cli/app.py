"""The `bellmax` command. A user's mistake prints one sentence to stderr and exits with code 2.

jax is imported only by commands that need it, so `bellmax --help` is fast.
"""

import errno
import gc
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import bellmax
from bellmax import UserError
from bellmax.envs.errors import described
from bellmax.envs.options import unknown
from bellmax.launch.cli.commands import COMMANDS
from bellmax.launch.config import fields
from bellmax.launch.config.options import read_command
from bellmax.launch.config.sentences import NOTHING, ConfigError, must, show
from bellmax.launch.config.yaml_files import is_unicode
from bellmax.launch.distributed.signals import interruptible

# Errors of the machine, not of the program: full disk, quota, no permission, read-only disk.
_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
_HELP = {"-h", "--help"}
_TRACEBACK = "--traceback"  # an option of every command
# New objects between two garbage collections. Imports and traces make many that stay, and with
# Python's default, 700, reading them again takes a sixth of the time before training starts.
_OBJECTS = 10_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `bellmax` command.

    Args:
      argv: the arguments after the program's name; None takes the process's own.

    Returns:
      The exit code: 0 success, 1 a check found a problem or the machine failed, 2 a mistake of the
      user, 130 interrupted, 143 terminated.
    """
    _make_writable()
    if argv is None:  # run as a program: a caller of this function keeps its own
        gc.set_threshold(_OBJECTS, *gc.get_threshold()[1:])
    words = list(sys.argv[1:] if argv is None else argv)
    code = _run([word for word in words if word != _TRACEBACK], shows=_TRACEBACK in words)
    if processes := sys.modules.get("bellmax.launch.distributed.processes"):
        waiter = sys.modules.get("bellmax.launch.actors.waiter")
        # Only when run as a program: a caller of this function must not be ended.
        hangs = argv is None and waiter is not None and waiter.are_left_behind()
        processes.leave(code, at_once=hangs)
    return code


def _make_writable() -> None:
    """Make stdout and stderr accept any text, even if they are closed or only ASCII."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:  # closed by the shell, as in `bellmax list presets >&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for the rest of the program)
        elif not is_unicode(stream) and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _run(argv: list[str], *, shows: bool = False) -> int:
    """Return the exit code; `shows`: whether to print tracebacks of a UserError too."""
    try:
        with interruptible(), warnings.catch_warnings():
            # jax ignores cache entries that a full disk or a kill left incomplete.
            warnings.filterwarnings("ignore", "Error .* persistent compilation cache")
            code = _dispatch(argv)
            sys.stdout.flush()  # raises errors of the stream here
            return code
    except UserError as error:
        if shows:
            traceback.print_exception(error)
        lines = str(error).splitlines() if isinstance(error, ConfigError) else [str(error)]
        return _print_errors(lines, getattr(error, "exit_code", 2))
    except SystemExit as end:  # raised by other code: the command did not finish
        if shows:
            traceback.print_exception(end)
        words = f"{argv[0]} ended early: {described(end)}"
        return _print_errors([words], end.code if isinstance(end.code, int) and end.code > 0 else 1)
    except BrokenPipeError:  # `bellmax list presets | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _MACHINE:
            raise
        name = f"{error.filename}: " if error.filename else ""
        return _print_errors([f"{name}{error.strerror}; free space or choose another folder"], 1)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in _HELP or argv[0].startswith("--tyro-"):
        from bellmax.launch.cli.help import program

        code = program(argv or ["--help"])
        return code if argv else 2
    if argv[0] == "--version":
        print(f"bellmax {bellmax.__version__}")
        return 0
    # For the user's `module:factory`; last, so that it hides no other module.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    if argv[0] not in COMMANDS:
        raise unknown("command", argv[0], COMMANDS)
    name, command = argv[0], COMMANDS[argv[0]]
    tokens = [token for token in argv[1:] if token not in _HELP]
    typed, rest = read_command(command.options, tokens)
    if len(tokens) < len(argv) - 1:
        from bellmax.launch.cli.help import command_help

        return command_help(name, command, typed, rest)
    if rest and not command.overrides:
        raise _unexpected(command.options, name, rest)
    for key in fields.keys(command.options):
        if not key.startswith("--") and key not in typed:
            what = "key" if command.overrides else "option"
            usage = f"bellmax {name} {key} [--{what} value ...]"
            raise UserError(must(key, "given first", NOTHING, hint=usage))
    from bellmax.launch.config.schema import build  # imports pydantic

    arguments = build(command.options, typed)
    return command.run(arguments, rest) if command.overrides else command.run(arguments)


def _unexpected(options: Any, name: str, rest: Sequence[str]) -> UserError:
    labels = [key for key in fields.keys(options) if key.startswith("--")]
    wrong = [token.partition("=")[0] for token in rest if token.startswith("--")]
    if wrong:
        return ConfigError(str(unknown("option", token, labels)) for token in wrong)
    hint = f"`bellmax {name} --help` shows what it takes"
    return UserError(f"unexpected argument {', '.join(map(show, rest))}; {hint}")


def _print_errors(lines: Sequence[str], code: int) -> int:
    sys.stdout.flush()
    for line in lines:
        print(f"bellmax: {' '.join(line.split())}", file=sys.stderr)
    return code

"""The `bellmax` command. What the user can put right is one sentence on stderr, exit code 2.

Nothing here imports jax before a command needs it: `bellmax --help` answers at once.
"""

import argparse
import errno
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import bellmax
from bellmax import UserError
from bellmax.launch.commands import COMMANDS, run_folder
from bellmax.launch.schema import unknown
from bellmax.launch.signals import interruptible

# Errors of the machine, not of the program: full disk, quota, no permission, read-only disk.
_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
_HELP = {"-h", "--help"}
_EPILOG = """\
Any key of the configuration is an option too, such as --agent.learning-rate 1e-3;
`%(prog)s NAME --help` lists them all with the values that NAME gives them.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` says more")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one `bellmax` command.

    Args:
      argv: the arguments after the program's name; None takes the process's own.

    Returns:
      The exit code: 0 done, 1 found something wrong or the machine failed, 2 to be put right by
      the user, 130 interrupted, 143 terminated.
    """
    code = _run(list(sys.argv[1:] if argv is None else argv))
    if processes := sys.modules.get("bellmax.launch.processes"):
        patience = sys.modules.get("bellmax.launch.patience")
        # Only the program itself may be ended so, not one that called this function.
        hangs = argv is None and patience is not None and patience.are_left_behind()
        processes.leave(code, at_once=hangs)
    return code


def _run(argv: list[str]) -> int:
    try:
        with interruptible(), warnings.catch_warnings():
            # jax does without an entry of its cache that a full disk or a kill cut short.
            warnings.filterwarnings("ignore", "Error .* persistent compilation cache")
            return _dispatch(argv)
    except UserError as error:
        return _complain(str(error), getattr(error, "exit_code", 2))
    except BrokenPipeError:  # `bellmax list presets | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _MACHINE:
            raise
        name = f"{error.filename}: " if error.filename else ""
        return _complain(f"{name}{error.strerror}; free space or choose another folder", 1)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        _top_parser().print_help()
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"bellmax {bellmax.__version__}")
        return 0
    if os.getcwd() not in sys.path:  # for `module:factory` of the user's own; last, to hide nothing
        sys.path.append(os.getcwd())
    if argv[0] not in COMMANDS:
        raise unknown("command", argv[0], COMMANDS)
    command = COMMANDS[argv[0]]
    parser = _Parser(
        prog=f"bellmax {argv[0]}",
        description=command.help,
        epilog=_EPILOG if command.overrides else None,
        allow_abbrev=False,
    )
    command.add(parser)
    own, overrides = _split(parser, argv[1:]) if command.overrides else (argv[1:], [])
    wants_help = bool(_HELP & set(own))
    own = [token for token in own if token not in _HELP]
    if wants_help and not (command.overrides and own):
        parser.print_help()
        return 0
    arguments = parser.parse_args(own)
    arguments.overrides = overrides
    return _print_fields(parser, arguments) if wants_help else command.run(arguments)


def _split(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[list[str], list[str]]:
    """Separates the command's own arguments from `--key value` overrides."""
    options = {name: a for a in parser._actions for name in a.option_strings}
    own: list[str] = []
    overrides: list[str] = []
    names = 0
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        name, equals, _ = token.partition("=")
        target = own if name in options or not token.startswith("--") else overrides
        target.append(token)
        names += not token.startswith("-")
        takes_value = target is overrides or (name in options and options[name].nargs != 0)
        if takes_value and not equals and tokens and not tokens[0].startswith("--"):
            target.append(tokens.pop(0))
    if names == 0 and not _HELP & set(own):
        place = next(a.metavar for a in parser._actions if not a.option_strings)
        raise UserError(f"name {place} first: {parser.prog} {place} [--key value ...]")
    return own, overrides


def _top_parser() -> argparse.ArgumentParser:
    lines = [f"  {name:<12} {command.help}" for name, command in COMMANDS.items()]
    return argparse.ArgumentParser(
        prog="bellmax",
        usage="bellmax COMMAND ...",
        description=(bellmax.__doc__ or "").strip(),
        epilog="\n".join(["commands:", *lines, "", "`bellmax COMMAND --help` says more."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _print_fields(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    from bellmax.launch.config import load
    from bellmax.launch.field_help import render

    source = getattr(arguments, "source", None) or str(run_folder(arguments.run))
    config = load(source, arguments.overrides)
    parser.print_help()
    print(f"\nconfiguration, with the values of {source}:\n\n{render(config)}")
    return 0


def _complain(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"bellmax: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

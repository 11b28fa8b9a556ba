"""Arguments of the scripts: every one has `--small`, which the tests run.

It needs neither bellmax nor jax, as the scripts of other projects import it too.
"""

import argparse
import atexit
import importlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

SCRATCH = object()
HELP = "sizes that take seconds and show nothing, as the tests run it"


def parse(
    parser: argparse.ArgumentParser, words: list[str] | None = None, **small: Any
) -> argparse.Namespace:
    """Parse the arguments; `--small` sets the values of `small` that are not given as options.

    Args:
      parser: the parser of a script, which gets the option `--small`.
      words: the arguments, None for those of the command line.
      small: values by name; SCRATCH is a new folder that is removed when Python exits.
    """
    words = sys.argv[1:] if words is None else words
    parser.add_argument("--small", action="store_true", help=HELP)
    if "--small" in words:
        names = {name: make_scratch() if v is SCRATCH else v for name, v in small.items()}
        parser.set_defaults(**names)
    return parser.parse_args(words)


def make_scratch() -> Path:
    """A new folder that is removed when Python exits."""
    folder = tempfile.mkdtemp(prefix="bellmax-benchmark-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def import_peer(module: str, install: str) -> Any:
    """A module of another project.

    Raises:
      SystemExit: it is not installed; says how to install it in this Python.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        script, project = Path(sys.argv[0]).name, module.split(".")[0]
        raise SystemExit(
            f"{script} needs {project} in the environment of {sys.executable}; install it with "
            f"`{sys.executable} -m pip install {install}` ({error})"
        ) from None

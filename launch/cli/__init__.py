"""The `bellmax` command."""

from bellmax.launch.cli.app import main

__all__ = ["main"]

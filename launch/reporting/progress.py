"""What a terminal shows while a run trains: one live line, or a plain line for each interval."""

import datetime
import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np


class Progress:
    """Shows how far training has come. Nothing that goes wrong here reaches the run.

    On a terminal, and in a notebook with ipywidgets, one line is redrawn; elsewhere each update
    prints a line.

    Args:
      total_steps: environment steps that each seed will take.
      seeds: how many train at once; the rates that are shown are of all of them together.
      console: a rich Console; standard output by default.
      silent: shows nothing.
    """

    def __init__(
        self, total_steps: int, *, seeds: int = 1, console: Any = None, silent: bool = False
    ):
        self._total = total_steps
        self._seeds = seeds
        self._console = console
        self._live: Any = None
        self._compiled: list[str] = []
        self._broken = silent

    def __enter__(self) -> "Progress":
        self._safely(self._open)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._safely(self._live.stop)
            self._live = None

    def compiled(self, seconds: float) -> None:
        """Shows from now on how long compilation took."""
        self._compiled = [f"compiled in {seconds:.1f} s"]

    def update(
        self,
        step: int,
        *,
        steps_per_second: float,
        updates_per_second: float,
        episode_return: Any,
        loss: Any,
        notes: Sequence[str] = (),
    ) -> None:
        """Shows the state of the run after `step` environment steps.

        Args:
          step: environment steps taken by each seed.
          steps_per_second: environment steps a second, of all seeds together.
          updates_per_second: gradient steps a second, of all seeds together.
          episode_return: one number or [S], one a seed; None and NaN mean no episode ended.
          loss: one number or [S].
          notes: what else there is to say.
        """

        def show() -> None:
            parts = [
                f"{step:,}/{self._total:,}",
                f"{100 * step // max(self._total, 1)} %",
                f"return {_spread(episode_return)}",
                f"loss {_middle(loss)}",
                f"{steps_per_second:,.0f} steps/s",
                f"{updates_per_second:,.0f} gradient steps/s",
                f"ETA {self._eta(step, steps_per_second)}",
                *notes,
                *self._compiled,
                _memory(),
            ]
            self._show("  ".join(parts))

        self._safely(show)

    def message(self, text: str) -> None:
        """Prints a line of its own."""
        self._safely(lambda: self._print(text))

    def _open(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = self._console or Console()
        widgets = self._console.is_jupyter and importlib.util.find_spec("ipywidgets")
        if self._console.is_terminal or widgets:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()

    def _show(self, line: str) -> None:
        if self._live is None:
            self._print(line)
            return
        from rich.text import Text

        self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)

    def _print(self, line: str) -> None:
        if self._console is None:
            self._open()
        console: Any = self._console
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        console.file.flush()  # a line in a log file is there when it is printed

    def _eta(self, step: int, steps_per_second: float) -> str:
        seconds = max(self._total - step, 0) * self._seeds / max(steps_per_second, 1e-9)
        if not seconds < 1e9:  # 30 years, or NaN: the rate is not known yet
            return "?"
        return str(datetime.timedelta(seconds=round(seconds)))

    def _safely(self, action: Any) -> None:
        """Runs `action`; after the first failure (a closed pipe, say) nothing is shown any more."""
        if self._broken:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                action()
        except (Exception, SystemExit):  # rich answers a broken pipe by leaving the program
            self._broken = True


def _finite(values: Any) -> np.ndarray:
    floats = np.ravel(np.asarray(values, np.float64))  # None becomes NaN
    return floats[np.isfinite(floats)]


def _spread(values: Any) -> str:
    """Mean over the seeds that have a value, and their range if there are several."""
    known = _finite(values)
    if not known.size:
        return "-"
    middle = f"{known.mean():,.1f}"
    return f"{middle} [{known.min():,.1f}..{known.max():,.1f}]" if known.size > 1 else middle


def _middle(values: Any) -> str:
    known = _finite(values)
    return f"{known.mean():.3g}" if known.size else "-"


def _memory() -> str:
    """Memory in use on the first device, or by the process where a device keeps no count."""
    import jax
    import psutil

    in_use = (jax.local_devices()[0].memory_stats() or {}).get("bytes_in_use")
    if in_use is not None:
        return f"device memory {in_use / 2**20:,.0f} MiB"
    return f"memory {psutil.Process().memory_info().rss / 2**20:,.0f} MiB"

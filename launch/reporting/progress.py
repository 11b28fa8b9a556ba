"""Progress of training in a terminal: one live line, or a plain line for each interval."""

import datetime
import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

_BAR = 20  # characters of the bar


class Progress:
    """Shows the progress of training. Failures to print do not affect the run.

    On a terminal, and in a notebook with ipywidgets, one line is redrawn; elsewhere each update
    prints a line.

    Args:
      total_steps: environment steps of each seed at the end.
      seeds: number of learners; the rates shown are sums over all of them.
      console: a rich Console; standard output by default.
      silent: whether to show nothing.
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

    def compiling(self) -> None:
        """Show on a terminal that the program is compiled."""
        self._safely(lambda: self._live and self._draw(0, ["compiling"]))

    def compiled(self, seconds: float) -> None:
        """Include the duration of compilation in all later lines."""
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
        """Show the state of the run after `step` environment steps.

        Args:
          step: environment steps taken by each seed.
          steps_per_second: environment steps per second, summed over seeds.
          updates_per_second: gradient steps per second, summed over seeds.
          episode_return: one number or [S], one per seed; None or NaN if no episode ended.
          loss: one number or [S].
          notes: further text for the line.
        """

        def show() -> None:
            where = [f"{step:,}/{self._total:,}", f"{100 * step // max(self._total, 1)} %"]
            numbers = [f"return {_spread(episode_return)}", f"loss {_middle(loss)}"]
            rates = [
                f"{steps_per_second:,.0f} steps/s",
                f"{updates_per_second:,.0f} gradient steps/s",
            ]
            eta, rest = f"ETA {self._eta(step, steps_per_second)}", [*notes, *self._compiled]
            if self._live is None:
                self._print("  ".join([*where, *numbers, *rates, eta, *rest, _memory()]))
            else:  # the most important columns first: those that do not fit are left out
                self._draw(step, [*where, eta, *numbers, *rates, *rest, _memory()])

        self._safely(show)

    def message(self, text: str) -> None:
        """Print a separate line."""
        self._safely(lambda: self._print(text))

    def _open(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = self._console or Console()
        widgets = self._console.is_jupyter and importlib.util.find_spec("ipywidgets")
        if self._console.is_terminal or widgets:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()

    def _draw(self, step: int, columns: Sequence[str]) -> None:
        """Redraw the live line: a bar, then as many columns as fit."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        bar_width = min(_BAR, self._console.width // 3)
        room = self._console.width - bar_width - 1
        shown = []
        for column in columns:
            room -= len(column) + 1
            if room < 0:
                break
            shown.append(column)
        table = Table.grid(padding=(0, 1, 0, 0))
        bar = ProgressBar(total=max(self._total, 1), completed=step, width=bar_width)
        table.add_row(bar, *shown)
        self._live.update(table, refresh=True)

    def _print(self, line: str) -> None:
        if self._console is None:
            self._open()
        console: Any = self._console
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        console.file.flush()  # so that a log file has the line at once

    def _eta(self, step: int, steps_per_second: float) -> str:
        seconds = max(self._total - step, 0) * self._seeds / max(steps_per_second, 1e-9)
        if not seconds < 1e9:  # 30 years, or NaN: the rate is not known yet
            return "?"
        return str(datetime.timedelta(seconds=round(seconds)))

    def _safely(self, action: Any) -> None:
        """Run `action`; after a failure, such as a closed pipe, nothing is shown any more."""
        if self._broken:
            return
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                action()
        except (Exception, SystemExit):  # rich exits the program at a broken pipe
            self._broken = True


def _finite(values: Any) -> np.ndarray:
    floats = np.ravel(np.asarray(values, np.float64))  # None becomes NaN
    return floats[np.isfinite(floats)]


def _spread(values: Any) -> str:
    """Return the mean over seeds that have a value, with their range if there are several."""
    known = _finite(values)
    if not known.size:
        return "-"
    middle = f"{known.mean():,.1f}"
    return f"{middle} [{known.min():,.1f}..{known.max():,.1f}]" if known.size > 1 else middle


def _middle(values: Any) -> str:
    known = _finite(values)
    return f"{known.mean():.3g}" if known.size else "-"


def _memory() -> str:
    """Return the memory in use on the first device, or by the process if it reports none."""
    import jax
    import psutil

    in_use = (jax.local_devices()[0].memory_stats() or {}).get("bytes_in_use")
    if in_use is not None:
        return f"device memory {in_use / 2**20:,.0f} MiB"
    return f"memory {psutil.Process().memory_info().rss / 2**20:,.0f} MiB"

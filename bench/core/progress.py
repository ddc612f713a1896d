"""Progress bars with images a second and time left, on a terminal; plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text


class _Rate(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("-" if speed is None else f"{speed:.2g}/s" if speed < 10 else f"{speed:.0f}/s")


class Progress:
    """What long work tells its user.

    Args:
        console: where to write; a console that is no terminal gets one line a bar.
        quiet: nothing but errors.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True)
        self.quiet = quiet
        self._shown: Callable[[str], None] | None = None

    def say(self, text: str) -> None:
        """One line."""
        if not self.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, what: str, done: int, total: int) -> None:
        """One step of the long work on a single image, as of an inversion: beside the bar on a
        terminal; elsewhere a line at each quarter."""
        if self._shown is not None:
            self._shown("" if done == total else f"{what}, step {done} of {total}")
        elif done * 4 // total != (done - 1) * 4 // total:
            self.say(f"{what}: step {done} of {total}")

    def count(self, images: int) -> None:
        """Images that were just made; for who watches from another process."""

    @contextmanager
    def bar(self, label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        """A bar of ``total`` steps, ``done`` of them made before; yields its advance function."""
        if self.quiet or not self.console.is_terminal:
            start, made = time.perf_counter(), [0]

            def count(steps: int) -> None:
                made[0] += steps

            yield count
            seconds = time.perf_counter() - start
            rate = f", {made[0] / seconds:.2f}/s" if seconds > 0 and made[0] else ""
            kept = f", {done} kept" if done else ""
            self.say(f"{label}: {made[0]} done{kept} in {seconds:.1f} s{rate}")
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=self.console) as bars:
            task = bars.add_task(label, total=total, completed=done)

            def show(text: str) -> None:
                bars.update(task, description=f"{label} ({text})" if text else label, refresh=True)

            self._shown = show
            try:
                yield lambda steps: bars.advance(task, steps)
            finally:
                self._shown = None

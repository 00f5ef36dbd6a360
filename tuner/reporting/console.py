"""Where a run is shown, and how far it is: bars on a terminal, plain lines elsewhere. Light: it stands before all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from tuner.printing import printable
from tuner.watch import Progress, Watch

SECONDS_BETWEEN_LINES = 5.0
SECONDS_OF_SILENCE = 7.0
"""After so many a line says what is at work, so that ten never pass without one."""


def screen() -> Console:
    """Where a run is shown. Titles, labels and paths are the user's own words, so that nothing in them is markup."""
    return _Screen(markup=False, emoji=False, highlight=False)


class _Screen(Console):
    """Writes out what would be a command to the terminal, in lines and in the cells of tables."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text), **how)


@contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """A watch for `tuner.tune`: bars with the time left on a terminal, plain lines where the output is piped."""
    if not console.is_terminal:
        lines, over = Lines(lambda text: console.print(text, soft_wrap=True)), Event()
        reminder = Thread(target=_remind, args=(lines, over), daemon=True)
        reminder.start()
        try:
            yield lines
        finally:  # an interruption too says how far it came
            over.set()
            reminder.join()
            lines.close()
        return
    columns = (
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        rows = _OnTerminal(bars)
        yield rows
        rows.end_step()


def _remind(lines: Lines, over: Event) -> None:
    while not over.wait(1.0):
        try:
            lines.remind()
        except OSError:  # whoever read the lines has gone, which the run finds out itself
            return


class _OnTerminal:
    """A `Watch` of bars, one per step."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._uncounted: TaskID | None = None

    def step(self, name: str) -> Progress:
        self.end_step()
        self._uncounted = row = self._bars.add_task(name, total=None)

        def progress(done: int, total: int) -> None:
            self._uncounted = None
            self._bars.update(row, completed=done, total=total)

        return progress

    def end_step(self) -> None:
        """A step that told nothing is over."""
        if self._uncounted is not None:
            self._bars.update(self._uncounted, completed=1, total=1)
        self._uncounted = None

    def say(self, text: str) -> None:
        self._bars.console.print(text)


class Lines:
    """A `Watch` of plain lines: one every few seconds of a step, and one at its end. Used by two threads.

    Args:
        write: called with each line.
        clock: seconds, as of `time.monotonic`.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._lock = Lock()
        self._unsaid = ""
        self._said = clock()
        self._doing, self._began = "Starting", clock()

    def step(self, name: str) -> Progress:
        """A step begins; what the one before has not said yet is said now."""
        with self._lock:
            self._close()
            self._doing, self._began = name, self._clock()
        ended = False

        def progress(done: int, total: int) -> None:
            nonlocal ended
            with self._lock:
                if ended:  # a step may tell its end twice
                    return
                now, began = self._clock(), self._began
                left = (now - began) / done * (total - done) if done else 0.0
                self._doing = f"{name} {done}/{total}"
                self._unsaid = self._doing + (f", {_clock_time(left)} left" if 0 < done < total else "")
                if now - max(self._said, began) >= SECONDS_BETWEEN_LINES:
                    self._close()
                if done >= total:
                    ended, self._doing, self._began = True, "Still working", now

        return progress

    def say(self, text: str) -> None:
        """One line."""
        with self._lock:
            self._close()
            self._put(text)

    def remind(self) -> None:
        """To be called now and then: says what is at work, and since when, if nothing was said for a while."""
        with self._lock:
            now = self._clock()
            if now - self._said >= SECONDS_OF_SILENCE:
                self._unsaid = self._unsaid or f"{self._doing}, {_clock_time(now - self._began)} so far"
                self._close()

    def close(self) -> None:
        """Say how the last step ended, if that was not said."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._unsaid:
            self._put(self._unsaid)
        self._unsaid = ""

    def _put(self, text: str) -> None:
        self._said = self._clock()
        self._write(text)


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"

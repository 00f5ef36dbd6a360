"""What a user sees: how far a run is, and the last lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from a2sf_core.cuts import CONTEXT
from tuner.judging.verdict import share
from tuner.printing import printable
from tuner.reporting.result import Result
from tuner.watch import Progress, Watch

SECONDS_BETWEEN_LINES = 5.0


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
        lines = Lines(lambda text: console.print(text, soft_wrap=True))
        try:
            yield lines
        finally:  # an interruption too says how far it came
            lines.close()
        return
    columns = (
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        yield _OnTerminal(bars)


class _OnTerminal:
    """A `Watch` of bars, one per step."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    def step(self, name: str) -> Progress:
        row = self._bars.add_task(name, total=None)
        return lambda done, total: self._bars.update(row, completed=done, total=total)

    def say(self, text: str) -> None:
        self._bars.console.print(text)


class Lines:
    """A `Watch` of plain lines: one every few seconds of a step, and one at its end.

    Args:
        write: called with each line.
        clock: seconds, as of `time.monotonic`.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._unsaid = ""

    def step(self, name: str) -> Progress:
        """A step begins; what the one before has not said yet is said now."""
        self.close()
        began = said = self._clock()
        ended = False

        def progress(done: int, total: int) -> None:
            nonlocal said, ended
            if ended:  # a step may tell its end twice
                return
            ended = done >= total
            now = self._clock()
            left = (now - began) / done * (total - done) if done else 0.0
            self._unsaid = f"{name} {done}/{total}" + (f", {_clock_time(left)} left" if 0 < done < total else "")
            if now - said >= SECONDS_BETWEEN_LINES:
                said = now
                self.close()

        return progress

    def say(self, text: str) -> None:
        """One line."""
        self.close()
        self._write(text)

    def close(self) -> None:
        """Say how the last step ended, if that was not said."""
        if self._unsaid:
            self._write(self._unsaid)
        self._unsaid = ""


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def show(console: Console, result: Result) -> None:
    """The last lines: a small table, the sentence, and what to do next."""
    evidence = result.evidence
    n, precision = evidence.samples.report, evidence.precision
    console.print(_table(result))
    console.print(f"\n{result.sentence}\n", style="bold")
    console.print(
        f"With {n} report samples the interval is about ±{precision.half_width_points:.2f} points; "
        f"±{precision.finer_points:g} takes about {precision.samples_for_finer} (--precision "
        f"{precision.finer_points:g})."
    )
    if evidence.cut == CONTEXT:
        console.print(
            "Cut before the question: each context is pruned once, and questions and answers are read over what is "
            "left; serve it with a2sf_core.read_context."
        )
    if evidence.warm_start:
        console.print(evidence.warm_start)
    looks = evidence.samples.times_report_was_looked_at
    if looks > 1:
        console.print(f"The report samples have judged {looks} choices by now: the interval is a little optimistic.")
    gain = result.alpha.gain
    said = result.alpha.reason or (
        "the regressor beat the best constant on select samples; on report samples it gains "
        f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] nats per token"
    )
    console.print(f"alpha: {said}")
    if result.serve_command:
        console.print(f"MLflow    {result.serve_command}", soft_wrap=True)
        console.print(f"          then open {result.link}", soft_wrap=True)
    elif result.link:
        console.print(f"MLflow    {result.link}", soft_wrap=True)
    console.print(f"Picture   {result.folder / 'pareto.png'}", soft_wrap=True)
    console.print(f"Policy    {result.config}", soft_wrap=True)


def _table(result: Result) -> Table:
    """The full cache, the best tuned policy and the best known method on the report samples."""
    evidence, outcome = result.evidence, result.outcome
    quality, exact = evidence.quality, evidence.dropped_tokens.generated.exact_match
    beside, full, exported = "token accuracy", quality.token_accuracy_full_cache, quality.token_accuracy_policy
    if evidence.metric == "token_accuracy":
        beside, full, exported = "exact match", exact.full_cache, exact.policy
    table = Table(title=f"On {evidence.samples.report} unseen samples", title_justify="left")
    table.add_column("policy")
    for name in ("cache", evidence.metric.replace("_", " "), beside):
        table.add_column(name, justify="right")
    table.add_row("full cache", "100%", f"{100 * quality.full_cache:.2f}", f"{full:.1%}")
    for contender, name in ((outcome.tuned, " (tuned)"), (outcome.baseline, "")):
        if contender:
            best = contender.best
            proven = "" if contender.proven else ", not proven"
            right = f"{exported:.1%}" if best is outcome.exported else ""
            table.add_row(f"{best.label}{name}{proven}", share(best), str(best.difference), right)
    return table

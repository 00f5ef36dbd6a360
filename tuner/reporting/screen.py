"""What a user sees: how far a run is, and the last lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from tuner.judging.proof import Outcome
    from tuner.tracking.tracker import Tracker

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from tuner.tracking.tracker import Tracker


def show(
    console: Console, folder: Path, outcome: Outcome, found: dict[str, Any], tracker: Tracker, config: Path
) -> None:
    """The last lines: a small table, the sentence, and what to do next."""
    table = Table(title=f"On {found['samples']['report']} unseen samples", title_justify="left")
    table.add_column("policy")
    for name in ("cache", found["metric"].replace("_", " "), "exact"):
        table.add_column(name, justify="right")
    exact = found["dropped_tokens"]["generated"]["exact_match"]
    table.add_row("full cache", "100%", f"{100 * found['quality']['full_cache']:.2f}", f"{exact['full_cache']:.1%}")
    measured = [candidate for candidate in (outcome.tuned, outcome.baseline) if candidate]
    for row in measured:
        name = f"{row.label} (tuned)" if row is outcome.tuned else row.label
        right = f"{exact['policy']:.1%}" if row is outcome.exported else ""
        table.add_row(name, f"{row.cache_fraction:.0%}", str(row.difference), right)
    console.print(table)
    console.print(f"\n{outcome.sentence}\n", style="bold", highlight=False)
    precision = found["precision"]
    console.print(
        f"With {found['samples']['report']} report samples the interval is about ±{precision['half_width_points']:.2f} "
        f"points; ±{precision['finer_points']:g} takes about {precision['samples_for_finer']} (--precision "
        f"{precision['finer_points']:g}).", highlight=False,
    )  # fmt: skip
    if found["warm_start"]:
        console.print(found["warm_start"], highlight=False)
    looks = found["samples"]["times_report_was_looked_at"]
    if looks > 1:
        console.print(f"The report samples have judged {looks} choices by now: the interval is a little optimistic.")
    model = outcome.alpha_model
    gain = f"{model.gain.mean:+.4f} [{model.gain.low:+.4f}, {model.gain.high:+.4f}] nats per token"
    said = model.reason or f"the regressor beat the best constant on select samples; on report samples it gains {gain}"
    console.print(f"alpha: {said}", highlight=False)
    console.print(f"MLflow    {tracker.serve_command()}", highlight=False, soft_wrap=True)
    console.print(f"          then open {tracker.link()}", highlight=False, soft_wrap=True)
    console.print(f"Picture   {folder / 'pareto.png'}", highlight=False, soft_wrap=True)
    console.print(f"Policy    {config}", highlight=False, soft_wrap=True)


@contextmanager
def steps(console: Console) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Progress bars with the time left; ``step(name)`` gives a callback for (done, total)."""
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console) as progress:

        def step(name: str) -> Callable[[int, int], None]:
            row = progress.add_task(name, total=None)
            return lambda done, total: progress.update(row, completed=done, total=total)

        yield step

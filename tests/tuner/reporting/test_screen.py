"""The last lines of a run."""

from __future__ import annotations

import io

from rich.console import Console

from tests.tuner.conftest import Finished
from tuner.reporting.screen import show


def test_the_last_lines_say_what_was_found_and_what_to_do_next(finished: Finished) -> None:
    screen = io.StringIO()
    show(Console(file=screen, width=400), finished.result)
    shown, result = screen.getvalue(), finished.result
    assert "On 9 unseen samples" in shown
    assert f"\n{result.sentence}\n" in shown
    assert f"(--precision {result.evidence.precision.finer_points:g})." in shown
    assert f"alpha: {result.alpha.reason}" in shown
    assert "judged" not in shown, "it was the first look"
    last = [line.split()[-1] for line in shown.splitlines()[-3:]]
    assert last == [result.link, str(result.folder / "pareto.png"), str(result.config)]

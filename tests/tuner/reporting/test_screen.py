"""What a user sees: bars on a terminal, few plain lines elsewhere, and the last lines of a run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from tests.tuner.conftest import Finished
from tuner.reporting.screen import Lines, screen, show, watching


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def said() -> tuple[Lines, Clock, list[str]]:
    clock, lines = Clock(), list[str]()
    return Lines(lines.append, clock), clock, lines


def test_a_long_step_says_a_line_every_few_seconds_and_one_at_its_end(said: tuple[Lines, Clock, list[str]]) -> None:
    watch, clock, lines = said
    progress = watch.step("Reading search prompts")
    for done in range(1, 129):
        clock.now += 0.25
        progress(done, 128)
    watch.close()
    assert lines[0] == "Reading search prompts 20/128, 0:27 left"
    assert lines[1] == "Reading search prompts 40/128, 0:22 left"
    assert lines[-1] == "Reading search prompts 128/128"
    assert len(lines) == 7, "six in the 32 seconds, and the end"


def test_a_short_step_says_its_end_only_and_once(said: tuple[Lines, Clock, list[str]]) -> None:
    watch, _, lines = said
    progress = watch.step("Trials")
    for done in (1, 2, 3, 3):
        progress(done, 3)
    watch.step("Fitting alpha")
    watch.say("Something else")
    watch.close()
    assert lines == ["Trials 3/3", "Something else"]


def test_an_end_that_is_told_twice_is_said_once(said: tuple[Lines, Clock, list[str]]) -> None:
    watch, clock, lines = said
    progress = watch.step("Trials")
    for _ in range(2):
        clock.now += 10
        progress(3, 3)
    watch.close()
    assert lines == ["Trials 3/3"]


def test_a_step_that_stops_early_says_how_far_it_came(said: tuple[Lines, Clock, list[str]]) -> None:
    watch, clock, lines = said
    progress = watch.step("Trials")
    clock.now += 1
    progress(40, 100)
    watch.step("Reading select prompts")
    assert lines == ["Trials 40/100, 0:02 left"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_bars_and_a_file_plain_lines(terminal: bool) -> None:
    screen = io.StringIO()
    with watching(Console(file=screen, force_terminal=terminal, width=100)) as watch:
        watch.say("A task")
        watch.step("Trials")(26, 26)
    shown = screen.getvalue()
    assert "A task\n" in shown
    assert ("━" in shown) == terminal
    assert ("\nTrials 26/26\n" in shown) == (not terminal)


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


def test_what_was_not_said_yet_is_said_when_a_run_is_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        with watching(screen()) as watch:
            watch.step("Trials")(37, 100)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().out.startswith("Trials 37/100")


@pytest.mark.parametrize("words", ["T [/x]", "mod[v2]", "[bold]loud[/bold]", ":smile:"])
def test_what_the_user_wrote_is_shown_as_written(capsys: pytest.CaptureFixture[str], words: str) -> None:
    """In square brackets a title would be markup: lost, or an error after all trials."""
    with watching(screen()) as watch:
        watch.say(words)
        watch.step(words)(1, 1)
    assert capsys.readouterr().out == f"{words}\n{words} 1/1\n"
    table = Table(words, title=words)
    table.add_row(words)
    screen().print(table)
    assert capsys.readouterr().out.count(words) == 3

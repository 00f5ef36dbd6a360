"""What a user sees of a run: bars on a terminal, few plain lines elsewhere, and never a long silence."""

from __future__ import annotations

import io
import threading
import time

import pytest
from rich.console import Console
from rich.table import Table

from tuner.reporting import console
from tuner.reporting.console import Lines, screen, watching


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


def test_a_step_that_counts_nothing_is_named_with_its_time_while_nothing_else_is_said(
    said: tuple[Lines, Clock, list[str]],
) -> None:
    watch, clock, lines = said
    for seconds, begin in ((9, "Loading smollm2"), (21, "Trials")):
        for _ in range(seconds):
            clock.now += 1
            watch.remind()
        progress = watch.step(begin)
    progress(1, 2)
    clock.now += 8
    watch.remind()
    clock.now += 8
    watch.remind()
    progress(2, 2)
    clock.now += 8
    watch.remind()
    clock.now += 7
    watch.remind()
    assert lines == [
        "Starting, 0:07 so far",
        "Loading smollm2, 0:05 so far",
        "Loading smollm2, 0:12 so far",
        "Loading smollm2, 0:19 so far",
        "Trials 1/2, 0:00 left",
        "Trials 1/2, 0:16 so far",
        "Trials 2/2",
        "Still working, 0:15 so far",
    ]


def test_a_silent_run_is_reminded_of_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's own thread is asleep here, as it is in a library that tells nothing."""
    monkeypatch.setattr(console, "SECONDS_OF_SILENCE", 1.0)
    screen, threads = io.StringIO(), threading.active_count()
    with watching(Console(file=screen)) as watch:
        watch.step("Loading smollm2")
        deadline = time.monotonic() + 60
        while not screen.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert screen.getvalue().startswith("Loading smollm2, 0:")
    assert threading.active_count() == threads


def test_on_a_terminal_a_step_that_counts_nothing_is_over_where_the_next_begins() -> None:
    screen = io.StringIO()
    with watching(Console(file=screen, force_terminal=True, width=100)) as watch:
        watch.step("Loading smollm2")
        watch.step("Trials")(3, 26)
    last = screen.getvalue().rsplit("Loading smollm2", 1)[-1]
    assert "1/1" in last
    assert "3/26" in last


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

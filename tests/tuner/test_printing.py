"""Other people's words do nothing to a terminal, and a terminal that knows few letters loses nothing."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.table import Table

from tuner.printing import LONGEST, one_line, printable
from tuner.reporting.console import screen


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ±, 日本, नमस्ते", "plain ±, 日本, नमस्ते"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("a\rb\x00c\x7fd", r"a\rb\x00c\x7fd"),
        ("right \u202eto left", r"right \u202eto left"),
        ("two\nlines\tof it", "two\nlines\tof it"),
    ],
)
def test_what_commands_a_terminal_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_sentence_is_one_line_of_a_length_that_is_read() -> None:
    assert one_line("two\n  lines \x1b") == "two lines \\x1b"
    assert len(one_line("x" * 10**6)) < LONGEST + 50


def test_lines_and_cells_on_the_screen_are_written_out() -> None:
    console = screen()
    console.file = out = io.StringIO()
    table = Table("head \x1b[31m")
    table.add_row("cell \x1b[2J [/b]")
    console.print("line \x07 [b]", style="bold")
    console.print(table)
    shown = out.getvalue()
    assert "\x1b" not in shown
    assert all(each in shown for each in (r"line \x07 [b]", r"head \x1b[31m", r"cell \x1b[2J [/b]"))


def test_output_in_ascii_alone_is_no_error() -> None:
    code = (
        "from tuner.printing import write_what_cannot_be_shown; write_what_cannot_be_shown()\n"
        "from tuner.reporting.console import screen\n"
        "screen().print('about ±3.2 points, 日本')"
    )
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=env)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "about \\xb13.2 points, \\u65e5\\u672c\n"

"""What a run takes, before it is run: from few prompts, and nothing is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.tuner.models import samples, tiny
from tuner.inputs.splits import Parts
from tuner.measuring.bank import BANK
from tuner.measuring.texts import Ends
from tuner.reporting.forecast import Forecast, forecast


def test_what_is_held_is_counted_over_all_prompts() -> None:
    model, made = tiny("llama"), tuple(samples(30))
    parts = Parts(made[:10], made[10:15], made[15:], 0)
    found = forecast(model, parts, BANK, Ends(4, frozenset()), trials=10, memory=10**6)
    tokens = sum(len(sample.prompt_ids) for sample in made)
    keys_and_values = 2 * 3 * 2 * 8 * 4  # layers, KV heads, dimensions, float32
    assert found.held == tokens * (keys_and_values + len(BANK) * 3 * 2 * 2)
    assert list(found.seconds) == ["reading", "searching", "choosing", "proving", "fitting alpha"]
    assert all(seconds > 0 for seconds in found.seconds.values())


def test_it_reads_as_minutes_and_says_if_prompts_do_not_fit() -> None:
    seconds = {"reading": 30.0, "searching": 180.0}
    assert str(Forecast(seconds, 3 * 10**9, 2 * 10**9)) == (
        "Time      about 4 min on this machine (reading 30 s, searching 3 min)\n"
        "Memory    3.0 GB of prompts, of 2.0 GB that may be used, so prompts are read again when needed, which is "
        "slower"
    )
    assert str(Forecast(seconds, 10**6, 10**9)).endswith("1 MB of prompts, of 1.0 GB that may be used, which fits")


def test_the_flag_says_what_can_be_proven_and_writes_nothing(tmp_path: Path) -> None:
    words = ["--task", "knowledge", "--check", "--device", "cpu", "--max-degradation", "0.1"]
    command = [sys.executable, "-m", "tuner.cli", *words]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    parts, power, time, memory = result.stdout.splitlines()
    assert parts == "Parts     128 search, 128 select, 1024 report samples"
    assert power.startswith("Power     1024 report samples can prove a loss of at most 0.4 points; you allow 0.1.")
    assert power.endswith("would let this run decide.")
    assert time.startswith("Time      about ")
    assert memory.endswith("which fits")
    assert not list(tmp_path.iterdir())

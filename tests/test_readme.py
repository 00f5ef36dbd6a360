"""The README's commands and its program are run as they stand, with fewer trials."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from studies.samples import SampleSpec, bundled_samples

pytestmark = pytest.mark.long
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_command_runs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "studies" / "reference_model", tmp_path / "my-model")
    spec = SampleSpec(scene="chat", seed="readme-1", tokens=(64, 200), search=8, select=8, report=8)
    with (tmp_path / "calls.jsonl").open("w") as file:
        for sample in bundled_samples(spec, 24):
            file.write(json.dumps({"context": sample.context, "question": sample.question, "answer": sample.answer}))
            file.write("\n")
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("a2sf-tune")]
    assert len(commands) >= 2
    for command in commands:
        words = command.replace("--trials 100", "--trials 24").split()[1:]
        result = subprocess.run(
            [sys.executable, "-m", "tuner.cli", *words], cwd=tmp_path, capture_output=True, text=True, timeout=1800
        )
        assert result.returncode == 0, (command, result.stderr)
    programs = blocks("python")
    assert programs
    for program in programs:
        result = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=1800
        )
        assert result.returncode == 0, result.stderr
        assert "Answer: The picnic is on Friday" in result.stdout


def test_make_targets_and_files_named_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make (tune|test|bench)\b", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / path).exists(), path

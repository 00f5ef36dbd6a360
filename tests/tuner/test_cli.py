"""The command line as a user meets it: one sentence for bad input, and the whole job in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from a2sf_core import A2SFConfig
from tests.calls import run_here
from tests.tuner.conftest import write_short_lists
from tuner import cli
from tuner.inputs.models import load_model

pytestmark = pytest.mark.long

COMMAND = [sys.executable, "-m", "tuner.cli"]


def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=1800)


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


GOOD = [{"context": f"Line {i}. The lamp costs {i + 10} euros.", "question": "How much?", "answer": f"{i + 10} euros."}
        for i in range(12)]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "sumarisation"), "did you mean 'summarisation'?"),
        (("--trials", "0"), "--trials is 0; expected 1 or more"),
        (("--max-degradation", "-1"), "--max-degradation is -1; expected 0 or more"),
        (("--model", "./no-such-folder"), "There is no model folder './no-such-folder'"),
        (("--model", "nobody/nothing"), "There is no folder 'nobody/nothing', and the model was not downloaded before"),
        (("--data", "empty.jsonl"), "empty.jsonl"),
        (("--task", "chat", "--data", "broken.jsonl"), "broken.jsonl line 2"),
        (("--data", "columns.jsonl"), "--column answer=summary"),
        (("--data", "missing.jsonl"), "missing.jsonl"),
        (("--data", "good.jsonl", "--column", "answr=summary"), "did you mean answer=summary?"),
        (("--device", "gpu"), "There is no device 'gpu'"),
        (("--family", "grups"), "--family is 'grups'; did you mean 'groups'?"),
        (("--rule", "dekay"), "--rule is 'dekay'; did you mean 'decay'?"),
        (("--rule", "by-prompt"), "--rule by-prompt is not asked for by itself; learned brings it"),
        (("--memory", "lots"), "--memory is 'lots'; expected a size above 0 such as 8GiB"),
        (("--warm-start", "nowhere"), "--warm-start nowhere is not a folder"),
        (("--warm-start", "."), "holds no study (study.journal is missing)"),
        (("--precision", "0"), "--precision is 0; expected percentage points above 0"),
        (("--patience", "0"), "--patience is 0; expected 1 or more trials"),
        (("suggest", "--tokens", "0"), "--tokens is 0; expected 1 or more"),
        (("suggest", "--tokens", "10"), "there is no finished run under ./runs"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text(json.dumps(GOOD[0]) + '\n{"context": \n')
    write_jsonl(tmp_path / "columns.jsonl", [{"context": "a b c", "summary": "a"}])
    write_jsonl(tmp_path / "good.jsonl", GOOD)
    before = sorted(tmp_path.iterdir())
    code, _, stderr = run_here(cli.main, *arguments)
    assert code == 2
    assert words in stderr
    assert "Traceback" not in stderr
    assert stderr.count("\n") == 1, stderr
    assert sorted(tmp_path.iterdir()) == before, "something was written"


def test_bad_input_in_a_process_of_its_own(tmp_path: Path) -> None:
    result = call("--task", "sumarisation", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    assert "did you mean 'summarisation'?" in result.stderr


def test_unknown_options_are_refused_with_the_usual_code(tmp_path: Path) -> None:
    assert call("--trails", "3", cwd=tmp_path).returncode == 2


def test_help_needs_no_heavy_import(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom tuner import cli\ntry:\n    cli.app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'sklearn', 'optuna', 'datasets', 'pandas', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1800)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    result = call("--trials", "3", "--out", str(locked / "run"), cwd=tmp_path)
    assert result.returncode == 2
    assert "cannot write the study" in result.stderr


def test_the_whole_job_is_interrupted_resumed_and_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt with Ctrl-C, resume with the same command, refuse other settings, and use what was exported."""
    write_short_lists(tmp_path / "good.jsonl")
    job = ("--task", "knowledge", "--data", "good.jsonl", "--trials", "26", "--out", "run")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    worker = subprocess.Popen([*COMMAND, *job], cwd=tmp_path, **pipes)
    journal = tmp_path / "run" / "study.journal"
    deadline = time.time() + 1800
    while time.time() < deadline and not (journal.exists() and journal.read_text().count('"nll_increase"') >= 3):
        time.sleep(0.02)
    worker.send_signal(signal.SIGINT)
    _, stderr = worker.communicate(timeout=1800)
    finished = worker.returncode == 0
    assert finished or (worker.returncode == 130 and "the same command goes on from there" in stderr)

    result = call(*job, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "http://127.0.0.1:5000/#/experiments/" in result.stdout
    assert "\nTrials 26/26\n" in result.stdout, "plain lines where there is no terminal"
    assert "━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━" not in result.stdout
    made = {path.name for path in (tmp_path / "run").iterdir()}
    assert made >= {
        "a2sf_config.json",
        "report.json",
        "pareto.png",
        "pareto.html",
        "half_life.png",
        "profile.png",
        "profile.json",
        "mlflow",
    }
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert sum(report["trials"].values()) == 26
    assert report["verdict"] in " ".join(result.stdout.split())
    assert set(tmp_path.iterdir()) == {tmp_path / "good.jsonl", tmp_path / "run"}

    monkeypatch.chdir(tmp_path)
    code, _, stderr = run_here(cli.main, *job, "--seed", "5", seconds=60)
    assert code == 2
    assert "holds a study with another seed (0, now 5)" in stderr

    code, stdout, _ = run_here(cli.main, "suggest", "--tokens", "30", "--run", "run")
    assert code == 0
    assert stdout.startswith("alpha ")

    model, tokenizer = load_model("reference")
    question = "The blue lamp costs 34 euros.\nQuestion: How much is the blue lamp?\nAnswer:"
    prompt = tokenizer(question, return_tensors="pt")
    with A2SFConfig.from_pretrained("run").attach(model):
        output = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert tokenizer.decode(output[0], skip_special_tokens=True).startswith(question)

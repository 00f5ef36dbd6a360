"""What a user hands in, with something wrong in it: flags, task files, data files, model folders."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.conftest import ROWS
from tests.tuner.fuzz import mutations
from tests.tuner.fuzz.cases import command, number_of, refused_or_done, sentence_or_nothing
from tuner.inputs.data import load_samples
from tuner.inputs.models import load_model, max_tokens
from tuner.inputs.tasks import load_task

VALUES = (
    *("", " ", "0", "-1", "1", "1.5", "1e999", "-1e999", "nan", "inf", "1e-320", "9" * 30, "9" * 5000, "x", "x" * 5000),
    *("\x1b[31mred", "a\nb", "日本", "../..", "/", "/dev/null", "/dev/zero", "/proc/self/mem", "~", ".", "a=b", "="),
    *("--", "None", "\u202ex", "[b]x[/b]", "auto", "cuda:99", "tpe", "decay", "8GiB", "1e3GiB", "answer=summary"),
    *(
        "answer=\x1b[2J",
        "missing.jsonl",
        "missing.yaml",
        "pipe",
        "good.jsonl",
        "file:./mlruns",
        "http://",
        "sqlite:///",
    ),
)
OPTIONS = (
    *(
        "--task",
        "--trials",
        "--model",
        "--data",
        "--column",
        "--limit",
        "--data-split",
        "--max-degradation",
        "--device",
    ),
    *("--dtype", "--seed", "--out", "--family", "--rule", "--sampler", "--memory", "--warm-start", "--patience"),
    *("--precision", "--mlflow"),
)
TASK = """\
title: Mine
description: what for
prompt: "{context} Q: {question} A:"
default_question: "What is it?"
metric: f1
max_new_tokens: 24
stop: ["\\n", "Q:"]
eos: true
system: ""
answer_prefix: ""
chat_template: off
examples:
  - context: A lamp.
    question: What?
    answer: A lamp
samples:
  scene: knowledge
  seed: fuzz
  tokens: [48, 96]
  hard_share: 0.5
  search: 4
  select: 4
  report: 4
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a pipe that nobody writes to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def test_flags(here: Path) -> None:
    """Two options are drawn; a third that is always wrong keeps what passes from becoming a run."""
    for number in range(number_of(400)):
        rng = random.Random(f"flags:{number}")
        drawn = [word for option in rng.sample(OPTIONS, 2) for word in (option, rng.choice(VALUES))]
        always = rng.choice([("--device", "gpu"), ("--model", "./none"), ("--family", "grups"), ("--patience", "0")])
        kept = [word for pair in zip(drawn[::2], drawn[1::2], strict=True) if pair[0] != always[0] for word in pair]
        assert not refused_or_done(f"flags {number} {str(kept)[:150]}", *kept, *always)
    assert {path.name for path in here.iterdir()} == {"pipe", "good.jsonl"}, "something was written"


def test_suggest_with_any_length_and_any_run(here: Path) -> None:
    for number in range(number_of(100)):
        rng = random.Random(f"suggest:{number}")
        refused_or_done(f"suggest {number}", "suggest", "--tokens", rng.choice(VALUES), "--run", rng.choice(VALUES))


def test_task_files(here: Path) -> None:
    def use() -> None:
        task = load_task("mine.yaml")
        task.render("context", "question")
        task.digest()

    for name, text in mutations.drawn("task", number_of(350), lambda rng: mutations.of_text(rng, TASK)):
        (here / "mine.yaml").write_bytes(text)
        sentence_or_nothing(name, use)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nprompt: *b\n",
        "include: mine.yaml\n",
        "include: pipe\n",
        "include: /dev/zero\n",
        'include: "a\\0b"\n',
        "include: loop\n",
        TASK.replace("search: 4", "search: 99999999999"),
        TASK.replace("max_new_tokens: 24", "max_new_tokens: " + "9" * 5000),
        TASK.replace("metric: f1", "metric: os:system"),
    ],
)
def test_task_files_that_would_never_end(here: Path, text: str) -> None:
    (here / "loop").symlink_to("loop")
    (here / "mine.yaml").write_text(text)
    assert not refused_or_done("endless task", "--task", "mine.yaml", "--patience", "0")
    assert sentence_or_nothing("endless task", lambda: load_task("mine.yaml")) or "os:system" in text


def as_csv(rows: list[dict[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_data_files(here: Path, kind: str) -> None:
    rows: list[dict[str, Any]] = [{**row, "id": f"r{i}"} for i, row in enumerate(ROWS[:6])]
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), here / "whole.parquet")
        whole = (here / "whole.parquet").read_bytes()

    def mutate(rng: random.Random) -> bytes:
        if kind == "parquet":
            return mutations.of_bytes(rng, whole)
        if kind == "csv":
            return mutations.of_text(rng, as_csv(rows))
        lines, place = [json.dumps(row).encode() for row in rows], rng.randrange(len(rows))
        lines[place] = mutations.of_json(rng, rows[place])
        return b"\n".join(lines)

    path = here / f"data.{kind}"
    for name, text in mutations.drawn(kind, number_of(150), mutate):
        path.write_bytes(text)
        sentence_or_nothing(name, lambda: load_samples(str(path)))
        if b"\x1b" in text:
            refused_or_done(f"{name} shown", "--data", str(path), "--patience", "0")


MODEL_FILES = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")


def test_model_folders(here: Path, small_model: Path) -> None:
    for number in range(number_of(250)):
        rng = random.Random(f"model:{number}")
        folder = here / f"model-{number}"
        shutil.copytree(small_model, folder)
        name = rng.choice(MODEL_FILES)
        content = json.loads((folder / name).read_text())
        (folder / name).write_bytes(mutations.of_json(rng, content))

        def use(folder: Path = folder) -> None:
            model, tokenizer = load_model(str(folder), "cpu")
            max_tokens(model, tokenizer)

        sentence_or_nothing(f"model {number} {name}", use)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"model_type": "llama", "num_hidden_layers": 1000000}'),
        ("config.json", '{"model_type": "llama", "num_hidden_layers": 1e999}'),
        ("config.json", '{"model_type": "llama", "text_config": {"num_hidden_layers": 99999999999}}'),
        ("config.json", '{"model_type": "llama", "vocab_size": ' + "9" * 30 + "}"),
        ("model.safetensors.index.json", '{"weight_map": null}'),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../../x"}}'),
        ("model.safetensors.index.json", '{"weight_map": {"a": 1}}'),
        ("model.safetensors", ""),
        ("tokenizer_config.json", '{"model_max_length": "x"}'),
    ],
)
def test_model_folders_that_would_fill_the_memory(here: Path, small_model: Path, name: str, text: str) -> None:
    shutil.copytree(small_model, here / "model")
    (here / "model" / name).write_text(text)
    said = sentence_or_nothing(name, lambda: load_model(str(here / "model"), "cpu"))
    assert said or name == "tokenizer_config.json"


def test_a_pipe_is_refused_wherever_a_file_may_be_given(here: Path, small_model: Path) -> None:
    shutil.copytree(small_model, here / "model")
    (here / "model" / "generation_config.json").unlink()
    os.mkfifo(here / "model" / "generation_config.json")
    os.mkfifo(here / "data.jsonl")
    os.mkfifo(here / "task.yaml")
    (here / "earlier").mkdir()
    os.mkfifo(here / "earlier" / "study.journal")
    for arguments in (
        ("--task", "task.yaml"), ("--data", "data.jsonl"), ("--model", "model"), ("--model", "pipe"),
        ("--task", "./pipe"),
        ("--warm-start", "earlier", "--model", "reference"), ("suggest", "--tokens", "9", "--run", "pipe"),
        ("--out", "earlier"), ("--out", "pipe"), ("suggest", "--tokens", "9", "--run", "/dev/zero"),
    ):  # fmt: skip
        code, _, err = command(" ".join(arguments), *arguments)
        assert code == 2, (arguments, err)
        assert err.count("\n") == 1, (arguments, err)

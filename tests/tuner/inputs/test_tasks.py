"""The bundled tasks and their samples, and every sentence about a task file that is wrong."""

from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from a2sf_core import A2SFError
from studies import train
from studies.samples import TRAINING_SEED, bundled_samples, kinds_of
from studies.world import SCENES, Question, Scene, count_tokens
from tuner.inputs.own_metric import find_metric
from tuner.inputs.tasks import Task, bundled_tasks, load_task

GOOD = """\
title: My task
prompt: "{context} {question}"
metric: f1
max_new_tokens: 8
samples:
  scene: chat
  tokens: [32, 64]
  seed: mine
  search: 4
  select: 4
  report: 4
"""


def said(name_or_path: str | Path) -> str:
    with pytest.raises(A2SFError) as caught:
        load_task(str(name_or_path))
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return message


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    return path


def change(file: Path, old: str, new: str) -> Path:
    assert old in GOOD
    file.write_text(GOOD.replace(old, new))
    return file


def test_the_three_bundled_tasks() -> None:
    assert set(bundled_tasks()) >= {"chat", "knowledge", "summarisation"}
    for name in bundled_tasks():
        task = load_task(name)
        assert task.name == name
        assert task.samples is not None
        assert find_metric(task.metric).needs_generation, "whole answers are what a reader cares about"
        assert task.description


def test_prompts_read_as_in_training() -> None:
    for name in bundled_tasks():
        assert load_task(name).render("A text.", "What?") == "A text.\nQuestion: What?\nAnswer:"


def test_the_default_question_is_asked_where_there_is_none() -> None:
    assert "Summarise the call." in load_task("summarisation").render("A text.", "")
    assert "Summarise the call." not in load_task("summarisation").render("A text.", "Who?")


def test_braces_in_a_context_are_only_text() -> None:
    assert "{x} {question}" in load_task("chat").render("{x} {question}", "What?")


@pytest.mark.parametrize(
    ("name", "digest"), [("chat", "cfa75cf15c7c"), ("knowledge", "4f15c461e90a"), ("summarisation", "4eec81e5f385")]
)
def test_studies_from_before_a_field_was_there_know_their_task(name: str, digest: str) -> None:
    """The digests are in every study's identity: a field that a task leaves out must not change them."""
    task = load_task(name)
    assert task.digest()[:12] == digest
    for field, value in {"stop": ("Q",), "eos": False, "chat_template": "auto", "answer_prefix": "It"}.items():
        assert task.model_copy(update={field: value}).digest()[:12] != digest


def test_a_user_task_is_one_file_named_after_it(file: Path) -> None:
    assert load_task(str(file)).name == "mine"


def test_a_task_is_frozen(file: Path) -> None:
    with pytest.raises(ValidationError):
        load_task(str(file)).metric = "f1"  # type: ignore[misc]


def test_a_task_without_bundled_samples(file: Path) -> None:
    file.write_text(GOOD.partition("samples:")[0])
    assert load_task(str(file)).samples is None


# Samples


@pytest.mark.parametrize("name", ["chat", "knowledge", "summarisation"])
def test_a_sample_is_the_same_whatever_is_asked_for(name: str) -> None:
    spec = load_task(name).samples
    assert spec is not None
    many = bundled_samples(spec, 30)
    assert bundled_samples(spec, 5, first=12) == many[12:17]
    assert many[17].id == f"{name}-00017"
    assert len({sample.context for sample in many}) == 30
    assert all(sample.question and sample.answer.strip() for sample in many)
    assert bundled_samples(spec.model_copy(update={"seed": "study-2"}), 1)[0].context != many[0].context


@pytest.mark.parametrize("name", ["chat", "knowledge", "summarisation"])
def test_lengths_are_spread_evenly_on_a_log_scale(name: str) -> None:
    spec = load_task(name).samples
    assert spec is not None
    lengths = sorted(count_tokens(sample.context) for sample in bundled_samples(spec, 100))
    assert lengths[0] >= 110
    assert lengths[-1] <= 1040
    assert 280 < lengths[50] < 470  # the middle of 128 to 1024 is 362


def test_summarisation_asks_for_summaries() -> None:
    spec = load_task("summarisation").samples
    assert spec is not None
    assert all(len(sample.answer.split()) > 8 for sample in bundled_samples(spec, 50))


def test_chat_asks_mostly_for_values_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def chat_of_two(rng: object, n_tokens: int) -> Scene:
        return Scene("context", (Question("a", "?", "hard", hard=True), Question("b", "?", "easy")))

    spec = load_task("chat").samples
    assert spec is not None
    monkeypatch.setitem(SCENES, "chat", chat_of_two)
    asked = Counter(sample.answer for sample in bundled_samples(spec, 400))
    assert 0.74 < asked["hard"] / 400 < 0.86


def test_only_the_kinds_named_are_asked(file: Path) -> None:
    change(file, "scene: chat", "scene: knowledge\n  kinds: [opening]")
    spec = load_task(str(file)).samples
    assert spec is not None
    assert all("closed?" in s.question or "shut?" in s.question for s in bundled_samples(spec, 20))


def test_kinds_are_found_for_every_scene() -> None:
    assert all(len(kinds_of(scene)) >= 5 for scene in SCENES)
    assert "summary" in kinds_of("summarisation")


def test_the_training_seed_is_the_one_refused() -> None:
    assert train.SEED == TRAINING_SEED


# include


def test_include_lays_a_file_over_another(tmp_path: Path, file: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("include: mine.yaml\ntitle: Child\nsamples:\n  seed: other\n")
    task = load_task(str(child))
    assert (task.name, task.title, task.metric) == ("child", "Child", "f1")
    assert task.samples is not None
    assert (task.samples.seed, task.samples.scene) == ("other", "chat")


def test_include_finds_bundled_files(tmp_path: Path) -> None:
    child = tmp_path / "child.yaml"
    child.write_text("include: chat.yaml\nmetric: rouge_l\n")
    assert load_task(str(child)).metric == "rouge_l"


def test_circular_includes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("include: b.yaml\n")
    (tmp_path / "b.yaml").write_text("include: a.yaml\n")
    assert "the includes form a circle (a.yaml -> b.yaml -> a.yaml)" in said(tmp_path / "a.yaml")


def test_include_of_nothing(file: Path) -> None:
    file.write_text("include: mien.yaml\n" + GOOD)
    assert f"There is no task file {file.parent / 'mien.yaml'}; did you mean {file}?" in said(file)
    file.write_text("include: [a, b]\n")
    assert "field 'include' must be the path of one .yaml file" in said(file)


# What is wrong with a file


def test_unknown_name() -> None:
    message = said("summarization")
    assert "There is no task 'summarization'; did you mean 'summarisation'?" in message
    assert "chat, knowledge" in message
    assert "did you mean" not in said("zzz")


def test_missing_file_and_folder(file: Path) -> None:
    assert f"did you mean {file}?" in said(file.parent / "mime.yaml")
    assert "check the path" in said("/nowhere/x.yaml")
    assert "is a folder" in said(file.parent)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("title: My task\n", "", "field 'title' is missing; add it."),
        ("title:", "titel: x\ntitle:", "there is no field 'titel'; did you mean 'title'?"),
        ("title:", "zzz: x\ntitle:", "there is no field 'zzz'; the fields are name, title"),
        ("  seed:", "  sede: x\n  seed:", "there is no field 'samples.sede'; did you mean 'seed'?"),
        ("metric: f1", "metric: rouge", "field 'metric' is 'rouge'; did you mean 'rouge_l'? expected one of"),
        ("{context} ", "", "field 'prompt' must contain {context} exactly once"),
        ("{question}", "{context}", "field 'prompt' must contain {context} exactly once"),
        ("{question}", "{query}", "field 'prompt' has the slot {query}, expected only {context} and {question}"),
        ("{question}", "{question!r}", "field 'prompt' has the slot {question}, expected only"),
        ("{question}", "{question", "field 'prompt' has unbalanced braces"),
        ("tokens: 8", "tokens: 0", "field 'max_new_tokens' is 0: input should be greater than or equal to 1"),
        ("tokens: 8", "tokens: many", "field 'max_new_tokens' is 'many': input should be a valid integer"),
        ("metric: f1", "metric: f1\nstop: Q", "field 'stop' is 'Q'; expected a list of texts, such as [\"Q\"]."),
        ("metric: f1", "metric: f1\nstop: ['']", "field 'stop.0' is '': string should have at least 1 character"),
        (
            "metric: f1",
            "metric: f1\nchat_template: atuo",
            "field 'chat_template' is 'atuo': input should be 'off' or 'auto'",
        ),
        ("metric: f1", "metric: f1\nsystem: Hi", "the field system needs chat_template: auto; add it, or write"),
        ("metric: f1", "metric: f1\nsystem: Hi\nchat_template: off", "the field system needs chat_template: auto"),
        ("metric: f1", "metric: f1\nexamples: [{context: a}]", "field 'examples.0.answer' is missing; add it."),
        (
            "metric: f1",
            "metric: f1\nexamples: [{context: a, anwser: b, answer: b}]",
            "there is no field 'examples.0.anwser'; did you mean 'answer'?",
        ),
        ("metric: f1", "metric: f1\neos: maybe", "field 'eos' is 'maybe': input should be a valid boolean"),
        ("scene: chat", "scene: chats", "field 'samples.scene' is 'chats', expected one of"),
        ("seed: mine", "seed: reference-model-1", "which the reference model was trained on"),
        ("[32, 64]", "[64, 32]", "field 'samples.tokens' is [64, 32], expected the shorter length first"),
        ("[32, 64]", "[1, 64]", "field 'samples.tokens.0' is 1: input should be greater than or equal to 16"),
        ("search: 4", "search: 1", "field 'samples.search' is 1"),
        ("seed: mine", "seed: mine\n  kinds: [food, fod]", "kinds has 'fod', which a chat scene never asks"),
        ("title: My task", "name: my task\ntitle: x", "field 'name' is 'my task'"),
    ],
)
def test_wrong_fields(file: Path, old: str, new: str, expected: str) -> None:
    message = said(change(file, old, new))
    assert message.startswith(f"{file}: ")
    assert expected in message


def test_a_key_written_twice(file: Path) -> None:
    file.write_text(GOOD + "metric: f1\n")
    assert f"{file}: line 12: the key 'metric' is written twice, first on line 3; remove one." == said(file)


def test_broken_yaml_names_the_line(file: Path) -> None:
    file.write_text("title: x\nprompt: [1,\nmetric: f1\n")
    message = said(file)
    assert message.startswith(f"{file}: line 4: expected ',' or ']'")
    assert "that begins on line 2" in message
    file.write_text("title: x\n\tprompt: y\n")
    assert "line 2:" in said(file)


def test_files_that_hold_no_mapping(file: Path) -> None:
    file.write_text("")
    assert "must hold 'field: value' lines such as 'title: My task', not nothing" in said(file)
    file.write_text("- a\n")
    assert "not a list" in said(file)
    file.write_text("? [a, b]\n: c\n")
    assert "line 1" in said(file)
    file.write_bytes(b"title: \xff\n")
    assert "is not UTF-8" in said(file)


def test_yaml_makes_no_objects(file: Path) -> None:
    file.write_text("title: !!python/object/apply:os.getcwd []\n")
    assert "could not determine a constructor" in said(file)


def test_a_file_without_permission(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert "cannot be read: Permission denied." in said(file)


def test_a_task_from_python_is_checked_too() -> None:
    with pytest.raises(ValidationError):
        Task(name="x", title="x", prompt="{context}", metric="f1", max_new_tokens=1)

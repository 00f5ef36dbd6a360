"""Every way to read samples, and every sentence about data that is wrong."""

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from a2sf_core import A2SFError
from studies.samples import Sample
from tuner.inputs.data import content_hash, load_samples, parse_columns

ROWS = [
    {"id": "a", "context": "One, \"two\"\nthree. Ünï", "question": "What?", "answer": "One"},
    {"id": "b", "context": "Four.", "question": "", "answer": "4"},
]  # fmt: skip


def said(source: str | Path, **kwargs: Any) -> str:
    with pytest.raises(A2SFError) as caught:
        load_samples(str(source), **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return message


def jsonl(path: Path, *lines: str | dict[str, Any]) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def csv_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "calls.jsonl", *ROWS)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Hub that refuses connections at once, libraries that do not know so yet, and an empty cache."""
    import datasets
    import huggingface_hub

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


# Reading


def test_the_three_formats_read_alike(good: Path, tmp_path: Path) -> None:
    samples = load_samples(str(good))
    assert samples == [Sample(row["id"], row["context"], row["question"], row["answer"]) for row in ROWS]
    assert load_samples(str(csv_file(tmp_path / "x.csv", ROWS))) == samples
    assert load_samples(str(parquet(tmp_path / "x.parquet", ROWS))) == samples


def test_the_hash_is_that_of_the_content(good: Path, tmp_path: Path) -> None:
    samples = load_samples(str(good))
    moved = load_samples(str(parquet(tmp_path / "x.parquet", ROWS[::-1])))
    assert content_hash(samples) == content_hash(moved)
    assert len(content_hash(samples)) == 64
    assert content_hash(samples[:1]) != content_hash(samples)


def test_question_and_id_may_be_absent(tmp_path: Path) -> None:
    rows = [{"context": "c", "answer": "x"}, {"context": "d", "answer": "x", "question": None}]
    samples = load_samples(str(jsonl(tmp_path / "x.jsonl", *rows)))
    assert [sample.question for sample in samples] == ["", ""]


def test_made_up_ids_follow_their_rows(tmp_path: Path) -> None:
    rows = [{"context": "c", "answer": "x"}, {"context": "d", "answer": "x"}, {"context": "c", "answer": "x"}]
    there = load_samples(str(jsonl(tmp_path / "x.jsonl", *rows)))
    back = load_samples(str(jsonl(tmp_path / "y.jsonl", *rows[::-1])))
    assert {s.id: s for s in there} == {s.id: s for s in back}
    assert len({s.id for s in there}) == 3


def test_whole_numbers_are_ids(tmp_path: Path) -> None:
    assert load_samples(str(jsonl(tmp_path / "x.jsonl", {"id": 7, "context": "c", "answer": "x"})))[0].id == "7"


def test_limit_reads_the_first_rows_only(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", *ROWS, "broken")
    assert len(load_samples(str(path), limit=2)) == 2
    assert "The limit of samples is 0; expected 1 or more." in said(path, limit=0)


def test_a_byte_order_mark_blank_lines_and_crlf_are_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode() + b"\r\n\r\n" + json.dumps(ROWS[1]).encode())
    assert len(load_samples(str(path))) == 2
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbfcontext,answer\r\nc,x\r\n\r\n")
    assert load_samples(str(path))[0].context == "c"


def test_a_long_cell(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "x.csv", [{"context": "word " * 60_000, "answer": "x"}])
    assert len(load_samples(str(path))[0].context) == 300_000


def test_mapped_columns(tmp_path: Path) -> None:
    rows = [{"dialogue": "c", "summary": "x", "context": "not this", "fname": "n1"}]
    mapping = {"context": "dialogue", "answer": "summary", "id": "fname"}
    for path in (jsonl(tmp_path / "x.jsonl", *rows), parquet(tmp_path / "x.parquet", rows)):
        assert load_samples(str(path), mapping) == [Sample("n1", "c", "", "x")]


def test_an_answer_may_be_a_list_of_which_all_are_right(tmp_path: Path) -> None:
    rows = [{"id": "a", "context": "c", "answer": ["x", "y"]}, {"id": "b", "context": "d", "answer": ["z"]}]
    expected = [Sample("a", "c", "", "x", ("y",)), Sample("b", "d", "", "z")]
    assert load_samples(str(jsonl(tmp_path / "x.jsonl", *rows))) == expected
    assert load_samples(str(parquet(tmp_path / "x.parquet", rows))) == expected


def test_ids_and_hash_of_single_answers_are_those_of_before_lists_were_read(tmp_path: Path) -> None:
    single = load_samples(str(jsonl(tmp_path / "x.jsonl", {"context": "c", "question": "q", "answer": "x"})))
    listed = load_samples(str(jsonl(tmp_path / "y.jsonl", {"context": "c", "question": "q", "answer": ["x"]})))
    several = load_samples(str(jsonl(tmp_path / "z.jsonl", {"context": "c", "question": "q", "answer": ["x", "y"]})))
    # Computed with the version that knew single answers only: studies of it can be resumed.
    assert (single[0].id, content_hash(single)[:12]) == ("2999c8af30b2", "f28dd4ebe894")
    assert listed == single
    assert several[0].id != single[0].id
    assert content_hash(several) != content_hash([Sample(several[0].id, "c", "q", "x")])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([], "x.jsonl line 1: column 'answer' is an empty list; give at least one answer or remove the row."),
        (["x", 7], "x.jsonl line 1: column 'answer[1]' is a number; expected text."),
        (["x", " "], "x.jsonl line 1: column 'answer[1]' is blank; fill in the answer or remove the row."),
    ],
)
def test_what_is_wrong_with_a_list_of_answers(tmp_path: Path, answer: list[Any], expected: str) -> None:
    assert said(jsonl(tmp_path / "x.jsonl", {"context": "c", "answer": answer})) == expected


# Paths


def test_missing_file(good: Path) -> None:
    assert f"There is no data file {good.parent / 'call.jsonl'}; did you mean {good}?" == said(
        good.parent / "call.jsonl"
    )
    assert "check the path." in said("/nowhere/x.jsonl")


@pytest.mark.parametrize("name", ["./owner", "/owner/name", "../a/b", "~/x", "a/b/c", "name.json", "a\\b"])
def test_what_looks_like_a_path_is_never_sent_to_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.inputs.hub.hub_blocked", lambda: pytest.fail("asked the Hub"))
    assert "There is no data file" in said(name)


def test_folder(good: Path) -> None:
    assert "is a folder; give one data file (.jsonl, .csv or .parquet; in it: calls.jsonl)." in said(good.parent)


def test_other_suffix_and_addresses(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.json", "[]")
    assert "ends in .json; expected a file that ends in .jsonl, .csv or .parquet." in said(path)
    assert "is an address; download the file and give its path." in said("https://host/x.jsonl")


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\n")
    assert f"{tmp_path / name} has no samples" in said(tmp_path / name)


def test_a_header_alone_is_no_sample(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("context,answer\n")
    assert "has no samples" in said(tmp_path / "x.csv")
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"context": pa.array([], pa.string())}), tmp_path / "x.parquet")
    assert "has no samples" in said(tmp_path / "x.parquet")


def test_no_permission(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert f"{good} cannot be read: Permission denied." in said(good)


# JSON lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"context": "c", answer}', "line 2 is not valid JSON: Expecting property name enclosed in double quotes"),
        ('{"context": "c"', "line 2 is not valid JSON: Expecting ',' delimiter at character 16"),
        ("[" * 100_000, "line 2 is not usable JSON"),
        ('["c", "x"]', 'line 2 is a list, not an object; expected {"context": ..., "answer": ...} on each line'),
        ('"text"', "line 2 is text, not an object"),
        ("null", "line 2 is null, not an object"),
        ('{"context": 3, "answer": "x"}', "line 2: column 'context' is a number; expected text."),
        ('{"context": ["c"], "answer": "x"}', "line 2: column 'context' is a list; expected text."),
        ('{"context": "c", "answer": null}', "line 2: column 'answer' is null; expected text."),
        ('{"context": "c", "answer": true}', "line 2: column 'answer' is true or false; expected text."),
        ('{"context": "c", "answer": {}}', "line 2: column 'answer' is an object; expected text."),
        ('{"context": "c", "answer": " "}', "line 2: column 'answer' is blank; fill in the answer or remove"),
        ('{"context": "", "answer": "x"}', "line 2: column 'context' is blank; fill in the context or remove"),
        ('{"context": "c", "answer": "\\ud800"}', "line 2: column 'answer' holds half of a surrogate pair"),
        ('{"id": "a", "context": "c", "answer": "x"}', "line 2 has the id 'a', as has calls.jsonl line 1;"),
        ('{"id": 1.5, "context": "c", "answer": "x"}', "line 2: column 'id' is a number; expected text or a whole"),
        ('{"context": "c"}', "line 2 has no column 'answer' (it has context); pass --column answer=NAME"),
        ("{}", "line 2 has no column 'context' (it has none)"),
    ],
)
def test_wrong_lines(tmp_path: Path, line: str, expected: str) -> None:
    message = said(jsonl(tmp_path / "calls.jsonl", ROWS[0], line))
    assert message.startswith("calls.jsonl ")
    assert expected in message


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_bytes(json.dumps(ROWS[0]).encode() + b'\n{"context": "caf\xe9"}\n')
    assert said(path) == "calls.jsonl line 2: byte 0xe9 is not UTF-8; save the file as UTF-8."
    path.write_text(json.dumps(ROWS[0]), encoding="utf-16")
    assert said(path) == "calls.jsonl line 1: the file is UTF-16; save the file as UTF-8."


# Columns


@pytest.mark.parametrize("write", [csv_file, parquet, lambda path, rows: jsonl(path, *rows)])
def test_missing_columns_suggest_the_option(tmp_path: Path, write: Callable[..., Path]) -> None:
    suffix = {csv_file: ".csv", parquet: ".parquet"}.get(write, ".jsonl")
    message = said(write(tmp_path / f"x{suffix}", [{"context": "c", "summary": "x"}]))
    assert "has no column 'answer' (it has context, summary); pass --column answer=summary, or rename" in message
    message = said(write(tmp_path / f"x{suffix}", [{"Context": "c", "answer": "x"}]))
    assert "has no column 'context' (it has Context, answer); pass --column context=Context" in message
    message = said(write(tmp_path / f"x{suffix}", [{"contxt": "c", "answer": "x"}]))
    assert "pass --column context=contxt" in message


def test_no_column_of_use_at_all(tmp_path: Path) -> None:
    assert "(it has a, b); pass --column context=NAME" in said(parquet(tmp_path / "x.parquet", [{"a": 1, "b": 2}]))


def test_a_question_under_another_name_is_not_passed_over(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {"context": "c", "query": "q?", "answer": "x"})
    assert "has no column 'question'" in said(path)
    assert "pass --column question=query" in said(path)
    assert load_samples(str(path), {"question": "query"})[0].question == "q?"


def test_a_mapping_to_nothing(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {"context": "c", "summary": "x"})
    message = said(path, columns={"answer": "sumary"})
    assert "no column 'sumary', which --column answer asks for; did you mean --column answer=summary?" in message
    assert "it has context, summary." in said(path, columns={"answer": "zzz"})


def test_options_for_columns() -> None:
    assert parse_columns(["answer=summary", "id=a=b"]) == {"answer": "summary", "id": "a=b"}
    for options, expected in (
        (["answer"], "--column 'answer': expected FIELD=COLUMN, such as answer=summary"),
        (["answer="], "expected FIELD=COLUMN"),
        (["anwser=summary"], "did you mean answer=summary?"),
        (["answer=a", "answer=b"], "--column answer is given twice (a and b); keep one."),
    ):
        with pytest.raises(A2SFError) as caught:
            parse_columns(options)
        assert expected in str(caught.value)


# CSV


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("context,answer\nc,x\nd,y,z\n", "x.csv line 3 has 3 values for 2 columns; put quotes around"),
        ('context,answer\n"c\nd",x\ne\n', "x.csv line 4 has 1 values for 2 columns"),
        ('context,answer\nc,x\n"d,y\n', "x.csv line 3 is not valid CSV: unexpected end of data; check the quotes."),
        ('context,answer\n"c"d,x\n', "x.csv line 2 is not valid CSV: ',' expected after '\"'"),
        ("context;answer\nc;x\n", "x.csv line 1 is separated by semicolons; save the file with commas."),
        ("context\tanswer\nc\tx\n", "x.csv line 1 is separated by tabs"),
        ("context,answer,answer\nc,x,y\n", "x.csv line 1: the column 'answer' is there twice; rename one."),
        ("context,answer\nc,\n", "x.csv line 2: column 'answer' is blank"),
    ],
)
def test_wrong_csv(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    assert expected in said(tmp_path / "x.csv")


# Parquet


def test_what_is_no_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    for content in (b"", b"PAR1 nonsense PAR1", b"x" * 100):
        path.write_bytes(content)
        assert "is not a readable Parquet file" in said(path)


def test_parquet_values_are_checked(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", [{"context": "c", "answer": "x"}, {"context": "d", "answer": None}])
    assert said(path) == "x.parquet row 2: column 'answer' is null; expected text."


# The Hub


@pytest.mark.usefixtures("offline")
def test_the_hub_is_out_of_reach(caplog: pytest.LogCaptureFixture, good: Path) -> None:
    with caplog.at_level(logging.DEBUG):
        message = said("owner/name")
    assert "There is no file 'owner/name', and the data set was not downloaded before and cannot be now" in message
    assert "127.0.0.1 does not answer: Connection refused" in message
    assert not [record for record in caplog.records if "etry" in record.getMessage()]
    assert "did you mean the file calls.jsonl?" in said("calls")


@pytest.mark.usefixtures("offline")
def test_offline_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "(HF_HUB_OFFLINE is set)" in said("owner/name")


@pytest.mark.usefixtures("offline")
def test_names_that_cannot_be() -> None:
    assert "'a b' is neither a file nor the name of a Hub data set" in said("a b")


@pytest.mark.usefixtures("offline")
def test_a_data_set_downloaded_before_is_read_without_the_hub(tmp_path: Path) -> None:
    import datasets

    folder = tmp_path / "cache" / "owner___name" / "default" / "0.0.0" / "0123456789abcdef"
    folder.mkdir(parents=True)
    saved = datasets.Dataset.from_list(ROWS)
    saved.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "data-00000-of-00001.arrow").rename(folder / "name-test.arrow")
    info = datasets.DatasetInfo(
        features=saved.features,
        builder_name="name",
        dataset_name="name",
        config_name="default",
        version="0.0.0",
        splits={"test": {"name": "test", "num_bytes": 1, "num_examples": len(ROWS), "dataset_name": "name"}},
    )
    info.write_to_directory(str(folder))
    assert [sample.id for sample in load_samples("owner/name")] == ["a", "b"]
    assert "Data set 'owner/name', split 'nosplit', cannot be read" in said("owner/name", split="nosplit")
    assert "Data set 'owner/name:other', split 'test', cannot be read" in said("owner/name:other")
    assert not datasets.config.HF_HUB_OFFLINE


def test_a_data_set_from_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = {}

    def stand_in(name: str, config: str | None, **kwargs: Any) -> list[dict[str, str]]:
        asked.update(name=name, config=config, **kwargs)
        return ROWS

    monkeypatch.setattr("tuner.inputs.hub.hub_blocked", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    assert len(load_samples("owner/name:qa", limit=1, split="validation")) == 1
    assert asked == {"name": "owner/name", "config": "qa", "split": "validation", "streaming": True}


def test_a_name_that_the_hub_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unknown(*args: Any, **kwargs: Any) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'owner/name' doesn't exist on the Hub")

    monkeypatch.setattr("tuner.inputs.hub.hub_blocked", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", unknown)
    assert "There is no data set 'owner/name' on the Hub that you may read" in said("owner/name")

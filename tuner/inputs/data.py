"""Samples from the user's own data: wherever the rows come from, one function makes samples of them."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from a2sf_core.errors import A2SFError
from studies.samples import Sample
from tuner.inputs.hub import hub_rows
from tuner.inputs.rows import FIELDS, FILE_SUFFIXES, LISTS, OPTIONAL, file_rows, is_path, kind_of

# What columns are called elsewhere, to suggest the right --column.
LIKELY = {
    "context": "text document article dialogue transcript passage input source content conversation meeting",
    "question": "query questions instruction",
    "answer": "answers summary reference output target response highlights completion label abstract",
    "id": "",
    "facts": "",
    "choices": "options",
}


def load_samples(
    source: str,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    split: str = "test",
    lists: Collection[str] = (),
) -> list[Sample]:
    """The samples of a .jsonl, .csv or .parquet file, or of a Hub data set (owner/name or owner/name:config).

    `columns` says which column holds a field, as in {"answer": "summary"}; `limit` reads the first rows
    only; `split` is that of a Hub data set. A row without an id gets one made of its content, which stays
    when rows move. Of the fields "facts" and "choices" only those in `lists` are read, which every row must have, and
    those in `columns`. An answer may be a list of texts, each of them right, except in CSV.

    Raises:
        A2SFError: naming the file, line and column, what was expected and how to mend it.
    """
    if limit is not None and limit < 1:
        raise A2SFError(f"The limit of samples is {limit}; expected 1 or more.")
    if "://" in source:
        raise A2SFError(f"{source} is an address; download the file and give its path.")
    path = Path(source).expanduser()
    if path.is_dir():
        inside = ", ".join(sorted(p.name for p in path.iterdir() if p.suffix in FILE_SUFFIXES)[:6]) or "none"
        raise A2SFError(f"{source} is a folder; give one data file (.jsonl, .csv or .parquet; in it: {inside}).")
    rows = file_rows(path, columns) if path.exists() or is_path(source) else hub_rows(source, split)
    try:
        samples = _samples(islice(rows, limit), dict(columns or {}), lists)
    except OSError as error:
        said = error.strerror or " ".join(str(error).split()).rstrip(" .")
        raise A2SFError(f"{source} cannot be read: {said}.") from None
    if not samples:
        raise A2SFError(f"{source} has no samples; expected one per row, with the columns context and answer.")
    return samples


def parse_columns(options: Iterable[str]) -> dict[str, str]:
    """The mapping for `load_samples` from options such as "answer=summary"."""
    columns: dict[str, str] = {}
    for option in options:
        field, sign, column = option.partition("=")
        if not sign or not column or field not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, n=1)
            hint = f"did you mean {near[0]}={column or '...'}? " if near and near[0] != field else ""
            raise A2SFError(
                f"--column {option!r}: {hint}expected FIELD=COLUMN, such as answer=summary, "
                f"with one of the fields {', '.join(FIELDS)}."
            )
        if columns.get(field, column) != column:
            raise A2SFError(f"--column {field} is given twice ({columns[field]} and {column}); keep one.")
        columns[field] = column
    return columns


def content_hash(samples: Sequence[Sample]) -> str:
    """SHA-256 over the samples, whatever their order and the format of the file they came from."""
    lines = sorted(
        json.dumps(
            [
                s.id,
                s.context,
                s.question,
                s.answer,
                *s.other_answers,
                *([s.facts] if s.facts else []),
                *([s.choices] if s.choices else []),
            ]
        )
        for s in samples
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _samples(
    rows: Iterable[tuple[str, Mapping[str, Any]]], columns: dict[str, str], lists: Collection[str]
) -> list[Sample]:
    fields = [field for field in FIELDS if field not in LISTS or field in {*lists, *columns}]
    samples: list[Sample] = []
    places: dict[str, str] = {}
    for place, row in rows:
        found = {field: _column(place, row, field, columns) for field in fields}
        context, question = (_text(place, row, found[field], field) for field in FIELDS[:2])
        answer, *others = _answers(place, row, found["answer"])
        own_id = row.get(found["id"]) if found["id"] else None
        if own_id is None or own_id == "":
            # Rows that say the same word for word are told apart by a count.
            digest = hashlib.sha256(json.dumps([context, question, answer, *others]).encode()).hexdigest()[:12]
            name, copy = digest, 1
            while name in places:
                copy += 1
                name = f"{digest}-{copy}"
        elif isinstance(own_id, (str, int)) and not isinstance(own_id, bool):
            name = str(own_id)
        else:
            raise A2SFError(f"{place}: column {found['id']!r} is {kind_of(own_id)}; expected text or a whole number.")
        if name in places:
            raise A2SFError(
                f"{place} has the id {name!r}, as has {places[name]}; make the ids differ or leave them out."
            )
        places[name] = place
        facts, choices = (
            tuple(_texts(place, row, column, field)) if (column := found.get(field)) and row[column] else ()
            for field in LISTS
        )
        samples.append(Sample(name, context, question, answer, tuple(others), facts, choices))
    return samples


def _column(place: str, row: Mapping[str, Any], field: str, columns: Mapping[str, str]) -> str | None:
    """The column of this row that holds `field`; None for an optional one that is not there."""
    if field in columns:
        if columns[field] in row:
            return columns[field]
        near = difflib.get_close_matches(columns[field], list(row), n=1)
        hint = f"did you mean --column {field}={near[0]}?" if near else f"it has {', '.join(row) or 'none'}."
        raise A2SFError(f"{place} has no column {columns[field]!r}, which --column {field} asks for; {hint}")
    if field in row:
        return field
    free = [name for name in row if name not in {*FIELDS, *columns.values()}]
    likely = [name for name in free if name.lower() in (field, *LIKELY[field].split())]
    if field == "id" or (field in OPTIONAL and not likely):
        return None
    alike = likely or difflib.get_close_matches(field, free, n=1)
    remedy = f"pass --column {field}={alike[0]}" if alike else f"pass --column {field}=NAME"
    if field in LISTS:
        remedy = (
            f"the task's metric asks for {field}, a list of texts: add them, {remedy}, or take another metric, in a "
            "task file with 'include: TASK' and 'metric: rouge_l'"
        )
    else:
        remedy += ", or rename the column"
    # A question under another name is not passed over: every sample would silently be asked nothing.
    raise A2SFError(f"{place} has no column {field!r} (it has {', '.join(row) or 'none'}); {remedy}.")


def _answers(place: str, row: Mapping[str, Any], column: str | None) -> list[str]:
    """The answer first, and others that are as right where the column holds a list."""
    if column is None or not isinstance(row[column], list):
        return [_text(place, row, column, "answer")]
    return _texts(place, row, column, "answer")


def _texts(place: str, row: Mapping[str, Any], column: str, field: str) -> list[str]:
    """A list of texts; each is held to what a single one is, under a name that says which of them is meant."""
    value = row[column]
    if not isinstance(value, list):
        raise A2SFError(f"{place}: column {column!r} is {kind_of(value)}; expected a list of texts.")
    if not value:
        raise A2SFError(
            f"{place}: column {column!r} is an empty list; give at least one {field.removesuffix('s')} "
            "or remove the row."
        )
    return [_text(place, {f"{column}[{i}]": each}, f"{column}[{i}]", field) for i, each in enumerate(value)]


def _text(place: str, row: Mapping[str, Any], column: str | None, field: str) -> str:
    value = row[column] if column else ""
    if field == "question" and value is None:
        value = ""
    if not isinstance(value, str):
        raise A2SFError(f"{place}: column {column!r} is {kind_of(value)}; expected text.")
    if field != "question" and not value.strip():
        raise A2SFError(f"{place}: column {column!r} is blank; fill in the {field} or remove the row.")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise A2SFError(f"{place}: column {column!r} holds half of a surrogate pair, which is no character; remove it.")
    return value

"""Read samples from the user's own data: JSON lines, CSV, Parquet, or a data set on the Hub.

Files are read here row by row, so that whatever is wrong can be said with its line. Every reader yields pairs
of a place ("calls.jsonl line 7") and a row (column to value); one function turns rows into samples.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from a2sf_core.errors import A2SFError
from studies.samples import Sample
from tuner.inputs.hub import hub_rows

FIELDS = ("context", "question", "answer", "id")
# What columns are called elsewhere, to suggest the right --column.
LIKELY = {
    "context": "text document article dialogue transcript passage input source content conversation meeting",
    "question": "query questions instruction",
    "answer": "answers summary reference output target response highlights completion label abstract",
    "id": "",
}
FILE_SUFFIXES = (".jsonl", ".csv", ".parquet")
# A name that ends so is a file that is not there, never a data set on the Hub.
LOOKS_LIKE_FILE = (*FILE_SUFFIXES, ".json", ".ndjson", ".tsv", ".txt", ".gz", ".zip", ".xlsx", ".arrow")

Rows = Iterator[tuple[str, Mapping[str, Any]]]


def load_samples(
    source: str, columns: Mapping[str, str] | None = None, limit: int | None = None, split: str = "test"
) -> list[Sample]:
    """The samples of a .jsonl, .csv or .parquet file, or of a Hub data set (owner/name or owner/name:config).

    ``columns`` says which column holds a field, as in {"answer": "summary"}; ``limit`` reads the first rows
    only; ``split`` is that of a Hub data set. A row without an id gets one made of its content, which stays
    when rows move.

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
    rows = _file_rows(path, columns) if path.exists() or _is_path(source) else hub_rows(source, split)
    try:
        samples = _samples(islice(rows, limit), dict(columns or {}))
    except OSError as error:
        raise A2SFError(f"{source} cannot be read: {error.strerror or error}.") from None
    if not samples:
        raise A2SFError(f"{source} has no samples; expected one per row, with the columns context and answer.")
    return samples


def parse_columns(options: Iterable[str]) -> dict[str, str]:
    """The mapping for ``load_samples`` from options such as "answer=summary"."""
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
    lines = sorted(json.dumps([s.id, s.context, s.question, s.answer]) for s in samples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_path(source: str) -> bool:
    marks = source.startswith((".", "/", "~")) or "\\" in source or source.count("/") > 1
    return marks or Path(source).suffix.lower() in LOOKS_LIKE_FILE


def _file_rows(path: Path, columns: Mapping[str, str] | None) -> Rows:
    suffix = path.suffix.lower()
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "check the path."
        raise A2SFError(f"There is no data file {path}; {hint}")
    if suffix == ".jsonl":
        return _jsonl_rows(path)
    if suffix == ".csv":
        return _csv_rows(path)
    if suffix == ".parquet":
        return _parquet_rows(path, columns)
    raise A2SFError(f"{path} ends in {suffix or 'nothing'}; expected a file that ends in .jsonl, .csv or .parquet.")


def _text_lines(path: Path) -> Iterator[str]:
    """Lines with their ends. Decoded one by one, as only so the line with a wrong byte is known."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                utf16 = number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff")
                found = "the file is UTF-16" if utf16 else f"byte {raw[error.start]:#04x} is not UTF-8"
                raise A2SFError(f"{path.name} line {number}: {found}; save the file as UTF-8.") from None


def _jsonl_rows(path: Path) -> Rows:
    for number, line in enumerate(_text_lines(path), 1):
        if not line.strip():
            continue
        place = f"{path.name} line {number}"
        try:
            row = json.loads(line.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            raise A2SFError(
                f"{place} is not valid JSON: {error.msg} at character {error.colno}; expected one whole "
                "object per line."
            ) from None
        except (ValueError, RecursionError) as error:
            raise A2SFError(f"{place} is not usable JSON: {error}.") from None
        if not isinstance(row, dict):
            raise A2SFError(
                f'{place} is {_kind(row)}, not an object; expected {{"context": ..., "answer": ...}} on each line.'
            )
        yield place, row


def _csv_rows(path: Path) -> Rows:
    csv.field_size_limit(2**31 - 1)  # the default of 131,072 characters is less than a long transcript
    reader = csv.reader(_text_lines(path), strict=True)
    header: list[str] = []
    start = 1
    try:
        for cells in reader:
            place, start = f"{path.name} line {start}", reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = [name.strip() for name in cells]
                _check_header(place, header)
            elif len(cells) != len(header):
                raise A2SFError(
                    f"{place} has {len(cells)} values for {len(header)} columns; put quotes around values "
                    "that hold commas, "
                    "quotes or line breaks."
                )
            else:
                yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise A2SFError(f"{path.name} line {start} is not valid CSV: {error}; check the quotes.") from None


def _check_header(place: str, header: list[str]) -> None:
    for name in header:
        if header.count(name) > 1:
            raise A2SFError(f"{place}: the column {name!r} is there twice; rename one.")
    for sign, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and sign in header[0]:
            raise A2SFError(f"{place} is separated by {word}; save the file with commas.")


def _parquet_rows(path: Path, columns: Mapping[str, str] | None) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            # One row holds all names, for the sentence on missing columns; only those needed are read.
            needed = [name for name in names if name in {*FIELDS, *(columns or {}).values()}]
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=needed):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path.name} row {number}", {**dict.fromkeys(names), **row}
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise A2SFError(f"{path} is not a readable Parquet file ({reason}); write it again.") from None


def _samples(rows: Iterable[tuple[str, Mapping[str, Any]]], columns: dict[str, str]) -> list[Sample]:
    samples: list[Sample] = []
    places: dict[str, str] = {}
    for place, row in rows:
        found = {field: _column(place, row, field, columns) for field in FIELDS}
        context, question, answer = (_text(place, row, found[field], field) for field in FIELDS[:3])
        own_id = row.get(found["id"]) if found["id"] else None
        if own_id is None or own_id == "":
            # Rows that say the same word for word are told apart by a count.
            digest = hashlib.sha256(json.dumps([context, question, answer]).encode()).hexdigest()[:12]
            name, copy = digest, 1
            while name in places:
                copy += 1
                name = f"{digest}-{copy}"
        elif isinstance(own_id, (str, int)) and not isinstance(own_id, bool):
            name = str(own_id)
        else:
            raise A2SFError(f"{place}: column {found['id']!r} is {_kind(own_id)}; expected text or a whole number.")
        if name in places:
            raise A2SFError(
                f"{place} has the id {name!r}, as has {places[name]}; make the ids differ or leave them out."
            )
        places[name] = place
        samples.append(Sample(name, context, question, answer))
    return samples


def _column(place: str, row: Mapping[str, Any], field: str, columns: Mapping[str, str]) -> str | None:
    """The column of this row that holds ``field``; None for a question or id that is not there."""
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
    if field == "id" or (field == "question" and not likely):
        return None
    alike = likely or difflib.get_close_matches(field, free, n=1)
    remedy = f"pass --column {field}={alike[0]}" if alike else f"pass --column {field}=NAME"
    # A question under another name is not passed over: every sample would silently be asked nothing.
    raise A2SFError(
        f"{place} has no column {field!r} (it has {', '.join(row) or 'none'}); {remedy}, or rename the column."
    )


def _text(place: str, row: Mapping[str, Any], column: str | None, field: str) -> str:
    value = row[column] if column else ""
    if field == "question" and value is None:
        value = ""
    if not isinstance(value, str):
        raise A2SFError(f"{place}: column {column!r} is {_kind(value)}; expected text.")
    if field != "question" and not value.strip():
        raise A2SFError(f"{place}: column {column!r} is blank; fill in the {field} or remove the row.")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise A2SFError(f"{place}: column {column!r} holds half of a surrogate pair, which is no character; remove it.")
    return value


def _kind(value: Any) -> str:
    """In the words of someone who looks at the file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")

"""Rows of the user's files: JSON lines, CSV and Parquet, each row with its place.

Files are read here row by row, so that whatever is wrong can be said with its line.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from a2sf_core.errors import A2SFError
from a2sf_core.foreign import MEGABYTE, check_regular

FIELDS = ("context", "question", "answer", "id", "facts", "choices")
LISTS = ("facts", "choices")
"""Fields that only some metrics ask for; for others, columns of these names are the user's own affair."""
OPTIONAL = ("question", "id")
FILE_SUFFIXES = (".jsonl", ".csv", ".parquet")
# A name that ends so is a file that is not there, never a data set on the Hub.
LOOKS_LIKE_FILE = (*FILE_SUFFIXES, ".json", ".ndjson", ".tsv", ".txt", ".gz", ".zip", ".xlsx", ".arrow")

MAX_LINE = 256 * MEGABYTE
MAX_DATA = 1_000_000 * MEGABYTE

Rows = Iterator[tuple[str, Mapping[str, Any]]]
"""Pairs of a place ("calls.jsonl line 7") and a row (column to value)."""


def is_path(source: str) -> bool:
    """True for what is meant as a file, whether or not it is there."""
    marks = source.startswith((".", "/", "~")) or "\\" in source or source.count("/") > 1
    return marks or Path(source).suffix.lower() in LOOKS_LIKE_FILE


def file_rows(path: Path, columns: Mapping[str, str] | None) -> Rows:
    """Every row of the file with its place; of a .parquet file only the fields and `columns` are read.

    Raises:
        A2SFError: if there is no such file, or as soon as a row cannot be read.
    """
    suffix = path.suffix.lower()
    if not path.exists():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "check the path."
        raise A2SFError(f"There is no data file {path}; {hint}")
    check_regular(path, "the data file", MAX_DATA)
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
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 1):
            if len(raw) >= MAX_LINE:
                raise A2SFError(f"{path.name} line {number} has over {MAX_LINE / MEGABYTE:g} MB; cut it into samples.")
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                utf16 = number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff")
                found = "the file is UTF-16" if utf16 else f"byte {raw[error.start]:#04x} is not UTF-8"
                raise A2SFError(f"{path.name} line {number}: {found}; save the file as UTF-8.") from None
            if "\0" in text:
                raise A2SFError(f"{path.name} line {number} holds NUL bytes: is the file UTF-16? Save it as UTF-8.")
            yield text


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
            raise A2SFError(f"{place} is not usable JSON: {error}.") from error
        if not isinstance(row, dict):
            raise A2SFError(
                f'{place} is {kind_of(row)}, not an object; expected {{"context": ..., "answer": ...}} on each line.'
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
            for name in {name for name in names if names.count(name) > 1}:
                raise A2SFError(f"{path.name}: the column {name!r} is there twice; rename one.")
            # One row holds all names, for the sentence on missing columns; only those needed are read.
            needed = [name for name in names if name in {*FIELDS, *(columns or {}).values()}]
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=needed):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path.name} row {number}", {**dict.fromkeys(names), **row}
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise A2SFError(f"{path} is not a readable Parquet file ({reason}); write it again.") from error


def kind_of(value: Any) -> str:
    """What a value is, in the words of someone who looks at the file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names = {int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")

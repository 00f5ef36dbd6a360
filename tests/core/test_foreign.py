"""Foreign files: what never ends is not begun, and JSON says each thing once and in numbers that a machine holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from a2sf_core import A2SFConfig, A2SFError
from a2sf_core.foreign import check_regular, parse_json, read_text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', "the field 'a' is there twice"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": -Infinity}', "-Infinity is no JSON number"),
        ('{"a": 1e999}', "1e999 is more than a float holds"),
        ('{"a": ' + "9" * 5000 + "}", "999... has more than 18 digits"),
        ("[" * 40 + "]" * 40, "nested more than 32 deep"),
        ("[" * 100_000, "nested more than 32 deep"),
        (r'{"a": "\ud800"}', "half of a surrogate pair"),
        ('{\n"a": }', "line 2: not valid JSON"),
    ],
)
def test_json_that_is_a_trap(text: str, words: str) -> None:
    with pytest.raises(A2SFError, match=r"f\.json") as caught:
        parse_json(text, "f.json", "mend it.")
    assert words in str(caught.value)
    assert str(caught.value).endswith("mend it.")
    assert len(str(caught.value)) < 200


def test_plain_json_is_read_as_it_is() -> None:
    assert parse_json('{"a": [1, -2.5, "é", null, true]}', "f", "m") == {"a": [1, -2.5, "é", None, True]}


def test_only_a_file_that_ends_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_text("x" * 1000)
    for path, words in (
        (tmp_path / "pipe", "is a pipe, a socket or a device"),
        (Path("/dev/zero"), "is a pipe, a socket or a device"),
        (tmp_path, "is a folder"),
        (tmp_path / "loop", "Too many levels of symbolic links"),
        (Path("a\0b"), "embedded null"),
        (tmp_path / "large", "more than the 0 that are read"),
    ):
        with pytest.raises(A2SFError) as caught:
            check_regular(path, "the file", max_bytes=999)
        assert words in str(caught.value)
    with pytest.raises(FileNotFoundError):
        check_regular(tmp_path / "none", "the file")
    with pytest.raises(A2SFError, match=r"cannot read the file .*none"):
        read_text(tmp_path / "none", "the file", "give one.")


@pytest.mark.parametrize("name", ["pipe", "loop", "a\0b", "none"])
def test_a_policy_is_never_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(A2SFError, match="the policy"):
        A2SFConfig.from_pretrained(tmp_path / name)

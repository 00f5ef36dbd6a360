"""All pieces together are the whole text; nothing of a stop sequence and no half of a character is given away."""

from __future__ import annotations

from typing import Any

import pytest

from a2sf_core.serve.text import Writer


class Bytes:
    """A tokenizer whose tokens are bytes, as the worst case of byte-level BPE."""

    def decode(self, tokens: list[int], **_: Any) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")


def pieces(text: str, *stop: str) -> tuple[list[str], bool]:
    writer, given = Writer(Bytes(), stop), []
    for byte in text.encode():
        given.append(writer.add(byte))
        if writer.is_stopped:
            break
    given.append(writer.end())
    return [each for each in given if each], writer.is_stopped


@pytest.mark.parametrize("text", ["plain", "Grüße, 日本語 🎉🎉", ""])
def test_pieces_are_the_text(text: str) -> None:
    given, is_stopped = pieces(text)
    assert ("".join(given), is_stopped) == (text, False)
    assert given == list(text)


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("one\n\ntwo", ["\n\n"], "one"),
        ("one\ntwo", ["\n\n"], "one\ntwo"),
        ("abcabd", ["abd"], "abc"),
        ("aab", ["ab"], "a"),
        ("ends with a", ["ab"], "ends with a"),
        ("x END y STOP", ["STOP", "END"], "x "),
        ("STOP", ["STOP"], ""),
        ("Grüße!", ["üß"], "Gr"),
    ],
)
def test_a_stop_sequence_ends_the_text_and_is_no_part_of_it(text: str, stop: list[str], left: str) -> None:
    given, is_stopped = pieces(text, *stop)
    assert "".join(given) == left
    assert is_stopped == (left != text)


def test_bytes_that_are_no_character_are_kept() -> None:
    writer = Writer(Bytes())
    assert (writer.add(0xE2), writer.add(0x82), writer.end()) == ("", "", "\ufffd")

"""All pieces together are the whole text; nothing of a stop sequence and no half of a character is given away."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

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
    assert [each.strip() for each in given] == list(text.replace(" ", "")), "a space waits for what follows"


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


def spaced() -> PreTrainedTokenizerFast:
    """As Llama 2's: a leading space is dropped, and what is not in the vocabulary comes as bytes."""
    words = ["\u2581", "\u2581one", "two", "!", *(f"<0x{byte:02X}>" for byte in range(256)), "<end>"]
    made = Tokenizer(BPE({word: number for number, word in enumerate(words)}, [], byte_fallback=True))
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")


def test_real_tokenizers_decode_the_same_in_pieces(reference: tuple[Any, Any]) -> None:
    rng = random.Random(3)
    plain, learned = spaced(), reference[1]
    # Bytes come as whole characters: these tokenizers lose a run of bytes as a whole if one of them fits nowhere.
    letters = [[4 + byte for byte in letter.encode()] for letter in "ü語🎉"]
    words = [
        learned(word, add_special_tokens=False).input_ids for word in ("Anna", " is", "Grüße", "日本語", "🎉", "\n")
    ]
    units = {plain: [[0], [1], [2], [3], [plain.eos_token_id], *letters], learned: [*words, [learned.eos_token_id]]}
    for tokenizer in (plain, learned):
        for _ in range(200):
            tokens = [token for _ in range(rng.randint(1, 30)) for token in rng.choice(units[tokenizer])]
            writer = Writer(tokenizer)
            given = "".join(writer.add(token) for token in tokens) + writer.end()
            assert given == tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_a_long_text_is_not_decoded_again_for_every_token() -> None:
    decoded = 0

    class Counted(Bytes):
        def decode(self, tokens: list[int], **options: Any) -> str:
            nonlocal decoded
            decoded += len(tokens)
            return super().decode(tokens, **options)

    writer, text = Writer(Counted(), ["never"]), "Grüße! " * 200
    assert "".join(writer.add(byte) for byte in text.encode()) + writer.end() == text
    assert decoded < 8 * len(text.encode())


def test_bytes_that_are_no_character_are_kept() -> None:
    writer = Writer(Bytes())
    assert (writer.add(0xE2), writer.add(0x82), writer.end()) == ("", "", "\ufffd")

"""Answers whose score can be told by hand."""

import pytest

from tuner.inputs.metrics import METRICS, contains, exact_match, f1, rouge_l


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("The lecture is on Monday.", "the lecture  is on monday", 1.0),
        ("“Monday!”\n", "Monday", 1.0),
        ("Straße", "STRASSE", 1.0),
        ("Tuesday", "Monday", 0.0),
        ("on Monday", "Monday", 0.0),
        ("a.b", "ab", 0.0),
        ("", "", 1.0),
    ],
)
def test_exact_match_forgives_case_space_and_outer_punctuation_only(
    prediction: str, reference: str, expected: float
) -> None:
    assert exact_match(prediction, reference) == expected


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("the cat sat", "a cat sat", 1.0),
        ("cat dog", "cat", 2 / 3),
        ("cat cat", "cat", 2 / 3),
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("", "", 1.0),
        ("über, München", "München über", 1.0),
    ],
)
def test_f1_is_the_overlap_of_words(prediction: str, reference: str, expected: float) -> None:
    assert f1(prediction, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("It costs 12  Euros, I think.", "12 euros.", 1.0),
        ("12 euros", "12 euros", 1.0),
        ("It costs 112 euros.", "12 euros", 0.0),
        ("(12 euros)", "12 euros", 1.0),
        ("It is free.", "12 euros", 0.0),
        ("a.b", "a+b", 0.0),
    ],
)
def test_contains_finds_the_reference_as_whole_words(prediction: str, reference: str, expected: float) -> None:
    assert contains(prediction, reference) == expected


def test_rouge_l_follows_the_longest_common_order() -> None:
    # Common in order: "a c"; precision 2/3, recall 2/3.
    assert rouge_l("a b c", "a c b") == pytest.approx(2 / 3)
    assert rouge_l("same words", "same words") == 1.0
    assert rouge_l("", "words") == 0.0


def test_rouge_l_counts_words_of_any_script() -> None:
    assert rouge_l("привет мир", "привет мир") == 1.0
    assert rouge_l("über", "uber") == 0.0


def test_token_accuracy_needs_no_text_and_refuses_it() -> None:
    assert not METRICS["token_accuracy"].needs_generation
    assert all(METRICS[name].needs_generation for name in ("exact_match", "contains", "f1", "rouge_l"))
    with pytest.raises(TypeError, match="teacher forcing"):
        METRICS["token_accuracy"].compute("a", "a")


def test_every_metric_is_registered_under_its_own_name() -> None:
    assert all(name == metric.name for name, metric in METRICS.items())


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("東京都の天気は晴れ", "東京都の天気は雨れ", 8 / 9),
        ("北京", "上海", 0.0),
        ("ราคา 34 บาท", "ราคา 35 บาท", 7 / 8),
        ("서울 날씨", "서울 날짜", 0.5),  # Korean has spaces
    ],
)
def test_languages_without_spaces_count_by_character(prediction: str, reference: str, expected: float) -> None:
    assert f1(prediction, reference) == pytest.approx(expected)
    assert rouge_l(prediction, reference) == pytest.approx(expected)

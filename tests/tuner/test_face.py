"""`import tuner` gives four names, and nothing heavy until one of them is used."""

from __future__ import annotations

from importlib.metadata import version

import pytest

import tuner
from tuner.alpha.advice import suggest_alpha
from tuner.run import tune
from tuner.settings import Settings
from tuner.watch import Silent


def test_the_face_has_four_names() -> None:
    assert (tuner.Settings, tuner.tune, tuner.suggest_alpha) == (Settings, tune, suggest_alpha)
    assert tuner.__version__ == version("a2sf-tune")
    with pytest.raises(AttributeError, match="has no attribute 'tone'"):
        _ = tuner.tone  # type: ignore[attr-defined]


def test_a_silent_watch_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Silent()
    watch.step("Trials")(1, 2)
    watch.say("something")
    assert capsys.readouterr() == ("", "")

"""What the picture shows: titles that are true, the front, one line per method, an axis in order."""

from __future__ import annotations

from dataclasses import replace

from tests.tuner.reporting.studies import HAND, TUNED, candidate, make_trials
from tuner.reporting.picture import finding, picture_of


def test_the_title_claims_no_more_than_was_proven() -> None:
    assert finding(TUNED, HAND, 1.0)[0] == "23% of the cache is enough"
    assert "h2o 0.6, needs 60%" in finding(TUNED, HAND, 1.0)[1]
    assert finding(TUNED, HAND, 0.5)[0].startswith("Not proven: 23%")
    assert "h2o 0.6, keeps 60%, but may lose 0.6 points" in finding(TUNED, HAND, 0.5)[1]
    assert finding(candidate("full cache", 1.0, 0.0, 0.0), None, 1.0)[0].startswith("No smaller cache")
    assert "Tuning found nothing smaller" in finding(HAND, HAND, 1.0)[1]


def test_the_front_is_the_best_of_the_trials_and_a_method_is_one_line() -> None:
    picture = picture_of(make_trials(), TUNED, HAND, "lost", 1.0)
    assert {name: len(points) for name, points in picture.families.items()} == {"h2o": 3, "streaming-llm": 3}
    assert picture.front == sorted(picture.front)
    for kept, lost in picture.front:
        assert not any(x <= kept and y < lost for (x, y), _ in picture.dots)


def test_a_known_method_that_was_given_up_early_is_compared_and_a_searched_trial_is_not() -> None:
    picture = picture_of([replace(trial, state="pruned") for trial in make_trials()], TUNED, HAND, "lost", 1.0)
    assert {name: len(points) for name, points in picture.families.items()} == {"h2o": 3, "streaming-llm": 3}
    assert picture.dots == picture.front == []


def test_the_axis_is_linear_inside_the_goal_and_keeps_the_order_beyond() -> None:
    picture = picture_of([], TUNED, None, "lost", 2.0)
    assert picture.squash(0.5) == 0.25
    heights = [picture.squash(lost) for lost in (-40, -2, -1, 0, 1, 2, 2.1, 40)]
    assert heights == sorted(heights)

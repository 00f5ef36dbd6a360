"""The picture of a study as plain figures, while it runs and when it has ended: for whoever draws it elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from a2sf_core.files import write_whole
from tuner.judging.contest import Candidate
from tuner.reporting.canvas import Spot
from tuner.reporting.files import proven_picture
from tuner.reporting.names import FRONT_FILE
from tuner.reporting.picture import NOTE, X_LABEL, X_TICKS, Y_LABEL, Y_TICKS, Picture, allowed, picture_of
from tuner.reporting.result import Result
from tuner.search.objectives import MEMORY, QUALITY
from tuner.search.records import TrialRecord

_UNIT = 0.05  # nats: the axis is linear up to here, and logarithmic beyond, while only the KL is known
_KL_LABEL = "KL to the full cache (nats per token)"
_KL_TICKS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_KL_NOTE = "Measured on search samples. What is proven, and in points of the metric, shows at the end."


def write_front(folder: Path, records: Sequence[TrialRecord], result: Result | None = None) -> None:
    """Write `front.json`: every trial with its figures, and the picture of them."""
    picture = _proven(records, result) if result else _searched(records)
    trials = [
        {
            "number": record.number, "label": record.label, "kind": record.kind, "method": record.method,
            "state": record.state, "cache_fraction": record.metrics.get(MEMORY), "kl": record.metrics.get(QUALITY),
            "on_front": record.pareto,
        }
        for record in records
    ]  # fmt: skip
    write_whole(folder / FRONT_FILE, json.dumps({"trials": trials, "picture": picture}) + "\n")


def _searched(records: Sequence[TrialRecord]) -> Mapping[str, Any] | None:
    """Cache against KL; None before the first trial is complete."""
    picture = picture_of(records, None, None, QUALITY, _UNIT)
    if not (picture.dots or picture.families):
        return None
    return {"y_label": _KL_LABEL, "note": _KL_NOTE, "allowed": None, **_drawn(picture, _KL_TICKS, "KL {:.3g}")}


def _proven(records: Sequence[TrialRecord], result: Result) -> Mapping[str, Any]:
    """Cache against points lost: the figures of pareto.png."""
    outcome = result.outcome
    picture = picture_of(*proven_picture(records, outcome))
    goal = {"y": picture.squash(outcome.goal), "text": allowed(outcome.goal)}
    return {"y_label": Y_LABEL, "note": NOTE, "allowed": goal, **_drawn(picture, Y_TICKS, "loses {:.2f} points")}


def _drawn(picture: Picture, ticks: Sequence[float], said: str) -> Mapping[str, Any]:
    """Places on the axes, each with what it says: x is percent of the cache, y a height between those of `y_range`."""

    def spot(point: Spot, name: str) -> dict[str, Any]:
        return {
            "x": point[0],
            "y": picture.squash(point[1]),
            "text": f"{name}: keeps {point[0]:.1f} %, {said.format(point[1])}",
        }

    heights, names = picture.y_ticks(ticks)
    return {
        "x_label": X_LABEL,
        "x_ticks": X_TICKS,
        "y_range": picture.y_range(),
        "y_ticks": [{"y": height, "text": name} for height, name in zip(heights, names, strict=True)],
        "dots": [spot(point, f"trial {trial.number}") for point, trial in picture.dots],
        "front": [spot(point, "best trial") for point in picture.front],
        "families": [
            {"name": name, "color": color, "points": [spot(point, name) for point in points]}
            for (name, points), (color, *_) in picture.lines()
        ],
        "proven": [_mark(picture, policy, policy is picture.proven[-1]) for policy in picture.proven],
    }


def _mark(picture: Picture, policy: Candidate, chosen: bool) -> dict[str, Any]:
    x, y, low, high = picture.mark(policy)
    return {
        "x": x,
        "y": y,
        "low": low,
        "high": high,
        "chosen": chosen,
        "label": policy.label,
        "text": f"{policy.label}: keeps {policy.cache_fraction:.1%}, {policy.difference} points",
    }

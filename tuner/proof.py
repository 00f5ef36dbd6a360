"""The last step of a study: what was chosen is measured on the report split, and what deserves it is exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from a2sf_core.policy import Policy
from tuner.engine import Engine, Progress
from tuner.finalists import Candidate, Contest
from tuner.suggest import AlphaModel, LossTable, fit, loss_table
from tuner.verdict import best_of, verdict


@dataclass(frozen=True)
class Outcome:
    """What a run found; every candidate but the finalists is measured on the report split.

    ``exported`` is the smaller of ``tuned`` and ``baseline`` that holds there, else the full cache. ``finalists`` are
    measured on the select split. ``losses`` are those of every half-life on the search split, for the picture;
    ``pipeline`` is the fitted surface of the alpha regressor as a scikit-learn estimator.
    """

    exported: Candidate
    tuned: Candidate | None
    baseline: Candidate | None
    finalists: list[Candidate]
    sentence: str
    alpha_model: AlphaModel
    losses: LossTable
    pipeline: Any


def prove(
    contest: Contest,
    search: Engine,
    select: Engine,
    picked: Candidate | None,
    finalists: list[Candidate],
    by_hand: Candidate | None,
    progress: Progress,
) -> Outcome:
    """Measure the picked policy and the best baseline on the report split and fit the alpha regressor.

    Args:
        contest: on the report split.
        search, select: engines of the other two splits, for the regressor.
        picked, by_hand: chosen on the select split, or None where nothing met the goal there.
    """
    goal = contest.max_degradation
    tuned = contest.measure(picked.label, picked.policy) if picked else None
    baseline = contest.measure(by_hand.label, by_hand.policy) if by_hand else None
    nearest = max(finalists, key=lambda c: c.difference.low, default=None)
    closest = contest.measure(nearest.label, nearest.policy) if nearest and not picked else None
    exported = best_of(tuned, baseline, goal) or contest.measure("full cache", Policy.full(contest.engine.n_layers))
    # Around the full cache alpha has no meaning, so the regressor is then fitted around what came nearest.
    around = exported if exported.cache_fraction < 1 else (tuned or closest or baseline or exported)
    losses = loss_table(search, around.policy, progress)
    model, pipeline = fit(losses, around.policy, select, contest.engine, contest.seed)
    sentence = verdict(tuned, closest, baseline, goal, len(contest.engine.samples))
    return Outcome(exported, tuned, baseline, finalists, sentence, model, losses, pipeline)

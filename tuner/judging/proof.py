"""The last step of a study: what was chosen is measured on the report split, and what deserves it is exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from a2sf_core.policy import Policy
from tuner.alpha.model import AlphaModel
from tuner.alpha.regressor import fit
from tuner.alpha.table import LossTable, loss_table
from tuner.judging.choice import Choice
from tuner.judging.contest import Candidate, Contest
from tuner.judging.verdict import best_of, verdict
from tuner.measuring.engine import Engine, Progress


@dataclass(frozen=True)
class Outcome:
    """What a run found; every candidate but the finalists is measured on the report split.

    ``exported`` is the smaller of ``tuned`` and ``baseline`` that holds there, else the full cache. ``finalists`` are
    measured on the select split. ``on_search`` is the difference in points of token accuracy that the search saw for
    ``exported``: what it promised. ``losses`` are those of every half-life on the search split, for the picture;
    ``pipeline`` is the fitted surface of the alpha regressor as a scikit-learn estimator.
    """

    exported: Candidate
    tuned: Candidate | None
    baseline: Candidate | None
    finalists: list[Candidate]
    on_search: float
    sentence: str
    alpha_model: AlphaModel
    losses: LossTable
    pipeline: Any


def lowest_that_holds(contest: Contest, ladder: list[Candidate]) -> Candidate | None:
    """The last rung before the first one that fails, as measured here; the safest if even that one fails.

    Testing in an order that was fixed beforehand, and going on only while it holds, needs no correction for having
    looked several times: one of the claims made is wrong with the same small chance as if there were only one.
    """
    holding = None
    for rung in ladder:
        measured = contest.measure(rung.label, rung.policy, rung.params)
        if not measured.meets(contest.max_degradation):
            return holding or measured
        holding = measured
    return holding


def prove(
    contest: Contest,
    search: Engine,
    select: Engine,
    choice: Choice,
    progress: Progress,
) -> Outcome:
    """Measure the picked policy and the best baseline on the report split and fit the alpha regressor.

    Args:
        contest: on the report split.
        search, select: engines of the other two splits, for the regressor.
        choice: made on the select split.
    """
    goal = contest.max_degradation
    tuned, baseline = (lowest_that_holds(contest, ladder) for ladder in (choice.picked, choice.by_hand))
    nearest = max(choice.finalists, key=lambda c: c.difference.low, default=None)
    closest = contest.measure(nearest.label, nearest.policy) if nearest and not tuned else None
    exported = best_of(tuned, baseline, goal) or contest.measure("full cache", Policy.full(contest.engine.n_layers))
    # Around the full cache alpha has no meaning, so the regressor is then fitted around what came nearest.
    around = exported if exported.cache_fraction < 1 else (tuned or closest or baseline or exported)
    losses = loss_table(search, around.policy, progress)
    model, pipeline = fit(losses, around.policy, select, contest.engine, contest.seed)
    sentence = verdict(tuned, closest, baseline, goal, len(contest.engine.samples))
    searched, full = (search.evaluate(p) for p in (exported.policy, Policy.full(search.n_layers)))
    on_search = 100 * float((searched.accuracy - full.accuracy).mean())
    return Outcome(exported, tuned, baseline, choice.finalists, on_search, sentence, model, losses, pipeline)

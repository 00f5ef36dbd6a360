"""The last step of a study: what was chosen is measured on the report split, and what deserves it is exported."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from a2sf_core.policy import Policy
from tuner.judging.choice import Choice
from tuner.judging.contest import Candidate, Contest
from tuner.judging.intervals import Interval, paired_interval
from tuner.judging.verdict import best_of, verdict
from tuner.measuring.engine import Engine
from tuner.measuring.losses import Losses

N_SHOWN_OUTPUTS = 3


@dataclass(frozen=True)
class ExactMatch:
    """Share of the texts, 0 to 1, that say what the reference says."""

    full_cache: float
    policy: float


@dataclass(frozen=True)
class ChangedText:
    """What the model writes for one sample, with the full cache and with the policy."""

    id: str
    full_cache: str
    policy: str


@dataclass(frozen=True)
class Generated:
    """Text that the model really writes with the full and the pruned cache; most changed where pruning did most."""

    exact_match: ExactMatch
    identical_outputs: float
    most_changed: list[ChangedText]


@dataclass(frozen=True)
class OnReport:
    """What the report split says of the exported policy.

    metric: its name. full_score: the metric with the full cache, 0 to 1, mean over the samples.
    nll_increase: nats per token against the full cache.
    losses: of every sample; n_tokens: `[sample]` its prompt's length; bytes_per_token: of keys and values, uncut.
    with_unseen: `[sample + 1]` differences in points and one loss that was not seen, for the width of an interval.
    """

    metric: str
    full_score: float
    nll_increase: Interval
    losses: Losses
    n_tokens: np.ndarray
    bytes_per_token: int
    with_unseen: np.ndarray
    generated: Generated

    @property
    def n_samples(self) -> int:
        """How many samples the split has."""
        return len(self.n_tokens)


@dataclass(frozen=True)
class Outcome:
    """What a run found; every candidate but those of `choice` is measured on the report split.

    `exported` is the smaller of `tuned` and `baseline` that holds there, else the full cache. `closest` is the finalist
    that came nearest where there is no `tuned`. `on_search` is the difference in points of token accuracy that the
    search saw for `exported`: what it promised. `goal` is the allowed loss in points.
    """

    exported: Candidate
    tuned: Candidate | None
    baseline: Candidate | None
    closest: Candidate | None
    choice: Choice
    goal: float
    on_search: float
    on_report: OnReport
    sentence: str

    @property
    def around(self) -> Policy:
        """The policy around which an alpha has a meaning: what is exported or, for the full cache, the nearest."""
        if self.exported.cache_fraction < 1:
            return self.exported.policy
        return (self.tuned or self.closest or self.baseline or self.exported).policy


def lowest_that_holds(contest: Contest, ladder: list[Candidate]) -> Candidate | None:
    """The last rung before the first one that fails, as measured here; the safest if even that one fails.

    Testing in an order that was fixed beforehand, and going on only while it holds, needs no correction for having
    looked several times: one of the claims made is wrong with the same small chance as if there were only one.
    """
    holding = None
    for rung in ladder:
        measured = contest.measure_again(rung)
        if not measured.meets(contest.max_degradation):
            return holding or measured
        holding = measured
    return holding


def prove(contest: Contest, search: Engine, choice: Choice) -> Outcome:
    """Measure the picked policy and the best baseline on the report split.

    Args:
        contest: on the report split.
        search: engine of the search split, for what it promised.
        choice: made on the select split.
    """
    goal = contest.max_degradation
    tuned, baseline = (lowest_that_holds(contest, ladder) for ladder in (choice.picked, choice.known))
    nearest = max(choice.finalists, key=lambda c: c.difference.low, default=None)
    closest = contest.measure(nearest.label, nearest.policy) if nearest and not tuned else None
    exported = best_of(tuned, baseline, goal) or contest.measure("full cache", Policy.full(contest.engine.n_layers))
    sentence = verdict(tuned, closest, baseline, goal, len(contest.engine.samples))
    searched, full = (search.evaluate(p) for p in (exported.policy, Policy.full(search.n_layers)))
    on_search = 100 * float((searched.accuracy - full.accuracy).mean())
    on_report = _on_report(contest, exported)
    return Outcome(exported, tuned, baseline, closest, choice, goal, on_search, on_report, sentence)


def _on_report(contest: Contest, exported: Candidate) -> OnReport:
    unseen, full = contest.engine, Policy.full(contest.engine.n_layers)
    losses = unseen.evaluate(exported.policy)
    return OnReport(
        metric=contest.grader.metric.name,
        full_score=float(contest.grader(unseen, full).mean()),
        nll_increase=paired_interval(losses.nll - unseen.evaluate(full).nll, contest.seed),
        losses=losses,
        n_tokens=np.array([len(sample.prompt_ids) for sample in unseen.samples]),
        bytes_per_token=unseen.bytes_per_token,
        with_unseen=contest.with_unseen(exported),
        generated=_generated(contest, exported.policy, losses.kl),
    )


def _generated(contest: Contest, policy: Policy, kl: np.ndarray) -> Generated:
    unseen, grader, full = contest.engine, contest.grader, Policy.full(contest.engine.n_layers)
    exact = [float(grader.by_text(unseen, each, "exact_match").mean()) for each in (full, policy)]
    before, after = grader.texts(unseen, full), grader.texts(unseen, policy)
    worst = np.argsort(-kl)[:N_SHOWN_OUTPUTS]
    return Generated(
        ExactMatch(*exact),
        float(np.mean([a == b for a, b in zip(before, after, strict=True)])),
        [ChangedText(unseen.samples[i].id, before[i], after[i]) for i in worst.tolist()],
    )

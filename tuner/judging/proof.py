"""The last step of a study: what was chosen is measured on the report split, and what deserves it is exported."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from a2sf_core.policy import Policy
from tuner.inputs.power import Power
from tuner.judging.choice import Choice, Ladder
from tuner.judging.contest import Candidate, Contest, Proposal
from tuner.judging.intervals import Interval, Paired, paired_interval
from tuner.judging.verdict import Contender, Verdict, decide
from tuner.measuring.losses import Losses
from tuner.watch import Count, Progress, Watch, silent

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
    """Text that the model really writes with the full and the pruned cache.

    most_changed: those that differ before those that do not, and both by what pruning did to the next-token
    distributions.
    """

    exact_match: ExactMatch
    identical_outputs: float
    most_changed: list[ChangedText]


@dataclass(frozen=True)
class OnReport:
    """What the report split says of the exported policy.

    metric: its name. full_score: the metric with the full cache, 0 to 1, mean over the samples.
    nll_increase: nats per token against the full cache. token_accuracy: with the full cache and the policy, 0 to 1.
    losses: of every sample; n_tokens: `[sample]` its prompt's length; bytes_per_token: of keys and values, uncut.
    paired: differences in points per context and one that was not seen, for the width of an interval.
    """

    metric: str
    full_score: float
    nll_increase: Interval
    token_accuracy: tuple[float, float]
    losses: Losses
    n_tokens: np.ndarray
    bytes_per_token: int
    paired: Paired
    generated: Generated

    @property
    def n_samples(self) -> int:
        """How many samples the split has."""
        return len(self.n_tokens)


@dataclass(frozen=True)
class Outcome:
    """What a run found; every candidate is measured on the report split.

    `tuned` and `baseline` are the best of their kind there: proven or promising; None where neither. `closest` is what
    came nearest where there is no `tuned`. `on_search` is the difference in points that the search samples saw for what
    is exported: what they promised. `power` says what the report samples can prove.
    """

    verdict: Verdict
    tuned: Contender | None
    baseline: Contender | None
    closest: Candidate | None
    choice: Choice
    power: Power
    on_search: float
    on_report: OnReport

    @property
    def exported(self) -> Candidate:
        """What serving loads: the full cache where nothing is to be adopted."""
        return self.verdict.exported

    @property
    def goal(self) -> float:
        """Allowed loss in points."""
        return self.power.goal

    @property
    def around(self) -> Policy:
        """The policy around which an alpha has a meaning: what is exported or, for the full cache, the nearest."""
        return (self.closest or self.exported).policy if self.exported.cache_fraction == 1 else self.exported.policy


def climb(
    contest: Contest, ladder: Ladder | None, progress: Progress = silent
) -> tuple[Contender | None, list[Candidate]]:
    """The best of a ladder as measured here, and all rungs that were measured, in order.

    The last rung before the first one that fails is proven. Testing in an order that was fixed beforehand, and going on
    only while it holds, needs no correction for having looked several times: the claim made is wrong with the same
    small chance as if there were only one. If already the first fails, nothing is proven; then the smallest cache from
    the middle of the ladder upwards whose mean is within the goal is promising.
    """
    rungs = ladder.rungs if ladder else []
    count = Count(progress, len(rungs) or 1)
    for engine in contest.engines:
        if engine.recomputes:  # prompts are read again once for all rungs, instead of once for each
            together = [rung.policy for rung in rungs if engine.gathers(rung.policy)]
            engine.race([Policy.full(engine.n_layers), *together])
    found = _climb(contest, ladder, count)
    count.close()
    return found


def _climb(contest: Contest, ladder: Ladder | None, count: Count) -> tuple[Contender | None, list[Candidate]]:
    judged: list[Candidate] = []
    for rung in count.each(ladder.rungs if ladder else ()):
        judged.append(contest.judge(rung))
        if not judged[-1].meets(contest.max_degradation):
            break
    if ladder is None or judged[0].meets(contest.max_degradation):
        holding = [each for each in judged if each.meets(contest.max_degradation)]
        return (Contender(holding[-1], True, contest.max_degradation) if holding else None), judged
    middle = ladder.rungs.index(ladder.around.proposal)
    for rung in count.each(reversed(ladder.rungs[: middle + 1])):
        hopeful = judged[0] if rung is ladder.rungs[0] else contest.judge(rung)
        judged.append(hopeful)
        if hopeful.difference.mean >= -contest.max_degradation:
            return Contender(hopeful, False, -min(judged[0].difference.low, hopeful.difference.low)), judged
    return None, judged


def prove(contest: Contest, search: Contest, choice: Choice, power: Power, watch: Watch) -> Outcome:
    """Measure the ladders of a choice on the report split, and decide.

    Args:
        contest: on the report split.
        search: on the search split, for what it promised.
        choice: made on search and select samples.
        power: of the report split.
        watch: told how far it is.
    """
    tuned, tried = climb(contest, choice.picked, watch.step("Proving"))
    known, _ = climb(contest, choice.known, watch.step("Proving known methods"))
    watch.step("Comparing texts")
    if tuned is None and not tried and choice.finalists:
        nearest = min(choice.finalists, key=lambda estimate: estimate.lost)
        tried = [contest.judge(nearest.proposal)]
    closest = None if tuned else max(tried, key=lambda c: c.difference.mean, default=None)
    full = Proposal("full cache", Policy.full(contest.engines[0].n_layers))
    verdict = decide(tuned, known, closest, contest.judge(full), power)
    promised = search.look(verdict.exported.policy).paired.mean
    on_report = _on_report(contest, verdict.exported)
    return Outcome(verdict, tuned, known, closest, choice, power, promised, on_report)


def _on_report(contest: Contest, exported: Candidate) -> OnReport:
    (unseen,), full = contest.engines, Policy.full(contest.engines[0].n_layers)
    losses, uncut = unseen.evaluate(exported.policy), unseen.evaluate(full)
    return OnReport(
        metric=contest.grader.metric.name,
        full_score=float(contest.grader(unseen, full).mean()),
        nll_increase=paired_interval(losses.nll - uncut.nll, contest.seed),
        token_accuracy=(float(uncut.accuracy.mean()), float(losses.accuracy.mean())),
        losses=losses,
        n_tokens=unseen.n_tokens,
        bytes_per_token=unseen.bytes_per_token,
        paired=Paired.of(exported.differences, contest.contexts).with_unseen(contest.resolution),
        generated=_generated(contest, exported.policy, losses.kl),
    )


def _generated(contest: Contest, policy: Policy, kl: np.ndarray) -> Generated:
    (unseen,), grader = contest.engines, contest.grader
    full = Policy.full(unseen.n_layers)
    exact = [float(grader.by_text(unseen, each, "exact_match").mean()) for each in (full, policy)]
    before, after = grader.texts(unseen, full), grader.texts(unseen, policy)
    same = np.array([a == b for a, b in zip(before, after, strict=True)])
    worst = np.lexsort((-kl, same))[:N_SHOWN_OUTPUTS]
    return Generated(
        ExactMatch(*exact),
        float(same.mean()),
        [ChangedText(unseen.samples[i].id, before[i], after[i]) for i in worst.tolist()],
    )

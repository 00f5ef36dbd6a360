"""Which policy is recommended, how sure that is, and sentences that contradict no figure beside them."""

from __future__ import annotations

import numpy as np
import pytest

from a2sf_core.policy import Policy
from tuner.inputs.power import Power
from tuner.judging.contest import Candidate
from tuner.judging.intervals import Interval
from tuner.judging.verdict import Contender, Status, decide, same_size, share

POWER = Power(128, 128, 1.0, 10.0)
FULL = Policy.full(2)


def candidate(label: str, fraction: float, mean: float, low: float, high: float) -> Candidate:
    return Candidate(label, FULL, fraction, Interval(mean, low, high))


GOOD = Contender(candidate("trial 7", 0.23, -0.1, -0.4, 0.1), True, 1.0)
UNSURE = Contender(candidate("trial 9", 0.072, -0.5, -2.04, 0.3), False, 2.04)
BAD = candidate("trial 9", 0.2, -1.5, -2.0, -1.0)
HAND = Contender(candidate("h2o at 60%", 0.6, -0.2, -0.5, 0.0), True, 1.0)
WHOLE = candidate("full cache", 1.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("contenders", "status", "exported", "said"),
    [
        (
            (GOOD, HAND, None), Status.ADOPT, GOOD.best,
            "Adopt the tuned policy: it keeps 23% of the cache and loses 0.10 points (95 % interval -0.10 to 0.40) on "
            "128 unseen samples, within the 1 point allowed. The best known method (h2o at 60%) needs 60%.",
        ),
        (
            (None, HAND, BAD), Status.ADOPT, HAND.best,
            "Adopt h2o at 60%, a known method: it keeps 60% of the cache and loses 0.20 points (95 % interval 0.00 to "
            "0.50) on 128 unseen samples, within the 1 point allowed. No tuned policy seems to stay within 1 point; "
            "the closest (trial 9) loses 1.50 points (95 % interval 1.00 to 2.00).",
        ),
        (
            (UNSURE, HAND, None), Status.ADOPT, HAND.best,
            "Adopt h2o at 60%, a known method: it keeps 60% of the cache and loses 0.20 points (95 % interval 0.00 to "
            "0.50) on 128 unseen samples, within the 1 point allowed. The tuned policy (7.2%) is promising but not "
            "proven: it loses 0.50 points (95 % interval -0.30 to 2.04).",
        ),
        (
            (None, None, BAD), Status.NO, WHOLE,
            "Do not adopt: no policy, tuned or known, seems to stay within 1 point of the full cache on 128 unseen "
            "samples. The closest, trial 9, keeps 20% and loses 1.50 points (95 % interval 1.00 to 2.00). Keep the "
            "full cache, or allow more with --max-degradation.",
        ),
    ],
    ids=["tuned", "known", "known, tuned unsure", "none"],
)  # fmt: skip
def test_what_is_recommended(
    contenders: tuple[Contender | None, Contender | None, Candidate | None],
    status: Status,
    exported: Candidate,
    said: str,
) -> None:
    verdict = decide(*contenders, WHOLE, POWER)
    assert (verdict.status, verdict.exported, verdict.sentence) == (status, exported, said)


def test_what_is_promising_says_what_would_decide() -> None:
    """20 samples of whole answers prove 19.1 points; 4 are allowed."""
    power = Power(20, 20, 4.0, 100.0, report_share=0.5)
    lossless = Candidate("trial 9", FULL, 0.072, Interval(0.0, -14.29, 0.0), differences=np.zeros(20))
    verdict = decide(Contender(lossless, False, 14.29), None, None, WHOLE, power)
    assert verdict.status == Status.PROMISING
    assert verdict.exported is lossless
    assert verdict.sentence == (
        "Promising, not proven: trial 9 keeps 7.2% of the cache and loses 0.00 points (95 % interval 0.00 to 14.29) on "
        "20 unseen samples; its best estimate is within the 4 points allowed, the worst end of its interval is not. "
        "About 158 more samples would decide; as it is, it meets --max-degradation 14.3."
    )


def test_questions_on_one_context_decide_as_one() -> None:
    """20 contexts with four questions each are no more proof than 20 samples."""
    power = Power(20, 80, 4.0, 100.0, report_share=0.5)
    lossless = Candidate("trial 9", FULL, 0.072, Interval(0.0, -14.29, 0.0), "", np.zeros(80), np.repeat(range(20), 4))
    said = decide(Contender(lossless, False, 14.29), None, None, WHOLE, power).sentence
    assert "About 158 more contexts would decide" in said
    together = np.repeat([1.0] * 11 + [-1.0] * 5, 8)
    pairs = [
        [Candidate(name, FULL, kept, Interval(0, -1, 0), "", values, contexts)
         for name, kept, values in (("trial 3", 0.2, together), ("tova", 0.4, np.zeros(128)))]
        for contexts in (None, np.repeat(range(16), 8))
    ]  # fmt: skip
    verdicts = [decide(*(Contender(each, True, 1.0) for each in pair), None, WHOLE, POWER).sentence for pair in pairs]
    assert "in quality they differ by" in verdicts[0]
    assert "in quality the two cannot be told apart" in verdicts[1]


def test_a_bold_one_after_a_safe_one_that_failed_may_be_luck() -> None:
    lucky = Candidate("trial 9", FULL, 0.1, Interval(2.5, -2.5, 6.4), differences=np.zeros(78))
    power = Power(78, 78, 4.0, 100.0)
    said = decide(Contender(lucky, False, 5.06), None, None, WHOLE, power).sentence
    assert "within the 4 points allowed, but a larger cache, tested before it, was not, so it may be luck." in said
    assert said.endswith("as it is, it meets --max-degradation 5.1.")


def test_a_goal_of_nothing_is_never_proven_and_that_is_said() -> None:
    power = Power(100, 100, 0.0, 100.0)
    lossless = Candidate("trial 9", FULL, 0.5, Interval(0.0, -2.97, 0.0), differences=np.zeros(100))
    said = decide(Contender(lossless, False, 2.97), None, None, WHOLE, power).sentence
    assert said.endswith("No number of samples proves 0; as it is, it meets --max-degradation 3.")
    assert "no number of samples proves 0" in str(power)


def test_a_tie_goes_to_the_simpler_one_and_is_called_a_tie() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(-0.2, 1, 128), rng.normal(-0.2, 1, 128)
    tuned = Candidate("trial 3", FULL, 0.235, Interval(-0.2, -0.4, 0.0), differences=ours)
    known = Candidate("tova at 24%", FULL, 0.24, Interval(-0.2, -0.4, 0.0), differences=theirs)
    verdict = decide(Contender(tuned, True, 1.0), Contender(known, True, 1.0), None, WHOLE, POWER)
    assert verdict.exported is known
    assert "A tie: the tuned policy keeps 24%; in quality the two cannot be told apart, and the known is simpler." in (
        verdict.sentence
    )
    much_smaller = Candidate("trial 3", FULL, 0.1, Interval(-0.2, -0.4, 0.0), differences=ours)
    verdict = decide(Contender(much_smaller, True, 1.0), Contender(known, True, 1.0), None, WHOLE, POWER)
    assert verdict.exported is much_smaller, "memory says otherwise"
    assert "(tova at 24%) needs 24%; in quality the two cannot be told apart." in verdict.sentence


def test_sizes_are_compared_as_ratios() -> None:
    assert same_size(candidate("a", 0.50, 0, 0, 0), candidate("b", 0.52, 0, 0, 0))
    assert not same_size(candidate("a", 0.05, 0, 0, 0), candidate("b", 0.06, 0, 0, 0))
    assert [share(candidate("a", kept, 0, 0, 0)) for kept in (0.0719, 0.234)] == ["7.2%", "23%"]

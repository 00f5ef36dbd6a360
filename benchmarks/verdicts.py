"""Does a run decide, and is it right? Replicate studies of whole answers against the truth of other samples.

    python -m benchmarks.verdicts --samples 240 --replicates 200 --workers 2

Each replicate draws samples that no other has and is a whole study as a team would run it: split, profile, search,
choice, report, verdict, with exact match as the metric and 4 points allowed. Then what it exported is measured on 1,000
samples that none has seen. Small on purpose: short chats, 40 trials.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from rich.table import Table
from scipy import stats

from a2sf_core import Policy
from benchmarks.lab import Lab, console, profiled, report, run_study
from tuner.inputs.splits import power_of, report_share, split
from tuner.inputs.tasks import load_task
from tuner.judging.choice import choose
from tuner.judging.contest import Contest
from tuner.judging.grading import Grader
from tuner.judging.proof import prove
from tuner.judging.verdict import Status
from tuner.measuring.engine import Engine
from tuner.search.space import Space
from tuner.search.study import Plan
from tuner.watch import Silent

TASK, TOKENS, GOAL = "chat", (64, 160), 4.0
TRUTH, TRIALS, MAX_NEW_TOKENS = 1000, 40, 24
GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))


@dataclass(frozen=True)
class Replicate:
    """What one study said and exported, with its interval in points."""

    status: str
    tuned: bool
    policy: str
    cache: float
    reported: tuple[float, ...]


def replicate(number: int, n: int) -> Replicate:
    """Study ``number`` on ``n`` samples of its own."""
    torch.set_num_threads(1)
    lab = Lab.of(TASK, TOKENS)
    parts = split(lab.samples(TRUTH + number * n, n), "0", report_share=report_share(n, 100.0))
    search, select, unseen = (Engine(lab.model, part) for part in (parts.search, parts.select, parts.report))
    space, _ = profiled(Space("groups", True, search.n_layers), search, 1)
    records = run_study(search, space, Plan(TRIALS), number)
    grader = Grader("exact_match", lab.model, lab.tokenizer, MAX_NEW_TOKENS)
    proving = Contest((unseen,), grader, GOAL, seed=0)
    choice = choose(replace(proving, engines=(search, select)), len(parts.report), space, records)
    power = power_of(parts, load_task(TASK), GOAL)
    outcome = prove(proving, replace(proving, engines=(search,)), choice, power, Silent())
    verdict, tuned = outcome.verdict, outcome.tuned
    best = verdict.exported
    return Replicate(
        verdict.status.value, tuned is not None and best is tuned.best, json.dumps(best.policy.to_dict()),
        best.cache_fraction, tuple(best.difference.to_list()),
    )  # fmt: skip


def true_losses(policies: list[str], part: int, parts: int) -> dict[str, tuple[float, float]]:
    """Cache fraction and mean difference in points of each policy on a part of the samples that none has seen."""
    torch.set_num_threads(1)
    lab = Lab.of(TASK, TOKENS)
    size = TRUTH // parts
    grader = Grader("exact_match", lab.model, lab.tokenizer, MAX_NEW_TOKENS)
    contest = Contest((lab.engine(part * size, size),), grader, GOAL, seed=0)
    found = {}
    for text in policies:
        policy = Policy.from_dict(json.loads(text))
        found[text] = contest.cache_fraction(policy), contest.look(policy).paired.mean
    return found


def main() -> None:
    """Parse the command line, run everything and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", type=int, default=240)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with ProcessPoolExecutor(options.workers) as pool:
        studies = list(pool.map(replicate, range(options.replicates), [options.samples] * options.replicates))
        texts = list(dict.fromkeys(study.policy for study in studies))
        jobs = [pool.submit(true_losses, texts, part, options.workers) for part in range(options.workers)]
        halves = [job.result() for job in jobs]
    truth = {text: np.mean([half[text] for half in halves], axis=0) for text in texts}
    table = Table("question", "answer", title=f"{len(studies)} studies of {options.samples} samples")
    for status in Status:
        _row(table, status.value, [study.status == status.value for study in studies])
    adopted = [study for study in studies if study.status == Status.ADOPT]
    promising = [study for study in studies if study.status == Status.PROMISING]
    _row(table, "adopted, truly beyond the goal", [truth[s.policy][1] < -GOAL for s in adopted])
    _row(table, "promising, truly beyond the goal", [truth[s.policy][1] < -GOAL for s in promising])
    _row(table, "adopted: the interval holds the truth",
         [s.reported[1] <= truth[s.policy][1] <= s.reported[2] for s in adopted])  # fmt: skip
    _row(table, "adopted: a tuned policy", [s.tuned for s in adopted])
    within = sorted(kept for kept, lost in truth.values() if lost >= -GOAL)
    if adopted:
        kept = np.array([truth[s.policy][0] for s in adopted])
        low, middle, high = np.quantile(kept, [0.1, 0.5, 0.9])
        table.add_row("adopted: cache kept, median [10 %, 90 %]", f"{middle:.1%} [{low:.1%}, {high:.1%}]")
        table.add_row("smallest cache truly within the goal that any of them exported", f"{within[0]:.1%}")
    console.print(table)
    report("verdicts", [asdict(s) | {"truth": list(truth[s.policy])} for s in studies])


def _row(table: Table, name: str, hits: list[bool]) -> None:
    if hits:
        low, high = stats.binomtest(sum(hits), len(hits)).proportion_ci()
        table.add_row(name, f"{np.mean(hits):.1%} [{low:.1%}, {high:.1%}] of {len(hits)}")


if __name__ == "__main__":
    main()

"""Is the answer true? Replicate studies on fresh samples against the truth of 2,000 others.

    python -m benchmarks.truth --replicates 200 --workers 2

Each replicate draws samples that no other has, and is a whole study: profile, search, choice, report. Then what it
exported is measured on 2,000 samples that none has seen. Small on purpose (24 search, 64 select, 64 report samples, 50
trials, a goal of 3 points), because luck does most harm where samples are few.
"""

from __future__ import annotations

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import torch
from rich.table import Table
from scipy import stats

from a2sf_core import Policy
from benchmarks.lab import Lab, console, profiled, report, run_study
from tuner.judging.choice import choose
from tuner.judging.intervals import paired_interval
from tuner.judging.proof import lowest_that_holds
from tuner.judging.verdict import best_of
from tuner.search.baselines import SINGLE_ALPHAS
from tuner.search.objectives import MEMORY
from tuner.search.records import policy_from
from tuner.search.space import Space
from tuner.search.study import Plan

TASK, TOKENS, GOAL = "chat", (64, 160), 3.0
SEARCH, SELECT, REPORT, TRUTH = 24, 64, 64, 2000
TRIALS = 50
GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))


@dataclass(frozen=True)
class Replicate:
    """What one study exported and promised, in points against the full cache; ``naive`` is the peers' way of choosing:
    the smallest cache that meets the goal on the search samples."""

    exported: str
    tuned: bool
    reported: tuple[float, float, float]
    on_search: float
    naive: str
    naive_on_search: float


def replicate(number: int) -> Replicate | None:
    """Study ``number`` on samples of its own; None if it exported the full cache."""
    torch.set_num_threads(1)
    lab = Lab.of(
        TASK,
        TOKENS,
    )
    first = TRUTH + number * (SEARCH + SELECT + REPORT)
    search, select = lab.engine(first, SEARCH), lab.engine(first + SEARCH, SELECT)
    space, _ = profiled(Space("groups", True, search.n_layers), search, 1)
    records = run_study(search, space, Plan(TRIALS), number)
    choice = choose(lab.contest(select, GOAL), space, records)
    proving = lab.contest(lab.engine(first + SEARCH + SELECT, REPORT), GOAL)
    tuned, by_hand = (lowest_that_holds(proving, ladder) for ladder in (choice.picked, choice.known))
    exported = best_of(tuned, by_hand, GOAL)
    if exported is None:
        return None
    good = [r for r in records if r.state == "complete" and r.metrics["accuracy_drop_points"] <= GOAL]
    naive = min(good, key=lambda r: r.metrics[MEMORY])
    full = search.evaluate(Policy.full(search.n_layers)).accuracy
    on_search = 100 * float((search.evaluate(exported.policy).accuracy - full).mean())
    return Replicate(
        json.dumps(exported.policy.to_dict()), exported is tuned, tuple(exported.difference.to_list()), on_search,
        json.dumps(policy_from(naive).to_dict()), -naive.metrics["accuracy_drop_points"],
    )  # fmt: skip


def true_losses(policies: list[str], part: int, parts: int) -> dict[str, tuple[float, float]]:
    """Cache fraction and mean difference in points of each policy on a part of the 2,000 samples."""
    torch.set_num_threads(1)
    lab = Lab.of(TASK, TOKENS)
    size = TRUTH // parts
    engine = lab.engine(part * size, size)
    full = engine.evaluate(Policy.full(engine.n_layers)).accuracy
    found = {}
    for text in policies:
        losses = engine.evaluate(Policy.from_dict(json.loads(text)))
        found[text] = float(losses.cache_fraction.mean()), 100 * float((losses.accuracy - full).mean())
    return found


def by_hand_policies(n_layers: int) -> dict[tuple[str, float], str]:
    """Uniform A2SF by half-life and budget."""
    return {
        (baseline.name, budget): json.dumps(baseline.policy(budget, n_layers).to_dict())
        for baseline in SINGLE_ALPHAS
        for budget in GRID
    }


def main() -> None:
    """Parse the command line, run everything and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    n_layers = Lab.of(TASK, TOKENS).model.config.num_hidden_layers
    by_hand = by_hand_policies(n_layers)
    with ProcessPoolExecutor(options.workers) as pool:
        found = list(pool.map(replicate, range(options.replicates)))
        studies = [each for each in found if each is not None]
        texts = list(dict.fromkeys([*(s.exported for s in studies), *(s.naive for s in studies), *by_hand.values()]))
        parts = [pool.submit(true_losses, texts, part, options.workers) for part in range(options.workers)]
        halves = [part.result() for part in parts]
    truth = {text: np.mean([half[text] for half in halves], axis=0) for text in texts}

    covered = [s.reported[1] <= truth[s.exported][1] <= s.reported[2] for s in studies]
    worse = [truth[s.exported][1] < best_by_hand(truth, by_hand, truth[s.exported][0]) for s in studies]
    missed = [truth[s.exported][1] < -GOAL for s in studies]
    missed_naive = [truth[s.naive][1] < -GOAL for s in studies]
    table = Table("question", "answer", title=f"{len(studies)} studies of {options.replicates} exported a policy")
    for name, hits in {
        "the 95 % interval of the report covers the truth": covered,
        "exported policy truly worse than the best single alpha of its size": worse,
        "exported policy truly beyond the goal": missed,
        "chosen on the search samples (peers' way): truly beyond the goal": missed_naive,
    }.items():
        low, high = stats.binomtest(sum(hits), len(hits)).proportion_ci()
        table.add_row(name, f"{np.mean(hits):.1%} [{low:.1%}, {high:.1%}]")
    for name, gaps in {
        "optimism of the search samples, exported policy, points": [
            s.on_search - truth[s.exported][1] for s in studies
        ],
        "optimism of the search samples, chosen on them, points": [
            s.naive_on_search - truth[s.naive][1] for s in studies
        ],
        "optimism of the report samples, points": [s.reported[0] - truth[s.exported][1] for s in studies],
    }.items():
        table.add_row(name, str(paired_interval(np.array(gaps), 0)))
    table.add_row("share that is a tuned policy, not a baseline", f"{np.mean([s.tuned for s in studies]):.0%}")
    table.add_row("mean cache kept", f"{np.mean([truth[s.exported][0] for s in studies]):.1%}")
    console.print(table)
    report("truth", [asdict(s) | {"truth": truth[s.exported].tolist(), "naive_truth": truth[s.naive].tolist()}
                     for s in studies])  # fmt: skip


def best_by_hand(truth: dict[str, np.ndarray], by_hand: dict[tuple[str, float], str], memory: float) -> float:
    """True difference of the best single alpha with a cache of ``memory``, between the budgets measured."""
    best = -math.inf
    for baseline in SINGLE_ALPHAS:
        line = sorted(tuple(truth[by_hand[baseline.name, budget]]) for budget in GRID)
        best = max(best, float(np.interp(memory, *zip(*line, strict=True))))
    return best


if __name__ == "__main__":
    main()

"""What a user sees when a run is over: the last lines."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from a2sf_core.cuts import CONTEXT
from tuner.judging.verdict import share
from tuner.reporting.names import PARETO_PNG
from tuner.reporting.result import Result

_UNLIKE = 0.02
"""Difference of the shares of the shortest and the longest prompt that is worth a line: rounding makes some too."""


def show(console: Console, result: Result) -> None:
    """The last lines: a small table, the sentence, and what to do next."""
    evidence = result.evidence
    n, precision = evidence.samples.report, evidence.precision
    console.print(_table(result))
    console.print(f"\n{result.sentence}\n", style="bold")
    console.print(
        f"With {n} report samples the interval is about ±{precision.half_width_points:.2f} points; "
        f"±{precision.finer_points:g} takes about {precision.samples_for_finer} (--precision "
        f"{precision.finer_points:g})."
    )
    (short, more), (long, less) = evidence.cache.by_length
    if more >= less + _UNLIKE:
        console.print(f"Short prompts keep a larger share: {more:.0%} of {short:,} tokens, {less:.0%} of {long:,}.")
    if evidence.cut == CONTEXT:
        console.print(
            "Cut before the question: each context is pruned once, and questions and answers are read over what is "
            "left; serve it with a2sf_core.read_context."
        )
    if evidence.warm_start:
        console.print(evidence.warm_start)
    looks = evidence.samples.times_report_was_looked_at
    if looks > 1:
        console.print(f"The report samples have judged {looks} choices by now: the interval is a little optimistic.")
    gain = result.alpha.gain
    said = result.alpha.reason or (
        "the regressor beat the best constant on select samples; on report samples it gains "
        f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] nats per token"
    )
    console.print(f"alpha: {said}")
    if result.serve_command:
        console.print(f"MLflow    {result.serve_command}", soft_wrap=True)
        console.print(f"          then open {result.link}", soft_wrap=True)
    elif result.link:
        console.print(f"MLflow    {result.link}", soft_wrap=True)
    console.print(f"Picture   {result.folder / PARETO_PNG}", soft_wrap=True)
    console.print(f"Policy    {result.config}", soft_wrap=True)


def _table(result: Result) -> Table:
    """The full cache, the best tuned policy and the best known method on the report samples."""
    evidence, outcome = result.evidence, result.outcome
    quality, exact = evidence.quality, evidence.dropped_tokens.generated.exact_match
    beside, full, exported = "token accuracy", quality.token_accuracy_full_cache, quality.token_accuracy_policy
    if evidence.metric == "token_accuracy":
        beside, full, exported = "exact match", exact.full_cache, exact.policy
    table = Table(title=f"On {evidence.samples.report} unseen samples", title_justify="left")
    table.add_column("policy")
    for name in ("cache", evidence.metric.replace("_", " "), beside):
        table.add_column(name, justify="right")
    table.add_row("full cache", "100%", f"{100 * quality.full_cache:.2f}", f"{full:.1%}")
    for contender, name in ((outcome.tuned, " (tuned)"), (outcome.baseline, "")):
        if contender:
            best = contender.best
            proven = "" if contender.proven else ", not proven"
            right = f"{exported:.1%}" if best is outcome.exported else ""
            table.add_row(f"{best.label}{name}{proven}", share(best), str(best.difference), right)
    return table

"""The nearest press of kvpress: a score for each layer, and a ratio for each layer; no heads, no forgetting."""

from __future__ import annotations

from math import inf
from statistics import mean
from typing import Any

from a2sf_core.policy import Policy
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.rules.norms import KeyNorm
from a2sf_core.rules.position import Position, Random
from tuner.serving.nearest import Nearest, Summary

_SNIPPET = '''\
"""The nearest that kvpress has to a tuned A2SF policy; made by `a2sf-tune export --format kvpress`.

kvpress needs an environment of its own (pip install kvpress). Use it as any press:

    from a2sf_kvpress import press

    with press(model):
        model.generate(...)

What it is not:
{lost}
"""

import kvpress

press = {press}
'''


def nearest(policy: Policy, tokens: int) -> Nearest:
    """For prompts of about `tokens`, which only budgets in tokens hang on.

    Raises:
        A2SFError: if the policy drops nothing.
    """
    summary = Summary(policy, tokens)
    name, options = _press(summary)
    ratios = [round(1 - kept, 4) for kept in summary.kept]
    settings: dict[str, Any] = {"press": name, **options}
    made = ", ".join(f"{option}={value!r}" for option, value in options.items())
    lost = summary.lost(is_fraction_kept=True, are_layers_kept=True)
    if max(ratios) - min(ratios) > 0.005:
        settings["compression_ratios"] = ratios
        press = f"kvpress.PerLayerCompressionPress(kvpress.{name}({made}), compression_ratios={ratios})"
        lost.append("kvpress calls ratios of layers experimental and asks for flash attention.")
    else:
        settings["compression_ratio"] = ratio = round(mean(ratios), 4)
        press = f"kvpress.{name}({', '.join([f'compression_ratio={ratio}', *filter(None, [made])])})"
    lost += _of_press(name, summary)
    if policy.decode_every is not None:
        lost.append(f"Tokens go after every {policy.decode_every} that are written; there after the prompt alone.")
    return Nearest.of("a2sf_kvpress", settings, _SNIPPET, lost, press=press)


def _press(summary: Summary) -> tuple[str, dict[str, Any]]:
    rule = summary.rule
    if isinstance(rule, Position):
        return "StreamingLLMPress", {"n_sink": summary.sink}
    if isinstance(rule, KeyNorm):
        return "KnormPress", {}
    if isinstance(rule, Random):
        return "RandomPress", {"seed": rule.seed}
    if summary.votes == inf:
        return "ObservedAttentionPress", {}
    if summary.votes <= 1:
        return "TOVAPress", {}
    pooling = rule.pooling if isinstance(rule, Window) else 1
    return "SnapKVPress", {"window_size": round(summary.votes), "kernel_size": pooling}


def _of_press(name: str, summary: Summary) -> list[str]:
    """What the press itself does otherwise."""
    said = []
    if name == "ObservedAttentionPress":
        said.append("A token's attention is summed up; there it is averaged, and needs eager attention.")
    if name == "SnapKVPress" and isinstance(summary.rule, Decay):
        said.append(f"There the last {round(summary.votes)} queries count alike, and their own tokens stay.")
    if name not in ("StreamingLLMPress", "SnapKVPress") and summary.recent >= 1:
        said.append(f"The last {summary.recent:.0f} tokens stay whatever their rank; there they do not.")
    if name != "StreamingLLMPress" and summary.sink:
        said.append(f"The first {summary.sink} tokens stay whatever their rank; there they do not.")
    return said

"""The nearest CacheEvictionConfig of OpenVINO GenAI: one budget in blocks of 32 tokens for all layers and heads."""

from __future__ import annotations

from math import ceil, inf
from statistics import mean

from a2sf_core.policy import Policy
from a2sf_core.rules.attention import Decay, Window
from tuner.serving.nearest import Nearest, Summary

BLOCK = 32
"""Tokens of a block on a CPU; only whole blocks go."""

_SNIPPET = '''\
"""The nearest that OpenVINO GenAI has to a tuned A2SF policy; made by `a2sf-tune export --format openvino`.

    pip install openvino-genai                    # in an environment of its own
    python a2sf_openvino.py MODEL PROMPT.txt      # MODEL: a folder in OpenVINO's format, or a .gguf file

What it is not:
{lost}
"""

import sys
from pathlib import Path

from openvino_genai import AggregationMode, CacheEvictionConfig, LLMPipeline, SchedulerConfig

scheduler = SchedulerConfig()
scheduler.use_cache_eviction = True
scheduler.enable_prefix_caching = False
scheduler.cache_eviction_config = CacheEvictionConfig(
    start_size={start_size},
    recent_size={recent_size},
    max_cache_size={max_cache_size},
    aggregation_mode=AggregationMode.{aggregation_mode},
    apply_rotation=False,
    snapkv_window_size={snapkv_window_size},
)

if __name__ == "__main__":
    pipeline = LLMPipeline(sys.argv[1], "CPU", scheduler_config=scheduler)
    print(pipeline.generate(Path(sys.argv[2]).read_text(encoding="utf-8"), max_new_tokens=100))
'''


def nearest(policy: Policy, tokens: int) -> Nearest:
    """For prompts of about `tokens`.

    Raises:
        A2SFError: if the policy drops nothing.
    """
    summary = Summary(policy, tokens)
    budget = mean(summary.kept) * tokens
    start = _blocks(max(1, summary.sink))
    most = max(_blocks(budget), start + 2 * BLOCK)  # larger than start and recent together, says OpenVINO
    recent = min(max(BLOCK, round(summary.recent / BLOCK) * BLOCK), most - start - BLOCK)
    settings = {
        "start_size": start,
        "recent_size": recent,
        "max_cache_size": most,
        "aggregation_mode": "SUM",
        "apply_rotation": False,
        "snapkv_window_size": 0 if summary.votes == inf else max(1, round(summary.votes)),
    }
    lost = summary.lost(is_fraction_kept=False, are_layers_kept=False)
    if not isinstance(summary.rule, Decay | Window):
        lost.append(f"Tokens are ranked by {summary.rule.name}; there by the attention of all queries.")
    lost.append(
        f"Blocks of {BLOCK} tokens: the first {summary.sink} kept become {start}, the last {summary.recent:.0f} become "
        f"{recent}, {budget:.0f} in all become {most}; shorter prompts are not pruned."
    )
    if policy.decode_every is None:
        lost.append(
            "The cache grows with the answer; there it stays at its size, and blocks go while the answer is written."
        )
    return Nearest.of("a2sf_openvino", settings, _SNIPPET, lost, **settings)


def _blocks(tokens: float) -> int:
    return ceil(tokens / BLOCK - 1e-9) * BLOCK

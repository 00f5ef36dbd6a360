"""Our side of the comparison: exported policies, and budgets per head from some prompts, which need no study."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from a2sf_core.cache import A2SFCache, cache_nbytes
from a2sf_core.config import A2SFConfig
from a2sf_core.cuts import CONTEXT, PROMPT
from a2sf_core.policy import Policy
from a2sf_core.rules.base import ScoreRule
from a2sf_core.rules.catalogue import read_rule
from a2sf_core.switch import attach, cache_argument
from benchmarks.heads import by_prompt, per_head, per_head_learned
from benchmarks.lab import console
from benchmarks.peers_evaluator import FULL
from benchmarks.peers_prompts import ends_of, name_of
from tuner.inputs.encoding import Encoded
from tuner.measuring.engine import Engine
from tuner.measuring.losses import share_kept
from tuner.search.fisher import Fisher
from tuner.search.gradients import measure_fisher
from tuner.search.learning import LEARNED_FROM, learned_rules
from tuner.search.profile_part import Part
from tuner.search.profiles import HALF_LIVES_TRIED
from tuner.search.rereading import prompts_to_look_at
from tuner.watch import silent

NEAR = 0.02
"""How far off, in parts of a share, a policy may be to be compared at it."""
HALF_LIFE = {PROMPT: 16.0, CONTEXT: 256.0}
"""Of the built-in arm, by when the cut is made: a question at the end of the prompt is what recent queries know."""


@dataclass(frozen=True)
class Arm:
    """One policy of ours, at the share of the cache where it is compared."""

    name: str
    share: float
    policy: Policy

    @property
    def key(self) -> str:
        """Told apart by the policy itself."""
        return "ours " + hashlib.sha256(json.dumps(self.policy.to_dict()).encode()).hexdigest()[:16]


def builtin(profile: Fisher, shares: Sequence[float], half_life: float) -> list[Arm]:
    """Budgets per head, one half-life, a policy per share."""
    own = replace(profile, half_life=half_life)
    return [Arm(f"ours, half-life {half_life:g}", share, per_head(own, share)) for share in shares]


def builtin_by_prompt(profile: Fisher, shares: Sequence[float], rules: Sequence[ScoreRule]) -> list[Arm]:
    """The same totals, dealt out for every prompt by what a rule for each layer says that tokens are worth."""
    return [Arm("ours, dealt out by the prompt", share, by_prompt(profile, share, rules)) for share in shares]


def builtin_learned(profile: Fisher, shares: Sequence[float], rules: Sequence[ScoreRule]) -> list[Arm]:
    """The same budgets with a rule for each layer."""
    return [Arm("ours, learned forgetting", share, per_head_learned(profile, share, rules)) for share in shares]


def taught(
    model: Any, tokenizer: Any, tune: Sequence[Encoded], own_tokens: int, file: Path
) -> tuple[Fisher, list[ScoreRule]]:
    """Budgets from some of the prompts `tune`, and a forgetting rule for each layer from all; `file` keeps them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part, key = Part(file.with_name(f"{file.name}-fisher-{len(tune)}-{name_of(tune[0])}.json")), str(own_tokens)
    if part.get("rules that compare", key) is None:
        teacher = Engine(model, tune, ends=ends_of(model, tokenizer, own_tokens), learn_from=LEARNED_FROM)
        rows = prompts_to_look_at(teacher.samples, 0, math.inf)
        part.put("profile", key, measure_fisher(teacher, rows, HALF_LIVES_TRIED, 0, Part(), silent).to_dict())
        learned = learned_rules(teacher, range(len(tune)), silent, 0)
        part.put("rules that compare", key, [rule.to_dict() for rule in learned])
    rules = [read_rule(rule, "rule") for rule in part.get("rules that compare", key)]
    return Fisher.from_dict(part.get("profile", key)), rules


def exported(files: Sequence[str], shares: Sequence[float], lengths: Sequence[int], cut: str) -> list[Arm]:
    """One arm per file that a2sf-tune wrote, at the nearest of `shares` if it is as large, else at its own.

    Args:
        lengths: of the prompts in tokens; what is kept of them all is an arm's share.
    """
    arms: list[Arm] = []
    for file in files:
        config = A2SFConfig.from_pretrained(file)
        policy = config.policy
        if config.cut != cut:
            console.print(f"{file} was tuned for cut: {config.cut}, and is measured with cut: {cut}.")
        own = share_kept(policy, lengths)
        near = min(shares, key=lambda share: abs(share - own))
        share = near if abs(near - own) <= NEAR * near else round(own, 3)
        is_first = share not in [arm.share for arm in arms]
        arms.append(Arm("ours, exported" if is_first else f"ours, {file}", share, policy))
    return arms


@torch.no_grad()
def cost(model: Any, prompts: Sequence[Encoded], policies: dict[str, Policy]) -> dict[str, dict[str, list[float]]]:
    """Per policy: "seconds" of CPU to the first token and "bytes" held after the cut, really served, one each per
    prompt; transformers itself beside them as `FULL`."""
    found: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "bytes": []} for name in (FULL, *policies)}
    for asked in [prompts[0], *prompts]:  # the first one warms up
        ids = torch.tensor([asked.prompt_ids], device=model.device)
        for name, figures in found.items():
            policy = policies.get(name)
            with attach(policy, model) if policy else nullcontext():
                cache: Any = A2SFCache(policy) if policy else DynamicCache()
                began = time.process_time()
                model(ids, logits_to_keep=1, **{cache_argument(model): cache})
                if policy:
                    cache.cut()
                figures["seconds"].append(time.process_time() - began)
            figures["bytes"].append(float(cache_nbytes(cache)))
    return {name: {unit: values[1:] for unit, values in figures.items()} for name, figures in found.items()}


def medians(found: dict[str, dict[str, list[float]]], base: str) -> dict[str, dict[str, float]]:
    """Per method the median over the prompts of seconds and bytes, and of their ratios to those of `base`."""
    table: dict[str, dict[str, float]] = {}
    for name, figures in found.items():
        table[name] = {}
        for unit, values in figures.items():
            table[name][unit] = float(np.median(values))
            table[name][f"{unit}_ratio"] = float(np.median(np.array(values) / np.array(found[base][unit])))
    return table

"""Our side of the comparison: exported policies, and budgets per head from a reading or two that need no study."""

from __future__ import annotations

import hashlib
import json
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
from benchmarks.heads import per_head, per_head_learned
from benchmarks.lab import console
from benchmarks.peers_evaluator import FULL
from benchmarks.peers_prompts import ends_of, name_of
from tuner.inputs.encoding import Encoded
from tuner.inputs.models import max_tokens
from tuner.measuring.engine import Engine
from tuner.search.learning import LEARNED_FROM, learned_rules
from tuner.search.profile_part import Part
from tuner.search.reconstruction import Reconstruction
from tuner.search.rereading import MOST_PROMPTS, TwiceReader, measure_reconstruction
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


def builtin(profile: Reconstruction, shares: Sequence[float], half_life: float) -> list[Arm]:
    """Budgets per head, one half-life, a policy per share."""
    own = replace(profile, half_life=half_life)
    return [Arm(f"ours, half-life {half_life:g}", share, per_head(own, share)) for share in shares]


def builtin_learned(profile: Reconstruction, shares: Sequence[float], rules: Sequence[ScoreRule]) -> list[Arm]:
    """The same budgets with a rule for each layer."""
    return [Arm("ours, learned forgetting", share, per_head_learned(profile, share, rules)) for share in shares]


def learned(model: Any, tokenizer: Any, tune: Sequence[Encoded], own_tokens: int, file: Path) -> list[ScoreRule]:
    """A forgetting rule for each layer, fitted to both texts of the prompts `tune`; `file` keeps them."""
    part = Part(file.with_name(f"{file.name}-learned-{len(tune)}-{name_of(tune[0])}.json"))
    if part.get("rules", str(own_tokens)) is None:
        teacher = Engine(model, tune, ends=ends_of(model, tokenizer, own_tokens), learn_from=LEARNED_FROM)
        rules = learned_rules(teacher, range(len(tune)), silent)
        part.put("rules", str(own_tokens), [rule.to_dict() for rule in rules])
    return [read_rule(rule, "rule") for rule in part.get("rules", str(own_tokens))]


def profile_of(model: Any, tokenizer: Any, tune: Sequence[Encoded], file: Path) -> Reconstruction:
    """From at most `MOST_PROMPTS` of the prompts to tune on; what was measured is kept in `file`."""
    some = list({asked.context_key: asked for asked in reversed(tune)}.values())[::-1][:MOST_PROMPTS]
    file.parent.mkdir(parents=True, exist_ok=True)
    limit = max_tokens(model, tokenizer)
    part = Part(file.with_name(f"{file.name}-{name_of(some[0])}.json"))
    return measure_reconstruction(TwiceReader.of(model), some, range(len(some)), limit, part, silent).profile


def exported(files: Sequence[str], shares: Sequence[float], n_tokens: int, cut: str) -> list[Arm]:
    """One arm per file that a2sf-tune wrote, at the nearest of `shares` if it is as large, else at its own.

    Args:
        n_tokens: of a usual prompt; budgets may be counts.
    """
    arms: list[Arm] = []
    for file in files:
        config = A2SFConfig.from_pretrained(file)
        policy = config.policy
        if config.cut != cut:
            console.print(f"{file} was tuned for cut: {config.cut}, and is measured with cut: {cut}.")
        own = policy.cache_fraction(n_tokens)
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

"""A tuned policy in the words of an engine that has fewer: what a summary of it says, and what that loses."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from statistics import mean, median
from typing import Any

from a2sf_core.errors import A2SFError
from a2sf_core.files import readable_json, write_whole
from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.policy import Policy
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.rules.base import ScoreRule
from a2sf_core.rules.learned import Learned
from a2sf_core.rules.norms import ValueWeighted


@dataclass(frozen=True)
class Nearest:
    """What an engine is told.

    Attributes:
        name: of the files, without their endings.
        settings: JSON-ready.
        snippet: a Python program that makes them into the engine's own objects.
        lost: sentences: what the policy says and the settings do not.
    """

    name: str
    settings: dict[str, Any]
    snippet: str
    lost: list[str]

    @classmethod
    def of(cls, name: str, settings: dict[str, Any], template: str, lost: list[str], **slots: Any) -> Nearest:
        """With the snippet of a `template`, whose slots are `lost`, as a list, and `slots`."""
        listed = "\n".join(f"- {each}" for each in lost)
        return cls(name, settings, template.format(lost=listed, **slots), lost)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The snippet and the JSON, in `folder`, which is made if it is not there."""
        folder.mkdir(parents=True, exist_ok=True)
        python, plain = folder / f"{self.name}.py", folder / f"{self.name}.json"
        write_whole(python, self.snippet)
        write_whole(plain, readable_json({**self.settings, "lost": self.lost}))
        return python, plain


@dataclass(frozen=True)
class Summary:
    """Means over the layers of a policy at prompts of one length.

    Attributes:
        tokens: the prompt's length.
    """

    policy: Policy
    tokens: int

    def __post_init__(self) -> None:
        if self.policy.keeps_all:
            raise A2SFError("this policy keeps the whole cache, so there is nothing to say to another engine.")

    @cached_property
    def kept(self) -> list[float]:
        """Share of the prompt that every layer keeps, the mean over its KV heads."""
        return [mean(layer.head_budget_tokens(self.tokens)) / self.tokens for layer in self.policy.layers]

    @cached_property
    def pruned(self) -> list[LayerPolicy]:
        """Layers that drop something."""
        return [layer for layer in self.policy.layers if layer.budget is not None]

    @property
    def recent(self) -> float:
        """Most recent tokens kept whatever their rank, the mean over the pruned layers."""
        return mean(
            mean(layer.recent_tokens(budget) for budget in layer.head_budget_tokens(self.tokens))
            for layer in self.pruned
        )

    @property
    def sink(self) -> int:
        """First tokens kept: the most of any layer."""
        return max(layer.sink for layer in self.pruned)

    @property
    def rule(self) -> ScoreRule:
        """What ranks the tokens of most layers, of the kind alone: see `votes` for how far back it looks."""
        kind = Counter(type(_plain(layer.ranked_by)) for layer in self.pruned).most_common(1)[0][0]
        return next(rule for layer in self.pruned if type(rule := _plain(layer.ranked_by)) is kind)

    @property
    def votes(self) -> float:
        """Last queries whose attention counts, as many as the forgotten sum is worth; infinity for all. The median."""
        return median(_votes(_plain(layer.ranked_by)) for layer in self.pruned)

    def lost(self, is_fraction_kept: bool, are_layers_kept: bool) -> list[str]:
        """What every engine without layers, heads, shares or our rules loses."""
        said = []
        if not are_layers_kept and max(self.kept) - min(self.kept) > 0.005:
            said.append(
                f"Layers keep {min(self.kept):.0%} to {max(self.kept):.0%}; there all of them keep the mean, "
                f"{mean(self.kept):.0%}."
            )
        if self.policy.by_prompt:
            said.append("What a KV head keeps is dealt out anew for every prompt; there it is not.")
        elif ragged := sum(layer.is_ragged for layer in self.pruned):
            said.append(
                f"In {ragged} of {len(self.kept)} layers KV heads have budgets of their own; there they do not."
            )
        if not is_fraction_kept and any(isinstance(each, float) for layer in self.pruned for each in layer.budgets):
            said.append(
                f"Budgets are shares of the prompt; there they are what a prompt of {self.tokens:,} tokens keeps."
            )
        if is_fraction_kept and any(layer.growth for layer in self.pruned):
            said.append(
                f"Short prompts keep a larger share than long ones; there all keep what one of {self.tokens:,} tokens "
                "does."
            )
        if is_fraction_kept and any(isinstance(each, int) for layer in self.pruned for each in layer.budgets):
            said.append(f"Budgets are in tokens; there they are shares, right for prompts of {self.tokens:,} tokens.")
        rules = [layer.ranked_by for layer in self.pruned]
        if weighted := sum(isinstance(rule, ValueWeighted) for rule in rules):
            said.append(f"In {weighted} layers a token's value counts beside its attention; there attention alone.")
        if learned := sum(isinstance(rule, Learned) for rule in rules):
            said.append(f"In {learned} layers every KV head forgets by a learned curve; there they share one window.")
        plain = [rule for rule in map(_unweighted, rules) if isinstance(rule, Decay) and 0 < rule.half_life < inf]
        if plain:
            first, last = min(plain, key=lambda rule: rule.half_life), max(plain, key=lambda rule: rule.half_life)
            said.append(
                f"Attention is forgotten by and by (half-lives of {first.half_life:g} to {last.half_life:g} tokens, "
                f"alpha {first.alpha:.3f} to {last.alpha:.3f}); there it counts in full or not at all."
            )
        return said


def _plain(rule: ScoreRule) -> ScoreRule:
    """Of a rule that engines do not know, the one of attention that is nearest."""
    rule = _unweighted(rule)
    if isinstance(rule, Learned):  # the half-life that the heads' powers lean on most
        leaning = [mean(row[place] for row in rule.powers) for place in range(len(rule.half_lives))]
        return Decay(rule.half_lives[leaning.index(max(leaning))])
    return rule


def _unweighted(rule: ScoreRule) -> ScoreRule:
    return rule.inner if isinstance(rule, ValueWeighted) else rule


def _votes(rule: ScoreRule) -> float:
    if isinstance(rule, Window):
        return rule.queries
    if isinstance(rule, Decay) and rule.half_life < inf:
        return 1 / (1 - rule.alpha)  # the sum of all weights
    return inf

"""What one layer keeps: which rule ranks its tokens, and how many stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from math import ceil, floor
from typing import Any

from a2sf_core.errors import A2SFError
from a2sf_core.fields import check_keys, is_int
from a2sf_core.foreign import shortened
from a2sf_core.growth import Growth
from a2sf_core.rules.attention import Decay
from a2sf_core.rules.base import ScoreRule
from a2sf_core.rules.catalogue import read_rule
from a2sf_core.rules.position import Position

Budget = float | int | None | tuple[float | int, ...]

# ceil and floor of a product such as 0.1 * 30 must not be off by one through its last bit.
ROUNDING = 1e-9


@dataclass(frozen=True)
class LayerPolicy:
    """What one layer keeps, per KV head (arXiv 2407.20485).

    Attributes:
        rule: what ranks the tokens that compete for the budget.
        budget: tokens to keep. None keeps everything; a float in (0, 1] is a fraction of the valid
            (non-padding) tokens seen when evicting; an int of at least 1 is tokens; a tuple has one per
            KV head.
        recent: how many of the budget are the most recent tokens: an int in tokens, or a float in [0, 1] as a
            fraction of the budget (of each head's own, if they differ).
        sink: how many of the budget are the first valid tokens. Served before `recent`.
        growth: how fractions grow with the prompt; None keeps the same fraction of every prompt.

    Raises:
        A2SFError: a sentence naming the field, what was expected and what it got.
    """

    rule: ScoreRule = field(default_factory=Decay)
    budget: Budget = None
    recent: int | float = 0
    sink: int = 0
    growth: Growth | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.rule, ScoreRule):
            raise A2SFError(f"rule must be a score rule such as Decay(16), not {self.rule!r}.")
        if isinstance(self.budget, list):
            object.__setattr__(self, "budget", tuple(self.budget))
        if isinstance(self.budget, tuple) and not self.budget:
            raise A2SFError("budget is an empty tuple; give one budget per KV head, or a single one.")
        for budget in self.budgets:
            _check_budget(budget, inside_tuple=isinstance(self.budget, tuple))
        if isinstance(self.recent, float) and not 0 <= self.recent <= 1:
            raise A2SFError(
                f"recent must be tokens (an integer) or a fraction of the budget from 0.0 to 1.0, not {self.recent!r}."
            )
        if not isinstance(self.recent, float) and not (is_int(self.recent) and self.recent >= 0):
            raise A2SFError(
                f"recent must be an integer of at least 0 or a fraction from 0.0 to 1.0, not {self.recent!r}."
            )
        if not is_int(self.sink) or self.sink < 0:
            raise A2SFError(f"sink must be an integer of at least 0 tokens, not {self.sink!r}.")
        if not isinstance(self.growth, Growth | None):
            raise A2SFError(f"growth must be a Growth or None, not {shortened(self.growth)}.")

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The fields, in the order in which they are written."""
        return tuple(each.name for each in fields(cls))

    @property
    def budgets(self) -> tuple[float | int | None, ...]:
        """One per KV head, or one in all if `budget` is not a tuple."""
        return self.budget if isinstance(self.budget, tuple) else (self.budget,)

    @property
    def is_ragged(self) -> bool:
        """True if the KV heads have unequal budgets."""
        return isinstance(self.budget, tuple) and len(self.heads_by_budget()) > 1

    @property
    def ranked_by(self) -> ScoreRule:
        """The rule, or one that asks for nothing where nothing is to be ranked: all tokens stay, or the last ones."""
        only_recent = isinstance(self.recent, float) and self.recent == 1.0
        return Position() if self.budget is None or only_recent else self.rule

    def budget_tokens(self, n: int) -> int:
        """Tokens kept of `n` valid ones: max(1, ceil(fraction * n)), never over n; see `growth` for the fraction.

        Raises:
            A2SFError: if the KV heads have unequal budgets; ask `head_budget_tokens` then.
        """
        if self.is_ragged:
            raise A2SFError(f"budget differs between KV heads ({self.budget!r}); ask head_budget_tokens for each.")
        return self.head_budget_tokens(n)[0]

    def head_budget_tokens(self, n: int) -> tuple[int, ...]:
        """Tokens kept of `n` valid ones, one entry per KV head, or one in all if `budget` is not a tuple."""
        times = self.growth.times(n) if self.growth else 1.0
        return tuple(_tokens(budget, n, times) for budget in self.budgets)

    def heads_by_budget(self) -> list[tuple[float | int, tuple[int, ...]]]:
        """Each distinct budget of a tuple with the KV heads that have it, in the order of their first heads."""
        heads: dict[str, list[int]] = {}  # by repr: 1 is a token and 1.0 is everything, but 1 == 1.0
        budgets = self.budget if isinstance(self.budget, tuple) else ()
        for head, budget in enumerate(budgets):
            heads.setdefault(repr(budget), []).append(head)
        return [(budgets[members[0]], tuple(members)) for members in heads.values()]

    def of_heads(self, heads: Sequence[int]) -> LayerPolicy:
        """The policy of some of the layer's KV heads alone, in this order."""
        budget = tuple(self.budget[head] for head in heads) if isinstance(self.budget, tuple) else self.budget
        return replace(self, budget=budget, rule=self.rule.of_heads(heads))

    def recent_tokens(self, budget: int) -> int:
        """How many of `budget` tokens go to the most recent ones, before the sink has its share."""
        if isinstance(self.recent, float):
            return floor(self.recent * budget + ROUNDING)
        return min(self.recent, budget)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        budget = list(self.budget) if isinstance(self.budget, tuple) else self.budget
        found = {"rule": self.rule.to_dict(), "budget": budget, "recent": self.recent, "sink": self.sink}
        return found | ({"growth": self.growth.to_dict()} if self.growth else {})

    @classmethod
    def from_dict(cls, data: Any, where: str = "layer policy") -> LayerPolicy:
        """Read what `to_dict` wrote.

        Raises:
            A2SFError: for an unknown field or rule (with the nearest known one), a bad value, or a contradiction.
        """
        given = dict(check_keys(data, cls.field_names(), (), where))
        try:
            if "rule" in given:
                given["rule"] = read_rule(given["rule"], "rule")
            if given.get("growth") is not None:
                given["growth"] = Growth.read(given["growth"])
            return cls(**given)
        except A2SFError as error:
            raise A2SFError(f"{where}: {error}") from None


def _check_budget(budget: Any, inside_tuple: bool) -> None:
    if budget is None and not inside_tuple:
        return
    if isinstance(budget, float) and 0 < budget <= 1:
        return
    if is_int(budget) and budget >= 1:
        return
    raise A2SFError(
        f"budget must be tokens (an integer of at least 1) or a fraction in (0, 1] written as a float"
        f"{', for each KV head' if inside_tuple else ', or None to keep everything'}; got {budget!r}."
    )


def _tokens(budget: float | int | None, n: int, times: float) -> int:
    if budget is None:
        return n
    wanted = ceil(budget * times * n - ROUNDING) if isinstance(budget, float) else budget
    return min(n, max(1, wanted))

"""How the tokens that a share of the cache stands for grow with the prompt.

What an answer needs of a prompt grows slower than the prompt, so of one total of memory short prompts should keep a
larger share than long ones (docs/heads.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from a2sf_core.errors import A2SFError
from a2sf_core.fields import check_keys, is_int, is_number
from a2sf_core.foreign import shortened


@dataclass(frozen=True)
class Growth:
    """Shares of the cache hold for the longest prompts, shorter ones keep more: tokens kept go with n ** power.

    That is so between two lengths. Beyond them, where nobody has measured, the share stays that of the nearer one.

    Attributes:
        power: 1 keeps the same share of every prompt, 0 the same number of tokens.
        shortest, longest: lengths of prompts in tokens.

    Raises:
        A2SFError: naming the field that is wrong.
    """

    power: float
    shortest: int
    longest: int

    def __post_init__(self) -> None:
        if not is_number(self.power) or not 0 <= self.power <= 1:
            raise A2SFError(
                f"growth: power must be from 0 (the same number of tokens for every prompt) to 1 (the same share), not "
                f"{shortened(self.power)}."
            )
        if not (is_int(self.shortest) and is_int(self.longest) and 1 <= self.shortest <= self.longest):
            raise A2SFError(
                "growth: shortest and longest must be lengths of prompts in tokens, the shorter first, not "
                f"{shortened(self.shortest)} and {shortened(self.longest)}."
            )

    def times(self, n: int) -> float:
        """How many times the share of the longest a prompt of `n` tokens keeps, if it has so many."""
        length = min(max(n, self.shortest), self.longest)
        return float((self.longest / length) ** (1 - self.power))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote. Raises A2SFError for unknown, missing or wrong fields."""
        names = [each.name for each in fields(cls)]
        return cls(**check_keys(given, names, names, "growth"))

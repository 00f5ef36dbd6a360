"""The rule whose forgetting was learned: for every KV head a product of powers of what each half-life remembers.

With one half-life it is A2SF's own rule. With several, a head may prefer what was looked at again and again to what
was looked at just now, or the other way round; and a token of a small value moves little however much it is looked at
(VATP, arXiv 2406.12335). The powers are fitted by the tuner (tuner/search/learning.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

from a2sf_core.errors import A2SFError
from a2sf_core.fields import check_keys, is_number
from a2sf_core.rules.attention import Decay
from a2sf_core.rules.base import Held, ScoreRule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FLOOR = 1e-4
"""Attention below which nothing is told apart: added before logarithms, so that rounding does not decide."""
_MOST = 20.0
"""Size of a power beyond which nothing sensible lies, and exponentials overflow."""


@dataclass(frozen=True)
class Learned(ScoreRule):
    """|v|^u prod_h (A_h + FLOOR)^w_h: v the token's value, A_h its attention, forgotten with half-life h.

    Attributes:
        half_lives: tokens, at least one, each once.
        powers: `[kv_head][half_life]`, the w_h of every KV head of the layer that the rule is for.
        value_powers: `[kv_head]`, the u of every KV head.

    Raises:
        A2SFError: naming the field that is wrong.
    """

    name: ClassVar[str] = "learned"
    half_lives: tuple[float, ...]
    powers: tuple[tuple[float, ...], ...]
    value_powers: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "half_lives", tuple(Decay(each).half_life for each in _listed(self, "half_lives")))
        rows = [tuple(row) if isinstance(row, Sequence) else () for row in _listed(self, "powers")]
        object.__setattr__(self, "powers", tuple(rows))
        if len(set(self.half_lives)) != len(self.half_lives):
            raise A2SFError("half_lives has one twice; give each once.")
        for head, row in enumerate(self.powers):
            if len(row) != len(self.half_lives) or not all(map(_is_power, row)):
                raise A2SFError(
                    f"powers[{head}] must be {len(self.half_lives)} numbers from {-_MOST:g} to {_MOST:g}, one for each "
                    "of half_lives."
                )
        object.__setattr__(self, "value_powers", tuple(_listed(self, "value_powers")))
        if len(self.value_powers) != len(self.powers) or not all(map(_is_power, self.value_powers)):
            raise A2SFError(f"value_powers must be {len(self.powers)} numbers, one for each KV head in powers.")

    @property
    def accumulates(self) -> tuple[float, ...]:
        """All half-lives."""
        return self.half_lives

    def of_heads(self, heads: Sequence[int]) -> Self:
        """The rule of some KV heads alone, in this order."""
        powers, value_powers = zip(*((self.powers[head], self.value_powers[head]) for head in heads), strict=True)
        return replace(self, powers=powers, value_powers=value_powers)

    def rank(self, held: Held) -> Tensor:
        """The product.

        Raises:
            A2SFError: if the layer has another number of KV heads, and not a process's part of them either.
        """
        if len(self.powers) != held.positions.shape[1]:
            from a2sf_core.placement import local_heads  # brings torch, which rules do without until they rank

            return self.of_heads(local_heads(held.positions.shape[1], len(self.powers))).rank(held)
        powers = _on_device(self.powers, held.positions.device)  # [kv_head, half_life]
        of_values = _on_device((self.value_powers,), held.positions.device)  # [1, kv_head]
        total: Any = of_values[..., None] * (held.values.float().norm(dim=-1) + FLOOR).log()
        for place, half_life in enumerate(self.half_lives):
            # [batch, kv_head, slot]
            total = total + powers[:, place, None] * (held.accumulated(half_life) + FLOOR).log()
        # Only the order counts; relative to the largest it stays within what a float holds.
        worth: Tensor = (total - total.amax(-1, keepdim=True)).exp()
        return worth

    @classmethod
    def read(cls, given: Mapping[str, Any], where: str) -> Self:
        """Infinity may be the string "inf"."""
        given = dict(check_keys(given, cls._field_names(), cls._field_names(), where))
        if isinstance(given["half_lives"], list):
            given["half_lives"] = [float("inf") if each == "inf" else each for each in given["half_lives"]]
        return cls(**given)


@lru_cache(maxsize=4096)
def _on_device(powers: tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    # Kept, because a captured graph may copy nothing from the host.
    import torch

    return torch.tensor(powers, dtype=torch.float32, device=device)


def _is_power(value: Any) -> bool:
    return is_number(value) and abs(value) <= _MOST


def _listed(rule: Learned, name: str) -> Sequence[Any]:
    given = getattr(rule, name)
    if not isinstance(given, list | tuple) or not given:
        raise A2SFError(f"{name} must be a list with at least one entry, not {given!r}.")
    return given

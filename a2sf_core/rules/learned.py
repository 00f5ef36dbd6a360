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
from a2sf_core.foreign import shortened
from a2sf_core.rules.attention import Decay
from a2sf_core.rules.base import Held, ScoreRule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FLOOR = 1e-4
"""Attention below which nothing is told apart: added before logarithms, so that rounding does not decide."""
_REQUIRED = ("half_lives", "powers", "value_powers")
_MOST = 20.0
"""Size of a power beyond which nothing sensible lies, and exponentials overflow."""
_LARGEST, _CLOSEST = 1e4, 1e-6
"""Size of a logarithm beyond which nothing sensible lies, and difference of two below which it is nothing."""


@dataclass(frozen=True)
class Learned(ScoreRule):
    """|v|^u prod_h (A_h + FLOOR)^w_h: v the token's value, A_h its attention, forgotten with half-life h.

    Attributes:
        half_lives: tokens, at least one, each once.
        powers: `[kv_head][half_life]`, the w_h of every KV head of the layer that the rule is for.
        value_powers: `[kv_head]`, the u of every KV head.
        scores: `[kv_head][2]`, logarithms of the product, a low one and a high one.
        log_nats: `[kv_head][knot]`, ascending: the logarithm of what losing a token costs, in nats, where that of its
            product is `scores`, and at equal steps in between; linear between knots, constant beyond. Both are empty
            where nobody knows, and then tokens of different heads do not compare.

    Raises:
        A2SFError: naming the field that is wrong.
    """

    name: ClassVar[str] = "learned"
    half_lives: tuple[float, ...]
    powers: tuple[tuple[float, ...], ...]
    value_powers: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...] = ()
    log_nats: tuple[tuple[float, ...], ...] = ()

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
        for name in ("scores", "log_nats"):
            given = getattr(self, name)
            if not _is_list(given):
                raise A2SFError(f"{name} must be a list, one row for each KV head or none, not {shortened(given)}.")
            object.__setattr__(self, name, tuple(tuple(row) if _is_list(row) else row for row in given))
        if self.scores or self.log_nats:
            self._check_worth()

    def _check_worth(self) -> None:
        knots = len(self.log_nats[0]) if self.log_nats and isinstance(self.log_nats[0], tuple) else 2
        for name, count in (("scores", 2), ("log_nats", max(knots, 2))):
            rows = getattr(self, name)
            for head in range(max(len(self.powers), len(rows))):
                row = rows[head] if head < len(rows) else ()
                plain = isinstance(row, tuple) and len(row) == count and all(map(_is_plain, row))
                if not plain or sorted(row) != list(row):
                    raise A2SFError(
                        f"{name}[{head}] must be {count} numbers in ascending order, for each of the "
                        f"{len(self.powers)} KV heads in powers; or leave out both scores and log_nats."
                    )

    @property
    def accumulates(self) -> tuple[float, ...]:
        """All half-lives."""
        return self.half_lives

    def of_heads(self, heads: Sequence[int]) -> Self:
        """The rule of some KV heads alone, in this order."""
        names = ("powers", "value_powers", "scores", "log_nats")
        given = {name: getattr(self, name) for name in names}
        return replace(self, **{name: tuple(rows[head] for head in heads) for name, rows in given.items() if rows})

    @property
    def compares(self) -> bool:
        """Whether `scores` and `log_nats` are there."""
        return bool(self.scores)

    def worth(self, held: Held) -> Tensor:
        """The nats that losing each token costs; raises what `rank` raises."""
        rule = self._of_those_held(held)
        found = rule.log_product(held)  # [batch, kv_head, slot]
        low, high = _on_device(rule.scores, found.device)[..., None].unbind(1)  # [kv_head, 1] each
        log_nats = _on_device(rule.log_nats, found.device).expand(len(found), -1, -1)  # [batch, kv_head, knot]
        last = log_nats.shape[-1] - 1
        place = ((found - low) / (high - low).clamp(min=_CLOSEST) * last).clamp(0, last)  # [batch, kv_head, slot]
        before = place.long().clamp(max=last - 1)
        start, stop = log_nats.gather(-1, before), log_nats.gather(-1, before + 1)
        return (start + (place - before) * (stop - start)).exp()

    def rank(self, held: Held) -> Tensor:
        """The product.

        Raises:
            A2SFError: if the layer has another number of KV heads, and not a process's part of them either.
        """
        total = self._of_those_held(held).log_product(held)
        # Only the order counts; relative to the largest it stays within what a float holds.
        worth: Tensor = (total - total.amax(-1, keepdim=True)).exp()
        return worth

    def _of_those_held(self, held: Held) -> Self:
        if len(self.powers) == held.positions.shape[1]:
            return self
        from a2sf_core.placement import local_heads  # brings torch, which rules do without until they rank

        return self.of_heads(local_heads(held.positions.shape[1], len(self.powers)))

    def log_product(self, held: Held) -> Tensor:
        """The logarithm of the product, of a layer with the rule's number of KV heads: float32, as `rank` has it."""
        powers = _on_device(self.powers, held.positions.device)  # [kv_head, half_life]
        of_values = _on_device((self.value_powers,), held.positions.device)  # [1, kv_head]
        total: Any = of_values[..., None] * (held.values.float().norm(dim=-1) + FLOOR).log()
        for place, half_life in enumerate(self.half_lives):
            # [batch, kv_head, slot]
            total = total + powers[:, place, None] * (held.accumulated(half_life) + FLOOR).log()
        return total

    @classmethod
    def read(cls, given: Mapping[str, Any], where: str) -> Self:
        """Infinity may be the string "inf"."""
        given = dict(check_keys(given, cls._field_names(), _REQUIRED, where))
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


def _is_plain(value: Any) -> bool:
    return is_number(value) and abs(value) <= _LARGEST


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _listed(rule: Learned, name: str) -> Sequence[Any]:
    given = getattr(rule, name)
    if not _is_list(given) or not given:
        raise A2SFError(f"{name} must be a list with at least one entry, not {given!r}.")
    return given

"""The seam between layers, which hold tokens, and rules, which say how much each token is worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from a2sf_core.fields import check_keys

if TYPE_CHECKING:
    from torch import Tensor


class Held(Protocol):
    """What a layer can tell a rule of the tokens that it holds when some of them must go."""

    @property
    def keys(self) -> Tensor:
        """`[batch, kv_head, slot, dim]`, in the model's dtype."""

    @property
    def values(self) -> Tensor:
        """`[batch, kv_head, slot, dim]`, in the model's dtype."""

    @property
    def positions(self) -> Tensor:
        """int32 or int64 `[batch, kv_head, slot]`: place in the padded sequence, -1 for padding and empty slots."""

    @property
    def left_padding(self) -> Tensor:
        """int64 `[batch]`: padding tokens before the first token of each row."""

    def accumulated(self, half_life: float) -> Tensor:
        """float32 `[batch, kv_head, slot]`: all attention so far, forgotten by one of the rule's `accumulates`."""

    def attention_of_last(self, n_queries: int) -> Tensor:
        """float32 `[batch, kv_head, slot]`: the plain sum over the last queries, at most the rule's `holds`."""


@dataclass(frozen=True)
class ScoreRule(ABC):
    """Ranks the tokens of a layer. Subclasses are frozen dataclasses whose fields are plain numbers or other rules.

    Keys and values need not be asked for: every layer holds them.

    Attributes:
        name: in exported files and on the command line.
    """

    name: ClassVar[str]

    @property
    def accumulates(self) -> tuple[float, ...]:
        """Half-lives in tokens for which attention must be summed up while the prompt is read.

        Decoding in static buffers keeps them up, or the queries of `holds`, and refuses rules that need both.
        """
        return ()

    @property
    def holds(self) -> int:
        """How many of the last queries must be held back until tokens are ranked.

        They are counted from the end of the prompt, so such a rule is for `evict="prefill"`.
        """
        return 0

    def of_heads(self, heads: Sequence[int]) -> ScoreRule:  # noqa: ARG002
        """The rule for some of the layer's KV heads alone, in this order; most rules treat all alike."""
        return self

    @property
    def compares(self) -> bool:
        """Whether `worth` says what tokens are worth to the model, so that those of different KV heads compare."""
        return False

    def worth(self, held: Held) -> Tensor:
        """In nats: float32 `[batch, kv_head, slot]`. In a head, never more for a token of lower `rank`.

        To be asked of rules that compare alone.
        """
        raise NotImplementedError(f"{self.name} does not compare tokens of different heads")

    @abstractmethod
    def rank(self, held: Held) -> Tensor:
        """The worth of every token held: float32 `[batch, kv_head, slot]`, none negative, higher is kept longer.

        What empty slots get does not matter. Ties prefer the later token. Nothing may be asked of the host, since a
        captured graph may hold this.
        """

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; infinity is the string "inf"."""
        return {"name": self.name} | {name: plain(getattr(self, name)) for name in self._field_names()}

    @classmethod
    def read(cls, given: Mapping[str, Any], where: str) -> Self:
        """The rule from what `to_dict` wrote, less its name; rules inside have been read already.

        Raises:
            A2SFError: for an unknown field (with the nearest known one), a missing field or a bad value.
        """
        return cls(**check_keys(given, cls._field_names(), (), where))

    @classmethod
    def _field_names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))


def plain(value: Any) -> Any:
    """A field as JSON has it: rules as objects, tuples as lists, infinity as the string "inf"."""
    if isinstance(value, ScoreRule):
        return value.to_dict()
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return "inf" if value == inf else value

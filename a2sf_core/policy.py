"""What to keep: a frozen, validated description of one pruning policy, with JSON in and out.

Imports neither torch nor transformers, so that the command line can check a policy in milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from a2sf_core.errors import A2SFError
from a2sf_core.fields import check_keys, is_int
from a2sf_core.foreign import MAX_DIGITS, shortened
from a2sf_core.half_life import half_life_of
from a2sf_core.layer_policy import Budget, LayerPolicy
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.rules.position import Position

_FIELDS = ("layers", "evict", "decode_every", "by_prompt")


@dataclass(frozen=True)
class Policy:
    """What every layer keeps, and when tokens are dropped.

    Attributes:
        layers: one `LayerPolicy` per decoder layer.
        evict: "prefill" reads the prompt with full attention and cuts each layer once. "chunk=C" cuts after
            every C prompt tokens, which bounds the prompt's memory too; the result depends on C. "step" is
            the paper's own setting: C = 1, and once more at every decoded token.
        decode_every: cut again after so many decoded tokens, so that the cache stays at its budget; None lets
            the decoded tokens accumulate. "step" implies 1.
        by_prompt: deal the sum of all budgets out anew for every prompt: a head keeps between its own budget and what
            it would win if the tokens of all layers and KV heads competed by their worth (`a2sf_core.dealing`). The
            rules must be ones that compare, such as a learned one in nats, and tokens go once, after the prompt.

    Raises:
        A2SFError: a sentence naming the field, what was expected and how to mend it.
    """

    layers: tuple[LayerPolicy, ...]
    evict: str = "prefill"
    decode_every: int | None = None
    by_prompt: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.layers, tuple):
            object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise A2SFError("layers is empty; give one layer policy per decoder layer of the model.")
        for index, layer in enumerate(self.layers):
            if not isinstance(layer, LayerPolicy):
                raise A2SFError(f"layers[{index}] must be a LayerPolicy, not {type(layer).__name__}.")
            if layer.rule.holds and self.evict != "prefill":
                raise A2SFError(
                    f"layers[{index}].rule: {layer.rule.name} needs evict 'prefill' (got {self.evict!r}): a window is "
                    "counted from the end of the prompt; use another rule or set evict to 'prefill'."
                )
        _chunk_of(self.evict)
        if self.evict == "step":
            if self.decode_every not in (None, 1):
                raise A2SFError(
                    f"decode_every is {self.decode_every!r}, but evict 'step' evicts at every decoded token; "
                    "leave decode_every out."
                )
            object.__setattr__(self, "decode_every", 1)
        if self.decode_every is not None and not (is_int(self.decode_every) and self.decode_every >= 1):
            raise A2SFError(f"decode_every must be an integer of at least 1 or None, not {self.decode_every!r}.")
        if not isinstance(self.by_prompt, bool):
            raise A2SFError(f"by_prompt must be true or false, not {shortened(self.by_prompt)}.")
        if self.by_prompt:
            self._check_by_prompt()

    def _check_by_prompt(self) -> None:
        if self.evict != "prefill" or self.decode_every is not None:
            raise A2SFError(
                "by_prompt deals budgets out once, after the prompt; set evict to 'prefill' and leave decode_every out."
            )
        for index, layer in enumerate(self.layers):
            if not isinstance(layer.budget, tuple | None):
                raise A2SFError(f"layers[{index}].budget must be one per KV head for by_prompt, not {layer.budget!r}.")
            if layer.budget is not None and not layer.rule.compares:
                raise A2SFError(
                    f"layers[{index}].rule: what {layer.rule.name} says of tokens does not compare between KV heads, "
                    "as by_prompt needs; use a learned rule with scores and log_nats, or leave by_prompt out."
                )

    @property
    def chunk(self) -> int | None:
        """Prompt tokens between two evictions: C, 1 for "step", None for "prefill"."""
        return _chunk_of(self.evict)

    @property
    def keeps_all(self) -> bool:
        """True if no layer drops anything."""
        return all(layer.budget is None for layer in self.layers)

    def cache_fraction(self, n_tokens: int) -> float:
        """Share of the full cache kept after a prompt of `n_tokens`: the mean over layers and KV heads."""
        kept = [layer.head_budget_tokens(n_tokens) for layer in self.layers]
        return sum(sum(heads) / len(heads) for heads in kept) / (len(kept) * n_tokens)

    def check_heads(self, n_kv_heads: int) -> None:
        """Raise A2SFError if a layer's budgets are not one for each of `n_kv_heads`."""
        for index, layer in enumerate(self.layers):
            if isinstance(layer.budget, tuple) and len(layer.budget) != n_kv_heads:
                raise A2SFError(
                    f"layers[{index}].budget has {len(layer.budget)} entries but the model has {n_kv_heads} KV heads; "
                    "give one budget per KV head, or a single one."
                )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; `from_dict` reads it back to an equal policy."""
        return {
            "evict": self.evict,
            "decode_every": self.decode_every,
            "by_prompt": self.by_prompt,
            "layers": [layer.to_dict() for layer in self.layers],
        }

    @classmethod
    def from_dict(cls, data: Any) -> Policy:
        """Read what `to_dict` wrote. Raises A2SFError for unknown, missing or contradictory fields."""
        fields = check_keys(data, _FIELDS, ("layers",), "policy")
        layers = fields["layers"]
        if not isinstance(layers, Sequence) or isinstance(layers, str):
            raise A2SFError("policy field 'layers' must be a list with one object per decoder layer.")
        return cls(
            tuple(LayerPolicy.from_dict(layer, f"policy layer {i}") for i, layer in enumerate(layers)),
            fields.get("evict", "prefill"),
            fields.get("decode_every"),
            fields.get("by_prompt", False),
        )

    @classmethod
    def uniform(cls, n_layers: int, evict: str = "prefill", decode_every: int | None = None, **layer: Any) -> Policy:
        """The same `LayerPolicy(**layer)` in every layer."""
        check_keys(layer, LayerPolicy.field_names(), (), "Policy.uniform")
        return cls((LayerPolicy(**layer),) * n_layers, evict, decode_every)

    @classmethod
    def full(cls, n_layers: int) -> Policy:
        """The whole cache: nothing is ever dropped."""
        return cls.uniform(n_layers)

    @classmethod
    def a2sf(cls, n_layers: int, budget: Budget, alpha: float, **timing: Any) -> Policy:
        """The paper's rule (arXiv 2407.20485): one forgetting factor `alpha`, no recent window."""
        return cls.uniform(n_layers, rule=Decay(half_life_of(alpha)), budget=budget, **timing)

    @classmethod
    def h2o(cls, n_layers: int, budget: Budget, **timing: Any) -> Policy:
        """H2O (arXiv 2306.14048): plain accumulated scores, half of the budget for recent tokens."""
        return cls.uniform(n_layers, rule=Decay(inf), budget=budget, recent=0.5, **timing)

    @classmethod
    def tova(cls, n_layers: int, budget: Budget, **timing: Any) -> Policy:
        """TOVA (arXiv 2401.06104): the attention of the last query only."""
        return cls.uniform(n_layers, rule=Decay(0.0), budget=budget, **timing)

    @classmethod
    def snapkv(cls, n_layers: int, budget: Budget, window: int = 16) -> Policy:
        """SnapKV (arXiv 2404.14469) without pooling: the last `window` queries vote and are kept."""
        return cls.uniform(n_layers, rule=Window(window), budget=budget, recent=window)

    @classmethod
    def streaming_llm(cls, n_layers: int, budget: Budget, sink: int = 4, **timing: Any) -> Policy:
        """StreamingLLM (arXiv 2309.17453): the first `sink` tokens and the most recent ones; no scores."""
        return cls.uniform(n_layers, rule=Position(), budget=budget, recent=1.0, sink=sink, **timing)


def _chunk_of(evict: Any) -> int | None:
    if evict == "prefill":
        return None
    if evict == "step":
        return 1
    if isinstance(evict, str) and evict.startswith("chunk="):
        size = evict.removeprefix("chunk=")
        if size.isascii() and size.isdigit() and len(size) <= MAX_DIGITS and int(size) >= 1:
            return int(size)
    raise A2SFError(f"evict must be 'prefill', 'step' or 'chunk=C' with C of at least 1, not {shortened(evict)}.")

"""One layer's keys and values with their logical positions and scores, and the eviction itself."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from a2sf_core.cuts import note_cut
from a2sf_core.errors import A2SFError
from a2sf_core.fields import is_int
from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.layers.base import PruningLayer
from a2sf_core.layers.recent import RecentQueries
from a2sf_core.plain.forgetting import decay
from a2sf_core.rules.base import ScoreRule
from a2sf_core.selection import select


class A2SFLayer(PruningLayer):
    """A cache layer that holds at most its budget of tokens per KV head, and knows where each stood.

    The attention function appends the new tokens in pieces (`pieces`, `append`, `evict`).

    Attributes:
        keys, values: `[batch, kv_head, slot, dim]`, None before the first token.
        positions: int64 `[batch, kv_head, slot]`, logical position in the padded sequence, -1 for padding and
            unused slots.
        scores: float32 `[half_life, batch, kv_head, slot]`, for each of `half_lives`.
        n_valid: int64 `[batch]`, valid tokens seen so far, evicted ones included.
        left_padding: int64 `[batch]`, padding tokens before the first valid one.
        seen: tokens seen so far, evicted ones and padding included.
        recent_queries: what window scores are taken from.
        is_dense: slot i holds position i, in every row and head.
        heads_agree: all heads hold the same positions.
        has_empty: some slot is padding or unused.
        is_padded: some token was padding; without any, what rows hold is known without asking the device.
        dealt: tokens that every row keeps at the next cut whatever its budget; empty where the budget says.
        is_sealed: the last cut was made; where decoding evicts nothing either, no scores are kept up any more.
    """

    keys: Any  # transformers has them None until the first token, and Tensor ever after
    values: Any

    def __init__(
        self,
        policy: LayerPolicy,
        chunk: int | None = None,
        decode_every: int | None = None,
        observes: Sequence[ScoreRule] = (),
    ) -> None:
        """An empty layer. What the rules in `observes` need is gathered as well as what `policy` needs.

        Raises:
            A2SFError: if the policy has unequal budgets per KV head.
        """
        super().__init__()
        if policy.is_ragged:
            raise A2SFError(
                f"budget must be the same for all KV heads of an A2SFLayer, not {policy.budget!r}; use a RaggedLayer."
            )
        self.policy = policy
        self.chunk = chunk
        self.decode_every = decode_every
        rules = (*observes, policy.ranked_by)
        self._half_lives = tuple(dict.fromkeys(half_life for rule in rules for half_life in rule.accumulates))
        self._holds = max((rule.holds for rule in rules), default=0)
        self.reset()

    # ---- what transformers calls ------------------------------------------------------------------------

    def reset(self) -> None:
        """Back to an empty layer; the tensors are released."""
        self.keys = self.values = None
        self.is_initialized = False
        self._positions = self.scores = self._padding = self.left_padding = torch.empty(0)
        self._unplaced = 0  # the last tokens, of whose positions nobody has asked yet
        self.half_lives, self.recent_queries = self._half_lives, RecentQueries(self._holds)
        self.seen = 0
        self._is_sealed = False
        self.is_dense = self.heads_agree = True
        self.has_empty = self.is_padded = False
        self.is_uncut = False  # prompt tokens have come since the last cut
        self.dealt: list[int] = []
        self._is_decoding = False  # the forward in progress brings one token after others
        self._decoded = 0  # tokens decoded since the last cut

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Learn device and dtype from the first keys and values `[batch, kv_head, new, dim]`."""
        self.device, self.dtype = key_states.device, key_states.dtype
        batch, kv_heads = key_states.shape[:2]
        self.keys = key_states[:, :, :0]  # [batch, kv_head, 0, dim]
        self.values = value_states[:, :, :0]
        self.positions = torch.empty(batch, kv_heads, 0, dtype=torch.long, device=self.device)
        self.scores = torch.zeros(len(self.half_lives), batch, kv_heads, 0, device=self.device)
        self._padding = torch.zeros(batch, dtype=torch.long, device=self.device)
        self.left_padding = torch.zeros_like(self._padding)
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Logical length, evicted tokens included, so that positions go on after a cut."""
        return self.seen

    @property
    def positions(self) -> Tensor:
        """As above; those of decoded tokens are written down once somebody asks, which most steps do not."""
        if self._unplaced:
            batch, kv_heads = self._positions.shape[:2]
            new = torch.arange(self.seen - self._unplaced, self.seen, device=self.device)
            self._positions = torch.cat([self._positions, new.expand(batch, kv_heads, -1)], dim=-1)
            self._unplaced = 0
        return self._positions

    @positions.setter
    def positions(self, positions: Tensor) -> None:
        self._positions, self._unplaced = positions, 0

    @property
    def n_valid(self) -> Tensor:
        """As above: all but the padding."""
        return self.seen - self._padding

    def tensors(self) -> list[Tensor]:
        """All that is held now; nothing before the first token."""
        if self.keys is None:
            return []
        return [self.keys, self.values, self._positions, self.scores, *(self.recent_queries.held or ())]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        if not self.is_initialized:
            return
        rows = indices.to(self.device)
        self.keys, self.values = self.keys[rows], self.values[rows]
        self.positions = self.positions[rows]
        self._padding, self.left_padding = self._padding[rows], self.left_padding[rows]
        self.scores = self.scores[:, rows]
        self.recent_queries.select_rows(rows)

    # ---- what the attention function calls --------------------------------------------------------------

    def begin_forward(self, n: int) -> None:
        """Prepare for `n` new tokens: the first decoded token after a prompt cuts."""
        self._is_decoding = n == 1 and self.seen > 0
        if self._is_decoding:
            self.cut()

    def pieces(self, n: int, valid: Tensor | None) -> list[tuple[int, int, Tensor | None]]:
        """How to cut a forward of `n` tokens: (start, stop, rows that evict after this piece or None).

        Args:
            valid: bool `[batch, n]`, None if no token is padding. Rows count their own valid tokens, so that
                a padded row evicts when it would have evicted alone.
        """
        every = self.decode_every if self._is_decoding else None if self._is_sealed else self.chunk
        if self.policy.budget is None or every is None:
            return [(0, n, None)]
        if self._is_decoding:
            is_due = (self._decoded + 1) % every == 0
            return [(0, n, torch.full_like(self.n_valid, is_due, dtype=torch.bool) if is_due else None)]
        if valid is None:
            valid = torch.ones(len(self.n_valid), n, dtype=torch.bool, device=self.device)
        count = self.n_valid[:, None] + valid.cumsum(-1)  # [batch, n]
        due = valid & (count % every == 0)  # [batch, n]
        if is_int(self.policy.budget):
            due &= count > self.policy.budget  # before that nothing goes, so no piece need end
        stops = (due.any(0).nonzero().flatten() + 1).tolist()
        if not stops or stops[-1] != n:
            stops.append(n)
        return [(start, stop, due[:, stop - 1]) for start, stop in zip([0, *stops], stops, strict=False)]

    def append(self, keys: Tensor, values: Tensor, valid: Tensor | None) -> None:
        """Take in new tokens: `[batch, kv_head, new, dim]`, valid bool `[batch, new]` or None."""
        batch, kv_heads, new = keys.shape[:3]
        if valid is None:
            self._unplaced += new
        else:
            positions = torch.arange(self.seen, self.seen + new, device=self.device).expand(batch, new)
            positions = positions.masked_fill(~valid, -1)[:, None].expand(batch, kv_heads, new)
            self.positions = torch.cat([self.positions, positions], dim=-1)
            before_first = (self.n_valid[:, None] + valid.cumsum(-1)) == 0  # [batch, new]
            self.left_padding = self.left_padding + before_first.sum(-1)
            self.is_dense, self.has_empty, self.is_padded = False, True, True
            self._padding = self._padding + (~valid).sum(-1)
        self.keys = torch.cat([self.keys, keys], dim=-2)
        self.values = torch.cat([self.values, values], dim=-2)
        if self.half_lives:
            self.scores = torch.cat([self.scores, self.scores.new_zeros(*self.scores.shape[:-1], new)], dim=-1)
        self.seen += new

    def add_scores(self, new: Tensor, n: int) -> None:
        """A(m + n) = alpha^n * A(m) + new, for `new` `[half_life, batch, kv_head, slot]` of `n` queries."""
        self.scores = decay(self.scores, self.half_lives, n).add_(new)

    def end_forward(self) -> None:
        """Count what has passed: one decoded token, or more prompt, after which a cut is due unless sealed."""
        if self._is_decoding:
            self._decoded += 1
        else:
            self.is_uncut = not self._is_sealed

    # ---- what a score rule asks: `a2sf_core.rules.base.Held` ------------------------------------------------

    def accumulated(self, half_life: float) -> Tensor:
        """float32 `[batch, kv_head, slot]`: all attention so far, forgotten by one of `half_lives`."""
        return self.scores[self.half_lives.index(half_life)]

    def attention_of_last(self, n_queries: int) -> Tensor:
        """float32 `[batch, kv_head, slot]`: the plain sum over the last queries."""
        return self.recent_queries.scores(n_queries, self.keys, self.positions, self.seen)

    # ---- eviction ---------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Evict down to the budget if prompt tokens have come since the last cut."""
        if not self.is_uncut:
            return
        note_cut(self.tuned_for, self._is_sealed)
        self.is_uncut, self._decoded = False, 0
        if self.policy.budget is not None:
            self.evict(None)
        self.dealt = []

    @property
    def is_sealed(self) -> bool:
        """Whether `seal` was called."""
        return self._is_sealed

    def seal(self) -> None:
        """Cut now, for the last time: what is read from here on stays, except what `decode_every` evicts."""
        self._is_sealed = True
        self.cut()
        if self.decode_every is None or self.policy.budget is None:  # nothing will be ranked again
            self.half_lives, self.recent_queries, self.scores = (), RecentQueries(0), self.scores[:0]

    def fork(self) -> A2SFLayer:
        """Another layer that goes on from here. Tensors are shared: reading more replaces them and changes none."""
        twin = copy(self)
        twin.recent_queries = copy(self.recent_queries)
        return twin

    def evict(self, due: Tensor | None) -> None:
        """Keep the budget of each row in `due` (bool `[batch]`, None for all); other rows keep all."""
        valid = self.positions >= 0  # [batch, kv_head, slot]
        if due is None and not self.is_padded and not self.has_empty and len(set(self.dealt)) < 2:
            # All rows keep as many tokens, and how many is known: the device need not be asked for anything.
            own = self.policy.budget_tokens(self.seen)
            n_kept = self.dealt[0] if self.dealt else own
            if n_kept < valid.shape[-1]:
                budget = torch.full_like(self.n_valid, n_kept)  # [batch]
                recent = torch.full_like(self.n_valid, self.policy.recent_tokens(own))  # [batch]
                scores = self.policy.ranked_by.rank(self)
                self._keep(select(scores, valid, budget, recent, self.policy.sink, n_kept), has_empty=False)
            return
        budgets = [self.policy.budget_tokens(n) for n in self.n_valid.tolist()]
        budget = torch.tensor(self.dealt or budgets, device=self.device)  # [batch]
        recent = torch.tensor([self.policy.recent_tokens(b) for b in budgets], device=self.device)  # [batch]
        if due is not None:
            budget = torch.where(due, budget, valid.shape[-1])
        if bool((valid.sum(-1) <= budget[:, None]).all()):
            return
        slots = select(self.policy.ranked_by.rank(self), valid, budget, recent, self.policy.sink)
        self._keep(slots, has_empty=bool((slots < 0).any()))

    def _keep(self, slots: Tensor, has_empty: bool) -> None:
        empty = slots < 0  # [batch, kv_head, kept]
        slots = slots.clamp(min=0)
        wide = slots.unsqueeze(-1)  # [batch, kv_head, kept, 1]
        self.keys = self.keys.gather(2, wide.expand(*slots.shape, self.keys.shape[-1]))
        self.values = self.values.gather(2, wide.expand(*slots.shape, self.values.shape[-1]))
        self.positions = self.positions.gather(2, slots).masked_fill(empty, -1)
        self.scores = self.scores.gather(3, slots.expand(len(self.scores), *slots.shape))
        self.scores = self.scores.masked_fill(empty, 0)
        self.is_dense = self.heads_agree = False
        self.has_empty = has_empty

    def kept_counts(self) -> Tensor:
        """Tokens that a filled layer holds now, padding not counted: int64 `[batch, kv_head]`."""
        return (self.positions >= 0).sum(-1)

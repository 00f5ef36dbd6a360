"""Each prompt is read once; a trial gathers the kept keys and values and runs the model over the answers only.

With `evict: prefill` the prompt's keys, values and attention do not depend on the policy. The
engine stores, per layer, score rule and KV head, the order of the tokens by score; any budget is a prefix of it.
Policies that evict while the prompt is read (`chunk`, `step`) are measured by really running them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from a2sf_core.errors import A2SFError
from a2sf_core.placement import joined, layer_devices, mean_of_processes, n_processes
from a2sf_core.policy import Policy
from a2sf_core.rules.base import ScoreRule
from a2sf_core.rules.position import Position
from a2sf_core.shape import fingerprint, n_kv_heads
from tuner.inputs.encoding import Encoded
from tuner.measuring.answers import answering
from tuner.measuring.bank import BANK, Bank
from tuner.measuring.batch import PromptBatch, keep_masks, kept_digest, with_rules
from tuner.measuring.blocks import BlockReader
from tuner.measuring.losses import Losses, Seen, TokenLosses, losses_of
from tuner.measuring.memory import enough_memory, room, tokens_at_once
from tuner.measuring.own_text import OwnTexts
from tuner.measuring.plan import plan
from tuner.measuring.reading import Reader
from tuner.measuring.store import Block, Store
from tuner.measuring.texts import Ends, Text
from tuner.watch import Progress


class Engine:
    """Measures policies on a fixed list of samples, block by block.

    Figures do not depend on `memory`: bit for bit on a CPU; on a GPU up to what its kernels vary from run to run when
    a prompt is read again (scores that tie to the last digit may then rank the other way).

    Args:
        model: a transformers decoder in eval mode; it stays on its device.
        samples: tokenised prompts and reference answers.
        batch_tokens: prompt tokens, padding included, that a trial works on at once; None: as many as are good for it.
        progress: called with (prompts read, prompts in all), or with texts written and in all added to both.
        block_size: samples per block, about; a policy can be given up after each block.
        seed: of the partition into blocks.
        memory: bytes for what is held of the prompts; None for no limit. What does not fit is read again when needed.
        bank: the rules that policies may have.
        ends: of the texts that the full cache writes, along which policies are judged too; None: along the reference
            answers alone.
        own: one rule more for each layer, or none.
        learn_from: half-lives in the bank whose sums are held, so that `learn` can bring such rules later.
        attached: measure every policy by really running it, for models whose figures hang on how tokens are read.

    Raises:
        A2SFError: if memory runs out, or is limited for a model that several processes share: each would decide for
            itself what to read again, and the others would wait for it.

    Attributes:
        reader: what runs the model.
        passes: how often a block was really run under a policy.
        n_blocks: how many blocks there are.
        n_kv_heads: KV heads of a layer.
        bytes_per_token: bytes of one token's keys and values over all layers, uncut.
    """

    def __init__(
        self,
        model: Any,
        samples: Sequence[Encoded],
        batch_tokens: int | None = None,
        progress: Progress = lambda _done, _total: None,
        block_size: int = 16,
        seed: int = 0,
        memory: int | None = None,
        bank: Sequence[ScoreRule] = BANK,
        ends: Ends | None = None,
        own: Sequence[ScoreRule] = (),
        learn_from: Sequence[float] = (),
        attached: bool = False,
    ) -> None:
        if memory is not None and n_processes(model) > 1:
            raise A2SFError("an engine of a model that several processes share takes no limit of memory.")
        self.model, self.attached = model, attached
        self.samples = list(samples)
        text = model.config.get_text_config()
        self.n_layers: int = text.num_hidden_layers
        self.n_kv_heads = n_kv_heads(text)
        self.passes = 0
        whole = tuple(dict.fromkeys((*bank, Position())))  # where nothing is to be ranked
        self.reader = Reader(model, self.samples, Bank(whole, tuple(own)), learn_from)
        self._own = OwnTexts(self.reader, self.samples, ends) if ends else None
        if batch_tokens is None:
            head_dim: int = fingerprint(model)["head_dim"]
            batch_tokens = tokens_at_once(2 * self.n_layers * self.n_kv_heads * head_dim * model.dtype.itemsize)
        planned = plan([sample.prompt_ids for sample in self.samples], batch_tokens, block_size, seed)
        self.n_blocks = len(planned)
        self._rows = [np.concatenate(batches) for batches in planned]  # [sample of the block], per block
        self._measured: dict[tuple[int, Policy], Losses] = {}
        self._by_kept_tokens: dict[tuple[int, bytes], Losses] = {}
        count, total = itertools.count(1), len(self.samples) * (2 if ends else 1)
        blocks = BlockReader(self.reader, planned, self._own, lambda: progress(next(count), total))
        self._store = Store(blocks.read, self.n_blocks, room(memory, layer_devices(model)))
        self.bytes_per_token = blocks.bytes_per_token * n_processes(model)
        blocks.told = lambda: None  # a prompt that is read again is no news
        progress(total, total)

    @property
    def recomputes(self) -> bool:
        """True if some prompts are read again for every `race`: it pays to race many policies at once then."""
        return self._store.recomputes

    def learn(self, own: Sequence[ScoreRule]) -> None:
        """Know one rule more for each layer, of the half-lives in `learn_from`; the sums that were held go."""
        half_lives = self.reader.learn(own)
        self._store.change(lambda block: [with_rules(batch, own, half_lives) for batch in block])

    def blocks(self) -> Iterator[Block]:
        """All prompts, block by block, as they are held."""
        return map(self._store.load, range(self.n_blocks))

    def own_texts(self, ends: Ends) -> dict[int, Text]:
        """What the full cache writes until `ends`, by sample; empty where the engine was not asked for just that."""
        if self._own is None or self._own.ends != ends:
            return {}
        for index in range(self._store.n_stored, self.n_blocks):
            if not self._own.known.keys() >= set(self._rows[index].tolist()):
                self._store.load(index)  # what no memory was left for was not read yet
        return self._own.known

    def evaluate(self, policy: Policy) -> Losses:
        """Losses of `policy` on every sample; policies that keep the same tokens are computed once.

        Raises:
            A2SFError: if the policy has another number of layers or KV heads, or a rule that is not in the bank.
        """
        return self.race([policy])[0].losses

    def evaluate_blocks(self, policy: Policy, n_blocks: int) -> Seen:
        """`policy` on the first `n_blocks` blocks only, which are a random part of the samples."""
        return self._race([policy], None, min(max(1, n_blocks), self.n_blocks))[0]

    def batches(
        self, policy: Policy, rows: Collection[int] | None = None
    ) -> Iterator[tuple[PromptBatch, list[torch.Tensor]]]:
        """Every batch that holds one of the samples `rows` (None: all), with what `policy` keeps of it.

        That is bool `[batch, kv_head, key]` per layer.
        """
        self._check(policy)
        wanted = None if rows is None else set(rows)
        for index, held in enumerate(self._rows):
            if wanted is not None and wanted.isdisjoint(held.tolist()):
                continue
            with enough_memory(f"reading {len(held)} prompts"):
                block = self._store.load(index)
            for batch in block:
                if wanted is None or not wanted.isdisjoint(batch.samples):
                    yield batch, keep_masks(batch, policy, self.reader.bank)

    def gathers(self, policy: Policy) -> bool:
        """True if `policy` is measured over what is picked from the prompts as read, False if by really running it."""
        return not self.attached and by_gathering(policy)

    def knows(self, policy: Policy) -> bool:
        """True if `policy` was measured before, at least in part: asking again costs nothing, or less."""
        return (0, policy) in self._measured

    def race(self, policies: Sequence[Policy], is_hopeless: Callable[[int, Seen], bool] | None = None) -> list[Seen]:
        """Measure `policies` block by block, those that are still alive; every block is loaded once for all.

        What was measured stays known: a policy that was dropped goes on later where it stopped.

        Args:
            policies: to measure.
            is_hopeless: called after each block but the last with a place in `policies` and what was seen of that
                policy so far; True drops it.

        Returns:
            what was seen of each policy; `rows` are all samples for one that was not dropped.
        """
        return self._race(policies, is_hopeless, self.n_blocks)

    def _race(
        self, policies: Sequence[Policy], is_hopeless: Callable[[int, Seen], bool] | None, n_blocks: int
    ) -> list[Seen]:
        for policy in policies:
            self._check(policy)
        seen: dict[int, Seen] = {}
        alive = list(range(len(policies)))
        for block in range(n_blocks):
            self._measure_block(block, [policies[i] for i in alive])
            is_last = block + 1 == n_blocks
            if is_last or is_hopeless is not None:
                seen |= {i: self._seen(policies[i], block + 1) for i in alive}
            if is_hopeless is not None and not is_last:
                alive = [i for i in alive if not is_hopeless(i, seen[i])]
        return [seen[i] for i in range(len(policies))]

    def _seen(self, policy: Policy, n_blocks: int) -> Seen:
        rows = np.concatenate(self._rows[:n_blocks])
        order = np.argsort(rows)
        return Seen(rows[order], Losses.join([self._measured[block, policy] for block in range(n_blocks)], order))

    def _check(self, policy: Policy) -> None:
        if len(policy.layers) != self.n_layers:
            raise A2SFError(f"the policy has {len(policy.layers)} layers but the model has {self.n_layers}.")
        for index, layer in enumerate(policy.layers) if self.gathers(policy) else ():
            self.reader.bank.place(index, layer)
            if (n_budgets := len(layer.head_budget_tokens(1))) not in (1, self.n_kv_heads):
                raise A2SFError(f"a layer has {n_budgets} budgets but the model has {self.n_kv_heads} KV heads.")

    def _measure_block(self, index: int, policies: Sequence[Policy]) -> None:
        """Fill the cache for `policies` on one block, which is loaded only if some of them are not known yet."""
        unknown = [policy for policy in dict.fromkeys(policies) if (index, policy) not in self._measured]
        if not unknown:
            return
        with enough_memory(f"measuring on {len(self._rows[index])} prompts"):
            block = self._store.load(index)
            with answering(self.model):  # once for all: it costs a walk over the model's modules
                for policy in filter(self.gathers, unknown):
                    self._measured[index, policy] = self._measure(index, block, policy)
            for policy in unknown:
                if not self.gathers(policy):
                    self._measured[index, policy] = self._run_attached(block, policy)
                    self.passes += 1

    def _measure(self, index: int, block: Block, policy: Policy) -> Losses:
        keep = [keep_masks(batch, policy, self.reader.bank) for batch in block]
        key = index, joined(kept_digest(keep), self.model)
        if key not in self._by_kept_tokens:
            parts = []
            for batch, masks in zip(block, keep, strict=True):
                logits = self.reader.follow_each(batch, masks, [(text.ids, text.valid) for text in batch.texts])
                parts.append(self._losses(batch, logits, [mask.sum(-1) for mask in masks]))
            self._by_kept_tokens[key] = _join(parts)
            self.passes += 1
        return self._by_kept_tokens[key]

    def evaluate_directly(self, policy: Policy) -> Losses:
        """Losses from really running the attached model: it reads every prompt again. Slow, works for every policy."""
        parts = [self._run_attached(self._store.load(block), policy) for block in range(self.n_blocks)]
        return Losses.join(parts, np.argsort(np.concatenate(self._rows)))

    def _run_attached(self, block: Block, policy: Policy) -> Losses:
        parts = []
        for batch in block:
            runs = [self.reader.follow_attached(batch, policy, text.ids, text.valid) for text in batch.texts]
            parts.append(self._losses(batch, [logits for logits, _ in runs], runs[0][1]))
        return _join(parts)

    def _losses(self, batch: PromptBatch, logits: Sequence[torch.Tensor], kept: list[torch.Tensor]) -> Losses:
        """From logits `[batch, token, vocab]` along each text and, per layer, how many are kept `[batch, kv_head]`."""
        n_tokens = batch.n_tokens
        shares = torch.stack(
            [count.to(n_tokens.device).double().mean(-1) / n_tokens for count in kept]
        )  # [layer, batch]
        share = mean_of_processes(shares.mean(0), self.model).cpu().numpy()  # [batch]
        texts = zip(logits, batch.texts, strict=True)
        found = [TokenLosses.of(each, text, self.reader.head) for each, text in texts]
        return losses_of(found[0], found[1] if len(found) > 1 else None, share)


def by_gathering(policy: Policy) -> bool:
    """True if `policy` cuts once, after the prompt, so that what it keeps can be picked from what was read."""
    return policy.evict == "prefill" and policy.decode_every is None


def _join(parts: list[Losses]) -> Losses:
    return Losses.join(parts, np.arange(sum(len(part.nll) for part in parts)))

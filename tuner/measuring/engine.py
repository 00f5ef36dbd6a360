"""Each prompt is read once; a trial gathers the kept keys and values and runs the model over the answers only.

With `evict: prefill` the prompt's keys, values and attention do not depend on the policy. A holder
stores, per layer, score rule and KV head, the order of the tokens by score; any budget is a prefix of it.
Policies that evict while the prompt is read (`chunk`, `step`) are measured by really running them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from a2sf_core.errors import A2SFError
from a2sf_core.placement import input_device, n_processes
from a2sf_core.policy import Policy
from a2sf_core.rules.base import ScoreRule
from a2sf_core.rules.position import Position
from a2sf_core.shape import fingerprint, n_kv_heads
from tuner.inputs.encoding import Encoded
from tuner.measuring.bank import BANK, Bank
from tuner.measuring.blocks import Told, nobody
from tuner.measuring.holder import Holder
from tuner.measuring.holders import Here, Holders
from tuner.measuring.losses import Losses, Seen
from tuner.measuring.memory import tokens_at_once
from tuner.measuring.plan import plan
from tuner.measuring.portion import Portion
from tuner.measuring.texts import Ends, Text
from tuner.watch import Count, Progress

Found = TypeVar("Found")


class Engine:
    """Measures policies on a fixed list of samples, block by block, wherever these are held.

    Figures do not depend on `memory` or on who holds the prompts: bit for bit on a CPU; on a GPU up to what its kernels
    vary from run to run when a prompt is read again (scores that tie to the last digit may then rank the other way).

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
        hold: called with all that is to be held, says who does; None for this process.

    Raises:
        A2SFError: if memory runs out, or is limited for a model that several processes share: each would decide for
            itself what to read again, and the others would wait for it.

    Attributes:
        contexts: int `[sample]`, equal for questions on one context.
        n_tokens: int `[sample]`, how long every prompt is.
        holders: who holds the prompts.
        portion: what all of them hold together, the rules that were learned meanwhile included.
        passes: how often a block was really run under a policy.
        n_blocks: how many blocks there are.
        n_kv_heads: KV heads of a layer.
        bytes_per_token: bytes of one token's keys and values over all layers, uncut.
        held: bytes of all that is held of the prompts, once they are read.
        recomputes: True if some prompts are read again for every `race`: it pays to race many policies at once then.
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
        hold: Callable[[Portion], Holders] | None = None,
    ) -> None:
        if memory is not None and n_processes(model) > 1:
            raise A2SFError("an engine of a model that several processes share takes no limit of memory.")
        self.model = model
        self.samples = list(samples)
        self.contexts = np.unique([sample.context_key for sample in self.samples], return_inverse=True)[1]
        self.n_tokens = np.array([len(sample.prompt_ids) for sample in self.samples])
        text = model.config.get_text_config()
        self.n_layers: int = text.num_hidden_layers
        self.n_kv_heads = n_kv_heads(text)
        self.passes = 0
        whole = tuple(dict.fromkeys((*bank, Position())))  # where nothing is to be ranked
        if batch_tokens is None:
            head_dim: int = fingerprint(model)["head_dim"]
            batch_tokens = tokens_at_once(2 * self.n_layers * self.n_kv_heads * head_dim * model.dtype.itemsize)
        on_cpu = input_device(model).type == "cpu"
        answers = [len(sample.answer_ids) for sample in self.samples] if on_cpu else ()
        planned = plan([sample.prompt_ids for sample in self.samples], batch_tokens, block_size, seed, answers)
        self.n_blocks = len(planned)
        prompts, blocks = dict(enumerate(self.samples)), dict(enumerate(planned))
        rules = Bank(whole, tuple(own))
        self.portion = Portion(prompts, blocks, rules, tuple(learn_from), ends, memory, attached)
        self._rows = [np.array(self.portion.rows(index)) for index in blocks]  # [sample of the block], each
        self._measured: dict[tuple[int, Policy], Losses] = {}
        count = Count(progress, len(self.samples) * (2 if ends else 1))
        self.holders: Holders = hold(self.portion) if hold else Here(model, self.portion)
        found = self.everywhere(_how_held, told=count.one)  # which is what makes them read
        self.recomputes = any(again for again, _, _ in found)
        self.bytes_per_token = max(n_bytes for _, n_bytes, _ in found)
        self.held = sum(held for _, _, held in found)
        count.close()

    def everywhere(self, what: Callable[..., Found], *given: Any, told: Told = nobody) -> list[Found]:
        """What `what(holder, *given)` finds at each holder; see `Holders.run`."""
        return list(self.holders.run(what, dict.fromkeys(range(self.holders.count), given), told).values())

    def somewhere(self, what: Callable[..., Found], *given: Any, told: Told = nobody) -> Found:
        """What `what(holder, *given)` finds at one of the holders, for what asks for the model alone."""
        return self.holders.run(what, {0: given}, told)[0]

    def learn(self, own: Sequence[ScoreRule]) -> None:
        """Know one rule more for each layer, of the half-lives in `learn_from`; the sums that were held go."""
        self.portion = self.portion.learned(own)
        self.holders.learn(tuple(own))

    def own_texts(self, ends: Ends) -> dict[int, Text]:
        """What the full cache writes until `ends`, by sample; empty where the engine was not asked for just that."""
        if self.portion.ends is None or self.portion.ends != ends:
            return {}
        return {row: text for found in self.everywhere(Holder.own_texts) for row, text in found.items()}

    def evaluate(self, policy: Policy) -> Losses:
        """Losses of `policy` on every sample; policies that keep the same tokens are computed once.

        Raises:
            A2SFError: if the policy has another number of layers or KV heads, or a rule that is not in the bank.
        """
        return self.race([policy])[0].losses

    def evaluate_blocks(self, policy: Policy, n_blocks: int) -> Seen:
        """`policy` on the first `n_blocks` blocks only, which are a random part of the samples."""
        return self._race([policy], None, min(max(1, n_blocks), self.n_blocks))[0]

    def evaluate_directly(self, policy: Policy) -> Losses:
        """Losses from really running the attached model: it reads every prompt again. Slow, works for every policy."""
        self._check(policy)
        parts = {index: losses for found in self.everywhere(Holder.measure_directly, policy)
                 for index, losses in found.items()}  # fmt: skip
        in_order = [parts[index] for index in range(self.n_blocks)]
        return Losses.join(in_order, np.argsort(np.concatenate(self._rows)))

    def gathers(self, policy: Policy) -> bool:
        """True if `policy` is measured over what is picked from the prompts as read, False if by really running it."""
        return self.portion.gathers(policy)

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
            if block % self.holders.count == 0:  # the next blocks, one at each holder, whoever is dropped meanwhile
                side_by_side = range(block, min(block + self.holders.count, n_blocks))
                self._measure(side_by_side, [policies[i] for i in alive])
            is_last = block + 1 == n_blocks
            if is_last or is_hopeless is not None:
                seen |= {i: self._seen(policies[i], block + 1) for i in alive}
            if is_hopeless is not None and not is_last:
                alive = [i for i in alive if not is_hopeless(i, seen[i])]
        return [seen[i] for i in range(len(policies))]

    def _measure(self, blocks: Sequence[int], policies: Sequence[Policy]) -> None:
        """Know the losses of `policies` on `blocks`, of which each holder has one; known ones are not asked for."""
        unknown = {}
        for index in blocks:
            new = [policy for policy in dict.fromkeys(policies) if (index, policy) not in self._measured]
            if new:
                unknown[index % self.holders.count] = (index, new)
        for place, (found, passes) in self.holders.run(Holder.measure, unknown).items():
            index, new = unknown[place]
            self._measured |= {(index, policy): losses for policy, losses in zip(new, found, strict=True)}
            self.passes += passes

    def _seen(self, policy: Policy, n_blocks: int) -> Seen:
        rows = np.concatenate(self._rows[:n_blocks])
        order = np.argsort(rows)
        return Seen(rows[order], Losses.join([self._measured[block, policy] for block in range(n_blocks)], order))

    def _check(self, policy: Policy) -> None:
        if len(policy.layers) != self.n_layers:
            raise A2SFError(f"the policy has {len(policy.layers)} layers but the model has {self.n_layers}.")
        for index, layer in enumerate(policy.layers) if self.gathers(policy) else ():
            self.portion.bank.place(index, layer)
            if (n_budgets := len(layer.head_budget_tokens(1))) not in (1, self.n_kv_heads):
                raise A2SFError(f"a layer has {n_budgets} budgets but the model has {self.n_kv_heads} KV heads.")


def _how_held(holder: Holder) -> tuple[bool, int, int]:
    """Whether something is read again, bytes of a token, and of all that is held."""
    return holder.recomputes, holder.bytes_per_token, holder.held

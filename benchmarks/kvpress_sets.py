"""What kvpress's presses keep of given prompts. Runs in kvpress's own environment; knows nothing of this project.

    python -P kvpress_sets.py JOB.json

`benchmarks.peers` starts it. A job says what to do:

- "sets": which keys each press keeps, one .npz per prompt, bool `[layer, kv_head, key]` under "METHOD at SHARE";
- "native": logits of one text after a press has really cut, as kvpress serves: what the evaluator is checked against;
- "cost": seconds to the first token and bytes of the cache after it.

A press of one reading (a score per layer) sees the same hidden states whatever other presses cut, since kvpress cuts
behind a layer's attention; so all of them are asked in one reading. What remains of `compress` is found again in the
whole cache by the bytes of its rows; AdaKV and KVzip only mask, and say themselves which keys (`masked_key_indices`).
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kvpress
import numpy as np
import torch
from kvpress.presses.base_press import BasePress
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils.logging import disable_progress_bar

Keep = dict[str, list[Tensor]]
"""Per name, per layer: bool `[kv_head, key]`."""

PRESSES: dict[str, Callable[[float], Any]] = {
    "StreamingLLM": lambda cut: kvpress.StreamingLLMPress(cut),
    "ObservedAttention (H2O)": lambda cut: kvpress.ObservedAttentionPress(cut),
    "TOVA": lambda cut: kvpress.TOVAPress(cut),
    "SnapKV": lambda cut: kvpress.SnapKVPress(cut),
    "SnapKV, window 16": lambda cut: kvpress.SnapKVPress(cut, window_size=16),
    "PyramidKV": lambda cut: kvpress.PyramidKVPress(cut),
    "ExpectedAttention": lambda cut: kvpress.ExpectedAttentionPress(cut),
    "AdaKV, SnapKV window 16": lambda cut: kvpress.AdaKVPress(kvpress.SnapKVPress(cut, window_size=16)),
    "AdaKV, ExpectedAttention": lambda cut: kvpress.AdaKVPress(kvpress.ExpectedAttentionPress(cut, epsilon=1e-2)),
    "KVzip": lambda cut: kvpress.KVzipPress(cut),
}
"""With kvpress's defaults unless the name says otherwise; AdaKV over ExpectedAttention as its leaderboard has it."""
SHARE_BLIND = (kvpress.SnapKVPress, kvpress.ExpectedAttentionPress, kvpress.ObservedAttentionPress)
"""Presses that take time to score and score alike whatever the share; those of StreamingLLM depend on it."""
EAGER, REREADS = "ObservedAttention (H2O)", "KVzip"
FULL = "full cache"


def cut_at(share: float, n: int) -> float:
    """The compression ratio that keeps `share` of `n` keys per head, rounded up, as our policies are.

    The hundredth of a key outweighs what is lost where kvpress takes 1 - ratio and rounds down.
    """
    return 1 - (math.ceil(share * n) + 0.01) / n if share < 1 else 0.0


def label(method: str, share: float) -> str:
    """The name of one kept set in a .npz file."""
    return f"{method} at {share:g}"


@dataclass
class Recorder(BasePress):
    """Asks several presses what they would keep at several shares, and cuts nothing."""

    presses: dict[str, Any]
    cuts: dict[float, float]
    keep: Keep = field(default_factory=dict)

    def __post_init__(self) -> None:
        for press in self.presses.values():
            scorer = getattr(press, "press", press)
            if isinstance(scorer, SHARE_BLIND):
                score_once(scorer)

    def post_init_from_model(self, model: Any) -> None:
        """For all of them."""
        for press in self.presses.values():
            press.post_init_from_model(model)

    def compress(
        self, module: Any, hidden_states: Tensor, keys: Tensor, values: Tensor, attentions: Any, kwargs: dict
    ) -> tuple[Tensor, Tensor]:
        """Called by kvpress behind every attention layer; the whole cache is handed back."""
        for method, press in self.presses.items():
            for share, cut in self.cuts.items():
                press.compression_ratio = cut
                module.masked_key_indices = None
                left = press.compress(module, hidden_states, keys, values, attentions, kwargs)
                found = unmasked(module, keys)[0] if left[0] is keys else found_again(keys[0], left[0][0])
                self.keep.setdefault(label(method, share), []).append(found)
        module.masked_key_indices = None
        return keys, values


def score_once(press: Any) -> None:
    """Let `press` remember the scores of the layer in hand."""
    score = press.score
    last: list[tuple[Any, Tensor]] = []

    def remembered(module: Any, *rest: Any) -> Tensor:
        if not last or last[0][0] is not module:
            last[:] = [(module, score(module, *rest))]
        return last[0][1].clone()  # AdaKV writes into them

    press.score = remembered


@dataclass
class KVzipAtShares(kvpress.KVzipPress):
    """Reads the prompt again once, and masks at several shares one after the other."""

    cuts: dict[float, float] = field(default_factory=dict)
    keep: Keep = field(default_factory=dict)

    def compress_post(self, model: Any) -> None:
        """Called by kvpress when all tokens have their scores."""
        for share, cut in self.cuts.items():
            self.compression_ratio = cut
            super().compress_post(model)
            modules = [layer.self_attn for layer in model.model.layers]
            self.keep[label(REREADS, share)] = [unmasked(each, self.score_val[0, ..., None])[0] for each in modules]


def unmasked(module: Any, keys: Tensor) -> Tensor:
    """bool `[batch, kv_head, key]`: what is not masked of `[batch, kv_head, key, dim]`."""
    keep = torch.ones(keys.shape[:3], dtype=torch.bool)
    if module.masked_key_indices is not None:
        keep[tuple(index.cpu() for index in module.masked_key_indices)] = False
    return keep


def found_again(whole: Tensor, left: Tensor) -> Tensor:
    """bool `[kv_head, key]`: which rows of `whole` `[kv_head, key, dim]` are in `left` `[kv_head, kept, dim]`."""
    factors = torch.randint(-(2**62), 2**62, (whole.shape[-1],), generator=torch.Generator().manual_seed(0))
    # Of float32 rows, as exact integers that wrap around: equal rows have equal sums, others practically never.
    of_whole, of_left = ((rows.cpu().float().view(torch.int32).long() * factors).sum(-1) for rows in (whole, left))
    keep = torch.stack([torch.isin(*pair) for pair in zip(of_whole, of_left, strict=True)])
    if not bool((keep.sum(-1) == left.shape[1]).all()):
        raise RuntimeError("kept keys were not found again in the whole cache: two of a head's keys are equal")
    return keep


@torch.no_grad()
def kept_sets(model: Any, ids: Tensor, methods: list[str], shares: list[float]) -> dict[str, np.ndarray]:
    """Per `label`: bool `[layer, kv_head, key]`."""
    n = ids.shape[1]
    cuts = {share: cut_at(share, n) for share in shares}
    eager = [method for method in methods if method == EAGER]
    once = [method for method in methods if method not in (EAGER, REREADS)]
    kvzip = KVzipAtShares(0.5, cuts=cuts) if REREADS in methods else None
    keep: Keep = {}
    for some, attention, again in ((once, "sdpa", kvzip), (eager, "eager", None)):
        if not some and again is None:
            continue
        recorder = Recorder({method: PRESSES[method](0.5) for method in some}, cuts)
        model.set_attn_implementation(attention)
        with again(model) if again else nullcontext(), recorder(model):
            model(input_ids=ids, past_key_values=DynamicCache(), logits_to_keep=1)
        keep |= recorder.keep
    if kvzip:
        keep |= kvzip.keep
    return {name: torch.stack(layers).numpy() for name, layers in keep.items()}


@torch.no_grad()
def served(model: Any, ids: Tensor, method: str, share: float) -> tuple[Any, Tensor]:
    """The cache after the prompt `[1, n]` under one press, as kvpress serves, and logits `[vocab]` of its end."""
    model.set_attn_implementation("eager" if method == EAGER else "sdpa")
    cache = DynamicCache()
    with nullcontext() if method == FULL else PRESSES[method](cut_at(share, ids.shape[1]))(model):
        logits = model(input_ids=ids, past_key_values=cache, logits_to_keep=1).logits[0, -1]
    return cache, logits


@torch.no_grad()
def native_logits(model: Any, ids: Tensor, text: list[int], method: str, share: float) -> np.ndarray:
    """`[token, vocab]`: what predicts each token of `text`, read token by token over what the press left."""
    cache, first = served(model, ids, method, share)
    found = [first]
    for place, token in enumerate(text[:-1]):
        position = torch.tensor([[ids.shape[1] + place]])
        output = model(input_ids=torch.tensor([[token]]), past_key_values=cache, position_ids=position)
        found.append(output.logits[0, -1])
    return torch.stack(found).numpy()


def cost(model: Any, prompts: list[list[int]], methods: list[str], share: float) -> dict[str, dict[str, list[float]]]:
    """Per method: seconds of CPU to the first token, bytes of keys and values after it; one of each per prompt."""
    found: dict[str, dict[str, list[float]]] = {name: {"seconds": [], "bytes": []} for name in (FULL, *methods)}
    for ids in [prompts[0], *prompts]:  # the first one warms up
        for name, figures in found.items():
            began = time.process_time()
            cache, _ = served(model, torch.tensor([ids]), name, share)
            figures["seconds"].append(time.process_time() - began)
            figures["bytes"].append(sum(each.nbytes for layer in cache.layers for each in (layer.keys, layer.values)))
    return {name: {unit: values[1:] for unit, values in figures.items()} for name, figures in found.items()}


def main(job: dict[str, Any]) -> None:
    """Do one job and write what was found into its folder."""
    torch.set_num_threads(int(job["threads"]))
    logging.getLogger("kvpress").setLevel(logging.ERROR)
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32, local_files_only=True).eval()
    out, methods, shares = Path(job["out"]), job["methods"], job["shares"]
    prompts: dict[str, list[int]] = job["prompts"]
    if job["do"] == "cost":
        found = cost(model, list(prompts.values()), methods, shares[0])
        (out / "cost.json").write_text(json.dumps(found))
        return
    for done, (name, ids) in enumerate(prompts.items(), 1):
        whole = torch.tensor([ids])
        if job["do"] == "native":
            arrays = {method: native_logits(model, whole, job["text"], method, shares[0]) for method in methods}
        else:
            arrays = kept_sets(model, whole, methods, shares)
        file, part = out / f"{name}.npz", out / f"{name}.part.npz"
        if file.exists() and job["do"] == "sets":  # of other methods, or at other shares
            with np.load(file) as known:
                arrays = {key: known[key] for key in known} | arrays
        np.savez_compressed(part, **arrays)  # type: ignore[arg-type]
        part.rename(file)
        print(f"kvpress: {done} of {len(prompts)} prompts", flush=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))

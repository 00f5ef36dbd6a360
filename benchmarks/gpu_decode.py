"""Decoding from a pruned cache on a GPU: tokens per second, how near to the memory's limit, what eviction costs.

    python -m benchmarks.gpu_decode              # Llama-3-8B, 16 rows of 16384 tokens, 20 % kept, evicting every 32
    python -m benchmarks.gpu_decode --compiled   # the same with the steps put through torch.compile
    python -m benchmarks.gpu_decode --layers 8   # a quarter of the layers; every figure is of those

Weights and cache are random numbers in bfloat16: time does not depend on them, and no prompt is read. Before anything
is timed, the kernels are compared with plain torch in float32, and graphs with single calls. The limit is the time to
read the weights and the kept keys and values once, at the bandwidth that a large copy reaches on the same device
(bytes read plus bytes written). A step's time is the median over whole periods of 32 steps, so that it holds its share
of scoring and evicting; the cost of an eviction is that of its graph alone, over 32 steps without it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor

from a2sf_core import A2SFCache, Policy, attach
from a2sf_core.decoder import Decoder
from a2sf_core.plain import slots as plain
from a2sf_core.plain.slots import Ring, Slots
from benchmarks.gpu import need_gpu

LLAMA_3_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
}
DEVICE = "cuda"
PERIOD, PERIODS = 32, 8
GOALS = {"share_of_limit": 0.85, "eviction_overhead": 0.05}


def bandwidth(n_bytes: int = 4 << 30) -> float:
    """Bytes per second, read and written, of a copy on the device."""
    source = torch.randint(0, 255, (n_bytes,), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * n_bytes / median_seconds(lambda: target.copy_(source), 20)


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of `work` on the device, after three calls that do not count."""
    for _ in range(3):
        work()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    for mark in marks[:-1]:
        mark.record()
        work()
    marks[-1].record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in pairwise(marks)) / 1000


def filled_cache(policy: Policy, model: Any, batch: int, context: int) -> A2SFCache:
    """As after a prompt of `context` tokens that was cut, with random contents."""
    config = model.config
    head_dim = config.hidden_size // config.num_attention_heads
    cache = A2SFCache(policy)
    for rule, layer in zip(policy.layers, cache.layers, strict=True):
        shape = (batch, config.num_key_value_heads, rule.budget_tokens(context))
        layer.lazy_initialization(*torch.empty(2, *shape[:2], 0, head_dim, dtype=model.dtype, device=DEVICE))
        layer.keys = torch.randn(*shape, head_dim, dtype=model.dtype, device=DEVICE)
        layer.values = torch.randn(*shape, head_dim, dtype=model.dtype, device=DEVICE)
        drawn = torch.rand(*shape[:2], context, device=DEVICE).topk(shape[2]).indices
        layer.positions = drawn.sort(dim=-1).values
        layer.scores = torch.rand(len(layer.half_lives), *shape, device=DEVICE)
        layer.seen = context
        layer.is_dense = layer.heads_agree = False
    return cache


def seconds_per_step(model: Any, policy: Policy, batch: int, context: int, compiled: bool) -> tuple[float, float, int]:
    """Median over periods of decoding, seconds of one eviction alone, and bytes of the cache's buffers."""
    # Two calls of each graph are done before the first period that counts.
    steps = (PERIODS + 6) * PERIOD
    with attach(policy, model):
        cache = filled_cache(policy, model, batch, context)
        decoder = Decoder(model, cache, torch.randint(1000, (batch,), device=DEVICE), steps, compiled=compiled)
        held = cache.nbytes()

        def period() -> None:
            for _ in range(PERIOD):
                decoder.step()

        seconds = median_seconds(period, PERIODS) / PERIOD
        eviction = median_seconds(decoder.calls["evict"], PERIODS) if policy.decode_every else 0.0
        if not bool(decoder.logits.isfinite().all()):
            raise SystemExit("the logits are not finite, so these times say nothing")
    return seconds, eviction, held


def kernel_error(batch: int, kept: int) -> float:
    """Largest relative error of attention and scores in bfloat16 against plain torch in float32 on the same numbers."""
    from a2sf_core.kernels import decode as kernels

    shape, heads, dim, ring = (batch, 8, kept + PERIOD), 32, 128, PERIOD
    positions = torch.rand(*shape, device=DEVICE).argsort(-1).int()
    positions[..., -PERIOD:] = -1
    slots = Slots(
        keys=torch.randn(*shape, dim, device=DEVICE, dtype=torch.bfloat16),
        values=torch.randn(*shape, dim, device=DEVICE, dtype=torch.bfloat16),
        positions=positions,
        free=torch.arange(kept, kept + PERIOD, device=DEVICE).repeat(batch, 8, 1),
        scores=(torch.rand(*shape, device=DEVICE).masked_fill(positions < 0, 0),),
        ring=Ring(
            torch.zeros(batch, heads, ring, dim, device=DEVICE, dtype=torch.bfloat16),
            torch.zeros(batch, heads, ring, device=DEVICE),
            torch.full((batch, ring), -1, dtype=torch.int32, device=DEVICE),
        ),
        filled=kept + PERIOD,
        now=torch.tensor([kept + PERIOD], device=DEVICE),
        turn=torch.tensor([0], device=DEVICE),
    )
    exact = on_host(slots)
    errors = []
    for _ in range(5):
        query = torch.randn(batch, heads, 1, dim, device=DEVICE, dtype=torch.bfloat16)
        key, value = torch.randn(2, batch, 8, 1, dim, device=DEVICE, dtype=torch.bfloat16)
        got = kernels.attend(slots, query, key, value, dim**-0.5, None)
        q, k, v = (each.cpu().float() for each in (query, key, value))
        wanted = plain.attend(exact, q, k, v, dim**-0.5, None)
        errors.append(relative(got, wanted))
        for each in (slots, exact):
            each.now += 1
            each.turn += 1
    kernels.fold(slots, [0.9], dim**-0.5, None)
    plain.fold(exact, [0.9], dim**-0.5, None)
    return max(*errors, relative(slots.scores[0], exact.scores[0]))


def on_host(slots: Slots) -> Slots:
    """A copy for the reference, which computes in float32 on exactly these numbers."""

    def copied(thing: Any) -> dict[str, Any]:
        tensors = {f.name: getattr(thing, f.name) for f in fields(thing) if isinstance(getattr(thing, f.name), Tensor)}
        return {name: (x.float() if x.is_floating_point() else x).clone().cpu() for name, x in tensors.items()}

    assert slots.ring is not None
    return replace(slots, ring=Ring(**copied(slots.ring)), scores=tuple(x.cpu() for x in slots.scores), **copied(slots))


def relative(got: Tensor, wanted: Tensor) -> float:
    """||got - wanted|| / ||wanted||; NaN stays NaN."""
    return float((got.cpu().double() - wanted.double()).norm() / wanted.double().norm())


def graphs_agree() -> bool:
    """Whether a small float32 model decodes the same tokens with graphs as without."""
    small = {**LLAMA_3_8B, "vocab_size": 500, "hidden_size": 256, "intermediate_size": 256, "initializer_range": 0.2}
    small |= {"num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 3}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**small)).eval().to(DEVICE)
    policy = Policy.a2sf(3, 0.3, 0.9, decode_every=5)
    ids = torch.randint(500, (3, 200), device=DEVICE)
    found = []
    with attach(policy, model), torch.no_grad():
        for graphs in (False, True):
            cache = A2SFCache(policy)
            first = model(ids, cache=cache, logits_to_keep=1).logits[:, -1].argmax(-1)
            decoder = Decoder(model, cache, first, 60, graphs=graphs)
            for _ in range(60):
                decoder.step()
            found.append(decoder.tokens.tolist())
    return found[0] == found[1]


def main() -> None:
    """Parse the command line, check, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--context", type=int, default=16384)
    parser.add_argument("--kept", type=float, default=0.2)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--only", nargs="+", help="beginnings of the names of the policies wanted, in their order")
    options = parser.parse_args()
    need_gpu()

    device = torch.cuda.get_device_name()
    tokens = int(options.kept * options.context)
    error, agree = kernel_error(2, tokens), graphs_agree()
    if not error < 1e-2 or not agree:
        raise SystemExit(f"wrong results: relative error {error:.1e} of the kernels, graphs agree: {agree}")

    speed = bandwidth()
    config = transformers.LlamaConfig(**LLAMA_3_8B, num_hidden_layers=options.layers)
    with torch.device(DEVICE):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    # Of the embedding a step reads one row per sequence.
    weights = sum(p.nbytes for p in model.parameters()) - model.get_input_embeddings().weight.nbytes
    n = options.layers
    policies = {
        "full cache": Policy.full(n),
        "pruned, never evicting": Policy.a2sf(n, tokens, 0.99),
        f"pruned, evicting every {PERIOD}": Policy.a2sf(n, tokens, 0.99, decode_every=PERIOD),
        "pruned, evicting every 1": Policy.a2sf(n, tokens, 0.99, decode_every=1),
    }
    title = f"{device}, Llama-3-8B shape, {n} layers, {options.batch} x {options.context}"
    wanted = [name for start in options.only or [""] for name in policies if name.startswith(start)]
    table = Table("", "tokens/s", "ms per step", "limit, ms", "share of limit", "eviction", "buffers, GB", title=title)
    result: dict[str, Any] = {"device": device, **vars(options), "kernel_error": error, "bandwidth": speed}
    for name in wanted:
        policy = policies[name]
        seconds, eviction, buffers = seconds_per_step(model, policy, options.batch, options.context, options.compiled)
        per_token = 2 * 2 * config.num_key_value_heads * config.hidden_size // config.num_attention_heads
        kept = sum(rule.budget_tokens(options.context) for rule in policy.layers) * options.batch * per_token
        limit = (weights + kept) / speed
        row = {"tokens_per_s": options.batch / seconds, "share_of_limit": limit / seconds}
        if policy.decode_every:
            row["eviction_overhead"] = eviction / (policy.decode_every * seconds - eviction)
        table.add_row(
            name,
            f"{row['tokens_per_s']:.0f}",
            f"{1000 * seconds:.2f}",
            f"{1000 * limit:.2f}",
            f"{row['share_of_limit']:.2f}",
            f"{100 * row['eviction_overhead']:.1f} %" if policy.decode_every else "",
            f"{buffers / 1e9:.2f}",
        )
        result[name] = {**row, "seconds": seconds, "limit": limit, "buffers": buffers}
        print(name, result[name], file=sys.stderr, flush=True)  # compiling the next takes minutes
        torch.cuda.empty_cache()
    result["goals"] = GOALS
    console = Console(width=120)
    console.print(table)
    console.print(
        f"Kernels against float32: {error:.1e}. A copy moves {speed / 1e12:.2f} TB/s. Goals when evicting every "
        f"{PERIOD}: a share of {GOALS['share_of_limit']} or more, eviction below {GOALS['eviction_overhead']:.0%}."
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()

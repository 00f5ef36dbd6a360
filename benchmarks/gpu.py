"""Everything that docs/gpu.md claims, measured on one CUDA device in one call.

    python -m benchmarks.gpu                        # all sections, a few minutes
    python -m benchmarks.gpu --only memory prompt   # some of them
    python -m benchmarks.gpu --tflops 989 --gbs 3350   # ceilings from the data sheet instead of measured ones

The shape is one attention layer of Llama 3 8B in bfloat16: 32 query heads, 8 KV heads, head size 128. Times are
medians of CUDA events, alternatives taken in turns. Tables first, then all figures as one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from math import inf
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from a2sf_core.plain.forgetting import query_weights
from a2sf_core.plain.span import Span
from a2sf_core.scores import attend_and_score_causal, score
from benchmarks.gpu_errors import errors
from benchmarks.scoring import GRID

HEADS, KV_HEADS, DIM, HIDDEN, MLP, LAYERS = 32, 8, 128, 4096, 14336, 32
SCALE = DIM**-0.5
LENGTHS = (4096, 16384, 32768)
ONE = (64.0,)
console = Console(width=120)


@dataclass(frozen=True)
class Settings:
    """What the sections need to know: repeats of a timing, and the two ceilings of the device."""

    repeats: int
    flops: float
    bandwidth: float


def tensors(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random query `[1, 32, n, 128]`, key and value `[1, 8, n, 128]`, as the views that models make."""
    make = lambda heads: torch.randn(1, n, heads, DIM, device="cuda", dtype=torch.bfloat16).transpose(1, 2)  # noqa: E731
    return make(HEADS), make(KV_HEADS), make(KV_HEADS)


def milliseconds(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median of each; one round of warm-up covers compiling and Triton's own timing."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 2):
        for name, run in runs.items():
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            stop.record()
            torch.cuda.synchronize()
            if turn > 1:
                taken[name].append(start.elapsed_time(stop))
    return {name: median(times) for name, times in taken.items()}


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print one table."""
    table = Table(*columns, title=f"{title} ({torch.cuda.get_device_name()})")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def stock(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What transformers runs without scores."""
    return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def correctness(_: Settings) -> dict[str, Any]:
    """Largest error of any score over the largest score of its half-life, against float64."""
    found = errors(HEADS, KV_HEADS, GRID)
    rows = [[name, f"{error:.1e}", f"{limit:.0e} {_met(error < limit)}"] for name, (error, limit) in found.items()]
    show("error of the scores against float64", ["case", "error", "limit"], rows)
    return {name: error for name, (error, _) in found.items()}


def prompt(settings: Settings) -> dict[str, Any]:
    """Reading a prompt in one layer, attention alone and with its projections and MLP: stock against scored."""
    weight = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02  # noqa: E731
    qkv, out = weight((HEADS + 2 * KV_HEADS) * DIM, HIDDEN), weight(HIDDEN, HEADS * DIM)
    up, down, norm = weight(2 * MLP, HIDDEN), weight(HIDDEN, MLP), weight(HIDDEN)

    def layer(x: Tensor, attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        heads = linear(rms_norm(x, (HIDDEN,), norm), qkv).unflatten(-1, (-1, DIM)).transpose(1, 2)
        mixed = attention(*heads.split([HEADS, KV_HEADS, KV_HEADS], dim=1)).transpose(1, 2).flatten(2)
        x = x + linear(mixed, out)
        gate, rest = linear(rms_norm(x, (HIDDEN,), norm), up).chunk(2, dim=-1)
        return x + linear(silu(gate) * rest, down)

    kinds: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "stock": stock,
        "24 half-lives": lambda q, k, v: attend_and_score_causal(q, k, v, GRID, SCALE)[0],
        "half-life 64": lambda q, k, v: attend_and_score_causal(q, k, v, ONE, SCALE)[0],
    }
    goals = {16384: {"24 half-lives": 1.25, "half-life 64": 1.05}, 32768: {"24 half-lives": 1.4}}
    figures: dict[str, Any] = {}
    rows = []
    for n in LENGTHS:
        q, k, v = tensors(n)
        x = torch.randn(1, n, HIDDEN, device="cuda", dtype=torch.bfloat16)
        alone = milliseconds({name: partial(run, q, k, v) for name, run in kinds.items()}, settings.repeats)
        whole = milliseconds({name: partial(layer, x, run) for name, run in kinds.items()}, settings.repeats)
        figures[str(n)] = {"attention_ms": alone, "layer_ms": whole}
        for name in kinds:
            ratio = whole[name] / whole["stock"]
            goal = goals.get(n, {}).get(name)
            rows.append([f"{n} {name}", f"{alone[name]:.2f}", f"{alone[name] / alone['stock']:.2f}"])
            rows[-1] += [f"{whole[name]:.2f}", f"{ratio:.3f}", "" if goal is None else f"{goal} {_met(ratio <= goal)}"]
    show("reading a prompt", ["tokens", "attention ms", "x stock", "layer ms", "x stock", "goal"], rows)
    return figures


def floors(settings: Settings) -> dict[str, Any]:
    """The score pass alone, with the log-sum-exp given, over the least time its operations and its bytes take."""
    from a2sf_core.kernels.attend import attend
    from a2sf_core.kernels.columns import column_scores

    figures: dict[str, Any] = {}
    rows = []
    for n in LENGTHS:
        q, k, _ = tensors(n)
        span = Span(0, torch.arange(n, device="cuda").expand(1, KV_HEADS, n))
        _, lse = attend(q, k, None, SCALE, span)
        runs: dict[str, Callable[[], object]] = {
            "scores": partial(column_scores, q, k, lse, GRID, SCALE, span),
            "lse": partial(attend, q, k, None, SCALE, span),
        }
        taken = milliseconds(runs, settings.repeats)
        pairs = HEADS * n * (n + 1) / 2
        operations = 1e3 * 2 * pairs * (DIM + len(GRID)) / settings.flops
        moved = 1e3 * (2 * n * DIM * (HEADS + KV_HEADS) + 4 * n * (HEADS + len(GRID) * KV_HEADS)) / settings.bandwidth
        figures[str(n)] = {
            "ms": taken["scores"],
            "operations_ms": operations,
            "bytes_ms": moved,
            "lse_ms": taken["lse"],
        }
        rows.append([str(n), f"{taken['scores']:.2f}", f"{operations:.2f}", f"{moved:.3f}"])
        rows[-1] += [f"{taken['scores'] / max(operations, moved):.2f}", f"{taken['lse']:.2f}"]
    columns = ["tokens", "scores ms", "floor: operations ms", "floor: bytes ms", "x larger floor", "own lse pass ms"]
    show("the score pass, 24 half-lives", columns, rows)
    return figures


def rivals(settings: Settings) -> dict[str, Any]:
    """Attention and 24 half-lives at 8k: by kernels, by the n x n matrix, by tiles in Python."""
    n = 8192
    q, k, v = tensors(n)
    weights = query_weights(GRID, n, torch.device("cuda")).bfloat16()  # [half_life, query]
    hidden = torch.ones(n, n, dtype=torch.bool, device="cuda").triu_(1)

    def rows_of(start: int, stop: int) -> tuple[Tensor, Tensor]:
        grouped = q[:, :, start:stop].unflatten(1, (KV_HEADS, -1))  # [1, kv_head, group, query, dim]
        logits = grouped @ k[:, :, None, :stop].transpose(-1, -2) * SCALE
        logits = logits.float().masked_fill_(hidden[start:stop, :stop], -inf)
        probs = logits.softmax(-1).bfloat16()  # [1, kv_head, group, query, key]
        return probs @ v[:, :, None, :stop], weights[:, start:stop] @ probs.sum(2)  # [1, kv_head, half_life, key]

    def tiled() -> Tensor:
        scores = torch.zeros(1, KV_HEADS, len(GRID), n, device="cuda")
        for start in range(0, n, 256):
            scores[..., : start + 256] += rows_of(start, start + 256)[1]
        return scores

    runs: dict[str, Callable[[], object]] = {
        "kernels": lambda: attend_and_score_causal(q, k, v, GRID, SCALE),
        "n x n matrix": lambda: rows_of(0, n),
        "tiles in Python": tiled,
    }
    taken = milliseconds(runs, settings.repeats)
    goals = {"n x n matrix": 10, "tiles in Python": 5}
    rows = []
    for name, time in taken.items():
        ratio = time / taken["kernels"]
        goal = "" if name == "kernels" else f"{goals[name]} {_met(ratio >= goals[name])}"
        rows.append([name, f"{time:.2f}", f"{ratio:.1f}", goal])
    show(f"attention and scores of {n} tokens", ["path", "ms", "x kernels", "goal"], rows)
    return taken


def memory(_: Settings) -> dict[str, Any]:
    """What scoring one layer adds to the peak, beside the KV cache of all layers."""
    n = 32768
    q, k, v = tensors(n)
    cache = 2 * LAYERS * KV_HEADS * n * DIM * 2
    span = Span(0, torch.arange(n, device="cuda").expand(1, KV_HEADS, n))
    runs: dict[str, Callable[[], object]] = {
        "stock": partial(stock, q, k, v),
        "24 half-lives": partial(attend_and_score_causal, q, k, v, GRID, SCALE),
        "half-life 64": partial(attend_and_score_causal, q, k, v, ONE, SCALE),
        "scores of the last 32 queries": partial(score, q, k, (inf,), SCALE, span, window=32),
    }
    peaks = {}
    for name, run in runs.items():
        run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        peaks[name] = torch.cuda.max_memory_allocated() - before
    rows = []
    for name in ("24 half-lives", "half-life 64", "scores of the last 32 queries"):
        extra = peaks[name] - (0 if "queries" in name else peaks["stock"])
        rows.append([name, f"{extra / 2**20:.1f}", f"{extra / cache:.2%}", f"2 % {_met(extra < 0.02 * cache)}"])
    show(f"extra peak memory at {n} tokens", ["", "MiB", f"of the KV cache ({cache / 2**30:.1f} GiB)", "goal"], rows)
    return {**peaks, "cache": cache}


# One function per section, in the order in which they run.
SECTIONS: list[Callable[[Settings], dict[str, Any]]] = [correctness, memory, floors, rivals, prompt]


def need_gpu() -> None:
    """Leave with one sentence where there is no CUDA device."""
    if not torch.cuda.is_available():
        sys.stderr.write("This benchmark needs a CUDA device, and PyTorch sees none here.\n")
        sys.exit(2)


def ceilings(tflops: float | None, gbs: float | None) -> tuple[float, float]:
    """Operations and bytes per second: as given, else those of one large matrix product and one large copy."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    taken = milliseconds({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, 20)
    flops = tflops * 1e12 if tflops else 2 * 8192**3 / taken["product"] * 1e3
    return flops, gbs * 1e9 if gbs else 2 * 4 * 2**28 / taken["copy"] * 1e3


def _met(yes: bool) -> str:
    return "met" if yes else "MISSED"


def main() -> None:
    """Parse the command line, run the sections, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=[section.__name__ for section in SECTIONS])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--tflops", type=float, help="bfloat16 peak of the device, measured if not given")
    parser.add_argument("--gbs", type=float, help="memory bandwidth in GB/s, measured if not given")
    options = parser.parse_args()
    need_gpu()
    if find_spec("triton") is None:
        sys.stderr.write('This benchmark measures the Triton kernels; install "a2sf-tune[triton]" first.\n')
        sys.exit(2)
    torch.manual_seed(0)
    with torch.no_grad():
        settings = Settings(options.repeats, *ceilings(options.tflops, options.gbs))
        figures: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
        figures |= {"tflops": settings.flops / 1e12, "gbs": settings.bandwidth / 1e9}
        for section in SECTIONS:
            if not options.only or section.__name__ in options.only:
                try:
                    figures[section.__name__] = section(settings)
                except torch.OutOfMemoryError:  # a small device still measures the rest
                    figures[section.__name__] = "out of memory"
                torch.cuda.empty_cache()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

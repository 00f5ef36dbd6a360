"""What scoring costs beside attention, on CPU.

    python benchmarks/scoring.py            # time at 4096 tokens, memory at 2k, 4k, 8k and 16k
    python benchmarks/scoring.py --threads 1 --tokens 2048

Time: attention and scores together, against stock SDPA timed in the same run. They are timed in turns and the
ratio is taken between the fastest of each, because other work on the machine disturbs both; on a busy machine
trust the CPU column of --threads 1. Memory: growth of the
process's peak resident size (Linux), in a fresh process per length, with scores and without.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from math import inf
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from a2sf_core.scores import attend_and_score_causal

HEADS, KV_HEADS, DIM = 32, 8, 64
_SHORT = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0)
GRID = (*_SHORT, 512.0, 768.0, 1024.0, 2048.0, 4096.0, inf)


def tensors(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random query `[1, 32, n, 64]`, key and value `[1, 8, n, 64]`."""
    torch.manual_seed(0)
    return torch.randn(1, HEADS, n, DIM), torch.randn(1, KV_HEADS, n, DIM), torch.randn(1, KV_HEADS, n, DIM)


def stock(q: Tensor, k: Tensor, v: Tensor) -> None:
    """What transformers runs without scores."""
    scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def fastest(runs: list[Callable[[], object]], repeats: int) -> list[tuple[float, float]]:
    """Wall and CPU seconds of the fastest of `repeats` runs of each, taken in turns."""
    best = [(inf, inf)] * len(runs)
    for _ in range(repeats):
        for i, run in enumerate(runs):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            best[i] = min(best[i][0], time.perf_counter() - wall), min(best[i][1], time.process_time() - cpu)
    return best


def time_ratios(n: int, repeats: int) -> None:
    """Print how many times stock SDPA the scored attention takes."""
    q, k, v = tensors(n)
    scale = DIM**-0.5
    runs: dict[str, Callable[[], object]] = {
        "stock SDPA": lambda: stock(q, k, v),
        "24 half-lives": lambda: attend_and_score_causal(q, k, v, GRID, scale),
        "half-life 64": lambda: attend_and_score_causal(q, k, v, (64.0,), scale),
        "half-life infinity": lambda: attend_and_score_causal(q, k, v, (inf,), scale),
    }
    seconds = fastest(list(runs.values()), repeats)
    print(f"{HEADS} query heads, {KV_HEADS} KV heads, head {DIM}, {n} tokens, {torch.get_num_threads()} threads")
    print(f"  {'':20} {'wall':>8} {'x stock':>8} {'CPU':>10} {'x stock':>8}")
    for name, (wall, cpu) in zip(runs, seconds, strict=True):
        print(f"  {name:20} {wall:6.2f} s {wall / seconds[0][0]:8.2f} {cpu:8.2f} s {cpu / seconds[0][1]:8.2f}")


def peak_growth(n: int, scored: bool) -> float:
    """MiB that the peak resident size of this process grows by."""
    q, k, v = tensors(n)
    stock(*(x[:, :, :256] for x in (q, k, v)))  # thread pools and libraries are not part of the growth
    attend_and_score_causal(q[:, :, :256], k[:, :, :256], v[:, :, :256], GRID, DIM**-0.5)
    before = peak_kib()
    if scored:
        attend_and_score_causal(q, k, v, GRID, DIM**-0.5)
    else:
        stock(q, k, v)
    return (peak_kib() - before) / 1024


def peak_kib() -> int:
    """Peak resident size of this process. Not getrusage: that starts from the parent's peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def memory() -> None:
    """Print the extra peak memory of 24 half-lives per prompt length, each in a process of its own."""
    print("extra peak memory of scoring 24 half-lives, less stock SDPA's")
    for n in (2048, 4096, 8192, 16384):
        growth = []
        for kind in ("scored", "stock"):
            threads = str(torch.get_num_threads())
            command = [sys.executable, __file__, "--child", kind, "--tokens", str(n), "--threads", threads]
            growth.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(f"  {n:6} tokens   {growth[0] - growth[1]:7.1f} MiB   (stock itself {growth[1]:.1f} MiB)")


def main() -> None:
    """Parse the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", choices=["scored", "stock"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        if options.child:
            print(peak_growth(options.tokens, options.child == "scored"))
            return
        time_ratios(options.tokens, options.repeats)
        memory()


if __name__ == "__main__":
    main()

"""Compiles the kernels to machine code for GPUs that need not be here, and checks that shared memory suffices.

    python -m tests.core.compile_kernels          # the cases of the test, 20 s
    python -m tests.core.compile_kernels --all    # every candidate for every head size and dtype, 4 minutes

Needs Triton 3.9 and TRITON_INTERPRET unset. A candidate that does not fit a device is left out there by Triton's
autotuner, so of each case at least one must fit.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from a2sf_core.kernels import attend, blocks, columns

# Shared memory that one program may have, KB, by compute capability.
SHARED_KB = {80: 163, 86: 99, 90: 227}
POINTERS = {"lse": "*fp32", "log2_alpha": "*fp32", "scores": "*fp32", "key_pos": "*i64", "first_block": "*i32"}
POINTERS |= {"stop_block": "*i32"}
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


class Like(torch.Tensor):
    """A tensor of which only shape and dtype are asked, and which says that it is on a GPU."""

    is_cuda = True


def build(kernel: Any, capability: int, dtype: torch.dtype, constants: dict[str, Any], warps: int, stages: int) -> Any:
    """The compiled kernel. Strides are multiples of 16, as those of contiguous tensors with usual head sizes are."""
    signature, attributes = {}, {}
    for i, name in enumerate(p.name for p in kernel.params):
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("query", "key", "value", "output"):
            signature[name], attributes[(i,)] = f"*{NAMES[dtype]}", [["tt.divisibility", 16]]
        elif name in POINTERS:
            signature[name] = POINTERS[name]
        elif name == "scale_log2":
            signature[name] = "fp32"
        else:
            signature[name] = "i32"
            if name.endswith(("_batch", "_head", "_row")) and not name.startswith("pos"):
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": warps, "num_stages": stages}
    return compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options)


def cases(dim: int, dtype: torch.dtype, ones: bool) -> list[tuple[Any, str, int | None, dict[str, Any]]]:
    """(kernel, name of the rows it holds, their number if fixed, constants); `ones` for a call of one query and key."""
    like = Like(torch.empty(1, 1, 1, dim, dtype=dtype))
    common = {"GROUP": 4, "DIM": dim, "WIDTH": blocks.width(dim), "WINDOWED": ones}
    if ones:  # Triton compiles an argument that is 1 as a constant
        common |= {"n": 1, "n_keys": 1, "batch": 1, "kv_heads": 1}
    streamed = blocks.streamed_rows(like)
    held = {"BLOCK_QUERIES": blocks.held_rows(like), "BLOCK_KEYS": streamed, "WITH_OUTPUT": not ones}
    column = {"SHARE": 1 if ones else 4, "COLUMNS": 1 if ones else 32, "BLOCK_QUERIES": streamed}
    return [
        (attend._attend_kernel, "BLOCK_QUERIES", held["BLOCK_QUERIES"], common | held),
        (columns._column_kernel, "BLOCK_KEYS", None, common | column),
    ]


def main() -> None:
    """Print one line per kernel; exit 1 if a case fits nowhere on some device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--all", action="store_true")
    everything = parser.parse_args().all
    failed = False
    shapes = [(dim, dtype) for dim in (64, 80, 128, 256) for dtype in NAMES] if everything else []
    for dim, dtype in shapes or [(128, torch.bfloat16), (256, torch.float32)]:
        for capability, ones in ((90, False), (86, False), (86, True)):
            for kernel, name, rows, constants in cases(dim, dtype, ones):
                row_bytes = blocks.width(dim) * dtype.itemsize
                configs = blocks.candidates(name, rows, row_bytes)
                sizes = []
                one = configs[:1] if capability == 90 else configs[-1:]
                for config in configs if everything else one:
                    compiled = build(
                        kernel, capability, dtype, constants | config.kwargs, config.num_warps, config.num_stages
                    )
                    sizes.append(compiled.metadata.shared / 1024)
                fits = min(sizes) <= SHARED_KB[capability]
                failed |= not fits
                print(
                    f"{kernel.fn.__name__:15} dim {dim:3} {NAMES[dtype]:5} sm_{capability} "
                    f"{'one query and key' if ones else '':18} shared KB {[round(s) for s in sizes]}"
                    f"{'' if fits else f' > {SHARED_KB[capability]}: TOO MUCH'}"
                )
    sys.exit(failed)


if __name__ == "__main__":
    main()

"""The Triton kernels against float64, in Triton's interpreter on CPU tensors (or on a GPU, if pytest may see one).

Errors are relative to the score scale: the largest absolute difference over the largest true score of the same
half-life. On a GPU: `CUDA_VISIBLE_DEVICES=0 python -m pytest tests/core/test_kernels.py`.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreters of older versions fail on today's NumPy; on a GPU nothing is interpreted.
triton = pytest.importorskip("triton", minversion="3.4" if DEVICE == "cuda" else "3.7", reason="needs the extra triton")
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("neither a GPU nor Triton's interpreter", allow_module_level=True)

from a2sf_core import scores  # noqa: E402
from a2sf_core.kernels import blocks, dispatch, readiness, trial  # noqa: E402
from a2sf_core.kernels.attend import attend, key_blocks  # noqa: E402
from a2sf_core.kernels.columns import column_scores  # noqa: E402
from a2sf_core.plain.forgetting import queries_that_matter  # noqa: E402
from a2sf_core.plain.span import Span  # noqa: E402

from . import reference  # noqa: E402

# Slots without a token add up nonsense until it is thrown away; NumPy, which the interpreter runs on, says so.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")

BANK = (8.0, 0.0, inf, 0.5, 64.0, 4096.0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
DIMS = (64, 80, 128, 96, 256)
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-2, torch.float16: 1e-2}
KINDS = ("causal", "window", "padded", "padded window", "offset", "evicted", "evicted window")


@pytest.fixture(autouse=True)
def _bfloat16_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter keeps bfloat16 as 16-bit integers, and its matrix product forgets to convert them."""
    if DEVICE != "cpu":
        return
    from triton.runtime import interpreter

    def widened(x: Any) -> Any:
        if x.dtype.scalar != triton.language.bfloat16:
            return x
        bits = x.data.astype("uint32") << 16
        return interpreter.TensorHandle(bits.view("float32"), triton.language.float32)

    real = interpreter.InterpreterBuilder.create_dot
    monkeypatch.setattr(
        interpreter.InterpreterBuilder,
        "create_dot",
        lambda self, a, b, *rest: real(self, widened(a), widened(b), *rest),
    )


def tensors(seed: int, batch: int, heads: int, kv_heads: int, n: int, keys: int, dim: int) -> list[Tensor]:
    """Query as the view that models hand over, key and value; peaked enough that scores differ."""
    generator = torch.Generator().manual_seed(seed)
    make = lambda h, m: torch.randn(batch, m, h, dim, generator=generator).transpose(1, 2).to(DEVICE)  # noqa: E731
    return [make(heads, n) * 1.5, make(kv_heads, keys), make(kv_heads, keys)]


def spread(batch: int, kv_heads: int, keys: int) -> Tensor:
    return torch.arange(keys, device=DEVICE).expand(batch, kv_heads, keys)


def drawn(seed: int) -> tuple[list[Tensor], Span]:
    """A call that cycles through dtypes, head sizes and kinds; the rest is random."""
    rng = random.Random(seed)
    dtype, dim, kind = DTYPES[seed % 3], DIMS[seed % 5], KINDS[seed % 7]
    kv_heads, group = rng.choice([(1, 4), (2, 1), (2, 2), (1, 7), (1, 1)])
    batch = 2 if "padded" in kind else 1
    keys = rng.randint(20, 75)
    n = keys if kind in ("causal", "window", "padded", "padded window") else rng.randint(1, keys - 4)
    start = keys - n
    key_pos = spread(batch, kv_heads, keys).clone()
    valid = None
    if "padded" in kind:
        padded = torch.tensor([0, rng.randint(1, keys - 1)], device=DEVICE)[:, None]
        valid = torch.arange(keys, device=DEVICE) >= padded  # [batch, key]
        valid[0, rng.randint(3, keys - 1)] = False  # padding that sees tokens before it, and still must not count
        key_pos.masked_fill_(~valid[:, None], -1)
    if "evicted" in kind:
        # The new tokens stand at the end; of 80 earlier ones every head has kept others, and one has empty slots.
        start = 80
        for head in range(kv_heads):
            key_pos[:, head, : keys - n] = torch.tensor(sorted(rng.sample(range(80), keys - n)), device=DEVICE)
        key_pos[:, 0, max(0, keys - n - 3) : keys - n] = -1
        key_pos[:, :, keys - n :] = torch.arange(start, start + n, device=DEVICE)
    window = rng.randint(3, 40) if "window" in kind else None
    q, k, v = tensors(seed, batch, kv_heads * group, kv_heads, n, keys, dim)
    return [q.to(dtype), k.to(dtype), v.to(dtype)], Span(start, key_pos, valid, window)


def exact(q: Tensor, k: Tensor, v: Tensor, span: Span, half_lives: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, output and log-sum-exp in float64, on the CPU."""
    q, k, v, key_pos = (x.cpu() for x in (q, k, v, span.key_pos))
    valid = None if span.query_valid is None else span.query_valid.cpu()
    scale = q.shape[-1] ** -0.5
    group = q.shape[1] // k.shape[1]
    matrix = reference.score_matrix(q, k, scale, key_pos, span.query_start, valid, span.sliding_window)
    wanted = torch.stack([reference.scores(matrix, h) for h in half_lives])  # [half_life, batch, kv_head, key]
    seen = Span(span.query_start, key_pos, None, span.sliding_window).visible(0, q.shape[2])
    logits = q.double() @ k.double().repeat_interleave(group, 1).transpose(-1, -2) * scale
    logits = logits.masked_fill(~seen.repeat_interleave(group, 1), -inf)  # [batch, head, query, key]
    output = logits.softmax(-1).nan_to_num(0) @ v.double().repeat_interleave(group, 1)
    lse = logits.logsumexp(-1)
    return wanted, output, lse.masked_fill(lse == -inf, inf)


def check_scores(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert got.dtype == torch.float32
    got = got.cpu().double()
    scale = wanted.flatten(1).amax(-1)[:, None, None, None]  # [half_life, 1, 1, 1]
    assert float(((got - wanted).abs() / scale).max()) < tolerance
    assert float((got - wanted).norm() / wanted.norm()) < tolerance
    budget = max(1, wanted.shape[-1] // 3)
    kept = torch.zeros_like(got, dtype=torch.bool).scatter_(-1, got.topk(budget, dim=-1).indices, True)
    last = wanted.topk(budget, dim=-1).values[..., -1:]  # the worst score that is kept
    assert kept[wanted > last + 2 * tolerance * scale].all()
    assert not kept[wanted < last - 2 * tolerance * scale].any()


@pytest.mark.parametrize("seed", range(35))
def test_scores_output_and_lse_match_float64(seed: int) -> None:
    (q, k, v), span = drawn(seed)
    tolerance, scale = TOLERANCE[q.dtype], q.shape[-1] ** -0.5
    wanted, output, lse = exact(q, k, v, span, BANK)
    got_output, got_lse = attend(q, k, v, scale, span)
    assert got_output is not None
    assert got_output.dtype == q.dtype
    torch.testing.assert_close(got_output.cpu().double(), output, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(got_lse.cpu().double(), lse, atol=1e-3, rtol=0)
    check_scores(column_scores(q, k, got_lse, BANK, scale, span), wanted, tolerance)


def test_lse_alone_is_the_same() -> None:
    (q, k, v), span = drawn(1)
    output, lse = attend(q, k, None, 0.1, span)
    assert output is None
    assert torch.equal(lse, attend(q, k, v, 0.1, span)[1])


def test_slots_may_stand_in_any_order() -> None:
    q, k, v = tensors(3, 1, 4, 2, 30, 70, 64)
    key_pos = torch.randperm(90, generator=torch.Generator().manual_seed(0))[:70].to(DEVICE).expand(1, 2, 70)
    span = Span(60, key_pos, None, 25)
    wanted, _, lse = exact(q, k, v, span, BANK)
    got_lse = attend(q, k, None, 64**-0.5, span)[1]
    torch.testing.assert_close(got_lse.cpu().double(), lse, atol=1e-4, rtol=0)
    check_scores(column_scores(q, k, got_lse, BANK, 64**-0.5, span), wanted, 1e-3)


def test_key_blocks_are_tight() -> None:
    first, stop = key_blocks(Span(0, spread(1, 1, 64)), 64, 16, 16)
    assert (first.flatten().tolist(), stop.flatten().tolist()) == ([0, 0, 0, 0], [1, 2, 3, 4])
    first, stop = key_blocks(Span(0, spread(1, 1, 64), None, 17), 64, 16, 16)
    assert (first.flatten().tolist(), stop.flatten().tolist()) == ([0, 0, 1, 2], [1, 2, 3, 4])
    nothing = torch.full((1, 1, 20), -1, device=DEVICE)
    first, stop = key_blocks(Span(0, nothing), 20, 16, 16)
    assert torch.equal(first, stop)


@pytest.mark.parametrize("heads", [4, 6])
def test_heads_shared_out_give_the_same_scores_and_the_same_bits(heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, _ = tensors(5, 1, heads, 1, 40, 40, 64)
    span = Span(0, spread(1, 1, 40))
    lse = attend(q, k, None, 0.125, span)[1]
    whole = column_scores(q, k, lse, BANK, 0.125, span)
    monkeypatch.setattr(blocks, "multiprocessors", lambda _: 1000)
    shared = column_scores(q, k, lse, BANK, 0.125, span)
    torch.testing.assert_close(shared, whole, atol=1e-5, rtol=1e-5)
    assert torch.equal(shared, column_scores(q, k, lse, BANK, 0.125, span))


@pytest.mark.parametrize("half_life", [1.0, 4.0])
def test_skipping_old_queries_adds_no_error(half_life: float) -> None:
    """Adversarial: every query attends to key 0 alone, so skipped ones matter as much as they can."""
    n = 200
    q, k, _ = tensors(0, 1, 4, 1, n, n, 64)
    # A logit of 32 leaves nothing for the other keys, and float32 holds it to 2e-6. By as much its exponential may
    # be wrong; by how much it is differs from CPU to CPU.
    q[..., 0], k[..., 0], k[:, :, 0] = 16.0, 0.0, 0.0
    k[:, :, 0, 0] = 8.0
    span = Span(0, spread(1, 1, n))
    assert queries_that_matter(half_life, 4) < n - 32, "nothing is skipped, so this shows nothing"
    sum_of_powers = 4 * sum(2 ** (-age / half_life) for age in range(n))
    got = dispatch.score(q, k, [half_life], 0.25, span)
    assert abs(float(got[0, 0, 0, 0]) - sum_of_powers) < 1e-5 + 2e-6 * sum_of_powers


def test_forty_half_lives_and_none() -> None:
    q, k, v = tensors(7, 1, 2, 1, 33, 33, 64)
    span = Span(0, spread(1, 1, 33))
    bank = tuple(1.3**i for i in range(40))
    lse = attend(q, k, None, 0.125, span)[1]
    check_scores(column_scores(q, k, lse, bank, 0.125, span), exact(q, k, v, span, bank)[0], 1e-3)
    assert column_scores(q, k, lse, (), 0.125, span).shape == (0, 1, 1, 33)


# ---- how a2sf_core.scores hands over --------------------------------------------------------------------------


def by_kernels_and_without(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> tuple[Any, Any]:
    monkeypatch.setattr(readiness, "usable", lambda *_: False)
    plain = run()
    monkeypatch.setattr(readiness, "usable", lambda *_: True)
    return run(), plain


@pytest.mark.parametrize("sliding", [None, 11])
def test_general_entry_points_agree_with_plain_torch(sliding: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tensors(11, 1, 4, 2, 24, 50, 64)
    span = Span(26, spread(1, 2, 50), None, sliding)
    got, plain = by_kernels_and_without(monkeypatch, lambda: scores.attend_and_score(q, k, v, BANK, 0.125, span))
    torch.testing.assert_close(got, plain, atol=1e-4, rtol=1e-4)
    for half_lives, window in ((BANK, None), ((inf,), 9), ((0.0,), None)):
        arguments = q, k, half_lives, 0.125, span, window
        got, plain = by_kernels_and_without(monkeypatch, partial(scores.score, *arguments))
        torch.testing.assert_close(got, plain, atol=1e-4, rtol=1e-4)


def with_lse(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Stands in for the CUDA operators, which no CPU has."""
    pos = spread(*key.shape[:3])
    _, output, lse = exact(query * (scale * query.shape[-1] ** 0.5), key, value, Span(0, pos), (inf,))
    return output.to(query), lse.to(query)


@pytest.mark.parametrize("operator", [None, with_lse])
def test_prompts_agree_with_plain_torch(operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "causal_operator", lambda *_: operator)
    q, k, v = tensors(13, 2, 4, 2, 40, 40, 64)
    got, plain = by_kernels_and_without(monkeypatch, lambda: scores.attend_and_score_causal(q, k, v, BANK, 0.125))
    torch.testing.assert_close(got, plain, atol=1e-4, rtol=1e-4)
    valid = torch.arange(40, device=DEVICE) >= torch.tensor([[17], [0]], device=DEVICE)
    (output, got), (plain_output, plain) = by_kernels_and_without(
        monkeypatch, lambda: scores.attend_and_score_left_padded(q, k, v, BANK, 0.125, valid)
    )
    torch.testing.assert_close(got, plain, atol=1e-4, rtol=1e-4)
    real = valid[:, None, :, None].expand_as(output)
    torch.testing.assert_close(output[real], plain_output[real], atol=1e-4, rtol=1e-4)
    assert output.isfinite().all()


def test_cpu_tensors_never_take_the_kernels() -> None:
    q = torch.zeros(1, 2, 64, 64)
    assert readiness.backend(q, q, q) is None


@pytest.mark.parametrize(
    ("installed", "capability", "message"),
    [(None, (9, 0), r"a2sf-tune\[triton\]"), ("3.2.0", (9, 0), "3.4 is needed"), ("3.7.1", (7, 5), "Tesla T4")],
)
def test_a_gpu_that_could_do_better_is_told_once(
    installed: str | None, capability: tuple[int, int], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "find_spec", lambda _: installed)
    monkeypatch.setattr(readiness, "import_module", lambda _: SimpleNamespace(__version__=installed))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    readiness._warn.cache_clear()
    ready = readiness.is_ready.__wrapped__
    with pytest.warns(RuntimeWarning, match=message) as caught:
        assert [ready(torch.device("cuda", i)) for i in range(2)] == [False, False]
    assert len(caught) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_are_tried_before_they_are_used(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = torch.device(DEVICE), dtype, 64, readiness.TOLERANCE[dtype]
    assert trial.complaint(*arguments) == ""

    def slightly_wrong(*given: Any) -> Tensor:
        return column_scores(*given) * 1.05

    def broken(*_: Any) -> Tensor:
        raise RuntimeError("no such instruction\nat 0x1234")

    monkeypatch.setattr(dispatch, "column_scores", slightly_wrong)
    assert "an error of 5.0e-02, where" in trial.complaint(*arguments)
    monkeypatch.setattr(dispatch, "column_scores", broken)
    assert trial.complaint(*arguments) == "RuntimeError: no such instruction"


# ---- what the interpreter does not check ----------------------------------------------------------------------


@pytest.mark.skipif(
    not triton.__version__.startswith(("3.7.", "3.9.")), reason="the compiler's own interface differs by version"
)
def test_kernels_compile_for_gpus_that_are_not_here() -> None:
    """Through to machine code, within the shared memory that each device has."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.core.compile_kernels"]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr

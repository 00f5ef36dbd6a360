"""Train the reference model, without network or GPU: ``python -m studies.train --out DIR``. Every draw is seeded.

What makes so small a model learn to look things up (found by trial, see the model card): a warm-up on copying random
tokens, many questions per context, and contexts that grow. The questions of a context form a tree: each sees the
context and itself, at the positions it would have if it were the only one, so training and use look the same.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from studies import tokenizer as reference_tokenizer
from studies.world import SCENES

SEED = "reference-model-1"
IGNORE = -100


PEAK_RATE = 2e-3


@dataclass(frozen=True)
class Stage:
    """``steps`` steps on contexts of ``tokens`` (shortest, longest), drawn evenly on a log scale."""

    steps: int
    tokens: tuple[int, int]


COPYING = (0, 0)
STAGES = (
    Stage(300, COPYING),
    Stage(700, (16, 60)),
    Stage(300, (32, 120)),
    Stage(400, (48, 200)),
    Stage(600, (64, 400)),
    Stage(900, (64, 1100)),
)
CALL_TOKENS = 110
"""A call with all its facts is about this long; shorter stages leave calls out."""


def config(vocab_size: int) -> LlamaConfig:
    """A Llama shape that a laptop runs: 4 layers, width 128, 4 query heads, 2 KV heads of size 32, RoPE."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        # A slow rotation leaves enough of a head's dimensions nearly unrotated to match a key a thousand tokens away.
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        initializer_range=0.05,
        attn_implementation="sdpa",
    )


@dataclass(frozen=True)
class Batch:
    """``ids``, ``positions``, ``labels`` [row, token], ``mask`` [row, 1, query, key] (bool, None for plain causal)."""

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor | None


def copying(rng: random.Random, vocab_size: int, rows: int, length: int) -> Batch:
    """Random tokens that repeat with a period of each row's own: only what followed last time tells what comes next.

    With one period for all rows the model would learn to look a fixed distance back, which helps nothing later.
    """
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    ids = torch.randint(260, vocab_size, (rows, length), generator=generator)
    labels = torch.full_like(ids, IGNORE)
    for row in range(rows):
        period = rng.randint(10, length * 2 // 3)
        ids[row] = ids[row, torch.arange(length) % period]
        labels[row, period + 1 :] = ids[row, period + 1 :]
    ids[:, 0] = 1
    return Batch(ids, torch.arange(length).expand_as(ids), labels, None)


def scenes(rng: random.Random, tokenizer: PreTrainedTokenizerFast, tokens: tuple[int, int], area: int) -> Batch:
    """Scenes of one length, about ``area`` tokens in all, each with as many questions (a tree) as fit its row."""
    low, high = tokens
    n_tokens = round(math.exp(rng.uniform(math.log(low), math.log(high))))
    row_tokens = n_tokens + min(400, max(150, n_tokens // 2))
    kinds = [scene for name, scene in SCENES.items() if name != "summarisation" or n_tokens >= CALL_TOKENS]
    rows = []
    for index in range(max(2, area // row_tokens)):
        scene = kinds[index % len(kinds)](rng, n_tokens)
        context = [tokenizer.bos_token_id, *tokenizer(scene.context, add_special_tokens=False).input_ids]
        segments = [(context, [IGNORE] * len(context))]
        room = row_tokens - len(context)
        for question in [scene.questions[0], *rng.sample(scene.questions[1:], len(scene.questions) - 1)]:
            prompt, answer = tokenizer(
                [f"\nQuestion: {question.text}\nAnswer:", question.answer], add_special_tokens=False
            ).input_ids
            answer = [*answer, tokenizer.eos_token_id]
            room -= len(prompt) + len(answer)
            if room < 0:
                break
            segments.append((prompt + answer, [IGNORE] * len(prompt) + answer))
        rows.append(segments)
    width = max(sum(len(ids) for ids, _ in segments) for segments in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORE)
    owner = torch.full_like(ids, -1)
    for row, segments in enumerate(rows):
        at, start = 0, 0
        for number, (segment, label) in enumerate(segments):
            end = at + len(segment)
            ids[row, at:end] = torch.tensor(segment)
            labels[row, at:end] = torch.tensor(label)
            positions[row, at:end] = torch.arange(start, start + len(segment))
            owner[row, at:end] = number
            start = len(segments[0][0])
            at = end
    same = owner[:, :, None] == owner[:, None, :]  # [row, query, key]
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    mask = (same | (owner == 0)[:, None, :]) & causal
    return Batch(ids, positions, labels, mask[:, None])


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross entropy over the answer tokens; logits are made for these positions only."""
    mask = batch.mask
    if mask is not None:
        mask = torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)
    hidden = model.model(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=mask, use_cache=False
    ).last_hidden_state
    targets = batch.labels[:, 1:]
    wanted = targets != IGNORE
    return F.cross_entropy(model.lm_head(hidden[:, :-1][wanted]), targets[wanted])


def optimizer(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    """AdamW; Muon learns in fewer steps but its bfloat16 iterations take longer than a step on an ordinary CPU."""
    return torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01, betas=(0.9, 0.98), fused=True)


def train(out: Path, area: int, threads: int) -> None:
    """Run all stages and save model and tokenizer to ``out``; one line of JSON per 25 steps is the log."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tokenizer = reference_tokenizer.build(1500, f"{SEED}:tokenizer")
    model = LlamaForCausalLM(config(len(tokenizer)))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    tokenizer.save_pretrained(out)
    adam = optimizer(model)
    plan = [stage for stage in STAGES for _ in range(stage.steps)]
    started, recent, seen = time.time(), [], 0
    for step, stage in enumerate(plan):
        rng = random.Random(f"{SEED}:{step}")
        batch = (
            copying(rng, len(tokenizer), area // 120, 120)
            if stage.tokens == COPYING
            else scenes(rng, tokenizer, stage.tokens, area)
        )
        left = 1 - step / len(plan)
        for group in adam.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / 100) * min(1.0, left / 0.35 + 0.01)
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        seen += batch.ids.numel()
        recent.append(loss.item())
        if (step + 1) % 25 == 0:
            record = {
                "step": step + 1,
                "of": len(plan),
                "loss": round(sum(recent) / len(recent), 4),
                "tokens": seen,
                "shape": list(batch.ids.shape),
                "seconds": round(time.time() - started),
            }
            print(json.dumps(record), flush=True)
            recent = []
        if (step + 1) % 250 == 0:
            model.save_pretrained(out)
    model.save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--area", type=int, default=6144, help="tokens in a batch, about")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    train(args.out, args.area, args.threads)

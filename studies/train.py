"""Train the reference model, without network or GPU: ``python -m studies.train --out DIR``. Every draw is seeded.

What makes so small a model learn to look things up (found by trial, see the model card): it starts with induction heads
(`studies.induction`), first on plain lists, then on sentences; a context comes with many questions; contexts grow. The
questions of a context form a tree: each sees the context and itself, at the positions it would have if it were the only
one, so training and use look the same.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from studies import tokenizer as reference_tokenizer
from studies.induction import give_induction_heads
from studies.world import Scene, call, chat, knowledge

SEED = "reference-model-1"
IGNORE = -100

RATE, EMBEDDING_RATE = 2e-3, 1e-3
WARM_UP, DECAY = 30, 0.4
"""Steps of warm-up, and the share of all steps at the end over which the rates fall to zero."""

SceneMaker = Callable[[random.Random, int], Scene]
PLAIN_LISTS: tuple[SceneMaker, ...] = (partial(knowledge, plain_lines=1.0, plain_answers=True),)
PLAIN_ANSWERS: tuple[SceneMaker, ...] = (partial(knowledge, plain_lines=0.3, plain_answers=True),)
BRIEF: tuple[SceneMaker, ...] = (chat, knowledge)
ALL: tuple[SceneMaker, ...] = (call, chat, knowledge)


@dataclass(frozen=True)
class Stage:
    """``steps`` steps on ``scenes`` whose contexts have ``tokens`` (shortest, longest), even on a log scale."""

    steps: int
    scenes: tuple[SceneMaker, ...]
    tokens: tuple[int, int]


STAGES = (
    Stage(90, PLAIN_LISTS, (24, 80)),
    Stage(130, PLAIN_ANSWERS, (24, 80)),
    Stage(250, BRIEF, (24, 100)),
    Stage(380, ALL, (48, 200)),
    Stage(450, ALL, (64, 400)),
    Stage(900, ALL, (64, 1100)),
)


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
    """``ids``, ``positions``, ``labels`` [row, token], and bool ``mask`` [row, 1, query, key]."""

    ids: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor


def scene_batch(rng: random.Random, tokenizer: PreTrainedTokenizerFast, stage: Stage, area: int) -> Batch:
    """Scenes of one length, about ``area`` tokens in all, each with as many questions (a tree) as fit its row."""
    low, high = stage.tokens
    n_tokens = round(math.exp(rng.uniform(math.log(low), math.log(high))))
    longest = n_tokens + max(180, n_tokens // 2)
    rows: list[list[tuple[list[int], list[int]]]] = []
    widest = 0
    while True:
        scene = stage.scenes[len(rows) % len(stage.scenes)](rng, n_tokens)
        context = [tokenizer.bos_token_id, *tokenizer(scene.context, add_special_tokens=False).input_ids]
        segments = [(context, [IGNORE] * len(context))]
        used = len(context)
        for question in [scene.questions[0], *rng.sample(scene.questions[1:], len(scene.questions) - 1)]:
            prompt, answer = tokenizer(
                [f"\nQuestion: {question.text}\nAnswer:", question.answer], add_special_tokens=False
            ).input_ids
            answer = [*answer, tokenizer.eos_token_id]
            if used + len(prompt) + len(answer) > max(longest, len(context) + 80):
                break
            used += len(prompt) + len(answer)
            segments.append((prompt + answer, [IGNORE] * len(prompt) + answer))
        if len(rows) >= 2 and max(widest, used) * (len(rows) + 1) > area:
            return tree(rows)
        widest = max(widest, used)
        rows.append(segments)


def tree(rows: list[list[tuple[list[int], list[int]]]]) -> Batch:
    """A batch from (ids, labels) per segment: the first of a row is its context, which every other one continues."""
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
    mask = torch.zeros(batch.mask.shape).masked_fill_(~batch.mask, torch.finfo(torch.float32).min)
    hidden = model.model(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=mask, use_cache=False
    ).last_hidden_state
    targets = batch.labels[:, 1:]
    wanted = targets != IGNORE
    return F.cross_entropy(model.lm_head(hidden[:, :-1][wanted]), targets[wanted])


def optimizer(model: LlamaForCausalLM) -> torch.optim.Optimizer:
    """AdamW, slower on the embeddings, whose random directions keep tokens of one type apart."""
    embedding = [model.model.embed_tokens.weight]
    rest = [p for p in model.parameters() if p is not embedding[0]]
    groups = [{"params": rest, "lr": RATE}, {"params": embedding, "lr": EMBEDDING_RATE, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98), fused=True)


def train(out: Path, area: int, threads: int) -> None:
    """Run all stages and save model and tokenizer to ``out``; one line of JSON per 25 steps is the log."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tokenizer = reference_tokenizer.build(1500, f"{SEED}:tokenizer")
    model = LlamaForCausalLM(config(len(tokenizer)))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    tokenizer.save_pretrained(out)
    give_induction_heads(model, seed=0)
    adam = optimizer(model)
    rates = [group["lr"] for group in adam.param_groups]
    plan = [stage for stage in STAGES for _ in range(stage.steps)]
    started, recent, seen = time.time(), [], 0
    for step, stage in enumerate(plan):
        rng = random.Random(f"{SEED}:{step}")
        batch = scene_batch(rng, tokenizer, stage, area)
        share = min(1.0, (step + 1) / WARM_UP, (1 - step / len(plan)) / DECAY)
        for group, rate in zip(adam.param_groups, rates, strict=True):
            group["lr"] = rate * share
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

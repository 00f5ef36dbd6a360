"""One load, one memory: stock generate one by one, the engine with the full cache, the engine with a policy.

    python -m benchmarks.serving                                   # SmolLM2, H2O at 20 %
    python -m benchmarks.serving --config runs/TASK-MODEL          # a tuned policy
    python -m benchmarks.serving --shadow                          # and the full cache with the policy as its shadow

All requests come at once. Figures are of this machine and this run; the ratios are what to look at,
and those of processor time on a machine that does other things too.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Semaphore
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from a2sf_core import A2SFConfig, Policy, attach
from a2sf_core.serve.cost import CacheCost
from a2sf_core.serve.engine import Engine
from a2sf_core.serve.job import Ended, Event, Failed, Job, Piece
from a2sf_core.serve.served import SHADOW, Configs, Served
from tuner.choices import parse_bytes
from tuner.inputs.models import load_model


@dataclass(frozen=True)
class Request:
    """A prompt and how many tokens to write."""

    ids: tuple[int, ...]
    most: int


@dataclass
class Measured:
    """What one way of serving took."""

    name: str
    seconds: float = 0.0
    processor: float = 0.0
    at_once: int = 1
    largest: int = 0
    firsts: list[float] = field(default_factory=list)

    def row(self, tokens: int, stock: float) -> str:
        p95 = sorted(self.firsts)[max(0, round(0.95 * len(self.firsts)) - 1)]
        return (
            f"{self.name:<28} {self.seconds:7.1f} s {tokens / self.seconds:7.1f} tok/s {stock / self.seconds:6.2f} x "
            f"{self.processor:7.1f} s of processor {self.at_once:4d} at once {p95:7.1f} s p95 first "
            f"{self.largest / 2**20:8.1f} MiB at most"
        )


class FirstToken(BaseStreamer):
    """When `generate` has its first token: it puts the prompt before it."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:  # noqa: ARG002
        self.times.append(time.monotonic())

    def end(self) -> None:
        pass


def load(tokenizer: Any, count: int, shortest: int, longest: int, most: int) -> list[Request]:
    """Prompts of mixed lengths and answers of mixed lengths, the same in every run."""
    rng = random.Random(13)
    return [
        Request(
            tuple(rng.randrange(100, len(tokenizer) - 100) for _ in range(rng.randint(shortest, longest))),
            rng.randint(most // 2, most),
        )
        for _ in range(count)
    ]


def one_by_one(model: Any, requests: Sequence[Request]) -> Measured:
    """Unmodified transformers, as a sequential server runs it, without the server."""
    measured, began, processor = Measured("stock, one by one"), time.monotonic(), time.process_time()
    for request in requests:
        streamer = FirstToken()
        settings = GenerationConfig(
            max_new_tokens=request.most, min_new_tokens=request.most, do_sample=False, pad_token_id=0
        )
        ids = torch.tensor([request.ids])
        model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings, streamer=streamer)
        measured.firsts.append(streamer.times[1] - began)
        held = CacheCost.of(model, Policy.full(model.config.num_hidden_layers)).full(len(request.ids) + request.most)
        measured.largest = max(measured.largest, held)
    measured.seconds, measured.processor = time.monotonic() - began, time.process_time() - processor
    return measured


def together(
    name: str, model: Any, tokenizer: Any, served: Served, requests: Sequence[Request], memory: int, piece: int
) -> Measured:
    """The engine under one memory; what is held is measured on the tensors whenever a text begins or ends."""
    measured, ended = Measured(name), Semaphore(0)
    with attach(served.policy, model):
        engine = Engine(model, tokenizer, Configs(served), memory, piece=piece)
        began, processor = time.monotonic(), time.process_time()

        def job(request: Request) -> Job:
            def tell(event: Event) -> None:
                if isinstance(event, Piece) and told:
                    return  # a look at all tensors for each token would take as long as the token
                measured.at_once = max(measured.at_once, int(value(engine, "a2sf_running")))
                measured.largest = max(measured.largest, engine.held_bytes())
                if isinstance(event, Piece):
                    told.append(time.monotonic() - began)
                    measured.firsts.append(told[0])
                if isinstance(event, Ended | Failed):
                    assert isinstance(event, Ended), event
                    ended.release()

            told: list[float] = []
            return Job(request.ids, request.most, tell)

        for request in requests:
            engine.submit(job(request))
        for _ in requests:
            ended.acquire()
        measured.seconds, measured.processor = time.monotonic() - began, time.process_time() - processor
        engine.close()
    return measured


def value(engine: Engine, name: str) -> float:
    """One figure of /metrics."""
    return engine.metrics.registry.get_sample_value(name) or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--config", help="a tuned policy; without it H2O at --budget")
    parser.add_argument("--budget", type=float, default=0.2)
    parser.add_argument("--memory", default="160MiB")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--prompt", type=int, nargs=2, default=(200, 800), metavar=("SHORTEST", "LONGEST"))
    parser.add_argument("--answer", type=int, default=96, help="tokens at most; half of it at least")
    parser.add_argument("--piece", type=int, default=512)
    parser.add_argument("--shadow", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, tokenizer = load_model(given.model)
    n_layers = model.config.get_text_config().num_hidden_layers
    name, policy = f"policy, H2O at {given.budget:.0%}", Policy.h2o(n_layers, given.budget)
    if given.config:
        tuned = A2SFConfig.from_pretrained(given.config)
        name, policy = f"policy, tuned for {tuned.task}", tuned.policy
    shortest, longest = given.prompt
    requests, memory = load(tokenizer, given.requests, shortest, longest, given.answer), parse_bytes(given.memory)
    tokens = sum(request.most for request in requests)
    print(f"{len(requests)} requests, {sum(len(r.ids) for r in requests)} prompt tokens, {tokens} tokens to write; "
          f"{given.memory} for all caches, {given.threads} thread(s)", flush=True)  # fmt: skip
    stock = one_by_one(model, requests)
    print(stock.row(tokens, stock.seconds), flush=True)
    ways = [("full cache", Served(Policy.full(n_layers))), (name, Served(policy))]
    if given.shadow:
        ways.append(("full cache, shadow beside it", Served(policy, SHADOW)))
    for what, how in ways:
        measured = together(what, model, tokenizer, how, requests, memory, given.piece)
        print(measured.row(tokens, stock.seconds), flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()

"""What a study costs against evaluations that read every prompt again, on the bundled reference model.

    python benchmarks/engine.py                             # 256 to 4,096 tokens
    python benchmarks/engine.py --tokens 1024 --repeats 5
    python benchmarks/engine.py --tokens 1024 --threads 1 --cpu   # where other work disturbs the wall clock

Per length, on the same samples and in the same batches: `read` builds the engine; `trial` measures a random policy of
the search space that it has not seen; `re-read` runs the stock model (SDPA) over prompt and answer, teacher-forced,
with logits for the answer only; `generate` reads the prompt and writes greedily as many tokens as the longest answer
has; `floor` is the stock model over the answers alone, without any context. All are timed in turns in one process,
medians over the repeats. A study is read + N trials (N policies are really run, spread over the repeats); N evaluations
of the other kinds are one, measured, times N.
Contexts of 2,048 and 4,096 tokens with their answers reach beyond the positions of the training: cost only.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from a2sf_core import Policy
from studies.samples import bundled_samples
from tuner.choices import REFERENCE
from tuner.inputs.encoding import Encoded, encode
from tuner.inputs.models import load_model
from tuner.inputs.tasks import load_task
from tuner.measuring.batch import pad
from tuner.measuring.engine import Engine
from tuner.search.dimensions import Options
from tuner.search.records import Value
from tuner.search.space import Space

LENGTHS = (256, 512, 1024, 2048, 4096)
ROOM = 200
"""Tokens beside the context: the question and the longest answer."""


def encoded(tokenizer: Any, name: str, n: int, count: int) -> list[Encoded]:
    """Samples of a bundled task with contexts of about ``n`` tokens."""
    task = load_task(name)
    assert task.samples is not None
    spec = task.samples.model_copy(update={"tokens": (n, n), "seed": "benchmark-1"})
    return list(encode(bundled_samples(spec, count), tokenizer, task, n + ROOM))


def random_policies(n_layers: int, count: int, seed: int) -> list[Policy]:
    """Uniform draws from the search space, budgets on its log scale; no two the same."""
    rng = random.Random(seed)
    space = Space("bump", per_head=False, n_layers=n_layers)
    drawn: dict[Policy, None] = {}
    while len(drawn) < count:
        params: dict[str, Value] = {}
        for name, r in space.ranges.items():
            if isinstance(r, Options):
                params[name] = rng.choice(r.names)
            elif r.whole:
                params[name] = rng.randint(int(r.low), int(r.high))
            else:
                share = rng.random()
                params[name] = r.low * (r.high / r.low) ** share if r.log else r.low + (r.high - r.low) * share
        drawn[space.policy(params)] = None
    return list(drawn)


class Stock:
    """The unmodified model on the engine's batches."""

    def __init__(self, model: Any, samples: Sequence[Encoded], plan: Sequence[Sequence[Sequence[int]]]) -> None:
        self.model = model
        self.batches = [[samples[row] for row in rows] for block in plan for rows in block]
        self.longest = max(len(sample.answer_ids) for sample in samples)

    def re_read(self) -> None:
        """Prompt and answer in one forward, left-padded; the last answer token need not be read."""
        for batch in self.batches:
            ids, mask = pad([s.prompt_ids + s.answer_ids[:-1] for s in batch], self.model.device, left=True)
            # As answers end together, those of the longest cover all.
            kept = max(len(sample.answer_ids) for sample in batch)
            self.model(ids, attention_mask=mask.long(), position_ids=_positions(mask), logits_to_keep=kept)

    def generate(self) -> None:
        """Prompt, then greedy decoding."""
        for batch in self.batches:
            ids, mask = pad([sample.prompt_ids for sample in batch], self.model.device, left=True)
            self.model.generate(
                ids, attention_mask=mask.long(), do_sample=False, pad_token_id=0,
                min_new_tokens=self.longest, max_new_tokens=self.longest,
            )  # fmt: skip

    def floor(self) -> None:
        """Answers without a context, logits and all."""
        for batch in self.batches:
            ids, _ = pad([sample.answer_ids[:-1] for sample in batch], self.model.device, left=False)
            self.model(ids)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.long().cumsum(-1) - 1).clamp(min=0)  # [batch, token]


def seconds(clock: Callable[[], float], run: Callable[[], Any]) -> tuple[float, Any]:
    """Time of one call by ``clock``, and what it returned; work that a GPU was given is waited for."""
    start = clock()
    result = run()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return clock() - start, result


def measure(model: Any, samples: Sequence[Encoded], n: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of each kind and the ratios, for prompts of about ``n`` tokens."""
    policies = random_policies(model.config.num_hidden_layers, options.trials, seed=n)
    shares = [policies[start :: options.repeats] for start in range(options.repeats)]
    kinds = ("read", "trial", "re-read", "generate", "floor")
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    engine: Engine | None = None
    timed = partial(seconds, time.process_time if options.cpu else time.perf_counter)
    for some in shares:
        engine = None  # one of them at a time in memory
        spent, engine = timed(lambda: Engine(model, samples))
        times["read"].append(spent)
        [planned] = engine.everywhere(lambda holder: list(holder.portion.blocks.values()))
        stock = Stock(model, samples, planned)
        times["re-read"].append(timed(stock.re_read)[0])
        for part in (some[::2], some[1::2]):
            times["floor"].append(timed(stock.floor)[0])
            times["trial"].append(timed(partial(list, map(engine.evaluate, part)))[0] / len(part))
        if not options.no_generate:
            times["generate"].append(timed(stock.generate)[0])
    row = {kind: median(found) for kind, found in times.items() if found}
    study = row["read"] + options.trials * row["trial"]
    row |= {"tokens": n, "study": study, "trial/floor": row["trial"] / row["floor"]}
    row |= {f"{kind}/study": options.trials * row[kind] / study for kind in ("re-read", "generate") if kind in row}
    return row


def main() -> None:
    """Parse the command line and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--task", default="summarisation", help="a bundled task; answers of summaries are long")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu", action="store_true", help="CPU seconds of the process instead of wall seconds")
    parser.add_argument("--no-generate", action="store_true", help="leave the slowest comparison out")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = load_model(REFERENCE, "cpu")
    clock = "CPU" if options.cpu else "wall"
    what = f"{options.task}, {options.samples} samples, {options.trials} trials"
    title = f"{what}, {options.threads} threads, {clock} seconds"
    table = Table("tokens", "read", "trial", "floor", "study", "re-read", "generate", "trial/floor",
                  "N re-read / study", "N generate / study", title=title)  # fmt: skip
    rows = []
    with torch.no_grad():
        for n in options.tokens:
            row = measure(model, encoded(tokenizer, options.task, n, options.samples), n, options)
            rows.append(row)
            shown = ("read", "trial", "floor", "study", "re-read", "generate", "trial/floor", "re-read/study",
                     "generate/study")  # fmt: skip
            table.add_row(str(n), *(f"{row[key]:.3g}" if key in row else "" for key in shown))
    Console(width=120).print(table)
    print(json.dumps({"task": options.task, "samples": options.samples, "trials": options.trials,
                      "repeats": options.repeats,
                      "threads": options.threads, "cpu": options.cpu, "rows": rows}))  # fmt: skip


if __name__ == "__main__":
    main()

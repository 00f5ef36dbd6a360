"""The same policies on the same prompts: in one process, and at Ray actors among which the prompts are shared out.

    python -m benchmarks.sharded                                   # SmolLM2, two actors on this machine
    python -m benchmarks.sharded --dtype bfloat16 --actors 4

One process works with all threads; actors share these out. Besides the seconds it says whether all losses are the same
bit for bit, and how long a policy takes after an actor was killed, which has to load the model and read its prompts
again. OMP_NUM_THREADS=1 compares processes of equally many threads.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from benchmarks.engine import random_policies
from studies.samples import bundled_samples
from tuner.inputs.encoding import encode
from tuner.inputs.models import load_model, max_tokens
from tuner.inputs.tasks import load_task
from tuner.judging.grading import Grader
from tuner.measuring.actors import Actors
from tuner.measuring.engine import Engine
from tuner.measuring.losses import Losses
from tuner.settings import Settings

TASK = str(Path(__file__).parent.parent / "studies" / "real" / "knowledge-chat.yaml")
Made = TypeVar("Made")


def seconds(make: Callable[[], Made]) -> tuple[float, Made]:
    """How long it took, and what was made."""
    began = time.monotonic()
    made = make()
    return time.monotonic() - began, made


def same(ours: Losses, theirs: Losses) -> bool:
    """Bit for bit."""
    return all(np.array_equal(getattr(ours, name), figures) for name, figures in vars(theirs).items())


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--policies", type=int, default=6)
    parser.add_argument("--actors", type=int, default=2)
    options = parser.parse_args()
    say = partial(print, flush=True)
    task = load_task(TASK)
    assert task.samples is not None
    model, tokenizer = load_model(options.model, "cpu", options.dtype)
    samples = list(
        encode(bundled_samples(task.samples, options.prompts), tokenizer, task, max_tokens(model, tokenizer))
    )
    ends = Grader.of(task, model, tokenizer).ends
    policies = random_policies(model.config.get_text_config().num_hidden_layers, options.policies, seed=0)
    say(f"{len(samples)} prompts of {np.mean([len(each.prompt_ids) for each in samples]):.0f} tokens on average, "
          f"{len(policies)} policies, {torch.get_num_threads()} thread(s) in all")  # fmt: skip

    settings = Settings("", 1, options.model, device="cpu", dtype=options.dtype, ray="local", actors=options.actors)
    starting, actors = seconds(lambda: Actors(settings, model, 1, print))
    say(f"Ray and {options.actors} actors that have loaded the model: {starting:.1f} s")
    found: dict[str, list[Losses]] = {}
    times: dict[str, tuple[float, float]] = {}
    engines = {}
    for name, hold in (("one process", None), (f"{options.actors} actors", actors.hold)):
        reading, engine = seconds(lambda: Engine(model, samples, ends=ends, hold=hold))  # noqa: B023
        measuring, found[name] = seconds(lambda: [engine.evaluate(policy) for policy in policies])  # noqa: B023
        times[name], engines[name] = (reading, measuring), engine
        say(f"{name:<12} reading {reading:6.1f} s, a policy {measuring / len(policies):6.2f} s")
    alone, shared = found.values()
    (reading, measuring), (read_there, measured_there) = times.values()
    say(f"as fast as one process: reading {reading / read_there:.2f} x, policies {measuring / measured_there:.2f} x")
    say(f"the same losses bit for bit: {all(map(same, shared, alone))}")
    os.kill(actors.get([actors.actors[0].start.remote()])[0].process, signal.SIGKILL)
    one_more = random_policies(len(policies[0].layers), 1, seed=1)[0]
    here, there = engines.values()
    took, after = seconds(lambda: there.evaluate(one_more))
    say(
        f"after kill -9 of an actor the next policy took {took:.1f} s; the same: {same(after, here.evaluate(one_more))}"
    )
    actors.close()


if __name__ == "__main__":
    main()

"""Figures of a model that is spread over devices, shared out by torchrun, or quantised, against those of the plain one.

    python -m benchmarks.placed --model DIR --out plain.json
    python -m benchmarks.placed --model DIR --device-map map.json --against plain.json
    torchrun --nproc-per-node 3 -m benchmarks.placed --model DIR --against plain.json
    python -m benchmarks.placed --model NF4

Four random prompts, under H2O, budgets per KV head, and learned powers per KV head: gathered by the engine, really run
attached, and 24 tokens written. Differences are the largest of any sample in NLL and KL, nats per token.
"""

from __future__ import annotations

import argparse
import json
import random
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from a2sf_core import LayerPolicy, Policy, attach
from a2sf_core.placement import input_device
from a2sf_core.rules.attention import Decay
from a2sf_core.rules.learned import Learned
from a2sf_core.shape import n_kv_heads
from tuner.inputs.encoding import Encoded
from tuner.inputs.models import load_model
from tuner.measuring.engine import Engine
from tuner.measuring.rounding import change_of_logits

HALF_LIVES = (8.0, 24.0, inf)
WRITTEN = 24


def samples(longest: int) -> list[Encoded]:
    """Four prompts of half of `longest` tokens and more."""
    rng = random.Random(7)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(rng.randrange(100, 1000) for _ in range(n))

    return [
        Encoded(f"s{i}", ids(rng.randint(longest // 2, longest)), ids(rng.randint(2, 5)), "", False, f"s{i}")
        for i in range(4)
    ]


def figures(model: Any, longest: int) -> dict[str, Any]:
    """By policy: what is gathered and what is really run, NLL and KL `[sample]` each; and the text's tokens."""
    text = model.config.get_text_config()
    heads, n_layers = n_kv_heads(text), text.num_hidden_layers
    shares = [0.2 + 0.4 * head / max(1, heads - 1) for head in range(heads)]
    budgets = [tuple(shares[layer % heads :] + shares[: layer % heads]) for layer in range(n_layers)]
    powers = tuple((0.3 + 0.4 * head / heads, 0.7 - 0.2 * head / heads) for head in range(heads))
    learned = Learned((8.0, inf), powers, tuple(0.1 * head for head in range(heads)))
    policies = {
        "h2o": Policy.h2o(n_layers, 0.3),
        "budgets per head": Policy(
            tuple(LayerPolicy(Decay(HALF_LIVES[i % 3]), budget, 0.3, 2) for i, budget in enumerate(budgets))
        ),
        "learned": Policy(tuple(LayerPolicy(learned, budget, 0.2, 1) for budget in budgets)),
    }
    data = samples(longest)
    engine = Engine(model, data, block_size=2, own=(learned,) * n_layers)
    ids, found = torch.tensor([data[0].prompt_ids], device=input_device(model)), {}
    for name, policy in policies.items():
        both = engine.evaluate(policy), engine.evaluate_directly(policy)
        with torch.no_grad(), attach(policy, model):
            written = model.generate(ids, max_new_tokens=WRITTEN, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        found[name] = {
            "gathered": [both[0].nll.tolist(), both[0].kl.tolist()],
            "attached": [both[1].nll.tolist(), both[1].kl.tolist()],
            "kept": both[0].cache_fraction.tolist(),
            "text": written.tolist(),
        }
    return found


def gap(left: Any, right: Any) -> float:
    return float(np.abs(np.array(left) - np.array(right)).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--device-map")
    parser.add_argument("--tokens", type=int, default=120, help="of the longest prompt")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    rank = 0
    if distributed.is_torchelastic_launched():
        distributed.init_process_group("gloo" if not torch.cuda.is_available() else None)
        rank, shared = distributed.get_rank(), DistributedConfig(tp_size=distributed.get_world_size())
        model = AutoModelForCausalLM.from_pretrained(given.model, distributed_config=shared, dtype="float32").eval()
    else:
        model, _ = load_model(given.model, device_map=given.device_map)
    found = figures(model, given.tokens)
    plain = json.loads(given.against.read_text()) if given.against else None
    for name, own in found.items():
        said = f"process {rank}  {name:<17} gathered against attached {gap(own['gathered'], own['attached']):.1e}"
        if plain:
            other = plain[name]
            apart = max(gap(own[how], other[how]) for how in ("gathered", "attached"))
            same = own["text"] == other["text"] and gap(own["kept"], other["kept"]) < 1e-12
            said += f"  against plain {apart:.1e}, {'same' if same else 'OTHER'} tokens kept and written"
        print(said, flush=True)
    if distributed.is_initialized():
        distributed.destroy_process_group()
    else:
        print(f"a millionth more or less at the input changes logits by {change_of_logits(model):.1e}")
    if given.out and rank == 0:
        given.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()

"""One process of several that share a model's KV heads: `torchrun ... tests/tuner/measuring/shared_heads.py MODEL OUT`.

Without torchrun the same figures by one process. Writes OUT.RANK as JSON.
"""

from __future__ import annotations

import json
import sys
from math import inf
from typing import Any

import torch
from torch import distributed
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from a2sf_core import A2SFError, LayerPolicy, Policy, attach
from a2sf_core.rules.attention import Decay
from a2sf_core.rules.learned import Learned
from tests.core.models import GREEDY, prompt
from tests.tuner.models import samples
from tuner.measuring.engine import Engine

LEARNED = Learned(
    (8.0, inf), ((1.5, -0.5), (0.2, 0.8)), (0.0, 0.7), ((-4.0, 2.0), (-3.0, 1.0)), ((-9.0, -1.0), (-8.0, -3.0))
)
POLICIES = {
    "one budget": Policy.uniform(3, rule=Decay(8.0), budget=0.3, recent=0.3),
    "a budget per head": Policy((
        LayerPolicy(Decay(8.0), (0.2, 0.7), 0.5, 1), LayerPolicy(Decay(inf), (9, 3), 2), LayerPolicy(Decay(0.0), 7),
    )),
    "learned, one budget": Policy.uniform(3, rule=LEARNED, budget=0.4),
    "learned, a budget per head": Policy.uniform(3, rule=LEARNED, budget=(0.6, 0.2), recent=0.2),
    "learned, by the prompt": Policy((LayerPolicy(LEARNED, (0.6, 0.2), 0.2),) * 3, by_prompt=True),
}  # fmt: skip


def figures(model: Any) -> dict[str, Any]:
    """Of every policy what the engine measures, gathered and really run, and a text that is written under it."""
    engine = Engine(model, samples(6), block_size=3, own=(LEARNED,) * 3)
    found: dict[str, Any] = {}
    for name, policy in POLICIES.items():
        for how, losses in (("gathered", engine.evaluate(policy)), ("attached", engine.evaluate_directly(policy))):
            found[f"{name}, {how}"] = [losses.nll.tolist(), losses.kl.tolist(), losses.cache_fraction.tolist()]
        with torch.no_grad(), attach(policy, model):
            found[f"{name}, text"] = model.generate(prompt(2, 40), max_new_tokens=12, **GREEDY).tolist()
    try:
        Engine(model, samples(1), memory=2**30)
        refused = ""
    except A2SFError as error:
        refused = str(error)
    return found | {"passes": engine.passes, "bytes": engine.bytes_per_token, "refused": refused}


def main(folder: str, out: str) -> None:
    """`figures` of the model in `folder`, into a file."""
    if not distributed.is_torchelastic_launched():
        model, rank = AutoModelForCausalLM.from_pretrained(folder), 0
    else:
        distributed.init_process_group("gloo")
        shared = DistributedConfig(tp_size=distributed.get_world_size())
        model, rank = AutoModelForCausalLM.from_pretrained(folder, distributed_config=shared), distributed.get_rank()
    with open(f"{out}.{rank}", "w", encoding="utf-8") as file:
        json.dump(figures(model.eval()), file)
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

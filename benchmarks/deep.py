"""Do schedules per layer still win where there are 32 layers?

    python -m benchmarks.deep

The model: the four trained layers of the bundled one, spread among 28 randomly initialised ones whose output is scaled
down to 2 %, so that it still answers. Few layers matter, as in the models that people serve, and none of the families
knows which. Hypervolume of 100 trials on 16 chats, product's search, 3 seeds.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
from rich.table import Table

from benchmarks.lab import Lab, console, growth, mean_and_error, profiled, report, run_study
from tuner.search.objectives import points_of
from tuner.search.space import Space
from tuner.search.study import Plan

N_LAYERS, SCALE = 32, 0.02
FAMILIES = (
    ("uniform", False),
    ("slope", False),
    ("bump", False),
    ("profile", False),
    ("groups", False),
    ("groups", True),
)


@torch.no_grad()
def deepen(model: Any) -> Any:
    """``model`` with random layers between its own, each nearly passing its input on."""
    torch.manual_seed(0)
    own = model.model.layers
    every = N_LAYERS // len(own)
    layers = []
    for index in range(N_LAYERS):
        if index % every == every // 2:
            layer = own[index // every]
        else:
            layer = copy.deepcopy(own[index // every])
            layer.self_attn.config = model.config  # not a copy: the attention to use is switched there
            for parameter in layer.parameters():
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=0.05)
            layer.self_attn.o_proj.weight *= SCALE
            layer.mlp.down_proj.weight *= SCALE
        layer.self_attn.layer_idx = index
        layers.append(layer)
    model.model.layers = torch.nn.ModuleList(layers)
    model.config.num_hidden_layers = N_LAYERS
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[0]] * N_LAYERS
    return model


def main() -> None:
    """Parse the command line and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", default="chat")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    lab = Lab.of(options.task, (128, 256))
    lab.model = deepen(lab.model)
    engine = lab.engine(0, options.samples)
    table = Table(
        "family", "hypervolume of 100 trials", "profile, evaluations", title=f"{N_LAYERS} layers, {options.task}"
    )
    found = {}
    for family, per_head in FAMILIES:
        space, _ = profiled(Space(family, per_head, N_LAYERS), engine, 1)
        ends = [growth(points_of(run_study(engine, space, Plan(100), seed)))[-1] for seed in range(options.seeds)]
        name = f"{family}{', per head' if per_head else ''}"
        found[name] = ends
        table.add_row(name, mean_and_error(ends), str(space.profile.evaluations if space.profile else ""))
    console.print(table)
    report("deep", found)


if __name__ == "__main__":
    main()

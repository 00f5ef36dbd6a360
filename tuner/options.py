"""What may follow `a2sf-tune`: the options of its verbs, with their words of help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tuner.choices import STORAGE_VARIABLE

Columns = Annotated[
    list[str] | None,
    typer.Option(help="FIELD=COLUMN where names differ, e.g. answer=summary. Repeatable."),
]
Model = Annotated[str, typer.Option(help="'reference', 'smollm2', a folder, a .gguf file, or a name on the Hub.")]
Data = Annotated[str | None, typer.Option(help="Your samples: .jsonl, .csv, .parquet, or a Hub data set.")]
Limit = Annotated[int | None, typer.Option(help="Read only the first so many samples of --data.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
MaxDegradation = Annotated[
    float, typer.Option(help="Allowed loss against the full cache, in points of the task's metric.")
]
Family = Annotated[str, typer.Option(help="How layers may differ: uniform, slope, bump, profile, groups or free.")]
Memory = Annotated[
    str | None, typer.Option(help="Limit for the prompts held, e.g. 8GiB; default: half of what is free.")
]
WarmStart = Annotated[
    list[Path] | None, typer.Option(help="Folder of an earlier run whose best points are tried first. Repeatable.")
]
Patience = Annotated[int | None, typer.Option(help="Stop early when so many trials have brought nothing new.")]
Precision = Annotated[
    float | None, typer.Option(help="Choose the number of report samples for an interval of +- so many points.")
]
Mlflow = Annotated[
    str | None,
    typer.Option(help="Tracking server or database; default: MLFLOW_TRACKING_URI, or a database in the run folder."),
]
Cut = Annotated[
    str | None,
    typer.Option(help="What is read before tokens are dropped: the whole prompt, or the context alone; default: the "
                      "task's own, which is prompt unless it says otherwise."),
]  # fmt: skip
Adapter = Annotated[
    Path | None, typer.Option(help="Folder of a LoRA adapter (peft) that is merged into --model's weights.")
]
StorageAddress = Annotated[
    str | None,
    typer.Option(help="Database of a study that many workers share: postgresql://USER@HOST/NAME, or sqlite:///FILE on "
                      "one machine; each worker needs an --out of its own.", envvar=STORAGE_VARIABLE),
]  # fmt: skip
DeviceMap = Annotated[
    str | None,
    typer.Option(help="Spread the weights: auto, balanced, balanced_low_0, sequential, or a .json file from modules to "
                      "devices, cpu or disk. Instead of --device."),
]  # fmt: skip
Ray = Annotated[
    str | None,
    typer.Option(help="Share the samples out among actors of a Ray cluster: its address, or 'local' for processes of "
                      "this machine."),
]  # fmt: skip
Actors = Annotated[
    int | None, typer.Option(help="How many for --ray; default: one for each GPU, or for each machine, at least 2.")
]
Check = Annotated[bool, typer.Option("--check", help="Say what the run can prove and what it takes; run nothing.")]

"""What the user asked for; `tuner.inputs.check` says whether it makes sense."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tuner.choices import DEFAULT_RULES, REFERENCE


@dataclass(frozen=True)
class Settings:
    """The options of the main job; see `a2sf-tune --help`."""

    task: str
    trials: int
    model: str = REFERENCE
    data: str | None = None
    columns: dict[str, str] | None = None
    limit: int | None = None
    data_split: str = "test"
    max_degradation: float = 2.0
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0
    out: Path | None = None
    family: str = "groups"
    per_head: bool = True
    rules: tuple[str, ...] = DEFAULT_RULES
    sampler: str = "tpe"
    memory: str | None = None
    warm_start: tuple[Path, ...] = ()
    patience: int | None = None
    precision: float | None = None
    mlflow: str | None = None
    cut: str | None = None
    adapter: Path | None = None
    device_map: str | None = None

    def folder(self, task: str) -> Path:
        """Where the run lies: `out`, or a name made of those of the task and the model."""
        name = Path(self.model).name or self.model
        slug = "".join(char if char.isalnum() or char in "._-" else "-" for char in name)
        return self.out or Path("runs") / f"{task}-{slug}"

"""What the user asked for; `tuner.inputs.check` says whether it makes sense."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    storage: str | None = field(default=None, repr=False)  # it may hold a password
    study: str | None = None
    ray: str | None = None
    actors: int | None = None

    def name(self, task: str) -> str:
        """What the run is called if it has no name: after task and model."""
        model = Path(self.model).name or self.model
        return f"{task}-" + "".join(char if char.isalnum() or char in "._-" else "-" for char in model)

    def folder(self, task: str) -> Path:
        """Where the run lies: `out`, or under its name."""
        return self.out or Path("runs") / self.name(task)

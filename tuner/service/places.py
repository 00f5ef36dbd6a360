"""Where the service keeps things, and which models and files of this machine a study may name."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from a2sf_core.errors import A2SFError
from a2sf_core.fields import did_you_mean
from tuner.choices import REFERENCE, SMOLLM2
from tuner.inputs.hub import HUB_NAME

STUDIES, SAMPLES = "studies", "samples"
_MOST_SHOWN = 200


@dataclass(frozen=True)
class Places:
    """Folders.

    data: of the service; a study lies in `studies/ID` of it, an upload in `samples/ID`. models, samples: what studies
    may name, besides the bundled models and their owner's uploads. hub_models: names on the Hub that they may name too;
    a worker downloads one when it is first asked for.
    """

    data: Path
    models: tuple[Path, ...] = ()
    samples: tuple[Path, ...] = ()
    hub_models: tuple[str, ...] = ()

    def check(self) -> None:
        """Make the folders of the data folder. Raises A2SFError if one of the others is none, or a Hub name is none."""
        for name in self.hub_models:
            if not HUB_NAME.fullmatch(name) or "/" not in name:
                raise A2SFError(f"--hub-model is {name!r}; expected a name on the Hub such as 'owner/model'.")
        for option, folders in (("--models", self.models), ("--samples", self.samples)):
            for folder in folders:
                if not folder.is_dir():
                    raise A2SFError(f"{option} {folder} is no folder; give one that is there.")
        for name in (STUDIES, SAMPLES):
            (self.data / name).mkdir(parents=True, exist_ok=True)

    def study(self, job_id: str) -> Path:
        """The folder of a study."""
        return self.data / STUDIES / job_id

    def remove(self, folder: Path) -> None:
        """A folder with all that is in it."""
        shutil.rmtree(folder, ignore_errors=True)

    @property
    def free(self) -> int:
        """Bytes that are free on the disk of the data folder."""
        return shutil.disk_usage(self.data).free

    def model_names(self) -> list[str]:
        """What studies may name as their model."""
        found = (
            folder.name
            for root in self.models
            for folder in sorted(root.iterdir())
            if (folder / "config.json").is_file() or folder.suffix == ".gguf"
        )
        return [REFERENCE, SMOLLM2, *self.hub_models, *dict.fromkeys(found)][:_MOST_SHOWN]

    def model(self, name: str) -> str:
        """What the job is told for the model `name`.

        Raises:
            A2SFError: for one that is not under an allowed folder, nor a Hub name that is allowed.
        """
        if name in (REFERENCE, SMOLLM2, *self.hub_models):
            return name
        found = _inside(self.models, name)
        if found is None:
            known = self.model_names()
            raise A2SFError(f"There is no model {name!r} here; {did_you_mean(name, known, _one_of(known))}")
        return str(found)

    def adapter(self, name: str) -> str:
        """The same for a folder with an adapter."""
        found = _inside(self.models, name)
        if found is None:
            raise A2SFError(f"There is no adapter {name!r} here; expected a folder under one that this service allows.")
        return str(found)

    def file(self, name: str) -> str:
        """The same for a file of samples."""
        found = _inside(self.samples, name)
        if found is None or not found.is_file():
            raise A2SFError(
                f"There is no data file {name!r} here; expected one under a folder that this service allows, or upload "
                "it to /v1/samples and give the id as `samples`."
            )
        return str(found)


def _inside(roots: Sequence[Path], name: str) -> Path | None:
    """What `name` leads to under one of `roots`, links followed to the end; None if that is elsewhere or nothing."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or not name.isprintable() or "\\" in name:
        return None
    for root in (root.resolve() for root in roots):
        try:
            found = (root / pure).resolve()
            if found != root and found.is_relative_to(root) and found.exists():
                return found
        except (OSError, ValueError, RuntimeError):  # a name too long, a circle of links
            continue
    return None


def _one_of(names: Sequence[str]) -> str:
    return f"expected one of {', '.join(names)}."

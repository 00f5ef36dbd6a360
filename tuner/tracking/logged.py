"""A model put into MLflow through its client: `log_model` would go through the process-wide tracking address,
experiment and active run, which belong to the user."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import Model


@contextmanager
def logged_model(
    client: MlflowClient, experiment_id: str, name: str, run_id: str
) -> Iterator[tuple[LoggedModel, Model, Path]]:
    """A new model of a run; inside, it is to be saved to the path that comes with it, which is not there yet."""
    from mlflow.models import Model

    logged = client.create_logged_model(experiment_id, name, run_id)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "model")
        yield logged, Model(run_id=run_id, model_id=logged.model_id), saved
        client.log_model_artifacts(logged.model_id, str(saved))
    client.finalize_logged_model(logged.model_id, "READY")


def pinned(packages: Sequence[str]) -> list[str]:
    """Requirements for the versions that are installed. Named, because working them out takes MLflow ten seconds."""
    from importlib.metadata import version

    return [f"{name}=={version(name)}" for name in packages]

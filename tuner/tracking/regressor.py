"""The fitted regressor as a model in MLflow, so that it can be loaded and used from there."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from pandas import DataFrame


def log_regressor(
    client: MlflowClient, experiment_id: str, run_id: str, regressor: Any, example: DataFrame | None
) -> None:
    """Log a scikit-learn model that loads without a pickle.

    Step by step through the client: `mlflow.sklearn.log_model` would go through the process-wide
    tracking address, experiment and active run, which belong to the user.
    """
    from importlib.metadata import version

    import mlflow.sklearn
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model, infer_signature

    signature = None if example is None else infer_signature(example, regressor.predict(example))
    packages = ("scikit-learn", "skops", "numpy", "pandas")
    ours = f"source_run_id = '{run_id}'"
    older = client.search_logged_models([experiment_id], filter_string=ours)
    logged = client.create_logged_model(experiment_id, "regressor", run_id)
    with tempfile.TemporaryDirectory() as folder:
        mlflow.sklearn.save_model(
            regressor,
            f"{folder}/model",
            mlflow_model=Model(run_id=run_id, model_id=logged.model_id),
            signature=signature,
            input_example=example,
            # Named here, because working them out takes MLflow ten seconds.
            pip_requirements=[f"{name}=={version(name)}" for name in packages],
            skops_trusted_types=_sklearn_types(regressor),
        )
        client.log_model_artifacts(logged.model_id, f"{folder}/model")
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    for model in older:
        client.delete_logged_model(model.model_id)


def _sklearn_types(regressor: Any) -> list[str]:
    """The classes of scikit-learn itself that skops does not trust unasked, such as trees; no others."""
    from skops.io import dumps, get_untrusted_types

    return [name for name in get_untrusted_types(data=dumps(regressor)) if name.startswith("sklearn.")]

"""The fitted regressor as a model in MLflow, so that it can be loaded and used from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuner.tracking.logged import logged_model, pinned

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from pandas import DataFrame


def log_regressor(
    client: MlflowClient, experiment_id: str, run_id: str, regressor: Any, example: DataFrame | None
) -> None:
    """Log a scikit-learn model that loads without a pickle."""
    import mlflow.sklearn
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import infer_signature

    signature = None if example is None else infer_signature(example, regressor.predict(example))
    ours = f"source_run_id = '{run_id}'"
    older = client.search_logged_models([experiment_id], filter_string=ours)
    with logged_model(client, experiment_id, "regressor", run_id) as (logged, model, path):
        mlflow.sklearn.save_model(
            regressor,
            str(path),
            mlflow_model=model,
            signature=signature,
            input_example=example,
            pip_requirements=pinned(("scikit-learn", "skops", "numpy", "pandas")),
            skops_trusted_types=_sklearn_types(regressor),
        )
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    for earlier in older:
        client.delete_logged_model(earlier.model_id)


def _sklearn_types(regressor: Any) -> list[str]:
    """The classes of scikit-learn itself that skops does not trust unasked, such as trees; no others."""
    from skops.io import dumps, get_untrusted_types

    return [name for name in get_untrusted_types(data=dumps(regressor)) if name.startswith("sklearn.")]

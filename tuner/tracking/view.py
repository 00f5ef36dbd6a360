"""The page of MLflow's interface that a user sees first: the Pareto scatter and the parallel coordinates."""

from __future__ import annotations

from typing import Any


def view_state(parent_id: str, cache_metric: str, quality_metric: str, params: list[str]) -> dict[str, Any]:
    """The state that MLflow's runs page keeps for "share view".

    The format is MLflow's own and undocumented (read from 3.17). The browser test notices when it changes;
    the link then still opens the plain list of runs.
    """
    metrics = [cache_metric, quality_metric]
    columns = [*(f"metrics.`{name}`" for name in metrics), *(f"params.`{name}`" for name in params)]
    chart = {"metricSectionId": "a2sf", "runsCountToCompare": 100, "deleted": False, "isGenerated": False}
    axes = {axis: {"key": key, "type": "METRIC"} for axis, key in zip(("xaxis", "yaxis"), metrics, strict=True)}
    parallel = {"selectedParams": params, "selectedMetrics": metrics, "showAllRuns": True}
    section = {"uuid": "a2sf", "name": "A2SF", "display": True, "columns": 1, "cardHeight": 400}
    return {
        "searchFilter": f"tags.mlflow.parentRunId = '{parent_id}'",
        "orderByKey": "tags.`a2sf.group`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": [*columns, "tags.`a2sf.group`"],
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": [
            chart | {"uuid": "scatter", "type": "SCATTER"} | axes,
            chart | {"uuid": "parallel", "type": "PARALLEL"} | parallel,
        ],
        "compareRunSections": [section | {"isReordered": False, "deleted": False, "isGenerated": False}],
    }

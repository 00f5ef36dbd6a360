"""The page that a user sees first: both charts, on the metrics and parameters that were asked for."""

from __future__ import annotations

import json

from tuner.tracking.view import view_state


def test_the_scatter_has_the_two_objectives_and_the_parallel_plot_all_parameters() -> None:
    state = view_state("abc", "cache_fraction", "nll_increase", ["budget", "recent"])
    assert json.loads(json.dumps(state)) == state
    assert state["searchFilter"] == "tags.mlflow.parentRunId = 'abc'"
    scatter, parallel = state["compareRunCharts"]
    assert (scatter["xaxis"]["key"], scatter["yaxis"]["key"]) == ("cache_fraction", "nll_increase")
    assert parallel["selectedParams"] == ["budget", "recent"]
    assert "params.`budget`" in state["selectedColumns"]
    (section,) = state["compareRunSections"]
    assert {chart["metricSectionId"] for chart in (scatter, parallel)} == {section["uuid"]}

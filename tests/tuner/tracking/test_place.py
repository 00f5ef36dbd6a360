"""Where the runs go, and that no password is shown on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from a2sf_core.errors import A2SFError
from tuner.choices import tracking_address
from tuner.tracking.place import place_of
from tuner.tracking.tracker import Tracker


def test_the_option_comes_before_the_environment_and_that_before_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place_of(tmp_path, None).uri == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert place_of(tmp_path, None).embedded
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000/")
    assert place_of(tmp_path, None).uri == "http://tracking:5000"
    assert place_of(tmp_path, f"sqlite:///{tmp_path}/all.db").artifacts == tmp_path / "all-artifacts"
    assert place_of(tmp_path / "run", "postgresql://me@host/runs").artifacts == tmp_path / "mlflow-artifacts"


@pytest.mark.parametrize("address", ["file:./mlruns", "./mlruns", "http://", "htp://host", "http://a\n", "sqlite:///"])
def test_an_address_that_takes_no_runs_is_refused_before_anything_is_read(address: str) -> None:
    with pytest.raises(A2SFError, match=r"--mlflow is .*give http://HOST:PORT"):
        tracking_address(address)


def test_an_address_in_the_environment_is_named_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    with pytest.raises(A2SFError, match="MLFLOW_TRACKING_URI is 'mlruns': MLflow has given up its file store"):
        tracking_address(None)


@pytest.mark.parametrize(
    "address",
    ["http://me:hush@127.0.0.1:9", "postgresql://me:hush@127.0.0.1:9/x", "postgresql://127.0.0.1:9/x?password=hush"],
)
def test_a_password_is_shown_nowhere(address: str, tmp_path: Path) -> None:
    said: list[str] = []
    tracker = Tracker(tmp_path, "e", "s", None, address, said.append)
    shown = " ".join([*said, tracker.link(), tracker.serve_command(), place_of(tmp_path, address).shown])
    assert "***" in shown
    assert "hush" not in shown

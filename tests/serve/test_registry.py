"""MLflow's registry, embedded and behind a server: registered, loaded by mlflow.pyfunc, served and followed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import mlflow.pyfunc
import pandas
import pytest

from a2sf_core import A2SFConfig, A2SFError, Policy
from a2sf_core.serve.served import Served
from tests.tuner.tracking.servers import Server as Mlflow
from tuner.tracking.registry import Alias, register
from tuner.tracking.tracker import Tracker

from .conftest import POLICY, TINY
from .offline import written, written_text
from .process import TOKEN, running, until

NAME = "a2sf-test"
HOT = {"temperature": 1.5, "seed": 3, "max_tokens": 12}


def run_in(folder: Path, config: Path, address: str | None = None, **changes: Any) -> Path:
    """A folder as a finished run leaves it: its config, and its MLflow run in `address` or in the folder."""
    tracker = Tracker(folder, "A2SF", folder.name, address=address)
    tracker.finish("done", {}, {}, [])
    tuned = A2SFConfig.from_pretrained(config)
    study = {"model_name": "reference"}
    evidence = {**tuned.evidence, "mlflow_run_id": tracker.parent_run_id, "study": study, **changes.pop("evidence", {})}
    replace(tuned, evidence=evidence, **changes).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(tmp_path_factory.mktemp("registry") / "run", config)


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[Mlflow]:
    server = Mlflow(tmp_path, f"sqlite:///{tmp_path}/server.db")
    server.start()
    yield server
    server.stop()


def address_of(run: Path) -> str:
    return f"sqlite:///{run}/mlflow/mlflow.db"


def test_mlflow_loads_it_and_answers_with_pruning(
    run: Path, reference: tuple[Any, Any], prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = register(run, NAME)
    assert (made.uri, made.version, made.is_new) == (f"models:/{NAME}@champion", "1", True)
    assert register(run, NAME) == replace(made, is_new=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address_of(run))
    loaded = mlflow.pyfunc.load_model(made.uri)
    model, tokenizer = reference
    tokens = [written(model, POLICY, tokenizer(prompt).input_ids, 12) for prompt in prompts[:3]]
    expected = [tokenizer.decode(each, skip_special_tokens=True) for each in tokens]
    rows = [{"prompt": prompt} for prompt in prompts[:3]]
    assert loaded.predict(rows, params={"max_new_tokens": 12}) == expected
    assert loaded.predict(pandas.DataFrame(rows), params={"max_new_tokens": 12}) == expected
    stored = [path for path in (run / "mlflow" / "artifacts").rglob("*") if path.is_file() and "models" in path.parts]
    assert {path.name for path in stored} - {"registered_model_meta"} == {
        "MLmodel", "a2sf_config.json", "conda.yaml", "python_env.yaml", "requirements.txt"
    }, "no weights, no code, no pickle"  # fmt: skip


def test_the_server_follows_the_alias(
    run: Path, config: Path, tmp_path: Path, reference: tuple[Any, Any], undecided: str
) -> None:
    register(run, NAME)
    ids = reference[1](undecided).input_ids

    def unserved(policy: Policy) -> str:
        return written_text(reference, policy, ids, 12, temperature=1.5, seed=3)

    options = ["--model", "reference", "--config", f"models:/{NAME}@champion", "--mlflow", address_of(run)]
    with running(tmp_path, *options) as server:
        headers = {"Authorization": f"Bearer {TOKEN}"}

        def asked() -> tuple[str, str]:
            given = {"model": "reference", "prompt": undecided, **HOT}
            answer = httpx.post(f"{server.url}/v1/completions", json=given, headers=headers, timeout=300)
            return answer.headers["A2SF-Config"], answer.json()["choices"][0]["text"]

        old = A2SFConfig.from_pretrained(run)
        assert asked() == (f"stable {Served.of(old).version}", unserved(POLICY))
        new = replace(old, policy=TINY)
        new.save_pretrained(run)
        assert register(run, NAME).version == "2"
        until(lambda: asked()[0] == f"stable {Served.of(new).version}")
        assert asked()[1] == unserved(new.policy)
        assert f"models:/{NAME}@champion (version 2)" in server.metrics()
    old.save_pretrained(run)


def test_behind_a_server(mlflow_server: Mlflow, config: Path, tmp_path: Path) -> None:
    run = run_in(tmp_path / "run", config, mlflow_server.address, evidence={"status": "promising"})
    made = register(run, NAME, address=mlflow_server.address)
    assert made.uri == f"models:/{NAME}@challenger", "it is not proven"
    alias = Alias.read(made.uri, mlflow_server.address)
    assert alias.version() == "1"
    assert A2SFConfig.from_pretrained(alias.fetch("1", tmp_path)) == A2SFConfig.from_pretrained(run)
    with pytest.raises(A2SFError, match=f"has no {NAME}@champion; a2sf-tune register makes one"):
        Alias.read(f"models:/{NAME}@champion", mlflow_server.address).version()
    mlflow_server.stop()
    with pytest.raises(A2SFError, match="does not answer"):
        alias.version()


@pytest.mark.parametrize(
    ("name", "alias", "changes", "said"),
    [
        ("a/b", None, {}, "the name of a registered model must be letters"),
        ("a' OR 1", None, {}, "the name of a registered model must be letters"),
        (NAME, "@", {}, "an alias must be letters"),
        (NAME, None, {"policy": Policy.full(4)}, "keeps the whole cache"),
        (NAME, None, {"evidence": {"mlflow_run_id": "f" * 32}}, "does not have the run"),
        (NAME, None, {"evidence": {"study": {"model_name": "reference", "adapter": "x"}}}, "with --adapter"),
    ],
    ids=lambda each: "",
)
def test_what_cannot_be_registered_is_said(
    run: Path, tmp_path: Path, name: str, alias: str | None, changes: dict[str, Any], said: str
) -> None:
    known = A2SFConfig.from_pretrained(run)
    evidence = {**known.evidence, **changes.get("evidence", {})}
    replace(known, **{**changes, "evidence": evidence}).save_pretrained(tmp_path)
    with pytest.raises(A2SFError, match=said):
        register(tmp_path, name, alias, address_of(run))


@pytest.mark.parametrize(
    ("uri", "address", "said"),
    [
        ("models:/a2sf", "http://127.0.0.1:9", "must be models:/NAME@ALIAS"),
        ("models:/a@b", None, "say in which with --mlflow"),
        ("models:/a@b", "sqlite:////nowhere/mlflow.db", "there is no database /nowhere/mlflow.db"),
        ("models:/a@b", "http://127.0.0.1:9", "does not answer"),
    ],
    ids=lambda each: "",
)
def test_an_alias_that_cannot_be_looked_up_is_said(
    uri: str, address: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(A2SFError, match=said):
        Alias.read(uri, address).version()

"""The exported file: written whole, read back equal, refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from a2sf_core import A2SFConfig, A2SFError, Policy
from a2sf_core.config import FILE_NAME
from a2sf_core.shape import fingerprint

from . import models


def config(model: Any) -> A2SFConfig:
    evidence = {"difference": -0.4, "interval": [-0.9, 0.1]}
    return A2SFConfig(fingerprint(model), "summarisation", Policy.h2o(3, 0.2), {"constant": 0.9}, None, evidence)


def test_round_trip(llama: Any, tmp_path: Path) -> None:
    path = config(llama).save_pretrained(tmp_path / "new" / "folder")
    assert path.name == FILE_NAME
    assert A2SFConfig.from_pretrained(path) == A2SFConfig.from_pretrained(path.parent) == config(llama)
    assert [p.name for p in path.parent.iterdir()] == [FILE_NAME], "temporary files must be gone"


def test_a_failed_save_keeps_the_old_file(llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = config(llama).save_pretrained(tmp_path)
    old = path.read_text()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("a2sf_core.config.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        config(llama).save_pretrained(tmp_path)
    assert path.read_text() == old
    assert len(list(tmp_path.iterdir())) == 1


def test_not_json_values_are_refused(llama: Any, tmp_path: Path) -> None:
    bad = A2SFConfig(fingerprint(llama), "t", Policy.full(3), evidence={"x": float("nan")})
    with pytest.raises(A2SFError, match="something that JSON cannot"):
        bad.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"schema_version": 99}, "schema version 99, but this a2sf-tune reads up to 1"),
        ({"schema_version": "1"}, "schema_version must be 1"),
        ({"polizy": {}}, "did you mean 'policy'"),
        ({"policy": None}, "policy must be a JSON object"),
        ({"policy": {"layers": [{"budget": 0}] * 3}}, "budget must be tokens"),
        ({"policy": {"layers": [{}]}}, "policy has 1 layers but the model fingerprint has 3"),
        ({"task": 3}, "task must be a string"),
        ({"guard": 3}, "guard must be a JSON object or null"),
        ({"model": {}}, "lacks the field 'architecture'"),
    ],
)
def test_bad_content_is_refused(llama: Any, tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    data = {**config(llama).to_dict(), **change}
    (tmp_path / FILE_NAME).write_text(json.dumps(data))
    with pytest.raises(A2SFError, match=sentence) as error:
        A2SFConfig.from_pretrained(tmp_path)
    assert FILE_NAME in str(error.value)


def test_missing_field_missing_file_and_broken_json(llama: Any, tmp_path: Path) -> None:
    data = config(llama).to_dict()
    del data["task"]
    (tmp_path / FILE_NAME).write_text(json.dumps(data))
    with pytest.raises(A2SFError, match="lacks the field 'task'"):
        A2SFConfig.from_pretrained(tmp_path)
    with pytest.raises(A2SFError, match="cannot read"):
        A2SFConfig.from_pretrained(tmp_path / "nowhere")
    (tmp_path / FILE_NAME).write_text('{\n  "task": \n}')
    with pytest.raises(A2SFError, match="line 3: not valid JSON"):
        A2SFConfig.from_pretrained(tmp_path)


def test_attach(llama: Any) -> None:
    with config(llama).attach(llama) as attached:
        assert attached is llama
    with pytest.raises(A2SFError, match=r"architecture is 'opt', not 'llama'.*n_kv_heads is 4, not 2"):
        config(llama).attach(models.build("opt"))

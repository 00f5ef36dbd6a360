"""Int8 weights by torchao: what of a config is let through, and every sentence about what is not."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from a2sf_core.errors import A2SFError
from tuner.inputs import quantised
from tuner.inputs.model_folder import check_config

PER_ROW = {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}


def config(kind: Any = "Int8WeightOnlyConfig", granularity: Any = PER_ROW) -> dict[str, Any]:
    """As transformers writes it beside the weights."""
    inner = {"_type": kind, "_version": 2, "_data": {"granularity": granularity, "group_size": None}}
    return {"quantization_config": {"quant_method": "torchao", "quant_type": {"default": inner}}}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao is large, and none of this needs it."""
    monkeypatch.setattr(quantised, "find_spec", lambda name: find_spec("torch"))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("given", [config(), {}, {"quantization_config": {"quant_method": "fp8"}}])
def test_int8_weights_and_what_is_not_of_torchao_pass(given: dict[str, Any]) -> None:
    quantised.check_quantised(Path("config.json"), given)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("given", "named"),
    [
        (config("Int4WeightOnlyConfig"), "'Int4WeightOnlyConfig'"),
        (config(granularity={"a": [{"_type": "quantize_"}]}), "'quantize_'"),
        (config(granularity={"_type": ["PerRow"]}), "PerRow"),
    ],
)
def test_other_names_are_refused_at_any_depth(given: dict[str, Any], named: str) -> None:
    with pytest.raises(A2SFError, match="only int8 weights") as caught:
        quantised.check_quantised(Path("config.json"), given)
    assert named in str(caught.value)


def test_a_package_that_is_not_installed_is_named_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"} | config()))
    with pytest.raises(A2SFError, match="by torchao, which is not installed; get it with 'pip install torchao'"):
        check_config(tmp_path)

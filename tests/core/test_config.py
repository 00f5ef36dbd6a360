"""The exported file: written whole, read back equal, refused with a sentence."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from a2sf_core import A2SFConfig, A2SFError, LayerPolicy, Policy
from a2sf_core.config import FILE_NAME
from a2sf_core.rules.attention import Decay, Window
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
        ({"schema_version": 99}, "schema version 99, but this a2sf-tune reads up to 4"),
        ({"schema_version": "1"}, "schema_version must be 4"),
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


SCHEMA_1 = [
    {"half_life": 16.0, "alpha": 2 ** (-1 / 16), "budget": [0.2, 0.5], "recent": 0.25, "sink": 4, "window": None},
    {"half_life": "inf", "alpha": 1.0, "budget": 0.3, "recent": 16, "sink": 0, "window": 16},
    {"half_life": "inf", "alpha": 1.0, "budget": None, "recent": 0, "sink": 0, "window": None},
]
"""Layers as the first schema wrote them."""


def test_a_file_of_the_first_schema_loads(llama: Any, tmp_path: Path) -> None:
    policy = {"evict": "prefill", "decode_every": None, "layers": SCHEMA_1}
    data = config(llama).to_dict() | {"schema_version": 1, "policy": policy}
    (tmp_path / FILE_NAME).write_text(json.dumps(data))
    loaded = A2SFConfig.from_pretrained(tmp_path)
    assert loaded.policy.layers == (
        LayerPolicy(Decay(16), (0.2, 0.5), 0.25, 4),
        LayerPolicy(Window(16), 0.3, 16),
        LayerPolicy(),
    )
    assert A2SFConfig.from_pretrained(loaded.save_pretrained(tmp_path / "again")) == loaded


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ({"half_life": -3}, "half_life must be a number of tokens"),
        ({"half_life": 1, "alpha": 0.6}, "disagree"),
        ({"window": 0}, "policy layer 0: window must be an integer of at least 1 query"),
        ({"window": 16, "half_life": "inf", "alpha": 0.3}, "disagree"),
        ({"half_live": 3}, "policy layer 0 has an unknown field 'half_live'; did you mean 'half_life'"),
        ({"windw": 3}, "did you mean 'window'"),
        ({"rule": {"name": "random"}}, "unknown field 'rule'"),
        (3, "must be a JSON object"),
    ],
)
def test_bad_content_of_the_first_schema_is_refused(llama: Any, tmp_path: Path, layer: Any, sentence: str) -> None:
    data = config(llama).to_dict() | {"schema_version": 1, "policy": {"layers": [layer] * 3}}
    (tmp_path / FILE_NAME).write_text(json.dumps(data))
    with pytest.raises(A2SFError, match=sentence):
        A2SFConfig.from_pretrained(tmp_path)


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


@pytest.mark.parametrize("more", [1, 64, -3])
def test_a_vocabulary_that_grew_by_some_tokens_is_the_same_model(llama: Any, more: int) -> None:
    """Added tokens and padding change nothing about which tokens a cache keeps."""
    tuned = config(llama)
    resized = models.build("llama")
    resized.resize_token_embeddings(models.VOCAB + more)
    with tuned.attach(resized):
        pass
    resized.resize_token_embeddings(models.VOCAB + 5000)
    with pytest.raises(A2SFError, match="vocab_size is 5097, not 97"), tuned.attach(resized):
        pytest.fail("attached")


def test_no_path_of_this_machine_is_exported(llama: Any) -> None:
    llama.config._name_or_path = "/home/me/secret/my-model/"
    assert fingerprint(llama)["name"] == "my-model"
    llama.config._name_or_path = "owner/model"
    assert fingerprint(llama)["name"] == "owner/model"


def test_a_policy_that_is_not_proven_says_so_once(llama: Any) -> None:
    evidence = {"status": "promising, not proven", "verdict": "Promising, not proven: trial 7 keeps 7.2% of the cache."}
    unsure = replace(config(llama), task="unsure", evidence=evidence)
    with pytest.warns(UserWarning, match="for task 'unsure' is promising, not proven. Promising, not proven: trial 7"):
        unsure.attach(llama)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unsure.attach(llama)
        replace(unsure, evidence={"status": "adopt"}).attach(llama)
        replace(unsure, evidence={}).attach(llama)


def test_the_cut_is_part_of_the_file_and_older_files_mean_the_prompt(llama: Any, tmp_path: Path) -> None:
    early = A2SFConfig(fingerprint(llama), "t", Policy.h2o(3, 0.2), cut="context")
    early.save_pretrained(tmp_path)
    assert A2SFConfig.from_pretrained(tmp_path) == early
    data = early.to_dict()
    del data["cut"]
    assert A2SFConfig.from_dict(data).cut == "prompt"
    for cut, said in (
        ("answer", "cut must be one of prompt, context, not 'answer'"),
        (3, "cut must be a string, not 3"),
    ):
        with pytest.raises(A2SFError, match=said):
            A2SFConfig.from_dict({**data, "cut": cut})

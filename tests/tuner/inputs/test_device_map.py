"""Weights spread over memory and disk give the plain model's figures; every sentence about what is no device map."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from a2sf_core import A2SFError, LayerPolicy, Policy, attach
from a2sf_core.placement import input_device, layer_devices
from a2sf_core.rules.attention import Decay
from tests.tuner.models import samples
from tuner.inputs import check
from tuner.inputs.device_map import check_mergeable, read_device_map
from tuner.inputs.identity import model_identity
from tuner.inputs.models import load_model
from tuner.measuring.engine import Engine
from tuner.search.learning import LEARNED_FROM, learned_rules
from tuner.settings import Settings

POLICY = Policy(tuple(LayerPolicy(Decay(8.0), heads, 0.3, 2) for heads in ((0.2, 0.6), (0.5, 0.5), (0.9, 0.1), (3, 9))))


@pytest.fixture(scope="module")
def plain() -> Any:
    return load_model("reference")[0]


@pytest.fixture(scope="module")
def offloaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Embeddings, half of the layers and the head on disk, the rest in memory."""
    path = tmp_path_factory.mktemp("maps") / "map.json"
    layers = {f"model.layers.{index}": "cpu" if index < 2 else "disk" for index in range(4)}
    path.write_text(json.dumps({"model.embed_tokens": "disk", **layers, "model.norm": "cpu", "model.rotary_emb": "cpu",
                                "lm_head": "disk"}))  # fmt: skip
    return load_model("reference", device_map=str(path))[0]


def test_offloaded_weights_give_the_plain_figures_bit_for_bit(plain: Any, offloaded: Any) -> None:
    assert offloaded.device.type == "meta"
    assert input_device(offloaded) == torch.device("cpu")
    assert set(layer_devices(offloaded)) == {torch.device("cpu")}
    assert model_identity(offloaded) == model_identity(plain)
    engines = [Engine(model, samples(4), learn_from=LEARNED_FROM) for model in (plain, offloaded)]
    for run in (Engine.evaluate, Engine.evaluate_directly):
        expected, found = (run(engine, POLICY) for engine in engines)
        for field in fields(expected):
            assert (getattr(found, field.name) == getattr(expected, field.name)).all(), field.name
    assert len({learned_rules(engine, range(4), lambda _done, _total: None) for engine in engines}) == 1


@torch.no_grad()
def test_an_offloaded_model_is_tried_and_writes_what_the_plain_one_writes(plain: Any, offloaded: Any) -> None:
    ids, texts = torch.arange(5, 65)[None], []
    for model in (plain, offloaded):
        with attach(POLICY, model):
            texts.append(model.generate(ids, max_new_tokens=8, do_sample=False).tolist())
    assert texts[0] == texts[1]


def test_one_device_for_all_is_the_plain_model(plain: Any) -> None:
    model, _ = load_model("reference", device_map="auto")
    assert {weight.device.type for weight in model.parameters()} == {input_device(plain).type}


@pytest.mark.parametrize(
    ("given", "device", "sentence"),
    [
        ("autp", "auto", "--device-map is 'autp'; did you mean 'auto'"),
        ("auto", "cuda:1", "--device cuda:1 and --device-map auto both place the model; leave one of them out"),
        ("none.json", "auto", "cannot read the device map none.json"),
        ("[0, 1]", "auto", r"is \[0, 1\]; expected an object such as"),
        ('{"lm_head": 1.5}', "auto", "'lm_head' is on 1.5; expected an object"),
        ('{"": "nowhere"}', "auto", "cannot be loaded: "),
    ],
)
def test_what_is_no_map_is_said(tmp_path: Path, given: str, device: str, sentence: str) -> None:
    if given[0] in "[{":
        path = tmp_path / "map.json"
        path.write_text(given)
        given = str(path)
    with pytest.raises(A2SFError, match=sentence):
        load_model("reference", device, device_map=given)


def test_an_adapter_is_not_merged_into_what_is_offloaded(plain: Any, offloaded: Any) -> None:
    check_mergeable(plain)
    with pytest.raises(A2SFError, match="--device-map has offloaded some of these; merge it beforehand"):
        check_mergeable(offloaded)


def test_accelerate_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.choices.find_spec", lambda name: None)
    with pytest.raises(
        A2SFError, match=r"--device-map needs accelerate; install it with: pip install 'a2sf-tune\[large"
    ):
        read_device_map("auto")


def test_a_search_under_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(A2SFError, match="torchrun started several processes, and a search runs in one"):
        check.check(Settings("chat", 3))

"""Which weights a run belongs to: by the files where there are some, by the tensors where not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.tuner.models import tiny
from tuner.inputs.identity import model_identity


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny("llama").save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def identity(folder: Path, dtype: str = "float32", device_map: str | None = None) -> str:
    return model_identity(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device_map))


def test_the_folder_does_not_matter_and_the_weights_do(saved: Path, tmp_path: Path) -> None:
    first = identity(saved)
    shutil.copytree(saved, tmp_path / "copy")
    assert identity(tmp_path / "copy") == first
    assert identity(saved, "bfloat16") != first
    for name in ("model.layers.2.mlp.down_proj.weight", "model.norm.weight"):
        tensors = load_file(saved / "model.safetensors")
        tensors[name] = tensors[name] + 1
        save_file(tensors, tmp_path / "copy" / "model.safetensors", {"format": "pt"})
        assert identity(tmp_path / "copy") != first


def test_tensors_that_are_not_in_memory_are_not_asked_for(saved: Path) -> None:
    assert identity(saved, device_map="meta") == identity(saved)


def test_models_made_in_memory_are_told_apart_by_their_tensors() -> None:
    one, same, other = tiny("llama"), tiny("llama"), tiny("llama")
    with torch.no_grad():
        other.model.norm.weight += 1
    assert model_identity(one) == model_identity(same) != model_identity(other)
    assert model_identity(one).startswith("LlamaForCausalLM ")

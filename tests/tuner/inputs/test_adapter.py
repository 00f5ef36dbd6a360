"""LoRA adapters: merged into the base that they were trained for, refused with a sentence elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from a2sf_core import A2SFError, Policy, attach
from tests.tuner.models import tiny
from tuner.inputs.adapter import CONFIG, WEIGHTS, adapter_identity, check_adapter, with_adapter

peft = pytest.importorskip("peft")


def trained(n_layers: int, seed: int = 0) -> Any:
    """A model of so many layers with an adapter that changes what it says."""
    base = tiny("llama", n_layers)
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return peft.get_peft_model(base, config).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    trained(3).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@torch.no_grad()
def test_the_merged_model_says_what_the_adapted_one_says_and_can_be_attached(saved: Path) -> None:
    ids = torch.arange(5, 40)[None]
    wanted, plain = trained(3)(ids).logits, tiny("llama")(ids).logits
    merged = with_adapter(tiny("llama"), saved)
    torch.testing.assert_close(merged(ids).logits, wanted, atol=1e-4, rtol=0)
    assert (merged(ids).logits - plain).abs().max() > 0.01
    with attach(Policy.h2o(3, 0.5), merged):
        merged.generate(ids, max_new_tokens=3, pad_token_id=0)


def test_another_adapter_is_another_study(saved: Path, tmp_path: Path) -> None:
    trained(3, seed=1).save_pretrained(tmp_path / "other")
    trained(3).save_pretrained(tmp_path / "same")
    assert adapter_identity(saved) == adapter_identity(tmp_path / "same") != adapter_identity(tmp_path / "other")


@pytest.mark.parametrize("n_layers", [2, 4])
def test_an_adapter_of_another_base_is_refused(tmp_path: Path, n_layers: int) -> None:
    trained(n_layers).save_pretrained(tmp_path)
    if n_layers == 2:  # fewer layers fit, but its widths may not
        with pytest.raises(A2SFError, match="is for another base"):
            with_adapter(tiny("opt"), tmp_path)
        return
    with pytest.raises(A2SFError, match=r"is for another base: its model\.layers\.3.* has no such part"):
        with_adapter(tiny("llama"), tmp_path)


def test_what_is_no_adapter_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(A2SFError, match=r"has no adapter_config\.json"):
        check_adapter(tmp_path)
    (saved / WEIGHTS).rename(saved / "adapter_model.bin")
    with pytest.raises(A2SFError, match="pickled and never opened"):
        check_adapter(saved)
    (saved / WEIGHTS).write_bytes((saved / "adapter_model.bin").read_bytes()[:100])
    with pytest.raises(A2SFError, match="damaged or cut off"):
        with_adapter(tiny("llama"), saved)
    config = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps(config | {"peft_type": "IA3"}))
    with pytest.raises(A2SFError, match="'IA3' adapter; only LORA"):
        check_adapter(saved)
    (saved / CONFIG).write_text("[")
    with pytest.raises(A2SFError, match="is not a JSON object"):
        check_adapter(saved)

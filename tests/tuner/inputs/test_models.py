"""A tiny model that loads, and every sentence about one that does not."""

import json
import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from a2sf_core import A2SFError
from studies.tokenizer import build
from tuner.inputs import model_folder
from tuner.inputs.hub import hub_blocked
from tuner.inputs.models import load_model, max_tokens, slow_type


def said(name: str | Path, **kwargs: Any) -> str:
    with pytest.raises(A2SFError) as caught:
        load_model(str(name), **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return message


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = build(30, "test")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=96,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(saved: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(saved, tmp_path / "tiny")
    return tmp_path / "tiny"


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


# Loading


def test_a_model_loads_in_eval_mode_with_its_tokenizer(saved: Path) -> None:
    model, tokenizer = load_model(str(saved))
    assert not model.training
    assert tokenizer.eos_token == "</s>"
    assert max_tokens(model, tokenizer) == 96
    with torch.no_grad():
        assert model(**tokenizer("Hello.", return_tensors="pt")).logits.shape[-1] == len(tokenizer)


def test_types(saved: Path) -> None:
    assert load_model(str(saved), device="cpu")[0].dtype == torch.float32
    assert load_model(str(saved), device="cpu", dtype="bfloat16")[0].dtype == torch.bfloat16
    assert "There is no dtype 'half'; expected one of auto, float32, bfloat16, float16." in said(saved, dtype="half")


@pytest.mark.parametrize(
    ("dtype", "capability", "slow"),
    [("float32", "AVX2", False), ("bfloat16", "AVX512", False), ("bfloat16", "AVX2", True), ("float16", "AVX2", True)],
)
def test_a_type_that_this_cpu_is_slow_in_is_told(saved: Path, dtype: str, capability: str, slow: bool) -> None:
    model, _ = load_model(str(saved), "cpu", dtype)
    assert (f"no instructions for {dtype}" in slow_type(model, capability)) == slow


def test_the_limit_is_the_tokenizers_where_the_model_has_none(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load_model(str(saved))
    monkeypatch.setattr(LlamaConfig, "get_text_config", lambda self: SimpleNamespace())
    assert max_tokens(model, tokenizer) == tokenizer.model_max_length == 2048
    tokenizer.model_max_length = int(1e30)
    assert max_tokens(model, tokenizer) == sys.maxsize


def test_the_reference_model_by_name(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(model_folder, "files", lambda package: tmp_path)
    assert "The reference model is not in" in said("reference")
    assert "python -m studies.train --out" in said("reference")
    shutil.copytree(saved, tmp_path / "reference_model")
    assert load_model("reference")[0].config.hidden_size == 16


def test_code_of_a_model_is_never_run(tiny: Path) -> None:
    configure(tiny, model_type="mine", auto_map={"AutoModelForCausalLM": "mine.Model"})
    (tiny / "mine.py").write_text("raise SystemExit('ran')")
    assert "model type 'mine' needs Python code from the model's own folder, which is never run here" in said(tiny)
    configure(tiny, model_type="llama", auto_map={"AutoModelForCausalLM": "mine.LlamaForCausalLM"})
    assert type(load_model(str(tiny))[0]) is LlamaForCausalLM


# Devices


def test_devices(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "There is no device 'gpu'; expected auto, cpu, cuda, cuda:1 (and so on) or mps." in said(saved, device="gpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "Device 'cuda:3' is not there: PyTorch sees 1 CUDA devices; use device 'cpu'" in said(saved, device="cuda:3")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "Device 'mps' is not there: it needs a Mac" in said(saved, device="mps")


def test_a_model_too_large_for_its_device(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore lines.")

    monkeypatch.setattr(LlamaForCausalLM, "to", full)
    assert "The model does not go onto device cpu: CUDA out of memory." in said(saved, device="cpu")


# Where the model is


def test_mistyped_paths(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "hub_blocked", lambda: pytest.fail("asked the Hub"))
    assert f"There is no model folder '{tiny.parent}/tinny'; did you mean '{tiny}'?" in said(tiny.parent / "tinny")
    assert "There is no model folder './nowhere'; expected a folder, a .gguf file, a Hub name" in said("./nowhere")
    assert "There is no model folder '/nowhere/at/all'" in said("/nowhere/at/all")
    assert "is a file; give the folder that holds config.json" in said(tiny / "model.safetensors")


@pytest.mark.usefixtures("no_hub")
def test_the_hub_is_out_of_reach(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    message = said("owner/model")
    assert "There is no folder 'owner/model', and the model was not downloaded before and cannot be now" in message
    assert "(127.0.0.1 does not answer: Connection refused)" in message
    assert "etry" not in capfd.readouterr().err
    assert "did you mean 'tiny'?" in said("tinny")
    assert "did you mean 'reference'?" in said("refrence")


@pytest.mark.usefixtures("no_hub")
def test_a_model_downloaded_before_loads_without_the_hub(saved: Path, tmp_path: Path) -> None:
    repository = tmp_path / "cache" / "models--owner--model"
    shutil.copytree(saved, repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    assert load_model("owner/model")[0].config.hidden_size == 16


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("RepositoryNotFoundError", "There is no model 'owner/model' on the Hub, and no folder of that name here;"),
        ("GatedRepoError", "Model 'owner/model' asks you to accept its terms: do so on its Hub page"),
        (None, "Model 'owner/model' could not be downloaded: No space left."),
    ],
)
def test_what_the_hub_says(monkeypatch: pytest.MonkeyPatch, error: str | None, expected: str) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*args: object, **kwargs: object) -> None:
        if error is None:
            raise OSError("No space left.")
        kind = getattr(errors, error)
        raise kind.__new__(kind)

    monkeypatch.setattr(model_folder, "hub_blocked", lambda: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    assert expected in said("owner/model")


def test_offline_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub_blocked() == "HF_HUB_OFFLINE is set"


@pytest.mark.usefixtures("no_hub")
def test_the_probe_finds_what_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        assert hub_blocked() is None
        # Behind a proxy the proxy is what has to answer.
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        assert hub_blocked() is None


@pytest.mark.usefixtures("no_hub")
def test_the_probe_gives_up_on_a_name_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*args: object) -> None:
        time.sleep(0.2)
        raise OSError("no answer")

    monkeypatch.setattr("tuner.inputs.hub.PROBE_SECONDS", 0.05)
    monkeypatch.setattr(socket, "create_connection", silent)
    assert hub_blocked() == "127.0.0.1 did not answer in 0.05 s"


# What is in the folder


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    assert "is no model folder: it has no config.json (it has nothing)." in said(tmp_path)
    (tmp_path / "notes.txt").touch()
    assert "(it has notes.txt)" in said(tmp_path)
    (tmp_path / "adapter_config.json").touch()
    assert "holds an adapter, not a whole model; merge it into its base model first" in said(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{", "config.json is not valid JSON"), ("[]", "must hold a JSON object"), ("{}", "no model_type None")],
)
def test_broken_config(tiny: Path, text: str, expected: str) -> None:
    (tiny / "config.json").write_text(text)
    assert expected in said(tiny)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "lama"}, "transformers knows no model_type 'lama'; did you mean 'llama'?"),
        ({"model_type": "t5"}, "'t5' is not a decoder-only language model"),
        ({"is_encoder_decoder": True}, "'llama' is not a decoder-only language model"),
        ({"model_type": "vit"}, "'vit' is not a decoder-only language model"),
        ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, "BertForMaskedLM fills gaps"),
        ({"hidden_size": "wide"}, "config.json is not a usable config: Validation error for field 'hidden_size'"),
        ({"hidden_size": 32}, "cannot be loaded"),
    ],
)
def test_unsuitable_configs(tiny: Path, changes: dict[str, Any], expected: str) -> None:
    configure(tiny, **changes)
    assert expected in said(tiny)


def test_a_config_that_may_not_be_read(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert "config.json cannot be read: Permission denied." in said(tiny)


def test_pickled_weights_are_refused(tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / "pytorch_model.bin")
    message = said(tiny)
    assert "holds its weights as pytorch_model.bin, a pickle, which can run code when it is opened" in message
    assert "save_pretrained(folder) writes safetensors" in message


def test_missing_weights(tiny: Path) -> None:
    (tiny / "model.safetensors").unlink()
    assert "has a config.json but no model.safetensors" in said(tiny)
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tiny / "model.safetensors.index.json").write_text(json.dumps(shards))
    (tiny / "model-00001-of-00002.safetensors").touch()
    assert "lacks model-00002-of-00002.safetensors, one of 2 weight files" in said(tiny)


def _cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


@pytest.mark.parametrize("spoil", [_cut_off, _empty])
def test_damaged_weights(tiny: Path, spoil: Callable[[Path], None]) -> None:
    spoil(tiny)
    assert "are damaged or cut off" in said(tiny)


def test_weights_of_another_model_are_not_filled_with_random_numbers(tiny: Path) -> None:
    configure(tiny, num_hidden_layers=2)
    message = said(tiny)
    assert "of the model's tensors, such as 'model.layers.1." in message


def test_no_tokenizer(tiny: Path) -> None:
    (tiny / "tokenizer.json").unlink()
    assert "has no tokenizer (expected tokenizer.json or tokenizer.model)" in said(tiny)


def test_a_broken_tokenizer(tiny: Path) -> None:
    (tiny / "tokenizer.json").write_text('{"version": "1.0"}')
    assert f"The tokenizer in {tiny} cannot be read" in said(tiny)


def test_a_tokenizer_of_another_model(tiny: Path) -> None:
    build(30, "test").save_pretrained(tiny)
    larger = build(30, "test")
    larger.add_tokens(["extra"])
    larger.save_pretrained(tiny)
    assert "they do not belong together; copy the tokenizer files that came with the model." in said(tiny)

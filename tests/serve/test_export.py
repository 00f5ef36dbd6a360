"""What is exported is served by unmodified transformers, and prunes there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from a2sf_core import A2SFConfig, A2SFError, Policy, attach
from a2sf_core.shape import fingerprint
from tests.tuner.tracking.servers import free_port
from tuner.serving.export import export_transformers

from .conftest import POLICY, TEMPLATE
from .offline import written, written_text

MOST = 12


@pytest.fixture(scope="module")
def exported(config: Path, chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "served"
    command = [sys.executable, "-m", "tuner.cli", "export", str(config), str(folder), "--model", str(chat_model)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == str(folder)
    return folder


def test_a_loaded_folder_prunes(exported: Path, reference: tuple[Any, Any], prompts: list[str]) -> None:
    model, tokenizer = reference
    loaded = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True, dtype=torch.float32).eval()
    ids = tokenizer(prompts[0], return_tensors="pt").input_ids
    n = ids.shape[1]
    settings: dict[str, Any] = {"max_new_tokens": MOST, "do_sample": False}
    expected = written(model, POLICY, ids[0].tolist(), MOST)
    assert loaded.generate(ids, **settings)[0, n:].tolist() == expected
    assert loaded.generate(inputs=ids, **settings)[0, n:].tolist() == expected
    tiny = Policy.h2o(4, 4)
    with attach(tiny, loaded):  # whoever attaches wants that policy
        assert loaded.generate(ids, **settings)[0, n:].tolist() == written(model, tiny, ids[0].tolist(), MOST)
    assert loaded.config._attn_implementation != "a2sf"


def test_links_or_copies_and_an_earlier_export_is_replaced(config: Path, chat_model: Path, tmp_path: Path) -> None:
    linked = export_transformers(config, tmp_path / "a", str(chat_model))
    weights = linked / "model.safetensors"
    assert weights.is_symlink()
    assert weights.resolve() == chat_model / "model.safetensors"
    export_transformers(config, tmp_path / "a", str(chat_model), copy=True)
    assert not weights.is_symlink()
    assert weights.read_bytes() == (chat_model / "model.safetensors").read_bytes()
    assert A2SFConfig.from_pretrained(linked).policy == POLICY


def test_what_cannot_be_exported_is_said(config: Path, chat_model: Path, small_other: Path, tmp_path: Path) -> None:
    with pytest.raises(A2SFError, match="is the model itself"):
        export_transformers(config, chat_model, str(chat_model))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(A2SFError, match="holds something else"):
        export_transformers(config, tmp_path / "full", str(chat_model))
    with pytest.raises(A2SFError, match="tuned for another model: n_layers is 4, not 3"):
        export_transformers(small_other, tmp_path / "new", str(chat_model))
    assert not (tmp_path / "new").exists()


@pytest.fixture
def small_other(reference: tuple[Any, Any], tmp_path: Path) -> Path:
    """A config for a model of three layers."""
    shape = {**fingerprint(reference[0]), "n_layers": 3}
    return A2SFConfig(shape, "chat", Policy.full(3)).save_pretrained(tmp_path / "other")


@pytest.fixture(scope="module")
def address(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`transformers serve` in a process of its own."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(exported), "--trust-remote-code",
               "--device", "cpu", "--dtype", "float32", "--port", str(port)]  # fmt: skip
    log = tmp_path_factory.mktemp("transformers") / "log"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        try:
            for _ in range(3000):
                assert process.poll() is None, log.read_text()
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(300)


def test_transformers_serve_prunes(
    address: str, exported: Path, reference: tuple[Any, Any], prompts: list[str]
) -> None:
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=300)
    model, tokenizer = reference
    questions = [prompt.removesuffix("\nAnswer:") for prompt in prompts[:4]]

    def given(question: str, name: str = str(exported)) -> dict[str, Any]:
        messages = [{"role": "user", "content": question}]
        settings = json.dumps({"do_sample": False, "max_new_tokens": MOST})
        return {"model": name, "messages": messages, "extra_body": {"generation_config": settings}}

    def asked(question: str) -> str:
        chunks = client.chat.completions.create(**given(question), stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    def unserved(question: str) -> str:
        tokenizer.chat_template = TEMPLATE
        chat: Any = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        tokenizer.chat_template = None
        return written_text((model, tokenizer), POLICY, ids, MOST)

    expected = [unserved(question) for question in questions]
    whole = client.chat.completions.create(**given(questions[0])).choices[0].message.content
    assert whole == expected[0]
    stream = client.chat.completions.create(**given(questions[1]), stream=True)
    next(iter(stream))
    stream.close()  # cancelled; the next ones are answered
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(asked, questions)) == expected
    with pytest.raises(openai.APIStatusError):
        client.chat.completions.create(**given(questions[0], "no/such-model"))

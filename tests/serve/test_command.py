"""The command itself: who may come in, how it ends, and what it says of bad options."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from a2sf_core import Policy
from tests.calls import run_here
from tuner.serving import command

from .offline import written
from .process import TOKEN, run, running

NAME = "a2sf-test"


def test_on_loopback_without_a_token_and_sigterm_lets_a_stream_end(tmp_path: Path, prompts: list[str]) -> None:
    with running(tmp_path, "--model", "reference", "--no-token", "--name", NAME, token=None) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, max_retries=0, timeout=300)
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "hi"}])
        given: dict[str, Any] = {"model": NAME, "prompt": prompts[0], "temperature": 2, "seed": 1}
        stream = iter(client.completions.create(**given, max_tokens=300, stream=True))
        first = next(stream).choices[0].text
        assert server.stop() == 0
        text = first + "".join(chunk.choices[0].text for chunk in stream)
        assert len(text) > len(first)
        with pytest.raises(openai.APIConnectionError):
            client.completions.create(**given)


def test_from_elsewhere_a_token_is_needed(config: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells this machine's own address
        here = probe.getsockname()[0]
    options = ["--model", "reference", "--config", str(config), "--no-token", "--host", "0.0.0.0"]
    with running(tmp_path, *options) as server:
        port = server.url.rsplit(":", 1)[1]
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"][0]["id"] == "reference"
        assert httpx.get(f"http://{here}:{port}/v1/models").status_code == 401
        assert httpx.get(f"http://{here}:{port}/v1/models", headers={"X-Forwarded-For": "127.0.0.1"}).status_code == 401
        assert (
            httpx.get(f"http://{here}:{port}/v1/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code
            == 200
        )


@pytest.mark.parametrize(
    ("options", "token", "said"),
    [
        (["--model", "reference"], None, "there is no token"),
        (["--model", "reference", "--no-token", "--host", "0.0.0.0"], None, "--no-token is for loopback"),
        (["--model", "reference", "--config", "nowhere"], "x", "cannot read the policy nowhere"),
        (["--model", "reference", "--shadow"], "x", "give it with --config"),
        (["--model", "reference", "--shadow", "--config", "c", "--canary", "d"], "x", "leave --canary out"),
        (["--model", "nowhere"], "x", "nowhere"),
        (["--model", "reference", "--memory", "much"], "x", "--memory is 'much'"),
        (["--model", "reference", "--host", "192.0.2.1"], "x", "cannot listen on 192.0.2.1"),
    ],
    ids=lambda each: "",
)
def test_a_bad_command_is_one_sentence(
    options: list[str], token: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A2SF_SERVE_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("A2SF_SERVE_TOKEN", token)
    code, stdout, stderr = run_here(command.main, *options, "--port", "0")
    assert (code, stdout) == (2, "")
    assert said in stderr
    assert len(stderr.splitlines()) == 1, stderr


def test_a_bad_command_in_a_process_of_its_own() -> None:
    result = run("--model", "reference")
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1), result.stderr
    assert "there is no token" in result.stderr


def test_a_shadow_answers_from_the_full_cache(
    config: Path, tmp_path: Path, reference: tuple[Any, Any], undecided: str
) -> None:
    model, tokenizer = reference
    hot = {"temperature": 1.5, "seed": 3}
    tokens = written(model, Policy.full(4), tokenizer(undecided).input_ids, 16, **hot)
    with running(tmp_path, "--model", "reference", "--config", str(config), "--shadow") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, max_retries=0, timeout=300)
        answer = client.completions.create(model="reference", prompt=undecided, max_tokens=16, **hot)  # type: ignore[call-overload]
        assert answer.choices[0].text == tokenizer.decode(tokens, skip_special_tokens=True)
        shown = server.metrics()
        assert f"a2sf_shadow_tokens_total {len(tokens) - 1:.1f}" in shown

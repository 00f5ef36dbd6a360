"""The real server in a process of its own, asked by the real openai client."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import POLICY
from .offline import written, written_text
from .process import TOKEN, Server, running, until

MOST = 24
NAME = "a2sf-test"


@pytest.fixture(scope="module")
def server(config: Path, chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ["--model", str(chat_model), "--config", str(config), "--name", NAME]
    limits = ["--memory", "64MiB", "--max-body", "9000", "--piece", "64"]
    with running(tmp_path_factory.mktemp("server"), *options, *limits) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, max_retries=0, timeout=300)


def value(server: Server, name: str) -> float:
    """One figure of /metrics, summed over its labels."""
    text = server.metrics()
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples if each.name == name]
    assert samples, name
    return sum(each.value for each in samples)


def _authorized() -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}"}


def post(server: Server, path: str = "completions", **body: Any) -> httpx.Response:
    given = {"model": NAME, "prompt": "Anna: hi", "max_tokens": 2, **body}
    return httpx.post(f"{server.url}/v1/{path}", json=given, headers=_authorized(), timeout=300)


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.0}, {"temperature": 0.8, "top_p": 0.9, "seed": 5}], ids=["greedy", "with a seed"]
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_eight_clients_get_what_is_written_offline(
    client: openai.OpenAI, reference: tuple[Any, Any], prompts: list[str], sampling: dict[str, Any], stream: bool
) -> None:
    model, tokenizer = reference

    def asked(prompt: str) -> str:
        given = {"model": NAME, "prompt": prompt, "max_tokens": MOST, **sampling}
        if not stream:
            return client.completions.create(**given).choices[0].text
        return "".join(chunk.choices[0].text for chunk in client.completions.create(**given, stream=True))

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(asked, prompts))
    offline = {} if sampling["temperature"] == 0 else sampling
    expected = [written(model, POLICY, tokenizer(prompt).input_ids, MOST, **offline) for prompt in prompts]
    assert texts == [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in expected]
    assert asked(prompts[0]) == texts[0], "alone as in a batch"


def test_usage_says_what_the_cache_kept(client: openai.OpenAI, prompts: list[str]) -> None:
    prompt = max(prompts, key=len)
    given: dict[str, Any] = {"model": NAME, "prompt": prompt, "max_tokens": 6, "temperature": 0}
    whole = client.completions.create(**given).usage
    *_, last = client.completions.create(**given, stream=True, stream_options={"include_usage": True})
    assert whole is not None
    assert last.usage == whole
    cache = whole.model_dump()["cache_tokens"]
    assert cache["full"] == whole.total_tokens - 1  # the last token was written, and not read
    assert 0.4 * cache["full"] < cache["kept"] < 0.8 * cache["full"]


def test_stop_ends_the_text(client: openai.OpenAI, prompts: list[str]) -> None:
    given: dict[str, Any] = {"model": NAME, "prompt": prompts[0], "max_tokens": MOST, "temperature": 0}
    text = client.completions.create(**given).choices[0].text
    stop = text[len(text) // 2 :][:4]
    stopped = client.completions.create(**given, stop=[stop, "never"]).choices[0]
    assert (stopped.text, stopped.finish_reason) == (text[: text.index(stop)], "stop")
    streamed = client.completions.create(**given, stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == stopped.text


def test_models_and_what_is_not_served(client: openai.OpenAI, server: Server, config: Path) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "a2sf"
    for name in (str(config), "../" + NAME, "/etc/passwd", "reference", "HuggingFaceTB/SmolLM2-135M"):
        with pytest.raises(openai.NotFoundError, match="is not served"):
            client.completions.create(model=name, prompt="x")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("../../etc/passwd")
    assert str(config) not in post(server, model=str(config)).text


def test_without_the_token_nobody_comes_in(server: Server, client: openai.OpenAI) -> None:
    for key in ("", "wrong", TOKEN + "x", "\xe4"):
        for path in ("/v1/models", "/metrics", "/v1/nothing"):
            headers = [(b"Authorization", f"Bearer {key}".encode("latin-1"))] if key else []
            assert httpx.get(server.url + path, headers=headers).status_code == 401
    with pytest.raises(openai.AuthenticationError, match="a token is needed"):
        client.with_options(api_key="wrong").models.list()
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"temperature": 3}, "temperature: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"max_tokens": "2"}, "max_tokens: "),
        ({"n": 2}, "n: "),
        ({"logprobs": 3}, "logprobs: "),
        ({"tools": []}, "tools: is not supported"),
        ({"presence_penalty": 0.5}, "presence_penalty: "),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"seed": 2**70}, "64 bits|integer"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [99999]}, "prompt: tokens are numbers from 0 to"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1] * 2049}, "takes 2,048 tokens"),
        ({"max_tokens": 3000}, "takes 2,048 tokens: the prompt has"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_a_bad_request_is_told_what_is_wrong(server: Server, body: dict[str, Any], said: str) -> None:
    answer = post(server, **body)
    assert answer.status_code == 400, answer.text
    assert re.search(said, answer.json()["error"]["message"]), answer.text


def test_bodies_that_are_none(server: Server) -> None:
    url, headers = f"{server.url}/v1/completions", {**_authorized(), "Content-Type": "application/json"}
    for raw in (b"", b"{", b"[]", b"\xff", b"null", b'{"model": NaN}', b"[" * 5000, b'{"prompt": "\\ud800"}'):
        assert httpx.post(url, content=raw, headers=headers).status_code == 400, raw
    assert httpx.post(url, content=b" " * 9001, headers=headers).status_code == 413
    assert httpx.post(url, content=iter([b" " * 5000] * 3), headers=headers).status_code == 413
    assert httpx.post(url, content=b"{}", headers=_authorized()).status_code == 415
    assert httpx.get(url, headers=headers).status_code == 405
    assert post(server, "chat/completions", prompt=None).status_code == 400


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_chat_goes_through_the_template(client: openai.OpenAI, reference: tuple[Any, Any], stream: bool) -> None:
    parts = [{"type": "text", "text": "When is "}, {"type": "text", "text": "the picnic?"}]
    messages: Any = [{"role": "developer", "content": "The picnic is on Friday."}, {"role": "user", "content": parts}]
    given: dict[str, Any] = {"model": NAME, "messages": messages, "max_completion_tokens": 9, "temperature": 0}
    if stream:
        chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**given, stream=True)]
        text = "".join(chunk.delta.content or "" for chunk in chunks)
        assert [chunks[0].delta.role, *{chunk.delta.role for chunk in chunks[1:]}] == ["assistant", None]
        assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].finish_reason in ("stop", "length")
    else:
        message = client.chat.completions.create(**given).choices[0].message
        text = message.content or ""
        assert message.role == "assistant"
    model, tokenizer = reference
    ids = tokenizer("system: The picnic is on Friday.\nuser: When is the picnic?\nAnswer:", add_special_tokens=False)
    assert text == written_text((model, tokenizer), POLICY, ids.input_ids, 9)
    assert text


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "messages"),
        ([{"role": "assistant", "content": "hi"}], "refuses them.*begins with the user"),
        ([{"role": "tool", "content": "hi"}], "messages.0.role"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages.0.content"),
    ],
    ids=["none", "template", "role", "image"],
)
def test_a_chat_that_cannot_be_read_is_refused(client: openai.OpenAI, messages: Any, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        client.chat.completions.create(model=NAME, messages=messages)


def test_clients_that_go_away_free_their_rows(server: Server, client: openai.OpenAI, prompts: list[str]) -> None:
    before = value(server, "a2sf_requests_total")
    given: dict[str, Any] = {"model": NAME, "prompt": prompts[0], "max_tokens": 1500, "temperature": 2, "seed": 1}
    for _ in range(3):
        stream = client.completions.create(**given, stream=True)
        next(iter(stream))
        stream.close()
    for cut_off in (
        b"{}",
        json.dumps({**given, "stream": False}).encode(),
        json.dumps({**given, "stream": True}).encode(),
    ):
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as raw:  # and is gone without a word, like a killed process
            raw.sendall(
                f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(cut_off)}\r\n\r\n".encode()
                + cut_off
            )
            time.sleep(0.2)
    until(lambda: value(server, "a2sf_requests_total") >= before + 5)
    until(
        lambda: value(server, "a2sf_running") + value(server, "a2sf_waiting") + value(server, "a2sf_cache_bytes") == 0
    )


def test_metrics_and_a_log_without_prompts(server: Server, prompts: list[str]) -> None:
    assert value(server, "a2sf_cache_kept_tokens_total") < value(server, "a2sf_cache_full_tokens_total")
    assert value(server, "a2sf_first_token_seconds_count") > 8
    assert value(server, "a2sf_refused_total") > 8
    assert value(server, "a2sf_cache_limit_bytes") == 64 * 2**20
    log = server.log.read_text()
    assert not any(word in log for prompt in prompts for word in prompt.split() if len(word) > 5), log

"""The real server while the configs under it are replaced, damaged and mended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from a2sf_core import A2SFConfig, Policy
from a2sf_core.serve.served import Served

from .conftest import POLICY, TINY
from .offline import written_text
from .process import TOKEN, Server, running, until

MOST = 16
HOT: dict[str, Any] = {"temperature": 1.5, "seed": 3}


@pytest.fixture(scope="module")
def folder(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the served config lies, `canary/` beside it."""
    folder = tmp_path_factory.mktemp("watched")
    shutil.copy(config / "a2sf_config.json", folder)
    replace(A2SFConfig.from_pretrained(config), policy=TINY).save_pretrained(folder / "canary")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    options = ["--config", str(folder), "--canary", str(folder / "canary"), "--canary-share", "0.5"]
    with running(folder, "--model", "reference", *options) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, max_retries=0, timeout=300)


def asked(client: openai.OpenAI, prompt: str) -> tuple[str, str, str]:
    """Role and version of what answered, and the text."""
    given: dict[str, Any] = {"model": "reference", "prompt": prompt, "max_tokens": MOST, **HOT}
    answer = client.completions.with_raw_response.create(**given)
    role, version = answer.headers["A2SF-Config"].split()
    return role, version, answer.parse().choices[0].text


def versions(client: openai.OpenAI, prompt: str) -> dict[str, tuple[str, str]]:
    """Version and text by role, of as many requests as both roles take."""
    found: dict[str, tuple[str, str]] = {}
    for _ in range(200):
        role, *rest = asked(client, prompt)
        found[role] = (rest[0], rest[1])
        if len(found) == 2:
            return found
    pytest.fail(f"one of the two never answered: {found}")


def unserved(reference: tuple[Any, Any], policy: Policy, prompt: str) -> str:
    return written_text(reference, policy, reference[1](prompt).input_ids, MOST, **HOT)


def test_a_new_config_answers_and_a_bad_one_is_refused_while_the_old_goes_on(
    server: Server, client: openai.OpenAI, folder: Path, reference: tuple[Any, Any], undecided: str
) -> None:
    prompt, file = undecided, folder / "a2sf_config.json"
    old = A2SFConfig.from_pretrained(file)
    expected = {policy: unserved(reference, policy, prompt) for policy in (POLICY, TINY, Policy.full(4))}
    assert len(set(expected.values())) == 3
    before = versions(client, prompt)
    assert before["stable"] == (Served.of(old).version, expected[POLICY])
    assert before["canary"][1] == expected[TINY]
    assert (
        f'a2sf_config_info{{config="stable",source="{folder}",version="{before["stable"][0]}"}} 1.0' in server.metrics()
    )

    replace(old, policy=Policy.full(4)).save_pretrained(folder)
    until(lambda: 'a2sf_config_reloads_total{config="stable",outcome="loaded"} 1.0' in server.metrics())
    after = versions(client, prompt)
    assert after["stable"][1] == expected[Policy.full(4)]
    assert after["stable"][0] != before["stable"][0]
    assert after["canary"] == before["canary"]

    bad = old.to_dict()
    bad["policy"]["layers"][0]["budgett"] = 3
    other = old.to_dict() | {"model": old.model | {"vocab_size": 50_000}}
    said = [("{", "not valid JSON"), (json.dumps(bad), "did you mean 'budget'"), (json.dumps(other), "another model")]
    for count, (text, why) in enumerate(said, 1):
        file.write_text(text)
        refused = f'a2sf_config_reloads_total{{config="stable",outcome="refused"}} {count}.0'
        until(lambda refused=refused: refused in server.metrics())  # type: ignore[misc]
        (line,) = [line for line in server.metrics().splitlines() if line.startswith("a2sf_config_refused{")]
        assert why in line
        log = [line for line in server.log.read_text().splitlines() if why in line]
        assert len(log) == 1
        assert log[0].endswith(f"Version {after['stable'][0]} goes on.")
        assert versions(client, prompt) == after

    old.save_pretrained(folder)
    until(lambda: "a2sf_config_refused{" not in server.metrics())
    assert versions(client, prompt) == before
    assert server.stop() == 0

"""Who comes in, and how much they may bring: real sockets against a real process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from a2sf_core.errors import A2SFError
from tests.tuner.service.conftest import MOST_UPLOAD, Service, serving
from tuner import cli


def test_without_a_token_only_the_page_and_the_health_answer(service: Service) -> None:
    for path in ("/v1/studies", "/v1/me", "/v1/samples", "/metrics", "/v1/nothing", "/nothing"):
        for token in (None, "x y", "wrong", service.tokens["anna"][:-1], "\xe4"):
            headers = {} if token is None else {"Authorization": f"Bearer {token}".encode("latin-1")}
            answer = service.get(None, path, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.headers["content-type"] == "application/problem+json"
    for path in ("/", "/healthz", "/openapi.json", "/page/page.js"):
        assert service.get(None, path).status_code == 200


def test_a_path_names_all_methods_that_it_has(service: Service) -> None:
    for path, allowed in (
        ("/v1/studies", "GET, POST"),
        (f"/v1/studies/{15 * 'ab'}", "DELETE, GET"),
        ("/healthz", "GET"),
    ):
        answer = service.ask("anna", "PUT", path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_signing_in_gives_a_cookie_that_no_other_site_can_use(service: Service) -> None:
    assert service.post(None, "/session", {"token": "wrong"}).status_code == 401
    signed_in = service.post(None, "/session", {"token": service.tokens["anna"]})
    cookie = signed_in.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    jar = {"Cookie": cookie.partition(";")[0]}
    assert service.get(None, "/v1/me", headers=jar).json()["owner"] == "anna"
    body = {"task": "chat", "trials": 0}
    for origin, status in (
        (service.url, 422),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://127.0.0.1:1", 403),
    ):
        assert service.post(None, "/v1/studies", body, headers={**jar, "Origin": origin}).status_code == status, origin
    assert service.ask(None, "DELETE", "/session", headers=jar).headers["set-cookie"].startswith('a2sf_token="";')


def test_the_page_may_run_its_own_scripts_only(service: Service) -> None:
    page = service.get(None, "/")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "http" not in page.text, "nothing comes from elsewhere"


def test_an_upload_over_the_limit_is_cut_off_early(service: Service) -> None:
    head = (
        "POST /v1/samples?name=a.jsonl HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
        f"Authorization: Bearer {service.tokens['anna']}\r\n"
    )
    with connected(service) as client:  # says beforehand that it is too long
        client.sendall(f"{head}Content-Length: 10000000000\r\n\r\n".encode())
        assert client.recv(4096).startswith(b"HTTP/1.1 413")
    sent = 0
    with connected(service) as client, suppress(OSError):  # does not say, and never ends
        client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        while sent < 1000 * MOST_UPLOAD:
            client.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            sent += 65536
    assert 0 < sent < 50 * MOST_UPLOAD, "what fits into the buffers between us, and no more"
    assert list((service.data / "samples").iterdir()) == []
    assert service.get("anna", "/v1/samples").json() == []


def test_a_body_over_the_limit_or_of_another_kind_is_refused(service: Service) -> None:
    for path in ("/v1/studies", "/v1/validations", "/v1/suggest"):
        long = service.ask("anna", "POST", path, content=b" " * 1_000_001, headers={"Content-Type": "application/json"})
        assert long.status_code == 413
        form = service.ask("anna", "POST", path, content=b"{}", headers={"Content-Type": "text/plain"})
        assert form.status_code == 415
        for raw in (b"", b"{", b"[]", b"\xff", b"null", b'{"task": NaN}', b"[" * 5000, b'{"task": "\\ud800"}'):
            bad = service.ask("anna", "POST", path, content=raw, headers={"Content-Type": "application/json"})
            assert bad.status_code in (400, 422), raw
    assert service.upload("anna", "a.jsonl", b"").status_code == 201, "an empty one is refused when it is read"


def test_an_upload_that_breaks_off_leaves_nothing(service: Service) -> None:
    there = len(list((service.data / "samples").iterdir()))
    with connected(service) as client:
        client.sendall(
            b"POST /v1/samples?name=b.jsonl HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
            + f"Authorization: Bearer {service.tokens['bert']}\r\nContent-Length: 1000\r\n\r\nhalf".encode()
        )
    for _ in range(1200):
        if len(list((service.data / "samples").iterdir())) == there:
            break
        time.sleep(0.1)
    else:
        pytest.fail("its folder is still there after two minutes")
    assert service.get("bert", "/v1/samples").json() == []


def test_this_machine_needs_no_token_where_that_is_said_and_other_names_do(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--no-token", owners=()) as here:
        assert here.get(None, "/v1/me").json()["owner"] == "local"
        rebound = here.get(None, "/v1/me", headers={"Host": "evil.example"})
        assert rebound.status_code == 403, "a page of another site that its name server sends here"
        other = here.post(None, "/v1/studies", {"task": "x"}, headers={"Origin": "http://evil.example"})
        assert other.status_code == 403
        assert here.get(None, "/v1/me", headers={"Authorization": "Bearer wrong"}).status_code == 401


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tuner.cli", *words], capture_output=True, text=True, timeout=300)


def test_tokens_are_made_shown_once_and_revoked(tmp_path: Path) -> None:
    data = tmp_path / "data"
    token = CliRunner().invoke(cli.app, ["token", "carla", "--data", str(data)]).stdout.strip()
    assert token.startswith("a2sf_")
    assert token.encode() not in (data / "service.db").read_bytes()
    with serving(data, owners=()) as found:
        assert found.get(None, "/v1/me", headers={"Authorization": f"Bearer {token}"}).json()["owner"] == "carla"
        revoked = CliRunner().invoke(cli.app, ["token", "carla", "--revoke", "--data", str(data)]).stdout
        assert "1 token(s) of carla revoked" in revoked
        # Whatever was remembered is forgotten after 10 s; the table is asked for what was not.
        assert found.post(None, "/session", {"token": token}).status_code == 401


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("serve", "--no-token", "--host", "0.0.0.0"), "there is no token yet"),
        (("serve", "--no-token", "--models", "nowhere"), "--models nowhere is no folder"),
        (("serve", "--no-token", "--host", "192.0.2.1"), "cannot listen on 192.0.2.1"),
        (("serve", "--database", "mysql://x@y/z"), "--database is for 'mysql'"),
        (("serve", "--max-upload", "much"), "--max-upload is 'much'; expected a size above 0"),
        (("token", "../x"), "has no usable name"),
        (("token", "nobody", "--revoke"), "there is no token of 'nobody'"),
        (("worker", "--database", "nonsense"), "no address of a database"),
    ],
    ids=lambda each: "",
)
def test_a_bad_command_is_one_sentence(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    given = [*words, "--data", str(tmp_path / "data"), *(("--port", "0") if words[0] == "serve" else ())]
    result = CliRunner().invoke(cli.app, given)
    assert isinstance(result.exception, A2SFError), result.exception
    assert said in str(result.exception)
    assert result.stdout == ""


def test_a_bad_command_ends_with_2_and_one_line(tmp_path: Path) -> None:
    result = command("serve", "--data", str(tmp_path / "data"), "--port", "0")
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert "there is no token yet: make one with `a2sf-tune token OWNER`" in result.stderr


def connected(service: Service) -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)), timeout=300)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    return client


def test_the_description_names_every_route_and_has_examples(service: Service) -> None:
    described = json.loads(service.get(None, "/openapi.json").text)
    assert len(described["paths"]) >= 14
    assert described["components"]["schemas"]["StudySpec"]["examples"]
    for path, methods in described["paths"].items():
        for method, told in methods.items():
            assert told.get("description"), (method, path)
            if path != "/healthz":
                assert told["security"], (method, path)
                assert "401" in told["responses"], (method, path)

"""The service as a program meets it: a real process, asked over HTTP."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from a2sf_core import A2SFConfig
from tests.tuner.conftest import ROWS, Finished

from .conftest import Service

pytestmark = pytest.mark.long

GOOD: dict[str, Any] = {"task": "knowledge", "trials": 30, "max_degradation": 60}


def test_a_study_is_put_in_looked_at_listed_and_cancelled(service: Service) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)
    sent = service.upload("anna", "my lamps.jsonl", rows)
    assert sent.status_code == 201, sent.text
    samples = sent.json()["id"]
    assert [each["name"] for each in service.get("anna", "/v1/samples").json()] == ["my lamps.jsonl"]
    made = service.post("anna", "/v1/studies", {**GOOD, "samples": samples, "name": "lamps"})
    assert made.status_code == 201, made.text
    place = made.headers["Location"]
    found = service.get("anna", place).json()
    assert (found["state"], found["name"], found["front"], found["error"]) == ("queued", "lamps", [], "")
    assert service.get("anna", "/v1/studies").json()["studies"][0]["id"] == found["id"]
    assert service.get("anna", f"{place}/front").json() == {"trials": [], "picture": None}
    assert "is queued" in service.get("anna", f"{place}/config").json()["detail"]
    assert service.ask("anna", "DELETE", f"/v1/samples/{samples}").status_code == 409
    cancelled = service.ask("anna", "DELETE", place)
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    folder = service.data / "studies" / found["id"]
    folder.mkdir(exist_ok=True)
    assert service.ask("anna", "DELETE", place).status_code == 202
    assert service.get("anna", place).status_code == 404
    assert not folder.exists()
    assert service.ask("anna", "DELETE", f"/v1/samples/{samples}").status_code == 204
    assert list((service.data / "samples").iterdir()) == []


def test_yaml_says_the_same_and_may_hold_a_task(service: Service) -> None:
    body = "task:\n  include: chat.yaml\n  title: Mine\ntrials: 30\nname: in YAML\n"
    kind = {"Content-Type": "application/yaml"}
    made = service.ask("anna", "POST", "/v1/studies", content=body, headers=kind)
    assert made.status_code == 201, made.text
    task = service.data / "studies" / made.json()["id"] / "task.yaml"
    assert json.loads(task.read_text()) == {"include": "chat.yaml", "title": "Mine"}
    broken = service.ask("anna", "POST", "/v1/studies", content="task: [", headers=kind)
    assert (broken.status_code, broken.headers["content-type"]) == (400, "application/problem+json")
    assert "line" in broken.json()["detail"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"task": "sumarisation"}, "did you mean 'summarisation'?"),
        ({"task": "chat", "trails": 3}, "did you mean 'trials'"),
        ({"task": "chat", "trials": 0}, "trials"),
        ({"task": "chat", "trials": "3"}, "trials"),
        ({"task": "chat", "family": "grups"}, "--family is 'grups'; did you mean 'groups'?"),
        ({"task": "chat", "model": "referense"}, "did you mean 'reference'?"),
        ({"task": {"include": "chat.yaml", "promt": "x"}}, "there is no field 'promt'; did you mean 'prompt'?"),
        ({"task": {"include": "chat.yaml", "metric": "os:system"}}, "is code, which is not taken from a request"),
        ({"task": {"include": "chat.yaml", "metric": {"a": 1}}}, "field 'metric'"),
        (
            {"task": "chat", "data": "good.jsonl", "columns": {"answer": "anser"}},
            "did you mean --column answer=answer?",
        ),
        ({"task": "chat", "samples": 15 * "ab"}, "You have no samples"),
        ({"task": "chat", "warm_start": [15 * "ab"]}, "you have no study"),
        ({"task": "chat", "data": "good.jsonl", "samples": 15 * "ab"}, "keep one"),
        ({"task": "knowledge", "rules": ["learned"]}, "--rule learned needs another rule"),
    ],
    ids=lambda each: "",
)
@pytest.mark.parametrize("path", ["/v1/studies"])
def test_bad_input_is_the_command_lines_sentence(service: Service, path: str, body: dict[str, Any], said: str) -> None:
    before = sorted((service.data / "studies").iterdir())
    answer = service.post("anna", path, body)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert said in problem["detail"]
    assert (problem["status"], answer.headers["content-type"]) == (422, "application/problem+json")
    assert sorted((service.data / "studies").iterdir()) == before, "nothing is left of it"


PATHS = [
    "/etc/passwd",
    "../secret.jsonl",
    "good/../../secret.jsonl",
    "link.jsonl",
    ".",
    "..\\secret.jsonl",
    "a\0b",
    "~",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out_of_the_allowed_folders(service: Service, path: str) -> None:
    for body in ({"data": path}, {"model": path}, {"model": "reference", "adapter": path}):
        answer = service.post("anna", "/v1/studies", {"task": "chat", **body})
        assert answer.status_code == 422
        assert "here" in answer.json()["detail"]
        assert "secret" not in answer.json()["detail"].replace(path, "").replace(repr(path), "")
    include = service.post("anna", "/v1/studies", {"task": {"include": path}})
    assert "here a task may include chat.yaml" in include.json()["detail"]
    named = service.upload("anna", path if path.endswith(".jsonl") else f"{path}.jsonl", "x")
    assert named.status_code == 422 or named.json()["name"] in ("link.jsonl", "..jsonl"), named.text
    assert service.post("anna", "/v1/studies", {"task": path}).status_code == 422


def test_no_address_leads_to_another_file(service: Service, study: str) -> None:
    for name in (
        "..%2fstudy.journal",
        "study.journal",
        "%2e%2e/%2e%2e/service.db",
        "..%2f..%2fservice.db",
        "task.yaml",
    ):
        assert service.get("anna", f"/v1/studies/{study}/files/{name}").status_code in (404, 405, 422), name
    for path in ("/page/..%2fcommand.py", "/page/%2e%2e/command.py", "/page//etc/passwd", f"/v1/studies/..%2f{study}"):
        answer = service.get("anna", path)
        assert answer.status_code in (404, 422), (path, answer.text)


def test_what_a_finished_study_leaves(service: Service, study: str, finished: Finished, tmp_path: Path) -> None:
    place = f"/v1/studies/{study}"
    found = service.get("anna", place).json()
    assert found["state"] == "done"
    assert found["result"]["verdict"] == finished.result.sentence
    assert found["front"] == sorted(found["front"], key=lambda point: point["cache_fraction"])
    assert len(found["front"]) >= 2
    (tmp_path / "a2sf_config.json").write_bytes(service.get("anna", f"{place}/config").content)
    assert A2SFConfig.from_pretrained(tmp_path).policy == finished.result.outcome.exported.policy
    report = service.get("anna", f"{place}/report")
    assert (report.json()["verdict"], report.headers["content-type"]) == (finished.result.sentence, "application/json")
    assert set(found["files"]) >= {"pareto.png", "pareto.html", "half_life.png", "profile.png", "profile.json"}
    picture = service.get("anna", f"{place}/files/pareto.png")
    assert picture.content.startswith(b"\x89PNG")
    page = service.get("anna", f"{place}/files/pareto.html")
    assert page.headers["content-security-policy"].startswith("sandbox allow-scripts;")
    front = service.get("anna", f"{place}/front").json()
    assert len(front["trials"]) == 26
    drawn = front["picture"]
    assert drawn["allowed"]["text"] == "allowed: at most 60 points lost"
    assert [mark["chosen"] for mark in drawn["proven"]][-1] is True
    low, high = drawn["y_range"]
    assert all(low <= each["y"] <= high and 0 < each["x"] <= 100 for each in drawn["dots"])


def test_suggest_says_what_the_command_says(service: Service, study: str, finished: Finished) -> None:
    model = finished.result.alpha
    low, high = model.tokens_range
    for tokens in (low, high, high + 1, 10**6):
        said = service.post("anna", "/v1/suggest", {"study": study, "tokens": tokens}).json()
        half_life, remark = model.suggest(tokens)
        assert (said["half_life"], said["remark"]) == (half_life, remark)
        assert said["tokens_range"] == [low, high]
        assert said["in_range"] is (tokens <= high)
    for body in ({"study": study, "tokens": 0}, {"study": "x", "tokens": 3}, {"study": study}):
        assert service.post("anna", "/v1/suggest", body).status_code == 422
    assert service.post("anna", "/v1/suggest", {"study": 15 * "ab", "tokens": 3}).status_code == 404


def test_events_tell_the_state_and_every_change(service: Service, study: str) -> None:
    ended = service.get("anna", f"/v1/studies/{study}/events")
    assert ended.headers["content-type"].startswith("text/event-stream")
    assert [json.loads(data)["state"] for data in re.findall(r"^data: (.*)$", ended.text, re.M)] == ["done"]
    place = service.post("anna", "/v1/studies", GOOD).headers["Location"]
    seen = []
    headers = {"Authorization": f"Bearer {service.tokens['anna']}"}
    with httpx.stream("GET", f"{service.url}{place}/events", headers=headers, timeout=300) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line[6:])["state"])
                if seen == ["queued"]:
                    service.ask("anna", "DELETE", place)
    assert seen == ["queued", "cancelled"]


def test_two_owners_cannot_read_cancel_or_guess_each_others(service: Service, study: str) -> None:
    upload = service.upload("anna", "a.jsonl", '{"context": "x", "question": "y", "answer": "z"}\n' * 30).json()["id"]
    waiting = service.post("anna", "/v1/studies", {**GOOD, "samples": upload}).json()["id"]
    checked = service.post("anna", "/v1/validations", {**GOOD, "samples": upload}).json()["id"]
    nobodys = 15 * "ab"
    for path in ("", "/events", "/front", "/config", "/report", "/files/pareto.png"):
        hers = service.get("bert", f"/v1/studies/{study}{path}")
        none = service.get("bert", f"/v1/studies/{nobodys}{path}")
        assert hers.status_code == none.status_code == 404
        assert hers.json()["detail"].replace(study, "") == none.json()["detail"].replace(nobodys, ""), "no way to tell"
    assert service.ask("bert", "DELETE", f"/v1/studies/{waiting}").status_code == 404
    assert service.ask("bert", "DELETE", f"/v1/samples/{upload}").status_code == 404
    assert service.get("bert", f"/v1/validations/{checked}").status_code == 404
    assert service.get("anna", f"/v1/validations/{checked}").json()["state"] == "queued"
    assert service.post("bert", "/v1/suggest", {"study": study, "tokens": 50}).status_code == 404
    assert "You have no samples" in service.post("bert", "/v1/studies", {**GOOD, "samples": upload}).json()["detail"]
    assert "no study" in service.post("bert", "/v1/studies", {**GOOD, "warm_start": [study]}).json()["detail"]
    assert service.get("bert", "/v1/studies").json()["studies"] == []
    assert service.get("bert", "/v1/samples").json() == []
    assert service.get("anna", f"/v1/studies/{waiting}").json()["state"] == "queued"
    service.ask("anna", "DELETE", f"/v1/studies/{waiting}")


def test_limits_of_an_owner(tmp_path: Path) -> None:
    from .conftest import serving

    with serving(tmp_path / "data", "--waiting", "1", "--disk", "3000") as tight:
        assert tight.post("anna", "/v1/studies", GOOD).status_code == 201
        refused = tight.post("anna", "/v1/studies", GOOD)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        assert tight.post("bert", "/v1/studies", GOOD).status_code == 201, "another's are not counted"
        assert tight.upload("anna", "a.jsonl", b"x" * 2000).status_code == 201
        assert tight.upload("anna", "a.jsonl", b"x" * 2000).status_code == 413, "what is left is less"
        assert tight.upload("anna", "a.jsonl", b"x" * 1000).status_code == 201
        assert tight.upload("anna", "a.jsonl", b"x").status_code == 507
        assert tight.get("anna", "/v1/me").json()["bytes"] == 3000
    with serving(tmp_path / "data", "--room", "1000000GiB") as full:
        assert "no room left" in full.upload("bert", "a.jsonl", b"x").json()["detail"]


def test_metrics_count_and_name_nobody(service: Service, study: str) -> None:
    text = service.get("bert", "/metrics").text
    families = {each.name: each for each in text_string_to_metric_families(text)}
    jobs = {(s.labels["kind"], s.labels["state"]): s.value for s in families["a2sf_service_jobs"].samples}
    assert jobs["study", "done"] == 1
    assert sum(sample.value for sample in families["a2sf_service_requests"].samples) > 10
    assert "anna" not in text
    assert study not in text


def test_the_log_holds_no_token_and_the_database_none(service: Service) -> None:
    service.get(None, "/v1/me", headers={"Authorization": "Bearer wrong-token-from-a-test"})
    time.sleep(0.2)
    kept = service.log.read_bytes() + b"".join(path.read_bytes() for path in service.data.glob("service.db*"))
    for token in (*service.tokens.values(), "wrong-token-from-a-test"):
        assert token.encode() not in kept

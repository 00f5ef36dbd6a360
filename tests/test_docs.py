"""What docs/extending.md says is done as it stands; what docs/architecture.md names is there."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from a2sf_core import A2SFCache, A2SFConfig, LayerPolicy, Policy, attach
from a2sf_core.rules.catalogue import RULES, read_rule
from a2sf_core.shape import fingerprint
from a2sf_core.switch import cache_argument
from tests.tuner.models import samples, tiny
from tuner.inputs.metrics import METRICS
from tuner.inputs.tasks import LATER_FIELDS, load_task
from tuner.measuring.bank import BANK
from tuner.measuring.engine import Engine
from tuner.search.rules import SEARCHED
from tuner.search.space import Space

ROOT = Path(__file__).parent.parent
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made() -> Iterator[dict[str, Any]]:
    """The names that the guide's Python blocks make, run one after the other."""
    tables: tuple[dict[str, Any], ...] = (RULES, SEARCHED, METRICS)
    before = [dict(table) for table in tables]
    guide = ModuleType("guide")
    sys.modules["guide"] = guide  # a dataclass looks its module up
    for block in re.findall(r"```python\n(.*?)```", EXTENDING, re.DOTALL):
        exec(block, vars(guide))
    yield vars(guide)
    del sys.modules["guide"]
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)


def test_the_new_rule_serves_and_is_measured(made: dict[str, Any]) -> None:
    rule = made["LargestValue"]()
    assert read_rule(rule.to_dict(), "rule") == rule
    model, ids = tiny("llama"), torch.arange(5, 45)[None]
    policy = Policy((LayerPolicy(rule, 0.3), LayerPolicy(rule, (0.2, 0.6)), LayerPolicy(rule)), decode_every=2)
    cache = A2SFCache(policy)
    with attach(policy, model), torch.no_grad():
        first = model(ids, **{cache_argument(model): cache})
        norms = cache.layers[0].values.float().norm(dim=-1)[0, 0]  # [slot]
        cache.cut()
        kept = cache.layers[0].positions[0, 0]  # [slot]
        assert kept.tolist() == sorted(norms.topk(12).indices.tolist())
        model(first.logits[:, -1:].argmax(-1), **{cache_argument(model): cache})


def test_the_search_may_choose_it(made: dict[str, Any]) -> None:
    space = Space("uniform", False, 3, rules=("decay", "largest-value"))
    policy = space.policy(space.complete({"rule": "largest-value", "budget": 0.3, "recent": 0.5}))
    assert policy.layers[0] == LayerPolicy(made["LargestValue"](), 0.3, 0.5)
    engine = Engine(tiny("llama"), samples(3), bank=space.bank)
    assert engine.evaluate(policy).nll == pytest.approx(engine.evaluate_directly(policy).nll, abs=1e-4)


def test_the_new_baseline_is_measured_like_the_others(made: dict[str, Any]) -> None:
    baseline = made["BASELINES"][-1]
    engine = Engine(tiny("llama"), samples(3), bank=(*BANK, baseline.rule))
    losses = engine.evaluate(baseline.policy(0.3, 3))
    assert losses.finite()
    assert losses.cache_fraction.mean() == pytest.approx(0.3, abs=0.05)


def test_the_new_metric_and_the_new_task(made: dict[str, Any], tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", EXTENDING, re.DOTALL)
    (tmp_path / "manual.yaml").write_text(block)
    task = load_task(str(tmp_path / "manual.yaml"))
    assert (task.name, task.metric, task.max_new_tokens) == ("manual", "starts_alike", 24)
    assert task.render("Turn it off.", "How?") == "Turn it off.\nQ: How?\nA:"
    compute = METRICS["starts_alike"].compute
    assert compute is made["starts_alike"]
    assert (compute("12 Euros, I think.", "12 euros"), compute("It costs 12 euros.", "12 euros")) == (1.0, 0.0)


def test_the_task_of_the_guide_loads_and_every_field_has_its_row(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "manual.yaml").write_text(block)
    task = load_task(str(tmp_path / "manual.yaml"))
    assert (task.stop, task.chat_template, len(task.examples)) == (("\n",), "auto", 1)
    assert [name for name in LATER_FIELDS if f"`{name}`" not in text] == []


def test_the_program_for_shared_contexts_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "studies" / "reference_model", tmp_path / "my-model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "my-model")
    policy = Policy.h2o(model.config.num_hidden_layers, 0.95)
    config = A2SFConfig(fingerprint(model), "knowledge-shared", policy, cut="context")
    config.save_pretrained(tmp_path / "runs" / "knowledge-shared-my-model")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "shared-contexts.md").read_text(encoding="utf-8"), re.DOTALL
    )
    exec(block, {})
    assert [line.strip() for line in capsys.readouterr().out.splitlines() if line] == [
        "The blue lamp costs 12 euros.",
        "Anna is in room 31.",
    ]


def test_the_rooms_on_the_map_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)*\w+(?:\.py|/))`", text))
    there = [f"/{path.relative_to(ROOT).as_posix()}" for path in ROOT.rglob("*") if ".venv" not in path.parts]
    assert len(named) > 40
    assert [name for name in named if not any(path.endswith(f"/{name.rstrip('/')}") for path in there)] == []


def test_links_between_documents_lead_somewhere() -> None:
    for document in (ROOT / "docs").glob("*.md"):
        for path in re.findall(r"\]\(((?!http)[^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / path).exists(), (document.name, path)

"""The nearest settings of other engines: what they say, and that nothing is lost in silence."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest

from a2sf_core import A2SFError, LayerPolicy, Policy
from a2sf_core.growth import Growth
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.rules.learned import Learned
from a2sf_core.rules.norms import KeyNorm, ValueWeighted
from tests.calls import run_here
from tuner import cli
from tuner.serving import kvpress, openvino

LEARNED = Learned((4.0, 64.0), ((0.2, 1.0), (0.1, 0.5)), (0.0, 0.0))


def called(snippet: str, name: str) -> dict[str, Any]:
    """The keywords that a snippet calls `name` with."""
    calls = [node for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Call)]
    (call,) = [each for each in calls if ast.unparse(each.func).rpartition(".")[2] == name]
    return {str(each.arg): ast.unparse(each.value) for each in call.keywords}


def test_openvino_gets_one_budget_in_blocks() -> None:
    found = openvino.nearest(Policy.h2o(4, 0.3), 1000)
    assert found.settings == {
        "start_size": 32, "recent_size": 160, "max_cache_size": 320, "aggregation_mode": "SUM",
        "apply_rotation": False, "snapkv_window_size": 0,
    }  # fmt: skip
    options = called(found.snippet, "CacheEvictionConfig")
    assert options.pop("aggregation_mode") == "AggregationMode.SUM"
    assert options == {name: str(value) for name, value in found.settings.items() if name != "aggregation_mode"}
    assert any("shares of the prompt" in each for each in found.lost)
    assert not any(word in each for each in found.lost for word in ("Layers", "KV heads", "by and by"))


@pytest.mark.parametrize("tokens", [40, 700, 100_000])
@pytest.mark.parametrize(
    "policy",
    [
        Policy.streaming_llm(4, 0.1), Policy.tova(4, 1), Policy.snapkv(4, 0.9), Policy.h2o(4, 1.0),
        Policy.uniform(4, rule=KeyNorm(), budget=33, sink=33), Policy.uniform(4, rule=LEARNED, budget=0.5),
    ],
    ids=["streaming", "tova", "snapkv", "h2o", "norm", "learned"],
)  # fmt: skip
def test_openvino_takes_every_size(policy: Policy, tokens: int) -> None:
    settings = openvino.nearest(policy, tokens).settings
    sizes = [settings[name] for name in ("start_size", "recent_size", "max_cache_size")]
    assert all(size > 0 and size % 32 == 0 for size in sizes)
    assert sizes[2] > sizes[0] + sizes[1]


@pytest.mark.parametrize(
    ("policy", "press", "options"),
    [
        (Policy.streaming_llm(4, 0.2), "StreamingLLMPress", {"n_sink": "4"}),
        (Policy.tova(4, 0.2), "TOVAPress", {}),
        (Policy.h2o(4, 0.2), "ObservedAttentionPress", {}),
        (Policy.snapkv(4, 0.2, 24), "SnapKVPress", {"window_size": "24", "kernel_size": "1"}),
        (Policy.uniform(4, rule=Window(8, 5), budget=0.2), "SnapKVPress", {"window_size": "8", "kernel_size": "5"}),
        (Policy.a2sf(4, 0.2, 0.95), "SnapKVPress", {"window_size": "20", "kernel_size": "1"}),
        (Policy.uniform(4, rule=KeyNorm(), budget=0.2), "KnormPress", {}),
        (Policy.uniform(4, rule=ValueWeighted(Decay(inf)), budget=0.2), "ObservedAttentionPress", {}),
        (Policy.uniform(4, rule=LEARNED, budget=0.2), "SnapKVPress", {"window_size": "93", "kernel_size": "1"}),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_kvpress_gets_the_press_that_is_nearest(policy: Policy, press: str, options: dict[str, str]) -> None:
    found = kvpress.nearest(policy, 1000)
    assert found.settings["press"] == press
    assert called(found.snippet, press) == {"compression_ratio": "0.8", **options}


def test_kvpress_gets_a_ratio_for_every_layer_and_what_is_lost_is_said() -> None:
    policy = Policy((
        LayerPolicy(Decay(16.0), (0.25, 0.75), recent=0.25, sink=2),
        LayerPolicy(ValueWeighted(Decay(32.0)), 100),
        LayerPolicy(),
    ), decode_every=8)  # fmt: skip
    found = kvpress.nearest(policy, 1000)
    assert found.settings["compression_ratios"] == [0.5, 0.9, 0.0]
    assert ast.literal_eval(called(found.snippet, "PerLayerCompressionPress")["compression_ratios"]) == [0.5, 0.9, 0.0]
    said = " ".join(found.lost)
    for word in ("KV heads have budgets", "half-lives of 16 to 32", "value counts", "in tokens", "first 2", "every 8"):
        assert word in said, word
    assert all(each in found.snippet for each in found.lost)


def test_that_budgets_follow_the_prompt_is_lost() -> None:
    compares = replace(LEARNED, scores=((-3.0, 1.0),) * 2, log_nats=((-9.0, -4.0),) * 2)
    policy = Policy((LayerPolicy(compares, (0.1, 0.5)),) * 3, by_prompt=True)
    for engine in (openvino, kvpress):
        lost = engine.nearest(policy, 1000).lost
        assert "What a KV head keeps is dealt out anew for every prompt; there it is not." in lost
        assert not any("budgets of their own" in each for each in lost)


def test_that_short_prompts_keep_more_is_lost() -> None:
    policy = Policy((LayerPolicy(Decay(16.0), 0.2, growth=Growth(0.5, 250, 4000)),) * 3)
    found = kvpress.nearest(policy, 1000)
    assert found.settings["compression_ratio"] == 0.6, "a quarter of the longest: twice the share"
    assert any("larger share" in each and "1,000 tokens" in each for each in found.lost)
    assert any("shares of the prompt" in each for each in openvino.nearest(policy, 1000).lost)


def test_the_command_writes_both_files_and_prints_what_is_lost(config: Path, tmp_path: Path) -> None:
    export = ("export", str(config), str(tmp_path / "new"), "--format")
    for engine in ("openvino", "kvpress"):
        code, stdout, stderr = run_here(cli.main, *export, engine)
        assert code == 0, stderr
        lost = json.loads((tmp_path / "new" / f"a2sf_{engine}.json").read_text())["lost"]
        assert len(lost) > 3
        assert [f"Lost: {each}" for each in lost] == stdout.splitlines()[2:-1]
        compile((tmp_path / "new" / f"a2sf_{engine}.py").read_text(), engine, "exec")
    code, _, stderr = run_here(cli.main, *export, "transformers")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "give the model with --model" in stderr


def test_a_policy_that_keeps_all_is_refused() -> None:
    with pytest.raises(A2SFError, match="keeps the whole cache"):
        openvino.nearest(Policy.full(4), 1000)

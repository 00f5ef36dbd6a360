"""The whole job as a function: its steps, what it hands back, and the same again when called again."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM

from a2sf_core.errors import A2SFError
from tests.tuner.conftest import ROWS, Finished, Recorded
from tuner.inputs.check import check
from tuner.run import tune

NOBODY = "http://127.0.0.1:9"


def test_a_watch_is_told_every_step_to_its_end(finished: Finished) -> None:
    steps = finished.watch.steps
    uncounted = {"Loading reference", "Judging the full cache", "Comparing texts", "Writing the report"}
    assert list(steps) == [
        "Loading reference", "Reading search prompts", "Judging the full cache", "Weighing tokens",
        "Profiling layers, heads", "Comparing profiles", "Trials", "Reading select prompts", "Choosing",
        "Reading report prompts", "Proving", "Proving known methods", "Comparing texts", "Fitting alpha",
        "Writing the report",
    ]  # fmt: skip
    assert all(done == total > 0 for name, (done, total) in steps.items() if name not in uncounted), steps
    assert steps["Trials"] == (26, 26)
    parts, power, score, profile, lesson = finished.watch.said
    assert parts.endswith("3 search, 2 select, 9 report samples")
    assert power == "9 report samples can prove a loss of at most 40 points; you allow 60."
    assert score.startswith("The full cache scores 100.0% in exact_match on the search samples.")
    assert profile.startswith("Profile: ")
    assert lesson == "Forgetting was not learned: that takes 12 search samples, and there are 3."


def test_the_result_is_what_was_asked_for(finished: Finished) -> None:
    result, samples = finished.result, finished.result.evidence.samples
    assert result.folder == finished.settings.out
    assert result.sentence == result.evidence.verdict
    assert samples.search + samples.select + samples.report == len(ROWS)
    assert sum(result.evidence.trials.values()) == 26
    assert result.outcome.exported.cache_fraction < 1, "60 points leave room for a smaller cache"
    assert result.outcome.exported.meets(60.0)
    assert result.evidence.status == "adopt"
    assert str(result.folder) in result.serve_command


def test_the_same_call_resumes_and_finds_the_same(finished: Finished) -> None:
    """The evidence counts trials and looks at the report: neither grows."""
    watch = Recorded()
    again = tune(finished.settings, check(finished.settings), watch)
    assert "Trials" in watch.steps
    assert json.dumps(again.evidence.to_dict()) == json.dumps(finished.result.evidence.to_dict())


def test_another_seed_is_another_study(finished: Finished) -> None:
    with pytest.raises(A2SFError, match=r"holds a study with another seed \(0, now 5\)"):
        tune(replace(finished.settings, seed=5))


@pytest.fixture(scope="module")
def rough(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that asks for little precision, and whose tracking server is not there."""
    out = tmp_path_factory.mktemp("rough") / "run"
    settings, watch = replace(finished.settings, precision=10_000.0, out=out, mlflow=NOBODY), Recorded()
    return Finished(settings, tune(settings, watch=watch), watch)


def test_a_precision_asks_for_as_many_report_samples_as_it_takes(rough: Finished) -> None:
    """Of the user's own data no more than there are; the fewest that a part may have where little is asked for."""
    assert rough.result.evidence.samples.report == 2
    assert rough.result.outcome.on_report.n_samples == 2


def test_without_the_tracking_server_it_was_given_a_run_ends_well(rough: Finished) -> None:
    result = rough.result
    assert (result.link, result.serve_command, result.evidence.mlflow_run_id) == ("", "", "")
    assert result.config.is_file()
    told = [sentence for sentence in rough.watch.said if NOBODY in sentence]
    assert len(told) == 2, told
    assert "The run goes on" in told[0]
    assert "lacks this result; the same command brings it up to date" in told[1]


def test_no_path_of_this_machine_leaves_it_in_what_is_exported(finished: Finished) -> None:
    here = str(finished.settings.out.parent) if finished.settings.out else "?"
    for name in ("a2sf_config.json", "report.json", "profile.json"):
        text = (finished.result.folder / name).read_text()
        assert here not in text, name
    assert os.sep not in json.loads(finished.result.config.read_text())["model"]["name"]


def test_a_model_that_cannot_be_served_is_refused_before_anything_is_written(
    finished: Finished, tokenizer: Any, tmp_path: Path
) -> None:
    """A latent cache, as of DeepSeek-V2, shows in no field of a config."""
    config = DeepseekV2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, kv_lora_rank=8, q_lora_rank=None, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
        moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2, first_k_dense_replace=2,
    )  # fmt: skip
    DeepseekV2ForCausalLM(config).save_pretrained(tmp_path / "latent")
    tokenizer.save_pretrained(tmp_path / "latent")
    with pytest.raises(A2SFError, match="DeepseekV2ForCausalLM does not run when it is attached"):
        tune(replace(finished.settings, model=str(tmp_path / "latent"), out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()

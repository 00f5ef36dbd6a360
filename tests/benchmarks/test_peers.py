"""The comparison with peers: its evaluator says what the engine says, its prompts are cut where they claim to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from a2sf_core.errors import A2SFError
from a2sf_core.layer_policy import LayerPolicy
from a2sf_core.policy import Policy
from a2sf_core.rules.attention import Decay
from a2sf_core.switch import attach
from benchmarks import kvpress_env
from benchmarks.peers import measure, results
from benchmarks.peers_evaluator import FULL, TEXTS, OnePrompt, column
from benchmarks.peers_ours import builtin, builtin_learned, cost, exported, medians, taught
from benchmarks.peers_picture import draw
from benchmarks.peers_prompts import name_of, own_text, prompts, task_of
from benchmarks.peers_report import Found, full_line, in_markdown, quality_table, ratio_interval, rows
from benchmarks.peers_written import compared, write
from tests.tuner.models import holder_of
from tuner.choices import REFERENCE
from tuner.inputs.encoding import Encoded
from tuner.inputs.greedy import end_tokens
from tuner.inputs.models import load_model
from tuner.measuring.engine import Engine
from tuner.measuring.texts import Ends


@pytest.fixture(scope="module")
def reference() -> tuple[Any, Any]:
    return load_model(REFERENCE, "cpu")


@pytest.fixture(scope="module")
def asked(reference: tuple[Any, Any]) -> Encoded:
    return prompts(*reference, task_of("knowledge"), None, 1, 2)[1][0]


@pytest.fixture(scope="module")
def policy(reference: tuple[Any, Any]) -> Policy:
    heads = reference[0].config.num_key_value_heads
    return Policy(
        tuple(
            LayerPolicy(Decay(16.0), tuple(0.1 + 0.2 * (h % 2) for h in range(heads)), 0.25, 4)
            for _ in range(reference[0].config.num_hidden_layers)
        )
    )


def masks(keep: list[torch.Tensor]) -> np.ndarray:
    return torch.stack([layer[0] for layer in keep]).numpy()


def test_a_kept_set_costs_what_the_engine_says(reference: tuple[Any, Any], asked: Encoded, policy: Policy) -> None:
    model, tokenizer = reference
    prompt = OnePrompt(model, asked, own_text(model, tokenizer, asked, 8))
    found = prompt.figures(prompt.peer_keeps(masks(prompt.policies_keep({"ours": policy})["ours"])))
    losses = Engine(model, [asked], bank=[Decay(16.0)]).evaluate(policy)
    for name in ("kl", "nll", "changed", "accuracy"):
        assert column([found], "reference", name)[0] == pytest.approx(getattr(losses, name)[0], abs=1e-5)
    assert found["kept"] == pytest.approx(losses.cache_fraction[0])


def test_the_full_cache_agrees_with_itself_and_with_its_own_text(reference: tuple[Any, Any], asked: Encoded) -> None:
    model, tokenizer = reference
    full = OnePrompt(model, asked, own_text(model, tokenizer, asked, 8)).full
    assert full["kept"] == 1
    for text in TEXTS:
        assert column([full], text, "kl")[0] == pytest.approx(0, abs=1e-6)
        assert column([full], text, "changed")[0] == 0
    assert column([full], "own", "accuracy")[0] == 1


def test_a_question_after_the_cut_is_read_and_not_judged(reference: tuple[Any, Any], asked: Encoded) -> None:
    ids = asked.prompt_ids
    later = replace(asked, prompt_ids=ids[:-9], question_ids=ids[-9:])
    whole, cut = (OnePrompt(reference[0], each, each.answer_ids).full for each in (asked, later))
    assert column([cut], "reference", "nll")[0] == pytest.approx(column([whole], "reference", "nll")[0], abs=1e-4)


def test_what_tunes_is_not_measured(reference: tuple[Any, Any]) -> None:
    tune, measured = prompts(*reference, task_of("knowledge"), None, 4, 4)
    assert not {each.context_key for each in tune} & {each.context_key for each in measured}


def test_a_policy_that_cuts_while_it_reads_is_refused(
    reference: tuple[Any, Any], asked: Encoded, policy: Policy
) -> None:
    stepwise = replace(policy, evict="chunk=64")
    with pytest.raises(A2SFError, match="prefill"):
        OnePrompt(reference[0], asked, asked.answer_ids).policies_keep({"ours": stepwise})


def test_a_policy_with_a_rule_for_each_layer_is_ranked_by_its_own(
    reference: tuple[Any, Any], asked: Encoded, policy: Policy
) -> None:
    own = [replace(layer, rule=Decay(2.0**place)) for place, layer in enumerate(policy.layers)]
    mixed = Policy(tuple(own))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.peers_evaluator.FEW", 1)
        keep = OnePrompt(reference[0], asked, asked.answer_ids).policies_keep({"plain": policy, "mixed": mixed})
    engine = Engine(reference[0], [asked], bank=[layer.rule for layer in mixed.layers] + [Decay(16.0)])
    for name, each in (("plain", policy), ("mixed", mixed)):
        [(_, expected)] = holder_of(engine).batches(each)
        assert all(map(torch.equal, keep[name], expected))


def test_kept_sets_of_another_model_are_refused(reference: tuple[Any, Any], asked: Encoded) -> None:
    prompt = OnePrompt(reference[0], asked, asked.answer_ids)
    with pytest.raises(A2SFError, match="shape"):
        prompt.peer_keeps(np.ones((1, 1, 3), dtype=bool))


def test_a_ratio_of_means_is_drawn_in_pairs() -> None:
    peer = np.array([1.0, 5.0, 2.0, 9.0])
    contexts = np.array(["a", "b", "b", "c"])
    assert ratio_interval(peer / 2, peer, contexts) == pytest.approx([0.5, 0.5, 0.5])
    mean, low, high = ratio_interval(np.array([1.0, 1.0, 1.0, 1.0]), peer, contexts)
    assert low < mean < high
    assert mean == pytest.approx(4 / 17)


def test_tables_and_picture(tmp_path: Path) -> None:
    def figures(kl: float, kept: float) -> dict[str, Any]:
        return {"kept": kept, "reference": [kl, 2.0, 0.1, 0.5], "own": [kl / 2, 1.0, 0.1, 0.9]}

    full = [figures(0.0, 1.0)] * 3
    methods = {"ours": [figures(0.1 * i, 0.2) for i in (1, 2, 3)], "KVzip": [figures(0.2 * i, 0.3) for i in (1, 2, 3)]}
    every = []
    for share in (0.1, 0.2):
        found = Found(share, methods, full, np.array(["a", "b", "c"]), "ours")
        table = rows(found, "reference")
        assert [row["method"] for row in table] == ["ours", "KVzip"]
        assert table[1]["ratio"] == pytest.approx([0.5, 0.5, 0.5])
        every += [row for text in TEXTS for row in rows(found, text)]
    assert list(quality_table(found, "own", "").columns[1].cells) == ["20.00%", "30.00% (!)"]
    assert in_markdown([found], "own").splitlines()[-1].endswith("; 0.500 [0.500, 0.500] |")
    assert full_line(found).startswith(FULL)
    draw(every, "ours", "title", "subtitle", tmp_path / "peers.png")
    assert (tmp_path / "peers.png").stat().st_size > 10_000


def test_the_two_sides_call_kept_sets_the_same() -> None:
    theirs = kvpress_env.SCRIPT.read_text()
    assert all(f'"{name}": lambda' in theirs for name in kvpress_env.PRESSES)
    assert kvpress_env.label("KVzip", 0.2) == "KVzip at 0.2"
    assert 'return f"{method} at {share:g}"' in theirs


def test_an_exported_policy_is_compared_where_it_is_as_large(tmp_path: Path, reference: tuple[Any, Any]) -> None:
    from a2sf_core.config import A2SFConfig
    from a2sf_core.shape import fingerprint

    n_layers = reference[0].config.num_hidden_layers
    for name, budget in (("near", 0.199), ("far", 0.3)):
        policy = Policy.h2o(n_layers, budget)
        A2SFConfig(fingerprint(reference[0]), "knowledge", policy).save_pretrained(tmp_path / name)
    near, far = exported([str(tmp_path / "near"), str(tmp_path / "far")], (0.1, 0.2), [1000], "prompt")
    assert (near.share, far.share) == (0.2, 0.3)
    assert near.name == far.name == "ours, exported"


def test_ours_need_no_study_and_are_measured_once(tmp_path: Path, reference: tuple[Any, Any]) -> None:
    model, tokenizer = reference
    tune, [asked] = prompts(model, tokenizer, task_of("knowledge"), None, 3, 1)
    profile, rules = taught(model, tokenizer, tune, 4, tmp_path / "profiles" / "small")
    known = list((tmp_path / "profiles").iterdir())
    again, same = taught(model, tokenizer, tune, 4, tmp_path / "profiles" / "small")
    assert (same, known) == (rules, list((tmp_path / "profiles").iterdir()))
    assert np.array_equal(again.budgets(0.2), profile.budgets(0.2))
    arms = [*builtin_learned(profile, [0.2], rules), *builtin(profile, [0.2], 16.0)]
    name = name_of(asked)
    mask = np.zeros((len(rules), model.config.num_key_value_heads, len(asked.prompt_ids)), dtype=bool)
    mask[..., -20:] = True
    np.savez(tmp_path / f"{name}.npz", **{"TOVA at 0.2": mask})
    found = [
        results([asked], measure(model, tokenizer, [asked], arms, ["TOVA at 0.2"], tmp_path, tmp_path), arms, ["TOVA"])
        for _ in range(2)
    ]
    assert list(found[0][0].methods) == ["ours, learned forgetting", "ours, half-life 16", "TOVA"]
    assert found[0][0].methods == found[1][0].methods
    for arm in ("ours, learned forgetting", "ours, half-life 16"):
        assert found[0][0].methods[arm][0]["kept"] == pytest.approx(0.2, abs=0.02)


def test_serving_holds_less_than_the_full_cache(reference: tuple[Any, Any], asked: Encoded, policy: Policy) -> None:
    found = medians(cost(reference[0], [asked], {"ours": policy}), FULL)
    assert found["ours"]["bytes_ratio"] == pytest.approx(0.2, abs=0.02)
    assert found[FULL]["bytes_ratio"] == 1


def test_what_is_written_over_everything_is_what_the_model_writes(
    reference: tuple[Any, Any], asked: Encoded, policy: Policy
) -> None:
    model, tokenizer = reference
    own = own_text(model, tokenizer, asked, 8)
    prompt = OnePrompt(model, asked, own)
    keeps = {FULL: prompt.all} | prompt.policies_keep({"ours": policy})
    ids = write(prompt, keeps, Ends(8, frozenset(end_tokens(model, tokenizer))))
    assert ids[FULL] == own
    with attach(policy, model):
        assert ids["ours"] == own_text(model, tokenizer, asked, 8)


def test_texts_are_compared_in_points_of_the_reference(asked: Encoded) -> None:
    right, wrong = asked.answer, "zebra"
    full, same, other = compared({FULL: [right], "same": [right], "other": [wrong]}, [asked])
    assert full.points["f1"][0] == 100
    assert same.same == 1
    assert same.lost["rouge_l"][0] == 0
    assert other.lost["f1"][0] == -100
    assert other.same == 0

"""Which profile shapes the search: the one that predicts better, and what deep models are spared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from a2sf_core.errors import A2SFError
from a2sf_core.policy import Policy
from a2sf_core.rules.attention import Decay
from tests.tuner.models import samples, tiny
from tuner.choices import DEFAULT_RULES
from tuner.measuring.engine import Engine
from tuner.search.dimensions import Dimensions
from tuner.search.fisher import SHARES, Fisher
from tuner.search.profile_file import Profiled
from tuner.search.profile_part import Part
from tuner.search.profiles import (
    HALF_LIVES_TRIED,
    JUDGED_AT,
    SHALLOW,
    _judges,
    affordable_cuts,
    find_profile,
    own_policy,
)
from tuner.search.space import SEEDS, Space

Found = tuple[Profiled, Engine, "Noted"]


class Noted:
    """A `Watch` that keeps the names of the steps."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def step(self, name: str) -> object:
        self.steps.append(name)
        return lambda _done, _total: None

    def say(self, text: str) -> None:
        self.steps.append(text)


def found_for(
    n_layers: int, rules: Sequence[str] = DEFAULT_RULES, gradients: bool = True, part: Part | None = None
) -> Found:
    dimensions, model = Dimensions("groups", True, n_layers, rules=tuple(rules)), tiny("llama", n_layers)
    if not gradients:  # as quantised weights are held
        packed = torch.nn.Parameter(torch.zeros(1, dtype=torch.int8), requires_grad=False)
        model.register_parameter("packed", packed)
    engine, watch = Engine(model, samples(12), block_size=6, bank=dimensions.bank), Noted()
    return find_profile(engine, dimensions, 1000, part or Part(), 0, watch), engine, watch


def test_a_model_without_gradients_has_its_prompts_read_twice() -> None:
    found, _, watch = found_for(3, gradients=False)
    assert watch.steps == ["Reading prompts twice", "Profiling layers, heads", "Comparing profiles"]
    assert set(found.losses) == {"cut alone", "reconstruction", "reconstruction, weakened", "heads alike"}
    assert "reconstruction (6 prompts read twice)" in found.why


def test_prompts_are_read_twice_where_gradients_mislead_and_nothing_else_was_measured() -> None:
    deep, part = SHALLOW + 20, Part()
    one_head_for_all = np.zeros((3, deep, 2, len(SHARES)))
    one_head_for_all[:, 0, 0] = 1 - np.array(SHARES)
    for row in range(12):  # as an earlier run might have left them
        part.put(f"losses at {SHARES} by {[*HALF_LIVES_TRIED]}, seed 0", str(row), one_head_for_all.tolist())
    found, _, watch = found_for(deep, part=part)
    assert watch.steps == ["Weighing tokens", "Comparing profiles", "Reading prompts twice", "Comparing again"]
    assert min(found.losses, key=lambda name: sum(found.losses[name].values())) != "fisher"
    assert {"fisher", "reconstruction", "heads alike"} <= set(found.losses)
    assert "reconstruction (6 prompts read twice)" in found.why
    assert "fisher (gradients of 6 prompts)" in found.why


def test_a_search_without_forgetting_orders_tokens_by_what_its_baselines_know() -> None:
    found, engine, _ = found_for(3, rules=["key-norm"])
    fisher = next(each for each in (found.used, *found.others) if isinstance(each, Fisher))
    assert set(fisher.half_lives) <= {rule.half_life for rule in engine.portion.bank.shared if isinstance(rule, Decay)}


def test_the_profile_whose_policies_lose_least_is_used_and_the_search_begins_with_them() -> None:
    found, engine, watch = found_for(3)
    assert watch.steps == ["Weighing tokens", "Profiling layers, heads", "Comparing profiles"]
    assert {found.used.kind, *(other.kind for other in found.others)} == {"cut alone", "fisher"}
    assert set(found.losses) == {"cut alone", "fisher", "fisher, weakened", "heads alike"}
    best = min(found.losses, key=lambda name: sum(found.losses[name].values()))
    assert found.why.startswith(f"Profile: {best}")
    assert "fisher (gradients of 6 prompts)" in found.why
    space = Space("groups", True, 3, found.used)
    passes = engine.passes
    for budget in JUDGED_AT:
        assert budget in SEEDS
        label = f"seed profile, decay {budget:g}"
        (trial,) = [trial for trial in space.enqueued() if trial.label == label]
        assert space.policy(trial.params) == own_policy(Dimensions("groups", True, 3), found.used, budget)
        engine.evaluate(space.policy(trial.params))
    assert engine.passes == passes, "known already"


def test_the_judges_are_prompts_that_no_profile_was_fitted_on() -> None:
    found, engine, _ = found_for(3)
    from tuner.search.rereading import prompts_to_look_at

    rows = prompts_to_look_at(engine.samples, 0, float("inf"))
    others = [row for row in range(12) if row not in rows]
    cut_alone = next(each for each in (found.used, *found.others) if each.kind == "cut alone")
    kl = engine.evaluate(own_policy(Dimensions("groups", True, 3), cut_alone, JUDGED_AT[0])).kl
    assert found.losses["cut alone"][f"{JUDGED_AT[0]:g}"] == pytest.approx(kl[others].mean())


def test_a_deep_model_is_not_cut_layer_by_layer() -> None:
    found, engine, watch = found_for(SHALLOW + 20)
    assert watch.steps[:2] == ["Weighing tokens", "Comparing profiles"]
    assert "Cutting layer by layer was left out: 112 evaluations and more" in found.why
    spent = affordable_cuts(engine, 10 * sum(len(sample.answer_ids) for sample in engine.samples))
    assert spent == 10
    assert affordable_cuts(Engine(tiny("llama"), samples(4)), 0) is None
    assert engine.evaluate(Policy.full(engine.n_layers)).finite()


def test_both_profiles_are_kept_as_json(tmp_path: Path) -> None:
    found, _, _ = found_for(3)
    path = tmp_path / "profile.json"
    found.save(path)
    again = Profiled.load(path)
    assert (again.why, again.losses, again.used.kind) == (found.why, found.losses, found.used.kind)
    for total in (0.05, 0.3):
        assert np.allclose(again.used.budgets(total), found.used.budgets(total), atol=1e-3)
        assert np.allclose(again.others[0].budgets(total), found.others[0].budgets(total), atol=1e-3)
    for spoiled in ("{}", "[]", '{"used": "x", "measured": {"x": {}}}'):
        path.write_text(spoiled)
        with pytest.raises(A2SFError, match=r"profile\.json is not a profile.*delete it"):
            Profiled.load(path)


def test_where_there_are_enough_samples_no_profile_has_seen_its_judges() -> None:
    engine = Engine(tiny("llama"), samples(80), block_size=16)
    seen = engine.evaluate_blocks(Policy.full(3), 4).rows
    found = _judges(engine, [0, 1, 2], cut_alone=True)
    assert set(found.tolist()) == set(range(80)) - set(seen.tolist()) - {0, 1, 2}
    assert len(_judges(engine, [0, 1, 2], cut_alone=False)) == 77

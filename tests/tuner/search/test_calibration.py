"""What scores are worth in nats: curves against isotonic steps, and on what they were not fitted to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.isotonic import IsotonicRegression

from a2sf_core.rules.learned import Learned
from tests.tuner.models import holder_of, samples, tiny
from tests.tuner.search.test_learning import ENDS, engine_of
from tuner.choices import BY_PROMPT, LEARNED
from tuner.measuring.answers import answering
from tuner.measuring.batch import sums_of
from tuner.measuring.engine import Engine
from tuner.measuring.token_losses import draws, token_losses
from tuner.search.calibration import _curve, _in_bins
from tuner.search.learning import LEARNED_FROM, learned_rules
from tuner.search.space import Space
from tuner.watch import silent

TAUGHT, OTHERS = 14, 8


def noisy(seed: int, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Scores and costs that rise with them, over many orders of magnitude."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(-3, 2, n)
    return scores, np.exp(1.5 * scores - 8 + rng.normal(0, 1, n))


def at(curve: tuple[Any, Any], scores: np.ndarray) -> np.ndarray:
    """As serving reads a curve."""
    (low, high), values = curve
    return np.exp(np.interp(scores, np.linspace(low, high, len(values)), values))


def test_a_curve_says_what_isotonic_steps_say() -> None:
    prompts = [noisy(seed) for seed in range(4)]
    curve = _curve(np.concatenate([_in_bins(*each) for each in prompts]))
    scores, costs = (np.concatenate(each) for each in zip(*prompts, strict=True))
    steps = IsotonicRegression(out_of_bounds="clip").fit(scores, costs)
    between = np.linspace(*np.quantile(scores, (0.3, 0.99)), 50)
    assert np.abs(np.log(at(curve, between) / steps.predict(between))).mean() < 0.3
    assert list(curve[1]) == sorted(curve[1])


def test_bins_lose_no_token() -> None:
    scores, costs = noisy(0)
    points = _in_bins(scores, costs)
    assert points[:, 2].sum() == len(scores) > 10 * len(points)
    assert np.isclose((points[:, 1] * points[:, 2]).sum(), costs.sum())


def test_one_score_for_all_tokens_is_a_flat_curve() -> None:
    curve = _curve(_in_bins(np.full(20, 2.0), np.full(20, 0.5)))
    assert np.allclose(at(curve, np.array([-9.0, 2.0, 9.0])), np.exp(np.round(np.log(0.5), 2)))


def test_heads_compare_on_prompts_that_were_not_learned_from() -> None:
    """Over all tokens of all heads worth orders what losing them costs, better than scores without their curves."""
    model, drawn = tiny("llama"), 5
    rules = learned_rules(engine_of(model, TAUGHT), range(TAUGHT), silent, drawn)
    others = Engine(model, samples(TAUGHT + OTHERS)[TAUGHT:], block_size=6, ends=ENDS, learn_from=LEARNED_FROM)
    holder = holder_of(others)
    fits: dict[str, list[float]] = {"worth": [], "scores": []}
    with answering(holder.model):
        for batch in (batch for _, block in holder.blocks() for batch in block):
            for place, row in enumerate(batch.samples):
                n = int(batch.n_tokens[place])
                costs = torch.stack(token_losses(holder.reader, batch, place, draws(drawn, row)))  # layer, head, token
                held = [sums_of(layer, int(batch.held[place]), n, LEARNED_FROM) for layer in batch.layers]
                said = {
                    "worth": [rule.worth(own)[0] for rule, own in zip(rules, held, strict=True)],
                    "scores": [rule.log_product(own)[0] for rule, own in zip(rules, held, strict=True)],
                }
                for name, values in said.items():
                    table = torch.stack(values)[..., 4:].flatten()
                    fits[name].append(float(spearmanr(table, costs[..., 4:].flatten())[0]))
    assert np.mean(fits["worth"]) > np.mean(fits["scores"]) + 0.02
    assert np.mean(fits["worth"]) > 0.3


def test_a_search_is_offered_dealing_where_rules_compare() -> None:
    engine = engine_of(tiny("llama"), TAUGHT)
    by_movement, in_nats = (learned_rules(engine, range(TAUGHT), silent, drawn) for drawn in (None, 5))
    space = Space("uniform", False, 3)
    assert Space.of(space, None, by_movement).offered == (*space.fixed, LEARNED)
    richer = Space.of(space, None, in_nats)
    assert richer.offered == (*space.fixed, LEARNED, BY_PROMPT)
    policy = richer.policy(richer.complete({"rule": BY_PROMPT, "budget": 0.3, "recent": 0.2}))
    assert policy.by_prompt
    assert policy.layers[0].budget == (0.3, 0.3)
    assert isinstance(policy.layers[0].rule, Learned)
    assert not richer.policy(richer.complete({"rule": LEARNED, "budget": 0.3})).by_prompt

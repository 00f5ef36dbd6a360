"""Whatever settings a model comes with, greedy text is the same text."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from a2sf_core.policy import Policy
from tuner.inputs.encoding import Encoded
from tuner.judging.grading import generate

LEFT_BY_OTHERS: dict[str, dict[str, Any]] = {
    "training": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "beams": {"num_beams": 3, "early_stopping": True},
    "penalty": {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1},
    "dict": {"return_dict_in_generate": True, "output_scores": True},
    "drafts": {"prompt_lookup_num_tokens": 3},
    "sampling": {"do_sample": True, "temperature": 9.0, "top_k": 50, "num_return_sequences": 2},
    "length": {"min_length": 200, "max_length": 20, "forced_eos_token_id": 5, "suppress_tokens": [7, 8]},
}


@pytest.mark.parametrize("name", LEFT_BY_OTHERS)
def test_no_setting_of_the_model_changes_a_text(loaded: tuple[Any, Any], name: str) -> None:
    model, tokenizer = loaded
    samples = [Encoded(f"s{i}", tuple(range(20 + i, 50)), (3,), "", False, "") for i in range(3)]
    policy = Policy.h2o(2, 0.5)
    plain = generate(model, tokenizer, samples, policy, 12)
    before = model.generation_config
    model.generation_config = copy.deepcopy(before)
    model.generation_config.update(**LEFT_BY_OTHERS[name])
    told = model.generation_config.to_dict()
    try:
        assert generate(model, tokenizer, samples, policy, 12) == plain
        assert model.generation_config.to_dict() == told, "the model's own settings are back"
    finally:
        model.generation_config = before

"""The model that ships: small, loads like any other, and answers the bundled tasks with its full cache."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from studies.induction import give_induction_heads
from studies.measure import SPECS, answer_accuracy
from studies.samples import TRAINING_SEED, SampleSpec, bundled_samples
from studies.train import SEED, config

FOLDER = Path(str(files("studies"))) / "reference_model"


@pytest.fixture(scope="module")
def reference() -> tuple[LlamaForCausalLM, object]:
    return AutoModelForCausalLM.from_pretrained(FOLDER).eval(), AutoTokenizer.from_pretrained(FOLDER)


def test_it_is_small_and_holds_no_pickle(reference: tuple[LlamaForCausalLM, object]) -> None:
    assert sum(parameter.numel() for parameter in reference[0].parameters()) < 4_000_000
    assert (FOLDER / "model.safetensors").stat().st_size <= 8 * 2**20
    assert not list(FOLDER.glob("*.bin"))
    assert TRAINING_SEED == SEED


@pytest.mark.parametrize("text", ["The lamp costs 34 euros.", "Anna: hello!\nBen: hi.", "Grüße, 2026 – naïve (xyz)?"])
def test_the_tokenizer_loses_nothing(reference: tuple[LlamaForCausalLM, object], text: str) -> None:
    tokenizer = reference[1]
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


# Four standard errors of 40 samples below the model card's figures, so that chance alone does not fail it.
FLOORS = {"summarisation": 0.98, "chat": 0.86, "knowledge": 0.96}


@pytest.mark.parametrize("task", SPECS)
@pytest.mark.parametrize("tokens", [128, 512])
def test_it_answers_with_the_full_cache(reference: tuple[LlamaForCausalLM, object], task: str, tokens: int) -> None:
    spec = SampleSpec(scene=task, seed="test-1", tokens=(tokens, tokens), search=2, select=2, report=2, **SPECS[task])
    scores = [answer_accuracy(*reference, sample)[0] for sample in bundled_samples(spec, 40)]
    assert sum(scores) / len(scores) > FLOORS[task]


def test_the_initialisation_looks_back_and_matches() -> None:
    """Layer 0 attends one token back; layer 1 finds what followed the same token before."""
    model = LlamaForCausalLM(config(600))
    model.set_attn_implementation("eager")
    give_induction_heads(model, seed=0)
    first = torch.randint(260, 600, (4, 30), generator=torch.Generator().manual_seed(1))
    attentions = model(torch.cat([first, first], 1), output_attentions=True).attentions
    place = torch.arange(60)
    assert attentions[0][:, 0, place[1:], place[:-1]].mean() > 0.8
    followers = attentions[1][:, 0, place[31:], place[31:] - 29].mean()
    assert followers > 10 / 45

"""A tuned config for the reference model, prompts of mixed lengths, and what is written for them offline."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import studies
from a2sf_core import A2SFConfig, LayerPolicy, Policy
from a2sf_core.rules.attention import Decay, Window
from a2sf_core.shape import fingerprint
from studies.samples import SampleSpec, bundled_samples
from tuner.inputs.models import load_model

POLICY = Policy(
    (
        LayerPolicy(Decay(16.0), (0.3, 0.6), recent=0.25, sink=1),
        LayerPolicy(Window(8), 0.4, recent=8),
        LayerPolicy(Decay(64.0), 0.5, recent=0.5),
        LayerPolicy(),
    )
)
"""Heads apart, a window, a decay, and a layer that keeps all."""
TINY = Policy.h2o(4, 12)


TEMPLATE = """{% if messages[0].role == 'assistant' %}{{ raise_exception('a chat begins with the user') }}{% endif -%}
{% for message in messages %}{{ message.role }}: {{ message.content }}
{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"""


@pytest.fixture(scope="session")
def reference() -> tuple[Any, Any]:
    """The bundled model and its tokenizer."""
    return load_model("reference", "cpu")


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    """Eight prompts of mixed lengths that the bundled model has learned to go on from."""
    spec = SampleSpec(scene="chat", seed="serve-1", tokens=(40, 400), search=8, select=8, report=8)
    return [f"{each.context}\nQuestion: {each.question}\nAnswer:" for each in bundled_samples(spec, 8)]


@pytest.fixture(scope="session")
def undecided(prompts: list[str]) -> str:
    """A prompt that goes on in many ways, so that a sampled text tells policies apart."""
    return max(prompts, key=len).partition("Question:")[0] + "Question:"


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the bundled model, with a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "chat-model"
    shutil.copytree(Path(studies.__file__).parent / "reference_model", folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="session")
def config(reference: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an exported config."""
    folder = tmp_path_factory.mktemp("config")
    A2SFConfig(fingerprint(reference[0]), "chat", POLICY, evidence={"status": "adopt"}).save_pretrained(folder)
    return folder

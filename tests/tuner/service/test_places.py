"""Which models a study may name: those of the allowed folders, the bundled ones, and Hub names that were allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from a2sf_core import A2SFError
from tuner.service.places import Places


def test_a_hub_name_is_taken_only_where_it_was_allowed(tmp_path: Path) -> None:
    places = Places(tmp_path, hub_models=("Qwen/Qwen3-0.6B",))
    places.check()
    assert places.model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert "Qwen/Qwen3-0.6B" in places.model_names()
    with pytest.raises(A2SFError, match=r"There is no model 'Qwen/Qwen3-0\.7B' here; did you mean 'Qwen/Qwen3-0\.6B'"):
        places.model("Qwen/Qwen3-0.7B")
    with pytest.raises(A2SFError, match=r"There is no model 'Qwen/Qwen3-0\.6B' here"):
        Places(tmp_path).model("Qwen/Qwen3-0.6B")


@pytest.mark.parametrize("name", ["gpt2", "../models/x", "owner/model/file", "owner/", "/srv/model"])
def test_what_is_no_hub_name_is_refused_at_the_start(tmp_path: Path, name: str) -> None:
    with pytest.raises(A2SFError, match=f"--hub-model is '{name}'; expected a name on the Hub such as 'owner/model'"):
        Places(tmp_path, hub_models=(name,)).check()

"""A whole run that is cut before the question: what it exports, says, and refuses."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from a2sf_core.config import A2SFConfig
from a2sf_core.errors import A2SFError
from studies.samples import SampleSpec, bundled_samples
from tests.tuner.conftest import Finished, Recorded
from tuner.alpha.advice import suggest_alpha
from tuner.reporting.screen import show
from tuner.run import tune
from tuner.settings import Settings


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The bundled model on eight short lists with three questions each."""
    folder = tmp_path_factory.mktemp("shared")
    data = folder / "lists.jsonl"
    spec = SampleSpec(
        scene="knowledge", seed="test", tokens=(64, 100), questions=3, search=3, select=3, report=3,
    )  # fmt: skip
    data.write_text("".join(json.dumps(asdict(sample)) + "\n" for sample in bundled_samples(spec, 24)))
    settings = Settings(
        "knowledge", 14, data=str(data), out=folder / "run", device="cpu", max_degradation=60.0, cut="context"
    )
    watch = Recorded()
    return Finished(settings, tune(settings, watch=watch), watch)


def test_the_file_and_the_report_say_which_cut_it_was(shared: Finished, finished: Finished) -> None:
    config = A2SFConfig.from_pretrained(shared.result.folder)
    assert config.cut == config.evidence["cut"] == config.evidence["study"]["cut"] == "context"
    assert json.loads((shared.result.folder / "report.json").read_text())["cut"] == "context"
    assert suggest_alpha(80, shared.result.folder).count("task knowledge cut before the question") == 1
    late = A2SFConfig.from_pretrained(finished.result.folder)
    assert late.cut == late.evidence["cut"] == "prompt"
    assert "cut" not in late.evidence["study"]


def test_the_screen_says_it(shared: Finished, finished: Finished) -> None:
    for run, times in ((shared, 1), (finished, 0)):
        written = io.StringIO()
        show(Console(file=written, width=400), run.result)
        assert written.getvalue().count("Cut before the question: each context is pruned once") == times


def test_contexts_are_counted_and_kept_in_one_part(shared: Finished) -> None:
    assert shared.result.evidence.samples.contexts_shared_between_splits == 0
    assert any("report samples on" in said and "contexts can prove" in said for said in shared.watch.said)


@pytest.mark.parametrize("which", ["shared", "finished"])
def test_a_run_is_not_resumed_with_the_other_cut(which: str, request: pytest.FixtureRequest) -> None:
    run: Finished = request.getfixturevalue(which)
    other = "prompt" if which == "shared" else "context"
    words = "context, now prompt" if which == "shared" else "prompt, now context"
    with pytest.raises(A2SFError, match=rf"holds a study with another cut \({words}\); continue it with the same"):
        tune(replace(run.settings, cut=other))


def test_points_of_the_other_cut_are_taken_over_with_a_word(shared: Finished, tmp_path: Path) -> None:
    watch = Recorded()
    warm = replace(shared.settings, cut="prompt", out=tmp_path / "new", trials=1, warm_start=(shared.result.folder,))
    tune(warm, watch=watch)
    assert any("was tuned for cut: context, this run is for cut: prompt" in said for said in watch.said)

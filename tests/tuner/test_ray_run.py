"""A whole run with the samples at Ray actors, one of which is really killed: the same as in one process."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import ray

from a2sf_core.errors import A2SFError
from studies.samples import SampleSpec, bundled_samples
from tests.tuner.conftest import Recorded
from tuner.inputs.check import check_ray
from tuner.run import tune
from tuner.search.storage import read_trials
from tuner.settings import Settings
from tuner.watch import Progress

pytestmark = pytest.mark.long
TRIALS, KILLED_AT = 36, 30


def actors_of(parent: int) -> Iterator[int]:
    """Processes of Ray actors that `parent` has started, over however many others."""
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            command = Path(f"/proc/{child}/cmdline")
            if command.exists() and command.read_bytes().startswith(b"ray::Worker"):
                yield int(child)
            if command.exists():
                yield from actors_of(int(child))


@dataclass
class Killer(Recorded):
    """Kills an actor in the middle of the trials."""

    killed: list[int] = field(default_factory=list)

    def step(self, name: str) -> Progress:
        """As recorded, but for the trials."""
        told = super().step(name)

        def progress(done: int, total: int) -> None:
            told(done, total)
            if name == "Trials" and done == KILLED_AT and not self.killed:
                self.killed = sorted(actors_of(os.getpid()))
                os.kill(self.killed[0], signal.SIGKILL)

        return progress


def found_in(folder: Path) -> list[tuple[Any, ...]]:
    """Everything but how long it took."""
    return [
        (each.label, each.params, each.state, each.policy_json, {**each.metrics, "seconds": 0.0})
        for each in read_trials(folder)
    ]


def test_a_study_with_a_killed_actor_finds_what_one_process_finds(tmp_path: Path) -> None:
    data = tmp_path / "lists.jsonl"
    spec = SampleSpec(scene="knowledge", seed="test", tokens=(64, 100), search=40, select=20, report=40)
    data.write_text("".join(json.dumps(asdict(sample)) + "\n" for sample in bundled_samples(spec, 100)))
    alone = Settings(
        "knowledge", TRIALS, data=str(data), out=tmp_path / "alone", device="cpu", max_degradation=20.0
    )  # fmt: skip
    shared = replace(alone, out=tmp_path / "shared", ray="local", actors=2)
    watch = Killer()
    results = [tune(alone, watch=Recorded()), tune(shared, watch=watch)]
    assert len(watch.killed) == 2
    assert not ray.is_initialized(), "a run leaves nothing behind"
    assert found_in(tmp_path / "alone") == found_in(tmp_path / "shared")
    policies = [json.loads((each.folder / "a2sf_config.json").read_text())["policy"] for each in results]
    assert policies[0] == policies[1]
    assert results[0].sentence == results[1].sentence


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"actors": 2}, "say where with --ray local or an address"),
        ({"ray": "lokal"}, "did you mean 'local'"),
        ({"ray": "local", "actors": 0}, "expected 1 to 1000"),
        ({"ray": "local", "device": "cuda:1"}, "every actor has its own"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_started(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(A2SFError, match=sentence):
        check_ray(Settings("chat", 1, **given))

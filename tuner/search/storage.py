"""Where trials are kept: one journal file per study, one write per finished trial, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from a2sf_core.errors import A2SFError
from a2sf_core.foreign import check_regular
from a2sf_core.policy import Policy
from tuner.search.journal import MAX_BYTES, check_for_resume, check_lines, check_trials
from tuner.search.kept import Turn
from tuner.search.objectives import DIRECTIONS, MEMORY
from tuner.search.profile import PART_FILE, PROFILE_FILE
from tuner.search.records import FirstTrial, TrialRecord
from tuner.search.trials import check_identity, count_look, finished, record_of, records_of

JOURNAL = "study.journal"
LEARNED_FILE = "learned.json"
"""Where `tuner.search.learned_file` keeps what was learned."""
_NAME = "a2sf"


class Storage:
    """The journal of one study, opened or created: what it was made with, its finished trials, its looks at the report.

    Args:
        run_dir: the study's folder.
        identity: what must be the same for a resume to make sense (model, task, data, space): name to value.

    Raises:
        A2SFError: if the folder holds a study with another identity, or cannot be written.
    """

    stream = 0

    def __init__(self, run_dir: Path, identity: Mapping[str, str]) -> None:
        # Optuna's lock is a link to the journal: a relative one would dangle, and a stale one then never be noticed.
        path = run_dir.resolve() / JOURNAL
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            if path.exists():
                _drop_torn_line(path)
            self._study = _open(
                path,
                lambda storage: optuna.create_study(
                    storage=storage, study_name=_NAME, directions=DIRECTIONS, load_if_exists=True
                ),
            )
        except OSError as error:
            raise cannot_write(run_dir, error) from None
        self._check_identity(run_dir, identity)
        self._earlier = self.trials()
        check_for_resume(path, self._earlier)

    def _check_identity(self, run_dir: Path, identity: Mapping[str, str]) -> None:
        stored: dict[str, str] = self._study.user_attrs.get("identity", {})
        if self._study.get_trials(deepcopy=False):
            check_identity(str(run_dir), stored, identity, "--out ANOTHER_FOLDER")
        elif stored != dict(identity):  # nothing was finished, so nothing is lost by starting anew
            for name in (PROFILE_FILE, PART_FILE, LEARNED_FILE):
                (run_dir / name).unlink(missing_ok=True)
            self._study.set_user_attr("identity", dict(identity))

    def claim(self, goal: int, most: int, first: Sequence[FirstTrial]) -> list[Turn]:
        """As `Kept` has it; nobody else is at work here."""
        done = self.trials()
        known = {trial.user_attrs.get("label") for trial in done}
        waiting = [trial for trial in first if trial.label not in known]
        places = range(len(done), min(goal, len(done) + most))
        return [Turn(number, waiting.pop(0) if waiting else None) for number in places]

    def fresh(self) -> list[FrozenTrial]:
        """As `Kept` has it: those of earlier runs, once."""
        found, self._earlier = self._earlier, []
        return found

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """As `Kept` has it."""
        yield

    @contextmanager
    def concluding(self) -> Iterator[None]:
        """As `Kept` has it."""
        yield

    def add(self, trial: FrozenTrial, _: Turn) -> None:
        """Keep a finished trial: one write."""
        self._study.add_trial(trial)

    def trials(self) -> list[FrozenTrial]:
        """Every finished trial as Optuna knows it."""
        return finished(self._study)

    def records(self) -> list[TrialRecord]:
        """Every finished trial; one that was interrupted is not among them."""
        return records_of(self._study, self.trials())

    def count_report_look(self, policies: Sequence[Policy]) -> int:
        """Note which policies the report split is about to be shown, and say how many choices it has seen by now."""
        return count_look(self._study, policies)


def write_copy(run_dir: Path, attributes: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> None:
    """Make the journal of a study that was kept elsewhere, whole or not at all: its folder is like any other then."""
    path = run_dir.resolve() / JOURNAL
    part = path.with_name(f"{JOURNAL}.part")
    part.unlink(missing_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(part))), study_name=_NAME, directions=DIRECTIONS
    )
    for name, value in attributes.items():
        study.set_user_attr(name, value)
    study.add_trials(trials)
    part.replace(path)


def cannot_write(folder: Path, error: OSError) -> A2SFError:
    """The sentence for a run folder that cannot be made or written."""
    return A2SFError(f"cannot write the study to {folder} ({error.strerror}); choose a writable folder with --out.")


def read_front(run_dir: Path) -> list[TrialRecord]:
    """The best trials of a study, smallest cache first, without changing anything in its folder.

    Raises:
        A2SFError: if there is no study in `run_dir`, or none of its trials was finished.
    """
    study = _open_for_reading(run_dir)
    records = [record_of(trial, True) for trial in study.best_trials]
    if not records:
        raise A2SFError(f"No trial of the study in {run_dir} was finished, so nothing can be taken over from it.")
    return sorted(records, key=lambda record: record.metrics[MEMORY])


def read_trials(run_dir: Path) -> list[TrialRecord]:
    """Every finished trial of a study that may be running, without changing anything in its folder.

    Raises:
        A2SFError: if there is no study in `run_dir`.
    """
    study = _open_for_reading(run_dir)
    return records_of(study, finished(study))


def read_identity(run_dir: Path) -> dict[str, str]:
    """What the study in `run_dir` was made with: model, task, data and so on. Raises as `read_front` does."""
    return dict(_open_for_reading(run_dir).user_attrs.get("identity", {}))


def _open_for_reading(run_dir: Path) -> optuna.Study:
    path = run_dir / JOURNAL
    if not path.exists():
        raise A2SFError(f"{run_dir} holds no study ({JOURNAL} is missing); give the folder of an earlier run.")
    try:
        return _open(path, lambda storage: optuna.load_study(storage=storage, study_name=_NAME))
    except OSError as error:
        raise A2SFError(f"{path} cannot be read ({error.strerror}); give the folder of an earlier run.") from None


def _open(path: Path, how: Callable[[JournalStorage], optuna.Study]) -> optuna.Study:
    """The study in the journal at `path`, checked to its last trial."""
    if path.exists():
        check_lines(path)
    try:
        study = how(JournalStorage(JournalFileBackend(str(path))))
        trials = finished(study)
    except OSError:
        raise
    except Exception as error:  # Optuna takes lines for granted, and fails in as many ways as they can be wrong
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise A2SFError(f"{path} is not a readable Optuna journal ({said}); move it away or use --out.") from error
    if [direction.name.lower() for direction in study.directions] != list(DIRECTIONS):
        raise A2SFError(f"{path} is a study of other objectives; move it away or use --out.")
    check_trials(path, study.user_attrs, trials)
    return study


def _drop_torn_line(journal: Path) -> None:
    """Cut off a last line that a kill or a power cut left unfinished; what it would have said never happened."""
    check_regular(journal, "the study", MAX_BYTES)
    if not (content := journal.read_bytes()).endswith(b"\n"):
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)

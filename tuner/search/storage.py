"""Where trials are kept: one journal file per study, one write per finished trial, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from a2sf_core.cuts import PROMPT
from a2sf_core.errors import A2SFError
from a2sf_core.foreign import check_regular
from a2sf_core.policy import Policy
from tuner.search.journal import MAX_BYTES, check_for_resume, check_lines, check_trials
from tuner.search.objectives import DIRECTIONS, MEMORY
from tuner.search.profile import PART_FILE, PROFILE_FILE
from tuner.search.records import TrialRecord

JOURNAL = "study.journal"
LEARNED_FILE = "learned.json"
"""Where `tuner.search.learned_file` keeps what was learned."""
_NAME, _RESULT = "a2sf", "result"
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@dataclass(frozen=True)
class TrialResult:
    """What was measured of a trial, kept in the journal beside Optuna's own fields.

    policy: the whole policy as JSON. metrics: means over the samples seen. sample_kl: of each of them, in their order.
    error: why there are no figures; empty if there are.
    """

    policy: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    sample_kl: Sequence[float] = ()
    error: str = ""

    def write_to(self, trial: Trial) -> None:
        """Attach it to a trial that is about to be told."""
        figures = {"error": self.error} if self.error else {"metrics": self.metrics, "sample_kl": self.sample_kl}
        trial.set_user_attr(_RESULT, {"policy": self.policy, **figures})

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialResult:
        """That of a finished trial; what earlier versions measured, and no longer counts, is left out."""
        told = trial.user_attrs[_RESULT]
        return cls(**{each.name: told[each.name] for each in fields(cls) if each.name in told})


class Storage:
    """The journal of one study, opened or created: what it was made with, its finished trials, its looks at the report.

    Args:
        run_dir: the study's folder.
        identity: what must be the same for a resume to make sense (model, task, data, space): name to value.

    Raises:
        A2SFError: if the folder holds a study with another identity, or cannot be written.
    """

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
        check_for_resume(path, self.trials())

    def _check_identity(self, run_dir: Path, identity: Mapping[str, str]) -> None:
        stored: dict[str, str] = self._study.user_attrs.get("identity", {})
        if not self._study.get_trials(deepcopy=False):  # nothing was finished, so nothing is lost by starting anew
            if stored != dict(identity):
                for name in (PROFILE_FILE, PART_FILE, LEARNED_FILE):
                    (run_dir / name).unlink(missing_ok=True)
                self._study.set_user_attr("identity", dict(identity))
            return
        stored = {"cut": PROMPT, **stored}  # studies are cut after the prompt unless they say otherwise
        for name, value in {"cut": PROMPT, **identity}.items():
            if stored.get(name) != value:
                mend = "continue it with the same settings, or start a new one with --out ANOTHER_FOLDER."
                if name == "search space":
                    mend = (
                        "one that an earlier version made cannot be resumed: start a new one with --out "
                        "ANOTHER_FOLDER; else give --family, --rule and --no-per-head as before."
                    )
                raise A2SFError(
                    f"{run_dir} holds a study with another {name} ({stored.get(name)}, now {value}); {mend}"
                )

    def add(self, trial: FrozenTrial) -> None:
        """Keep a finished trial: one write."""
        self._study.add_trial(trial)

    def trials(self) -> list[FrozenTrial]:
        """Every finished trial as Optuna knows it."""
        return _finished(self._study)

    def records(self) -> list[TrialRecord]:
        """Every finished trial; one that was interrupted is not among them."""
        return _records(self._study)

    def count_report_look(self, policies: Sequence[Policy]) -> int:
        """Note which policies the report split is about to be shown, and say how many choices it has seen by now."""
        looks: list[str] = self._study.user_attrs.get("report_looks", [])
        look = json.dumps([policy.to_dict() for policy in policies])
        if look not in looks:
            looks = [*looks, look]
            self._study.set_user_attr("report_looks", looks)
        return len(looks)


def cannot_write(folder: Path, error: OSError) -> A2SFError:
    """The sentence for a run folder that cannot be made or written."""
    return A2SFError(f"cannot write the study to {folder} ({error.strerror}); choose a writable folder with --out.")


def read_front(run_dir: Path) -> list[TrialRecord]:
    """The best trials of a study, smallest cache first, without changing anything in its folder.

    Raises:
        A2SFError: if there is no study in `run_dir`, or none of its trials was finished.
    """
    study = _open_for_reading(run_dir)
    records = [_record(trial, True) for trial in study.best_trials]
    if not records:
        raise A2SFError(f"No trial of the study in {run_dir} was finished, so nothing can be taken over from it.")
    return sorted(records, key=lambda record: record.metrics[MEMORY])


def read_trials(run_dir: Path) -> list[TrialRecord]:
    """Every finished trial of a study that may be running, without changing anything in its folder.

    Raises:
        A2SFError: if there is no study in `run_dir`.
    """
    return _records(_open_for_reading(run_dir))


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
        finished = _finished(study)
    except OSError:
        raise
    except Exception as error:  # Optuna takes lines for granted, and fails in as many ways as they can be wrong
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise A2SFError(f"{path} is not a readable Optuna journal ({said}); move it away or use --out.") from error
    if [direction.name.lower() for direction in study.directions] != list(DIRECTIONS):
        raise A2SFError(f"{path} is a study of other objectives; move it away or use --out.")
    check_trials(path, study.user_attrs, finished)
    return study


def _drop_torn_line(journal: Path) -> None:
    """Cut off a last line that a kill or a power cut left unfinished; what it would have said never happened."""
    check_regular(journal, "the study", MAX_BYTES)
    if not (content := journal.read_bytes()).endswith(b"\n"):
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _records(study: optuna.Study) -> list[TrialRecord]:
    best = {trial.number for trial in study.best_trials}
    return [_record(trial, trial.number in best) for trial in _finished(study)]


def _record(trial: FrozenTrial, pareto: bool) -> TrialRecord:
    result, told = TrialResult.of(trial), trial.user_attrs  # what the sampler proposed was told nothing
    return TrialRecord(
        number=trial.number,
        state=_STATES[trial.state],
        label=told.get("label", "search"),
        params=trial.params,
        metrics=result.metrics,
        policy_json=result.policy,
        pareto=pareto,
        error=result.error,
        started_ms=int(trial.datetime_start.timestamp() * 1000),
        ended_ms=int(trial.datetime_complete.timestamp() * 1000),
        kind=told.get("kind", "search"),
        method=told.get("method", ""),
    )

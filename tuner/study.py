"""The Optuna study: two objectives, baselines first, kept in a journal file that survives being killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from a2sf_core.errors import A2SFError
from a2sf_core.policy import Policy
from tuner.engine import Engine
from tuner.losses import Losses
from tuner.records import TrialRecord
from tuner.space import SPACE, enqueued, policy_of

JOURNAL = "study.journal"
QUALITY = "nll_increase"
MEMORY = "cache_fraction"

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Study:
    """One study in one folder, opened or created.

    Args:
        run_dir: its folder; the journal is the only state.
        identity: what must be the same for a resume to make sense (model, task, data, space): name to value.
        seed: of the sampler. A resumed study draws from another point of the stream: same quality, other trials.

    Raises:
        A2SFError: if the folder holds a study with another identity, or cannot be written.
    """

    def __init__(self, run_dir: Path, identity: Mapping[str, str], seed: int) -> None:
        self.run_dir = run_dir
        path = run_dir / JOURNAL
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            _drop_torn_line(path)
            storage = JournalStorage(JournalFileBackend(str(path)))
            self._study = optuna.create_study(
                storage=storage, study_name="a2sf", directions=["minimize", "minimize"], load_if_exists=True
            )
        except OSError as error:
            raise A2SFError(
                f"cannot write the study to {run_dir} ({error.strerror}); choose a writable folder with --out."
            ) from None
        except (KeyError, ValueError) as error:
            raise A2SFError(f"{path} is not a readable Optuna journal ({error}); move it away or use --out.") from None
        self._check_identity(identity)
        self._close_interrupted()
        done = len(self._study.trials)
        self._study.sampler = optuna.samplers.TPESampler(
            multivariate=True, constant_liar=True, seed=seed + done, n_startup_trials=30
        )

    def _check_identity(self, identity: Mapping[str, str]) -> None:
        stored: dict[str, str] = self._study.user_attrs.get("identity", {})
        if not stored:
            self._study.set_user_attr("identity", dict(identity))
            return
        for name, value in identity.items():
            if stored.get(name) != value:
                raise A2SFError(
                    f"{self.run_dir} holds a study with another {name} ({stored.get(name)}, now {value}); "
                    "continue it with the same settings, or start a new one with --out ANOTHER_FOLDER."
                )

    def _close_interrupted(self) -> None:
        """A trial that was running when the process died never ends by itself; it is closed and not counted."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)

    def run(self, engine: Engine, full: Losses, trials: int, on_trial: Callable[[int], None]) -> None:
        """Run until ``trials`` trials are finished; ``on_trial`` gets their number after each.

        Every study begins with the baselines (`tuner.space.enqueued`); search starts once they are done.
        """
        waiting = {trial.user_attrs.get("label") for trial in self._study.get_trials(states=(TrialState.WAITING,))}
        done = {record.label for record in self.records()}
        for label, params in enqueued().items():
            if label not in done | waiting:
                self._study.enqueue_trial(dict(params), user_attrs={"label": label})
        for finished in range(len(self.records()), trials):
            self._run_one(engine, full)
            on_trial(finished + 1)

    def _run_one(self, engine: Engine, full: Losses) -> None:
        trial = self._study.ask()
        started = time.time()
        params = {
            name: trial.suggest_int(name, int(r.low), int(r.high))
            if r.whole
            else trial.suggest_float(name, r.low, r.high, log=r.log)
            for name, r in SPACE.items()
        }
        policy = policy_of(params, engine.n_layers)
        losses = engine.evaluate(policy)
        trial.set_user_attr("policy", json.dumps(policy.to_dict()))
        if not losses.finite():
            trial.set_user_attr("error", "the model gave NaN or infinity")
            self._study.tell(trial, state=TrialState.FAIL)
            return
        metrics = summary(losses, full) | {"seconds": time.time() - started}
        trial.set_user_attr("metrics", metrics)
        self._study.tell(trial, [metrics[QUALITY], metrics[MEMORY]])

    def count_report_look(self, policies: list[Policy]) -> int:
        """Note which policies the report split is about to be shown, and say how many choices it has seen by now."""
        looks: list[str] = self._study.user_attrs.get("report_looks", [])
        look = json.dumps([policy.to_dict() for policy in policies])
        if look not in looks:
            looks = [*looks, look]
            self._study.set_user_attr("report_looks", looks)
        return len(looks)

    def records(self) -> list[TrialRecord]:
        """Every finished trial; one that was interrupted is not among them."""
        best = {trial.number for trial in self._study.best_trials}
        return [
            _record(trial, trial.number in best)
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state == TrialState.COMPLETE or "error" in trial.user_attrs
        ]


def _drop_torn_line(journal: Path) -> None:
    """Cut off a last line that a kill or a power cut left unfinished; what it would have said never happened."""
    if journal.exists() and not (content := journal.read_bytes()).endswith(b"\n"):
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def summary(losses: Losses, full: Losses) -> dict[str, float]:
    """Means over the samples, quality relative to the full cache: nats for ``nll_increase``, points for accuracy."""
    return {
        QUALITY: float((losses.nll - full.nll).mean()),
        MEMORY: float(losses.cache_fraction.mean()),
        "nll": float(losses.nll.mean()),
        "kl": float(losses.kl.mean()),
        "token_accuracy": float(losses.accuracy.mean()),
        "accuracy_drop_points": 100 * float((full.accuracy - losses.accuracy).mean()),
        "changed_tokens": float(losses.changed.mean()),
    }


def policy_from(record: TrialRecord) -> Policy:
    """The policy that a trial measured."""
    return Policy.from_dict(json.loads(record.policy_json))


def _record(trial: Any, pareto: bool) -> TrialRecord:
    return TrialRecord(
        number=trial.number,
        state="complete" if trial.state == TrialState.COMPLETE else "failed",
        label=trial.user_attrs.get("label", "search"),
        params=trial.params,
        metrics=trial.user_attrs.get("metrics", {}),
        policy_json=trial.user_attrs.get("policy", ""),
        pareto=pareto,
        error=trial.user_attrs.get("error", ""),
        started_ms=int(trial.datetime_start.timestamp() * 1000),
        ended_ms=int(trial.datetime_complete.timestamp() * 1000),
    )

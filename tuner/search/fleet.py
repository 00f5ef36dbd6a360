"""One study that many workers share: whole trials in Optuna's tables, and beside them leases that say who does what.

Optuna's own way (`study.optimize`, step by step, heartbeats) runs more trials than asked for when a worker dies, stops
when the database restarts, and waits for a dozen writes a trial. Here a worker asks in memory, writes a trial once,
and does every call again until the database answers. A trial belongs to a numbered turn: of two that claim the same
turn, which a worker that was frozen for longer than its lease could bring about, the first one counts for everybody.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from optuna.trial import FrozenTrial

from a2sf_core.errors import A2SFError
from a2sf_core.files import write_whole
from a2sf_core.policy import Policy
from tuner.database import Database
from tuner.search.journal import TURN, check_for_resume, check_trials
from tuner.search.kept import EndsElsewhere, Turn
from tuner.search.leases import CONCLUDE, LEASE, PREPARE, STUDY_TABLES, TRIAL, Lease, Leases, Taken
from tuner.search.profile import PART_FILE, PROFILE_FILE
from tuner.search.records import FirstTrial, TrialRecord
from tuner.search.shared_study import AWAY, MEND, OPTION, Tried, open_study
from tuner.search.storage import JOURNAL, LEARNED_FILE, write_copy
from tuner.search.trials import check_identity, count_look, finished, records_of

WORKER_FILE = ".worker.id"
_POLL = 0.5
_SHARED = (PROFILE_FILE, LEARNED_FILE)


class Fleet:
    """One worker's side of a study in a database; it keeps what `tuner.search.kept.Kept` asks for.

    Args:
        address: `postgresql://USER@HOST/NAME`, or `sqlite:///FILE` for workers on one machine.
        name: of the study in the database.
        run_dir: this worker's own folder.
        identity: what all workers must have in common (model, task, data, space): name to value.
        say: told when the database is away and when it is back, and what is waited for.
        lease: seconds that a worker may be silent.

    Raises:
        A2SFError: for an address that leads nowhere, or if the study has another identity.
    """

    def __init__(
        self,
        address: str,
        name: str,
        run_dir: Path,
        identity: Mapping[str, str],
        say: Callable[[str], None] = lambda _: None,
        lease: float = LEASE,
    ) -> None:
        if (run_dir / JOURNAL).exists() and not (run_dir / WORKER_FILE).exists():
            raise A2SFError(f"{run_dir} holds a study of its own; give this worker a folder with --out ANOTHER_FOLDER.")
        self.stream = secrets.randbelow(2**31)
        self._say, self._run_dir = say, run_dir
        self._place = f"{socket.gethostname()}:{run_dir.resolve()}"
        self._database = Database(address, patience=0.0, option=OPTION, tables=STUDY_TABLES)
        self._tried = Tried(self._database.shown, say)
        self._where = f"study {name!r} in {self._database.shown}"
        self._leases = Leases(self._database, name, f"{_own_id(run_dir)} {self._place}"[:300], lease)
        self._held: dict[tuple[str, int], Lease] = {}
        self._told: set[int] = set()
        self._stop = Event()
        agreed: dict[str, str] = json.loads(self._tried(lambda: self._leases.agree(json.dumps(dict(identity)))))
        check_identity(f"the database {self._database.shown}", agreed, identity, "--study NAME")
        self._study = open_study(address, name, agreed)
        attributes = self._tried(lambda: self._study.user_attrs)
        check_trials(self._where, attributes, (), MEND)
        self._check(self.trials())
        self._fetch()
        self._beats = Thread(target=self._beat, args=(lease / 4,), name="leases", daemon=True)
        self._beats.start()

    def close(self) -> None:
        """Let go of the database and of what is not done; others have it at once."""
        self._stop.set()
        self._beats.join()
        with suppress(*AWAY):
            self._leases.give_back(tuple(self._held.values()))
        self._database.close()

    # ---- trials --------------------------------------------------------------------------------------------

    def claim(self, goal: int, most: int, first: Sequence[FirstTrial]) -> list[Turn]:
        """As `Kept` has it."""
        known = {trial.label: trial for trial in first}
        while (leases := self._tried(lambda: self._leases.claim_trials(goal, most, list(known)))) is None:
            time.sleep(_POLL)
        self._held |= {(lease.what, lease.number): lease for lease in leases}
        return [Turn(lease.number, known.get(lease.label), lease.attempt) for lease in leases]

    def fresh(self) -> list[FrozenTrial]:
        """As `Kept` has it."""
        found = [trial for trial in self.trials() if trial.user_attrs.get(TURN) not in self._told]
        self._check(found)
        self._told |= {trial.user_attrs[TURN] for trial in found}
        return found

    def add(self, trial: FrozenTrial, turn: Turn) -> None:
        """As `Kept` has it. If another worker has this turn by now, that one's trial counts and this one is dropped."""
        trial.set_user_attr(TURN, turn.number)
        lease = self._held[TRIAL, turn.number]
        if self._tried(lambda: self._put(trial, lease)):
            self._told.add(turn.number)
        del self._held[TRIAL, turn.number]

    def _put(self, trial: FrozenTrial, lease: Lease) -> bool:
        """May be called again after any fault in it: an answer may be lost though the trial was written."""
        if lease.number not in {known.user_attrs.get(TURN) for known in self._trials()}:
            if not self._leases.renew([lease]):
                return False
            self._study.add_trial(trial)
        self._leases.finish(lease)
        return True

    def trials(self) -> list[FrozenTrial]:
        """As `Kept` has it."""
        return self._tried(self._trials)

    def _trials(self) -> list[FrozenTrial]:
        of_turn: dict[int, FrozenTrial] = {}
        for trial in finished(self._study):
            of_turn.setdefault(trial.user_attrs.get(TURN, -1), trial)
        return list(of_turn.values())

    def records(self) -> list[TrialRecord]:
        """As `Kept` has it."""
        return self._tried(lambda: records_of(self._study, self._trials()))

    def count_report_look(self, policies: Sequence[Policy]) -> int:
        """As `Kept` has it."""
        return self._tried(lambda: count_look(self._study, policies))

    def _check(self, trials: Sequence[FrozenTrial]) -> None:
        for trial in trials:
            if TURN not in trial.user_attrs:
                raise A2SFError(f"{self._where}, trial {trial.number} was not made by a worker; {MEND}")
        check_trials(self._where, {}, trials, MEND)
        check_for_resume(self._where, trials, MEND)

    # ---- what is done once ---------------------------------------------------------------------------------

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """As `Kept` has it: one worker measures, the others wait and take its files."""
        is_said = False
        while isinstance(found := self._tried(lambda: self._leases.claim_once(PREPARE)), Taken) and not found.done:
            if not is_said:
                self._say("Another worker measures what shapes the search; its files are waited for.")
            is_said = True
            time.sleep(_POLL)
        if isinstance(found, Taken):
            self._fetch()
            yield
            return
        with self._doing(found, self._shared):
            yield

    @contextmanager
    def concluding(self) -> Iterator[None]:
        """As `Kept` has it; after it this worker's folder is an ordinary run folder, with a journal."""
        number = len(self.trials())
        found = self._tried(lambda: self._leases.claim_once(CONCLUDE, number, self._place))
        if isinstance(found, Taken) and found.done:
            raise EndsElsewhere(
                f"All {number} trials of {self._where} are finished; the policy lies in {found.said}, where the "
                "same command shows it again."
            )
        if isinstance(found, Taken):
            raise EndsElsewhere(
                f"All {number} trials of {self._where} are finished; another worker chooses, proves and exports "
                f"the policy into {found.said}."
            )
        with self._doing(found, lambda: self._place):
            yield
            write_copy(self._run_dir, self._tried(lambda: self._study.user_attrs), self.trials())

    @contextmanager
    def _doing(self, lease: Lease, said: Callable[[], str]) -> Iterator[None]:
        key = lease.what, lease.number
        self._held[key] = lease
        yield  # after a fault `close` gives it back
        self._tried(lambda: self._leases.finish(lease, said()))
        del self._held[key]

    def _shared(self) -> str:
        """What was measured here, for the others."""
        paths = [self._run_dir / name for name in _SHARED]
        return json.dumps({path.name: path.read_text(encoding="utf-8") for path in paths if path.exists()})

    def _fetch(self) -> None:
        """What shapes the search comes from the database; what lies in the folder may be another study's."""
        found = self._tried(lambda: self._leases.look(PREPARE))
        for name in (*_SHARED, PART_FILE):
            (self._run_dir / name).unlink(missing_ok=True)
        if found and found.done:
            files = json.loads(found.said)
            for name in set(files) & set(_SHARED):
                write_whole(self._run_dir / name, files[name])

    # ---- the database --------------------------------------------------------------------------------------

    def _beat(self, every: float) -> None:
        while not self._stop.wait(every):
            if held := tuple(self._held.values()):
                with suppress(*AWAY):
                    self._leases.renew(held)


def _own_id(run_dir: Path) -> str:
    """What tells this worker from others, also after it was started anew; kept in its folder."""
    path = run_dir / WORKER_FILE
    if not path.is_file():
        run_dir.mkdir(parents=True, exist_ok=True)
        write_whole(path, secrets.token_hex(8))
    return path.read_text(encoding="utf-8")[:64]

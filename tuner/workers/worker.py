"""One worker: takes a job, runs it in a process of its own, keeps its lease, and says how it ended."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from uuid import uuid4

from sqlalchemy.exc import DBAPIError

from tuner.database import Database
from tuner.printing import one_line, printable
from tuner.workers.child import Child
from tuner.workers.leases import LEASE, Claim, Ending, Leases, Word
from tuner.workers.progress import Heard
from tuner.workers.words import BUSY, STUDY

LOG = logging.getLogger("a2sf.worker")
_TICK = 0.2
_REPORT = 1.0  # seconds between two reports of a job that goes on
_IDLE = 1.0
_BEAT = 10.0


@dataclass(frozen=True)
class Options:
    """Of one worker.

    data: the folder of the service, in which jobs run. command: the process of a job. per_owner: studies of one owner
    that run at once, over all workers. room: bytes that must be free on the disk of `data` before a job begins. lease:
    seconds that the worker may be silent.
    """

    data: Path
    command: Sequence[str]
    per_owner: int
    room: int
    lease: float = LEASE


class Worker:
    """Works until `stop` is set; then the job that it has goes back into the queue, unharmed."""

    def __init__(self, database: Database, options: Options) -> None:
        self._options = options
        self.name = f"{socket.gethostname()[:100]}-{os.getpid()}-{uuid4().hex[:6]}"
        self._leases = Leases(database, self.name, options.lease)
        self._stop = Event()
        self._next_beat = 0.0
        self._short_of_room = False

    def stop(self) -> None:
        """From a signal handler or another thread."""
        self._stop.set()

    def run(self) -> None:
        """One job after the other."""
        while not self._stop.is_set():
            try:
                self._beat(busy=False)
                claim = self._leases.claim(self._options.per_owner) if self._has_room() else None
                if claim:
                    self._run(claim)
                else:
                    self._stop.wait(_IDLE)
            except DBAPIError as error:
                LOG.warning("the database does not answer (%s); trying again", type(error).__name__)
                self._stop.wait(_IDLE)
        with suppress(DBAPIError):  # without this it is forgotten after a minute
            self._leases.leave()

    def _beat(self, busy: bool) -> None:
        if time.monotonic() >= self._next_beat:
            self._leases.beat(busy)
            self._next_beat = time.monotonic() + _BEAT

    def _has_room(self) -> bool:
        free = shutil.disk_usage(self._options.data).free
        short = free < self._options.room
        if short and not self._short_of_room:
            LOG.warning("no job is begun: %d MB are free on the disk of the data folder", free // 10**6)
        self._short_of_room = short
        return not short

    def _run(self, claim: Claim) -> None:
        LOG.info("%s %s begins (attempt %d)", claim.kind, claim.id, claim.attempt)
        self._next_beat = 0.0
        self._beat(busy=True)
        child = Child(self._options.command, {"kind": claim.kind, "id": claim.id, **claim.task}, self._options.data)
        heard = Heard()
        try:
            word = self._follow(claim, child, heard)
        finally:
            child.kill()
            self._next_beat = 0.0
        if word is Word.LOST:
            LOG.warning("%s %s was lent to another worker", claim.kind, claim.id)
        elif word is Word.CANCEL:
            self._leases.cancelled(claim, self._bytes(claim))
            LOG.info("%s %s was cancelled", claim.kind, claim.id)
        elif self._stop.is_set() and not heard.has_ended:
            self._leases.give_back(claim)
            LOG.info("%s %s goes back into the queue", claim.kind, claim.id)
        else:
            self._end(claim, child, heard)

    def _follow(self, claim: Claim, child: Child, heard: Heard) -> Word:
        """Until the job's process has ended; it is ended here if the job is cancelled, lost, or this worker stops."""
        last_report = last_answer = time.monotonic()
        while child.returncode() is None:
            heard.take(child.messages())
            now = time.monotonic()
            if now - last_report >= (_REPORT if heard.is_unsaid else self._leases.lease / 6):
                last_report = now
                try:
                    word = self._leases.report(claim, heard.report(child.last_lines()))
                    self._beat(busy=True)
                    last_answer = now
                except DBAPIError:
                    # Without an answer the lease runs out, and another worker may begin.
                    silent = time.monotonic() - last_answer
                    word = Word.LOST if silent > self._leases.lease / 2 else Word.GO_ON
                if word is not Word.GO_ON:
                    child.stop()
                    return word
            if self._stop.wait(_TICK):
                child.stop()
        heard.take(child.messages())
        return Word.GO_ON

    def _end(self, claim: Claim, child: Child, heard: Heard) -> None:
        code = child.returncode()
        if self._leases.report(claim, heard.report(child.last_lines())) is Word.LOST:
            return
        if code == BUSY:
            LOG.info("%s %s: another process holds its folder still", claim.kind, claim.id)
            self._leases.give_back(claim)
            self._stop.wait(2 * _IDLE)
        elif code == 0 and heard.result is not None:
            self._leases.finish(claim, Ending(heard.result, n_bytes=self._bytes(claim)))
            LOG.info("%s %s is done", claim.kind, claim.id)
        elif heard.error:
            self._leases.finish(claim, Ending(error=printable(heard.error), n_bytes=self._bytes(claim)))
            LOG.info("%s %s failed: %s", claim.kind, claim.id, one_line(heard.error))
        else:
            how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            LOG.warning("%s %s: its process ended with %s", claim.kind, claim.id, how)
            self._leases.died(claim, how)

    def _bytes(self, claim: Claim) -> int:
        """What the job's folder holds."""
        if claim.kind != STUDY:
            return 0
        folder = self._options.data / str(claim.task["folder"])
        sizes = (path.stat(follow_symlinks=False).st_size for path in folder.rglob("*") if path.exists())
        return sum(sizes)

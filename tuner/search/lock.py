"""One run per folder, held by a lock of the operating system that dies with its process, however it dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from a2sf_core.errors import A2SFError
from a2sf_core.files import leftovers
from tuner.search.storage import JOURNAL, cannot_write


class InUse(A2SFError):
    """Another process holds the folder: wait for it, or take another one."""


LOCK, HOLDER = ".run.lock", ".run.pid"


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if missing, for the length of the block, and clear away what a killed run left in it.

    Raises:
        A2SFError: `InUse` if another process holds it, with its number; or if the folder cannot be written, now or
            later.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
        (folder / HOLDER).write_text(str(os.getpid()))
        # Optuna would wait 30 seconds before it believes that the holder of its own lock is gone.
        for path in (folder / f"{JOURNAL}.lock", *leftovers(folder)):
            path.unlink(missing_ok=True)
    except Timeout:
        database = folder.resolve() / "mlflow" / "mlflow.db"
        raise InUse(
            f"{folder} is in use by another run (process {_holder(folder)}): wait for it or end it, watch its trials "
            f"with `mlflow ui --backend-store-uri sqlite:///{database}`, or start one of its own with "
            "--out ANOTHER_FOLDER."
        ) from None
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        yield
    except (BrokenPipeError, ConnectionError):
        raise  # of whoever reads the output, or of the network
    except OSError as error:
        raise _cannot_go_on(folder, error) from error
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _cannot_go_on(folder: Path, error: OSError) -> A2SFError:
    """The sentence for a full disk, or a folder that went away under the run."""
    if not folder.is_dir():
        return A2SFError(f"{folder} was removed while the run wrote to it: the same command starts it anew.")
    where = error.filename or folder
    return A2SFError(
        f"cannot write {where} any more ({error.strerror or error}): make room or give this user write access, and run "
        "the same command again; every finished trial is kept."
    )


def _holder(folder: Path) -> str:
    try:
        return (folder / HOLDER).read_text()
    except OSError:
        return "unknown"  # it has just begun, or just ended

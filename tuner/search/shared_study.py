"""Optuna's study in a database: opened, and asked again while the database is away."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import DBAPIError

from a2sf_core.errors import A2SFError
from tuner.database import GONE, shown_url, url_of
from tuner.search.objectives import DIRECTIONS

OPTION = "--storage"
MEND = "give another name with --study."
AWAY = (StorageInternalError, *GONE)
"""What is raised while the database is away."""
PATIENCE = 600.0
"""Seconds for which it is waited for."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.3, 5.0
Found = TypeVar("Found")


class Tried:
    """Calls that are done again while the database is away, so they must bear to be done twice.

    Args:
        shown: what the database is called, without a password.
        say: told when it is away, and when it is back.
    """

    def __init__(self, shown: str, say: Callable[[str], None]) -> None:
        self._shown, self._say = shown, say

    def __call__(self, call: Callable[[], Found]) -> Found:
        """What `call` finds. Raises A2SFError if the database stays away."""
        began, pause, is_said = time.monotonic(), _FIRST_PAUSE, False
        while True:
            try:
                found = call()
            except AWAY as error:
                if time.monotonic() - began > PATIENCE:
                    raise A2SFError(
                        f"the database {self._shown} has not answered for {PATIENCE / 60:.0f} minutes "
                        f"({type(error).__name__}); every finished trial is kept, the same command goes on from there."
                    ) from None
                if pause > 1 and not is_said:
                    self._say(f"The database {self._shown} does not answer; it is tried again.")
                    is_said = True
            else:
                if is_said:
                    self._say("The database answers again.")
                return found
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def open_study(address: str, name: str, identity: Mapping[str, str]) -> optuna.Study:
    """The study `name`, made if it is not there. Raises A2SFError, without a password, if that cannot be."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it would print SQL for a database that is away
    url, limits = url_of(address, OPTION)

    where = shown_url(url)

    def work() -> optuna.Study:
        storage = RDBStorage(url.render_as_string(hide_password=False), {"connect_args": limits})
        study = optuna.create_study(storage=storage, study_name=name, directions=DIRECTIONS, load_if_exists=True)
        study.set_user_attr("identity", dict(identity))
        return study

    for last in (False,) * 19 + (True,):
        try:
            study = work()
            break
        except RuntimeError as error:  # the tables are those of another version of Optuna
            said = " ".join(str(error).split())[:200].rstrip(".")
            raise A2SFError(f"the database {where} cannot be used ({said}); give another {OPTION}.") from None
        except (StorageInternalError, DBAPIError) as error:  # others make the tables at the same moment
            if last:
                said = " ".join(str(error.__cause__ or error).split())[:200].rstrip(".")
                raise A2SFError(f"the database {where} cannot be used ({said}); check {OPTION}.") from None
        time.sleep(0.5)
    if [direction.name.lower() for direction in study.directions] != list(DIRECTIONS):
        raise A2SFError(f"study {name!r} in {where} has other objectives; {MEND}")
    return study

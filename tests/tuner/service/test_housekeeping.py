"""What nobody owns is removed once it is old, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import update

from tuner.database import default_address
from tuner.service.desk import Desk
from tuner.service.housekeeping import Housekeeping
from tuner.service.limits import Limits
from tuner.service.places import Places
from tuner.service.tables import opened
from tuner.workers.jobs import DONE, JOBS, new_id
from tuner.workers.words import STUDY, VALIDATION

DAY = 86_400


def test_only_what_is_old_and_belongs_to_nothing_goes(tmp_path: Path) -> None:
    places = Places(tmp_path)
    places.check()
    database = opened(default_address(tmp_path))
    desk = Desk.of(database, places, Limits(1, 1, 1, 0), "")
    kept, looked_at, orphan, young, upload = (new_id() for _ in range(5))
    desk.jobs.put(kept, STUDY, "anna", {}, {})
    desk.jobs.put(looked_at, VALIDATION, "anna", {}, {})
    database.write(lambda c: c.execute(update(JOBS).where(JOBS.c.id == looked_at).values(state=DONE, ended=1.0)))
    folders = [places.study(job) for job in (kept, looked_at, orphan, young)]
    folders.append(tmp_path / "samples" / upload)
    for folder in folders:
        folder.mkdir()
        if folder.name != young:
            os.utime(folder, (1.0, 1.0))
    Housekeeping(desk).tidy(DAY)
    assert [folder.name for folder in folders if folder.exists()] == [kept, young]
    assert desk.jobs.get("anna", STUDY, kept) is not None
    assert desk.jobs.get("anna", VALIDATION, looked_at) is None
    database.close()

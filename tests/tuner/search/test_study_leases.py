"""The leases of a study in a real SQLite file and a real PostgreSQL: every trial to one worker, nothing done twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete, update

from tests.tuner.tracking.servers import POSTGRES, database_of
from tuner.database import Database
from tuner.search.leases import CONCLUDE, LEASES, PREPARE, STUDY_TABLES, TRIAL, Lease, Leases, Taken

LABELS = ["full", "h2o", "tova"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"] if POSTGRES else ["sqlite"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with database_of(request.param, tmp_path_factory.mktemp("db")) as made:
        yield made


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    made = Database(address, tables=STUDY_TABLES)
    made.write(lambda connection: connection.execute(delete(LEASES)))
    yield made
    made.close()


def silence(database: Database, lease: Lease) -> None:
    """As if its worker had said nothing for longer than its lease."""
    of_lease = (LEASES.c.what == lease.what) & (LEASES.c.number == lease.number)
    database.write(lambda connection: connection.execute(update(LEASES).where(of_lease).values(lease_until=1.0)))


def test_workers_that_ask_at_once_get_every_trial_once(address: str, database: Database) -> None:
    def work(number: int) -> list[tuple[int, str]]:
        own = Database(address, tables=STUDY_TABLES)
        leases, got = Leases(own, "s", f"w{number}"), []
        while claimed := leases.claim_trials(30, 2, LABELS):
            got += [(lease.number, lease.label) for lease in claimed]
            for lease in claimed:
                leases.finish(lease)
        own.close()
        return got

    with ThreadPoolExecutor(6) as pool:
        got = [trial for some in pool.map(work, range(6)) for trial in some]
    assert sorted(number for number, _ in got) == list(range(30))
    labels = Counter(label for _, label in got)
    assert labels == {"full": 1, "h2o": 1, "tova": 1, "": 27}
    assert [label for _, label in sorted(got)][:3] == LABELS, "known methods come first"


def test_of_a_silent_worker_another_takes_over_and_it_can_harm_nothing(database: Database) -> None:
    silent, other = Leases(database, "s", "silent"), Leases(database, "s", "other")
    assert Leases(database, "another study", "silent").claim_trials(1, 1, LABELS)
    (lost,) = silent.claim_trials(1, 1, LABELS) or []
    assert lost.label == "full"
    assert other.claim_trials(1, 5, LABELS) is None, "all that is missing is under way"
    silence(database, lost)
    (again,) = other.claim_trials(1, 5, LABELS) or []
    assert (again.number, again.attempt, again.label) == (0, 2, "full")
    assert not silent.renew([lost])
    silent.finish(lost)
    silent.give_back([lost])
    assert silent.claim_trials(1, 1, LABELS) is None, "still the other's"
    other.finish(again)
    assert silent.claim_trials(1, 1, LABELS) == []
    assert [lease.number for lease in silent.claim_trials(3, 5, LABELS) or []] == [1, 2], "more was asked for"


def test_a_seed_that_a_worker_does_not_know_becomes_the_samplers(database: Database) -> None:
    gone, other = Leases(database, "s", "gone"), Leases(database, "s", "other")
    claimed = gone.claim_trials(9, 1, ["seed from runs/old, trial 3"])
    gone.give_back(claimed or [])
    (again,) = other.claim_trials(9, 1, LABELS) or []
    assert (again.number, again.label) == (0, "")


def test_what_is_done_once_waits_is_taken_over_and_is_told(database: Database) -> None:
    one, two = Leases(database, "s", "one"), Leases(database, "s", "two")
    first = one.claim_once(PREPARE)
    assert first == Lease(PREPARE, 0)
    assert two.claim_once(PREPARE) == Taken("one", False, "")
    silence(database, Lease(PREPARE, 0))
    assert two.claim_once(PREPARE) == Lease(PREPARE, 0, 2)
    assert one.look(PREPARE) == Taken("two", False, "")
    two.finish(Lease(PREPARE, 0, 2), "the profile")
    assert one.claim_once(PREPARE) == Taken("two", True, "the profile")
    assert two.claim_once(CONCLUDE, 5, "here") == Lease(CONCLUDE, 5)
    assert two.claim_once(CONCLUDE, 5, "here") == Lease(CONCLUDE, 5, 2), "it was started anew"
    assert one.claim_once(CONCLUDE, 5, "there") == Taken("two", False, "here")
    assert one.claim_once(CONCLUDE, 9, "there") == Lease(CONCLUDE, 9), "more trials are another result"


def test_the_first_worker_says_what_the_study_is(database: Database) -> None:
    assert Leases(database, "s", "one").agree("this") == "this"
    assert Leases(database, "s", "two").agree("that") == "this"
    assert Leases(database, "t", "two").agree("that") == "that"
    assert Leases(database, "s", "one").claim_trials(1, 1, ()) == [Lease(TRIAL, 0)]

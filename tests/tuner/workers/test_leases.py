"""The table of jobs in a real SQLite file and a real PostgreSQL: who gets what, and what becomes of the dead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete, update

from a2sf_core.errors import A2SFError
from tests.tuner.tracking.servers import POSTGRES, database_of
from tuner.database import Database
from tuner.service.tables import ALL, opened
from tuner.workers.jobs import CANCELLED, DONE, FAILED, JOBS, QUEUED, RUNNING, Jobs, new_id
from tuner.workers.leases import Ending, Leases, Report, Word, workers
from tuner.workers.words import STUDY, VALIDATION

KINDS = ["sqlite", "postgresql"] if POSTGRES else ["sqlite"]


@pytest.fixture(scope="module", params=KINDS)
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with database_of(request.param, tmp_path_factory.mktemp("db")) as made:
        yield made


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    found = opened(address)
    for table in ALL:
        found.write(lambda c, table=table: c.execute(delete(table)))  # type: ignore[misc]
    yield found
    found.close()


@pytest.fixture
def jobs(database: Database) -> Jobs:
    return Jobs(database)


@pytest.fixture
def put(jobs: Jobs) -> Callable[..., str]:
    def put_one(owner: str = "anna", kind: str = STUDY) -> str:
        return jobs.put(new_id(), kind, owner, {"name": "x"}, {"folder": "studies/x"}).id

    return put_one


def silence(database: Database, job: str) -> None:
    """As if its worker had said nothing for longer than its lease."""
    database.write(lambda c: c.execute(update(JOBS).where(JOBS.c.id == job).values(lease_until=1.0)))


def state(jobs: Jobs, job: str, owner: str = "anna") -> str:
    found = jobs.get(owner, STUDY, job)
    assert found is not None
    return found.state


def test_workers_that_ask_at_once_get_every_job_once(address: str, database: Database, put: Callable[..., str]) -> None:
    made = {put(owner) for owner in ("anna", "bert") for _ in range(12)}

    def work(number: int) -> list[str]:
        own = opened(address)
        leases, got = Leases(own, f"w{number}"), []
        while claim := leases.claim(per_owner=100):
            got.append(claim.id)
            leases.finish(claim, Ending({"n": number}))
        own.close()
        return got

    with ThreadPoolExecutor(6) as pool:
        got = [job for some in pool.map(work, range(6)) for job in some]
    assert Counter(got) == Counter(made)


def test_no_owner_has_more_than_allowed_even_when_asked_at_once(address: str, put: Callable[..., str]) -> None:
    for _ in range(8):
        put("anna")

    def claim(number: int) -> bool:
        own = opened(address)
        found = Leases(own, f"w{number}").claim(per_owner=3)
        own.close()
        return found is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(8))) == 3


def test_validations_first_then_whoever_has_least_then_the_oldest(database: Database, put: Callable[..., str]) -> None:
    first, second = put("anna"), put("anna")
    berts, looked_at = put("bert"), put("bert", VALIDATION)
    leases = Leases(database, "w")
    got = [leases.claim(per_owner=2) for _ in range(4)]
    assert [claim and claim.id for claim in got] == [looked_at, first, berts, second]
    assert leases.claim(per_owner=2) is None


def test_a_silent_worker_loses_its_job_and_can_harm_it_no_more(
    database: Database, jobs: Jobs, put: Callable[..., str]
) -> None:
    job = put()
    silent, other = Leases(database, "silent"), Leases(database, "other")
    lost = silent.claim(1)
    assert lost
    assert silent.report(lost, Report(mark=5, progress={"step": "Trials"})) is Word.GO_ON
    assert other.claim(1) is None, "it is still held"
    silence(database, job)
    assert state(jobs, job) == QUEUED, "as its owner sees it"
    again = other.claim(1)
    assert again
    assert (again.id, again.attempt) == (job, 2)
    assert silent.report(lost, Report(mark=6)) is Word.LOST
    silent.finish(lost, Ending(error="from the dead"))
    silent.give_back(lost)
    assert state(jobs, job) == RUNNING
    other.finish(again, Ending({"verdict": "fine"}, n_bytes=7))
    found = jobs.get("anna", STUDY, job)
    assert found
    assert (found.state, found.result, found.error) == (DONE, {"verdict": "fine"}, "")
    assert jobs.bytes_of("anna") == 7


def test_a_job_that_kills_its_process_twice_at_one_place_is_given_up_with_its_last_lines(
    database: Database, jobs: Jobs, put: Callable[..., str]
) -> None:
    job = put()
    leases = Leases(database, "w")
    for last in (False, True):
        claim = leases.claim(1)
        assert claim
        leases.report(claim, Report(mark=7, log="Fatal Python error"))
        leases.died(claim, "signal 9")
        assert state(jobs, job) == (FAILED if last else QUEUED)
    found = jobs.get("anna", STUDY, job)
    assert found
    assert "2 times at the same place (signal 9)" in found.error
    assert found.log == "Fatal Python error"
    assert leases.claim(1) is None


def test_deaths_with_progress_between_are_not_the_jobs_fault(
    database: Database, jobs: Jobs, put: Callable[..., str]
) -> None:
    job = put()
    leases = Leases(database, "w")
    for mark in range(1, 6):
        claim = leases.claim(1)
        assert claim
        leases.report(claim, Report(mark=mark))
        leases.died(claim, "signal 9")
    assert state(jobs, job) == QUEUED


def test_cancelling_in_every_state(database: Database, jobs: Jobs, put: Callable[..., str]) -> None:
    leases, silent = Leases(database, "w"), Leases(database, "silent")
    waiting = put()
    jobs.cancel("anna", STUDY, waiting)
    assert state(jobs, waiting) == CANCELLED
    running = put()
    claim = leases.claim(1)
    assert claim
    jobs.cancel("anna", STUDY, running)
    assert state(jobs, running) == RUNNING, "its worker ends it"
    assert leases.report(claim, Report()) is Word.CANCEL
    leases.give_back(claim)
    assert state(jobs, running) == CANCELLED, "also where the worker ends first"
    orphan = put()
    assert silent.claim(1)
    silence(database, orphan)
    jobs.cancel("anna", STUDY, orphan)
    assert state(jobs, orphan) == CANCELLED
    assert jobs.remove("anna", STUDY, orphan)
    assert jobs.get("anna", STUDY, orphan) is None


def test_nobody_sees_cancels_or_removes_what_is_anothers(jobs: Jobs, put: Callable[..., str]) -> None:
    job = put("anna")
    assert jobs.get("bert", STUDY, job) is None
    assert jobs.get("anna", VALIDATION, job) is None
    jobs.cancel("bert", STUDY, job)
    assert state(jobs, job) == QUEUED
    jobs.cancel("anna", STUDY, job)
    assert not jobs.remove("bert", STUDY, job)
    assert jobs.newest("bert", STUDY, 10) == []


def test_pages_of_a_list_hold_every_job_once(jobs: Jobs, put: Callable[..., str]) -> None:
    made = [put() for _ in range(7)]
    seen, before = [], None
    while page := jobs.newest("anna", STUDY, 3, before):
        seen += [job.id for job in page]
        before = page[-1].created
    assert seen == made[::-1]


def test_workers_are_counted_while_they_live(database: Database) -> None:
    one, two = Leases(database, "one"), Leases(database, "two")
    one.beat(busy=True)
    two.beat(busy=False)
    assert workers(database) == (2, 1)
    one.leave()
    assert workers(database) == (1, 0)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("mysql://a@b/c", "--database is for 'mysql'"),
        ("nonsense", "no address of a database"),
        ("postgresql://a2sf@127.0.0.1:9/x", "cannot be used"),
    ],
)
def test_an_address_that_leads_nowhere_is_one_sentence(address: str, said: str) -> None:
    with pytest.raises(A2SFError, match=said):
        Database(address, patience=0.1)

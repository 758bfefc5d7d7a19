"""Retention, compression and jobs: what goes is noted, and what is compressed is as it was."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from ingest.topics import SeriesKey
from storage.audit import Audit, StorageLine, audit
from storage.expiry import Keep, expire_all
from storage.flush import Flush
from storage.migrate import session_options
from storage.rows import Rows
from storage.sink import Outcome, Sink
from storage.standing import standing
from storage.upkeep import LEAST_KEPT_DAYS, Upkeep, settle
from tests.storage.database import Database
from tests.storage.flushes import (
    START_S,
    TOPIC,
    flush,
    letter,
    moment,
    opened,
    resolved,
    rows,
    state,
    tallied,
)
from tests.storage.timescale import COMMUNITY, needs_timescale

pytestmark = pytest.mark.integration

KEEP = Keep(readings=90, payloads=30, ledger=800, pages=400, alerts=1830)
UPKEEP = Upkeep(keep=KEEP, minutes=400, quarter_hours=1830, days=0, compress=7, reach=31)
KEYS = [SeriesKey("traffic", "harbour", f"sensor-{n}", "intensity") for n in (1, 2)]
DEADLINE_S = 90.0


def asked(database: Database, read: Any) -> Any:
    async def run() -> Any:
        async with await psycopg.AsyncConnection.connect(
            database.dsn, options=session_options(database.schema), autocommit=True
        ) as connection:
            return await read(connection)

    return asyncio.run(run())


def audited(database: Database) -> Audit:
    found: Audit = asked(database, lambda connection: audit(connection, None, None))
    return found


def write(database: Database, *flushes: Flush) -> list[Outcome]:
    async def run() -> list[Outcome]:
        sink = Sink(database.dsn, database.schema, "log-1")
        try:
            await sink.resume(TOPIC, 0)
            await sink.register(KEYS)
            return [await sink.write(one) for one in flushes]
        finally:
            await sink.close()

    return asyncio.run(run())


def days_ago(days: float) -> int:
    """Return seconds after START_S."""
    return int(datetime.now(UTC).timestamp() - START_S - days * 86_400)


# Retention


def test_everything_old_goes_and_the_audit_balances(database: Database) -> None:
    old, new = days_ago(2_000), days_ago(1)
    minutes = [(START_S + at) // 60 * 60 for at in (old, new)]
    lines = [
        tallied(2, minute_s=minute, messages=3, rejected=1, refused=4, withheld=2,
                reasons={"malformed-json": 1, "bad-time": 4}, kinds={"plate": 2})
        for minute in minutes
    ]  # fmt: skip
    letters = [
        letter(reason, records=records, received_ns=minute * 10**9)
        for minute in minutes
        for reason, records in (("malformed-json", 0), ("bad-time", 4))
    ]
    changes = [opened(1, old), resolved(1, old, old + 5), opened(2, old), opened(1, new)]
    fresh = rows((1, old, 1.0), (2, old, 1.0), (1, new, 1.0, 1), (2, new, 1.0, 1))
    write(database, flush(fresh=fresh, tallies=lines, letters=letters, changes=changes))
    database.connection.execute("UPDATE outbox SET decided_at = now()")
    before = asked(database, standing)
    assert audited(database).faults == []

    asked(database, lambda connection: expire_all(connection, KEEP))
    found = audited(database)
    assert found.faults == []
    assert found.storage == [StorageLine("traffic", stored=4, expired=2, rows=2)]
    assert [line.letters for line in found.lines] == [1]
    assert database.one("SELECT count(*) FROM dead_letter") == 2
    # One that is open stays, however old, with its page.
    assert database.all("SELECT series_id, state FROM alert ORDER BY 1") == [
        (1, "open"),
        (2, "open"),
    ]
    assert database.one("SELECT count(*) FROM alert_transition") == 2
    assert database.one("SELECT count(*) FROM outbox") == 2
    assert database.latest() == database.newest()
    after = asked(database, standing)
    ever = ("messages", "readings", "stored", "rejected", "refused", "withheld", "newest_at")
    assert [getattr(after, name) for name in ever] == [getattr(before, name) for name in ever]
    # Once more, and onto sums that are there.
    asked(database, lambda connection: expire_all(connection, replace(KEEP, ledger=1)))
    assert audited(database).faults == []
    assert asked(database, standing).stored == 4


def test_a_page_that_was_not_told_stays(database: Database) -> None:
    old = days_ago(2_000)
    write(database, flush(changes=[opened(1, old), resolved(1, old, old + 5)], tallies=[]))
    asked(database, lambda connection: expire_all(connection, KEEP))
    assert database.one("SELECT count(*) FROM outbox") == 2
    assert database.one("SELECT count(*) FROM alert") == 1


def test_of_a_letter_its_payload_goes_first(database: Database) -> None:
    at = (START_S + days_ago(40)) // 60 * 60
    line = tallied(messages=1, passed=0, rejected=1, minute_s=at, reasons={"malformed-json": 1})
    write(database, flush(tallies=[line], letters=[letter(received_ns=at * 10**9)]))
    asked(database, lambda connection: expire_all(connection, KEEP))
    assert database.all("SELECT reason, payload FROM dead_letter") == [("malformed-json", None)]
    assert audited(database).faults == []


def test_what_is_kept_for_ever_stays(database: Database) -> None:
    old = days_ago(9_000)
    write(database, flush(fresh=rows((1, old, 1.0)), letters=[letter()]))
    for_ever = Keep(readings=0, payloads=0, ledger=0, pages=0, alerts=0)
    asked(database, lambda connection: expire_all(connection, for_ever))
    assert database.one("SELECT count(*) FROM reading") == 1
    assert database.one("SELECT count(payload) FROM dead_letter") == 1


# What only TimescaleDB has


def test_without_timescale_it_is_said_what_is_not_done(database: Database) -> None:
    if database.one(COMMUNITY):
        pytest.skip("the database has TimescaleDB")
    (told,) = settle(database.dsn, database.schema, UPKEEP)
    assert "citywatch db expire" in told


def compress(database: Database) -> None:
    chunks = "SELECT show_chunks('reading')::text"
    for (chunk,) in database.all(chunks):
        database.connection.execute(f"CALL convert_to_columnstore('{chunk}')")
    assert database.one(
        "SELECT count(*) FROM timescaledb_information.chunks WHERE NOT is_compressed"
        " AND hypertable_schema = %s AND hypertable_name = 'reading'",
        database.schema,
    ) == 0  # fmt: skip


def test_suspects_meet_rows_that_are_compressed(database: Database) -> None:
    needs_timescale(database)
    day = 86_400
    fresh = rows(*((series, at * day, 1.0) for series in (1, 2) for at in range(31)))
    write(database, flush((0, 1), fresh))
    compress(database)
    suspects = rows((1, 5 * day, 1.0), (1, 6 * day, 9.0), (1, 7 * day + 1, 2.0), (2, 0, 1.0))
    # Taken for new after a loss of state: one of the two is there already.
    again = rows((2, 30 * day, 1.0), (2, 31 * day, 1.0))
    last = flush((2, 3), again, states=[state(3)])
    assert write(database, flush((1, 2), suspects=suspects), last) == [
        Outcome(1, 2, 1),
        Outcome(1, 1, 0),
    ]
    assert database.one("SELECT count(*) FROM reading") == 64
    assert database.all(
        "SELECT value FROM reading WHERE series_id = 1 AND time = %s", moment(6 * day)
    ) == [(1.0,)]
    assert database.latest() == database.newest()
    assert audited(database).faults == []


def test_compressed_chunks_are_counted_when_they_go(database: Database) -> None:
    needs_timescale(database)
    old = days_ago(200) // 86_400 * 86_400
    fresh: Rows = rows(*((1, old + at, 1.0) for at in range(100)), (1, days_ago(1), 2.0))
    write(database, flush(fresh=fresh))
    compress(database)
    asked(database, lambda connection: expire_all(connection, KEEP))
    assert database.one("SELECT count(*) FROM reading") == 1
    found = audited(database)
    assert (found.faults, found.storage) == ([], [StorageLine("traffic", 101, 100, 1)])


def test_a_chunk_that_somebody_reads_goes_another_time(database: Database) -> None:
    needs_timescale(database)
    write(database, flush(fresh=rows((1, days_ago(200), 1.0), (1, days_ago(1), 2.0))))
    with Database(database.dsn, database.schema) as reader, reader.connection.transaction():
        assert reader.one("SELECT count(*) FROM reading") == 2
        asked(database, lambda connection: expire_all(connection, KEEP))
        assert reader.one("SELECT count(*) FROM reading") == 2
    asked(database, lambda connection: expire_all(connection, KEEP))
    assert database.one("SELECT count(*) FROM reading") == 1
    assert audited(database).faults == []


JOBS = """
    SELECT job_id, proc_name, coalesce(hypertable_name, '') FROM timescaledb_information.jobs
    WHERE hypertable_schema = %(schema)s OR proc_schema = %(schema)s ORDER BY job_id
"""
RUNS = """
    SELECT job_id, last_run_status, coalesce(total_failures, 0), coalesce(total_successes, 0)
    FROM timescaledb_information.job_stats WHERE job_id = ANY(%s) ORDER BY job_id
"""


def test_background_jobs_run_without_errors(database: Database) -> None:
    needs_timescale(database)
    times = [days_ago(days) for days in (200, 100, 40, 20, 8, 2, 1, 0.01)]
    write(database, flush(fresh=rows(*((s, at, 1.0) for s in (1, 2) for at in times))))
    # Twice, because whoever brings a schema up to date does it again with each version.
    for _ in range(2):
        assert settle(database.dsn, database.schema, UPKEEP) == []
    found = database.connection.execute(JOBS, {"schema": database.schema}).fetchall()
    assert sorted(name for _, name, _ in found) == [
        "expire",
        *["policy_compression"] * 3,
        *["policy_refresh_continuous_aggregate"] * 3,
        *["policy_retention"] * 2,
    ]
    ids = [job_id for job_id, _, _ in found]
    # By the scheduler, in workers of its own.
    end = time.monotonic() + DEADLINE_S
    while len(runs := database.all(RUNS, ids)) < len(ids) or any(
        successes + failures == 0 for _, _, failures, successes in runs
    ):
        assert time.monotonic() < end, (
            f"not all jobs have run: {runs} of {found}; has the server fewer"
            " max_worker_processes than jobs?"
        )
        time.sleep(0.2)
    errors = "SELECT * FROM timescaledb_information.job_errors WHERE job_id = ANY(%s)"
    assert database.all(errors, ids) == []
    assert [run[1:3] for run in runs] == [("Success", 0)] * len(ids)
    # They did what they are for: the oldest are gone and noted, the old are compressed, and the
    # levels still know what is gone.
    assert database.one("SELECT count(*) FROM reading") == 12
    assert audited(database).storage == [StorageLine("traffic", 16, 4, 12)]
    assert database.one("SELECT sum(count) FROM reading_1d") == 16
    compressed = """
        SELECT count(*) FROM timescaledb_information.chunks
        WHERE hypertable_schema = %s AND hypertable_name = 'reading' AND is_compressed
    """
    assert database.one(compressed, database.schema) >= 2


def test_settings_that_change_change_the_jobs(database: Database) -> None:
    needs_timescale(database)
    settle(database.dsn, database.schema, UPKEEP)
    later = replace(UPKEEP, keep=replace(KEEP, readings=60), days=0, minutes=0)
    settle(database.dsn, database.schema, later)
    found = database.connection.execute(JOBS, {"schema": database.schema}).fetchall()
    assert len(found) == 8
    config = "SELECT config ->> 'readings' FROM timescaledb_information.jobs WHERE job_id = %s"
    (job_id,) = (job_id for job_id, name, _ in found if name == "expire")
    assert database.one(config, job_id) == "60"


@pytest.mark.parametrize(
    ("readings", "minutes", "reach", "days"),
    [(90, 400, 31, [32, 32, 32]), (10, 400, 31, [8, 8, 8]), (90, 20, 31, [32, 18, 18]),
     (0, 0, 1, [4, 4, 4]), (LEAST_KEPT_DAYS, LEAST_KEPT_DAYS, 31, [4, 4, 4])],
)  # fmt: skip
def test_what_is_gone_is_never_in_reach_of_a_refresh(
    database: Database, readings: int, minutes: int, reach: int, days: list[int]
) -> None:
    """A refresh of what is gone would empty the level made of it."""
    needs_timescale(database)
    keep = replace(KEEP, readings=readings)
    settle(database.dsn, database.schema, replace(UPKEEP, keep=keep, minutes=minutes, reach=reach))
    offsets = database.all(
        "SELECT (config ->> 'start_offset')::interval FROM timescaledb_information.jobs"
        " WHERE proc_name = 'policy_refresh_continuous_aggregate' AND hypertable_schema = %s"
        " ORDER BY job_id",
        database.schema,
    )
    assert offsets == [(timedelta(days=number),) for number in days]

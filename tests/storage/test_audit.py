"""The audit and the standing, over ledgers written by the sink and ledgers tampered with."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from ingest.topics import SeriesKey
from storage.audit import Audit, AuditLine, StorageLine, audit
from storage.expiry import expire
from storage.migrate import session_options
from storage.sink import Sink
from storage.standing import Standing, standing
from tests.storage.database import Database
from tests.storage.flushes import (
    MINUTE_S,
    START_S,
    TOPIC,
    everything,
    flush,
    letter,
    moment,
    opened,
    rejected,
    resolved,
    rows,
    tallied,
)

pytestmark = pytest.mark.integration

HOUR_S = START_S // 3600 * 3600
DAY_S = 86_400
KEYS = [
    SeriesKey("traffic", "harbour", "sensor-1", "intensity"),
    SeriesKey("traffic", "harbour", "sensor-2", "intensity"),
    SeriesKey("cameras", "harbour", "sensor-3", "peopleCount"),
]
PLACE = f"traffic {moment(HOUR_S - START_S):%Y-%m-%dT%H:%M} bridge-1"
FROM = f", from {moment(MINUTE_S - START_S):%H:%M} on"


def asked(database: Database, read: Callable[[Any], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with await psycopg.AsyncConnection.connect(
            database.dsn, options=session_options(database.schema), autocommit=True
        ) as connection:
            return await read(connection)

    return asyncio.run(run())


def audited(database: Database, since: Any = None, until: Any = None) -> Audit:
    return asked(database, lambda connection: audit(connection, since, until))


def write(database: Database, *flushes: Any) -> None:
    async def run() -> None:
        sink = Sink(database.dsn, database.schema, "log-1")
        try:
            await sink.resume(TOPIC, 0)
            await sink.register(KEYS)
            for one in flushes:
                await sink.write(one)
        finally:
            await sink.close()

    asyncio.run(run())


def test_everything_that_can_be_counted_balances(database: Database) -> None:
    write(database, everything())
    found = audited(database)
    assert found == Audit(
        [
            AuditLine(
                bridge="bridge-1",
                source="traffic",
                hour=moment(HOUR_S - START_S),
                messages=3,
                passed=2,
                rejected=1,
                readings=2,
                stored=2,
                duplicates=0,
                late_conflicts=0,
                late=1,
                repeated=1,
                refused=4,
                withheld=2,
                letters=1,
                reasons={"bad-time": 4, "malformed-json": 1},
                kinds={"plate": 2},
                faults=[],
            )
        ],
        [StorageLine("traffic", stored=2, expired=0, rows=2)],
    )
    assert found.faults == []
    assert database.unbalanced() == []


def test_lines_are_summed_by_hour_and_source(database: Database) -> None:
    minutes = [HOUR_S, HOUR_S + 60, HOUR_S + 3540, HOUR_S + 3600]
    lines = [tallied(1, minute_s=minute) for minute in minutes]
    lines.append(tallied(1, source="cameras", minute_s=HOUR_S))
    readings = [(3 if tally == 4 else 1, at, 1.0, tally) for tally, at in enumerate(range(5))]
    write(database, flush(fresh=rows(*readings), tallies=lines))
    found = audited(database)
    summed = [
        ((line.hour - moment(0)).total_seconds() + START_S - HOUR_S, line.source, line.stored)
        for line in found.lines
    ]
    assert summed == [(0, "cameras", 1), (0, "traffic", 3), (3600, "traffic", 1)]
    assert [line.missing for line in found.lines] == [0, 0, 0]
    assert found.storage == [StorageLine("cameras", 1, 0, 1), StorageLine("traffic", 4, 0, 4)]
    assert found.faults == []


def test_what_is_unaccounted_for_is_missing(database: Database) -> None:
    write(database, flush(fresh=rows((1, 0, 1.0)), tallies=[tallied(4)]))
    found = audited(database)
    (line,) = found.lines
    assert (line.readings, line.stored, line.missing) == (4, 1, 3)
    assert found.faults == [f"{PLACE}: 3 readings unaccounted for{FROM}"]


def test_too_much_in_one_minute_does_not_make_good_for_another(database: Database) -> None:
    lines = [tallied(3, minute_s=HOUR_S), tallied(1, minute_s=HOUR_S + 60)]
    fresh = rows(*((1, at, 1.0, 0 if at < 1 else 1) for at in range(4)))
    write(database, flush(fresh=fresh, tallies=lines))
    found = audited(database)
    assert found.lines[0].missing == 0
    assert found.faults == [
        f"{PLACE}: 2 readings unaccounted for",
        f"{PLACE}: 2 readings accounted for that were not passed on",
    ]


# What the audit finds when somebody has been at the tables


@pytest.mark.parametrize(
    ("tampering", "faults"),
    [
        ("UPDATE ledger SET messages = messages + 1", ["1 messages unaccounted for"]),
        (
            "UPDATE ledger SET passed = passed + 2",
            ["2 messages accounted for that did not come"],
        ),
        ("UPDATE ledger SET readings = readings + 1", ["1 readings unaccounted for"]),
        (
            "UPDATE ledger SET duplicates = 3",
            ["3 readings accounted for that were not passed on"],
        ),
        (
            "UPDATE ledger SET rejected = 0, passed = messages",
            [
                "reasons of nothing that was rejected or refused: 1",
                "dead letters of nothing that was rejected: 1",
            ],
        ),
        (
            "UPDATE ledger SET refused = refused + 3",
            ["reasons missing: 3", "refused records missing from the dead letters: 3"],
        ),
        ("UPDATE ledger SET withheld = 5", ["kinds of withheld attributes missing: 3"]),
        ("UPDATE ledger SET withheld = 0", ["kinds of attributes that were not withheld: 2"]),
        ("DELETE FROM ledger_kind WHERE kind = 'bad-time'", ["reasons missing: 4"]),
        ("DELETE FROM dead_letter WHERE records = 0", ["dead letters missing: 1"]),
        (
            "DELETE FROM dead_letter WHERE records > 0",
            ["refused records missing from the dead letters: 4"],
        ),
        (
            "UPDATE dead_letter SET records = 5 WHERE records = 4",
            ["records in the dead letters that were not refused: 1"],
        ),
    ],
)
def test_a_count_that_was_changed_is_named_with_its_place(
    database: Database, tampering: str, faults: list[str]
) -> None:
    # The same in another place, which must not be named.
    elsewhere = flush(
        (1, 2),
        rows((3, 0, 1.0)),
        tallies=[
            tallied(
                1,
                source="cameras",
                messages=2,
                rejected=1,
                withheld=1,
                reasons={"bad-time": 1},
                kinds={"plate": 1},
            )
        ],
        letters=[letter("bad-time", source="cameras", payload=None)],
    )
    write(database, everything(), elsewhere)
    assert audited(database).faults == []
    # Only the lines of the first flush are tampered with.
    where = " AND " if "WHERE" in tampering else " WHERE "
    database.connection.execute(f"{tampering}{where}source = 'traffic'")
    assert audited(database).faults == [f"{PLACE}: {fault}{FROM}" for fault in faults]
    assert bool(database.unbalanced())


def test_rows_that_are_gone_are_named_with_their_source(database: Database) -> None:
    write(
        database,
        flush(
            fresh=rows((1, 0, 1.0), (1, 1, 1.0), (2, 0, 1.0), (3, 0, 1.0, 1)),
            tallies=[tallied(3), tallied(1, source="cameras")],
        ),
    )
    database.connection.execute("DELETE FROM reading WHERE series_id = 1")
    assert audited(database).faults == ["traffic in storage: rows missing from storage: 2"]


def test_rows_that_nobody_counted_are_named(database: Database) -> None:
    write(database, flush(fresh=rows((1, 0, 1.0))))
    database.connection.execute(
        "INSERT INTO reading SELECT series_id, time + interval '1 s', value, quality, score,"
        " expected, band FROM reading"
    )
    database.connection.execute(
        "INSERT INTO reading SELECT 999, time, value, quality, score, expected, band FROM reading"
    )
    assert audited(database).faults == [
        "traffic in storage: rows in storage that nobody has counted: 1",
        "unknown in storage: rows in storage that nobody has counted: 2",
    ]


def test_a_stored_count_that_was_made_to_fit_is_found_in_storage(database: Database) -> None:
    write(database, flush(fresh=rows((1, 0, 1.0))))
    database.connection.execute("UPDATE ledger SET stored = 0, duplicates = 1")
    found = audited(database)
    assert found.lines[0].faults == []
    assert found.faults == ["traffic in storage: rows in storage that nobody has counted: 1"]


def test_a_line_that_is_gone_is_missed_where_its_letters_are(database: Database) -> None:
    write(database, everything())
    database.connection.execute("DELETE FROM ledger")
    assert audited(database).faults == [
        f"{PLACE}: reasons of nothing that was rejected or refused: 5{FROM}",
        f"{PLACE}: kinds of attributes that were not withheld: 2{FROM}",
        f"{PLACE}: dead letters of nothing that was rejected: 1{FROM}",
        f"{PLACE}: records in the dead letters that were not refused: 4{FROM}",
        "traffic in storage: rows in storage that nobody has counted: 2",
    ]


# Readings removed on purpose


def test_readings_removed_on_purpose_are_noted(database: Database) -> None:
    # A day apart, and removed by the day, as TimescaleDB does it.
    times = [day * DAY_S for day in range(4)]
    fresh = rows(*((series, at, 1.0, series // 3) for series in (1, 2, 3) for at in times))
    write(database, flush(fresh=fresh, tallies=[tallied(8), tallied(4, source="cameras")]))
    # A sensor is known under the domain that it reported in last.
    database.connection.execute("UPDATE sensor SET domain = 'environment' WHERE name = 'sensor-3'")
    for days, gone in ((1, 3), (1, 0), (3, 6)):
        end = moment(days * DAY_S - START_S % DAY_S)
        removed = asked(database, lambda connection, end=end: expire(connection, end))
        assert removed == gone
    found = audited(database)
    assert found.storage == [StorageLine("cameras", 4, 3, 1), StorageLine("traffic", 8, 6, 2)]
    assert found.faults == []
    assert database.one("SELECT min(time) FROM reading") == moment(times[3])


# Bounds


def test_bounds_include_the_first_minute_and_exclude_the_last(database: Database) -> None:
    minutes = [MINUTE_S + 60 * n for n in range(4)]
    lines = [
        tallied(1, minute_s=minute, messages=2, rejected=1, reasons={"bad-time": 1})
        for minute in minutes
    ]
    letters = [letter("bad-time", received_ns=minute * 10**9 + 59 * 10**9) for minute in minutes]
    write(
        database,
        flush(fresh=rows(*[(1, n, 1.0, n) for n in range(4)]), tallies=lines, letters=letters),
    )
    base = moment(minutes[0] - START_S)
    half = timedelta(seconds=30)
    # A minute counts where it begins, its letters with it.
    for early, late in ((0 * half, 0 * half), (half, 0 * half), (0 * half, half), (half, half)):
        since = base + timedelta(minutes=1) - early
        found = audited(database, since, base + timedelta(minutes=3) - late)
        (line,) = found.lines
        assert (line.readings, line.letters, line.reasons) == (2, 2, {"bad-time": 2})
        assert (found.faults, found.storage) == ([], None)


def test_a_part_of_the_time_says_nothing_of_storage(database: Database) -> None:
    write(database, flush(fresh=rows((1, 0, 1.0))))
    database.connection.execute("DELETE FROM reading")
    assert audited(database, since=moment(-3600)).faults == []
    assert audited(database, until=moment(3600)).faults == []
    assert audited(database).faults != []


def test_all_sums_are_of_one_moment(database: Database) -> None:
    """What a worker adds meanwhile must not look like a fault."""
    write(database, flush(fresh=rows((1, 0, 1.0))))
    more = [flush((1, 2), rows((1, 9, 1.0)))]

    class Meddled(psycopg.AsyncCursor[Any]):
        async def execute(self, query: Any, *rest: Any, **options: Any) -> Any:
            done = await super().execute(query, *rest, **options)
            if more and "FROM ledger" in str(query):
                await asyncio.to_thread(write, database, more.pop())
            return done

    def read(connection: Any) -> Awaitable[Audit]:
        connection.cursor_factory = Meddled
        return audit(connection, None, None)

    found = asked(database, read)
    assert (found.faults, found.storage) == ([], [StorageLine("traffic", 1, 0, 1)])
    assert audited(database).storage == [StorageLine("traffic", 2, 0, 2)]


# The standing


def test_an_empty_schema_stands_at_nothing(database: Database) -> None:
    assert asked(database, standing) == Standing(*[0] * 13, None)
    assert audited(database) == Audit([], [])


def test_the_standing_counts_everything(database: Database) -> None:
    write(
        database,
        flush(
            (0, 1),
            rows((1, 0, 1.0), (2, 7, 1.0)),
            rows((1, 0, 1.0), (2, 7, 2.0), (1, -5, 1.0)),
            changes=[opened(1, 0), resolved(1, 0, 5), opened(2, 0)],
        ),
        flush((1, 2), **rejected()),
        flush((2, 3), tallies=[tallied(repeated=2, refused=3)]),
    )
    database.connection.execute("UPDATE outbox SET decided_at = now() WHERE outbox_id = 1")
    database.connection.execute(
        "WITH n AS (INSERT INTO notice (group_key, revision, event, at, payload)"
        "           VALUES ('g', 1, 'trigger', now(), '{}') RETURNING notice_id)"
        " INSERT INTO delivery (notice_id, key, group_key, event, step, hook, delivered_at)"
        " SELECT notice_id, 'k' || number, 'g', 'trigger', 1, 'h',"
        "        CASE number WHEN 1 THEN now() END FROM n, generate_series(1, 2) number"
    )
    assert asked(database, standing) == Standing(
        messages=6,
        readings=5,
        stored=3,
        duplicates=1,
        late_conflicts=1,
        rejected=1,
        withheld=0,
        repeated=2,
        refused=3,
        alerts_opened=2,
        alerts_open=1,
        pages_delivered=1,
        # Two that are not decided, one that is not delivered.
        pages_pending=3,
        newest_at=moment(7),
    )

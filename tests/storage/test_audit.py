"""The audit and the standing, over ledgers written by the sink and ledgers tampered with."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from ingest.topics import SeriesKey
from storage.audit import audit
from storage.migrate import session_options
from storage.sink import Sink
from storage.standing import Standing, standing
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
    tallied,
)

pytestmark = pytest.mark.integration

HOUR_S = START_S // 3600 * 3600
KEYS = [SeriesKey("traffic", "harbour", f"sensor-{n}", "intensity") for n in (1, 2)]


def asked(database: Database, read: Callable[[Any], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with await psycopg.AsyncConnection.connect(
            database.dsn, options=session_options(database.schema), autocommit=True
        ) as connection:
            return await read(connection)

    return asyncio.run(run())


def write(database: Database, *flushes: Any) -> None:
    async def run() -> None:
        sink = Sink(database.dsn, database.schema, "log-1")
        try:
            await sink.resume(TOPIC, 0)
            await sink.register(KEYS, [])
            for one in flushes:
                await sink.write(one)
        finally:
            await sink.close()

    asyncio.run(run())


def test_lines_are_summed_by_hour_and_source(database: Database) -> None:
    minutes = [HOUR_S, HOUR_S + 60, HOUR_S + 3540, HOUR_S + 3600]
    lines = [tallied(1, minute_s=minute) for minute in minutes]
    lines.append(tallied(1, source="cameras", minute_s=HOUR_S))
    readings = [(1, at, 1.0, tally) for tally, at in enumerate(range(5))]
    write(database, flush(fresh=rows(*readings), tallies=lines))
    found = asked(database, lambda connection: audit(connection, None, None))
    summed = [
        ((line.hour - moment(0)).total_seconds() + START_S - HOUR_S, line.source, line.stored)
        for line in found
    ]
    assert summed == [(0, "cameras", 1), (0, "traffic", 3), (3600, "traffic", 1)]
    assert [line.missing for line in found] == [0, 0, 0]


def test_what_is_unaccounted_for_is_missing(database: Database) -> None:
    write(database, flush(fresh=rows((1, 0, 1.0)), tallies=[tallied(4)]))
    (line,) = asked(database, lambda connection: audit(connection, None, None))
    assert (line.readings, line.stored, line.missing) == (4, 1, 3)


def test_bounds_include_the_first_minute_and_exclude_the_last(database: Database) -> None:
    minutes = [START_S // 60 * 60 + 60 * n for n in range(4)]
    lines = [tallied(1, minute_s=minute) for minute in minutes]
    write(database, flush(fresh=rows(*[(1, n, 1.0, n) for n in range(4)]), tallies=lines))
    base = moment(minutes[0] - START_S)
    since, until = base + timedelta(minutes=1), base + timedelta(minutes=3)
    (line,) = asked(database, lambda connection: audit(connection, since, until))
    assert line.readings == 2


def test_an_empty_schema_stands_at_nothing(database: Database) -> None:
    assert asked(database, standing) == Standing(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, None)
    assert asked(database, lambda connection: audit(connection, None, None)) == []


def test_the_standing_counts_everything(database: Database) -> None:
    write(
        database,
        flush(
            (0, 1),
            rows((1, 0, 1.0), (2, 7, 1.0)),
            rows((1, 0, 1.0), (2, 7, 2.0), (1, -5, 1.0)),
            changes=[opened(1, 0), resolved(1, 0, 5), opened(2, 0)],
            letters=[letter()],
        ),
    )
    database.connection.execute("UPDATE outbox SET delivered_at = now() WHERE outbox_id = 1")
    assert asked(database, standing) == Standing(
        messages=5,
        readings=5,
        stored=3,
        duplicates=1,
        late_conflicts=1,
        rejected=0,
        withheld=0,
        alerts_opened=2,
        alerts_open=1,
        pages_delivered=1,
        pages_pending=2,
        newest_at=moment(7),
    )

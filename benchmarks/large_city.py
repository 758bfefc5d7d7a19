"""The database of a large city: the newest readings, a week's chart, and a migration with data.

100,000 series report for a few minutes and a few report for a week, written under the schema of
before (0002); then the schema is brought up to date and asked. Every answer is compared with the
readings themselves, and every figure stands beside what it replaces, in the same run.

    python benchmarks/large_city.py [--dsn DSN] [--series 100000]

Without --dsn an embedded PostgreSQL is started, which has no TimescaleDB.
"""

import argparse
import asyncio
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import patch
from uuid import uuid4

import numpy as np
import psycopg
from psycopg.sql import SQL, Identifier
from yoyo import read_migrations
from yoyo.migrations import MigrationList

from citywatch.embedded import EmbeddedStack
from citywatch.settings import Settings
from citywatch.wiring import upkeep
from storage.flush import Flush, Step
from storage.migrate import migrate, session_options
from storage.queries import CHART_BUCKETED, NEWEST
from storage.rows import Rows
from storage.sink import Sink
from storage.upkeep import settle

_BEFORE: Final = "0002.ledger-by-reason"
_MINUTES: Final = 10
_DEEP_SERIES: Final = 20
_DEEP_PERIOD_S: Final = 10
_FLUSH_ROWS: Final = 20_000
_FLUSHES: Final = 5
_ROUNDS: Final = 7
# What the console asked before there was `latest`, and for a chart before there were levels.
_LATERAL: Final = """
    SELECT q.series_id, r.time, r.value, r.quality,
           nullif(r.score, 'NaN'), nullif(r.expected, 'NaN'), nullif(r.band, 'NaN')
    FROM series q CROSS JOIN LATERAL (
        SELECT * FROM reading WHERE reading.series_id = q.series_id ORDER BY time DESC LIMIT 1) r
"""
_RAW_CHART: Final = """
    SELECT time_bucket(%(width)s, time) AS time, avg(value), min(value), max(value),
           avg(nullif(expected, 'NaN')), avg(nullif(expected, 'NaN') - nullif(band, 'NaN')),
           avg(nullif(expected, 'NaN') + nullif(band, 'NaN')), max(quality)
    FROM reading
    WHERE series_id = %(series_id)s AND time >= %(since)s AND time <= %(until)s
    GROUP BY 1 ORDER BY 1 DESC LIMIT %(limit)s
"""
_FILL: Final = """
    INSERT INTO sensor (name, domain, zone)
    SELECT 's' || n, 'traffic', 'z' FROM generate_series(1, %(series)s) n;
    INSERT INTO series (sensor_id, quantity, unit)
    SELECT sensor_id, 'intensity', '1' FROM sensor ORDER BY sensor_id;
    INSERT INTO reading
    SELECT s, %(now)s - m * interval '1 minute' - s %% 60 * interval '1 second',
           (s + m) %% 100, 1, 0.5, 50, 10
    FROM generate_series(%(minutes)s - 1, 0, -1) m, generate_series(1, %(series)s) s;
    INSERT INTO reading
    SELECT s, %(now)s - n * %(period)s * interval '1 second', n %% 100, 1, 0.5, 50, 10
    FROM generate_series(1, %(deep)s) s, generate_series(86400 * 7 / %(period)s, 1, -1) n
    ON CONFLICT DO NOTHING;
    ANALYZE
"""


@contextmanager
def _database(dsn: str | None) -> Iterator[str]:
    if dsn:
        yield dsn
        return
    with TemporaryDirectory() as folder:
        stack = EmbeddedStack(Path(folder) / "stack", fast=True)
        try:
            yield stack.start().dsn
        finally:
            stack.remove()


def _timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _median_ms(connection: psycopg.Connection[Any], query: str, values: Any = None) -> float:
    """Return what the database takes to answer, without the way of the rows to the client."""
    explain = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) " + query
    found = []
    for _ in range(_ROUNDS):
        row = connection.execute(explain, values).fetchone()
        assert row is not None
        found.append(row[0][0]["Execution Time"] + row[0][0]["Planning Time"])
    return statistics.median(found)


def _rows(series: int, at_ns: int) -> Rows:
    ids = np.arange(1, _FLUSH_ROWS + 1, dtype=np.int32) % series + 1
    some = np.full(_FLUSH_ROWS, 0.5)
    return Rows(
        series_id=ids,
        time_ns=np.full(_FLUSH_ROWS, at_ns),
        value=some,
        quality=np.ones(_FLUSH_ROWS, np.uint8),
        score=some,
        expected=some,
        band=some,
        tally=np.zeros(_FLUSH_ROWS, np.int32),
    )


async def _write(dsn: str, schema: str, series: int, topic: str, begin_ns: int) -> float:
    """Return the seconds that a flush takes, each row of another series."""
    sink = Sink(dsn, schema, "1")
    none = Rows.concatenate([])
    try:
        await sink.resume(topic, 0)
        # Compares all series once, as after every start.
        await sink.write(Flush([], none, none))
        took = []
        for number in range(_FLUSHES):
            fresh = _rows(series, begin_ns + number * 10**9)
            flush = Flush([Step(topic, 0, number, number + 1)], fresh, none)
            begun = time.perf_counter()
            await sink.write(flush)
            took.append(time.perf_counter() - begun)
        return statistics.median(took)
    finally:
        await sink.close()


def _measure(dsn: str, schema: str, series: int) -> None:
    now = datetime.now(UTC).replace(microsecond=0)

    def only_before(folder: str) -> MigrationList:
        return read_migrations(folder).filter(lambda one: one.id <= _BEFORE)

    with patch("storage.migrate.read_migrations", only_before):
        migrate(dsn, schema)
    options = session_options(schema)
    with psycopg.connect(dsn, autocommit=True, options=options) as connection:
        filling = psycopg.ClientCursor(connection)
        filling.execute(
            _FILL,
            {"series": series, "minutes": _MINUTES, "now": now, "deep": _DEEP_SERIES,
             "period": _DEEP_PERIOD_S},
        )  # fmt: skip
        ((count,),) = connection.execute("SELECT count(*) FROM reading").fetchall()
        print(f"{count:,} readings of {series:,} series")

        print(f"migrations with that in place: {_timed(lambda: migrate(dsn, schema)):.1f} s")
        print(f"levels filled and jobs made: {_timed(lambda: _settled(dsn, schema)):.1f} s")
        connection.execute("ANALYZE")

        assert sorted(connection.execute(_LATERAL)) == sorted(connection.execute(NEWEST))
        lateral, latest = _median_ms(connection, _LATERAL), _median_ms(connection, NEWEST)
        print(f"newest of all: {latest:.1f} ms; by lateral probes {lateral:.0f} ms")

        values = {"series_id": 3, "until": now, "limit": 1500,
                  "since": (now - timedelta(days=6)).replace(hour=0, minute=0, second=0),
                  }  # fmt: skip
        for width in (timedelta(minutes=15), timedelta(days=1)):
            asked = values | {"width": width, "until": now}
            told = connection.execute(CHART_BUCKETED, asked).fetchall()
            raw = connection.execute(_RAW_CHART, asked).fetchall()
            assert [(row[0], *row[2:]) for row in told] == [(row[0], *row[2:]) for row in raw]
            assert np.allclose([row[1] for row in told], [row[1] for row in raw])
            levels = _median_ms(connection, CHART_BUCKETED, asked)
            print(
                f"a week by {width}: {levels:.1f} ms;"
                f" of the readings {_median_ms(connection, _RAW_CHART, asked):.1f} ms"
            )

        begin_ns = (int(now.timestamp()) + 60) * 10**9
        took = {}
        for name, interval in (("never", 1e9), ("every", 0.0), ("never again", 1e9)):
            with patch("storage.latest._INTERVAL_S", interval), patch("storage.latest._REST", 0.0):
                took[name] = asyncio.run(_write(dsn, schema, series, name, begin_ns))
            begin_ns += 60 * 10**9
        plain = min(took["never"], took["never again"])
        per_row = 1e6 / _FLUSH_ROWS
        print(
            f"a stored row: {plain * per_row:.1f} us; with its series copied at once"
            f" {took['every'] * per_row:.1f} us, so {(took['every'] - plain) * per_row:.1f} us for"
            " each series that reported since the last second"
        )


def _settled(dsn: str, schema: str) -> None:
    for remark in settle(dsn, schema, upkeep(Settings())):
        print(remark)


def main() -> int:
    """Measure and print; 1 where an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn")
    parser.add_argument("--series", type=int, default=100_000)
    options = parser.parse_args()
    if options.series < _FLUSH_ROWS:
        parser.error(f"--series: at least {_FLUSH_ROWS}, one for each row of a flush")
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    schema = f"replay_bench{uuid4().hex[:8]}"
    with _database(options.dsn) as dsn:
        try:
            _measure(dsn, schema, options.series)
        finally:
            with psycopg.connect(dsn, autocommit=True) as connection:
                drop = SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(schema))
                connection.execute(drop)
    return 0


if __name__ == "__main__":
    sys.exit(main())

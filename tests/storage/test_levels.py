"""The levels of readings by minute, quarter and day: the same answers as the readings give."""

import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from tests.storage.database import Database
from tests.storage.timescale import needs_timescale

pytestmark = pytest.mark.integration

LEVELS = ("reading_1m", "reading_15m", "reading_1d")
BEGIN = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday, where buckets of every width begin
Row = tuple[int, datetime, float, int, float, float, float]


def readings(seed: int, *, hours: int = 60, series: int = 2) -> list[Row]:
    """Return irregular readings, some not scored and some of bad quality."""
    random = Random(seed)
    found = []
    for number in range(1, series + 1):
        at = BEGIN
        while (at := at + timedelta(seconds=random.expovariate(1 / 240))) < BEGIN + timedelta(
            hours=hours
        ):
            scored = random.random() < 0.8
            # Halves, so that sums are exact in any order.
            found.append(
                (
                    number,
                    at.replace(microsecond=0),
                    random.randrange(200) / 2,
                    random.choice((1, 1, 1, 3, 4)),
                    random.randrange(20) / 2 if scored else math.nan,
                    random.randrange(100) / 2 if scored else math.nan,
                    random.randrange(20) / 2 if scored else math.nan,
                )
            )
    return list({row[:2]: row for row in found}.values())


def write(database: Database, rows: list[Row]) -> None:
    with database.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO reading VALUES (%s, %s, %s, %s, %s, %s, %s)", rows)


def naive(rows: list[Row], series: int, width: timedelta) -> list[tuple[Any, ...]]:
    """Return what the chart should say, bucket by bucket."""
    buckets: dict[datetime, list[Row]] = defaultdict(list)
    for row in rows:
        if row[0] == series:
            buckets[BEGIN + (row[1] - BEGIN) // width * width].append(row)
    points = []
    for at, inside in sorted(buckets.items()):
        values = [row[2] for row in inside]
        scored = [(row[5], row[6]) for row in inside if not math.isnan(row[5])]
        expected, lower, upper = (
            (
                sum(e for e, _ in scored) / len(scored),
                sum(e - b for e, b in scored) / len(scored),
                sum(e + b for e, b in scored) / len(scored),
            )
            if scored
            else (None, None, None)
        )
        mean = sum(values) / len(values)
        worst = max(row[3] for row in inside)
        points.append((at, mean, min(values), max(values), expected, lower, upper, worst))
    return points


def charted(database: Database, series: int, width: timedelta) -> list[tuple[Any, ...]]:
    return database.all(
        "SELECT * FROM chart(%s, %s, %s, %s) ORDER BY time",
        series,
        BEGIN - timedelta(days=1),
        BEGIN + timedelta(days=5),
        width,
    )


def refresh(database: Database) -> None:
    for level in LEVELS:
        database.connection.execute(
            f"CALL refresh_continuous_aggregate('{level}', NULL, '2026-03-04')"
        )


WIDTHS = pytest.mark.parametrize(
    "width",
    [
        timedelta(seconds=30),
        timedelta(minutes=1),
        timedelta(minutes=5),
        timedelta(minutes=20),
        timedelta(minutes=15),
        timedelta(hours=6),
        timedelta(days=1),
        timedelta(days=7),
    ],
    ids=str,
)


@WIDTHS
def test_a_chart_says_what_the_readings_say(database: Database, width: timedelta) -> None:
    rows = readings(1)
    write(database, rows)
    for series in (1, 2):
        assert charted(database, series, width) == naive(rows, series, width)


def test_the_ends_are_widened_to_whole_buckets_of_the_level(database: Database) -> None:
    write(database, [(1, BEGIN + timedelta(seconds=s), s, 1, 0, 0, 0) for s in range(0, 1860, 20)])
    query = "SELECT time, lowest, highest FROM chart(1, %s, %s, %s) ORDER BY time"
    since, until = BEGIN + timedelta(seconds=70), BEGIN + timedelta(seconds=910)

    def ends(width: timedelta) -> tuple[float, float]:
        points = database.all(query, since, until, width)
        return points[0][1], points[-1][2]

    assert ends(timedelta(seconds=10)) == (80, 900)
    assert ends(timedelta(minutes=5)) == (60, 940)
    assert ends(timedelta(minutes=15)) == (0, 1780)


def test_what_is_not_scored_poisons_no_level(database: Database) -> None:
    nan = math.nan
    write(
        database,
        [
            (1, BEGIN, 1.0, 1, nan, nan, nan),
            (1, BEGIN + timedelta(seconds=10), 3.0, 4, 2.5, 5.0, 1.0),
            (2, BEGIN, nan, 9, nan, nan, nan),
        ],
    )
    columns = "series_id, time, count, total, lowest, highest, quality, scored, expected_total"
    for level in LEVELS:
        assert database.all(
            f"SELECT {columns}, band_total, score FROM {level} ORDER BY series_id"  # noqa: S608
        ) == [
            (1, BEGIN, 2, 4.0, 1.0, 3.0, 4, 1, 5.0, 1.0, 2.5),
            (2, BEGIN, 0, None, None, None, 9, 0, None, None, None),
        ]


@WIDTHS
def test_rows_that_come_late_are_in_the_next_refresh(database: Database, width: timedelta) -> None:
    needs_timescale(database)
    rows = readings(2)
    late = [row for number, row in enumerate(rows) if number % 7 == 0]
    write(database, [row for row in rows if row not in late])
    refresh(database)
    write(database, late)
    refresh(database)
    for series in (1, 2):
        assert charted(database, series, width) == naive(rows, series, width)


def test_a_chart_reads_what_was_filled(database: Database) -> None:
    """And not the readings: what is not refreshed since is not seen where it comes late."""
    needs_timescale(database)
    write(database, [(1, BEGIN, 1.0, 1, 0, 0, 0)])
    refresh(database)
    write(database, [(1, BEGIN + timedelta(seconds=1), 3.0, 1, 0, 0, 0)])
    assert [point[1] for point in charted(database, 1, timedelta(minutes=15))] == [1.0]
    # Below a minute it is the readings themselves, and what was never filled is not missing.
    assert [point[1] for point in charted(database, 1, timedelta(seconds=30))] == [2.0]
    write(database, [(1, BEGIN + timedelta(days=3), 5.0, 1, 0, 0, 0)])
    assert [point[1] for point in charted(database, 1, timedelta(minutes=15))] == [1.0, 5.0]

"""The console's questions on the real schema: what they answer, and that they stay quick."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from storage import queries
from storage.latest import CATCH_UP
from storage.migrate import session_options
from tests.dashboards import citydata

NOW = datetime(2026, 3, 14, 12, 0, 30, tzinfo=UTC)

pytestmark = pytest.mark.integration


def run(dsn: str, schema: str, question: Callable[[queries.Connection], Awaitable[Any]]) -> Any:
    async def ask() -> Any:
        async with await AsyncConnection.connect(
            dsn, autocommit=True, options=session_options(schema)
        ) as connection:
            return await question(connection)

    return asyncio.run(ask())


def write(connection: psycopg.Connection[Any], *rows: tuple[Any, ...]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO reading VALUES (%s, %s, %s, %s, %s, %s, %s)", rows)
    connection.execute(CATCH_UP)


@pytest.fixture
def city(dsn: str, schema: str) -> tuple[str, str]:
    citydata.fill(dsn, schema, NOW, zones=2, per_zone=3, minutes=10, faults=False)
    return dsn, schema


def test_series_come_with_their_place(city: tuple[str, str]) -> None:
    rows = run(*city, queries.series)
    assert len(rows) == 2 * (3 + 4 + 2)
    assert rows[0].sensor == "loop-harbour-000"
    assert rows[0].zone == "harbour"
    assert rows[0].longitude == pytest.approx(9.962, abs=0.03)
    assert {row.quantity for row in rows if row.sensor == "air-harbour-001"} == {
        "pm25", "no2", "temperature", "LAeq",
    }  # fmt: skip


def test_newest_is_the_last_row_of_each_series_and_nan_is_none(city: tuple[str, str]) -> None:
    with citydata.connect(*city) as connection:
        write(
            connection,
            (1, NOW + timedelta(seconds=1), 5.0, 1, "NaN", "NaN", "NaN"),
            (2, NOW + timedelta(seconds=2), 6.0, 4, 2.5, 4.0, 1.0),
        )
    rows = {row.series_id: row for row in run(*city, queries.newest)}
    assert len(rows) == 18
    assert rows[1] == (1, NOW + timedelta(seconds=1), 5.0, 1, None, None, None)
    assert rows[2] == (2, NOW + timedelta(seconds=2), 6.0, 4, 2.5, 4.0, 1.0)


def test_a_short_chart_shows_the_readings(city: tuple[str, str]) -> None:
    with citydata.connect(*city) as connection:
        connection.execute("DELETE FROM reading WHERE series_id = 1")
        write(
            connection,
            (1, NOW - timedelta(minutes=30), 1.0, 1, 0, 0, 0),  # before the window
            (1, NOW - timedelta(minutes=2), 5.0, 1, "NaN", "NaN", "NaN"),
            (1, NOW - timedelta(minutes=1), 9.0, 3, 2.5, 4.0, 1.5),
        )
    points = run(*city, lambda c: queries.chart(c, 1, NOW - timedelta(minutes=20), NOW))
    assert points == [
        (NOW - timedelta(minutes=2), 5.0, 5.0, 5.0, None, None, None, 1),
        (NOW - timedelta(minutes=1), 9.0, 9.0, 9.0, 4.0, 2.5, 5.5, 3),
    ]


def test_a_chart_keeps_the_newest_where_there_are_too_many(city: tuple[str, str]) -> None:
    with citydata.connect(*city) as connection:
        connection.execute(
            "INSERT INTO reading SELECT 2, %s - g * interval '0.4 s', g, 1, 0, 0, 0"
            " FROM generate_series(0, 2000) g ON CONFLICT DO NOTHING",
            (NOW,),
        )
    points = run(*city, lambda c: queries.chart(c, 2, NOW - timedelta(minutes=20), NOW))
    assert len(points) == queries.MAX_CHART_POINTS
    assert points[-1].time == NOW
    assert points == sorted(points)


def test_a_long_chart_keeps_the_extremes_and_the_worst_quality(city: tuple[str, str]) -> None:
    since = datetime(2026, 3, 7, tzinfo=UTC)
    with citydata.connect(*city) as connection:
        write(
            connection,
            (1, since + timedelta(seconds=60), 1.0, 1, "NaN", "NaN", "NaN"),
            (1, since + timedelta(seconds=90), 2.0, 3, 0, 4.0, 1.0),
            (1, since + timedelta(seconds=120), 90.0, 1, 0, 6.0, 1.0),
        )
    points = run(*city, lambda c: queries.chart(c, 1, since, since + timedelta(days=7)))
    assert points[0] == (since, 31.0, 1.0, 90.0, 5.0, 4.0, 6.0, 3)
    assert len(points) <= queries.MAX_CHART_POINTS


@pytest.mark.parametrize("minutes", [21, 60, 360, 1_440, 10_080, 40_000])
def test_a_chart_never_has_more_points_than_its_bound(minutes: int) -> None:
    width = queries.bucket(timedelta(minutes=minutes))
    assert width is not None
    assert timedelta(minutes=minutes) / width + 1 <= queries.MAX_CHART_POINTS


def test_a_short_window_has_no_buckets() -> None:
    assert queries.bucket(timedelta(minutes=20)) is None


def test_open_alerts_newest_first_with_what_was_said(city: tuple[str, str]) -> None:
    with citydata.connect(*city) as connection:
        old = citydata.insert_alert(connection, 1, NOW - timedelta(hours=1), score="NaN")
        new = citydata.insert_alert(connection, 2, NOW, category="sensor-health", state="stale")
        citydata.insert_alert(connection, 3, NOW, state="resolved", resolved_at=NOW)
    alerts = run(*city, queries.open_alerts)
    assert [alert.alert_id for alert in alerts] == [new, old]
    assert alerts[0].state == "stale"
    assert alerts[1].sensor == "loop-harbour-000"
    assert alerts[1].quantity == "intensity"
    assert (alerts[1].seen, alerts[1].expected, alerts[1].band) == (93.0, 24.0, 16.0)
    assert alerts[1].score is None
    assert alerts[1].sentence == "93 where 24 ± 16 is expected at this hour."
    assert run(*city, lambda c: queries.open_alerts(c, 1)) == alerts[:1]


def test_counts(city: tuple[str, str]) -> None:
    with citydata.connect(*city) as connection:
        for series_id, delivered in ((1, True), (2, False)):
            alert = citydata.insert_alert(connection, series_id, NOW)
            citydata.insert_page(connection, alert, NOW, delivered=delivered)
        ancient = citydata.insert_alert(connection, 3, NOW, state="resolved", resolved_at=NOW)
        citydata.insert_page(connection, ancient, NOW - timedelta(days=2), delivered=True)
    counts = run(*city, lambda c: queries.counts(c, NOW - timedelta(days=1)))
    assert counts == (2, 1, 1)


def test_ledger_minutes_are_summed_over_sources(city: tuple[str, str]) -> None:
    minutes = run(*city, lambda c: queries.ledger_minutes(c, NOW - timedelta(minutes=2)))
    assert [row.minute for row in minutes] == [
        NOW.replace(second=0) - timedelta(minutes=1),
        NOW.replace(second=0),
    ]
    assert minutes[0].messages == 3 * (18 // 3)
    assert minutes[0].stored == 3 * (18 - 2)


def test_series_named(city: tuple[str, str]) -> None:
    assert run(*city, lambda c: queries.series_named(c, "loop-harbour-000", "occupancy")) == (
        3,
        "1",
    )
    assert run(*city, lambda c: queries.series_named(c, "loop-harbour-000", "pm25")) is None


@pytest.mark.parametrize(
    "sql",
    [queries.NEWEST, queries.CHART_RAW, queries.CHART_BUCKETED],
    ids=["newest", "raw", "bucketed"],
)
def test_readings_are_never_scanned(city: tuple[str, str], sql: str) -> None:
    with citydata.connect(*city) as connection:
        connection.execute(
            "INSERT INTO reading SELECT 1, now() - g * interval '10 seconds', 0, 1, 0, 0, 0"
            " FROM generate_series(1, 20000) g; ANALYZE reading"
        )
        parameters = {
            "series_id": 2, "since": NOW - timedelta(hours=1), "until": NOW, "limit": 100,
            "width": timedelta(minutes=1),
        }  # fmt: skip
        plan = "\n".join(row[0] for row in connection.execute("EXPLAIN " + sql, parameters))
    assert "Seq Scan on reading" not in plan, plan

"""What is read back from the database: the questions of the console, as SQL and typed rows.

Readings arrive by the thousand a second, so no question here scans them: the newest of each series
stand in a table of their own, a chart is one range of the primary key (series_id, time). Not scored
is None here, where the table says NaN, because JSON knows no NaN.
"""

from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row

Connection = AsyncConnection[Any]

# A chart of more points than an operator's screen has pixels costs and says no more.
MAX_CHART_POINTS: Final = 1_500
# Up to here the readings are drawn as they came; a usual period is a minute, a fast one a second.
RAW_WINDOW: Final = timedelta(minutes=20)
# Widths that people read off an axis. No 600: a week of them would be read by the minute, a week of
# 900 is read by the quarter of an hour.
_BUCKETS_S: Final = (5, 10, 15, 30, 60, 120, 300, 900, 1_800, 3_600, 7_200, 21_600, 86_400)
# A list longer than this is not read by anyone; the header still gives the whole number.
MAX_OPEN_ALERTS: Final = 200

SERIES: Final = """
SELECT s.sensor_id, s.name AS sensor, s.domain, s.zone, s.longitude, s.latitude,
       q.series_id, q.quantity, q.unit
FROM sensor s
JOIN series q USING (sensor_id)
ORDER BY s.sensor_id, q.series_id
"""

NEWEST: Final = """
SELECT series_id, time, value, quality,
       nullif(score, 'NaN') AS score,
       nullif(expected, 'NaN') AS expected,
       nullif(band, 'NaN') AS band
FROM latest
"""

SERIES_NAMED: Final = """
SELECT q.series_id, q.unit
FROM series q
JOIN sensor s USING (sensor_id)
WHERE s.name = %(sensor)s AND q.quantity = %(quantity)s
"""

# The newest first, so that the limit cuts off the past.
CHART_RAW: Final = """
SELECT time, value, value AS lowest, value AS highest,
       nullif(expected, 'NaN') AS expected,
       nullif(expected, 'NaN') - nullif(band, 'NaN') AS lower,
       nullif(expected, 'NaN') + nullif(band, 'NaN') AS upper,
       quality
FROM reading
WHERE series_id = %(series_id)s AND time > %(since)s AND time <= %(until)s
ORDER BY time DESC
LIMIT %(limit)s
"""

# The extremes go along with the mean: the mean alone would hide the spike that opened an alert.
# The database chooses the level by the width (migration 0005).
CHART_BUCKETED: Final = """
SELECT time, value, lowest, highest, expected, lower, upper, quality
FROM chart(%(series_id)s::integer, %(since)s, %(until)s, %(width)s)
ORDER BY time DESC
LIMIT %(limit)s
"""

# Units as `storage.pages.UNITS` has them.
OPEN_ALERTS: Final = """
SELECT a.alert_id, a.series_id, s.name AS sensor, s.zone, q.quantity,
       CASE a.kind WHEN 'silence' THEN 's' WHEN 'clock-skew' THEN 's'
            WHEN 'crowd' THEN '{person}/m2' ELSE q.unit END AS unit,
       a.category, a.kind, a.severity, a.state, a.opened_at,
       a.seen, nullif(a.expected, 'NaN') AS expected, nullif(a.band, 'NaN') AS band,
       nullif(a.score, 'NaN') AS score, a.sentence
FROM alert a
JOIN series q USING (series_id)
JOIN sensor s USING (sensor_id)
WHERE a.state <> 'resolved'
ORDER BY a.opened_at DESC, a.alert_id
LIMIT %(limit)s
"""

COUNTS: Final = """
SELECT (SELECT count(*) FROM alert WHERE state <> 'resolved') AS open_alerts,
       (SELECT count(*) FROM delivery WHERE delivered_at >= %(since)s) AS pages_delivered,
       (SELECT count(*) FROM delivery WHERE delivered_at IS NULL AND abandoned_at IS NULL)
           AS pages_pending
"""

LEDGER_MINUTES: Final = """
SELECT minute, sum(messages)::bigint AS messages, sum(stored)::bigint AS stored
FROM ledger
WHERE minute >= %(since)s
GROUP BY minute
ORDER BY minute
"""


class Series(NamedTuple):
    """A series and the place of its sensor, in degrees (None where unknown)."""

    sensor_id: int
    sensor: str
    domain: str
    zone: str
    longitude: float | None
    latitude: float | None
    series_id: int
    quantity: str
    unit: str


class Newest(NamedTuple):
    """The newest reading of a series; `score` is -log10 of its tail probability."""

    series_id: int
    time: datetime
    value: float
    quality: int
    score: float | None
    expected: float | None
    band: float | None


class SeriesName(NamedTuple):
    """The key and the UCUM unit of one series."""

    series_id: int
    unit: str


class ChartPoint(NamedTuple):
    """One point of a chart: a reading, or the mean and the extremes of a bucket.

    `quality` is the worst QARTOD flag; `lower` and `upper` bound where no alert would open.
    """

    time: datetime
    value: float
    lowest: float
    highest: float
    expected: float | None
    lower: float | None
    upper: float | None
    quality: int


class OpenAlert(NamedTuple):
    """An alert that is not resolved, with everything that was said for it."""

    alert_id: UUID
    series_id: int
    sensor: str
    zone: str
    quantity: str
    unit: str
    category: str
    kind: str
    severity: str
    state: str
    opened_at: datetime
    seen: float
    expected: float | None
    band: float | None
    score: float | None
    sentence: str


class Counts(NamedTuple):
    """Numbers for the header."""

    open_alerts: int
    pages_delivered: int
    pages_pending: int


class LedgerMinute(NamedTuple):
    """What arrived in one minute, over all bridges and sources."""

    minute: datetime
    messages: int
    stored: int


async def series(connection: Connection) -> list[Series]:
    """Return every series with its sensor, in a stable order."""
    async with connection.cursor(row_factory=class_row(Series)) as cursor:
        return await (await cursor.execute(SERIES)).fetchall()


async def newest(connection: Connection) -> list[Newest]:
    """Return the newest reading of every series that has one, in no particular order."""
    async with connection.cursor(row_factory=class_row(Newest)) as cursor:
        return await (await cursor.execute(NEWEST)).fetchall()


async def series_named(connection: Connection, sensor: str, quantity: str) -> SeriesName | None:
    """Return the series of a sensor's quantity; None where there is none."""
    async with connection.cursor(row_factory=class_row(SeriesName)) as cursor:
        await cursor.execute(SERIES_NAMED, {"sensor": sensor, "quantity": quantity})
        return await cursor.fetchone()


async def chart(
    connection: Connection, series_id: int, since: datetime, until: datetime
) -> list[ChartPoint]:
    """Return a series' points in (since, until], oldest first, at most MAX_CHART_POINTS.

    A long window is drawn in buckets; where a short one holds more readings than can be drawn,
    the newest are kept.
    """
    width = bucket(until - since)
    async with connection.cursor(row_factory=class_row(ChartPoint)) as cursor:
        await cursor.execute(
            CHART_RAW if width is None else CHART_BUCKETED,
            {
                "series_id": series_id,
                "since": since,
                "until": until,
                "width": width,
                "limit": MAX_CHART_POINTS,
            },
        )
        return (await cursor.fetchall())[::-1]


def bucket(window: timedelta) -> timedelta | None:
    """Return the width of a chart's buckets; None where its readings are drawn as they came."""
    if window <= RAW_WINDOW:
        return None
    # One bucket more than the window holds, because neither of its ends falls on a bucket's.
    fitting = (width for width in _BUCKETS_S if window.total_seconds() / width < MAX_CHART_POINTS)
    return timedelta(seconds=next(fitting, _BUCKETS_S[-1]))


async def open_alerts(connection: Connection, limit: int = MAX_OPEN_ALERTS) -> list[OpenAlert]:
    """Return the alerts that are not resolved, newest first."""
    async with connection.cursor(row_factory=class_row(OpenAlert)) as cursor:
        return await (await cursor.execute(OPEN_ALERTS, {"limit": limit})).fetchall()


async def counts(connection: Connection, delivered_since: datetime) -> Counts:
    """Return the number of open alerts, and of pages delivered since then and still to go."""
    async with connection.cursor(row_factory=class_row(Counts)) as cursor:
        await cursor.execute(COUNTS, {"since": delivered_since})
        row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return row


async def ledger_minutes(connection: Connection, since: datetime) -> list[LedgerMinute]:
    """Return the ledger's totals of each minute from `since` on, oldest first."""
    async with connection.cursor(row_factory=class_row(LedgerMinute)) as cursor:
        return await (await cursor.execute(LEDGER_MINUTES, {"since": since})).fetchall()

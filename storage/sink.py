"""The one transaction of a flush: rows, alerts, outbox, ledger, detector state, and the position.

The position is compared and set first. Its row lock keeps every other worker out of the partition
until the transaction ends, and a worker that no longer owns the partition finds another position
there and writes nothing.

One long module, because a third of it is SQL, and the code beside it cannot be read without.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import numpy as np
import psycopg
from msgspec import structs
from numpy.typing import NDArray
from psycopg import AsyncConnection, AsyncCursor
from psycopg.errors import UniqueViolation
from psycopg.sql import SQL, Identifier

from ingest.ledger import COUNTS, SensorCard
from ingest.quantities import QUANTITIES
from ingest.topics import SeriesKey
from storage.flush import (
    Buried,
    Change,
    Flush,
    Moved,
    Opened,
    Resolved,
    SavedState,
    Step,
    Worsened,
)
from storage.homes import at_home, settle, shadows_at_home
from storage.latest import Latest
from storage.migrate import session_options
from storage.pages import SEVERITIES, encode_page, outbox_channel
from storage.rows import COLUMNS, Rows, copy_readings, copy_staged
from storage.rules import put_ruled, put_shadowed

_LOG = logging.getLogger(__name__)

# A worker that is frozen inside a transaction must not hold its locks for longer.
_SESSION: Final = (
    " -c idle_in_transaction_session_timeout=15000 -c statement_timeout=60000 -c lock_timeout=20000"
)
_COLUMN_LIST: Final = SQL(", ").join(map(Identifier, COLUMNS))
_COPY: Final = SQL("COPY reading ({}) FROM STDIN (FORMAT BINARY)").format(_COLUMN_LIST)
_COPY_STAGED: Final = SQL(
    "COPY pg_temp.suspect ({}, ordinal, tally) FROM STDIN (FORMAT BINARY)"
).format(_COLUMN_LIST)
_STAGING: Final = """
    CREATE TEMPORARY TABLE IF NOT EXISTS suspect (
        series_id integer, time timestamptz, value double precision, quality smallint,
        score real, expected real, band real, ordinal integer, tally integer
    ) ON COMMIT DELETE ROWS
"""
# What becomes of each staged row: the first of its key is stored unless the key is there; any
# other is a duplicate where it says the same, else a late conflict.
_CLASSIFY: Final = """
    WITH staged AS (
        SELECT series_id, time, value, tally,
               row_number() OVER w = 1 AS leads, first_value(value) OVER w AS leading
        FROM pg_temp.suspect
        WINDOW w AS (PARTITION BY series_id, time ORDER BY ordinal)
    )
    SELECT s.tally,
           count(*) FILTER (WHERE r.series_id IS NULL AND s.leads),
           count(*) FILTER (WHERE NOT (r.series_id IS NULL AND s.leads)
                              AND s.value = coalesce(r.value, s.leading))
    FROM staged s LEFT JOIN reading r USING (series_id, time)
    GROUP BY s.tally
"""
_INSERT_STAGED: Final = SQL(
    "INSERT INTO reading ({0}) SELECT DISTINCT ON (series_id, time) {0} FROM pg_temp.suspect"
    " ORDER BY series_id, time, ordinal ON CONFLICT DO NOTHING"
).format(_COLUMN_LIST)
_ADVANCE: Final = """
    UPDATE stream_position SET next_offset = %s
    WHERE topic = %s AND partition = %s AND log_id = %s AND next_offset = %s
"""
_OPEN_POSITION: Final = """
    INSERT INTO stream_position AS p (topic, partition, log_id, next_offset)
    VALUES (%s, %s, %s, 0)
    ON CONFLICT (topic, partition) DO UPDATE
    SET log_id = excluded.log_id, next_offset = 0 WHERE p.log_id <> excluded.log_id
"""
_POSITION: Final = """
    SELECT next_offset FROM stream_position WHERE topic = %s AND partition = %s AND log_id = %s
"""
_STATE: Final = """
    SELECT CASE WHEN log_id = %s THEN next_offset ELSE 0 END, version, state
    FROM detector_state WHERE topic = %s AND partition = %s
"""
# Only where the position stands where the worker left it: a flush without rows moves none, and a
# worker that lost the partition must save nothing. Nor an older state over a newer one: two workers
# may replay one partition at a time, and which of them owns it shows when rows are stored.
_SAVE_STATE: Final = """
    INSERT INTO detector_state AS d (topic, partition, log_id, next_offset, version, state)
    SELECT topic, partition, log_id, %s, %s, %s FROM stream_position
    WHERE topic = %s AND partition = %s AND log_id = %s AND next_offset = %s
    FOR UPDATE
    ON CONFLICT (topic, partition) DO UPDATE
    SET log_id = excluded.log_id, next_offset = excluded.next_offset,
        version = excluded.version, state = excluded.state, saved_at = now()
    WHERE d.log_id <> excluded.log_id OR d.next_offset <= excluded.next_offset
"""
_SENSORS: Final = """
    INSERT INTO sensor AS s (name, domain, zone, longitude, latitude, clock_offset_s,
                             clock_offset_at)
    SELECT *, CASE WHEN c.clock_offset_s IS NOT NULL THEN now() END
    FROM unnest(%(sensor)s::text[], %(domain)s::text[], %(zone)s::text[], %(longitude)s::float8[],
                %(latitude)s::float8[], %(clock_offset_s)s::float8[])
         AS c (name, domain, zone, longitude, latitude, clock_offset_s)
    ON CONFLICT (name) DO UPDATE
    SET domain = excluded.domain, zone = excluded.zone,
        longitude = coalesce(excluded.longitude, s.longitude),
        latitude = coalesce(excluded.latitude, s.latitude),
        -- A clock that is not told to be off is right.
        clock_offset_s = excluded.clock_offset_s,
        clock_offset_at = CASE WHEN excluded.clock_offset_s IS DISTINCT FROM s.clock_offset_s
                               THEN now() ELSE s.clock_offset_at END
"""
_ADD_SENSORS: Final = """
    INSERT INTO sensor (name, domain, zone) SELECT * FROM unnest(%s::text[], %s::text[], %s::text[])
    ON CONFLICT (name) DO NOTHING
"""
_CARD_COLUMNS: Final = ("sensor", "domain", "zone", "longitude", "latitude", "clock_offset_s")
_SERIES: Final = """
    INSERT INTO series (sensor_id, quantity, unit)
    SELECT s.sensor_id, n.quantity, n.unit
    FROM unnest(%s::text[], %s::text[], %s::text[]) AS n (name, quantity, unit)
    JOIN sensor s USING (name)
    ON CONFLICT (sensor_id, quantity) DO UPDATE SET unit = excluded.unit
"""
_LOOK_UP: Final = """
    SELECT q.series_id
    FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS n (name, quantity, position)
    LEFT JOIN (sensor s JOIN series q USING (sensor_id))
      ON s.name = n.name AND q.quantity = n.quantity
    ORDER BY n.position
"""
# One of `kinds` is open at a time; an index holds that no kind is twice.
_OPEN_ALERT: Final = """
    INSERT INTO alert (alert_id, series_id, category, kind, severity, state, opened_at, seen,
                       expected, band, lower, upper, score, sentence)
    SELECT %(alert_id)s, %(series_id)s, %(category)s, %(kind)s, %(severity)s, 'open', %(since)s,
           %(seen)s, %(expected)s::float8, %(band)s::float8, %(lower)s::float8, %(upper)s::float8,
           %(score)s::float8, %(sentence)s
    WHERE NOT EXISTS (
        SELECT FROM alert
        WHERE series_id = %(series_id)s AND category = %(category)s AND kind = ANY(%(kinds)s)
          AND state <> 'resolved')
    ON CONFLICT DO NOTHING
    RETURNING alert_id
"""
_ALERT_COLUMNS: Final = (
    "alert_id", "category", "kind", "severity", "since", "seen", "expected", "lower", "upper",
    "score", "sentence",
)  # fmt: skip
_WORSE_COLUMNS: Final = (
    "category", "kind", "severity", "seen", "expected", "lower", "upper", "score",
)  # fmt: skip
_RESOLVE_ALERT: Final = """
    UPDATE alert SET state = 'resolved', resolved_at = %s
    WHERE series_id = %s AND category = %s AND kind = ANY(%s) AND state <> 'resolved'
    RETURNING alert_id
"""
# A flush that is written again, and detectors that do not know what was told, do nothing here: only
# what is more severe counts. Whoever has it, has had less.
_WORSEN_ALERT: Final = """
    UPDATE alert a
    SET severity = %(severity)s, seen = %(seen)s, expected = %(expected)s::float8,
        band = %(band)s::float8, lower = %(lower)s::float8, upper = %(upper)s::float8,
        score = %(score)s::float8,
        state = CASE a.state WHEN 'acknowledged' THEN 'open' ELSE a.state END
    FROM (
        SELECT alert_id, severity FROM alert
        WHERE series_id = %(series_id)s AND category = %(category)s AND kind = %(kind)s
          AND state <> 'resolved'
        FOR UPDATE
    ) b
    WHERE a.alert_id = b.alert_id
      AND array_position(%(severities)s::text[], b.severity)
          < array_position(%(severities)s::text[], %(severity)s)
    RETURNING a.alert_id, a.opened_at, a.state, b.severity
"""
_SAY: Final = "UPDATE alert SET sentence = %s WHERE alert_id = %s"
# What it was before it became stale: acknowledged, where somebody had said so and it has not got
# worse since.
_MOVE_ALERT: Final = {
    "stale": """
        UPDATE alert SET state = 'stale'
        WHERE series_id = %s AND category = %s AND kind = ANY(%s)
          AND state IN ('open', 'acknowledged')
        RETURNING alert_id, state
    """,
    "open": """
        UPDATE alert a SET state = coalesce((
            SELECT nullif(t.state, 'stale') FROM alert_transition t
            WHERE t.alert_id = a.alert_id AND (t.state <> 'stale' OR t.cause LIKE 'worse: %%')
            ORDER BY t.recorded_at DESC, t.at DESC LIMIT 1), 'open')
        WHERE series_id = %s AND category = %s AND kind = ANY(%s) AND state = 'stale'
        RETURNING alert_id, state
    """,
}
_TRANSITION: Final = """
    INSERT INTO alert_transition (alert_id, at, state, cause, actor)
    VALUES (%s, %s, %s, %s, 'worker') ON CONFLICT DO NOTHING
"""
# A microsecond later where it was moved at that very moment as well.
_TRANSITION_WORSE: Final = """
    INSERT INTO alert_transition (alert_id, at, state, cause, actor)
    SELECT w.alert_id, w.at + count(t.at) * interval '1 microsecond', w.state, w.cause, 'worker'
    FROM (SELECT %s::uuid, %s::timestamptz, %s::text, %s::text) w (alert_id, at, state, cause)
    LEFT JOIN alert_transition t USING (alert_id, at, state)
    GROUP BY w.alert_id, w.at, w.state, w.cause
"""
_TELL_FIRING: Final = """
    INSERT INTO outbox (alert_id, event, dedup_key, payload, at) VALUES (%s, 'firing', %s, %s, %s)
    ON CONFLICT DO NOTHING
"""
# Nobody need be told any more of what somebody has said they have.
_TELL_LATER: Final = """
    INSERT INTO outbox (alert_id, event, dedup_key, payload, at)
    SELECT alert_id, 'firing', %s, %s, %s FROM alert WHERE alert_id = %s AND state = 'open'
    ON CONFLICT DO NOTHING
"""
# Under the key of the page it takes back. The alert may be one from before its detector state was
# lost, under another id than the page computed.
_TELL_RESOLVED: Final = """
    INSERT INTO outbox (alert_id, event, dedup_key, payload, at)
    SELECT alert_id, 'resolved', dedup_key,
           %s::jsonb || jsonb_build_object('alert_id', alert_id), %s
    FROM outbox WHERE dedup_key = %s AND event = 'firing'
    ON CONFLICT DO NOTHING
"""
_TELL_WORSE: Final = """
    INSERT INTO outbox (alert_id, event, dedup_key, payload, at)
    SELECT alert_id, 'worse', dedup_key, %s, %s
    FROM outbox WHERE dedup_key = %s AND event = 'firing'
    ON CONFLICT DO NOTHING
"""
# That a sensor is silent wakes nobody; the pager must know what is not over.
_TELL_MOVED: Final = """
    INSERT INTO outbox (alert_id, event, dedup_key, payload, at)
    SELECT alert_id, %s, dedup_key, '{}', %s FROM outbox WHERE dedup_key = %s AND event = 'firing'
    ON CONFLICT DO NOTHING
"""
_TOLD_AS: Final = {"stale": "stale", "open": "back"}
_GAP: Final = """
    INSERT INTO log_gap (topic, partition, first_offset, next_offset, log_id)
    VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT DO NOTHING
"""
_LEDGER_COUNTS: Final = (*COUNTS, "late", "stored", "duplicates", "late_conflicts")
_LEDGER: Final = SQL(
    "INSERT INTO ledger AS l (bridge, source, minute, {}) VALUES (%s, %s, to_timestamp(%s), {})"
    " ON CONFLICT (bridge, source, minute) DO UPDATE SET {}"
).format(
    SQL(", ").join(map(Identifier, _LEDGER_COUNTS)),
    SQL(", ").join([SQL("%s")] * len(_LEDGER_COUNTS)),
    SQL(", ").join(
        SQL("{0} = l.{0} + excluded.{0}").format(Identifier(name)) for name in _LEDGER_COUNTS
    ),
)
_KIND: Final = """
    INSERT INTO ledger_kind AS k (bridge, source, minute, outcome, kind, count)
    VALUES (%s, %s, to_timestamp(%s), %s, %s, %s)
    ON CONFLICT (bridge, source, minute, outcome, kind) DO UPDATE
    SET count = k.count + excluded.count
"""
_LETTER: Final = """
    INSERT INTO dead_letter (received_at, bridge, source, mqtt_topic, reason, place, payload,
                             records)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
"""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class FencedError(Exception):
    """Another worker owns the partition now; nothing was written."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the rows of a flush."""

    stored: int
    duplicates: int
    late_conflicts: int


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where a partition goes on.

    Parameters
    ----------
    stored : int
        First offset whose rows are not in the database.
    state_offset : int
        First offset that `state` has not seen; 0 without a state.
    version : int or None
        Layout of `state`.
    state : bytes or None
    """

    stored: int
    state_offset: int
    version: int | None
    state: bytes | None


class Sink:
    """A connection that writes flushes into one namespace's schema.

    Parameters
    ----------
    dsn : str
    schema : str
    log_id : str
        The incarnation of the Kafka log that offsets speak of.
    """

    def __init__(self, dsn: str, schema: str, log_id: str) -> None:
        self._dsn = dsn
        self._schema = schema
        self._log_id = log_id
        self._connection: AsyncConnection[Any] | None = None
        self._latest = Latest()

    @property
    def is_behind(self) -> bool:
        """Whether the newest readings are to be copied, even by a flush without any rows."""
        return self._latest.is_due(time.monotonic())

    async def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def resume(self, topic: str, partition: int) -> Resumption:
        """Say where a partition goes on, and make its row if it is new.

        Raises
        ------
        psycopg.Error
            If the database is away.
        """
        connection = await self._connected()
        async with connection.transaction(), connection.cursor() as cursor:
            await cursor.execute(_OPEN_POSITION, (topic, partition, self._log_id))
            position = await _one(cursor, _POSITION, (topic, partition, self._log_id))
            assert position is not None  # noqa: S101 - the row was made a line above
            state = await _one(cursor, _STATE, (self._log_id, topic, partition))
        self._latest.owe_all()
        if state is None:
            return Resumption(position[0], 0, None, None)
        return Resumption(position[0], *state)

    async def register(self, keys: Sequence[SeriesKey]) -> NDArray[np.int32]:
        """Make sensors and series that are not there, and look all of them up.

        What is there it leaves alone: it is not fenced by a position, and where sensors stand is
        the word of whoever owns their partition, told with a flush.

        Parameters
        ----------
        keys : sequence of SeriesKey, length n

        Returns
        -------
        (n,) int32
            Database ids of `keys`, in order.

        Raises
        ------
        psycopg.Error
            If the database is away.
        """
        connection = await self._connected()
        async with connection.transaction(), connection.cursor() as cursor:
            found = await _look_up(cursor, keys)
            missing = [key for key, number in zip(keys, found, strict=True) if number is None]
            if missing:
                await _add_sensors(cursor, missing)
                await _put_series(cursor, missing)
                found = await _look_up(cursor, keys)
        return np.array(found, np.int32)

    async def write(self, flush: Flush) -> Outcome:
        """Write a flush, wholly or not at all.

        A repetition of a flush that was committed (the answer got lost) writes nothing but the
        same states and is no error.

        Raises
        ------
        FencedError
            If a partition of it belongs to another worker.
        psycopg.Error
            If the database is away or refuses.
        """
        connection = await self._connected()
        latest = self._latest
        # Before it is known whether they get there: an answer to a commit can be lost.
        for rows in (flush.fresh, flush.suspects):
            latest.touch(rows)
        is_last = flush.is_last and bool(flush.states)
        copies = latest.is_due(math.inf if is_last else time.monotonic())
        async with connection.transaction(), connection.cursor() as cursor:
            counts = np.zeros((1, 3), np.int64)
            if await self._advance(cursor, flush.steps):
                await _put_sensors(cursor, flush.cards)
                counts = await _store(cursor, flush)
                is_closed = await settle(cursor, flush.claims)
                changes = await at_home(cursor, flush.changes)
                await _alerts(cursor, changes)
                await put_shadowed(cursor, await shadows_at_home(cursor, flush.shadowed))
                if is_closed or changes:
                    await cursor.execute(
                        "SELECT pg_notify(%s, '')", (outbox_channel(self._schema),)
                    )
                await put_ruled(cursor, flush.ruled, self._log_id)
                await _ledger(cursor, flush, counts)
                await _letters(cursor, flush)
                await cursor.executemany(
                    _GAP, [(*astuple(gap), self._log_id) for gap in flush.gaps]
                )
            # In a repetition, too: whoever moved the positions may have saved no state.
            await self._save(cursor, flush.states)
            begun = time.monotonic()
            if copies:
                await latest.copy(cursor)
            took_s = time.monotonic() - begun
        if copies:
            latest.copied(time.monotonic(), took_s)
        stored, duplicates, conflicts = (int(total) for total in counts.sum(axis=0))
        return Outcome(stored, duplicates, conflicts)

    async def _connected(self) -> AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            connection = await psycopg.AsyncConnection.connect(
                self._dsn,
                autocommit=True,
                connect_timeout=5,
                application_name="citywatch worker",
                options=session_options(self._schema) + _SESSION,
            )
            try:
                await connection.execute(_STAGING)
            except BaseException:
                # Cancelled in between, it would serve without its staging table.
                await connection.close()
                raise
            self._connection = connection
        return self._connection

    async def _advance(self, cursor: AsyncCursor[Any], steps: Sequence[Step]) -> bool:
        """Move every position; False where all of them were moved by this very flush before."""
        moved = 0
        ordered = sorted(steps, key=lambda step: (step.topic, step.partition))
        for step in ordered:
            await cursor.execute(
                _ADVANCE,
                (step.next_offset, step.topic, step.partition, self._log_id, step.expected),
            )
            moved += cursor.rowcount
        if moved == len(steps):
            return True
        if moved == 0 and await self._is_done(cursor, ordered):
            return False
        raise FencedError(
            "another worker moved one of "
            + ", ".join(f"{step.topic}/{step.partition}" for step in ordered)
        )

    async def _is_done(self, cursor: AsyncCursor[Any], steps: Sequence[Step]) -> bool:
        for step in steps:
            row = await _one(cursor, _POSITION, (step.topic, step.partition, self._log_id))
            if row is None or row[0] != step.next_offset:
                return False
        return True

    async def _save(self, cursor: AsyncCursor[Any], states: Sequence[SavedState]) -> None:
        for saved in states:
            await cursor.execute(
                _SAVE_STATE,
                (
                    saved.next_offset,
                    saved.version,
                    saved.state,
                    saved.topic,
                    saved.partition,
                    self._log_id,
                    saved.stored,
                ),
            )
            if not cursor.rowcount:
                raise FencedError(
                    f"another worker moved {saved.topic}/{saved.partition}: its state of offset"
                    f" {saved.next_offset} is not saved"
                )


async def _one(cursor: AsyncCursor[Any], query: Any, values: Sequence[Any]) -> Any:
    await cursor.execute(query, values)
    return await cursor.fetchone()


async def _put_sensors(cursor: AsyncCursor[Any], cards: Sequence[SensorCard]) -> None:
    if cards:
        # Sorted, so that two workers never wait for each other's rows crosswise.
        rows = sorted(cards, key=lambda card: card.sensor)
        await cursor.execute(
            _SENSORS, {name: [getattr(card, name) for card in rows] for name in _CARD_COLUMNS}
        )


async def _add_sensors(cursor: AsyncCursor[Any], keys: Sequence[SeriesKey]) -> None:
    named = sorted({key.sensor: key for key in keys}.values(), key=lambda key: key.sensor)
    columns = zip(*((key.sensor, key.domain, key.zone) for key in named), strict=True)
    await cursor.execute(_ADD_SENSORS, [list(column) for column in columns])


async def _put_series(cursor: AsyncCursor[Any], keys: Sequence[SeriesKey]) -> None:
    unique = sorted({(key.sensor, key.quantity) for key in keys})
    sensors = [sensor for sensor, _ in unique]
    quantities = [quantity for _, quantity in unique]
    units = [QUANTITIES[quantity].unit for quantity in quantities]
    await cursor.execute(_SERIES, (sensors, quantities, units))


async def _look_up(cursor: AsyncCursor[Any], keys: Sequence[SeriesKey]) -> list[int | None]:
    if not keys:
        return []
    names = ([key.sensor for key in keys], [key.quantity for key in keys])
    await cursor.execute(_LOOK_UP, names)
    return [row[0] for row in await cursor.fetchall()]


async def _store(cursor: AsyncCursor[Any], flush: Flush) -> NDArray[np.int64]:
    """Write the rows; return (stored, duplicates, late conflicts) per tally."""
    counts = np.zeros((max(len(flush.tallies), 1), 3), np.int64)
    suspects = flush.suspects
    if len(flush.fresh):
        try:
            async with cursor.connection.transaction():
                await _copy(cursor, _COPY, copy_readings(flush.fresh))
            counts[:, 0] += np.bincount(flush.fresh.tally, minlength=len(counts))
        except UniqueViolation:
            # Only after detector state was lost: what looked new had been stored before.
            _LOG.warning("rows taken for new are there already: staging the flush")
            suspects = Rows.concatenate([flush.fresh, flush.suspects])
    if len(suspects):
        await _copy(cursor, _COPY_STAGED, copy_staged(suspects))
        await cursor.execute(_CLASSIFY)
        offered = np.bincount(suspects.tally, minlength=len(counts))
        counts[:, 2] += offered
        for tally, stored, duplicates in await cursor.fetchall():
            counts[tally] += (stored, duplicates, -stored - duplicates)
        await cursor.execute(_INSERT_STAGED)
    return counts


async def _copy(cursor: AsyncCursor[Any], statement: Any, data: bytes) -> None:
    async with cursor.copy(statement) as copy:
        await copy.write(data)


async def _alerts(cursor: AsyncCursor[Any], changes: Sequence[Change]) -> None:
    # What is of one sort goes in one breath: a gateway that goes dark takes thousands with it.
    for sort, run in groupby(changes, type):
        if sort is Opened:
            await _open(cursor, [one for one in run if isinstance(one, Opened)])
        elif sort is Resolved:
            await _resolve(cursor, [one for one in run if isinstance(one, Resolved)])
        elif sort is Worsened:
            await _worsen(cursor, [one for one in run if isinstance(one, Worsened)])
        else:
            await _move(cursor, [one for one in run if isinstance(one, Moved)])


async def _open(cursor: AsyncCursor[Any], alerts: Sequence[Opened]) -> None:
    rows = [
        {name: getattr(alert.page, name) for name in _ALERT_COLUMNS}
        | {"series_id": alert.series_id, "band": alert.band, "kinds": _kinds(alert)}
        for alert in alerts
    ]
    made = await _each(cursor, _OPEN_ALERT, rows)
    # The others are open already: from before their detector state was lost, or told only now.
    pages = [
        (alert.page, alert.is_told, bool(found)) for alert, found in zip(alerts, made, strict=True)
    ]
    await cursor.executemany(
        _TRANSITION,
        [(page.alert_id, page.since, "open", page.kind) for page, _, is_new in pages if is_new],
    )
    await cursor.executemany(
        _TELL_FIRING,
        [
            (page.alert_id, str(page.alert_id), encode_page(page).decode(), page.since)
            for page, is_told, is_new in pages
            if is_told and is_new
        ],
    )
    await cursor.executemany(
        _TELL_LATER,
        [
            (str(page.alert_id), encode_page(page).decode(), page.since, page.alert_id)
            for page, is_told, is_new in pages
            if is_told and not is_new
        ],
    )


async def _resolve(cursor: AsyncCursor[Any], alerts: Sequence[Resolved]) -> None:
    rows = [
        (alert.page.resolved_at, alert.series_id, alert.page.category, _kinds(alert))
        for alert in alerts
    ]
    over = [
        (alert_id, alert.page, alert.cause)
        for alert, found in zip(alerts, await _each(cursor, _RESOLVE_ALERT, rows), strict=True)
        for (alert_id,) in found
    ]
    await cursor.executemany(
        _TRANSITION,
        [(alert_id, page.resolved_at, "resolved", cause) for alert_id, page, cause in over],
    )
    await cursor.executemany(
        _TELL_RESOLVED,
        [
            (encode_page(page).decode(), page.resolved_at, str(alert_id))
            for alert_id, page, _ in over
        ],
    )


async def _worsen(cursor: AsyncCursor[Any], alerts: Sequence[Worsened]) -> None:
    rows = [
        {name: getattr(alert.page, name) for name in _WORSE_COLUMNS}
        | {"series_id": alert.series_id, "band": alert.band, "severities": list(SEVERITIES)}
        for alert in alerts
    ]
    # Of one from before its detector state was lost, with the name and the time that people know.
    worse = [
        (
            structs.replace(
                alert.page, alert_id=alert_id, since=opened_at.astimezone(UTC), sentence=""
            ),
            alert.at,
            state,
            f"worse: {alert.page.severity}, was {before}",
        )
        for alert, found in zip(alerts, await _each(cursor, _WORSEN_ALERT, rows), strict=True)
        for alert_id, opened_at, state, before in found
    ]
    await cursor.executemany(_SAY, [(page.sentence, page.alert_id) for page, *_ in worse])
    await cursor.executemany(_TRANSITION_WORSE, [(page.alert_id, *rest) for page, *rest in worse])
    await cursor.executemany(
        _TELL_WORSE,
        [(encode_page(page).decode(), at, str(page.alert_id)) for page, at, _, _ in worse],
    )


async def _move(cursor: AsyncCursor[Any], alerts: Sequence[Moved]) -> None:
    for state, run in groupby(alerts, attrgetter("state")):
        part = list(run)
        rows = [(alert.series_id, alert.category, list(alert.kinds)) for alert in part]
        found = await _each(cursor, _MOVE_ALERT[state], rows)
        moved = [
            (alert_id, alert.at, state_now, alert.cause)
            for alert, moves in zip(part, found, strict=True)
            for alert_id, state_now in moves
        ]
        await cursor.executemany(_TRANSITION, moved)
        told = [(_TOLD_AS[state], at, str(alert_id)) for alert_id, at, _, _ in moved]
        await cursor.executemany(_TELL_MOVED, told)


async def _each(
    cursor: AsyncCursor[Any], query: str, rows: Sequence[Any]
) -> list[list[tuple[Any, ...]]]:
    """Return what a statement returns for each of some rows, by one way there and back."""
    await cursor.executemany(query, rows, returning=True)
    found = [await cursor.fetchall()]
    while cursor.nextset():
        found.append(await cursor.fetchall())
    return found


def _kinds(alert: Opened | Resolved) -> list[str]:
    return list(alert.kinds) or [alert.page.kind]


async def _ledger(cursor: AsyncCursor[Any], flush: Flush, counts: NDArray[np.int64]) -> None:
    lines = []
    kinds = []
    for tallied, outcome in zip(flush.tallies, counts.tolist(), strict=False):
        tally = tallied.tally
        key = (_storable(tallied.bridge), tally.source, tally.minute_s)
        counted = (getattr(tally, name) for name in COUNTS)
        lines.append((*key, *counted, tallied.late, *outcome))
        kinds += [(*key, "rejected", kind, count) for kind, count in tally.reasons.items()]
        kinds += [(*key, "withheld", kind, count) for kind, count in tally.kinds.items()]
    # Sorted, so that two workers never wait for each other's lines crosswise; who has a line has
    # its kinds, too.
    if lines:
        await cursor.executemany(_LEDGER, sorted(lines))
    if kinds:
        await cursor.executemany(_KIND, kinds)


async def _letters(cursor: AsyncCursor[Any], flush: Flush) -> None:
    if flush.letters:
        await cursor.executemany(_LETTER, [_letter(buried) for buried in flush.letters])


def _letter(buried: Buried) -> tuple[Any, ...]:
    letter = buried.letter
    texts = (buried.bridge, buried.source, letter.mqtt_topic, letter.reason, letter.place)
    # Not by to_timestamp, whose float could round into the next minute of the ledger.
    received_at = _EPOCH + timedelta(microseconds=letter.received_ns // 1_000)
    return (received_at, *map(_storable, texts), letter.payload, letter.records)


def _storable(text: str) -> str:
    """Return text without NUL, which PostgreSQL refuses and a rejected message may hold."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")

"""What workers note of rules and shadows, and what people ask of it.

A worker writes here within the transaction of its flush. What a shadow opens and closes stands in a
table of its own: `outbox` refers to `alert`, so no page can ever speak of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import class_row

from storage.flush import Opened, Ruled, Shadowed, ShadowEnded

_RULED: Final = """
    INSERT INTO rules_applied (topic, partition, message_offset, fingerprint, rules, watermark,
                               log_id)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT DO NOTHING
"""
_OPEN: Final = """
    INSERT INTO shadow_alert (shadow, series_id, category, kind, opened_at, seen, expected, lower,
                              upper, score, sentence)
    SELECT %(shadow)s, %(series_id)s, %(category)s, %(kind)s, %(since)s, %(seen)s,
           %(expected)s::float8, %(lower)s::float8, %(upper)s::float8, %(score)s::float8,
           %(sentence)s
    WHERE NOT EXISTS (
        SELECT FROM shadow_alert
        WHERE shadow = %(shadow)s AND series_id = %(series_id)s AND category = %(category)s
          AND kind = ANY(%(kinds)s) AND closed_at IS NULL)
    ON CONFLICT DO NOTHING
"""
_CLOSE: Final = """
    UPDATE shadow_alert SET closed_at = %s
    WHERE shadow = %s AND series_id = %s AND category = %s AND kind = ANY(%s)
      AND closed_at IS NULL
"""
_END: Final = """
    UPDATE shadow_alert SET closed_at = greatest(opened_at, %s)
    WHERE shadow = %s AND series_id = ANY(%s) AND closed_at IS NULL
      AND (cardinality(%s::text[]) = 0 OR kind = ANY(%s))
"""


async def put_ruled(cursor: AsyncCursor[Any], ruled: Sequence[Ruled], log_id: str) -> None:
    """Note which rules hold from where on."""
    for one in ruled:
        place = (one.topic, one.partition, one.offset)
        await cursor.execute(_RULED, (*place, one.fingerprint, one.rules, one.at, log_id))


async def put_shadowed(cursor: AsyncCursor[Any], changes: Sequence[Shadowed | ShadowEnded]) -> None:
    """Note what shadows opened and closed."""
    for one in changes:
        if isinstance(one, ShadowEnded):
            kinds = list(one.kinds)
            await cursor.execute(_END, (one.at, one.shadow, list(one.series_ids), kinds, kinds))
            continue
        change, page = one.change, one.change.page
        kinds = list(change.kinds) or [page.kind]
        if isinstance(change, Opened):
            names = ("category", "kind", "since", "seen", "expected", "lower", "upper", "score")
            values = {name: getattr(page, name) for name in (*names, "sentence")}
            place = {"shadow": one.shadow, "series_id": change.series_id, "kinds": kinds}
            await cursor.execute(_OPEN, values | place)
        else:
            place_of = (one.shadow, change.series_id, page.category, kinds)
            await cursor.execute(_CLOSE, (page.resolved_at, *place_of))


# What people ask.

_PRESENT: Final = """
    SELECT DISTINCT ON (partition)
           partition, fingerprint, rules, message_offset, watermark, recorded_at
    FROM rules_applied
    ORDER BY partition, rules_applied_id DESC
"""
# The first of the last unbroken row of rules that have the shadow, in each partition.
_RUNNING: Final = """
    WITH told AS (
        SELECT partition, rules_applied_id AS id, watermark AS at,
               coalesce(rules -> 'shadow' ? %(shadow)s, false) AS has
        FROM rules_applied
    ), gone AS (
        SELECT partition, coalesce(max(id) FILTER (WHERE NOT has), 0) AS id
        FROM told GROUP BY partition
    )
    SELECT DISTINCT ON (partition) partition, at
    FROM told JOIN gone USING (partition)
    WHERE told.has AND told.id > gone.id
    ORDER BY partition, told.id
"""
# The newest rules that have the shadow.
_SAID: Final = """
    SELECT rules FROM rules_applied WHERE rules -> 'shadow' ? %s
    ORDER BY rules_applied_id DESC LIMIT 1
"""
# Alerts of both sides that were opened in the time, each with whether the other side had one of
# the same series, category and group of kinds at some time of it. Those of the suite are one group,
# for it has one alert of a category at a time; each kind of the minute stage stands for itself.
_COMPARED: Final = """
    WITH live AS (
        SELECT series_id, category, kind,
               CASE WHEN kind = ANY(%(alike)s) THEN '' ELSE kind END AS kin,
               opened_at, resolved_at AS closed_at,
               coalesce(resolved_at, 'infinity') AS until, sentence
        FROM alert WHERE kind = ANY(%(kinds)s) AND coalesce(resolved_at, 'infinity') >= %(since)s
    ), shadow AS (
        SELECT series_id, category, kind,
               CASE WHEN kind = ANY(%(alike)s) THEN '' ELSE kind END AS kin,
               opened_at, closed_at, coalesce(closed_at, 'infinity') AS until, sentence
        FROM shadow_alert
        WHERE shadow = %(shadow)s AND coalesce(closed_at, 'infinity') >= %(since)s
    ), either AS (
        SELECT 'live' AS side, l.*, EXISTS (
            SELECT FROM shadow s
            WHERE (s.series_id, s.category, s.kin) = (l.series_id, l.category, l.kin)
              AND s.opened_at <= l.until AND l.opened_at <= s.until) AS in_both
        FROM live l
        UNION ALL
        SELECT 'shadow', s.*, EXISTS (
            SELECT FROM live l
            WHERE (l.series_id, l.category, l.kin) = (s.series_id, s.category, s.kin)
              AND l.opened_at <= s.until AND s.opened_at <= l.until)
        FROM shadow s
    ), ranked AS (
        SELECT *, count(*) OVER same AS number, row_number() OVER (
                   same ORDER BY opened_at, series_id, category, kind) AS place
        FROM either WHERE opened_at >= %(since)s
        WINDOW same AS (PARTITION BY side, in_both)
    )
    SELECT r.side, r.in_both, r.number, s.name AS sensor, q.quantity, r.category, r.kind,
           r.opened_at, r.closed_at, r.sentence
    FROM ranked r JOIN series q USING (series_id) JOIN sensor s USING (sensor_id)
    WHERE r.place <= %(limit)s
    ORDER BY r.side, r.in_both, r.place
"""
_NEWEST: Final = "SELECT max(time) FROM latest"
# Where the shadow is as old as the city.
_OLDEST: Final = """
    SELECT least((SELECT min(opened_at) FROM alert), (SELECT min(opened_at) FROM shadow_alert))
"""


class ShadowUnknownError(Exception):
    """No rules that hold have a shadow of that name."""


@dataclass(frozen=True, slots=True)
class Present:
    """Rules that hold in a partition.

    Parameters
    ----------
    partition : int
    fingerprint : str
    rules : mapping
    message_offset : int
        Where they stand in the log.
    watermark : datetime or None
        Event time up to which readings had come before them.
    recorded_at : datetime
    """

    partition: int
    fingerprint: str
    rules: dict[str, Any]
    message_offset: int
    watermark: datetime | None
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Found:
    """An alert of one side of a comparison.

    Parameters
    ----------
    side : {'live', 'shadow'}
    in_both : bool
        Whether the other side had an alert of the same series and category meanwhile; of the
        minute stage, one of the same kind.
    number : int
        How many there are of that side that were, or were not.
    sensor, quantity, category, kind : str
    opened_at, closed_at : datetime, datetime or None
        Event time.
    sentence : str
        What people are told, or would be.
    """

    side: Literal["live", "shadow"]
    in_both: bool
    number: int
    sensor: str
    quantity: str
    category: str
    kind: str
    opened_at: datetime
    closed_at: datetime | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A shadow beside what people are told.

    Parameters
    ----------
    since, until : datetime
        Event time that is compared; alerts count that were opened in it.
    partitions : list of int
        Where the shadow runs.
    found : list of Found
        The first few of each side and kind.
    """

    since: datetime
    until: datetime
    partitions: list[int]
    found: list[Found]

    @property
    def days(self) -> float:
        """Length of the time that is compared."""
        return (self.until - self.since).total_seconds() / 86_400

    def count(self, side: str, *, in_both: bool) -> int:
        """Return how many alerts one side had."""
        return next((o.number for o in self.found if (o.side, o.in_both) == (side, in_both)), 0)

    def examples(self, side: str, *, in_both: bool) -> list[Found]:
        """Return the first few of them."""
        return [one for one in self.found if (one.side, one.in_both) == (side, in_both)]


async def present(connection: AsyncConnection[Any]) -> list[Present]:
    """Return the rules that hold, of each partition that was ever told any."""
    async with connection.cursor(row_factory=class_row(Present)) as cursor:
        await cursor.execute(_PRESENT)
        return await cursor.fetchall()


async def rules_of_shadow(connection: AsyncConnection[Any], shadow: str) -> dict[str, Any]:
    """Return the newest rules that have a shadow; none where none ever had."""
    row = await (await connection.execute(_SAID, (shadow,))).fetchone()
    return row[0] if row is not None else {}


async def compare(
    connection: AsyncConnection[Any],
    shadow: str,
    alike: Sequence[str],
    others: Sequence[str] = (),
    since: datetime | None = None,
    limit: int = 5,
) -> Comparison:
    """Compare what a shadow found with what people were told.

    Parameters
    ----------
    connection : AsyncConnection
        With the namespace's schema on its search path.
    shadow : str
    alike : sequence of str
        Kinds of alerts that it can open, and of which one of a series and category is open at a
        time.
    others : sequence of str
        Kinds that it can open each by itself.
    since : datetime, optional
        Event time; from when the shadow runs in all its partitions, unless that is later.
    limit : int
        Examples of each side and kind.

    Raises
    ------
    ShadowUnknownError
        If it does not run anywhere, and it is not said since when it should be compared.
    """
    cursor = await connection.execute(_RUNNING, {"shadow": shadow})
    running = await cursor.fetchall()
    if not running and since is None:
        raise ShadowUnknownError(f"no shadow {shadow!r} runs; say --since for one that did")
    newest = await _moment(connection, _NEWEST)
    begins = [at for at in (since, *(at for _, at in running)) if at is not None]
    if not begins:
        begins = [await _moment(connection, _OLDEST) or newest or datetime.now(UTC)]
    begin = max(begins)
    kinds = {"alike": list(alike), "kinds": [*alike, *others]}
    wanted = {"shadow": shadow, "since": begin, "limit": limit} | kinds
    async with connection.cursor(row_factory=class_row(Found)) as found:
        await found.execute(_COMPARED, wanted)
        rows = await found.fetchall()
    until = max(newest or begin, begin)
    return Comparison(begin, until, [number for number, _ in running], rows)


async def _moment(connection: AsyncConnection[Any], query: str) -> datetime | None:
    row = await (await connection.execute(query)).fetchone()
    return row[0] if row is not None else None

"""Which partition judges a series: one at a time, and the others say nothing of it any more.

A change of groups moves a sensor to another partition. Where it was nobody reads it again, so what
is open of it would stay open for ever; and it would be called silent there, while it reports. What
a partition alone cannot know the database can: where a series was read last. The first reading in
the new partition makes that its home, and what the old one has open of it is closed with that
reason: the sensor has been heard, and is judged anew. A sensor that is not heard in its new
partition keeps its home, and is called silent there.

A reading of the old partition that is read late takes nothing back: homes move forward in event
time only.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncCursor

from storage.flush import Change, Claim, Shadowed, ShadowEnded
from storage.pages import decode_page, encode_page, judged_anew

# Sorted, so that two workers never wait for each other's series crosswise.
_OTHERS: Final = """
    SELECT c.series_id, c.partition, c.at, s.home
    FROM unnest(%s::integer[], %s::integer[], %s::timestamptz[]) AS c (series_id, partition, at)
    JOIN series s USING (series_id)
    WHERE s.home IS DISTINCT FROM c.partition AND (s.home_at IS NULL OR s.home_at < c.at)
    ORDER BY c.series_id
    FOR UPDATE OF s
"""
_SETTLE: Final = """
    UPDATE series s SET home = c.partition, home_at = c.at
    FROM unnest(%s::integer[], %s::integer[], %s::timestamptz[]) AS c (series_id, partition, at)
    WHERE s.series_id = c.series_id
"""
_CLOSE: Final = """
    WITH left_open AS (
        UPDATE alert a SET state = 'resolved', resolved_at = greatest(a.opened_at, c.at)
        FROM unnest(%(series_ids)s::integer[], %(moments)s::timestamptz[]) AS c (series_id, at)
        WHERE a.series_id = c.series_id AND a.state <> 'resolved'
        RETURNING a.alert_id, a.resolved_at
    ), noted AS (
        INSERT INTO alert_transition (alert_id, at, state, cause, actor)
        SELECT alert_id, resolved_at, 'resolved', %(cause)s, 'worker' FROM left_open
        ON CONFLICT DO NOTHING
    )
    SELECT l.resolved_at, o.alert_id, o.dedup_key, o.payload::text
    FROM left_open l JOIN outbox o ON o.alert_id = l.alert_id AND o.event = 'firing'
    ORDER BY o.outbox_id
"""
_CLOSE_SHADOWS: Final = """
    UPDATE shadow_alert a SET closed_at = greatest(a.opened_at, c.at)
    FROM unnest(%(series_ids)s::integer[], %(moments)s::timestamptz[]) AS c (series_id, at)
    WHERE a.series_id = c.series_id AND a.closed_at IS NULL
"""
_TELL: Final = """
    INSERT INTO outbox (alert_id, event, dedup_key, payload, at)
    VALUES (%s, 'resolved', %s, %s, %s)
    ON CONFLICT DO NOTHING
"""
_HOMES: Final = "SELECT series_id, home FROM series WHERE series_id = ANY(%s)"
_CAUSE: Final = "judged anew in another partition"


async def settle(cursor: AsyncCursor[Any], claims: Sequence[Claim]) -> bool:
    """Make partitions the homes of series that they have read.

    Returns
    -------
    bool
        Whether anybody is to be told of an alert that this has closed.
    """
    if not claims:
        return False
    columns = [
        [one.series_id for one in claims],
        [one.partition for one in claims],
        [one.at for one in claims],
    ]
    await cursor.execute(_OTHERS, columns)
    moved = await cursor.fetchall()
    if not moved:
        return False
    series_ids, partitions, moments, _ = (list(column) for column in zip(*moved, strict=True))
    await cursor.execute(_SETTLE, (series_ids, partitions, moments))
    strangers = [(series_id, at) for series_id, _, at, home in moved if home is not None]
    return bool(strangers) and await _hand_over(cursor, strangers)


async def _hand_over(cursor: AsyncCursor[Any], moved: Sequence[tuple[int, datetime]]) -> bool:
    """Close what other partitions have open of series; say whether anybody is to be told."""
    series_ids, moments = (list(column) for column in zip(*moved, strict=True))
    places = {"series_ids": series_ids, "moments": moments}
    await cursor.execute(_CLOSE_SHADOWS, places)
    await cursor.execute(_CLOSE, places | {"cause": _CAUSE})
    told = await cursor.fetchall()
    for resolved_at, alert_id, dedup_key, payload in told:
        page = judged_anew(decode_page(payload), resolved_at)
        await cursor.execute(_TELL, (alert_id, dedup_key, encode_page(page).decode(), resolved_at))
    return bool(told)


async def at_home(cursor: AsyncCursor[Any], changes: Sequence[Change]) -> list[Change]:
    """Return those changes that the home of their series says."""
    homes = await _homes(cursor, changes)
    return [one for one in changes if _is_at_home(one, homes)]


async def shadows_at_home(
    cursor: AsyncCursor[Any], shadowed: Sequence[Shadowed | ShadowEnded]
) -> list[Shadowed | ShadowEnded]:
    """Return those changes of shadows that the home of their series says, and what ends."""
    said = [one.change for one in shadowed if isinstance(one, Shadowed)]
    homes = await _homes(cursor, said)
    return [
        one for one in shadowed if isinstance(one, ShadowEnded) or _is_at_home(one.change, homes)
    ]


async def _homes(cursor: AsyncCursor[Any], changes: Sequence[Change]) -> dict[int, int | None]:
    if not changes:
        return {}
    await cursor.execute(_HOMES, (sorted({one.series_id for one in changes}),))
    return dict(await cursor.fetchall())


def _is_at_home(change: Change, homes: dict[int, int | None]) -> bool:
    home = homes.get(change.series_id)
    return change.partition is None or home is None or home == change.partition

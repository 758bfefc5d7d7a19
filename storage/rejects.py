"""Dead letters, as they are looked at and as they are drawn to be decoded anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.sql import SQL, Composed

# What the payloads of one draw may take together.
_MAX_DRAW_BYTES: Final = 32 << 20
_WANTED: Final = SQL("""
    (%(reason)s::text IS NULL OR reason = %(reason)s)
    AND (%(ids)s::bigint[] IS NULL OR dead_letter_id = ANY(%(ids)s))
    AND (%(since)s::timestamptz IS NULL OR received_at >= %(since)s)
    AND (%(until)s::timestamptz IS NULL OR received_at < %(until)s)
""")


def _query(text: LiteralString) -> Composed:
    return SQL(text).format(wanted=_WANTED)


_LIST: Final = _query("""
    SELECT dead_letter_id, received_at, bridge, source, mqtt_topic, reason, place, records,
           octet_length(payload) AS size, replayed_at,
           CASE WHEN %(payload)s THEN substr(payload, 1, %(most)s) END AS payload
    FROM dead_letter WHERE {wanted}
    ORDER BY received_at DESC, dead_letter_id DESC LIMIT %(limit)s
""")
_COUNT: Final = _query("""
    SELECT reason, count(*) AS letters, coalesce(sum(records), 0)::bigint AS records,
           count(payload) AS kept, count(replayed_at) AS replayed
    FROM dead_letter WHERE {wanted}
    GROUP BY reason ORDER BY letters DESC, reason
""")
_NOT_KEPT: Final = _query("""
    SELECT count(*) FROM dead_letter WHERE payload IS NULL AND replayed_at IS NULL AND {wanted}
""")
# Oldest first, as it came. Letters that another replay holds are passed over: it sees to them.
_DRAW: Final = _query("""
    SELECT dead_letter_id, received_at, octet_length(payload)
    FROM dead_letter
    WHERE payload IS NOT NULL AND replayed_at IS NULL AND {wanted}
      AND (%(after)s::timestamptz IS NULL
           OR (received_at, dead_letter_id) > (%(after)s, %(after_id)s))
    ORDER BY received_at, dead_letter_id LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
""")
_PAYLOADS: Final = """
    SELECT dead_letter_id, received_at, source, mqtt_topic, reason, records, payload
    FROM dead_letter WHERE dead_letter_id = ANY(%s) ORDER BY received_at, dead_letter_id
"""
_MARK: Final = "UPDATE dead_letter SET replayed_at = now() WHERE dead_letter_id = ANY(%s)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which dead letters; None of a thing is any.

    Parameters
    ----------
    reason : str or None
    ids : sequence of int or None
    since, until : datetime or None
        Bounds on the time of arrival, [since, until).
    """

    reason: str | None = None
    ids: Sequence[int] | None = None
    since: datetime | None = None
    until: datetime | None = None

    def parameters(self) -> dict[str, Any]:
        """Return it as the queries of this module want it."""
        ids = None if self.ids is None else list(self.ids)
        return {"reason": self.reason, "ids": ids, "since": self.since, "until": self.until}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One dead letter, to be looked at.

    Parameters
    ----------
    dead_letter_id : int
    received_at : datetime
    bridge, source, mqtt_topic, reason, place : str
    records : int or None
        How many records of a message of which the rest was taken; 0 for a whole message, None for
        a letter from before this was told.
    size : int or None
        Bytes of the payload; None where it was not kept.
    replayed_at : datetime or None
    payload : bytes or None
        Its beginning, where it was asked for.
    """

    dead_letter_id: int
    received_at: datetime
    bridge: str
    source: str
    mqtt_topic: str
    reason: str
    place: str
    records: int | None
    size: int | None
    replayed_at: datetime | None
    payload: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonCount:
    """How many dead letters have a reason.

    Parameters
    ----------
    reason : str
    letters, records : int
    kept, replayed : int
        How many of `letters`.
    """

    reason: str
    letters: int
    records: int
    kept: int
    replayed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLetter:
    """A dead letter that can be decoded anew.

    Parameters
    ----------
    dead_letter_id : int
    received_at : datetime
        When it first came.
    source, mqtt_topic, reason : str
    records : int or None
    payload : bytes
    """

    dead_letter_id: int
    received_at: datetime
    source: str
    mqtt_topic: str
    reason: str
    records: int | None
    payload: bytes


async def listed(
    connection: AsyncConnection[Any],
    wanted: Wanted,
    *,
    limit: int,
    payload_bytes: int = 0,
) -> list[Listed]:
    """Return the newest dead letters, newest first, at most `limit`.

    Parameters
    ----------
    connection : AsyncConnection
        With the namespace's schema on its search path.
    wanted : Wanted
    limit : int
    payload_bytes : int
        How much of each payload; 0 leaves them out.
    """
    values = {"limit": limit, "payload": payload_bytes > 0, "most": payload_bytes}
    async with connection.cursor(row_factory=class_row(Listed)) as cursor:
        await cursor.execute(_LIST, wanted.parameters() | values)
        return await cursor.fetchall()


async def counted(connection: AsyncConnection[Any], wanted: Wanted) -> list[ReasonCount]:
    """Return how many there are of each reason, most first."""
    async with connection.cursor(row_factory=class_row(ReasonCount)) as cursor:
        await cursor.execute(_COUNT, wanted.parameters())
        return await cursor.fetchall()


async def not_kept(connection: AsyncConnection[Any], wanted: Wanted) -> int:
    """Return how many cannot be decoded anew, because their payload was not kept."""
    cursor = await connection.execute(_NOT_KEPT, wanted.parameters())
    row = await cursor.fetchone()
    return int(row[0]) if row is not None else 0


async def draw(
    connection: AsyncConnection[Any], wanted: Wanted, *, after: KeptLetter | None, limit: int
) -> list[KeptLetter]:
    """Return and lock the next letters that were kept and not replayed, in order of arrival.

    Parameters
    ----------
    connection : AsyncConnection
        In a transaction, which holds the locks.
    wanted : Wanted
    after : KeptLetter or None
        The last one of the draw before.
    limit : int
        Of letters; what they hold together is bounded as well.
    """
    position = {
        "after": after.received_at if after else None,
        "after_id": after.dead_letter_id if after else None,
        "limit": limit,
    }
    async with connection.cursor() as cursor:
        await cursor.execute(_DRAW, wanted.parameters() | position)
        ids: list[int] = []
        size = 0
        for dead_letter_id, _, length in await cursor.fetchall():
            size += length
            if ids and size > _MAX_DRAW_BYTES:
                break
            ids.append(dead_letter_id)
    async with connection.cursor(row_factory=class_row(KeptLetter)) as cursor:
        await cursor.execute(_PAYLOADS, (ids,))
        return await cursor.fetchall()


async def mark(connection: AsyncConnection[Any], ids: Sequence[int]) -> None:
    """Note that letters were replayed."""
    await connection.execute(_MARK, (list(ids),))

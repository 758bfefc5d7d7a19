"""How the pipeline stands, in a few numbers that cost the database next to nothing."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import class_row

_STANDING: Final = """
    SELECT l.*, a.alerts_opened, a.alerts_open, o.pages_delivered, o.pages_pending, n.newest_at
    FROM (SELECT coalesce(sum(messages), 0)::bigint AS messages,
                 coalesce(sum(readings), 0)::bigint AS readings,
                 coalesce(sum(stored), 0)::bigint AS stored,
                 coalesce(sum(duplicates), 0)::bigint AS duplicates,
                 coalesce(sum(late_conflicts), 0)::bigint AS late_conflicts,
                 coalesce(sum(rejected), 0)::bigint AS rejected,
                 coalesce(sum(withheld), 0)::bigint AS withheld,
                 coalesce(sum(repeated), 0)::bigint AS repeated,
                 coalesce(sum(refused), 0)::bigint AS refused
          FROM ledger_ever) l,
         (SELECT count(*) AS alerts_opened,
                 count(*) FILTER (WHERE state <> 'resolved') AS alerts_open FROM alert) a,
         (SELECT (SELECT count(*) FROM delivery
                  WHERE event = 'trigger' AND delivered_at IS NOT NULL) AS pages_delivered,
                 (SELECT count(*) FROM delivery WHERE delivered_at IS NULL AND abandoned_at IS NULL)
                 + (SELECT count(*) FROM outbox WHERE decided_at IS NULL)
                 + (SELECT count(*) FROM page_track
                    WHERE coalesce(body ->> 'phase', 'held') = 'held')
                 + (SELECT count(*) FROM page_group WHERE closed_at IS NULL AND told_at IS NULL
                    AND (body ->> 'waits_until')::timestamptz > now() - interval '5 s')
                     AS pages_pending) o,
         (SELECT max(time) AS newest_at FROM latest) n
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """Totals of a namespace since its beginning.

    Parameters
    ----------
    messages, readings, stored, duplicates, late_conflicts, rejected, withheld : int
    repeated, refused : int
        Sums of the ledger.
    alerts_opened, alerts_open : int
    pages_delivered, pages_pending : int
        Pages that woke somebody; what is pending includes alerts that are not decided, or that
        wait for others of the same cause.
    newest_at : datetime or None
        Event time of the newest reading; a second or so behind the newest of all.
    """

    messages: int
    readings: int
    stored: int
    duplicates: int
    late_conflicts: int
    rejected: int
    withheld: int
    repeated: int
    refused: int
    alerts_opened: int
    alerts_open: int
    pages_delivered: int
    pages_pending: int
    newest_at: datetime | None


async def standing(connection: AsyncConnection[Any]) -> Standing:
    """Return the totals of the schema on the connection's search path."""
    async with connection.cursor(row_factory=class_row(Standing)) as cursor:
        await cursor.execute(_STANDING)
        found = await cursor.fetchone()
    assert found is not None  # noqa: S101 - a query of aggregates has one row
    return found

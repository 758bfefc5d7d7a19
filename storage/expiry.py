"""Readings that are removed on purpose, and the note of it that the audit needs."""

from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection

from ingest.quantities import QUANTITIES

# One statement: rows that are gone and the note that they are stand or fall together.
_EXPIRE: Final = """
    WITH gone AS (
        DELETE FROM reading r USING series q
        WHERE r.series_id = q.series_id AND r.time < %(before)s
        RETURNING q.quantity
    ), noted AS (
        INSERT INTO expired AS e (source, rows)
        SELECT coalesce(d.source, 'unknown'), count(*)
        FROM gone g
        LEFT JOIN unnest(%(quantities)s::text[], %(sources)s::text[]) AS d (quantity, source)
          USING (quantity)
        GROUP BY 1
        ON CONFLICT (source) DO UPDATE SET rows = e.rows + excluded.rows, last_at = now()
    ), forgotten AS (
        DELETE FROM latest WHERE time < %(before)s
    )
    SELECT count(*) FROM gone
"""


def sources() -> dict[str, list[str]]:
    """Return the quantities and, beside each, the source of the ledger that counts it.

    A quantity belongs to one domain, whatever its sensor is called; the domain that a sensor is
    known under is only the one it last reported in.
    """
    return {
        "quantities": list(QUANTITIES),
        "sources": [quantity.domain for quantity in QUANTITIES.values()],
    }


async def expire(connection: AsyncConnection[Any], before: datetime) -> int:
    """Remove the readings older than `before`, and return how many they were.

    Parameters
    ----------
    connection : AsyncConnection
        With the namespace's schema on its search path.
    before : datetime
        Event time.
    """
    cursor = await connection.execute(_EXPIRE, {"before": before, **sources()})
    row = await cursor.fetchone()
    return int(row[0]) if row is not None else 0

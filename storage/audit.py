"""Does the ledger balance? What bridges took in against what the database made of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import class_row

_LINES: Final = """
    SELECT bridge, source, date_trunc('hour', minute) AS hour,
           sum(messages)::bigint AS messages, sum(readings)::bigint AS readings,
           sum(rejected)::bigint AS rejected, sum(withheld)::bigint AS withheld,
           sum(stored)::bigint AS stored, sum(duplicates)::bigint AS duplicates,
           sum(late_conflicts)::bigint AS late_conflicts
    FROM ledger
    WHERE (%(since)s::timestamptz IS NULL OR minute >= %(since)s)
      AND (%(until)s::timestamptz IS NULL OR minute < %(until)s)
    GROUP BY bridge, source, hour
    ORDER BY hour, bridge, source
"""


@dataclass(frozen=True, slots=True)
class AuditLine:
    """What one bridge took from one source in one hour, and what became of it.

    Parameters
    ----------
    bridge, source : str
    hour : datetime
        Start of the hour of arrival, UTC.
    messages : int
        MQTT messages received, redeliveries included.
    readings : int
        Readings the bridge passed on.
    rejected, withheld : int
        Messages rejected, camera attributes withheld.
    stored, duplicates, late_conflicts : int
        What became of `readings`.
    """

    bridge: str
    source: str
    hour: datetime
    messages: int
    readings: int
    rejected: int
    withheld: int
    stored: int
    duplicates: int
    late_conflicts: int

    @property
    def missing(self) -> int:
        """Readings passed on of which nothing is known; 0 where the line balances."""
        return self.readings - self.stored - self.duplicates - self.late_conflicts


async def audit(
    connection: AsyncConnection[Any], since: datetime | None, until: datetime | None
) -> list[AuditLine]:
    """Return the ledger by bridge, source and hour, oldest first.

    Parameters
    ----------
    connection : AsyncConnection
        With the namespace's schema on its search path.
    since, until : datetime or None
        Bounds on the minute of arrival, [since, until).
    """
    async with connection.cursor(row_factory=class_row(AuditLine)) as cursor:
        await cursor.execute(_LINES, {"since": since, "until": until})
        return await cursor.fetchall()

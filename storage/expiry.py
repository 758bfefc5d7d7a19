"""What is removed on purpose, and the note of it that the audit needs.

The removing itself stands in the database (migration 0006), because TimescaleDB's scheduler runs it
there; `citywatch db expire` runs the same procedure where there is no scheduler.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from ingest.quantities import QUANTITIES

# Nobody waits for what is so old; and who does, a worker would have to wait for in turn.
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '10s'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """For how many days each thing is kept; 0 is for ever.

    Parameters
    ----------
    readings : int
        On TimescaleDB until the last reading of its day's chunk is so old.
    payloads : int
        What dead letters hold of their messages.
    ledger : int
        The ledger by minute, and the dead letters themselves; its sums stay.
    pages, alerts : int
        From the end of an alert; an alert goes with its transitions and pages.
    """

    readings: int
    payloads: int
    ledger: int
    pages: int
    alerts: int

    def config(self) -> dict[str, Any]:
        """Return it as the procedure `expire` wants it."""
        names = ("readings", "payloads", "ledger", "pages", "alerts")
        days = {name: getattr(self, name) for name in names if getattr(self, name)}
        return days | {"sources": _by_quantity()}


def sources() -> dict[str, list[str]]:
    """Return the quantities and, beside each, the source of the ledger that counts it.

    A quantity belongs to one domain, whatever its sensor is called; the domain that a sensor is
    known under is only the one it last reported in.
    """
    by_quantity = _by_quantity()
    return {"quantities": list(by_quantity), "sources": list(by_quantity.values())}


def _by_quantity() -> dict[str, str]:
    return {name: quantity.domain for name, quantity in QUANTITIES.items()}


async def expire(connection: AsyncConnection[Any], before: datetime) -> int:
    """Remove the readings older than `before`, and return how many they were.

    Parameters
    ----------
    connection : AsyncConnection
        With the namespace's schema on its search path.
    before : datetime
        Event time. On TimescaleDB readings go by the chunk of a whole day.
    """
    cursor = await connection.execute(
        "SELECT expire_readings(%s, %s)", (before, Jsonb(_by_quantity()))
    )
    row = await cursor.fetchone()
    return int(row[0]) if row is not None else 0


async def expire_all(connection: AsyncConnection[Any], keep: Keep) -> None:
    """Remove everything that need not be kept any longer, in one transaction."""
    async with connection.transaction():
        await connection.execute(_LOCK_TIMEOUT)
        await connection.execute("CALL expire(NULL, %s)", (Jsonb(keep.config()),))

"""The outbox table as the pager sees it: claim, and record what became of it.

A claim is a lease. A pager that dies holding one loses nothing: the lease runs out and another
pager takes the row, under the same key. All times are the database's, so pagers on hosts whose
clocks differ agree on who holds what.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composed, Identifier

from paging.gates import Fate
from storage.migrate import session_options
from storage.pages import Page, PageError, decode_page, outbox_channel

Connection = AsyncConnection[TupleRow]

# An error text is for a person; the rest of a page-long one is in the log.
_MAX_ERROR_CHARS: Final = 500
# Every statement here touches some rows by index. One that takes longer waits on a lock or on a
# server that is gone, and a pager that waits pages nobody.
_STATEMENT_TIMEOUT_MS: Final = 10_000
# A peer that vanished without a word is noticed in 10 + 3 * 5 s, or 15 s with data under way.
_CONNECT_TIMEOUT_S: Final = 5
_KEEPALIVES_IDLE_S: Final = 10
_KEEPALIVES_INTERVAL_S: Final = 5
_KEEPALIVES_COUNT: Final = 3
_TCP_USER_TIMEOUT_MS: Final = 15_000

# A resolution is not even claimed before its firing is settled, so it costs nothing while it
# waits; the stage `firing_told` would hold it all the same. A row that another pager claimed after
# the snapshot is read again under the lock and no longer matches.
_CLAIM: Final = """
WITH due AS MATERIALIZED (
    SELECT o.outbox_id
    FROM outbox o
    WHERE o.delivered_at IS NULL AND o.abandoned_at IS NULL
      AND o.next_attempt_at <= now()
      AND (o.claimed_until IS NULL OR o.claimed_until <= now())
      AND NOT (o.event = 'resolved' AND EXISTS (
          SELECT FROM outbox f
          WHERE f.dedup_key = o.dedup_key AND f.event = 'firing'
            AND f.delivered_at IS NULL AND f.abandoned_at IS NULL))
    ORDER BY o.next_attempt_at, o.outbox_id
    LIMIT %(limit)s
    FOR UPDATE OF o SKIP LOCKED
)
UPDATE outbox o
SET claimed_until = now() + make_interval(secs => %(lease_s)s), attempts = o.attempts + 1
FROM due
WHERE o.outbox_id = due.outbox_id
RETURNING o.outbox_id, o.event, o.dedup_key, o.payload::text, o.attempts, now(),
    o.claimed_until, (
    SELECT CASE WHEN f.delivered_at IS NOT NULL THEN 'delivered'
                WHEN f.abandoned_at IS NOT NULL THEN 'abandoned'
                ELSE 'pending' END
    FROM outbox f
    WHERE f.dedup_key = o.dedup_key AND f.event = 'firing')
"""

# Delivery is a fact, whoever holds the row by now. Everything else counts only from the holder of
# the lease, which its end names: no two leases of a row end in the same microsecond.
_DELIVERED: Final = SQL("""
UPDATE outbox SET delivered_at = now(), abandoned_at = NULL, claimed_until = NULL
WHERE outbox_id = %(outbox_id)s AND delivered_at IS NULL
""")
_SETTLED: Final = SQL("""
UPDATE outbox SET claimed_until = NULL, {}
WHERE outbox_id = %(outbox_id)s AND claimed_until = %(claimed_until)s
  AND delivered_at IS NULL AND abandoned_at IS NULL
""")
_FAILED: Final = _SETTLED.format(
    SQL("last_error = %(error)s, next_attempt_at = now() + make_interval(secs => %(delay_s)s)")
)
_ABANDONED: Final = _SETTLED.format(SQL("last_error = %(error)s, abandoned_at = now()"))
# Nothing was sent, so these two claims were no attempts.
_SUPPRESSED: Final = _SETTLED.format(
    SQL("last_error = %(error)s, abandoned_at = now(), attempts = attempts - 1")
)
_HELD: Final = _SETTLED.format(SQL("next_attempt_at = %(until)s, attempts = attempts - 1"))


@dataclass(frozen=True, slots=True)
class Claim:
    """A row of the outbox that this pager holds.

    Parameters
    ----------
    outbox_id : int
        The row.
    key : str
        `<dedup_key>:<event>`, the same at every attempt.
    event : str
        As in the row's column.
    payload : str
        The page, as JSON; not read yet, because a row that cannot be read must be held as well.
    attempts : int
        Attempts so far, this one included.
    claimed_at, claimed_until : datetime
        The lease, by the database's clock.
    firing : Fate
        What became of the firing of the same alert.
    """

    outbox_id: int
    key: str
    event: str
    payload: str
    attempts: int
    claimed_at: datetime
    claimed_until: datetime
    firing: Fate

    def page(self) -> Page:
        """Read the page.

        Raises
        ------
        PageError
            If the payload is no page of this version, or tells another event than its row.
        """
        page = decode_page(self.payload)
        if page.event != self.event:
            raise PageError(f"the row says {self.event}, its payload {page.event}")
        return page


@dataclass(frozen=True, slots=True)
class Delivered:
    """The page was told."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Failed:
    """The page was not told; try again after `delay_s`."""

    claim: Claim
    error: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The page was not told and will not be."""

    claim: Claim
    error: str


@dataclass(frozen=True, slots=True)
class Suppressed:
    """The page is not to be told; nothing was sent."""

    claim: Claim
    reason: str


@dataclass(frozen=True, slots=True)
class Held:
    """The page is not to be told yet; nothing was sent."""

    claim: Claim
    until: datetime


Outcome = Delivered | Failed | Abandoned | Suppressed | Held


@asynccontextmanager
async def connected(dsn: str, schema: str) -> AsyncIterator[Connection]:
    """Connect to the database, in a namespace's schema, committing each statement by itself.

    Raises
    ------
    psycopg.OperationalError
        If the database cannot be reached.
    """
    connection = await AsyncConnection.connect(
        dsn,
        autocommit=True,
        application_name="citywatch-pager",
        options=f"{session_options(schema)} -c statement_timeout={_STATEMENT_TIMEOUT_MS}",
        connect_timeout=_CONNECT_TIMEOUT_S,
        keepalives_idle=_KEEPALIVES_IDLE_S,
        keepalives_interval=_KEEPALIVES_INTERVAL_S,
        keepalives_count=_KEEPALIVES_COUNT,
        tcp_user_timeout=_TCP_USER_TIMEOUT_MS,
    )
    async with connection:
        yield connection


async def claim(connection: Connection, *, limit: int, lease_s: float) -> list[Claim]:
    """Lease at most `limit` rows that are due and that no other pager holds, oldest first."""
    cursor = await connection.execute(_CLAIM, {"limit": limit, "lease_s": lease_s})
    rows = sorted(await cursor.fetchall())
    return [
        Claim(
            outbox_id=outbox_id,
            key=f"{dedup_key}:{event}",
            event=event,
            payload=payload,
            attempts=attempts,
            claimed_at=claimed_at,
            claimed_until=claimed_until,
            firing=Fate(fate or "absent"),
        )
        for outbox_id, event, dedup_key, payload, attempts, claimed_at, claimed_until, fate in rows
    ]


async def record(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    """Write down what became of claims, all or none; to do so again changes nothing."""
    async with connection.transaction():
        for outcome in outcomes:
            held = {
                "outbox_id": outcome.claim.outbox_id,
                "claimed_until": outcome.claim.claimed_until,
            }
            statement, values = _statement(outcome)
            await connection.execute(statement, held | values)


async def listen(connection: Connection, schema: str) -> None:
    """Ask to be told when the worker writes to a schema's outbox."""
    await connection.execute(SQL("LISTEN {}").format(Identifier(outbox_channel(schema))))


def _statement(outcome: Outcome) -> tuple[SQL | Composed, dict[str, Any]]:
    match outcome:
        case Delivered():
            return _DELIVERED, {}
        case Failed(error=error, delay_s=delay_s):
            return _FAILED, {"error": _short(error), "delay_s": delay_s}
        case Abandoned(error=error):
            return _ABANDONED, {"error": _short(error)}
        case Suppressed(reason=reason):
            return _SUPPRESSED, {"error": _short(f"suppressed: {reason}")}
        case Held(until=until):
            return _HELD, {"until": until}


def _short(text: str) -> str:
    # A reason may quote a stranger, and PostgreSQL's text holds neither NUL nor half a character.
    storable = text[:_MAX_ERROR_CHARS].replace("\0", "")
    return storable.encode(errors="replace").decode()

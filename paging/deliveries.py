"""The table of deliveries as the sender sees it: claim, and record what became of it.

A claim is a lease. A sender that dies holding one loses nothing: the lease runs out and another
sender takes the row, under the same key. All times are the database's, so senders on hosts whose
clocks differ agree on who holds what.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.sql import SQL, Composed

from paging.connection import Connection, storable
from paging.notices import Event, Notice, NoticeError, decode_notice

# An error text is for a person; the rest of a page-long one is in the log.
_MAX_ERROR_CHARS: Final = 500

# What is told of a group to one target is told in order, so nobody hears that something is over and
# then that it began; what waits for its predecessor is not even claimed. A row that another sender
# claimed after the snapshot is read again under the lock and no longer matches.
_CLAIM: Final = """
WITH due AS MATERIALIZED (
    SELECT d.delivery_id
    FROM delivery d
    WHERE d.hook = %(hook)s AND d.delivered_at IS NULL AND d.abandoned_at IS NULL
      AND d.next_attempt_at <= now()
      AND (d.claimed_until IS NULL OR d.claimed_until <= now())
      AND NOT EXISTS (
          SELECT FROM delivery e
          WHERE e.group_key = d.group_key AND e.hook = d.hook
            AND e.person IS NOT DISTINCT FROM d.person AND e.delivery_id < d.delivery_id
            AND e.delivered_at IS NULL AND e.abandoned_at IS NULL)
    ORDER BY d.next_attempt_at, d.delivery_id
    LIMIT %(limit)s
    FOR UPDATE OF d SKIP LOCKED
)
UPDATE delivery d
SET claimed_until = now() + make_interval(secs => %(lease_s)s), attempts = d.attempts + 1
FROM due, notice n
WHERE d.delivery_id = due.delivery_id AND n.notice_id = d.notice_id
RETURNING d.delivery_id, d.key, d.event, n.payload::text, d.step, d.person, d.attempts,
    extract(epoch FROM now() - d.created_at)::float8, d.claimed_until,
    d.event = 'trigger' OR EXISTS (
        SELECT FROM delivery e
        WHERE e.group_key = d.group_key AND e.hook = d.hook
          AND e.person IS NOT DISTINCT FROM d.person AND e.delivery_id < d.delivery_id
          AND (e.delivered_at IS NOT NULL OR e.attempts > e.missed))
"""
# What was put off at the wish of a hook that is not there waits for nobody.
_HASTENED: Final = """
UPDATE delivery SET next_attempt_at = now()
WHERE delivered_at IS NULL AND abandoned_at IS NULL AND hook <> ALL(%s)
  AND next_attempt_at > now() AND (claimed_until IS NULL OR claimed_until <= now())
"""
# Of hooks that no route file names any more, after a while in which another pager may know them.
_ORPHANED: Final = """
UPDATE delivery
SET abandoned_at = now(), claimed_until = NULL, last_error = 'there is no such hook any more'
WHERE delivered_at IS NULL AND abandoned_at IS NULL AND hook <> ALL(%s)
  AND next_attempt_at < now() - interval '1 minute'
  AND (claimed_until IS NULL OR claimed_until <= now())
"""

# Delivery is a fact, whoever holds the row by now. Everything else counts only from the holder of
# the lease, which its end names: no two leases of a row end in the same microsecond.
_DELIVERED: Final = SQL("""
UPDATE delivery
SET delivered_at = now(), abandoned_at = NULL, claimed_until = NULL
WHERE delivery_id = %(delivery_id)s AND delivered_at IS NULL
""")
_SETTLED: Final = SQL("""
UPDATE delivery SET claimed_until = NULL, {}
WHERE delivery_id = %(delivery_id)s AND claimed_until = %(claimed_until)s
  AND delivered_at IS NULL AND abandoned_at IS NULL
""")
_FAILED: Final = _SETTLED.format(
    SQL(
        "last_error = %(error)s, missed = missed + %(missed)s,"
        " next_attempt_at = now() + make_interval(secs => %(delay_s)s)"
    )
)
_ABANDONED: Final = _SETTLED.format(
    SQL("last_error = %(error)s, missed = missed + %(missed)s, abandoned_at = now()")
)
# Nothing was sent, so this claim was no attempt, and nobody else need be told for it.
_SPARED: Final = _SETTLED.format(
    SQL("last_error = %(error)s, abandoned_at = now(), heeded_at = now(), attempts = attempts - 1")
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that this sender holds.

    Parameters
    ----------
    delivery_id : int
        The row.
    key : str
        The same at every attempt.
    event : str
        What its notice tells.
    payload : str
        The notice, as JSON; not read yet, because a row that cannot be read must be held as well.
    step : int
        Of the policy.
    person : str or None
        For whom.
    attempts : int
        Attempts so far, this one included.
    age_s : float
        Since it was due.
    claimed_until : datetime
        The end of the lease, by the database's clock.
    is_awaited : bool
        Whether the target was told that this began, or may have heard it in an attempt of which
        nobody knows how it ended; always of a trigger.
    """

    delivery_id: int
    key: str
    event: Event
    payload: str
    step: int
    person: str | None
    attempts: int
    age_s: float
    claimed_until: datetime
    is_awaited: bool

    def notice(self) -> Notice:
        """Read the notice.

        Raises
        ------
        NoticeError
            If the payload is no notice of this version, or tells something else than its row.
        """
        notice = decode_notice(self.payload)
        if notice.event != self.event:
            raise NoticeError(f"the row says {self.event}, its payload {notice.event}")
        return notice


@dataclass(frozen=True, slots=True)
class Delivered:
    """The notice was told."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Failed:
    """The notice was not told; try again after `delay_s`. It may have come all the same."""

    claim: Claim
    error: str
    delay_s: float
    may_have_come: bool = True


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The notice was not told and will not be: the next step of the policy is due.

    The last attempt may have come all the same.
    """

    claim: Claim
    error: str
    may_have_come: bool = True


@dataclass(frozen=True, slots=True)
class Spared:
    """The notice is not to be told; nothing was sent."""

    claim: Claim
    reason: str


Outcome = Delivered | Failed | Abandoned | Spared


async def claim(connection: Connection, hook: str, *, limit: int, lease_s: float) -> list[Claim]:
    """Lease at most `limit` deliveries of a hook that are due and nobody holds, oldest first."""
    cursor = await connection.execute(_CLAIM, {"hook": hook, "limit": limit, "lease_s": lease_s})
    return [Claim(*row) for row in sorted(await cursor.fetchall())]


async def hasten_orphans(connection: Connection, hooks: Sequence[str]) -> None:
    """Let what is put off for hooks that are not there be due now."""
    await connection.execute(_HASTENED, (list(hooks),))


async def abandon_orphans(connection: Connection, hooks: Sequence[str]) -> int:
    """Give up what is for hooks that are not there, and return how much it was."""
    return (await connection.execute(_ORPHANED, (list(hooks),))).rowcount


async def record(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    """Write down what became of claims, all or none; to do so again changes nothing."""
    async with connection.transaction():
        for outcome in outcomes:
            held = {
                "delivery_id": outcome.claim.delivery_id,
                "claimed_until": outcome.claim.claimed_until,
            }
            statement, values = _statement(outcome)
            await connection.execute(statement, held | values)


def _statement(outcome: Outcome) -> tuple[SQL | Composed, dict[str, Any]]:
    match outcome:
        case Delivered():
            return _DELIVERED, {}
        case Failed(error=error, delay_s=delay_s, may_have_come=came):
            values = {"error": _short(error), "delay_s": delay_s, "missed": int(not came)}
            return _FAILED, values
        case Abandoned(error=error, may_have_come=came):
            return _ABANDONED, {"error": _short(error), "missed": int(not came)}
        case Spared(reason=reason):
            return _SPARED, {"error": _short(f"not told: {reason}")}


def _short(text: str) -> str:
    return storable(text, _MAX_ERROR_CHARS)

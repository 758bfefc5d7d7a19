"""What the pager remembers and decides, as it stands in the database.

One turn is one transaction. It begins with the lock of `pager_turn`, which one pager has at a time,
and ends with a new revision there; a pager that finds another revision than it left has not decided
last, and reads everything anew. So what is in memory is never more than a copy.

One long module, half of it SQL: what a turn reads and what it writes are one agreement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from psycopg import AsyncCursor
from psycopg.types.json import Jsonb

from paging.connection import Connection, storable
from paging.matching import read_match
from paging.notices import delivery_key, encode_notice
from paging.schedule import Override
from paging.state import (
    Event,
    GivenUp,
    Group,
    Happening,
    Memory,
    Orders,
    Quiet,
    Said,
    Shift,
    Taken,
    Telling,
    Tested,
    Told,
    Track,
    Turn,
)
from storage.pages import Page, PageError, decode_page

# So many at a time; a storm takes some turns, each of which commits.
MAX_EVENTS: Final = 10_000
_MAX_REASON_CHARS: Final = 500

# So little a clock that was set back is waited for, so that no time runs backwards: more than one
# that is kept is off, or that of a standby. Beyond it what is remembered follows the clock, for
# nobody would be paged until it has come as far again.
_CLOCK_SLACK: Final = timedelta(seconds=5)

_LOCK: Final = """
    SELECT revision, shift::text, wakes_at, decider, decided_at, clock_timestamp()
    FROM pager_turn FOR UPDATE SKIP LOCKED
"""
# What waits to be sent, by the same clock. A lease that ends early is a delivery that may come
# twice, under one key.
_REBASE: Final = """
    UPDATE delivery
    SET next_attempt_at = next_attempt_at + %(by)s, claimed_until = claimed_until + %(by)s
    WHERE delivered_at IS NULL AND abandoned_at IS NULL
"""
_UNDECIDED: Final = """
    SELECT outbox_id, event, alert_id, at, actor, payload::text, created_at FROM outbox
    WHERE decided_at IS NULL ORDER BY outbox_id LIMIT %s
"""
_TESTS: Final = """
    SELECT test_id, policy, author FROM page_test WHERE decided_at IS NULL
    ORDER BY created_at, test_id LIMIT %s
"""
_UNHEEDED: Final = """
    SELECT delivery_id, group_key, event, step, hook, person FROM delivery
    WHERE abandoned_at IS NOT NULL AND heeded_at IS NULL ORDER BY delivery_id LIMIT %s
"""
# A change of it is a reason for another turn. Not by when they were written: who lifts one may
# commit long after the time that stands in the row.
_IN_FORCE: Final = """
    SELECT coalesce(md5(string_agg(silence_id::text, ' ' ORDER BY silence_id)), '') FROM silence
    WHERE ends_at > %(now)s AND begins_at <= %(now)s AND lifted_at IS NULL
"""
_SILENCES: Final = """
    SELECT silence_id, kind, match, begins_at, ends_at, comment FROM silence
    WHERE ends_at > %s AND lifted_at IS NULL ORDER BY created_at, silence_id
"""
_OVERRIDES: Final = """
    SELECT rotation, person, begins_at, ends_at FROM oncall_override
    WHERE ends_at > %s AND lifted_at IS NULL ORDER BY created_at, override_id
"""
# As bad as the last turn knew it.
_TRACKS: Final = """
    SELECT t.body::text, o.payload::text FROM page_track t
    CROSS JOIN LATERAL (
        SELECT payload FROM outbox
        WHERE alert_id = t.alert_id AND event IN ('firing', 'worse') AND decided_at IS NOT NULL
        ORDER BY outbox_id DESC LIMIT 1) o
    ORDER BY t.body->>'arrived', t.alert_id
"""
_GROUPS: Final = """
    SELECT body::text FROM page_group WHERE closed_at IS NULL ORDER BY opened_at, group_key
"""
# What has a page in its row, and what that calls itself.
_WITH_PAGE: Final = {"firing": "firing", "worse": "firing", "resolved": "resolved"}
_DECIDED: Final = "UPDATE outbox SET decided_at = %s WHERE outbox_id = ANY(%s)"
_TESTED: Final = "UPDATE page_test SET decided_at = %s WHERE test_id = ANY(%s)"
_HEEDED: Final = "UPDATE delivery SET heeded_at = %s WHERE delivery_id = ANY(%s)"
_PUT_TRACKS: Final = """
    INSERT INTO page_track (alert_id, body) SELECT * FROM unnest(%s::uuid[], %s::text[]::jsonb[])
    ON CONFLICT (alert_id) DO UPDATE SET body = excluded.body
"""
_DROP_TRACKS: Final = "DELETE FROM page_track WHERE alert_id = ANY(%s)"
_PUT_GROUP: Final = """
    INSERT INTO page_group AS g (group_key, cause, cause_name, route, policy, labels, severity,
                                 opened_at, told_at, acknowledged_at, first_acknowledged_at,
                                 acknowledged_by, closed_at, body)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (group_key) DO UPDATE
    SET severity = excluded.severity, told_at = excluded.told_at,
        acknowledged_at = excluded.acknowledged_at,
        acknowledged_by = excluded.acknowledged_by,
        first_acknowledged_at = coalesce(g.first_acknowledged_at, excluded.acknowledged_at),
        closed_at = excluded.closed_at, body = excluded.body
"""
_JOIN: Final = """
    INSERT INTO page_member (group_key, alert_id, joined_at)
    SELECT *, %s FROM unnest(%s::text[], %s::uuid[]) ON CONFLICT DO NOTHING
"""
_SAY: Final = """
    COPY decision (at, alert_id, group_key, stage, outcome, reason, until, trail) FROM STDIN
"""
_TELL: Final = """
    INSERT INTO notice (group_key, revision, event, at, payload) VALUES (%s, %s, %s, %s, %s)
    RETURNING notice_id
"""
_DELIVER: Final = """
    INSERT INTO delivery (notice_id, key, group_key, event, step, hook, person)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
"""
_TURN: Final = """
    UPDATE pager_turn
    SET revision = revision + 1, shift = %s, wakes_at = %s, decider = %s, decided_at = %s
"""


class _Acknowledged(msgspec.Struct):
    """What somebody has: the alert, or all of a group of which it is one."""

    group: str | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """A turn that this pager has.

    Parameters
    ----------
    revision : int
    shift : Shift or None
    wakes_at : datetime or None
        When there is something to decide even if nothing has happened.
    decider : str
        Who decided last.
    now : datetime
        By the database's clock, and never earlier than in the turn before, `set_by` added to it.
    set_by : timedelta
        By how much the clock was set back since, where it was by more than a little; negative.
    """

    revision: int
    shift: Shift | None
    wakes_at: datetime | None
    decider: str
    now: datetime
    set_by: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class Heard:
    """What happened since the last turn.

    Parameters
    ----------
    events : sequence of Told, GivenUp, Taken or Tested
    outbox_ids, delivery_ids, test_ids : sequence of int or UUID
        The rows that say so.
    unreadable : sequence of Said
        What cannot be read, and is not decided by anybody.
    """

    events: Sequence[Event]
    outbox_ids: Sequence[int]
    delivery_ids: Sequence[int]
    test_ids: Sequence[UUID]
    unreadable: Sequence[Said]

    @property
    def is_anything(self) -> bool:
        """Whether anything happened."""
        return self.count > 0

    @property
    def count(self) -> int:
        """How many rows say so."""
        return len(self.outbox_ids) + len(self.delivery_ids) + len(self.test_ids)

    @property
    def rows(self) -> tuple[int | UUID, ...]:
        """What tells these rows from others."""
        return (*self.outbox_ids, *self.delivery_ids, *self.test_ids)


async def begin(connection: Connection) -> Begun | None:
    """Take the turn, inside a transaction; None where another pager has it."""
    cursor = await connection.execute(_LOCK)
    row = await cursor.fetchone()
    if row is None:
        return None
    revision, shift, wakes_at, decider, decided_at, clock = row
    read = None if shift is None else msgspec.json.decode(shift, type=Shift)
    now = max(clock, decided_at or clock)
    if now - clock <= _CLOCK_SLACK:
        return Begun(revision, read, wakes_at, decider, now)
    return Begun(revision, read, wakes_at, decider, clock, clock - now)


async def rebase(connection: Connection, by: timedelta) -> None:
    """Let what is to be delivered follow a clock that was set, in the turn that follows it."""
    await connection.execute(_REBASE, {"by": by})


async def hear(connection: Connection, most: int = MAX_EVENTS) -> Heard:
    """Return what happened, oldest first and so much that one turn can take it."""
    events: list[Event] = []
    outbox_ids, delivery_ids, unreadable = [], [], []
    cursor = await connection.execute(_UNDECIDED, (most,))
    for outbox_id, *row in await cursor.fetchall():
        outbox_ids.append(outbox_id)
        told = _told(*row)
        if isinstance(told, Said):
            unreadable.append(told)
        else:
            events.append(told)
    most -= len(outbox_ids)
    cursor = await connection.execute(_UNHEEDED, (most,))
    for delivery_id, group, event, step, hook, person in await cursor.fetchall():
        delivery_ids.append(delivery_id)
        # Nobody else need be told that something is over when one was not told that it began.
        if event == "trigger":
            events.append(GivenUp(group, step, hook if person is None else f"{hook}:{person}"))
    cursor = await connection.execute(_TESTS, (most - len(delivery_ids),))
    tests = [Tested(*row) for row in await cursor.fetchall()]
    test_ids = [one.test_id for one in tests]
    return Heard([*events, *tests], outbox_ids, delivery_ids, test_ids, unreadable)


async def in_force(connection: Connection, now: datetime) -> str:
    """Return what stands for the silences and windows in force: another text when they change."""
    cursor = await connection.execute(_IN_FORCE, {"now": now})
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - an aggregate has one row
    return str(row[0])


async def orders(connection: Connection, now: datetime) -> Orders:
    """Return what people have ordered and what is not over."""
    quiets: dict[str, list[Quiet]] = {"silence": [], "maintenance": []}
    cursor = await connection.execute(_SILENCES, (now,))
    for silence_id, kind, match, begins_at, ends_at, comment in await cursor.fetchall():
        # Whoever writes one checks it; what is no match of this version must not hide everything.
        faults: list[str] = []
        read = read_match(match, "match", faults)
        if not faults:
            quiets[kind].append(Quiet(str(silence_id)[:8], read, begins_at, ends_at, comment))
    cursor = await connection.execute(_OVERRIDES, (now,))
    overrides = [Override(*row) for row in await cursor.fetchall()]
    return Orders(quiets["silence"], quiets["maintenance"], overrides)


async def remembered(connection: Connection, shift: Shift | None) -> Memory:
    """Return what the pager that decided last remembered."""
    tracks: dict[UUID, Track] = {}
    pages: dict[UUID, Page] = {}
    cursor = await connection.execute(_TRACKS)
    for body, payload in await cursor.fetchall():
        track = msgspec.json.decode(body, type=Track)
        tracks[track.alert_id] = track
        pages[track.alert_id] = decode_page(payload)
    cursor = await connection.execute(_GROUPS)
    groups = [msgspec.json.decode(body, type=Group) for (body,) in await cursor.fetchall()]
    return Memory(tracks, pages, {group.key: group for group in groups}, shift)


async def zones(connection: Connection) -> dict[str, str]:
    """Return the zone of every sensor."""
    cursor = await connection.execute("SELECT name, zone FROM sensor")
    return dict(await cursor.fetchall())


async def write(
    connection: Connection, heard: Heard, before: Memory, turn: Turn, now: datetime, decider: str
) -> None:
    """Write down a turn, in the transaction that has begun it."""
    async with connection.cursor() as cursor:
        await _tick_off(cursor, heard, now)
        await _put_tracks(cursor, before.tracks, turn.memory.tracks)
        await _put_groups(cursor, before.groups, turn)
        if turn.joined:
            keys, alert_ids = zip(*turn.joined, strict=True)
            await cursor.execute(_JOIN, (now, list(keys), list(alert_ids)))
        await _say(cursor, [*heard.unreadable, *turn.said], now)
        for telling in turn.tellings:
            await _tell(cursor, telling)
        shift = turn.memory.shift
        body = None if shift is None else msgspec.json.encode(shift).decode()
        await cursor.execute(_TURN, (body, turn.wake_at, decider, now))


async def set_aside(connection: Connection, heard: Heard, now: datetime, reason: str) -> None:
    """Let nobody decide what makes every turn fail, and write down why."""
    said = [
        Said(*_subject(event), "fault", "drop", f"set aside, it cannot be decided: {reason}")
        for event in heard.events
    ]
    async with connection.cursor() as cursor:
        await _tick_off(cursor, heard, now)
        await _say(cursor, [*heard.unreadable, *said], now)


def delivery_channel(schema: str) -> str:
    """Return the channel that rings when there is something to deliver."""
    return f"{schema}_delivery"


def _told(
    event: Happening,
    alert_id: UUID,
    at: datetime,
    actor: str,
    payload: str,
    written: datetime,
) -> Told | Taken | Said:
    try:
        if event == "acknowledged":
            of = msgspec.json.decode(payload, type=_Acknowledged)
            if of.group is not None:
                return Taken(of.group, actor)
        if event not in _WITH_PAGE:
            return Told(event, alert_id, at, None, actor, written)
        page = decode_page(payload)
    except (PageError, msgspec.DecodeError) as error:
        reason = storable(f"unreadable: {error}", _MAX_REASON_CHARS)
        return Said(alert_id, None, "reading", "drop", reason)
    if page.event != _WITH_PAGE[event]:
        reason = f"unreadable: the row says {event}, its payload {page.event}"
        return Said(alert_id, None, "reading", "drop", reason)
    return Told(event, alert_id, at, page, actor, written)


def _subject(event: Event) -> tuple[UUID | None, str | None]:
    """Return the alert or the group that something is said of."""
    match event:
        case Told():
            return event.alert_id, None
        case GivenUp() | Taken():
            return None, event.group
        case Tested():
            return None, str(event.test_id)


async def _tick_off(cursor: AsyncCursor[Any], heard: Heard, now: datetime) -> None:
    if heard.outbox_ids:
        await cursor.execute(_DECIDED, (now, heard.outbox_ids))
    if heard.delivery_ids:
        await cursor.execute(_HEEDED, (now, heard.delivery_ids))
    if heard.test_ids:
        await cursor.execute(_TESTED, (now, heard.test_ids))


async def _put_tracks(
    cursor: AsyncCursor[Any], before: Mapping[UUID, Track], after: Mapping[UUID, Track]
) -> None:
    changed = [track for alert_id, track in after.items() if before.get(alert_id) is not track]
    if changed:
        bodies = [msgspec.json.encode(track).decode() for track in changed]
        await cursor.execute(_PUT_TRACKS, ([track.alert_id for track in changed], bodies))
    gone = [alert_id for alert_id in before if alert_id not in after]
    if gone:
        await cursor.execute(_DROP_TRACKS, (gone,))


async def _put_groups(cursor: AsyncCursor[Any], before: Mapping[str, Group], turn: Turn) -> None:
    after = turn.memory.groups
    changed = [group for key, group in after.items() if before.get(key) is not group]
    rows = [
        (
            group.key,
            group.cause,
            group.cause_name,
            group.route,
            group.policy,
            Jsonb(group.labels),
            group.worst,
            group.opened,
            group.first_told,
            group.acknowledged_at,
            group.acknowledged_at,
            group.acknowledged_by,
            group.closed,
            msgspec.json.encode(group).decode(),
        )
        for group in (*changed, *turn.closed)
    ]
    if rows:
        await cursor.executemany(_PUT_GROUP, rows)


async def _say(cursor: AsyncCursor[Any], said: Sequence[Said], now: datetime) -> None:
    if not said:
        return
    async with cursor.copy(_SAY) as copy:
        for one in said:
            trail = msgspec.json.encode(one.trail).decode()
            reason = storable(one.reason, _MAX_REASON_CHARS)
            await copy.write_row(
                (now, one.alert_id, one.group, one.stage, one.outcome, reason, one.until, trail)
            )


async def _tell(cursor: AsyncCursor[Any], telling: Telling) -> None:
    notice = telling.notice
    payload = encode_notice(notice).decode()
    await cursor.execute(_TELL, (notice.group, notice.revision, notice.event, notice.at, payload))
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - an INSERT with RETURNING
    rows = [
        (
            row[0],
            delivery_key(notice.group, notice.revision, one.step, one.target),
            notice.group,
            notice.event,
            one.step,
            one.hook,
            one.person,
        )
        for one in telling.deliveries
    ]
    if rows:
        await cursor.executemany(_DELIVER, rows)

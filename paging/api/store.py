"""What the API asks of the database and writes into it.

Everything is bounded by a limit, and found by an index or in a small table. Writes are a
transaction each; who wrote is in the row.

One long module, half of it SQL, for the sake of what all of it shares: pages of a list and bounds.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Literal, LiteralString, TypeVar
from uuid import UUID

from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb
from pydantic import BaseModel

from paging.api.forms import (
    Alert,
    AlertQuery,
    Comment,
    Decision,
    Delivery,
    Mark,
    Order,
    Override,
    Page,
    PageQuery,
    Reason,
    Transition,
    Word,
)
from paging.api.tokens import Connection
from paging.notices import State
from paging.schedule import Override as Standing

OrderKind = Literal["silence", "maintenance"]
RowT = TypeVar("RowT", bound=BaseModel)

# More than a night's worth of anything; what is beyond is in the database.
MAX_ROWS: Final = 500
MAX_MEMBERS: Final = 200

# Units as `storage.pages.UNITS` has them.
_ALERT: Final = """
    SELECT a.alert_id, a.state, a.severity, a.category, a.kind, s.domain, s.zone, s.name AS sensor,
           q.quantity, CASE a.kind WHEN 'silence' THEN 's' WHEN 'clock-skew' THEN 's'
                WHEN 'crowd' THEN '{person}/m2' ELSE q.unit END AS unit,
           a.opened_at, a.resolved_at, a.recorded_at,
           nullif(a.seen, 'NaN') AS seen, nullif(a.expected, 'NaN') AS expected,
           nullif(a.band, 'NaN') AS band, nullif(a.score, 'NaN') AS score, a.sentence
    FROM alert a JOIN series q USING (series_id) JOIN sensor s USING (sensor_id)
"""
_PAGE: Final = """
    SELECT g.group_key::uuid AS page_id, g.cause, g.cause_name, g.route, g.policy, g.labels,
           g.severity, g.opened_at, g.told_at, g.acknowledged_at, g.acknowledged_by, g.closed_at,
           (SELECT count(*) FROM page_member m WHERE m.group_key = g.group_key) AS alerts
    FROM page_group g
"""
_CONDITIONS: Final[dict[str, LiteralString]] = {
    "state": "a.state = ANY(%(state)s)",
    "severity": "a.severity = ANY(%(severity)s)",
    "category": "a.category = ANY(%(category)s)",
    "kind": "a.kind = ANY(%(kind)s)",
    "zone": "s.zone = ANY(%(zone)s)",
    "sensor": "s.name = ANY(%(sensor)s)",
    "since": "a.opened_at >= %(since)s",
    "until": "a.opened_at < %(until)s",
}
_HISTORY: Final = """
    SELECT at, state, cause, actor, recorded_at FROM alert_transition WHERE alert_id = %s
    ORDER BY recorded_at, at LIMIT %s
"""
_PAGES_OF: Final[LiteralString] = f"""{_PAGE}
    WHERE g.group_key IN (SELECT group_key FROM page_member WHERE alert_id = %s)
    ORDER BY g.opened_at DESC, g.group_key LIMIT %s
"""  # noqa: S608 - of constants
_MEMBERS: Final[LiteralString] = f"""{_ALERT}
    JOIN page_member m USING (alert_id) WHERE m.group_key = %s
    ORDER BY a.opened_at DESC, a.alert_id LIMIT %s
"""
# Of an alert, and of the groups that it is in, as long as it is in them. Of what is said of a group
# again and again the first counts: each of hundreds of neighbours that end is a reason to look.
_DECISIONS: Final = """
    (SELECT decision_id, at, group_key, stage, outcome, reason, until, trail FROM decision
     WHERE alert_id = %(alert)s ORDER BY decision_id DESC LIMIT %(limit)s)
    UNION ALL
    (SELECT decision_id, at, group_key, stage, outcome, reason, until, trail FROM (
        SELECT d.*, lag(concat_ws('|', d.stage, d.outcome, d.reason))
                    OVER (PARTITION BY d.group_key ORDER BY d.decision_id) AS before
        FROM page_member m JOIN decision d USING (group_key)
        WHERE m.alert_id = %(alert)s AND d.alert_id IS NULL AND d.at >= m.joined_at) g
     WHERE before IS DISTINCT FROM concat_ws('|', stage, outcome, reason)
     ORDER BY decision_id DESC LIMIT %(limit)s)
    ORDER BY decision_id
"""
_WORDS: Final = """
    SELECT revision, event, at, payload ->> 'title' AS title FROM notice WHERE group_key = %s
    ORDER BY revision DESC LIMIT %s
"""
_DELIVERIES: Final = """
    SELECT n.revision, d.event, d.step, d.hook, d.person, d.attempts, d.created_at, d.delivered_at,
           d.abandoned_at
    FROM delivery d JOIN notice n USING (notice_id) WHERE d.group_key = %s
    ORDER BY d.delivery_id DESC LIMIT %s
"""
_MARKS: Final = """
    SELECT author, is_false, comment, created_at FROM page_mark WHERE group_key = %s
    ORDER BY created_at, author LIMIT %s
"""
_STATE: Final = "SELECT state FROM alert WHERE alert_id = %s"
_ACKNOWLEDGE: Final = "SELECT acknowledge_alert(%s, %s, %s)"
_ACKNOWLEDGE_PAGE: Final = "SELECT acknowledge_page(%s, %s, %s)"
_PAGE_EXISTS: Final = "SELECT told_at IS NOT NULL FROM page_group WHERE group_key = %s"
_TOLD_PAGES: Final = """
    SELECT g.group_key FROM page_member m JOIN page_group g USING (group_key)
    WHERE m.alert_id = %s AND g.told_at IS NOT NULL ORDER BY g.group_key
"""
_MARK: Final = """
    INSERT INTO page_mark (group_key, author, is_false, comment) VALUES (%s, %s, %s, %s)
    ON CONFLICT (group_key, author) DO UPDATE
    SET is_false = excluded.is_false, comment = excluded.comment, created_at = now()
"""
_ORDER: Final = """
    SELECT silence_id AS id, match, begins_at, ends_at, comment, author, created_at, lifted_at,
           lifted_by
    FROM silence
"""
_PRESENT: Final = "SELECT count(*) FROM silence WHERE ends_at > now() AND lifted_at IS NULL"
_ADD_ORDER: Final = """
    INSERT INTO silence (kind, match, begins_at, ends_at, comment, author)
    VALUES (%s, %s, %s, %s, %s, %s) RETURNING silence_id
"""
_LIFT_ORDER: Final = """
    UPDATE silence SET lifted_at = now(), lifted_by = %s
    WHERE silence_id = %s AND kind = %s AND lifted_at IS NULL AND ends_at > now()
"""
_OVERRIDE: Final = """
    SELECT override_id AS id, rotation, person, begins_at, ends_at, author, created_at, lifted_at,
           lifted_by
    FROM oncall_override
"""
_STANDING: Final = """
    SELECT rotation, person, begins_at, ends_at FROM oncall_override
    WHERE ends_at > %s AND begins_at < %s AND lifted_at IS NULL ORDER BY created_at, override_id
    LIMIT %s
"""
_ADD_OVERRIDE: Final = """
    INSERT INTO oncall_override (rotation, person, begins_at, ends_at, author)
    VALUES (%s, %s, %s, %s, %s) RETURNING override_id
"""
_COUNT_OVERRIDES: Final = """
    SELECT count(*) FROM oncall_override WHERE ends_at > now() AND lifted_at IS NULL
"""
_LIFT_OVERRIDE: Final = """
    UPDATE oncall_override SET lifted_at = now(), lifted_by = %s
    WHERE override_id = %s AND lifted_at IS NULL AND ends_at > now()
"""
# Of those who ask in the same moment one counts after the other.
_ALONE: Final = "SELECT pg_advisory_xact_lock(hashtext('page_test'), hashtext(current_schema()))"
_TESTS_LATELY: Final = """
    SELECT count(*) FROM page_test WHERE created_at > now() - INTERVAL '10 min'
"""
_ADD_TEST: Final = "INSERT INTO page_test (policy, author) VALUES (%s, %s) RETURNING test_id"
_TEST: Final = """
    SELECT test_id AS id, policy, author, created_at, decided_at FROM page_test WHERE test_id = %s
"""
_RING: Final = "SELECT ring_pagers()"


class CursorError(ValueError):
    """A cursor that no list has given."""


async def now(connection: Connection) -> datetime:
    """Return the database's time, by which silences and turns begin and end."""
    return (await _one(connection, "SELECT now()"))[0]  # type: ignore[no-any-return]


async def alerts(connection: Connection, wanted: AlertQuery) -> tuple[list[Alert], str | None]:
    """Return a part of the alerts, newest first, and the cursor of the next part.

    Raises
    ------
    CursorError
    """
    values = wanted.model_dump()
    conditions = [text for name, text in _CONDITIONS.items() if values[name] not in (None, [])]
    if wanted.after is not None:
        values["at"], values["id"] = _read(wanted.after)
        conditions.append("(a.opened_at, a.alert_id) < (%(at)s, %(id)s)")
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = f"{_ALERT} {where} ORDER BY a.opened_at DESC, a.alert_id DESC LIMIT %(more)s"
    rows = await _rows(connection, Alert, statement, values | {"more": wanted.limit + 1})
    return _part(rows, wanted.limit, lambda one: (one.opened_at, one.alert_id))


async def alert(connection: Connection, alert_id: UUID) -> Alert | None:
    """Return one alert."""
    rows = await _rows(connection, Alert, f"{_ALERT} WHERE a.alert_id = %s", (alert_id,))
    return rows[0] if rows else None


async def history(connection: Connection, alert_id: UUID) -> list[Transition]:
    """Return what became of an alert, in the order in which it was written down."""
    return await _rows(connection, Transition, _HISTORY, (alert_id, MAX_ROWS))


async def pages_of(connection: Connection, alert_id: UUID) -> list[Page]:
    """Return the pages that an alert belongs to, newest first."""
    return await _rows(connection, Page, _PAGES_OF, (alert_id, MAX_ROWS))


async def decisions(connection: Connection, alert_id: UUID) -> list[Decision]:
    """Return what the stages said of an alert and of its groups: the newest, in order."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_DECISIONS, {"alert": alert_id, "limit": MAX_ROWS // 2})
        rows = await cursor.fetchall()
    return [
        Decision(
            at=row["at"],
            page_id=row["group_key"],
            passed=[Reason(stage=stage, reason=reason) for stage, reason in row["trail"]],
            stage=row["stage"],
            outcome=row["outcome"],
            reason=row["reason"],
            until=row["until"],
        )
        for row in rows
    ]


async def pages(connection: Connection, wanted: PageQuery) -> tuple[list[Page], str | None]:
    """Return a part of the pages, newest first, and the cursor of the next part.

    Raises
    ------
    CursorError
    """
    values: dict[str, Any] = {"more": wanted.limit + 1}
    conditions: list[LiteralString] = []
    if wanted.open is not None:
        conditions.append("g.closed_at IS NULL" if wanted.open else "g.closed_at IS NOT NULL")
    if wanted.after is not None:
        at, key = _read(wanted.after)
        values |= {"at": at, "key": str(key)}
        conditions.append("(g.opened_at, g.group_key) < (%(at)s, %(key)s)")
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = f"{_PAGE} {where} ORDER BY g.opened_at DESC, g.group_key DESC LIMIT %(more)s"
    rows = await _rows(connection, Page, statement, values)
    return _part(rows, wanted.limit, lambda one: (one.opened_at, one.page_id))


async def page(connection: Connection, page_id: UUID) -> Page | None:
    """Return one page."""
    rows = await _rows(connection, Page, f"{_PAGE} WHERE g.group_key = %s", (str(page_id),))
    return rows[0] if rows else None


async def members(connection: Connection, page_id: UUID) -> list[Alert]:
    """Return the alerts of a page, newest first."""
    return await _rows(connection, Alert, _MEMBERS, (str(page_id), MAX_MEMBERS))


async def words(connection: Connection, page_id: UUID) -> list[Word]:
    """Return what was told of a page, newest first."""
    return await _rows(connection, Word, _WORDS, (str(page_id), MAX_ROWS))


async def deliveries(connection: Connection, key: str) -> list[Delivery]:
    """Return to whom a group was told, newest first."""
    return await _rows(connection, Delivery, _DELIVERIES, (key, MAX_ROWS))


async def marks(connection: Connection, page_id: UUID) -> list[Mark]:
    """Return what people thought of a page."""
    return await _rows(connection, Mark, _MARKS, (str(page_id), MAX_ROWS))


async def acknowledge(
    connection: Connection, alert_id: UUID, actor: str, why: str
) -> tuple[bool, State | None]:
    """Say that somebody has an alert; return whether it changed, and its state."""
    async with connection.transaction():
        (changed,) = await _one(connection, _ACKNOWLEDGE, (alert_id, actor, why))
        cursor = await connection.execute(_STATE, (alert_id,))
        row = await cursor.fetchone()
    return bool(changed), None if row is None else row[0]


async def acknowledge_page(
    connection: Connection, page_id: UUID, actor: str, why: str
) -> int | None:
    """Say that somebody has all of a page; return how many alerts changed, None for no page."""
    async with connection.transaction():
        (changed,) = await _one(connection, _ACKNOWLEDGE_PAGE, (str(page_id), actor, why))
    return None if changed is None else int(changed)


async def told_pages(connection: Connection, alert_id: UUID) -> list[UUID]:
    """Return the pages of an alert that people were told of."""
    cursor = await connection.execute(_TOLD_PAGES, (alert_id,))
    return [UUID(key) for (key,) in await cursor.fetchall()]


async def was_told(connection: Connection, page_id: UUID) -> bool | None:
    """Say whether people were told of a page; None for no page."""
    cursor = await connection.execute(_PAGE_EXISTS, (str(page_id),))
    row = await cursor.fetchone()
    return None if row is None else bool(row[0])


async def mark(
    connection: Connection,
    page_ids: Sequence[UUID],
    author: str,
    comment: Comment | None,
    *,
    is_false: bool,
) -> None:
    """Write down what somebody thinks of some pages, instead of what they thought before."""
    async with connection.transaction():
        for page_id in page_ids:
            values = (str(page_id), author, is_false, comment or "")
            await connection.execute(_MARK, values)


async def orders(
    connection: Connection, kind: OrderKind, *, limit: int, after: str | None, over: bool
) -> tuple[list[Order], str | None]:
    """Return a part of the silences or windows, newest first, and the cursor of the next part.

    Raises
    ------
    CursorError
    """
    values: dict[str, Any] = {"kind": kind, "more": limit + 1}
    statement = f"{_ORDER} WHERE kind = %(kind)s"
    if not over:
        statement += " AND ends_at > now() AND lifted_at IS NULL"
    if after is not None:
        values["at"], values["id"] = _read(after)
        statement += " AND (created_at, silence_id) < (%(at)s, %(id)s)"
    statement += " ORDER BY created_at DESC, silence_id DESC LIMIT %(more)s"
    rows = await _rows(connection, Order, statement, values)
    return _part(rows, limit, lambda one: (one.created_at, one.id))


async def order(connection: Connection, kind: OrderKind, order_id: UUID) -> Order | None:
    """Return one silence or window."""
    statement = f"{_ORDER} WHERE kind = %s AND silence_id = %s"
    rows = await _rows(connection, Order, statement, (kind, order_id))
    return rows[0] if rows else None


async def present_orders(connection: Connection) -> int:
    """Return how many silences and windows are not over."""
    return int((await _one(connection, _PRESENT))[0])


async def add_order(
    connection: Connection,
    kind: OrderKind,
    match: dict[str, list[str]],
    span: tuple[datetime, datetime],
    comment: str,
    author: str,
) -> UUID:
    """Silence something, or say that it is worked on."""
    async with connection.transaction():
        values = (kind, Jsonb(match), *span, comment, author)
        (order_id,) = await _one(connection, _ADD_ORDER, values)
        await connection.execute(_RING)
    return order_id  # type: ignore[no-any-return]


async def lift_order(connection: Connection, kind: OrderKind, order_id: UUID, actor: str) -> None:
    """End a silence or a window now; one that is over stays as it is."""
    async with connection.transaction():
        await connection.execute(_LIFT_ORDER, (actor, order_id, kind))
        await connection.execute(_RING)


async def overrides(
    connection: Connection, *, limit: int, after: str | None, over: bool
) -> tuple[list[Override], str | None]:
    """Return a part of those who stand in, newest first, and the cursor of the next part.

    Raises
    ------
    CursorError
    """
    values: dict[str, Any] = {"more": limit + 1}
    statement = f"{_OVERRIDE} WHERE true"
    if not over:
        statement += " AND ends_at > now() AND lifted_at IS NULL"
    if after is not None:
        values["at"], values["id"] = _read(after)
        statement += " AND (created_at, override_id) < (%(at)s, %(id)s)"
    statement += " ORDER BY created_at DESC, override_id DESC LIMIT %(more)s"
    rows = await _rows(connection, Override, statement, values)
    return _part(rows, limit, lambda one: (one.created_at, one.id))


async def override(connection: Connection, override_id: UUID) -> Override | None:
    """Return one who stands in."""
    statement = f"{_OVERRIDE} WHERE override_id = %s"
    rows = await _rows(connection, Override, statement, (override_id,))
    return rows[0] if rows else None


async def standing_in(connection: Connection, since: datetime, until: datetime) -> list[Standing]:
    """Return who stands in at some time between, as the schedule reads it."""
    cursor = await connection.execute(_STANDING, (since, until, MAX_ROWS))
    return [Standing(*row) for row in await cursor.fetchall()]


async def present_overrides(connection: Connection) -> int:
    """Return how many overrides are not over."""
    return int((await _one(connection, _COUNT_OVERRIDES))[0])


async def add_override(
    connection: Connection,
    rotation: str,
    person: str,
    span: tuple[datetime, datetime],
    author: str,
) -> UUID:
    """Let somebody stand in."""
    values = (rotation, person, *span, author)
    return (await _one(connection, _ADD_OVERRIDE, values))[0]  # type: ignore[no-any-return]


async def lift_override(connection: Connection, override_id: UUID, actor: str) -> None:
    """Let somebody stand in no longer; what is over stays as it is."""
    await connection.execute(_LIFT_OVERRIDE, (actor, override_id))


async def add_test(connection: Connection, policy: str, author: str, most: int) -> UUID | None:
    """Ask for a page that shows whether it comes; None after so many in ten minutes."""
    async with connection.transaction():
        await connection.execute(_ALONE)
        if (await _one(connection, _TESTS_LATELY))[0] >= most:
            return None
        (test_id,) = await _one(connection, _ADD_TEST, (policy, author))
        await connection.execute(_RING)
    return test_id  # type: ignore[no-any-return]


async def test(connection: Connection, test_id: UUID) -> dict[str, Any] | None:
    """Return a test page without its deliveries."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_TEST, (test_id,))
        return await cursor.fetchone()


async def _one(connection: Connection, statement: LiteralString, values: Any = ()) -> Any:
    cursor = await connection.execute(statement, values)
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - it has exactly one row
    return row


async def _rows(
    connection: Connection, form: type[RowT], statement: LiteralString, values: Any
) -> list[RowT]:
    async with connection.cursor(row_factory=class_row(form)) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchall()


def _part(rows: list[RowT], limit: int, place: Any) -> tuple[list[RowT], str | None]:
    """Cut off what only shows that there is more."""
    if len(rows) <= limit:
        return rows, None
    at, key = place(rows[limit - 1])
    return rows[:limit], urlsafe_b64encode(f"{at.isoformat()} {key}".encode()).decode().rstrip("=")


def _read(cursor: str) -> tuple[datetime, UUID]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        at, _, key = urlsafe_b64decode(padded).decode("ascii").partition(" ")
        moment = datetime.fromisoformat(at)
        found = UUID(key)
    except ValueError as error:
        raise CursorError("after: no list has given this cursor") from error
    if moment.tzinfo is None:
        raise CursorError("after: no list has given this cursor")
    return moment, found

"""Why an alert paged or did not, and where one would go: the pager's own words, in order.

What happened is read from the database, where each stage's word was written down with the decision;
nothing is decided again. Where an alert would go is asked of the stages themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from psycopg import AsyncConnection

from paging.durations import spoken
from paging.routes import NOBODY, Route, Routes, Target
from paging.schedule import on_call
from paging.stages import STAGES, Candidate, Scene, routes_of
from paging.state import Orders, Topology, Track, identity_of, labels_of
from storage.pages import Page

_KNOWN: Final = """
    SELECT EXISTS (SELECT FROM alert WHERE alert_id = %(alert)s),
           (SELECT decided_at IS NOT NULL FROM outbox
            WHERE dedup_key = %(alert)s::text AND event = 'firing'),
           ARRAY(SELECT group_key FROM page_member WHERE alert_id = %(alert)s ORDER BY joined_at)
"""
_DECIDED: Final = """
    SELECT at, group_key, alert_id IS NOT NULL, stage, outcome, reason, trail::text FROM decision
    WHERE alert_id = %(alert)s OR (alert_id IS NULL AND group_key = ANY(%(groups)s))
    ORDER BY decision_id
"""
_DELIVERED: Final = """
    SELECT coalesce(d.delivered_at, d.abandoned_at, d.created_at), d.group_key, n.event, d.step,
           d.hook, d.person, d.attempts, d.delivered_at IS NOT NULL, d.abandoned_at IS NOT NULL,
           d.last_error
    FROM delivery d JOIN notice n USING (notice_id) WHERE d.group_key = ANY(%(groups)s)
    ORDER BY d.delivery_id
"""


@dataclass(frozen=True, slots=True)
class Line:
    """What was said at one place.

    Parameters
    ----------
    at : datetime or None
        When; None of what is only asked.
    group : str or None
        Of a group, its key.
    stage : str
        A stage, or `delivery`.
    outcome : str
    reason : str
    """

    at: datetime | None
    group: str | None
    stage: str
    outcome: str
    reason: str


class AlertUnknownError(LookupError):
    """There is no such alert."""


async def explain(connection: AsyncConnection[Any], alert_id: UUID) -> list[Line]:
    """Return everything that was said of an alert and of its groups, in order.

    Parameters
    ----------
    connection : AsyncConnection
        With the namespace's schema on its search path.
    alert_id : UUID

    Raises
    ------
    AlertUnknownError
        If there is no such alert.
    """
    cursor = await connection.execute(_KNOWN, {"alert": alert_id})
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    is_known, is_decided, groups = row
    if not is_known:
        raise AlertUnknownError(f"there is no alert {alert_id}")
    if is_decided is None:
        said = "the worker recorded it and told the pager nothing: another alert speaks for it"
        return [Line(None, None, "worker", "drop", said)]
    if not is_decided:
        return [Line(None, None, "pager", "hold", "no pager has decided on it yet")]
    lines: list[Line] = []
    values = {"alert": alert_id, "groups": groups}
    for at, group, of_alert, stage, outcome, reason, trail in await _all(
        connection, _DECIDED, values
    ):
        subject = None if of_alert else group
        passed = msgspec.json.decode(trail, type=list[tuple[str, str]])
        lines += [Line(at, subject, name, "pass", said) for name, said in passed]
        lines.append(Line(at, subject, stage, outcome, reason))
    for delivery in await _all(connection, _DELIVERED, values):
        lines.append(_delivery(*delivery))
    # Stable: what was said in one turn stays in its order.
    return sorted(lines, key=lambda line: line.at or datetime.min)  # noqa: DTZ901


def trial(
    page: Page,
    routes: Routes,
    now: datetime,
    *,
    orders: Orders = Orders(),  # noqa: B008 - a frozen value
) -> list[Line]:
    """Return what each stage would say of an alert that is alone in the city, and whom it reaches.

    Every stage is asked, also behind one that would not let it pass.
    """
    labels = labels_of(page)
    track = Track(
        alert_id=page.alert_id, identity=identity_of(page), arrived=now, moved=now, until=now
    )
    scene = Scene(routes, orders, Topology(), {}, [{} for _ in routes.inhibitions], {})
    lines = []
    for name, stage in STAGES:
        decision = stage(Candidate(page, labels, track), scene, now)
        lines.append(Line(None, None, name, decision.outcome, decision.reason))
    for route in routes_of(labels, routes.routes):
        lines += _way(route, routes, orders, labels, now)
    return lines


def written(lines: Sequence[Line]) -> list[str]:
    """Return lines as a terminal shows them."""
    width = max((len(line.stage) for line in lines), default=0)
    shown = []
    for line in lines:
        at = f"{line.at:%Y-%m-%d %H:%M:%S}  " if line.at else ""
        group = f"group {line.group[:8]}  " if line.group else ""
        shown.append(f"{at}{group}{line.stage:{width}}  {line.outcome:6}  {line.reason}")
    return shown


def _way(
    route: Route, routes: Routes, orders: Orders, labels: dict[str, str], now: datetime
) -> list[Line]:
    where = f"route {route.name}"
    if route.policy == NOBODY:
        return [Line(None, None, where, "drop", "tells nobody")]
    shared = " ".join(f"{name}={labels[name]}" for name in route.group_by)
    found = [
        Line(
            None,
            None,
            where,
            "pass",
            f"grouped by {shared}, told after {spoken(route.group_wait)} by policy {route.policy}",
        )
    ]
    for number, step in enumerate(routes.policies[route.policy], 1):
        # One person may be there twice, and is told once.
        to = ", ".join(
            dict.fromkeys(
                reached for target in step.to for reached in _reached(target, routes, orders, now)
            )
        )
        after = f"after {spoken(step.after)}" if step.after else "at once"
        found.append(Line(None, None, f"step {number}", "tell", f"{after}: {to}"))
    return found


def _reached(target: Target, routes: Routes, orders: Orders, now: datetime) -> list[str]:
    if target.kind == "hook":
        return [target.name]
    person = target.name
    if target.kind == "oncall":
        person = on_call(routes.rotations[target.name], orders.overrides, now)
    return [f"{person} by {hook}" for hook in routes.hooks_of(person, target)]


def _delivery(*row: Any) -> Line:
    at, group, event, step, hook, person, attempts, is_delivered, is_abandoned, error = row
    to = hook if person is None else f"{person} by {hook}"
    word = f"{event} to {to}, step {step}"
    if is_delivered:
        return Line(at, group, "delivery", "tell", f"{word}: taken, attempt {attempts}")
    if is_abandoned:
        return Line(at, group, "delivery", "drop", f"{word}: {error}")
    said = f": {error}" if error else ""
    return Line(at, group, "delivery", "hold", f"{word}: {attempts} attempts so far{said}")


async def _all(
    connection: AsyncConnection[Any], query: str, values: dict[str, Any]
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(query, values)
    return await cursor.fetchall()

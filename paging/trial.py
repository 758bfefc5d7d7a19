"""Where an alert that somebody wants to try would go: the stages themselves are asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from paging.durations import spoken
from paging.routes import NOBODY, Route, Routes, Target
from paging.schedule import on_call
from paging.stages import STAGES, Candidate, Scene, routes_of
from paging.state import Orders, Topology, Track, identity_of, labels_of
from storage.pages import Page

_NOBODYS: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Line:
    """What was said at one place.

    Parameters
    ----------
    stage : str
        A stage, or a route, or a step of its policy.
    outcome : str
    reason : str
    """

    stage: str
    outcome: str
    reason: str


class TrialError(ValueError):
    """What is to be tried is no alert; the message says what is missing."""


class _Tried(msgspec.Struct):
    """What the stages look at; whatever else an alert says is passed over."""

    category: Any
    kind: str
    severity: Any
    sensor: str
    quantity: str
    zone: str
    domain: str
    namespace: str = "live"
    quality: int | None = None


def read_alert(data: bytes, now: datetime) -> Page:
    """Read an alert that fires now: as the API shows it, or as the worker writes it.

    Raises
    ------
    TrialError
    """
    try:
        told = msgspec.json.decode(data, type=_Tried)
        facts: dict[str, Any] = {name: getattr(told, name) for name in _Tried.__struct_fields__}
        own = {"alert_id": _NOBODYS, "event": "firing", "unit": "", "since": now, "seen": 0.0}
        return msgspec.convert(facts | own, Page)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TrialError(str(error)) from error


def trial(
    page: Page,
    routes: Routes,
    now: datetime,
    *,
    orders: Orders = Orders(),  # noqa: B008 - a frozen value
) -> list[Line]:
    """Return what each stage would say of an alert that is alone in the city, and whom it reaches.

    Every stage is asked, also behind one that would not let it pass; one that would wait is asked
    again when it has.
    """
    labels = labels_of(page)
    track = Track(
        alert_id=page.alert_id, identity=identity_of(page), arrived=now, moved=now, until=now
    )
    scene = Scene(routes, orders, Topology(), {}, [{} for _ in routes.inhibitions], {})
    lines = []
    for name, stage in STAGES:
        decision = stage(Candidate(page, labels, track), scene, now)
        lines.append(Line(name, decision.outcome, decision.reason))
        if decision.outcome == "hold" and decision.until is not None:
            decision = stage(Candidate(page, labels, track), scene, decision.until)
            lines.append(Line(name, decision.outcome, decision.reason))
    for route in routes_of(labels, routes.routes):
        lines += _way(route, routes, orders, labels, now)
    return lines


def written(lines: Sequence[Line]) -> list[str]:
    """Return lines as a terminal shows them."""
    width = max((len(line.stage) for line in lines), default=0)
    return [f"{line.stage:{width}}  {line.outcome:6}  {line.reason}" for line in lines]


def _way(
    route: Route, routes: Routes, orders: Orders, labels: dict[str, str], now: datetime
) -> list[Line]:
    where = f"route {route.name}"
    if route.policy == NOBODY:
        return [Line(where, "drop", "tells nobody")]
    shared = " ".join(f"{name}={labels[name]}" for name in route.group_by)
    found = [
        Line(
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
        found.append(Line(f"step {number}", "tell", f"{after}: {to}"))
    return found


def _reached(target: Target, routes: Routes, orders: Orders, now: datetime) -> list[str]:
    if target.kind == "hook":
        return [target.name]
    person = target.name
    if target.kind == "oncall":
        person = on_call(routes.rotations[target.name], orders.overrides, now)
    return [f"{person} by {hook}" for hook in routes.hooks_of(person, target)]

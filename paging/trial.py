"""Where an alert would go: the stages and the routes, asked without anything around them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from paging.routes import NOBODY, Route, Routes, Step, Target
from paging.schedule import on_call
from paging.stages import Candidate, Scene, Verdict, judge, routes_of
from paging.state import Orders, Topology, Track, identity_of, labels_of
from storage.pages import Page

_NOBODYS: UUID = UUID(int=0)


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


@dataclass(frozen=True, slots=True)
class Way:
    """One route that takes the alert, and the steps of its policy; empty where nobody is told."""

    route: Route
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What would become of an alert.

    Parameters
    ----------
    verdict : Verdict
        Of the stages, with nothing silenced, dark or open beside it, and long after it fired.
    ways : tuple of Way
    """

    verdict: Verdict
    ways: tuple[Way, ...]

    @property
    def is_told(self) -> bool:
        """Whether anybody would be told."""
        return self.verdict.decision.outcome == "pass" and any(way.steps for way in self.ways)


def read_alert(data: bytes, now: datetime) -> Page:
    """Read an alert: as the API shows it, or as the worker writes it.

    Raises
    ------
    TrialError
    """
    try:
        told = msgspec.json.decode(data, type=_Tried)
        facts: Mapping[str, Any] = {name: getattr(told, name) for name in _Tried.__struct_fields__}
        page = {
            **facts,
            "alert_id": _NOBODYS,
            "event": "firing",
            "unit": "",
            "since": now,
            "seen": 0.0,
        }
        return msgspec.convert(page, Page)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TrialError(str(error)) from error


def tried(page: Page, routes: Routes, now: datetime) -> Trial:
    """Return what would become of an alert that fired and has waited for whatever it waits for."""
    track = Track(
        alert_id=page.alert_id,
        identity=identity_of(page),
        arrived=now,
        moved=now,
    )
    labels = labels_of(page)
    scene = Scene(routes, Orders(), Topology(), {}, [{} for _ in routes.inhibitions], {})
    waited = max(
        [
            routes.darkness.wait,
            *(rule.wait for rule in routes.inhibitions),
            *(rule.within for rule in routes.corroborations),
        ]
    )
    verdict = judge(Candidate(page, labels, track), scene, now + waited)
    ways = tuple(
        Way(route, () if route.policy == NOBODY else routes.policies.get(route.policy, ()))
        for route in routes_of(labels, routes.routes)
    )
    return Trial(verdict, ways)


def reached(target: Target, routes: Routes, now: datetime) -> str:
    """Return whom a target tells at a time, and by which hooks."""
    if target.kind == "hook":
        return f"hook {target.name}"
    person = target.name
    if target.kind == "oncall":
        person = on_call(routes.rotations[target.name], (), now)
    hooks = [name for name in routes.people.get(person, {}) if target.hook in (None, name)]
    turn = f", on call in {target.name} by the rotation" if target.kind == "oncall" else ""
    return f"{person} by {' and '.join(hooks) or 'no hook'}{turn}"

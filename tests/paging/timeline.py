"""Acceptance tests that read as timelines: what happens when, and who is told what between when.

    play(
        at(0, open("traffic-1")),
        want(between(1, 1.1), page("traffic-1")),
    )

The clock is advanced by hand, from one moment at which something happens to the next at which the
pager wants to be woken. Whatever is told must be wanted, and whatever is wanted must be told.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from paging.checking import faults_of
from paging.hooks.kinds import KINDS
from paging.matching import read_match
from paging.routes import Routes, read_routes
from paging.schedule import Override
from paging.state import GivenUp, Memory, Orders, Quiet, Said, Taken, Telling, Told, Topology
from paging.topology import topology_of
from paging.turn import decide
from storage.pages import Page, Severity
from tests.paging.scaffold import page_of, resolution_of

BEGIN = datetime(2025, 3, 4, 2, 0, tzinfo=UTC)
_ALERTS = UUID("4c0d2f5e-5a6b-4a83-9f0b-6a0b7f9d7c12")
# The smallest step of the clock: a turn that wants to be woken at once must not stand still.
_TICK = timedelta(milliseconds=1)
ROUTES = """
[hook.control]
type = "webhook"
url = "http://127.0.0.1:1/"
[policy.all]
steps = [{ to = ["hook:control"] }]
[[route]]
name = "all"
policy = "all"
group_wait = "1s"
group_interval = "30s"
repeat_interval = "4h"
"""


def moment(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


@dataclass
class Night:
    """What goes on: the pager's memory, what it was told, and what it told."""

    routes: Routes
    topology: Topology = field(default_factory=Topology)
    memory: Memory = field(default_factory=Memory)
    orders: Orders = field(default_factory=Orders)
    events: list[Told | GivenUp | Taken] = field(default_factory=list)
    told: list[tuple[float, Telling]] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    pages: dict[str, Page] = field(default_factory=dict)
    wake_at: datetime | None = None

    def turn(self, now: datetime) -> None:
        events, self.events = self.events, []
        turn = decide(
            self.memory,
            events,
            now,
            routes=self.routes,
            orders=self.orders,
            topology=self.topology,
        )
        self.memory = turn.memory
        self.said += turn.said
        self.wake_at = turn.wake_at
        seconds = (now - BEGIN).total_seconds()
        self.told += [(seconds, telling) for telling in turn.tellings if telling.deliveries]

    def why(self, sensor: str) -> list[str]:
        """Return what was said of a sensor's alert, as people ask for it."""
        alert_id = self.pages[sensor].alert_id
        return [f"{one.stage}: {one.reason}" for one in self.said if one.alert_id == alert_id]


Action = Callable[[Night, datetime], None]


@dataclass(frozen=True)
class At:
    seconds: float
    actions: Sequence[Action]


@dataclass(frozen=True)
class Between:
    first: float
    last: float


@dataclass(frozen=True)
class Wanted:
    what: Mapping[str, Any]

    def fits(self, telling: Telling) -> bool:
        return all(_fact(telling, name) == value for name, value in self.what.items())


@dataclass(frozen=True)
class Want:
    when: Between
    what: Wanted


def at(seconds: float, *actions: Action) -> At:
    return At(seconds, actions)


def between(first: float, last: float) -> Between:
    return Between(first, last)


def want(when: Between, what: Wanted) -> Want:
    return Want(when, what)


def page(*sensors: str, **facts: Any) -> Wanted:
    """Want people to be woken; `sensors` are those whose alerts are listed."""
    return _word("trigger", sensors, facts)


def update(*sensors: str, **facts: Any) -> Wanted:
    return _word("update", sensors, facts)


def resolve(*sensors: str, **facts: Any) -> Wanted:
    return _word("resolve", sensors, facts)


def acknowledged(*sensors: str, **facts: Any) -> Wanted:
    return _word("acknowledge", sensors, facts)


def open(  # noqa: A001 - the word of the trade
    sensor: str, *, written: datetime | None = None, **facts: Any
) -> Action:
    def happen(night: Night, now: datetime) -> None:
        key = f"{sensor}|{facts.get('kind', 'level')}|{now.timestamp()}"
        told = page_of(
            **{
                "alert_id": uuid5(_ALERTS, key),
                "sensor": sensor,
                "kind": "level",
                "since": now,
                "sentence": f"{sensor} speaks",
            }
            | facts
        )
        night.pages[sensor] = told
        night.events.append(Told("firing", told.alert_id, told.since, told, written=written or now))

    return happen


def dark(*sensors: str, **facts: Any) -> Action:
    """Let sensors fall silent."""
    quiet = {"kind": "silence", "category": "sensor-health", "severity": "minor", **facts}
    return each(*(open(sensor, **quiet) for sensor in sensors))


def over(*sensors: str) -> Action:
    def happen(night: Night, now: datetime) -> None:
        for sensor in sensors:
            told = night.pages[sensor]
            night.events.append(Told("resolved", told.alert_id, now, resolution_of(told)))

    return happen


def worse(sensor: str, severity: Severity = "critical", **facts: Any) -> Action:
    def happen(night: Night, now: datetime) -> None:
        before = night.pages[sensor]
        fields = {name: getattr(before, name) for name in before.__struct_fields__}
        told = Page(**fields | {"severity": severity, "sentence": f"{sensor} shouts"} | facts)
        night.pages[sensor] = told
        night.events.append(Told("worse", told.alert_id, now, told))

    return happen


def stale(sensor: str) -> Action:
    return _moved("stale", sensor)


def back(sensor: str) -> Action:
    return _moved("back", sensor)


def acknowledge(sensor: str, by: str = "anna") -> Action:
    return _moved("acknowledged", sensor, by)


def take(sensor: str, by: str = "anna") -> Action:
    """Let somebody acknowledge the page of a sensor's alert, whatever became of that."""

    def happen(night: Night, _now: datetime) -> None:
        track = night.memory.tracks[night.pages[sensor].alert_id]
        night.events += [Taken(key, by) for key in track.groups]

    return happen


def again(sensor: str) -> Action:
    """Let the outbox say once more what it has said: a redelivery."""

    def happen(night: Night, _now: datetime) -> None:
        told = night.pages[sensor]
        night.events.append(Told("firing", told.alert_id, told.since, told))

    return happen


def lost(target: str, step: int = 1) -> Action:
    """Give up the delivery to a target, of every group."""

    def happen(night: Night, _now: datetime) -> None:
        night.events += [GivenUp(key, step, target) for key in night.memory.groups]

    return happen


def silence(seconds: float, **match: Any) -> Action:
    return _quiet("silences", seconds, match)


def maintenance(seconds: float, **match: Any) -> Action:
    return _quiet("windows", seconds, match)


def lift() -> Action:
    def happen(night: Night, _now: datetime) -> None:
        night.orders = replace(night.orders, silences=(), windows=())

    return happen


def stand_in(rotation: str, person: str, seconds: float) -> Action:
    def happen(night: Night, now: datetime) -> None:
        one = Override(rotation, person, now, now + timedelta(seconds=seconds))
        night.orders = replace(night.orders, overrides=(*night.orders.overrides, one))

    return happen


def reroute(text: str) -> Action:
    """Let another routes file be taken up."""

    def happen(night: Night, _now: datetime) -> None:
        night.routes = read_routes(text, KINDS)
        assert faults_of(night.routes) == []

    return happen


def each(*actions: Action) -> Action:
    def happen(night: Night, now: datetime) -> None:
        for action in actions:
            action(night, now)

    return happen


def night_of(text: str = ROUTES, zones: Mapping[str, str] | None = None) -> Night:
    routes = read_routes(text, KINDS)
    assert faults_of(routes) == []
    return Night(routes, topology_of(zones or {}, routes.areas))


def play(
    *parts: At | Want,
    routes: str = ROUTES,
    zones: Mapping[str, str] | None = None,
    until: float = 600.0,
) -> Night:
    """Let a night happen, and compare what was told with what was wanted."""
    night = night_of(routes, zones)
    parties = sorted((part for part in parts if isinstance(part, At)), key=lambda one: one.seconds)
    now = BEGIN
    pending = [(moment(part.seconds), part.actions) for part in parties]
    while pending or (night.wake_at is not None and night.wake_at <= moment(until)):
        upcoming = [pending[0][0]] if pending else []
        if night.wake_at is not None:
            upcoming.append(max(night.wake_at, now + _TICK))
        now = max(min(upcoming), now)
        while pending and pending[0][0] <= now:
            for action in pending.pop(0)[1]:
                action(night, now)
        night.turn(now)
    compare(night.told, [part for part in parts if isinstance(part, Want)])
    return night


def compare(told: Iterable[tuple[float, Telling]], wants: Sequence[Want]) -> None:
    """Match what was told with what was wanted, one to one."""
    left = list(wants)
    unwanted = []
    for seconds, telling in told:
        for wanted in left:
            inside = wanted.when.first <= seconds <= wanted.when.last
            if inside and wanted.what.fits(telling):
                left.remove(wanted)
                break
        else:
            unwanted.append(_shown(seconds, telling))
    assert not unwanted, "told and not wanted:\n" + "\n".join(unwanted)
    assert not left, "wanted and not told:\n" + "\n".join(map(str, left))


def _word(event: str, sensors: Sequence[str], facts: Mapping[str, Any]) -> Wanted:
    listed = {"sensors": frozenset(sensors)} if sensors else {}
    return Wanted({"event": event, **listed, **facts})


def _moved(happening: Any, sensor: str, actor: str = "worker") -> Action:
    def happen(night: Night, now: datetime) -> None:
        alert_id = night.pages[sensor].alert_id
        night.events.append(Told(happening, alert_id, now, None, actor))

    return happen


def _quiet(kind: str, seconds: float, match: Mapping[str, Any]) -> Action:
    def happen(night: Night, now: datetime) -> None:
        faults: list[str] = []
        one = Quiet("works", read_match(match, "", faults), now, now + timedelta(seconds=seconds))
        assert not faults
        present = getattr(night.orders, kind)
        night.orders = replace(night.orders, **{kind: (*present, one)})

    return happen


def _fact(telling: Telling, name: str) -> Any:
    notice = telling.notice
    match name:
        case "sensors":
            return frozenset(one.sensor for one in notice.alerts)
        case "to":
            return {delivery.target for delivery in telling.deliveries}
        case "step":
            return max(delivery.step for delivery in telling.deliveries)
        case "total":
            return notice.counts.total
        case _:
            return getattr(notice, name)


def _shown(seconds: float, telling: Telling) -> str:
    notice = telling.notice
    to = ", ".join(delivery.target for delivery in telling.deliveries)
    return f"  at {seconds:g}: {notice.event} to {to}: {notice.title}; {notice.text!r}"

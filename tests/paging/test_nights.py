"""What must hold of every night: nobody is missed, and nobody is woken for what is no page."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from hypothesis import given, settings
from hypothesis import strategies as st

from paging.matching import Match
from paging.state import GivenUp, Happening, Quiet, Told, labels_of
from storage.pages import Page
from tests.paging.scaffold import page_of, resolution_of
from tests.paging.timeline import BEGIN, ROUTES, Night, lift, maintenance, moment, night_of, silence

# All that quiets anything, at once: two rules that explain each other, rules for neighbours, a
# trial, a route to nobody, two routes for one alert, a budget, and a gateway.
EVERYTHING = (
    ROUTES.replace("1s", "4s").replace(
        "[[route]]",
        """
[[route]]
name = "nobody"
match = { kind = "incident", zone = "station" }
policy = "nobody"
[[route]]
name = "too"
match = { kind = "level" }
policy = "all"
continue = true
[[route]]""",
    )
    + """
[shift]
budget = 2
[flapping]
times = 2
within = "2m"
[darkness]
wait = "3s"
parent_wait = "2s"
share = 0.5
least = 2
[gateway.g]
sensors = ["a", "b"]
[[inhibit]]
source = { kind = "silence" }
target = { kind = "level" }
[[inhibit]]
source = { kind = "incident" }
target = { kind = ["level", "exceedance"] }
[[inhibit]]
source = { kind = "exceedance" }
target = { kind = "incident" }
[[corroborate]]
match = { kind = "exceedance" }
within = "10s"
[[corroborate]]
match = { kind = "incident", sensor = ["c", "d"] }
within = "10s"
otherwise = "drop"
[[shadow]]
match = { kind = "level", sensor = "e" }
"""
)
ZONES = dict.fromkeys("abcd", "harbour") | {"e": "station"}
# All the waits of the file, one after the other: for the dark and for a larger area, for a parent
# and after it, for neighbours, for the group, for its next update and for that of a summary.
BOUND_S = 3 + 2 + 5 + 5 + 10 + 4 + 30 + 30
_LONG_S = 100_000.0
_ALERTS = UUID("0b7c1f5c-95f5-4a4e-8a53-3f6d1d0c7e55")


@dataclass
class Life:
    """An alert as whoever looks at the city knows it."""

    page: Page
    began: datetime
    is_acknowledged: bool = False


@dataclass
class Watch:
    """A night, and beside it what a plain eye sees: which alerts are open, and who was told."""

    night: Night = field(default_factory=lambda: night_of(EVERYTHING, ZONES))
    lives: dict[str, Life] = field(default_factory=dict)
    firings: dict[UUID, Page] = field(default_factory=dict)
    now: float = 0.0

    def pass_until(self, seconds: float) -> None:
        """Let time pass, waking the pager only when it wants to be woken."""
        night = self.night
        while night.wake_at is not None and night.wake_at < moment(seconds):
            self.now = max((night.wake_at - BEGIN).total_seconds(), self.now + 0.001)
            self.turn()
        self.now = max(self.now, seconds)

    def turn(self) -> None:
        known = len(self.night.told)
        self.night.turn(moment(self.now))
        for _, telling in self.night.told[known:]:
            notice = telling.notice
            listed = [self.firings[one.alert_id] for one in notice.alerts]
            assert all(map(self.may_page, listed)), f"{notice.title}: some of it is no page"
            if notice.event in ("trigger", "update"):
                left = [
                    self.firings[one.alert_id] for one in notice.alerts if one.state != "resolved"
                ]
                assert not left or not all(map(self.is_quieted, left)), (
                    f"{notice.title}: all is quieted"
                )

    def happen(self, verb: str, sensor: str, kind: str, severity: Any, quality: Any) -> None:
        key = f"{sensor}|{kind}"
        life, now, events = self.lives.get(key), moment(self.now), self.night.events
        match verb:
            case "open" if life is None:
                page = self.page(key, sensor, kind, severity, quality)
                self.lives[key] = Life(page, now)
                events.append(Told("firing", page.alert_id, now, page))
            case "over" if life is not None:
                del self.lives[key]
                events.append(Told("resolved", life.page.alert_id, now, resolution_of(life.page)))
            case "stale" | "back" | "acknowledged" if life is not None:
                life.is_acknowledged |= verb == "acknowledged"
                happening: Happening = verb  # type: ignore[assignment] - one of the three
                events.append(Told(happening, life.page.alert_id, now, None, "anna"))
            case "lost":
                events += [GivenUp(group, 1, "control") for group in self.night.memory.groups]
            case "silence":
                silence(30, sensor=sensor)(self.night, now)
            case "silence-zone":
                silence(_LONG_S, zone=ZONES[sensor])(self.night, now)
            case "maintenance":
                maintenance(60, zone=ZONES[sensor])(self.night, now)
            case "lift":
                lift()(self.night, now)

    def page(self, key: str, sensor: str, kind: str, severity: Any, quality: Any) -> Page:
        page = page_of(
            alert_id=uuid5(_ALERTS, f"{key}|{len(self.firings)}"),
            sensor=sensor,
            zone=ZONES[sensor],
            kind=kind,
            severity=severity,
            quality=quality,
            category="sensor-health" if kind == "silence" else "city",
            since=moment(self.now),
            sentence=f"{sensor}: {kind}",
        )
        self.firings[page.alert_id] = page
        return page

    # What a plain eye sees of it.

    @staticmethod
    def may_page(page: Page) -> bool:
        is_bad = page.category == "city" and page.quality in (3, 4, 9)
        is_tried = page.kind == "level" and page.sensor == "e"
        is_nobodys = page.kind == "incident" and page.zone == "station"
        return not (page.severity == "informational" or is_bad or is_tried or is_nobodys)

    def is_quieted(self, page: Page) -> bool:
        orders = [*self.night.orders.silences, *self.night.orders.windows]
        return any(one.holds(moment(self.now)) and _covers(one, page) for one in orders)

    def is_spoken_for(self, life: Life) -> bool:
        """Say whether somebody was told of an alert, or has it."""
        alert_id = life.page.alert_id
        told = [telling.notice for _, telling in self.night.told]
        if life.is_acknowledged or any(
            one.alert_id == alert_id for notice in told for one in notice.alerts
        ):
            return True
        track = self.night.memory.tracks[alert_id]
        groups = [self.night.memory.groups[key] for key in track.groups]
        # Of a dark area, and of what flaps, one page speaks for what comes later.
        return any(
            (group.acknowledged_at is not None and group.acknowledged_at >= life.began)
            or (group.first_told is not None and (group.cause != "sensors" or track.flapping))
            for group in groups
        )

    def is_alone(self, life: Life, others: list[Life]) -> bool:
        """Say whether a rule asks for neighbours without whom it is not told, and none came."""
        page = life.page
        if page.kind != "incident" or page.sensor not in ("c", "d"):
            return False
        return not any(
            (other.page.zone, other.page.kind) == (page.zone, page.kind)
            and other.page.sensor != page.sensor
            and abs((other.began - life.began).total_seconds()) < 10
            for other in others
        )

    def missed(self) -> Iterator[str]:
        """Yield what is open, may page, is not kept quiet by anything, and was told nobody."""
        left = [life for life in self.lives.values() if self.may_page(life.page)]
        alone = [life for life in left if self.is_alone(life, left)]
        known = [life for life in left if self.is_quieted(life.page) or self.is_spoken_for(life)]
        while True:
            more = [
                life
                for life in left
                if life not in known and any(_explains(one.page, life.page) for one in known)
            ]
            if not more:
                break
            known += more
        for life in left:
            if life not in known and life not in alone:
                yield f"{life.page.sentence}: {self.night.memory.tracks[life.page.alert_id]}"


def _covers(one: Quiet, page: Page) -> bool:
    match: Match = one.match
    return match.covers(labels_of(page))


def _explains(source: Page, target: Page) -> bool:
    explained = {
        "silence": ("level",),
        "incident": ("level", "exceedance"),
        "exceedance": ("incident",),
    }
    return source.zone == target.zone and target.kind in explained.get(source.kind, ())


# Often what happens often, so that a night is worth looking at.
RARE = ["stale", "back", "acknowledged", "lost", "silence", "silence-zone", "maintenance"]
verbs = st.sampled_from([*["open"] * 8, *["over"] * 4, *["lift"] * 2, *RARE])
kinds = st.sampled_from([*["level", "incident"] * 2, "silence", "exceedance", "spike"])
severities = st.sampled_from(["minor", "major", "major", "critical", "informational"])
qualities = st.sampled_from([*[None] * 5, 1, 3, 4, 9])
# Several in one turn, within the waits, and beyond them.
pauses = st.sampled_from([0.0, 0.0, 0.5, 2.0, 4.0, 5.0, 6.0, 11.0, 40.0]) | st.floats(0.01, 90)
happenings_of = st.tuples(pauses, verbs, st.sampled_from("abcde"), kinds, severities, qualities)


@settings(max_examples=400, deadline=None)
@given(st.lists(happenings_of, min_size=15, max_size=40))
def test_whatever_may_page_and_is_not_quieted_is_told_within_the_waits(
    happenings: list[tuple[float, str, str, str, str, int | None]],
) -> None:
    watch = Watch()
    for pause, *what in happenings:
        if pause:
            watch.turn()
            watch.pass_until(watch.now + pause)
        watch.happen(*what)
    watch.turn()
    # The last window ends after a minute.
    watch.pass_until(watch.now + 60 + BOUND_S)
    missed = list(watch.missed())
    assert not missed, "\n".join(missed)

"""What must hold of every night: nobody is missed, and nobody is woken for what is no page."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid5

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paging.matching import Match
from paging.state import (
    RANK,
    GivenUp,
    Group,
    Happening,
    Memory,
    Quiet,
    Taken,
    Told,
    Track,
    labels_of,
)
from storage.pages import SEVERITIES, Page
from tests.paging.scaffold import page_of, resolution_of
from tests.paging.timeline import BEGIN, ROUTES, Night, lift, maintenance, moment, night_of, silence

# All that quiets anything, at once: two rules that explain each other, rules for neighbours, a
# trial, a route to nobody, two routes for one alert, a budget, and a gateway.
EVERYTHING = (
    ROUTES.replace("1s", "4s")
    .replace(
        'steps = [{ to = ["hook:control"] }]',
        """steps = [
    { to = ["hook:control"] },
    { after = "20s", to = ["hook:second"] },
    { after = "50s", to = ["hook:third"] },
]""",
    )
    .replace(
        "[[route]]",
        """
[[route]]
name = "nobody"
match = { kind = "incident", zone = "station" }
policy = "nobody"
[[route]]
name = "critical"
match = { kind = ["spike", "incident"], severity = "critical" }
policy = "all"
[[route]]
name = "too"
match = { kind = "level" }
policy = "all"
continue = true
[[route]]""",
    )
    + """
[hook.second]
type = "webhook"
url = "http://127.0.0.1:1/"
[hook.third]
type = "webhook"
url = "http://127.0.0.1:1/"
[shift]
budget = 2
summary_wait = "0s"
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
# From the first word of a page to its last step, if an order of a minute held it up.
LADDER_S = 60 + 20 + 50
_LONG_S = 100_000.0
NIGHTS = 300 if settings.default.derandomize else 5_000
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

    night: Night
    lives: dict[str, Life] = field(default_factory=dict)
    firings: dict[UUID, Page] = field(default_factory=dict)
    had: set[UUID] = field(default_factory=set)
    joined: dict[str, set[UUID]] = field(default_factory=lambda: defaultdict(set))
    listed: dict[str, set[UUID]] = field(default_factory=lambda: defaultdict(set))
    # As bad as they are.
    told: dict[str, set[UUID]] = field(default_factory=lambda: defaultdict(set))
    now: float = 0.0

    def live(self, happenings: Iterable[tuple[Any, ...]]) -> None:
        """Let things happen, each after a pause."""
        for pause, *what in happenings:
            if pause:
                self.turn()
                self.pass_until(self.now + pause)
            self.happen(*what)
        self.turn()

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
            self.listed[notice.group].update(one.alert_id for one in notice.alerts)
            self.told[notice.group].update(
                one.alert_id
                for one in notice.alerts
                if one.severity == self.firings[one.alert_id].severity
            )
            if notice.event == "update" and notice.actor is not None:
                # Of those who have the rest of this page.
                self.joined[notice.group].update(one.alert_id for one in notice.alerts)
        for _, telling in self.night.told[known:]:
            notice = telling.notice
            listed = [self.firings[one.alert_id] for one in notice.alerts]
            assert all(map(self.may_page, listed)), f"{notice.title}: some of it is no page"
            if notice.event == "resolve":
                assert not self.dropped(notice.group), f"{notice.title}: it is not over"
            if notice.event in ("trigger", "update"):
                left = {
                    one.alert_id: self.firings[one.alert_id]
                    for one in notice.alerts
                    if one.state != "resolved"
                }
                assert not any(map(self.is_quieted, left.values())), (
                    f"{notice.title}: some of it is quieted"
                )
                assert [one.severity for one in notice.alerts] == [one.severity for one in listed]
            if notice.event == "trigger":
                lives = {one.page.alert_id for one in self.lives.values()}
                asking = lives.intersection(left) - self.had - self.joined[notice.group]
                assert asking, f"{notice.title}: somebody has all of it"

    def dropped(self, key: str) -> list[UUID]:
        """Return what is open of a page that ended, is in no other, and is not kept quiet."""
        groups = self.night.memory.groups
        others = (found for other, found in self.listed.items() if other in groups)
        elsewhere = set().union(*others)
        pages = [one.page for one in self.lives.values()]
        still_open = {one.alert_id for one in pages if not self.is_quieted(one)}
        # What got worse may have come to a page that tells of it with its next update.
        on_its_way = still_open - set().union(*self.told.values())
        return list((still_open & self.listed[key]) - elsewhere - on_its_way)

    def acknowledge(self, life: Life) -> None:
        """Let somebody have an alert, and so the pages that it is in; once more changes nothing."""
        if life.is_acknowledged:
            return
        life.is_acknowledged = True
        self.say("acknowledged", life.page)
        memory = self.night.memory
        self.had.add(life.page.alert_id)
        track = memory.tracks.get(life.page.alert_id)
        if track is not None:
            # Not pages that have not told of it.
            self.take(
                key
                for key in track.groups
                if key in memory.groups and (track.flapping or self.has_told(key, track.alert_id))
            )

    def has_told(self, key: str, alert_id: UUID) -> bool:
        """Say whether a page has told of an alert, or the summary that speaks for it."""
        summary = self.night.memory.groups[key].summary
        return any(alert_id in self.told[one] for one in (key, summary) if one is not None)

    def take_newest(self) -> None:
        """Let somebody have the newest page: its alerts, and itself, as the API does it."""
        groups = self.night.memory.groups
        key = next((key for key, one in reversed(tuple(groups.items())) if one.first_told), None)
        if key is None:
            return
        for life in self.lives.values():
            if life.page.alert_id in self.members(key):
                self.acknowledge(life)
        self.take([key], is_whole=True)
        self.night.events.append(Taken(key, "anna"))

    def take(self, groups: Iterable[str], *, is_whole: bool = False) -> None:
        """Let somebody have what pages, or what speaks for them, told, or all that is there."""
        present = self.night.memory.groups
        for key in (present[key].summary or key for key in groups):
            # Of what nobody was told of, nobody has more than what they say.
            if present[key].first_told is not None:
                self.had |= {
                    one
                    for one in self.members(key)
                    if one in self.told[key]
                    # Of what flaps, what told of it before stands for it.
                    or self.night.memory.tracks[one].flapping
                    or (
                        is_whole
                        and one not in self.listed[key]
                        and not self.is_quieted(self.firings[one])
                    )
                }

    def members(self, key: str) -> set[UUID]:
        """Return the alerts of a page, or of all pages that a summary speaks for."""
        memory = self.night.memory
        return {
            alert_id
            for alert_id, track in memory.tracks.items()
            if any(key in (one, memory.groups[one].summary) for one in track.groups)
        }

    def happen(self, verb: str, sensor: str, kind: str, severity: Any, quality: Any) -> None:
        key = f"{sensor}|{kind}"
        match verb:
            case "open" if key not in self.lives:
                page = self.page(key, sensor, kind, severity, quality)
                self.lives[key] = Life(page, moment(self.now))
                self.say("firing", page)
            case "over" | "stale" | "back" | "acknowledged" | "worse" if self.lives:
                # Of what is not open the oldest that is, so that something comes of it.
                self.change(verb, key if key in self.lives else next(iter(self.lives)))
            case "taken":
                self.take_newest()
            case "restart":
                self.night.memory = read_again(self.night.memory)
            case _:
                self.order(verb, sensor)

    def change(self, verb: str, key: str) -> None:
        life = self.lives[key]
        match verb:
            case "over":
                del self.lives[key]
                self.say("resolved", life.page, resolution_of(life.page))
            case "acknowledged":
                self.acknowledge(life)
            case "worse":
                self.worsen(life)
            case "stale" | "back":
                self.say(verb, life.page)

    def worsen(self, life: Life) -> None:
        """Let an alert be worse: whoever had it, had less, and whoever was told was told less."""
        alert_id, severity = life.page.alert_id, life.page.severity
        if severity == "critical":
            return
        facts = {name: getattr(life.page, name) for name in life.page.__struct_fields__}
        life.page = Page(**facts | {"severity": SEVERITIES[RANK[severity] + 1]})
        life.is_acknowledged = False
        self.firings[alert_id] = life.page
        self.had.discard(alert_id)
        for keys in (self.joined, self.told):
            for found in keys.values():
                found.discard(alert_id)
        self.say("worse", life.page, life.page)

    def order(self, verb: str, sensor: str) -> None:
        now = moment(self.now)
        match verb:
            case "lost":
                groups = self.night.memory.groups
                self.night.events += [GivenUp(key, 1, "control") for key in groups]
            case "silence":
                silence(30, sensor=sensor)(self.night, now)
            case "silence-zone":
                silence(_LONG_S, zone=ZONES[sensor])(self.night, now)
            case "maintenance":
                maintenance(60, zone=ZONES[sensor])(self.night, now)
            case "lift":
                lift()(self.night, now)

    def say(self, happening: Happening, page: Page, told: Page | None = None) -> None:
        told = page if happening == "firing" else told
        self.night.events.append(Told(happening, page.alert_id, moment(self.now), told, "anna"))

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
        # By a page that goes on: what ended speaks for nothing any more.
        if life.is_acknowledged or any(
            alert_id in self.told[key] for key in self.night.memory.groups
        ):
            return True
        track = self.night.memory.tracks[alert_id]
        groups = [self.night.memory.groups[key] for key in track.groups]
        # Of a dark area, and of what flaps, one page speaks for what comes later.
        return any(
            group.first_told is not None
            and (
                (group.acknowledged_at is not None and group.acknowledged_at >= life.began)
                or group.cause != "sensors"
                or track.flapping
            )
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

    def stuck(self) -> Iterator[str]:
        """Yield the pages with something that nobody has, whose last step was not told."""
        lives = {life.page.alert_id: life.page for life in self.lives.values()}
        told = {
            (telling.notice.group, delivery.step)
            for _, telling in self.night.told
            for delivery in telling.deliveries
        }
        for key, group in self.night.memory.groups.items():
            members = self.members(key)
            left = [lives[one] for one in members - self.had - self.joined[key] if one in lives]
            is_quieted = all(map(self.is_quieted, (lives[one] for one in members if one in lives)))
            is_had = group.acknowledged_at is not None
            if group.first_told is None or not left or is_quieted or is_had:
                continue
            if (key, 3) not in told:
                yield f"{key}: {group}"


def read_again(memory: Memory) -> Memory:
    """Return what another pager reads of it."""
    tracks, groups = memory.tracks.items(), memory.groups.items()
    again = partial(msgspec.json.decode, strict=True)
    return replace(
        memory,
        tracks={key: again(msgspec.json.encode(one), type=Track) for key, one in tracks},
        groups={key: again(msgspec.json.encode(one), type=Group) for key, one in groups},
    )


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
ORDERS = ["silence", "silence-zone", "maintenance"]
RARE = [
    "worse",
    "worse",
    "stale",
    "back",
    "acknowledged",
    "acknowledged",
    "taken",
    "lost",
    "restart",
    *ORDERS,
]
verbs = st.sampled_from([*["open"] * 8, *["over"] * 4, *["lift"] * 2, *RARE])
kinds = st.sampled_from([*["level", "incident"] * 2, "silence", "exceedance", "spike"])
severities = st.sampled_from(["minor", "major", "major", "critical", "informational"])
qualities = st.sampled_from([*[None] * 5, 1, 3, 4, 9])
# Several in one turn, within the waits, and beyond them.
pauses = st.sampled_from([0.0, 0.0, 0.5, 2.0, 4.0, 5.0, 6.0, 11.0, 40.0]) | st.floats(0.01, 90)
happenings_of = st.tuples(pauses, verbs, st.sampled_from("abcde"), kinds, severities, qualities)


# With a budget that is soon spent, and with summaries alone.
@pytest.mark.parametrize("budget", [2, 0])
@settings(max_examples=NIGHTS, deadline=None)
@given(happenings=st.lists(happenings_of, min_size=15, max_size=40))
def test_who_must_be_told_is_and_who_need_not_is_not(
    budget: int, happenings: list[tuple[Any, ...]]
) -> None:
    watch = watch_of(budget)
    watch.live(happenings)
    # The last window ends after a minute.
    watch.pass_until(watch.now + 60 + BOUND_S)
    missed = list(watch.missed())
    assert not missed, "\n".join(missed)
    watch.pass_until(watch.now + LADDER_S)
    stuck = list(watch.stuck())
    assert not stuck, "\n".join(stuck)


def watch_of(budget: int) -> Watch:
    night = night_of(EVERYTHING, ZONES)
    night.routes = replace(night.routes, budget=budget)
    return Watch(night)

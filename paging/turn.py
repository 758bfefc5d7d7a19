"""One turn of the pager: what happened goes in, what is to be told comes out.

`decide` is a pure function. It may be called as often as one likes and for as many events at once;
what it returns depends on memory, events, orders and `now` alone. Whoever runs it keeps the memory
and sends the notices, both or neither.

One long module: the turn is one algorithm over one set of indexes.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid5

import msgspec

from paging.darkness import Dark, area_of, dark_of, going_silent, newly_dark, still_dark
from paging.notices import Event, State
from paging.routes import NOBODY, Route, Routes, Step, Target
from paging.schedule import on_call
from paging.stages import (
    DARK_KIND,
    Candidate,
    Gathering,
    Scene,
    Source,
    Verdict,
    is_news,
    is_worse,
    judge,
    judge_group,
    named,
    quieted,
    routes_of,
    step_due,
    word_of,
)
from paging.state import (
    RANK,
    AreaKey,
    Delivery,
    GivenUp,
    Group,
    Memory,
    Orders,
    Outcome,
    Quiet,
    Said,
    Shift,
    Taken,
    Telling,
    Tested,
    Told,
    Topology,
    Track,
    Turn,
    identity_of,
    is_over,
    labels_of,
)
from paging.state import (
    Event as Happened,
)
from paging.wording import by_identity, notice_of, one_of, test_notice
from storage.pages import SEVERITIES, Page, Severity

_GROUPS: Final = UUID("a2b3f6a4-6a0e-4d0e-9f55-9d5f5f3c2f10")  # namespace of group keys
# A dark area is as bad as what depends on it: a gateway is one box, a zone a part of the city.
_AREA_SEVERITY: Final[Mapping[str, Severity]] = {
    "gateway": "major",
    "power-area": "critical",
    "zone": "critical",
}

_changed = msgspec.structs.replace


def decide(
    memory: Memory,
    events: Sequence[Happened],
    now: datetime,
    *,
    routes: Routes,
    orders: Orders = Orders(),  # noqa: B008 - a frozen value
    topology: Topology = Topology(),  # noqa: B008 - the same
) -> Turn:
    """Return what is to be told now, and what the pager remembers of it.

    Parameters
    ----------
    memory : Memory
        As the turn before left it.
    events : sequence of Told, GivenUp, Taken or Tested
        What happened since, in order.
    now : datetime
        Never earlier than in the turn before.
    routes : Routes
        Without faults.
    orders : Orders
    topology : Topology
    """
    return _Decider(memory, now, routes, orders, topology).turn(events)


def test_group(test_id: UUID) -> str:
    """Return the key under which a test page is told."""
    return _key("test", str(test_id))


class _Decider:
    """The working copy of a turn."""

    def __init__(
        self, memory: Memory, now: datetime, routes: Routes, orders: Orders, topology: Topology
    ) -> None:
        self._now = now
        self._routes = routes
        self._orders = orders
        self._topology = topology
        self._tracks = dict(memory.tracks)
        self._pages = dict(memory.pages)
        self._groups = dict(memory.groups)
        began = routes.shifts.began(now)
        shift = memory.shift
        self._shift = shift if shift is not None and shift.began == began else Shift(began)
        self._said: list[Said] = []
        self._tellings: list[Telling] = []
        self._joined: list[tuple[str, UUID]] = []
        self._closed: list[Group] = []
        self._touched: dict[str, None] = {}
        self._fresh: list[UUID] = []
        self._had_again: dict[str, str] = {}
        # Groups that all have left, and alerts that are to come to others.
        self._emptied: set[str] = set()
        self._moving: dict[UUID, None] = {}
        self._by_identity: dict[str, list[UUID]] | None = None
        waits = (rule.wait for rule in routes.inhibitions)
        # So long what is over still explains what has not ended yet.
        self._after_source = max(waits, default=timedelta())
        self._beside: dict[str, tuple[str, ...]] = {}
        self._quiets = [*orders.windows, *orders.silences]
        self._dark_areas: dict[AreaKey, str] | None = None
        self._by_name = {route.name: route for route in routes.routes}
        self._keys = {
            _index(group.route, group.labels): group.key
            for group in self._groups.values()
            if group.cause == "sensors"
        }

    def turn(self, events: Sequence[Happened]) -> Turn:
        """Hear, judge, tell, forget."""
        for event in events:
            match event:
                case Told():
                    self._hear(event)
                case GivenUp():
                    self._give_up(event)
                case Taken():
                    self._take(event.group, event.actor)
                case Tested():
                    self._test(event)
        self._have_again()
        self._settle_up()
        self._move()
        waiting = [track.alert_id for track in self._tracks.values() if self._is_asked(track)]
        are_dropped = self._judge(dict.fromkeys((*waiting, *self._fresh)))
        # What is dropped explains nothing any more.
        while are_dropped and (explained := self._explained()):
            are_dropped = self._judge(explained)
        self._darken()
        self._tell()
        self._forget()
        return Turn(
            Memory(self._tracks, self._pages, self._groups, self._shift),
            self._said,
            self._tellings,
            self._joined,
            self._closed,
            self._wake_at(),
        )

    def _is_asked(self, track: Track) -> bool:
        """Say whether an alert that waits is looked at in this turn."""
        if track.phase == "held":
            is_due = track.until is not None and track.until <= self._now
            # What is new may be the neighbour it waits for.
            return is_due or (track.stage == "corroboration" and bool(self._fresh))
        # A silence may have been lifted; the few that are muted are asked every time.
        return track.phase == "muted"

    # What happened.

    def _hear(self, told: Told) -> None:
        track = self._tracks.get(told.alert_id)
        if told.happening == "firing":
            if track is None and told.page is not None:
                self._open(told.page, told.written)
            else:
                self._say(told.alert_id, None, "deduplication", "quiet", "it is known already")
            return
        if track is None:
            self._say(told.alert_id, None, "deduplication", "quiet", "nobody knows its firing")
            return
        # Of one that is over its page may be open, and whoever has one of its alerts has that.
        if track.state == "resolved" and told.happening != "acknowledged":
            return
        match told.happening:
            case "resolved":
                self._resolve(track, told)
            case "worse" if told.page is not None:
                self._worsen(track, told.page)
            case "stale":
                self._put(_changed(track, state="stale", moved=self._now))
            case "back":
                state = "acknowledged" if track.acknowledged_by or track.had else "open"
                self._put(_changed(track, state=state, moved=self._now))
            case _:
                self._acknowledge(track, told)

    def _open(self, page: Page, written: datetime | None) -> None:
        identity = identity_of(page)
        if self._by_identity is None:
            self._by_identity = by_identity(self._tracks)
        same = [self._tracks[one] for one in self._by_identity.setdefault(identity, [])]
        # The one that stands in the groups, whatever became of others that were to take its place.
        before = next((one for one in same if one.phase == "grouped" and one.flapping), None)
        limit = self._routes.flapping
        lately = max((one.openings for one in same), key=lambda one: one[-1:], default=())
        openings = (*(at for at in lately if at > self._now - limit.within), self._now)
        track = Track(
            alert_id=page.alert_id,
            identity=identity,
            arrived=self._now,
            moved=self._now,
            written=written,
            openings=openings[-limit.times - 1 :],
            flapping=len(openings) > limit.times,
            until=self._now,
        )
        self._by_identity[identity].append(page.alert_id)
        self._pages[page.alert_id] = page
        if before is not None:
            if RANK[page.severity] > RANK[self._peak_of(before)]:
                # All stages are asked of it. Until it gets past them, the one before stands for it.
                track = _changed(track, takes_over=before.alert_id)
            elif self._is_news(page, track):
                self._say(page.alert_id, None, "flapping", "join", "it flaps, and is held open")
                self._take_over(track, before)
                return
        self._put(track)
        self._fresh.append(page.alert_id)

    def _take_over(self, track: Track, before: Track) -> None:
        """Put an alert in the place of the one that was held open for it: nobody is told."""
        # Whoever had that one has this as well, and whoever knows how bad it was needs no more.
        moved = {
            "groups": before.groups,
            "untold": before.untold,
            "had": before.had,
            "acknowledged_by": before.acknowledged_by,
            "peak": self._told_peak_of(before),
        }
        self._put(_changed(track, phase="grouped", until=None, **moved))
        self._leave(before)
        self._note(before.groups, track.alert_id)

    def _let_stand(self, track: Track, state: State) -> None:
        """Let the one that stands in the groups for an alert that waits be as that is."""
        before = self._tracks.get(track.takes_over) if track.takes_over else None
        if before is not None and (before.state == "resolved") != (state == "resolved"):
            self._put(_changed(before, state=state, moved=self._now))

    def _peak_of(self, track: Track) -> Severity:
        return _worst([track.peak or "informational", self._pages[track.alert_id].severity])

    def _told_peak_of(self, track: Track) -> Severity | None:
        """Return the worst that people were told of an alert, and of those whose place it took."""
        is_told = not set(track.groups) <= set(track.untold)
        told = self._pages[track.alert_id].severity if is_told else track.was
        found = [one for one in (track.peak, told) if one is not None]
        return _worst(found) if found else None

    def _leave(self, track: Track) -> None:
        """Take an alert out of its groups, for another stands in its place."""
        self._touch(track.groups)
        self._put(_changed(track, phase="over", groups=(), untold=(), had={}))

    def _part(self, keys: Iterable[str]) -> None:
        """Remember of groups that another page speaks for some of what they told."""
        for key in tuple(keys):
            for one in (key, self._groups[key].summary):
                if one is not None:
                    self._groups[one] = _changed(self._groups[one], parted=True)
                    self._touched[one] = None

    def _is_news(self, page: Page, track: Track) -> bool:
        alone = Scene(self._routes, self._orders, self._topology, {}, (), {})
        return is_news(Candidate(page, labels_of(page), track), alone, self._now)

    def _is_let_in(self, page: Page, track: Track) -> bool:
        """Say whether the gates let an open alert pass, though they may not be asked of it yet."""
        return track.phase == "grouped" or self._is_news(page, track)

    def _resolve(self, track: Track, told: Told) -> None:
        over = _changed(track, state="resolved", moved=self._now, ended=told.at)
        self._let_stand(track, "resolved")
        over = _changed(over, takes_over=None)
        if track.phase in ("held", "muted"):
            said = f"it was over before it passed {track.stage}"
            self._say(track.alert_id, None, "deduplication", "drop", said)
            over = _changed(over, phase="over", until=None)
        elif track.phase == "dropped":
            over = _changed(over, phase="over")
        elif track.flapping:
            calm_at = self._now + self._routes.flapping.within
            said = "it flaps: it is over when it was calm for long enough"
            self._say(track.alert_id, None, "flapping", "hold", said, calm_at)
        self._put(over)

    def _worsen(self, track: Track, page: Page) -> None:
        """Let an alert be more severe than it was: whoever had it, had less."""
        before = self._pages[track.alert_id].severity
        if RANK[page.severity] <= RANK[before]:
            self._say(track.alert_id, None, "deduplication", "quiet", "it is as bad already")
            return
        said = f"it got worse: {page.severity}, was {before}"
        peak = self._told_peak_of(track) if track.flapping else None
        is_known = peak is not None and RANK[page.severity] <= RANK[peak]
        self._pages[track.alert_id] = page
        if is_known and track.phase == "grouped":
            self._say(track.alert_id, None, "flapping", "quiet", f"{said}; it has been as bad")
            self._put(_changed(track, moved=self._now))
            return
        track = _changed(track, moved=self._now, had={}, acknowledged_by=None)
        if track.state == "acknowledged":
            track = _changed(track, state="open")
        if track.phase != "grouped":
            # All stages are asked of it anew.
            self._say(track.alert_id, None, "deduplication", "pass", said)
            self._put(_changed(track, phase="held", stage="", until=self._now))
            self._fresh.append(track.alert_id)
            return
        kept = self._kept(track, page)
        self._say(track.alert_id, None, "deduplication", "join", said)
        if kept is None:
            # What nobody was told of yet has not got worse to anybody.
            was = track.was if track.was and set(track.groups) <= set(track.untold) else before
            self._put(_changed(track, untold=track.groups, was=was))
            return
        # It is past all stages; who is told of it may be somebody else: after what is over is.
        self._part(key for key in track.groups if key not in kept)
        self._touch(track.groups)
        self._put(_changed(track, groups=kept, untold=kept, was=before if kept else None))
        self._moving[track.alert_id] = None

    def _move(self) -> None:
        """Let what got worse come to its groups: not to what was over in this turn."""
        for alert_id in self._moving:
            track = self._tracks[alert_id]
            if track.state == "resolved" and not track.groups:
                self._put(_changed(track, phase="over"))
                continue
            page = self._pages[alert_id]
            keys = tuple(self._groups_for(Candidate(page, labels_of(page), track), has_waited=True))
            if not keys:
                # Its routes tell nobody: they say so.
                self._put(_changed(track, phase="held", stage="", until=self._now))
                self._fresh.append(alert_id)
                continue
            self._join(track, keys)
            self._tracks[alert_id] = _changed(self._tracks[alert_id], was=track.was)

    def _kept(self, track: Track, page: Page) -> tuple[str, ...] | None:
        """Return in which of its groups an alert stays as it is now; None if it goes to no other.

        One that its routes would tell nobody now goes on where it is.
        """
        is_of_area = any(self._groups[key].cause != "sensors" for key in track.groups)
        labels = labels_of(page)
        told = [one for one in routes_of(labels, self._routes.routes) if one.policy != NOBODY]
        keys = {
            self._keys.get(_index(route.name, {name: labels[name] for name in route.group_by}))
            for route in told
        }
        if track.groups and (is_of_area or not told or keys == set(track.groups)):
            return None
        return tuple(key for key in track.groups if key in keys)

    def _acknowledge(self, track: Track, told: Told) -> None:
        if track.state != "resolved":
            by = told.actor
            track = _changed(track, state="acknowledged", moved=self._now, acknowledged_by=by)
            self._put(track)
        for key in track.groups:
            # Not pages that have not told of it.
            if key not in track.untold:
                self._take(key, told.actor, track.alert_id)
        before = self._tracks.get(track.takes_over) if track.takes_over else None
        if before is not None:
            self._acknowledge(before, told)

    def _take(self, key: str, actor: str, alert_id: UUID | None = None) -> None:
        """Let somebody have a group, or the summary that speaks for it: nobody else is woken."""
        group = self._groups.get(key)
        if group is not None and group.summary is not None:
            group = self._groups.get(group.summary)
        # Of what nobody was told of, nobody has more than the alert itself.
        if group is None or group.first_told is None:
            return
        if group.acknowledged_at is not None:
            # Once a turn: of a page that is acknowledged every alert may say so.
            self._had_again.setdefault(group.key, actor)
            return
        # Who takes a page has looked at it; who has an alert has what its page told of. Of what got
        # worse both know less.
        members = [
            one
            for one in self._members_of(group.key)
            if not self._is_untold(one, group)
            or (alert_id is None and one.was is None and self._quiet_of(one) is None)
        ]
        if not members:
            return
        for track in members:
            self._put(_changed(track, acknowledged_by=track.acknowledged_by or actor))
        self._heed(group, members)
        group = self._had(_changed(group, had_at=None), actor)
        said = f"{actor} has it"
        self._say(alert_id, group.key, "escalation", "quiet", said)
        self._dark_areas = None
        self._word(group, self._heard(self._present(members)), "acknowledge", said)

    def _have_again(self) -> None:
        """Let those who had a page, and said so of more of it, have all that it told of."""
        members = self._members(dict.fromkeys(self._had_again))
        for key, actor in self._had_again.items():
            group = self._groups.get(key)
            if group is None:
                continue
            for track in self._present(members[key]):
                if track.acknowledged_by is None and not self._is_untold(track, group):
                    self._put(_changed(track, acknowledged_by=actor))

    def _heed(self, group: Group, members: Sequence[Track]) -> None:
        """Remember that people know of all that is in a group, or in those it speaks for."""
        for one in members:
            present = self._tracks[one.alert_id]
            keys = self._as_of(present, group)
            untold = tuple(key for key in present.untold if key not in keys)
            self._tracks[one.alert_id] = _changed(present, untold=untold)

    def _disregard(self, group: Group, members: Sequence[Track], heard: Sequence[Track]) -> None:
        """Let what a page cannot tell now be told when it can: nothing else speaks for it."""
        known = {one.alert_id for one in heard}
        for one in members:
            if one.alert_id not in known:
                present = self._tracks[one.alert_id]
                untold = tuple(dict.fromkeys((*present.untold, group.key)))
                self._tracks[one.alert_id] = _changed(present, untold=untold)

    def _had(self, group: Group, actor: str) -> Group:
        group = _changed(
            group,
            acknowledged_at=group.had_at or self._now,
            acknowledged_by=actor,
            had_at=None,
            next_step_at=None,
            repeats_at=None,
        )
        self._groups[group.key] = group
        self._touched[group.key] = None
        return group

    def _as_of(self, track: Track, group: Group) -> tuple[str, ...]:
        """Return the groups as whose alert a group tells of one: itself, or those it speaks for."""
        if group.cause != "budget":
            return (group.key,)
        return tuple(key for key in track.groups if self._groups[key].summary == group.key)

    def _give_up(self, lost: GivenUp) -> None:
        group = self._groups.get(lost.group)
        if group is None or group.acknowledged_at is not None or lost.step != group.steps:
            return
        said = f"{lost.target} could not be told"
        if group.next_step_at is not None:
            group = _changed(group, next_step_at=self._now)
        elif group.repeats_at is not None:
            # There is nobody left to go to but those who were not reached.
            route = self._route_of(group)
            group = _changed(
                group, repeats_at=min(group.repeats_at, self._now + route.group_interval)
            )
        self._groups[group.key] = group
        self._touched[group.key] = None
        self._say(None, group.key, "escalation", "pass", said)

    def _test(self, asked: Tested) -> None:
        """Tell the first step of a policy, past every stage, and remember nothing."""
        key = test_group(asked.test_id)
        steps = self._routes.policies.get(asked.policy)
        if steps is None:
            self._say(None, key, "routing", "drop", f"there is no policy {asked.policy}")
            return
        notice = test_notice(key, asked, self._now)
        deliveries = [
            delivery
            for delivery in self._deliveries(steps[0], 1)
            if delivery.hook in self._routes.hooks
        ]
        self._tellings.append(Telling(notice, tuple(deliveries)))
        self._say(None, key, "routing", "tell", f"{asked.author} asks for a page by {asked.policy}")

    # Alerts.

    def _explained(self) -> list[UUID]:
        return [
            track.alert_id
            for track in self._tracks.values()
            if (track.phase, track.stage) == ("muted", "inhibition")
        ]

    def _judge(self, alert_ids: Iterable[UUID]) -> bool:
        """Ask the stages of some alerts; say whether any were dropped."""
        candidates = [
            self._candidate(page, self._tracks[alert_id])
            for alert_id in alert_ids
            # What is over already, in the turn in which it came, is not asked.
            if (page := self._pages.get(alert_id)) is not None
            and self._tracks[alert_id].phase != "over"
        ]
        if not candidates:
            return False
        scene = self._scene()
        verdicts = [judge(candidate, scene, self._now) for candidate in candidates]
        for candidate, verdict in zip(candidates, verdicts, strict=True):
            self._settle(candidate, verdict)
        return any(verdict.decision.outcome == "drop" for verdict in verdicts)

    def _candidate(self, page: Page, track: Track) -> Candidate:
        labels = labels_of(page)
        was_quiet = track.phase == "muted" and track.stage in ("maintenance", "silence")
        if was_quiet and quieted(labels, self._quiets, self._now) is None:
            track = _changed(track, let_go=self._now)
        return Candidate(page, labels, track)

    def _scene(self) -> Scene:
        company: dict[tuple[str, str], dict[str, list[datetime]]] = defaultdict(
            lambda: defaultdict(list)
        )
        rules = self._routes.inhibitions
        sources: list[dict[tuple[str, ...], Source]] = [{} for _ in rules]
        if rules or self._routes.corroborations:
            for alert_id, track in self._tracks.items():
                page = self._pages[alert_id]
                if track.state != "resolved" and track.phase not in ("dropped", "over"):
                    if self._routes.corroborations and self._is_let_in(page, track):
                        company[page.zone, page.kind][page.sensor].append(track.arrived)
                    self._add_source(sources, page, track, None)
                elif self._explains_still(track):
                    self._add_source(sources, page, track, track.moved)
        return Scene(
            self._routes, self._orders, self._topology, self._still_dark(), sources, company
        )

    def _explains_still(self, track: Track) -> bool:
        """Say whether what is over was a reason a moment ago: not if it lacked neighbours."""
        is_over = track.state == "resolved" and track.stage != "corroboration"
        return is_over and self._now < track.moved + self._after_source

    def _add_source(
        self,
        sources: Sequence[dict[tuple[str, ...], Source]],
        page: Page,
        track: Track,
        ended: datetime | None,
    ) -> None:
        """Note what an alert explains, if the gates let it pass."""
        if not sources:
            return
        labels = labels_of(page)
        name = f"{page.kind} of {page.sensor}"
        source = Source(track.alert_id, name, labels, track.arrived, ended)
        for rule, found in zip(self._routes.inhibitions, sources, strict=True):
            if not rule.source.covers(labels) or not self._is_let_in(page, track):
                continue
            agreed = tuple(labels[label] for label in rule.equal)
            if source.is_before(found.get(agreed)):
                found[agreed] = source

    def _settle(self, candidate: Candidate, verdict: Verdict) -> None:
        track, decision = candidate.track, verdict.decision
        match decision.outcome:
            case "hold" | "mute":
                phase = "held" if decision.outcome == "hold" else "muted"
                present = (phase, verdict.stage, decision.until)
                is_news = (track.phase, track.stage, track.until) != present
                self._let_stand(track, "open")
                self._put(_changed(track, phase=phase, stage=verdict.stage, until=decision.until))
                if not is_news:
                    return
            case "drop":
                self._let_stand(track, "resolved")
                track = _changed(track, takes_over=None)
                self._put(_changed(track, phase="dropped", stage=verdict.stage, until=None))
            case "join":
                self._join(track, self._area_groups(decision.group or "", candidate.page))
            case _:
                self._join(track, tuple(self._groups_for(candidate)))
        self._said.append(
            Said(
                track.alert_id,
                decision.group,
                verdict.stage,
                decision.outcome,
                decision.reason,
                decision.until,
                verdict.trail,
            )
        )

    def _groups_for(self, candidate: Candidate, *, has_waited: bool = False) -> Iterator[str]:
        """Yield the open groups that an alert belongs to, made where there are none."""
        for route in routes_of(candidate.labels, self._routes.routes):
            if route.policy == NOBODY:
                continue
            labels = {name: candidate.labels[name] for name in route.group_by}
            index = _index(route.name, labels)
            key = self._keys.get(index)
            if key is None or key in self._emptied:
                key = _key(route.name, *map("=".join, index[1]), str(candidate.page.alert_id))
                self._keys[index] = key
                self._groups[key] = Group(
                    key=key,
                    route=route.name,
                    policy=route.policy,
                    labels=labels,
                    opened=self._now,
                    waits_until=self._now + (timedelta() if has_waited else route.group_wait),
                )
            yield key

    def _join(self, track: Track, keys: tuple[str, ...]) -> None:
        before = self._tracks.get(track.takes_over) if track.takes_over else None
        if before is not None:
            self._leave(before)
            self._part(key for key in before.groups if key not in keys)
        self._touch(track.groups)
        waits = {"stage": "", "until": None, "takes_over": None, "was": None}
        self._put(_changed(track, phase="grouped", groups=keys, untold=keys, had={}, **waits))
        self._note(keys, track.alert_id)

    def _owner(self, group: Group, severity: Severity) -> str | None:
        """Return who has what comes into a group: whoever has that, unless they know no worse."""
        if group.first_told is None and group.summary is not None:
            group = self._groups[group.summary]
        known = group.level or group.worst
        if group.acknowledged_at is None or group.first_told is None or known is None:
            return None
        return group.acknowledged_by if RANK[severity] <= RANK[known] else None

    def _note(self, keys: Iterable[str], alert_id: UUID) -> None:
        """Write down of which groups an alert is, those that speak for its own among them."""
        spoken_for = (self._groups[key].summary for key in keys)
        every = (*keys, *(key for key in spoken_for if key is not None))
        self._joined += [(key, alert_id) for key in dict.fromkeys(every)]

    # Areas that go dark.

    def _silent(self) -> list[tuple[Track, Page]]:
        """Return the sensors that are silent, as far as the stages before let them come."""
        return [
            (track, self._pages[alert_id])
            for alert_id, track in self._tracks.items()
            if track.state != "resolved"
            and (track.phase == "grouped" or (track.phase == "held" and track.stage == "darkness"))
            and self._pages[alert_id].kind == DARK_KIND
        ]

    def _still_dark(self) -> dict[AreaKey, str]:
        """Return the areas with an open group of which enough sensors are still silent."""
        # Of two outages of one area the later: it went dark again before all of it was back.
        groups: dict[AreaKey, list[Group]] = {}
        for group in sorted(self._groups.values(), key=lambda group: (group.opened, group.key)):
            area = area_of(group)
            if area is not None:
                same = groups.get(area)
                if same is not None and same[0].opened == group.opened:
                    same.append(group)
                else:
                    groups[area] = [group]
        if not groups:
            return {}
        # What is held may be the area going dark again, which is news.
        grouped = [
            (track, self._pages[alert_id])
            for alert_id, track in self._tracks.items()
            if track.phase == "grouped" and self._pages[alert_id].kind == DARK_KIND
        ]
        dark = still_dark(groups, grouped, self._topology, self._routes.darkness)
        return {area: groups[area][0].key for area in dark}

    def _darken(self) -> None:
        """Open a group for each area that goes dark now; the largest takes all."""
        if not any(
            track.phase == "held" and track.stage == "darkness" for track in self._tracks.values()
        ):
            return
        rule = self._routes.darkness
        known = self._still_dark()
        spoken_for: dict[AreaKey, set[str]] = defaultdict(set)
        for group in self._groups.values():
            area = area_of(group)
            if area is not None and (group.first_told is not None or group.summary is not None):
                for one in (area, *self._topology.within.get(area, ())):
                    spoken_for[one].add(group.key)
        since = self._now - rule.within
        going = going_silent(self._silent(), self._topology, since, spoken_for)
        for area in newly_dark(going, known, self._topology, rule):
            self._open_area(area, going.members[area])

    def _open_area(self, area: AreaKey, silent: Sequence[Track]) -> None:
        """Open the group of an area, for those of its sensors that nobody was told of yet."""
        inside = self._topology.within.get(area, frozenset())
        untold = {
            key
            for key, group in self._groups.items()
            if group.first_told is None
            and group.summary is None
            and (group.cause == "sensors" or area_of(group) in (*inside, area))
        }
        # Another area that goes dark in this turn may have taken some of them.
        members = [
            track
            for track in self._present(silent)
            if track.phase == "held" or untold.issuperset(track.groups)
        ]
        if not members:
            return
        members.sort(key=lambda track: (track.arrived, str(track.alert_id)))
        pages = [self._pages[track.alert_id] for track in members]
        severity = _worst([_AREA_SEVERITY[area.kind], *(page.severity for page in pages)])
        zone = self._topology.zone_of(area) or one_of(page.zone for page in pages)
        told = self._routes_of_area(
            pages, {"severity": severity, "zone": zone, "sensor": area.name}
        )
        if not told:
            return
        first = members[0]
        has_larger = any(area in parts for parts in self._topology.within.values())
        keys = {
            _key(area.kind, area.name, route.name, str(first.alert_id)): route
            for route in told.values()
        }
        for key, route in keys.items():
            wait = self._routes.darkness.parent_wait if has_larger else route.group_wait
            self._groups[key] = Group(
                key=key,
                cause=area.kind,
                cause_name=area.name,
                route=route.name,
                policy=route.policy,
                labels={"zone": zone, area.kind: area.name},
                opened=self._now,
                waits_until=self._now + wait,
            )
        for track in members:
            said = f"{area} is dark, and speaks for it"
            self._say(track.alert_id, next(iter(keys)), "darkness", "join", said)
            self._join(track, tuple(keys))

    def _routes_of_area(self, pages: Sequence[Page], labels: dict[str, str]) -> dict[str, Route]:
        """Return the routes of an area by name: its first sensor's, and those to others than that.

        Its sensors may be of several domains, whose staff all must know; each of them once.
        """
        told: dict[str, Route] = {}
        for own in dict.fromkeys(tuple((labels_of(page) | labels).items()) for page in pages):
            policies = {route.policy for route in told.values()} | {NOBODY}
            told |= {
                route.name: route
                for route in routes_of(dict(own), self._routes.routes)
                if route.policy not in policies
            }
        return told

    def _area_groups(self, key: str, page: Page) -> tuple[str, ...]:
        """Return the groups of an area that a sensor comes to: more where others see to it."""
        group, siblings = self._groups[key], self._siblings(key)
        known = [self._groups[one] for one in siblings]
        severity = _worst([_AREA_SEVERITY[group.cause], page.severity])
        labels = {"severity": severity, "zone": group.labels["zone"], "sensor": group.cause_name}
        more = [
            route
            for name, route in self._routes_of_area([page], labels).items()
            if name not in {one.route for one in known}
            and route.policy not in {one.policy for one in known}
        ]
        for route in more:
            new = _key(group.cause, group.cause_name, route.name, str(page.alert_id))
            self._groups[new] = Group(
                key=new,
                cause=group.cause,
                cause_name=group.cause_name,
                route=route.name,
                policy=route.policy,
                labels=group.labels,
                opened=group.opened,
                waits_until=max(group.waits_until, self._now),
            )
        if more:
            self._beside.clear()
        return self._siblings(key)

    def _siblings(self, key: str) -> tuple[str, ...]:
        """Return the groups that an area has by every route that took it, one of which is given."""
        if key not in self._beside:
            group = self._groups[key]
            same = (group.cause, group.cause_name, group.opened)
            self._beside[key] = tuple(
                one.key
                for one in self._groups.values()
                if (one.cause, one.cause_name, one.opened) == same
            )
        return self._beside[key]

    # Groups.

    def _settle_up(self) -> None:
        """Let what is over be over, and all else be as bad as it is, before anything joins it."""
        keys = dict.fromkeys((*self._touched, *self._due()))
        for are_summaries in (False, True):
            some = dict.fromkeys((*keys, *self._touched))
            some = {key: None for key in some if self._is_summary(key) == are_summaries}
            members = self._members(some)
            self._dark_areas = None
            for key in some:
                group = self._groups.get(key)
                if group is None:
                    continue
                present = self._present(members[key])
                # What all have left for another page ends after that has been looked at.
                if not self._left(present) and present:
                    self._tell_one(key, present)
                elif not present:
                    self._emptied.add(key)
                elif group.first_told is not None:
                    # What is worse than what people know to be open is nobody's.
                    level = _level(group, self._told_as(group, present))
                    group = self._owned(_changed(group, level=level), present)
                    level = _level(group, self._gathering(group, present).known)
                    self._groups[key] = _changed(group, level=level)

    def _due(self) -> list[str]:
        return [
            key
            for key, group in self._groups.items()
            if group.quieted_until is not None
            or (group.wakes_at is not None and group.wakes_at <= self._now)
            or self._is_longer(group, self._steps_of(group))
        ]

    def _tell(self) -> None:
        keys = dict.fromkeys((*self._touched, *self._due()))
        self._touched = {}
        self._tell_each({key: None for key in keys if not self._is_summary(key)})
        # After the groups they speak for, of which one may have got too bad to be spoken for.
        self._tell_each({key: None for key in (*keys, *self._touched) if self._is_summary(key)})

    def _is_summary(self, key: str) -> bool:
        group = self._groups.get(key)
        return group is not None and group.cause == "budget"

    def _tell_each(self, keys: Mapping[str, None]) -> None:
        members = self._members(keys)
        self._dark_areas = None
        for key in keys:
            self._tell_one(key, members[key])

    def _tell_one(self, key: str, members: Sequence[Track]) -> None:
        group = self._groups.get(key)
        if group is None:
            return
        group = self._continued(self._owned(group, self._present(members)))
        members = self._present(members)
        gathering = self._gathering(group, members)
        verdict = judge_group(gathering, self._now)
        decision = verdict.decision
        event, reason = word_of(gathering, self._now)
        match decision.outcome:
            case "tell" if event is not None:
                self._tell_word(gathering, members, event, reason)
            case "divert":
                self._divert(gathering, members)
        group = self._groups[key]
        if decision.outcome != "hold" or decision.until not in (
            group.wakes_at,
            group.quieted_until,
        ):
            self._said.append(
                Said(
                    None,
                    key,
                    verdict.stage,
                    decision.outcome,
                    decision.reason,
                    decision.until,
                    verdict.trail,
                )
            )
        if gathering.is_over and group.summary is None:
            self._close(group, members)
            return
        if gathering.is_over:
            # It is closed with the summary that speaks for it.
            self._touched[group.summary or ""] = None
        self._groups[key] = _changed(
            group,
            level=_level(group, gathering.known),
            quieted_until=gathering.quieted_until,
            wakes_at=self._next_look(group, (decision.until, gathering.quieted_until), members),
        )

    def _owned(self, group: Group, members: Sequence[Track]) -> Group:
        """Let a group be had by whoever has all that is left of it, and by nobody else."""
        left = [track for track in self._left(members) if self._is_known(track, group)]
        if not left:
            return group
        left = [self._covered(track, group) for track in left]
        owners = [track.owner(key) for track in left for key in self._as_of(track, group)]
        known = [owner for owner in owners if owner is not None]
        if len(known) < len(owners):
            if group.acknowledged_at is not None:
                group = _changed(
                    group,
                    acknowledged_at=None,
                    acknowledged_by=None,
                    had_at=group.acknowledged_at,
                    # Where it is no worse, it begins anew.
                    repeats_at=self._now if group.first_told is not None else None,
                )
                self._groups[group.key] = group
        elif group.acknowledged_at is None:
            names = list(dict.fromkeys(known))
            verb = "has" if len(names) == 1 else "have"
            said = f"{' and '.join(names)} {verb} all that is left of it"
            alone = left[0].alert_id if len(left) == 1 else None
            self._say(alone, group.key, "escalation", "quiet", said)
            group = self._had(group, known[0])
            if group.first_told is not None:
                group = self._word(group, self._heard(left), "acknowledge", said)
        return group

    def _covered(self, track: Track, group: Group) -> Track:
        """Let what people were not told of yet, and is no worse, be theirs who have the group."""
        new = [key for key in self._as_of(track, group) if key in track.untold]
        owner = self._owner(group, self._pages[track.alert_id].severity) if new else None
        if owner is not None:
            had = dict.fromkeys(new, owner) | track.had
            if had != track.had:
                track = _changed(self._tracks[track.alert_id], had=had)
                self._tracks[track.alert_id] = track
        return track

    def _continued(self, group: Group) -> Group:
        """Go on to the further steps of a policy that was made longer meanwhile."""
        steps = self._steps_of(group)
        if not self._is_longer(group, steps):
            return group
        since = (group.repeats_at or self._now) - self._route_of(group).repeat_interval
        due = max(since + steps[group.steps].after, self._now)
        group = _changed(group, next_step_at=due)
        self._groups[group.key] = group
        return group

    def _is_longer(self, group: Group, steps: Sequence[Step]) -> bool:
        return (
            group.next_step_at is None
            and group.first_told is not None
            and group.acknowledged_at is None
            and group.steps < len(steps)
        )

    def _left(self, members: Iterable[Track]) -> list[Track]:
        calm = self._routes.flapping.within
        return [track for track in members if not is_over(track, self._now, calm)]

    def _gathering(self, group: Group, members: Sequence[Track]) -> Gathering:
        left = self._left(members)
        quiets = {track.alert_id: self._quiet_of(track) for track in left} if self._quiets else {}
        heard = [track for track in left if quiets.get(track.alert_id) is None]
        as_of = {track.alert_id: set(self._as_of(track, group)) for track in left}
        asking = [
            track
            for track in heard
            if track.state != "resolved"
            and any(track.owner(key) is None for key in as_of[track.alert_id])
        ]
        known = [track for track in left if self._is_known(track, group)]
        before = group.level or group.worst or "minor"
        rising = [track for track in asking if track.peak is None or self._is_untold(track, group)]
        unheard = [track for track in heard if self._is_untold(track, group)]
        keys = {group.key}.union(*as_of.values())
        areas = [_AREA_SEVERITY[self._groups[key].cause] for key in keys if self._is_dark(key)]
        quieted = [quiet for quiet in quiets.values() if quiet is not None]
        first = min(quieted, key=lambda quiet: quiet.ends, default=None)
        return Gathering(
            group,
            self._route_of(group),
            self._steps_of(group),
            _worst([*self._severities(heard or left, group), *areas]),
            _worst([*(self._severities(known, group) if known else [before]), *areas]),
            _worst([*self._severities(asking, group), *areas]) if asking else None,
            _worst([*self._severities(rising, group), *areas]) if rising else None,
            len(members),
            len(unheard),
            sum(track.was is not None for track in unheard),
            not left,
            None if heard else first,
            self._shift,
            self._routes.budget,
            None if first is None else first.ends,
            self._is_dark(group.key),
        )

    def _told_as(self, group: Group, members: Sequence[Track]) -> Severity:
        """Return how severe the worst is that is left of a group, as far as it has told of it."""
        told: list[Severity] = []
        keys = {group.key}
        for track in self._left(members):
            keys.update(self._as_of(track, group))
            if not self._is_untold(track, group):
                told.append(self._pages[track.alert_id].severity)
            elif track.was is not None:
                told.append(track.was)
        areas = [_AREA_SEVERITY[self._groups[key].cause] for key in keys if self._is_dark(key)]
        return _worst([*(told or [group.level or group.worst or "minor"]), *areas])

    def _severities(self, tracks: Sequence[Track], group: Group) -> list[Severity]:
        found = [self._pages[track.alert_id].severity for track in tracks]
        return found or [group.worst or "minor"]

    def _heard(self, members: Sequence[Track]) -> Sequence[Track]:
        """Leave out what is quieted: it is told when it no longer is."""
        heard = [one for one in members if one.state == "resolved" or not self._quiet_of(one)]
        return heard or members

    def _is_known(self, track: Track, group: Group) -> bool:
        """Say whether people may know of an alert by a group: not of one quieted before."""
        return self._quiet_of(track) is None or not self._is_untold(track, group)

    def _is_untold(self, track: Track, group: Group) -> bool:
        """Say whether nobody was told of an alert by a group, in whose ever name."""
        return set(self._as_of(track, group)) <= set(track.untold)

    def _quiet_of(self, track: Track) -> Quiet | None:
        if not self._quiets:
            return None
        return quieted(labels_of(self._pages[track.alert_id]), self._quiets, self._now)

    def _is_dark(self, key: str) -> bool:
        """Say whether a group speaks of an area that is dark, and no later one of the same does."""
        group = self._groups[key]
        area = area_of(group)
        if area is None:
            return False
        if self._dark_areas is None:
            self._dark_areas = self._still_dark()
        latest = self._groups.get(self._dark_areas.get(area, ""))
        return latest is not None and latest.opened == group.opened

    def _tell_word(
        self, gathering: Gathering, members: Sequence[Track], event: Event, reason: str
    ) -> None:
        group, now = gathering.group, self._now
        if event == "trigger" and group.first_told is not None and is_worse(gathering):
            group = _changed(group, ring=group.ring + 1)
            gathering = replace(gathering, group=group)
        heard = members if event == "resolve" else self._heard(members)
        self._heed(group, heard)
        if event != "trigger":
            self._word(group, heard, event, reason, gathering)
            return
        steps = gathering.steps
        first = step_due(gathering, now)
        last = first
        began = now if first == 1 else group.next_step_at or now
        # Steps that are due at once are one.
        while last < len(steps) and steps[last].after <= steps[first - 1].after:
            last += 1
        if group.first_told is None and group.cause not in ("budget", "test"):
            self._shift = _changed(self._shift, pages=self._shift.pages + 1)
        deliveries = [
            delivery
            for number in range(first, last + 1)
            for delivery in self._deliveries(steps[number - 1], number)
        ]
        # One that reaches nobody (a stand-in without a telephone) is none.
        while not self._taken(deliveries, event) and last < len(steps):
            last += 1
            deliveries = list(self._deliveries(steps[last - 1], last))
        next_at = None
        if last < len(steps):
            gap = steps[last].after - steps[last - 1].after
            # Whoever is several steps behind, away or after a silence, goes on from here.
            next_at = began + gap if began + gap > now else now + gap
        repeats_at = group.repeats_at
        if first == 1 or (repeats_at is not None and repeats_at <= now):
            repeats_at = now + gathering.route.repeat_interval
        if not self._taken(deliveries, event):
            # There is nobody left to go to.
            soon = now + gathering.route.group_interval
            repeats_at = min(repeats_at or soon, soon)
            said = f"no step of {group.policy} that is left reaches anybody"
            self._say(None, group.key, "escalation", "pass", said)
        told = self._word(group, heard, event, reason, gathering, deliveries)
        self._say_unheard(group, members, heard)
        if group.summary is not None:
            self._part([group.summary])
            self._disregard(group, members, heard)
        self._groups[group.key] = _changed(
            told,
            worst=gathering.worst,
            level=gathering.known,
            steps=last,
            next_step_at=next_at,
            repeats_at=repeats_at,
            summary=None,
        )

    def _say_unheard(self, group: Group, members: Sequence[Track], heard: Sequence[Track]) -> None:
        """Say of what is quieted that it is not told with its page."""
        known = {one.alert_id for one in heard}
        for one in members:
            quiet = None if one.alert_id in known else self._quiet_of(one)
            if quiet is not None:
                said = f"not told with its page: {named(quiet)}"
                self._say(one.alert_id, group.key, "group silence", "quiet", said, quiet.ends)

    def _word(
        self,
        group: Group,
        members: Sequence[Track],
        event: Event,
        reason: str,
        gathering: Gathering | None = None,
        deliveries: Sequence[Delivery] | None = None,
    ) -> Group:
        """Write a notice down, and return the group that has told it."""
        dark = self._dark(group)
        notice = notice_of(
            gathering or self._gathering(group, members),
            [(track, self._pages[track.alert_id]) for track in members],
            event=event,
            reason=reason,
            now=self._now,
            link=self._routes.link,
            dark=dark,
            speaks_for=(one for one in self._groups.values() if one.summary == group.key),
        )
        if deliveries is None:
            deliveries = [_delivery(target, group.steps) for target in group.told_to]
        self._tellings.append(Telling(notice, self._taken(deliveries, event)))
        targets = dict.fromkeys((*group.told_to, *(one.target for one in deliveries)))
        told = _changed(
            group,
            revision=notice.revision,
            first_told=group.first_told or self._now,
            last_told=self._now,
            told_to=tuple(targets),
            dark=group.dark if dark is None else max(group.dark, dark.sensors),
        )
        self._groups[group.key] = told
        return told

    def _taken(self, deliveries: Iterable[Delivery], event: Event) -> tuple[Delivery, ...]:
        """Return the deliveries whose hooks are there, and are sent such an event."""
        return tuple(
            delivery
            for delivery in deliveries
            if (hook := self._routes.hooks.get(delivery.hook)) is not None
            and event in (hook.terms.events or ())
        )

    def _deliveries(self, step: Step, number: int) -> Iterable[Delivery]:
        """Return whom a step tells: each once, though several of its targets may lead to them."""
        return dict.fromkeys(
            Delivery(number, hook, person)
            for target in step.to
            for hook, person in self._reached(target)
        )

    def _reached(self, target: Target) -> Iterator[tuple[str, str | None]]:
        if target.kind == "hook":
            yield target.name, None
            return
        person = target.name
        if target.kind == "oncall":
            rotation = self._routes.rotations[target.name]
            person = on_call(rotation, self._orders.overrides, self._now)
        for hook in self._routes.hooks_of(person, target):
            yield hook, person

    def _divert(self, gathering: Gathering, members: Sequence[Track]) -> None:
        group = gathering.group
        if group.summary is not None:
            return
        name = f"shift of {self._shift.began:%Y-%m-%d %H:%M} UTC"
        # One of this shift that is over already stays over.
        key = next(
            (
                one.key
                for one in self._groups.values()
                if (one.cause, one.cause_name, one.policy) == ("budget", name, group.policy)
            ),
            "",
        )
        if not key:
            key = _key("budget", group.key)
            self._groups[key] = Group(
                key=key,
                cause="budget",
                cause_name=name,
                route=group.route,
                policy=group.policy,
                opened=self._now,
                waits_until=self._now + self._routes.summary_wait * self._shift.summaries,
            )
            self._shift = _changed(self._shift, summaries=self._shift.summaries + 1)
        group = _changed(group, summary=key)
        self._groups[group.key] = group
        self._joined += [(key, track.alert_id) for track in members]
        self._touched[key] = None
        self._owned(group, self._present(members))

    def _close(self, group: Group, members: Sequence[Track]) -> None:
        closed = {key: one for key, one in self._groups.items() if group.key in (key, one.summary)}
        for key, one in closed.items():
            del self._groups[key]
            index = _index(one.route, one.labels)
            if self._keys.get(index) == key:
                del self._keys[index]
            self._closed.append(_changed(one, closed=self._now, wakes_at=None))
        for track in members:
            present = self._tracks[track.alert_id]
            left = tuple(key for key in present.groups if key not in closed)
            phase = present.phase if left else "over"
            had = {key: owner for key, owner in present.had.items() if key in left}
            untold = tuple(key for key in present.untold if key in left)
            self._put(
                _changed(present, groups=left, untold=untold, had=had, phase=phase, flapping=False)
            )

    def _next_look(
        self, group: Group, until: Iterable[datetime | None], members: Sequence[Track]
    ) -> datetime | None:
        times = [*until, group.next_step_at, group.repeats_at]
        if group.first_told is None and group.summary is None:
            times.append(group.waits_until)
        calm = self._routes.flapping.within
        times += [
            track.moved + calm for track in members if track.flapping and track.state == "resolved"
        ]
        return min((at for at in times if at is not None and at > self._now), default=None)

    # What everything else leans on.

    def _members(self, keys: Mapping[str, None]) -> dict[str, list[Track]]:
        summaries = {key for key in keys if self._is_summary(key)}
        members: dict[str, list[Track]] = {key: [] for key in keys}
        if not keys:
            return members
        for track in self._tracks.values():
            for key in track.groups:
                if key in members:
                    members[key].append(track)
                if summaries:
                    group = self._groups.get(key)
                    if group is not None and group.summary in summaries:
                        spoken_for = members[group.summary or ""]
                        # Also of one that several routes took.
                        if not spoken_for or spoken_for[-1] is not track:
                            spoken_for.append(track)
        return members

    def _present(self, members: Iterable[Track]) -> list[Track]:
        """Return alerts as they are now: what was done for one group may have changed them."""
        return [self._tracks[track.alert_id] for track in members]

    def _members_of(self, key: str) -> list[Track]:
        return self._members({key: None})[key]

    def _route_of(self, group: Group) -> Route:
        # Of a file that was changed meanwhile, the last route takes everything.
        return self._by_name.get(group.route, self._routes.routes[-1])

    def _steps_of(self, group: Group) -> tuple[Step, ...]:
        policies = self._routes.policies
        # Of a policy that is gone, that which its route has now.
        found = policies.get(group.policy) or policies.get(self._route_of(group).policy)
        return found or (Step(timedelta(), ()),)

    def _dark(self, group: Group) -> Dark | None:
        """Return how dark the area is that a group speaks of, also by sensors it does not list."""
        area = area_of(group)
        if area is None:
            return None
        silent = [
            (track, self._pages[alert_id])
            for alert_id, track in self._tracks.items()
            if track.state != "resolved" and self._pages[alert_id].kind == DARK_KIND
        ]
        told = {key for key, one in self._groups.items() if one.first_told is not None}
        return dark_of(area, group.key, silent, self._topology, told)

    def _put(self, track: Track) -> None:
        self._tracks[track.alert_id] = track
        self._touch(track.groups)

    def _touch(self, keys: Iterable[str]) -> None:
        """Look at groups in this turn, and at the summaries that speak for them."""
        for key in keys:
            self._touched[key] = None
            group = self._groups.get(key)
            if group is not None and group.summary is not None:
                self._touched[group.summary] = None

    def _say(
        self,
        alert_id: UUID | None,
        group: str | None,
        stage: str,
        outcome: Outcome,
        reason: str,
        until: datetime | None = None,
    ) -> None:
        self._said.append(Said(alert_id, group, stage, outcome, reason, until))

    def _forget(self) -> None:
        """Let go of what is over, once it cannot be flapping or explain anything any more."""
        since = self._now - max(self._routes.flapping.within, self._after_source)
        gone = [
            alert_id
            for alert_id, track in self._tracks.items()
            if track.phase == "over" and track.moved <= since
        ]
        for alert_id in gone:
            del self._tracks[alert_id]
            del self._pages[alert_id]

    def _wake_at(self) -> datetime | None:
        times = [
            track.until
            for track in self._tracks.values()
            if track.phase in ("held", "muted") and track.until is not None
        ]
        times += [group.wakes_at for group in self._groups.values() if group.wakes_at is not None]
        return min(times, default=None)


def _index(route: str, labels: Mapping[str, str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return what an open group is found by."""
    return route, tuple(sorted(labels.items()))


def _key(*parts: str) -> str:
    return str(uuid5(_GROUPS, "|".join(parts)))


def _delivery(target: str, step: int) -> Delivery:
    hook, _, person = target.partition(":")
    return Delivery(max(step, 1), hook, person or None)


def _level(group: Group, worst: Severity) -> Severity | None:
    """Return what whoever was told of a group knows to be open."""
    if group.acknowledged_at is not None and group.first_told is not None:
        return worst
    known = group.level or group.worst
    return worst if known is not None and RANK[worst] < RANK[known] else known


def _worst(severities: Sequence[Severity]) -> Severity:
    return SEVERITIES[max(RANK[one] for one in severities)]

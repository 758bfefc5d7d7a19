"""Who is woken and why: the whole pager as one list of stages.

A stage looks at one alert, or at one group of alerts, and answers with its outcome and a reason.
The first that does not let it pass has the last word. Stages are pure: `now` and everything they
must know beside it is passed in, so a replayed night gives the same decisions as the night itself.

One long module, because it is the list, and the list is what people come to read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from paging.durations import spoken
from paging.notices import Event
from paging.routes import NOBODY, Inhibition, Route, Routes, Step
from paging.state import (
    RANK,
    AreaKey,
    Group,
    Orders,
    Outcome,
    Quiet,
    Shift,
    Topology,
    Track,
)
from storage.pages import Page, Severity

SERVED_NAMESPACE: Final = "live"
DARK_KIND: Final = "silence"
# QARTOD: 3 suspect, 4 fail, 9 missing (IOOS flag scheme of IOC 54:V3). Guarantee: such a reading
# speaks of its sensor and never of the city.
_BAD_QUALITY: Final = {3: "suspect", 4: "fail", 9: "missing"}


@dataclass(frozen=True, slots=True)
class Decision:
    """What a stage says.

    Parameters
    ----------
    outcome : str
        `pass` to the next stage; `hold` or `mute` until `until`; `drop` for good; `join` another
        group, which speaks for it. Of a group also `quiet`, `divert` to the summary, and `tell`.
    reason : str
    until : datetime or None
        When to ask again.
    group : str or None
        Which group it joins.
    """

    outcome: Outcome
    reason: str
    until: datetime | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """An alert that may be told: what is said of it, and what the pager knows of it."""

    page: Page
    labels: Mapping[str, str]
    track: Track


@dataclass(frozen=True, slots=True)
class Source:
    """An alert that explains others, as long as it is open.

    Parameters
    ----------
    alert_id : UUID
    name : str
    labels : mapping of str to str
    arrived : datetime
    ended : datetime or None
        When it was over; what follows from it is over a little later.
    """

    alert_id: UUID
    name: str
    labels: Mapping[str, str]
    arrived: datetime
    ended: datetime | None = None

    @property
    def age(self) -> tuple[datetime, UUID]:
        """What the older of two has less of."""
        return self.arrived, self.alert_id

    def is_before(self, other: "Source | None") -> bool:
        """Say whether it rather than another explains: what is open, and of that the oldest."""
        if other is None or (self.ended is None) != (other.ended is None):
            return other is None or self.ended is None
        if self.ended is None or other.ended is None:
            return self.age < other.age
        return self.ended > other.ended


@dataclass(frozen=True, slots=True)
class Scene:
    """What the stages of an alert must know beside it.

    Parameters
    ----------
    routes : Routes
    orders : Orders
    topology : Topology
    dark : mapping of AreaKey to str
        Areas that are dark, and the keys of their groups.
    sources : sequence of mapping of tuple to Source
        For each inhibition: the oldest open alert that inhibits, by what both must agree in; where
        none is open, the one that was over last.
    company : mapping of (str, str) to mapping of str to sequence of datetime
        For each zone and kind: sensors with an open alert that passes the gates, and when it
        arrived.
    """

    routes: Routes
    orders: Orders
    topology: Topology
    dark: Mapping[AreaKey, str]
    sources: Sequence[Mapping[tuple[str, ...], Source]]
    company: Mapping[tuple[str, str], Mapping[str, Sequence[datetime]]]


@dataclass(frozen=True, slots=True)
class Gathering:
    """A group that may be told: what it is, and how its alerts are now.

    Parameters
    ----------
    group : Group
    route : Route
    steps : tuple of Step
        Of its policy.
    worst : str
        Severity of the worst alert that is neither over nor quieted.
    known : str
        Severity of the worst that people may know of: what was quieted before it was told is not.
    asking : str or None
        Severity of the worst of those that are not calm either, and that nobody has.
    rising : str or None
        The same without those that flap and are no worse than they were.
    total : int
        Alerts in it, those that are over among them.
    unheard : int
        Of those that are neither over nor quieted, the ones that it has not told of.
    worsened : int
        Of those, the ones that it has told of as less severe.
    is_over : bool
        Whether all of them are over.
    quiet : Quiet or None
        What keeps all of them quiet.
    shift : Shift
    budget : int or None
    quieted_until : datetime or None
        When the first of those that are quieted may no longer be.
    is_dark : bool
        Whether it speaks of an area that is dark.
    """

    group: Group
    route: Route
    steps: tuple[Step, ...]
    worst: Severity
    known: Severity
    asking: Severity | None
    rising: Severity | None
    total: int
    unheard: int
    worsened: int
    is_over: bool
    quiet: Quiet | None
    shift: Shift
    budget: int | None
    quieted_until: datetime | None
    is_dark: bool


AlertStage = Callable[[Candidate, Scene, datetime], Decision]
GroupStage = Callable[[Gathering, datetime], Decision]


def served_namespace(candidate: Candidate, _scene: Scene, _now: datetime) -> Decision:
    """Let pages of the live city pass; a replay pages nobody."""
    namespace = candidate.page.namespace
    if namespace != SERVED_NAMESPACE:
        return Decision("drop", f"namespace {namespace!r} is not {SERVED_NAMESPACE!r}")
    return Decision("pass", f"namespace {namespace!r}")


def good_data(candidate: Candidate, _scene: Scene, _now: datetime) -> Decision:
    """Keep bad data from speaking of the city.

    The category decides: an alert about a sensor's health is *about* bad data and passes; an alert
    about the city passes unless its writer tells that the reading is bad.
    """
    page = candidate.page
    if page.category != "city":
        return Decision("pass", f"category {page.category!r} is about the data itself")
    flag = _BAD_QUALITY.get(page.quality) if page.quality is not None else None
    if flag is not None:
        return Decision("drop", f"a city alert on a reading of quality {flag!r}")
    return Decision("pass", "a city alert on data that is not flagged bad")


def out_of_shadow(candidate: Candidate, scene: Scene, _now: datetime) -> Decision:
    """Record what is on trial, and tell it nobody."""
    for match in scene.routes.shadows:
        if match.covers(candidate.labels):
            return Decision("drop", f"in the shadow: {match} is on trial")
    return Decision("pass", "not on trial")


def severe_enough(candidate: Candidate, _scene: Scene, _now: datetime) -> Decision:
    """Leave informational alerts to the dashboards."""
    severity = candidate.page.severity
    if severity == "informational":
        return Decision("drop", f"severity {severity!r} does not page")
    return Decision("pass", f"severity {severity!r}")


def still_news(candidate: Candidate, scene: Scene, now: datetime) -> Decision:
    """Keep old firings from being told as if they were news.

    A worker that was away long writes down what has long been over, and soon that it is: what is
    still open a while later is told. What an alert waits for the pager, or in it, does not make it
    old.
    """
    track = candidate.track
    written = track.written or track.arrived
    age, limit = written - candidate.page.since, scene.routes.stale_after
    until = written + scene.routes.late_wait
    if age > limit and now < until:
        said = f"old: fired {_span(age)} before it was written down, waits whether it is over"
        return Decision("hold", said, until)
    return Decision("pass", f"fired {_span(max(now - candidate.page.since, timedelta()))} ago")


def out_of_maintenance(candidate: Candidate, scene: Scene, now: datetime) -> Decision:
    """Keep quiet what is being worked on."""
    window = quieted(candidate.labels, scene.orders.windows, now)
    if window is not None:
        return Decision("mute", f"maintenance window {named(window)}", window.ends)
    return Decision("pass", "no maintenance window")


def not_silenced(candidate: Candidate, scene: Scene, now: datetime) -> Decision:
    """Keep quiet what somebody has silenced."""
    silence = quieted(candidate.labels, scene.orders.silences, now)
    if silence is not None:
        return Decision("mute", f"silence {named(silence)}", silence.ends)
    return Decision("pass", "no silence")


def not_in_the_dark(candidate: Candidate, scene: Scene, now: datetime) -> Decision:
    """Let one thing that went dark speak for the sensors that depend on it.

    Nobody says that a gateway is dark: it follows from how many of its sensors fall silent. So each
    that does waits for others, and whatever area goes dark meanwhile takes it.
    """
    page, track = candidate.page, candidate.track
    if page.kind != DARK_KIND:
        return Decision("pass", "its sensor speaks")
    if all(one.policy == NOBODY for one in routes_of(candidate.labels, scene.routes.routes)):
        return Decision("pass", "its routes tell nobody")
    for area in reversed(scene.topology.around(page.sensor, page.zone)):
        key = scene.dark.get(area)
        if key is not None:
            return Decision("join", f"{area} is dark, and speaks for it", group=key)
    waits_until = track.free_since + scene.routes.darkness.wait
    if now < waits_until:
        return Decision("hold", "waits whether others fall silent with it", waits_until)
    return Decision("pass", f"it alone fell silent, within {spoken(scene.routes.darkness.wait)}")


def not_explained(candidate: Candidate, scene: Scene, now: datetime) -> Decision:
    """Let an open alert speak for those that follow from it."""
    source = next(_sources_of(candidate.labels, scene), None)
    if source is not None and not _is_first_of_a_circle(candidate, scene):
        return Decision("mute", f"{source.name} is open, and explains it")
    for rule, one in _explainers(candidate.labels, scene):
        if one is not None and one.ended is not None and now < one.ended + rule.wait:
            said = f"{one.name} was over a moment ago: waits whether this ends with it"
            return Decision("hold", said, one.ended + rule.wait)
        waits_until = candidate.track.free_since + rule.wait
        if now < waits_until:
            return Decision("hold", f"waits for {rule.source}", waits_until)
    return Decision("pass", "no open alert explains it")


def _explainers(
    labels: Mapping[str, str], scene: Scene
) -> Iterator[tuple[Inhibition, Source | None]]:
    """Yield the inhibitions that an alert is a target of, and the alert that inhibits it."""
    for rule, sources in zip(scene.routes.inhibitions, scene.sources, strict=True):
        if rule.target.covers(labels) and not rule.source.covers(labels):
            yield rule, sources.get(tuple(labels[label] for label in rule.equal))


def _sources_of(labels: Mapping[str, str], scene: Scene) -> Iterator[Source]:
    found = (one for _, one in _explainers(labels, scene))
    return (one for one in found if one is not None and one.ended is None)


def _behind(labels: Mapping[str, str], scene: Scene) -> dict[UUID, Source]:
    """Return the open alerts that explain one, and those that explain them in turn."""
    found: dict[UUID, Source] = {}
    left = list(_sources_of(labels, scene))
    while left:
        one = left.pop()
        if one.alert_id not in found:
            found[one.alert_id] = one
            left += _sources_of(one.labels, scene)
    return found


def _is_first_of_a_circle(candidate: Candidate, scene: Scene) -> bool:
    """Say whether nothing but what an alert explains itself explains it, and it is the oldest.

    Rules may go round in a circle; if all were muted then, nobody would be told of any.
    """
    alert_id = candidate.track.alert_id
    behind = _behind(candidate.labels, scene)
    if alert_id not in behind or min(behind.values(), key=lambda one: one.age).alert_id != alert_id:
        return False
    # Whatever does not lead back here explains the whole circle.
    return all(alert_id in _behind(one.labels, scene) for one in behind.values())


def corroborated(candidate: Candidate, scene: Scene, now: datetime) -> Decision:
    """Ask the neighbours, where a rule wants them to say the same."""
    for rule in scene.routes.corroborations:
        if not rule.match.covers(candidate.labels):
            continue
        page, track = candidate.page, candidate.track
        company = scene.company.get((page.zone, page.kind), {})
        others = sum(
            sensor != page.sensor
            # Also what came while nobody was to hear of this.
            and any(
                track.arrived - rule.within <= one <= track.free_since + rule.within
                for one in arrived
            )
            for sensor, arrived in company.items()
        )
        if others >= rule.sensors:
            return Decision("pass", f"{others} neighbours say the same")
        waits_until = track.free_since + rule.within
        if now < waits_until:
            return Decision("hold", f"{others} of {rule.sensors} neighbours so far", waits_until)
        said = f"only {others} of {rule.sensors} neighbours within {spoken(rule.within)}"
        return Decision("pass" if rule.otherwise == "tell" else "drop", said)
    return Decision("pass", "no rule asks for neighbours")


def routed(candidate: Candidate, scene: Scene, _now: datetime) -> Decision:
    """Ask the routes; the alert goes on to the groups of those that take it."""
    taken = routes_of(candidate.labels, scene.routes.routes)
    told = [route for route in taken if route.policy != NOBODY]
    names = ", ".join(route.name for route in taken)
    if not told:
        return Decision("drop", f"route {names} tells nobody" if names else "no route takes it")
    return Decision("pass", f"route {names}")


def gathered(gathering: Gathering, now: datetime) -> Decision:
    """Wait for more of the same before the first word, and between two."""
    group, route = gathering.group, gathering.route
    if gathering.is_over:
        return Decision("pass", "there is no more to wait for")
    if group.first_told is None and now < group.waits_until:
        return Decision("hold", "waits for more of the same", group.waits_until)
    event, _ = word_of(gathering, now)
    if event == "update" and group.last_told is not None:
        due = group.last_told + route.group_interval
        if now < due:
            return Decision("hold", f"an update every {spoken(route.group_interval)}", due)
    return Decision("pass", f"{counted(gathering.total)} by {_labels(group)}")


def not_quieted(gathering: Gathering, _now: datetime) -> Decision:
    """Keep quiet a group all of whose alerts were silenced since; its end is told all the same."""
    quiet = gathering.quiet
    if quiet is not None and not gathering.is_over:
        return Decision("hold", f"all of it is quieted: {named(quiet)}", quiet.ends)
    return Decision("pass", "not quieted as a whole")


def deduplicated(gathering: Gathering, now: datetime) -> Decision:
    """Say each thing once."""
    event, reason = word_of(gathering, now)
    return Decision("pass" if event else "quiet", reason)


def within_budget(gathering: Gathering, _now: datetime) -> Decision:
    """Wake people so often a shift and no more, unless it is critical; a summary tells the rest."""
    group, budget, spent = gathering.group, gathering.budget, gathering.shift.pages
    if group.first_told is not None or gathering.is_over or group.cause in ("budget", "test"):
        return Decision("pass", "no new cause")
    if gathering.worst == "critical":
        return Decision("pass", f"critical, and page {spent + 1} of this shift")
    if group.summary is not None:
        return Decision("divert", "a summary speaks for it")
    if budget is None:
        return Decision("pass", "no budget is set")
    if spent >= budget:
        return Decision("divert", f"the {budget} pages of this shift are spent")
    return Decision("pass", f"page {spent + 1} of {budget} this shift")


def escalated(gathering: Gathering, now: datetime) -> Decision:
    """Say whom the word goes to: the step of the policy that is due, or who was told before."""
    event, _ = word_of(gathering, now)
    if event != "trigger":
        return Decision("tell", f"{event} to those who were told")
    count = len(gathering.steps)
    return Decision(
        "tell", f"step {step_due(gathering, now)} of {count} of {gathering.group.policy}"
    )


# The pager. What was learnt of an alert goes from top to bottom; then of its group.
STAGES: Final[tuple[tuple[str, AlertStage], ...]] = (
    ("namespace", served_namespace),
    ("quality", good_data),
    ("shadow", out_of_shadow),
    ("severity", severe_enough),
    ("news", still_news),
    ("maintenance", out_of_maintenance),
    ("silence", not_silenced),
    ("darkness", not_in_the_dark),
    ("inhibition", not_explained),
    ("corroboration", corroborated),
    ("routing", routed),
)
# Those that look at an alert alone, whatever there is beside it.
_ALONE: Final = ("namespace", "quality", "shadow", "severity", "news", "routing")
GROUP_STAGES: Final[tuple[tuple[str, GroupStage], ...]] = (
    ("grouping", gathered),
    ("group silence", not_quieted),
    ("deduplication", deduplicated),
    ("budget", within_budget),
    ("escalation", escalated),
)


def is_news(candidate: Candidate, scene: Scene, now: datetime) -> bool:
    """Say whether an alert by itself is one that people may be told of.

    Of the scene its routes alone are looked at.
    """
    asked = [stage for name, stage in STAGES if name in _ALONE]
    return all(stage(candidate, scene, now).outcome == "pass" for stage in asked)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the stages decided.

    Parameters
    ----------
    stage : str
        The last that was asked.
    decision : Decision
        Its own.
    trail : tuple of (str, str)
        Those before it that let pass, with their reasons.
    """

    stage: str
    decision: Decision
    trail: tuple[tuple[str, str], ...]


def judge(candidate: Candidate, scene: Scene, now: datetime) -> Verdict:
    """Ask the stages of an alert in order until one does not let it pass."""
    trail = []
    name, decision = "", Decision("pass", "")
    for name, stage in STAGES:
        decision = stage(candidate, scene, now)
        if decision.outcome != "pass":
            break
        trail.append((name, decision.reason))
    else:
        trail.pop()
    return Verdict(name, decision, tuple(trail))


def judge_group(gathering: Gathering, now: datetime) -> Verdict:
    """Ask the stages of a group in order until one does not let it pass."""
    trail = []
    name, decision = "", Decision("pass", "")
    for name, stage in GROUP_STAGES:
        decision = stage(gathering, now)
        if decision.outcome != "pass":
            break
        trail.append((name, decision.reason))
    return Verdict(name, decision, tuple(trail))


def word_of(gathering: Gathering, now: datetime) -> tuple[Event | None, str]:
    """Return what is to be told of a group now, and why; None where there is nothing new."""
    if gathering.group.first_told is None:
        return _first_word(gathering)
    if gathering.is_over:
        if not gathering.total:
            return "resolve", "what it spoke of has a page of its own"
        if gathering.group.parted:
            return (
                "resolve",
                "what is left of it is over, on good readings; the rest has a page",
            )
        return "resolve", "all of it is over, on good readings"
    return _further_word(gathering, now)


def step_due(gathering: Gathering, now: datetime) -> int:
    """Return which step of the policy a trigger is told by now, from 1."""
    group = gathering.group
    if _is_anew(gathering, now) or group.next_step_at is None or now < group.next_step_at:
        return 1
    # Of a policy that was made shorter meanwhile there may be none left: it begins anew.
    return group.steps + 1 if group.steps < len(gathering.steps) else 1


def _first_word(gathering: Gathering) -> tuple[Event | None, str]:
    if gathering.is_over:
        return None, "it was over before anybody was told"
    if gathering.asking is None:
        return None, "somebody has it, or it is calm or quieted, before anybody was told"
    return "trigger", "nobody was told of it yet"


def _further_word(gathering: Gathering, now: datetime) -> tuple[Event | None, str]:
    group = gathering.group
    if is_worse(gathering):
        return "trigger", f"it was {group.level or group.worst}, and is {gathering.rising}"
    # Nobody else is woken for what somebody has, or is calm or quieted; when that ends, whoever was
    # due is.
    if gathering.asking is not None:
        if _is_repeated(group, now):
            return "trigger", "still open, and nobody has acknowledged it: told anew"
        if group.next_step_at is not None and now >= group.next_step_at:
            return "trigger", "nobody has acknowledged it"
    if gathering.unheard and group.cause in ("sensors", "budget"):
        return "update", ", ".join(_news(gathering))
    return None, "nothing that was not told"


def _news(gathering: Gathering) -> Iterator[str]:
    joined = gathering.unheard - gathering.worsened
    if joined:
        yield f"{counted(joined)} joined"
    if gathering.worsened:
        yield f"{counted(gathering.worsened)} got worse"


def _is_anew(gathering: Gathering, now: datetime) -> bool:
    """Say whether a policy begins from its first step."""
    group = gathering.group
    return group.first_told is None or is_worse(gathering) or _is_repeated(group, now)


def _is_repeated(group: Group, now: datetime) -> bool:
    """Say whether it is told anew: after all steps, also where those take longer."""
    return group.next_step_at is None and group.repeats_at is not None and now >= group.repeats_at


def is_worse(gathering: Gathering) -> bool:
    """Say whether something of a group that nobody has is worse than those who were told know."""
    known, rising = gathering.group.level or gathering.group.worst, gathering.rising
    return known is not None and rising is not None and RANK[rising] > RANK[known]


def routes_of(labels: Mapping[str, str], routes: Sequence[Route]) -> list[Route]:
    """Return the routes that take an alert: the first that covers it, and on where it goes on."""
    taken = []
    for route in routes:
        if route.match.covers(labels):
            taken.append(route)
            if not route.goes_on:
                break
    return taken


def quieted(labels: Mapping[str, str], orders: Sequence[Quiet], now: datetime) -> Quiet | None:
    """Return the order that keeps an alert quiet for longest; both kinds ask this one question."""
    present = [one for one in orders if one.holds(now) and one.match.covers(labels)]
    return max(present, key=lambda one: one.ends, default=None)


def counted(alerts: int) -> str:
    """Return so many alerts in words."""
    return "1 alert" if alerts == 1 else f"{alerts} alerts"


def named(quiet: Quiet) -> str:
    """Return what a silence or a window is called where people read it."""
    comment = f": {quiet.comment}" if quiet.comment else ""
    return f"{quiet.name} ({quiet.match}) until {quiet.ends:%Y-%m-%d %H:%M:%S} UTC{comment}"


def _labels(group: Group) -> str:
    return " ".join(f"{name}={value}" for name, value in group.labels.items()) or "route"


def _span(span: timedelta) -> str:
    return str(timedelta(seconds=int(span.total_seconds())))

"""What the pager remembers from one turn to the next: alerts, groups, and the shift.

All of it is immutable values; a turn makes new ones and leaves the old alone, so what changed is
what is not the same object any more. Each is stored as it is, and nothing of it is only in memory.

One long module, most of it what the fields mean: a turn is made of all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, TypeVar
from uuid import UUID

import msgspec

from paging.matching import Match
from paging.notices import Cause, Notice, State
from paging.schedule import Override
from storage.pages import SEVERITIES, Page, Severity

# What becomes of an alert in the pager: it waits at a stage, is kept quiet for a time, belongs to
# groups, is told nobody, or is over and only remembered.
Phase = Literal["held", "muted", "grouped", "dropped", "over"]
Happening = Literal["firing", "worse", "resolved", "stale", "back", "acknowledged"]
Outcome = Literal["pass", "hold", "mute", "drop", "join", "tell", "quiet", "divert"]

RANK: Final[Mapping[str, int]] = {name: rank for rank, name in enumerate(SEVERITIES)}
NEVER: Final = datetime.max.replace(tzinfo=UTC)


class Track(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the pager knows of an alert beside its page.

    Parameters
    ----------
    alert_id : UUID
    identity : str
        What of the alert stays when it opens again: series, category and kind.
    state : str
        As in the table `alert`.
    arrived, moved : datetime
        When the pager heard of it, and of its last transition.
    let_go : datetime or None
        When the last silence or window over it ended: what falls silent in it waits from then on.
    written : datetime or None
        When it was written down for the pager, which may have been away then.
    ended : datetime or None
        Event time of its resolution.
    openings : tuple of datetime
        When it opened lately, under whatever id, this time last.
    flapping : bool
        It opens too often: it is held open until it has been calm.
    phase : str
    stage, until : str, datetime or None
        Where it is held or muted, and when it is looked at again.
    groups : tuple of str
        Keys.
    untold : tuple of str
        Those of them that have not told of it yet, nor has a summary in their place.
    had : dict of str to str
        Those of them as whose alert somebody has it, and who.
    acknowledged_by : str or None
        Who has it, where somebody has said so of the alert itself.
    peak : str or None
        The worst severity of those whose place it took, where it flaps.
    was : str or None
        How severe it was before it got worse, where it did since it came into its groups.
    takes_over : UUID or None
        The same, opened before and flapping, that stands for it in its groups until it comes there.
    """

    alert_id: UUID
    identity: str
    state: State = "open"
    arrived: datetime
    moved: datetime
    let_go: datetime | None = None
    written: datetime | None = None
    ended: datetime | None = None
    openings: tuple[datetime, ...] = ()
    flapping: bool = False
    phase: Phase = "held"
    stage: str = ""
    until: datetime | None = None
    groups: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    had: dict[str, str] = {}
    acknowledged_by: str | None = None
    peak: Severity | None = None
    was: Severity | None = None
    takes_over: UUID | None = None

    @property
    def free_since(self) -> datetime:
        """Since when nobody's order keeps it quiet."""
        return self.let_go or self.arrived

    def owner(self, group: str) -> str | None:
        """Return who has it as an alert of a group."""
        return self.acknowledged_by or self.had.get(group)


class Group(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Alerts of one cause, and what was told of them.

    Parameters
    ----------
    key : str
    cause, cause_name : str
        As in a notice.
    route, policy : str
    labels : dict of str to str
        What its alerts share.
    opened : datetime
    revision : int
        Notices so far.
    worst : str or None
        The severity last told.
    level : str or None
        The severity that whoever was told knows to be open: it falls with what is over.
    ring : int
        How often it rang anew because it got worse than that.
    waits_until : datetime
        Until when it waits for more before its first word.
    first_told, last_told : datetime or None
        Of its notices.
    steps : int
        Of its policy, those that were taken.
    next_step_at, repeats_at : datetime or None
        When the next one is due, and when it begins anew, as long as nobody has acknowledged.
    told_to : tuple of str
        Targets of deliveries so far.
    dark : int
        Of an area, the most sensors that a notice said were silent.
    acknowledged_at, acknowledged_by : datetime, str or None
        Since when somebody has all that is left of it, and who.
    had_at : datetime or None
        The same, of before something came that nobody has.
    summary : str or None
        Key of the summary that speaks for it, where the budget was spent.
    parted : bool
        Whether another page speaks for some of what was told by it.
    quieted_until : datetime or None
        How long any of it is quieted; somebody may lift that earlier.
    wakes_at : datetime or None
        When it is looked at again, even if nothing happens.
    closed : datetime or None
    """

    key: str
    cause: Cause = "sensors"
    cause_name: str = ""
    route: str
    policy: str
    labels: dict[str, str] = {}
    opened: datetime
    revision: int = 0
    worst: Severity | None = None
    level: Severity | None = None
    ring: int = 0
    waits_until: datetime
    first_told: datetime | None = None
    last_told: datetime | None = None
    steps: int = 0
    next_step_at: datetime | None = None
    repeats_at: datetime | None = None
    told_to: tuple[str, ...] = ()
    dark: int = 0
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    had_at: datetime | None = None
    summary: str | None = None
    parted: bool = False
    quieted_until: datetime | None = None
    wakes_at: datetime | None = None
    closed: datetime | None = None


RememberedT = TypeVar("RememberedT", Track, Group)


class Shift(msgspec.Struct, frozen=True):
    """How many pages this shift was told, and how many summaries it made."""

    began: datetime
    pages: int = 0
    summaries: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """Everything that the pager remembers.

    Parameters
    ----------
    tracks : mapping of UUID to Track
        Alerts that are not over, and those that were not long ago.
    pages : mapping of UUID to Page
        As bad as they are now.
    groups : mapping of str to Group
        That are not closed.
    shift : Shift or None
    """

    tracks: Mapping[UUID, Track] = field(default_factory=dict)
    pages: Mapping[UUID, Page] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    shift: Shift | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """One thing that a worker, or a person, says of an alert.

    Parameters
    ----------
    happening : str
    alert_id : UUID
    at : datetime
        Event time, or when the person said so.
    page : Page or None
        Of a firing, a resolution, and what got worse.
    actor : str
        Who says so.
    written : datetime or None
        When it was written down, by the database's clock.
    """

    happening: Happening
    alert_id: UUID
    at: datetime
    page: Page | None = None
    actor: str = "worker"
    written: datetime | None = None


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A delivery that nobody could be told."""

    group: str
    step: int
    target: str


@dataclass(frozen=True, slots=True)
class Taken:
    """Somebody has a group, whatever has become of its alerts."""

    group: str
    actor: str


@dataclass(frozen=True, slots=True)
class Tested:
    """A page that somebody asks for, to see whether it comes."""

    test_id: UUID
    policy: str
    author: str


Event = Told | GivenUp | Taken | Tested


@dataclass(frozen=True, slots=True)
class Quiet:
    """A silence, or a maintenance window: whose alerts are told nobody in [begins, ends)."""

    name: str
    match: Match
    begins: datetime
    ends: datetime
    comment: str = ""

    def holds(self, now: datetime) -> bool:
        """Say whether it is in force."""
        return self.begins <= now < self.ends


class AreaKey(NamedTuple):
    """A zone, a gateway or a power area."""

    kind: Literal["gateway", "zone", "power-area"]
    name: str

    def __str__(self) -> str:
        """Return it as people say it."""
        return f"{self.kind.replace('-', ' ')} {self.name}"


@dataclass(frozen=True, slots=True)
class Topology:
    """Which sensors depend on what.

    Parameters
    ----------
    areas_of : mapping of str to tuple of AreaKey
        Of each sensor, smallest first.
    sizes : mapping of AreaKey to int
        Sensors of each.
    within : mapping of AreaKey to frozenset of AreaKey
        Areas that lie in a larger one.
    """

    areas_of: Mapping[str, tuple[AreaKey, ...]] = field(default_factory=dict)
    sizes: Mapping[AreaKey, int] = field(default_factory=dict)
    within: Mapping[AreaKey, frozenset[AreaKey]] = field(default_factory=dict)

    def around(self, sensor: str, zone: str) -> tuple[AreaKey, ...]:
        """Return the areas of a sensor, smallest first; of one not known yet, its zone."""
        return self.areas_of.get(sensor) or (AreaKey("zone", zone),)

    def zone_of(self, area: AreaKey) -> str | None:
        """Return the zone that an area lies in, or is; a few of its sensors may stand outside."""
        if area.kind == "zone":
            return area.name
        around = (large for large, inside in self.within.items() if area in inside)
        return next((large.name for large in around if large.kind == "zone"), None)


@dataclass(frozen=True, slots=True)
class Orders:
    """What people have ordered: who is quiet, and who stands in for whom.

    Parameters
    ----------
    silences, windows : sequence of Quiet
    overrides : sequence of Override
    """

    silences: Sequence[Quiet] = ()
    windows: Sequence[Quiet] = ()
    overrides: Sequence[Override] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """What a stage said of an alert or a group, for whoever asks why.

    Parameters
    ----------
    alert_id : UUID or None
    group : str or None
    stage : str
        The last that was asked.
    outcome : str
    reason : str
    until : datetime or None
    trail : tuple of (str, str)
        The stages before it, with their reasons.
    """

    alert_id: UUID | None
    group: str | None
    stage: str
    outcome: Outcome
    reason: str
    until: datetime | None = None
    trail: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Delivery:
    """Whom a notice goes to: a hook, and the person where there is one."""

    step: int
    hook: str
    person: str | None = None

    @property
    def target(self) -> str:
        """The hook, with the person."""
        return self.hook if self.person is None else f"{self.hook}:{self.person}"


@dataclass(frozen=True, slots=True)
class Telling:
    """A notice, and to whom it goes."""

    notice: Notice
    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn decided.

    Parameters
    ----------
    memory : Memory
        As it is afterwards.
    said : sequence of Said
    tellings : sequence of Telling
        In the order in which they were decided.
    joined : sequence of (str, UUID)
        Alerts that came into groups.
    closed : sequence of Group
        That are over, and no longer remembered.
    wake_at : datetime or None
        When there is something to decide even if nothing happens.
    """

    memory: Memory
    said: Sequence[Said]
    tellings: Sequence[Telling]
    joined: Sequence[tuple[str, UUID]]
    closed: Sequence[Group]
    wake_at: datetime | None


def labels_of(page: Page) -> dict[str, str]:
    """Return what a match looks at."""
    return {
        "severity": page.severity,
        "category": page.category,
        "kind": page.kind,
        "zone": page.zone,
        "domain": page.domain,
        "sensor": page.sensor,
        "quantity": page.quantity,
    }


def identity_of(page: Page) -> str:
    """Return what of an alert stays when it opens again."""
    return f"{page.sensor}|{page.quantity}|{page.category}|{page.kind}"


def rebased(memory: Memory, by: timedelta) -> Memory:
    """Return the same memory by a clock that was set: what was to be in an hour still is."""
    return Memory(
        {alert_id: _moved(track, by) for alert_id, track in memory.tracks.items()},
        memory.pages,
        {key: _moved(group, by) for key, group in memory.groups.items()},
        memory.shift,
    )


def _moved(one: RememberedT, by: timedelta) -> RememberedT:
    changes: dict[str, Any] = {}
    for name in one.__struct_fields__:
        value = getattr(one, name)
        if name == "openings":
            changes[name] = tuple(at + by for at in value)
        # Event time is another clock's.
        elif isinstance(value, datetime) and name != "ended":
            changes[name] = value + by
    return msgspec.structs.replace(one, **changes)


def is_over(track: Track, now: datetime, calm: timedelta) -> bool:
    """Say whether an alert is over for its group; one that flaps must have been calm so long."""
    return track.state == "resolved" and (not track.flapping or now >= track.moved + calm)

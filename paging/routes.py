"""Whom an alert reaches: the routes file, read into one frozen structure.

Reading collects every fault instead of stopping at the first; `paging/checking.py` looks for what
is well-formed and still wrong. One long module, because it is the file's whole grammar.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from paging.durations import span_of
from paging.hooks import ALL_EVENTS, HookKind, HookTerms
from paging.matching import Label, Match, read_match
from paging.schedule import Rotation, Shifts

MAX_BYTES: Final = 1 << 20
# In keys of deliveries and of groups, so nothing that would have to be quoted there.
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$"
# The policy of a route that is there to say that nobody is told.
NOBODY: Final = "nobody"

_WORKING_DAY_S: Final = 28_800.0
_SHIFTS: Final = Shifts((time(6), time(14), time(22)), "UTC")

_TARGET: Final = re.compile(
    r"hook:(?P<alone>[^:/]+)|(?P<kind>person|oncall):(?P<name>[^:/]+)(/(?P<hook>[^:/]+))?"
)

TargetKind = Literal["hook", "person", "oncall"]
Name = Annotated[str, msgspec.Meta(pattern=_NAME)]
Span = Annotated[str, msgspec.Meta(pattern=r"^\d{1,9}(\.\d{1,3})?[smhd]$")]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Few = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Clock = Annotated[str, msgspec.Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
ReadT = TypeVar("ReadT")


class RoutesError(ValueError):
    """A routes file that cannot be used; the message lists every fault, a line each."""


@dataclass(frozen=True, slots=True)
class Route:
    """Which alerts go to which policy, and how they are put together.

    Parameters
    ----------
    name : str
    match : Match
    policy : str
    group_by : tuple of str
        Labels that alerts of one group share.
    group_wait, group_interval, repeat_interval : timedelta
        From the first alert to the first notice; between a notice and an update; until an open
        group that nobody has acknowledged is told again.
    goes_on : bool
        Whether later routes are asked as well.
    """

    name: str
    match: Match
    policy: str
    group_by: tuple[str, ...] = ("zone", "kind")
    group_wait: timedelta = timedelta(seconds=1)
    group_interval: timedelta = timedelta(minutes=1)
    repeat_interval: timedelta = timedelta(hours=4)
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a step tells: a hook, or a person (one by name, or who is on call) by their hooks.

    Its text is `hook:NAME`, `person:NAME` or `oncall:ROTATION`, the latter two with `/HOOK` where
    only one of their hooks is meant.
    """

    kind: TargetKind
    name: str
    hook: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Whom a policy tells, and how long after its beginning, as long as nobody has acknowledged."""

    after: timedelta
    to: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook: what all hooks have, its events among it, and what only its kind knows."""

    terms: HookTerms
    options: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Area:
    """Sensors that depend on one thing, which may go dark as a whole.

    Parameters
    ----------
    kind : {'gateway', 'power-area'}
    name : str
    sensors : tuple of str
        Globs.
    """

    kind: Literal["gateway", "power-area"]
    name: str
    sensors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Darkness:
    """When silent sensors are taken for one thing that went dark.

    Parameters
    ----------
    wait : timedelta
        How long a sensor that fell silent waits for others.
    parent_wait : timedelta
        How long an area that went dark waits for a larger one.
    within : timedelta
        Sensors that fell silent longer ago do not count as going dark now.
    share : float
        Of the sensors of an area that were not silent before.
    parents : float
        Of the areas in a larger one: a zone is dark when so many of its gateways are.
    least : int
        Sensors.
    """

    wait: timedelta = timedelta(seconds=10)
    parent_wait: timedelta = timedelta(seconds=4)
    within: timedelta = timedelta(minutes=2)
    share: float = 0.25
    parents: float = 0.75
    least: int = 3


@dataclass(frozen=True, slots=True)
class Inhibition:
    """An open alert that explains others: those wait for it, and are not told while it is open.

    Parameters
    ----------
    source, target : Match
    equal : tuple of str
        Labels in which both must agree.
    wait : timedelta
        For the source to open, and after it was over, for the target to be over as well.
    """

    source: Match
    target: Match
    equal: tuple[str, ...]
    wait: timedelta


@dataclass(frozen=True, slots=True)
class Corroboration:
    """Alerts that are told only when neighbours say the same.

    Parameters
    ----------
    match : Match
    sensors : int
        Other sensors of the zone with an open alert of the kind.
    within : timedelta
        How long an alert waits for them, and how old theirs may be.
    otherwise : {'tell', 'drop'}
        What becomes of it when they do not come.
    """

    match: Match
    sensors: int
    within: timedelta
    otherwise: Literal["tell", "drop"]


@dataclass(frozen=True, slots=True)
class Flapping:
    """An alert that opens more than `times` within `within` is held open until it is calm."""

    times: int = 4
    within: timedelta = timedelta(minutes=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Everything that the routes file says."""

    routes: tuple[Route, ...]
    policies: Mapping[str, tuple[Step, ...]]
    hooks: Mapping[str, Hook]
    people: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict, repr=False)
    rotations: Mapping[str, Rotation] = field(default_factory=dict)
    shifts: Shifts = _SHIFTS
    budget: int | None = None
    summary_wait: timedelta = timedelta(minutes=10)
    flapping: Flapping = Flapping()
    darkness: Darkness = Darkness()
    areas: tuple[Area, ...] = ()
    inhibitions: tuple[Inhibition, ...] = ()
    corroborations: tuple[Corroboration, ...] = ()
    shadows: tuple[Match, ...] = ()
    stale_after: timedelta = timedelta(days=1)
    late_wait: timedelta = timedelta(minutes=30)
    link: str | None = None

    def hooks_of(self, person: str, target: Target) -> list[str]:
        """Return by which hooks a target tells somebody.

        Whoever stands in without the hook that is asked for is told by those there are.
        """
        hooks = list(self.people.get(person, {}))
        return [hook for hook in hooks if hook == target.hook] or hooks


def webhook_routes(url: str, *, timeout_s: float) -> Routes:
    """Return the routes of a pager that has no routes file: everything goes to one webhook.

    It may be away for a working day; there is nobody else to go to.
    """
    terms = HookTerms(
        type="webhook", events=ALL_EVENTS, timeout_s=timeout_s, give_up_after_s=_WORKING_DAY_S
    )
    step = Step(timedelta(), (Target("hook", "webhook"),))
    route = Route("all", Match(), "webhook", group_interval=timedelta(seconds=10))
    return Routes(
        routes=(route,),
        policies={"webhook": (step,)},
        hooks={"webhook": Hook(terms, {"url": url})},
    )


class _RouteTable(msgspec.Struct, forbid_unknown_fields=True, rename={"goes_on": "continue"}):
    name: Name
    policy: Name
    match: dict[str, Any] = {}
    group_by: tuple[Label, ...] = ("zone", "kind")
    group_wait: Span = "1s"
    group_interval: Span = "1m"
    repeat_interval: Span = "4h"
    goes_on: bool = False


class _StepTable(msgspec.Struct, forbid_unknown_fields=True):
    to: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    after: Span = "0s"


class _PolicyTable(msgspec.Struct, forbid_unknown_fields=True):
    steps: Annotated[tuple[_StepTable, ...], msgspec.Meta(min_length=1)]


class _RotationTable(msgspec.Struct, forbid_unknown_fields=True):
    people: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    first_day: date
    hands_over: Clock = "08:00"
    days: Annotated[int, msgspec.Meta(ge=1, le=366)] = 7
    time_zone: str = "UTC"


class _ShiftTable(msgspec.Struct, forbid_unknown_fields=True):
    starts: Annotated[tuple[Clock, ...], msgspec.Meta(min_length=1)] = ("06:00", "14:00", "22:00")
    time_zone: str = "UTC"
    budget: Few | None = None
    summary_wait: Span = "10m"


class _AreaTable(msgspec.Struct, forbid_unknown_fields=True):
    sensors: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class _DarknessTable(msgspec.Struct, forbid_unknown_fields=True):
    wait: Span = "10s"
    parent_wait: Span = "4s"
    within: Span = "2m"
    share: Share = 0.25
    parents: Share = 0.75
    least: Annotated[int, msgspec.Meta(ge=2)] = 3


class _InhibitTable(msgspec.Struct, forbid_unknown_fields=True):
    source: dict[str, Any]
    target: dict[str, Any]
    equal: tuple[Label, ...] = ("zone",)
    wait: Span = "5s"


class _CorroborateTable(msgspec.Struct, forbid_unknown_fields=True):
    match: dict[str, Any]
    sensors: Few = 1
    within: Span = "5m"
    otherwise: Literal["tell", "drop"] = "tell"


class _ShadowTable(msgspec.Struct, forbid_unknown_fields=True):
    match: dict[str, Any]


class _FlappingTable(msgspec.Struct, forbid_unknown_fields=True):
    times: Few = 4
    within: Span = "30m"


class _PagerTable(msgspec.Struct, forbid_unknown_fields=True):
    link: Annotated[str, msgspec.Meta(pattern=r"^https?://\S+$")] | None = None
    stale_after: Span = "1d"
    late_wait: Span = "30m"


_LISTS: Final = ("route", "inhibit", "corroborate", "shadow")
_TABLES: Final = ("policy", "hook", "person", "rotation", "gateway", "power-area")
_SINGLE: Final = ("shift", "darkness", "flapping", "pager")


def read_routes(text: str, kinds: Mapping[str, HookKind[Any]]) -> Routes:
    """Read the routes file.

    Parameters
    ----------
    text : str
        TOML.
    kinds : mapping
        Every kind of hook there is.

    Raises
    ------
    RoutesError
        If it is not well-formed; all faults are listed.
    """
    if len(text) > MAX_BYTES:
        raise RoutesError(f"larger than {MAX_BYTES} characters")
    try:
        values = tomllib.loads(text)
    # ValueError: also of a number with more digits than Python reads.
    except (ValueError, RecursionError) as error:
        raise RoutesError(str(error)) from error
    reader = _Reader(values, kinds)
    routes = reader.routes()
    if reader.faults:
        raise RoutesError("\n".join(reader.faults))
    return routes


class _Reader:
    """Takes the file apart, and notes what is wrong with each part."""

    def __init__(self, values: dict[str, Any], kinds: Mapping[str, HookKind[Any]]) -> None:
        self.faults: list[str] = []
        self._kinds = kinds
        self._values = values
        for name in values:
            if name not in (*_LISTS, *_TABLES, *_SINGLE):
                self.faults.append(f"{name}: no such section")

    def routes(self) -> Routes:
        pager = self._single("pager", _PagerTable)
        shift = self._single("shift", _ShiftTable)
        flapping = self._single("flapping", _FlappingTable)
        dark = self._single("darkness", _DarknessTable)
        return Routes(
            routes=tuple(
                Route(
                    one.name,
                    self._match(one.match, f"{where}.match"),
                    one.policy,
                    one.group_by,
                    self._span(one.group_wait, f"{where}.group_wait"),
                    self._span(one.group_interval, f"{where}.group_interval"),
                    self._span(one.repeat_interval, f"{where}.repeat_interval"),
                    one.goes_on,
                )
                for where, one in self._listed("route", _RouteTable)
            ),
            policies={
                name: tuple(self._step(step, f"policy.{name}") for step in one.steps)
                for name, one in self._named("policy", _PolicyTable)
            },
            hooks=dict(self._hooks()),
            people=dict(self._people()),
            rotations={
                name: Rotation(
                    name,
                    one.people,
                    one.first_day,
                    time.fromisoformat(one.hands_over),
                    one.days,
                    self._zone(one.time_zone, f"rotation.{name}"),
                )
                for name, one in self._named("rotation", _RotationTable)
            },
            shifts=Shifts(
                tuple(sorted(map(time.fromisoformat, shift.starts))),
                self._zone(shift.time_zone, "shift"),
            ),
            budget=shift.budget,
            summary_wait=self._span(shift.summary_wait, "shift.summary_wait"),
            flapping=Flapping(flapping.times, self._span(flapping.within, "flapping.within")),
            darkness=Darkness(
                self._span(dark.wait, "darkness.wait"),
                self._span(dark.parent_wait, "darkness.parent_wait"),
                self._span(dark.within, "darkness.within"),
                dark.share,
                dark.parents,
                dark.least,
            ),
            areas=tuple(
                Area(kind, name, one.sensors)
                for kind in ("gateway", "power-area")
                for name, one in self._named(kind, _AreaTable)
            ),
            inhibitions=tuple(
                Inhibition(
                    self._match(one.source, f"{where}.source"),
                    self._match(one.target, f"{where}.target"),
                    one.equal,
                    self._span(one.wait, f"{where}.wait"),
                )
                for where, one in self._listed("inhibit", _InhibitTable)
            ),
            corroborations=tuple(
                Corroboration(
                    self._match(one.match, f"{where}.match"),
                    one.sensors,
                    self._span(one.within, f"{where}.within"),
                    one.otherwise,
                )
                for where, one in self._listed("corroborate", _CorroborateTable)
            ),
            shadows=tuple(
                self._match(one.match, f"{where}.match")
                for where, one in self._listed("shadow", _ShadowTable)
            ),
            stale_after=self._span(pager.stale_after, "pager.stale_after"),
            late_wait=self._span(pager.late_wait, "pager.late_wait"),
            link=pager.link,
        )

    def _hooks(self) -> Iterator[tuple[str, Hook]]:
        terms_of = set(HookTerms.__struct_fields__)
        for name, given in self._tables("hook"):
            where = f"hook.{name}"
            terms = self._read(
                {key: value for key, value in given.items() if key in terms_of}, HookTerms, where
            )
            options = {key: value for key, value in given.items() if key not in terms_of}
            if terms is None:
                continue
            kind = self._kinds.get(terms.type)
            if kind is None:
                known = ", ".join(sorted(self._kinds))
                self.faults.append(f"{where}.type: no such kind of hook; there are {known}")
                continue
            self._guarded(partial(kind.read, options), where)
            events = terms.events or kind.events
            rate = terms.per_minute if "per_minute" in given else kind.per_minute
            own = msgspec.structs.replace(terms, events=events, per_minute=rate)
            yield name, Hook(own, options)

    def _people(self) -> Iterator[tuple[str, dict[str, str | None]]]:
        for name, given in self._tables("person"):
            reached: dict[str, str | None] = {}
            for hook, address in given.items():
                if isinstance(address, str):
                    reached[hook] = address
                elif address is True:
                    reached[hook] = None
                else:
                    self.faults.append(
                        f"person.{name}.{hook}: an address, or true where the hook knows, is"
                        " expected"
                    )
            yield name, reached

    def _step(self, table: _StepTable, where: str) -> Step:
        targets = []
        for text in table.to:
            found = _TARGET.fullmatch(text)
            if found is None:
                self.faults.append(
                    f"{where}: {text!r} is none of hook:NAME, person:NAME[/HOOK] and"
                    " oncall:ROTATION[/HOOK]"
                )
            else:
                kind = msgspec.convert(found["kind"] or "hook", TargetKind)
                targets.append(Target(kind, found["name"] or found["alone"], found["hook"]))
        return Step(self._span(table.after, f"{where}.after"), tuple(targets))

    def _match(self, values: Any, where: str) -> Match:
        return read_match(values, where, self.faults)

    def _span(self, text: str, where: str) -> timedelta:
        try:
            return span_of(text)
        except ValueError as error:
            self.faults.append(f"{where}: {error}")
            return timedelta()

    def _zone(self, name: str, where: str) -> str:
        try:
            return ZoneInfo(name).key
        # OSError: the name of a folder, ValueError: no name at all.
        except (KeyError, OSError, ValueError):
            self.faults.append(f"{where}.time_zone: a time zone that this host knows is expected")
            return "UTC"

    def _single(self, section: str, table: type[ReadT]) -> ReadT:
        return self._read(self._values.get(section, {}), table, section) or table()

    def _listed(self, section: str, table: type[ReadT]) -> Iterator[tuple[str, ReadT]]:
        given = self._values.get(section, [])
        if not isinstance(given, list):
            self.faults.append(f"{section}: tables in a list, [[{section}]], are expected")
            return
        for number, one in enumerate(given, 1):
            name = one.get("name") if isinstance(one, dict) else None
            where = f"{section} {name or number}"
            found = self._read(one, table, where)
            if found is not None:
                yield where, found

    def _named(self, section: str, table: type[ReadT]) -> Iterator[tuple[str, ReadT]]:
        for name, given in self._tables(section):
            found = self._read(given, table, f"{section}.{name}")
            if found is not None:
                yield name, found

    def _tables(self, section: str) -> Iterator[tuple[str, dict[str, Any]]]:
        given = self._values.get(section, {})
        if not isinstance(given, dict):
            self.faults.append(f"{section}: tables with names, [{section}.NAME], are expected")
            return
        for name, one in given.items():
            where = f"{section}.{name}"
            if self._read(name, Name, where) is None:
                continue
            if isinstance(one, dict):
                yield name, one
            else:
                self.faults.append(f"{where}: a table is expected")

    def _read(self, values: Any, table: type[ReadT] | Any, where: str) -> Any:
        return self._guarded(partial(msgspec.convert, values, table), where)

    def _guarded(self, read: Callable[[], ReadT], where: str) -> ReadT | None:
        try:
            return read()
        except msgspec.ValidationError as error:
            self.faults.append(f"{where}: {error}")
            return None

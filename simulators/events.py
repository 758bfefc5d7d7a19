"""Staged events: what happens in the city, or to a sensor, that takes minutes to be judged.

A fault touches one series and is found by its readings; an event touches all that it would touch,
and is found by its minutes. Each kind is a script: which alert it should open and where, how long
the detectors have to have watched before, and within what time, by event time, the alert is open
and closed again. The simulated city does nothing of the kind by itself, so an alert of these kinds
without an event is a false one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from types import MappingProxyType
from typing import Final

import numpy as np

from simulators.city import City, Sensor
from simulators.surroundings import LEAST_NEIGHBOURS, apart_km, cameras, districts, road, squares

S: Final = 1_000_000_000
_MINUTE_S: Final = 60.0
_HOUR_S: Final = 3_600.0
_DAY_S: Final = 86_400.0
# From the end of a minute until what it says is told: it is closed half a minute later, at the
# next check but one of the watermark, which moves with what is reported.
TOLD_S: Final = 120.0
# Minutes of two stations are compared, so each has to report in every one.
MAX_PERIOD_S: Final = 60.0
# A queue grows upstream at this speed (Newell's triangular diagram), whatever the road.
WAVE_KMH: Final = 18.0
# Where stations stand further apart, traffic thins out at the next one long after the queue has
# reached the one before, and no algorithm that compares the two sees one event.
_FARTHEST_KM: Final = 1.2
# Days of work on which an hour must have been seen until a profile knows it.
_DAYS_OF_WORK: Final = 3
# After three the spreads are still taken to be twice as wide: too wide for what ends at 0.
_DAYS_TO_BE_SURE: Final = 6
_THURSDAY: Final = 3
_SATURDAY: Final = 5

CITY: Final = "city"
HEALTH: Final = "sensor-health"


@dataclass(frozen=True, slots=True)
class Event:
    """One staged event.

    Parameters
    ----------
    kind : str
        A name of `SCRIPTS`.
    sensor, quantity : str
        The series at which its alert should open.
    start_ns, end_ns : int
        Event time [start, end) at its first sensor; a queue reaches others later.
    sensors : tuple of str
        All that it touches, `sensor` first.
    amount : float
        How strong it is, as its kind measures it.
    category, alert_kind : str
        The alert that should open.
    opens_within_s, closes_within_s : float
        Event time from the start to the minute that opens the alert, and from the end to the one
        that closes it, at most.
    """

    kind: str
    sensor: str
    quantity: str
    start_ns: int
    end_ns: int
    sensors: tuple[str, ...]
    amount: float
    category: str
    alert_kind: str
    opens_within_s: float
    closes_within_s: float


@dataclass(frozen=True, slots=True)
class Cast:
    """Who plays in an event: the sensors it touches, the one that tells first, and how strong."""

    sensors: tuple[Sensor, ...]
    amount: float


@dataclass(frozen=True, slots=True)
class Script:
    """What a kind of event is, and asks for.

    Parameters
    ----------
    told : str
        What happens, for people.
    quantity, category, alert_kind : str
        Of the alert.
    lead_s : float
        How long the detectors have to have watched before it begins.
    length_s : float
        How long it lasts, where the run is long enough.
    opens_within_s, closes_within_s : float
        As of `Event`.
    cast : callable of (city, taken)
        Yields who may play; sensors in `taken` are in another event.
    hour : float or None
        Hour of the day, UTC, at which it begins.
    days_of_work : int
        Days of work on which that hour must have been seen before; it falls on one, too.
    """

    told: str
    quantity: str
    category: str
    alert_kind: str
    lead_s: float
    length_s: float
    opens_within_s: float
    closes_within_s: float
    cast: Callable[[City, set[str]], Iterator[Cast]]
    hour: float | None = None
    days_of_work: int = 0


def plan_events(
    city: City,
    seed: int,
    kinds: Sequence[str],
    start_ns: int,
    end_ns: int,
    *,
    period_s: float,
) -> list[Event]:
    """Stage events in a run, one of each kind; no sensor plays in two.

    Parameters
    ----------
    city : City
    seed : int
        Decides when they begin, within a minute.
    kinds : sequence of str
        Names of `SCRIPTS`.
    start_ns, end_ns : int
        The run, in event time.
    period_s : float
        Event time between two readings of a sensor.

    Raises
    ------
    ValueError
        If a kind is unknown, the run is too short or too sparse for it, or the city too small.
    """
    if unknown := set(kinds) - SCRIPTS.keys():
        raise ValueError(f"unknown kinds of events: {sorted(unknown)}; {', '.join(SCRIPTS)} are")
    if kinds and period_s > MAX_PERIOD_S:
        raise ValueError(
            f"events are judged by the minute, and sensors report every {period_s:g} s"
        )
    rng = np.random.default_rng([seed, 5])
    events: list[Event] = []
    taken: set[str] = set()
    for kind in dict.fromkeys(kinds):
        script = SCRIPTS[kind]
        begin_ns = earliest_ns(script, start_ns) + int(rng.integers(60)) * S
        least_ns = begin_ns + round((script.opens_within_s + TOLD_S) * S)
        if least_ns > end_ns:
            needed = ceil((least_ns - start_ns) / S)
            raise ValueError(f"the run is too short for {kind}: it must last {needed} s or more")
        cast = next(script.cast(city, taken), None)
        if cast is None:
            raise ValueError(f"the city is too small for {kind}")
        taken |= {one.name for one in cast.sensors}
        events.append(
            Event(
                kind=kind,
                sensor=cast.sensors[0].name,
                quantity=script.quantity or cast.sensors[0].quantities[0],
                start_ns=begin_ns,
                end_ns=min(begin_ns + round(script.length_s * S), end_ns),
                sensors=tuple(one.name for one in cast.sensors),
                amount=cast.amount,
                category=script.category,
                alert_kind=script.alert_kind,
                opens_within_s=script.opens_within_s,
                closes_within_s=script.closes_within_s,
            )
        )
    return sorted(events, key=lambda event: (event.start_ns, event.kind))


def fitting(city: City, kinds: Sequence[str], length_s: float, *, period_s: float) -> list[str]:
    """Return those kinds that can be staged in a run of that length, whenever it begins."""
    found: list[str] = []
    taken: set[str] = set()
    for kind in kinds:
        script = SCRIPTS[kind]
        needed_s = script.lead_s + _MINUTE_S + script.opens_within_s + TOLD_S
        cast = next(script.cast(city, taken), None)
        if script.hour is None and needed_s <= length_s and period_s <= MAX_PERIOD_S and cast:
            taken |= {one.name for one in cast.sensors}
            found.append(kind)
    return found


def earliest_ns(script: Script, start_ns: int) -> int:
    """Return when an event may begin in a run."""
    ready_ns = start_ns + round(script.lead_s * S)
    if script.hour is None:
        return ready_ns
    hour_ns = round(script.hour * _HOUR_S * S)
    day_ns = round(_DAY_S) * S
    # The first of that hour in the run: on it nothing has been seen of it yet.
    day = -((hour_ns - start_ns) // day_ns)
    seen = 0
    while seen < script.days_of_work or not _suits(script, day, hour_ns, ready_ns):
        seen += _is_of_work(day)
        day += 1
    return day * day_ns + hour_ns


def _suits(script: Script, day: int, hour_ns: int, ready_ns: int) -> bool:
    is_ready = day * round(_DAY_S) * S + hour_ns >= ready_ns
    return is_ready and (not script.days_of_work or _is_of_work(day))


def _is_of_work(day: int) -> bool:
    # 1970-01-01 was a Thursday.
    return (day + _THURSDAY) % 7 < _SATURDAY


def _blocked(city: City, taken: set[str]) -> Iterator[Cast]:
    stations = road(city)
    free = not taken.intersection(one.name for one in stations)
    if len(stations) > 1 and free and apart_km(*stations[-2:]) <= _FARTHEST_KM:
        *before, here, ahead = stations
        yield Cast((here, ahead, *reversed(before)), 0.4)


def _crowded(city: City, taken: set[str]) -> Iterator[Cast]:
    for camera, area_m2 in squares(city).values():
        if camera.name not in taken:
            yield Cast((camera,), floor(5.0 * area_m2))


def _blinded(city: City, taken: set[str]) -> Iterator[Cast]:
    counted = {camera.name for camera, _ in squares(city).values()}
    for camera, _ in sorted(cameras(city), key=lambda pair: (-pair[1], pair[0].name)):
        if camera.name not in taken | counted:
            yield Cast((camera,), 1.5)


def _polluted(city: City, taken: set[str]) -> Iterator[Cast]:
    for stations in districts(city)[1:]:
        if not taken.intersection(one.name for one in stations):
            yield Cast(stations, 280.0)


def _drifting(city: City, taken: set[str]) -> Iterator[Cast]:
    most = districts(city)[0]
    if len(most) >= LEAST_NEIGHBOURS and most[0].name not in taken:
        yield Cast(most[:1], 4.0)


def _any(quantity: str, amount: float) -> Callable[[City, set[str]], Iterator[Cast]]:
    """Return who may play where one sensor that measures something plays alone."""

    def cast(city: City, taken: set[str]) -> Iterator[Cast]:
        told = {one.name for one in road(city)} | {one.name for one in districts(city)[0]}
        for sensor in city.sensors:
            if quantity in sensor.quantities and sensor.name not in taken | told:
                yield Cast((sensor,), amount)

    return cast


def _closed(city: City, taken: set[str]) -> Iterator[Cast]:
    """Yield the busiest roads: of a few vehicles it is no news that they do not come."""
    told = {one.name for one in road(city)}
    who = np.array([n for n, one in enumerate(city.sensors) if "intensity" in one.quantities])
    noon = np.full(len(who), round(_DAY_S / 2) * S)
    for place in np.argsort(-city.level(who, noon)[:, 0], kind="stable").tolist():
        sensor = city.sensors[int(who[place])]
        if sensor.name not in taken | told:
            yield Cast((sensor,), 0.04)


SCRIPTS: Final[Mapping[str, Script]] = MappingProxyType(
    {
        "blocked-lane": Script(
            "An obstacle on the ring road: a queue grows upstream, and behind it the road is empty",
            "occupancy", CITY, "incident", 180.0, 1_200.0, 240.0, 420.0, _blocked,
        ),
        "crowd": Script(
            "A square fills until people touch each other, and empties again",
            "peopleCount", CITY, "crowd", 120.0, 1_200.0, 300.0, 900.0, _crowded,
        ),
        "pollution": Script(
            "Nitrogen dioxide gathers over a district, beyond the hourly limit of law",
            "no2", CITY, "exceedance", 1.25 * _HOUR_S, 3 * _HOUR_S, 80 * _MINUTE_S, 1.5 * _HOUR_S,
            _polluted,
        ),
        "night-noise": Script(
            "A party far above the limit of the night",
            "LAeq", CITY, "noise", _HOUR_S, 3 * _HOUR_S, 80 * _MINUTE_S, 7 * _HOUR_S,
            _any("LAeq", 80.0), hour=23.25,
        ),
        "closed-street": Script(
            "A busy street is closed for a morning, and hardly anybody passes",
            "intensity", CITY, "season", 7 * _DAY_S, 3 * _HOUR_S, 30 * _MINUTE_S, 40 * _MINUTE_S,
            _closed, hour=10.0, days_of_work=_DAYS_TO_BE_SURE,
        ),
        "blinded-camera": Script(
            "Something hangs before a camera: amid people it counts what flickers on its lens",
            "peopleCount", HEALTH, "tampering", 3 * _DAY_S, 3 * _HOUR_S, 20 * _MINUTE_S,
            15 * _MINUTE_S, _blinded, hour=10.0, days_of_work=_DAYS_OF_WORK,
        ),
        "drift": Script(
            "A thermometer walks away from its neighbours, and is mended",
            "temperature", HEALTH, "drift", 15 * _DAY_S, 10 * _DAY_S, 8 * _DAY_S, 7 * _DAY_S,
            _drifting,
        ),
        "clock-drift": Script(
            "A sensor's clock runs slow, and is set right",
            "", HEALTH, "clock-skew", _HOUR_S, 16 * _HOUR_S, 15 * _HOUR_S, 4 * _HOUR_S,
            _any("LAeq", 30.0),
        ),
        "loose-contact": Script(
            "A plug is loose: every eight minutes the value jumps away for one",
            "o3", HEALTH, "spike", 45 * _MINUTE_S, 60 * _MINUTE_S, 30 * _MINUTE_S, 75 * _MINUTE_S,
            _any("o3", 160.0),
        ),
        "unsteady": Script(
            "A microphone begins to jitter from minute to minute",
            "LAeq", HEALTH, "noise-change", 7 * _HOUR_S, 70 * _MINUTE_S, 55 * _MINUTE_S,
            2 * _HOUR_S, _any("LAeq", 8.0),
        ),
    }
)  # fmt: skip

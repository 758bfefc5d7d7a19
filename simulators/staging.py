"""Staged events in readings as they pass: what each does to the sensors that it touches."""

from collections.abc import Callable, Mapping, Sequence
from math import log10
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulators.city import City, Floats, Indices
from simulators.events import WAVE_KMH, Event, S
from simulators.surroundings import apart_km

# Vehicles a kilometre and lane that stand, at 6.5 m of road each with the gap before them.
_STANDING_PER_KM: Final = 150.0
# As in the city's traffic: effective length of a vehicle over a loop.
_VEHICLE_KM: Final = 0.0065
# How far beyond the last station before it the obstacle lies, at most.
_BEYOND_KM: Final = 0.15
_FREE_KMH: Final = 80.0
# A queue passes over a station within this time.
_FRONT_S: Final = 30.0
# A square fills and empties.
_FILLS_S: Final = 180.0
_SHUFFLE_KMH: Final = 0.7
_GATHERS_S: Final = 900.0
_CONTACT_S: Final = 480
_MINUTE_S: Final = 60


class Staging:
    """Puts events into readings as they pass, in the order of publishing.

    Parameters
    ----------
    city : City
        Whose sensors the events name.
    events : sequence of Event
        As planned: no sensor is in two.
    """

    def __init__(self, city: City, events: Sequence[Event]) -> None:
        self._city = city
        index = {sensor.name: number for number, sensor in enumerate(city.sensors)}
        self._plays: dict[int, _Part] = {}
        for event in events:
            for place, name in enumerate(event.sensors):
                delay_ns = _delay_ns(city, event, index[name], place)
                self._plays[index[name]] = _Part(city, event, index[name], place, delay_ns)
        self._touched = np.zeros(len(city), dtype=bool)
        self._touched[list(self._plays)] = True

    def apply(
        self, who: Indices, time_ns: NDArray[np.int64], values: Floats
    ) -> tuple[NDArray[np.int64], Floats]:
        """Return times and readings with the events due; what is given is left as it is.

        Parameters
        ----------
        who : (m,) intp
        time_ns : (m,) int64
        values : (m, WIDTH) float64

        Returns
        -------
        time_ns : (m,) int64
            As the sensors' own clocks say.
        values : (m, WIDTH) float64
        """
        rows = np.flatnonzero(self._touched[who])
        if not len(rows):
            return time_ns, values
        time_ns, values = time_ns.copy(), values.copy()
        for row in rows.tolist():
            part = self._plays[int(who[row])]
            at_ns = int(time_ns[row])
            if part.is_on(at_ns):
                time_ns[row] -= part.behind_ns(at_ns)
                values[row] = part.play(at_ns, values[row])
        return time_ns, values


class _Part:
    """What one sensor plays in an event."""

    def __init__(self, city: City, event: Event, sensor: int, place: int, delay_ns: int) -> None:
        self.event = event
        self.place = place
        self.column = city.sensors[sensor].quantities.index(event.quantity)
        self.rng = np.random.default_rng([city.seed, 6, sensor])
        self._city = city
        self._who = np.array([sensor])
        self._delay_ns = delay_ns
        self._play = _PLAYS[event.kind]

    def is_on(self, at_ns: int) -> bool:
        event = self.event
        return event.start_ns + self._delay_ns <= at_ns < event.end_ns + self._delay_ns

    def behind_ns(self, at_ns: int) -> int:
        """Return how far the sensor's clock is behind."""
        if self.event.kind != "clock-drift":
            return 0
        return round(self.event.amount * self.share(at_ns) * S)

    def share(self, at_ns: int) -> float:
        """Return how much of the event is over, from 0 to 1."""
        begin_ns = self.event.start_ns
        return (at_ns - begin_ns) / (self.event.end_ns - begin_ns)

    def since_s(self, at_ns: int) -> float:
        """Return for how long it has been here."""
        return (at_ns - self.event.start_ns - self._delay_ns) / S

    def left_s(self, at_ns: int) -> float:
        return (self.event.end_ns + self._delay_ns - at_ns) / S

    def play(self, at_ns: int, row: Floats) -> Floats:
        """Return the readings of the sensor, as its instrument prints them."""
        there = ~np.isnan(row)
        played = self._play(self, at_ns, row.copy())
        printed: Floats = self._city.printed(self._who, played[np.newaxis])[0]
        if self.event.kind in ("crowd", "blinded-camera"):
            # Each person seen walks one way or the other, after rounding too.
            printed[2] = printed[0] - printed[1]
        return np.where(there, printed, np.nan)


def _delay_ns(city: City, event: Event, sensor: int, place: int) -> int:
    """Return how much later an event reaches a sensor."""
    if event.kind != "blocked-lane":
        return 0
    by_name = {one.name: one for one in city.sensors}
    here, ahead = (by_name[name] for name in event.sensors[:2])
    gap = apart_km(here, ahead)
    beyond = min(_BEYOND_KM, gap / 4)
    if place == 1:
        return round((gap - beyond) / _FREE_KMH * 3_600 * S)
    return round((beyond + apart_km(city.sensors[sensor], here)) / WAVE_KMH * 3_600 * S)


def _block(part: _Part, at_ns: int, row: Floats) -> Floats:
    """Let a queue stand over a station, or the road behind the obstacle be empty.

    Flow and density before the obstacle lie on the congested side of the triangular diagram
    (Newell 1993): what passes decides how dense the queue is.
    """
    flow, occupancy, speed, headway = row[:4]
    let_through = part.event.amount
    if part.place == 1:
        row[:4] = flow * let_through, occupancy * let_through, speed, headway / let_through
        return row
    front = min(part.since_s(at_ns) / _FRONT_S, 1.0)
    let_through = 1.0 - front * (1.0 - let_through)
    per_lane_hour = occupancy * speed / _VEHICLE_KM * part.event.amount
    density = _STANDING_PER_KM - per_lane_hour / WAVE_KMH
    noise = part.rng.standard_normal(2)
    queued = per_lane_hour / density * (1.0 + 0.04 * noise[0]) + 0.1 * abs(noise[1])
    dense = density * _VEHICLE_KM * (1.0 + 0.02 * noise[1])
    row[:4] = (
        flow * let_through,
        occupancy + front * (dense - occupancy),
        speed + front * (queued - speed),
        headway / let_through,
    )
    return row


def _crowd(part: _Part, at_ns: int, row: Floats) -> Floats:
    since_s = part.since_s(at_ns)
    filled = max(min(since_s / _FILLS_S, part.left_s(at_ns) / _FILLS_S, 1.0), 0.0)
    people, towards, _, speed = row[:4]
    comes = 0.8 if since_s < _FILLS_S else 0.5
    peak = part.event.amount * (1.0 + 0.01 * part.rng.standard_normal())
    row[0] = people + filled * (peak - people)
    row[1] = towards + filled * (comes * row[0] - towards)
    row[3] = speed + filled * (_SHUFFLE_KMH * (1.0 + 0.1 * part.rng.standard_normal()) - speed)
    return row


def _blind(part: _Part, at_ns: int, row: Floats) -> Floats:
    """Let a camera count what flickers on its lens; it walks as it likes."""
    del at_ns
    row[0] = part.rng.poisson(part.event.amount)
    row[1] = part.rng.binomial(int(row[0]), 0.5)
    row[3] = abs(part.rng.normal(4.0, 1.5))
    return row


def _pollute(part: _Part, at_ns: int, row: Floats) -> Floats:
    gathered = max(min(part.since_s(at_ns), part.left_s(at_ns)) / _GATHERS_S, 0.0)
    gathered = min(gathered, 1.0)
    pm25, pm10, no2, ozone = row[:4]
    row[:3] = pm25 * (1.0 + 0.5 * gathered), pm10 * (1.0 + 0.5 * gathered), no2
    row[2] += gathered * part.event.amount * (1.0 + 0.03 * part.rng.standard_normal())
    # Fresh exhaust eats it.
    row[3] = ozone * (1.0 - 0.7 * gathered)
    return row


def _party(part: _Part, at_ns: int, row: Floats) -> Floats:
    del at_ns
    loud_db = part.event.amount + part.rng.standard_normal()
    row[part.column] = 10.0 * log10(10.0 ** (row[part.column] / 10.0) + 10.0 ** (loud_db / 10.0))
    return row


def _close(part: _Part, at_ns: int, row: Floats) -> Floats:
    """Let a few vehicles through, which drive as they like."""
    del at_ns
    flow, occupancy, speed, headway = row[:4]
    left = part.event.amount
    row[:4] = flow * left, occupancy * left, speed, headway / left
    return row


def _drift(part: _Part, at_ns: int, row: Floats) -> Floats:
    row[part.column] += part.event.amount * part.share(at_ns)
    return row


def _as_it_is(part: _Part, at_ns: int, row: Floats) -> Floats:
    del part, at_ns
    return row


def _contact(part: _Part, at_ns: int, row: Floats) -> Floats:
    """Let the value jump for a whole minute of the clock, however often the sensor reports."""
    if int(part.since_s(at_ns)) >= 0 and at_ns // S % _CONTACT_S < _MINUTE_S:
        row[part.column] += part.event.amount
    return row


def _jitter(part: _Part, at_ns: int, row: Floats) -> Floats:
    """Add noise that stays for a minute, so that minutes show it however often it reports."""
    minute = at_ns // (_MINUTE_S * S)
    seed = [part.event.start_ns // S, minute]
    row[part.column] += part.event.amount * np.random.default_rng(seed).standard_normal()
    return row


_PLAYS: Final[Mapping[str, Callable[[_Part, int, Floats], Floats]]] = MappingProxyType(
    {
        "blocked-lane": _block,
        "crowd": _crowd,
        "pollution": _pollute,
        "night-noise": _party,
        "closed-street": _close,
        "blinded-camera": _blind,
        "drift": _drift,
        "clock-drift": _as_it_is,
        "loose-contact": _contact,
        "unsteady": _jitter,
    }
)

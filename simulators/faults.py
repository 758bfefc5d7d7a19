"""Labelled faults: what goes wrong in the city, where, when, and which alert it should raise.

A fault touches one series (one quantity of one sensor) and nothing else, so an alert on any other
series is a false one. All but `stuck` add to the reading:

- `stuck`: the value of the first reading inside the fault is repeated.
- `out-of-range`: a constant puts every reading outside the physical range.
- `jitter`: a constant is added and subtracted in turn, inside the range, faster than the
  quantity can change.
- `level-shift`: an event in the city moves the level by 12 to 16 standard deviations of the
  series' own noise, inside the range.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.quantities import QUANTITIES
from simulators.city import City, Floats, Indices
from simulators.events import Event

# Detectors need 20 to 30 readings before they judge a series.
WARM_UP_READINGS: Final = 30
# They need about 15 equal readings to call a sensor stuck; 5 more for the alert's own delay.
MIN_READINGS: Final = 20
# Faults that end within the run last this long at most, so that the recovery can be seen too.
_MAX_READINGS: Final = 60
_RECOVERY_READINGS: Final = 15
_SHIFT_SIGMAS: Final = (12.0, 16.0)
# A shifted or jittering series keeps this many standard deviations away from its range's ends.
_ROOM_SIGMAS: Final = 5.0
# Jitter must be implausible even against the level of this many readings ago: a rate detector
# may compare with the last believable reading, and what passed two readings later is no jitter.
_RATE_READINGS: Final = 3.0

# Only quantities without a fastest believable change: there, a jump is an event.
_SHIFTS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "averageVehicleSpeed": -1.0,
        "occupancy": 1.0,
        "LAeq": 1.0,
        "pm25": 1.0,
        "no2": 1.0,
        "peopleCount": 1.0,
        "averageCrowdSpeed": -1.0,
    }
)
# Added to a normal reading these leave the range at any hour: broken zero points and gains.
_OFFSETS: Final[Mapping[str, float]] = MappingProxyType(
    {"relativeHumidity": 1.0, "occupancy": 3.0, "LAeq": 100.0, "pm25": -100.0, "pm10": -150.0}
)
_JITTERS: Final[Mapping[str, float]] = MappingProxyType(
    {"temperature": 15.0, "relativeHumidity": 0.15}
)
_STUCK: Final = tuple(name for name in QUANTITIES if name not in ("so2", "co", "averageTravelTime"))
EXPECTED: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "stuck": ("sensor-health", "flatline"),
        "out-of-range": ("sensor-health", "range"),
        "jitter": ("sensor-health", "rate"),
        "level-shift": ("city", "level"),
    }
)
KINDS: Final = tuple(EXPECTED)
_MAX_LABELS_BYTES: Final = 16 << 20


class LabelsError(ValueError):
    """A file that does not hold labels."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One labelled fault of one series.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    sensor, quantity : str
        The series it touches.
    start_ns, end_ns : int
        Readings with event time in [start, end) are faulty.
    amount : float
        What is added to readings, in the quantity's unit; 0 for `stuck`.
    category, alert_kind : str
        The alert that a detector should open.
    """

    kind: str
    sensor: str
    quantity: str
    start_ns: int
    end_ns: int
    amount: float
    category: str
    alert_kind: str


@dataclass(frozen=True, slots=True)
class Labels:
    """What a run contains, as written beside it.

    Parameters
    ----------
    namespace : str
        Where the run was published.
    sensors, seed : int
        The city.
    period_s : float
        Time between two readings of a sensor.
    start_ns : int
        When the run began.
    end_ns : int or None
        When it was planned to end; None for an endless run.
    faults : tuple of Fault
        In order of their beginning.
    events : tuple of Event
        Staged, in order of their beginning.
    """

    namespace: str
    sensors: int
    seed: int
    period_s: float
    start_ns: int
    end_ns: int | None
    faults: tuple[Fault, ...]
    events: tuple[Event, ...] = ()


def shortest_run_s(period_s: float) -> float:
    """Return how long a run must last to show faults, given seconds between a sensor's readings."""
    return (WARM_UP_READINGS + MIN_READINGS + 2) * period_s


def plan_faults(
    city: City,
    seed: int,
    count: int,
    start_ns: int,
    end_ns: int,
    *,
    period_s: float,
    kinds: Sequence[str] = KINDS,
    spared: Collection[str] = (),
) -> list[Fault]:
    """Spread faults over a run; each kind in turn, each sensor at most once, none that is `spared`.

    A run of D seconds whose sensors report every `period_s` has its faults begin after
    `WARM_UP_READINGS` readings and last at least `MIN_READINGS`, so D must exceed 51 periods.
    Where there is time, every other fault ends within the run with readings left to recover; the
    rest last to its end. `jitter` is left out where the period is so long that
    a swing within the range is no implausible rate any more (above 2.5 s for temperature).

    Raises
    ------
    ValueError
        If the run is too short, a kind is unknown or cannot be shown at this period, or the city
        has too few sensors.
    """
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"unknown kinds of faults: {sorted(unknown)}")
    period_ns = round(period_s * 1e9)
    # One period more: windows do not begin on a reading.
    first = start_ns + (WARM_UP_READINGS + 1) * period_ns
    last = end_ns - (MIN_READINGS + 1) * period_ns
    if count == 0:
        return []
    if last < first:
        needed = shortest_run_s(period_s)
        raise ValueError(f"the run is too short for faults: it must last {needed:.0f} s or more")
    shown = [kind for kind in kinds if kind != "jitter" or _jitters(period_s)]
    if not shown:
        raise ValueError(f"a period of {period_s} s is too long to show jitter")
    rng = np.random.default_rng([seed, 2])
    onsets = first + np.sort((np.arange(count) + rng.random(count)) / count) * (last - first)
    faults: list[Fault] = []
    taken = set(spared)
    for index, (kind, onset) in enumerate(zip(islice(cycle(shown), count), onsets, strict=False)):
        begin = int(onset)
        readings = int(rng.integers(MIN_READINGS + 5, _MAX_READINGS + 1))
        until = begin + readings * period_ns
        if index % 2 or until + _RECOVERY_READINGS * period_ns > end_ns:
            until = end_ns
        fault = _place(city, rng, taken, kind, (begin, until), period_s)
        taken.add(fault.sensor)
        faults.append(fault)
    return faults


class Injector:
    """Puts planned faults into readings as they pass, in the order of publishing.

    Parameters
    ----------
    city : City
        Whose sensors the faults name.
    faults : sequence of Fault
        As planned.
    """

    def __init__(self, city: City, faults: Sequence[Fault]) -> None:
        index = {sensor.name: number for number, sensor in enumerate(city.sensors)}
        self._city = city
        self._faults = {index[fault.sensor]: fault for fault in faults}
        self._faulty = np.zeros(len(city), dtype=bool)
        self._faulty[list(self._faults)] = True
        self._held: dict[int, float] = {}
        self._sign: dict[int, float] = {}

    def apply(self, who: Indices, time_ns: NDArray[np.int64], values: Floats) -> Floats:
        """Return the readings with the faults due; `values` (m, WIDTH) is left as it is."""
        rows = np.flatnonzero(self._faulty[who])
        if not len(rows):
            return values
        changed = values.copy()
        for row in rows.tolist():
            sensor = int(who[row])
            fault = self._faults[sensor]
            if fault.start_ns <= time_ns[row] < fault.end_ns:
                column = self._city.sensors[sensor].quantities.index(fault.quantity)
                changed[row] = self._faulty_row(sensor, fault, column, values[row])
        return changed

    def _faulty_row(self, sensor: int, fault: Fault, column: int, row: Floats) -> Floats:
        faulty = row.copy()
        if fault.kind == "stuck":
            faulty[column] = self._held.setdefault(sensor, float(row[column]))
            return faulty
        sign = 1.0
        if fault.kind == "jitter":
            sign = self._sign[sensor] = -self._sign.get(sensor, -1.0)
        faulty[column] += sign * fault.amount
        who = np.array([sensor])
        printed = self._city.rounded if fault.kind == "out-of-range" else self._city.printed
        faulty[column] = printed(who, faulty[None, :])[0, column]
        return faulty


def write_labels(path: Path, labels: Labels) -> None:
    """Write labels as JSON; the file appears whole or not at all."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    draft.write_text(json.dumps(msgspec.to_builtins(labels), indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


def read_labels(path: Path) -> Labels:
    """Read labels back.

    Raises
    ------
    LabelsError
        If the file is too large or does not hold labels.
    """
    if path.stat().st_size > _MAX_LABELS_BYTES:
        raise LabelsError(f"{path}: larger than {_MAX_LABELS_BYTES} bytes")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Labels)
    except msgspec.DecodeError as error:
        raise LabelsError(f"{path}: {error}") from error


def _jitters(period_s: float) -> dict[str, float]:
    """Return the quantities whose swing at this period is an implausible rate."""
    return {
        name: amount
        for name, amount in _JITTERS.items()
        if isfinite(QUANTITIES[name].max_rate)
        and amount >= _RATE_READINGS * period_s * QUANTITIES[name].max_rate
    }


def _place(
    city: City,
    rng: np.random.Generator,
    taken: set[str],
    kind: str,
    window: tuple[int, int],
    period_s: float,
) -> Fault:
    tables: dict[str, Mapping[str, Any]] = {
        "stuck": dict.fromkeys(_STUCK, 0.0),
        "out-of-range": _OFFSETS,
        "jitter": _jitters(period_s),
        "level-shift": _SHIFTS,
    }
    amounts = tables[kind]
    for quantity in rng.permutation(list(amounts)).tolist():
        for sensor in _candidates(city, rng, taken, quantity):
            amount = float(amounts[quantity])
            if kind == "level-shift":
                amount *= rng.uniform(*_SHIFT_SIGMAS) * _largest_spread(
                    city, sensor, quantity, window
                )
            if _has_room(city, sensor, quantity, window, kind, amount):
                name = city.sensors[sensor].name
                return Fault(kind, name, quantity, *window, amount, *EXPECTED[kind])
    raise ValueError(f"no sensor left for a fault of kind {kind}; plan fewer faults")


def _candidates(
    city: City, rng: np.random.Generator, taken: set[str], quantity: str
) -> Iterator[int]:
    for index in rng.permutation(len(city)).tolist():
        sensor = city.sensors[index]
        if quantity in sensor.quantities and sensor.name not in taken:
            yield index


def _moments(window: tuple[int, int]) -> NDArray[np.int64]:
    # The level is smooth over hours: a point every tenth of the window shows where it goes.
    return np.linspace(*window, 11).astype(np.int64)


def _largest_spread(city: City, sensor: int, quantity: str, window: tuple[int, int]) -> float:
    moments = _moments(window)
    column = city.sensors[sensor].quantities.index(quantity)
    return float(city.spread(np.full(len(moments), sensor), moments)[:, column].max())


def _has_room(
    city: City, sensor: int, quantity: str, window: tuple[int, int], kind: str, amount: float
) -> bool:
    """Say whether the faulty series keeps to the side of its range that its kind promises."""
    if kind == "stuck":
        return True
    moments = _moments(window)
    who = np.full(len(moments), sensor)
    column = city.sensors[sensor].quantities.index(quantity)
    level = city.level(who, moments)[:, column]
    room = _ROOM_SIGMAS * float(city.spread(who, moments)[:, column].max())
    low, high = QUANTITIES[quantity].low, QUANTITIES[quantity].high
    ends = [level + amount] if kind != "jitter" else [level + amount, level - amount]
    below = min(float(end.min()) for end in ends)
    above = max(float(end.max()) for end in ends)
    if kind == "out-of-range":
        return below - room > high if amount > 0 else above + room < low
    return below - room > low and above + room < high

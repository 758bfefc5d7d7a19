"""What the simulated city would say of itself: which sensors belong together, and its limits.

Kernels of the minute stage judge nothing where they are not told of roads, squares and limits. The
city knows them, and says them in the form of the settings that bridges and workers read.
"""

import json
from collections.abc import Mapping
from itertools import pairwise
from math import cos, hypot, radians
from typing import Any, Final

import numpy as np

from simulators.city import City, Sensor

# Stations of the stretch of ring road that is one road; the last gap is where a lane is blocked.
_STATIONS: Final = 5
_SQUARES: Final = 2
# Four at least: one that drifts, and three to hold it against.
_NEIGHBOURS: Final = 5
LEAST_NEIGHBOURS: Final = 4
# Persons a square metre at the busiest hour of a usual week: people pass each other freely.
_BUSY_DENSITY: Final = 1.2
# Above what the quiet city comes to over a whole day, evening or night beside its motorways.
LIMITS_DB: Final[Mapping[str, float]] = {
    "noise_day_db": 80.0,
    "noise_evening_db": 78.0,
    "noise_night_db": 70.0,
}
_KM_PER_DEGREE: Final = 111.2
_HOUR_NS: Final = 3_600_000_000_000
_WEEK_H: Final = 168


def apart_km(one: Sensor, other: Sensor) -> float:
    """Return how far two sensors stand apart."""
    east = (one.longitude - other.longitude) * cos(radians(one.latitude))
    return _KM_PER_DEGREE * hypot(east, one.latitude - other.latitude)


def road(city: City) -> tuple[Sensor, ...]:
    """Return the stations of one road in the direction of traffic, where they stand closest."""
    ring = [one for one in city.sensors if (one.zone, one.domain) == ("ring-road", "traffic")]
    gaps = [apart_km(one, other) for one, other in pairwise(ring)]
    count = min(_STATIONS, len(ring))
    lengths = [sum(gaps[at : at + count - 1]) for at in range(len(ring) - count + 1)]
    first = int(np.argmin(lengths)) if lengths else 0
    return tuple(ring[first : first + count])


def squares(city: City) -> dict[str, tuple[Sensor, float]]:
    """Return the squares, each with its camera and what that sees of the ground, in square metres.

    They are those with most people.
    """
    busiest = sorted(cameras(city), key=lambda pair: (-pair[1], pair[0].name))[:_SQUARES]
    return {
        f"square-{number}": (camera, float(round(people / _BUSY_DENSITY)))
        for number, (camera, people) in enumerate(busiest, 1)
    }


def cameras(city: City) -> list[tuple[Sensor, float]]:
    """Return the cameras, each with its count at the busiest hour of a week."""
    who = np.array([n for n, one in enumerate(city.sensors) if one.domain == "cameras"])
    people = [city.level(who, np.full(len(who), hour * _HOUR_NS))[:, 0] for hour in range(_WEEK_H)]
    return [
        (city.sensors[index], float(count))
        for index, count in zip(who.tolist(), np.max(people, axis=0).tolist(), strict=True)
    ]


def districts(city: City) -> list[tuple[Sensor, ...]]:
    """Return the stations that measure air, by their zones, the zone with most first."""
    zones: dict[str, list[Sensor]] = {}
    for sensor in city.sensors:
        if "temperature" in sensor.quantities:
            zones.setdefault(sensor.zone, []).append(sensor)
    ordered = sorted(zones.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return [tuple(stations) for _, stations in ordered]


def surroundings(city: City) -> dict[str, Any]:
    """Return the sections `city` and `groups` of the settings that suit the city."""
    groups: dict[str, Any] = {}
    if len(stations := road(city)) > 1:
        groups["ring-road"] = {"kind": "road", "sensors": [one.name for one in stations]}
    for name, (camera, area_m2) in squares(city).items():
        groups[name] = {"kind": "place", "sensors": [camera.name], "area_m2": area_m2}
    (most, *_) = districts(city)
    if len(most) >= LEAST_NEIGHBOURS:
        names = [one.name for one in most[:_NEIGHBOURS]]
        groups["neighbours"] = {"kind": "neighbours", "sensors": names}
    return {"city": dict(LIMITS_DB), "groups": groups}


def as_toml(settings: Mapping[str, Any]) -> str:
    """Return the sections as a file of settings."""
    lines = ["[city]", *_lines(settings["city"])]
    for name, group in settings["groups"].items():
        lines += ["", f"[groups.{name}]", *_lines(group)]
    return "\n".join(lines) + "\n"


def _lines(section: Mapping[str, Any]) -> list[str]:
    # Texts, numbers and lists of texts are written alike in JSON and in TOML.
    return [f"{name} = {json.dumps(value)}" for name, value in section.items()]

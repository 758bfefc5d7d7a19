"""The series of a part of the city by its sensors, in the shares in which `simulators` has them.

Blocks of twenty sensors and 79 series again and again: eight stations of one road, five cameras,
four that measure air, and three microphones. Everything that kernels want to be told is told, so
that none has little to do for that reason: roads, neighbours, areas, limits of noise.
"""

from typing import Final

from rhythm import Kind

from ingest.topics import SeriesKey
from streams.facts import CityFacts, Group

_STATION: Final = (
    Kind("intensity", 40.0, 25.0, 4.0, 1.0),
    Kind("occupancy", 0.15, 0.06, 0.012, 0.0001, floor=0.005),
    Kind("averageVehicleSpeed", 50.0, 15.0, 4.0, 0.1),
    Kind("averageHeadwayTime", 20.0, 8.0, 1.5, 0.01),
)
_CAMERA: Final = (
    Kind("peopleCount", 24.0, 12.0, 3.0, 1.0),
    Kind("peopleCountTowards", 12.0, 6.0, 2.0, 1.0),
    Kind("peopleCountAway", 12.0, 6.0, 2.0, 1.0),
    Kind("averageCrowdSpeed", 4.0, 0.5, 0.2, 0.01),
)
_AIR: Final = (
    Kind("pm25", 12.0, 4.0, 1.0, 0.1),
    Kind("pm10", 20.0, 6.0, 1.5, 0.1),
    Kind("no2", 30.0, 12.0, 2.0, 0.1),
    Kind("o3", 50.0, 15.0, 2.0, 0.1),
    Kind("temperature", 15.0, 5.0, 0.1, 0.01),
    Kind("relativeHumidity", 0.5, 0.1, 0.005, 0.0001, floor=0.005),
)
_MICROPHONE: Final = (Kind("LAeq", 60.0, 8.0, 2.0, 0.1),)
# Domain, sensors a block, and what each of them reports.
_BLOCK: Final = (
    ("traffic", 8, _STATION),
    ("cameras", 5, _CAMERA),
    ("environment", 4, _AIR),
    ("environment", 3, _MICROPHONE),
)
KINDS: Final = tuple(kind for _, count, kinds in _BLOCK for _ in range(count) for kind in kinds)
# So many blocks have their air sensors for neighbours of each other.
_AIR_BLOCKS: Final = 2
_NOISE_LIMITS_DB: Final = (85.0, 80.0, 80.0)


def keys(count: int) -> list[SeriesKey]:
    """Return the keys of so many series; series i is of `KINDS[i % len(KINDS)]`."""
    found: list[SeriesKey] = []
    block = 0
    while len(found) < count:
        for domain, sensors, kinds in _BLOCK:
            for number in range(sensors):
                name = _name(block, kinds, number)
                found += [SeriesKey(domain, "centre", name, kind.quantity) for kind in kinds]
        block += 1
    return found[:count]


def facts(count: int) -> CityFacts:
    """Return what that part of the city has said of itself."""
    groups: dict[str, Group] = {}
    for block in range(-(-count // len(KINDS))):
        stations = tuple(_name(block, _STATION, number) for number in range(8))
        cameras = tuple(_name(block, _CAMERA, number) for number in range(5))
        groups[f"road-{block}"] = Group(stations, kind="road", free_flow_kmh=50.0)
        groups[f"square-{block}"] = Group(cameras, area_m2=200.0)
        if block % _AIR_BLOCKS == 0:
            names = [
                _name(one, _AIR, number)
                for one in range(block, block + _AIR_BLOCKS)
                for number in range(4)
            ]
            groups[f"air-{block}"] = Group(tuple(names), kind="neighbours")
    return CityFacts(groups=groups, noise_limits_db=_NOISE_LIMITS_DB)


def _name(block: int, kinds: tuple[Kind, ...], number: int) -> str:
    return f"{kinds[0].quantity}-{block}-{number}"

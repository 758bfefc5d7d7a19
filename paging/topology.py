"""Which sensors depend on what: zones as sensors say, gateways and power areas as routes say."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

from paging.matching import globbed
from paging.routes import Area
from paging.state import AreaKey, Topology

# An area lies in a larger one when so many of its sensors do: some stand at a border.
_INSIDE: Final = 0.9


def topology_of(zones: Mapping[str, str], areas: Sequence[Area]) -> Topology:
    """Return which areas each sensor is in, and which areas lie in which.

    Parameters
    ----------
    zones : mapping of str to str
        The zone of each sensor.
    areas : sequence of Area
        Gateways and power areas. A sensor is in the first of each kind that names it.
    """
    members = _members(zones, areas)
    sizes = {area: len(found) for area, found in members.items()}
    areas_of: dict[str, list[AreaKey]] = defaultdict(list)
    for area in sorted(sizes, key=lambda area: (sizes[area], area.kind, area.name)):
        for sensor in members[area]:
            areas_of[sensor].append(area)
    # How many sensors of one area are in another, from each sensor's own few.
    shared = Counter(pair for around in areas_of.values() for pair in combinations(around, 2))
    within: dict[AreaKey, set[AreaKey]] = defaultdict(set)
    for (small, large), count in shared.items():
        if count >= _INSIDE * sizes[small] and sizes[small] < sizes[large]:
            within[large].add(small)
    return Topology(
        areas_of={sensor: tuple(around) for sensor, around in areas_of.items()},
        sizes=sizes,
        within={area: frozenset(found) for area, found in within.items()},
    )


def _members(zones: Mapping[str, str], areas: Sequence[Area]) -> dict[AreaKey, list[str]]:
    members: dict[AreaKey, list[str]] = defaultdict(list)
    for sensor, zone in zones.items():
        members[AreaKey("zone", zone)].append(sensor)
    left = {area.kind: dict.fromkeys(zones) for area in areas}
    for area in areas:
        pattern = globbed(area.sensors)
        for sensor in [name for name in left[area.kind] if pattern.fullmatch(name)]:
            del left[area.kind][sensor]
            members[AreaKey(area.kind, area.name)].append(sensor)
    return members

"""Which gateway, zone or power area went dark: nobody says so, it follows from its sensors.

A gateway that dies tells nobody. Its sensors fall silent one after another, each as soon as its own
usual pause is over, and some other sensor is always silent for a reason of its own. So an area is
dark when more than a share of its sensors fall silent within a while. A large area that is made of
gateways goes by them instead, because one of its gateways alone may be more than that share.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

from paging.routes import Darkness
from paging.state import AreaKey, Group, Topology, Track
from storage.pages import Page

# Below half of what made it dark, and of what its page speaks of, an area is not dark any more, and
# newcomers speak for themselves.
_STILL_DARK: Final = 0.5

Silent = Iterable[tuple[Track, Page]]


@dataclass(frozen=True, slots=True)
class Going:
    """Silent sensors by area.

    Parameters
    ----------
    new, old : mapping of AreaKey to set of str
        Sensors that fell silent of late, or whose silence may be told since, and those before.
    members : mapping of AreaKey to list of Track
        The alerts of the new ones.
    """

    new: dict[AreaKey, set[str]] = field(default_factory=lambda: defaultdict(set))
    old: dict[AreaKey, set[str]] = field(default_factory=lambda: defaultdict(set))
    members: dict[AreaKey, list[Track]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True, slots=True)
class Dark:
    """How dark an area is.

    Parameters
    ----------
    sensors : int
        That are silent, whenever they fell so and whoever speaks for them.
    told_before : int
        Of them, those that some other page spoke of first.
    size : int or None
        How many there are in it, where that is known.
    """

    sensors: int
    told_before: int
    size: int | None


def area_of(group: Group) -> AreaKey | None:
    """Return the area that a group speaks of, where it speaks of one."""
    if group.cause in ("gateway", "zone", "power-area"):
        return AreaKey(group.cause, group.cause_name)
    return None


def going_silent(
    silent: Silent,
    topology: Topology,
    since: datetime,
    spoken_for: Mapping[AreaKey, Collection[str]] = MappingProxyType({}),
) -> Going:
    """Return which sensors of each area fell silent since a moment, and which before.

    What was under maintenance counts from its end: a gateway may have stayed dark. What a page of
    the area speaks of already, of groups by these keys, makes it dark no second time.
    """
    going = Going()
    for track, page in silent:
        is_late = track.free_since >= since
        for area in topology.around(page.sensor, page.zone):
            is_new = is_late and not any(key in spoken_for.get(area, ()) for key in track.groups)
            side = going.new if is_new else going.old
            side[area].add(page.sensor)
            if is_new:
                going.members[area].append(track)
    return going


def dark_of(area: AreaKey, group: str, silent: Silent, topology: Topology, told: set[str]) -> Dark:
    """Return how dark the area of a group is; `told` are the keys of groups that were told."""
    own: dict[str, bool] = {}
    others: dict[str, bool] = {}
    for track, page in silent:
        if area in topology.around(page.sensor, page.zone):
            side = own if group in track.groups else others
            side[page.sensor] = side.get(page.sensor, False) or not told.isdisjoint(track.groups)
    before = sum(was_told for sensor, was_told in others.items() if sensor not in own)
    return Dark(len({*own, *others}), before, topology.sizes.get(area))


def still_dark(
    groups: Mapping[AreaKey, Sequence[Group]], silences: Silent, topology: Topology, rule: Darkness
) -> set[AreaKey]:
    """Return the areas of which enough sensors are silent still.

    Parameters
    ----------
    groups : mapping of AreaKey to sequence of Group
        What speaks of each, by one route or several.
    silences : iterable of (Track, Page)
        Alerts of silence, those that are over among them. Of an area those count that are in its
        group, or came before it: what falls silent later and by itself makes it no darker.
    topology : Topology
    rule : Darkness
    """
    spoken_of: dict[AreaKey, set[str]] = {area: set() for area in groups}
    silent: dict[AreaKey, set[str]] = {area: set() for area in groups}
    for track, page in silences:
        for area in topology.around(page.sensor, page.zone):
            speaking = groups.get(area, ())
            is_in = any(group.key in track.groups for group in speaking)
            if not is_in and not (speaking and track.arrived <= speaking[0].opened):
                continue
            spoken_of[area].add(page.sensor)
            if track.state != "resolved":
                silent[area].add(page.sensor)
    return {
        area
        for area, sensors in silent.items()
        if len(sensors) >= rule.least
        and len(sensors)
        >= _STILL_DARK * max(len(spoken_of[area]), rule.share * topology.sizes.get(area, 0))
    }


def newly_dark(
    going: Going, known: Mapping[AreaKey, str], topology: Topology, rule: Darkness
) -> list[AreaKey]:
    """Return the areas that go dark now, without those that lie in another that is dark.

    Parameters
    ----------
    going : Going
    known : mapping
        Areas that are known to be dark.
    topology : Topology
    rule : Darkness
    """
    dark = set(known)
    # Small ones first: a large one goes by them where it is made of them.
    for area in sorted(going.new, key=lambda area: (topology.sizes.get(area, 0), area)):
        if area not in dark and _is_dark(area, going, dark, topology, rule):
            dark.add(area)
    covered = {part for area in dark for part in topology.within.get(area, ())}
    return sorted(dark - covered - set(known))


def _is_dark(
    area: AreaKey, going: Going, dark: set[AreaKey], topology: Topology, rule: Darkness
) -> bool:
    new = len(going.new[area])
    if new < rule.least:
        return False
    size = topology.sizes.get(area, new)
    gateways = [part for part in topology.within.get(area, ()) if part.kind == "gateway"]
    covered = sum(topology.sizes[part] for part in gateways)
    if len(gateways) > 1 and 2 * covered >= size:
        return sum(part in dark for part in gateways) >= rule.parents * len(gateways)
    return new >= rule.share * (size - len(going.old.get(area, ())))

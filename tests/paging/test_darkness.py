"""Which areas go dark, from which of their sensors are silent."""

from collections.abc import Iterable
from datetime import timedelta
from uuid import uuid4

from msgspec import structs

from paging.darkness import Dark, Going, dark_of, newly_dark, still_dark
from paging.routes import Area, Darkness
from paging.state import AreaKey, Group, Topology, Track
from paging.topology import topology_of
from storage.pages import Page
from tests.paging.scaffold import NOTICED_AT, page_of
from tests.paging.timeline import ROUTES, at, between, dark, page, play, update, want

NORTH, SOUTH = AreaKey("gateway", "north"), AreaKey("gateway", "south")
HARBOUR = AreaKey("zone", "harbour")
AREAS = (Area("gateway", "north", ("n*",)), Area("gateway", "south", ("s*",)))


def sensors(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number:02}" for number in range(count)]


def city(**counts: int) -> Topology:
    """Return a zone with so many sensors of each prefix."""
    names = [name for prefix, count in counts.items() for name in sensors(prefix, count)]
    return topology_of(dict.fromkeys(names, "harbour"), AREAS)


def going(topology: Topology, new: list[str], old: list[str]) -> Going:
    found = Going()
    for side, names in ((found.new, new), (found.old, old)):
        for name in names:
            for area in topology.around(name, "harbour"):
                side[area].add(name)
    return found


def silent(sensor: str, *groups: str) -> tuple[Track, Page]:
    track = Track(
        alert_id=uuid4(), identity=sensor, arrived=NOTICED_AT, moved=NOTICED_AT, groups=groups
    )
    return track, page_of(alert_id=track.alert_id, sensor=sensor, kind="silence")


def test_what_was_silent_before_is_no_part_of_what_can_go_dark() -> None:
    topology = city(n=20, x=200)
    new, old = sensors("n", 3), sensors("n", 15)[3:]
    assert newly_dark(going(topology, new, old), {}, topology, Darkness()) == [NORTH]
    assert newly_dark(going(topology, new, []), {}, topology, Darkness()) == []


def test_a_few_sensors_are_no_darkness_whatever_their_share() -> None:
    topology = city(n=4, x=200)
    assert newly_dark(going(topology, sensors("n", 2), []), {}, topology, Darkness()) == []
    assert newly_dark(going(topology, sensors("n", 3), []), {}, topology, Darkness()) == [NORTH]


def test_a_zone_goes_by_its_gateways_only_where_they_are_most_of_it() -> None:
    new = [*sensors("n", 10), *sensors("s", 10)]
    mostly, hardly = city(n=10, s=10, x=20), city(n=10, s=10, x=200)
    assert newly_dark(going(mostly, new, []), {}, mostly, Darkness()) == [HARBOUR]
    assert newly_dark(going(hardly, new, []), {}, hardly, Darkness()) == [NORTH, SOUTH]


def test_an_area_lies_in_another_when_nearly_all_of_it_does() -> None:
    def zones(outside: int) -> dict[str, str]:
        inside = dict.fromkeys([*sensors("n", 20), *sensors("x", 50)], "harbour")
        return inside | dict.fromkeys(sensors("n", outside), "station")

    assert NORTH in topology_of(zones(2), AREAS).within[HARBOUR]
    assert HARBOUR not in topology_of(zones(3), AREAS).within


def is_still_dark(topology: Topology, found: Iterable[tuple[Track, Page]]) -> bool:
    group = Group(
        key="own",
        cause="gateway",
        route="all",
        policy="all",
        opened=NOTICED_AT,
        waits_until=NOTICED_AT,
    )
    return still_dark({NORTH: [group]}, found, topology, Darkness()) == {NORTH}


def test_an_area_is_dark_until_less_than_half_of_what_made_it_so_is_silent() -> None:
    topology = city(n=80, x=400)
    found = [silent(name, "own") for name in sensors("n", 20)]
    # A quarter makes it dark.
    assert [is_still_dark(topology, found[:count]) for count in (9, 10, 20)] == [False, True, True]


def test_an_area_is_dark_until_less_than_half_of_what_its_page_speaks_of_is_silent() -> None:
    topology = city(n=80, x=400)
    found = [silent(name, "own") for name in sensors("n", 60)]
    over = [(structs.replace(track, state="resolved"), page) for track, page in found]
    assert [is_still_dark(topology, [*over[:back], *found[back:]]) for back in (0, 30, 31, 50)] == [
        True,
        True,
        False,
        False,
    ]


def test_what_falls_silent_later_by_itself_makes_an_area_no_darker() -> None:
    topology = city(n=80, x=400)
    left = [silent(name, "own") for name in sensors("n", 9)]
    others = [silent(name, "other") for name in sensors("n", 40)[9:]]
    late = NOTICED_AT + timedelta(hours=1)
    later = [(structs.replace(track, arrived=late), page) for track, page in others]
    assert not is_still_dark(topology, [*left, *later])
    assert is_still_dark(topology, [*left, *others])


def test_told_before_is_what_others_alone_have_spoken_of() -> None:
    topology = city(n=20, x=200)
    found = [
        silent("n00", "own"),
        silent("n01", "other"),
        silent("n02", "untold"),
        # One sensor, two alerts: its own page speaks of it as well.
        silent("n03", "other"),
        silent("n03", "own"),
        silent("x00", "other"),
    ]
    dark_now = dark_of(NORTH, "own", found, topology, {"own", "other"})
    assert dark_now == Dark(sensors=4, told_before=1, size=20)


def test_sensors_that_fall_silent_far_apart_are_no_darkness() -> None:
    gateway = '\n[gateway.north]\nsensors = ["n*"]\n'
    zones = dict.fromkeys([*sensors("n", 10), *sensors("x", 90)], "harbour")
    play(
        at(0, dark("n00")),
        want(between(11, 11.1), page("n00", cause="sensors")),
        at(100, dark("n01")),
        want(between(110, 110.1), update("n00", "n01")),
        # Within two minutes only the one before.
        at(200, dark("n02")),
        want(between(210, 210.1), update("n00", "n01", "n02")),
        routes=ROUTES + gateway,
        zones=zones,
    )

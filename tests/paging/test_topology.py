"""Which sensors depend on what, and which areas lie in which."""

import pytest

from paging.routes import Area
from paging.state import AreaKey
from paging.topology import topology_of

NORTH, SOUTH = AreaKey("zone", "north"), AreaKey("zone", "south")
GATEWAY = AreaKey("gateway", "g")


@pytest.mark.parametrize(("inside", "lies"), [(10, True), (9, True), (8, False)])
def test_an_area_lies_in_a_larger_one_when_nearly_all_its_sensors_do(
    inside: int, lies: bool
) -> None:
    zones = {f"g-{number}": "north" if number < inside else "south" for number in range(10)}
    zones |= {f"{zone}-{number}": zone for zone in ("north", "south") for number in range(20)}
    found = topology_of(zones, (Area("gateway", "g", ("g-*",)),))
    assert found.within == ({NORTH: {GATEWAY}} if lies else {})
    assert found.sizes == {GATEWAY: 10, NORTH: 20 + inside, SOUTH: 30 - inside}


def test_a_sensor_is_in_the_first_area_of_each_kind_that_names_it() -> None:
    areas = (
        Area("gateway", "g", ("g-*",)),
        Area("gateway", "rest", ("*",)),
        Area("power-area", "hill", ("g-1", "n-?")),
    )
    found = topology_of({"g-1": "north", "n-1": "north", "n-10": "south"}, areas)
    assert set(found.areas_of["g-1"]) == {GATEWAY, NORTH, AreaKey("power-area", "hill")}
    assert found.areas_of["g-1"][0] == GATEWAY, "the smallest is asked first"
    assert AreaKey("gateway", "rest") in found.areas_of["n-1"]
    assert AreaKey("power-area", "hill") not in found.areas_of["n-10"]


def test_areas_of_the_same_sensors_do_not_lie_in_each_other() -> None:
    found = topology_of({"g-1": "north", "g-2": "north"}, (Area("gateway", "g", ("g-*",)),))
    assert not any(found.within.values())

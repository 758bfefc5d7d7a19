"""The finer print of a turn, as timelines: what each rule means where two of them meet."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from paging.state import Memory
from tests.paging.test_timelines import (
    CARL,
    CORROBORATE,
    DARK,
    FLAPPING,
    INHIBIT,
    LADDER,
    SENSORS,
    TWO_HOOKS,
    some,
)
from tests.paging.test_who_has_it import CRITICAL_ROUTE
from tests.paging.timeline import (
    ROUTES,
    Action,
    acknowledge,
    acknowledged,
    again,
    at,
    back,
    between,
    dark,
    maintenance,
    moment,
    night_of,
    open,  # noqa: A004 - the word of the trade
    over,
    page,
    play,
    reroute,
    resolve,
    silence,
    stale,
    stand_in,
    update,
    want,
    worse,
)

# A rule that explains nothing here: for its sake what is over is remembered for a minute.
SLOW = """
[[inhibit]]
source = { kind = "power" }
target = { kind = "level" }
wait = "60s"
"""


def test_who_has_something_critical_of_a_page_is_not_woken_for_another() -> None:
    play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a", severity="minor")),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(20, silence(40, sensor="b")),
        at(30, open("b", severity="critical")),
        at(40, acknowledge("b")),
        want(between(60, 60.1), update("a", "b", severity="critical", actor="anna")),
        at(100, open("c", severity="critical")),
        want(between(100, 100.1), update("a", "b", "c", severity="critical", actor="anna")),
    )


def test_a_last_step_that_reaches_nobody_does_not_put_off_when_a_page_is_told_anew() -> None:
    last = LADDER.index('    { after = "180s"')
    short = LADDER[:last] + LADDER[LADDER.index("]\n[[route]]") :].replace('"1h"', '"90s"')
    play(
        at(0, stand_in("primary", "carl", 3600)),
        at(1, open("a")),
        want(between(2, 2.1), page("a", step=1)),
        # Nobody knows carl any more, who is to be told a minute later.
        at(10, reroute(short)),
        want(between(92, 92.1), page("a", to={"control"}, step=1)),
        routes=CARL.replace('"1h"', '"90s"'),
        until=100,
    )


def test_a_third_summary_of_a_shift_waits_twice_as_long_as_the_second() -> None:
    play(
        at(0, open("a", zone="z1")),
        want(between(1, 1.1), page("a")),
        at(10, open("b", zone="z2")),
        want(between(11, 11.1), page("b", cause="budget")),
        at(20, over("b")),
        want(between(20, 20.1), resolve("b", cause="budget")),
        at(30, open("c", zone="z3")),
        want(between(131, 131.1), page("c", cause="budget")),
        at(140, over("c")),
        want(between(140, 140.1), resolve("c", cause="budget")),
        at(150, open("d", zone="z4")),
        want(between(351, 351.1), page("d", cause="budget")),
        routes=ROUTES + '\n[shift]\nbudget = 1\nsummary_wait = "100s"\n',
    )


def test_over_the_budget_each_policy_has_a_summary_for_those_whom_it_tells() -> None:
    roads = TWO_HOOKS.replace("continue = true\n", "")
    play(
        at(0, open("a", zone="z1")),
        want(between(1, 1.1), page("a")),
        at(10, open("b", zone="z2"), open("c", zone="z3", domain="environment")),
        want(between(11, 11.1), page("b", cause="budget", policy="traffic", to={"traffic"})),
        want(between(11, 11.1), page("c", cause="budget", policy="control", to={"control"})),
        routes=roads + '\n[shift]\nbudget = 1\nsummary_wait = "0s"\n',
        until=60,
    )


@pytest.mark.parametrize(
    ("sensors", "area"), [("minor", "major"), ("critical", "critical")], ids=["area", "sensors"]
)
def test_a_dark_area_goes_by_the_route_of_what_is_worst_it_or_its_sensors(
    sensors: str, area: str
) -> None:
    labels = {"zone": "harbour", "gateway": "north", "route": area}
    by_severity = LADDER.replace("[[route]]", CRITICAL_ROUTE.replace("critical", area))
    play(
        at(0, dark(*some("s", 0, 20), severity=sensors)),
        want(between(4, 4.1), page(severity=area, labels=labels, total=20)),
        routes=by_severity + DARK[len(ROUTES) :],
        zones=SENSORS,
        until=60,
    )


def test_who_had_an_alert_has_it_still_when_another_takes_what_came_later() -> None:
    play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a")),
        at(10, acknowledge("a", by="anna")),
        want(between(10, 10.1), acknowledged("a", actor="anna")),
        at(100, open("b", severity="major")),
        want(between(100, 100.1), page("a", "b")),
        at(110, acknowledge("b", by="bo")),
        want(between(110, 110.1), acknowledged("a", "b", actor="bo")),
        at(120, over("b")),
        at(200, open("c", severity="critical")),
        want(between(200, 200.1), page("a", "b", "c")),
        # What is left is what anna took.
        at(210, over("c")),
        want(between(210, 210.1), acknowledged("a", actor="anna")),
    )


def test_what_joined_what_somebody_has_and_flaps_is_theirs_however_often_it_opens() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", step=1)),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(100, open("b")),
        want(between(100, 100.1), update("a", "b", actor="anna")),
        at(110, over("b")),
        at(200, open("b")),
        want(between(200, 200.1), update(actor="anna")),
        at(210, over("b")),
        at(220, open("b")),
        routes=FLAPPING,
        until=1000,
    )


def test_what_gets_worse_as_its_explanation_ends_waits_whether_it_ends_with_it() -> None:
    slow = INHIBIT.replace('"5s"', '"60s"') + '\n[flapping]\nwithin = "10s"\n'
    play(
        at(0, open("crash", kind="incident"), open("jam", kind="service-level")),
        want(between(1, 1.1), page("crash")),
        at(100, over("crash")),
        want(between(100, 100.1), resolve("crash")),
        # By now nobody would take the crash for flapping.
        at(115, again("jam")),
        at(120, worse("jam")),
        want(between(161, 161.1), page("jam", severity="critical")),
        routes=slow,
    )


def test_what_was_explained_by_what_was_dropped_with_what_explained_it_is_told_at_once() -> None:
    rules = """
[[inhibit]]
source = { kind = "power" }
target = { kind = "incident" }
[[inhibit]]
source = { kind = "incident" }
target = { kind = "service-level" }
[[corroborate]]
match = { kind = ["power", "incident"] }
sensors = 1
within = "60s"
otherwise = "drop"
"""
    night = play(
        at(
            0,
            open("cut", kind="power"),
            open("crash", kind="incident"),
            open("jam", kind="service-level"),
        ),
        want(between(61, 61.1), page("jam")),
        routes=ROUTES + rules,
    )
    dropped = "corroboration: only 0 of 1 neighbours within 1m"
    assert night.why("cut")[-1] == dropped
    assert night.why("crash")[-1] == dropped


def test_who_acknowledges_an_alert_that_is_over_has_the_rest_of_its_page() -> None:
    play(
        at(0, open("a"), open("b")),
        want(between(1, 1.1), page("a", "b", step=1)),
        at(10, over("a")),
        # On whose screen it was open still.
        at(12, acknowledge("a")),
        want(between(12, 12.1), acknowledged("a", "b", actor="anna")),
        at(400, over("b")),
        want(between(400, 400.1), resolve("a", "b")),
        routes=LADDER,
        until=1000,
    )


def test_what_somebody_has_by_its_page_is_theirs_when_its_sensor_speaks_again() -> None:
    night = play(
        at(0, open("a")),
        want(between(1, 1.1), page("a")),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(100, open("b")),
        want(between(100, 100.1), update("a", "b", actor="anna")),
        at(200, stale("b")),
        at(300, back("b")),
    )
    assert night.memory.tracks[night.pages["b"].alert_id].state == "acknowledged"


def test_a_page_of_an_area_has_one_key_in_whatever_order_its_sensors_are_remembered() -> None:
    def key(reordered: Callable[[Memory], Memory]) -> str:
        night = night_of(DARK, SENSORS)
        dark(*some("s", 0, 4))(night, moment(0))
        night.turn(moment(0))
        # The pager starts anew, and reads what it remembered.
        night.memory = reordered(night.memory)
        dark(*some("s", 4, 8))(night, moment(1))
        for seconds in (1, 5):
            night.turn(moment(seconds))
        ((_, telling),) = night.told
        assert telling.notice.cause == "gateway"
        return telling.notice.group

    def backwards(memory: Memory) -> Memory:
        return replace(memory, tracks=dict(reversed(memory.tracks.items())))

    assert key(backwards) == key(lambda memory: memory)


def test_what_is_left_of_an_area_is_told_as_it_is_though_another_is_taken_just_then() -> None:
    play(
        at(0, dark(*some("s", 0, 20)), dark(*some("t", 0, 30), zone="station")),
        at(1, acknowledge("s00", by="bo")),
        want(between(4, 4.1), page(cause_name="north", severity="major", total=20)),
        want(between(4, 4.1), page(cause_name="east", severity="major", total=30)),
        at(30, acknowledge("t00"), over(*some("s", 1, 20))),
        want(between(30, 30.1), acknowledged(cause_name="east", severity="major", actor="anna")),
        # Bo hears that it is no longer dark, and that he has what is left.
        want(between(30, 30.1), acknowledged(cause_name="north", severity="minor", actor="bo")),
        routes=DARK,
        zones=SENSORS | {f"u{number}": "station" for number in range(200)},
    )


def test_what_is_left_of_an_area_that_is_dark_anew_is_no_dark_area() -> None:
    play(
        at(0, dark(*some("s", 0, 20))),
        want(between(4, 4.1), page(cause="gateway", severity="major", total=20)),
        at(30, over(*some("s", 1, 20))),
        at(40, dark(*some("s", 1, 20))),
        want(between(44, 44.1), page(cause="gateway", severity="major", total=19)),
        at(60, acknowledge("s00")),
        want(between(60, 60.1), acknowledged(cause="gateway", severity="minor", total=20)),
        routes=DARK,
        zones=SENSORS,
        until=100,
    )


def test_one_neighbour_is_not_two() -> None:
    play(
        at(0, open("a", kind="exceedance")),
        at(10, open("b", kind="exceedance")),
        at(20, open("c", kind="exceedance")),
        want(between(21, 21.1), page("a", "b", "c")),
        routes=ROUTES + CORROBORATE.replace("sensors = 1", "sensors = 2"),
    )


def test_a_neighbour_that_spoke_long_after_does_not_count_though_the_pager_was_away() -> None:
    night = night_of(ROUTES + CORROBORATE)
    open("a", kind="exceedance")(night, moment(0))
    night.turn(moment(0))
    open("b", kind="exceedance")(night, moment(70))
    for seconds in (70, 72, 200):
        night.turn(moment(seconds))
    assert night.told == []
    assert night.why("a")[-1] == "corroboration: only 0 of 1 neighbours within 1m"


TWO_AND_A_JAM = (
    open("crash", kind="incident"),
    open("fire", kind="incident"),
    open("jam", kind="service-level"),
)


@pytest.mark.parametrize(("first", "second"), [("crash", "fire"), ("fire", "crash")])
def test_what_is_open_explains_though_another_of_its_sort_was_over_a_moment_ago(
    first: str, second: str
) -> None:
    play(
        at(0, *TWO_AND_A_JAM),
        want(between(1, 1.1), page("crash", "fire")),
        at(100, over(first)),
        # By now it would be told, were nothing else to explain it.
        at(140, again("jam")),
        at(150, over(second)),
        want(between(150, 150.1), resolve("crash", "fire")),
        want(between(156, 156.1), page("jam")),
        routes=INHIBIT + SLOW,
    )


@pytest.mark.parametrize(("first", "last"), [("crash", "fire"), ("fire", "crash")])
def test_what_two_explained_waits_from_the_end_of_the_last(first: str, last: str) -> None:
    play(
        at(0, *TWO_AND_A_JAM),
        want(between(1, 1.1), page("crash", "fire")),
        at(100, over(first)),
        at(103, over(last)),
        want(between(103, 103.1), resolve("crash", "fire")),
        # Within five seconds of the last, and not of the first.
        at(107, over("jam")),
        routes=INHIBIT + SLOW,
    )


@pytest.mark.parametrize("quiet", [silence, maintenance])
@pytest.mark.parametrize("lasts", [(200, 100), (100, 200)])
def test_who_asks_why_is_told_the_order_that_ends_last(
    quiet: Callable[..., Action], lasts: tuple[int, int]
) -> None:
    night = play(
        at(0, *(quiet(seconds, sensor="a") for seconds in lasts)),
        at(10, open("a")),
        want(between(201, 201.1), page("a")),
    )
    assert "until 2025-03-04 02:03:20 UTC" in night.why("a")[0]


def test_a_gateway_that_is_still_dark_after_a_long_maintenance_is_one_page() -> None:
    play(
        at(0, maintenance(600, sensor="s*")),
        at(10, dark(*some("s", 0, 20))),
        want(between(604, 604.1), page(cause="gateway", cause_name="north", total=20)),
        routes=DARK,
        zones=SENSORS,
        until=700,
    )

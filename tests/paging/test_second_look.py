"""What a second look at the night found: outages after outages, overlaps, and whose is what."""

from tests.paging.test_timelines import DARK, FLAPPING, LADDER, SENSORS, some
from tests.paging.timeline import (
    ROUTES,
    acknowledge,
    acknowledged,
    at,
    between,
    dark,
    open,  # noqa: A004 - the word of the trade
    over,
    page,
    play,
    resolve,
    silence,
    take,
    update,
    want,
)

NORTH = some("s", 0, 20)
IS_DARK = "gateway north is dark: 20 of 20 sensors fell silent"
# Two areas that share four sensors, in a zone of which they are no large part.
OVERLAP = (
    LADDER
    + """
[darkness]
wait = "3s"
parent_wait = "2s"
share = 0.5
[gateway.g]
sensors = ["s1*"]
[power-area.p]
sensors = ["s?5", "s?6", "s?7", "s?8"]
"""
)
CITY = dict.fromkeys([*(f"s{n}" for n in range(10, 30)), *(f"v{n}" for n in range(60))], "harbour")


def test_a_second_outage_is_told_though_somebody_has_the_page_of_the_first() -> None:
    play(
        at(0, dark(*NORTH)),
        want(between(4, 4.1), page(*NORTH, title=IS_DARK)),
        at(20, acknowledge("s19")),
        want(between(20, 20.1), acknowledged(*NORTH)),
        at(30, over(*NORTH[:17])),
        at(20_000, dark(*NORTH[:17])),
        want(
            between(20_004, 20_004.1),
            page(*NORTH[:17], title=f"{IS_DARK}, 3 told of before"),
        ),
        routes=DARK,
        zones=SENSORS,
        until=20_100,
    )


def test_what_falls_silent_by_itself_makes_dark_nothing_that_was_dark() -> None:
    play(
        at(0, dark(*NORTH)),
        want(between(4, 4.1), page(*NORTH)),
        at(30, over(*NORTH[:19])),
        at(40, acknowledge("s19")),
        want(between(40, 40.1), acknowledged(*NORTH)),
        at(200, dark("s05")),
        want(between(211, 211.1), page("s05", severity="minor")),
        at(400, dark("s06")),
        want(between(410, 410.1), update("s05", "s06")),
        at(600, dark("s07")),
        want(between(610, 610.1), update("s05", "s06", "s07")),
        routes=DARK,
        zones=SENSORS,
        until=900,
    )


def test_who_has_an_alert_has_no_page_that_did_not_tell_of_it() -> None:
    play(
        at(0, open("a", severity="critical")),
        want(between(1, 1.1), page("a", step=1)),
        at(5, open("b", severity="minor")),
        at(10, acknowledge("b")),
        want(between(61, 61.1), page("a", "b", step=2)),
        at(70, acknowledge("b", by="bo")),
        want(between(70, 70.1), acknowledged("a", "b", actor="bo")),
        routes=LADDER,
        until=400,
    )


def test_who_has_an_alert_has_all_that_its_pages_told_of_though_they_had_a_page_before() -> None:
    two = LADDER.replace(
        "[[route]]",
        """[[route]]
name = "zone"
policy = "ladder"
continue = true
group_by = ["zone"]
[[route]]""",
        1,
    )
    play(
        at(0, open("a", kind="power")),
        want(between(1, 1.1), page("a", step=1)),
        want(between(1, 1.1), page("a", step=1)),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(20, open("b"), open("c", kind="spike")),
        want(between(21, 21.1), page("b", step=1)),
        want(between(21, 21.1), page("c", step=1)),
        want(between(70, 70.1), update("a", "b", "c", actor="anna")),
        at(75, acknowledge("b")),
        want(between(75, 75.1), acknowledged("b")),
        want(between(75, 75.1), acknowledged("c", actor="anna")),
        routes=two,
        until=400,
    )


def test_who_has_a_worse_opening_that_waits_has_what_stands_for_it() -> None:
    inhibit = """
[[inhibit]]
source = { kind = "power" }
target = { kind = "level", severity = "critical" }
"""
    play(
        at(0, open("a")),
        at(0.5, over("a")),
        at(1, open("a")),
        want(between(2, 2.1), page("a", to={"control"})),
        at(25, open("p", kind="power")),
        want(between(26, 26.1), page("p")),
        at(27, acknowledge("p")),
        want(between(27, 27.1), acknowledged("p")),
        at(30, over("a")),
        at(33, open("a", severity="critical")),
        at(40, acknowledge("a")),
        want(between(40, 40.1), acknowledged("a")),
        routes=FLAPPING + inhibit,
        until=400,
    )


def test_of_two_areas_that_overlap_each_has_sensors_of_its_own() -> None:
    gateway = [f"s1{n}" for n in range(10)]
    rest = [f"s2{n}" for n in (5, 6, 7, 8)]
    night = play(
        at(0, dark(*gateway, *rest)),
        want(between(2, 2.1), page(*gateway, cause="gateway")),
        want(
            between(2, 2.1),
            page(
                *rest,
                cause="power-area",
                title="power area p is dark: 8 of 8 sensors fell silent, 4 told of before",
            ),
        ),
        routes=OVERLAP,
        zones=CITY,
        until=20,
    )
    assert all(len(track.groups) == 1 for track in night.memory.tracks.values())


def test_sensors_whose_routes_tell_nobody_make_no_area_dark() -> None:
    nobody = """[[route]]
name = "workshop"
match = { sensor = "s0*" }
policy = "nobody"
[[route]]"""
    night = play(
        at(0, dark(*some("s", 0, 10))),
        routes=DARK.replace("[[route]]", nobody, 1),
        zones=SENSORS,
        until=100,
    )
    assert night.why("s03")[-1] == "routing: route workshop tells nobody"


def test_everybody_whose_sensors_are_dark_is_told_of_the_area_once() -> None:
    air = """
[hook.air]
type = "webhook"
url = "http://127.0.0.1:1/"
[policy.air]
steps = [{ to = ["hook:air"] }]
[[route]]
name = "air"
match = { domain = "air" }
policy = "air"
[[route]]
name = "quality"
match = { domain = "water" }
policy = "air"
[[route]]"""
    play(
        at(0, dark(*NORTH[:8], domain="traffic")),
        at(1, dark(*NORTH[8:15], domain="air"), dark(*NORTH[15:], domain="water")),
        want(between(4, 4.1), page(*NORTH, to={"control"})),
        # Of those of theirs, and of what comes after.
        want(between(4, 4.1), page(*NORTH[8:], to={"air"}, title=f"{IS_DARK}, 8 told of before")),
        routes=DARK.replace("[[route]]", air, 1),
        zones=SENSORS,
        until=100,
    )


def test_a_neighbour_counts_by_each_of_its_alerts() -> None:
    rule = """
[[corroborate]]
match = { kind = "exceedance" }
within = "100s"
otherwise = "drop"
"""
    play(
        at(0, silence(500, sensor="a")),
        at(10, open("a", kind="exceedance", quantity="pm10")),
        at(20, open("b", kind="exceedance", quantity="pm10")),
        want(between(21, 21.1), page("b")),
        at(400, open("b", kind="exceedance", quantity="pm25")),
        want(between(500, 500.1), update("a", "b", total=2)),
        routes=ROUTES + rule,
        until=600,
    )


def test_what_had_no_neighbours_explains_nothing_when_it_is_over_either() -> None:
    rules = """
[[inhibit]]
source = { kind = "incident" }
target = { kind = "level" }
[[corroborate]]
match = { kind = "incident" }
within = "10s"
otherwise = "drop"
"""
    play(
        at(0, open("i", kind="incident")),
        at(28, open("a")),
        at(30, over("i")),
        # Its own wait of five seconds, and no more.
        want(between(33, 34.1), page("a")),
        routes=ROUTES + rules,
        until=100,
    )


def test_of_what_is_silenced_in_its_group_it_is_said_until_when() -> None:
    night = play(
        at(0, open("a"), open("b")),
        at(0.5, silence(500, sensor="a")),
        want(between(1, 1.1), page("b", total=1)),
        at(400, over("a"), over("b")),
        want(between(400, 400.1), resolve("a", "b")),
        until=450,
    )
    assert night.why("a")[-1] == (
        "group silence: not told with its page: works (sensor=a) until 2025-03-04 02:08:20 UTC"
    )
    assert "group silence" not in " ".join(night.why("b"))


def test_neighbours_that_come_during_a_silence_count_when_it_ends() -> None:
    rule = """
[[corroborate]]
match = { kind = "exceedance" }
within = "10s"
otherwise = "drop"
"""
    play(
        at(0, silence(200, sensor="a")),
        at(10, open("a", kind="exceedance")),
        at(150, open("b", kind="exceedance")),
        at(155, open("c", kind="exceedance")),
        want(between(156, 156.1), page("b", "c")),
        want(between(200, 200.1), update("a", "b", "c")),
        routes=ROUTES + rule,
        until=400,
    )


def test_one_sensor_that_flickers_as_its_gateway_comes_back_makes_nothing_dark() -> None:
    play(
        at(0, dark(*NORTH)),
        want(between(4, 4.1), page(*NORTH)),
        at(20, acknowledge("s00")),
        want(between(20, 20.1), acknowledged(*NORTH)),
        at(30, over(*NORTH[:11])),
        at(35, dark("s00")),
        want(between(46, 46.1), page("s00", severity="minor")),
        routes=DARK,
        zones=SENSORS,
        until=100,
    )


def test_who_takes_a_page_has_not_what_is_silenced_and_was_not_told() -> None:
    play(
        at(0, open("a"), open("b", severity="critical")),
        at(0.5, silence(100, sensor="b")),
        want(between(1, 1.1), page("a", step=1, total=1)),
        at(5, take("a")),
        want(between(5, 5.1), acknowledged("a")),
        want(between(100.5, 100.6), page("a", "b", severity="critical", step=1)),
        at(110, take("a")),
        want(between(110, 110.1), acknowledged("a", "b")),
        routes=LADDER,
        until=400,
    )


def test_a_sensor_that_flickers_makes_no_part_of_what_comes_back_dark() -> None:
    city = {**dict.fromkeys(some("s", 0, 40), "harbour")}
    play(
        at(0, dark(*some("s", 0, 40))),
        want(between(1, 1.1), page(cause="zone", total=40)),
        at(20, acknowledge("s00")),
        want(between(20, 20.1), acknowledged(total=40)),
        at(30, over(*some("s", 0, 28))),
        at(31, over("s39")),
        at(40, dark("s39")),
        want(between(51, 51.1), page("s39", severity="minor")),
        routes=DARK,
        zones=city,
        until=100,
    )


def test_an_area_that_wavers_before_it_is_told_is_one_page() -> None:
    play(
        at(0, dark(*some("s", 0, 5))),
        at(1, over(*some("s", 0, 3))),
        at(2, dark(*some("s", 5, 13))),
        want(between(4, 6.1), page(cause="gateway")),
        routes=DARK,
        zones=SENSORS,
        until=20,
    )

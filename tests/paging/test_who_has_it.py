"""Who has what: nobody is woken for what somebody has, and somebody always for what nobody has."""

import pytest

from tests.paging.test_timelines import DARK, LADDER, SENSORS, THE_REST
from tests.paging.timeline import (
    ROUTES,
    At,
    Want,
    acknowledge,
    acknowledged,
    at,
    between,
    dark,
    lift,
    open,  # noqa: A004 - the word of the trade
    over,
    page,
    play,
    reroute,
    resolve,
    silence,
    take,
    update,
    want,
)

BUDGET = LADDER + "\n[shift]\nbudget = 1\n"
FLAPPING = LADDER + '\n[flapping]\ntimes = 2\nwithin = "10m"\n'
INHIBIT = """
[[inhibit]]
source = { kind = "power" }
target = { kind = "level" }
"""
# One page, which spends the budget, and which somebody has.
SPENT = (
    at(0, open("a", zone="z1")),
    want(between(1, 1.1), page("a")),
    at(5, acknowledge("a")),
    want(between(5, 5.1), acknowledged("a")),
)


def test_a_worse_cause_that_joined_a_summary_and_ended_leaves_it_to_whoever_had_it() -> None:
    play(
        *SPENT,
        at(10, open("b", zone="z2", severity="minor")),
        want(between(11, 11.1), page("b", cause="budget", severity="minor")),
        at(30, acknowledge("b")),
        want(between(30, 30.1), acknowledged("b", cause="budget")),
        at(200, open("d", zone="z4")),
        want(between(201, 201.1), page("b", "d", cause="budget", step=1)),
        # Before the second step; the third would follow as well.
        at(230, over("d")),
        want(between(230, 230.1), acknowledged("b", cause="budget", actor="anna")),
        at(900, over("b")),
        want(between(900, 900.1), resolve("b", "d", cause="budget")),
        routes=BUDGET,
        until=1000,
    )


def test_a_worse_cause_that_joined_a_summary_is_escalated_as_long_as_nobody_has_it() -> None:
    play(
        *SPENT,
        at(10, open("b", zone="z2", severity="minor")),
        want(between(11, 11.1), page("b")),
        at(30, acknowledge("b")),
        want(between(30, 30.1), acknowledged("b")),
        at(200, open("d", zone="z4")),
        want(between(201, 201.1), page("b", "d", step=1)),
        want(between(261, 261.1), page("b", "d", step=2)),
        at(300, acknowledge("d", by="bo")),
        want(between(300, 300.1), acknowledged("b", "d", actor="bo")),
        routes=BUDGET,
        until=1000,
    )


def test_another_cause_of_a_summary_that_somebody_has_is_an_update() -> None:
    play(
        *SPENT,
        at(10, open("b", zone="z2")),
        want(between(11, 11.1), page("b")),
        at(30, acknowledge("b")),
        want(between(30, 30.1), acknowledged("b")),
        at(200, open("d", zone="z4")),
        want(between(201, 201.1), update("b", "d", cause="budget", actor="anna")),
        routes=BUDGET,
        until=1000,
    )


def test_what_got_too_bad_for_a_summary_and_is_over_leaves_the_rest_to_whoever_had_it() -> None:
    play(
        *SPENT,
        at(10, open("b", zone="z2"), open("e", zone="z3")),
        want(between(11, 11.1), page("b", "e", cause="budget")),
        at(15, acknowledge("b"), acknowledge("e")),
        want(between(15, 15.1), acknowledged("b", "e")),
        at(20, open("c", zone="z2", severity="critical")),
        want(between(20, 20.1), page("b", "c", cause="sensors", step=1)),
        at(30, over("c")),
        want(between(30, 30.1), acknowledged("b", cause="sensors")),
        routes=BUDGET,
        until=1000,
    )


def test_a_summary_whose_only_cause_has_a_page_of_its_own_does_not_say_that_it_is_over() -> None:
    play(
        *SPENT,
        at(10, open("b", zone="z2")),
        want(between(11, 11.1), page("b", cause="budget")),
        at(20, open("c", zone="z2", severity="critical")),
        want(between(20, 20.1), page("b", "c", cause="sensors")),
        want(
            between(20, 20.1),
            resolve(cause="budget", text="what it spoke of has a page of its own"),
        ),
        routes=BUDGET,
        until=30,
    )


def test_a_summary_is_as_bad_as_the_gateway_that_it_speaks_for() -> None:
    play(
        at(0, open("t", zone="station")),
        want(between(1, 1.1), page("t")),
        at(10, dark(*[f"s{number:02}" for number in range(10)])),
        want(between(10, 30), page(cause="budget", severity="major", total=10)),
        routes=DARK + "\n[shift]\nbudget = 1\n",
        zones=SENSORS,
        until=60,
    )


@pytest.mark.parametrize("joined_at", [99.7, 100.2])
def test_what_joined_what_somebody_has_and_ended_within_the_group_wait_is_not_told(
    joined_at: float,
) -> None:
    play(
        at(0, silence(100, sensor="a")),
        at(1, open("a")),
        at(5, acknowledge("a")),
        at(joined_at, open("b")),
        at(100.6, over("b")),
        routes=LADDER,
        until=1000,
    )


def test_what_joined_what_somebody_has_before_it_was_told_is_told() -> None:
    play(
        at(0, silence(100, sensor="a")),
        at(1, open("a")),
        at(5, acknowledge("a")),
        at(100.2, open("b")),
        want(between(101, 101.1), page("a", "b")),
        at(110, over("b")),
        want(between(110, 110.1), acknowledged("a")),
        routes=LADDER,
        until=1000,
    )


def test_what_joined_and_ended_between_two_updates_is_not_told() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a")),
        at(5, open("b")),
        at(8, over("b")),
        at(10, open("c")),
        want(
            between(31, 31.1),
            update("a", "b", "c", text="1 alert joined\na speaks\nc speaks\nb speaks (over)"),
        ),
        until=100,
    )


def test_what_joins_quietly_is_whose_the_rest_is_also_when_worse_came_and_went() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a")),
        at(10, take("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(200, open("c")),
        want(between(200, 200.1), update("a", "c", actor="anna")),
        at(300, open("d", severity="critical")),
        want(between(300, 300.1), page("a", "c", "d", step=1)),
        at(310, over("d")),
        want(between(310, 310.1), acknowledged("a", "c")),
        # Neither of what anna had nor of what joined it.
        at(800, over("a")),
        at(900, over("c")),
        want(between(900, 900.1), resolve("a", "c", "d")),
        routes=LADDER,
        until=1500,
    )


def test_a_policy_that_is_made_longer_goes_on_with_a_page_that_is_open() -> None:
    steps = LADDER[LADDER.index("    { after") : LADDER.index("]\n[[route]]")]
    play(
        at(0, open("a"), open("b", zone="z2")),
        want(between(1, 1.1), page("a", step=1, ring=0)),
        want(between(1, 1.1), page("b", step=1)),
        at(10, acknowledge("b")),
        want(between(10, 10.1), acknowledged("b")),
        at(20, reroute(LADDER)),
        want(between(61, 61.1), page("a", step=2)),
        want(between(181, 181.1), page("a", step=3)),
        routes=LADDER.replace(steps, ""),
        until=500,
    )


def flaps(sensor: str) -> list[At | Want]:
    """Let an alert flap, until it is held open."""
    moves: list[At | Want] = []
    for begin in (0, 10):
        moves += [
            at(begin, open(sensor)),
            want(between(begin + 1, begin + 1.1), page(sensor)),
            at(begin + 5, over(sensor)),
            want(between(begin + 5, begin + 5.1), resolve(sensor)),
        ]
    return [*moves, at(20, open(sensor)), want(between(21, 21.1), page(sensor))]


ALL = """all of it is over, on good readings
a speaks (it flaps, and is held open until it is calm)"""


def test_what_flaps_and_opens_worse_is_told_when_its_silence_ends() -> None:
    play(
        *flaps("a"),
        at(25, acknowledge("a")),
        want(between(25, 25.1), acknowledged("a")),
        at(30, silence(3600, sensor="a")),
        at(31, over("a")),
        at(33, open("a", severity="critical")),
        at(50, lift()),
        want(between(50, 50.1), page("a", severity="critical", total=1, step=1)),
        at(55, acknowledge("a")),
        want(between(55, 55.1), acknowledged("a")),
        at(60, over("a")),
        # Calm for so long, from its last end.
        want(between(660, 660.1), resolve("a", text=ALL)),
        routes=FLAPPING,
        until=2000,
    )


def test_what_flaps_and_opens_worse_under_a_silence_is_over_only_when_that_is() -> None:
    play(
        *flaps("a"),
        at(25, acknowledge("a")),
        want(between(25, 25.1), acknowledged("a")),
        at(30, silence(36_000, sensor="a")),
        at(31, over("a")),
        at(33, open("a", severity="critical")),
        # Long after the one before it would have been calm.
        at(2000, over("a")),
        want(between(2600, 2600.1), resolve("a")),
        routes=FLAPPING,
        until=3000,
    )


def test_what_flaps_and_opens_worse_wakes_nobody_while_another_explains_it() -> None:
    play(
        at(0, open("a")),
        want(between(5, 6.1), page("a")),
        *(move for begin in (10, 20) for move in (at(begin, over("a")), at(begin + 2, open("a")))),
        want(between(10, 10.1), resolve("a")),
        want(between(18, 18.1), page("a")),
        want(between(20, 20.1), resolve("a")),
        want(between(28, 28.1), page("a")),
        at(29, acknowledge("a")),
        want(between(29, 29.1), acknowledged("a")),
        at(30, open("p", kind="power")),
        want(between(31, 31.1), page("p")),
        at(33, acknowledge("p")),
        want(between(33, 33.1), acknowledged("p")),
        at(41, over("a")),
        at(50, open("a", severity="critical")),
        at(90, over("p")),
        want(between(90, 90.1), resolve("p")),
        # What explains it is over, and it is not.
        want(between(95, 95.1), page("a", severity="critical", step=1)),
        routes=FLAPPING + INHIBIT,
        until=100,
    )


def test_what_flaps_and_opens_worse_wakes_at_once_where_nothing_keeps_it_quiet() -> None:
    play(
        *flaps("a"),
        at(25, acknowledge("a")),
        want(between(25, 25.1), acknowledged("a")),
        at(31, over("a")),
        at(33, open("a", severity="critical")),
        want(between(33, 33.1), page("a", severity="critical", total=1, step=1)),
        routes=FLAPPING,
        until=60,
    )


def test_of_a_circle_nothing_is_told_while_something_outside_explains_it() -> None:
    rules = "".join(
        f"[[inhibit]]\nsource = {{ kind = {source!r} }}\ntarget = {{ kind = {target!r} }}\n"
        for source, target in (("y", "x"), ("w", "x"), ("x", "y"))
    )
    night = play(
        at(0, open("a", kind="x")),
        at(1, open("b", kind="y"), open("w", kind="w")),
        want(between(2, 2.1), page("w")),
        at(100, over("w")),
        want(between(100, 100.1), resolve("w")),
        # Now they explain each other, and the oldest is told.
        want(between(105, 106.1), page("a")),
        routes=ROUTES + rules,
        until=400,
    )
    assert night.why("b")[-1] == "inhibition: x of a is open, and explains it"


WAITING = LADDER.replace("[[route]]", '[[route]]\ngroup_wait = "30s"')
TWO_ROUTES = """
[[route]]
name = "too"
policy = "ladder"
continue = true
group_wait = "1m"
[[route]]"""


def test_who_has_one_alert_has_not_what_nobody_was_told_of() -> None:
    play(
        at(0, open("a", severity="minor")),
        at(5, open("b", severity="critical")),
        at(10, acknowledge("a")),
        want(between(30, 30.1), page("a", "b", severity="critical", step=1)),
        at(40, acknowledge("b")),
        want(between(40, 40.1), acknowledged("a", "b")),
        routes=WAITING,
        until=1000,
    )


def test_who_has_the_page_of_one_route_has_not_what_waits_in_another() -> None:
    play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a", step=1)),
        at(5, open("b", severity="critical", quantity="other", kind="spike")),
        want(between(6, 6.1), page("b", step=1)),
        at(20, acknowledge("a")),
        want(between(20, 20.1), acknowledged("a")),
        want(between(60, 60.1), page("a", "b", severity="critical", step=1)),
        at(61, acknowledge("b")),
        want(between(61, 61.1), acknowledged("b")),
        want(between(61, 61.1), acknowledged("a", "b")),
        routes=LADDER.replace("[[route]]", TWO_ROUTES).replace(
            'group_wait = "1m"', 'group_by = ["zone"]\ngroup_wait = "1m"'
        ),
        until=1000,
    )


@pytest.mark.parametrize("apart", [0.0, 0.1])
def test_what_opens_as_the_worst_ends_is_worse_than_the_rest(apart: float) -> None:
    play(
        at(0, open("a", severity="critical"), open("c", severity="minor")),
        want(between(1, 1.1), page("a", "c", step=1)),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a", "c")),
        at(100, over("a")),
        at(100 + apart, open("b", severity="critical")),
        want(
            between(100 + apart, 100.2),
            page("a", "b", "c", severity="critical", step=1, ring=1),
        ),
        at(105, acknowledge("b")),
        want(between(105, 105.1), acknowledged("a", "b", "c", ring=1)),
        routes=LADDER,
        until=1000,
    )


@pytest.mark.parametrize("apart", [0.0, 0.1])
def test_what_opens_as_all_of_a_page_ends_is_a_page_of_its_own(apart: float) -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", step=1)),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(100, over("a")),
        want(between(100, 100.1), resolve("a")),
        at(100 + apart, open("b")),
        want(between(101, 101.2), page("b", step=1)),
        at(105, acknowledge("b")),
        want(between(105, 105.1), acknowledged("b")),
        routes=LADDER,
        until=1000,
    )


def test_nobody_else_is_woken_where_one_is_had_and_the_other_silenced() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a")),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(20, open("b", severity="critical")),
        want(between(20, 20.1), page("a", "b", step=1)),
        at(30, silence(1000, sensor="b")),
        # When the silence ends, whoever was due is told.
        want(between(1030, 1030.1), page("a", "b", step=2)),
        at(1040, acknowledge("b")),
        want(between(1040, 1040.1), acknowledged("a", "b")),
        routes=LADDER,
        until=2000,
    )


def test_what_is_silenced_is_not_told_with_what_is_not() -> None:
    play(
        at(0, open("a", severity="critical"), open("b", severity="minor")),
        at(0.5, silence(100, sensor="a")),
        want(between(1, 1.1), page("b", severity="minor", total=1)),
        at(5, acknowledge("b")),
        # Anna has not what she was not told of.
        want(between(5, 5.1), acknowledged("b")),
        want(between(100.5, 100.6), page("a", "b", severity="critical", step=1)),
        at(110, acknowledge("a")),
        want(between(110, 110.1), acknowledged("a", "b")),
        routes=LADDER,
        until=1000,
    )


def test_what_was_silenced_and_is_no_worse_is_theirs_who_have_the_page() -> None:
    play(
        at(0, open("a"), open("b")),
        at(0.5, silence(100, sensor="a")),
        want(between(1, 1.1), page("b", total=1)),
        at(5, acknowledge("b")),
        want(between(5, 5.1), acknowledged("b")),
        want(between(100.5, 100.6), update("a", "b", actor="anna")),
        routes=LADDER,
        until=1000,
    )


def test_what_was_silenced_with_something_else_is_told_when_it_no_longer_is() -> None:
    play(
        at(0, open("a", severity="critical"), open("b", severity="minor")),
        at(0.5, silence(100, sensor="a")),
        want(between(1, 1.1), page("b", severity="minor", total=1)),
        want(between(61, 61.1), page("b", severity="minor", step=2)),
        want(between(100.5, 100.6), page("a", "b", severity="critical", step=1)),
        routes=LADDER,
        until=110,
    )


def test_who_has_one_alert_of_a_page_has_the_page_and_its_other_alerts_everywhere() -> None:
    play(
        at(0, open("a"), open("b")),
        want(between(1, 1.1), page("a", "b", step=1)),
        want(between(1, 1.1), page("a", step=1)),
        want(between(1, 1.1), page("b", step=1)),
        at(10, acknowledge("b")),
        want(between(10, 10.1), acknowledged("a", "b")),
        want(between(10, 10.1), acknowledged("a")),
        want(between(10, 10.1), acknowledged("b")),
        routes=LADDER.replace("[[route]]", TWO_ROUTES).replace(
            'group_wait = "1m"', 'group_by = ["sensor"]'
        ),
        until=1000,
    )


def test_a_page_of_an_area_that_is_no_longer_dark_says_so() -> None:
    play(
        at(0, dark(*(f"s{number:02}" for number in range(20)))),
        want(between(4, 4.1), page(severity="major", total=20, step=1)),
        at(30, over(*(f"s{number:02}" for number in range(1, 20)))),
        want(
            between(64, 64.1),
            page(
                severity="minor",
                title="gateway north was dark: 1 of 20 sensors are still silent",
                step=2,
            ),
        ),
        routes=LADDER + DARK[len(ROUTES) :],
        zones=SENSORS,
        until=100,
    )


def test_what_flaps_between_two_severities_rings_once() -> None:
    rounds = range(3, 12)
    play(
        *flaps("a"),
        at(25, over("a")),
        *(at(10 * n, open("a", severity="minor" if n % 2 else "critical")) for n in rounds),
        *(at(10 * n + 5, over("a")) for n in rounds),
        want(between(40, 40.1), page("a", severity="critical", step=1)),
        at(61, acknowledge("a")),
        want(between(61, 61.1), acknowledged("a")),
        want(between(715, 715.1), resolve("a")),
        routes=FLAPPING,
        until=2000,
    )


def test_what_flaps_and_was_critical_does_not_hide_what_is() -> None:
    play(
        *flaps("a"),
        at(25, over("a")),
        at(30, open("a", severity="critical")),
        want(between(30, 30.1), page("a", severity="critical", ring=1)),
        at(31, acknowledge("a")),
        want(between(31, 31.1), acknowledged("a")),
        at(35, over("a")),
        at(40, open("a")),
        at(5000, open("b", severity="critical")),
        want(between(5000, 5000.1), page("a", "b", severity="critical", step=1, ring=2)),
        at(5010, acknowledge("b")),
        want(between(5010, 5010.1), acknowledged("a", "b")),
        routes=FLAPPING,
        until=5500,
    )


def test_a_worse_opening_that_was_not_told_leaves_the_place_to_the_next() -> None:
    play(
        *flaps("a"),
        at(25, acknowledge("a")),
        want(between(25, 25.1), acknowledged("a")),
        at(30, over("a")),
        # Of no news, and so never in the place of the one before.
        at(35, open("a", severity="critical", quality=4, category="city")),
        at(38, over("a")),
        at(45, open("a")),
        at(700, over("a")),
        want(between(1300, 1300.1), resolve("a", total=1)),
        routes=FLAPPING,
        until=2000,
    )


@pytest.mark.parametrize("apart", [0.0, 0.1])
def test_what_joins_as_somebody_takes_the_rest_is_theirs(apart: float) -> None:
    play(
        at(0, open("s"), open("x", kind="spike")),
        want(between(1, 1.1), page("s", "x", step=1)),
        want(between(1, 1.1), page("s", step=1)),
        want(between(1, 1.1), page("x", step=1)),
        at(50, acknowledge("s")),
        want(between(50, 50.1), acknowledged("s", "x")),
        want(between(50, 50.1), acknowledged("s")),
        want(between(50, 50.1), acknowledged("x")),
        at(50 + apart, open("d", kind="spike")),
        want(between(110, 110.1), update("s", "x", "d", actor="anna")),
        want(between(110, 110.1), update("x", "d", actor="anna")),
        routes=LADDER.replace("[[route]]", TWO_ROUTES).replace(
            'group_wait = "1m"', 'group_by = ["zone"]'
        ),
        until=1000,
    )


def test_a_page_is_told_anew_after_the_last_step() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", step=1)),
        want(between(61, 61.1), page("a", step=2)),
        want(between(181, 181.1), page("a", step=3)),
        want(between(301, 301.1), page("a", step=1)),
        want(between(361, 361.1), page("a", step=2)),
        routes=LADDER.replace('"1h"', '"2m"'),
        until=400,
    )


def test_a_policy_that_was_renamed_goes_on_by_its_route() -> None:
    renamed = LADDER.replace("ladder", "climb") + '[[route]]\nname = "rest"\npolicy = "nobody"\n'
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", step=1)),
        at(2, open("b", zone="z2")),
        at(2.5, reroute(renamed.replace('"all"', '"all"\nmatch = { kind = "level" }', 1))),
        want(between(3, 3.1), page("b", step=1)),
        want(between(61, 61.1), page("a", step=2)),
        want(between(63, 63.1), page("b", step=2)),
        routes=LADDER,
        until=100,
    )


def test_an_alert_waits_anew_for_what_explains_it_when_its_silence_ends() -> None:
    play(
        at(0, silence(100, sensor="a")),
        at(1, open("a")),
        at(102, open("p", kind="power")),
        want(between(103, 103.1), page("p")),
        routes=ROUTES + INHIBIT,
        until=500,
    )


CRITICAL_ROUTE = """
[[route]]
name = "critical"
match = { severity = "critical" }
policy = "ladder"
[[route]]"""


def test_what_flaps_and_opens_worse_may_go_by_another_route() -> None:
    play(
        *flaps("a"),
        at(30, over("a")),
        at(33, open("a", severity="critical")),
        want(
            between(33, 33.1),
            resolve(title="Over: harbour level: what was told by it has pages of its own", total=0),
        ),
        want(between(34, 34.1), page("a", severity="critical", labels=ANY_CRITICAL)),
        at(40, acknowledge("a")),
        want(between(40, 40.1), acknowledged("a")),
        routes=FLAPPING.replace("[[route]]", CRITICAL_ROUTE),
        until=600,
    )


def test_what_an_alert_left_for_another_page_does_not_say_that_all_is_over() -> None:
    play(
        *flaps("a"),
        at(25, open("b")),
        want(between(81, 81.1), page("a", "b", step=2)),
        at(85, acknowledge("b")),
        want(between(85, 85.1), acknowledged("a", "b")),
        at(86, over("a")),
        at(88, open("a", severity="critical")),
        want(between(89, 89.1), page("a", severity="critical", labels=ANY_CRITICAL)),
        at(92, acknowledge("a")),
        want(between(92, 92.1), acknowledged("a")),
        at(100, over("b")),
        want(between(100, 100.1), resolve("b", text=f"{THE_REST}\nb speaks")),
        routes=FLAPPING.replace("[[route]]", CRITICAL_ROUTE),
        until=300,
    )


ANY_CRITICAL = {"zone": "harbour", "kind": "level", "route": "critical"}


def test_a_page_whose_only_alert_is_silenced_and_was_not_told_can_be_acknowledged() -> None:
    play(
        *flaps("a"),
        at(25, open("b")),
        at(26, silence(100, sensor="b")),
        at(30, over("a")),
        at(33, open("a", severity="critical")),
        want(between(34, 34.1), page("a", severity="critical", labels=ANY_CRITICAL)),
        at(36, acknowledge("a")),
        want(between(36, 36.1), acknowledged("a")),
        at(40, acknowledge("b")),
        routes=FLAPPING.replace("[[route]]", CRITICAL_ROUTE),
        until=120,
    )


def test_what_a_summary_told_by_one_route_is_theirs_who_take_it_though_it_is_silenced() -> None:
    too = """
[[route]]
name = "too"
policy = "all"
continue = true
group_by = ["sensor"]
group_wait = "8s"
[[route]]"""
    play(
        at(0, open("x", zone="z9")),
        at(2, acknowledge("x")),
        want(between(1, 1.1), page("x")),
        want(between(2, 2.1), acknowledged("x")),
        at(10, open("b", zone="z1")),
        want(between(11, 11.1), page("b", cause="budget")),
        at(20, silence(5, sensor="b")),
        at(21, take("b", "carl")),
        want(between(21, 21.1), acknowledged("b", cause="budget")),
        routes=ROUTES.replace("[[route]]", too) + '\n[shift]\nbudget = 1\nsummary_wait = "0s"\n',
        until=3000,
    )


def test_what_flaps_and_was_never_told_rings_where_it_is_worse() -> None:
    play(
        *(
            move
            for begin in (0, 10)
            for move in (
                at(begin, open("a")),
                want(between(begin + 1, begin + 1.1), page("a")),
                at(begin + 5, over("a")),
                want(between(begin + 5, begin + 5.1), resolve("a")),
            )
        ),
        at(100, open("b", severity="minor")),
        want(between(101, 101.1), page("b", severity="minor")),
        at(110, acknowledge("b")),
        want(between(110, 110.1), acknowledged("b")),
        at(120, open("c", severity="critical")),
        want(between(120, 120.1), page("b", "c", severity="critical", ring=1)),
        at(125, open("a")),
        at(130, silence(60, sensor="a")),
        at(140, over("c")),
        want(between(140, 140.1), acknowledged("b")),
        at(150, over("a")),
        at(155, open("a")),
        want(between(190, 190.1), page("a", "b", "c", severity="major", ring=2)),
        at(195, acknowledge("a")),
        want(between(195, 195.1), acknowledged("a", "b", "c")),
        routes=FLAPPING,
        until=600,
    )


@pytest.mark.parametrize("lasts", [35, 500])
def test_what_was_quieted_as_it_left_its_summary_is_told_when_it_no_longer_is(lasts: int) -> None:
    ends = 20 + lasts
    play(
        *SPENT,
        at(10, open("b", zone="z2", severity="minor")),
        want(between(11, 11.1), page("b", cause="budget", severity="minor")),
        at(20, silence(lasts, sensor="b"), open("c", zone="z2", severity="critical")),
        want(between(20, 20.1), page("c", severity="critical")),
        want(between(20, 20.2), resolve(cause="budget", total=0)),
        # From here on that page speaks of it, for the summary does not.
        want(between(ends, ends + 0.1), update("c", "b", severity="critical")),
        at(900, over("b"), over("c")),
        want(between(900, 900.1), resolve("b", "c")),
        routes=ROUTES + "\n[shift]\nbudget = 1\n",
        until=950,
    )


def test_whoever_has_the_pages_of_two_routes_has_in_both_what_joins_them() -> None:
    play(
        at(0, open("b", severity="critical")),
        want(between(1, 1.1), page("b", step=1)),
        want(between(1, 1.1), page("b", step=1)),
        at(10, acknowledge("b")),
        want(between(10, 10.1), acknowledged("b")),
        want(between(10, 10.1), acknowledged("b")),
        at(100, open("a", severity="minor")),
        want(between(100, 100.1), update("a", "b", actor="anna")),
        want(between(100, 100.1), update("a", "b", actor="anna")),
        at(110, over("b")),
        at(900, over("a")),
        want(between(900, 900.1), resolve("a", "b")),
        want(between(900, 900.1), resolve("a", "b")),
        routes=LADDER.replace("[[route]]", TWO_ROUTES.replace("1m", "1s")),
        until=1000,
    )

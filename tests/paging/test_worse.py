"""Alerts that get worse while they are open: whoever had one, had less."""

import pytest

from tests.paging.test_timelines import DARK, LADDER, SENSORS, THE_REST
from tests.paging.timeline import (
    ROUTES,
    acknowledge,
    acknowledged,
    at,
    between,
    dark,
    lift,
    maintenance,
    open,  # noqa: A004 - the word of the trade
    over,
    page,
    play,
    resolve,
    silence,
    take,
    update,
    want,
    worse,
)

BY_SEVERITY = LADDER.replace("[[route]]", '[[route]]\ngroup_by = ["zone", "severity"]')
CRITICAL = """
[[route]]
name = "critical"
match = { severity = "critical" }
policy = "ladder"
group_wait = "5s"
[[route]]"""


def test_what_gets_worse_is_told_at_once_though_somebody_had_it() -> None:
    night = play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a", severity="minor", step=1)),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(100, worse("a")),
        want(
            between(100, 100.1),
            page(
                "a",
                severity="critical",
                step=1,
                ring=1,
                total=1,
                text="it was minor, and is critical\na shouts",
            ),
        ),
        want(between(160, 160.1), page("a", severity="critical", step=2, ring=1)),
        at(170, acknowledge("a")),
        want(between(170, 170.1), acknowledged("a", ring=1)),
        at(900, over("a")),
        want(between(900, 900.1), resolve("a", severity="critical", ring=1)),
        routes=LADDER,
        until=1000,
    )
    assert night.memory.groups == {}


def test_it_gets_worse_once_however_often_that_is_said() -> None:
    play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a", severity="minor")),
        at(10, worse("a", "major"), worse("a", "major")),
        want(between(10, 10.1), page("a", severity="major", ring=1)),
        at(11, worse("a", "minor"), worse("a", "major")),
        at(20, worse("a")),
        want(between(20, 20.1), page("a", severity="critical", ring=2)),
        until=200,
    )


def test_what_got_worse_and_is_no_worse_than_the_rest_is_theirs_who_have_that() -> None:
    play(
        at(0, open("a", severity="minor"), open("b", severity="critical")),
        want(between(1, 1.1), page("a", "b", severity="critical", step=1)),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a", "b")),
        at(100, worse("a"), open("c", severity="minor")),
        want(
            between(100, 100.1),
            update(
                "a",
                "b",
                "c",
                actor="anna",
                text="1 alert joined, 1 alert got worse\na shouts\nb speaks\nc speaks",
            ),
        ),
        at(900, over("b", "a", "c")),
        want(between(900, 900.1), resolve("a", "b", "c")),
        routes=LADDER,
        until=1000,
    )


def test_what_alone_got_worse_did_not_join() -> None:
    play(
        at(0, open("a", severity="minor"), open("b", severity="critical")),
        want(between(1, 1.1), page("a", "b", severity="critical", step=1)),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a", "b")),
        at(100, worse("a")),
        want(between(100, 100.1), update("a", "b", text="1 alert got worse\na shouts\nb speaks")),
        routes=LADDER,
        until=1000,
    )


def test_what_was_theirs_as_it_joined_is_nobodys_when_it_is_worse() -> None:
    night = play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", step=1)),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(100, open("b", severity="minor")),
        want(between(100, 100.1), update("a", "b", actor="anna")),
        at(200, worse("b")),
        want(between(200, 200.1), page("a", "b", severity="critical", step=1, ring=1)),
        at(210, acknowledge("b")),
        want(between(210, 210.1), acknowledged("a", "b", ring=1)),
        routes=LADDER,
        until=1000,
    )
    states = [{one.sensor: one.state for one in telling.notice.alerts} for _, telling in night.told]
    assert states[3:] == [
        {"a": "acknowledged", "b": "open"},
        {"a": "acknowledged", "b": "acknowledged"},
    ]


def test_what_was_had_itself_is_open_again_when_it_is_worse() -> None:
    night = play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a")),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(20, worse("a")),
        want(between(20, 20.1), page("a", severity="critical", ring=1)),
        until=30,
    )
    assert [telling.notice.counts.open for _, telling in night.told] == [1, 0, 1]


def test_a_page_that_its_routes_would_tell_nobody_now_goes_on() -> None:
    nobody = CRITICAL.replace('policy = "ladder"\ngroup_wait = "5s"', 'policy = "nobody"')
    play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a", severity="minor", step=1)),
        at(10, worse("a")),
        want(between(10, 10.1), page("a", severity="critical", step=1, ring=1)),
        routes=LADDER.replace("[[route]]", nobody),
        until=50,
    )


def test_a_sensor_of_a_dark_area_stays_with_that() -> None:
    play(
        at(0, dark(*(f"s{number:02}" for number in range(20)))),
        want(between(4, 4.1), page(severity="major", total=20, step=1)),
        at(10, worse("s03")),
        want(between(10, 10.1), page(severity="critical", total=20, step=1, ring=1)),
        routes=LADDER + DARK[len(ROUTES) :],
        zones=SENSORS,
        until=50,
    )


def test_what_came_to_another_page_joined_that_though_it_had_got_worse_before() -> None:
    play(
        at(0, open("c", severity="critical"), open("a", severity="minor")),
        want(between(1, 1.1), page("a", severity="minor", step=1)),
        want(between(5, 5.1), page("c", severity="critical", step=1)),
        at(10, acknowledge("a"), acknowledge("c")),
        want(between(10, 10.1), acknowledged("a")),
        want(between(10, 10.1), acknowledged("c")),
        at(20, silence(100, sensor="a")),
        at(30, worse("a", "major")),
        at(110, lift(), worse("a")),
        want(between(110, 110.1), resolve(total=0)),
        want(between(110, 110.1), update("a", "c", text="1 alert joined\na shouts\nc speaks")),
        routes=LADDER.replace("[[route]]", CRITICAL),
        until=400,
    )


def test_what_gets_worse_within_the_group_wait_is_told_as_it_is() -> None:
    play(
        at(0, open("a", severity="minor")),
        at(0.5, worse("a")),
        want(between(1, 1.1), page("a", severity="critical", ring=0, text="a shouts")),
        until=20,
    )


@pytest.mark.parametrize("lasts", [50, 500])
def test_what_gets_worse_in_a_silence_is_told_when_that_ends(lasts: int) -> None:
    play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a", severity="minor")),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(20, silence(lasts, sensor="a")),
        at(30, worse("a")),
        want(between(20 + lasts, 20.1 + lasts), page("a", severity="critical", ring=1)),
        until=19 + 2 * lasts,
    )


def test_a_silence_of_what_is_minor_does_not_hold_what_got_worse() -> None:
    play(
        at(0, silence(1000, severity="minor")),
        at(1, open("a", severity="minor")),
        at(50, worse("a")),
        want(between(51, 51.1), page("a", severity="critical", ring=0)),
        until=60,
    )


def test_what_was_no_news_is_news_when_it_is_worse() -> None:
    night = play(
        at(0, open("a", severity="informational")),
        at(100, worse("a", "major")),
        want(between(101, 101.1), page("a", severity="major")),
        at(110, acknowledge("a")),
        want(between(110, 110.1), acknowledged("a")),
        at(120, over("a")),
        want(between(120, 120.1), resolve("a")),
        until=200,
    )
    assert "got worse" in " ".join(night.why("a"))


def test_in_a_maintenance_window_it_waits_for_the_end_of_that() -> None:
    play(
        at(0, maintenance(100, zone="harbour")),
        at(1, open("a", severity="minor")),
        at(50, worse("a")),
        at(70, lift()),
        want(between(70, 71.1), page("a", severity="critical", ring=0)),
        until=90,
    )


def test_it_goes_on_by_the_route_that_it_belongs_to_now() -> None:
    play(
        at(0, open("a", severity="minor"), open("b", severity="minor")),
        want(between(1, 1.1), page("a", "b", severity="minor", step=1)),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a", "b")),
        at(20, worse("a")),
        want(between(20, 20.1), page("a", severity="critical", step=1, total=1)),
        at(30, acknowledge("a")),
        want(between(30, 30.1), acknowledged("a")),
        at(40, over("b")),
        want(
            between(40, 40.1),
            resolve(
                "b",
                text="what is left of it is over, on good readings; the rest has a page\nb speaks",
            ),
        ),
        at(50, over("a")),
        want(between(50, 50.1), resolve("a", severity="critical")),
        routes=LADDER.replace("[[route]]", CRITICAL),
        until=200,
    )


def test_alone_on_its_page_it_leaves_nothing_there() -> None:
    play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a", severity="minor", step=1)),
        at(10, worse("a")),
        want(between(10, 10.1), resolve(total=0)),
        want(between(10, 10.1), page("a", severity="critical", step=1, total=1)),
        at(12, acknowledge("a")),
        want(between(12, 12.1), acknowledged("a")),
        routes=BY_SEVERITY,
        until=200,
    )


def test_a_summary_does_not_speak_for_what_became_critical() -> None:
    play(
        at(0, open("x", zone="z9")),
        want(between(1, 1.1), page("x")),
        at(10, open("a", severity="minor")),
        want(between(11, 11.1), page("a", cause="budget", severity="minor")),
        at(20, acknowledge("a")),
        want(between(20, 20.1), acknowledged("a", cause="budget")),
        at(30, worse("a")),
        want(between(30, 30.1), page("a", severity="critical")),
        want(between(30, 30.2), resolve(cause="budget", total=0)),
        routes=ROUTES + "\n[shift]\nbudget = 1\n",
        until=100,
    )


def test_what_flaps_may_get_worse_as_well() -> None:
    play(
        *(
            move
            for begin in (0, 10)
            for move in (
                at(begin, open("a", severity="minor")),
                want(between(begin + 1, begin + 1.1), page("a")),
                at(begin + 5, over("a")),
                want(between(begin + 5, begin + 5.1), resolve("a")),
            )
        ),
        at(20, open("a", severity="minor")),
        want(between(21, 21.1), page("a", severity="minor")),
        at(25, acknowledge("a")),
        want(between(25, 25.1), acknowledged("a")),
        at(26, worse("a")),
        want(between(26, 26.1), page("a", severity="critical", ring=1)),
        at(27, acknowledge("a")),
        want(between(27, 27.1), acknowledged("a", ring=1)),
        # Calm, and as bad again: that is known.
        at(30, over("a")),
        at(35, open("a", severity="critical")),
        at(40, over("a")),
        want(between(640, 640.1), resolve("a")),
        routes=ROUTES + '\n[flapping]\ntimes = 2\nwithin = "10m"\n',
        until=2000,
    )


def test_what_is_over_gets_no_worse() -> None:
    play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a")),
        at(10, over("a")),
        want(between(10, 10.1), resolve("a", severity="minor")),
        at(11, worse("a")),
        until=100,
    )


def test_who_takes_a_page_as_something_of_it_gets_worse_has_not_that() -> None:
    play(
        at(0, open("a", severity="minor"), open("b", severity="minor")),
        want(between(1, 1.1), page("a", "b", severity="minor", step=1)),
        at(10, worse("b"), take("a")),
        want(between(10, 10.1), acknowledged("a")),
        want(between(10, 10.1), page("a", "b", severity="critical", step=1, ring=1)),
        at(20, take("a")),
        want(between(20, 20.1), acknowledged("a", "b", ring=1)),
        routes=LADDER,
        until=500,
    )


@pytest.mark.parametrize("apart", [0.0, 0.1])
def test_what_gets_worse_as_the_worst_ends_is_worse_than_the_rest(apart: float) -> None:
    play(
        at(0, open("a", severity="critical"), open("c", severity="minor")),
        want(between(1, 1.1), page("a", "c", step=1)),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a", "c")),
        at(100, over("a")),
        at(100 + apart, worse("c")),
        want(between(100 + apart, 100.2), page("a", "c", severity="critical", step=1, ring=1)),
        at(110, acknowledge("c")),
        want(between(110, 110.1), acknowledged("a", "c", ring=1)),
        routes=LADDER,
        until=1000,
    )


def test_what_got_worse_twice_before_anybody_heard_was_what_they_know() -> None:
    play(
        at(0, open("a", severity="minor"), open("b", severity="critical")),
        want(between(1, 1.1), page("a", "b", step=1)),
        at(10, acknowledge("b")),
        want(between(10, 10.1), acknowledged("a", "b")),
        at(20, worse("a", "major"), over("b")),
        want(between(20, 20.1), page("a", "b", severity="major", step=1, ring=1)),
        at(30, silence(100, sensor="a")),
        at(40, worse("a", "critical")),
        want(between(130, 130.1), page("a", "b", severity="critical", step=1, ring=2)),
        at(140, acknowledge("a")),
        want(between(140, 140.1), acknowledged("a", "b")),
        routes=LADDER,
        until=600,
    )


def test_who_takes_a_page_as_it_gets_worse_has_not_what_another_route_takes_then() -> None:
    crisis = """[[route]]
name = "critical"
match = { severity = "critical" }
policy = "crisis"
continue = true
[[route]]"""
    policy = """
[hook.crisis]
type = "webhook"
url = "http://127.0.0.1:3/"
[policy.crisis]
steps = [{ to = ["hook:crisis"] }]
"""
    play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a", step=1)),
        at(10, worse("a"), take("a")),
        want(between(10, 10.1), page("a", severity="critical", to={"crisis"})),
        want(between(10, 10.1), page("a", severity="critical", to={"control"}, ring=1)),
        at(20, acknowledge("a")),
        want(between(20, 20.1), acknowledged("a")),
        want(between(20, 20.1), acknowledged("a")),
        routes=LADDER.replace("[[route]]", crisis, 1) + policy,
        until=100,
    )


def test_what_flaps_between_two_severities_while_it_is_open_rings_once() -> None:
    play(
        *(
            move
            for begin in (0, 10)
            for move in (
                at(begin, open("a", severity="minor")),
                want(between(begin + 1, begin + 1.1), page("a")),
                at(begin + 5, over("a")),
                want(between(begin + 5, begin + 5.1), resolve("a")),
            )
        ),
        at(20, open("a", severity="minor")),
        want(between(21, 21.1), page("a", severity="minor")),
        at(22, acknowledge("a")),
        want(between(22, 22.1), acknowledged("a")),
        at(25, worse("a")),
        want(between(25, 25.1), page("a", severity="critical", ring=1)),
        at(26, acknowledge("a")),
        want(between(26, 26.1), acknowledged("a", ring=1)),
        *(
            at(begin + after, move)
            for begin in (30, 50, 70)
            for after, move in (
                (0, over("a")),
                (5, open("a", severity="minor")),
                (10, worse("a")),
            )
        ),
        routes=ROUTES + '\n[flapping]\ntimes = 2\nwithin = "10m"\n',
        until=300,
    )


def test_a_summary_that_something_left_does_not_say_that_all_is_over() -> None:
    spoken_for = "speaks for harbour level minor\nspeaks for z2 level minor"
    play(
        at(0, open("x", zone="z9")),
        want(between(1, 1.1), page("x")),
        at(10, open("a", severity="minor"), open("b", severity="minor", zone="z2")),
        want(between(11, 11.1), page("a", "b", cause="budget", severity="minor")),
        at(30, worse("a")),
        want(between(30, 30.1), page("a", severity="critical")),
        at(40, over("b")),
        want(
            between(40, 40.1),
            resolve("b", cause="budget", text=f"{THE_REST}\n{spoken_for}\nb speaks"),
        ),
        routes=ROUTES.replace("[[route]]", '[[route]]\ngroup_by = ["zone", "kind", "severity"]')
        + "\n[shift]\nbudget = 1\n",
        until=60,
    )


def test_what_gets_worse_in_a_summary_stays_with_that_where_it_may() -> None:
    play(
        at(0, open("x", zone="z9")),
        want(between(1, 1.1), page("x")),
        at(10, open("a", severity="minor")),
        want(between(11, 11.1), page("a", cause="budget", severity="minor", step=1)),
        at(30, worse("a", "major")),
        want(between(30, 30.1), page("a", cause="budget", severity="major", step=1, ring=1)),
        at(40, acknowledge("a")),
        want(between(40, 40.1), acknowledged("a", cause="budget")),
        routes=ROUTES.replace("[[route]]", '[[route]]\ngroup_by = ["zone", "severity"]')
        + "\n[shift]\nbudget = 1\n",
        until=100,
    )


def test_what_flaps_and_was_as_bad_unheard_rings_when_it_is_heard() -> None:
    play(
        *(
            move
            for begin in (0, 10)
            for move in (
                at(begin, open("a", severity="minor")),
                want(between(begin + 1, begin + 1.1), page("a")),
                at(begin + 5, over("a")),
                want(between(begin + 5, begin + 5.1), resolve("a")),
            )
        ),
        at(20, open("a", severity="minor")),
        want(between(21, 21.1), page("a", severity="minor")),
        at(22, acknowledge("a")),
        want(between(22, 22.1), acknowledged("a")),
        at(30, silence(100, sensor="a")),
        at(40, worse("a")),
        at(50, over("a")),
        at(60, open("a", severity="minor")),
        want(between(130, 130.1), update("a", severity="minor")),
        at(200, worse("a")),
        want(between(200, 200.1), page("a", severity="critical")),
        routes=ROUTES + '\n[flapping]\ntimes = 2\nwithin = "10m"\n',
        until=300,
    )


@pytest.mark.parametrize("apart", [0.0, 0.1])
def test_what_opens_as_all_have_left_a_page_is_a_page_of_its_own(apart: float) -> None:
    play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a", severity="minor")),
        at(5, acknowledge("a")),
        want(between(5, 5.1), acknowledged("a")),
        at(100, worse("a")),
        at(100 + apart, open("b", severity="minor")),
        want(between(100, 100.1), resolve(total=0)),
        want(between(100, 100.1), page("a", severity="critical")),
        want(between(101, 101.2), page("b", severity="minor")),
        routes=ROUTES.replace("[[route]]", '[[route]]\ngroup_by = ["zone", "severity"]'),
        until=200,
    )


@pytest.mark.parametrize("apart", [0.0, 0.1])
def test_what_gets_worse_as_a_page_ends_is_not_theirs_who_had_that(apart: float) -> None:
    play(
        at(0, open("b", severity="critical"), open("c", severity="minor")),
        want(between(1, 1.1), page("b", severity="critical")),
        want(between(1, 1.1), page("c", severity="minor")),
        at(5, acknowledge("b"), acknowledge("c")),
        want(between(5, 5.1), acknowledged("b")),
        want(between(5, 5.1), acknowledged("c")),
        at(100, over("b")),
        at(100 + apart, worse("c")),
        want(between(100, 100.1), resolve("b")),
        want(between(100 + apart, 100.2), resolve(total=0)),
        want(between(100 + apart, 100.2), page("c", severity="critical")),
        routes=ROUTES.replace("[[route]]", '[[route]]\ngroup_by = ["zone", "severity"]'),
        until=200,
    )


def test_what_gets_worse_and_is_over_at_once_leaves_nothing() -> None:
    night = play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a", severity="minor")),
        at(10, worse("a"), over("a")),
        want(between(10, 10.1), resolve(total=0)),
        # With its own wait.
        at(20, open("b", severity="critical")),
        want(between(21, 21.1), page("b", severity="critical")),
        at(30, over("b")),
        want(between(30, 30.1), resolve("b")),
        routes=ROUTES.replace("[[route]]", '[[route]]\ngroup_by = ["zone", "severity"]'),
        until=2000,
    )
    assert night.memory.groups == {}


def test_what_gets_worse_twice_at_once_goes_by_what_it_is_in_the_end() -> None:
    nobody = """[[route]]
name = "nobody"
match = { severity = "critical" }
policy = "nobody"
[[route]]
group_by = ["zone", "severity"]"""
    night = play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a", severity="minor")),
        at(10, worse("a", "major"), worse("a", "critical")),
        want(between(10, 10.1), resolve(total=0)),
        routes=ROUTES.replace("[[route]]", nobody),
        until=50,
    )
    assert night.why("a")[-1] == "routing: route nobody tells nobody"

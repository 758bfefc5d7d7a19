"""The small print of the stages, as timelines: what each does beside what it is there for."""

from typing import Any

import pytest

from tests.paging.test_timelines import (
    CORROBORATE,
    DARK,
    INHIBIT,
    LADDER,
    LADDER_OF_ONE,
    SENSORS,
    some,
)
from tests.paging.timeline import (
    ROUTES,
    acknowledge,
    acknowledged,
    at,
    back,
    between,
    dark,
    lost,
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
    update,
    want,
)

FLAPPING = '\n[flapping]\ntimes = 2\nwithin = "100s"\n'


def test_neighbours_that_spoke_long_before_do_not_count() -> None:
    night = play(
        at(0, open("a", kind="exceedance"), open("b", kind="exceedance")),
        want(between(1, 1.1), page("a", "b")),
        at(100, open("c", kind="exceedance")),
        routes=ROUTES + CORROBORATE,
    )
    assert night.why("c")[-1] == "corroboration: only 0 of 1 neighbours within 1m"


def test_a_budget_that_is_spent_ends_no_escalation() -> None:
    play(
        at(0, open("a", zone="z1")),
        want(between(1, 1.1), page("a", step=1)),
        at(10, open("b", zone="z2")),
        want(between(11, 11.1), page("b", cause="budget")),
        want(between(61, 61.1), page("a", step=2)),
        at(65, over("b")),
        want(between(65, 65.1), resolve("b", cause="budget")),
        want(between(181, 181.1), page("a", step=3)),
        routes=LADDER + "\n[shift]\nbudget = 1\n",
    )


def test_a_new_shift_has_a_budget_of_its_own_and_leaves_to_the_summary_what_it_speaks_for() -> None:
    six = 4 * 3600
    play(
        at(0, open("a", zone="z1")),
        want(between(1, 1.1), page("a")),
        at(10, open("b", zone="z2")),
        want(between(11, 11.1), page("b", cause="budget")),
        at(20, acknowledge("a"), acknowledge("b")),
        want(between(20, 20.1), acknowledged("a")),
        want(between(20, 20.1), acknowledged("b", cause="budget")),
        at(six + 10, open("c", zone="z2")),
        want(between(six + 10, six + 11.1), update("b", "c", cause="budget")),
        at(six + 20, open("d", zone="z3")),
        want(between(six + 21, six + 21.1), page("d", cause="sensors")),
        routes=ROUTES + "\n[shift]\nbudget = 1\n",
        until=six + 60,
    )


def test_what_joins_a_group_that_somebody_had_before_it_was_told_is_told() -> None:
    play(
        at(0, open("a")),
        at(0.5, acknowledge("a")),
        at(20, open("b")),
        want(between(20, 21.1), page("a", "b")),
    )


@pytest.mark.parametrize(
    "facts", [{"namespace": "replay-monday"}, {"kind": "season"}, {"since": moment(-90_000)}]
)
def test_what_takes_the_place_of_an_alert_that_flaps_passes_every_gate(
    facts: dict[str, Any],
) -> None:
    kind = {"kind": "season"} if "kind" in facts else {}
    # On trial is only what is critical, as the last one is and those before were not.
    shadow = '\n[[shadow]]\nmatch = { kind = "season", severity = "critical" }\n'
    worse = {"severity": "critical"} if kind else {}
    play(
        at(0, open("a", **kind)),
        want(between(1, 1.1), page("a")),
        at(10, over("a")),
        want(between(10, 10.1), resolve("a")),
        at(20, open("a", **kind)),
        want(between(21, 21.1), page("a")),
        at(30, over("a")),
        want(between(30, 30.1), resolve("a")),
        at(40, open("a", **kind)),
        want(between(41, 41.1), page("a")),
        at(50, over("a")),
        at(60, open("a", **facts, **worse)),
        want(between(150, 150.1), resolve("a")),
        routes=ROUTES + FLAPPING + shadow,
    )


def test_what_becomes_of_a_silent_sensor_does_not_prolong_its_wait() -> None:
    play(
        at(0, dark("s00")),
        at(5, stale("s00")),
        want(between(11, 11.1), page("s00", cause="sensors")),
        routes=DARK,
        zones=SENSORS,
    )


def test_an_alert_does_not_explain_itself_nor_one_of_its_own_sort() -> None:
    both = INHIBIT.replace('kind = "service-level"', 'kind = ["incident", "service-level"]')
    play(
        at(0, open("crash", kind="incident"), open("fire", kind="incident")),
        want(between(1, 1.1), page("crash", "fire")),
        routes=both,
    )


def test_of_two_dark_areas_the_larger_speaks_for_what_falls_silent_later() -> None:
    night = play(
        at(0, dark(*some("s", 0, 10))),
        want(between(4, 4.1), page(cause_name="north", total=10)),
        at(60, dark(*some("s", 20, 40))),
        want(between(61, 61.1), page(cause_name="harbour", total=20)),
        at(90, dark("s15")),
        routes=DARK,
        zones=SENSORS,
    )
    assert night.why("s15") == ["darkness: zone harbour is dark, and speaks for it"]


def test_of_two_groups_of_one_area_the_later_speaks_for_what_falls_silent_later() -> None:
    night = play(
        at(0, dark(*some("s", 0, 18))),
        want(between(4, 4.1), page(cause="gateway", total=18)),
        at(30, over(*some("s", 1, 18))),
        at(40, dark(*some("s", 1, 18))),
        want(between(44, 44.1), page(cause="gateway", total=17)),
        at(60, dark("s19")),
        at(90, over(*some("s", 1, 18), "s19")),
        want(between(90, 90.1), resolve(cause="gateway", total=18)),
        routes=DARK,
        zones=SENSORS,
    )
    assert night.why("s19") == ["darkness: gateway north is dark, and speaks for it"]


def test_the_silence_that_ends_last_has_the_last_word() -> None:
    night = play(
        at(0, silence(200, sensor="a"), silence(100, sensor="*")),
        at(10, open("a")),
        want(between(201, 201.1), page("a")),
    )
    assert night.said[0].until == moment(200)


def test_a_group_speaks_when_the_first_of_its_alerts_is_let_go() -> None:
    play(
        at(0, open("a"), open("b")),
        at(0.5, silence(100, sensor="a"), silence(200, sensor="b")),
        want(between(100.5, 100.6), page("a")),
        want(between(200.5, 200.6), update("a", "b")),
    )


def test_what_gets_worse_asks_again_for_somebody_who_has_it() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", step=1)),
        at(30, acknowledge("a")),
        want(between(30, 30.1), acknowledged("a")),
        at(100, open("b", severity="critical")),
        want(between(100, 100.1), page("a", "b", step=1)),
        want(between(160, 160.1), page("a", "b", to={"sms:anna"}, step=2)),
        at(170, acknowledge("b", by="bo")),
        want(between(170, 170.1), acknowledged(actor="bo")),
        routes=LADDER,
    )


def test_a_step_that_is_long_past_is_given_up_without_consequence() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", step=1)),
        want(between(61, 61.1), page("a", step=2)),
        at(70, lost("control", step=1)),
        want(between(181, 181.1), page("a", step=3)),
        routes=LADDER,
        until=300,
    )


def test_what_somebody_has_is_still_theirs_when_its_sensor_speaks_again() -> None:
    night = play(
        at(0, open("a")),
        want(between(1, 1.1), page("a")),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(100, stale("a")),
        at(200, back("a")),
    )
    (track,) = night.memory.tracks.values()
    assert track.state == "acknowledged"


def test_what_is_over_is_over_whatever_is_said_of_it_later() -> None:
    play(
        at(0, open("a"), open("b")),
        want(between(1, 1.1), page("a", "b")),
        at(10, over("a")),
        at(20, stale("a")),
        at(40, over("b")),
        want(between(40, 40.1), resolve("a", "b")),
    )


def test_an_area_goes_past_a_route_that_tells_nobody() -> None:
    nobody = '\n[[route]]\nname = "quiet"\nmatch = { sensor = "north" }\npolicy = "nobody"\n'
    goes_on = nobody + "continue = true\n[[route]]"
    play(
        at(0, dark(*some("s", 0, 20))),
        want(between(4, 4.1), page(cause_name="north", policy="all")),
        routes=DARK.replace("\n[[route]]", goes_on),
        zones=SENSORS,
        until=60,
    )


def test_a_pager_that_was_away_takes_the_next_step_when_it_was_due_all_the_same() -> None:
    night = night_of(LADDER)
    open("a")(night, moment(0))
    for seconds in (0, 1, 100):
        night.turn(moment(seconds))
    assert [seconds for seconds, _ in night.told] == [1, 100]
    assert night.wake_at == moment(181)


@pytest.mark.parametrize(("after", "is_company"), [(60, True), (60.1, False)])
def test_neighbours_count_to_the_last_moment(after: float, is_company: bool) -> None:
    told = [want(between(after, after + 1.1), page("a", "c"))] if is_company else []
    play(
        at(0, open("a", kind="exceedance")),
        at(after, open("c", kind="exceedance")),
        *told,
        routes=ROUTES + CORROBORATE,
        until=59 + after,
    )


def test_since_when_somebody_has_a_page_outlasts_what_nobody_had_of_it() -> None:
    night = play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a", step=1)),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(100, open("b", severity="critical")),
        want(between(100, 100.1), page("a", "b", step=1)),
        at(130, over("b")),
        want(between(130, 130.1), acknowledged("a")),
        routes=LADDER,
        until=140,
    )
    (group,) = night.memory.groups.values()
    assert (group.acknowledged_at, group.acknowledged_by) == (moment(10), "anna")


def test_a_page_that_nobody_got_is_told_anew_no_later_than_it_would_have_been() -> None:
    routes = LADDER_OF_ONE.replace('"1h"', '"2m"')
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", step=1)),
        at(100, lost("sms:anna")),
        want(between(121, 121.1), page("a", step=1)),
        routes=routes,
        until=130,
    )


def test_the_steps_of_a_policy_that_was_made_longer_late_keep_their_distance() -> None:
    short = LADDER.replace(LADDER[LADDER.index("    { after") : LADDER.index("]\n[[route]]")], "")
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", step=1)),
        at(150, reroute(LADDER)),
        # A minute after the first it would have been due.
        want(between(150, 150.1), page("a", step=2)),
        want(between(270, 270.1), page("a", step=3)),
        routes=short,
        until=280,
    )

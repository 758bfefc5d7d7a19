"""The night as people live it: each stage of the pager, as a timeline."""

from typing import Any

import pytest

from tests.paging.timeline import (
    ROUTES,
    acknowledge,
    acknowledged,
    again,
    at,
    back,
    between,
    dark,
    lift,
    lost,
    maintenance,
    moment,
    open,  # noqa: A004 - the word of the trade
    over,
    page,
    play,
    reroute,
    resolve,
    silence,
    stale,
    stand_in,
    take,
    update,
    want,
)

LADDER = """
[hook.control]
type = "webhook"
url = "http://127.0.0.1:1/"
[hook.sms]
type = "webhook"
url = "http://127.0.0.1:2/"
[person.anna]
sms = "+34 1"
[person.bo]
sms = "+34 2"
[rotation.primary]
people = ["anna"]
first_day = 2025-01-06
[rotation.second]
people = ["bo"]
first_day = 2025-01-06
[policy.ladder]
steps = [
    { to = ["hook:control"] },
    { after = "60s", to = ["oncall:primary"] },
    { after = "180s", to = ["oncall:second", "hook:control"] },
]
[[route]]
name = "all"
policy = "ladder"
repeat_interval = "1h"
"""


def test_one_alert_one_page_one_resolve() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", severity="major", zone="harbour")),
        at(60, over("a")),
        want(between(60, 60.1), resolve("a")),
    )


def test_a_redelivery_opens_nothing_twice() -> None:
    night = play(
        at(0, open("a")),
        at(0.2, again("a")),
        want(between(1, 1.1), page("a", total=1)),
        at(5, again("a")),
        at(9, over("a"), over("a")),
        want(between(9, 9.1), resolve("a")),
        at(12, again("a"), over("a")),
    )
    assert night.why("a").count("deduplication: it is known already") == 3


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"namespace": "replay-monday"}, "namespace: namespace 'replay-monday' is not 'live'"),
        ({"quality": 3}, "quality: a city alert on a reading of quality 'suspect'"),
        ({"quality": 4}, "quality: a city alert on a reading of quality 'fail'"),
        ({"quality": 9}, "quality: a city alert on a reading of quality 'missing'"),
        ({"severity": "informational"}, "severity: severity 'informational' does not page"),
        ({"kind": "season"}, "shadow: in the shadow: kind=season is on trial"),
    ],
)
def test_what_is_no_page_says_why(facts: dict[str, Any], reason: str) -> None:
    shadow = '\n[[shadow]]\nmatch = { kind = "season" }\n'
    night = play(at(0, open("a", **facts)), at(60, over("a")), routes=ROUTES + shadow)
    assert night.why("a") == [reason]


def test_bad_data_speaks_of_its_sensor() -> None:
    play(
        at(0, open("a", category="sensor-health", quality=4)),
        want(between(1, 1.1), page("a", category="sensor-health")),
    )


def test_old_news_is_no_news_unless_it_is_still_open() -> None:
    old = moment(-26 * 3600)
    night = play(
        at(0, open("a", since=old), open("b", since=old), open("c", kind="spike", since=old)),
        at(600, over("a"), acknowledge("c")),
        want(between(1801, 1801.1), page("b")),
        until=4000,
    )
    assert night.why("a") == [
        "news: old: fired 1 day, 2:00:00 before it was written down, waits whether it is over",
        "deduplication: it was over before it passed news",
    ]


def test_what_is_still_open_when_the_pager_comes_back_from_far_away_is_told() -> None:
    since = moment(-3 * 86_400)
    play(
        at(0, open("a", since=since, written=since), open("b", since=since, written=since)),
        at(0, over("b")),
        want(between(1, 1.1), page("a")),
    )


def test_maintenance_is_quiet_and_what_outlasts_it_is_told() -> None:
    night = play(
        at(0, maintenance(100, zone="harbour")),
        at(10, open("a"), open("b"), open("c", zone="station")),
        want(between(11, 11.1), page("c")),
        at(50, over("a")),
        want(between(101, 101.1), page("b")),
    )
    assert "maintenance: maintenance window works (zone=harbour) until" in night.why("a")[0]
    assert night.why("a")[1] == "deduplication: it was over before it passed maintenance"


def test_a_silence_that_is_lifted_early_hides_nothing() -> None:
    play(
        at(0, silence(3600, sensor="a*")),
        at(10, open("a")),
        at(60, lift(), open("b", zone="station")),
        want(between(61, 61.1), page("a")),
        want(between(61, 61.1), page("b")),
    )


def test_a_silence_of_a_whole_group_that_is_lifted_early_hides_nothing() -> None:
    night = play(
        at(0, open("a")),
        at(0.5, silence(3600, sensor="a")),
        at(20, open("b", zone="station")),
        want(between(21, 21.1), page("b")),
        at(60, lift()),
        want(between(60, 60.1), page("a")),
    )
    held = [said.reason for said in night.said if said.stage == "group silence"]
    assert len(held) == 1


def test_a_silence_over_a_told_group_that_is_lifted_early_lets_its_escalation_go_on() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", to={"control"})),
        at(30, silence(36_000, sensor="a")),
        at(100, lift()),
        want(between(100, 100.1), page("a", to={"sms:anna"}, step=2)),
        at(110, acknowledge("a")),
        want(between(110, 110.1), acknowledged("a")),
        routes=LADDER,
    )


def test_a_silence_over_a_told_group_stops_its_escalation_and_not_its_end() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", to={"control"})),
        at(30, silence(300, sensor="a")),
        at(200, over("a")),
        want(between(200, 200.1), resolve("a")),
        routes=LADDER,
    )


def test_a_stale_alert_is_never_over() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a")),
        at(60, stale("a")),
        at(300, back("a")),
        at(400, over("a")),
        want(between(400, 400.1), resolve("a")),
    )


def test_alerts_of_a_zone_and_kind_are_one_page() -> None:
    play(
        at(0, open("a")),
        at(0.5, open("b")),
        at(0.9, open("c", kind="spike"), open("d", zone="station")),
        want(between(1, 1.1), page("a", "b")),
        want(between(1.9, 2), page("c")),
        want(between(1.9, 2), page("d")),
        at(10, open("e")),
        at(20, open("f")),
        # The interval runs from the last notice, and an update wakes nobody.
        want(between(31, 31.1), update("a", "b", "e", "f")),
        at(60, over("a", "b", "e")),
        at(70, over("f"), over("c"), over("d")),
        want(between(70, 70.1), resolve("a", "b", "e", "f")),
        want(between(70, 70.1), resolve("c")),
        want(between(70, 70.1), resolve("d")),
    )


def test_what_gets_worse_wakes_at_once() -> None:
    play(
        at(0, open("a", severity="minor")),
        want(between(1, 1.1), page("a", severity="minor")),
        at(5, open("b", severity="critical")),
        want(between(5, 5.1), page("a", "b", severity="critical")),
    )


def test_what_gets_worse_once_more_wakes_once_more() -> None:
    # Like PagerDuty, chat and SMS, which are not told of updates.
    events = 'events = ["trigger", "acknowledge", "resolve"]\nurl = '
    routes = ROUTES.replace("url = ", events)
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a")),
        at(10, open("b", severity="critical")),
        want(between(10, 10.1), page("a", "b", severity="critical")),
        at(50, over("b")),
        at(60, acknowledge("a")),
        want(between(60, 60.1), acknowledged("a", "b")),
        # As bad as what whoever has it was told of, and nothing as bad is open any more.
        at(300, open("c", severity="critical")),
        want(between(300, 300.1), page("a", "b", "c", severity="critical")),
        # While one is open another joins quietly.
        at(310, open("d", severity="critical")),
        routes=routes,
    )


def test_what_was_over_before_anybody_was_told_is_not_told() -> None:
    play(at(0, open("a")), at(0.5, over("a")))


def test_an_open_page_is_told_anew_until_somebody_has_it() -> None:
    routes = ROUTES.replace("4h", "2m")
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", revision=1)),
        want(between(121, 121.1), page("a", revision=2)),
        at(130, acknowledge("a", by="bo")),
        want(between(130, 130.1), acknowledged("a", actor="bo", revision=3)),
        routes=routes,
    )


def test_nobody_acknowledges_and_the_next_one_is_told() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", to={"control"}, step=1)),
        want(between(61, 61.1), page("a", to={"sms:anna"}, step=2)),
        want(between(181, 181.1), page("a", to={"sms:bo", "control"}, step=3)),
        at(200, over("a")),
        want(between(200, 200.1), resolve("a", to={"control", "sms:anna", "sms:bo"})),
        routes=LADDER,
    )


@pytest.mark.parametrize("quiet", [silence, maintenance])
def test_who_is_several_steps_behind_goes_on_from_there(quiet: Any) -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", to={"control"}, step=1)),
        at(30, quiet(970, sensor="a")),
        # Both steps were due in the meantime: the next one at once, and the last in its turn.
        want(between(1000, 1000.1), page("a", to={"sms:anna"}, step=2)),
        want(between(1120, 1120.1), page("a", to={"sms:bo", "control"}, step=3)),
        at(1200, over("a")),
        want(between(1200, 1200.1), resolve("a", to={"control", "sms:anna", "sms:bo"})),
        routes=LADDER,
    )


def test_whoever_acknowledges_ends_the_escalation() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", step=1)),
        at(30, acknowledge("a")),
        want(between(30, 30.1), acknowledged("a", to={"control"}, actor="anna")),
        # What is no worse joins quietly.
        at(100, open("b")),
        want(between(100, 100.1), update("a", "b", to={"control"})),
        at(400, over("a", "b")),
        want(between(400, 400.1), resolve("a", "b", to={"control"})),
        routes=LADDER,
    )


def test_an_alert_that_somebody_has_before_it_is_told_wakes_nobody() -> None:
    play(at(0, open("a")), at(0.5, acknowledge("a")), at(300, over("a")), routes=LADDER)


@pytest.mark.parametrize("quiet", [silence, maintenance])
def test_an_alert_that_somebody_has_while_it_is_silenced_wakes_nobody_later(quiet: Any) -> None:
    night = play(
        at(0, quiet(60, sensor="a*")),
        at(1, open("a"), open("a2")),
        at(5, acknowledge("a"), acknowledge("a2", by="bo")),
        at(500, over("a", "a2")),
        routes=LADDER,
    )
    assert "anna and bo have all that is left of it" in [one.reason for one in night.said]


def test_what_nobody_has_is_told_with_what_somebody_had_before() -> None:
    play(
        at(0, silence(60, sensor="a*")),
        at(1, open("a"), open("a2")),
        at(5, acknowledge("a")),
        want(between(61, 61.1), page("a", "a2")),
        at(62, over("a2")),
        want(between(62, 62.1), acknowledged("a", actor="anna")),
        at(500, over("a")),
        want(between(500, 500.1), resolve("a", "a2", to={"control"})),
        routes=LADDER,
    )


FLAPPING = LADDER + '\n[flapping]\ntimes = 1\nwithin = "600s"\n'


def test_a_page_whose_alert_is_held_open_can_be_acknowledged() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", to={"control"})),
        at(5, open("b")),
        at(10, over("b")),
        at(15, open("b")),
        at(20, over("a", "b")),
        at(30, take("b", by="bo")),
        want(between(30, 30.1), acknowledged("a", "b", actor="bo", to={"control"})),
        # It opens again, and bo has it.
        at(40, open("b")),
        at(50, over("b")),
        want(between(650, 650.1), resolve(to={"control"})),
        routes=FLAPPING,
        until=2000,
    )


def test_nobody_else_is_woken_for_what_is_calm_until_it_opens_again() -> None:
    play(
        at(0, open("a")),
        at(0.5, over("a")),
        at(1, open("a")),
        want(between(2, 2.1), page("a", to={"control"})),
        at(5, over("a")),
        # The second step would have been at 62 s.
        at(100, open("a")),
        want(between(100, 100.1), page("a", to={"sms:anna"}, step=2)),
        at(110, over("a")),
        want(between(710, 710.1), resolve(to={"control", "sms:anna"})),
        routes=FLAPPING,
        until=2000,
    )


def test_what_got_worse_and_is_over_leaves_the_rest_to_whoever_had_it() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", step=1)),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(100, open("b", severity="critical")),
        want(between(100, 100.1), page("a", "b", severity="critical", step=1)),
        at(105, over("b")),
        # Nobody else is woken for what anna has; whoever was told hears that she does.
        want(between(105, 105.1), acknowledged("a", actor="anna", ring=1)),
        at(600, over("a")),
        want(between(600, 600.1), resolve("a", "b", to={"control"})),
        routes=LADDER,
        until=1000,
    )


def test_what_got_worse_is_escalated_as_long_as_nobody_has_it() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", step=1)),
        at(10, acknowledge("a")),
        want(between(10, 10.1), acknowledged("a")),
        at(100, open("b", severity="critical")),
        want(between(100, 100.1), page("a", "b", severity="critical", step=1)),
        at(105, over("a")),
        want(between(160, 160.1), page("a", "b", to={"sms:anna"}, step=2)),
        at(170, acknowledge("b", by="bo")),
        want(between(170, 170.1), acknowledged("a", "b", actor="bo")),
        routes=LADDER,
        until=500,
    )


def test_a_dead_hook_is_followed_by_the_next_step_at_once() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", to={"control"})),
        at(20, lost("control")),
        want(between(20, 20.1), page("a", to={"sms:anna"}, step=2)),
        # The rest of the ladder keeps its distance.
        want(between(140, 140.1), page("a", to={"sms:bo", "control"}, step=3)),
        at(200, acknowledge("a")),
        want(between(200, 200.1), acknowledged("a")),
        routes=LADDER,
    )


def test_when_nobody_at_all_can_be_reached_it_begins_anew_soon() -> None:
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a")),
        at(100, lost("control")),
        want(between(130, 130.1), page("a", to={"control"}, revision=2)),
    )


def test_whoever_stands_in_is_told() -> None:
    play(
        at(0, stand_in("primary", "bo", 3600)),
        at(10, open("a")),
        want(between(11, 11.1), page("a", to={"control"})),
        want(between(71, 71.1), page("a", to={"sms:bo"}, step=2)),
        at(80, acknowledge("a")),
        want(between(80, 80.1), acknowledged("a", to={"control", "sms:bo"})),
        routes=LADDER,
    )


CARL = LADDER.replace("[rotation.primary]", "[person.carl]\ncontrol = true\n[rotation.primary]")


LADDER_OF_ONE = (
    LADDER[: LADDER.index("steps = [")]
    + 'steps = [{ to = ["oncall:primary"] }]\n'
    + LADDER[LADDER.index("[[route]]") :]
)


def test_whoever_stands_in_without_the_hook_is_told_by_another() -> None:
    play(
        at(0, stand_in("primary", "carl", 3600)),
        at(1, open("a")),
        want(between(2, 2.1), page("a", step=1)),
        want(between(62, 62.1), page("a", to={"control:carl"}, step=2)),
        routes=CARL.replace("oncall:primary", "oncall:primary/sms"),
        until=120,
    )


def test_a_step_that_reaches_nobody_is_passed_over() -> None:
    # An override outlasts the person whom a new routes file does not know any more.
    play(
        at(0, stand_in("primary", "carl", 3600)),
        at(1, open("a")),
        want(between(2, 2.1), page("a", to={"control"}, step=1)),
        at(10, reroute(LADDER)),
        want(between(62, 62.1), page("a", to={"sms:bo", "control"}, step=3)),
        routes=CARL,
        until=300,
    )


def test_a_policy_that_reaches_nobody_begins_anew_soon() -> None:
    play(
        at(0, stand_in("primary", "carl", 90)),
        at(1, open("a")),
        at(1.5, reroute(LADDER_OF_ONE)),
        # A minute after each vain attempt, until nobody stands in any more.
        want(between(122, 122.2), page("a", to={"sms:anna"}, step=1)),
        routes=CARL,
        until=300,
    )


def test_a_policy_that_is_made_shorter_while_a_page_is_open_begins_anew() -> None:
    steps = LADDER[LADDER.index("    { after") : LADDER.index("]\n[[route]]")]
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a", step=1)),
        at(30, reroute(LADDER.replace(steps, ""))),
        # When the step that is gone was due.
        want(between(61, 61.1), page("a", to={"control"}, step=1, revision=2)),
        # Made longer again, it goes on with the steps that there are now.
        at(100, reroute(LADDER)),
        want(between(121, 121.1), page("a", to={"sms:anna"}, step=2)),
        at(200, over("a")),
        want(between(200, 200.1), resolve("a", to={"control", "sms:anna"})),
        routes=LADDER,
    )


def test_whoever_stands_in_a_step_twice_is_told_once() -> None:
    both = LADDER.replace(
        '["hook:control"]', '["oncall:primary", "oncall:second", "person:bo/sms"]'
    )
    night = play(
        at(0, stand_in("primary", "bo", 3600)),
        at(10, open("a")),
        want(between(11, 11.1), page("a", to={"sms:bo"})),
        routes=both,
        until=60,
    )
    ((_, telling),) = night.told
    assert len(telling.deliveries) == 1


SENSORS = {f"s{number:02}": "harbour" for number in range(40)} | {
    f"t{number:02}": "station" for number in range(40)
}
DARK = (
    ROUTES
    + """
[darkness]
wait = "10s"
parent_wait = "4s"
[gateway.north]
sensors = ["s0*", "s1*"]
[gateway.south]
sensors = ["s2*", "s3*"]
[gateway.east]
sensors = ["t0*", "t1*", "t2*"]
"""
)


def some(prefix: str, first: int, last: int) -> list[str]:
    return [f"{prefix}{number:02}" for number in range(first, last)]


def test_a_sensor_that_falls_silent_alone_waits_and_is_told() -> None:
    play(
        at(0, dark("s00")),
        want(between(11, 11.1), page("s00", cause="sensors", kind="silence")),
        at(60, over("s00")),
        want(between(60, 60.1), resolve("s00")),
        routes=DARK,
        zones=SENSORS,
    )


def test_a_dark_gateway_is_one_page_and_one_resolve() -> None:
    night = play(
        at(0, dark(*some("s", 0, 3))),
        at(4, dark(*some("s", 3, 8))),
        at(12, dark(*some("s", 8, 20))),
        # Dark at 4 s, and told when no larger area has taken it.
        want(
            between(8, 8.1),
            page(*some("s", 0, 8), cause="gateway", cause_name="north", severity="major"),
        ),
        at(100, over(*some("s", 0, 19))),
        at(110, over("s19")),
        want(between(110, 110.1), resolve(cause_name="north", total=20)),
        routes=DARK,
        zones=SENSORS,
    )
    assert night.why("s15") == ["darkness: gateway north is dark, and speaks for it"]


def test_a_zone_takes_its_gateways_that_went_dark_before_it() -> None:
    play(
        at(0, dark(*some("s", 0, 8))),
        at(3, dark(*some("s", 20, 30))),
        want(between(4, 4.1), page(cause="zone", cause_name="harbour", severity="critical")),
        at(6, dark(*some("s", 8, 20), *some("s", 30, 40))),
        at(100, over(*some("s", 0, 40))),
        want(between(100, 100.1), resolve(cause="zone", total=40)),
        routes=DARK,
        zones=SENSORS,
    )


def test_children_wait_for_a_parent_that_comes_within_the_wait() -> None:
    night = play(
        at(0, dark("s00")),
        at(9.9, dark("s01", "s02", "s03", "s04")),
        want(between(13.9, 14), page(*some("s", 0, 5), cause="gateway")),
        routes=DARK,
        zones=SENSORS,
    )
    assert night.why("s00")[-1] == "darkness: gateway north is dark, and speaks for it"


def test_two_gateways_of_two_zones_are_two_pages() -> None:
    play(
        at(0, dark(*some("s", 0, 20), *some("t", 0, 30))),
        want(between(4, 4.1), page(cause_name="north", total=20)),
        # All but a few of the zone's sensors hang on one gateway, and those go on.
        want(between(4, 4.1), page(cause_name="east", total=30)),
        routes=DARK,
        zones=SENSORS | {f"u{number}": "station" for number in range(200)},
    )


def test_a_gateway_that_goes_dark_again_before_all_of_it_was_back_is_a_page_of_its_own() -> None:
    play(
        at(0, dark(*some("s", 0, 20))),
        want(between(4, 4.1), page(cause="gateway", total=20)),
        at(30, over(*some("s", 1, 20))),
        at(40, dark(*some("s", 1, 20))),
        want(between(44, 44.1), page(cause="gateway", total=19)),
        at(100, over(*some("s", 0, 20))),
        want(between(100, 100.1), resolve(cause="gateway")),
        want(between(100, 100.1), resolve(cause="gateway", total=19)),
        routes=DARK,
        zones=SENSORS,
    )


def test_a_page_of_an_area_counts_all_that_is_dark_and_says_what_was_told_before() -> None:
    """One sensor spoke for itself, then a gateway for five more, and now the zone is dark."""
    play(
        at(0, dark("s13")),
        want(between(11, 11.1), page("s13", cause="sensors")),
        at(200, dark(*some("s", 0, 5))),
        want(
            between(204, 204.1),
            page(
                *some("s", 0, 5),
                cause="gateway",
                total=5,
                title="gateway north is dark: 6 of 20 sensors fell silent, 1 told of before",
            ),
        ),
        at(230, over("s00"), dark(*some("s", 20, 40))),
        want(
            between(231, 231.1),
            page(
                cause="zone",
                total=20,
                title="zone harbour is dark: 25 of 40 sensors fell silent, 5 told of before",
            ),
        ),
        at(300, over(*some("s", 20, 40))),
        want(
            between(300, 300.1),
            resolve(title="Over: zone harbour was dark: 25 of 40 sensors were silent"),
        ),
        routes=DARK,
        zones=SENSORS,
    )


def test_what_falls_silent_while_hardly_anything_is_dark_speaks_for_itself() -> None:
    play(
        at(0, dark(*some("s", 0, 20))),
        want(between(4, 4.1), page(cause="gateway", total=20)),
        at(50, over(*some("s", 0, 19))),
        # One of twenty is silent still: the gateway is not dark.
        at(60, dark("s05")),
        want(between(71, 71.1), page("s05", cause="sensors")),
        routes=DARK,
        zones=SENSORS,
    )


def test_a_gateway_under_maintenance_makes_no_page() -> None:
    play(
        at(0, maintenance(300, sensor="s*")),
        at(10, dark(*some("s", 0, 20))),
        at(200, over(*some("s", 0, 20))),
        routes=DARK,
        zones=SENSORS,
    )


def test_a_gateway_is_told_where_its_zone_is_though_a_sensor_stands_across_the_border() -> None:
    routes = """
[hook.harbour]
type = "webhook"
url = "http://127.0.0.1:2/"
[policy.harbour]
steps = [{ to = ["hook:harbour"] }]
[[route]]
name = "harbour"
match = { zone = "harbour" }
policy = "harbour"
"""
    zones = SENSORS | {"s19": "station"}
    play(
        at(0, *(dark(sensor, zone=zones[sensor]) for sensor in some("s", 0, 20))),
        want(between(4, 4.1), page(cause_name="north", to={"harbour"}, total=20)),
        routes=DARK.replace("\n[[route]]", routes + "[[route]]"),
        zones=zones,
        until=60,
    )


def test_a_gateway_that_is_still_dark_when_its_maintenance_ends_is_one_page() -> None:
    zones = {f"s{number:02}": f"zone-{number % 4}" for number in range(40)}
    night = play(
        at(0, maintenance(100, sensor="s*")),
        at(10, *(dark(sensor, zone=zone) for sensor, zone in zones.items())),
        want(between(101, 101.1), page(cause="gateway", cause_name="north", total=20)),
        want(between(101, 101.1), page(cause="gateway", cause_name="south", total=20)),
        at(200, over(*zones)),
        want(between(200, 200.1), resolve(cause_name="north")),
        want(between(200, 200.1), resolve(cause_name="south")),
        routes=DARK,
        zones=zones | {f"u{number:02}": f"zone-{number % 4}" for number in range(200)},
    )
    assert night.why("s01")[-1] == "darkness: gateway north is dark, and speaks for it"


def test_a_sensor_that_is_still_silent_when_its_silence_is_lifted_waits_for_others() -> None:
    play(
        at(0, silence(3600, sensor="s*")),
        at(10, dark("s00")),
        at(60, lift()),
        want(between(71, 71.1), page("s00", cause="sensors")),
        routes=DARK,
        zones=SENSORS,
    )


INHIBIT = (
    ROUTES
    + """
[[inhibit]]
source = { kind = "incident" }
target = { kind = "service-level" }
equal = ["zone"]
wait = "5s"
"""
)


@pytest.mark.parametrize("parent_at", [0, 2, 4.9])
def test_an_open_alert_speaks_for_what_follows_from_it(parent_at: float) -> None:
    play(
        at(0, open("jam", kind="service-level")),
        at(parent_at, open("crash", kind="incident")),
        want(between(parent_at + 1, parent_at + 1.1), page("crash")),
        at(60, over("crash")),
        want(between(60, 60.1), resolve("crash")),
        # What outlasts its explanation is told.
        want(between(66, 66.1), page("jam")),
        routes=INHIBIT,
    )


def test_what_ends_a_moment_after_its_explanation_is_not_told() -> None:
    night = play(
        at(0, open("crash", kind="incident")),
        want(between(1, 1.1), page("crash")),
        at(2, open("jam", kind="service-level"), open("queue", kind="service-level")),
        # It comes and goes, and comes back.
        at(20, over("crash")),
        want(between(20, 20.1), resolve("crash")),
        at(20.5, open("crash", kind="incident")),
        want(between(21.5, 21.6), page("crash")),
        at(100, over("crash")),
        want(between(100, 100.1), resolve("crash")),
        at(102, over("jam", "queue")),
        routes=INHIBIT,
    )
    assert night.why("jam")[1] == (
        "inhibition: incident of crash was over a moment ago: waits whether this ends with it"
    )


def test_an_alert_of_another_zone_explains_nothing() -> None:
    play(
        at(0, open("crash", kind="incident"), open("jam", kind="service-level", zone="station")),
        want(between(1, 1.1), page("crash")),
        want(between(6, 6.1), page("jam")),
        routes=INHIBIT,
    )


NO_PAGE = """
[[route]]
name = "quiet"
match = { kind = "incident", sensor = "quiet*" }
policy = "nobody"
"""


@pytest.mark.parametrize(
    ("sensor", "facts"),
    [
        ("crash", {"quality": 4}),
        ("crash", {"severity": "informational"}),
        ("tried", {}),
        ("quiet", {}),
    ],
)
def test_what_does_not_page_explains_nothing(sensor: str, facts: dict[str, Any]) -> None:
    shadow = '\n[[shadow]]\nmatch = { sensor = "tried" }\n'
    night = play(
        at(0, open(sensor, kind="incident", **facts), open("jam", kind="service-level")),
        want(between(6, 6.1), page("jam")),
        routes=INHIBIT.replace("\n[[route]]", NO_PAGE + "[[route]]") + shadow,
    )
    assert not any("explains it" in said for said in night.why("jam"))


def test_what_was_dropped_for_want_of_neighbours_explains_nothing_any_more() -> None:
    rule = """
[[corroborate]]
match = { kind = "incident" }
sensors = 1
within = "60s"
otherwise = "drop"
"""
    night = play(
        at(0, open("crash", kind="incident")),
        at(2, open("jam", kind="service-level")),
        want(between(61, 61.1), page("jam")),
        routes=INHIBIT + rule,
    )
    assert night.why("jam")[0] == "inhibition: incident of crash is open, and explains it"


@pytest.mark.parametrize("first", ["crash", "jam"])
def test_of_two_that_explain_each_other_the_older_is_told(first: str) -> None:
    back_again = """
[[inhibit]]
source = { kind = "service-level" }
target = { kind = "incident" }
equal = ["zone"]
wait = "5s"
"""
    kinds = {"crash": "incident", "jam": "service-level"}
    (second,) = kinds.keys() - {first}
    play(
        at(0, open(first, kind=kinds[first])),
        at(1, open(second, kind=kinds[second])),
        want(between(6, 6.1), page(first)),
        at(60, over(first)),
        want(between(60, 60.1), resolve(first)),
        want(between(66, 66.1), page(second)),
        routes=INHIBIT + back_again,
    )


@pytest.mark.parametrize("otherwise", ["tell", "drop"])
def test_neighbours_are_asked_where_a_rule_wants_it(otherwise: str) -> None:
    rule = f"""
[[corroborate]]
match = {{ kind = "exceedance" }}
sensors = 1
within = "60s"
otherwise = "{otherwise}"
"""
    alone = want(between(161, 161.1), page("c"))
    night = play(
        at(0, open("a", kind="exceedance")),
        at(20, open("b", kind="exceedance")),
        want(between(21, 21.1), page("a", "b")),
        at(100, open("c", kind="exceedance", zone="station")),
        *([alone] if otherwise == "tell" else []),
        routes=ROUTES + rule,
        until=170,
    )
    assert night.why("c")[-1].endswith("only 0 of 1 neighbours within 1m") or otherwise == "tell"


CORROBORATE = """
[[corroborate]]
match = { kind = "exceedance" }
sensors = 1
within = "60s"
otherwise = "drop"
"""


@pytest.mark.parametrize("facts", [{"quality": 4}, {"severity": "informational"}])
def test_a_neighbour_that_does_not_page_says_nothing_of_the_city(facts: dict[str, Any]) -> None:
    night = play(
        at(0, open("a", kind="exceedance")),
        at(10, open("b", kind="exceedance", **facts)),
        routes=ROUTES + CORROBORATE,
    )
    assert night.why("a")[-1] == "corroboration: only 0 of 1 neighbours within 1m"


def test_an_alert_that_flaps_is_told_and_held_open_until_it_is_calm() -> None:
    routes = ROUTES + '\n[flapping]\ntimes = 2\nwithin = "100s"\n'
    play(
        at(0, open("a")),
        want(between(1, 1.1), page("a")),
        at(10, over("a")),
        want(between(10, 10.1), resolve("a")),
        at(20, open("a")),
        want(between(21, 21.1), page("a")),
        at(30, over("a")),
        want(between(30, 30.1), resolve("a")),
        at(40, open("a")),
        want(
            between(41, 41.1),
            page("a", text="a speaks (it flaps, and is held open until it is calm)"),
        ),
        at(50, over("a")),
        at(60, open("a")),
        at(70, over("a")),
        at(80, open("a")),
        at(90, over("a")),
        want(between(190, 190.1), resolve("a")),
        at(400, open("a")),
        want(between(401, 401.1), page("a")),
        at(410, over("a")),
        want(between(410, 410.1), resolve("a")),
        routes=routes,
    )


THE_REST = "what is left of it is over, on good readings; the rest has a page"


def test_over_the_budget_there_is_one_summary_and_never_silence_for_what_is_critical() -> None:
    routes = ROUTES + "\n[shift]\nbudget = 2\n"
    names = ("z4 level", "z5 level", "z7 level")
    spoken_for = "\n".join(
        [THE_REST, *(f"speaks for {name}" for name in names), "d speaks", "e speaks", "g speaks"]
    )
    night = play(
        at(0, open("a", zone="z1"), open("b", zone="z2")),
        want(between(1, 1.1), page("a")),
        want(between(1, 1.1), page("b")),
        at(10, open("c", zone="z3"), open("d", zone="z4"), open("e", zone="z5")),
        want(between(11, 11.1), page("c", "d", "e", cause="budget")),
        at(20, open("f", zone="z6", severity="critical")),
        want(between(21, 21.1), page("f", severity="critical")),
        at(30, open("g", zone="z7")),
        want(between(41, 41.1), update("c", "d", "e", "g", cause="budget")),
        # One of those it speaks for gets worse.
        at(50, open("h", zone="z3", severity="critical")),
        want(between(50, 51.1), page("c", "h", severity="critical")),
        at(100, over("d", "e", "g")),
        want(between(100, 100.1), resolve("d", "e", "g", cause="budget", text=spoken_for)),
        routes=routes,
        until=300,
    )
    assert night.memory.shift is not None
    assert night.memory.shift.pages == 4


def test_a_second_summary_of_a_shift_waits_for_more() -> None:
    play(
        at(0, open("a", zone="z1")),
        want(between(1, 1.1), page("a")),
        at(10, open("b", zone="z2")),
        want(between(11, 11.1), page("b", cause="budget")),
        at(20, over("b")),
        want(between(20, 20.1), resolve("b", cause="budget")),
        at(30, open("c", zone="z3"), open("d", zone="z4")),
        at(60, over("d")),
        at(90, open("e", zone="z5")),
        want(between(631, 631.1), page("c", "d", "e", cause="budget")),
        routes=ROUTES + "\n[shift]\nbudget = 1\n",
        until=700,
    )


def test_causes_that_are_soon_over_do_not_outwit_the_budget() -> None:
    short = [open(f"s{n}", zone=f"z{n}") for n in range(8)]
    night = play(
        at(0, open("a", zone="z")),
        want(between(1, 1.1), page("a")),
        *(at(10 + 20 * n, one) for n, one in enumerate(short)),
        *(at(20 + 20 * n, over(f"s{n}")) for n in range(8)),
        want(between(11, 11.1), page("s0", cause="budget")),
        want(between(20, 20.1), resolve("s0", cause="budget")),
        routes=ROUTES + "\n[shift]\nbudget = 1\n",
        until=1000,
    )
    assert night.why("s7") == ["routing: route all"]


def test_an_alert_that_two_routes_take_counts_once_in_a_summary() -> None:
    second = '\n[[route]]\nname = "too"\npolicy = "all"\n[shift]\nbudget = 2\n'
    play(
        at(0, open("a", zone="z1")),
        want(between(1, 1.1), page("a", labels={"zone": "z1", "kind": "level", "route": "all"})),
        want(between(1, 1.1), page("a", labels={"zone": "z1", "kind": "level", "route": "too"})),
        at(5, open("b", zone="z2")),
        want(
            between(6, 6.1),
            page("b", cause="budget", total=1, text="speaks for z2 level\nb speaks"),
        ),
        at(10, open("c", zone="z2")),
        want(
            between(36, 36.1),
            update(
                "b",
                "c",
                total=2,
                text="1 alert joined\nspeaks for z2 level\nb speaks\nc speaks",
            ),
        ),
        at(40, open("d", zone="z2", severity="critical")),
        want(between(40, 40.1), page("b", "c", "d", cause="sensors")),
        want(between(40, 40.1), page("b", "c", "d", cause="sensors")),
        want(between(40, 40.1), resolve(cause="budget", total=0)),
        routes=ROUTES.replace('"1s"', '"1s"\ncontinue = true') + second,
    )


def test_a_summary_whose_last_cause_got_too_bad_for_it_is_over() -> None:
    play(
        at(0, open("a", zone="z1")),
        want(between(1, 1.1), page("a")),
        at(10, open("b", zone="z2")),
        want(between(11, 11.1), page("b", cause="budget")),
        at(20, open("c", zone="z2", severity="critical")),
        want(between(20, 20.1), page("b", "c", severity="critical", cause="sensors")),
        want(between(20, 20.1), resolve(cause="budget", total=0)),
        routes=ROUTES + "\n[shift]\nbudget = 1\n",
        until=60,
    )


def test_what_a_summary_speaks_for_is_left_to_it_when_its_zone_goes_dark() -> None:
    rest = [*some("s", 1, 6), *some("s", 20, 26)]
    play(
        at(0, open("a", zone="z1")),
        want(between(1, 1.1), page("a")),
        at(10, dark("s00")),
        want(between(21, 21.1), page("s00", cause="budget")),
        at(30, dark(*rest)),
        want(between(31, 31.1), page(*rest, cause="zone", severity="critical")),
        at(60, over("s00", *rest)),
        want(between(60, 60.1), resolve("s00", cause="budget")),
        want(between(60, 60.1), resolve(*rest, cause="zone")),
        routes=DARK + "\n[shift]\nbudget = 1\n",
        zones=SENSORS,
        until=100,
    )


TWO_HOOKS = """
[hook.control]
type = "webhook"
url = "http://127.0.0.1:1/"
[hook.traffic]
type = "webhook"
url = "http://127.0.0.1:2/"
[policy.control]
steps = [{ to = ["hook:control"] }]
[policy.traffic]
steps = [{ to = ["hook:traffic"] }]
[[route]]
name = "roads"
match = { domain = "traffic" }
policy = "traffic"
continue = true
[[route]]
name = "quiet"
match = { kind = "season" }
policy = "nobody"
[[route]]
name = "all"
policy = "control"
"""


def test_a_route_chooses_who_is_told() -> None:
    night = play(
        at(0, open("a"), open("b", domain="environment"), open("c", domain="x", kind="season")),
        want(between(1, 1.1), page("a", to={"traffic"})),
        want(between(1, 1.1), page("a", "b", to={"control"})),
        at(10, over("a", "b", "c")),
        want(between(10, 10.1), resolve("a", to={"traffic"})),
        want(between(10, 10.1), resolve("a", "b", to={"control"})),
        routes=TWO_HOOKS,
    )
    assert night.why("c") == ["routing: route quiet tells nobody"]


def test_a_dark_area_goes_to_every_route_that_takes_it() -> None:
    north, more = some("s", 0, 8), some("s", 8, 20)
    parts = [
        part
        for hook in ("control", "traffic")
        for part in (
            want(between(4, 4.1), page(*north, cause="gateway", to={hook}, total=8)),
            want(between(60, 60.1), resolve(cause="gateway", to={hook}, total=20)),
        )
    ]
    night = play(
        at(0, dark(*north)),
        # What falls silent later joins both.
        at(20, dark(*more)),
        at(60, over(*north, *more)),
        *parts,
        routes=TWO_HOOKS + DARK[len(ROUTES) :],
        zones=SENSORS,
    )
    assert not night.memory.groups

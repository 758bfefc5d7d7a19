"""What people on duty are told and when, from an alert in the database to their receivers."""

import pytest

from tests.paging.acceptance import (
    acknowledge,
    at,
    open,  # noqa: A004 - the word of the trade
    over,
    play,
    refuses,
    silence,
)
from tests.paging.conftest import Clock
from tests.paging.scaffold import Table
from tests.paging.timeline import acknowledged, between, page, resolve, update, want

pytestmark = pytest.mark.integration

ROUTES = """
[hook.control]
type = "webhook"
url = "{control}"
timeout_s = 20
[hook.sms]
type = "webhook"
url = "{sms}"
timeout_s = 20
events = ["trigger", "acknowledge", "resolve"]
[person.anna]
sms = "+34 1"
[person.bo]
sms = "+34 2"
[policy.ladder]
steps = [
    {{ to = ["hook:control"] }},
    {{ after = "5m", to = ["person:anna"] }},
    {{ after = "10m", to = ["person:bo"] }},
]
[[route]]
name = "all"
policy = "ladder"
group_by = ["zone"]
group_wait = "1s"
group_interval = "30s"
repeat_interval = "4h"
"""


def test_a_night(table: Table, clock: Clock) -> None:
    play(
        table,
        clock,
        ROUTES,
        at(2.2, open("traffic-1")),
        want(between(3, 3.5), page("traffic-1", hook="control", step=1)),
        # What joins is told with the next word.
        at(10, open("traffic-2")),
        want(between(33, 33.5), update("traffic-1", "traffic-2", hook="control")),
        # Nobody has it.
        want(between(303, 303.5), page("traffic-1", "traffic-2", hook="sms", to="anna", step=2)),
        # Her telephone is not sent updates.
        at(305, open("traffic-3")),
        want(between(333, 333.5), update("traffic-1", "traffic-2", "traffic-3", hook="control")),
        at(350, *(acknowledge(f"traffic-{number}") for number in (1, 2, 3))),
        want(between(350, 350.5), acknowledged(hook="control")),
        want(between(350, 350.5), acknowledged(hook="sms", to="anna")),
        # So bo sleeps at ten minutes, and it is over for those who were told.
        at(700, over("traffic-1", "traffic-3")),
        at(800, over("traffic-2")),
        want(between(800, 831), resolve(hook="control")),
        want(between(800, 831), resolve(hook="sms", to="anna")),
        until=2_000,
    )


def test_what_gets_worse_wakes_at_once(table: Table, clock: Clock) -> None:
    play(
        table,
        clock,
        ROUTES,
        at(1, open("traffic-1", severity="minor")),
        want(between(2, 2.1), page("traffic-1", hook="control", severity="minor")),
        at(5, acknowledge("traffic-1")),
        want(between(5, 5.1), acknowledged(hook="control")),
        at(7, open("traffic-2", severity="critical")),
        want(between(7, 8.1), page("traffic-2", "traffic-1", hook="control", severity="critical")),
        until=100,
    )


def test_a_receiver_that_refuses_is_passed_over_at_once(table: Table, clock: Clock) -> None:
    play(
        table,
        clock,
        ROUTES,
        at(0, refuses("control")),
        at(1, open("traffic-1")),
        want(between(2, 2.1), page("traffic-1", hook="sms", to="anna", step=2)),
        at(50, over("traffic-1")),
        want(between(50, 81), resolve("traffic-1", hook="sms", to="anna")),
        until=200,
    )


def test_what_is_still_wrong_when_a_silence_ends_is_told_then(table: Table, clock: Clock) -> None:
    play(
        table,
        clock,
        ROUTES,
        at(0.5, silence(60, zone="harbour")),
        at(5, open("traffic-1")),
        at(6, open("traffic-2"), open("traffic-3", zone="centre")),
        want(between(7, 7.1), page("traffic-3", hook="control", zone="centre")),
        at(20, over("traffic-2")),
        want(between(60.5, 62), page("traffic-1", hook="control", zone="harbour")),
        until=200,
    )

"""Which events a demo stages, and what its verdict says of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from citywatch.demo_command import _events, _events_told
from citywatch.verdict import Expected, _Alert, _faults
from citywatch.verdict import _events as judged
from paging.receiver import Arrival
from simulators.city import City
from simulators.events import Event, S, plan_events
from tests.paging.scaffold import notice_of

BEGAN_NS = 1_772_431_200 * S
CITY = City(240, 1)
EVENTS = plan_events(
    CITY, 1, ["blocked-lane", "crowd"], BEGAN_NS, BEGAN_NS + 3_600 * S, period_s=1.0
)
BLOCKED = next(event for event in EVENTS if event.kind == "blocked-lane")
CROWD = next(event for event in EVENTS if event.kind == "crowd")


def alert_of(event: Event, after_s: float = 100.0, **changes: object) -> _Alert:
    opened_at = datetime.fromtimestamp(event.start_ns / S, UTC) + timedelta(seconds=after_s)
    names = (event.sensor, event.quantity, event.category, event.alert_kind)
    alert_id = str(uuid4())
    alert = _Alert(*names, opened_at, alert_id, "harbour", True, False, [f"live/{alert_id}"])
    return replace(alert, **changes)


def arrival_of(alert: _Alert) -> Arrival:
    notice = notice_of(group=alert.groups[0], since=alert.opened_at)
    return Arrival(f"{alert.alert_id}:trigger", notice, alert.opened_at)


def expected(*events: Event, ended_s: float = 3_600.0) -> Expected:
    return Expected([], [], frozenset(), events, BEGAN_NS + round(ended_s * S))


def test_a_demo_that_is_long_enough_stages_what_takes_minutes() -> None:
    assert _events(None, 600, 600.0, 1, None) == ("blocked-lane", "crowd")
    assert _events(None, 600, 600.0, 1, 600.0) == ("blocked-lane", "crowd")
    assert _events(None, 600, 600.0, 1, 55.0) == ()
    # No two stations of so small a city stand close enough.
    assert _events(None, 60, 600.0, 1, None) == ("crowd",)
    assert _events(None, 10, 600.0, 1, None) == ()
    assert _events("", 600, 600.0, 1, None) == ()
    assert _events("pollution, crowd", 600, 600.0, 1, 1e4) == ("pollution", "crowd")


@pytest.mark.parametrize(
    ("asked", "fault"), [("flood", "no such events: flood"), ("pollution", "pollution: not in a")]
)
def test_what_was_asked_for_and_cannot_be_staged_is_refused(asked: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        _events(asked, 600, 600.0, 1, 600.0)


def test_an_event_that_was_found_and_told_is_well() -> None:
    alerts = [alert_of(BLOCKED), alert_of(CROWD, 240.0)]
    found, complaints = judged(expected(*EVENTS), alerts, [arrival_of(one) for one in alerts])
    assert complaints == []
    assert {(one["kind"], one["alerts"], one["pages"]) for one in found} == {
        ("blocked-lane", 1, 1),
        ("crowd", 1, 1),
    }
    lines = _events_told(found).splitlines()
    assert lines[0].split() == ["staged", "of", "at", "found", "after", "pages"]
    assert lines[1].split() == [
        "crowd", "peopleCount", "of", CROWD.sensor, found[0]["begun_at"][11:19], "crowd", "240",
        "s", "1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "alert",
    [
        alert_of(BLOCKED, kind="level"),
        alert_of(BLOCKED, sensor=BLOCKED.sensors[1]),
        alert_of(BLOCKED, after_s=BLOCKED.opens_within_s + 60.0),
        alert_of(BLOCKED, after_s=-5.0),
    ],
    ids=["kind", "sensor", "late", "early"],
)
def test_what_is_not_found_in_time_and_place_is_a_complaint(alert: _Alert) -> None:
    _, complaints = judged(expected(BLOCKED), [alert], [arrival_of(alert)])
    assert complaints == [
        f"event blocked-lane at {BLOCKED.sensor} occupancy: 0 alerts of kind incident, 0 pages"
    ]
    found, complaints = judged(expected(BLOCKED, ended_s=300.0), [], [])
    assert (found[0]["due"], complaints) == (False, [])
    assert "nothing yet" in _events_told(found)


def test_what_an_event_touches_may_be_told_of_otherwise_and_nothing_else() -> None:
    beside = alert_of(BLOCKED, kind="level", sensor=BLOCKED.sensors[2])
    before = alert_of(BLOCKED, after_s=-60.0, kind="level")
    other = alert_of(BLOCKED, sensor="traffic-0001")
    _, complaints = _faults(expected(BLOCKED), [beside], [])
    assert complaints == []
    _, complaints = _faults(expected(BLOCKED), [before, other], [])
    assert len(complaints) == 2

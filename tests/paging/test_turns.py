"""What holds of every turn, whatever happens."""

import random
import time
from copy import deepcopy
from datetime import timedelta

from hypothesis import example, given, settings
from hypothesis import strategies as st

from paging.state import Told
from tests.paging.timeline import (
    ROUTES,
    Action,
    Night,
    acknowledge,
    back,
    dark,
    moment,
    night_of,
    open,  # noqa: A004 - the word of the trade
    over,
    silence,
    stale,
)

GATEWAYS = ROUTES + "\n".join(
    f'[gateway.g{number:02}]\nsensors = ["s{number:02}-*"]' for number in range(20)
)
ZONES = {f"s{gateway:02}-{number}": "harbour" for gateway in range(20) for number in range(500)}
SMALL = (
    ROUTES
    + """
[shift]
budget = 2
[flapping]
times = 2
within = "2m"
[darkness]
wait = "3s"
parent_wait = "2s"
share = 0.5
least = 2
[gateway.g]
sensors = ["a", "b"]
[[inhibit]]
source = { kind = "silence" }
target = { kind = "level" }
"""
)
HOMES = dict.fromkeys("abcd", "harbour")


def test_ten_thousand_sensors_go_dark_in_one_turn() -> None:
    def cost_s(*sensors: str) -> tuple[float, Night]:
        night = night_of(GATEWAYS, ZONES)
        dark(*sensors)(night, moment(0))
        begun = time.process_time()
        night.turn(moment(0))
        return time.process_time() - begun, night

    least_s = min(cost_s(*list(ZONES)[::10])[0] for _ in range(3))
    took_s, night = cost_s(*ZONES)
    # Ten times as many take ten times as long; if each looked at each other, a hundred times.
    assert took_s < 40 * least_s
    night.turn(moment(5))
    (telling,) = (telling for _, telling in night.told)
    assert telling.notice.title == "zone harbour is dark: 10000 of 10000 sensors fell silent"
    assert telling.notice.counts.total == 10_000
    over(*ZONES)(night, moment(60))
    night.turn(moment(60))
    assert [telling.notice.event for _, telling in night.told] == ["trigger", "resolve"]
    assert not night.memory.groups


def test_a_storm_that_takes_its_time_is_a_page_a_gateway_at_most() -> None:
    # Each gateway in a zone of its own, so that no larger area can speak for them.
    zones = {sensor: f"zone-{sensor[:3]}" for sensor in ZONES} | {
        f"rest-{gateway:02}-{number}": f"zone-s{gateway:02}"
        for gateway in range(20)
        for number in range(2_500)
    }
    night = night_of(GATEWAYS, zones)
    sensors = list(ZONES)
    random.Random(1).shuffle(sensors)
    for tenth in range(0, 450, 3):
        for sensor in sensors[tenth * 10_000 // 300 : (tenth + 3) * 10_000 // 300]:
            dark(sensor, zone=zones[sensor])(night, moment(tenth / 10))
        night.turn(moment(tenth / 10))
    causes = [telling.notice.cause_name for _, telling in night.told]
    assert sorted(causes) == [f"g{number:02}" for number in range(20)]
    assert max(seconds for seconds, _ in night.told) < 15
    grouped = [track for track in night.memory.tracks.values() if track.phase == "grouped"]
    assert len(grouped) == 10_000


names = st.sampled_from(["a", "b", "c", "d"])
verbs = st.sampled_from(["open", "dark", "over", "stale", "back", "acknowledge", "silence"])
severities = st.sampled_from(["informational", "minor", "major", "critical"])
# What happens, to whom, after how long; and of an alert its severity and quality.
happenings_of = st.tuples(
    st.floats(0.01, 90) | st.floats(0.01, 2),
    verbs,
    names,
    severities,
    st.sampled_from([None, 1, 4]),
)
nights = st.lists(happenings_of, max_size=40)
Happening = tuple[float, str, str, str, int | None]


def action_of(verb: str, name: str, severity: str, quality: int | None) -> Action:
    plain = {"dark": dark, "over": over, "stale": stale, "back": back, "acknowledge": acknowledge}
    if verb in plain:
        return plain[verb](name)
    if verb == "silence":
        return silence(30, sensor=name)
    return open(name, severity=severity, quality=quality, zone=f"zone-{name}")


def played(night: Night, happenings: list[Happening]) -> list[Told]:
    """Let things happen, waking the pager whenever it wants to be; return what happened."""
    now, heard = 0.0, []
    for pause, *what in happenings:
        until = now + pause
        while night.wake_at is not None and night.wake_at < moment(until):
            now = max((night.wake_at - moment(0)).total_seconds(), now + 0.001)
            night.turn(moment(now))
        now = max(now, until)
        try:
            action_of(*what)(night, moment(now))
        except KeyError:
            continue  # of a sensor that has said nothing yet
        heard += [event for event in night.events if isinstance(event, Told)]
        memory = deepcopy(night.memory)
        before = night.memory
        night.turn(moment(now))
        assert before == memory, "a turn changed the memory that it was given"
    return heard


def flapping(*last: str | int | None) -> list[Happening]:
    """Return what makes a sensor flap, with an alert that waits to be told, and one more."""
    before = [(1.0, "open", "a", "informational", None)] * 5
    return [*before, (1.0, "open", "a", "minor", None), (6.0, "open", "a", *last)]


# What takes the place of an alert that flaps passes the gates as well.
@example(flapping("informational", None))
@example(flapping("minor", 4))
@settings(max_examples=200, deadline=None)
@given(nights)
def test_nobody_is_woken_without_reason_and_every_page_has_an_end(
    happenings: list[Happening],
) -> None:
    night = night_of(SMALL, HOMES)
    heard = played(night, happenings)
    firings = {
        told.alert_id: told.page for told in heard if told.page and told.happening == "firing"
    }
    for _, telling in night.told:
        assert telling.deliveries
        for listed in telling.notice.alerts:
            page = firings[listed.alert_id]
            assert page is not None
            assert page.severity != "informational"
            assert page.category == "sensor-health" or page.quality != 4
    words: dict[str, list[str]] = {}
    for _, telling in night.told:
        words.setdefault(telling.notice.group, []).append(telling.notice.event)
        assert telling.notice.revision == len(words[telling.notice.group])
    for events in words.values():
        assert events[0] == "trigger"
        assert "resolve" not in events[:-1]
    # When everything is over and calm, everybody who was told of something was told its end.
    last = moment(10_000)
    night.orders = type(night.orders)()
    night.events += [Told("resolved", alert_id, last) for alert_id in night.memory.tracks]
    night.turn(last)
    for _ in range(20):
        last += timedelta(minutes=3)
        night.turn(last)
    ended = {telling.notice.group for _, telling in night.told if telling.notice.event == "resolve"}
    assert ended == {telling.notice.group for _, telling in night.told}
    assert not night.memory.groups
    assert not night.memory.tracks


@settings(max_examples=100, deadline=None)
@given(nights)
def test_a_night_that_is_replayed_is_the_same(happenings: list[Happening]) -> None:
    nights_of_it = [night_of(SMALL, HOMES), night_of(SMALL, HOMES)]
    for night in nights_of_it:
        played(night, happenings)
    assert nights_of_it[0].told == nights_of_it[1].told
    assert nights_of_it[0].said == nights_of_it[1].said
    assert nights_of_it[0].memory == nights_of_it[1].memory

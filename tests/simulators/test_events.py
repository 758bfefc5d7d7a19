"""Staged events: where and when they are planned, and what they do to whom."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from citywatch.settings import read_settings
from ingest.quantities import QUANTITIES
from simulators.city import City, Floats
from simulators.events import SCRIPTS, Event, S, fitting, plan_events
from simulators.faults import Labels, plan_faults, read_labels, write_labels
from simulators.staging import Staging
from simulators.surroundings import apart_km, as_toml, road, squares, surroundings

# A Monday, 06:00 UTC.
START_NS = 1_772_431_200 * S
HOUR_NS = 3_600 * S
LONG_NS = START_NS + 60 * 24 * HOUR_NS
CITY = City(240, 1)
INDEX = {one.name: number for number, one in enumerate(CITY.sensors)}


def plan(
    kinds: Sequence[str], city: City = CITY, seed: int = 1, end_ns: int = LONG_NS
) -> list[Event]:
    return plan_events(city, seed, kinds, START_NS, end_ns, period_s=60.0)


def played(
    event: Event, times: NDArray[np.int64], seed: int = 1
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return times as told, and sound and staged readings (moments, sensors, quantities)."""
    city = City(240, seed)
    who = np.arange(len(city))
    staging = Staging(city, [event])
    told, sound, staged = [], [], []
    for now in times:
        moment = np.full(len(city), now)
        readings = city.observe(who, moment)
        kept = readings.copy()
        clocks, values = staging.apply(who, moment, readings)
        np.testing.assert_array_equal(readings, kept)
        told.append(clocks)
        sound.append(readings)
        staged.append(values)
    return np.array(told), np.array(sound), np.array(staged)


def around(event: Event, count: int = 200) -> NDArray[np.int64]:
    """Return moments from before an event until after it, whole seconds."""
    length_ns = event.end_ns - event.start_ns
    return np.linspace(
        event.start_ns - length_ns // 4, event.end_ns + length_ns // 2, count
    ).astype(np.int64)


def test_no_sensor_plays_twice_and_faults_spare_those_that_play() -> None:
    events = plan(list(SCRIPTS))
    assert {event.kind for event in events} == set(SCRIPTS)
    names = [name for event in events for name in event.sensors]
    assert len(names) == len(set(names))
    faults = plan_faults(
        CITY, 1, 40, START_NS, START_NS + HOUR_NS, period_s=1.0, spared=frozenset(names)
    )
    assert not {fault.sensor for fault in faults} & set(names)


def test_plans_follow_from_the_seed() -> None:
    assert plan(list(SCRIPTS)) == plan(list(SCRIPTS), City(240, 1))
    begins = {seed: plan(["crowd"], seed=seed)[0].start_ns for seed in range(5)}
    assert len(set(begins.values())) > 1


@pytest.mark.parametrize(
    ("kinds", "minutes", "fault"),
    [
        (["flood"], 600, "unknown kinds of events: \\['flood'\\]; blocked-lane, crowd, "),
        (["crowd"], 5, "too short for crowd: it must last (5[4-9]\\d|600) s or more"),
        (["blinded-camera"], 600, "too short for blinded-camera: it must last "),
    ],
)
def test_what_cannot_be_staged_is_refused_with_the_reason(
    kinds: list[str], minutes: int, fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        plan(kinds, end_ns=START_NS + minutes * 60 * S)


def test_a_city_that_is_too_small_or_reports_too_seldom_is_refused() -> None:
    with pytest.raises(ValueError, match="the city is too small for blocked-lane"):
        plan(["blocked-lane"], City(60, 1))
    with pytest.raises(ValueError, match="events are judged by the minute"):
        plan_events(CITY, 1, ["crowd"], START_NS, LONG_NS, period_s=90.0)


def test_only_what_fits_into_a_run_is_said_to() -> None:
    asked = ["blocked-lane", "crowd", "pollution", "night-noise"]
    assert fitting(CITY, asked, 300.0, period_s=1.0) == []
    assert fitting(CITY, asked, 600.0, period_s=1.0) == ["blocked-lane", "crowd"]
    assert fitting(CITY, asked, 600.0, period_s=61.0) == []
    assert fitting(City(60, 1), asked, 600.0, period_s=1.0) == ["crowd"]
    for length_s in (600.0, 7 * 3600.0, 1e6):
        for kind in fitting(CITY, asked, length_s, period_s=1.0):
            assert plan([kind], end_ns=START_NS + round(length_s * S))


@pytest.mark.parametrize("kind", SCRIPTS)
def test_an_event_touches_its_sensors_while_it_lasts_and_nobody_else(kind: str) -> None:
    (event,) = plan([kind])
    times = around(event)
    told, sound, staged = played(event, times)
    there = ~np.isnan(sound)
    changed = ((sound != staged) & there).any(axis=2) | (told != times[:, np.newaxis])
    touched = np.zeros(len(CITY), bool)
    touched[[INDEX[name] for name in event.sensors]] = True
    assert not changed[:, ~touched].any()
    assert not changed[times < event.start_ns].any()
    first = changed[:, INDEX[event.sensor]]
    inside = (times >= event.start_ns + 60 * S) & (times < event.end_ns)
    assert first[inside].mean() > (0.05 if kind == "loose-contact" else 0.8)
    # A queue is gone from all stations when it has passed the last of them.
    assert not changed[times > event.end_ns + 15 * 60 * S].any()


@pytest.mark.parametrize("kind", SCRIPTS)
def test_what_is_staged_is_what_the_instruments_could_print(kind: str) -> None:
    (event,) = plan([kind])
    _, sound, staged = played(event, around(event))
    assert (np.isnan(sound) == np.isnan(staged)).all()
    for name in event.sensors:
        sensor = CITY.sensors[INDEX[name]]
        for column, (quantity, places) in enumerate(
            zip(sensor.quantities, sensor.decimals, strict=True)
        ):
            values = staged[:, INDEX[name], column]
            limits = QUANTITIES[quantity]
            assert ((values >= limits.low) & (values <= limits.high)).all(), quantity
            np.testing.assert_array_equal(values, np.round(values, places))
        if sensor.domain == "cameras":
            rows = staged[:, INDEX[name]]
            np.testing.assert_array_equal(rows[:, 0], rows[:, 1] + rows[:, 2])


@given(cuts=st.lists(st.integers(1, 239), max_size=6, unique=True))
@settings(max_examples=20, deadline=None)
def test_readings_do_not_depend_on_how_calls_are_cut(cuts: list[int]) -> None:
    events = plan(list(SCRIPTS))
    who = np.arange(len(CITY))
    values = CITY.level(who, np.full(len(CITY), START_NS))
    whole, parts = Staging(CITY, events), Staging(CITY, events)
    for event in events:
        moment = np.full(len(CITY), event.start_ns + 90 * S)
        wanted = whole.apply(who, moment, values)
        blocks = [
            parts.apply(who[start:stop], moment[start:stop], values[start:stop])
            for start, stop in pairwise([0, *sorted(cuts), len(CITY)])
        ]
        for one, column in zip(wanted, zip(*blocks, strict=True), strict=True):
            np.testing.assert_array_equal(one, np.concatenate(column))


def test_a_queue_grows_upstream_at_its_own_speed() -> None:
    (event,) = plan(["blocked-lane"])
    times = np.arange(event.start_ns - 60 * S, event.end_ns + 20 * 60 * S, 5 * S)
    _, sound, staged = played(event, times)
    here, ahead, *before = (INDEX[name] for name in event.sensors)
    by_place = [CITY.sensors[index] for index in (ahead, here, *before)]
    assert tuple(reversed(by_place)) == road(CITY)
    begins = []
    for index in (here, *before):
        jam = staged[:, index, 1] > 0.5
        begins.append(int(times[jam][0]))
        # The front takes half a minute to pass.
        assert (staged[jam][7:, index, 2] < 20).all()
        # As dense as the flow that is let through leaves it, and no denser than standing.
        assert (staged[jam][:, index, 1] < 1.0).all()
        assert 0.9 < jam.sum() * 5 * S / (event.end_ns - event.start_ns) < 1.1
    for (one, first), (other, later) in pairwise(zip(by_place[1:], begins, strict=True)):
        assert (later - first) / S == pytest.approx(apart_km(one, other) / 18.0 * 3600, abs=11)
    empty = slice(*np.searchsorted(times, [event.start_ns + 120 * S, event.end_ns]))
    share = staged[empty, ahead] / sound[empty, ahead]
    assert share[:, :2] == pytest.approx(0.4, abs=0.05)
    assert share[:, 2] == pytest.approx(1.0)


def test_a_square_is_as_wide_as_its_people_need_on_a_usual_day() -> None:
    assert len(squares(CITY)) == 2
    for camera, area_m2 in squares(CITY).values():
        who = np.full(168, INDEX[camera.name])
        week = CITY.level(who, START_NS + np.arange(168) * HOUR_NS)[:, 0]
        assert 0.8 < week.max() / area_m2 < 1.5


@pytest.mark.parametrize("sensors", [40, 120, 600])
def test_what_the_city_says_of_itself_can_be_set(sensors: int, tmp_path: Path) -> None:
    city = City(sensors, 3)
    file = tmp_path / "city.toml"
    file.write_text(as_toml(surroundings(city)), encoding="utf-8")
    found = read_settings(file, {})
    assert found.city.noise_night_db == 70.0
    assert found.groups["square-1"].area_m2
    names = {one.name for one in city.sensors}
    assert {name for group in found.groups.values() for name in group.sensors} <= names


def test_labels_tell_of_events(tmp_path: Path) -> None:
    labels = Labels("live", 240, 1, 1.0, START_NS, None, (), tuple(plan(list(SCRIPTS))))
    write_labels(tmp_path / "labels.json", labels)
    assert read_labels(tmp_path / "labels.json") == labels

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ingest.quantities import QUANTITIES
from simulators.city import City, Floats
from simulators.faults import (
    KINDS,
    MIN_READINGS,
    WARM_UP_READINGS,
    Fault,
    Injector,
    Labels,
    LabelsError,
    plan_faults,
    read_labels,
    write_labels,
)

START_NS = 1_772_400_000 * 10**9
PERIOD_NS = 10**9
MINUTES_NS = 60 * 10**9
EXPECTED = {
    "stuck": ("sensor-health", "flatline"),
    "out-of-range": ("sensor-health", "range"),
    "jitter": ("sensor-health", "rate"),
    "level-shift": ("city", "level"),
}


def plan(
    city: City, count: int = 12, seed: int = 1, minutes: int = 5, **options: Any
) -> list[Fault]:
    end_ns = START_NS + minutes * MINUTES_NS
    return plan_faults(city, seed, count, START_NS, end_ns, **{"period_s": 1.0} | options)


def run(
    city: City, faults: Sequence[Fault], readings: int
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return times, and sound and faulty readings (readings, sensors, quantities)."""
    who = np.arange(len(city))
    injector = Injector(city, faults)
    sound, faulty = [], []
    times = START_NS + np.arange(readings) * PERIOD_NS
    for now in times:
        moment = np.full(len(city), now)
        sound.append(city.observe(who, moment))
        before = sound[-1].copy()
        faulty.append(injector.apply(who, moment, sound[-1]))
        np.testing.assert_array_equal(sound[-1], before)
    return times, np.array(sound), np.array(faulty)


def series(city: City, fault: Fault) -> tuple[int, int]:
    names = [sensor.name for sensor in city.sensors]
    sensor = names.index(fault.sensor)
    return sensor, city.sensors[sensor].quantities.index(fault.quantity)


def test_plan_is_the_same_for_the_same_seed_and_differs_for_another() -> None:
    city = City(200)
    assert plan(city) == plan(City(200))
    assert plan(city) != plan(city, seed=2)


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 30),
    minutes=st.integers(1, 600),
    start_h=st.integers(0, 168),
)
@settings(max_examples=30, deadline=None)
def test_plan_leaves_time_to_warm_up_and_to_notice(
    seed: int, count: int, minutes: int, start_h: int
) -> None:
    city = City(200)
    start_ns = START_NS + start_h * 60 * MINUTES_NS
    end_ns = start_ns + minutes * MINUTES_NS
    faults = plan_faults(city, seed, count, start_ns, end_ns, period_s=1.0)
    assert len(faults) == count
    assert len({fault.sensor for fault in faults}) == count
    assert Counter(fault.kind for fault in faults).most_common()[-1][1] >= count // len(KINDS)
    for fault in faults:
        assert fault.start_ns >= start_ns + WARM_UP_READINGS * PERIOD_NS
        assert fault.end_ns <= end_ns
        assert fault.end_ns - fault.start_ns >= MIN_READINGS * PERIOD_NS
        assert (fault.category, fault.alert_kind) == EXPECTED[fault.kind]


def test_some_faults_end_within_the_run_and_some_last_to_its_end() -> None:
    faults = plan(City(200), count=20)
    end_ns = START_NS + 5 * MINUTES_NS
    ending = sum(fault.end_ns < end_ns - 10 * PERIOD_NS for fault in faults)
    assert 5 <= ending <= 10
    assert sum(fault.end_ns == end_ns for fault in faults) >= 10


def test_faults_are_spread_over_the_run() -> None:
    starts = [fault.start_ns for fault in plan(City(200), count=20)]
    assert starts == sorted(starts)
    assert max(np.diff(starts)) < 60 * PERIOD_NS


def test_faults_change_exactly_their_own_series_in_their_own_time() -> None:
    city = City(200)
    faults = plan(city, count=16)
    times, sound, faulty = run(city, faults, 300)
    expected = np.zeros(sound.shape, dtype=bool)
    for fault in faults:
        inside = (times >= fault.start_ns) & (times < fault.end_ns)
        expected[(inside, *series(city, fault))] = True
    changed = ~((sound == faulty) | (np.isnan(sound) & np.isnan(faulty)))
    assert not (changed & ~expected).any()
    for fault in faults:
        place = series(city, fault)
        own = expected[(slice(None), *place)]
        # A stuck value is now and then the true one.
        assert changed[(slice(None), *place)][own].mean() > 0.8


@pytest.mark.parametrize("kind", KINDS)
def test_faulty_readings_look_as_their_kind_says(kind: str) -> None:
    city = City(400)
    faults = plan(city, count=12, kinds=[kind])
    times, sound, faulty = run(city, faults, 300)
    for fault in faults:
        assert fault.kind == kind
        place = series(city, fault)
        inside = (times >= fault.start_ns) & (times < fault.end_ns)
        before, seen = sound[(inside, *place)], faulty[(inside, *place)]
        limits = QUANTITIES[fault.quantity]
        physical = (seen >= limits.low) & (seen <= limits.high)
        if kind == "stuck":
            assert (seen == before[0]).all()
        elif kind == "out-of-range":
            assert not physical.any()
        elif kind == "jitter":
            assert physical.all()
            assert np.isfinite(limits.max_rate)
            assert np.abs(np.diff(seen)).min() > 1.5 * limits.max_rate
        else:
            assert physical.all()
            calm = sound[(times < fault.start_ns, *place)].std()
            assert abs(np.median(seen) - np.median(before)) > 8.0 * calm
            assert not np.isfinite(limits.max_rate)


def test_jitter_is_left_out_where_the_period_hides_it() -> None:
    city = City(200)
    kinds = {fault.kind for fault in plan(city, count=8, minutes=120, period_s=60.0)}
    assert kinds == set(KINDS) - {"jitter"}
    with pytest.raises(ValueError, match="too long to show jitter"):
        plan(city, count=1, minutes=120, period_s=60.0, kinds=["jitter"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0}, "too short for faults: it must last 52 s"),
        ({"kinds": ["gremlins"]}, "unknown kinds of faults: \\['gremlins'\\]"),
        ({"count": 41}, "no sensor left"),
    ],
)
def test_impossible_plans_are_refused_with_the_reason(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(City(40), **options)


def test_no_faults_fit_into_any_run() -> None:
    assert plan(City(40), count=0, minutes=0) == []


def test_labels_come_back_as_written(tmp_path: Path) -> None:
    city = City(200)
    labels = Labels("replay-x", 200, 1, 1.0, START_NS, None, tuple(plan(city)))
    path = tmp_path / "labels.json"
    write_labels(path, labels)
    assert read_labels(path) == labels
    write_labels(path, replace(labels, end_ns=START_NS + 1, faults=()))
    assert read_labels(path).faults == ()
    assert [file.name for file in tmp_path.iterdir()] == ["labels.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"namespace": 3}', "{"])
def test_files_without_labels_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LabelsError, match=r"labels\.json"):
        read_labels(path)

"""What an operator hears from the kernels that watch roads and sensors, one story a test."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors import incident, noise, noise_change, spike, tampering

S = 10**9


def minutes(count: int) -> NDArray[np.int64]:
    return np.arange(1, count + 1) * (60 * S)


def watch(step: Any, state: Any, value: Sequence[float], *more: Any, time_ns: Any = None) -> Any:
    """Feed one series; return the findings, one a reading."""
    time_ns = minutes(len(value)) if time_ns is None else time_ns
    yes = np.ones(1, np.bool_)
    with np.errstate(all="ignore"):
        return [
            step(state, time_ns[[row]], np.array([one], np.float64), yes, *more)
            for row, one in enumerate(value)
        ]


def road(up: Sequence[float], down: Sequence[float], speed: Sequence[float]) -> list[int]:
    state = incident.new_state(1)
    levels = []
    for time_ns, one, other, fast in zip(minutes(len(up)), up, down, speed, strict=True):
        now = np.array([time_ns])
        ahead = incident.Downstream(now, np.array([other]), np.array([fast]))
        with np.errstate(all="ignore"):
            found = incident.step(state, now, np.array([one]), np.ones(1, np.bool_), ahead)
        levels.append(int(found.level[0]))
    return levels


def test_a_blocked_lane_is_an_incident_when_the_next_reading_confirms_it() -> None:
    up = [0.10, 0.10, 0.10, 0.35, 0.40, 0.42, 0.30, 0.10]
    down = [0.10, 0.10, 0.10, 0.05, 0.04, 0.05, 0.20, 0.10]
    slow = [90.0, 90.0, 88.0, 40.0, 15.0, 12.0, 50.0, 90.0]
    assert road(up, down, slow) == [0, 0, 0, 1, 2, 2, 0, 0]
    assert road(up, down, [np.nan] * 8) == [0, 0, 0, 1, 2, 2, 0, 0]


def test_where_the_traffic_flows_as_fast_as_before_nothing_is_blocked() -> None:
    up = [0.10, 0.10, 0.10, 0.35, 0.40]
    down = [0.10, 0.10, 0.10, 0.05, 0.04]
    assert road(up, down, [90.0] * 5) == [0] * 5


def test_a_reading_that_stands_alone_is_no_incident() -> None:
    up = [0.10, 0.10, 0.10, 0.35, 0.10, 0.10]
    down = [0.10, 0.10, 0.10, 0.05, 0.10, 0.10]
    assert road(up, down, [np.nan] * 6) == [0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(("quiet", "told"), [(6, 0), (7, 1)])
def test_after_a_stop_and_go_wave_nothing_is_begun_for_five_readings(quiet: int, told: int) -> None:
    # The change is over two readings, so a jump is a wave twice.
    wave = [0.10, 0.10, 0.50]
    down = [*wave, *[0.50] * (quiet - 2), 0.2, 0.1]
    up = [*[0.1] * len(wave), *[0.5] * (quiet - 2), 0.3, 0.4]
    assert road(up, down, [np.nan] * len(up))[-1] == told


def test_what_belongs_to_another_minute_is_not_compared() -> None:
    state = incident.new_state(1)
    old = incident.Downstream(np.array([0]), np.array([0.01]), np.array([np.nan]))
    found = watch(incident.step, state, [0.5], old, time_ns=np.array([61 * S]))
    assert not found[0].judged[0]


STEADY = [10.0, 10.2, 9.9, 10.1, 10.0, 9.8, 10.1] * 6


def test_a_spike_is_told_with_the_reading_after_it() -> None:
    found = watch(spike.step, spike.new_state(1), [*STEADY, 50.0, 10.0, 10.1], np.array([0.5]))
    spoke = [row for row, one in enumerate(found) if one.speaks[0]]
    assert spoke == [len(STEADY) + 1]
    assert found[-2].measure[0] == 50.0
    assert found[-2].expected[0] == pytest.approx(10.0, abs=0.2)
    assert found[-3].level[0] == spike.FAR


def test_a_step_is_no_spike() -> None:
    found = watch(spike.step, spike.new_state(1), [*STEADY, *[50.0] * 20], np.array([0.5]))
    assert not any(one.speaks[0] for one in found)
    assert not found[-1].level[0]


def test_a_sensor_that_begins_to_jitter_or_goes_smooth_is_told() -> None:
    rng = np.random.default_rng(1)
    calm = rng.normal(20.0, 1.0, 600)
    for later, level in ((rng.normal(20.0, 8.0, 60), noise_change.LOUDER),
                         (rng.normal(20.0, 0.05, 90), noise_change.QUIETER)):  # fmt: skip
        values = [*calm, *later]
        found = watch(noise_change.step, noise_change.new_state(1), values, np.array([0.01]))
        assert not any(one.speaks[0] for one in found[:600])
        assert found[-1].level[0] == level


def test_a_slow_drift_and_one_step_are_no_noise() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0.0, 1.0, 900) + np.arange(900) * 0.1
    values[600:] += 500.0
    found = watch(noise_change.step, noise_change.new_state(1), values, np.array([0.01]))
    assert not any(one.speaks[0] for one in found)


@pytest.mark.parametrize(("usual", "after"), [(30.0, 11), (4.0, 21), (0.0, None)])
def test_a_camera_that_sees_nobody_is_told_the_sooner_the_busier_the_place(
    usual: float, after: int | None
) -> None:
    values = [usual, usual + 1.0, *[0.0] * 40]
    found = watch(tampering.step, tampering.new_state(1), values, np.array([usual]))
    spoke = [row - 1 for row, one in enumerate(found) if one.speaks[0]]
    assert (spoke[0] if spoke else None) == after


def test_however_busy_the_place_five_counts_are_waited_for() -> None:
    time_ns = np.arange(1, 9) * (240 * S)
    usual = np.array([500.0])
    # One more than next to nobody.
    values = [10.1, *[0.0] * 7]
    found = watch(tampering.step, tampering.new_state(1), values, usual, time_ns=time_ns)
    assert [bool(one.speaks[0]) for one in found] == [False] * 5 + [True] * 3


@pytest.mark.parametrize(("flicker", "told"), [(0.4, True), (0.6, True), (0.7, False)])
def test_what_flickers_on_a_covered_lens_is_nobody(flicker: float, told: bool) -> None:
    values = [30.0, 31.0, *[0.0, flicker] * 10]
    found = watch(tampering.step, tampering.new_state(1), values, np.array([30.0]))
    assert any(one.speaks[0] for one in found) == told


def test_one_person_ends_the_suspicion() -> None:
    values = [*[0.0] * 30, 1.0, *[0.0] * 10]
    found = watch(tampering.step, tampering.new_state(1), values, np.array([30.0]))
    assert found[29].speaks[0]
    assert not any(one.speaks[0] for one in found[30:])


def test_the_night_is_held_to_its_own_limit() -> None:
    limit = np.array([[65.0], [60.0], [50.0]])
    terms = noise.Terms(np.array([60 * S]), np.array([2 * 3600 * S]), limit)
    # 21:00 to 01:30 UTC is 23:00 to 03:30 there; 55 dB all the time.
    time_ns = np.arange(21 * 60 + 1, 25 * 60 + 30) * (60 * S)
    found = watch(noise.step, noise.new_state(1), [55.0] * len(time_ns), terms, time_ns=time_ns)
    spoke = [row for row, one in enumerate(found) if one.speaks[0]]
    # Judged after the first hour, and certain when five dB too much has lasted 8 h / 10^0.5.
    assert spoke[0] == 59
    certain = [row for row, one in enumerate(found) if one.level[0] == noise.CERTAIN]
    assert certain[0] == pytest.approx(8 * 60 / 10**0.5, abs=1)
    assert found[-1].upper[0] == 50.0

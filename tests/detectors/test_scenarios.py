"""What an operator relies on, one story a test."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors import (
    CATEGORY_NAMES,
    KIND_NAMES,
    Limits,
    Suite,
    SuiteConfig,
    Verdicts,
)

S = 10**9
Told = list[tuple[int, str, str, str]]


def watch(
    values: Sequence[float] | NDArray[np.float64],
    *,
    given: Sequence[int] | int = 1,
    low: float = -1000.0,
    high: float = 1000.0,
    max_rate: float = np.inf,
    state: bool = False,
    period_s: int = 1,
    suite: Suite | None = None,
) -> Verdicts:
    """Judge one series, a reading every `period_s`."""
    if suite is None:
        suite = Suite()
        limits = Limits(np.array([low]), np.array([high]), np.array([max_rate]), np.array([state]))
        suite.add(limits)
    value = np.asarray(values, np.float64)
    count = len(value)
    time_ns = np.arange(1, count + 1) * (period_s * S)
    quality = np.broadcast_to(np.asarray(given, np.uint8), count).copy()
    return suite.step(np.zeros(count, np.int32), time_ns, value, quality)


def told(verdicts: Verdicts) -> Told:
    """Return the transitions as (row, category, kind, what)."""
    change = verdicts.transitions
    return [
        (row, CATEGORY_NAMES[category], KIND_NAMES[kind], "opens" if opened else "closes")
        for row, category, kind, opened in zip(
            change.row.tolist(),
            change.category.tolist(),
            change.kind.tolist(),
            change.opened.tolist(),
            strict=True,
        )
    ]


@pytest.fixture
def noise() -> NDArray[np.float64]:
    return 20.0 + np.random.default_rng(7).standard_normal(600)


def test_a_level_shift_opens_one_city_alert_that_closes_after_the_return(
    noise: NDArray[np.float64],
) -> None:
    noise[200:215] += 8.0
    verdicts = watch(noise)
    opening, closing = told(verdicts)
    assert opening[1:] == ("city", "level", "opens")
    assert 202 <= opening[0] < 210
    assert closing[1:] == ("city", "level", "closes")
    assert 219 <= closing[0] < 230
    assert verdicts.transitions.opened_ns.tolist() == [(opening[0] + 1) * S] * 2


@pytest.mark.parametrize(("height", "opens"), [(3.9, False), (4.6, True)])
def test_by_default_three_readings_beyond_4_2_spreads_open(
    noise: NDArray[np.float64], height: float, opens: bool
) -> None:
    # Each a little higher, for it is no flatline.
    noise[500:503] = 20.0 + height + np.arange(3) * 1e-3
    assert bool(told(watch(noise[:505]))) == opens


def test_by_default_a_new_level_is_adopted_after_200_readings(
    noise: NDArray[np.float64],
) -> None:
    values = np.tile(noise, 2)
    values[200:] += 8.0
    verdicts = watch(values)
    opening = told(verdicts)[0][0]
    assert verdicts.expected[opening + 190] == pytest.approx(20.0, abs=1.0)
    assert verdicts.expected[opening + 210] == pytest.approx(28.0, abs=1.0)


@pytest.mark.parametrize("shift", [8.0, 1e3, 1e6])
def test_a_lasting_shift_is_adopted_in_the_end(noise: NDArray[np.float64], shift: float) -> None:
    values = np.tile(noise, 8)
    values[200:] += shift
    verdicts = watch(values, high=1e9)
    assert [entry[1:] for entry in told(verdicts)] == [
        ("city", "level", "opens"),
        ("city", "level", "closes"),
    ]
    assert verdicts.expected[-1] == pytest.approx(20 + shift, abs=3 + 0.01 * shift)


def test_the_same_shift_is_found_every_time(noise: NDArray[np.float64]) -> None:
    shifted = np.tile(noise, 4)
    for start in range(300, 2400, 300):
        shifted[start : start + 40] += 8.0
    opened = [row for row, *_, what in told(watch(shifted)) if what == "opens"]
    assert [row // 300 * 300 for row in opened] == list(range(300, 2400, 300))
    assert all(row % 300 < 10 for row in opened)


@pytest.mark.parametrize("rest_s", [0.0, 100.0])
def test_what_comes_back_at_once_waits_until_the_rest_is_over(
    noise: NDArray[np.float64], rest_s: float
) -> None:
    suite = Suite(SuiteConfig(city_rest_s=rest_s))
    suite.add(Limits(np.array([-1000.0]), np.array([1000.0]), np.array([np.inf])))
    for start in (200, 250, 400):
        noise[start : start + 20] += 30.0
    rows = [row for row, *_, what in told(watch(noise, suite=suite)) if what == "opens"]
    assert [row // 50 * 50 for row in rows] == ([200, 250, 400] if rest_s == 0.0 else [200, 400])


def test_an_alert_whose_rest_ends_while_readings_are_far_opens_then(
    noise: NDArray[np.float64],
) -> None:
    suite = Suite(SuiteConfig(city_rest_s=100.0))
    suite.add(Limits(np.array([-np.inf]), np.array([np.inf]), np.array([np.inf])))
    noise[200:220] += 30.0
    # What is learned of it in the meantime does not make it usual.
    noise[310:] += 100.0 * 1.5 ** np.arange(290)
    _, (closed, *_), (opened, *_), *_ = told(watch(noise, suite=suite))
    assert opened == closed + 100


def test_a_shift_does_not_close_before_it_was_seen(noise: NDArray[np.float64]) -> None:
    noise[200:] += 8.0
    (_, *_), (closed, *_) = told(watch(noise))
    assert closed >= 215


def test_a_single_spike_opens_nothing(noise: NDArray[np.float64]) -> None:
    noise[200] += 500.0
    verdicts = watch(noise, max_rate=10.0)
    assert told(verdicts) == []
    # Suspect is the spike alone, not the reading that comes back.
    assert np.flatnonzero(verdicts.quality == 3).tolist() == [200]
    verdicts = watch(noise)
    assert told(verdicts) == []
    assert np.nanargmax(verdicts.score) == 200
    assert abs(verdicts.expected[201] - verdicts.expected[200]) < 0.5


def test_a_sensor_that_freezes_opens_one_health_alert(noise: NDArray[np.float64]) -> None:
    noise[200:260] = noise[200]
    verdicts = watch(noise)
    assert [entry[1:] for entry in told(verdicts)] == [
        ("sensor-health", "flatline", "opens"),
        ("sensor-health", "flatline", "closes"),
    ]
    opened, closed = (entry[0] for entry in told(verdicts))
    assert 208 <= opened <= 215
    assert closed == 264
    assert (verdicts.quality[opened:260] == 3).all()
    assert np.isnan(verdicts.score[opened:260]).all()
    assert (verdicts.quality[260:] == 1).all()


def test_a_series_that_never_varied_is_not_called_frozen() -> None:
    verdicts = watch(np.full(2000, 20.0))
    assert told(verdicts) == []
    assert (verdicts.quality == 1).all()
    assert verdicts.score[-1] == 0.0
    assert verdicts.expected[-1] == 20.0
    assert verdicts.band[-1] > 0
    suite = Suite(SuiteConfig(flatline_chance=0.01))
    suite.add(Limits(np.array([0.0]), np.array([50.0]), np.array([np.inf])))
    assert told(watch(np.full(2000, 20.0), suite=suite)) == []


def test_counts_that_sink_to_zero_at_night_are_not_called_frozen() -> None:
    # Two days of a count a minute, from 8 at noon to one in ten minutes at night.
    minute = np.arange(2 * 1440)
    mean = 0.1 + 8.0 * np.maximum(np.sin(2 * np.pi * (minute - 360) / 1440), 0.0) ** 2
    quiet = 0
    for seed in range(10):
        counts = np.random.default_rng(seed).poisson(mean).astype(float)
        quiet += not any("flatline" in entry for entry in told(watch(counts, period_s=60, low=0)))
    assert quiet >= 9


def test_a_coarse_sensor_is_given_longer_runs() -> None:
    rng = np.random.default_rng(3)
    coarse = np.round(20.0 + 0.25 * rng.standard_normal(3000))
    assert (np.diff(coarse) == 0).mean() > 0.85
    assert told(watch(coarse)) == []


def test_rounding_after_a_constant_stretch_alarms_nobody() -> None:
    values = np.full(300, 20.0)
    values[100:] += 1e-9
    values[200:] += 1e-2
    assert told(watch(values)) == []


@pytest.mark.parametrize("bad", [1001.0, -1000.5, np.inf, -np.inf, np.nan, 1e200])
def test_values_out_of_range_open_health_and_never_city(
    noise: NDArray[np.float64], bad: float
) -> None:
    noise[200:230] = bad
    verdicts = watch(noise)
    assert told(verdicts) == [
        (201, "sensor-health", "range", "opens"),
        (234, "sensor-health", "range", "closes"),
    ]
    assert (verdicts.quality[200:230] == 4).all()
    assert np.isnan(verdicts.score[200:230]).all()
    assert verdicts.expected[230] == verdicts.expected[200]


def test_the_ends_of_the_range_are_within_it() -> None:
    assert watch([0.0, 1.0, -0.0, np.nextafter(1.0, 2.0)], low=0, high=1).quality.tolist() == [
        1, 1, 1, 4,
    ]  # fmt: skip


def test_values_that_race_open_health_rate(noise: NDArray[np.float64]) -> None:
    noise[200:205] += [40.0, 80.0, 120.0, 160.0, 200.0]
    noise[205:] += 200.0
    verdicts = watch(noise, max_rate=10.0)
    assert told(verdicts)[0] == (201, "sensor-health", "rate", "opens")
    assert (verdicts.quality[200:205] == 3).all()
    # The new level lasts; it does not stay suspect.
    assert (verdicts.quality[206:] == 1).all()


@pytest.mark.parametrize("swing", [15.0, 30.0])
def test_a_jittering_sensor_opens_health_and_never_city(
    noise: NDArray[np.float64], swing: float
) -> None:
    noise[200:300:2] += swing
    noise[201:300:2] -= swing
    assert {entry[1:] for entry in told(watch(noise, max_rate=2.0))} == {
        ("sensor-health", "rate", "opens"),
        ("sensor-health", "rate", "closes"),
    }


def test_a_series_is_learned_anew_after_a_long_silence(noise: NDArray[np.float64]) -> None:
    suite = Suite()
    suite.add(Limits(np.array([-1e3]), np.array([1e3]), np.array([np.inf])))
    watch(noise, suite=suite)
    silence_ns = round(SuiteConfig().forget_after_s * S)
    later = np.arange(600) * S + 600 * S + silence_ns + S
    zeros, flags = np.zeros(600, np.int32), np.ones(600, np.uint8)

    verdicts = suite.step(zeros, later, noise + 500.0, flags)

    assert len(verdicts.transitions) == 0
    assert np.flatnonzero(np.isfinite(verdicts.score))[0] == SuiteConfig().warm_up


def test_a_lasting_step_is_too_fast_once_only(noise: NDArray[np.float64]) -> None:
    values = np.tile(noise, 3)
    values[200:] += 50.0
    verdicts = watch(values, max_rate=10.0)
    assert np.flatnonzero(verdicts.quality == 3).tolist() == [200]
    assert [entry[1] for entry in told(verdicts)] == ["city", "city"]


def test_readings_far_apart_in_time_are_not_compared_for_rate() -> None:
    suite = Suite()
    suite.add(Limits(np.full(2, -1e9), np.full(2, 1e9), np.full(2, 1.0)))
    time_ns = np.array([0, 300 * S, 0, 301 * S])
    verdicts = suite.step(
        np.array([0, 0, 1, 1], np.int32), time_ns, np.array([0.0, 1e6] * 2), np.ones(4, np.uint8)
    )
    assert verdicts.quality.tolist() == [1, 3, 1, 1]


def test_times_at_both_ends_of_the_calendar_do_not_overflow() -> None:
    suite = Suite()
    suite.add(Limits(np.full(1, -1e9), np.full(1, 1e9), np.full(1, 1.0)))
    ends = np.array([np.iinfo(np.int64).min, -(2**63) + 1, 2**63 - 1])
    verdicts = suite.step(
        np.zeros(3, np.int32), ends, np.array([0.0, 0.0, 1e6]), np.ones(3, np.uint8)
    )
    assert verdicts.fresh.tolist() == [False, True, True]
    assert verdicts.quality.tolist() == [2, 1, 1]


def test_a_city_alert_outlives_readings_gone_bad(noise: NDArray[np.float64]) -> None:
    noise[200:300] += 8.0
    given = np.ones(600, np.uint8)
    given[206:290] = 4
    noise[230:290] -= 8.0
    entries = told(watch(noise, given=given))
    city = [entry for entry in entries if entry[1] == "city"]
    assert city[0][0] < 206
    assert city[1][0] >= 290
    assert (207, "sensor-health", "reported", "opens") in entries


@pytest.mark.parametrize("flag", [3, 4, 9])
def test_bad_flags_of_the_sensor_open_health_and_never_city(
    noise: NDArray[np.float64], flag: int
) -> None:
    noise[200:230] += 50.0
    noise[225:230] = np.nan
    given = np.ones(600, np.uint8)
    given[200:230] = flag
    verdicts = watch(noise, given=given)
    assert told(verdicts) == [
        (201, "sensor-health", "reported", "opens"),
        (234, "sensor-health", "reported", "closes"),
    ]
    assert (verdicts.quality[200:225] == flag).all()
    assert (verdicts.quality[225:230] == max(flag, 4)).all()
    assert np.isnan(verdicts.score[200:230]).all()


def test_unknown_quality_is_scored_and_kept(noise: NDArray[np.float64]) -> None:
    verdicts = watch(noise, given=2)
    assert (verdicts.quality == 2).all()
    assert np.isfinite(verdicts.score[20:]).all()


def test_scores_begin_after_the_warm_up(noise: NDArray[np.float64]) -> None:
    noise[3] = np.nan  # not learned, so it does not count
    verdicts = watch(noise)
    for column in (verdicts.score, verdicts.expected, verdicts.band):
        assert np.isnan(column[:21]).all()
        assert np.isfinite(column[21:]).all()


def test_the_warm_up_is_the_plain_mean_and_spread(noise: NDArray[np.float64]) -> None:
    verdicts = watch(noise[:21])
    seen = noise[:20]
    assert verdicts.expected[20] == pytest.approx(seen.mean(), rel=1e-12)
    plain = SuiteConfig()
    ratio = (np.diff(seen) ** 2).mean() / (2 * seen.var())
    early = 1 + 10 * (1 / 20 - 1 / 251)
    widened = seen.std() * early * (1 + 0.25 * (1 - min(ratio, 1)))
    assert verdicts.band[20] == pytest.approx(plain.city_open_spreads * widened, rel=1e-12)


def test_values_inside_the_band_open_nothing_and_outside_it_do(
    noise: NDArray[np.float64],
) -> None:
    suite = Suite()
    suite.add(Limits(np.array([-1e3]), np.array([1e3]), np.array([np.inf])))
    watch(noise, suite=suite)
    saved = suite.save()
    for factor, opens in ((0.999, 0), (1.001, 1)):
        suite = Suite.load(saved)
        count = 0
        for second in range(601, 604):
            now = np.array([second * S])
            peek = Suite.load(suite.save()).step(
                np.zeros(1, np.int32), now, np.array([20.0]), np.ones(1, np.uint8)
            )
            value = peek.expected + factor * peek.band
            verdicts = suite.step(np.zeros(1, np.int32), now, value, np.ones(1, np.uint8))
            count += len(verdicts.transitions)
        assert count == opens


def test_a_late_row_changes_nothing_but_its_range_is_looked_at() -> None:
    suite = Suite()
    suite.add(Limits(np.array([0.0]), np.array([10.0]), np.array([np.inf])))
    watch([1.0, 2.0], suite=suite)
    before = suite.save()
    verdicts = suite.step(
        np.zeros(4, np.int32),
        np.array([2, 1, 2, 0]) * S,
        np.array([3.0, 3.0, 11.0, 3.0]),
        np.array([1, 9, 1, 3], np.uint8),
    )
    assert verdicts.fresh.tolist() == [False] * 4
    assert verdicts.quality.tolist() == [2, 9, 4, 3]
    assert np.isnan(verdicts.expected).all()
    assert len(verdicts.transitions) == 0
    assert suite.save() == before


def test_a_camera_that_loses_its_signal_is_told_at_once_and_so_is_its_return() -> None:
    # Events days apart: what is said stands until the next one.
    verdicts = watch([0, 1, 0, 1, 1, 1, 0, 0], high=0, low=0, state=True, period_s=2 * 86_400)
    assert told(verdicts) == [
        (1, "sensor-health", "range", "opens"),
        (2, "sensor-health", "range", "closes"),
        (3, "sensor-health", "range", "opens"),
        (6, "sensor-health", "range", "closes"),
    ]
    assert verdicts.quality.tolist() == [1, 4, 1, 4, 4, 4, 1, 1]
    assert verdicts.transitions.opened_ns.tolist() == [
        day * 86_400 * S for day in (4, 4, 8, 8)
    ]  # fmt: skip


def test_a_state_that_begins_badly_is_told_at_its_first_reading() -> None:
    assert told(watch([1, 0], low=0, high=0, state=True)) == [
        (0, "sensor-health", "range", "opens"),
        (1, "sensor-health", "range", "closes"),
    ]


def test_what_would_be_a_measures_story_is_none_of_a_states() -> None:
    # Varied enough to be learned, then still for ever, then a jump that lasts.
    values = np.concatenate((np.tile([0.0, 1.0], 50), np.zeros(5_000), np.full(100, 900.0)))
    verdicts = watch(values, low=0, max_rate=0.1, state=True)
    assert told(verdicts) == []
    assert (verdicts.quality == 1).all()
    for column in (verdicts.score, verdicts.expected, verdicts.band):
        assert np.isnan(column).all()
    # As a measure it is each of them.
    as_measure = watch(values, low=0, max_rate=0.1)
    assert {kind for _, _, kind, _ in told(as_measure)} == {"flatline", "level"}
    assert (as_measure.quality[:100] == 3).any()


@pytest.mark.parametrize("flag", [3, 4, 9])
def test_a_bad_flag_of_a_state_counts_at_once(flag: int) -> None:
    given = [1, flag, 1, 2]
    verdicts = watch([0, 0, 0, 0], given=given, low=0, high=0, state=True)
    assert told(verdicts) == [
        (1, "sensor-health", "reported", "opens"),
        (2, "sensor-health", "reported", "closes"),
    ]
    assert verdicts.quality.tolist() == given


def test_a_late_word_of_a_state_changes_nothing() -> None:
    suite = Suite()
    suite.add(Limits(np.zeros(1), np.zeros(1), np.full(1, np.inf), np.ones(1, np.bool_)))
    time_ns = np.array([2, 1, 2, 3, 2]) * S
    verdicts = suite.step(
        np.zeros(5, np.int32), time_ns, np.array([0.0, 1.0, 1.0, 1.0, 0.0]), np.ones(5, np.uint8)
    )
    assert verdicts.fresh.tolist() == [True, False, False, True, False]
    assert verdicts.quality.tolist() == [1, 4, 4, 4, 2]
    assert told(verdicts) == [(3, "sensor-health", "range", "opens")]


def test_states_and_measures_in_one_batch_keep_to_their_own_rules() -> None:
    suite = Suite()
    suite.add(Limits(np.zeros(2), np.zeros(2), np.full(2, np.inf), np.array([True, False])))
    value = np.repeat([0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], 2)
    verdicts = suite.step(
        np.tile([0, 1], 8).astype(np.int32),
        np.repeat(np.arange(1, 9), 2) * S,
        value,
        np.ones(16, np.uint8),
    )
    moves = verdicts.transitions
    assert list(zip(moves.series.tolist(), (moves.row // 2).tolist(), strict=True)) == [
        (0, 1),
        (1, 2),
        (0, 3),
        (1, 7),
    ]


def ar1(rng: np.random.Generator, shape: tuple[int, int], phi: float) -> NDArray[np.float64]:
    values = rng.standard_normal(shape)
    values[1:] *= np.sqrt(1 - phi * phi)
    for row in range(1, shape[0]):
        values[row] += phi * values[row - 1]
    return values


@pytest.mark.parametrize("phi", [0.0, 0.9])
def test_noise_on_a_slow_drift_alarms_nobody_and_a_shift_is_found(phi: float) -> None:
    rng = np.random.default_rng(11)
    series, seconds = 500, 1200
    values = ar1(rng, (seconds, series), phi)
    values += 5 * np.sin(2 * np.pi * np.arange(seconds) / 86_400)[:, None] + 20
    values[1000:] += 8.0
    suite = Suite()
    suite.add(Limits(np.full(series, -1e3), np.full(series, 1e3), np.full(series, np.inf)))
    which = np.arange(series, dtype=np.int32)
    found = set()
    for second in range(1010):
        verdicts = suite.step(
            which, np.full(series, (second + 1) * S), values[second], np.ones(series, np.uint8)
        )
        if second < 1000:
            assert len(verdicts.transitions) == 0
        found |= set(verdicts.transitions.series[verdicts.transitions.opened].tolist())
    assert len(found) >= 0.99 * series

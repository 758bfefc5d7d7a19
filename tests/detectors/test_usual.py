"""What an operator hears from the kernels that learn what is usual, one story a test."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors import autoregression, clock_skew, drift, local_time, season, shift, tampering
from detectors.finding import Finding

S = 10**9
MINUTE = 60 * S
HOUR = 60 * MINUTE
DAY = 24 * HOUR
MONDAY = 19_723  # 2024-01-01
NO_HOLIDAYS = np.array([], np.int64)
MADRID = ZoneInfo("Europe/Madrid")
Floats = NDArray[np.float64]
Times = NDArray[np.int64]


def told(step: Callable[[Times, Floats, NDArray[np.bool_], int], Finding], values: Floats,
         time_ns: Times) -> Finding:  # fmt: skip
    """Feed (m, n) values of n series at m times; return findings of that shape."""
    count = values.shape[1]
    yes = np.ones(count, np.bool_)
    with np.errstate(all="ignore"):
        rows = [
            step(np.full(count, now), value, yes, row)
            for row, (now, value) in enumerate(zip(time_ns, values, strict=True))
        ]
    return Finding(*(np.stack(columns) for columns in zip(*rows, strict=True)))


def times(days: float, every_ns: int, begin_day: float = MONDAY) -> Times:
    return round(begin_day * DAY) + np.arange(1, round(days * DAY / every_ns) + 1) * every_ns


def busy(local_ns: Times) -> Floats:
    """People in a street by the hour and the day of the week."""
    hour = local_ns / HOUR % 24
    share = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.25])[(local_ns // DAY + 3) % 7]
    peaks = np.exp(-((hour - 9) ** 2) / 8) + 0.8 * np.exp(-((hour - 18) ** 2) / 8)
    return 60.0 * share * (0.01 + peaks)


class Watch:
    """`season` over n series of counts."""

    def __init__(self, count: int, holidays: NDArray[np.int64] = NO_HOLIDAYS) -> None:
        self.state = season.new_state(count)
        self.holidays = holidays
        self.count = count

    def see(self, values: Floats, time_ns: Times, offset_ns: Times | None = None) -> Finding:
        offset_ns = np.zeros_like(time_ns) if offset_ns is None else offset_ns
        return told(
            lambda now, value, yes, row: season.step(
                self.state,
                now,
                value,
                yes,
                season.Terms(
                    np.full(self.count, offset_ns[row]),
                    np.full(self.count, 0.1),
                    np.ones(self.count),
                ),
                self.holidays,
            ),
            values,
            time_ns,
        )


def crowds(rng: np.random.Generator, local_ns: Times, count: int) -> Floats:
    return rng.poisson(np.tile(busy(local_ns), (count, 1)).T).astype(np.float64)


def test_a_crowd_at_night_is_told_at_once_and_the_same_crowd_in_the_morning_is_not() -> None:
    watch = Watch(1)
    past = times(10 + 3 / 24, 5 * MINUTE)
    watch.see(crowds(np.random.default_rng(1), past, 1), past)
    night = past[-1:] + MINUTE
    assert watch.see(np.array([[40.0]]), night).level[0, 0] == season.HIGH
    rest = times(5.9 / 24, 5 * MINUTE, 10 + 3.1 / 24 + MONDAY)
    watch.see(crowds(np.random.default_rng(2), rest, 1), rest)
    morning = watch.see(np.array([[40.0]]), rest[-1:] + MINUTE)
    assert morning.judged[0, 0]
    assert not morning.speaks[0, 0]
    assert morning.expected[0, 0] == pytest.approx(60.0, rel=0.15)


def test_counts_that_are_as_ever_say_nothing_and_are_judged_from_the_fourth_day() -> None:
    time_ns = times(28, 10 * MINUTE)
    found = Watch(100).see(crowds(np.random.default_rng(3), time_ns, 100), time_ns)
    assert not found.speaks.any()
    day = time_ns // DAY - MONDAY
    assert not found.judged[day < 3].any()
    assert found.judged[(day == 3) & (time_ns % DAY > 0)].all()
    assert found.judged[-200:].all()
    # Half of one per cent of the readings would be beyond even half the reach.
    middle = found.expected + (found.upper - found.expected) / 2
    beyond = (crowds(np.random.default_rng(3), time_ns, 100) > middle)[found.judged].mean()
    assert beyond < 0.005


def test_an_empty_square_that_is_full_every_noon_is_told_by_night_and_day_of_the_week() -> None:
    time_ns = times(21, 10 * MINUTE)
    watch = Watch(1)
    watch.see(crowds(np.random.default_rng(4), time_ns, 1), time_ns)
    monday = times(1, 10 * MINUTE, MONDAY + 21)
    found = watch.see(np.zeros((len(monday), 1)), monday)
    spoke = monday[found.speaks[:, 0]] % DAY // HOUR
    assert set(spoke) == {8, 9}
    assert (found.level[found.speaks] == season.LOW).all()


@pytest.mark.parametrize("known", [True, False])
def test_a_holiday_that_the_calendar_knows_is_as_a_sunday(known: bool) -> None:
    wednesday = MONDAY + 21 + 2
    days = local_time.day_numbers([date(1970, 1, 1)]) + wednesday if known else NO_HOLIDAYS
    past, now = times(23, 10 * MINUTE), times(1, 10 * MINUTE, wednesday)
    watch = Watch(1, days)
    watch.see(crowds(np.random.default_rng(5), past, 1), past)
    found = watch.see(crowds(np.random.default_rng(6), now - 3 * DAY, 1), now)
    at_nine = found.expected[9 * 6, 0]
    assert at_nine == pytest.approx(15.0 if known else 60.0, rel=0.2)


@pytest.mark.parametrize("day", [date(2024, 3, 31), date(2024, 10, 27)])
def test_when_clocks_change_the_rush_hour_stays_where_it_was(day: date) -> None:
    change_day = int(local_time.day_numbers([day])[0])
    time_ns = times(25, 10 * MINUTE, change_day - 22)
    offset_ns = local_time.offsets_ns(MADRID, time_ns)
    assert len(np.unique(offset_ns)) == 2
    local = time_ns + offset_ns
    values = crowds(np.random.default_rng(7), local, 1)
    found = Watch(1).see(values, time_ns, offset_ns)
    assert not found.speaks.any()
    monday = (local // DAY == change_day + 1) & (local % DAY == 9 * HOUR)
    assert found.expected[monday, 0] == pytest.approx([60.0], rel=0.15)
    # Without it the rush hour comes an hour too early or too late, and that is told.
    fixed = Watch(1).see(values, time_ns, np.full_like(offset_ns, offset_ns[0]))
    assert fixed.expected[monday, 0] < 56.0


def test_the_profile_tells_tampering_when_people_are_missed() -> None:
    past, now = times(21, 5 * MINUTE), times(1, 5 * MINUTE, MONDAY + 21)
    watch = Watch(1)
    watch.see(crowds(np.random.default_rng(8), past, 1), past)
    usual = watch.see(np.zeros((len(now), 1)), now).expected
    state = tampering.new_state(1)
    found = told(
        lambda time_ns, value, yes, row: tampering.step(state, time_ns, value, yes, usual[row]),
        np.zeros((len(now), 1)),
        now,
    )
    first = now[found.speaks[:, 0]][0] % DAY
    assert 4 * HOUR < first < 7 * HOUR


def test_what_a_profile_cannot_hold_is_no_reading() -> None:
    found = Watch(1).see(np.full((600, 1), 1e31), times(25, HOUR))
    assert not found.judged.any()
    assert Watch(1).see(np.full((600, 1), 1e29), times(25, HOUR)).judged[-1, 0]


def watch_level(values: Floats, time_ns: Times, usual: Floats | None = None) -> Finding:
    count = values.shape[1]
    state = shift.new_state(count)
    usual = np.zeros_like(values) if usual is None else usual
    spread = np.full(count, 0.1)
    return told(
        lambda now, value, yes, row: shift.step(
            state, now, value, yes, shift.Usual(usual[row], spread)
        ),
        values,
        time_ns,
    )


def correlated(rng: np.random.Generator, rows: int, count: int, phi: float) -> Floats:
    value = rng.normal(0.0, 1.0, (rows, count))
    for row in range(1, rows):
        value[row] = phi * value[row - 1] + np.sqrt(1 - phi * phi) * value[row]
    return value


def test_a_closed_lane_is_a_new_level_told_within_three_hours_and_then_adopted() -> None:
    time_ns = times(6, 5 * MINUTE)
    values = 100.0 + 5.0 * correlated(np.random.default_rng(1), len(time_ns), 20, 0.6)
    closed = time_ns > (MONDAY + 4) * DAY
    values[closed] -= 25.0
    found = watch_level(values, time_ns)
    assert not found.speaks[~closed].any()
    after = (found.speaks & closed[:, np.newaxis]).argmax(axis=0)
    assert ((time_ns[after] - (MONDAY + 4) * DAY) <= 3 * HOUR).all()
    for column, row in enumerate(after):
        assert found.level[row, column] == shift.DOWN
        assert found.measure[row, column] == pytest.approx(75.0, abs=6.0)
        assert found.expected[row, column] == pytest.approx(100.0, abs=6.0)
        assert found.measure[row, column] < found.lower[row, column]
    assert not found.speaks[-12 * 36 :].any()
    assert found.expected[-1] == pytest.approx(75.0, abs=6.0)


def test_three_quarters_of_an_hour_are_no_new_level_and_what_goes_back_is_over() -> None:
    time_ns = times(5, 5 * MINUTE)
    values = 100.0 + 5.0 * correlated(np.random.default_rng(2), len(time_ns), 20, 0.6)
    short, three_hours = values.copy(), values.copy()
    begin = 3 * 288
    short[begin : begin + 9] += 500.0
    assert not watch_level(short, time_ns).speaks.any()
    three_hours[begin : begin + 36] += 40.0
    found = watch_level(three_hours, time_ns)
    assert found.speaks[begin + 35].all()
    assert not found.speaks[begin + 36 + 15 :].any()
    assert found.expected[-1] == pytest.approx(100.0, abs=6.0)


def test_a_rhythm_that_is_known_is_no_change_and_a_change_on_top_of_it_is() -> None:
    time_ns = times(8, 5 * MINUTE)
    usual = np.tile(200.0 * np.sin(time_ns * (2 * np.pi / DAY)), (10, 1)).T
    values = usual + 5.0 * correlated(np.random.default_rng(3), len(time_ns), 10, 0.6)
    assert not watch_level(values, time_ns, usual).speaks.any()
    values[5 * 288 :] += 25.0
    assert watch_level(values, time_ns, usual).speaks[5 * 288 : 5 * 288 + 48].any(axis=0).all()


def test_what_is_seen_once_a_change_is_no_longer_told_was_seen() -> None:
    """A closed street takes its rhythm with it: the level that is adopted says nothing of now."""
    time_ns = times(6, 5 * MINUTE)
    usual = np.tile(300.0 - 200.0 * np.cos(time_ns * (2 * np.pi / DAY)), (10, 1)).T
    values = usual + 5.0 * correlated(np.random.default_rng(3), len(time_ns), 10, 0.6)
    closed = time_ns > (MONDAY + 4) * DAY
    values[closed] = 50.0 + np.random.default_rng(5).normal(0.0, 2.0, (int(closed.sum()), 10))
    found = watch_level(values, time_ns, usual)
    ends = found.speaks[:-1] & found.judged[1:] & ~found.speaks[1:] & closed[1:, np.newaxis]
    assert ends.any(axis=0).all()
    assert found.measure[1:][ends] == pytest.approx(50.0, abs=8.0)
    assert np.abs(found.expected[1:][ends] - 50.0).max() > 50.0


def test_noise_that_clings_to_itself_is_called_a_change_once_in_a_thousand_days() -> None:
    time_ns = times(30, 5 * MINUTE)
    values = correlated(np.random.default_rng(4), len(time_ns), 100, 0.8)
    found = watch_level(values, time_ns)
    assert found.judged[-1].all()
    begun = found.speaks[1:] & ~found.speaks[:-1]
    assert begun.sum() <= 3


def forecasts(values: Floats, least: float = 1e-3) -> Finding:
    state = autoregression.new_state(values.shape[1])
    floor = np.full(values.shape[1], least)
    return told(
        lambda now, value, yes, _: autoregression.step(state, now, value, yes, floor),
        values,
        np.arange(1, len(values) + 1) * MINUTE,
    )


def second_order(rng: np.random.Generator, rows: int, count: int) -> Floats:
    value = rng.normal(0.0, 1.0, (rows, count))
    for row in range(2, rows):
        value[row] += 1.6 * value[row - 1] - 0.8 * value[row - 2]
    return 50.0 + value


def test_it_forecasts_as_well_as_the_process_allows_and_is_quiet() -> None:
    values = second_order(np.random.default_rng(1), 3000, 100)
    found = forecasts(values)
    assert not found.speaks.any()
    error = (values - found.expected)[500:]
    # The innovations have a spread of 1, the process one of 3.6.
    assert error.std() == pytest.approx(1.0, rel=0.02)


def test_noise_with_the_tails_of_laplace_is_called_a_surprise_once_in_ten_thousand() -> None:
    values = np.random.default_rng(2).laplace(20.0, 1.0, (3000, 100))
    assert forecasts(values).speaks.mean() < 1e-4


def test_a_reading_that_does_not_follow_is_told_and_one_that_does_is_not() -> None:
    values = second_order(np.random.default_rng(3), 1000, 50)
    values[900] += 15.0
    found = forecasts(values)
    assert found.speaks[900].all()
    assert (found.level[900] == autoregression.HIGH).all()
    # It is bounded before the next ones are forecast from it: 50 times three forecasts.
    assert found.speaks[901:].sum() <= 1


def test_a_new_state_is_a_surprise_once_or_twice_and_then_followed() -> None:
    values = np.full((3000, 1), 20.0)
    values[1500:] = 4000.0
    found = forecasts(values)
    assert found.speaks[1500, 0]
    assert not found.speaks[1505:].any()
    assert np.abs(found.expected[-1] - 4000.0) < 1.0


def test_the_forecast_stays_bounded_whatever_comes() -> None:
    rng = np.random.default_rng(4)
    values = np.full((6000, 40), 20.0)
    for row in rng.integers(100, 5900, 80):
        values[row : row + rng.integers(1, 200)] = rng.normal(0.0, 10.0 ** rng.uniform(-3, 9), 40)
    found = forecasts(values, least=1e-6)
    assert (np.abs(found.expected[100:]) < 10 * np.abs(values).max()).all()


@pytest.mark.parametrize("seed", range(5))
def test_weights_that_are_wrong_do_not_feed_on_their_own_forecasts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.full((3000, 60), 20.0)
    for column in range(60):
        start = 0
        while start < len(values):
            stop = start + int(rng.integers(1, 80))
            values[start:stop, column] = rng.normal(rng.choice([20.0, 60.0]), rng.choice([0, 1, 3]))
            values[start:stop, column] += rng.normal(
                0.0, rng.choice([0.0, 1.0]), len(values[start:stop])
            )
            start = stop
    for row in range(1, len(values)):
        values[row] += 0.7 * (values[row - 1] - 20.0)
    found = forecasts(values, least=1e-2)
    worst = np.nanmax(np.abs(found.expected))
    assert worst < 20 * np.abs(values).max()


def walk(values: Floats, neighbours: Floats, tolerance: float = 1.0) -> Finding:
    """Watch series of one value an hour; neighbours are (m, k, n)."""
    state = drift.new_state(values.shape[1])
    limit = np.full(values.shape[1], tolerance)
    return told(
        lambda now, value, yes, row: drift.step(state, now, value, yes, neighbours[row], limit),
        values,
        times(len(values) / 24, HOUR),
    )


def park(rng: np.random.Generator, days: int, count: int) -> tuple[Floats, Floats]:
    """Return sensors and five neighbours of each: one weather, and noise of their own."""
    hours = np.arange(days * 24)
    weather = (
        20.0 + 8.0 * np.sin(hours * (2 * np.pi / 24)) + np.cumsum(rng.normal(0, 0.5, len(hours)))
    )
    own = weather[:, np.newaxis] + rng.normal(0.0, 0.5, (len(hours), count))
    near = weather[:, np.newaxis, np.newaxis] + rng.normal(0.0, 0.5, (len(hours), 5, count))
    return own, near


def test_a_sensor_that_walks_off_by_a_tenth_of_its_tolerance_a_day_is_told_in_three_weeks() -> None:
    own, near = park(np.random.default_rng(1), 90, 30)
    assert not walk(own, near).speaks.any()
    days = np.maximum(np.arange(len(own)) / 24 - 60, 0.0)
    found = walk(own + (0.1 * days)[:, np.newaxis], near)
    assert not found.speaks[: 60 * 24].any()
    assert found.speaks[81 * 24 :].all()
    assert (found.level[-1] == drift.HIGH).all()


def test_a_change_of_the_whole_city_is_no_drift_and_neither_is_one_neighbour_that_drifts() -> None:
    own, near = park(np.random.default_rng(2), 90, 30)
    days = np.maximum(np.arange(len(own)) / 24 - 40, 0.0)
    assert not walk(own + days[:, None], near + days[:, None, None]).speaks.any()
    near[:, 0] += days[:, np.newaxis]
    assert not walk(own, near).speaks.any()


def test_two_neighbours_cannot_say_who_of_three_drifts() -> None:
    own, near = park(np.random.default_rng(3), 60, 5)
    assert not walk(own, near[:, :2]).judged.any()
    near[:, 2:] = np.nan
    assert not walk(own, near).judged.any()


def test_hours_that_are_missed_do_not_make_a_day() -> None:
    own, near = park(np.random.default_rng(4), 60, 5)
    near[np.arange(len(own)) % 24 >= 17] = np.nan
    assert not walk(own, near).judged.any()


def test_one_wild_day_does_not_make_a_sensor_coarse() -> None:
    own, near = park(np.random.default_rng(5), 60, 20)
    own[40 * 24 : 41 * 24] += 100.0
    found = walk(own, near, tolerance=1e-6)
    reach = found.upper - found.expected
    assert (reach[-1] < 2.0 * reach[40 * 24 - 1]).all()


def clocks(lag_s: Floats, every_ns: int = MINUTE) -> Finding:
    count = lag_s.shape[1]
    state = clock_skew.new_state(count)
    limits = clock_skew.Limits(np.full(count, 2.0), np.full(count, 60.0))
    return told(
        lambda now, value, yes, _: clock_skew.step(state, now, value, yes, limits),
        lag_s,
        np.arange(1, len(lag_s) + 1) * every_ns,
    )


def network(rng: np.random.Generator, rows: int, count: int, mean_s: float = 1.0) -> Floats:
    """Lags of a link that is congested by day."""
    load = mean_s * (1.0 + 4.0 * np.maximum(np.sin(np.arange(rows) * (2 * np.pi / 1440)), 0.0))
    return 0.15 + rng.exponential(load[:, np.newaxis], (rows, count))


def test_a_congested_link_is_no_wrong_clock() -> None:
    found = clocks(network(np.random.default_rng(1), 3 * 1440, 500))
    assert found.judged.all()
    assert not found.speaks.any()


def test_a_clock_ahead_is_told_at_once_and_one_behind_when_a_whole_hour_is() -> None:
    lag_s = network(np.random.default_rng(2), 600, 3)
    lag_s[300:, 0] -= 30.0
    lag_s[300:, 1] += 90.0
    lag_s[300:340, 2] += 90.0
    found = clocks(lag_s)
    assert np.flatnonzero(found.level[:, 0] == clock_skew.AHEAD)[0] == 300
    behind = np.flatnonzero(found.level[:, 1] == clock_skew.BEHIND)
    # The smallest lag of the hour before is still a right one until that hour is over.
    assert behind[0] == 360
    assert not found.speaks[:, 2].any()


def test_a_first_lag_is_not_blamed_until_an_hour_is_seen() -> None:
    found = clocks(np.full((90, 1), 90.0))
    assert not found.judged[:60].any()
    assert found.speaks[60:].all()


def test_a_clock_that_loses_a_second_in_three_hours_is_told_in_half_a_day() -> None:
    rows = 2 * 1440
    lag_s = network(np.random.default_rng(3), rows, 20, mean_s=0.1)
    lag_s += np.arange(rows)[:, np.newaxis] * (60 / 10_800)
    found = clocks(lag_s)
    assert not found.speaks[:720].any()
    assert (found.speaks[720:].argmax(axis=0) < 180).all()
    assert (found.level[found.speaks] == clock_skew.DRIFTS).all()
    row = 1200
    assert (found.measure[row] - found.expected[row] > 3.0).all()


def test_lags_that_grow_by_milliseconds_are_no_drift() -> None:
    lag_s = 0.2 + np.arange(2 * 1440)[:, np.newaxis] * (0.05 / 60)
    assert not clocks(lag_s).speaks.any()


def test_offsets_follow_the_zone_to_the_quarter_of_an_hour() -> None:
    spring = int(datetime(2024, 3, 31, 1, tzinfo=UTC).timestamp()) * S
    around = np.array([spring - 1, spring, -DAY * 365, spring + 200 * DAY + 40 * DAY])
    assert local_time.offsets_ns(MADRID, around).tolist() == [HOUR, 2 * HOUR, HOUR, HOUR]
    assert len(local_time.offsets_ns(MADRID, around[:0])) == 0


def test_a_calendar_is_days_each_once_and_rising() -> None:
    days = local_time.day_numbers([date(2024, 12, 25), date(1969, 12, 31), date(2024, 12, 25)])
    assert days.tolist() == [-1, 20_082]


def test_bins_are_hours_of_workdays_saturdays_and_free_days() -> None:
    hours = (MONDAY + np.arange(7)) * 24 + np.arange(7)
    holidays = np.array([MONDAY + 1, MONDAY + 99])
    bins = season.profile_bin(hours, holidays)
    assert bins.tolist() == [0, 48 + 1, 2, 3, 4, 24 + 5, 48 + 6]
    assert season.profile_bin(hours, NO_HOLIDAYS).tolist() == [0, 1, 2, 3, 4, 29, 54]

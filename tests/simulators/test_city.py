from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ingest.quantities import DOMAINS, QUANTITIES
from ingest.topics import is_level
from simulators.city import MIN_SENSORS, City, Floats, Indices
from simulators.instruments import KINDS
from simulators.rhythm import UTC_OFFSET_H
from simulators.streets import CENTRE_LATITUDE, CENTRE_LONGITUDE

# Monday 2026-03-02 00:00 by the city's own clock.
MONDAY_NS = (1_772_409_600 - round(UTC_OFFSET_H * 3600)) * 10**9
HOUR_NS = 3_600 * 10**9
SEEDS = st.integers(0, 2**32)
MOMENTS = st.integers(946_684_800, 4_102_444_800).map(lambda seconds: seconds * 10**9)


def at(city: City, time_ns: int) -> tuple[Indices, NDArray[np.int64]]:
    return np.arange(len(city)), np.full(len(city), time_ns)


def column(city: City, values: Floats, quantity: str) -> Floats:
    """Return the column of a quantity over the sensors that report it."""
    rows = [index for index, sensor in enumerate(city.sensors) if quantity in sensor.quantities]
    place = city.sensors[rows[0]].quantities.index(quantity)
    return values[rows, place]


def test_default_city_has_three_domains_a_dozen_zones_and_distinct_sensors() -> None:
    city = City()
    assert len(city) == 600
    assert {sensor.domain for sensor in city.sensors} == set(DOMAINS)
    assert len({sensor.zone for sensor in city.sensors}) == 12
    assert len({sensor.name for sensor in city.sensors}) == 600
    assert len({(sensor.longitude, sensor.latitude) for sensor in city.sensors}) > 590
    assert city.sensors[0].name == "traffic-0001"
    for sensor in city.sensors:
        assert is_level(sensor.name)
        assert is_level(sensor.zone)
        assert abs(sensor.longitude - CENTRE_LONGITUDE) < 0.1
        assert abs(sensor.latitude - CENTRE_LATITUDE) < 0.1


@pytest.mark.parametrize("sensors", [MIN_SENSORS, 117, 2000])
def test_city_has_as_many_sensors_as_asked_for_in_every_domain(sensors: int) -> None:
    city = City(sensors, seed=3)
    assert len(city) == sensors
    assert {sensor.entity for sensor in city.sensors} == {kind.entity for kind in KINDS}


@pytest.mark.parametrize("sensors", [0, MIN_SENSORS - 1, 100_001])
def test_city_of_impossible_size_is_refused(sensors: int) -> None:
    with pytest.raises(ValueError, match="sensors must be"):
        City(sensors)


def test_same_seed_and_moments_give_the_same_readings() -> None:
    first, second = City(100, seed=5), City(100, seed=5)
    assert first.sensors == second.sensors
    for step in range(3):
        who, times = at(first, MONDAY_NS + step * HOUR_NS)
        np.testing.assert_array_equal(first.observe(who, times), second.observe(who, times))


def test_another_seed_gives_another_city() -> None:
    who, times = at(City(100, seed=5), MONDAY_NS)
    one, other = City(100, seed=5), City(100, seed=6)
    assert one.sensors != other.sensors
    assert not np.array_equal(one.observe(who, times), other.observe(who, times), equal_nan=True)


@given(cuts=st.lists(st.integers(0, 100), max_size=5))
@settings(max_examples=20, deadline=None)
def test_readings_do_not_depend_on_how_calls_are_cut_into_blocks(cuts: list[int]) -> None:
    whole, parts = City(100, seed=5), City(100, seed=5)
    who, times = at(whole, MONDAY_NS)
    bounds = [0, *sorted(cuts), 100]
    blocks = [slice(*pair) for pair in pairwise(bounds)]
    observed = np.vstack([parts.observe(who[block], times[block]) for block in blocks])
    np.testing.assert_array_equal(whole.observe(who, times), observed)


def test_a_sensor_twice_in_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        City(100).observe(np.array([1, 1]), np.array([MONDAY_NS, MONDAY_NS]))


@pytest.mark.parametrize(
    ("quantity", "more"),
    [
        ("intensity", True),
        ("occupancy", True),
        ("averageVehicleSpeed", False),
        ("averageHeadwayTime", False),
        ("no2", True),
        ("LAeq", True),
        ("peopleCount", True),
    ],
)
def test_rush_hour_stands_out_against_the_night(quantity: str, more: bool) -> None:
    city = City()
    night = column(city, city.level(*at(city, MONDAY_NS + 3 * HOUR_NS)), quantity)
    rush = column(city, city.level(*at(city, MONDAY_NS + round(17.8 * HOUR_NS))), quantity)
    assert ((rush > night) == more).all()


def test_temperature_and_ozone_follow_the_sun() -> None:
    city = City()
    afternoon = city.level(*at(city, MONDAY_NS + 15 * HOUR_NS))
    morning = city.level(*at(city, MONDAY_NS + 4 * HOUR_NS))
    for quantity in ("temperature", "o3"):
        higher = column(city, afternoon, quantity) > column(city, morning, quantity)
        assert higher.all()


def test_saturday_morning_has_less_traffic_than_monday_morning() -> None:
    city = City()
    monday = city.level(*at(city, MONDAY_NS + 8 * HOUR_NS))
    saturday = city.level(*at(city, MONDAY_NS + (5 * 24 + 8) * HOUR_NS))
    assert (column(city, saturday, "intensity") < column(city, monday, "intensity")).all()


def test_level_hardly_moves_within_a_minute() -> None:
    city = City()
    for quarter in range(0, 7 * 96, 5):
        now = MONDAY_NS + quarter * HOUR_NS // 4
        moved = np.abs(city.level(*at(city, now + 60 * 10**9)) - city.level(*at(city, now)))
        assert np.nanmax(moved / city.spread(*at(city, now))) < 0.35


@given(seed=SEEDS, time_ns=MOMENTS)
@settings(max_examples=40, deadline=None)
def test_readings_without_faults_keep_the_physical_range(seed: int, time_ns: int) -> None:
    city = City(MIN_SENSORS, seed)
    who, times = at(city, time_ns)
    for _ in range(5):
        values = city.observe(who, times)
        for sensor, row in zip(city.sensors, values, strict=True):
            for quantity, value in zip(sensor.quantities, row, strict=False):
                limits = QUANTITIES[quantity]
                assert limits.low <= value <= limits.high, (sensor.name, quantity)
            assert np.isnan(row[len(sensor.quantities) :]).all()


@given(seed=SEEDS, time_ns=MOMENTS)
@settings(max_examples=20, deadline=None)
def test_quantities_of_a_sensor_agree_with_each_other(seed: int, time_ns: int) -> None:
    city = City(MIN_SENSORS, seed)
    values = city.observe(*at(city, time_ns))
    people = [column(city, values, f"peopleCount{part}") for part in ("", "Towards", "Away")]
    np.testing.assert_array_equal(people[0], people[1] + people[2])
    assert (column(city, values, "pm10") >= column(city, values, "pm25")).all()
    # Flow x headway is lanes x period, whatever the noise; flow is rounded to whole vehicles.
    flow = column(city, values, "intensity")
    lanes = flow * column(city, values, "averageHeadwayTime") / 300.0
    np.testing.assert_allclose(lanes, np.rint(lanes), atol=lanes.max() * 0.6 / flow.min())
    # Density from occupancy and from flow and speed differ by the loop's own noise only.
    per_lane = flow * 12.0 / np.rint(lanes)
    expected = per_lane * 0.0065 / column(city, values, "averageVehicleSpeed")
    np.testing.assert_allclose(column(city, values, "occupancy"), expected, rtol=0.25)


def test_noise_has_the_spread_and_memory_that_are_claimed() -> None:
    city = City(200, seed=11)
    who, times = at(city, MONDAY_NS + 12 * HOUR_NS)
    series = np.array([city.observe(who, times) for _ in range(1500)])
    spread = city.spread(who, times)
    noise = series - series.mean(axis=0)
    with np.errstate(invalid="ignore"):
        phi = (noise[1:] * noise[:-1]).sum(axis=0) / np.square(noise).sum(axis=0)
    for quantity in {name for kind in KINDS for name in kind.quantities}:
        ratio = column(city, noise.std(axis=0) / spread, quantity)
        assert 0.8 < np.median(ratio) < 1.25, quantity
        assert 0.35 < np.median(column(city, phi, quantity)) < 0.85, quantity


def test_noise_stays_well_above_the_resolution_even_at_night() -> None:
    city = City(200, seed=11)
    for hour in (3, 12):
        who, times = at(city, MONDAY_NS + hour * HOUR_NS)
        series = np.array([city.observe(who, times) for _ in range(600)])
        repeats = (series[1:] == series[:-1]).mean(axis=0)
        for quantity in {name for kind in KINDS for name in kind.quantities}:
            assert np.median(column(city, repeats, quantity)) < 0.15, (quantity, hour)
            assert column(city, repeats, quantity).max() < 0.3, (quantity, hour)


def test_no_healthy_series_looks_stuck_or_too_fast_at_three_readings_a_second() -> None:
    city = City(200, seed=12)
    who, _ = at(city, 0)
    period_ns = 300_000_000
    times = MONDAY_NS + np.arange(2000) * period_ns
    series = np.array([city.observe(who, np.full(len(city), now)) for now in times])
    run = np.zeros(series.shape[1:], dtype=int)
    longest = run.copy()
    for before, after in pairwise(series):
        run = np.where(before == after, run + 1, 0)
        longest = np.maximum(longest, run)
    assert longest.max() < 10
    steps = np.abs(np.diff(series, axis=0)).max(axis=0) / (period_ns / 1e9)
    for quantity in ("temperature", "relativeHumidity"):
        assert column(city, steps, quantity).max() < 0.7 * QUANTITIES[quantity].max_rate

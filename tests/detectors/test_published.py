"""Kernels against worked examples and tables that others have published."""

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors import air_quality, averages, crowd, exceedance, noise, service_level
from detectors.air_quality_tables import (
    AQI_2018,
    AQI_2024,
    EAQI_2024,
    EAQI_BEFORE_2024,
    POLLUTANTS,
    Scale,
)
from detectors.averages import CALENDAR_DAY, EIGHT_HOURS, HOUR, Means
from detectors.finding import Finding

S = 10**9
H = 3600 * S
G_MOL = {"o3": 47.997, "no2": 46.005, "so2": 64.058, "co": 28.010}


def covered(mean: NDArray[np.float64]) -> Means:
    """Return means that are all covered, or missing where they are NaN."""
    return Means(mean, np.where(np.isnan(mean), 0.0, 1.0))


def numbered(names: list[str]) -> NDArray[np.intp]:
    return np.array([POLLUTANTS.index(name) for name in names], np.intp)


def aqi(name: str, scales: tuple[Scale, ...], *, nowcast: float = np.nan, **ppb: float) -> Finding:
    """Return the U.S. index of one series; means in ppb, of particles in ug/m3."""
    mean = np.full((4, 1), np.nan)
    for window, value in ppb.items():
        row = {"hour": HOUR, "eight": EIGHT_HOURS, "day": averages.DAY}[window]
        mean[row] = value * G_MOL[name] / 24.465 / (1000 if name == "co" else 1)
    with np.errstate(all="ignore"):
        return air_quality.united_states(
            covered(mean), np.array([nowcast]), np.ones(1, np.bool_), numbered([name]), scales, 3
        )


def test_the_epas_example_of_three_pollutants() -> None:
    # EPA 454/B-18-007, section II: ozone 0.07853333 ppm is cut to 0.078 and is 126; with PM2.5 of
    # 35.9 ug/m3 (102) and CO of 8.4 ppm (90) the AQI is that of ozone.
    ozone = aqi("o3", AQI_2018, eight=78.53333)
    particles = aqi("pm25", AQI_2018, nowcast=35.92431999)
    monoxide = aqi("co", AQI_2018, eight=8_475.32711)
    index = np.array([one.measure[0] for one in (particles, ozone, monoxide)])
    assert index.tolist() == [102.0, 126.0, 90.0]
    assert ozone.speaks[0]
    assert ozone.level[0] == 3


@pytest.mark.parametrize(
    ("scales", "concentration", "index", "category"),
    [
        (AQI_2018, 12.0, 50, 1),
        (AQI_2018, 12.1, 51, 2),
        (AQI_2018, 150.4, 200, 4),
        (AQI_2018, 350.4, 400, 6),
        (AQI_2018, 500.4, 500, 6),
        (AQI_2024, 9.0, 50, 1),
        (AQI_2024, 9.05, 50, 1),
        (AQI_2024, 9.1, 51, 2),
        (AQI_2024, 12.0, 56, 2),
        (AQI_2024, 35.4, 100, 2),
        (AQI_2024, 35.5, 101, 3),
        (AQI_2024, 55.4, 150, 3),
        (AQI_2024, 125.4, 200, 4),
        (AQI_2024, 125.5, 201, 5),
        (AQI_2024, 225.4, 300, 5),
        (AQI_2024, 225.5, 301, 6),
        (AQI_2024, 325.4, 500, 6),
        # Above 500 the line goes on: 301 + 199 / 99.9 * (400 - 225.5).
        (AQI_2024, 400.0, 649, 6),
        (AQI_2024, -0.4, 0, 1),
    ],
)
def test_fine_particles_at_the_breakpoints_of_both_versions(
    scales: tuple[Scale, ...], concentration: float, index: int, category: int
) -> None:
    found = aqi("pm25", scales, nowcast=concentration)
    assert (found.measure[0], found.level[0]) == (index, category)


@pytest.mark.parametrize(
    ("name", "window", "ppb", "index"),
    [
        ("no2", "hour", 53.7, 50),
        ("no2", "hour", 100.0, 100),
        ("no2", "hour", 500.0, 175),
        ("no2", "hour", 2049.0, 500),
        ("o3", "eight", 54.0, 50),
        ("o3", "eight", 70.0, 100),
        ("o3", "eight", 200.0, 300),
        ("o3", "hour", 125.0, 101),
        ("o3", "hour", 162.0, 147),
        ("o3", "hour", 604.0, 500),
        ("so2", "hour", 75.0, 100),
        ("so2", "hour", 304.0, 200),
        ("so2", "day", 305.0, 201),
        ("so2", "day", 604.0, 300),
        ("so2", "day", 1004.0, 500),
        ("co", "eight", 9_400.0, 100),
        ("co", "eight", 50_400.0, 500),
    ],
)
@pytest.mark.parametrize("scales", [AQI_2018, AQI_2024], ids=["2018", "2024"])
def test_gases_at_the_breakpoints(
    scales: tuple[Scale, ...], name: str, window: str, ppb: float, index: int
) -> None:
    # EPA 454/B-18-007, Table 5; EPA-454/B-24-002, Table 6.
    assert aqi(name, scales, **{window: ppb}).measure[0] == index


# Lowest and highest concentration of each line, and the index there. 40 CFR 58 Appendix G, Table 2
# of 2024, which EPA-454/B-24-002 repeats in Table 6; ug/m3, ppb, and ppm of ozone and CO.
LINES_2024 = {
    "pm25 nowcast": """
        0.0 9.0 0 50 | 9.1 35.4 51 100 | 35.5 55.4 101 150 | 55.5 125.4 151 200
        | 125.5 225.4 201 300 | 225.5 325.4 301 500""",
    "pm10 nowcast": """
        0 54 0 50 | 55 154 51 100 | 155 254 101 150 | 255 354 151 200 | 355 424 201 300
        | 425 604 301 500""",
    "o3 eight": """
        0.000 0.054 0 50 | 0.055 0.070 51 100 | 0.071 0.085 101 150 | 0.086 0.105 151 200
        | 0.106 0.200 201 300""",
    "o3 hour": """
        0.125 0.164 101 150 | 0.165 0.204 151 200 | 0.205 0.404 201 300 | 0.405 0.604 301 500""",
    "no2 hour": """
        0 53 0 50 | 54 100 51 100 | 101 360 101 150 | 361 649 151 200 | 650 1249 201 300
        | 1250 2049 301 500""",
    "so2 hour": "0 35 0 50 | 36 75 51 100 | 76 185 101 150 | 186 304 151 200",
    "so2 day": "305 604 201 300 | 605 1004 301 500",
    "co eight": """
        0.0 4.4 0 50 | 4.5 9.4 51 100 | 9.5 12.4 101 150 | 12.5 15.4 151 200 | 15.5 30.4 201 300
        | 30.5 50.4 301 500""",
}
# The same before: EPA 454/B-18-007, Table 5. What has not changed is not repeated.
LINES_2018 = LINES_2024 | {
    "pm25 nowcast": """
        0.0 12.0 0 50 | 12.1 35.4 51 100 | 35.5 55.4 101 150 | 55.5 150.4 151 200
        | 150.5 250.4 201 300 | 250.5 350.4 301 400 | 350.5 500.4 401 500""",
    "pm10 nowcast": """
        0 54 0 50 | 55 154 51 100 | 155 254 101 150 | 255 354 151 200 | 355 424 201 300
        | 425 504 301 400 | 505 604 401 500""",
    "o3 hour": """
        0.125 0.164 101 150 | 0.165 0.204 151 200 | 0.205 0.404 201 300 | 0.405 0.504 301 400
        | 0.505 0.604 401 500""",
    "no2 hour": """
        0 53 0 50 | 54 100 51 100 | 101 360 101 150 | 361 649 151 200 | 650 1249 201 300
        | 1250 1649 301 400 | 1650 2049 401 500""",
    "so2 day": "305 604 201 300 | 605 804 301 400 | 805 1004 401 500",
    "co eight": """
        0.0 4.4 0 50 | 4.5 9.4 51 100 | 9.5 12.4 101 150 | 12.5 15.4 151 200 | 15.5 30.4 201 300
        | 30.5 40.4 301 400 | 40.5 50.4 401 500""",
}


@pytest.mark.parametrize("name", LINES_2024)
@pytest.mark.parametrize(
    ("scales", "lines"), [(AQI_2018, LINES_2018), (AQI_2024, LINES_2024)], ids=["2018", "2024"]
)
def test_every_line_of_the_us_tables_begins_and_ends_where_it_is_published(
    scales: tuple[Scale, ...], lines: dict[str, str], name: str
) -> None:
    pollutant, window = name.split()
    unit = 1_000.0 if pollutant in {"o3", "co"} else 1.0
    for line in lines[name].split("|"):
        low, high, index_low, index_high = map(float, line.split())
        for concentration, index in ((low, index_low), (high, index_high)):
            found = aqi(pollutant, scales, **{window: concentration * unit})
            assert found.measure[0] == index, line


def test_ozone_and_sulphur_dioxide_have_two_tables() -> None:
    # Below 0.125 ppm one hour says nothing; else the higher counts.
    assert not aqi("o3", AQI_2024, hour=124.0).judged[0]
    assert aqi("o3", AQI_2024, eight=78.0, hour=162.0).measure[0] == 147
    # Eight hours "do not define higher AQI values (>= 301)", which are those of one hour (EPA
    # 454/B-18-007, Table 5, note 3): above 0.200 ppm they are 300, whatever a milder hour would be.
    for scales in (AQI_2018, AQI_2024):
        assert aqi("o3", scales, eight=201.0).measure[0] == 300
        assert aqi("o3", scales, eight=201.0, hour=100.0).measure[0] == 300
        milder = aqi("o3", scales, eight=210.0, hour=140.0)
        assert (milder.measure[0], milder.level[0]) == (300, 5)
        assert aqi("o3", scales, eight=210.0, hour=405.0).measure[0] == 301
    # An hour of 400 ppb on a day below 305 ppb is held at 200; on a day of 400 ppb it is not.
    assert aqi("so2", AQI_2024, hour=400.0, day=64.0).measure[0] == 200
    assert aqi("so2", AQI_2024, hour=400.0, day=400.0).measure[0] == 232


HOURLY = [34.9, 43.0, 50.0, 64.9, 69.2, 66.2, 53.7, 48.6, 49.2, 35.0, None, 21.0]


def nowcast(hourly: list[float | None]) -> float:
    """Feed one reading on every full hour; return the NowCast when the last is over."""
    state = averages.new_state(1)
    terms = averages.Terms(np.array([H]), np.array([0]))
    with np.errstate(all="ignore"):
        for hour, value in enumerate(hourly, 1):
            if value is not None:
                one = np.array([hour * H]), np.array([value]), np.ones(1, np.bool_)
                averages.learn(state, *one, terms)
    return float(state.nowcast[0])


def test_airnows_example_of_the_nowcast() -> None:
    # AirNow, "The NowCast for PM2.5 and PM10": 28.4 ug/m3, an AQI of 85 by the table of 2018.
    assert nowcast(HOURLY) == pytest.approx(28.4, abs=0.05)
    assert aqi("pm25", AQI_2018, nowcast=nowcast(HOURLY)).measure[0] == 85
    # "At least two of the most recent three hours"; a constant is its own NowCast.
    assert np.isnan(nowcast([*HOURLY[:10], None, None, 21.0]))
    assert nowcast([20.0] * 12) == pytest.approx(20.0)
    assert nowcast([0.0] * 12) == 0.0


def test_gases_convert_as_the_agencies_say() -> None:
    # One ppb in ug/m3: U.S. EPA at 25 degrees, European reporting at 20 degrees.
    for volume, table in (
        (air_quality.US_MOLAR_VOLUME, {"o3": 1.96, "no2": 1.88, "so2": 2.62, "co": 1.145}),
        (air_quality.EU_MOLAR_VOLUME, {"o3": 2.00, "no2": 1.91, "so2": 2.66, "co": 1.165}),
    ):
        for name, ug_m3 in table.items():
            ppb = air_quality.in_ppb(np.array([ug_m3]), G_MOL[name], volume)
            assert ppb[0] == pytest.approx(1.0, rel=4e-3)


@pytest.mark.parametrize(
    ("bands", "name", "edges"),
    [
        (EAQI_2024, "pm25", (5, 15, 50, 90, 140)),
        (EAQI_2024, "pm10", (15, 45, 120, 195, 270)),
        (EAQI_2024, "no2", (10, 25, 60, 100, 150)),
        (EAQI_2024, "o3", (60, 100, 120, 160, 180)),
        (EAQI_2024, "so2", (20, 40, 125, 190, 275)),
        (EAQI_BEFORE_2024, "pm25", (10, 20, 25, 50, 75)),
        (EAQI_BEFORE_2024, "pm10", (20, 40, 50, 100, 150)),
        (EAQI_BEFORE_2024, "no2", (40, 90, 120, 230, 340)),
        (EAQI_BEFORE_2024, "o3", (50, 100, 130, 240, 380)),
        (EAQI_BEFORE_2024, "so2", (100, 200, 350, 500, 750)),
    ],
)
def test_the_european_bands_end_where_they_are_published(
    bands: object, name: str, edges: tuple[float, ...]
) -> None:
    # ETC HE Report 2024/17, and the index as it was before.
    value = np.array([one + step for one in edges for step in (0.0, 0.01)])
    found = air_quality.european(
        covered(np.tile(value, (4, 1))),
        np.ones(10, np.bool_),
        numbered([name] * 10),
        bands,
        5,
    )
    assert found.level.tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert found.speaks.tolist() == [level >= 5 for level in found.level]
    assert found.upper.tolist() == [edges[3]] * 10


def test_a_day_of_hourly_values_is_averaged_as_the_directive_says() -> None:
    # 18 of 24 hourly values are a day (2008/50/EC, Annex XI A): their mean, and not before.
    state = exceedance.new_state(1)
    terms = exceedance.Terms(np.array([H]), np.array([0]))
    limit = exceedance.limit_columns("EU 2008/50/EC", ["pm10"])
    values = np.arange(24) + 40.0
    judged = []
    with np.errstate(all="ignore"):
        for hour in [*range(1, 5), *range(11, 25)]:
            one = np.array([hour * H]), values[[hour - 1]], np.ones(1, np.bool_)
            found = exceedance.step(state, *one, terms, limit)
            judged.append(bool(found.judged[0]))
    assert judged == [False] * 17 + [True]
    kept = np.concatenate((values[:4], values[10:]))
    assert found.measure[0] == pytest.approx(kept.mean())
    assert (found.upper[0], found.speaks[0], found.level[0]) == (50.0, True, CALENDAR_DAY + 1)


def test_the_running_eight_hour_mean_is_that_of_whole_hours_on_the_hour() -> None:
    state = exceedance.new_state(1)
    terms = exceedance.Terms(np.array([600 * S]), np.array([0]))
    limit = exceedance.limit_columns("EU 2024/2881", ["o3"])
    rng = np.random.default_rng(1)
    values = rng.uniform(80, 160, 12 * 6)
    with np.errstate(all="ignore"):
        for place, value in enumerate(values, 1):
            one = np.array([place * 600 * S]), np.array([value]), np.ones(1, np.bool_)
            found = exceedance.step(state, *one, terms, limit)
            if place % 6 == 0 and place >= 48:
                assert found.measure[0] == pytest.approx(values[place - 48 : place].mean())
                assert found.speaks[0] == (values[place - 48 : place].mean() > 120.0)


# Of each pollutant its limits: of an hour, of eight, of a calendar day. Directive 2008/50/EC, Annex
# XI B and VII B; Directive (EU) 2024/2881, Annex I, section 1, Table 1, and section 2 B; WHO global
# air quality guidelines (2021), Tables 0.1 and 0.2. ug/m3, of CO mg/m3.
LIMITS = {
    "EU 2008/50/EC": """
        pm25 - - - | pm10 - - 50 | no2 200 - - | o3 - 120 - | so2 350 - 125 | co - 10 -""",
    "EU 2024/2881": """
        pm25 - - 25 | pm10 - - 45 | no2 200 - 50 | o3 - 120 - | so2 350 - 50 | co - 10 4""",
    "WHO 2021": """
        pm25 - - 15 | pm10 - - 45 | no2 200 - 25 | o3 - 100 - | so2 - - 40 | co 35 10 4""",
}


@pytest.mark.parametrize("standard", LIMITS)
def test_limits_are_those_of_the_law(standard: str) -> None:
    lines = [line.split() for line in LIMITS[standard].split("|")]
    limit = exceedance.limit_columns(standard, ["no such", *(name for name, *_ in lines)])
    published = [[np.nan if one == "-" else float(one) for one in row] for _, *row in lines]
    told = limit[[HOUR, EIGHT_HOURS, CALENDAR_DAY]].T
    assert np.array_equal(told, [[np.nan] * 3, *published], equal_nan=True)
    # Nobody limits a mean over just any 24 hours.
    assert np.isnan(limit[averages.DAY]).all()


def test_every_law_is_held_against_what_is_published() -> None:
    assert exceedance.STANDARDS.keys() == LIMITS.keys()


def test_the_energy_of_a_level() -> None:
    level = np.linspace(-60.0, 260.0, 3_201)
    cut = np.clip(level, -50.0, 250.0)
    assert noise.energy(level) == pytest.approx(10.0 ** (cut / 10.0), rel=1e-14)


def level_of_speed(base_mph: float, travel_mph: float) -> str:
    terms = service_level.speed_terms(np.array([base_mph]) * 1.609344)
    value = np.array([travel_mph]) * 1.609344
    none = np.zeros(1, np.int64)
    found = service_level.step(
        service_level.new_state(1), none, value, np.ones(1, np.bool_), terms, 6
    )
    return service_level.LEVEL_NAMES[found.level[0] - 1]


def test_the_manuals_example_streets() -> None:
    # HCM 7th edition, Chapter 30, Example Problem 1, and Chapter 29, Example Problem 1.
    assert level_of_speed(40.78, 23.67) == "C"
    assert level_of_speed(40.1, 22.6) == "C"
    # Exhibit 18-1: a speed must be above the threshold.
    assert [level_of_speed(50.0, mph) for mph in (40.1, 40.0, 34.1, 33.9, 15.1, 15.0)] == [
        "A", "B", "B", "C", "E", "F",
    ]  # fmt: skip


def test_density_of_a_freeway() -> None:
    # Exhibit 12-15, 11 / 18 / 26 / 35 / 45 passenger cars a mile and lane.
    per_mile = np.array([10.9, 11.1, 18.1, 26.1, 35.1, 45.1])
    terms = service_level.occupancy_terms(np.full(6, 6.5))
    occupancy = per_mile / 1609.344 * 6.5
    found = service_level.step(
        service_level.new_state(6),
        np.zeros(6, np.int64),
        occupancy,
        np.ones(6, np.bool_),
        terms,
        6,
    )
    assert "".join(service_level.LEVEL_NAMES[level - 1] for level in found.level) == "ABCDEF"
    assert found.speaks.tolist() == [False] * 5 + [True]


def test_fruins_levels() -> None:
    # 300 persons a minute on 30 ft at 3 ft/s have 18 square feet each: level C.
    feet = np.array([40.0, 30.0, 18.0, 12.0, 7.0, 4.0, 2.9, 1.9, 1.4])
    found = crowd.step(
        crowd.new_state(9),
        np.zeros(9, np.int64),
        np.full(9, 100.0),
        np.ones(9, np.bool_),
        100.0 * feet * 0.3048**2,
    )
    assert [crowd.LEVEL_NAMES[level - 1] for level in found.level] == list(crowd.LEVEL_NAMES)
    assert found.speaks.tolist() == [False] * 6 + [True] * 3

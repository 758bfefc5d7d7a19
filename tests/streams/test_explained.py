"""Every alert says what was seen, what was expected and where it would not have opened."""

import numpy as np
import pytest

from detectors import KIND_NAMES
from ingest.quantities import QUANTITIES
from paging.api.store import _ALERT
from storage.flush import Opened
from storage.pages import MISSING, UNITS, Page
from storage.queries import OPEN_ALERTS
from streams.facts import CityFacts, Group
from streams.kernels import kernels
from tests.streams.test_minutes import Drive, Value, days, noisy
from tests.streams.test_scoring import WHOLE

DAYS = 4


def later(before: Value, after: Value) -> Value:
    """Return a series that is another one from the morning of the fifth day on."""
    return lambda minute: (after if minute >= DAYS * 1_440 + 120 else before)(minute % 5_000)


def first(facts: CityFacts, key: str, value: Value, kind: str) -> Page:
    drive = Drive(facts)
    found = days(drive, DAYS, {key: value})
    assert [one for one in found if one.page.kind == kind] == []
    # A calendar day is covered by the evening.
    found = drive.run(1_200 if "pm10" in key else 420, {key: value})
    return next(one.page for one in found if isinstance(one, Opened) and one.page.kind == kind)


ANYWHERE = CityFacts()
LOUD = CityFacts(noise_limits_db=(65.0, 65.0, 65.0))
SQUARE = CityFacts(groups={"square": Group(("cam",), area_m2=100.0)})
STREET = CityFacts(groups={"street": Group(("a",), kind="road", free_flow_kmh=80.0)})
AMERICAN = CityFacts(air_quality_index="US")
BEFORE = CityFacts(air_quality_index="EU before 2024")
PM10 = later(noisy(15.0, 1.0), noisy(300.0, 5.0))
NO2 = later(noisy(20.0, 1.0), noisy(240.0, 2.0))
# Facts, series, expected, lower, upper, and the sentence from there on.
KINDS: dict[str, tuple[CityFacts, str, Value, tuple[float | None, ...], str]] = {
    "noise": (
        LOUD, "environment/z/mic/LAeq", later(noisy(55.0, 1.0), noisy(80.0, 1.0)),
        (55.0, None, 65.0), " dB, at most 65 dB since ",
    ),
    "crowd": (
        SQUARE, "cameras/z/cam/peopleCount", later(noisy(60.0, 5.0), noisy(600.0, 5.0)),
        (0.6, None, 3.57), " persons/m², at most 3.57 persons/m² since ",
    ),
    "exceedance": (
        ANYWHERE, "environment/z/air/no2", NO2, (30.0, None, 200.0), ", at most 200 µg/m³ since ",
    ),
    "air-quality": (
        ANYWHERE, "environment/z/air/no2", NO2, (25.0, None, 100.0), ", at most 100 µg/m³ since ",
    ),
    # What is averaged over a day has no day before it: then it is the limit, or what is good.
    "exceedance of a day": (
        ANYWHERE, "environment/z/air/pm10", PM10,
        (50.0, None, 50.0), " µg/m³ over the calendar day; expected at most 50 µg/m³ since ",
    ),
    "air-quality of a day": (
        BEFORE, "environment/z/air/pm10", PM10,
        (20.0, None, 100.0), " µg/m³ over 24 hours; expected 20 µg/m³, at most 100 µg/m³ since ",
    ),
    "air-quality by an index": (
        AMERICAN, "environment/z/air/no2", later(noisy(20.0, 1.0), noisy(900.0, 2.0)),
        (50.0, None, 150.0), " makes the air bad, by an index of 15",
    ),
    "service-level": (
        STREET, "traffic/z/a/averageVehicleSpeed", later(noisy(75.0, 2.0), noisy(12.0, 1.0)),
        (80.0, 24.0, None), "; expected 80 km/h, at least 24 km/h since ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_where_a_limit_is_known_what_is_usual_is_told_as_well(kind: str) -> None:
    facts, key, value, (expected, lower, upper), sentence = KINDS[kind]
    page = first(facts, key, value, kind.split(" ", maxsplit=1)[0])
    assert page.expected == pytest.approx(expected, rel=0.4 if "no2" in key else 0.02)
    assert (page.lower, page.upper) == (lower and pytest.approx(lower, abs=0.1), upper)
    assert sentence in page.sentence
    assert page.unit == ("1" if "index" in kind else UNITS.get(kind, page.unit))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.nan, "averageVehicleSpeed of a (z) sends readings without a value since "),
        (np.inf, "averageVehicleSpeed of a (z) claims an impossible 1.8e308 km/h; expected "),
        (-1e300, "averageVehicleSpeed of a (z) claims an impossible -1e300 km/h; expected "),
    ],
)
def test_what_is_no_measurement_is_told_as_what_it_is(value: float, said: str) -> None:
    drive, calm = Drive(ANYWHERE), noisy(50.0, 2.0)
    values = {"traffic/z/a/averageVehicleSpeed": lambda m: value if m > 30 else calm(m)}
    drive.run(40, values)
    (page,) = (one.page for one in drive.changes if isinstance(one, Opened))
    assert page.sentence.startswith(said)
    assert (page.quality == MISSING) == np.isnan(value)


def opened(kind: str) -> list[Page]:
    return [one.page for one in WHOLE.changes if isinstance(one, Opened) and one.page.kind == kind]


def test_a_silence_says_how_long_it_may_be_and_has_been() -> None:
    pages = opened("silence")
    assert pages
    for page in pages:
        assert page.unit == "s"
        assert page.seen > page.upper >= page.expected > 0
        assert page.lower is None
        assert f" is silent since {page.since:%H:%M:%S} UTC; expected within " in page.sentence


def test_what_is_out_of_range_says_the_range() -> None:
    pages = opened("range")
    assert pages
    for page in pages:
        row = QUANTITIES[page.quantity]
        assert page.lower == (row.low if np.isfinite(row.low) else None)
        assert page.upper == (row.high if np.isfinite(row.high) else None)
        assert (page.lower, page.upper) != (None, None)


@pytest.mark.parametrize("kind", ["level", "flatline"])
def test_what_is_unlike_its_level_says_the_level_and_the_band(kind: str) -> None:
    pages = opened(kind)
    assert pages
    for page in pages:
        assert page.lower < page.expected < page.upper


def test_units_of_kinds_are_those_of_the_kernels_and_of_what_people_ask() -> None:
    ours = {kind.name: kind.unit for one in kernels(CityFacts()) for kind in one.kinds if kind.unit}
    assert ours | {KIND_NAMES[KIND_NAMES.index("silence")]: "s"} == UNITS
    for kind, unit in UNITS.items():
        for query in (OPEN_ALERTS, _ALERT):
            assert f"WHEN '{kind}' THEN '{unit}'" in query

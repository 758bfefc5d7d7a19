import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.quantities import QUANTITIES
from storage.pages import (
    _CONDITIONS,
    PAGE_VERSION,
    PageError,
    _number,
    decode_page,
    encode_page,
    outbox_channel,
    sentence,
)
from tests.paging.scaffold import page_of, resolution_of

SINCE = datetime(2025, 3, 4, 14, 3, 20, tzinfo=UTC)
finite = st.floats(allow_nan=False, allow_infinity=False)


def test_the_sentence_of_a_firing() -> None:
    assert sentence(page_of(since=SINCE)) == (
        "averageVehicleSpeed of traffic-0042 (harbour) is 8.1 km/h;"
        " expected 48 ± 9 km/h since 14:03:20 UTC"
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("flatline", "traffic-0042 (harbour) is stuck at 8.1 km/h; expected"),
        ("range", "traffic-0042 (harbour) claims an impossible 8.1 km/h; expected"),
        ("rate", "traffic-0042 (harbour) jumps faster than it can, now 8.1 km/h; expected"),
        ("reported", "(harbour) comes with a bad quality flag, at 8.1 km/h; expected"),
    ],
)
def test_the_sentence_says_what_is_wrong_with_the_sensor(kind: str, said: str) -> None:
    assert said in page_of(since=SINCE, kind=kind).sentence


@pytest.mark.parametrize(
    ("quantity", "seen", "said"),
    [
        ("peopleCount", 0.0, "counts nobody, reading after reading, as if it were covered: 0;"),
        ("peopleCount", 17.0, "is stuck at 17;"),
        ("intensity", 0.0, "is stuck at 0;"),
    ],
)
def test_the_sentence_of_a_camera_that_counts_nobody_is_no_stuck_instrument(
    quantity: str, seen: float, said: str
) -> None:
    page = page_of(since=SINCE, kind="flatline", quantity=quantity, seen=seen, unit="1")
    assert said in page.sentence


@pytest.mark.parametrize(("offset_s", "said"), [(3600.0, "3,600 s ahead"), (-7.0, "7 s behind")])
def test_the_sentence_says_that_a_clock_is_off(offset_s: float, said: str) -> None:
    page = page_of(since=SINCE, kind="reported", clock_offset_s=offset_s)
    assert page.sentence == (
        "averageVehicleSpeed of traffic-0042 (harbour) comes from a clock that is"
        f" {said}, since 14:03:20 UTC"
    )
    # Of anything else that is wrong with the sensor, its clock is not the news.
    assert said not in page_of(since=SINCE, kind="flatline", clock_offset_s=offset_s).sentence


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (4.0, " UTC, which it does once in 6.94 days"),
        (5.0, " UTC, which it does once in 69.4 days"),
        (6.1, " UTC, which it does less than once in two years"),
        (300.0, " UTC, which it does less than once in two years"),
        (None, " UTC"),
    ],
)
def test_the_sentence_says_how_rare_it_is(score: float | None, said: str) -> None:
    assert page_of(since=SINCE, kind="season", score=score).sentence.endswith(said)
    # What a reading scores says nothing of how often.
    assert page_of(since=SINCE, kind="level", score=score).sentence.endswith(" UTC")


def test_the_sentence_of_what_a_camera_tells_of_itself() -> None:
    signal = {"quantity": "signalLoss", "kind": "range", "since": SINCE, "unit": "1"}
    assert page_of(**signal, seen=1.0).sentence == (
        "traffic-0042 (harbour) reports the loss of its signal since 14:03:20 UTC"
    )
    over = {"event": "resolved", "resolved_at": SINCE + timedelta(minutes=5)}
    assert page_of(**signal, **over, seen=0.0).sentence == (
        "traffic-0042 (harbour) no longer reports the loss of its signal;"
        " alert from 14:03:20 to 14:08:20 UTC"
    )
    assert "impossible 7" in page_of(**signal, seen=7.0).sentence


def test_every_condition_has_words() -> None:
    faults = {name for name, row in QUANTITIES.items() if row.is_state and row.high == 0}
    assert set(_CONDITIONS) == faults


def test_the_sentence_of_a_resolution_says_from_when_to_when() -> None:
    page = page_of(
        since=SINCE, event="resolved", resolved_at=SINCE + timedelta(minutes=5), seen=46.98
    )
    assert page.sentence == (
        "averageVehicleSpeed of traffic-0042 (harbour) is back at 47 km/h, expected 48 ± 9 km/h;"
        " alert from 14:03:20 to 14:08:20 UTC"
    )


@pytest.mark.parametrize(
    ("kind", "seen", "said"),
    [
        # Below what was expected, 48 ± 9.
        ("season", 8.1, "is at 8.1 km/h, which is not rare any more, expected 48 ± 9 km/h;"),
        ("forecast", 57.1, "is at 57.1 km/h, which is not rare any more, expected 48 ± 9 km/h;"),
        ("season", 39.0, "is back at 39 km/h, expected 48 ± 9 km/h;"),
        # Its level may be the old one or the new one.
        ("shift", 8.1, "has a settled level again, now at 8.1 km/h;"),
        # A range that decides alone.
        ("level", 8.1, "is back at 8.1 km/h, expected 48 ± 9 km/h;"),
    ],
)
def test_the_sentence_of_a_resolution_claims_no_return_that_was_none(
    kind: str, seen: float, said: str
) -> None:
    over = {"event": "resolved", "resolved_at": SINCE + timedelta(minutes=5)}
    page = page_of(since=SINCE, kind=kind, seen=seen, **over)
    assert page.sentence == (
        f"averageVehicleSpeed of traffic-0042 (harbour) {said} alert from 14:03:20 to 14:08:20 UTC"
    )


def test_the_sentence_names_the_days_when_they_differ() -> None:
    page = page_of(since=SINCE, event="resolved", resolved_at=SINCE + timedelta(days=1))
    assert page.sentence.endswith("alert from 2025-03-04 14:03:20 to 2025-03-05 14:03:20 UTC")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"unit": "1", "quantity": "occupancy"}, "is 8.1; expected 48 ± 9 since"),
        ({"unit": "Cel"}, "is 8.1 °C; expected 48 ± 9 °C since"),
        ({"lower": 40.0}, "expected 48 (40 to 57) km/h since"),
        ({"lower": None}, "expected 48 km/h, at most 57 km/h since"),
        ({"expected": None, "upper": None}, "expected at least 39 km/h since"),
        (
            {"expected": None},
            "expected at least 39 km/h and at most 57 km/h since",
        ),
        ({"expected": None, "lower": None, "upper": None}, "is 8.1 km/h since 14:03:20 UTC"),
        ({"since": SINCE.astimezone(timezone(timedelta(hours=2)))}, "since 14:03:20 UTC"),
    ],
)
def test_the_sentence_leaves_out_what_is_not_known(facts: dict[str, Any], said: str) -> None:
    assert said in page_of(**({"since": SINCE} | facts)).sentence


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (8.1, "8.1"),
        (8.126, "8.13"),
        (46.98, "47"),
        (12_345.6, "12,346"),
        (1_000.0, "1,000"),
        (100.0, "100"),
        (0.000_123_4, "0.000123"),
        (-3.14159, "-3.14"),
        (123_456_789_012.0, "123,456,789,012"),
        (-1.797e308, "-1.8e308"),
        (5e-324, "4.94e-324"),
    ],
)
def test_numbers_are_readable(value: float, text: str) -> None:
    assert _number(value) == text


@given(st.floats(min_value=1e-6, max_value=1e9) | st.floats(min_value=-1e9, max_value=-1e-6))
def test_a_number_is_said_to_three_digits_without_exponent(value: float) -> None:
    text = _number(value)
    assert "e" not in text
    assert math.isclose(float(text.replace(",", "")), value, rel_tol=0.0051)


@given(seen=finite, lower=finite | st.none(), upper=finite | st.none())
def test_no_number_makes_a_sentence_long(
    seen: float, lower: float | None, upper: float | None
) -> None:
    assert len(page_of(seen=seen, lower=lower, upper=upper, quality=4).sentence) < 250


@pytest.mark.parametrize(
    ("seen", "upper", "said"),
    [
        (100.447, 100.0, "100.4 km/h; expected at most 100 km/h"),
        (100.0447, 100.0, "100.04 km/h; expected at most 100 km/h"),
        (100.0, 100.0, "100 km/h; expected at most 100 km/h"),
        (99.96, 100.0, "100 km/h; expected at most 100 km/h"),
        (173.2, 50.0, "173 km/h; expected at most 50 km/h"),
        # Rounded, both ways.
        (100.3, 100.46, "100 km/h; expected at most 100 km/h"),
        (0.6664, 0.66634, "0.6664 km/h; expected at most 0.6663 km/h"),
    ],
)
def test_what_is_over_a_limit_looks_as_if_it_were(seen: float, upper: float, said: str) -> None:
    page = page_of(seen=seen, expected=None, lower=None, upper=upper)
    assert said in page.sentence
    # And what is under one.
    below = page_of(seen=-seen, expected=None, lower=-upper, upper=None)
    assert f"-{said}".replace("most ", "least -") in below.sentence


@pytest.mark.parametrize("kind", ["range", "reported"])
@pytest.mark.parametrize("quantity", ["averageVehicleSpeed", "signalLoss"])
def test_where_no_value_came_none_is_told(kind: str, quantity: str) -> None:
    page = page_of(since=SINCE, kind=kind, quantity=quantity, seen=0.0, quality=9)
    assert page.sentence == (
        f"{quantity} of traffic-0042 (harbour) sends readings without a value since 14:03:20 UTC"
    )
    # Somebody flagged it as missing, and sent it.
    assert " 7 km/h; expected" in page_of(kind=kind, seen=7.0, quality=9).sentence


AIR = {"quantity": "no2", "unit": "ug/m3", "seen": 173.0, "expected": 30.0, "lower": None}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            {"kind": "exceedance", "window": "24 hours", "upper": 50.0},
            " on average 173 µg/m³ over 24 hours; expected 30 µg/m³, at most 50 µg/m³ since",
        ),
        # A limit that is all that is known is told once.
        (
            {"kind": "exceedance", "window": "calendar day", "upper": 50.0, "expected": 50.0},
            " on average 173 µg/m³ over the calendar day; expected at most 50 µg/m³ since",
        ),
        (
            {"kind": "air-quality", "window": "hour", "upper": 100.0},
            " makes the air bad, on average 173 µg/m³ over an hour;",
        ),
        (
            {"kind": "air-quality", "unit": "1", "upper": 150.0, "expected": 50.0},
            " makes the air bad, by an index of 173; expected 50, at most 150 since",
        ),
    ],
)
def test_the_sentence_of_a_mean_says_over_what_and_of_an_index_that_it_is_one(
    facts: dict[str, Any], said: str
) -> None:
    page = page_of(**AIR | facts)
    assert said in page.sentence
    assert decode_page(encode_page(page)) == page


def test_an_index_and_a_mean_are_back_as_such() -> None:
    over: dict[str, Any] = {"event": "resolved", "resolved_at": SINCE, "since": SINCE, "upper": 150}
    said = page_of(**AIR | over | {"kind": "air-quality", "unit": "1", "seen": 127.0}).sentence
    assert " is back at an index of 127, expected 30, at most 150; alert " in said
    said = page_of(**AIR | over | {"kind": "exceedance", "window": "8 hours"}).sentence
    assert " is back at 173 µg/m³ over 8 hours, expected" in said


@given(
    seen=finite,
    expected=finite | st.none(),
    score=finite | st.none(),
    since=st.datetimes(timezones=st.just(UTC)),
    kind=st.text(max_size=20),
)
def test_a_page_comes_back_as_it_was_written(
    seen: float, expected: float | None, score: float | None, since: datetime, kind: str
) -> None:
    page = page_of(seen=seen, expected=expected, score=score, since=since, kind=kind)
    assert decode_page(encode_page(page)) == page


def test_the_payload_is_plain_json_with_rfc_3339_times() -> None:
    page = resolution_of(page_of(since=SINCE, longitude=None))
    payload = json.loads(encode_page(page))
    assert payload["since"] == "2025-03-04T14:03:20Z"
    assert payload["resolved_at"] == "2025-03-04T14:08:20Z"
    assert payload["alert_id"] == str(page.alert_id)
    assert payload["version"] == PAGE_VERSION
    assert payload["longitude"] is None


def test_a_field_from_the_future_is_passed_over() -> None:
    page = page_of()
    payload = json.loads(encode_page(page)) | {"colour": "red"}
    assert decode_page(json.dumps(payload)) == page


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"event": "acknowledged"},
        {"severity": "urgent"},
        {"category": "weather"},
        {"since": "2025-03-04T14:03:20"},
        {"resolved_at": "2025-03-04T14:03:20Z"},
        {"seen": None},
        {"alert_id": "seven"},
    ],
)
def test_what_is_no_page_is_refused_by_name(changes: dict[str, Any]) -> None:
    payload = json.loads(encode_page(page_of())) | changes
    with pytest.raises(PageError, match=next(iter(changes))):
        decode_page(json.dumps(payload))


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_be_refused(data: bytes) -> None:
    with pytest.raises(PageError):
        decode_page(data)


@pytest.mark.parametrize("field", ["seen", "expected", "lower", "upper", "score", "longitude"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_has_not_is_refused_at_the_writer(field: str, number: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        page_of(**{field: number})


def test_a_time_without_zone_is_refused_at_the_writer() -> None:
    with pytest.raises(ValueError, match="no zone"):
        page_of(since=SINCE.replace(tzinfo=None))


def test_a_resolution_says_when() -> None:
    with pytest.raises(ValueError, match="resolved_at"):
        page_of(event="resolved")


def test_every_schema_has_its_own_bell() -> None:
    assert outbox_channel("live") == "live_outbox"
    assert outbox_channel("replay_a") != outbox_channel("replay_b")

"""The decoder of entities: exact, and total."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest import reject
from ingest.ngsi import MAX_AHEAD_NS, Decoded, decode
from ingest.quality import FAIL, GOOD
from ingest.quantities import QUANTITIES
from ingest.reject import Reject
from ingest.topics import MqttTopic
from tests.ingest.strategies import JSON, NOW_NS, damaged, entities, entity, iso, payload

TRAFFIC = MqttTopic("live", "traffic", "centre", "s1")
AIR = MqttTopic("live", "environment", "centre", "s1")
CAMERA = MqttTopic("live", "cameras", "centre", "s1")
REASONS = {value for name, value in vars(reject).items() if name.isupper()}


def flow(**attributes: Any) -> bytes:
    return payload("TrafficFlowObserved", "s1", **attributes)


@pytest.mark.parametrize(
    ("topic", "kind", "attributes"),
    [
        (
            TRAFFIC,
            "TrafficFlowObserved",
            {
                "intensity": 34,
                "occupancy": 0.21,
                "averageVehicleSpeed": 48.5,
                "averageHeadwayTime": 2.5,
                "averageTravelTime": 312.0,
            },
        ),
        (
            AIR,
            "AirQualityObserved",
            {
                "pm25": 8.1,
                "pm10": 17.2,
                "no2": 22.0,
                "o3": 61.0,
                "so2": 2.0,
                "co": 0.3,
                "temperature": -4.5,
                "relativeHumidity": 0.81,
            },
        ),
        (AIR, "NoiseLevelObserved", {"LAeq": 61.2}),
        (
            CAMERA,
            "CrowdFlowObserved",
            {
                "peopleCount": 120,
                "peopleCountTowards": 70,
                "peopleCountAway": 50,
                "averageCrowdSpeed": 4.2,
            },
        ),
    ],
    ids=["traffic", "air", "noise", "crowd"],
)
def test_every_attribute_of_an_entity_is_read(
    topic: MqttTopic, kind: str, attributes: dict[str, float]
) -> None:
    place = {"type": "Point", "coordinates": [13.4, 52.5]}
    data = payload(kind, "s1", NOW_NS, **attributes, location=place)
    assert decode(data, topic, NOW_NS) == Decoded(
        quantities=list(attributes),
        values=[float(value) for value in attributes.values()],
        qualities=[GOOD] * len(attributes),
        time_ns=NOW_NS,
        place=(13.4, 52.5),
        withheld=0,
    )
    assert set(attributes) <= set(QUANTITIES)
    # One attribute alone is a message as well.
    for name, value in attributes.items():
        found = decode(payload(kind, "s1", **{name: value}), topic, NOW_NS)
        assert isinstance(found, Decoded)
        assert (found.quantities, found.values, found.place) == ([name], [value], None)


@pytest.mark.parametrize("sensor", ["s1", "urn:ngsi-ld:TrafficFlowObserved:s1"])
def test_an_id_may_come_with_or_without_its_prefix(sensor: str) -> None:
    data = json.dumps(entity("TrafficFlowObserved", "s1", intensity=1) | {"id": sensor}).encode()
    assert isinstance(decode(data, TRAFFIC, NOW_NS), Decoded)


@pytest.mark.parametrize(
    ("observed", "time_ns"),
    [
        (iso(NOW_NS), NOW_NS),
        ("2026-01-01T00:00:00Z", NOW_NS),
        ("2026-01-01T02:00:00+02:00", NOW_NS),
        ("2025-12-31T23:59:59.999999Z", NOW_NS - 1_000),
        ("2000-01-01T00:00:00Z", 946_684_800 * 10**9),
        (iso(NOW_NS + MAX_AHEAD_NS), NOW_NS + MAX_AHEAD_NS),
    ],
)
def test_event_times(observed: str, time_ns: int) -> None:
    found = decode(flow(intensity=1, dateObserved=observed), TRAFFIC, NOW_NS)
    assert isinstance(found, Decoded)
    assert found.time_ns == time_ns


@pytest.mark.parametrize(
    ("value", "flag"), [(0, GOOD), (20_000, GOOD), (-1, FAIL), (20_001, FAIL), (10**300, FAIL)]
)
def test_a_value_no_working_sensor_reports_is_flagged_and_kept(value: int, flag: int) -> None:
    found = decode(flow(intensity=value), TRAFFIC, NOW_NS)
    assert isinstance(found, Decoded)
    assert (found.values, found.qualities) == ([float(value)], [flag])


def test_null_is_no_reading_and_unknown_attributes_are_left_alone() -> None:
    found = decode(flow(intensity=None, occupancy=0.5, laneId=3), TRAFFIC, NOW_NS)
    assert isinstance(found, Decoded)
    assert (found.quantities, found.withheld) == (["occupancy"], 0)


def test_the_last_of_equal_keys_counts() -> None:
    data = flow(intensity=1).replace(b'"intensity": 1', b'"intensity": "x", "intensity": 7')
    found = decode(data, TRAFFIC, NOW_NS)
    assert isinstance(found, Decoded)
    assert found.values == [7.0]


@pytest.mark.parametrize(
    ("attributes", "readings", "withheld"),
    [
        ({"peopleCount": 3, "faceId": "x", "licensePlate": "y"}, 1, 2),
        ({"faceId": "x"}, 0, 1),
        ({"peopleCount": 3, "location": {"type": "Point", "coordinates": [1, 2]}}, 1, 0),
    ],
)
def test_a_camera_has_withheld_what_is_not_listed(
    attributes: dict[str, Any], readings: int, withheld: int
) -> None:
    found = decode(payload("CrowdFlowObserved", "s1", **attributes), CAMERA, NOW_NS)
    assert isinstance(found, Decoded)
    assert (len(found.values), found.withheld) == (readings, withheld)


def point(*coordinates: object) -> dict[str, Any]:
    return {"intensity": 1, "location": {"type": "Point", "coordinates": list(coordinates)}}


REJECTS: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", reject.MALFORMED, "$"),
    "truncated": (flow(intensity=1)[:-4], reject.MALFORMED, "$"),
    "more behind": (flow(intensity=1) + b"x", reject.MALFORMED, "$"),
    "byte order mark": (b"\xef\xbb\xbf" + flow(intensity=1), reject.MALFORMED, "$"),
    "not UTF-8": (b'{"type": "\xff"}', reject.MALFORMED, "$"),
    "lone surrogate": (b'{"type": "\\ud800"}', reject.MALFORMED, "$"),
    "lone surrogate as key": (b'{"\\udfff": 1}', reject.MALFORMED, "$"),
    "NaN": (flow(intensity=float("nan")), reject.MALFORMED, "$"),
    "infinity": (flow(intensity=float("inf")), reject.MALFORMED, "$"),
    "an array": (b"[]", reject.SHAPE, "$"),
    "a number": (b"1", reject.SHAPE, "$"),
    "null": (b"null", reject.SHAPE, "$"),
    "1e999": (flow(intensity=7).replace(b"7}", b"1e999}"), reject.SHAPE, "$"),
    "-1e999": (flow(intensity=7).replace(b"7}", b"-1e999}"), reject.SHAPE, "$"),
    "5000 digits": (flow(intensity=7).replace(b"7}", b"9" * 5000 + b"}"), reject.SHAPE, "$"),
    "deep arrays": (b'{"a":' + b"[" * 100_000, reject.TOO_DEEP, "$"),
    "deep objects": (b'{"a":' * 100_000, reject.TOO_DEEP, "$"),
    "deep and closed": (
        b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        reject.TOO_DEEP,
        "$",
    ),
    "no type": (b"{}", reject.TYPE, "$.type"),
    "unknown type": (b'{"type": "ParkingMeterObserved"}', reject.TYPE, "$.type"),
    "type is an object": (b'{"type": {}}', reject.TYPE, "$.type"),
    "type is a list": (b'{"type": ["TrafficFlowObserved"]}', reject.TYPE, "$.type"),
    "other domain": (payload("NoiseLevelObserved", "s1", LAeq=50), reject.DOMAIN, "$.type"),
    "other sensor": (payload("TrafficFlowObserved", "s2"), reject.IDENTITY, "$.id"),
    "sensor in part": (payload("TrafficFlowObserved", "s12"), reject.IDENTITY, "$.id"),
    "prefix of another type": (
        flow(id="urn:ngsi-ld:NoiseLevelObserved:s1"),
        reject.IDENTITY,
        "$.id",
    ),
    "id is a number": (flow(id=1), reject.IDENTITY, "$.id"),
    "id is missing": (b'{"type": "TrafficFlowObserved"}', reject.IDENTITY, "$.id"),
    "time is missing": (flow(intensity=1, dateObserved=None), reject.TIME, "$.dateObserved"),
    "time is a number": (flow(dateObserved=1_767_225_600), reject.TIME, "$.dateObserved"),
    "time in words": (flow(dateObserved="yesterday"), reject.TIME, "$.dateObserved"),
    "time of no zone": (flow(dateObserved="2026-01-01T00:00:00"), reject.TIME, "$.dateObserved"),
    "a date": (flow(dateObserved="2026-01-01"), reject.TIME, "$.dateObserved"),
    "no such day": (flow(dateObserved="2026-02-30T00:00:00Z"), reject.TIME, "$.dateObserved"),
    "a clock never set": (
        flow(intensity=1, dateObserved="1999-12-31T23:59:59Z"),
        reject.TIME,
        "$.dateObserved",
    ),
    "year 1": (flow(dateObserved="0001-01-01T00:00:00+23:59"), reject.TIME, "$.dateObserved"),
    "year 9999": (
        flow(intensity=1, dateObserved="9999-12-31T23:59:59-23:59"),
        reject.FUTURE,
        "$.dateObserved",
    ),
    "just too far ahead": (
        flow(intensity=1, dateObserved=iso(NOW_NS + MAX_AHEAD_NS + 1_000)),
        reject.FUTURE,
        "$.dateObserved",
    ),
    "text for a number": (flow(intensity="12"), reject.VALUE, "$.intensity"),
    "true": (flow(intensity=True), reject.VALUE, "$.intensity"),
    "false": (flow(occupancy=False), reject.VALUE, "$.occupancy"),
    "an object": (flow(intensity={"value": 1}), reject.VALUE, "$.intensity"),
    "one bad of many": (flow(intensity=1, occupancy=[]), reject.VALUE, "$.occupancy"),
    "no readings": (flow(), reject.EMPTY, "$"),
    "nulls only": (flow(intensity=None, occupancy=None), reject.EMPTY, "$"),
    "another type's attribute": (flow(LAeq=50), reject.EMPTY, "$"),
    "location is text": (flow(intensity=1, location="here"), reject.LOCATION, "$.location"),
    "location is a line": (
        flow(intensity=1, location={"type": "LineString", "coordinates": [1, 2]}),
        reject.LOCATION,
        "$.location",
    ),
    "one coordinate": (flow(**point(1)), reject.LOCATION, "$.location"),
    "four coordinates": (flow(**point(1, 2, 3, 4)), reject.LOCATION, "$.location"),
    "coordinate is true": (flow(**point(True, 2)), reject.LOCATION, "$.location"),
    "coordinate is text": (flow(**point("1", 2)), reject.LOCATION, "$.location"),
    "longitude": (flow(**point(180.1, 2)), reject.LOCATION, "$.location"),
    "latitude": (flow(**point(52.5, -90.1)), reject.LOCATION, "$.location"),
    "huge coordinate": (flow(**point(10**300, 2)), reject.LOCATION, "$.location"),
}


@pytest.mark.parametrize("name", REJECTS)
def test_a_reject_says_what_and_where(name: str) -> None:
    data, reason, place = REJECTS[name]
    assert decode(data, TRAFFIC, NOW_NS) == Reject(reason, place)


def check_total(data: bytes, topic: MqttTopic) -> None:
    found = decode(data, topic, NOW_NS)
    if isinstance(found, Reject):
        assert found.reason in REASONS
        # A place may name a listed attribute, and never repeats what was sent.
        assert found.place.removeprefix("$.") in {
            "$", "type", "id", "dateObserved", "location", *QUANTITIES,
        }  # fmt: skip
        return
    assert len(found.quantities) == len(found.values) == len(found.qualities)
    assert found.quantities or found.withheld
    assert len(set(found.quantities)) == len(found.quantities)
    for quantity, value, flag in zip(found.quantities, found.values, found.qualities, strict=True):
        limits = QUANTITIES[quantity]
        assert type(value) is float
        assert abs(value) < float("inf")
        assert flag == (GOOD if limits.low <= value <= limits.high else FAIL)
    assert found.time_ns % 1_000 == 0
    assert 946_684_800 * 10**9 <= found.time_ns <= NOW_NS + MAX_AHEAD_NS


TOPICS = st.sampled_from([TRAFFIC, AIR, CAMERA])


@given(st.binary(max_size=200), TOPICS)
def test_any_bytes_give_a_value(data: bytes, topic: MqttTopic) -> None:
    check_total(data, topic)


@given(JSON, TOPICS)
@settings(deadline=None)
def test_any_json_gives_a_value(content: Any, topic: MqttTopic) -> None:
    check_total(json.dumps(content).encode(), topic)


@given(entities(), TOPICS)
@settings(deadline=None)
def test_any_numbers_give_a_value(sound: dict[str, Any], topic: MqttTopic) -> None:
    check_total(json.dumps(sound).encode(), topic)


@given(damaged(), TOPICS)
@settings(deadline=None, max_examples=500)
@example(flow(intensity=7).replace(b"7}", b"9" * 308 + b"}"), TRAFFIC)
@example(flow(intensity=7).replace(b"7}", b"9" * 309 + b"}"), TRAFFIC)
@example(flow(intensity=7).replace(b"7}", b"1e-999}"), TRAFFIC)
def test_any_damage_gives_a_value(data: bytes, topic: MqttTopic) -> None:
    check_total(data, topic)

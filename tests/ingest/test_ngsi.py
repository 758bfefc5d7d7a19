"""The decoder of entities: exact, and total."""

import json
from itertools import pairwise
from math import inf, isnan
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest import privacy, reject
from ingest.message import MAX_AHEAD_NS, Acceptance, Channel, Message
from ingest.ngsi import DESCRIPTIVE, ENTITIES
from ingest.ngsi import decode as decode_entity
from ingest.quantities import QUANTITIES
from ingest.reject import Reject
from ingest.topics import MqttTopic
from tests.ingest.strategies import (
    FORMS,
    JSON,
    NOW_NS,
    attribute,
    damaged,
    entities,
    entity,
    iso,
    mixed,
    mutated,
    payload,
    rewrite,
)

TRAFFIC = MqttTopic("live", "traffic", "centre", "s1")
AIR = MqttTopic("live", "environment", "centre", "s1")
CAMERA = MqttTopic("live", "cameras", "centre", "s1")
GATEWAY = MqttTopic("live", "traffic", "centre", "gw1")
ACCEPTANCE = Acceptance(gateways=frozenset({"gw1"}))
REASONS = {value for name, value in vars(reject).items() if name.isupper()}
MINUTE_NS = 60 * 10**9


def decode(data: bytes, topic: MqttTopic = TRAFFIC, received_ns: int = NOW_NS) -> Message | Reject:
    return decode_entity(data, topic, received_ns, ACCEPTANCE)


def read(data: bytes, topic: MqttTopic = TRAFFIC, received_ns: int = NOW_NS) -> Message:
    found = decode(data, topic, received_ns)
    assert isinstance(found, Message), found
    return found


def topic_of(kind: str) -> MqttTopic:
    return TRAFFIC._replace(domain=ENTITIES[kind].domain)


def readings(message: Message) -> dict[str, float]:
    return {
        channel.quantity: value
        for channel, value in zip(message.channels, message.value, strict=True)
    }


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
    plain = entity(kind, "s1", NOW_NS, **attributes, location=place)
    for form in FORMS:
        assert read(json.dumps(rewrite(plain, form)).encode(), topic) == Message(
            channels=[Channel("s1", name) for name in attributes],
            time_ns=[NOW_NS] * len(attributes),
            value=[float(value) for value in attributes.values()],
            place=(13.4, 52.5),
        )
    assert set(attributes) <= set(QUANTITIES)
    # One attribute alone is a message as well.
    for name, value in attributes.items():
        found = read(payload(kind, "s1", **{name: value}), topic)
        assert (readings(found), found.place) == ({name: value}, None)


@pytest.mark.parametrize("urn", ["s1", "urn:ngsi-ld:TrafficFlowObserved:s1"])
def test_an_id_may_come_with_or_without_its_prefix(urn: str) -> None:
    assert read(flow(intensity=1, id=urn)).channels == [Channel("s1", "intensity")]
    # A topic may be named by the whole id.
    assert read(flow(intensity=1, id=urn), TRAFFIC._replace(sensor=urn)).channels[0].sensor == urn


@pytest.mark.parametrize("urn", ["s7", "urn:ngsi-ld:TrafficFlowObserved:s7"])
def test_a_gateway_speaks_for_every_sensor(urn: str) -> None:
    place = {"type": "Point", "coordinates": [13.4, 52.5]}
    found = read(flow(intensity=1, id=urn, location=place), GATEWAY)
    assert found.channels == [Channel("s7", "intensity")]
    assert found.place == (13.4, 52.5)
    assert read(flow(intensity=1, id="gw1", location=place), GATEWAY).place == (13.4, 52.5)


@pytest.mark.parametrize(
    "urn", ["", "a/b", "s 7", "x" * 101, "urn:ngsi-ld:NoiseLevelObserved:s7", "é", 7, None]
)
def test_a_gateway_speaks_for_no_one_without_a_name(urn: object) -> None:
    assert decode(flow(intensity=1, id=urn), GATEWAY) == Reject(reject.IDENTITY, "$.id")


def test_who_is_no_gateway_speaks_for_itself() -> None:
    topic = GATEWAY._replace(sensor="gw2")
    assert decode(flow(intensity=1), topic) == Reject(reject.IDENTITY, "$.id")


# --- times --------------------------------------------------------------------------------------

BEFORE, LATER = iso(NOW_NS - 5 * MINUTE_NS), iso(NOW_NS + MINUTE_NS)


@pytest.mark.parametrize(
    ("times", "time_ns"),
    [
        ({"dateObserved": iso(NOW_NS)}, NOW_NS),
        ({"dateObserved": "2026-01-01T00:00:00Z"}, NOW_NS),
        ({"dateObserved": "2026-01-01T02:00:00+02:00"}, NOW_NS),
        ({"dateObserved": "2025-12-31T23:59:59.999999Z"}, NOW_NS - 1_000),
        ({"dateObserved": iso(NOW_NS + MAX_AHEAD_NS)}, NOW_NS + MAX_AHEAD_NS),
        ({"dateObserved": iso(NOW_NS - ACCEPTANCE.max_age_ns)}, NOW_NS - ACCEPTANCE.max_age_ns),
        ({"dateObserved": f"{BEFORE}/{iso(NOW_NS)}"}, NOW_NS),
        ({"dateObserved": f"{LATER}/{LATER}"}, NOW_NS + MINUTE_NS),
        ({"dateObservedFrom": BEFORE, "dateObservedTo": LATER}, NOW_NS + MINUTE_NS),
        ({"dateObservedFrom": BEFORE}, NOW_NS - 5 * MINUTE_NS),
        ({"dateObserved": iso(NOW_NS), "dateObservedTo": LATER}, NOW_NS),
        ({"dateObserved": None, "dateObservedTo": LATER}, NOW_NS + MINUTE_NS),
        # The model's own example: an interval without a zone, and its ends with one.
        (
            {
                "dateObserved": "2025-12-31T23:55:00/2026-01-01T00:00:00",
                "dateObservedFrom": BEFORE,
                "dateObservedTo": iso(NOW_NS),
            },
            NOW_NS,
        ),
    ],
)
def test_event_times(times: dict[str, str], time_ns: int) -> None:
    plain = entity("TrafficFlowObserved", "s1", intensity=1)
    del plain["dateObserved"]
    for form in FORMS:
        found = read(json.dumps(rewrite(plain | times, form)).encode())
        assert found.time_ns == [time_ns]


def test_a_time_may_be_typed_within_key_values() -> None:
    typed = {"@type": "DateTime", "@value": iso(NOW_NS)}
    assert read(flow(intensity=1, dateObserved=typed)).time_ns == [NOW_NS]


@pytest.mark.parametrize("form", FORMS[1:])
def test_an_attribute_may_have_its_own_time(form: str) -> None:
    data = flow(
        intensity=attribute(form, 3, time_ns=NOW_NS - MINUTE_NS),
        occupancy=attribute(form, 0.5),
        averageVehicleSpeed=50,
    )
    assert read(data).time_ns == [NOW_NS - MINUTE_NS, NOW_NS, NOW_NS]


@pytest.mark.parametrize("form", FORMS[1:])
def test_an_entity_needs_no_time_where_its_attributes_have_one(form: str) -> None:
    own = {
        "intensity": attribute(form, 3, time_ns=NOW_NS - MINUTE_NS),
        "occupancy": attribute(form, 0.5, time_ns=NOW_NS),
    }
    assert read(flow(**own, dateObserved=None)).time_ns == [NOW_NS - MINUTE_NS, NOW_NS]
    assert read(flow(**own, dateObserved="once")).time_ns == [NOW_NS - MINUTE_NS, NOW_NS]
    # One that has none is not given another's.
    found = decode(flow(**own, averageVehicleSpeed=50, dateObserved=None))
    assert found == Reject(reject.TIME, "$.dateObserved")


# --- values and units ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Infinity", inf),
        ("-Infinity", -inf),
        ("1e999", inf),
        ("-1e999", -inf),
        ("-1", -1.0),
        ("20001", 20_001.0),
        ("9" * 309, inf),
        ("-" + "9" * 309, -inf),
        ("1e-999", 0.0),
    ],
)
def test_a_value_no_working_sensor_reports_is_kept(text: str, value: float) -> None:
    for form in FORMS:
        whole = rewrite(entity("TrafficFlowObserved", "s1", intensity=7), form)
        assert read(number_in(whole, text)).value == [value]


def number_in(content: dict[str, Any], text: str) -> bytes:
    """Write an entity whose one number, 7, is `text`."""
    data = json.dumps(content).encode()
    changed = data.replace(b": 7", b": " + text.encode())
    assert changed != data
    return changed


def test_what_is_not_a_number_is_a_missing_value() -> None:
    for form in FORMS:
        whole = rewrite(entity("TrafficFlowObserved", "s1", intensity=7), form)
        assert isnan(read(number_in(whole, "NaN")).value[0])


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize(
    ("topic", "kind", "name", "sent", "unit", "value"),
    [
        (TRAFFIC, "TrafficFlowObserved", "averageVehicleSpeed", 50, "KMH", 50.0),
        (TRAFFIC, "TrafficFlowObserved", "averageVehicleSpeed", 10, "MTS", 36.0),
        (TRAFFIC, "TrafficFlowObserved", "averageVehicleSpeed", 10, "m/s", 36.0),
        (TRAFFIC, "TrafficFlowObserved", "averageHeadwayTime", 2_500, "C26", 2.5),
        (TRAFFIC, "TrafficFlowObserved", "occupancy", 21, "P1", 0.21),
        (AIR, "AirQualityObserved", "co", 500, "GQ", 0.5),
        (AIR, "AirQualityObserved", "CO", 0.5, "GP", 0.5),
        (AIR, "AirQualityObserved", "no2", 40, "61", 76.5),
        (AIR, "AirQualityObserved", "temperature", 50, "FAH", 10.0),
        (AIR, "NoiseLevelObserved", "LAeq", 61.2, "2N", 61.2),
    ],
)
def test_a_value_is_brought_to_the_unit_of_the_table(
    form: str, topic: MqttTopic, kind: str, name: str, sent: float, unit: str, value: float
) -> None:
    found = read(payload(kind, "s1", **{name: attribute(form, sent, unit)}), topic)
    assert found.value == pytest.approx([value], rel=1e-4)


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("unit", ["GQ", "kmh", "", 5, ["KMH"], {"value": 1}, {}])
def test_a_unit_that_does_not_fit_rejects_the_whole(form: str, unit: Any) -> None:
    data = flow(intensity=1, averageVehicleSpeed=attribute(form, 50, unit))
    assert decode(data) == Reject(reject.UNIT, "$.averageVehicleSpeed.unitCode")


def test_a_fraction_of_particles_is_no_mass() -> None:
    data = payload("AirQualityObserved", "s1", pm10=attribute("ngsi-ld", 4, "61"))
    assert decode(data, AIR) == Reject(reject.UNIT, "$.pm10.unitCode")


def test_forms_may_be_mixed() -> None:
    found = read(
        flow(
            intensity=34,
            occupancy=attribute("ngsi-ld", 21, "P1"),
            averageVehicleSpeed=attribute("ngsi-v2", 10, "MTS"),
            averageHeadwayTime={"value": 2},
        )
    )
    assert readings(found) == {
        "intensity": 34.0,
        "occupancy": 0.21,
        "averageVehicleSpeed": 36.0,
        "averageHeadwayTime": 2.0,
    }


def test_null_is_no_reading_and_unknown_attributes_are_left_alone() -> None:
    found = read(flow(intensity=None, occupancy=0.5, laneId=3))
    assert (readings(found), found.withheld) == ({"occupancy": 0.5}, {})
    found = read(flow(intensity=attribute("ngsi-ld", None, "?"), occupancy=0.5))
    assert readings(found) == {"occupancy": 0.5}


def test_the_last_of_equal_keys_counts() -> None:
    data = flow(intensity=1).replace(b'"intensity": 1', b'"intensity": "x", "intensity": 7')
    assert read(data).value == [7.0]


def test_older_names_of_gases_are_read() -> None:
    found = read(payload("AirQualityObserved", "s1", NO2=1, O3=2, SO2=3, CO=4), AIR)
    assert readings(found) == {"no2": 1.0, "o3": 2.0, "so2": 3.0, "co": 4.0}
    assert found.repeated == 0


def test_a_gas_under_both_its_names_is_read_once() -> None:
    found = read(payload("AirQualityObserved", "s1", NO2=1, pm10=9, no2=2), AIR)
    assert readings(found) == {"no2": 1.0, "pm10": 9.0}
    assert (len(found.channels), found.time_ns, found.repeated) == (2, [NOW_NS] * 2, 1)
    earlier = attribute("ngsi-ld", 2, time_ns=NOW_NS - MINUTE_NS)
    found = read(payload("AirQualityObserved", "s1", NO2=1, no2=earlier), AIR)
    assert (found.value, found.repeated) == ([1.0, 2.0], 0)


# --- privacy ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "expected", "withheld"),
    [
        ({"peopleCount": 3, "faceId": "x", "licensePlate": "y"}, 1, {"face": 1, "plate": 1}),
        ({"faceId": "x"}, 0, {"face": 1}),
        ({"congested": True, "zebra": 1}, 0, {"unknown": 2}),
        ({"peopleCount": 3, "location": {"type": "Point", "coordinates": [1, 2]}}, 1, {}),
        ({"peopleCount": 3, "@context": {"faceId": "of a vocabulary"}}, 1, {}),
        ({"peopleCount": attribute("ngsi-ld", 3, "C62", NOW_NS)}, 1, {}),
        ({"peopleCount": attribute("ngsi-ld", 3) | {"faceId": "x"}}, 1, {"face": 1}),
        ({"peopleCount": {"value": 3, "metadata": {"faceId": "x"}}}, 1, {"face": 1}),
        ({"crew": {"type": "Property", "value": {"faceId": "x"}}}, 0, {"face": 1}),
        ({"location": {"type": "Point", "coordinates": [1, 2], "faceId": 1}}, 0, {"face": 1}),
    ],
)
def test_a_camera_has_withheld_what_is_not_listed(
    attributes: dict[str, Any], expected: int, withheld: dict[str, int]
) -> None:
    found = read(payload("CrowdFlowObserved", "s1", **attributes), CAMERA)
    assert (len(found.value), found.withheld) == (expected, withheld)


def test_others_have_withheld_what_is_private_by_its_name() -> None:
    found = read(flow(intensity=1, licensePlate="x", laneId=3, address={"streetAddress": "y"}))
    assert (readings(found), found.withheld) == ({"intensity": 1.0}, {"plate": 1})
    assert read(flow(licensePlate="x")).withheld == {"plate": 1}
    found = read(flow(intensity=attribute("ngsi-ld", 1) | {"licensePlate": "x", "note": "y"}))
    assert found.withheld == {"plate": 1}


@pytest.mark.parametrize("kind", sorted(ENTITIES))
def test_what_is_listed_is_not_private(kind: str) -> None:
    known = ENTITIES[kind]
    values = dict.fromkeys([*known.quantities, *known.aliases], 1)
    assert read(payload(kind, "s1", **values), topic_of(kind)).withheld == {}


def test_what_the_models_say_of_vehicles_and_places_is_not_private() -> None:
    found = read(flow(intensity=1, averageVehicleLength=4, vehicleType="car", vehicleSubType="x"))
    assert found.withheld == {}
    for name in ("typeOfLocation", "typeofLocation"):
        data = payload("AirQualityObserved", "s1", no2=1, **{name: "outdoor"})
        assert read(data, AIR).withheld == {}


# --- places -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("shape", "coordinates"),
    [
        ("LineString", [[-4.7, 41.6], [-4.8, 41.7]]),
        ("Polygon", [[[0, 0], [0, 1], [1, 1], [0, 0]]]),
        ("MultiPoint", [[1, 2]]),
    ],
)
def test_a_stretch_of_road_is_no_place_of_a_sensor(
    form: str, shape: str, coordinates: list[Any]
) -> None:
    location = {"type": shape, "coordinates": coordinates}
    plain = entity("TrafficFlowObserved", "s1", intensity=1, location=location)
    found = read(json.dumps(rewrite(plain, form)).encode())
    assert (found.value, found.place) == ([1.0], None)


def test_a_place_may_have_a_height_and_may_be_null() -> None:
    assert read(flow(**point(13, 52, 34.5))).place == (13.0, 52.0)
    assert read(flow(intensity=1, location=None)).place is None
    assert read(flow(intensity=1, location={"type": "GeoProperty", "value": None})).place is None


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
    "an array": (b"[]", reject.SHAPE, "$"),
    "a number": (b"1", reject.SHAPE, "$"),
    "null": (b"null", reject.SHAPE, "$"),
    "5000 digits": (flow(intensity=7).replace(b"7}", b"9" * 5000 + b"}"), reject.MALFORMED, "$"),
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
    "half an interval": (
        flow(intensity=1, dateObserved="2026-01-01T00:00:00Z/"),
        reject.TIME,
        "$.dateObserved",
    ),
    "three ends": (
        flow(intensity=1, dateObserved="/".join([iso(NOW_NS)] * 3)),
        reject.TIME,
        "$.dateObserved",
    ),
    "an interval backwards": (
        flow(intensity=1, dateObserved=f"{iso(NOW_NS)}/{BEFORE}"),
        reject.TIME,
        "$.dateObserved",
    ),
    "an end in words": (
        flow(intensity=1, dateObserved=None, dateObservedTo="today"),
        reject.TIME,
        "$.dateObservedTo",
    ),
    "an own time in words": (
        flow(intensity={"value": 1, "observedAt": "today"}),
        reject.TIME,
        "$.intensity.observedAt",
    ),
    "an own time too far ahead": (
        flow(intensity=attribute("ngsi-v2", 1, time_ns=NOW_NS + MAX_AHEAD_NS + 1_000)),
        reject.FUTURE,
        "$.intensity.observedAt",
    ),
    "an own time long past": (
        flow(intensity=attribute("ngsi-ld", 1, time_ns=NOW_NS - ACCEPTANCE.max_age_ns - 1_000)),
        reject.PAST,
        "$.intensity.observedAt",
    ),
    "a month old": (
        flow(intensity=1, dateObserved=iso(NOW_NS - ACCEPTANCE.max_age_ns - 1_000)),
        reject.PAST,
        "$.dateObserved",
    ),
    "a start a month ago": (
        flow(intensity=1, dateObserved=None, dateObservedFrom="2025-11-01T00:00:00Z"),
        reject.PAST,
        "$.dateObservedFrom",
    ),
    "year 1": (
        flow(intensity=1, dateObserved="0001-01-01T00:00:00+23:59"),
        reject.PAST,
        "$.dateObserved",
    ),
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
    "an object": (flow(intensity={"number": 1}), reject.VALUE, "$.intensity"),
    "an empty object": (flow(intensity={}), reject.VALUE, "$.intensity"),
    "a relationship": (
        flow(intensity={"type": "Relationship", "object": "urn:x"}),
        reject.VALUE,
        "$.intensity",
    ),
    "text for a normalised number": (
        flow(intensity=attribute("ngsi-ld", "12")),
        reject.VALUE,
        "$.intensity",
    ),
    "true for a normalised number": (
        flow(occupancy=attribute("ngsi-v2", True)),
        reject.VALUE,
        "$.occupancy",
    ),
    "several of one attribute": (
        flow(intensity=[attribute("ngsi-ld", 1), attribute("ngsi-ld", 2)]),
        reject.VALUE,
        "$.intensity",
    ),
    "an older name": (payload("TrafficFlowObserved", "s1", NO2=1), reject.EMPTY, "$"),
    "metadata that is a list": (
        flow(intensity={"value": 1, "metadata": ["unitCode"]}),
        reject.UNIT,
        "$.intensity.unitCode",
    ),
    "one bad of many": (flow(intensity=1, occupancy=[]), reject.VALUE, "$.occupancy"),
    "no readings": (flow(), reject.EMPTY, "$"),
    "nulls only": (flow(intensity=None, occupancy=None), reject.EMPTY, "$"),
    "another type's attribute": (flow(LAeq=50), reject.EMPTY, "$"),
    "location is text": (flow(intensity=1, location="here"), reject.LOCATION, "$.location"),
    "a line without points": (
        flow(intensity=1, location={"type": "LineString", "coordinates": "1 2"}),
        reject.LOCATION,
        "$.location",
    ),
    "one coordinate": (flow(**point(1)), reject.LOCATION, "$.location"),
    "four coordinates": (flow(**point(1, 2, 3, 4)), reject.LOCATION, "$.location"),
    "coordinate is true": (flow(**point(True, 2)), reject.LOCATION, "$.location"),
    "coordinate is text": (flow(**point("1", 2)), reject.LOCATION, "$.location"),
    "longitude": (flow(**point(180.1, 2)), reject.LOCATION, "$.location"),
    "latitude": (flow(**point(52.5, -90.1)), reject.LOCATION, "$.location"),
    "coordinate is missing": (flow(**point(float("nan"), 2)), reject.LOCATION, "$.location"),
    "height is text": (flow(**point(1, 2, "3")), reject.LOCATION, "$.location"),
    "type of location is a list": (
        flow(intensity=1, location={"type": ["Point"], "coordinates": [1, 2]}),
        reject.LOCATION,
        "$.location",
    ),
    "normalised location is text": (
        flow(intensity=1, location={"type": "geo:point", "value": "52.5, 13.4"}),
        reject.LOCATION,
        "$.location",
    ),
    "huge coordinate": (flow(**point(10**300, 2)), reject.LOCATION, "$.location"),
}


@pytest.mark.parametrize("name", REJECTS)
def test_a_reject_says_what_and_where(name: str) -> None:
    data, reason, place = REJECTS[name]
    assert decode(data) == Reject(reason, place)


def test_a_clock_never_set_is_past_whatever_age_is_taken() -> None:
    forever = Acceptance(max_age_ns=10**20)
    for second, expected in ((0, Message), (-1, Reject)):
        time_ns = (946_684_800 + second) * 10**9
        found = decode_entity(
            flow(intensity=1, dateObserved=iso(time_ns)), TRAFFIC, NOW_NS, forever
        )
        assert isinstance(found, expected)
    assert found == Reject(reject.PAST, "$.dateObserved")


# --- total --------------------------------------------------------------------------------------

# A place may name a listed attribute, and never repeats what was sent.
PLACES = {
    "$", "$.type", "$.id", "$.location", *(f"$.{name}" for name in DESCRIPTIVE if "date" in name),
    *(
        f"$.{name}{part}"
        for known in ENTITIES.values()
        for name in (*known.quantities, *known.aliases)
        for part in ("", ".unitCode", ".observedAt")
    ),
}  # fmt: skip


def check_total(data: bytes, topic: MqttTopic) -> None:
    found = decode(data, topic)
    if isinstance(found, Reject):
        assert found.reason in REASONS
        assert found.place in PLACES
        return
    assert len(found.channels) == len(found.time_ns) == len(found.value)
    assert found.channels or found.withheld
    assert len(set(zip(found.channels, found.time_ns, strict=True))) == len(found.channels)
    for channel in found.channels:
        assert channel.sensor == topic.sensor
        assert QUANTITIES[channel.quantity].domain == topic.domain
    assert all(type(value) is float for value in found.value)
    for time_ns in found.time_ns:
        assert time_ns % 1_000 == 0
        assert NOW_NS - ACCEPTANCE.max_age_ns <= time_ns <= NOW_NS + MAX_AHEAD_NS
    assert set(found.withheld) <= set(privacy.KINDS)
    assert all(count > 0 for count in found.withheld.values())
    assert found.refused == []
    assert len(found.doubtful) <= found.repeated


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
@settings(deadline=None, max_examples=300)
@example(flow(intensity=7).replace(b"7}", b"9" * 308 + b"}"), TRAFFIC)
@example(flow(intensity=7).replace(b"7}", b"9" * 309 + b"}"), TRAFFIC)
@example(flow(intensity=7).replace(b"7}", b"1e-999}"), TRAFFIC)
def test_any_damage_gives_a_value(data: bytes, topic: MqttTopic) -> None:
    check_total(data, topic)


@given(mixed())
@settings(deadline=None, max_examples=300)
def test_any_mixture_of_forms_gives_a_value(content: dict[str, Any]) -> None:
    check_total(json.dumps(content).encode(), topic_of(content["type"]))


@given(mutated())
@settings(deadline=None, max_examples=500)
def test_any_mutation_gives_a_value(data: bytes) -> None:
    for topic in (TRAFFIC, AIR, CAMERA):
        check_total(data, topic)


@given(entities())
@settings(deadline=None)
def test_the_forms_say_the_same(sound: dict[str, Any]) -> None:
    topic = topic_of(sound["type"])
    found = [decode(json.dumps(rewrite(sound, form)).encode(), topic) for form in FORMS]
    assert isinstance(found[0], Message)
    for one, other in pairwise(found):
        assert one == other

"""Camera events: the listed ones read, all others withheld, and no input that is not answered."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest import reject
from ingest.message import Acceptance, Channel, Message
from ingest.onvif import decode, public_event, public_topic, sensor_of
from ingest.privacy import KINDS
from ingest.quantities import QUANTITIES
from ingest.reject import Reject
from ingest.topics import MqttTopic, is_level
from tests.ingest.strategies import JSON, NOW_NS, iso

ACCEPTANCE = Acceptance()
REASONS = {value for name, value in vars(reject).items() if name.isupper()}
SOURCE = {"VideoSource": "1", "AnalyticsConfiguration": "2", "Rule": "MyFence"}
CROSSED = "RuleEngine/LineDetector/Crossed"
COUNTER = "RuleEngine/CountAggregation/Counter"
OCCUPANCY = "RuleEngine/CountAggregation/OccupancyCounter"
LOITERING = "RuleEngine/LoiteringDetector/ObjectIsLoitering"
INSIDE = "RuleEngine/FieldDetector/ObjectsInside"
SIGNAL = "VideoSource/SignalLoss"
CAMERA = "city/live/cameras/centre/c1"
STORAGE = "Device/HardwareFailure/StorageFailure"


def topic(event: str, sensor: str = "c1", domain: str = "cameras") -> MqttTopic:
    return MqttTopic("live", domain, "centre", sensor, event)


def flat(
    data: dict[str, Any] | None, source: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    content = {"UtcTime": iso(NOW_NS), "Source": SOURCE if source is None else source}
    return content | ({} if data is None else {"Data": data}) | more


def as_lists(content: dict[str, Any]) -> dict[str, Any]:
    """Return an event with its items as lists of names and values, all of them text."""

    def text(value: Any) -> Any:
        return str(value).lower() if isinstance(value, bool) else str(value)

    return {
        name: {"SimpleItem": [{"Name": key, "Value": text(part)} for key, part in value.items()]}
        if name in ("Source", "Key", "Data")
        else value
        for name, value in content.items()
    }


def read(event: str, content: Any, acceptance: Acceptance = ACCEPTANCE) -> Message | Reject:
    return decode(json.dumps(content).encode(), topic(event), NOW_NS, acceptance)


def taken(event: str, content: Any) -> Message:
    found = read(event, content)
    assert isinstance(found, Message), found
    return found


EVENTS = [
    (CROSSED, {"ObjectId": "15"}, "lineCrossings", 1.0, {"object": 1}),
    (CROSSED, None, "lineCrossings", 1.0, {}),
    (CROSSED, {"State": False}, "lineCrossings", 0.0, {}),
    (COUNTER, {"Count": 12}, "objectCount", 12.0, {}),
    (OCCUPANCY, {"Count": 0}, "occupancyCount", 0.0, {}),
    (LOITERING, {"ObjectId": "1 7", "Since": iso(NOW_NS)}, "loitering", 1.0,
     {"object": 1, "unknown": 1}),
    (LOITERING, {"ObjectId": "", "Since": ""}, "loitering", 0.0, {"object": 1, "unknown": 1}),
    (LOITERING, {"State": False}, "loitering", 0.0, {}),
    (INSIDE, {"IsInside": True}, "objectsInside", 1.0, {}),
    (INSIDE, {"IsInside": False, "ObjectId": ""}, "objectsInside", 0.0, {"object": 1}),
    (SIGNAL, {"State": True}, "signalLoss", 1.0, {}),
    (STORAGE, {"Failed": True}, "storageFailure", 1.0, {}),
    ("VideoSource/ImageTooDark", {"State": True}, "imageTooDark", 1.0, {}),
    ("VideoSource/ImageTooDark/AnalyticsService", {"State": False}, "imageTooDark", 0.0, {}),
    ("VideoSource/ImageTooBright/ImagingService", {"State": True}, "imageTooBright", 1.0, {}),
    ("VideoSource/ImageTooBlurry/RecordingService", {"State": True}, "imageTooBlurry", 1.0, {}),
    ("VideoSource/GlobalSceneChange/acme:Watch", {"State": True}, "sceneChange", 1.0, {}),
]  # fmt: skip


@pytest.mark.parametrize(("event", "data", "quantity", "value", "withheld"), EVENTS)
def test_a_listed_event_is_a_reading_in_either_form(
    event: str, data: dict[str, Any] | None, quantity: str, value: float, withheld: dict[str, int]
) -> None:
    for content in (flat(data), as_lists(flat(data))):
        for path in (event, f"tns1:{event}", f"{event}/&1/2/MyFence"):
            found = taken(path, content)
            assert [channel.quantity for channel in found.channels] == [quantity]
            assert (found.value, found.time_ns, found.withheld) == ([value], [NOW_NS], withheld)
    assert QUANTITIES[quantity].domain == "cameras"


def test_every_quantity_of_events_has_an_event() -> None:
    reported = {"peopleCount", "peopleCountTowards", "peopleCountAway", "averageCrowdSpeed"}
    listed = {name for name, row in QUANTITIES.items() if row.domain == "cameras"}
    assert {quantity for _, _, quantity, _, _ in EVENTS} == listed - reported


@pytest.mark.parametrize(
    ("raw", "value"),
    [(True, 1.0), (False, 0.0), ("true", 1.0), ("FALSE", 0.0), ("1", 1.0), (0, 0.0), (" 1 ", 1.0)],
)
def test_truth_comes_in_many_spellings(raw: Any, value: float) -> None:
    assert taken(INSIDE, flat({"IsInside": raw})).value == [value]


@pytest.mark.parametrize("raw", ["yes", "", 2, 0.5, None, [], {}, "active"])
def test_what_is_no_truth_is_no_reading(raw: Any) -> None:
    assert read(INSIDE, flat({"IsInside": raw})) == Reject(reject.VALUE, "$.Data.IsInside")


@pytest.mark.parametrize(
    ("raw", "value"), [(12, 12.0), ("12", 12.0), ("-3", -3.0), (1.5, 1.5), (10**400, math.inf)]
)
def test_a_count_comes_quoted_or_not(raw: Any, value: float) -> None:
    assert taken(COUNTER, flat({"Count": raw})).value == [value]


def test_a_count_that_is_not_a_number_is_a_missing_one() -> None:
    assert math.isnan(taken(COUNTER, flat({"Count": math.nan})).value[0])


@pytest.mark.parametrize("raw", ["twelve", "", "1e5", "٣", "9" * 19, True, None, [1]])
def test_what_is_no_count_is_no_reading(raw: Any) -> None:
    assert read(COUNTER, flat({"Count": raw})) == Reject(reject.VALUE, "$.Data.Count")


def sensor(event: str, content: Any) -> str:
    found = taken(event, content)
    return found.channels[0].sensor


def test_rules_and_sources_of_a_camera_are_sensors_of_their_own() -> None:
    data = {"Count": 1}
    sources = [
        {},
        {"Rule": "A"},
        {"Rule": "B"},
        {"VideoSource": "1", "Rule": "A"},
        {"VideoSource": "2", "Rule": "A"},
        {"VideoSource": "2"},
        {"VideoSource": "2", "AnalyticsConfiguration": "2", "Rule": "A"},
    ]
    names = [sensor(COUNTER, flat(data, source)) for source in sources]
    assert names[0] == "c1"
    assert len(set(names)) == len(names)
    for name in names[1:]:
        camera, _, digits = name.partition(":")
        assert (camera, len(digits), int(digits, 16) >= 0) == ("c1", 8, True)
        assert is_level(name)


def test_a_sensor_is_the_same_in_every_event_and_form() -> None:
    same = [
        sensor(COUNTER, flat({"Count": 1})),
        sensor(OCCUPANCY, flat({"Count": 9})),
        sensor(COUNTER, as_lists(flat({"Count": 1}))),
        sensor(COUNTER, flat({"Count": 1}, dict(reversed(SOURCE.items())))),
        sensor(COUNTER, flat({"Count": 1}, SOURCE | {"VideoSource": 1})),
        sensor(COUNTER, flat({"Count": 1}, SOURCE | {"acme:Note": "x"})),
        sensor(COUNTER, flat({"Count": 1}, Key={"ObjectId": "5"})),
    ]
    assert len(set(same)) == 1
    # Pinned: another fingerprint would start every series anew.
    assert same[0] == "c1:2af79110"


def test_services_that_see_the_same_fault_do_not_contradict_each_other() -> None:
    found = {
        sensor(f"VideoSource/ImageTooDark{service}", flat({"State": True}))
        for service in ("", "/AnalyticsService", "/ImagingService")
    }
    assert len(found) == 3


def test_the_same_rule_of_two_cameras_cannot_be_told_to_be_the_same() -> None:
    source = [("Source", "Rule", "Bob's garden")]
    first, second = (sensor_of(camera, "", source) for camera in ("c1", "c2"))
    assert first.partition(":")[2] != second.partition(":")[2]


def test_a_sensor_of_a_long_camera_fits_and_is_its_own() -> None:
    cameras = ["x" * 99 + end for end in "ab"]
    names = {sensor_of(camera, "", [("Source", "Rule", "r")]) for camera in cameras}
    assert len(names) == 2
    assert all(is_level(name) for name in names)


@pytest.mark.parametrize(
    ("event", "data", "withheld"),
    [
        ("VideoSource/MotionAlarm", {"State": True}, {"unknown": 1}),
        ("RuleEngine/CellMotionDetector/Motion", {"IsMotion": True}, {"unknown": 1}),
        ("RuleEngine/Recognition/Face", None, {"face": 1}),
        (
            "RuleEngine/Recognition/Face",
            {"Likelihood": 0.9, "ImageUri": "u", "EnrollmentID": "7", "BoundingBox": {}},
            {"face": 1, "image": 1, "person": 1, "position": 1},
        ),
        (
            "RuleEngine/Recognition/LicensePlate",
            {"Likelihood": 1, "VehicleInfo": {"Brand": "x"}, "LicensePlateInfo": {"Text": "x"}},
            {"plate": 2, "object": 1},
        ),
        (
            "RuleEngine/Radiometry/BodyTemperatureAlarm",
            {"State": True, "Temperature": 311, "Image": "x"},
            {"body-temperature": 2, "image": 1},
        ),
        ("RuleEngine/ObjectTrack/Aggregation", {"Final": True}, {"position": 1}),
        ("AudioAnalytics/Audio/DetectedSound", {"isSoundDetected": True}, {"sound": 1}),
        ("Device/Sensor/Temperature/High", {"Value": 28, "Threshold": 25}, {"unknown": 2}),
        ("acme:RuleEngine/LineDetector/Crossed", {"ObjectId": 1}, {"object": 1}),
        ("Device/HardwareFailure/acme:StorageFailure", {"Failed": True}, {"unknown": 1}),
        ("RuleEngine/LineDetector/Crossed/Left", {"ObjectId": 1}, {"object": 1}),
        ("VideoSource/ImageTooDark/AnalyticsService/Twice", {"State": True}, {"image": 1}),
        ("/", {}, {"unknown": 1}),
        ("&", {}, {"unknown": 1}),
    ],
)
def test_any_other_event_is_withheld_whole(
    event: str, data: dict[str, Any] | None, withheld: dict[str, int]
) -> None:
    for content in (flat(data), flat(data, {"Rule": "Bob"})):
        found = taken(event, content)
        assert (found.channels, found.time_ns, found.value) == ([], [], [])
        assert found.withheld == withheld
    del content["UtcTime"]  # nor must it be sound
    assert taken(event, content).withheld == withheld


@pytest.mark.parametrize(
    ("extra", "withheld"),
    [
        ({"Key": {"ObjectId": "5"}}, {"object": 1}),
        ({"Key": {"SimpleItem": {"Name": "ObjectId", "Value": "5"}}}, {"object": 1}),
        ({"Key": "text"}, {"unknown": 1}),
        ({"Key": None}, {}),
        ({"Snapshot": "base64"}, {"image": 1}),
        ({"context": {"acme": "urn:x"}}, {"unknown": 1}),
        ({"Data": {"Count": 1, "tt:Object": {"Appearance": {"HumanFace": {}}}}}, {"face": 1}),
        ({"Data": {"Count": 1, "Boxes": [[{"plateText": "x"}]]}}, {"plate": 1}),
        (
            {"Data": {"Count": 1, "ElementItem": [{"Name": "Image", "Value": "x"}, 7]}},
            {"image": 1, "unknown": 1},
        ),
        (
            {"Data": {"SimpleItem": [{"Name": "Count", "Value": 1, "faceId": 2}, {"Name": 3}]}},
            {"face": 1, "unknown": 1},
        ),
        ({"Data": {"Count": 1, "SimpleItem": [{"Name": "Count", "Value": 9}]}}, {"unknown": 1}),
        ({"Source": {"Rule": {"name": "x"}, "VideoSource": 10**30, "owner": "Bob"}},
         {"unknown": 2, "stream": 1}),
    ],
)  # fmt: skip
def test_of_a_listed_event_nothing_else_passes(
    extra: dict[str, Any], withheld: dict[str, int]
) -> None:
    found = taken(COUNTER, flat({"Count": 1}) | extra)
    assert (found.value, found.withheld) == ([1.0], withheld)


@pytest.mark.parametrize(
    ("event", "value"),
    [(LOITERING, [0.0]), (INSIDE, [0.0]), (COUNTER, []), (CROSSED, []), (SIGNAL, [])],
)
def test_a_deleted_property_ends_what_went_on_and_repairs_nothing(
    event: str, value: list[float]
) -> None:
    content = flat(None, PropertyOperation="Deleted")
    found = taken(event, content)
    assert (found.value, found.withheld) == (value, {})
    assert taken(event, content | {"Data": {"State": True, "Count": 7}}).value == value


def test_a_message_of_no_bytes_deletes_and_says_nothing() -> None:
    assert decode(b"", topic(f"{INSIDE}/&1/Bob"), NOW_NS, ACCEPTANCE) == Message([], [], [])


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        (iso(NOW_NS), NOW_NS),
        ("2026-01-01T00:00:00", NOW_NS),
        ("2025-12-31T23:59:59.5", NOW_NS - 500_000_000),
        ("2026-01-01T02:00:00+02:00", NOW_NS),
        (iso(NOW_NS + ACCEPTANCE.max_ahead_ns), NOW_NS + ACCEPTANCE.max_ahead_ns),
        (iso(NOW_NS - ACCEPTANCE.max_age_ns), NOW_NS - ACCEPTANCE.max_age_ns),
    ],
)
def test_event_times(text: str, time_ns: int) -> None:
    assert taken(COUNTER, flat({"Count": 1}) | {"UtcTime": text}).time_ns == [time_ns]


LATER = NOW_NS + ACCEPTANCE.max_ahead_ns + 1_000
EARLIER = NOW_NS - ACCEPTANCE.max_age_ns - 1_000
REJECTS: dict[str, tuple[bytes, str, str]] = {
    "truncated": (b'{"UtcTime"', reject.MALFORMED, "$"),
    "blank": (b" ", reject.MALFORMED, "$"),
    "not UTF-8": (b'{"a": "\xff"}', reject.MALFORMED, "$"),
    "half a surrogate": (b'{"UtcTime":"2026-01-01T00:00:0\\ud800"}', reject.MALFORMED, "$"),
    "an array": (b"[]", reject.SHAPE, "$"),
    "deep": (b'{"a":' * 100_000, reject.TOO_DEEP, "$"),
    "no time": (b"{}", reject.TIME, "$.UtcTime"),
    **{
        name: (json.dumps(flat({"Count": 1}) | {"UtcTime": time}).encode(), reason, "$.UtcTime")
        for name, time, reason in [
            ("time in words", "yesterday", reject.TIME),
            ("time is a number", 1_767_225_600, reject.TIME),
            ("time is an object", {}, reject.TIME),
            ("time is null", None, reject.TIME),
            ("a date", "2026-01-01", reject.TIME),
            ("no such day", "2026-02-30T00:00:00Z", reject.TIME),
            ("year 1", "0001-01-01T00:00:00+23:59", reject.PAST),
            ("a clock never set", "1999-12-31T23:59:59Z", reject.PAST),
            ("too old", iso(EARLIER), reject.PAST),
            ("just ahead", iso(LATER), reject.FUTURE),
            ("year 9999", "9999-12-31T23:59:59-23:59", reject.FUTURE),
        ]
    },
    "no value": (json.dumps(flat({})).encode(), reject.VALUE, "$.Data.Count"),
    "no data": (json.dumps(flat(None)).encode(), reject.VALUE, "$.Data.Count"),
    "data is text": (json.dumps(flat(None, Data="5")).encode(), reject.VALUE, "$.Data.Count"),
    "value in the wrong place": (
        json.dumps(flat(None, SOURCE | {"Count": 1})).encode(), reject.VALUE, "$.Data.Count",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REJECTS)
def test_a_reject_says_what_and_where(name: str) -> None:
    data, reason, place = REJECTS[name]
    assert decode(data, topic(COUNTER), NOW_NS, ACCEPTANCE) == Reject(reason, place)


def test_a_short_memory_refuses_the_day_before() -> None:
    content = flat({"Count": 1}) | {"UtcTime": iso(NOW_NS - 10**9)}
    found = read(COUNTER, content, Acceptance(max_age_ns=10**8))
    assert found == Reject(reject.PAST, "$.UtcTime")


@pytest.mark.parametrize("domain", ["traffic", "environment"])
def test_only_cameras_have_events(domain: str) -> None:
    data = json.dumps(flat({"Count": 1})).encode()
    found = decode(data, topic(COUNTER, domain=domain), NOW_NS, ACCEPTANCE)
    assert found == Reject(reject.DOMAIN, "topic")


@pytest.mark.parametrize(
    ("event", "public"),
    [
        (f"tns1:{COUNTER}/&1/2/Bob", COUNTER),
        (COUNTER, COUNTER),
        ("VideoSource/ImageTooDark/ImagingService/&Bob", "VideoSource/ImageTooDark/ImagingService"),
        ("VideoSource/ImageTooDark/Bob/&Bob", "VideoSource/ImageTooDark"),
        ("RuleEngine/Bob", ""),
        (f"{COUNTER}/Bob", ""),
        ("Bob", ""),
    ],
)
def test_of_an_events_topic_only_what_is_listed_is_repeated(event: str, public: str) -> None:
    assert public_event(event) == public


@pytest.mark.parametrize(
    ("text", "public"),
    [
        (f"{CAMERA}/onvif-ej/{COUNTER}/&1/Bob", f"{CAMERA}/onvif-ej/{COUNTER}"),
        ("city/live/cameras/z/c1/onvif-ej/Bob", "city/live/cameras/z/c1"),
        ("city/live/traffic/z/s1", "city/live/traffic/z/s1"),
        ("city/live/parking/z", "city/live/parking/z"),
        ("city/live/cameras/z/c1/face/Bob", "city/live/cameras/z/c1/..."),
        ("city/live/cameras/Bob's garden/c1", "city/live/cameras/?/c1"),
        ("", "?"),
    ],
)  # fmt: skip
def test_of_a_topic_only_names_on_the_wire_are_repeated(text: str, public: str) -> None:
    assert public_topic(text) == public


NAMES = st.sampled_from(
    ["UtcTime", "Source", "Key", "Data", "PropertyOperation", "SimpleItem", "ElementItem", "Name",
     "Value", "Rule", "VideoSource", "Count", "State", "IsInside", "ObjectId", "faceId"]
)  # fmt: skip
EVENT_TOPICS = st.sampled_from([event for event, *_ in EVENTS]) | st.text(min_size=1, max_size=40)
TREES = st.recursive(
    st.sampled_from([1, "1", "true", True, None, iso(NOW_NS), "Deleted", math.nan, "\ud800"])
    | st.text(max_size=5)
    | st.integers(-(10**30), 10**30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=5), inner),
    max_leaves=20,
)


def check_total(data: bytes, event: str) -> None:
    found = decode(data, topic(event), NOW_NS, ACCEPTANCE)
    if isinstance(found, Reject):
        assert found.reason in REASONS
        assert found.place in {"$", "$.UtcTime"} or found.place.startswith("$.Data.")
        return
    assert len(found.channels) == len(found.time_ns) == len(found.value) <= 1
    for channel, time_ns, value in zip(found.channels, found.time_ns, found.value, strict=True):
        assert QUANTITIES[channel.quantity].domain == "cameras"
        assert channel == Channel(channel.sensor, channel.quantity)
        assert channel.sensor == "c1" or channel.sensor.startswith("c1:")
        assert is_level(channel.sensor)
        assert type(value) is float
        assert time_ns % 1_000 == 0
        assert -ACCEPTANCE.max_ahead_ns <= NOW_NS - time_ns <= ACCEPTANCE.max_age_ns
    assert found.withheld.keys() <= set(KINDS)
    assert all(count > 0 for count in found.withheld.values())


@given(st.binary(max_size=200), EVENT_TOPICS)
def test_any_bytes_give_a_value(data: bytes, event: str) -> None:
    check_total(data, event)


@given(JSON, EVENT_TOPICS)
@settings(deadline=None)
def test_any_json_gives_a_value(content: Any, event: str) -> None:
    check_total(json.dumps(content).encode(), event)


@given(
    st.fixed_dictionaries(
        {"UtcTime": st.just(iso(NOW_NS)) | TREES},
        optional=dict.fromkeys(["Source", "Key", "Data", "PropertyOperation"], TREES),
    ),
    EVENT_TOPICS,
)
@settings(deadline=None, max_examples=300)
@example({"UtcTime": iso(NOW_NS), "Source": {"Rule": "\ud800"}, "Data": {"Count": 1}}, COUNTER)
def test_any_event_gives_a_value(content: Any, event: str) -> None:
    check_total(json.dumps(content).encode(), event)

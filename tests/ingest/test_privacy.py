"""What cameras see stays with them: names, dead letters, and all that leaves the bridge."""

import json
import logging
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingest import reject
from ingest.arrival import Arrival
from ingest.assembly import Assembler, AssemblyConfig
from ingest.ngsi import ENTITIES
from ingest.privacy import (
    ALIASES,
    HARMLESS_TYPES,
    KINDS,
    UNKNOWN,
    kind_of,
    kind_within,
    may_be_kept,
)
from ingest.quantities import QUANTITIES
from ingest.records import DeadLetter, KafkaRecord, Provenance
from ingest.topics import dead_letters_topic
from tests.ingest.strategies import JSON, NOW_NS, SCALARS, entities, entity, iso

# --- kinds --------------------------------------------------------------------------------------


NAMES = {
    "face": "faceId face_id FaceID faceid faceImage tt:HumanFace face-box FaceMask faces",
    "plate": "licensePlate numberPlate plate_text LicensePlateInfo licenseplate PlateNumber"
    " anprResult plateImage acme:LPR",
    "body-temperature": "BodyTemperature TemperatureIsTooHigh body_temp skinTemperature"
    " bodytemperature Radiometry/TemperatureAlarm",
    "person": "personId Gender age HumanBody EnrollmentID clothingColor",
    "image": "Image snapshot snapshotUri thumbnail picture imageUrl SceneImage photo_jpg"
    " snapshoturi imageBase64",
    "stream": "rtspUri streamUri videoUrl VideoClip rtsp streamuri",
    "sound": "audioLevel DetectedSound voice",
    "position": "BoundingBox geoLocation latitude CenterOfGravity boundingbox ObjectTrack",
    "object": "ObjectId ClassTypes Object vehicleType objectid",
    "unknown": "note template surface interface temperature Threshold IsMotion Since laneId"
    " imagination platelet 42 _ TemperatureCritical sensorTemperatureHigh",
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_kind_is_told_by_the_words_of_a_name(kind: str) -> None:
    names = NAMES[kind].split()
    assert {name: kind_of(name) for name in names} == dict.fromkeys(names, kind)


def test_the_kinds_are_these() -> None:
    assert tuple(NAMES) == KINDS


@given(st.text(max_size=300))
@example("\ud800")
@example("x" * 10**6 + "faceId")
def test_any_name_has_a_kind(name: str) -> None:
    assert kind_of(name) in KINDS


def test_an_attribute_is_as_telling_as_the_most_telling_thing_in_it() -> None:
    assert kind_within("note", {"a": [{"b": 1}, [{"plateText": 1}], {"Image": 2}]}) == "plate"
    assert kind_within("Object", {"Appearance": {"HumanFace": None}}) == "face"
    assert kind_within("snapshot", "faceId") == "image"
    assert kind_within("note", []) == UNKNOWN


# --- dead letters -------------------------------------------------------------------------------

FLOW = entity("TrafficFlowObserved", "s1", intensity=3)
POINT = {"type": "Point", "coordinates": [13.4, 52.5]}
PACK = [
    {"bn": "s1/", "bt": 1.767e9, "bu": "1", "bver": 10, "n": "intensity", "v": 3},
    {"n": "occupancy", "u": "%", "t": -3, "v": 0.5},
    {"n": "intensity", "vb": True},
]
KEPT: dict[str, Any] = {
    "entity": FLOW,
    "out of range": FLOW | {"intensity": -7},
    "null": FLOW | {"intensity": None},
    "a truth": FLOW | {"intensity": True},
    "quoted number": FLOW | {"intensity": "1,234.5"},
    "id without prefix": FLOW | {"id": "s1"},
    "other sensor": FLOW | {"id": "urn:ngsi-ld:TrafficFlowObserved:s2"},
    "no id": {key: FLOW[key] for key in ("type", "intensity")},
    "another zone's time": FLOW | {"dateObserved": "2026-01-01 02:00:00.5+02:00"},
    "a period": FLOW | {"dateObservedFrom": iso(NOW_NS), "dateObservedTo": iso(NOW_NS)},
    "an interval": FLOW | {"dateObserved": f"{iso(NOW_NS)}/{iso(NOW_NS)}"},
    "time is a number": FLOW | {"dateObserved": 1_767_225_600},
    "place": FLOW | {"location": POINT},
    "one coordinate": FLOW | {"location": {"type": "Point", "coordinates": [1]}},
    "no place": FLOW | {"location": None},
    "NGSI-LD": FLOW
    | {
        "intensity": {
            "type": "Property", "value": 3, "unitCode": "E51", "observedAt": iso(NOW_NS),
        },
        "dateObserved": {
            "type": "Property", "value": {"@type": "DateTime", "@value": iso(NOW_NS)},
        },
        "location": {"type": "GeoProperty", "value": POINT},
    },
    "NGSI-v2": FLOW
    | {
        "intensity": {
            "type": "Number",
            "value": 3,
            "metadata": {
                "unitCode": {"type": "Text", "value": "E51"},
                "observedAt": {"type": "DateTime", "value": iso(NOW_NS)},
            },
        },
        "location": {"type": "geo:json", "value": POINT, "metadata": {}},
    },
    "air": entity("AirQualityObserved", "s1", pm25=8, no2=20, NO2=21),
    "noise": entity("NoiseLevelObserved", "s1", LAeq=None),
    "SenML": PACK,
    "SenML of another sensor": [{"n": "urn:dev:mac:0024befffe804ff1/LAeq", "v": 61}],
    "SenML without a number": [{"n": "s1:LAeq", "v": None}],
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_what_other_sensors_say_is_kept(name: str) -> None:
    assert may_be_kept(json.dumps(KEPT[name]).encode())


SECRET = "Bob, 12 Elm St."
DROPPED: dict[str, Any] = {
    "camera": entity("CrowdFlowObserved", "s1", peopleCount=3),
    "unknown type": FLOW | {"type": "ParkingMeterObserved"},
    "type is a list": FLOW | {"type": ["TrafficFlowObserved"]},
    "type is normalised": FLOW | {"type": {"type": "Property", "value": "TrafficFlowObserved"}},
    "no type": {"intensity": 3},
    "unlisted": FLOW | {"laneId": 3},
    "context": FLOW | {"@context": ["https://example.org/bob.jsonld"]},
    "another type's quantity": FLOW | {"LAeq": 50},
    "a camera's quantity": FLOW | {"peopleCount": 3},
    "a former name elsewhere": FLOW | {"NO2": 3},
    "text for a number": FLOW | {"intensity": SECRET},
    "a list for a number": FLOW | {"intensity": [1, 2, 3]},
    "digits in plenty": FLOW | {"intensity": "1" * 41},
    "text for a time": FLOW | {"dateObserved": SECRET},
    "text of a time's signs": FLOW | {"dateObserved": "1" * 81},
    "text for a place": FLOW | {"location": SECRET},
    "an address": FLOW | {"location": POINT | {"address": SECRET}},
    "a kind of place": FLOW | {"location": POINT | {"type": SECRET}},
    "text for a coordinate": FLOW | {"location": {"type": "Point", "coordinates": [SECRET, 1]}},
    "a line": FLOW | {"location": {"type": "Point", "coordinates": [[1, 2], [3, 4]]}},
    "many coordinates": FLOW | {"location": {"type": "Point", "coordinates": [1] * 4}},
    "text for an id": FLOW | {"id": SECRET},
    "a long id": FLOW | {"id": "x" * 151},
    "id is a number": FLOW | {"id": 7},
    "id ends with a newline": FLOW | {"id": "s1\n"},
    "digits of another script": FLOW | {"intensity": "٣"},
    **{
        f"normalised {name}": FLOW | {"intensity": {"type": "Property", "value": 3} | more}
        for name, more in {
            "value": {"value": SECRET},
            "type": {"type": SECRET},
            "type list": {"type": ["Text"]},
            "unit": {"unitCode": "one two"},
            "long unit": {"unitCode": "x" * 13},
            "time": {"observedAt": SECRET},
            "more": {"note": 1},
            "metadata": {"metadata": SECRET},
            "metadata name": {"metadata": {"note": {"type": "Text", "value": 1}}},
            "metadata type": {"metadata": {"unitCode": {"type": [1], "value": "E51"}}},
            "metadata value": {"metadata": {"unitCode": {"type": "Text", "value": SECRET}}},
            "metadata more": {"metadata": {"unitCode": {"value": "E51", "note": 1}}},
            "metadata scalar": {"metadata": {"unitCode": "E51"}},
        }.items()
    },
    "no value": FLOW | {"intensity": {"type": "Property"}},
    "twice normalised": FLOW | {"intensity": {"value": {"value": 3}}},
    "date parts": FLOW | {"dateObserved": {"@type": "DateTime", "@value": SECRET}},
    "date type": FLOW | {"dateObserved": {"@type": SECRET, "@value": iso(NOW_NS)}},
    "date more": FLOW | {"dateObserved": {"@type": "Date", "@value": "", "note": 1}},
    "SenML text": [{"n": "s1/intensity", "vs": SECRET}],
    "SenML data": [{"n": "s1/intensity", "vd": "aGk"}],
    "SenML unlisted": [{"n": "s1/intensity", "v": 1, "note": 1}],
    "SenML camera": [{"n": "s1/intensity", "v": 1}, {"n": "c1/peopleCount", "v": 1}],
    "SenML unknown quantity": [{"n": "s1/faces", "v": 1}],
    "SenML no quantity": [{"bn": "s1/"}],
    "SenML empty": [],
    "SenML empty record": [{}],
    "SenML name": [{"n": f"{SECRET}/intensity", "v": 1}],
    "SenML long name": [{"n": "x" * 141 + "/intensity", "v": 1}],
    "SenML base name is a number": [{"bn": 1, "n": "intensity", "v": 1}],
    "SenML unit": [{"n": "s1/intensity", "u": "one two", "v": 1}],
    "SenML value": [{"n": "s1/intensity", "v": "1"}],
    "SenML truth": [{"n": "s1/intensity", "vb": 1}],
    "SenML time": [{"n": "s1/intensity", "t": iso(NOW_NS), "v": 1}],
    "list of entities": [FLOW],
    "list of text": [SECRET],
    "text": SECRET,
    "a number": 7,
    "nothing": None,
    "an event": {"UtcTime": iso(NOW_NS), "Source": {}, "Data": {"Count": 1}},
}
SOUND = json.dumps(FLOW).encode()
UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "truncated": SOUND[:-1],
    "more behind": SOUND + b"x",
    "byte order mark": b"\xef\xbb\xbf" + SOUND,
    "not UTF-8": SOUND.replace(b"s1", b"\xff"),
    # A reader sees the last of them only; the letter would hold both.
    "a key twice": SOUND.replace(b'"intensity"', b'"intensity": "Bob, 12 Elm St.", "intensity"'),
    "a key twice inside": SOUND.replace(b": 3", b': {"value": "Bob", "value": 3}'),
    # Read it is a plain number; written it is a picture.
    "a number of many digits": SOUND.replace(b": 3", b": 0." + b"9" * 500),
    "an integer of many digits": SOUND.replace(b": 3", b": " + b"9" * 500),
    "deep": b'{"type": "TrafficFlowObserved", "intensity": ' + b"[" * 200_000,
    "deep and closed": b"[" * 50_000 + b"]" * 50_000,
    "lone surrogate": SOUND.replace(b"s1", b"\\ud800"),
}  # fmt: skip


@pytest.mark.parametrize("name", DROPPED)
def test_what_could_say_more_is_not_kept(name: str) -> None:
    assert not may_be_kept(json.dumps(DROPPED[name]).encode())


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_cannot_be_vouched_for(name: str) -> None:
    assert not may_be_kept(UNREADABLE[name])


def test_the_types_that_are_kept_are_those_that_are_read_and_see_nobody() -> None:
    assert {
        kind: known.domain for kind, known in ENTITIES.items() if known.domain != "cameras"
    } == HARMLESS_TYPES
    assert {alias for known in ENTITIES.values() for alias in known.aliases} == set(ALIASES)


@given(st.binary(max_size=200))
def test_any_bytes_are_kept_or_not(data: bytes) -> None:
    assert may_be_kept(data) in (True, False)


@given(entities(), st.dictionaries(st.sampled_from(["intensity", "id", "location", "n"]), JSON))
@settings(deadline=None)
def test_any_entity_is_kept_or_not(sound: dict[str, Any], more: dict[str, Any]) -> None:
    kept = may_be_kept(json.dumps(sound | more).encode())
    assert kept in (True, False)
    assert not (kept and sound["type"] == "CrowdFlowObserved")


@given(st.sampled_from(sorted(KEPT)), st.data())
@settings(deadline=None)
def test_a_sentence_anywhere_in_what_is_kept_drops_it(name: str, data: st.DataObject) -> None:
    content = json.loads(json.dumps(KEPT[name]))
    plant(content, SECRET, data.draw)
    assert not may_be_kept(json.dumps(content).encode())


# --- all that leaves the bridge -----------------------------------------------------------------

# No base64, number, id or unit that was made by anybody else.
MARKERS = ("zqMARKERzq", "zqMARKERzq-Zoë & co, 12 Elm St.", "rtsp://zqMARKERzq:pw@10.0.0.1/1")
MARK = "zqMARKERzq"
NUMERIC_MARKER = 73_316_928_417
DOMAINS = ("cameras", "traffic", "environment")
CAMERA = "city/live/cameras/centre/c1"


def plant(content: Any, secret: Any, draw: Any) -> None:
    """Put a secret somewhere into a JSON value: as a value, a key, or a further element."""
    here = content
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        key = draw(st.sampled_from(keys)) if keys else None
        inner = here[key] if keys else None
        if isinstance(inner, dict | list) and draw(st.integers(0, 3)):
            here = inner
            continue
        break
    how = draw(st.sampled_from(["value", "key", "add"]))
    if isinstance(here, list):
        if how == "value" and keys:
            here[key] = secret
        else:
            here.append(secret)
    elif how == "value" and keys:
        here[key] = secret
    elif how == "key" and keys:
        here[str(secret)] = here.pop(key)
    else:
        here[str(draw(st.sampled_from(["faceId", "note", "Image", secret])))] = secret


EVENT_NAMES = (
    "RuleEngine/LineDetector/Crossed",
    "RuleEngine/CountAggregation/Counter",
    "RuleEngine/CountAggregation/OccupancyCounter",
    "RuleEngine/LoiteringDetector/ObjectIsLoitering",
    "RuleEngine/FieldDetector/ObjectsInside",
    "VideoSource/SignalLoss",
    "VideoSource/ImageTooDark/AnalyticsService",
    "VideoSource/MotionAlarm",
    "RuleEngine/Recognition/Face",
    "RuleEngine/Recognition/LicensePlate",
)


@st.composite
def sightings(draw: st.DrawFn) -> tuple[str, Any]:
    """Draw what a camera publishes, before any secret: the end of its topic, and the content."""
    shape = draw(st.sampled_from(["key-values", "normalised", "event", "event lists", "senml"]))
    names = st.sampled_from(ENTITIES["CrowdFlowObserved"].quantities)
    values = draw(st.dictionaries(names, st.integers(0, 9), min_size=1))
    if shape == "senml":
        base = {"bn": "c1/", "bt": NOW_NS / 1e9, "bu": "1"}
        return "", [base, *({"n": name, "v": value} for name, value in values.items())]
    if shape.startswith("event"):
        data = {"Count": 3, "State": True, "IsInside": True, "ObjectId": "7"}
        typed = st.sampled_from(["fence", *MARKERS])  # a rule may be called anything
        content = {
            "UtcTime": iso(NOW_NS),
            "Source": {"VideoSource": draw(typed), "Rule": draw(typed)},
            "Data": data,
        } | draw(
            st.sampled_from([{}, {"Key": {"ObjectId": "7"}}, {"PropertyOperation": "Changed"}])
        )
        if shape == "event lists":
            for part in content.keys() & {"Source", "Key", "Data"}:
                items = content[part].items()
                content[part] = {"SimpleItem": [{"Name": n, "Value": v} for n, v in items]}
        sources = draw(st.sampled_from(["", "/&1/fence", *(f"/&1/{m}" for m in MARKERS)]))
        event = draw(st.sampled_from([*EVENT_NAMES, f"RuleEngine/{MARK}/Crossed"]))
        return f"/onvif-ej/{draw(st.sampled_from(['', 'tns1:']))}{event}{sources}", content
    content = entity("CrowdFlowObserved", "c1", **values)
    content["location"] = POINT | {}
    if shape == "normalised":
        when, place = content["dateObserved"], content["location"]
        content |= {
            name: {"type": "Property", "value": value, "unitCode": "C62", "observedAt": when}
            for name, value in values.items()
        }
        content["dateObserved"] = {
            "type": "Property",
            "value": {"@type": "DateTime", "@value": when},
        }
        content["location"] = {"type": "GeoProperty", "value": place}
    return "", json.loads(json.dumps(content))


@st.composite
def secrets(draw: st.DrawFn) -> Arrival:
    """Draw a camera's message with secrets in it, mostly on its own topic."""
    end, content = draw(sightings())
    for _ in range(draw(st.integers(1, 3))):
        plant(content, draw(st.sampled_from(MARKERS)), draw)
    data = json.dumps(content, ensure_ascii=draw(st.booleans())).encode()
    if not draw(st.integers(0, 9)):
        data = data[: draw(st.integers(0, len(data)))]
    domain = draw(st.sampled_from(["cameras", *DOMAINS]))
    return Arrival(f"city/live/{domain}/centre/c1{end}", data, NOW_NS)


def assembler() -> Assembler:
    return Assembler(AssemblyConfig("live", "b1", partitions=2, max_payload_bytes=100_000))


def texts(record: KafkaRecord) -> list[str]:
    """Return all that a record of Kafka holds, as text."""
    found = [record.value.decode(errors="replace")]
    for name, value in record.headers:
        found += [name, value.decode(errors="replace")]
        if value[:1] in (b"[", b"{"):  # JSON may spell its letters differently
            found.append(repr(json.loads(value)))
    if record.value and record.topic != dead_letters_topic("live"):
        with pa.ipc.open_stream(record.value) as reader:
            table = reader.read_all()
        found += [str(table.schema), repr(table.to_pydict())]
        found += [repr(chunk.dictionary.to_pylist()) for chunk in table["series"].chunks]
    elif record.value:
        found.append(repr(json.loads(record.value)))
    return found


def leaks(records: list[KafkaRecord], mark: str) -> list[str]:
    return [text for record in records for text in texts(record) if mark in text]


@given(st.lists(secrets(), min_size=1, max_size=4))
@settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_secret_leaves_the_bridge(
    caplog: pytest.LogCaptureFixture, arrivals: list[Arrival]
) -> None:
    made = assembler()
    with caplog.at_level(logging.DEBUG):
        faults = [made.add(arrival) for arrival in arrivals]
        records = made.take()
    assert leaks(records, MARK) == []
    assert MARK not in caplog.text
    assert MARK not in repr(faults)
    tallies = [
        tally
        for record in records
        for tally in Provenance.read(dict(record.headers), "live").tallies
    ]
    assert sum(tally.messages for tally in tallies) == len(arrivals)
    for tally in tallies:
        assert sum(tally.kinds.values()) == tally.withheld
        assert tally.kinds.keys() <= set(KINDS)
    for record in records:
        if record.topic == dead_letters_topic("live"):
            assert DeadLetter.read(dict(record.headers), record.value).payload is None


KIND_NAMES = st.sampled_from(
    ["faceId", "licensePlate", "Image", "rtspUri", "BodyTemperature", "note", "ObjectColor"]
)


@given(
    st.dictionaries(KIND_NAMES, SCALARS.filter(lambda value: value is not None), min_size=1),
    st.sampled_from(["key-values", "event", "event lists", "senml"]),
)
@settings(deadline=None, max_examples=150)
def test_what_is_withheld_is_counted_by_kind(extra: dict[str, Any], shape: str) -> None:
    end, content = "", entity("CrowdFlowObserved", "c1", peopleCount=3) | extra
    if shape.startswith("event"):
        end = f"/onvif-ej/{EVENT_NAMES[1]}"
        data = {"Count": 3, **extra}
        if shape == "event lists":
            data = {"SimpleItem": [{"Name": n, "Value": v} for n, v in data.items()]}
        content = {"UtcTime": iso(NOW_NS), "Data": data}
    elif shape == "senml":
        content = [{"n": "c1/peopleCount", "v": 3, "t": NOW_NS / 1e9} | extra]
    made = assembler()
    assert made.add(Arrival(CAMERA + end, json.dumps(content).encode(), NOW_NS)) is None
    (record,) = made.take()
    (tally,) = Provenance.read(dict(record.headers), "live").tallies
    assert tally.kinds == dict(Counter(map(kind_of, extra)))
    assert (tally.withheld, tally.readings) == (len(extra), 1)
    assert made.withheld == len(extra)


@given(secrets(), st.sampled_from(["faceId", "note", "Image", "vd", "EnrollmentID"]))
@settings(deadline=None)
def test_no_number_that_is_not_a_reading_leaves_the_bridge(arrival: Arrival, name: str) -> None:
    try:
        content = json.loads(arrival.payload)
    except ValueError:
        content = None
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict):
            part[name] = NUMERIC_MARKER
    made = assembler()
    made.add(arrival._replace(payload=json.dumps(content).encode()))
    assert leaks(made.take(), str(NUMERIC_MARKER)) == []


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("time", ["yesterday", iso(NOW_NS)])
def test_a_rule_named_in_a_topic_is_in_no_dead_letter(domain: str, time: str) -> None:
    topic = f"city/live/{domain}/centre/c1/onvif-ej/RuleEngine/CountAggregation/Counter/&1/{MARK}"
    content = {"UtcTime": time, "Source": {"Rule": MARK}, "Data": {"Count": MARK}}
    made = assembler()
    fault = made.add(Arrival(topic, json.dumps(content).encode(), NOW_NS))
    assert fault is not None
    assert fault.reason in {reject.TIME, reject.VALUE, reject.DOMAIN}
    assert leaks(made.take(), MARK) == []


def test_a_topic_that_is_no_sensors_is_not_repeated_whole() -> None:
    made = assembler()
    assert made.add(Arrival(f"{CAMERA}/face/{MARK}", b"{}", NOW_NS)) is not None
    assert leaks(made.take(), MARK) == []


@pytest.mark.parametrize("name", [f"c1:{MARK}/peopleCount", f"c1.{MARK}:peopleCount"])
def test_what_a_part_of_a_camera_is_called_does_not_leave_the_bridge(name: str) -> None:
    made = assembler()
    made.add(Arrival(CAMERA, json.dumps([{"n": name, "v": 3}]).encode(), NOW_NS))
    assert leaks(made.take(), MARK) == []


@pytest.mark.parametrize("unit", ["B-AB 1234", "Zoë", "+49 30 12345"])
def test_a_record_is_kept_only_if_its_unit_looks_like_one(unit: str) -> None:
    records = [{"n": "s1/intensity", "v": 1}, {"n": "s1/occupancy", "u": unit, "v": 1}]
    made = assembler()
    made.add(Arrival("city/live/traffic/z/s1", json.dumps(records).encode(), NOW_NS))
    letters = [record for record in made.take() if record.topic == dead_letters_topic("live")]
    assert [record.value for record in letters] == [b""]


def test_a_leak_would_be_found() -> None:
    content = entity("TrafficFlowObserved", MARK, intensity=3)
    for sensor in (MARK, "s2"):  # as a series, and in a dead letter
        made = assembler()
        made.add(Arrival(f"city/live/traffic/z/{sensor}", json.dumps(content).encode(), NOW_NS))
        assert leaks(made.take(), MARK)


def test_every_quantity_of_a_camera_is_private() -> None:
    for name, quantity in QUANTITIES.items():
        pack = json.dumps([{"n": f"s1/{name}", "v": 1}]).encode()
        assert may_be_kept(pack) == (quantity.domain != "cameras")

import json
import re
from collections import Counter

import numpy as np
import pytest

from ingest.decode import decode
from ingest.message import Message as Taken
from ingest.quantities import QUANTITIES
from ingest.reject import Reject
from ingest.topics import parse_topic
from simulators.city import City
from simulators.payloads import BREAKAGES, Composer, Message, Mischief, entity_type, iso_times
from tests.simulators.entities import plain

NOW_NS = 1_772_400_000_123_456_000
ATTRIBUTES = {
    "TrafficFlowObserved": {
        "intensity",
        "occupancy",
        "averageVehicleSpeed",
        "averageHeadwayTime",
    },
    "AirQualityObserved": {"pm25", "pm10", "no2", "o3", "temperature", "relativeHumidity"},
    "NoiseLevelObserved": {"LAeq"},
    "CrowdFlowObserved": {
        "peopleCount",
        "peopleCountTowards",
        "peopleCountAway",
        "averageCrowdSpeed",
    },
}


def compose(
    city: City, mischief: Mischief | None = None, rounds: int = 1, seed: int = 1
) -> list[Message]:
    composer = Composer(city.sensors, "replay-x", seed, mischief)
    who, times = np.arange(len(city)), np.full(len(city), NOW_NS)
    messages = []
    for _ in range(rounds):
        messages += composer.messages(who, times, city.observe(who, times))
    return messages


def test_entities_carry_the_exact_attribute_names_and_nothing_else() -> None:
    city, twin = City(100), City(100)
    who, times = np.arange(100), np.full(100, NOW_NS)
    values = twin.observe(who, times)
    for sensor, row, message in zip(city.sensors, values, compose(city), strict=True):
        entity = plain(message.payload)
        described = {
            "id": f"urn:ngsi-ld:{sensor.entity}:{sensor.name}",
            "type": sensor.entity,
            "dateObserved": "2026-03-01T21:20:00.123456Z",
            "location": {"type": "Point", "coordinates": [sensor.longitude, sensor.latitude]},
        }
        quantities = ATTRIBUTES[sensor.entity]
        assert entity == described | {
            name: row[sensor.quantities.index(name)] for name in quantities
        }
        assert message.readings == len(quantities)
        assert message.topic == f"city/replay-x/{sensor.domain}/{sensor.zone}/{sensor.name}"


def test_numbers_are_written_as_instruments_print_them() -> None:
    for message in compose(City(200)):
        entity = plain(message.payload, parse_float=str, parse_int=str)
        assert "." not in entity.get("intensity", entity.get("peopleCount", ""))
        for name in ("LAeq", "pm25", "averageVehicleSpeed"):
            assert re.fullmatch(r"\d+\.\d", entity.get(name, "0.0"))


def test_both_forms_of_an_entity_are_sent() -> None:
    forms = Counter(b'"Property"' in message.payload for message in compose(City(200)))
    assert min(forms[True], forms[False]) > 20


def test_ingest_accepts_every_sound_message_with_all_its_readings() -> None:
    for message in compose(City(200), Mischief(privacy_probe=True)):
        decoded = decode(message.payload, parse_topic(message.topic), NOW_NS)
        assert isinstance(decoded, Taken)
        assert len(decoded.value) == message.readings
        assert set(decoded.time_ns) == {NOW_NS}
        assert sum(decoded.withheld.values()) == message.withheld


def test_every_way_of_breaking_is_used_and_ingest_rejects_them_all() -> None:
    messages = compose(City(200), Mischief(bad_share=1.0, privacy_probe=True), rounds=3)
    reasons = Counter()
    for message in messages:
        assert message.bad
        assert (message.readings, message.withheld) == (0, 0)
        assert b"SIM" not in message.payload
        rejected = decode(message.payload, parse_topic(message.topic), NOW_NS)
        assert isinstance(rejected, Reject), message.payload
        reasons[rejected] += 1
    # A missing and a wrong time are rejected for the same reason.
    assert len({rejected.reason for rejected in reasons}) == len(BREAKAGES) - 1


def test_a_share_of_messages_is_broken() -> None:
    bad = sum(message.bad for message in compose(City(500), Mischief(bad_share=0.1), rounds=10))
    assert 400 < bad < 600


def test_repeats_are_exact_and_only_of_sound_messages() -> None:
    messages = compose(City(500), Mischief(bad_share=0.2, duplicate_share=0.1), rounds=4)
    repeats = [message for message in messages if message.repeat]
    originals = {(one.topic, one.payload): one for one in messages if not one.repeat}
    assert 100 < len(repeats) < 240
    for repeat in repeats:
        original = originals[repeat.topic, repeat.payload]
        assert not original.bad
        assert original == repeat._replace(repeat=False)


def test_every_tenth_camera_sends_a_forbidden_field_when_probing() -> None:
    city = City(400)
    cameras = sum(sensor.domain == "cameras" for sensor in city.sensors)
    assert not any(b"SIM" in message.payload for message in compose(city))
    probes = [m for m in compose(city, Mischief(privacy_probe=True)) if m.withheld]
    assert len(probes) == -(-cameras // 10)
    assert {name for probe in probes for name in json.loads(probe.payload)} >= {
        "faceId",
        "licensePlate",
    }
    assert all("/cameras/" in probe.topic for probe in probes)


def test_same_seed_breaks_and_repeats_the_same_messages() -> None:
    mischief = Mischief(bad_share=0.2, duplicate_share=0.2)
    assert compose(City(100), mischief) == compose(City(100), mischief)
    assert compose(City(100), mischief) != compose(City(100), mischief, seed=2)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_impossible_shares_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="bad_share must be 0 to 1"):
        Mischief(bad_share=share)


def test_every_quantity_has_an_entity_type_of_its_domain() -> None:
    assert entity_type("LAeq") == "NoiseLevelObserved"
    assert entity_type("averageTravelTime") == "TrafficFlowObserved"
    assert {entity_type(name) for name in QUANTITIES} == set(ATTRIBUTES)


def test_times_keep_their_microseconds_even_where_they_are_zero() -> None:
    times = np.array([NOW_NS, 1_772_400_000 * 10**9])
    expected = ["2026-03-01T21:20:00.123456Z", "2026-03-01T21:20:00.000000Z"]
    assert iso_times(times) == expected
    assert iso_times(times[1:]) == expected[1:]
    assert iso_times(times[:0]) == []

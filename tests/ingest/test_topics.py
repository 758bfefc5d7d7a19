"""Names on the wire: what parses comes back, what a filter could misread does not parse."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.topics import (
    MqttTopic,
    SeriesKey,
    database_schema,
    dead_letters_topic,
    is_level,
    is_namespace,
    mqtt_filter,
    parse_topic,
    partition_of,
    readings_topic,
)
from tests.ingest.strategies import LEVELS, NAMESPACES


@given(st.builds(MqttTopic, NAMESPACES, LEVELS, LEVELS, LEVELS))
def test_a_topic_comes_back_as_it_was(topic: MqttTopic) -> None:
    assert parse_topic(str(topic)) == topic


@given(st.one_of(st.text(max_size=60), st.from_regex(r"city(/[a-z#+ ./\n-]*){3,6}")))
@settings(deadline=None)
def test_any_text_gives_a_topic_of_five_sound_levels_or_none(text: str) -> None:
    topic = parse_topic(text)
    if topic is not None:
        assert str(topic) == text
        assert is_namespace(topic.namespace)
        assert all(is_level(level) for level in topic[1:])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "city",
        "city/live/traffic/centre",
        "city/live/traffic/centre/s1/more",
        "town/live/traffic/centre/s1",
        "city/Live/traffic/centre/s1",
        "city/replay-/traffic/centre/s1",
        "city/replay-A/traffic/centre/s1",
        "city/live//centre/s1",
        "city/live/traffic/centre/",
        "/city/live/traffic/centre",
        "city/live/traffic/+/s1",
        "city/live/traffic/#/s1",
        "city/live/traffic/centre/.s1",
        "city/live/traffic/centre/s 1",
        "city/live/traffic/centre/s1\n",
        "city/live/traffic/centre/\u00e9",
        "city/live/traffic/centre/" + "s" * 101,
        "$share/g/city/live/traffic",
    ],
)
def test_what_is_no_sensors_topic(text: str) -> None:
    assert parse_topic(text) is None


@given(NAMESPACES)
def test_names_of_a_namespace(namespace: str) -> None:
    assert mqtt_filter(namespace) == f"city/{namespace}/#"
    assert readings_topic(namespace) == f"{namespace}.readings"
    assert dead_letters_topic(namespace) == f"{namespace}.dead-letters"
    # A plain SQL identifier, within PostgreSQL's 63 bytes.
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,62}", database_schema(namespace))


@given(NAMESPACES, NAMESPACES)
def test_two_namespaces_never_share_a_name(one: str, other: str) -> None:
    for name in (mqtt_filter, readings_topic, dead_letters_topic, database_schema):
        assert (name(one) == name(other)) == (one == other)


@pytest.mark.parametrize("text", ["", "LIVE", "live ", "replay", "replay--a", "replay-" + "a" * 41])
def test_what_is_no_namespace(text: str) -> None:
    assert not is_namespace(text)


@given(st.builds(SeriesKey, LEVELS, LEVELS, LEVELS, st.sampled_from(["intensity", "LAeq"])))
def test_a_series_key_comes_back_as_it_was(key: SeriesKey) -> None:
    assert SeriesKey.parse(str(key)) == key


@pytest.mark.parametrize("text", ["", "a/b/c", "a/b/c/d/e", "a//c/d", "/b/c/d", "a/b/c/"])
def test_what_is_no_series_key(text: str) -> None:
    with pytest.raises(ValueError, match="not a series key"):
        SeriesKey.parse(text)


def test_a_sensors_partition_is_the_same_in_every_process_and_release() -> None:
    # Readings already on Kafka would otherwise be out of order with those to come.
    # CRC-32's published check value.
    assert [partition_of("123456789", count) for count in (1 << 32, 12)] == [0xCBF43926, 2]


@given(LEVELS, st.integers(1, 1024))
def test_a_partition_exists(sensor: str, partitions: int) -> None:
    assert 0 <= partition_of(sensor, partitions) < partitions

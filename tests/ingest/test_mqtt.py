"""The subscriber against a real broker: what is acknowledged, and on which connection."""

import logging
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import paho.mqtt.client as paho
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt import _packet
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from citywatch.embedded import Addresses
from ingest import mqtt
from ingest.assembly import Arrival
from ingest.mqtt import Receipt, Subscriber, SubscriberError, without_properties
from tests.ingest.scaffold import Publisher, Watched, mqtt_config, needs_mosquitto, publish, until

integration = pytest.mark.integration
MARK = b"mark"
Taken = list[tuple[Arrival, Receipt]]


# --- Properties -----------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=50)


@st.composite
def packets(draw: st.DrawFn) -> tuple[int, bytes]:
    properties = Properties(PacketTypes.PUBLISH)
    if pairs := draw(st.lists(st.tuples(TEXT, TEXT), max_size=8)):
        properties.UserProperty = pairs
    if draw(st.booleans()):
        properties.ContentType = draw(TEXT)
        properties.CorrelationData = draw(st.binary(max_size=200))
        properties.MessageExpiryInterval = draw(st.integers(0, 2**32 - 1))
    topic = draw(TEXT).encode()
    qos = draw(st.integers(0, 2))
    mid = struct.pack("!H", draw(st.integers(1, 65_535))) if qos else b""
    head = struct.pack("!H", len(topic)) + topic + mid
    return 0x30 | qos << 1, head + properties.pack() + draw(st.binary(max_size=50))


@given(packets())
@settings(deadline=None)
def test_all_but_the_properties_is_left(packet: tuple[int, bytes]) -> None:
    command, body = packet
    whole = _packet.decode_publish(command, body, paho.MQTTv5)
    bare = _packet.decode_publish(command, bytes(without_properties(command, body)), paho.MQTTv5)
    for name in ("topic", "mid", "qos", "payload"):
        assert getattr(bare, name) == getattr(whole, name)
    assert bare.properties.isEmpty()


@given(st.integers(0x30, 0x3F), st.binary(max_size=40))
def test_senseless_lengths_are_left_alone(command: int, body: bytes) -> None:
    bare = without_properties(command, body)
    assert len(bare) <= len(body)
    assert body.startswith(bytes(bare[:2]))


# --- Against a broker -----------------------------------------------------------------------------


@pytest.fixture(params=["alone", pytest.param("group", marks=needs_mosquitto)])
def place(request: pytest.FixtureRequest, services: Addresses, namespace: str) -> "Place":
    """Return a broker to subscribe to, for a bridge alone and for one of a group."""
    return Place(services, namespace, "bridges" if request.param == "group" else None)


class Place(NamedTuple):
    """Where to subscribe, and how."""

    services: Addresses
    namespace: str
    share_group: str | None


@contextmanager
def subscribed(place: Place, **changes: Any) -> Iterator[Watched]:
    services, namespace, group = place
    changes = {"host": services.mqtt_host, "share_group": group} | changes
    subscriber = Watched(mqtt_config(services.mqtt_port, namespace, **changes))
    subscriber.start()
    try:
        until(subscriber.connected.is_set)
        yield subscriber
    finally:
        subscriber.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect without the second that is kind to a real broker."""
    monkeypatch.setattr(mqtt, "_RECONNECT_MIN_S", 0.05)


@pytest.fixture
def topic(namespace: str) -> str:
    return f"city/{namespace}/traffic/centre/s1"


def send(place: Place, topic: str, *payloads: bytes) -> None:
    publish(place.services.mqtt_port, [(topic, data) for data in payloads])


def take(subscriber: Subscriber, count: int) -> Taken:
    taken: Taken = []
    until(lambda: taken.extend(subscriber.take(count - len(taken))) or len(taken) >= count)
    return taken


def payloads(taken: Taken) -> list[bytes]:
    return [arrival.payload for arrival, _ in taken]


def receipts(taken: Taken) -> list[Receipt]:
    return [receipt for _, receipt in taken]


def cut(subscriber: Subscriber) -> None:
    """Lose the connection, and wait for the next one."""
    before = subscriber._connection
    connection = subscriber._client.socket()
    assert connection is not None
    connection.shutdown(socket.SHUT_RDWR)
    until(lambda: subscriber._connection > before and subscriber.connected.is_set())


def settle(place: Place, subscriber: Subscriber, topic: str) -> list[bytes]:
    """Return what is delivered before a message published now: nothing else is under way.

    Nothing of it is acknowledged, so that the order of acknowledgements stays the test's.
    """
    send(place, topic, MARK)
    found: Taken = []
    until(lambda: found.extend(subscriber.take(100)) or MARK in payloads(found)[-1:])
    return [data for data in payloads(found) if data != MARK]


@integration
def test_what_is_not_acknowledged_comes_again(place: Place, topic: str) -> None:
    with subscribed(place) as subscriber:
        send(place, topic, b"1", b"2", b"3")
        first = take(subscriber, 3)
        assert payloads(first) == [b"1", b"2", b"3"]
        assert [arrival.topic for arrival, _ in first] == [topic] * 3
        subscriber.acknowledge(receipts(first)[:2])
        # The broker has read the two by the time it delivers what was published behind them.
        assert settle(place, subscriber, topic) == []
        cut(subscriber)
        again = take(subscriber, 2)
        assert set(payloads(again)) == {b"3", MARK}
        subscriber.acknowledge(receipts(again))
        assert settle(place, subscriber, topic) == []
        cut(subscriber)
        assert settle(place, subscriber, topic) == []


@integration
def test_a_receipt_of_an_earlier_connection_acknowledges_nothing(place: Place, topic: str) -> None:
    with subscribed(place) as subscriber:
        send(place, topic, b"precious")
        old = take(subscriber, 1)
        cut(subscriber)
        new = take(subscriber, 1)
        assert receipts(old)[0].connection != receipts(new)[0].connection
        # To the broker the two are one: the same packet id.
        assert receipts(old)[0].mid == receipts(new)[0].mid
        subscriber.acknowledge(receipts(old))
        assert settle(place, subscriber, topic) == []
        cut(subscriber)
        assert set(payloads(take(subscriber, 2))) == {b"precious", MARK}


@integration
def test_an_acknowledgement_made_while_disconnected_stays_there(
    place: Place, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subscribed(place) as subscriber:
        send(place, topic, b"precious")
        old = take(subscriber, 1)
        notice = subscriber._client.on_disconnect
        monkeypatch.setattr(
            subscriber._client,
            "on_disconnect",
            # At the last moment at which the receipt is still one of this connection.
            lambda *event: (subscriber.acknowledge(receipts(old)), notice(*event)),
        )
        cut(subscriber)
        assert payloads(take(subscriber, 1)) == [b"precious"]


@integration
def test_what_waits_is_bounded_and_nothing_is_lost(place: Place, topic: str) -> None:
    sent = [b"%d" % number for number in range(1_000)]
    with subscribed(place, receive_maximum=20) as subscriber:
        send(place, topic, *sent)
        until(lambda: subscriber.waiting == 20)
        found: Taken = []
        while len(found) < len(sent):
            part = take(subscriber, 1)
            subscriber.acknowledge(receipts(part))
            found += part
        assert payloads(found) == sent
        assert subscriber.longest <= 20


@integration
def test_the_bytes_that_wait_are_bounded_as_well(
    place: Place, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_MAX_QUEUED_BYTES", 10_000)
    sent = [bytes([number]) * 1_000 for number in range(40)]
    with subscribed(place) as subscriber:
        send(place, topic, *sent)
        until(lambda: subscriber.waiting == 10)
        found: Taken = []
        while len(found) < len(sent):
            found += take(subscriber, 1)
        assert payloads(found) == sent
        assert subscriber.longest <= 10


@integration
def test_a_full_subscriber_stops_at_once_and_its_session_keeps_everything(
    place: Place, topic: str
) -> None:
    sent = [b"%d" % number for number in range(50)]
    with subscribed(place, receive_maximum=5) as subscriber:
        send(place, topic, *sent)
        until(lambda: subscriber.waiting == 5)
    assert not subscriber.connected.is_set()
    with subscribed(place) as successor:
        found = take(successor, len(sent))
        assert set(payloads(found)) == set(sent)


@integration
@pytest.mark.parametrize("text", ["\ufeffmarked", "plain"])
def test_no_property_of_a_message_can_block_those_behind_it(
    place: Place, topic: str, text: str
) -> None:
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("unit", text), ("unit", text)]
    properties.ContentType = text
    properties.ResponseTopic = "answers"
    properties.CorrelationData = bytes(300)
    properties.MessageExpiryInterval = 1_000
    with subscribed(place) as subscriber:
        with Publisher(place.services.mqtt_port) as publisher:
            publisher.send(topic, b"odd", properties=properties)
            publisher.send(topic, b"behind it")
        assert payloads(take(subscriber, 2)) == [b"odd", b"behind it"]


@integration
@needs_mosquitto
def test_a_retained_message_does_not_come_with_every_connection(place: Place, topic: str) -> None:
    with Publisher(place.services.mqtt_port) as publisher:
        publisher.send(topic, b"retained", retain=True)
    with subscribed(place) as subscriber:
        assert settle(place, subscriber, topic) == []
        cut(subscriber)
        assert settle(place, subscriber, topic) == []
        with Publisher(place.services.mqtt_port) as publisher:
            publisher.send(topic, b"", retain=True)


@integration
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_does_not_look_like_a_quiet_city(
    place: Place, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subscribed(place) as subscriber:
        assert subscriber.take(1) == []
        thread = subscriber._client._thread
        assert thread is not None

        def fail(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(subscriber._client, "on_message", fail)
        send(place, topic, b"x")
        with pytest.raises(SubscriberError):
            until(lambda: subscriber.take(1))
        thread.join()
        # `ack` writes from this thread now, and must not wait for a lock that it holds.
        connection = subscriber._client.socket()
        assert connection is not None
        connection.shutdown(socket.SHUT_RDWR)
        subscriber.acknowledge([Receipt(subscriber._connection, 1, 1)])


def test_a_stopped_or_unstarted_subscriber_is_just_empty(namespace: str) -> None:
    subscriber = Subscriber(mqtt_config(1, namespace))
    assert subscriber.take(1) == []
    subscriber.start()
    subscriber.stop()
    assert subscriber.take(1) == []


def test_a_refused_subscription_is_told(namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    subscriber = Subscriber(mqtt_config(1, namespace))
    refused = ReasonCode(PacketTypes.SUBACK, "Not authorized")
    with caplog.at_level(logging.ERROR):
        subscriber._on_subscribe(subscriber._client, None, 1, [refused], None)
    assert "Not authorized" in caplog.text
    assert not subscriber.connected.is_set()


def test_a_broker_that_is_not_there_is_told(
    namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:
        # Bound and not listening: every connection to it is refused.
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        subscriber = Subscriber(mqtt_config(port, namespace))
        with caplog.at_level(logging.WARNING):
            subscriber.start()
            until(lambda: f"127.0.0.1:{port}" in caplog.text)
        subscriber.stop()

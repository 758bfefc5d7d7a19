"""The subscriber against a real broker, and against one that does not keep to the rules."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import _ConnectionState
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from citywatch.embedded import Addresses
from citywatch.embedded.mqtt import Mosquitto, find_mosquitto
from ingest import mqtt
from ingest.arrival import Arrival
from ingest.mqtt import MqttConfig, Receipt, Subscriber, SubscriberError
from tests.ingest.scaffold import (
    HOST,
    PATIENCE_S,
    Publisher,
    Watched,
    mqtt_config,
    needs_mosquitto,
    publish,
    until,
)

integration = pytest.mark.integration
MARK = b"mark"
Taken = list[tuple[Arrival, Receipt]]


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
        began = time.monotonic()
        subscriber.stop()
        assert time.monotonic() - began < mqtt._STOP_PATIENCE_S
    assert not subscriber.connected.is_set()
    with subscribed(place) as successor:
        found = take(successor, len(sent))
        assert set(payloads(found)) == set(sent)


@integration
@needs_mosquitto
def test_thousands_are_acknowledged_at_once(place: Place, topic: str) -> None:
    sent = [b"%d" % number for number in range(5_000)]
    with subscribed(place, receive_maximum=5_000) as subscriber:
        send(place, topic, *sent)
        found = take(subscriber, len(sent))
        assert payloads(found) == sent
        subscriber.acknowledge(receipts(found))
        # The broker has so many on their way at most: all of these come only when it has read
        # every acknowledgement.
        more = [b"more %d" % number for number in range(5_000)]
        send(place, topic, *more)
        found = take(subscriber, len(more))
        assert payloads(found) == more
        subscriber.acknowledge(receipts(found))
        assert settle(place, subscriber, topic) == []


@integration
@needs_mosquitto
def test_what_was_acknowledged_right_before_the_stop_does_not_come_again(
    place: Place, topic: str
) -> None:
    sent = [b"%d" % number for number in range(2_000)]
    with subscribed(place, receive_maximum=200) as subscriber:
        config = subscriber._config
    send(place, topic, *sent)
    found: list[bytes] = []
    while len(found) < len(sent):
        subscriber = Subscriber(config)
        subscriber.start()
        try:
            taken = take(subscriber, 200)
            subscriber.acknowledge(receipts(taken))
        finally:
            # The backlog goes on coming while it says goodbye.
            subscriber.stop()
        found += payloads(taken)
    assert found == sent


@integration
@needs_mosquitto
def test_a_subscriber_that_reads_nothing_stays_connected_and_idle(
    place: Place, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_KEEPALIVE_S", 2)
    monkeypatch.setattr(mqtt, "_MAX_QUEUED_BYTES", 50_000)
    sent = [b"%10000d" % number for number in range(50)]
    with subscribed(place) as subscriber:
        pings, waits = [], []
        client = subscriber._client
        ping, wait = client._send_pingreq, client._wait
        monkeypatch.setattr(client, "_send_pingreq", lambda: pings.append(1) or ping())
        monkeypatch.setattr(client, "_wait", lambda *a, **k: waits.append(1) or wait(*a, **k))
        send(place, topic, *sent)
        found = take(subscriber, 5)
        until(lambda: subscriber.waiting == 5)
        assert client._thread is not None
        clock = time.pthread_getcpuclockid(client._thread.ident)
        used, began = time.clock_gettime(clock), time.monotonic()
        # The broker bears with one and a half times the interval, paho with one: also where an
        # acknowledgement puts off the next ping.
        for number, receipt in enumerate(receipts(found[:2])):
            until(lambda: len(pings) > number)  # noqa: B023
            half = time.monotonic() + 1
            until(lambda: time.monotonic() > half)  # noqa: B023
            subscriber.acknowledge([receipt])
        until(lambda: len(pings) >= 4)
        lasted = time.monotonic() - began
        assert lasted > 2 * 2
        assert len(waits) < 10 * lasted
        assert time.clock_gettime(clock) - used < 0.05 * lasted
        assert subscriber.waiting == 5
        assert client._cutter.held < mqtt._READ_BYTES + len(sent[0]) + 100
        subscriber.acknowledge(receipts(found[2:]))
        while len(found) < len(sent):
            part = take(subscriber, 1)
            subscriber.acknowledge(receipts(part))
            found += part
        assert payloads(found) == sent
        # What was unread is read: answers to pings among it.
        assert settle(place, subscriber, topic) == []
        assert subscriber._connection == 0


@integration
def test_room_is_noticed_without_a_look_at_the_clock(
    place: Place, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_MAX_QUEUED_BYTES", 5_000)
    sent = [b"%1000d" % number for number in range(20)]
    with subscribed(place) as subscriber:
        wait = subscriber._client._wait
        monkeypatch.setattr(
            subscriber._client,
            "_wait",
            lambda connection, _timeout, *, reads: wait(connection, 10 * PATIENCE_S, reads=reads),
        )
        send(place, topic, *sent)
        for taken in range(15):
            until(lambda: subscriber.waiting == 5 and subscriber._client._waits_for_room)
            assert payloads(take(subscriber, 1)) == sent[taken : taken + 1]


@integration
def test_a_full_subscriber_acknowledges_and_connects_again(place: Place, topic: str) -> None:
    sent = [b"%d" % number for number in range(20)]
    with subscribed(place, receive_maximum=5) as subscriber:
        send(place, topic, *sent)
        until(lambda: subscriber.waiting == 5)
        connection = subscriber._client.socket()
        assert connection is not None
        connection.shutdown(socket.SHUT_RDWR)
        # It reads nothing, so what tells it is a write.
        subscriber.acknowledge([Receipt(0, 65_000, 1)])
        until(lambda: subscriber._connection == 1 and subscriber._client.is_connected())
        assert subscriber.waiting == 5
        first = take(subscriber, 5)
        assert payloads(first) == sent[:5]
        subscriber.acknowledge(receipts(first))
        again: Taken = []
        while not set(sent) <= set(payloads(again)):
            part = take(subscriber, 1)
            subscriber.acknowledge(receipts(part))
            again += part
        assert subscriber.connected.is_set()


@integration
@needs_mosquitto
def test_a_message_above_the_largest_packet_blocks_nothing(
    tmp_path: Path, namespace: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_MAX_PACKET_BYTES", 100_000)
    binary = find_mosquitto()
    assert binary is not None
    broker = Mosquitto(tmp_path / "mqtt", 0, binary)
    broker.start()
    subscriber = Subscriber(mqtt_config(broker.port, namespace))
    try:
        subscriber.start()
        until(subscriber.connected.is_set)
        fits, small = bytes(99_000), b"small"
        publish(broker.port, [(topic, fits), (topic, bytes(101_000)), (topic, small)])
        assert payloads(take(subscriber, 2)) == [fits, small]
        assert subscriber._connection == 0
    finally:
        subscriber.stop()
        broker.stop()


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

        monkeypatch.setattr(subscriber, "_arrived", fail)
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


@needs_mosquitto
def test_a_bridge_that_joins_a_group_leaves_its_own_subscription(
    services: Addresses, namespace: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    alone = Place(services, namespace, None)
    with subscribed(alone):
        pass
    joined = alone._replace(share_group="bridges")
    with subscribed(joined) as subscriber:
        until(lambda: "group bridges only" in caplog.text)
        send(joined, topic, *(b"%d" % number for number in range(50)))
        assert sorted(payloads(take(subscriber, 50))) == sorted(b"%d" % n for n in range(50))
        send(joined, topic, b"last")
        assert payloads(take(subscriber, 1)) == [b"last"]


def test_a_refused_subscription_is_told(namespace: str) -> None:
    subscriber = Subscriber(mqtt_config(1, namespace))
    refused = ReasonCode(PacketTypes.SUBACK, "Not authorized")
    subscriber._on_subscribe(subscriber._client, None, 1, [refused], None)
    assert not subscriber.connected.is_set()
    with pytest.raises(SubscriberError, match="Not authorized"):
        subscriber.take(1)


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


def test_bridges_do_not_come_back_all_at_once(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_RECONNECT_MIN_S", 1)
    delays: list[list[float]] = []
    for _ in range(2):
        subscriber = Subscriber(mqtt_config(1, namespace))
        waited: list[float] = []
        monkeypatch.setattr(subscriber._client._ending, "wait", waited.append)
        for _ in range(200):
            subscriber._client._reconnect_wait()
        delays.append(waited)
    first, second = delays
    assert first != second
    for waited in delays:
        assert all(1 <= delay <= 30 for delay in waited)
        for delay, most in zip(waited, (2, 4, 8, 16), strict=False):
            assert delay <= most
        assert len(set(waited)) == len(waited)
        # Spread over all of it.
        assert min(waited[5:]) < 5
        assert max(waited[5:]) > 25


def test_a_subscriber_that_waits_to_connect_again_stops_at_once(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_RECONNECT_MIN_S", 30)
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        subscriber = Subscriber(mqtt_config(taken.getsockname()[1], namespace))
        waiting = threading.Event()
        wait = subscriber._client._reconnect_wait
        monkeypatch.setattr(subscriber._client, "_reconnect_wait", lambda: (waiting.set(), wait()))
        subscriber.start()
        assert waiting.wait(PATIENCE_S)
        began = time.monotonic()
        subscriber.stop()
        assert time.monotonic() - began < mqtt._STOP_PATIENCE_S


# --- Against a broker that breaks the rules -------------------------------------------------------

CONNACK = b"\x20\x03\0\0\0"
WELL = b"\x30\x08\0\x01t\0well"
Part = Callable[[socket.socket], None]


class Actor:
    """A broker that plays one part a connection, and notes what it is sent."""

    def __init__(self, *parts: Part) -> None:
        self._listener = socket.create_server((HOST, 0))
        self._listener.settimeout(PATIENCE_S)
        self.port = self._listener.getsockname()[1]
        self.played = 0
        self.failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._play, args=(parts,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.join(PATIENCE_S)
        self._listener.close()
        assert kind is not None or self.failures == []

    def _play(self, parts: tuple[Part, ...]) -> None:
        try:
            for part in parts:
                connection, _ = self._listener.accept()
                with connection:
                    connection.settimeout(PATIENCE_S)
                    part(connection)
                self.played += 1
        except (OSError, AssertionError) as error:
            self.failures.append(error)


def receive(connection: socket.socket) -> bytes:
    """Return what is sent until the end."""
    found = b""
    while True:
        try:
            part = connection.recv(65_536)
        except ConnectionResetError:
            break
        if not part:
            break
        found += part
    return found


def welcome(connection: socket.socket) -> None:
    """Accept the connection and the subscription."""
    connection.recv(65_536)
    connection.sendall(CONNACK)
    subscribe = connection.recv(65_536)
    connection.sendall(b"\x90\x04" + subscribe[2:4] + b"\0\x01")


def sound(connection: socket.socket) -> None:
    welcome(connection)
    connection.sendall(WELL)
    receive(connection)


@contextmanager
def subscribed_to(actor: Actor, **changes: Any) -> Iterator[Watched]:
    config = MqttConfig(
        **{
            "host": HOST,
            "port": actor.port,
            "filter": "#",
            "client_id": "bridge",
            "share_group": None,
            "receive_maximum": 100,
            "session_expiry_s": 60,
        }
        | changes
    )
    subscriber = Watched(config)
    subscriber.start()
    try:
        yield subscriber
    finally:
        subscriber.stop()


@pytest.mark.parametrize(
    "nonsense",
    [
        pytest.param(b"\x30\xff\xff\xff\xff\x01", id="length of five digits"),
        pytest.param(b"\x30\xff\xff\xff\x7f", id="too large"),
        pytest.param(b"\x32\x06\0\x01t\0\0\0", id="packet id 0"),
        pytest.param(b"\x32\x03\0\xfft", id="message cut short"),
        pytest.param(b"\x36\x07\0\x01t\0\x01\0x", id="QoS 3"),
        pytest.param(b"\x34\x03\0\xfft", id="QoS 2 cut short"),
        pytest.param(b"\x34\x00", id="empty message"),
        pytest.param(b"\xf0\x00", id="AUTH unasked"),
        pytest.param(b"\x00\x00", id="type 0"),
        pytest.param(b"\x90\x01\0", id="SUBACK cut short"),
        pytest.param(b"\xd0\x01\0", id="PINGRESP with a body"),
        pytest.param(b"\xe0\x02\xee\0", id="DISCONNECT for no known reason"),
        pytest.param(b"\xe0\x00", id="DISCONNECT"),
    ],
)
def test_nonsense_ends_the_connection_and_not_the_subscriber(nonsense: bytes) -> None:
    def nonsensical(connection: socket.socket) -> None:
        welcome(connection)
        connection.sendall(b"\x30\x09\0\x01t\0first" + nonsense)
        # It is the subscriber who hangs up.
        receive(connection)

    with Actor(nonsensical, sound) as actor, subscribed_to(actor) as subscriber:
        found = take(subscriber, 2)
        assert payloads(found) == [b"first", b"well"]
        assert [receipt.connection for receipt in receipts(found)] == [0, 1]


def test_a_message_before_the_connection_is_accepted_is_nonsense() -> None:
    def hasty(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(b"\x30\x0a\0\x01t\0hasty!" * 1_000)
        receive(connection)

    with Actor(hasty, sound) as actor, subscribed_to(actor) as subscriber:
        assert payloads(take(subscriber, 1)) == [b"well"]


def test_half_a_packet_is_not_the_beginning_of_the_next_connection() -> None:
    def leaves(connection: socket.socket) -> None:
        welcome(connection)
        connection.sendall(WELL + WELL[:7])

    with Actor(leaves, sound) as actor, subscribed_to(actor) as subscriber:
        found = take(subscriber, 2)
        assert payloads(found) == [b"well", b"well"]
        assert [receipt.connection for receipt in receipts(found)] == [0, 1]
        assert subscriber.take(1) == []


def test_a_topic_alias_that_was_never_offered_is_a_message_without_a_topic() -> None:
    def aliases(connection: socket.socket) -> None:
        welcome(connection)
        connection.sendall(b"\x32\x09\0\0\0\x07\x03\x23\0\x01x")
        assert receive(connection).startswith(b"\x40\x02\0\x07")

    with Actor(aliases) as actor, subscribed_to(actor) as subscriber:
        ((arrival, receipt),) = take(subscriber, 1)
        assert (arrival.topic, arrival.payload) == ("", b"x")
        subscriber.acknowledge([receipt])


def test_qos_2_goes_the_long_way() -> None:
    marked = "\ufeff".encode()
    properties = b"\x26\0\x03" + marked + b"\0\x01v"
    body = b"\0\x01t\0\x07" + bytes([len(properties)]) + properties + b"twice"

    def assured(connection: socket.socket) -> None:
        welcome(connection)
        connection.sendall(bytes([0x34, len(body)]) + body)
        assert connection.recv(4) == b"\x50\x02\0\x07"
        connection.sendall(b"\x62\x02\0\x07")
        assert receive(connection).startswith(b"\x70\x02\0\x07")

    with Actor(assured) as actor, subscribed_to(actor) as subscriber:
        ((arrival, receipt),) = take(subscriber, 1)
        assert (arrival.topic, arrival.payload, receipt.qos) == ("t", b"twice", 2)
        subscriber.acknowledge([receipt])


def test_a_broker_that_reads_nothing_cannot_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt, "_STOP_PATIENCE_S", 0.5)
    stopped = threading.Event()

    def deaf(connection: socket.socket) -> None:
        welcome(connection)
        stopped.wait(PATIENCE_S)

    with Actor(deaf) as actor, subscribed_to(actor) as subscriber:
        until(subscriber.connected.is_set)
        # More than the buffers of both sockets hold.
        subscriber.acknowledge([Receipt(0, 1, 1)] * 4_000_000)
        began = time.monotonic()
        subscriber.stop()
        assert time.monotonic() - began < 5
        assert subscriber._client._out_packet
        stopped.set()


class Wire:
    """A socket that gives what it was given, and then nothing."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.closed = False

    def recv(self, size: int) -> bytes:
        if not self.chunks:
            raise BlockingIOError
        chunk = self.chunks.pop(0)
        if rest := chunk[size:]:
            self.chunks.insert(0, rest)
        return chunk[:size]

    def send(self, data: bytes) -> int:
        return len(data)

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.closed = True


@given(
    st.booleans(),
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=100),
            st.just(WELL),
            st.builds(
                lambda command, body: bytes([command, len(body)]) + body,
                st.integers(0, 255),
                st.binary(max_size=60),
            ),
        ),
        max_size=10,
    ),
)
@settings(deadline=None, max_examples=300)
def test_nothing_a_broker_sends_raises(accepted: bool, chunks: list[bytes]) -> None:
    subscriber = Subscriber(mqtt_config(1, "replay-x", filter="#"))
    client = subscriber._client
    wire = Wire(list(chunks))
    client._sock = wire
    states = _ConnectionState
    client._state = states.MQTT_CS_CONNECTED if accepted else states.MQTT_CS_CONNECTING
    while client._sock is not None and wire.chunks:
        client.loop_read()
        assert client._cutter.held < mqtt._MAX_PACKET_BYTES + mqtt._READ_BYTES
    # An end of the connection is an end that was told.
    assert wire.closed == (client._sock is None) == (subscriber._connection == 1)

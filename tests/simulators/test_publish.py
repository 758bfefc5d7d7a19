"""The publisher against a real broker: all arrives, at the rate asked for, through an outage."""

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
import trustme
from paho.mqtt.enums import CallbackAPIVersion

from citywatch.embedded import Addresses
from ingest.decode import decode
from ingest.reject import Reject
from ingest.topics import mqtt_filter, parse_topic
from simulators import front_door
from simulators.city import City
from simulators.faults import Injector, read_labels
from simulators.front_door import Address, FrontDoor, FrontDoorError
from simulators.payloads import Composer, Mischief
from simulators.publish import CATCH_UP_S, CitySource, Published, run_city
from simulators.recording import read_recording, replay
from tests.deploy.shipped_broker import SECRETS, Broker, Client, server_files, trusting
from tests.simulators.entities import plain

pytestmark = pytest.mark.integration
PATIENCE_S = 20.0
# Packets of MQTT v5, as a broker sends them.
CONNACK = b"\x20\x03\x00\x00\x00"
PUBACK = b"\x40\x02\x00\x01"
SHUTTING_DOWN = b"\xe0\x02\x8b\x00"
Heard = tuple[str, bytes]


class Listener:
    """Collects everything published in a namespace."""

    def __init__(self) -> None:
        self.messages: list[Heard] = []
        self._changed = threading.Condition()

    def hear(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        with self._changed:
            self.messages.append((message.topic, bytes(message.payload)))
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[list[Heard]], bool]) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: condition(self.messages), PATIENCE_S)


@pytest.fixture
def listener(services: Addresses, namespace: str) -> Iterator[Listener]:
    heard = Listener()
    ready = Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = heard.hear
    client.on_connect = lambda *_: client.subscribe(mqtt_filter(namespace), qos=1)
    client.on_subscribe = lambda *_: ready.set()
    client.connect(services.mqtt_host, services.mqtt_port)
    client.loop_start()
    assert ready.wait(PATIENCE_S)
    yield heard
    client.disconnect()
    client.loop_stop()


def run(services: Addresses, namespace: str, **options: Any) -> Published:
    given = {
        "host": services.mqtt_host,
        "port": services.mqtt_port,
        "namespace": namespace,
        "city": City(100),
        "rate": 500.0,
        "duration_s": 1.0,
        "seed": 1,
        "fault_count": 0,
        "labels_file": None,
        "stop": Event(),
    }
    return run_city(**given | options)


def test_every_message_published_arrives(
    services: Addresses, namespace: str, listener: Listener
) -> None:
    published = run(services, namespace)
    assert published.messages == 500
    assert published.unacknowledged == 0
    assert listener.wait_for(lambda heard: len(heard) >= 500)
    assert len(listener.messages) == 500
    sensors = Counter(topic for topic, _ in listener.messages)
    assert set(sensors.values()) == {5}
    assert len(sensors) == 100


def test_counts_add_up_with_mischief(
    services: Addresses, namespace: str, listener: Listener
) -> None:
    mischief = Mischief(bad_share=0.1, duplicate_share=0.1, privacy_probe=True)
    published = run(services, namespace, mischief=mischief)
    total = published.messages + published.duplicates
    assert listener.wait_for(lambda heard: len(heard) >= total)
    assert len(listener.messages) == total
    assert len(listener.messages) - len(set(listener.messages)) == published.duplicates > 0
    assert published.bad > 0
    probes = sum(b"SIMULATED-FACE" in load or b"SIM-0" in load for _, load in listener.messages)
    assert published.withheld == probes > 0
    now_ns = time.time_ns()
    taken = [decode(payload, parse_topic(topic), now_ns) for topic, payload in listener.messages]
    assert sum(isinstance(one, Reject) for one in taken) == published.bad


def test_rate_is_kept_and_event_time_is_publishing_time(
    services: Addresses, namespace: str, listener: Listener
) -> None:
    published = run(services, namespace, rate=1000.0, duration_s=3.0)
    took_s = (published.ended_ns - published.started_ns) / 1e9
    assert published.messages == 3000
    assert 2.9 < took_s < 4.5
    assert listener.wait_for(lambda heard: len(heard) >= 3000)
    texts = [plain(payload)["dateObserved"] for _, payload in listener.messages]
    times = np.array([text.removesuffix("Z") for text in texts], dtype="datetime64[us]")
    times = times.astype(np.int64) * 1000
    assert times.min() >= published.started_ns - 1_000
    assert times.max() <= published.ended_ns
    assert (np.diff(np.sort(times)) < 10**9).all()


def test_series_never_go_back_in_time(
    services: Addresses, namespace: str, listener: Listener
) -> None:
    run(services, namespace, rate=2000.0, city=City(40))
    assert listener.wait_for(lambda heard: len(heard) >= 2000)
    last = {}
    for topic, payload in listener.messages:
        observed = plain(payload)["dateObserved"]
        assert last.get(topic, "") < observed
        last[topic] = observed


def test_labels_are_written_and_faults_reach_the_wire(
    services: Addresses, namespace: str, listener: Listener, tmp_path: Path
) -> None:
    path = tmp_path / "labels.json"
    published = run(
        services,
        namespace,
        city=City(40),
        rate=800.0,
        duration_s=4.0,
        fault_count=4,
        labels_file=path,
    )
    labels = read_labels(path)
    assert (labels.namespace, labels.sensors, labels.period_s) == (namespace, 40, 0.05)
    assert len(labels.faults) == 4
    assert listener.wait_for(lambda heard: len(heard) >= published.messages)
    fault = next(fault for fault in labels.faults if fault.kind == "stuck")
    begin, end = (
        str(np.datetime64(moment // 1000, "us")) for moment in (fault.start_ns, fault.end_ns)
    )
    entities = [plain(load) for topic, load in listener.messages if fault.sensor in topic]
    inside = [one[fault.quantity] for one in entities if begin <= one["dateObserved"] < end]
    assert len(inside) >= 20
    assert len(set(inside)) == 1


def test_progress_is_reported_and_stop_ends_an_endless_run(
    services: Addresses, namespace: str, listener: Listener
) -> None:
    stop, seen = Event(), []

    def progress(published: Published) -> None:
        seen.append(published)
        if len(seen) == 3:
            stop.set()

    published = run(services, namespace, duration_s=None, stop=stop, progress=progress)
    assert len(seen) == 3
    assert seen[0].messages < seen[1].messages < seen[2].messages <= published.messages
    took_s = (published.ended_ns - published.started_ns) / 1e9
    assert 1.9 < took_s < 10.0
    assert listener.wait_for(lambda heard: len(heard) >= published.messages)


class Relay:
    """Stands between client and broker, and cuts the line when told."""

    def __init__(self, services: Addresses) -> None:
        self._broker = (services.mqtt_host, services.mqtt_port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.port = self._server.getsockname()[1]
        self._start(self._accept)

    def cut(self) -> None:
        for end in self._ends:
            hang_up(end)

    def close(self) -> None:
        hang_up(self._server)
        self._server.close()
        self.cut()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        for end in self._ends:
            end.close()

    def _accept(self) -> None:
        # Ends when the server is closed.
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._broker)
                self._ends += [near, far]
                self._start(pump, near, far)
                self._start(pump, far, near)

    def _start(self, target: Callable[..., None], *given: socket.socket) -> None:
        self._threads.append(threading.Thread(target=target, args=given))
        self._threads[-1].start()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    hang_up(source)
    hang_up(sink)


def hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def relay(services: Addresses) -> Iterator[Relay]:
    between = Relay(services)
    yield between
    between.close()


def test_nothing_is_lost_when_the_connection_breaks(
    services: Addresses, namespace: str, listener: Listener, relay: Relay
) -> None:
    cuts: list[int] = []

    def progress(published: Published) -> None:
        if published.messages and len(cuts) < 2:
            cuts.append(published.messages)
            relay.cut()

    published = run(services, namespace, port=relay.port, duration_s=4.0, progress=progress)
    assert published.reconnects == len(cuts) == 2
    assert published.unacknowledged == 0
    assert published.messages == 2000
    assert listener.wait_for(lambda heard: len(set(heard)) >= published.messages)
    assert len(set(listener.messages)) == published.messages


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_missing_broker_is_an_error_after_a_bounded_time(
    services: Addresses, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "OUTAGE_LIMIT_S", 0.3)
    began = time.monotonic()
    with pytest.raises(FrontDoorError, match=r"no MQTT broker at 127\.0\.0\.1"):
        run(services, namespace, host="127.0.0.1", port=free_port())
    assert time.monotonic() - began < 10.0


@pytest.mark.parametrize("rate", [0.0, -1.0, 1e9, float("nan")])
def test_impossible_rates_are_refused(services: Addresses, namespace: str, rate: float) -> None:
    with pytest.raises(ValueError, match="rate must be above 0"):
        run(services, namespace, rate=rate)


def test_what_was_missed_is_caught_up_within_bounds() -> None:
    city = City(100)
    composer = Composer(city.sensors, "replay-x")
    source = CitySource(city, Injector(city, []), composer, 10.0, None)
    assert len(source.take(0.05, 10**18, 100)) == 1
    # A minute's silence: what is made up for is two seconds of it.
    made_up = 0
    while (due := source.due_s()) is not None and due <= 60.0:
        made_up += len(source.take(60.0, 10**18, 7))
    assert made_up == pytest.approx(CATCH_UP_S * 10.0, abs=2)


def test_a_clock_set_back_does_not_send_series_back() -> None:
    city = City(40)
    composer = Composer(city.sensors, "replay-x")
    source = CitySource(city, Injector(city, []), composer, 100.0, None)
    before = source.take(0.395, 2 * 10**18, 100)
    after = source.take(0.795, 10**18, 100)
    assert len(before) == len(after) == 40
    observed = [plain(one.payload)["dateObserved"] for one in (*before, *after)]
    assert len(set(observed[:40])) == 1
    assert observed[40] > observed[0]


def test_replay_arrives_in_order_at_its_pace(
    services: Addresses, namespace: str, listener: Listener, tmp_path: Path
) -> None:
    rows = "".join(f"2020-01-01 {n // 12:02d}:{n % 12 * 5:02d}:00,{60 + n}\n" for n in range(40))
    path = tmp_path / "mine.csv"
    path.write_text("timestamp,value\n" + rows, encoding="utf-8")
    recording = read_recording(path, sensor="mine-1", quantity="LAeq")
    published = replay(
        [recording],
        host=services.mqtt_host,
        port=services.mqtt_port,
        namespace=namespace,
        stop=Event(),
        speed=6000.0,
        time_lapse=True,
    )
    assert (published.messages, published.readings) == (40, 40)
    assert 1.9 < (published.ended_ns - published.started_ns) / 1e9 < 6.0
    assert listener.wait_for(lambda heard: len(heard) >= 40)
    entities = [plain(payload) for _, payload in listener.messages]
    assert [entity["LAeq"] for entity in entities] == [60 + n for n in range(40)]
    times = np.array(
        [entity["dateObserved"].removesuffix("Z") for entity in entities], dtype="datetime64[us]"
    )
    assert (np.diff(times).astype(int) == 50_000).all()
    assert listener.messages[0][0] == f"city/{namespace}/environment/twin-cities/mine-1"


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def shipped(pytestconfig: pytest.Config, tmp_path: Path, authority: trustme.CA) -> Iterator[Broker]:
    """Return the shipped Mosquitto with TLS, and one more user: a simulator that speaks for all."""
    broker = Broker(pytestconfig.rootpath, tmp_path, server_files(authority, tmp_path))
    with broker.acl.open("a", encoding="utf-8") as acl:
        acl.write("\nuser simulator\ntopic write city/live/#\n")
    broker.start()
    yield broker
    broker.stop()


def simulate(port: int, **options: Any) -> Published:
    given = {
        "host": "127.0.0.1",
        "port": port,
        "namespace": "live",
        "city": City(50),
        "rate": 500.0,
        "duration_s": 1.0,
        "seed": 1,
        "fault_count": 0,
        "labels_file": None,
        "stop": Event(),
    }
    return run_city(**given | options)


@pytest.mark.parametrize("shown", ["certificate", "password"])
def test_every_message_published_over_tls_arrives(
    shipped: Broker, authority: trustme.CA, shown: str
) -> None:
    tls = trusting(authority)
    if shown == "certificate":
        authority.issue_cert(common_name="simulator").configure_cert(tls)
        port, user = shipped.certificate_port, {}
    else:
        port = shipped.password_port
        user = {"username": "simulator", "password": SECRETS["simulator"]}
    bridge = Client(shipped.port, "bridge")
    try:
        bridge.subscribe("city/live/#")
        published = simulate(port, tls=tls, **user)
        assert (published.messages, published.unacknowledged, published.refused) == (500, 0, 0)
        assert len(set(bridge.take(500))) == 500
        assert bridge.received.empty()
    finally:
        bridge.close()


def test_what_the_broker_does_not_allow_is_counted_over_tls(
    shipped: Broker, authority: trustme.CA
) -> None:
    tls = trusting(authority)
    authority.issue_cert(common_name="loop-0042").configure_cert(tls)
    published = simulate(shipped.certificate_port, rate=20.0, tls=tls)
    assert published.messages == published.refused == 20


def test_a_broker_of_another_authority_is_an_error_at_once(shipped: Broker) -> None:
    began = time.monotonic()
    with pytest.raises(FrontDoorError, match=r"no TLS with the broker at 127.*certificate verify"):
        simulate(shipped.password_port, tls=trusting(trustme.CA()))
    assert time.monotonic() - began < front_door.OUTAGE_LIMIT_S / 4


def test_a_listener_that_answers_in_the_clear_is_an_error_at_once(authority: trustme.CA) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer_in_the_clear, args=(server,))
        thread.start()
        with pytest.raises(FrontDoorError, match="no TLS with the broker"):
            simulate(server.getsockname()[1], tls=trusting(authority))
        thread.join(PATIENCE_S)


def answer_in_the_clear(server: socket.socket) -> None:
    end, _ = server.accept()
    with end:
        end.recv(4096)
        end.sendall(CONNACK)


def test_a_certificate_that_is_not_accepted_is_told_after_a_bounded_time(
    shipped: Broker, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "OUTAGE_LIMIT_S", 0.3)
    with pytest.raises(FrontDoorError, match="does it accept this certificate"):
        simulate(shipped.certificate_port, tls=trusting(authority))


def serve_one(server: socket.socket, context: ssl.SSLContext, done: Event) -> None:
    """Answer one CONNECT, and one PUBLISH with two packets that share a TLS record."""
    plain, _ = server.accept()
    with context.wrap_socket(plain, server_side=True) as end:
        end.recv(4096)
        end.sendall(CONNACK)
        end.recv(4096)
        end.sendall(PUBACK + SHUTTING_DOWN)
        done.wait(PATIENCE_S)


def test_what_came_in_one_tls_record_is_not_left_lying(authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    done = Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve_one, args=(server, context, done))
        thread.start()
        address = Address("127.0.0.1", server.getsockname()[1], tls=trusting(authority))
        door = FrontDoor(address, Event())
        try:
            door.open()
            door.send("city/live/traffic/north/loop-0042", b"1")
            began = time.monotonic()
            while door._serve_once(PATIENCE_S):
                pass
            assert time.monotonic() - began < PATIENCE_S / 4
            assert door.acknowledged == 1
        finally:
            done.set()
            door.close()
            thread.join(PATIENCE_S)


# At another speed


def test_a_run_at_another_speed_ends_in_the_present_with_what_was_staged(
    services: Addresses, namespace: str, listener: Listener, tmp_path: Path
) -> None:
    labels_file = tmp_path / "labels.json"
    published = run(
        services,
        namespace,
        city=City(240, 1),
        rate=2000.0,
        duration_s=4.0,
        speed=450.0,
        fault_count=0,
        event_kinds=["crowd", "blocked-lane"],
        labels_file=labels_file,
    )
    assert listener.wait_for(lambda found: len(found) >= published.messages)
    labels = read_labels(labels_file)
    assert labels.period_s == pytest.approx(54.0)
    assert {event.kind for event in labels.events} == {"crowd", "blocked-lane"}
    (crowd,) = (event for event in labels.events if event.kind == "crowd")
    counts: list[tuple[int, float]] = []
    moments: list[float] = []
    for topic, payload in listener.messages:
        entity = plain(payload)
        at = datetime.fromisoformat(entity["dateObserved"]).timestamp()
        moments.append(at)
        if topic.endswith(crowd.sensor):
            counts.append((round(at * 1e9), float(entity["peopleCount"])))
    assert max(moments) - min(moments) == pytest.approx(1800.0, abs=60.0)
    assert max(moments) == pytest.approx(published.ended_ns / 1e9, abs=60.0)
    full = [
        count
        for at_ns, count in counts
        if crowd.start_ns + 180 * 10**9 < at_ns < crowd.end_ns - 180 * 10**9
    ]
    assert len(full) > 5
    assert full == pytest.approx([crowd.amount] * len(full), rel=0.06)
    assert min(count for at_ns, count in counts if at_ns < crowd.start_ns) < crowd.amount / 2


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"speed": 60.0, "duration_s": None}, "must have a duration"),
        ({"speed": 0.0}, "speed must be above 0"),
        ({"speed": 2.0, "event_kinds": ["clock-drift"]}, "only at speed 1"),
        ({"event_kinds": ["crowd"]}, "too short for crowd"),
    ],
)
def test_runs_that_cannot_be_staged_are_refused(
    services: Addresses, namespace: str, options: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        run(services, namespace, **({"fault_count": 0, "duration_s": 5.0} | options))

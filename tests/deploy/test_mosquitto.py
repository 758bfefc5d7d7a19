"""deploy/mosquitto.conf and its ACL on the real Mosquitto, with real clients; no engine is used.

Only the paths and the listener's address differ from the files that are shipped.
"""

import os
import queue
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

pytestmark = pytest.mark.integration

DEADLINE_S = 20.0
NOT_AUTHORIZED = 0x87
SUBSCRIPTION = "$share/citywatch/city/live/#"  # the bridge's
SECRETS = {"bridge": "b" * 16, "loop-0042": "d" * 16, "loop-0043": "e" * 16}


def _program(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: mosquitto)")
    return path


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.02)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Broker:
    """A Mosquitto with the shipped configuration in a folder of its own."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.tls_port = _free_port()
        (folder / "data").mkdir()
        shutil.copy(repository / "deploy/mosquitto.acl", folder / "acl")
        (folder / "acl").chmod(0o600)
        passwords = folder / "passwords"
        passwords.write_text("".join(f"{name}:{word}\n" for name, word in SECRETS.items()))
        passwords.chmod(0o600)
        subprocess.run([_program("mosquitto_passwd"), "-U", passwords], check=True)
        text = (repository / "deploy/mosquitto.conf").read_text(encoding="utf-8")
        self.text = self._adapt(
            text,
            {
                "/run/secrets/mosquitto_passwords": str(passwords),
                "/mosquitto/config/mosquitto.acl": str(folder / "acl"),
                "/mosquitto/data/": f"{folder}/data/",
                "\nlistener 1883\n": f"\nlistener {self.port} 127.0.0.1\n",
            },
        )
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def _adapt(text: str, changes: dict[str, str]) -> str:
        for old, new in changes.items():
            assert text.count(old) == 1, f"expected once in mosquitto.conf: {old!r}"
            text = text.replace(old, new)
        return text

    def with_tls(self, certificate: Path, key: Path) -> None:
        """Take the comments off the listener for TLS."""
        names = "listener 8883|certfile .*|keyfile .*|tls_version .*"
        self.text, found = re.subn(rf"^# ({names})$", r"\1", self.text, flags=re.MULTILINE)
        assert found == 4, "a line of the listener for TLS is missing or misspelt"
        changes = {
            "listener 8883": f"listener {self.tls_port} 127.0.0.1",
            "/run/secrets/mosquitto_certificate": str(certificate),
            "/run/secrets/mosquitto_key": str(key),
        }
        self.text = self._adapt(self.text, changes)

    def start(self) -> None:
        conf = self.folder / "mosquitto.conf"
        # Started by root it would change to a user that cannot read this folder.
        conf.write_text(f"{self.text}\nuser root\n", encoding="utf-8")
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen([_program("mosquitto"), "-c", conf], stderr=log)
        log.close()
        _until(self._answers, f"Mosquitto listens\n{self.log}")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


class Client:
    """A paho client of MQTT v5 that keeps what happens to it."""

    def __init__(
        self, broker: Broker, user: str | None, *, durable: bool = False, tls: Path | None = None
    ) -> None:
        self.received: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
        self.connected: queue.Queue[int] = queue.Queue()
        self._answers: dict[int, int] = {}
        self._subscribed: queue.Queue[int] = queue.Queue()
        self._client = client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=f"test-{user}" if durable else "",
            protocol=mqtt.MQTTv5,
        )
        if user is not None:
            client.username_pw_set(user, SECRETS.get(user, "wrong"))
        if tls is not None:
            client.tls_set(ca_certs=str(tls), tls_version=ssl.PROTOCOL_TLS_CLIENT)
        client.on_connect = lambda *event: self.connected.put(event[3].value)
        client.on_message = lambda *event: self.received.put(event[2])
        client.on_publish = lambda *event: self._answers.update({event[2]: event[3].value})
        client.on_subscribe = lambda *event: self._subscribed.put(event[3][0].value)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600 if durable else 0
        properties.ReceiveMaximum = 5000
        client.connect(
            "127.0.0.1",
            broker.tls_port if tls else broker.port,
            clean_start=not durable,
            properties=properties,
        )
        client.loop_start()
        self.code = self.connected.get(timeout=DEADLINE_S)

    def subscribe(self, topic: str) -> int:
        self._client.subscribe(topic, qos=1)
        return self._subscribed.get(timeout=DEADLINE_S)

    def publish(self, topic: str, payload: bytes = b"1") -> int:
        """Publish with QoS 1 and return the broker's reason code."""
        mid = self._client.publish(topic, payload, qos=1).mid
        _until(lambda: mid in self._answers, f"an answer to {topic}")
        return self._answers[mid]

    def publish_many(self, topic: str, payloads: list[bytes]) -> None:
        mids = [self._client.publish(topic, payload, qos=1).mid for payload in payloads]
        _until(lambda: set(mids) <= self._answers.keys(), f"{len(mids)} answers")
        assert max(self._answers[mid] for mid in mids) < 0x80

    def take(self, count: int) -> list[bytes]:
        return [self.received.get(timeout=DEADLINE_S).payload for _ in range(count)]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(repository: Path, tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(repository, tmp_path)
    yield broker
    broker.stop()


@pytest.fixture
def connect(broker: Broker) -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def connect(user: str | None, **options: object) -> Client:
        clients.append(Client(broker, user, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


def test_starts_without_a_complaint(broker: Broker) -> None:
    broker.start()
    # Two lines are the test's doing: its user and the probe that sends nothing.
    own = r"should not be run as root|Client <unknown> closed"
    log = "".join(line for line in broker.log.splitlines() if not re.search(own, line))
    assert not re.search(r"error|unknown|deprecated|warning", log, re.IGNORECASE), log


def test_refuses_an_option_it_does_not_know(broker: Broker) -> None:
    # What makes the test above mean something.
    broker.text += "max_queued_massages 0\n"
    with pytest.raises(AssertionError, match="Unknown configuration variable"):
        broker.start()


def test_lets_nobody_in_without_a_password(broker: Broker, connect: Callable[..., Client]) -> None:
    broker.start()
    assert connect(None).code == NOT_AUTHORIZED
    assert connect("stranger").code == NOT_AUTHORIZED
    assert connect("bridge").code == 0


def test_sensor_publishes_under_its_own_name_only(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    broker.start()
    bridge, sensor = connect("bridge"), connect("loop-0042")
    assert bridge.subscribe(SUBSCRIPTION) == 1
    refused = [
        "city/live/traffic/north/loop-0043",
        "city/live/traffic/north/loop-0042/more",
        "city/live/loop-0042",
        "city/replay-x/traffic/north/loop-0042",
        "loop-0042",
    ]
    assert [sensor.publish(topic, b"forged") for topic in refused] == [NOT_AUTHORIZED] * 5
    assert sensor.publish("city/live/traffic/north/loop-0042", b"own") < 0x80
    # The forged ones were sent first: had one passed, it would stand before this.
    assert bridge.take(1) == [b"own"]


def test_sensor_reads_nothing(broker: Broker, connect: Callable[..., Client]) -> None:
    broker.start()
    bridge, curious, sensor = connect("bridge"), connect("loop-0043"), connect("loop-0042")
    bridge.subscribe(SUBSCRIPTION)
    curious.subscribe("city/live/#")
    sensor.publish("city/live/traffic/north/loop-0042", b"private")
    assert bridge.take(1) == [b"private"]
    # The broker answers in order: whatever it had for the curious one came before this answer.
    curious.publish("city/live/traffic/north/loop-0043")
    assert curious.received.empty()


def test_bridge_publishes_nothing(broker: Broker, connect: Callable[..., Client]) -> None:
    broker.start()
    bridge = connect("bridge")
    assert bridge.publish("city/live/traffic/north/loop-0042") == NOT_AUTHORIZED
    # Not under its own name as a sensor either would be better; the pattern is for every user.
    assert bridge.publish("city/replay-x/traffic/north/bridge") == NOT_AUTHORIZED


def test_health_check_of_compose_gets_its_answer(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    broker.start()
    bridge = connect("bridge")
    bridge.subscribe("$SYS/broker/uptime")
    assert b"seconds" in bridge.take(1)[0]


def test_holds_for_an_absent_bridge_more_than_the_stock_queue_and_over_a_restart(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    broker.start()
    bridge = connect("bridge", durable=True)
    bridge.subscribe(SUBSCRIPTION)
    bridge.close()
    sent = [b"%d" % number for number in range(3000)]  # the stock queue drops after 1000
    connect("loop-0042").publish_many("city/live/traffic/north/loop-0042", sent)
    broker.stop()
    broker.start()
    assert connect("bridge", durable=True).take(len(sent)) == sent


def test_a_sensor_added_to_the_file_comes_in_without_a_restart(
    broker: Broker, connect: Callable[..., Client]
) -> None:
    broker.start()
    assert connect("cam-7").code == NOT_AUTHORIZED
    passwords = broker.folder / "passwords"
    subprocess.run(
        [_program("mosquitto_passwd"), "-b", passwords, "cam-7", "wrong"],
        check=True,
        capture_output=True,
    )
    os.kill(broker.pid, 1)  # SIGHUP, as deploy/mosquitto.passwords.example says
    _until(lambda: connect("cam-7").code == 0, "the new sensor comes in")


def test_tls_listener_works_once_its_comments_are_gone(
    broker: Broker, connect: Callable[..., Client], tmp_path: Path
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    make = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    make += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    make += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    broker.with_tls(certificate, key)
    broker.start()
    sensor = connect("loop-0042", tls=certificate)
    assert sensor.code == 0
    assert sensor.publish("city/live/traffic/north/loop-0042") < 0x80
    assert sensor.publish("city/live/traffic/north/loop-0043") == NOT_AUTHORIZED

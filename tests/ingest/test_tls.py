"""The subscriber over TLS, against a real Mosquitto: what arrives, and whom it trusts."""

import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from citywatch.embedded.mqtt import Mosquitto, find_mosquitto
from citywatch.embedded.process import ChildProcess
from ingest import mqtt
from ingest.mqtt import SubscriberError, TlsFiles, tls_context
from tests.ingest.scaffold import HOST, Watched, mqtt_config, publish, until

NAMESPACE = "replay-tls"
TOPIC = f"city/{NAMESPACE}/traffic/centre/s1"


class Papers(NamedTuple):
    """Files of one authority, of the broker it vouches for, and of one of its clients."""

    ca: Path
    chain: Path
    key: Path
    client: Path
    client_key: Path


def papers(folder: Path, host: str = HOST) -> Papers:
    folder.mkdir()
    made = Papers(*(folder / f"{name}.pem" for name in Papers._fields))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(made.ca)
    broker = authority.issue_cert(host)
    made.chain.write_bytes(b"".join(part.bytes() for part in broker.cert_chain_pems))
    broker.private_key_pem.write_to_path(made.key)
    client = authority.issue_cert("bridge.citywatch.example", common_name="bridge")
    made.client.write_bytes(b"".join(part.bytes() for part in client.cert_chain_pems))
    client.private_key_pem.write_to_path(made.client_key)
    return made


class Encrypted(Mosquitto):
    """Mosquitto with TLS on a second listener; the first, in plain text, is for the sensors."""

    def __init__(self, directory: Path, binary: str, files: Papers, *settings: str) -> None:
        super().__init__(directory, 0, binary)
        self._files = files
        self._settings = settings
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.tls_port = probe.getsockname()[1]

    def _program(self, port: int) -> ChildProcess:
        program = super()._program(port)
        lines = (
            f"listener {self.tls_port} {HOST}",
            f"cafile {self._files.ca}",
            f"certfile {self._files.chain}",
            f"keyfile {self._files.key}",
            *self._settings,
        )
        with (self.directory / "mosquitto.conf").open("a") as conf:
            conf.write("\n".join(lines) + "\n")
        return program


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return papers(tmp_path_factory.mktemp("papers") / "ours")


@contextmanager
def encrypted(folder: Path, files: Papers, *settings: str) -> Iterator[Encrypted]:
    binary = find_mosquitto()
    if binary is None:
        pytest.skip("Mosquitto is not installed; rumqttd's listener has no TLS")
    broker = Encrypted(folder / "mqtt", binary, files, *settings)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@contextmanager
def subscriber_to(broker: Encrypted, tls: TlsFiles | None, **changes: Any) -> Iterator[Watched]:
    subscriber = Watched(mqtt_config(broker.tls_port, NAMESPACE, tls=tls, **changes))
    subscriber.start()
    try:
        yield subscriber
    finally:
        subscriber.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect without the second that is kind to a real broker."""
    monkeypatch.setattr(mqtt, "_RECONNECT_MIN_S", 0.05)
    monkeypatch.setattr(mqtt, "_RECONNECT_MAX_S", 0.2)


def drain(subscriber: Watched, seen: list[bytes], enough: Callable[[], bool]) -> None:
    """Take and acknowledge until it is enough."""

    def step() -> bool:
        taken = subscriber.take(500)
        seen.extend(arrival.payload for arrival, _ in taken)
        subscriber.acknowledge([receipt for _, receipt in taken])
        return enough()

    until(step)


def burst(count: int) -> list[bytes]:
    """Return payloads of which every hundredth is larger than a TLS record, or than many."""
    return [
        b"%d " % number + bytes(0 if number % 100 else (20_000, 300_000, 16_384)[number // 100 % 3])
        for number in range(count)
    ]


# --- Against a broker -----------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
def test_bursts_of_large_and_small_messages_arrive_in_order(
    tmp_path: Path, ours: Papers, version: str
) -> None:
    sent = burst(3_000)
    with (
        encrypted(tmp_path, ours, f"tls_version {version}") as broker,
        subscriber_to(broker, TlsFiles(ours.ca), receive_maximum=1_000) as subscriber,
    ):
        until(subscriber.connected.is_set)
        connection = subscriber._client.socket()
        assert isinstance(connection, ssl.SSLSocket)
        seen: list[bytes] = []
        publish(broker.port, [(TOPIC, data) for data in sent])
        drain(subscriber, seen, lambda: len(seen) >= len(sent))
        assert seen == sent
        assert subscriber.longest <= 1_000
        assert subscriber._connection == 0


@pytest.mark.integration
def test_nothing_is_lost_when_connections_drop_in_the_middle(tmp_path: Path, ours: Papers) -> None:
    sent = burst(2_000)
    with (
        encrypted(tmp_path, ours) as broker,
        subscriber_to(broker, TlsFiles(ours.ca), receive_maximum=100) as subscriber,
    ):
        until(subscriber.connected.is_set)
        publish(broker.port, [(TOPIC, data) for data in sent])
        seen: list[bytes] = []
        for part in range(1, 5):
            drain(subscriber, seen, lambda: len(seen) >= part * 300)  # noqa: B023
            connection = subscriber._client.socket()
            assert isinstance(connection, ssl.SSLSocket)
            # Not SSLSocket's own, which forgets that it was encrypted.
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
            drain(subscriber, seen, lambda: subscriber._connection >= part)  # noqa: B023
        drain(subscriber, seen, lambda: set(seen) == set(sent))
        assert subscriber._connection == 4


@pytest.mark.integration
def test_a_full_subscriber_stays_connected_and_idle(
    tmp_path: Path, ours: Papers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_KEEPALIVE_S", 2)
    sent = [b"%d" % number for number in range(500)]
    with encrypted(tmp_path, ours) as broker:
        with subscriber_to(broker, TlsFiles(ours.ca)) as subscriber:
            until(subscriber.connected.is_set)
        publish(broker.port, [(TOPIC, data) for data in sent])
        with subscriber_to(broker, TlsFiles(ours.ca), receive_maximum=50) as subscriber:
            waits, pings = [], []
            client = subscriber._client
            ping, wait = client._send_pingreq, client._wait
            monkeypatch.setattr(client, "_send_pingreq", lambda: pings.append(1) or ping())
            monkeypatch.setattr(client, "_wait", lambda *a, **k: waits.append(1) or wait(*a, **k))
            until(lambda: subscriber.waiting == 50)
            del waits[:]
            until(lambda: len(pings) >= 2)
            assert len(waits) < 100
            seen: list[bytes] = []
            drain(subscriber, seen, lambda: len(seen) >= len(sent))
            assert seen == sent
            assert subscriber._connection == 0


@pytest.mark.integration
def test_a_certificate_is_the_bridge_s_name(
    tmp_path: Path, ours: Papers, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ("require_certificate true", "use_identity_as_username true")
    with encrypted(tmp_path, ours, *settings) as broker:
        named = TlsFiles(ours.ca, ours.client, ours.client_key)
        with subscriber_to(broker, named) as subscriber:
            until(subscriber.connected.is_set)
            publish(broker.port, [(TOPIC, b"x")])
            seen: list[bytes] = []
            drain(subscriber, seen, lambda: seen == [b"x"])
        with (
            caplog.at_level(logging.WARNING),
            subscriber_to(broker, TlsFiles(ours.ca), client_id="nameless") as subscriber,
        ):
            until(lambda: "CERTIFICATE_REQUIRED" in caplog.text.upper().replace(" ", "_"))
            assert not subscriber.connected.is_set()


@pytest.mark.integration
@pytest.mark.parametrize("fault", ["authority", "name", "system"])
def test_a_broker_that_cannot_prove_its_name_is_told_and_tried_again(
    tmp_path: Path, ours: Papers, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = papers(tmp_path / "theirs", host="mqtt.citywatch.example")
    serving, trusted = {
        "authority": (ours, theirs.ca),
        "name": (theirs, theirs.ca),
        "system": (ours, None),
    }[fault]
    with (
        encrypted(tmp_path, serving) as broker,
        caplog.at_level(logging.WARNING),
        subscriber_to(broker, TlsFiles(trusted)) as subscriber,
    ):
        refusal = f"mqtt cannot be reached: {HOST}:{broker.tls_port}: "
        until(lambda: caplog.text.count(refusal) >= 2)
        assert "certificate verify failed" in caplog.text
        assert not subscriber.connected.is_set()
        assert not subscriber._client.is_connected()


@pytest.mark.integration
def test_a_broker_in_plain_text_is_not_taken_for_an_encrypted_one(
    tmp_path: Path, ours: Papers, caplog: pytest.LogCaptureFixture
) -> None:
    with encrypted(tmp_path, ours) as broker, caplog.at_level(logging.WARNING):
        broker.tls_port = broker.port
        with subscriber_to(broker, TlsFiles(ours.ca)) as subscriber:
            until(lambda: caplog.text.count("mqtt cannot be reached") >= 2)
            assert not subscriber._client.is_connected()


# --- Files ----------------------------------------------------------------------------------------


def test_a_connection_is_as_strict_as_python_makes_it(ours: Papers) -> None:
    for files in (TlsFiles(None), TlsFiles(ours.ca)):
        context = tls_context(files)
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_key_may_be_in_the_file_of_its_certificate(ours: Papers, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(ours.client_key.read_bytes() + ours.client.read_bytes())
    tls_context(TlsFiles(ours.ca, both))


@pytest.mark.parametrize("name", ["ca", "certificate", "key"])
@pytest.mark.parametrize("fault", ["missing", "empty", "prose", "folder"])
def test_a_file_that_cannot_be_used_is_named(
    ours: Papers, tmp_path: Path, name: str, fault: str
) -> None:
    bad = tmp_path / "bad.pem"
    if fault == "folder":
        bad.mkdir()
    elif fault != "missing":
        bad.write_text("" if fault == "empty" else "not a certificate at all\n" * 100)
    sound = {"ca": ours.ca, "certificate": ours.client, "key": ours.client_key}
    config = mqtt_config(1, NAMESPACE, tls=TlsFiles(**sound | {name: bad}))
    with pytest.raises(SubscriberError, match=r"bad\.pem"):
        Watched(config)


def test_a_key_that_is_not_the_certificate_s_is_told(ours: Papers) -> None:
    with pytest.raises(SubscriberError, match="not a pair"):
        tls_context(TlsFiles(ours.ca, ours.client, ours.key))


def test_a_passphrase_is_not_asked_for_at_the_terminal(ours: Papers, tmp_path: Path) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = serialization.load_pem_private_key(ours.client_key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(os.urandom(8).hex().encode()),
        )
    )
    with pytest.raises(SubscriberError, match=r"locked\.pem: the key has a passphrase"):
        tls_context(TlsFiles(ours.ca, ours.client, locked))


def test_a_key_alone_is_not_enough(ours: Papers) -> None:
    with pytest.raises(ValueError, match="without its certificate"):
        TlsFiles(ours.ca, None, ours.client_key)

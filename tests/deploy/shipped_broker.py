"""The shipped broker: deploy/mosquitto*.conf and the ACL on the real Mosquitto, and a client of it.

Only the paths and the listeners' addresses differ from the files that are shipped.
"""

import os
import queue
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import paho.mqtt.client as mqtt
import pytest
import trustme
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

DEADLINE_S = 20.0
NOT_AUTHORIZED = 0x87
SECRETS = {
    "bridge": "b" * 16,
    "loop-0042": "d" * 16,
    "loop-0043": "e" * 16,
    "gateway@north": "f" * 16,
    "simulator": "g" * 16,
}


def _program(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: mosquitto)")
    return path


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.02)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def adapt(text: str, changes: dict[str, str], *, times: int = 1) -> str:
    """Put in paths and addresses of this machine; each must stand there as often as expected."""
    for old, new in changes.items():
        assert text.count(old) == times, f"expected {times} times in the configuration: {old!r}"
        text = text.replace(old, new)
    return text


class ServerFiles(NamedTuple):
    """What the listeners with TLS read."""

    certificate: Path
    key: Path
    ca: Path


def server_files(authority: trustme.CA, folder: Path) -> ServerFiles:
    """Have an authority make what a broker on this machine needs."""
    files = ServerFiles(folder / "certificate", folder / "key", folder / "ca")
    server = authority.issue_cert("127.0.0.1")
    server.cert_chain_pems[0].write_to_path(files.certificate)
    server.private_key_pem.write_to_path(files.key)
    authority.cert_pem.write_to_path(files.ca)
    files.key.chmod(0o600)
    return files


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Return the context of a client that trusts one authority and shows no certificate."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class Broker:
    """A Mosquitto with the shipped configuration in a folder of its own.

    With files for TLS it is that of deploy/compose.tls.yml: both files, three listeners.
    """

    def __init__(self, repository: Path, folder: Path, tls: ServerFiles | None = None) -> None:
        self.folder = folder
        self.port, self.certificate_port, self.password_port = (_free_port() for _ in range(3))
        self.acl = folder / "acl"
        self._passwords = folder / "passwords"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir()
        self.acl.write_bytes((repository / "deploy/mosquitto.acl").read_bytes())
        self._passwords.write_text("".join(f"{name}:{word}\n" for name, word in SECRETS.items()))
        for file in (self.acl, self._passwords):
            file.chmod(0o600)
        subprocess.run([_program("mosquitto_passwd"), "-U", self._passwords], check=True)
        plain = adapt(
            (repository / "deploy/mosquitto.conf").read_text(encoding="utf-8"),
            {
                "/run/secrets/mosquitto_passwords": str(self._passwords),
                "/mosquitto/config/mosquitto.acl": str(self.acl),
                "/mosquitto/data/": f"{folder}/data/",
                "\nlistener 1883\n": f"\nlistener {self.port} 127.0.0.1\n",
            },
        )
        self.text = plain if tls is None else self._with_tls(repository, plain, tls)

    def _with_tls(self, repository: Path, plain: str, tls: ServerFiles) -> str:
        included = self.folder / "plain"
        included.mkdir()
        (included / "mosquitto.conf").write_text(plain, encoding="utf-8")
        text = (repository / "deploy/mosquitto-tls.conf").read_text(encoding="utf-8")
        text = adapt(
            text,
            {
                "\nlistener 8883\n": f"\nlistener {self.certificate_port} 127.0.0.1\n",
                "\nlistener 8884\n": f"\nlistener {self.password_port} 127.0.0.1\n",
                "/run/secrets/mosquitto_ca": str(tls.ca),
                "/mosquitto/config/plain": str(included),
            },
        )
        secrets = {
            "/run/secrets/mosquitto_certificate": str(tls.certificate),
            "/run/secrets/mosquitto_key": str(tls.key),
        }
        return adapt(text, secrets, times=2)

    def start(self) -> None:
        conf = self.folder / "mosquitto.conf"
        # Started by root it would change to a user that cannot read this folder.
        conf.write_text(f"{self.text}\nuser root\n", encoding="utf-8")
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen([_program("mosquitto"), "-c", conf], stderr=log)
        log.close()
        until(self._answers, f"Mosquitto listens\n{self.log}")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def read_again(self) -> None:
        """Tell it to read passwords, ACL and certificates again; it does so before long."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def set_password(self, user: str, password: str) -> None:
        subprocess.run(
            [_program("mosquitto_passwd"), "-b", self._passwords, user, password],
            check=True,
            capture_output=True,
        )

    def remove_password(self, user: str) -> None:
        subprocess.run([_program("mosquitto_passwd"), "-D", self._passwords, user], check=True)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(DEADLINE_S)
            self._process = None


class Client:
    """A paho client of MQTT v5 that keeps what happens to it."""

    def __init__(
        self,
        port: int,
        user: str | None,
        *,
        durable: bool = False,
        tls: ssl.SSLContext | None = None,
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
        # With max_queued_messages 0, Mosquitto before 2.0.22 hangs up after a refusal.
        client.reconnect_delay_set(0.05, 0.2)
        if user is not None:
            client.username_pw_set(user, SECRETS.get(user, "wrong"))
        if tls is not None:
            client.tls_set_context(tls)
        client.on_connect = lambda *event: self.connected.put(event[3].value)
        client.on_message = lambda *event: self.received.put(event[2])
        client.on_publish = lambda *event: self._answers.update({event[2]: event[3].value})
        client.on_subscribe = lambda *event: self._subscribed.put(event[3][0].value)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600 if durable else 0
        properties.ReceiveMaximum = 5000
        client.connect(
            "127.0.0.1",
            port,
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
        until(lambda: mid in self._answers, f"an answer to {topic}")
        return self._answers[mid]

    def publish_many(self, topic: str, payloads: list[bytes]) -> None:
        mids = [self._client.publish(topic, payload, qos=1).mid for payload in payloads]
        until(lambda: set(mids) <= self._answers.keys(), f"{len(mids)} answers")
        assert max(self._answers[mid] for mid in mids) < 0x80

    def take(self, count: int) -> list[bytes]:
        return [self.received.get(timeout=DEADLINE_S).payload for _ in range(count)]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

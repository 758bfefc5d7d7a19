"""The MQTT broker: Mosquitto where it is installed, else rumqttd from the wheel `iotcore`.

They differ in what a bridge can notice. Mosquitto keeps sessions and queues on disk and marks
redeliveries. rumqttd has no disk, so a restart forgets sessions, and does not mark redeliveries.
Neither can be trusted with the receive maximum of a client: rumqttd has up to 100 messages
outstanding whatever the client asks for. Mosquitto 2.0.11 keeps it at first, but then answers
each acknowledgement with as many messages as the maximum while it has a backlog (5 outstanding
became 25, then 125). A client that needs a bound must stop reading. Both serve MQTT v5, shared
subscriptions, and sessions that outlive the connection.
"""

import os
import shutil
import signal
import subprocess
import sys
from abc import abstractmethod
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

from citywatch.embedded.errors import EmbeddedError
from citywatch.embedded.process import ChildProcess
from citywatch.embedded.service import HOST, Service, environment, exchange, write_private

MqttChoice = Literal["auto", "mosquitto", "rumqttd"]

# Debian keeps it where an ordinary user's PATH does not look.
_SYSTEM_FOLDERS: Final = "/usr/sbin:/usr/local/sbin"
# Far above the largest message the bridge takes.
_MAX_PACKET_BYTES: Final = 1 << 20
# What one absent client may leave waiting; Mosquitto's stock limit of 1000 messages loses the
# backlog of a bridge that is away for a second.
_MAX_QUEUED_BYTES: Final = 256 << 20
# What a crash of the broker can lose.
_AUTOSAVE_S: Final = 2
# More has no effect: rumqttd has at most 100 messages outstanding, whatever either side asks for.
_RUMQTTD_INFLIGHT: Final = 100
# Per topic filter: ten segments, the oldest is dropped.
_RUMQTTD_SEGMENT_BYTES: Final = 16 << 20
_VERSION_TIMEOUT_S: Final = 10.0

# CONNECT of MQTT v5: clean start, keep-alive 10 s, no properties, client id "probe".
_CONNECT: Final = b"\x10\x12\x00\x04MQTT\x05\x02\x00\x0a\x00\x00\x05probe"
# CONNACK: type, remaining length (one byte for any real broker), flags, reason.
_CONNACK: Final = 0x20
_CONNACK_HEAD: Final = 4

_MOSQUITTO_CONF: Final = """\
listener {port} {host}
# Nobody but this machine can reach the listener.
allow_anonymous true
{user}
persistence true
persistence_location {folder}/
autosave_interval {autosave_s}
persistent_client_expiration 1d
# The bytes below are the bound.
max_queued_messages 0
max_queued_bytes {queued_bytes}
# The client's receive maximum decides: this is the largest there can be. 0 means the same, but
# 2.1 then logs a warning for every message received.
max_inflight_messages 65535
max_packet_size {packet_bytes}
set_tcp_nodelay true
log_dest stderr
log_type error
log_type warning
log_type notice
"""

_RUMQTTD_CONF: Final = """\
id = 0

[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = {segment_bytes}
max_segment_count = 10

[v5.1]
name = "v5"
listen = "{host}:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 10000
max_payload_size = {packet_bytes}
max_inflight_count = {inflight}
dynamic_filters = true
"""


class MqttService(Service):
    """An MQTT v5 broker."""

    @abstractmethod
    def _program(self, port: int) -> ChildProcess: ...

    def _answers(self, port: int) -> bool:
        head = exchange(port, _CONNECT, _CONNACK_HEAD)
        return head is not None and head[0] == _CONNACK and head[3] == 0


class Mosquitto(MqttService):
    """Mosquitto with its queues on disk.

    Started by root it stays root: the folder belongs to whoever started the stack, and Mosquitto
    would otherwise give its rights away to a user who cannot enter it.
    """

    name = "Mosquitto"

    def __init__(self, directory: Path, port: int, binary: str) -> None:
        super().__init__(directory, port)
        self._binary = binary

    @property
    def version(self) -> str:
        """Name and version, as the program tells it."""
        answer = subprocess.run(
            [self._binary, "-h"],
            capture_output=True,
            check=False,
            timeout=_VERSION_TIMEOUT_S,
            text=True,
        )
        first = (answer.stdout or answer.stderr).partition("\n")[0]
        return first.replace("mosquitto version", "Mosquitto").strip()

    def _program(self, port: int) -> ChildProcess:
        conf = self.directory / "mosquitto.conf"
        text = _MOSQUITTO_CONF.format(
            host=HOST,
            port=port,
            user="user root" if os.geteuid() == 0 else "",
            folder=self.directory,
            autosave_s=_AUTOSAVE_S,
            queued_bytes=_MAX_QUEUED_BYTES,
            packet_bytes=_MAX_PACKET_BYTES,
        )
        write_private(conf, text)
        return ChildProcess(
            self.name,
            [self._binary, "-c", str(conf)],
            environment(),
            self.directory / "mosquitto.log",
            # It saves its queues on SIGTERM, also when the parent was killed.
            death_signal=signal.SIGTERM,
        )


class Rumqttd(MqttService):
    """rumqttd, in memory only."""

    name = "rumqttd"

    @property
    def version(self) -> str:
        """Name and the version of the wheel; rumqttd does not tell its own."""
        try:
            return f"rumqttd (iotcore {version('iotcore')})"
        except PackageNotFoundError as error:
            raise EmbeddedError(
                "no MQTT broker: install Mosquitto, or pip install 'citywatch[embedded]'"
            ) from error

    def _program(self, port: int) -> ChildProcess:
        _ = self.version
        conf = self.directory / "rumqttd.toml"
        text = _RUMQTTD_CONF.format(
            host=HOST,
            port=port,
            segment_bytes=_RUMQTTD_SEGMENT_BYTES,
            packet_bytes=_MAX_PACKET_BYTES,
            inflight=_RUMQTTD_INFLIGHT,
        )
        write_private(conf, text)
        # It reports the routing of every packet as an error; only a panic is worth keeping, and
        # that is written without the log.
        argv = [sys.executable, "-P", "-m", "iotcore", "--config", str(conf)]
        # Wherever this process finds its packages, the child does too.
        search = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return ChildProcess(
            self.name,
            [*argv, "--log-level", "CRITICAL"],
            environment() | search,
            self.directory / "rumqttd.log",
        )


def find_mosquitto() -> str | None:
    """Return the path of Mosquitto, None where it is not installed."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=_SYSTEM_FOLDERS)


def make_mqtt(directory: Path, port: int, choice: MqttChoice) -> MqttService:
    """Return the broker that `choice` names.

    Raises
    ------
    EmbeddedError
        If Mosquitto is asked for and not installed.
    """
    binary = find_mosquitto() if choice != "rumqttd" else None
    if binary is not None:
        return Mosquitto(directory, port, binary)
    if choice == "mosquitto":
        raise EmbeddedError("Mosquitto is not installed")
    return Rumqttd(directory, port)

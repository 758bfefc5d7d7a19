"""The MQTT side of the bridge: paho in its own thread, acknowledging only when told.

The bound on what waits is kept here, by not reading the socket: of the receive maximum Mosquitto
2.0 lets the broker exceed it (every acknowledgement of a backlog releases a whole window more,
eclipse-mosquitto/mosquitto#2301), and rumqttd has a window of its own.
"""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from ingest.assembly import Arrival

_LOG = logging.getLogger(__name__)
# While the queue is full nothing is read and no ping is sent; the broker bears with that for one
# and a half times as long, and then delivers again what was not acknowledged.
_KEEPALIVE_S: Final = 60
_ROOM_CHECK_S: Final = 0.5
_RECONNECT_MIN_S: Final = 1
_RECONNECT_MAX_S: Final = 30
# The other bound on what waits: thousands of messages of the broker's largest size are gigabytes.
_MAX_QUEUED_BYTES: Final = 64 << 20
_PROPERTY_LENGTH_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class MqttConfig:
    """Where and how to subscribe.

    Parameters
    ----------
    host, port : str, int
    filter : str
        Topic filter, without the share prefix.
    client_id : str
        Stable: the broker keeps the session under it.
    share_group : str or None
        Bridges of one group split the load. None for a bridge that works alone: brokers keep
        less of a shared subscription. Mosquitto before 2.0.12 forgets over its restart that it
        is shared, and drops what comes before the bridge is back; rumqttd 0.20 panics when the
        last of a group leaves with messages unacknowledged.
    receive_maximum : int
        Messages that wait here at most; told to the broker as well.
    session_expiry_s : int
        How long the broker keeps what arrives while the bridge is away.
    username, password : str or None
    """

    host: str
    port: int
    filter: str
    client_id: str
    share_group: str | None
    receive_maximum: int
    session_expiry_s: int
    username: str | None = None
    password: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What must be known to acknowledge a message on the connection it came by."""

    connection: int
    mid: int
    qos: int


class SubscriberError(Exception):
    """The thread that serves the connection has ended; nothing would ever arrive again."""


class _Client(paho.Client):
    """paho, blind to the properties of what it receives.

    It refuses some that MQTT allows (a user property with U+FEFF) by closing the connection. The
    broker then delivers the same message again, for ever, and nothing behind it gets through.
    """

    @property
    def serving(self) -> bool:
        return self._thread is not None

    def _handle_publish(self) -> MQTTErrorCode:
        packet = self._in_packet
        packet["packet"] = bytearray(without_properties(packet["command"], packet["packet"]))
        return super()._handle_publish()


def without_properties(command: int, packet: bytes | bytearray) -> bytes | bytearray:
    """Return the body of a PUBLISH packet of MQTT v5 with its properties cut out.

    Parameters
    ----------
    command : int
        First byte of the packet.
    packet : bytes
        What follows its fixed header; returned as it is where its lengths make no sense.
    """
    has_id = bool(command & 0x06)
    start = 2 + int.from_bytes(packet[:2], "big") + 2 * has_id
    length = 0
    for digit, byte in enumerate(packet[start : start + _PROPERTY_LENGTH_BYTES]):
        length |= (byte & 0x7F) << 7 * digit
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit of a variable byte integer
            end = start + digit + 1 + length
            return packet if end > len(packet) else packet[:start] + b"\0" + packet[end:]
    return packet


class Subscriber:
    """Receives messages of one subscription and acknowledges them later.

    `take` and `acknowledge` may be called from another thread than paho's.
    """

    def __init__(self, config: MqttConfig) -> None:
        self._config = config
        self._queue: deque[tuple[Arrival, Receipt]] = deque()
        self._queued_bytes = 0
        self._connection = 0
        # Reentrant: where paho's thread has ended, `ack` itself writes, and may find out about a
        # lost connection.
        self._lock = threading.RLock()
        self._room = threading.Event()
        self._started = self._stopping = False
        self.connected = threading.Event()
        self._client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=config.client_id,
            protocol=paho.MQTTv5,
            manual_ack=True,
            reconnect_on_failure=True,
        )
        self._client.suppress_exceptions = False
        if config.username is not None:
            self._client.username_pw_set(config.username, config.password)
        self._client.reconnect_delay_set(_RECONNECT_MIN_S, _RECONNECT_MAX_S)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def start(self) -> None:
        """Connect in the background and keep trying."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = self._config.receive_maximum
        properties.SessionExpiryInterval = self._config.session_expiry_s
        self._client.connect_async(
            self._config.host,
            self._config.port,
            keepalive=_KEEPALIVE_S,
            clean_start=False,
            properties=properties,
        )
        self._client.loop_start()
        self._started = True

    def stop(self) -> None:
        """Disconnect; the broker keeps the session and what was not acknowledged."""
        self._stopping = True
        self._room.set()
        self._client.disconnect()
        self._client.loop_stop()

    def take(self, limit: int) -> list[tuple[Arrival, Receipt]]:
        """Return up to `limit` messages that wait, oldest first.

        Raises
        ------
        SubscriberError
            If paho's thread was started and has ended by itself.
        """
        queue = self._queue
        taken = [queue.popleft() for _ in range(min(limit, len(queue)))]
        with self._lock:
            self._queued_bytes -= sum(len(arrival.payload) for arrival, _ in taken)
        self._room.set()
        if not taken and self._started and not self._stopping and not self._client.serving:
            raise SubscriberError("the MQTT thread has ended")
        return taken

    def acknowledge(self, receipts: list[Receipt]) -> None:
        """Acknowledge messages, in the order given.

        A receipt of an earlier connection is passed over: the broker will send its message
        again, and its packet id may mean another message by now.
        """
        with self._lock:
            for receipt in receipts:
                if receipt.connection == self._connection:
                    self._client.ack(receipt.mid, receipt.qos)

    def _on_connect(
        self,
        client: paho.Client,
        _userdata: object,
        _flags: paho.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            _LOG.error("mqtt refused: %s", reason)
            return
        _LOG.info("mqtt connected host=%s port=%d", self._config.host, self._config.port)
        group, wanted = self._config.share_group, self._config.filter
        # Retained messages would come again with every connection; a group never gets them.
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        client.subscribe(f"$share/{group}/{wanted}" if group else wanted, options=options)

    def _on_connect_fail(self, *_arguments: Any) -> None:
        _LOG.warning("mqtt cannot be reached: %s:%d", self._config.host, self._config.port)

    def _on_subscribe(self, *arguments: Any) -> None:
        refusals = [reason for reason in arguments[3] if reason.is_failure]
        if refusals:
            _LOG.error("mqtt refuses the subscription %s: %s", self._config.filter, refusals[0])
            return
        self.connected.set()

    def _on_disconnect(self, *arguments: Any) -> None:
        # paho empties its send queue after this callback and before it connects anew, so no
        # acknowledgement of the old connection can reach the new one.
        with self._lock:
            self._connection += 1
        self.connected.clear()
        _LOG.warning("mqtt disconnected: %s", arguments[3] if len(arguments) > 3 else "")  # noqa: PLR2004

    def _on_message(
        self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage
    ) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "\ufffd"
        while self._is_full() and not self._stopping:
            self._room.clear()
            self._room.wait(_ROOM_CHECK_S)
        arrival = Arrival(topic, bytes(message.payload), time.time_ns())
        with self._lock:
            self._queued_bytes += len(arrival.payload)
        self._queue.append((arrival, Receipt(self._connection, message.mid, message.qos)))

    def _is_full(self) -> bool:
        return (
            len(self._queue) >= self._config.receive_maximum
            or self._queued_bytes >= _MAX_QUEUED_BYTES
        )

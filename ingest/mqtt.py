"""The MQTT side of the bridge: paho in its own thread, acknowledging only when told.

paho keeps what it is good at (connecting, the handshake, pings, the send queue); the messages
themselves go past it. It reads one packet per `select` with four `recv`, and makes an object and a
log line of each; here one read brings hundreds, and one write acknowledges thousands.

paho's subclass and the subscriber stand together, in more lines than is usual here, because neither
is right without the other: who may touch what from which thread is one agreement.

The bound on what waits is kept here, by not reading the socket: of the receive maximum Mosquitto
2.0 lets the broker exceed it (every acknowledgement of a backlog releases a whole window more,
eclipse-mosquitto/mosquitto#2301), and rumqttd has a window of its own.
"""

import logging
import random
import select
import socket
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, _ConnectionState
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from ingest.arrival import Arrival
from ingest.packets import (
    Cutter,
    PacketError,
    Publish,
    acknowledgements,
    read_publish,
    without_properties,
)

_LOG = logging.getLogger(__name__)
# Pings and acknowledgements go out also while nothing is read, so a bridge whose Kafka is away
# for long stays connected. What is not noticed then is a broker that is gone, until a write fails.
_KEEPALIVE_S: Final = 60
_RECONNECT_MIN_S: Final = 1
_RECONNECT_MAX_S: Final = 30
# How long the last acknowledgements and the goodbye may take to a broker that does not read.
_STOP_PATIENCE_S: Final = 2.0
_STOP_CHECK_S: Final = 0.2
# One read: hundreds of messages, and a few milliseconds until writing has its turn again.
_READ_BYTES: Final = 64 << 10
# OpenSSL gives one record at a time, and none is larger. Taken whole, it leaves nothing behind in
# OpenSSL, where `select` would not see it.
_TLS_RECORD_BYTES: Final = 16 << 10
# Told to the broker, which then drops a larger message; it would otherwise come again with every
# connection, and nothing behind it would get through. Far above what a bridge accepts.
_MAX_PACKET_BYTES: Final = 16 << 20
# The other bound on what waits: thousands of messages of the broker's largest size are gigabytes.
_MAX_QUEUED_BYTES: Final = 64 << 20
_WAKINGS: Final = 10_000
# Fewer waiting messages than this are those of the moment; a backlog comes by the thousand.
_QUIET: Final = 500
_PUBLISH: Final = 0x30
_PACKET_TYPE: Final = 0xF0
# Set in the first byte of a PUBLISH of QoS 2, which takes two more packets each way.
_QOS_2: Final = 0x04
_GOODBYE: Final = (
    _ConnectionState.MQTT_CS_DISCONNECTING,
    _ConnectionState.MQTT_CS_DISCONNECTED,
)


class SubscriberError(Exception):
    """Nothing would ever arrive.

    The connection's thread has ended, the broker refuses the subscription, or a file is bad.
    """


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files for a connection that is encrypted, to a broker that proves its name.

    Parameters
    ----------
    ca : Path or None
        PEM certificates of who may vouch for the broker. None: whoever this machine trusts.
    certificate : Path or None
        PEM certificate (and chain) by which the bridge proves its own name.
    key : Path or None
        Its key, without a passphrase. None: it is in the certificate's file.
    """

    ca: Path | None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if self.key is not None and self.certificate is None:
            raise ValueError(f"{self.key}: a key without its certificate")


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
    tls : TlsFiles or None
        None for a connection in plain text.
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
    tls: TlsFiles | None = None


class Receipt(NamedTuple):
    """What must be known to acknowledge a message on the connection it came by."""

    connection: int
    mid: int
    qos: int


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Return what a connection is encrypted with; the broker's name is always checked.

    Raises
    ------
    SubscriberError
        If a file is missing or holds something else, or the key has a passphrase.
    """
    # OpenSSL does not say which of the files it could not open.
    for path in filter(None, (files.ca, files.certificate, files.key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise SubscriberError(f"{path}: {error.strerror}") from error
    try:
        context = ssl.create_default_context(cafile=files.ca)
    except ssl.SSLError as error:
        raise SubscriberError(f"{files.ca}: no PEM certificates: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A write must never have to wait for a read: while the queue is full nothing is read.
    context.options |= ssl.OP_NO_RENEGOTIATION
    if files.certificate is not None:
        key = files.key or files.certificate

        def refuse() -> NoReturn:
            # OpenSSL would ask for it at the terminal.
            raise SubscriberError(f"{key}: the key has a passphrase")

        try:
            context.load_cert_chain(files.certificate, files.key, refuse)
        except ssl.SSLError as error:
            raise SubscriberError(f"{files.certificate}, {key}: not a pair: {error}") from error
    return context


class _Client(paho.Client):
    """paho with a reading side of its own, which reads only while there is room.

    It is blind to the properties of messages: paho refuses some that MQTT allows (a user property
    with U+FEFF) by closing the connection. The broker then delivers the same message again, for
    ever, and nothing behind it gets through.

    Parameters
    ----------
    client_id : str
    room : callable
        Returns how many messages, and bytes of them, may be delivered now.
    deliver : callable
        Takes messages, in paho's thread.
    """

    def __init__(
        self,
        client_id: str,
        room: Callable[[], tuple[int, int]],
        deliver: Callable[[list[Publish]], None],
    ) -> None:
        self._room = room
        self._deliver = deliver
        self._cutter = Cutter(_MAX_PACKET_BYTES)
        self._waits_for_room = False
        self._ending = threading.Event()
        self._patience_end = float("inf")
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5,
            manual_ack=True,
            reconnect_on_failure=True,
        )
        self.suppress_exceptions = False
        self.on_message = self._on_whole_message
        self.on_socket_open = _send_at_once

    @property
    def serving(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None

    def look_again(self) -> None:
        """Tell the thread that there is room now; from any thread."""
        wake = self._sockpairW
        if self._waits_for_room and wake is not None:
            try:
                wake.send(b"\0")
            except OSError:  # full of wakings already, or closed by `close`
                return

    def acknowledge(self, packets: bytes) -> None:
        """Send acknowledgements, made by `packets.acknowledgements`; from any thread."""
        self._packet_queue(PacketTypes.PUBACK << 4, packets, 0, 1)

    def close(self) -> None:
        """Say goodbye, end the thread, and free its sockets."""
        self._patience_end = time.monotonic() + _STOP_PATIENCE_S
        self.disconnect()
        self._ending.set()
        self.loop_stop()
        self._reset_sockets()

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:  # noqa: ARG002 - paho's signature
        """Read once and deliver what has come; paho's answer to what went wrong."""
        if self._sock is None:
            return MQTTErrorCode.MQTT_ERR_NO_CONN
        try:
            data = self._receive()
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        except OSError as error:
            _LOG.warning("mqtt cannot be read: %s", error)
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        if not data:
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        with self._msgtime_mutex:
            self._last_bytes_received = paho.time_func()
        self._cutter.feed(data)
        return self._hand_over()

    def _loop(self, timeout: float = 1.0) -> MQTTErrorCode:
        if self._ending.is_set():
            timeout = min(timeout, _STOP_CHECK_S)
            if time.monotonic() > self._patience_end:
                self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
                return MQTTErrorCode.MQTT_ERR_CONN_LOST
        rc = self._hand_over()
        connection = self._sock
        if rc or connection is None:
            return rc or MQTTErrorCode.MQTT_ERR_NO_CONN
        # Set before the look, so that `look_again` cannot fall between the look and the wait.
        self._waits_for_room = True
        self._waits_for_room = reads_nothing = not self._may_read()
        readable, writable = self._wait(connection, timeout, reads=not reads_nothing)
        if reads_nothing:
            # The answer to a ping lies unread among the messages: it is not missing.
            self._ping_t = 0.0
        for ready, act in ((readable, self.loop_read), (writable, self.loop_write)):
            if ready and (rc := act()):
                return rc
        # Each of them has nothing to do, and says so, where the one before ended the connection.
        return self.loop_misc()

    def _wait(
        self, connection: "paho.SocketLike", timeout: float, *, reads: bool
    ) -> tuple[bool, bool]:
        """Wait for the socket or for a waking; say whether to read, and whether to write."""
        wake = self._sockpairR
        wanted = [each for each in (connection if reads else None, wake) if each is not None]
        writes = [connection] if self.want_write() else []
        readable, writable, _ = select.select(wanted, writes, [], timeout)
        awoken = wake is not None and wake in readable
        if wake is not None and awoken:
            # All the wakings since the last time; there may be something to write that was not
            # there when the wait began.
            wake.recv(_WAKINGS)
        return connection in readable, awoken or bool(writable)

    def _may_read(self) -> bool:
        """Return whether there is room, or no message can come: its answers must be read."""
        if self._state in _GOODBYE:
            return False
        return not self.is_connected() or min(self._room()) > 0

    def _receive(self) -> bytes:
        """Return what has come, nothing at the end of the connection."""
        if not isinstance(self._sock, ssl.SSLSocket):
            return self._sock_recv(_READ_BYTES)
        parts: list[bytes] = []
        size = 0
        while size < _READ_BYTES:
            try:
                part = self._sock_recv(_TLS_RECORD_BYTES)
            except OSError:
                # Nothing more now, or a fault, which the next read meets again.
                if parts:
                    break
                raise
            if not part:
                break
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    def _hand_over(self) -> MQTTErrorCode:
        """Deliver whole packets as long as there is room for them."""
        try:
            while self._may_read():
                limits = self._room() if self.is_connected() else (1, 1)
                packets = self._cutter.cut(*limits)
                if not packets:
                    break
                rc = self._handle_all(packets)
                if rc:
                    return self._loop_rc_handle(rc)
                if self._sock is None:
                    break
        except (PacketError, MalformedPacket) as error:
            _LOG.error("mqtt broker sends what cannot be read: %s", error)
            return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_PROTOCOL)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_all(self, packets: list[tuple[int, bytes]]) -> MQTTErrorCode:
        messages: list[Publish] = []
        try:
            for command, body in packets:
                if command & _PACKET_TYPE == _PUBLISH and not command & _QOS_2:
                    if not self.is_connected():
                        raise PacketError("a message before the connection is accepted")
                    messages.append(read_publish(command, body))
                    continue
                if messages:
                    # Before anything that may end the connection they came by.
                    self._deliver(messages)
                    messages = []
                rc = self._handle(command, body)
                if rc or self._sock is None:
                    return rc
        finally:
            if messages:
                self._deliver(messages)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle(self, command: int, body: bytes) -> MQTTErrorCode:
        """Give a packet to paho, as if it had read it."""
        if command & _PACKET_TYPE == _PUBLISH:
            body = without_properties(command, body)
        self._in_packet = {
            "command": command,
            "have_remaining": 1,
            "remaining_count": [],
            "remaining_mult": 1,
            "remaining_length": len(body),
            "packet": bytearray(body),
            "to_process": 0,
            "pos": 0,
        }
        return self._packet_handle()

    def _on_whole_message(
        self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage
    ) -> None:
        """Deliver a message of QoS 2, which is whole when paho has let it go."""
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "\ufffd"
        self._deliver([Publish(topic, bytes(message.payload), message.mid, message.qos)])

    def _sock_close(self) -> None:
        # Half a packet of this connection is not the beginning of one of the next.
        self._cutter = Cutter(_MAX_PACKET_BYTES)
        if self._state in _GOODBYE and self._sock is not None:
            self._hear_out(self._sock)
        super()._sock_close()

    def _hear_out(self, connection: Any) -> None:
        """Read and forget until the broker has closed its side.

        While it works through the last acknowledgements it sends what they make room for. Sent to
        a closed socket, that would end the connection for it before it has read the rest of them,
        and every one of their messages would come again.
        """
        try:
            connection.shutdown(socket.SHUT_WR)
            while (left := self._patience_end - time.monotonic()) > 0:
                connection.settimeout(left)
                if not connection.recv(_READ_BYTES):
                    return
        except OSError:
            return

    def _reconnect_wait(self) -> None:
        """Wait longer each time, and never as long as all the other bridges do."""
        with self._reconnect_delay_mutex:
            least, most = self._reconnect_min_delay, self._reconnect_max_delay
            self._reconnect_delay = min(2 * (self._reconnect_delay or least), most)
            delay = random.uniform(least, self._reconnect_delay)  # noqa: S311 - no secret
        self._ending.wait(delay)

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        # paho's leaves the socket open where the handshake fails.
        context = self._ssl_context
        if context is None:
            raise SubscriberError("TLS without its context")
        with tcp_sock:
            encrypted = context.wrap_socket(
                tcp_sock, server_hostname=self._host, do_handshake_on_connect=False
            )
        try:
            encrypted.settimeout(self._connect_timeout)
            encrypted.do_handshake()
        except BaseException:
            encrypted.close()
            raise
        return encrypted


def _send_at_once(_client: paho.Client, _userdata: object, connection: Any) -> None:
    # An acknowledgement would else wait for the broker's kernel to confirm the one before.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Subscriber:
    """Receives messages of one subscription and acknowledges them later.

    `take` and `acknowledge` may be called from another thread than paho's.

    Raises
    ------
    SubscriberError
        If a file for TLS cannot be used.
    """

    def __init__(self, config: MqttConfig) -> None:
        self._config = config
        self._queue: deque[tuple[Arrival, Receipt]] = deque()
        self._queued_bytes = 0
        self._connection = 0
        # Reentrant: where paho's thread has ended, acknowledging itself writes, and may find out
        # about a lost connection.
        self._lock = threading.RLock()
        self._started = self._stopping = False
        self._refusal: str | None = None
        self.connected = threading.Event()
        self._client = _Client(config.client_id, self._room, self._deliver)
        if config.username is not None:
            self._client.username_pw_set(config.username, config.password)
        if config.tls is not None:
            self._client.tls_set_context(tls_context(config.tls))
        self._client.reconnect_delay_set(_RECONNECT_MIN_S, _RECONNECT_MAX_S)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_subscribe = self._on_subscribe
        self._client.on_unsubscribe = self._on_unsubscribe

    def start(self) -> None:
        """Connect in the background and keep trying."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = self._config.receive_maximum
        properties.MaximumPacketSize = _MAX_PACKET_BYTES
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
        self._client.close()
        self.connected.clear()

    @property
    def is_quiet(self) -> bool:
        """Whether it is connected and less waits than the broker sends in a moment."""
        return self.connected.is_set() and len(self._queue) < _QUIET

    def take(self, limit: int) -> list[tuple[Arrival, Receipt]]:
        """Return up to `limit` messages that wait, oldest first.

        Raises
        ------
        SubscriberError
            If paho's thread was started and has ended by itself, or the broker refuses the
            subscription.
        """
        queue = self._queue
        taken = [queue.popleft() for _ in range(min(limit, len(queue)))]
        if taken:
            with self._lock:
                self._queued_bytes -= sum(len(arrival.payload) for arrival, _ in taken)
            self._client.look_again()
        elif self._refusal:
            raise SubscriberError(self._refusal)
        elif self._started and not self._stopping and not self._client.serving:
            raise SubscriberError("the MQTT thread has ended")
        return taken

    def acknowledge(self, receipts: list[Receipt]) -> None:
        """Acknowledge messages, in the order given.

        A receipt of an earlier connection is passed over: the broker will send its message
        again, and its packet id may mean another message by now.
        """
        with self._lock:
            current = self._connection
            packets = acknowledgements(
                (mid, qos) for connection, mid, qos in receipts if connection == current
            )
            if packets:
                self._client.acknowledge(packets)

    def _room(self) -> tuple[int, int]:
        return (
            self._config.receive_maximum - len(self._queue),
            _MAX_QUEUED_BYTES - self._queued_bytes,
        )

    def _deliver(self, messages: list[Publish]) -> None:
        # What one read brought came at one moment.
        received_ns = time.time_ns()
        connection = self._connection
        self._arrived(
            [
                (Arrival(topic, payload, received_ns), Receipt(connection, mid, qos))
                for topic, payload, mid, qos in messages
            ]
        )

    def _arrived(self, burst: list[tuple[Arrival, Receipt]]) -> None:
        """Let messages wait, in paho's thread; there is room for them."""
        with self._lock:
            self._queued_bytes += sum(len(arrival.payload) for arrival, _ in burst)
        self._queue.extend(burst)

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
        # paho calls this while it handles the failure.
        _LOG.warning(
            "mqtt cannot be reached: %s:%d: %s",
            self._config.host,
            self._config.port,
            sys.exception(),
        )

    def _on_subscribe(self, *arguments: Any) -> None:
        refusals = [reason for reason in arguments[3] if reason.is_failure]
        if refusals:
            self._refusal = f"mqtt refuses the subscription {self._config.filter}: {refusals[0]}"
            return
        if self._config.share_group:
            # What this session had alone before it joined the group would come twice.
            self._client.unsubscribe(self._config.filter)
        self.connected.set()

    def _on_unsubscribe(self, *_arguments: Any) -> None:
        _LOG.info("mqtt receives as one of the group %s only", self._config.share_group)

    def _on_disconnect(self, *arguments: Any) -> None:
        # paho empties its send queue after this callback and before it connects anew, so no
        # acknowledgement of the old connection can reach the new one.
        with self._lock:
            self._connection += 1
        self.connected.clear()
        _LOG.warning("mqtt disconnected: %s", arguments[3] if len(arguments) > 3 else "")  # noqa: PLR2004

"""The front door of the city: one MQTT 5 connection that publishes with QoS 1.

paho's sockets are served from the publishing thread itself, with its documented calls for
foreign event loops. A network thread beside it would hand every packet over through a socket pair
and the interpreter lock, which costs more than the packet.
"""

import logging
import select
import ssl
import time
from dataclasses import dataclass
from threading import Event
from typing import Any, Final
from uuid import uuid4

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_when_event_set

_LOG = logging.getLogger(__name__)

# Measured: with 1000 messages in flight a broker on the same machine slows down to 3k/s.
MAX_INFLIGHT: Final = 20
_KEEPALIVE_S: Final = 30
_CONNECT_S: Final = 10.0
# A broker that stays away longer than this ends the run.
OUTAGE_LIMIT_S: Final = 60.0
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_CAP_S: Final = 5.0
# What ends a handshake when the line breaks or the broker goes; every other fault of TLS (another
# authority, another name, no TLS at all) will be the same at the next attempt.
_BROKEN_LINE: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
# paho checks keepalive and the retry of what is in flight here; once a second is plenty.
_MISC_S: Final = 1.0


class FrontDoorError(Exception):
    """The broker cannot be reached or refuses the connection."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to publish, and as whom.

    Parameters
    ----------
    host, port : str, int
        The MQTT broker.
    username, password : str or None
        Where the broker asks for them.
    tls : ssl.SSLContext or None
        Whom to trust, and what certificate to show; None speaks in the clear. It must check the
        host's name: where it does not, paho calls a function that Python 3.12 has no more.
    """

    host: str
    port: int
    username: str | None = None
    password: str | None = None
    tls: ssl.SSLContext | None = None


class _ClosingSocket(ssl.SSLSocket):
    """A socket that paho, which forgets it when the handshake fails, need not close then."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


class FrontDoor:
    """A publishing connection; open it, send, serve, drain, close.

    After a lost connection the next `serve` connects again and paho sends anew whatever was not
    acknowledged, so a message can arrive twice but none is lost.

    Parameters
    ----------
    address : Address
        The broker.
    stop : threading.Event
        Ends the waiting between attempts to connect.
    """

    def __init__(self, address: Address, stop: Event) -> None:
        self._address = address
        self._stop = stop
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"simulator-{uuid4().hex[:12]}",
            protocol=paho.MQTTv5,
        )
        self._client.max_inflight_messages_set(MAX_INFLIGHT)
        if address.username is not None:
            self._client.username_pw_set(address.username, address.password)
        if address.tls is not None:
            address.tls.sslsocket_class = _ClosingSocket
            self._client.tls_set_context(address.tls)
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish
        self._refusal: str | None = None
        self._connected = False
        self._misc_at = 0.0
        self.sent = 0
        self.acknowledged = 0
        self.refused = 0
        self.reconnects = 0

    @property
    def pending(self) -> int:
        """Messages sent and not acknowledged yet."""
        return self.sent - self.acknowledged

    @property
    def _where(self) -> str:
        return f"{self._address.host}:{self._address.port}"

    def open(self) -> None:
        """Connect, trying for `OUTAGE_LIMIT_S`.

        Raises
        ------
        FrontDoorError
            If the broker refuses, cannot be reached in time, or no TLS can be had with it.
        """
        self._connect_patiently(first=True)

    def send(self, topic: str, payload: bytes) -> None:
        """Hand one message to the connection; it waits there while too many are in flight."""
        self._client.publish(topic, payload, qos=1)
        self.sent += 1

    def serve(self, timeout_s: float) -> None:
        """Read acknowledgements and write what waits, for at most `timeout_s`.

        Returns early once something was read.

        Raises
        ------
        FrontDoorError
            If the connection was lost and could not be had again in time.
        """
        if not self._serve_once(timeout_s) and not self._stop.is_set():
            self.reconnects += 1
            _LOG.warning("connection to %s lost, connecting again", self._address.host)
            self._connect_patiently(first=False)

    def drain(self, timeout_s: float) -> int:
        """Wait until everything is acknowledged; return how many messages are not."""
        deadline = time.monotonic() + timeout_s
        while self.pending and (left := deadline - time.monotonic()) > 0:
            if not self._serve_once(left):
                # Attempts are made here even while stopping: what was sent should be counted.
                try:
                    self._connect(first=False)
                except OSError:
                    time.sleep(min(_BACKOFF_FIRST_S, max(left, 0.0)))
        return self.pending

    def close(self) -> None:
        """Say good-bye and close the socket."""
        self._client.disconnect()
        self._client.loop_write()

    def _connect_patiently(self, *, first: bool) -> None:
        retrying = Retrying(
            retry=retry_if_exception_type(OSError),
            wait=wait_random_exponential(multiplier=_BACKOFF_FIRST_S, max=_BACKOFF_CAP_S),
            stop=stop_after_delay(OUTAGE_LIMIT_S) | stop_when_event_set(self._stop),
            sleep=sleep_using_event(self._stop),
            reraise=True,
        )
        try:
            retrying(self._connect, first=first)
        except OSError as error:
            if not self._stop.is_set():
                raise FrontDoorError(f"no MQTT broker at {self._where}: {error}") from error

    def _connect(self, *, first: bool) -> None:
        self._connected, self._refusal = False, None
        try:
            if first:
                self._client.connect(self._address.host, self._address.port, _KEEPALIVE_S)
            else:
                self._client.reconnect()
        except _BROKEN_LINE:
            raise
        except ssl.SSLError as error:
            raise FrontDoorError(f"no TLS with the broker at {self._where}: {error}") from error
        deadline = time.monotonic() + _CONNECT_S
        while not self._connected:
            left = deadline - time.monotonic()
            alive = left > 0 and self._serve_once(left)
            if self._refusal is not None:
                raise FrontDoorError(f"the MQTT broker refuses: {self._refusal}")
            if not alive:
                # With TLS 1.3 the broker looks at the certificate when our handshake is over.
                hint = "; does it accept this certificate?" if self._address.tls else ""
                raise ConnectionError(f"no answer to CONNECT{hint}")

    def _serve_once(self, timeout_s: float) -> bool:
        """Serve the socket; return False when the connection is gone."""
        client = self._client
        socket = client.socket()
        if socket is None:
            return False
        # Packets that came in one TLS record with others are in no socket any more.
        decrypted = isinstance(socket, ssl.SSLSocket) and socket.pending() > 0
        poll = select.poll()
        poll.register(socket, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
        events = poll.poll(0.0 if decrypted else max(timeout_s, 0.0) * 1000.0)
        readable = decrypted
        for _, event in events:
            if event & select.POLLOUT:
                client.loop_write()
            readable |= bool(event & ~select.POLLOUT)
        if readable:
            client.loop_read()
        if (now := time.monotonic()) >= self._misc_at:
            self._misc_at = now + _MISC_S
            client.loop_misc()
        return client.socket() is not None

    def _on_connect(
        self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _props: Properties | None
    ) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
        self._connected = not reason.is_failure

    def _on_publish(
        self, _client: Any, _data: Any, _mid: int, reason: ReasonCode, _props: Properties | None
    ) -> None:
        self.acknowledged += 1
        self.refused += reason.is_failure

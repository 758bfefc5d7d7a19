"""MQTT v5 packets out of a stream of bytes, many at a time.

Whatever the bytes are, cutting ends: with packets, with a wait for more, or with `PacketError`,
after which the stream means nothing any more. What is held never exceeds one packet of the largest
size taken plus one read.
"""

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

# Of the fixed header: the type, and up to four digits of the length.
_MAX_HEADER_BYTES: Final = 5
# Digits of a variable byte integer have seven bits; the eighth says that one more follows.
_MORE: Final = 0x80
_QOS_BITS: Final = 0x06
# PUBACK and PUBCOMP of four bytes: type, remaining length 2, packet id. No reason means success.
_ACKNOWLEDGE: Final = {1: 0x4002_0000, 2: 0x7002_0000}


class PacketError(ValueError):
    """What the broker sends is not MQTT, or larger than it was told to send."""


class Publish(NamedTuple):
    """One message as the broker delivers it.

    Parameters
    ----------
    topic : str
        One character U+FFFD where it is not UTF-8. Empty where the broker names it by a topic
        alias, which it may not, for none is offered.
    payload : bytes
    mid : int
        Packet id, 0 at QoS 0.
    qos : int
    """

    topic: str
    payload: bytes
    mid: int
    qos: int


class Cutter:
    """Cuts whole packets out of what a connection delivers.

    Parameters
    ----------
    max_packet : int
        Bytes of the largest packet taken, without its fixed header.
    """

    def __init__(self, max_packet: int) -> None:
        self._max_packet = max_packet
        # Whole packets stay where they are until they are asked for, ...
        self._data = b""
        self._start = 0
        # ... and what does not make a whole one yet is gathered, and looked at when it does.
        self._tail = bytearray()
        self._needed = 1

    @property
    def held(self) -> int:
        """Bytes held, whole packets and the beginning of the next."""
        return len(self._data) - self._start + len(self._tail)

    def feed(self, data: bytes) -> None:
        """Take what has arrived; to be called when `cut` has nothing more to give."""
        self._tail += data

    def cut(self, limit: int, size: int) -> list[tuple[int, bytes]]:
        """Return the next whole packets: first byte and body of each.

        Parameters
        ----------
        limit : int
            Most packets to return.
        size : int
            Bytes of bodies after which no further packet is returned.

        Raises
        ------
        PacketError
            If the next packet's length is malformed or too large. Packets before it are returned
            first.
        """
        if not self._is_ready():
            return []
        data, position, end = self._data, self._start, len(self._data)
        packets: list[tuple[int, bytes]] = []
        needed = 0
        while len(packets) < limit and size > 0:
            try:
                header, length = self._measure(data, position)
            except PacketError:
                if packets:
                    break
                raise
            body = position + header
            needed = header + length
            if position + needed > end:
                break
            needed = 0
            packets.append((data[position], data[body : body + length]))
            position = body + length
            size -= length
        self._start = position
        if needed:
            self._tail[:0] = data[position:]
            self._data, self._start, self._needed = b"", 0, needed
            if not packets and len(self._tail) >= needed:
                # What came since the last look completes it.
                return self.cut(limit, size)
        return packets

    def _is_ready(self) -> bool:
        if self._start == len(self._data):
            if len(self._tail) < self._needed:
                return False
            self._data, self._start = bytes(self._tail), 0
            self._tail.clear()
            self._needed = 1
        return True

    def _measure(self, data: bytes, position: int) -> tuple[int, int]:
        """Return the sizes of a packet's header and body.

        Where the header is not all there, one byte more than there is.
        """
        length = shift = 0
        for header in range(2, _MAX_HEADER_BYTES + 1):
            if position + header > len(data):
                return header, 0
            digit = data[position + header - 1]
            length |= (digit & ~_MORE) << shift
            if digit < _MORE:
                if length > self._max_packet:
                    raise PacketError(f"a packet of {length} bytes")
                return header, length
            shift += 7
        raise PacketError("a packet length of more than four digits")


def read_publish(command: int, body: bytes) -> Publish:
    """Return the message of a PUBLISH packet, its properties passed over unread.

    Raises
    ------
    PacketError
        If lengths inside it point beyond its end, or a packet id is 0.
    """
    properties, payload = _bounds(command, body)
    qos = (command & _QOS_BITS) >> 1
    mid = 0
    if qos:
        properties -= 2
        mid = body[properties] << 8 | body[properties + 1]
        if not mid:
            raise PacketError("a message with packet id 0")
    try:
        topic = body[2:properties].decode()
    except UnicodeDecodeError:
        topic = "\ufffd"
    return Publish(topic, body[payload:], mid, qos)


def without_properties(command: int, body: bytes) -> bytes:
    """Return the body of a PUBLISH packet with its properties cut out.

    Raises
    ------
    PacketError
        If lengths inside it point beyond its end.
    """
    properties, payload = _bounds(command, body)
    return body[:properties] + b"\0" + body[payload:]


def acknowledgements(received: Iterable[tuple[int, int]]) -> bytes:
    """Return the packets that acknowledge messages, in their order.

    Parameters
    ----------
    received : iterable of (int, int)
        Packet id and QoS of each; QoS 0 needs none.
    """
    words = [_ACKNOWLEDGE[qos] | mid for mid, qos in received if qos]
    return struct.pack(f"!{len(words)}I", *words)


def _bounds(command: int, body: bytes) -> tuple[int, int]:
    """Return where the properties of a PUBLISH begin, and where its payload does."""
    try:
        start = 2 + (body[0] << 8 | body[1]) + (2 if command & _QOS_BITS else 0)
        position = start
        length = shift = 0
        while True:
            digit = body[position]
            position += 1
            length |= (digit & ~_MORE) << shift
            if digit < _MORE:
                break
            shift += 7
            if position - start == _MAX_HEADER_BYTES - 1:
                raise PacketError("a property length of more than four digits")
    except IndexError:
        raise PacketError("a message that ends before its payload") from None
    if position + length > len(body):
        raise PacketError("properties longer than their message")
    return start, position + length

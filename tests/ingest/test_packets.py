"""Packets out of bytes: however they are chunked, and whatever they are."""

import struct

import paho.mqtt.client as paho
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paho.mqtt import _packet
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ingest.packets import (
    Cutter,
    PacketError,
    Publish,
    acknowledgements,
    read_publish,
    without_properties,
)

MAX_PACKET = 20_000
NO_LIMIT = 1 << 30
Packet = tuple[int, bytes]

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=50)


def whole(command: int, body: bytes) -> bytes:
    """Return a packet with its fixed header."""
    length, header = len(body), [command]
    while True:
        digit, length = length & 0x7F, length >> 7
        header.append(digit | 0x80 if length else digit)
        if not length:
            return bytes(header) + body


@st.composite
def publishes(draw: st.DrawFn) -> Packet:
    properties = Properties(PacketTypes.PUBLISH)
    if pairs := draw(st.lists(st.tuples(TEXT, TEXT), max_size=8)):
        properties.UserProperty = pairs
    if draw(st.booleans()):
        properties.ContentType = draw(TEXT)
        properties.CorrelationData = draw(st.binary(max_size=200))
        properties.MessageExpiryInterval = draw(st.integers(0, 2**32 - 1))
    topic = draw(TEXT).encode()
    qos = draw(st.integers(0, 2))
    mid = struct.pack("!H", draw(st.integers(1, 65_535))) if qos else b""
    head = struct.pack("!H", len(topic)) + topic + mid
    flags = draw(st.sampled_from([0x00, 0x01, 0x08, 0x09]))
    return 0x30 | flags | qos << 1, head + properties.pack() + draw(st.binary(max_size=50))


@st.composite
def streams(draw: st.DrawFn) -> list[Packet]:
    large = st.integers(100, MAX_PACKET).map(lambda size: (0x32, b"\0\1t\0\1\0" + bytes(size - 6)))
    other = st.tuples(st.sampled_from([0x20, 0x90, 0xD0, 0xE0]), st.binary(max_size=300))
    return draw(st.lists(st.one_of(publishes(), publishes(), other, large), max_size=12))


def cut_all(cutter: Cutter, limit: int = NO_LIMIT, size: int = NO_LIMIT) -> list[Packet]:
    found: list[Packet] = []
    while part := cutter.cut(limit, size):
        assert len(part) <= limit
        found += part
    return found


@given(streams(), st.data())
@settings(deadline=None)
def test_any_split_of_a_stream_gives_the_same_packets(
    sent: list[Packet], data: st.DataObject
) -> None:
    stream = b"".join(whole(*packet) for packet in sent)
    places = st.integers(0, len(stream))
    cuts = sorted(data.draw(st.lists(places, max_size=20)))
    cutter = Cutter(MAX_PACKET)
    found: list[Packet] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        cutter.feed(stream[start:end])
        limit = data.draw(st.sampled_from([1, 2, NO_LIMIT]))
        size = data.draw(st.sampled_from([1, 300, NO_LIMIT]))
        if data.draw(st.booleans()):
            found += cut_all(cutter, limit, size)
        else:
            # There was room for a part only; more may arrive before there is room again.
            found += cutter.cut(limit, size)
    found += cut_all(cutter)
    assert found == sent
    assert cutter.held == 0


def test_every_byte_on_its_own() -> None:
    sent = [(0x32, b"\0\1t\0\1\0" + bytes(200)), (0xD0, b""), (0x30, b"\0\1t\0x")]
    cutter = Cutter(MAX_PACKET)
    found: list[Packet] = []
    for byte in b"".join(whole(*packet) for packet in sent):
        cutter.feed(bytes([byte]))
        found += cut_all(cutter)
    assert found == sent


@given(st.integers(1, 5), st.integers(1, 400))
def test_no_more_is_cut_than_there_is_room_for(limit: int, size: int) -> None:
    body = b"\0\1t\0" + bytes(96)
    cutter = Cutter(MAX_PACKET)
    cutter.feed(whole(0x30, body) * 10)
    found = cutter.cut(limit, size)
    assert len(found) == min(limit, -(-size // len(body)))
    assert len(found) + len(cut_all(cutter)) == 10


@given(st.lists(st.binary(max_size=300), max_size=30))
@example([whole(0x30, bytes(MAX_PACKET))[:-1], b"\0\xff\xff\xff\xff\xff"])
def test_garbage_is_cut_or_refused_and_never_piles_up(chunks: list[bytes]) -> None:
    cutter = Cutter(MAX_PACKET)
    for chunk in chunks:
        cutter.feed(chunk)
        try:
            for command, body in cut_all(cutter):
                if command & 0xF4 == 0x30:
                    try:
                        read_publish(command, body)
                    except PacketError:
                        continue
        except PacketError:
            return
        # Never more than the beginning of one packet.
        assert cutter.held < MAX_PACKET + 5


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"\x30\xff\xff\xff\xff\x01", "four digits"),
        (b"\x30\x80\x80\x80\x80", "four digits"),
        (b"\x30\xff\xff\xff\x7f", "268435455 bytes"),
        (whole(0x30, bytes(MAX_PACKET + 1))[:4], "20001 bytes"),
    ],
)
def test_a_senseless_length_is_refused_before_its_packet_has_come(
    header: bytes, reason: str
) -> None:
    cutter = Cutter(MAX_PACKET)
    cutter.feed(whole(0xD0, b"") + header)
    assert cutter.cut(10, NO_LIMIT) == [(0xD0, b"")]
    with pytest.raises(PacketError, match=reason):
        cutter.cut(10, NO_LIMIT)


def test_the_largest_packet_is_taken() -> None:
    cutter = Cutter(MAX_PACKET)
    cutter.feed(whole(0x30, bytes(MAX_PACKET)))
    assert cutter.cut(1, 1) == [(0x30, bytes(MAX_PACKET))]


# --- Messages -------------------------------------------------------------------------------------


@given(publishes())
@settings(deadline=None)
def test_a_message_is_what_paho_reads(packet: Packet) -> None:
    theirs = _packet.decode_publish(*packet, paho.MQTTv5)
    topic = theirs.topic.decode()
    assert read_publish(*packet) == Publish(topic, theirs.payload, theirs.mid, theirs.qos)


@given(publishes())
@settings(deadline=None)
def test_all_but_the_properties_is_left(packet: Packet) -> None:
    command, body = packet
    theirs = _packet.decode_publish(command, body, paho.MQTTv5)
    bare = _packet.decode_publish(command, without_properties(command, body), paho.MQTTv5)
    for name in ("topic", "mid", "qos", "payload"):
        assert getattr(bare, name) == getattr(theirs, name)
    assert bare.properties.isEmpty()


@given(st.integers(0x30, 0x33), st.binary(max_size=40))
def test_senseless_lengths_in_a_message_are_refused(command: int, body: bytes) -> None:
    try:
        message = read_publish(command, body)
    except PacketError:
        return
    # What is read lies inside.
    assert body.endswith(message.payload)
    assert len(message.payload) <= len(body) - 3


@pytest.mark.parametrize(
    ("command", "body"),
    [
        (0x30, b""),
        (0x30, b"\0"),
        (0x30, b"\0\1"),
        (0x30, b"\0\1t"),
        (0x30, b"\xff\xfft\0"),
        (0x30, b"\0\1t\5abc"),
        (0x30, b"\0\1t\xff\xff\xff\xff\x01"),
        (0x32, b"\0\1t\0"),
        (0x32, b"\0\1t\0\1"),
        (0x32, b"\0\1t\0\0\0x"),
    ],
)
def test_a_broken_message_is_refused(command: int, body: bytes) -> None:
    with pytest.raises(PacketError):
        read_publish(command, body)


def test_a_topic_that_is_no_text_or_only_an_alias_is_a_message_all_the_same() -> None:
    assert read_publish(0x32, b"\0\2\xff\xfe\0\7\0x") == Publish("\ufffd", b"x", 7, 1)
    alias = b"\0\0\0\7\3\x23\0\1x"
    assert read_publish(0x32, alias) == Publish("", b"x", 7, 1)


def test_properties_that_paho_refuses_are_passed_over() -> None:
    marked = "\ufeff".encode()
    properties = b"\x26" + struct.pack("!H", len(marked)) + marked + b"\0\1v"
    body = b"\0\1t\0\7" + bytes([len(properties)]) + properties + b"x"
    with pytest.raises(_packet.MalformedPacket):
        _packet.decode_publish(0x32, body, paho.MQTTv5)
    assert read_publish(0x32, body) == Publish("t", b"x", 7, 1)


def test_a_packet_that_was_completed_since_the_limit_is_not_left_waiting() -> None:
    packet = b"\x30\x03\0\0\0"
    cutter = Cutter(MAX_PACKET)
    cutter.feed(packet + packet[:1])
    assert len(cutter.cut(1, 10**9)) == 1
    cutter.feed(packet[1:])
    assert cutter.cut(10, 10**9) == [(0x30, b"\0\0\0")]
    assert cutter.held == 0


# --- Acknowledgements -----------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 65_535), st.integers(0, 2)), max_size=50))
def test_acknowledgements_are_whole_packets_in_order(received: list[tuple[int, int]]) -> None:
    cutter = Cutter(MAX_PACKET)
    cutter.feed(acknowledgements(received))
    found = [
        (struct.unpack("!H", body)[0], {0x40: 1, 0x70: 2}[command])
        for command, body in cut_all(cutter)
    ]
    assert found == [(mid, qos) for mid, qos in received if qos]
    assert cutter.held == 0

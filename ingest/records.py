"""What stands in the headers of the project's Kafka messages, written and read in one place."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from ingest import ledger
from ingest.batch import SCHEMA_VERSION
from ingest.ledger import SensorCard, Tally

SCHEMA_HEADER: Final = "schema"
# What stands among readings and is none says with it what it is.
CONTROL_HEADER: Final = "citywatch-control"
# Both stand in indexes of the database, whose entries are bounded. Settings allow bridges less.
_MAX_BRIDGE: Final = 100
_MAX_REASON: Final = 100
_MAX_CONTROL: Final = 40
# A foreign producer may leave headers out, set them to null, or nest them without end.
_DAMAGE: Final = (KeyError, ValueError, TypeError, AttributeError, RecursionError)

_TIMES: Final = ("arrived_ns", "complete_ns")
# The year 10000: what lies behind it no clock says, and int64 would not hold for long.
MAX_TIME_NS: Final = 253_402_300_800 * 10**9


class HeaderError(ValueError):
    """Headers that no bridge of this version writes."""


@dataclass(frozen=True, slots=True)
class KafkaRecord:
    """One message for Kafka, partition chosen."""

    topic: str
    partition: int
    value: bytes
    headers: list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the content of a Kafka message comes from.

    Parameters
    ----------
    bridge : str
        Client id of the bridge.
    tallies : list of Tally
        What the message accounts for.
    cards : list of SensorCard
        Sensors that are new or changed.
    arrived_ns : int or None
        When the newest of the content arrived, UTC nanoseconds by the bridge's clock.
    complete_ns : int or None
        What was measured before it has come, as far as the bridge can tell.
    control : str or None
        What a message is that has no readings, but tells workers how to go on: `rules`. It
        accounts for nothing.
    """

    bridge: str
    tallies: list[Tally]
    cards: list[SensorCard] = field(default_factory=list)
    arrived_ns: int | None = None
    complete_ns: int | None = None
    control: str | None = None

    def headers(self, namespace: str) -> list[tuple[str, bytes]]:
        """Return the headers of a Kafka message."""
        headers = [
            (SCHEMA_HEADER, str(SCHEMA_VERSION).encode()),
            ("namespace", namespace.encode()),
            ("bridge", self.bridge.encode()),
        ]
        if self.control is not None:
            return [*headers, (CONTROL_HEADER, self.control.encode())]
        headers.append(("ledger", ledger.encode(self.tallies)))
        if self.cards:
            headers.append(("sensors", ledger.encode(self.cards)))
        for name in _TIMES:
            moment = getattr(self, name)
            if moment is not None:
                headers.append((name, str(moment).encode()))
        return headers

    @classmethod
    def read(cls, headers: Mapping[str, bytes], namespace: str) -> "Provenance":
        """Read the headers of a Kafka message.

        Raises
        ------
        HeaderError
            If a header is missing, of another version or another namespace.
        """
        version = headers.get(SCHEMA_HEADER, b"none")
        if version != str(SCHEMA_VERSION).encode():
            raise HeaderError(f"schema version {version!r}, expected {SCHEMA_VERSION}")
        if headers.get("namespace") != namespace.encode():
            raise HeaderError(f"namespace {headers.get('namespace')!r}, expected {namespace!r}")
        try:
            bridge = _bounded(headers["bridge"], _MAX_BRIDGE)
            if CONTROL_HEADER in headers:
                return cls(bridge, [], control=_bounded(headers[CONTROL_HEADER], _MAX_CONTROL))
            return cls(
                bridge=bridge,
                tallies=ledger.decode_tallies(headers["ledger"]),
                cards=ledger.decode_cards(headers.get("sensors", b"[]")),
                arrived_ns=_time(headers, "arrived_ns"),
                complete_ns=_time(headers, "complete_ns"),
            )
        except (*_DAMAGE, msgspec.MsgspecError) as error:
            raise HeaderError(f"damaged headers: {error!r}") from error


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was not taken, and why.

    Parameters
    ----------
    mqtt_topic : str
        Where it was published.
    reason, place : str
        See `Reject`.
    received_ns : int
        Arrival, UTC nanoseconds.
    payload : bytes or None
        None where privacy forbids to keep it.
    records : int
        How many records of a message of which the rest was taken; 0 where it is a whole message.
    """

    mqtt_topic: str
    reason: str
    place: str
    received_ns: int
    payload: bytes | None
    records: int = 0

    def headers(self) -> Iterable[tuple[str, bytes]]:
        """Return the headers that go beside those of the provenance."""
        return (
            ("topic", self.mqtt_topic.encode(errors="replace")),
            ("reason", self.reason.encode()),
            ("place", self.place.encode(errors="replace")),
            ("received_ns", str(self.received_ns).encode()),
            ("kept", b"0" if self.payload is None else b"1"),
            ("records", str(self.records).encode()),
        )

    @classmethod
    def read(cls, headers: Mapping[str, bytes], value: bytes) -> "DeadLetter":
        """Read a dead letter from Kafka.

        Raises
        ------
        HeaderError
            If a header is missing or damaged.
        """
        try:
            return cls(
                mqtt_topic=headers["topic"].decode(),
                reason=_bounded(headers["reason"], _MAX_REASON),
                place=headers["place"].decode(),
                received_ns=int(headers["received_ns"]),
                payload=value if headers["kept"] == b"1" else None,
                records=int(headers.get("records", b"0")),
            )
        except _DAMAGE as error:
            raise HeaderError(f"damaged dead letter: {error!r}") from error


def _time(headers: Mapping[str, bytes], name: str) -> int | None:
    if name not in headers:
        return None
    moment = int(headers[name])
    if not 0 <= moment < MAX_TIME_NS:
        raise ValueError(f"not a time: {moment}")
    return moment


def _bounded(data: bytes, length: int) -> str:
    text = data.decode()
    if len(text) > length:
        raise ValueError(f"a name of {len(text)} characters, at most {length} are read")
    return text

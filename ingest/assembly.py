"""MQTT messages in, Kafka messages out: the bridge's work as plain functions of its input."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from ingest import reject
from ingest.batch import ReadingBatch, encode
from ingest.ledger import MINUTE_NS, SensorCard, Tally
from ingest.ngsi import Decoded, decode, may_be_kept
from ingest.quantities import DOMAINS
from ingest.records import DeadLetter, KafkaRecord, Provenance
from ingest.reject import Reject
from ingest.topics import (
    MqttTopic,
    SeriesKey,
    dead_letters_topic,
    parse_topic,
    partition_of,
    readings_topic,
)

# Sensors whose topic is remembered parsed; beyond it the memory starts anew.
_MAX_TOPICS: Final = 200_000
# Cards are told again this often, so a database that lost its sensors hears of them.
CARD_INTERVAL_NS: Final = 600 * 10**9
# Kafka refuses a message above 1 MiB (its default), and asking again would not help. A record is
# closed beyond this, which leaves room for the last message's readings and for the headers.
MAX_RECORD_BYTES: Final = 512 << 10
_ROW_BYTES: Final = 21
# Of a card's JSON besides its names; measured 50 with coordinates of full precision.
_CARD_BYTES: Final = 64
_UNKNOWN: Final = "unknown"
_PRIVATE_DOMAIN: Final = "cameras"
# A wrong domain means that the payload calls itself something else than its topic does: a camera
# on a traffic topic, say.
_NEVER_KEPT: Final = frozenset({reject.TOO_LARGE, reject.DOMAIN})


class Arrival(NamedTuple):
    """One MQTT message as it came.

    Parameters
    ----------
    topic : str
    payload : bytes
    received_ns : int
        UTC nanoseconds.
    """

    topic: str
    payload: bytes
    received_ns: int


@dataclass(slots=True)
class _Sensor:
    """What is remembered of a topic: parsed once, used for every message."""

    topic: MqttTopic
    partition: int
    keys: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Columns:
    """The readings of one partition, growing."""

    codes: dict[str, int] = field(default_factory=dict)
    series: list[int] = field(default_factory=list)
    time_ns: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    quality: list[int] = field(default_factory=list)
    counts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    cards: dict[str, SensorCard] = field(default_factory=dict)
    size: int = 0

    def add(self, sensor: _Sensor, message: Decoded) -> None:
        keys, codes = sensor.keys, self.codes
        for quantity in message.quantities:
            key = keys.get(quantity)
            if key is None:
                topic = sensor.topic
                key = keys[quantity] = str(
                    SeriesKey(topic.domain, topic.zone, topic.sensor, quantity)
                )
            if key not in codes:
                codes[key] = len(codes)
                self.size += len(key)
            self.series.append(codes[key])
        self.time_ns.extend([message.time_ns] * len(message.values))
        self.value.extend(message.values)
        self.quality.extend(message.qualities)
        self.size += len(message.values) * _ROW_BYTES

    def announce(self, card: SensorCard) -> None:
        self.cards[card.sensor] = card
        self.size += len(card.sensor) + len(card.domain) + len(card.zone) + _CARD_BYTES

    def batch(self) -> ReadingBatch:
        return ReadingBatch(
            keys=list(self.codes),
            series=np.array(self.series, np.int32),
            time_ns=np.array(self.time_ns, np.int64),
            value=np.array(self.value, np.float64),
            quality=np.array(self.quality, np.uint8),
        )


class Assembler:
    """Collects decoded messages by partition until `take` turns them into Kafka messages.

    Parameters
    ----------
    namespace : str
        Messages of another one are rejected.
    bridge : str
        Name in the ledger.
    partitions : int
        Of both Kafka topics.
    max_payload_bytes : int
        A larger message is rejected unread.
    """

    def __init__(
        self, namespace: str, bridge: str, partitions: int, max_payload_bytes: int
    ) -> None:
        self._namespace = namespace
        self._bridge = bridge
        self._partitions = partitions
        self._max_payload_bytes = max_payload_bytes
        self._sensors: dict[str, _Sensor] = {}
        self._announced: dict[str, SensorCard] = {}
        self._announced_since_ns = 0
        # By partition and minute of arrival, so that a Kafka message counts in one minute.
        self._columns: dict[tuple[int, int], _Columns] = defaultdict(_Columns)
        self._done: list[KafkaRecord] = []
        self.rows = 0
        self.messages = self.readings = self.rejected = self.withheld = 0

    def add(self, arrival: Arrival) -> None:
        """Decode one message into the columns of its partition, or into a dead letter."""
        self.messages += 1
        sensor = self._sensor(arrival.topic)
        if sensor is None:
            self._reject(Reject(reject.TOPIC, "topic"), arrival, _UNKNOWN)
            return
        source = sensor.topic.domain
        if len(arrival.payload) > self._max_payload_bytes:
            self._reject(Reject(reject.TOO_LARGE, "$"), arrival, source)
            return
        message = decode(arrival.payload, sensor.topic, arrival.received_ns)
        if isinstance(message, Reject):
            self._reject(message, arrival, source)
            return
        place = sensor.partition, arrival.received_ns // MINUTE_NS * 60
        columns = self._columns[place]
        columns.add(sensor, message)
        counts = columns.counts[source]
        counts[0] += 1
        counts[1] += len(message.values)
        counts[2] += message.withheld
        self.rows += len(message.values)
        self.readings += len(message.values)
        self.withheld += message.withheld
        self._announce(sensor.topic, message, columns, arrival.received_ns)
        if columns.size >= MAX_RECORD_BYTES:
            self._done.append(self._record(*place, self._columns.pop(place)))

    def take(self) -> list[KafkaRecord]:
        """Return everything added since the last call, as Kafka messages."""
        records = self._done
        records.extend(self._record(*place, columns) for place, columns in self._columns.items())
        self._columns = defaultdict(_Columns)
        self._done = []
        self.rows = 0
        return records

    def _record(self, partition: int, minute: int, columns: _Columns) -> KafkaRecord:
        tallies = [
            Tally(source, minute, messages=counts[0], readings=counts[1], withheld=counts[2])
            for source, counts in columns.counts.items()
        ]
        provenance = Provenance(self._bridge, tallies, list(columns.cards.values()))
        return KafkaRecord(
            topic=readings_topic(self._namespace),
            partition=partition,
            value=encode(columns.batch()),
            headers=provenance.headers(self._namespace),
        )

    def _sensor(self, text: str) -> _Sensor | None:
        sensor = self._sensors.get(text)
        if sensor is None:
            topic = parse_topic(text)
            if topic is None or topic.namespace != self._namespace:
                return None
            # Any other name would become a source of its own in the ledger, without end.
            if topic.domain not in DOMAINS:
                return None
            if len(self._sensors) >= _MAX_TOPICS:
                self._sensors.clear()
            sensor = _Sensor(topic, partition_of(topic.sensor, self._partitions))
            self._sensors[text] = sensor
        return sensor

    def _announce(self, topic: MqttTopic, message: Decoded, columns: _Columns, now_ns: int) -> None:
        if now_ns - self._announced_since_ns > CARD_INTERVAL_NS:
            self._announced.clear()
            self._announced_since_ns = now_ns
        longitude, latitude = message.place or (None, None)
        known = self._announced.get(topic.sensor)
        if (
            known is not None
            and (known.domain, known.zone) == (topic.domain, topic.zone)
            and (message.place is None or (known.longitude, known.latitude) == message.place)
        ):
            return
        card = SensorCard(topic.sensor, topic.domain, topic.zone, longitude, latitude)
        if len(self._announced) >= _MAX_TOPICS:
            self._announced.clear()
        self._announced[topic.sensor] = card
        columns.announce(card)

    def _reject(self, fault: Reject, arrival: Arrival, source: str) -> None:
        self.rejected += 1
        # Whatever the topic says, the payload may be a camera's.
        keep = (
            source not in (_PRIVATE_DOMAIN, _UNKNOWN)
            and fault.reason not in _NEVER_KEPT
            and len(arrival.payload) <= MAX_RECORD_BYTES
            and may_be_kept(arrival.payload)
        )
        payload = arrival.payload if keep else None
        letter = DeadLetter.of(fault, arrival.topic, payload, arrival.received_ns)
        minute = arrival.received_ns // MINUTE_NS * 60
        provenance = Provenance(self._bridge, [Tally(source, minute, messages=1, rejected=1)])
        self._done.append(
            KafkaRecord(
                topic=dead_letters_topic(self._namespace),
                partition=partition_of(arrival.topic, self._partitions),
                value=payload or b"",
                headers=[*provenance.headers(self._namespace), *letter.headers()],
            )
        )

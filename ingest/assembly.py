"""MQTT messages in, Kafka messages out: the bridge's work as plain functions of its input."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ingest import reject
from ingest.arrival import Arrival
from ingest.batch import encode
from ingest.clocks import ClockWatch
from ingest.columns import Columns, Counts
from ingest.decode import decode
from ingest.ledger import MINUTE_NS, SensorCard, Tally
from ingest.message import Acceptance, Channel, Message, Refused
from ingest.onvif import public_topic
from ingest.privacy import may_be_kept
from ingest.quantities import DOMAINS, PRIVATE_DOMAIN
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

# Topics, and channels of one topic, that are remembered; beyond it the memory starts anew.
_MAX_TOPICS: Final = 200_000
_MAX_CHANNELS: Final = 50_000
# Cards are told again this often, so a database that lost its sensors hears of them.
CARD_INTERVAL_NS: Final = 600 * 10**9
# Kafka refuses a message above 1 MiB (its default), and asking again would not help. A record is
# closed beyond this, which leaves room for the last reading's key and for the headers.
MAX_RECORD_BYTES: Final = 512 << 10
# What is measured now may take this long to arrive without anybody being late.
VOUCH_GRACE_NS: Final = 30 * 10**9
_UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class AssemblyConfig:
    """What decides how messages become records.

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
    acceptance : Acceptance
    clock_ahead_ns, clock_behind_ns : int
        A sensor's clock within these is right.
    groups : mapping of str to str
        Names of the groups that sensors belong to: those of one group share a partition.
    """

    namespace: str
    bridge: str
    partitions: int
    max_payload_bytes: int
    acceptance: Acceptance = field(default_factory=Acceptance)
    clock_ahead_ns: int = 5 * 10**9
    clock_behind_ns: int = 900 * 10**9
    groups: Mapping[str, str] = field(default_factory=dict)

    def home_of(self, sensor: str) -> int:
        """Return the Kafka partition that holds all readings of a sensor."""
        return partition_of(self.groups.get(sensor, sensor), self.partitions)


class _Place(NamedTuple):
    """Where readings of a channel go."""

    partition: int
    key: str


@dataclass(slots=True)
class _Source:
    """What is remembered of a topic: parsed once, used for every message."""

    topic: MqttTopic
    partition: int
    places: dict[Channel, _Place] = field(default_factory=dict)
    # Sensors whose cards were told of late, and for which round of cards that holds.
    told: set[str] = field(default_factory=set)
    round: int = 0

    def place(self, channel: Channel, config: AssemblyConfig) -> _Place:
        topic = self.topic
        key = SeriesKey(topic.domain, topic.zone, channel.sensor, channel.quantity)
        if len(self.places) >= _MAX_CHANNELS:
            self.places.clear()
        place = _Place(config.home_of(channel.sensor), str(key))
        self.places[channel] = place
        return place


class Assembler:
    """Collects decoded messages by partition until `take` turns them into Kafka messages.

    Parameters
    ----------
    config : AssemblyConfig
    """

    def __init__(self, config: AssemblyConfig) -> None:
        self._config = config
        self._sources: dict[str, _Source] = {}
        self._announced: dict[str, SensorCard] = {}
        self._announced_since_ns = 0
        # A new one begins when cards have to be told or looked at again.
        self._round = 0
        self._clocks = ClockWatch(config.clock_ahead_ns, config.clock_behind_ns)
        # By partition and minute of arrival, so that a Kafka message counts in one minute.
        self._columns: dict[tuple[int, int], Columns] = defaultdict(Columns)
        self._done: list[KafkaRecord] = []
        self.rows = 0
        self.messages = self.readings = self.rejected = self.refused = self.withheld = 0

    def add(self, arrival: Arrival) -> Reject | None:
        """Decode one message into the columns of its partitions, or into a dead letter.

        Returns
        -------
        Reject or None
            Why the whole message was not taken.
        """
        self.messages += 1
        source = self._source(arrival.topic)
        if source is None:
            return self._reject(Reject(reject.TOPIC, "topic"), arrival, _UNKNOWN)
        domain = source.topic.domain
        if len(arrival.payload) > self._config.max_payload_bytes:
            return self._reject(Reject(reject.TOO_LARGE, "$"), arrival, domain)
        message = decode(
            arrival.payload, source.topic, arrival.received_ns, self._config.acceptance
        )
        if isinstance(message, Reject):
            self._doubt(source, message, arrival.received_ns)
            return self._reject(message, arrival, domain)
        minute = arrival.received_ns // MINUTE_NS * 60
        home = source.partition, minute
        self._count(message, self._columns[home].counts[domain])
        for refused in message.refused:
            self._refuse(refused, arrival, domain)
        if arrival.received_ns - self._announced_since_ns > CARD_INTERVAL_NS:
            self._announced.clear()
            self._announced_since_ns = arrival.received_ns
            self._round += 1
        if message.channels:
            self._watch(source, message, arrival.received_ns)
            self._fill(source, message, arrival.received_ns, minute)
        return None

    def take(self) -> list[KafkaRecord]:
        """Return everything added since the last call, as Kafka messages."""
        records = self._done
        records.extend(self._record(*place, columns) for place, columns in self._columns.items())
        self._columns = defaultdict(Columns)
        self._done = []
        self.rows = 0
        return records

    def clock_was_set(self) -> None:
        """Take note that this host's clock was set anew: it vouches for nothing until it has heard.

        By how long messages take from then on, `vouch` knows how far the clock is off.
        """
        self._clocks.forget_delays()

    def vouch(self, now_ns: int) -> list[KafkaRecord]:
        """Return a record without readings for every partition, which says how far all has come.

        To be called when nothing waits to be added. What is on its way may take twice as long as
        the newest messages took, and the grace. Before there is any message nothing is known, and
        nothing returned.

        Parameters
        ----------
        now_ns : int
            Arrival time.
        """
        config = self._config
        delay_ns = self._clocks.typical_delay_ns()
        if delay_ns is None:
            return []
        provenance = Provenance(
            config.bridge,
            [],
            arrived_ns=now_ns,
            complete_ns=max(now_ns - 2 * max(delay_ns, 0) - VOUCH_GRACE_NS, 0),
        )
        headers = provenance.headers(config.namespace)
        topic, value = readings_topic(config.namespace), encode(Columns().batch(0))
        return [
            KafkaRecord(topic, partition, value, headers) for partition in range(config.partitions)
        ]

    def _count(self, message: Message, counts: Counts) -> None:
        totals, _, kinds = counts
        totals["messages"] += 1
        totals["passed"] += 1
        if message.repeated:
            totals["repeated"] += message.repeated
        if message.withheld:
            withheld = sum(message.withheld.values())
            totals["withheld"] += withheld
            kinds.update(message.withheld)
            self.withheld += withheld
        self.readings += len(message.channels)
        self.rows += len(message.channels)

    def _watch(self, source: _Source, message: Message, received_ns: int) -> None:
        """Look at the clocks of the message's sensors, and announce who is new or changed."""
        clocks = self._clocks
        names = [channel[0] for channel in message.channels]
        sensors = set(names)
        least_ns = received_ns - max(message.time_ns)
        clocks.arrived(source.topic.sensor, least_ns)
        if clocks.is_plain(sensors, least_ns, received_ns - min(message.time_ns)):
            if source.round != self._round or len(source.told) > _MAX_CHANNELS:
                source.told.clear()
                source.round = self._round
            new = sensors - source.told
            source.told |= new
        else:
            # In what was collected over a while, the newest of each.
            newest = dict(sorted(zip(names, message.time_ns, strict=True), key=_time))
            for sensor, time_ns in newest.items():
                clocks.observe(sensor, received_ns - time_ns)
            off = clocks.offset_s
            message.doubtful.extend(index for index, name in enumerate(names) if name in off)
            new = sensors
        own = names[0] if len(sensors) == 1 else source.topic.sensor
        if message.place is not None and own in sensors:
            new = new | {own}
        for sensor in new:
            self._announce(source, sensor, message.place if sensor == own else None, received_ns)

    def _doubt(self, source: _Source, fault: Reject, received_ns: int) -> None:
        """Learn of a clock so wrong that its readings are not taken: at least by the bound."""
        acceptance = self._config.acceptance
        delay_ns = {
            reject.FUTURE: -acceptance.max_ahead_ns,
            reject.PAST: acceptance.max_age_ns,
        }.get(fault.reason)
        if delay_ns is not None:
            sensor = source.topic.sensor
            self._clocks.observe(sensor, delay_ns)
            if sensor in self._clocks.offset_s:
                self._announce(source, sensor, None, received_ns)

    def _fill(self, source: _Source, message: Message, received_ns: int, minute: int) -> None:
        places, config = source.places, self._config
        doubtful = set(message.doubtful)
        opened: dict[int, Columns] = {}
        rows = zip(message.channels, message.time_ns, message.value, strict=True)
        for index, (channel, time_ns, value) in enumerate(rows):
            partition, key = places.get(channel) or source.place(channel, config)
            columns = opened.get(partition)
            if columns is None:
                columns = opened[partition] = self._room(partition, minute)
            code = columns.codes.get(key)
            if code is None:
                # Keys are what a message can have many bytes of.
                if columns.size >= MAX_RECORD_BYTES:
                    columns.arrived(received_ns)
                    columns = opened[partition] = self._room(partition, minute)
                code = columns.code(key)
            columns.series.append(code)
            columns.time_ns.append(time_ns)
            columns.value.append(value)
            if doubtful and index in doubtful:
                columns.doubtful.append(len(columns.series) - 1)
        for columns in opened.values():
            columns.arrived(received_ns)

    def _room(self, partition: int, minute: int) -> Columns:
        """Return columns that are not full, closing those that are."""
        place = partition, minute
        if self._columns[place].size >= MAX_RECORD_BYTES:
            self._done.append(self._record(*place, self._columns.pop(place)))
        return self._columns[place]

    def _record(self, partition: int, minute_s: int, columns: Columns) -> KafkaRecord:
        config = self._config
        provenance = Provenance(
            config.bridge,
            columns.tallies(minute_s),
            list(columns.cards.values()),
            arrived_ns=max(columns.received_ns, default=None),
        )
        return KafkaRecord(
            topic=readings_topic(config.namespace),
            partition=partition,
            value=encode(columns.batch(config.clock_ahead_ns)),
            headers=provenance.headers(config.namespace),
        )

    def _source(self, text: str) -> _Source | None:
        source = self._sources.get(text)
        if source is None:
            topic = parse_topic(text)
            if topic is None or topic.namespace != self._config.namespace:
                return None
            # Any other name would become a source of its own in the ledger, without end.
            if topic.domain not in DOMAINS:
                return None
            if len(self._sources) >= _MAX_TOPICS:
                self._sources.clear()
            source = _Source(topic, self._config.home_of(topic.sensor))
            self._sources[text] = source
        return source

    def _announce(
        self, source: _Source, sensor: str, place: tuple[float, float] | None, now_ns: int
    ) -> None:
        known = self._announced.get(sensor)
        topic, offset_s = source.topic, self._clocks.offset_s.get(sensor)
        if (
            known is not None
            and (known.domain, known.zone) == (topic.domain, topic.zone)
            and (place is None or (known.longitude, known.latitude) == place)
            and known.clock_offset_s == offset_s
        ):
            return
        if place is None and known is not None:
            place = _place_of(known)
        longitude, latitude = place or (None, None)
        card = SensorCard(sensor, topic.domain, topic.zone, longitude, latitude, offset_s)
        if len(self._announced) >= _MAX_TOPICS:
            self._announced.clear()
            self._round += 1
        if known is not None and (known.domain, known.zone) != (card.domain, card.zone):
            self._round += 1  # another topic may think that the sensor is still there
        self._announced[sensor] = card
        partition = self._config.home_of(sensor)
        self._room(partition, now_ns // MINUTE_NS * 60).announce(card)

    def _reject(self, fault: Reject, arrival: Arrival, source: str) -> Reject:
        self.rejected += 1
        # Whatever the topic says, the payload may be a camera's.
        keep = (
            source not in (PRIVATE_DOMAIN, _UNKNOWN)
            and fault.reason != reject.TOO_LARGE
            and len(arrival.payload) <= MAX_RECORD_BYTES
            and may_be_kept(arrival.payload)
        )
        self._bury(fault, arrival, source, arrival.payload if keep else None)
        return fault

    def _refuse(self, refused: Refused, arrival: Arrival, source: str) -> None:
        self.refused += refused.records
        payload = None if source == PRIVATE_DOMAIN else refused.payload
        self._bury(refused.fault, arrival, source, payload, refused.records)

    def _bury(
        self, fault: Reject, arrival: Arrival, source: str, payload: bytes | None, records: int = 0
    ) -> None:
        """Write a dead letter, of a whole message or of so many records of one."""
        config = self._config
        letter = DeadLetter(
            public_topic(arrival.topic),
            fault.reason,
            fault.place,
            arrival.received_ns,
            payload,
            records,
        )
        tally = Tally(
            source,
            arrival.received_ns // MINUTE_NS * 60,
            messages=int(not records),
            rejected=int(not records),
            refused=records,
            reasons={fault.reason: records or 1},
        )
        self._done.append(
            KafkaRecord(
                topic=dead_letters_topic(config.namespace),
                partition=partition_of(letter.mqtt_topic, config.partitions),
                value=payload or b"",
                headers=[
                    *Provenance(config.bridge, [tally]).headers(config.namespace),
                    *letter.headers(),
                ],
            )
        )


def _time(pair: tuple[str, int]) -> int:
    return pair[1]


def _place_of(card: SensorCard) -> tuple[float, float] | None:
    if card.longitude is None or card.latitude is None:
        return None
    return card.longitude, card.latitude

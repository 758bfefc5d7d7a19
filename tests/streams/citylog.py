"""A Kafka log of a small city, made from a seed, with all that a worker may meet in it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ingest.batch import ReadingBatch, encode
from ingest.ledger import SensorCard, Tally
from ingest.records import DeadLetter, Provenance
from ingest.topics import SeriesKey, dead_letters_topic, readings_topic
from storage.flush import Change
from streams.alerts import changes
from streams.facts import CityFacts, Group
from streams.partition import Partition
from streams.rules import Rules, rules_record
from streams.scoring import Ledger, Message, score
from streams.worker import Delivery, TopicPartition

NAMESPACE = "replay-log"
READINGS = readings_topic(NAMESPACE)
LETTERS = dead_letters_topic(NAMESPACE)
START_NS = 1_700_000_000 * 10**9
SECOND_NS = 10**9
# A road in each partition, of which occupancy tells.
FACTS = CityFacts(
    groups={
        f"road-{partition}": Group(
            (f"traffic-{partition}-0", f"traffic-{partition}-1"), kind="road", seen_length_m=3.0
        )
        for partition in range(4)
    }
)
QUANTITIES = {"traffic": ("intensity", "occupancy"), "environment": ("temperature", "no2")}


@dataclass
class Log:
    """Messages by topic and partition, offsets from 0; `first` is what has expired before."""

    messages: dict[TopicPartition, list[Delivery]] = field(default_factory=dict)

    def add(
        self,
        place: TopicPartition,
        headers: list[tuple[str, bytes]],
        value: bytes,
    ) -> Delivery:
        queue = self.messages.setdefault(place, [])
        delivery = Delivery(*place, len(queue), dict(headers), value, (*place, len(queue)))
        queue.append(delivery)
        return delivery

    def __iter__(self) -> Iterator[Delivery]:
        for queue in self.messages.values():
            yield from queue

    def ends(self) -> dict[TopicPartition, int]:
        return {place: len(queue) for place, queue in self.messages.items()}


def batch_message(
    readings: list[tuple[str, int, float]],
    *,
    minute_s: int = 1_700_000_000 // 60 * 60,
    cards: list[SensorCard] | None = None,
    namespace: str = NAMESPACE,
    domains: dict[str, int] | None = None,
    **moments: int,
) -> tuple[list[tuple[str, bytes]], bytes]:
    """Return headers and value of a message of (series key, time in ns, value).

    Moments are `arrived_ns` and `complete_ns`.
    """
    codes: dict[str, int] = {}
    series = [codes.setdefault(key, len(codes)) for key, _, _ in readings]
    counts: dict[str, int] = {}
    for key, _, _ in readings:
        domain = key.split("/")[0]
        counts[domain] = counts.get(domain, 0) + 1
    batch = ReadingBatch(
        list(codes),
        np.array(series, np.int32),
        np.array([at for _, at, _ in readings], np.int64),
        np.array([value for _, _, value in readings], np.float64),
        np.ones(len(readings), np.uint8),
    )
    tallies = [
        Tally(domain, minute_s, messages=count, readings=count, passed=count)
        for domain, count in (domains or counts).items()
    ]
    headers = Provenance("bridge-1", tallies, cards or [], **moments).headers(namespace)
    return headers, encode(batch)


def letter_message(number: int) -> tuple[list[tuple[str, bytes]], bytes]:
    """Return a rejected message, or, of every third, some records that were refused."""
    minute_s = 1_700_000_000 // 60 * 60 + 60 * (number // 5)
    records = number if number % 3 == 2 else 0
    counts = (
        {"refused": records, "reasons": {"bad-time": records}}
        if records
        else {"messages": 1, "rejected": 1, "reasons": {"malformed-json": 1}}
    )
    tally = Tally("traffic", minute_s, **counts)
    letter = DeadLetter(
        f"city/x/{number}",
        "bad-time" if records else "malformed-json",
        "$",
        minute_s * 10**9 + number * SECOND_NS,
        b"{",
        records,
    )
    provenance = Provenance("bridge-1", [tally])
    return [*provenance.headers(NAMESPACE), *letter.headers()], b"{"


def said_of(
    partition: Partition, readings: list[tuple[str, int, float]], **moments: int
) -> list[Change]:
    """Score one message as a worker does; return what becomes of alerts."""
    headers, value = batch_message(readings, **moments)
    message = Message(partition.seen, Provenance.read(dict(headers), NAMESPACE), value)
    parts, _ = score(partition, [message], Ledger())
    # Every series has its slot as its id.
    partition.series_id[:] = np.arange(len(partition.keys))
    return [change for part in parts for change in changes(partition, part, NAMESPACE)]


def city_log(
    seed: int,
    *,
    partitions: int = 2,
    messages: int = 40,
    letters: int = 12,
    rules: Mapping[int, Rules] | None = None,
) -> Log:
    """Return a log with steady readings, shifts, broken sensors, repeats, latecomers and rubbish.

    Alerts of both categories open, become stale and close in it, those of the minute stage too: the
    road is full for long, then something blocks it between its stations.

    Rules come before the messages of those numbers, in every partition.
    """
    rng = np.random.default_rng(seed)
    log = Log()
    for partition in range(partitions):
        place = (READINGS, partition)
        keys = [
            str(SeriesKey(domain, "harbour", f"{domain}-{partition}-{n}", quantity))
            for domain, quantities in QUANTITIES.items()
            for n in range(2)
            for quantity in quantities
        ]
        told: set[str] = set()
        before: list[tuple[str, int, float]] = []
        for number in range(messages):
            if rules and number in rules:
                record = rules_record(rules[number], NAMESPACE, partition)
                log.add(place, record.headers, record.value)
            readings = []
            # Some sensors report from later on only.
            known = keys if number > messages // 3 else keys[:5]
            known = [key for key in known if not _is_silent(key, number / messages)]
            for step in range(int(rng.integers(1, 5))):
                at = START_NS + (number * 5 + step) * 10 * SECOND_NS
                readings += [(key, at, _value(key, number, messages, rng)) for key in known]
            for _ in range(int(rng.integers(0, 4)) if before else 0):
                key, at, value = before[int(rng.integers(len(before)))]
                readings.insert(
                    int(rng.integers(len(readings) + 1)),
                    (key, at - int(rng.integers(2)), value + float(rng.integers(2))),
                )
            # Microseconds, as the bridge sends them.
            readings = [(key, at // 1000 * 1000, value) for key, at, value in readings]
            sensors = {SeriesKey.parse(key) for key, _, _ in readings}
            cards = [
                SensorCard(key.sensor, key.domain, key.zone, 10.0 + partition, 50.0)
                for key in sorted(sensors)
                if key.sensor not in told and not told.add(key.sensor)
            ]
            minute_s = (START_NS // SECOND_NS + number * 50) // 60 * 60
            headers, value = batch_message(readings, minute_s=minute_s, cards=cards)
            if number % 13 == 7:
                value = value[: len(value) // 2]
            elif number % 17 == 9:
                headers, value = [("schema", b"99")], b"of another world"
            else:
                before = readings
            log.add(place, headers, value)
    for number in range(letters):
        log.add((LETTERS, number % partitions), *letter_message(number))
    return log


def _is_silent(key: str, share: float) -> bool:
    """One sensor falls silent while a city alert of it is open, and some speak again."""
    return ("traffic-0-0" in key and 0.6 < share < 0.95) or (
        key.endswith("temperature") and 0.2 < share < 0.55
    )


def _value(key: str, number: int, messages: int, rng: np.random.Generator) -> float:
    share = number / messages
    noise = float(rng.normal())
    if key.endswith("intensity"):
        # A closed road from the middle on, adopted or over by the end.
        return 400.0 + 5 * noise + (3000.0 if 0.55 < share < 0.7 else 0.0)
    if key.endswith("occupancy"):
        # From level F on both stations; the one ahead runs empty behind the obstacle.
        if 0.5 < share < 0.85:
            return 0.6 + 0.01 * noise if "-0/" in key else 0.05 + 0.001 * noise
        return 0.3 + 0.01 * noise
    if key.endswith("temperature"):
        return 300.0 if 0.6 < share < 0.7 else 20.0 + 0.1 * noise
    return 30.0 + noise if share < 0.8 else 30.0

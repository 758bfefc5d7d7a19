"""After the chaos: what was published, what is stored, and what one undisturbed worker stores.

The undisturbed worker reads the very log: every record is copied to the same partition and offset
of a namespace of its own, value and headers byte for byte but for the header that names the
namespace, and the copy is read back and compared before the worker may start. Scores are then
compared as bits (`float4send`), not as numbers: NaN is equal to itself, and 0 is not -0.
"""

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from psycopg.sql import SQL, Identifier
from restless import readings

from ingest.kafka import ensure_topics
from ingest.topics import dead_letters_topic, readings_topic

# Silence after which the end of a log that cannot say where it ends is taken to be reached.
_SILENCE_S: Final = 3.0
_PATIENCE_S: Final = 300.0
# Records of a partition sent before the first of them must be acknowledged.
_IN_FLIGHT: Final = 200

Place = tuple[str, int]
Ends = dict[Place, int]


class Digest(NamedTuple):
    """What a partition holds; alike in a log and in its copy."""

    records: int
    sha256: str


def topics(namespace: str) -> tuple[str, str]:
    """Return both topics of a namespace."""
    return readings_topic(namespace), dead_letters_topic(namespace)


class KafkaLog:
    """The log of one namespace, read from its beginning.

    Parameters
    ----------
    bootstrap : str
    namespace : str
    partitions : int
    tells_end : bool
        Whether this Kafka says where a log ends.
    """

    def __init__(self, bootstrap: str, namespace: str, partitions: int, tells_end: bool) -> None:
        self._bootstrap = bootstrap
        self._namespace = namespace
        self._partitions = partitions
        self._tells_end = tells_end

    async def ends(self, at_least: Mapping[Place, int]) -> Ends:
        """Return the first offset behind the log, by topic and partition."""
        if self._tells_end:
            async with self._consumer() as consumer:
                found = await consumer.end_offsets(self._places())
            return {(place.topic, place.partition): end for place, end in found.items()}
        ends = {(place.topic, place.partition): 0 for place in self._places()}
        async for place, record in self._records(ends | dict(at_least)):
            ends[place] = record.offset + 1
        return ends

    async def copy(self, ends: Ends, namespace: str, *, idempotence: bool) -> None:
        """Copy every record to the same place of another namespace."""
        await ensure_topics(self._bootstrap, namespace, self._partitions, 1)
        names = dict(zip(topics(self._namespace), topics(namespace), strict=True))
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            enable_idempotence=idempotence,
            max_request_size=16 << 20,
        )
        await producer.start()
        try:
            sent: list[asyncio.Future[Any]] = []
            async for (topic, partition), record in self._records(ends):
                sent.append(
                    await producer.send(
                        names[topic],
                        value=record.value,
                        key=record.key,
                        partition=partition,
                        timestamp_ms=record.timestamp,
                        headers=[
                            (name, namespace.encode() if name == "namespace" else value)
                            for name, value in record.headers
                        ],
                    )
                )
                if len(sent) >= _IN_FLIGHT:
                    await asyncio.gather(*sent)
                    sent.clear()
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    async def digests(self, ends: Ends) -> dict[Place, Digest]:
        """Return a digest of offsets, values and headers, the namespace's left out.

        Keys are (index of the topic, partition), so that those of two namespaces can be compared.
        """
        hashes = {place: hashlib.sha256() for place in ends}
        counts = dict.fromkeys(ends, 0)
        async for place, record in self._records(ends):
            kept = [pair for pair in record.headers if pair[0] != "namespace"]
            hashes[place].update(repr((record.offset, kept, record.value)).encode())
            counts[place] += 1
        names = topics(self._namespace)
        return {
            (str(names.index(place[0])), place[1]): Digest(counts[place], found.hexdigest())
            for place, found in hashes.items()
        }

    def _places(self) -> list[TopicPartition]:
        return [
            TopicPartition(topic, number)
            for topic in topics(self._namespace)
            for number in range(self._partitions)
        ]

    def _consumer(self) -> Any:
        return _Consuming(
            AIOKafkaConsumer(
                bootstrap_servers=self._bootstrap,
                auto_offset_reset="earliest",
                enable_auto_commit=False,
            )
        )

    async def _records(self, ends: Mapping[Place, int]) -> Any:
        """Yield (place, record) of every record, and make sure that none is left out."""
        async with self._consumer() as consumer:
            consumer.assign(self._places())
            await consumer.seek_to_beginning()
            read = dict.fromkeys(ends, 0)
            quiet = time.monotonic()
            end = quiet + _PATIENCE_S
            while any(read[place] < ends[place] for place in ends) or (
                not self._tells_end and time.monotonic() - quiet < _SILENCE_S
            ):
                if time.monotonic() > end:
                    raise TimeoutError(f"the log of {self._namespace} does not come to its end")
                for place, records in (await consumer.getmany(timeout_ms=500)).items():
                    quiet = time.monotonic()
                    for record in records:
                        key = place.topic, place.partition
                        if record.offset != read[key]:
                            raise RuntimeError(f"{key}: {record.offset} follows {read[key]}")
                        read[key] += 1
                        yield key, record


class _Consuming:
    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    async def __aenter__(self) -> AIOKafkaConsumer:
        await self._consumer.start()
        return self._consumer

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()


# Sensor and quantity in the place of ids, which are given in the order of arrival; floats as bits.
# Ids of alerts are made of the namespace and of what stands here.
_TABLES: Final = {
    "scores": """
        SELECT s.name, q.quantity, r.time, float8send(r.value) AS value, r.quality,
               float4send(r.score) AS score, float4send(r.expected) AS expected,
               float4send(r.band) AS band
        FROM {0}.reading r JOIN {0}.series q USING (series_id) JOIN {0}.sensor s USING (sensor_id)
    """,
    "alerts": """
        SELECT s.name, q.quantity, a.category, a.kind, a.severity, a.state, a.opened_at,
               a.resolved_at, float8send(a.seen) AS seen, float8send(a.expected) AS expected,
               float8send(a.band) AS band, float8send(a.lower) AS lower,
               float8send(a.upper) AS upper, float8send(a.score) AS score, a.sentence
        FROM {0}.alert a JOIN {0}.series q USING (series_id) JOIN {0}.sensor s USING (sensor_id)
    """,
    "transitions": """
        SELECT s.name, q.quantity, a.category, a.kind, a.opened_at, t.at, t.state, t.cause, t.actor
        FROM {0}.alert_transition t JOIN {0}.alert a USING (alert_id)
        JOIN {0}.series q USING (series_id) JOIN {0}.sensor s USING (sensor_id)
    """,
    "pages": """
        SELECT s.name, q.quantity, a.category, a.kind, a.opened_at, o.event, o.at,
               o.payload - 'alert_id' - 'namespace' AS payload
        FROM {0}.outbox o JOIN {0}.alert a USING (alert_id)
        JOIN {0}.series q USING (series_id) JOIN {0}.sensor s USING (sensor_id)
    """,
    "ledger": "SELECT * FROM {0}.ledger",
    "ledger_kinds": "SELECT * FROM {0}.ledger_kind",
    "dead_letters": """
        SELECT received_at, bridge, source, mqtt_topic, reason, place, payload, records
        FROM {0}.dead_letter
    """,
    "rules": """
        SELECT partition, message_offset, fingerprint, rules, watermark FROM {0}.rules_applied
    """,
    "shadow_alerts": """
        SELECT a.shadow, s.name, q.quantity, a.category, a.kind, a.opened_at, a.closed_at,
               float8send(a.seen) AS seen, float8send(a.expected) AS expected,
               float8send(a.lower) AS lower, float8send(a.upper) AS upper,
               float8send(a.score) AS score, a.sentence
        FROM {0}.shadow_alert a
        JOIN {0}.series q USING (series_id) JOIN {0}.sensor s USING (sensor_id)
    """,
    "sensors": """
        SELECT name, domain, zone, longitude, latitude, clock_offset_s FROM {0}.sensor
    """,
}
_DIFFER: Final = """
    SELECT (SELECT count(*) FROM (({0}) EXCEPT ALL ({1})) d),
           (SELECT count(*) FROM (({1}) EXCEPT ALL ({0})) d)
"""
_PUBLISHED: Final = """
    CREATE TEMPORARY TABLE published (
        sensor text, quantity text, time timestamptz, value double precision)
"""
_LOST: Final = """
    SELECT count(*) FROM (SELECT DISTINCT * FROM published) p
    LEFT JOIN {0}.reading_scored r
      ON (r.sensor, r.quantity, r.time, r.value) = (p.sensor, p.quantity, p.time, p.value)
    WHERE r.sensor IS NULL
"""
_UNHEARD: Final = """
    SELECT count(*) FROM {0}.reading_scored r
    WHERE NOT EXISTS (SELECT FROM published p
        WHERE (r.sensor, r.quantity, r.time, r.value) = (p.sensor, p.quantity, p.time, p.value))
"""
_MISCOUNTED: Final = """
    SELECT (SELECT coalesce(sum(stored), 0) FROM {0}.ledger) - (SELECT count(*) FROM {0}.reading)
"""
_STALE: Final = "SELECT count(*) FROM {0}.alert_transition WHERE state = 'stale'"
_ACCOUNTED: Final = "SELECT coalesce(sum(readings), 0) FROM {0}.ledger"


class Stored(NamedTuple):
    """What was published against what is stored.

    Parameters
    ----------
    published : int
        Different readings.
    lost : int
        Of them, those that are not there with their value.
    unheard : int
        Rows that nobody has published.
    miscounted : int
        Rows that the ledger has stored, less those that are there.
    """

    published: int
    lost: int
    unheard: int
    miscounted: int


def stored(dsn: str, schema: str, file: Path) -> Stored:
    """Compare a schema with what a file says was published."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_PUBLISHED)
        with connection.cursor() as cursor:
            columns = "COPY published (sensor, quantity, time, value) FROM STDIN"
            with cursor.copy(columns) as copy:
                for sensor, quantity, observed, value in readings(file):
                    copy.write(f"{sensor}\t{quantity}\t{observed}\t{value!r}\n")
        connection.execute("ANALYZE published")
        queries = (
            "SELECT count(*) FROM (SELECT DISTINCT * FROM published) p",
            _LOST,
            _UNHEARD,
            _MISCOUNTED,
        )
        return Stored(*(_one(connection, query, schema) for query in queries))


def differences(dsn: str, one: str, other: str) -> dict[str, tuple[int, int]]:
    """Return, for each table, how many rows only the one schema has, and only the other."""
    found = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET work_mem = '256MB'")
        for name, query in _TABLES.items():
            first, second = (SQL(query).format(Identifier(schema)) for schema in (one, other))
            row = connection.execute(SQL(_DIFFER).format(first, second)).fetchone()
            assert row is not None
            found[name] = (int(row[0]), int(row[1]))
    return found


def recounted(dsn: str, one: str, other: str) -> int:
    """Return how many readings more the ledger of one schema accounts for than that of another.

    What is accounted for twice may be stored once and counted as a duplicate: then the ledger
    balances, and only another ledger of the same log tells.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        return _one(connection, _ACCOUNTED, one) - _one(connection, _ACCOUNTED, other)


def examples(dsn: str, one: str, other: str, table: str, limit: int = 3) -> list[tuple[Any, ...]]:
    """Return a few rows that only the one schema has."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        first, second = (SQL(_TABLES[table]).format(Identifier(name)) for name in (one, other))
        query = SQL("(({0}) EXCEPT ALL ({1})) ORDER BY 1, 2, 3 LIMIT {2}")
        return connection.execute(query.format(first, second, limit)).fetchall()


def alerts(dsn: str, schema: str) -> tuple[dict[str, int], int]:
    """Return the alerts by kind, and how often one became stale."""
    by_kind = SQL("SELECT kind, count(*) FROM {}.alert GROUP BY kind ORDER BY kind")
    with psycopg.connect(dsn, autocommit=True) as connection:
        kinds = dict(connection.execute(by_kind.format(Identifier(schema))).fetchall())
        return kinds, _one(connection, _STALE, schema)


class Pages(NamedTuple):
    """What was to be told and what came of it.

    Parameters
    ----------
    due : int
        Deliveries.
    missing : list of str
        Keys that were due and did not come, alerts that nobody decided on or told the pager of,
        causes that were not told, and what came and nobody wrote.
    """

    due: int
    missing: list[str]


_DELIVERIES: Final = """
    SELECT key, delivered_at IS NOT NULL, abandoned_at IS NOT NULL, attempts, last_error
    FROM {0}.delivery
"""
_UNSTABLE: Final = """
    SELECT alert_id::text FROM {0}.outbox WHERE dedup_key <> alert_id::text
"""
# Each alert that fired is in a group, or a stage has said why not; and each group was told, unless
# it was over before that.
_UNDECIDED: Final = """
    SELECT 'nobody decided on ' || o.alert_id FROM {0}.outbox o
    WHERE o.decided_at IS NULL OR (o.event = 'firing'
        AND NOT EXISTS (SELECT FROM {0}.page_member m WHERE m.alert_id = o.alert_id)
        AND NOT EXISTS (SELECT FROM {0}.decision d WHERE d.alert_id = o.alert_id))
    UNION ALL
    SELECT 'nobody was told of ' || g.group_key FROM {0}.page_group g
    WHERE g.told_at IS NULL AND g.closed_at IS NULL
    UNION ALL
    SELECT 'nobody was told that it is over: ' || g.group_key FROM {0}.page_group g
    WHERE g.told_at IS NOT NULL AND g.closed_at IS NOT NULL
      AND (SELECT count(*) FROM {0}.notice n
           WHERE n.group_key = g.group_key AND n.event = 'resolve') <> 1
"""
_UNTOLD: Final = """
    SELECT a.alert_id::text || ':' || e.event FROM {0}.alert a
    CROSS JOIN (VALUES ('firing'), ('resolved')) AS e (event)
    LEFT JOIN {0}.outbox o ON o.alert_id = a.alert_id AND o.event = e.event
    WHERE o.alert_id IS NULL AND (e.event = 'firing' OR a.state = 'resolved')
      -- Of a sensor that falls silent, one alert speaks for those of its other quantities.
      AND NOT (a.kind = 'silence' AND EXISTS (
          SELECT FROM {0}.alert b JOIN {0}.series q USING (series_id)
          JOIN {0}.series own ON own.series_id = a.series_id
          WHERE b.kind = 'silence' AND q.sensor_id = own.sensor_id AND b.alert_id <> a.alert_id
            AND EXISTS (SELECT FROM {0}.outbox WHERE alert_id = b.alert_id)))
"""


def pages(dsn: str, schema: str, came: set[str]) -> Pages:
    """Compare what the pager decided with the keys of what came."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute(SQL(_DELIVERIES).format(Identifier(schema))).fetchall()
        questions = {
            "no page for": _UNTOLD,
            "not under the alert's own key:": _UNSTABLE,
            "": _UNDECIDED,
        }
        missing = [
            f"{question} {found}".strip()
            for question, query in questions.items()
            for (found,) in connection.execute(SQL(query).format(Identifier(schema))).fetchall()
        ]
    for key, delivered, abandoned, attempts, error in rows:
        # What was not to be told was no attempt; given up after attempts it is missing.
        spared = abandoned and not delivered and attempts == 0
        if key not in came and not spared:
            missing.append(f"{key} did not come: delivered {delivered}, {error}")
    missing += [f"{key} came, and nobody wrote it" for key in came - {row[0] for row in rows}]
    return Pages(len(rows), missing)


def positions(connection: Any, schema: str) -> Ends:
    """Return how far each partition is stored."""
    query = SQL("SELECT topic, partition, next_offset FROM {}.stream_position")
    rows = connection.execute(query.format(Identifier(schema))).fetchall()
    return {(topic, partition): offset for topic, partition, offset in rows}


def _one(connection: Any, query: str, schema: str) -> int:
    row: Sequence[Any] = connection.execute(SQL(query).format(Identifier(schema))).fetchone()
    return int(row[0])

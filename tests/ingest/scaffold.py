"""Both ends of the bridge: a publisher before it, the Kafka log behind it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord
from paho.mqtt.enums import CallbackAPIVersion

import ingest.bridge
from citywatch.embedded import Addresses
from citywatch.embedded.apache_kafka import ApacheKafka
from citywatch.embedded.kafka import Tansu
from citywatch.embedded.mqtt import MqttService, find_mosquitto, make_mqtt
from ingest.arrival import Arrival
from ingest.assembly import AssemblyConfig
from ingest.batch import decode
from ingest.bridge import BridgeConfig
from ingest.kafka import ensure_topics
from ingest.ledger import Tally
from ingest.mqtt import MqttConfig, Receipt, Subscriber
from ingest.records import DeadLetter, Provenance
from ingest.topics import SeriesKey, dead_letters_topic, mqtt_filter, readings_topic
from tests.ingest.strategies import payload

needs_mosquitto = pytest.mark.skipif(
    find_mosquitto() is None,
    reason="Mosquitto is not installed; rumqttd panics when a group loses its last bridge"
    " with messages unacknowledged, forgets its sessions when it restarts, and sends retained"
    " messages unasked",
)
PATIENCE_S = 30.0
POLL_S = 0.005
HOST = "127.0.0.1"
PARTITIONS = 4
Reading = tuple[str, int]


def until(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Wait for a condition; fail if it does not come true in time."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, f"not true after {patience_s} s: {condition}"
        time.sleep(POLL_S)


async def eventually(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Wait for a condition without holding up the loop."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, f"not true after {patience_s} s: {condition}"
        await asyncio.sleep(POLL_S)


class Publisher:
    """A sensor's side of the MQTT broker: QoS 1, and out of `with` only when all is accepted."""

    def __init__(self, port: int, host: str = HOST) -> None:
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._address = host, port
        self._sent: list[paho.MQTTMessageInfo] = []

    def __enter__(self) -> Self:
        self._client.connect(*self._address)
        self._client.loop_start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                for info in self._sent:
                    info.wait_for_publish(PATIENCE_S)
                    assert info.is_published()
        finally:
            self._client.disconnect()
            self._client.loop_stop()

    def send(self, topic: str, data: bytes, **options: Any) -> None:
        self._sent.append(self._client.publish(topic, data, qos=1, **options))


def publish(port: int, messages: Iterable[tuple[str, bytes]]) -> None:
    """Publish, and return when the broker has answered for every message."""
    with Publisher(port) as publisher:
        for topic, data in messages:
            publisher.send(topic, data)


def flows(
    namespace: str, times_ns: Sequence[int], sensors: int = 10
) -> list[tuple[tuple[str, bytes], Reading]]:
    """Return messages of one reading each, beside what must be found of them."""
    found = []
    for number, time_ns in enumerate(times_ns):
        sensor = f"s{number % sensors}"
        data = payload("TrafficFlowObserved", sensor, time_ns, intensity=number % 1000)
        found.append(((f"city/{namespace}/traffic/centre/{sensor}", data), (sensor, time_ns)))
    return found


@dataclass
class Log:
    """What Kafka holds of a namespace, read from the beginning."""

    consumer: AIOKafkaConsumer
    namespace: str
    records: list[ConsumerRecord] = field(default_factory=list)

    async def until(self, condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
        """Read on until a condition on `records` holds."""
        end = time.monotonic() + patience_s
        while not condition():
            left = end - time.monotonic()
            assert left > 0, f"not true after {patience_s} s, {len(self.records)} records read"
            batch = await self.consumer.getmany(timeout_ms=min(200, int(left * 1000) + 1))
            for found in batch.values():
                self.records.extend(found)

    def provenance(self, record: ConsumerRecord) -> Provenance:
        return Provenance.read(dict(record.headers), self.namespace)

    def tallies(self) -> list[Tally]:
        return [tally for record in self.records for tally in self.provenance(record).tallies]

    def messages(self) -> int:
        return sum(tally.messages for tally in self.tallies())

    def values(self) -> list[tuple[str, int, float, int]]:
        """Return (series key, time, value, flag) of every reading, in the order of the log."""
        found = []
        for record in self.records:
            if record.topic == readings_topic(self.namespace):
                batch = decode(record.value)
                columns = (batch.series, batch.time_ns, batch.value, batch.quality)
                for code, *row in zip(*(part.tolist() for part in columns), strict=True):
                    found.append((batch.keys[code], *row))
        return found

    def readings(self) -> set[Reading]:
        return {(SeriesKey.parse(key).sensor, time_ns) for key, time_ns, *_ in self.values()}

    def letters(self) -> list[DeadLetter]:
        return [
            DeadLetter.read(dict(record.headers), record.value)
            for record in self.records
            if record.topic == dead_letters_topic(self.namespace)
        ]


@asynccontextmanager
async def kafka_log(bootstrap: str, namespace: str) -> AsyncIterator[Log]:
    """Return the log of a namespace, its topics made."""
    await ensure_topics(bootstrap, namespace, PARTITIONS, 1)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign(
            [
                TopicPartition(topic, number)
                for topic in (readings_topic(namespace), dead_letters_topic(namespace))
                for number in range(PARTITIONS)
            ]
        )
        yield Log(consumer, namespace)
    finally:
        await consumer.stop()


def mqtt_config(port: int, namespace: str, **changes: Any) -> MqttConfig:
    """Return a subscription of the test's own."""
    return MqttConfig(
        **{
            "host": HOST,
            "port": port,
            "filter": mqtt_filter(namespace),
            "client_id": f"bridge-{namespace}",
            "share_group": None,
            "receive_maximum": 500,
            "session_expiry_s": 3600,
        }
        | changes
    )


def bridge_config(
    mqtt: MqttConfig, bootstrap: str, namespace: str, *, idempotence: bool = False
) -> BridgeConfig:
    """Return a bridge of the test's own."""
    return BridgeConfig(
        assembly=AssemblyConfig(
            namespace=namespace,
            bridge=mqtt.client_id,
            partitions=PARTITIONS,
            max_payload_bytes=1_000,
        ),
        mqtt=mqtt,
        bootstrap=bootstrap,
        replication_factor=1,
        flush_interval_s=0.02,
        max_batch_rows=5_000,
        idempotence=idempotence,
    )


class Watched(Subscriber):
    """A subscriber that counts what it received, acknowledged, and had waiting at most."""

    def __init__(self, config: MqttConfig) -> None:
        super().__init__(config)
        self.longest = 0
        self.received = 0
        self.acknowledged = 0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def acknowledge(self, receipts: list[Receipt]) -> None:
        self.acknowledged += len(receipts)
        super().acknowledge(receipts)

    def _arrived(self, burst: list[tuple[Arrival, Receipt]]) -> None:
        super()._arrived(burst)
        self.received += len(burst)
        self.longest = max(self.longest, self.waiting)


@dataclass
class Running:
    """A bridge in this process."""

    task: "asyncio.Task[None]"
    stop: asyncio.Event
    subscriber: Watched


@asynccontextmanager
async def running(config: BridgeConfig, patch: Any) -> AsyncIterator[Running]:
    """Run a bridge until the end of the block, subscribed when it begins."""
    made: list[Watched] = []

    def watched(mqtt: MqttConfig) -> Watched:
        made.append(Watched(mqtt))
        return made[-1]

    patch.setattr(ingest.bridge, "Subscriber", watched)
    stop = asyncio.Event()
    task = asyncio.create_task(ingest.bridge.run(config, stop))
    try:
        await eventually(lambda: task.done() or (made and made[0].connected.is_set()))
        if task.done():
            task.result()
        yield Running(task, stop, made[0])
    finally:
        stop.set()
        await asyncio.wait_for(task, PATIENCE_S)


class Brokers:
    """An MQTT and a Kafka broker that a test may stop; no database."""

    def __init__(self, directory: Path, kafka: ApacheKafka | Tansu) -> None:
        self.mqtt: MqttService = make_mqtt(directory / "mqtt", 0, "auto")
        self.kafka = kafka

    @property
    def addresses(self) -> Addresses:
        return Addresses(
            mqtt_host=HOST,
            mqtt_port=self.mqtt.port,
            kafka_bootstrap=f"{HOST}:{self.kafka.port}",
            log_id=self.kafka.log_id,
            dsn="",
        )

    def signal_kafka(self, number: int) -> None:
        assert self.kafka.pid is not None
        os.kill(self.kafka.pid, number)

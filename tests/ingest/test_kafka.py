"""The Kafka side: topics are made once, and `send` returns only when everything is there."""

import asyncio
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError

from citywatch.embedded import Addresses
from ingest.kafka import RecordSender, ensure_topics
from ingest.records import KafkaRecord
from ingest.topics import dead_letters_topic, readings_topic
from tests.ingest.scaffold import PARTITIONS, PATIENCE_S, kafka_log


def record(value: bytes, partition: int = 0, topic: str = "t") -> KafkaRecord:
    return KafkaRecord(topic, partition, value, [("name", b"header")])


async def partitions(bootstrap: str, *topics: str) -> list[int]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        found = await admin.describe_topics(list(topics))
        return [len(topic["partitions"]) for topic in found]
    finally:
        await admin.close()


@pytest.mark.integration
def test_topics_are_made_once_also_by_two_bridges(services: Addresses, namespace: str) -> None:
    async def scenario() -> list[int]:
        bootstrap = services.kafka_bootstrap
        await asyncio.gather(*(ensure_topics(bootstrap, namespace, 3, 1) for _ in range(3)))
        # What is there stays as it is.
        await ensure_topics(bootstrap, namespace, 5, 1)
        topics = (readings_topic(namespace), dead_letters_topic(namespace))
        return await partitions(bootstrap, *topics)

    assert asyncio.run(scenario()) == [3, 3]


def test_a_cluster_that_is_away_is_a_kafka_error_and_leaves_nothing_open() -> None:
    async def scenario() -> None:
        with pytest.raises(KafkaError):
            await ensure_topics("127.0.0.1:1", "live", 1, 1)

    asyncio.run(scenario())


@pytest.mark.integration
def test_records_arrive_as_they_are_on_the_partition_they_name(
    services: Addresses, namespace: str
) -> None:
    topic = readings_topic(namespace)
    sent = [record(b"%d" % n, n % PARTITIONS, topic) for n in range(20)]
    # Larger than a batch of the producer: they go one by one.
    sent += [record(bytes([n]) * 100_000, 1, topic) for n in range(5)]

    async def scenario() -> list[KafkaRecord]:
        async with kafka_log(services.kafka_bootstrap, namespace) as log:
            sender = RecordSender(services.kafka_bootstrap)
            await sender.start()
            await sender.send(sent)
            await sender.stop()
            await log.until(lambda: len(log.records) >= len(sent))
            return [
                KafkaRecord(found.topic, found.partition, found.value, list(found.headers))
                for found in log.records
            ]

    found = asyncio.run(scenario())
    assert sorted(found, key=lambda each: each.value) == sorted(sent, key=lambda each: each.value)
    for number in range(PARTITIONS):
        assert [each for each in found if each.partition == number] == [
            each for each in sent if each.partition == number
        ]


class Faulty:
    """A producer that fails as told: at once, or when the answer is awaited."""

    def __init__(self, *faults: tuple[bytes, str, Exception]) -> None:
        self.faults = list(faults)
        self.taken: list[bytes] = []

    async def send(self, _topic: str, value: bytes, **_: Any) -> "asyncio.Future[None]":
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.faults and self.faults[0][0] == value:
            _, when, fault = self.faults.pop(0)
            if when == "at once":
                raise fault
            answer.set_exception(fault)
            return answer
        self.taken.append(value)
        answer.set_result(None)
        return answer


async def sent_through(producer: Faulty, *values: bytes) -> list[bytes]:
    sender = RecordSender("127.0.0.1:1")
    real, sender._producer = sender._producer, producer
    try:
        await asyncio.wait_for(sender.send([record(value) for value in values]), PATIENCE_S)
    finally:
        await real.stop()
    return producer.taken


def test_only_what_was_refused_is_sent_again() -> None:
    producer = Faulty((b"2", "later", KafkaConnectionError()), (b"2", "later", OSError()))
    assert asyncio.run(sent_through(producer, b"1", b"2", b"3")) == [b"1", b"3", b"2"]


def test_all_is_sent_again_where_nobody_knows_what_arrived() -> None:
    producer = Faulty((b"2", "at once", KafkaConnectionError()))
    assert asyncio.run(sent_through(producer, b"1", b"2")) == [b"1", b"1", b"2"]


def test_a_fault_of_our_own_is_not_repeated_for_ever() -> None:
    producer = Faulty((b"1", "at once", AssertionError("Unrecognized partition")))
    with pytest.raises(AssertionError):
        asyncio.run(sent_through(producer, b"1"))

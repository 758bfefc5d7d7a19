"""The Kafka side: topics are as the settings say, and `send` returns only when all is there."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
)

import ingest.kafka
from citywatch.embedded import Addresses
from citywatch.embedded.kafka import Tansu
from ingest.kafka import (
    IdempotenceError,
    KafkaSetupError,
    RecordSender,
    RecordSizeError,
    TopicError,
    ensure_topics,
)
from ingest.records import KafkaRecord
from ingest.topics import dead_letters_topic, readings_topic
from tests.ingest.scaffold import HOST, PARTITIONS, PATIENCE_S, kafka_log


def on_kafka(test: Any) -> Any:
    return pytest.mark.integration(pytest.mark.kafka(test))


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


@pytest.fixture
def tansu(tmp_path: Path) -> Iterator[str]:
    """Return the address of a broker that knows no idempotence."""
    broker = Tansu(tmp_path / "kafka", 0)
    broker.start()
    yield f"{HOST}:{broker.port}"
    broker.stop()


@on_kafka
def test_topics_are_made_once_also_by_several_bridges(services: Addresses, namespace: str) -> None:
    async def scenario() -> list[int]:
        bootstrap = services.kafka_bootstrap
        await asyncio.gather(*(ensure_topics(bootstrap, namespace, 3, 1) for _ in range(3)))
        await ensure_topics(bootstrap, namespace, 3, 1)
        topics = (readings_topic(namespace), dead_letters_topic(namespace))
        return await partitions(bootstrap, *topics)

    assert asyncio.run(scenario()) == [3, 3]


@on_kafka
@pytest.mark.parametrize("wanted", [2, 5])
def test_a_topic_with_another_number_of_partitions_is_an_error(
    services: Addresses, namespace: str, wanted: int
) -> None:
    bootstrap = services.kafka_bootstrap

    async def scenario() -> None:
        await ensure_topics(bootstrap, namespace, 3, 1)
        await ensure_topics(bootstrap, namespace, wanted, 1)

    fault = rf"topic {namespace}\.\S+ has 3 partitions, kafka.partitions says {wanted}"
    with pytest.raises(TopicError, match=fault):
        asyncio.run(scenario())


class Describing:
    """An administrator that is told of a topic only when it asks again."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)

    async def describe_topics(self, _names: list[str]) -> list[dict[str, Any]]:
        return [self.answers.pop(0)]


def test_a_topic_that_was_just_made_is_asked_for_again() -> None:
    unknown = {"error_code": UnknownTopicOrPartitionError.errno, "partitions": []}
    known = {"error_code": 0, "partitions": [{}, {}]}
    admin = Describing(unknown, unknown, known)
    assert asyncio.run(ingest.kafka._partition_count(admin, "t")) == 2
    assert admin.answers == []


def test_a_cluster_that_is_away_is_a_kafka_error_and_leaves_nothing_open() -> None:
    async def scenario() -> None:
        with pytest.raises(KafkaError):
            await ensure_topics("127.0.0.1:1", "live", 1, 1)

    asyncio.run(scenario())


@on_kafka
def test_records_arrive_as_they_are_on_the_partition_they_name(
    services: Addresses, namespace: str, idempotence: bool
) -> None:
    topic = readings_topic(namespace)
    sent = [record(b"%d" % n, n % PARTITIONS, topic) for n in range(20)]
    # Larger than a batch of the producer: they go one by one.
    sent += [record(bytes([n]) * 100_000, 1, topic) for n in range(5)]

    async def scenario() -> list[KafkaRecord]:
        async with kafka_log(services.kafka_bootstrap, namespace) as log:
            sender = RecordSender(services.kafka_bootstrap, idempotence=idempotence)
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


@pytest.mark.integration
def test_a_kafka_that_refuses_idempotence_is_told_at_once(tansu: str) -> None:
    async def scenario() -> None:
        sender = RecordSender(tansu, idempotence=True)
        async with asyncio.timeout(PATIENCE_S):
            await sender.start()

    with pytest.raises(IdempotenceError, match=r"set kafka\.idempotence = false"):
        asyncio.run(scenario())


def test_what_only_a_person_can_mend_is_not_retried_by_anybody() -> None:
    for error in (TopicError, IdempotenceError, RecordSizeError):
        assert issubclass(error, KafkaSetupError)
        assert not issubclass(error, (KafkaError, OSError))


class Faulty:
    """Producers that fail as told: at once, or when the answer is awaited."""

    def __init__(self, *faults: tuple[bytes, str, Exception]) -> None:
        self.faults = list(faults)
        self.taken: list[bytes] = []
        self.made = self.left = 0

    def __call__(self, **options: Any) -> "Faulty":
        self.options = options
        self.made += 1
        return self

    async def start(self) -> None:
        if self.faults and self.faults[0][1] == "to start":
            raise self.faults.pop(0)[2]

    async def leave(self, _grace_s: float) -> None:
        self.left += 1

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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest.kafka, "_BACKOFF_CAP_S", 0.01)


def sent_through(monkeypatch: pytest.MonkeyPatch, producer: Faulty, *values: bytes) -> list[bytes]:
    monkeypatch.setattr(ingest.kafka, "_Producer", producer)

    async def scenario() -> None:
        sender = RecordSender("127.0.0.1:1")
        try:
            async with asyncio.timeout(PATIENCE_S):
                await sender.send([record(value) for value in values])
        finally:
            await sender.stop()

    asyncio.run(scenario())
    assert not producer.faults
    return producer.taken


@pytest.mark.usefixtures("quick")
def test_only_what_was_refused_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    producer = Faulty((b"2", "later", KafkaConnectionError()), (b"2", "later", OSError()))
    assert sent_through(monkeypatch, producer, b"1", b"2", b"3") == [b"1", b"3", b"2"]


@pytest.mark.usefixtures("quick")
def test_what_is_on_its_way_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    producer = Faulty((b"2", "at once", KafkaConnectionError()))
    assert sent_through(monkeypatch, producer, b"1", b"2", b"3") == [b"1", b"2", b"3"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_producer_that_has_failed_is_replaced(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    # Its numbers have a gap now: whatever it sends to that partition is refused, for ever.
    producer = Faulty(
        (b"1", when, OutOfOrderSequenceNumber()), (b"1", "to start", KafkaConnectionError())
    )
    assert sorted(sent_through(monkeypatch, producer, b"1", b"2")) == [b"1", b"2"]
    assert producer.made == producer.left == 3


@pytest.mark.parametrize("when", ["at once", "later"])
@pytest.mark.parametrize("fault", [MessageSizeTooLargeError(), RecordListTooLargeError()])
def test_a_record_too_large_for_kafka_is_an_error_and_not_tried_for_ever(
    monkeypatch: pytest.MonkeyPatch, when: str, fault: KafkaError
) -> None:
    producer = Faulty((b"12345", when, fault))
    with pytest.raises(RecordSizeError, match=r"topic t .* record of 5 bytes"):
        sent_through(monkeypatch, producer, b"1", b"12345", b"not this one")
    assert producer.made == producer.left == 1


def test_a_fault_of_our_own_is_not_repeated_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    producer = Faulty((b"1", "at once", AssertionError("Unrecognized partition")))
    with pytest.raises(AssertionError):
        sent_through(monkeypatch, producer, b"1")


def test_a_kafka_that_gives_no_producer_id_yet_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Waiting(Faulty):
        async def start(self) -> None:
            await asyncio.Event().wait()

    producer = Waiting()
    monkeypatch.setattr(ingest.kafka, "_Producer", producer)
    monkeypatch.setattr(ingest.kafka, "_START_DEADLINE_S", 0.01)
    with pytest.raises(KafkaConnectionError, match="not ready after"):
        asyncio.run(asyncio.wait_for(RecordSender("127.0.0.1:1").start(), PATIENCE_S))
    assert producer.made == producer.left == 1


@pytest.mark.parametrize("idempotence", [True, False])
def test_idempotence_is_as_set(monkeypatch: pytest.MonkeyPatch, idempotence: bool) -> None:
    producer = Faulty()
    monkeypatch.setattr(ingest.kafka, "_Producer", producer)
    asyncio.run(RecordSender("127.0.0.1:1", idempotence).start())
    assert producer.options["enable_idempotence"] is idempotence
    assert producer.options["acks"] == "all"

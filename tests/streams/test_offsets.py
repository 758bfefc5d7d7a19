"""A log and a database that do not fit: restored to an older state, made anew, cut short."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from citywatch.embedded import Addresses
from ingest.kafka import RecordSender, ensure_topics
from ingest.records import KafkaRecord
from ingest.topics import readings_topic
from streams.app import LogError, StreamsApp
from streams.worker import Delivery, GapError, WorkerConfig
from tests.storage.database import Database
from tests.streams.citylog import batch_message
from tests.streams.sessions import until

pytestmark = [pytest.mark.integration, pytest.mark.kafka, pytest.mark.slow]
MESSAGES = 20
PARTITIONS = 2
COUNT = "SELECT count(*) FROM reading"


def app(services: Addresses, namespace: str, state_interval_s: float = 1.0) -> StreamsApp:
    return StreamsApp(
        WorkerConfig(
            namespace=namespace,
            flush_interval_s=0.1,
            max_flush_rows=20_000,
            max_pending_rows=200_000,
            state_interval_s=state_interval_s,
        ),
        bootstrap=services.kafka_bootstrap,
        partitions=PARTITIONS,
        replication_factor=1,
        dsn=services.dsn,
        log_id=services.log_id,
    )


async def fill(services: Addresses, namespace: str) -> None:
    await ensure_topics(services.kafka_bootstrap, namespace, PARTITIONS, 1)
    sender = RecordSender(services.kafka_bootstrap, idempotence=False)
    await sender.start()
    try:
        for number in range(MESSAGES):
            for partition in range(PARTITIONS):
                time_ns = (1_700_000_000 + number) * 10**9
                reading = (f"traffic/harbour/t{partition}/intensity", time_ns, 1.0)
                headers, value = batch_message([reading], namespace=namespace)
                record = KafkaRecord(readings_topic(namespace), partition, value, headers)
                await sender.send([record])
    finally:
        await sender.stop()


async def committed(services: Addresses, namespace: str) -> list[int | None]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=services.kafka_bootstrap, group_id=f"{namespace}-worker"
    )
    await consumer.start()
    try:
        return [
            await consumer.committed(TopicPartition(readings_topic(namespace), number))
            for number in range(PARTITIONS)
        ]
    finally:
        await consumer.stop()


async def commit(services: Addresses, namespace: str, offset: int) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=services.kafka_bootstrap,
        group_id=f"{namespace}-worker",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        places = [TopicPartition(readings_topic(namespace), n) for n in range(PARTITIONS)]
        consumer.assign(places)
        await consumer.commit(dict.fromkeys(places, offset))
    finally:
        await consumer.stop()


async def live(streams: StreamsApp, is_done: Callable[[], bool]) -> None:
    """Let a worker run until something is done, or it ends by itself."""
    stop = asyncio.Event()
    running = asyncio.create_task(streams.run(stop))
    try:
        await until(lambda: is_done() or running.done(), 60)
    finally:
        stop.set()
        await running


@pytest.mark.usefixtures("schema")
def test_a_database_restored_to_an_older_state_is_caught_up(
    services: Addresses, namespace: str
) -> None:
    """What Kafka was told is done is read again, in all partitions."""

    async def scenario() -> None:
        await fill(services, namespace)
        await commit(services, namespace, 15)
        streams = app(services, namespace)
        await live(streams, lambda: streams.worker.totals.stored == MESSAGES * PARTITIONS)
        assert streams.worker.totals.stored == MESSAGES * PARTITIONS

    asyncio.run(scenario())


def test_a_gap_in_the_middle_commits_nothing_beyond_the_saved_state(
    services: Addresses, namespace: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that never reaches the worker: what it has seen before is in no saved state yet."""

    async def scenario() -> None:
        await fill(services, namespace)
        streams = app(services, namespace, state_interval_s=3600.0)
        take = streams.worker.take

        async def losing(delivery: Delivery) -> None:
            if (delivery.topic, delivery.offset) != (readings_topic(namespace), 10):
                await take(delivery)

        monkeypatch.setattr(streams.worker, "take", losing)
        with pytest.raises(GapError, match="expected offset 10, got 1"):
            await live(streams, lambda: False)
        saved = dict(database.all("SELECT partition, next_offset FROM detector_state"))
        for number, offset in enumerate(await committed(services, namespace)):
            assert (offset or 0) <= saved.get(number, 0)
        streams = app(services, namespace)
        await live(streams, lambda: database.one(COUNT) == MESSAGES * PARTITIONS)
        assert database.one(COUNT) == MESSAGES * PARTITIONS

    asyncio.run(scenario())


def was_read(database: Database, services: Addresses, namespace: str, offset: int) -> None:
    """Let the database say that the first partition was read up to an offset."""
    database.all(
        "INSERT INTO stream_position VALUES (%s, 0, %s, %s) RETURNING 1",
        readings_topic(namespace),
        services.log_id,
        offset,
    )


def test_a_log_that_ends_before_what_was_read_is_refused(
    services: Addresses, namespace: str, database: Database
) -> None:
    was_read(database, services, namespace, MESSAGES + 1)

    async def scenario() -> None:
        await fill(services, namespace)
        with pytest.raises(LogError, match=f"ends at {MESSAGES}, and was read to {MESSAGES + 1}"):
            await live(app(services, namespace), lambda: False)

    asyncio.run(scenario())


def test_a_log_that_ends_where_it_was_read_to_is_not(
    services: Addresses, namespace: str, database: Database
) -> None:
    was_read(database, services, namespace, MESSAGES)

    async def scenario() -> None:
        await fill(services, namespace)
        stop = asyncio.Event()
        streams = app(services, namespace)
        running = asyncio.create_task(streams.run(stop))
        # Three looks at the log.
        done, _ = await asyncio.wait({running}, timeout=20)
        stop.set()
        await running
        assert not done
        assert streams.meter.progress.stored((readings_topic(namespace), 0)) == MESSAGES

    asyncio.run(scenario())
    # Nothing is left behind where it ran.
    assert not list(Path().glob(f"{namespace}-worker*"))

"""A log and a database that do not fit: restored to an older state, made anew, cut short."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from citywatch.embedded import Addresses
from ingest.kafka import RecordSender, ensure_topics
from ingest.records import KafkaRecord
from ingest.topics import readings_topic
from streams.app import LogError, StreamsApp
from streams.worker import GapError, WorkerConfig
from tests.storage.database import Database
from tests.streams.citylog import batch_message
from tests.streams.sessions import until

pytestmark = [pytest.mark.integration, pytest.mark.kafka, pytest.mark.slow]
MESSAGES = 20


def app(services: Addresses, namespace: str) -> StreamsApp:
    return StreamsApp(
        WorkerConfig(
            namespace=namespace,
            flush_interval_s=0.1,
            max_flush_rows=20_000,
            max_pending_rows=200_000,
            state_interval_s=1.0,
        ),
        bootstrap=services.kafka_bootstrap,
        partitions=1,
        replication_factor=1,
        dsn=services.dsn,
        log_id=services.log_id,
    )


async def fill(services: Addresses, namespace: str) -> None:
    await ensure_topics(services.kafka_bootstrap, namespace, 1, 1)
    sender = RecordSender(services.kafka_bootstrap, idempotence=False)
    await sender.start()
    try:
        for number in range(MESSAGES):
            reading = ("traffic/harbour/t/intensity", (1_700_000_000 + number) * 10**9, 1.0)
            headers, value = batch_message([reading], namespace=namespace)
            await sender.send([KafkaRecord(readings_topic(namespace), 0, value, headers)])
    finally:
        await sender.stop()


async def commit(services: Addresses, namespace: str, offset: int) -> None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=services.kafka_bootstrap,
        group_id=f"{namespace}-worker",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        place = TopicPartition(readings_topic(namespace), 0)
        consumer.assign([place])
        await consumer.commit({place: offset})
    finally:
        await consumer.stop()


@pytest.mark.usefixtures("schema")
def test_a_database_restored_to_an_older_state_is_caught_up(
    services: Addresses, namespace: str
) -> None:
    async def scenario() -> None:
        await fill(services, namespace)
        # What Kafka was told when the database still had it.
        await commit(services, namespace, 15)
        with pytest.raises(GapError, match="expected offset 0, got 15"):
            async with asyncio.timeout(60):
                await app(services, namespace).run(asyncio.Event())
        stop = asyncio.Event()
        streams = app(services, namespace)
        running = asyncio.create_task(streams.run(stop))
        try:
            await until(lambda: streams.worker.totals.stored == MESSAGES or running.done(), 60)
        finally:
            stop.set()
            await running
        assert streams.worker.totals.stored == MESSAGES

    asyncio.run(scenario())


def test_a_log_that_ends_before_what_was_read_is_refused(
    services: Addresses, namespace: str, database: Database
) -> None:
    database.all(
        "INSERT INTO stream_position VALUES (%s, 0, %s, %s) RETURNING 1",
        readings_topic(namespace),
        services.log_id,
        MESSAGES + 1,
    )

    async def scenario() -> None:
        await fill(services, namespace)
        with pytest.raises(LogError, match=f"ends at {MESSAGES}, and was read to {MESSAGES + 1}"):
            async with asyncio.timeout(60):
                await app(services, namespace).run(asyncio.Event())

    asyncio.run(scenario())


def test_a_log_that_ends_where_it_was_read_to_is_not(
    services: Addresses, namespace: str, database: Database
) -> None:
    database.all(
        "INSERT INTO stream_position VALUES (%s, 0, %s, %s) RETURNING 1",
        readings_topic(namespace),
        services.log_id,
        MESSAGES,
    )

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

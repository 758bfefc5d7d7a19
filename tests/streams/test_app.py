"""The Faust app: while the database is away it stops reading, and then reads on."""

import asyncio

import pytest
from faust.types import TP

from citywatch.embedded import Addresses
from citywatch.embedded.postgres import Postgres
from ingest.kafka import RecordSender, ensure_topics
from ingest.records import KafkaRecord
from ingest.topics import SeriesKey, database_schema, readings_topic
from storage.migrate import migrate
from streams.app import _STREAM_BUFFER, StreamsApp
from streams.worker import WorkerConfig
from tests.storage.database import Database
from tests.streams.citylog import START_NS, batch_message
from tests.streams.sessions import until

pytestmark = [pytest.mark.integration, pytest.mark.kafka, pytest.mark.slow]

MESSAGES = 1500
ROWS = 50
BOUND = 1000


def test_the_consumer_pauses_while_the_database_is_away(
    services: Addresses, namespace: str, own_postgres: Postgres, idempotence: bool
) -> None:
    topic = readings_topic(namespace)
    schema = database_schema(namespace)
    migrate(own_postgres.dsn, schema)
    key = str(SeriesKey("traffic", "harbour", "loop-1", "intensity"))
    sent = []
    for number in range(MESSAGES):
        start = START_NS + number * ROWS * 10**9
        readings = [(key, start + n * 10**9, float(n % 7)) for n in range(ROWS)]
        headers, value = batch_message(readings, namespace=namespace)
        sent.append(KafkaRecord(topic, 0, value, headers))

    async def work() -> None:
        await ensure_topics(services.kafka_bootstrap, namespace, 1, 1)
        app = StreamsApp(
            WorkerConfig(
                namespace,
                flush_interval_s=0.05,
                max_flush_rows=500,
                max_pending_rows=BOUND,
                state_interval_s=0.5,
            ),
            bootstrap=services.kafka_bootstrap,
            partitions=1,
            replication_factor=1,
            dsn=own_postgres.dsn,
            log_id=services.log_id,
        )
        worker = app.worker

        def held() -> int:
            inboxes = worker._inboxes.values()
            return worker._pending_rows + sum(one.rows for box in inboxes for one in box.held)

        stop = asyncio.Event()
        running = asyncio.create_task(app.run(stop))
        try:
            await until(lambda: running.done() or 0 in worker._partitions, 60)
            await asyncio.to_thread(own_postgres.kill)
            sender = RecordSender(services.kafka_bootstrap, idempotence=idempotence)
            await sender.start()
            await sender.send(sent)
            await sender.stop()
            await until(lambda: held() >= BOUND, 60)
            place = TP(topic, 0)
            stands, before = await app._app.consumer.position(place), -1
            while stands != before:  # two looks a second apart
                await asyncio.sleep(1.0)
                stands, before = await app._app.consumer.position(place), stands
            # What it holds, what Faust queues, and as much again that waits to be queued.
            assert stands <= (BOUND + 500) // ROWS + 2 * _STREAM_BUFFER < MESSAGES
            assert held() <= BOUND + 500 + 3 * ROWS
            await asyncio.to_thread(own_postgres.restart)
            await until(lambda: running.done() or worker.totals.stored == MESSAGES * ROWS, 60)
        finally:
            stop.set()
            await running

    asyncio.run(work())
    with Database(own_postgres.dsn, schema) as database:
        assert database.one("SELECT count(*) FROM reading") == MESSAGES * ROWS
        assert database.unbalanced() == []

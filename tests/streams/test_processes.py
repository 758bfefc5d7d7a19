"""Real processes, killed and replaced: every published reading is stored exactly once."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from citywatch.embedded import Addresses
from citywatch.embedded.postgres import Postgres
from ingest.kafka import RecordSender, ensure_topics
from ingest.records import KafkaRecord
from ingest.topics import database_schema
from simulators.payloads import Message
from storage.migrate import migrate
from tests.storage.database import Database
from tests.streams.citylog import NAMESPACE, city_log
from tests.streams.town import PARTITIONS, Town

pytestmark = [pytest.mark.integration, pytest.mark.kafka, pytest.mark.slow]


def test_a_worker_that_is_killed_and_started_again(town: Town, sent: list[Message]) -> None:
    town.start("bridge")
    town.start("worker")
    town.until_open()
    town.publish()
    town.until_stored(2000)
    town.kill("worker")
    town.start("worker")
    town.until_stored(2000)
    town.check(town.publish_no_more(), sent)


def test_workers_join_leave_and_are_killed_under_load(town: Town, sent: list[Message]) -> None:
    town.start("bridge")
    town.start("worker-1")
    town.until_open()
    town.publish()
    town.start("worker-2")
    town.until_workers(2)
    town.start("worker-3")
    town.until_stored(1000)
    town.end("worker-1")
    town.kill("worker-2")
    town.start("worker-4")
    town.start("worker-5")
    town.until_workers(2)
    town.until_read_on()
    town.until_stored(1000)
    town.check(town.publish_no_more(), sent)


def test_a_worker_obeys_sigterm_while_the_database_is_away(
    services: Addresses,
    own_postgres: Postgres,
    idempotence: bool,
    tmp_path: Path,
) -> None:
    log = city_log(31, partitions=PARTITIONS, messages=20)
    addresses = replace(services, dsn=own_postgres.dsn)
    schema = database_schema(NAMESPACE)
    migrate(addresses.dsn, schema)

    async def send() -> None:
        await ensure_topics(addresses.kafka_bootstrap, NAMESPACE, PARTITIONS, 1)
        sender = RecordSender(addresses.kafka_bootstrap, idempotence=idempotence)
        await sender.start()
        try:
            await sender.send(
                [
                    KafkaRecord(one.topic, one.partition, one.value, list(one.headers.items()))
                    for one in log
                ]
            )
        finally:
            await sender.stop()

    with Database(addresses.dsn, schema) as database:
        town = Town(addresses, NAMESPACE, database, tmp_path, idempotence=idempotence)
        try:
            worker = town.start("worker")
            taken = "SELECT count(*) FROM stream_position"
            town.until(lambda: database.one(taken) == 2 * PARTITIONS, "all partitions are taken")
            own_postgres.kill()
            asyncio.run(send())
            town.until(lambda: "does not answer" in worker.log_tail(), "the worker has noticed")
            started = time.monotonic()
            town.end("worker")
            assert time.monotonic() - started < 9
            own_postgres.restart()
            # Nothing was half written; test_outage has the next worker catch up.
            assert not any(database.all("SELECT FROM stream_position WHERE next_offset <> 0"))
            assert database.one("SELECT count(*) FROM reading") == 0
            assert database.one("SELECT count(*) FROM detector_state") == 0
        finally:
            town.close()

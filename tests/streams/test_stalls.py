"""Real workers that hang: noticed, ended, started again, and nothing is lost or doubled by it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from faust.types import TP

from citywatch.embedded import Addresses, EmbeddedStack
from citywatch.embedded.supervision import Supervised
from citywatch.watchdog import STALLED
from ingest.kafka import RecordSender, ensure_topics
from ingest.records import KafkaRecord
from ingest.topics import database_schema, readings_topic
from simulators.payloads import Message
from storage.migrate import migrate
from streams.app import StreamsApp
from streams.progress import stall
from streams.worker import WorkerConfig
from tests.storage.database import Database
from tests.streams.citylog import batch_message
from tests.streams.sessions import until
from tests.streams.town import Town, ask, free_port, metric

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# The least that the settings allow.
PATIENCE_S = 10.0
NAMESPACE = "replay-stall"
BACKEND = "SELECT pid FROM pg_stat_activity WHERE application_name = 'citywatch worker'"


class WatchedTown(Town):
    """A town whose worker is started again when it ends, and asked how it is."""

    worker: Supervised | None = None
    port: int
    said: list[str]

    def open(self) -> None:
        self.said = []
        self.start("bridge")
        self.worker = Supervised(self.start("worker"))
        self.until_open()

    def look(self, *restarted: str) -> None:
        assert not restarted
        said = self.worker.look(time.monotonic()) if self.worker else None
        if said:
            self.said.append(said)
        for name, child in self._children.items():
            if not (self.worker and name == "worker"):
                child.check()

    def until_started_again(self) -> None:
        self.until(lambda: len(self.said) == 2, "the worker has ended and was started again")
        assert self.said[0].startswith(f"worker ended with exit code {STALLED};")

    def backend(self) -> int:
        return int(self.database.one(BACKEND))

    def pid(self) -> int:
        pid = self._children["worker"].pid
        assert pid is not None
        return pid

    def last_words(self) -> str:
        """Return what the worker wrote that has ended."""
        log = self._children["worker"].log_path
        return log.with_name(f"{log.name}.1").read_text()

    def ask(self, path: str) -> tuple[int, str]:
        return ask(self.port, path)

    def metric(self, name: str) -> float:
        return metric(self.port, name)


@pytest.fixture
def town(own_stack: EmbeddedStack, tmp_path: Path) -> Iterator[WatchedTown]:
    schema = database_schema(NAMESPACE)
    migrate(own_stack.addresses.dsn, schema)
    port = free_port()
    settings = {
        "CITYWATCH_WORKER__STALL_AFTER_S": str(PATIENCE_S),
        "CITYWATCH_WORKER__METRICS_PORT": str(port),
    }
    with Database(own_stack.addresses.dsn, schema) as database:
        town = WatchedTown(
            own_stack.addresses, NAMESPACE, database, tmp_path, idempotence=False, **settings
        )
        town.port = port
        try:
            yield town
        finally:
            town.close()


def test_a_flush_that_hangs(town: WatchedTown, sent: list[Message]) -> None:
    town.open()
    town.publish()
    town.until_stored(2000)
    backend = town.backend()
    os.kill(backend, signal.SIGSTOP)  # no timeout of the database can fire in it
    try:
        town.until(lambda: town.ask("/healthz")[0] == 503, "the endpoint says so first")
        town.until_started_again()
    finally:
        os.kill(backend, signal.SIGCONT)
    words = town.last_words()
    assert "no progress: the worker waits for an answer of the database for 10 s" in words
    assert "Task flush:" in words
    assert "in write\n" in words  # where in the flush
    town.until_stored(2000)
    town.check(town.publish_no_more(), sent)


def test_a_database_that_is_away_for_longer_is_no_stall(
    town: WatchedTown, own_stack: EmbeddedStack, sent: list[Message]
) -> None:
    town.open()
    town.publish()
    town.until_stored(1000)
    town.until(lambda: town.ask("/readyz") == (200, "ok\n"), "it is ready")
    pid = town.pid()
    own_stack.postgres.kill()
    begun = time.monotonic()
    town.until(lambda: town.metric("citywatch_worker_database_up") == 0, "it has noticed")
    assert town.ask("/readyz") == (503, "the database is away\n")

    def for_longer() -> bool:
        assert town.ask("/healthz") == (200, "ok\n")
        return time.monotonic() - begun > 2 * PATIENCE_S

    town.until(for_longer, "it is away for long")
    assert town.metric("citywatch_worker_database_retries_total") > 1
    own_stack.postgres.restart()
    town.until_stored(1000)
    assert town.said == []
    assert town.pid() == pid
    town.check(town.publish_no_more(), sent)


def test_a_worker_that_was_stopped_and_wakes_up_goes_on(
    town: WatchedTown, sent: list[Message]
) -> None:
    town.open()
    town.publish()
    town.until_stored(1000)
    pid = town.pid()
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    town.until(lambda: time.monotonic() - begun > 1.5 * PATIENCE_S, "it sleeps for long")
    os.kill(pid, signal.SIGCONT)
    town.until_stored(1000)
    assert town.said == []
    town.check(town.publish_no_more(), sent)


def test_metrics_of_a_worker_at_work(town: WatchedTown, sent: list[Message]) -> None:
    town.open()
    town.publish()
    town.until_stored(2000)
    name = "citywatch_worker_"
    town.until(lambda: town.metric(f"{name}state_save_duration_seconds_count") > 1, "state saved")
    assert town.metric(f"{name}partitions_owned") == 4
    assert town.metric(f"{name}state_size_bytes") > 1000
    assert town.metric(f"{name}state_age_seconds") < 4 * 10
    assert town.metric(f"{name}lag_seconds") < 10
    assert town.metric(f"{name}flush_rows_sum") >= 2000
    published = town.publish_no_more()
    whole = published.readings + published.duplicate_readings
    town.until(lambda: town.metric(f"{name}rows_total") >= whole, "all rows are counted")
    town.until(lambda: town.metric(f"{name}state_age_seconds") == 0, "the state is saved")
    town.until(lambda: town.metric(f"{name}lag_messages") == 0, "nothing is left in the log")
    assert town.metric(f"{name}rows_total") == town.database.one(
        "SELECT sum(stored + duplicates + late_conflicts) FROM ledger"
    )
    assert town.metric(f"{name}dead_letters_total") == town.database.one(
        "SELECT count(*) FROM dead_letter"
    )
    town.check(published, sent)


@contextmanager
def deaf_worker(environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a worker whose standard error is a pipe; give a second way into it, for filling it."""
    read, write = os.pipe()
    filling = os.open(f"/proc/self/fd/{write}", os.O_WRONLY | os.O_NONBLOCK)
    argv = [sys.executable, "-m", "citywatch", "worker"]
    process = subprocess.Popen(argv, stderr=write, env=environment)
    try:
        yield process, filling
    finally:
        process.kill()
        process.wait()
        for each in (read, write, filling):
            os.close(each)


def test_an_event_loop_that_hangs(town: WatchedTown, sent: list[Message]) -> None:
    """It writes a line of its log, and nobody reads it."""
    town.start("bridge")
    with deaf_worker(town._environment) as (process, filling):
        town.until_open()
        town.publish()
        town.until_stored(1000)
        with suppress(BlockingIOError):
            while True:
                os.write(filling, b"x")
        # Its next flush fails, which is worth a line.
        town.database.one("SELECT pg_terminate_backend(%s)", town.backend())
        hangs = "the event loop has not run for"
        town.until(lambda: hangs in town.ask("/healthz")[1], "the endpoint says so first")
        town.until(lambda: process.poll() is not None, "the worker has ended")
        assert process.returncode == STALLED
    town.start("worker")
    town.until_stored(1000)
    town.check(town.publish_no_more(), sent)


@pytest.mark.usefixtures("schema")
def test_a_consumer_that_fetches_nothing(services: Addresses, namespace: str) -> None:
    """Faust is told to pause, and nobody tells it to go on: Kafka says that there is more."""
    place = (readings_topic(namespace), 0)
    config = WorkerConfig(
        namespace=namespace,
        flush_interval_s=0.1,
        max_flush_rows=20_000,
        max_pending_rows=200_000,
        state_interval_s=1.0,
    )

    async def send(sender: RecordSender) -> None:
        reading = ("traffic/harbour/t/intensity", time.time_ns() // 1000 * 1000, 1.0)
        headers, value = batch_message([reading], namespace=namespace)
        await sender.send([KafkaRecord(*place, value, headers)])

    async def scenario() -> None:
        streams = StreamsApp(
            config,
            bootstrap=services.kafka_bootstrap,
            partitions=1,
            replication_factor=1,
            dsn=services.dsn,
            log_id=services.log_id,
        )
        progress = streams.meter.progress
        sender = RecordSender(services.kafka_bootstrap, idempotence=False)
        await ensure_topics(services.kafka_bootstrap, namespace, 1, 1)
        await sender.start()
        stop = asyncio.Event()
        running = asyncio.create_task(streams.run(stop))

        def lag() -> int | None:
            return progress.lags(0.0, 0.0).get(place, (None, 0.0))[0]

        try:
            await send(sender)
            await until(lambda: streams.worker.totals.stored == 1, 60)
            await until(lambda: lag() == 0)
            assert progress.snapshot().behind_s == {}
            streams._app.consumer.pause_partitions([TP(*place)])
            await asyncio.sleep(0.5)  # a fetch that was under way
            for _ in range(3):
                await send(sender)
            await until(lambda: place in progress.snapshot().behind_s)
            assert not running.done()
            now_s = time.monotonic()
            snapshot = progress.snapshot()
            assert stall(snapshot, now_s, 60.0, 0.0) is None
            reason = stall(
                replace(snapshot, loop_s=now_s + 61, activity_s=now_s + 61), now_s + 61, 60.0, 0.0
            )
            assert reason is not None
            assert f"nothing of {namespace}.readings/0 is taken" in reason
        finally:
            stop.set()
            await running
            await sender.stop()

    asyncio.run(scenario())

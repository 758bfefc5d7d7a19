"""What the benchmark of the worker stands on: a backlog in Kafka, worker processes, cores."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil
import psycopg
from aiokafka import AIOKafkaProducer
from fleet import Record
from load import PARTITIONS

from citywatch.embedded import EmbeddedError
from citywatch.embedded.apache_kafka import ApacheKafka
from citywatch.embedded.kafka import Tansu
from citywatch.embedded.postgres import Postgres
from citywatch.embedded.process import ChildProcess
from citywatch.embedded.service import HOST
from citywatch.memory import peak_rss_mib
from ingest.kafka import ensure_topics
from ingest.topics import database_schema, readings_topic
from storage.migrate import migrate, session_options

PATIENCE_S = 180.0
_POLL_S = 0.1
# Records sent before the first of them must be acknowledged.
_IN_FLIGHT = 100
_STORED = "SELECT coalesce(sum(stored), 0)::bigint FROM ledger"
_POSITIONS = "SELECT partition, next_offset FROM stream_position WHERE topic = %s"


class Stack:
    """A Kafka and a database: Apache Kafka where Java and its jars are, else the embedded one.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = Postgres(folder / "postgres", 0, fast=False)
        self.kafka: ApacheKafka | Tansu = ApacheKafka(folder / "kafka", 0, fast=True)
        self.is_apache = True
        with suppress(EmbeddedError):
            self.kafka_version = self.kafka.version
            return
        self.kafka, self.is_apache = Tansu(folder / "kafka", 0), False
        self.kafka_version = self.kafka.version

    def __enter__(self) -> Self:
        try:
            self.kafka.start()
            self.postgres.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kafka.stop()
        self.postgres.remove()

    @property
    def bootstrap(self) -> str:
        """Address of Kafka."""
        return f"{HOST}:{self.kafka.port}"

    @property
    def pids(self) -> list[int]:
        """Kafka's and the database's processes."""
        return [pid for pid in (self.kafka.pid, self.postgres.pid) if pid is not None]

    async def open(self, namespace: str) -> None:
        """Make the topics and the tables of a namespace."""
        await ensure_topics(self.bootstrap, namespace, PARTITIONS, 1)
        await asyncio.to_thread(migrate, self.postgres.dsn, database_schema(namespace))

    async def fill(self, namespace: str, records: Iterable[Record]) -> dict[int, int]:
        """Put messages into Kafka; return the first offset behind them by partition."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            acks="all",
            enable_idempotence=self.is_apache,
            max_batch_size=1 << 20,
            max_request_size=4 << 20,
        )
        await producer.start()
        ends: dict[int, int] = {}
        try:
            waiting: list[Any] = []
            topic = readings_topic(namespace)
            for record in records:
                waiting.append(
                    await producer.send(
                        topic, record.value, partition=record.partition, headers=record.headers
                    )
                )
                if len(waiting) >= _IN_FLIGHT:
                    _note(ends, await asyncio.gather(*waiting))
                    waiting.clear()
            _note(ends, await asyncio.gather(*waiting))
        finally:
            await producer.stop()
        return ends

    def worker(self, namespace: str, name: str = "worker", **settings: str) -> ChildProcess:
        """Return a worker process, not started yet."""
        return ChildProcess(
            name,
            [sys.executable, "-m", "citywatch", "worker"],
            self.environment(namespace, **settings),
            self.folder / f"{name}.{namespace}.log",
            grace_s=30.0,
        )

    def environment(self, namespace: str, **settings: str) -> dict[str, str]:
        """Return the environment of a command in this stack."""
        kept = {name: text for name, text in os.environ.items() if "CITYWATCH_" not in name}
        return kept | {
            "CITYWATCH_NAMESPACE": namespace,
            "CITYWATCH_KAFKA__BOOTSTRAP": self.bootstrap,
            "CITYWATCH_KAFKA__LOG_ID": self.kafka.log_id,
            "CITYWATCH_KAFKA__PARTITIONS": str(PARTITIONS),
            "CITYWATCH_DATABASE__DSN": self.postgres.dsn,
            **{f"CITYWATCH_{name}": text for name, text in settings.items()},
        }

    def connect(self, namespace: str) -> psycopg.Connection[Any]:
        """Return a connection that works in the namespace's schema."""
        options = session_options(database_schema(namespace))
        return psycopg.connect(self.postgres.dsn, autocommit=True, options=options)


def _note(ends: dict[int, int], sent: Iterable[Any]) -> None:
    for one in sent:
        ends[one.partition] = max(ends.get(one.partition, 0), one.offset + 1)


def stored(connection: psycopg.Connection[Any]) -> int:
    """Return how many readings are stored, as the ledger counts them."""
    row = connection.execute(_STORED).fetchone()
    assert row is not None
    return int(row[0])


def positions(connection: psycopg.Connection[Any], namespace: str) -> dict[int, int]:
    """Return how far each partition of the readings is stored."""
    return dict(connection.execute(_POSITIONS, (readings_topic(namespace),)).fetchall())


def until(
    worker: ChildProcess, holds: Callable[[], bool], what: str, patience_s: float = PATIENCE_S
) -> None:
    """Wait until `holds()`, as long as the worker lives."""
    end = time.monotonic() + patience_s
    while not holds():
        worker.check()
        if time.monotonic() > end:
            raise SystemExit(f"not within {patience_s:g} s: {what}\n{worker.log_tail()}")
        time.sleep(_POLL_S)


def pin(pids: Iterable[int], core: int | None) -> None:
    """Keep processes, their threads and their children on one core; None lets them go."""
    cores = os.sched_getaffinity(0) if core is None else {core}
    for pid in pids:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                for thread in process.threads():
                    with suppress(ProcessLookupError):
                        os.sched_setaffinity(thread.id, cores)


def two_cores() -> tuple[int, int]:
    """Return a core for the worker and another for what it talks to; the same where is but one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def weigh(worker: ChildProcess) -> float:
    """Return the peak resident set of a living process so far, MiB."""
    return peak_rss_mib(worker.pid) if worker.pid is not None else 0.0


def cpu_time_s(pid: int) -> float:
    """Return the CPU time that a process has taken so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)

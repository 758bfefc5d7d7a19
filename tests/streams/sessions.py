"""Kafka as a worker sees it, without Kafka: what was acknowledged is not delivered again."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from psycopg import OperationalError

from storage.flush import Flush
from storage.sink import Outcome, Sink
from streams.worker import TopicPartition, Worker, WorkerConfig
from tests.storage.database import Database
from tests.streams.citylog import FACTS, NAMESPACE, READINGS, Log

LOG_ID = "log-1"
DEADLINE_S = 60.0
# Found again in the database at the moment of an acknowledgement.
COVERED = """
    SELECT coalesce(max(p.next_offset), 0), coalesce(max(d.next_offset), 0)
    FROM stream_position p LEFT JOIN detector_state d USING (topic, partition)
    WHERE topic = %s AND partition = %s
"""


class CrashError(BaseException):
    """The process is gone at this point."""


def config(**changes: Any) -> WorkerConfig:
    quick: dict[str, Any] = {
        "namespace": NAMESPACE,
        "flush_interval_s": 0.01,
        "max_flush_rows": 20_000,
        "max_pending_rows": 200_000,
        "state_interval_s": 3600.0,
        "facts": FACTS,
    }
    return WorkerConfig(**quick | changes)


class MoodySink(Sink):
    """A sink that crashes or stutters around its writes when told to."""

    mood: str | None = None

    async def write(self, flush: Flush) -> Outcome:
        mood, self.mood = self.mood, None
        if mood == "crash before":
            raise CrashError
        outcome = await super().write(flush)
        if mood == "crash after":
            raise CrashError
        if mood == "lose the answer":
            raise OperationalError("the answer got lost")
        return outcome


@dataclass
class Kafka:
    """A log with the offsets of one consumer group."""

    log: Log
    database: Database
    committed: dict[TopicPartition, int] = field(default_factory=dict)
    acknowledged: list[tuple[str, int, int]] = field(default_factory=list)
    expired: dict[TopicPartition, int] = field(default_factory=dict)
    is_waiting: bool = False  # for the database, to check an acknowledgement

    async def acknowledge(self, handle: tuple[str, int, int]) -> None:
        """Check the promise of the project: nothing is acknowledged before it is safe."""
        topic, partition, offset = handle
        stored, saved = await self._covered(topic, partition)
        assert offset < stored, f"{handle} acknowledged, rows are stored up to {stored}"
        if topic == READINGS:
            assert offset < saved, f"{handle} acknowledged, the state is saved at {saved}"
        # In order and without a gap, or Faust would never commit it.
        assert offset <= self.committed.get((topic, partition), 0)
        self.committed[topic, partition] = max(
            offset + 1, self.committed.get((topic, partition), 0)
        )
        self.acknowledged.append(handle)

    async def _covered(self, topic: str, partition: int) -> tuple[int, int]:
        """Ask the database, once it is back where a test has taken it away right now."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    ((stored, saved),) = self.database.all(COVERED, topic, partition)
                except OperationalError:
                    self.is_waiting = True
                    await asyncio.sleep(0.05)
                else:
                    self.is_waiting = False
                    return stored, saved

    async def earliest(self, topic: str, partition: int) -> int:
        return self.expired.get((topic, partition), 0)


class Session:
    """One life of a worker: it is assigned partitions and is delivered what is not committed."""

    def __init__(self, kafka: Kafka, **changes: Any) -> None:
        self.kafka = kafka
        database = kafka.database
        self.sink = MoodySink(database.dsn, database.schema, LOG_ID)
        self.worker = Worker(
            config(**changes), self.sink, kafka.acknowledge, kafka.earliest, self.reread
        )
        self.read: dict[TopicPartition, int] = {}
        self.asked: list[tuple[str, int, int, int]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sink.close()

    async def reread(self, topic: str, partition: int, offset: int, saved: int) -> None:
        self.asked.append((topic, partition, offset, saved))
        self.read[topic, partition] = max(offset, await self.kafka.earliest(topic, partition))

    def assign(self, *places: TopicPartition) -> None:
        for place in places or tuple(self.kafka.log.messages):
            self.read[place] = self.kafka.committed.get(place, 0)
        self.worker.assign(set(self.read))

    async def release(self, *places: TopicPartition) -> None:
        for place in places:
            del self.read[place]
        await self.worker.release(set(places))

    def behind(self) -> list[TopicPartition]:
        """Return the places that have messages to deliver."""
        return [
            place for place, read in self.read.items() if read < len(self.kafka.log.messages[place])
        ]

    async def deliver(self, place: TopicPartition, count: int = 1) -> None:
        for delivery in self.kafka.log.messages[place][self.read[place] :][:count]:
            await self.worker.take(delivery)
            self.read[place] += 1

    async def finish(self) -> None:
        """Deliver all there is, commit it, and save the state."""
        for place in self.read:
            await self.deliver(place, len(self.kafka.log.messages[place]))
        while any(inbox.pending for inbox in self.worker._inboxes.values()):
            await self.worker.flush()
        await self.worker.flush(save=True)


def undisturbed(log: Log, database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return what the database holds after one worker took the whole log in one go."""

    async def run() -> None:
        async with Session(Kafka(log, database)) as session:
            session.assign()
            await session.finish()

    asyncio.run(run())
    return database.contents()


async def until(holds: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    async with asyncio.timeout(deadline_s):
        while not holds():  # noqa: ASYNC110 - the database and the worker ring no event
            await asyncio.sleep(0.005)

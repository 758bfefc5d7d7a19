"""A plain aiokafka consumer of a topic; with `--score` it also does all that a worker does of it.

A process of its own, so that it can be timed alone. Prints one JSON object. Without `--score` the
messages are kept, and scored when the time of consuming is taken: decode to scores, without Kafka;
as many at a time as a flush takes, and then one by one.
"""

import argparse
import asyncio
import hashlib
import json
import time
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from detectors import SuiteConfig
from ingest.records import Provenance
from ingest.topics import readings_topic
from storage.sink import Resumption
from streams.partition import Partition
from streams.scoring import Ledger, Message, score

# As many readings as a worker takes into a flush, in messages of 1,000.
_FLUSH_MESSAGES = 20


class Scorer:
    """What a worker does between Kafka and the database.

    Parameters
    ----------
    namespace : str
    at_once : int
        Messages scored in one go.
    """

    def __init__(self, namespace: str, at_once: int = _FLUSH_MESSAGES) -> None:
        self._namespace = namespace
        self._at_once = at_once
        self._partitions: dict[int, Partition] = {}
        self._waiting: dict[int, list[Message]] = {}
        self._hashes: dict[int, Any] = {}
        self.rows = self.fresh = self.counted = 0

    def take(self, record: Any) -> None:
        """Queue a record; score when there are enough."""
        provenance = Provenance.read(dict(record.headers), self._namespace)
        waiting = self._waiting.setdefault(record.partition, [])
        waiting.append(Message(record.offset, provenance, record.value))
        if len(waiting) == self._at_once:
            self._flush(record.partition)

    def end(self) -> str:
        """Score what is left; return a digest of all scores, bit by bit."""
        for partition in self._waiting:
            self._flush(partition)
        digests = sorted((number, one.hexdigest()) for number, one in self._hashes.items())
        return hashlib.sha256(repr(digests).encode()).hexdigest()

    def facts(self) -> dict[str, int]:
        """Return how many rows were scored, were new, and were counted in the ledger."""
        return {"rows": self.rows, "fresh": self.fresh, "counted": self.counted}

    def _flush(self, number: int) -> None:
        partition = self._partitions.get(number)
        if partition is None:
            nothing = Resumption(0, 0, None, None)
            partition = self._partitions[number] = Partition(nothing, SuiteConfig())
            self._hashes[number] = hashlib.blake2b()
        ledger = Ledger()
        scored, letters = score(partition, self._waiting[number], ledger)
        assert not letters, letters
        self._waiting[number].clear()
        for part in scored:
            self.rows += len(part.slot)
            self.fresh += int(part.verdicts.fresh.sum())
            self._hashes[number].update(part.verdicts.score.tobytes())
        self.counted += sum(line.tally.readings for line in ledger.tallies)


async def consume(options: argparse.Namespace) -> dict[str, Any]:
    """Consume the messages, and say how fast."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=options.bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        # As the worker asks.
        fetch_max_wait_ms=100,
        max_partition_fetch_bytes=8 << 20,
    )
    scorer = Scorer(options.namespace)
    kept: list[Any] = []
    await consumer.start()
    try:
        topic = readings_topic(options.namespace)
        consumer.assign([TopicPartition(topic, number) for number in range(options.partitions)])
        begin, cpu_s = time.perf_counter(), time.process_time()
        left = options.messages
        while left > 0:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                left -= len(records)
                if options.score:
                    for record in records:
                        scorer.take(record)
                else:
                    kept += records
        digest = scorer.end()
        facts = {"wall_s": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu_s}
    finally:
        await consumer.stop()
    if options.score:
        return facts | scorer.facts() | {"digest": digest}
    one_by_one = Scorer(options.namespace, at_once=1)
    return (
        facts
        | _timed(scorer, kept, "scores_s")
        | {
            f"one_{name}" if name == "digest" else name: fact
            for name, fact in _timed(one_by_one, kept, "one_scores_s").items()
        }
    )


def _timed(scorer: Scorer, kept: list[Any], name: str) -> dict[str, Any]:
    begin = time.perf_counter()
    for record in kept:
        scorer.take(record)
    digest = scorer.end()
    return scorer.facts() | {"digest": digest, name: time.perf_counter() - begin}


def main() -> None:
    """Consume, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bootstrap")
    parser.add_argument("namespace")
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--score", action="store_true")
    print(json.dumps(asyncio.run(consume(parser.parse_args()))))


if __name__ == "__main__":
    main()

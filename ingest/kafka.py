"""The Kafka side of the bridge: topics that exist, records that are safe when `send` returns."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from ingest.records import KafkaRecord
from ingest.topics import dead_letters_topic, readings_topic

_LOG = logging.getLogger(__name__)
_BACKOFF_CAP_S: Final = 10.0
# A record holds a flush of one partition; a metadata header of new sensors may come on top.
MAX_RECORD_BYTES: Final = 8 << 20


async def ensure_topics(
    bootstrap: str, namespace: str, partitions: int, replication_factor: int
) -> None:
    """Create the topics of a namespace where they are missing.

    Raises
    ------
    KafkaError
        If the cluster refuses; a topic that is there already is fine.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        present = set(await admin.list_topics())
        wanted = {readings_topic(namespace), dead_letters_topic(namespace)} - present
        for name in sorted(wanted):
            try:
                response = await admin.create_topics(
                    [NewTopic(name, partitions, replication_factor)]
                )
            except TopicAlreadyExistsError:
                continue
            for topic, code, *message in response.topic_errors:
                if code not in (0, TopicAlreadyExistsError.errno):
                    raise KafkaError(f"topic {topic} was not created: {code} {message}")
    finally:
        await admin.close()


class RecordSender:
    """Sends records to Kafka and returns when every replica in sync has them.

    Parameters
    ----------
    bootstrap : str
        Addresses of the cluster.
    """

    def __init__(self, bootstrap: str) -> None:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            compression_type="lz4",
            max_request_size=MAX_RECORD_BYTES,
            linger_ms=0,
            request_timeout_ms=10_000,
        )

    async def start(self) -> None:
        """Connect.

        Raises
        ------
        KafkaError
            If no broker answers.
        """
        await self._producer.start()

    async def stop(self) -> None:
        """Send what is left and disconnect."""
        await self._producer.stop()

    async def send(self, records: Sequence[KafkaRecord]) -> None:
        """Send until Kafka has all records, however long it is away.

        The bound on what waits here is the MQTT receive maximum: nothing is acknowledged
        meanwhile. A record sent twice is stored once.
        """
        pending = list(records)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((KafkaError, OSError)),
            wait=wait_random_exponential(multiplier=0.2, max=_BACKOFF_CAP_S),
            before_sleep=lambda state: _LOG.warning(
                "kafka does not take %d records (attempt %d): %r",
                len(pending),
                state.attempt_number,
                state.outcome.exception() if state.outcome else None,
            ),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                pending = await self._send_once(pending)

    async def _send_once(self, records: list[KafkaRecord]) -> list[KafkaRecord]:
        futures = [
            await self._producer.send(
                record.topic, record.value, partition=record.partition, headers=record.headers
            )
            for record in records
        ]
        results = await asyncio.gather(*futures, return_exceptions=True)
        failed = [
            (record, result)
            for record, result in zip(records, results, strict=True)
            if isinstance(result, BaseException)
        ]
        if failed:
            records[:] = [record for record, _ in failed]
            raise failed[0][1]
        return []

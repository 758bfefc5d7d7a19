"""Where the log ends, asked of Kafka past the consumer: it may be the consumer that hangs.

The embedded broker answers with an end that is too low, by up to a batch. What the consumer was
told with its last fetch is exact there, too, and too low only while nothing is fetched. So the
higher of the two never claims a message that does not exist.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, Self

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition as AioTopicPartition

from streams.progress import TopicPartition

# Kafka answers within milliseconds; one that does not is away.
_PATIENCE_S: Final = 10.0


class LogEnds:
    """A consumer without a group, which fetches nothing.

    Parameters
    ----------
    bootstrap : str
        Kafka addresses.
    """

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._consumer: AIOKafkaConsumer | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def of(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the end of each partition's log, at least.

        Raises
        ------
        KafkaError, OSError, TimeoutError
            If Kafka is away.
        """
        wanted = [AioTopicPartition(*place) for place in places]
        if not wanted:
            return {}
        async with asyncio.timeout(_PATIENCE_S):
            if self._consumer is None:
                consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap)
                try:
                    await consumer.start()
                except BaseException:
                    await consumer.stop()
                    raise
                self._consumer = consumer
            found = await self._consumer.end_offsets(wanted)
        return {(place.topic, place.partition): end for place, end in found.items()}

"""What a rebalance made Faust drop is fetched again, also where nothing is committed yet."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from citywatch.embedded import Addresses
from ingest.kafka import RecordSender, ensure_topics
from ingest.records import KafkaRecord
from ingest.topics import readings_topic
from streams.transport import seek_to_committed

pytestmark = [pytest.mark.integration, pytest.mark.kafka]


@pytest.mark.parametrize("committed", [{}, {0: 4}, {0: 4, 1: 0}])
def test_it_goes_back_to_what_is_committed_or_to_the_beginning(
    services: Addresses, namespace: str, idempotence: bool, committed: dict[int, int]
) -> None:
    topic = readings_topic(namespace)
    places = [TopicPartition(topic, number) for number in (0, 1)]

    async def work() -> list[int]:
        bootstrap = services.kafka_bootstrap
        await ensure_topics(bootstrap, namespace, 2, 1)
        sender = RecordSender(bootstrap, idempotence=idempotence)
        await sender.start()
        await sender.send([KafkaRecord(topic, n % 2, b"%d" % n, []) for n in range(20)])
        await sender.stop()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=namespace,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        try:
            consumer.assign(places)
            while [await consumer.position(place) for place in places] != [10, 10]:
                await consumer.getmany(timeout_ms=200)
            if committed:
                await consumer.commit({places[n]: offset for n, offset in committed.items()})
            found = await seek_to_committed(consumer)
            assert {place.partition: offset for place, offset in found.items()} == {
                0: committed.get(0),
                1: committed.get(1),
            }
            return [await consumer.position(place) for place in places]
        finally:
            await consumer.stop()

    async def bounded() -> list[int]:
        async with asyncio.timeout(60):
            return await work()

    assert asyncio.run(bounded()) == [committed.get(0, 0), 0]

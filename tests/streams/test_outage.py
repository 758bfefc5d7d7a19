"""The database goes away while the worker runs: it waits, keeps within bounds, and catches up."""

import asyncio
from collections.abc import Iterator
from time import monotonic

import pytest

from citywatch.embedded import EmbeddedStack
from storage.migrate import migrate
from tests.storage.database import Database
from tests.streams.citylog import city_log
from tests.streams.sessions import Kafka, Session, undisturbed, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.usefixtures("eager_saves"),
]

DEADLINE_S = 30.0
BOUND = 300
LOG = city_log(21, messages=40)
LARGEST = 60  # readings in one of its messages, about


@pytest.fixture
def own_database(own_stack: EmbeddedStack) -> Iterator[Database]:
    migrate(own_stack.postgres.dsn, "replay_outage")
    with Database(own_stack.postgres.dsn, "replay_outage") as database:
        yield database


async def deliver_all(session: Session) -> None:
    """Hand over every message as fast as the worker takes them."""
    await asyncio.gather(*(session.deliver(place, 1000) for place in LOG.messages))


def test_an_outage_loses_and_doubles_nothing(
    own_stack: EmbeddedStack, own_database: Database
) -> None:
    kafka = Kafka(LOG, own_database)

    async def work() -> None:
        bounds = {"max_flush_rows": 100, "max_pending_rows": BOUND, "state_interval_s": 0.1}
        async with asyncio.timeout(2 * DEADLINE_S), Session(kafka, **bounds) as session:
            session.assign()
            stop = asyncio.Event()
            running = asyncio.create_task(session.worker.run(stop))
            await session.deliver(next(iter(LOG.messages)), 5)
            await asyncio.to_thread(own_stack.postgres.kill)
            delivering = asyncio.create_task(deliver_all(session))
            # It has to notice, and to hold what it is given meanwhile.
            await until(lambda: session.worker._pending_rows >= BOUND)
            assert not running.done()
            assert not delivering.done()
            # What a failed flush had drawn comes back on top of what is queued.
            assert session.worker._pending_rows <= BOUND + 100 + 3 * LARGEST
            held = [one for inbox in session.worker._inboxes.values() for one in inbox.held]
            assert sum(one.rows for one in held) <= BOUND + 100 + 3 * LARGEST
            assert session.worker._held_bytes == sum(one.size for one in held)
            await asyncio.to_thread(own_stack.postgres.restart)
            await delivering
            # Down once more, in good order this time, while it catches up.
            await asyncio.to_thread(own_stack.postgres.stop)
            await asyncio.to_thread(own_stack.postgres.start)
            await until(lambda: kafka.committed == LOG.ends() or running.done())
            assert not running.done()
            stop.set()
            await running

    asyncio.run(work())
    found = own_database.contents()
    assert own_database.unbalanced() == []
    own_database.clear()
    assert found == undisturbed(LOG, own_database)


def test_a_worker_ends_in_seconds_while_the_database_is_away(
    own_stack: EmbeddedStack, own_database: Database
) -> None:
    kafka = Kafka(LOG, own_database)

    async def work(*, release: bool) -> float:
        async with Session(kafka) as session:
            session.assign()
            stop = asyncio.Event()
            running = asyncio.create_task(session.worker.run(stop))
            await deliver_all(session)
            started = monotonic()
            if release:
                await session.release(*LOG.messages)
            stop.set()
            await running
            return monotonic() - started

    own_stack.postgres.kill()
    # Four seconds of grace, twice at most, and a little for a busy machine.
    assert asyncio.run(work(release=False)) < 7
    assert asyncio.run(work(release=True)) < 11
    assert kafka.acknowledged == []
    own_stack.postgres.restart()
    found = undisturbed(LOG, own_database)
    assert found["reading"]

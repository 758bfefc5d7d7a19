"""The newest reading of each series: never another than `reading` has, and never left behind."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.topics import SeriesKey
from storage.expiry import expire
from storage.rows import Rows
from storage.sink import FencedError, Sink
from tests.storage.database import Database
from tests.storage.flushes import NONE, TOPIC, Reading, flush, moment, rows, state

pytestmark = pytest.mark.integration

KEYS = [SeriesKey("traffic", "harbour", f"sensor-{n}", "intensity") for n in (1, 2, 3)]

Use = Callable[..., Any]


@pytest.fixture
def with_sinks(database: Database, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Run a coroutine function with sinks that have copied once, and do it next when told to."""
    # Far longer than any test takes.
    monkeypatch.setattr("storage.latest._INTERVAL_S", 3600.0)

    def use(work: Callable[..., Awaitable[Any]], count: int = 1) -> Any:
        async def run() -> Any:
            async with AsyncExitStack() as exits:
                sinks = [Sink(database.dsn, database.schema, "log-1") for _ in range(count)]
                for sink in sinks:
                    exits.push_async_callback(sink.close)
                    await sink.resume(TOPIC, 0)
                await sinks[0].register(KEYS)
                return await work(*sinks)

        return asyncio.run(run())

    return use


def found(database: Database) -> list[tuple[int, int, float]]:
    return [(row[0], round((row[1] - moment(0)).total_seconds()), row[2])
            for row in database.latest()]  # fmt: skip


def test_the_newest_of_each_series_is_copied(database: Database, with_sinks: Use) -> None:
    fresh = rows((1, 0, 1.0), (1, 20, 3.0), (2, 5, 4.0), (1, 10, 2.0))
    with_sinks(lambda sink: sink.write(flush(fresh=fresh)))
    assert found(database) == [(1, 20, 3.0), (2, 5, 4.0)]
    assert database.latest() == database.newest()


def test_what_comes_late_or_twice_puts_nothing_back(database: Database, with_sinks: Use) -> None:
    async def work(sink: Sink) -> None:
        await sink.write(flush((0, 1), rows((1, 20, 3.0))))
        late = rows((1, 10, 2.0), (1, 20, 9.0), (1, 20, 3.0))
        await sink.write(flush((1, 2), suspects=late, states=[state(2)]))

    with_sinks(work)
    assert found(database) == [(1, 20, 3.0)]


def test_a_conflict_with_a_row_not_copied_yet_copies_that_row(
    database: Database, with_sinks: Use
) -> None:
    async def work(sink: Sink) -> None:
        await sink.write(flush((0, 1), rows((1, 10, 1.0))))
        await sink.write(flush((1, 2), rows((1, 20, 3.0))))
        await sink.write(flush((2, 3), suspects=rows((1, 20, 9.0)), states=[state(3)]))

    with_sinks(work)
    assert found(database) == [(1, 20, 3.0)]


def test_it_is_copied_once_an_interval(
    database: Database, with_sinks: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(sink: Sink) -> None:
        await sink.write(flush((0, 1), rows((1, 0, 1.0))))
        await sink.write(flush((1, 2), rows((1, 1, 2.0))))
        assert found(database) == [(1, 0, 1.0)]
        assert not sink.is_behind
        # Due by the clock, by a flush without rows where none with rows comes.
        monkeypatch.setattr(sink._latest, "_due_s", 0.0)
        assert sink.is_behind
        await sink.write(flush(None, tallies=[]))
        assert not sink.is_behind

    with_sinks(work)
    assert found(database) == [(1, 1, 2.0)]


def test_it_is_complete_with_a_saved_state(database: Database, with_sinks: Use) -> None:
    async def work(sink: Sink) -> None:
        await sink.write(flush((0, 1), rows((1, 0, 1.0))))
        await sink.write(flush((1, 2), rows((1, 1, 2.0))))
        await sink.write(flush(None, states=[state(2)], tallies=[]))

    with_sinks(work)
    assert found(database) == [(1, 1, 2.0)]


def test_a_successor_copies_what_a_dead_worker_left(database: Database, with_sinks: Use) -> None:
    async def work(dead: Sink, successor: Sink) -> None:
        await dead.write(flush((0, 1), rows((1, 0, 1.0), (2, 0, 1.0))))
        await dead.write(flush((1, 2), rows((1, 5, 2.0), (3, 5, 2.0))))
        assert found(database) == [(1, 0, 1.0), (2, 0, 1.0)]
        await successor.resume(TOPIC, 0)
        assert successor.is_behind
        await successor.write(flush((2, 3), rows((2, 9, 3.0))))

    with_sinks(work, 2)
    assert found(database) == [(1, 5, 2.0), (2, 9, 3.0), (3, 5, 2.0)]


def test_a_fenced_worker_copies_nothing_that_is_not_stored(
    database: Database, with_sinks: Use
) -> None:
    async def work(stale: Sink, owner: Sink) -> None:
        await owner.write(flush((0, 1), rows((1, 0, 1.0))))
        with pytest.raises(FencedError):
            await stale.write(flush((0, 2), rows((1, 9, 9.0)), states=[state(2)]))
        assert found(database) == [(1, 0, 1.0)]

    with_sinks(work, 2)


def test_a_flush_that_failed_is_copied_when_it_succeeds(
    database: Database, with_sinks: Use
) -> None:
    async def work(sink: Sink) -> None:
        broken = flush((0, 1), rows((1, 0, 1.0)), states=[state(999)])
        with pytest.raises(FencedError):
            await sink.write(broken)
        assert database.latest() == []
        await sink.write(flush((0, 1), rows((1, 0, 1.0))))

    with_sinks(work)
    assert found(database) == [(1, 0, 1.0)]


def test_more_than_a_flush_may_wait_for_is_copied_by_turns(
    database: Database, with_sinks: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.latest._MOST_AT_ONCE", 1)
    monkeypatch.setattr("storage.latest._REST", 0.0)

    async def work(sink: Sink) -> None:
        await sink.write(flush((0, 1), rows((1, 0, 1.0))))
        monkeypatch.setattr(sink._latest, "_due_s", 0.0)
        turns = []
        for offset in range(1, 4):
            # The first reports all the time, and must not keep the others out.
            fresh = rows((1, offset, 1.0), *[(n, 0, 1.0) for n in (2, 3) if offset == 1])
            await sink.write(flush((offset, offset + 1), fresh))
            turns.append(found(database))
        assert turns == [
            [(1, 0, 1.0), (2, 0, 1.0)],
            [(1, 0, 1.0), (2, 0, 1.0), (3, 0, 1.0)],
            [(1, 3, 1.0), (2, 0, 1.0), (3, 0, 1.0)],
        ]

    with_sinks(work)


def test_what_expired_is_no_longer_the_newest(database: Database, with_sinks: Use) -> None:
    async def work(sink: Sink) -> None:
        await sink.write(flush((0, 1), rows((1, 0, 1.0), (2, 200_000, 2.0))))
        async with await psycopg.AsyncConnection.connect(
            database.dsn, options=f"-c search_path={database.schema},public", autocommit=True
        ) as connection:
            await expire(connection, moment(190_000))

    with_sinks(work)
    assert database.latest() == database.newest()
    assert found(database) == [(2, 200_000, 2.0)]


READINGS = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 9), st.integers(0, 2).map(float)), max_size=12
)


@given(st.lists(READINGS, max_size=6))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_flushes_end_with_the_newest(
    database: Database, with_sinks: Use, flushes: list[list[Reading]]
) -> None:
    database.clear()

    async def work(sink: Sink) -> None:
        for offset, readings in enumerate(flushes):
            suspects: Rows = rows(*readings) if readings else NONE
            await sink.write(flush((offset, offset + 1), suspects=suspects))
            database.latest()
        end = len(flushes)
        await sink.write(flush(None, states=[state(end)], tallies=[]))

    with_sinks(work)
    assert database.latest() == database.newest()

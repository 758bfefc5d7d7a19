"""The worker's promises, held against a real database and a Kafka that only counts."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from detectors import StateError
from ingest.topics import SeriesKey
from storage.audit import audit
from storage.flush import Flush
from storage.migrate import session_options
from storage.sink import FencedError, Outcome, Sink
from streams import worker as worker_module
from streams.facts import CityFacts
from streams.rules import Rules, rules_record
from streams.worker import GapError
from tests.storage.database import Database
from tests.streams.citylog import (
    LETTERS,
    NAMESPACE,
    READINGS,
    START_NS,
    Log,
    batch_message,
    city_log,
    letter_message,
)
from tests.streams.sessions import (
    DEADLINE_S,
    LOG_ID,
    CrashError,
    Kafka,
    Session,
    undisturbed,
    until,
)

pytestmark = pytest.mark.integration

PLACE = (READINGS, 0)
OTHER = (READINGS, 1)
LETTER_PLACE = (LETTERS, 0)


def small_log(messages: int = 6, rows: int = 10, partitions: int = 1) -> Log:
    """Return a log in which every message has `rows` rows of one series."""
    log = Log()
    for partition in range(partitions):
        key = str(SeriesKey("traffic", "harbour", f"loop-{partition}", "intensity"))
        for number in range(messages):
            start = START_NS + number * rows * 10**9
            readings = [(key, start + n * 10**9, float(number + n % 3)) for n in range(rows)]
            log.add((READINGS, partition), *batch_message(readings))
    return log


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(3 * DEADLINE_S):
            return await work()

    return asyncio.run(bounded())


def count(database: Database, table: str = "reading") -> int:
    return int(database.one(f"SELECT count(*) FROM {table}"))  # noqa: S608 - a literal of a test


@pytest.fixture
def locked(database: Database) -> Iterator[psycopg.Connection]:
    """Hold back whoever wants to move a position, as a slow database would."""
    with psycopg.connect(database.dsn, options=f"-c search_path={database.schema}") as blocker:
        yield blocker
        blocker.rollback()


def lock(blocker: psycopg.Connection) -> None:
    blocker.execute("SELECT FROM stream_position FOR UPDATE")


async def until_blocked(database: Database) -> None:
    query = """
        SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid)
        WHERE NOT l.granted AND a.query LIKE '%%stream_position%%'
    """
    await until(lambda: database.one(query) > 0)


# Acknowledging


def test_readings_are_acknowledged_with_the_saved_state_and_not_before(database: Database) -> None:
    kafka = Kafka(small_log(), database)
    kafka.log.add(LETTER_PLACE, *letter_message(0))

    async def work() -> None:
        async with Session(kafka) as session:
            session.assign()
            await session.deliver(PLACE, 4)
            await session.deliver(LETTER_PLACE)
            await session.worker.flush()
            assert count(database) == 40
            # A dead letter has no state to wait for.
            assert kafka.acknowledged == [(*LETTER_PLACE, 0)]
            await session.deliver(PLACE, 1)
            await session.worker.flush(save=True)
            assert kafka.committed == {LETTER_PLACE: 1, PLACE: 5}
            await session.deliver(PLACE, 1)
            await session.worker.flush()
            assert kafka.committed[PLACE] == 5

    run(work)
    assert database.unbalanced() == []


def test_state_is_saved_of_partitions_that_have_fallen_silent(database: Database) -> None:
    kafka = Kafka(small_log(), database)

    async def work() -> None:
        async with Session(kafka, state_interval_s=0.02) as session:
            stop = asyncio.Event()
            session.assign()
            running = asyncio.create_task(session.worker.run(stop))
            await session.deliver(PLACE, 6)
            await until(lambda: kafka.committed.get(PLACE) == 6)
            stop.set()
            await running

    run(work)


def test_a_worker_with_other_facts_of_the_city_than_its_state_or_its_log_says_so(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "streams.worker")
    log = small_log(messages=4)
    rules = rules_record(Rules().of(CityFacts(limits="WHO 2021")), NAMESPACE, 0)
    log.add(PLACE, rules.headers, rules.value)
    kafka = Kafka(log, database)

    async def session(facts: CityFacts, messages: int) -> tuple[float, float, int]:
        caplog.clear()
        async with Session(kafka, facts=facts) as session:
            session.assign()
            await session.deliver(PLACE, messages)
            await session.worker.flush(save=True)
            value = session.worker.meter.registry.get_sample_value
            return (
                value("citywatch_worker_states_of_another_city_total"),
                value("citywatch_worker_partitions_of_another_city"),
                len(caplog.records),
            )

    here, there = CityFacts(limits="WHO 2021"), CityFacts(time_zone="Europe/Madrid")
    assert run(lambda: session(here, 1)) == (0, 0, 0)
    assert run(lambda: session(here, 1)) == (0, 0, 0)
    assert run(lambda: session(there, 1)) == (1, 0, 1)
    assert "[city] or [groups] are not what its state was judged by" in caplog.text
    # The last two messages: of readings, and what the log itself says.
    assert run(lambda: session(there, 2)) == (0, 1, 0)
    kafka.log.add(PLACE, *batch_message([]))
    assert run(lambda: session(there, 1)) == (0, 1, 1)
    assert "its log says other things of the city" in caplog.text


def test_what_waits_for_a_saved_state_is_bounded(database: Database) -> None:
    """Messages are kept until then; a long interval must not keep them all."""
    kafka = Kafka(small_log(messages=40), database)

    async def work() -> None:
        async with Session(kafka, max_held_bytes=10 * worker_module._MESSAGE_BYTES) as session:
            session.assign()
            for _ in range(40):
                await session.deliver(PLACE)
                await session.worker.flush()
                assert len(session.worker._inboxes[PLACE].held) < 10
            assert kafka.committed[PLACE] >= 30

    run(work)


def test_a_replay_keeps_no_more_than_what_may_wait(database: Database) -> None:
    """A state that is gone or old: all of the log is shown to the detectors again."""
    log = small_log(messages=60)
    kafka = Kafka(log, database)

    async def work() -> list[int]:
        async with Session(kafka) as session:
            session.assign()
            await session.deliver(PLACE, 50)
            await session.worker.flush()
        database.all("DELETE FROM detector_state RETURNING 1")
        kept = []
        async with Session(kafka, max_held_bytes=10 * worker_module._MESSAGE_BYTES) as session:
            session.assign()
            for number in range(60):
                await session.deliver(PLACE)
                await session.worker.flush()
                kept.append(len(session.worker._inboxes[PLACE].held))
                # Killed in the middle, it goes on where its last state was saved.
                if number == 30:
                    break
        async with Session(kafka, max_held_bytes=10 * worker_module._MESSAGE_BYTES) as session:
            session.assign()
            assert 20 < kafka.committed[PLACE] < 32
            await session.finish()
        return kept

    kept = run(work)
    assert max(kept) < 10
    stored = database.contents()
    database.clear()
    assert stored == undisturbed(log, database)


def test_partitions_are_saved_by_turns(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time, so that no flush waits for the states of all."""
    # Else a busy machine decides how many there are.
    monkeypatch.setattr("streams.worker._SAVE_SHARE", 1.0)
    kafka = Kafka(small_log(messages=40, partitions=2), database)
    saved: list[tuple[int, ...]] = []

    async def work() -> None:
        async with Session(kafka, state_interval_s=0.02) as session:
            session.assign()
            for _ in range(40):
                await session.deliver(PLACE)
                await session.deliver(OTHER)
                before = dict(kafka.committed)
                await session.worker.flush()
                moved = kafka.committed.items() - before.items()
                saved.append(tuple(number for (_, number), _ in moved))
                await asyncio.sleep(0.01)

    run(work)
    turns = [number for numbers in saved for number in numbers]
    assert all(len(numbers) <= 1 for numbers in saved)
    assert len(turns) >= 6
    assert all(one != other for one, other in pairwise(turns))


def test_a_save_that_took_long_puts_off_the_next(database: Database) -> None:
    """What saving may take of the worker's time is bounded, whatever the interval."""
    kafka = Kafka(small_log(), database)

    class SlowSink(Sink):
        async def write(self, flush: Flush) -> Outcome:
            if flush.states:
                await asyncio.sleep(0.1)
            return await super().write(flush)

    async def work() -> None:
        async with Session(kafka, state_interval_s=0.001) as session:
            session.worker._sink = SlowSink(database.dsn, database.schema, LOG_ID)
            session.assign()
            begun = asyncio.get_running_loop().time()
            for _ in range(6):
                await session.deliver(PLACE)
                await session.worker.flush()
            took_s = asyncio.get_running_loop().time() - begun
            totals = session.worker.totals
            # The first is due at once; a second one may only be earned in more than three seconds.
            assert 1 <= totals.saves <= 1 + took_s / (0.1 / 0.05)
            assert totals.save_s >= 0.1
            await session.worker.flush(save=True)
            assert kafka.committed[PLACE] == 6
            await session.worker._sink.close()

    run(work)


def test_rereading_what_is_stored_writes_nothing_and_acknowledges(database: Database) -> None:
    kafka = Kafka(city_log(1, messages=20), database)
    before = undisturbed(kafka.log, database)

    async def work() -> None:
        async with Session(kafka) as session:
            session.assign()  # nothing was committed to this Kafka
            await session.finish()

    run(work)
    assert database.contents() == before
    assert kafka.committed == kafka.log.ends()


# Backpressure


def test_take_waits_while_too_much_is_queued(database: Database) -> None:
    kafka = Kafka(small_log(messages=8), database)

    async def work() -> None:
        async with Session(kafka, max_pending_rows=25) as session:
            session.assign()
            delivering = asyncio.create_task(session.deliver(PLACE, 8))
            for _ in range(100):
                await asyncio.sleep(0)
            # 11 each: the third finds 22 and comes in, the fourth finds 33 and waits.
            assert session.read[PLACE] == 3
            await session.worker.flush()
            for _ in range(100):
                await asyncio.sleep(0)
            assert session.read[PLACE] == 6
            await session.worker.flush()
            await delivering
            assert session.worker._pending_rows == 22

    run(work)


def test_a_message_larger_than_the_bound_still_comes_in(database: Database) -> None:
    kafka = Kafka(small_log(messages=2, rows=50), database)

    async def work() -> None:
        async with Session(kafka, max_pending_rows=10, max_flush_rows=10) as session:
            session.assign()
            stop = asyncio.Event()
            running = asyncio.create_task(session.worker.run(stop))
            await session.deliver(PLACE, 2)
            await until(lambda: count(database) == 100)
            stop.set()
            await running

    run(work)


def test_a_flush_holds_about_as_much_as_it_may(database: Database) -> None:
    kafka = Kafka(small_log(messages=6), database)

    async def work() -> list[int]:
        counts = []
        async with Session(kafka, max_flush_rows=20) as session:
            session.assign()
            await session.deliver(PLACE, 6)
            while session.worker._pending_rows:
                await session.worker.flush()
                counts.append(count(database))
        return counts

    assert run(work) == [20, 40, 60]


# Gaps, fences, unreadable things


def with_a_gap(session: Session) -> Awaitable[None]:
    """Deliver two messages, and then the fourth and fifth."""

    async def work() -> None:
        session.assign()
        await session.deliver(PLACE, 2)
        session.read[PLACE] = 3
        await session.deliver(PLACE, 2)

    return work()


def test_what_is_missing_is_asked_for_again(database: Database) -> None:
    log = small_log()
    kafka = Kafka(log, database)

    async def work() -> None:
        async with Session(kafka) as session:
            await with_a_gap(session)
            await session.worker.flush()
            assert session.asked == [(*PLACE, 2, 0)]
            assert session.read[PLACE] == 2
            # What was fetched before comes first, and is no reason to ask once more.
            session.read[PLACE] = 5
            await session.deliver(PLACE)
            await session.worker.flush()
            assert session.asked == [(*PLACE, 2, 0)]
            assert session.worker._pending_rows == 0
            session.read[PLACE] = 2
            await session.finish()

    run(work)
    stored = database.contents()
    database.clear()
    assert stored == undisturbed(log, database)


def test_what_never_comes_stops_the_worker(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Time for many, on a busy machine as well.
    monkeypatch.setattr("streams.worker._ASK_FOR_S", 2.0)
    monkeypatch.setattr("streams.worker._ASK_EVERY_S", 0.02)
    kafka = Kafka(small_log(), database)

    async def work() -> None:
        async with Session(kafka) as session:
            await with_a_gap(session)
            with pytest.raises(GapError, match="expected offset 2, got 3"):
                await session.worker.run(asyncio.Event())
            assert len(session.asked) > 1
            assert set(session.asked) == {(*PLACE, 2, 0)}

    run(work)


@pytest.mark.parametrize("place", [PLACE, LETTER_PLACE])
def test_a_gap_is_excused_where_kafka_has_expired_it(
    database: Database, place: tuple[str, int]
) -> None:
    log = small_log() if place == PLACE else Log()
    for number in range(6 if place == LETTER_PLACE else 0):
        log.add(place, *letter_message(number))
    kafka = Kafka(log, database, committed={place: 4}, expired={place: 4})

    async def work() -> None:
        async with Session(kafka) as session:
            session.assign()
            await session.finish()

    run(work)
    assert kafka.committed == {place: 6}
    assert count(database, "dead_letter" if place == LETTER_PLACE else "reading") in {2, 20}


def test_what_expired_unread_is_a_fault_of_the_audit(database: Database) -> None:
    kafka = Kafka(small_log(), database)

    async def first() -> None:
        async with Session(kafka) as session:
            session.assign()
            await session.deliver(PLACE, 2)
            await session.worker.flush(save=True)

    async def second() -> None:
        async with Session(kafka) as session:
            session.assign()
            await session.finish()

    run(first)
    assert kafka.committed == {PLACE: 2}
    kafka.expired[PLACE] = kafka.committed[PLACE] = 4
    run(second)
    assert database.all("SELECT topic, partition, first_offset, next_offset FROM log_gap") == [
        (*PLACE, 2, 4)
    ]
    told = f"{PLACE[0]}/{PLACE[1]}: 2 messages expired unread, offsets 2 to 3, found "
    assert [fault for fault in faults(database) if fault.startswith(told)]


def test_what_expired_before_anything_was_stored_is_one_too(database: Database) -> None:
    kafka = Kafka(small_log(), database, committed={PLACE: 4}, expired={PLACE: 4})

    async def work() -> None:
        async with Session(kafka) as session:
            session.assign()
            await session.finish()

    run(work)
    assert database.all("SELECT topic, partition, first_offset, next_offset FROM log_gap") == [
        (*PLACE, 0, 4)
    ]


def faults(database: Database) -> list[str]:
    async def work() -> list[str]:
        options = session_options(database.schema)
        async with await psycopg.AsyncConnection.connect(
            database.dsn, options=options, autocommit=True
        ) as connection:
            return (await audit(connection, None, None)).faults

    return asyncio.run(work())


def test_of_what_is_missing_the_log_is_asked_for_what_it_has(database: Database) -> None:
    kafka = Kafka(small_log(), database, committed={PLACE: 4}, expired={PLACE: 3})

    async def work() -> None:
        async with Session(kafka) as session:
            session.assign()
            await session.finish()
            assert session.asked == [(*PLACE, 0, 0)]
            await session.finish()

    run(work)
    assert database.all("SELECT first_offset, next_offset FROM log_gap") == [(0, 3)]
    assert database.one("SELECT next_offset FROM stream_position") == 6


def test_of_two_owners_the_slower_stops_and_nothing_is_doubled(database: Database) -> None:
    kafka = Kafka(city_log(2, messages=30), database)

    async def work() -> None:
        async with Session(kafka) as zombie, Session(kafka) as owner:
            for session in (zombie, owner):
                session.assign()
            await zombie.deliver(PLACE, 10)
            await zombie.worker.flush()
            await owner.deliver(PLACE, 20)
            await owner.worker.flush(save=True)
            await zombie.deliver(PLACE, 5)
            with pytest.raises(FencedError):
                await zombie.worker.run(asyncio.Event())
            await owner.finish()

    run(work)
    found = database.contents()
    database.clear()
    assert found == undisturbed(kafka.log, database)


def test_a_zombie_without_messages_does_not_put_its_state_back(database: Database) -> None:
    kafka = Kafka(small_log(), database)

    async def work() -> None:
        async with Session(kafka) as zombie, Session(kafka) as owner:
            zombie.assign()
            await zombie.deliver(PLACE, 2)
            await zombie.worker.flush()
            owner.assign()
            await owner.deliver(PLACE, 5)
            await owner.worker.flush(save=True)
            assert kafka.committed[PLACE] == 5
            with pytest.raises(FencedError):
                await zombie.worker.flush(save=True)
        async with Session(kafka) as heir:
            heir.assign()  # from Kafka's offset 5
            await heir.finish()

    run(work)
    assert count(database) == 60


def test_unreadable_messages_are_dead_letters_and_the_ledger_balances(database: Database) -> None:
    key = "traffic/harbour/loop-1/intensity"
    log = Log()
    good = batch_message([(key, START_NS, 1.0)])
    log.add(PLACE, good[0], b"rubbish")
    log.add(PLACE, [], good[1])  # no headers at all
    log.add(PLACE, *batch_message([(key, START_NS, 1.0)], namespace="live"))
    log.add(PLACE, [*good[0][:-1], ("ledger", b"{")], good[1])
    log.add(PLACE, *batch_message([("traffic/a\x00b/loop-1/intensity", START_NS, 1.0)]))
    log.add(PLACE, *good)
    log.add(LETTER_PLACE, *letter_message(0))
    log.add(LETTER_PLACE, [], b"a letter without headers")
    for damage in (
        ("records", b"-1"),
        ("records", b"9" * 30),
        ("received_ns", b"9" * 30),
        ("reason", b"\xff"),
    ):
        headers, value = letter_message(2)  # two records that were refused
        log.add(LETTER_PLACE, [*headers, damage], value)
    kafka = Kafka(log, database)

    async def work() -> None:
        async with Session(kafka) as session:
            session.assign()
            await session.finish()

    run(work)
    assert kafka.committed == log.ends()
    assert database.unbalanced() == []
    assert database.all(
        "SELECT bridge, sum(messages), sum(readings), sum(stored), sum(rejected), sum(refused)"
        " FROM ledger GROUP BY bridge ORDER BY bridge"
    ) == [("bridge-1", 4, 1, 1, 1, 10), ("unknown", 0, 0, 0, 0, 4)]
    reasons = database.all(
        "SELECT reason, bridge, count(*), sum(records) FROM dead_letter GROUP BY 1, 2 ORDER BY 1, 2"
    )
    assert reasons == [
        ("malformed-json", "bridge-1", 1, 0),
        ("unreadable-batch", "bridge-1", 2 + 4, 2 + 8),
        ("unreadable-batch", "unknown", 4, 4),
    ]


def test_a_state_of_another_version_stops_the_worker(database: Database) -> None:
    kafka = Kafka(small_log(), database)
    undisturbed(kafka.log, database)
    database.connection.execute("UPDATE detector_state SET version = 99")

    async def work() -> None:
        async with Session(kafka) as session:
            session.assign()
            with pytest.raises(StateError, match="99"):
                await session.worker.run(asyncio.Event())

    run(work)


# Letting partitions go


def test_partitions_pass_from_hand_to_hand(database: Database) -> None:
    log = city_log(5, messages=30)
    kafka = Kafka(log, database)

    async def work() -> None:
        async with Session(kafka) as one, Session(kafka) as two:
            one.assign()
            for place in log.messages:
                await one.deliver(place, 5)
            await one.worker.flush()
            for place in log.messages:
                await one.deliver(place, 2)
            await one.release(*log.messages)
            # Everything was saved, so all of it is acknowledged.
            assert {kafka.committed[READINGS, n] for n in (0, 1)} == {7}
            one.assign(PLACE)
            two.assign(OTHER, *(place for place in log.messages if place[0] == LETTERS))
            await one.deliver(PLACE, 3)
            await two.deliver(OTHER, 4)
            await asyncio.gather(one.worker.flush(), two.worker.flush())
            await one.release(PLACE)
            two.assign(PLACE)
            await two.finish()

    run(work)
    found = database.contents()
    database.clear()
    assert found == undisturbed(log, database)


def test_letting_go_of_what_it_never_had_is_nothing(database: Database) -> None:
    async def work() -> None:
        async with Session(Kafka(Log(), database)) as session:
            await session.worker.release({PLACE})

    run(work)


def test_a_message_that_waited_through_a_release_is_not_taken(database: Database) -> None:
    """Its partition may be another worker's by then; taking it would fence the new owner."""
    kafka = Kafka(small_log(messages=4), database)

    async def work() -> None:
        async with Session(kafka, max_pending_rows=20) as one, Session(kafka) as two:
            one.assign()
            waiting = asyncio.create_task(one.deliver(PLACE, 3))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not waiting.done()
            await one.release(PLACE)
            with suppress(KeyError):  # the session's own bookkeeping
                await waiting
            assert one.worker._pending_rows == 0
            two.assign()
            await two.deliver(PLACE, 4)
            await two.worker.flush()
            await one.worker.flush()
            await two.finish()

    run(work)
    assert count(database) == 40
    assert kafka.committed == {PLACE: 4}


def test_letting_go_does_not_wait_for_a_slow_database(
    database: Database, locked: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was given up halfway is done again, by this worker or by the next one."""
    monkeypatch.setattr(worker_module, "_GRACE_S", 0.2)
    log = city_log(6, messages=30)
    kafka = Kafka(log, database)

    async def work() -> None:
        async with Session(kafka) as one, Session(kafka) as two:
            one.assign()
            stop = asyncio.Event()
            running = asyncio.create_task(one.worker.run(stop))
            await one.deliver(PLACE, 8)
            await one.deliver(OTHER, 8)
            await until(lambda: one.worker._pending_rows == 0 and count(database) > 0)
            lock(locked)
            await one.deliver(PLACE, 8)
            await one.deliver(OTHER, 8)
            await until_blocked(database)
            started = asyncio.get_running_loop().time()
            await one.release(PLACE)
            assert asyncio.get_running_loop().time() - started < 5
            assert not running.done()
            # From here on flushes are to succeed, however slow the machine is.
            monkeypatch.setattr(worker_module, "_GRACE_S", DEADLINE_S)
            locked.rollback()
            two.assign(PLACE)
            await two.finish()
            # It kept the other partition, whose flush was given up with this one's.
            await one.deliver(OTHER, 30)
            for place in log.messages:
                if place[0] == LETTERS:
                    await one.deliver(place, 30)
            stop.set()
            await running

    run(work)
    found = database.contents()
    database.clear()
    assert found == undisturbed(log, database)


def test_a_cancelled_flush_leaves_no_state_ahead_of_its_rows(
    database: Database, locked: psycopg.Connection
) -> None:
    kafka = Kafka(small_log(), database)

    async def work() -> None:
        async with Session(kafka) as session:
            session.assign()
            await session.deliver(PLACE, 2)
            await session.worker.flush()
            lock(locked)
            await session.deliver(PLACE, 2)
            flushing = asyncio.create_task(session.worker.flush(save=True))
            await until_blocked(database)
            flushing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await flushing
            locked.rollback()
            await session.worker.flush(save=True)
            assert count(database) == 40
            assert kafka.committed == {PLACE: 4}
            await session.finish()

    run(work)
    found = database.contents()
    database.clear()
    assert found == undisturbed(kafka.log, database)


def test_stopping_does_not_wait_for_a_slow_database(
    database: Database, locked: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_GRACE_S", 0.2)
    kafka = Kafka(small_log(), database)

    async def work() -> None:
        async with Session(kafka) as session:
            session.assign()
            await session.deliver(PLACE, 1)
            await session.worker.flush()
            lock(locked)
            stop = asyncio.Event()
            running = asyncio.create_task(session.worker.run(stop))
            await session.deliver(PLACE, 3)
            await until_blocked(database)
            stop.set()
            async with asyncio.timeout(5):
                await running
            locked.rollback()
        async with Session(kafka) as heir:
            heir.assign()
            await heir.finish()

    run(work)
    assert count(database) == 60
    assert kafka.committed == {PLACE: 6}


def test_a_flush_that_fails_drops_nothing(database: Database) -> None:
    """Even an error that nobody expected leaves the messages queued and unacknowledged."""
    kafka = Kafka(city_log(7, messages=20), database)

    async def work() -> None:
        async with Session(kafka) as session:
            session.assign()
            for place in kafka.log.messages:
                await session.deliver(place, 9)
            for mood in ("crash before", "crash after"):
                session.sink.mood = mood
                with pytest.raises(CrashError):
                    await session.worker.flush(save=True)
                assert kafka.acknowledged == []
            await session.finish()

    run(work)
    found = database.contents()
    database.clear()
    assert found == undisturbed(kafka.log, database)


def test_what_is_heavy_counts_by_its_weight(database: Database) -> None:
    """A dead letter has no readings, but may have half a megabyte: memory is bounded by both."""
    log = Log()
    headers, _ = letter_message(0)
    for _ in range(40):
        log.add((LETTERS, 0), headers, bytes(512 << 10))
    kafka = Kafka(log, database)

    async def work() -> None:
        async with Session(kafka, max_pending_rows=40_000, max_flush_rows=10_000) as session:
            session.assign()
            delivering = asyncio.create_task(session.deliver((LETTERS, 0), 40))
            await until(lambda: session.worker._pending_rows >= 40_000)
            await asyncio.sleep(0.1)
            assert not delivering.done()
            waiting = [one for inbox in session.worker._inboxes.values() for one in inbox.pending]
            assert sum(one.size for one in waiting) < 8 << 20
            await session.worker.flush()
            # A flush takes no more than its share of them, either.
            assert 2 <= kafka.committed[LETTERS, 0] <= 4
            while not delivering.done() or session.worker._pending_rows:
                await session.worker.flush()
                await asyncio.sleep(0)

    run(work)
    assert kafka.committed == {(LETTERS, 0): 40}
    assert database.one("SELECT count(*) FROM dead_letter") == 40

"""The transaction of a flush: all of it or nothing, once, and by the partition's owner alone."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from ingest.ledger import SensorCard
from ingest.topics import SeriesKey
from storage.flush import Flush, SavedState, Step, Tallied
from storage.pages import decode_page, outbox_channel
from storage.sink import FencedError, Outcome, Resumption, Sink
from tests.storage.database import Database
from tests.storage.flushes import (
    MINUTE_S,
    NONE,
    START_S,
    TOPIC,
    alert_id,
    everything,
    flush,
    in_partitions,
    letter,
    moment,
    moved,
    opened,
    rejected,
    resolved,
    rows,
    state,
    tallied,
    worsened,
)

pytestmark = pytest.mark.integration

LOG = "log-1"
KEYS = [SeriesKey("traffic", "harbour", f"sensor-{n}", "intensity") for n in (1, 2, 3)]

Use = Callable[..., Any]


@pytest.fixture
def with_sinks(database: Database) -> Use:
    """Run a coroutine function that takes as many sinks as it is asked for, one a log id."""

    def use(work: Callable[..., Awaitable[Any]], *log_ids: str) -> Any:
        async def run() -> Any:
            async with AsyncExitStack() as exits:
                sinks = [Sink(database.dsn, database.schema, name) for name in log_ids or (LOG,)]
                for sink in sinks:
                    exits.push_async_callback(sink.close)
                    await sink.resume(TOPIC, 0)
                await sinks[0].register(KEYS)
                return await work(*sinks)

        return asyncio.run(run())

    return use


def stored(database: Database) -> list[tuple[int, int, float]]:
    return [
        (series, (at - moment(0)) // (moment(1) - moment(0)), value)
        for series, at, value in database.all(
            "SELECT series_id, time, value FROM reading ORDER BY 1, 2"
        )
    ]


def balance(database: Database) -> list[tuple[int, ...]]:
    return database.all(
        "SELECT readings, stored, duplicates, late_conflicts FROM ledger ORDER BY source"
    )


# Rows and the ledger


def test_fresh_rows_are_stored_and_counted(database: Database, with_sinks: Use) -> None:
    fresh = rows((1, 0, 1.5), (2, 0, float("nan")), (1, 1, 2.5))
    assert with_sinks(lambda sink: sink.write(flush(fresh=fresh))) == Outcome(3, 0, 0)
    assert str(stored(database)) == "[(1, 0, 1.5), (1, 1, 2.5), (2, 0, nan)]"
    assert balance(database) == [(3, 3, 0, 0)]


def test_suspects_are_told_apart_by_tally(database: Database, with_sinks: Use) -> None:
    tallies = [tallied(2, source="cameras"), tallied(4, source="traffic")]
    first = flush((0, 1), rows((1, 5, 1.0), (1, 9, float("nan"))), tallies=[])
    suspects = rows(
        (1, 5, 1.0, 0),  # as stored: a duplicate
        (1, 5, 1.1, 1),  # another value: a late conflict
        (1, 4, 8.0, 1),  # late, but new
        (1, 4, 8.0, 0),  # the same once more
        (1, 4, 8.1, 1),  # and once with another value
        (1, 9, float("nan"), 1),  # not a number is the same as not a number
    )

    async def work(sink: Sink) -> Outcome:
        await sink.write(first)
        return await sink.write(flush((1, 2), suspects=suspects, tallies=tallies))

    assert with_sinks(work) == Outcome(1, 3, 2)
    assert balance(database) == [(2, 0, 2, 0), (4, 1, 1, 2)]
    assert database.unbalanced() == []
    assert str(stored(database)) == "[(1, 4, 8.0), (1, 5, 1.0), (1, 9, nan)]"


def test_suspects_meet_the_fresh_rows_of_their_own_flush(
    database: Database, with_sinks: Use
) -> None:
    both = flush((0, 1), rows((1, 5, 1.0)), rows((1, 5, 1.0), (1, 5, 2.0), (1, 4, 1.0)))
    assert with_sinks(lambda sink: sink.write(both)) == Outcome(2, 1, 1)
    assert balance(database) == [(4, 2, 1, 1)]


def test_rows_wrongly_taken_for_fresh_are_staged(database: Database, with_sinks: Use) -> None:
    async def work(sink: Sink) -> Outcome:
        await sink.write(flush((0, 1), rows((1, 5, 1.0), (1, 6, 1.0)), tallies=[]))
        again = rows((1, 5, 1.0, 0), (1, 6, 7.0, 1), (1, 7, 1.0, 1))
        late = rows((1, 6, 1.0, 1))
        lines = [tallied(1, source="cameras"), tallied(3, source="traffic")]
        return await sink.write(flush((1, 2), again, late, tallies=lines))

    assert with_sinks(work) == Outcome(1, 2, 1)
    assert stored(database) == [(1, 5, 1.0), (1, 6, 1.0), (1, 7, 1.0)]
    assert balance(database) == [(1, 0, 1, 0), (3, 1, 1, 1)]


READING = st.tuples(
    st.integers(1, 2), st.integers(0, 4), st.sampled_from([0.0, 1.0]), st.integers(0, 2)
)


@given(
    st.lists(st.tuples(st.lists(READING, max_size=6), st.lists(READING, max_size=6)), max_size=4)
)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_rows_are_classified_as_one_by_one(
    database: Database, with_sinks: Use, batches: list[tuple[list, list]]
) -> None:
    """Whatever is called fresh, rightly or not, the outcome is that of rows that come singly."""
    database.clear()
    table: dict[tuple[int, int], float] = {}
    expected = [[0, 0, 0] for _ in range(3)]
    for fresh, suspects in batches:
        for series, at, value, tally in fresh + suspects:
            known = table.setdefault((series, at), None)
            if known is None:
                table[series, at] = value
            expected[tally][0 if known is None else 1 if known == value else 2] += 1
    lines = [tallied(0, source=f"source-{n}") for n in range(3)]

    async def work(sink: Sink) -> None:
        for number, (fresh, suspects) in enumerate(batches):
            step = (number, number + 1)
            await sink.write(flush(step, rows(*fresh), rows(*suspects), tallies=lines))

    with_sinks(work)
    assert stored(database) == [(*key, value) for key, value in sorted(table.items())]
    counts = database.all("SELECT stored, duplicates, late_conflicts FROM ledger ORDER BY source")
    assert [list(line) for line in counts] == (expected if batches else [])


def test_lines_of_the_ledger_add_up_over_flushes(database: Database, with_sinks: Use) -> None:
    def line(minute_s: int = MINUTE_S) -> Tallied:
        return tallied(
            1,
            minute_s=minute_s,
            messages=3,
            passed=1,
            rejected=2,
            withheld=3,
            repeated=4,
            refused=5,
            reasons={"bad-time": 6, "unknown-unit": 1},
            kinds={"plate": 3},
        )

    async def work(sink: Sink) -> None:
        await sink.write(flush((0, 1), rows((1, 0, 1.0)), tallies=[line()]))
        await sink.write(flush((1, 2), rows((1, 1, 1.0)), tallies=[line()]))
        await sink.write(flush((2, 3), rows((1, 2, 1.0)), tallies=[line(0)]))

    with_sinks(work)
    query = """
        SELECT messages, passed, rejected, withheld, repeated, refused, readings, stored
        FROM ledger ORDER BY minute
    """
    assert database.all(query) == [(3, 1, 2, 3, 4, 5, 1, 1), (6, 2, 4, 6, 8, 10, 2, 2)]
    query = "SELECT outcome, kind, count FROM ledger_kind ORDER BY minute, kind"
    assert database.all(query) == [
        ("rejected", "bad-time", 6),
        ("withheld", "plate", 3),
        ("rejected", "unknown-unit", 1),
        ("rejected", "bad-time", 12),
        ("withheld", "plate", 6),
        ("rejected", "unknown-unit", 2),
    ]


def test_two_that_count_the_same_lines_crosswise_wait_for_each_other(
    database: Database, with_sinks: Use
) -> None:
    """In one order for all: a deadlock would fail one of them."""
    lines = [tallied(minute_s=MINUTE_S + 60 * n, kinds={"plate": 1}) for n in range(300)]

    async def work(*sinks: Sink) -> None:
        flushes = [
            flush((0, 1), partition=1, tallies=lines),
            flush((0, 1), partition=2, tallies=lines[::-1]),
        ]
        for sink, partition in zip(sinks, (1, 2), strict=True):
            await sink.resume(TOPIC, partition)
        pairs = zip(sinks, flushes, strict=True)
        await asyncio.gather(*(sink.write(one) for sink, one in pairs))

    with_sinks(work, LOG, LOG)
    assert database.all("SELECT DISTINCT count FROM ledger_kind") == [(2,)]


# The fence


def test_a_stale_sink_writes_nothing_at_all(database: Database, with_sinks: Use) -> None:
    async def work(owner: Sink, stale: Sink) -> None:
        await owner.write(everything(100))
        before = database.contents()
        for zombie in (
            everything(99, expected=0),
            everything(150, expected=50),
            everything(200, expected=150),
        ):
            with pytest.raises(FencedError):
                await stale.write(zombie)
            assert database.contents() == before
        await owner.write(everything(200, expected=100))

    with_sinks(work, LOG, LOG)
    assert database.one("SELECT count(*) FROM reading") == 4


def test_one_lost_partition_stops_the_whole_flush(database: Database, with_sinks: Use) -> None:
    async def work(sink: Sink, other: Sink) -> None:
        await sink.resume(TOPIC, 1)
        await other.write(in_partitions([(1, 0, 7)]))
        with pytest.raises(FencedError):
            await sink.write(in_partitions([(0, 0, 5), (1, 0, 7)]))

    with_sinks(work, LOG, LOG)
    assert database.all("SELECT partition, next_offset FROM stream_position ORDER BY 1") == [
        (0, 0),
        (1, 7),
    ]


def test_of_two_that_race_for_an_offset_one_is_fenced(database: Database, with_sinks: Use) -> None:
    async def work(*sinks: Sink) -> list[Any]:
        flushes = [everything(10 + number) for number in range(len(sinks))]
        return await asyncio.gather(
            *(sink.write(one) for sink, one in zip(sinks, flushes, strict=True)),
            return_exceptions=True,
        )

    results = with_sinks(work, LOG, LOG, LOG, LOG)
    assert sorted(type(result).__name__ for result in results) == ["FencedError"] * 3 + ["Outcome"]
    assert database.one("SELECT count(*) FROM reading") == 2
    assert database.one("SELECT count(*) FROM detector_state") == 1


def test_an_old_state_does_not_replace_a_newer_one(with_sinks: Use) -> None:
    """A flush without rows moves no position, and is fenced all the same."""

    async def work(owner: Sink, stale: Sink) -> Resumption:
        await owner.write(flush((0, 100), states=[state(100, b"at 100")]))
        await owner.write(flush((100, 200), states=[state(200, b"at 200")]))
        for old in (100, 150, 300):
            with pytest.raises(FencedError):
                await stale.write(flush(None, states=[state(old, b"old")]))
        await owner.write(flush(None, states=[state(200, b"at 200, again")]))
        return await owner.resume(TOPIC, 0)

    assert with_sinks(work, LOG, LOG) == Resumption(200, 200, 1, b"at 200, again")


def test_a_state_in_the_middle_of_a_replay_is_saved_but_never_a_step_back(with_sinks: Use) -> None:
    async def work(sink: Sink, stale: Sink) -> Resumption:
        await sink.write(flush((0, 200)))
        await sink.write(flush(None, states=[state(80, b"at 80", stored=200)]))
        await sink.write(flush(None, states=[state(120, b"at 120", stored=200)]))
        with pytest.raises(FencedError):
            await stale.write(flush(None, states=[state(100, b"at 100", stored=200)]))
        await sink.write(flush((200, 201)))
        with pytest.raises(FencedError):
            await stale.write(flush(None, states=[state(150, b"at 150", stored=200)]))
        return await sink.resume(TOPIC, 0)

    assert with_sinks(work, LOG, LOG) == Resumption(201, 120, 1, b"at 120")


def test_a_state_of_an_unknown_partition_is_refused(database: Database, with_sinks: Use) -> None:
    async def work(sink: Sink) -> None:
        with pytest.raises(FencedError):
            await sink.write(flush(None, states=[state(0, partition=9)]))

    with_sinks(work)
    assert database.one("SELECT count(*) FROM detector_state") == 0


def test_a_repeated_flush_changes_nothing(database: Database, with_sinks: Use) -> None:
    async def work(sink: Sink) -> Outcome:
        await sink.write(everything())
        before = database.contents()
        outcome = await sink.write(everything())
        assert database.contents() == before
        return outcome

    assert with_sinks(work) == Outcome(0, 0, 0)


def test_a_flush_that_another_worker_repeated_still_saves_its_state(
    database: Database, with_sinks: Use
) -> None:
    """Else its messages would be acknowledged beyond the saved state."""

    async def work(first: Sink, second: Sink) -> Resumption:
        await first.write(flush((0, 5), rows((1, 0, 1.0))))
        await second.write(flush((0, 5), rows((1, 0, 1.0)), states=[state(5)]))
        return await second.resume(TOPIC, 0)

    assert with_sinks(work, LOG, LOG) == Resumption(5, 5, 1, b"state")
    assert stored(database) == [(1, 0, 1.0)]


# A log that was made anew


def test_another_log_starts_at_zero_and_keeps_the_state(
    database: Database, with_sinks: Use
) -> None:
    async def work(sink: Sink) -> Resumption:
        await sink.write(flush((0, 40), states=[state(40)]))
        anew = Sink(database.dsn, database.schema, "log-2")
        try:
            found = await anew.resume(TOPIC, 0)
            assert found == Resumption(0, 0, 1, b"state")
            assert await anew.resume(TOPIC, 0) == found
            with pytest.raises(FencedError):
                await sink.write(everything(41, expected=40))
            await anew.write(flush((0, 3), states=[state(3, b"new")]))
            return await anew.resume(TOPIC, 0)
        finally:
            await anew.close()

    assert with_sinks(work) == Resumption(3, 3, 1, b"new")


def test_a_position_in_another_log_is_no_repetition(database: Database, with_sinks: Use) -> None:
    async def work(old: Sink) -> None:
        anew = Sink(database.dsn, database.schema, "log-2")
        try:
            await anew.resume(TOPIC, 0)
            await anew.write(flush((0, 5)))
            with pytest.raises(FencedError):
                await old.write(flush((2, 5), rows((1, 0, 1.0))))
        finally:
            await anew.close()

    with_sinks(work)


def test_resuming_makes_a_new_partition_once(with_sinks: Use) -> None:
    async def work(*sinks: Sink) -> list[Resumption]:
        return await asyncio.gather(*(sink.resume("t", 3) for sink in sinks))

    assert with_sinks(work, LOG, LOG, LOG) == [Resumption(0, 0, None, None)] * 3


# Sensors and series


def test_registering_at_once_gives_everybody_the_same_ids(
    database: Database, with_sinks: Use
) -> None:
    keys = [
        SeriesKey("environment", "park", f"air-{n}", quantity)
        for n in range(40)
        for quantity in ("no2", "o3")
    ]

    async def work(*sinks: Sink) -> list[list[int]]:
        found = await asyncio.gather(
            *(sink.register(keys[:: 1 if n % 2 else -1]) for n, sink in enumerate(sinks))
        )
        return [ids.tolist() if n % 2 else ids.tolist()[::-1] for n, ids in enumerate(found)]

    ids = with_sinks(work, LOG, LOG, LOG, LOG)
    assert ids == [ids[0]] * 4
    assert len(set(ids[0])) == len(keys)
    named = database.all(
        "SELECT s.name, q.quantity, q.unit FROM unnest(%s::int[]) WITH ORDINALITY AS i (id, n)"
        " JOIN series q ON q.series_id = i.id JOIN sensor s USING (sensor_id) ORDER BY i.n",
        ids[0],
    )
    assert named == [(key.sensor, key.quantity, "ug/m3") for key in keys]


SENSOR = "SELECT name, domain, zone, longitude, latitude, clock_offset_s FROM sensor ORDER BY name"


def told(number: int, *cards: SensorCard) -> Flush:
    """Return a flush that tells of sensors and nothing else."""
    return flush((number, number + 1), cards=cards, tallies=[])


def test_a_card_without_a_place_leaves_the_known_one(database: Database, with_sinks: Use) -> None:
    async def work(sink: Sink) -> None:
        await sink.write(told(0, SensorCard("sensor-1", "traffic", "harbour", 9.5, 53.5)))
        await sink.write(told(1, SensorCard("sensor-1", "traffic", "airport")))

    with_sinks(work)
    assert database.all(SENSOR)[0] == ("sensor-1", "traffic", "airport", 9.5, 53.5, None)


def test_a_clock_is_as_off_as_was_told_last(database: Database, with_sinks: Use) -> None:
    query = "SELECT clock_offset_s, clock_offset_at FROM sensor WHERE name = 'sensor-1'"
    found = []

    async def work(sink: Sink) -> None:
        for number, offset in enumerate((None, 37.0, 37.0, -5.0, None)):
            card = SensorCard("sensor-1", "traffic", "harbour", 9.5, 53.5, offset)
            await sink.write(told(number, card))
            found.extend(database.all(query))

    with_sinks(work)
    offsets, times = zip(*found, strict=True)
    assert offsets == (None, 37.0, 37.0, -5.0, None)
    assert times[0] is None
    # When it changed, not when it was told again.
    assert times[1] == times[2] < times[3] < times[4]


def test_a_new_quantity_says_nothing_of_its_sensor(database: Database, with_sinks: Use) -> None:
    async def work(sink: Sink) -> None:
        await sink.write(told(0, SensorCard("sensor-1", "traffic", "harbour", 9.5, 53.5, 37.0)))
        await sink.register([SeriesKey("traffic", "airport", "sensor-1", "occupancy")])

    with_sinks(work)
    assert database.all(SENSOR)[0] == ("sensor-1", "traffic", "harbour", 9.5, 53.5, 37.0)


def test_a_worker_that_is_fenced_moves_no_sensor(database: Database, with_sinks: Use) -> None:
    async def work(owner: Sink, zombie: Sink) -> None:
        await owner.write(told(0, SensorCard("sensor-1", "traffic", "harbour", 3.0, 1.0)))
        await owner.write(told(1, SensorCard("sensor-1", "traffic", "airport", 4.0, 1.0)))
        with pytest.raises(FencedError):
            await zombie.write(told(0, SensorCard("sensor-1", "traffic", "centre", 2.0, 1.0)))

    with_sinks(work, LOG, LOG)
    assert database.all(SENSOR)[0] == ("sensor-1", "traffic", "airport", 4.0, 1.0, None)


# Alerts


def test_an_alert_that_opens_and_resolves(database: Database, with_sinks: Use) -> None:
    async def work(sink: Sink) -> None:
        await sink.write(flush((0, 1), changes=[opened(1, 10)], tallies=[]))
        await sink.write(flush((1, 2), changes=[resolved(1, 10, 90)], tallies=[]))

    with_sinks(work)
    name = alert_id("sensor-1", 10)
    assert database.all(
        "SELECT alert_id, series_id, category, kind, severity, state, opened_at, resolved_at, seen,"
        " expected, band, lower, upper, score FROM alert"
    ) == [
        (
            name,
            1,
            "city",
            "level",
            "major",
            "resolved",
            moment(10),
            moment(90),
            12.5,
            3.0,
            2.0,
            1.0,
            5.0,
            7.25,
        )
    ]
    assert database.all(
        "SELECT alert_id, at, state, cause, actor FROM alert_transition ORDER BY at"
    ) == [
        (name, moment(10), "open", "level", "worker"),
        (name, moment(90), "resolved", "good readings", "worker"),
    ]
    told = database.all("SELECT event, dedup_key, payload::text FROM outbox ORDER BY outbox_id")
    assert [row[:2] for row in told] == [("firing", str(name)), ("resolved", str(name))]
    assert [decode_page(row[2]) for row in told] == [
        opened(1, 10).page,
        resolved(1, 10, 90).page,
    ]


def states(database: Database) -> list[tuple[Any, ...]]:
    return database.all("SELECT series_id, category, state FROM alert ORDER BY 1, 2")


def test_an_alert_becomes_stale_and_open_again_and_the_pager_hears_of_it(
    database: Database, with_sinks: Use
) -> None:
    async def work(sink: Sink) -> None:
        changes = [opened(1, 10), opened(1, 10, category="sensor-health"), opened(2, 10)]
        await sink.write(flush((0, 1), changes=changes, tallies=[]))
        await sink.write(flush((1, 2), changes=[moved(1, "stale", 90)], tallies=[]))
        stale = states(database)
        # Of what is not open, or not stale, nothing becomes anything.
        nothing = [moved(1, "stale", 91), moved(2, "open", 91), moved(3, "stale", 91)]
        await sink.write(flush((2, 3), changes=nothing, tallies=[]))
        assert states(database) == stale
        await sink.write(flush((3, 4), changes=[moved(1, "open", 120)], tallies=[]))
        return stale

    assert with_sinks(work) == [
        (1, "city", "stale"),
        (1, "sensor-health", "open"),
        (2, "city", "open"),
    ]
    assert {row[2] for row in states(database)} == {"open"}
    name = alert_id("sensor-1", 10)
    assert database.all(
        "SELECT at, state, cause, actor FROM alert_transition WHERE alert_id = %s ORDER BY at", name
    ) == [
        (moment(10), "open", "level", "worker"),
        (moment(90), "stale", "because", "worker"),
        (moment(120), "open", "because", "worker"),
    ]
    assert database.all(
        "SELECT event, at, dedup_key, actor FROM outbox WHERE alert_id = %s ORDER BY outbox_id",
        name,
    ) == [
        ("firing", moment(10), str(name), "worker"),
        ("stale", moment(90), str(name), "worker"),
        ("back", moment(120), str(name), "worker"),
    ]
    assert database.one("SELECT count(*) FROM outbox WHERE decided_at IS NULL") == 5


ACKNOWLEDGE = """
    WITH a AS (UPDATE alert SET state = 'acknowledged' RETURNING alert_id)
    INSERT INTO alert_transition SELECT alert_id, now(), 'acknowledged', 'seen', 'ann' FROM a
"""


def test_an_acknowledged_alert_that_was_stale_is_acknowledged_again(
    database: Database, with_sinks: Use
) -> None:
    async def work(sink: Sink) -> None:
        await sink.write(flush((0, 1), changes=[opened(1, 10)], tallies=[]))
        database.connection.execute(ACKNOWLEDGE)
        await sink.write(flush((1, 2), changes=[moved(1, "stale", 90)], tallies=[]))
        await sink.write(flush((2, 3), changes=[moved(1, "open", 120)], tallies=[]))

    with_sinks(work)
    assert states(database) == [(1, "city", "acknowledged")]


KNOWN = "SELECT severity, state, seen, band, lower, upper, score, sentence FROM alert ORDER BY 1, 2"
EVENTS = "SELECT event, at FROM outbox ORDER BY outbox_id"


def test_an_alert_that_gets_worse_is_written_down_and_told_as_of_now(
    database: Database, with_sinks: Use
) -> None:
    async def work(sink: Sink) -> None:
        both = [opened(1, 10), opened(2, 10)]
        await sink.write(flush((0, 1), changes=both, tallies=[]))
        await sink.write(flush((1, 2), changes=[worsened(1, 10, 90)], tallies=[]))

    with_sinks(work)
    page = worsened(1, 10, 90).page
    other = opened(2, 10).page
    assert database.all(KNOWN) == [
        ("critical", "open", 22.5, 3.0, 1.0, 6.0, 9.5, page.sentence),
        ("major", "open", 12.5, 2.0, 1.0, 5.0, 7.25, other.sentence),
    ]
    name = alert_id("sensor-1", 10)
    assert database.all(
        "SELECT at, state, cause, actor FROM alert_transition WHERE alert_id = %s ORDER BY at", name
    ) == [
        (moment(10), "open", "level", "worker"),
        (moment(90), "open", "worse: critical, was major", "worker"),
    ]
    *_, told = database.all(
        "SELECT event, alert_id, dedup_key, at, actor, payload::text FROM outbox ORDER BY outbox_id"
    )
    assert told[:-1] == ("worse", name, str(name), moment(90), "worker")
    assert decode_page(told[-1]) == page
    assert page.event == "firing"


def test_an_alert_gets_worse_step_by_step_and_never_better(
    database: Database, with_sinks: Use
) -> None:
    minor = opened(1, 10)
    minor = replace(minor, page=structs.replace(minor.page, severity="minor"))

    async def work(sink: Sink) -> None:
        steps = [
            worsened(1, 10, 20, severity="minor"),
            worsened(1, 10, 30, severity="major"),
            # As after a restart with less than all of the state.
            worsened(1, 10, 30, severity="major"),
            worsened(1, 10, 40, severity="major"),
            worsened(1, 10, 50),
            worsened(1, 10, 60),
            worsened(1, 10, 70, severity="informational"),
        ]
        await sink.write(flush((0, 1), changes=[minor, *steps], tallies=[]))
        await sink.write(flush((1, 2), changes=steps, tallies=[]))

    with_sinks(work)
    assert database.all(EVENTS) == [
        ("firing", moment(10)),
        ("worse", moment(30)),
        ("worse", moment(50)),
    ]
    causes = database.all("SELECT cause FROM alert_transition ORDER BY at")
    assert causes == [("level",), ("worse: major, was minor",), ("worse: critical, was major",)]
    assert database.all("SELECT severity FROM alert") == [("critical",)]


def test_whoever_has_an_alert_that_gets_worse_has_it_no_longer(
    database: Database, with_sinks: Use
) -> None:
    async def work(sink: Sink) -> list[tuple[Any, ...]]:
        await sink.write(flush((0, 1), changes=[opened(1, 10)], tallies=[]))
        database.connection.execute(ACKNOWLEDGE)
        nothing = [worsened(1, 10, 20, severity="major")]
        await sink.write(flush((1, 2), changes=nothing, tallies=[]))
        before = states(database)
        await sink.write(flush((2, 3), changes=[worsened(1, 10, 90)], tallies=[]))
        return before

    assert with_sinks(work) == [(1, "city", "acknowledged")]
    assert states(database) == [(1, "city", "open")]


def test_a_stale_alert_that_gets_worse_stays_stale_and_is_open_when_it_is_back(
    database: Database, with_sinks: Use
) -> None:
    async def work(sink: Sink) -> list[tuple[Any, ...]]:
        await sink.write(flush((0, 1), changes=[opened(1, 10)], tallies=[]))
        database.connection.execute(ACKNOWLEDGE)
        # At one moment: both are kept.
        changes = [moved(1, "stale", 90), worsened(1, 10, 90)]
        await sink.write(flush((1, 2), changes=changes, tallies=[]))
        stale = states(database)
        await sink.write(flush((2, 3), changes=[moved(1, "open", 120)], tallies=[]))
        return stale

    assert with_sinks(work) == [(1, "city", "stale")]
    assert states(database) == [(1, "city", "open")]
    causes = database.all("SELECT cause FROM alert_transition WHERE state = 'stale' ORDER BY at")
    assert causes == [("because",), ("worse: critical, was major",)]


def test_what_is_over_or_was_never_open_gets_no_worse(database: Database, with_sinks: Use) -> None:
    async def work(sink: Sink) -> dict[str, Any]:
        changes = [opened(1, 10), resolved(1, 10, 50), opened(2, 10)]
        await sink.write(flush((0, 1), changes=changes, tallies=[]))
        before = database.contents()
        nothing = [
            worsened(1, 10, 90),
            worsened(3, 10, 90),
            worsened(2, 10, 90, kind="crowd"),
            worsened(2, 10, 90, category="sensor-health"),
            # Of another partition than the one that has read it last.
            replace(worsened(2, 10, 90), partition=7),
        ]
        database.connection.execute("UPDATE series SET home = 0 WHERE series_id = 2")
        await sink.write(flush((1, 2), changes=nothing, tallies=[]))
        return before

    before = with_sinks(work)
    found = database.contents()
    for table in ("alert", "alert_transition", "outbox"):
        assert found[table] == before[table]


def test_what_nobody_was_told_of_gets_worse_in_silence(database: Database, with_sinks: Use) -> None:
    changes = [replace(opened(1, 10), is_told=False), worsened(1, 10, 90)]
    with_sinks(lambda sink: sink.write(flush(changes=changes, tallies=[])))
    assert database.all("SELECT severity FROM alert") == [("critical",)]
    assert database.all(EVENTS) == []


def test_an_alert_from_before_the_state_was_lost_gets_worse_under_its_own_name(
    database: Database, with_sinks: Use
) -> None:
    async def work(sink: Sink) -> None:
        await sink.write(flush((0, 1), changes=[opened(1, 10)], tallies=[]))
        later = [opened(1, 50), worsened(1, 50, 90)]
        await sink.write(flush((1, 2), changes=later, tallies=[]))

    with_sinks(work)
    *_, (event, key, payload) = database.all(
        "SELECT event, dedup_key, payload::text FROM outbox ORDER BY outbox_id"
    )
    assert (event, key) == ("worse", str(alert_id("sensor-1", 10)))
    assert decode_page(payload) == worsened(1, 10, 90).page
    assert database.all("SELECT sentence FROM alert") == [(worsened(1, 10, 90).page.sentence,)]


def test_a_stale_alert_is_resolved_by_good_readings(database: Database, with_sinks: Use) -> None:
    async def work(sink: Sink) -> None:
        changes = [opened(1, 10), moved(1, "stale", 50), moved(1, "open", 80), resolved(1, 10, 90)]
        await sink.write(flush((0, 1), changes=changes, tallies=[]))

    with_sinks(work)
    assert states(database) == [(1, "city", "resolved")]
    told = [event for (event,) in database.all("SELECT event FROM outbox ORDER BY outbox_id")]
    assert told == ["firing", "stale", "back", "resolved"]


def test_an_alert_that_another_one_speaks_for_is_told_to_nobody(
    database: Database, with_sinks: Use
) -> None:
    async def work(sink: Sink) -> None:
        changes = [replace(opened(1, 10), is_told=False), opened(2, 10)]
        await sink.write(flush((0, 1), changes=changes, tallies=[]))
        over = [resolved(1, 10, 90), resolved(2, 10, 90)]
        await sink.write(flush((1, 2), changes=over, tallies=[]))

    with_sinks(work)
    assert {row[2] for row in states(database)} == {"resolved"}
    keys = database.all("SELECT dedup_key, event FROM outbox ORDER BY outbox_id")
    told = str(alert_id("sensor-2", 10))
    assert keys == [(told, "firing"), (told, "resolved")]


@pytest.mark.parametrize(
    ("state", "events"),
    [("open", ["firing", "resolved"]), ("acknowledged", []), ("resolved", [])],
)
def test_what_was_told_to_nobody_can_be_told_while_it_is_open(
    database: Database, with_sinks: Use, state: str, events: list[str]
) -> None:
    async def work(sink: Sink) -> None:
        await sink.write(flush((0, 1), changes=[replace(opened(1, 10), is_told=False)], tallies=[]))
        database.connection.execute("UPDATE alert SET state = %s", (state,))
        again = opened(1, 10)
        # Another, which is not what is open.
        await sink.write(flush((1, 2), changes=[again, again, opened(1, 30)], tallies=[]))
        await sink.write(flush((2, 3), changes=[resolved(1, 10, 90)], tallies=[]))

    with_sinks(work)
    name = alert_id("sensor-1", 10)
    found = database.all("SELECT event FROM outbox WHERE alert_id = %s ORDER BY outbox_id", name)
    assert [event for (event,) in found] == events
    transitions = database.all("SELECT state FROM alert_transition WHERE alert_id = %s", name)
    assert transitions == [("open",), ("resolved",)][: 1 + (state != "resolved")]


def test_one_alert_is_open_per_series_category_and_kind(
    database: Database, with_sinks: Use
) -> None:
    changes = [
        opened(1, 10),
        opened(1, 11),
        opened(1, 10, category="sensor-health"),
        opened(2, 10),
    ]
    with_sinks(lambda sink: sink.write(flush(changes=changes, tallies=[])))
    found = database.all("SELECT series_id, category, opened_at FROM alert ORDER BY 1, 2")
    assert found == [
        (1, "city", moment(10)),
        (1, "sensor-health", moment(10)),
        (2, "city", moment(10)),
    ]
    assert database.one("SELECT count(*) FROM outbox") == 3
    assert database.one("SELECT count(*) FROM alert_transition") == 3


def test_alerts_of_different_kinds_have_lives_of_their_own(
    database: Database, with_sinks: Use
) -> None:
    found = "SELECT kind, state FROM alert ORDER BY kind"

    async def work(sink: Sink) -> None:
        changes = [opened(1, 10), opened(1, 10, kind="incident"), moved(1, "stale", 20)]
        await sink.write(flush((0, 1), changes=changes, tallies=[]))
        assert database.all(found) == [("incident", "open"), ("level", "stale")]
        changes = [resolved(1, 10, 30, kind="incident"), moved(1, "open", 30)]
        await sink.write(flush((1, 2), changes=changes, tallies=[]))

    with_sinks(work)
    assert database.all(found) == [("incident", "resolved"), ("level", "open")]
    assert database.one("SELECT count(*) FROM outbox") == 5


def test_of_kinds_that_exclude_each_other_one_is_open_and_the_other_closes_it(
    database: Database, with_sinks: Use
) -> None:
    """As of the suite: state was lost, and what is wrong now has another name."""
    kinds = ("level", "range")

    async def work(sink: Sink) -> None:
        first = replace(opened(1, 10, kind="range"), kinds=kinds)
        await sink.write(flush((0, 1), changes=[first], tallies=[]))
        second = replace(opened(1, 50), kinds=kinds)
        over = replace(resolved(1, 50, 90), kinds=kinds)
        await sink.write(flush((1, 2), changes=[second, over], tallies=[]))

    with_sinks(work)
    assert database.all("SELECT kind, state FROM alert") == [("range", "resolved")]


def test_an_alert_from_before_the_state_was_lost_is_resolved_under_its_own_name(
    database: Database, with_sinks: Use
) -> None:
    async def work(sink: Sink) -> None:
        await sink.write(flush((0, 1), changes=[opened(1, 10)], tallies=[]))
        # The detectors learned anew, opened it once more, and resolve what they opened.
        later = [opened(1, 50), resolved(1, 50, 90)]
        await sink.write(flush((1, 2), changes=later, tallies=[]))

    with_sinks(work)
    name = str(alert_id("sensor-1", 10))
    assert database.all("SELECT alert_id::text, state FROM alert") == [(name, "resolved")]
    pages = database.all("SELECT event, dedup_key, payload::text FROM outbox ORDER BY outbox_id")
    assert [row[:2] for row in pages] == [("firing", name), ("resolved", name)]
    assert str(decode_page(pages[1][2]).alert_id) == name


def test_resolving_what_is_not_open_does_nothing(database: Database, with_sinks: Use) -> None:
    with_sinks(lambda sink: sink.write(flush(changes=[resolved(1, 10, 20)], tallies=[])))
    assert database.all("SELECT * FROM alert_transition") == []
    assert database.all("SELECT * FROM outbox") == []


@pytest.mark.parametrize("state_before", ["acknowledged", "stale"])
def test_what_people_did_to_an_alert_does_not_keep_it_open(
    database: Database, with_sinks: Use, state_before: str
) -> None:
    async def work(sink: Sink) -> None:
        await sink.write(flush((0, 1), changes=[opened(1, 10)], tallies=[]))
        database.connection.execute("UPDATE alert SET state = %s", (state_before,))
        await sink.write(flush((1, 2), changes=[resolved(1, 10, 20)], tallies=[]))

    with_sinks(work)
    assert database.all("SELECT state FROM alert") == [("resolved",)]


def test_the_bell_rings_once_a_flush_with_alerts_and_not_without(
    database: Database, with_sinks: Use
) -> None:
    channel = outbox_channel(database.schema)
    database.connection.execute(f'LISTEN "{channel}"')

    async def work(sink: Sink) -> None:
        await sink.write(flush((0, 1), rows((1, 0, 1.0))))
        await sink.write(flush((1, 2), changes=[opened(1, 10), opened(2, 10)], tallies=[]))

    with_sinks(work)
    heard = list(database.connection.notifies(timeout=10, stop_after=1))
    heard += database.connection.notifies(timeout=0)
    assert [one.channel for one in heard] == [channel]


# All or nothing


def test_a_failure_at_the_very_end_leaves_nothing(database: Database, with_sinks: Use) -> None:
    database.connection.execute(f'LISTEN "{outbox_channel(database.schema)}"')
    whole = everything()
    # The state is written last; its version does not fit into the column.
    broken = replace(whole, states=[SavedState(TOPIC, 0, 1, 1, 2**31, b"")])

    async def work(sink: Sink) -> None:
        before = database.contents()
        with pytest.raises(psycopg.errors.NumericValueOutOfRange):
            await sink.write(broken)
        assert database.contents() == before
        assert list(database.connection.notifies(timeout=0)) == []
        # The connection goes on, with an empty staging table.
        await sink.write(whole)

    with_sinks(work)
    assert {name for name, found in database.contents().items() if not found} == set()
    assert list(database.connection.notifies(timeout=10, stop_after=1)) != []


def test_staged_rows_of_a_failed_flush_are_gone(database: Database, with_sinks: Use) -> None:
    async def work(sink: Sink) -> Outcome:
        broken = flush(suspects=rows((1, 0, 1.0)), states=[state(999)])
        with pytest.raises(FencedError):
            await sink.write(broken)
        return await sink.write(flush(suspects=rows((1, 1, 1.0))))

    assert with_sinks(work) == Outcome(1, 0, 0)
    assert stored(database) == [(1, 1, 1.0)]


def test_dead_letters_are_kept_as_they_came(database: Database, with_sinks: Use) -> None:
    letters = [
        letter(payload=b"\x00\xff"),
        letter("private", source="cameras", payload=None, records=7),
        letter("topic", mqtt_topic="city/live/\x00/zone", place="a\x00b"),
    ]
    with_sinks(lambda sink: sink.write(flush(letters=letters, tallies=[])))
    found = database.all(
        "SELECT received_at, source, reason, mqtt_topic, place, payload, records, replayed_at"
        " FROM dead_letter ORDER BY reason"
    )
    topic = "city/live/traffic/harbour/s"
    assert found == [
        (moment(0), "traffic", "malformed-json", topic, "$", b"\x00\xff", 0, None),
        (moment(0), "cameras", "private", topic, "$", None, 7, None),
        (moment(0), "traffic", "topic", "city/live/\ufffd/zone", "a\ufffdb", b"{", 0, None),
    ]


def test_a_letter_of_a_minutes_last_moment_stays_in_that_minute(
    database: Database, with_sinks: Use
) -> None:
    """As a float of seconds it would round up into the next one, which never heard of it."""
    last = (MINUTE_S + 60) * 10**9 - 1
    with_sinks(lambda sink: sink.write(flush(**rejected(received_ns=last))))
    assert database.one("SELECT date_trunc('minute', received_at) FROM dead_letter") == moment(
        MINUTE_S - START_S
    )
    assert database.unbalanced() == []


def test_a_bridge_with_a_name_that_the_database_refuses(
    database: Database, with_sinks: Use
) -> None:
    line = replace(tallied(1), bridge="a\x00b")
    with_sinks(lambda sink: sink.write(flush(fresh=rows((1, 0, 1.0)), tallies=[line])))
    assert database.one("SELECT bridge FROM ledger") == "a\ufffdb"


def test_a_connection_that_was_cut_is_made_anew(database: Database, with_sinks: Use) -> None:
    async def work(sink: Sink) -> None:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s"
        assert sink._connection is not None
        assert database.one(cut, sink._connection.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            await sink.write(everything())
        await sink.close()
        await sink.write(everything())

    with_sinks(work)
    assert len(stored(database)) == 2


def test_a_connection_cancelled_halfway_is_not_kept(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would serve on without its staging table."""
    execute = psycopg.AsyncConnection.execute

    async def cancelled(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    async def work() -> Outcome:
        sink = Sink(database.dsn, database.schema, LOG)
        try:
            monkeypatch.setattr(psycopg.AsyncConnection, "execute", cancelled)
            with pytest.raises(asyncio.CancelledError):
                await sink.resume(TOPIC, 0)
            monkeypatch.setattr(psycopg.AsyncConnection, "execute", execute)
            await sink.resume(TOPIC, 0)
            return await sink.write(flush(suspects=rows((1, 0, 1.0))))
        finally:
            await sink.close()

    assert asyncio.run(work()) == Outcome(1, 0, 0)


def test_an_empty_flush_is_nothing(database: Database, with_sinks: Use) -> None:
    before = with_sinks(lambda sink: _nothing(sink, database))
    assert database.contents() == before


async def _nothing(sink: Sink, database: Database) -> dict[str, list[tuple[Any, ...]]]:
    before = database.contents()
    assert await sink.write(Flush([], NONE, NONE)) == Outcome(0, 0, 0)
    assert await sink.write(Flush([Step(TOPIC, 0, 0, 0)], NONE, NONE)) == Outcome(0, 0, 0)
    return before

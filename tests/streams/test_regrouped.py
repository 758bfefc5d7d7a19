"""A sensor that a change of groups moves to another partition, and what was open of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.storage.database import Database
from tests.streams.citylog import READINGS, Log, batch_message
from tests.streams.sessions import Kafka, Session

pytestmark = pytest.mark.integration

S = 10**9
START_NS = 1_700_460_000 * S
OLD, NEW = (READINGS, 0), (READINGS, 1)
OURS = "traffic/harbour/loop-9/averageVehicleSpeed"
MOVED = "judged anew in another partition"
Story = Callable[[Session, "Tale"], Awaitable[None]]


class Tale:
    """A log that is written while it is read; in each partition two other sensors tell the time."""

    def __init__(self) -> None:
        self.log = Log()
        self.second = {OLD: 0, NEW: 0}

    def tell(self, place: tuple[str, int], *values: float | None, at: int | None = None) -> None:
        """Let seconds pass in a partition; our sensor reports where there is a value."""
        if at is not None:
            self.second[place] = at
        for value in values:
            now = START_NS + self.second[place] * S
            self.second[place] += 10 if value is None else 1
            readings = [
                (
                    f"traffic/harbour/clock-{place[1]}-{n}/intensity",
                    now,
                    100.0 + self.second[place] % 5,
                )
                for n in range(2)
            ]
            readings += [] if value is None else [(OURS, now, value)]
            headers, data = batch_message(readings)
            self.log.add(place, headers, data)


def told(database: Database, story: Story) -> None:
    tale = Tale()
    for place in (OLD, NEW):
        tale.tell(place, None)

    async def run() -> None:
        async with Session(Kafka(tale.log, database)) as session:
            session.assign(OLD, NEW)
            await session.finish()
            await story(session, tale)

    asyncio.run(run())


def alerts(database: Database) -> list[tuple[Any, ...]]:
    return database.all("""
        SELECT a.kind, a.state, extract(epoch FROM a.resolved_at)::bigint - 1700460000,
               (SELECT t.cause FROM alert_transition t WHERE t.alert_id = a.alert_id
                ORDER BY t.recorded_at DESC, t.at DESC LIMIT 1)
        FROM alert a JOIN series q USING (series_id) JOIN sensor s USING (sensor_id)
        WHERE s.name = 'loop-9' ORDER BY a.opened_at
    """)


GOOD = [50.0 + n % 3 for n in range(8)]
# Of a sensor that was hardly heard, four times the slowest usual period; ten seconds each.
QUIET = [None] * 130


def test_what_is_open_is_closed_when_the_new_partition_hears_the_sensor(database: Database) -> None:
    async def story(session: Session, tale: Tale) -> None:
        tale.tell(OLD, *GOOD, -5.0, -6.0)
        await session.finish()
        assert [one[:2] for one in alerts(database)] == [("range", "open")]
        tale.tell(NEW, *GOOD, at=20)
        await session.finish()
        assert alerts(database) == [("range", "resolved", 20, MOVED)]
        # Where it was it is silent, and nobody says so: it was heard elsewhere.
        tale.tell(OLD, *QUIET)
        tale.tell(NEW, *GOOD, *GOOD)
        await session.finish()

    told(database, story)
    assert alerts(database) == [("range", "resolved", 20, MOVED)]
    pages = database.all(
        "SELECT event, payload ->> 'sentence' FROM outbox WHERE payload ->> 'sensor' = 'loop-9'"
        " ORDER BY outbox_id"
    )
    assert [event for event, _ in pages] == ["firing", "resolved"]
    assert pages[1][1] == (
        "averageVehicleSpeed of loop-9 (harbour) is judged anew, in another group of sensors;"
        " alert from 06:00:19 to 06:00:20 UTC"
    )


def test_a_silence_that_was_told_before_is_taken_back_and_alerts_open_anew(
    database: Database,
) -> None:
    async def story(session: Session, tale: Tale) -> None:
        tale.tell(OLD, *GOOD, *QUIET)
        await session.finish()
        assert [one[:2] for one in alerts(database)] == [("silence", "open")]
        tale.tell(NEW, *GOOD, -5.0, -6.0, at=1500)
        await session.finish()

    told(database, story)
    assert [one[:3] for one in alerts(database)] == [
        ("silence", "resolved", 1500),
        ("range", "open", None),
    ]


def test_a_sensor_that_is_heard_nowhere_stays_silent(database: Database) -> None:
    """Loss of data is no all-clear, whatever became of its group."""

    async def story(session: Session, tale: Tale) -> None:
        tale.tell(OLD, *GOOD)
        tale.tell(OLD, *QUIET)
        tale.tell(NEW, *QUIET)
        await session.finish()

    told(database, story)
    assert [one[:3] for one in alerts(database)] == [("silence", "open", None)]


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_sensor_that_comes_back_is_at_home_again(
    database: Database, *, is_restarted: bool
) -> None:
    async def story(session: Session, tale: Tale) -> None:
        tale.tell(OLD, *GOOD)
        await session.finish()
        tale.tell(NEW, *GOOD, -5.0, -6.0, at=20)
        await session.finish()
        assert [one[:2] for one in alerts(database)] == [("range", "open")]
        tale.tell(OLD, *QUIET)
        await session.finish()
        if is_restarted:
            await session.release(OLD, NEW)
            session.assign(OLD, NEW)
        tale.tell(OLD, *GOOD, -7.0, -8.0, -9.0)
        await session.finish()

    told(database, story)
    found = alerts(database)
    assert [one[:2] for one in found][:1] == [("range", "resolved")]
    assert found[0][3] == MOVED
    assert found[-1][:2] == ("range", "open")


def test_what_the_old_partition_reads_late_takes_nothing_back(database: Database) -> None:
    """Its backlog, after the new partition has been read on, by a worker that was started anew."""

    async def story(session: Session, tale: Tale) -> None:
        tale.tell(OLD, *GOOD)
        await session.finish()
        tale.tell(NEW, *GOOD, -5.0, -6.0, at=20)
        await session.finish()
        await session.release(OLD)
        session.assign(OLD, NEW)
        tale.tell(OLD, *GOOD[:3], -1.0, -2.0)
        await session.finish()
        tale.tell(OLD, *QUIET)
        await session.finish()

    told(database, story)
    assert [one[:2] for one in alerts(database)] == [("range", "open")]
    assert (
        database.one(
            "SELECT max(home) FROM series q JOIN sensor s USING (sensor_id) WHERE s.name = 'loop-9'"
        )
        == 1
    )

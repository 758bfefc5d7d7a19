"""Whatever befalls workers, the database ends up as after one worker that nothing befell."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.rules import Rules
from tests.storage.database import Database
from tests.streams.citylog import LETTERS, READINGS, city_log
from tests.streams.sessions import CrashError, Kafka, Session, undisturbed

pytestmark = pytest.mark.integration

RULES = Rules.read(
    {
        "quantity": {"intensity": {"city_open_after": 2}, "no2": {"warm_up": 5}},
        "shadow": {"tight": {"suite": {"city_open_spreads": 3.0, "warm_up": 5}}},
    }
)
LOG = city_log(11, messages=40, rules={8: RULES, 30: Rules.read({"suite": {"close_after": 3}})})
PLACES = sorted(LOG.messages)
EVENTS = st.one_of(
    st.tuples(st.just("deliver"), st.sampled_from(PLACES), st.integers(1, 12)),
    st.tuples(st.just("flush"), st.booleans()),
    st.tuples(st.just("kill")),
    st.tuples(st.just("mood"), st.sampled_from(["crash before", "crash after", "lose the answer"])),
    st.tuples(st.just("rebalance"), st.booleans()),
)


async def lives(kafka: Kafka, events: list[tuple[Any, ...]]) -> None:
    """Let one worker after another live through the events; the last one finishes the log."""
    pending = list(reversed(events))
    while True:
        async with Session(kafka, max_flush_rows=400) as session:
            session.assign()
            try:
                while pending:
                    await befall(session, *pending.pop())
                await session.finish()
            except CrashError:
                continue
            return


async def befall(session: Session, event: str, *details: Any) -> None:
    if event == "deliver":
        await session.deliver(*details)
    elif event == "flush":
        await session.worker.flush(save=details[0])
    elif event == "kill":
        raise CrashError
    elif event == "mood":
        session.sink.mood = details[0]
    elif event == "rebalance":
        # Kafka takes everything away and gives it back, from what was committed.
        await session.release(*PLACES)
        if details[0]:
            session.sink.mood = None
        session.assign()


@pytest.fixture
def expected(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    found = undisturbed(LOG, database)
    kinds = {(row[3], row[6]) for row in found["alert"]}
    assert {row[4] for row in found["alert"]} >= {"level", "range", "incident", "service-level"}
    assert {category for category, _ in kinds} == {"city", "sensor-health"}
    assert {row[3] for row in found["alert_transition"]} > {
        "the sensor speaks again",
        "no readings",
    }
    assert len(found["reading"]) > 1000
    assert len(found["rules_applied"]) == 4
    assert len(found["shadow_alert"]) > 2
    assert database.unbalanced() == []
    return found


@given(st.lists(EVENTS, max_size=40))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_nothing_is_lost_or_doubled(
    database: Database,
    expected: dict[str, list[tuple[Any, ...]]],
    events: list[tuple[Any, ...]],
) -> None:
    database.clear()
    kafka = Kafka(LOG, database)
    asyncio.run(lives(kafka, events))
    assert database.contents() == expected
    assert database.unbalanced() == []
    assert kafka.committed == LOG.ends()


@pytest.mark.parametrize("mood", ["crash before", "crash after"])
@pytest.mark.parametrize("save_every", [1, 3, 100])
def test_a_crash_at_every_single_flush(
    database: Database, expected: dict[str, list[tuple[Any, ...]]], mood: str, save_every: int
) -> None:
    """Each worker manages one flush, and the next one dies in its second."""
    database.clear()
    kafka = Kafka(LOG, database)
    events: list[tuple[Any, ...]] = []
    for number in range(12):
        # From Kafka's offset on: with each life more is read again, and passed over.
        events += [("deliver", place, 4 * (number + 1)) for place in PLACES]
        events += [("flush", number % save_every == 0), ("mood", mood)]
        events += [("deliver", place, 3) for place in PLACES]
        events.append(("flush", True))
    asyncio.run(lives(kafka, events))
    assert database.contents() == expected
    assert kafka.committed == LOG.ends()


def test_the_log_has_letters_and_readings() -> None:
    assert {topic for topic, _ in PLACES} == {READINGS, LETTERS}

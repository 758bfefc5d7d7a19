"""What shadows find is kept apart from alerts, and which rules hold is noted."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest

from ingest.topics import SeriesKey
from storage.flush import Flush, Shadowed, ShadowEnded
from storage.sink import Sink
from tests.storage.database import Database
from tests.storage.flushes import ended, flush, moment, opened, resolved, ruled, shadowed

pytestmark = pytest.mark.integration

KEYS = [SeriesKey("traffic", "harbour", f"sensor-{n}", "intensity") for n in (1, 2)]


def write(database: Database, *flushes: Flush) -> None:
    async def run() -> None:
        sink = Sink(database.dsn, database.schema, "log-1")
        try:
            await sink.resume("live.readings", 0)
            await sink.register(KEYS)
            for one in flushes:
                await sink.write(one)
        finally:
            await sink.close()

    asyncio.run(run())


def told(database: Database, *changes: Shadowed | ShadowEnded) -> None:
    write(database, flush((0, 1), shadowed=changes))


def shadows(database: Database) -> list[tuple[object, ...]]:
    return database.all(
        "SELECT shadow, series_id, opened_at, closed_at FROM shadow_alert ORDER BY 1, 2, 3"
    )


def test_a_shadow_opens_and_closes_its_own_alerts(database: Database) -> None:
    told(
        database,
        shadowed(opened(1, 10)),
        shadowed(opened(1, 20), "loose"),
        shadowed(opened(1, 12)),  # is open already
        shadowed(resolved(1, 10, 30)),
        shadowed(opened(1, 40)),
        shadowed(resolved(2, 10, 50)),  # never was
    )
    assert shadows(database) == [
        ("loose", 1, moment(20), None),
        ("tight", 1, moment(10), moment(30)),
        ("tight", 1, moment(40), None),
    ]
    row = database.all(
        "SELECT category, kind, seen, expected, lower, upper, score, sentence FROM shadow_alert"
        " WHERE shadow = 'loose'"
    )
    assert row == [
        (
            "city",
            "level",
            12.5,
            3.0,
            1.0,
            5.0,
            7.25,
            "intensity of sensor-1 (harbour) is 12.5; expected 3 ± 2 since 22:13:40 UTC",
        )
    ]


def test_of_the_minutes_a_shadow_has_an_alert_of_each_kind(database: Database) -> None:
    """And of the suite one of a category, whatever its kind."""
    suite = ("level", "novelty")
    told(
        database,
        shadowed(replace(opened(1, 10), kinds=suite)),
        shadowed(replace(opened(1, 12, kind="novelty"), kinds=suite)),
        shadowed(opened(1, 14, kind="incident")),
        shadowed(opened(1, 14, kind="season")),
        shadowed(resolved(1, 14, 30, kind="incident")),
        shadowed(replace(resolved(1, 10, 40), kinds=suite)),
        replace(ended(1, seconds=60), kinds=("season",)),
        shadowed(opened(1, 70, kind="crowd")),
        replace(ended(1, seconds=80), kinds=("season",)),
    )
    found = database.all("SELECT kind, opened_at, closed_at FROM shadow_alert ORDER BY 2, 1")
    assert found == [
        ("level", moment(10), moment(40)),
        ("incident", moment(14), moment(30)),
        ("season", moment(14), moment(60)),
        ("crowd", moment(70), None),
    ]


def test_no_page_and_no_alert_comes_of_a_shadow(database: Database) -> None:
    told(database, shadowed(opened(1, 10)), shadowed(resolved(1, 10, 30)), shadowed(opened(2, 40)))
    assert len(shadows(database)) == 2
    for table in ("alert", "alert_transition", "outbox"):
        assert database.one(f"SELECT count(*) FROM {table}") == 0  # noqa: S608 - literals above


def test_the_outbox_takes_no_word_of_a_shadow(database: Database) -> None:
    """Even where somebody tried: it refers to alerts, and a shadow has none."""
    told(database, shadowed(opened(1, 10)))
    change = opened(1, 10)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        database.connection.execute(
            "INSERT INTO outbox (alert_id, event, dedup_key, payload)"
            " VALUES (%s, 'firing', 'x', '{}')",
            (change.page.alert_id,),
        )


@pytest.mark.parametrize(("seconds", "closed"), [(50, 50), (5, 40), (None, 40)])
def test_what_is_open_of_a_shadow_that_ends_is_over(
    database: Database, seconds: int | None, closed: int
) -> None:
    """Of the series of that partition; never before it began."""
    told(
        database,
        shadowed(opened(1, 40)),
        shadowed(opened(2, 40)),
        shadowed(opened(1, 40), "loose"),
        ended(1, seconds=seconds),
        shadowed(opened(1, 60)),
    )
    assert shadows(database) == [
        ("loose", 1, moment(40), None),
        ("tight", 1, moment(40), moment(closed)),
        ("tight", 1, moment(60), None),
        ("tight", 2, moment(40), None),
    ]


def test_rules_are_noted_once_with_the_flush_that_brought_them(database: Database) -> None:
    first = flush((0, 8), ruled=[ruled(7, '{"suite":{}}')])
    write(database, first, first)
    assert database.all(
        "SELECT topic, partition, log_id, message_offset, fingerprint, rules, watermark"
        " FROM rules_applied"
    ) == [("live.readings", 0, "log-1", 7, 'f{"suite":{}}', {"suite": {}}, moment(7))]


def test_shadow_alerts_go_when_alerts_go(database: Database) -> None:
    told(
        database,
        shadowed(opened(1, 10)),
        shadowed(resolved(1, 10, 30)),
        shadowed(opened(2, 10)),
    )
    days: Sequence[object] = database.all(
        "SELECT ceil(extract(epoch FROM now() - %s) / 86400)::integer", moment(0)
    )[0]
    call = "CALL expire(NULL, jsonb_build_object('alerts', %s::integer, 'sources', '{}'::jsonb))"
    database.connection.execute(call, days)
    assert len(shadows(database)) == 2
    database.connection.execute(call, (1,))
    assert shadows(database) == [("tight", 2, moment(10), None)]

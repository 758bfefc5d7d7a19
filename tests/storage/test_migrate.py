"""Migrations in schemas side by side, and what they make of a database without TimescaleDB."""

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier
from yoyo import read_migrations
from yoyo.connections import parse_uri
from yoyo.migrations import MigrationList

import storage.migrate
from citywatch.embedded.postgres import find_binaries
from storage.audit import Audit, StorageLine, audit
from storage.migrate import _uri, migrate, session_options
from tests.storage.blueprint import Blueprint, dump
from tests.storage.database import CONTENTS, Database

pytestmark = pytest.mark.integration

FIRST = "0001.first-schema"
SECOND = "0002.ledger-by-reason"
# What PostgreSQL's own time_bucket counts from: a Monday.
ORIGIN = datetime(2000, 1, 3, tzinfo=UTC)


@pytest.fixture
def empty(dsn: str) -> Iterator[str]:
    """Return the name of a schema that is not there yet."""
    name = f"replay_m{uuid4().hex[:10]}"
    yield name
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(name)))


def has_timescale(database: Database) -> bool:
    return bool(database.one("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"))


def test_migrations_are_applied_once(dsn: str, empty: str) -> None:
    assert migrate(dsn, empty)[0] == FIRST
    assert migrate(dsn, empty) == []
    with Database(dsn, empty) as database:
        assert not any(database.contents().values())


def test_a_schema_by_blueprint_is_a_migrated_one(
    dsn: str, empty: str, schema: str, blueprint: Blueprint | None
) -> None:
    if blueprint is None or not blueprint.is_dump:
        pytest.skip("schemas are migrated one by one on TimescaleDB and in a named database")
    migrate(dsn, empty)
    made, migrated = (plain_dump(dsn, name) for name in (schema, empty))
    assert "CREATE TABLE it.reading (" in made
    assert made == migrated
    assert migrate(dsn, schema) == []


def plain_dump(dsn: str, schema: str) -> list[str]:
    """Return what is dumped of a schema, without its name and what differs each time."""
    text = dump(dsn, schema, find_binaries() / "pg_dump").replace(schema, "it")
    return [
        re.sub(r"'[0-9a-f-]{36}'|'\d{4}-\d\d-\d\d [\d:.]+'", "?", line)
        for line in text.splitlines()
    ]


def test_schemas_stand_side_by_side(dsn: str, empty: str, database: Database) -> None:
    migrate(dsn, empty)
    with Database(dsn, empty) as other:
        insert = "INSERT INTO sensor (name, domain, zone) VALUES ('s', 'traffic', 'z')"
        other.connection.execute(insert)
        assert other.one("SELECT count(*) FROM sensor") == 1
    assert database.one("SELECT count(*) FROM sensor") == 0
    tables = database.all(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        " AND table_name = ANY(%s)",
        list(CONTENTS),
    )
    assert tables == []


def test_many_that_start_at_once_apply_it_once(dsn: str, empty: str) -> None:
    barrier = Barrier(4)

    def start(_: int) -> list[str]:
        barrier.wait(timeout=20)
        return migrate(dsn, empty)

    with ThreadPoolExecutor(4) as threads:
        applied = list(threads.map(start, range(4)))
    assert sorted(map(len, applied)) == [0, 0, 0, len(max(applied, key=len))]
    assert FIRST in max(applied, key=len)


def test_one_that_was_killed_does_not_lock_out_the_next(dsn: str, empty: str) -> None:
    migrate(dsn, empty)
    with Database(dsn, empty) as database:
        database.connection.execute("INSERT INTO yoyo_lock VALUES (1, now(), 4194305)")
    assert migrate(dsn, empty) == []


def test_a_connection_string_survives_the_way_into_yoyo() -> None:
    dsn = make_conninfo(
        host="db.example",
        port=6543,
        user="o'neill@site",
        password="p@ss/wo:rd?&%25 x",
        dbname="city/watch",
        sslmode="require",
    )
    parsed = parse_uri(_uri(dsn, "replay_x").uri)
    assert (parsed.hostname, parsed.port, parsed.database) == ("db.example", 6543, "city/watch")
    assert (parsed.username, parsed.password) == ("o'neill@site", "p@ss/wo:rd?&%25 x")
    assert parsed.args == {"sslmode": "require", "options": session_options("replay_x")}


# From the first schema on, with data in place

MINUTE = "2026-11-23 07:14:00+00"
FIRST_DATA = f"""
    INSERT INTO sensor (name, domain, zone) VALUES ('s', 'traffic', 'z');
    INSERT INTO series (sensor_id, quantity, unit) VALUES (1, 'intensity', '1');
    INSERT INTO reading SELECT 1, TIMESTAMPTZ '{MINUTE}' + n * interval '1 s', n, 1, 0, 0, 0
        FROM generate_series(1, 7) n;
    -- Three of the ten stored were removed. Of the six that count as rejected, one is a message,
    -- and five are the readings of two Kafka messages that could not be read.
    INSERT INTO ledger (bridge, source, minute, messages, readings, rejected, withheld, stored,
                        duplicates, late_conflicts)
    VALUES ('bridge-1', 'traffic', '{MINUTE}', 20, 12, 6, 0, 10, 1, 1),
           ('bridge-1', 'cameras', '{MINUTE}', 5, 0, 2, 9, 0, 0, 0),
           ('bridge-1', 'unknown', '{MINUTE}', 1, 0, 1, 0, 0, 0, 0);
    INSERT INTO dead_letter (received_at, bridge, mqtt_topic, reason, place, payload)
    SELECT TIMESTAMPTZ '{MINUTE}' + at * interval '1 s', 'bridge-1', topic, reason, 'where', NULL
    FROM (VALUES (12, 'city/live/traffic/z/s', 'malformed-json'),
                 (59, 'city/live/cameras/z/c', 'unknown-type'),
                 (3, 'city/live/cameras/z/c', 'too-large'),
                 (4, 'city/elsewhere', 'topic'),
                 (0, '', 'unreadable-batch'),
                 (0, '', 'unreadable-batch')) AS d (at, topic, reason);
    INSERT INTO alert (alert_id, series_id, category, kind, severity, state, opened_at, resolved_at,
                       seen, expected, band, sentence)
    VALUES ('00000000-0000-0000-0000-000000000001', 1, 'city', 'level', 'major', 'resolved',
            '{MINUTE}', '{MINUTE}', 9, 5, 2, 'is 9'),
           ('00000000-0000-0000-0000-000000000002', 1, 'city', 'level', 'major', 'open',
            '{MINUTE}', NULL, 9, 5, 2, 'is 9'),
           ('00000000-0000-0000-0000-000000000003', 1, 'sensor-health', 'range', 'minor', 'stale',
            '{MINUTE}', NULL, -1, NULL, NULL, 'is -1');
    INSERT INTO dead_letter (received_at, bridge, mqtt_topic, reason, place, payload)
    VALUES (to_timestamp(0), 'unknown', '', 'unreadable-batch', 'offset 3', 'rubbish'),
           (to_timestamp(0), 'unknown', '', 'unreadable-batch', 'offset 4', 'rubbish');
"""  # noqa: S608 - a constant of this module


@pytest.fixture
def first(dsn: str, empty: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Return a database as the first version left it."""
    with monkeypatch.context() as patch:

        def only_first(folder: str) -> MigrationList:
            found = read_migrations(folder)
            return found.filter(lambda migration: migration.id == FIRST)

        patch.setattr("storage.migrate.read_migrations", only_first)
        assert migrate(dsn, empty) == [FIRST]
    with Database(dsn, empty) as database:
        database.connection.execute(FIRST_DATA)
        yield database


def audited(database: Database) -> Audit:
    async def run() -> Audit:
        async with await psycopg.AsyncConnection.connect(
            database.dsn, options=session_options(database.schema), autocommit=True
        ) as connection:
            return await audit(connection, None, None)

    return asyncio.run(run())


def test_what_the_first_schema_held_balances_in_the_second(first: Database) -> None:
    assert migrate(first.dsn, first.schema)[0] == SECOND
    found = audited(first)
    assert found.faults == []
    assert first.unbalanced() == []
    assert found.storage == [StorageLine("traffic", stored=10, expired=3, rows=7)]
    lines = [
        (line.source, line.messages, line.passed, line.rejected, line.refused, line.reasons)
        for line in found.lines
    ]
    assert lines == [
        ("unknown", 0, 0, 0, 2, {"unreadable-batch": 2}),
        ("cameras", 5, 3, 2, 0, {"too-large": 1, "unknown-type": 1}),
        ("traffic", 20, 19, 1, 5, {"unreadable-batch": 5, "malformed-json": 1}),
        ("unknown", 1, 0, 1, 0, {"topic": 1}),
    ]
    assert [line.kinds for line in found.lines] == [{}, {"unrecorded": 9}, {}, {}]
    # Nothing is lost of what was there.
    assert first.one("SELECT count(*) FROM dead_letter WHERE place = 'where'") == 6
    assert first.one("SELECT count(*) FROM dead_letter WHERE payload = 'rubbish'") == 2
    assert first.one("SELECT count(*) FROM reading") == 7


FOLDER = Path(storage.migrate.__file__).with_name("migrations")
NEXT = [one.id for one in read_migrations(str(FOLDER))][1:]


@pytest.mark.parametrize("version", NEXT)
def test_every_version_goes_up_with_its_data(
    first: Database, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """From the first by way of `version` to the newest; nobody has to pass through all of them."""

    def up_to(folder: str) -> MigrationList:
        return read_migrations(folder).filter(lambda migration: migration.id <= version)

    with monkeypatch.context() as patch:
        patch.setattr("storage.migrate.read_migrations", up_to)
        assert migrate(first.dsn, first.schema)[-1] == version
    assert migrate(first.dsn, first.schema) == [name for name in NEXT if name > version]
    found = audited(first)
    assert found.faults == []
    assert found.storage == [StorageLine("traffic", stored=10, expired=3, rows=7)]
    assert len(first.newest()) == 1
    assert first.latest() == first.newest()
    alerts = "SELECT kind, state, band, lower, upper FROM alert ORDER BY alert_id"
    assert first.all(alerts) == [
        ("level", "resolved", 2.0, 3.0, 7.0),
        ("level", "open", 2.0, 3.0, 7.0),
        ("range", "stale", None, None, None),
    ]
    minute = datetime.fromisoformat(MINUTE)
    for level, width in (("1m", "1 minute"), ("15m", "15 minutes"), ("1d", "1 day")):
        begins = first.one("SELECT time_bucket(%s::interval, %s::timestamptz)", width, minute)
        query = f"SELECT time, count, total, lowest, highest FROM reading_{level}"  # noqa: S608
        assert first.all(query) == [(begins, 7, 28.0, 1.0, 7.0)]


def test_what_was_told_before_causes_is_decided_and_what_is_open_is_told_once_more(
    first: Database,
) -> None:
    first.connection.execute(
        "INSERT INTO outbox (alert_id, event, dedup_key, payload, delivered_at, abandoned_at)"
        " SELECT alert_id, event, alert_id::text, '{}',"
        "        CASE WHEN kind = 'level' THEN now() END, CASE WHEN kind <> 'level' THEN now() END"
        " FROM alert, unnest(ARRAY['firing', 'resolved']) AS e (event)"
        " WHERE event = 'firing' OR state = 'resolved'"
    )
    migrate(first.dsn, first.schema)
    found = first.all(
        "SELECT kind, state, event, decided_at IS NOT NULL,"
        "       o.at = CASE event WHEN 'firing' THEN opened_at ELSE resolved_at END"
        " FROM outbox o JOIN alert USING (alert_id) ORDER BY 1, 2, 3"
    )
    assert found == [
        ("level", "open", "firing", False, True),
        ("level", "resolved", "firing", True, True),
        ("level", "resolved", "resolved", True, True),
        ("range", "stale", "firing", False, True),
    ]


def test_a_pager_that_was_granted_its_rights_before_goes_on(
    first: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def before(folder: str) -> MigrationList:
        return read_migrations(folder).filter(lambda migration: migration.id < "0016")

    with monkeypatch.context() as patch:
        patch.setattr("storage.migrate.read_migrations", before)
        migrate(first.dsn, first.schema)
    pager = Identifier(f"{first.schema}_pager")
    first.connection.execute(SQL("CREATE ROLE {}").format(pager))
    try:
        first.connection.execute(SQL("GRANT UPDATE (last_error) ON delivery TO {}").format(pager))
        first.connection.execute(
            "WITH n AS (INSERT INTO notice (group_key, revision, event, at, payload)"
            "           VALUES ('g', 1, 'trigger', now(), '{}') RETURNING notice_id)"
            " INSERT INTO delivery (notice_id, key, group_key, event, step, hook, attempts,"
            "                       abandoned_at)"
            " SELECT notice_id, x, 'g', 'trigger', 1, x, 3, CASE x WHEN 'gone' THEN now() END"
            " FROM n, unnest(ARRAY['gone', 'open']) AS e (x)"
        )
        migrate(first.dsn, first.schema)
        may = "SELECT has_column_privilege(%s, 'delivery', 'missed', 'UPDATE')"
        assert first.one(may, f"{first.schema}_pager")
        # Nobody is told the end of what was given up before.
        assert first.all("SELECT hook, missed FROM delivery ORDER BY 1") == [
            ("gone", 3),
            ("open", 0),
        ]
    finally:
        first.connection.execute(
            SQL("REVOKE ALL ON delivery FROM {0}; DROP ROLE {0}").format(pager)
        )


def test_letters_that_were_missing_before_are_still_missed(first: Database) -> None:
    first.connection.execute("DELETE FROM dead_letter WHERE reason = 'too-large'")
    first.connection.execute("DELETE FROM dead_letter WHERE mqtt_topic = ''")
    migrate(first.dsn, first.schema)
    assert [fault.partition(", from")[0] for fault in audited(first).faults] == [
        "cameras 2026-11-23T07:00 bridge-1: reasons missing: 1",
        "cameras 2026-11-23T07:00 bridge-1: dead letters missing: 1",
        "traffic 2026-11-23T07:00 bridge-1: reasons missing: 5",
        "traffic 2026-11-23T07:00 bridge-1: dead letters missing: 5",
    ]


def test_rows_that_go_after_the_migration_are_missed(first: Database) -> None:
    migrate(first.dsn, first.schema)
    first.connection.execute("DELETE FROM reading WHERE value = 2")
    assert audited(first).faults == ["traffic in storage: rows missing from storage: 1"]


WIDTHS = st.sampled_from(
    [
        timedelta(seconds=1),
        timedelta(seconds=7),
        timedelta(minutes=5),
        timedelta(hours=1),
        timedelta(days=1),
        timedelta(days=7),
    ]
)
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - the bounds must be naive


@given(st.lists(st.tuples(WIDTHS, MOMENTS), min_size=1, max_size=50))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_time_bucket_agrees_with_a_division(
    database: Database, pairs: list[tuple[timedelta, datetime]]
) -> None:
    widths, moments = zip(*pairs, strict=True)
    query = """
        SELECT time_bucket(width, at)
        FROM unnest(%s::interval[], %s::timestamptz[]) WITH ORDINALITY AS i (width, at, n)
        ORDER BY n
    """
    buckets = [bucket for (bucket,) in database.all(query, list(widths), list(moments))]
    assert buckets == [ORIGIN + (at - ORIGIN) // width * width for width, at in pairs]


def test_readings_are_a_hypertable(database: Database) -> None:
    if not has_timescale(database):
        pytest.skip("the database has no TimescaleDB")
    query = """
        SELECT hypertable_name FROM timescaledb_information.hypertables
        WHERE hypertable_schema = %s
    """
    assert database.all(query, database.schema) == [("reading",)]


def test_time_bucket_is_our_own_without_timescale(database: Database) -> None:
    if has_timescale(database):
        pytest.skip("the database has TimescaleDB's own time_bucket")
    query = "SELECT pronamespace::regnamespace::text FROM pg_proc WHERE proname = 'time_bucket'"
    assert (database.schema,) in database.all(query)


def test_one_alert_is_open_per_series_category_and_kind(database: Database) -> None:
    """The database itself refuses a second one, whatever the worker believes."""
    database.connection.execute(
        "INSERT INTO sensor (name, domain, zone) VALUES ('s', 'traffic', 'z');"
        "INSERT INTO series (sensor_id, quantity, unit) VALUES (1, 'intensity', '1')"
    )
    alert = """
        INSERT INTO alert (alert_id, series_id, category, kind, severity, state, opened_at, seen,
                           sentence)
        VALUES (gen_random_uuid(), 1, 'city', %s, 'major', %s, now(), 1, '')
    """
    for state in ("resolved", "resolved", "open"):
        database.connection.execute(alert, ("level", state))
    for state in ("open", "acknowledged", "stale"):
        with pytest.raises(psycopg.errors.UniqueViolation):
            database.connection.execute(alert, ("level", state))
    database.connection.execute(alert, ("incident", "open"))


def test_what_is_not_scored_is_null_in_the_view(database: Database) -> None:
    database.connection.execute(
        "INSERT INTO sensor (name, domain, zone) VALUES ('s', 'traffic', 'z');"
        "INSERT INTO series (sensor_id, quantity, unit) VALUES (1, 'intensity', '1');"
        "INSERT INTO reading VALUES (1, now(), 1, 1, 'NaN', 'NaN', 2)"
    )
    query = "SELECT sensor, quantity, unit, score, expected, band FROM reading_scored"
    assert database.all(query) == [("s", "intensity", "1", None, None, 2.0)]

"""Migrations in schemas side by side, and what they make of a database without TimescaleDB."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier
from yoyo.connections import parse_uri

from storage.migrate import _uri, migrate, session_options
from tests.storage.database import CONTENTS, Database

pytestmark = pytest.mark.integration

FIRST = "0001.first-schema"
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


def test_one_alert_is_open_per_series_and_category(database: Database) -> None:
    """The database itself refuses a second one, whatever the worker believes."""
    database.connection.execute(
        "INSERT INTO sensor (name, domain, zone) VALUES ('s', 'traffic', 'z');"
        "INSERT INTO series (sensor_id, quantity, unit) VALUES (1, 'intensity', '1')"
    )
    alert = """
        INSERT INTO alert (alert_id, series_id, category, kind, severity, state, opened_at, seen,
                           sentence)
        VALUES (gen_random_uuid(), 1, 'city', 'level', 'major', %s, now(), 1, '')
    """
    for state in ("resolved", "resolved", "open"):
        database.connection.execute(alert, (state,))
    for state in ("open", "acknowledged", "stale"):
        with pytest.raises(psycopg.errors.UniqueViolation):
            database.connection.execute(alert, (state,))


def test_what_is_not_scored_is_null_in_the_view(database: Database) -> None:
    database.connection.execute(
        "INSERT INTO sensor (name, domain, zone) VALUES ('s', 'traffic', 'z');"
        "INSERT INTO series (sensor_id, quantity, unit) VALUES (1, 'intensity', '1');"
        "INSERT INTO reading VALUES (1, now(), 1, 1, 'NaN', 'NaN', 2)"
    )
    query = "SELECT sensor, quantity, unit, score, expected, band FROM reading_scored"
    assert database.all(query) == [("s", "intensity", "1", None, None, 2.0)]

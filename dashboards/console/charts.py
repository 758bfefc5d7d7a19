"""Charts on demand, over a small fixed number of connections.

A viewer's click costs the database one range of an index; more clicks at once than there are
connections wait in line, and a line that is too long is turned away.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final

from psycopg import OperationalError
from psycopg.errors import QueryCanceled

from storage import queries
from storage.queries import ChartPoint, Connection

CONNECTIONS: Final = 2
MAX_WAITING: Final = 50
TIMEOUT_S: Final = 10.0


class BusyError(Exception):
    """More charts are being asked for than may wait."""


class Charts:
    """Reads charts; connections are opened when first needed and replaced when broken.

    Parameters
    ----------
    connect : coroutine function
        Opens a connection that works in the namespace's schema.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._free: asyncio.LifoQueue[Connection | None] = asyncio.LifoQueue()
        for _ in range(CONNECTIONS):
            self._free.put_nowait(None)
        self._waiting = 0

    async def read(
        self, sensor: str, quantity: str, since: datetime, until: datetime
    ) -> dict[str, Any] | None:
        """Return the points in (since, until]; None where there is no such series.

        Raises
        ------
        BusyError
            If too many are waiting already.
        TimeoutError, OSError, psycopg.Error
            If the database does not answer.
        """
        if self._waiting >= MAX_WAITING:
            raise BusyError
        self._waiting += 1
        try:
            async with asyncio.timeout(TIMEOUT_S):
                try:
                    return await self._ask(sensor, quantity, since, until)
                except QueryCanceled:
                    raise  # too slow once is too slow twice
                except OperationalError:
                    # A connection that lay idle may have died unseen; a new one takes its place.
                    return await self._ask(sensor, quantity, since, until)
        finally:
            self._waiting -= 1

    async def _ask(
        self, sensor: str, quantity: str, since: datetime, until: datetime
    ) -> dict[str, Any] | None:
        async with self._one() as connection:
            series = await queries.series_named(connection, sensor, quantity)
            if series is None:
                return None
            points = await queries.chart(connection, series.series_id, since, until)
        width: timedelta | None = queries.bucket(until - since)
        return {
            "sensor": sensor,
            "quantity": quantity,
            "series_id": series.series_id,
            "unit": series.unit,
            "since": since,
            "until": until,
            "bucket_s": width.total_seconds() if width is not None else None,
            "columns": ChartPoint._fields,
            "points": points,
        }

    async def close(self) -> None:
        """Close the connections that are free."""
        while not self._free.empty():
            connection = self._free.get_nowait()
            if connection is not None:
                await connection.close()

    @asynccontextmanager
    async def _one(self) -> AsyncIterator[Connection]:
        connection = await self._free.get()
        try:
            if connection is None or connection.closed:
                connection = await self._connect()
            yield connection
        except BaseException:
            # Whatever went wrong, what the connection still holds is not known.
            if connection is not None:
                await connection.close()
            connection = None
            raise
        finally:
            self._free.put_nowait(connection)

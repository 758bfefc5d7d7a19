"""The decider's shell: it takes a turn when the bell rings or when the pager wants to be woken.

Any number of pagers may run it; the lock of `pager_turn` lets one decide at a time, and one that is
killed lets go of it at once, with nothing of its turn done. The one that decided last goes on doing
so: it remembers everything, and another would have to read it first. The others wait a moment
longer at each bell, so they take over as soon as it is gone.
"""

import asyncio
import logging
import time
from datetime import datetime
from typing import Final
from uuid import uuid4

from paging import book
from paging.backoff import within
from paging.connection import Connection
from paging.meter import Meter
from paging.routes import Routes
from paging.state import Memory, Topology, Turn, rebased
from paging.topology import topology_of
from paging.turn import decide

log = logging.getLogger(__name__)

# Longer than a turn usually takes, shorter than anybody notices.
_STAND_BACK_S: Final = 0.2
# Where sensors stand changes seldom; one that is new counts to its zone until then.
_TOPOLOGY_S: Final = 60.0
# With less between two turns a storm would be decided one alert at a time.
_LEAST_PAUSE_S: Final = 0.02


class Decider:
    """Decides what is to be told in one namespace.

    Parameters
    ----------
    schema : str
        Of the namespace.
    routes : Routes
        Without faults.
    poll_interval_s : float
        How often it looks when no bell rings.
    meter : Meter, optional
    """

    def __init__(
        self, schema: str, routes: Routes, *, poll_interval_s: float, meter: Meter | None = None
    ) -> None:
        self._schema = schema
        self._routes = routes
        self._poll_interval_s = poll_interval_s
        self._meter = meter or Meter()
        self._name = uuid4().hex
        self._memory: Memory | None = None
        self._revision = -1
        self._in_force: str | None = None
        self._wake_at: datetime | None = None
        self._now: datetime | None = None
        self._topology = Topology()
        self._topology_at = -_TOPOLOGY_S
        self._is_last = True

    async def serve(self, connection: Connection, bell: asyncio.Event, stop: asyncio.Event) -> None:
        """Take turns until `stop` is set.

        Raises
        ------
        psycopg.Error
            If the database is away or refuses; a turn is done wholly or not at all.
        """
        try:
            while not stop.is_set():
                bell.clear()
                if not self._is_last:
                    await within(_STAND_BACK_S, stop)
                begun = time.monotonic()
                if await self.turn(connection):
                    # There may be more; if not, the next one costs next to nothing.
                    await asyncio.sleep(max(0.0, _LEAST_PAUSE_S - (time.monotonic() - begun)))
                    continue
                await within(self._pause_s(), bell)
        finally:
            self._memory = None

    def renew(self, routes: Routes) -> None:
        """Decide by other routes, without faults, from the next turn on."""
        self._routes = routes
        self._topology_at = -_TOPOLOGY_S

    async def turn(self, connection: Connection) -> bool:
        """Take one turn; say whether there was anything to decide."""
        try:
            async with connection.transaction():
                is_new = await self._turn(connection)
        except BaseException:
            # What was decided may be written down or not.
            self._memory = None
            self._in_force = None
            raise
        self._meter.looked()
        return is_new

    async def _turn(self, connection: Connection) -> bool:
        begun = await book.begin(connection)
        if begun is None:
            self._is_last = False
            return False
        self._now = begun.now
        self._wake_at = begun.wakes_at
        self._is_last = begun.decider in ("", self._name)
        heard = await book.hear(connection)
        is_awaited = begun.wakes_at is not None and begun.wakes_at <= begun.now
        is_new = heard.is_anything
        # Before the orders are read: what changes in between is seen next time.
        in_force = await book.in_force(connection, begun.now)
        if not (is_new or is_awaited or begun.set_by or in_force != self._in_force):
            return False
        if self._memory is None or self._revision != begun.revision:
            self._memory = await book.remembered(connection, begun.shift)
        memory = self._memory
        if begun.set_by:
            log.warning("the clock was set back", extra={"by_s": -begun.set_by.total_seconds()})
            memory = rebased(memory, begun.set_by)
            await book.rebase(connection, begun.set_by)
        # They may be renewed in between.
        routes = self._routes
        await self._learn(connection, routes)
        turn = decide(
            memory,
            heard.events,
            begun.now,
            routes=routes,
            orders=await book.orders(connection, begun.now),
            topology=self._topology,
        )
        await book.write(connection, heard, self._memory, turn, begun.now, self._name)
        if turn.tellings or begun.set_by:
            bell = book.delivery_channel(self._schema)
            await connection.execute("SELECT pg_notify(%s, '')", (bell,))
        self._memory = turn.memory
        self._revision = begun.revision + 1
        self._in_force = in_force
        self._wake_at = turn.wake_at
        self._is_last = True
        _log(turn, heard)
        return is_new

    async def _learn(self, connection: Connection, routes: Routes) -> None:
        if time.monotonic() - self._topology_at >= _TOPOLOGY_S:
            zones = await book.zones(connection)
            self._topology = topology_of(zones, routes.areas)
            self._topology_at = time.monotonic() if routes is self._routes else -_TOPOLOGY_S

    def _pause_s(self) -> float:
        """Return how long to wait for the bell, by the database's clock."""
        if self._wake_at is None or self._now is None:
            return self._poll_interval_s
        left = (self._wake_at - self._now).total_seconds()
        return min(max(left, 0.0), self._poll_interval_s)


def _log(turn: Turn, heard: book.Heard) -> None:
    for telling in turn.tellings:
        notice = telling.notice
        log.info(
            "notice",
            extra={
                "group": notice.group,
                "event": notice.event,
                "title": notice.title,
                "targets": [one.target for one in telling.deliveries],
            },
        )
    for one in heard.unreadable:
        log.error("unreadable", extra={"alert": str(one.alert_id), "reason": one.reason})

"""The decider's shell: it takes a turn when the bell rings or when the pager wants to be woken.

Any number of pagers may run it; the lock of `pager_turn` lets one decide at a time, and one that is
killed lets go of it at once, with nothing of its turn done. The one that decided last goes on doing
so: it remembers everything, and another would have to read it first. The others wait a moment
longer at each bell, so they take over as soon as it is gone.

A turn that fails by something else than the database being away is taken again with fewer events,
until the one that fails is alone and set aside (`paging/narrowing.py`). Where it fails without any,
the groups that fail by themselves are put off for a while. No fault ends the pager.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID, uuid4

import msgspec

from paging import book
from paging.backoff import within
from paging.connection import AWAY, Connection
from paging.meter import Meter
from paging.narrowing import Narrowing
from paging.routes import Routes
from paging.state import Memory, Said, Topology, Track, Turn, rebased
from paging.topology import topology_of
from paging.turn import decide

log = logging.getLogger(__name__)

# Longer than a turn usually takes, shorter than anybody notices.
_STAND_BACK_S: Final = 0.2
# Where sensors stand changes seldom; one that is new counts to its zone until then.
_TOPOLOGY_S: Final = 60.0
# A group that cannot be told is tried again after so long.
_PUT_OFF: Final = timedelta(minutes=1)
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
        self._narrowing = Narrowing(book.MAX_EVENTS)
        self._tried: tuple[int | UUID, ...] = ()
        self._failed: tuple[int | UUID, ...] = ()

    async def serve(self, connection: Connection, bell: asyncio.Event, stop: asyncio.Event) -> None:
        """Take turns until `stop` is set.

        Raises
        ------
        psycopg.Error
            If the database is away; a turn is done wholly or not at all.
        """
        try:
            while not stop.is_set():
                bell.clear()
                if not self._is_last:
                    await within(_STAND_BACK_S, stop)
                begun = time.monotonic()
                try:
                    is_new = await self.turn(connection)
                    pause_s = await self._widen(connection)
                except AWAY:
                    raise
                except Exception as error:  # noqa: BLE001 - one fault must not keep all from being paged
                    pause_s = self._narrow(error)
                    is_new = True
                if pause_s:
                    await within(pause_s, stop)
                elif is_new:
                    # There may be more; if not, the next one costs next to nothing.
                    await asyncio.sleep(max(0.0, _LEAST_PAUSE_S - (time.monotonic() - begun)))
                else:
                    await within(self._pause_s(), bell)
        finally:
            self._memory = None

    def _narrow(self, error: Exception) -> float:
        """Take on less after a turn that failed; return how long to wait first."""
        said = f"{type(error).__name__}: {error}"
        log.error("a turn failed", exc_info=error, extra={"events": len(self._tried)})
        self._meter.turn_failed()
        if len(self._tried) == 1:
            self._failed = self._tried
        return self._narrowing.failed(len(self._tried), said)

    async def _widen(self, connection: Connection) -> float:
        """Take on more after a turn that was done, or set aside what fails alone."""
        if not self._is_last:
            return 0.0  # it was another's turn
        narrowing, reason = self._narrowing, self._narrowing.suspect
        if not narrowing.is_probing or reason is None:
            narrowing.succeeded(len(self._tried))
            return 0.0
        if not narrowing.is_guilty:
            return narrowing.retry()
        async with connection.transaction():
            begun = await book.begin(connection)
            heard = await book.hear(connection, 1)
            # Another pager may have decided it.
            is_same = begun is not None and heard.rows == self._failed
            if begun is not None and is_same:
                await book.set_aside(connection, heard, begun.now, reason)
        if is_same:
            log.error("an event was set aside", extra={"reason": reason})
            self._meter.set_aside()
        return narrowing.set_aside()

    def renew(self, routes: Routes) -> None:
        """Decide by other routes, without faults, from the next turn on."""
        self._routes = routes
        self._topology_at = -_TOPOLOGY_S
        # What waits is to be asked by them.
        self._in_force = None

    async def turn(self, connection: Connection) -> bool:
        """Take one turn; say whether there was anything to decide."""
        self._tried = ()
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
        is_probe = self._narrowing.is_probing
        heard = await book.hear(connection, self._narrowing.most)
        self._tried = heard.rows
        is_awaited = begun.wakes_at is not None and begun.wakes_at <= begun.now
        is_new = heard.is_anything
        # Before the orders are read: what changes in between is seen next time.
        in_force = await book.in_force(connection, begun.now)
        is_due = is_awaited or bool(begun.set_by) or in_force != self._in_force
        if not (is_new or is_due or is_probe):
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
        orders = await book.orders(connection, begun.now)
        ask = partial(decide, now=begun.now, routes=routes, orders=orders, topology=self._topology)
        try:
            turn = ask(memory, heard.events)
        except Exception as error:
            around = None if heard.events else self._around(ask, memory, begun.now, error)
            if around is None:
                raise
            turn = around
        await book.write(connection, heard, self._memory, turn, begun.now, self._name)
        if turn.tellings or begun.set_by:
            bell = book.delivery_channel(self._schema)
            await connection.execute("SELECT pg_notify(%s, '')", (bell,))
        self._memory = turn.memory
        self._revision = begun.revision + 1
        self._in_force = in_force if routes is self._routes else None
        self._wake_at = turn.wake_at
        self._is_last = True
        _log(turn, heard)
        return is_new or is_probe

    def _around(
        self, ask: Callable[..., Turn], memory: Memory, now: datetime, error: Exception
    ) -> Turn | None:
        """Take a turn without the groups that fail by themselves; None where that is none."""
        until = now + _PUT_OFF
        found = {
            key: msgspec.structs.replace(memory.groups[key], wakes_at=until)
            for key in _failing(ask, memory, now)
        }
        if not found:
            return None
        turn = ask(replace(memory, groups={**memory.groups, **found}), [])
        # No event is to blame.
        self._narrowing.suspect = None
        self._meter.turn_failed()
        reason = f"it cannot be told, and is tried again: {type(error).__name__}: {error}"
        log.error("groups were put off", exc_info=error, extra={"groups": list(found)})
        said = [Said(None, key, "fault", "hold", reason, until) for key in found]
        return replace(turn, said=[*turn.said, *said])

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


def _failing(ask: Callable[..., Turn], memory: Memory, now: datetime) -> list[str]:
    """Return the groups that are due and that a turn of nothing else fails of."""
    due = {
        key: group
        for key, group in memory.groups.items()
        if group.wakes_at is not None and group.wakes_at <= now
    }
    tracks: dict[str, dict[UUID, Track]] = {key: {} for key in due}
    for alert_id, track in memory.tracks.items():
        for key in track.groups:
            if key in due:
                tracks[key][alert_id] = msgspec.structs.replace(track, groups=(key,))
    failing = []
    for key, group in due.items():
        pages = {alert_id: memory.pages[alert_id] for alert_id in tracks[key]}
        alone = Memory(tracks[key], pages, {key: group}, memory.shift)
        try:
            ask(alone, [])
        except Exception:  # noqa: BLE001 - that is the question
            failing.append(key)
    return failing


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

"""The one poller: it looks at the database once a second and tells every viewer.

The database sees one connection however many pages are open. Where it is away the poller tries
again with a growing pause, and the viewers are told since when what they see is stale.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import Final

import msgspec
import psycopg

from dashboards.console.frames import (
    RATE_WINDOW,
    Flow,
    Frame,
    encode_delta,
    encode_snapshot,
    event,
    rates,
)
from storage import queries
from storage.queries import Connection, Series

_log = logging.getLogger(__name__)

POLL_S: Final = 1.0
# Beyond the database's own statement timeout: for the network that swallows the answer.
POLL_TIMEOUT_S: Final = 20.0
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
MAX_VIEWERS: Final = 100
# Frames a slow viewer may lag behind; then it is cut off and comes back for a whole frame.
_MAX_LAG: Final = 8
# New series show at once; a sensor that moved is noticed after this many polls.
_LAYOUT_EVERY: Final = 60
# A flush may still add to the ledger's past minutes while the stream catches up.
_LEDGER_REACH: Final = timedelta(minutes=15)
_PAGES_REACH: Final = timedelta(hours=24)
# What RATE_WINDOW needs, with room to spare.
_MAX_FLOWS: Final = 60

_AWAY = (psycopg.Error, OSError, TimeoutError)

Viewer = asyncio.Queue[bytes | None]


class Feed:
    """Frames from the database, fanned out to viewers.

    Parameters
    ----------
    connect : coroutine function
        Opens a connection that works in the namespace's schema.
    clock : function
        Returns the time in UTC.
    namespace : str
        Shown on the page.
    tile_url : str, optional
        Template of the map's tiles.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        clock: Callable[[], datetime],
        namespace: str,
        tile_url: str | None,
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._namespace = namespace
        self._tile_url = tile_url
        self._frame: Frame | None = None
        self._snapshot: bytes | None = None
        self._series: set[int] = set()
        self._polls = 0
        self._flows: deque[Flow] = deque(maxlen=_MAX_FLOWS)
        self._viewers: set[Viewer] = set()
        self._closed = False
        self.stale_since: datetime | None = None

    @property
    def frame(self) -> Frame | None:
        """The newest frame; None before the first."""
        return self._frame

    @property
    def viewers(self) -> int:
        """How many are watching."""
        return len(self._viewers)

    def snapshot(self) -> bytes | None:
        """Return the newest frame whole, as JSON; None before the first."""
        if self._snapshot is None and self._frame is not None:
            self._snapshot = encode_snapshot(self._frame, self._namespace, self._tile_url)
        return self._snapshot

    def subscribe(self) -> Viewer | None:
        """Return a queue of events, a whole frame first; None where no more viewers fit.

        None in the queue ends it.
        """
        if self._closed or len(self._viewers) >= MAX_VIEWERS:
            return None
        viewer: Viewer = asyncio.Queue(_MAX_LAG)
        snapshot = self.snapshot()
        if snapshot is not None:
            viewer.put_nowait(event("snapshot", snapshot))
        if self.stale_since is not None:
            viewer.put_nowait(self._stale_event(self.stale_since))
        self._viewers.add(viewer)
        return viewer

    def unsubscribe(self, viewer: Viewer) -> None:
        """Forget a viewer."""
        self._viewers.discard(viewer)

    def close(self) -> None:
        """End every viewer's queue, and take no more."""
        self._closed = True
        for viewer in list(self._viewers):
            self._cut_off(viewer)

    async def run(self) -> None:
        """Poll until cancelled."""
        failures = 0
        try:
            while True:
                try:
                    async with await self._connect() as connection:
                        while True:
                            async with asyncio.timeout(POLL_TIMEOUT_S):
                                await self._poll(connection)
                            failures = 0
                            await asyncio.sleep(POLL_S)
                except _AWAY as error:
                    self._lost(error)
                pause = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
                failures += 1
                await asyncio.sleep(pause)
        finally:
            self.close()

    async def _poll(self, connection: Connection) -> None:
        now = self._clock()
        newest = {row.series_id: row for row in await queries.newest(connection)}
        layout = await self._layout(connection, newest.keys())
        stored_per_s, messages_per_s = await self._rates(connection, now)
        old, new = (
            self._frame,
            Frame(
                at=now,
                layout=layout,
                newest=newest,
                alerts=await queries.open_alerts(connection),
                counts=await queries.counts(connection, now - _PAGES_REACH),
                stored_per_s=stored_per_s,
                messages_per_s=messages_per_s,
            ),
        )
        if self.stale_since is not None:
            _log.info("the database is back", extra={"stale_since": self.stale_since})
        self._frame, self._snapshot, self.stale_since = new, None, None
        if not self._viewers:
            return
        if old is not None and old.layout is new.layout:
            self._tell(event("delta", encode_delta(old, new)))
        elif (snapshot := self.snapshot()) is not None:
            self._tell(event("snapshot", snapshot))

    async def _layout(self, connection: Connection, known: AbstractSet[int]) -> Sequence[Series]:
        """Return the series; the same object as before where nothing changed."""
        old = self._frame.layout if self._frame is not None else ()
        self._polls += 1
        if self._polls % _LAYOUT_EVERY and known <= self._series:
            return old
        layout = await queries.series(connection)
        self._series = {row.series_id for row in layout}
        return old if layout == old else layout

    async def _rates(
        self, connection: Connection, now: datetime
    ) -> tuple[float | None, float | None]:
        rows = await queries.ledger_minutes(connection, now - _LEDGER_REACH)
        flow = Flow(now, {row.minute: row for row in rows})
        while len(self._flows) > 1 and now - self._flows[1].at >= RATE_WINDOW:
            self._flows.popleft()
        old = self._flows[0] if self._flows else None
        self._flows.append(flow)
        return rates(old, flow) if old is not None else (None, None)

    def _lost(self, error: BaseException) -> None:
        self._flows.clear()  # a rate over the gap would be none
        if self.stale_since is not None:
            return
        self.stale_since = self._frame.at if self._frame is not None else self._clock()
        _log.warning("the database is away", extra={"error": str(error)})
        self._tell(self._stale_event(self.stale_since))

    @staticmethod
    def _stale_event(since: datetime) -> bytes:
        return event("stale", msgspec.json.encode({"since": since}))

    def _tell(self, data: bytes) -> None:
        for viewer in list(self._viewers):
            try:
                viewer.put_nowait(data)
            except asyncio.QueueFull:
                self._cut_off(viewer)

    def _cut_off(self, viewer: Viewer) -> None:
        self._viewers.discard(viewer)
        while not viewer.empty():
            viewer.get_nowait()
        viewer.put_nowait(None)

"""A hook's other end, for the demo and the tests: it keeps the notices that it got.

It does what every real receiver should: a notice that comes again under its `Idempotency-Key` is
the same notice, and is taken without being told twice.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from aiohttp import web

from paging.notices import Notice, NoticeError, decode_notice

# Twenty alerts, a KiB each at most, and what is around them; more is not a notice.
_MAX_BODY_BYTES: Final = 65_536
_MAX_KEY_CHARS: Final = 200
# Answers are immediate; whoever still waits for one at the end may be cut off.
_SHUTDOWN_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A notice and when it first came.

    Parameters
    ----------
    key : str
        Its `Idempotency-Key`.
    notice : Notice
    at : datetime
        By the receiver's clock.
    """

    key: str
    notice: Notice
    at: datetime


class Receiver:
    """Keeps the newest notices, one per key.

    Parameters
    ----------
    clock : callable
        Returns the time of arrival.
    limit : int
        Most notices kept; beyond it the oldest is forgotten, and its key with it.
    """

    def __init__(self, clock: Callable[[], datetime], limit: int = 10_000) -> None:
        self._clock = clock
        self._limit = limit
        self._arrivals: OrderedDict[str, Arrival] = OrderedDict()
        self._changed = asyncio.Condition()
        self.posts = 0
        self.repeats = 0

    @property
    def arrivals(self) -> tuple[Arrival, ...]:
        """The notices kept, in the order of their first coming."""
        return tuple(self._arrivals.values())

    def take(self, key: str, notice: Notice) -> bool:
        """Keep a notice; say whether it is new."""
        self.posts += 1
        if key in self._arrivals:
            self.repeats += 1
            return False
        self._arrivals[key] = Arrival(key, notice, self._clock())
        while len(self._arrivals) > self._limit:
            self._arrivals.popitem(last=False)
        return True

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one POST: 200 for a notice, new or not, and 400 for anything else."""
        key = request.headers.get("Idempotency-Key", "")
        if not 0 < len(key) <= _MAX_KEY_CHARS:
            return web.Response(status=400, text="expected an Idempotency-Key\n")
        try:
            notice = decode_notice(await request.read())
        except NoticeError as error:
            return web.Response(status=400, text=f"expected a notice: {error}\n")
        new = self.take(key, notice)
        async with self._changed:
            self._changed.notify_all()
        return web.json_response({"new": new})

    async def wait_for(self, condition: Callable[["Receiver"], bool]) -> None:
        """Return as soon as `condition` holds for this receiver."""
        async with self._changed:
            await self._changed.wait_for(lambda: condition(self))


@asynccontextmanager
async def serve(receiver: Receiver, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve a receiver and yield its URL; port 0 lets the system choose a free one."""
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_post("/pages", receiver.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0]
        yield f"http://{bound[0]}:{bound[1]}/pages"
    finally:
        await runner.cleanup()

"""A hook's other end, for the demo and the tests: it keeps the pages that it got.

It does what every real receiver should: a page that comes again under its `Idempotency-Key` is
the same page, and is taken without being told twice.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from aiohttp import web

from storage.pages import Page, PageError, decode_page

# A page is below 1 KiB; more is not one.
_MAX_BODY_BYTES: Final = 65_536
_MAX_KEY_CHARS: Final = 200
# Answers are immediate; whoever still waits for one at the end may be cut off.
_SHUTDOWN_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A page and when it first came.

    Parameters
    ----------
    key : str
        Its `Idempotency-Key`.
    page : Page
        The page.
    at : datetime
        By the receiver's clock.
    """

    key: str
    page: Page
    at: datetime


class Receiver:
    """Keeps the newest pages, one per key.

    Parameters
    ----------
    clock : callable
        Returns the time of arrival.
    limit : int
        Most pages kept; beyond it the oldest is forgotten, and its key with it.
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
        """The pages kept, in the order of their first coming."""
        return tuple(self._arrivals.values())

    def take(self, key: str, page: Page) -> bool:
        """Keep a page; say whether it is new."""
        self.posts += 1
        if key in self._arrivals:
            self.repeats += 1
            return False
        self._arrivals[key] = Arrival(key, page, self._clock())
        while len(self._arrivals) > self._limit:
            self._arrivals.popitem(last=False)
        return True

    async def handle(self, request: web.Request) -> web.Response:
        """Answer one POST: 200 for a page, new or not, and 400 for anything else."""
        key = request.headers.get("Idempotency-Key", "")
        if not 0 < len(key) <= _MAX_KEY_CHARS:
            return web.Response(status=400, text="expected an Idempotency-Key\n")
        try:
            page = decode_page(await request.read())
        except PageError as error:
            return web.Response(status=400, text=f"expected a page: {error}\n")
        new = self.take(key, page)
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

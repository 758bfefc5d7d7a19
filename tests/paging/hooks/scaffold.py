"""The other side of a hook: receivers on real sockets, and every HTTP hook alike."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aiohttp import web

from paging.hooks import Notifier, NotTold
from paging.hooks.kinds import KINDS
from paging.notices import Counts, Listed, Notice, delivery_key

AT = datetime(2025, 3, 4, 14, 3, 20, tzinfo=UTC)
GROUP = "5f0c4a52-2f8e-5c0e-9a43-0a4c9a3f6f01"
KEY = delivery_key(GROUP, 1, 1, "the-hook")
# Of 32 letters and digits, so that it is good as an integration key as well.
SECRET = "T0KENnobodyMaySee0123456789abcde"
SIGNING_KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def listed(number: int, **changes: Any) -> Listed:
    facts: dict[str, Any] = {
        "alert_id": UUID(int=number),
        "sensor": f"traffic-{number:04}",
        "quantity": "averageVehicleSpeed",
        "kind": "anomaly",
        "severity": "major",
        "state": "open",
        "since": AT,
        "sentence": "averageVehicleSpeed of traffic-0042 is 8.1 km/h, 48 ± 9 expected",
        "longitude": 2.17,
        "latitude": 41.38,
        "link": f"https://citywatch.example/alerts/{UUID(int=number)}",
    }
    return Listed(**facts | changes)


def notice_of(**changes: Any) -> Notice:
    facts: dict[str, Any] = {
        "group": GROUP,
        "event": "trigger",
        "at": AT,
        "cause_name": "harbour",
        "severity": "major",
        "category": "city",
        "kind": "anomaly",
        "zone": "harbour",
        "title": "harbour: 2 alerts (anomaly), first: traffic-0042 is slow",
        "text": "told after 30 s\naverageVehicleSpeed of traffic-0042 is 8.1 km/h",
        "labels": {"zone": "harbour", "kind": "anomaly", "route": "traffic"},
        "alerts": (listed(1), listed(2)),
        "counts": Counts(open=2),
        "since": AT,
        "link": f"https://citywatch.example/groups/{GROUP}",
        "policy": "roads",
    }
    if changes.get("event") == "resolve":
        facts["ended_at"] = AT
    return Notice(**facts | changes)


@dataclass(frozen=True)
class HttpHook:
    """One hook that speaks HTTP, with a secret of it in whatever place its kind has for one."""

    kind: str
    options: Callable[[str], Mapping[str, Any]]
    environment: Callable[[str], Mapping[str, str]]

    def opened(self, base: str, **more: Any) -> AbstractAsyncContextManager[Notifier]:
        kind = KINDS[self.kind]
        return kind.open(kind.read({**self.options(base), **more}), self.environment(base))


HTTP_HOOKS = (
    HttpHook(
        "webhook",
        lambda _: {"url": {"env": "HOOK_URL"}, "keys": [{"env": "HOOK_KEY"}]},
        lambda base: {"HOOK_URL": f"{base}/hook/{SECRET}", "HOOK_KEY": SIGNING_KEY},
    ),
    HttpHook(
        "pagerduty",
        lambda base: {"routing_key": {"env": "ROUTING_KEY"}, "endpoint": f"{base}/v2/enqueue"},
        lambda _: {"ROUTING_KEY": SECRET},
    ),
    HttpHook(
        "alertmanager",
        lambda _: {"url": {"env": "URL"}},
        lambda base: {"URL": base.replace("://", f"://pager:{SECRET}@")},
    ),
)


async def attempt(notifier: Notifier, notice: Notice | None = None) -> NotTold | None:
    """Send a notice once and return the fault, if any."""
    try:
        await notifier.send(notice or notice_of(), KEY)
    except NotTold as fault:
        return fault
    return None


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def respond(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=named)

    return respond


@asynccontextmanager
async def served(respond: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve HTTP at every path and yield the URL without a path."""
    app = web.Application(client_max_size=2**20)
    app.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        yield f"{'https' if context else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def spoken(talk: Talk) -> AsyncIterator[str]:
    """Serve TCP, whatever is said on it, and yield the URL without a path."""
    talks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await talk(reader, writer)
        except ConnectionError:
            pass
        finally:
            talks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in tuple(talks):
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)

"""A pager whose hooks all have a bad day at once, each in its own way, and one has a good one."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from itertools import pairwise
from uuid import uuid4

import msgspec
import pytest
from aiohttp import web

from paging.hooks.kinds import KINDS
from paging.notices import decode_notice
from paging.pager import Pager, PagerConfig
from paging.routes import read_routes
from paging.sender import SenderConfig
from tests.paging.hooks.pagerduty_service import Service
from tests.paging.hooks.scaffold import SECRET, SIGNING_KEY, Answer, answer
from tests.paging.scaffold import Table, eventually, page_of, resolution_of, running

pytestmark = pytest.mark.integration

PAGES = 10
WEBHOOK = """
[hook.{name}]
type = "webhook"
url = "{url}/{name}"
keys = [{{ env = "HOOK_KEY" }}]
timeout_s = {timeout_s}
per_minute = 100000
"""
OTHERS = """
[hook.pagerduty]
type = "pagerduty"
routing_key = {{ env = "ROUTING_KEY" }}
endpoint = "{url}/v2/enqueue"
timeout_s = 20
per_minute = 100000

[hook.chat]
type = "notify"
url = {{ env = "CHAT_URL" }}
per_minute = 100000
events = ["trigger", "resolve"]

[policy.all]
steps = [{{ to = {targets} }}]

[[route]]
name = "all"
policy = "all"
group_by = ["sensor"]
group_wait = "0s"
"""


async def hang(_request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    return web.Response()


async def hang_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


BAD: dict[str, Answer] = {
    "failing": answer(500),
    "limiting": answer(429, Retry_After="1"),
    "unavailable": answer(503, Retry_After="1"),
    "hanging": hang,
    "closing": hang_up,
    # These have taken the notice, and cannot say so.
    "heard-failing": answer(500),
    "heard-limiting": answer(429, Retry_After="1"),
    "heard-hanging": hang,
    "heard-closing": hang_up,
    "chat": answer(502),
    # Its own limit of a minute counts these attempts, too.
    "pagerduty": answer(429, Retry_After="3"),
}


class FarSide:
    """Everybody who is told, until they are well and from then on."""

    def __init__(self) -> None:
        self.well = False
        self.service = Service(limit=1000)
        self.asked: Counter[str] = Counter()
        self.told: dict[str, list[tuple[str, str, int]]] = {}
        # Of each key what came under it, and when it was asked to wait and was tried.
        self.bodies: dict[str, set[bytes]] = {}
        self.tried: dict[str, list[float]] = {}
        self.chat: Counter[str] = Counter()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        name = {"/v2/enqueue": "pagerduty"}.get(request.path, request.path.strip("/"))
        self.asked[name] += 1
        if name not in {"pagerduty", "chat"}:
            key = request.headers["webhook-id"]
            self.tried.setdefault(key, []).append(asyncio.get_running_loop().time())
            self.bodies.setdefault(key, set()).add(await request.read())
        if not self.well and name in BAD:
            if name.startswith("heard-"):
                self._take(name, await request.read(), key)
            return await BAD[name](request)
        if name == "pagerduty":
            return await self.service.handle(request)
        if name == "chat":
            self.chat[(await request.json())["title"]] += 1
            return web.Response()
        self._take(name, await request.read(), key)
        return web.Response()

    def _take(self, name: str, body: bytes, key: str) -> None:
        """Take a notice as receivers should: one key is one notice."""
        notice = decode_notice(body)
        came = (key, notice.group, notice.revision)
        told = self.told.setdefault(name, [])
        # Also one that hung may be asked again when it is well: a busy machine answers late.
        if not (name.startswith("heard-") or name == "hanging") or came not in told:
            told.append(came)


@asynccontextmanager
async def listening(handle: Answer, taken: socket.socket) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.SockSite(runner, taken).start()
        yield
    finally:
        await runner.cleanup()


def pager_to(table: Table, url: str, away: str) -> Pager:
    webhooks = ["good", *(name for name in BAD if name not in {"chat", "pagerduty"})]
    targets = msgspec.json.encode(
        [f"hook:{name}" for name in (*webhooks, "away", *("pagerduty", "chat"))]
    )
    # A busy machine is no reason to try one again that does answer.
    text = "".join(
        WEBHOOK.format(name=name, url=url, timeout_s=0.3 if "hanging" in name else 20)
        for name in webhooks
    )
    text += WEBHOOK.format(name="away", url=away, timeout_s=20)
    routes = read_routes(text + OTHERS.format(url=url, targets=targets.decode()), KINDS)
    return Pager(
        table.dsn,
        table.schema,
        "live",
        PagerConfig(
            routes=routes,
            sender=SenderConfig(poll_interval_s=0.05, backoff_base_s=0.05, backoff_cap_s=0.2),
        ),
        environment={
            "HOOK_KEY": SIGNING_KEY,
            "ROUTING_KEY": SECRET,
            "CHAT_URL": f"{url.replace('http://', 'json://')}/chat",
        },
    )


def in_state(table: Table, hook: str, condition: str, count: int) -> Callable[[], bool]:
    return lambda: table.count(f"hook = '{hook}' AND {condition}") == count


def test_nothing_is_lost_or_doubled_and_the_good_hook_waits_for_nobody(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("http_proxy", raising=False)
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    pages = [
        page_of(sensor=f"traffic-{uuid4()}", sentence=f"page {number} is here")
        for number in range(PAGES)
    ]
    overs = [resolution_of(page) for page in pages]
    far = FarSide()

    async def days(stack: ExitStack) -> None:
        ports = [stack.enter_context(socket.socket()) for _ in range(2)]
        for port in ports:
            port.bind(("127.0.0.1", 0))
        here, away = (f"http://127.0.0.1:{port.getsockname()[1]}" for port in ports)
        async with listening(far.handle, ports[0]), AsyncExitStack() as later:
            table.put(*pages)
            async with running(pager_to(table, here, away)):
                # While all others are at their worst, the good one hears everything.
                await eventually(in_state(table, "good", "delivered_at IS NOT NULL", PAGES))
                table.put(*overs)
                await eventually(in_state(table, "good", "delivered_at IS NOT NULL", 2 * PAGES))
                for name in (*BAD, "away"):
                    failed = in_state(
                        table, name, "event = 'trigger' AND last_error IS NOT NULL", PAGES
                    )
                    await eventually(failed)
                assert table.count("hook <> 'good' AND delivered_at IS NOT NULL") == 0
                assert table.count("abandoned_at IS NOT NULL") == 0

                far.well = True
                await later.enter_async_context(listening(far.handle, ports[1]))
                await eventually(lambda: table.count("delivered_at IS NULL") == 0)

    async def main(stack: ExitStack) -> None:
        async with asyncio.timeout(60):
            await days(stack)

    with ExitStack() as stack:
        asyncio.run(main(stack))

    # The good one was told at once, and the ones that asked for a second have had it.
    assert table.count("hook = 'good' AND attempts = 1") == 2 * PAGES
    for row in table.execute(
        "SELECT key, attempts, event FROM delivery WHERE hook LIKE '%%limiting'"
    ):
        tries = far.tried[row["key"]]
        assert len(tries) <= row["attempts"]
        assert len(tries) > 1 or row["event"] == "resolve"
        assert all(later - earlier >= 1 for earlier, later in pairwise(tries))
    heard = [key for key, tries in far.tried.items() if len(tries) > 1 and "/heard-" in key]
    assert len(heard) >= 4 * PAGES
    assert {len(bodies) for bodies in far.bodies.values()} == {1}, "a key is one notice"

    hooks = [name for name in (*BAD, "good", "away") if name not in {"chat", "pagerduty"}]
    assert sorted(far.told) == sorted(hooks)
    for name in hooks:
        # Under each key once, of each group its beginning and then its end.
        keys = [key for key, _, _ in far.told[name]]
        assert len(keys) == len(set(keys)) == 2 * PAGES
        groups = {group for _, group, _ in far.told[name]}
        assert len(groups) == PAGES
        for group in groups:
            revisions = [revision for _, one, revision in far.told[name] if one == group]
            assert revisions == sorted(revisions)
    assert set(far.service.opened.values()) == {1}
    assert len(far.service.opened) == PAGES
    assert set(far.service.states.values()) == {"resolved"}
    assert len(far.chat) == 2 * PAGES
    assert set(far.chat.values()) == {1}
    for row in table.execute(
        "SELECT DISTINCT last_error FROM delivery WHERE last_error IS NOT NULL"
    ):
        assert SECRET not in row["last_error"]
        assert "http:" not in row["last_error"]

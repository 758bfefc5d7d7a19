"""What every hook that speaks HTTP must do, whatever the other side does."""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from paging.hooks import NotTold, Refused, Retry, SecretError
from tests.paging.hooks.scaffold import (
    HTTP_HOOKS,
    SECRET,
    Answer,
    HttpHook,
    Talk,
    answer,
    attempt,
    served,
    spoken,
)

pytestmark = [
    pytest.mark.parametrize("hook", HTTP_HOOKS, ids=lambda hook: hook.kind),
    pytest.mark.usefixtures("_nothing_secret_is_logged"),
]


def asked(
    hook: HttpHook, server: AbstractAsyncContextManager[str], **more: object
) -> NotTold | None:
    """Send a notice to a server and return the fault, if any, in which nothing is secret."""

    async def once() -> NotTold | None:
        async with server as base, hook.opened(base, **more) as notifier:
            return await attempt(notifier)

    return without_secret(asyncio.run(once()))


def told_to(hook: HttpHook, respond: Answer) -> NotTold | None:
    return asked(hook, served(respond))


def spoken_to(hook: HttpHook, talk: Talk) -> NotTold | None:
    return asked(hook, spoken(talk))


def without_secret(fault: NotTold | None) -> NotTold | None:
    if fault is not None:
        assert SECRET not in f"{fault!r} {fault}"
        # What it came from quotes URLs, and a traceback shows it unless it is suppressed.
        assert fault.__cause__ is None
        assert fault.__suppress_context__ or fault.__context__ is None
        assert "http" not in fault.reason.lower().replace("clienthttp", "")
    return fault


async def heard(reader: asyncio.StreamReader) -> None:
    """Read the head of a request, and what has come of its body."""
    await reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize("status", [200, 202, 204])
def test_2xx_is_told(hook: HttpHook, status: int) -> None:
    assert told_to(hook, answer(status)) is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 422])
def test_what_will_never_be_taken_is_refused(hook: HttpHook, status: int) -> None:
    fault = told_to(hook, answer(status, b"no"))
    assert isinstance(fault, Refused)
    assert fault.reason == f"127.0.0.1: answered with status {status}"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(hook: HttpHook, status: int) -> None:
    fault = told_to(hook, answer(status, b"later"))
    assert isinstance(fault, Retry)
    assert fault.reason == f"127.0.0.1: answered with status {status}"


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("asked", "wait_s"), [("7", 7.0), ("86400", 900.0)])
def test_retry_after_in_seconds_is_honoured_within_bounds(
    hook: HttpHook, status: int, asked: str, wait_s: float
) -> None:
    fault = told_to(hook, answer(status, Retry_After=asked))
    assert isinstance(fault, Retry)
    assert fault.after_s == wait_s


@pytest.mark.parametrize(
    ("in_s", "least", "most"), [(120, 90, 120), (-60, 0, 0), (86_400, 900, 900)]
)
def test_retry_after_as_a_date_is_honoured_within_bounds(
    hook: HttpHook, in_s: float, least: float, most: float
) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=in_s)
    fault = told_to(hook, answer(429, Retry_After=format_datetime(moment, usegmt=True)))
    assert isinstance(fault, Retry)
    assert fault.after_s is not None
    assert least <= fault.after_s <= most


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(hook: HttpHook, status: int) -> None:
    elsewhere: list[web.Request] = []

    async def take(request: web.Request) -> web.Response:
        elsewhere.append(request)
        return web.Response()

    async def once() -> NotTold | None:
        async with (
            served(take) as other,
            served(answer(status, Location=f"{other}/elsewhere")) as base,
            hook.opened(base) as notifier,
        ):
            return await attempt(notifier)

    assert isinstance(without_secret(asyncio.run(once())), Refused)
    assert not elsewhere


def test_it_says_who_it_is_and_what_it_brings(hook: HttpHook) -> None:
    seen: list[web.Request] = []

    async def look(request: web.Request) -> web.Response:
        seen.append(request)
        await request.read()
        return web.Response()

    assert told_to(hook, look) is None
    assert seen[0].method == "POST"
    assert seen[0].headers["User-Agent"].startswith("citywatch-pager/")
    assert seen[0].headers["Content-Type"] == "application/json"
    assert "Cookie" not in seen[0].headers


def test_cookies_are_not_kept(hook: HttpHook) -> None:
    seen: list[str | None] = []

    async def look(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": "session=1; Path=/"})

    async def twice() -> None:
        async with (
            served(look) as base,
            # Cookies of bare addresses are kept by nobody.
            hook.opened(base.replace("127.0.0.1", "localhost")) as notifier,
        ):
            await attempt(notifier)
            await attempt(notifier)

    asyncio.run(twice())
    assert seen == [None, None]


def test_an_attempt_that_is_cancelled_leaves_no_socket_open(hook: HttpHook) -> None:
    async def once() -> None:
        closed = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            while await reader.read(65_536):
                pass
            closed.set()

        async with spoken(hang) as base, hook.opened(base) as notifier:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await attempt(notifier)
            # The notifier is open still: it is the attempt that let go of the socket.
            async with asyncio.timeout(5):
                await closed.wait()

    asyncio.run(once())


def test_no_connection_is_kept_for_later(hook: HttpHook) -> None:
    """What died while it lay idle would cost the next notice an attempt."""

    async def twice() -> list[NotTold | None]:
        async def hang_up_after_one(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            await heard(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n")
            await writer.drain()
            # The next request of this connection, if there is one, is never answered.
            while await reader.read(65_536):
                pass

        async with spoken(hang_up_after_one) as base, hook.opened(base) as notifier:
            async with asyncio.timeout(5):
                return [await attempt(notifier) for _ in range(2)]

    assert asyncio.run(twice()) == [None, None]


def test_a_name_that_nobody_answers_for_holds_up_no_other_hook(
    hook: HttpHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[str] = []
    started, release = threading.Event(), threading.Event()
    look_up = socket.getaddrinfo

    def slow(host: str, *arguments: Any, **more: Any) -> Any:
        if host == "dead.example":
            asked_for.append(host)
            started.set()
            assert release.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return look_up(host, *arguments, **more)

    async def life() -> tuple[NotTold | None, int]:
        async with (
            served(answer(200)) as base,
            hook.opened("https://dead.example") as dead,
            hook.opened(base.replace("127.0.0.1", "localhost")) as alive,
        ):
            # More than the threads that look names up.
            hanging = [asyncio.create_task(attempt(dead)) for _ in range(64)]
            try:
                async with asyncio.timeout(10):
                    await asyncio.to_thread(started.wait)
                    fault = await attempt(alive)
                    return fault, len(asked_for)
            finally:
                release.set()
                await asyncio.gather(*hanging)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    assert asyncio.run(life()) == (None, 1)


def test_one_that_hangs_does_not_hold_up_the_next(hook: HttpHook) -> None:
    async def once() -> NotTold | None:
        first = asyncio.Event()

        async def hang_once(_request: web.Request) -> web.Response:
            if not first.is_set():
                first.set()
                await asyncio.Event().wait()
            return web.Response()

        async with served(hang_once) as base, hook.opened(base) as notifier:
            hanging = asyncio.create_task(attempt(notifier))
            await first.wait()
            fault = await attempt(notifier)
            assert not hanging.done()
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)
            return fault

    assert asyncio.run(once()) is None


def test_one_that_closes_at_once_is_tried_again(hook: HttpHook) -> None:
    async def close(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        pass

    assert isinstance(spoken_to(hook, close), Retry)


def test_one_that_closes_within_its_head_is_tried_again(hook: HttpHook) -> None:
    async def stop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
        await writer.drain()

    assert isinstance(spoken_to(hook, stop), Retry)


def test_one_that_closes_within_its_body_has_said_enough(hook: HttpHook) -> None:
    async def stop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()

    assert spoken_to(hook, stop) is None


@pytest.mark.parametrize(
    "head",
    [b"220 mail ready\r\n\r\n", b"\x16\x03\x01\x00\xff\r\n\r\n", b"HTTP/1.1 200\xff\r\n\r\n"],
)
def test_one_that_speaks_no_http_is_tried_again(hook: HttpHook, head: bytes) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(head)
        await writer.drain()

    assert isinstance(spoken_to(hook, babble), Retry)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n", type(None)),
        (b"HTTP/1.1 200 OK\r\nX-Endless: ", Retry),
    ],
    ids=["body", "header"],
)
def test_an_endless_answer_is_not_read(hook: HttpHook, head: bytes, expected: type) -> None:
    written = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await heard(reader)
        writer.write(head)
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()
            written += 65_536

    assert isinstance(spoken_to(hook, flood), expected)
    # What the sockets hold, not what it would send.
    assert written < 32 * 2**20


@pytest.mark.parametrize(("status", "expected"), [(200, type(None)), (400, Refused), (500, Retry)])
def test_an_answer_that_is_no_text_does_no_harm(
    hook: HttpHook, status: int, expected: type
) -> None:
    body = bytes(range(128, 256))
    garbled = answer(status, body, Content_Type="application/json; charset=utf-8")
    assert isinstance(told_to(hook, garbled), expected)


def test_one_that_is_away_is_tried_again(hook: HttpHook) -> None:
    async def once(base: str) -> NotTold | None:
        async with hook.opened(base) as notifier:
            return await attempt(notifier)

    # Bound and not listening: the port is taken, and connections to it are refused.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        fault = without_secret(asyncio.run(once(f"http://127.0.0.1:{taken.getsockname()[1]}")))
    assert isinstance(fault, Retry)
    assert "ClientConnectorError" in fault.reason


def test_proxies_of_the_environment_are_not_used(
    hook: HttpHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxied = 0

    async def proxy(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal proxied
        proxied += 1

    @asynccontextmanager
    async def beside_a_proxy() -> AsyncIterator[str]:
        async with spoken(proxy) as other, served(answer(200)) as base:
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, other)
                monkeypatch.setenv(name.lower(), other)
            yield base

    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert asked(hook, beside_a_proxy()) is None
    assert proxied == 0


def test_proxies_of_the_environment_are_used_where_the_hook_says_so(
    hook: HttpHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def proxy(request: web.Request) -> web.Response:
        seen.append(request.raw_path)
        return web.Response()

    @asynccontextmanager
    async def behind_a_proxy() -> AsyncIterator[str]:
        async with served(proxy) as other:
            monkeypatch.setenv("http_proxy", other)
            yield "http://localhost:9"

    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert asked(hook, behind_a_proxy(), proxies=True) is None
    assert len(seen) == 1
    assert seen[0].startswith("http://localhost:9/")


def tls(name: str) -> tuple[trustme.CA, ssl.SSLContext]:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return authority, context


@pytest.mark.parametrize("name", ["127.0.0.1", "elsewhere.example"])
def test_a_certificate_of_nobody_is_not_trusted(hook: HttpHook, name: str) -> None:
    seen: list[web.Request] = []

    async def take(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response()

    fault = asked(hook, served(take, tls(name)[1]))
    assert isinstance(fault, Retry)
    assert "Certificate" in fault.reason
    assert not seen


@pytest.mark.parametrize(
    ("name", "expected"), [("127.0.0.1", type(None)), ("elsewhere.example", Retry)]
)
def test_an_authority_of_ones_own_is_trusted_for_its_names(
    hook: HttpHook, name: str, expected: type, tmp_path: Path
) -> None:
    authority, context = tls(name)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))

    fault = asked(hook, served(answer(200), context), ca_file=str(ca_file))
    assert isinstance(fault, expected)


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_authorities_that_are_not_to_be_had_are_named(
    hook: HttpHook, text: str | None, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.pem"
    if text is not None:
        ca_file.write_text(text)

    with pytest.raises(SecretError, match=r"ca\.pem"):
        asked(hook, nullcontext("http://127.0.0.1:9"), ca_file=str(ca_file))


def test_authorities_in_a_pipe_are_refused(hook: HttpHook, tmp_path: Path) -> None:
    pipe = tmp_path / "ca.pem"
    os.mkfifo(pipe)
    with pytest.raises(SecretError, match=r"ca\.pem: no certificates \(OSError \(no regular file"):
        asked(hook, nullcontext("http://127.0.0.1:9"), ca_file=str(pipe))


def test_a_secret_on_a_disk_that_hangs_is_named_in_time(
    hook: HttpHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No loop waits for it; that a mount hangs is stood in for by a read that does."""
    may_read = threading.Event()

    def hang(_path: Path, _most: int) -> bytes:
        may_read.wait()
        return b""

    monkeypatch.setattr("paging.hooks.read_file", hang)
    monkeypatch.setattr("paging.hooks.READ_S", 0.1)
    url = {"routing_key" if hook.kind == "pagerduty" else "url": {"file": "/mnt/key"}}
    try:
        with pytest.raises(SecretError, match=r"^/mnt/key: not read within 0\.1 s$"):
            asked(hook, nullcontext("http://127.0.0.1:9"), **url)
    finally:
        may_read.set()


def test_a_secret_that_is_missing_is_named_when_it_is_opened(hook: HttpHook) -> None:
    bare = HttpHook(hook.kind, hook.options, lambda _: {})
    with pytest.raises(SecretError, match="the environment's"):
        asked(bare, nullcontext("http://127.0.0.1:9"))

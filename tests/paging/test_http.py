import asyncio
import logging
import socket
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from paging.hooks import NotTold, Refused, Retry
from paging.hooks.http import Poster, checked_url, retry_after_s
from paging.hooks.webhook import Webhook
from paging.notices import decode_notice
from tests.paging.scaffold import Answer, Hook, answer, hooked, notice_of

NOW = datetime(2025, 3, 4, 14, 0, tzinfo=UTC)
SECRET = "T0KEN-nobody-may-see"


def send(url: str, *, timeout_s: float = 2.0) -> NotTold | None:
    """Send one notice and return the fault, if any."""
    return asyncio.run(sent(url, timeout_s))


async def sent(url: str, timeout_s: float = 2.0) -> NotTold | None:
    async with Poster(timeout_s=timeout_s, clock=lambda: NOW) as poster:
        try:
            await Webhook(checked_url(url), poster).send(notice_of(), "a-group/1/1/webhook")
        except NotTold as fault:
            return fault
        return None


def send_to(*script: Answer, timeout_s: float = 2.0, path: str = "") -> tuple[NotTold | None, Hook]:
    async def once() -> tuple[NotTold | None, Hook]:
        async with hooked() as (hook, url):
            hook.script.extend(script)
            return await sent(url + path, timeout_s), hook

    return asyncio.run(once())


def test_a_notice_is_posted_with_its_key() -> None:
    seen: dict[str, Any] = {}

    async def look(request: web.Request) -> web.Response:
        seen.update(request.headers, body=await request.read(), method=request.method)
        return web.Response(status=202)

    fault, _ = send_to(look)
    assert fault is None
    assert seen["method"] == "POST"
    assert seen["Idempotency-Key"] == "a-group/1/1/webhook"
    assert seen["Content-Type"] == "application/json"
    assert seen["User-Agent"].startswith("citywatch-pager/")
    assert decode_notice(seen["body"]) == notice_of()


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_2xx_is_told(status: int) -> None:
    assert send_to(answer(status))[0] is None


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
def test_what_may_pass_is_tried_again(status: int) -> None:
    fault, _ = send_to(answer(status))
    assert isinstance(fault, Retry)
    assert fault.after_s is None
    assert fault.reason == f"127.0.0.1: answered with status {status}"
    assert fault.may_have_come is (status >= 500)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 422])
def test_other_4xx_are_refused(status: int) -> None:
    fault, _ = send_to(answer(status))
    assert isinstance(fault, Refused)
    assert fault.reason == f"127.0.0.1: answered with status {status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    fault, hook = send_to(answer(status, Location="/pages"))
    assert isinstance(fault, Refused)
    assert len(hook.keys) == 1


def test_the_receiver_may_ask_for_patience() -> None:
    fault, _ = send_to(answer(429, Retry_After="7"))
    assert fault.after_s == 7
    fault, _ = send_to(answer(503, Retry_After="Tue, 04 Mar 2025 14:02:00 GMT"))
    assert fault.after_s == 120


def test_a_receiver_that_hangs_is_given_up() -> None:
    async def hang(request: web.Request) -> web.Response:
        while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return web.Response()

    fault, _ = send_to(hang, timeout_s=0.2)
    assert isinstance(fault, Retry)
    assert fault.reason == "127.0.0.1: no answer within 0.2 s"
    assert fault.may_have_come


def test_a_receiver_that_hangs_up_is_tried_again() -> None:
    async def hang_up(request: web.Request) -> web.Response:
        request.transport.abort()
        return web.Response()

    fault, _ = send_to(hang_up)
    assert isinstance(fault, Retry)
    assert fault.may_have_come


def test_a_receiver_that_is_away_is_tried_again() -> None:
    # Bound and not listening: the port is taken, and connections to it are refused.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        fault = send(f"http://127.0.0.1:{taken.getsockname()[1]}/{SECRET}")
    assert isinstance(fault, Retry)
    assert "ClientConnectorError" in fault.reason
    assert not fault.may_have_come


def test_a_receiver_that_speaks_no_http_is_tried_again() -> None:
    async def once() -> NotTold | None:
        async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail ready\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            return await sent(f"http://127.0.0.1:{port}/{SECRET}")

    fault = asyncio.run(once())
    assert isinstance(fault, Retry)
    assert SECRET not in fault.reason
    assert fault.__suppress_context__


def test_the_secret_in_the_url_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    faults = [
        send_to(answer(500), path=f"?token={SECRET}")[0],
        send_to(answer(404), path=f"?token={SECRET}")[0],
        send_to(answer(302, Location="/"), path=f"?token={SECRET}")[0],
        send(f"http://user:{SECRET}@127.0.0.1:1/{SECRET}"),
    ]
    assert all(isinstance(fault, NotTold) for fault in faults)
    assert SECRET not in " ".join(f"{fault!r} {fault}" for fault in faults)
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "url", ["", f"ftp://host/{SECRET}", f"host/{SECRET}", f"http:///{SECRET}", f"http://[{SECRET}"]
)
def test_what_is_no_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="http://") as caught:
        checked_url(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, None),
        ("0", 0.0),
        (" 30 ", 30.0),
        ("86400", 900.0),
        ("9" * 5000, 900.0),
        ("-1", None),
        ("soon", None),
        ("1.5", None),
        ("٣", None),
        ("Tue, 04 Mar 2025 14:00:30 GMT", 30.0),
        ("Tue, 04 Mar 2025 14:00:30 -0000", 30.0),
        ("Tue, 04 Mar 2025 13:00:00 GMT", 0.0),
        ("Wed, 05 Mar 2025 14:00:00 GMT", 900.0),
        ("Tue, 99999999999 Mar 2025 14:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 900.0),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
    ],
)
def test_retry_after_is_read_within_bounds(header: str | None, wait_s: float | None) -> None:
    assert retry_after_s(header, NOW) == wait_s


@given(st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ [\d:]+ \S+"))
def test_no_retry_after_does_harm(header: str) -> None:
    wait_s = retry_after_s(header, NOW)
    assert wait_s is None or 0 <= wait_s <= 900

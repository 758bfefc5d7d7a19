"""Chat and mail that come to real receivers, and texts as long as a lock screen or an SMS."""

import asyncio
import email
import email.policy
import ssl
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session
from hypothesis import given
from hypothesis import strategies as st

from paging.hooks import Notifier, NotTold, Refused, Retry, SecretError
from paging.hooks.kinds import KINDS
from paging.hooks.notify import MAX_THREADS, text_of
from paging.notices import Notice, Recipient
from tests.paging.hooks.scaffold import GROUP, SECRET, answer, attempt, notice_of, served, spoken

LINK = f"https://citywatch.example/groups/{GROUP}"


pytestmark = pytest.mark.usefixtures("_nothing_secret_is_logged")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def opened(url: str, **options: Any) -> AbstractAsyncContextManager[Notifier]:
    kind = KINDS["notify"]
    return kind.open(kind.read({"url": {"env": "URL"}} | options), {"URL": url})


def chat(base: str) -> str:
    """Return Apprise's URL of a service that takes JSON."""
    return f"{base.replace('http://', 'json://')}/hooks/{SECRET}"


def told_to(
    server: AbstractAsyncContextManager[str], notice: Notice | None = None, **options: Any
) -> NotTold | None:
    async def once() -> NotTold | None:
        async with server as base, opened(chat(base), **options) as notifier:
            return await attempt(notifier, notice)

    fault = asyncio.run(once())
    if fault is not None:
        assert SECRET not in f"{fault!r} {fault}"
        assert "127.0.0.1" not in fault.reason
    return fault


class Box:
    """A mailbox: what aiosmtpd asks its handler for."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], EmailMessage]] = []

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails.append((envelope.rcpt_tos, mail))
        return "250 OK"


class FullBox(Box):
    async def handle_DATA(self, _server: SMTP, _session: Session, _envelope: Envelope) -> str:  # noqa: N802
        return "452 insufficient system storage"


@asynccontextmanager
async def mail_server(box: Box, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve SMTP on a real socket, with STARTTLS where there is a context; yield the port."""

    def protocol() -> SMTP:
        return SMTP(box, hostname="mail.test", tls_context=context, require_starttls=bool(context))

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def mailed(
    url: str, box: Box, context: ssl.SSLContext | None = None, **changes: Any
) -> NotTold | None:
    async def once() -> NotTold | None:
        async with (
            mail_server(box, context) as port,
            opened(url.format(port=port, to="{to}")) as notifier,
        ):
            return await attempt(notifier, notice_of(**changes))

    return asyncio.run(once())


def test_chat_gets_title_and_text() -> None:
    seen: list[tuple[Mapping[str, str], dict[str, Any]]] = []

    async def look(request: web.Request) -> web.Response:
        seen.append((request.headers, await request.json()))
        return web.Response()

    # The server answers in this very loop: if sending held it up, nothing would ever come.
    assert told_to(served(look), notice_of(severity="critical")) is None
    headers, message = seen[0]
    assert headers["User-Agent"] == "Citywatch"
    assert message["title"] == notice_of().title
    assert message["type"] == "failure"
    assert message["message"].splitlines()[0] == "told after 30 s"
    assert message["message"].splitlines()[-2:] == [
        "critical, harbour, since 2025-03-04 14:03 UTC",
        LINK,
    ]


@pytest.mark.parametrize(
    ("changes", "title", "kind"),
    [
        ({"event": "acknowledge", "actor": "anna"}, "anna has it: x", "info"),
        ({"event": "acknowledge"}, "Somebody has it: x", "info"),
        ({"event": "update"}, "More of it: x", "warning"),
        ({"step": 2}, "Nobody has it yet, step 2: x", "warning"),
        ({"event": "resolve", "title": "Over: x"}, "Over: x", "success"),
        ({"severity": "informational"}, "x", "info"),
    ],
)
def test_the_title_says_what_has_happened(changes: dict[str, Any], title: str, kind: str) -> None:
    seen: list[dict[str, Any]] = []

    async def look(request: web.Request) -> web.Response:
        seen.append(await request.json())
        return web.Response()

    assert told_to(served(look), notice_of(**{"title": "x"} | changes)) is None
    assert (seen[0]["title"], seen[0]["type"]) == (title, kind)


def test_mail_comes_to_whoever_it_is_for() -> None:
    box = Box()
    anna = Recipient(name="anna", address="anna+night@citywatch.example")
    url = "mailto://127.0.0.1:{port}?from=pager@citywatch.example&to={to}"
    assert mailed(url, box, to=anna, title="Straße 5: „langsam“") is None
    [(recipients, mail)] = box.mails
    assert recipients == ["anna+night@citywatch.example"]
    assert mail["Subject"] == "Straße 5: „langsam“"
    assert "pager@citywatch.example" in mail["From"]
    text = mail.get_body(("plain",))
    assert text is not None
    assert "averageVehicleSpeed of traffic-0042 is 8.1 km/h" in text.get_content()
    assert LINK in text.get_content()


def test_mail_that_is_not_taken_is_tried_again() -> None:
    url = "mailto://127.0.0.1:{port}?from=pager@citywatch.example&to=anna@citywatch.example"
    fault = mailed(url, FullBox())
    assert isinstance(fault, Retry)
    assert "did not take it" in fault.reason


def test_mail_goes_to_a_server_that_shows_whom_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    url = "mailtos://127.0.0.1:{port}?from=pager@citywatch.example&to=anna@citywatch.example"
    box = Box()
    assert isinstance(mailed(url, box, context), Retry)
    assert not box.mails
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert mailed(url, box, context) is None
    assert len(box.mails) == 1


@pytest.mark.parametrize(
    "notice",
    [
        notice_of(),
        notice_of(to=Recipient(name="anna")),
        notice_of(to=Recipient(name="anna", address="")),
    ],
)
def test_a_hook_that_wants_an_address_refuses_who_has_none(notice: Notice) -> None:
    async def once() -> NotTold | None:
        async with opened("mailto://127.0.0.1?from=pager@citywatch.example&to={to}") as notifier:
            return await attempt(notifier, notice)

    assert isinstance(asyncio.run(once()), Refused)


@pytest.mark.parametrize(
    "url",
    [
        f"mailto://127.0.0.1?from=pager@citywatch.example&to={{to}}&name={SECRET}",
        # With nobody to tell it would tell its own number, and be content.
        f"twilio://AC735c307c62944b5a735c307c62944b5a:{SECRET}@+15551234567/{{to}}",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    async def once() -> NotTold | None:
        async with opened(url) as notifier:
            return await attempt(notifier, notice_of(to=Recipient(name="x", address="nobody")))

    fault = asyncio.run(once())
    assert isinstance(fault, Refused)
    assert fault.reason == "the service takes no such address"


@pytest.mark.parametrize(
    "address", ["/../../elsewhere", "x@evil.example/?to=", "a&b=c", "#", "%2F"]
)
def test_an_address_stays_where_it_was_put(address: str) -> None:
    paths: list[str] = []

    async def look(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response()

    async def once() -> None:
        async with served(look) as base, opened(f"{chat(base)}/to-{{to}}-end") as notifier:
            await attempt(notifier, notice_of(to=Recipient(name="x", address=address)))

    asyncio.run(once())
    for path in paths:
        assert path.startswith(f"/hooks/{SECRET}/to-")
        assert path.endswith("-end")


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_what_is_not_taken_is_tried_again(status: int) -> None:
    fault = told_to(served(answer(status)))
    assert isinstance(fault, Retry)
    assert fault.after_s is None


@pytest.mark.parametrize("status", [301, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    elsewhere: list[str] = []

    async def send_on(request: web.Request) -> web.Response:
        if request.path == "/elsewhere":
            elsewhere.append(request.path)
            return web.Response()
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    assert isinstance(told_to(served(send_on)), Retry)
    assert not elsewhere


def test_one_that_closes_is_tried_again() -> None:
    async def close(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        pass

    assert isinstance(told_to(spoken(close)), Retry)


def test_attempts_that_hang_are_bounded_and_hold_up_no_other_hook() -> None:
    async def life() -> list[NotTold | None]:
        release = asyncio.Event()
        hanging = 0
        all_hang = asyncio.Event()

        async def hang(_request: web.Request) -> web.Response:
            nonlocal hanging
            hanging += 1
            if hanging == MAX_THREADS:
                all_hang.set()
            await release.wait()
            return web.Response()

        async with (
            served(hang) as dead,
            served(answer(200)) as alive,
            opened(chat(dead)) as hung,
            opened(chat(alive)) as other,
        ):
            first = [asyncio.create_task(attempt(hung)) for _ in range(MAX_THREADS)]
            await all_hang.wait()
            for task in first:
                task.cancel()
            assert all(
                isinstance(one, asyncio.CancelledError)
                for one in await asyncio.gather(*first, return_exceptions=True)
            )
            said = [await attempt(hung), await attempt(other)]
            release.set()
            # As soon as a thread is free, there is room again.
            async with asyncio.timeout(20):
                while await attempt(hung) is not None:  # noqa: ASYNC110 - threads announce nothing
                    await asyncio.sleep(0.01)
            return said

    full, other = asyncio.run(life())
    assert isinstance(full, Retry)
    assert full.reason == f"{MAX_THREADS} attempts hang"
    assert other is None


def test_a_thread_that_hangs_does_not_keep_the_pager_from_its_end() -> None:
    async def once() -> list[bool]:
        seen = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            seen.set()
            await asyncio.Event().wait()

        async with spoken(hang) as base, opened(chat(base)) as notifier:
            task = asyncio.create_task(attempt(notifier))
            await seen.wait()
            found = [one.daemon for one in threading.enumerate() if one.name == "notify"]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return found

    assert asyncio.run(once()) == [True]


@pytest.mark.parametrize(
    "url", ["", "nonsense", f"nobody-knows://{SECRET}", f"https://{SECRET}.example/x/", "mailto://"]
)
def test_what_is_no_url_of_a_service_is_refused_without_repeating_it(url: str) -> None:
    async def once() -> None:
        async with opened(url):
            pass

    with pytest.raises(SecretError, match="URL: ") as caught:
        asyncio.run(once())
    assert SECRET not in str(caught.value)


def test_proxies_are_used_only_where_the_hook_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def proxy(request: web.Request) -> web.Response:
        seen.append(str(request.url))
        return web.Response()

    async def once(**options: Any) -> NotTold | None:
        async with served(proxy) as other:
            monkeypatch.setenv("http_proxy", other)
            async with opened(f"json://chat.example/{SECRET}", **options) as notifier:
                return await attempt(notifier)

    with pytest.raises(SecretError, match="http"):
        asyncio.run(once())
    assert not seen
    assert asyncio.run(once(proxies=True)) is None
    assert seen == [f"http://chat.example/{SECRET}"]


def test_an_sms_has_title_and_link() -> None:
    title, body = text_of(notice_of(title="x" * 255, text="long " * 100), 160)
    assert len(title) + 2 + len(body) <= 160
    assert title.startswith("xxx")
    assert title.endswith("…")
    assert body == LINK


def test_a_sentence_is_not_said_twice() -> None:
    notice = notice_of(title="traffic-0042 is slow", text="told after 30 s\ntraffic-0042 is slow")
    assert text_of(notice, 1000)[1].splitlines()[:2] == [
        "told after 30 s",
        "major, harbour, since 2025-03-04 14:03 UTC",
    ]


@given(
    st.text(max_size=255),
    st.text(max_size=400),
    st.none() | st.integers(1, 300).map(lambda size: "https://x/" + "y" * size),
    st.integers(70, 600),
    st.sampled_from(["trigger", "update", "acknowledge", "resolve"]),
)
def test_no_text_is_empty_or_too_long(
    title: str, text: str, link: str | None, max_chars: int, event: str
) -> None:
    subject, body = text_of(notice_of(title=title, text=text, link=link, event=event), max_chars)
    assert body
    assert len(subject) + (2 if subject else 0) + len(body) <= max_chars
    assert len(subject.splitlines()) <= 1
    if link is not None and len(link) < max_chars // 2:
        assert body.endswith(link)

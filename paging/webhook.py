"""Telling a page: the one-method border to the world, and its plainest form, an HTTP POST.

The URL of a hook is often its password, so no error and no log line ever holds more than its host.

Errors
------
- NotTold: the receiver did not take the page.
    - Retry: it may take it later.
    - Refused: it never will.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final, Protocol, Self

import aiohttp
from yarl import URL

from storage.pages import Page, encode_page

USER_AGENT: Final = "citywatch-pager/1"
# A receiver may ask for patience, not for silence: a page an hour late is stale.
_MAX_RETRY_AFTER_S: Final = 900.0
# 408 is a timeout that the receiver noticed first (RFC 9110, 15.5.9: the client may repeat).
_RETRIED_4XX: Final = frozenset({408, 429})


class NotTold(Exception):  # noqa: N818 - says what happened, as its two cases do
    """The receiver did not take the page."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Retry(NotTold):
    """The receiver may take the page later, after `after_s` seconds where it said so."""

    def __init__(self, after_s: float | None, reason: str) -> None:
        super().__init__(reason)
        self.after_s = after_s


class Refused(NotTold):
    """The receiver will never take this page."""


class Notifier(Protocol):
    """Whoever can tell a page."""

    async def send(self, page: Page, key: str) -> None:
        """Tell the page; `key` is the same at every attempt.

        Raises
        ------
        Retry
            If it was not taken now.
        Refused
            If it will never be taken.
        """


def utc_now() -> datetime:
    """Return the system's time."""
    return datetime.now(UTC)


class Webhook:
    """A notifier that posts the page as JSON.

    Parameters
    ----------
    url : str
        Where to; http or https.
    timeout_s : float
        Bound of one attempt, from the name look-up to the status line.
    clock : callable
        Returns the time against which a `Retry-After` date is read.

    Raises
    ------
    ValueError
        If `url` is not an http or https URL; the message does not repeat it.
    """

    def __init__(
        self, url: str, *, timeout_s: float, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._url = _checked(url)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    @property
    def host(self) -> str:
        """The part of the URL that may be shown."""
        return self._url.host or ""

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(
            timeout=self._timeout,
            headers={"User-Agent": USER_AGENT, "Content-Type": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection pool."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, page: Page, key: str) -> None:
        """Post the page; only the status of the answer is read.

        Raises
        ------
        Retry
            On 408, 429, 5xx, a timeout and any failure of the connection.
        Refused
            On every other status but 2xx; redirects are not followed.
        """
        if self._session is None:
            raise RuntimeError("expected an opened webhook: use `async with`")
        try:
            async with self._session.post(
                self._url,
                data=encode_page(page),
                headers={"Idempotency-Key": key},
                allow_redirects=False,
            ) as response:
                status, after = response.status, response.headers.get("Retry-After")
        except TimeoutError:
            limit = self._timeout.total
            raise Retry(None, f"{self.host}: no answer within {limit} s") from None
        except (aiohttp.ClientError, OSError) as error:
            # Not chained: the text of some of these errors holds the whole URL.
            raise Retry(None, f"{self.host}: {_failure(error)}") from None
        if 200 <= status < 300:  # noqa: PLR2004 - RFC 9110, 15.3
            return
        if status >= 500 or status in _RETRIED_4XX:  # noqa: PLR2004 - RFC 9110, 15.6
            raise Retry(
                retry_after_s(after, self._clock()), f"{self.host}: answered with status {status}"
            )
        raise Refused(f"{self.host}: answered with status {status}")


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Return how long a `Retry-After` header (RFC 9110, 10.2.3) asks to wait, within bounds.

    None where there is no header or it is neither a number of seconds nor a date.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        # The length is bounded first: Python refuses to read numbers of thousands of digits.
        wait = float(text[:10]) if len(text) <= 10 else _MAX_RETRY_AFTER_S  # noqa: PLR2004
        return min(wait, _MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), _MAX_RETRY_AFTER_S)


def _checked(url: str) -> URL:
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError("expected the webhook's URL to begin with http:// or https:// and a host")
    return parsed


def _failure(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    said = cause.strerror if isinstance(cause, OSError) else None
    return f"{type(error).__name__} ({said})" if said else type(error).__name__

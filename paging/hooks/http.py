"""One HTTP POST and what its answer means, for every hook that speaks HTTP.

The URL of a hook is often its password, so no error and no log line ever holds more than its host.
"""

import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp
from yarl import URL

from paging.files import check_regular
from paging.hooks import MAX_TIMEOUT_S, Refused, Retry, Secret, SecretError, in_time
from paging.hooks.names import Names

USER_AGENT: Final = "citywatch-pager/1"
# A receiver may ask for patience, not for silence: a page an hour late is stale.
_MAX_RETRY_AFTER_S: Final = 900.0
# 408 is a timeout that the receiver noticed first (RFC 9110, 15.5.9: the client may repeat).
_RETRIED_4XX: Final = frozenset({408, 429})
# No connection, or none to the receiver: nothing was sent.
_UNSENT: Final = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.InvalidURL)


def utc_now() -> datetime:
    """Return the system's time."""
    return datetime.now(UTC)


def checked_url(url: str) -> URL:
    """Return an http or https URL.

    Raises
    ------
    ValueError
        If it is none; the message does not repeat it.
    """
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError("expected the hook's URL to begin with http:// or https:// and a host")
    return parsed


def read_url(url: str | Secret, environment: Mapping[str, str]) -> URL:
    """Return the URL of a hook's options.

    Raises
    ------
    SecretError
        If it is a secret that is not to be had, or no URL.
    """
    if isinstance(url, str):
        return checked_url(url)
    text = url.read(environment)
    try:
        return checked_url(text)
    except ValueError as error:
        raise SecretError(f"{url.file or url.env}: {error}") from None


class Poster:
    """A connection pool that posts and says what came of it; to be used as a context.

    Certificates are verified.

    Parameters
    ----------
    timeout_s : float
        Bound of one attempt, from the name look-up to the status line; the sender's own bound
        (`timeout_s` of `HookTerms`) comes first.
    clock : callable
        Returns the time against which a `Retry-After` date is read.
    ca_file : str or None
        Certificates (PEM) of the only authorities that are trusted; None, those of the system.
    proxies : bool
        Whether proxies that the environment names are used, and passwords of a `.netrc`.
    after_429_s : float or None
        How long a 429 asks to wait that has no `Retry-After`; None, as long as the sender thinks.
    """

    def __init__(
        self,
        *,
        timeout_s: float = MAX_TIMEOUT_S,
        clock: Callable[[], datetime] = utc_now,
        ca_file: str | None = None,
        proxies: bool = False,
        after_429_s: float | None = None,
    ) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._clock = clock
        self._ca_file = ca_file
        self._proxies = proxies
        self._after_429_s = after_429_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the connection pool.

        Raises
        ------
        SecretError
            If the certificates of the authorities are not to be had.
        """
        file = self._ca_file
        trust = True if file is None else await in_time(partial(_trust, file), file)
        self._session = aiohttp.ClientSession(
            # Each attempt has a connection of its own: one that died while it lay idle would cost
            # a page its attempt. How many there are is the sender's to bound.
            connector=aiohttp.TCPConnector(ssl=trust, force_close=True, limit=0, resolver=Names()),
            timeout=self._timeout,
            headers={"User-Agent": USER_AGENT, "Content-Type": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self._proxies,
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

    async def post(self, url: URL, body: bytes, headers: Mapping[str, str]) -> None:
        """Post JSON; only the status of the answer is read.

        Raises
        ------
        Retry
            On 408, 429, 5xx, a timeout and any failure of the connection.
        Refused
            On every other status but 2xx; redirects are not followed.
        """
        if self._session is None:
            raise RuntimeError("expected an opened pool: use `async with`")
        host = url.host or ""
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status, after = response.status, response.headers.get("Retry-After")
        except TimeoutError:
            limit = self._timeout.total
            raise Retry(None, f"{host}: no answer within {limit} s") from None
        except (aiohttp.ClientError, OSError) as error:
            # Not chained: the text of some of these errors holds the whole URL.
            is_sent = not isinstance(error, _UNSENT)
            raise Retry(None, f"{host}: {_failure(error)}", may_have_come=is_sent) from None
        if 200 <= status < 300:  # noqa: PLR2004 - RFC 9110, 15.3
            return
        if status >= 500 or status in _RETRIED_4XX:  # noqa: PLR2004 - RFC 9110, 15.6
            wait_s = retry_after_s(after, self._clock())
            if status == 429 and wait_s is None:  # noqa: PLR2004 - RFC 6585, 4
                wait_s = self._after_429_s
            # Something between us may have said 5xx when the receiver had it already.
            raise Retry(
                wait_s,
                f"{host}: answered with status {status}",
                may_have_come=status not in _RETRIED_4XX,
            )
        raise Refused(f"{host}: answered with status {status}")


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
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), _MAX_RETRY_AFTER_S)


def _trust(ca_file: str) -> ssl.SSLContext:
    try:
        check_regular(Path(ca_file).stat())
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise SecretError(f"{ca_file}: no certificates ({_failure(error)})") from None


def _failure(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    said = cause.strerror if isinstance(cause, OSError) else None
    return f"{type(error).__name__} ({said})" if said else type(error).__name__

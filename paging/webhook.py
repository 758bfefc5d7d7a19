"""Telling a page of one alert, as pagers did before there were notices."""

from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

from paging.hooks import NotTold, Refused, Retry
from paging.hooks.http import USER_AGENT, Poster, checked_url, retry_after_s, utc_now
from storage.pages import Page, encode_page

__all__ = ["USER_AGENT", "NotTold", "Notifier", "Refused", "Retry", "Webhook", "retry_after_s"]


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
        self._url = checked_url(url)
        self._poster = Poster(timeout_s=timeout_s, clock=clock)

    @property
    def host(self) -> str:
        """The part of the URL that may be shown."""
        return self._url.host or ""

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        await self._poster.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection pool."""
        await self._poster.__aexit__(kind, error, trace)

    async def send(self, page: Page, key: str) -> None:
        """Post the page; `Poster.post` says what an answer means."""
        await self._poster.post(self._url, encode_page(page), {"Idempotency-Key": key})

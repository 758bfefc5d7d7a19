"""The plainest hook: a notice as JSON, in an HTTP POST."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec
from yarl import URL

from paging.hooks import HookKind, Notifier, Secret, SecretError
from paging.hooks.http import Poster, checked_url
from paging.notices import Notice, encode_notice


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a webhook posts to.

    Parameters
    ----------
    url : str or Secret
        http or https; a secret where it is its own password.
    """

    url: str | Secret

    def __post_init__(self) -> None:
        """Refuse what is no URL as soon as it is seen."""
        if isinstance(self.url, str):
            checked_url(self.url)


class Webhook:
    """A notifier that posts the notice as it is."""

    def __init__(self, url: URL, poster: Poster) -> None:
        self._url = url
        self._poster = poster

    async def send(self, notice: Notice, key: str) -> None:
        """Post the notice; `key` is the header `Idempotency-Key`."""
        await self._poster.post(self._url, encode_notice(notice), {"Idempotency-Key": key})


@asynccontextmanager
async def opened(options: Options, environment: Mapping[str, str]) -> AsyncIterator[Notifier]:
    """Open the connection pool of a webhook.

    Raises
    ------
    SecretError
        If the URL is not to be had.
    """
    url = options.url if isinstance(options.url, str) else options.url.read(environment)
    try:
        target = checked_url(url)
    except ValueError as error:
        raise SecretError(str(error)) from None
    async with Poster() as poster:
        yield Webhook(target, poster)


KIND = HookKind("webhook", Options, opened)

"""The plainest hook: a notice as JSON, in an HTTP POST that is signed.

Signed after Standard Webhooks 1.0.0 (standardwebhooks.com), so receivers may take any of its
libraries, or the ten lines of docs/hooks.md. With several keys a request carries a signature of
each, so a key is changed without a gap: put the new one beside the old one, give it to the
receiver, take the old one away.
"""

import base64
import binascii
import hmac
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Final
from urllib.parse import quote

import msgspec
from yarl import URL

from paging.hooks import FileName, HookKind, Notifier, Secret, SecretError, in_time
from paging.hooks.http import Poster, checked_url, read_url, utc_now
from paging.notices import Notice, encode_notice

# Bytes; as Standard Webhooks bounds them.
_KEY_BYTES: Final = (24, 64)
_KEY_PREFIX: Final = "whsec_"
# The new one and the old one, twice; a signature of each goes into one header.
_MAX_KEYS: Final = 4


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a webhook posts to.

    Parameters
    ----------
    url : str or Secret
        http or https; a secret where it is its own password.
    keys : tuple of Secret
        Each signs every request. A key is `whsec_` and the base64 of 24 to 64 random bytes.
        Without one nothing is signed.
    ca_file : str or None
        Certificates (PEM) of the authorities that the receiver's has to come from; None, those
        that the system trusts.
    proxies : bool
        Whether proxies that the environment names are used.
    """

    url: str | Secret
    keys: Annotated[tuple[Secret, ...], msgspec.Meta(max_length=_MAX_KEYS)] = ()
    ca_file: FileName | None = None
    proxies: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no URL as soon as it is seen."""
        if isinstance(self.url, str):
            checked_url(self.url)


class Webhook:
    """A notifier that posts the notice as it is.

    Parameters
    ----------
    url : URL
    poster : Poster
    keys : sequence of bytes
        Each signs every request.
    clock : callable
        Returns the time that is signed.
    """

    def __init__(
        self,
        url: URL,
        poster: Poster,
        keys: Sequence[bytes] = (),
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._url = url
        self._poster = poster
        self._keys = keys
        self._clock = clock

    async def send(self, notice: Notice, key: str) -> None:
        """Post the notice; `Idempotency-Key` and `webhook-id` are the delivery's key."""
        body = encode_notice(notice)
        headers = signed(message_id(key), self._clock(), body, self._keys)
        await self._poster.post(self._url, body, headers)


def message_id(key: str) -> str:
    """Return a delivery's key as it may stand in a header and be signed.

    It is the key itself as long as that is of ASCII and has no full stop, which separates what is
    signed; other characters are percent-encoded.
    """
    return quote(key, safe="/:@+,=~").replace(".", "%2E")


def signed(ident: str, at: datetime, body: bytes, keys: Sequence[bytes]) -> Mapping[str, str]:
    """Return the headers of a request, with a signature by each key."""
    headers = {"Idempotency-Key": ident}
    if keys:
        stamp = str(int(at.timestamp()))
        message = f"{ident}.{stamp}.".encode() + body
        headers["webhook-id"] = ident
        headers["webhook-timestamp"] = stamp
        headers["webhook-signature"] = " ".join(
            f"v1,{base64.b64encode(hmac.digest(key, message, 'sha256')).decode()}" for key in keys
        )
    return headers


def read_key(secret: Secret, environment: Mapping[str, str]) -> bytes:
    """Return a key that signs.

    Raises
    ------
    SecretError
        If it is not to be had, or is none.
    """
    text = secret.read(environment)
    try:
        key = base64.b64decode(text.removeprefix(_KEY_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    least, most = _KEY_BYTES
    if not text.startswith(_KEY_PREFIX) or not least <= len(key) <= most:
        raise SecretError(
            f"{secret.file or secret.env}: expected {_KEY_PREFIX} and the base64 of {least} to"
            f" {most} bytes"
        )
    return key


@asynccontextmanager
async def opened(options: Options, environment: Mapping[str, str]) -> AsyncIterator[Notifier]:
    """Open the connection pool of a webhook.

    Raises
    ------
    SecretError
        If the URL, a key or the authorities' certificates are not to be had.
    """

    def read() -> tuple[URL, list[bytes]]:
        keys = [read_key(secret, environment) for secret in options.keys]
        return read_url(options.url, environment), keys

    secrets = [one for one in (options.url, *options.keys) if isinstance(one, Secret)]
    url, keys = await in_time(read, *secrets)
    async with Poster(ca_file=options.ca_file, proxies=options.proxies) as poster:
        yield Webhook(url, poster, keys)


KIND = HookKind("webhook", Options, opened)

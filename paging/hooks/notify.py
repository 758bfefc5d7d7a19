"""Chat, mail and SMS, through Apprise: a notice as plain text, at any service that it knows.

Apprise blocks, so each attempt has a thread. A thread cannot be ended from outside, so there are
at most `MAX_THREADS` of a hook, and they do not keep a pager from its end. An attempt that was
given up may still succeed: whoever it is for may hear twice, but not never.

What Apprise says of a failure may quote its URL, which is a secret. So its own log is off, and all
that is told of an attempt is the service and that it did not take the notice.
"""

import logging
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import quote
from urllib.request import getproxies_environment

import msgspec

from paging.hooks import HookKind, Notifier, NotTold, Refused, Retry, Secret, SecretError, in_time
from paging.notices import Notice, moment
from paging.threads import in_thread

if TYPE_CHECKING:
    from apprise import NotifyBase

# As many attempts as a hook has under way by default; each may hang as long as its socket does.
MAX_THREADS: Final = 8
# Stands in a URL for the address of whoever a delivery is for.
TO: Final = "{to}"
# A number, a mailbox, a name: an address of every kind, to try a URL that has to be given one.
_ADDRESSES: Final = ("+34600000000", "nobody@example.org", "nobody")
# Less than this of a text says nothing.
_MIN_TEXT_CHARS: Final = 20
# What these log at DEBUG holds paths and tokens.
_TALKATIVE: Final = ("urllib3", "requests_oauthlib", "oauthlib")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which service is told.

    Parameters
    ----------
    url : Secret
        A URL of Apprise, with `{to}` where the address of a person of the schedule goes.
    max_chars : int
        Of title, text and link together; the text is cut first, then the title.
    proxies : bool
        Whether proxies that the environment names may be used. Where they may not, and there are
        some, the hook does not open.
    """

    url: Secret
    max_chars: Annotated[int, msgspec.Meta(ge=70, le=100_000)] = 3_500
    proxies: bool = False


class Told:
    """A notifier that sends plain text through a service."""

    def __init__(self, url: str, max_chars: int) -> None:
        self._url = url
        self._max_chars = max_chars
        self._threads = threading.BoundedSemaphore(MAX_THREADS)

    async def send(self, notice: Notice, key: str) -> None:  # noqa: ARG002 - nobody there reads it
        """Send the text; these services tell no two messages of one notice apart."""
        address = notice.to.address if notice.to is not None else None
        if TO in self._url and not address:
            raise Refused("the hook's URL wants an address, and the delivery has none")
        title, body = text_of(notice, self._max_chars)
        if not self._threads.acquire(blocking=False):
            raise Retry(None, f"{MAX_THREADS} attempts hang", may_have_come=False)

        def attempt() -> NotTold | None:
            try:
                return _fault(self._url, address, title, body, _type_of(notice))
            finally:
                self._threads.release()

        if (fault := await in_thread(attempt, "notify")) is not None:
            raise fault


def text_of(notice: Notice, max_chars: int) -> tuple[str, str]:
    """Return title and text of a notice, with the link last, of at most `max_chars` together.

    Two more characters are counted, which services without titles put between them. The text is
    never empty; where there is no room beside the title, the title is the text.
    """
    link = notice.link if notice.link and len(notice.link) < max_chars // 2 else ""
    title = _cut(" ".join(_heading(notice).split()), max_chars - len(link) - 2)
    room = max_chars - len(title) - len(link) - 3
    lines = [line for line in notice.text.splitlines() if line not in title]
    text = _cut("\n".join([*lines, _circumstances(notice)]), room)
    body = "\n".join(part for part in (text, link) if part)
    return (title, body) if body else ("", title)


def _heading(notice: Notice) -> str:
    if notice.event == "acknowledge":
        return f"{notice.actor or 'Somebody'} has it: {notice.title}"
    if notice.event == "update":
        return f"More of it: {notice.title}"
    if notice.event == "trigger" and notice.step > 1:
        return f"Nobody has it yet, step {notice.step}: {notice.title}"
    return notice.title


def _circumstances(notice: Notice) -> str:
    since = "until" if notice.event == "resolve" else "since"
    return f"{notice.severity}, {notice.zone}, {since} {moment(notice):%Y-%m-%d %H:%M %Z}"


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[: most - 1]}…" if most >= _MIN_TEXT_CHARS else ""


def _type_of(notice: Notice) -> str:
    if notice.event == "resolve":
        return "success"
    if notice.event == "acknowledge" or notice.severity == "informational":
        return "info"
    return "failure" if notice.severity == "critical" else "warning"


def _fault(url: str, address: str | None, title: str, body: str, kind: str) -> NotTold | None:
    """Send once and return what went wrong, if anything; blocks."""
    import apprise  # noqa: PLC0415 - it was loaded when the hook was opened

    # A new one each time: a service that paces itself would sleep before it sends again.
    service = service_of(url, address)
    if service is None:
        return Refused("the service takes no such address")
    try:
        is_taken = service.notify(
            body=body,
            title=title,
            notify_type=apprise.NotifyType(kind),
            body_format=apprise.NotifyFormat.TEXT,
        )
    except Exception as error:  # noqa: BLE001 - of two hundred services, by many hands
        return Retry(None, f"{service.service_name}: {type(error).__name__}")
    return None if is_taken else Retry(None, f"{service.service_name}: did not take it")


def service_of(url: str, address: str | None) -> "NotifyBase | None":
    """Return the service of a URL, None where there is none or it does not take the address.

    Blocks for half a second at first.
    """
    # Loaded late: only who has such a hook pays for two hundred services.
    import apprise  # noqa: PLC0415

    asset = apprise.AppriseAsset(
        app_id="Citywatch",
        app_desc="Citywatch",
        app_url="",
        # Pictures of its own, from somebody else's server.
        image_url_mask="",
        image_url_logo="",
        image_path_mask=False,
        # Elsewhere nobody named may read it.
        http_redirects=False,
        interpret_emojis=False,
        storage_mode=apprise.PersistentStoreMode.MEMORY,
        pgp_autogen=False,
        pem_autogen=False,
    )
    wants_address = TO in url
    if wants_address:
        url = url.replace(TO, quote(address or "", safe=""))
    service = apprise.Apprise.instantiate(url, asset=asset)
    # With nobody left to tell, some tell the sender, and call that a success.
    if service is not None and wants_address and not getattr(service, "targets", True):
        return None
    return service


def _load(url: str) -> bool:
    """Load Apprise without its log, and say whether it knows the service of a URL."""
    logging.getLogger("apprise").disabled = True
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    return any(service_of(url, address) is not None for address in _ADDRESSES)


@asynccontextmanager
async def opened(options: Options, environment: Mapping[str, str]) -> AsyncIterator[Notifier]:
    """Load what the service needs.

    Raises
    ------
    SecretError
        If the URL is not to be had or none that Apprise knows, or if there are proxies that may
        not be used.
    """
    url = await in_time(partial(options.url.read, environment), options.url)
    if not options.proxies and (named := sorted(getproxies_environment())):
        raise SecretError(
            f"the environment names proxies ({', '.join(named)}): proxies = true lets them be used"
        )
    if not await in_thread(partial(_load, url), "apprise"):
        place = options.url.file or options.url.env
        raise SecretError(f"{place}: expected a URL of a service that Apprise knows")
    yield Told(url, options.max_chars)


# Of two pagers one a second: as much as Slack takes of a webhook, and a number of Twilio's sends.
_PER_MINUTE: Final = 30.0
# Who is told by a message knows already that there is something.
KIND = HookKind(
    "notify",
    Options,
    opened,
    events=("trigger", "acknowledge", "resolve"),
    per_minute=_PER_MINUTE,
)

"""PagerDuty's Events API v2: a group is an alert there, and its key is the `dedup_key`.

Whoever has acknowledged an alert there is not notified of its further triggers. So a group that
got worse rings as another alert, and the one before is resolved: there is one of each group at
any time, and whatever is sent again changes nothing.

Limits and answers after PagerDuty's developer documentation, "Events API v2": an event has at most
512 KB, an integration key about 120 events a minute; 202 is taken, 400 never will be, 429 and 5xx
may be later.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, Final

import msgspec
from yarl import URL

from paging.hooks import FileName, HookKind, Notifier, Retry, Secret, SecretError, in_time
from paging.hooks.http import Poster, checked_url
from paging.notices import MAX_KEY_CHARS, Notice, earlier_rings
from storage.pages import Severity

# The customers of its European region have another: https://events.eu.pagerduty.com/v2/enqueue.
ENDPOINT: Final = "https://events.pagerduty.com/v2/enqueue"
# 512 KB, whichever way it is counted.
MAX_EVENT_BYTES: Final = 512_000
MAX_SUMMARY_CHARS: Final = 1024
_ROUTING_KEY_CHARS: Final = 32
# Of the fields without a documented limit; nobody reads more of a zone's name.
_MAX_FIELD_CHARS: Final = 255
# Of the text where the event would be too large with all of it; at six bytes a character it fits.
_MAX_CUT_TEXT_CHARS: Final = 20_000
# PagerDuty suggests 30 s between tries, and gives no Retry-After.
_AFTER_429_S: Final = 30.0
# Of about 120: another pager may use the same key, and their window may begin elsewhere.
MAX_EVENTS_PER_MINUTE: Final = 100
_WINDOW_S: Final = 60.0
# What browsers take.
_MAX_LINK_CHARS: Final = 2000
_SEVERITIES: Final[Mapping[Severity, str]] = {
    "informational": "info",
    "minor": "warning",
    "major": "error",
    "critical": "critical",
}


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which service of PagerDuty is told.

    Parameters
    ----------
    routing_key : Secret
        The integration key, of 32 characters.
    endpoint : str
        Where events go: https, or http on this machine alone, for the key travels in the body.
    ca_file : str or None
        Certificates (PEM) of the authorities that the endpoint's has to come from; None, those
        that the system trusts.
    proxies : bool
        Whether proxies that the environment names are used.
    """

    routing_key: Secret
    endpoint: str = ENDPOINT
    ca_file: FileName | None = None
    proxies: bool = False

    def __post_init__(self) -> None:
        """Refuse an endpoint that would show the key."""
        url = checked_url(self.endpoint)
        if url.scheme != "https" and not _is_loopback(url):
            raise ValueError("expected the endpoint to begin with https://, or to be on 127.0.0.1")


class Window:
    """Counts what was sent within the last minute.

    Parameters
    ----------
    most : int
        How much may be sent within any minute.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: deque[float] = deque(maxlen=most)

    def wait_s(self, now_s: float, count: int = 1) -> float:
        """Return 0 and count so many more, or return in how many seconds there is room for all."""
        over = len(self._times) + count - self._most
        if over > 0 and now_s < self._times[over - 1] + _WINDOW_S:
            return self._times[over - 1] + _WINDOW_S - now_s
        self._times.extend([now_s] * count)
        return 0.0


class PagerDuty:
    """A notifier that sends an event to one service."""

    def __init__(self, routing_key: str, endpoint: URL, poster: Poster) -> None:
        self._routing_key = routing_key
        self._endpoint = endpoint
        self._poster = poster
        self._window = Window(MAX_EVENTS_PER_MINUTE)

    async def send(self, notice: Notice, key: str) -> None:  # noqa: ARG002 - dedup_key does it
        """Send the events, all or none of them held back; one that comes twice is one."""
        events = events_of(notice, self._routing_key)
        if wait_s := self._window.wait_s(asyncio.get_running_loop().time(), len(events)):
            reason = f"held back: {MAX_EVENTS_PER_MINUTE} events within a minute"
            raise Retry(wait_s, reason, may_have_come=False)
        for event in events:
            await self._poster.post(self._endpoint, event, {})


def dedup_key(group: str, ring: int) -> str:
    """Return the key of a group's alert: the group's own, and another one for each further ring."""
    if ring == 0:
        return group
    end = f"/ring-{ring}"
    if len(group) + len(end) > MAX_KEY_CHARS:
        group = sha256(group.encode()).hexdigest()
    return group + end


def events_of(notice: Notice, routing_key: str) -> list[bytes]:
    """Return the JSON of the events that tell a notice, in order, each within `MAX_EVENT_BYTES`.

    What the rings before opened is resolved, or has been acknowledged as well: whoever is told of
    this ring may have slept through the last one. PagerDuty drops what is said of no open alert.
    """
    is_word = notice.event in {"acknowledge", "resolve"}
    action = notice.event if is_word else "resolve"
    events = [
        msgspec.json.encode(_head(notice.group, ring, routing_key, action))
        for ring in earlier_rings(notice)
    ]
    return [*events, event_of(notice, routing_key)]


def event_of(notice: Notice, routing_key: str) -> bytes:
    """Return the JSON of the event of a notice's own ring, of at most `MAX_EVENT_BYTES`.

    Where the whole notice is too much, the last alerts of its list are left out, then the labels
    and the end of the text; `custom_details` says so in a `note`.
    """
    if notice.event in {"acknowledge", "resolve"}:
        return msgspec.json.encode(_head(notice.group, notice.ring, routing_key, notice.event))
    shown, note = len(notice.alerts), ""
    while len(data := _trigger(notice, routing_key, shown, note)) > MAX_EVENT_BYTES and shown:
        shown //= 2
        note = f"too large for one event: {shown} of {len(notice.alerts)} alerts are shown"
    if len(data) > MAX_EVENT_BYTES:
        note = "too large for one event: no alerts are shown, and not all of the text"
        data = _trigger(_shortened(notice), routing_key, 0, note)
    return data


def _head(group: str, ring: int, routing_key: str, action: str) -> dict[str, Any]:
    key = dedup_key(group, ring)
    return {"routing_key": routing_key, "dedup_key": key, "event_action": action}


def _trigger(notice: Notice, routing_key: str, shown: int, note: str) -> bytes:
    alerts = notice.alerts[:shown]
    links = [{"href": notice.link, "text": "Citywatch"}] if notice.link else []
    links += [
        {"href": one.link, "text": _cut(f"{one.sensor}: {one.sentence}")}
        for one in alerts
        if one.link and one.link != notice.link
    ]
    details: dict[str, Any] = {
        name: getattr(notice, name)
        for name in (
            "text",
            "category",
            "cause",
            "cause_name",
            "labels",
            "counts",
            "policy",
            "step",
        )
    }
    details["alerts"] = alerts
    if note:
        details["note"] = note
    client = {"client": "Citywatch"} | ({"client_url": notice.link} if notice.link else {})
    return msgspec.json.encode(
        _head(notice.group, notice.ring, routing_key, "trigger")
        | client
        | {
            "links": links,
            "payload": {
                "summary": _cut(notice.title, MAX_SUMMARY_CHARS) or "Citywatch",
                "source": _cut(notice.cause_name or notice.zone) or "Citywatch",
                "severity": _SEVERITIES[notice.severity],
                "timestamp": notice.since,
                "group": _cut(notice.zone),
                "class": _cut(notice.kind),
                "custom_details": details,
            },
        }
    )


def _shortened(notice: Notice) -> Notice:
    return msgspec.structs.replace(
        notice,
        text=_cut(notice.text, _MAX_CUT_TEXT_CHARS),
        labels={},
        cause_name=_cut(notice.cause_name),
        policy=_cut(notice.policy),
        link=notice.link if notice.link and len(notice.link) <= _MAX_LINK_CHARS else None,
    )


def _cut(text: str, most: int = _MAX_FIELD_CHARS) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _is_loopback(url: URL) -> bool:
    try:
        return ip_address(url.host or "").is_loopback
    except ValueError:
        return url.host == "localhost"


@asynccontextmanager
async def opened(options: Options, environment: Mapping[str, str]) -> AsyncIterator[Notifier]:
    """Open the connection pool of a service.

    Raises
    ------
    SecretError
        If the integration key or the authorities' certificates are not to be had.
    """
    secret = options.routing_key
    key = await in_time(partial(secret.read, environment), secret)
    if len(key) != _ROUTING_KEY_CHARS or not (key.isascii() and key.isalnum()):
        raise SecretError(
            f"{secret.file or secret.env}: expected an integration key of {_ROUTING_KEY_CHARS}"
            " letters and digits"
        )
    poster = Poster(ca_file=options.ca_file, proxies=options.proxies, after_429_s=_AFTER_429_S)
    async with poster:
        yield PagerDuty(key, checked_url(options.endpoint), poster)


# Two pagers have a key's 120 events a minute between them.
_PER_MINUTE: Final = 60.0
# An `update` is a trigger there: it would open an alert anew that somebody resolved by hand.
KIND = HookKind(
    "pagerduty",
    Options,
    opened,
    events=("trigger", "acknowledge", "resolve"),
    per_minute=_PER_MINUTE,
)

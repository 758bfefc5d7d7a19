"""Prometheus' Alertmanager, API v2: a group is one alert there, told apart by its labels.

Alertmanager resolves an alert whose sender falls silent, unless the sender said when it ends. Here
loss of data is never an all-clear, so every trigger says that the alert ends in years, and the
resolve says when it did end. An alert's labels are what it is: what changes while it is open
(severity, counts, text) are annotations.

It notifies nobody anew because an alert is told again. So a group that got worse rings as another
alert, by the label `ring`, and the one before ends.

Alertmanager keeps alerts in memory. After its restart it knows an open one again when that is told
again, after the route's `repeat_interval`.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final

import msgspec
from yarl import URL

from paging.hooks import FileName, HookKind, Notifier, Secret, in_time
from paging.hooks.http import Poster, checked_url, read_url
from paging.notices import Notice, earlier_rings

ALERT_NAME: Final = "Citywatch"
# Nothing that is open for ten years is ended by nobody's word.
_STAYS: Final = timedelta(days=3_652)
_PATH: Final = "api/v2/alerts"
_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_LABEL_CHARS: Final = re.compile(r"[^A-Za-z0-9_]")


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which Alertmanager is told; of a cluster, each by a hook of its own.

    Parameters
    ----------
    url : str or Secret
        Its own, as `http://127.0.0.1:9093`; a secret where a password stands in it.
    labels : dict of str to str
        Put on every alert, for the routes of Alertmanager.
    ca_file : str or None
        Certificates (PEM) of the authorities that its own has to come from; None, those that the
        system trusts.
    proxies : bool
        Whether proxies that the environment names are used.
    """

    url: str | Secret
    labels: dict[str, str] = {}
    ca_file: FileName | None = None
    proxies: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no URL, and what is no label, as soon as it is seen."""
        if isinstance(self.url, str):
            checked_url(self.url)
        for name in self.labels:
            if not _LABEL.fullmatch(name):
                raise ValueError(f"labels: {name!r} is no name of a label")


class Alertmanager:
    """A notifier that keeps one alert a group open."""

    def __init__(self, url: URL, labels: Mapping[str, str], poster: Poster) -> None:
        self._url = url / _PATH
        self._labels = labels
        self._poster = poster

    async def send(self, notice: Notice, key: str) -> None:  # noqa: ARG002 - the labels do it
        """Post the alert; one that comes twice is one, by its labels."""
        body = msgspec.json.encode(alerts_of(notice, self._labels))
        await self._poster.post(self._url, body, {})


def alerts_of(notice: Notice, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what is posted of a notice: its alert, and those of the rings before, which end.

    Parameters
    ----------
    notice : Notice
    labels : mapping of str to str
        The hook's own; they are weaker than the group's.
    """
    alert = _alert(notice, labels, notice.ring)
    if notice.event == "update":
        # Told that an alert is over once more, it may notify once more, and an update wakes nobody.
        return [alert]
    ended = max(notice.at, alert["startsAt"])
    before = [_alert(notice, labels, ring) | {"endsAt": ended} for ring in earlier_rings(notice)]
    return [*before, alert]


def _alert(notice: Notice, labels: Mapping[str, str], ring: int) -> dict[str, Any]:
    # Of a sensor whose clock runs ahead; nothing of an alert may lie in the future.
    since = min(notice.since, notice.at)
    ends = notice.at + _STAYS if notice.ended_at is None else min(notice.ended_at, notice.at)
    alert: dict[str, Any] = {
        "labels": dict(labels)
        | {_label(name): value for name, value in notice.labels.items()}
        | {"alertname": ALERT_NAME, "group": notice.group, "cause": notice.cause}
        | ({"ring": str(ring)} if ring else {}),
        "annotations": {
            "summary": notice.title,
            "description": notice.text,
            "severity": notice.severity,
            "category": notice.category,
            "kind": notice.kind,
            "zone": notice.zone,
            "alerts": str(notice.counts.total),
        },
        "startsAt": since,
        "endsAt": max(ends, since),
    }
    return alert | ({"generatorURL": notice.link} if notice.link else {})


def _label(name: str) -> str:
    clean = _NO_LABEL_CHARS.sub("_", name)
    return clean if _LABEL.fullmatch(clean) else f"_{clean}"


@asynccontextmanager
async def opened(options: Options, environment: Mapping[str, str]) -> AsyncIterator[Notifier]:
    """Open the connection pool of an Alertmanager.

    Raises
    ------
    SecretError
        If the URL or the authorities' certificates are not to be had.
    """
    secret = options.url if isinstance(options.url, Secret) else None
    url = await in_time(partial(read_url, options.url, environment), secret)
    async with Poster(ca_file=options.ca_file, proxies=options.proxies) as poster:
        yield Alertmanager(url, options.labels, poster)


# It knows no acknowledgement; people silence there.
KIND = HookKind("alertmanager", Options, opened, events=("trigger", "update", "resolve"))

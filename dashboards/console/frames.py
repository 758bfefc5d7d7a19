"""What one look at the database becomes on the page: frames, and the differences between them.

A viewer gets one whole frame and then, each second, what changed. Both are encoded once, however
many are watching.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from storage.queries import Counts, LedgerMinute, Newest, OpenAlert, Series

# Long enough that a flush or two more or less does not make the number jump, short enough that
# an operator sees the flow stop.
RATE_WINDOW: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Flow:
    """The ledger's latest minutes as they stood at one moment."""

    at: datetime
    minutes: Mapping[datetime, LedgerMinute]


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything the page shows, at one moment.

    `stored_per_s` and `messages_per_s` are None until two looks at the ledger exist.
    """

    at: datetime
    layout: Sequence[Series]
    newest: Mapping[int, Newest]
    alerts: Sequence[OpenAlert]
    counts: Counts
    stored_per_s: float | None
    messages_per_s: float | None

    @property
    def newest_at(self) -> datetime | None:
        """Event time of the newest row of all."""
        return max((row.time for row in self.newest.values()), default=None)


def rates(old: Flow, new: Flow) -> tuple[float | None, float | None]:
    """Return rows stored and messages received per second between two looks at the ledger.

    Only minutes inside the newer look count: what is older than its reach has left both.
    """
    seconds = (new.at - old.at).total_seconds()
    if seconds <= 0:
        return None, None
    stored = messages = 0
    for minute, row in new.minutes.items():
        before = old.minutes.get(minute)
        stored += row.stored - (before.stored if before else 0)
        messages += row.messages - (before.messages if before else 0)
    return max(stored, 0) / seconds, max(messages, 0) / seconds


def encode_snapshot(frame: Frame, namespace: str, tile_url: str | None) -> bytes:
    """Return a whole frame as JSON; rows are arrays in the order `columns` names."""
    return msgspec.json.encode(
        {
            "at": frame.at,
            "namespace": namespace,
            "tile_url": tile_url,
            "columns": {"layout": Series._fields, "newest": Newest._fields},
            "layout": frame.layout,
            "newest": list(frame.newest.values()),
            "alerts": [alert._asdict() for alert in frame.alerts],
            "totals": _totals(frame),
        }
    )


def encode_delta(old: Frame, new: Frame) -> bytes:
    """Return what differs between two frames of one layout, as JSON."""
    delta: dict[str, Any] = {
        "at": new.at,
        "newest": [row for key, row in new.newest.items() if old.newest.get(key) != row],
        "totals": _totals(new),
    }
    if old.alerts != new.alerts:
        delta["alerts"] = [alert._asdict() for alert in new.alerts]
    return msgspec.json.encode(delta)


def event(kind: str, data: bytes) -> bytes:
    """Return one server-sent event; `data` is JSON, which holds no raw line break."""
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def _totals(frame: Frame) -> dict[str, Any]:
    return frame.counts._asdict() | {
        "stored_per_s": frame.stored_per_s,
        "messages_per_s": frame.messages_per_s,
        "newest_at": frame.newest_at,
    }

"""An alert that somebody wants to try, read from a file."""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from storage.pages import Page

_NOBODYS: Final = UUID(int=0)


class TrialError(ValueError):
    """What is to be tried is no alert; the message says what is missing."""


class _Tried(msgspec.Struct):
    """What the stages look at; whatever else an alert says is passed over."""

    category: Any
    kind: str
    severity: Any
    sensor: str
    quantity: str
    zone: str
    domain: str
    namespace: str = "live"
    quality: int | None = None


def read_alert(data: bytes, now: datetime) -> Page:
    """Read an alert that fires now: as the API shows it, or as the worker writes it.

    Raises
    ------
    TrialError
    """
    try:
        told = msgspec.json.decode(data, type=_Tried)
        facts: dict[str, Any] = {name: getattr(told, name) for name in _Tried.__struct_fields__}
        own = {"alert_id": _NOBODYS, "event": "firing", "unit": "", "since": now, "seen": 0.0}
        return msgspec.convert(facts | own, Page)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TrialError(str(error)) from error

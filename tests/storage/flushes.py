"""Flushes made by hand, short enough to read in a test."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import numpy as np
from msgspec import structs

from ingest.ledger import Tally
from ingest.records import DeadLetter
from storage.flush import (
    Buried,
    Flush,
    Moved,
    Opened,
    Resolved,
    Ruled,
    SavedState,
    Shadowed,
    ShadowEnded,
    Step,
    Tallied,
    Worsened,
)
from storage.pages import Page, Severity
from storage.rows import Rows

TOPIC = "live.readings"
START_S = 1_700_000_000
MINUTE_S = START_S // 60 * 60
NONE = Rows.concatenate([])

Reading = tuple[int, int, float] | tuple[int, int, float, int]


def rows(*readings: Reading) -> Rows:
    """Return rows of (series, seconds, value) or (series, seconds, value, tally)."""
    full = [(*reading, 0)[:4] for reading in readings]
    series, seconds, value, tally = zip(*full, strict=True) if full else ((), (), (), ())
    count = len(full)
    return Rows(
        series_id=np.array(series, np.int32),
        time_ns=(np.array(seconds, np.int64) + START_S) * 10**9,
        value=np.array(value, np.float64),
        quality=np.ones(count, np.uint8),
        score=np.full(count, 0.5),
        expected=np.full(count, np.nan),
        band=np.full(count, np.nan),
        tally=np.array(tally, np.int32),
    )


def tallied(
    readings: int = 0,
    *,
    source: str = "traffic",
    minute_s: int = MINUTE_S,
    late: int = 0,
    **more: Any,
) -> Tallied:
    """Return a line of as many messages as readings."""
    counts: dict[str, Any] = {"messages": readings, "passed": readings} | more
    return Tallied("bridge-1", Tally(source, minute_s, readings=readings, **counts), late)


def rejected(reason: str = "malformed-json", **fields: Any) -> dict[str, Any]:
    """Return what a flush has of one message that was rejected."""
    tally = tallied(messages=1, passed=0, rejected=1, reasons={reason: 1})
    return {"tallies": [tally], "letters": [letter(reason, **fields)]}


def flush(
    step: tuple[int, int] | None = (0, 1),
    fresh: Rows = NONE,
    suspects: Rows = NONE,
    *,
    partition: int = 0,
    **more: Any,
) -> Flush:
    """Return a flush that moves one partition (expected, next)."""
    steps = [Step(TOPIC, partition, *step)] if step else []
    if "tallies" not in more:
        more["tallies"] = [tallied(len(fresh) + len(suspects))]
    return Flush(steps, fresh, suspects, **more)


def state(
    next_offset: int, content: bytes = b"state", *, partition: int = 0, stored: int | None = None
) -> SavedState:
    """Return a saved state; of a replay where rows are stored beyond it."""
    stored = next_offset if stored is None else stored
    return SavedState(TOPIC, partition, next_offset, stored, 1, content)


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(START_S, UTC) + timedelta(seconds=seconds)


def alert_id(sensor: str, seconds: int, category: str = "city") -> UUID:
    return uuid5(UUID(int=1), f"{sensor} {seconds} {category}")


def opened(series_id: int, seconds: int, *, category: str = "city", kind: str = "level") -> Opened:
    return Opened(series_id, 2.0, _page(series_id, seconds, None, category, kind))


def resolved(
    series_id: int, since: int, seconds: int, *, category: str = "city", kind: str = "level"
) -> Resolved:
    return Resolved(series_id, "good readings", _page(series_id, since, seconds, category, kind))


def moved(
    series_id: int, state: Any, seconds: int, *, category: Any = "city", kind: str = "level"
) -> Moved:
    return Moved(series_id, category, state, moment(seconds), "because", (kind,))


def worsened(
    series_id: int,
    since: int,
    seconds: int,
    *,
    severity: Severity = "critical",
    category: str = "city",
    kind: str = "level",
) -> Worsened:
    page = _page(series_id, since, None, category, kind)
    more = structs.replace(page, severity=severity, seen=22.5, upper=6.0, score=9.5, sentence="")
    return Worsened(series_id, 3.0, more, moment(seconds))


def shadowed(change: Opened | Resolved, shadow: str = "tight") -> Shadowed:
    return Shadowed(shadow, change)


def ended(*series_ids: int, seconds: int | None, shadow: str = "tight") -> ShadowEnded:
    return ShadowEnded(shadow, series_ids, None if seconds is None else moment(seconds))


def ruled(offset: int, rules: str = "{}", *, partition: int = 0) -> Ruled:
    return Ruled(TOPIC, partition, offset, f"f{rules}", rules, moment(offset))


def _page(series_id: int, since: int, until: int | None, category: Any, kind: str) -> Page:
    sensor = f"sensor-{series_id}"
    named = category if kind == "level" else f"{category} {kind}"
    return Page(
        namespace="live",
        alert_id=alert_id(sensor, since, named),
        event="firing" if until is None else "resolved",
        category=category,
        kind=kind,
        severity="major",
        sensor=sensor,
        quantity="intensity",
        unit="1",
        domain="traffic",
        zone="harbour",
        since=moment(since),
        resolved_at=None if until is None else moment(until),
        seen=12.5,
        expected=3.0,
        lower=1.0,
        upper=5.0,
        score=7.25,
    )


def letter(reason: str = "malformed-json", *, source: str = "traffic", **fields: Any) -> Buried:
    known: dict[str, Any] = {
        "mqtt_topic": "city/live/traffic/harbour/s",
        "reason": reason,
        "place": "$",
        "received_ns": START_S * 10**9,
        "payload": b"{",
    }
    return Buried("bridge-1", source, DeadLetter(**known | fields))


def everything(next_offset: int = 1, expected: int = 0) -> Flush:
    """Return a flush that writes to every table."""
    line = tallied(
        2,
        messages=3,
        rejected=1,
        withheld=2,
        repeated=1,
        refused=4,
        late=1,
        reasons={"malformed-json": 1, "bad-time": 4},
        kinds={"plate": 2},
    )
    return flush(
        (expected, next_offset),
        rows((1, next_offset, 1.0)),
        rows((1, next_offset - 50, 2.0)),
        tallies=[line],
        changes=[opened(1, next_offset), resolved(1, next_offset, next_offset + 1)],
        shadowed=[shadowed(opened(1, next_offset)), shadowed(resolved(1, 0, next_offset + 1))],
        ruled=[ruled(next_offset - 1)],
        letters=[letter(), letter("bad-time", records=4)],
        states=[state(next_offset)],
    )


def in_partitions(steps: Sequence[tuple[int, int, int]]) -> Flush:
    """Return a flush without rows that moves many partitions (partition, expected, next)."""
    return Flush([Step(TOPIC, *step) for step in steps], NONE, NONE)

"""What the verdicts mean for alerts: which open, get worse, close, and what people are told."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

import numpy as np

from detectors import CATEGORY_NAMES, HEALTH, KIND_NAMES, NEVER, RANGE, SILENCE, Silences
from ingest.quantities import QUANTITIES
from storage.flush import (
    Change,
    Claim,
    Moved,
    Opened,
    Resolved,
    Ruled,
    Shadowed,
    ShadowEnded,
    Worsened,
)
from storage.pages import (
    MISSING,
    UNITS,
    Category,
    Page,
    Severity,
    no_longer_judged,
    with_last_value,
)
from streams.minutes import Move
from streams.partition import Partition
from streams.rules import BY_MINUTES
from streams.ruling import Ruling
from streams.scoring import NewRules, Scored, Who

_ALERTS: Final = UUID("4c0d2f5e-5a6b-4a83-9f0b-6a0b7f9d7c11")  # namespace of alert ids
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# The suite has one alert of a series and category at a time, whatever its kind.
_SUITE: Final = KIND_NAMES
_SEVERITY: Final[dict[Category, Severity]] = {"city": "major", "sensor-health": "minor"}


def changes(partition: Partition, scored: Scored, namespace: str) -> list[Change]:
    """Return what becomes of alerts, in the order of the readings that say so.

    Parameters
    ----------
    partition : Partition
        Every series registered.
    scored : Scored
    namespace : str
    """
    found: list[tuple[int, Change]] = []
    back = scored.verdicts.returns
    for index in range(len(back)):
        row = int(back.row[index])
        series_id = int(partition.series_id[back.series[index]])
        category: Category = CATEGORY_NAMES[back.category[index]]
        at = _moment(int(scored.time_ns[row]))
        found.append(
            (row, Moved(series_id, category, "open", at, "the sensor speaks again", _SUITE))
        )
    moves = scored.verdicts.transitions
    for index in range(len(moves.row)):
        slot, row = int(moves.series[index]), int(moves.row[index])
        page = _page(scored.who[slot], scored, index, namespace)
        series_id = int(partition.series_id[slot])
        if moves.opened[index]:
            band = _finite(scored.verdicts.band[row])
            found.append((row, Opened(series_id, band, page, _SUITE)))
        else:
            found.append((row, Resolved(series_id, "good readings", page, _SUITE)))
    # Stable: an alert is no longer stale before its reading is judged.
    ordered = [change for _, change in sorted(found, key=_row)]
    if scored.silences is not None:
        ordered += _fallen_silent(partition, scored, scored.silences, namespace)
    for move in scored.moves:
        ordered.append(
            _by_minutes(partition, scored.who[move.slot], move, scored.ruling, namespace)
        )
    return ordered


def shadow_changes(
    partition: Partition, scored: Scored, namespace: str
) -> list[Shadowed | ShadowEnded]:
    """Return what becomes of the alerts of shadows, as `changes` does of those that are told."""
    found: list[Shadowed | ShadowEnded] = []
    for name, shadow in scored.shadows.items():
        theirs = replace(
            scored, verdicts=shadow.verdicts, silences=shadow.silences, moves=shadow.moves
        )
        found += [
            Shadowed(name, change)
            for change in changes(partition, theirs, namespace)
            # Nobody waits for an alert that may be stale, and none has a severity.
            if isinstance(change, (Opened, Resolved))
        ]
    new_rules = scored.new_rules
    if new_rules is not None and (new_rules.ended or new_rules.without_minutes):
        series_ids = partition.series_id[: new_rules.series].tolist()
        at = _reached(new_rules)
        found += [ShadowEnded(name, series_ids, at) for name in new_rules.ended]
        found += [
            ShadowEnded(name, series_ids, at, BY_MINUTES) for name in new_rules.without_minutes
        ]
    return found


def claims(partition: Partition, scored: Scored, number: int) -> list[Claim]:
    """Return the series that are read here, where the database has not been told yet.

    Of one that falls silent it is told again when it is heard again: it may have been elsewhere.

    Parameters
    ----------
    partition : Partition
        Every series registered; takes note of what is returned.
    scored : Scored
    number : int
        Of the partition.
    """
    found: list[Claim] = []
    claimed = partition.claimed
    if not claimed[scored.slot].all():
        verdicts = scored.verdicts
        rows = np.flatnonzero(~claimed[scored.slot] & verdicts.fresh & ~verdicts.late)
        slots, first = np.unique(scored.slot[rows], return_index=True)
        claimed[slots] = True
        times = scored.time_ns[rows[first]].tolist()
        ids = partition.series_id[slots].tolist()
        found = [Claim(one, number, _moment(at)) for one, at in zip(ids, times, strict=True)]
    if scored.silences is not None:
        claimed[scored.silences.series] = False
    return found


def ruled(topic: str, partition: int, new: NewRules) -> Ruled:
    """Return what is to be noted of new rules of a partition."""
    text = new.rules.canonical.decode()
    return Ruled(topic, partition, new.offset, new.rules.fingerprint, text, _reached(new))


def _reached(new: NewRules) -> datetime | None:
    """Return the event time up to which readings had come before new rules."""
    return None if new.watermark_ns == NEVER else _moment(new.watermark_ns)


def _row(pair: tuple[int, Change]) -> int:
    return pair[0]


def _fallen_silent(
    partition: Partition, scored: Scored, silences: Silences, namespace: str
) -> list[Change]:
    """Return the alerts that silences open and make stale.

    A sensor that falls silent does so with all its quantities. Each has its alert, but people are
    told of one.
    """
    found: list[Change] = []
    told: set[str] = set()
    for index in range(len(silences)):
        slot = int(silences.series[index])
        who, series_id = scored.who[slot], int(partition.series_id[slot])
        if silences.stale[index]:
            category: Category = CATEGORY_NAMES[silences.category[index]]
            at = _moment(scored.silent_ns)
            found.append(Moved(series_id, category, "stale", at, "no readings", _SUITE))
            continue
        opened_ns = int(silences.opened_ns[index])
        last = _finite(silences.last[index])
        page = Page(
            event="firing",
            kind=KIND_NAMES[SILENCE],
            since=_moment(opened_ns),
            seen=float(silences.pause_s[index]),
            expected=_finite(silences.usual_s[index]),
            upper=_finite(silences.allowed_s[index]),
            quality=MISSING if last is None else None,
            **_identity(who, HEALTH, opened_ns, namespace) | {"unit": UNITS["silence"]},
            severity=_severity(who, scored, SILENCE, HEALTH),
        )
        if last is not None:
            page = with_last_value(page, last, QUANTITIES[who.key.quantity].unit)
        found.append(Opened(series_id, None, page, _SUITE, is_told=who.key.sensor not in told))
        told.add(who.key.sensor)
    return found


def _by_minutes(
    partition: Partition, who: Who, move: Move, ruling: Ruling, namespace: str
) -> Change:
    """Return what becomes of an alert of the minute stage."""
    kind, series_id = move.kind, int(partition.series_id[move.slot])
    category: Category = CATEGORY_NAMES[kind.category]
    at = _moment(move.at_ns)
    if move.state in ("stale", "open"):
        return Moved(series_id, category, move.state, at, move.cause, (kind.name,))
    is_over = move.state == "resolved"
    expected, lower, upper = map(_finite, (move.expected, move.lower, move.upper))
    page = Page(
        event="resolved" if is_over else "firing",
        kind=kind.name,
        since=_moment(move.opened_ns),
        resolved_at=at if is_over else None,
        seen=float(np.nan_to_num(move.seen)),
        expected=expected,
        lower=lower,
        upper=upper,
        score=_finite(move.score),
        window=kind.window(who.key.quantity, move.level) if kind.window else None,
        **_identity(who, kind.category, move.opened_ns, namespace, kind=kind.name)
        | {"severity": ruling.severity(kind.name, who.key) or kind.severity_of(move.level)}
        | ({"unit": kind.unit} if kind.unit else {}),
    )
    if is_over:
        # Nothing was seen where what is set has changed.
        said = no_longer_judged(page, at) if math.isnan(move.seen) else page
        return Resolved(series_id, move.cause, said)
    if move.state == "worse":
        return Worsened(series_id, _half_width(page), page, at)
    return Opened(series_id, _half_width(page), page, is_told=move.is_told)


def _half_width(page: Page) -> float | None:
    """Return the half width of what was expected, where it lies evenly around it."""
    if page.expected is None or page.lower is None or page.upper is None:
        return None
    below, above = page.expected - page.lower, page.upper - page.expected
    return above if math.isclose(below, above, rel_tol=1e-6) else None


def _identity(
    who: Who, category: int, opened_ns: int, namespace: str, *, kind: str = ""
) -> dict[str, Any]:
    """Return the fields of a page that say which alert it speaks of.

    Alerts of the suite are known by their category, for it has one of each at a time; those of
    minutes by their kind as well.
    """
    key, card = who
    name: Category = CATEGORY_NAMES[category]
    identity = "|".join(filter(None, (namespace, key.sensor, key.quantity, name, kind)))
    identity = f"{identity}|{opened_ns}"
    return {
        "namespace": namespace,
        "alert_id": uuid5(_ALERTS, identity),
        "category": name,
        "sensor": key.sensor,
        "quantity": key.quantity,
        "unit": QUANTITIES[key.quantity].unit,
        "domain": key.domain,
        "zone": key.zone,
        "longitude": card.longitude if card else None,
        "latitude": card.latitude if card else None,
        "clock_offset_s": card.clock_offset_s if card else None,
    }


def _severity(who: Who, scored: Scored, kind: int, category: int) -> Severity:
    by_rules = scored.ruling.severity(KIND_NAMES[kind], who.key)
    return by_rules or _SEVERITY[CATEGORY_NAMES[category]]


def _page(who: Who, scored: Scored, index: int, namespace: str) -> Page:
    """Return the page of one transition."""
    verdicts = scored.verdicts
    moves = verdicts.transitions
    row = int(moves.row[index])
    opened_ns = int(moves.opened_ns[index])
    expected, band = _finite(verdicts.expected[row]), _finite(verdicts.band[row])
    resolved_at = None if moves.opened[index] else _moment(int(scored.time_ns[row]))
    lower = upper = None
    if moves.kind[index] == RANGE:
        limits = scored.ruling.limits([who.key])
        lower, upper = _finite(limits.low[0]), _finite(limits.high[0])
    elif expected is not None and band is not None:
        lower, upper = expected - band, expected + band
    return Page(
        event="firing" if resolved_at is None else "resolved",
        kind=KIND_NAMES[moves.kind[index]],
        since=_moment(opened_ns),
        resolved_at=resolved_at,
        # A page is JSON, which has no infinity; such a value is out of any range either way.
        seen=float(np.nan_to_num(scored.value[row])),
        expected=expected,
        lower=lower,
        upper=upper,
        score=_finite(verdicts.score[row]),
        # Nothing was seen at all where it is not a number.
        quality=MISSING if math.isnan(scored.value[row]) else int(verdicts.quality[row]),
        **_identity(who, int(moves.category[index]), opened_ns, namespace),
        severity=_severity(who, scored, int(moves.kind[index]), int(moves.category[index])),
    )


def _moment(time_ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_ns // 1_000)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

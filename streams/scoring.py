"""Messages of a partition to scored rows and alert changes: pure, but for the partition's state."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID, uuid5

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from detectors import CATEGORY_NAMES, KIND_NAMES, Transitions, Verdicts
from ingest import reject
from ingest.batch import BatchError, ReadingBatch, decode
from ingest.ledger import COUNTS, SensorCard, Tally
from ingest.quantities import QUANTITIES
from ingest.records import DeadLetter, Provenance
from ingest.topics import SeriesKey
from storage.flush import Buried, Opened, Resolved, Tallied
from storage.pages import Category, Page, Severity, sentence
from storage.rows import Rows
from streams.partition import Partition

# What a worker keeps of a Kafka message that nobody has counted. Of one that a bridge wrote it
# keeps all, which Kafka bounds: after a fix its readings can be stored.
_MAX_FOREIGN_BYTES: Final = 65_536
_MAX_PLACE: Final = 200
_ALERTS: Final = UUID("4c0d2f5e-5a6b-4a83-9f0b-6a0b7f9d7c11")  # namespace of alert ids
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Of a message whose headers cannot be read: it may be another namespace's.
NOBODY: Final = Provenance("unknown", [])
_NOTHING: Final = Tally("unknown", 0)
_SEVERITY: Final[dict[Category, Severity]] = {"city": "major", "sensor-health": "minor"}


class Message(NamedTuple):
    """One message of a partition's log.

    Parameters
    ----------
    offset : int
    provenance : Provenance
    value : bytes
    """

    offset: int
    provenance: Provenance
    value: bytes


class _Line(NamedTuple):
    totals: Counter[str]
    reasons: Counter[str]
    kinds: Counter[str]


@dataclass(slots=True)
class Ledger:
    """The tallies of one flush, each (bridge, source, minute) once."""

    _lines: list[_Line] = field(default_factory=list)
    _index: dict[tuple[str, str, int], int] = field(default_factory=dict)

    @property
    def tallies(self) -> list[Tallied]:
        """What was added, a line for each index that `add` returned."""
        return [
            Tallied(
                bridge,
                Tally(
                    source,
                    minute_s,
                    reasons=dict(line.reasons),
                    kinds=dict(line.kinds),
                    **line.totals,
                ),
            )
            for (bridge, source, minute_s), line in zip(self._index, self._lines, strict=True)
        ]

    def add(self, bridge: str, tally: Tally) -> int:
        """Add what a tally counts; return the index that rows refer to."""
        key = (bridge, tally.source, tally.minute_s)
        index = self._index.setdefault(key, len(self._lines))
        if index == len(self._lines):
            self._lines.append(_Line(Counter(), Counter(), Counter()))
        line = self._lines[index]
        for name in COUNTS:
            line.totals[name] += getattr(tally, name)
        line.reasons.update(tally.reasons)
        line.kinds.update(tally.kinds)
        return index


@dataclass(frozen=True, slots=True)
class Scored:
    """Readings of one partition with their verdicts; replayed ones are gone already.

    Parameters
    ----------
    slot : (n,) int32
        Index into the partition's series.
    time_ns, value : (n,) int64, (n,) float64
    tally : (n,) int32
    verdicts : Verdicts
        Row by row; `verdicts.transitions.row` indexes these columns.
    """

    slot: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    tally: NDArray[np.int32]
    verdicts: Verdicts

    def rows(self, partition: Partition) -> Rows:
        """Return the rows to store; every series must be registered."""
        verdicts = self.verdicts
        return Rows(
            series_id=partition.series_id[self.slot],
            time_ns=self.time_ns,
            value=self.value,
            quality=verdicts.quality,
            score=verdicts.score,
            expected=verdicts.expected,
            band=verdicts.band,
            tally=self.tally,
        )


def score(
    partition: Partition, messages: Sequence[Message], ledger: Ledger
) -> tuple[Scored | None, list[Buried]]:
    """Run the detectors over messages the partition has not seen, in log order.

    Messages whose rows are stored already (after a restart) pass through the detectors too, and
    nothing of them is returned. A message that cannot be read becomes dead letters.

    Parameters
    ----------
    partition : Partition
        Advanced in place to behind the last message.
    messages : sequence of Message
        Consecutive, the first at or behind `partition.seen`.
    ledger : Ledger
        Receives what the messages count.
    """
    batches: list[ReadingBatch] = []
    slots: list[NDArray[np.int32]] = []
    tallies: list[NDArray[np.int32]] = []
    letters: list[Buried] = []
    replayed = 0
    for message in messages:
        is_replay = message.offset < partition.stored
        partition.seen = message.offset + 1
        try:
            batch = _batch(message)
            slot = partition.slots(batch.keys)[batch.series]
        except (BatchError, ValueError) as error:
            if not is_replay:
                letters += _unreadable_batch(message, ledger, error)
            continue
        batches.append(batch)
        slots.append(slot)
        if is_replay:
            replayed += len(batch)
            tallies.append(np.zeros(len(batch), np.int32))
        else:
            tallies.append(_tally(message, batch, ledger))
    if not batches:
        return None, letters
    slot = np.concatenate(slots)
    time_ns = np.concatenate([batch.time_ns for batch in batches])
    value = np.concatenate([batch.value for batch in batches])
    quality = np.concatenate([batch.quality for batch in batches])
    verdicts = partition.suite.step(slot, time_ns, value, quality)
    scored = Scored(slot, time_ns, value, np.concatenate(tallies), verdicts)
    return _behind(scored, replayed), letters


def changes(
    partition: Partition,
    scored: Scored,
    namespace: str,
    places: Mapping[str, SensorCard],
) -> list[Opened | Resolved]:
    """Return the alerts that open and resolve, in the order of their readings.

    Parameters
    ----------
    partition : Partition
        Every series registered.
    scored : Scored
    namespace : str
    places : mapping of sensor to SensorCard
        Where sensors stand, as far as it is known.
    """
    found: list[Opened | Resolved] = []
    moves = scored.verdicts.transitions
    for index in range(len(moves.row)):
        slot, row = int(moves.series[index]), int(moves.row[index])
        key = partition.keys[slot]
        page = _page(key, scored, index, namespace, places.get(key.sensor))
        series_id = int(partition.series_id[slot])
        if moves.opened[index]:
            found.append(Opened(series_id, _finite(scored.verdicts.band[row]), page))
        else:
            found.append(Resolved(series_id, "good readings", page))
    return found


def _batch(message: Message) -> ReadingBatch:
    if message.provenance is NOBODY:
        raise BatchError("its headers are not those of a bridge of this namespace")
    return decode(message.value)


def _unreadable_batch(message: Message, ledger: Ledger, error: ValueError) -> list[Buried]:
    provenance = message.provenance
    tallies = provenance.tallies or [_NOTHING]
    place = f"offset {message.offset}: {error}"
    letters = []
    for index, tally in enumerate(tallies):
        # Readings were passed on and cannot be stored: they count as refused. Where it cannot be
        # said how many, the message itself is one.
        lost = tally.readings or int(index == 0 and not any(one.readings for one in tallies))
        if lost:
            letters.append(_refused(provenance.bridge, tally, lost, place, message.value, ledger))
        else:
            ledger.add(provenance.bridge, tally)
    return letters


def unreadable_letter(
    topic: str, message: Message, ledger: Ledger, error: ValueError | None
) -> Buried:
    """Count a message of the dead letters' topic that is none itself, and return what it becomes.

    Parameters
    ----------
    topic : str
        Of Kafka.
    message : Message
    ledger : Ledger
    error : ValueError or None
        What is wrong with it; None where it is its provenance.
    """
    bridge = message.provenance.bridge
    tally, *others = message.provenance.tallies or [_NOTHING]
    for other in others:
        ledger.add(bridge, other)
    place = f"{topic} offset {message.offset}: {error or 'not of a bridge of this namespace'}"
    if not tally.rejected and not tally.refused:
        return _refused(bridge, tally, 1, place, message.value, ledger)
    ledger.add(bridge, tally)
    return _unreadable(bridge, tally, tally.refused, place, message.value)


def _refused(
    bridge: str, tally: Tally, lost: int, place: str, value: bytes, ledger: Ledger
) -> Buried:
    """Count what a tally accounts for, but `lost` of its records as refused."""
    reasons = Counter(tally.reasons)
    reasons[reject.UNREADABLE_BATCH] += lost
    refused = structs.replace(
        tally, readings=0, refused=tally.refused + lost, reasons=dict(reasons)
    )
    ledger.add(bridge, refused)
    return _unreadable(bridge, tally, lost, place, value)


def _unreadable(bridge: str, tally: Tally, records: int, place: str, value: bytes) -> Buried:
    letter = DeadLetter(
        mqtt_topic="",
        reason=reject.UNREADABLE_BATCH,
        place=place[:_MAX_PLACE],
        received_ns=tally.minute_s * 10**9,
        payload=value[:_MAX_FOREIGN_BYTES] if tally is _NOTHING else value,
        records=records,
    )
    return Buried(bridge, tally.source, letter)


def _tally(message: Message, batch: ReadingBatch, ledger: Ledger) -> NDArray[np.int32]:
    """Return the ledger index of each reading: by its source, in the message's minute."""
    bridge = message.provenance.bridge
    index = {tally.source: ledger.add(bridge, tally) for tally in message.provenance.tallies}
    minute = max((tally.minute_s for tally in message.provenance.tallies), default=0)
    of_key = np.empty(len(batch.keys), np.int32)
    for code, text in enumerate(batch.keys):
        source = text[: text.index("/")]
        if source not in index:  # uncounted by the bridge: the audit will show it
            index[source] = ledger.add(bridge, Tally(source, minute))
        of_key[code] = index[source]
    return of_key[batch.series]


def _behind(scored: Scored, start: int) -> Scored | None:
    """Return the rows from `start` on, with the transitions they caused."""
    if start == 0:
        return scored
    if start == len(scored.slot):
        return None
    verdicts = scored.verdicts
    moves = verdicts.transitions
    kept = moves.row >= start
    return Scored(
        scored.slot[start:],
        scored.time_ns[start:],
        scored.value[start:],
        scored.tally[start:],
        Verdicts(
            fresh=verdicts.fresh[start:],
            quality=verdicts.quality[start:],
            score=verdicts.score[start:],
            expected=verdicts.expected[start:],
            band=verdicts.band[start:],
            transitions=Transitions(
                row=moves.row[kept] - start,
                series=moves.series[kept],
                category=moves.category[kept],
                kind=moves.kind[kept],
                opened=moves.opened[kept],
                opened_ns=moves.opened_ns[kept],
            ),
        ),
    )


def _page(
    key: SeriesKey, scored: Scored, index: int, namespace: str, card: SensorCard | None
) -> Page:
    """Return the page of one transition."""
    verdicts = scored.verdicts
    moves = verdicts.transitions
    row = int(moves.row[index])
    category: Category = CATEGORY_NAMES[moves.category[index]]
    opened_ns = int(moves.opened_ns[index])
    expected, band = _finite(verdicts.expected[row]), _finite(verdicts.band[row])
    identity = f"{namespace}|{key.sensor}|{key.quantity}|{category}|{opened_ns}"
    unit = QUANTITIES[key.quantity].unit
    kind = KIND_NAMES[moves.kind[index]]
    # A page is JSON, which has no infinity; such a value is out of any range either way.
    seen = float(np.nan_to_num(scored.value[row]))
    since = _moment(opened_ns)
    resolved_at = None if moves.opened[index] else _moment(int(scored.time_ns[row]))
    lower = upper = None
    if expected is not None and band is not None:
        lower, upper = expected - band, expected + band
    page = Page(
        namespace=namespace,
        alert_id=uuid5(_ALERTS, identity),
        event="firing" if resolved_at is None else "resolved",
        category=category,
        kind=kind,
        severity=_SEVERITY[category],
        sensor=key.sensor,
        quantity=key.quantity,
        unit=unit,
        domain=key.domain,
        zone=key.zone,
        longitude=card.longitude if card else None,
        latitude=card.latitude if card else None,
        since=since,
        resolved_at=resolved_at,
        seen=seen,
        expected=expected,
        lower=lower,
        upper=upper,
        score=_finite(verdicts.score[row]),
        quality=int(verdicts.quality[row]),
        clock_offset_s=card.clock_offset_s if card else None,
    )
    return structs.replace(page, sentence=sentence(page))


def _moment(time_ns: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_ns // 1_000)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

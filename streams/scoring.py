"""Messages of a partition to scored rows: pure, but for the partition's state.

One long module, a third of it what passes between judging and storing: it is read with the loop
that makes it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from detectors import (
    Returns,
    Silences,
    Suite,
    Transitions,
    Verdicts,
)
from ingest import reject
from ingest.batch import BatchError, ReadingBatch, decode
from ingest.ledger import COUNTS, SensorCard, Tally
from ingest.records import DeadLetter, Provenance
from ingest.topics import SeriesKey
from storage.flush import Buried, Tallied
from storage.rows import Rows
from streams.minutes import MinuteStage, Move, Standing
from streams.partition import Partition
from streams.rules import CONTROL, Rules, decode_rules
from streams.ruling import Ruling
from streams.watermark import Turn

# What a worker keeps of a Kafka message that nobody has counted. Of one that a bridge wrote it
# keeps all, which Kafka bounds: after a fix its readings can be stored.
_MAX_FOREIGN_BYTES: Final = 65_536
_MAX_PLACE: Final = 200
# QARTOD: from here on a reading is doubtful.
_SUSPECT: Final = 3
# Of a message whose headers cannot be read: it may be another namespace's.
NOBODY: Final = Provenance("unknown", [])
_NOTHING: Final = Tally("unknown", 0)


class Message(NamedTuple):
    """One message of a partition's log.

    Parameters
    ----------
    offset : int
    provenance : Provenance
    value : bytes
    refusal : str or None
        Why the database does not take it, where that is known.
    """

    offset: int
    provenance: Provenance
    value: bytes
    refusal: str | None = None


class _Line(NamedTuple):
    totals: Counter[str]
    reasons: Counter[str]
    kinds: Counter[str]


@dataclass(slots=True)
class Ledger:
    """The tallies of one flush, each (bridge, source, minute) once."""

    _lines: list[_Line] = field(default_factory=list)
    _late: list[int] = field(default_factory=list)
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
                late,
            )
            for (bridge, source, minute_s), line, late in zip(
                self._index, self._lines, self._late, strict=True
            )
        ]

    def add(self, bridge: str, tally: Tally) -> int:
        """Add what a tally counts; return the index that rows refer to."""
        key = (bridge, tally.source, tally.minute_s)
        index = self._index.setdefault(key, len(self._lines))
        if index == len(self._lines):
            self._lines.append(_Line(Counter(), Counter(), Counter()))
            self._late.append(0)
        line = self._lines[index]
        for name in COUNTS:
            line.totals[name] += getattr(tally, name)
        line.reasons.update(tally.reasons)
        line.kinds.update(tally.kinds)
        return index

    def add_late(self, tally: NDArray[np.int32]) -> None:
        """Count readings that came too late, by the indices that `add` returned for them."""
        for index, count in enumerate(np.bincount(tally).tolist()):
            self._late[index] += count


class Who(NamedTuple):
    """What was known of a series when it was judged.

    Parameters
    ----------
    key : SeriesKey
    card : SensorCard or None
    """

    key: SeriesKey
    card: SensorCard | None


@dataclass(frozen=True, slots=True)
class Shadow:
    """What a shadow says of the same readings, and what it found silent and moved behind them."""

    verdicts: Verdicts
    silences: Silences | None
    moves: Sequence[Move] = ()


class NewRules(NamedTuple):
    """Rules that hold from an offset on.

    Parameters
    ----------
    offset : int
    rules : Rules
    watermark_ns : int
        Where the watermark stood.
    ended : tuple of str
        Shadows that they no longer have.
    without_minutes : tuple of str
        Shadows that no longer have a minute stage.
    series : int
        How many series there were.
    """

    offset: int
    rules: Rules
    watermark_ns: int
    ended: tuple[str, ...]
    without_minutes: tuple[str, ...]
    series: int


@dataclass(frozen=True, slots=True)
class Scored:
    """Readings of one partition with their verdicts; replayed ones are gone already.

    Parameters
    ----------
    who : mapping of int to Who
        By slot, of those series that an alert may speak of.
    silences : Silences or None
        What fell silent behind these readings, and what became stale.
    silent_ns : int
        Watermark by which that was judged.
    moves : sequence of Move
        What the minutes that were closed behind these readings mean for alerts.
    slot : (n,) int32
        Index into the partition's series.
    time_ns, value : (n,) int64, (n,) float64
    tally : (n,) int32
    score : (n,) float64
        Of readings, as they are stored.
    verdicts : Verdicts
        Row by row; `verdicts.transitions.row` indexes these columns. Of readings at which an alert
        of `level` opens or closes the score is calibrated (`Levels.rated`).
    ruling : Ruling
        The rules by which all this was judged.
    shadows : mapping of str to Shadow
        By their names.
    new_rules : NewRules or None
        What holds behind it.
    """

    who: Mapping[int, Who]
    silences: Silences | None
    silent_ns: int
    moves: Sequence[Move]
    slot: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    tally: NDArray[np.int32]
    score: NDArray[np.float64]
    verdicts: Verdicts
    ruling: Ruling
    shadows: Mapping[str, Shadow]
    new_rules: NewRules | None = None

    def rows(self, partition: Partition) -> Rows:
        """Return the rows to store; every series must be registered."""
        verdicts = self.verdicts
        return Rows(
            series_id=partition.series_id[self.slot],
            time_ns=self.time_ns,
            value=self.value,
            quality=verdicts.quality,
            score=self.score,
            expected=verdicts.expected,
            band=verdicts.band,
            tally=self.tally,
        )


class _Judged(NamedTuple):
    """Readings of a stretch, what they score, and what is said of them."""

    slot: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    score: NDArray[np.float64]
    verdicts: Verdicts


@dataclass(slots=True)
class _Stretch:
    """Messages that are judged in one step: those up to a check for silences, or new rules."""

    replayed: int = 0
    slots: list[NDArray[np.int32]] = field(default_factory=list)
    batches: list[ReadingBatch] = field(default_factory=list)
    tallies: list[NDArray[np.int32]] = field(default_factory=list)
    watermarks: list[NDArray[np.int64]] = field(default_factory=list)
    # What the shadows say of it.
    shadows: dict[str, Verdicts] = field(default_factory=dict)
    silences: dict[str, Silences] = field(default_factory=dict)
    moves: dict[str, list[Move]] = field(default_factory=dict)
    new_rules: NewRules | None = None


def score(
    partition: Partition, messages: Sequence[Message], ledger: Ledger
) -> tuple[list[Scored], list[Buried]]:
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

    Returns
    -------
    scored : list of Scored
        In log order. A check ends one, so what fell silent, and what closed minutes say, stands
        between what was read before and after it; and so do new rules.
    letters : list of Buried
    """
    scored: list[Scored] = []
    letters: list[Buried] = []
    stretch = _Stretch()
    for message in messages:
        is_replay = message.offset < partition.stored
        partition.seen = message.offset + 1
        try:
            if message.provenance.control is not None:
                found, stretch = _obeyed(partition, message, stretch, is_replay=is_replay)
                scored += found
                continue
            batch = _batch(message)
            numbers = partition.numbers(batch.keys)
        except (BatchError, ValueError) as error:
            if not is_replay:
                letters += _unreadable_batch(message, ledger, error)
            continue
        cards = message.provenance.cards
        if not partition.is_told(numbers, cards):
            # What an alert says is what was known at its reading, however a flush is cut.
            scored += _new(partition, stretch, _judged(partition, stretch))
            stretch = _Stretch()
        partition.tell(numbers, cards, batch)
        slot = partition.slot_of[numbers][batch.series]
        before_ns, turn = _moved(partition, message, batch, slot)
        stretch.batches.append(batch)
        stretch.slots.append(slot)
        stretch.watermarks.append(np.full(len(batch), before_ns))
        if is_replay:
            stretch.replayed += len(batch)
            stretch.tallies.append(np.zeros(len(batch), np.int32))
        else:
            domain = partition.domain_of[numbers]
            stretch.tallies.append(_tally(message, partition.domains, domain, ledger)[batch.series])
        if turn.hole_ns is not None or turn.check_ns is not None:
            scored += _checked(partition, stretch, turn, is_replay=is_replay)
            stretch = _Stretch()
    scored += _new(partition, stretch, _judged(partition, stretch))
    for part in scored:
        late = part.tally[part.verdicts.late]
        if len(late):
            ledger.add_late(late)
    return scored, letters


def _obeyed(
    partition: Partition, message: Message, stretch: _Stretch, *, is_replay: bool
) -> tuple[list[Scored], _Stretch]:
    """Judge a stretch, and what comes behind it by the rules of a message; return what follows.

    Raises
    ------
    BatchError, RulesError
        If they are refused; nothing has changed then.
    """
    if message.refusal is not None:
        raise BatchError(message.refusal)
    if message.provenance.control != CONTROL:
        raise BatchError(f"no message of this kind is known: {message.provenance.control!r}")
    rules = decode_rules(message.value)
    if rules.fingerprint == partition.ruling.rules.fingerprint:
        return [], stretch  # said again
    ruling = partition.ruled(rules)
    judged = _judged(partition, stretch)
    if not is_replay:
        ended = partition.shadows.keys() - ruling.shadows.keys()
        without = partition.shadow_minutes.keys() - ruling.with_minutes - ended
        stretch.new_rules = NewRules(
            message.offset,
            rules,
            partition.watermark.now_ns,
            tuple(sorted(ended)),
            tuple(sorted(without)),
            len(partition.keys),
        )
    found = _new(partition, stretch, judged, None, 0)
    partition.obey(ruling)
    return found, _Stretch()


def _checked(
    partition: Partition, stretch: _Stretch, turn: Turn, *, is_replay: bool
) -> list[Scored]:
    """Judge a stretch, look for those that have fallen silent behind it, and close minutes."""
    judged = _judged(partition, stretch)
    silences = None
    if turn.hole_ns is not None:
        for suite in (partition.suite, *partition.shadows.values()):
            suite.excuse(turn.hole_ns)
    elif turn.check_ns is not None:
        found = partition.suite.silences(turn.check_ns)
        silences = None if is_replay or not len(found) else found
        for name, shadow in partition.shadows.items():
            found = shadow.silences(turn.check_ns)
            if len(found) and not is_replay:
                stretch.silences[name] = found
    moves: list[Move] = []
    if turn.check_ns is not None:
        partition.check_levels(turn.check_ns)
        moves = partition.minutes.check(turn.check_ns, _standing(partition.suite))
        if is_replay:
            moves = []
        for name, stage in partition.shadow_minutes.items():
            theirs = stage.check(turn.check_ns, _standing(partition.shadows[name]))
            if theirs and not is_replay:
                stretch.moves[name] = theirs
    return _new(partition, stretch, judged, silences, turn.check_ns or 0, moves)


def _standing(suite: Suite) -> Standing:
    return Standing(suite.in_doubt(), suite.in_alert(), suite.are_silent())


def _moved(
    partition: Partition, message: Message, batch: ReadingBatch, slot: NDArray[np.int32]
) -> tuple[int, Turn]:
    """Move the partition's watermark; return where it stood before the message."""
    before_ns = partition.watermark.now_ns
    provenance = message.provenance
    if provenance.arrived_ns is not None and partition.watermark.trusts(provenance.bridge):
        for stage in (partition.minutes, *partition.shadow_minutes.values()):
            stage.hear(slot, batch.time_ns, provenance.arrived_ns)
    turn = partition.watermark.move(
        partition.sensor[slot],
        batch.time_ns,
        batch.quality,
        bridge=provenance.bridge,
        arrived_ns=provenance.arrived_ns,
        complete_ns=provenance.complete_ns,
    )
    return before_ns, turn


def _judged(partition: Partition, stretch: _Stretch) -> _Judged:
    batches = stretch.batches
    slot = _whole(stretch.slots, np.int32)
    time_ns = _whole([batch.time_ns for batch in batches], np.int64)
    value = _whole([batch.value for batch in batches], np.float64)
    quality = _whole([batch.quality for batch in batches], np.uint8)
    watermark_ns = _whole(stretch.watermarks, np.int64)
    verdicts = partition.suite.step(slot, time_ns, value, quality, watermark_ns)
    partition.levels.see(slot, verdicts.score)
    _take(partition.minutes, slot, time_ns, value, verdicts)
    for name, shadow in partition.shadows.items():
        theirs = shadow.step(slot, time_ns, value, quality, watermark_ns)
        stretch.shadows[name] = partition.shadow_levels[name].rated(theirs)
        partition.shadow_levels[name].see(slot, theirs.score)
        if name in partition.shadow_minutes:
            _take(partition.shadow_minutes[name], slot, time_ns, value, theirs)
    return _Judged(slot, time_ns, value, verdicts.score, partition.levels.rated(verdicts))


def _take(
    minutes: MinuteStage,
    slot: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    verdicts: Verdicts,
) -> None:
    """Give a minute stage what its suite finds usable."""
    usable = verdicts.fresh & ~verdicts.late & (verdicts.quality < _SUSPECT)
    if usable.all():
        minutes.take(slot, time_ns, value)
    else:
        minutes.take(slot[usable], time_ns[usable], value[usable])


def _whole(parts: list[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _new(
    partition: Partition,
    stretch: _Stretch,
    judged: _Judged,
    silences: Silences | None = None,
    silent_ns: int = 0,
    moves: Sequence[Move] = (),
) -> list[Scored]:
    """Return what is not replayed, if there is anything."""
    tally = _whole(stretch.tallies, np.int32)
    start = stretch.replayed
    of_shadows = stretch.silences or stretch.moves
    nothing_behind = silences is None and not of_shadows and stretch.new_rules is None
    if start == len(tally) and nothing_behind and not moves:
        return []
    slot, time_ns, value, score, verdicts = judged
    named = set(verdicts.transitions.series.tolist())
    for theirs in stretch.shadows.values():
        named.update(theirs.transitions.series.tolist())
    for quiet in (silences, *stretch.silences.values()):
        if quiet is not None:
            named.update(quiet.series.tolist())
    for some in (moves, *stretch.moves.values()):
        named.update(move.slot for move in some)
    who = {one: _who(partition, one) for one in named}
    shadows = {
        name: Shadow(theirs, stretch.silences.get(name), stretch.moves.get(name, ()))
        for name, theirs in stretch.shadows.items()
    }
    whole = Scored(
        who,
        silences,
        silent_ns,
        moves,
        slot,
        time_ns,
        value,
        tally,
        score,
        verdicts,
        partition.ruling,
        shadows,
        stretch.new_rules,
    )
    return [_behind(whole, start) if start else whole]


def _who(partition: Partition, slot: int) -> Who:
    key = partition.keys[slot]
    return Who(key, partition.cards.get(key.sensor))


def _batch(message: Message) -> ReadingBatch:
    if message.refusal is not None:
        raise BatchError(message.refusal)
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
            letters.append(_refused(message, tally, lost, place, ledger))
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
        return _refused(message, tally, 1, place, ledger)
    ledger.add(bridge, tally)
    return _unreadable(message, tally, tally.refused, place)


def _refused(message: Message, tally: Tally, lost: int, place: str, ledger: Ledger) -> Buried:
    """Count what a tally accounts for, but `lost` of its records as refused."""
    reasons = Counter(tally.reasons)
    reasons[_reason(message)] += lost
    refused = structs.replace(
        tally, readings=0, refused=tally.refused + lost, reasons=dict(reasons)
    )
    ledger.add(message.provenance.bridge, refused)
    return _unreadable(message, tally, lost, place)


def _reason(message: Message) -> str:
    is_batch = message.provenance.control is None
    return reject.UNREADABLE_BATCH if is_batch else reject.UNREADABLE_RULES


def _unreadable(message: Message, tally: Tally, records: int, place: str) -> Buried:
    value = message.value
    letter = DeadLetter(
        mqtt_topic="",
        reason=_reason(message),
        place=place[:_MAX_PLACE],
        received_ns=tally.minute_s * 10**9,
        payload=value[:_MAX_FOREIGN_BYTES] if tally is _NOTHING else value,
        records=records,
    )
    return Buried(message.provenance.bridge, tally.source, letter)


def _tally(
    message: Message, domains: Sequence[str], domain: NDArray[np.int32], ledger: Ledger
) -> NDArray[np.int32]:
    """Return the ledger index of each dictionary entry: by its domain, in the message's minute."""
    bridge = message.provenance.bridge
    index = {tally.source: ledger.add(bridge, tally) for tally in message.provenance.tallies}
    minute = max((tally.minute_s for tally in message.provenance.tallies), default=0)
    place = np.zeros(len(domains), np.int32)
    for code in np.flatnonzero(np.bincount(domain, minlength=len(domains))).tolist():
        source = domains[code]
        if source not in index:  # uncounted by the bridge: the audit will show it
            index[source] = ledger.add(bridge, Tally(source, minute))
        place[code] = index[source]
    return place[domain]


def _behind(scored: Scored, start: int) -> Scored:
    """Return the rows from `start` on, with what they caused."""
    return replace(
        scored,
        slot=scored.slot[start:],
        time_ns=scored.time_ns[start:],
        value=scored.value[start:],
        tally=scored.tally[start:],
        score=scored.score[start:],
        verdicts=_verdicts_behind(scored.verdicts, start),
        shadows={
            name: replace(shadow, verdicts=_verdicts_behind(shadow.verdicts, start))
            for name, shadow in scored.shadows.items()
        },
    )


def _verdicts_behind(verdicts: Verdicts, start: int) -> Verdicts:
    moves, back = verdicts.transitions, verdicts.returns
    kept, kept_back = moves.row >= start, back.row >= start
    return Verdicts(
        fresh=verdicts.fresh[start:],
        late=verdicts.late[start:],
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
        returns=Returns(
            row=back.row[kept_back] - start,
            series=back.series[kept_back],
            category=back.category[kept_back],
            opened_ns=back.opened_ns[kept_back],
        ),
    )

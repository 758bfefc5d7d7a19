"""The worker: collects messages, scores them, commits a flush, and then lets Kafka forget.

It knows nothing of Faust, so that its promises can be tested without it. The promises: a message is
acknowledged only when the database holds its rows and a detector state that has seen it; a flush
that fails is tried again, never dropped; a partition that another worker owns stops this one.

One long module, because all of it moves the same queues and offsets under the same lock.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import psycopg
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from detectors import NEVER, StateError, SuiteConfig
from ingest.ledger import SensorCard
from ingest.records import MAX_TIME_NS, DeadLetter, HeaderError, Provenance
from ingest.topics import dead_letters_topic, readings_topic
from storage.flush import Buried, Flush, Gap, Ruled, SavedState, Shadowed, ShadowEnded, Step
from storage.rows import Rows
from storage.sink import Outcome, Resumption, Sink
from streams.alerts import changes, claims, ruled, shadow_changes
from streams.facts import CityFacts
from streams.meter import Meter
from streams.partition import STATE_VERSION, Partition
from streams.patience import REFUSALS, Origin, Quarantine, Refusal, is_passing, words
from streams.progress import Activity
from streams.scoring import NOBODY, Ledger, Message, Scored, score, unreadable_letter

_LOG = logging.getLogger(__name__)
_BACKOFF_CAP_S: Final = 10.0
# What the database gets when the worker must stop or let partitions go: less than the group's
# session timeout of 6 s and than what supervisors wait before they kill (10 s).
_GRACE_S: Final = 4.0
_MAX_RECORDS: Final = 2**40
# Of the worker's time that saving state may take: the next save waits for as long as the last one
# has earned it. The promise is 5 %; what a save costs varies.
_SAVE_SHARE: Final = 0.02
# A reading's share of a message, at the most: its row, and a key of its own. What is heavier counts
# as so many rows, so that the bounds on rows are bounds on memory.
_ROW_BYTES: Final = 128
# What a message weighs besides its payload: its headers, and what Faust keeps of it.
_MESSAGE_BYTES: Final = 4_096
# For how long missing messages are asked for again, and how often: the consumer hands over what it
# had fetched before it comes to them.
_ASK_FOR_S: Final = 15.0
_ASK_EVERY_S: Final = 2.0

TopicPartition = tuple[str, int]
_T = TypeVar("_T")


class GapError(Exception):
    """Messages are missing that were asked for again: start again from what is saved."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker needs to know.

    Parameters
    ----------
    namespace : str
    flush_interval_s : float
        Longest wait of a message before it is committed.
    max_flush_rows : int
        Readings after which a flush does not wait, and about the most that one holds.
    max_pending_rows : int
        Readings held at most; beyond it `take` waits.
    state_interval_s : float
        How often the detector state of a partition is saved, which is what a restart must replay;
        less often where that would take more than a few per cent of the worker's time.
    max_held_bytes : int
        Messages kept until a saved state has seen them; beyond it state is saved at once.
    suite : SuiteConfig
        Thresholds of the detectors.
    facts : CityFacts
        What the kernels of the minute stage must know of the city, where the log does not say.
    """

    namespace: str
    flush_interval_s: float
    max_flush_rows: int
    max_pending_rows: int
    state_interval_s: float
    max_held_bytes: int = 256 << 20
    suite: SuiteConfig = field(default_factory=SuiteConfig)
    facts: CityFacts = field(default_factory=CityFacts)


class Delivery(NamedTuple):
    """One Kafka message as the consumer hands it over.

    Parameters
    ----------
    topic, partition, offset : str, int, int
    headers : mapping of str to bytes
    value : bytes
    handle : object
        Given back to acknowledge it.
    """

    topic: str
    partition: int
    offset: int
    headers: Mapping[str, bytes]
    value: bytes
    handle: Any


class _Queued(NamedTuple):
    """A message, where it comes from, and how many readings it counts as."""

    delivery: Delivery
    provenance: Provenance
    rows: int

    @property
    def size(self) -> int:
        """Bytes it keeps in memory, about."""
        return len(self.delivery.value) + _MESSAGE_BYTES

    @property
    def origin(self) -> Origin:
        """Where it stands in Kafka."""
        return Origin(*self.delivery[:3])


class _Taken(NamedTuple):
    """A message that a flush has drawn, and why it must not be stored, if it must not."""

    delivery: Delivery
    provenance: Provenance
    refusal: Refusal | None


@dataclass(slots=True)
class _Inbox:
    """What waits of one partition, and what waits for its acknowledgement, since the last save."""

    pending: deque[_Queued] = field(default_factory=deque)
    held: deque[_Queued] = field(default_factory=deque)
    saved_at: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class _Missing:
    """Messages that the log has and that were not handed over."""

    expected: int
    saved: int
    told: str
    since_s: float
    asked_s: float = -inf


@dataclass(slots=True)
class Totals:
    """What this worker has done since it started; the time of saving is not that of flushes."""

    stored: int = 0
    duplicates: int = 0
    late_conflicts: int = 0
    flushes: int = 0
    flush_s: float = 0.0
    saves: int = 0
    save_s: float = 0.0


class Worker:
    """State of all partitions this process owns.

    Parameters
    ----------
    config : WorkerConfig
    sink : Sink
    acknowledge : async callable of handle
        Lets the consumer commit behind a message.
    earliest : async callable of (topic, partition) to int
        First offset the log still holds.
    reread : async callable of (topic, partition, offset, saved)
        Lets the consumer hand over messages from an offset on, and know what is saved.
    """

    def __init__(
        self,
        config: WorkerConfig,
        sink: Sink,
        acknowledge: Callable[[Any], Awaitable[None]],
        earliest: Callable[[str, int], Awaitable[int]],
        reread: Callable[[str, int, int, int], Awaitable[None]],
    ) -> None:
        self._config = config
        self._sink = sink
        self._acknowledge = acknowledge
        self._earliest = earliest
        self._reread = reread
        self._missing: dict[TopicPartition, _Missing] = {}
        self._readings = readings_topic(config.namespace)
        self._letters = dead_letters_topic(config.namespace)
        self._inboxes: dict[TopicPartition, _Inbox] = {}
        self._partitions: dict[int, Partition] = {}
        self._letter_positions: dict[int, int] = {}
        self._gaps: list[Gap] = []
        self._quarantine = Quarantine()
        self._pending_rows = 0
        self._turn = 0
        self._held_bytes = 0
        self._releases: Counter[TopicPartition] = Counter()
        self._capacity = asyncio.Condition()
        self._due = asyncio.Event()
        self._flushing = asyncio.Lock()
        # Until when flushes may take, in the loop's time; None while nobody waits for their end.
        self._deadline: float | None = None
        self._patience: asyncio.Timeout | None = None
        self._is_stopping = False
        self._next_save_at = time.monotonic() + config.state_interval_s
        self.totals = Totals()
        self.meter = Meter(config.namespace, config.flush_interval_s)
        self.meter.backlog(lambda: (self._pending_rows, self._held_bytes))
        self.meter.city(
            lambda: sum(not one.is_of_settings for one in list(self._partitions.values()))
        )

    async def take(self, delivery: Delivery) -> None:
        """Queue a message; waits while too much is queued, which pauses the consumer."""
        try:
            provenance = Provenance.read(delivery.headers, self._config.namespace)
        except HeaderError as error:
            _LOG.error("%s/%d@%d: %s", *delivery[:3], error)
            provenance = NOBODY
        readings = sum(tally.readings for tally in provenance.tallies)
        # A dead letter has no readings, and up to 512 KiB.
        rows = 1 + max(readings, len(delivery.value) // _ROW_BYTES)
        place = (delivery.topic, delivery.partition)
        releases = self._releases[place]
        async with self._capacity:
            await self._capacity.wait_for(
                lambda: self._pending_rows < self._config.max_pending_rows
            )
        if self._releases[place] != releases:
            return  # let go while it waited: its next owner reads it again
        self._pending_rows += rows
        inbox = self._inboxes.setdefault(place, _Inbox())
        inbox.pending.append(_Queued(delivery, provenance, rows))
        if self._pending_rows >= self._config.max_flush_rows:
            self._due.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Flush by rows or time until `stop` is set, then once more with all state.

        Ends a few seconds after `stop`, even if the database is away: what is not committed by
        then is not acknowledged either.

        Raises
        ------
        FencedError, GapError, StateError
            Where going on could lose or double something: restart the process.
        """
        stopping = asyncio.create_task(self._await_stop(stop))
        try:
            while not stop.is_set():
                due = asyncio.create_task(self._due.wait())
                await asyncio.wait(
                    {due, stopping},
                    timeout=self._config.flush_interval_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                due.cancel()
                self._due.clear()
                await self._flush_or_give_up()
            await self._flush_or_give_up(save=True)
        finally:
            stopping.cancel()

    async def saved(self) -> dict[TopicPartition, int]:
        """Ask the database from where each partition of this worker is to be read on.

        Raises
        ------
        psycopg.Error
            If the database is away.
        """
        offsets: dict[TopicPartition, int] = {}
        for topic, number in list(self._inboxes):
            found = await self._sink.resume(topic, number)
            offsets[topic, number] = found.stored if topic == self._letters else found.state_offset
        return offsets

    def assign(self, places: set[TopicPartition]) -> None:
        """Make partitions this worker's own; the next flush loads what is saved of them."""
        for place in places:
            self._inboxes.setdefault(place, _Inbox())
        self._due.set()

    async def release(self, places: set[TopicPartition]) -> None:
        """Let partitions go: commit what is queued, save their state, forget them.

        Takes a few seconds at most, even if the database is away: the next owner then does again
        what could not be committed.
        """
        if not places & self._inboxes.keys():
            return
        self._hurry()
        try:
            await self._flush_or_give_up(save=True)
        finally:
            async with self._flushing:
                for topic, partition in places:
                    self._drop(topic, partition)
                if not self._is_stopping:
                    self._deadline = None
            async with self._capacity:
                self._capacity.notify_all()

    async def flush(self, *, save: bool = False) -> None:
        """Commit what is queued, up to a flush's size; with `save`, detector state as well.

        Where the database refuses what is in it, nothing is committed; the next flushes find the
        message that is the cause, and bury it.

        Raises
        ------
        TimeoutError
            If the worker must stop or let partitions go, and the database is away. What was not
            committed is queued again.
        """
        async with self._flushing:
            self.meter.doing(Activity.FLUSHING)
            try:
                async with asyncio.timeout_at(self._deadline) as self._patience:
                    await self._commit(save=save)
            except REFUSALS as error:
                self._rewind()
                self._blame(error)
            except BaseException:
                # The detectors may be ahead of the database by now.
                self._rewind()
                raise
            finally:
                self._patience = None
                self.meter.doing(Activity.IDLE)

    async def _commit(self, *, save: bool) -> None:
        started = time.monotonic()
        flush = await self._prepare()
        if flush.steps or self._sink.is_behind:
            outcome = await self._persistently(lambda: self._sink.write(flush))
            self._note(flush, outcome)
            took_s = time.monotonic() - started
            self.totals.flushes += 1
            self.totals.flush_s += took_s
            self.meter.flushed(flush, outcome, took_s)
        for number in self._to_save(everything=save):
            await self._save(number, is_last=save)
        self._quarantine.pass_()
        await self._settle()

    def _blame(self, error: Exception) -> None:
        origin = self._quarantine.blame(error)
        if origin is None:
            _LOG.warning("a flush is refused; its messages go one by one: %s", words(error))
        else:
            _LOG.error("%s/%d@%d becomes a dead letter: %s", *origin, words(error))
        self._due.set()

    def _behind(self) -> list[int]:
        """Return the partitions of which the detectors have seen more than what is saved.

        Those that replay what is stored are among them: a replay can be longer than what may wait
        for a saved state.
        """
        return [
            number
            for number, partition in self._partitions.items()
            if partition.seen > partition.saved
        ]

    def _state(self, number: int) -> SavedState:
        partition = self._partitions[number]
        return SavedState(
            self._readings,
            number,
            next_offset=partition.seen,
            stored=max(partition.stored, partition.seen),
            version=STATE_VERSION,
            state=partition.snapshot(),
        )

    def _to_save(self, *, everything: bool) -> list[int]:
        """Return the partitions whose state is due: one at a time, so that no flush waits long."""
        behind = {number: self._inboxes[self._readings, number] for number in self._behind()}
        if everything:
            return list(behind)
        if self._held_bytes >= self._config.max_held_bytes:
            # What waits for a saved state keeps its memory; some partition holds its share of it.
            share = self._config.max_held_bytes / len(self._partitions)
            for number, inbox in behind.items():
                if sum(queued.size for queued in inbox.held) >= share:
                    return [number]
        if behind and time.monotonic() >= self._next_save_at:
            return [min(behind, key=lambda number: behind[number].saved_at)]
        return []

    async def _save(self, number: int, *, is_last: bool) -> None:
        """Save the state of a partition, and let the next save wait for its share of the time."""
        started = time.monotonic()
        saved = self._state(number)
        # By itself: a large state must not prolong the transaction that rows wait for.
        none = Rows.concatenate([])
        flush = Flush((), none, none, states=[saved], is_last=is_last)
        made_s = time.monotonic() - started
        began = started

        async def attempt() -> None:
            nonlocal began
            began = time.monotonic()
            await self._sink.write(flush)

        try:
            await self._persistently(attempt)
        except REFUSALS as error:
            # No message is to blame: what the flush had is committed.
            raise StateError(
                f"the database refuses a state of {len(saved.state)} bytes: {words(error)}"
            ) from error
        self._partitions[number].saved = saved.next_offset
        ended = time.monotonic()
        self._inboxes[self._readings, number].saved_at = ended
        # Waiting for a database that is away is no work, and no reason to save more seldom.
        took_s = made_s + ended - began
        self.totals.saves += 1
        self.totals.save_s += took_s
        self.meter.saved(saved, took_s)
        self._next_save_at = (ended - took_s) + max(
            self._config.state_interval_s / len(self._partitions), took_s / _SAVE_SHARE
        )

    async def _flush_or_give_up(self, *, save: bool = False) -> None:
        try:
            await self.flush(save=save)
        except TimeoutError:
            _LOG.warning("a flush was given up; what it held will be read again")

    async def _await_stop(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._is_stopping = True
        self._hurry()

    def _hurry(self) -> None:
        """Bound what flushes may still take, the one that runs included."""
        deadline = asyncio.get_running_loop().time() + _GRACE_S
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(self._deadline)

    def _rewind(self) -> None:
        """Forget all that may differ from the database; the next flush begins from what it says.

        The messages behind its saved states are all here still: none of them is acknowledged.
        """
        self._partitions.clear()
        self._letter_positions.clear()
        for inbox in self._inboxes.values():
            self._pending_rows += sum(queued.rows for queued in inbox.held)
            inbox.pending.extendleft(reversed(inbox.held))
            inbox.held.clear()
        self._held_bytes = 0

    async def _prepare(self) -> Flush:
        """Score what is queued and return it as one flush."""
        ledger = Ledger()
        self._gaps.clear()
        self._quarantine.begin()
        letters: list[Buried] = []
        steps: list[Step] = []
        scored: list[tuple[int, Partition, Scored]] = []
        cards: dict[str, SensorCard] = {}
        rules: list[Ruled] = []
        budget = self._config.max_flush_rows
        # A copy: partitions may be assigned while the database is asked. Each is first in its turn:
        # where all are full, the last ones get nothing.
        places = list(self._inboxes.items())
        self._turn = (self._turn + 1) % max(len(places), 1)
        for (topic, number), inbox in places[self._turn :] + places[: self._turn]:
            taken, rows = self._draw(inbox, budget)
            budget -= rows
            if topic == self._letters:
                steps.extend(await self._read_letters(number, taken, ledger, letters))
                continue
            partition = await self._partition(number)
            messages = await self._unseen(partition, number, taken)
            if not messages:
                continue
            parts, unreadable = score(partition, messages, ledger)
            letters.extend(unreadable)
            scored.extend((number, partition, part) for part in parts)
            rules.extend(ruled(topic, number, part.new_rules) for part in parts if part.new_rules)
            cards.update(_cards(partition, messages))
            if partition.seen > partition.stored:
                steps.append(Step(topic, number, partition.stored, partition.seen))
        await self._chase()
        await self._register(list(dict.fromkeys(partition for _, partition, _ in scored)))
        stored = Rows.concatenate([part.rows(partition) for _, partition, part in scored])
        masks = [part.verdicts.fresh for *_, part in scored]
        fresh = np.concatenate(masks) if masks else np.empty(0, np.bool_)
        return Flush(
            steps=steps,
            fresh=stored.at(fresh),
            suspects=stored.at(~fresh),
            tallies=ledger.tallies,
            changes=[
                replace(change, partition=number)
                for number, partition, part in scored
                for change in changes(partition, part, self._config.namespace)
            ],
            letters=letters,
            # A refused message is never shown to the detectors: with its dead letter goes a state
            # that is behind it, so that no replay shows it to them.
            states=[self._state(number) for number in self._behind()]
            if self._quarantine.buries
            else (),
            gaps=tuple(self._gaps),
            cards=list(cards.values()),
            shadowed=[
                change
                if isinstance(change, ShadowEnded)
                else Shadowed(change.shadow, replace(change.change, partition=number))
                for number, partition, part in scored
                for change in shadow_changes(partition, part, self._config.namespace)
            ],
            ruled=rules,
            claims=[
                claim
                for number, partition, part in scored
                for claim in claims(partition, part, number)
            ],
        )

    def _draw(self, inbox: _Inbox, budget: int) -> tuple[list[_Taken], int]:
        taken: list[_Taken] = []
        drawn = 0
        while inbox.pending and drawn < budget and self._quarantine.admits(inbox.pending[0].origin):
            queued = inbox.pending.popleft()
            drawn += queued.rows
            inbox.held.append(queued)
            self._held_bytes += queued.size
            refusal = self._quarantine.draw(queued.origin)
            is_nameless = refusal is not None and refusal.is_nameless
            provenance = NOBODY if is_nameless else queued.provenance
            taken.append(_Taken(queued.delivery, provenance, refusal))
        self._pending_rows -= drawn
        if inbox.pending:
            self._due.set()
        return taken, drawn

    async def _partition(self, number: int) -> Partition:
        partition = self._partitions.get(number)
        if partition is None:
            resumption = await self._resume(self._readings, number)
            partition = Partition(resumption, self._config.suite, self._config.facts)
            self._partitions[number] = partition
            _LOG.info(
                "partition %d: %d series, state at %d, stored to %d",
                number,
                len(partition.keys),
                partition.seen,
                partition.stored,
            )
            self._compare(number, partition)
        return partition

    def _compare(self, number: int, partition: Partition) -> None:
        """Say where the settings are not what the partition was, or is, judged by."""
        if partition.was_of_others:
            self.meter.judged_otherwise()
            _LOG.warning(
                "partition %d: [city] or [groups] are not what its state was judged by. They hold"
                " from offset %d on; whoever reads the log again cannot know, unless `citywatch"
                " rules apply` writes them into it",
                number,
                partition.seen,
            )
        if not partition.is_of_settings:
            _LOG.warning(
                "partition %d: its log says other things of the city than [city] and [groups] of"
                " this worker's settings, and is obeyed; `citywatch rules apply` writes these",
                number,
            )

    async def _resume(self, topic: str, number: int) -> Resumption:
        return await self._persistently(lambda: self._sink.resume(topic, number))

    async def _unseen(
        self, partition: Partition, number: int, taken: list[_Taken]
    ) -> list[Message]:
        """Return the messages behind `seen`; what lies before was seen before a restart."""
        messages: list[Message] = []
        expected = partition.seen
        for delivery, provenance, refusal in taken:
            if delivery.offset < expected:
                continue
            if delivery.offset > expected:
                if not await self._is_lost(self._readings, number, expected, delivery.offset):
                    place = (self._readings, number)
                    self._note_gap(place, expected, delivery.offset, partition.saved)
                    break
                # What the database has was only to be seen once more.
                self._miss(self._readings, number, partition.stored, expected, delivery.offset)
            reason = refusal.reason if refusal else None
            messages.append(Message(delivery.offset, provenance, delivery.value, reason))
            expected = delivery.offset + 1
        return messages

    async def _is_lost(self, topic: str, number: int, expected: int, offset: int) -> bool:
        """Say whether the log itself no longer has what is missing before an offset."""
        earliest = await self._earliest(topic, number)
        if offset > max(earliest, expected):
            return False
        _LOG.error("%s/%d: offsets %d to %d expired unread", topic, number, expected, offset - 1)
        return True

    def _note_gap(self, place: TopicPartition, expected: int, offset: int, saved: int) -> None:
        """Note what is missing, and let go of all that follows: it comes again behind it.

        In a rebalance Faust may drop a message that it was about to hand over, and go on behind it.
        A database that was restored to an older state wants what Kafka was told is done.
        """
        missing = self._missing.get(place)
        if missing is None or missing.expected != expected:
            told = f"{place[0]}/{place[1]}: expected offset {expected}, got {offset}"
            self._missing[place] = _Missing(expected, saved, told, time.monotonic())
        inbox = self._inboxes[place]
        self._pending_rows -= sum(queued.rows for queued in inbox.pending)
        inbox.pending.clear()
        # What was drawn just now stands behind all that was seen.
        while inbox.held and inbox.held[-1].delivery.offset >= expected:
            self._held_bytes -= inbox.held.pop().size

    async def _chase(self) -> None:
        """Ask the consumer for what is missing, and ask again: what it hands over may be lost too.

        Raises
        ------
        GapError
            If it does not come.
        """
        now_s = time.monotonic()
        for place, missing in list(self._missing.items()):
            topic, number = place
            if topic == self._letters:
                reached = self._letter_positions.get(number, 0)
            else:
                known = self._partitions.get(number)
                reached = known.seen if known else 0
            if reached > missing.expected:
                del self._missing[place]
            elif now_s - missing.since_s > _ASK_FOR_S:
                raise GapError(missing.told)
            elif now_s - missing.asked_s > _ASK_EVERY_S:
                missing.asked_s = now_s
                _LOG.warning("%s; reading again from there", missing.told)
                await self._reread(topic, number, missing.expected, missing.saved)

    def _miss(self, topic: str, number: int, stored: int, expected: int, offset: int) -> None:
        """Tell the database of offsets that nobody read, and nobody can any more."""
        first = max(stored, expected)
        if first < offset:
            self._gaps.append(Gap(topic, number, first, offset))

    async def _read_letters(
        self,
        number: int,
        taken: list[_Taken],
        ledger: Ledger,
        letters: list[Buried],
    ) -> list[Step]:
        position = self._letter_positions.get(number)
        if position is None:
            position = (await self._resume(self._letters, number)).stored
            self._letter_positions[number] = position
        end = position
        for delivery, provenance, refusal in taken:
            if delivery.offset < end:
                continue
            if delivery.offset > end:
                if not await self._is_lost(self._letters, number, end, delivery.offset):
                    self._note_gap((self._letters, number), end, delivery.offset, position)
                    break
                self._miss(self._letters, number, position, end, delivery.offset)
            letters.append(_buried(delivery, provenance, refusal, ledger))
            end = delivery.offset + 1
        return [Step(self._letters, number, position, end)] if end > position else []

    async def _register(self, partitions: list[Partition]) -> None:
        """Give new series their database ids."""
        slots = [partition.unregistered() for partition in partitions]
        keys = [
            partition.keys[slot]
            for partition, new in zip(partitions, slots, strict=True)
            for slot in new.tolist()
        ]
        if not keys:
            return
        ids = await self._persistently(lambda: self._sink.register(keys))
        start = 0
        for partition, new in zip(partitions, slots, strict=True):
            partition.series_id[new] = ids[start : start + len(new)]
            start += len(new)

    def _note(self, flush: Flush, outcome: Outcome) -> None:
        """Note what is committed."""
        for step in flush.steps:
            if step.topic == self._letters:
                self._letter_positions[step.partition] = step.next_offset
            else:
                partition = self._partitions[step.partition]
                partition.stored = step.next_offset
                if partition.watermark.now_ns != NEVER:
                    self.meter.watermark(step.partition, partition.watermark.now_ns)
        for saved in flush.states:
            self._partitions[saved.partition].saved = saved.next_offset
            self.meter.saved(saved)
        self.totals.stored += outcome.stored
        self.totals.duplicates += outcome.duplicates
        self.totals.late_conflicts += outcome.late_conflicts

    async def _settle(self) -> None:
        """Acknowledge what nobody will need again, and let waiting messages in."""
        for (topic, number), inbox in list(self._inboxes.items()):
            if topic == self._letters:
                done = stored = self._letter_positions.get(number, 0)
            else:
                known = self._partitions.get(number)
                done, stored = (known.saved, known.stored) if known else (0, 0)
            self.meter.progress.committed((topic, number), stored)
            while inbox.held and inbox.held[0].delivery.offset < done:
                await self._acknowledge(inbox.held[0].delivery.handle)
                self._held_bytes -= inbox.held.popleft().size
        async with self._capacity:
            self._capacity.notify_all()

    async def _persistently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat a database call until the database answers; what waits meanwhile is bounded."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(is_passing),
            wait=wait_random_exponential(multiplier=0.2, max=_BACKOFF_CAP_S),
            before_sleep=self._note_retry,
        )
        async for attempt in retrying:
            with attempt:
                self.meter.doing(Activity.ASKING)
                try:
                    answer = await call()
                except psycopg.Error:
                    await self._sink.close()
                    raise
                self.meter.answered()
                return answer
        raise AssertionError("retries without end have ended")

    def _note_retry(self, state: RetryCallState) -> None:
        _LOG.warning(
            "the database does not answer (attempt %d): %s",
            state.attempt_number,
            words(error) if (error := state.outcome and state.outcome.exception()) else "",
        )
        self.meter.retrying(state.upcoming_sleep)

    def _drop(self, topic: str, number: int) -> None:
        self._releases[topic, number] += 1
        self._quarantine.drop(topic, number)
        self._missing.pop((topic, number), None)
        inbox = self._inboxes.pop((topic, number), None)
        if inbox is not None:
            self._pending_rows -= sum(queued.rows for queued in inbox.pending)
            self._held_bytes -= sum(queued.size for queued in inbox.held)
        if topic == self._readings:
            self._partitions.pop(number, None)
        else:
            self._letter_positions.pop(number, None)


def _cards(partition: Partition, messages: list[Message]) -> dict[str, SensorCard]:
    """Return what is known of the sensors that new messages have told of."""
    return {
        card.sensor: partition.cards[card.sensor]
        for message in messages
        if message.offset >= partition.stored
        for card in message.provenance.cards
        if card.sensor in partition.cards
    }


def _buried(
    delivery: Delivery, provenance: Provenance, refusal: Refusal | None, ledger: Ledger
) -> Buried:
    fault = HeaderError(refusal.reason) if refusal else None
    if provenance.tallies and fault is None:
        try:
            letter = _letter(delivery)
        except HeaderError as error:
            fault = error
        else:
            for tally in provenance.tallies:
                ledger.add(provenance.bridge, tally)
            return Buried(provenance.bridge, provenance.tallies[0].source, letter)
    message = Message(delivery.offset, provenance, delivery.value)
    return unreadable_letter(delivery.topic, message, ledger, fault)


def _letter(delivery: Delivery) -> DeadLetter:
    letter = DeadLetter.read(delivery.headers, delivery.value)
    # The database would refuse more, and take the worker down with it.
    if not 0 <= letter.received_ns < MAX_TIME_NS or not 0 <= letter.records <= _MAX_RECORDS:
        raise HeaderError("damaged dead letter: a number is out of range")
    return letter

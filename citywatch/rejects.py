"""Dead letters decoded anew, after what made them is mended.

A letter goes the way it once should have gone: decoded with today's code and settings as it would
have been on the day it came, then over Kafka to the worker. Kafka has it before it is marked as
replayed. A crash in between sends it twice, and the database counts the second as duplicates.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import numpy as np
from psycopg import AsyncConnection

from ingest import reject
from ingest.arrival import Arrival
from ingest.assembly import Assembler, AssemblyConfig
from ingest.batch import BatchError, ReadingBatch, decode, encode
from ingest.ledger import MINUTE_NS, Tally
from ingest.quantities import QUANTITIES
from ingest.records import DeadLetter, KafkaRecord, Provenance
from ingest.reject import Reject
from ingest.topics import SeriesKey, dead_letters_topic, is_level, readings_topic
from storage.rejects import KeptLetter, Wanted, draw, mark, not_kept

# Under this name replays stand in the ledger.
BRIDGE: Final = "replay-of-rejects"
# Letters that one transaction holds.
_BATCH: Final = 500
# A person waits for it, and the letters stay locked meanwhile.
_SEND_S: Final = 60.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Sender(Protocol):
    """Takes records to Kafka, and returns when they are safe there."""

    async def send(self, records: Sequence[KafkaRecord]) -> None:
        """Send the records."""


class ReplayError(Exception):
    """Kafka did not take the records in time; the letters of the batch are not marked."""


@dataclass(slots=True)
class Replayed:
    """What has become of the letters so far.

    Parameters
    ----------
    letters, readings : int
        Letters that were taken this time, and readings in them.
    refused : int
        Records of these letters that were refused once more, in dead letters of their own.
    rejected : Counter of str
        Letters that were rejected once more and stay as they are, by today's reason.
    not_kept : int
        Letters whose payload was not kept.
    """

    letters: int = 0
    readings: int = 0
    refused: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    not_kept: int = 0


class Redecoding:
    """One batch of letters, decoded as on the day they came.

    Parameters
    ----------
    config : AssemblyConfig
        Of the bridge.

    Attributes
    ----------
    taken : list of int
        Ids of the letters that are taken this time.
    rejected : Counter of str
        Letters that are not, by reason.
    """

    def __init__(self, config: AssemblyConfig) -> None:
        self._config = replace(config, bridge=BRIDGE)
        self._assembler = Assembler(self._config)
        self._records: list[KafkaRecord] = []
        self.taken: list[int] = []
        self.rejected: Counter[str] = Counter()
        self._readings = 0

    @property
    def readings(self) -> int:
        """Readings in the letters that are taken."""
        return self._readings + self._assembler.readings

    @property
    def refused(self) -> int:
        """Records of these letters that are refused once more."""
        return self._assembler.refused

    def add(self, letter: KeptLetter) -> None:
        """Decode one letter."""
        if letter.reason == reject.UNREADABLE_BATCH and not letter.mqtt_topic:
            fault = self._read_batch(letter)
        else:
            arrival = Arrival(letter.mqtt_topic, letter.payload, _ns(letter.received_at))
            fault = self._assembler.add(arrival)
        if fault is None:
            self.taken.append(letter.dead_letter_id)
        else:
            self.rejected[fault.reason] += 1

    def take(self) -> list[KafkaRecord]:
        """Return what is to be sent.

        Messages that are rejected once more have their letters already. And sensors are not
        announced: what a message of the past says of a sensor's place and clock may be out of
        date, and the bridges tell it anyway.
        """
        return [
            replace(record, headers=[pair for pair in record.headers if pair[0] != "sensors"])
            for record in (*self._records, *self._assembler.take())
            if not self._is_rejected(record)
        ]

    def _is_rejected(self, record: KafkaRecord) -> bool:
        """Say whether a record is the dead letter of a whole message."""
        return (
            record.topic == dead_letters_topic(self._config.namespace)
            and DeadLetter.read(dict(record.headers), record.value).records == 0
        )

    def _read_batch(self, letter: KeptLetter) -> Reject | None:
        """Add the readings of a Kafka message that the worker could not read at the time."""
        try:
            batch = decode(letter.payload)
            keys = [_known(text) for text in batch.keys]
        except (BatchError, ValueError):
            return Reject(reject.UNREADABLE_BATCH, "$")
        config = self._config
        # One letter for each source of the message, each with all of it.
        wanted = np.array([key.domain == letter.source for key in keys], np.bool_)
        partition = np.array([config.home_of(key.sensor) for key in keys])
        minute_s = _ns(letter.received_at) // MINUTE_NS * 60
        for number in np.unique(partition[wanted]).tolist():
            rows = (wanted & (partition == number))[batch.series]
            count = int(rows.sum())
            # Its messages were counted when they came; only the readings were not.
            provenance = Provenance(BRIDGE, [Tally(letter.source, minute_s, readings=count)])
            self._records.append(
                KafkaRecord(
                    topic=readings_topic(config.namespace),
                    partition=number,
                    value=encode(_rows_of(batch, rows)),
                    headers=provenance.headers(config.namespace),
                )
            )
            self._readings += count
        return None


async def replay(
    connection: AsyncConnection[Any],
    sender: Sender | None,
    config: AssemblyConfig,
    wanted: Wanted,
    progress: Callable[[Replayed], object],
) -> Replayed:
    """Decode dead letters anew, send what is taken, and mark it.

    Two replays at once share the letters between them.

    Parameters
    ----------
    connection : AsyncConnection
        With the namespace's schema on its search path, and in no transaction.
    sender : Sender or None
        None only looks what would become of them.
    config : AssemblyConfig
        Of the bridge.
    wanted : Wanted
    progress : callable
        Told of every batch.

    Raises
    ------
    ReplayError
        If Kafka does not take a batch in time.
    """
    done = Replayed(not_kept=await not_kept(connection, wanted))
    last: KeptLetter | None = None
    while True:
        async with connection.transaction():
            letters = await draw(connection, wanted, after=last, limit=_BATCH)
            if not letters:
                return done
            batch = await asyncio.to_thread(_redecoded, config, letters)
            if sender is not None and batch.taken:
                await _send(sender, batch.take())
                await mark(connection, batch.taken)
        last = letters[-1]
        done.letters += len(batch.taken)
        done.readings += batch.readings
        done.refused += batch.refused
        done.rejected += batch.rejected
        progress(done)


def _redecoded(config: AssemblyConfig, letters: Sequence[KeptLetter]) -> Redecoding:
    batch = Redecoding(config)
    for letter in letters:
        batch.add(letter)
    return batch


async def _send(sender: Sender, records: Sequence[KafkaRecord]) -> None:
    try:
        async with asyncio.timeout(_SEND_S):
            await sender.send(records)
    except TimeoutError as error:
        raise ReplayError(
            f"Kafka did not take the records within {_SEND_S:.0f} s; the letters of this batch are"
            " not marked, and those of it that arrived will count as duplicates"
        ) from error


def _known(text: str) -> SeriesKey:
    key = SeriesKey.parse(text)
    if key.quantity not in QUANTITIES or not all(map(is_level, key)):
        raise ValueError(f"not a series that a worker takes: {text!r}")
    return key


def _rows_of(batch: ReadingBatch, rows: np.ndarray[Any, np.dtype[np.bool_]]) -> ReadingBatch:
    # Codes that no row uses do no harm, but their keys would become series.
    used, series = np.unique(batch.series[rows], return_inverse=True)
    return ReadingBatch(
        [batch.keys[code] for code in used.tolist()],
        series.astype(np.int32),
        batch.time_ns[rows],
        batch.value[rows],
        batch.quality[rows],
    )


def _ns(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND * 1_000

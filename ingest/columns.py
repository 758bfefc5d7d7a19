"""The readings on their way into one Kafka message, as columns that grow."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from ingest.batch import ReadingBatch
from ingest.ledger import SensorCard, Tally
from ingest.quality import SUSPECT, flags
from ingest.quantities import QUANTITIES

_ROW_BYTES: Final = 21
# Of a card's JSON besides its names; measured 50 with coordinates of full precision.
_CARD_BYTES: Final = 64


class Counts(NamedTuple):
    """Of one source in one record."""

    totals: Counter[str]
    reasons: Counter[str]
    kinds: Counter[str]


@dataclass(slots=True)
class Columns:
    """The readings of one partition that arrived in one minute, growing.

    Series, time and value are appended to row by row; `arrived` completes the rows of a message.

    Parameters
    ----------
    codes : dict of str to int
        Code of each series key.
    series, time_ns, received_ns, value : list
        One entry a reading: code, event time, arrival, value.
    doubtful : list of int
        Rows that their own message contradicts, or whose clock is off.
    counts : dict of str to Counts
        By source.
    cards : dict of str to SensorCard
    size : int
        About how many bytes a Kafka message of it takes.
    """

    codes: dict[str, int] = field(default_factory=dict)
    series: list[int] = field(default_factory=list)
    time_ns: list[int] = field(default_factory=list)
    received_ns: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    doubtful: list[int] = field(default_factory=list)
    counts: dict[str, Counts] = field(
        default_factory=lambda: defaultdict(lambda: Counts(Counter(), Counter(), Counter()))
    )
    cards: dict[str, SensorCard] = field(default_factory=dict)
    size: int = 0

    def code(self, key: str) -> int:
        """Return the code of a new key."""
        code = self.codes[key] = len(self.codes)
        self.size += len(key)
        return code

    def arrived(self, received_ns: int) -> None:
        """Say when the rows arrived that were added since the last call."""
        count = len(self.series) - len(self.received_ns)
        self.received_ns.extend([received_ns] * count)
        self.size += count * _ROW_BYTES

    def announce(self, card: SensorCard) -> None:
        """Say who a sensor is; the last card of a sensor stands."""
        self.cards[card.sensor] = card
        self.size += len(card.sensor) + len(card.domain) + len(card.zone) + _CARD_BYTES

    def batch(self, max_ahead_ns: int) -> ReadingBatch:
        """Return the readings with their quality flags.

        Parameters
        ----------
        max_ahead_ns : int
            See `ingest.quality.flags`.
        """
        series = np.array(self.series, np.int32)
        time_ns = np.array(self.time_ns, np.int64)
        value = np.array(self.value, np.float64)
        limits = [QUANTITIES[key.rpartition("/")[2]] for key in self.codes]
        # A state is true until the next one, however late it was told: were it called suspect,
        # it would be a fault of the sensor until then.
        is_measured = ~np.array([limit.is_state for limit in limits], np.bool_)[series]
        quality = flags(
            value,
            np.array([limit.low for limit in limits])[series],
            np.array([limit.high for limit in limits])[series],
            (np.array(self.received_ns, np.int64) - time_ns) * is_measured,
            max_ahead_ns,
        )
        doubtful = np.array(self.doubtful, np.int64)
        doubtful = doubtful[is_measured[doubtful]]
        quality[doubtful] = np.maximum(quality[doubtful], np.uint8(SUSPECT))
        return ReadingBatch(list(self.codes), series, time_ns, value, quality)

    def tallies(self, minute_s: int) -> list[Tally]:
        """Return what the ledger is told, a line for each source."""
        rows = np.bincount(np.array(self.series, np.int32), minlength=len(self.codes)).tolist()
        readings: Counter[str] = Counter()
        for key, count in zip(self.codes, rows, strict=True):
            readings[key[: key.index("/")]] += count
        return [
            Tally(
                source,
                minute_s,
                readings=readings[source],
                reasons=dict(counts.reasons),
                kinds=dict(counts.kinds),
                **counts.totals,
            )
            for source in {**self.counts, **readings}
            for counts in (self.counts[source],)
        ]

"""Readings averaged over minutes of event time.

Of each series one minute is open. A reading of a later minute ends it; what has ended waits until
somebody closes it, and so does an open minute that time has left behind. What is closed is said
once, in the order of time, and a reading that comes for it afterwards changes nothing.

Readings are added one after the other, each to what its series has so far, and never to partial
sums of a batch. So a sum is the same to the bit wherever batches were cut.

One long module, because the quick ways and the general one move the same columns.
"""

from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from detectors.saved import from_bytes, to_bytes
from detectors.table import NEVER, StateError

MINUTE_NS: Final = 60_000_000_000
# Minutes of one series that wait at most, the oldest: what comes later meanwhile is left out. A
# watermark that moves at all closes them sooner.
MOST_WAITING: Final = 64
# So many are trimmed at a time, at the least.
_TRIM_FROM: Final = 4_096
_FIRST_SERIES: Final = 64
# Readings of a batch that lie within so many minutes are added minute by minute, others by sorting.
_FEW_MINUTES: Final = 8
# Where one in so many series has a reading, columns of all series are added.
_DENSE_FROM: Final = 4
_RADIX_RANGE: Final = 1 << 16
_NO_MINUTE: Final = NEVER // MINUTE_NS - 1


class Closed(NamedTuple):
    """Minutes that are over, by time and then by series; row by row.

    Parameters
    ----------
    series : (n,) int64
    start_ns : (n,) int64
        When the minute began.
    mean : (n,) float64
    readings : (n,) int64
        At least 1.
    last : (n,) float64
        The newest of them.
    """

    series: NDArray[np.int64]
    start_ns: NDArray[np.int64]
    mean: NDArray[np.float64]
    readings: NDArray[np.int64]
    last: NDArray[np.float64]


class _Cells(NamedTuple):
    """Minutes of series, before they are closed."""

    series: NDArray[np.int64]
    minute: NDArray[np.int64]
    total: NDArray[np.float64]
    readings: NDArray[np.int64]
    last: NDArray[np.float64]

    def at(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> "_Cells":
        return _Cells._make(column[index] for column in self)


class Minutes:
    """The open minute of every series, and those that wait to be closed."""

    def __init__(self) -> None:
        self._count = 0
        self._minute = np.full(_FIRST_SERIES, _NO_MINUTE)
        self._total = np.zeros(_FIRST_SERIES)
        # 0 where no minute is open; `_minute` is the last one then.
        self._readings = np.zeros(_FIRST_SERIES, np.int64)
        self._last = np.zeros(_FIRST_SERIES)
        self._waiting: list[_Cells] = []
        self._size = 0
        # No minute that is open or waits is before: most checks find nothing to close.
        self._oldest = _NO_MINUTE

    def __len__(self) -> int:
        """Return the number of series."""
        return self._count

    def add(self, count: int) -> None:
        """Append new series, numbered from `len(self)` on."""
        self._count += count
        if self._count > len(self._minute):
            # Doubling keeps the cost of a series constant, however few are added at a time.
            room = max(self._count, 2 * len(self._minute)) - len(self._minute)
            self._minute = np.concatenate((self._minute, np.full(room, _NO_MINUTE)))
            self._total = np.concatenate((self._total, np.zeros(room)))
            self._readings = np.concatenate((self._readings, np.zeros(room, np.int64)))
            self._last = np.concatenate((self._last, np.zeros(room)))

    def take(
        self,
        series: NDArray[np.int32] | NDArray[np.intp],
        time_ns: NDArray[np.int64],
        value: NDArray[np.float64],
    ) -> None:
        """Add readings.

        Parameters
        ----------
        series : (n,) int32 or intp
            In any order; of one series in the order of time.
        time_ns : (n,) int64
            UTC nanoseconds since 1970.
        value : (n,) float64
            Numbers that are not NaN or infinite.
        """
        if not len(series):
            return
        # numpy would turn narrower indices into these again and again.
        place = series.astype(np.intp, copy=False)
        first, last = int(time_ns.min()) // MINUTE_NS, int(time_ns.max()) // MINUTE_NS
        self._oldest = min(self._oldest, first)
        if first == last:
            self._add(place, value, first)
            return
        minute = time_ns // MINUTE_NS
        if last - first < _FEW_MINUTES:
            # One after the other: of each series the order stays as it is.
            for one in range(first, last + 1):
                rows = minute == one
                if rows.any():
                    self._add(place[rows], value[rows], one)
        else:
            self._add_many(place, minute, value)

    def close(self, until_ns: int) -> Closed:
        """Close the minutes that have ended by `until_ns`, and return them."""
        until = until_ns // MINUTE_NS
        if until <= self._oldest:
            return _NOTHING
        self._oldest = until
        readings = self._readings[: self._count]
        over = np.flatnonzero((readings > 0) & (self._minute[: self._count] < until))
        if len(over):
            self._waiting.append(self._open(over))
            self._shut(over)
        cells = self._gathered()
        done = cells.minute < until
        if done.all():
            self._waiting, self._size = [], 0
        else:
            self._waiting, self._size = [cells.at(~done)], int(len(done) - done.sum())
            cells = cells.at(done)
        if not _is_ordered(cells):
            cells = cells.at(_order(cells.minute, cells.series))
        return Closed(
            series=cells.series,
            start_ns=cells.minute * MINUTE_NS,
            mean=cells.total / cells.readings,
            readings=cells.readings,
            last=cells.last,
        )

    def save(self) -> bytes:
        """Return all of it, exactly."""
        waiting = self._gathered()
        waiting = waiting.at(_order(waiting.series, waiting.minute))
        count = self._count
        return to_bytes(
            {
                "minute": self._minute[:count],
                "total": self._total[:count],
                "readings": self._readings[:count],
                "last": self._last[:count],
                **{f"waiting_{name}": column for name, column in waiting._asdict().items()},
            }
        )

    @classmethod
    def load(cls, data: bytes) -> Self:
        """Return minutes that go on where the saved ones stood.

        Raises
        ------
        StateError
            If the bytes are damaged or nothing of the kind.
        """
        columns = from_bytes(data)
        minutes = cls()
        try:
            count = len(columns["minute"])
            minutes.add(count)
            minutes._minute[:count] = columns["minute"]
            minutes._total[:count] = columns["total"]
            minutes._readings[:count] = columns["readings"]
            minutes._last[:count] = columns["last"]
            waiting = _Cells._make(columns[f"waiting_{name}"] for name in _Cells._fields)
        except (KeyError, ValueError) as error:
            raise StateError(f"not saved minutes: {error}") from error
        if len(waiting.series):
            minutes._waiting = [waiting]
            minutes._size = len(waiting.series)
        return minutes

    def _add(self, series: NDArray[np.intp], value: NDArray[np.float64], minute: int) -> None:
        """Add readings of one minute."""
        if _DENSE_FROM * len(series) >= self._count >= len(series):
            there = np.zeros(self._count, np.bool_)
            there[series] = True
            if np.count_nonzero(there) == len(series):
                self._add_once(series, there, value, minute)
                return
        before = self._minute[series]
        behind = before < minute
        if behind.any():
            begins = np.zeros(self._count, np.bool_)
            begins[series[behind]] = True
            self._begin(np.flatnonzero(begins), minute)
            taken = begins[series]
            if not taken.all():
                taken |= (before == minute) & (self._readings[series] > 0)
        else:
            taken = (before == minute) & (self._readings[series] > 0)
        if not taken.all():
            series, value = series[taken], value[taken]
        # `add.at` takes them one by one, in order.
        np.add.at(self._total, series, value)
        np.add.at(self._readings, series, 1)
        self._last[series] = value

    def _add_once(
        self,
        series: NDArray[np.intp],
        there: NDArray[np.bool_],
        value: NDArray[np.float64],
        minute: int,
    ) -> None:
        """Add a reading of one minute of each of many series; `there` says which these are."""
        count = self._count
        value_of = np.zeros(count)
        value_of[series] = value
        before, readings = self._minute[:count], self._readings[:count]
        behind = there & (before < minute)
        if behind.all():
            self._begin_all(value_of, minute)
            return
        if behind.any():
            self._begin(np.flatnonzero(behind), minute)
            behind |= (before == minute) & (readings > 0)
            there &= behind
        else:
            there &= before == minute
            there &= readings > 0
        total, last = self._total[:count], self._last[:count]
        if there.all():
            total += value_of
            np.copyto(last, value_of)
        else:
            np.add(total, value_of, out=total, where=there)
            np.copyto(last, value_of, where=there)
        readings += there

    def _begin_all(self, value: NDArray[np.float64], minute: int) -> None:
        """Let another minute of all series be open, with one reading each."""
        count = self._count
        ended = np.flatnonzero(self._readings[:count])
        if len(ended):
            self._wait(self._open(ended))
        self._minute[:count] = minute
        # As if it were added to 0, which has no sign.
        np.add(value, 0.0, out=self._total[:count])
        self._last[:count] = value
        self._readings[:count] = 1

    def _begin(self, series: NDArray[np.intp], minute: int) -> None:
        """Let another minute of some series be open."""
        ended = series[self._readings[series] > 0]
        if len(ended):
            self._wait(self._open(ended))
        self._minute[series] = minute
        self._total[series] = 0.0
        self._readings[series] = 0

    def _add_many(
        self, series: NDArray[np.intp], minute: NDArray[np.int64], value: NDArray[np.float64]
    ) -> None:
        """Add readings of any minutes."""
        order = _stably(series)
        series, minute, value = series[order], minute[order], value[order]
        begins = np.ones(len(series), np.bool_)
        begins[1:] = (series[1:] != series[:-1]) | (minute[1:] != minute[:-1])
        starts = np.flatnonzero(begins)
        lengths = np.diff(starts, append=len(series))
        place, when = series[starts], minute[starts]
        before, readings = self._minute[place], self._readings[place]
        is_open = readings > 0
        goes_on = is_open & (when == before)
        total = np.where(goes_on, self._total[place], 0.0)
        np.add.at(total, np.cumsum(begins) - 1, value)
        count = np.where(goes_on, readings, 0) + lengths
        cells = _Cells(place, when, total, count, value[starts + lengths - 1])
        taken = goes_on | (when > before)
        if not taken.all():
            cells, goes_on, is_open = cells.at(taken), goes_on[taken], is_open[taken]
            if not len(cells.series):
                return
        first = _is_first(cells.series)
        last = np.append(first[1:], True)
        ended = cells.series[first & ~goes_on & is_open]
        if len(ended):
            self._wait(self._open(ended))
        if not last.all():
            self._wait(cells.at(~last))
            cells = cells.at(last)
        self._minute[cells.series] = cells.minute
        self._total[cells.series] = cells.total
        self._readings[cells.series] = cells.readings
        self._last[cells.series] = cells.last

    def _open(self, series: NDArray[np.intp]) -> _Cells:
        """Return a copy of the open minutes of some series, in their order."""
        count = self._count
        if len(series) == count:
            return _Cells(
                series,
                self._minute[:count].copy(),
                self._total[:count].copy(),
                self._readings[:count].copy(),
                self._last[:count].copy(),
            )
        return _Cells(
            series,
            self._minute[series],
            self._total[series],
            self._readings[series],
            self._last[series],
        )

    def _shut(self, series: NDArray[np.intp]) -> None:
        if len(series) == self._count:
            self._total.fill(0.0)
            self._last.fill(0.0)
            self._readings.fill(0)
            return
        self._total[series] = self._last[series] = 0.0
        self._readings[series] = 0

    def _wait(self, cells: _Cells) -> None:
        self._waiting.append(cells)
        self._size += len(cells.series)
        if self._size > max(_TRIM_FROM, 4 * self._count):
            # What is left is not counted, so that not every batch trims it again.
            self._waiting, self._size = [self._gathered()], 0

    def _gathered(self) -> _Cells:
        """Return what waits, without what is too much."""
        parts = self._waiting
        if not parts:
            none = np.empty(0, np.int64)
            return _Cells(none, none, np.empty(0), none, np.empty(0))
        if len(parts) == 1 and _is_ordered(parts[0]):
            return parts[0]
        cells = _Cells._make(np.concatenate(columns) for columns in zip(*parts, strict=True))
        if np.bincount(cells.series).max() <= MOST_WAITING:
            return cells
        cells = cells.at(_order(cells.series, cells.minute))
        first, row = _is_first(cells.series), np.arange(len(cells.series))
        rank = row - np.maximum.accumulate(np.where(first, row, 0))
        return cells.at(rank < MOST_WAITING)


_NOTHING: Final = Closed(
    series=np.empty(0, np.int64),
    start_ns=np.empty(0, np.int64),
    mean=np.empty(0),
    readings=np.empty(0, np.int64),
    last=np.empty(0),
)


def _is_ordered(cells: _Cells) -> bool:
    """Say whether these are cells of one minute, each of another series, in their order."""
    series, minute = cells.series, cells.minute
    return not len(series) or bool((minute == minute[0]).all() and (series[1:] > series[:-1]).all())


def _is_first(series: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where another series begins."""
    first = np.ones(len(series), np.bool_)
    first[1:] = series[1:] != series[:-1]
    return first


def _order(major: NDArray[np.int64], minor: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the order by one column and then by another."""
    order = _stably(minor)
    return order[_stably(major[order])]


def _stably(column: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the stable order of a column."""
    if not len(column):
        return np.empty(0, np.intp)
    least, most = int(column.min()), int(column.max())
    if least == most:
        return np.arange(len(column))
    # numpy sorts 16-bit integers by radix, several times as fast as wider ones.
    keys = (column - least).astype(np.uint16) if most - least < _RADIX_RANGE else column
    return np.argsort(keys, kind="stable")

"""The state of every series: a table with a row a series, and its saved form.

A row is what one series needs, so that a batch that touches few series touches few cache lines.
For the arithmetic the rows of a batch are turned into contiguous columns once, and written back
once.
"""

import json
import struct
from typing import Any, Final, NamedTuple, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from detectors.config import Limits

VERSION: Final = 3
# "Has not happened"; no reading of that time is ever fresh.
NEVER: Final = int(np.iinfo(np.int64).min)
# Beyond it a value is as good as infinite: its square must stay a number.
LARGEST_VALUE: Final = 1e150

_MAGIC: Final = b"citywatch-detectors\n"
_LENGTHS: Final = struct.Struct("<II")  # length of the header, CRC-32 of header and body
_MAX_HEADER_BYTES: Final = 65_536
_FIRST_ROWS: Final = 64
# Rows turned into columns at a time: few enough to stay close to the core, many enough that the
# calls do not count. All 10,000 rows of a batch at once take five times as long.
_TURNED_ROWS: Final = 384


class StateError(ValueError):
    """Bytes that are not a saved state this version can read."""


class Columns(NamedTuple):
    """State of some series, a contiguous column a field.

    `*_ns` are int64 nanoseconds, all others float64 (counts too: exact up to 2**53).
    """

    last_ns: NDArray[np.int64]  # of any reading
    # The last usable reading: neither given as bad nor out of range.
    previous_ns: NDArray[np.int64]
    previous: NDArray[np.float64]
    # The last usable reading whose rate of change was believable.
    anchor_ns: NDArray[np.int64]
    anchor: NDArray[np.float64]
    repeats: NDArray[np.float64]  # in the runs that have ended
    changes: NDArray[np.float64]
    run: NDArray[np.float64]  # repeats so far in the present run
    run_chance: NDArray[np.float64]
    learned: NDArray[np.float64]  # count of readings
    level: NDArray[np.float64]
    variance: NDArray[np.float64]
    difference: NDArray[np.float64]  # mean square of successive differences
    # Level of what is seen while a city alert is open, and the readings in it.
    candidate: NDArray[np.float64]
    candidate_learned: NDArray[np.float64]
    city_streak: NDArray[np.float64]
    city_opened_ns: NDArray[np.int64]
    health_streak: NDArray[np.float64]
    health_opened_ns: NDArray[np.int64]
    health_kind: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    max_rate: NDArray[np.float64]
    state: NDArray[np.float64]  # 1 where the series reports a state, 0 where it measures
    # Watermark before the message that spoke last, and the usual longest pause between two.
    heard_ns: NDArray[np.int64]
    pause_s: NDArray[np.float64]  # inf where pauses mean nothing
    silent_ns: NDArray[np.int64]  # watermark at which the series was found silent

    def first(self, count: int) -> "Columns":
        """Return views of the first series."""
        return Columns._make(column[:count] for column in self)


_NAMES: Final = Columns._fields
_WIDTH: Final = len(_NAMES)
# The columns of every version that can be read, in order. What a version lacks is as in a new
# series without limits: a measure, never called silent.
_SAVED_NAMES: Final = {
    1: _NAMES[: _NAMES.index("state")],
    2: _NAMES[: _NAMES.index("heard_ns")],
    VERSION: _NAMES,
}
_IS_TIME: Final = tuple(name.endswith("_ns") for name in _NAMES)
# Of a new series: the pause it may make before it has shown its own, in usual periods.
_FIRST_PAUSE_PERIODS: Final = 5.0


def _columns(block: NDArray[np.float64]) -> Columns:
    views: list[Any] = [
        row.view(np.int64) if is_time else row for row, is_time in zip(block, _IS_TIME, strict=True)
    ]
    return Columns._make(views)


def _new_rows(limits: Limits) -> NDArray[np.float64]:
    block = np.zeros((_WIDTH, len(limits)))
    columns = _columns(block)
    for column, is_time in zip(columns, _IS_TIME, strict=True):
        if is_time:
            column.fill(NEVER)
    columns.previous.fill(np.nan)
    columns.anchor.fill(np.nan)
    # The first reading differs from NaN and is counted as a change; it is none.
    columns.changes.fill(-1.0)
    columns.run_chance.fill(1.0)
    np.maximum(limits.low, -LARGEST_VALUE, out=columns.low)
    np.minimum(limits.high, LARGEST_VALUE, out=columns.high)
    columns.max_rate[:] = limits.max_rate
    columns.state[:] = limits.state
    columns.pause_s[:] = limits.period_s * _FIRST_PAUSE_PERIODS
    return block.T


def _unlimited(count: int) -> Limits:
    bound = np.full(count, np.inf)
    return Limits(-bound, bound, bound)


class Table:
    """Rows of state that grow, are gathered, put back and saved."""

    def __init__(self) -> None:
        self._rows = np.empty((_FIRST_ROWS, _WIDTH))
        self._count = 0

    def __len__(self) -> int:
        """Return the number of series."""
        return self._count

    def add(self, limits: Limits) -> None:
        """Append a new series for every row of `limits`."""
        count = self._count + len(limits)
        if count > len(self._rows):
            # Doubling keeps the cost of a series constant, however few are added at a time.
            rows = np.empty((max(count, 2 * len(self._rows)), _WIDTH))
            rows[: self._count] = self._rows[: self._count]
            self._rows = rows
        self._rows[self._count : count] = _new_rows(limits)
        self._count = count

    def last_ns(self, series: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the newest time of each of the series."""
        times: NDArray[np.int64] = self._rows[series, _NAMES.index("last_ns")].view(np.int64)
        return times

    def out_of_range(
        self, series: NDArray[np.intp], value: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Return which values lie outside the range of their series or are not finite."""
        low, high = (
            self._rows[series, _NAMES.index("low")],
            self._rows[series, _NAMES.index("high")],
        )
        outside: NDArray[np.bool_] = ~((value >= low) & (value <= high))
        return outside

    def whole(self) -> Columns:
        """Return views of the state of all series: what is written there is kept."""
        return _columns(self._rows[: self._count].T)

    def expect(self, period_s: NDArray[np.float64]) -> None:
        """Let series be called silent that never could be, where they have a usual period."""
        pause_s = self.whole().pause_s
        np.copyto(pause_s, period_s * _FIRST_PAUSE_PERIODS, where=np.isinf(pause_s))

    def limit(self, series: NDArray[np.intp], limits: Limits) -> None:
        """Give some series other ranges and rates; whether they are states or silent stays."""
        whole, new = self.whole(), _columns(_new_rows(limits).T)
        for name in ("low", "high", "max_rate"):
            getattr(whole, name)[series] = getattr(new, name)

    def gather(self, series: NDArray[np.intp]) -> tuple[NDArray[np.float64], Columns]:
        """Return a copy of the state of distinct series, for `scatter`, and its columns."""
        block = np.empty((_WIDTH, len(series)))
        rows = self._neighbours(series)
        for start in range(0, len(series), _TURNED_ROWS):
            stop = start + _TURNED_ROWS
            turned = rows[start:stop] if rows is not None else self._rows[series[start:stop]]
            block[:, start:stop] = turned.T
        return block, _columns(block)

    def scatter(self, series: NDArray[np.intp], block: NDArray[np.float64]) -> None:
        """Put the state of distinct series back."""
        rows = self._neighbours(series)
        for start in range(0, len(series), _TURNED_ROWS):
            stop = start + _TURNED_ROWS
            turned = block[:, start:stop].T
            if rows is not None:
                rows[start:stop] = turned
            else:
                self._rows[series[start:stop]] = turned

    def _neighbours(self, series: NDArray[np.intp]) -> NDArray[np.float64] | None:
        """Return a view of the rows of series that stand side by side, in order; else None.

        Where every series reports, as in a regular batch, that takes 40 % off the way to the
        columns and back.
        """
        count = len(series)
        if not count or series[-1] - series[0] != count - 1 or not (np.diff(series) == 1).all():
            return None
        return self._rows[series[0] : series[0] + count]

    def to_bytes(self) -> bytes:
        """Return the state exactly, with its version and the names of its columns."""
        header = json.dumps(
            {
                "version": VERSION,
                "series": self._count,
                "columns": _NAMES,
                "layout": "rows of <f8; _ns: <i8",
            }
        ).encode()
        body = self._rows[: self._count].astype("<f8", copy=False).tobytes()
        return b"".join(
            (_MAGIC, _LENGTHS.pack(len(header), crc32(body, crc32(header))), header, body)
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a saved state.

        Raises
        ------
        StateError
            If the bytes are damaged, not a state, or of an unknown version.
        """
        saved = _parsed(data)
        count, width = saved.shape
        table = cls()
        table._rows = np.empty((max(count, _FIRST_ROWS), _WIDTH))
        table._rows[:count] = _new_rows(_unlimited(count))
        table._rows[:count, :width] = saved
        table._count = count
        return table


def _parsed(data: bytes) -> NDArray[np.float64]:
    """Return the saved rows, with the columns of the version that saved them."""
    start = len(_MAGIC) + _LENGTHS.size
    if data[: len(_MAGIC)] != _MAGIC or len(data) < start:
        raise StateError("not a saved detector state: it does not begin with its mark")
    length, checksum = _LENGTHS.unpack_from(data, len(_MAGIC))
    if length > _MAX_HEADER_BYTES or len(data) < start + length:
        raise StateError(f"damaged detector state: a header of {length} bytes is not there")
    if crc32(memoryview(data)[start:]) != checksum:
        raise StateError("damaged detector state: the checksum does not match")
    try:
        header = json.loads(data[start : start + length])
        version = header["version"]
    except (ValueError, LookupError, TypeError) as error:
        raise StateError("damaged detector state: its header names no version") from error
    # A bool is an int, and a list no key.
    names = _SAVED_NAMES.get(version) if type(version) is int else None
    if names is None:
        raise StateError(
            f"detector state of version {version}; only those up to {VERSION} are known"
        )
    body = memoryview(data)[start + length :]
    count = header.get("series")
    columns = tuple(header.get("columns", ()))
    if columns != names or type(count) is not int or len(body) != count * len(names) * 8:
        raise StateError(f"detector state of version {version} with other columns or length")
    return np.frombuffer(body, "<f8").reshape(count, len(names))

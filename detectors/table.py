"""The state of every series: a column a field, and its saved form.

A batch in which the series come one after another, as a regular one does, works on views of the
columns; for any other the state is gathered once and scattered once. Columns cost that no more than
rows would, up to some 10,000 series, and regular batches nothing.

A series is *settled* while nothing is special about it: it measures, is warm, was heard and usable
last, and has no alert open. Few fields move then, the hot ones (`detectors.settled`), and four of
the others are not even written: they are what the hot ones say.

One long module, because who may leave what unwritten is one agreement of all that touches a table.
"""

import json
import struct
from typing import Any, Final, NamedTuple, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from detectors.config import Limits
from detectors.one import One
from detectors.terms import Threshold

VERSION: Final = 4
# "Has not happened"; no reading of that time is ever fresh.
NEVER: Final = int(np.iinfo(np.int64).min)
# Beyond it a value is as good as infinite: its square must stay a number.
LARGEST_VALUE: Final = 1e150

_MAGIC: Final = b"citywatch-detectors\n"
_LENGTHS: Final = struct.Struct("<II")  # length of the header, CRC-32 of header and body
_MAX_HEADER_BYTES: Final = 65_536
_FIRST_SERIES: Final = 64


class StateError(ValueError):
    """Bytes that are not a saved state this version can read."""


class Columns(NamedTuple):
    """State of some series, a contiguous column a field.

    `*_ns` are int64 nanoseconds, all others float64 (counts too: exact up to 2**53).
    """

    # The hot ones.
    last_ns: NDArray[np.int64]  # of any reading
    previous: NDArray[np.float64]  # the last usable reading: neither given as bad nor out of range
    repeats: NDArray[np.float64]  # in the runs that have ended
    changes: NDArray[np.float64]
    run: NDArray[np.float64]  # repeats so far in the present run
    run_chance: NDArray[np.float64]
    learned: NDArray[np.float64]  # count of readings
    level: NDArray[np.float64]
    variance: NDArray[np.float64]
    difference: NDArray[np.float64]  # mean square of successive differences
    city_streak: NDArray[np.float64]
    # Watermark before the message that spoke last, and the usual longest pause between two.
    heard_ns: NDArray[np.int64]
    pause_s: NDArray[np.float64]  # inf where pauses mean nothing
    # Hot, and never written after the series is made.
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    max_rate: NDArray[np.float64]
    # Of a settled series: `last_ns`, `last_ns`, `previous` and 0, whatever is written here.
    previous_ns: NDArray[np.int64]
    # The last usable reading whose rate of change was believable.
    anchor_ns: NDArray[np.int64]
    anchor: NDArray[np.float64]
    health_streak: NDArray[np.float64]
    # Level of what is seen while a city alert is open, and the readings in it.
    candidate: NDArray[np.float64]
    candidate_learned: NDArray[np.float64]
    city_opened_ns: NDArray[np.int64]
    health_opened_ns: NDArray[np.int64]
    health_kind: NDArray[np.float64]
    state: NDArray[np.float64]  # 1 where the series reports a state, 0 where it measures
    silent_ns: NDArray[np.int64]  # watermark at which the series was found silent
    rests_ns: NDArray[np.int64]  # no city alert opens before


_NAMES: Final = Columns._fields
_WIDTH: Final = len(_NAMES)
_HOT: Final = _NAMES.index("previous_ns")
_MOVING: Final = _NAMES.index("low")
_LAST_NS: Final = _NAMES.index("last_ns")
_RESTS_NS: Final = _NAMES.index("rests_ns")
_HISTORY: Final = slice(_NAMES.index("repeats"), _NAMES.index("changes") + 1)
_SQUARES: Final = slice(_NAMES.index("variance"), _NAMES.index("difference") + 1)
# The columns of every version that can be read, in order. What a version lacks is as in a new
# series without limits: a measure, never called silent.
_SAVED: Final = (
    "last_ns", "previous_ns", "previous", "anchor_ns", "anchor", "repeats", "changes", "run",
    "run_chance", "learned", "level", "variance", "difference", "candidate", "candidate_learned",
    "city_streak", "city_opened_ns", "health_streak", "health_opened_ns", "health_kind", "low",
    "high", "max_rate", "state", "heard_ns", "pause_s", "silent_ns", "rests_ns",
)  # fmt: skip
_SAVED_NAMES: Final = {
    1: _SAVED[: _SAVED.index("state")],
    2: _SAVED[: _SAVED.index("heard_ns")],
    3: _SAVED[: _SAVED.index("rests_ns")],
    VERSION: _SAVED,
}
_PLACES: Final = [_NAMES.index(name) for name in _SAVED]
_IS_TIME: Final = tuple(name.endswith("_ns") for name in _NAMES)
# Of a new series: the pause it may make before it has shown its own, in usual periods.
_FIRST_PAUSE_PERIODS: Final = 5.0


class Hot(NamedTuple):
    """The fields of `Columns` that a reading of a settled series reads or moves.

    Two pairs of them are also rows of one block, because a step treats both alike.
    """

    last_ns: NDArray[np.int64]
    previous: NDArray[np.float64]
    repeats: NDArray[np.float64]
    changes: NDArray[np.float64]
    run: NDArray[np.float64]
    run_chance: NDArray[np.float64]
    learned: NDArray[np.float64]
    level: NDArray[np.float64]
    variance: NDArray[np.float64]
    difference: NDArray[np.float64]
    city_streak: NDArray[np.float64]
    heard_ns: NDArray[np.int64]
    pause_s: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    max_rate: NDArray[np.float64]
    history: NDArray[np.float64]  # (2, n): repeats, changes
    squares: NDArray[np.float64]  # (2, n): variance, difference


def _columns(block: NDArray[np.float64]) -> Columns:
    views: list[Any] = [
        row.view(np.int64) if is_time else row for row, is_time in zip(block, _IS_TIME, strict=True)
    ]
    return Columns._make(views)


_HOT_TIMES: Final = [place for place, name in enumerate(Hot._fields) if name.endswith("_ns")]


def _hot(block: NDArray[np.float64]) -> Hot:
    views: list[Any] = list(block)
    for place in _HOT_TIMES:
        views[place] = views[place].view(np.int64)
    return Hot._make([*views, block[_HISTORY], block[_SQUARES]])


def _new_series(limits: Limits) -> NDArray[np.float64]:
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
    return block


def _unlimited(count: int) -> Limits:
    bound = np.full(count, np.inf)
    return Limits(-bound, bound, bound)


# Some of the rows of a batch, or of its series by where they stand among them.
Place = slice | NDArray[np.intp]


def within(place: Place, some: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return where some of those at `place` stand, by their own places among them."""
    if isinstance(place, slice):
        found: NDArray[np.intp] = some + place.start
    else:
        found = place[some]
    return found


class Part(NamedTuple):
    """Hot fields of some series, and which are settled; the block where they are a copy."""

    hot: Hot
    settled: NDArray[np.bool_]
    block: NDArray[np.float64] | None


class Whole(NamedTuple):
    """All fields of some series, and the same as columns."""

    block: NDArray[np.float64]
    columns: Columns


class Work:
    """The state of the distinct series of a batch while it is judged.

    Parameters
    ----------
    table : Table
        Where it belongs.
    series : (n,) intp

    Attributes
    ----------
    series : (n,) intp
    hot : Hot
        Of the series, in their order.
    settled : (n,) bool
    """

    def __init__(self, table: "Table", series: NDArray[np.intp]) -> None:
        self._table = table
        self.series = series
        count = len(series)
        first = int(series[0]) if count else 0
        # Distinct and rising, as a regular batch is; nothing else can span its own length.
        self._is_view = bool(
            count
            and int(series[-1]) - first == count - 1
            and np.count_nonzero(np.diff(series) == 1) == count - 1
        )
        block, settled = table.block, table.settled
        if self._is_view:
            self._block = block[:_HOT, first : first + count]
            self.settled = settled[first : first + count]
        else:
            self._block = block[:_HOT].take(series, axis=1)
            self.settled = settled.take(series)
        self.hot = _hot(self._block)

    def part(self, place: Place) -> "Part":
        """Return the hot fields of some of the series: views of a slice, for `end` others."""
        if isinstance(place, slice):
            if place.start == 0 and place.stop == len(self.settled):
                return Part(self.hot, self.settled, None)
            return Part(_hot(self._block[:, place]), self.settled[place], None)
        block = self._block.take(place, axis=1)
        return Part(_hot(block), self.settled.take(place), block)

    def end_part(self, place: Place, part: "Part") -> None:
        """Put the hot fields of some of the series back."""
        if part.block is not None:
            self._block[:_MOVING, place] = part.block[:_MOVING]

    def rests_ns(self, place: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return before when some of the series open no city alert."""
        column = self._table.block[_RESTS_NS].view(np.int64)
        rests_ns: NDArray[np.int64] = column[self.series[place]]
        return rests_ns

    def one(self, place: int) -> One:
        """Return all fields of one of the series."""
        block, rest = self._block[:, place], self._table.block[_HOT:, self.series[place]]
        one = One.from_bytes(block.tobytes() + rest.tobytes())
        if self.settled[place]:
            one.previous_ns = one.anchor_ns = one.last_ns
            one.anchor, one.health_streak = one.previous, 0.0
        return one

    def put_one(self, place: int, one: One, is_settled: bool) -> None:
        """Put all fields of one of the series back, and say whether it is settled."""
        fields = np.frombuffer(one.to_bytes())
        series = self.series[place]
        self._block[:, place] = fields[:_HOT]
        self._table.block[_HOT:, series] = fields[_HOT:]
        self.settled[place] = self._table.settled[series] = is_settled

    def whole(self, place: NDArray[np.intp]) -> "Whole":
        """Return a copy of all fields of some of the series, for `put`."""
        block = np.empty((_WIDTH, len(place)))
        # Not `take`, which would first copy all of a view.
        block[:_HOT] = self._block[:, place]
        block[_HOT:] = self._table.block[_HOT:, self.series[place]]
        columns = _columns(block)
        _write_out(columns, self.settled[place])
        return Whole(block, columns)

    def put(
        self, place: NDArray[np.intp], block: NDArray[np.float64], settled: NDArray[np.bool_]
    ) -> None:
        """Put all fields of some of the series back, and say which of them are settled."""
        self._block[:, place] = block[:_HOT]
        series = self.series[place]
        self._table.block[_HOT:, series] = block[_HOT:]
        self.settled[place] = settled
        self._table.settled[series] = settled

    def unsettle(self, place: NDArray[np.intp], city_opened_ns: NDArray[np.int64]) -> None:
        """Note that city alerts of some settled series have opened."""
        block, columns = self.whole(place)
        columns.city_opened_ns[:] = city_opened_ns
        self.put(place, block, np.zeros(len(place), np.bool_))

    def end(self) -> None:
        """Put the hot fields back."""
        if not self._is_view:
            self._table.block[:_MOVING, self.series] = self._block[:_MOVING]


def _write_out(columns: Columns, settled: NDArray[np.bool_]) -> None:
    """Write what is not written of settled series."""
    np.copyto(columns.previous_ns, columns.last_ns, where=settled)
    np.copyto(columns.anchor_ns, columns.last_ns, where=settled)
    np.copyto(columns.anchor, columns.previous, where=settled)
    np.copyto(columns.health_streak, 0.0, where=settled)


class Table:
    """Columns of state that grow, are worked on, and saved.

    Attributes
    ----------
    block : (fields, capacity) float64
    settled : (capacity,) bool
    """

    def __init__(self) -> None:
        self.block = np.empty((_WIDTH, _FIRST_SERIES))
        self.settled = np.zeros(_FIRST_SERIES, np.bool_)
        self._count = 0

    def __len__(self) -> int:
        """Return the number of series."""
        return self._count

    def add(self, limits: Limits) -> None:
        """Append a new series for every row of `limits`."""
        count = self._count + len(limits)
        capacity = len(self.settled)
        if count > capacity:
            # Doubling keeps the cost of a series constant, however few are added at a time.
            capacity = max(count, 2 * capacity)
            block, settled = np.empty((_WIDTH, capacity)), np.zeros(capacity, np.bool_)
            block[:, : self._count] = self.block[:, : self._count]
            settled[: self._count] = self.settled[: self._count]
            self.block, self.settled = block, settled
        self.block[:, self._count : count] = _new_series(limits)
        self._count = count

    def last_ns(self, series: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the newest time of each of the series."""
        times: NDArray[np.int64] = self.block[_LAST_NS].view(np.int64).take(series)
        return times

    def out_of_range(
        self, series: NDArray[np.intp], value: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Return which values lie outside the range of their series or are not finite."""
        columns = self.views()
        outside: NDArray[np.bool_] = ~(
            (value >= columns.low.take(series)) & (value <= columns.high.take(series))
        )
        return outside

    def views(self) -> Columns:
        """Return views of the state of all series; of settled ones some fields are not written.

        A series that is not settled any more by what is changed there has to be `unsettled`.
        """
        return _columns(self.block[:, : self._count])

    def unsettle(self, series: NDArray[np.int32]) -> None:
        """Note that some series, settled or not, are settled no more."""
        left = series[self.settled[series]]
        columns = self.views()
        last_ns, previous = columns.last_ns[left], columns.previous[left]
        columns.previous_ns[left] = columns.anchor_ns[left] = last_ns
        columns.anchor[left] = previous
        columns.health_streak[left] = 0.0
        self.settled[left] = False

    def review(self, warm_up: Threshold) -> None:
        """Find out anew which series are settled."""
        self._write_out()
        self.settled[: self._count] = is_settled(self.views(), warm_up)

    def expect(self, period_s: NDArray[np.float64]) -> None:
        """Let series be called silent that never could be, where they have a usual period."""
        pause_s = self.views().pause_s
        np.copyto(pause_s, period_s * _FIRST_PAUSE_PERIODS, where=np.isinf(pause_s))

    def limit(self, series: NDArray[np.intp], limits: Limits) -> None:
        """Give some series other ranges and rates; whether they are states or silent stays."""
        columns, new = self.views(), _columns(_new_series(limits))
        for name in ("low", "high", "max_rate"):
            getattr(columns, name)[series] = getattr(new, name)

    def _write_out(self) -> None:
        _write_out(self.views(), self.settled[: self._count])

    def to_bytes(self) -> bytes:
        """Return the state exactly, with its version and the names of its columns."""
        header = json.dumps(
            {
                "version": VERSION,
                "series": self._count,
                "columns": _SAVED,
                "layout": "rows of <f8; _ns: <i8",
            }
        ).encode()
        self._write_out()
        rows = np.ascontiguousarray(self.block[_PLACES, : self._count].T)
        body = rows.astype("<f8", copy=False).tobytes()
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
        table.add(_unlimited(count))
        table.block[_PLACES[:width], :count] = saved.T
        return table


def is_settled(columns: Columns, warm_up: Threshold) -> NDArray[np.bool_]:
    """Return which series are settled, where all fields are written."""
    settled: NDArray[np.bool_] = columns.learned >= np.maximum(warm_up, 1.0)
    settled &= columns.changes > 0
    settled &= columns.candidate_learned == 0
    settled &= columns.health_streak == 0
    settled &= columns.state == 0
    for opened_ns in (columns.city_opened_ns, columns.health_opened_ns, columns.silent_ns):
        settled &= opened_ns == NEVER
    for usable_ns in (columns.previous_ns, columns.anchor_ns):
        settled &= usable_ns == columns.last_ns
    return settled


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

"""What one kernel says of one wave of readings, in the same columns whichever kernel it is.

A kernel is a module with

- `State`, the columns of its series: float64 or int64, the last axis is the series, so that a
  series is eight bytes a row and `column[..., series]` is its part;
- `new_state(count)`, the state of series that have said nothing yet;
- `step(state, time_ns, value, usable, …)`, which judges one reading of each of the series, moves
  the state on in place and returns a `Finding`.

Readings of one series come in the order of event time. What is not `usable` (flagged, out of
range) may be any bits; it moves no state. Whoever calls a kernel ignores floating-point warnings
(`numpy.errstate(all="ignore")`): masks keep NaN and infinity out of the state.

Of thousands of rows nearly none is ever asked for more than whether it speaks. So a kernel has a
`judge` of the same arguments as well, which returns an `Answer`: the columns that are always looked
at, and the finding of those rows that somebody wants to know of. `step` is the finding of all.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.table import LARGEST_VALUE
from detectors.tail import tail_score

# Rows of a wave, and all of them.
Rows = NDArray[np.intp] | slice
ALL: Final = slice(None)


class Finding(NamedTuple):
    """What is to be said of a wave; row i speaks of its row i.

    Parameters
    ----------
    judged : (n,) bool
        Whether enough is known to say yes or no. A row that is not judged is no all-clear.
    speaks : (n,) bool
        Beyond the limit; never where it is not judged.
    level : (n,) uint8
        Band or severity, as the kernel defines it; 0 where it is not judged.
    measure : (n,) float64
        What was held against the limit (a mean, an index, the reading itself); NaN where nothing.
    expected, lower, upper : (n,) float64
        The norm and the limits it was held against, in the unit of `measure`; NaN where none.
    score : (n,) float64
        How improbable the measure is under the kernel's own model: -log10 of a tail probability,
        not negative, and the larger the further off. `detectors.calibration` says what it is worth.
        NaN where it is not judged, and of kernels that state a fact (a limit passed) instead.
    """

    judged: NDArray[np.bool_]
    speaks: NDArray[np.bool_]
    level: NDArray[np.uint8]
    measure: NDArray[np.float64]
    expected: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    score: NDArray[np.float64]


class Answer(NamedTuple):
    """What a kernel says of a wave, in full only of the rows that are asked for.

    Parameters
    ----------
    judged, speaks : (n,) bool
        As in a `Finding`.
    told : callable of Rows
        Returns the finding of these rows. To be asked before the state moves on again.
    spreads : (n,) float64 or None
        Of a kernel whose score is `tail_score` of something: of what. Any bits where it is not
        judged.
    score : (n,) float64 or None
        Of another kernel that has scores: these, or what none is above. Any bits where it is not
        judged.
    exact : callable of (m,) intp, or None
        Returns the scores of some rows, where `score` is what none is above.
    """

    judged: NDArray[np.bool_]
    speaks: NDArray[np.bool_]
    told: Callable[[Rows], Finding]
    spreads: NDArray[np.float64] | None = None
    score: NDArray[np.float64] | None = None
    exact: Callable[[NDArray[np.intp]], NDArray[np.float64]] | None = None

    def scored(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the scores of some rows that are judged; NaN where there are none."""
        if self.spreads is not None:
            return tail_score(self.spreads[rows])
        if self.exact is not None:
            return self.exact(rows)
        return nothing(len(rows)) if self.score is None else self.score[rows]


def answer(found: Finding) -> Answer:
    """Return a finding of a kernel that has no scores as an answer."""

    def told(rows: Rows) -> Finding:
        return Finding._make(column[rows] for column in found)

    return Answer(found.judged, found.speaks, told)


class Forecast(NamedTuple):
    """What a kernel expected of a value, and how far off it is.

    Parameters
    ----------
    expected, off, reach : (n,) float64
        In the unit of the value: what was expected, how far above that it is, and how far off
        either way is far.
    spreads : (n,) float64
        The same distance in spreads; any bits where it is not judged.
    """

    expected: NDArray[np.float64]
    off: NDArray[np.float64]
    reach: NDArray[np.float64]
    spreads: NDArray[np.float64]


def beside_forecast(
    value: NDArray[np.float64],
    judged: NDArray[np.bool_],
    speaks: NDArray[np.bool_],
    forecast: Forecast,
    levels: tuple[int, int],
) -> Answer:
    """Return the answer of a kernel that holds values against what it expected.

    `levels` are those of a value that is too high, and of one that is too low.
    """
    expected, off, reach, spreads = forecast
    high, low = levels

    def told(rows: Rows) -> Finding:
        known_rows, middle, limit = judged[rows], expected[rows], reach[rows]
        away, spoke = off[rows], speaks[rows]
        level = np.zeros(len(middle), np.uint8)
        level[spoke & (away > 0.0)] = high
        level[spoke & (away < 0.0)] = low
        return Finding(
            judged=known_rows,
            speaks=spoke,
            level=level,
            measure=known(value[rows], known_rows),
            expected=known(middle, known_rows),
            lower=known(middle - limit, known_rows),
            upper=known(middle + limit, known_rows),
            score=known(tail_score(spreads[rows]), known_rows),
        )

    return Answer(judged, speaks, told, spreads=spreads)


def put(column: NDArray[Any], new: NDArray[Any] | float, where: NDArray[np.bool_] | None) -> None:
    """Move a column of the state on, in these rows; None is all of them.

    numpy copies under a mask at a third of the speed, and nearly always all rows are there.
    """
    if where is None:
        np.copyto(column, new)
    else:
        np.copyto(column, new, where=where)


def unless_all(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Return a mask, or None where it is true of all rows."""
    return None if np.count_nonzero(mask) == len(mask) else mask


def rows_of(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the rows in which a mask is true: `numpy.flatnonzero`, without its wrappers."""
    return mask.nonzero()[0]


def moment(time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the times of rows; one alone, to be broadcast, where one was broadcast to them all."""
    return time_ns[:1] if time_ns.strides == (0,) else time_ns


def sound(value: NDArray[np.float64], usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which usable readings are numbers whose square is one too."""
    result: NDArray[np.bool_] = usable & (np.abs(value) <= LARGEST_VALUE)
    return result


def nothing(count: int) -> NDArray[np.float64]:
    """Return a column of NaN."""
    return np.full(count, np.nan)


def known(column: NDArray[np.float64] | float, where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the column where something is known, and NaN elsewhere."""
    return np.where(where, column, np.nan)


def edges_of(
    edges: NDArray[np.float64], place: int | NDArray[np.intp]
) -> NDArray[np.float64] | float:
    """Return one of the edges of each series.

    Parameters
    ----------
    edges : (m, n) or (m,) float64
        Of each series, or the same of all.
    place : int or (n,) intp
        Which, for all series or for each.
    """
    if np.ndim(place) == 0 or edges.ndim == 1:
        one: NDArray[np.float64] | float = edges[place]
        return one
    own: NDArray[np.float64] = edges[place, np.arange(edges.shape[1])]
    return own


def spans_ns(
    time_ns: NDArray[np.int64], previous_ns: NDArray[np.int64], longest_ns: NDArray[np.int64] | int
) -> NDArray[np.int64]:
    """Return how long the series had been quiet before a reading, at most `longest_ns`.

    Parameters
    ----------
    time_ns : (n,) int64
    previous_ns : (n,) int64
        Not later than `time_ns`; `NEVER` before the first reading, which was quiet for ever.
    longest_ns : (n,) int64 or int
    """
    # Unsigned: it holds the difference of any two times.
    quiet = (time_ns - previous_ns).view(np.uint64)
    longest = np.asarray(longest_ns, np.int64).view(np.uint64)
    return np.minimum(quiet, longest).view(np.int64)


def ages(previous_ns: NDArray[np.int64], time_ns: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the nanoseconds since `previous_ns`, which is not later; huge when it is `NEVER`."""
    return (time_ns - previous_ns).view(np.uint64)

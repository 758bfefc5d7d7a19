"""How long a reading stands for, by how often its series has reported of late.

A reading stands for the time since the one before it, but not for a hole in the readings. What a
hole is depends on the series: twice its usual gap, so that one message may be lost. Its usual gap
is the second longest of the four newest, the one that ends now among them. So a hole alone is no
habit, however long it is, and what reports every quarter of an hour, or three readings at once, is
known by its second gap. Nothing stands for more than an hour: longer ones are no hourly mean, and
a sensor that falls silent is forgotten by then.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors.finding import put, rows_of, spans_ns, unless_all
from detectors.table import NEVER

LONGEST_NS: Final = 3_600_000_000_000
_REMEMBERED: Final = 3
# Usual gaps that a reading stands for.
_GAPS: Final = 2


def new_gaps(count: int) -> NDArray[np.int64]:
    """Return the gaps of series that have said nothing yet, (3, n), the newest first."""
    return np.zeros((_REMEMBERED, count), np.int64)


def stood_ns(
    gaps: NDArray[np.int64],
    time_ns: NDArray[np.int64],
    previous_ns: NDArray[np.int64],
    least_ns: NDArray[np.int64],
    added: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Return how long a reading of each series has stood, and remember the gap that it ends.

    Parameters
    ----------
    gaps : (3, n) int64
        Moved on.
    time_ns, previous_ns : (n,) int64
        As in `spans_ns`. What a first reading ends is no gap.
    least_ns : (n,) int64
        What every reading may stand for, however often its series reports.
    added : (n,) bool
        Which rows count; what is returned of others may be any bits.
    """
    gap = spans_ns(time_ns, previous_ns, LONGEST_NS)
    span = np.minimum(gap, least_ns)
    is_first = previous_ns == NEVER
    rows = rows_of((gap > least_ns) & ~is_first)
    if len(rows):
        span[rows] = np.minimum(gap[rows], np.maximum(span[rows], _GAPS * _usual(gap, gaps, rows)))
    where = unless_all(added)
    put(gaps[1:], gaps[:-1], where)
    put(gaps[0], np.where(is_first, 0, gap), where)
    return span


def _usual(
    gap: NDArray[np.int64], gaps: NDArray[np.int64], rows: NDArray[np.intp]
) -> NDArray[np.int64]:
    """Return the second longest gap of some series."""
    one, other = gap[rows], gaps[0, rows]
    third, fourth = gaps[1, rows], gaps[2, rows]
    longest = np.minimum(np.maximum(one, other), np.maximum(third, fourth))
    shorter = np.maximum(np.minimum(one, other), np.minimum(third, fourth))
    usual: NDArray[np.int64] = np.maximum(longest, shorter)
    return usual

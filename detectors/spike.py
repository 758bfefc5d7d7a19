"""A single reading far off that the next one does not confirm.

Hampel's identifier (Hampel, *The influence curve and its role in robust estimation*, JASA 69, 1974;
Davies & Gather, JASA 88, 1993), looking back only: a reading is far off when it lies more than k
robust spreads from the median of the seven readings before it, the spread being 1.4826 times their
median absolute deviation. That of seven is a rough guess and often far too small, so it is taken
to be at least what it is on average.

A reading far off is a spike when the next one is not far off on the same side, and the beginning
of something real when it is. So a spike is told one reading later, when it is known. What is far
off joins the readings before only when it is confirmed.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.finding import (
    ALL,
    Answer,
    Finding,
    Rows,
    ages,
    known,
    put,
    rows_of,
    sound,
    unless_all,
)
from detectors.table import NEVER
from detectors.tail import tail_score
from detectors.terms import Threshold

# Levels.
FAR: Final = 1
SPIKE: Final = 2

_WINDOW: Final = 7
FAR_SPREADS: Final = 10.0
# Weight of a reading in the average deviation, and how many make one. Then none of four million
# readings of Gaussian noise is called a spike, and one in 20,000 of Laplacian noise; without the
# average, at twelve spreads, it is one in 400 and one in 140.
_SLOW_WEIGHT: Final = 1.0 / 64.0
_WARM_UP: Final = 30.0
_SPREAD_OF_MAD: Final = 1.4826
# In the place of a reach of 0: a series that stands still, of which nothing is too little.
_TINY: Final = 1e-300
# Older readings say nothing of the present one: the slowest usual period is five minutes.
_FORGET_NS: Final = np.uint64(900_000_000_000)
# Where less than one in so many rows moves, these are moved by themselves.
_SPARSE_FROM: Final = 8
# Batcher's odd-even merge sort of seven: pairs to put in order, one after the other.
_SORTING: Final = (
    (0, 4), (1, 5), (2, 6), (0, 2), (1, 3), (4, 6), (2, 4), (3, 5),
    (0, 1), (2, 3), (4, 5), (1, 4), (3, 6), (1, 2), (3, 4), (5, 6),
)  # fmt: skip


class State(NamedTuple):
    """Columns of some series."""

    previous_ns: NDArray[np.int64]
    window: NDArray[np.float64]  # (7, n) readings before, newest first
    filled: NDArray[np.float64]  # how many of them there are
    deviation: NDArray[np.float64]  # median absolute deviation, on average
    learned: NDArray[np.float64]  # count of readings in that
    suspect: NDArray[np.float64]  # the last reading where it was far off, else NaN


def new_state(count: int) -> State:
    """Return the state of series that have said nothing yet."""
    return State(
        previous_ns=np.full(count, NEVER),
        window=np.zeros((_WINDOW, count)),
        filled=np.zeros(count),
        deviation=np.zeros(count),
        learned=np.zeros(count),
        suspect=np.full(count, np.nan),
    )


def step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    least_jump: NDArray[np.float64],
    far_spreads: Threshold = FAR_SPREADS,
) -> Finding:
    """Judge one reading of each series.

    Parameters
    ----------
    state, time_ns, value, usable
        As of every kernel.
    least_jump : (n,) float64
        In the unit of the series: what lies nearer to the median is never far off. It keeps a
        series that stands still, or moves in coarse steps, from calling every step a spike.
    far_spreads : float or (n,) float64
        Distance from the median, in robust spreads, from which on a reading is far off.

    Returns
    -------
    Finding
        It speaks, with level `SPIKE`, at the reading after the spike; `measure` is the spike then.
        `FAR` is a reading that is far off and not judged further yet. `expected` is the median,
        `lower` and `upper` are where far off begins. The score is that of `measure`; 0 for a
        reading that waits, and for one that confirms the one before.
    """
    return judge(state, time_ns, value, usable, least_jump, far_spreads).told(ALL)


def judge(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    least_jump: NDArray[np.float64],
    far_spreads: Threshold,
) -> Answer:
    """Judge one reading of each series, as `step`."""
    heard = sound(value, usable)
    old = heard & (ages(state.previous_ns, time_ns) > _FORGET_NS)
    if np.count_nonzero(old):
        np.copyto(state.filled, 0.0, where=old)
        np.copyto(state.suspect, np.nan, where=old)

    middle, deviation = _middle(state.window)
    spread = np.maximum(deviation, state.deviation)
    spread *= _SPREAD_OF_MAD
    spread *= far_spreads
    reach = np.maximum(spread, least_jump, out=spread)
    full = heard & (state.filled >= _WINDOW)
    judged = full & (state.learned >= _WARM_UP)
    off = value - middle
    away = np.abs(off)
    far = judged & (away > reach)
    # Nearly all rows are neither far off nor held against one that was.
    rows = rows_of(far | ~np.isnan(state.suspect))
    spiked, confirmed = np.zeros(len(value), np.bool_), np.zeros(len(value), np.bool_)
    measure, waits = value, far
    if len(rows):
        suspect = state.suspect[rows]
        is_judged, is_far, suspected = judged[rows], far[rows], ~np.isnan(suspect)
        is_confirmed = is_far & suspected & ((off[rows] > 0) == (suspect > middle[rows]))
        is_spiked = is_judged & suspected & ~is_confirmed
        spiked[rows], confirmed[rows] = is_spiked, is_confirmed
        measure = value.copy()
        measure[rows] = np.where(is_spiked, suspect, value[rows])
        # Each reading is scored once: one far off when it is known what it was.
        is_told = np.abs(measure[rows] - middle[rows])
        away[rows] = np.where(is_far & ~is_spiked, 0.0, is_told)
        waits = far & ~confirmed
    np.divide(away, np.maximum(reach, _TINY), out=away)
    spreads = np.multiply(away, far_spreads, out=away)

    _learn(state, deviation, unless_all(full))
    if len(rows):
        # The suspect that was right comes first, then what confirms it.
        _push(state, state.suspect, confirmed)
    _push(state, value, heard & ~waits)
    if len(rows):
        rows = rows[heard[rows]]
        state.suspect[rows] = np.where(waits[rows], value[rows], np.nan)
    put(state.previous_ns, time_ns, unless_all(heard))

    def told(rows: Rows) -> Finding:
        known_rows, center, limit = judged[rows], middle[rows], reach[rows]
        level = np.zeros(len(center), np.uint8)
        level[far[rows]] = FAR
        level[spiked[rows]] = SPIKE
        return Finding(
            judged=known_rows,
            speaks=spiked[rows],
            level=level,
            measure=known(measure[rows], known_rows),
            expected=known(center, known_rows),
            lower=known(center - limit, known_rows),
            upper=known(center + limit, known_rows),
            score=known(tail_score(spreads[rows]), known_rows),
        )

    return Answer(judged, spiked, told, spreads=spreads)


def _learn(state: State, deviation: NDArray[np.float64], where: NDArray[np.bool_] | None) -> None:
    """Learn the deviations of windows that are full."""
    count = state.learned + 1.0
    weight: NDArray[np.float64] | float = _SLOW_WEIGHT
    if count.min(initial=np.inf) * _SLOW_WEIGHT < 1.0:
        weight = np.maximum(1.0 / count, _SLOW_WEIGHT)
    slow = deviation - state.deviation
    slow *= weight
    slow += state.deviation
    put(state.deviation, slow, where)
    put(state.learned, count, where)


def _push(state: State, value: NDArray[np.float64], where: NDArray[np.bool_]) -> None:
    """Put readings before those of the windows in these rows."""
    window, filled = state.window, state.filled
    pushed = np.count_nonzero(where)
    if _SPARSE_FROM * pushed <= len(value):
        if pushed:
            rows = rows_of(where)
            window[1:, rows] = window[:-1, rows]
            window[0, rows] = value[rows]
            filled[rows] = np.minimum(filled[rows] + 1.0, float(_WINDOW))
        return
    # All rows move, and those that must not are put back.
    others = rows_of(~where)
    kept, before = window[:, others], filled[others]
    for place in range(_WINDOW - 1, 0, -1):
        window[place] = window[place - 1]
    window[0] = value
    np.minimum(filled + 1.0, float(_WINDOW), out=filled)
    window[:, others], filled[others] = kept, before


def _middle(
    window: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the medians of windows of seven, and the medians of the distances from them."""
    columns, spare = list(window.copy()), np.empty_like(window[0])
    for low, high in _SORTING:
        one, other = columns[low], columns[high]
        columns[low] = np.minimum(one, other, out=spare)
        np.maximum(one, other, out=other)
        spare = one
    middle = columns[_WINDOW // 2]
    # One distance is 0; of three below and three above, each rising, the third is the median.
    below = [np.subtract(middle, one, out=one) for one in columns[2::-1]]
    above = [np.subtract(one, middle, out=one) for one in columns[4:]]
    crossed = np.maximum(below[0], above[1])
    deviation = np.minimum(below[2], above[2], out=above[2])
    np.minimum(deviation, crossed, out=deviation)
    np.minimum(deviation, np.maximum(below[1], above[0], out=crossed), out=deviation)
    return middle, deviation

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

from detectors.finding import Finding, Threshold, ages, known, sound
from detectors.table import NEVER
from detectors.tail import tail_score

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
    heard = sound(value, usable)
    old = heard & (ages(state.previous_ns, time_ns) > _FORGET_NS)
    np.copyto(state.filled, 0.0, where=old)
    np.copyto(state.suspect, np.nan, where=old)

    middle = _median(list(state.window))
    deviation = _median([np.abs(one - middle) for one in state.window])
    spread = np.maximum(deviation, state.deviation) * _SPREAD_OF_MAD
    reach = np.maximum(spread * far_spreads, least_jump)
    full = heard & (state.filled >= _WINDOW)
    judged = full & (state.learned >= _WARM_UP)
    off = value - middle
    far = judged & (np.abs(off) > reach)
    suspected = ~np.isnan(state.suspect)
    confirmed = far & suspected & ((off > 0) == (state.suspect > middle))
    spiked = judged & suspected & ~confirmed
    measure = np.where(spiked, state.suspect, value)
    # Each reading is scored once: one far off when it is known what it was.
    away = np.where(far & ~spiked, 0.0, np.abs(measure - middle))
    score = tail_score(away / np.maximum(reach, _TINY) * far_spreads)

    count = state.learned + 1.0
    weight = np.maximum(1.0 / count, _SLOW_WEIGHT)
    slow = state.deviation + (deviation - state.deviation) * weight
    np.copyto(state.deviation, slow, where=full)
    np.copyto(state.learned, count, where=full)
    # The suspect that was right comes first, then what confirms it.
    _push(state, state.suspect, confirmed)
    waits = far & ~confirmed
    _push(state, value, heard & ~waits)
    np.copyto(state.suspect, np.where(waits, value, np.nan), where=heard)
    np.copyto(state.previous_ns, time_ns, where=heard)
    level = np.zeros(len(value), np.uint8)
    level[far] = FAR
    level[spiked] = SPIKE
    return Finding(
        judged=judged,
        speaks=spiked,
        level=level,
        measure=known(measure, judged),
        expected=known(middle, judged),
        lower=known(middle - reach, judged),
        upper=known(middle + reach, judged),
        score=known(score, judged),
    )


def _push(state: State, value: NDArray[np.float64], where: NDArray[np.bool_]) -> None:
    if not where.any():
        return
    for place in range(_WINDOW - 1, 0, -1):
        np.copyto(state.window[place], state.window[place - 1], where=where)
    np.copyto(state.window[0], value, where=where)
    np.copyto(state.filled, np.minimum(state.filled + 1.0, float(_WINDOW)), where=where)


def _median(columns: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the median of seven columns, row by row."""
    for low, high in _SORTING:
        one, other = columns[low], columns[high]
        columns[low], columns[high] = np.minimum(one, other), np.maximum(one, other)
    middle: NDArray[np.float64] = columns[_WINDOW // 2]
    return middle

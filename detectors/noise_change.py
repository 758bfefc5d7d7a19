"""A sensor whose noise has changed: it has begun to jitter, or gone smooth.

The noise of a series is the mean square of its successive differences (von Neumann et al., 1941),
which a slow movement of the level does not touch. Kept twice, over about 16 and about 400
differences, the two have a ratio near 1 while the sensor is what it was: an F-test of the present
against the past. A difference is bounded before it is learned, so one spike changes nothing; a step
is one difference. While the noise has changed the past is learned eight times as slowly, so that
what is seen does not become normal at once, but becomes it when it lasts.

It is for series whose noise is the instrument's. That of counts and of what is made of them goes
with their level: headways of a simulated road went quiet eight times a day.
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
    sound,
    unless_all,
)
from detectors.table import NEVER
from detectors.tail import tail_score
from detectors.terms import Threshold, part_of

# Levels.
LOUDER: Final = 1
QUIETER: Final = 2

_SHORT_WEIGHT: Final = 1.0 / 16.0
_LONG_WEIGHT: Final = 1.0 / 400.0
_CHANGED_WEIGHT: Final = 1.0 / 3_200.0
# A difference counts for at most so many times the long mean square: five spreads.
_BOUND: Final = 25.0
# Ratios of variance that readings of an unchanged sensor do not reach.
LOUDER_FROM: Final = 8.0
QUIETER_FROM: Final = 1.0 / 16.0
_WARM_UP: Final = 100.0
# The logarithm of a variance of n degrees of freedom is nearly normal, of variance 2 / n (Bartlett
# & Kendall, *The analysis of variance-heterogeneity and the logarithmic transformation*, Supplement
# to JRSS 8, 1946). The short mean square has (2 - w) / w, less by the third that successive
# differences share: about 20.
_SPREAD_OF_LOG: Final = 0.316
# Readings further apart do not differ by noise alone: the slowest usual period is five minutes.
_FARTHEST_NS: Final = np.uint64(300_000_000_000)


class State(NamedTuple):
    """Columns of some series."""

    previous_ns: NDArray[np.int64]
    previous: NDArray[np.float64]
    learned: NDArray[np.float64]  # count of differences
    short: NDArray[np.float64]  # mean squares
    long: NDArray[np.float64]


def new_state(count: int) -> State:
    """Return the state of series that have said nothing yet."""
    return State(
        previous_ns=np.full(count, NEVER),
        previous=np.zeros(count),
        learned=np.zeros(count),
        short=np.zeros(count),
        long=np.zeros(count),
    )


def step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    least: NDArray[np.float64],
    louder: Threshold = LOUDER_FROM,
    quieter: Threshold = QUIETER_FROM,
) -> Finding:
    """Judge one reading of each series.

    Parameters
    ----------
    state, time_ns, value, usable
        As of every kernel.
    least : (n,) float64
        Noise below which nothing matters, in the unit of the series and above 0: the step of its
        resolution, say. Both noises are taken to be at least that.
    louder, quieter : float or (n,) float64
        Ratios of the present variance to that of the past, beyond which it speaks.

    Returns
    -------
    Finding
        `measure` is the present noise, a root mean square in the unit of the series, `expected`
        that of the past, `lower` and `upper` where it speaks.
    """
    return judge(state, time_ns, value, usable, least, louder, quieter).told(ALL)


def judge(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    least: NDArray[np.float64],
    louder_from: Threshold,
    quieter_from: Threshold,
) -> Answer:
    """Judge one reading of each series, as `step`."""
    heard = sound(value, usable)
    near = heard & (ages(state.previous_ns, time_ns) <= _FARTHEST_NS)
    floor = least * least
    before = np.maximum(state.long, floor)
    square = value - state.previous
    square *= square
    count = state.learned + 1.0
    warm = state.learned >= _WARM_UP
    bounded = np.minimum(square, before * _BOUND)
    square = bounded if warm.all() else np.where(warm, bounded, square)
    short = square - state.short
    short *= np.maximum(1.0 / count, _SHORT_WEIGHT)
    short += state.short
    judged = near & warm
    now = np.maximum(short, floor)
    louder = judged & (now > before * louder_from)
    quieter = judged & (now < before * quieter_from)
    speaks = louder | quieter
    weight = np.maximum(1.0 / count, _LONG_WEIGHT)
    if np.count_nonzero(speaks):
        weight[speaks] = _CHANGED_WEIGHT
    long = square - state.long
    long *= weight
    long += state.long
    moved = unless_all(near)
    put(state.short, short, moved)
    put(state.long, long, moved)
    put(state.learned, count, moved)
    moved = unless_all(heard)
    put(state.previous, value, moved)
    put(state.previous_ns, time_ns, moved)
    spreads = np.abs(np.log(now / before))
    spreads /= _SPREAD_OF_LOG

    def told(rows: Rows) -> Finding:
        known_rows, past = judged[rows], before[rows]
        level = np.zeros(len(past), np.uint8)
        level[louder[rows]] = LOUDER
        level[quieter[rows]] = QUIETER
        return Finding(
            judged=known_rows,
            speaks=speaks[rows],
            level=level,
            measure=known(np.sqrt(now[rows]), known_rows),
            expected=known(np.sqrt(past), known_rows),
            lower=known(np.sqrt(past * part_of(quieter_from, rows)), known_rows),
            upper=known(np.sqrt(past * part_of(louder_from, rows)), known_rows),
            score=known(tail_score(spreads[rows]), known_rows),
        )

    return Answer(judged, speaks, told, spreads=spreads)

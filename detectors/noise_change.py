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

from detectors.finding import Finding, Threshold, ages, known, sound
from detectors.table import NEVER
from detectors.tail import tail_score

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
    heard = sound(value, usable)
    near = heard & (ages(state.previous_ns, time_ns) <= _FARTHEST_NS)
    floor = least * least
    before = np.maximum(state.long, floor)
    move = value - state.previous
    square = move * move
    warm = state.learned >= _WARM_UP
    square = np.where(warm, np.minimum(square, before * _BOUND), square)
    count = state.learned + 1.0
    short = state.short + (square - state.short) * np.maximum(1.0 / count, _SHORT_WEIGHT)
    judged = near & warm
    now = np.maximum(short, floor)
    level = np.zeros(len(value), np.uint8)
    level[judged & (now > before * louder)] = LOUDER
    level[judged & (now < before * quieter)] = QUIETER
    weight = np.where(level > 0, _CHANGED_WEIGHT, np.maximum(1.0 / count, _LONG_WEIGHT))
    long = state.long + (square - state.long) * weight
    np.copyto(state.short, short, where=near)
    np.copyto(state.long, long, where=near)
    np.copyto(state.learned, count, where=near)
    np.copyto(state.previous, value, where=heard)
    np.copyto(state.previous_ns, time_ns, where=heard)
    return Finding(
        judged=judged,
        speaks=level > 0,
        level=level,
        measure=known(np.sqrt(now), judged),
        expected=known(np.sqrt(before), judged),
        lower=known(np.sqrt(before * quieter), judged),
        upper=known(np.sqrt(before * louder), judged),
        score=known(tail_score(np.abs(np.log(now / before)) / _SPREAD_OF_LOG), judged),
    )

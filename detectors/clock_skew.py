"""A sensor whose clock is wrong, or runs off.

The lag of a message is its arrival by our clock less the time that the sensor wrote into it: the
delay on the way, less how far the sensor's clock is ahead. A delay is never below zero and has no
upper end, so the *smallest* lag of a window is the clock, and all that lies above it is the network
(Paxson, *On calibrating measurements of packet transit times*, SIGMETRICS 1998; Moon, Skelly &
Towsley, *Estimation and removal of clock skew from network delay measurements*, INFOCOM 1999, whose
skew is the slope of the line below all lags).

- A lag below zero cannot be the network: the clock is *ahead*.
- A smallest lag of a whole hour and more above the limit is no congestion: the clock is *behind*.
- A clock *drifts* when the smallest lags of twelve hours in a row all rise, or all fall, and by a
  second in all. That is Mann's test of trend (*Nonparametric tests against trend*, Econometrica 13,
  1945) at its end: all 66 pairs agree, which by chance they do once in 12!/2 = 240 million times.
  A second in eleven hours is 25 parts in a million; what is slower shows at the limits.

An uplink that stores and forwards makes lags as a slow clock does. Its limit has to be its own.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.averages import HOUR_NS
from detectors.finding import Finding, known, nothing, sound
from detectors.table import NEVER

# Levels.
AHEAD: Final = 1
BEHIND: Final = 2
DRIFTS: Final = 3

_HOURS: Final = 12
_LEAST_DRIFT_S: Final = 1.0
# A pause after which what was before says nothing of a trend.
_FORGET_HOURS: Final = 12
_NO_HOUR: Final = NEVER // HOUR_NS - 1


class State(NamedTuple):
    """Columns of some sensors."""

    hour: NDArray[np.int64]  # the present one, hours since 1970
    least: NDArray[np.float64]  # smallest lag of it; infinite where there is none
    past: NDArray[np.float64]  # (12, n) of the hours before that were seen, newest first; NaN
    trend: NDArray[np.float64]  # 1 where those all rise, or all fall


class Limits(NamedTuple):
    """How wrong a clock may be.

    Parameters
    ----------
    ahead_s, behind_s : (n,) float64
        Seconds, above 0; infinite for no limit. `behind_s` includes the usual way of a message.
    """

    ahead_s: NDArray[np.float64]
    behind_s: NDArray[np.float64]


def new_state(count: int) -> State:
    """Return the state of sensors that have said nothing yet."""
    return State(
        hour=np.full(count, _NO_HOUR),
        least=np.full(count, np.inf),
        past=np.full((_HOURS, count), np.nan),
        trend=np.zeros(count),
    )


def step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    limits: Limits,
) -> Finding:
    """Judge one lag of each sensor.

    Parameters
    ----------
    state, time_ns, usable
        As of every kernel. Whether what the sensor measured was usable does not matter here.
    value : (n,) float64
        Arrival less event time in seconds: of one message, or the smallest of those of a minute.
    limits : Limits
        Of the sensors.

    Returns
    -------
    Finding
        `measure` is the smallest lag of this hour and the one before; where the clock is ahead it
        is the present one. `expected` is the lag of a right clock on a fast way, 0; where it drifts
        it is the smallest of the first hour. Until a whole hour has been seen a lag above the limit
        is not judged.
    """
    heard = sound(value, usable)
    hour = (time_ns - 1) // HOUR_NS
    over = np.flatnonzero(heard & (hour != state.hour))
    if len(over):
        _close(state, over, hour[over])
    least = np.minimum(state.least, value)
    np.copyto(state.least, least, where=heard)

    offset = np.fmin(least, state.past[0])
    ahead = heard & (value < -limits.ahead_s)
    above = offset > limits.behind_s
    whole = ~np.isnan(state.past[0])
    judged = heard & (ahead | ~above | whole)
    level = np.zeros(len(value), np.uint8)
    level[judged & (state.trend > 0.0)] = DRIFTS
    level[judged & above] = BEHIND
    level[ahead] = AHEAD
    drifts = level == DRIFTS
    return Finding(
        judged=judged,
        speaks=level > 0,
        level=level,
        measure=known(np.where(ahead, value, offset), judged),
        expected=known(np.where(drifts, state.past[-1], 0.0), judged),
        lower=known(-limits.ahead_s, judged & (limits.ahead_s < np.inf)),
        upper=known(limits.behind_s, judged & (limits.behind_s < np.inf)),
        score=nothing(len(judged)),
    )


def _trend(past: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where all of the hours are known and rise, or fall, one after the other."""
    moves = past[:-1] - past[1:]
    one_way = (moves > 0.0).all(axis=0) | (moves < 0.0).all(axis=0)
    far: NDArray[np.bool_] = np.abs(past[0] - past[-1]) >= _LEAST_DRIFT_S
    return one_way & far


def _close(state: State, rows: NDArray[np.intp], hour: NDArray[np.int64]) -> None:
    """Let the present hour of some sensors be `hour`."""
    past = state.past[:, rows]
    least = state.least[rows]
    seen = least < np.inf
    past[1:] = np.where(seen, past[:-1], past[1:])
    past[0] = np.where(seen, least, past[0])
    quiet = hour - state.hour[rows] > _FORGET_HOURS
    past[:, quiet] = np.nan
    state.past[:, rows] = past
    state.trend[rows] = _trend(past)
    state.least[rows] = np.inf
    state.hour[rows] = hour

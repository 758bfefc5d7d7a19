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
from detectors.finding import (
    ALL,
    Answer,
    Finding,
    Rows,
    known,
    moment,
    nothing,
    put,
    rows_of,
    sound,
    unless_all,
)
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
    return judge(state, time_ns, value, usable, limits).told(ALL)


def judge(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    limits: Limits,
) -> Answer:
    """Judge one lag of each sensor, as `step`."""
    heard = sound(value, usable)
    hour = (moment(time_ns) - 1) // HOUR_NS
    over = rows_of(heard & (hour != state.hour))
    if len(over):
        _close(state, over, np.broadcast_to(hour, len(value))[over])
    least = np.minimum(state.least, value)
    put(state.least, least, unless_all(heard))

    offset = np.fmin(least, state.past[0])
    ahead = heard & (value < -limits.ahead_s)
    above = offset > limits.behind_s
    judged = heard & (ahead | ~above | ~np.isnan(state.past[0]))
    speaks = (judged & (above | (state.trend > 0.0))) | ahead

    def told(rows: Rows) -> Finding:
        known_rows, is_ahead, offset_s = judged[rows], ahead[rows], offset[rows]
        level = np.zeros(len(offset_s), np.uint8)
        level[known_rows & (state.trend[rows] > 0.0)] = DRIFTS
        level[known_rows & above[rows]] = BEHIND
        level[is_ahead] = AHEAD
        ahead_s, behind_s = limits.ahead_s[rows], limits.behind_s[rows]
        drifted = np.where(level == DRIFTS, state.past[-1, rows], 0.0)
        return Finding(
            judged=known_rows,
            speaks=speaks[rows],
            level=level,
            measure=known(np.where(is_ahead, value[rows], offset_s), known_rows),
            expected=known(drifted, known_rows),
            lower=known(-ahead_s, known_rows & (ahead_s < np.inf)),
            upper=known(behind_s, known_rows & (behind_s < np.inf)),
            score=nothing(len(level)),
        )

    return Answer(judged, speaks, told)


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

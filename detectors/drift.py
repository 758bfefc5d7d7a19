"""A sensor that slowly walks off from its neighbours.

Sensors that stand near each other see the same weather and the same city, while each ages in its
own way: that is what makes drift visible without a reference (Takruri & Challa, *Drift aware
wireless sensor networks*, 10th International Conference on Information Fusion, 2007). So the
difference between a sensor and the median of its neighbours is watched. A change of the whole city
leaves it as it is, and of three neighbours one may drift itself.

Two sensors differ by the hour of the day and by where the sun stands, so a whole day of UTC makes
one difference D, if three quarters of its hours have been seen. Over such days::

    now += (D - now) / 4        norm += (D - norm) / 128

and the sensor drifts when the two are further apart than the tolerance of the instrument, and than
three spreads of D. The spread is 1 / 1.128 times the mean absolute difference of successive days
(the moving range of Shewhart's charts of individual values), which a slow walk does not widen.
While a sensor drifts its norm is learned an eighth as fast: what is seen does not become normal at
once, but does when nobody mends it.

A walk of a thirtieth of the tolerance a day is told after 42 days, of a sixtieth after 90, of a
ninetieth after 160; what takes more than 124 days for the tolerance is never told, for the norm
follows it.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.averages import COVERAGE, HOUR_NS
from detectors.finding import (
    ALL,
    Answer,
    Finding,
    Rows,
    known,
    moment,
    put,
    rows_of,
    sound,
    unless_all,
)
from detectors.table import NEVER
from detectors.tail import tail_score

# Levels.
HIGH: Final = 1
LOW: Final = 2

_DAY_HOURS: Final = 24
_LEAST_HOURS: Final = COVERAGE * _DAY_HOURS
_NO_HOUR: Final = NEVER // HOUR_NS - 1
# With two, one that drifts takes the median half of its way.
_LEAST_NEIGHBOURS: Final = 3
_NOW_WEIGHT: Final = 1.0 / 4.0
_NORM_WEIGHT: Final = 1.0 / 128.0
_DRIFTING_WEIGHT: Final = 1.0 / 1_024.0
_WARM_UP: Final = 14.0
_FAR_SPREADS: Final = 3.0
_BOUND_SPREADS: Final = 5.0
# `now` averages days: of days that have nothing to do with each other it has a spread of
# sqrt(w / (2 - w)) times theirs.
_SPREADS_OF_NOW: Final = _FAR_SPREADS / (_NOW_WEIGHT / (2.0 - _NOW_WEIGHT)) ** 0.5
# Mean absolute difference of two Gaussian values over their spread, 2 / sqrt(pi).
_DIFFERENCE_OF_SPREAD: Final = 1.1283791670955126


class State(NamedTuple):
    """Columns of some series; days count that were seen for three quarters."""

    hour: NDArray[np.int64]  # the present one, hours since 1970
    hours: NDArray[np.float64]  # of the present day that were seen
    total: NDArray[np.float64]  # of the present day's differences
    readings: NDArray[np.float64]
    last: NDArray[np.float64]  # difference of the last day
    change: NDArray[np.float64]  # mean absolute difference of successive days
    now: NDArray[np.float64]
    norm: NDArray[np.float64]
    days: NDArray[np.float64]


def new_state(count: int) -> State:
    """Return the state of series that have said nothing yet."""
    return State(
        hour=np.full(count, _NO_HOUR),
        hours=np.zeros(count),
        total=np.zeros(count),
        readings=np.zeros(count),
        last=np.zeros(count),
        change=np.zeros(count),
        now=np.zeros(count),
        norm=np.zeros(count),
        days=np.zeros(count),
    )


def step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    neighbours: NDArray[np.float64],
    tolerance: NDArray[np.float64],
) -> Finding:
    """Judge one reading of each series.

    Parameters
    ----------
    state, time_ns, value, usable
        As of every kernel. A reading on the full hour belongs to the hour before.
    neighbours : (k, n) float64
        What k neighbours read at that time, in the unit of the series; NaN where one is missing.
        With fewer than three the reading is neither judged nor learned.
    tolerance : (n,) float64
        In the unit of the series and above 0: how far two sound sensors may move against each
        other, twice the accuracy that the maker states, say.

    Returns
    -------
    Finding
        `measure` is the difference from the neighbours now, `expected` its norm. It moves once a
        day; what is told of a reading is what the days before have shown.
    """
    return judge(state, time_ns, value, usable, neighbours, tolerance).told(ALL)


def judge(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    neighbours: NDArray[np.float64],
    tolerance: NDArray[np.float64],
) -> Answer:
    """Judge one reading of each series, as `step`."""
    middle, enough = _medians(neighbours)
    heard = sound(value, usable) & enough
    hour = (moment(time_ns) - 1) // HOUR_NS
    fresh = heard & (hour != state.hour)
    if np.count_nonzero(fresh):
        over = rows_of(fresh & (hour // _DAY_HOURS != state.hour // _DAY_HOURS))
        if len(over):
            _close(state, over, tolerance)
        np.copyto(state.hours, state.hours + 1.0, where=fresh)
        np.copyto(state.hour, hour, where=heard)
    where = unless_all(heard)
    total = value - middle
    total += state.total
    put(state.total, total, where)
    put(state.readings, state.readings + 1.0, where)

    judged = heard & (state.days >= _WARM_UP)
    reach = _reach(state.change, tolerance)
    off = state.now - state.norm
    speaks = judged & (np.abs(off) > reach)

    def told(rows: Rows) -> Finding:
        known_rows, spoke, limit = judged[rows], speaks[rows], reach[rows]
        away, norm = off[rows], state.norm[rows]
        level = np.zeros(len(away), np.uint8)
        level[spoke & (away > 0.0)] = HIGH
        level[spoke & (away < 0.0)] = LOW
        spreads = np.abs(away) * (_SPREADS_OF_NOW / limit)
        return Finding(
            judged=known_rows,
            speaks=spoke,
            level=level,
            measure=known(state.now[rows], known_rows),
            expected=known(norm, known_rows),
            lower=known(norm - limit, known_rows),
            upper=known(norm + limit, known_rows),
            score=known(tail_score(spreads), known_rows),
        )

    return Answer(judged, speaks, told)


def _reach(change: NDArray[np.float64], tolerance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(change * (_FAR_SPREADS / _DIFFERENCE_OF_SPREAD), tolerance)


def _close(state: State, rows: NDArray[np.intp], tolerance: NDArray[np.float64]) -> None:
    """Learn the days of some series that are over, and begin the next."""
    seen = rows[state.hours[rows] >= _LEAST_HOURS]
    day = state.total[seen] / state.readings[seen]
    now, norm, change = state.now[seen], state.norm[seen], state.change[seen]
    before = state.days[seen]
    days = before + 1.0
    warm = before >= _WARM_UP
    reach = _reach(change, tolerance[seen])
    drifting = warm & (np.abs(now - norm) > reach)
    bound = np.where(warm, reach * (_BOUND_SPREADS / _FAR_SPREADS), np.inf)
    step_of_day = np.minimum(np.abs(day - state.last[seen]), bound)
    # What the first day differs by from none is forgotten with the second.
    weight = np.maximum(1.0 / np.maximum(before, 1.0), _NORM_WEIGHT)
    change = change + (step_of_day - change) * weight
    away = np.minimum(np.maximum(day - norm, -bound), bound)
    weight = np.where(drifting, _DRIFTING_WEIGHT, np.maximum(1.0 / days, _NORM_WEIGHT))
    state.norm[seen] = norm + away * weight
    state.now[seen] = now + (day - now) * np.maximum(1.0 / days, _NOW_WEIGHT)
    state.change[seen] = change
    state.last[seen] = day
    state.days[seen] = days
    state.total[rows] = state.readings[rows] = state.hours[rows] = 0.0


def _medians(columns: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the median of what is there in each column, and whether that is enough."""
    there = np.abs(columns) < np.inf
    count = len(columns)
    if count >= _LEAST_NEIGHBOURS and there.all():
        rows = _sorted(columns.copy())
        # The same number twice where there is one in the middle, and half their sum is that.
        return (rows[(count - 1) // 2] + rows[count // 2]) / 2.0, np.ones(there.shape[1], np.bool_)
    present = there.sum(axis=0)
    enough = present >= _LEAST_NEIGHBOURS
    if count < _LEAST_NEIGHBOURS:
        return np.full(columns.shape[1], np.nan), enough
    # What is missing goes to the end.
    ordered = np.stack(_sorted(np.where(there, columns, np.inf)))
    half = np.maximum(present, 1)
    place = np.arange(columns.shape[1])
    lower, upper = ordered[(half - 1) // 2, place], ordered[half // 2, place]
    return (lower + upper) / 2.0, enough


def _sorted(columns: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Sort each column, in its own place or not: odd-even transposition, for a handful of rows."""
    rows, spare = list(columns), np.empty(columns.shape[1])
    for turn in range(len(rows)):
        for low in range(turn % 2, len(rows) - 1, 2):
            one, other = rows[low], rows[low + 1]
            rows[low] = np.minimum(one, other, out=spare)
            np.maximum(one, other, out=other)
            spare = one
    return rows

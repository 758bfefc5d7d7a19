"""Readings, and counts above all, that are unusual for the hour of the week.

A profile holds what is usual at each hour of a workday, a Saturday, and a Sunday or holiday, in
local time: 72 hours, each with a mean and a mean absolute deviation. Between the middles of two
hours both are interpolated, or every rush hour would begin with readings far off (without it the
errors are up to a quarter larger); a neighbour that is not known yet is left out.

A *visit* is an unbroken stay in one hour. When it is over its mean and its mean deviation are
learned with weight 1 / visits, never less than a tenth; readings further off than four spreads
count as if they were four away. Local time takes care of itself when clocks change: an hour that
is skipped is not visited, one that comes twice is one visit of two hours.

Why not 168 hours: with three kinds of day an hour of a workday is known after three days, not three
weeks. One-step errors relative to the mean deviation of the series, where all profiles know
something, and then over all readings, the median standing in where a profile knows nothing:

=========================  =====  =====  =============  =============
series (public, NAB)       72     168    72, all rows   168, all rows
=========================  =====  =====  =============  =============
occupancy_6005, 16 days    0.605  0.609  0.778          0.954
occupancy_t4013, 17 days   0.692  0.742  0.828          0.953
TravelTime_387, 69 days    0.918  0.908  1.000          0.970
nyc_taxi, 215 days         0.330  0.290  0.346          0.334
=========================  =====  =====  =============  =============

168 win where they have had months, by 12 %, because a Friday night is no Monday night; they take
twice the memory and learn a change of the city a fifth as fast.

A count has a spread of its own. That of a Poisson count with mean m is sqrt(m) (its variance over
the mean is the *dispersion*; McCullagh & Nelder, *Generalized Linear Models*, 1989, section 6.2),
however few nights have been seen, and its upper tail is heavier than that of a Gaussian where m is
small. So the variance is taken to be at least ``dispersion * (m + 1)``. The limit at six spreads is
then passed by a Poisson count of mean 0.2, 1, 4, 20 or 100 with a chance of 2e-9, 1e-7, 2e-7, 8e-8
or 1e-8, and needs no transform that would have to be undone to say what is usual.

A series has 696 bytes: a bin is two numbers of 32 bits in one word. They are exact to 1 part in 16
million, and nothing beyond 1e30 is a reading here.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.averages import HOUR_NS
from detectors.finding import (
    ALL,
    Answer,
    Finding,
    Forecast,
    beside_forecast,
    known,
    moment,
    put,
    rows_of,
    unless_all,
)
from detectors.shift import Usual
from detectors.table import NEVER

# Levels.
HIGH: Final = 1
LOW: Final = 2

_HALF_NS: Final = HOUR_NS // 2
_HOURS: Final = 24
_WEEK: Final = 7
_KINDS: Final = 3
_BINS: Final = _KINDS * _HOURS
# 1970-01-01 was a Thursday; kinds of day from there.
_KIND_OF_WEEKDAY: Final = np.array([0, 0, 1, 2, 0, 0, 0], np.int64)
_FREE_DAY: Final = 2
# Counts of visits, four bits each. More than fifteen change nothing.
_COUNTS_A_WORD: Final = 16
_COUNT_BITS: Final = 4
_MOST_VISITS: Final = 15
_NO_HALF: Final = NEVER // _HALF_NS - 1

_LEAST_WEIGHT: Final = 0.1
_KNOWN_AFTER: Final = 3
_FAR_SPREADS: Final = 6.0
_BOUND_SPREADS: Final = 4.0
# How much wider the spread is taken to be after one visit; after n it is an nth of that.
_EARLY_WIDENING: Final = 3.0
# Standard over mean absolute deviation of a Gaussian, sqrt(pi / 2).
_SPREAD_OF_DEVIATION: Final = 1.2533141373155003
# What 32 bits cannot tell apart, with room.
_RESOLUTION: Final = 1e-6
_LARGEST: Final = 1e30


class State(NamedTuple):
    """Columns of some series."""

    profile: NDArray[np.int64]  # (72, n): mean and mean deviation, float32 each
    visits: NDArray[np.int64]  # (5, n): of the bins, four bits each
    half: NDArray[np.int64]  # the present half-hour of local time since 1970
    bin: NDArray[np.int64]  # the present one
    total: NDArray[np.float64]  # of the present visit: of readings, bounded
    deviation: NDArray[np.float64]  # and of their distances
    readings: NDArray[np.float64]  # how many of them
    # What the profile says at the middle of an hour before and after, as it stood when the present
    # half-hour began; a mean is NaN where nothing is known.
    means: NDArray[np.float64]  # (2, n)
    deviations: NDArray[np.float64]  # (2, n)
    seen: NDArray[np.float64]  # visits of the present hour so far


class Terms(NamedTuple):
    """What is fixed for a series, or known of the moment.

    Parameters
    ----------
    utc_offset_ns : (n,) int64
        Local time minus UTC now (`local_time.offsets_ns`).
    least : (n,) float64
        Spread below which nothing matters, in the unit of the series and above 0: the step of its
        resolution, say.
    dispersion : (n,) float64
        Variance over mean of a count that comes by itself: 1 for Poisson; 0 for what is no count.
    """

    utc_offset_ns: NDArray[np.int64]
    least: NDArray[np.float64]
    dispersion: NDArray[np.float64]


def new_state(count: int) -> State:
    """Return the state of series that have said nothing yet."""
    return State(
        profile=np.zeros((_BINS, count), np.int64),
        visits=np.zeros((-(-_BINS // _COUNTS_A_WORD), count), np.int64),
        half=np.full(count, _NO_HALF),
        bin=np.zeros(count, np.int64),
        total=np.zeros(count),
        deviation=np.zeros(count),
        readings=np.zeros(count),
        means=np.full((2, count), np.nan),
        deviations=np.zeros((2, count)),
        seen=np.zeros(count),
    )


def profile_bin(hour: NDArray[np.int64], holidays: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bin of hours of local time since 1970.

    Parameters
    ----------
    hour : (n,) int64
    holidays : (m,) int64
        Rising local days since 1970 that are as Sundays (`local_time.day_numbers`).
    """
    day = hour // _HOURS
    kind = _KIND_OF_WEEKDAY[day - day // _WEEK * _WEEK]
    place = np.searchsorted(holidays, day)
    free = holidays.take(place, mode="clip") == day if len(holidays) else np.False_
    bins: NDArray[np.int64] = hour - day * _HOURS + np.where(free, _FREE_DAY, kind) * _HOURS
    return bins


def step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    terms: Terms,
    holidays: NDArray[np.int64],
) -> Finding:
    """Judge one reading of each series.

    Parameters
    ----------
    state, time_ns, value, usable
        As of every kernel. A reading on the full hour belongs to the hour before.
    terms : Terms
        Of the series.
    holidays : (m,) int64
        As of `profile_bin`; the same for all series.

    Returns
    -------
    Finding
        `expected` is what is usual now; it is what `tampering` asks for. It is NaN, and nothing is
        judged, until this hour of this kind of day has been visited three times.
    """
    return judge(state, time_ns, value, usable, terms, holidays)[0].told(ALL)


def judge(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    terms: Terms,
    holidays: NDArray[np.int64],
) -> tuple[Answer, Usual]:
    """Judge one reading of each series, as `step`; return what `shift` has to know as well."""
    heard = usable & (np.abs(value) <= _LARGEST)
    # One moment alone is broadcast to the series.
    local = moment(time_ns) + moment(terms.utc_offset_ns)
    half = (local - 1) // _HALF_NS
    moved = rows_of(heard & (half != state.half))
    if len(moved):
        _move(state, moved, np.broadcast_to(half, len(value))[moved], holidays)

    share = ((local - 1 + _HALF_NS) % HOUR_NS + 1) / HOUR_NS
    expected = _between(state.means, share)
    spread = _between(state.deviations, share)
    spread *= _SPREAD_OF_DEVIATION
    size = np.abs(expected)
    floor = terms.dispersion * (size + 1.0)
    np.maximum(floor, terms.least * terms.least, out=floor)
    np.maximum(spread, np.sqrt(floor, out=floor), out=spread)
    np.maximum(spread, np.multiply(size, _RESOLUTION, out=size), out=spread)
    seen = np.maximum(state.seen, 1.0)
    spread *= 1.0 + _EARLY_WIDENING / seen
    is_known = state.seen >= _KNOWN_AFTER
    judged = heard & is_known
    off = value - expected
    reach = spread * _FAR_SPREADS

    bound = spread * _BOUND_SPREADS
    if np.count_nonzero(is_known) == len(is_known):
        bounded = _bounded(off, bound)
        lesson, distance = expected + bounded, np.abs(bounded)
    else:
        bounded = _bounded(off, np.where(is_known, bound, np.inf))
        visited = state.seen > 0.0
        lesson = np.where(visited, expected + bounded, value)
        distance = np.where(visited, np.abs(bounded), 0.0)
    where = unless_all(heard)
    lesson += state.total
    distance += state.deviation
    put(state.total, lesson, where)
    put(state.deviation, distance, where)
    put(state.readings, state.readings + 1.0, where)
    far = np.abs(off)
    speaks = judged & (far > reach)
    spreads = np.divide(far, spread, out=far)

    forecast = Forecast(expected, off, reach, spreads)
    found = beside_forecast(value, judged, speaks, forecast, (HIGH, LOW))
    upper = expected + reach
    if np.count_nonzero(judged) < len(judged):
        expected = known(expected, judged)
        upper = known(upper, judged)
    return found, _usual(expected, upper)


def _between(pair: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what lies between two columns, by the share of the way from the first."""
    before, after = pair
    between: NDArray[np.float64] = after - before
    between *= share
    between += before
    return between


def _bounded(off: NDArray[np.float64], bound: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.minimum(np.maximum(off, -bound), bound)


def hourly(
    state: State, rows: NDArray[np.intp], local_ns: NDArray[np.int64], holidays: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the usual mean of an hour, of some series; NaN until it was visited three times.

    Parameters
    ----------
    state : State
    rows : (n,) intp
        Which series.
    local_ns : (n,) int64
        A moment of the hour, local time; the full hour belongs to the hour before.
    holidays : (m,) int64
        As of `profile_bin`.
    """
    mean, _, seen = _read(state, rows, profile_bin((local_ns - 1) // HOUR_NS, holidays))
    return known(mean, seen >= _KNOWN_AFTER)


def usual(found: Finding) -> Usual:
    """Return what `shift` has to know of the same readings."""
    return _usual(found.expected, found.upper)


def _usual(expected: NDArray[np.float64], upper: NDArray[np.float64]) -> Usual:
    return Usual(expected, (upper - expected) / _FAR_SPREADS)


def _move(
    state: State, rows: NDArray[np.intp], half: NDArray[np.int64], holidays: NDArray[np.int64]
) -> None:
    """Let the present half-hour of some series be `half`; learn what is over."""
    hour = half >> 1
    ended = (hour != state.half[rows] >> 1) & (state.readings[rows] > 0.0)
    if np.count_nonzero(ended):
        _learn(state, rows[ended])
    # Between the middles of the hour before and of this one, or of this one and the next.
    late = half & 1
    here = profile_bin(hour, holidays)
    there = profile_bin(hour + 2 * late - 1, holidays)
    mean, deviation, seen = _read(state, rows, here)
    other_mean, other_deviation, other_seen = _read(state, rows, there)
    alone = other_seen < _KNOWN_AFTER
    other_mean = np.where(alone, mean, other_mean)
    other_deviation = np.where(alone, deviation, other_deviation)
    first = late == 0
    unknown = seen == 0.0
    state.means[0, rows] = np.where(unknown, np.nan, np.where(first, other_mean, mean))
    state.means[1, rows] = np.where(unknown, np.nan, np.where(first, mean, other_mean))
    state.deviations[0, rows] = np.where(first, other_deviation, deviation)
    state.deviations[1, rows] = np.where(first, deviation, other_deviation)
    state.seen[rows] = seen
    state.half[rows] = half
    state.bin[rows] = here


def _learn(state: State, rows: NDArray[np.intp]) -> None:
    """Add the visits that are over to the profile."""
    bins = state.bin[rows]
    mean, deviation, seen = _read(state, rows, bins)
    count = state.readings[rows]
    visits = seen + 1.0
    mean = mean + (state.total[rows] / count - mean) * np.maximum(1.0 / visits, _LEAST_WEIGHT)
    # The first visit had nothing to be held against, and left a deviation of 0.
    weight = np.maximum(1.0 / np.maximum(seen, 1.0), _LEAST_WEIGHT)
    deviation = deviation + (state.deviation[rows] / count - deviation) * weight
    pair = np.empty((len(rows), 2), np.float32)
    pair[:, 0], pair[:, 1] = mean, deviation
    state.profile[bins, rows] = pair.view(np.int64)[:, 0]
    more = (seen < _MOST_VISITS).astype(np.int64)
    state.visits[bins // _COUNTS_A_WORD, rows] += more << (bins % _COUNTS_A_WORD * _COUNT_BITS)
    state.total[rows] = state.deviation[rows] = state.readings[rows] = 0.0


def _read(
    state: State, rows: NDArray[np.intp], bins: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean, mean deviation and visits of one bin of each series."""
    pair = state.profile[bins, rows].view(np.float32).reshape(-1, 2).astype(np.float64)
    word = state.visits[bins // _COUNTS_A_WORD, rows]
    seen = (word >> (bins % _COUNTS_A_WORD * _COUNT_BITS)) & _MOST_VISITS
    return pair[:, 0], pair[:, 1], seen.astype(np.float64)

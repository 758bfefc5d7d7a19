"""Time-weighted means over the last hour, eight hours, day, and the calendar day.

A reading stands for the time since the one before it, but not for a hole (`detectors.pace`), and
never for more than an hour. So readings may come at any pace, a gap is a gap, and the share of
a window that readings stand for is its *coverage*. EU law wants three quarters of it: 45 minutes of
an hour, six of eight hours, 18 of 24 (Directive 2008/50/EC, Annex XI A; (EU) 2024/2881, Annex V C),
and that is what every kernel over these means asks for.

Of the past only whole hours of UTC are kept, 24 of them, each as sum(value * dt) and sum(dt). A
window of k hours is the present hour, k - 1 hours before it, and of the k-th hour the part that is
not over yet, as if its readings were spread evenly. On the full hour that is exactly the mean over
k clock hours which the law defines; in between it moves without a jump.

The sums are made anew from the hours whenever an hour is over, by additions in a fixed order, so
nothing drifts and no result depends on which series share a batch.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.finding import moment, put, rows_of, sound, unless_all
from detectors.pace import new_gaps, stood_ns
from detectors.table import NEVER

# The windows, as indices into the rows of `Means`.
HOUR: Final = 0
EIGHT_HOURS: Final = 1
DAY: Final = 2
CALENDAR_DAY: Final = 3
WINDOW_NAMES: Final = ("hour", "8 hours", "24 hours", "calendar day")
COVERAGE: Final = 0.75

HOUR_NS: Final = 3_600_000_000_000
_DAY_NS: Final = 24 * HOUR_NS
_HOUR_S: Final = 3_600.0
# Divided by, not multiplied with its inverse: whole seconds stay whole.
_NS_PER_S: Final = 1e9
_HOURS_KEPT: Final = 24
_ROLLING_HOURS: Final = (1, 8, 24)
_ROLLING_S: Final = np.array(_ROLLING_HOURS)[:, np.newaxis] * _HOUR_S
# Before every hour and day that a time can be in.
_NO_HOUR: Final = NEVER // HOUR_NS - 1
# NowCast: hours it looks at, the least weight, and how many of the newest hours must be there.
_NOWCAST_HOURS: Final = 12
_NOWCAST_LEAST_WEIGHT: Final = 0.5
_NOWCAST_NEWEST: Final = (3, 2)


class State(NamedTuple):
    """Columns of some series. Totals are in unit * s, covers in s.

    Row k of `total` and `cover` is the hour k + 1 hours before the present one. `past` and `edge`
    follow from them: the whole hours of a rolling window, and the hour that is leaving it.
    """

    previous_ns: NDArray[np.int64]
    hour: NDArray[np.int64]  # the present one, hours since 1970
    now_total: NDArray[np.float64]
    now_cover: NDArray[np.float64]
    total: NDArray[np.float64]  # (24, n)
    cover: NDArray[np.float64]
    past_total: NDArray[np.float64]  # (3, n)
    past_cover: NDArray[np.float64]
    edge_total: NDArray[np.float64]
    edge_cover: NDArray[np.float64]
    day: NDArray[np.int64]  # local days since 1970
    day_total: NDArray[np.float64]
    day_cover: NDArray[np.float64]
    nowcast: NDArray[np.float64]  # of the hours that are over; NaN where there are too few
    gaps: NDArray[np.int64]  # (3, n)


class Terms(NamedTuple):
    """What is fixed for a series.

    Parameters
    ----------
    hold_ns : (n,) int64
        What one reading may stand for, and for longer where its series reports less often.
    utc_offset_ns : (n,) int64
        Local time minus UTC, for the calendar day.
    """

    hold_ns: NDArray[np.int64]
    utc_offset_ns: NDArray[np.int64]


class Means(NamedTuple):
    """Means of the windows, a row a window.

    Parameters
    ----------
    mean : (4, n) float64
        NaN where nothing is covered.
    coverage : (4, n) float64
        Share of the window, 0 to 1.
    """

    mean: NDArray[np.float64]
    coverage: NDArray[np.float64]


def new_state(count: int) -> State:
    """Return the state of series that have said nothing yet."""
    rolling = (len(_ROLLING_HOURS), count)
    kept = (_HOURS_KEPT, count)
    return State(
        previous_ns=np.full(count, NEVER),
        hour=np.full(count, _NO_HOUR),
        now_total=np.zeros(count),
        now_cover=np.zeros(count),
        total=np.zeros(kept),
        cover=np.zeros(kept),
        past_total=np.zeros(rolling),
        past_cover=np.zeros(rolling),
        edge_total=np.zeros(rolling),
        edge_cover=np.zeros(rolling),
        day=np.full(count, _NO_HOUR),
        day_total=np.zeros(count),
        day_cover=np.zeros(count),
        nowcast=np.full(count, np.nan),
        gaps=new_gaps(count),
    )


def learn(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    terms: Terms,
) -> NDArray[np.bool_]:
    """Add one reading of each series to its windows; return which were added."""
    added = sound(value, usable)
    # One moment alone is broadcast to the series.
    now_at = moment(time_ns)
    span = stood_ns(state.gaps, time_ns, state.previous_ns, terms.hold_ns, added)
    # A reading on the full hour belongs to the hour before, and closes it.
    hour = now_at // HOUR_NS
    now_ns = np.minimum(span, now_at - hour * HOUR_NS)
    over = rows_of(added & (hour > state.hour))
    if len(over):
        before = (span - now_ns)[over] / _NS_PER_S
        hours = np.broadcast_to(hour, len(value))[over]
        _close_hours(state, over, hours, value[over] * before, before)
    now = now_ns / _NS_PER_S
    where = unless_all(added)
    put(state.now_total, state.now_total + value * now, where)
    put(state.now_cover, state.now_cover + now, where)

    local = now_at + moment(terms.utc_offset_ns)
    day = (local - 1) // _DAY_NS
    same = day == state.day
    if np.count_nonzero(same) == len(value):
        today = span / _NS_PER_S
        put(state.day_total, state.day_total + value * today, where)
        put(state.day_cover, state.day_cover + today, where)
    else:
        today = np.where(same, span, np.minimum(span, local - day * _DAY_NS)) / _NS_PER_S
        put(state.day_total, np.where(same, state.day_total, 0.0) + value * today, where)
        put(state.day_cover, np.where(same, state.day_cover, 0.0) + today, where)
        np.copyto(state.day, day, where=added)
    put(state.previous_ns, time_ns, where)
    return added


def means(state: State, time_ns: NDArray[np.int64]) -> Means:
    """Return the means of all windows at the time of the reading that was just learned."""
    left = 1.0 - (moment(time_ns) - state.hour * HOUR_NS) / HOUR_NS
    shape = len(WINDOW_NAMES), len(time_ns)
    mean, coverage = np.empty(shape), np.empty(shape)
    rolling = slice(len(_ROLLING_HOURS))
    total = np.add(state.now_total, state.past_total)
    total += state.edge_total * left
    cover = np.add(state.now_cover, state.past_cover)
    cover += state.edge_cover * left
    np.divide(total, cover, out=mean[rolling])
    np.divide(cover, _ROLLING_S, out=coverage[rolling])
    np.divide(state.day_total, state.day_cover, out=mean[CALENDAR_DAY])
    np.divide(state.day_cover, _HOURS_KEPT * _HOUR_S, out=coverage[CALENDAR_DAY])
    return Means(mean, coverage)


def _close_hours(
    state: State,
    over: NDArray[np.intp],
    hour: NDArray[np.int64],
    total_before: NDArray[np.float64],
    before: NDArray[np.float64],
) -> None:
    """Let the present hour of some series be `hour`.

    The last of what came before it (`before` seconds of the new reading) goes to the hour that it
    was in, which is the one before `hour`.
    """
    steps = np.minimum(hour - state.hour[over], _HOURS_KEPT + 1)
    total = _shifted(state.now_total[over], state.total[:, over], steps)
    cover = _shifted(state.now_cover[over], state.cover[:, over], steps)
    total[0] += total_before
    cover[0] += before
    state.total[:, over], state.cover[:, over] = total, cover
    state.now_total[over] = state.now_cover[over] = 0.0
    state.hour[over] = hour
    for column, past, edge in (
        (total, state.past_total, state.edge_total),
        (cover, state.past_cover, state.edge_cover),
    ):
        # One after the other, not `sum`: its order depends on how many series there are.
        running = np.zeros(len(over))
        for index, one in enumerate(column):
            if index + 1 in _ROLLING_HOURS:
                window = _ROLLING_HOURS.index(index + 1)
                past[window, over] = running
                edge[window, over] = one
            running = running + one
    state.nowcast[over] = _nowcast(total, cover)


def _shifted(
    present: NDArray[np.float64], kept: NDArray[np.float64], steps: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the hours kept after `steps` more; hours in which nothing was said are 0."""
    hours = np.concatenate((present[np.newaxis], kept))
    if (steps == 1).all():
        return hours[:-1]
    source = np.arange(1, _HOURS_KEPT + 1)[:, np.newaxis] - steps
    moved = np.take_along_axis(hours, np.maximum(source, 0), axis=0)
    return np.where(source >= 0, moved, 0.0)


def _nowcast(total: NDArray[np.float64], cover: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the PM NowCast of the 12 newest whole hours.

    With c_i the mean of the hour i hours ago and w = max(min(c) / max(c), 1/2)::

        NowCast = sum(w^i c_i) / sum(w^i)

    over the hours that are there; two of the newest three must be (U.S. EPA, *Technical Assistance
    Document for the Reporting of Daily Air Quality*, EPA-454/B-24-002, May 2024, section IV).
    """
    there = cover[:_NOWCAST_HOURS] >= COVERAGE * _HOUR_S
    hourly = np.where(there, total[:_NOWCAST_HOURS] / cover[:_NOWCAST_HOURS], np.nan)
    least, most = hourly[0], hourly[0]
    for one in hourly[1:]:
        least, most = np.fmin(least, one), np.fmax(most, one)
    weight = np.where(most > 0.0, np.maximum(least / most, _NOWCAST_LEAST_WEIGHT), 1.0)
    factor = np.ones_like(weight)
    above, below = np.zeros_like(weight), np.zeros_like(weight)
    for one, is_there in zip(hourly, there, strict=True):
        above = above + np.where(is_there, factor * one, 0.0)
        below = below + np.where(is_there, factor, 0.0)
        factor = factor * weight
    newest, needed = _NOWCAST_NEWEST
    enough = there[:newest].sum(axis=0) >= needed
    return np.where(enough, above / below, np.nan)

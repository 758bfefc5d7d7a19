"""One scale for the scores of all kernels and series: how rare is that, by the series' own record.

A kernel's nominal score is right as far as its model is. For the headways of a simulated road a
score of 2 is passed in two minutes of a hundred, for counts of people in two of ten thousand, and
a change of level lasts for hours. So the tail of each series' scores is learned, kernel by kernel,
in the manner of peaks over a threshold (Pickands 1975; Davison & Smith, *Models for exceedances
over high thresholds*, JRSS B 52, 1990; for streams: Siffer et al., *Anomaly detection in streams
with extreme value theory*, KDD 2017).

Scores that are too high come in runs, and a run is one event. So it is hours that are counted: in
an hour the highest score is above the threshold u or not. With v the mean number of events that a
Poisson process has in an hour, and b the mean excess of one, an event is above s in

    r(s) = v exp(-(s - u) / b)        v = -ln(1 - share of hours above u)        s >= u

of an hour, and the calibrated score is ``log10(60 / r)``: -log10 of a rate a minute, so that 4 is
what is seen once in 10,000 minutes, a week. The excess is exponential because the scores are
logarithms: that is a Pareto tail of what was measured, heavy or light. Below u the calibrated score
goes down to 0 in proportion, so it always rises with the nominal one. The highest of v events lies
about ``1 + v / 4`` times as far above u as one (exact for few, a twentieth too much for six), and
is learned as one.

Both numbers begin as what the nominal scores say of themselves, as if a day and four hours above u
had been seen, and fade over four weeks: a new series has its nominal scores. Hours are learned when
they are over, so a score is held against the past alone. One hour counts for at most four mean
excesses, and for a quarter where it reached the threshold that speaks: what is seen does not become
normal at once, but does when it lasts.

What u, the weight of the start and the bounds should be was tried on a quiet simulated city and on
four public series; the tables are in docs/detectors.md. With u at 1.5 the rates beyond 2 and 3
decades are met best, by kernels with light tails as well; without counting hours once, or without
the quarter, windows with labels are lost at the same threshold.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.averages import HOUR_NS
from detectors.finding import ALL, Rows, rows_of
from detectors.table import NEVER
from detectors.tail import tail_score

# Once in a week of minutes.
SPEAKS_FROM: Final = 4.0

_MINUTES: Final = 60.0
_THRESHOLD: Final = 1.5
_NO_HOUR: Final = NEVER // HOUR_NS - 1
# Of scores that are what they say: excess in decades.
_EXCESS: Final = 0.4342944819032518  # log10(e)
# Hours, and hours above the threshold, that they are worth.
_PRIOR_HOURS: Final = 24.0
_PRIOR_PEAKS: Final = 4.0
_MOST_HOURS: Final = 672.0
# Of so many hours all or none may be above the threshold, and half an hour more is not known.
_LEAST_SHARE: Final = 0.5 / _MOST_HOURS
_MOST_EXCESSES: Final = 4.0
# Four times as light as nominal: scores that hardly vary would make any rarity out of nothing.
_LEAST_EXCESS: Final = 0.1
_SPEAKING_PACE: Final = 1.0 / 4.0
_PEAK_OF_EVENTS: Final = 0.25
# Nobody counts so many events an hour; more would be beyond a float64.
_MOST_EXPONENT: Final = 700.0
# Share of spreads below the furthest of an hour that is worked out all the same.
_ROUNDING: Final = 1e-9


class State(NamedTuple):
    """Columns of some series."""

    hour: NDArray[np.int64]  # the present one, hours since 1970
    peak: NDArray[np.float64]  # highest nominal score of it
    hours: NDArray[np.float64]  # how many were learned, at most four weeks of them
    share: NDArray[np.float64]  # of hours that were above the threshold
    excess: NDArray[np.float64]  # mean of one event above it, decades


def new_state(count: int, threshold: float = _THRESHOLD) -> State:
    """Return the state of series that have said nothing yet."""
    # Of scores that are what they say.
    share = 1.0 - 10.0 ** (-_MINUTES * 10.0**-threshold * _EXCESS)
    return State(
        hour=np.full(count, _NO_HOUR),
        peak=np.zeros(count),
        hours=np.zeros(count),
        share=np.full(count, share),
        excess=np.full(count, _EXCESS),
    )


def step(
    state: State,
    time_ns: NDArray[np.int64],
    score: NDArray[np.float64],
    speaks_from: NDArray[np.float64] | float = SPEAKS_FROM,
) -> NDArray[np.float64]:
    """Calibrate one score of each series, by those before this hour, and take note of it.

    Parameters
    ----------
    state : State
    time_ns : (n,) int64
        Event time. A score on the full hour belongs to the hour before.
    score : (n,) float64
        Nominal, not negative, finite; NaN, which stays so, changes nothing.
    speaks_from : (n,) float64 or float
        Calibrated score from which on an alert is due.

    Returns
    -------
    (n,) float64
        -log10 of how often in a minute an event goes as far.
    """
    there = ~np.isnan(score)
    hour = (time_ns - 1) // HOUR_NS
    rows = rows_of(there & (hour != state.hour))
    if len(rows):
        begin_hours(state, rows, hour[rows], speaks_from)
    note(state, ALL, there, score, lambda rows: score[rows])
    return calibrated(score, state.share, state.excess)


def begin_hours(
    state: State,
    rows: NDArray[np.intp],
    hour: NDArray[np.int64] | int,
    speaks_from: NDArray[np.float64] | float = SPEAKS_FROM,
) -> None:
    """Learn the hours of some series that are over, and begin another.

    Parameters
    ----------
    state : State
    rows : (m,) intp
    hour : (m,) int64 or int
        Hours since 1970.
    speaks_from : (n,) float64 or float
        As of `step`.
    """
    over = rows[state.hour[rows] != _NO_HOUR]
    if len(over):
        learn(state, over, speaks_from)
    state.hour[rows] = hour
    state.peak[rows] = 0.0


def note(
    state: State,
    place: Rows,
    there: NDArray[np.bool_],
    score: NDArray[np.float64],
    exact: Callable[[NDArray[np.intp]], NDArray[np.float64]],
) -> None:
    """Take note of scores of an hour that has begun.

    Parameters
    ----------
    state : State
    place : Rows
        Of which series they are.
    there : (m,) bool
        Others are not looked at.
    score : (m,) float64
        The scores, or what they are not above.
    exact : callable of (k,) intp
        Returns the scores of some rows.
    """
    rows = rows_of(there & (score > state.peak[place]))
    if len(rows):
        at = rows if isinstance(place, slice) else place[rows]
        state.peak[at] = np.maximum(state.peak[at], exact(rows))


def note_spreads(
    state: State,
    reach: NDArray[np.float64],
    place: Rows,
    there: NDArray[np.bool_],
    spreads: NDArray[np.float64],
) -> None:
    """Take note of scores that are `tail_score` of spreads, as `note`.

    Parameters
    ----------
    state : State
    reach : (n,) float64
        Spreads up to which no score is above the peak of the hour, moved on in place; minus
        infinity where an hour begins. What is not above is not worked out: of the sixty minutes of
        an hour five are, where they have nothing to do with each other.
    place, there
        As of `note`.
    spreads : (m,) float64
    """
    rows = rows_of(there & (spreads > reach[place]))
    if len(rows):
        at = rows if isinstance(place, slice) else place[rows]
        some = spreads[rows]
        state.peak[at] = np.maximum(state.peak[at], tail_score(some))
        # Scores rise with spreads, but for rounding, of 1e-15 at most.
        reach[at] = some - (some + 1.0) * _ROUNDING


def rescale(
    state: State,
    rows: NDArray[np.intp],
    factor: NDArray[np.float64],
    threshold: float = _THRESHOLD,
) -> None:
    """Carry what was learned over to nominal scores that are larger by a factor.

    Parameters
    ----------
    state : State
    rows : (m,) intp
    factor : (m,) float64
        Positive. The peak of the present hour is left alone.
    threshold : float
        For which `state` was made.
    """
    excess = state.excess[rows] * factor
    events = -np.log1p(-state.share[rows])
    # How often the tail as it is known goes beyond what now is the threshold.
    events *= np.exp(np.minimum(threshold * (factor - 1.0) / excess, _MOST_EXPONENT))
    state.excess[rows] = excess
    state.share[rows] = _within(-np.expm1(-events))


def reached_by(
    state: State, rarity: NDArray[np.float64] | float, threshold: float = _THRESHOLD
) -> NDArray[np.float64]:
    """Return the nominal scores of each series whose calibrated ones these are, (n,) float64.

    Parameters
    ----------
    state : State
    rarity : (n,) float64 or float
    threshold : float
        For which `state` was made.
    """
    at_threshold = np.log10(_MINUTES / -np.log1p(-state.share))
    above = (rarity - at_threshold) * (np.maximum(state.excess, _LEAST_EXCESS) / _EXCESS)
    below = rarity * (threshold / at_threshold)
    nominal: NDArray[np.float64] = np.where(rarity > at_threshold, threshold + above, below)
    return nominal


def calibrated(
    score: NDArray[np.float64],
    share: NDArray[np.float64],
    excess: NDArray[np.float64],
    threshold: float = _THRESHOLD,
) -> NDArray[np.float64]:
    """Return nominal scores as -log10 of how often in a minute an event goes as far."""
    at_threshold = np.log10(_MINUTES / -np.log1p(-share))
    above = at_threshold + (score - threshold) * (_EXCESS / np.maximum(excess, _LEAST_EXCESS))
    below = score * (at_threshold / threshold)
    result: NDArray[np.float64] = np.where(score > threshold, above, below)
    return result


def learn(
    state: State,
    rows: NDArray[np.intp],
    speaks_from: NDArray[np.float64] | float,
    threshold: float = _THRESHOLD,
) -> None:
    """Learn the hours of some series that are over, from their peaks.

    Parameters
    ----------
    state : State
    rows : (m,) intp
    speaks_from : (n,) float64 or float
        Calibrated score from which on an hour counts for a quarter.
    threshold : float
        Nominal score above which the tail is learned; `state` must have been made for it.
    """
    peak, hours = state.peak[rows], state.hours[rows]
    share, excess = state.share[rows], state.excess[rows]
    limit = np.broadcast_to(speaks_from, state.peak.shape)[rows]
    spoke = calibrated(peak, share, excess, threshold) >= limit
    pace = np.where(spoke, _SPEAKING_PACE, 1.0)
    above = peak > threshold
    known = np.minimum(hours + _PRIOR_HOURS, _MOST_HOURS)
    events = -np.log1p(-share)
    lesson = (peak - threshold) / (1.0 + _PEAK_OF_EVENTS * events)
    lesson = np.minimum(lesson, excess * _MOST_EXCESSES)
    weight = pace / (share * known + _PRIOR_PEAKS + 1.0)
    state.excess[rows] = np.where(above, excess + (lesson - excess) * weight, excess)
    share = share + (above - share) * (pace / (known + 1.0))
    state.share[rows] = _within(share)
    state.hours[rows] = np.minimum(hours + 1.0, _MOST_HOURS)


def _within(share: NDArray[np.float64]) -> NDArray[np.float64]:
    bounded: NDArray[np.float64] = np.minimum(np.maximum(share, _LEAST_SHARE), 1.0 - _LEAST_SHARE)
    return bounded

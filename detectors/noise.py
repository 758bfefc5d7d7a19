"""Noise by day, evening and night, against the limit of the period.

The periods are those of Directive 2002/49/EC, Annex I: day 07-19, evening 19-23, night 23-07, local
time. They are cut from a day that begins at 07, so that a night is one period. A level is averaged
by its energy, weighted by the time each reading stands for (as in `averages`)::

    L = 10 lg( sum(10^(L_i / 10) dt_i) / sum(dt_i) )

The directive's indicators (L_den, L_night) are averages over a year, of which no alert can be made,
and limits are national: they are an input. What is judged here is one period: its average so far,
once an hour and three quarters of it are covered, and whether the limit will be exceeded however
quiet the rest is.
"""

from decimal import Decimal
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
    nothing,
    put,
    rows_of,
    sound,
    unless_all,
)
from detectors.pace import new_gaps, stood_ns
from detectors.table import NEVER

PERIOD_NAMES: Final = ("day", "evening", "night")
# Level: the average so far is too loud, or the whole period will be, whatever comes.
ABOVE: Final = 1
CERTAIN: Final = 2

_NS_PER_S: Final = 1e9
_DAY_NS: Final = 24 * HOUR_NS
_BEGIN_NS: Final = 7 * HOUR_NS
_STARTS_NS: Final = np.array([0, 12 * HOUR_NS, 16 * HOUR_NS])
_LENGTHS_S: Final = np.array([12.0, 4.0, 8.0]) * 3_600.0
_PERIODS: Final = len(PERIOD_NAMES)
_LEAST_COVER_S: Final = 3_600.0
_NO_PERIOD: Final = (NEVER // _DAY_NS - 1) * _PERIODS
# 10^(L / 10) of whole decibels, each the nearest float64.
_LEAST_DB: Final = -50
_MOST_DB: Final = 250
_ENERGIES: Final = np.array(
    [float(Decimal(10) ** (Decimal(level) / 10)) for level in range(_LEAST_DB, _MOST_DB + 1)]
)
_NEPER: Final = 0.23025850929940458  # ln(10) / 10
# 1 / k! for the exponential of at most 0.116; the next term is below 2^-53.
_SERIES: Final = tuple(
    1.0 / factorial for factorial in (362_880, 40_320, 5_040, 720, 120, 24, 6, 2, 1, 1)
)


class State(NamedTuple):
    """Columns of some series. Totals are in energy * s, covers in s."""

    previous_ns: NDArray[np.int64]
    period: NDArray[np.int64]  # the present one: three for each day that begins at 07
    total: NDArray[np.float64]
    cover: NDArray[np.float64]
    gaps: NDArray[np.int64]  # (3, n)


class Terms(NamedTuple):
    """What is fixed for a series.

    Parameters
    ----------
    hold_ns : (n,) int64
        What one reading may stand for, as in `averages`.
    utc_offset_ns : (n,) int64
        Local time minus UTC.
    limit_db : (3, n) float64
        Limits by day, evening, night; NaN where there is none.
    """

    hold_ns: NDArray[np.int64]
    utc_offset_ns: NDArray[np.int64]
    limit_db: NDArray[np.float64]


def new_state(count: int) -> State:
    """Return the state of series that have said nothing yet."""
    return State(
        previous_ns=np.full(count, NEVER),
        period=np.full(count, _NO_PERIOD),
        total=np.zeros(count),
        cover=np.zeros(count),
        gaps=new_gaps(count),
    )


def step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    terms: Terms,
) -> Finding:
    """Judge one reading of each series, in dB.

    `measure` is the average of the period so far and `upper` its limit, both in dB; `level` is
    `ABOVE` or `CERTAIN` where it speaks.
    """
    return judge(state, time_ns, value, usable, terms).told(ALL)


def judge(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    terms: Terms,
) -> Answer:
    """Judge one reading of each series, as `step`."""
    added = sound(value, usable)
    count = len(value)
    # A reading on the stroke of the hour closes the period. One moment alone is broadcast.
    local = moment(time_ns) - 1 + moment(terms.utc_offset_ns) - _BEGIN_NS
    day = local // _DAY_NS
    into_day = local - day * _DAY_NS
    kind = (into_day >= _STARTS_NS[1]).astype(np.intp) + (into_day >= _STARTS_NS[2])
    elapsed_ns = into_day - _STARTS_NS[kind] + 1
    period = day * _PERIODS + kind

    span = stood_ns(state.gaps, time_ns, state.previous_ns, terms.hold_ns, added)
    now_ns = np.minimum(span, elapsed_ns)
    limit_db = terms.limit_db[kind[0]] if len(kind) == 1 else terms.limit_db[kind, np.arange(count)]
    # In one go: it is a dozen steps, and the series are few.
    loud, limit = energy(np.concatenate((value, limit_db))).reshape(2, count)
    over = rows_of(added & (period > state.period))
    if len(over):
        state.period[over] = np.broadcast_to(period, count)[over]
        state.total[over] = state.cover[over] = 0.0
    now = now_ns / _NS_PER_S
    where = unless_all(added)
    put(state.total, state.total + loud * now, where)
    put(state.cover, state.cover + now, where)
    put(state.previous_ns, time_ns, where)

    mean = state.total / state.cover
    enough = np.maximum(elapsed_ns / _NS_PER_S * COVERAGE, _LEAST_COVER_S)
    certain = state.total > limit * _LENGTHS_S[kind]
    judged = added & ~np.isnan(limit_db) & ((state.cover >= enough) | certain)
    speaks = judged & (certain | (mean > limit))

    def told(rows: Rows) -> Finding:
        known_rows, spoke = judged[rows], speaks[rows]
        level = spoke.astype(np.uint8)
        level[spoke & certain[rows]] = CERTAIN
        return Finding(
            judged=known_rows,
            speaks=spoke,
            level=level,
            measure=known(10.0 * np.log10(mean[rows]), known_rows),
            expected=nothing(len(level)),
            lower=nothing(len(level)),
            upper=known(limit_db[rows], known_rows),
            score=nothing(len(level)),
        )

    return Answer(judged, speaks, told)


def energy(level: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 10^(level / 10), of levels cut at -50 and 250 dB.

    By a table of whole decibels and a short series for the rest: a library's power may differ in
    the last bit from one machine to the next.
    """
    cut = np.minimum(np.maximum(level, float(_LEAST_DB)), float(_MOST_DB))
    whole = np.rint(cut)
    rest = (cut - whole) * _NEPER
    factor = np.full(np.shape(level), _SERIES[0])
    for term in _SERIES[1:]:
        factor = factor * rest + term
    place = np.where(np.isnan(whole), 0.0, whole - _LEAST_DB).astype(np.intp)
    result: NDArray[np.float64] = _ENERGIES[place] * factor
    return result

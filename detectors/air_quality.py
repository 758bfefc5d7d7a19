"""The European and the U.S. air quality index, for each pollutant and for a station.

Both come from the means of `averages`; three quarters of a window must be covered. The tables are
in `air_quality_tables`.

The European index names a band. The U.S. index is a number, piecewise linear between breakpoints
(40 CFR 58 Appendix G, equation 1)::

    I = (I_high - I_low) / (C_high - C_low) * (C - C_low) + I_low

where the concentration C is cut off at the last digit of the table before, and I is rounded half
up after. Above 500 the last line goes on. Two pollutants have two tables, and of each the higher
index counts. What eight hours say of ozone goes up to 300 and what an hour says of sulphur dioxide
up to 200; beyond, they are held there, and it takes an hour of ozone (from 405 ppb on) or 24 hours
of sulphur dioxide (from 305 ppb on) to say more. Particles are judged by their NowCast, as AirNow
does, for their 24-hour index is known the day after. The ozone NowCast, a regression that EPA fits
for each station, is not here; the mean of the last eight hours is used.
"""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors.air_quality_tables import POLLUTANTS, Bands, Scale
from detectors.averages import COVERAGE, DAY, Means, State, Terms, learn, means, new_state
from detectors.finding import ALL, Answer, Finding, Rows, edges_of, known, nothing

__all__ = [
    "EU_MOLAR_VOLUME",
    "US_MOLAR_VOLUME",
    "State",
    "Terms",
    "european",
    "european_step",
    "in_ppb",
    "judge_european",
    "new_state",
    "united_states",
    "united_states_step",
]

# Litres in a mole of an ideal gas, R T / p. U.S. concentrations are corrected to 25 degrees and
# 760 mmHg (40 CFR 50.3), European ones to 293 K and 101.3 kPa (2008/50/EC, Annex VI B).
US_MOLAR_VOLUME: Final = 24.465
EU_MOLAR_VOLUME: Final = 24.049
# A concentration that misses a breakpoint by rounding alone has reached it.
_ROUNDING: Final = 1e-6
_CATEGORY_ENDS: Final = np.array([50.0, 100.0, 150.0, 200.0, 300.0])
_CO: Final = POLLUTANTS.index("co")


def european_step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    terms: Terms,
    pollutant: NDArray[np.intp],
    bands: Bands,
    speak_from: int | NDArray[np.intp],
) -> Finding:
    """Judge one reading of each series, in ug/m3, by the European index; see `european`."""
    added = learn(state, time_ns, value, usable, terms)
    return european(means(state, time_ns), added, pollutant, bands, speak_from)


def european(
    found: Means,
    added: NDArray[np.bool_],
    pollutant: NDArray[np.intp],
    bands: Bands,
    speak_from: int | NDArray[np.intp],
) -> Finding:
    """Return the band of each series.

    Parameters
    ----------
    found : Means
        Of concentrations in ug/m3.
    added : (n,) bool
        Which rows brought something new.
    pollutant : (n,) intp
        Index into `POLLUTANTS`. One that has no bands is not judged.
    bands : Bands
        The version of the index.
    speak_from : int or (n,) intp
        Band from which on it speaks, 2 to 6.

    Returns
    -------
    Finding
        `level` is the band, 1 (good), 2 (fair), 3 (moderate), 4 (poor), 5 (very poor) and 6
        (extremely poor); `measure` the mean; `upper` the highest concentration that would not
        speak; `expected` the mean of the last 24 hours, where it is known and the window is
        shorter, else the highest concentration that is good.
    """
    return judge_european(found, added, pollutant, bands, speak_from).told(ALL)


def judge_european(
    found: Means,
    added: NDArray[np.bool_],
    pollutant: NDArray[np.intp],
    bands: Bands,
    speak_from: int | NDArray[np.intp],
) -> Answer:
    """Judge the band of each series, as `european`."""
    row = np.arange(len(pollutant))
    window = bands.windows()[pollutant]
    mean = found.mean[window, row]
    columns = bands.edge_columns()
    judged = added & (found.coverage[window, row] >= COVERAGE) & ~np.isnan(columns[0])[pollutant]
    bound = np.broadcast_to(edges_of(columns[:, pollutant], speak_from - 2), len(mean))
    # Every band begins above the one before.
    speaks = judged & (mean > bound)
    has_day = judged & (window < DAY) & (found.coverage[DAY] >= COVERAGE)

    def told(rows: Rows) -> Finding:
        known_rows, some = judged[rows], mean[rows]
        level = np.ones(len(some), np.uint8)
        for edge in columns[:, pollutant[rows]]:
            level += some > edge
        level[~known_rows] = 0
        return Finding(
            judged=known_rows,
            speaks=speaks[rows],
            level=level,
            measure=known(some, known_rows),
            expected=known(
                np.where(has_day[rows], found.mean[DAY, rows], columns[0, pollutant[rows]]),
                known_rows,
            ),
            lower=nothing(len(some)),
            upper=known(bound[rows], known_rows),
            score=nothing(len(some)),
        )

    return Answer(judged, speaks, told)


def united_states_step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    terms: Terms,
    pollutant: NDArray[np.intp],
    scales: tuple[Scale, ...],
    speak_from: int | NDArray[np.intp],
    molar_volume: float = US_MOLAR_VOLUME,
) -> Finding:
    """Judge one reading of each series by the U.S. index; see `united_states`."""
    added = learn(state, time_ns, value, usable, terms)
    return united_states(
        means(state, time_ns), state.nowcast, added, pollutant, scales, speak_from, molar_volume
    )


def united_states(
    found: Means,
    nowcast: NDArray[np.float64],
    added: NDArray[np.bool_],
    pollutant: NDArray[np.intp],
    scales: tuple[Scale, ...],
    speak_from: int | NDArray[np.intp],
    molar_volume: float = US_MOLAR_VOLUME,
) -> Finding:
    """Return the index of each series.

    Parameters
    ----------
    found : Means
        Of concentrations in ug/m3, of carbon monoxide in mg/m3.
    nowcast : (n,) float64
        NowCast of the same series.
    added : (n,) bool
        Which rows brought something new.
    pollutant : (n,) intp
        Index into `POLLUTANTS`.
    scales : tuple of Scale
        The version of the index.
    speak_from : int or (n,) intp
        Category from which on it speaks, 2 (moderate) to 6 (hazardous).
    molar_volume : float
        Litres a mole at which the concentrations are given.

    Returns
    -------
    Finding
        `level` is the category, 1 (good), 2 (moderate), 3 (unhealthy for sensitive groups), 4
        (unhealthy), 5 (very unhealthy) and 6 (hazardous); `measure` the index; `expected` the
        highest that is good; `upper` the highest that would not speak.
    """
    count = len(pollutant)
    index = nothing(count)
    for scale in scales:
        number = POLLUTANTS.index(scale.pollutant)
        rows = np.flatnonzero(added & (pollutant == number))
        if not len(rows):
            continue
        if scale.window is None:
            mean = nowcast[rows]
        else:
            covered = found.coverage[scale.window, rows] >= COVERAGE
            mean = known(found.mean[scale.window, rows], covered)
        if scale.gas_g_mol is not None:
            ug_m3 = mean * 1_000.0 if number == _CO else mean
            mean = in_ppb(ug_m3, scale.gas_g_mol, molar_volume)
        index[rows] = np.fmax(index[rows], _on_scale(mean, scale))
    judged = ~np.isnan(index)
    level = np.ones(count, np.uint8)
    for end in _CATEGORY_ENDS:
        level += index > end
    level[~judged] = 0
    return Finding(
        judged=judged,
        speaks=level >= speak_from,
        level=level,
        measure=index,
        expected=known(_CATEGORY_ENDS[0], judged),
        lower=nothing(count),
        upper=known(edges_of(_CATEGORY_ENDS, speak_from - 2), judged),
        score=nothing(len(judged)),
    )


def in_ppb(
    ug_m3: NDArray[np.float64], gas_g_mol: float, molar_volume: float
) -> NDArray[np.float64]:
    """Return parts per billion of a gas from its mass concentration."""
    return ug_m3 * (molar_volume / gas_g_mol)


@cache
def _lines(
    scale: Scale,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return where each line of a scale begins, its slope, and the index there."""
    low, high, index_low, index_high = (
        np.array([getattr(row, name) for row in scale.rows], np.float64)
        for name in ("low", "high", "index_low", "index_high")
    )
    return low, (index_high - index_low) / (high - low), index_low


def _on_scale(mean: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    """Return the index of concentrations in the unit of the table; NaN where it says nothing."""
    cut = np.floor(mean * scale.steps + _ROUNDING)
    lows, slopes, starts = _lines(scale)
    place = np.searchsorted(lows[1:], cut, side="right")
    index = slopes[place] * (cut - lows[place]) + starts[place]
    said = cut >= scale.rows[0].low
    if scale.ends:
        index = np.minimum(index, float(scale.rows[-1].index_high))
    # An instrument near zero may report a little less than nothing.
    if scale.rows[0].low == 0:
        said |= cut < 0
        index = np.maximum(index, 0.0)
    return np.where(said, np.floor(index + 0.5), np.nan)

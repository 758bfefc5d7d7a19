"""Concentrations against the limits of EU law and the guidelines of the WHO.

A limit value has an averaging period. Where the law limits the *maximum daily eight-hour mean*, the
running mean is above it exactly when the day's maximum is. How often a limit may be exceeded in a
year is part of the law, too, but whether a year's count is too high is not judged here, and
calendar-year limits are not either: no alert can be acted on that takes a year.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.averages import (
    CALENDAR_DAY,
    COVERAGE,
    DAY,
    EIGHT_HOURS,
    HOUR,
    WINDOW_NAMES,
    Means,
    State,
    Terms,
    learn,
    means,
    new_state,
)
from detectors.finding import ALL, Answer, Finding, Rows, known, nothing, rows_of

__all__ = ["STANDARDS", "Limit", "State", "Terms", "judge", "limit_columns", "new_state", "step"]


class Limit(NamedTuple):
    """One limit value.

    Parameters
    ----------
    pollutant : str
        Name of the quantity.
    window : int
        Averaging period, a window of `averages`.
    value : float
        ug/m3; mg/m3 for carbon monoxide.
    """

    pollutant: str
    window: int
    value: float


# Read in transcriptions of the sources named, not in the documents themselves.
STANDARDS: Final[dict[str, tuple[Limit, ...]]] = {
    # Directive 2008/50/EC, Annex XI B (limit values) and Annex VII B (ozone, a target value,
    # days a year averaged over three years). The same numbers are Table 2 of Annex I, section 1, of
    # Directive (EU) 2024/2881, to be met by 11 December 2026.
    "EU 2008/50/EC": (
        Limit("pm10", CALENDAR_DAY, 50.0),
        Limit("no2", HOUR, 200.0),
        Limit("so2", HOUR, 350.0),
        Limit("so2", CALENDAR_DAY, 125.0),
        Limit("co", EIGHT_HOURS, 10.0),
        Limit("o3", EIGHT_HOURS, 120.0),
    ),
    # Directive (EU) 2024/2881, Annex I, section 1, Table 1, to be met by 1 January 2030, and
    # section 2 B (ozone, a target value, days a year averaged over three years).
    "EU 2024/2881": (
        Limit("pm25", CALENDAR_DAY, 25.0),
        Limit("pm10", CALENDAR_DAY, 45.0),
        Limit("no2", HOUR, 200.0),
        Limit("no2", CALENDAR_DAY, 50.0),
        Limit("so2", HOUR, 350.0),
        Limit("so2", CALENDAR_DAY, 50.0),
        Limit("co", EIGHT_HOURS, 10.0),
        Limit("co", CALENDAR_DAY, 4.0),
        Limit("o3", EIGHT_HOURS, 120.0),
    ),
    # WHO global air quality guidelines, 2021: Table 0.1 (AQG levels, 99th percentile: three or
    # four days a year) and Table 0.2 (shorter averages that remain valid: NO2 and CO in an hour, CO
    # in eight). The ten-minute mean of SO2 has no window here.
    "WHO 2021": (
        Limit("pm25", CALENDAR_DAY, 15.0),
        Limit("pm10", CALENDAR_DAY, 45.0),
        Limit("o3", EIGHT_HOURS, 100.0),
        Limit("no2", CALENDAR_DAY, 25.0),
        Limit("no2", HOUR, 200.0),
        Limit("so2", CALENDAR_DAY, 40.0),
        Limit("co", CALENDAR_DAY, 4.0),
        Limit("co", EIGHT_HOURS, 10.0),
        Limit("co", HOUR, 35.0),
    ),
}


def limit_columns(standard: str, pollutants: list[str]) -> NDArray[np.float64]:
    """Return the limits of a standard for series of these pollutants.

    Parameters
    ----------
    standard : str
        A key of `STANDARDS`.
    pollutants : list of str, length n
        Names of quantities.

    Returns
    -------
    (4, n) float64
        A row a window of `averages`; NaN where there is no limit.

    Raises
    ------
    KeyError
        If there is no such standard.
    """
    limits = np.full((len(WINDOW_NAMES), len(pollutants)), np.nan)
    names = np.array(pollutants)
    for limit in STANDARDS[standard]:
        limits[limit.window, names == limit.pollutant] = limit.value
    return limits


def step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    terms: Terms,
    limit: NDArray[np.float64],
) -> Finding:
    """Judge one reading of each series by the means that it completes.

    `level` is 1 plus the window that is nearest to its limit, or furthest above it; `measure` is
    its mean, `upper` its limit, and `expected` the mean of the last 24 hours where that is known
    and the window is shorter, else the limit. `limit` is (4, n), as `limit_columns` gives it.
    """
    added = learn(state, time_ns, value, usable, terms)
    return judge(means(state, time_ns), added, limit).told(ALL)


def judge(found: Means, added: NDArray[np.bool_], limit: NDArray[np.float64]) -> Answer:
    """Hold means against limits, as `step`; `added` says which rows brought something new."""
    covered = found.coverage >= COVERAGE
    covered &= found.mean / limit > -np.inf
    judged = added & covered.any(axis=0)
    # It speaks where the worst mean is above its limit: where none is, there is nothing to weigh.
    covered &= found.mean > limit
    rows = rows_of(added & covered.any(axis=0))
    speaks = np.zeros(len(added), np.bool_)

    def told(rows: Rows) -> Finding:
        part = Means(found.mean[:, rows], found.coverage[:, rows])
        return _worst(part, added[rows], limit[:, rows])

    if len(rows):
        speaks[rows] = told(rows).speaks
    return Answer(judged, speaks, told)


def _worst(found: Means, added: NDArray[np.bool_], limit: NDArray[np.float64]) -> Finding:
    """Return what is nearest to its limit, or furthest above it."""
    count = len(added)
    worst = np.full(count, -np.inf)
    level = np.zeros(count, np.uint8)
    measure, upper = nothing(count), nothing(count)
    for window, (mean, coverage, bound) in enumerate(
        zip(found.mean, found.coverage, limit, strict=True)
    ):
        ratio = mean / bound
        worse = added & (coverage >= COVERAGE) & (ratio > worst)
        np.copyto(worst, ratio, where=worse)
        np.copyto(measure, mean, where=worse)
        np.copyto(upper, bound, where=worse)
        level[worse] = window + 1
    judged = level > 0
    has_day = judged & (level <= DAY) & (found.coverage[DAY] >= COVERAGE)
    return Finding(
        judged=judged,
        speaks=judged & (measure > upper),
        level=level,
        measure=measure,
        expected=known(np.where(has_day, found.mean[DAY], upper), judged),
        lower=nothing(count),
        upper=known(upper, judged),
        score=nothing(len(judged)),
    )

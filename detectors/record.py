"""A minute that goes beyond all that its series has done so far: the novelty score as a kernel.

See `detectors.novelty` for the score, its sources, and how good it is on labelled series.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors import novelty
from detectors.finding import Finding, known, nothing, sound
from detectors.novelty import PROFILE_BINS, WIDTH, NoveltyConfig

BEYOND: Final = 1  # level

# Counts of readings, five bits each. From the twentieth on their weight is `profile_weight`, so
# more than 31 change nothing.
_COUNT_BITS: Final = 5
_COUNTS_A_WORD: Final = 12
_MOST_READINGS: Final = 31


class State(NamedTuple):
    """Columns of some series."""

    columns: NDArray[np.float64]  # (WIDTH, n), see `NoveltyColumns`
    mean: NDArray[np.float64]  # (PROFILE_BINS, n) of the hours
    readings: NDArray[np.int64]  # (4, n) counts in them, twelve a word


def new_state(count: int) -> State:
    """Return the state of series that have said nothing yet."""
    return State(
        columns=np.zeros((WIDTH, count)),
        mean=np.zeros((PROFILE_BINS, count)),
        readings=np.zeros((PROFILE_BINS // _COUNTS_A_WORD, count), np.int64),
    )


def step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    utc_offset_ns: NDArray[np.int64],
    config: NoveltyConfig = NoveltyConfig(),  # noqa: B008 - frozen
) -> Finding:
    """Judge one reading of each series.

    Parameters
    ----------
    state, time_ns, value, usable
        As of every kernel.
    utc_offset_ns : (n,) int64
        Of the city's clocks at that time: the profile is one of local hours.
    config : NoveltyConfig
        Its `profile_weight` at least 1/31, or hours are learned faster than that.

    Returns
    -------
    Finding
        `expected` is the mean of this hour of a workday or a weekend day, NaN while it is not
        known; `lower` and `upper` are as far from it as would be a record. Other records than that
        one can be broken between them.
    """
    heard = sound(value, usable)
    columns = novelty.novelty_columns(state.columns)
    rows = np.arange(len(value))
    bins = novelty.profile_bin(time_ns + utc_offset_ns)
    word, shift = bins // _COUNTS_A_WORD, bins % _COUNTS_A_WORD * _COUNT_BITS
    before = (state.readings[word, rows] >> shift) & _MOST_READINGS
    hour = np.empty(len(value), np.complex128)
    hour.real, hour.imag = state.mean[bins, rows], before
    expected = np.where(hour.imag >= config.profile_after, hour.real, np.nan)
    reach = columns.records[0] / (1.0 - config.fire_at)
    score = novelty.step(columns, hour, rows, value, heard, config)
    state.mean[bins, rows] = hour.real
    more = np.minimum(hour.imag.astype(np.int64), _MOST_READINGS) - before
    state.readings[word, rows] += more << shift
    judged = ~np.isnan(score)
    speaks = judged & (score >= config.fire_at)
    return Finding(
        judged=judged,
        speaks=speaks,
        level=speaks.astype(np.uint8),
        measure=known(value, judged),
        expected=known(expected, judged),
        lower=known(expected - reach, judged),
        upper=known(expected + reach, judged),
        score=nothing(len(value)),
    )

"""Five minutes that go beyond all that their series has done so far: the novelty score as a kernel.

See `detectors.novelty` for the deviations, their records, and how good the score is on labelled
series. What is judged are means of five minutes: a record is an extreme, and single minutes of
counts and headways have extremes that say nothing.

Of n exchangeable deviations the last one is the largest with probability 1 / n (Rényi 1962). With
records that fade by a factor f a reading, and deviations whose tail is a power of index a,
``P(Z > z) = (c / z)^a``, that goes on to hold for how far beyond: the deviation i readings ago
counts for ``f^(a i)`` of one, and ::

    P(Z > r M) = r^-a / n        n = (1 - f^(a m)) / (1 - f^a)

after m readings. (M^-a times the sum of those shares times c^a is exponential of mean 1.) The score
is -log10 of it, ``log10 n + a log10 r``, and goes down to 0 below the record. That it is the best
of five deviations makes it five times as probable at most, and that it is asked every five minutes
five times as rare a minute: neither is in the formula.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors import novelty
from detectors.finding import (
    ALL,
    Answer,
    Finding,
    Rows,
    answer,
    known,
    moment,
    put,
    rows_of,
    sound,
    unless_all,
)
from detectors.novelty import PROFILE_BINS, WIDTH, NoveltyConfig
from detectors.table import NEVER

BEYOND: Final = 1  # level

# How long a series is learned before it is judged: the profile is one of the hours of workdays and
# weekend days. In as long again nothing is said: the first week that is held against another breaks
# records that were none, and its scores are what later ones are calibrated by. (Three quiet
# simulated cities of 40 sensors in four weeks: 3 alerts, 11 where it speaks after one week, and 15
# where it is judged after two and speaks at once.)
LEARN_FOR_NS: Final = 7 * 86_400_000_000_000
_SPEAKS_AFTER: Final = 2
# Two for each hour of a week, as many as the profile wants to believe one.
_LEARN_MEANS: Final = 336
MINUTES: Final = NoveltyConfig(warm_up=_LEARN_MEANS)

_BLOCK_NS: Final = 300_000_000_000
_NO_BLOCK: Final = NEVER // _BLOCK_NS - 1
# Index of the tail: what goes beyond a record by half is 9 times as rare as a record. In the same
# cities there are 20 alerts with 7, 6 with 6, and one with 5; of 11 labelled windows 6 are found,
# with 7 one more, with 5 two less.
_TAIL_INDEX: Final = 5.5
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
    begun_ns: NDArray[np.int64]  # end of the first five minutes; `NEVER` before
    block: NDArray[np.int64]  # the present five minutes since 1970
    total: NDArray[np.float64]  # of them
    heard: NDArray[np.float64]  # how many readings


def new_state(count: int) -> State:
    """Return the state of series that have said nothing yet."""
    return State(
        columns=np.zeros((WIDTH, count)),
        mean=np.zeros((PROFILE_BINS, count)),
        readings=np.zeros((PROFILE_BINS // _COUNTS_A_WORD, count), np.int64),
        begun_ns=np.full(count, NEVER),
        block=np.full(count, _NO_BLOCK),
        total=np.zeros(count),
        heard=np.zeros(count),
    )


def step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    utc_offset_ns: NDArray[np.int64],
    config: NoveltyConfig = MINUTES,
    learn_for_ns: int = LEARN_FOR_NS,
) -> Finding:
    """Judge, with the first reading behind five minutes, their mean.

    Parameters
    ----------
    state, time_ns, value, usable
        As of every kernel. A reading on the full five minutes belongs to those before.
    utc_offset_ns : (n,) int64
        Of the city's clocks at that time: the profile is one of local hours.
    config : NoveltyConfig
        Its readings are means. `profile_weight` at least 1/31, or hours are learned faster than
        that; of a mute nothing is seen here.
    learn_for_ns : int
        How long a series is learned for, besides the `warm_up`. It speaks after twice as long.

    Returns
    -------
    Finding
        Of most readings nothing is said: they are not judged. `measure` is the mean; `expected` is
        the mean of this hour of a workday or a weekend day, NaN while it is not known; `lower` and
        `upper` are as far from it as would be a record. Other records than that one can be broken
        between them.
    """
    return judge(state, time_ns, value, usable, utc_offset_ns, config, learn_for_ns).told(ALL)


def judge(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    utc_offset_ns: NDArray[np.int64],
    config: NoveltyConfig = MINUTES,
    learn_for_ns: int = LEARN_FOR_NS,
) -> Answer:
    """Judge, with the first reading behind five minutes, their mean, as `step`."""
    heard = sound(value, usable)
    block = (moment(time_ns) - 1) // _BLOCK_NS
    others = heard & (block != state.block)
    over = np.empty(0, np.intp)
    if np.count_nonzero(others):
        over = rows_of(others & (state.heard > 0.0))
    if len(over):
        found = _nothing(len(value))
        _judge(state, over, utc_offset_ns, found, config, learn_for_ns)
        said = answer(found, is_scored=True)
    else:
        said = _unsaid(len(value))
    if np.count_nonzero(others):
        np.copyto(state.block, block, where=others)
        np.copyto(state.total, 0.0, where=others)
        np.copyto(state.heard, 0.0, where=others)
    where = unless_all(heard)
    put(state.total, state.total + value, where)
    put(state.heard, state.heard + 1.0, where)
    return said


def _unsaid(count: int) -> Answer:
    """Return what is answered where no five minutes are over."""
    nothing = np.zeros(count, np.bool_)

    def told(rows: Rows) -> Finding:
        return _nothing(len(nothing[rows]))

    return Answer(nothing, nothing, told)


def _nothing(count: int) -> Finding:
    """Return what is said where no five minutes are over."""
    level = np.zeros(count, np.uint8)
    numbers = np.full((5, count), np.nan)
    return Finding(np.zeros(count, np.bool_), np.zeros(count, np.bool_), level, *numbers)


def _judge(
    state: State,
    over: NDArray[np.intp],
    utc_offset_ns: NDArray[np.int64],
    found: Finding,
    config: NoveltyConfig,
    learn_for_ns: int,
) -> None:
    """Judge the means of some series and learn them; put what is found into `found`."""
    is_whole = len(over) == len(state.block)
    part = state if is_whole else State._make(column[..., over] for column in state)
    begin_ns = part.block * _BLOCK_NS
    np.copyto(part.begun_ns, begin_ns + _BLOCK_NS, where=part.begun_ns == NEVER)
    value = part.total / part.heard
    columns = novelty.novelty_columns(part.columns)
    rows = np.arange(len(over))
    bins = novelty.profile_bin(begin_ns + utc_offset_ns[over])
    word, shift = bins // _COUNTS_A_WORD, bins % _COUNTS_A_WORD * _COUNT_BITS
    before = (part.readings[word, rows] >> shift) & _MOST_READINGS
    hour = np.empty(len(over), np.complex128)
    hour.real, hour.imag = part.mean[bins, rows], before
    expected = np.where(hour.imag >= config.profile_after, hour.real, np.nan)
    reach = columns.records[0] / (1.0 - config.fire_at)
    learned = columns.learned.copy()
    share = novelty.step(columns, hour, rows, value, rows >= 0, config).share
    part.mean[bins, rows] = hour.real
    more = np.minimum(hour.imag.astype(np.int64), _MOST_READINGS) - before
    part.readings[word, rows] += more << shift
    if not is_whole:
        for column, moved in zip(state, part, strict=True):
            column[..., over] = moved

    age_ns = begin_ns + _BLOCK_NS - part.begun_ns
    judged = ~np.isnan(share) & (age_ns >= learn_for_ns)
    speaks = judged & (1.0 - share >= config.fire_at) & (age_ns >= _SPEAKS_AFTER * learn_for_ns)
    told = Finding(
        judged=judged,
        speaks=speaks,
        level=speaks.astype(np.uint8),
        measure=known(value, judged),
        expected=known(expected, judged),
        lower=known(expected - reach, judged),
        upper=known(expected + reach, judged),
        score=known(_decades(share, learned, config), judged),
    )
    pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]] = zip(found, told, strict=True)
    for column, some in pairs:
        column[over] = some


def _decades(
    share: NDArray[np.float64], learned: NDArray[np.float64], config: NoveltyConfig
) -> NDArray[np.float64]:
    """Return the score of record / deviation, after so many readings."""
    fade = 2.0 ** (-_TAIL_INDEX / config.fade_over)
    remembered = (1.0 - np.power(fade, learned)) / (1.0 - fade)
    score: NDArray[np.float64] = np.log10(remembered) - _TAIL_INDEX * np.log10(share)
    np.maximum(score, 0.0, out=score)
    return score

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

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors import novelty
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
_ROUNDING: Final = 1e-9
_PART_ROWS: Final = 2_048
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
    said = None
    if np.count_nonzero(others):
        over = rows_of(others & (state.heard > 0.0))
        if len(over):
            means = _judged(state, over, utc_offset_ns[over], config)
            said = _said(means, over, len(value), config, learn_for_ns)
        np.copyto(state.block, block, where=others)
        np.copyto(state.total, 0.0, where=others)
        np.copyto(state.heard, 0.0, where=others)
    where = unless_all(heard)
    put(state.total, state.total + value, where)
    put(state.heard, state.heard + 1.0, where)
    return _unsaid(len(value)) if said is None else said


def _unsaid(count: int) -> Answer:
    """Return what is answered where no five minutes are over."""
    none = np.zeros(count, np.bool_)

    def told(rows: Rows) -> Finding:
        return _nothing(len(none[rows]))

    return Answer(none, none, told)


def _nothing(count: int) -> Finding:
    """Return what is said where no five minutes are over."""
    level = np.zeros(count, np.uint8)
    numbers = np.full((5, count), np.nan)
    return Finding(np.zeros(count, np.bool_), np.zeros(count, np.bool_), level, *numbers)


class _Means(NamedTuple):
    """Five minutes of some series, and what was known of them before."""

    value: NDArray[np.float64]
    expected: NDArray[np.float64]  # NaN where it is not known
    record: NDArray[np.float64]  # of the surprise
    learned: NDArray[np.float64]  # means before
    share: NDArray[np.float64]  # record over deviation; NaN in warm-up
    age_ns: NDArray[np.int64]  # since the first


def _judged(
    state: State, over: NDArray[np.intp], utc_offset_ns: NDArray[np.int64], config: NoveltyConfig
) -> _Means:
    """Judge the means of some series and learn them."""
    is_whole = len(over) == len(state.block)
    parts = []
    # So many fit into the core's own memory with all that is made of them.
    for start in range(0, len(over), _PART_ROWS):
        part = slice(start, start + _PART_ROWS)
        rows: Rows = part if is_whole else over[part]
        some = State._make(column[..., rows] for column in state)
        parts.append(_part_judged(some, utc_offset_ns[part], config))
        if not is_whole:
            for column, moved in zip(state, some, strict=True):
                column[..., rows] = moved
    if len(parts) == 1:
        return parts[0]
    return _Means._make(np.concatenate(columns) for columns in zip(*parts, strict=True))


def _part_judged(state: State, utc_offset_ns: NDArray[np.int64], config: NoveltyConfig) -> _Means:
    begin_ns = state.block * _BLOCK_NS
    np.copyto(state.begun_ns, begin_ns + _BLOCK_NS, where=state.begun_ns == NEVER)
    value = state.total / state.heard
    columns = novelty.novelty_columns(state.columns)
    rows = np.arange(len(value))
    local = begin_ns + utc_offset_ns
    place: tuple[Any, Any]
    if np.count_nonzero(local == local[0]) == len(local):
        # One hour of all series is a row of the profiles.
        bins = novelty.profile_bin(local[:1])
        place = int(bins[0]), ALL
    else:
        bins = novelty.profile_bin(local)
        place = bins, rows
    word, shift = place[0] // _COUNTS_A_WORD, bins % _COUNTS_A_WORD * _COUNT_BITS
    before = (state.readings[word, place[1]] >> shift) & _MOST_READINGS
    hour = np.empty(len(value), np.complex128)
    hour.real, hour.imag = state.mean[place], before
    expected = np.where(hour.imag >= config.profile_after, hour.real, np.nan)
    record, learned = columns.records[0].copy(), columns.learned.copy()
    share = novelty.step(columns, hour, rows, value, rows >= 0, config).share
    state.mean[place] = hour.real
    more = np.minimum(hour.imag.astype(np.int64), _MOST_READINGS) - before
    state.readings[word, place[1]] += more << shift
    age_ns = begin_ns + _BLOCK_NS - state.begun_ns
    return _Means(value, expected, record, learned, share, age_ns)


def _said(
    means: _Means, over: NDArray[np.intp], count: int, config: NoveltyConfig, learn_for_ns: int
) -> Answer:
    """Return what is answered of the means of some series, of `count` in all."""
    share, age_ns = means.share, means.age_ns
    known_means = ~np.isnan(share) & (age_ns >= learn_for_ns)
    spoken = known_means & (1.0 - share >= config.fire_at)
    spoken &= age_ns >= _SPEAKS_AFTER * learn_for_ns
    # Not above what it would be with all that can be remembered.
    most = np.log10(1.0 / (1.0 - _fade(config))) - _TAIL_INDEX * np.log10(share) + _ROUNDING
    np.maximum(most, 0.0, out=most)
    if len(over) == count:
        judged, speaks, score = known_means, spoken, most
    else:
        judged, speaks = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        score = np.full(count, np.nan)
        judged[over], speaks[over], score[over] = known_means, spoken, most

    def place_of(rows: Rows) -> NDArray[np.intp]:
        """Return the places among the means; -1 where there is none."""
        if len(over) == count:
            return np.arange(count)[rows]
        places = np.full(count, -1)
        places[over] = np.arange(len(over))
        return places[rows]

    def exact(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        place = place_of(rows)
        return _decades(share[place], means.learned[place], config)

    def told(rows: Rows) -> Finding:
        place, known_rows, spoke = place_of(rows), judged[rows], speaks[rows]
        expected = means.expected[place]
        reach = means.record[place] / (1.0 - config.fire_at)
        return Finding(
            judged=known_rows,
            speaks=spoke,
            level=spoke.astype(np.uint8),
            measure=known(means.value[place], known_rows),
            expected=known(expected, known_rows),
            lower=known(expected - reach, known_rows),
            upper=known(expected + reach, known_rows),
            score=known(_decades(share[place], means.learned[place], config), known_rows),
        )

    return Answer(judged, speaks, told, score=score, exact=exact)


def _fade(config: NoveltyConfig) -> float:
    """Return by how much what a mean counts for fades with the next."""
    fade: float = 2.0 ** (-_TAIL_INDEX / config.fade_over)
    return fade


def _decades(
    share: NDArray[np.float64], learned: NDArray[np.float64], config: NoveltyConfig
) -> NDArray[np.float64]:
    """Return the score of record / deviation, after so many readings."""
    fade = _fade(config)
    remembered = (1.0 - np.power(fade, learned)) / (1.0 - fade)
    score: NDArray[np.float64] = np.log10(remembered) - _TAIL_INDEX * np.log10(share)
    np.maximum(score, 0.0, out=score)
    return score

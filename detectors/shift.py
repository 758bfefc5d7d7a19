"""A level that has changed and stays changed.

The two-sided cumulative sum of Page (*Continuous inspection schemes*, Biometrika 41, 1954). With z
the distance of a mean from the level, in spreads::

    up = max(0, up + min(z, b) - k)        down = max(0, down + min(-z, b) - k)

and the level has changed when one of them is above h. The change began when that sum was last 0,
and the mean since then is the new level. Over n means the sum is above h when their mean is above
``level + (k + h / n) spread``, which is the band that is reported. No mean counts for more than b,
so it takes five of them at least.

What is summed is not the readings: they have much to do with the one before, and their sums wander
by themselves. It is the means of quarters of an hour, held against the spread of such means
(Runger & Willemain, *Batch-means control charts for autocorrelated data*, IIE Transactions 28,
1996), which contains whatever ties the readings together.

A rhythm of the day is a change of level too, so what is usual at this hour, and how far readings
usually are from it, are inputs: readings are taken in such distances before they are averaged. What
a profile has wrong in some hours is then no change, for in those hours it knows to be often wrong.
(In the first four weeks of a quiet simulated city one change in 84 series-days is false, most of
them on Mondays or of temperatures that follow the year; of distances in the unit of the series it
is three times as many.)

A level that is left is held still, and the change is told, until the mean of five hours and a
quarter at least is taken as the new level, or until an hour in a row lies nearer to the old one.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

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

# Levels.
UP: Final = 1
DOWN: Final = 2

_BLOCK_NS: Final = 900_000_000_000
_NO_BLOCK: Final = NEVER // _BLOCK_NS - 1
# k is half the change that is looked for, three spreads. It is told after 13 means at the median,
# one of four after 8. With k = 1 and h = 10 these are 7 and 5, and nine times as many are false.
_SLACK: Final = 1.5
_LIMIT: Final = 15.0
_BOUND: Final = 5.0
# A sum of steps that go down on average is above h with a chance of exp(-t h), where exp(t step) is
# 1 on average (Lundberg's exponent; Asmussen & Albrecher, *Ruin Probabilities*, 2010, chapter 3).
# t is 3.0 for Gaussian means, 1.9 for those of Student's t with six degrees of freedom, and 1.6 for
# Laplacian ones whose spread is guessed from their mean deviation.
_DECADES: Final = 1.5 * 0.4342944819032518  # of one spread in the sum: log10(e)
# A day is learned before anything is said, and three days make the level and the spread.
_WARM_UP: Final = 96.0
_WEIGHT: Final = 1.0 / 288.0
_BACK: Final = 4.0
_ADOPTED: Final = 21.0
# Block means that vary by less than a tenth of how far readings usually are from what is usual are
# taken to vary by that.
_LEAST: Final = 0.1
# Standard over mean absolute deviation of a Gaussian, sqrt(pi / 2).
_SPREAD_OF_DEVIATION: Final = 1.2533141373155003


class Usual(NamedTuple):
    """What is usual of a series at this hour; `season.usual` knows.

    Parameters
    ----------
    level : (n,) float64
        0 for a series that has no rhythm; NaN where it is not known.
    spread : (n,) float64
        In the unit of the series and above 0: how far readings usually are from it. Of a series
        that has no rhythm, the least spread that matters.
    """

    level: NDArray[np.float64]
    spread: NDArray[np.float64]


class State(NamedTuple):
    """Columns of some series, in units of the usual spread.

    What has two rows is of the upper and of the lower sum.
    """

    block: NDArray[np.int64]  # the present quarter of an hour since 1970
    total: NDArray[np.float64]  # of it
    readings: NDArray[np.float64]
    level: NDArray[np.float64]  # above what is usual
    deviation: NDArray[np.float64]  # mean absolute distance of block means
    learned: NDArray[np.float64]  # count of them
    sums: NDArray[np.float64]  # (2, n) up and down
    since: NDArray[np.float64]  # (2, n) total of the block means since the sum was 0
    blocks: NDArray[np.float64]  # (2, n) count of them
    told: NDArray[np.float64]  # 1 or -1 while a change up or down is told
    back: NDArray[np.float64]  # blocks in a row that lie nearer to the old level


def new_state(count: int) -> State:
    """Return the state of series that have said nothing yet."""
    pair = (2, count)
    return State(
        block=np.full(count, _NO_BLOCK),
        total=np.zeros(count),
        readings=np.zeros(count),
        level=np.zeros(count),
        deviation=np.zeros(count),
        learned=np.zeros(count),
        sums=np.zeros(pair),
        since=np.zeros(pair),
        blocks=np.zeros(pair),
        told=np.zeros(count),
        back=np.zeros(count),
    )


def step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    usual: Usual,
) -> Finding:
    """Judge one reading of each series.

    Parameters
    ----------
    state, time_ns, value, usable
        As of every kernel. A reading on the quarter of an hour belongs to the one before.
    usual : Usual
        Where it is not known the reading is neither judged nor learned.

    Returns
    -------
    Finding
        `measure` is the mean since the change began, as long as one is suspected or told, and that
        of the present quarter of an hour otherwise; `expected` is the level, of a change that is
        told the one before it. Both are on top of what is usual now.
    """
    return judge(state, time_ns, value, usable, usual).told(ALL)


def judge(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    usual: Usual,
) -> Answer:
    """Judge one reading of each series, as `step`."""
    distance = value - usual.level
    distance /= usual.spread
    heard = sound(value, usable) & sound(distance, usable)
    block = (moment(time_ns) - 1) // _BLOCK_NS
    over = rows_of(heard & (block != state.block))
    if len(over):
        _close(state, over[state.readings[over] > 0.0])
        state.block[over] = np.broadcast_to(block, len(value))[over]
        state.total[over] = state.readings[over] = 0.0
    where = unless_all(heard)
    distance += state.total
    put(state.total, distance, where)
    put(state.readings, state.readings + 1.0, where)

    judged = heard & (state.learned >= _WARM_UP)
    is_told = state.told != 0.0
    up, down = state.sums
    score = np.maximum(up, down)
    if np.count_nonzero(is_told):
        score = np.where(state.told > 0.0, up, np.where(is_told, down, score))
    score *= _DECADES
    speaks = judged & is_told

    def told(rows: Rows) -> Finding:
        change, sums, level = state.told[rows], state.sums[:, rows], state.level[rows]
        is_up = (change > 0.0) | ((change == 0.0) & (sums[0] >= sums[1]))
        blocks = np.where(is_up, state.blocks[0, rows], state.blocks[1, rows])
        since = np.where(is_up, state.since[0, rows], state.since[1, rows]) / blocks
        measure = np.where(blocks > 0.0, since, state.total[rows] / state.readings[rows])
        reach = (_SLACK + _LIMIT / np.maximum(blocks, 1.0)) * _spread(state.deviation[rows])
        known_rows, middle, spread = judged[rows], usual.level[rows], usual.spread[rows]
        way = np.zeros(len(change), np.uint8)
        way[known_rows & (change > 0.0)] = UP
        way[known_rows & (change < 0.0)] = DOWN
        return Finding(
            judged=known_rows,
            speaks=speaks[rows],
            level=way,
            measure=known(middle + measure * spread, known_rows),
            expected=known(middle + level * spread, known_rows),
            lower=known(middle + (level - reach) * spread, known_rows),
            upper=known(middle + (level + reach) * spread, known_rows),
            score=known(score[rows], known_rows),
        )

    return Answer(judged, speaks, told, score=score)


def _spread(deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(deviation * _SPREAD_OF_DEVIATION, _LEAST)


def _close(state: State, rows: NDArray[np.intp]) -> None:
    """Hold the block means that are over against the level of their series, and learn them."""
    mean = state.total[rows] / state.readings[rows]
    level, deviation = state.level[rows], state.deviation[rows]
    learned, told = state.learned[rows], state.told[rows]
    spread = _spread(deviation)
    warm = learned >= _WARM_UP
    off = mean - level
    z = off / spread
    sums, since, blocks = state.sums[:, rows], state.since[:, rows], state.blocks[:, rows]
    side, place = np.where(told > 0.0, 0, 1), np.arange(len(rows))
    middle = (level + since[side, place] / blocks[side, place]) / 2.0
    nearer = (told != 0.0) & (told * (mean - middle) < 0.0)
    back = np.where(nearer, state.back[rows] + 1.0, 0.0)
    for row, distance in enumerate((z, -z)):
        moved = np.maximum(sums[row] + np.minimum(distance, _BOUND) - _SLACK, 0.0)
        # A change that is told goes on whatever its sum would be.
        held = told != 0.0
        sums[row] = np.where(held, sums[row], np.where(warm, moved, 0.0))
        goes_on = held | (sums[row] > 0.0)
        since[row] = np.where(goes_on, since[row] + mean, 0.0)
        blocks[row] = np.where(goes_on, blocks[row] + 1.0, 0.0)

    adopted = (told != 0.0) & (blocks[side, place] >= _ADOPTED) & (back == 0.0)
    ended = adopted | (back >= _BACK)
    begins = (told == 0.0) & (sums.max(axis=0) > _LIMIT)
    direction = np.where(sums[0] > sums[1], 1.0, -1.0)

    learns = told == 0.0
    bound = np.where(warm, spread * _BOUND, np.inf)
    lesson = np.minimum(np.maximum(off, -bound), bound)
    weight = np.maximum(1.0 / (learned + 1.0), _WEIGHT)
    new_level = np.where(learns, level + lesson * weight, level)
    new_level = np.where(adopted, since[side, place] / blocks[side, place], new_level)
    state.level[rows] = new_level
    # The first mean is the level, and no distance from it.
    lesson = (np.abs(lesson) - deviation) * weight
    state.deviation[rows] = np.where(learns & (learned > 0.0), deviation + lesson, deviation)
    state.learned[rows] = np.where(learns, learned + 1.0, learned)
    for column, new in ((state.sums, sums), (state.since, since), (state.blocks, blocks)):
        column[:, rows] = np.where(ended, 0.0, new)
    state.back[rows] = np.where(ended, 0.0, back)
    state.told[rows] = np.where(ended, 0.0, np.where(begins, direction, told))

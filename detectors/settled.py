"""The short way of a reading that says nothing special, of a series of which nothing is.

Most readings of a city are like that, and what the general way asks of them has one answer: they
are usable and learned, no alert is open, and none concerns the sensor. So nothing is masked, and
few fields move. To the bit it is what the general way does (`detectors.suite`), with the terms that
are known put in.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.config import SuiteConfig
from detectors.flatline import LEAST_CHANCE
from detectors.table import NEVER, Hot
from detectors.terms import Terms, Threshold

_NS: Final = 1e-9  # seconds in a nanosecond
_NS_PER_S: Final = 1e9
_SUSPECT: Final = 3  # QARTOD


@dataclass(slots=True)
class Wave:
    """One reading of each of some series, and what is said of it.

    Parameters
    ----------
    time_ns, value, quality, watermark_ns : (n,)
        As `Suite.step` has them; `quality` is raised in place.
    late : (n,) bool
    has_late : bool
        Whether any of the batch is late.
    spreads, expected, band : (n,) float64
        Written to.
    """

    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint8]
    watermark_ns: NDArray[np.int64]
    late: NDArray[np.bool_]
    has_late: bool
    spreads: NDArray[np.float64]
    expected: NDArray[np.float64]
    band: NDArray[np.float64]

    def part(self, rows: slice | NDArray[np.intp]) -> "Wave":
        """Return some of its rows: views of a slice, copies of others."""
        return Wave(
            self.time_ns[rows],
            self.value[rows],
            self.quality[rows],
            self.watermark_ns[rows],
            self.late[rows],
            self.has_late,
            self.spreads[rows],
            self.expected[rows],
            self.band[rows],
        )

    def put(self, rows: NDArray[np.intp], part: "Wave") -> None:
        """Take over what is said of some of its rows."""
        self.quality[rows] = part.quality
        self.late[rows] = part.late
        self.spreads[rows] = part.spreads
        self.expected[rows] = part.expected
        self.band[rows] = part.band


class Look(NamedTuple):
    """Which readings of a wave may go the short way.

    Parameters
    ----------
    plain : (n,) bool
    odd : int
        How many may not.
    moves : (2, n) float64
        Room for one, and the change since the previous reading.
    same : (m,) intp
        Which readings repeat the previous one.
    run_chance : (m,) float64
        The probability of their runs.
    """

    plain: NDArray[np.bool_]
    odd: int
    moves: NDArray[np.float64]
    same: NDArray[np.intp]
    run_chance: NDArray[np.float64]


_Weight = NDArray[np.float64] | float
_NONE: Final = np.empty(0, np.intp)
_NO_CHANCE: Final = np.empty(0)


def look(
    hot: Hot, settled: NDArray[np.bool_], wave: Wave, config: SuiteConfig, terms: Terms
) -> Look:
    """Tell the plain readings of a wave; moves nothing.

    Parameters
    ----------
    hot : Hot
        State of the series.
    settled : (n,) bool
        Which of them are settled.
    wave : Wave
    config : SuiteConfig
        Thresholds that all series share.
    terms : Terms
        Those of these series.
    """
    value = wave.value
    since_ns = wave.time_ns - hot.last_ns
    # Unsigned: it holds the difference of any two times.
    quiet_ns = since_ns.view(np.uint64)
    plain = value >= hot.low
    plain &= value <= hot.high
    plain &= settled
    plain &= wave.quality < _SUSPECT
    plain &= quiet_ns <= np.uint64(round(config.forget_after_s * _NS_PER_S))
    if wave.has_late:
        plain &= ~wave.late
    moves = np.empty((2, len(value)))
    change = np.subtract(value, hot.previous, out=moves[1])
    reach = since_ns * _NS
    reach *= hot.max_rate
    fast = np.abs(change) > reach
    if np.count_nonzero(fast):
        fast &= quiet_ns <= np.uint64(round(config.rate_max_gap_s * _NS_PER_S))
        plain &= ~fast
    same, run_chance = _NONE, _NO_CHANCE
    equal = change == 0.0
    if np.count_nonzero(equal):
        same = np.flatnonzero(equal)
        repeats = hot.run[same] + config.repeat_prior + hot.repeats[same]
        chance = repeats / (repeats + hot.changes[same] + config.change_prior)
        np.maximum(chance, config.repeat_floor, out=chance)
        run_chance = np.maximum(hot.run_chance[same] * chance, LEAST_CHANCE)
        plain[same[run_chance <= terms.part(same).flatline_chance]] = False
    return Look(plain, len(plain) - int(np.count_nonzero(plain)), moves, same, run_chance)


def advance(
    hot: Hot, wave: Wave, seen: Look, config: SuiteConfig, terms: Terms
) -> NDArray[np.intp]:
    """Judge the readings of a wave as plain ones, and move the state on in place.

    What it says of others than plain ones, and makes of their state, is to be thrown away.

    Returns
    -------
    (m,) intp
        Plain readings with which a city alert opens.
    """
    value = wave.value
    _listen(hot, wave.watermark_ns, config)
    _count_changes(hot, seen, config)
    base, spread = _spread(hot, config)
    step = np.subtract(value, hot.level, out=seen.moves[0])
    np.abs(step, out=wave.spreads)
    wave.spreads /= spread
    wave.expected[:] = hot.level
    np.multiply(spread, terms.city_open_spreads, out=wave.band)
    _learn(hot, seen.moves, base, config)
    hot.previous[:] = value
    hot.last_ns[:] = wave.time_ns
    far: NDArray[np.bool_] = wave.spreads >= terms.city_open_spreads
    return _far(hot.city_streak, far, seen.plain, terms.city_open_after)


def _spread(hot: Hot, config: SuiteConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the spread with its floor, and the same widened (`detectors.level.outlook`)."""
    base = np.sqrt(hot.variance)
    spread = np.abs(hot.level)
    spread *= config.floor_relative
    np.maximum(base, spread, out=base)
    np.maximum(base, config.floor_absolute, out=base)
    ratio = base * base
    np.divide(hot.difference, ratio, out=ratio)
    np.minimum(ratio, 2.0, out=ratio)
    ratio *= config.smooth_widening / 2.0
    np.subtract(1.0 + config.smooth_widening, ratio, out=ratio)
    np.divide(config.early_widening, hot.learned, out=spread)
    spread += 1.0
    spread *= base
    spread *= ratio
    return base, spread


def _learn(
    hot: Hot,
    moves: NDArray[np.float64],
    bound: NDArray[np.float64],
    config: SuiteConfig,
) -> None:
    """Learn level and spread (`detectors.level.learn`), using up what is given.

    The moves are (2, n): from the level, and from the previous reading.
    """
    bound *= config.innovation_bound
    below = np.negative(bound)
    np.maximum(moves, below, out=moves)
    np.minimum(moves, bound, out=moves)
    weights, held, level_weight = _weights(hot.learned, config)
    level = hot.level
    level += np.multiply(moves[0], level_weight, out=below)
    moves *= moves
    moves[0] *= held
    moves -= hot.squares
    moves *= weights
    squares = hot.squares
    squares += moves


def _weights(learned: NDArray[np.float64], config: SuiteConfig) -> tuple[_Weight, _Weight, _Weight]:
    """Count the readings; return the weights of what they teach.

    Returns
    -------
    squares : (2, n) float64 or float
        Of variance and difference; of differences there is one less than of readings.
    held : (n,) float64 or float
        What the variance keeps of itself.
    level : (n,) float64 or float
    """
    # One more, for rounding.
    ended = 1.0 + max(1.0 / config.spread_weight, 1.0 / config.level_weight)
    if np.count_nonzero(learned >= ended) == len(learned):
        learned += 1.0
        return config.spread_weight, 1.0 - config.spread_weight, config.level_weight
    shares = np.empty((2, len(learned)))
    np.divide(1.0, learned, out=shares[1])
    learned += 1.0
    share = np.divide(1.0, learned, out=shares[0])
    level_weight = np.maximum(share, config.level_weight)
    np.maximum(shares, config.spread_weight, out=shares)
    return shares, 1.0 - shares[0], level_weight


def _far(
    streak: NDArray[np.float64],
    far: NDArray[np.bool_],
    plain: NDArray[np.bool_],
    open_after: Threshold,
) -> NDArray[np.intp]:
    """Count the readings far from the level; return those with which a city alert opens."""
    if not np.count_nonzero(far):
        streak[:] = 0.0
        return _NONE
    streak += 1.0
    streak *= far
    due = streak >= open_after
    due &= plain
    place = np.flatnonzero(due)
    streak[place] = 0.0
    return place


def _listen(hot: Hot, watermark_ns: NDArray[np.int64], config: SuiteConfig) -> None:
    """Learn the pauses that end with these readings, as `detectors.silence` does."""
    heard_ns, usual = hot.heard_ns, hot.pause_s
    moved = watermark_ns > heard_ns
    if not np.count_nonzero(moved):
        return
    moved &= heard_ns != NEVER
    pause_s = (watermark_ns - heard_ns).view(np.uint64) / _NS_PER_S
    np.minimum(pause_s, config.forget_after_s, out=pause_s)
    lesson = pause_s * config.silence_decay
    lesson += usual * (1.0 - config.silence_decay)
    np.maximum(pause_s, lesson, out=lesson)
    if np.count_nonzero(moved) == len(moved):
        usual[:] = lesson
    else:
        np.copyto(usual, lesson, where=moved)
    np.maximum(heard_ns, watermark_ns, out=heard_ns)


def _count_changes(hot: Hot, seen: Look, config: SuiteConfig) -> None:
    """Prolong the runs of those that repeat, and end those of the others (`flatline`)."""
    same, run, repeats, changes = seen.same, hot.run, hot.repeats, hot.changes
    kept = (repeats[same], changes[same], run[same]) if len(same) else None
    repeats += np.minimum(run, config.repeat_lesson)
    changes += 1.0
    total = repeats + changes
    np.maximum(total, config.repeat_memory, out=total)
    np.divide(config.repeat_memory, total, out=total)
    history = hot.history
    history *= total
    run.fill(0.0)
    hot.run_chance.fill(1.0)
    if kept is not None:
        repeats[same], changes[same] = kept[0], kept[1]
        run[same] = kept[2] + 1.0
        hot.run_chance[same] = seen.run_chance

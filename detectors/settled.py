"""The short way of a reading that says nothing special, of a series of which nothing is.

Most readings of a city are like that, and what the general way asks of them has one answer: they
are usable and learned, no alert is open, and none concerns the sensor. So nothing is masked, and
few fields move. To the bit it is what the general way does (`detectors.suite`), with the terms that
are known put in.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from detectors.config import SuiteConfig
from detectors.flatline import LEAST_CHANCE
from detectors.single import Reading, Said
from detectors.table import NEVER, Hot, Place
from detectors.terms import Terms, Threshold, part_of

_NS: Final = np.array(1e-9)  # seconds in a nanosecond
_NS_PER_S: Final = np.array(1e9)
_ZERO: Final = np.array(0.0)
_ONE: Final = np.array(1.0)
_TWO: Final = np.array(2.0)
SUSPECT: Final = np.array(3, np.uint8)  # QARTOD
_NEVER: Final = np.array(NEVER)


class Fixed(NamedTuple):
    """What all series share of a `SuiteConfig`, as arrays without dimensions.

    numpy takes these sooner than numbers of Python's, by more than a quarter of what an operation
    on a thousand readings costs.
    """

    forget_ns: NDArray[np.uint64]
    rate_max_gap_ns: NDArray[np.uint64]
    forget_s: NDArray[np.float64]
    repeat_prior: NDArray[np.float64]
    change_prior: NDArray[np.float64]
    repeat_floor: NDArray[np.float64]
    repeat_lesson: NDArray[np.float64]
    repeat_memory: NDArray[np.float64]
    floor_relative: NDArray[np.float64]
    floor_absolute: NDArray[np.float64]
    half_smooth_widening: NDArray[np.float64]
    smooth_most: NDArray[np.float64]
    early_widening: NDArray[np.float64]
    innovation_bound: NDArray[np.float64]
    spread_weight: NDArray[np.float64]
    spread_held: NDArray[np.float64]
    level_weight: NDArray[np.float64]
    memory: NDArray[np.float64]
    rarest: NDArray[np.float64]
    silence_decay: NDArray[np.float64]
    silence_kept: NDArray[np.float64]

    @classmethod
    def of(cls, config: SuiteConfig) -> Self:
        """Return the constants of a configuration."""
        return cls(
            forget_ns=np.array(round(config.forget_after_s * 1e9), np.uint64),
            rate_max_gap_ns=np.array(round(config.rate_max_gap_s * 1e9), np.uint64),
            forget_s=np.array(config.forget_after_s),
            repeat_prior=np.array(config.repeat_prior),
            change_prior=np.array(config.change_prior),
            repeat_floor=np.array(config.repeat_floor),
            repeat_lesson=np.array(config.repeat_lesson),
            repeat_memory=np.array(config.repeat_memory),
            floor_relative=np.array(config.floor_relative),
            floor_absolute=np.array(config.floor_absolute),
            half_smooth_widening=np.array(config.smooth_widening / 2.0),
            smooth_most=np.array(1.0 + config.smooth_widening),
            early_widening=np.array(config.early_widening),
            innovation_bound=np.array(config.innovation_bound),
            spread_weight=np.array(config.spread_weight),
            spread_held=np.array(1.0 - config.spread_weight),
            level_weight=np.array(config.level_weight),
            memory=np.array(config.memory),
            rarest=np.array(1.0 / config.memory),
            silence_decay=np.array(config.silence_decay),
            silence_kept=np.array(1.0 - config.silence_decay),
        )


@dataclass(slots=True)
class Wave:
    """One reading of each of some series, and what is said of it.

    Parameters
    ----------
    time_ns, value, quality, watermark_ns : (n,)
        As `Suite.step` has them; `quality` is raised in place.
    late : (n,) bool
    has_bad : bool
        Whether any reading of the batch is late, or its flag bad.
    said : (3, n) float64
        Written to: the distance from the level in spreads, the level, and the half width of the
        band around it.
    """

    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint8]
    watermark_ns: NDArray[np.int64]
    late: NDArray[np.bool_]
    has_bad: bool
    said: NDArray[np.float64]

    def part(self, rows: Place) -> "Wave":
        """Return some of its rows: views of a slice, and for `put` copies of others."""
        said = self.said[:, rows] if isinstance(rows, slice) else np.empty((3, len(rows)))
        return Wave(
            self.time_ns[rows],
            self.value[rows],
            self.quality[rows],
            self.watermark_ns[rows],
            self.late[rows],
            self.has_bad,
            said,
        )

    def put(self, rows: Place, part: "Wave") -> None:
        """Take over what is said of some of its rows, but for the flags."""
        if not isinstance(rows, slice):
            self.said[:, rows] = part.said

    def raise_flags(self, rows: Place, part: "Wave") -> None:
        """Take over the flags of some of its rows."""
        self.quality[rows], self.late[rows] = part.quality, part.late

    def reading(self, row: int) -> Reading:
        """Return one of its rows."""
        return Reading(
            int(self.time_ns[row]),
            float(self.value[row]),
            int(self.quality[row]),
            int(self.watermark_ns[row]),
            bool(self.late[row]),
        )

    def say(self, row: int, said: Said) -> None:
        """Take over what is said of one of its rows."""
        self.quality[row], self.late[row] = said.quality, said.late
        self.said[:, row] = said.spreads, said.expected, said.band


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


_Weight = NDArray[np.float64]
_NONE: Final = np.empty(0, np.intp)
_NO_CHANCE: Final = np.empty(0)


def look(hot: Hot, settled: NDArray[np.bool_], wave: Wave, fixed: Fixed, terms: Terms) -> Look:
    """Tell the plain readings of a wave; moves nothing.

    Parameters
    ----------
    hot : Hot
        State of the series.
    settled : (n,) bool
        Which of them are settled.
    wave : Wave
    fixed : Fixed
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
    plain &= quiet_ns <= fixed.forget_ns
    if wave.has_bad:
        plain &= wave.quality < SUSPECT
        plain &= ~wave.late
    moves = np.empty((2, len(value)))
    change = np.subtract(value, hot.previous, out=moves[1])
    reach = since_ns * _NS
    reach *= hot.max_rate
    fast = np.abs(change) > reach
    if np.count_nonzero(fast):
        fast &= quiet_ns <= fixed.rate_max_gap_ns
        plain &= ~fast
    same, run_chance = _NONE, _NO_CHANCE
    equal = change == 0.0
    if np.count_nonzero(equal):
        same = equal.nonzero()[0]
        repeats = hot.run[same] + fixed.repeat_prior + hot.repeats[same]
        chance = repeats / (repeats + hot.changes[same] + fixed.change_prior)
        np.maximum(chance, fixed.repeat_floor, out=chance)
        run_chance = np.maximum(hot.run_chance[same] * chance, LEAST_CHANCE)
        plain[same[run_chance <= part_of(terms.flatline_chance, same)]] = False
    return Look(plain, len(plain) - int(np.count_nonzero(plain)), moves, same, run_chance)


def advance(hot: Hot, wave: Wave, seen: Look, fixed: Fixed, terms: Terms) -> NDArray[np.intp]:
    """Judge the readings of a wave as plain ones, and move the state on in place.

    What it says of others than plain ones, and makes of their state, is to be thrown away.

    Returns
    -------
    (m,) intp
        Plain readings with which a city alert opens, where its series does not rest from one; their
        streaks end then.
    """
    value = wave.value
    _listen(hot, wave.watermark_ns, fixed)
    _count_changes(hot, seen, fixed)
    learned = hot.learned
    is_certain = np.count_nonzero(learned >= fixed.memory) == len(learned)
    base, spread = _spread(hot, fixed, is_certain)
    spreads, expected, band = wave.said
    step = np.subtract(value, hot.level, out=seen.moves[0])
    np.abs(step, out=spreads)
    spreads /= spread
    expected[:] = hot.level
    np.multiply(spread, terms.city_open_spreads, out=band)
    _learn(hot, seen.moves, base, fixed, is_certain)
    hot.previous[:] = value
    hot.last_ns[:] = wave.time_ns
    far: NDArray[np.bool_] = spreads >= terms.city_open_spreads
    return _far(hot.city_streak, far, seen.plain, terms.city_open_after)


def _spread(
    hot: Hot, fixed: Fixed, is_certain: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the spread with its floor, and the same widened (`detectors.level.outlook`)."""
    base = np.sqrt(hot.variance)
    spread = np.abs(hot.level)
    spread *= fixed.floor_relative
    np.maximum(base, spread, out=base)
    np.maximum(base, fixed.floor_absolute, out=base)
    ratio = base * base
    np.divide(hot.difference, ratio, out=ratio)
    np.minimum(ratio, _TWO, out=ratio)
    ratio *= fixed.half_smooth_widening
    np.subtract(fixed.smooth_most, ratio, out=ratio)
    if is_certain:
        return base, np.multiply(base, ratio, out=spread)
    np.divide(_ONE, hot.learned, out=spread)
    spread -= fixed.rarest
    np.maximum(spread, _ZERO, out=spread)
    spread *= fixed.early_widening
    spread += _ONE
    spread *= base
    spread *= ratio
    return base, spread


def _learn(
    hot: Hot,
    moves: NDArray[np.float64],
    bound: NDArray[np.float64],
    fixed: Fixed,
    is_certain: bool,
) -> None:
    """Learn level and spread (`detectors.level.learn`), using up what is given.

    The moves are (2, n): from the level, and from the previous reading.
    """
    bound *= fixed.innovation_bound
    below = np.negative(bound)
    np.maximum(moves, below, out=moves)
    np.minimum(moves, bound, out=moves)
    weights, held, level_weight = _weights(hot.learned, fixed, is_certain)
    level = hot.level
    level += np.multiply(moves[0], level_weight, out=below)
    moves *= moves
    moves[0] *= held
    moves -= hot.squares
    moves *= weights
    squares = hot.squares
    squares += moves


def _weights(
    learned: NDArray[np.float64], fixed: Fixed, is_certain: bool
) -> tuple[_Weight, _Weight, _Weight]:
    """Count the readings; return the weights of what they teach.

    Returns
    -------
    squares : (2, n) or () float64
        Of variance and difference; of differences there is one less than of readings.
    held : (n,) or () float64
        What the variance keeps of itself.
    level : (n,) or () float64
    """
    if is_certain:
        learned += _ONE
        return fixed.spread_weight, fixed.spread_held, fixed.level_weight
    shares = np.empty((2, len(learned)))
    np.divide(_ONE, learned, out=shares[1])
    learned += _ONE
    share = np.divide(_ONE, learned, out=shares[0])
    level_weight = np.maximum(share, fixed.level_weight)
    np.maximum(shares, fixed.spread_weight, out=shares)
    return shares, 1.0 - shares[0], level_weight


def _far(
    streak: NDArray[np.float64],
    far: NDArray[np.bool_],
    plain: NDArray[np.bool_],
    open_after: Threshold,
) -> NDArray[np.intp]:
    """Count the readings far from the level; return those with which a city alert is due."""
    if not np.count_nonzero(far):
        streak[:] = 0.0
        return _NONE
    streak += _ONE
    streak *= far
    due = streak >= open_after
    due &= plain
    return due.nonzero()[0]


def _listen(hot: Hot, watermark_ns: NDArray[np.int64], fixed: Fixed) -> None:
    """Learn the pauses that end with these readings, as `detectors.silence` does."""
    heard_ns, usual = hot.heard_ns, hot.pause_s
    moved = watermark_ns > heard_ns
    if not np.count_nonzero(moved):
        return
    moved &= heard_ns != _NEVER
    pause_s = (watermark_ns - heard_ns).view(np.uint64) / _NS_PER_S
    np.minimum(pause_s, fixed.forget_s, out=pause_s)
    lesson = pause_s * fixed.silence_decay
    lesson += usual * fixed.silence_kept
    np.maximum(pause_s, lesson, out=lesson)
    if np.count_nonzero(moved) == len(moved):
        usual[:] = lesson
    else:
        np.copyto(usual, lesson, where=moved)
    np.maximum(heard_ns, watermark_ns, out=heard_ns)


def _count_changes(hot: Hot, seen: Look, fixed: Fixed) -> None:
    """Prolong the runs of those that repeat, and end those of the others (`flatline`)."""
    same, run, repeats, changes = seen.same, hot.run, hot.repeats, hot.changes
    kept = (repeats[same], changes[same], run[same]) if len(same) else None
    repeats += np.minimum(run, fixed.repeat_lesson)
    changes += _ONE
    total = repeats + changes
    np.maximum(total, fixed.repeat_memory, out=total)
    np.divide(fixed.repeat_memory, total, out=total)
    history = hot.history
    history *= total
    run.fill(0.0)
    hot.run_chance.fill(1.0)
    if kept is not None:
        repeats[same], changes[same] = kept[0], kept[1]
        run[same] = kept[2] + 1.0
        hot.run_chance[same] = seen.run_chance

"""What a series has never done before: one score, and one threshold for all series.

An anomaly that people care about is seldom an improbable reading, for a series with a daily rhythm
or with bursts makes improbable readings all day. It is a reading that goes *beyond* what the
series has done so far. So five deviations of each reading are held against their own records:

- **surprise**: distance from the profile, the mean of the series at this hour of a workday or a
  weekend day;
- **drift**: the same smoothed, ``d += w (e - d)`` (Roberts 1959, *Control chart tests based on
  geometric moving averages*), for what is a little wrong for long;
- **drop**: how far it fell below the profile, relative to what is left. A count that goes to
  nothing moves by less than its bursts do;
- **stay**: how far this reading and the one before are both away from a fast level, on the same
  side;
- **kink**: the second difference ``x - 2 x' + x''``, which is blind to level and slope.

A record is a maximum that fades, ``M = max(z, M f)`` (the peak follower of envelope detectors). In
a row of n exchangeable deviations the last one is the largest with probability 1 / n, whatever
their distribution (Rényi 1962, *Théorie des éléments saillants d'une suite d'observations*): this
is what makes one threshold do for all series. The score is the share of the deviation that lies
beyond its record, ``1 - M / z``; the largest of the five counts. After a score that fires, others
are muted for a while unless they are far larger: one event, one score.

Everything here is addition, multiplication and division, which IEEE 754 defines to the bit; no
result depends on the machine or on the place in a vector.
"""

from dataclasses import dataclass, fields
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

# Hours of a workday and of a weekend day.
PROFILE_BINS: Final = 48

_NS_PER_HOUR: Final = 3_600_000_000_000
_HOURS: Final = 24
_WEEK: Final = 7
# 1970-01-01 was a Thursday: days 2 and 3 of each seven are Saturday and Sunday.
_SATURDAY: Final = 2
_SUNDAY: Final = 3
# Keeps a division by nothing from making NaN where a series has only reported zero.
_TINY: Final = 1e-300
# Series at a time: few enough that their columns stay close to the core, many enough that the calls
# do not count. 1,024 take twice as long a reading.
_STEP_ROWS: Final = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class NoveltyConfig:
    """Parameters of the score, the same for every series.

    Readings are counted, not seconds: what is typical shows after so many readings, not hours.
    All are round, and the score on labelled series is flat around each of them.

    Parameters
    ----------
    warm_up : int
        Readings a series is learned for before it is scored.
    fire_at : float
        Score that counts as an anomaly: 13 % beyond the record.
    mute_for : int
        Readings after a score that fired for which others are muted. Half a day of readings every
        seven minutes; most events are over by then.
    mute_until : float
        Ratio to the deviation that fired, both in units of their records, that breaks the mute.
    fade_over : float
        Readings in which a record fades to its half: three weeks of readings every five minutes.
    profile_weight : float
        Least weight of a reading in its hour of the profile.
    profile_after : int
        Readings of that hour until the profile is believed.
    drift_weight : float
        Weight of a reading in the smoothed surprise.
    level_weight : float
        Least weight of a reading in the fast level.
    scale_weight : float
        Least weight of a reading in the mean magnitude of the series.
    drop_floor : float
        Share of the mean magnitude below which it does not matter how little is left.
    resolution : float
        Share of the mean magnitude below which no record falls: 0.1 %, better than any field
        sensor repeats.
    """

    warm_up: int = 50
    fire_at: float = 0.13
    mute_for: int = 100
    mute_until: float = 1.4
    fade_over: float = 6000.0
    profile_weight: float = 0.05
    profile_after: int = 2
    drift_weight: float = 0.05
    level_weight: float = 0.03
    scale_weight: float = 0.003
    drop_floor: float = 0.1
    resolution: float = 1e-3

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises
        ------
        ValueError
            If one is not a positive number, or a weight is more than 1.
        """
        for parameter in fields(self):
            name, value = parameter.name, getattr(self, parameter.name)
            if not 0 < value < np.inf:
                raise ValueError(f"{name} must be a positive number, not {value}")
            if name.endswith("_weight") and value > 1:
                raise ValueError(f"{name} must be at most 1, not {value}")


class NoveltyColumns(NamedTuple):
    """State of some series, a contiguous float64 column a field; all begin at 0.

    The records are five columns in one, because a step treats them alike.
    """

    learned: NDArray[np.float64]  # count of usable readings
    # The one before the previous; first, because it takes over what the previous one was.
    before: NDArray[np.float64]
    previous: NDArray[np.float64]
    scale: NDArray[np.float64]  # mean magnitude
    level: NDArray[np.float64]  # fast
    off_level: NDArray[np.float64]  # residual of the previous reading
    drift: NDArray[np.float64]
    muted: NDArray[np.float64]  # readings for which the mute still lasts
    fired_share: NDArray[np.float64]  # record over deviation of what fired
    records: NDArray[np.float64]  # (5, n): of surprise, drift, drop, stay, kink


class Scores(NamedTuple):
    """What is said of one reading of each of some series.

    Parameters
    ----------
    score : (n,) float64
        From 0 to 1; NaN in warm-up and where not usable.
    share : (n,) float64
        Record over deviation, of the deviation that is furthest beyond its record or nearest to it;
        muted or not. Infinite where nothing deviates, NaN where there is no score.
    """

    score: NDArray[np.float64]
    share: NDArray[np.float64]


_RECORDS: Final = 5
_DROP: Final = 2
# Columns in all.
WIDTH: Final = len(NoveltyColumns._fields) - 1 + _RECORDS
BYTES_PER_SERIES: Final = 8 * WIDTH + 16 * PROFILE_BINS


def novelty_columns(block: NDArray[np.float64]) -> NoveltyColumns:
    """Return the columns in a block of (WIDTH, n), as views."""
    return NoveltyColumns._make([*block[:-_RECORDS], block[-_RECORDS:]])


def profile_bin(time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bin of the profile: hour of the day in UTC, and 24 more at weekends."""
    hours = time_ns // _NS_PER_HOUR
    days = hours // _HOURS
    weekday = days - days // _WEEK * _WEEK
    weekend = (weekday == _SATURDAY) | (weekday == _SUNDAY)
    bins: NDArray[np.int64] = hours - days * _HOURS + weekend * _HOURS
    return bins


def step(
    columns: NoveltyColumns,
    profile: NDArray[np.complex128],
    places: NDArray[np.intp],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    config: NoveltyConfig,
) -> Scores:
    """Score one reading of each of some distinct series, and learn it.

    The caller silences numpy's warnings: NaN and infinity are ordinary input where `usable` is
    false.

    Parameters
    ----------
    columns : NoveltyColumns
        State of these series, n long; moved on in place.
    profile : (m,) complex128
        Bins of the profiles of all series, begun at 0 and moved on in place. The real part is the
        mean, the imaginary part the count of readings, so that one access brings both. It stays
        outside the columns because a reading touches one bin of it.
    places : (n,) intp
        Which bin that is.
    value : (n,) float64
        At most 1e150 in magnitude where usable.
    usable : (n,) bool
        Whether to score and learn the reading. Others leave no trace.
    """
    known = profile.take(places)
    mean, visits = known.real, known.imag
    first = columns.learned == 0
    fresh = bool(first.any())
    previous = np.where(first, value, columns.previous) if fresh else columns.previous
    before = np.where(first, value, columns.before) if fresh else columns.before
    level = np.where(first, value, columns.level) if fresh else columns.level

    count = columns.learned + 1.0
    share = 1.0 / count
    scale = np.abs(value)
    scale -= columns.scale
    scale *= np.maximum(share, config.scale_weight)
    scale += columns.scale
    off_mean = value - mean
    off_level = value - level
    residual = np.where(visits >= config.profile_after, off_mean, 0.0)
    drift = columns.drift + config.drift_weight * (residual - columns.drift)
    deviations = np.empty_like(columns.records)
    np.abs(residual, out=deviations[0])
    np.abs(drift, out=deviations[1])
    deviations[_DROP] = _drop(residual, value, scale, config)
    deviations[3] = _stay(off_level, columns.off_level)
    np.abs(value - 2.0 * previous + before, out=deviations[4])
    closest = _closest(columns.records, deviations, scale, config)
    warm = usable & (columns.learned >= config.warm_up)
    score, muted, fired_share = _muted(columns, closest, warm, config)

    moved = (
        count,
        previous,
        value,
        scale,
        level + off_level * np.maximum(share, config.level_weight),
        off_level,
        drift,
        muted,
        fired_share,
        np.maximum(columns.records * 2.0 ** (-1.0 / config.fade_over), deviations),
    )
    visits = visits + 1.0
    learned = np.empty_like(known)
    learned.real = mean + off_mean * np.maximum(1.0 / visits, config.profile_weight)
    learned.imag = visits
    if usable.all():
        for column, new in zip(columns, moved, strict=True):
            column[:] = new
        profile[places] = learned
    else:
        for column, new in zip(columns, moved, strict=True):
            np.copyto(column, new, where=usable)
        profile[places[usable]] = learned[usable]
    return Scores(np.where(warm, score, np.nan), np.where(warm, closest, np.nan))


def _drop(
    residual: NDArray[np.float64],
    value: NDArray[np.float64],
    scale: NDArray[np.float64],
    config: NoveltyConfig,
) -> NDArray[np.float64]:
    left = np.abs(value)
    left += scale * config.drop_floor
    fall = np.maximum(-residual, 0.0)
    drop: NDArray[np.float64] = fall / np.maximum(left, _TINY)
    return drop


def _stay(now: NDArray[np.float64], last: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the smaller of two residuals of one sign, as a magnitude; 0 for two signs."""
    above = np.maximum(np.minimum(now, last), 0.0)
    below = np.minimum(np.maximum(now, last), 0.0)
    return above - below


def _closest(
    records: NDArray[np.float64],
    deviations: NDArray[np.float64],
    scale: NDArray[np.float64],
    config: NoveltyConfig,
) -> NDArray[np.float64]:
    """Return the smallest record / deviation of each series; infinite where nothing deviates."""
    least = np.empty_like(records)
    least[:] = np.maximum(scale * config.resolution, _TINY)
    # A drop has no unit.
    least[_DROP] = config.resolution
    share = np.maximum(records, least, out=least)
    share /= deviations
    closest: NDArray[np.float64] = share.min(axis=0)
    return closest


def _muted(
    columns: NoveltyColumns,
    closest: NDArray[np.float64],
    warm: NDArray[np.bool_],
    config: NoveltyConfig,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the score, how long the mute lasts, and what it takes to break it."""
    score = np.maximum(1.0 - closest, 0.0)
    fires = warm & (score >= config.fire_at)
    muted = np.maximum(columns.muted - 1.0, 0.0)
    if not fires.any():
        return score, muted, columns.fired_share
    mute = columns.muted > 0
    mute &= closest * config.mute_until > columns.fired_share
    mute &= fires
    fires &= ~mute
    score[mute] = 0.0
    muted[fires] = config.mute_for
    return score, muted, np.where(fires, closest, columns.fired_share)


class Novelty:
    """The state of many series, and a step over some of them.

    Parameters
    ----------
    config : NoveltyConfig
        Not part of the saved state.
    """

    def __init__(self, config: NoveltyConfig = NoveltyConfig()) -> None:
        self._config = config
        self._rows = np.zeros((0, WIDTH))
        self._profile = np.zeros((0, PROFILE_BINS), np.complex128)
        self._count = 0

    def __len__(self) -> int:
        """Return the number of series."""
        return self._count

    def add(self, count: int) -> None:
        """Append new series."""
        self._count += count
        missing = self._count - len(self._rows)
        if missing > 0:
            # At least doubling keeps the cost of a series constant, however few are added at once.
            more = max(missing, len(self._rows))
            self._rows = np.concatenate((self._rows, np.zeros((more, WIDTH))))
            bins = np.zeros((more, PROFILE_BINS), np.complex128)
            self._profile = np.concatenate((self._profile, bins))

    def step(
        self,
        series: NDArray[np.intp],
        time_ns: NDArray[np.int64],
        value: NDArray[np.float64],
        usable: NDArray[np.bool_],
    ) -> NDArray[np.float64]:
        """Score one reading of each of some distinct series; see the function `step`.

        Parameters
        ----------
        series : (n,) intp
        time_ns : (n,) int64
            Event time, UTC nanoseconds since 1970.
        value : (n,) float64
        usable : (n,) bool
        """
        score = np.empty(len(series))
        places = series * PROFILE_BINS + profile_bin(time_ns)
        bins = self._profile.reshape(-1)
        with np.errstate(all="ignore"):
            for start in range(0, len(series), _STEP_ROWS):
                part = slice(start, start + _STEP_ROWS)
                rows = series[part]
                block = np.ascontiguousarray(self._rows.take(rows, axis=0).T)
                columns = novelty_columns(block)
                found = step(columns, bins, places[part], value[part], usable[part], self._config)
                score[part] = found.score
                self._rows[rows] = block.T
        return score

    def save(self) -> bytes:
        """Return the state of all series, exactly."""
        rows = self._rows[: self._count].astype("<f8", copy=False)
        profile = self._profile[: self._count].astype("<c16", copy=False)
        return rows.tobytes() + profile.tobytes()

    @classmethod
    def load(cls, data: bytes, config: NoveltyConfig = NoveltyConfig()) -> Self:
        """Return the series that were saved.

        Raises
        ------
        ValueError
            If the bytes are not those of whole series.
        """
        count, rest = divmod(len(data), BYTES_PER_SERIES)
        if rest:
            raise ValueError(f"{len(data)} bytes are no multiple of {BYTES_PER_SERIES}")
        state = cls(config)
        state._count = count
        split = count * WIDTH * 8
        state._rows = np.frombuffer(data[:split], "<f8").reshape(count, WIDTH).copy()
        bins = np.frombuffer(data[split:], "<c16")
        state._profile = bins.reshape(count, PROFILE_BINS).copy()
        return state

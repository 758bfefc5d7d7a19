"""A sensor that has stopped speaking, judged by its own habit and by the watermark.

The watermark is the event time up to which the readings of a partition have come; how it moves is
not known here. The *pause* of a series is how far the watermark went on between two of its
messages, so a gateway that sends ten minutes at once has pauses of ten minutes, though its
readings are seconds apart. The usual longest pause is a peak that decays: a longer pause becomes it
at once, a shorter one pulls it down slowly.

A silent series opens a sensor-health alert, and what is open of it becomes stale. It is silent
until it speaks again, with whatever reading; its alerts close by good readings only, as all do.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.config import SuiteConfig
from detectors.hysteresis import CITY, HEALTH, SILENCE
from detectors.table import NEVER, Columns
from detectors.terms import Terms, part_of

# Divided by, not multiplied with its inverse: whole seconds stay whole.
_NS_PER_S: Final = 1e9
_LONGEST_NS: Final = 2.0**62


@dataclass(frozen=True, slots=True)
class Returns:
    """Stale alerts whose series speak again, in row order, the city's first within a row.

    Parameters
    ----------
    row : (m,) int64
        Row of the batch that was heard.
    series : (m,) int32
    category : (m,) uint8
        Index into `CATEGORY_NAMES`.
    opened_ns : (m,) int64
        Event time of the reading that opened the alert.
    """

    row: NDArray[np.int64]
    series: NDArray[np.int32]
    category: NDArray[np.uint8]
    opened_ns: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of alerts."""
        return len(self.row)


class Spoke(NamedTuple):
    """Stale alerts of one category whose series are heard again in one wave."""

    category: int
    place: NDArray[np.intp]  # in the wave
    opened_ns: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Silences:
    """What becomes of the alerts of series that fell silent, by series, the city's first.

    Parameters
    ----------
    series : (m,) int32
    category : (m,) uint8
        Index into `CATEGORY_NAMES`.
    stale : (m,) bool
        True where an open alert became stale, False where a silence opened one.
    opened_ns : (m,) int64
        Identity of the alert; of a silence the event time of the last reading.
    pause_s, usual_s, allowed_s : (m,) float64
        Seconds by the watermark: the pause so far, the usual longest one, and the longest that
        would have been no silence.
    last : (m,) float64
        Last usable value of the series, in its unit; NaN where there was none.
    """

    series: NDArray[np.int32]
    category: NDArray[np.uint8]
    stale: NDArray[np.bool_]
    opened_ns: NDArray[np.int64]
    pause_s: NDArray[np.float64]
    usual_s: NDArray[np.float64]
    allowed_s: NDArray[np.float64]
    last: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of alerts."""
        return len(self.series)


def listen(
    columns: Columns, watermark_ns: NDArray[np.int64], config: SuiteConfig
) -> NDArray[np.bool_] | None:
    """Learn the pauses that end with these readings; return which series had been silent.

    Parameters
    ----------
    columns : Columns
        State of the series.
    watermark_ns : (n,) int64
        Watermark before the message of each reading; `NEVER` where there was none yet.
    config : SuiteConfig
        Thresholds.
    """
    heard_ns = columns.heard_ns
    # A series that speaks twice in a message makes no pause, and one more is no lesson.
    moved = (watermark_ns > heard_ns) & (heard_ns != NEVER)
    if moved.any():
        # Unsigned: it holds the difference of any two times.
        pause_s = np.minimum(
            (watermark_ns - heard_ns).view(np.uint64) / _NS_PER_S, config.forget_after_s
        )
        usual = columns.pause_s
        # Infinite where pauses mean nothing, and so it stays.
        shorter = pause_s * config.silence_decay + usual * (1.0 - config.silence_decay)
        np.copyto(usual, np.maximum(pause_s, shorter), where=moved)
    np.maximum(heard_ns, watermark_ns, out=heard_ns)
    back: NDArray[np.bool_] = columns.silent_ns != NEVER
    if not back.any():
        return None
    columns.silent_ns[back] = NEVER
    return back


def spoke_again(columns: Columns, back: NDArray[np.bool_]) -> list[Spoke]:
    """Return the stale alerts of series that were silent until now."""
    city = np.flatnonzero(back & (columns.city_opened_ns != NEVER))
    # The alert that the silence itself has opened was never stale.
    is_stale = (columns.health_opened_ns != NEVER) & (columns.health_kind != SILENCE)
    health = np.flatnonzero(back & is_stale)
    return [
        Spoke(CITY, city, columns.city_opened_ns[city]),
        Spoke(HEALTH, health, columns.health_opened_ns[health]),
    ]


def returns(spoken: list[tuple[NDArray[np.intp], Spoke]], series: NDArray[np.int32]) -> Returns:
    """Return what all waves have found as columns in row order.

    Parameters
    ----------
    spoken : list of (rows, Spoke)
        With the rows of the batch that the wave stands for.
    series : (n,) int32
        Series of every row of the batch.
    """
    if not spoken:
        none = np.empty(0, np.int64)
        return Returns(none, series[:0].copy(), np.empty(0, np.uint8), none)
    row = np.concatenate([rows[one.place] for rows, one in spoken]).astype(np.int64)
    category = np.repeat(
        np.array([one.category for _, one in spoken], np.uint8),
        [len(one.place) for _, one in spoken],
    )
    order = np.lexsort((category, row))
    opened_ns = np.concatenate([one.opened_ns for _, one in spoken])
    return Returns(row[order], series[row[order]], category[order], opened_ns[order])


def fall_silent(columns: Columns, watermark_ns: int, terms: Terms) -> Silences:
    """Find the series that are quiet for too long at a watermark, and mark them.

    Parameters
    ----------
    columns : Columns
        State of all series, written to.
    watermark_ns : int
    terms : Terms
        Thresholds of all series.
    """
    # Nobody is silent sooner than this, and so nearly all are passed over at once.
    floor_ns = min(float(np.min(terms.silence_floor_s, initial=np.inf)) * _NS_PER_S, _LONGEST_NS)
    place = (columns.heard_ns < max(watermark_ns - int(floor_ns) + 1, NEVER)).nonzero()[0]
    heard_ns = columns.heard_ns[place]
    quiet = (heard_ns != NEVER) & (columns.silent_ns[place] == NEVER)
    quiet &= columns.state[place] == 0
    allowance_s = _allowed_s(columns, terms, place)
    quiet &= (watermark_ns - heard_ns).view(np.uint64) / _NS_PER_S > allowance_s
    place = place[quiet]
    columns.silent_ns[place] = watermark_ns
    city = place[columns.city_opened_ns[place] != NEVER]
    is_open = columns.health_opened_ns[place] != NEVER
    opened = place[~is_open]
    columns.health_opened_ns[opened] = columns.last_ns[opened]
    columns.health_kind[opened] = SILENCE
    columns.health_streak[opened] = 0.0
    # A silence that was not over yet goes on: it was never taken back.
    health = place[~is_open | (columns.health_kind[place] != SILENCE)]
    series = np.concatenate((city, health))
    category = np.repeat(np.array([CITY, HEALTH], np.uint8), [len(city), len(health)])
    is_health = category == HEALTH
    order = np.lexsort((category, series))
    opened_ns = np.where(
        is_health, columns.health_opened_ns[series], columns.city_opened_ns[series]
    )
    stale = ~(is_health & (columns.health_kind[series] == SILENCE))
    series = series[order]
    return Silences(
        series=series.astype(np.int32),
        category=category[order],
        stale=stale[order],
        opened_ns=opened_ns[order],
        pause_s=(watermark_ns - columns.heard_ns[series]).view(np.uint64) / _NS_PER_S,
        usual_s=columns.pause_s[series],
        allowed_s=_allowed_s(columns, terms, series),
        last=columns.previous[series],
    )


def _allowed_s(columns: Columns, terms: Terms, place: NDArray[np.intp]) -> NDArray[np.float64]:
    allowed_s = columns.pause_s[place] * part_of(terms.silence_factor, place)
    return np.maximum(allowed_s, part_of(terms.silence_floor_s, place), out=allowed_s)


def excuse(columns: Columns, watermark_ns: int) -> None:
    """Count no pause up to here: the stream itself had a hole, whoever was speaking."""
    heard = columns.heard_ns
    np.copyto(heard, watermark_ns, where=(heard != NEVER) & (heard < watermark_ns))

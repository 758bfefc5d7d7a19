"""When an alert opens and closes: one at a time for each series and category."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.table import NEVER, Columns
from detectors.terms import Terms

CITY: Final = 0
HEALTH: Final = 1
CATEGORY_NAMES: Final = ("city", "sensor-health")

LEVEL: Final = 0
FLATLINE: Final = 1
RANGE: Final = 2
RATE: Final = 3
# The sensor itself gave the reading a bad flag, and nothing else was found.
REPORTED: Final = 4
# Nothing comes any more.
SILENCE: Final = 5
KIND_NAMES: Final = ("level", "flatline", "range", "rate", "reported", "silence")


@dataclass(frozen=True, slots=True)
class Transitions:
    """Alerts that opened or closed, in row order, the city's first within a row.

    Parameters
    ----------
    row : (m,) int64
        Row of the batch whose reading did it.
    series : (m,) int32
        Series of that row.
    category : (m,) uint8
        Index into `CATEGORY_NAMES`.
    kind : (m,) uint8
        Index into `KIND_NAMES`: what opened the alert, also when it closes.
    opened : (m,) bool
        True on opening, False on closing.
    opened_ns : (m,) int64
        Event time of the reading that opened the alert: its identity, also when it closes.
    """

    row: NDArray[np.int64]
    series: NDArray[np.int32]
    category: NDArray[np.uint8]
    kind: NDArray[np.uint8]
    opened: NDArray[np.bool_]
    opened_ns: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of transitions."""
        return len(self.row)


class Flips(NamedTuple):
    """Alerts of one category that opened or closed in one wave."""

    category: int
    place: NDArray[np.intp]  # in the wave
    kind: NDArray[np.uint8]
    opened: NDArray[np.bool_]
    opened_ns: NDArray[np.int64]


def city_flips(
    columns: Columns,
    time_ns: NDArray[np.int64],
    spreads: NDArray[np.float64],
    scored: NDArray[np.bool_],
    is_open: NDArray[np.bool_],
    terms: Terms,
    rest_ns: int,
) -> Flips | None:
    """Count readings far from the level (or, once open, near it) and flip what is due.

    A reading that is not scored neither counts nor breaks a row of consecutive ones: loss of good
    data is no reason to open an alert, nor to close one. What would open within `rest_ns` of the
    end of the alert before waits, and opens with the next reading after that which counts.
    """
    counts = np.where(
        is_open, spreads < terms.city_close_spreads, spreads >= terms.city_open_spreads
    )
    streak = np.where(counts, columns.city_streak + 1.0, 0.0)
    np.copyto(columns.city_streak, streak, where=scored)
    due = np.where(is_open, terms.close_after, terms.city_open_after)
    due_now = scored & (streak >= due)
    if not due_now.any():
        return None
    due_now &= is_open | (time_ns >= columns.rests_ns)
    place = np.flatnonzero(due_now)
    if not len(place):
        return None
    opened = ~is_open[place]
    rests_ns = columns.rests_ns[place]
    columns.rests_ns[place] = np.where(opened, rests_ns, time_ns[place] + rest_ns)
    opened_ns = np.where(opened, time_ns[place], columns.city_opened_ns[place])
    columns.city_opened_ns[place] = np.where(opened, opened_ns, NEVER)
    columns.city_streak[place] = 0.0
    return Flips(CITY, place, np.full(len(place), LEVEL, np.uint8), opened, opened_ns)


def health_flips(
    columns: Columns,
    time_ns: NDArray[np.int64],
    kind: NDArray[np.uint8],
    judged: NDArray[np.bool_] | None,
    terms: Terms,
) -> Flips | None:
    """Count bad readings (or, once open, good ones) and flip what is due.

    A measure has to repeat itself, for the next reading may tell another story. A state is reported
    when it changes: there may be no second reading for days.

    Parameters
    ----------
    columns : Columns
        State of the series.
    time_ns : (n,) int64
        Event times.
    kind : (n,) uint8
        What is wrong with each reading; `LEVEL` where nothing is.
    judged : (n,) bool or None
        Which readings count at all; None for all of them.
    terms : Terms
        Thresholds of these series.
    """
    is_open = columns.health_opened_ns != NEVER
    counts = (kind != LEVEL) ^ is_open
    streak = np.where(counts, columns.health_streak + 1.0, 0.0)
    if judged is None:
        columns.health_streak[:] = streak
    else:
        counts &= judged
        np.copyto(columns.health_streak, streak, where=judged)
    if not counts.any():
        return None
    due = np.where(is_open, terms.close_after, terms.health_open_after)
    # A flatline is a long run already.
    due[((kind == FLATLINE) & ~is_open) | (columns.state != 0)] = 1.0
    due_now = counts & (streak >= due)
    if not due_now.any():
        return None
    place = np.flatnonzero(due_now)
    opened = ~is_open[place]
    opened_ns = np.where(opened, time_ns[place], columns.health_opened_ns[place])
    kinds = np.where(opened, kind[place], columns.health_kind[place].astype(np.uint8))
    columns.health_opened_ns[place] = np.where(opened, opened_ns, NEVER)
    columns.health_kind[place] = kinds
    columns.health_streak[place] = 0.0
    return Flips(HEALTH, place, kinds, opened, opened_ns)


def transitions(
    flips: list[tuple[NDArray[np.intp], Flips]], series: NDArray[np.int32]
) -> Transitions:
    """Return the flips of all waves as columns in row order.

    Parameters
    ----------
    flips : list of (rows, Flips)
        With the rows of the batch that the flips' wave stands for.
    series : (n,) int32
        Series of every row of the batch.
    """
    if not flips:
        none = np.empty(0, np.int64)
        byte = np.empty(0, np.uint8)
        return Transitions(none, series[:0].copy(), byte, byte, np.empty(0, np.bool_), none)
    row = np.concatenate([rows[flip.place] for rows, flip in flips]).astype(np.int64)
    category = np.concatenate(
        [np.full(len(flip.place), flip.category, np.uint8) for _, flip in flips]
    )
    order = np.lexsort((category, row))
    return Transitions(
        row=row[order],
        series=series[row[order]],
        category=category[order],
        kind=np.concatenate([flip.kind for _, flip in flips])[order],
        opened=np.concatenate([flip.opened for _, flip in flips])[order],
        opened_ns=np.concatenate([flip.opened_ns for _, flip in flips])[order],
    )

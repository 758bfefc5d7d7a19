"""The order in which an irregular batch is judged.

Wave k holds the k-th fresh reading of every series that has so many. Within a wave all series
differ, so one vector step does the work of many single ones, in the same order for each series.
State is gathered once a batch, for the first wave; later ones are of few of its series. Where a
wave would have too few of them for a vector step, what is left is taken series by series.
"""

from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

# numpy sorts 16-bit integers by radix, several times as fast as wider ones.
_RADIX_SERIES: Final = 1 << 16
# A vector step costs as much as so many readings one after another.
FEW: Final = 5


@dataclass(frozen=True, slots=True)
class Runs:
    """Rows of a batch by series, in arrival order within each.

    Parameters
    ----------
    rows : (n,) intp
        Rows of the batch.
    first : (n,) bool
        Where the rows of a new series begin.
    starts : (u,) intp
        The same, as places.
    series : (u,) intp
        Which series that is.
    """

    rows: NDArray[np.intp]
    first: NDArray[np.bool_]
    starts: NDArray[np.intp]
    series: NDArray[np.intp]

    def group(self) -> NDArray[np.intp]:
        """Return of which of `series` each row is, as its place."""
        return np.cumsum(self.first) - 1


class Further(NamedTuple):
    """A wave after the first: its rows, and where in the first the series of these stand."""

    rows: NDArray[np.intp]
    places: NDArray[np.intp]


class Tail(NamedTuple):
    """Further rows of one series, in their order, and where in the first wave it stands."""

    place: int
    rows: list[int]


@dataclass(frozen=True, slots=True)
class Waves:
    """Rows of a batch in the order in which they are judged.

    Parameters
    ----------
    rows : (u,) intp or slice
        Rows of the first wave.
    series : (u,) intp
        Their series.
    fresh : (n,) intp or slice
        All rows, in any order.
    count : int
        How many these are.
    later : list of Further
    tails : list of Tail
        What is left after those.
    """

    rows: NDArray[np.intp] | slice
    series: NDArray[np.intp]
    fresh: NDArray[np.intp] | slice
    count: int
    later: list[Further] = field(default_factory=list)
    tails: list[Tail] = field(default_factory=list)


def by_series(series: NDArray[np.int32], series_count: int) -> Runs:
    """Return the rows sorted by series, stably."""
    keys = series.astype(np.uint16) if series_count <= _RADIX_SERIES else series
    return _runs(np.argsort(keys, kind="stable"), series)


def fresh_only(
    runs: Runs,
    series: NDArray[np.int32],
    time_ns: NDArray[np.int64],
    last_ns: NDArray[np.int64],
) -> Runs:
    """Leave out rows that are not strictly newer than all before them in their series.

    Parameters
    ----------
    runs : Runs
        All rows.
    series, time_ns : (n,)
        The columns of the batch.
    last_ns : (u,) int64
        Newest time of each series of `runs` before the batch.
    """
    times = time_ns[runs.rows]
    rising = np.empty(len(times), np.bool_)
    np.greater(times[1:], times[:-1], out=rising[1:])
    rising[runs.starts] = times[runs.starts] > last_ns
    if np.count_nonzero(rising) == len(rising):
        return runs
    # The running maximum of each series at once: dense ranks of the times, lifted by series.
    _, ranks = np.unique(np.concatenate((last_ns, times)), return_inverse=True)
    lift = np.arange(len(last_ns)) * len(ranks)
    group = runs.group()
    keys = ranks[len(last_ns) :] + lift[group]
    floors = ranks[: len(last_ns)] + lift
    newest = np.maximum.accumulate(np.maximum(keys, floors[group]))
    before = np.empty_like(newest)
    before[1:] = newest[:-1]
    before[runs.starts] = floors
    return _runs(runs.rows[keys > before], series)


def in_waves(runs: Runs) -> Waves:
    """Return the rows wave after wave."""
    count = len(runs.rows)
    if count == len(runs.series):
        return Waves(runs.rows, runs.series, runs.rows, count)
    waves = Waves(runs.rows[runs.starts], runs.series, runs.rows, count)
    further = (~runs.first).nonzero()[0]
    places = np.searchsorted(runs.starts, further, side="right") - 1
    ranks = further - runs.starts[places]
    sizes = np.bincount(ranks)
    rows = runs.rows[further]
    # A wave never has more rows than the one before.
    wide = int(np.count_nonzero(sizes > FEW)) + 1
    if wide > 1:
        order = np.argsort(ranks, kind="stable")
        end = 0
        for size in sizes[1:wide].tolist():
            wave = order[end : end + size]
            waves.later.append(Further(rows[wave], places[wave]))
            end += size
    if wide < len(sizes):
        left = (ranks >= wide).nonzero()[0]
        pairs = zip(places[left].tolist(), rows[left].tolist(), strict=True)
        for place, group in groupby(pairs, itemgetter(0)):
            waves.tails.append(Tail(place, [row for _, row in group]))
    return waves


def _runs(rows: NDArray[np.intp], series: NDArray[np.int32]) -> Runs:
    ordered = series[rows]
    first = np.empty(len(rows), np.bool_)
    first[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    starts = first.nonzero()[0]
    return Runs(rows, first, starts, ordered[starts].astype(np.intp))

"""The order in which an irregular batch is judged.

Wave k holds the k-th fresh reading of every series that has so many. Within a wave all series
differ, so one vector step does the work of many single ones, in the same order for each series.
With the series that have most readings first, every wave is a prefix of the one before: state is
gathered once a batch, and a wave works on views of its beginning.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

# numpy sorts 16-bit integers by radix, several times as fast as wider ones.
_RADIX_SERIES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Runs:
    """Rows of a batch by series, in arrival order within each.

    Parameters
    ----------
    rows : (n,) intp
        Rows of the batch.
    starts : (u,) intp
        Where the rows of a new series begin.
    series : (u,) intp
        Which series that is.
    """

    rows: NDArray[np.intp]
    starts: NDArray[np.intp]
    series: NDArray[np.intp]

    def counts(self) -> NDArray[np.intp]:
        """Return the number of rows of each series."""
        ends = np.empty_like(self.starts)
        ends[:-1] = self.starts[1:]
        ends[-1:] = len(self.rows)
        return ends - self.starts


@dataclass(frozen=True, slots=True)
class Waves:
    """Rows of a batch in wave order.

    Parameters
    ----------
    rows : (n,) intp or slice
        Rows of the batch, wave after wave; a slice of all where that is their own order.
    series : (u,) intp
        The series, those with most rows first; row i of a wave is of series i.
    sizes : list of int
        Rows in each wave.
    """

    rows: NDArray[np.intp] | slice
    series: NDArray[np.intp]
    sizes: list[int]


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
    group = np.repeat(np.arange(len(last_ns)), runs.counts())
    keys = ranks[len(last_ns) :] + lift[group]
    floors = ranks[: len(last_ns)] + lift
    newest = np.maximum.accumulate(np.maximum(keys, floors[group]))
    before = np.empty_like(newest)
    before[1:] = newest[:-1]
    before[runs.starts] = floors
    return _runs(runs.rows[keys > before], series)


def in_waves(runs: Runs) -> Waves:
    """Return the rows wave after wave."""
    if len(runs.rows) == len(runs.series):
        return Waves(runs.rows, runs.series, [len(runs.rows)] if len(runs.rows) else [])
    counts = runs.counts()
    # Most series have one row: what is to be sorted is short.
    several = np.flatnonzero(counts > 1)
    several = several[np.argsort(-counts[several], kind="stable")]
    order = np.concatenate((several, np.flatnonzero(counts == 1)))
    more = counts[several] - 1
    ends = np.cumsum(more)
    rank = np.arange(ends[-1]) - np.repeat(ends - more, more)
    sizes = np.bincount(rank)
    places = np.repeat(np.arange(len(several)), more)
    starts = runs.starts[order]
    others = np.empty_like(rank)
    others[(np.cumsum(sizes) - sizes)[rank] + places] = starts[places] + rank + 1
    rows = runs.rows[np.concatenate((starts, others))]
    return Waves(rows, runs.series[order], [len(order), *sizes.tolist()])


def _runs(rows: NDArray[np.intp], series: NDArray[np.int32]) -> Runs:
    ordered = series[rows]
    first = np.empty(len(rows), np.bool_)
    first[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    return Runs(rows, starts, ordered[starts].astype(np.intp))

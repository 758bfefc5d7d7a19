"""The table `latest`: the newest reading of each series, copied from `reading` while it grows.

A worker remembers which series its flushes touched, and about once a second, inside a flush's
transaction, copies the newest reading of each from `reading`. What is copied is looked up, not
remembered, so a late row, a conflict or a flush that was repeated cannot put a wrong one there; and
a series that reports often costs no more than one that reports once a second. What a worker that
died still had to copy, its successor does: whoever takes over a partition compares all series once.
"""

from typing import Any, Final

import numpy as np
from psycopg import AsyncCursor

from storage.rows import Rows

_INTERVAL_S: Final = 1.0
# At most a tenth of a worker's time: where there is more to copy, the table follows more slowly.
_REST: Final = 9.0
# About 0.15 s of a flush, whose alerts have to wait for it.
_MOST_AT_ONCE: Final = 20_000
_NS_PER_US: Final = 1_000

# Sorted, so that two workers never wait for each other's rows crosswise.
_PUT: Final = """
    INSERT INTO latest AS l (series_id, time, value, quality, score, expected, band)
    {newer}
    ORDER BY r.series_id
    ON CONFLICT (series_id) DO UPDATE
    SET time = excluded.time, value = excluded.value, quality = excluded.quality,
        score = excluded.score, expected = excluded.expected, band = excluded.band
    WHERE l.time < excluded.time
"""
# The bound on the time is one for all series, so that chunks without any of them are left out.
_COPY: Final = _PUT.format(
    newer="""
    SELECT r.*
    FROM unnest(%(series)s::integer[]) AS t (series_id)
    CROSS JOIN LATERAL (
        SELECT series_id, time, value, quality, score, expected, band FROM reading
        WHERE reading.series_id = t.series_id
          AND reading.time >= timestamptz 'epoch' + %(since_us)s * interval '1 microsecond'
        ORDER BY reading.time DESC LIMIT 1
    ) r"""
)
CATCH_UP: Final = _PUT.format(
    newer="""
    SELECT r.*
    FROM (SELECT series_id, coalesce(known.time, '-infinity') AS time
          FROM series LEFT JOIN latest known USING (series_id)) t
    CROSS JOIN LATERAL (
        SELECT series_id, time, value, quality, score, expected, band FROM reading
        WHERE reading.series_id = t.series_id AND reading.time > t.time
        ORDER BY reading.time DESC LIMIT 1
    ) r"""
)


class Latest:
    """What a worker still has to copy into `latest`.

    Whoever calls `copy` tells the outcome by `copied`, or says nothing where the transaction
    failed: then the same is copied again.
    """

    def __init__(self) -> None:
        # By series id, which the database counts up from 1.
        self._touched = np.zeros(0, np.bool_)
        self._since_ns = 0
        self._owes_all = False
        self._taken = np.empty(0, np.int64)
        self._next = 0
        self._due_s = 0.0

    def touch(self, rows: Rows) -> None:
        """Remember the series of rows that are about to be written; too many do no harm."""
        if not len(rows):
            return
        highest = int(rows.series_id.max())
        if highest >= len(self._touched):
            room = np.zeros(highest + 1 - len(self._touched) // 2, np.bool_)
            self._touched = np.concatenate([self._touched, room])
        oldest = int(rows.time_ns.min())
        self._since_ns = min(self._since_ns, oldest) if self._touched.any() else oldest
        self._touched[rows.series_id] = True

    def owe_all(self) -> None:
        """Remember that another worker may have left series behind."""
        self._owes_all = True

    def is_due(self, now_s: float) -> bool:
        """Say whether there is something to copy, and that it is time for it."""
        return now_s >= self._due_s and (self._owes_all or bool(self._touched.any()))

    async def copy(self, cursor: AsyncCursor[Any]) -> None:
        """Copy what was touched, or as much of it as a flush may wait for."""
        if self._owes_all:
            await cursor.execute(CATCH_UP)
            self._taken = np.flatnonzero(self._touched)
            return
        # Round and round, so that none waits for ever.
        series = np.flatnonzero(self._touched)
        series = np.roll(series, -int(np.searchsorted(series, self._next)))[:_MOST_AT_ONCE]
        await cursor.execute(
            _COPY,
            {"series": series.tolist(), "since_us": self._since_ns // _NS_PER_US},
        )
        self._taken = series

    def copied(self, now_s: float, took_s: float) -> None:
        """Note that the transaction of the last `copy` was committed, and when to go on.

        Parameters
        ----------
        now_s, took_s : float
            Monotonic time, and how long `copy` took.
        """
        self._owes_all = False
        if len(self._taken):
            self._touched[self._taken] = False
            self._next = int(self._taken[-1]) + 1
        is_done = not self._touched.any()
        self._due_s = now_s + max(_INTERVAL_S if is_done else 0.0, _REST * took_s)

"""How far a series goes from its level by itself, and so from which distance on an alert opens.

A number of spreads is not as rare in one series as in another: of bursty counts three readings in a
row are 4.2 spreads off several times a day, of a thermometer never. So the hours of each series are
learned as those of all kernels are (`detectors.calibration`), and the limit is put where an event
is as rare as one threshold for all asks for, once in 10,000 minutes. The configured limit is the
lowest: what it keeps quiet stays quiet.

What opens an alert are k readings in a row, so what an hour is learned by is the highest of the
lowest scores of any k. Nominally the configured limit is once in 10,000 minutes, and the rest in
proportion: with s the score of k readings and l that of the limit, ``4 s / l`` decades. So a new
series has the configured limit, whatever that is.

Three things differ from the kernels, each tried on synthetic series and on the labelled ones
(docs/detectors.md has the table):

- The tail is learned from 2.75 decades on. It is no straight line from 1.5 to 4: of an
  autoregressive series with a correlation of 0.95 the body is nearly Gaussian and the tail that of
  its innovations. From 1.5 on one of Student's t3 with 2.3 alerts a week has no other limit than
  before; from 2.75 on it has one of 4.7 spreads.
- An hour that begins with an alert open teaches nothing, for it is the event of an hour before.
- All others count in full. With a quarter for hours that reached the limit (and a tail from 1.5 on)
  bursty counts have four alerts in their fourth week, without 1.5; the labelled windows in which an
  alert is open are the same.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors import calibration
from detectors.averages import HOUR_NS
from detectors.saved import from_bytes, to_bytes
from detectors.table import NEVER, StateError
from detectors.tail import spreads_of, tail_score

# The limit goes no further than so many times the configured one: at 21 spreads of a level nobody
# asks how often that was seen before.
MOST: Final = 5.0
# Decades above which the tail is learned.
_THRESHOLD: Final = 2.75
# Readings in a row: more count as so many, which makes the limit higher than it had to be.
_MOST_ROW: Final = 4
_BEFORE: Final = _MOST_ROW - 1
_NO_HOUR: Final = NEVER // HOUR_NS
# Of a series: its last score was no low one; it had a score this hour.
_HIGH: Final = 1
_HEARD: Final = 2


class Asked(NamedTuple):
    """What is asked of each series, (n,) float64 columns.

    Parameters
    ----------
    spreads : (n,) float64
        The configured limit, in spreads.
    readings : (n,) float64
        How many in a row open an alert; may be infinite.
    decades : (n,) float64
        How rare what opens one has to be: -log10 of a rate a minute. With 0 the configured limit
        decides alone.
    """

    spreads: NDArray[np.float64]
    readings: NDArray[np.float64]
    decades: NDArray[np.float64]


class Reach:
    """How far each of many series goes from its level.

    Parameters
    ----------
    least_spreads : float
        The lowest limit that any of them may have.
    """

    def __init__(self, least_spreads: float) -> None:
        self._asked = Asked(np.empty(0), np.empty(0), np.empty(0))
        self._nominal = np.empty(0)
        self._row = np.empty(0, np.int64)
        self._flags = np.empty(0, np.uint8)
        # Whether the hour began with an alert open.
        self._held = np.empty(0, np.uint8)
        # Scores before the next one, the newest first; 0 is any that is low.
        self._before = np.empty((_BEFORE, 0))
        # Of this hour, the highest of the lowest scores in a row.
        self._peak = np.empty(0)
        self._hours = calibration.new_state(0, _THRESHOLD)
        self._hour = _NO_HOUR
        self._least = _least(least_spreads)

    def __len__(self) -> int:
        """Return the number of series."""
        return len(self._flags)

    def add(self, asked: Asked) -> None:
        """Append new series, numbered from `len(self)` on."""
        count = len(asked.spreads)
        self._flags = np.concatenate((self._flags, np.zeros(count, np.uint8)))
        self._held = np.concatenate((self._held, np.zeros(count, np.uint8)))
        self._before = np.concatenate((self._before, np.zeros((_BEFORE, count))), axis=1)
        self._peak = np.concatenate((self._peak, np.zeros(count)))
        new = calibration.new_state(count, _THRESHOLD)
        self._hours = calibration.State._make(
            np.concatenate(pair) for pair in zip(self._hours, new, strict=True)
        )
        self._use(Asked._make(map(np.concatenate, zip(self._asked, asked, strict=True))))

    def ask(self, asked: Asked, least_spreads: float) -> None:
        """Ask something else of all series from now on; what was learned stays.

        Parameters
        ----------
        asked : Asked
        least_spreads : float
            The lowest limit that any series may have.
        """
        self._ask(asked)
        self._least = _least(least_spreads)

    def see(self, series: NDArray[np.int32], score: NDArray[np.float64]) -> None:
        """Take note of a batch, as if its readings came one by one.

        Parameters
        ----------
        series : (n,) int32
        score : (n,) float64
            As in `Verdicts`.
        """
        # Numbers of this width are gathered by three times as fast.
        index = series.astype(np.intp)
        # Nearly all are low, as those before were, and then there is nothing to note.
        self._flags[index[np.flatnonzero(score >= self._least)]] = _HEARD | _HIGH
        rows = np.flatnonzero(self._flags[index] != _HEARD)
        told = score[rows]
        scored = ~np.isnan(told)
        if not scored.all():
            rows, told = rows[scored], told[scored]
        if not len(rows):
            return
        some = index[rows]
        order = np.argsort(some, kind="stable")
        some, told = some[order], np.where(told >= self._least, told, 0.0)[order]
        first = np.concatenate(([True], some[1:] != some[:-1]))
        if first.all():
            self._note(some, told)
        else:
            self._note_runs(some, np.flatnonzero(first), told)

    def learn(self, check_ns: int, in_alert: NDArray[np.bool_]) -> bool:
        """Learn the hour that is over, if one is; return whether limits may have moved.

        Parameters
        ----------
        check_ns : int
            Event time of a check, UTC nanoseconds since 1970: never decreasing.
        in_alert : (n,) bool
            Of which series a city alert is open.
        """
        hour = check_ns // HOUR_NS
        if hour == self._hour:
            return False
        over = np.flatnonzero((self._flags & _HEARD != 0) & (self._held == 0))
        if self._hour != _NO_HOUR and len(over):
            self._hours.peak[over] = self._peak[over] * self._nominal[over]
            with np.errstate(all="ignore"):
                # What is open teaches nothing anyway, so all others count in full.
                calibration.learn(self._hours, over, np.inf, _THRESHOLD)
        self._hour = hour
        self._flags &= np.uint8(_HIGH)
        self._held = in_alert.astype(np.uint8)
        self._peak.fill(0.0)
        return True

    def spreads(self) -> NDArray[np.float64]:
        """Return the limit of each series, in spreads, (n,) float64."""
        lowest = self._asked.spreads
        decades = calibration.reached_by(self._hours, self._asked.decades, _THRESHOLD)
        found = np.minimum(spreads_of(decades / self._nominal), MOST * lowest)
        # Of a series that has learned nothing to the bit.
        return np.where(self._hours.hours > 0.0, np.maximum(found, lowest), lowest)

    def rated(
        self, series: NDArray[np.intp] | NDArray[np.int32], score: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return scores as -log10 of how often in a minute so many in a row go as far.

        Parameters
        ----------
        series : (m,) int
            Whose they are.
        score : (m,) float64
            As in `Verdicts`.
        """
        share, excess = self._hours.share[series], self._hours.excess[series]
        return calibration.calibrated(score * self._nominal[series], share, excess, _THRESHOLD)

    def save(self) -> bytes:
        """Return the state of all series, exactly; what is asked of them is no part of it."""
        return to_bytes(
            {
                "hour": np.array([self._hour]),
                "flags": self._flags,
                "held": self._held,
                "before": self._before,
                "peak": self._peak,
                "spreads": self._asked.spreads,
                "hours": self._hours.hours,
                "share": self._hours.share,
                "excess": self._hours.excess,
            }
        )

    def load(self, data: bytes) -> None:
        """Go on where the saved one stood; the series must have been added.

        Raises
        ------
        StateError
            If the bytes are damaged, not a state, or of other series.
        """
        columns = from_bytes(data)
        count = len(self)
        try:
            hour = int(columns["hour"][0])
            flags, held, peak = columns["flags"], columns["held"], columns["peak"]
            before, spreads = columns["before"], columns["spreads"]
            hours = self._hours._replace(
                hours=columns["hours"], share=columns["share"], excess=columns["excess"]
            )
        except LookupError as error:
            raise StateError(f"not a saved reach: {error}") from error
        if before.shape != (_BEFORE, count) or any(
            column.shape != (count,) for column in (flags, held, peak, spreads, *hours)
        ):
            raise StateError(f"saved reach of {len(flags)} series, {count} keys")
        self._hour, self._flags, self._held, self._peak = hour, flags, held, peak
        self._before, self._hours = before, hours
        asked, least = self._asked, self._least
        self._use(asked._replace(spreads=spreads))
        # What was configured may have changed meanwhile.
        self._ask(asked)
        self._least = least

    def _ask(self, asked: Asked) -> None:
        before = self._nominal
        self._use(asked)
        moved = np.flatnonzero((before != self._nominal) & (self._hours.hours > 0.0))
        factor = self._nominal[moved] / before[moved]
        calibration.rescale(self._hours, moved, factor, _THRESHOLD)

    def _note(self, some: NDArray[np.intp], told: NDArray[np.float64]) -> None:
        """Take note of one score of each of some series."""
        before, row = self._before[:, some], self._row[some]
        lowest = told.copy()
        for back in range(_BEFORE):
            np.minimum(lowest, before[back], out=lowest, where=row > back + 1)
        self._peak[some] = np.maximum(self._peak[some], lowest)
        latest = np.concatenate((told[np.newaxis], before[:-1]))
        high = told > 0.0
        # Nothing from before a low one is in a row with what comes.
        self._before[:, some] = np.where(high, latest, 0.0)
        self._flags[some] = np.where(high, _HEARD | _HIGH, _HEARD)

    def _note_runs(
        self, some: NDArray[np.intp], starts: NDArray[np.intp], told: NDArray[np.float64]
    ) -> None:
        """Take note of any scores, series by series and each in its order, as `_note` does.

        Parameters
        ----------
        some : (n,) intp
        starts : (m,) intp
            Where the scores of a series begin.
        told : (n,) float64
        """
        each = some[starts]
        # Before those of a series stand the last ones that it had, the oldest first.
        firsts = starts + np.arange(len(each)) * _BEFORE
        counts = np.diff(starts, append=len(told))
        place = np.arange(len(told)) + np.repeat(np.arange(1, len(each) + 1) * _BEFORE, counts)
        whole = np.empty(len(told) + _BEFORE * len(each))
        whole[firsts + np.arange(_BEFORE)[:, np.newaxis]] = self._before[::-1, each]
        whole[place] = told
        row, lowest = self._row[some], told.copy()
        for back in range(1, _MOST_ROW):
            np.minimum(lowest, whole[place - back], out=lowest, where=row > back)
        self._peak[each] = np.maximum(self._peak[each], np.maximum.reduceat(lowest, starts))
        latest = whole[firsts + counts + np.arange(_BEFORE)[::-1, np.newaxis]]
        high = np.logical_and.accumulate(latest > 0.0, axis=0)
        self._before[:, each] = np.where(high, latest, 0.0)
        self._flags[each] = np.where(high[0], _HEARD | _HIGH, _HEARD)

    def _use(self, asked: Asked) -> None:
        self._asked = asked
        self._nominal = calibration.SPEAKS_FROM / tail_score(asked.spreads)
        self._row = np.clip(asked.readings, 1, _MOST_ROW).astype(np.int64)


def _least(spreads: float) -> float:
    """Return below which score nothing is learned of a series with such a limit, or a higher."""
    limit = float(tail_score(np.array([spreads]))[0])
    return limit * (_THRESHOLD / calibration.SPEAKS_FROM)

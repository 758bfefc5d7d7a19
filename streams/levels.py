"""From which distance on the level alerts of a suite open: as rare as in any other series.

A suite is told thresholds and asks nothing. So what it says of a partition's readings is noted
here, and at the first check of an hour of event time, whose places in the log are the same however
it is cut, it is told the limits that the hours before it call for (`detectors.reach`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors import LEVEL, Suite, Verdicts
from detectors.reach import Asked, Reach
from ingest.topics import SeriesKey
from streams.ruling import Ruling

_KIND: Final = "level"
_LIMIT: Final = "city_open_spreads"
_IN_A_ROW: Final = "city_open_after"


class Levels:
    """What a partition's series have learned of their distances from the level.

    Parameters
    ----------
    ruling : Ruling
        That of the suite.
    """

    def __init__(self, ruling: Ruling) -> None:
        self._ruling = ruling
        self._keys: list[SeriesKey] = []
        self._reach = Reach(ruling.least(_LIMIT))
        # Worked out when it is needed: thresholds that differ, where rules say so.
        self._columns: dict[str, NDArray[np.float64]] | None = None

    def __len__(self) -> int:
        """Return the number of series."""
        return len(self._keys)

    def add(self, keys: Sequence[SeriesKey]) -> None:
        """Append new series, numbered from `len(self)` on; the suite has the configured limits."""
        self._keys += keys
        self._reach.add(self._asked(keys, self._ruling.columns(keys)))
        self._columns = None

    def obey(self, ruling: Ruling, suite: Suite) -> None:
        """Take other rules, by which the suite is judging already; what was learned stays."""
        self._ruling, self._columns = ruling, ruling.columns(self._keys)
        self._reach.ask(self._asked(self._keys, self._columns), ruling.least(_LIMIT))
        self._tell(suite)

    def see(self, slot: NDArray[np.int32], score: NDArray[np.float64]) -> None:
        """Take note of what a suite says of some readings."""
        self._reach.see(slot, score)

    def rated(self, verdicts: Verdicts) -> Verdicts:
        """Return verdicts whose scores are calibrated where an alert of `level` opens or closes.

        So scores of alerts mean the same, of whatever series and detector: of 4 that it goes as far
        once in 10,000 minutes.
        """
        moves = verdicts.transitions
        places = np.flatnonzero(moves.kind == LEVEL)
        if not len(places):
            return verdicts
        row, score = moves.row[places], verdicts.score.copy()
        score[row] = self._reach.rated(moves.series[places], score[row])
        return replace(verdicts, score=score)

    def check(self, check_ns: int, suite: Suite) -> None:
        """Tell a suite the limits of its series, if an hour is over.

        Parameters
        ----------
        check_ns : int
            Watermark of the check, UTC nanoseconds since 1970.
        suite : Suite
            Everything before the check must have been judged.
        """
        if self._reach.learn(check_ns, suite.in_alert()):
            self._tell(suite)

    def save(self) -> bytes:
        """Return what was learned, exactly."""
        return self._reach.save()

    def load(self, data: bytes, suite: Suite) -> None:
        """Go on where the saved one stood; the series must have been added.

        Raises
        ------
        StateError
            If the bytes are damaged, not a state, or of other series.
        """
        self._reach.load(data)
        self._tell(suite)

    def _tell(self, suite: Suite) -> None:
        """Tell a suite the limits of its series, where they are not what is configured."""
        if self._columns is None:
            self._columns = self._ruling.columns(self._keys)
        lowest = self._columns.get(_LIMIT, getattr(self._ruling.terms, _LIMIT))
        spreads = self._reach.spreads()
        columns = self._columns
        if bool((spreads != lowest).any()):
            columns = columns | {_LIMIT: spreads}
        suite.judge_by(self._ruling.suite, self._ruling.terms, columns)

    def _asked(self, keys: Sequence[SeriesKey], columns: dict[str, NDArray[np.float64]]) -> Asked:
        count, terms = len(keys), self._ruling.terms
        decades = np.array([self._ruling.speaks_from(_KIND, key) for key in keys], np.float64)
        spreads, readings = (
            columns.get(name, np.full(count, float(getattr(terms, name))))
            for name in (_LIMIT, _IN_A_ROW)
        )
        return Asked(spreads, readings, decades)

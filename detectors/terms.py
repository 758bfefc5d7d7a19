"""Thresholds that may differ from series to series: one number where all share it, else a column.

Nearly always all series share all of them, and then nothing is gathered: numpy takes a number where
it would take a column (an array without dimensions a little sooner than one of Python's). Only what
some series has otherwise becomes a column.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from detectors.config import SuiteConfig

Threshold = float | NDArray[np.float64]


def part_of(term: Threshold, rows: slice | NDArray[np.intp]) -> Threshold:
    """Return the threshold of some of the series that it is of."""
    return term[rows] if isinstance(term, np.ndarray) and term.ndim else term


class Terms(NamedTuple):
    """The thresholds of some series, each a number or an (n,) float64 column.

    They mean what they mean in `SuiteConfig`. Infinity and 0 are allowed here, for a detector that
    is switched off: counts that are never reached, a chance that nothing falls below.
    """

    warm_up: Threshold
    city_open_spreads: Threshold
    city_close_spreads: Threshold
    city_open_after: Threshold
    health_open_after: Threshold
    close_after: Threshold
    flatline_chance: Threshold
    silence_floor_s: Threshold
    silence_factor: Threshold

    @classmethod
    def of(cls, config: SuiteConfig) -> Self:
        """Return the thresholds that all series share."""
        return cls._make(float(getattr(config, name)) for name in cls._fields)

    def part(self, rows: slice | NDArray[np.intp]) -> "Terms":
        """Return those of some of the series: views of a slice, copies of others."""
        return Terms._make(part_of(term, rows) for term in self)


class Numbers(NamedTuple):
    """The thresholds of one series, under the names of `Terms`."""

    warm_up: float
    city_open_spreads: float
    city_close_spreads: float
    city_open_after: float
    health_open_after: float
    close_after: float
    flatline_chance: float
    silence_floor_s: float
    silence_factor: float


class TermTable:
    """The thresholds of every series.

    Parameters
    ----------
    shared : Terms
        Numbers: what a series has where nothing else is said of it.
    """

    def __init__(self, shared: Terms) -> None:
        self._numbers = Numbers._make(float(term) for term in shared)
        self._shared = Terms._make(np.array(number) for number in self._numbers)
        self._columns: dict[str, NDArray[np.float64]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return the number of series."""
        return self._count

    def add(self, count: int, columns: Mapping[str, NDArray[np.float64]] | None = None) -> None:
        """Append new series.

        Parameters
        ----------
        count : int
        columns : mapping of str to (count,) float64, optional
            Thresholds by the names of `Terms`, where some of the series have their own.

        Raises
        ------
        ValueError
            If a name is no threshold of `Terms`, or a column is not as long as `count`.
        """
        own = columns or {}
        for name, column in own.items():
            if name not in Terms._fields:
                raise ValueError(f"not a threshold of a series: {name}")
            if column.shape != (count,):
                raise ValueError(f"{name}: {count} series, a column of shape {column.shape}")
        for name in dict.fromkeys((*self._columns, *own)):
            shared = getattr(self._numbers, name)
            before = self._columns.get(name, np.full(self._count, shared))
            new = own.get(name, np.full(count, shared))
            self._columns[name] = np.concatenate((before, new.astype(np.float64)))
        self._count += count

    def of(self, series: NDArray[np.intp]) -> Terms:
        """Return the thresholds of some series, those that differ as columns in their order."""
        if not self._columns:
            return self._shared
        return self._shared._replace(
            **{name: column[series] for name, column in self._columns.items()}
        )

    def one(self, series: int) -> Numbers:
        """Return the thresholds of one series."""
        if not self._columns:
            return self._numbers
        return self._numbers._replace(
            **{name: float(column[series]) for name, column in self._columns.items()}
        )

    def whole(self) -> Terms:
        """Return the thresholds of all series."""
        return self._shared._replace(**self._columns)

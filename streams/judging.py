"""What the minute stage asks a kernel, and what its word weighs; no kernel by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors import HEALTH
from detectors.episodes import Rule
from detectors.finding import Answer
from detectors.minutes import MINUTE_NS
from ingest.quantities import QUANTITIES
from ingest.topics import SeriesKey
from storage.pages import SEVERITIES, Severity, Window
from streams.facts import CityFacts

Floats = NDArray[np.float64]
Terms = dict[str, NDArray[Any]]
SlotOf = Mapping[tuple[str, str], int]
Watched = tuple[NDArray[np.bool_], ...]
HOUR_NS: Final = 60 * MINUTE_NS


@dataclass(frozen=True, slots=True)
class Wave:
    """One minute of some series, as a kernel sees it.

    Parameters
    ----------
    time_ns : (n,) int64
        End of the minute.
    value : (n,) float64
        Mean of its readings; of what is asked about clocks, the smallest lag in seconds.
    usable : (n,) bool
    utc_offset_ns : (n,) int64
        Local time minus UTC.
    means : (series,) float64
        Means of the same minute of all series of the partition; NaN where there is none, or the
        sensor is in doubt.
    """

    time_ns: NDArray[np.int64]
    value: Floats
    usable: NDArray[np.bool_]
    utc_offset_ns: NDArray[np.int64]
    means: Floats

    def whole(self, place: NDArray[np.int64], count: int) -> "Wave":
        """Return the wave with a row for all of `count` series, its own at `place`."""
        if len(place) == count:
            return self
        value, usable = np.full(count, np.nan), np.zeros(count, np.bool_)
        value[place], usable[place] = self.value, self.usable
        # All rows are of one minute.
        time_ns, offset_ns = (
            np.broadcast_to(one[0], count) for one in (self.time_ns, self.utc_offset_ns)
        )
        return Wave(time_ns, value, usable, offset_ns, self.means)


class Kind(NamedTuple):
    """One of the things that a kernel may find.

    Parameters
    ----------
    name : str
        Kind of the alert.
    category : int
        `CITY` or `HEALTH`.
    rule : Rule
    severity : dict of int to str
        From which level on it is how severe.
    unit : str or None
        UCUM code of what is measured, where it is not that of the series.
    told : {"always", "alone", "never"}
        When people are told: `alone` is where nothing is open that people are told of anyway, of
        the city and by this series, for several may speak of one cause; or where it outlasts that.
    is_scored : bool
        Whether it speaks only where its score is rare by the series' own record
        (`detectors.calibration`).
    window : callable of (quantity, level), or None
        Returns what its measure is a mean over, where that is not the minute.
    is_of_values : bool
        Whether what it tells of are values of the quantity itself: none is told beyond what that
        can be.
    """

    name: str
    category: int
    rule: Rule
    severity: dict[int, Severity]
    unit: str | None = None
    told: Literal["always", "alone", "never"] = "always"
    is_scored: bool = False
    window: Callable[[str, int], Window | None] | None = None
    is_of_values: bool = False

    @property
    def gets_worse(self) -> bool:
        """Whether an alert that people are told of may become more severe while it is open."""
        return self.told == "always" and len(set(self.severity.values())) > 1

    def ranks_of(self, level: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return how severe findings of these levels are, as places in `SEVERITIES`."""
        ranks = np.zeros(len(level), np.int64)
        for least, severity in sorted(self.severity.items()):
            ranks[level >= least] = SEVERITIES.index(severity)
        return ranks

    def severity_of(self, level: int) -> Severity:
        """Return how severe a finding of that level is."""
        return self.severity[max(least for least in self.severity if least <= level)]


class Own:
    """What rules say of thresholds of some series.

    Parameters
    ----------
    said : sequence of mappings, length n
        Of each series, kind to name to value; empty where no rules are.
    """

    def __init__(self, said: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
        self._said = said if any(said) else ()

    def values(self, kind: str, name: str) -> list[Any]:
        """Return a threshold of each series, None where nothing is said; empty if of none."""
        found = [one.get(kind, {}).get(name) for one in self._said]
        return found if any(one is not None for one in found) else []

    def number(self, kind: str, name: str, default: float) -> Floats:
        """Return a threshold as (n,), or as () where it is the same for all."""
        found = {default if one is None else float(one) for one in self.values(kind, name)}
        if len(found) <= 1:
            return np.array(found.pop() if found else default, np.float64)
        own = self.values(kind, name)
        return np.array([default if one is None else one for one in own], np.float64)

    def rows(self, kind: str, names: Sequence[str], default: Floats) -> Floats:
        """Return thresholds as rows, each over its row of `default`, (names, n)."""
        rows = default
        for row, name in enumerate(names):
            if own := self.values(kind, name):
                rows = rows.copy() if rows is default else rows
                told = np.array([np.nan if one is None else one for one in own], np.float64)
                rows[row] = np.where(np.isnan(told), rows[row], told)
        return rows


def no_thresholds(terms: Terms, own: Own) -> Terms:
    """Return that a kernel has none that rules may set."""
    del terms, own
    return {}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel, and how it is to be asked.

    Parameters
    ----------
    name : str
        Of its saved state.
    quantities : frozenset of str
        It has a place for every series of these.
    kinds : tuple of Kind
        What its findings are about, in the order in which `judge` answers.
    new_state : callable
    terms : callable of (keys, facts, slot_of)
        Returns what is fixed for series of these keys, as columns. `slot_of` tells of all series
        of the partition: (sensor, quantity) to slot.
    judge : callable of (state, wave, terms)
        Returns an answer for each kind.
    watched : callable of terms
        Returns for each kind of which series it can be judged at all; an open alert of another is
        closed.
    thresholds : callable of (terms, own)
        Returns what `step` and `watched` find among the terms beside what is fixed, or in its
        place: columns, or one number for all. Asked for anew when rules change.
    expected : callable of (terms, place, usual), or None
        Returns what was expected of the series at a place, in the unit of what is measured, where
        its finding does not say: `usual` is the mean of the hour, NaN where nobody knows it.
    usual : callable of (state, place, local_ns), or None
        Returns that mean, of a kernel that learns it.
    of_clocks : bool
        Whether it judges clocks: it has a place for the first series of every sensor then.
    of_neighbours : bool
        Whether its terms name other series: they are asked for anew when there are new ones.
    """

    name: str
    quantities: frozenset[str]
    kinds: tuple[Kind, ...]
    new_state: Callable[[int], Any]
    terms: Callable[[Sequence[SeriesKey], CityFacts, SlotOf], Terms]
    judge: Callable[[Any, Wave, Terms], tuple[Answer, ...]]
    watched: Callable[[Terms], Watched]
    thresholds: Callable[[Terms, Own], Terms] = no_thresholds
    expected: Callable[[Terms, int, float], float] | None = None
    usual: Callable[[Any, int, int], float] | None = None
    of_clocks: bool = False
    of_neighbours: bool = False

    @property
    def is_of_sensors(self) -> bool:
        """Whether sensors are at fault in all that it finds: others ask it first then."""
        return all(kind.category == HEALTH for kind in self.kinds)


def is_known(columns: Floats) -> NDArray[np.bool_]:
    """Return of which series one number at least is known."""
    known: NDArray[np.bool_] = np.any(~np.isnan(np.atleast_2d(columns)), axis=0)
    return known


def everywhere(terms: Terms) -> Watched:
    """Return that all series are judged, of terms that hold `least`."""
    return (np.ones(len(terms["least"]), np.bool_),)


def least(share: float) -> Callable[[Sequence[SeriesKey], CityFacts, SlotOf], Terms]:
    """Return terms that hold so much of the least difference that matters."""

    def terms(keys: Sequence[SeriesKey], facts: CityFacts, slot_of: SlotOf) -> Terms:
        del facts, slot_of
        return {"least": least_of(keys, share)}

    return terms


def least_of(keys: Sequence[SeriesKey], share: float) -> Floats:
    """Return so much of the least difference that matters of series."""
    return np.array([QUANTITIES[key.quantity].least * share for key in keys], np.float64)

"""When what a kernel finds in closed minutes opens an alert, and when it closes it.

An alert opens when so many of the last judged minutes spoke, and closes when so many judged minutes
in a row did not. A minute that is not judged counts for neither: loss of data is no all-clear.
After it has closed it stays closed for a while.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.finding import ages, put, rows_of, unless_all
from detectors.table import NEVER

# Of so many minutes it is remembered whether they spoke.
MOST_MINUTES: Final = 63
# What was found before a longer break is no part of what is found after it: as `forget_after_s`.
_ONE: Final = np.uint64(1)
_FORGET_NS: Final = np.uint64(7_200_000_000_000)


@dataclass(frozen=True, slots=True)
class Rule:
    """When an alert opens and closes.

    Parameters
    ----------
    open_after, open_within : int
        It opens when so many of so many judged minutes spoke, the newest among them.
    close_after : int
        Judged minutes in a row that do not speak, until it closes.
    refractory_ns : int
        From its end until the next one may open.

    Raises
    ------
    ValueError
        If more minutes are asked for than are remembered, or none.
    """

    open_after: int
    open_within: int
    close_after: int
    refractory_ns: int = 0

    def __post_init__(self) -> None:
        """Check the counts."""
        if not 1 <= self.open_after <= self.open_within <= MOST_MINUTES:
            raise ValueError(f"{self.open_after} of {self.open_within} minutes cannot be asked for")
        if not 1 <= self.close_after <= MOST_MINUTES:
            raise ValueError(f"{self.close_after} minutes cannot be asked for")


class State(NamedTuple):
    """Columns of some series."""

    history: NDArray[np.int64]  # bit i: whether the judged minute i ago spoke
    judged_ns: NDArray[np.int64]
    opened_ns: NDArray[np.int64]  # `NEVER` while nothing is open
    rests_ns: NDArray[np.int64]  # nothing opens before
    stale: NDArray[np.int64]  # 1 while the series of an open alert is silent


class Flips(NamedTuple):
    """Alerts that opened or closed, by their places in the wave."""

    place: NDArray[np.intp]
    opened: NDArray[np.bool_]
    opened_ns: NDArray[np.int64]


def new_state(count: int) -> State:
    """Return the state of series that have said nothing yet."""
    return State(
        history=np.zeros(count, np.int64),
        judged_ns=np.full(count, NEVER),
        opened_ns=np.full(count, NEVER),
        rests_ns=np.full(count, NEVER),
        stale=np.zeros(count, np.int64),
    )


def step(
    state: State,
    time_ns: NDArray[np.int64],
    judged: NDArray[np.bool_],
    speaks: NDArray[np.bool_],
    rule: Rule,
) -> Flips | None:
    """Count one minute of each series; return what flips, None where nothing does.

    Parameters
    ----------
    state : State
    time_ns : (n,) int64
        End of the minute.
    judged, speaks : (n,) bool
        As in a `Finding`.
    rule : Rule
    """
    rows = rows_of(speaks | (state.opened_ns != NEVER) | (state.history != 0))
    return count(state, rows, time_ns, judged, speaks, rule)


def busy(state: State) -> NDArray[np.intp]:
    """Return the series of which something is open or has spoken: a quiet minute moves no other."""
    return rows_of((state.opened_ns != NEVER) | (state.history != 0))


def count(
    state: State,
    rows: NDArray[np.intp],
    time_ns: NDArray[np.int64],
    judged: NDArray[np.bool_],
    speaks: NDArray[np.bool_],
    rule: Rule,
) -> Flips | None:
    """Count one minute, as `step`; `rows` are those that speak, and all that are `busy`, rising."""
    flips = _counted(state, rows, time_ns[rows], judged[rows], speaks[rows], rule)
    put(state.judged_ns, time_ns, unless_all(judged))
    return flips


def _counted(
    state: State,
    rows: NDArray[np.intp],
    time_ns: NDArray[np.int64],
    judged: NDArray[np.bool_],
    speaks: NDArray[np.bool_],
    rule: Rule,
) -> Flips | None:
    """Count the minute of some of the series; `judged_ns` is still that of the minute before."""
    if not len(rows):
        return None
    before_ns = state.opened_ns[rows]
    is_open = before_ns != NEVER
    history = state.history[rows].view(np.uint64)
    forgotten = ~is_open & is_long_ago(state, rows, time_ns)
    if np.count_nonzero(forgotten):
        history[forgotten] = 0
    history = np.where(judged, history << _ONE | speaks, history)
    state.history[rows] = history.view(np.int64)
    spoke = np.bitwise_count(history & _mask(rule.open_within))
    flips = judged & speaks & ~is_open & (spoke >= rule.open_after)
    flips &= time_ns >= state.rests_ns[rows]
    flips |= judged & is_open & (history & _mask(rule.close_after) == 0)
    flipped = rows_of(flips)
    if not len(flipped):
        return None
    place, opened, at_ns = rows[flipped], ~is_open[flipped], time_ns[flipped]
    opened_ns = np.where(opened, at_ns, before_ns[flipped])
    state.opened_ns[place] = np.where(opened, opened_ns, NEVER)
    end(state, place[~opened], at_ns[~opened], rule)
    return Flips(place, opened, opened_ns)


def end(
    state: State, place: NDArray[np.intp], time_ns: NDArray[np.int64] | int, rule: Rule
) -> None:
    """Take note that alerts are over."""
    state.opened_ns[place] = NEVER
    state.history[place] = state.stale[place] = 0
    state.rests_ns[place] = time_ns + rule.refractory_ns


def is_long_ago(
    state: State, rows: NDArray[np.intp], time_ns: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return of which of some series what was judged last is no part of what is found now."""
    is_long: NDArray[np.bool_] = ages(state.judged_ns[rows], time_ns) > _FORGET_NS
    return is_long


def remembers(state: State) -> NDArray[np.bool_]:
    """Return of which series more is known than of new ones: when minutes were judged is not."""
    is_known = (state.history != 0) | (state.opened_ns != NEVER)
    known: NDArray[np.bool_] = is_known | (state.rests_ns != NEVER)
    return known


@cache
def _mask(minutes: int) -> np.uint64:
    return np.uint64((1 << minutes) - 1)

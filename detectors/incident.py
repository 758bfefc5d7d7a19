"""A traffic incident between two stations on one road.

The California algorithms (Payne & Tignor, *Freeway incident-detection algorithms based on decision
trees with states*, Transportation Research Record 682, 1978) compare a station with the next one
downstream. With u and d their occupancies now, and d2 that of the downstream station two readings
ago::

    OCCDF = u - d            OCCRDF = (u - d) / u            DOCCTD = (d2 - d) / d2

A blocked lane fills the road before it and empties the road behind it: all three are high. That is
*tentative*; it is *confirmed* if OCCRDF is still high with the next reading, and goes on as long as
it stays high. This persistence is that of algorithm #7. Stop-and-go traffic sends waves upstream
that look alike when they have passed. As in algorithm #8 a wave is a dense downstream station whose
occupancy has jumped (DOCCTD far below zero), and for five readings after one nothing is begun.

The tree follows later descriptions and implementations of the two, not the paper itself. Accounts
of #7 differ in one test (the downstream occupancy itself in place of its change); the one above
is asked here. Where the speed upstream is known it must have fallen as well, as in the successor
APID (Masters, Lam & Wong, 1991). Thresholds belong to a road: the defaults are in common use, and
have to be calibrated: rules say them for a station.
"""

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.finding import (
    ALL,
    Answer,
    Finding,
    Rows,
    ages,
    known,
    nothing,
    put,
    rows_of,
    sound,
    unless_all,
)
from detectors.table import NEVER
from detectors.terms import Threshold, part_of

# Levels.
TENTATIVE: Final = 1
CONFIRMED: Final = 2

# Phases: nothing, so many readings since a wave, and an incident.
_FREE: Final = 0.0
_WAVE: Final = 1.0
_LAST_WAVE: Final = 5.0
_TENTATIVE: Final = 6.0
_CONFIRMED: Final = 7.0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When readings speak of an incident.

    Parameters
    ----------
    difference : float or (n,) float64
        Least OCCDF, occupancy from 0 to 1.
    relative_difference : float or (n,) float64
        Least OCCRDF, below 1.
    downstream_fall : float or (n,) float64
        Least DOCCTD of an incident.
    downstream_jump : float
        DOCCTD below which a dense downstream station is a wave.
    dense : float
        Downstream occupancy from which on there may be a wave.
    speed_fall : float or (n,) float64
        Least fall of the upstream speed over two readings, relative; our own choice.
    skew_ns : int
        How far apart in time readings of the two stations may be to be compared. A minute, the
        usual interval of loops.
    forget_ns : int
        Silence after which nothing is known of before. Five minutes, the longest usual interval.
    """

    difference: Threshold = 0.08
    relative_difference: Threshold = 0.5
    downstream_fall: Threshold = 0.3
    downstream_jump: float = -0.4
    dense: float = 0.3
    speed_fall: Threshold = 0.2
    skew_ns: int = 60_000_000_000
    forget_ns: int = 300_000_000_000

    def of(self, rows: NDArray[np.intp]) -> "Thresholds":
        """Return those of some of the pairs."""
        return replace(
            self,
            difference=part_of(self.difference, rows),
            relative_difference=part_of(self.relative_difference, rows),
            downstream_fall=part_of(self.downstream_fall, rows),
            speed_fall=part_of(self.speed_fall, rows),
        )


class State(NamedTuple):
    """Columns of some pairs: what they are in, and the last two readings, newest first."""

    phase: NDArray[np.float64]
    time_ns: NDArray[np.int64]  # (2, n)
    downstream: NDArray[np.float64]  # (2, n)
    speed: NDArray[np.float64]  # (2, n) upstream, in km/h


class Downstream(NamedTuple):
    """The newest reading of the next station downstream, and the upstream station's speed.

    Parameters
    ----------
    time_ns : (n,) int64
        `NEVER` where there is none.
    occupancy : (n,) float64
        0 to 1, NaN where it is not usable.
    speed : (n,) float64
        Of the upstream station, km/h; NaN where it is not known.
    """

    time_ns: NDArray[np.int64]
    occupancy: NDArray[np.float64]
    speed: NDArray[np.float64]


def new_state(count: int) -> State:
    """Return the state of pairs that have said nothing yet."""
    return State(
        phase=np.zeros(count),
        time_ns=np.full((2, count), NEVER),
        downstream=np.full((2, count), np.nan),
        speed=np.full((2, count), np.nan),
    )


def step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    downstream: Downstream,
    thresholds: Thresholds = Thresholds(),
) -> Finding:
    """Judge a reading of the upstream station of each pair.

    Which stations are neighbours is known to whoever calls: with `up` and `down` their indices into
    columns of the newest readings of stations, `value` is `occupancy[up]` and
    `downstream.occupancy` is `occupancy[down]`.

    Parameters
    ----------
    state : State
        Of pairs.
    time_ns, value, usable : (n,)
        Time and occupancy (0 to 1) of the upstream station.
    downstream : Downstream
        What belongs to it.
    thresholds : Thresholds
        The same for all pairs, or columns of them.

    Returns
    -------
    Finding
        `level` is `TENTATIVE` or `CONFIRMED`; it speaks when confirmed. `measure` is the upstream
        occupancy, `expected` the downstream one, and `upper` the highest upstream occupancy that
        would end an incident.
    """
    return judge(state, time_ns, value, usable, downstream, thresholds).told(ALL)


def judge(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    downstream: Downstream,
    thresholds: Thresholds = Thresholds(),
) -> Answer:
    """Judge a reading of the upstream station of each pair, as `step`."""
    ahead = downstream.occupancy
    apart = np.abs(time_ns - downstream.time_ns).view(np.uint64)
    judged = sound(value, usable) & sound(ahead, usable) & (apart <= np.uint64(thresholds.skew_ns))
    difference = value - ahead
    relative = difference / value >= thresholds.relative_difference
    # Nearly all are free and stay it: what begins something is an obstacle or a wave.
    starts = relative & (difference >= thresholds.difference)
    starts |= ahead >= thresholds.dense
    rows = rows_of(judged & (starts | (state.phase != _FREE)))
    if len(rows):
        part = State(
            state.phase[rows],
            state.time_ns[:, rows],
            state.downstream[:, rows],
            state.speed[:, rows],
        )
        seen = Downstream(time_ns[rows], ahead[rows], downstream.speed[rows])
        state.phase[rows] = _phase(
            part, seen, difference[rows], relative[rows], thresholds.of(rows)
        )
    where = unless_all(judged)
    for column, new in (
        (state.time_ns, time_ns),
        (state.downstream, ahead),
        (state.speed, downstream.speed),
    ):
        put(column[1], column[0], where)
        put(column[0], new, where)
    speaks = judged & (state.phase == _CONFIRMED)

    def told(rows: Rows) -> Finding:
        known_rows, occupancy, phase = judged[rows], ahead[rows], state.phase[rows]
        level = np.zeros(len(phase), np.uint8)
        level[known_rows & (phase == _TENTATIVE)] = TENTATIVE
        level[known_rows & (phase == _CONFIRMED)] = CONFIRMED
        least = part_of(thresholds.relative_difference, rows)
        return Finding(
            judged=known_rows,
            speaks=speaks[rows],
            level=level,
            measure=known(value[rows], known_rows),
            expected=known(occupancy, known_rows),
            lower=nothing(len(phase)),
            upper=known(occupancy / (1.0 - least), known_rows),
            score=nothing(len(phase)),
        )

    return Answer(judged, speaks, told)


def _phase(
    before: State,
    now: Downstream,
    difference: NDArray[np.float64],
    relative: NDArray[np.bool_],
    thresholds: Thresholds,
) -> NDArray[np.float64]:
    """Return the phases of some pairs after this reading; `relative` is where OCCRDF is high."""
    ahead, time_ns = now.occupancy, now.time_ns
    forget = np.uint64(thresholds.forget_ns)
    phase = np.where(ages(before.time_ns[0], time_ns) > forget, _FREE, before.phase)
    # Two readings ago is more than one interval, and less than two silences.
    recent = ages(before.time_ns[1], time_ns) <= 2 * forget

    change = np.where(recent, 1.0 - ahead / before.downstream[1], np.nan)
    fallen = 1.0 - now.speed / np.where(recent, before.speed[1], np.nan)
    slower = ~(fallen < thresholds.speed_fall)
    begins = relative & slower & (difference >= thresholds.difference)
    begins &= change >= thresholds.downstream_fall
    wave = (ahead >= thresholds.dense) & (change < thresholds.downstream_jump)

    waiting = np.where((phase >= _WAVE) & (phase < _LAST_WAVE), phase + 1.0, _FREE)
    idle = np.where((phase == _FREE) & begins, _TENTATIVE, waiting)
    idle = np.where(wave, _WAVE, idle)
    broken = np.where(wave & (phase == _TENTATIVE), _WAVE, _FREE)
    active = np.where(relative, _CONFIRMED, broken)
    return np.where(phase >= _TENTATIVE, active, idle)

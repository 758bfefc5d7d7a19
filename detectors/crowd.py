"""How dense a crowd is, in persons a square metre.

Two scales on one line. Up to F it is how freely people walk: Fruin's levels of service of walkways
(*Designing for pedestrians: a level-of-service concept*, Highway Research Record 355, 1971), which
he gives in square feet a person: A from 35, then 25, 15, 10 and 5. Beyond, it is danger: Fruin
(*The causes and prevention of crowd disasters*, 1993), as tabulated by Wirz et al. (EPJ Data
Science 2:5, 2013, table 1): from 3.57 a square metre people touch whether they want to or not, from
5.55 dangerous forces begin to develop, and 7.1 is critical even for people who stand. Still
(*Introduction to Crowd Science*, 2014) draws the line for a standing crowd at about 5.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.finding import ALL, Answer, Finding, Rows, known, nothing, sound
from detectors.terms import Threshold, part_of

LEVEL_NAMES: Final = (
    "A", "B", "C", "D", "E", "F", "involuntary contact", "dangerous forces", "critical",
)  # fmt: skip
TOUCHING: Final = 7

_SQUARE_FEET: Final = 0.3048 * 0.3048  # square metres
# Where B to critical begin, in persons a square metre.
_EDGES: Final = (
    *(1.0 / (feet * _SQUARE_FEET) for feet in (35.0, 25.0, 15.0, 10.0, 5.0)),
    3.57,
    5.55,
    7.1,
)
# Persons a square metre.
SPEAKS_FROM: Final = _EDGES[TOUCHING - 2]


class State(NamedTuple):
    """No columns: a reading is judged by itself."""


def new_state(count: int) -> State:
    """Return the state of series, which is empty."""
    del count
    return State()


def step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    area_m2: NDArray[np.float64],
    speaks_from: Threshold = SPEAKS_FROM,
) -> Finding:
    """Judge one count of persons of each series.

    Parameters
    ----------
    state, time_ns, value, usable
        As of every kernel.
    area_m2 : (n,) float64
        What the camera sees of the ground; NaN where it is not known: nothing is judged then.
    speaks_from : float or (n,) float64
        Density from which on it speaks, in persons a square metre.

    Returns
    -------
    Finding
        `level` is 1 (A) to 9 (critical); `measure` is the density, and `upper` the density from
        which on it speaks, in persons a square metre.
    """
    return judge(state, time_ns, value, usable, area_m2, speaks_from).told(ALL)


def judge(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    area_m2: NDArray[np.float64],
    speaks_from: Threshold,
) -> Answer:
    """Judge one count of persons of each series, as `step`."""
    del state, time_ns
    judged = sound(value, usable) & (area_m2 > 0.0) & (area_m2 < np.inf)
    density = value / area_m2
    speaks = judged & (density >= speaks_from)

    def told(rows: Rows) -> Finding:
        known_rows, dense = judged[rows], density[rows]
        level = np.ones(len(dense), np.uint8)
        for edge in _EDGES:
            level += dense >= edge
        level[~known_rows] = 0
        return Finding(
            judged=known_rows,
            speaks=speaks[rows],
            level=level,
            measure=known(dense, known_rows),
            expected=nothing(len(dense)),
            lower=nothing(len(dense)),
            upper=known(part_of(speaks_from, rows), known_rows),
            score=nothing(len(dense)),
        )

    return Answer(judged, speaks, told)

"""Level of service of a road, A to F, from its speed or from its occupancy.

*Highway Capacity Manual*, 7th edition (Transportation Research Board, 2022):

- of an urban street by travel speed against the base free-flow speed (Exhibit 18-1, the same as
  Exhibit 16-3), interpolated between its columns; outside of them the nearest one is used;
- of a freeway or multilane highway by density (Exhibit 12-15). Density follows from occupancy and
  the length of road over which a vehicle is seen (its own and that of the sensor): a share o of the
  time is the same share of the road, so o * 1000 / length vehicles a kilometre. Vehicles are taken
  as passenger cars.

The manual means a quarter of an hour; whoever calls decides how many readings in a row count.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.finding import ALL, Answer, Finding, Rows, edges_of, known, nothing, sound

LEVEL_NAMES: Final = ("A", "B", "C", "D", "E", "F")

_KM_PER_MILE: Final = 1.609344
_M_PER_KM: Final = 1_000.0
# Base free-flow speeds of the columns, and the travel speed that A to E must exceed, in mi/h.
_FREE_FLOW_MPH: Final = (25.0, 30.0, 35.0, 40.0, 45.0, 50.0, 55.0)
_SPEEDS_MPH: Final = (
    (20.0, 24.0, 28.0, 32.0, 36.0, 40.0, 44.0),
    (17.0, 20.0, 23.0, 27.0, 30.0, 34.0, 37.0),
    (13.0, 15.0, 18.0, 20.0, 23.0, 25.0, 28.0),
    (10.0, 12.0, 14.0, 16.0, 18.0, 20.0, 22.0),
    (8.0, 9.0, 11.0, 12.0, 14.0, 15.0, 17.0),
)
# The densest of A to E in passenger cars a mile and lane.
_DENSITIES_PER_MILE: Final = (11.0, 18.0, 26.0, 35.0, 45.0)


class State(NamedTuple):
    """No columns: a reading is judged by itself."""


class Terms(NamedTuple):
    """Where the levels of a series end.

    Parameters
    ----------
    edges : (5, n) float64
        The last value of A to E in the unit of the series; NaN where the series is not judged.
    falling : (n,) float64
        1 where less is worse (speed), 0 where more is (occupancy).
    """

    edges: NDArray[np.float64]
    falling: NDArray[np.float64]


def new_state(count: int) -> State:
    """Return the state of series, which is empty."""
    del count
    return State()


def speed_terms(free_flow_kmh: NDArray[np.float64]) -> Terms:
    """Return the terms of series of speed in km/h.

    Parameters
    ----------
    free_flow_kmh : (n,) float64
        Base free-flow speed of each street; NaN where it is not known.
    """
    free_flow_mph = free_flow_kmh / _KM_PER_MILE
    edges = [np.interp(free_flow_mph, _FREE_FLOW_MPH, row) * _KM_PER_MILE for row in _SPEEDS_MPH]
    return Terms(np.array(edges), np.ones(len(free_flow_kmh)))


def occupancy_terms(seen_length_m: NDArray[np.float64]) -> Terms:
    """Return the terms of series of occupancy, 0 to 1.

    Parameters
    ----------
    seen_length_m : (n,) float64
        Length of a vehicle and of what the sensor sees together, in metres: about 6.5 for a loop
        and a car. NaN where it is not known.
    """
    share = seen_length_m / (_M_PER_KM * _KM_PER_MILE)
    edges = [density * share for density in _DENSITIES_PER_MILE]
    return Terms(np.array(edges), np.zeros(len(seen_length_m)))


def step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    terms: Terms,
    speak_from: int | NDArray[np.intp],
) -> Finding:
    """Judge one reading of each series.

    Parameters
    ----------
    state, time_ns, value, usable
        As of every kernel.
    terms : Terms
        From `speed_terms` or `occupancy_terms`.
    speak_from : int or (n,) intp
        Level from which on it speaks, 2 (B) to 6 (F).

    Returns
    -------
    Finding
        `level` is 1 (A) to 6 (F); `lower` (of speed) or `upper` (of occupancy) is where the last
        level that does not speak ends.
    """
    return judge(state, time_ns, value, usable, terms, speak_from).told(ALL)


def judge(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    terms: Terms,
    speak_from: int | NDArray[np.intp],
) -> Answer:
    """Judge one reading of each series, as `step`."""
    del state, time_ns
    falling = terms.falling == 1.0
    judged = sound(value, usable) & ~np.isnan(terms.edges[0])
    bound = np.broadcast_to(edges_of(terms.edges, speak_from - 2), len(value))
    # Every edge is worse than the one before: what is beyond this one is beyond those as well.
    speaks = judged & _beyond(value, bound, falling)

    def told(rows: Rows) -> Finding:
        known_rows, is_falling, seen = judged[rows], falling[rows], value[rows]
        level = np.ones(len(seen), np.uint8)
        for edge in terms.edges:
            level += _beyond(seen, edge[rows], is_falling)
        level[~known_rows] = 0
        return Finding(
            judged=known_rows,
            speaks=speaks[rows],
            level=level,
            measure=known(seen, known_rows),
            expected=nothing(len(seen)),
            lower=known(bound[rows], known_rows & is_falling),
            upper=known(bound[rows], known_rows & ~is_falling),
            score=nothing(len(seen)),
        )

    return Answer(judged, speaks, told)


def _beyond(
    value: NDArray[np.float64], edge: NDArray[np.float64], falling: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return what is worse: a speed must exceed the edge to be better, a density may be on it."""
    return (value > edge) ^ falling

"""QARTOD primary flags, as stored with every reading, and the tests that give them at the edge.

Source: IOOS QARTOD, *Manual for Real-Time Quality Control*, flag scheme of IOC 54:V3; the tests
are its gross range test and its timing/gap test.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

GOOD: Final = 1
UNKNOWN: Final = 2
SUSPECT: Final = 3
FAIL: Final = 4
MISSING: Final = 9

# Later than this a reading still counts, but not as news: a gateway that was away over night.
LATE_NS: Final = 86_400 * 10**9


def flags(
    value: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    delay_ns: NDArray[np.int64],
    max_ahead_ns: int,
) -> NDArray[np.uint8]:
    """Return the flag of each reading.

    Parameters
    ----------
    value : (n,) float64
    low, high : (n,) float64
        Physical range of the reading's quantity, both ends included.
    delay_ns : (n,) int64
        Arrival less event time.
    max_ahead_ns : int
        A reading further ahead of its arrival was not stamped by a clock that is right.

    Returns
    -------
    (n,) uint8
        9 for NaN, 4 out of range, 3 too far ahead or more than `LATE_NS` late, else 1.
    """
    found = np.full(len(value), GOOD, np.uint8)
    found[(delay_ns < -max_ahead_ns) | (delay_ns > LATE_NS)] = SUSPECT
    found[(value < low) | (value > high)] = FAIL
    found[np.isnan(value)] = MISSING
    return found

"""A value that moves faster than it can.

A reading is compared with the last usable one, whatever was found about that one's rate: after a
lasting step only the first reading is suspect. It is also compared with the *anchor*, the last
reading whose rate was believable, and excused by it: the reading after a single spike comes back
to where the series was, and is not the spike's fault.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors.config import SuiteConfig
from detectors.table import Columns

_NS: Final = 1e-9  # seconds in a nanosecond
_NS_PER_S: Final = 1_000_000_000


def too_fast(
    columns: Columns,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    config: SuiteConfig,
) -> NDArray[np.bool_]:
    """Return which readings moved too fast, and move the anchor and the previous reading."""
    gap_ns = np.uint64(round(config.rate_max_gap_s * _NS_PER_S))
    since_ns = time_ns - columns.previous_ns
    jump = np.abs(value - columns.previous) > columns.max_rate * (since_ns * _NS)
    # Unsigned: times more than 292 years apart wrap around to negative, and are far.
    jump &= usable & (since_ns.view(np.uint64) <= gap_ns)
    if jump.any():
        since_ns = time_ns - columns.anchor_ns
        near = np.abs(value - columns.anchor) <= columns.max_rate * (since_ns * _NS)
        jump &= ~(near & (since_ns.view(np.uint64) <= gap_ns))
    believable = usable & ~jump
    np.copyto(columns.anchor, value, where=believable)
    np.copyto(columns.anchor_ns, time_ns, where=believable)
    return jump

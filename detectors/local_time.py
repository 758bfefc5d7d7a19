"""Local time of a city, as columns: what offset held when, and which day a date is.

Kernels take offsets and days as numbers and know no time zones; whoever calls them asks here. The
zone is an argument, so no file is read.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final

import numpy as np
from numpy.typing import NDArray

_NS_PER_S: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Clocks are changed on a quarter of an hour of UTC, whatever the zone.
_STEP_S: Final = 900


def offsets_ns(zone: tzinfo, time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return local time minus UTC of each moment.

    Parameters
    ----------
    zone : tzinfo
        A `zoneinfo.ZoneInfo`, say.
    time_ns : (n,) int64
        UTC nanoseconds since 1970, within the years 1 to 9999.
    """
    # The times of a batch lie close together: few of them are asked for.
    steps, place = np.unique(time_ns // (_STEP_S * _NS_PER_S), return_inverse=True)
    offsets = [_offset_ns(zone, int(step)) for step in steps]
    return np.array(offsets, np.int64)[place]


def day_numbers(dates: Iterable[date]) -> NDArray[np.int64]:
    """Return dates as days since 1970, each once and rising: a calendar of holidays."""
    return np.array(sorted({one.toordinal() - _EPOCH.toordinal() for one in dates}), np.int64)


def _offset_ns(zone: tzinfo, step: int) -> int:
    offset = (_EPOCH + timedelta(seconds=step * _STEP_S)).astimezone(zone).utcoffset()
    # An aware time has an offset, by the contract of `datetime`.
    assert offset is not None  # noqa: S101
    return offset // timedelta(microseconds=1) * 1_000

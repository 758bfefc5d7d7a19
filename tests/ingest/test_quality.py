"""Flags given at the edge."""

from math import inf, nan

import numpy as np
import pytest

from ingest.quality import FAIL, GOOD, LATE_NS, MISSING, SUSPECT, flags

AHEAD = 5 * 10**9


@pytest.mark.parametrize(
    ("value", "delay_ns", "flag"),
    [
        (0.0, 0, GOOD),
        (1.0, LATE_NS, GOOD),
        (0.5, -AHEAD, GOOD),
        (0.5, -AHEAD - 1, SUSPECT),
        (0.5, LATE_NS + 1, SUSPECT),
        (-1e-9, 0, FAIL),
        (1.000001, LATE_NS + 1, FAIL),
        (inf, 0, FAIL),
        (-inf, 0, FAIL),
        (nan, 0, MISSING),
        (nan, LATE_NS + 1, MISSING),
    ],
)
def test_flag_of_a_reading_between_0_and_1(value: float, delay_ns: int, flag: int) -> None:
    found = flags(np.array([value]), np.array([0.0]), np.array([1.0]), np.array([delay_ns]), AHEAD)
    assert found.dtype == np.uint8
    assert found.tolist() == [flag]

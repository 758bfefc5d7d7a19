"""How long a reading stands for: a gap is no hole where it is how the series reports."""

import numpy as np
import pytest

from detectors import pace

MINUTE = 60 * 10**9


def stood(*gaps: int, least: int = 10) -> list[int]:
    """Return for how many minutes readings stand that come after these gaps, in minutes."""
    state, previous_ns, found = pace.new_gaps(1), np.array([np.iinfo(np.int64).min]), []
    for time_ns in np.cumsum([1_000, *gaps]) * MINUTE:
        now_ns = np.array([time_ns])
        least_ns, added = np.array([least * MINUTE]), np.ones(1, np.bool_)
        span = pace.stood_ns(state, now_ns, previous_ns, least_ns, added)
        found.append(int(span[0]) // MINUTE)
        previous_ns = now_ns
    return found[1:]


@pytest.mark.parametrize("every", [1, 5, 10, 15, 30, 60])
def test_what_is_usual_is_known_by_its_second_gap(every: int) -> None:
    assert stood(*[every] * 5) == [min(every, 10), *[every] * 4]


def test_one_message_may_be_lost_and_not_two() -> None:
    assert stood(15, 15, 15, 30, 15) == [10, 15, 15, 30, 15]
    assert stood(15, 15, 15, 45, 15) == [10, 15, 15, 30, 15]


def test_a_hole_is_no_habit_however_long_it_is() -> None:
    assert stood(1, 1, 1, 40, 1, 1, 1, 1, 600, 1) == [1, 1, 1, 10, 1, 1, 1, 1, 10, 1]
    assert stood(15, 15, 15, 600, 15) == [10, 15, 15, 30, 15]
    # Nothing was there before.
    assert stood(40, 1, 1) == [10, 1, 1]


def test_three_readings_at_a_time_are_a_habit() -> None:
    assert stood(1, 1, 28, 1, 1, 28, 1, 1, 28) == [1, 1, 10, 1, 1, 28, 1, 1, 28]


def test_nothing_stands_for_more_than_an_hour() -> None:
    assert stood(90, 90, 90) == [10, 60, 60]
    assert stood(1, 1, 1, least=120) == [1, 1, 1]


def test_what_was_not_added_is_no_reading() -> None:
    gaps = pace.new_gaps(2)
    before = np.array([0, 0])
    added = np.array([True, False])
    pace.stood_ns(gaps, before + 5 * MINUTE, before, np.full(2, 10 * MINUTE), added)
    assert gaps.tolist() == [[5 * MINUTE, 0], [0, 0], [0, 0]]

"""A clock is called off when arrival proves it, and not when the network was late."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest import clocks
from ingest.clocks import WINDOW, ClockWatch

SECOND = 10**9
AHEAD, BEHIND = 5 * SECOND, 900 * SECOND


def watch() -> ClockWatch:
    return ClockWatch(AHEAD, BEHIND)


def fleet(made: ClockWatch, delay_s: float, rounds: int, sensors: int = 20) -> None:
    for _ in range(rounds):
        for number in range(sensors):
            made.arrived(f"s{number}", round(delay_s * SECOND))
            made.observe(f"s{number}", round(delay_s * SECOND))


def test_one_message_from_the_future_proves_a_clock_ahead() -> None:
    made = watch()
    made.observe("s", -AHEAD)
    assert made.offset_s == {}
    made.observe("s", -AHEAD - SECOND)
    assert made.offset_s == {"s": 6.0}


def test_a_clock_is_behind_when_even_its_quickest_message_is_late() -> None:
    made = watch()
    for _ in range(WINDOW - 1):
        made.observe("s", BEHIND + 100 * SECOND)
    assert made.offset_s == {}
    made.observe("s", BEHIND + 50 * SECOND)
    assert made.offset_s == {"s": -950.0}


def test_messages_held_up_are_no_clock() -> None:
    made = watch()
    for _ in range(10):
        for delay in (5000, 4000, 3000, 2000, 1):
            made.observe("s", delay * SECOND)
    assert made.offset_s == {}


def test_a_clock_that_was_set_right_is_forgotten() -> None:
    made = watch()
    made.observe("s", -3600 * SECOND)
    assert made.offset_s == {"s": 3600.0}
    for _ in range(WINDOW):
        assert made.offset_s
        made.observe("s", SECOND)
    assert made.offset_s == {}


def test_when_all_are_late_it_is_not_their_clocks() -> None:
    made = watch()
    fleet(made, 0.1, 20)
    fleet(made, 7200.0, 50)
    assert made.offset_s == {}
    # Back to normal, and one clock that is off is seen again.
    fleet(made, 0.1, 50)
    for _ in range(WINDOW):
        made.observe("off", 7200 * SECOND)
    assert made.offset_s == {"off": -7200.0}


def test_when_all_are_ahead_it_is_our_own_clock() -> None:
    made = watch()
    fleet(made, 0.1, 20)
    fleet(made, -60.0, 1, sensors=1)
    assert made.offset_s == {"s0": 60.0}
    made = watch()
    fleet(made, -60.0, 3)
    first = len(made.offset_s)
    fleet(made, -60.0, 50)
    # Those seen before enough had spoken stay until they are measured again, and none is added.
    assert len(made.offset_s) == first
    fleet(made, 0.1, 50)
    assert made.offset_s == {}


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "_MAX_SENSORS", 10)
    made = watch()
    for number in range(100):
        made.observe(f"late{number}", 10 * BEHIND)
        made.observe(f"ahead{number}", -10 * AHEAD)
        assert len(made._seen) <= 10
        assert len(made.offset_s) <= 10


@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(-(10**13), 10**15))))
def test_only_what_is_beyond_the_bounds_is_off(seen: list[tuple[str, int]]) -> None:
    made = watch()
    for sensor, delay_ns in seen:
        before = dict(made.offset_s), dict(made._seen)
        plain = made.is_plain({sensor}, delay_ns, delay_ns)
        made.arrived(sensor, delay_ns)
        made.observe(sensor, delay_ns)
        assert not plain or before == (made.offset_s, made._seen)
    assert all(
        offset * SECOND >= AHEAD or offset * SECOND <= -BEHIND for offset in made.offset_s.values()
    )
    assert made.offset_s.keys() <= {sensor for sensor, _ in seen}

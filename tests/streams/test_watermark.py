"""The watermark moves by agreement: no clock that is off moves it for others."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import NEVER
from streams.watermark import CHECK_NS, HOLE_NS, Turn, Watermark, WatermarkState

S = 10**9
Reading = tuple[int, float]


def told(watermark: Watermark, *readings: Reading, quality: int = 1, **more: Any) -> Turn:
    """Let one message of (sensor, seconds) move the watermark."""
    words: dict[str, Any] = {"bridge": "bridge-1", "arrived_ns": None, "complete_ns": None}
    for name in ("arrived", "complete"):
        if name in more:
            words[f"{name}_ns"] = round(more.pop(name) * S)
    return watermark.move(
        np.array([sensor for sensor, _ in readings], np.int32),
        np.array([round(at * S) for _, at in readings], np.int64),
        np.full(len(readings), quality, np.uint8),
        **words | more,
    )


def now_s(watermark: Watermark) -> float | None:
    return None if watermark.now_ns == NEVER else watermark.now_ns / S


def test_it_stands_where_two_sensors_have_been() -> None:
    watermark = Watermark()
    told(watermark, (0, 100), (0, 101))
    assert now_s(watermark) is None
    told(watermark, (1, 90))
    assert now_s(watermark) == 90
    told(watermark, (1, 99), (0, 105))
    assert now_s(watermark) == 99
    told(watermark, (2, 103))
    assert now_s(watermark) == 103


def test_a_clock_that_jumps_forward_in_one_sensor_moves_nobody() -> None:
    watermark = Watermark()
    told(watermark, (0, 100), (1, 100), (2, 100))
    told(watermark, (2, 1e6))
    assert now_s(watermark) == 100
    for second in range(101, 200):
        told(watermark, (0, second), (1, second), (2, 1e6 + second))
        # The jump is one of the two that agree; the next newest has the last word.
        assert now_s(watermark) == second


def test_clocks_of_a_whole_gateway_are_held_by_the_time_of_arrival() -> None:
    watermark = Watermark()
    told(watermark, (0, 100), (1, 100), arrived=101)
    told(watermark, *((sensor, 390) for sensor in range(2, 50)), arrived=102)
    assert now_s(watermark) == 102


def test_suspect_readings_have_no_vote() -> None:
    watermark = Watermark()
    told(watermark, (0, 100), (1, 100))
    told(watermark, (0, 500), (1, 500), quality=3)
    assert now_s(watermark) == 100


def test_it_never_goes_back() -> None:
    watermark = Watermark()
    told(watermark, (0, 100), (1, 100))
    told(watermark, (0, 50), (1, 50))
    told(watermark, complete=20, arrived=120)
    assert now_s(watermark) == 100


def test_a_bridge_moves_it_when_sensors_do_not() -> None:
    watermark = Watermark()
    told(watermark, (0, 100), (1, 100), arrived=101)
    told(watermark, arrived=200, complete=170)
    assert now_s(watermark) == 170


def test_of_two_bridges_the_one_that_is_behind_decides() -> None:
    watermark = Watermark()
    told(watermark, (0, 100), (1, 100), bridge="one", arrived=101)
    told(watermark, (2, 100), (3, 100), bridge="two", arrived=101)
    told(watermark, bridge="one", arrived=150, complete=120)
    assert now_s(watermark) == 100
    told(watermark, bridge="two", arrived=151, complete=110)
    assert now_s(watermark) == 110
    # One that is not heard for a minute is not waited for.
    told(watermark, bridge="one", arrived=211.5, complete=181)
    assert now_s(watermark) == 181


def test_a_bridge_that_only_forwards_old_dead_letters_holds_nobody_up() -> None:
    watermark = Watermark()
    told(watermark, (0, 5000), (1, 5000), bridge="one", arrived=5001)
    told(watermark, (2, 10), bridge="rejects", arrived=12)
    told(watermark, bridge="one", arrived=5040, complete=5010)
    assert now_s(watermark) == 5010


def test_silences_are_judged_by_where_it_stood_at_the_check_before() -> None:
    watermark = Watermark()
    every_s = CHECK_NS // S
    assert told(watermark, (0, 100), (1, 100)) == Turn(None, None)
    assert told(watermark, (0, 100 + every_s - 1), (1, 100 + every_s - 1)) == Turn(None, None)
    assert told(watermark, (0, 100 + every_s), (1, 101 + every_s)) == Turn(None, 100 * S)
    turn = told(watermark, (0, 200), (1, 200))
    assert turn == Turn(None, (100 + every_s) * S)


def test_a_hole_in_the_stream_is_told() -> None:
    watermark = Watermark()
    told(watermark, (0, 100), (1, 100))
    beyond = 100 + HOLE_NS // S + 1
    turn = told(watermark, (0, beyond), (1, beyond))
    assert turn.hole_ns == beyond * S
    assert told(watermark, (0, beyond + 300), (1, beyond + 300)).hole_ns is None


def test_names_of_bridges_are_bounded() -> None:
    watermark = Watermark()
    for number in range(200):
        told(watermark, bridge=f"bridge-{number}", arrived=number, complete=number)
    assert len(watermark.state.bridges) == 64
    assert "bridge-199" in watermark.state.bridges


MESSAGES = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 5), st.floats(0, 2000)), max_size=6),
        st.sampled_from(["one", "two"]),
        st.none() | st.floats(0, 2000),
        st.none() | st.floats(0, 2000),
        st.sampled_from([1, 1, 1, 3]),
    ),
    max_size=30,
)


def run(watermark: Watermark, messages: list[Any]) -> list[Turn]:
    turns = []
    for readings, bridge, arrived, complete, quality in messages:
        words = {"arrived": arrived, "complete": complete}
        given_words = {name: word for name, word in words.items() if word is not None}
        turns.append(told(watermark, *readings, bridge=bridge, quality=quality, **given_words))
    return turns


@given(MESSAGES, st.integers(0, 30))
def test_saved_and_read_back_it_goes_on_as_before(messages: list[Any], cut: int) -> None:
    whole, first = Watermark(), Watermark()
    wanted = run(whole, messages)
    turns = run(first, messages[:cut])
    saved = msgspec.msgpack.encode(first.state)
    second = Watermark(msgspec.msgpack.decode(saved, type=WatermarkState))
    assert turns + run(second, messages[cut:]) == wanted
    assert second.state == whole.state


@given(MESSAGES)
def test_the_votes_are_the_two_newest_of_different_sensors(messages: list[Any]) -> None:
    watermark = Watermark()
    run(watermark, messages)
    newest: dict[int, int] = {}
    for readings, _, arrived, _, quality in messages:
        for sensor, at in readings:
            if quality < 3:
                seen = min(at, arrived) if arrived is not None else at
                newest[sensor] = max(newest.get(sensor, NEVER), round(seen * S))
    two = sorted(newest.values(), reverse=True)[:2]
    assert [vote.time_ns for vote in watermark.state.votes] == two
    assert len({vote.sensor for vote in watermark.state.votes}) == len(two)


@pytest.mark.parametrize("count", [1, 1000])
def test_an_own_state_each(count: int) -> None:
    first, second = Watermark(), Watermark()
    told(first, *((n, 100) for n in range(count)))
    assert second.state == WatermarkState()

"""Minutes and episodes beside their twins, however their input is cut."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import detectors.minutes
from detectors import NEVER, StateError, episodes
from detectors.episodes import Rule
from detectors.minutes import MINUTE_NS, Closed, Minutes
from tests.detectors import naive_stage

SERIES = 5
S = 10**9
# Time between two readings of a series: within a minute, into the next, over many.
STEPS_S = st.sampled_from([0.5, 7.0, 29.0, 61.0, 200.0])
VALUES = st.floats(-1e6, 1e6) | st.sampled_from([-0.0, 0.1, 1e-300, 1e100])
READINGS = st.lists(st.tuples(st.integers(0, SERIES - 1), STEPS_S, VALUES), max_size=60)


def columns(readings: list[tuple[int, float, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    now_s = [1000.0 * n for n in range(SERIES)]
    rows = []
    for series, step_s, value in readings:
        now_s[series] += step_s
        rows.append((series, round(now_s[series] * S), value))
    series, time_ns, value = zip(*rows, strict=True) if rows else ((), (), ())
    return (np.array(series, np.int32), np.array(time_ns, np.int64), np.array(value, np.float64))


def told(closed: Closed) -> list[tuple[int, int, float, int, float]]:
    rows = zip(*(column.tolist() for column in closed), strict=True)
    # By their bits: -0 is not 0.
    return [(series, at, mean.hex(), count, last.hex()) for series, at, mean, count, last in rows]


@given(READINGS, st.lists(st.integers(0, 59), max_size=8), st.integers(2, 64), st.data())
@settings(deadline=None, max_examples=300)
def test_minutes_are_those_of_their_twin_however_they_are_cut(
    readings: list[tuple[int, float, float]], cuts: list[int], most: int, data: st.DataObject
) -> None:
    series, time_ns, value = columns(readings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detectors.minutes, "MOST_WAITING", most)
        patch.setattr(detectors.minutes, "_TRIM_FROM", 6)
        minutes, twin = Minutes(), naive_stage.Minutes(most)
        minutes.add(SERIES)
        bounds = sorted({0, *(cut for cut in cuts if cut < len(series)), len(series)})
        for start, stop in pairwise(bounds):
            minutes.take(series[start:stop], time_ns[start:stop], value[start:stop])
            for row in range(start, stop):
                twin.take(int(series[row]), int(time_ns[row]), float(value[row]))
            if data.draw(st.booleans()):
                saved = minutes.save()
                minutes = Minutes.load(saved)
                assert minutes.save() == saved
            if data.draw(st.booleans()):
                until_ns = data.draw(st.integers(0, 10_000)) * S
                assert told(minutes.close(until_ns)) == [
                    (one, at, mean.hex(), count, last.hex())
                    for one, at, mean, count, last in twin.close(until_ns)
                ]
        assert len(minutes.close(10**15).series) == len(twin.close(10**15))


@given(READINGS, st.sets(st.integers(1, 59)))
@settings(deadline=None, max_examples=100)
def test_the_saved_bytes_do_not_tell_where_batches_were_cut(
    readings: list[tuple[int, float, float]], cuts: set[int]
) -> None:
    series, time_ns, value = columns(readings)
    whole, cut = Minutes(), Minutes()
    for one in (whole, cut):
        one.add(SERIES)
    whole.take(series, time_ns, value)
    bounds = [0, *sorted(place for place in cuts if place < len(series)), len(series)]
    for start, stop in pairwise(bounds):
        cut.take(series[start:stop], time_ns[start:stop], value[start:stop])
    assert cut.save() == whole.save()


@pytest.mark.parametrize("seed", range(5))
def test_a_sum_is_made_reading_by_reading(seed: int) -> None:
    """Sums of parts differ in the last bit: here all of it is random, and every cut counts."""
    rng = np.random.default_rng(seed)
    series = rng.integers(0, 3, 600).astype(np.int32)
    time_ns, value = np.arange(600) * S // 4, rng.normal(0.0, 1.0, 600)
    whole, cut = Minutes(), Minutes()
    twin = naive_stage.Minutes(64)
    for one in (whole, cut):
        one.add(3)
    whole.take(series, time_ns, value)
    for start, stop in pairwise([0, *sorted(rng.choice(600, 30, replace=False)), 600]):
        cut.take(series[start:stop], time_ns[start:stop], value[start:stop])
    for row in range(600):
        twin.take(int(series[row]), int(time_ns[row]), float(value[row]))
    expected = [
        (one, at, mean.hex(), count, last.hex())
        for one, at, mean, count, last in twin.close(200 * S)
    ]
    assert len(expected) == 9
    assert told(whole.close(200 * S)) == told(cut.close(200 * S)) == expected


def test_what_comes_for_a_closed_minute_changes_nothing() -> None:
    minutes = Minutes()
    minutes.add(1)
    one = np.zeros(1, np.int32)
    minutes.take(one, np.array([10 * S]), np.array([1.0]))
    assert len(minutes.close(MINUTE_NS - 1).series) == 0
    assert told(minutes.close(MINUTE_NS)) == [(0, 0, (1.0).hex(), 1, (1.0).hex())]
    before = minutes.save()
    minutes.take(one, np.array([20 * S]), np.array([5.0]))
    minutes.take(np.zeros(2, np.int32), np.array([30, 40]) * S, np.ones(2))
    assert minutes.save() == before
    minutes.take(one, np.array([61 * S]), np.array([7.0]))
    assert told(minutes.close(2 * MINUTE_NS)) == [(0, MINUTE_NS, (7.0).hex(), 1, (7.0).hex())]


def test_memory_is_bounded_where_nothing_is_ever_closed() -> None:
    minutes = Minutes()
    minutes.add(100)
    for minute in range(500):
        series = np.repeat(np.arange(100, dtype=np.int32), 2)
        minutes.take(series, minute * MINUTE_NS + np.tile([1, 2], 100) * S, np.ones(200))
    assert sum(len(cells.series) for cells in minutes._waiting) < 100 * 64 + 4096 + 400
    closed = minutes.close(10**18)
    assert np.bincount(closed.series).tolist() == [64] * 100
    assert closed.start_ns.max() == 63 * MINUTE_NS


def test_series_can_be_added_at_any_time() -> None:
    minutes = Minutes()
    for second, count in enumerate((1, 70, 200)):
        minutes.add(count)
        series = np.arange(len(minutes), dtype=np.int32)
        minutes.take(series, np.full(len(minutes), second * S), np.ones(len(minutes)))
    assert minutes.close(10**12).readings.tolist() == [3] + [2] * 70 + [1] * 200


@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_damaged_minutes_are_refused(damage: str) -> None:
    minutes = Minutes()
    minutes.add(3)
    data = minutes.save()
    wrong = {"cut": data[:-1], "flipped": data[:-1] + bytes([data[-1] ^ 1]), "other": b"rubbish"}
    with pytest.raises(StateError):
        Minutes.load(wrong[damage])


RULES = st.builds(
    lambda within, after, close, rest: Rule(min(after, within), within, close, rest * 60 * S),
    st.integers(1, 10),
    st.integers(1, 10),
    st.integers(1, 8),
    st.integers(0, 20),
)
MINUTE = st.tuples(st.sampled_from([1, 1, 1, 5, 200]), st.booleans(), st.booleans())


@given(RULES, st.lists(st.lists(MINUTE, min_size=4, max_size=4), max_size=80))
@settings(deadline=None, max_examples=200)
def test_alerts_open_and_close_as_those_of_their_twin(
    rule: Rule, minutes: list[list[tuple[int, bool, bool]]]
) -> None:
    state = episodes.new_state(4)
    twins = [naive_stage.Episode(rule) for _ in range(4)]
    now = np.zeros(4, np.int64)
    for row in minutes:
        now += [60 * S * step for step, _, _ in row]
        judged = np.array([one for _, one, _ in row])
        speaks = np.array([one for _, _, one in row]) & judged
        flips = episodes.step(state, now.copy(), judged, speaks, rule)
        expected = {
            place: flip
            for place, twin in enumerate(twins)
            if (flip := twin.step(int(now[place]), bool(judged[place]), bool(speaks[place])))
        }
        found = {}
        if flips is not None:
            pairs = zip(flips.opened.tolist(), flips.opened_ns.tolist(), strict=True)
            found = dict(zip(flips.place.tolist(), pairs, strict=True))
        assert found == expected
        assert (state.opened_ns != NEVER).tolist() == [one.opened_ns != NEVER for one in twins]


@pytest.mark.parametrize("wrong", [(0, 1, 1), (2, 1, 1), (1, 64, 1), (1, 1, 0), (1, 1, 64)])
def test_rules_that_cannot_be_followed_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be asked for"):
        Rule(*wrong)

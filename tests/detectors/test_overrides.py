"""A suite in which series have thresholds of their own, beside suites of one kind each."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detectors import Limits, Suite, SuiteConfig, Terms
from tests.detectors.strategies import SERIES, Stream, limits, splits, streams
from tests.detectors.test_properties import (
    COLUMNS,
    EAGER,
    RELAXED,
    RETURNS,
    TRANSITIONS,
    assert_same,
    fresh_suite,
    judged,
)

SHY = SuiteConfig(
    warm_up=8,
    city_open_spreads=2.5,
    city_close_spreads=2.0,
    city_open_after=2,
    city_rest_s=20.0,
    health_open_after=1,
    close_after=2,
    flatline_chance=1e-2,
    repeat_memory=20,
    silence_floor_s=5.0,
    silence_factor=2.0,
)
# What is no threshold of a series is the same in all of them.
assert (SHY.repeat_memory, SHY.city_rest_s) == (EAGER.repeat_memory, EAGER.city_rest_s)
KINDS = (EAGER, SHY)


def mixed(kinds: list[int]) -> Suite:
    suite = fresh_suite(EAGER)
    suite.judge_by(EAGER, Terms.of(EAGER), columns(kinds))
    return suite


def columns(kinds: list[int]) -> dict[str, np.ndarray]:
    return {
        name: np.array([float(getattr(KINDS[kind], name)) for kind in kinds])
        for name in Terms._fields
    }


KIND = st.lists(st.integers(0, 1), min_size=SERIES, max_size=SERIES)


@RELAXED
@given(stream=streams(), kinds=KIND)
def test_each_series_is_judged_by_its_own(stream: Stream, kinds: list[int]) -> None:
    count = len(stream[0])
    found = judged(mixed(kinds), stream, [0, count])
    of_kind = np.array(kinds)
    for kind, config in enumerate(KINDS):
        alone = judged(fresh_suite(config), stream, [0, count])
        rows = of_kind[stream[0]] == kind
        for name in COLUMNS:
            assert found[name][rows].tobytes() == alone[name][rows].tobytes(), name
        for prefix, names in (("", TRANSITIONS), ("back_", RETURNS)):
            ours, theirs = (of_kind[one[f"{prefix}series"]] == kind for one in (found, alone))
            for name in names:
                key = f"{prefix}{name}"
                assert found[key][ours].tolist() == alone[key][theirs].tolist(), key


@RELAXED
@given(data=st.data(), stream=streams(), kinds=KIND)
def test_any_split_into_batches_gives_the_same_bits(
    data: st.DataObject, stream: Stream, kinds: list[int]
) -> None:
    whole, pieces = mixed(kinds), mixed(kinds)
    count = len(stream[0])
    assert_same(judged(whole, stream, [0, count]), judged(pieces, stream, data.draw(splits(count))))
    assert whole.save() == pieces.save()


@RELAXED
@given(data=st.data(), stream=streams(), kinds=KIND)
def test_other_thresholds_hold_from_there_on(
    data: st.DataObject, stream: Stream, kinds: list[int]
) -> None:
    """As if the suite had been saved, and loaded with them."""
    count = len(stream[0])
    cut = data.draw(st.integers(0, count))
    # One each, because saving could tidy up what the suite must tidy up by itself.
    saved, changed, suite = mixed(kinds), mixed(kinds), mixed(kinds)
    for one in (saved, changed, suite):
        judged(one, stream, [0, cut])
    other = Suite.load(saved.save(), SHY)
    for one in (changed, suite):
        one.judge_by(SHY, Terms.of(SHY))
    assert changed.save() == other.save()
    rest = [cut, count]
    assert_same(judged(suite, stream, rest), judged(other, stream, rest))
    mark_ns = 10**18
    assert suite.silences(mark_ns).series.tolist() == other.silences(mark_ns).series.tolist()
    assert suite.save() == other.save()


@RELAXED
@given(stream=streams(), kinds=KIND)
def test_silences_are_judged_by_each_series_own(stream: Stream, kinds: list[int]) -> None:
    count = len(stream[0])
    suite = mixed(kinds)
    judged(suite, stream, [0, count])
    mark_ns = int(stream[4][-1]) + 8 * 10**9 if count else 0
    alone = []
    for config in KINDS:
        one = Suite.load(suite.save(), config)
        alone.append(set(one.silences(mark_ns).series.tolist()))
    found = set(suite.silences(mark_ns).series.tolist())
    assert found == {one for one in alone[0] | alone[1] if one in alone[kinds[one]]}


@RELAXED
@given(data=st.data(), stream=streams())
def test_other_limits_are_those_of_a_series_that_was_added_with_them(
    data: st.DataObject, stream: Stream
) -> None:
    count = len(stream[0])
    some = np.array(sorted(data.draw(st.sets(st.integers(0, SERIES - 1)))), np.intp)
    old = limits()
    low, high, max_rate = old.low.copy(), old.high.copy(), old.max_rate.copy()
    low[some], high[some], max_rate[some] = -0.4, 0.9, 0.7
    wanted = Suite(EAGER)
    wanted.add(Limits(low, high, max_rate, old.state, old.period_s))
    suite = fresh_suite(EAGER)
    suite.limit(some, Limits(low[some], high[some], max_rate[some]))
    assert suite.save() == wanted.save()
    assert_same(judged(suite, stream, [0, count]), judged(wanted, stream, [0, count]))


@RELAXED
@given(stream=streams())
def test_what_is_switched_off_opens_nothing(stream: Stream) -> None:
    """The thresholds that `Terms` allows beyond what a configuration may have."""
    never = np.full(SERIES, np.inf)
    suite = fresh_suite(SHY)
    off = {
        "city_open_after": never,
        "flatline_chance": np.zeros(SERIES),
        "silence_floor_s": never,
    }
    suite.judge_by(SHY, Terms.of(SHY), off)
    suite.limit(np.arange(SERIES), Limits(-never, never, never))
    bounds = [*range(0, len(stream[0]), 50), len(stream[0])]
    for start, stop in pairwise(bounds):
        verdicts = suite.step(*(column[start:stop] for column in stream))
        # Only what came flagged, or is no number, is left.
        bad = (stream[3][start:stop] >= 3) | ~(np.abs(stream[2][start:stop]) <= 1e150)
        assert bad[verdicts.transitions.row[verdicts.transitions.opened]].all()
    assert not len(suite.silences(10**18))

"""What must hold for every stream: the twin agrees, and batches do not matter."""

import math
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detectors import CATEGORY_NAMES, KIND_NAMES, NEVER, Suite, SuiteConfig
from detectors.one import One
from detectors.settled import Look, look
from detectors.table import Columns
from tests.detectors.naive import NaiveSuite, t_tail
from tests.detectors.strategies import SERIES, STATE, Stream, limits, splits, streams

Found = dict[str, NDArray[Any]]
COLUMNS = ("fresh", "late", "quality", "score", "expected", "band")
RETURNS = ("row", "series", "category", "opened_ns")
TRANSITIONS = ("row", "series", "category", "kind", "opened", "opened_ns")
# Quick thresholds, so that streams of a few hundred rows reach every state.
EAGER = SuiteConfig(
    warm_up=5,
    city_open_spreads=2.0,
    city_close_spreads=1.5,
    city_rest_s=20.0,
    flatline_chance=1e-3,
    repeat_memory=20,
)
CONFIGS = st.sampled_from([SuiteConfig(), EAGER])
RELAXED = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def fresh_suite(config: SuiteConfig, count: int = SERIES) -> Suite:
    suite = Suite(config)
    suite.add(limits(count))
    return suite


def judged(suite: Suite, stream: Sequence[NDArray[Any]], cuts: list[int]) -> Found:
    """Feed a stream in batches; return its verdicts as one dict of bytes-comparable columns."""
    parts = []
    for start, stop in pairwise(cuts):
        verdicts = suite.step(*(column[start:stop] for column in stream))
        part = {name: getattr(verdicts, name) for name in COLUMNS}
        part |= {name: getattr(verdicts.transitions, name) for name in TRANSITIONS}
        part["row"] = part["row"] + start
        part |= {f"back_{name}": getattr(verdicts.returns, name) for name in RETURNS}
        part["back_row"] = part["back_row"] + start
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_same(one: Found, other: Found) -> None:
    for name in COLUMNS + TRANSITIONS:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].tobytes() == other[name].tobytes(), name


def add_all(naive: NaiveSuite) -> None:
    wanted = limits()
    columns = (wanted.low, wanted.high, wanted.max_rate, wanted.period_s)
    for low, high, max_rate, period_s, state in zip(*columns, wanted.state, strict=True):
        naive.add(float(low), float(high), float(max_rate), bool(state), float(period_s))


@RELAXED
@given(stream=streams(), config=CONFIGS)
def test_agrees_with_the_naive_twin(stream: Stream, config: SuiteConfig) -> None:
    suite, naive = fresh_suite(config), NaiveSuite(config)
    add_all(naive)
    found = judged(suite, stream, [0, len(stream[0])])
    seen = iter(zip(*(found[name].tolist() for name in TRANSITIONS), strict=True))
    for row, (series, time_ns, value, given_flag, mark) in enumerate(
        zip(*(column.tolist() for column in stream), strict=True)
    ):
        late = naive.late(series, time_ns, None if mark == NEVER else mark)
        fresh, quality, z, expected, band, changes = naive.read(
            series, time_ns, value, given_flag, late
        )
        if not (STATE[series] and not fresh):
            assert found["late"][row] == late
        # Flags and transitions must be exact. The numbers may differ in the last digits only:
        # the two sum up in another order.
        assert (found["fresh"][row], found["quality"][row]) == (fresh, quality)
        for name, number in (("expected", expected), ("band", band)):
            wanted_number = math.nan if number is None else number
            assert found[name][row] == pytest.approx(
                wanted_number, rel=1e-11, abs=1e-12, nan_ok=True
            )
        if z is None:
            assert math.isnan(found["score"][row])
        elif z < 100:
            assert found["score"][row] == pytest.approx(-math.log10(t_tail(z)), rel=1e-4, abs=1e-9)
        for category, kind, opened, opened_ns in changes:
            at, number, category_code, kind_code, *rest = next(seen)
            assert (at, number, rest) == (row, series, [opened, opened_ns])
            assert CATEGORY_NAMES[category_code].endswith(category)
            assert KIND_NAMES[kind_code] == kind
    assert next(seen, None) is None


@RELAXED
@given(data=st.data(), stream=streams(), config=CONFIGS)
def test_any_split_into_batches_gives_the_same_bits(
    data: st.DataObject, stream: Stream, config: SuiteConfig
) -> None:
    count = len(stream[0])
    whole, pieces = fresh_suite(config), fresh_suite(config)
    cuts = data.draw(splits(count))
    assert_same(judged(whole, stream, [0, count]), judged(pieces, stream, cuts))
    assert whole.save() == pieces.save()


@settings(RELAXED, max_examples=15)
@given(stream=streams(max_rows=120), config=CONFIGS)
def test_one_by_one_gives_the_same_bits(stream: Stream, config: SuiteConfig) -> None:
    count = len(stream[0])
    whole, single = fresh_suite(config), fresh_suite(config)
    cuts = [0, count] if count == 0 else list(range(count + 1))
    assert_same(judged(whole, stream, [0, count]), judged(single, stream, cuts))
    assert whole.save() == single.save()


@RELAXED
@given(stream=streams(), config=CONFIGS, seed=st.integers(0, 2**32 - 1))
def test_the_order_across_series_does_not_matter(
    stream: Stream, config: SuiteConfig, seed: int
) -> None:
    count = len(stream[0])
    # A random interleaving that keeps the order within each series.
    shuffled = np.random.default_rng(seed).permutation(stream[0])
    order = np.empty(count, np.intp)
    for series in range(SERIES):
        order[shuffled == series] = np.flatnonzero(stream[0] == series)
    one, other = fresh_suite(config), fresh_suite(config)
    plain = judged(one, stream, [0, count])
    mixed = judged(other, [column[order] for column in stream], [0, count])
    assert one.save() == other.save()
    for name in COLUMNS:
        assert plain[name][order].tobytes() == mixed[name].tobytes()

    def listed(found: Found, rows: NDArray[np.intp]) -> list[tuple[int, ...]]:
        names = TRANSITIONS[1:]
        return sorted(
            (int(rows[row]), *rest)
            for row, *rest in zip(
                found["row"].tolist(), *(found[name].tolist() for name in names), strict=True
            )
        )

    assert listed(plain, np.arange(count)) == listed(mixed, order)


@RELAXED
@given(data=st.data(), stream=streams(), config=CONFIGS)
def test_the_future_changes_nothing(
    data: st.DataObject, stream: Stream, config: SuiteConfig
) -> None:
    count = len(stream[0])
    cut = data.draw(st.integers(0, count))
    whole = judged(fresh_suite(config), stream, [0, count])
    prefix = judged(fresh_suite(config), [column[:cut] for column in stream], [0, cut])
    for name in COLUMNS:
        assert whole[name][:cut].tobytes() == prefix[name].tobytes()
    early = whole["row"] < cut
    for name in TRANSITIONS:
        assert whole[name][early].tobytes() == prefix[name].tobytes()


@RELAXED
@given(data=st.data(), stream=streams(), config=CONFIGS)
def test_save_and_load_in_the_middle_gives_the_same_bits(
    data: st.DataObject, stream: Stream, config: SuiteConfig
) -> None:
    count = len(stream[0])
    cut = data.draw(st.integers(0, count))
    whole, before = fresh_suite(config), fresh_suite(config)
    wanted = judged(whole, stream, [0, cut, count])
    judged(before, stream, [0, cut])
    saved = before.save()
    after = Suite.load(saved, config)
    assert after.save() == saved
    found = judged(after, [column[cut:] for column in stream], [0, count - cut])
    for name in COLUMNS:
        assert wanted[name][cut:].tobytes() == found[name].tobytes()
    assert whole.save() == after.save()


@RELAXED
@given(stream=streams(), more=st.integers(1, 200), config=CONFIGS)
def test_new_series_in_the_middle_change_nothing_for_the_old(
    stream: Stream, more: int, config: SuiteConfig
) -> None:
    count = len(stream[0])
    cut = count // 2
    whole, grown = fresh_suite(config), fresh_suite(config)
    wanted = judged(whole, stream, [0, count])
    first = judged(grown, [column[:cut] for column in stream], [0, cut])
    grown.add(limits(more))
    assert len(grown) == SERIES + more
    second = judged(grown, [column[cut:] for column in stream], [0, count - cut])
    for name in COLUMNS:
        both = np.concatenate((first[name], second[name]))
        assert wanted[name].tobytes() == both.tobytes()


@RELAXED
@given(stream=streams(), config=CONFIGS)
def test_rows_that_are_not_fresh_change_nothing(stream: Stream, config: SuiteConfig) -> None:
    count = len(stream[0])
    whole, only_fresh = fresh_suite(config), fresh_suite(config)
    found = judged(whole, stream, [0, count])
    keep = found["fresh"]
    newest = {}
    for row, (series, time_ns) in enumerate(
        zip(stream[0].tolist(), stream[1].tolist(), strict=True)
    ):
        assert keep[row] == (time_ns > newest.get(series, -math.inf))
        newest[series] = max(time_ns, newest.get(series, time_ns))
    kept = [column[keep] for column in stream]
    again = judged(only_fresh, kept, [0, int(keep.sum())])
    assert whole.save() == only_fresh.save()
    assert np.isnan(found["score"][~keep]).all()
    assert np.isnan(found["expected"][~keep]).all()
    for name in COLUMNS:
        assert found[name][keep].tobytes() == again[name].tobytes()


@RELAXED
@given(stream=streams(), config=CONFIGS)
def test_verdicts_are_sane_whatever_comes(stream: Stream, config: SuiteConfig) -> None:
    suite = fresh_suite(config)
    found = judged(suite, stream, [0, len(stream[0])])
    assert not np.isinf(found["score"]).any()
    assert (found["score"][~np.isnan(found["score"])] >= 0).all()
    assert np.isfinite(found["expected"]).tolist() == np.isfinite(found["band"]).tolist()
    assert (found["quality"] >= stream[3]).all()
    assert np.isnan(found["score"][found["quality"] >= 3]).all()
    state = STATE[stream[0]]
    for name in ("score", "expected", "band"):
        assert np.isnan(found[name][state]).all()
    # What a state reports is neither stuck nor too fast: nothing but a bad flag or its range.
    assert {KIND_NAMES[kind] for kind in found["kind"][STATE[found["series"]]]} <= {
        "range", "reported",
    }  # fmt: skip
    inputs = [np.array(column) for column in stream]
    suite.step(*stream)
    for column, before in zip(stream, inputs, strict=True):
        assert column.tobytes() == before.tobytes()


@RELAXED
@given(stream=streams(), config=CONFIGS)
def test_a_states_health_alert_is_open_exactly_while_its_last_fresh_reading_is_bad(
    stream: Stream, config: SuiteConfig
) -> None:
    found = judged(fresh_suite(config), stream, [0, len(stream[0])])
    wanted, bad_before = [], dict.fromkeys(np.flatnonzero(STATE).tolist(), False)
    assert not found["late"][found["fresh"] & STATE[stream[0]]].any()
    fresh_states = found["fresh"] & STATE[stream[0]]
    for row in np.flatnonzero(fresh_states).tolist():
        series, bad = int(stream[0][row]), bool(found["quality"][row] >= 3)
        if bad != bad_before[series]:
            wanted.append((row, CATEGORY_NAMES.index("sensor-health"), bad))
        bad_before[series] = bad
    of_states = STATE[found["series"]]
    moves = (found[name][of_states].tolist() for name in ("row", "category", "opened"))
    assert list(zip(*moves, strict=True)) == wanted


@RELAXED
@given(stream=streams(max_rows=800, series=2), config=CONFIGS)
def test_one_alert_is_open_at_a_time_and_closes_as_it_opened(
    stream: Stream, config: SuiteConfig
) -> None:
    found = judged(fresh_suite(config), stream, [0, len(stream[0])])
    is_open = {}
    assert (np.diff(found["row"]) >= 0).all()
    for row, series, category, kind, opened, opened_ns in zip(
        *(found[name].tolist() for name in TRANSITIONS), strict=True
    ):
        assert series == stream[0][row]
        if opened:
            assert (series, category) not in is_open
            assert opened_ns == stream[1][row]
            is_open[series, category] = (kind, opened_ns)
        else:
            assert is_open.pop((series, category)) == (kind, opened_ns)
            assert found["quality"][row] < 3


@RELAXED
@given(
    stream=streams(), config=CONFIGS, data=st.data(), few=st.sampled_from([0, 2, 1000]),
    has_short_way=st.booleans(),
)  # fmt: skip
def test_every_way_gives_the_same_bits(
    stream: Stream, config: SuiteConfig, data: st.DataObject, few: int, has_short_way: bool
) -> None:
    """Vectors in the short way or the general one, and series by series in plain numbers."""
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(stream[0])), max_size=6)))]
    cuts.append(len(stream[0]))
    one, other = fresh_suite(config), fresh_suite(config)
    found = judged(one, stream, cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detectors.suite.FEW", few)
        patch.setattr("detectors.waves.FEW", few)
        if not has_short_way:
            patch.setattr("detectors.suite.look", nobody_is_plain)
        assert_same(found, judged(other, stream, cuts))
    assert one.save() == other.save()


def test_one_series_holds_what_the_columns_hold() -> None:
    assert [field.name for field in fields(One)] == list(Columns._fields)


def nobody_is_plain(*args: Any) -> Look:
    seen = look(*args)
    return seen._replace(plain=np.zeros_like(seen.plain), odd=len(seen.plain))


def test_streams_go_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []

    def counting(*args: Any) -> Look:
        seen = look(*args)
        counts.append((len(seen.plain) - seen.odd, seen.odd, len(seen.same)))
        return seen

    monkeypatch.setattr("detectors.suite.look", counting)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        suite = Suite(SuiteConfig(warm_up=5))
        suite.add(limits())
        count = 3000
        suite.step(
            rng.integers(0, SERIES, count).astype(np.int32),
            np.arange(1, count + 1) * 10**9,
            np.round(rng.normal(0.5, 0.1, count), 1),
            rng.choice([1, 1, 1, 3], count).astype(np.uint8),
        )
    assert sum(plain for plain, _, _ in counts) > 1000
    assert any(plain and odd for plain, odd, _ in counts)
    assert any(plain and same for plain, _, same in counts)

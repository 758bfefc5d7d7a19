"""Thresholds of single series: columns that cost nothing where nobody has his own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.config import SuiteConfig
from detectors.terms import Terms, TermTable

SHARED = Terms.of(SuiteConfig())
NAMES = st.sampled_from(Terms._fields)


def test_what_all_share_is_gathered_for_nobody() -> None:
    table = TermTable(SHARED)
    table.add(1000)
    assert len(table) == 1000
    assert table.of(np.arange(1000)) == table.whole() == table.one(7) == SHARED
    assert all(np.ndim(term) == 0 for term in table.of(np.arange(1000)))


def test_only_what_differs_is_a_column() -> None:
    table = TermTable(SHARED)
    table.add(2)
    table.add(2, {"warm_up": np.array([5.0, 20.0])})
    table.add(1)
    terms = table.of(np.array([2, 0, 4, 3]))
    assert table.one(2) == SHARED._replace(warm_up=5.0)
    assert np.asarray(terms.warm_up).tolist() == [5.0, 20.0, 20.0, 20.0]
    assert terms._replace(warm_up=0.0) == SHARED._replace(warm_up=0.0)
    first = terms.part(slice(0, 1))
    assert np.asarray(first.warm_up).tolist() == [5.0]
    assert np.shares_memory(np.asarray(first.warm_up), np.asarray(terms.warm_up))
    assert np.asarray(terms.part(np.array([3, 0])).warm_up).tolist() == [20.0, 5.0]


@given(
    parts=st.lists(
        st.tuples(st.integers(0, 4), st.dictionaries(NAMES, st.floats(0.0, 100.0), max_size=3)),
        max_size=6,
    )
)
def test_however_series_came_each_has_what_was_said_of_it(
    parts: list[tuple[int, dict[str, float]]],
) -> None:
    table = TermTable(SHARED)
    wanted: list[Terms] = []
    for count, own in parts:
        table.add(count, {name: np.full(count, value) for name, value in own.items()})
        wanted += [SHARED._replace(**own)] * count
    assert len(table) == len(wanted)
    for series in (np.arange(len(wanted)), np.arange(len(wanted))[::-1]):
        found = table.of(series)
        for name in Terms._fields:
            column = np.broadcast_to(getattr(found, name), len(series))
            assert column.tolist() == [getattr(wanted[number], name) for number in series]


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"level_weight": np.ones(3)}, "not a threshold of a series: level_weight"),
        ({"warm_up": np.ones(2)}, r"warm_up: 3 series, a column of shape \(2,\)"),
    ],
)
def test_what_fits_no_series_is_refused(columns: dict[str, np.ndarray], fault: str) -> None:
    table = TermTable(SHARED)
    with pytest.raises(ValueError, match=fault):
        table.add(3, columns)
    assert len(table) == 0

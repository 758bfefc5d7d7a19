from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paging.matching import LABELS, Match, globbed, read_match, written

LABELLED = {
    "severity": "major",
    "category": "city",
    "kind": "level",
    "zone": "harbour",
    "domain": "traffic",
    "sensor": "traffic-0042",
    "quantity": "intensity",
}


def match_of(**values: Any) -> Match:
    faults: list[str] = []
    match = read_match(values, "match", faults)
    assert faults == []
    return match


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"zone": "harbour"},
        {"zone": "harb*"},
        {"zone": ["station", "harbour"]},
        {"zone": "!station"},
        {"zone": ["h*", "!hospital"], "severity": ["major", "critical"]},
        {"sensor": "traffic-00??"},
    ],
)
def test_what_a_match_covers(values: dict[str, Any]) -> None:
    assert match_of(**values).covers(LABELLED)


@pytest.mark.parametrize(
    "values",
    [
        {"zone": "Harbour"},
        {"zone": "harb"},
        {"zone": "arbour*"},
        {"zone": "!harb*"},
        {"zone": "harbour", "severity": "critical"},
        {"sensor": "traffic-00?"},
        {"sensor": "traffic.0042"},
    ],
)
def test_what_a_match_does_not_cover(values: dict[str, Any]) -> None:
    assert not match_of(**values).covers(LABELLED)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ("zone", "match: a table of labels is expected"),
        ({"zoen": "harbour"}, "match.zoen: no such label; there are severity, "),
        ({"severity": "fatal"}, "match.severity: 'fatal' is none of informational, "),
        ({"zone": []}, "match.zone: a text or a list of texts is expected"),
        ({"zone": 7}, "match.zone: a text or a list of texts is expected"),
        ({"zone": "!"}, "match.zone: a text or a list of texts is expected"),
    ],
)
def test_what_is_wrong_with_a_match_is_said(values: Any, fault: str) -> None:
    faults: list[str] = []
    read_match(values, "match", faults)
    assert len(faults) == 1
    assert faults[0].startswith(fault)


def fits(pattern: str, value: str) -> bool:
    """Say the same letter by letter, the slow and obvious way."""
    if not pattern:
        return not value
    if pattern[0] == "*":
        return any(fits(pattern[1:], value[at:]) for at in range(len(value) + 1))
    return bool(value) and pattern[0] in ("?", value[0]) and fits(pattern[1:], value[1:])


@given(st.text(alphabet="ab.*?", min_size=1, max_size=8), st.text(alphabet="ab.\n", max_size=8))
def test_a_glob_takes_what_it_says_letter_by_letter(pattern: str, value: str) -> None:
    assert bool(globbed((pattern,)).fullmatch(value)) == fits(pattern, value)


def test_no_glob_costs_much_more_than_it_is_long() -> None:
    """Going back at each wildcard makes it a hundred times as much, and at eight of them hang."""

    def cost_s(wildcards: int) -> float:
        pattern = globbed(("*?" * wildcards + "*!x",))
        times = []
        for _ in range(5):
            began = perf_counter()
            for _ in range(10):
                pattern.fullmatch("urn:ngsi-ld:TrafficFlowObserved:loop-17")
            times.append(perf_counter() - began)
        return min(times)

    assert cost_s(4) < 20 * cost_s(2)


patterns = st.text(alphabet="ab*?", min_size=1, max_size=4)
values_of = st.lists(st.one_of(patterns, patterns.map("!".__add__)), min_size=1, max_size=3)
matches = st.dictionaries(st.sampled_from(["zone", "kind"]), values_of, max_size=2)


@given(matches)
def test_a_match_comes_back_as_it_was_written(values: dict[str, Any]) -> None:
    match = match_of(**values)
    assert match_of(**written(match)) == match


def test_these_alerts_have_every_label() -> None:
    assert set(LABELS) == set(LABELLED)

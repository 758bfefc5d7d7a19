"""What comparing one match may cost, which somebody waits for."""

import pytest

from paging import reach
from paging.matching import LABELS, read_match

FREE = [label for label in LABELS if label not in ("severity", "category")]
# Takes all, and that takes thousands of sets of places to see.
HARD = ["*", f"*a{'?' * 11}"]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what is looked at."""
    steps: list[int] = []
    after = reach._after

    def counted(patterns: list[str], places: reach.Places, letter: str) -> object:
        steps.append(len(places))
        return after(patterns, places, letter)

    monkeypatch.setattr(reach, "_after", counted)
    return steps


@pytest.mark.parametrize("hard", range(1, len(FREE) + 1))
def test_a_match_costs_no_more_for_having_many_labels(hard: int, steps: list[int]) -> None:
    match = read_match(dict.fromkeys(FREE[:hard], HARD), "match", [])
    assert reach.is_everything(match)
    assert 10_000 < sum(steps) <= 100_000


def test_one_label_that_leaves_something_is_enough(steps: list[int]) -> None:
    """However hard the others are, so that they cannot be told."""
    match = read_match({**dict.fromkeys(FREE[:4], HARD), FREE[4]: "x"}, "match", [])
    assert not reach.is_everything(match)
    assert sum(steps) <= 100_000

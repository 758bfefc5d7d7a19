from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paging.backoff import backoff_s


class Highest(Random):
    def uniform(self, _a: float, b: float) -> float:
        return b


@pytest.mark.parametrize(
    ("attempt", "bound"), [(1, 0.5), (2, 1.0), (3, 2.0), (7, 32.0), (8, 60.0), (10_000, 60.0)]
)
def test_the_bound_doubles_up_to_the_cap(attempt: int, bound: float) -> None:
    assert backoff_s(attempt, base_s=0.5, cap_s=60.0, random=Highest()) == bound


@given(st.integers(-5, 10**6), st.floats(1e-3, 10), st.floats(1e-3, 1e4), st.randoms())
def test_the_wait_is_never_negative_and_never_past_the_cap(
    attempt: int, base_s: float, cap_s: float, random: Random
) -> None:
    assert 0 <= backoff_s(attempt, base_s=base_s, cap_s=cap_s, random=random) <= cap_s


def test_the_jitter_is_full() -> None:
    random = Random(7)
    waits = [backoff_s(20, base_s=0.5, cap_s=60.0, random=random) for _ in range(1_000)]
    assert min(waits) < 1
    assert max(waits) > 59
    assert 27 < sum(waits) / len(waits) < 33

"""Streams that bring out every branch: freezes, jumps, states, bad flags, late and equal times."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from detectors import NEVER, Limits

SERIES = 7
STATE = np.array([False, True, False, False, True, False, False])
PERIOD_S = np.array([1.0, np.inf, 60.0, 0.1, np.inf, 1.0, 3.0])
Stream = tuple[
    NDArray[np.int32],
    NDArray[np.int64],
    NDArray[np.float64],
    NDArray[np.uint8],
    NDArray[np.int64],
]


def limits(count: int = SERIES) -> Limits:
    """Series differ in range and rate limit; one has none at all.

    Of the two states a 1 is bad for the first only, and the second has a rate limit to ignore.
    """
    low = np.array([-50.0, 0.0, 0.0, -np.inf, 0.0, 0.0, -1000.0])
    high = np.array([50.0, 0.0, 1.0, np.inf, 1.0, 20.0, 1000.0])
    max_rate = np.array([2.0, np.inf, 0.05, np.inf, 0.001, np.inf, 5.0])
    pick = np.arange(count) % SERIES
    return Limits(low[pick], high[pick], max_rate[pick], STATE[pick], PERIOD_S[pick])


@st.composite
def streams(draw: st.DrawFn, max_rows: int = 500, series: int = SERIES) -> Stream:
    """Columns (series, time_ns, value, quality, watermark_ns) of one stream."""
    count = draw(st.integers(0, max_rows))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    odd = draw(st.sampled_from([0.0, 0.02, 0.2]))
    weights = rng.random(series) ** draw(st.sampled_from([0, 4])) + 1e-3
    which = rng.choice(series, count, p=weights / weights.sum()).astype(np.int32)
    step = rng.choice([10**9, 10**8, 60 * 10**9])
    time_ns = np.arange(1, count + 1) * step + draw(st.sampled_from([0, 10**18, -(10**11)]))
    if draw(st.booleans()):
        time_ns[rng.integers(0, count + 1) :] += 3 * 3600 * 10**9  # long silence
    late = rng.random(count) < odd
    time_ns[late] -= rng.choice([0, step, 3 * step, 400 * step], late.sum())
    scale = rng.choice([0.01, 0.3, 5.0])
    value = rng.normal(0.5, scale, count)
    if draw(st.booleans()):
        value = np.round(value, 1)
    state = STATE[which]
    value[state] = rng.random(state.sum()) < draw(st.sampled_from([0.03, 0.5]))
    # Stretches where a value stands still, or everything is shifted.
    for _ in range(draw(st.integers(0, 4))):
        start = rng.integers(0, max(count, 1))
        stretch = slice(start, start + rng.integers(1, 150))
        if rng.random() < 0.5:
            value[stretch] = rng.choice([0.5, 0.0, -0.0, 1e6])
        else:
            value[stretch] += rng.choice([3.0, 40.0, 1e3]) * scale
    strange = rng.random(count) < odd
    value[strange] = rng.choice(
        [np.nan, np.inf, -np.inf, 1e300, -1e149, 5e-324, 0.0, 30.0], strange.sum()
    )
    quality = np.ones(count, np.uint8)
    flagged = rng.random(count) < odd
    quality[flagged] = rng.choice([0, 2, 3, 4, 9], flagged.sum())
    time_ns = time_ns.astype(np.int64)
    return which, time_ns, value, quality, _watermarks(draw, rng, time_ns, int(step))


def _watermarks(
    draw: st.DrawFn, rng: np.random.Generator, time_ns: NDArray[np.int64], step: int
) -> NDArray[np.int64]:
    """Rise with the stream, at the beginnings of messages only, at times ahead of it."""
    count = len(time_ns)
    watermark_ns = np.full(count, NEVER)
    if not count or draw(st.booleans()):
        return watermark_ns
    starts = rng.random(count) < draw(st.sampled_from([1.0, 0.1]))
    starts[0] = True
    newest = np.maximum.accumulate(time_ns)
    before = np.concatenate(([NEVER], newest[:-1]))
    ahead = draw(st.sampled_from([0, step, 1000 * step, -step]))
    before[1:] += np.where(rng.random(count - 1) < 0.1, ahead, 0)
    before = np.maximum.accumulate(before)
    message = np.cumsum(starts) - 1
    return before[np.flatnonzero(starts)][message]


@st.composite
def splits(draw: st.DrawFn, count: int) -> list[int]:
    """Places to cut `count` rows into batches."""
    cuts = draw(st.lists(st.integers(0, count), max_size=8))
    return [0, *sorted(cuts), count]

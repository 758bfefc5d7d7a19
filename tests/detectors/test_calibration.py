"""Scores on one scale: a slow twin, no look-ahead, and rates that are what they say."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detectors import calibration
from detectors.calibration import SPEAKS_FROM, State
from detectors.tail import tail_score

S = 10**9
MINUTE = 60 * S
HOUR = 3600 * S
SERIES = 5
RELAXED = settings(deadline=None, max_examples=20)
SEEDS = st.integers(0, 2**32 - 1)
Floats = NDArray[np.float64]


@dataclass
class Naive:
    """One series, all its hours kept."""

    speaks_from: float
    hours: list[list[float]] = field(default_factory=list)
    hour: int | None = None
    learned: int = 0
    share: float = 1.0 - math.exp(-60.0 * 10**-1.5)
    excess: float = 1.0 / math.log(10.0)

    def calibrated(self, score: float) -> float:
        events = -math.log(1.0 - self.share)
        if score > 1.5:
            scale = max(self.excess, 0.1)
            return math.log10(60.0 / events) + (score - 1.5) / scale / math.log(10.0)
        return score * math.log10(60.0 / events) / 1.5

    def end_hour(self, peak: float) -> None:
        pace = 1 / 4 if self.calibrated(peak) >= self.speaks_from else 1.0
        known = min(self.learned + 24, 672)
        share = self.share
        if peak > 1.5:
            one = (peak - 1.5) / (1.0 - math.log(1.0 - share) / 4)
            lesson = min(one, 4 * self.excess)
            self.excess += (lesson - self.excess) * pace / (share * known + 5)
        share += ((peak > 1.5) - share) * pace / (known + 1)
        self.share = min(max(share, 1 / 1344), 1 - 1 / 1344)
        self.learned += 1

    def read(self, time_ns: int, score: float) -> float:
        if math.isnan(score):
            return math.nan
        hour = (time_ns - 1) // HOUR
        if hour != self.hour:
            if self.hours:
                self.end_hour(max(self.hours[-1]))
            self.hours.append([])
            self.hour = hour
        self.hours[-1].append(score)
        return self.calibrated(score)


def scores(rng: np.random.Generator, steps: int) -> tuple[NDArray[np.int64], Floats]:
    """Scores of series that differ in their tails, with gaps, runs and what is not judged."""
    pace = rng.choice([1, 7, 40]) * MINUTE
    time_ns = int(rng.choice([0, 1_700_000_000])) * S + np.cumsum(
        rng.choice([pace, pace, 3 * pace, 5 * HOUR], steps, p=[0.6, 0.3, 0.09, 0.01])
    )
    scale = rng.choice([0.1, 0.43, 1.5, 6.0], SERIES)
    found = rng.exponential(1.0, (steps, SERIES)) * scale
    held = rng.random((steps, SERIES)) < 0.3
    for row in range(1, steps):
        found[row, held[row]] = found[row - 1, held[row]]
    found[rng.random((steps, SERIES)) < 0.05] = np.nan
    return time_ns, found


def run(
    state: State, time_ns: NDArray[np.int64], found: Floats, speaks_from: Floats | float = 4.0
) -> Floats:
    with np.errstate(all="ignore"):
        told = [
            calibration.step(state, np.full(found.shape[1], now), row, speaks_from)
            for now, row in zip(time_ns, found, strict=True)
        ]
    return np.array(told)


def bits(state: State) -> list[bytes]:
    return [np.ascontiguousarray(column).tobytes() for column in state]


@RELAXED
@given(seed=SEEDS)
def test_agrees_with_its_naive_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    time_ns, found = scores(rng, 400)
    speaks_from = rng.choice([3.0, 4.0, 6.0], SERIES)
    told = run(calibration.new_state(SERIES), time_ns, found, speaks_from)
    for one in range(SERIES):
        twin = Naive(float(speaks_from[one]))
        wanted = [
            twin.read(int(now), float(score))
            for now, score in zip(time_ns, found[:, one], strict=True)
        ]
        assert told[:, one].tolist() == pytest.approx(wanted, rel=1e-9, nan_ok=True)


@RELAXED
@given(seed=SEEDS, cut=st.integers(1, 199), more=st.integers(1, 9))
def test_saved_grown_moved_and_cut_it_says_the_same_to_the_bit(
    seed: int, cut: int, more: int
) -> None:
    rng = np.random.default_rng(seed)
    time_ns, found = scores(rng, 200)
    whole = calibration.new_state(SERIES)
    wanted = run(whole, time_ns, found)
    state = calibration.new_state(SERIES)
    # The past does not know the future.
    assert run(state, time_ns[:cut], found[:cut]).tobytes() == wanted[:cut].tobytes()
    place = rng.permutation(SERIES)
    loaded = State(
        *(
            np.concatenate((np.frombuffer(column.tobytes(), column.dtype)[place], new))
            for column, new in zip(state, calibration.new_state(more), strict=True)
        )
    )
    silent = np.full((len(found) - cut, more), np.nan)
    rest = run(loaded, time_ns[cut:], np.hstack((found[cut:, place], silent)))
    assert rest[:, :SERIES].tobytes() == wanted[cut:, place].tobytes()
    assert np.isnan(rest[:, SERIES:]).all()
    moved = State(*(column[:SERIES][np.argsort(place)] for column in loaded))
    assert bits(moved) == bits(whole)
    assert bits(calibration.new_state(more)) == bits(State(*(one[SERIES:] for one in loaded)))


@RELAXED
@given(seed=SEEDS, low=st.floats(0, 300), high=st.floats(0, 300))
def test_what_is_less_probable_never_has_the_lower_score(
    seed: int, low: float, high: float
) -> None:
    time_ns, found = scores(np.random.default_rng(seed), 300)
    state = calibration.new_state(SERIES)
    run(state, time_ns, found)
    pair = [
        run(State(*(column.copy() for column in state)), time_ns[-1:], np.full((1, SERIES), one))
        for one in sorted((low, high))
    ]
    assert (pair[0] <= pair[1]).all()
    assert np.isfinite(pair).all()
    assert (pair[0] >= 0.0).all()


def test_a_new_series_has_its_nominal_scores() -> None:
    found = np.array([[0.0, 0.7, 1.5, 4.0, 20.0]])
    told = run(calibration.new_state(SERIES), np.array([MINUTE]), found)
    assert told == pytest.approx(found, rel=1e-12)


def independent(scale: Floats, days: int, seed: int = 1) -> tuple[NDArray[np.int64], Floats]:
    """Scores of minutes that are exponential, but with means of their own."""
    rng = np.random.default_rng(seed)
    minutes = days * 1440
    time_ns = (np.arange(minutes) + 1) * MINUTE
    return time_ns, rng.exponential(1.0, (minutes, len(scale))) * scale


@pytest.mark.parametrize("mean", [0.3, 0.4343, 0.6])
def test_its_rates_are_what_it_says(mean: float) -> None:
    # Nominally a mean of 0.3 passes 3 decades in one of 22,000 minutes, 0.6 in one of 150.
    time_ns, found = independent(np.full(60, mean), 14)
    told = run(calibration.new_state(60), time_ns, found)[7 * 1440 :]
    peaks = told.reshape(-1, 60, 60).max(axis=1)
    for decades in (2.0, 3.0):
        rate = -math.log1p(-(peaks >= decades).mean()) / 60
        assert -math.log10(rate) == pytest.approx(decades, abs=0.2)


def test_where_nearly_every_hour_is_above_the_threshold_it_says_less_than_is_so() -> None:
    # 19 of 100 minutes have a nominal score of 1.5, 46 of 1,000 one of 3.
    time_ns, found = independent(np.full(60, 0.9), 14)
    told = run(calibration.new_state(60), time_ns, found)[7 * 1440 :]
    for decades in (2.0, 3.0):
        rate = -math.log1p(-(told.reshape(-1, 60, 60).max(axis=1) >= decades).mean()) / 60
        assert decades - 0.1 < -math.log10(rate) < decades + 0.6


def test_scores_that_never_vary_make_no_rarity_out_of_nothing() -> None:
    same = np.array([0.0, 1.0, 1.51, 5.0])
    hours = (np.arange(60 * 24) + 1) * HOUR
    told = run(calibration.new_state(4), hours, np.tile(same, (len(hours), 1)))
    assert np.isfinite(told).all()
    # Sooner or later what is always so is nothing that speaks.
    assert (told[-1] < SPEAKS_FROM).all()


def test_a_run_of_scores_is_one_event() -> None:
    time_ns, found = independent(np.full(2, 0.2), 14)
    found[:] = np.minimum(found, 1.4)
    # Once a day: a minute, and an hour.
    day = np.arange(0, len(found), 1440)
    found[day, 0] = 2.0
    for minute in range(60):
        found[day + minute, 1] = 2.0
    told = run(calibration.new_state(2), time_ns, found)
    assert told[-1440, 0] == told[-1440, 1]


def test_an_event_does_not_teach_that_events_are_normal_but_what_lasts_is_learned() -> None:
    time_ns, found = independent(np.full(1, 0.4343), 22)
    found[14 * 1440 : 14 * 1440 + 360] = 8.0
    state = calibration.new_state(1)
    told = run(state, time_ns[: 21 * 1440], found[: 21 * 1440])
    event = told[14 * 1440 : 14 * 1440 + 360]
    assert event.min() > 6.0
    # The next one is told as well.
    again = run(State(*(one.copy() for one in state)), time_ns[21 * 1440 :][:1], np.array([[8.0]]))
    assert again.item() > 6.0
    hours = time_ns[-1] + (np.arange(60 * 24) + 1) * HOUR
    lasting = run(state, hours, np.full((len(hours), 1), 8.0))
    assert lasting[20 * 24] > SPEAKS_FROM
    assert lasting[-1] < SPEAKS_FROM


def test_its_state_is_five_columns_of_eight_bytes() -> None:
    state = calibration.new_state(3)
    assert [column.dtype for column in state] == [np.int64, *[np.float64] * 4]
    assert sum(column.nbytes for column in state) == 3 * 40


def test_scores_that_hardly_vary_are_taken_to_vary_a_little() -> None:
    """A quarter of what is nominal, or any step of them would be as rare as one likes."""
    state = calibration.new_state(2)
    state.excess[:] = 1e-6, 0.1
    hour = np.full(2, HOUR)
    first, second = calibration.step(state, hour, np.full(2, 2.5)).tolist()
    threshold, _ = calibration.step(state, hour, np.full(2, 1.5)).tolist()
    assert first == second
    # One decade above the threshold, in excesses of a tenth.
    assert first - threshold == pytest.approx(10.0 / math.log(10.0))


@RELAXED
@given(seed=SEEDS)
def test_scores_made_only_where_they_may_be_the_highest_leave_the_same_record(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dense, sparse = calibration.new_state(SERIES), calibration.new_state(SERIES)
    reach = np.full(SERIES, -np.inf)
    before = np.zeros(SERIES)
    for minute in range(1, 400):
        spreads = np.abs(rng.standard_t(2, SERIES)) * rng.choice([1e-9, 1.0, 1e60])
        # As near to each other as rounding allows, and equal.
        spreads = np.where(
            rng.random(SERIES) < 0.3, np.nextafter(before, rng.choice([0, 1e9])), spreads
        )
        before = spreads
        there = rng.random(SERIES) < 0.8
        calibration.step(
            dense, np.full(SERIES, minute * MINUTE), np.where(there, tail_score(spreads), np.nan)
        )
        hour = (minute * MINUTE - 1) // HOUR
        begun = np.flatnonzero(there & (sparse.hour != hour))
        calibration.begin_hours(sparse, begun, hour)
        reach[begun] = -np.inf
        calibration.note_spreads(sparse, reach, slice(None), there, spreads)
        assert bits(dense) == bits(sparse)

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detectors.novelty import BYTES_PER_SERIES, Novelty, NoveltyConfig
from tests.detectors.naive_novelty import NaiveNovelty

SERIES = 5
MINUTE_NS = 60_000_000_000
START_NS = 1_700_000_000_000_000_000
# Short memories and a low bar, so that few readings reach every branch.
QUICK = NoveltyConfig(warm_up=5, mute_for=4, fade_over=50.0, profile_weight=0.3, level_weight=0.2)
CONFIGS = st.sampled_from([NoveltyConfig(), QUICK])
RELAXED = settings(deadline=None, max_examples=40)

# time, value and usable of steps x series
Stream = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]


@st.composite
def streams(draw: st.DrawFn, steps: int = 80) -> Stream:
    count = draw(st.integers(0, steps))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (count, SERIES)
    gaps = rng.choice([MINUTE_NS, 31 * MINUTE_NS, 9 * 60 * MINUTE_NS], shape)
    time_ns = START_NS + np.cumsum(gaps, axis=0)
    noise = rng.choice([0.0, 1.0, 1e-9, 1e12], SERIES) * rng.normal(size=shape)
    value = rng.choice([0.0, 50.0, -3.0], SERIES) + noise
    value[rng.random(shape) < 0.05] *= 20.0
    value[rng.random(shape) < 0.05] = 0.0
    broken = rng.random(shape) < draw(st.sampled_from([0.0, 0.2]))
    value[broken] = rng.choice([np.nan, np.inf, -np.inf, 7.0], int(broken.sum()))
    return time_ns, value, ~broken


def scored(
    state: Novelty, stream: Stream, start: int = 0, stop: int | None = None
) -> NDArray[np.float64]:
    everyone = np.arange(SERIES)
    rows = [state.step(everyone, *row) for row in list(zip(*stream, strict=True))[start:stop]]
    return np.array(rows).reshape(-1, SERIES)


def fresh(config: NoveltyConfig, count: int = SERIES) -> Novelty:
    state = Novelty(config)
    state.add(count)
    return state


@RELAXED
@given(stream=streams(), config=CONFIGS)
def test_it_agrees_with_its_naive_twin(stream: Stream, config: NoveltyConfig) -> None:
    found = scored(fresh(config), stream)
    twins = [NaiveNovelty(config) for _ in range(SERIES)]
    for row, times, values, usable in zip(found, *stream, strict=True):
        for number, twin in enumerate(twins):
            wanted = twin.read(int(times[number]), float(values[number]), bool(usable[number]))
            if wanted is None:
                assert math.isnan(row[number])
            else:
                assert row[number] == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@RELAXED
@given(stream=streams(), config=CONFIGS, seed=st.integers(0, 2**32 - 1))
def test_neither_order_nor_company_changes_a_bit(
    stream: Stream, config: NoveltyConfig, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    together, apart = fresh(config), fresh(config, SERIES + 3)
    place = rng.permutation(SERIES + 3)[:SERIES]
    for row in zip(*stream, strict=True):
        wanted = together.step(np.arange(SERIES), *row)
        order = rng.permutation(SERIES)
        for part in np.split(order, [int(rng.integers(SERIES))]):
            found = apart.step(place[part], *(column[part] for column in row))
            assert found.tobytes() == wanted[part].tobytes()


@RELAXED
@given(stream=streams(), config=CONFIGS)
def test_saved_and_loaded_after_any_step_it_goes_on_to_the_bit(
    stream: Stream, config: NoveltyConfig
) -> None:
    cut = len(stream[0]) // 2
    whole, before = fresh(config), fresh(config)
    wanted = scored(whole, stream)
    early = scored(before, stream, 0, cut)
    after = Novelty.load(before.save(), config)
    late = scored(after, stream, cut)
    assert np.concatenate((early, late)).tobytes() == wanted.tobytes()
    assert after.save() == whole.save()
    assert len(whole.save()) == SERIES * BYTES_PER_SERIES


@RELAXED
@given(stream=streams(), config=CONFIGS, seed=st.integers(0, 2**32 - 1))
def test_the_future_changes_nothing(stream: Stream, config: NoveltyConfig, seed: int) -> None:
    cut = len(stream[0]) // 2
    other = np.array(stream[1])
    other[cut:] = np.random.default_rng(seed).normal(size=other[cut:].shape)
    one = scored(fresh(config), stream)
    two = scored(fresh(config), (stream[0], other, stream[2]))
    assert one[:cut].tobytes() == two[:cut].tobytes()


@RELAXED
@given(stream=streams(), config=CONFIGS)
def test_unusable_readings_leave_no_trace(stream: Stream, config: NoveltyConfig) -> None:
    with_them, without = fresh(config), fresh(config)
    for time_ns, value, usable in zip(*stream, strict=True):
        found = with_them.step(np.arange(SERIES), time_ns, value, usable)
        assert np.isnan(found[~usable]).all()
        kept = np.flatnonzero(usable)
        again = without.step(kept, time_ns[kept], value[kept], usable[kept])
        assert found[kept].tobytes() == again.tobytes()
    assert with_them.save() == without.save()


@RELAXED
@given(stream=streams(), config=CONFIGS)
def test_scores_are_between_0_and_1_after_warm_up(stream: Stream, config: NoveltyConfig) -> None:
    found = scored(fresh(config), stream)
    learned = np.cumsum(stream[2], axis=0) - stream[2]
    warm = stream[2] & (learned >= config.warm_up)
    assert (~np.isnan(found) == warm).all()
    assert ((found[warm] >= 0) & (found[warm] <= 1)).all()


@pytest.mark.parametrize("value", [0.0, 7.0, -1e150])
def test_a_constant_series_is_never_novel(value: float) -> None:
    state = fresh(NoveltyConfig(), 1)
    for minute in range(300):
        time_ns = np.array([START_NS + minute * MINUTE_NS])
        score = state.step(np.arange(1), time_ns, np.array([value]), np.array([True]))
        assert math.isnan(score[0]) if minute < 50 else score[0] == 0.0


def test_a_scale_of_its_own_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    plain, large = fresh(NoveltyConfig(), 1), fresh(NoveltyConfig(), 1)
    for minute in range(2_000):
        row = np.array([START_NS + minute * MINUTE_NS]), rng.normal(10.0, 1.0, 1)
        usable = np.array([True])
        wanted = plain.step(np.arange(1), *row, usable)
        # A power of two leaves every rounding as it was.
        found = large.step(np.arange(1), row[0], row[1] * 1024.0, usable)
        assert wanted.tobytes() == found.tobytes()


def test_what_happens_every_day_fires_no_more_and_what_never_did_fires_once() -> None:
    state = fresh(NoveltyConfig(), 1)
    rng = np.random.default_rng(8)
    fired = []
    for reading in range(20 * 288):
        moment = reading % 288
        value = 80.0 if 100 <= moment < 200 else 20.0
        value += rng.normal()
        if 5_000 <= reading < 5_010:
            value = 140.0
        time_ns = np.array([START_NS + reading * 5 * MINUTE_NS])
        score = state.step(np.arange(1), time_ns, np.array([value]), np.array([True]))
        if score[0] >= NoveltyConfig().fire_at:
            fired.append(reading)
    assert [reading for reading in fired if reading > 8 * 288] == [5_000]


@pytest.mark.parametrize(
    ("after", "times_as_high", "fires"),
    [(60, 1.2, False), (98, 1.2, False), (102, 1.2, True), (60, 60.0, True)],
)
def test_for_a_hundred_readings_only_what_is_far_larger_fires_again(
    after: int, times_as_high: float, fires: bool
) -> None:
    state = fresh(NoveltyConfig(), 1)
    noise = np.random.default_rng(8).normal(size=3_000)
    scores = []
    for reading in range(2_000 + after + 1):
        higher = {2_000: 100.0, 2_000 + after: 100.0 * times_as_high}.get(reading, 0.0)
        time_ns = np.array([START_NS + reading * 5 * MINUTE_NS])
        value = np.array([20.0 + higher + noise[reading]])
        scores.append(float(state.step(np.arange(1), time_ns, value, np.array([True]))[0]))
    fired = [place for place, one in enumerate(scores) if one >= NoveltyConfig().fire_at]
    assert [one for one in fired if one >= 2_000] == [2_000] + [2_000 + after] * fires


def test_series_that_came_later_are_as_the_first() -> None:
    state = fresh(NoveltyConfig(), 1)
    state.step(np.zeros(1, np.intp), np.array([START_NS]), np.array([5.0]), np.array([True]))
    saved = state.save()
    state.add(300)
    assert len(state) == 301
    assert Novelty.load(state.save()).save() == state.save()
    state.step(np.array([300]), np.array([START_NS]), np.array([5.0]), np.array([True]))
    again = fresh(NoveltyConfig(), 1)
    again.step(np.array([0]), np.array([START_NS]), np.array([5.0]), np.array([True]))
    assert again.save() == saved


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple"):
        Novelty.load(b"\0" * (BYTES_PER_SERIES + 1))


@pytest.mark.parametrize("name", [field.name for field in fields(NoveltyConfig)])
def test_a_parameter_that_makes_no_sense_is_refused(name: str) -> None:
    for value in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match=name):
            NoveltyConfig(**{name: value})


def test_a_weight_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 1"):
        NoveltyConfig(drift_weight=1.5)

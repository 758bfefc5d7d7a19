"""How far a series goes by itself: a slow twin, any cut, and limits that are worth the same."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detectors import Limits, StateError, Suite, SuiteConfig, Terms, tail_score
from detectors.reach import MOST, Asked, Reach
from detectors.saved import from_bytes, to_bytes
from detectors.tail import spreads_of

S = 10**9
MINUTE = 60 * S
HOUR = 3600 * S
DAY = 24 * HOUR
SERIES = 6
SPREADS = np.array([4.2, 4.2, 3.0, 4.2, 7.0, 4.2])
READINGS = np.array([3.0, 1.0, 2.0, 4.0, 3.0, math.inf])
DECADES = np.array([4.0, 4.0, 4.0, 5.0, 4.0, 0.0])
ASKED = Asked(SPREADS, READINGS, DECADES)
LEAST = 3.0
RELAXED = settings(deadline=None, max_examples=40)
SEEDS = st.integers(0, 2**32 - 1)
Floats = NDArray[np.float64]
Batch = tuple[NDArray[np.int32], Floats]


@dataclass
class Naive:
    """One series, every score in a row kept."""

    spreads: float
    readings: float
    decades: float
    row: list[float] = field(default_factory=list)
    peak: float | None = None
    learned: int = 0
    share: float = 1.0 - math.exp(-60.0 * 10**-2.75)
    excess: float = 1.0 / math.log(10.0)
    held: bool = False

    def nominal(self, score: Any) -> Any:
        return 4.0 * score / float(tail_score(np.array([self.spreads]))[0])

    def see(self, score: float) -> None:
        if math.isnan(score):
            return
        self.row = [*self.row, score][-4:]
        many = int(min(self.readings, 4))
        lowest = min(self.row[-many:]) if len(self.row) >= many else 0.0
        self.peak = max(self.peak or 0.0, self.nominal(lowest))

    def end_hour(self, in_alert: bool) -> None:
        if self.peak is not None and not self.held:
            self._learn(self.peak)
        self.peak, self.held = None, in_alert

    def _learn(self, peak: float) -> None:
        known, share = min(self.learned + 24, 672), self.share
        if peak > 2.75:
            one = (peak - 2.75) / (1.0 - math.log(1.0 - share) / 4)
            lesson = min(one, 4 * self.excess)
            self.excess += (lesson - self.excess) / (share * known + 5)
        share += ((peak > 2.75) - share) / (known + 1)
        self.share = min(max(share, 1 / 1344), 1 - 1 / 1344)
        self.learned += 1

    def limit(self) -> float:
        if not self.learned:
            return self.spreads
        at = math.log10(60.0 / -math.log(1.0 - self.share))
        if self.decades > at:
            wanted = 2.75 + (self.decades - at) * self.excess * math.log(10.0)
        else:
            wanted = self.decades * 2.75 / at
        # By trying: scores rise with the distance.
        grid = np.linspace(self.spreads, MOST * self.spreads, 100_001)
        return float(
            grid[np.searchsorted(self.nominal(tail_score(grid)), wanted, "left").clip(max=100_000)]
        )


def new(series: int = SERIES) -> Reach:
    reach = Reach(LEAST)
    pick = np.arange(series) % SERIES
    reach.add(Asked._make(column[pick] for column in ASKED))
    return reach


def hours(seed: int, many: int = 30) -> Iterator[tuple[Batch, NDArray[np.bool_]]]:
    """Batches of an hour each, in any order of series, and who is in alert behind it."""
    rng = np.random.default_rng(seed)
    scale = rng.choice([0.05, 0.4, 1.2], SERIES)
    for _ in range(many):
        rows = int(rng.integers(0, 200))
        series = rng.choice(SERIES, rows, p=(w := rng.random(SERIES) + 0.01) / w.sum())
        score = rng.exponential(1.0, rows) * scale[series]
        # Excursions that last.
        start = int(rng.integers(rows + 1))
        score[start : start + int(rng.integers(40))] += rng.choice([0.0, 1.5, 4.0, 200.0])
        score[rng.random(rows) < 0.1] = np.nan
        yield (series.astype(np.int32), score), rng.random(SERIES) < 0.1


def bits(reach: Reach) -> bytes:
    return reach.save() + reach.spreads().tobytes()


@RELAXED
@given(seed=SEEDS)
def test_agrees_with_its_naive_twin(seed: int) -> None:
    reach = new()
    twins = [Naive(*map(float, pick)) for pick in zip(*ASKED, strict=True)]
    reach.learn(0, np.zeros(SERIES, np.bool_))
    for hour, ((series, score), in_alert) in enumerate(hours(seed), 1):
        reach.see(series, score)
        assert not reach.learn(hour * HOUR - 1, in_alert)
        assert reach.learn(hour * HOUR, in_alert)
        for one, told in zip(series.tolist(), score.tolist(), strict=True):
            twins[one].see(told)
        for twin, alarming in zip(twins, in_alert.tolist(), strict=True):
            twin.end_hour(alarming)
        if hour % 5 == 0:
            wanted = [twin.limit() for twin in twins]
            assert reach.spreads().tolist() == pytest.approx(wanted, rel=1e-4)


@RELAXED
@given(seed=SEEDS, cuts=st.sets(st.integers(1, 199), max_size=12), saved=st.integers(0, 29))
def test_any_cut_and_a_saved_state_give_the_same_to_the_bit(
    seed: int, cuts: set[int], saved: int
) -> None:
    whole, pieces = new(), new()
    for hour, ((series, score), in_alert) in enumerate(hours(seed)):
        whole.see(series, score)
        places = [0, *sorted(cuts), len(series)]
        for start, stop in pairwise(places):
            pieces.see(series[start:stop], score[start:stop])
        if hour == saved:
            assert bits(pieces) == bits(whole)
            loaded = new()
            loaded.load(pieces.save())
            pieces = loaded
        for reach in (whole, pieces):
            reach.learn(hour * HOUR, in_alert)
        assert bits(pieces) == bits(whole)


@RELAXED
@given(seed=SEEDS, place=st.permutations(range(SERIES)))
def test_series_do_not_know_each_other(seed: int, place: list[int]) -> None:
    """Wherever one stands, and whoever is new beside it."""
    order = np.array(place)
    alone, others = new(), Reach(LEAST)
    others.add(Asked._make(column[order] for column in ASKED))
    number = np.argsort(order).astype(np.int32)
    for hour, ((series, score), in_alert) in enumerate(hours(seed)):
        if hour == 5:
            others.add(ASKED)
        alone.see(series, score)
        others.see(number[series], score)
        alone.learn(hour * HOUR, in_alert)
        more = np.zeros(len(others) - SERIES, np.bool_)
        others.learn(hour * HOUR, np.concatenate((in_alert[order], more)))
    found = others.spreads()
    assert found[:SERIES].tobytes() == alone.spreads()[order].tobytes()
    assert found[SERIES:].tolist() == SPREADS.tolist()


def test_a_new_series_has_the_configured_limit_to_the_bit() -> None:
    assert new().spreads().tobytes() == SPREADS.tobytes()


def test_where_nothing_is_asked_the_configured_limit_decides_alone() -> None:
    reach = new()
    for hour, ((series, score), in_alert) in enumerate(hours(3)):
        reach.see(series, score)
        reach.learn(hour * HOUR, in_alert)
    assert (reach.spreads()[:5] > SPREADS[:5]).any()
    assert reach.spreads()[5] == SPREADS[5]


def test_it_goes_no_further_than_its_bound() -> None:
    reach = new()
    everyone = np.repeat(np.arange(SERIES, dtype=np.int32), 6)
    for hour in range(24 * 14):
        reach.see(everyone, np.full(len(everyone), 290.0 if hour % 2 else 0.1))
        reach.learn(hour * HOUR, np.zeros(SERIES, np.bool_))
    assert reach.spreads()[:5].tolist() == pytest.approx(MOST * SPREADS[:5])


def test_a_score_at_the_limit_is_as_rare_as_is_asked_for() -> None:
    rng = np.random.default_rng(6)
    reach = Reach(LEAST)
    reach.add(ASKED)
    everyone = np.arange(SERIES, dtype=np.int32)
    # Of a new series the configured limit is once in 10,000 minutes.
    assert reach.rated(everyone, tail_score(SPREADS)) == pytest.approx(4.0)
    for hour in range(60):
        reach.learn(hour * HOUR, np.zeros(SERIES, np.bool_))
        score = rng.exponential(0.3, SERIES) + 2.0 if hour % 6 == 0 else np.zeros(SERIES)
        reach.see(np.repeat(everyone, 4), np.repeat(score, 4))
    spreads = reach.spreads()
    inside = (spreads > SPREADS) & (spreads < MOST * SPREADS)
    assert inside.sum() >= 3
    rated = reach.rated(everyone, tail_score(spreads))
    assert rated[inside] == pytest.approx(DECADES[inside])
    # A place that is not asked for says nothing; one alone is as among others.
    assert reach.rated(everyone[2:3], tail_score(spreads)[2:3]).tolist() == rated[2:3].tolist()
    assert math.isnan(reach.rated(everyone[:1], np.array([math.nan]))[0])


def test_what_is_open_is_one_event_however_long_it_lasts() -> None:
    """The hour in which it opens teaches, those that begin with it do not."""
    reach, other = new(), new()
    one = np.zeros(6, np.int32)
    for hour in range(100):
        for each in (reach, other):
            each.see(one, np.full(6, 0.2))
            each.learn(hour * HOUR, np.zeros(SERIES, np.bool_))
    for hour in range(100, 110):
        reach.see(one, np.full(6, 5.0))
        reach.learn(hour * HOUR, np.arange(SERIES) == 0)
    other.see(one, np.full(6, 5.0))
    other.learn(100 * HOUR, np.zeros(SERIES, np.bool_))
    assert reach.spreads().tobytes() == other.spreads().tobytes()
    reach.learn(110 * HOUR, np.zeros(SERIES, np.bool_))
    assert reach.spreads().tobytes() == other.spreads().tobytes()


def test_another_configured_limit_keeps_what_was_learned() -> None:
    """The tail of a series is its own, in whatever units."""
    spreads = np.array([4.2, 3.5, 5.0])
    asked = Asked(spreads, np.full(3, 3.0), np.full(3, 4.0))
    reach = Reach(3.5)
    reach.add(asked)
    rng = np.random.default_rng(1)
    series = np.repeat(np.arange(3, dtype=np.int32), 20)
    for hour in range(24 * 28):
        reach.see(series, rng.exponential(1.2, len(series)))
        reach.learn(hour * HOUR, np.zeros(3, np.bool_))
    before = reach.spreads()
    assert (before > spreads).all()
    assert (before < 0.9 * MOST * spreads).all()
    reach.ask(asked._replace(spreads=spreads * 0.9), 3.5 * 0.9)
    assert reach.spreads() == pytest.approx(before, rel=1e-9)
    # A higher one is the lowest there is.
    reach.ask(asked._replace(spreads=np.full(3, 30.0)), 30.0)
    assert reach.spreads().tolist() == [30.0] * 3


def test_a_configuration_that_changed_while_it_was_saved_is_carried_over() -> None:
    reach = new()
    for hour, ((series, score), in_alert) in enumerate(hours(5)):
        reach.see(series, score)
        reach.learn(hour * HOUR, in_alert)
    later = Reach(LEAST)
    other = ASKED._replace(spreads=SPREADS * 1.1)
    later.add(other)
    later.load(reach.save())
    reach.ask(other, LEAST)
    assert bits(later) == bits(reach)


@pytest.mark.parametrize("damage", ["peak", "excess", "length"])
def test_what_is_no_saved_reach_is_refused(damage: str) -> None:
    columns = from_bytes(new().save())
    if damage == "length":
        columns["hours"] = columns["hours"][:-1]
    else:
        del columns[damage]
    with pytest.raises(StateError):
        new().load(to_bytes(columns))


def test_a_distance_is_what_its_score_says() -> None:
    spreads = np.concatenate(([0.0], np.geomspace(1e-6, 1_000.0, 500)))
    assert spreads_of(tail_score(spreads)) == pytest.approx(spreads, rel=1e-12, abs=1e-12)
    assert np.isfinite(spreads_of(np.array([296.0, 400.0, 1e6]))).all()


def openings(values: Iterator[Floats], days: int, *, adapted: bool) -> tuple[float, Reach]:
    """Return alerts a week and series after the first week, of readings a minute."""
    config = SuiteConfig()
    series = len(next(values))
    suite, reach = Suite(config), Reach(config.city_open_spreads)
    suite.add(Limits(np.full(series, -1e12), np.full(series, 1e12), np.full(series, np.inf)))
    reach.add(
        Asked(
            np.full(series, config.city_open_spreads),
            np.full(series, float(config.city_open_after)),
            np.full(series, 4.0 if adapted else 0.0),
        )
    )
    everyone, good, found = np.arange(series, dtype=np.int32), np.ones(series, np.uint8), 0
    for minute in range(1, days * 1440):
        now = minute * MINUTE
        verdicts = suite.step(everyone, np.full(series, now), next(values), good)
        reach.see(everyone, verdicts.score)
        if now > 7 * DAY:
            found += int(verdicts.transitions.opened.sum())
        if reach.learn(now, suite.in_alert()):
            suite.judge_by(config, Terms.of(config), {"city_open_spreads": reach.spreads()})
    return found / series / (days - 7) * 7, reach


def bursty(series: int, seed: int = 1) -> Iterator[Floats]:
    """Counts that come in clusters: negative binomial, of a mean that jumps and fades."""
    rng = np.random.default_rng(seed)
    more = np.zeros(series)
    while True:
        more = 0.9 * more + (rng.random(series) < 0.02) * rng.exponential(20.0, series)
        yield rng.poisson(rng.gamma(1.0, 2.0 + more)).astype(np.float64)


def test_of_bursty_counts_a_week_has_about_one_alert() -> None:
    before, _ = openings(bursty(30), 10, adapted=False)
    after, reach = openings(bursty(30), 10, adapted=True)
    assert before > 15.0
    assert after < 3.0
    assert (reach.spreads() > 9.0).all()


def test_of_independent_readings_the_limit_is_as_configured() -> None:
    rng = np.random.default_rng(1)
    readings = (rng.normal(50.0, 1.0, 20) for _ in count())
    found, reach = openings(readings, 9, adapted=True)
    assert found == 0.0
    assert (reach.spreads() == 4.2).all()

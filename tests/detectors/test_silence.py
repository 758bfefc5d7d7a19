"""Sensors that stop speaking, and readings that come too late to be judged."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import (
    CATEGORY_NAMES,
    KIND_NAMES,
    NEVER,
    Limits,
    Silences,
    Suite,
    SuiteConfig,
    Verdicts,
)
from tests.detectors.naive import NaiveSuite
from tests.detectors.strategies import SERIES, Stream, splits, streams
from tests.detectors.test_properties import CONFIGS, RELAXED, add_all, fresh_suite

S = 10**9
CONFIG = SuiteConfig()
Story = list[tuple[str, str, bool, int]]


class Town:
    """A few measures that report together; the watermark follows one step behind."""

    def __init__(self, period_s: int = 1, count: int = 3, *, usual_s: float = 1.0) -> None:
        self.suite = Suite(CONFIG)
        bound = np.full(count, 1000.0)
        self.suite.add(
            Limits(-bound, bound, np.full(count, np.inf), period_s=np.full(count, usual_s))
        )
        self.period_s = period_s
        self.now_s = 0
        self.watermark_ns = NEVER
        self.rng = np.random.default_rng(5)

    def speak(
        self, *series: int, times: int = 1, value: float | None = None, flag: int = 1
    ) -> list[Verdicts]:
        """Let some series report, message after message; return all verdicts."""
        found = []
        for _ in range(times):
            self.now_s += self.period_s
            at = np.full(len(series), self.now_s * S)
            seen = self.rng.normal(50.0, 1.0, len(series))
            if value is not None:
                seen[:] = value + 0.01 * self.rng.normal(size=len(series))
            found.append(
                self.suite.step(
                    np.array(series, np.int32),
                    at,
                    seen,
                    np.full(len(series), flag, np.uint8),
                    np.full(len(series), self.watermark_ns),
                )
            )
            self.watermark_ns = self.now_s * S
        return found

    def silences(self) -> Story:
        return story(self.suite.silences(self.watermark_ns))


def story(found: Silences) -> Story:
    columns = (found.series, found.category, found.stale, found.opened_ns)
    return [
        (f"series {series}", CATEGORY_NAMES[category], stale, opened_ns)
        for series, category, stale, opened_ns in zip(*(c.tolist() for c in columns), strict=True)
    ]


def test_a_sensor_that_stops_is_silent_after_a_minute_and_told_once() -> None:
    town = Town()
    town.speak(0, 1, 2, times=100)
    last_ns = town.now_s * S
    for second in range(1, 120):
        town.speak(0, 1)
        found = town.silences()
        # The watermark before the last message of the silent one is a second older than that.
        if second < 60:
            assert found == []
        elif second == 60:
            assert found == [("series 2", "sensor-health", False, last_ns)]
        else:
            assert found == []


@pytest.mark.parametrize("period_s", [10, 60, 300, 3600])
def test_a_slow_sensor_has_four_of_its_own_pauses(period_s: int) -> None:
    town = Town(period_s)
    town.speak(0, 1, 2, times=30)
    quiet = 0
    while not town.silences():
        town.speak(0, 1)
        quiet += 1
        assert quiet <= 6
    assert quiet == max(4, 60 // period_s)


def test_a_gateway_that_sends_ten_minutes_at_once_is_not_silent_in_between() -> None:
    town = Town(usual_s=60.0)
    for _ in range(12):
        town.speak(0, 1, times=600)
        assert town.silences() == []
        # Ten minutes of series 2, seconds apart, in one message.
        at = (town.now_s - np.arange(600)[::-1]) * S
        town.suite.step(
            np.full(600, 2, np.int32),
            at,
            town.rng.normal(50.0, 1.0, 600),
            np.ones(600, np.uint8),
            np.full(600, town.watermark_ns),
        )
    town.speak(0, 1, times=2300)
    assert town.silences() == []
    town.speak(0, 1, times=200)
    assert [entry[0] for entry in town.silences()] == ["series 2"]


def test_a_new_sensor_has_twenty_usual_periods_to_show_its_own() -> None:
    town = Town(usual_s=60.0)
    town.speak(0, 1)
    town.speak(0, 1, 2)
    town.speak(0, 1, times=1198)
    assert town.silences() == []
    town.speak(0, 1, times=3)
    assert [entry[0] for entry in town.silences()] == ["series 2"]


def test_the_alert_of_a_silence_closes_by_good_readings_and_by_nothing_else() -> None:
    town = Town()
    town.speak(0, 1, 2, times=100)
    opened_ns = town.now_s * S
    town.speak(0, 1, times=62)
    assert len(town.silences()) == 1
    bad = town.speak(0, 1, 2, times=20, flag=3)
    assert [len(one.transitions) for one in bad[2:]] == [0] * 18
    assert all(len(one.returns) == 0 for one in bad)  # it was no stale alert
    # Bad flags have opened alerts of the two others by now; all three close at the fifth.
    closing = town.speak(0, 1, 2, times=5)[-1].transitions
    assert [len(town.silences())] == [0]
    of_two = closing.series == 2
    assert closing.opened[of_two].tolist() == [False]
    assert closing.opened_ns[of_two].tolist() == [opened_ns]
    assert [KIND_NAMES[kind] for kind in closing.kind[of_two]] == ["silence"]
    assert np.isnan(bad[-1].score).all()


def test_what_is_open_becomes_stale_and_is_open_again_when_the_sensor_speaks() -> None:
    town = Town()
    town.speak(0, 1, 2, times=300)
    (opening,) = [one for one in town.speak(2, times=10, value=90.0) if len(one.transitions)]
    opened_ns = int(opening.transitions.opened_ns[0])
    last_ns = town.now_s * S
    town.speak(0, 1, times=100)
    assert town.silences() == [
        ("series 2", "city", True, opened_ns),
        ("series 2", "sensor-health", False, last_ns),
    ]
    (back,) = town.speak(2, value=90.0)
    assert back.returns.category.tolist() == [0]
    assert back.returns.opened_ns.tolist() == [opened_ns]
    assert back.returns.row.tolist() == [0]
    assert len(back.transitions) == 0
    # First the sensor is trusted again, then the city's alert is judged, and closes as it opened.
    closing = [one.transitions for one in town.speak(2, times=30)]
    closed = [
        (KIND_NAMES[moves.kind[0]], int(moves.opened_ns[0])) for moves in closing if len(moves)
    ]
    assert closed == [("silence", last_ns), ("level", opened_ns)]


def test_a_health_alert_that_is_open_already_becomes_stale_instead_of_a_second_one() -> None:
    town = Town()
    town.speak(0, 1, 2, times=50)
    (opening,) = [one for one in town.speak(2, times=5, flag=4) if len(one.transitions)]
    town.speak(0, 1, times=100)
    opened_ns = int(opening.transitions.opened_ns[0])
    assert town.silences() == [("series 2", "sensor-health", True, opened_ns)]
    assert town.silences() == []
    (back,) = town.speak(2, flag=4)
    assert [CATEGORY_NAMES[one] for one in back.returns.category] == ["sensor-health"]
    assert back.returns.opened_ns.tolist() == [opened_ns]


def test_a_silence_that_was_never_taken_back_is_told_once() -> None:
    town = Town()
    town.speak(0, 1, 2, times=100)
    town.speak(0, 1, times=62)
    assert len(town.silences()) == 1
    town.speak(2, times=2)  # too few to be trusted again
    town.speak(0, 1, times=500)
    assert town.silences() == []


def test_states_and_series_without_a_period_are_never_silent() -> None:
    suite = Suite(CONFIG)
    bound = np.full(2, 10.0)
    suite.add(
        Limits(
            -bound,
            bound,
            np.full(2, np.inf),
            np.array([True, False]),
            np.array([1.0, np.inf]),
        )
    )
    suite.step(
        np.array([0, 1], np.int32),
        np.full(2, S),
        np.zeros(2),
        np.ones(2, np.uint8),
        np.full(2, S),
    )
    assert len(suite.silences(10**9 * S)) == 0


def test_a_hole_in_the_stream_is_held_against_nobody() -> None:
    town = Town()
    town.speak(0, 1, 2, times=100)
    town.now_s += 86_400
    town.watermark_ns = town.now_s * S
    town.suite.excuse(town.watermark_ns)
    assert town.silences() == []
    town.speak(0, 1, times=61)
    assert [entry[0] for entry in town.silences()] == ["series 2"]


def test_a_series_that_was_saved_before_there_were_periods_can_be_given_one() -> None:
    suite = Suite(CONFIG)
    bound = np.full(2, 10.0)
    suite.add(Limits(-bound, bound, np.full(2, np.inf)))
    suite.expect(np.array([1.0, np.inf]))
    suite.expect(np.array([60.0, np.inf]))  # the first word counts
    heard = (np.array([0, 1], np.int32), np.full(2, S), np.zeros(2), np.ones(2, np.uint8))
    suite.step(*heard, np.full(2, S))
    assert [entry[0] for entry in story(suite.silences(62 * S))] == ["series 0"]


def test_a_late_reading_is_flagged_and_heard_but_never_judged() -> None:
    town = Town()
    town.speak(0, 1, 2, times=100)
    before = town.suite.save()
    watermark_ns = (town.now_s + 1000) * S
    late_ns = watermark_ns - 901 * S
    verdicts = town.suite.step(
        np.array([0, 1, 2, 2], np.int32),
        np.array([late_ns, late_ns, late_ns, watermark_ns - 900 * S]),
        np.array([1e6, 900.0, 50.0, 50.0]),
        np.array([1, 1, 3, 1], np.uint8),
        np.full(4, watermark_ns),
    )
    assert verdicts.fresh.all()
    assert verdicts.late.tolist() == [True, True, True, False]
    assert verdicts.quality.tolist() == [4, 2, 3, 1]
    assert np.isnan(verdicts.score).tolist() == [True, True, True, False]
    assert np.isnan(verdicts.expected).tolist() == [True, True, True, False]
    assert len(verdicts.transitions) == 0
    assert town.suite.save() != before
    again = town.suite.step(
        np.array([0], np.int32),
        np.array([late_ns]),
        np.array([50.0]),
        np.ones(1, np.uint8),
        np.full(1, watermark_ns),
    )
    assert again.fresh.tolist() == [False]  # it is in the database already


def test_late_rows_neither_open_an_alert_nor_close_one() -> None:
    town = Town()
    town.speak(0, times=100)
    town.speak(0, times=5, flag=4)
    watermark_ns = (town.now_s + 5000) * S
    many = 50
    verdicts = town.suite.step(
        np.zeros(many, np.int32),
        (town.now_s + 1 + np.arange(many)) * S,
        town.rng.normal(50.0, 1.0, many),
        np.ones(many, np.uint8),
        np.full(many, watermark_ns),
    )
    assert verdicts.late.all()
    assert len(verdicts.transitions) == 0
    town.now_s, town.watermark_ns = town.now_s + 5001, watermark_ns
    assert sum(len(one.transitions) for one in town.speak(0, times=4)) == 0
    (fifth,) = town.speak(0)
    assert fifth.transitions.opened.tolist() == [False]


@RELAXED
@given(data=st.data(), stream=streams(), config=CONFIGS)
def test_silences_agree_with_the_naive_twin_however_the_stream_is_cut(
    data: st.DataObject, stream: Stream, config: SuiteConfig
) -> None:
    count = len(stream[0])
    cuts = data.draw(splits(count))
    marks = stream[4]
    suite, cut_finer, naive = fresh_suite(config), fresh_suite(config), NaiveSuite(config)
    add_all(naive)
    for start, stop in pairwise(cuts):
        verdicts = suite.step(*(column[start:stop] for column in stream))
        middle = (start + stop) // 2
        for part in (slice(start, middle), slice(middle, stop)):
            cut_finer.step(*(column[part] for column in stream))
        back = zip(
            *(
                getattr(verdicts.returns, name).tolist()
                for name in ("row", "category", "opened_ns")
            ),
            strict=True,
        )
        wanted_back = []
        for row in range(start, stop):
            series, time_ns, value, flag, mark = (column[row].item() for column in stream)
            known = None if mark == NEVER else mark
            late = naive.late(series, time_ns, known)
            last_ns = naive.series[series].last_ns
            if last_ns is None or time_ns > last_ns:
                stale = naive.hear(series, known)
                wanted_back += [
                    (row - start, ["city", "health"].index(name), since) for name, since in stale
                ]
            naive.read(series, time_ns, value, flag, late)
        assert list(back) == wanted_back
        if stop and marks[stop - 1] != NEVER:
            watermark_ns = int(marks[stop - 1]) + data.draw(
                st.sampled_from([0, 10 * S, 100 * S, 10_000 * S])
            )
            if data.draw(st.booleans()):
                suite.excuse(watermark_ns)
                cut_finer.excuse(watermark_ns)
                naive.excuse(watermark_ns)
            found = suite.silences(watermark_ns)
            cut_finer.silences(watermark_ns)
            assert [
                (series, CATEGORY_NAMES[category], stale, opened_ns)
                for series, category, stale, opened_ns in zip(
                    found.series.tolist(),
                    found.category.tolist(),
                    found.stale.tolist(),
                    found.opened_ns.tolist(),
                    strict=True,
                )
            ] == [
                (series, {"health": "sensor-health"}.get(name, name), stale, opened_ns)
                for series, name, stale, opened_ns in naive.silences(watermark_ns)
            ]
    assert suite.save() == cut_finer.save()
    assert len(suite) == SERIES

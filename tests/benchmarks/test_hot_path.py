"""What the benchmark of the detectors measures on, and what it says when a bound is missed."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.rhythm import KINDS, Rhythm, Turn
from detectors import NEVER
from ingest.quantities import QUANTITIES
from streams.watermark import CHECK_NS

SERIES = 600
S = 10**9
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "hot_path.py"


def with_readings(turns: list[Turn]) -> list[Turn]:
    return [turn for turn in turns if len(turn.batch.series)]


def warm(rhythm: Rhythm) -> Rhythm:
    for _ in rhythm.warm_up():
        pass
    return rhythm


def measured(demand: str) -> tuple[int, dict[str, Any]]:
    argv = [sys.executable, str(SCRIPT), "--without-river", "--demand", demand]
    argv += ["--series", "60", "--rows", "20", "--sizes", "30", "60"]
    argv += ["--rounds", "1", "--slice-s", "0.001"]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("period_s", [1.0, 60.0])
def test_every_series_reports_once_and_silence_is_looked_for_every_ten_seconds(
    period_s: float,
) -> None:
    rhythm = Rhythm(SERIES, 1, period_s=period_s)
    rhythm.turns(SERIES * round(20 / period_s) or SERIES)
    turns = rhythm.turns(60 * SERIES)
    for turn in with_readings(turns):
        assert sorted(turn.batch.series.tolist()) == list(range(SERIES))
        assert (np.diff(turn.batch.time_ns) >= 0).all()
        assert turn.batch.watermark_ns.max() < turn.batch.time_ns.min()
    checks = [turn.check_ns for turn in turns if turn.check_ns is not None]
    span_ns = turns[-1].batch.time_ns.max(initial=checks[-1]) - checks[0]
    assert len(checks) == pytest.approx(span_ns / CHECK_NS, abs=2)
    assert not any(turn.hole_ns for turn in turns)


def test_drawn_at_random_series_repeat_and_stay_in_the_order_of_time() -> None:
    turns = Rhythm(SERIES, 1, period_s=10.0, rows=100).turns(20 * SERIES)
    assert {len(turn.batch.series) for turn in turns} == {100}
    assert all(len(np.unique(turn.batch.series)) < 100 for turn in turns)
    times = np.concatenate([turn.batch.time_ns for turn in turns])
    assert (np.diff(times) > 0).all()
    assert int(times[-1] - times[0]) == pytest.approx(200 * S, rel=0.01)


def test_one_series_has_a_twentieth_of_the_readings_each_time_another() -> None:
    turns = with_readings(Rhythm(SERIES, 1, period_s=60.0, deep=True).turns(5 * SERIES))
    deepest = []
    for turn in turns:
        (first, most), (_, next_most) = Counter(turn.batch.series.tolist()).most_common(2)
        assert (most, next_most) == (SERIES // 20, 1)
        assert len(turn.batch.series) == SERIES
        deepest.append(first)
    assert len(set(deepest)) == len(turns) == 5


def test_values_are_such_as_working_sensors_report() -> None:
    turns = with_readings(warm(Rhythm(SERIES, 1, period_s=60.0)).turns(200 * SERIES))
    values = np.empty((len(turns), SERIES))
    for row, turn in zip(values, turns, strict=True):
        assert (turn.batch.quality == 1).all()
        row[turn.batch.series] = turn.batch.value
    for number, kind in enumerate(KINDS):
        quantity, own = QUANTITIES[kind.quantity], values[:, number :: len(KINDS)]
        assert quantity.low <= own.min() <= own.max() <= quantity.high
        repeats = (np.diff(own, axis=0) == 0).mean()
        assert (repeats > 0.005) == (kind.resolution > 0)
        assert repeats < 0.5


def test_a_realistic_stream_has_what_it_says() -> None:
    rhythm = warm(Rhythm(SERIES, 1, period_s=60.0, spoiled=True))
    turns = with_readings(rhythm.turns(100 * SERIES))
    quality = np.concatenate([turn.batch.quality for turn in turns])
    value = np.concatenate([turn.batch.value for turn in turns])
    late = np.concatenate(
        [turn.batch.time_ns < turn.batch.watermark_ns - 900 * S for turn in turns]
    )
    assert (quality >= 3).mean() == pytest.approx(0.01, abs=0.002)
    assert (value < -1e5).mean() == pytest.approx(0.005, abs=0.001)
    assert late.mean() == pytest.approx(0.001, abs=0.0005)
    newest = np.full(SERIES, NEVER)
    stale = 0
    for turn in turns:
        for series, time_ns in zip(
            turn.batch.series.tolist(), turn.batch.time_ns.tolist(), strict=True
        ):
            stale += time_ns <= newest[series]
            newest[series] = max(newest[series], time_ns)
    assert stale / len(quality) == pytest.approx(0.011, abs=0.003)
    assert len(quality) == pytest.approx(100 * SERIES * 1.005, rel=0.001)


def test_what_is_missed_is_told_and_ends_with_1() -> None:
    code, facts = measured("1e9")
    assert (code, facts["ok"]) == (1, False)
    for name in ("DET-REGULAR", "DET-IRREGULAR", "DET-DEEP", "DET-SERIES"):
        assert facts[name]["ok"] is False
        assert facts["DET-STATE"]["ok"] is True


def test_what_holds_is_told_and_ends_with_0() -> None:
    code, facts = measured("1e-9")
    assert code == 0, facts
    assert facts["ok"] is True
    assert facts["DET-OTHERS"]["river"] is None
    assert facts["DET-STATE"]["saved_bytes"] <= 4096
    assert sum(facts["DET-REGULAR"]["share_by_module"].values()) == pytest.approx(1, abs=0.02)
    for name in ("DET-REGULAR", "DET-IRREGULAR", "DET-DEEP"):
        assert facts[name]["scored"] > 0.98
        assert facts[name]["fresh"] == 1
        assert facts[name]["fell_silent"] == 0

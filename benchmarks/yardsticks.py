"""What the detectors stand beside: river's, a plain loop, and a copy of the same bytes.

Each takes slices of readings by turns with the suite, and keeps its state between them. River's
speak its protocol, an object a series and a reading at a time: `score_one`, then `learn_one`.
"""

import time
from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any, Final

import numpy as np
from rhythm import Rhythm

# A half-space tree's object weighs 1.2 MiB: of 10,000 there is no room. Fewer stay closer to the
# core, which is in their favour.
_FORESTS: Final = 25
# So many readings of each before anything is measured: before its window of 250 is full a forest
# answers 0 at once, and so does the Gaussian in its grace period of 100.
_FOREST_WARM_UP: Final = 260
_GAUSSIAN_WARM_UP: Final = 101
_WINDOW: Final = 250
_CHUNK: Final = 200
_LEVEL_WEIGHT: Final = 0.05
_SPREAD_WEIGHT: Final = 0.004

Step = Callable[[list[int], list[float]], None]


class Yardstick:
    """Something that scores readings one after another, and how fast it was in each slice.

    Parameters
    ----------
    step : callable of (series, values)
    series : int
        How many it has.
    seed : int
    """

    def __init__(self, step: Step, series: int, seed: int) -> None:
        self._step = step
        self._rhythm = Rhythm(series, seed, period_s=60.0)
        self.rates: list[float] = []

    def warm_up(self, readings: int) -> None:
        """Let every series have at least so many readings."""
        for turn in self._rhythm.turns(readings * self._rhythm.count):
            self._step(turn.batch.series.tolist(), turn.batch.value.tolist())

    def run(self, least_s: float) -> None:
        """Score for about so long."""
        done, took_s = 0, 0.0
        while took_s < least_s:
            for turn in self._rhythm.turns(_CHUNK):
                series, values = turn.batch.series.tolist(), turn.batch.value.tolist()
                begin_s = time.thread_time()
                self._step(series, values)
                took_s += time.thread_time() - begin_s
                done += len(series)
        self.rates.append(done / took_s)


def python_loop(series: int, seed: int) -> Yardstick:
    """Return a loop over lists: |x - level| / spread, then both are learned (EWMA); no more.

    No warm-up, no range, no rate, no flatline, no silence, no alert, no bad value.
    """
    level, variance = [0.0] * series, [1.0] * series

    def step(numbers: list[int], values: list[float]) -> None:
        scores = []
        for number, value in zip(numbers, values, strict=True):
            residual = value - level[number]
            scores.append(abs(residual) / sqrt(variance[number]))
            level[number] += _LEVEL_WEIGHT * residual
            variance[number] += _SPREAD_WEIGHT * (residual * residual - variance[number])

    loop = Yardstick(step, series, seed)
    loop.warm_up(1)
    return loop


def river_detectors(series: int, seed: int) -> tuple[str, dict[str, Yardstick]]:
    """Return river's version, and its detectors, warm.

    Both forests, with the limits given and with the scaler that its documentation puts before them
    where limits are not known, and both Gaussians: the one that never forgets, and one that
    remembers a window as long as a forest's.
    """
    import river  # noqa: PLC0415 - installed for this benchmark alone
    from river.anomaly import GaussianScorer, HalfSpaceTrees  # noqa: PLC0415
    from river.preprocessing import MinMaxScaler  # noqa: PLC0415

    def forests(make: Callable[[], Any]) -> Yardstick:
        objects = [make() for _ in range(_FORESTS)]

        def step(numbers: Iterable[int], values: Iterable[float]) -> None:
            for number, value in zip(numbers, values, strict=True):
                detector, features = objects[number], {"value": value}
                detector.score_one(features)
                detector.learn_one(features)

        return _warm(Yardstick(step, _FORESTS, seed), _FOREST_WARM_UP)

    def gaussians(make: Callable[[], Any]) -> Yardstick:
        objects = [make() for _ in range(series)]

        def step(numbers: Iterable[int], values: Iterable[float]) -> None:
            for number, value in zip(numbers, values, strict=True):
                detector = objects[number]
                detector.score_one(None, value)
                detector.learn_one(None, value)

        return _warm(Yardstick(step, series, seed), _GAUSSIAN_WARM_UP)

    limits = {"value": (0.0, 1_000.0)}
    return river.__version__, {
        "half_space_trees": forests(lambda: HalfSpaceTrees(limits=limits, seed=seed)),
        "min_max_scaler_and_half_space_trees": forests(
            lambda: MinMaxScaler() | HalfSpaceTrees(seed=seed)
        ),
        "gaussian_scorer": gaussians(GaussianScorer),
        "gaussian_scorer_of_a_window": gaussians(lambda: GaussianScorer(window_size=_WINDOW)),
    }


def _warm(one: Yardstick, readings: int) -> Yardstick:
    one.warm_up(readings)
    return one


class Copy:
    """A copy of what a batch of readings is, and of the whole state of its series.

    Parameters
    ----------
    rows : int
        Readings, each of another series.
    row_bytes, state_bytes : int
        Of a reading's columns in and out, and of a series' state; 0 leaves the state out.
    """

    def __init__(self, rows: int, row_bytes: int, state_bytes: int) -> None:
        self._rows = rows
        self._pairs = [
            (np.ones(rows * size, np.uint8), np.ones(rows * size, np.uint8))
            for size in (row_bytes, state_bytes)
        ]
        self.rates: list[float] = []

    def run(self, least_s: float) -> None:
        """Copy for about so long."""
        done, begin_s = 0, time.thread_time()
        took_s = 0.0
        while took_s < least_s:
            for to, source in self._pairs:
                np.copyto(to, source)
            done += self._rows
            took_s = time.thread_time() - begin_s
        self.rates.append(done / took_s)

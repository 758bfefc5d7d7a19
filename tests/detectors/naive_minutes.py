"""The kernels that learn what is usual once more, slow and obvious: one series, one reading a time.

Written from the documentation, not from the vector code, as the twins in `naive_kernels`.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

import numpy as np

from detectors.novelty import NoveltyConfig
from tests.detectors.naive_kernels import HOUR, NAN, SILENT, S, Told, decades, heard
from tests.detectors.naive_novelty import NaiveNovelty, hour_of

SPREAD = math.sqrt(math.pi / 2)
HOLIDAYS = (19_675, 19_680, 20_000)  # days since 1970
Matrix = list[list[float]]


def within(number: float, bound: float) -> float:
    return min(max(number, -bound), bound)


@dataclass
class Hour:
    mean: float = 0.0
    deviation: float = 0.0
    visits: int = 0


class Season:
    def __init__(self, utc_offset_ns: int, least: float, dispersion: float) -> None:
        self.offset, self.least, self.dispersion = utc_offset_ns, least, dispersion
        self.week: dict[tuple[str, int], Hour] = defaultdict(Hour)
        self.hour: int | None = None
        self.half: int | None = None
        self.visit: list[tuple[float, float]] = []
        self.known: list[tuple[float, float]] = []
        self.seen = 0

    def at(self, hour: int) -> Hour:
        day = hour // 24
        kind = {2: "Saturday", 3: "Sunday"}.get(day % 7, "workday")
        return self.week["Sunday" if day in HOLIDAYS else kind, hour % 24]

    def end_visit(self) -> None:
        if self.hour is None or not self.visit:
            return
        hour = self.at(self.hour)
        count = len(self.visit)
        mean = sum(one for one, _ in self.visit) / count
        deviation = sum(one for _, one in self.visit) / count
        if hour.visits:
            pace = max(1 / hour.visits, 0.1)
            hour.deviation = f32(hour.deviation + (deviation - hour.deviation) * pace)
        hour.visits += 1
        hour.mean = f32(hour.mean + (mean - hour.mean) * max(1 / hour.visits, 0.1))
        self.visit = []

    def begin_half(self, hour: int, half: int) -> None:
        if hour != self.hour:
            self.end_visit()
        self.hour, self.half = hour, half
        here, other = self.at(hour), self.at(hour + (1 if half % 2 else -1))
        self.seen = here.visits
        pair = [(here.mean, here.deviation), (other.mean, other.deviation)]
        if other.visits < 3:
            pair[1] = pair[0]
        self.known = pair if half % 2 else pair[::-1]

    def read(self, time_ns: int, value: float, usable: bool) -> Told:
        if not heard(value, usable) or abs(value) > 1e30:
            return SILENT
        local = time_ns + self.offset
        hour, half = (local - 1) // HOUR, (local - 1) // (HOUR // 2)
        if half != self.half:
            self.begin_half(hour, half)
        if not self.seen:
            self.visit.append((value, 0.0))
            return SILENT
        share = (local - hour * HOUR) / HOUR + (0.5 if half % 2 == 0 else -0.5)
        (mean, deviation), (next_mean, next_deviation) = self.known
        expected = mean + (next_mean - mean) * share
        spread = SPREAD * (deviation + (next_deviation - deviation) * share)
        floor = max(math.sqrt(self.dispersion * (abs(expected) + 1)), self.least)
        spread = max(spread, floor, abs(expected) * 1e-6) * (1 + 3 / min(self.seen, 15))
        off = value - expected
        learned = within(off, 4 * spread) if self.seen >= 3 else off
        self.visit.append((expected + learned, abs(learned)))
        if self.seen < 3:
            return SILENT
        reach = 6 * spread
        level = 1 if off > reach else 2 if off < -reach else 0
        score = decades(abs(off) / spread)
        return True, level > 0, level, value, expected, expected - reach, expected + reach, score


def f32(number: float) -> float:
    return float(np.float32(number))


class Autoregression:
    def __init__(self, least: float) -> None:
        self.least = least
        self.last_ns: int | None = None
        self.mean, self.learned = 0.0, 0
        self.past: list[float] = []
        self.side = 0
        self.weights = [0.0] * 3
        self.p: Matrix = [[float(row == column) for column in range(3)] for row in range(3)]
        self.deviation, self.forecasts = 0.0, 0

    def learn(self, past: list[float], error: float, spread: float) -> None:
        py = [sum(p * y for p, y in zip(row, past, strict=True)) for row in self.p]
        known = sum(p * y for p, y in zip(py, past, strict=True))
        below = max(self.least**2, 1e-6 * known) + known
        covariance = sum(self.p[one][one] for one in range(3)) * spread**2 / self.least**2
        forgotten = 0.999 if covariance < 3 else 1.0
        for row in range(3):
            self.weights[row] += py[row] / below * error
            for column in range(3):
                self.p[row][column] -= py[row] * py[column] / below
                self.p[row][column] /= forgotten

    def read(self, time_ns: int, value: float, usable: bool) -> Told:
        if not heard(value, usable):
            return SILENT
        if self.last_ns is None or time_ns - self.last_ns > 900 * S:
            self.past, self.side = [], 0
        self.last_ns = time_ns
        ready, warm = len(self.past) >= 3, self.forecasts >= 60
        forecast, taken, side, spread = self.mean, value, 0, 0.0
        if ready:
            past = [one - self.mean for one in self.past[:-4:-1]]
            forecast += sum(w * y for w, y in zip(self.weights, past, strict=True))
            spread = max(SPREAD * self.deviation, self.least)
            error = within(value - forecast, 3 * spread if warm else math.inf)
            if error != value - forecast:
                side = 1 if value > forecast else -1
            taken = value if side and self.side else forecast + error
            if side and side == self.side:
                self.mean = value
                self.past = [value] * 3
            else:
                self.learn(past, error, spread)
            self.forecasts += 1
            self.deviation += (abs(error) - self.deviation) * max(1 / self.forecasts, 1 / 300)
        self.side = side
        self.learned += 1
        self.mean += (taken - self.mean) * max(1 / self.learned, 1 / 500)
        self.past.append(taken)
        if not ready or not warm:
            return SILENT
        reach = 8 * spread
        level = 1 if value > forecast + reach else 2 if value < forecast - reach else 0
        score = decades(abs(value - forecast) / spread)
        return True, level > 0, level, value, forecast, forecast - reach, forecast + reach, score


@dataclass
class Sum:
    """One of the two sums of Page's test, and the means since it was last 0."""

    sign: int
    height: float = 0.0
    means: list[float] = field(default_factory=list)

    def add(self, mean: float, z: float) -> None:
        self.height = max(0.0, self.height + min(self.sign * z, 5.0) - 1.5)
        self.means = [*self.means, mean] if self.height > 0 else []


class Shift:
    def __init__(self) -> None:
        self.block: int | None = None
        self.readings: list[float] = []
        self.level = self.deviation = 0.0
        self.learned = self.back = 0
        self.sums = [Sum(1), Sum(-1)]
        self.told: Sum | None = None

    def spread(self) -> float:
        return max(SPREAD * self.deviation, 0.1)

    def end_block(self) -> None:
        mean = sum(self.readings) / len(self.readings)
        z = (mean - self.level) / self.spread()
        if self.told:
            middle = (self.level + sum(self.told.means) / len(self.told.means)) / 2
            self.back = self.back + 1 if self.told.sign * (mean - middle) < 0 else 0
            self.told.means.append(mean)
            adopted = len(self.told.means) >= 21 and not self.back
            if adopted:
                self.level = sum(self.told.means) / len(self.told.means)
            if adopted or self.back >= 4:
                self.sums, self.told, self.back = [Sum(1), Sum(-1)], None, 0
            return
        lesson = mean - self.level
        if self.learned >= 96:
            for one in self.sums:
                one.add(mean, z)
            lesson = within(lesson, 5 * self.spread())
            highest = max(self.sums, key=lambda one: one.height)
            if highest.height > 15:
                self.told = highest
        pace = max(1 / (self.learned + 1), 1 / 288)
        self.level += lesson * pace
        if self.learned:
            self.deviation += (abs(lesson) - self.deviation) * pace
        self.learned += 1

    def read(self, time_ns: int, value: float, usable: bool, usual: float, spread: float) -> Told:
        if not heard(value, usable) or not heard((value - usual) / spread, usable):
            return SILENT
        block = (time_ns - 1) // (900 * S)
        if block != self.block:
            if self.readings:
                self.end_block()
            self.block, self.readings = block, []
        self.readings.append((value - usual) / spread)
        if self.learned < 96:
            return SILENT
        highest = self.told or max(self.sums, key=lambda one: one.height)
        means = highest.means
        seen = means or self.readings
        measure = sum(seen) / len(seen)
        reach = (1.5 + 15 / max(len(means), 1)) * self.spread()
        level = 0 if self.told is None else 1 if self.told.sign > 0 else 2
        told = [measure, self.level, self.level - reach, self.level + reach]
        score = 1.5 / math.log(10) * highest.height
        return True, level > 0, level, *(usual + one * spread for one in told), score


class Drift:
    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance
        self.day: int | None = None
        self.hours: set[int] = set()
        self.differences: list[float] = []
        self.days: list[float] = []
        self.now = self.norm = self.change = 0.0

    def reach(self) -> float:
        return max(3 * self.change * math.sqrt(math.pi) / 2, self.tolerance)

    def end_day(self) -> None:
        if len(self.hours) >= 18:
            day = sum(self.differences) / len(self.differences)
            self.days.append(day)
            count = len(self.days)
            bound = self.reach() * 5 / 3 if count > 14 else math.inf
            pace = max(1 / count, 1 / 128)
            if count > 14 and abs(self.now - self.norm) > self.reach():
                pace = 1 / 1024
            if count > 1:
                change = min(abs(day - self.days[-2]), bound)
                self.change += (change - self.change) * max(1 / (count - 1), 1 / 128)
            self.norm += within(day - self.norm, bound) * pace
            self.now += (day - self.now) * max(1 / count, 1 / 4)
        self.hours, self.differences = set(), []

    def read(self, time_ns: int, value: float, usable: bool, neighbours: list[float]) -> Told:
        there = [one for one in neighbours if abs(one) < math.inf]
        if not heard(value, usable) or len(there) < 3:
            return SILENT
        hour = (time_ns - 1) // HOUR
        if hour // 24 != self.day:
            self.end_day()
        self.day = hour // 24
        self.hours.add(hour)
        self.differences.append(value - median(there))
        if len(self.days) < 14:
            return SILENT
        off, reach = self.now - self.norm, self.reach()
        level = 1 if off > reach else 2 if off < -reach else 0
        # Of independent days their average over four has a spread of sqrt(1 / 7) of theirs.
        score = decades(3 * math.sqrt(7) * abs(off) / reach)
        limits = (self.norm - reach, self.norm + reach)
        return True, level > 0, level, self.now, self.norm, *limits, score


class ClockSkew:
    def __init__(self, ahead_s: float, behind_s: float) -> None:
        self.ahead, self.behind = ahead_s, behind_s
        self.hour: int | None = None
        self.lags: list[float] = []
        self.past: list[float] = []

    def read(self, time_ns: int, value: float, usable: bool) -> Told:
        if not heard(value, usable):
            return SILENT
        hour = (time_ns - 1) // HOUR
        if hour != self.hour:
            if self.hour is not None:
                self.past.append(min(self.lags))
                if hour - self.hour > 12:
                    self.past = []
            self.hour, self.lags = hour, []
        self.lags.append(value)
        offset = min(self.lags + self.past[-1:])
        last = self.past[-12:]
        moves = [after - before for before, after in pairwise(last)]
        one_way = all(one > 0 for one in moves) or all(one < 0 for one in moves)
        level, expected = 0, 0.0
        if value < -self.ahead:
            level, offset = 1, value
        elif offset > self.behind:
            if not self.past:
                return SILENT
            level = 2
        elif len(last) == 12 and one_way and abs(last[-1] - last[0]) >= 1:
            level, expected = 3, last[0]
        limits = [NAN if abs(one) == math.inf else one for one in (-self.ahead, self.behind)]
        return True, level > 0, level, offset, expected, limits[0], limits[1], NAN


class Record:
    """The novelty score of means of five minutes, by the naive twin of the score."""

    def __init__(self, utc_offset_ns: int, config: NoveltyConfig, learn_for_ns: int) -> None:
        self._offset_ns, self._learn_for_ns = utc_offset_ns, learn_for_ns
        self._naive = NaiveNovelty(config)
        self._block = 0
        self._begun: int | None = None
        self._values: list[float] = []

    def read(self, time_ns: int, value: float, usable: bool) -> Told:
        """Return what the kernel finds."""
        if not heard(value, usable):
            return SILENT
        told, block = SILENT, -(-time_ns // (300 * S))  # its end
        if self._values and block != self._block:
            told = self._judge(sum(self._values) / len(self._values), self._block * 300 * S)
            self._values = []
        self._block = block
        self._values.append(value)
        return told

    def _judge(self, mean: float, end_ns: int) -> Told:
        self._begun = end_ns if self._begun is None else self._begun
        naive, local_ns = self._naive, end_ns - 1 + self._offset_ns
        config, remembered = naive.config, len(naive.values)
        hour = naive.profile[hour_of(local_ns)]
        expected = hour.mean if hour.readings >= config.profile_after else NAN
        reach = naive.records["surprise"] / (1 - config.fire_at)
        naive.read(local_ns, mean, True)
        weeks = (end_ns - self._begun) / self._learn_for_ns
        if remembered < config.warm_up or weeks < 1:
            return SILENT
        speaks = weeks >= 2 and naive.beyond > 0 and 1 - 1 / naive.beyond >= config.fire_at
        # The deviation so many readings ago counts for so much of one.
        fade = 0.5 ** (5.5 / config.fade_over)
        often = sum(fade**ago for ago in range(remembered)) * naive.beyond**5.5
        score = math.log10(often) if often > 1 else 0.0
        limits = (expected - reach, expected + reach)
        return True, speaks, int(speaks), mean, expected, *limits, score

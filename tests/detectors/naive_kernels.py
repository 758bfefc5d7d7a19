"""The kernels once more, slow and obvious: one series, one reading at a time, the whole past kept.

Written from the documentation, not from the vector code. It shares tables and thresholds with it
and nothing else.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

import numpy as np

from detectors import tail_score
from detectors.air_quality_tables import Bands, Scale

NAN = math.nan
S = 10**9
HOUR = 3600 * S
DAY = 24 * HOUR
# judged, speaks, level, measure, expected, lower, upper, score
Told = tuple[bool, bool, int, float, float, float, float, float]
SILENT: Told = (False, False, 0, NAN, NAN, NAN, NAN, NAN)


def decades(spreads: float) -> float:
    """Return the score of a distance: the tail itself has tests of its own."""
    return float(tail_score(np.array([spreads]))[0])


def heard(value: float, usable: bool) -> bool:
    return usable and abs(value) <= 1e150


@dataclass
class Pace:
    """When a series has reported, and so how long a reading of it stands for."""

    hold_ns: int
    times_ns: list[int] = field(default_factory=list)

    def stood(self, time_ns: int) -> int:
        self.times_ns = [*self.times_ns, time_ns][-5:]
        gaps = [later - earlier for earlier, later in pairwise(self.times_ns)]
        if not gaps:
            return min(self.hold_ns, HOUR)
        usual = sorted([0, *gaps])[-2]
        return min(gaps[-1], max(self.hold_ns, 2 * usual), HOUR)


@dataclass
class Means:
    """Every piece of time a reading stood for, by the hour and by the local day."""

    hold_ns: int
    utc_offset_ns: int
    hours: dict[int, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    days: dict[int, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))

    def __post_init__(self) -> None:
        self.pace = Pace(self.hold_ns)

    def learn(self, time_ns: int, value: float) -> None:
        span = self.pace.stood(time_ns)
        for size, offset, book in ((HOUR, 0, self.hours), (DAY, self.utc_offset_ns, self.days)):
            end = time_ns + offset
            begin = end - span
            while begin < end:
                number = begin // size
                stop = min((number + 1) * size, end)
                book[number][0] += value * ((stop - begin) / 1e9)
                book[number][1] += (stop - begin) / 1e9
                begin = stop

    def windows(self, time_ns: int) -> list[tuple[float, float]]:
        """Return (mean, coverage) of hour, 8 hours, 24 hours and calendar day."""
        hour = time_ns // HOUR
        left = 1.0 - (time_ns - hour * HOUR) / HOUR
        found = []
        for count in (1, 8, 24):
            parts = [(self.hours[hour - age], 1.0) for age in range(count)]
            parts.append((self.hours[hour - count], left))
            total = math.fsum(part[0] * share for part, share in parts)
            cover = math.fsum(part[1] * share for part, share in parts)
            found.append((total / cover, cover / (count * 3600)))
        total, cover = self.days[(time_ns + self.utc_offset_ns - 1) // DAY]
        return [*found, (total / cover, cover / 86400)]

    def nowcast(self, time_ns: int) -> float:
        hour = time_ns // HOUR
        hourly = {}
        for age in range(1, 13):
            total, cover = self.hours[hour - age]
            if cover >= 0.75 * 3600:
                hourly[age - 1] = total / cover
        if sum(age in hourly for age in range(3)) < 2:
            return NAN
        least, most = min(hourly.values()), max(hourly.values())
        weight = max(least / most, 0.5) if most > 0 else 1.0
        above = sum(weight**age * mean for age, mean in hourly.items())
        return above / sum(weight**age for age in hourly)


class Exceedance:
    def __init__(self, hold_ns: int, utc_offset_ns: int, limit: list[float]) -> None:
        self.means = Means(hold_ns, utc_offset_ns)
        self.limit = limit

    def read(self, time_ns: int, value: float, usable: bool) -> Told:
        if not heard(value, usable):
            return SILENT
        self.means.learn(time_ns, value)
        best = None
        for window, (mean, coverage) in enumerate(self.means.windows(time_ns)):
            limit = self.limit[window]
            if math.isnan(limit) or coverage < 0.75:
                continue
            if best is None or mean / limit > best[1] / best[2]:
                best = (window + 1, mean, limit)
        if best is None:
            return SILENT
        level, mean, limit = best
        day, covered = self.means.windows(time_ns)[2]
        expected = day if level <= 2 and covered >= 0.75 else limit
        return True, mean > limit, level, mean, expected, NAN, limit, NAN


class European:
    def __init__(self, hold_ns: int, name: str, bands: Bands, speak_from: int) -> None:
        self.means = Means(hold_ns, 0)
        self.name, self.bands, self.speak_from = name, bands, speak_from

    def read(self, time_ns: int, value: float, usable: bool) -> Told:
        if not heard(value, usable):
            return SILENT
        self.means.learn(time_ns, value)
        if self.name not in self.bands.edges:
            return SILENT
        mean, coverage = self.means.windows(time_ns)[self.bands.window[self.name]]
        if coverage < 0.75:
            return SILENT
        edges = self.bands.edges[self.name]
        level = next((band for band, edge in enumerate(edges, 1) if mean <= edge), 6)
        day, covered = self.means.windows(time_ns)[2]
        is_shorter = self.bands.window[self.name] < 2
        return (
            True,
            level >= self.speak_from,
            level,
            mean,
            day if is_shorter and covered >= 0.75 else edges[0],
            NAN,
            edges[self.speak_from - 2],
            NAN,
        )


class UnitedStates:
    def __init__(self, hold_ns: int, name: str, scales: tuple[Scale, ...], speak_from: int) -> None:
        self.means = Means(hold_ns, 0)
        self.scales = [scale for scale in scales if scale.pollutant == name]
        self.speak_from = speak_from

    def read(self, time_ns: int, value: float, usable: bool) -> Told:
        if not heard(value, usable):
            return SILENT
        self.means.learn(time_ns, value)
        index = None
        for scale in self.scales:
            if scale.window is None:
                mean = self.means.nowcast(time_ns)
                if math.isnan(mean):
                    continue
            else:
                mean, coverage = self.means.windows(time_ns)[scale.window]
                if coverage < 0.75:
                    continue
            one = self.on(scale, mean)
            if one is not None:
                index = one if index is None else max(index, one)
        if index is None:
            return SILENT
        ends = (50, 100, 150, 200, 300)
        level = 1 + sum(index > end for end in ends)
        return (
            True,
            level >= self.speak_from,
            level,
            index,
            50,
            NAN,
            ends[self.speak_from - 2],
            NAN,
        )

    @staticmethod
    def on(scale: Scale, mean: float) -> float | None:
        if scale.gas_g_mol is not None:
            mean = mean * (1000 if scale.pollutant == "co" else 1) * 24.465 / scale.gas_g_mol
        steps = math.floor(mean * scale.steps + 1e-6)
        if steps < scale.rows[0].low:
            return 0.0 if scale.rows[0].low == 0 else None
        if scale.ends and steps > scale.rows[-1].high:
            return float(scale.rows[-1].index_high)
        row = next((row for row in scale.rows if steps <= row.high), scale.rows[-1])
        slope = (row.index_high - row.index_low) / (row.high - row.low)
        return float(math.floor(slope * (steps - row.low) + row.index_low + 0.5))


class Noise:
    LENGTHS = (12, 4, 8)

    def __init__(self, hold_ns: int, utc_offset_ns: int, limit_db: list[float]) -> None:
        self.pace, self.utc_offset_ns, self.limit_db = Pace(hold_ns), utc_offset_ns, limit_db
        self.periods: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])

    def period(self, local_ns: int) -> tuple[tuple[int, int], int, int]:
        """Return (day, kind), begin and end of the period that holds a nanosecond."""
        day = (local_ns - 7 * HOUR) // DAY
        begin = day * DAY + 7 * HOUR
        for kind, hours in enumerate(self.LENGTHS):
            if local_ns < begin + hours * HOUR:
                return (day, kind), begin, begin + hours * HOUR
            begin += hours * HOUR
        raise AssertionError

    def read(self, time_ns: int, value: float, usable: bool) -> Told:
        if not heard(value, usable):
            return SILENT
        span = self.pace.stood(time_ns)
        loud = 10 ** (min(max(value, -50.0), 250.0) / 10)
        end = time_ns + self.utc_offset_ns
        begin = end - span
        while begin < end:
            name, _, stop = self.period(begin)
            stop = min(stop, end)
            self.periods[name][0] += loud * ((stop - begin) / 1e9)
            self.periods[name][1] += (stop - begin) / 1e9
            begin = stop
        (day, kind), since, _ = self.period(end - 1)
        total, cover = self.periods[day, kind]
        limit_db = self.limit_db[kind]
        if math.isnan(limit_db):
            return SILENT
        limit = 10 ** (limit_db / 10)
        certain = total > limit * self.LENGTHS[kind] * 3600
        if not certain and (cover < 3600 or cover < 0.75 * (end - since) / 1e9):
            return SILENT
        level = 2 if certain else int(total / cover > limit)
        return True, level > 0, level, 10 * math.log10(total / cover), NAN, NAN, limit_db, NAN


class Speed:
    COLUMNS = (25, 30, 35, 40, 45, 50, 55)
    EXHIBIT = (
        (20, 24, 28, 32, 36, 40, 44),
        (17, 20, 23, 27, 30, 34, 37),
        (13, 15, 18, 20, 23, 25, 28),
        (10, 12, 14, 16, 18, 20, 22),
        (8, 9, 11, 12, 14, 15, 17),
    )

    def __init__(self, free_flow_kmh: float, speak_from: int) -> None:
        self.speak_from = speak_from
        mph = free_flow_kmh / 1.609344
        self.edges = None if math.isnan(mph) else [self.at(mph, row) for row in self.EXHIBIT]

    def at(self, mph: float, row: tuple[int, ...]) -> float:
        if mph <= self.COLUMNS[0]:
            return row[0] * 1.609344
        for place in range(len(row) - 1):
            if mph <= self.COLUMNS[place + 1]:
                share = (mph - self.COLUMNS[place]) / 5
                return (row[place] + share * (row[place + 1] - row[place])) * 1.609344
        return row[-1] * 1.609344

    def read(self, _time_ns: int, value: float, usable: bool) -> Told:
        if not heard(value, usable) or self.edges is None:
            return SILENT
        level = next((one for one, edge in enumerate(self.edges, 1) if value > edge), 6)
        lower = self.edges[self.speak_from - 2]
        return True, level >= self.speak_from, level, value, NAN, lower, NAN, NAN


class Occupancy:
    def __init__(self, seen_length_m: float, speak_from: int) -> None:
        self.length, self.speak_from = seen_length_m, speak_from

    def read(self, _time_ns: int, value: float, usable: bool) -> Told:
        if not heard(value, usable) or math.isnan(self.length):
            return SILENT
        per_mile = value * 1609.344 / self.length
        ends = (11, 18, 26, 35, 45)
        level = next((one for one, end in enumerate(ends, 1) if per_mile <= end), 6)
        upper = ends[self.speak_from - 2] * self.length / 1609.344
        return True, level >= self.speak_from, level, value, NAN, NAN, upper, NAN


class Crowd:
    def __init__(self, area_m2: float, speaks_from: float = 3.57) -> None:
        self.area_m2, self.speaks_from = area_m2, speaks_from

    def read(self, _time_ns: int, value: float, usable: bool) -> Told:
        if not heard(value, usable) or not 0 < self.area_m2 < math.inf:
            return SILENT
        density = value / self.area_m2
        level = 1
        if density > 0:
            feet = 1 / (density * 0.3048**2)
            level += sum(feet <= edge for edge in (35, 25, 15, 10, 5))
        level += sum(density >= edge for edge in (3.57, 5.55, 7.1))
        speaks = density >= self.speaks_from
        return True, speaks, level, density, NAN, NAN, self.speaks_from, NAN


class Incident:
    def __init__(
        self,
        difference: float = 0.08,
        relative_difference: float = 0.5,
        downstream_fall: float = 0.3,
        speed_fall: float = 0.2,
    ) -> None:
        self.difference, self.relative = difference, relative_difference
        self.fall, self.speed_fall = downstream_fall, speed_fall
        self.phase: str = "free"
        self.waves = 0
        self.past: list[tuple[int, float, float]] = []

    def read(
        self, time_ns: int, value: float, usable: bool, other_ns: int, other: float, speed: float
    ) -> Told:
        if not (heard(value, usable) and heard(other, usable)):
            return SILENT
        if abs(time_ns - other_ns) > 60 * S:
            return SILENT
        if not self.past or time_ns - self.past[-1][0] > 300 * S:
            self.phase = "free"
        change = fallen = NAN
        if len(self.past) > 1 and time_ns - self.past[-2][0] <= 600 * S:
            _, before, fast = self.past[-2]
            change = quotient(before - other, before)
            fallen = quotient(fast - speed, fast)
        self.past.append((time_ns, other, speed))
        relative = quotient(value - other, value) >= self.relative
        wave = other >= 0.3 and change < -0.4
        begins = value - other >= self.difference and change >= self.fall
        self.move(relative, wave, begins, fallen)
        level = {"tentative": 1, "confirmed": 2}.get(self.phase, 0)
        upper = other / (1 - self.relative)
        return True, level == 2, level, value, other, NAN, upper, NAN

    def move(self, relative: bool, wave: bool, begins: bool, fallen: float) -> None:
        if self.phase in ("tentative", "confirmed"):
            if relative:
                self.phase = "confirmed"
            elif wave and self.phase == "tentative":
                self.phase, self.waves = "wave", 1
            else:
                self.phase = "free"
        elif wave:
            self.phase, self.waves = "wave", 1
        elif self.phase == "wave":
            self.waves += 1
            if self.waves > 5:
                self.phase = "free"
        elif relative and begins and not fallen < self.speed_fall:
            self.phase = "tentative"


def quotient(above: float, below: float) -> float:
    if below != 0:
        return above / below
    return math.copysign(math.inf, above) if above else NAN


class Spike:
    def __init__(self, least_jump: float, far_spreads: float = 10) -> None:
        self.least_jump, self.far_spreads = least_jump, far_spreads
        self.last_ns: int | None = None
        self.window: list[float] = []
        self.slow = 0.0
        self.learned = 0
        self.suspect: float | None = None

    def read(self, time_ns: int, value: float, usable: bool) -> Told:
        if not heard(value, usable):
            return SILENT
        if self.last_ns is None or time_ns - self.last_ns > 900 * S:
            self.window, self.suspect = [], None
        self.last_ns = time_ns
        if len(self.window) < 7:
            self.window.append(value)
            return SILENT
        before = self.window[-7:]
        middle = median(before)
        deviation = median(abs(one - middle) for one in before)
        reach = max(self.far_spreads * 1.4826 * max(deviation, self.slow), self.least_jump)
        warm = self.learned >= 30
        self.learned += 1
        self.slow += (deviation - self.slow) * max(1 / self.learned, 1 / 64)
        if not warm:
            self.window.append(value)
            return SILENT
        far = abs(value - middle) > reach
        suspect, self.suspect = self.suspect, None
        level, measure, score = int(far), value, 0.0
        if suspect is None:
            confirmed = False
        else:
            confirmed = far and (value > middle) == (suspect > middle)
            if not confirmed:
                level, measure = 2, suspect
        if confirmed:
            self.window += [suspect, value]
        elif far:
            self.suspect = value
        else:
            self.window.append(value)
        if level != 1:
            score = decades(self.far_spreads * abs(measure - middle) / max(reach, 1e-300))
        return True, level == 2, level, measure, middle, middle - reach, middle + reach, score


class NoiseChange:
    def __init__(self, least: float, louder: float = 8, quieter: float = 1 / 16) -> None:
        self.least, self.louder, self.quieter = least, louder, quieter
        self.last: tuple[int, float] | None = None
        self.squares = 0
        self.short = self.long = 0.0

    def read(self, time_ns: int, value: float, usable: bool) -> Told:
        if not heard(value, usable):
            return SILENT
        last, self.last = self.last, (time_ns, value)
        if last is None or time_ns - last[0] > 300 * S:
            return SILENT
        square = (value - last[1]) ** 2
        before = max(self.long, self.least**2)
        warm = self.squares >= 100
        if warm:
            square = min(square, 25 * before)
        self.squares += 1
        self.short += (square - self.short) * max(1 / self.squares, 1 / 16)
        now = max(self.short, self.least**2)
        level = 0
        if warm:
            level = 1 if now > self.louder * before else 2 if now < self.quieter * before else 0
        pace = 1 / 3200 if level else max(1 / self.squares, 1 / 400)
        self.long += (square - self.long) * pace
        if not warm:
            return SILENT
        old = math.sqrt(before)
        score = decades(abs(math.log(now / before)) / 0.316)
        lower, upper = old * math.sqrt(self.quieter), old * math.sqrt(self.louder)
        return True, level > 0, level, math.sqrt(now), old, lower, upper, score


class Tampering:
    def __init__(self, evidence_nats: float = 20.7, least_ns: int = 600 * S) -> None:
        self.evidence_nats, self.least_ns = evidence_nats, least_ns
        self.run: list[tuple[int, float]] = []

    def read(self, time_ns: int, value: float, usable: bool, usual: float) -> Told:
        if not heard(value, usable):
            return SILENT
        is_known = heard(usual, usable)
        is_nobody = value <= 0 or (is_known and value <= usual * 0.02)
        if not is_nobody:
            self.run = []
        if not is_known:
            return SILENT
        if is_nobody:
            self.run.append((time_ns, max(usual, 0.0) * (1.0 if value <= 0 else 0.9)))
        evidence = sum(one for _, one in self.run) / 4
        speaks = (
            is_nobody
            and evidence >= self.evidence_nats
            and len(self.run) >= 5
            and time_ns - self.run[0][0] >= self.least_ns
        )
        score = evidence / math.log(10)
        return True, speaks, int(speaks), value, usual, usual * 0.02, NAN, score

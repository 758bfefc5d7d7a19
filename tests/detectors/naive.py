"""The detectors once more, slow and obvious: plain floats, one reading at a time.

Written from the documentation, not from the vector code. It shares the thresholds with it and
nothing else.
"""

import math
from dataclasses import dataclass, field

from detectors import SuiteConfig

LARGEST = 1e150
# category, kind, opened, opened_ns
Change = tuple[str, str, bool, int]


@dataclass
class Series:
    low: float
    high: float
    max_rate: float
    state: bool = False
    pause_s: float = math.inf
    heard_ns: int | None = None
    silent: bool = False
    last_ns: int | None = None
    previous: tuple[int, float] | None = None
    anchor: tuple[int, float] | None = None
    repeats: float = 0.0
    changes: float = 0.0
    run: int = 0
    run_chance: float = 1.0
    learned: int = 0
    level: float = 0.0
    variance: float = 0.0
    difference: float = 0.0
    candidate: list[float] = field(default_factory=list)
    # (opened_ns, kind) while open, and how many readings in a row speak for a flip
    alerts: dict[str, tuple[int, str]] = field(default_factory=dict)
    rests_ns: int | None = None
    streak: dict[str, int] = field(default_factory=lambda: {"city": 0, "health": 0})


def t_tail(z: float) -> float:
    """Two-sided tail of Student's t with 6 degrees of freedom, by its textbook sum."""
    s = 6.0 / (6.0 + z * z)
    c = z / math.sqrt(6.0 + z * z)
    return 1.0 - c * (1.0 + s / 2.0 + 3.0 * s * s / 8.0)


def cut(x: float, bound: float) -> float:
    return max(-bound, min(bound, x))


class NaiveSuite:
    def __init__(self, config: SuiteConfig | None = None) -> None:
        self.config = config or SuiteConfig()
        self.series: list[Series] = []

    def add(
        self,
        low: float,
        high: float,
        max_rate: float,
        state: bool = False,
        period_s: float = math.inf,
    ) -> None:
        self.series.append(
            Series(max(low, -LARGEST), min(high, LARGEST), max_rate, state, 5 * period_s)
        )

    def late(self, number: int, time_ns: int, watermark_ns: int | None) -> bool:
        return (
            watermark_ns is not None
            and not self.series[number].state
            and watermark_ns - time_ns > self.config.allowed_lateness_s * 1e9
        )

    def hear(self, number: int, watermark_ns: int | None) -> list[tuple[str, int]]:
        """Note that a series speaks; return its alerts that are stale no more."""
        one, config = self.series[number], self.config
        if watermark_ns is not None:
            if one.heard_ns is not None and watermark_ns > one.heard_ns:
                pause_s = min((watermark_ns - one.heard_ns) / 1e9, config.forget_after_s)
                if math.isfinite(one.pause_s):
                    shorter = one.pause_s + config.silence_decay * (pause_s - one.pause_s)
                    one.pause_s = max(pause_s, shorter)
            one.heard_ns = max(watermark_ns, one.heard_ns or watermark_ns)
        if not one.silent:
            return []
        one.silent = False
        return self._stale(one)

    def silences(self, watermark_ns: int) -> list[tuple[int, str, bool, int]]:
        """Return (series, category, became stale, opened_ns) of all that fall silent."""
        found = []
        for number, one in enumerate(self.series):
            quiet_s = 0.0 if one.heard_ns is None else (watermark_ns - one.heard_ns) / 1e9
            allowed_s = max(self.config.silence_factor * one.pause_s, self.config.silence_floor_s)
            if one.silent or one.state or quiet_s <= allowed_s:
                continue
            one.silent = True
            stale = self._stale(one)
            if "health" not in one.alerts:
                one.alerts["health"] = (one.last_ns, "silence")
                one.streak["health"] = 0
                found += [(number, name, True, since) for name, since in stale]
                found.append((number, "health", False, one.last_ns))
            else:
                found += [(number, name, True, since) for name, since in stale]
        return found

    def excuse(self, watermark_ns: int) -> None:
        for one in self.series:
            if one.heard_ns is not None:
                one.heard_ns = max(one.heard_ns, watermark_ns)

    def _stale(self, one: Series) -> list[tuple[str, int]]:
        return [
            (name, one.alerts[name][0])
            for name in ("city", "health")
            if name in one.alerts and one.alerts[name][1] != "silence"
        ]

    def read(  # noqa: C901, PLR0912, PLR0915 - one reading, from its first check to its last
        self, number: int, time_ns: int, value: float, given: int, late: bool = False
    ) -> tuple[bool, int, float | None, float | None, float | None, list[Change]]:
        """Return (fresh, quality, z, expected, band, transitions) of one reading."""
        config, one = self.config, self.series[number]
        in_range = one.low <= value <= one.high
        fresh = one.last_ns is None or time_ns > one.last_ns
        if not fresh:
            return False, max(given, 2 if in_range else 4), None, None, None, []
        if one.last_ns is not None and time_ns - one.last_ns > config.forget_after_s * 1e9:
            one.learned, one.level, one.variance, one.difference = 0, 0.0, 0.0, 0.0
            one.streak["city"] = 0
        one.last_ns = time_ns
        if late:
            return True, max(given, 2 if in_range else 4), None, None, None, []
        usable = in_range and given < 3

        flat = fast = False
        if usable and not one.state:
            flat = self._flat(one, value)
            fast = self._fast(one, time_ns, value)
        quality = max(given, 1 if in_range else 4, 3 if flat or fast else 1)
        if given == 0 and in_range and not flat and not fast:
            quality = 0
        good = quality < 3

        warm = one.learned >= config.warm_up
        base = max(
            math.sqrt(one.variance),
            config.floor_relative * abs(one.level),
            config.floor_absolute,
        )
        ratio = min(one.difference / (2.0 * base * base), 1.0)
        memory = 1 + max(1 / config.spread_weight, 1 / config.level_weight)
        spread = base
        if one.learned < memory:
            spread *= 1.0 + config.early_widening * (1 / max(one.learned, 1) - 1 / memory)
        spread *= 1.0 + config.smooth_widening * (1.0 - ratio)
        expected = one.level if warm else None
        band = config.city_open_spreads * spread if warm else None
        trusted = good and not one.state and "health" not in one.alerts
        z = abs(value - one.level) / spread if warm and trusted else None
        if "city" not in one.alerts or not warm:
            one.candidate = []
        if trusted:
            self._learn(one, value, base if warm else None)
        if usable:
            one.previous = (time_ns, value)

        found = []
        if z is not None:
            votes = (
                z < config.city_close_spreads
                if "city" in one.alerts
                else z >= (config.city_open_spreads)
            )
            after = (config.city_open_after, config.close_after)
            self._vote(one, "city", votes, "level", after, time_ns, found)
        if flat:
            kind = "flatline"
        elif fast:
            kind = "rate"
        elif not in_range and given != 9:
            kind = "range"
        else:
            kind = "reported"
        votes = good if "health" in one.alerts else not good
        after = (1 if flat else config.health_open_after, config.close_after)
        after = (1, 1) if one.state else after
        self._vote(one, "health", votes, kind, after, time_ns, found)
        return True, quality, z, expected, band, found

    def _flat(self, one: Series, value: float) -> bool:
        config = self.config
        if one.previous is None:
            return False
        if value == one.previous[1]:
            one.run += 1
            if one.changes > 0:
                # This repeat is number one.run of the run, counted from 1.
                alpha = config.repeat_prior + one.repeats + (one.run - 1)
                chance = alpha / (alpha + one.changes + config.change_prior)
                one.run_chance = max(one.run_chance * max(chance, config.repeat_floor), 1e-200)
            return one.run_chance <= config.flatline_chance
        repeats = one.repeats + min(one.run, config.repeat_lesson)
        changes = one.changes + 1
        shrink = config.repeat_memory / max(config.repeat_memory, repeats + changes)
        one.repeats, one.changes = repeats * shrink, changes * shrink
        one.run, one.run_chance = 0, 1.0
        return False

    def _fast(self, one: Series, time_ns: int, value: float) -> bool:
        gap_ns = round(self.config.rate_max_gap_s * 1e9)

        def agrees(other: tuple[int, float]) -> bool | None:
            since = time_ns - other[0]
            if since > gap_ns:
                return None
            return abs(value - other[1]) <= one.max_rate * (since * 1e-9)

        fast = (
            one.previous is not None
            and agrees(one.previous) is False
            and agrees(one.anchor) is not True
        )
        if not fast:
            one.anchor = (time_ns, value)
        return fast

    def _learn(self, one: Series, value: float, warm_base: float | None) -> None:
        config = self.config
        if "city" in one.alerts and warm_base is not None:
            one.candidate.append(value)
            mean = 0.0
            for n, seen in enumerate(one.candidate, 1):
                mean += (seen - mean) * max(config.level_weight, 1.0 / n)
            if len(one.candidate) >= config.adopt_after:
                one.level = mean
                one.candidate = []
            return
        residual = value - one.level
        bound = math.inf
        if warm_base is not None:
            bound = config.innovation_bound * warm_base
        if one.learned > 0:
            change = cut(value - one.previous[1], bound)
            weight = max(config.spread_weight, 1.0 / one.learned)
            one.difference += weight * (change * change - one.difference)
        one.learned += 1
        surprise = cut(residual, bound)
        weight = max(config.spread_weight, 1.0 / one.learned)
        one.variance = (1.0 - weight) * (one.variance + weight * (surprise * surprise))
        one.level += max(config.level_weight, 1.0 / one.learned) * surprise

    def _vote(
        self,
        one: Series,
        category: str,
        votes: bool,
        kind: str,
        after: tuple[int, int],
        time_ns: int,
        found: list[Change],
    ) -> None:
        one.streak[category] = one.streak[category] + 1 if votes else 0
        is_open = category in one.alerts
        if not votes or one.streak[category] < after[is_open]:
            return
        rests = one.rests_ns is not None and time_ns < one.rests_ns
        if category == "city" and not is_open and rests:
            return
        if category == "city" and is_open:
            one.rests_ns = time_ns + round(self.config.city_rest_s * 1e9)
        one.streak[category] = 0
        if is_open:
            opened_ns, kind = one.alerts.pop(category)
        else:
            opened_ns = time_ns
            one.alerts[category] = (opened_ns, kind)
        found.append((category, kind, not is_open, opened_ns))

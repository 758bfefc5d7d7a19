"""The novelty score once more, slow and obvious: plain floats, one reading at a time.

Written from the documentation, not from the vector code. It shares the parameters with it and
nothing else.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from detectors.novelty import NoveltyConfig


@dataclass
class Hour:
    mean: float = 0.0
    readings: int = 0


@dataclass
class NaiveNovelty:
    """One series."""

    config: NoveltyConfig = field(default_factory=NoveltyConfig)
    values: list[float] = field(default_factory=list)
    profile: dict[tuple[bool, int], Hour] = field(default_factory=lambda: defaultdict(Hour))
    magnitude: float = 0.0
    level: float = 0.0
    off_level: float = 0.0
    drift: float = 0.0
    records: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    muted: int = 0
    fired: float = 0.0
    beyond: float = 0.0  # the largest deviation / record of the last reading

    def read(self, time_ns: int, value: float, usable: bool) -> float | None:
        if not usable:
            return None
        config = self.config
        warm = len(self.values) >= config.warm_up
        if not self.values:
            self.level = value
        weight = 1 / (len(self.values) + 1)
        self.magnitude += max(weight, config.scale_weight) * (abs(value) - self.magnitude)

        hour = self.profile[hour_of(time_ns)]
        surprise = value - hour.mean if hour.readings >= config.profile_after else 0.0
        self.drift += config.drift_weight * (surprise - self.drift)
        left = abs(value) + config.drop_floor * self.magnitude
        off_level = value - self.level
        stay = 0.0
        if off_level * self.off_level > 0:
            stay = min(abs(off_level), abs(self.off_level))
        # Before the first reading everything was as the first reading is.
        first = self.values[0] if self.values else value
        two, one = [first, first, *self.values][-2:]
        deviations = {
            "surprise": abs(surprise),
            "drift": abs(self.drift),
            "drop": max(-surprise, 0.0) / left if left > 0 else 0.0,
            "stay": stay,
            "kink": abs(value - 2 * one + two),
        }
        score = self.beyond = 0.0
        for name, deviation in deviations.items():
            least = config.resolution * (1.0 if name == "drop" else self.magnitude)
            record = max(self.records[name], least)
            if deviation > record:
                score = max(score, 1 - record / deviation)
            if record > 0:
                self.beyond = max(self.beyond, deviation / record)
            faded = self.records[name] * 0.5 ** (1 / config.fade_over)
            self.records[name] = max(faded, deviation)

        hour.readings += 1
        hour.mean += max(1 / hour.readings, config.profile_weight) * (value - hour.mean)
        self.level += max(weight, config.level_weight) * off_level
        self.off_level = off_level
        self.values.append(value)
        muted = self.muted > 0
        self.muted = max(self.muted - 1, 0)
        if not warm:
            return None
        if score >= config.fire_at:
            if muted and (1 - score) * config.mute_until > self.fired:
                return 0.0
            self.muted, self.fired = int(config.mute_for), 1 - score
        return score


def hour_of(time_ns: int) -> tuple[bool, int]:
    """Weekend or not, and the hour of the day, in UTC."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_ns // 1000)
    return moment.weekday() >= 5, moment.hour

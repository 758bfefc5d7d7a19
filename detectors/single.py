"""One series, reading after reading, in plain numbers.

A step of numpy costs the same whether it judges one series or fifty. So what is left of a batch
when few series have further readings, and a few readings out of the ordinary among many others, are
judged here. To the bit it is what the general way does (`detectors.suite`), and there each
detector says why.
"""

from math import inf, nan, sqrt
from typing import Final, NamedTuple

from detectors.config import SuiteConfig
from detectors.flatline import LEAST_CHANCE
from detectors.hysteresis import CITY, FLATLINE, HEALTH, LEVEL, RANGE, RATE, REPORTED, SILENCE
from detectors.one import One
from detectors.table import NEVER
from detectors.terms import Numbers

_NS: Final = 1e-9  # seconds in a nanosecond
_NS_PER_S: Final = 1e9
_NOT_EVALUATED: Final = 2  # QARTOD, as the others
_SUSPECT: Final = 3
_FAIL: Final = 4
_MISSING: Final = 9
# Differences of times wrap around as those of columns do.
_UNSIGNED: Final = (1 << 64) - 1


class Reading(NamedTuple):
    """A fresh reading, as `Suite.step` has it."""

    time_ns: int
    value: float
    quality: int
    watermark_ns: int
    late: bool


class Said(NamedTuple):
    """What is said of a reading, as a `Wave` has it."""

    quality: int
    late: bool
    spreads: float
    expected: float
    band: float


class Flip(NamedTuple):
    """An alert that opened or closed; where `is_return`, its series was heard again."""

    category: int
    kind: int
    opened: bool
    opened_ns: int
    is_return: bool = False


def judge(
    one: One, reading: Reading, config: SuiteConfig, terms: Numbers
) -> tuple[Said, list[Flip]]:
    """Judge a fresh reading of a series, and move its state on.

    Parameters
    ----------
    one : One
    reading : Reading
    config : SuiteConfig
        Thresholds that all series share.
    terms : Numbers
        Those of this series.

    Returns
    -------
    said : Said
    flips : list of Flip
        What is heard again comes first.
    """
    flips = _listen(one, reading.watermark_ns, config)
    time_ns, value, given = reading.time_ns, reading.value, reading.quality
    since_ns = (time_ns - one.last_ns) & _UNSIGNED
    if since_ns > round(config.forget_after_s * _NS_PER_S):
        one.learned = one.level = one.variance = one.difference = one.city_streak = 0.0
    in_range = one.low <= value <= one.high
    # A state is true until the next one, however late it was told.
    late = reading.late and one.state == 0.0
    usable = in_range and given < _SUSPECT and not late
    measured = usable and one.state == 0.0
    flat = measured and _flatline(one, value, config, terms.flatline_chance)
    fast = measured and _too_fast(one, time_ns, value, config)
    good = usable and not flat and not fast

    base, spread = _outlook(one, config)
    is_warm = one.learned >= terms.warm_up
    city_open = one.city_opened_ns != NEVER
    trusted = good and measured and one.health_opened_ns == NEVER
    spreads = abs(value - one.level) / spread if trusted and is_warm else nan
    is_known = is_warm and not late
    expected = one.level if is_known else nan
    band = spread * terms.city_open_spreads if is_known else nan
    held = city_open and is_warm
    if not held:
        one.candidate_learned = 0.0
    if trusted:
        if held:
            _hold(one, value, config)
        else:
            _learn(one, value, base * config.innovation_bound if is_warm else inf, config)
    if usable:
        one.previous, one.previous_ns = value, time_ns
    one.last_ns = time_ns

    if trusted and is_warm:
        flips += _city_flip(one, time_ns, spreads, city_open, config, terms)
    if not late:
        kind = _kind(given, in_range, flat, fast, good)
        flips += _health_flip(one, time_ns, kind, terms)
    flag = _flag(given, in_range=in_range, odd=flat or fast, late=late)
    return Said(flag, late, spreads, expected, band), flips


def _flag(given: int, *, in_range: bool, odd: bool, late: bool) -> int:
    if not in_range:
        return max(given, _FAIL)
    if odd:
        return max(given, _SUSPECT)
    return max(given, _NOT_EVALUATED) if late else given


def _listen(one: One, watermark_ns: int, config: SuiteConfig) -> list[Flip]:
    """Learn the pause that ends; return the alerts that are stale no more."""
    if watermark_ns > one.heard_ns:
        if one.heard_ns != NEVER:
            pause_s = min(float(watermark_ns - one.heard_ns) / _NS_PER_S, config.forget_after_s)
            shorter = pause_s * config.silence_decay + one.pause_s * (1.0 - config.silence_decay)
            one.pause_s = max(pause_s, shorter)
        one.heard_ns = watermark_ns
    if one.silent_ns == NEVER:
        return []
    one.silent_ns = NEVER
    flips = []
    if one.city_opened_ns != NEVER:
        flips.append(Flip(CITY, LEVEL, True, one.city_opened_ns, is_return=True))
    if one.health_opened_ns != NEVER and one.health_kind != SILENCE:
        kind = int(one.health_kind)
        flips.append(Flip(HEALTH, kind, True, one.health_opened_ns, is_return=True))
    return flips


def _flatline(one: One, value: float, config: SuiteConfig, flatline_chance: float) -> bool:
    if value == one.previous:
        repeats = one.run + config.repeat_prior + one.repeats
        chance = repeats / (repeats + one.changes + config.change_prior)
        chance = max(chance, config.repeat_floor) if one.changes > 0.0 else 1.0
        one.run_chance = max(one.run_chance * chance, LEAST_CHANCE)
        one.run += 1.0
        return one.run_chance <= flatline_chance
    repeated = one.repeats + min(one.run, config.repeat_lesson)
    changed = one.changes + 1.0
    kept = config.repeat_memory / max(repeated + changed, config.repeat_memory)
    one.repeats, one.changes = repeated * kept, changed * kept
    one.run, one.run_chance = 0.0, 1.0
    return False


def _too_fast(one: One, time_ns: int, value: float, config: SuiteConfig) -> bool:
    gap_ns = round(config.rate_max_gap_s * _NS_PER_S)
    since_ns = (time_ns - one.previous_ns) & _UNSIGNED
    jumps = since_ns <= gap_ns and abs(value - one.previous) > one.max_rate * (since_ns * _NS)
    if jumps:
        since_ns = (time_ns - one.anchor_ns) & _UNSIGNED
        if since_ns <= gap_ns and abs(value - one.anchor) <= one.max_rate * (since_ns * _NS):
            jumps = False
    if not jumps:
        one.anchor, one.anchor_ns = value, time_ns
    return jumps


def _outlook(one: One, config: SuiteConfig) -> tuple[float, float]:
    base = max(sqrt(one.variance), abs(one.level) * config.floor_relative, config.floor_absolute)
    ratio = min(one.difference / (base * base), 2.0)
    early = 1.0 + config.early_widening * max(
        1.0 / max(one.learned, 1.0) - 1.0 / config.memory, 0.0
    )
    smooth = 1.0 + config.smooth_widening - config.smooth_widening / 2.0 * ratio
    return base, base * early * smooth


def _learn(one: One, value: float, bound: float, config: SuiteConfig) -> None:
    learned = one.learned
    step = min(max(value - one.level, -bound), bound)
    if learned > 0.0:
        change = min(max(value - one.previous, -bound), bound)
        weight = max(1.0 / learned, config.spread_weight)
        one.difference += (change * change - one.difference) * weight
    one.learned = learned + 1.0
    share = 1.0 / one.learned
    one.level += step * max(share, config.level_weight)
    weight = max(share, config.spread_weight)
    one.variance += (step * step * (1.0 - weight) - one.variance) * weight


def _hold(one: One, value: float, config: SuiteConfig) -> None:
    known = one.candidate if one.candidate_learned > 0.0 else 0.0
    one.candidate_learned += 1.0
    weight = max(1.0 / one.candidate_learned, config.level_weight)
    one.candidate = known + (value - known) * weight
    if one.candidate_learned >= config.adopt_after:
        one.level, one.candidate_learned = one.candidate, 0.0


def _city_flip(
    one: One, time_ns: int, spreads: float, is_open: bool, config: SuiteConfig, terms: Numbers
) -> list[Flip]:
    if is_open:
        counts, due = spreads < terms.city_close_spreads, terms.close_after
    else:
        counts, due = spreads >= terms.city_open_spreads, terms.city_open_after
    one.city_streak = one.city_streak + 1.0 if counts else 0.0
    if one.city_streak < due or not (is_open or time_ns >= one.rests_ns):
        return []
    if is_open:
        one.rests_ns = time_ns + round(config.city_rest_s * _NS_PER_S)
    opened_ns = one.city_opened_ns if is_open else time_ns
    one.city_opened_ns = NEVER if is_open else time_ns
    one.city_streak = 0.0
    return [Flip(CITY, LEVEL, not is_open, opened_ns)]


def _kind(given: int, in_range: bool, flat: bool, fast: bool, good: bool) -> int:
    if good:
        return LEVEL
    if flat:
        return FLATLINE
    if fast:
        return RATE
    # A missing value has no range to be out of.
    return REPORTED if in_range or given == _MISSING else RANGE


def _health_flip(one: One, time_ns: int, kind: int, terms: Numbers) -> list[Flip]:
    is_open = one.health_opened_ns != NEVER
    counts = (kind != LEVEL) != is_open
    one.health_streak = one.health_streak + 1.0 if counts else 0.0
    due = terms.close_after if is_open else terms.health_open_after
    # As a flatline is a long run already.
    if one.state != 0.0 or (kind == FLATLINE and not is_open):
        due = 1.0
    if not counts or one.health_streak < due:
        return []
    if is_open:
        flip = Flip(HEALTH, int(one.health_kind), False, one.health_opened_ns)
        one.health_opened_ns = NEVER
    else:
        flip = Flip(HEALTH, kind, True, time_ns)
        one.health_opened_ns = time_ns
        one.health_kind = float(kind)
    one.health_streak = 0.0
    return [flip]

"""Level and spread of a series, exponentially weighted.

West (1979) and Finch (2009), *Incremental calculation of weighted mean and variance*, equations
124 and 143, with four additions:

- the weight of a reading is never below 1 / readings learned, so the warm-up is the plain mean
  and variance and the early variance is not underestimated;
- a residual is bounded before it is learned, so an anomaly does not teach the level at once;
- while an alert is open level and spread stand still, so that the return is not the next alert and
  the next anomaly does not hide in a wide spread; what is seen meanwhile is learned beside them,
  and becomes the level when it has lasted;
- the spread has a floor, and is widened where it is less certain than it looks: for few readings,
  and for a smooth series. Smoothness is von Neumann's ratio, the mean square of successive
  differences over twice the variance: 1 for independent readings, towards 0 for a smooth series.

Everything here is addition, multiplication, division and square root, which IEEE 754 defines to
the bit; no result depends on the machine or on the place in a vector.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors.config import SuiteConfig
from detectors.table import Columns
from detectors.terms import Threshold


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a series expects of its next reading.

    Parameters
    ----------
    warm : (n,) bool
        Whether enough has been learned to score.
    base : (n,) float64
        Spread with its floor, which bounds what is learned.
    spread : (n,) float64
        The same widened, which scores.
    """

    warm: NDArray[np.bool_]
    base: NDArray[np.float64]
    spread: NDArray[np.float64]


_NS_PER_S: Final = 1_000_000_000


def forget(columns: Columns, time_ns: NDArray[np.int64], config: SuiteConfig) -> None:
    """Let a series that was silent for long begin anew: its level is not known any more."""
    limit = np.uint64(round(config.forget_after_s * _NS_PER_S))
    # Unsigned: before the first reading the difference wraps around, and there is nothing to lose.
    silent = (time_ns - columns.last_ns).view(np.uint64) > limit
    if silent.any():
        for column in (columns.learned, columns.level, columns.variance, columns.difference):
            column[silent] = 0.0
        columns.city_streak[silent] = 0.0


def outlook(columns: Columns, config: SuiteConfig, warm_up: Threshold) -> Outlook:
    """Return what each series expects, before its reading is learned."""
    base = np.sqrt(columns.variance)
    np.maximum(base, np.abs(columns.level) * config.floor_relative, out=base)
    np.maximum(base, config.floor_absolute, out=base)
    # Twice von Neumann's ratio.
    ratio = np.minimum(columns.difference / (base * base), 2.0)
    few = np.maximum(1.0 / np.maximum(columns.learned, 1.0) - 1.0 / config.memory, 0.0)
    early = 1.0 + config.early_widening * few
    smooth = 1.0 + config.smooth_widening - config.smooth_widening / 2.0 * ratio
    spread = base * early * smooth
    return Outlook(columns.learned >= warm_up, base, spread)


def learn(
    columns: Columns,
    seen: Outlook,
    value: NDArray[np.float64],
    good: NDArray[np.bool_],
    lasting: NDArray[np.bool_],
    config: SuiteConfig,
) -> None:
    """Teach the good readings; `lasting` says where a city alert is open."""
    held = lasting & seen.warm
    if held.any():
        _hold(columns, value, good & held, config)
        good = good & ~held
    columns.candidate_learned[~held] = 0.0
    residual = value - columns.level
    bound = np.where(seen.warm, seen.base * config.innovation_bound, np.inf)
    step = np.minimum(np.maximum(residual, -bound), bound)
    change = np.minimum(np.maximum(value - columns.previous, -bound), bound)
    count = columns.learned + 1.0
    weight = np.maximum(1.0 / count, config.spread_weight)
    level = columns.level + step * np.maximum(1.0 / count, config.level_weight)
    variance = columns.variance + ((step * step) * (1.0 - weight) - columns.variance) * weight
    # One difference less than readings.
    weight = np.maximum(1.0 / np.maximum(columns.learned, 1.0), config.spread_weight)
    difference = columns.difference + (change * change - columns.difference) * weight
    np.copyto(columns.difference, difference, where=good & (columns.learned > 0))
    np.copyto(columns.level, level, where=good)
    np.copyto(columns.variance, variance, where=good)
    np.copyto(columns.learned, count, where=good)


def _hold(
    columns: Columns, value: NDArray[np.float64], rows: NDArray[np.bool_], config: SuiteConfig
) -> None:
    """Learn beside the level what is seen while an alert is open; adopt it when it lasts."""
    count = columns.candidate_learned + 1.0
    known = np.where(columns.candidate_learned > 0, columns.candidate, 0.0)
    candidate = known + (value - known) * np.maximum(1.0 / count, config.level_weight)
    adopted = rows & (count >= config.adopt_after)
    np.copyto(columns.candidate, candidate, where=rows)
    np.copyto(columns.candidate_learned, np.where(adopted, 0.0, count), where=rows)
    np.copyto(columns.level, candidate, where=adopted)

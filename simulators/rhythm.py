"""When a city is busy: smooth daily and weekly profiles.

Every profile is a sum of smooth, periodic bumps, because detectors must meet a level that hardly
moves within minutes: whatever jumps in a simulated series is then a labelled fault.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The made-up city keeps one offset all year: a change of clocks would be a jump in every series.
UTC_OFFSET_H: Final = 1.0
# 1970-01-01 was a Thursday; hours from the Monday before to it.
_EPOCH_WEEK_HOUR: Final = 72.0
_HOUR_NS: Final = 3_600_000_000_000
_YEAR_H: Final = 8766.0
# Steepness of the change between working day and weekend: most of it within 2 h of midnight.
_WEEKEND_EDGE_H: Final = 0.75


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Where each moment stands in day, week and year.

    Parameters
    ----------
    commute, leisure : (m,) float64
        Activity from nearly 0 (dead of night) to about 1 (busiest hour of a normal week).
    tide : (m,) float64
        -1 to 1: towards the centre in the morning, away from it in the evening.
    warmth : (m,) float64
        -1 (shortly before sunrise) to 1 (mid-afternoon).
    sunlight : (m,) float64
        0 (night) to 1 (early afternoon), with ozone's delay.
    season : (m,) float64
        -1 (late January) to 1 (late July).
    """

    commute: Floats
    leisure: Floats
    tide: Floats
    warmth: Floats
    sunlight: Floats
    season: Floats


def rhythm(time_ns: NDArray[np.int64]) -> Rhythm:
    """Return the rhythm at moments (m,), UTC nanoseconds since 1970."""
    hours = time_ns / _HOUR_NS + UTC_OFFSET_H
    day = hours % 24.0
    week = (hours + _EPOCH_WEEK_HOUR) % 168.0
    weekend = _logistic(week - 120.0) - _logistic(week - 168.0) + 1.0 - _logistic(week)
    morning = _bump(day, 8.2, 1.3)
    evening = _bump(day, 17.8, 1.5)
    noon = _bump(day, 13.0, 2.8)
    night_out = _bump(day, 21.0, 2.0)
    workday = 0.78 * morning + 0.86 * evening + 0.45 * noon + 0.06 * night_out
    free_day = 0.62 * _bump(day, 14.5, 3.2) + 0.22 * night_out
    lunch = 0.50 * noon + 0.35 * _bump(day, 18.5, 2.0)
    return Rhythm(
        commute=(1.0 - weekend) * workday + weekend * free_day,
        leisure=lunch + (0.30 + 0.25 * weekend) * night_out + 0.20 * weekend * noon,
        tide=(1.0 - 0.7 * weekend) * (morning - evening),
        warmth=np.cos((day - 15.5) * (2.0 * np.pi / 24.0)),
        sunlight=_bump(day, 14.5, 2.8),
        season=np.cos((hours / _YEAR_H - 0.56) * (2.0 * np.pi)),
    )


def _bump(day_h: Floats, centre_h: float, width_h: float) -> Floats:
    # The von Mises shape: a Gaussian that closes over midnight; kappa = (24 h / 2 pi width)^2.
    kappa = (24.0 / (2.0 * np.pi * width_h)) ** 2
    bump: Floats = np.exp(kappa * (np.cos((day_h - centre_h) * (2.0 * np.pi / 24.0)) - 1.0))
    return bump


def _logistic(hours: Floats) -> Floats:
    # tanh does not overflow where exp would.
    curve: Floats = 0.5 + 0.5 * np.tanh(hours / (2.0 * _WEEKEND_EDGE_H))
    return curve

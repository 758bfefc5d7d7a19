"""Columns of readings in, verdicts out: numpy only, no I/O, no clock, no logging.

`Suite` holds the state of many series as columns and judges a batch at a time. Its results are
those of judging the readings one by one in arrival order, to the bit.
"""

from detectors.config import Limits, SuiteConfig
from detectors.hysteresis import (
    CATEGORY_NAMES,
    CITY,
    FLATLINE,
    HEALTH,
    KIND_NAMES,
    LEVEL,
    RANGE,
    RATE,
    REPORTED,
    SILENCE,
    Transitions,
)
from detectors.silence import Returns, Silences
from detectors.suite import Suite, Verdicts
from detectors.table import NEVER, StateError
from detectors.tail import tail_score
from detectors.terms import Terms

__all__ = [
    "CATEGORY_NAMES",
    "CITY",
    "FLATLINE",
    "HEALTH",
    "KIND_NAMES",
    "LEVEL",
    "NEVER",
    "RANGE",
    "RATE",
    "REPORTED",
    "SILENCE",
    "Limits",
    "Returns",
    "Silences",
    "StateError",
    "Suite",
    "SuiteConfig",
    "Terms",
    "Transitions",
    "Verdicts",
    "tail_score",
]

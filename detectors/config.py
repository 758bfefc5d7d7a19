"""Thresholds of the detectors, and the limits of a series."""

from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteConfig:
    """Thresholds of every detector.

    A *spread* is the exponentially weighted standard deviation of a series around its level,
    floored and widened as described in `detectors.level`. The city's thresholds come from
    simulation over a slow daily drift. Of 5,000 series at a reading a second for an hour, run three
    times, independent noise opened nothing, AR(1) noise with phi 0.9 opened 2 alerts in all, and
    Student's t noise with 5 degrees of freedom 2. A shift by 6, 7 and 8 standard deviations opened
    within 9 readings in at least 86, 98 and 99.9 % of the series.

    Parameters
    ----------
    warm_up : int
        Readings a series is learned for before it is scored.
    level_weight, spread_weight : float
        Weight of a new reading in the level and in its spread (1 / readings remembered). The
        spread remembers longer, so that a shift does not hide itself by widening it.
    innovation_bound : float
        Spreads; a residual is cut to it before it is learned (Huber's psi).
    adopt_after : int
        Good readings for which a city alert is open until their level is adopted as the new one:
        at a reading a minute somewhat over three hours, longer than most incidents.
    early_widening : float
        Readings; the spread is widened by the factor 1 + early_widening (1 / readings learned -
        1 / `memory`), because the spread of few readings is uncertain.
    smooth_widening : float
        Share the spread of a perfectly smooth series is widened by. Consecutive readings of a
        smooth series are one piece of evidence, not three.
    floor_absolute : float
        Smallest spread, in the unit of the quantity: the resolution of a ratio in 0..1, the
        finest of any quantity measured.
    floor_relative : float
        Smallest spread as a share of the level: 0.1 %, better than any field sensor repeats.
    city_open_spreads, city_close_spreads : float
        Distance from the level, in spreads, that counts for opening (at or above) and for closing
        (below).
    city_open_after : int
        Consecutive scored readings until a city alert opens.
    city_rest_s : float
        Seconds from the end of a city alert in which the series opens no other. None, unless it is
        asked for: what comes back may be another event, and what is seen while nothing is open is
        learned. The pager damps alerts that flap.
    health_open_after : int
        Consecutive bad readings until a health alert opens; a flatline opens it at once, and so
        does any bad reading of a state.
    close_after : int
        Consecutive good readings until an alert closes; of a state the first one closes it.
    flatline_chance : float
        Probability of a run of equal values below which it is a flatline. 5,000 series at a
        reading a second make 1.8e7 readings an hour: 1e-9 is one false flatline in two days.
    repeat_floor : float
        Smallest probability of a repeat ever assumed, since every sensor sends a value twice now
        and then. With `flatline_chance` it sets the shortest run: 11 repeats.
    repeat_prior, change_prior : float
        Beta prior of the probability of a repeat: uniform.
    repeat_memory : float
        Readings remembered about how often a series repeats. Few, for two reasons: counts that
        sink towards zero in the evening are followed, and the less is known of a series the
        longer a run it is allowed. Of 60 simulated counters 25 gave a fifth of the false
        flatlines of 100, and a frozen sensor was found as soon.
    repeat_lesson : float
        The most repeats one run teaches, so that one long freeze does not excuse the next.
    rate_max_gap_s : float
        Seconds; readings further apart are not compared for their rate of change. Five minutes is
        the slowest usual reporting period.
    forget_after_s : float
        Seconds of silence after which a series is learned anew. Two hours: a sensor that reports
        hourly is kept, and over a longer gap the day has moved on.
    allowed_lateness_s : float
        Seconds of event time; a reading that lies further behind the watermark is late. A quarter
        of an hour, as for clocks: gateways collect for minutes, and what is older is history that
        nobody should be woken for.
    silence_floor_s : float
        Seconds of event time; no series is silent sooner. A minute: radio links drop a few
        messages in a row every day, and nobody mends a sensor within a minute.
    silence_factor : float
        A series is silent when it has been quiet for so many times its usual longest pause. Four:
        three reports in a row have failed to come.
    silence_decay : float
        Weight of a new pause that is shorter than the usual longest one; a longer one becomes it
        at once.
    """

    warm_up: int = 20
    level_weight: float = 0.05
    spread_weight: float = 0.004
    innovation_bound: float = 3.0
    adopt_after: int = 200
    early_widening: float = 10.0
    smooth_widening: float = 0.25
    floor_absolute: float = 1e-3
    floor_relative: float = 1e-3
    city_open_spreads: float = 4.2
    city_close_spreads: float = 3.0
    city_open_after: int = 3
    city_rest_s: float = 0.0
    health_open_after: int = 2
    close_after: int = 5
    flatline_chance: float = 1e-9
    repeat_floor: float = 0.15
    repeat_prior: float = 1.0
    change_prior: float = 1.0
    repeat_memory: float = 25.0
    repeat_lesson: float = 25.0
    rate_max_gap_s: float = 300.0
    forget_after_s: float = 7200.0
    allowed_lateness_s: float = 900.0
    silence_floor_s: float = 60.0
    silence_factor: float = 4.0
    silence_decay: float = 0.05

    @property
    def memory(self) -> float:
        """Return after how many readings level and spread are as certain as they get."""
        # One more, for rounding.
        return 1.0 + max(1.0 / self.spread_weight, 1.0 / self.level_weight)

    def __post_init__(self) -> None:
        """Check that the thresholds make sense together.

        Raises
        ------
        ValueError
            If one is not a positive number, or two contradict each other.
        """
        for threshold in fields(self):
            name, value = threshold.name, getattr(self, threshold.name)
            # The two widenings and the rest may be switched off.
            lowest_allowed = name in {"early_widening", "smooth_widening", "city_rest_s"}
            if not (0 < value < np.inf or (lowest_allowed and value == 0)):
                raise ValueError(f"{name} must be a positive number, not {value}")
        for name in ("level_weight", "spread_weight", "repeat_floor", "silence_decay"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be at most 1, not {getattr(self, name)}")
        if self.city_close_spreads > self.city_open_spreads:
            raise ValueError("city_close_spreads must not exceed city_open_spreads")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a working sensor can report; columns for new series.

    Parameters
    ----------
    low, high : (n,) float64
        Valid range, both ends included, in the unit of the quantity.
    max_rate : (n,) float64
        Fastest believable change in units per second; `inf` for no limit.
    state : (n,) or () bool
        Whether the sensor reports a state when it changes, and not a measure again and again. A
        state has no level, no rate and no flatline; one reading opens and closes its health alert.
    period_s : (n,) or () float64
        Usual reporting period in seconds; `inf` for a series that is never called silent, because
        it reports changes only.

    Raises
    ------
    ValueError
        If the columns differ in length, hold NaN or an empty range, a rate is negative, a period is
        not positive, or `state` is not bool.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    max_rate: NDArray[np.float64]
    state: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((), np.bool_))
    period_s: NDArray[np.float64] = field(default_factory=lambda: np.array(np.inf))

    def __post_init__(self) -> None:
        """Check the columns."""
        if self.low.ndim != 1 or not self.low.shape == self.high.shape == self.max_rate.shape:
            raise ValueError("low, high and max_rate must be columns of one length")
        if not bool(np.all(self.low <= self.high)):
            raise ValueError("low must not exceed high")
        if not bool(np.all(self.max_rate >= 0)):
            raise ValueError("max_rate must not be negative or NaN")
        if self.state.dtype != np.bool_ or self.state.shape not in {(), self.low.shape}:
            raise ValueError("state must be one bool, or a column of them as long as low")
        if self.period_s.shape not in {(), self.low.shape} or not bool(np.all(self.period_s > 0)):
            raise ValueError("period_s must be positive: one, or a column as long as low")

    def __len__(self) -> int:
        """Return the number of series."""
        return len(self.low)

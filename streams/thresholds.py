"""Thresholds of the minute stage that rules may set, by the kind of alert that they belong to.

Defaults stand with the kernels, and what each threshold means is told there.
"""

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

# Of every section of rules. Strict: "3" is no number, and true is not 1.
SECTION: Final = ConfigDict(frozen=True, extra="forbid", strict=True)

_Share = Annotated[float, Field(gt=0, le=1)]
_BelowOne = Annotated[float, Field(gt=0, lt=1)]
_Seconds = Annotated[float, Field(gt=0, le=31 * 86_400)]
_Decibels = Annotated[float, Field(ge=0, le=140)]
_Concentration = Annotated[float, Field(gt=0, le=1e6)]
# Of variance; at 1 it would speak of every reading.
_Ratio = Annotated[float, Field(gt=1, le=1e6)]


class _Section(BaseModel):
    model_config = SECTION


class _Incident(_Section):
    """Occupancies from 0 to 1, and relative ones: `detectors.incident.Thresholds`."""

    difference: _Share | None = None
    relative_difference: _BelowOne | None = None
    downstream_fall: _Share | None = None
    speed_fall: _Share | None = None


class _ServiceLevel(_Section):
    speak_from: Literal["B", "C", "D", "E", "F"] | None = None


class _AirQuality(_Section):
    """A band of the European index, or a category of the U.S. one."""

    speak_from: Annotated[int, Field(ge=2, le=6)] | None = None


class _Exceedance(_Section):
    """Whose limits count, and limits of one's own, in the unit of the quantity."""

    limits: Literal["EU 2008/50/EC", "EU 2024/2881", "WHO 2021"] | None = None
    hour: _Concentration | None = None
    eight_hours: _Concentration | None = None
    calendar_day: _Concentration | None = None


class _Noise(_Section):
    day_db: _Decibels | None = None
    evening_db: _Decibels | None = None
    night_db: _Decibels | None = None


class _Crowd(_Section):
    persons_per_m2: Annotated[float, Field(gt=0, le=20)] | None = None


class _Spike(_Section):
    spreads: Annotated[float, Field(gt=0, le=1_000)] | None = None


class _NoiseChange(_Section):
    """How many times louder or quieter the noise must be, in variance."""

    louder: _Ratio | None = None
    quieter: _Ratio | None = None


class _Drift(_Section):
    """In the unit of the quantity."""

    tolerance: Annotated[float, Field(gt=0, le=1e6)] | None = None


class _ClockSkew(_Section):
    ahead_s: _Seconds | None = None
    behind_s: _Seconds | None = None


class _Tampering(_Section):
    """Chance of a run of empty counts, and the shortest that counts."""

    chance: Annotated[float, Field(ge=1e-300, lt=1)] | None = None
    least_s: _Seconds | None = None


class MinuteRules(_Section):
    """Of each kind of alert."""

    incident: _Incident = _Incident()
    service_level: Annotated[_ServiceLevel, Field(alias="service-level")] = _ServiceLevel()
    air_quality: Annotated[_AirQuality, Field(alias="air-quality")] = _AirQuality()
    exceedance: _Exceedance = _Exceedance()
    noise: _Noise = _Noise()
    crowd: _Crowd = _Crowd()
    spike: _Spike = _Spike()
    noise_change: Annotated[_NoiseChange, Field(alias="noise-change")] = _NoiseChange()
    drift: _Drift = _Drift()
    clock_skew: Annotated[_ClockSkew, Field(alias="clock-skew")] = _ClockSkew()
    tampering: _Tampering = _Tampering()

    def said(self) -> Iterator[tuple[str, str]]:
        """Yield the kind and the name of every threshold that is set."""
        for kind, names in self.model_dump(by_alias=True, exclude_defaults=True).items():
            for name in names:
                yield kind, name


# What means something for one quantity alone, and so cannot be said of several.
OF_QUANTITY: Final = frozenset(
    {
        ("exceedance", "hour"),
        ("exceedance", "eight_hours"),
        ("exceedance", "calendar_day"),
        ("drift", "tolerance"),
    }
)
# A clock is that of a sensor, whatever it measures.
OF_SENSOR: Final = frozenset({"clock-skew"})

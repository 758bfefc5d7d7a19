"""Which kernels judge the minutes of which quantities, by which terms, and what their word weighs.

All that a kernel wants to know of a series besides its readings comes from the table of quantities
and from what the city has said of itself (`CityFacts`). Where it is not known the series is not
judged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any, Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from detectors import (
    CITY,
    HEALTH,
    NEVER,
    air_quality,
    averages,
    crowd,
    exceedance,
    incident,
    noise,
    noise_change,
    service_level,
    spike,
)
from detectors.air_quality_tables import AQI_2024, EAQI_2024, POLLUTANTS
from detectors.episodes import Rule
from detectors.finding import Finding
from ingest.quantities import QUANTITIES
from ingest.topics import SeriesKey
from storage.pages import Severity

_MINUTE_NS: Final = 60 * 10**9
_HOUR_NS: Final = 3_600 * 10**9
# Longest time that a reading of a pollutant or a sound level stands for: two of the slowest usual
# periods, five minutes, so that one message may be lost.
_HOLD_NS: Final = 600 * 10**9
# Noise of a series is never taken to be less than this share of the least difference that matters.
_NOISE_SHARE: Final = 0.25
# What a word weighs, from the level that speaks on.
_MAJOR: Final[dict[int, Severity]] = {0: "major"}
_MINOR: Final[dict[int, Severity]] = {0: "minor"}

Floats = NDArray[np.float64]
Terms = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Group:
    """Sensors that belong together; all of them are in one partition.

    Parameters
    ----------
    sensors : tuple of str
        Of a road its stations, in the direction of traffic.
    is_road : bool
    free_flow_kmh : float or None
        Speed on the road when it is empty.
    seen_length_m : float or None
        Length of a vehicle and of what a station sees of the road, together; of roads without
        signals.
    area_m2 : float or None
        What each camera of the group sees of the ground.
    """

    sensors: tuple[str, ...]
    is_road: bool = False
    free_flow_kmh: float | None = None
    seen_length_m: float | None = None
    area_m2: float | None = None


@dataclass(frozen=True, slots=True)
class CityFacts:
    """What the city has said of itself.

    Parameters
    ----------
    time_zone : str
        Name in the IANA database, for days, evenings and nights.
    air_quality_index : {"EU", "US"}
    limits : str
        Whose limits of concentrations count, a key of `exceedance.STANDARDS`.
    noise_limits_db : tuple of three floats or None
        By day, evening and night; national law says them.
    groups : mapping of str to Group
    """

    time_zone: str = "UTC"
    air_quality_index: Literal["EU", "US"] = "EU"
    limits: str = "EU 2008/50/EC"
    noise_limits_db: tuple[float | None, float | None, float | None] = (None, None, None)
    groups: Mapping[str, Group] = field(default_factory=dict)

    def zone(self) -> tzinfo:
        """Return the time zone; UTC needs no database of zones.

        Raises
        ------
        ZoneInfoNotFoundError
            If there is no such zone on this host.
        """
        return UTC if self.time_zone == "UTC" else ZoneInfo(self.time_zone)

    def of_sensors(self, name: str) -> dict[str, float]:
        """Return one fact of groups, by the sensors that it holds for."""
        return {
            sensor: fact
            for group in self.groups.values()
            if (fact := getattr(group, name)) is not None
            for sensor in group.sensors
        }


@dataclass(frozen=True, slots=True)
class Wave:
    """One minute of some series, as a kernel sees it.

    Parameters
    ----------
    time_ns : (n,) int64
        End of the minute.
    value : (n,) float64
        Mean of its readings.
    usable : (n,) bool
    utc_offset_ns : int
        Local time minus UTC.
    means : (series,) float64
        Means of the same minute of all series of the partition; NaN where there is none, or the
        sensor is in doubt.
    """

    time_ns: NDArray[np.int64]
    value: Floats
    usable: NDArray[np.bool_]
    utc_offset_ns: int
    means: Floats


class Kind(NamedTuple):
    """One of the things that a kernel may find.

    Parameters
    ----------
    name : str
        Kind of the alert.
    category : int
        `CITY` or `HEALTH`.
    rule : Rule
    severity : dict of int to str
        From which level on it is how severe.
    unit : str or None
        UCUM code of what is measured, where it is not that of the series.
    """

    name: str
    category: int
    rule: Rule
    severity: dict[int, Severity]
    unit: str | None = None

    def severity_of(self, level: int) -> Severity:
        """Return how severe a finding of that level is."""
        return self.severity[max(least for least in self.severity if least <= level)]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel, and how it is to be asked.

    Parameters
    ----------
    name : str
        Of its saved state.
    quantities : frozenset of str
        It has a place for every series of these.
    kinds : tuple of Kind
        What its findings are about, in the order in which `step` returns them.
    new_state : callable
    terms : callable of (keys, facts, slot_of)
        Returns what is fixed for series of these keys, as columns. Asked again whenever there are
        new series in the partition, of which `slot_of` tells: (sensor, quantity) to slot.
    step : callable of (state, wave, terms)
        Returns a finding for each kind.
    watched : callable of terms
        Returns for each kind of which series it can be judged at all; an open alert of another is
        closed.
    """

    name: str
    quantities: frozenset[str]
    kinds: tuple[Kind, ...]
    new_state: Callable[[int], Any]
    terms: Callable[[Sequence[SeriesKey], CityFacts, Mapping[tuple[str, str], int]], Terms]
    step: Callable[[Any, Wave, Terms], tuple[Finding, ...]]
    watched: Callable[[Terms], tuple[NDArray[np.bool_], ...]]


def kernels(facts: CityFacts) -> tuple[Kernel, ...]:
    """Return all kernels; those that judge sensors come first, for they gate the others."""
    return (_SPIKE, _NOISE_CHANGE, _air(facts), _NOISE, _SERVICE_LEVEL, _CROWD, _INCIDENT)


def utc_offset_ns(time_ns: int, zone: tzinfo) -> int:
    """Return local time minus UTC at a moment."""
    offset = datetime.fromtimestamp(time_ns // 10**9, zone).utcoffset()
    assert offset is not None  # noqa: S101 - it has a zone
    return round(offset.total_seconds()) * 10**9


def _is_known(columns: Floats) -> NDArray[np.bool_]:
    """Return of which series one number at least is known."""
    known: NDArray[np.bool_] = np.any(~np.isnan(np.atleast_2d(columns)), axis=0)
    return known


def _everywhere(terms: Terms, name: str = "least") -> tuple[NDArray[np.bool_], ...]:
    return (np.ones(terms[name].shape[-1], np.bool_),)


def _least(share: float) -> Callable[..., Terms]:
    def terms(keys: Sequence[SeriesKey], *_: object) -> Terms:
        least = [QUANTITIES[key.quantity].least * share for key in keys]
        return {"least": np.array(least, np.float64)}

    return terms


_MEASURES: Final = frozenset(name for name, row in QUANTITIES.items() if row.least > 0)

# One reading far off wakes nobody; a sensor that does it again and again within an hour is loose.
_SPIKE: Final = Kernel(
    name="spike",
    quantities=_MEASURES,
    kinds=(Kind("spike", HEALTH, Rule(3, 60, 60, _HOUR_NS), _MINOR),),
    new_state=spike.new_state,
    terms=_least(1.0),
    step=lambda state, wave, terms: (
        spike.step(state, wave.time_ns, wave.value, wave.usable, terms["least"]),
    ),
    watched=_everywhere,
)

# Only where noise is the instrument's: that of counts, concentrations and traffic goes with their
# level, so that every morning would be a change.
_NOISE_CHANGE: Final = Kernel(
    name="noise-change",
    quantities=frozenset({"temperature", "relativeHumidity", "LAeq"}),
    kinds=(Kind("noise-change", HEALTH, Rule(5, 5, 15, _HOUR_NS), _MINOR),),
    new_state=noise_change.new_state,
    terms=_least(_NOISE_SHARE),
    step=lambda state, wave, terms: (
        noise_change.step(state, wave.time_ns, wave.value, wave.usable, terms["least"]),
    ),
    watched=_everywhere,
)


def _air(facts: CityFacts) -> Kernel:
    """Return the kernel over the means of pollutants: the index, and the limits of law."""
    is_us = facts.air_quality_index == "US"
    # From "poor" on, or "unhealthy for sensitive groups".
    speak_from = 3 if is_us else 4
    severity: dict[int, Severity] = {0: "minor", speak_from + 1: "major", 6: "critical"}

    def terms(keys: Sequence[SeriesKey], facts: CityFacts, _: object) -> Terms:
        names = [key.quantity for key in keys]
        return {
            "pollutant": np.array([POLLUTANTS.index(name) for name in names], np.intp),
            "limit": exceedance.limit_columns(facts.limits, names),
        }

    def step(state: Any, wave: Wave, terms: Terms) -> tuple[Finding, ...]:
        fixed = averages.Terms(
            np.full(len(wave.value), _HOLD_NS), np.full(len(wave.value), wave.utc_offset_ns)
        )
        added = averages.learn(state, wave.time_ns, wave.value, wave.usable, fixed)
        means = averages.means(state, wave.time_ns)
        pollutant = terms["pollutant"]
        if is_us:
            index = air_quality.united_states(
                means, state.nowcast, added, pollutant, AQI_2024, speak_from
            )
        else:
            index = air_quality.european(means, added, pollutant, EAQI_2024, speak_from)
        return index, exceedance.judge(means, added, terms["limit"])

    def watched(terms: Terms) -> tuple[NDArray[np.bool_], ...]:
        bands = EAQI_2024.edge_columns()[:, terms["pollutant"]]
        has_index = np.ones(bands.shape[1], np.bool_) if is_us else _is_known(bands)
        return has_index, _is_known(terms["limit"])

    return Kernel(
        name="averages",
        quantities=frozenset(POLLUTANTS),
        kinds=(
            # What is judged are means over hours: they do not flicker.
            Kind(
                "air-quality", CITY, Rule(3, 3, 10, _HOUR_NS), severity, unit="1" if is_us else None
            ),
            Kind("exceedance", CITY, Rule(3, 3, 10, _HOUR_NS), _MAJOR),
        ),
        new_state=averages.new_state,
        terms=terms,
        step=step,
        watched=watched,
    )


def _noise_terms(keys: Sequence[SeriesKey], facts: CityFacts, _: object) -> Terms:
    limits = [np.nan if limit is None else limit for limit in facts.noise_limits_db]
    return {"limit_db": np.repeat(np.array(limits)[:, np.newaxis], len(keys), axis=1)}


def _noise_step(state: Any, wave: Wave, terms: Terms) -> tuple[Finding, ...]:
    count = len(wave.value)
    fixed = noise.Terms(
        np.full(count, _HOLD_NS), np.full(count, wave.utc_offset_ns), terms["limit_db"]
    )
    return (noise.step(state, wave.time_ns, wave.value, wave.usable, fixed),)


_NOISE: Final = Kernel(
    name="noise",
    quantities=frozenset({"LAeq"}),
    kinds=(Kind("noise", CITY, Rule(3, 3, 10, _HOUR_NS), {0: "minor", noise.CERTAIN: "major"}),),
    new_state=noise.new_state,
    terms=_noise_terms,
    step=_noise_step,
    watched=lambda terms: (_is_known(terms["limit_db"]),),
)


def _service_terms(keys: Sequence[SeriesKey], facts: CityFacts, _: object) -> Terms:
    free_flow, length = facts.of_sensors("free_flow_kmh"), facts.of_sensors("seen_length_m")
    speed = service_level.speed_terms(
        np.array(
            [
                free_flow.get(key.sensor, np.nan)
                if key.quantity == "averageVehicleSpeed"
                else np.nan
                for key in keys
            ],
            np.float64,
        )
    )
    occupancy = service_level.occupancy_terms(
        np.array(
            [
                # Where both are known the speed decides.
                length.get(key.sensor, np.nan)
                if key.quantity == "occupancy" and key.sensor not in free_flow
                else np.nan
                for key in keys
            ],
            np.float64,
        )
    )
    falling = np.array([key.quantity == "averageVehicleSpeed" for key in keys], np.float64)
    return {"edges": np.where(falling == 1.0, speed.edges, occupancy.edges), "falling": falling}


# The manual means a quarter of an hour.
_SERVICE_LEVEL: Final = Kernel(
    name="service-level",
    quantities=frozenset({"averageVehicleSpeed", "occupancy"}),
    kinds=(Kind("service-level", CITY, Rule(12, 15, 10, _HOUR_NS), {0: "minor", 6: "major"}),),
    new_state=service_level.new_state,
    terms=_service_terms,
    step=lambda state, wave, terms: (
        service_level.step(
            state,
            wave.time_ns,
            wave.value,
            wave.usable,
            service_level.Terms(terms["edges"], terms["falling"]),
            len(service_level.LEVEL_NAMES),
        ),
    ),
    watched=lambda terms: (_is_known(terms["edges"]),),
)


def _crowd_terms(keys: Sequence[SeriesKey], facts: CityFacts, _: object) -> Terms:
    area = facts.of_sensors("area_m2")
    return {"area_m2": np.array([area.get(key.sensor, np.nan) for key in keys], np.float64)}


_CROWD: Final = Kernel(
    name="crowd",
    quantities=frozenset({"peopleCount", "occupancyCount"}),
    kinds=(
        Kind(
            "crowd",
            CITY,
            Rule(2, 3, 10, 10 * _MINUTE_NS),
            {0: "major", crowd.TOUCHING + 1: "critical"},
            unit="{person}/m2",
        ),
    ),
    new_state=crowd.new_state,
    terms=_crowd_terms,
    step=lambda state, wave, terms: (
        crowd.step(state, wave.time_ns, wave.value, wave.usable, terms["area_m2"]),
    ),
    watched=lambda terms: (_is_known(terms["area_m2"]),),
)


def _incident_terms(
    keys: Sequence[SeriesKey], facts: CityFacts, slot_of: Mapping[tuple[str, str], int]
) -> Terms:
    ahead = {
        sensor: group.sensors[place + 1]
        for group in facts.groups.values()
        if group.is_road
        for place, sensor in enumerate(group.sensors[:-1])
    }
    return {
        "ahead": np.array(
            [slot_of.get((ahead.get(key.sensor, ""), "occupancy"), -1) for key in keys], np.int64
        ),
        "speed": np.array(
            [slot_of.get((key.sensor, "averageVehicleSpeed"), -1) for key in keys], np.int64
        ),
    }


def _incident_step(state: Any, wave: Wave, terms: Terms) -> tuple[Finding, ...]:
    def of(slots: NDArray[np.int64]) -> Floats:
        found: Floats = np.where(slots >= 0, wave.means[slots], np.nan)
        return found

    occupancy = of(terms["ahead"])
    ahead = incident.Downstream(
        np.where(np.isnan(occupancy), NEVER, wave.time_ns), occupancy, of(terms["speed"])
    )
    return (incident.step(state, wave.time_ns, wave.value, wave.usable, ahead),)


# The tree has its own persistence: it speaks of what two minutes have confirmed.
_INCIDENT: Final = Kernel(
    name="incident",
    quantities=frozenset({"occupancy"}),
    kinds=(Kind("incident", CITY, Rule(1, 1, 3, 5 * _MINUTE_NS), _MAJOR),),
    new_state=incident.new_state,
    terms=_incident_terms,
    step=_incident_step,
    watched=lambda terms: (terms["ahead"] >= 0,),
)

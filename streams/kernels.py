"""Which kernels judge the minutes of which quantities, by which terms, and what their word weighs.

All that a kernel wants to know of a series besides its readings comes from the table of quantities
and from what the city has said of itself (`CityFacts`). Where it is not known the series is not
judged.
"""

from collections.abc import Sequence
from typing import Any, Final

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
from detectors.air_quality_tables import (
    AQI_2018,
    AQI_2024,
    EAQI_2024,
    EAQI_BEFORE_2024,
    POLLUTANTS,
)
from detectors.averages import HOUR
from detectors.episodes import Rule
from detectors.finding import Answer, answer
from detectors.minutes import MINUTE_NS
from ingest.quantities import QUANTITIES
from ingest.topics import SeriesKey
from storage.pages import Severity, Window
from streams.facts import CityFacts
from streams.judging import (
    HOUR_NS,
    Floats,
    Kernel,
    Kind,
    Own,
    SlotOf,
    Terms,
    Watched,
    Wave,
    everywhere,
    is_known,
    least,
)
from streams.usual import CLOCK_SKEW, DRIFT, usual

# What a reading of a pollutant or a sound level may stand for at the least: two periods of those
# that report every five minutes. For how long others do follows from how often they report.
_HOLD_NS: Final = 600 * 10**9
# Noise of a series is never taken to be less than this share of the least difference that matters.
_NOISE_SHARE: Final = 0.25
# What a word weighs, from the level that speaks on.
_MAJOR: Final[dict[int, Severity]] = {0: "major"}
_MINOR: Final[dict[int, Severity]] = {0: "minor"}
# The tables of an index, by the name that a city gives it.
_BANDS: Final = {"EU": EAQI_2024, "EU before 2024": EAQI_BEFORE_2024}
_SCALES: Final = {"US": AQI_2024, "US 2018": AQI_2018}
# What rules call the windows of limits, in the order of `averages`; no law has the third.
_WINDOWS: Final = ("hour", "eight_hours", "", "calendar_day")
# What people call them.
_NAMED: Final[tuple[Window, ...]] = ("hour", "8 hours", "24 hours", "calendar day")
_WORST_LEVEL: Final = len(service_level.LEVEL_NAMES)
_OF_INCIDENTS: Final = ("difference", "relative_difference", "downstream_fall", "speed_fall")


def kernels(facts: CityFacts) -> tuple[Kernel, ...]:
    """Return all kernels; those that judge sensors come first, for they gate the others."""
    sensors = (CLOCK_SKEW, _SPIKE, _NOISE_CHANGE, DRIFT)
    city = (_air(facts), _NOISE, _SERVICE_LEVEL, _CROWD, _INCIDENT, *usual(facts))
    return (*sensors, *city)


_MEASURES: Final = frozenset(name for name, row in QUANTITIES.items() if row.least > 0)

# One reading far off wakes nobody; a sensor that does it again and again within an hour is loose.
_SPIKE: Final = Kernel(
    name="spike",
    quantities=_MEASURES,
    kinds=(Kind("spike", HEALTH, Rule(3, 60, 60, HOUR_NS), _MINOR, is_scored=True),),
    new_state=spike.new_state,
    terms=least(1.0),
    judge=lambda state, wave, terms: (
        spike.judge(
            state, wave.time_ns, wave.value, wave.usable, terms["least"], terms["far_spreads"]
        ),
    ),
    watched=everywhere,
    thresholds=lambda _terms, own: {
        "far_spreads": own.number("spike", "spreads", spike.FAR_SPREADS)
    },
)


def _noise_change_thresholds(terms: Terms, own: Own) -> Terms:
    del terms
    return {
        "louder": own.number("noise-change", "louder", noise_change.LOUDER_FROM),
        # People say how many times quieter.
        "quieter": 1.0 / own.number("noise-change", "quieter", 1.0 / noise_change.QUIETER_FROM),
    }


# Only where noise is the instrument's: that of counts, concentrations and traffic goes with their
# level, so that every morning would be a change.
_NOISE_CHANGE: Final = Kernel(
    name="noise-change",
    quantities=frozenset({"temperature", "relativeHumidity", "LAeq"}),
    kinds=(Kind("noise-change", HEALTH, Rule(5, 5, 15, HOUR_NS), _MINOR, is_scored=True),),
    new_state=noise_change.new_state,
    terms=least(_NOISE_SHARE),
    judge=lambda state, wave, terms: (
        noise_change.judge(
            state,
            wave.time_ns,
            wave.value,
            wave.usable,
            terms["least"],
            terms["louder"],
            terms["quieter"],
        ),
    ),
    watched=everywhere,
    thresholds=_noise_change_thresholds,
)


def _air(facts: CityFacts) -> Kernel:
    """Return the kernel over the means of pollutants: the index, and the limits of law."""
    scales = _SCALES.get(facts.air_quality_index)
    bands = _BANDS.get(facts.air_quality_index, EAQI_2024)
    is_us = scales is not None
    # From "very poor" on, or "unhealthy": what is worse than a rush hour beside a motorway.
    speak_from = 4 if is_us else 5
    severity: dict[int, Severity] = {0: "minor", speak_from + 1: "major"}

    def terms(keys: Sequence[SeriesKey], facts: CityFacts, _: object) -> Terms:
        names = [key.quantity for key in keys]
        return {
            "pollutant": np.array([POLLUTANTS.index(name) for name in names], np.intp),
            "limit": exceedance.limit_columns(facts.limits, names),
        }

    def judge(state: Any, wave: Wave, terms: Terms) -> tuple[Answer, ...]:
        fixed = averages.Terms(np.full(len(wave.value), _HOLD_NS), wave.utc_offset_ns)
        added = averages.learn(state, wave.time_ns, wave.value, wave.usable, fixed)
        means = averages.means(state, wave.time_ns)
        pollutant = terms["pollutant"]
        if scales is not None:
            index = answer(
                air_quality.united_states(
                    means, state.nowcast, added, pollutant, scales, terms["speak_from"]
                )
            )
        else:
            index = air_quality.judge_european(means, added, pollutant, bands, terms["speak_from"])
        return index, exceedance.judge(means, added, terms["limit"])

    def watched(terms: Terms) -> Watched:
        edges = bands.edge_columns()[:, terms["pollutant"]]
        has_index = np.ones(edges.shape[1], np.bool_) if is_us else is_known(edges)
        return has_index, is_known(terms["limit"])

    def thresholds(terms: Terms, own: Own) -> Terms:
        levels = own.number("air-quality", "speak_from", speak_from).astype(np.intp)
        return {"limit": _limits(terms, own), "speak_from": levels}

    return Kernel(
        name="averages",
        quantities=frozenset(POLLUTANTS),
        kinds=(
            # What is judged are means over hours: they do not flicker.
            Kind(
                "air-quality",
                CITY,
                Rule(3, 3, 10, HOUR_NS),
                severity,
                unit="1" if is_us else None,
                window=None if is_us else lambda name, _: _NAMED[bands.window.get(name, HOUR)],
            ),
            Kind(
                "exceedance",
                CITY,
                Rule(3, 3, 10, HOUR_NS),
                _MAJOR,
                window=lambda _, level: _NAMED[level - 1] if level else None,
            ),
        ),
        new_state=averages.new_state,
        terms=terms,
        judge=judge,
        watched=watched,
        thresholds=thresholds,
    )


def _limits(terms: Terms, own: Own) -> Floats:
    """Return the limits of concentrations: those of the city, of a law, or somebody's own."""
    names = [POLLUTANTS[one] for one in terms["pollutant"].tolist()]
    limits: Floats = terms["limit"]
    laws = own.values("exceedance", "limits")
    for law in dict.fromkeys(filter(None, laws)):
        theirs = np.array([one == law for one in laws], np.bool_)
        limits = np.where(theirs, exceedance.limit_columns(law, names), limits)
    return own.rows("exceedance", _WINDOWS, limits)


def _noise_terms(keys: Sequence[SeriesKey], facts: CityFacts, _: object) -> Terms:
    limits = [np.nan if limit is None else limit for limit in facts.noise_limits_db]
    return {"limit_db": np.repeat(np.array(limits)[:, np.newaxis], len(keys), axis=1)}


def _noise_answer(state: Any, wave: Wave, terms: Terms) -> tuple[Answer, ...]:
    count = len(wave.value)
    fixed = noise.Terms(np.full(count, _HOLD_NS), wave.utc_offset_ns, terms["limit_db"])
    return (noise.judge(state, wave.time_ns, wave.value, wave.usable, fixed),)


_NOISE: Final = Kernel(
    name="noise",
    quantities=frozenset({"LAeq"}),
    kinds=(Kind("noise", CITY, Rule(3, 3, 10, HOUR_NS), {0: "minor", noise.CERTAIN: "major"}),),
    new_state=noise.new_state,
    terms=_noise_terms,
    judge=_noise_answer,
    watched=lambda terms: (is_known(terms["limit_db"]),),
    thresholds=lambda terms, own: {
        "limit_db": own.rows("noise", ("day_db", "evening_db", "night_db"), terms["limit_db"])
    },
    expected=lambda _terms, _place, usual: usual,
)


def _service_terms(keys: Sequence[SeriesKey], facts: CityFacts, _: object) -> Terms:
    free_flow, length = facts.of_sensors("free_flow_kmh"), facts.of_sensors("seen_length_m")
    free_flow_kmh = np.array(
        [
            free_flow.get(key.sensor, np.nan) if key.quantity == "averageVehicleSpeed" else np.nan
            for key in keys
        ],
        np.float64,
    )
    speed = service_level.speed_terms(free_flow_kmh)
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
    edges = np.where(falling == 1.0, speed.edges, occupancy.edges)
    return {"edges": edges, "falling": falling, "free_flow_kmh": free_flow_kmh}


def _service_thresholds(terms: Terms, own: Own) -> Terms:
    del terms
    named = own.values("service-level", "speak_from")
    levels = [
        _WORST_LEVEL if one is None else service_level.LEVEL_NAMES.index(one) + 1 for one in named
    ]
    return {"speak_from": np.array(levels or _WORST_LEVEL, np.intp)}


# The manual means a quarter of an hour.
_SERVICE_LEVEL: Final = Kernel(
    name="service-level",
    quantities=frozenset({"averageVehicleSpeed", "occupancy"}),
    kinds=(Kind("service-level", CITY, Rule(12, 15, 10, HOUR_NS), {0: "minor", 6: "major"}),),
    new_state=service_level.new_state,
    terms=_service_terms,
    judge=lambda state, wave, terms: (
        service_level.judge(
            state,
            wave.time_ns,
            wave.value,
            wave.usable,
            service_level.Terms(terms["edges"], terms["falling"]),
            terms["speak_from"],
        ),
    ),
    watched=lambda terms: (is_known(terms["edges"]),),
    thresholds=_service_thresholds,
    # Of a street how fast one drives when it is empty.
    expected=lambda terms, place, _usual: float(terms["free_flow_kmh"][place]),
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
            Rule(2, 3, 10, 10 * MINUTE_NS),
            {0: "major", crowd.TOUCHING + 1: "critical"},
            unit="{person}/m2",
        ),
    ),
    new_state=crowd.new_state,
    terms=_crowd_terms,
    judge=lambda state, wave, terms: (
        crowd.judge(
            state, wave.time_ns, wave.value, wave.usable, terms["area_m2"], terms["speaks_from"]
        ),
    ),
    watched=lambda terms: (is_known(terms["area_m2"]),),
    thresholds=lambda _terms, own: {
        "speaks_from": own.number("crowd", "persons_per_m2", crowd.SPEAKS_FROM)
    },
    expected=lambda terms, place, usual: usual / float(terms["area_m2"][place]),
)


def _incident_terms(keys: Sequence[SeriesKey], facts: CityFacts, slot_of: SlotOf) -> Terms:
    ahead = {
        sensor: group.sensors[place + 1]
        for group in facts.groups.values()
        if group.kind == "road"
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


def _incident_answer(state: Any, wave: Wave, terms: Terms) -> tuple[Answer, ...]:
    def of(slots: NDArray[np.int64]) -> Floats:
        found: Floats = np.where(slots >= 0, wave.means[slots], np.nan)
        return found

    occupancy = of(terms["ahead"])
    ahead = incident.Downstream(
        np.where(np.isnan(occupancy), NEVER, wave.time_ns), occupancy, of(terms["speed"])
    )
    thresholds = incident.Thresholds(
        difference=terms["difference"],
        relative_difference=terms["relative_difference"],
        downstream_fall=terms["downstream_fall"],
        speed_fall=terms["speed_fall"],
    )
    found = incident.judge(state, wave.time_ns, wave.value, wave.usable, ahead, thresholds)
    return (found,)


def _incident_thresholds(terms: Terms, own: Own) -> Terms:
    del terms
    defaults = incident.Thresholds()
    return {name: own.number("incident", name, getattr(defaults, name)) for name in _OF_INCIDENTS}


# The tree has its own persistence: it speaks of what two minutes have confirmed.
_INCIDENT: Final = Kernel(
    name="incident",
    quantities=frozenset({"occupancy"}),
    kinds=(Kind("incident", CITY, Rule(1, 1, 3, 5 * MINUTE_NS), _MAJOR),),
    new_state=incident.new_state,
    terms=_incident_terms,
    judge=_incident_answer,
    watched=lambda terms: (terms["ahead"] >= 0,),
    thresholds=_incident_thresholds,
    of_neighbours=True,
)

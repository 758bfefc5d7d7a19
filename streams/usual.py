"""The kernels that learn first what is usual: of an hour, of a level, of neighbours, of a clock.

What they find is less certain than a limit of law, and several of them may speak of one cause. So
what is unusual for the hour is told where nothing is open of the series that people are told of
anyway, and a level that has changed, a value that does not follow from those before, or one that
was never seen, is shown and told to nobody.
"""

from collections.abc import Sequence
from itertools import chain, islice
from typing import Any, Final, NamedTuple

import numpy as np

from detectors import (
    CITY,
    HEALTH,
    autoregression,
    clock_skew,
    drift,
    record,
    season,
    shift,
    tampering,
)
from detectors.episodes import Rule
from detectors.finding import Answer
from detectors.local_time import day_numbers
from ingest.quantities import QUANTITIES
from ingest.topics import SeriesKey
from streams.facts import CityFacts
from streams.judging import (
    HOUR_NS,
    Kernel,
    Kind,
    Own,
    SlotOf,
    Terms,
    Watched,
    Wave,
    everywhere,
    least,
    least_of,
)

# A spread is never taken to be less than this share of the least difference that matters.
_SPREAD_SHARE: Final = 0.25
# Variance over mean of counts: a party walks together, a platoon leaves the signal together.
_DISPERSION: Final = 4.0
_PEOPLE: Final = frozenset({"peopleCount", "occupancyCount"})
_COUNTS: Final = _PEOPLE | {"intensity"}
# What goes with the hours of a city by itself; the rest goes with these, or with the weather. A
# profile takes 800 bytes a series.
_RHYTHMIC: Final = frozenset({"intensity", "LAeq"})
_MOST_NEIGHBOURS: Final = 7
# What `drift` asks for.
_LEAST_NEIGHBOURS: Final = 3
# What bridges themselves call wrong (`[bridge]` clock_ahead_s) is a flag on every reading already;
# behind, there is no telling a clock from an uplink that stores and forwards.
_AHEAD_S: Final = 5.0


def usual(facts: CityFacts) -> tuple[Kernel, ...]:
    """Return the kernels over the hours of the week, of forecasts and of records."""
    return (
        _profile("usual", _RHYTHMIC, facts, (_SEASON, _SHIFT)),
        _profile("usual-people", _PEOPLE, facts, (_SEASON, _SHIFT, _TAMPERING)),
        _FORECAST,
        _NOVELTY,
    )


# A quarter of an hour: a camera that is covered is found out before, and then nothing else counts.
_SEASON: Final = Kind(
    "season",
    CITY,
    Rule(15, 15, 10, HOUR_NS),
    {0: "minor"},
    told="alone",
    is_scored=True,
    is_of_values=True,
)
# The sums have a persistence of their own, of hours.
_SHIFT: Final = Kind(
    "shift",
    CITY,
    Rule(3, 3, 3, HOUR_NS),
    {0: "informational"},
    told="never",
    is_scored=True,
    is_of_values=True,
)
_TAMPERING: Final = Kind("tampering", HEALTH, Rule(1, 1, 5, HOUR_NS), {0: "major"}, is_scored=True)
_OF_KIND: Final[dict[str, Any]] = {"season": season, "shift": shift, "tampering": tampering}


def _profile(
    name: str, quantities: frozenset[str], facts: CityFacts, kinds: tuple[Kind, ...]
) -> Kernel:
    """Return the kernels that share a profile of the hours of the week, as one."""
    modules = [_OF_KIND[kind.name] for kind in kinds]
    names = [
        (f"{kind.name}_{column}", np.ndarray)
        for kind, module in zip(kinds, modules, strict=True)
        for column in module.State._fields
    ]
    # Its columns are those of the kinds that it is made for.
    columns: Any = NamedTuple("columns", names)  # type: ignore[misc]
    holidays = day_numbers(facts.holidays)

    def new_state(count: int) -> Any:
        return columns._make(chain.from_iterable(module.new_state(count) for module in modules))

    def terms(keys: Sequence[SeriesKey], facts: CityFacts, slot_of: SlotOf) -> Terms:
        del facts, slot_of
        dispersion = [_DISPERSION if key.quantity in _COUNTS else 0.0 for key in keys]
        return {
            "least": least_of(keys, _SPREAD_SHARE),
            "dispersion": np.array(dispersion, np.float64),
        }

    def judge(state: Any, wave: Wave, terms: Terms) -> tuple[Answer, ...]:
        rest = iter(state)
        parts = [module.State._make(islice(rest, len(module.State._fields))) for module in modules]
        fixed = season.Terms(wave.utc_offset_ns, terms["least"], terms["dispersion"])
        arguments = (wave.time_ns, wave.value, wave.usable)
        found, norm = season.judge(parts[0], *arguments, fixed, holidays)
        answers = [found, shift.judge(parts[1], *arguments, norm)]
        empty = tampering.Thresholds(terms["evidence_nats"], least_ns=terms["least_ns"])
        answers += [tampering.judge(part, *arguments, norm.level, empty) for part in parts[2:]]
        return tuple(answers)

    def thresholds(terms: Terms, own: Own) -> Terms:
        del terms
        chance = own.number("tampering", "chance", np.nan)
        least_s = own.number("tampering", "least_s", tampering.LEAST_NS / 1e9)
        return {
            "evidence_nats": np.where(np.isnan(chance), tampering.EVIDENCE_NATS, -np.log(chance)),
            "least_ns": (least_s * 1e9).astype(np.int64),
        }

    def watched(terms: Terms) -> Watched:
        return everywhere(terms) * len(kinds)

    def of_hour(state: Any, place: int, local_ns: int) -> float:
        profile = season.State._make(islice(iter(state), len(season.State._fields)))
        found = season.hourly(profile, np.array([place]), np.array([local_ns]), holidays)
        return float(found[0])

    return Kernel(
        name, quantities, kinds, new_state, terms, judge, watched, thresholds, usual=of_hour
    )


# By itself a value that surprises is no reason to wake anybody: `level` tells of those that stay.
_FORECAST: Final = Kernel(
    name="forecast",
    quantities=_RHYTHMIC | _PEOPLE,
    kinds=(
        Kind(
            "forecast",
            CITY,
            Rule(2, 3, 5, HOUR_NS),
            {0: "informational"},
            told="never",
            is_scored=True,
            is_of_values=True,
        ),
    ),
    new_state=autoregression.new_state,
    terms=least(_SPREAD_SHARE),
    judge=lambda state, wave, terms: (
        autoregression.judge(state, wave.time_ns, wave.value, wave.usable, terms["least"]),
    ),
    watched=everywhere,
)


def _novelty_answer(state: Any, wave: Wave, terms: Terms) -> tuple[Answer, ...]:
    del terms
    return (record.judge(state, wave.time_ns, wave.value, wave.usable, wave.utc_offset_ns),)


# What breaks a record is the record: the next five minutes are held against it, so one mean tells
# of it or none does. It is over after an hour of them, and rests for as long as the score is muted.
# Sensors that report every five or ten minutes break their records more often than people should
# be told: it is recorded and shown.
_NOVELTY: Final = Kernel(
    name="novelty",
    quantities=frozenset(name for name, row in QUANTITIES.items() if row.least > 0.0),
    kinds=(
        Kind(
            "novelty",
            CITY,
            Rule(1, 1, 12, 8 * HOUR_NS),
            {0: "minor"},
            told="never",
            is_scored=True,
            is_of_values=True,
        ),
    ),
    new_state=record.new_state,
    terms=least(_SPREAD_SHARE),
    judge=_novelty_answer,
    watched=everywhere,
)


def _drift_terms(keys: Sequence[SeriesKey], facts: CityFacts, slot_of: SlotOf) -> Terms:
    neighbours = np.full((_MOST_NEIGHBOURS, len(keys)), -1, np.int64)
    group_of = {
        sensor: group.sensors
        for group in facts.groups.values()
        if group.kind == "neighbours"
        for sensor in group.sensors
    }
    for place, key in enumerate(keys):
        sensors = group_of.get(key.sensor, ())
        slots = (slot_of.get((one, key.quantity), -1) for one in sensors if one != key.sensor)
        nearest = [slot for slot in slots if slot >= 0][:_MOST_NEIGHBOURS]
        neighbours[: len(nearest), place] = nearest
    return {"neighbours": neighbours, "tolerance": least_of(keys, 1.0)}


def _drift_answer(state: Any, wave: Wave, terms: Terms) -> tuple[Answer, ...]:
    slots = terms["neighbours"]
    neighbours = np.where(slots >= 0, wave.means[slots], np.nan)
    return (
        drift.judge(state, wave.time_ns, wave.value, wave.usable, neighbours, terms["tolerance"]),
    )


# What it says moves once a day: hours of it are no record, and its own limit decides.
DRIFT: Final = Kernel(
    name="drift",
    quantities=frozenset({"temperature", "relativeHumidity", "pm25", "pm10", "no2", "o3"}),
    kinds=(Kind("drift", HEALTH, Rule(15, 15, 15, HOUR_NS), {0: "minor"}),),
    new_state=drift.new_state,
    terms=_drift_terms,
    judge=_drift_answer,
    watched=lambda terms: ((terms["neighbours"] >= 0).sum(axis=0) >= _LEAST_NEIGHBOURS,),
    thresholds=lambda terms, own: {
        "tolerance": own.rows("drift", ("tolerance",), terms["tolerance"][np.newaxis])[0]
    },
    of_neighbours=True,
)


def _clock_answer(state: Any, wave: Wave, terms: Terms) -> tuple[Answer, ...]:
    count = len(wave.value)
    limits = clock_skew.Limits(
        *(np.broadcast_to(terms[name], count) for name in ("ahead_s", "behind_s"))
    )
    return (clock_skew.judge(state, wave.time_ns, wave.value, wave.usable, limits),)


def _no_terms(keys: Sequence[SeriesKey], facts: CityFacts, slot_of: SlotOf) -> Terms:
    del facts, slot_of
    return {"least": np.ones(len(keys))}


CLOCK_SKEW: Final = Kernel(
    name="clock-skew",
    quantities=frozenset(),
    kinds=(Kind("clock-skew", HEALTH, Rule(5, 5, 60, HOUR_NS), {0: "minor"}, unit="s"),),
    new_state=clock_skew.new_state,
    terms=_no_terms,
    judge=_clock_answer,
    watched=everywhere,
    thresholds=lambda _terms, own: {
        "ahead_s": own.number("clock-skew", "ahead_s", _AHEAD_S),
        "behind_s": own.number("clock-skew", "behind_s", np.inf),
    },
    of_clocks=True,
)

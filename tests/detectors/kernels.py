"""Every kernel with its twin, and streams that bring out its branches."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors import (
    NEVER,
    air_quality,
    autoregression,
    averages,
    clock_skew,
    crowd,
    drift,
    exceedance,
    incident,
    noise,
    noise_change,
    record,
    season,
    service_level,
    shift,
    spike,
    tampering,
)
from detectors.air_quality_tables import (
    AQI_2018,
    AQI_2024,
    EAQI_2024,
    EAQI_BEFORE_2024,
    POLLUTANTS,
)
from detectors.finding import Finding
from detectors.novelty import NoveltyConfig
from tests.detectors import naive_kernels as naive
from tests.detectors import naive_minutes

SERIES = 6
S = 10**9
Rng = np.random.Generator
Columns = dict[str, NDArray[Any]]
# Fixed for a series, by name; what belongs to a row, by name.
Step = Callable[[Any, NDArray[Any], NDArray[Any], NDArray[Any], Columns, Columns], Finding]


@dataclass(frozen=True)
class Kernel:
    name: str
    new_state: Callable[[int], Any]
    step: Step
    twin: Callable[..., Any]
    terms: Columns
    values: Callable[[Rng, int], NDArray[np.float64]]
    calm: float  # a value that never speaks, however long it lasts
    extras: Callable[[Rng, NDArray[np.int64], NDArray[np.float64]], Columns] = (
        lambda _rng, _time_ns, _value: {}
    )
    steps_s: tuple[int, ...] = (20, 60, 240)
    judges_first: bool = False  # whether one reading is enough
    length: int = 1  # how many times as long a stream has to be to bring out its branches
    calm_days: int = 1  # after which it judges
    calm_step_s: int = 60
    gap_share: float = 0.01
    close: float = 1e-9  # to the twin, relative
    is_scored: bool = False  # it states no fact, but how improbable a reading is


HOLD_NS = np.array([120, 1800, 3600, 7200, 1200, 900]) * S
OFFSET_NS = np.array([0, 3600, -18000, 19800, 7200, 0]) * S
SLOW = (60, 700, 1500, 3600)
HOLIDAYS = np.array(naive_minutes.HOLIDAYS)
# So that streams of some hundred readings reach every branch.
EAGER_NOVELTY = NoveltyConfig(warm_up=10, mute_for=20, fade_over=50.0)
EAGER_LEARNING_NS = 7200 * S
POLLUTANT = np.arange(SERIES) % len(POLLUTANTS)
NAMES = [POLLUTANTS[one] for one in POLLUTANT]


def concentrations(rng: Rng, count: int) -> NDArray[np.float64]:
    return rng.lognormal(rng.choice([1.0, 3.5, 4.5, 5.7, 6.5]), 0.8, count)


def average_terms(terms: Columns) -> averages.Terms:
    return averages.Terms(
        terms["hold_ns"], terms.get("utc_offset_ns", np.zeros_like(terms["hold_ns"]))
    )


def limits(standard: str) -> Kernel:
    limit = exceedance.limit_columns(standard, NAMES)
    return Kernel(
        f"exceedance {standard}",
        exceedance.new_state,
        lambda state, time_ns, value, usable, terms, _: exceedance.step(
            state, time_ns, value, usable, average_terms(terms), terms["limit"]
        ),
        naive.Exceedance,
        {"hold_ns": HOLD_NS, "utc_offset_ns": OFFSET_NS, "limit": limit},
        concentrations,
        calm=2.0,
        steps_s=SLOW,
    )


def european(name: str, bands: Any) -> Kernel:
    return Kernel(
        f"European air quality {name}",
        air_quality.new_state,
        lambda state, time_ns, value, usable, terms, _: air_quality.european_step(
            state, time_ns, value, usable, average_terms(terms), terms["pollutant"], bands, 4
        ),
        lambda hold_ns, pollutant, speak_from=4: naive.European(
            hold_ns, POLLUTANTS[pollutant], bands, speak_from
        ),
        {"hold_ns": HOLD_NS, "pollutant": POLLUTANT},
        concentrations,
        calm=4.0,
        steps_s=SLOW,
    )


def american(name: str, scales: Any) -> Kernel:
    return Kernel(
        f"U.S. air quality {name}",
        air_quality.new_state,
        lambda state, time_ns, value, usable, terms, _: air_quality.united_states_step(
            state, time_ns, value, usable, average_terms(terms), terms["pollutant"], scales, 3
        ),
        lambda hold_ns, pollutant: naive.UnitedStates(hold_ns, POLLUTANTS[pollutant], scales, 3),
        {"hold_ns": HOLD_NS, "pollutant": POLLUTANT},
        concentrations,
        calm=4.0,
        steps_s=SLOW,
    )


def sound_levels(rng: Rng, count: int) -> NDArray[np.float64]:
    level = rng.normal(rng.choice([45.0, 62.0, 80.0]), 5.0, count)
    level[rng.random(count) < 0.02] = rng.choice([120.0, 260.0, -80.0])
    return level


def blocks(rng: Rng, count: int, choices: list[tuple[float, float]]) -> NDArray[np.float64]:
    """Stretches of normal values, each from one of (mean, spread)."""
    value = np.empty(count)
    start = 0
    while start < count:
        stop = start + int(rng.integers(1, 60))
        mean, spread = choices[rng.integers(len(choices))]
        value[start:stop] = rng.normal(mean, spread, len(value[start:stop]))
        start = stop
    return value


def far_readings(rng: Rng, count: int) -> NDArray[np.float64]:
    value = blocks(rng, count, [(10.0, 1.0), (10.0, 1.0), (10.0, 0.0), (80.0, 1.0)])
    value = np.round(value, int(rng.integers(0, 4)))
    off = rng.random(count) < 0.05
    value[off] += rng.normal(0.0, rng.choice([8.0, 20.0, 200.0]), off.sum())
    return value


def pair_extras(rng: Rng, time_ns: NDArray[np.int64], value: NDArray[np.float64]) -> Columns:
    count = len(value)
    ratio = rng.choice([0.1, 0.3, 0.6, 1.0, 2.0], count)
    other_ns = time_ns - rng.choice([0, 30, 60, 61], count, p=[0.7, 0.2, 0.05, 0.05]) * S
    other_ns[rng.random(count) < 0.01] = NEVER
    speed = np.where(rng.random(count) < 0.3, np.nan, rng.uniform(5.0, 90.0, count))
    other = value * ratio
    odd = rng.random(count) < 0.03
    other[odd] = rng.choice([np.nan, np.inf, 0.0], odd.sum())
    return {"other_ns": other_ns, "other": other, "speed": speed}


def counts(rng: Rng, count: int) -> NDArray[np.float64]:
    value = rng.poisson(np.maximum(blocks(rng, count, [(0.0, 0.0), (12.0, 2.0)]), 0.0))
    return value.astype(np.float64)


def usual_counts(rng: Rng, time_ns: NDArray[np.int64], value: NDArray[np.float64]) -> Columns:
    usual = np.full(len(value), rng.choice([0.0, 1.0, 15.0, 60.0]))
    usual += (time_ns // (3600 * S)) % 3
    usual[rng.random(len(value)) < 0.02] = np.nan
    return {"usual": usual}


def busy_hours(rng: Rng, count: int) -> NDArray[np.float64]:
    value = blocks(rng, count, [(20.0, 2.0), (20.0, 2.0), (22.0, 5.0), (20.0, 0.0)])
    off = rng.random(count) < 0.04
    value[off] += rng.choice([-200.0, 60.0, 300.0, 1e12], off.sum())
    return value


def wandering(rng: Rng, count: int) -> NDArray[np.float64]:
    value = blocks(rng, count, [(20.0, 1.0), (20.0, 1.0), (20.0, 0.0), (60.0, 3.0)])
    for row in range(1, count):
        value[row] += 0.7 * (value[row - 1] - 20.0)
    off = rng.random(count) < 0.02
    value[off] += rng.normal(0.0, rng.choice([20.0, 500.0]), off.sum())
    return value


def steps(rng: Rng, count: int) -> NDArray[np.float64]:
    """Long stretches, most of them as ever, some of them moved."""
    value = np.empty(count)
    start = 0
    while start < count:
        stop = start + int(rng.choice([3, 10, 60, 120]))
        mean = rng.choice([5.0, 5.0, 5.0, 9.0, -20.0])
        value[start:stop] = rng.normal(mean, 1.0, len(value[start:stop]))
        start = stop
    return value


def usual_level(rng: Rng, time_ns: NDArray[np.int64], value: NDArray[np.float64]) -> Columns:
    usual = np.round(np.sin(time_ns / (4000.0 * S)), 2)
    usual[rng.random(len(value)) < 0.02] = rng.choice([np.nan, np.inf])
    spread = np.full(len(value), rng.choice([0.01, 1.0, 20.0])) * (1.0 + (time_ns // S) % 3)
    return {"usual": usual, "spread": spread}


def walks(rng: Rng, count: int) -> NDArray[np.float64]:
    slope = rng.choice([0.0, 0.0, 0.02, -0.02])
    return 10.0 + np.maximum(np.arange(count) - count / 3, 0.0) * slope + rng.normal(0, 0.3, count)


def near_by(rng: Rng, _time_ns: NDArray[np.int64], value: NDArray[np.float64]) -> Columns:
    around = 10.0 + rng.normal(0.0, 0.3, (len(value), 5))
    around[rng.random(around.shape) < 0.1] = rng.choice([np.nan, np.inf])
    return {"neighbours": around}


def lags(rng: Rng, count: int) -> NDArray[np.float64]:
    way = 0.2 + rng.exponential(2.0, count)
    slope = rng.choice([0.0, 0.0, 0.5, -0.05, 5.0])
    return way * rng.choice([1.0, 0.01]) + np.arange(count) * slope


SHIPPED = (
    *(limits(standard) for standard in exceedance.STANDARDS),
    european("2024", EAQI_2024),
    european("before 2024", EAQI_BEFORE_2024),
    american("2024", AQI_2024),
    american("2018", AQI_2018),
    Kernel(
        "noise",
        noise.new_state,
        lambda state, time_ns, value, usable, terms, _: noise.step(
            state, time_ns, value, usable, noise.Terms(**terms)
        ),
        naive.Noise,
        {
            "hold_ns": HOLD_NS,
            "utc_offset_ns": OFFSET_NS,
            "limit_db": np.array([[65.0] * SERIES, [60.0] * SERIES, [55.0, 45.0, np.nan] * 2]),
        },
        sound_levels,
        calm=30.0,
        steps_s=SLOW,
    ),
    Kernel(
        "service level by speed",
        service_level.new_state,
        lambda state, time_ns, value, usable, terms, _: service_level.step(
            state, time_ns, value, usable, service_level.speed_terms(terms["free_flow_kmh"]), 6
        ),
        lambda free_flow_kmh, speak_from=6: naive.Speed(free_flow_kmh, speak_from),
        {"free_flow_kmh": np.array([50.0, 30.0, 61.3, 120.0, np.nan, 72.0])},
        lambda rng, count: rng.uniform(0.0, 90.0, count),
        calm=70.0,
        judges_first=True,
    ),
    Kernel(
        "service level by occupancy",
        service_level.new_state,
        lambda state, time_ns, value, usable, terms, _: service_level.step(
            state, time_ns, value, usable, service_level.occupancy_terms(terms["seen_length_m"]), 5
        ),
        lambda seen_length_m: naive.Occupancy(seen_length_m, 5),
        {"seen_length_m": np.array([6.5, 5.0, 8.1, np.nan, 6.5, 12.0])},
        lambda rng, count: rng.uniform(0.0, 0.5, count),
        calm=0.01,
        judges_first=True,
    ),
    Kernel(
        "crowd",
        crowd.new_state,
        lambda state, time_ns, value, usable, terms, _: crowd.step(
            state, time_ns, value, usable, terms["area_m2"]
        ),
        naive.Crowd,
        {"area_m2": np.array([10.0, 120.0, np.nan, 0.0, np.inf, 33.3])},
        lambda rng, count: rng.integers(0, 300, count).astype(np.float64),
        calm=3.0,
        judges_first=True,
    ),
    Kernel(
        "incident",
        incident.new_state,
        lambda state, time_ns, value, usable, _, extras: incident.step(
            state,
            time_ns,
            value,
            usable,
            incident.Downstream(extras["other_ns"], extras["other"], extras["speed"]),
        ),
        naive.Incident,
        {},
        lambda rng, count: np.abs(blocks(rng, count, [(0.05, 0.02), (0.4, 0.1), (0.2, 0.1)])),
        calm=0.1,
        extras=pair_extras,
        judges_first=True,
    ),
    Kernel(
        "spike",
        spike.new_state,
        lambda state, time_ns, value, usable, terms, _: spike.step(
            state, time_ns, value, usable, terms["least_jump"]
        ),
        naive.Spike,
        {"least_jump": np.array([0.5, 5.0, 50.0, 0.5, 1.0, 0.0])},
        far_readings,
        calm=10.0,
        is_scored=True,
    ),
    Kernel(
        "noise change",
        noise_change.new_state,
        lambda state, time_ns, value, usable, terms, _: noise_change.step(
            state, time_ns, value, usable, terms["least"]
        ),
        naive.NoiseChange,
        {"least": np.array([0.01, 0.1, 1.0, 0.01, 0.3, 1e-6])},
        lambda rng, count: blocks(rng, count, [(20.0, 0.5), (20.0, 8.0), (21.0, 0.0)]),
        calm=10.0,
        is_scored=True,
    ),
    Kernel(
        "tampering",
        tampering.new_state,
        lambda state, time_ns, value, usable, _, extras: tampering.step(
            state, time_ns, value, usable, extras["usual"]
        ),
        naive.Tampering,
        {},
        counts,
        calm=4.0,
        extras=usual_counts,
        judges_first=True,
        is_scored=True,
    ),
    Kernel(
        "season",
        season.new_state,
        lambda state, time_ns, value, usable, terms, _: season.step(
            state, time_ns, value, usable, season.Terms(**terms), HOLIDAYS
        ),
        naive_minutes.Season,
        {
            "utc_offset_ns": OFFSET_NS,
            "least": np.array([0.01, 0.1, 3.0, 0.01, 0.3, 1e-6]),
            "dispersion": np.array([0.0, 1.0, 0.0, 4.0, 0.0, 0.0]),
        },
        busy_hours,
        calm=10.1,
        steps_s=(1200, 2400, 5400),
        length=4,
        calm_days=5,
        calm_step_s=600,
        gap_share=0.002,
        is_scored=True,
    ),
    Kernel(
        "record",
        record.new_state,
        lambda state, time_ns, value, usable, terms, _: record.step(
            state,
            time_ns,
            value,
            usable,
            terms["utc_offset_ns"],
            EAGER_NOVELTY,
            EAGER_LEARNING_NS,
        ),
        lambda utc_offset_ns: naive_minutes.Record(utc_offset_ns, EAGER_NOVELTY, EAGER_LEARNING_NS),
        {"utc_offset_ns": OFFSET_NS},
        wandering,
        calm=10.1,
        steps_s=(120, 600, 1800),
        length=2,
        calm_step_s=600,
        is_scored=True,
    ),
    Kernel(
        "autoregression",
        autoregression.new_state,
        lambda state, time_ns, value, usable, terms, _: autoregression.step(
            state, time_ns, value, usable, terms["least"]
        ),
        naive_minutes.Autoregression,
        {"least": np.array([0.01, 0.1, 3.0, 0.01, 0.3, 1e-3])},
        wandering,
        calm=10.1,
        length=2,
        # What the squares of distances leave of the last bits, where a history hardly varies.
        close=1e-4,
        is_scored=True,
    ),
    Kernel(
        "shift",
        shift.new_state,
        lambda state, time_ns, value, usable, _, extras: shift.step(
            state, time_ns, value, usable, shift.Usual(extras["usual"], extras["spread"])
        ),
        naive_minutes.Shift,
        {},
        steps,
        calm=10.1,
        extras=usual_level,
        steps_s=(300, 900, 1200),
        length=3,
        calm_days=2,
        calm_step_s=300,
        is_scored=True,
    ),
    Kernel(
        "drift",
        drift.new_state,
        lambda state, time_ns, value, usable, terms, extras: drift.step(
            state,
            time_ns,
            value,
            usable,
            np.ascontiguousarray(extras["neighbours"].T),
            terms["tolerance"],
        ),
        naive_minutes.Drift,
        {"tolerance": np.array([0.5, 0.5, 1.0, 0.2, 2.0, 1e-6])},
        walks,
        calm=10.1,
        extras=near_by,
        steps_s=(3000, 3600, 5000),
        length=6,
        calm_days=16,
        calm_step_s=1800,
        gap_share=0.002,
        is_scored=True,
    ),
    Kernel(
        "clock skew",
        clock_skew.new_state,
        lambda state, time_ns, value, usable, terms, _: clock_skew.step(
            state, time_ns, value, usable, clock_skew.Limits(**terms)
        ),
        naive_minutes.ClockSkew,
        {
            "ahead_s": np.array([0.5, 2.0, 2.0, 5.0, np.inf, 60.0]),
            "behind_s": np.array([30.0, 60.0, 60.0, 900.0, 5.0, np.inf]),
        },
        lags,
        calm=0.4,
        steps_s=(60, 600, 3000),
        judges_first=True,
    ),
)


def told_otherwise(name: str, step: Step, **columns: Any) -> Kernel:
    """Return a kernel whose series have thresholds of their own."""
    (kernel,) = (one for one in SHIPPED if one.name == name)
    own = {column: np.array(values) for column, values in columns.items()}
    return replace(kernel, name=f"{name}, told otherwise", step=step, terms=kernel.terms | own)


KERNELS = (
    *SHIPPED,
    told_otherwise(
        "service level by speed",
        lambda state, time_ns, value, usable, terms, _: service_level.step(
            state,
            time_ns,
            value,
            usable,
            service_level.speed_terms(terms["free_flow_kmh"]),
            terms["speak_from"],
        ),
        speak_from=[2, 3, 4, 5, 6, 6],
    ),
    told_otherwise(
        "European air quality 2024",
        lambda state, time_ns, value, usable, terms, _: air_quality.european_step(
            state,
            time_ns,
            value,
            usable,
            average_terms(terms),
            terms["pollutant"],
            EAQI_2024,
            terms["speak_from"],
        ),
        speak_from=[2, 3, 4, 5, 6, 6],
    ),
    told_otherwise(
        "crowd",
        lambda state, time_ns, value, usable, terms, _: crowd.step(
            state, time_ns, value, usable, **terms
        ),
        speaks_from=[0.5, 2.0, 3.57, 1.0, 1.0, 5.55],
    ),
    told_otherwise(
        "incident",
        lambda state, time_ns, value, usable, terms, extras: incident.step(
            state,
            time_ns,
            value,
            usable,
            incident.Downstream(extras["other_ns"], extras["other"], extras["speed"]),
            incident.Thresholds(**terms),
        ),
        difference=[0.01, 0.2, 0.08, 0.08, 0.08, 0.3],
        relative_difference=[0.5, 0.5, 0.2, 0.9, 0.5, 0.3],
        downstream_fall=[0.3, 0.3, 0.3, 0.1, 0.8, 0.2],
        speed_fall=[0.2, 0.5, 0.2, 0.2, 0.01, 0.1],
    ),
    told_otherwise(
        "spike",
        lambda state, time_ns, value, usable, terms, _: spike.step(
            state, time_ns, value, usable, **terms
        ),
        far_spreads=[3.0, 5.0, 10.0, 20.0, 40.0, 2.0],
    ),
    told_otherwise(
        "noise change",
        lambda state, time_ns, value, usable, terms, _: noise_change.step(
            state, time_ns, value, usable, **terms
        ),
        louder=[2.0, 4.0, 8.0, 100.0, 1e4, 8.0],
        quieter=[0.5, 1e-4, 1.0 / 16.0, 0.25, 0.1, 0.9],
    ),
    told_otherwise(
        "tampering",
        lambda state, time_ns, value, usable, terms, extras: tampering.step(
            state, time_ns, value, usable, extras["usual"], tampering.Thresholds(**terms)
        ),
        evidence_nats=[5.0, 10.0, 20.7, 50.0, 1.0, 20.7],
        least_ns=[60 * S, 600 * S, 300 * S, 600 * S, 1200 * S, 1800 * S],
    ),
)


@dataclass(frozen=True)
class Stream:
    series: NDArray[np.intp]
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    usable: NDArray[np.bool_]
    extras: Columns

    def __len__(self) -> int:
        return len(self.series)

    def rows(self, keep: Any) -> "Stream":
        extras = {name: column[keep] for name, column in self.extras.items()}
        return Stream(
            self.series[keep], self.time_ns[keep], self.value[keep], self.usable[keep], extras
        )


def stream(kernel: Kernel, seed: int, rows: int = 500) -> Stream:
    """Return an irregular stream: gaps, full hours, readings that are none."""
    rows *= kernel.length
    rng = np.random.default_rng(seed)
    weights = rng.random(SERIES) ** 2 + 0.05
    series = rng.choice(SERIES, rows, p=weights / weights.sum())
    pace_s = rng.choice(kernel.steps_s) * rng.choice([1.0, 0.3])
    exact = rng.random() < 0.4
    time_ns = np.empty(rows, np.int64)
    value = np.empty(rows)
    begin = int(rng.choice([0, 1_700_000_000, -100_000])) * S
    for one in range(SERIES):
        mine = np.flatnonzero(series == one)
        wait_s = np.full(len(mine), pace_s) if exact else rng.exponential(pace_s, len(mine))
        gaps = rng.random(len(mine)) < kernel.gap_share
        wait_s[gaps] += rng.choice([700.0, 4000.0, 20_000.0, 300_000.0], gaps.sum())
        time_ns[mine] = begin + np.cumsum(np.maximum((wait_s * 1e9).astype(np.int64), 1))
        value[mine] = kernel.values(rng, len(mine))
    extras = kernel.extras(rng, time_ns, value)
    usable = rng.random(rows) > 0.03
    strange = rng.random(rows) < 0.03
    value[strange] = rng.choice([np.nan, np.inf, -np.inf, 1e300, -1e200], strange.sum())
    return Stream(series, time_ns, value, usable, extras)


def run(
    kernel: Kernel,
    state: Any,
    told: Stream,
    cuts: list[int] | None = None,
    terms: Columns | None = None,
) -> Finding:
    """Judge a stream in batches, each wave by wave; move the state on."""
    terms = kernel.terms if terms is None else terms
    cuts = [0, len(told)] if cuts is None else cuts
    found: list[tuple[NDArray[np.intp], Finding]] = []
    for start, stop in pairwise(cuts):
        rank = np.zeros(stop - start, np.intp)
        for one in np.unique(told.series[start:stop]):
            mine = told.series[start:stop] == one
            rank[mine] = np.arange(mine.sum())
        for wave in range(rank.max(initial=-1) + 1):
            rows = start + np.flatnonzero(rank == wave)
            part = told.rows(rows)
            mine = type(state)(*(column[..., part.series] for column in state))
            with np.errstate(all="ignore"):
                finding = kernel.step(
                    mine,
                    part.time_ns,
                    part.value,
                    part.usable,
                    {name: column[..., part.series] for name, column in terms.items()},
                    part.extras,
                )
            for column, changed in zip(state, mine, strict=True):
                column[..., part.series] = changed
            found.append((rows, finding))
    order = np.argsort(np.concatenate([rows for rows, _ in found]))
    columns = zip(*(finding for _, finding in found), strict=True)
    return Finding(*(np.concatenate(column)[order] for column in columns))

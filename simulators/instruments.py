"""What each kind of sensor measures, and the physics that ties its quantities together.

A model turns the rhythm of the city, the traits of a sensor and unit noise into readings. With
zero noise it gives the level; the noise enters before the physics, so occupancy, speed and
headway stay coherent with the flow. Readings stand for one observation period of five minutes,
however often a run lets the sensors report.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from simulators.rhythm import Rhythm
from simulators.streets import Zone

Floats = NDArray[np.float64]
Traits = Mapping[str, Floats]
Model = Callable[[Rhythm, Traits, Floats], Floats]

_PERIODS_PER_HOUR: Final = 12.0
_PERIOD_S: Final = 300.0
# Effective length of a vehicle over a loop: 4.5 m of car plus 2 m of loop.
_VEHICLE_KM: Final = 0.0065


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of sensor.

    Parameters
    ----------
    entity : str
        Smart Data Models type.
    prefix : str
        Beginning of its sensors' ids.
    domain : str
        Topic level.
    quantities : tuple of str
        What it reports, in the order of the model's columns.
    decimals : tuple of int
        Resolution of the instrument, in decimal places of the quantity's unit.
    phi : tuple of float
        AR(1) coefficient of each noise driver, from one reading to the next.
    share : float
        Part of a city's sensors.
    model : callable
        `(rhythm, traits, noise (m, len(phi))) -> (m, len(quantities))`.
    """

    entity: str
    prefix: str
    domain: str
    quantities: tuple[str, ...]
    decimals: tuple[int, ...]
    phi: tuple[float, ...]
    share: float
    model: Model


def _count(level: Floats, noise: Floats, regularity: float = 1.0) -> Floats:
    # Poisson spread by the square-root transform (Anscombe 1948): variance about the level, and
    # never below zero.
    root = np.sqrt(level) + 0.5 * regularity * noise
    counted: Floats = np.square(np.maximum(root, 1.0))
    return counted


def _traffic(rhythm: Rhythm, traits: Traits, noise: Floats) -> Floats:
    lanes, capacity = traits["lanes"], traits["capacity"] * traits["lanes"]
    activity = _activity(rhythm, traits)
    # Signals and lanes space vehicles more evenly than chance. A night with a sixth of the
    # capacity is busy, but headway, the inverse of so small a count, would be grossly skewed.
    flow = _count(capacity * (0.16 + 0.74 * activity), noise[:, 0], regularity=0.8)
    # Speed falls with the square of the load, as in the fundamental diagram's upper branch.
    load = np.minimum(flow / capacity, 1.1)
    free = traits["free_speed"]
    speed = free * (1.0 - 0.32 * load**2) + 0.03 * free * noise[:, 1]
    # Greenshields' identity: occupancy = density x effective length = flow / speed x length.
    per_lane_hour = flow * _PERIODS_PER_HOUR / lanes
    occupancy = per_lane_hour * _VEHICLE_KM / speed * np.exp(0.03 * noise[:, 2])
    return np.column_stack([flow, occupancy, speed, _PERIOD_S * lanes / flow])


def _air(rhythm: Rhythm, traits: Traits, noise: Floats) -> Floats:
    traffic = _activity(rhythm, traits)
    dust = traits["dust"]
    pm25 = dust * (0.75 + 0.5 * traffic) * np.exp(0.07 * noise[:, 0])
    coarse = dust * (0.45 + 0.45 * traffic) * np.exp(0.10 * noise[:, 1])
    no2 = (9.0 + 36.0 * traffic * traits["exhaust"]) * np.exp(0.08 * noise[:, 2])
    # Ozone is made by sunlight and eaten by fresh exhaust.
    ozone = (34.0 + 50.0 * rhythm.sunlight - 12.0 * traffic) * np.exp(0.06 * noise[:, 3])
    # The sea keeps the daily swing small; noise and swing stay far below the fastest believable
    # change per second even for sensors that report several times a second.
    mean = 16.5 + traits["warmer"] + 7.0 * rhythm.season
    temperature = mean + 3.0 * rhythm.warmth + 0.08 * noise[:, 4]
    humidity = 0.70 - 0.06 * rhythm.warmth - 0.01 * traits["warmer"] + 0.002 * noise[:, 5]
    return np.column_stack([pm25, pm25 + coarse, no2, ozone, temperature, humidity])


def _noise(rhythm: Rhythm, traits: Traits, noise: Floats) -> Floats:
    # Sound power is proportional to traffic; 1.2 dB is the usual scatter of five-minute LAeq.
    level = traits["loudness"] + 10.0 * np.log10(0.06 + 0.94 * _activity(rhythm, traits))
    decibels: Floats = (level + 1.2 * noise[:, 0])[:, None]
    return decibels


def _camera(rhythm: Rhythm, traits: Traits, noise: Floats) -> Floats:
    footfall = traits["footfall"]
    level = footfall * (0.08 + 0.92 * _activity(rhythm, traits))
    people = _count(level, noise[:, 0])
    share = 0.5 + 0.15 * rhythm.tide + 0.5 / np.sqrt(level) * noise[:, 1]
    towards = people * np.clip(share, 0.05, 0.95)
    # Crowds walk slower than the 4.8 km/h of a free pedestrian (Weidmann 1993).
    speed = 4.8 - 1.2 * np.minimum(people / footfall, 1.2) + 0.12 * noise[:, 2]
    return np.column_stack([people, towards, people - towards, speed])


def _activity(rhythm: Rhythm, traits: Traits) -> Floats:
    commute = traits["commute"]
    return commute * rhythm.commute + (1.0 - commute) * rhythm.leisure


# Resolutions: loops count vehicles and print occupancy to 0.01 %; reference analysers and
# optical counters 0.1 ug/m3; SHT3x probes 0.01 degC and 0.01 %RH; sound level meters 0.1 dB.
KINDS: Final[tuple[Kind, ...]] = (
    Kind(
        "TrafficFlowObserved",
        "traffic",
        "traffic",
        ("intensity", "occupancy", "averageVehicleSpeed", "averageHeadwayTime"),
        (0, 4, 1, 2),
        (0.6, 0.6, 0.5),
        0.40,
        _traffic,
    ),
    Kind(
        "AirQualityObserved",
        "air",
        "environment",
        ("pm25", "pm10", "no2", "o3", "temperature", "relativeHumidity"),
        (1, 1, 1, 1, 2, 4),
        (0.6, 0.6, 0.6, 0.6, 0.8, 0.8),
        0.20,
        _air,
    ),
    Kind("NoiseLevelObserved", "noise", "environment", ("LAeq",), (1,), (0.5,), 0.15, _noise),
    Kind(
        "CrowdFlowObserved",
        "camera",
        "cameras",
        ("peopleCount", "peopleCountTowards", "peopleCountAway", "averageCrowdSpeed"),
        (0, 0, 0, 2),
        (0.5, 0.5, 0.5),
        0.25,
        _camera,
    ),
)
# Columns of the matrix of readings, and of the matrix of noise.
WIDTH: Final = max(len(kind.quantities) for kind in KINDS)
DRIVERS: Final = max(len(kind.phi) for kind in KINDS)
CAMERA: Final = 3


def draw_traits(zones: list[Zone], rng: np.random.Generator) -> dict[str, Floats]:
    """Return what distinguishes sensors standing in the given zones, a column a trait, each (n,).

    `capacity` is vehicles per lane and period; `free_speed` km/h; `dust` ug/m3; `warmer` degC;
    `loudness` dB; `footfall` people a period; `commute` and `exhaust` are shares.
    """
    count = len(zones)
    fast = np.array([zone.fast_roads for zone in zones], dtype=bool)
    commute = np.array([zone.commute for zone in zones]) + rng.uniform(-0.05, 0.05, count)
    lanes = np.where(fast, rng.integers(4, 7, count), rng.integers(2, 5, count))
    # Vehicles per lane and hour: free-flowing lanes against lanes shared with signals.
    hourly = np.where(fast, rng.uniform(1700, 2000, count), rng.uniform(850, 1100, count))
    return {
        "commute": commute,
        "lanes": lanes.astype(np.float64),
        "capacity": hourly / _PERIODS_PER_HOUR,
        "free_speed": np.where(fast, rng.uniform(90, 110, count), rng.uniform(46, 58, count)),
        "dust": rng.uniform(8.0, 15.0, count),
        "exhaust": rng.uniform(0.7, 1.3, count) + 0.3 * fast,
        "warmer": rng.uniform(-1.5, 1.5, count),
        "loudness": rng.uniform(62.0, 70.0, count) + 5.0 * fast,
        "footfall": rng.uniform(450.0, 1400.0, count),
    }

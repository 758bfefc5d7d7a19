"""Where the sensors of the made-up city stand.

The city lies on a stretch of open coast without a large town. Zones are laid out in kilometres
along the shore (`along`) and inland from it (`inland`), and sensors stand on the streets of their
zone, so that a map of them looks like a city: a grid downtown, a line on the waterfront, an arc
of ring road.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CENTRE_LONGITUDE: Final = 0.2000
CENTRE_LATITUDE: Final = 40.2050
# The shore runs north-north-east, the sea lies to its right.
_SHORE_BEARING_DEG: Final = 32.0
_KM_PER_DEGREE: Final = 111.2
# A sensor stands beside its street, not on the centre line.
_KERB_KM: Final = 0.008


@dataclass(frozen=True, slots=True)
class Zone:
    """A part of the city and what it is like.

    Parameters
    ----------
    name : str
        Topic level.
    along, inland : float
        Centre in km from the middle of the shore.
    half_along, half_inland : float
        Half extent in km.
    turn_deg : float
        Turn of the street grid against the shore.
    streets : int
        Streets in each direction; 0 for the ring road.
    roads, air, noise, cameras : float
        Relative number of sensors of each kind.
    commute : float
        Share of working-day traffic in the zone's activity; the rest is leisure.
    fast_roads : bool
        Whether its roads are motorways.
    """

    name: str
    along: float
    inland: float
    half_along: float
    half_inland: float
    turn_deg: float
    streets: int
    roads: float
    air: float
    noise: float
    cameras: float
    commute: float
    fast_roads: bool = False


ZONES: Final[tuple[Zone, ...]] = (
    Zone("old-town", 0.0, 0.55, 0.50, 0.40, 17.0, 4, 6, 7, 12, 22, 0.35),
    Zone("city-centre", 0.2, 1.65, 0.90, 0.60, 0.0, 5, 18, 14, 16, 24, 0.65),
    Zone("harbour", -1.7, 0.35, 1.00, 0.25, 0.0, 2, 8, 10, 8, 8, 0.75),
    Zone("beach", 2.1, 0.16, 1.40, 0.06, 0.0, 1, 5, 4, 6, 12, 0.25),
    Zone("station", -1.4, 1.55, 0.50, 0.45, 8.0, 3, 8, 8, 8, 14, 0.80),
    Zone("university", 1.9, 2.30, 0.65, 0.50, -12.0, 3, 7, 8, 6, 8, 0.60),
    Zone("stadium", -2.7, 2.60, 0.50, 0.40, 25.0, 2, 5, 5, 6, 8, 0.40),
    Zone("hospital", 0.4, 3.10, 0.55, 0.40, -5.0, 3, 6, 8, 8, 2, 0.70),
    Zone("industry", -3.8, 1.25, 0.85, 0.60, 0.0, 3, 9, 14, 8, 1, 0.95),
    Zone("garden-suburb", 3.2, 1.45, 0.80, 0.60, 20.0, 4, 8, 10, 10, 1, 0.70),
    Zone("ring-road", 0.0, 1.00, 3.60, 3.60, 0.0, 0, 20, 8, 8, 0, 0.85, fast_roads=True),
    Zone("airport", -5.2, 3.60, 0.70, 0.35, -20.0, 2, 4, 4, 6, 4, 0.60, fast_roads=True),
)


def places(zone: Zone, count: int, rng: np.random.Generator) -> Floats:
    """Return (count, 2) longitudes and latitudes of sensors along the streets of a zone."""
    along, inland = _arc(zone, count, rng) if zone.streets == 0 else _grid(zone, count, rng)
    bearing = np.radians(_SHORE_BEARING_DEG)
    # Along the shore is (sin, cos) of its bearing in (east, north); inland is 90 degrees left.
    east = along * np.sin(bearing) - inland * np.cos(bearing)
    north = along * np.cos(bearing) + inland * np.sin(bearing)
    longitude = CENTRE_LONGITUDE + east / (_KM_PER_DEGREE * np.cos(np.radians(CENTRE_LATITUDE)))
    latitude = CENTRE_LATITUDE + north / _KM_PER_DEGREE
    return np.round(np.column_stack([longitude, latitude]), 6)


def allot(total: int, weights: Sequence[float]) -> list[int]:
    """Share `total` by weight, to whole numbers that add up (largest remainder)."""
    exact = np.asarray(weights, dtype=np.float64)
    exact = total * exact / exact.sum()
    parts = np.floor(exact).astype(int)
    for index in np.argsort(parts - exact, kind="stable")[: total - int(parts.sum())]:
        parts[index] += 1
    return [int(part) for part in parts]


def _grid(zone: Zone, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    lines = (np.arange(zone.streets) + 0.5) / zone.streets * 2.0 - 1.0
    street = np.arange(count) % (2 * zone.streets)
    lengthwise = street < zone.streets
    line = lines[street % zone.streets]
    # Evenly spread with some play, as detectors stand before junctions.
    position = (rng.permutation(count) + rng.uniform(0.2, 0.8, count)) / max(count, 1) * 2.0 - 1.0
    kerb = rng.choice([-_KERB_KM, _KERB_KM], count)
    u = np.where(lengthwise, position * zone.half_along, line * zone.half_along + kerb)
    v = np.where(lengthwise, line * zone.half_inland + kerb, position * zone.half_inland)
    turn = np.radians(zone.turn_deg)
    along = zone.along + u * np.cos(turn) - v * np.sin(turn)
    inland = zone.inland + u * np.sin(turn) + v * np.cos(turn)
    return along, inland


def _arc(zone: Zone, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    # From shore to shore round the landward side, slightly flattened.
    angle = np.pi * (np.arange(count) + rng.uniform(0.2, 0.8, count)) / max(count, 1)
    radius = zone.half_along + rng.choice([-_KERB_KM, _KERB_KM], count)
    return zone.along + radius * np.cos(angle), 0.4 + zone.inland * radius * np.sin(angle)

"""A small, seeded city of sensors.

Readings follow from the seed and from which sensors report when, and from nothing else: the same
seed and the same moments give the same readings, however the calls are cut into blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ingest.quantities import QUANTITIES
from simulators.instruments import CAMERA, DRIVERS, KINDS, WIDTH, draw_traits
from simulators.rhythm import rhythm
from simulators.streets import ZONES, allot, places

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

# Below this a zone would be empty and a domain missing.
MIN_SENSORS: Final = 40
MAX_SENSORS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Sensor:
    """One sensor.

    Parameters
    ----------
    name : str
        Id, like `traffic-0001`.
    entity : str
        Smart Data Models type.
    domain, zone : str
        Topic levels.
    longitude, latitude : float
        Degrees, WGS 84.
    quantities : tuple of str
        What it reports.
    decimals : tuple of int
        Resolution of each quantity, in decimal places.
    """

    name: str
    entity: str
    domain: str
    zone: str
    longitude: float
    latitude: float
    quantities: tuple[str, ...]
    decimals: tuple[int, ...]


class City:
    """The sensors of a city and the state of their noise.

    Parameters
    ----------
    sensors : int
        How many, from `MIN_SENSORS` to `MAX_SENSORS`.
    seed : int
        Decides places, traits and noise.

    Notes
    -----
    The noise is AR(1) from one reading of a sensor to its next, whatever the time between them:
    it is noise of the measurement, and a detector meets the same statistics at any rate. Only
    temperature and humidity have a fastest believable change per second; their noise touches it
    when a sensor reports more often than about every 0.1 s.
    """

    def __init__(self, sensors: int = 600, seed: int = 1) -> None:
        if not MIN_SENSORS <= sensors <= MAX_SENSORS:
            raise ValueError(f"sensors must be {MIN_SENSORS} to {MAX_SENSORS}, got {sensors}")
        rng = np.random.default_rng([seed, 0])
        self.seed = seed
        self.sensors: tuple[Sensor, ...] = tuple(_settle(sensors, rng))
        zones = {zone.name: zone for zone in ZONES}
        self._traits = draw_traits([zones[sensor.zone] for sensor in self.sensors], rng)
        entities = [kind.entity for kind in KINDS]
        self._kind = np.array([entities.index(sensor.entity) for sensor in self.sensors])
        self._phi = _table([kind.phi for kind in KINDS], DRIVERS, 0.0)[self._kind]
        self._scale = 10.0 ** _table([kind.decimals for kind in KINDS], WIDTH, 0.0)[self._kind]
        lows = [[QUANTITIES[name].low for name in kind.quantities] for kind in KINDS]
        highs = [[QUANTITIES[name].high for name in kind.quantities] for kind in KINDS]
        self._low = _table(lows, WIDTH, 0.0)[self._kind]
        self._high = _table(highs, WIDTH, 0.0)[self._kind]
        self._noise_rng = np.random.default_rng([seed, 1])
        self._noise = self._noise_rng.standard_normal((sensors, DRIVERS))

    def __len__(self) -> int:
        """Return the number of sensors."""
        return len(self.sensors)

    def observe(self, who: Indices, time_ns: NDArray[np.int64]) -> Floats:
        """Return the next reading of some sensors, as their instruments print it.

        Parameters
        ----------
        who : (m,) intp
            Indices into `sensors`, no sensor twice.
        time_ns : (m,) int64
            Event time of each, UTC nanoseconds.

        Returns
        -------
        (m, WIDTH) float64
            Column j is the sensor's j-th quantity, in its unit; NaN beyond its last.

        Raises
        ------
        ValueError
            If a sensor stands twice in `who`.
        """
        if len(who) and np.bincount(who).max() > 1:
            raise ValueError("a sensor stands twice in one block")
        phi = self._phi[who]
        fresh = self._noise_rng.standard_normal((len(who), DRIVERS))
        noise = phi * self._noise[who] + np.sqrt(1.0 - phi * phi) * fresh
        self._noise[who] = noise
        printed = self.printed(who, self._measure(who, time_ns, noise))
        # Each person seen walks one way or the other, after rounding too.
        camera = self._kind[who] == CAMERA
        printed[camera, 2] = printed[camera, 0] - printed[camera, 1]
        return printed

    def level(self, who: Indices, time_ns: NDArray[np.int64]) -> Floats:
        """Return (m, WIDTH) readings without noise or rounding."""
        return self._measure(who, time_ns, np.zeros((len(who), DRIVERS)))

    def spread(self, who: Indices, time_ns: NDArray[np.int64]) -> Floats:
        """Return (m, WIDTH) standard deviations of the noise, to first order."""
        total = np.zeros((len(who), WIDTH))
        for driver in range(DRIVERS):
            noise = np.zeros((len(who), DRIVERS))
            noise[:, driver] = 1.0
            up = self._measure(who, time_ns, noise)
            total += np.square((up - self._measure(who, time_ns, -noise)) / 2.0)
        return np.sqrt(total)

    def printed(self, who: Indices, values: Floats) -> Floats:
        """Return values as the instruments print them: inside their range, to their resolution."""
        inside = np.clip(values, self._low[who], self._high[who])
        return self.rounded(who, inside)

    def rounded(self, who: Indices, values: Floats) -> Floats:
        """Return values to the instruments' resolution; they may lie outside the range."""
        scale = self._scale[who]
        # Dividing by a power of ten gives the double nearest to the decimal; + 0.0 removes -0.0.
        rounded: Floats = np.rint(values * scale) / scale + 0.0
        return rounded

    def _measure(self, who: Indices, time_ns: NDArray[np.int64], noise: Floats) -> Floats:
        values = np.full((len(who), WIDTH), np.nan)
        kinds = self._kind[who]
        for code, kind in enumerate(KINDS):
            rows = np.flatnonzero(kinds == code)
            if len(rows):
                traits = {name: column[who[rows]] for name, column in self._traits.items()}
                measured = kind.model(rhythm(time_ns[rows]), traits, noise[rows])
                values[rows, : len(kind.quantities)] = measured
        return values


def _settle(total: int, rng: np.random.Generator) -> list[Sensor]:
    sensors = []
    for kind, count in zip(KINDS, allot(total, [kind.share for kind in KINDS]), strict=True):
        attribute = {"traffic": "roads", "camera": "cameras"}.get(kind.prefix, kind.prefix)
        shares = allot(count, [getattr(zone, attribute) for zone in ZONES])
        number = 0
        for zone, share in zip(ZONES, shares, strict=True):
            for longitude, latitude in places(zone, share, rng).tolist():
                number += 1
                name = f"{kind.prefix}-{number:04d}"
                where = (kind.domain, zone.name, longitude, latitude)
                sensors.append(Sensor(name, kind.entity, *where, kind.quantities, kind.decimals))
    return sensors


def _table(rows: Sequence[Sequence[float]], width: int, fill: float) -> Floats:
    table = np.full((len(rows), width), fill)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table

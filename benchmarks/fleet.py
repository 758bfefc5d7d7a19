"""Sensors of a benchmark: messages as a bridge writes them, and the readings that are in them."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ingest.batch import ReadingBatch, encode
from ingest.ledger import Tally
from ingest.quantities import QUANTITIES
from ingest.records import Provenance
from ingest.topics import SeriesKey, partition_of

# Readings of the whole fleet follow each other by this: 10,000 series report every 10 s.
_STEP_US = 1_000
_NOISE = 0.02
_ZONES = "centre", "harbour", "north", "south", "station"
# Of those whose rate of change is not limited: reports at random may be a millisecond apart.
_QUANTITIES = ("intensity", "occupancy", "averageVehicleSpeed", "averageHeadwayTime", "LAeq")


class Readings(NamedTuple):
    """What was put into Kafka, in its order.

    Parameters
    ----------
    series : (n,) int32
        Index into the keys of the fleet.
    time_us : (n,) int64
        Unix time.
    value : (n,) float64
    """

    series: NDArray[np.int32]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]


class Record(NamedTuple):
    """A message for Kafka."""

    partition: int
    headers: list[tuple[str, bytes]]
    value: bytes


class Fleet:
    """Sensors that report at random, each in the order of time.

    Parameters
    ----------
    namespace : str
    count : int
        Series.
    partitions : int
        Of Kafka's topic.
    seed : int
    readings : int
        How many it may make at most: the last of them was measured just now.
    """

    def __init__(
        self, namespace: str, count: int, partitions: int, seed: int, readings: int
    ) -> None:
        self.namespace = namespace
        self._rng = np.random.default_rng([seed, 9])
        self._now_us = time.time_ns() // 1_000 - readings * _STEP_US
        self.keys: list[str] = []
        places: list[list[int]] = [[] for _ in range(partitions)]
        for number in range(count):
            quantity = _QUANTITIES[number % len(_QUANTITIES)]
            sensor = f"{quantity[:7]}-{number:06}"
            domain = QUANTITIES[quantity].domain
            self.keys.append(str(SeriesKey(domain, _ZONES[number % 7 % 5], sensor, quantity)))
            places[partition_of(sensor, partitions)].append(number)
        self._places = [np.array(place, np.int32) for place in places]
        names = [_QUANTITIES[number % len(_QUANTITIES)] for number in range(count)]
        low = np.array([QUANTITIES[name].low for name in names])
        high = np.array([min(QUANTITIES[name].high, 100.0) for name in names])
        self._level = low + (high - low) * self._rng.uniform(0.3, 0.6, count)
        self._noise = _NOISE * np.minimum(self._level - low, high - self._level)
        self._domains = np.array([QUANTITIES[name].domain for name in names])
        self._made: list[Readings] = []

    @property
    def made(self) -> Readings:
        """All readings so far."""
        return Readings(*(np.concatenate(column) for column in zip(*self._made, strict=True)))

    def once(self, rows: int) -> Iterator[Record]:
        """Yield messages in which every series reports once."""
        for partition, place in enumerate(self._places):
            order = self._rng.permutation(place)
            for start in range(0, len(order), rows):
                yield self._record(partition, order[start : start + rows])

    def at_random(self, messages: int, rows: int) -> Iterator[Record]:
        """Yield messages of `rows` readings, the partitions by turns."""
        for number in range(messages):
            partition = number % len(self._places)
            place = self._places[partition]
            yield self._record(partition, place[self._rng.integers(0, len(place), rows)])

    def _record(self, partition: int, series: NDArray[np.int32]) -> Record:
        count = len(series)
        time_us = self._now_us + np.arange(count) * _STEP_US
        self._now_us += count * _STEP_US
        value = self._level[series] + self._noise[series] * self._rng.standard_normal(count)
        self._made.append(Readings(series, time_us, value))
        present, codes = np.unique(series, return_inverse=True)
        keys = [self.keys[number] for number in present.tolist()]
        quality = np.ones(count, np.uint8)
        batch = ReadingBatch(keys, codes.astype(np.int32), time_us * 1_000, value, quality)
        minute_s = int(time_us[-1]) // 60_000_000 * 60
        domains, counts = np.unique(self._domains[series], return_counts=True)
        tallies = [
            Tally(domain, minute_s, messages=number, passed=number, readings=number)
            for domain, number in zip(domains.tolist(), counts.tolist(), strict=True)
        ]
        return Record(
            partition, Provenance("bench", tallies).headers(self.namespace), encode(batch)
        )

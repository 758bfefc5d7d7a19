"""What the benchmark of the worker publishes, and what it believes it has."""

from collections import defaultdict

import numpy as np
import pytest

from benchmarks.fleet import Fleet, Record
from ingest.batch import decode
from ingest.quantities import QUANTITIES
from ingest.records import Provenance
from ingest.topics import SeriesKey, partition_of

PARTITIONS = 3
NAMESPACE = "replay-fleet"


def read(records: list[Record]) -> list[tuple[str, int, float]]:
    found = []
    for record in records:
        batch = decode(record.value)
        keys = [batch.keys[code] for code in batch.series.tolist()]
        found += zip(keys, batch.time_ns.tolist(), batch.value.tolist(), strict=True)
    return found


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(NAMESPACE, 200, PARTITIONS, 1, 1_000)


def test_what_is_noted_is_what_is_in_the_messages(fleet: Fleet) -> None:
    records = [*fleet.once(30), *fleet.at_random(10, 50)]
    made = fleet.made
    noted = [
        (fleet.keys[number], time_us * 1_000, value)
        for number, time_us, value in zip(*(column.tolist() for column in made), strict=True)
    ]
    assert noted == read(records)
    assert np.bincount(made.series[:200]).tolist() == [1] * 200


def test_messages_are_such_as_a_bridge_writes(fleet: Fleet) -> None:
    times = defaultdict(list)
    for record in fleet.at_random(12, 50):
        counted = sum(
            tally.readings for tally in Provenance.read(dict(record.headers), NAMESPACE).tallies
        )
        readings = read([record])
        assert counted == len(readings) == 50
        for text, time_ns, value in readings:
            key = SeriesKey.parse(text)
            quantity = QUANTITIES[key.quantity]
            assert partition_of(key.sensor, PARTITIONS) == record.partition
            assert quantity.low < value < quantity.high
            times[text].append(time_ns)
    assert all(column == sorted(set(column)) for column in times.values())

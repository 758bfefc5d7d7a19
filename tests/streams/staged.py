"""A staged city through the scoring that a worker runs, as fast as it goes."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from citywatch.settings import read_settings
from citywatch.wiring import city_facts
from detectors import SuiteConfig
from simulators.city import City
from simulators.events import Event, S
from simulators.staging import Staging
from simulators.surroundings import as_toml, surroundings
from storage.flush import Change, Opened, Resolved
from storage.sink import Resumption
from streams.facts import CityFacts
from streams.partition import Partition
from tests.streams.citylog import said_of

# A Monday, 00:00 UTC.
MONDAY_NS = 1_772_409_600 * S
assert (MONDAY_NS // S // 86_400 + 3) % 7 == 0
assert MONDAY_NS % (86_400 * S) == 0
_ARRIVES_NS = 200_000_000


def city_of(sensors: int, seed: int) -> tuple[City, CityFacts]:
    """Return a city whose noise begins anew, and what its workers are told."""
    return City(sensors, seed), _facts_of(sensors, seed)


@cache
def _facts_of(sensors: int, seed: int) -> CityFacts:
    """Return what workers are told of a city, by way of a file of settings."""
    city = City(sensors, seed)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "city.toml"
        file.write_text(as_toml(surroundings(city)), encoding="utf-8")
        return city_facts(read_settings(file, {}))


def company(city: City, facts: CityFacts, events: Sequence[Event], more: int = 4) -> list[int]:
    """Return those of a city that an event is about: its sensors, their groups, and others."""
    names = {name for event in events for name in event.sensors}
    for group in facts.groups.values():
        if names.intersection(group.sensors):
            names.update(group.sensors)
    index = {one.name: number for number, one in enumerate(city.sensors)}
    found = [index[name] for name in sorted(names)]
    others = [number for number in range(0, len(city), 37) if number not in found]
    return found + others[:more]


@dataclass
class Watched:
    """What a worker says of a staged city."""

    city: City
    facts: CityFacts
    events: Sequence[Event]
    who: Sequence[int]
    now_ns: int
    changes: list[Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.partition = Partition(Resumption(0, 0, None, None), SuiteConfig(), self.facts)
        self._staging = Staging(self.city, self.events)
        # Within one minute, in which neighbours are compared.
        self._offsets = np.arange(len(self.who)) * (48 * S // len(self.who))

    def run(self, end_ns: int, period_s: float) -> None:
        """Let every sensor report once a period."""
        who = np.array(self.who)
        while self.now_ns < end_ns:
            true_ns = self.now_ns + self._offsets
            self.now_ns += round(period_s * S)
            values = self.city.observe(who, true_ns)
            time_ns, values = self._staging.apply(who, true_ns, values)
            readings = [
                (f"{one.domain}/{one.zone}/{one.name}/{quantity}", int(at) // 1000 * 1000, value)
                for index, at, row in zip(self.who, time_ns, values.tolist(), strict=True)
                for one in (self.city.sensors[index],)
                for quantity, value in zip(one.quantities, row, strict=False)
            ]
            arrived_ns = int(true_ns[-1]) + _ARRIVES_NS
            moments = {"arrived_ns": arrived_ns, "complete_ns": arrived_ns - 2 * S}
            self.changes += said_of(self.partition, readings, **moments)

    def alerts(self, *kinds: str) -> list[tuple[Opened, Resolved | None]]:
        """Return the alerts of some kinds, each with its end."""
        ends = {
            one.page.alert_id: one
            for one in self.changes
            if isinstance(one, Resolved) and one.page.kind in kinds
        }
        return [
            (one, ends.get(one.page.alert_id))
            for one in self.changes
            if isinstance(one, Opened) and one.page.kind in kinds
        ]

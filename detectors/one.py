"""The state of one series as plain numbers."""

from dataclasses import dataclass, fields
from operator import attrgetter
from struct import Struct
from typing import Final

_NEVER: Final = -(1 << 63)


@dataclass(slots=True)
class One:
    """What the columns hold of one series (`detectors.table.Columns`), all of it written."""

    last_ns: int
    previous: float
    repeats: float
    changes: float
    run: float
    run_chance: float
    learned: float
    level: float
    variance: float
    difference: float
    city_streak: float
    heard_ns: int
    pause_s: float
    low: float
    high: float
    max_rate: float
    previous_ns: int
    anchor_ns: int
    anchor: float
    health_streak: float
    candidate: float
    candidate_learned: float
    city_opened_ns: int
    health_opened_ns: int
    health_kind: float
    state: float
    silent_ns: int
    rests_ns: int

    @classmethod
    def from_bytes(cls, data: bytes) -> "One":
        """Return the state of a series from its fields, one after another."""
        return cls(*_FIELDS.unpack(data))

    def to_bytes(self) -> bytes:
        """Return the fields, one after another."""
        return _FIELDS.pack(*_ALL(self))

    def is_settled(self, warm_up: float) -> bool:
        """Return whether nothing is special about the series (`detectors.table.is_settled`)."""
        return (
            self.learned >= max(warm_up, 1.0)
            and self.changes > 0.0
            and self.candidate_learned == 0.0
            and self.health_streak == 0.0
            and self.state == 0.0
            and self.city_opened_ns == self.health_opened_ns == self.silent_ns == _NEVER
            and self.previous_ns == self.anchor_ns == self.last_ns
        )


_NAMES: Final = [field.name for field in fields(One)]
_FIELDS: Final = Struct("=" + "".join("q" if name.endswith("_ns") else "d" for name in _NAMES))
_ALL: Final = attrgetter(*_NAMES)

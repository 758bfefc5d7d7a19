"""Recordings of real sensors, replayed through the front door.

A recording is shifted in time, so that it begins or ends at a moment of choice. Then either the
pace alone is faster and event times keep their original spacing, or, as a time lapse, event time
is compressed by the same factor: a five-minute recording at 300x reports once a second.
"""

import csv
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from pathlib import Path
from threading import Event
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.quantities import QUANTITIES
from ingest.topics import is_level
from simulators.city import Floats, Sensor
from simulators.front_door import Address, FrontDoor
from simulators.payloads import Composer, Message, entity_type
from simulators.publish import Progress, Published, publish

FOLDER: Final = Path(__file__).parent / "recordings"
ZONE: Final = "twin-cities"
MAX_BYTES: Final = 64 << 20
MAX_ROWS: Final = 1_000_000
MAX_SPEED: Final = 1e6
_HEADER: Final = ["timestamp", "value"]
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# Percent with two places become shares with four.
_DECIMALS: Final = 4

Anchor = Literal["first", "last"]


class RecordingError(ValueError):
    """A file that is not a recording; the message names the line."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded series.

    Parameters
    ----------
    sensor : Sensor
        As which it is published; it has one quantity.
    time_ns : (n,) int64
        Original times, UTC nanoseconds, never decreasing.
    value : (n,) float64
        In the unit of the quantity.
    windows : tuple of (int, int)
        Labelled anomalies, in original times.
    """

    sensor: Sensor
    time_ns: NDArray[np.int64]
    value: Floats
    windows: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        """Return the number of readings."""
        return len(self.time_ns)


@dataclass(frozen=True, slots=True)
class Shift:
    """From original times to event times: `(t - origin_ns) / divisor + start_ns`.

    Parameters
    ----------
    origin_ns : int
        Original time of the reading that falls at `start_ns`.
    start_ns : int
        Event time of that reading, UTC nanoseconds.
    divisor : float
        1 keeps the spacing; a time lapse divides it.
    """

    origin_ns: int
    start_ns: int
    divisor: float = 1.0

    def event_ns(self, time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return event times (n,), whole microseconds."""
        passed = time_ns - self.origin_ns
        if self.divisor != 1.0:
            passed = np.rint(passed / self.divisor).astype(np.int64)
        event: NDArray[np.int64] = (self.start_ns + passed) // 1_000 * 1_000
        return event


def shift_of(
    recording: Recording,
    start_ns: int,
    *,
    anchor: Anchor = "first",
    speed: float = 1.0,
    time_lapse: bool = False,
) -> Shift:
    """Return the shift that puts the first or last reading of a recording at `start_ns`."""
    origin = int(recording.time_ns[0 if anchor == "first" else -1])
    return Shift(origin, start_ns, speed if time_lapse else 1.0)


def read_recording(
    path: Path,
    *,
    sensor: str,
    quantity: str,
    scale: float = 1.0,
    zone: str = ZONE,
    longitude: float = 0.1566,
    latitude: float = 40.2200,
    windows: Iterable[tuple[int, int]] = (),
) -> Recording:
    """Read a CSV file with the columns `timestamp,value`.

    Parameters
    ----------
    path : Path
        The file; at most `MAX_BYTES` and `MAX_ROWS`.
    sensor : str
        Id to publish it under.
    quantity : str
        What it measures; a name of `ingest.quantities`.
    scale : float
        Factor from the file's unit to the quantity's.
    zone : str
        Topic level.
    longitude, latitude : float
        Where it is shown, degrees; by default on the ring road of the simulated city.
    windows : iterable of (int, int)
        Labelled anomalies, UTC nanoseconds in the file's own time.

    Raises
    ------
    RecordingError
        If the file is missing, too large, empty, or a row is not a time that does not decrease
        and a finite number; the message names the line.
    """
    if quantity not in QUANTITIES:
        raise RecordingError(f"unknown quantity {quantity!r}; one of {', '.join(QUANTITIES)}")
    for level in (sensor, zone):
        if not is_level(level):
            raise RecordingError(f"cannot stand in a topic: {level!r}")
    kind = entity_type(quantity)
    domain = QUANTITIES[quantity].domain
    where = (kind, domain, zone, longitude, latitude)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecordingError(f"{path}: larger than {MAX_BYTES} bytes")
        with path.open(newline="", encoding="utf-8") as lines:
            rows = list(_rows(path, lines))
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path}: {error}") from error
    times = np.array([row[0] for row in rows], dtype=np.int64)
    values = np.array([row[1] for row in rows], dtype=np.float64)
    if scale != 1.0:
        # A factor of 0.01 leaves digits that the instrument never printed.
        values = np.array([float(f"{value * scale:.12g}") for value in values.tolist()])
    return Recording(
        Sensor(sensor, *where, (quantity,), (_DECIMALS,)), times, values, tuple(windows)
    )


def bundled() -> tuple[Recording, ...]:
    """Return the three recordings that come with Citywatch; see `recordings/SOURCE.md`."""
    text = (FOLDER / "windows.json").read_bytes()
    labels = msgspec.json.decode(text, type=dict[str, list[tuple[str, str]]])
    files = (
        ("occupancy_6005.csv", "nab-occupancy-6005", "occupancy", 0.01, 0.1566, 40.2200),
        ("occupancy_t4013.csv", "nab-occupancy-t4013", "occupancy", 0.01, 0.1702, 40.2288),
        ("TravelTime_387.csv", "nab-traveltime-387", "averageTravelTime", 1.0, 0.1880, 40.2322),
    )
    return tuple(
        read_recording(
            FOLDER / name,
            sensor=sensor,
            quantity=quantity,
            scale=scale,
            longitude=longitude,
            latitude=latitude,
            windows=[(_nanoseconds(begin), _nanoseconds(end)) for begin, end in labels[name]],
        )
        for name, sensor, quantity, scale, longitude, latitude in files
    )


class RecordingSource:
    """Recordings side by side, each from its own first reading, in the order of their pace.

    Parameters
    ----------
    recordings : sequence of Recording
        Of different sensors.
    composer : Composer
        Writes the messages; made for the recordings' sensors, in their order.
    shifts : sequence of Shift
        Of each recording.
    speed : float
        Original seconds per second.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        composer: Composer,
        shifts: Sequence[Shift],
        speed: float,
    ) -> None:
        who = np.repeat(np.arange(len(recordings)), [len(recording) for recording in recordings])
        due = np.concatenate([(one.time_ns - one.time_ns[0]) / 1e9 / speed for one in recordings])
        pairs = zip(recordings, shifts, strict=True)
        event = np.concatenate([shift.event_ns(one.time_ns) for one, shift in pairs])
        value = np.concatenate([recording.value for recording in recordings])
        # Stable, so that readings of one recording keep their order at equal times.
        order = np.argsort(due, kind="stable")
        self._who, self._due, self._event = who[order], due[order], event[order]
        self._value = value[order]
        self._composer = composer
        self._next = 0

    def due_s(self) -> float | None:
        """Return when the next reading is due; None after the last."""
        return float(self._due[self._next]) if self._next < len(self._due) else None

    def take(self, elapsed_s: float, now_ns: int, limit: int) -> list[Message]:
        """Return the readings due by now; event times are the recording's, not `now_ns`."""
        del now_ns
        until = int(np.searchsorted(self._due, elapsed_s, side="right"))
        block = slice(self._next, min(until, self._next + limit))
        self._next = block.stop
        values = self._value[block, None]
        return self._composer.messages(self._who[block], self._event[block], values)


def replay(
    recordings: Sequence[Recording],
    *,
    host: str,
    port: int,
    namespace: str,
    stop: Event,
    speed: float = 1.0,
    time_lapse: bool = False,
    start_ns: int | None = None,
    anchor: Anchor | None = None,
    progress: Progress | None = None,
    username: str | None = None,
    password: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> Published:
    """Publish recordings.

    Parameters
    ----------
    recordings : sequence of Recording
        Of different sensors.
    host, port : str, int
        The MQTT broker.
    namespace : str
        `live` or `replay-<name>`.
    stop : threading.Event
        Ends the replay early.
    speed : float
        Original seconds per second, above 0 and at most `MAX_SPEED`.
    time_lapse : bool
        Whether event time is compressed by `speed` too.
    start_ns : int, optional
        Where each recording is anchored, UTC nanoseconds; by default now.
    anchor : {"first", "last"}, optional
        Which reading falls there. By default the first where event time keeps pace with the
        clock (time lapse, or speed 1), else the last: event times far in the future are refused.
    progress : callable, optional
        Called once a second with the counts so far.
    username, password : str, optional
    tls : SSLContext, optional
        None connects in the clear.
        Where the broker asks for them.

    Raises
    ------
    ValueError
        If the speed is out of bounds, or there are no recordings or two of one sensor.
    FrontDoorError
        If the broker cannot be reached.
    """
    if not 0.0 < speed <= MAX_SPEED:
        raise ValueError(f"speed must be above 0 and at most {MAX_SPEED:.0f}, got {speed}")
    names = [recording.sensor.name for recording in recordings]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"recordings must be of different sensors, at least one; got {names}")
    if anchor is None:
        anchor = "first" if time_lapse or speed == 1.0 else "last"
    door = FrontDoor(Address(host, port, username, password, tls), stop)
    door.open()
    try:
        start = time.time_ns() if start_ns is None else start_ns
        shifts = [
            shift_of(recording, start, anchor=anchor, speed=speed, time_lapse=time_lapse)
            for recording in recordings
        ]
        composer = Composer([recording.sensor for recording in recordings], namespace)
        source = RecordingSource(recordings, composer, shifts, speed)
        return publish(door, source, stop=stop, progress=progress)
    finally:
        door.close()


def _rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, float]]:
    reader = csv.reader(lines)
    try:
        header = next(reader, None)
        if header != _HEADER:
            raise RecordingError(f"{path}:1: expected the header timestamp,value, got {header}")
        previous: int | None = None
        for count, row in enumerate(reader, start=1):
            place = f"{path}:{reader.line_num}"
            if count > MAX_ROWS:
                raise RecordingError(f"{place}: more than {MAX_ROWS} rows")
            moment, value = _row(place, row)
            if previous is not None and moment < previous:
                raise RecordingError(f"{place}: time goes back: {row[0]}")
            previous = moment
            yield moment, value
    except csv.Error as error:
        raise RecordingError(f"{path}:{reader.line_num}: {error}") from error
    if previous is None:
        raise RecordingError(f"{path}: no readings")


def _row(place: str, row: list[str]) -> tuple[int, float]:
    if len(row) != len(_HEADER):
        raise RecordingError(f"{place}: expected timestamp,value, got {len(row)} columns")
    try:
        moment = _nanoseconds(row[0])
    except ValueError:
        raise RecordingError(f"{place}: not a time: {row[0]!r}") from None
    try:
        value = float(row[1])
    except ValueError:
        raise RecordingError(f"{place}: not a number: {row[1]!r}") from None
    if not isfinite(value):
        raise RecordingError(f"{place}: not a finite number: {row[1]!r}")
    return moment, value


def _nanoseconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND * 1_000

"""A city whose messages come late, twice, broken or not at all, and that notes what it sends."""

import json
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from citywatch.embedded.service import HOST
from ingest.quantities import QUANTITIES
from simulators.city import City, Floats, Indices
from simulators.faults import Injector, plan_faults
from simulators.front_door import Address, FrontDoor
from simulators.payloads import Composer, Message, Mischief
from simulators.publish import CitySource, Published, publish

SENSORS: Final = 400
_MISCHIEF: Final = Mischief(bad_share=0.005, duplicate_share=0.01, privacy_probe=True)
# Share of messages that are overtaken by later ones of the same sensor, and by how many blocks
# (of 20 ms at least).
_LATE_SHARE: Final = 0.01
_LATE_BLOCKS: Final = 1, 200
# A few sensors go dark at a time, for long enough to be missed and to come back.
_DARK_EVERY_NS: Final = 10 * 10**9
_DARK_SENSORS: Final = 4
_DARK_S: Final = 65.0, 150.0
_SECONDS_PER_FAULT: Final = 4.0
# Each takes a sensor of its own, and few of them can show jitter.
_MAX_FAULTS: Final = 60
# Of so many sensors one moves from zone to zone, and one has a clock that gains.
_MOVES_EVERY: Final = 50
_MOVE_NS: Final = 7 * 10**9
_ZONES: Final = "harbour", "airport", "old-town"
_DRIFT_S_PER_S: Final = 0.2
_DRAIN_S: Final = 45.0
# Topic of the last message: behind everything else in the bridge's session, over the same
# connection. It is no JSON and becomes a dead letter.
LAST: Final = "city/live/traffic/harbour/the-last"


class RestlessComposer(Composer):
    """Holds some messages back for a while, and writes down every sound one as it is sent.

    Parameters
    ----------
    city : City
    namespace : str
    seed : int
    file : Path
        Made anew; a line for each sound message, repeats included.
    """

    def __init__(self, city: City, namespace: str, seed: int, file: Path) -> None:
        super().__init__(city.sensors, namespace, seed, _MISCHIEF)
        self._fate = np.random.default_rng([seed, 8])
        self._late: list[tuple[int, Message]] = []
        self._block = 0
        self._dark_until_ns = np.zeros(len(city.sensors), np.int64)
        self._dark_at_ns: int | None = None
        self._begun_ns: int | None = None
        self._file = file.open("wb")

    def messages(self, who: Indices, time_ns: NDArray[np.int64], values: Floats) -> list[Message]:
        """Return what is sent now: most of the block, and what was held back long enough."""
        self._block += 1
        lit = self._lit(who, time_ns)
        time_ns = self._drifted(who, time_ns)
        due = [message for when, message in self._late if when <= self._block]
        self._late = [pair for pair in self._late if pair[0] > self._block]
        written = [
            self._moved(message, int(time_ns.max(initial=0)))
            for message in super().messages(who[lit], time_ns[lit], values[lit])
        ]
        for message, draw in zip(written, self._fate.random(len(written)), strict=True):
            if draw < _LATE_SHARE:
                when = self._block + int(self._fate.integers(*_LATE_BLOCKS))
                self._late.append((when, message))
            else:
                due.append(message)
        for message in due:
            if not message.bad:
                sensor = message.topic.rpartition("/")[2]
                self._file.write(b"%b\t%b\n" % (sensor.encode(), message.payload))
        return due

    def _lit(self, who: Indices, time_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Let some sensors go dark now and then; return which of these are not."""
        now_ns = int(time_ns.max(initial=0))
        if self._dark_at_ns is None:
            self._dark_at_ns = now_ns
        if now_ns - self._dark_at_ns >= _DARK_EVERY_NS:
            self._dark_at_ns = now_ns
            chosen = self._fate.choice(len(self._dark_until_ns), _DARK_SENSORS, replace=False)
            lasts_s = self._fate.uniform(*_DARK_S, _DARK_SENSORS)
            self._dark_until_ns[chosen] = now_ns + (lasts_s * 1e9).astype(np.int64)
        lit: NDArray[np.bool_] = self._dark_until_ns[who] <= time_ns
        return lit

    def _drifted(self, who: Indices, time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Let the clocks of some sensors gain."""
        if self._begun_ns is None:
            self._begun_ns = int(time_ns.min(initial=np.iinfo(np.int64).max))
        gained = ((time_ns - self._begun_ns) * _DRIFT_S_PER_S).astype(np.int64)
        drifted: NDArray[np.int64] = time_ns + np.where(who % _MOVES_EVERY == 1, gained, 0)
        return drifted

    def _moved(self, message: Message, now_ns: int) -> Message:
        """Let some sensors be in another zone every few seconds."""
        if message.bad:
            return message
        city, namespace, domain, _, sensor = message.topic.split("/")
        if int(sensor.rpartition("-")[2]) % _MOVES_EVERY:
            return message
        zone = _ZONES[now_ns // _MOVE_NS % len(_ZONES)]
        return message._replace(topic=f"{city}/{namespace}/{domain}/{zone}/{sensor}")

    def close(self) -> None:
        """Write down the last."""
        self._file.close()


class RestlessCity:
    """Publishes in the background.

    Parameters
    ----------
    port : int
        Of the MQTT broker.
    namespace : str
    seed : int
    rate : float
        Messages a second.
    duration_s : float
    file : Path
        Where to write down what is published.

    Attributes
    ----------
    publishing : Future of Published
        Done when everything is published.
    so_far : Published
        Counts up to a second ago.
    """

    def __init__(
        self, port: int, namespace: str, seed: int, rate: float, duration_s: float, file: Path
    ) -> None:
        self._stop = threading.Event()
        self._door = FrontDoor(Address(HOST, port), self._stop)
        self._thread = ThreadPoolExecutor(1)
        self._rate, self._duration_s = rate, duration_s
        city = City(SENSORS, seed)
        start_ns = time.time_ns()
        faults = plan_faults(
            city,
            seed,
            min(round(duration_s / _SECONDS_PER_FAULT), _MAX_FAULTS),
            start_ns,
            start_ns + round(duration_s * 1e9),
            period_s=SENSORS / rate,
        )
        self._composer = RestlessComposer(city, namespace, seed, file)
        self._source = CitySource(
            city, Injector(city, faults), self._composer, self._rate, self._duration_s
        )
        self.publishing: Future[Published] = Future()
        self.so_far = Published()

    def __enter__(self) -> Self:
        self.publishing = self._thread.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.shutdown()

    def _run(self) -> Published:
        self._door.open()
        try:
            published = publish(self._door, self._source, stop=self._stop, progress=self._note)
            self._door.send(LAST, b"{")
            self._door.drain(_DRAIN_S)
            return published
        finally:
            self._composer.close()
            self._door.close()

    def _note(self, so_far: Published) -> None:
        self.so_far = so_far


def readings(file: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield (sensor, quantity, time, value) of what was written down.

    Read without the code that the bridge reads it with.
    """
    with file.open("rb") as lines:
        for line in lines:
            sensor, _, payload = line.partition(b"\t")
            entity = dict(_plain(json.loads(payload).items()))
            observed = entity["dateObserved"]
            for name, value in entity.items():
                if name in QUANTITIES:
                    yield sensor.decode(), name, observed, float(value)


def _plain(attributes: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Take the normalised form of NGSI-LD apart; key-values stay as they are."""
    for name, attribute in attributes:
        value = attribute["value"] if _is_property(attribute) else attribute
        yield name, value["@value"] if isinstance(value, dict) and "@value" in value else value


def _is_property(attribute: Any) -> bool:
    return isinstance(attribute, dict) and attribute["type"] in {"Property", "GeoProperty"}

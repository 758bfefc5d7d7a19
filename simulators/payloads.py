"""Readings as sensors send them: NGSI entities in JSON.

Attribute names are those of the Smart Data Models, letter for letter. Every other instrument of
the environment sends the normalised form of NGSI-LD, all others key-values. On request a share of
the messages is broken in the ways real gateways break them, and some cameras send a field that
must never be kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.quantities import QUANTITIES
from ingest.topics import MqttTopic
from simulators.city import Floats, Indices, Sensor

# Every so many cameras sends a forbidden field.
PROBE_STEP: Final = 10

_ENTITY_OF_DOMAIN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "traffic": "TrafficFlowObserved",
        "environment": "AirQualityObserved",
        "cameras": "CrowdFlowObserved",
    }
)
_encode: Final = msgspec.json.Encoder().encode

Entity = dict[str, Any]


class Message(NamedTuple):
    """One message for the front door.

    Parameters
    ----------
    topic : str
        MQTT topic.
    payload : bytes
        As published.
    readings : int
        Sound readings in it; 0 when it is broken.
    withheld : int
        Fields in it that must not be kept.
    bad : bool
        Whether it is broken on purpose.
    repeat : bool
        Whether it repeats an earlier message exactly.
    """

    topic: str
    payload: bytes
    readings: int
    withheld: int = 0
    bad: bool = False
    repeat: bool = False


@dataclass(frozen=True, slots=True)
class Mischief:
    """What is to be wrong with the messages, besides faults in the readings.

    Parameters
    ----------
    bad_share : float
        Share of messages broken on purpose, in the ways of `BREAKAGES` by turns at random.
    duplicate_share : float
        Share of sound messages published twice, byte for byte.
    privacy_probe : bool
        Whether every tenth camera sends a face id or a licence plate (obviously made up).
    """

    bad_share: float = 0.0
    duplicate_share: float = 0.0
    privacy_probe: bool = False

    def __post_init__(self) -> None:
        """Check the shares."""
        for name in ("bad_share", "duplicate_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be 0 to 1, got {getattr(self, name)}")


class Composer:
    """Writes the messages of a set of sensors.

    Parameters
    ----------
    sensors : sequence of Sensor
        Whose readings are written.
    namespace : str
        Level of every topic.
    seed : int
        Decides which messages are broken or repeated.
    mischief : Mischief
        How many.
    """

    def __init__(
        self,
        sensors: Sequence[Sensor],
        namespace: str,
        seed: int = 1,
        mischief: Mischief | None = None,
    ) -> None:
        self._sensors = tuple(sensors)
        self._topics = [
            str(MqttTopic(namespace, sensor.domain, sensor.zone, sensor.name)) for sensor in sensors
        ]
        self._heads = [_head(sensor) for sensor in sensors]
        self._mischief = mischief or Mischief()
        self._probes = _probes(self._sensors) if self._mischief.privacy_probe else {}
        self._rng = np.random.default_rng([seed, 3])

    def messages(self, who: Indices, time_ns: NDArray[np.int64], values: Floats) -> list[Message]:
        """Return the messages of one block, exact repeats at its end.

        Parameters
        ----------
        who : (m,) intp
            Indices into the sensors.
        time_ns : (m,) int64
            Event times, UTC nanoseconds; microseconds are sent.
        values : (m, k) float64
            Column j is a sensor's j-th quantity.
        """
        broken, repeated = self._rng.random((2, len(who)))
        rows = zip(who.tolist(), iso_times(time_ns), values.tolist(), strict=True)
        messages = [self._sound(index, observed, row) for index, observed, row in rows]
        repeats = []
        for place, (index, message) in enumerate(zip(who.tolist(), messages, strict=True)):
            if broken[place] < self._mischief.bad_share:
                messages[place] = self._broken(index, message)
                continue
            if self._sensors[index].domain == "environment" and index % 2:
                messages[place] = message._replace(payload=normalised(message.payload))
            if repeated[place] < self._mischief.duplicate_share:
                repeats.append(messages[place]._replace(repeat=True))
        return messages + repeats

    def _sound(self, index: int, observed: str, row: list[float]) -> Message:
        sensor = self._sensors[index]
        entity = self._heads[index] | {"dateObserved": observed}
        columns = zip(sensor.quantities, sensor.decimals, row, strict=False)
        for quantity, decimals, value in columns:
            entity[quantity] = value if decimals else int(value)
        probe = self._probes.get(index)
        if probe is not None:
            entity[probe[0]] = probe[1]
        withheld = int(probe is not None)
        return Message(self._topics[index], _encode(entity), len(sensor.quantities), withheld)

    def _broken(self, index: int, message: Message) -> Message:
        breakage = BREAKAGES[int(self._rng.integers(len(BREAKAGES)))]
        entity = msgspec.json.decode(message.payload)
        # The probe goes: a message is broken or carries a forbidden field, never both.
        if index in self._probes:
            del entity[self._probes[index][0]]
        payload = breakage(entity, self._sensors[index].quantities[0])
        return Message(message.topic, payload, 0, bad=True)


def entity_type(quantity: str) -> str:
    """Return the Smart Data Models type that reports a quantity."""
    if quantity == "LAeq":
        return "NoiseLevelObserved"
    return _ENTITY_OF_DOMAIN[QUANTITIES[quantity].domain]


def normalised(payload: bytes) -> bytes:
    """Return a key-values entity in the normalised form of NGSI-LD."""
    entity = msgspec.json.decode(payload)
    found = {name: entity.pop(name) for name in ("id", "type")}
    for name, value in entity.items():
        if name == "location":
            found[name] = {"type": "GeoProperty", "value": value}
        elif name == "dateObserved":
            found[name] = {"type": "Property", "value": {"@type": "DateTime", "@value": value}}
        else:
            found[name] = {"type": "Property", "value": value}
    return _encode(found)


def iso_times(time_ns: NDArray[np.int64]) -> list[str]:
    """Return ISO 8601 UTC times with microseconds and `Z`."""
    moments = (time_ns // 1000).astype("datetime64[us]")
    # One call for a block of one moment, the usual case while publishing.
    if len(moments) and (moments == moments[0]).all():
        return [str(moments[0]) + "Z"] * len(moments)
    return [str(moment) + "Z" for moment in np.datetime_as_string(moments, unit="us")]


def _head(sensor: Sensor) -> Entity:
    point = {"type": "Point", "coordinates": [sensor.longitude, sensor.latitude]}
    return {
        "id": f"urn:ngsi-ld:{sensor.entity}:{sensor.name}",
        "type": sensor.entity,
        # Never changes: written once, not with every message.
        "location": msgspec.Raw(_encode(point)),
    }


def _probes(sensors: Sequence[Sensor]) -> dict[int, tuple[str, str]]:
    cameras = [index for index, sensor in enumerate(sensors) if sensor.domain == "cameras"]
    fields = [("faceId", "SIMULATED-FACE-0000"), ("licensePlate", "SIM-0000")]
    return {index: fields[turn % 2] for turn, index in enumerate(cameras[::PROBE_STEP])}


def _truncated(entity: Entity, _quantity: str) -> bytes:
    payload = _encode(entity)
    return payload[: len(payload) * 2 // 3]


def _not_an_object(entity: Entity, quantity: str) -> bytes:
    return _encode(entity[quantity])


def _without_time(entity: Entity, _quantity: str) -> bytes:
    del entity["dateObserved"]
    return _encode(entity)


def _bad_time(entity: Entity, _quantity: str) -> bytes:
    return _encode(entity | {"dateObserved": "yesterday, about noon"})


def _text_for_number(entity: Entity, quantity: str) -> bytes:
    return _encode(entity | {quantity: f"{entity[quantity]} approx."})


def _other_sensor(entity: Entity, _quantity: str) -> bytes:
    return _encode(entity | {"id": f"{entity['id']}-other"})


def _unknown_type(entity: Entity, _quantity: str) -> bytes:
    kind = "ParkingMeterObserved"
    return _encode(entity | {"type": kind, "id": entity["id"].replace(entity["type"], kind)})


BREAKAGES: Final[tuple[Callable[[Entity, str], bytes], ...]] = (
    _truncated,
    _not_an_object,
    _without_time,
    _bad_time,
    _text_for_number,
    _other_sensor,
    _unknown_type,
)

"""NGSI entities of the FIWARE Smart Data Models, to readings.

Three ways of writing the same entity are told apart attribute by attribute, for brokers and
gateways mix them: key-values (`"LAeq": 61.2`), NGSI-LD (`{"type": "Property", "value": ...}` with
`unitCode` and `observedAt` beside) and NGSI-v2 (the same two inside `metadata`).

`decode` is total: any bytes give a `Message` or a `Reject`, never an exception. Nothing but the
listed attributes of an entity is looked at; whatever else a camera says counts as withheld and
goes no further, and so does what other sensors say about people.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from math import inf
from typing import Any, Final, NamedTuple

import msgspec

from ingest import reject
from ingest.jsontext import load
from ingest.message import Acceptance, Channel, Message
from ingest.privacy import UNKNOWN, kind_of, kind_within
from ingest.quantities import PRIVATE_DOMAIN
from ingest.reject import Reject
from ingest.topics import MqttTopic, is_level
from ingest.units import Conversion, conversion


class Entity(NamedTuple):
    """What one entity type may report, and under which domain.

    Parameters
    ----------
    domain : str
    quantities : tuple of str
        Attributes that carry a reading, named as in the table of quantities.
    aliases : dict of str to str
        Older names of them.
    ordinary : tuple of str
        Further attributes of the type that say nothing of people, though their names sound so.
    """

    domain: str
    quantities: tuple[str, ...]
    aliases: Mapping[str, str] = {}
    ordinary: tuple[str, ...] = ()


# Attribute names: smart-data-models dataModel.Transportation, dataModel.Environment.
ENTITIES: Final[dict[str, Entity]] = {
    "TrafficFlowObserved": Entity(
        "traffic",
        (
            "intensity",
            "occupancy",
            "averageVehicleSpeed",
            "averageHeadwayTime",
            "averageTravelTime",
        ),
        ordinary=("averageVehicleLength", "vehicleType", "vehicleSubType"),
    ),
    "AirQualityObserved": Entity(
        "environment",
        ("pm25", "pm10", "no2", "o3", "so2", "co", "temperature", "relativeHumidity"),
        # The examples of AirQualityObserved until 2021, and its GeoJSON one still. Particles never
        # had another name there.
        {"NO2": "no2", "O3": "o3", "SO2": "so2", "CO": "co"},
        ordinary=("typeOfLocation", "typeofLocation"),  # indoor or outdoor; spelt both ways
    ),
    "NoiseLevelObserved": Entity("environment", ("LAeq",)),
    "CrowdFlowObserved": Entity(
        "cameras",
        ("peopleCount", "peopleCountTowards", "peopleCountAway", "averageCrowdSpeed"),
    ),
}

# When a period was observed, its end counts; the last two are for brokers that cannot hold an
# interval.
_TIMES: Final = ("dateObserved", "dateObservedTo", "dateObservedFrom")
# Attributes that describe an entity and carry no reading; all else from a camera is withheld.
DESCRIPTIVE: Final = frozenset({"id", "type", "location", "@context", *_TIMES})
# What may stand in an attribute, its metadata or a location.
_PARTS: Final = frozenset(
    {
        "type",
        "value",
        "unitCode",
        "observedAt",
        "metadata",
        "coordinates",
        "@type",
        "@value",
        "bbox",
    }
)
_POINT: Final = frozenset({"type", "coordinates"})
_GEOMETRIES: Final = frozenset(
    {"LineString", "Polygon", "MultiPoint", "MultiLineString", "MultiPolygon"}
)
# By type and attribute, the quantity; none for those that describe.
_LISTED: Final[dict[str, dict[str, str]]] = {
    kind: {
        **dict.fromkeys((*DESCRIPTIVE, *entity.ordinary), ""),
        **{name: name for name in entity.quantities},
        **entity.aliases,
    }
    for kind, entity in ENTITIES.items()
}
_Object = dict[str, Any]
_URN: Final = "urn:ngsi-ld:"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Earliest and latest event time that is taken.
_Window = tuple[int, int]


def decode(
    payload: bytes, topic: MqttTopic, received_ns: int, acceptance: Acceptance
) -> Message | Reject:
    """Read one entity published on a sensor's topic.

    Parameters
    ----------
    payload : bytes
        The MQTT payload.
    topic : MqttTopic
        Where it was published; the payload must speak of the same sensor, or come from a gateway.
    received_ns : int
        Arrival, UTC nanoseconds.
    acceptance : Acceptance
    """
    entity = load(payload)
    if type(entity) is not dict:
        return entity if isinstance(entity, Reject) else Reject(reject.SHAPE, "$")
    kind = entity.get("type")
    known = ENTITIES.get(kind) if type(kind) is str else None
    if known is None:
        return Reject(reject.TYPE, "$.type")
    if known.domain != topic.domain:
        return Reject(reject.DOMAIN, "$.type")
    sensor = _sensor(entity, topic, acceptance.gateways)
    if sensor is None:
        return Reject(reject.IDENTITY, "$.id")
    place = _place(entity.get("location"))
    if isinstance(place, Reject):
        return place
    return _message(entity, sensor, place, acceptance.window(received_ns))


def _sensor(entity: _Object, topic: MqttTopic, gateways: frozenset[str]) -> str | None:
    urn = entity.get("id")
    if type(urn) is not str:
        return None
    if urn == topic.sensor:
        return urn
    sensor = urn.removeprefix(f"{_URN}{entity['type']}:")
    if sensor == topic.sensor:
        return sensor
    if topic.sensor not in gateways or sensor.startswith(_URN) or not is_level(sensor):
        return None
    return sensor


def _message(
    entity: _Object, sensor: str, place: tuple[float, float] | None, window: _Window
) -> Message | Reject:
    kind = entity["type"]
    listed = _LISTED[kind]
    entity_time = _entity_time(entity, window)
    channels: list[Channel] = []
    times: list[int] = []
    values: list[float] = []
    is_plain = True
    for name, raw in entity.items():
        quantity = listed.get(name)
        if quantity is None or type(raw) is dict:
            is_plain = is_plain and name == "location" and raw.keys() == _POINT
        if not quantity or raw is None:
            continue
        if (type(raw) is float or type(raw) is int) and isinstance(entity_time, int):
            value, time_ns = _float(raw), entity_time  # most readings: spared the way below
        else:
            found = _reading(raw, f"$.{name}", quantity, entity_time, window)
            if found is None:
                continue
            if isinstance(found, Reject):
                return found
            value, time_ns = found
        # Channel(sensor, quantity), in a third of its time.
        channels.append(tuple.__new__(Channel, (sensor, quantity)))
        times.append(time_ns)
        values.append(value)
    if not channels and isinstance(entity_time, Reject):
        return entity_time
    withheld = {} if is_plain else _withheld(entity, kind)
    if not channels and not withheld:
        return Reject(reject.EMPTY, "$")
    message = Message(channels, times, values, [], place, withheld)
    if not entity.keys().isdisjoint(ENTITIES[kind].aliases):
        _leave_out_repeated(message)
    return message


def _reading(
    raw: Any, path: str, quantity: str, entity_time: int | Reject, window: _Window
) -> tuple[float, int] | Reject | None:
    """Return the value in the unit of the table and its time, or None where it is null."""
    number, scale, time_ns = raw, None, entity_time
    if type(raw) is dict:
        number = raw.get("value", raw)
        if number is None:
            return None
        scale = _scale(raw, path, quantity)
        time_ns = _own_time(raw, path, entity_time, window)
    if type(number) is not float and type(number) is not int:
        return Reject(reject.VALUE, path)
    if isinstance(scale, Reject):
        return scale
    if isinstance(time_ns, Reject):
        return time_ns
    value = _float(number)
    return (value if scale is None else value * scale.factor + scale.offset), time_ns


def _scale(attribute: _Object, path: str, quantity: str) -> Conversion | Reject | None:
    unit = _part(attribute, "unitCode")
    if unit is None:
        return None
    found = conversion(unit, quantity) if type(unit) is str else None
    return found or Reject(reject.UNIT, f"{path}.unitCode")


def _own_time(
    attribute: _Object, path: str, entity_time: int | Reject, window: _Window
) -> int | Reject:
    observed = _part(attribute, "observedAt")
    return entity_time if observed is None else _time(observed, f"{path}.observedAt", window)


def _part(attribute: _Object, name: str) -> Any:
    """Return what NGSI-LD has in an attribute, and NGSI-v2 in its metadata."""
    part = attribute.get(name)
    if part is None:
        part = attribute.get("metadata")
        if type(part) is not dict:
            return part  # nothing, or what no unit and no time can be read from
        part = part.get(name)
    return part.get("value", part) if type(part) is dict else part


def _entity_time(entity: _Object, window: _Window) -> int | Reject:
    """Return the first of the entity's times that can be read."""
    fault = None
    for name in _TIMES:
        raw = entity.get(name)
        if raw is not None:
            found = _time(raw, f"$.{name}", window)
            if not isinstance(found, Reject) or found.reason != reject.TIME:
                return found
            fault = fault or found
    return fault or Reject(reject.TIME, "$.dateObserved")


def _time(raw: Any, path: str, window: _Window) -> int | Reject:
    if type(raw) is dict:
        raw = raw.get("value", raw)
        if type(raw) is dict:
            raw = raw.get("@value")
    time_ns = _time_ns(raw) if type(raw) is str else None
    if time_ns is None:
        return Reject(reject.TIME, path)
    earliest_ns, latest_ns = window
    if earliest_ns <= time_ns <= latest_ns:
        return time_ns
    return Reject(reject.PAST if time_ns < earliest_ns else reject.FUTURE, path)


def _time_ns(text: str) -> int | None:
    """Return an instant, or the end of an interval."""
    if "/" in text:
        first, _, last = text.partition("/")
        start_ns, end_ns = _instant_ns(first), _instant_ns(last)
        return end_ns if start_ns and end_ns and start_ns <= end_ns else None
    return _instant_ns(text)


def _instant_ns(text: str) -> int | None:
    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        return None
    if moment.tzinfo is None:
        return None
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000


def _place(location: Any) -> tuple[float, float] | Reject | None:
    if type(location) is dict:
        location = location.get("value", location)
    if location is None:
        return None
    if type(location) is dict:
        shape, coordinates = location.get("type"), location.get("coordinates")
        if shape == "Point" and type(coordinates) is list and len(coordinates) in (2, 3):
            longitude, latitude, *altitude = coordinates
            if (
                _is_within(longitude, 180)
                and _is_within(latitude, 90)
                and (not altitude or _is_within(altitude[0], inf))
            ):
                return float(longitude), float(latitude)
        elif type(shape) is str and shape in _GEOMETRIES and type(coordinates) is list:
            return None  # a stretch of road or a square: no place of a sensor, but no fault either
    return Reject(reject.LOCATION, "$.location")


def _is_within(part: Any, limit: float) -> bool:
    return (type(part) is float or type(part) is int) and -limit <= part <= limit


def _leave_out_repeated(message: Message) -> None:
    """Keep the first of readings that an older name gives a second time."""
    first: dict[tuple[Channel, int], float] = {}
    contradicted: set[tuple[Channel, int]] = set()
    for channel, time_ns, value in zip(
        message.channels, message.time_ns, message.value, strict=True
    ):
        if first.setdefault((channel, time_ns), value) != value:
            contradicted.add((channel, time_ns))
    message.repeated = len(message.channels) - len(first)
    if message.repeated:
        message.channels = [channel for channel, _ in first]
        message.time_ns = [time_ns for _, time_ns in first]
        message.value = list(first.values())
        message.doubtful = [index for index, key in enumerate(first) if key in contradicted]


def _unlisted_parts(attribute: _Object) -> Iterator[str]:
    """Return the names inside an attribute that have no place there."""
    for name, inner in attribute.items():
        if name not in _PARTS:
            yield name
        elif type(inner) is dict:
            yield from _unlisted_parts(inner)


def _withheld(entity: _Object, kind: str) -> dict[str, int]:
    """Return, by kind, what the entity says that it may not.

    Cameras may say what is listed; what others may not say is what is private by its name.
    """
    listed, is_camera = _LISTED[kind], ENTITIES[kind].domain == PRIVATE_DOMAIN
    kinds: Counter[str] = Counter()
    for name, raw in entity.items():
        if name not in listed:
            kinds[kind_within(name, raw) if is_camera else kind_of(name)] += 1
        elif type(raw) is dict and name != "@context":
            kinds.update(map(kind_of, _unlisted_parts(raw)))
    if not is_camera:
        del kinds[UNKNOWN]
    return dict(kinds)


def _float(raw: float) -> float:
    try:
        return float(raw)
    except OverflowError:  # an integer of hundreds of digits
        return inf if raw > 0 else -inf

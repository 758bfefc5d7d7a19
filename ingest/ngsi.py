"""NGSI key-values entities of the FIWARE Smart Data Models, to readings.

`decode` is total: any bytes give a `Decoded` or a `Reject`, never an exception. Nothing but the
listed attributes of an entity is looked at; for cameras whatever else is there counts as withheld
and goes no further.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any, Final, NamedTuple

import msgspec

from ingest import reject
from ingest.quality import FAIL, GOOD
from ingest.quantities import QUANTITIES
from ingest.reject import Reject
from ingest.topics import MqttTopic, is_level


class Entity(NamedTuple):
    """What one entity type may report, and under which domain."""

    domain: str
    quantities: tuple[str, ...]


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
    ),
    "AirQualityObserved": Entity(
        "environment",
        ("pm25", "pm10", "no2", "o3", "so2", "co", "temperature", "relativeHumidity"),
    ),
    "NoiseLevelObserved": Entity("environment", ("LAeq",)),
    "CrowdFlowObserved": Entity(
        "cameras",
        ("peopleCount", "peopleCountTowards", "peopleCountAway", "averageCrowdSpeed"),
    ),
}

# Attributes that describe an entity and carry no reading; all else from a camera is withheld.
_DESCRIPTIVE: Final = frozenset({"id", "type", "dateObserved", "location"})
_PRIVATE_DOMAIN: Final = "cameras"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_NS: Final = 946_684_800 * 10**9  # 2000-01-01: before it a clock was never set
# A sensor clock further ahead than this would shut its own series until the day catches up.
MAX_AHEAD_NS: Final = 300 * 10**9
_ENTITY: Final = msgspec.json.Decoder(dict[str, Any])
# An id or a time is shorter; a picture in base64 is not.
_MAX_KEPT_TEXT: Final = 150
_MICROSECOND: Final = timedelta(microseconds=1)


class Decoded(NamedTuple):
    """The readings of one message, all of one sensor at one time.

    Parameters
    ----------
    quantities : list of str
    values : list of float
        In the unit of the quantity.
    qualities : list of int
        QARTOD flags.
    time_ns : int
        Event time, whole microseconds.
    place : (float, float) or None
        Longitude and latitude in degrees, where the message says it.
    withheld : int
        Attributes that were not allowed to pass.
    """

    quantities: list[str]
    values: list[float]
    qualities: list[int]
    time_ns: int
    place: tuple[float, float] | None
    withheld: int


def decode(  # noqa: PLR0911 - one return a fault
    payload: bytes, topic: MqttTopic, received_ns: int
) -> Decoded | Reject:
    """Read one entity published on a sensor's topic.

    Parameters
    ----------
    payload : bytes
        The MQTT payload.
    topic : MqttTopic
        Where it was published; the payload must speak of the same sensor.
    received_ns : int
        Arrival, UTC nanoseconds; a time more than `MAX_AHEAD_NS` later is refused.
    """
    try:
        entity = _ENTITY.decode(payload)
    except RecursionError:
        return Reject(reject.TOO_DEEP, "$")
    except msgspec.ValidationError:
        return Reject(reject.SHAPE, "$")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Reject(reject.MALFORMED, "$")
    kind = entity.get("type")
    known = ENTITIES.get(kind) if isinstance(kind, str) else None
    if known is None:
        return Reject(reject.TYPE, "$.type")
    fault = _identity_fault(entity, known, topic)
    if fault:
        return fault
    time_ns = _time_ns(entity.get("dateObserved"))
    if time_ns is None:
        return Reject(reject.TIME, "$.dateObserved")
    if time_ns > received_ns + MAX_AHEAD_NS:
        return Reject(reject.FUTURE, "$.dateObserved")
    place = _place(entity.get("location"))
    if isinstance(place, Reject):
        return place
    return _readings(entity, known, time_ns, place)


def may_be_kept(payload: bytes) -> bool:
    """Say whether a rejected payload holds nothing but what sensors other than cameras may say.

    By allowlist, like everything about privacy: an object of a known type with listed attributes
    only, each a short scalar or a plain point. What cannot be read cannot be vouched for.
    """
    try:
        entity = _ENTITY.decode(payload)
    except (RecursionError, msgspec.MsgspecError, UnicodeDecodeError):
        return False
    kind = entity.pop("type", None)
    known = ENTITIES.get(kind) if isinstance(kind, str) else None
    if known is None or known.domain == _PRIVATE_DOMAIN:
        return False
    location = entity.pop("location", None) or {}
    if not isinstance(location, dict):
        return False
    coordinates = location.get("coordinates", [])
    parts = coordinates if isinstance(coordinates, list) else [coordinates]
    return (
        entity.keys() <= _DESCRIPTIVE | set(known.quantities)
        and location.keys() <= {"type", "coordinates"}
        and all(_is_short_scalar(value) for value in (*entity.values(), *parts))
        and _is_short_scalar(location.get("type"))
    )


def _is_short_scalar(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _MAX_KEPT_TEXT
    return value is None or isinstance(value, bool | int | float)


def _identity_fault(entity: Mapping[str, Any], known: Entity, topic: MqttTopic) -> Reject | None:
    if known.domain != topic.domain:
        return Reject(reject.DOMAIN, "$.type")
    urn = entity.get("id")
    if not isinstance(urn, str):
        return Reject(reject.IDENTITY, "$.id")
    sensor = urn.removeprefix(f"urn:ngsi-ld:{entity['type']}:")
    if sensor != topic.sensor or not is_level(sensor):
        return Reject(reject.IDENTITY, "$.id")
    return None


def _time_ns(text: object) -> int | None:
    if not isinstance(text, str):
        return None
    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        return None
    if moment.tzinfo is None:
        return None
    try:
        nanoseconds = (moment - _EPOCH) // _MICROSECOND * 1_000
    except OverflowError:
        return None
    return nanoseconds if nanoseconds >= _EARLIEST_NS else None


def _place(location: object) -> tuple[float, float] | Reject | None:
    if location is None:
        return None
    wrong = Reject(reject.LOCATION, "$.location")
    if not isinstance(location, dict) or location.get("type") != "Point":
        return wrong
    coordinates = location.get("coordinates")
    if not isinstance(coordinates, list) or len(coordinates) not in (2, 3):
        return wrong
    if not all(_is_number(part) for part in coordinates):
        return wrong
    longitude, latitude = coordinates[0], coordinates[1]
    if not (-180 <= longitude <= 180 and -90 <= latitude <= 90):  # noqa: PLR2004 - degrees
        return wrong
    return float(longitude), float(latitude)


def _readings(
    entity: Mapping[str, Any], known: Entity, time_ns: int, place: tuple[float, float] | None
) -> Decoded | Reject:
    quantities: list[str] = []
    values: list[float] = []
    qualities: list[int] = []
    for quantity in known.quantities:
        raw = entity.get(quantity)
        if raw is None:
            continue
        if not _is_number(raw):
            return Reject(reject.VALUE, f"$.{quantity}")
        value = _float(raw)
        if not isfinite(value):
            return Reject(reject.VALUE, f"$.{quantity}")
        limits = QUANTITIES[quantity]
        quantities.append(quantity)
        values.append(value)
        qualities.append(GOOD if limits.low <= value <= limits.high else FAIL)
    withheld = 0
    if known.domain == _PRIVATE_DOMAIN:
        withheld = sum(name not in _DESCRIPTIVE and name not in known.quantities for name in entity)
    if not quantities and not withheld:
        return Reject(reject.EMPTY, "$")
    return Decoded(quantities, values, qualities, time_ns, place, withheld)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _float(raw: float) -> float:
    try:
        return float(raw)
    except OverflowError:  # an integer of hundreds of digits
        return float("inf") if raw > 0 else float("-inf")

"""Events of cameras in the ONVIF form, to readings: what is listed, and nothing else.

Source: ONVIF Core Specification, event broker (MQTT topics and JSON payload) and property events;
the events are those of the Analytics (annex of specified rules), Imaging (tampering) and Core
(hardware failure) specifications.

An event that is not listed, as a face, a number plate or a mere motion, is withheld whole: the
message is taken, says nothing, and is counted. Of a listed event only the time, the value and the
property operation pass.

Several rules and video sources of one camera are several sensors. Their names are typed by people
and never pass; a fingerprint of them does. Nothing in a single message tells whether a camera has
other sources, so every source and rule that an event names goes into the fingerprint, and only an
event that names none is the camera's own.

A deleted property is one that the camera no longer tells of. For what was going on (somebody
loitering, objects inside) that is its end; for a count it is nothing; and for a fault it is no
repair, so it says nothing either. A broker's way of deleting is a message of no bytes, which names
neither rule nor time: taken, without readings.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from ingest import reject
from ingest.jsontext import load
from ingest.message import Acceptance, Channel, Message
from ingest.privacy import UNKNOWN, fingerprinted, kind_of, kind_within
from ingest.reject import Reject
from ingest.topics import MqttTopic, is_level, parse_topic

_DOMAIN: Final = "cameras"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LISTED: Final = frozenset(("UtcTime", "PropertyOperation"))
_SECTIONS: Final = frozenset(("Source", "Key", "Data"))
_SIMPLE_ITEM: Final = "SimpleItem"
_ITEM_LISTS: Final = frozenset((_SIMPLE_ITEM, "ElementItem"))
_NAME_AND_VALUE: Final = frozenset(("Name", "Value"))
_OBJECTS: Final = "ObjectId"
_NOTHING: Final[tuple[Any, ...]] = ("", [], None)
# What separates an event's topic from the values of its source.
_SOURCES: Final = "/&"
_SENSOR_LEVELS: Final = 5
# Of the default topic namespace, which MQTT topics should not have and some devices send.
_PREFIX: Final = "tns1:"

# Names of the source items that say which part of a camera an event comes from, in small letters.
_IDENTITY: Final = {
    "rule",
    "rulename",
    "token",
    "source",
    "sourcetoken",
    "videosource",
    "videosourcetoken",
    "videosourceconfiguration",
    "videosourceconfigurationtoken",
    "analyticsconfiguration",
    "videoanalyticsconfiguration",
    "videoanalyticsconfigurationtoken",
}
# Tokens are text; some devices send them as numbers.
_MAX_TOKEN: Final = 2**63
_TRUE: Final = frozenset(("true", "1"))
_FALSE: Final = frozenset(("false", "0"))
_NUMBER: Final = re.compile(r"[-+]?[0-9]{1,18}(\.[0-9]{1,18})?")


class _Item(NamedTuple):
    """One item of an event; `section` is empty where it can be neither value nor identity."""

    section: str
    name: str
    value: Any


class _Event(NamedTuple):
    """What is read of an event.

    Parameters
    ----------
    quantity : str
    read : callable
        A field's value to a number, or None.
    fields : tuple of str
        Names of the field that holds the value, the specification's first.
    is_told_by_coming : bool
        Whether the event itself says "yes" where none of the fields is there.
    value_when_deleted : float or None
        Of a property the camera no longer tells of; None for no reading.
    """

    quantity: str
    read: Callable[[Any], float | None]
    fields: tuple[str, ...]
    is_told_by_coming: bool = False
    value_when_deleted: float | None = None


def _truth(value: Any) -> float | None:
    """Return 0 or 1 of an XML boolean, quoted or not."""
    if isinstance(value, str):
        text = value.strip().lower()
        return 1.0 if text in _TRUE else 0.0 if text in _FALSE else None
    return float(value) if isinstance(value, int) and value in (0, 1) else None


def _count(value: Any) -> float | None:
    """Return a number, quoted or not."""
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value.strip()) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return float("inf") if value > 0 else float("-inf")


def _fault(quantity: str, *fields: str) -> _Event:
    return _Event(quantity, _truth, fields)


_EVENTS: Final[dict[str, _Event]] = {
    # A crossing is no property, but some devices send it as one, and then its end as well.
    "RuleEngine/LineDetector/Crossed": _Event(
        "lineCrossings", _truth, ("State", "IsCrossed"), is_told_by_coming=True
    ),
    "RuleEngine/CountAggregation/Counter": _Event("objectCount", _count, ("Count",)),
    "RuleEngine/CountAggregation/OccupancyCounter": _Event("occupancyCount", _count, ("Count",)),
    "RuleEngine/LoiteringDetector/ObjectIsLoitering": _Event(
        "loitering",
        _truth,
        ("State", "IsLoitering"),
        is_told_by_coming=True,
        value_when_deleted=0.0,
    ),
    "RuleEngine/FieldDetector/ObjectsInside": _Event(
        "objectsInside", _truth, ("IsInside", "State"), value_when_deleted=0.0
    ),
    "VideoSource/SignalLoss": _fault("signalLoss", "State", "IsSignalLoss"),
    "Device/HardwareFailure/StorageFailure": _fault("storageFailure", "Failed", "State"),
}
# Which service of the camera found it may be a further level of these; a device may have others
# than the specification names.
_SERVICES: Final = frozenset(("AnalyticsService", "ImagingService", "RecordingService"))
_BY_SERVICE: Final[dict[str, _Event]] = {
    "VideoSource/ImageTooDark": _fault("imageTooDark", "State"),
    "VideoSource/ImageTooBright": _fault("imageTooBright", "State"),
    "VideoSource/ImageTooBlurry": _fault("imageTooBlurry", "State"),
    "VideoSource/GlobalSceneChange": _fault("sceneChange", "State"),
}


def decode(  # noqa: PLR0911 - one return a fault
    payload: bytes, topic: MqttTopic, received_ns: int, acceptance: Acceptance
) -> Message | Reject:
    """Read one event.

    Parameters
    ----------
    payload : bytes
        An object with `UtcTime`, `Source`, `Key` and `Data`; the items of the latter are members,
        or lists of names and values (`SimpleItem`).
    topic : MqttTopic
        Its `event` says what the event is about.
    received_ns : int
        Arrival, UTC nanoseconds.
    acceptance : Acceptance
    """
    if topic.domain != _DOMAIN:
        return Reject(reject.DOMAIN, "topic")
    if not payload:  # how a broker is told to forget a property
        return Message([], [], [])
    content = load(payload)
    if isinstance(content, Reject):
        return content
    if not isinstance(content, dict):
        return Reject(reject.SHAPE, "$")
    name, service = _listed(topic.event)
    if not name:
        kind = _kind_of_event(topic.event)
        return Message([], [], [], withheld=_withheld(_items(content), kind) or {kind: 1})
    time_ns = _time_ns(content.get("UtcTime"), received_ns, acceptance)
    if isinstance(time_ns, Reject):
        return time_ns
    return _message(content, _EVENTS.get(name) or _BY_SERVICE[name], topic, service, time_ns)


def public_event(event: str) -> str:
    """Return the part of an event's topic that may be repeated; empty for what is not listed.

    The rest holds the names of sources and rules, which people typed.
    """
    name, service = _listed(event)
    return f"{name}/{service}" if name and service in _SERVICES else name


def public_topic(text: str) -> str:
    """Return an MQTT topic as a dead letter may repeat it: without what people typed.

    Of one that is not a sensor's, the levels that could be a name on the wire, five at most.
    """
    topic = parse_topic(text)
    if topic is not None:
        return str(topic._replace(event=public_event(topic.event)))
    levels = text.split("/")
    kept = [level if is_level(level) else "?" for level in levels[:_SENSOR_LEVELS]]
    return "/".join([*kept, "..."] if len(levels) > _SENSOR_LEVELS else kept)


def sensor_of(camera: str, service: str, source: Iterable[tuple[str, str, Any]]) -> str:
    """Return the sensor id of what an event comes from.

    Parameters
    ----------
    camera : str
    service : str
        Level of the topic that says which service of the camera found it; may be empty.
    source : iterable of (section, name, value)
        Items of the event; those of the section "Source" with known names count.

    Returns
    -------
    str
        The camera's, where nothing tells its parts apart, else `<camera>:<8 hex digits>`.
    """
    parts = sorted(
        f"{name.lower()}={value}"
        for section, name, value in source
        if _is_identity(section, name, value) and value not in _NOTHING
    )
    if service:
        parts.append(service)
    return fingerprinted(camera, parts) if parts else camera


def _message(
    content: dict[str, Any], event: _Event, topic: MqttTopic, service: str, time_ns: int
) -> Message | Reject:
    items = list(_items(content))
    at = next((at for at, item in enumerate(items) if _is_value(item, event)), None)
    value = _value(content, items, at, event)
    if isinstance(value, Reject):
        return value
    withheld = _withheld((item for number, item in enumerate(items) if number != at), UNKNOWN)
    if value is None:
        return Message([], [], [], withheld=withheld)
    channel = Channel(sensor_of(topic.sensor, service, items), event.quantity)
    return Message([channel], [time_ns], [value], withheld=withheld)


def _listed(event: str) -> tuple[str, str]:
    """Return an event's name and the service it comes from; no name where it is not listed."""
    path = event.partition(_SOURCES)[0].strip("/")
    name = "/".join(level.removeprefix(_PREFIX) for level in path.split("/"))
    if name in _EVENTS or name in _BY_SERVICE:
        return name, ""
    name, _, service = name.rpartition("/")
    return (name, service) if name in _BY_SERVICE else ("", "")


def _kind_of_event(event: str) -> str:
    # The first level names a part of the camera: every event of VideoSource would be a stream.
    path = event.partition(_SOURCES)[0].strip("/")
    return kind_of(path.partition("/")[2] or path)


def _items(content: dict[str, Any]) -> Iterable[_Item]:
    """Yield everything an event holds besides its time and its property operation."""
    for section, value in content.items():
        if section in _LISTED:
            continue
        if section not in _SECTIONS:
            yield _Item("", section, value)
        elif isinstance(value, dict):
            for name, part in value.items():
                if name in _ITEM_LISTS:
                    yield from _listed_items(section if name == _SIMPLE_ITEM else "", part)
                else:
                    yield _Item(section, name, part)
        elif value is not None:
            yield _Item("", section, value)


def _listed_items(section: str, entries: Any) -> Iterable[_Item]:
    for entry in entries if isinstance(entries, list) else [entries]:
        name = entry.get("Name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            yield _Item("", "", entry)
            continue
        yield _Item(section, name, entry.get("Value"))
        for extra, value in entry.items():
            if extra not in _NAME_AND_VALUE:
                yield _Item("", extra, value)


def _is_identity(section: str, name: str, value: Any) -> bool:
    if section != "Source" or name.lower() not in _IDENTITY:
        return False
    return isinstance(value, str) or (isinstance(value, int) and abs(value) < _MAX_TOKEN)


def _is_value(item: _Item, event: _Event) -> bool:
    return item.section == "Data" and item.name in event.fields


def _value(
    content: dict[str, Any], items: list[_Item], at: int | None, event: _Event
) -> float | Reject | None:
    """Return the reading, None where the event has none, or why it cannot be read."""
    if content.get("PropertyOperation") == "Deleted":
        return event.value_when_deleted
    if at is not None:
        value = event.read(items[at].value)
        return Reject(reject.VALUE, f"$.Data.{items[at].name}") if value is None else value
    if not event.is_told_by_coming:
        return Reject(reject.VALUE, f"$.Data.{event.fields[0]}")
    # A property that lists who it is about ends when the list is empty.
    return float(all(item.value not in _NOTHING for item in items if item.name == _OBJECTS))


def _withheld(items: Iterable[_Item], kind_of_event: str) -> dict[str, int]:
    """Count by kind what does not pass."""
    kinds: Counter[str] = Counter()
    for section, name, value in items:
        if not _is_identity(section, name, value):
            kind = kind_within(name, value)
            kinds[kind_of_event if kind == UNKNOWN else kind] += 1
    return dict(kinds)


def _time_ns(text: Any, received_ns: int, acceptance: Acceptance) -> int | Reject:
    try:
        moment = msgspec.convert(text, datetime, strict=True)
        # UTC by its name: some devices leave the zone out.
        moment = moment.replace(tzinfo=moment.tzinfo or UTC)
        time_ns = (moment - _EPOCH) // _MICROSECOND * 1_000
    except (msgspec.ValidationError, OverflowError):
        return Reject(reject.TIME, "$.UtcTime")
    earliest_ns, latest_ns = acceptance.window(received_ns)
    if time_ns < earliest_ns:
        return Reject(reject.PAST, "$.UtcTime")
    if time_ns > latest_ns:
        return Reject(reject.FUTURE, "$.UtcTime")
    return time_ns

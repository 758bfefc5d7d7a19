"""Names on the wire: MQTT topics, Kafka topics, and the keys of series.

Every name carries its namespace, so a replay and the live city can never meet.
"""

import re
from typing import Final, NamedTuple
from zlib import crc32

# The city itself; every other namespace is a replay.
LIVE: Final = "live"
NAMESPACE_PATTERN: Final = r"(live|replay-[a-z0-9][a-z0-9-]{0,39})"
_NAMESPACE = re.compile(NAMESPACE_PATTERN)
# A level may hold what vendors put into ids (URNs, serial numbers) and nothing that a topic
# filter, a path or a series key could misread.
_LEVEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")

# ONVIF Core, "MQTT": the payload prefix of events in JSON, between the device's own topic prefix
# and the event's topic.
ONVIF_LEVEL: Final = "onvif-ej"
_MAX_EVENT: Final = 300


class MqttTopic(NamedTuple):
    """The parts of `city/<namespace>/<domain>/<zone>/<sensor>`, and of what may follow.

    Parameters
    ----------
    namespace, domain, zone, sensor : str
    event : str
        What a camera's event is about: the rest of an ONVIF topic (`.../onvif-ej/<event>`); empty
        for everything else.
    """

    namespace: str
    domain: str
    zone: str
    sensor: str
    event: str = ""

    def __str__(self) -> str:
        """Return the topic as published."""
        text = f"city/{self.namespace}/{self.domain}/{self.zone}/{self.sensor}"
        return f"{text}/{ONVIF_LEVEL}/{self.event}" if self.event else text


class SeriesKey(NamedTuple):
    """What one series measures, and where.

    Its text form `domain/zone/sensor/quantity` is the dictionary entry of a batch. Two series
    are the same when sensor and quantity are; domain and zone describe the sensor.
    """

    domain: str
    zone: str
    sensor: str
    quantity: str

    def __str__(self) -> str:
        """Return the dictionary entry."""
        return "/".join(self)

    @classmethod
    def parse(cls, text: str) -> "SeriesKey":
        """Split a dictionary entry.

        Raises
        ------
        ValueError
            If `text` does not have four non-empty parts.
        """
        parts = text.split("/")
        if len(parts) != 4 or not all(parts):  # noqa: PLR2004 - the four fields above
            raise ValueError(f"not a series key (domain/zone/sensor/quantity): {text!r}")
        return cls(*parts)


def is_namespace(text: str) -> bool:
    """Say whether `text` is `live` or `replay-<name>`."""
    return _NAMESPACE.fullmatch(text) is not None


def is_level(text: str) -> bool:
    """Say whether `text` can stand as one level of a topic."""
    return _LEVEL.fullmatch(text) is not None


def parse_topic(text: str) -> MqttTopic | None:
    """Split an MQTT topic; None where it is not one of a city's sensors."""
    levels, is_event, event = text.partition(f"/{ONVIF_LEVEL}/")
    parts = levels.split("/")
    if len(parts) != 5 or parts[0] != "city":  # noqa: PLR2004 - the levels of MqttTopic
        return None
    if not is_namespace(parts[1]) or not all(map(is_level, parts[2:])):
        return None
    if is_event and not 0 < len(event) <= _MAX_EVENT:
        return None
    _, namespace, domain, zone, sensor = parts
    return MqttTopic(namespace, domain, zone, sensor, event)


def mqtt_filter(namespace: str) -> str:
    """Return the subscription that covers every sensor of a namespace."""
    return f"city/{namespace}/#"


def readings_topic(namespace: str) -> str:
    """Return the Kafka topic of a namespace's readings."""
    return f"{namespace}.readings"


def dead_letters_topic(namespace: str) -> str:
    """Return the Kafka topic of a namespace's rejected messages."""
    return f"{namespace}.dead-letters"


def database_schema(namespace: str) -> str:
    """Return the database schema of a namespace, a plain SQL identifier."""
    return namespace.replace("-", "_")


def partition_of(name: str, partitions: int) -> int:
    """Return the Kafka partition that holds all readings of a sensor, or of a group of them."""
    return crc32(name.encode()) % partitions

"""What may not pass, by what kind of thing it is, and what of a rejected message may be kept.

Cameras see faces and number plates. What they may tell is listed where it is decoded; this module
names the rest, so that the ledger can say what was withheld without repeating any of it, and
decides by allowlist whether a payload that was rejected may stand in a dead letter.
"""

import json
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import blake2s
from typing import Any, Final

from ingest.quantities import PRIVATE_DOMAIN, QUANTITIES

UNKNOWN: Final = "unknown"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The kinds, the most telling first: a picture of a face is a face. They are part of the ledger's
# key, so the set is closed.
_WORDS: Final = {
    "face": _words("face faces facial mask biometric biometrics iris eye eyes emotion faceid"),
    "plate": _words("plate plates lpr anpr alpr vin registration"),
    "body-temperature": _words("fever forehead radiometry"),
    "person": _words(
        "person persons people pedestrian human body gender sex age ethnicity clothing hair"
        " enrollment enrolment identity"
    ),
    "image": _words(
        "image images img picture pictures pic photo photos snapshot thumbnail jpeg jpg png bitmap"
        " base64 crop"
    ),
    "stream": _words(
        "stream streams rtsp rtsps rtmp hls webrtc video videos clip media footage recording uri"
        " url href"
    ),
    "sound": _words("audio sound sounds voice speech microphone"),
    "position": _words(
        "position positions location geolocation gps latitude longitude lat lon lng coordinates"
        " polygon polyline segments bounding bbox gravity trajectory track"
    ),
    "object": _words("object objects class classes vehicle appearance shape color colour brand"),
}
KINDS: Final = (*_WORDS, UNKNOWN)
# Found within names that give no hint of where a word ends: "licenseplatenumber".
_FRAGMENTS: Final = {
    "face": ("faceid", "facerecog"),
    "plate": ("licenseplate", "licenceplate", "numberplate", "platenumber", "platetext"),
    "body-temperature": ("bodytemp", "skintemp"),
    "image": ("snapshot", "thumbnail", "picture"),
    "stream": ("rtsp", "streamur", "videour"),
    "position": ("boundingbox", "geolocation"),
    "object": ("objectid", "classtype"),
}
# A temperature alone may be the air's; one that is too high is somebody's.
_TEMPERATURES: Final = _words("temperature temperatures temp")
_SOMEBODYS: Final = _words("body skin too high elevated alarm abnormal")
_DEVICES: Final = _words("device sensor ambient processor critical")
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+(?:64)?|[0-9]+")
# No name of an attribute is longer; what calls itself a name may be a picture.
_MAX_NAME: Final = 100
_RANK: Final = {kind: rank for rank, kind in enumerate(KINDS)}


def kind_of(name: str) -> str:
    """Return the kind, one of `KINDS`, of what an attribute of that name holds."""
    return _kind_of(name[:_MAX_NAME])


@lru_cache(maxsize=4096)
def _kind_of(name: str) -> str:
    words = {word.lower() for word in _WORD.findall(name)}
    if words & _TEMPERATURES and words & _SOMEBODYS and not words & _DEVICES:
        return "body-temperature"
    joined = "".join(part for part in name.lower() if part.isalnum())
    for kind, known in _WORDS.items():
        if words & known or any(part in joined for part in _FRAGMENTS.get(kind, ())):
            return kind
    return UNKNOWN


def kind_within(name: str, value: Any) -> str:
    """Return the most telling kind of an attribute and of all that is nested in it."""
    return min(map(kind_of, _names(name, value)), key=_RANK.__getitem__)


def _names(name: str, value: Any) -> Iterable[str]:
    yield name
    values = [value]
    while values:
        inner = values.pop()
        if isinstance(inner, dict):
            yield from inner
            values.extend(inner.values())
        elif isinstance(inner, list):
            values.extend(inner)


# A level of a topic is at most 100 characters, and the ledger holds no longer name of a sensor.
_MAX_CAMERA: Final = 91
_DIGEST_BYTES: Final = 4


def fingerprinted(camera: str, parts: Iterable[str]) -> str:
    """Return the sensor id, `<camera>:<8 hex digits>`, of a part of a camera.

    What people call a part of a camera (a rule, a line, a view) is free text and never passes.
    The camera's own id goes into the digits, so the same name at two cameras cannot be told to be
    the same.
    """
    text = "\0".join((camera, *parts)).encode(errors="surrogatepass")
    return f"{camera[:_MAX_CAMERA]}:{blake2s(text, digest_size=_DIGEST_BYTES).hexdigest()}"


# --- dead letters -------------------------------------------------------------------------------

# Entity types of sensors that see nobody; the readings they may hold are those of their domain.
HARMLESS_TYPES: Final = {
    "TrafficFlowObserved": "traffic",
    "AirQualityObserved": "environment",
    "NoiseLevelObserved": "environment",
}
# Names that attributes of AirQualityObserved had before.
ALIASES: Final = {"NO2": "no2", "O3": "o3", "SO2": "so2", "CO": "co"}
_DATES: Final = _words("dateObserved dateObservedFrom dateObservedTo")
_ATTRIBUTE_TYPES: Final = _words(
    "Property GeoProperty Number Integer Float Boolean Text DateTime geo:json"
)
_DATE_TYPES: Final = ("DateTime", "Date")
_SENML: Final = _words("n u v vb t bn bt bu bv bver")
_SENML_BASE: Final = _words("bn bt bu bv bver")
_MAX_COORDINATES: Final = 3
# Forms that hold an id, a time, a number or a unit, and neither a sentence nor a picture.
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,149}")
_SENML_NAME: Final = re.compile(r"[A-Za-z0-9_.:/-]{0,150}")
_DATE: Final = re.compile(r"[0-9TZ:+./ -]{0,80}")
_NUMBER: Final = re.compile(r"[-+0-9.,eE%]{0,40}")
_UNIT: Final = re.compile(r"[A-Za-z0-9/%]{0,12}")
_MAX_DIGITS: Final = 40
_QUANTITY_SEPARATOR: Final = re.compile(r"[/:]")


def may_be_kept(payload: bytes) -> bool:
    """Say whether a rejected payload holds nothing but what sensors other than cameras may say.

    By allowlist, like everything about privacy: an NGSI entity or a SenML pack of such sensors,
    with listed fields only, each of a form in which nothing else could be said. What cannot be
    read cannot be vouched for, and the same holds for what a reader would not see: a key that
    comes twice, a number of a thousand digits.
    """
    try:
        content = json.loads(
            payload.decode(),
            object_pairs_hook=_without_repeats,
            parse_int=_short_number,
            parse_float=_short_number,
        )
    except (ValueError, RecursionError):
        return False
    if isinstance(content, dict):
        return _is_harmless_entity(content)
    return isinstance(content, list) and _is_harmless_pack(content)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key comes twice")
    return content


def _short_number(text: str) -> float:
    if len(text) > _MAX_DIGITS:
        raise ValueError("a number too long to be a measurement")
    return float(text)


def _is_harmless_entity(entity: dict[str, Any]) -> bool:
    kind = entity.get("type")
    domain = HARMLESS_TYPES.get(kind) if isinstance(kind, str) else None
    return domain is not None and all(
        _is_harmless_attribute(name, value, domain) for name, value in entity.items()
    )


def _is_harmless_attribute(name: str, value: Any, domain: str) -> bool:
    if name == "type":  # looked at already
        return True
    if name == "id":
        return _is_text(value, _ID)
    if name == "location":
        return _has_form(value, _is_point)
    if name in _DATES:
        return _has_form(value, _is_date)
    quantity = QUANTITIES.get(ALIASES.get(name, name))
    return quantity is not None and quantity.domain == domain and _has_form(value, _is_number)


def _has_form(value: Any, is_form: Callable[[Any], bool]) -> bool:
    """Say whether a value, or what a normalised attribute holds as its value, has a form."""
    if is_form(value):
        return True
    if not isinstance(value, dict) or "value" not in value:
        return False
    return all(
        (name == "value" and is_form(part))
        or (name == "type" and _is_attribute_type(part))
        or (name == "unitCode" and _is_text(part, _UNIT))
        or (name in ("observedAt", "timestamp") and _is_date(part))
        or (name == "metadata" and _is_harmless_metadata(part))
        for name, part in value.items()
    )


def _is_harmless_metadata(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(
        isinstance(part, dict)
        and part.keys() <= {"type", "value"}
        and _is_attribute_type(part.get("type", "Text"))
        and (
            (name == "unitCode" and _is_text(part.get("value"), _UNIT))
            or (name in ("timestamp", "observedAt") and _is_date(part.get("value")))
        )
        for name, part in metadata.items()
    )


def _is_attribute_type(value: Any) -> bool:
    return isinstance(value, str) and value in _ATTRIBUTE_TYPES


def _is_text(value: Any, form: re.Pattern[str]) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, bool | float) or _is_text(value, _NUMBER)


def _is_date(value: Any) -> bool:
    if isinstance(value, dict):  # NGSI-LD
        return (
            value.keys() == {"@type", "@value"}
            and value["@type"] in _DATE_TYPES
            and _is_text(value["@value"], _DATE)
        )
    return value is None or isinstance(value, float) or _is_text(value, _DATE)


def _is_point(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or value.keys() != {"type", "coordinates"}:
        return False
    parts = value["coordinates"]
    return (
        value["type"] == "Point"
        and isinstance(parts, list)
        and len(parts) <= _MAX_COORDINATES
        and all(map(_is_number, parts))
    )


def _is_harmless_pack(records: list[Any]) -> bool:
    base, quantities = "", 0
    for record in records:
        if not isinstance(record, dict):
            return False
        if not all(_is_harmless_field(name, value) for name, value in record.items()):
            return False
        base = record.get("bn", base)
        if record.keys() <= _SENML_BASE:
            continue
        name = _QUANTITY_SEPARATOR.split(base + record.get("n", ""))[-1]
        quantity = QUANTITIES.get(name)
        if quantity is None or quantity.domain == PRIVATE_DOMAIN:
            return False
        quantities += 1
    return quantities > 0


def _is_harmless_field(name: str, value: Any) -> bool:
    if name in ("n", "bn"):
        return _is_text(value, _SENML_NAME)
    if name in ("u", "bu"):
        return _is_text(value, _UNIT)
    if name == "vb":
        return isinstance(value, bool)
    return name in _SENML and (value is None or isinstance(value, float))

"""Strategies and builders for what sensors send."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from ingest.ngsi import ENTITIES

NOW_NS = 1_767_225_600 * 10**9  # 2026-01-01
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ALNUM = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

LEVELS = st.builds(
    str.__add__, st.sampled_from(_ALNUM), st.text(_ALNUM + "_.:-", max_size=20)
) | st.just("x" * 100)
NAMESPACES = st.just("live") | st.from_regex(r"replay-[a-z0-9][a-z0-9-]{0,39}", fullmatch=True)

NUMBERS = st.one_of(
    st.integers(-(10**25), 10**25),
    st.floats(allow_nan=False, allow_infinity=False),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=20))
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
ATTRIBUTES = sorted({name for entity in ENTITIES.values() for name in entity.quantities})


def iso(time_ns: int) -> str:
    """Return a time as a sensor writes it."""
    moment = _EPOCH + timedelta(microseconds=time_ns // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def entity(kind: str, sensor: str, time_ns: int = NOW_NS, **attributes: Any) -> dict[str, Any]:
    """Return an NGSI key-values entity."""
    return {
        "id": f"urn:ngsi-ld:{kind}:{sensor}",
        "type": kind,
        "dateObserved": iso(time_ns),
    } | attributes


def payload(kind: str, sensor: str, time_ns: int = NOW_NS, **attributes: Any) -> bytes:
    """Return an entity as it is published."""
    return json.dumps(entity(kind, sensor, time_ns, **attributes)).encode()


@st.composite
def entities(draw: st.DrawFn, sensor: str = "s1") -> dict[str, Any]:
    """Draw an entity that is sound but for what may stand in its attributes."""
    kind = draw(st.sampled_from(sorted(ENTITIES)))
    known = st.sampled_from(ENTITIES[kind].quantities)
    attributes = draw(st.dictionaries(known, NUMBERS, min_size=1))
    return entity(kind, sensor, **attributes)


@st.composite
def damaged(draw: st.DrawFn, sensor: str = "s1") -> bytes:
    """Draw a sound payload with parts replaced by anything, and bytes changed."""
    sound = draw(entities(sensor))
    names = st.sampled_from([*sound, *ATTRIBUTES, "location", "dateObserved"])
    for name in draw(st.lists(names, max_size=3)):
        sound[name] = draw(JSON)
    data = bytearray(json.dumps(sound).encode())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


# --- the same entities as brokers write them ----------------------------------------------------

# What Python's and JavaScript's writers make of a value that is missing or too large.
LENIENT_NUMBERS = NUMBERS | st.floats()
FORMS = ("key-values", "ngsi-ld", "ngsi-v2")
_UNIT_CODES = ("KMH", "MTS", "P1", "C62", "SEC", "C26", "GQ", "GP", "61", "CEL", "FAH", "2N", "?")


def attribute(
    form: str, value: Any, unit: str | None = None, time_ns: int | None = None
) -> dict[str, Any]:
    """Return a normalised attribute."""
    parts = {"unitCode": unit, "observedAt": None if time_ns is None else iso(time_ns)}
    parts = {name: part for name, part in parts.items() if part is not None}
    if form == "ngsi-ld":
        return {"type": "Property", "value": value} | parts
    metadata = {name: {"type": "Text", "value": part} for name, part in parts.items()}
    return {"type": "Number", "value": value, "metadata": metadata}


def rewrite(plain: dict[str, Any], form: str) -> dict[str, Any]:
    """Return a key-values entity in another form."""
    if form == "key-values":
        return plain
    found = {}
    for name, value in plain.items():
        if name in {"id", "type"}:
            found[name] = value
        elif name == "location":
            kind = "GeoProperty" if form == "ngsi-ld" else "geo:json"
            found[name] = {"type": kind, "value": value}
        elif name.startswith("dateObserved"):
            found[name] = (
                {"type": "Property", "value": {"@type": "DateTime", "@value": value}}
                if form == "ngsi-ld"
                else {"type": "DateTime", "value": value}
            )
        else:
            found[name] = attribute(form, value)
    return found


@st.composite
def mixed(draw: st.DrawFn, sensor: str = "s1") -> dict[str, Any]:
    """Draw an entity whose attributes have any form, unit and time."""
    kind = draw(st.sampled_from(sorted(ENTITIES)))
    known = ENTITIES[kind]
    names = st.sampled_from([*known.quantities, *known.aliases])
    attributes: dict[str, Any] = {}
    for name in draw(st.lists(names, unique=True, max_size=5)):
        value = draw(LENIENT_NUMBERS | st.none())
        form = draw(st.sampled_from(FORMS))
        unit = draw(st.none() | st.sampled_from(_UNIT_CODES))
        delay_ns = draw(st.none() | st.integers(-400, 400))
        time_ns = None if delay_ns is None else NOW_NS - delay_ns * 10**9
        attributes[name] = value if form == "key-values" else attribute(form, value, unit, time_ns)
    plain = entity(kind, sensor)
    if draw(st.sampled_from([False, False, False, True])):
        del plain["dateObserved"]
    return rewrite(plain, draw(st.sampled_from(FORMS))) | attributes


@st.composite
def mutated(draw: st.DrawFn, sensor: str = "s1") -> bytes:
    """Draw a payload of any form with parts at any depth replaced, and bytes changed."""
    content = draw(mixed(sensor))
    for _ in range(draw(st.integers(0, 3))):
        parent = content
        name = draw(st.sampled_from([*parent, "location", "faceId", "@context"]))
        while isinstance(parent.get(name), dict) and parent[name] and draw(st.booleans()):
            parent = parent[name]
            name = draw(st.sampled_from([*parent, "metadata", "unitCode", "observedAt"]))
        parent[name] = draw(JSON)
    data = bytearray(json.dumps(content).encode())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)

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

"""Entities of either form, read back as key-values."""

import json
from typing import Any


def plain(payload: bytes, **options: Any) -> dict[str, Any]:
    """Return an entity as key-values, whichever form it has."""
    found = {}
    for name, attribute in json.loads(payload, **options).items():
        value = attribute
        if isinstance(attribute, dict) and attribute["type"] in {"Property", "GeoProperty"}:
            value = attribute["value"]
        found[name] = value["@value"] if name == "dateObserved" and value != attribute else value
    return found

"""JSON from strangers: bounded in depth, and never an exception.

msgspec is strict, as JSON is. Sensors are not: gateways written in Python or JavaScript send NaN
and Infinity where a value is missing, and numbers no float can hold. Those are read a second time,
by Python's own parser, so that the reading can be flagged instead of the message being lost.
"""

import json
from typing import Any, Final

import msgspec

from ingest import reject
from ingest.reject import Reject

# The deepest shape that is read, a location of a normalised entity, has five levels.
MAX_DEPTH: Final = 16
_DECODER: Final = msgspec.json.Decoder()


def load(payload: bytes) -> Any | Reject:
    """Return the value, or why it cannot be read."""
    try:
        value = _DECODER.decode(payload)
    except RecursionError:
        return Reject(reject.TOO_DEEP, "$")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        value = _lenient(payload)
        if isinstance(value, Reject):
            return value
    # Fewer brackets than that cannot be nested deeper, and most messages have fewer.
    brackets = payload.count(b"{") + payload.count(b"[")
    if brackets > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        return Reject(reject.TOO_DEEP, "$")
    return value


def _lenient(payload: bytes) -> Any | Reject:
    try:
        value = json.loads(payload.decode())  # UTF-8 only; json itself would guess
        # It also takes halves of characters, which nothing behind it can write down again.
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        return Reject(reject.TOO_DEEP, "$")
    except ValueError:  # malformed, not UTF-8, half a character, an integer of thousands of digits
        return Reject(reject.MALFORMED, "$")
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    containers = [value]
    for _ in range(depth):
        containers = [
            child
            for parent in containers
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
    return bool(containers)

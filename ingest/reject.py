"""Bad data is a value: what was wrong with a message, and where."""

from typing import Final, NamedTuple

TOPIC: Final = "topic"
TOO_LARGE: Final = "too-large"
TOO_DEEP: Final = "too-deep"
MALFORMED: Final = "malformed-json"
SHAPE: Final = "unknown-shape"
TYPE: Final = "unknown-type"
DOMAIN: Final = "wrong-domain"
IDENTITY: Final = "identity-mismatch"
TIME: Final = "bad-time"
FUTURE: Final = "time-in-future"
PAST: Final = "time-in-past"
QUANTITY: Final = "unknown-quantity"
UNIT: Final = "unknown-unit"
EVENT: Final = "unknown-event"
VALUE: Final = "not-a-number"
LOCATION: Final = "bad-location"
EMPTY: Final = "no-readings"
UNREADABLE_BATCH: Final = "unreadable-batch"
UNREADABLE_RULES: Final = "unreadable-rules"


class Reject(NamedTuple):
    """Why a message was not taken.

    Parameters
    ----------
    reason : str
        One of the constants of this module; counted by it.
    place : str
        The JSON path or the part of the message at fault; never a value out of it.
    """

    reason: str
    place: str

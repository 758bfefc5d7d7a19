"""What a payload says, whatever its format: the common result of every decoder."""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ingest.reject import Reject

# A sensor clock further ahead than this would shut its own series until the day catches up.
MAX_AHEAD_NS: Final = 300 * 10**9
_EARLIEST_NS: Final = 946_684_800 * 10**9  # 2000-01-01: before it a clock was never set
_DAY_NS: Final = 86_400 * 10**9


class Channel(NamedTuple):
    """One quantity of one sensor."""

    sensor: str
    quantity: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What of a well-formed message is taken.

    Parameters
    ----------
    gateways : frozenset of str
        Devices that may speak for every sensor of the zone they publish in.
    max_age_ns : int
        A reading older than this at arrival is refused: each foreign day would make a chunk of
        its own in the database.
    max_ahead_ns : int
        A reading further ahead than this at arrival is refused.
    """

    gateways: frozenset[str] = frozenset()
    max_age_ns: int = 31 * _DAY_NS
    max_ahead_ns: int = MAX_AHEAD_NS

    def window(self, received_ns: int) -> tuple[int, int]:
        """Return the earliest and the latest event time that is taken at an arrival."""
        earliest_ns = max(_EARLIEST_NS, received_ns - self.max_age_ns)
        return earliest_ns, received_ns + self.max_ahead_ns


class Refused(NamedTuple):
    """Records of a message of which the rest was taken.

    Parameters
    ----------
    fault : Reject
        Of the first of them; all have its reason.
    records : int
        How many.
    payload : bytes or None
        They alone, in the format of the message; None where privacy forbids to keep them.
    """

    fault: Reject
    records: int
    payload: bytes | None


@dataclass(slots=True)
class Message:
    """The readings of one message, as columns of one length.

    Range and time flags are not given here: they are computed for many messages at once.

    Parameters
    ----------
    channels : list of Channel
        Every quantity is one of the table's, of the domain of the topic.
    time_ns : list of int
        Event time, UTC, whole microseconds.
    value : list of float
        In the unit of the quantity; may be NaN (missing) or infinite.
    doubtful : list of int
        Indices of readings that the message itself contradicts: flagged suspect.
    place : (float, float) or None
        Longitude and latitude in degrees, where the message says it: of its one sensor, or of the
        publishing one where it speaks of several.
    withheld : dict of str to int
        By kind (see `ingest.privacy`), what was not allowed to pass.
    repeated : int
        Readings left out because the same message has an earlier one of that channel and time.
    refused : list of Refused
        Records that could not be taken, in groups of one reason, those that may be kept apart.
    """

    channels: list[Channel]
    time_ns: list[int]
    value: list[float]
    doubtful: list[int] = field(default_factory=list)
    place: tuple[float, float] | None = None
    withheld: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    refused: list[Refused] = field(default_factory=list)

"""The count of what came in, carried with the data it counts.

A tally travels in the headers of the very Kafka message that holds its readings, so the two are
kept or lost together, whatever happens to the bridge.
"""

from typing import Annotated, Final

import msgspec

MINUTE_NS: Final = 60 * 10**9

# What a header may say; the database would refuse more, and take the worker down with it.
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^[^\x00]*$")]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
_Minute = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]  # until the year 9999
_Counts = Annotated[dict[_Name, _Count], msgspec.Meta(max_length=100)]
_Longitude = Annotated[float, msgspec.Meta(ge=-180, le=180)]
_Latitude = Annotated[float, msgspec.Meta(ge=-90, le=90)]
_Offset = Annotated[float, msgspec.Meta(ge=-1e10, le=1e10)]


class Tally(msgspec.Struct, frozen=True, array_like=True):
    """What one bridge took from one source in one minute, as far as one Kafka message holds it.

    Parameters
    ----------
    source : str
        The domain level of the topic, or "unknown".
    minute_s : int
        Start of the minute of arrival, UTC seconds since 1970.
    messages : int
        MQTT messages received, redeliveries included.
    readings : int
        Readings passed on.
    rejected : int
        Messages rejected whole.
    withheld : int
        Attributes that were not allowed to pass.
    passed : int
        Messages taken, whole or in part: `messages` less `rejected`, counted by itself.
    repeated : int
        Readings left out because their own message had them already.
    refused : int
        Records left out of messages of which the rest was taken.
    reasons : dict of str to int
        `rejected` and `refused`, by reason.
    kinds : dict of str to int
        `withheld`, by kind.
    """

    source: _Name
    minute_s: _Minute
    messages: _Count = 0
    readings: _Count = 0
    rejected: _Count = 0
    withheld: _Count = 0
    passed: _Count = 0
    repeated: _Count = 0
    refused: _Count = 0
    reasons: _Counts = msgspec.field(default_factory=dict)
    kinds: _Counts = msgspec.field(default_factory=dict)


# What of a tally is a plain number.
COUNTS: Final = ("messages", "readings", "rejected", "withheld", "passed", "repeated", "refused")


class SensorCard(msgspec.Struct, frozen=True, array_like=True):
    """Who a sensor is and where it stands; announced in the headers when new or changed.

    Parameters
    ----------
    sensor, domain, zone : str
    longitude, latitude : float or None
        Degrees.
    clock_offset_s : float or None
        How far the sensor's clock is ahead, seconds (behind: negative), where it is off; None
        for a clock that is right as far as is known.
    """

    sensor: _Name
    domain: _Name
    zone: _Name
    longitude: _Longitude | None = None
    latitude: _Latitude | None = None
    clock_offset_s: _Offset | None = None


_TALLIES: Final = msgspec.json.Decoder(list[Tally])
_CARDS: Final = msgspec.json.Decoder(list[SensorCard])
encode: Final = msgspec.json.Encoder().encode


def decode_tallies(data: bytes) -> list[Tally]:
    """Read the header `ledger`.

    Raises
    ------
    msgspec.MsgspecError
        If `data` is not a list of tallies.
    """
    return _TALLIES.decode(data)


def decode_cards(data: bytes) -> list[SensorCard]:
    """Read the header `sensors`.

    Raises
    ------
    msgspec.MsgspecError
        If `data` is not a list of cards.
    """
    return _CARDS.decode(data)

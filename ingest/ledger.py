"""The count of what came in, carried with the data it counts.

A tally travels in the headers of the very Kafka message that holds its readings, so the two are
kept or lost together, whatever happens to the bridge.
"""

from typing import Final

import msgspec

MINUTE_NS: Final = 60 * 10**9


class Tally(msgspec.Struct, frozen=True, array_like=True):
    """What one bridge took from one source in one minute, as far as one Kafka message holds it.

    Parameters
    ----------
    source : str
        The domain level of the topic, or "unknown".
    minute_s : int
        Start of the minute of arrival, UTC seconds since 1970.
    messages, readings, rejected, withheld : int
        MQTT messages (redeliveries included), readings passed on, messages rejected, camera
        attributes withheld.
    """

    source: str
    minute_s: int
    messages: int = 0
    readings: int = 0
    rejected: int = 0
    withheld: int = 0


class SensorCard(msgspec.Struct, frozen=True, array_like=True):
    """Who a sensor is and where it stands; announced in the headers when new or changed."""

    sensor: str
    domain: str
    zone: str
    longitude: float | None = None
    latitude: float | None = None


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

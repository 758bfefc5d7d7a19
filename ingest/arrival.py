"""One MQTT message as it came, before anything is made of it."""

from typing import NamedTuple


class Arrival(NamedTuple):
    """One MQTT message as it came.

    Parameters
    ----------
    topic : str
    payload : bytes
    received_ns : int
        UTC nanoseconds.
    """

    topic: str
    payload: bytes
    received_ns: int

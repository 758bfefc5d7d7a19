"""Up to which event time the readings of a partition have come.

A watermark that trusted the newest reading would follow any clock that jumps forward, and make all
others late and silent. So it moves by agreement:

- to the time that two sensors have reached, each by a reading that is not suspect and was not
  measured after it arrived;
- to the time that the bridges vouch for: they say now and then that what was measured before it
  has come as far as they can tell. This moves the watermark when sensors no longer do.

It is a function of the log alone, message by message, and part of the partition's saved state: a
worker that reads the log again has the same watermark at the same offset.
"""

from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detectors import NEVER

_S: Final = 10**9
# QARTOD: from here on a reading is doubtful, and so may be its time.
_SUSPECT: Final = 3
# A jump by more is a hole in the stream (bridges away for longer than the brokers keep), not a
# pause of its sensors: no usual period is longer.
HOLE_NS: Final = 300 * _S
# Silences are looked for when the watermark enters another of these. Sensors have at least that
# long to speak after a jump before they are judged by it.
CHECK_NS: Final = 10 * _S
# A bridge that was not heard for so long, while others were, vouches for nothing any more, and
# nobody waits for its word. Bridges speak every 10 s.
_ABSENT_NS: Final = 60 * _S
_MAX_BRIDGES: Final = 64


class Vote(NamedTuple):
    """The newest time that a sensor has reached."""

    time_ns: int
    sensor: int


class _Word(msgspec.Struct, array_like=True):
    """When a bridge was heard last, and up to when it vouches."""

    heard_ns: int
    complete_ns: int


class WatermarkState(msgspec.Struct, array_like=True):
    """All of a watermark, to be saved with the partition's state."""

    now_ns: int = NEVER
    checked_ns: int = NEVER
    votes: list[Vote] = []
    bridges: dict[str, _Word] = {}


class Turn(NamedTuple):
    """What a message's move of the watermark calls for.

    Parameters
    ----------
    hole_ns : int or None
        Where the stream goes on after a hole.
    check_ns : int or None
        The watermark by which silences are to be judged now.
    """

    hole_ns: int | None
    check_ns: int | None


class Watermark:
    """The watermark of one partition.

    Parameters
    ----------
    state : WatermarkState
        Where it stood when it was saved.
    """

    def __init__(self, state: WatermarkState | None = None) -> None:
        self.state = state or WatermarkState()

    @property
    def now_ns(self) -> int:
        """Event time, UTC nanoseconds; `NEVER` before there is any."""
        return self.state.now_ns

    def trusts(self, bridge: str) -> bool:
        """Say whether a bridge has vouched for a time: then what it takes in is of now."""
        word = self.state.bridges.get(bridge)
        return word is not None and word.complete_ns != NEVER

    def move(
        self,
        sensor: NDArray[np.int32],
        time_ns: NDArray[np.int64],
        quality: NDArray[np.uint8],
        *,
        bridge: str,
        arrived_ns: int | None,
        complete_ns: int | None,
    ) -> Turn:
        """Move on by what one message says.

        Parameters
        ----------
        sensor : (n,) int32
            Number of each reading's sensor.
        time_ns : (n,) int64
        quality : (n,) uint8
            QARTOD flags as they came.
        bridge : str
        arrived_ns : int or None
            When the newest of the readings arrived, by the bridge's clock.
        complete_ns : int or None
            What was measured before it has come, says the bridge.
        """
        state = self.state
        before = state.now_ns
        if len(sensor):
            self._vote(sensor, time_ns, quality < _SUSPECT, arrived_ns)
        if arrived_ns is not None:
            self._hear(bridge, arrived_ns, complete_ns)
        agreed = state.votes[1].time_ns if len(state.votes) > 1 else NEVER
        state.now_ns = max(before, agreed, self._vouched())
        hole_ns = state.now_ns if before != NEVER and state.now_ns - before > HOLE_NS else None
        check_ns = None
        if state.now_ns // CHECK_NS > state.checked_ns // CHECK_NS:
            check_ns = state.checked_ns if state.checked_ns != NEVER else None
            state.checked_ns = state.now_ns
        return Turn(hole_ns, check_ns)

    def _vote(
        self,
        sensor: NDArray[np.int32],
        time_ns: NDArray[np.int64],
        good: NDArray[np.bool_],
        arrived_ns: int | None,
    ) -> None:
        """Keep the two newest votes of different sensors."""
        times = np.where(good, time_ns, NEVER)
        if arrived_ns is not None:
            np.minimum(times, arrived_ns, out=times)
        first = int(times.argmax())
        votes = [*self.state.votes, Vote(int(times[first]), int(sensor[first]))]
        times[sensor == sensor[first]] = NEVER
        second = int(times.argmax())
        votes.append(Vote(int(times[second]), int(sensor[second])))
        newest: dict[int, Vote] = {}
        for vote in sorted(votes):
            if vote.time_ns != NEVER:
                newest[vote.sensor] = vote
        self.state.votes = sorted(newest.values(), reverse=True)[:2]

    def _hear(self, bridge: str, arrived_ns: int, complete_ns: int | None) -> None:
        bridges = self.state.bridges
        word = bridges.get(bridge)
        if word is None:
            if len(bridges) >= _MAX_BRIDGES:
                del bridges[min(bridges, key=lambda name: (bridges[name].heard_ns, name))]
            word = bridges[bridge] = _Word(arrived_ns, NEVER)
        word.heard_ns = max(word.heard_ns, arrived_ns)
        if complete_ns is not None:
            word.complete_ns = max(word.complete_ns, complete_ns)

    def _vouched(self) -> int:
        """Return what all bridges that are there vouch for."""
        words = self.state.bridges.values()
        newest = max((word.heard_ns for word in words), default=NEVER)
        present = (word for word in words if word.heard_ns >= newest - _ABSENT_NS)
        return min((word.complete_ns for word in present), default=NEVER)

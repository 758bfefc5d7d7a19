"""What a worker is doing, and whether it still gets on.

The event loop writes it; the watchdog and the endpoint read it from threads of their own, because
they must have an answer when the loop hangs. Whoever decides takes a `Snapshot` and the time.

All times are seconds of one monotonic clock, except those that Kafka stamped on its messages.
"""

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

TopicPartition = tuple[str, int]
# What joining the consumer group may take beyond all patience: 13 s where the last worker of the
# partitions was killed (session timeout and rebalance), and twice that for a busy machine.
_JOINING_S: Final = 30.0


class Activity(StrEnum):
    """What the flush loop is doing, as a sentence goes on after "the worker"."""

    STARTING = "is starting"
    IDLE = "waits for messages"
    FLUSHING = "prepares or settles a flush"
    ASKING = "waits for an answer of the database"
    AWAY = "tries to reach the database again"
    STOPPING = "is stopping"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A worker at one moment.

    Parameters
    ----------
    activity : Activity
    activity_s : float
        When it began; while the database is away, until when the worker waits before it tries
        again.
    loop_s : float
        When the event loop ran last.
    excused_s : float
        When the database or Kafka was last found to be away.
    idle_s : float
        Longest wait between two flushes in good order.
    database_up : bool
        Whether the database answered when it was last asked.
    joined : bool
        Whether the consumer group has given out its partitions.
    behind_s : mapping of (topic, partition) to float
        Since when the log is known to hold messages that nobody has taken; without topics whose
        last message still waits to be let in.
    """

    activity: Activity
    activity_s: float
    loop_s: float
    excused_s: float
    idle_s: float
    database_up: bool
    joined: bool
    behind_s: Mapping[TopicPartition, float]


def stall(now: Snapshot, now_s: float, patience_s: float, awake_s: float) -> str | None:
    """Return why a worker makes no progress; None where it does.

    A database or a Kafka that is away is no stall: the worker tries again, and another one in its
    place could do no more.

    Parameters
    ----------
    now : Snapshot
    now_s : float
    patience_s : float
        How long nothing may happen.
    awake_s : float
        Since when the process runs without having been stopped; what lies before does not count.
    """

    def age(mark_s: float) -> float:
        return now_s - max(mark_s, awake_s)

    if age(now.loop_s) > patience_s:
        return f"the event loop has not run for {age(now.loop_s):.0f} s"
    leave_s = {Activity.IDLE: now.idle_s, Activity.STARTING: _JOINING_S}
    allowed_s = patience_s + leave_s.get(now.activity, 0.0)
    if age(now.activity_s) > allowed_s:
        return f"the worker {now.activity} for {age(now.activity_s):.0f} s"
    for (topic, partition), since_s in sorted(now.behind_s.items()):
        waited_s = age(max(since_s, now.excused_s))
        if waited_s > patience_s:
            return (
                f"nothing of {topic}/{partition} is taken for {waited_s:.0f} s, though it has more"
            )
    return None


def unreadiness(now: Snapshot, lag_s: float, most_lag_s: float) -> str | None:
    """Return why a worker is not ready; None where it is.

    Parameters
    ----------
    now : Snapshot
    lag_s, most_lag_s : float
        How far it is behind the log, and how far it may be.
    """
    if not now.joined:
        return "the consumer group has given out no partitions yet"
    if not now.database_up:
        return "the database is away"
    if lag_s > most_lag_s:
        return f"{lag_s:.0f} s behind the log"
    return None


@dataclass(slots=True)
class _Place:
    """How far one partition of a topic is read."""

    next_offset: int | None = None
    log_end: int | None = None
    committed: int = 0
    behind_s: float | None = None
    # Offset and Kafka's time of what was taken and is not committed; as many as the worker holds.
    taken: deque[tuple[int, float]] = field(default_factory=deque)


class Progress:
    """The marks a worker leaves.

    Parameters
    ----------
    now_s : float
    idle_s : float
        Longest wait between two flushes in good order.
    """

    def __init__(self, now_s: float, idle_s: float) -> None:
        self._lock = threading.Lock()
        self._activity = Activity.STARTING
        self._activity_s = self._loop_s = now_s
        self._excused_s = now_s
        self._idle_s = idle_s
        self._database_up = True
        self._joined = False
        self._places: dict[TopicPartition, _Place] = {}
        self._at_the_door: set[str] = set()

    def beat(self, now_s: float) -> None:
        """Note that the event loop runs."""
        self._loop_s = now_s

    def doing(self, activity: Activity, now_s: float) -> None:
        """Note what begins, or begins anew."""
        with self._lock:
            self._activity, self._activity_s = activity, now_s

    def database_away(self, now_s: float, wait_s: float) -> None:
        """Note that the database did not answer, and that it is asked again after `wait_s`."""
        with self._lock:
            self._activity, self._activity_s = Activity.AWAY, now_s + wait_s
            self._excused_s = now_s
            self._database_up = False

    def database_answered(self, now_s: float) -> None:
        """Note that the database did answer."""
        with self._lock:
            self._activity, self._activity_s = Activity.FLUSHING, now_s
            self._database_up = True

    def kafka_away(self, now_s: float) -> None:
        """Note that Kafka does not answer."""
        self._excused_s = now_s

    def assigned(self, places: Iterable[TopicPartition]) -> None:
        """Note the partitions that came to this worker."""
        with self._lock:
            self._joined = True
            for place in places:
                self._places.setdefault(place, _Place())

    def places(self) -> list[TopicPartition]:
        """Return the partitions that this worker has."""
        with self._lock:
            return list(self._places)

    def released(self, places: Iterable[TopicPartition]) -> None:
        """Forget the partitions that went to another."""
        with self._lock:
            for place in places:
                self._places.pop(place, None)

    def took(self, place: TopicPartition, offset: int, stamped_s: float) -> None:
        """Note a message that the consumer handed over, and when Kafka was given it.

        Until `let_in` it waits for room, and keeps those behind it waiting.
        """
        with self._lock:
            self._at_the_door.add(place[0])
            known = self._places.get(place)
            if known is not None:
                known.next_offset = offset + 1
                known.behind_s = None
                known.taken.append((offset, stamped_s))

    def let_in(self, topic: str) -> None:
        """Note that the last message of a topic has found room."""
        with self._lock:
            self._at_the_door.discard(topic)
            for (name, _), known in self._places.items():
                if name == topic:
                    known.behind_s = None

    def log_end(
        self, place: TopicPartition, position: int | None, end: int | None, now_s: float
    ) -> None:
        """Note where the log ends, at least, and from where the consumer reads on.

        An end that is too low only delays what is noticed; one that is too high would be taken for
        messages that never come.
        """
        with self._lock:
            known = self._places.get(place)
            if known is None or end is None:
                return
            known.log_end = max(end, known.log_end or 0)
            if known.next_offset is None:
                known.next_offset = known.log_end if position is None else position
            if known.log_end <= known.next_offset:
                known.behind_s = None
            elif known.behind_s is None:
                known.behind_s = now_s

    def committed(self, place: TopicPartition, next_offset: int) -> None:
        """Note how far a partition's rows are in the database."""
        with self._lock:
            known = self._places.get(place)
            if known is None:
                return
            known.committed = next_offset
            while known.taken and known.taken[0][0] < next_offset:
                known.taken.popleft()

    def stored(self, place: TopicPartition) -> int:
        """Return how far a partition's rows are in the database, as far as is known here."""
        with self._lock:
            known = self._places.get(place)
            return known.committed if known else 0

    def snapshot(self) -> Snapshot:
        """Return the worker as it is; from any thread."""
        with self._lock:
            return Snapshot(
                activity=self._activity,
                activity_s=self._activity_s,
                loop_s=self._loop_s,
                excused_s=self._excused_s,
                idle_s=self._idle_s,
                database_up=self._database_up,
                joined=self._joined,
                behind_s={
                    place: known.behind_s
                    for place, known in self._places.items()
                    if known.behind_s is not None and place[0] not in self._at_the_door
                },
            )

    def lags(self, now_s: float, wall_s: float) -> dict[TopicPartition, tuple[int | None, float]]:
        """Return how far each partition is behind: in messages, None where unknown, and seconds.

        The seconds are the age of the oldest message that is not committed, by Kafka's time; where
        none was taken, for how long the log has been known to hold one.

        Parameters
        ----------
        now_s, wall_s : float
            The monotonic clock, and the one that Kafka's times are of.
        """
        with self._lock:
            found: dict[TopicPartition, tuple[int | None, float]] = {}
            for place, known in self._places.items():
                first = known.taken[0][0] if known.taken else known.next_offset
                lag_s = 0.0 if known.behind_s is None else now_s - known.behind_s
                if known.taken:
                    lag_s = max(lag_s, wall_s - known.taken[0][1])
                messages = None
                if known.log_end is not None and first is not None:
                    messages = max(known.log_end, known.next_offset or 0) - first
                    messages = max(0, messages)
                found[place] = (messages, lag_s)
            return found

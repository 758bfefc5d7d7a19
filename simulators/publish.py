"""Publishing a simulated city at a steady rate, and counting what was published.

The counts are what an audit is held against: whatever arrives downstream must add up to them.
"""

import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from threading import Event
from typing import Final, Protocol

import numpy as np

from simulators.city import City
from simulators.events import plan_events
from simulators.faults import Injector, Labels, plan_faults, write_labels
from simulators.front_door import Address, FrontDoor
from simulators.payloads import Composer, Message, Mischief
from simulators.staging import Staging

# One numpy step and one burst on the socket each; shorter ticks cost more than they smooth.
_TICK_S: Final = 0.02
_BLOCK: Final = 200
# Messages handed over and not acknowledged; beyond it the publisher waits, and so falls behind.
_MAX_PENDING: Final = 400
# What was missed while the broker was away or slow is made up for this long and no longer.
CATCH_UP_S: Final = 2.0
_DRAIN_S: Final = 10.0
_PROGRESS_S: Final = 1.0
# An endless run has its faults in its first hour.
_ENDLESS_HORIZON_S: Final = 3600.0
MAX_RATE: Final = 50_000.0
MAX_SPEED: Final = 100_000.0
# A kind of event.
_BY_ARRIVAL: Final = "clock-drift"


@dataclass(frozen=True, slots=True)
class Published:
    """What a run has published.

    Parameters
    ----------
    messages : int
        Messages, broken ones included, exact repeats not.
    readings : int
        Readings in the sound ones.
    bad : int
        Messages broken on purpose.
    withheld : int
        Fields that must not be kept, in sound messages and exact repeats alike.
    duplicates : int
        Exact repeats, on top of `messages`.
    duplicate_readings : int
        Readings in them.
    refused : int
        Messages and repeats that the broker acknowledged with an error.
    unacknowledged : int
        Messages and repeats without an acknowledgement when the run ended.
    reconnects : int
        How often the connection was lost; messages in flight then may have arrived twice.
    started_ns, ended_ns : int
        UTC nanoseconds.
    max_lag_s : float
        Furthest behind schedule.
    """

    messages: int = 0
    readings: int = 0
    bad: int = 0
    withheld: int = 0
    duplicates: int = 0
    duplicate_readings: int = 0
    refused: int = 0
    unacknowledged: int = 0
    reconnects: int = 0
    started_ns: int = 0
    ended_ns: int = 0
    max_lag_s: float = 0.0


Progress = Callable[[Published], None]


class Source(Protocol):
    """Where the publisher gets its messages from. Seconds count from the start of the run."""

    def due_s(self) -> float | None:
        """Return when the next message is due; None when there is none left."""

    def take(self, elapsed_s: float, now_ns: int, limit: int) -> list[Message]:
        """Return the messages due by now, oldest first, about `limit` at most."""


class CitySource:
    """The sensors of a city taking turns, so that each reports at an even period.

    Parameters
    ----------
    city : City
        Whose readings.
    injector : Injector
        Puts the faults in.
    composer : Composer
        Writes the messages.
    rate : float
        Messages per second, exact repeats included.
    duration_s : float or None
        No message is due after it.
    staging : Staging, optional
        Puts the events in, after the faults.
    begin_ns, speed : int or None, float
        Event time at the start of the run, and how much of it passes in a second; None is the
        present.
    """

    def __init__(
        self,
        city: City,
        injector: Injector,
        composer: Composer,
        rate: float,
        duration_s: float | None,
        *,
        staging: Staging | None = None,
        begin_ns: int | None = None,
        speed: float = 1.0,
    ) -> None:
        self._city, self._injector, self._composer = city, injector, composer
        self._staging = staging or Staging(city, [])
        self._begin_ns, self._speed = begin_ns, speed
        self._rate = rate
        self._duration_s = duration_s
        # Shuffled, so that every second of a run touches all zones and domains.
        self._turns = np.random.default_rng([city.seed, 4]).permutation(len(city))
        self._turn = 0
        self._sent = 0
        self._shift_s = 0.0
        self._last_ns = 0

    def due_s(self) -> float | None:
        """Return when the next message is due; None after the end."""
        due = self._sent / self._rate + self._shift_s
        return due if self._duration_s is None or due < self._duration_s else None

    def take(self, elapsed_s: float, now_ns: int, limit: int) -> list[Message]:
        """Return what is due by now, at most one message a sensor and its repeats."""
        due = self.due_s()
        if due is None:
            return []
        self._shift_s += max(elapsed_s - due - CATCH_UP_S, 0.0)
        until = elapsed_s if self._duration_s is None else min(elapsed_s, self._duration_s)
        count = ceil((until - self._shift_s) * self._rate) - self._sent
        count = max(min(count, limit, len(self._city)), 1)
        if self._begin_ns is not None:
            now_ns = self._begin_ns + round(elapsed_s * self._speed * 1e9)
        # A clock set back must not send a series back in time.
        self._last_ns = max(now_ns, self._last_ns + 1_000)
        who = self._turns[(self._turn + np.arange(count)) % len(self._city)]
        self._turn = (self._turn + count) % len(self._city)
        time_ns = np.full(count, self._last_ns, dtype=np.int64)
        values = self._injector.apply(who, time_ns, self._city.observe(who, time_ns))
        time_ns, values = self._staging.apply(who, time_ns, values)
        messages = self._composer.messages(who, time_ns, values)
        self._sent += len(messages)
        return messages


def publish(
    door: FrontDoor, source: Source, *, stop: Event, progress: Progress | None = None
) -> Published:
    """Publish a source to its end or until `stop` is set, then wait for all acknowledgements.

    Parameters
    ----------
    door : FrontDoor
        An open connection; it stays open.
    source : Source
        What to publish and when.
    stop : threading.Event
        Ends the run; what is in flight is still waited for.
    progress : callable, optional
        Called once a second with the counts so far.

    Raises
    ------
    FrontDoorError
        If the broker stays away for too long.
    """
    counts = _Counts(started_ns=time.time_ns())
    started = time.monotonic()
    tick_at = report_at = 0.0
    while not stop.is_set() and (due := source.due_s()) is not None:
        elapsed = time.monotonic() - started
        if progress and elapsed >= report_at:
            report_at = elapsed + _PROGRESS_S
            progress(counts.so_far(door))
        wait = max(due, tick_at) - elapsed
        if door.pending > _MAX_PENDING:
            door.serve(_TICK_S)
        elif wait > 0:
            door.serve(min(wait, _PROGRESS_S))
        else:
            # Not before the next tick: many small steps cost more than a few larger ones.
            tick_at = elapsed + _TICK_S
            counts.max_lag_s = max(counts.max_lag_s, elapsed - due)
            for message in source.take(elapsed, time.time_ns(), _BLOCK):
                door.send(message.topic, message.payload)
                counts.add(message)
    door.drain(_DRAIN_S)
    return counts.so_far(door)


def run_city(
    *,
    host: str,
    port: int,
    namespace: str,
    city: City,
    rate: float,
    duration_s: float | None,
    seed: int,
    fault_count: int,
    labels_file: Path | None,
    stop: Event,
    event_kinds: Sequence[str] = (),
    speed: float = 1.0,
    progress: Progress | None = None,
    mischief: Mischief | None = None,
    username: str | None = None,
    password: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> Published:
    """Publish a city with planned faults and events.

    Parameters
    ----------
    host, port : str, int
        The MQTT broker.
    namespace : str
        `live` or `replay-<name>`.
    city : City
        Its sensors report in turn, each every `len(city) / rate` seconds.
    rate : float
        Messages per second.
    duration_s : float or None
        Length of the run; None runs until `stop` is set.
    seed : int
        Decides the faults and the mischief.
    fault_count : int
        Faults to plan; with `duration_s` None they fall into the first hour.
    labels_file : Path or None
        Where the labels are written, before the first message.
    stop : threading.Event
        Ends the run early.
    event_kinds : sequence of str
        Events to stage, one of each kind.
    speed : float
        Event time that passes in a second. Other than 1 the run ends in the present, and begins as
        long ago as it takes: so far that bridges may refuse what is too old for them.
    progress : callable, optional
        Called once a second with the counts so far.
    mischief : Mischief, optional
        Broken messages, exact repeats, forbidden fields.
    username, password : str, optional
        Where the broker asks for them.
    tls : ssl.SSLContext, optional
        Whom to trust, and what certificate to show; in the clear without.

    Raises
    ------
    ValueError
        If the rate is not positive or too high, the faults or events cannot be planned, or a run at
        another speed has no end.
    FrontDoorError
        If the broker cannot be reached.
    """
    if not 0.0 < rate <= MAX_RATE:
        raise ValueError(f"rate must be above 0 and at most {MAX_RATE:.0f}, got {rate}")
    if not 0.0 < speed <= MAX_SPEED:
        raise ValueError(f"speed must be above 0 and at most {MAX_SPEED:.0f}, got {speed}")
    if speed != 1.0 and duration_s is None:
        raise ValueError("a run at another speed must have a duration")
    if speed != 1.0 and _BY_ARRIVAL in event_kinds:
        raise ValueError(f"{_BY_ARRIVAL} is told by when messages arrive: only at speed 1")
    period_s = len(city) / rate * speed
    door = FrontDoor(Address(host, port, username, password, tls), stop)
    door.open()
    try:
        start_ns = time.time_ns()
        horizon_s = _ENDLESS_HORIZON_S if duration_s is None else duration_s * speed
        if speed != 1.0:
            start_ns -= round((horizon_s - horizon_s / speed) * 1e9)
        end_ns = start_ns + round(horizon_s * 1e9)
        events = plan_events(city, seed, event_kinds, start_ns, end_ns, period_s=period_s)
        faults = plan_faults(
            city,
            seed,
            fault_count,
            start_ns,
            end_ns,
            period_s=period_s,
            spared={name for event in events for name in event.sensors},
        )
        if labels_file is not None:
            planned_end = None if duration_s is None else end_ns
            run = (namespace, len(city), city.seed, period_s, start_ns, planned_end)
            write_labels(labels_file, Labels(*run, tuple(faults), tuple(events)))
        composer = Composer(city.sensors, namespace, seed, mischief)
        source = CitySource(
            city,
            Injector(city, faults),
            composer,
            rate,
            duration_s,
            staging=Staging(city, events),
            begin_ns=start_ns if speed != 1.0 else None,
            speed=speed,
        )
        return publish(door, source, stop=stop, progress=progress)
    finally:
        door.close()


@dataclass(slots=True)
class _Counts:
    started_ns: int
    messages: int = 0
    readings: int = 0
    bad: int = 0
    withheld: int = 0
    duplicates: int = 0
    duplicate_readings: int = 0
    max_lag_s: float = 0.0

    def add(self, message: Message) -> None:
        self.withheld += message.withheld
        if message.repeat:
            self.duplicates += 1
            self.duplicate_readings += message.readings
        else:
            self.messages += 1
            self.readings += message.readings
            self.bad += message.bad

    def so_far(self, door: FrontDoor) -> Published:
        return Published(
            messages=self.messages,
            readings=self.readings,
            bad=self.bad,
            withheld=self.withheld,
            duplicates=self.duplicates,
            duplicate_readings=self.duplicate_readings,
            refused=door.refused,
            unacknowledged=door.pending,
            reconnects=door.reconnects,
            started_ns=self.started_ns,
            ended_ns=time.time_ns(),
            max_lag_s=self.max_lag_s,
        )

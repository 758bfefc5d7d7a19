"""The minute stage of a partition: readings to minutes, minutes to findings, findings to alerts.

Readings are taken as they come; nothing else happens until the partition's watermark asks for a
check (`Turn.check_ns`). Then the minutes that are over are closed and shown to the kernels, minute
by minute. Checks stand at fixed places of the log, so what comes out is a function of the log
alone, however it was cut into flushes.

One long module, because all of it moves the same state, and what is saved of it is what it moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors import CITY, HEALTH, NEVER, StateError, calibration, episodes
from detectors.finding import ALL, Answer, Finding, rows_of
from detectors.local_time import offsets_ns
from detectors.minutes import MINUTE_NS, Closed, Minutes
from detectors.noise import energy
from detectors.saved import from_bytes, to_bytes
from ingest.quantities import QUANTITIES
from ingest.topics import SeriesKey
from storage.pages import SEVERITIES
from streams.facts import CityFacts
from streams.judging import HOUR_NS, Kernel, Kind, Own, Terms, Wave
from streams.kernels import kernels

if TYPE_CHECKING:
    # By its name alone: rules are read with libraries that the stage does without.
    from streams.ruling import Ruling

# A minute is closed when the watermark is so far beyond its end.
GRACE_NS: Final = 30 * 10**9
# Where one in so many series of a kernel has a minute, all are shown to it: those without one are
# not usable, which changes nothing, and columns need not be picked apart and put together again.
_WHOLE_FROM: Final = 3
_QUARTER_NS: Final = 15 * MINUTE_NS
_NO_LAG: Final = int(np.iinfo(np.int64).max)
# A sound level is averaged by its energy.
_LEVEL: Final = "LAeq"
_BACK: Final = "the sensor speaks again"
_SILENT: Final = "no readings"
_OVER: Final = "minutes without it"
_UNWATCHED: Final = "no longer judged"


@dataclass(frozen=True, slots=True)
class Move:
    """What becomes of one alert of the minute stage.

    Parameters
    ----------
    slot : int
        Of the series.
    kind : Kind
    state : {"opened", "told", "worse", "resolved", "stale", "open"}
        `told` is one that people were not told of when it opened; `worse` is one that is more
        severe than it was; `open` is one that was stale.
    at_ns : int
        Event time: the end of the minute that did it, or the watermark.
    opened_ns : int
        End of the minute that opened it: its identity.
    cause : str
    is_told : bool
        Whether people are told of it now.
    level : int
        As the kernel defines it; 0 where no minute did it.
    seen, expected, lower, upper : float
        In the unit of the kind; NaN where there is none.
    score : float
        Of the minute that did it: calibrated, where the kind is scored so.
    """

    slot: int
    kind: Kind
    state: Literal["opened", "told", "worse", "resolved", "stale", "open"]
    at_ns: int
    opened_ns: int
    cause: str
    is_told: bool = True
    level: int = 0
    seen: float = np.nan
    expected: float = np.nan
    lower: float = np.nan
    upper: float = np.nan
    score: float = np.nan


class Standing(NamedTuple):
    """What the suite says of all series of a partition.

    Parameters
    ----------
    in_doubt : (series,) bool
        A sensor-health alert is open.
    in_alert : (series,) bool
        A city alert is open.
    silent : (series,) bool
    """

    in_doubt: NDArray[np.bool_]
    in_alert: NDArray[np.bool_]
    silent: NDArray[np.bool_]


class _Muted(NamedTuple):
    """Columns of some series: which alerts of a kind people have not been told of."""

    # 0 where none is open or people were told; else one more than the minutes in a row in which it
    # spoke and nothing else did.
    minutes: NDArray[np.int64]


class _Recorded(NamedTuple):
    """Columns of some series: how severe open alerts of a kind are, and how long worse is found."""

    # A place in `SEVERITIES`; 0 where none is open, or where nobody knows.
    rank: NDArray[np.int64]
    # Judged minutes in a row in which it was more severe than that.
    minutes: NDArray[np.int64]


class _Minute(NamedTuple):
    """One minute of all series of a partition.

    Parameters
    ----------
    end_ns, offset_ns : (series,) int64
        Its end, and local time minus UTC: a number that is broadcast.
    value : (series,) float64
        Means; NaN where there is none.
    there : (series,) bool or None
        Of which series there is one; None of all.
    """

    end_ns: NDArray[np.int64]
    offset_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    there: NDArray[np.bool_] | None


@dataclass(slots=True)
class _Running:
    """A kernel with the state of the series that it has a place for."""

    kernel: Kernel
    slots: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    state: Any = None
    alerts: list[episodes.State] = field(default_factory=list)
    # Of each kind what its scores have been; None where they are not calibrated.
    scores: list[calibration.State | None] = field(default_factory=list)
    # Of each kind that is told where it is alone; None of others.
    muted: list[_Muted | None] = field(default_factory=list)
    # Of each kind that may get worse; None of others.
    recorded: list[_Recorded | None] = field(default_factory=list)
    # Of each kind, up to which spreads nothing new is learned this hour
    # (`calibration.note_spreads`). It is no part of what is saved: minus infinity is always right.
    reaches: list[NDArray[np.float64]] = field(default_factory=list)
    # Of each kind, from which calibrated score on it speaks.
    speaks_from: tuple[NDArray[np.float64], ...] = ()
    terms: Terms = field(default_factory=dict)
    # What rules say, laid over that: columns, and one number where it is the same for all.
    ruled: Terms = field(default_factory=dict)
    watched: tuple[NDArray[np.bool_], ...] = ()
    # Of each kind, for which series it is switched on; None where none is off.
    on: tuple[NDArray[np.bool_], ...] | None = None
    # Of each kind that may get worse, how severe rules say that it is: a place in `SEVERITIES`, -1
    # where they do not say. None of others, and where they say it of no kind.
    fixed: tuple[NDArray[np.int64] | None, ...] = ()
    # By slot, the place among `slots`; -1 where there is none.
    place_of: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    everywhere: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    # Of kinds of which an alert is open, the places: nearly always there is nothing to look for.
    open: dict[int, NDArray[np.intp]] = field(default_factory=dict)
    # Of each kind, the places of which something is open or has spoken (`episodes.busy`); None
    # where that is to be found out.
    busy: list[NDArray[np.intp] | None] = field(default_factory=list)
    # Of each kind, the hour whose scores are learned, since 1970, and the places in which it has
    # not begun yet.
    waiting: list[tuple[int, NDArray[np.intp]]] = field(default_factory=list)

    is_of_sensors: bool = False
    of_clocks: bool = False

    def __post_init__(self) -> None:
        # Asked again and again.
        self.is_of_sensors, self.of_clocks = self.kernel.is_of_sensors, self.kernel.of_clocks
        self.state = self.kernel.new_state(0)
        self.alerts = [episodes.new_state(0) for _ in self.kernel.kinds]
        self.scores = [
            calibration.new_state(0) if kind.is_scored else None for kind in self.kernel.kinds
        ]
        self.forget_told()
        self.count()
        self.forget_reaches()

    def forget_told(self) -> None:
        """Begin with nothing remembered of what people were told of open alerts, or not."""
        self.muted = [
            _new_muted(len(self.slots)) if kind.told == "alone" else None
            for kind in self.kernel.kinds
        ]
        self.recorded = [
            _new_recorded(len(self.slots)) if kind.gets_worse else None
            for kind in self.kernel.kinds
        ]

    def forget_reaches(self) -> None:
        """Begin with reaches that are right whatever the scores have been."""
        self.reaches = [np.full(len(self.slots), -np.inf) for _ in self.kernel.kinds]
        self.waiting = [(-1, self.everywhere) for _ in self.kernel.kinds]

    def count(self) -> None:
        """Note of what an alert is open."""
        places = (rows_of(one.opened_ns != NEVER) for one in self.alerts)
        self.open = {at: place for at, place in enumerate(places) if len(place)}
        self.busy = [None] * len(self.alerts)

    def scored(self) -> list[tuple[Kind, calibration.State]]:
        """Return the kinds whose scores are calibrated."""
        pairs = zip(self.kernel.kinds, self.scores, strict=True)
        return [(kind, scores) for kind, scores in pairs if scores is not None]

    def mutable(self) -> list[tuple[Kind, _Muted]]:
        """Return the kinds that are told where they are alone."""
        pairs = zip(self.kernel.kinds, self.muted, strict=True)
        return [(kind, muted) for kind, muted in pairs if muted is not None]

    def worsening(self) -> list[tuple[Kind, _Recorded]]:
        """Return the kinds that may get worse."""
        pairs = zip(self.kernel.kinds, self.recorded, strict=True)
        return [(kind, recorded) for kind, recorded in pairs if recorded is not None]

    def standing(self) -> list[tuple[int, Kind, episodes.State, NDArray[np.intp]]]:
        """Return the kinds of which an alert is open, and of which places."""
        return [
            (at, self.kernel.kinds[at], self.alerts[at], place) for at, place in self.open.items()
        ]

    def grow(self, slots: NDArray[np.int64], series: int) -> None:
        """Make places for new series; `series` is how many there are in the partition."""
        self.state = _longer(self.state, self.kernel.new_state(len(slots)))
        new = episodes.new_state(len(slots))
        self.alerts = [_longer(one, new) for one in self.alerts]
        unheard = calibration.new_state(len(slots))
        self.scores = [None if one is None else _longer(one, unheard) for one in self.scores]
        told, nothing = _new_muted(len(slots)), _new_recorded(len(slots))
        self.muted = [None if one is None else _longer(one, told) for one in self.muted]
        self.recorded = [None if one is None else _longer(one, nothing) for one in self.recorded]
        self.slots = np.concatenate((self.slots, slots))
        self.place_of = np.full(series, -1)
        self.everywhere = np.arange(len(self.slots))
        self.count()
        self.forget_reaches()
        self.place_of[self.slots] = self.everywhere

    def shown(
        self, minute: _Minute, doubtful: NDArray[np.bool_] | None, means: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], Wave] | None:
        """Return what the kernel sees of a minute, and of which places; None of nothing.

        `doubtful` is None where no series is.
        """
        slots, place = self.slots, self.everywhere
        there = minute.there if minute.there is None else minute.there[slots]
        count = len(slots) if there is None else np.count_nonzero(there)
        if not count:
            return None
        if there is not None and _WHOLE_FROM * count < len(slots):
            place = rows_of(there)
            slots, there = slots[place], None
        # Of a kernel that has a place for every series a place is a slot.
        is_all = len(slots) == len(minute.value)
        usable = there
        if doubtful is not None:
            sound = ~(doubtful if is_all else doubtful[slots])
            usable = sound if there is None else there & sound
        wave = Wave(
            time_ns=minute.end_ns[: len(slots)],
            value=minute.value if is_all else minute.value[slots],
            usable=np.ones(len(slots), np.bool_) if usable is None else usable,
            utc_offset_ns=minute.offset_ns[: len(slots)],
            means=means,
        )
        return place, wave

    def rare(
        self,
        at: int,
        place: NDArray[np.int64],
        time_ns: NDArray[np.int64],
        answer: Answer,
        judged: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Return where it speaks of a kind: where its score, calibrated, is rare as well."""
        whole = self.scores[at]
        if whole is None:
            return answer.speaks
        some = ALL if len(place) == len(self.slots) else place
        self._begin_hour(at, whole, int(time_ns[0]), place, judged)
        if answer.spreads is not None:
            calibration.note_spreads(whole, self.reaches[at], some, judged, answer.spreads)
        elif answer.score is not None:
            calibration.note(whole, some, judged, answer.score, answer.scored)
        rows = rows_of(answer.speaks & judged)
        speaks = np.zeros(len(place), np.bool_)
        if len(rows):
            there = place[rows]
            rarity = calibration.calibrated(
                answer.scored(rows), whole.share[there], whole.excess[there]
            )
            speaks[rows] = rarity >= self.speaks_from[at][there]
        return speaks

    def _begin_hour(
        self,
        at: int,
        scores: calibration.State,
        time_ns: int,
        place: NDArray[np.int64],
        judged: NDArray[np.bool_],
    ) -> None:
        """Begin the hour of a time in those of the places that are judged, where it has not."""
        hour = (time_ns - 1) // HOUR_NS
        of_hour, waiting = self.waiting[at]
        if of_hour != hour:
            waiting = rows_of(scores.hour != hour)
        if len(waiting):
            begins = np.zeros(len(self.slots), np.bool_)
            begins[place] = judged
            there = begins[waiting]
            begun, waiting = waiting[there], waiting[~there]
            if len(begun):
                calibration.begin_hours(scores, begun, hour, self.speaks_from[at])
                self.reaches[at][begun] = -np.inf
        self.waiting[at] = hour, waiting

    def rated(
        self, at: int, place: NDArray[np.int64], answer: Answer, rows: NDArray[np.intp]
    ) -> Finding:
        """Return what was found of some rows, its scores calibrated."""
        told, scores = answer.told(rows), self.scores[at]
        if scores is None:
            return told
        some = place[rows]
        score = calibration.calibrated(told.score, scores.share[some], scores.excess[some])
        return told._replace(score=score)

    def counted(
        self,
        at: int,
        place: NDArray[np.int64],
        time_ns: NDArray[np.int64],
        judged: NDArray[np.bool_],
        speaks: NDArray[np.bool_],
    ) -> episodes.Flips | None:
        """Count one minute of a kind; return what flips."""
        episode, rule = self.alerts[at], self.kernel.kinds[at].rule
        if len(place) != len(self.slots):
            part = _part(episode, place)
            flips = episodes.step(part, time_ns, judged, speaks, rule)
            _put(episode, place, part)
            self.busy[at] = None
            return flips
        rows = self.busy[at]
        if rows is None:
            rows = episodes.busy(episode)
        if np.count_nonzero(speaks):
            moved = speaks.copy()
            moved[rows] = True
            rows = rows_of(moved)
        flips = episodes.count(episode, rows, time_ns, judged, speaks, rule)
        if len(rows):
            rows = rows[(episode.history[rows] != 0) | (episode.opened_ns[rows] != NEVER)]
        self.busy[at] = rows
        return flips

    def record(self, at: int, move: Move) -> None:
        """Take note of how severe an alert is that opened, or that it is over."""
        recorded = self.recorded[at]
        if recorded is None:
            return
        place, rank = self.place_of[move.slot], 0
        if move.state == "opened":
            fixed = self.fixed[at]
            rank = -1 if fixed is None else int(fixed[place])
            if rank < 0:
                rank = SEVERITIES.index(move.kind.severity_of(move.level))
        recorded.rank[place], recorded.minutes[place] = rank, 0

    def worse(
        self,
        at: int,
        place: NDArray[np.int64],
        time_ns: NDArray[np.int64],
        answer: Answer,
        judged: NDArray[np.bool_],
        speaks: NDArray[np.bool_],
    ) -> episodes.Flips | None:
        """Return the open alerts of a kind that have been worse for as long as one takes to open.

        To be asked before the minute is counted. No minute alone makes an alert worse where none
        opens one, and one that does not speak, or is no worse, begins it anew.
        """
        recorded, episode = self.recorded[at], self.alerts[at]
        if recorded is None or at not in self.open:
            return None
        rows = rows_of(judged & (episode.opened_ns[place] != NEVER))
        if not len(rows):
            return None
        kind, some = self.kernel.kinds[at], place[rows]
        rank = kind.ranks_of(answer.told(rows).level)
        is_worse = speaks[rows] & (rank > recorded.rank[some])
        fixed = self.fixed[at]
        if fixed is not None:
            is_worse &= fixed[some] < 0
        minutes = recorded.minutes[some]
        minutes[episodes.is_long_ago(episode, some, time_ns[rows])] = 0
        minutes = np.where(is_worse, minutes + 1, 0)
        is_due = minutes >= kind.rule.open_after
        recorded.minutes[some] = np.where(is_due, 0, minutes)
        if not np.count_nonzero(is_due):
            return None
        recorded.rank[some[is_due]] = rank[is_due]
        rows = rows[is_due]
        return episodes.Flips(rows, np.ones(len(rows), np.bool_), episode.opened_ns[place[rows]])

    def blocked(self, place: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Return of which places this very kernel has found the sensor at fault."""
        if self.is_of_sensors or not self.open:
            return None
        found = None
        for _, kind, episode, _ in self.standing():
            if kind.category == HEALTH:
                is_open = episode.opened_ns[place] != NEVER
                found = is_open if found is None else found | is_open
        return found


class MinuteStage:
    """Minutes, kernels and open alerts of one partition.

    Parameters
    ----------
    facts : CityFacts
        Not part of the saved state.
    """

    def __init__(self, facts: CityFacts) -> None:
        self._facts = facts
        self._zone = facts.zone()
        self._minutes = Minutes()
        self._running = [_Running(kernel) for kernel in kernels(facts)]
        # None where they say nothing of minutes, or not how severe anything of them is.
        self._ruling: Ruling | None = None
        self._fixing: Ruling | None = None
        self._keys: list[SeriesKey] = []
        self._slot_of: dict[tuple[str, str], int] = {}
        # Series that the kernels have a place for; the rest get theirs at the next check.
        self._placed = 0
        # By slot, the least and the most that its quantity can be.
        self._possible = np.empty((2, 0))
        self._is_level = np.empty(0, np.bool_)
        self._levels = np.empty(0, np.intp)
        # A quarter of an hour since 1970, and local time minus UTC in it: clocks change between.
        self._offset = (-1, 0)
        # By slot, the first series of its sensor, which speaks for its clock.
        self._first = np.empty(0, np.int64)
        self._first_of: dict[str, int] = {}
        # By that series, the smallest lag since the last one was judged, in nanoseconds.
        self._lag_ns = np.empty(0, np.int64)
        self._clock_minute = NEVER // MINUTE_NS
        # Whether there may be a stale alert, and whether one may be open that is not watched.
        self._has_stale = self._is_changed = True

    def __len__(self) -> int:
        """Return the number of series."""
        return len(self._keys)

    def add(self, keys: Sequence[SeriesKey]) -> None:
        """Append new series, numbered from `len(self)` on."""
        for slot, key in enumerate(keys, len(self._keys)):
            self._slot_of[key.sensor, key.quantity] = slot
            self._first_of.setdefault(key.sensor, slot)
        self._keys += keys
        self._minutes.add(len(keys))
        possible = [_range_of(key.quantity) for key in keys]
        self._possible = np.hstack((self._possible, np.array(possible).reshape(-1, 2).T))
        levels = np.array([key.quantity == _LEVEL for key in keys], np.bool_)
        self._is_level = np.concatenate((self._is_level, levels))
        self._levels = rows_of(self._is_level)
        first = np.array([self._first_of[key.sensor] for key in keys], np.int64)
        self._first = np.concatenate((self._first, first))
        self._lag_ns = np.concatenate((self._lag_ns, np.full(len(keys), _NO_LAG)))

    def judge_by(self, ruling: "Ruling") -> None:
        """Watch from now on for what is on, and speak of what is as rare as the rules ask for.

        What is open of what is off is over with the next check.
        """
        before = self._ruling or self._fixing
        self._ruling = ruling if ruling.is_about_minutes else None
        self._fixing = ruling if ruling.fixes_minutes else None
        if before is None and self._ruling is None and self._fixing is None:
            return
        if self._placed:
            for running in self._running:
                self._watch(running)

    def forget_alerts(self) -> None:
        """Begin with no alert open and none about to open; what was learned stays."""
        for running in self._running:
            running.alerts = [episodes.new_state(len(running.slots)) for _ in running.alerts]
            running.forget_told()
            running.count()

    def take(
        self, slot: NDArray[np.int32], time_ns: NDArray[np.int64], value: NDArray[np.float64]
    ) -> None:
        """Add usable readings: fresh, not late, not bad, of each series in the order of time."""
        if not len(slot):
            return
        place = slot.astype(np.intp)
        level = rows_of(self._is_level[place])
        if len(level):
            value = value.copy()
            value[level] = energy(value[level])
        self._minutes.take(place, time_ns, value)

    def hear(self, slot: NDArray[np.int32], time_ns: NDArray[np.int64], arrived_ns: int) -> None:
        """Take note of how long a message's readings took, by the sensors' own clocks.

        Only of messages that came when they were measured: in a replay they do not.
        """
        if len(slot):
            np.minimum.at(self._lag_ns, self._first[slot.astype(np.intp)], arrived_ns - time_ns)

    def check(self, check_ns: int, standing: Standing) -> list[Move]:
        """Close the minutes that are over, and return what becomes of alerts, in order.

        Parameters
        ----------
        check_ns : int
            Watermark by which is judged, UTC nanoseconds since 1970.
        standing : Standing
            What the suite says of the series.
        """
        if self._placed < len(self._keys):
            self._place()
        moves = self._moved(check_ns, ~standing.silent, is_stale=False)
        closed = self._minutes.close(check_ns - GRACE_NS)
        with np.errstate(all="ignore"):
            moves += self._judge_clocks(check_ns, standing)
            for minute in _minutes_of(closed):
                moves += self._judge(minute, standing)
        moves += self._unwatched(check_ns)
        return moves + self._moved(check_ns, standing.silent, is_stale=True)

    def save(self) -> bytes:
        """Return the state of all series, exactly."""
        lags = rows_of(self._lag_ns != _NO_LAG)
        columns: dict[str, NDArray[Any]] = {
            "minutes": np.frombuffer(self._minutes.save(), np.uint8),
            "placed": np.array([self._placed], np.int64),
            "clock_minute": np.array([self._clock_minute], np.int64),
            "lag.slots": lags,
            "lag.ns": self._lag_ns[lags],
        }
        for running in self._running:
            name = running.kernel.name
            place = _differing(running.state, running.kernel.new_state(1))
            columns |= _saved(f"{name}.state", running.state, running.slots, place)
            for kind, episode in zip(running.kernel.kinds, running.alerts, strict=True):
                place = rows_of(episodes.remembers(episode))
                columns |= _saved(f"{name}.{kind.name}", episode, running.slots, place)
            for kind, scores in running.scored():
                place = _differing(scores, calibration.new_state(1))
                columns |= _saved(f"{name}.{kind.name}.scores", scores, running.slots, place)
            for kind, muted in running.mutable():
                place = rows_of(muted.minutes != 0)
                columns |= _saved(f"{name}.{kind.name}.muted", muted, running.slots, place)
            for kind, recorded in running.worsening():
                place = rows_of((recorded.rank | recorded.minutes) != 0)
                columns |= _saved(f"{name}.{kind.name}.recorded", recorded, running.slots, place)
        return to_bytes(columns)

    def load(self, data: bytes) -> None:
        """Go on where the saved stage stood; the series must have been added.

        A kernel that the saved state does not know, or knows with other columns, begins anew.

        Raises
        ------
        StateError
            If the bytes are damaged, not a state, or of other series.
        """
        columns = from_bytes(data)
        try:
            self._minutes = Minutes.load(columns["minutes"].tobytes())
            placed = int(columns["placed"][0])
            self._lag_ns[columns["lag.slots"]] = columns["lag.ns"]
            self._clock_minute = int(columns["clock_minute"][0])
        except (LookupError, ValueError) as error:
            raise StateError(f"not a saved minute stage: {error}") from error
        if len(self._minutes) != len(self._keys) or not 0 <= placed <= len(self._keys):
            raise StateError(
                f"saved minutes of {len(self._minutes)} series, {len(self._keys)} keys"
            )
        self._place(placed)
        for running in self._running:
            name = running.kernel.name
            _restore(running.state, f"{name}.state", running.slots, columns)
            for kind, episode in zip(running.kernel.kinds, running.alerts, strict=True):
                _restore(episode, f"{name}.{kind.name}", running.slots, columns)
            for kind, scores in running.scored():
                _restore(scores, f"{name}.{kind.name}.scores", running.slots, columns)
            for kind, muted in running.mutable():
                _restore(muted, f"{name}.{kind.name}.muted", running.slots, columns)
            for kind, recorded in running.worsening():
                _restore(recorded, f"{name}.{kind.name}.recorded", running.slots, columns)
            running.forget_reaches()
            running.count()
        self._has_stale = True

    def _place(self, until: int | None = None) -> None:
        """Give series up to `until` their places with the kernels."""
        until = len(self._keys) if until is None else until
        new = range(self._placed, until)
        for running in self._running:
            kernel = running.kernel
            if kernel.of_clocks:
                slots = [slot for slot in new if self._first[slot] == slot]
            else:
                slots = [slot for slot in new if self._keys[slot].quantity in kernel.quantities]
            running.grow(np.array(slots, np.int64), len(self._keys))
            if kernel.of_neighbours and self._facts.groups:
                slots = running.slots.tolist()  # a new series may be an old one's neighbour
                running.terms = {}
            terms = kernel.terms([self._keys[slot] for slot in slots], self._facts, self._slot_of)
            running.terms = {
                name: np.concatenate((running.terms[name], column), axis=-1)
                if name in running.terms
                else column
                for name, column in terms.items()
            }
            self._watch(running)
        self._placed = until

    def _watch(self, running: _Running) -> None:
        """Find out which series are watched, what is off is not, and from which score on."""
        self._is_changed = True
        kinds, ruling = running.kernel.kinds, self._ruling
        keys = [self._keys[slot] for slot in running.slots.tolist()] if ruling is not None else []
        own = Own([ruling.thresholds(key) for key in keys] if ruling is not None else [])
        running.ruled = running.terms | running.kernel.thresholds(running.terms, own)
        running.watched, running.on = running.kernel.watched(running.ruled), None
        default = np.full(len(running.slots), calibration.SPEAKS_FROM)
        running.speaks_from = (default,) * len(kinds)
        if ruling is not None:
            running.on = tuple(
                np.array([ruling.is_on(kind.name, key) for key in keys], np.bool_) for kind in kinds
            )
            running.speaks_from = tuple(
                np.array([ruling.speaks_from(kind.name, key) for key in keys], np.float64)
                for kind in kinds
            )
            running.watched = tuple(
                mask & on for mask, on in zip(running.watched, running.on, strict=True)
            )
        running.fixed = tuple(self._fixed(running, kind) for kind in kinds)

    def _fixed(self, running: _Running, kind: Kind) -> NDArray[np.int64] | None:
        """Return how severe rules say that a kind is in each series, where they say it of any."""
        if self._fixing is None or not kind.gets_worse:
            return None
        keys = (self._keys[slot] for slot in running.slots.tolist())
        said = [self._fixing.severity(kind.name, key) for key in keys]
        return np.array([-1 if one is None else SEVERITIES.index(one) for one in said], np.int64)

    def _judge(self, closed: Closed, standing: Standing) -> list[Move]:
        """Show one minute of some series to the kernels."""
        minute = self._minute_of(closed)
        doubtful = _some(standing.in_doubt)
        means = _unless(minute.value, doubtful)
        moves: list[Move] = []
        is_about_city = False
        for running in self._running:
            if running.of_clocks:
                continue
            if not is_about_city and not running.is_of_sensors:
                # From here on what the kernels before have found of sensors counts as well.
                is_about_city = True
                doubtful = _some(self._doubtful(standing))
                means = _unless(minute.value, doubtful)
            found = running.shown(minute, doubtful, means)
            if found is not None:
                moves += self._ask(running, *found, standing)
        return moves

    def _minute_of(self, closed: Closed) -> "_Minute":
        """Return a minute as columns of all series."""
        count, start_ns = len(self._keys), int(closed.start_ns[0])
        if len(closed.series) == count:
            value, there = closed.mean.copy(), None
        else:
            value, there = np.full(count, np.nan), np.zeros(count, np.bool_)
            value[closed.series], there[closed.series] = closed.mean, True
        value[self._levels] = 10.0 * np.log10(value[self._levels])
        quarter = start_ns // _QUARTER_NS
        if quarter != self._offset[0]:
            self._offset = quarter, int(offsets_ns(self._zone, closed.start_ns[:1])[0])
        end_ns, offset_ns = np.int64(start_ns + MINUTE_NS), np.int64(self._offset[1])
        return _Minute(
            np.broadcast_to(end_ns, count), np.broadcast_to(offset_ns, count), value, there
        )

    def _judge_clocks(self, check_ns: int, standing: Standing) -> list[Move]:
        """Show the lags since the last minute to the kernel that judges clocks."""
        minute = check_ns // MINUTE_NS
        if minute <= self._clock_minute:
            return []
        self._clock_minute = minute
        slots = rows_of(self._lag_ns != _NO_LAG)
        moves: list[Move] = []
        for running in self._running:
            if running.of_clocks and len(slots):
                wave = Wave(
                    time_ns=np.broadcast_to(np.int64(minute * MINUTE_NS), len(slots)),
                    value=self._lag_ns[slots] / 1e9,
                    # A clock that the bridge calls wrong is an alert already.
                    usable=~standing.in_doubt[slots],
                    utc_offset_ns=np.zeros(len(slots), np.int64),
                    means=np.empty(0),
                )
                place = running.place_of[slots]
                if _WHOLE_FROM * len(place) >= len(running.slots):
                    wave, place = wave.whole(place, len(running.slots)), running.everywhere
                moves += self._ask(running, place, wave, standing)
        self._lag_ns[:] = _NO_LAG
        return moves

    def _doubtful(self, standing: Standing) -> NDArray[np.bool_]:
        """Return of which series nothing is said of the city."""
        doubtful = standing.in_doubt.copy()
        for running in self._running:
            if running.is_of_sensors and not running.of_clocks:
                for *_, place in running.standing():
                    doubtful[running.slots[place]] = True
        return doubtful

    def _ask(
        self, running: _Running, place: NDArray[np.int64], wave: Wave, standing: Standing
    ) -> list[Move]:
        """Ask one kernel about one minute of the series in these places."""
        kernel = running.kernel
        # Places are in order: where all are there the columns themselves can be worked on.
        is_whole = len(place) == len(running.slots)
        state = running.state if is_whole else _part(running.state, place)
        terms = running.ruled
        if not is_whole:
            terms = {
                name: column[..., place] if column.ndim else column
                for name, column in terms.items()
            }
        answers = kernel.judge(state, wave, terms)
        if not is_whole:
            _put(running.state, place, state)
        blocked = running.blocked(place)
        moves: list[Move] = []
        worse: list[Move] = []
        muted: list[tuple[int, Answer, NDArray[np.bool_], NDArray[np.bool_]]] = []
        for at, (kind, answer) in enumerate(zip(kernel.kinds, answers, strict=True)):
            judged = answer.judged
            if blocked is not None and kind.category == CITY:
                judged = judged & ~blocked
            speaks = running.rare(at, place, wave.time_ns, answer, judged)
            if running.on is not None:
                judged = judged & running.on[at][place]
            worse += self._worsening(running, at, place, wave, answer, judged, speaks)
            flips = running.counted(at, place, wave.time_ns, judged, speaks & judged)
            if flips is not None:
                moves += self._flipped(running, at, place, wave, answer, flips)
            if kind.told == "alone" and at in running.open:
                muted.append((at, answer, judged, speaks & judged))
        if moves:
            running.count()
            self._is_changed = True
            moves = self._told(running, moves, standing)
        for one in muted:
            moves += self._outlasting(running, place, wave, standing, *one)
        return [self._expecting(running, move, wave) for move in (*worse, *moves)]

    def _expecting(self, running: _Running, move: Move, wave: Wave) -> Move:
        """Return a move that says what was expected, where another kernel knows what is usual."""
        known = running.kernel.expected
        if known is None or not np.isnan(move.expected):
            return move
        usual = np.nan
        for one in self._running:
            if one.kernel.usual is not None and one.place_of[move.slot] >= 0:
                local_ns = move.at_ns + int(wave.utc_offset_ns[0])
                usual = one.kernel.usual(one.state, int(one.place_of[move.slot]), local_ns)
        place = int(running.place_of[move.slot])
        return replace(move, expected=known(running.ruled, place, usual))

    def _told(self, running: _Running, moves: list[Move], standing: Standing) -> list[Move]:
        """Return moves that say whether people are told; note what is recorded of them."""
        spoken_for = self._spoken_for(standing) if running.mutable() else None
        told = []
        for move in moves:
            at = running.kernel.kinds.index(move.kind)
            running.record(at, move)
            muted = running.muted[at]
            is_told = move.kind.told == "always"
            if muted is not None and spoken_for is not None:
                is_muted = move.state == "opened" and bool(spoken_for[move.slot])
                muted.minutes[running.place_of[move.slot]] = is_muted
                is_told = not is_muted
            told.append(replace(move, is_told=is_told))
        return told

    def _outlasting(
        self,
        running: _Running,
        place: NDArray[np.int64],
        wave: Wave,
        standing: Standing,
        at: int,
        answer: Answer,
        judged: NDArray[np.bool_],
        speaks: NDArray[np.bool_],
    ) -> list[Move]:
        """Tell of alerts that were muted, and have spoken alone for as long as it takes to open.

        Not at once: what ends with its cause may speak for some minutes longer than the other.
        """
        kind, muted = running.kernel.kinds[at], running.muted[at]
        if muted is None:
            return []
        minutes = muted.minutes[place]
        rows = rows_of(judged & (minutes > 0))
        if not len(rows):
            return []
        is_alone = speaks[rows] & ~self._spoken_for(standing)[running.slots[place[rows]]]
        minutes = np.where(is_alone, minutes[rows] + 1, 1)
        is_due = minutes > kind.rule.open_after
        muted.minutes[place[rows]] = np.where(is_due, 0, minutes)
        rows = rows[is_due]
        if not len(rows):
            return []
        opened_ns = running.alerts[at].opened_ns[place[rows]]
        flips = episodes.Flips(rows, np.ones(len(rows), np.bool_), opened_ns)
        moves = self._flipped(running, at, place, wave, answer, flips)
        return [replace(move, state="told") for move in moves]

    def _worsening(
        self,
        running: _Running,
        at: int,
        place: NDArray[np.int64],
        wave: Wave,
        answer: Answer,
        judged: NDArray[np.bool_],
        speaks: NDArray[np.bool_],
    ) -> list[Move]:
        """Return the moves of open alerts that get worse by a minute, with what is told of them."""
        found = running.worse(at, place, wave.time_ns, answer, judged, speaks)
        if found is None:
            return []
        moves = self._flipped(running, at, place, wave, answer, found)
        return [replace(move, state="worse") for move in moves]

    def _flipped(
        self,
        running: _Running,
        at: int,
        place: NDArray[np.int64],
        wave: Wave,
        answer: Answer,
        flips: episodes.Flips,
    ) -> list[Move]:
        """Return the moves of alerts of a kind that flipped, with what is told of them."""
        kind, slots = running.kernel.kinds[at], running.slots[place[flips.place]]
        finding = running.rated(at, place, answer, flips.place)
        if kind.is_of_values:
            finding = _possible(finding, wave.value[flips.place], self._possible[:, slots])
        return _moves(kind, slots, wave, finding, flips)

    def _spoken_for(self, standing: Standing) -> NDArray[np.bool_]:
        """Return of which series something of the city is open that people are told of anyway."""
        found = standing.in_alert.copy()
        for running in self._running:
            for _, kind, _, place in running.standing():
                if kind.category == CITY and kind.told == "always":
                    found[running.slots[place]] = True
        return found

    def _moved(self, check_ns: int, due: NDArray[np.bool_], *, is_stale: bool) -> list[Move]:
        """Let open alerts become stale, or be open again, where that is due."""
        if not (due.any() if is_stale else self._has_stale):
            return []
        moves = []
        for running in self._running:
            for _, kind, episode, opened in running.standing():
                place = opened[episode.stale[opened] != is_stale]
                place = place[due[running.slots[place]]]
                episode.stale[place] = is_stale
                moves += [
                    Move(
                        int(running.slots[one]),
                        kind,
                        "stale" if is_stale else "open",
                        check_ns,
                        int(episode.opened_ns[one]),
                        _SILENT if is_stale else _BACK,
                    )
                    for one in place.tolist()
                ]
        standing = (one for running in self._running for one in running.standing())
        self._has_stale = any(episode.stale[opened].any() for *_, episode, opened in standing)
        return moves

    def _unwatched(self, check_ns: int) -> list[Move]:
        """End the alerts of series that can no longer be judged: what is set has changed."""
        if not self._is_changed:
            return []
        self._is_changed = False
        moves = []
        for running in self._running:
            for at, kind, episode, opened in running.standing():
                place = opened[~running.watched[at][opened]]
                if not len(place):
                    continue
                moves += [
                    Move(
                        int(running.slots[one]),
                        kind,
                        "resolved",
                        check_ns,
                        int(episode.opened_ns[one]),
                        _UNWATCHED,
                    )
                    for one in place.tolist()
                ]
                episodes.end(episode, place, check_ns, kind.rule)
                muted, recorded = running.muted[at], running.recorded[at]
                if muted is not None:
                    muted.minutes[place] = 0
                if recorded is not None:
                    recorded.rank[place] = recorded.minutes[place] = 0
                running.count()
        return moves


def _new_muted(count: int) -> _Muted:
    return _Muted(np.zeros(count, np.int64))


def _new_recorded(count: int) -> _Recorded:
    return _Recorded(np.zeros(count, np.int64), np.zeros(count, np.int64))


def _minutes_of(closed: Closed) -> list[Closed]:
    """Return what is closed, minute by minute."""
    start_ns = closed.start_ns
    if not len(start_ns):
        return []
    if start_ns[0] == start_ns[-1]:
        return [closed]
    starts = [0, *(rows_of(start_ns[1:] != start_ns[:-1]) + 1).tolist(), len(start_ns)]
    return [
        Closed._make(column[start:stop] for column in closed) for start, stop in pairwise(starts)
    ]


def _range_of(quantity: str) -> tuple[float, float]:
    """Return the least and the most that a quantity can be; of an unknown one, anything."""
    known = QUANTITIES.get(quantity)
    return (-np.inf, np.inf) if known is None else (known.low, known.high)


def _possible(
    finding: Finding, value: NDArray[np.float64], possible: NDArray[np.float64]
) -> Finding:
    """Return a finding that says nothing beyond what is possible, or what is there all the same.

    Six spreads below what is usual at night there is less than nobody.
    """
    low, high = np.fmin(possible[0], value), np.fmax(possible[1], value)
    return finding._replace(
        measure=np.clip(finding.measure, low, high),
        expected=np.clip(finding.expected, low, high),
        lower=np.clip(finding.lower, low, high),
        upper=np.clip(finding.upper, low, high),
    )


def _moves(
    kind: Kind,
    slots: NDArray[np.int64],
    wave: Wave,
    finding: Finding,
    flips: episodes.Flips,
) -> list[Move]:
    """Return the moves of alerts that flipped; slots and findings are of those alone."""
    return [
        Move(
            slot=int(slots[row]),
            kind=kind,
            state="opened" if opened else "resolved",
            at_ns=int(wave.time_ns[place]),
            opened_ns=opened_ns,
            cause=kind.name if opened else _OVER,
            level=int(finding.level[row]),
            seen=float(finding.measure[row]),
            expected=float(finding.expected[row]),
            lower=float(finding.lower[row]),
            upper=float(finding.upper[row]),
            score=float(finding.score[row]),
        )
        for row, (place, opened, opened_ns) in enumerate(
            zip(flips.place.tolist(), flips.opened.tolist(), flips.opened_ns.tolist(), strict=True)
        )
    ]


def _some(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Return a mask that has something in it, or None."""
    return mask if mask.any() else None


def _unless(value: NDArray[np.float64], mask: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    return value if mask is None else np.where(mask, np.nan, value)


def _longer(state: Any, more: Any) -> Any:
    """Return columns with others behind them."""
    return type(state)._make(
        np.concatenate((one, other), axis=-1) for one, other in zip(state, more, strict=True)
    )


def _part(state: Any, place: NDArray[np.int64]) -> Any:
    """Return a copy of the columns of some series."""
    return type(state)._make(column[..., place] for column in state)


def _put(state: Any, place: NDArray[np.int64], part: Any) -> None:
    for column, values in zip(state, part, strict=True):
        column[..., place] = values


def _differing(state: Any, new: Any) -> NDArray[np.int64]:
    """Return the places whose columns are not, to the bit, those of a new series."""
    differs = np.zeros(state[0].shape[-1] if state else 0, np.bool_)
    for column, start in zip(state, new, strict=True):
        unlike = column.view(np.int64) != start.view(np.int64)
        differs |= unlike.any(axis=tuple(range(unlike.ndim - 1)))
    return rows_of(differs)


def _saved(
    name: str, state: Any, slots: NDArray[np.int64], place: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return the columns of the series in these places, and which those are."""
    part = {f"{name}.{column}": values[..., place] for column, values in state._asdict().items()}
    return {f"{name}.slots": slots[place]} | part


def _restore(
    state: Any, name: str, slots: NDArray[np.int64], columns: dict[str, NDArray[Any]]
) -> None:
    """Put saved columns back, of the series that are in both; slots are sorted."""
    saved_slots = columns.get(f"{name}.slots", np.empty(0, np.int64))
    saved = {
        column: values
        for column in state._fields
        if (values := columns.get(f"{name}.{column}")) is not None
    }
    for column, present in state._asdict().items():
        shape = (*present.shape[:-1], len(saved_slots))
        if column not in saved or saved[column].shape != shape:
            return
    _, place, origin = np.intersect1d(slots, saved_slots, assume_unique=True, return_indices=True)
    for column, present in state._asdict().items():
        present[..., place] = saved[column][..., origin]

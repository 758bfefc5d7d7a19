"""The detectors under a stream of readings, asked as a worker asks them, and timed.

`Course` is the suite alone, `Whole` the suite and the minute stage behind it.
"""

import cProfile
import pstats
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from rhythm import KINDS, Kind, Rhythm, Turn

import detectors
from detectors import Limits, Suite, SuiteConfig
from ingest.quantities import QUANTITIES
from ingest.topics import SeriesKey
from streams.facts import CityFacts
from streams.minutes import MinuteStage, Standing

# Of a clean stream nearly every reading has a score: nothing is in warm-up, or in doubt.
_MIN_SCORED: Final = 0.98
# What a worker moves for a reading between two steps: a Kafka message's 25 bytes, columns of 29,
# rows of 65, COPY's 86, each made and read, and sorted once.
_ELSEWHERE_BYTES: Final = 400
_IN_BYTES: Final = 4 + 8 + 8 + 1 + 8
_ADDED_AT_ONCE: Final = 1_000
_PROFILED_PER_SERIES: Final = 50
# QARTOD: from here on a reading is doubtful.
_SUSPECT: Final = 3
Facts = dict[str, Any]


class Course:
    """A suite under a stream, and how fast it was in each slice.

    Parameters
    ----------
    rhythm : Rhythm
        Its series must be new.
    at_once : int or None
        Readings a step at most; None for whole messages.
    """

    def __init__(self, rhythm: Rhythm, at_once: int | None = None) -> None:
        self._rhythm = rhythm
        self._at_once = at_once
        self.suite = new_suite(rhythm.count, rhythm.kinds)
        self.rates: list[float] = []
        self.readings = self.scored = self.fresh = self.flips = self.silences = 0
        self.row_bytes = 0
        for turn in self._cut(rhythm.warm_up()):
            verdicts, _ = _ask(self.suite, turn)
            self.row_bytes = self.row_bytes or _row_bytes(verdicts)

    def run(self, least_s: float) -> None:
        """Judge for about so long."""
        done, took_s = 0, 0.0
        while took_s < least_s:
            for turn in self._cut(self._rhythm.turns(self._rhythm.count)):
                rows = len(turn.batch.series)
                _elsewhere(rows)
                # A step finds columns that were decoded just now.
                decoded = turn._replace(batch=turn.batch.copy())
                begin_s = time.thread_time()
                verdicts, silent = _ask(self.suite, decoded)
                took_s += time.thread_time() - begin_s
                done += rows
                self.silences += silent
                self._count(verdicts, rows)
        self.rates.append(done / took_s)

    def profile(self) -> Facts:
        """Return the share of each module in what a reading costs."""
        turns = list(self._cut(self._rhythm.turns(_PROFILED_PER_SERIES * self._rhythm.count)))
        # A call of numpy counts for who makes it.
        profile = cProfile.Profile(builtins=False)
        profile.enable()
        for turn in turns:
            _ask(self.suite, turn)
        profile.disable()
        return _by_module(profile)

    def facts(self) -> Facts:
        """Return what the readings were, so that it is seen that they were judged."""
        return {
            "readings": self.readings,
            "scored": round(self.scored / max(self.readings, 1), 4),
            "fresh": round(self.fresh / max(self.readings, 1), 4),
            "opened_or_closed": self.flips,
            "fell_silent": self.silences,
        }

    @property
    def rate(self) -> float:
        """Readings a second, the median of the slices."""
        return median(self.rates)

    @property
    def was_warm(self) -> bool:
        """Whether nearly everything was scored."""
        return self.scored >= _MIN_SCORED * self.readings

    def _cut(self, turns: Iterable[Turn]) -> Iterator[Turn]:
        """Cut messages into steps as a worker has them; what is asked, is asked behind the last."""
        for turn in turns:
            if self._at_once is None:
                yield turn
                continue
            rows = len(turn.batch.series)
            for start in range(0, max(rows, 1), self._at_once):
                stop = start + self._at_once
                part = turn.batch.part(start, stop)
                yield Turn(part, None, None) if stop < rows else turn._replace(batch=part)

    def _count(self, verdicts: detectors.Verdicts, count: int) -> None:
        self.readings += count
        self.scored += int(np.isfinite(verdicts.score).sum())
        self.fresh += int(verdicts.fresh.sum())
        self.flips += len(verdicts.transitions)


class Whole:
    """The suite and the minute stage under a stream, as one worker has them for a partition.

    Parameters
    ----------
    rhythm : Rhythm
        Its series must be new.
    keys : sequence of SeriesKey
        Of its series.
    facts : CityFacts
    """

    def __init__(self, rhythm: Rhythm, keys: Sequence[SeriesKey], facts: CityFacts) -> None:
        self._rhythm = rhythm
        self.suite = new_suite(rhythm.count, rhythm.kinds)
        self.stage = MinuteStage(facts)
        self.stage.add(keys)
        self._rates: dict[str, list[float]] = {
            "suite_of_all": [],
            "minute_stage": [],
            "all": [],
        }
        self.readings = self.scored = self.moves = 0
        for turn in rhythm.warm_up():
            self._ask(turn)

    def run(self, least_s: float) -> None:
        """Judge for about so long."""
        done, suite_s, stage_s = 0, 0.0, 0.0
        while suite_s + stage_s < least_s:
            for turn in self._rhythm.turns(self._rhythm.count):
                rows = len(turn.batch.series)
                _elsewhere(rows)
                decoded = turn._replace(batch=turn.batch.copy())
                scored, moves, times = self._ask(decoded)
                suite_s, stage_s = suite_s + times[0], stage_s + times[1]
                done += rows
                self.readings += rows
                self.scored += scored
                self.moves += moves
        for name, took_s in (
            ("suite_of_all", suite_s),
            ("minute_stage", stage_s),
            ("all", suite_s + stage_s),
        ):
            self._rates[name].append(done / took_s)

    def rate(self, part: str) -> float:
        """Return readings a second of "suite_of_all", "minute_stage" or "all", a median."""
        return median(self._rates[part])

    @property
    def was_warm(self) -> bool:
        """Whether nearly everything was scored."""
        return self.scored >= _MIN_SCORED * self.readings

    def _ask(self, turn: Turn) -> tuple[int, int, tuple[float, float]]:
        """Do what `streams.scoring` does; return what it came to, and the times of both parts.

        What the suite says of all its series is said for the minute stage, and counts for it.
        """
        suite, stage, batch = self.suite, self.stage, turn.batch
        begin_s = time.thread_time()
        verdicts, _ = _ask(suite, turn)
        between_s = time.thread_time()
        if turn.arrived_ns is not None:
            stage.hear(batch.series, batch.time_ns, turn.arrived_ns)
        usable = verdicts.fresh & ~verdicts.late & (verdicts.quality < _SUSPECT)
        if usable.all():
            stage.take(batch.series, batch.time_ns, batch.value)
        else:
            stage.take(batch.series[usable], batch.time_ns[usable], batch.value[usable])
        moves = 0
        if turn.check_ns is not None:
            standing = Standing(suite.in_doubt(), suite.in_alert(), suite.are_silent())
            moves = len(stage.check(turn.check_ns, standing))
        end_s = time.thread_time()
        scored = int(np.isfinite(verdicts.score).sum())
        return scored, moves, (between_s - begin_s, end_s - between_s)


def new_suite(count: int, kinds: Sequence[Kind] = KINDS) -> Suite:
    """Return a suite of so many series, which came as a worker meets them."""
    suite = Suite(SuiteConfig())
    rows = [QUANTITIES[kinds[number % len(kinds)].quantity] for number in range(count)]
    for start in range(0, count, _ADDED_AT_ONCE):
        some = rows[start : start + _ADDED_AT_ONCE]
        suite.add(
            Limits(
                low=np.array([kind.low for kind in some]),
                high=np.array([kind.high for kind in some]),
                max_rate=np.array([kind.max_rate for kind in some]),
                state=np.array([kind.is_state for kind in some]),
                period_s=np.array([kind.period_s for kind in some]),
            )
        )
    return suite


def _ask(suite: Suite, turn: Turn) -> tuple[detectors.Verdicts, int]:
    """Do what `streams.scoring` does with the suite; return how many fell silent as well."""
    verdicts = suite.step(*turn.batch)
    if turn.hole_ns is not None:
        suite.excuse(turn.hole_ns)
    elif turn.check_ns is not None:
        return verdicts, len(suite.silences(turn.check_ns))
    return verdicts, 0


def _elsewhere(rows: int) -> None:
    """Move the bytes that a worker moves for as many readings outside the detectors."""
    np.ones(rows * _ELSEWHERE_BYTES // 2, np.uint8).copy()


def _row_bytes(verdicts: detectors.Verdicts) -> int:
    """Return the bytes of a reading's columns, those that go in and those that come out."""
    columns = (getattr(verdicts, field.name) for field in fields(verdicts))
    return _IN_BYTES + sum(one.itemsize for one in columns if isinstance(one, np.ndarray))


def _by_module(profile: cProfile.Profile) -> Facts:
    room = str(Path(detectors.__file__).parent)
    found: Counter[str] = Counter()
    for (file, _, _), (_, _, own_s, _, callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if file.startswith(room):
            found[Path(file).stem] += own_s
            continue
        for (caller, _, _), (_, _, its_s, _) in callers.items():
            found[Path(caller).stem if caller.startswith(room) else "numpy"] += its_s
    whole = sum(found.values())
    return {name: round(own_s / whole, 3) for name, own_s in found.most_common()}


def saved_bytes(suite: Suite) -> float:
    """Return what a series takes in the saved state."""
    return len(suite.save()) / len(suite)


def held_bytes(count: int, seed: int) -> float:
    """Return what memory a series takes, with the room that a growing table keeps."""
    rhythm = Rhythm(count, seed, period_s=60.0)
    turns = rhythm.turns(3 * count)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        suite = new_suite(count)
        for turn in turns:
            _ask(suite, turn)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / len(suite)

"""All detectors over all series.

One long module, a third of it what the columns mean: the step and what it returns belong together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from detectors.config import Limits, SuiteConfig
from detectors.flatline import flatline
from detectors.hysteresis import (
    CITY,
    FLATLINE,
    LEVEL,
    RANGE,
    RATE,
    REPORTED,
    Flips,
    Transitions,
    city_flips,
    health_flips,
    transitions,
)
from detectors.level import forget, learn, outlook
from detectors.one import One
from detectors.rate import too_fast
from detectors.settled import SUSPECT, Fixed, Look, Wave, advance, look
from detectors.silence import (
    Returns,
    Silences,
    Spoke,
    excuse,
    fall_silent,
    listen,
    returns,
    spoke_again,
)
from detectors.single import Flip, judge
from detectors.table import NEVER, Columns, Place, Table, Whole, Work, is_settled, within
from detectors.tail import tail_score
from detectors.terms import Terms, TermTable
from detectors.waves import FEW, Waves, by_series, fresh_only, in_waves

# QARTOD primary flags (IOC 54:V3). From SUSPECT on a reading is bad.
_NOT_EVALUATED: Final = 2
_FAIL: Final = 4
_MISSING: Final = 9


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What is to be said about a batch; row i speaks of its row i.

    Parameters
    ----------
    fresh : (n,) bool
        Strictly newer than every reading of its series before it. Other rows change nothing and
        are not scored; of all checks only their range is looked at.
    late : (n,) bool
        Behind the watermark by more than is allowed, and no state. A late row that is fresh is
        heard and remembered as the newest; otherwise it is like one that is not fresh.
    quality : (n,) uint8
        QARTOD flag: the worst of the given one and what range (4), rate of change (3), flatline
        (3) and being late or not fresh (2, not evaluated) say.
    score : (n,) float64
        -log10 of the two-sided tail probability; NaN in warm-up, on bad quality, while a
        sensor-health alert is open, of a state, late, or not fresh.
    expected : (n,) float64
        Level before the reading, in the unit of the quantity; NaN in warm-up, of a state, late,
        or not fresh.
    band : (n,) float64
        Half width around `expected` inside which no alert opens; NaN like `expected`.
    transitions : Transitions
        Alerts that opened or closed.
    returns : Returns
        Stale alerts whose series were heard again; each comes before what the same row does.
    """

    fresh: NDArray[np.bool_]
    late: NDArray[np.bool_]
    quality: NDArray[np.uint8]
    score: NDArray[np.float64]
    expected: NDArray[np.float64]
    band: NDArray[np.float64]
    transitions: Transitions
    returns: Returns


class _Found:
    """Alerts that opened or closed in a batch, and those of series that were heard again."""

    def __init__(self) -> None:
        self.flips: list[tuple[NDArray[np.intp], Flips]] = []
        self.spoken: list[tuple[NDArray[np.intp], Spoke]] = []

    def opened(self, rows: NDArray[np.intp], opened_ns: NDArray[np.int64]) -> None:
        """Take note of city alerts that opened."""
        count = len(rows)
        kinds, flags = np.full(count, LEVEL, np.uint8), np.ones(count, np.bool_)
        self.flips.append((rows, Flips(CITY, np.arange(count), kinds, flags, opened_ns)))

    def flip(self, row: int, flip: Flip) -> None:
        """Take note of what one reading did."""
        rows, place = np.array([row]), np.zeros(1, np.intp)
        opened_ns = np.array([flip.opened_ns])
        if flip.is_return:
            self.spoken.append((rows, Spoke(flip.category, place, opened_ns)))
        else:
            kinds, opened = np.array([flip.kind], np.uint8), np.array([flip.opened])
            self.flips.append((rows, Flips(flip.category, place, kinds, opened, opened_ns)))


_NOTHING: Final = Verdicts(
    fresh=np.empty(0, np.bool_),
    late=np.empty(0, np.bool_),
    quality=np.empty(0, np.uint8),
    score=np.empty(0),
    expected=np.empty(0),
    band=np.empty(0),
    transitions=transitions([], np.empty(0, np.int32)),
    returns=returns([], np.empty(0, np.int32)),
)
# Of a regular batch, judged at a time: few enough that what is worked on stays close to the core.
_PART: Final = 16_384


class Suite:
    """Range, rate of change, flatline, level and silence detectors over many series.

    Parameters
    ----------
    config : SuiteConfig
        Thresholds. They are not part of the saved state.
    """

    def __init__(self, config: SuiteConfig = SuiteConfig()) -> None:  # noqa: B008 - frozen
        self._table = Table()
        self._use(config, TermTable(Terms.of(config)))

    def __len__(self) -> int:
        """Return the number of series."""
        return len(self._table)

    def add(self, limits: Limits, columns: Mapping[str, NDArray[np.float64]] | None = None) -> None:
        """Append new series, numbered from `len(self)` on.

        Parameters
        ----------
        limits : Limits
        columns : mapping of str to (n,) float64, optional
            Thresholds by the names of `Terms`, where some of the series have their own.
        """
        self._terms.add(len(limits), columns)
        self._table.add(limits)

    def judge_by(
        self,
        config: SuiteConfig,
        shared: Terms,
        columns: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> None:
        """Judge what comes from now on by other thresholds; what was learned stays.

        Parameters
        ----------
        config : SuiteConfig
            What all series have in common.
        shared : Terms
            Numbers: what a series has that `columns` say nothing of.
        columns : mapping of str to (len(self),) float64, optional
            Thresholds by the names of `Terms`, where some series have their own.

        Raises
        ------
        ValueError
            If a name is no threshold of a series, or a column has another length.
        """
        terms = TermTable(shared)
        terms.add(len(self), columns)
        self._use(config, terms)
        self._table.review(terms.whole().warm_up)

    def limit(self, series: NDArray[np.intp], limits: Limits) -> None:
        """Give some series other ranges and rates.

        Parameters
        ----------
        series : (n,) intp
        limits : Limits
            Of as many series. Whether they are states and their usual period stay as they are.
        """
        self._table.limit(series, limits)

    def step(
        self,
        series: NDArray[np.int32],
        time_ns: NDArray[np.int64],
        value: NDArray[np.float64],
        quality: NDArray[np.uint8],
        watermark_ns: NDArray[np.int64] | None = None,
    ) -> Verdicts:
        """Judge a batch as if its readings came one by one.

        Parameters
        ----------
        series : (n,) int32
            Number of each reading's series, in any order.
        time_ns : (n,) int64
            Event time, UTC nanoseconds since 1970.
        value : (n,) float64
            In the unit of the quantity.
        quality : (n,) uint8
            QARTOD flag given with the reading; 3 and more is bad.
        watermark_ns : (n,) int64 or None
            Event time up to which readings had come before the message of each, never decreasing;
            `NEVER` where there was none. Without it nothing is late, and no pause is learned.

        Raises
        ------
        ValueError
            If the columns differ in length.
        IndexError
            If a series was never added. Nothing has changed then.
        """
        count = len(series)
        if watermark_ns is None:
            watermark_ns = np.full(count, NEVER)
        self._check(series, time_ns, value, quality, watermark_ns)
        if not count:
            return _NOTHING
        waves = self._waves(series, time_ns)
        all_fresh = waves.count == count
        late = time_ns < self._floor(watermark_ns)
        said = np.empty((3, count)) if all_fresh else np.full((3, count), np.nan)
        # A copy of the flags, because they are raised in place; the others may be views.
        has_bad = bool(np.count_nonzero(late) or np.count_nonzero(quality >= SUSPECT))
        batch = Wave(time_ns, value, quality.copy(), watermark_ns, late, has_bad, said)
        found = _Found()
        work = Work(self._table, waves.series)
        # NaN and infinity are ordinary input here; masks keep them out of the state.
        with np.errstate(all="ignore"):
            for first in range(0, len(waves.series), _PART):
                place = slice(first, min(first + _PART, len(waves.series)))
                self._wave(work, place, batch, _cut(waves.rows, place), found)
            for wave in waves.later:
                self._wave(work, wave.places, batch, wave.rows, found)
            for tail in waves.tails:
                one = work.one(tail.place)
                self._single(work, tail.place, one, batch, tail.rows, found)
            score = tail_score(said[0])
        work.end()

        fresh = np.ones(count, np.bool_)
        if not all_fresh:
            fresh.fill(False)
            fresh[waves.fresh] = True
            repeated = ~fresh
            outside = repeated & self._table.out_of_range(series.astype(np.intp), value)
            np.maximum(batch.quality, _NOT_EVALUATED, out=batch.quality, where=repeated)
            np.maximum(batch.quality, _FAIL, out=batch.quality, where=outside)
        return Verdicts(
            fresh=fresh,
            late=late,
            quality=batch.quality,
            score=score,
            expected=said[1],
            band=said[2],
            transitions=transitions(found.flips, series),
            returns=returns(found.spoken, series),
        )

    def newest_ns(self, series: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the time of the newest reading of each of the series, UTC nanoseconds."""
        return self._table.last_ns(series)

    def in_doubt(self) -> NDArray[np.bool_]:
        """Return of which series a sensor-health alert is open."""
        doubtful: NDArray[np.bool_] = self._table.views().health_opened_ns != NEVER
        return doubtful

    def in_alert(self) -> NDArray[np.bool_]:
        """Return of which series a city alert is open."""
        alarming: NDArray[np.bool_] = self._table.views().city_opened_ns != NEVER
        return alarming

    def are_silent(self) -> NDArray[np.bool_]:
        """Return which series were found silent and have not spoken since."""
        silent: NDArray[np.bool_] = self._table.views().silent_ns != NEVER
        return silent

    def silences(self, watermark_ns: int) -> Silences:
        """Find the series that have been quiet for too long when the watermark stands there.

        Whoever asks gives sensors the time to speak that they take: at the moment of a jump of the
        watermark those that speak next look quiet.

        Parameters
        ----------
        watermark_ns : int
            Event time, UTC nanoseconds since 1970.
        """
        found = fall_silent(self._table.views(), watermark_ns, self._terms.whole())
        if len(found):
            self._table.unsettle(found.series)
        return found

    def excuse(self, watermark_ns: int) -> None:
        """Hold no pause up to this watermark against anybody: the stream itself had a hole."""
        excuse(self._table.views(), watermark_ns)

    def expect(self, period_s: NDArray[np.float64]) -> None:
        """Tell the usual periods of series that could not be called silent until now.

        Parameters
        ----------
        period_s : (series,) float64
            Seconds; `inf` for series that report changes only.
        """
        self._table.expect(period_s)

    def save(self) -> bytes:
        """Return the state of all series, exactly."""
        return self._table.to_bytes()

    @classmethod
    def load(cls, data: bytes, config: SuiteConfig = SuiteConfig()) -> Self:  # noqa: B008 - frozen
        """Return a suite that goes on where the saved one stood.

        Raises
        ------
        StateError
            If the bytes are damaged, not a state, or of an unknown version.
        """
        suite = cls(config)
        suite._table = Table.from_bytes(data)
        suite._terms.add(len(suite))
        suite._table.review(config.warm_up)
        return suite

    def _use(self, config: SuiteConfig, terms: TermTable) -> None:
        self._config, self._terms, self._fixed = config, terms, Fixed.of(config)
        self._lateness_ns = round(config.allowed_lateness_s * 1e9)
        self._rest_ns = round(config.city_rest_s * 1e9)

    def _check(self, series: NDArray[np.int32], *others: NDArray[Any]) -> None:
        if series.ndim != 1 or {column.shape for column in others} != {series.shape}:
            raise ValueError("series and all that belongs to it must be columns of one length")
        # Unsigned: a negative one is beyond all.
        if len(series) and int(series.view(np.uint32).max()) >= len(self):
            raise IndexError(f"series must be within 0 and {len(self) - 1}")

    def _waves(self, series: NDArray[np.int32], time_ns: NDArray[np.int64]) -> Waves:
        """Return the fresh rows in the order they are judged in."""
        count = len(series)
        if np.count_nonzero(series[1:] > series[:-1]) == count - 1:
            numbers = series.astype(np.intp)
            if np.count_nonzero(time_ns > self._table.last_ns(numbers)) == count:
                everything = slice(0, count)
                return Waves(everything, numbers, everything, count)
        runs = by_series(series, len(self))
        return in_waves(fresh_only(runs, series, time_ns, self._table.last_ns(runs.series)))

    def _floor(self, watermark_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the event time below which each row is late."""
        lateness_ns = self._lateness_ns
        floor_ns: NDArray[np.int64] = np.maximum(watermark_ns, NEVER + lateness_ns)
        floor_ns -= lateness_ns
        return floor_ns

    def _own_terms(self, work: Work, place: Place) -> Terms:
        """Return the thresholds of some of the series that are worked on."""
        return self._terms.of(work.series[place])

    def _wave(self, work: Work, place: Place, batch: Wave, rows: Place, found: _Found) -> None:
        """Judge one reading of each of some series, all fresh.

        Parameters
        ----------
        work : Work
        place : slice or (n,) intp
            Where the series stand in it.
        batch : Wave
            All rows.
        rows : slice or (n,) intp
            Those to be judged.
        found : _Found
            Added to.
        """
        wave, part, terms = batch.part(rows), work.part(place), self._own_terms(work, place)
        seen = look(part.hot, part.settled, wave, self._fixed, terms)
        aside = self._aside(work, place, batch, rows, seen) if seen.odd else None
        if seen.odd < len(seen.plain):
            opened = advance(part.hot, wave, seen, self._fixed, terms)
            if len(opened):
                rests_ns = work.rests_ns(within(place, opened))
                opened = opened[wave.time_ns[opened] >= rests_ns]
                part.hot.city_streak[opened] = 0.0
            work.end_part(place, part)
            batch.put(rows, wave)
            if len(opened):
                opened_ns = wave.time_ns[opened]
                work.unsettle(within(place, opened), opened_ns)
                found.opened(within(rows, opened), opened_ns)
        if aside is not None:
            aside(found)

    def _aside(
        self, work: Work, place: Place, batch: Wave, rows: Place, seen: Look
    ) -> Callable[[_Found], None]:
        """Take what is odd of a wave out of it; return how it is judged when the others are."""
        odd = (~seen.plain).nonzero()[0]
        place, rows = within(place, odd), within(rows, odd)
        if len(odd) > FEW:
            whole = work.whole(place)
            return lambda found: self._special(work, place, whole, batch, rows, found)
        ones = [work.one(at) for at in place.tolist()]

        def judge_each(found: _Found) -> None:
            for one, at, row in zip(ones, place.tolist(), rows.tolist(), strict=True):
                self._single(work, at, one, batch, [row], found)

        return judge_each

    def _special(
        self,
        work: Work,
        place: NDArray[np.intp],
        whole: Whole,
        batch: Wave,
        rows: NDArray[np.intp],
        found: _Found,
    ) -> None:
        """Judge one reading of each of some series the general way."""
        wave, terms = batch.part(rows), self._own_terms(work, place)
        flips, spoken = self._judge(whole.columns, wave, terms)
        batch.put(rows, wave)
        batch.raise_flags(rows, wave)
        work.put(place, whole.block, is_settled(whole.columns, terms.warm_up))
        found.flips += [(rows, flip) for flip in flips]
        found.spoken += [(rows, back) for back in spoken]

    def _single(
        self, work: Work, place: int, one: One, batch: Wave, rows: list[int], found: _Found
    ) -> None:
        """Judge readings of one series, one after another."""
        terms = self._terms.one(int(work.series[place]))
        for row in rows:
            said, flips = judge(one, batch.reading(row), self._config, terms)
            batch.say(row, said)
            for flip in flips:
                found.flip(row, flip)
        work.put_one(place, one, one.is_settled(terms.warm_up))

    def _judge(self, columns: Columns, wave: Wave, terms: Terms) -> tuple[list[Flips], list[Spoke]]:
        """Judge one reading of each series the general way; fill the wave, move the state on."""
        config = self._config
        time_ns, value, given = wave.time_ns, wave.value, wave.quality
        back = listen(columns, wave.watermark_ns, config)
        spoken = [] if back is None else spoke_again(columns, back)
        forget(columns, time_ns, config)
        in_range = (value >= columns.low) & (value <= columns.high)
        usable = in_range & (given < SUSPECT)
        judged = None
        if wave.late.any():
            # A state is true until the next one, however late it was told.
            np.logical_and(wave.late, columns.state == 0, out=wave.late)
            judged = ~wave.late
            usable &= judged
        # A state may stand for years and change at once, and has no level.
        measured = usable & (columns.state == 0)
        flat = flatline(columns, value, measured, config, terms.flatline_chance)
        fast = too_fast(columns, time_ns, value, measured, config)
        odd = flat | fast
        good = usable & ~odd

        seen = outlook(columns, config, terms.warm_up)
        # While the sensor itself is in doubt nothing it says is held against the city, or learned:
        # a jittering sensor has believable readings in between.
        trusted = good & measured & (columns.health_opened_ns == NEVER)
        scored = trusted & seen.warm
        known = seen.warm if judged is None else seen.warm & judged
        spreads = np.abs(value - columns.level) / seen.spread
        wave.said[0] = np.where(scored, spreads, np.nan)
        wave.said[1] = np.where(known, columns.level, np.nan)
        wave.said[2] = np.where(known, seen.spread * terms.city_open_spreads, np.nan)
        city_open = columns.city_opened_ns != NEVER
        learn(columns, seen, value, trusted, city_open, config)

        np.copyto(columns.previous, value, where=usable)
        np.copyto(columns.previous_ns, time_ns, where=usable)
        columns.last_ns[:] = time_ns
        kind = _kinds(given, in_range, flat, fast, good)
        _raise_flags(given, in_range, odd, wave.late)
        flips = (
            city_flips(columns, time_ns, spreads, scored, city_open, terms, self._rest_ns),
            health_flips(columns, time_ns, kind, judged, terms),
        )
        return [flip for flip in flips if flip is not None], spoken


def _kinds(
    given: NDArray[np.uint8],
    in_range: NDArray[np.bool_],
    flat: NDArray[np.bool_],
    fast: NDArray[np.bool_],
    good: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    kind = np.full(len(given), LEVEL, np.uint8)
    if not good.all():
        kind[~good] = REPORTED
        # A missing value has no range to be out of.
        kind[~in_range & (given != _MISSING)] = RANGE
        kind[fast] = RATE
        kind[flat] = FLATLINE
    return kind


def _raise_flags(
    flags: NDArray[np.uint8],
    in_range: NDArray[np.bool_],
    odd: NDArray[np.bool_],
    late: NDArray[np.bool_],
) -> None:
    np.maximum(flags, np.uint8(_NOT_EVALUATED), out=flags, where=late)
    np.maximum(flags, SUSPECT, out=flags, where=odd)
    np.maximum(flags, np.uint8(_FAIL), out=flags, where=~in_range)


def _cut(rows: Place, part: slice) -> Place:
    return part if isinstance(rows, slice) else rows[part]

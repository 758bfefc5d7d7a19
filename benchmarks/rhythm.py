"""Readings of a city by the clock, in the turns in which a worker hands them to the detectors.

Values have a daily rhythm, noise that hangs together (autoregressive, of order one), now and then
a peak and, more seldom, an event of some readings; five of six quantities are rounded as their
sensors round, so values repeat. One message is one turn: its readings, the watermark before it, and
what the worker asks of the suite behind it. Where readings come more than ten seconds apart the
bridges vouch in between, as they do: a message without readings, that moves the watermark.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.watermark import CHECK_NS, Watermark

_S: Final = 10**9
# A Monday, 00:00 UTC: what is measured stays within the same week's workdays.
_BEGIN_NS: Final = 1_772_409_600 * _S
_DAY_S: Final = 86_400
_JITTER_NS: Final = 400_000_000
_ON_ITS_WAY_NS: Final = _S // 10
# Two workdays of half an hour each, so that every hour is known, and then as they will come, until
# level and spread are as certain as they get.
_WARM_UP_S: Final = 1_800
_WARM_UP_MESSAGES: Final = 96
_WARM_UP_OWN: Final = 160
# Fifteen days, so that the minute stage knows as well: the records of a week and as long again, and
# how sensors differ from their neighbours; then its forecasts and the noise, minute by minute.
_LONG_WARM_UP_MESSAGES: Final = 15 * 48
_MINUTE_S: Final = 60.0
_HANGS_TOGETHER: Final = 0.8
_PEAK_CHANCE: Final = 1e-4
_PEAK_SPREADS: Final = 12.0
# Of 10,000 series a few have an alert at any time.
_EVENT_CHANCE: Final = 5e-5
_EVENT_READINGS: Final = 8
DEEP_SHARE: Final = 0.05

# Of what is not well in a realistic stream.
BAD_FLAG: Final = 0.01
OUT_OF_RANGE: Final = 0.005
AGAIN: Final = 0.005
OUT_OF_ORDER: Final = 0.005
LATE: Final = 0.001
STUCK: Final = 0.003
SHIFTED: Final = 0.01
_SHIFT_MESSAGES: Final = 40
_SHIFT_SPREADS: Final = 15.0
_LATE_NS: Final = 1_200 * _S


class Kind(NamedTuple):
    """How a quantity runs: its mean, by how much the day moves it, its noise, and its digits."""

    quantity: str
    mean: float
    swing: float
    spread: float
    resolution: float  # 0 where nothing is rounded
    floor: float = 0.5  # no reading is less


KINDS: Final = (
    Kind("intensity", 400.0, 250.0, 30.0, 1.0),
    Kind("averageVehicleSpeed", 50.0, 15.0, 4.0, 0.0),
    Kind("LAeq", 60.0, 8.0, 2.0, 0.1),
    Kind("pm25", 30.0, 12.0, 3.0, 0.1),
    Kind("averageHeadwayTime", 20.0, 8.0, 1.5, 0.1),
    Kind("peopleCount", 14.0, 8.0, 2.5, 1.0),
)


class Batch(NamedTuple):
    """Columns of readings, as `Suite.step` takes them."""

    series: NDArray[np.int32]
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint8]
    watermark_ns: NDArray[np.int64]

    def part(self, start: int, stop: int) -> "Batch":
        """Return some of the rows."""
        return Batch._make(column[start:stop] for column in self)

    def copy(self) -> "Batch":
        """Return columns that lie elsewhere."""
        return Batch._make(column.copy() for column in self)


class Turn(NamedTuple):
    """What a worker hands to the detectors at once, and what it asks then.

    Parameters
    ----------
    batch : Batch
    hole_ns, check_ns : int or None
        As `streams.watermark.Turn`.
    arrived_ns : int or None
        When the newest of the readings arrived.
    """

    batch: Batch
    hole_ns: int | None
    check_ns: int | None
    arrived_ns: int | None = None


class Rhythm:
    """A stream of turns.

    Parameters
    ----------
    count : int
        Series; series i is of `kinds[i % len(kinds)]`.
    seed : int
    period_s : float
        Seconds in which as many readings are made as there are series.
    rows : int or None
        Readings of a message whose series are drawn at random; None for messages in which every
        series reports once, in random order.
    deep : bool
        One series, another in each message, has 5 % of its readings.
    in_order : bool
        The series of regular messages in the order of their numbers.
    spoiled : bool
        Not all is well: bad flags, values out of range, readings that come twice, out of order or
        late; sensors that are stuck, and series away from their level.
    kinds : tuple of Kind
    is_long : bool
        Whether the series are known by the minute stage as well when they are warm.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        *,
        period_s: float,
        rows: int | None = None,
        deep: bool = False,
        in_order: bool = False,
        spoiled: bool = False,
        kinds: tuple[Kind, ...] = KINDS,
        is_long: bool = False,
    ) -> None:
        self.count = count
        self.kinds = kinds
        self._is_long = is_long
        self._rng = np.random.default_rng([seed, 5])
        self._period_s = period_s
        self._rows = rows
        self._deep = deep
        self._in_order = in_order
        self._spoiled = False
        self._spoil_later = spoiled
        each = [kinds[number % len(kinds)] for number in range(count)]
        own = self._rng.uniform(0.7, 1.3, count)
        self._mean = own * [kind.mean for kind in each]
        self._swing = own * [kind.swing for kind in each]
        self._spread = np.array([kind.spread for kind in each])
        self._resolution = np.array([kind.resolution for kind in each])
        self._floor = np.array([kind.floor for kind in each])
        self._phase = self._rng.uniform(0, 2 * np.pi, count)
        self._noise = self._rng.standard_normal(count)
        self._event_left = np.zeros(count, np.int64)
        self._held = np.full(count, np.nan)
        self._stuck = self._rng.random(count) < STUCK
        # Shifted by turns: some leave their level while others return.
        self._shifts = np.where(
            self._rng.random(count) < SHIFTED, self._rng.integers(0, 2, count), -1
        )
        self._watermark = Watermark()
        self._now_ns = _BEGIN_NS
        self._messages = 0

    def warm_up(self) -> Iterator[Turn]:
        """Yield what the series have to be known by."""
        for _ in range(_LONG_WARM_UP_MESSAGES if self._is_long else _WARM_UP_MESSAGES):
            yield self._turn(self._regular(self.count), _WARM_UP_S * _S)
        if self._is_long and self._period_s != _MINUTE_S:
            own_s, self._period_s = self._period_s, _MINUTE_S
            for _ in range(_WARM_UP_OWN):
                yield from self._message()
            self._period_s = own_s
        per_message = self._rows or self.count
        for _ in range(_WARM_UP_OWN * self.count // per_message):
            yield from self._message()
        self._spoiled = self._spoil_later
        if self._spoiled:
            # Until what is stuck is found stuck, and what has left its level has its alert.
            for _ in range(2 * _SHIFT_MESSAGES * self.count // per_message):
                yield from self._message()

    def turns(self, readings: int) -> list[Turn]:
        """Return turns of so many readings, or a few more."""
        made: list[Turn] = []
        left = readings
        while left > 0:
            for turn in self._message():
                made.append(turn)
                left -= len(turn.batch.series)
        return made

    def _message(self) -> Iterator[Turn]:
        """Yield a message with readings, and those in which bridges vouch until the next."""
        if self._rows is not None:
            series = self._rng.integers(0, self.count, self._rows, dtype=np.int32)
        elif self._deep:
            series = self._with_one_deep()
        else:
            series = self._regular(self.count)
        span_ns = round(self._period_s * _S * len(series) / self.count)
        before_ns = self._now_ns
        yield self._turn(series, span_ns)
        for _ in range(CHECK_NS, self._now_ns - before_ns, CHECK_NS):
            before_ns += CHECK_NS
            yield self._vouched(before_ns)

    def _regular(self, count: int) -> NDArray[np.int32]:
        series = np.arange(count, dtype=np.int32)
        return series if self._in_order else self._rng.permutation(series)

    def _with_one_deep(self) -> NDArray[np.int32]:
        deep = self._messages * 37 % self.count
        often = max(round(self.count * DEEP_SHARE), 1)
        others = np.delete(np.arange(self.count, dtype=np.int32), deep)
        kept = self._rng.choice(others, self.count - often, replace=False)
        series = np.concatenate((kept, np.full(often, deep, np.int32)))
        return self._rng.permutation(series)

    def _turn(self, series: NDArray[np.int32], span_ns: int) -> Turn:
        """Return the readings that were made in a time, and move on behind it."""
        count = len(series)
        if self._rows is None and not self._deep:
            # All report at the full second or minute, nearly.
            spread_ns = min(_JITTER_NS, span_ns // 2)
            time_ns = self._now_ns + np.sort(self._rng.integers(0, spread_ns, count))
        else:
            time_ns = self._now_ns + np.arange(count) * (span_ns // count)
        value = self._values(series, time_ns)
        quality = np.ones(count, np.uint8)
        if self._spoiled:
            series, time_ns, value, quality = self._spoil(series, time_ns, value)
        self._now_ns += span_ns
        self._messages += 1
        return self._moved(series, time_ns, value, quality, None)

    def _vouched(self, at_ns: int) -> Turn:
        none = np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0), np.empty(0, np.uint8)
        return self._moved(*none, at_ns)

    def _moved(
        self,
        series: NDArray[np.int32],
        time_ns: NDArray[np.int64],
        value: NDArray[np.float64],
        quality: NDArray[np.uint8],
        complete_ns: int | None,
    ) -> Turn:
        before_ns = self._watermark.now_ns
        arrived_ns = int(time_ns.max()) if len(time_ns) else complete_ns
        assert arrived_ns is not None
        turn = self._watermark.move(
            series,
            time_ns,
            quality,
            bridge="bench",
            arrived_ns=arrived_ns + _ON_ITS_WAY_NS,
            complete_ns=complete_ns,
        )
        watermark_ns = np.full(len(series), before_ns)
        batch = Batch(series, time_ns, value, quality, watermark_ns)
        return Turn(batch, turn.hole_ns, turn.check_ns, arrived_ns + _ON_ITS_WAY_NS)

    def _values(self, series: NDArray[np.int32], time_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        rng = self._rng
        innovation = np.sqrt(1 - _HANGS_TOGETHER**2) * rng.standard_normal(len(series))
        noise = _HANGS_TOGETHER * self._noise[series] + innovation
        self._noise[series] = noise
        noise[rng.random(len(series)) < _PEAK_CHANCE] += _PEAK_SPREADS
        self._event_left[series[rng.random(len(series)) < _EVENT_CHANCE]] = _EVENT_READINGS
        in_event = self._event_left[series] > 0
        noise[in_event] += _PEAK_SPREADS
        self._event_left[series[in_event]] -= 1
        if self._spoiled:
            side = self._messages // _SHIFT_MESSAGES % 2
            noise[self._shifts[series] == side] += _SHIFT_SPREADS
        day = (time_ns - _BEGIN_NS) / _S * (2 * np.pi / _DAY_S)
        value = self._mean[series] + self._swing[series] * np.sin(day + self._phase[series])
        value += self._spread[series] * noise
        np.maximum(value, self._floor[series], out=value)
        resolution = self._resolution[series]
        exact = resolution == 0
        whole = np.where(exact, 1.0, resolution)
        value = np.where(exact, value, np.round(value / whole) * whole)
        if self._spoiled:
            stuck = self._stuck[series]
            self._held[series] = np.where(np.isnan(self._held[series]), value, self._held[series])
            value = np.where(stuck, self._held[series], value)
        return value

    def _spoil(
        self, series: NDArray[np.int32], time_ns: NDArray[np.int64], value: NDArray[np.float64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64], NDArray[np.uint8]]:
        rng, count = self._rng, len(series)
        quality = np.ones(count, np.uint8)
        bad = rng.random(count) < BAD_FLAG
        quality[bad] = rng.choice(np.array([3, 4, 9], np.uint8), int(bad.sum()))
        value = np.where(quality == 9, np.nan, value)
        value[rng.random(count) < OUT_OF_RANGE] = -1e6
        time_ns = time_ns.copy()
        time_ns[rng.random(count) < OUT_OF_ORDER] -= round(1.5 * self._period_s * _S)
        time_ns[rng.random(count) < LATE] -= _LATE_NS
        # What comes twice comes soon after.
        twice = np.flatnonzero(rng.random(count) < AGAIN)
        rows = np.sort(np.concatenate((np.arange(count), twice)))
        return series[rows], time_ns[rows], value[rows], quality[rows]

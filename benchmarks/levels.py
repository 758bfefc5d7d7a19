"""How often level alerts open, by one limit for all and by the limits of each series' own hours.

First series of which nothing is to be said, a reading a minute: counts in clusters, counts that
vary more than Poisson's, an autoregression with heavy tails, counts with a strong day, independent
readings. Then, with `--data`, series with labelled anomalies in the layout of the Numenta Anomaly
Benchmark, each from scratch: in how many windows an alert is open, with which of the two.

Run as `python -m benchmarks.levels [--series N] [--days N] [--seed N] [--data DIR]`. Its exit code
is 0 if no labelled window is lost, and of no kind more alerts open than with one limit for all.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors import CITY, Limits, Suite, SuiteConfig, Terms, calibration
from detectors.reach import Asked, Reach
from simulators.nab import File, read_corpus

MINUTE_NS: Final = 60 * 10**9
HOUR_NS: Final = 60 * MINUTE_NS
WEEK_NS: Final = 7 * 24 * HOUR_NS
# A Monday, 00:00 UTC.
BEGIN_NS: Final = 1_709_510_400 * 10**9
ANYTHING: Final = 1e12
CONFIG: Final = SuiteConfig()
Floats = NDArray[np.float64]
# Of each minute, one value of every series.
Kind = Callable[[np.random.Generator, int], Iterator[Floats]]


class Opened(NamedTuple):
    """Alerts, in the order in which they opened; those that never closed end with the series."""

    series: NDArray[np.int64]
    opened_ns: NDArray[np.int64]
    closed_ns: NDArray[np.int64]
    limits: Floats  # of each series in the end, spreads


class Watch:
    """A suite over some series, whose limits follow their hours or not."""

    def __init__(self, count: int, *, own: bool) -> None:
        self.suite, self.count = Suite(CONFIG), count
        self.suite.add(
            Limits(np.full(count, -ANYTHING), np.full(count, ANYTHING), np.full(count, np.inf))
        )
        asked = (CONFIG.city_open_spreads, CONFIG.city_open_after, own * calibration.SPEAKS_FROM)
        self.reach = Reach(CONFIG.city_open_spreads)
        self.reach.add(Asked._make(np.full(count, float(one)) for one in asked))
        self.alerts: dict[tuple[int, int], int] = {}

    def see(self, series: NDArray[np.int32], time_ns: NDArray[np.int64], value: Floats) -> None:
        """Judge the readings of one hour, in their order."""
        if self.reach.learn(int(time_ns[0]), self.suite.in_alert()):
            own = {"city_open_spreads": self.reach.spreads()}
            self.suite.judge_by(CONFIG, Terms.of(CONFIG), own)
        verdicts = self.suite.step(series, time_ns, value, np.ones(len(series), np.uint8))
        self.reach.see(series, verdicts.score)
        moves = verdicts.transitions
        for row in np.flatnonzero(moves.category == CITY).tolist():
            key = int(moves.series[row]), int(moves.opened_ns[row])
            ended_ns = int(time_ns[moves.row[row]])
            self.alerts[key] = int(np.iinfo(np.int64).max) if moves.opened[row] else ended_ns

    def found(self) -> Opened:
        """Return the alerts."""
        pairs = np.array(list(self.alerts), np.int64).reshape(-1, 2)
        ends = np.array(list(self.alerts.values()), np.int64)
        return Opened(pairs[:, 0], pairs[:, 1], ends, self.reach.spreads())


def clustered(rng: np.random.Generator, count: int) -> Iterator[Floats]:
    """Yield counts that vary more than Poisson's, of a mean that jumps and fades."""
    more = np.zeros(count)
    while True:
        more = 0.9 * more + (rng.random(count) < 0.02) * rng.exponential(20.0, count)
        yield rng.poisson(rng.gamma(1.0, 2.0 + more)).astype(np.float64)


def dispersed(rng: np.random.Generator, count: int) -> Iterator[Floats]:
    """Yield negative binomial counts, one independent of the other."""
    while True:
        yield rng.poisson(rng.gamma(0.5, 6.0, count)).astype(np.float64)


def autoregressive(rng: np.random.Generator, count: int) -> Iterator[Floats]:
    """Yield what has a correlation of 0.95, and innovations of Student's t3."""
    value = np.zeros(count)
    while True:
        value = 0.95 * value + rng.standard_t(3, count)
        yield 100.0 + value


def daily(rng: np.random.Generator, count: int) -> Iterator[Floats]:
    """Yield Poisson counts, in the day a hundred times as many as at night."""
    minute = rng.uniform(-60.0, 60.0, count)
    while True:
        turn = minute / 1_440.0 * 2.0 * np.pi
        mean = 67.0 * np.exp(1.2 * np.cos(turn - 2.5) + 0.8 * np.cos(2.0 * turn))
        yield rng.poisson(mean).astype(np.float64)
        minute += 1.0


def independent(rng: np.random.Generator, count: int) -> Iterator[Floats]:
    """Yield Gaussian readings."""
    while True:
        yield rng.normal(50.0, 1.0, count)


KINDS: Final[dict[str, Kind]] = {
    one.__name__: one for one in (clustered, dispersed, autoregressive, daily, independent)
}


def synthetic(kind: Kind, count: int, days: int, seed: int, *, own: bool) -> Opened:
    """Return what opens in series of one kind."""
    watch, values = Watch(count, own=own), kind(np.random.default_rng(seed), count)
    series = np.tile(np.arange(count, dtype=np.int32), 60)
    for hour in range(24 * days):
        time_ns = BEGIN_NS + hour * HOUR_NS + np.repeat(np.arange(60) * MINUTE_NS, count)
        watch.see(series, time_ns, np.concatenate([next(values) for _ in range(60)]))
    return watch.found()


def labelled(file: File, *, own: bool) -> tuple[Opened, list[bool]]:
    """Return what opens in a labelled series, and in which of its windows an alert is open."""
    watch = Watch(1, own=own)
    hours = file.time_ns // HOUR_NS
    for part in np.split(np.arange(len(hours)), np.flatnonzero(np.diff(hours)) + 1):
        watch.see(np.zeros(len(part), np.int32), file.time_ns[part], file.value[part])
    found = watch.found()
    windows = [(file.time_ns[first], file.time_ns[last]) for first, last in file.windows]
    return found, [
        bool(np.any((found.opened_ns <= end_ns) & (found.closed_ns >= begin_ns)))
        for begin_ns, end_ns in windows
    ]


def in_noise(count: int, days: int, seed: int) -> bool:
    """Print what opens where nothing happens; return whether it is no more than before."""
    print(f"alerts a week and series, {count} series of each kind, {days} days, week by week")
    is_ok = True
    for name, kind in KINDS.items():
        total = []
        for own in (False, True):
            found = synthetic(kind, count, days, seed, own=own)
            weeks = np.bincount((found.opened_ns - BEGIN_NS) // WEEK_NS, minlength=days // 7)
            limits = np.quantile(found.limits, (0.1, 0.5, 0.9))
            print(
                f"{name if not own else '':16}{'own hours' if own else 'one limit':11}"
                + "".join(f"{week / count:8.2f}" for week in weeks.tolist())
                + f"   limits {limits[0]:.1f} {limits[1]:.1f} {limits[2]:.1f}",
                flush=True,
            )
            total.append(len(found.series))
        is_ok &= total[1] <= total[0]
    return is_ok


def in_windows(folder: Path) -> bool:
    """Print what opens in labelled series; return whether no window is lost."""
    print(f"\n{'series':52}{'windows':>8}{'found':>7}{'own':>5}{'opens':>7}{'own':>5}{'limit':>7}")
    totals = np.zeros(5, np.int64)
    is_ok = True
    for file in read_corpus(folder):
        (before, found), (after, own) = (labelled(file, own=own) for own in (False, True))
        row = [len(found), sum(found), sum(own), len(before.series), len(after.series)]
        totals += row
        lost = any(one and not other for one, other in zip(found, own, strict=True))
        is_ok &= not lost
        print(
            f"{file.name:52}{row[0]:8}{row[1]:7}{row[2]:5}{row[3]:7}{row[4]:5}"
            f"{after.limits[0]:7.1f}{'  LOST' if lost else ''}",
            flush=True,
        )
    print(f"{'all':52}{totals[0]:8}{totals[1]:7}{totals[2]:5}{totals[3]:7}{totals[4]:5}")
    return is_ok


def main() -> int:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--series", type=int, default=20)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    is_ok = in_noise(arguments.series, arguments.days, arguments.seed)
    if arguments.data:
        is_ok &= in_windows(arguments.data)
    return 0 if is_ok else 1


if __name__ == "__main__":
    sys.exit(main())

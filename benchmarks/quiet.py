"""How often kernels speak where nothing happens, and whether they speak where something does.

First a simulated city without faults, minute by minute. What is counted is how often a kernel
begins to speak; alerts need several minutes in a row on top of it. Then, with `--data`, series with
labelled anomalies in the layout of the Numenta Anomaly Benchmark (`data/<group>/*.csv`), each from
scratch, with what the kernels need to know the same for all.

Run as `python -m benchmarks.quiet [--days N] [--data DIR [GROUP/FILE ...]]`.
"""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detectors import autoregression, noise_change, season, shift, spike
from detectors.finding import Finding
from simulators.city import City
from simulators.nab import read_corpus
from simulators.rhythm import UTC_OFFSET_H

SENSORS = 40
SEED = 2
MINUTE_NS = 60 * 10**9
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS
BEGIN_NS = int(datetime(2024, 5, 6, tzinfo=UTC).timestamp()) * 10**9
# Where the noise is the instrument's.
STEADY = ("temperature", "relativeHumidity", "LAeq")
COUNTS = ("intensity", "peopleCount", "peopleCountTowards", "peopleCountAway")
# Traffic and taxis: the series of the benchmark that a city has.
CITY_SERIES = ("realTraffic/", "realKnownCause/nyc_taxi.csv")
NO_HOLIDAYS = np.array([], np.int64)
Floats = NDArray[np.float64]


class Watch:
    """The kernels over some series, and what they have said."""

    def __init__(
        self,
        least: Floats,
        dispersion: Floats,
        steady: NDArray[np.bool_],
        offset_ns: int,
    ) -> None:
        count = len(least)
        profile, level = season.new_state(count), shift.new_state(count)
        forecast, jump = autoregression.new_state(count), spike.new_state(count)
        noise = noise_change.new_state(count)
        terms = season.Terms(np.full(count, offset_ns), least, dispersion)
        usual = shift.Usual(least, least)

        def of_season(*reading: NDArray[np.generic]) -> Finding:
            nonlocal usual
            found = season.step(profile, *reading, terms, NO_HOLIDAYS)  # type: ignore[arg-type]
            usual = season.usual(found)
            return found

        self.steps: dict[str, Callable[..., Finding]] = {
            "season": of_season,
            "shift": lambda *reading: shift.step(level, *reading, usual),
            "autoregression": lambda *reading: autoregression.step(forecast, *reading, least),
            "spike": lambda *reading: spike.step(jump, *reading, 4.0 * least),
            "noise_change": lambda time_ns, value, usable: noise_change.step(
                noise, time_ns, value, usable & steady, least
            ),
        }
        self.judged = dict.fromkeys(self.steps, 0)
        self.begun = dict.fromkeys(self.steps, 0)
        self.spoke = {name: np.zeros(count, np.bool_) for name in self.steps}

    def see(self, time_ns: NDArray[np.int64], value: Floats) -> None:
        """Judge one reading of each series."""
        usable = np.isfinite(value)
        with np.errstate(all="ignore"):
            for name, step in self.steps.items():
                found = step(time_ns, value, usable)
                self.judged[name] += int(found.judged.sum())
                self.begun[name] += int((found.speaks & ~self.spoke[name]).sum())
                self.spoke[name] = found.speaks


def quiet_city(days: int) -> None:
    """Print how often each kernel begins to speak in a city where nothing happens."""
    city = City(SENSORS, SEED)
    everyone = np.arange(len(city))
    first = city.observe(everyone, np.full(len(city), BEGIN_NS))
    there = np.isfinite(first)
    names = [name for sensor in city.sensors for name in sensor.quantities]
    resolutions = [10.0**-places for sensor in city.sensors for places in sensor.decimals]
    dispersion = np.array([float(name in COUNTS) for name in names])
    steady = np.array([name in STEADY for name in names])
    watch = Watch(np.array(resolutions), dispersion, steady, round(UTC_OFFSET_H * HOUR_NS))
    for now in range(BEGIN_NS + MINUTE_NS, BEGIN_NS + days * DAY_NS, MINUTE_NS):
        value = city.observe(everyone, np.full(len(city), now))[there]
        watch.see(np.full(len(value), now), value)
    print(f"a quiet city, {len(names)} series, {days} days of minutes")
    print(f"{'kernel':16}{'series-days':>12}{'begins':>8}{'in 1,000':>10}")
    for name, judged in watch.judged.items():
        series_days = judged * MINUTE_NS / DAY_NS
        often = 1_000 * watch.begun[name] / max(series_days, 1.0)
        print(f"{name:16}{series_days:12,.0f}{watch.begun[name]:8}{often:10.1f}")


def labelled(folder: Path, wanted: tuple[str, ...]) -> None:
    """Print how often each kernel speaks in labelled series, and in how many windows."""
    print(f"\n{'series':34}{'kernel':16}{'begins':>8}{'inside':>8}{'windows':>9}{'found':>7}")
    for file in read_corpus(folder):
        if not file.name.startswith(wanted):
            continue
        watch = Watch(
            np.array([0.01 * np.median(np.abs(file.value))]), np.zeros(1), np.ones(1, np.bool_), 0
        )
        begun: dict[str, list[int]] = {name: [] for name in watch.steps}
        speaks: dict[str, list[bool]] = {name: [] for name in watch.steps}
        for row in range(len(file.value)):
            before = dict(watch.begun)
            watch.see(file.time_ns[row : row + 1], file.value[row : row + 1])
            for name in watch.steps:
                speaks[name].append(bool(watch.spoke[name][0]))
                if watch.begun[name] > before[name]:
                    begun[name].append(row)
        for name in watch.steps:
            inside = sum(
                any(first <= row <= last for first, last in file.windows) for row in begun[name]
            )
            found = sum(any(speaks[name][first : last + 1]) for first, last in file.windows)
            counts = f"{len(begun[name]):8}{inside:8}{len(file.windows):9}{found:7}"
            print(f"{file.name:34}{name:16}{counts}")


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--data", type=Path)
    parser.add_argument("names", nargs="*", default=CITY_SERIES)
    arguments = parser.parse_args()
    quiet_city(arguments.days)
    if arguments.data:
        labelled(arguments.data, tuple(arguments.names))


if __name__ == "__main__":
    main()

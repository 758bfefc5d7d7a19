"""How often kernels speak where nothing happens, and whether they speak where something does.

First a simulated city without faults, minute by minute. What is counted is how often a kernel
begins to speak, by its own limit and where its calibrated score asks for it as well, as in a
worker; alerts need several minutes in a row on top of it. Then how often scores are reached: of how
many hours the highest is, as -log10 of a rate a minute, over all series and the spread between
them, nominal and calibrated. Then, with `--data`, series with labelled anomalies in the layout of
the Numenta Anomaly Benchmark (`data/<group>/*.csv`), each from scratch, with what the kernels need
to know the same for all.

With `--alerts` the same city goes through suite and minute stage as in a worker, and what is
counted is alerts, and those of them that people are told of.

Run as `python -m benchmarks.quiet [--days N] [--seed N] [--alerts] [--data DIR [GROUP/FILE ...]]`.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detectors import (
    LEVEL,
    SuiteConfig,
    autoregression,
    calibration,
    noise_change,
    record,
    season,
    shift,
    spike,
)
from detectors.finding import Finding
from ingest.topics import SeriesKey
from simulators.city import City
from simulators.nab import read_corpus
from simulators.rhythm import UTC_OFFSET_H
from storage.sink import Resumption
from streams.facts import CityFacts
from streams.minutes import Standing
from streams.partition import Partition

SENSORS = 40
SEED = 2
MINUTE_NS = 60 * 10**9
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS
BEGIN_NS = int(datetime(2024, 5, 6, tzinfo=UTC).timestamp()) * 10**9
# Where the noise is the instrument's.
STEADY = ("temperature", "relativeHumidity", "LAeq")
# From here on a reading is doubtful.
SUSPECT = 3
COUNTS = ("intensity", "peopleCount", "peopleCountTowards", "peopleCountAway")
# Traffic and taxis: the series of the benchmark that a city has.
CITY_SERIES = ("realTraffic/", "realKnownCause/nyc_taxi.csv")
# Scores of which it is counted how often they are reached, after a week.
DECADES = (2.0, 2.5, 3.0, 4.0)
WARM_UP_NS = 7 * DAY_NS
# Minutes that one judgement of them stands for, where it is not one.
LASTS = {"record": 5}
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
        noise, past = noise_change.new_state(count), record.new_state(count)
        offsets_ns = np.full(count, offset_ns)
        terms = season.Terms(offsets_ns, least, dispersion)
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
            "record": lambda *reading: record.step(past, *reading, offsets_ns),
        }
        self.judged = dict.fromkeys(self.steps, 0)
        # By its own limit, and as rare as is asked for.
        self.begun = {name: [0, 0] for name in self.steps}
        self.spoke = {name: np.zeros((2, count), np.bool_) for name in self.steps}
        self.scores = {name: calibration.new_state(count) for name in self.steps}
        self.peaks = {name: Peaks(count) for name in self.steps}

    def see(self, time_ns: NDArray[np.int64], value: Floats) -> None:
        """Judge one reading of each series."""
        usable = np.isfinite(value)
        with np.errstate(all="ignore"):
            for name, step in self.steps.items():
                found = step(time_ns, value, usable)
                score = calibration.step(self.scores[name], time_ns, found.score)
                rare = found.speaks & (score >= calibration.SPEAKS_FROM)
                # What judges one minute in five stands until it does again.
                speaks = np.where(
                    found.judged, np.stack((found.speaks, rare)), self.spoke[name] & (name in LASTS)
                )
                self.judged[name] += int(found.judged.sum())
                for side, begins in enumerate(speaks & ~self.spoke[name]):
                    self.begun[name][side] += int(begins.sum())
                self.spoke[name] = speaks
                self.peaks[name].see(int(time_ns[0]), np.stack((found.score, score)))


class Peaks:
    """Of how many hours the highest score, nominal and calibrated, reaches so many decades."""

    def __init__(self, count: int) -> None:
        self.hour = 0
        self.peak = np.full((2, count), np.nan)
        self.hours = np.zeros(count)
        self.reached = np.zeros((len(DECADES), 2, count))

    def see(self, time_ns: int, score: Floats) -> None:
        """Take note of both scores of each series."""
        hour = (time_ns - 1) // HOUR_NS
        if hour != self.hour:
            self.hours += ~np.isnan(self.peak[0])
            self.reached += self.peak >= np.array(DECADES)[:, np.newaxis, np.newaxis]
            self.hour, self.peak[:] = hour, np.nan
        np.fmax(self.peak, score, out=self.peak)

    def rates(self) -> NDArray[np.float64]:
        """Return -log10 of rates a minute, and their spread: (decades, 2, 2).

        A series that has not reached a score once counts with half an hour of it in the spread.
        """
        there = self.hours > 0.0
        hours, reached = self.hours[there], self.reached[:, :, there]
        with np.errstate(divide="ignore"):
            whole = -np.log10(reached.sum(axis=2) / hours.sum() * (MINUTE_NS / HOUR_NS))
        each = np.log10(np.maximum(reached, 0.5) / hours)
        return np.stack((whole, each.std(axis=2)), axis=2)


def quiet_city(days: int, seed: int) -> None:
    """Print how often each kernel begins to speak in a city where nothing happens."""
    city = City(SENSORS, seed)
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
        if now == BEGIN_NS + WARM_UP_NS:
            watch.peaks = {name: Peaks(len(value)) for name in watch.steps}
    print(f"a quiet city, {len(names)} series, {days} days of minutes")
    print(f"{'kernel':16}{'series-days':>12}{'begins':>8}{'and rare':>10}{'in 1,000':>10}")
    for name, judged in watch.judged.items():
        series_days = judged * LASTS.get(name, 1) * MINUTE_NS / DAY_NS
        limit, rare = watch.begun[name]
        often = 1_000 * rare / max(series_days, 1.0)
        print(f"{name:16}{series_days:12,.0f}{limit:8}{rare:10}{often:10.1f}")
    if days * DAY_NS > WARM_UP_NS + DAY_NS:
        scores_reached(watch)


def scores_reached(watch: Watch) -> None:
    """Print how often scores are reached after the first week."""
    print("\nwhat is reached, as -log10 of a rate a minute, and its spread between series")
    head = "".join(f"{f'score {one:g}':>15}" for one in DECADES)
    print(f"{'kernel':16}{'':11}{head}")
    for name, peaks in watch.peaks.items():
        rates = peaks.rates()
        for side, label in enumerate(("nominal", "calibrated")):
            cells = "".join(
                f"{rate:9.2f} ±{spread:.2f}" if np.isfinite(rate) else f"{'never':>15}"
                for rate, spread in rates[:, side]
            )
            print(f"{name if not side else '':16}{label:11}{cells}")


def alerts(days: int, seed: int) -> None:
    """Print how many alerts a worker opens in that city, and of how many people are told."""
    city = City(SENSORS, seed)
    everyone = np.arange(len(city))
    there = np.isfinite(city.observe(everyone, np.full(len(city), BEGIN_NS)))
    partition = Partition(Resumption(0, 0, None, None), SuiteConfig(), CityFacts())
    slot = partition.slots(
        [
            str(SeriesKey(sensor.domain, sensor.zone, sensor.name, quantity))
            for sensor in city.sensors
            for quantity in sensor.quantities
        ]
    )
    suite, stage = partition.suite, partition.minutes
    opened, told = Counter[str](), Counter[str]()
    begin_ns = BEGIN_NS + MINUTE_NS
    for now in range(begin_ns, BEGIN_NS + days * DAY_NS, MINUTE_NS):
        value = city.observe(everyone, np.full(len(city), now))[there]
        time_ns, flags = np.full(len(value), now), np.ones(len(value), np.uint8)
        verdicts = suite.step(slot, time_ns, value, flags, time_ns - MINUTE_NS)
        partition.levels.see(slot, verdicts.score)
        moves = verdicts.transitions
        of_level = moves.opened & (moves.kind == LEVEL)
        opened["level"] += int(of_level.sum())
        told["level"] += int(of_level.sum())
        sound = verdicts.quality < SUSPECT
        stage.take(slot[sound], time_ns[sound], value[sound])
        partition.check_levels(now)
        standing = Standing(suite.in_doubt(), suite.in_alert(), suite.are_silent())
        for move in stage.check(now, standing):
            opened[move.kind.name] += move.state == "opened"
            told[move.kind.name] += move.state in ("opened", "told") and move.is_told
    print(f"\nalerts in a quiet city, {len(slot)} series, {days} days of minutes")
    print(f"{'kind':16}{'opened':>8}{'told':>8}")
    for kind, count in sorted(opened.items()):
        print(f"{kind:16}{count:8}{told[kind]:8}")


def labelled(folder: Path, wanted: tuple[str, ...]) -> None:
    """Print how often each kernel speaks in labelled series, and in how many windows."""
    print(f"\n{'series':34}{'kernel':16}{'':6}{'begins':>8}{'inside':>8}{'windows':>9}{'found':>7}")
    for file in read_corpus(folder):
        if not file.name.startswith(wanted):
            continue
        watch = Watch(
            np.array([0.01 * np.median(np.abs(file.value))]), np.zeros(1), np.ones(1, np.bool_), 0
        )
        speaks: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in watch.steps}
        for row in range(len(file.value)):
            watch.see(file.time_ns[row : row + 1], file.value[row : row + 1])
            for name in watch.steps:
                speaks[name].append(watch.spoke[name][:, 0])
        for name in watch.steps:
            for label, spoke in zip(("", "rare"), np.transpose(speaks[name]), strict=True):
                begun = np.flatnonzero(spoke & ~np.r_[False, spoke[:-1]])
                inside = sum(any(a <= row <= b for a, b in file.windows) for row in begun)
                found = sum(spoke[a : b + 1].any() for a, b in file.windows)
                counts = f"{len(begun):8}{inside:8}{len(file.windows):9}{found:7}"
                print(f"{file.name:34}{name:16}{label:6}{counts}")


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--alerts", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("names", nargs="*", default=CITY_SERIES)
    arguments = parser.parse_args()
    if arguments.alerts:
        alerts(arguments.days, arguments.seed)
        return
    quiet_city(arguments.days, arguments.seed)
    if arguments.data:
        labelled(arguments.data, tuple(arguments.names))


if __name__ == "__main__":
    main()

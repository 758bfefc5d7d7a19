"""DET: what a reading costs in the detectors, on one core.

| scenario | what must hold |
| --- | --- |
| DET-REGULAR | each of 10,000 series once a batch, a reading a minute and a second: see below |
| DET-IRREGULAR | batches of 1,000, of 10,000 series at random with repeats: 3,000,000/s |
| DET-DEEP | batches of 10,000 of which one series has 500: 100,000/s |
| DET-SERIES | from 1,000 to 200,000 series a reading costs at most three times as much |
| DET-STATE | a series has at most 4 KiB of state, saved and in memory |
| DET-OTHERS | 50 times as fast as river's HalfSpaceTrees, an object a series |
| DET-REAL | a stream in which not all is well: how much of the speed is left (no bound) |

Measured is what a worker calls, as it calls it: `Suite.step` with the watermark before each
message, and `silences` whenever the watermark enters another ten seconds; also the empty step
behind a message in which a bridge vouches. *All detectors* are that and `MinuteStage`, which hears
and takes the same readings and checks when silences are looked for. Their series are those of the
simulated city, traffic, air, noise and cameras in the same shares, and every kernel is told what it
wants to know. At a reading a minute every reading closes a minute of its series and all kernels are
asked, which is the dearest there is; at a reading a second they are asked once in sixty.

DET-REGULAR asks for 5,000,000/s of the suite alone at both paces, and of all detectors at a reading
a second; of all detectors at a reading a minute it asks for 1,200,000/s, for that was reached.
All other scenarios are the suite alone. The series are warm. Between two steps as many bytes
are moved as a worker moves for their readings, so that state is not closer to the core than there.

Times are of the thread's own CPU. Everything has its slice in every round, by turns; a figure is
the median of the rounds. Beside it, in the same run: river's detectors, a plain Python loop that
only keeps a level and a spread, and a copy of the same bytes. Prints a table; the last line is one
JSON object.

Not named after the room it measures: beside the other scripts that would hide the package.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Final

import district
import numpy as np
from course import Course, Facts, Whole, held_bytes, saved_bytes
from pipeline import machine
from rhythm import DEEP_SHARE, Rhythm
from yardsticks import Copy, Yardstick, python_loop, river_detectors

MIN_REGULAR: Final = 5_000_000.0
# Of all detectors where series report once a minute, what was reached.
MIN_ALL_AT_A_MINUTE: Final = 1_200_000.0
MIN_IRREGULAR: Final = 3_000_000.0
MIN_DEEP: Final = 100_000.0
MAX_COST_RATIO: Final = 3.0
MAX_STATE_BYTES: Final = 4096
# Of river's forests. Its GaussianScorer, a mean and a variance that never forget, takes 1.3 us a
# reading: no more than a copy of the state could be 50 times as fast. It is printed beside them.
MIN_TIMES_RIVER: Final = 50.0
_FORESTS: Final = "half_space_trees"
_MINUTE_S: Final = 60.0
_SECOND_S: Final = 1.0
# As `make bench-streams`: readings follow each other by a millisecond.
_AT_RANDOM_S: Final = 10.0
# A worker takes at most so many readings into a step.
_FLUSH_ROWS: Final = 20_000


class Bench:
    """All courses and yardsticks, by scenario.

    Parameters
    ----------
    options : argparse.Namespace
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        count, seed = options.series, options.seed
        self.courses = {
            "minute": Course(Rhythm(count, seed, period_s=_MINUTE_S)),
            "second": Course(Rhythm(count, seed, period_s=_SECOND_S)),
            "in_order": Course(Rhythm(count, seed, period_s=_SECOND_S, in_order=True)),
            "irregular": Course(Rhythm(count, seed, period_s=_AT_RANDOM_S, rows=options.rows)),
            "irregular_minute": Course(Rhythm(count, seed, period_s=_MINUTE_S, rows=options.rows)),
            "deep": Course(Rhythm(count, seed, period_s=_MINUTE_S, deep=True)),
            "real": Course(Rhythm(count, seed, period_s=_MINUTE_S, spoiled=True)),
            "real_irregular": Course(
                Rhythm(count, seed, period_s=_AT_RANDOM_S, rows=options.rows, spoiled=True)
            ),
        }
        keys, facts = district.keys(count), district.facts(count)
        self.wholes = {
            name: Whole(
                Rhythm(count, seed, period_s=period_s, kinds=district.KINDS, is_long=True),
                keys,
                facts,
            )
            for name, period_s in (("minute", _MINUTE_S), ("second", _SECOND_S))
        }
        self.sizes = dict(_sized(options.sizes, seed))
        saved = saved_bytes(self.courses["minute"].suite)
        self.others: dict[str, Yardstick | Copy] = {"python_loop": python_loop(count, seed)}
        self.river: str | None = None
        self._rivers: dict[str, Yardstick] = {}
        if not options.without_river:
            self.river, self._rivers = river_detectors(count, seed)
            self.others |= self._rivers
        row_bytes = self.courses["minute"].row_bytes
        self.others |= {
            "copy_of_columns": Copy(count, row_bytes, 0),
            "copy_of_columns_and_state": Copy(count, row_bytes, round(saved)),
        }

    def run(self) -> None:
        """Give everything its slice in every round."""
        slices: list[Course | Whole | Yardstick | Copy] = [
            *self.courses.values(),
            *self.wholes.values(),
            *self.sizes.values(),
            *self.others.values(),
        ]
        for number in range(self._options.rounds):
            print(f"round {number + 1} is running ...", file=sys.stderr, flush=True)
            for one in slices:
                one.run(self._options.slice_s)

    def results(self) -> dict[str, Facts]:
        """Return the facts of every scenario."""
        demand = self._options.demand
        courses = self.courses
        minute, second = courses["minute"], courses["second"]
        regular = min(minute.rate, second.rate)
        of_all, all_hold = self._all()
        irregular, deep = courses["irregular"], courses["deep"]
        return {
            "DET-REGULAR": {
                "at_a_minute_per_s": round(minute.rate),
                "at_a_second_per_s": round(second.rate),
                "at_a_second_in_order_per_s": round(courses["in_order"].rate),
                **of_all,
                **minute.facts(),
                "share_by_module": minute.profile(),
                "ok": minute.was_warm
                and second.was_warm
                and regular >= MIN_REGULAR * demand
                and all_hold,
            },
            "DET-IRREGULAR": {
                "per_s": round(irregular.rate),
                "at_a_minute_per_s": round(courses["irregular_minute"].rate),
                **irregular.facts(),
                "share_by_module": irregular.profile(),
                "ok": irregular.was_warm and irregular.rate >= MIN_IRREGULAR * demand,
            },
            "DET-DEEP": {
                "per_s": round(deep.rate),
                "deepest": round(self._options.series * DEEP_SHARE),
                **deep.facts(),
                "ok": deep.was_warm and deep.rate >= MIN_DEEP * demand,
            },
            "DET-SERIES": self._by_size(),
            "DET-STATE": self._state(),
            "DET-OTHERS": self._beside(regular),
            "DET-REAL": {
                "at_a_minute_per_s": round(courses["real"].rate),
                "of_clean": round(courses["real"].rate / minute.rate, 3),
                "irregular_per_s": round(courses["real_irregular"].rate),
                "irregular_of_clean": round(courses["real_irregular"].rate / irregular.rate, 3),
                **courses["real"].facts(),
            },
        }

    def _all(self) -> tuple[Facts, bool]:
        """Return what is found of all detectors together, and whether it is enough."""
        demand = self._options.demand
        rates = {
            f"{part}_at_a_{name}_per_s": round(one.rate(part))
            for name, one in self.wholes.items()
            for part in ("all", "suite_of_all", "minute_stage")
        }
        warm = all(one.was_warm for one in self.wholes.values())
        fast = (
            rates["all_at_a_second_per_s"] >= MIN_REGULAR * demand
            and rates["all_at_a_minute_per_s"] >= MIN_ALL_AT_A_MINUTE * demand
        )
        minutes_moved = {"moves_of_minutes": self.wholes["minute"].moves}
        return {**rates, **minutes_moved}, warm and fast

    def _by_size(self) -> Facts:
        costs = {name: 1e6 / course.rate for name, course in self.sizes.items()}
        ratio = max(costs.values()) / min(costs.values())
        warm = all(course.was_warm for course in self.sizes.values())
        return {
            **{f"us_per_reading_{name}": round(cost, 4) for name, cost in costs.items()},
            "dearest_to_cheapest": round(ratio, 2),
            "ok": warm and ratio * self._options.demand <= MAX_COST_RATIO,
        }

    def _state(self) -> Facts:
        count = self._options.series
        saved = saved_bytes(self.courses["minute"].suite)
        held = held_bytes(count, self._options.seed)
        return {
            "saved_bytes": round(saved, 1),
            "memory_bytes": round(held, 1),
            "ok": max(saved, held) <= MAX_STATE_BYTES,
        }

    def _beside(self, regular: float) -> Facts:
        rates = {name: median(one.rates) for name, one in self.others.items()}
        times = {name: regular / rates[name] for name in self._rivers}
        return {
            **{f"{name}_per_s": round(rate) for name, rate in rates.items()},
            **{f"times_{name}": round(ratio, 1) for name, ratio in times.items()},
            "times_python_loop": round(regular / rates["python_loop"], 1),
            "of_copy_of_columns_and_state": round(regular / rates["copy_of_columns_and_state"], 3),
            "river": self.river,
            "fastest_of_river": min(times, key=lambda name: times[name], default=None),
            "ok": min((times[name] for name in times if name.endswith(_FORESTS)), default=np.inf)
            >= MIN_TIMES_RIVER * self._options.demand,
        }


def _sized(sizes: Iterable[int], seed: int) -> Iterator[tuple[str, Course]]:
    """Yield a course by size: cut as a worker cuts it and, where that differs, whole."""
    for size in sizes:
        yield str(size), Course(Rhythm(size, seed, period_s=_SECOND_S), _FLUSH_ROWS)
        if size > _FLUSH_ROWS:
            yield f"{size}_at_once", Course(Rhythm(size, seed, period_s=_SECOND_S))


def _pin() -> int:
    """Keep this thread on one core, the last it may use; return which."""
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1_000, help="of an irregular batch")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 50_000, 200_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slice-s", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-river", action="store_true")
    parser.add_argument(
        "--demand", type=float, default=1.0, help="factor on the speeds that must be reached"
    )
    return parser.parse_args()


def main() -> None:
    """Measure, print a table, end with one JSON object."""
    options = _options()
    begin = time.monotonic()
    facts = {"core": _pin(), "numpy": np.__version__}
    bench = Bench(options)
    bench.run()
    results = bench.results()
    for name, found in results.items():
        for fact, value in found.items():
            print(f"{name:14} {fact.replace('_', ' '):44} {value}", flush=True)
    ok = all(found.get("ok", True) for found in results.values())
    took = {"run_s": round(time.monotonic() - begin)}
    print(json.dumps({**results, **facts, **machine(), **took, "ok": ok}))
    if not ok:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

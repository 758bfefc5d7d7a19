"""What a reading costs each kernel, and what a series costs in memory.

One wave of all series again and again, a minute apart, on one core. The kernel itself is measured,
not the way of a wave into columns and back; beside it stands the copy of as many bytes as the state
of a series has, in the same run. Time is that of the thread: others may use the machine. Means, not
medians, are what a minute costs: what is done once an hour is in them, and the slowest wave says
how much of it comes at once. Run as `python -m benchmarks.kernels [series ...]`; without arguments
at 1,000, 10,000 and 200,000 series.
"""

import json
import os
import platform
import sys
import time

import numpy as np

from tests.detectors.kernels import KERNELS, SERIES, Kernel, S

# Three hours of minutes, less where the series are many: hours are closed in the first of them.
WAVES = {1_000: 180, 10_000: 130, 200_000: 62}
LEAST_WAVES = 62
# At 10,000 series, ns a reading.
BOUND_NS = 150.0
BOUND_AT = 10_000
SEED = 1


def measured(kernel: Kernel, series: int) -> tuple[float, float, float, int]:
    """Return ns a reading (mean, slowest wave), of a copy of the state, and bytes a series."""
    rng = np.random.default_rng(SEED)
    pick = np.arange(series) % SERIES
    terms = {name: np.ascontiguousarray(column[..., pick]) for name, column in kernel.terms.items()}
    state = kernel.new_state(series)
    usable = np.ones(series, np.bool_)
    # A few waves of values again and again: drawing them takes longer than judging them.
    told = []
    for _ in range(8):
        value = kernel.values(rng, series)
        told.append((value, kernel.extras(rng, np.full(series, 60 * S), value)))
    taken, judged = [], 0
    for wave in range(1, WAVES.get(series, LEAST_WAVES) + 1):
        time_ns = np.full(series, wave * 60 * S)
        value, extras = told[wave % len(told)]
        if "other_ns" in extras:
            extras = {**extras, "other_ns": time_ns}
        with np.errstate(all="ignore"):
            start = time.thread_time()
            found = kernel.step(state, time_ns, value, usable, terms, extras)
            taken.append(time.thread_time() - start)
        judged += int(found.judged.sum())
    columns = [column for column in state if column.size]
    copies = []
    for _ in range(5):
        start = time.thread_time()
        for column in columns:
            column.copy()
        copies.append(time.thread_time() - start)
    ns = np.array(taken) / series * 1e9
    size = sum(column.nbytes for column in columns) // series
    return float(ns.mean()), float(ns.max()), float(np.median(copies)) / series * 1e9, size


def main() -> None:
    """Print a line a kernel, and one JSON object."""
    counts = [int(one) for one in sys.argv[1:]] or list(WAVES)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"Python {platform.python_version()}, numpy {np.__version__}")  # fmt: skip
    print("ns a reading: mean, slowest wave, a copy of the state")
    head = "".join(f"{count:>26,}" for count in counts)
    print(f"{'kernel':32}{'bytes':>6}{head}")
    figures: dict[str, dict[str, float]] = {}
    for kernel in KERNELS:
        cells, size = "", 0
        for count in counts:
            mean, slowest, copy, size = measured(kernel, count)
            cells += f"{mean:10.1f}{slowest:9.1f}{copy:7.1f}"
            figures.setdefault(kernel.name, {})[str(count)] = round(mean, 1)
        print(f"{kernel.name:32}{size:6,}{cells}", flush=True)
    bounded = [one[str(BOUND_AT)] for one in figures.values() if str(BOUND_AT) in one]
    ok = all(one <= BOUND_NS for one in bounded)
    print(json.dumps({"ns": figures, "bound_ns": BOUND_NS, "at": BOUND_AT, "ok": ok}))


if __name__ == "__main__":
    main()

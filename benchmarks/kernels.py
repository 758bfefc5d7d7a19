"""What a reading costs each kernel, and what a series costs in memory.

One wave of all series again and again, a minute apart, over two and a half hours of event time, on
one core. The kernel itself is measured, not the way of a wave into columns and back; beside it
stands the copy of two columns of as many numbers, in the same run. Run as
`python -m benchmarks.kernels [series]`.
"""

import sys
import time

import numpy as np

from tests.detectors.kernels import KERNELS, SERIES, Kernel, S

WAVES = 150
SEED = 1


def measured(kernel: Kernel, series: int) -> tuple[float, float, int]:
    """Return ns a reading at the median and at the slowest wave, and bytes a series."""
    rng = np.random.default_rng(SEED)
    pick = np.arange(series) % SERIES
    terms = {name: np.ascontiguousarray(column[..., pick]) for name, column in kernel.terms.items()}
    state = kernel.new_state(series)
    usable = np.ones(series, np.bool_)
    taken, judged = [], 0
    for wave in range(1, WAVES + 1):
        time_ns = np.full(series, wave * 60 * S)
        value = kernel.values(rng, series)
        extras = kernel.extras(rng, time_ns, value)
        with np.errstate(all="ignore"):
            start = time.perf_counter()
            found = kernel.step(state, time_ns, value, usable, terms, extras)
            taken.append(time.perf_counter() - start)
        judged += int(found.judged.sum())
    assert judged, f"{kernel.name} has judged nothing"
    ns = np.array(taken) / series * 1e9
    bytes_a_series = sum(column.nbytes for column in state) // series
    return float(np.median(ns)), float(ns.max()), bytes_a_series


def copy_ns(series: int) -> float:
    """Return what copying a time and a value takes, in ns a reading at the median."""
    source, target = np.ones((2, series)), np.empty((2, series))
    taken = []
    for _ in range(WAVES):
        start = time.perf_counter()
        np.copyto(target, source)
        taken.append(time.perf_counter() - start)
    return float(np.median(taken)) / series * 1e9


def main() -> None:
    """Print a line a kernel."""
    series = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    print(f"{series:,} series, ns a reading; a copy of two columns {copy_ns(series):.2f}")
    print(f"{'kernel':32}{'median':>8}{'slowest':>9}{'bytes a series':>16}")
    for kernel in KERNELS:
        median, slowest, size = measured(kernel, series)
        print(f"{kernel.name:32}{median:8.1f}{slowest:9.1f}{size:16,}")


if __name__ == "__main__":
    main()

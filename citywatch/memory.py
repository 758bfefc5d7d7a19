"""What processes weigh, read from /proc; zero where that is not to be had."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def peak_rss_mib(pid: int) -> float:
    """Return the peak resident set of one process, in MiB."""
    return _field(pid, "status", "VmHWM")


def pss_mib(pid: int) -> float:
    """Return what a process and its descendants hold now, shared pages split, in MiB."""
    return sum(_field(member, "smaps_rollup", "Pss") for member in _family(pid))


def _family(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        children = (_PROC / str(pid) / "task" / str(pid) / "children").read_text().split()
        for child in children:
            yield from _family(int(child))


def _field(pid: int, file: str, name: str) -> float:
    with suppress(OSError):
        for line in (_PROC / str(pid) / file).read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return 0.0

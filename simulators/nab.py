"""The Numenta Anomaly Benchmark: its files, and how it scores a detector.

Lavin and Ahmad (2015), *Evaluating real-time anomaly detection algorithms: the Numenta Anomaly
Benchmark*. Every file has labelled windows; one threshold serves all files. Within a window the
earliest detection counts, and it counts more the earlier it is; each detection outside costs, and
less shortly after a window; a missed window costs. The first 15 % of a file, at most 750 rows, are
for learning and do not count. 100 is a detector that finds every window in its first row and
nothing else, 0 one that never says anything.
"""

import csv
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.novelty import Novelty, NoveltyConfig
from detectors.table import LARGEST_VALUE

DATA: Final = "data"
LABELS: Final = Path("labels", "combined_windows.json")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_LEARNING_SHARE: Final = 0.15
_LEARNING_OF: Final = 5_000
# Windows later than this a detection is as wrong as one far from any.
_FORGIVEN_FOR: Final = 3.0
_STEEPNESS: Final = 5.0
_NO_WINDOW: Final = -1


class BenchmarkError(ValueError):
    """A folder that is not laid out like the benchmark; the message names the file."""


class Profile(NamedTuple):
    """What an application pays for."""

    miss: float
    false_alarm: float


# From the benchmark's own configuration; a detection is worth 1 in all of them.
PROFILES: Final = {
    "standard": Profile(miss=1.0, false_alarm=0.11),
    "reward_low_FP_rate": Profile(miss=1.0, false_alarm=0.22),
    "reward_low_FN_rate": Profile(miss=2.0, false_alarm=0.11),
}


@dataclass(frozen=True, slots=True)
class File:
    """One labelled series.

    Parameters
    ----------
    name : str
        ``group/file.csv``.
    text : list of (str, str)
        Timestamp and value as they stand in the file.
    time_ns : (n,) int64
        UTC nanoseconds; may step back where a clock did.
    value : (n,) float64
        NaN where it is no number.
    windows : tuple of (int, int)
        First and last row of each window.
    """

    name: str
    text: list[tuple[str, str]]
    time_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    windows: tuple[tuple[int, int], ...]

    @property
    def learning(self) -> int:
        """Rows at the beginning that do not count."""
        return int(_LEARNING_SHARE * min(len(self.value), _LEARNING_OF))

    def window_of(self) -> NDArray[np.int64]:
        """Return the window of each row, or -1."""
        window = np.full(len(self.value), _NO_WINDOW)
        for number, (first, last) in enumerate(self.windows):
            window[first : last + 1] = number
        return window

    def worth(self) -> NDArray[np.float64]:
        """Return what a detection in each row is worth: up to 1 in a window, down to -1 outside.

        Equation 1 of the paper, in window lengths before or after the end of the last window.
        """
        worth = np.full(len(self.value), -1.0)
        for first, last in self.windows:
            width = last - first + 1
            inside = np.arange(first, last + 1)
            after = np.arange(last + 1, len(worth))
            worth[inside] = _sigmoid((inside - last - 1) / width) / _sigmoid(np.float64(-1.0))
            worth[after] = _sigmoid((after - last) / max(width - 1, 1))
        return worth


class Result(NamedTuple):
    """A score from -infinity to 100, and the detections it comes from."""

    score: float
    threshold: float
    found: int
    windows: int
    false_alarms: int


def read_corpus(folder: Path) -> list[File]:
    """Read a folder laid out like the benchmark: ``data/group/*.csv`` and the labels.

    Raises
    ------
    BenchmarkError
        If something is missing or cannot be read.
    """
    labels = folder / LABELS
    paths = sorted((folder / DATA).glob("*/*.csv"))
    if not paths:
        raise BenchmarkError(f"{folder / DATA}: no files group/*.csv")
    try:
        windows = json.loads(labels.read_text())
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{labels}: {error}") from error
    return [_read(path, windows) for path in paths]


def detect(files: list[File], config: NoveltyConfig | None = None) -> list[NDArray[np.float64]]:
    """Score every file from scratch, reading by reading, as the worker would.

    Rows that are not newer than all before them are left out, as late readings are. Rows without
    a score get 0.

    Returns
    -------
    list of (n,) float64
        From 0 to 1, in the order of `files`.
    """
    longest_first = sorted(range(len(files)), key=lambda index: -len(files[index].value))
    state = Novelty(config or NoveltyConfig())
    state.add(len(files))
    lengths = np.array([len(files[index].value) for index in longest_first])
    steps = int(lengths[0]) if files else 0
    time_ns = np.zeros((steps, len(files)), np.int64)
    value = np.full((steps, len(files)), np.nan)
    usable = np.zeros((steps, len(files)), np.bool_)
    for place, index in enumerate(longest_first):
        file, rows = files[index], slice(None, lengths[place])
        newest = np.maximum.accumulate(file.time_ns)
        time_ns[rows, place] = file.time_ns
        value[rows, place] = file.value
        usable[rows, place] = np.abs(file.value) <= LARGEST_VALUE
        usable[1 : lengths[place], place] &= file.time_ns[1:] > newest[:-1]
    score = np.zeros_like(value)
    everyone = np.arange(len(files))
    for row in range(steps):
        # Longest first: the files that are not over are a prefix.
        going = int(np.count_nonzero(lengths > row))
        score[row, :going] = state.step(
            everyone[:going], time_ns[row, :going], value[row, :going], usable[row, :going]
        )
    by_file = {
        index: np.nan_to_num(score[: lengths[place], place], nan=0.0)
        for place, index in enumerate(longest_first)
    }
    return [by_file[index] for index in range(len(files))]


def rate(
    files: list[File],
    scores: list[NDArray[np.float64]],
    profile: Profile,
    threshold: float | None = None,
) -> Result:
    """Return the normalised score of all files at one threshold.

    Parameters
    ----------
    files, scores
        As `detect` takes and gives them.
    profile : Profile
        What misses and false alarms cost.
    threshold : float, optional
        Score from which a row is a detection; without, the one that rates best.
    """
    score, worth, window = _counted(files, scores)
    order = np.argsort(-score, kind="stable")
    score, worth, window = score[order], worth[order], window[order]
    gain = np.where(window == _NO_WINDOW, profile.false_alarm * worth, 0.0)
    finds = np.zeros(len(score), np.bool_)
    counted = np.unique(window[window != _NO_WINDOW])
    for number in counted:
        # A window is worth its best row so far; each row adds by how much it betters that.
        rows = np.flatnonzero(window == number)
        best = np.maximum.accumulate(worth[rows])
        gain[rows] = np.diff(best, prepend=0.0)
        gain[rows[0]] += profile.miss
        finds[rows[0]] = True
    # Detections at each distinct threshold, those of none first.
    ends = np.append(0, np.flatnonzero(np.append(score[1:] != score[:-1], True)) + 1)
    totals = np.append(0.0, np.cumsum(gain))
    if threshold is None:
        count = int(ends[np.argmax(totals[ends])])
        threshold = float(score[count - 1]) if count else np.inf
    else:
        count = int(np.count_nonzero(score >= threshold))
    windows = sum(len(file.windows) for file in files)
    # A window that lies in the rows for learning can neither be found nor missed.
    perfect = windows + profile.miss * len(counted)
    return Result(
        score=100.0 * float(totals[count]) / perfect if perfect else float(totals[count]),
        threshold=threshold,
        found=int(finds[:count].sum()),
        windows=windows,
        false_alarms=int(np.count_nonzero(window[:count] == _NO_WINDOW)),
    )


def write_results(folder: Path, files: list[File], scores: list[NDArray[np.float64]]) -> None:
    """Write scores as the benchmark keeps them: ``group/<folder>_<file>.csv``."""
    for file, score in zip(files, scores, strict=True):
        group, name = file.name.split("/")
        place = folder / group
        place.mkdir(parents=True, exist_ok=True)
        labelled = file.window_of() != _NO_WINDOW
        with (place / f"{folder.resolve().name}_{name}").open("w", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            writer.writerow(["timestamp", "value", "anomaly_score", "label"])
            for text, one, label in zip(file.text, score.tolist(), labelled.tolist(), strict=True):
                writer.writerow([*text, repr(one), int(label)])


def _counted(
    files: list[File], scores: list[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return score, worth and window of the rows that count, windows numbered throughout."""
    windows = []
    before = 0
    for file in files:
        window = file.window_of()
        window[window != _NO_WINDOW] += before
        before += len(file.windows)
        windows.append(window[file.learning :])
    counted = zip(files, scores, strict=True)
    return (
        np.concatenate([score[file.learning :] for file, score in counted]),
        np.concatenate([file.worth()[file.learning :] for file in files]),
        np.concatenate(windows),
    )


def _sigmoid(lengths: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    near = np.minimum(lengths, _FORGIVEN_FOR)
    worth = 2.0 / (1.0 + np.exp(_STEEPNESS * near)) - 1.0
    return np.where(lengths > _FORGIVEN_FOR, -1.0, worth)


def _read(path: Path, labels: dict[str, list[list[str]]]) -> File:
    name = f"{path.parent.name}/{path.name}"
    if name not in labels:
        raise BenchmarkError(f"{path}: the labels do not name it")
    try:
        with path.open(newline="") as lines:
            rows = csv.reader(lines)
            header = next(rows)
            text = [(row[0], row[1]) for row in rows]
        if header[:2] != ["timestamp", "value"] or not text:
            raise BenchmarkError(f"{path}: expected rows of timestamp,value")
        time_ns = np.array([_nanoseconds(timestamp) for timestamp, _ in text])
        value = np.array([float(number) for _, number in text])
        windows = tuple((_row(time_ns, first), _row(time_ns, last)) for first, last in labels[name])
    except (OSError, ValueError, LookupError) as error:
        raise BenchmarkError(f"{path}: {error}") from error
    return File(name, text, time_ns, value, windows)


def _row(time_ns: NDArray[np.int64], timestamp: str) -> int:
    """Return the first row of that time."""
    rows = np.flatnonzero(time_ns == _nanoseconds(timestamp))
    if not len(rows):
        raise ValueError(f"no row at {timestamp}, where a window begins or ends")
    return int(rows[0])


def _nanoseconds(timestamp: str) -> int:
    moment = datetime.fromisoformat(timestamp).replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND * 1_000

"""A camera that counts next to nobody where at this hour there are always people.

What a camera says of itself (signal loss, image too dark, scene changed) are states, and judged by
their range. One that is covered, turned away or has lost its analytics says nothing of the kind: it
counts zero, but for what flickers on its lens, and goes on like that. Where nothing flickers, every
reading is the same and `flatline` is there first, after a dozen of them; a run of minutes in which
it counts next to nobody is told here.

If the counts of an hour are Poisson with mean m, a zero has the chance exp(-m), and a run of zeros
exp(-sum(m)). People come in groups and a count has much to do with the one before it, so the mean
is divided by a dispersion first (quasi-Poisson; McCullagh & Nelder, *Generalized Linear Models*,
1989, section 6.2). The sum of m over the dispersion is the evidence in nats, and needs no more
arithmetic. An hour that is always empty adds nothing, so at night nothing is said.

Next to nobody is a fiftieth of the usual. For such a count x the evidence is half its deviance,
m - x - x ln(m / x), which is 0.9 m at least, and taken to be that.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.finding import ALL, Answer, Finding, Rows, ages, known, nothing, rows_of, sound
from detectors.table import NEVER
from detectors.terms import Threshold, part_of

# Variance over mean of counts: parties of two or three, and readings a minute apart that see many
# of the same people. A guess on the safe side.
_DISPERSION: Final = 4.0
# ln(1e9): as unlikely as a flatline.
EVIDENCE_NATS: Final = 20.7
# Of the usual: what is more is people.
_NEXT_TO_NOBODY: Final = 0.02
# Evidence of such a count relative to that of a zero, where it is smallest.
_FLICKER: Final = 0.9
_DECADES_OF_NATS: Final = 0.4342944819032518  # log10(e)
# However crowded the place usually is: a lorry in front of the lens drives away.
_LEAST_ZEROS: Final = 5.0
LEAST_NS: Final = 600_000_000_000


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When empty counts are no chance.

    Parameters
    ----------
    evidence_nats : float or (n,) float64
        -ln of the chance of the run.
    least_ns : int or (n,) int64
        Shortest run, in nanoseconds.
    """

    evidence_nats: Threshold = EVIDENCE_NATS
    least_ns: int | NDArray[np.int64] = LEAST_NS

    def of(self, rows: NDArray[np.intp]) -> "Thresholds":
        """Return those of some of the series."""
        least_ns = self.least_ns
        return Thresholds(
            part_of(self.evidence_nats, rows),
            least_ns[rows] if isinstance(least_ns, np.ndarray) and least_ns.ndim else least_ns,
        )


class State(NamedTuple):
    """Columns of some series: the present run of counts of next to nobody."""

    evidence: NDArray[np.float64]
    zeros: NDArray[np.float64]
    begun_ns: NDArray[np.int64]  # `NEVER` where there is none


def new_state(count: int) -> State:
    """Return the state of series that have said nothing yet."""
    return State(evidence=np.zeros(count), zeros=np.zeros(count), begun_ns=np.full(count, NEVER))


def step(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    usual: NDArray[np.float64],
    thresholds: Thresholds = Thresholds(),
) -> Finding:
    """Judge one count of each series.

    Parameters
    ----------
    state, time_ns, value, usable
        As of every kernel.
    usual : (n,) float64
        Mean count at this hour; NaN where the profile does not know yet: such a reading is neither
        judged nor evidence, but a count above zero ends a run then.
    thresholds : Thresholds

    Returns
    -------
    Finding
        `expected` is the usual count, `lower` what is as good as nobody.
    """
    return judge(state, time_ns, value, usable, usual, thresholds).told(ALL)


def judge(
    state: State,
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    usual: NDArray[np.float64],
    thresholds: Thresholds,
) -> Answer:
    """Judge one count of each series, as `step`."""
    heard = sound(value, usable)
    is_known = sound(usual, usable)
    judged = heard & is_known
    empty = heard & ((value <= 0.0) | (is_known & (value <= usual * _NEXT_TO_NOBODY)))
    speaks = np.zeros(len(value), np.bool_)
    # Of the others nothing is counted, and nothing to be forgotten.
    rows = rows_of(empty | (state.zeros != 0.0) | (state.begun_ns != NEVER))
    if len(rows):
        part = State._make(column[rows] for column in state)
        one = _Counts(heard[rows], is_known[rows], empty[rows], value[rows] <= 0.0)
        speaks[rows] = _count(part, time_ns[rows], one, usual[rows], thresholds.of(rows))
        for column, some in zip(state, part, strict=True):
            column[rows] = some
    score = state.evidence * _DECADES_OF_NATS

    def told(rows: Rows) -> Finding:
        known_rows, spoke = judged[rows], speaks[rows]
        return Finding(
            judged=known_rows,
            speaks=spoke,
            level=spoke.astype(np.uint8),
            measure=known(value[rows], known_rows),
            expected=known(usual[rows], known_rows),
            lower=known(usual[rows] * _NEXT_TO_NOBODY, known_rows),
            upper=nothing(len(spoke)),
            score=known(score[rows], known_rows),
        )

    return Answer(judged, speaks, told, score=score)


class _Counts(NamedTuple):
    """What is known of counts."""

    heard: NDArray[np.bool_]
    is_known: NDArray[np.bool_]
    empty: NDArray[np.bool_]
    zero: NDArray[np.bool_]


def _count(
    state: State,
    time_ns: NDArray[np.int64],
    one: _Counts,
    usual: NDArray[np.float64],
    thresholds: Thresholds,
) -> NDArray[np.bool_]:
    """Move the runs of some series on; return which speak."""
    some = one.heard & ~one.empty
    counts = one.empty & one.is_known
    np.copyto(state.evidence, 0.0, where=some)
    np.copyto(state.zeros, 0.0, where=some)
    np.copyto(state.begun_ns, NEVER, where=some)
    np.copyto(state.begun_ns, time_ns, where=counts & (state.begun_ns == NEVER))
    lesson = np.maximum(usual, 0.0) * np.where(one.zero, 1.0, _FLICKER) / _DISPERSION
    np.copyto(state.evidence, state.evidence + lesson, where=counts)
    np.copyto(state.zeros, state.zeros + 1.0, where=counts)
    speaks = counts & (state.evidence >= thresholds.evidence_nats) & (state.zeros >= _LEAST_ZEROS)
    speaks &= ages(state.begun_ns, time_ns) >= np.asarray(thresholds.least_ns).astype(np.uint64)
    return speaks

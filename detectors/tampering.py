"""A camera that counts nobody where at this hour there are always people.

What a camera says of itself (signal loss, image too dark, scene changed) are states, and judged by
their range. One that is covered, turned away or has lost its analytics says nothing of the kind: it
counts zero, and goes on counting zero.

If the counts of an hour are Poisson with mean m, a zero has the chance exp(-m), and a run of zeros
exp(-sum(m)). People come in groups and a count has much to do with the one before it, so the mean
is divided by a dispersion first (quasi-Poisson; McCullagh & Nelder, *Generalized Linear Models*,
1989, section 6.2). The sum of m over the dispersion is the evidence in nats, and needs no more
arithmetic. An hour that is always empty adds nothing, so at night nothing is said.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.finding import Finding, ages, known, nothing, sound
from detectors.table import NEVER

# Variance over mean of counts: parties of two or three, and readings a minute apart that see many
# of the same people. A guess on the safe side.
_DISPERSION: Final = 4.0
# ln(1e9): as unlikely as a flatline.
_EVIDENCE_NATS: Final = 20.7
_DECADES_OF_NATS: Final = 0.4342944819032518  # log10(e)
# However crowded the place usually is: a lorry in front of the lens drives away.
_LEAST_ZEROS: Final = 5.0
_LEAST_NS: Final = np.uint64(600_000_000_000)


class State(NamedTuple):
    """Columns of some series: the present run of zeros."""

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
) -> Finding:
    """Judge one count of each series.

    Parameters
    ----------
    state, time_ns, value, usable
        As of every kernel.
    usual : (n,) float64
        Mean count at this hour; NaN where the profile does not know yet: such a reading is neither
        judged nor evidence, but a count above zero still ends a run.

    Returns
    -------
    Finding
        `expected` is the usual count.
    """
    heard = sound(value, usable)
    empty = heard & (value <= 0.0)
    some = heard & ~empty
    counts = empty & sound(usual, usable)
    np.copyto(state.evidence, 0.0, where=some)
    np.copyto(state.zeros, 0.0, where=some)
    np.copyto(state.begun_ns, NEVER, where=some)
    np.copyto(state.begun_ns, time_ns, where=counts & (state.begun_ns == NEVER))
    lesson = np.maximum(usual, 0.0) / _DISPERSION
    np.copyto(state.evidence, state.evidence + lesson, where=counts)
    np.copyto(state.zeros, state.zeros + 1.0, where=counts)
    judged = heard & sound(usual, usable)
    speaks = counts & (state.evidence >= _EVIDENCE_NATS) & (state.zeros >= _LEAST_ZEROS)
    speaks &= ages(state.begun_ns, time_ns) >= _LEAST_NS
    return Finding(
        judged=judged,
        speaks=speaks,
        level=speaks.astype(np.uint8),
        measure=known(value, judged),
        expected=known(usual, judged),
        lower=nothing(len(value)),
        upper=nothing(len(value)),
        score=known(state.evidence * _DECADES_OF_NATS, judged),
    )

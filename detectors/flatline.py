"""A sensor that has stopped moving, judged by its own history.

The probability p that a value repeats has a Beta distribution, learned from the runs that have
ended: the present one teaches nothing, or a frozen sensor would prove itself normal. A run of r
repeats has probability p^r; its mean over what p may be is a product (the Beta-geometric law)::

    E[p^r] = prod((a + i) / (a + b + i) for i in range(r))

with a and b the repeats and changes seen, prior included. The mean, and not the power of an
estimate, because where p is near 1 a small error in it decides. A coarse sensor, or a count that
is often 0, has a high p and is given long runs. A series that has never changed cannot be judged.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from detectors.config import SuiteConfig
from detectors.table import Columns
from detectors.terms import Threshold

# Far below every threshold and far above subnormal numbers, which are slow.
LEAST_CHANCE: Final = 1e-200


def flatline(
    columns: Columns,
    value: NDArray[np.float64],
    usable: NDArray[np.bool_],
    config: SuiteConfig,
    flatline_chance: Threshold,
) -> NDArray[np.bool_]:
    """Return which readings prolong a run that is too unlikely, and learn from runs that end.

    A reading that is not usable neither prolongs nor ends a run.
    """
    equal = value == columns.previous
    same = usable & equal
    other = usable & ~equal
    prior = config.repeat_prior
    repeats = columns.run + prior + columns.repeats
    chance = repeats / (repeats + columns.changes + config.change_prior)
    chance = np.where(columns.changes > 0, np.maximum(chance, config.repeat_floor), 1.0)
    run_chance = np.maximum(columns.run_chance * chance, LEAST_CHANCE)
    np.copyto(columns.run_chance, run_chance, where=same)

    lesson = np.minimum(columns.run, config.repeat_lesson)
    memory = config.repeat_memory
    repeated, changed = columns.repeats + lesson, columns.changes + 1.0
    kept = memory / np.maximum(repeated + changed, memory)
    np.copyto(columns.repeats, repeated * kept, where=other)
    np.copyto(columns.changes, changed * kept, where=other)
    np.copyto(columns.run_chance, 1.0, where=other)
    np.copyto(columns.run, np.where(same, columns.run + 1.0, 0.0), where=usable)
    unlikely: NDArray[np.bool_] = same & (run_chance <= flatline_chance)
    return unlikely

"""The tail probability behind a score."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

# The residuals of city sensors have heavier tails than a Gaussian, and their spread is itself an
# estimate. Six degrees of freedom have an excess kurtosis of 3, that of a Laplace distribution.
DEGREES_OF_FREEDOM: Final = 6
# Keeps the probability above the smallest float64: the score ends at about 297.
_LARGEST: Final = 1e50
_MOST_SCORE: Final = 297.0
# Of Newton's: one more than changes anything.
_STEPS: Final = 5


def tail_score(spreads: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -log10 of the two-sided tail probability of Student's t.

    For even degrees of freedom the probability is a finite sum (Abramowitz & Stegun 26.7.4). With
    c = t / sqrt(6 + t^2) and s = 1 - c^2 the factor (1 - c)^3 is taken out of 1 - A(t|6), so that
    nothing cancels in the far tail::

        P(|T| > t) = s^3 (8 + 9 c + 3 c^2) / (8 (1 + c)^3)

    Parameters
    ----------
    spreads : (n,) float64
        Distance from the level in spreads, not negative; NaN stays NaN.

    Returns
    -------
    (n,) float64
        From 0 to about 297, always finite for a number.
    """
    t = np.minimum(spreads, _LARGEST)
    square = t * t
    square += DEGREES_OF_FREEDOM
    c = np.sqrt(square)
    np.divide(t, c, out=c)
    ratio = np.divide(DEGREES_OF_FREEDOM, square, out=square)
    ratio /= 1.0 + c
    chance = ratio * ratio
    chance *= ratio
    ratio = np.multiply(c, 0.375, out=ratio)
    ratio += 1.125
    ratio *= c
    ratio += 1.0
    chance *= ratio
    # Rounding may leave the chance of 0 spreads a little above 1; 0.0 minus, or a score of zero
    # would carry a sign.
    np.minimum(chance, 1.0, out=chance)
    np.log10(chance, out=chance)
    scores: NDArray[np.float64] = np.subtract(0.0, chance, out=chance)
    return scores


def spreads_of(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances whose scores these are, the inverse of `tail_score`.

    With x = 1 - c the probability is ``x^3 (20 - 15 x + 3 x^2) / 8``, convex and rising: Newton's
    steps come down on it from the right, after the first.

    Parameters
    ----------
    score : (n,) float64
        From 0 on; beyond 297, which is the highest there is, as 297.

    Returns
    -------
    (n,) float64
        In spreads.
    """
    chance = 10.0 ** -np.minimum(score, _MOST_SCORE)
    x = np.minimum(np.cbrt(chance * 0.4), 1.0)
    for _ in range(_STEPS):
        excess = x * x * x * (20.0 - 15.0 * x + 3.0 * x * x) - 8.0 * chance
        slope = 15.0 * x * x * (2.0 - x) * (2.0 - x)
        x = np.minimum(x - excess / slope, 1.0)
    spreads: NDArray[np.float64] = np.sqrt(DEGREES_OF_FREEDOM / (x * (2.0 - x))) * (1.0 - x)
    return spreads

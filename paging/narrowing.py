"""How much a turn takes on after one has failed: less and less, down to the one event that fails.

A fault of this program, or a row that no version of it should have written, must not keep everybody
from being paged. What fails with one event alone three times, and not without it, is that event's
fault, and it is set aside; what fails without any is waited for. Events are set aside more and more
slowly, so that a fault of all of them loses few before somebody looks.
"""

from typing import Final

_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 10.0
_LONGEST_AFTER_SETTING_ASIDE_S: Final = 60.0
_LARGEST_EXPONENT: Final = 20
# Once may be chance: memory that was short for a moment.
_STRIKES: Final = 3


class Narrowing:
    """How many events the next turn takes.

    Parameters
    ----------
    at_most : int
        When nothing fails.

    Attributes
    ----------
    most : int
        Of the next turn; with none it shows whether turns fail without events as well.
    suspect : str or None
        What one event has failed with.
    """

    def __init__(self, at_most: int) -> None:
        self.most = at_most
        self.suspect: str | None = None
        self._at_most = at_most
        self._failures = 0
        self._strikes = 0
        self._set_aside = 0

    @property
    def is_guilty(self) -> bool:
        """Whether one event has failed so often that it is to be set aside."""
        return self.suspect is not None and self._strikes >= _STRIKES

    @property
    def is_probing(self) -> bool:
        """Whether the next turn is there to see whether it fails without any event."""
        return self.most == 0

    def failed(self, tried: int, error: str) -> float:
        """Take on less after a turn of so many events, and return how long to wait first, in s."""
        if tried > 1:
            self.most = tried // 2
            return 0.0
        if tried == 1:
            self.suspect, self.most = error, 0
            self._strikes += 1
            return 0.0
        # Without events: it is what is remembered, or the database, and nothing can be set aside.
        self.suspect = None
        self._failures += 1
        return _pause_s(self._failures, _LONGEST_PAUSE_S)

    def succeeded(self, tried: int) -> None:
        """Take on more again after a turn that was done."""
        self._failures = 0
        if tried:
            self._set_aside = self._strikes = 0
        self.suspect = None
        self.most = min(max(2 * self.most, 1), self._at_most)

    def retry(self) -> float:
        """Try the event once more, and return how long to wait first, in s."""
        self.suspect, self.most = None, 1
        return _pause_s(self._strikes, _LONGEST_PAUSE_S)

    def set_aside(self) -> float:
        """Go on with the next event, and return how long to wait first, in s."""
        self.suspect, self.most = None, 1
        self._strikes = 0
        self._set_aside += 1
        return _pause_s(self._set_aside, _LONGEST_AFTER_SETTING_ASIDE_S)


def _pause_s(times: int, longest_s: float) -> float:
    return min(longest_s, _PAUSE_S * 2.0 ** min(times - 1, _LARGEST_EXPONENT))

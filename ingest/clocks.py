"""Which sensors have a clock that is off, judged by when their readings arrive.

A message cannot arrive before it was measured: one that does proves a clock ahead at once. One
that arrives late may have been held up, so a clock counts as behind only when several messages in
a row are late, and only while other sensors' messages are not late as well: then it is the
network, or a bridge that catches up, and nothing is learned of any clock.
"""

from collections import deque
from collections.abc import Set as AbstractSet
from statistics import median
from typing import Final

# Messages in a row that are late, or right again, before a clock is called so.
WINDOW: Final = 5
_NS: Final = 10**9
# Recent messages of any sensor that say how long messages take at all, looked at every so often.
_RECENT: Final = 256
_RECENT_STEP: Final = 64
_LATEST: Final = 32
# Fewer sensors than this cannot speak for the network.
_MIN_FLEET: Final = 5
# Sensors remembered; beyond it the memory starts anew.
_MAX_SENSORS: Final = 200_000


class ClockWatch:
    """Measures sensors' clocks against arrival.

    Parameters
    ----------
    max_ahead_ns, max_behind_ns : int
        A clock within these is right.

    Attributes
    ----------
    offset_s : dict of str to float
        By sensor, how far a clock is ahead (behind: negative), for those that are off. Whole
        seconds: a changing fraction is no news.
    """

    def __init__(self, max_ahead_ns: int, max_behind_ns: int) -> None:
        self._max_ahead_ns = max_ahead_ns
        self._max_behind_ns = max_behind_ns
        self.offset_s: dict[str, float] = {}
        # Of sensors whose last messages were late, or whose clock is off: how many messages, and
        # the least delay of them. All others have no state.
        self._seen: dict[str, tuple[int, int]] = {}
        self._recent: deque[tuple[str, int]] = deque(maxlen=_RECENT)
        self._since = 0
        self._all_off = False

    def arrived(self, sensor: str, delay_ns: int) -> None:
        """Take note of how long a message took, whosever clock it is."""
        self._recent.append((sensor, delay_ns))
        self._since += 1
        if self._since >= _RECENT_STEP:
            self._look_at_all()

    def forget_delays(self) -> None:
        """Forget how long messages took: the clock they were measured by was set anew."""
        self._recent.clear()
        self._since = 0
        self._all_off = False

    def typical_delay_ns(self) -> int | None:
        """Return how long the newest messages took, by most clocks; None before there is any."""
        latest = list(self._recent)[-_LATEST:]
        return round(median(delay_ns for _, delay_ns in latest)) if latest else None

    def is_plain(self, sensors: AbstractSet[str], least_ns: int, most_ns: int) -> bool:
        """Say whether `observe` has nothing to learn from these sensors' delays."""
        return (
            -self._max_ahead_ns <= least_ns
            and most_ns <= self._max_behind_ns
            and self._seen.keys().isdisjoint(sensors)
            and self.offset_s.keys().isdisjoint(sensors)
        )

    def observe(self, sensor: str, delay_ns: int) -> None:
        """Learn from a sensor's message that arrived `delay_ns` after it was measured."""
        if self._all_off:
            self._seen.pop(sensor, None)
            return
        is_ahead = delay_ns < -self._max_ahead_ns
        is_late = delay_ns > self._max_behind_ns
        if not (is_ahead or is_late or sensor in self.offset_s):
            self._seen.pop(sensor, None)
            return
        count, least = self._seen.get(sensor, (0, delay_ns))
        count, least = count + 1, min(least, delay_ns)
        if count < WINDOW and not is_ahead:
            if len(self._seen) >= _MAX_SENSORS:
                self._seen.clear()
            self._seen[sensor] = count, least
            return
        self._seen.pop(sensor, None)
        if -self._max_ahead_ns <= least <= self._max_behind_ns:
            self.offset_s.pop(sensor, None)
        elif sensor in self.offset_s or len(self.offset_s) < _MAX_SENSORS:
            self.offset_s[sensor] = float(-least // _NS)

    def _look_at_all(self) -> None:
        self._since = 0
        newest = dict(self._recent)
        typical = median(newest.values())
        self._all_off = len(newest) >= _MIN_FLEET and not (
            -self._max_ahead_ns <= typical <= self._max_behind_ns
        )

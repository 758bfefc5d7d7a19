"""The twins of minutes and episodes: one reading, one minute at a time, in plain Python."""

from typing import Any

MINUTE_NS = 60 * 10**9
NEVER = -(2**63)


class Minutes:
    """Minutes of many series, one reading after the other."""

    def __init__(self, most_waiting: int) -> None:
        self.most_waiting = most_waiting
        # By series: its last minute, and the readings of that one while it is open.
        self.open: dict[int, tuple[int, list[float]]] = {}
        self.waiting: dict[int, list[tuple[int, list[float]]]] = {}

    def take(self, series: int, time_ns: int, value: float) -> None:
        minute = time_ns // MINUTE_NS
        last, readings = self.open.get(series, (None, []))
        if last is not None and (minute < last or (minute == last and not readings)):
            return
        if minute != last:
            waiting = self.waiting.setdefault(series, [])
            if readings and len(waiting) < self.most_waiting:
                waiting.append((last, readings))
            readings = []
        self.open[series] = minute, [*readings, value]

    def close(self, until_ns: int) -> list[tuple[int, int, float, int, float]]:
        over = []
        for series, (minute, readings) in self.open.items():
            waiting = self.waiting.setdefault(series, [])
            if readings and (minute + 1) * MINUTE_NS <= until_ns:
                if len(waiting) < self.most_waiting:
                    waiting.append((minute, readings))
                self.open[series] = minute, []
            done = [one for one in waiting if (one[0] + 1) * MINUTE_NS <= until_ns]
            self.waiting[series] = [one for one in waiting if one not in done]
            over += [(start, series, values) for start, values in done]
        return [
            (series, start * MINUTE_NS, _sum(values) / len(values), len(values), values[-1])
            for start, series, values in sorted(over)
        ]


def _sum(values: list[float]) -> float:
    # Not `sum`, which makes up for rounding from Python 3.12 on.
    total = 0.0
    for value in values:
        total += value
    return total


class Episode:
    """Alerts of one kind and one series."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule
        self.spoke: list[bool] = []
        self.judged_ns = self.opened_ns = self.rests_ns = NEVER

    def step(self, time_ns: int, judged: bool, speaks: bool) -> tuple[bool, int] | None:
        rule = self.rule
        is_open = self.opened_ns != NEVER
        if not is_open and time_ns - self.judged_ns > 7200 * 10**9:
            self.spoke = []
        if not judged:
            return None
        self.judged_ns = time_ns
        self.spoke = [*self.spoke, speaks][-63:]
        if not is_open:
            enough = sum(self.spoke[-rule.open_within :]) >= rule.open_after
            if speaks and enough and time_ns >= self.rests_ns:
                self.opened_ns = time_ns
                return True, time_ns
            return None
        if any(self.spoke[-rule.close_after :]):
            return None
        opened_ns, self.opened_ns = self.opened_ns, NEVER
        self.spoke, self.rests_ns = [], time_ns + rule.refractory_ns
        return False, opened_ns

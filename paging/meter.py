"""The pager's metrics, by Prometheus' conventions."""

import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.process_collector import ProcessCollector

# Some polls of the outbox, and longer than another pager's turn may take.
_READY_S: Final = 30.0


class Meter:
    """Metrics and readiness of one pager.

    Attributes
    ----------
    registry : CollectorRegistry
        What an endpoint serves.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        files = Counter(
            "citywatch_pager_routes_files_total",
            "Changed routes files by what became of them.",
            ("outcome",),
            registry=self.registry,
        )
        self._taken = files.labels("taken")
        self._refused = files.labels("refused")
        self._outdated = Gauge(
            "citywatch_pager_routes_outdated",
            "1 while the routes file cannot be used, and an earlier one is in force.",
            registry=self.registry,
        )
        self._failed = Counter(
            "citywatch_pager_failed_turns_total",
            "Turns that failed by something else than the database being away.",
            registry=self.registry,
        )
        self._set_aside = Counter(
            "citywatch_pager_set_aside_total",
            "Events that no turn could decide, and nobody is told of: `citywatch pager explain`.",
            registry=self.registry,
        )
        self._looked_s = time.monotonic()
        ProcessCollector(registry=self.registry)

    def routes_taken(self) -> None:
        """Count a changed file that is in force now."""
        self._taken.inc()
        self._outdated.set(0)

    def routes_refused(self) -> None:
        """Count a changed file that cannot be used."""
        self._refused.inc()
        self._outdated.set(1)

    def turn_failed(self) -> None:
        """Count a turn that has decided nothing, and will be taken again."""
        self._failed.inc()

    def set_aside(self) -> None:
        """Count an event that is decided by nobody."""
        self._set_aside.inc()

    def looked(self) -> None:
        """Note that the database said whether there is anything to decide."""
        self._looked_s = time.monotonic()

    def unready(self) -> str | None:
        """Say why nobody would be paged; from any thread."""
        silent_s = time.monotonic() - self._looked_s
        return f"no look at the outbox for {silent_s:.0f} s" if silent_s > _READY_S else None

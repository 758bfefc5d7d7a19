"""The watchdog and the endpoint around the parts that have them."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from prometheus_client import CollectorRegistry

from citywatch.endpoint import Complaint, Endpoint
from citywatch.settings import PagerSettings, WorkerSettings
from citywatch.watchdog import Watchdog
from paging.meter import Meter as PagerMeter
from streams.meter import Meter
from streams.progress import stall, unreadiness

_LOG = logging.getLogger(__name__)
# A worker that is further behind is catching up: what it writes is not news.
_READY_LAG_S: Final = 30.0


@contextmanager
def watched_worker(settings: WorkerSettings, meter: Meter) -> Iterator[None]:
    """Watch a worker whose event loop is the running one."""
    watchdog = Watchdog(
        lambda now_s, patience_s, awake_s: stall(
            meter.progress.snapshot(), now_s, patience_s, awake_s
        ),
        settings.stall_after_s,
        asyncio.get_running_loop(),
    )

    def unready() -> str | None:
        return watchdog.complaint() or unreadiness(
            meter.progress.snapshot(), meter.most_lag_s(), _READY_LAG_S
        )

    place = (settings.metrics_host, settings.metrics_port)
    with ExitStack() as exits:
        _serve(exits, place, meter.registry, watchdog.complaint, unready)
        watchdog.start()
        exits.callback(watchdog.stop)
        yield


@contextmanager
def served_pager(settings: PagerSettings, meter: PagerMeter) -> Iterator[None]:
    """Serve a pager's endpoint; one that does not look at the outbox is not ready."""
    place = (settings.metrics_host, settings.metrics_port)
    with ExitStack() as exits:
        _serve(exits, place, meter.registry, lambda: None, meter.unready)
        yield


def _serve(
    exits: ExitStack,
    place: tuple[str, int],
    registry: CollectorRegistry,
    alive: Complaint,
    ready: Complaint,
) -> None:
    """Serve the endpoint, unless its port is 0; work matters more than whether it can listen."""
    host, port = place
    if not port:
        return
    try:
        endpoint = Endpoint(host, port, registry, alive, ready)
    except OSError as error:
        _LOG.error("no metrics: cannot listen at %s:%d: %s", host, port, error)
        return
    endpoint.start()
    exits.callback(endpoint.stop)
    _LOG.info("metrics at http://%s:%d/metrics", host, endpoint.port)

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from paging.pager import Pager, PagerConfig
from paging.webhook import Notifier
from tests.paging.scaffold import Table


@pytest.fixture
def table(dsn: str, schema: str) -> Iterator[Table]:
    table = Table(dsn, schema)
    yield table
    table.close()


@pytest.fixture
def pager_of(table: Table) -> Callable[..., Pager]:
    """Make a pager of the test's outbox, quick in everything."""

    def make(
        url: str | None = None,
        *,
        dsn: str | None = None,
        notifier: Notifier | None = None,
        **changes: Any,
    ) -> Pager:
        quick: dict[str, Any] = {
            "webhook_url": url,
            "webhook_timeout_s": 2.0,
            "poll_interval_s": 0.05,
            "backoff_base_s": 0.01,
            "backoff_cap_s": 0.05,
            "concurrency": 4,
        }
        config = PagerConfig(**quick | changes)
        return Pager(dsn or table.dsn, table.schema, "live", config, notifier=notifier)

    return make

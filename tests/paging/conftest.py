from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from paging import book
from paging.connection import Connection
from paging.decider import Decider
from paging.hooks import Notifier
from paging.meter import Meter
from paging.pager import Pager, PagerConfig
from paging.renewal import RoutesFile
from paging.routes import Routes, webhook_routes
from paging.sender import SenderConfig
from tests.paging.scaffold import Table

QUICK = {"poll_interval_s": 0.05, "backoff_base_s": 0.01, "backoff_cap_s": 0.05}


@pytest.fixture
def table(dsn: str, schema: str) -> Iterator[Table]:
    table = Table(dsn, schema)
    yield table
    table.close()


def routes_to(url: str, **terms: Any) -> Routes:
    """Return routes to one webhook, by which every alert is a page of its own, told at once."""
    routes = webhook_routes(url, timeout_s=2.0)
    hook = routes.hooks["webhook"]
    terms = {"concurrency": 4, "per_minute": 100_000.0, **terms}
    route = replace(routes.routes[0], group_by=("sensor", "quantity"), group_wait=timedelta())
    return replace(
        routes,
        routes=(route,),
        hooks={"webhook": replace(hook, terms=msgspec.structs.replace(hook.terms, **terms))},
    )


@dataclass
class Clock:
    """The decider's clock, advanced by hand; all else is by the database's.

    Parameters
    ----------
    now : datetime
    turns : int
        How many the decider has taken.
    under_way : int
        How many it is taking.
    """

    now: datetime
    turns: int = 0
    under_way: int = 0

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let turns be taken at the time that the test says, however busy the machine is."""
    clock = Clock(datetime.now(UTC))
    begin, turn = book.begin, Decider.turn

    async def counted(decider: Decider, connection: Connection) -> bool:
        clock.under_way += 1
        try:
            return await turn(decider, connection)
        finally:
            clock.under_way -= 1
            clock.turns += 1

    async def begin_now(connection: Connection) -> book.Begun | None:
        begun = await begin(connection)
        if begun is None:
            return None
        return book.Begun(begun.revision, begun.shift, begun.wakes_at, begun.decider, clock.now)

    monkeypatch.setattr(book, "begin", begin_now)
    monkeypatch.setattr(Decider, "turn", counted)
    return clock


@pytest.fixture
def pager_of(table: Table) -> Callable[..., Pager]:
    """Make a pager of the test's outbox, quick in everything."""

    def make(
        url: str = "http://127.0.0.1:1/",
        *,
        dsn: str | None = None,
        notifier: Notifier | None = None,
        routes: Routes | None = None,
        terms: Mapping[str, Any] | None = None,
        routes_file: RoutesFile | None = None,
        meter: Meter | None = None,
        **changes: Any,
    ) -> Pager:
        config = PagerConfig(
            routes=routes or routes_to(url, **(terms or {})), sender=SenderConfig(**QUICK | changes)
        )
        notifiers = {} if notifier is None else {"webhook": notifier}
        return Pager(
            dsn or table.dsn,
            table.schema,
            "live",
            config,
            notifiers=notifiers,
            routes_file=routes_file,
            meter=meter,
        )

    return make

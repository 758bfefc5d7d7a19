"""How much a sender takes at once, how long it holds it, and when it gives up."""

import asyncio
from collections.abc import Callable
from random import Random

import pytest

from paging.connection import connected
from paging.hooks import Retry
from paging.notices import Notice
from paging.pager import Pager
from paging.sender import Sender, SenderConfig
from tests.paging.conftest import QUICK, routes_to
from tests.paging.scaffold import Table, eventually, page_of, running
from tests.paging.test_deliveries import put

pytestmark = pytest.mark.integration
PagerOf = Callable[..., Pager]


class Hanging:
    """A hook that takes what it is sent, and does not say so until it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.sent = 0

    async def send(self, _notice: Notice, _key: str) -> None:
        self.sent += 1
        await self.may.wait()


def taken(table: Table, looks: int, **terms: float) -> int:
    """Return how many deliveries are claimed when a sender looks so often and none is taken."""

    async def work() -> int:
        hook, bell = Hanging(), asyncio.Event()
        sender = Sender(
            routes_to("http://127.0.0.1:1/", **terms),
            {"webhook": hook},
            SenderConfig(**QUICK),
            Random(1),
        )
        async with (
            asyncio.timeout(30),
            connected(table.dsn, table.schema) as connection,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(looks):
                await sender._take(connection, group, bell)
                # What is refilled by time alone is there again.
                await asyncio.sleep(0.02)
            found = table.count("claimed_until IS NOT NULL")
            assert hook.sent == found
            hook.may.set()
        return found

    return asyncio.run(work())


def test_what_is_under_way_takes_up_places(table: Table) -> None:
    for number in range(20):
        put(table, f"g{number}")
    assert taken(table, 3, concurrency=3, per_minute=100_000.0) == 3


def test_a_hook_is_sent_no_more_than_it_may_take_in_a_minute(table: Table) -> None:
    for number in range(20):
        put(table, f"g{number}")
    assert taken(table, 3, concurrency=10, per_minute=1.0) == 1


def test_a_lease_is_longer_than_an_attempt_may_take(table: Table, pager_of: PagerOf) -> None:
    page = page_of()

    async def work() -> None:
        hook = Hanging()
        table.put(page)
        async with (
            asyncio.timeout(30),
            running(pager_of(notifier=hook, terms={"timeout_s": 40.0}, lease_s=1.0)),
        ):
            await eventually(lambda: hook.sent == 1)
            held = table.row(page)
            assert (held["claimed_until"] - held["created_at"]).total_seconds() > 60
            hook.may.set()

    asyncio.run(work())


class Later:
    """A hook that asks for patience."""

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s

    async def send(self, _notice: Notice, _key: str) -> None:
        raise Retry(self.after_s, "later")


def test_what_was_asked_to_wait_does_not_come_back_in_one_moment(
    table: Table, pager_of: PagerOf
) -> None:
    for number in range(20):
        put(table, f"g{number}")

    async def work() -> None:
        quick = {"backoff_base_s": 1000.0, "backoff_cap_s": 1000.0}
        async with asyncio.timeout(30), running(pager_of(notifier=Later(300.0), **quick)):
            await eventually(lambda: table.count("last_error IS NOT NULL") == 20)

    asyncio.run(work())
    rows = table.execute("SELECT next_attempt_at - created_at AS wait FROM delivery")
    waits = [row["wait"].total_seconds() for row in rows]
    assert min(waits) >= 300
    # In 1000 s, more or less; busy machines spread them by seconds.
    assert max(waits) - min(waits) > 200


def test_what_could_only_be_tried_too_late_is_given_up_at_once(
    table: Table, pager_of: PagerOf
) -> None:
    page = page_of()

    async def work() -> None:
        table.put(page)
        async with (
            asyncio.timeout(30),
            running(pager_of(notifier=Later(5000.0), terms={"give_up_after_s": 1000.0})),
        ):
            await eventually(lambda: table.row(page)["last_error"] is not None)

    asyncio.run(work())
    row = table.row(page)
    assert row["abandoned_at"] is not None
    assert row["last_error"].startswith("gave up after ")

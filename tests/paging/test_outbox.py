import asyncio
from collections.abc import Awaitable, Callable

import pytest

from paging.gates import Fate
from paging.outbox import (
    Abandoned,
    Connection,
    Delivered,
    Failed,
    Held,
    Suppressed,
    claim,
    connected,
    record,
)
from storage.pages import PageError
from tests.paging.scaffold import Table, eventually, page_of, resolution_of

pytestmark = pytest.mark.integration


def on(table: Table, work: Callable[[Connection], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), connected(table.dsn, table.schema) as connection:
            await work(connection)

    asyncio.run(main())


def test_a_claim_is_bounded_and_oldest_first(table: Table) -> None:
    pages = [page_of() for _ in range(5)]
    for page in pages:
        table.put(page)

    async def work(connection: Connection) -> None:
        first = await claim(connection, limit=3, lease_s=30)
        assert [one.page() for one in first] == pages[:3]
        assert first[0].key == f"{pages[0].alert_id}:firing"
        second = await claim(connection, limit=3, lease_s=30)
        assert [one.page() for one in second] == pages[3:]
        assert await claim(connection, limit=3, lease_s=30) == []

    on(table, work)


def test_pagers_that_claim_at_once_never_hold_the_same_row(table: Table) -> None:
    table.put(*(page_of() for _ in range(60)))

    async def work(one: Connection) -> None:
        # An uncommitted claim locks its rows: the other must go around it, not wait for it.
        async with connected(table.dsn, table.schema) as other, one.transaction():
            held = await claim(one, limit=20, lease_s=30)
            beside = await claim(other, limit=60, lease_s=30)
        assert len(held) == 20
        assert len(beside) == 40
        assert not {row.outbox_id for row in held} & {row.outbox_id for row in beside}

    on(table, work)


def test_a_lease_runs_out_and_the_key_stays(table: Table) -> None:
    table.put(page_of())

    async def work(connection: Connection) -> None:
        (first,) = await claim(connection, limit=1, lease_s=0.3)
        assert await claim(connection, limit=1, lease_s=30) == []
        await eventually(lambda: table.count("claimed_until <= now()") == 1)
        (second,) = await claim(connection, limit=1, lease_s=30)
        assert (second.key, second.attempts) == (first.key, 2)
        # The first holder wakes up again: what it says about its failure no longer counts.
        await record(connection, [Failed(first, "too late", 0.0)])
        await record(connection, [Abandoned(first, "too late")])
        assert table.count("claimed_until > now() AND last_error IS NULL") == 1
        # That it delivered does.
        await record(connection, [Delivered(first)])
        await record(connection, [Failed(second, "never mind", 0.0)])
        assert table.count("delivered_at IS NOT NULL AND last_error IS NULL") == 1

    on(table, work)


def test_a_resolution_is_not_claimed_before_its_firing_is_settled(table: Table) -> None:
    told, untold = page_of(), page_of()
    # Written the wrong way round, so that only the rule can bring them into order.
    table.put(resolution_of(told), resolution_of(untold), told, untold)

    async def work(connection: Connection) -> None:
        firings = await claim(connection, limit=10, lease_s=30)
        assert [one.event for one in firings] == ["firing", "firing"]
        assert await claim(connection, limit=10, lease_s=30) == []
        await record(connection, [Delivered(firings[0]), Abandoned(firings[1], "no")])
        resolutions = await claim(connection, limit=10, lease_s=30)
        assert {one.key: one.firing for one in resolutions} == {
            f"{told.alert_id}:resolved": Fate.DELIVERED,
            f"{untold.alert_id}:resolved": Fate.ABANDONED,
        }

    on(table, work)


def test_a_resolution_without_firing_says_so(table: Table) -> None:
    table.put(resolution_of(page_of()))

    async def work(connection: Connection) -> None:
        (only,) = await claim(connection, limit=1, lease_s=30)
        assert only.firing is Fate.ABSENT

    on(table, work)


def test_what_became_of_a_claim_is_written_down(table: Table) -> None:
    pages = [page_of() for _ in range(5)]
    for page in pages:
        table.put(page)

    async def work(connection: Connection) -> None:
        delivered, failed, abandoned, suppressed, held = await claim(
            connection, limit=5, lease_s=30
        )
        outcomes = [
            Delivered(delivered),
            Failed(failed, "status 500", 60.0),
            Abandoned(abandoned, "refused: status 400"),
            Suppressed(suppressed, "severity"),
            Held(held, held.claimed_until),
        ]
        await record(connection, outcomes)
        rows = [table.row(page) for page in pages]
        # A repeat, as after a connection that broke before the answer, changes nothing.
        await record(connection, outcomes)
        assert [table.row(page) for page in pages] == rows

    on(table, work)
    delivered, failed, abandoned, suppressed, held = (table.row(page) for page in pages)
    assert delivered["delivered_at"] is not None
    assert failed["last_error"] == "status 500"
    assert 55 < (failed["next_attempt_at"] - failed["created_at"]).total_seconds() < 70
    assert abandoned["abandoned_at"] is not None
    assert abandoned["last_error"] == "refused: status 400"
    assert suppressed["abandoned_at"] is not None
    assert suppressed["last_error"] == "suppressed: severity"
    assert held["next_attempt_at"] > failed["created_at"]
    assert [row["attempts"] for row in (delivered, failed, abandoned, suppressed, held)] == [
        1, 1, 1, 0, 0,
    ]  # fmt: skip
    assert all(
        row["claimed_until"] is None for row in (delivered, failed, abandoned, suppressed, held)
    )


def test_a_failed_page_is_not_due_before_its_time(table: Table) -> None:
    table.put(page_of())

    async def work(connection: Connection) -> None:
        (first,) = await claim(connection, limit=1, lease_s=30)
        await record(connection, [Failed(first, "status 500", 3600.0)])
        assert await claim(connection, limit=1, lease_s=30) == []
        table.execute("UPDATE outbox SET next_attempt_at = now()")
        (second,) = await claim(connection, limit=1, lease_s=30)
        assert second.attempts == 2

    on(table, work)


def test_a_reason_is_kept_short_and_storable(table: Table) -> None:
    page = page_of()
    table.put(page)

    async def work(connection: Connection) -> None:
        (only,) = await claim(connection, limit=1, lease_s=30)
        await record(connection, [Abandoned(only, "\0\ud800" + "x" * 10_000)])

    on(table, work)
    assert table.row(page)["last_error"] == "?" + "x" * 498


def test_a_row_that_tells_another_event_than_its_payload_is_not_read(table: Table) -> None:
    page = page_of()
    table.put(page)
    table.execute("UPDATE outbox SET event = 'resolved'")

    async def work(connection: Connection) -> None:
        (only,) = await claim(connection, limit=1, lease_s=30)
        with pytest.raises(PageError, match="the row says resolved, its payload firing"):
            only.page()

    on(table, work)

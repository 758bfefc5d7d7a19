import asyncio
from collections.abc import Awaitable, Callable

import pytest

from paging.connection import Connection, connected
from paging.deliveries import (
    Abandoned,
    Delivered,
    Failed,
    Spared,
    abandon_orphans,
    claim,
    hasten_orphans,
    record,
)
from paging.notices import NoticeError, encode_notice
from tests.paging.scaffold import Table, eventually, notice_of

pytestmark = pytest.mark.integration


def on(table: Table, work: Callable[[Connection], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), connected(table.dsn, table.schema) as connection:
            await work(connection)

    asyncio.run(main())


def put(
    table: Table,
    group: str,
    event: str = "trigger",
    *,
    hook: str = "webhook",
    person: str | None = None,
    revision: int = 1,
) -> int:
    notice = notice_of(group=group, event="trigger", revision=revision)
    (row,) = table.execute(
        "WITH n AS (INSERT INTO notice (group_key, revision, event, at, payload)"
        "           VALUES (%s, %s, %s, now(), %s)"
        "           ON CONFLICT (group_key, revision) DO UPDATE SET at = now() RETURNING notice_id)"
        " INSERT INTO delivery (notice_id, key, group_key, event, step, hook, person)"
        " SELECT notice_id, %s, %s, %s, 1, %s, %s FROM n RETURNING delivery_id",
        group,
        revision,
        event,
        encode_notice(notice).decode(),
        f"{group}/{revision}/1/{hook}" + (f":{person}" if person else ""),
        group,
        event,
        hook,
        person,
    )
    return row["delivery_id"]


def row(table: Table, delivery_id: int) -> dict[str, object]:
    (found,) = table.execute("SELECT * FROM delivery WHERE delivery_id = %s", delivery_id)
    return found


def test_a_claim_is_bounded_and_oldest_first_and_of_one_hook(table: Table) -> None:
    ids = [put(table, f"g{number}") for number in range(5)]
    other = put(table, "g0", hook="sms")

    async def work(connection: Connection) -> None:
        first = await claim(connection, "webhook", limit=3, lease_s=30)
        assert [one.delivery_id for one in first] == ids[:3]
        assert first[0].key == "g0/1/1/webhook"
        assert first[0].notice().group == "g0"
        second = await claim(connection, "webhook", limit=3, lease_s=30)
        assert [one.delivery_id for one in second] == ids[3:]
        assert await claim(connection, "webhook", limit=3, lease_s=30) == []
        (third,) = await claim(connection, "sms", limit=3, lease_s=30)
        assert third.delivery_id == other

    on(table, work)


def test_senders_that_claim_at_once_never_hold_the_same_row(table: Table) -> None:
    for number in range(60):
        put(table, f"g{number}")

    async def work(one: Connection) -> None:
        # An uncommitted claim locks its rows: the other must go around it, not wait for it.
        async with connected(table.dsn, table.schema) as other, one.transaction():
            held = await claim(one, "webhook", limit=20, lease_s=30)
            beside = await claim(other, "webhook", limit=60, lease_s=30)
        assert (len(held), len(beside)) == (20, 40)
        assert not {one.delivery_id for one in held} & {one.delivery_id for one in beside}

    on(table, work)


def test_a_lease_runs_out_and_the_key_stays(table: Table) -> None:
    put(table, "g")

    async def work(connection: Connection) -> None:
        (first,) = await claim(connection, "webhook", limit=1, lease_s=0.3)
        assert await claim(connection, "webhook", limit=1, lease_s=30) == []
        await eventually(lambda: table.count("claimed_until <= now()") == 1)
        (second,) = await claim(connection, "webhook", limit=1, lease_s=30)
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


def test_what_was_told_in_the_end_is_not_given_up(table: Table) -> None:
    only = put(table, "g")

    async def work(connection: Connection) -> None:
        (first,) = await claim(connection, "webhook", limit=1, lease_s=0.1)
        await eventually(lambda: table.count("claimed_until <= now()") == 1)
        (second,) = await claim(connection, "webhook", limit=1, lease_s=30)
        await record(connection, [Abandoned(second, "no")])
        await record(connection, [Delivered(first)])

    on(table, work)
    found = row(table, only)
    assert found["delivered_at"] is not None
    assert found["abandoned_at"] is None


def test_what_is_told_of_a_group_comes_in_order_at_each_hook(table: Table) -> None:
    first = put(table, "g")
    over = put(table, "g", "resolve", revision=2)
    elsewhere = put(table, "g", hook="sms", revision=2)

    async def work(connection: Connection) -> None:
        (begins,) = await claim(connection, "webhook", limit=9, lease_s=30)
        assert begins.delivery_id == first
        # The other hook has nothing to wait for.
        (beside,) = await claim(connection, "sms", limit=9, lease_s=30)
        assert beside.delivery_id == elsewhere
        assert await claim(connection, "webhook", limit=9, lease_s=30) == []
        await record(connection, [Failed(begins, "status 500", 0.0)])
        (begins,) = await claim(connection, "webhook", limit=9, lease_s=30)
        await record(connection, [Delivered(begins)])
        (ends,) = await claim(connection, "webhook", limit=9, lease_s=30)
        assert (ends.delivery_id, ends.is_awaited) == (over, True)

    on(table, work)


def test_who_was_not_told_that_it_began_does_not_await_its_end(table: Table) -> None:
    put(table, "g")
    put(table, "g", "resolve", revision=2)

    async def work(connection: Connection) -> None:
        (begins,) = await claim(connection, "webhook", limit=9, lease_s=30)
        assert begins.is_awaited
        await record(connection, [Abandoned(begins, "no", may_have_come=False)])
        (ends,) = await claim(connection, "webhook", limit=9, lease_s=30)
        assert not ends.is_awaited

    on(table, work)


@pytest.mark.parametrize("came", [(True, False), (False, True), (True, True), (False, False)])
def test_who_may_have_heard_that_it_began_awaits_its_end(
    table: Table, came: tuple[bool, bool]
) -> None:
    put(table, "g")
    put(table, "g", "resolve", revision=2)

    async def work(connection: Connection) -> None:
        (begins,) = await claim(connection, "webhook", limit=9, lease_s=30)
        failed = Failed(begins, "no answer", 0.0, may_have_come=came[0])
        # A repeat, as after a connection that broke before the answer, counts nothing twice.
        await record(connection, [failed])
        await record(connection, [failed])
        (begins,) = await claim(connection, "webhook", limit=9, lease_s=30)
        await record(connection, [Abandoned(begins, "no answer", may_have_come=came[1])])
        (ends,) = await claim(connection, "webhook", limit=9, lease_s=30)
        assert ends.is_awaited is any(came)

    on(table, work)


def test_what_a_sender_that_died_was_about_to_tell_may_have_been_heard(table: Table) -> None:
    put(table, "g")
    put(table, "g", "resolve", revision=2)

    async def work(connection: Connection) -> None:
        await claim(connection, "webhook", limit=1, lease_s=0.1)
        await eventually(lambda: table.count("claimed_until <= now()") == 1)
        (begins,) = await claim(connection, "webhook", limit=9, lease_s=30)
        await record(connection, [Abandoned(begins, "refused", may_have_come=False)])
        (ends,) = await claim(connection, "webhook", limit=9, lease_s=30)
        assert ends.is_awaited

    on(table, work)


def test_what_one_person_was_told_another_does_not_await(table: Table) -> None:
    for person in ("anna", "bo"):
        put(table, "g", hook="sms", person=person)
        put(table, "g", "resolve", hook="sms", person=person, revision=2)

    async def work(connection: Connection) -> None:
        to_anna, to_bo = await claim(connection, "sms", limit=9, lease_s=30)
        await record(connection, [Delivered(to_anna), Abandoned(to_bo, "no", may_have_come=False)])
        ends = await claim(connection, "sms", limit=9, lease_s=30)
        assert [(one.person, one.is_awaited) for one in ends] == [("anna", True), ("bo", False)]

    on(table, work)


def test_what_became_of_a_claim_is_written_down(table: Table) -> None:
    ids = [put(table, f"g{number}") for number in range(4)]

    async def work(connection: Connection) -> None:
        delivered, failed, abandoned, spared = await claim(
            connection, "webhook", limit=5, lease_s=30
        )
        outcomes = [
            Delivered(delivered),
            Failed(failed, "status 500", 60.0),
            Abandoned(abandoned, "refused: status 400"),
            Spared(spared, "nobody waits"),
        ]
        await record(connection, outcomes)
        rows = [row(table, one) for one in ids]
        # A repeat, as after a connection that broke before the answer, changes nothing.
        await record(connection, outcomes)
        assert [row(table, one) for one in ids] == rows

    on(table, work)
    delivered, failed, abandoned, spared = (row(table, one) for one in ids)
    assert delivered["delivered_at"] is not None
    assert failed["last_error"] == "status 500"
    assert 55 < (failed["next_attempt_at"] - failed["created_at"]).total_seconds() < 70
    # Whoever decides must hear of what was given up, and not of what was not to be told.
    assert (abandoned["abandoned_at"] is None, abandoned["heeded_at"] is None) == (False, True)
    assert abandoned["last_error"] == "refused: status 400"
    assert (spared["abandoned_at"] is None, spared["heeded_at"] is None) == (False, False)
    assert spared["last_error"] == "not told: nobody waits"
    rows = (delivered, failed, abandoned, spared)
    assert [one["attempts"] for one in rows] == [1, 1, 1, 0]
    assert all(one["claimed_until"] is None for one in rows)


def test_a_failed_delivery_is_not_due_before_its_time(table: Table) -> None:
    put(table, "g")

    async def work(connection: Connection) -> None:
        (first,) = await claim(connection, "webhook", limit=1, lease_s=30)
        await record(connection, [Failed(first, "status 500", 3600.0)])
        assert await claim(connection, "webhook", limit=1, lease_s=30) == []
        table.execute("UPDATE delivery SET next_attempt_at = now()")
        (second,) = await claim(connection, "webhook", limit=1, lease_s=30)
        assert second.attempts == 2

    on(table, work)


def test_a_reason_is_kept_short_and_storable(table: Table) -> None:
    only = put(table, "g")

    async def work(connection: Connection) -> None:
        (held,) = await claim(connection, "webhook", limit=1, lease_s=30)
        await record(connection, [Abandoned(held, "\0\ud800" + "x" * 10_000)])

    on(table, work)
    assert row(table, only)["last_error"] == "?" + "x" * 498


def test_a_row_that_tells_something_else_than_its_notice_is_not_read(table: Table) -> None:
    put(table, "g", "resolve")

    async def work(connection: Connection) -> None:
        (only,) = await claim(connection, "webhook", limit=1, lease_s=30)
        with pytest.raises(NoticeError, match="the row says resolve, its payload trigger"):
            only.notice()

    on(table, work)


def test_what_is_for_a_hook_that_is_gone_is_given_up_after_a_while(table: Table) -> None:
    old, new, known = put(table, "a", hook="gone"), put(table, "b", hook="gone"), put(table, "c")
    table.execute(
        "UPDATE delivery SET next_attempt_at = now() - interval '2 minutes'"
        " WHERE delivery_id = ANY(%s)",
        [old, known],
    )

    async def work(connection: Connection) -> None:
        assert await abandon_orphans(connection, ["webhook"]) == 1

    on(table, work)
    found = [row(table, one)["abandoned_at"] is not None for one in (old, new, known)]
    assert found == [True, False, False]


def test_what_another_pager_is_telling_a_hook_that_only_it_knows_is_not_given_up(
    table: Table,
) -> None:
    held = put(table, "a", hook="gone")
    late = "UPDATE delivery SET next_attempt_at = now() - interval '2 minutes'"

    async def work(connection: Connection) -> None:
        (mine,) = await claim(connection, "gone", limit=1, lease_s=30)
        table.execute(late)
        assert await abandon_orphans(connection, ["webhook"]) == 0
        await record(connection, [Failed(mine, "status 500", 0.0)])
        assert row(table, held)["last_error"] == "status 500"
        table.execute(late)
        assert await abandon_orphans(connection, ["webhook"]) == 1

    on(table, work)


def test_what_is_put_off_for_a_hook_that_is_gone_is_due(table: Table) -> None:
    put_off, held, known = (
        put(table, "a", hook="gone"),
        put(table, "b", hook="gone"),
        put(table, "c"),
    )
    table.execute("UPDATE delivery SET next_attempt_at = now() + interval '15 minutes'")
    table.execute(
        "UPDATE delivery SET claimed_until = now() + interval '30 s' WHERE group_key = 'b'"
    )

    async def work(connection: Connection) -> None:
        await hasten_orphans(connection, ["webhook"])

    on(table, work)
    due = "delivery_id = {} AND next_attempt_at <= now()"
    assert [table.count(due.format(one)) for one in (put_off, held, known)] == [1, 0, 0]

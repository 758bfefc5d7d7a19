"""What the decider reads of the database, and what it leaves there."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest

from paging import book
from paging.connection import Connection
from paging.decider import Decider
from paging.state import GivenUp
from storage.pages import Page
from tests.paging.conftest import Clock, routes_to
from tests.paging.scaffold import Table, page_of, resolution_of
from tests.paging.test_deliveries import on, put

pytestmark = pytest.mark.integration


def decider(table: Table, facts: Mapping[str, Any] = MappingProxyType({}), **route: Any) -> Decider:
    routes = routes_to("http://127.0.0.1:1/")
    routes = replace(routes, routes=(replace(routes.routes[0], **route),), **facts)
    return Decider(table.schema, routes, poll_interval_s=0.05)


def notices(table: Table) -> list[str]:
    return [row["event"] for row in table.execute("SELECT event FROM notice ORDER BY notice_id")]


def test_only_who_was_not_told_that_something_began_is_a_reason_for_the_next_step(
    table: Table,
) -> None:
    ids = [put(table, f"g{event}", event) for event in ("trigger", "update", "resolve")]
    table.execute("UPDATE delivery SET abandoned_at = now()")

    async def work(connection: Connection) -> None:
        heard = await book.hear(connection)
        assert heard.events == [GivenUp("gtrigger", 1, "webhook")]
        assert heard.delivery_ids == ids, "all of them are heeded"

    on(table, work)


def test_who_had_a_page_stands_there_when_it_gets_worse(table: Table, clock: Clock) -> None:
    first, worse = page_of(severity="minor"), page_of(severity="critical")

    async def work(connection: Connection) -> None:
        one = decider(table, group_by=("zone",))
        table.put(first)
        await one.turn(connection)
        table.execute("SELECT acknowledge_alert(%s, 'anna', 'mine')", first.alert_id)
        await one.turn(connection)
        clock.advance(3600)
        table.put(worse)
        await one.turn(connection)
        assert notices(table) == ["trigger", "acknowledge", "trigger"]
        columns = "acknowledged_at, acknowledged_by, first_acknowledged_at"
        (group,) = table.execute(f"SELECT {columns} FROM page_group")  # noqa: S608 - of constants
        first_at = group["first_acknowledged_at"]
        assert first_at is not None
        assert group["acknowledged_at"] is None, "nobody has it now"
        assert group["acknowledged_by"] is None

        clock.advance(60)
        table.execute("SELECT acknowledge_alert(%s, 'bo', 'mine now')", worse.alert_id)
        await one.turn(connection)
        (group,) = table.execute(f"SELECT {columns} FROM page_group")  # noqa: S608 - of constants
        assert group == {
            "acknowledged_at": first_at + timedelta(seconds=3660),
            "acknowledged_by": "bo",
            "first_acknowledged_at": first_at,
        }

    on(table, work)


def test_a_pager_that_did_not_decide_last_reads_what_the_other_left(table: Table) -> None:
    page, other_page = page_of(), page_of(sensor="traffic-0043")

    async def work(connection: Connection) -> None:
        one, other = decider(table), decider(table)
        table.put(page)
        await one.turn(connection)
        table.put(other_page)
        await other.turn(connection)
        table.put(resolution_of(page), resolution_of(other_page))
        await one.turn(connection)
        assert notices(table) == ["trigger", "trigger", "resolve", "resolve"]
        assert table.count("closed_at IS NULL", "page_group") == 0

    on(table, work)


def worse_than(page: Page, **facts: Any) -> Page:
    before = {name: getattr(page, name) for name in page.__struct_fields__}
    return Page(**before | {"severity": "critical", "sentence": "far worse"} | facts)


@pytest.mark.parametrize(
    ("others", "routes"),
    [
        pytest.param(1, {}, id="a page"),
        pytest.param(0, {}, id="a page that is over"),
        pytest.param(1, {"budget": 0}, id="a summary"),
    ],
)
def test_who_takes_a_page_has_not_what_left_it_for_another(
    table: Table, others: int, routes: dict[str, Any]
) -> None:
    bad, *rest = (
        page_of(
            severity="minor", sensor=f"s{number}", zone="harbour" if not routes else f"z{number}"
        )
        for number in range(1 + others)
    )

    async def work(connection: Connection) -> None:
        one = decider(table, routes, group_by=("zone", "severity"))
        table.put(bad, *rest)
        await one.turn(connection)
        (old,) = table.execute("SELECT group_key FROM page_group WHERE told_at IS NOT NULL")
        table.worsen(worse_than(bad))
        await one.turn(connection)
        table.execute("SELECT acknowledge_page(%s, 'anna', 'mine')", old["group_key"])
        await one.turn(connection)
        had = {
            row["group_key"]: row["acknowledged_by"]
            for row in table.execute(
                "SELECT group_key, acknowledged_by FROM page_group"
                " WHERE told_at IS NOT NULL AND closed_at IS NULL"
            )
        }
        assert had.pop(old["group_key"], None) == ("anna" if others else None)
        assert list(had.values()) == [None], "the page of what got worse is nobody's"
        states = table.execute("SELECT severity, state FROM alert ORDER BY severity")
        assert [(row["severity"], row["state"]) for row in states] == [
            ("critical", "open"),
            *([("minor", "acknowledged")] if others else []),
        ]

    on(table, work)


@pytest.mark.parametrize("is_told", [False, True])
def test_who_takes_a_page_has_not_what_is_silenced_and_was_not_told_as_bad(
    table: Table, clock: Clock, *, is_told: bool
) -> None:
    first = page_of(severity="minor", sensor="a")
    other = page_of(severity="minor" if is_told else "critical", sensor="b")

    async def work(connection: Connection) -> None:
        one = decider(table, group_by=("zone",), group_wait=timedelta(seconds=60))
        table.put(first, other)
        await one.turn(connection)
        quiet = (
            "INSERT INTO silence (kind, match, begins_at, ends_at, author, comment)"
            " VALUES ('silence', '{\"sensor\": \"b\"}', now() - interval '1 minute',"
            " now() + interval '1 day', 'anna', 'works')"
        )
        if not is_told:
            table.execute(quiet)
        clock.advance(61)
        await one.turn(connection)
        if is_told:
            table.execute(quiet)
            await one.turn(connection)
            table.worsen(worse_than(other))
            await one.turn(connection)
        (group,) = table.execute("SELECT group_key FROM page_group")
        table.execute("SELECT acknowledge_page(%s, 'anna', 'mine')", group["group_key"])
        await one.turn(connection)
        table.execute("UPDATE silence SET lifted_at = now()")
        await one.turn(connection)
        assert notices(table) == ["trigger", "acknowledge", "trigger"]

    on(table, work)


def test_a_page_of_thousands_is_acknowledged_in_one_turn(table: Table) -> None:
    pages = [page_of(sensor=f"s{number}") for number in range(3000)]

    async def work(connection: Connection) -> None:
        one = decider(table, group_by=("zone",))
        table.put_many(pages)
        await one.turn(connection)
        (group,) = table.execute("SELECT group_key FROM page_group")
        took = table.execute(
            "SELECT acknowledge_page(%s, 'anna', 'mine') AS took", group["group_key"]
        )
        assert took == [{"took": 3000}]
        # Longer, and the database would end the connection.
        async with asyncio.timeout(8):
            while table.count("decided_at IS NULL", "outbox"):
                await one.turn(connection)
        assert notices(table) == ["trigger", "acknowledge"]

    on(table, work)


def test_what_got_worse_is_as_bad_to_a_pager_that_reads_it(table: Table) -> None:
    page = page_of(severity="minor")
    worse = worse_than(page)
    unheard = worse_than(page, severity="major", sentence="worse")

    async def work(connection: Connection) -> None:
        one, other = decider(table), decider(table)
        table.put(page)
        await one.turn(connection)
        table.execute("SELECT acknowledge_alert(%s, 'anna', 'mine')", page.alert_id)
        await one.turn(connection)
        table.worsen(worse)
        await one.turn(connection)
        # It is no worse than the other knows.
        table.worsen(unheard)
        await other.turn(connection)
        table.put(resolution_of(page))
        await other.turn(connection)

    on(table, work)
    said = table.execute(
        "SELECT event, payload->>'severity' AS severity, payload->>'ring' AS ring,"
        " payload->'alerts'->0->>'sentence' AS sentence FROM notice ORDER BY notice_id"
    )
    assert [tuple(row.values()) for row in said] == [
        ("trigger", "minor", "0", page.sentence),
        ("acknowledge", "minor", "0", page.sentence),
        ("trigger", "critical", "1", "far worse"),
        ("resolve", "critical", "1", "far worse"),
    ]
    assert "deduplication: it got worse: critical, was minor" in table.said(page)
    assert "deduplication: it is as bad already" in table.said(page)

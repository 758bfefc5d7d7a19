"""Turns through the real database: one at a time, each whole or not at all."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from paging import book
from paging.api import store
from paging.connection import Connection, connected
from paging.decider import Decider
from paging.hooks.kinds import KINDS
from paging.pager import Pager, PagerConfig
from paging.routes import Routes, read_routes
from paging.sender import SenderConfig
from paging.stages import GROUP_STAGES, STAGES
from storage.pages import Page
from tests.paging.conftest import QUICK, Clock
from tests.paging.scaffold import (
    Hook,
    Table,
    answer,
    eventually,
    hooked,
    page_of,
    resolution_of,
    running,
)

pytestmark = pytest.mark.integration

LADDER = """
[hook.control]
type = "webhook"
url = "{control}"
per_minute = 60000
give_up_after_s = 0.5
[hook.sms]
type = "webhook"
url = "{sms}"
per_minute = 60000
[person.anna]
sms = "+34 1"
[policy.ladder]
steps = [{{ to = ["hook:control"] }}, {{ after = "1h", to = ["person:anna"] }}]
[darkness]
wait = "0.5s"
parent_wait = "0.2s"
[[route]]
name = "all"
policy = "ladder"
group_wait = "0.2s"
group_interval = "0.3s"
{more}
"""


def ladder(control: str = "http://127.0.0.1:1/", sms: str = "", more: str = "") -> Routes:
    return read_routes(LADDER.format(control=control, sms=sms or control, more=more), KINDS)


def on(table: Table, work: Callable[[Connection], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), connected(table.dsn, table.schema) as connection:
            await work(connection)

    asyncio.run(main())


def decider(table: Table, routes: Routes | None = None) -> Decider:
    return Decider(table.schema, routes or ladder(), poll_interval_s=0.05)


def pager(table: Table, routes: Routes) -> Pager:
    return Pager(
        table.dsn,
        table.schema,
        "live",
        PagerConfig(routes=routes, sender=SenderConfig(**QUICK)),
    )


def alert(sensor: str, **facts: Any) -> Page:
    return page_of(**{"sensor": sensor} | facts)


def dark(sensor: str, **facts: Any) -> Page:
    health = {"kind": "silence", "category": "sensor-health", "severity": "minor"}
    return alert(sensor, **health | facts)


async def until_told(table: Table, connection: Connection, one: Decider, notices: int) -> None:
    while table.count("true", "notice") < notices:
        await one.turn(connection)
        await asyncio.sleep(0.01)


def test_spans_as_long_as_they_may_be_are_waited_for(table: Table) -> None:
    text = LADDER.replace('"1h"', '"3650d"').replace('"0.3s"', '"3650d"')
    more = 'repeat_interval = "3650d"\n[pager]\nstale_after = "3650d"\nlate_wait = "3650d"'
    url = "http://127.0.0.1:1/"
    routes = read_routes(text.format(control=url, sms=url, more=more), KINDS)

    async def work(connection: Connection) -> None:
        one = decider(table, routes)
        table.put(alert("a"))
        await until_told(table, connection, one, 1)
        table.put(alert("b", since=datetime.now(UTC) - timedelta(days=3_000)))
        await one.turn(connection)
        (turn,) = table.execute("SELECT wakes_at - now() AS left FROM pager_turn")
        assert turn["left"] > timedelta(days=3_649)

    on(table, work)


def test_what_is_remembered_is_what_stands_in_the_database(table: Table) -> None:
    first, second = alert("a"), alert("b", zone="station")

    async def work(connection: Connection) -> None:
        one = decider(table)
        table.put(first, second, dark("c"), alert("d", severity="informational"))
        await until_told(table, connection, one, 2)
        table.put(resolution_of(first))
        await until_told(table, connection, one, 3)
        assert one._memory is not None
        stored = await book.remembered(connection, one._memory.shift)
        assert stored == one._memory
        # Whoever comes new reads it and goes on.
        other = decider(table)
        other._is_last = True
        table.put(resolution_of(second))
        await until_told(table, connection, other, 4)
        assert [row["event"] for row in table.execute("SELECT event FROM notice ORDER BY 1")] == [
            "resolve",
            "resolve",
            "trigger",
            "trigger",
        ]

    on(table, work)


def test_a_turn_that_fails_leaves_nothing_and_is_taken_again(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(connection: Connection) -> None:
        one = decider(table)
        table.put(alert("a"))
        write = book.write

        async def fail(*arguments: Any) -> None:
            await write(*arguments)
            raise RuntimeError("at the very end")

        monkeypatch.setattr(book, "write", fail)
        with pytest.raises(RuntimeError):
            await one.turn(connection)
        for name in ("page_track", "page_group", "page_member", "notice", "decision"):
            assert table.count("true", name) == 0
        assert table.count("decided_at IS NULL", "outbox") == 1
        monkeypatch.setattr(book, "write", write)
        await until_told(table, connection, one, 1)
        assert table.count("true", "page_member") == 1

    on(table, work)


def test_one_decides_at_a_time(table: Table) -> None:
    async def work(connection: Connection) -> None:
        table.put(alert("a"))
        async with connected(table.dsn, table.schema) as other, other.transaction():
            assert await book.begin(other) is not None
            assert not await decider(table).turn(connection)
            assert table.count("decided_at IS NULL", "outbox") == 1
        await until_told(table, connection, decider(table), 1)

    on(table, work)


def test_the_pager_may_be_away_for_days(table: Table) -> None:
    one = alert("a", since=datetime.now(UTC) - timedelta(days=3))

    async def work(connection: Connection) -> None:
        table.put(one)
        table.execute("UPDATE outbox SET created_at = at")
        await decider(table).turn(connection)
        assert table.count("true", "page_member") == 1

    on(table, work)


def test_a_clock_that_is_a_little_behind_is_waited_for(table: Table) -> None:
    async def work(connection: Connection) -> None:
        ahead = datetime.now(UTC) + timedelta(seconds=4)
        table.execute("UPDATE pager_turn SET decided_at = %s", ahead)
        table.put(alert("a"))
        await decider(table).turn(connection)
        (row,) = table.execute("SELECT opened_at FROM page_group")
        assert row["opened_at"] == ahead

    on(table, work)


def test_a_clock_that_was_far_ahead_holds_nobody_up(
    table: Table, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lock = book._LOCK
    fast = lock.replace("clock_timestamp()", "clock_timestamp() + interval '1 h'")

    async def work(connection: Connection) -> None:
        one = decider(table)
        monkeypatch.setattr(book, "_LOCK", fast)
        table.put(alert("a"))
        await until_told(table, connection, one, 1)
        # And somebody holds it, by that clock.
        table.execute(
            "UPDATE delivery SET next_attempt_at = now() + interval '1 h',"
            " claimed_until = now() + interval '1 h 30 s'"
        )
        monkeypatch.setattr(book, "_LOCK", lock)
        before = datetime.now(UTC)
        assert "the clock was set back" not in caplog.messages
        await one.turn(connection)
        assert caplog.messages.count("the clock was set back") == 1
        (group,) = table.execute("SELECT body FROM page_group")
        due = datetime.fromisoformat(group["body"]["next_step_at"])
        # The second step is an hour after the first, by whatever clock.
        assert abs(due - before - timedelta(hours=1)) < timedelta(seconds=10)
        assert table.count("next_attempt_at < now() + interval '10 s'") == 1
        assert table.count("claimed_until - next_attempt_at = interval '30 s'") == 1
        assert one._memory is not None
        assert await book.remembered(connection, one._memory.shift) == one._memory
        table.put(alert("b", zone="station"))
        await until_told(table, connection, one, 2)
        assert caplog.messages.count("the clock was set back") == 1

    on(table, work)


def within(work: Awaitable[None], seconds: float = 60) -> None:
    async def main() -> None:
        async with asyncio.timeout(seconds):
            await work

    asyncio.run(main())


def events(hook: Hook) -> list[str]:
    return [arrival.notice.event for arrival in hook.arrivals]


def test_a_cause_is_one_page_and_one_resolve(table: Table) -> None:
    pages = [alert(f"s{number}") for number in range(5)]

    async def work() -> None:
        async with hooked() as (hook, url), running(pager(table, ladder(url))):
            table.put(*pages)
            await hook.wait_for(lambda hook: hook.posts == 1)
            table.put(*map(resolution_of, pages))
            await hook.wait_for(lambda hook: hook.posts == 2)
            page, over = (arrival.notice for arrival in hook.arrivals)
            assert (page.event, page.counts.total, page.counts.open) == ("trigger", 5, 5)
            assert (over.event, over.counts.resolved, over.group) == ("resolve", 5, page.group)

    within(work())


def test_a_dead_hook_is_given_up_and_the_next_step_is_told(table: Table) -> None:
    one = alert("a")

    async def work() -> None:
        async with hooked() as (control, control_url), hooked() as (sms, sms_url):
            control.script.extend([answer(429)] * 1000)
            async with running(pager(table, ladder(control_url, sms_url))):
                table.put(one)
                await sms.wait_for(lambda hook: hook.posts == 1)
                (arrival,) = sms.arrivals
                assert arrival.notice.step == 2
                assert arrival.notice.to is not None
                assert (arrival.notice.to.name, arrival.notice.to.address) == ("anna", "+34 1")
                table.put(resolution_of(one))
                # It is over for whoever may have heard that it began, and for nobody else.
                await sms.wait_for(lambda hook: hook.posts == 2)
                await eventually(lambda: table.count("last_error LIKE 'not told: %'") == 1)
                assert control.arrivals == ()

    within(work())


def test_a_dead_hook_delays_no_other(table: Table) -> None:
    both = LADDER.replace('["hook:control"]', '["hook:control", "hook:sms"]').replace(
        "give_up_after_s = 0.5", "timeout_s = 50"
    )

    async def work() -> None:
        mended = asyncio.Event()

        async def hang(request: Any) -> Any:
            await mended.wait()
            return await answer(200)(request)

        async with hooked() as (control, control_url), hooked() as (sms, sms_url):
            control.script.extend([hang] * 1000)
            text = both.format(control=control_url, sms=sms_url, more='group_by = ["sensor"]')
            async with running(pager(table, read_routes(text, KINDS))):
                table.put(*(alert(f"s{number}") for number in range(40)))
                await sms.wait_for(lambda hook: hook.posts == 40)
                # It hears the last while the other still hangs in the first.
                assert control.keys
                assert table.count("hook = 'control' AND attempts > 1") == 0
                assert table.count("hook = 'control' AND delivered_at IS NOT NULL") == 0
                mended.set()

    within(work())


def test_whoever_acknowledges_is_told_and_nobody_else_is_woken(table: Table) -> None:
    one = alert("a")

    async def work() -> None:
        async with hooked() as (hook, url), running(pager(table, ladder(url))):
            table.put(one)
            await hook.wait_for(lambda hook: hook.posts == 1)
            took = "SELECT acknowledge_alert(%s, 'anna', 'on my way') AS took"
            assert [row["took"] for row in table.execute(took, one.alert_id)] == [True]
            await hook.wait_for(lambda hook: hook.posts == 2)
            assert hook.arrivals[1].notice.actor == "anna"
            assert [row["took"] for row in table.execute(took, one.alert_id)] == [False]
            (group,) = table.execute("SELECT acknowledged_by, body FROM page_group")
            assert group["acknowledged_by"] == "anna"
            assert "next_step_at" not in group["body"]
            (state,) = table.execute("SELECT state, actor FROM alert_transition")
            assert (state["state"], state["actor"]) == ("acknowledged", "anna")

    within(work())


def test_an_alert_explains_itself_stage_by_stage(table: Table) -> None:
    told, quiet, waits = alert("a"), alert("b", quality=4), alert("c")

    async def work() -> None:
        async with hooked() as (hook, url), running(pager(table, ladder(url))):
            table.put(told, quiet)
            await hook.wait_for(lambda hook: hook.posts == 1)
            await eventually(lambda: table.count("delivered_at IS NOT NULL") == 1)
        table.put(waits)
        async with connected(table.dsn, table.schema) as connection:
            said = await store.decisions(connection, told.alert_id)
            (own,) = [one for one in said if one.page_id is None]
            assert [*(one.stage for one in own.passed), own.stage] == [name for name, _ in STAGES]
            of_group = [one for one in said if one.page_id is not None]
            assert of_group[0].stage == "grouping"
            last = of_group[-1]
            assert [*(one.stage for one in last.passed), last.stage] == [
                name for name, _ in GROUP_STAGES
            ]
            assert last.outcome == "tell"
            (only,) = await store.decisions(connection, quiet.alert_id)
            assert (only.stage, only.outcome) == ("quality", "drop")
            assert await store.decisions(connection, waits.alert_id) == []

    within(work())


def test_an_alert_explains_itself_however_often_its_group_was_looked_at(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_ROWS", 12)
    first, others = alert("a"), [alert(f"b{number}") for number in range(20)]

    async def work() -> None:
        async with hooked() as (hook, url), running(pager(table, ladder(url))):
            table.put(first, *others)
            await hook.wait_for(lambda hook: hook.posts == 1)
            for one in others:
                table.put(resolution_of(one))
                await eventually(lambda: table.count("decided_at IS NULL", "outbox") == 0)
        async with connected(table.dsn, table.schema) as connection:
            said = await store.decisions(connection, first.alert_id)
        assert "routing" in [one.stage for one in said], "why it came to its page"
        assert "tell" in [one.outcome for one in said], "and that it was told"

    within(work())


def test_a_test_page_goes_past_every_stage_and_leaves_nothing(table: Table) -> None:
    async def work() -> None:
        async with hooked() as (hook, url), running(pager(table, ladder(url))):
            table.execute("INSERT INTO page_test (policy, author) VALUES ('gone', 'anna')")
            table.execute("INSERT INTO page_test (policy, author) VALUES ('ladder', 'anna')")
            table.execute("SELECT ring_pagers()")
            await hook.wait_for(lambda hook: hook.posts == 1)
            notice = hook.arrivals[0].notice
            assert (notice.cause, notice.step) == ("test", 1)
            assert notice.title.startswith("Test page: anna")
            assert table.count("true", "page_group") == 0
            assert table.count("decided_at IS NULL", "page_test") == 0
            (row,) = table.execute("SELECT reason FROM decision WHERE outcome = 'drop'")
            assert row["reason"] == "there is no policy gone"

    within(work())


@pytest.mark.parametrize("kind", ["silence", "maintenance"])
def test_what_is_silenced_in_the_database_is_quiet_until_it_is_lifted(
    table: Table, kind: str
) -> None:
    one, other = alert("a"), alert("b", zone="station")

    async def work() -> None:
        async with hooked() as (hook, url), running(pager(table, ladder(url))):
            table.execute(
                "INSERT INTO silence (kind, match, ends_at, comment, author)"
                " VALUES (%s, %s, now() + interval '1 h', 'works', 'anna')",
                kind,
                Jsonb({"sensor": "a"}),
            )
            table.put(one, other)
            await hook.wait_for(lambda hook: hook.posts == 1)
            assert hook.arrivals[0].notice.alerts[0].sensor == "b"
            assert "works" in table.said(one)[0]
            table.execute("UPDATE silence SET lifted_at = now(), lifted_by = 'anna'")
            table.execute("SELECT ring_pagers()")
            await hook.wait_for(lambda hook: hook.posts == 2)
            assert hook.arrivals[1].notice.alerts[0].sensor == "a"

    within(work())


def test_a_lift_that_is_committed_late_is_noticed(table: Table) -> None:
    async def work(connection: Connection) -> None:
        one = decider(table)
        table.execute(
            "INSERT INTO silence (match, ends_at, comment, author)"
            " VALUES (%s, now() + interval '1 h', 'works', 'anna')",
            Jsonb({"sensor": "a"}),
        )
        table.put(alert("a"))
        await one.turn(connection)
        async with connected(table.dsn, table.schema) as other, other.transaction():
            await other.execute("UPDATE silence SET lifted_at = now(), lifted_by = 'anna'")
            table.put(alert("b", zone="station"))
            await one.turn(connection)
        assert table.count("true", "page_member") == 1
        await one.turn(connection)
        assert table.count("true", "page_member") == 2

    on(table, work)


@pytest.mark.slow
def test_a_storm_of_ten_thousand_sensors_is_a_page_a_gateway_and_a_resolve_a_page(
    table: Table,
    clock: Clock,
) -> None:
    gateways = "\n".join(
        f'[gateway.g{number:02}]\nsensors = ["s{number:02}-*"]' for number in range(20)
    )
    zones = {
        f"s{gateway:02}-{number:03}": f"zone-{gateway:02}"
        for gateway in range(20)
        for number in range(500)
    }
    # Each zone is four times its gateway, so that it is not dark itself.
    rest = [
        (f"rest-{zone}-{number}", zone) for zone in set(zones.values()) for number in range(1500)
    ]
    table.execute(
        "INSERT INTO sensor (name, domain, zone) SELECT name, 'traffic', zone"
        " FROM unnest(%s::text[], %s::text[]) AS x (name, zone)",
        [name for name, _ in rest] + list(zones),
        [zone for _, zone in rest] + list(zones.values()),
    )
    pages = [dark(sensor, zone=zone) for sensor, zone in zones.items()]
    pages.sort(key=lambda page: page.sensor[4:])
    more = f'repeat_interval = "4h"\n{gateways}'

    async def work() -> None:
        async with hooked() as (hook, url), running(pager(table, ladder(url, more=more))):
            for first in range(0, 10_000, 500):
                await asyncio.to_thread(table.put_many, pages[first : first + 500])
            await eventually(lambda: table.count("decided_at IS NULL", "outbox") == 0)
            assert table.count("true", "notice") == 0
            clock.advance(1)
            await hook.wait_for(lambda hook: hook.posts >= 20)
            assert table.count("true", "page_member") == 10_000
            for first in range(0, 10_000, 500):
                over = [resolution_of(page) for page in pages[first : first + 500]]
                await asyncio.to_thread(table.put_many, over)
            await eventually(lambda: table.count("decided_at IS NULL", "outbox") == 0)
            clock.advance(1)
            await hook.wait_for(lambda hook: events(hook).count("resolve") >= 20)
            assert sorted(events(hook)) == ["resolve"] * 20 + ["trigger"] * 20
            names = {arrival.notice.cause_name for arrival in hook.arrivals}
            assert names == {f"g{number:02}" for number in range(20)}
            totals = [a.notice.counts.total for a in hook.arrivals if a.notice.event == "resolve"]
            assert totals == [500] * 20

    within(work(), 120)

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from psycopg.errors import UndefinedTable

from citywatch.settings import Settings, SettingsError
from citywatch.wiring import pager_config
from paging.hooks import Retry
from paging.notices import Notice
from paging.pager import NamespaceRefusedError, Pager, PagerConfig
from paging.sender import SenderConfig
from storage.pages import Page
from tests.paging.conftest import routes_to
from tests.paging.hooks.test_bad_days import hang, hang_up
from tests.paging.scaffold import (
    Answer,
    Hook,
    Road,
    Table,
    answer,
    eventually,
    hooked,
    page_of,
    resolution_of,
    running,
)

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PagerOf = Callable[..., Pager]
ONE_HOOK = """
[hook.control]
type = "webhook"
url = "{url}"
timeout_s = 0.5
[policy.all]
steps = [{{ to = ["hook:control"] }}]
[[route]]
name = "all"
policy = "all"
group_by = ["sensor"]
group_wait = "0s"
"""


def page_of_its_own(**changes: Any) -> Page:
    """Return a page of a sensor of its own: a group of its own by these tests' routes."""
    return page_of(**{"sensor": f"traffic-{uuid4()}"} | changes)


def within(work: Coroutine[Any, Any, None], seconds: float = 30) -> None:
    async def main() -> None:
        async with asyncio.timeout(seconds):
            await work

    asyncio.run(main())


def delivered(table: Table, *pages: Page) -> Callable[[], bool]:
    return lambda: all(table.row(page)["delivered_at"] is not None for page in pages)


def abandoned(table: Table, *pages: Page) -> Callable[[], bool]:
    return lambda: all(table.row(page)["abandoned_at"] is not None for page in pages)


class Gate:
    """An answer that is given when the test says so."""

    def __init__(self, then: Answer) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self._then = then

    async def __call__(self, request: web.Request) -> web.Response:
        self.reached.set()
        await self.opened.wait()
        return await self._then(request)


def test_a_page_is_told_and_marked(
    table: Table, pager_of: PagerOf, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="paging")
    page = page_of_its_own()

    async def work() -> None:
        async with hooked() as (hook, url), running(pager_of(url)):
            table.put(page)
            await eventually(delivered(table, page))
            (arrival,) = hook.arrivals
            assert arrival.notice.event == "trigger"
            assert [one.alert_id for one in arrival.notice.alerts] == [page.alert_id]
            assert arrival.notice.title == page.sentence
            assert arrival.key == table.row(page)["key"]
            assert hook.posts == 1

    within(work())
    row = table.row(page)
    assert (row["attempts"], row["last_error"], row["claimed_until"]) == (1, None, None)
    lines = [record for record in caplog.records if record.name.startswith("paging")]
    assert [line.message for line in lines] == ["notice", "page delivered"]
    assert lines[1].key == row["key"]


def test_the_bell_is_heard(table: Table, pager_of: PagerOf) -> None:
    first, second = page_of_its_own(), page_of_its_own()

    async def work() -> None:
        # A poll would come in an hour: only the bell can tell of these pages.
        async with hooked() as (hook, url), running(pager_of(url, poll_interval_s=3600.0)):
            await eventually(
                lambda: bool(
                    table.execute(
                        "SELECT pid FROM pg_stat_activity WHERE state = 'idle' AND query = %s",
                        f'LISTEN "{table.schema}_delivery"',
                    )
                )
            )
            table.put(first)
            await hook.wait_for(lambda hook: hook.posts == 1)
            await eventually(delivered(table, first))
            table.put(second)
            await hook.wait_for(lambda hook: hook.posts == 2)

    within(work())


def test_without_the_bell_the_pager_polls(table: Table, pager_of: PagerOf) -> None:
    async def work() -> None:
        async with hooked() as (hook, url), running(pager_of(url)):
            for posts in (1, 2, 3):
                table.put(page_of_its_own(), bell=False)
                await hook.wait_for(lambda hook, posts=posts: hook.posts == posts)

    within(work())


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_receiver_that_fails_once_is_asked_again(
    table: Table, pager_of: PagerOf, status: int
) -> None:
    page = page_of_its_own()

    async def work() -> None:
        async with hooked() as (hook, url):
            hook.script.append(answer(status))
            table.put(page)
            async with running(pager_of(url)):
                await eventually(delivered(table, page))
            assert hook.keys == [table.row(page)["key"]] * 2

    within(work())
    row = table.row(page)
    assert row["attempts"] == 2
    assert row["last_error"] == f"127.0.0.1: answered with status {status}"


def test_a_receiver_that_asks_for_patience_gets_it(table: Table, pager_of: PagerOf) -> None:
    page = page_of_its_own()

    async def work() -> None:
        async with hooked() as (hook, url):
            hook.script.append(answer(429, Retry_After="1"))
            table.put(page)
            async with running(pager_of(url)):
                await eventually(delivered(table, page))
            first, second = hook.times
            # Own backoff is 0.05 s at most here, so a whole second is the receiver's wish.
            assert second - first >= 1.0

    within(work())


def test_a_receiver_that_hangs_is_asked_again(table: Table, pager_of: PagerOf) -> None:
    page = page_of_its_own()

    async def work() -> None:
        async with hooked() as (hook, url):
            gate = Gate(answer(200))
            hook.script.append(gate)
            table.put(page)
            async with running(pager_of(url, terms={"timeout_s": 0.2})):
                await eventually(delivered(table, page))
            gate.opened.set()
            assert hook.keys == [table.row(page)["key"]] * 2

    within(work())
    assert table.row(page)["last_error"] == "not told within 0.2 s"


def test_a_receiver_that_comes_up_late_is_told(table: Table, pager_of: PagerOf) -> None:
    page = page_of_its_own()

    async def work() -> None:
        with ExitStack() as stack:
            # Bound and not listening: connections are refused until the receiver listens.
            taken = stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}/pages"
            table.put(page)
            async with running(pager_of(url)):
                await eventually(lambda: "Connect" in (table.row(page)["last_error"] or ""))
                hook = Hook()
                app = web.Application()
                app.router.add_post("/pages", hook.handle)
                runner = web.AppRunner(app)
                await runner.setup()
                await web.SockSite(runner, taken).start()
                await eventually(delivered(table, page))
                assert hook.posts == 1
            await runner.cleanup()

    within(work())


def test_a_refused_page_is_abandoned_and_its_resolution_not_told(
    table: Table, pager_of: PagerOf
) -> None:
    page = page_of_its_own()
    over = resolution_of(page)

    async def work() -> None:
        async with hooked() as (hook, url):
            hook.script.append(answer(400))
            table.put(page)
            async with running(pager_of(url)):
                await eventually(abandoned(table, page))
                table.put(over)
                await eventually(abandoned(table, over))
            assert hook.keys == [table.row(page)["key"]]

    within(work())
    assert table.row(page)["last_error"] == "refused: 127.0.0.1: answered with status 400"
    assert table.row(over)["last_error"] == "not told: nobody was told there that it began"


@pytest.mark.parametrize(
    ("bad", "is_told"),
    [(hang, True), (hang_up, True), (answer(500), True), (answer(429), False)],
    ids=["hang", "hang-up", "500", "429"],
)
def test_who_may_have_heard_of_it_is_told_that_it_is_over(
    table: Table, pager_of: PagerOf, bad: Answer, *, is_told: bool
) -> None:
    """A receiver that was given up, and is well again when the alert ends."""
    page = page_of_its_own()
    over = resolution_of(page)

    async def work() -> None:
        async with hooked() as (hook, url):
            hook.script.extend([bad] * 100)
            table.put(page)
            terms = {"timeout_s": 0.2, "give_up_after_s": 0.5}
            async with running(pager_of(url, terms=terms)):
                await eventually(abandoned(table, page))
                hook.script.clear()
                table.put(over)
                await eventually(delivered(table, over) if is_told else abandoned(table, over))
            told = [arrival.notice.event for arrival in hook.arrivals]
            assert told == (["resolve"] if is_told else [])

    within(work())


def test_attempts_are_bounded(table: Table, pager_of: PagerOf) -> None:
    page = page_of_its_own()

    async def work() -> None:
        async with hooked() as (hook, url):
            hook.script.extend([answer(500)] * 10)
            table.put(page)
            async with running(pager_of(url, max_attempts=3)):
                await eventually(abandoned(table, page))
            assert len(hook.keys) == 3

    within(work())
    assert table.row(page)["last_error"] == (
        "gave up after 3 attempts: 127.0.0.1: answered with status 500"
    )


def test_a_resolution_is_never_told_before_its_firing(table: Table, pager_of: PagerOf) -> None:
    pages = [page_of_its_own() for _ in range(5)]

    async def work() -> None:
        async with hooked() as (hook, url):
            hook.script.extend([answer(500), answer(503), answer(500)])
            table.put(*pages)
            async with running(pager_of(url)):
                await eventually(lambda: table.count("true") == 5)
                table.put(*map(resolution_of, pages))
                await eventually(delivered(table, *pages, *map(resolution_of, pages)))
            keys = [arrival.key for arrival in hook.arrivals]
            assert len(keys) == 10
            for page in pages:
                over = resolution_of(page)
                assert keys.index(table.row(page)["key"]) < keys.index(table.row(over)["key"])

    within(work())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"namespace": "replay-monday"}, "namespace: namespace 'replay-monday' is not 'live'"),
        ({"severity": "informational"}, "severity: severity 'informational' does not page"),
        ({"quality": 4}, "quality: a city alert on a reading of quality 'fail'"),
    ],
)
def test_what_is_suppressed_is_recorded_with_its_reason(
    table: Table, pager_of: PagerOf, changes: dict[str, Any], reason: str
) -> None:
    page, told = page_of_its_own(**changes), page_of_its_own()

    async def work() -> None:
        table.put(page, told)
        async with hooked() as (hook, url), running(pager_of(url)):
            await eventually(delivered(table, told))
            assert hook.keys == [table.row(told)["key"]]

    within(work())
    assert table.said(page) == [reason]
    assert table.deliveries(page) == []


def test_old_news_is_recorded_as_stale(table: Table, pager_of: PagerOf) -> None:
    news = page_of_its_own()
    old = page_of_its_own(since=news.since - timedelta(hours=26))

    async def work() -> None:
        table.put(old, news)
        async with hooked() as (hook, url), running(pager_of(url)):
            await eventually(delivered(table, news))
            assert hook.posts == 1

    within(work())
    assert table.said(old)[0].startswith("news: old: fired 1 day, 2:00:")


def test_a_payload_nobody_can_read_is_said_and_stops_nothing(
    table: Table, pager_of: PagerOf, caplog: pytest.LogCaptureFixture
) -> None:
    page, told = page_of_its_own(), page_of_its_own()

    async def work() -> None:
        table.put(page, payload='{"version": 2}')
        table.put(told)
        async with hooked() as (_, url), running(pager_of(url)):
            await eventually(delivered(table, told))

    within(work())
    assert table.said(page)[0].startswith("reading: unreadable: ")
    assert "unreadable" in caplog.messages


def test_a_notice_nobody_can_read_is_tried_again_and_then_abandoned(
    table: Table, pager_of: PagerOf
) -> None:
    page, told = page_of_its_own(), page_of_its_own()

    async def work() -> None:
        async with hooked() as (hook, url):
            hook.script.append(answer(500))
            table.put(page)
            slow = pager_of(url, backoff_base_s=0.5, backoff_cap_s=0.5, max_attempts=3)
            async with running(slow):
                await eventually(lambda: table.row(page)["attempts"] == 1)
                table.execute("UPDATE notice SET payload = '{}'")
                await eventually(abandoned(table, page))
                table.put(told)
                await eventually(delivered(table, told))

    within(work())
    row = table.row(page)
    assert row["last_error"].startswith("gave up after 3 attempts: unreadable: ")


def test_two_pagers_tell_each_page_once(table: Table, pager_of: PagerOf) -> None:
    table.put(*(page_of_its_own() for _ in range(60)))
    busy = [asyncio.Event(), asyncio.Event()]
    sent: list[tuple[int, str]] = []

    class Colleague:
        def __init__(self, number: int) -> None:
            self.number = number

        async def send(self, _notice: Notice, key: str) -> None:
            busy[self.number].set()
            # Neither goes on before both hold claims, so that they do compete.
            await asyncio.gather(*(event.wait() for event in busy))
            sent.append((self.number, key))

    async def work() -> None:
        async with running(*(pager_of(notifier=Colleague(number)) for number in (0, 1))):
            await eventually(lambda: table.count("delivered_at IS NOT NULL") == 60)

    within(work())
    assert len(sent) == 60
    assert len({key for _, key in sent}) == 60
    assert {number for number, _ in sent} == {0, 1}


def test_one_slow_delivery_does_not_hold_up_the_others(table: Table, pager_of: PagerOf) -> None:
    slow = page_of_its_own()
    quick = [page_of_its_own() for _ in range(20)]

    async def work() -> None:
        async with hooked() as (hook, url):
            gate = Gate(answer(200))
            hook.script.append(gate)
            table.put(slow)
            async with running(pager_of(url, terms={"timeout_s": 20.0}, lease_s=60.0)):
                await gate.reached.wait()
                table.put(*quick)
                await eventually(delivered(table, *quick))
                assert table.row(slow)["delivered_at"] is None
                gate.opened.set()
                await eventually(delivered(table, slow))

    within(work())


def test_deliveries_under_way_are_bounded(table: Table, pager_of: PagerOf) -> None:
    pages = [page_of_its_own() for _ in range(20)]
    now = most = 0

    class Counter:
        async def send(self, _notice: Notice, _key: str) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

    async def work() -> None:
        table.put(*pages)
        async with running(pager_of(notifier=Counter(), terms={"concurrency": 3})):
            await eventually(delivered(table, *pages))

    within(work())
    assert 1 < most <= 3


def test_a_pager_told_to_stop_finishes_what_it_began(table: Table, pager_of: PagerOf) -> None:
    page, later = page_of_its_own(), page_of_its_own()

    async def work() -> None:
        async with hooked() as (hook, url):
            gate = Gate(answer(200))
            hook.script.append(gate)
            table.put(page)
            # One slot: while it is taken, nothing is claimed that could race with the stop.
            async with running(pager_of(url, terms={"concurrency": 1})) as stop:
                await gate.reached.wait()
                stop.set()
                table.put(later)
                gate.opened.set()
            assert hook.keys == [table.row(page)["key"]]

    within(work())
    assert delivered(table, page)()
    assert not table.row(later)["attempts"]


def test_a_notifier_that_breaks_does_not_stop_the_pager(table: Table, pager_of: PagerOf) -> None:
    broken, told = page_of_its_own(), page_of_its_own()

    class Fragile:
        async def send(self, notice: Notice, _key: str) -> None:
            if notice.alerts[0].alert_id == broken.alert_id:
                raise RuntimeError("https://hook.example/SECRET")

    async def work() -> None:
        table.put(broken, told)
        async with running(pager_of(notifier=Fragile(), max_attempts=2)):
            await eventually(abandoned(table, broken))
            await eventually(delivered(table, told))

    within(work())
    error = table.row(broken)["last_error"]
    assert "RuntimeError in send" in error
    assert "SECRET" not in error


def test_a_notifier_that_never_comes_back_is_cut_off(table: Table, pager_of: PagerOf) -> None:
    page = page_of_its_own()

    class Lost:
        async def send(self, _notice: Notice, _key: str) -> None:
            await asyncio.Event().wait()

    async def work() -> None:
        table.put(page)
        lost = pager_of(notifier=Lost(), terms={"timeout_s": 0.2})
        async with running(lost):
            await eventually(lambda: table.row(page)["last_error"] is not None)

    within(work())
    assert table.row(page)["last_error"] == "not told within 0.2 s"


def test_a_schema_without_tables_ends_the_pager(table: Table) -> None:
    config = PagerConfig(routes=routes_to("http://127.0.0.1:1/"))
    pager = Pager(table.dsn, "no_such_schema", "live", config)
    with pytest.raises(ExceptionGroup) as caught:
        within(pager.run(asyncio.Event()))
    assert caught.group_contains(UndefinedTable)


def test_the_wish_of_a_receiver_and_the_jitter_add_up(table: Table, pager_of: PagerOf) -> None:
    page = page_of_its_own()

    class Patient:
        async def send(self, _notice: Notice, _key: str) -> None:
            raise Retry(500.0, "later")

    async def work() -> None:
        table.put(page)
        async with running(pager_of(notifier=Patient())):
            await eventually(lambda: table.row(page)["last_error"] == "later")

    within(work())
    row = table.row(page)
    assert 500 <= (row["next_attempt_at"] - row["created_at"]).total_seconds() < 530


# With slots free the next poll notices the break; with none, the writing down of the outcome.
@pytest.mark.parametrize("concurrency", [4, 1])
def test_the_database_goes_away_and_nothing_is_told_twice(
    table: Table, pager_of: PagerOf, concurrency: int
) -> None:
    page, later = page_of_its_own(), page_of_its_own()

    async def work() -> None:
        road = Road(table.dsn)
        await road.mend()
        async with hooked() as (hook, url):
            gate = Gate(hook_takes(hook))
            hook.script.append(gate)
            table.put(page)
            async with running(pager_of(url, dsn=road.dsn, terms={"concurrency": concurrency})):
                await gate.reached.wait()
                await road.cut()
                gate.opened.set()
                await hook.wait_for(lambda hook: hook.posts == 1)
                table.put(later)
                assert table.row(page)["delivered_at"] is None
                await road.mend()
                await eventually(delivered(table, page, later))
            assert hook.keys == [table.row(page)["key"], table.row(later)["key"]]
        await road.cut()

    within(work())
    assert table.row(page)["attempts"] == 1


def test_a_pager_that_starts_before_the_database_waits_for_it(
    table: Table, pager_of: PagerOf, caplog: pytest.LogCaptureFixture
) -> None:
    page = page_of_its_own()
    table.put(page)

    async def work() -> None:
        road = Road(table.dsn)
        await road.mend()
        await road.cut()
        async with hooked() as (_, url), running(pager_of(url, dsn=road.dsn)):
            await eventually(lambda: "the database is away" in caplog.messages)
            await road.mend()
            await eventually(delivered(table, page))
        await road.cut()

    within(work())


def test_a_pager_killed_between_post_and_mark_tells_again_under_the_same_key(
    table: Table,
) -> None:
    page = page_of_its_own()
    table.put(page)

    def start(url: str) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("pager_process.py")
        return subprocess.Popen(
            [sys.executable, str(script), table.dsn, table.schema, ONE_HOOK.format(url=url)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    async def work() -> None:
        async with hooked() as (hook, url):
            pagers: list[subprocess.Popen[bytes]] = []

            async def kill(request: web.Request) -> web.Response:
                # The page has come; its sender dies before it can hear so.
                response = await hook_takes(hook)(request)
                pagers[0].send_signal(signal.SIGKILL)
                return response

            hook.script.append(kill)
            try:
                pagers.append(start(url))
                assert await asyncio.to_thread(pagers[0].wait) == -signal.SIGKILL
                assert table.row(page)["delivered_at"] is None
                assert table.row(page)["attempts"] == 1
                pagers.append(start(url))
                await eventually(delivered(table, page))
            finally:
                for pager in pagers:
                    pager.kill()
                    pager.wait()
            assert len(hook.arrivals) == 1
            assert (hook.posts, hook.repeats) == (2, 1)
            assert set(hook.keys) == {table.row(page)["key"]}

    within(work(), 60)


@pytest.mark.parametrize("namespace", ["replay-monday", "", "LIVE", "live-2"])
def test_a_pager_serves_nothing_but_the_live_city(namespace: str) -> None:
    config = PagerConfig(routes=routes_to("http://127.0.0.1:1/"))
    with pytest.raises(NamespaceRefusedError, match="'live' alone") as caught:
        Pager("", "live", namespace, config)
    assert caught.value.namespace == namespace
    assert repr(namespace) in str(caught.value)


def test_a_pager_without_anyone_to_tell_is_refused() -> None:
    with pytest.raises(SettingsError, match="routes_file or webhook_url"):
        pager_config(Settings())


@pytest.mark.parametrize("name", ["batch", "lease_s", "backoff_base_s", "max_attempts"])
def test_bounds_that_bound_nothing_are_refused(name: str) -> None:
    routes = routes_to("http://127.0.0.1:1/")
    with pytest.raises(ValueError, match=name):
        PagerConfig(routes=routes, sender=SenderConfig(**{name: 0}))


def test_routes_that_are_at_fault_are_refused() -> None:
    routes = replace(routes_to("http://127.0.0.1:1/"), policies={})
    with pytest.raises(ValueError, match="there is no policy webhook"):
        PagerConfig(routes=routes)


def test_the_settings_of_the_pager_are_its_config(tmp_path: Path) -> None:
    settings = Settings.model_validate({"pager": {"webhook_url": "https://hook.example/SECRET"}})
    config = pager_config(settings)
    assert config.sender == SenderConfig()
    assert config.routes.hooks["webhook"].terms.timeout_s == 5.0
    assert "SECRET" not in repr(config)
    file = tmp_path / "routes.toml"
    file.write_text(ONE_HOOK.format(url="http://127.0.0.1:1/"))
    settings = Settings.model_validate({"pager": {"routes_file": file, "webhook_url": "http://x"}})
    assert list(pager_config(settings).routes.hooks) == ["control"]
    file.write_text("[x]")
    with pytest.raises(SettingsError, match=r"routes\.toml: x: no such section"):
        pager_config(settings)


def hook_takes(hook: Hook) -> Answer:
    async def take(request: web.Request) -> web.Response:
        return await super(Hook, hook).handle(request)

    return take

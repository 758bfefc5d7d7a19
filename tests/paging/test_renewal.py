"""A routes file that changes while a pager runs."""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from paging import book
from paging.connection import Connection
from paging.decider import Decider
from paging.hooks.kinds import KINDS
from paging.meter import Meter
from paging.pager import Pager
from paging.receiver import serve
from paging.renewal import RoutesFile
from paging.routes import MAX_BYTES, Routes, RoutesError, read_routes
from paging.state import Orders
from tests.paging.scaffold import Hook, Table, eventually, hooked, page_of, running
from tests.paging.test_deliveries import on

PagerOf = Callable[..., Pager]
HOOK = """
[hook.{name}]
type = "webhook"
url = "{url}"
"""
REST = """
[policy.all]
steps = [{{ to = [{to}] }}]
[[route]]
name = "all"
policy = "all"
group_by = ["sensor"]
group_wait = "0s"
"""


def routes_text(**urls: str) -> str:
    """Return routes by which every page goes to every hook."""
    hooks = "".join(HOOK.format(name=name, url=url) for name, url in urls.items())
    return hooks + REST.format(to=", ".join(f'"hook:{name}"' for name in urls))


class Watched:
    """A routes file, and how often it was taken apart."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.parsed = 0
        self._age = 0
        self.write(text)
        self.file = RoutesFile(path, self._parse)
        self.routes = self.file.read()

    def _parse(self, text: str) -> Routes:
        self.parsed += 1
        return read_routes(text, KINDS)

    def write(self, text: str) -> None:
        """Write the file anew, at a time that no write before had."""
        self.path.write_text(text, encoding="utf-8")
        self.touch()

    def touch(self) -> None:
        self._age += 1
        os.utime(self.path, (self._age, self._age))

    def look(self) -> Routes | None:
        """Look until a file that stands still is read."""
        return self.file.changed() or self.file.changed()


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "routes.toml", routes_text(one="http://127.0.0.1:1/"))


def test_what_has_not_changed_is_not_even_read(watched: Watched) -> None:
    assert [watched.look() for _ in range(20)] == [None] * 20
    watched.touch()
    assert watched.look() is None
    assert watched.parsed == 1


def test_what_has_changed_is_taken_up_once_it_stands_still(watched: Watched) -> None:
    watched.look()
    watched.write(routes_text(two="http://127.0.0.1:1/"))
    assert watched.file.changed() is None
    watched.write(routes_text(three="http://127.0.0.1:1/"))
    assert watched.file.changed() is None, "somebody is still writing it"
    found = watched.file.changed()
    assert found is not None
    assert set(found.hooks) == {"three"}
    assert watched.look() is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[route", "Expected ']]'"),
        ("[policy]\nx = 3", "policy.x: a table is expected"),
        ("", "nobody is told of anything"),
        (routes_text(one="http://x/").replace('policy = "all"', 'policy = "y"'), "no policy y"),
        ("#" * (MAX_BYTES + 1), "larger than"),
        # More digits than Python reads.
        (f"x = {'9' * 5_000}", "4300 digits"),
        ('[hook.x]\ntype = "webhook"\nurl = { file = "/run/a\\u0000b" }', "hook.x: Expected"),
        ('[hook.x]\ntype = "webhook"\nurl = "http://x"\nca_file = "\\u0000"', "hook.x: Expected"),
    ],
)
def test_what_is_broken_is_said_once(watched: Watched, text: str, said: str) -> None:
    watched.write(text)
    with pytest.raises(RoutesError, match=r"routes\.toml: ") as caught:
        watched.look()
    assert said in str(caught.value)
    watched.touch()
    assert watched.look() is None
    watched.write(routes_text(one="http://127.0.0.1:1/"))
    assert watched.look() == watched.routes, "it is in order again, and whoever refused it hears so"


def test_a_pipe_in_its_place_is_refused(watched: Watched) -> None:
    watched.path.unlink()
    os.mkfifo(watched.path)
    with pytest.raises(RoutesError, match="no regular file"):
        watched.look()


def test_a_file_that_is_gone_is_missed_once_and_taken_up_again(watched: Watched) -> None:
    text = watched.path.read_text(encoding="utf-8")
    watched.path.unlink()
    with pytest.raises(RoutesError, match="No such file"):
        watched.look()
    assert watched.look() is None
    watched.write(text)
    assert watched.look() == watched.routes


def test_one_that_takes_its_place_is_seen(watched: Watched, tmp_path: Path) -> None:
    """As `mv` and mounted volumes do it: same time, same size, another file."""
    watched.look()
    other = tmp_path / "other"
    other.write_text(watched.path.read_text(encoding="utf-8").replace("one", "eno"))
    stamp = watched.path.stat().st_mtime
    os.utime(other, (stamp, stamp))
    other.rename(watched.path)
    found = watched.look()
    assert found is not None
    assert set(found.hooks) == {"eno"}


class Held(Hook):
    """A hook that answers when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        answer = await super().handle(request)
        await self.free.wait()
        return answer


def came(hook: Hook) -> set[str]:
    return {arrival.notice.alerts[0].sensor for arrival in hook.arrivals}


def within(work: Coroutine[Any, Any, None]) -> None:
    async def main() -> None:
        async with asyncio.timeout(40):
            await work

    asyncio.run(main())


def value(meter: Meter, name: str, **labels: str) -> float | None:
    return meter.registry.get_sample_value(name, labels)


FILES = "citywatch_pager_routes_files_total"


@pytest.mark.integration
def test_a_pager_takes_up_what_is_good_and_nothing_else(
    table: Table,
    pager_of: PagerOf,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "paging.pager")
    meter = Meter()

    async def work() -> None:
        async with hooked() as (one, one_url), hooked() as (two, two_url):
            watched = Watched(tmp_path / "routes.toml", routes_text(one=one_url))
            pager = pager_of(routes=watched.routes, routes_file=watched.file, meter=meter)
            async with running(pager):
                table.put(page_of(sensor="before"))
                await eventually(lambda: came(one) == {"before"})

                watched.write(routes_text(two=two_url))
                await eventually(lambda: value(meter, FILES, outcome="taken") == 1)
                table.put(page_of(sensor="after"))
                await eventually(lambda: came(two) == {"after"})

                # Its hook is new, and its secret is not to be had.
                secret = HOOK.format(name="three", url="").replace('""', '{ env = "NOBODY" }')
                # Nobody writes into it, and the pager does not wait for anybody.
                os.mkfifo(tmp_path / "pipe")
                piped = secret.replace('env = "NOBODY"', f'file = "{tmp_path / "pipe"}"')
                more = [one + routes_text(two=one_url) for one in (secret, piped)]
                for count, broken in enumerate(("[[route", "", *more)):
                    watched.write(broken)
                    await eventually(
                        lambda count=count: value(meter, FILES, outcome="refused") == count + 1
                    )
                    assert value(meter, "citywatch_pager_routes_outdated") == 1
                    sensor = f"broken-{count}"
                    table.put(page_of(sensor=sensor))
                    await eventually(lambda sensor=sensor: sensor in came(two))
                looks = watched.parsed
                watched.touch()
                table.put(page_of(sensor="still"))
                await eventually(lambda: "still" in came(two))
                assert watched.parsed == looks

                watched.write(routes_text(one=one_url, two=two_url))
                await eventually(lambda: value(meter, FILES, outcome="taken") == 2)
                assert value(meter, "citywatch_pager_routes_outdated") == 0
                table.put(page_of(sensor="mended"))
                await eventually(lambda: "mended" in came(one) & came(two))
            assert came(one) == {"before", "mended"}
            assert one.repeats == two.repeats == 0

    within(work())
    said = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
    assert said == ["the routes file cannot be used, the last good one stays in force"] * 4
    assert value(meter, FILES, outcome="refused") == 4


def fails(_text: str) -> Routes:
    raise KeyError("T0KEN")


@pytest.mark.integration
def test_what_nobody_foresaw_of_a_file_ends_no_pager(
    table: Table, pager_of: PagerOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    meter = Meter()

    async def work() -> None:
        async with hooked() as (one, one_url), hooked() as (two, two_url):
            watched = Watched(tmp_path / "routes.toml", routes_text(one=one_url))
            pager = pager_of(routes=watched.routes, routes_file=watched.file, meter=meter)
            with pytest.MonkeyPatch.context() as patch:
                async with running(pager):
                    patch.setattr(watched.file, "_parse", fails)
                    watched.write(routes_text(two=two_url))
                    await eventually(lambda: value(meter, FILES, outcome="refused") == 1)
                    assert value(meter, "citywatch_pager_routes_outdated") == 1
                    table.put(page_of(sensor="still"))
                    await eventually(lambda: came(one) == {"still"})
                    patch.undo()
                    watched.write(routes_text(one=two_url))
                    await eventually(lambda: value(meter, FILES, outcome="taken") == 1)
                    assert value(meter, "citywatch_pager_routes_outdated") == 0
                    table.put(page_of(sensor="mended"))
                    await eventually(lambda: came(two) == {"mended"})

    within(work())
    assert "the last good one stays in force" in caplog.text
    assert "in fails" in caplog.text
    assert "RuntimeError: KeyError" in caplog.text
    # It may be of a secret.
    assert "KeyError: 'T0KEN'" not in caplog.text


INHIBIT = """
[[inhibit]]
source = { sensor = "parent" }
target = { sensor = "child" }
equal = ["zone"]
wait = "0s"
"""


@pytest.mark.integration
def test_what_waits_is_asked_by_the_new_routes_though_nothing_happens(
    table: Table, pager_of: PagerOf, tmp_path: Path
) -> None:
    async def work() -> None:
        async with hooked() as (hook, url):
            watched = Watched(tmp_path / "routes.toml", routes_text(one=url) + INHIBIT)
            pager = pager_of(routes=watched.routes, routes_file=watched.file)
            async with running(pager):
                table.put(page_of(sensor="parent"))
                await eventually(lambda: came(hook) == {"parent"})
                table.put(page_of(sensor="child"))
                muted = "stage = 'inhibition' AND outcome = 'mute'"
                await eventually(lambda: table.count(muted, "decision") == 1)
                watched.write(routes_text(one=url))
                await eventually(lambda: came(hook) == {"parent", "child"})

    within(work())


@pytest.mark.integration
@pytest.mark.usefixtures("clock")
def test_what_waits_is_asked_by_routes_that_were_renewed_in_the_middle_of_a_turn(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = routes_text(one="http://127.0.0.1:1/")
    child = page_of(sensor="child")

    async def work(connection: Connection) -> None:
        routes = read_routes(text + INHIBIT, KINDS)
        one = Decider(table.schema, routes, poll_interval_s=0.05)
        for page in (page_of(sensor="parent"), child):
            table.put(page)
            await one.turn(connection)
        assert table.deliveries(child) == []

        orders = book.orders

        async def renewed(connection: Connection, now: datetime) -> Orders:
            one.renew(read_routes(text, KINDS))
            return await orders(connection, now)

        with monkeypatch.context() as patch:
            patch.setattr(book, "orders", renewed)
            table.put(page_of(sensor="other"))
            await one.turn(connection)
        assert table.deliveries(child) == [], "that turn was by the routes before"
        # Nothing happens and no time passes.
        await one.turn(connection)
        assert len(table.deliveries(child)) == 1

    on(table, work)


@pytest.mark.integration
def test_a_hook_that_leads_elsewhere_stays_open_for_what_is_under_way(
    table: Table, pager_of: PagerOf, tmp_path: Path
) -> None:
    meter = Meter()

    async def work() -> None:
        old = Held()
        async with serve(old) as old_url, hooked() as (new, new_url):
            watched = Watched(tmp_path / "routes.toml", routes_text(moved=old_url))
            pager = pager_of(routes=watched.routes, routes_file=watched.file, meter=meter)
            async with running(pager):
                table.put(page_of(sensor="first"))
                await eventually(lambda: came(old) == {"first"})
                watched.write(routes_text(moved=new_url))
                await eventually(lambda: value(meter, FILES, outcome="taken") == 1)
                table.put(page_of(sensor="second"))
                await eventually(lambda: came(new) == {"second"})
                old.free.set()
                await eventually(lambda: table.count("delivered_at IS NULL") == 0)
            assert table.count("attempts = 1") == 2
            assert (old.posts, new.posts) == (1, 1)

    within(work())


class Patient(Held):
    """A hook that asks for patience, and may do so late."""

    async def handle(self, request: web.Request) -> web.Response:
        await super().handle(request)
        return web.Response(status=429, headers={"Retry-After": "900"})


@pytest.mark.integration
@pytest.mark.parametrize("is_late", [False, True])
def test_what_a_hook_put_off_does_not_wait_for_it_when_it_is_gone(
    table: Table,
    pager_of: PagerOf,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_late: bool,
) -> None:
    monkeypatch.setattr("paging.sender._ORPHANS_S", 0.05)
    meter = Meter()

    async def work() -> None:
        gone = Patient()
        async with serve(gone) as gone_url, hooked() as (_, url):
            watched = Watched(tmp_path / "routes.toml", routes_text(gone=gone_url, stays=url))
            pager = pager_of(routes=watched.routes, routes_file=watched.file, meter=meter)
            async with running(pager):
                if not is_late:
                    gone.free.set()
                table.put(page_of(sensor="a"))
                put_off = "hook = 'gone' AND next_attempt_at > now() + interval '10 minutes'"
                if is_late:
                    await eventually(lambda: gone.posts == 1)
                else:
                    await eventually(lambda: table.count(put_off) == 1)
                watched.write(routes_text(stays=url))
                await eventually(lambda: value(meter, FILES, outcome="taken") == 1)
                gone.free.set()
                failed = "hook = 'gone' AND last_error IS NOT NULL"
                await eventually(lambda: table.count(f"{failed} AND next_attempt_at <= now()") == 1)
                # For a while another pager may know it.
                assert table.count(f"{failed} AND abandoned_at IS NULL") == 1
                table.execute(
                    "UPDATE delivery SET next_attempt_at = next_attempt_at - interval '61 seconds'"
                    " WHERE hook = 'gone'"
                )
                await eventually(
                    lambda: table.count("last_error = 'there is no such hook any more'") == 1
                )

    within(work())


@pytest.mark.integration
def test_what_is_under_way_comes_to_its_end(
    table: Table, pager_of: PagerOf, tmp_path: Path
) -> None:
    """By a hook that is gone, and by one that leads elsewhere now; nothing is told twice."""
    meter = Meter()

    async def work() -> None:
        gone, old = Held(), Held()
        async with (
            serve(gone) as gone_url,
            serve(old) as old_url,
            hooked() as (new, new_url),
        ):
            text = routes_text(gone=gone_url, moved=old_url)
            watched = Watched(tmp_path / "routes.toml", text)
            pager = pager_of(routes=watched.routes, routes_file=watched.file, meter=meter)
            async with running(pager):
                table.put(page_of(sensor="first"))
                await eventually(lambda: came(gone) == came(old) == {"first"})
                watched.write(routes_text(moved=new_url))
                await eventually(lambda: value(meter, FILES, outcome="taken") == 1)
                table.put(page_of(sensor="second"))
                await eventually(lambda: came(new) == {"second"})
                gone.free.set()
                old.free.set()
                await eventually(lambda: table.count("delivered_at IS NULL") == 0)
            assert table.count("attempts = 1") == 3
            assert [hook.posts for hook in (gone, old, new)] == [1, 1, 1]

    within(work())

"""The console over HTTP, on a real database."""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientTimeout, web
from aiohttp.test_utils import TestClient, TestServer

import dashboards.console.feed
from dashboards.console import create_app, serve
from dashboards.console.feed import Feed
from dashboards.console.frames import Flow, rates
from dashboards.console.server import FEED, security_headers
from storage.latest import CATCH_UP
from storage.queries import LedgerMinute
from tests.dashboards import citydata

CONSOLE = Path(dashboards.console.__file__).parent
AWAIT_S = 20
NOBODY = "postgresql://nobody@127.0.0.1:1/none"

Client = TestClient[web.Request, web.Application]


def visit(app: web.Application, what: Callable[[Client], Awaitable[Any]]) -> Any:
    async def go() -> Any:
        async with (
            asyncio.timeout(AWAIT_S * 2),
            TestClient(TestServer(app), timeout=ClientTimeout(total=AWAIT_S)) as client,
        ):
            return await what(client)

    return asyncio.run(go())


async def live(client: Client) -> dict[str, Any]:
    """Wait for the first frame and return it."""
    while (answer := await client.get("/api/snapshot")).status != 200:  # noqa: ASYNC110 - over HTTP
        await asyncio.sleep(0.05)
    return await answer.json()


@asynccontextmanager
async def events(client: Client) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Yield a function that waits for the next event of a kind that satisfies a condition."""
    async with client.get("/api/events") as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"

        async def following(kind: str, where: Callable[[Any], bool] = lambda _: True) -> Any:
            while True:
                seen, data = await read_event(response)
                if seen == kind and where(data):
                    return data

        yield following


async def read_event(response: ClientResponse) -> tuple[str, Any]:
    kind, data = "", None
    while line := (await response.content.readuntil(b"\n")).decode().rstrip("\n"):
        field, _, value = line.partition(": ")
        kind = value if field == "event" else kind
        data = json.loads(value) if field == "data" else data
    return kind, data


def console_connections(dsn: str, schema: str) -> set[int]:
    with citydata.connect(dsn, schema) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'citywatch-console'"
        )
        return {pid for (pid,) in rows}


@pytest.fixture
def app(dsn: str, schema: str) -> web.Application:
    citydata.fill(dsn, schema, datetime.now(UTC), minutes=40)
    return create_app(dsn, schema, tile_url=None)


@pytest.mark.integration
@pytest.mark.parametrize(
    "path", ["/", "/static/console.js", "/static/vendor/leaflet/leaflet.js", "/api/snapshot", "/no"]
)
def test_every_answer_is_locked_down(app: web.Application, path: str) -> None:
    async def what(client: Client) -> None:
        await live(client)
        answer = await client.get(path)
        assert answer.status == (404 if path == "/no" else 200)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "img-src 'self';" in policy
        assert "http" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"

    visit(app, what)


def test_the_tile_host_alone_is_let_in() -> None:
    policy = security_headers("https://tiles.example:8443/{z}/{x}/{y}.png?k=1")[
        "Content-Security-Policy"
    ]
    assert "img-src 'self' https://tiles.example:8443 data:;" in policy
    assert "connect-src 'self';" in policy


@pytest.mark.parametrize(
    "tile_url",
    [
        "tiles.example/{z}/{x}/{y}.png",
        "https://tiles.example/{z}/{x}.png",
        "https://a.example; script-src *;/{z}/{x}/{y}",
        "javascript:{z}{x}{y}",
    ],
)
def test_a_wrong_tile_url_is_refused(tile_url: str) -> None:
    with pytest.raises(ValueError, match="tile_url"):
        create_app(NOBODY, "live", tile_url=tile_url)


def test_the_page_loads_nothing_from_elsewhere() -> None:
    for path in (CONSOLE / "static").iterdir():
        text = path.read_text()
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text)
        assert set(addresses) <= {"http://www.w3.org"}, path  # the name of SVG, never fetched
        assert "innerHTML" not in text, path
        assert not re.search(r"\sstyle=|\son\w+=", text), path  # the policy forbids both


def test_vendored_files_are_the_published_ones() -> None:
    readme = (CONSOLE / "vendor" / "README.md").read_text()
    listed = dict(re.findall(r"^\| `([^`]+)` .* \| `([0-9a-f]{64})` \|$", readme, re.MULTILINE))
    present = {
        str(path.relative_to(CONSOLE / "vendor")): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (CONSOLE / "vendor").rglob("*")
        if path.is_file() and path.name != "README.md"
    }
    assert present == listed
    assert {Path(name).parent for name in listed} == {
        Path(name).parent for name in listed if Path(name).name == "LICENSE"
    }


@pytest.mark.integration
def test_snapshot_holds_the_city(app: web.Application) -> None:
    frame = visit(app, live)
    layout = [dict(zip(frame["columns"]["layout"], row, strict=True)) for row in frame["layout"]]
    newest = [dict(zip(frame["columns"]["newest"], row, strict=True)) for row in frame["newest"]]
    assert len({row["sensor"] for row in layout}) == 12
    assert {row["series_id"] for row in newest} == {row["series_id"] for row in layout}
    opened = [alert["opened_at"] for alert in frame["alerts"]]
    assert len(opened) == 5
    assert opened == sorted(opened, reverse=True)
    assert frame["alerts"][0]["sentence"].startswith("PM2.5 is 148")
    totals = frame["totals"]
    assert totals["open_alerts"] == 5
    assert totals["pages_delivered"] == 4
    assert totals["pages_pending"] == 2
    assert totals["newest_at"] == max(row["time"] for row in newest)


@pytest.mark.integration
def test_events_tell_what_changed(app: web.Application, dsn: str, schema: str) -> None:
    async def what(client: Client) -> None:
        async with events(client) as following:
            frame = await following("snapshot")
            now = datetime.now(UTC)
            with citydata.connect(dsn, schema) as connection:
                connection.execute("INSERT INTO reading VALUES (1, %s, 77, 1, 0.5, 70, 12)", (now,))
                connection.execute(CATCH_UP)
                alert = citydata.insert_alert(connection, 1, now)
            delta = await following("delta", lambda delta: delta["newest"])
            assert [row[0] for row in delta["newest"]] == [1]
            row = dict(zip(frame["columns"]["newest"], delta["newest"][0], strict=True))
            assert (row["value"], row["expected"], row["band"]) == (77, 70, 12)
            if "alerts" not in delta:  # the poll fell between the two
                delta = await following("delta", lambda delta: "alerts" in delta)
            assert delta["alerts"][0]["alert_id"] == str(alert)
            assert delta["totals"]["open_alerts"] == 6

    visit(app, what)


@pytest.mark.integration
def test_a_new_sensor_brings_a_whole_frame(app: web.Application, dsn: str, schema: str) -> None:
    async def what(client: Client) -> None:
        async with events(client) as following:
            before = await following("snapshot")
            with citydata.connect(dsn, schema) as connection, connection.transaction():
                connection.execute(
                    "INSERT INTO sensor (name, domain, zone) VALUES ('new', 'traffic', 'harbour')"
                )
                connection.execute(
                    "INSERT INTO series (sensor_id, quantity, unit)"
                    " SELECT sensor_id, 'intensity', '1' FROM sensor WHERE name = 'new'"
                )
                connection.execute(
                    "INSERT INTO reading SELECT max(series_id), now(), 1, 1, 0, 1, 1 FROM series"
                )
                connection.execute(CATCH_UP)
            after = await following("snapshot")
            assert len(after["layout"]) == len(before["layout"]) + 1

    visit(app, what)


@pytest.mark.integration
def test_rows_per_second_come_from_the_ledger(app: web.Application, dsn: str, schema: str) -> None:
    async def what(client: Client) -> None:
        async with events(client) as following:
            await following("delta", lambda delta: delta["totals"]["stored_per_s"] == 0)
            with citydata.connect(dsn, schema) as connection:
                connection.execute(
                    "UPDATE ledger SET stored = stored + 1000 WHERE minute ="
                    " (SELECT max(minute) FROM ledger) AND source = 'traffic'"
                )
            delta = await following("delta", lambda delta: delta["totals"]["stored_per_s"])
            assert 50 < delta["totals"]["stored_per_s"] <= 1000

    visit(app, what)


@pytest.mark.integration
def test_series_gives_the_chart(app: web.Application) -> None:
    async def what(client: Client) -> None:
        query = {"sensor": "air-harbour-001", "quantity": "pm25", "minutes": "15"}
        answer = await client.get("/api/series", params=query)
        assert answer.status == 200
        chart = await answer.json()
        assert chart["unit"] == "ug/m3"
        assert chart["bucket_s"] is None
        assert 13 <= len(chart["points"]) <= 16
        point = dict(zip(chart["columns"], chart["points"][-1], strict=True))
        assert point["lower"] < point["expected"] < point["upper"]
        longer = await (await client.get("/api/series", params=query | {"minutes": "60"})).json()
        assert longer["bucket_s"] == 5
        assert len(longer["points"]) == 40

    visit(app, what)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [
        ({"quantity": "pm25"}, 400, "sensor: expected 1 to 100"),
        ({"sensor": "s" * 101, "quantity": "pm25"}, 400, "sensor: expected 1 to 100"),
        ({"sensor": "a\0b", "quantity": "pm25"}, 400, "sensor: expected"),
        ({"sensor": "s"}, 400, "quantity: expected"),
        ({"sensor": "s", "quantity": "q", "minutes": "0"}, 400, "from 1 to 10080"),
        ({"sensor": "s", "quantity": "q", "minutes": "10081"}, 400, "from 1 to 10080"),
        ({"sensor": "s", "quantity": "q", "minutes": "-5"}, 400, "from 1 to 10080"),
        ({"sensor": "s", "quantity": "q", "minutes": "9" * 5000}, 400, "from 1 to 10080"),
        ({"sensor": "s", "quantity": "q", "minutes": "٣"}, 400, "from 1 to 10080"),
        ({"sensor": "nobody", "quantity": "q"}, 404, "no series 'q' of sensor 'nobody'"),
        ({"sensor": "x' OR true--", "quantity": "pm25"}, 404, "no series"),
    ],
)
def test_series_refuses_with_a_reason(
    app: web.Application, query: dict[str, str], status: int, reason: str
) -> None:
    async def what(client: Client) -> None:
        answer = await client.get("/api/series", params=query)
        assert answer.status == status
        assert reason in (await answer.json())["error"]

    visit(app, what)


@pytest.mark.integration
def test_viewers_are_bounded(app: web.Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboards.console.feed, "MAX_VIEWERS", 1)

    async def what(client: Client) -> None:
        async with events(client) as following:
            await following("snapshot")
            refused = await client.get("/api/events")
            assert refused.status == 503
            assert await refused.json() == {"error": "too many viewers"}
        # The one that left makes room at its next event.
        while app[FEED].viewers:  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.05)
        async with events(client) as following:
            await following("snapshot")

    visit(app, what)


@pytest.mark.integration
def test_the_database_sees_few_connections_however_many_watch(
    app: web.Application, dsn: str, schema: str
) -> None:
    query = {"sensor": "air-harbour-001", "quantity": "pm25"}
    others = console_connections(dsn, schema)

    async def what(client: Client) -> None:
        watching = [await client.get("/api/events") for _ in range(25)]
        charts = await asyncio.gather(*(client.get("/api/series", params=query) for _ in range(25)))
        assert {answer.status for answer in [*watching, *charts]} == {200}
        for one in watching:
            assert (await read_event(one))[0] in ("snapshot", "delta")
        assert 1 <= len(console_connections(dsn, schema) - others) <= 3

    visit(app, what)


@pytest.mark.integration
def test_a_lost_database_is_told_and_found_again(
    app: web.Application, dsn: str, schema: str
) -> None:
    query = {"sensor": "air-harbour-001", "quantity": "pm25"}
    others = console_connections(dsn, schema)

    async def what(client: Client) -> None:
        async with events(client) as following:
            frame = await following("snapshot")
            before = await client.get("/api/series", params=query)
            assert before.status == 200
            own = console_connections(dsn, schema) - others
            assert len(own) == 2
            with citydata.connect(dsn, schema) as connection:
                connection.execute("SELECT pg_terminate_backend(p) FROM unnest(%s) p", (list(own),))
            stale = await following("stale")
            assert stale["since"] >= frame["at"]
            delta = await following("delta")
            assert delta["at"] > stale["since"]
            after = await client.get("/api/series", params=query)
            assert after.status == 200  # though its connection was lost as well
        assert (await client.get("/healthz")).status == 200

    visit(app, what)


def test_without_a_database_the_page_says_so() -> None:
    async def what(client: Client) -> None:
        async with events(client) as following:
            assert "since" in await following("stale")
        assert (await client.get("/")).status == 200
        assert (await client.get("/healthz")).status == 503
        assert (await client.get("/api/snapshot")).status == 503
        chart = await client.get("/api/series", params={"sensor": "s", "quantity": "q"})
        assert chart.status == 503
        assert "127.0.0.1" not in await chart.text()

    visit(create_app(NOBODY, "live", tile_url=None), what)


@pytest.mark.integration
def test_serve_listens_until_cancelled(dsn: str, schema: str) -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        listening: asyncio.Future[str] = loop.create_future()
        task = asyncio.create_task(serve(dsn, schema, "127.0.0.1", 0, started=listening.set_result))
        async with asyncio.timeout(AWAIT_S):
            address = await listening
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(go())


def test_a_viewer_that_does_not_read_is_cut_off() -> None:
    async def go() -> None:
        async def connect() -> Any:
            raise OSError

        feed = Feed(connect, lambda: datetime.now(UTC), "live", None)
        slow, quick = feed.subscribe(), feed.subscribe()
        assert slow is not None
        assert quick is not None
        for number in range(20):
            feed._tell(str(number).encode())
            assert await quick.get() == str(number).encode()
        assert feed.viewers == 1
        assert await slow.get() is None

    asyncio.run(go())


def flow(at: datetime, *minutes: tuple[int, int]) -> Flow:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        LedgerMinute(start + timedelta(minutes=minute), stored // 2, stored)
        for minute, stored in minutes
    ]
    return Flow(at, {row.minute: row for row in rows})


def test_rates_count_only_what_both_looks_reach() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    old = flow(at, (0, 5_000), (1, 100))
    # Minute 0 has left the ledger's reach, minute 1 grew, minute 2 is new.
    new = flow(at + timedelta(seconds=10), (1, 300), (2, 800))
    assert rates(old, new) == (100.0, 50.0)


def test_rates_of_one_moment_are_unknown() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert rates(flow(at, (0, 1)), flow(at, (0, 9))) == (None, None)

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
from aiohttp import web
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from paging.notices import Notice
from paging.pager import Pager
from paging.receiver import Receiver, serve
from storage.migrate import session_options
from storage.pages import Page, encode_page, outbox_channel

NOTICED_AT = datetime(2025, 3, 4, 14, 3, 20, tzinfo=UTC)

Answer = Callable[[web.Request], Awaitable[web.Response]]


def page_of(**changes: Any) -> Page:
    facts: dict[str, Any] = {
        "namespace": "live",
        "alert_id": uuid4(),
        "event": "firing",
        "category": "city",
        "kind": "anomaly",
        "severity": "major",
        "sensor": "traffic-0042",
        "quantity": "averageVehicleSpeed",
        "unit": "km/h",
        "domain": "traffic",
        "zone": "harbour",
        "since": datetime.now(UTC).replace(microsecond=0),
        "seen": 8.1,
        "expected": 48.0,
        "lower": 39.0,
        "upper": 57.0,
        "score": 6.2,
    }
    return Page(**facts | changes)


def notice_of(**changes: Any) -> Notice:
    facts: dict[str, Any] = {
        "group": "live/harbour/anomaly/1",
        "event": "trigger",
        "at": NOTICED_AT,
        "severity": "major",
        "category": "city",
        "kind": "level",
        "zone": "harbour",
        "title": "harbour: 1 alert",
        "text": "one",
        "since": NOTICED_AT,
    }
    return Notice(**facts | changes)


def resolution_of(page: Page) -> Page:
    facts = {name: getattr(page, name) for name in page.__struct_fields__}
    over = {"event": "resolved", "resolved_at": page.since + timedelta(minutes=5), "sentence": ""}
    return Page(**facts | over)


NO_DELIVERY = ("delivered_at", "abandoned_at", "last_error", "attempts")


_MANY = (
    """
    INSERT INTO sensor (name, domain, zone)
    SELECT DISTINCT s, 'traffic', z FROM unnest(%(sensor)s::text[], %(zone)s::text[]) AS x (s, z)
    ON CONFLICT DO NOTHING
    """,
    """
    INSERT INTO series (sensor_id, quantity, unit)
    SELECT sensor_id, 'intensity', '1' FROM sensor WHERE name = ANY(%(sensor)s::text[])
    ON CONFLICT DO NOTHING
    """,
    """
    INSERT INTO alert (alert_id, series_id, category, kind, severity, state, opened_at, seen,
                       sentence)
    SELECT (p ->> 'alert_id')::uuid, series_id, p ->> 'category', p ->> 'kind', p ->> 'severity',
           'open', (p ->> 'since')::timestamptz, 0, p ->> 'sentence'
    FROM unnest(%(payload)s::text[]::jsonb[]) AS x (p)
    JOIN sensor ON name = p ->> 'sensor' JOIN series USING (sensor_id)
    ON CONFLICT DO NOTHING
    """,
    """
    INSERT INTO outbox (alert_id, event, dedup_key, payload, at)
    SELECT a, e, a::text, p, t
    FROM unnest(%(alert)s::uuid[], %(event)s::text[], %(payload)s::text[]::jsonb[],
                %(at)s::timestamptz[]) AS x (a, e, p, t)
    """,
)


class Table:
    """The outbox as the stream worker writes it, and what a reader finds of it."""

    def __init__(self, dsn: str, schema: str) -> None:
        self.dsn = dsn
        self.schema = schema
        self._connection = psycopg.connect(
            dsn, autocommit=True, options=session_options(schema), row_factory=dict_row
        )

    def close(self) -> None:
        self._connection.close()

    def put(self, *pages: Page, payload: str | None = None, bell: bool = True) -> None:
        with self._connection.transaction():
            for page in pages:
                self._alert(page)
                self._connection.execute(
                    "INSERT INTO outbox (alert_id, event, dedup_key, payload, at)"
                    " VALUES (%s, %s, %s, %s, %s)",
                    (
                        page.alert_id,
                        page.event,
                        str(page.alert_id),
                        payload or encode_page(page).decode(),
                        page.resolved_at or page.since,
                    ),
                )
            if bell:
                self.ring()

    def worsen(self, page: Page) -> None:
        """Let an open alert be as bad as a page says."""
        with self._connection.transaction():
            self._connection.execute(
                "UPDATE alert SET severity = %s, sentence = %s,"
                " state = replace(state, 'acknowledged', 'open') WHERE alert_id = %s",
                (page.severity, page.sentence, page.alert_id),
            )
            self._connection.execute(
                "INSERT INTO outbox (alert_id, event, dedup_key, payload, at)"
                " VALUES (%s, 'worse', %s, %s, now())",
                (page.alert_id, str(page.alert_id), encode_page(page).decode()),
            )
            self.ring()

    def put_many(self, pages: Sequence[Page]) -> None:
        """Write many pages at once, as a storm does."""
        values = {
            "alert": [page.alert_id for page in pages],
            "sensor": [page.sensor for page in pages],
            "zone": [page.zone for page in pages],
            "event": [page.event for page in pages],
            "at": [page.resolved_at or page.since for page in pages],
            "payload": [encode_page(page).decode() for page in pages],
        }
        with self._connection.transaction():
            for statement in _MANY:
                self._connection.execute(statement, values)
            self.ring()

    def ring(self) -> None:
        self._connection.execute("SELECT pg_notify(%s, '')", (outbox_channel(self.schema),))

    def deliveries(self, page: Page) -> list[dict[str, Any]]:
        """Return what is to be delivered of an alert's groups, in order."""
        return self.execute(
            "SELECT d.* FROM delivery d JOIN page_member m USING (group_key)"
            " WHERE m.alert_id = %s ORDER BY d.delivery_id",
            page.alert_id,
        )

    def row(self, page: Page) -> dict[str, Any]:
        """Return the delivery of what a page says: that it fires, or is over."""
        event = "trigger" if page.event == "firing" else "resolve"
        found = [row for row in self.deliveries(page) if row["event"] == event]
        return found[0] if found else dict.fromkeys(NO_DELIVERY)

    def said(self, page: Page) -> list[str]:
        """Return what the stages said of an alert."""
        rows = self.execute(
            "SELECT stage, reason FROM decision WHERE alert_id = %s ORDER BY decision_id",
            page.alert_id,
        )
        return [f"{row['stage']}: {row['reason']}" for row in rows]

    def count(self, condition: str, table: str = "delivery") -> int:
        found = self._connection.execute(f"SELECT count(*) AS n FROM {table} WHERE {condition}")  # noqa: S608
        return found.fetchone()["n"]

    def execute(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        cursor = self._connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    def _alert(self, page: Page) -> None:
        # A sensor of its own for every alert: a series holds one open alert.
        name = f"sensor-{page.alert_id}"
        self._connection.execute(
            "INSERT INTO sensor (name, domain, zone) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (name, page.domain, page.zone),
        )
        self._connection.execute(
            "INSERT INTO series (sensor_id, quantity, unit)"
            " SELECT sensor_id, %s, %s FROM sensor WHERE name = %s ON CONFLICT DO NOTHING",
            (page.quantity, page.unit, name),
        )
        self._connection.execute(
            "INSERT INTO alert (alert_id, series_id, category, kind, severity, state, opened_at,"
            " seen, sentence) SELECT %s, series_id, %s, %s, %s, 'open', %s, %s, %s"
            " FROM series JOIN sensor USING (sensor_id) WHERE name = %s ON CONFLICT DO NOTHING",
            (
                page.alert_id,
                page.category,
                page.kind,
                page.severity,
                page.since,
                page.seen,
                page.sentence,
                name,
            ),
        )


class Hook(Receiver):
    """A receiver that answers its first posts as it is told."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock)
        self.script: deque[Answer] = deque()
        self.keys: list[str] = []
        self.times: list[float] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers["Idempotency-Key"])
        self.times.append(asyncio.get_running_loop().time())
        if self.script:
            return await self.script.popleft()(request)
        return await super().handle(request)


def answer(status: int, **headers: str) -> Answer:
    async def respond(_request: web.Request) -> web.Response:
        return web.Response(
            status=status, headers={name.replace("_", "-"): v for name, v in headers.items()}
        )

    return respond


@asynccontextmanager
async def hooked(hook: Hook | None = None) -> AsyncIterator[tuple[Hook, str]]:
    hook = hook or Hook()
    async with serve(hook) as url:
        yield hook, url


@asynccontextmanager
async def running(*pagers: Pager) -> AsyncIterator[asyncio.Event]:
    """Run pagers for the time of the block."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for pager in pagers:
            group.create_task(pager.run(stop))
        try:
            yield stop
        finally:
            stop.set()


async def eventually(condition: Callable[[], bool]) -> None:
    """Return when a condition that nothing announces holds; the test's bound ends the wait."""
    while not condition():  # noqa: ASYNC110 - it is a row of a database
        await asyncio.sleep(0.01)


class Road:
    """A TCP way to the database that can be broken and mended."""

    def __init__(self, dsn: str) -> None:
        parts = conninfo_to_dict(dsn)
        self._target = str(parts["host"]), int(parts.get("port") or 5432)
        self._dsn = dsn
        self._port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def dsn(self) -> str:
        return make_conninfo(self._dsn, host="127.0.0.1", port=self._port)

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers.add(far_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer))
                group.create_task(self._pump(far_reader, writer))
        finally:
            self._writers -= {writer, far_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

"""The console's HTTP side: a page, its files, and what it asks for.

Everything the page needs comes from this server, and the Content-Security-Policy says so; the
tile server is the one exception, where a city names one.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import psycopg
from aiohttp import web
from psycopg import AsyncConnection

from dashboards.console.charts import BusyError, Charts
from dashboards.console.feed import Feed, Viewer
from storage.migrate import session_options
from storage.queries import Connection

_log = logging.getLogger(__name__)

_HERE: Final = Path(__file__).parent
# Longest text a sensor or quantity may have: a topic level has at most 100 characters.
_MAX_NAME: Final = 100
DEFAULT_MINUTES: Final = 60
MAX_MINUTES: Final = 7 * 24 * 60
# No question of the console takes this long in a healthy database.
_STATEMENT_TIMEOUT_MS: Final = 5_000
_CONNECT_TIMEOUT_S: Final = 5
# A viewer that takes nothing for so long is gone.
_WRITE_TIMEOUT_S: Final = 15.0
# With nothing to tell, a comment shows whether the viewer is still there.
_KEEPALIVE_S: Final = 15.0
# Older than this the page's numbers are not live, whatever the poller says.
_HEALTHY_AGE: Final = timedelta(seconds=30)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")

FEED: Final = web.AppKey("feed", Feed)
CHARTS: Final = web.AppKey("charts", Charts)
_POLLER: Final = web.AppKey("poller", asyncio.Task)
_HEADERS: Final = web.AppKey("headers", dict)


def create_app(dsn: str, schema: str, *, tile_url: str | None) -> web.Application:
    """Return the console of one namespace.

    Parameters
    ----------
    dsn : str
        The database; it is only read.
    schema : str
        The namespace's schema.
    tile_url : str or None
        Template of the map's tiles, like ``https://tiles.example/{z}/{x}/{y}.png``; None draws
        the zones' outlines instead.

    Raises
    ------
    ValueError
        If `tile_url` is not such a template.
    """

    async def connect() -> Connection:
        return await AsyncConnection.connect(
            dsn,
            autocommit=True,
            connect_timeout=_CONNECT_TIMEOUT_S,
            application_name="citywatch-console",
            # The plans are many small index steps; compiling them costs more than running them.
            options=f"{session_options(schema)} -c default_transaction_read_only=on -c jit=off"
            f" -c statement_timeout={_STATEMENT_TIMEOUT_MS}",
        )

    app = web.Application()
    app[_HEADERS] = security_headers(tile_url)
    app[FEED] = Feed(connect, _now, schema, tile_url)
    app[CHARTS] = Charts(connect)
    app.cleanup_ctx.append(_run_feed)
    app.on_response_prepare.append(_add_headers)
    app.on_shutdown.append(_end_events)
    app.router.add_get("/", _page)
    app.router.add_static("/static/vendor", _HERE / "vendor")
    app.router.add_static("/static", _HERE / "static")
    app.router.add_get("/api/snapshot", _snapshot)
    app.router.add_get("/api/events", _events)
    app.router.add_get("/api/series", _series)
    app.router.add_get("/healthz", _health)
    return app


async def serve(
    dsn: str,
    schema: str,
    host: str,
    port: int,
    *,
    tile_url: str | None = None,
    started: Callable[[str], object] | None = None,
) -> None:
    """Serve the console until cancelled; `started` is told the address once it listens.

    Raises
    ------
    OSError
        If the address cannot be bound.
    ValueError
        If `tile_url` is not a template of tiles.
    """
    app = create_app(dsn, schema, tile_url=tile_url)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        if started is not None:
            bound: int = runner.addresses[0][1]
            started(f"http://{f'[{host}]' if ':' in host else host}:{bound}")
        await app[_POLLER]  # ends only by a fault of its own
    finally:
        await runner.cleanup()


def security_headers(tile_url: str | None) -> dict[str, str]:
    """Return the headers of every response: nothing from elsewhere but the tiles."""
    images = "'self'"
    if tile_url is not None:
        # Leaflet blanks a tile that it no longer wants with an empty image of its own.
        images += f" {_tile_origin(tile_url)} data:"
    return {
        "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
        f"connect-src 'self'; img-src {images}; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


def _tile_origin(tile_url: str) -> str:
    parts = urlsplit(tile_url)
    wanted = ("{z}", "{x}", "{y}")
    if (
        parts.scheme not in ("http", "https")
        or not _HOST.fullmatch(parts.netloc)
        or not all(name in parts.path + parts.query for name in wanted)
    ):
        raise ValueError(
            f"tile_url: expected http(s)://host/... with {{z}}, {{x}} and {{y}}, got {tile_url!r}"
        )
    return f"{parts.scheme}://{parts.netloc}"


def _now() -> datetime:
    return datetime.now(UTC)


async def _run_feed(app: web.Application) -> AsyncIterator[None]:
    poller = asyncio.create_task(app[FEED].run(), name="console-feed")
    poller.add_done_callback(_report)
    app[_POLLER] = poller
    yield
    poller.cancel()
    await asyncio.gather(poller, return_exceptions=True)
    await app[CHARTS].close()


def _report(poller: asyncio.Task[None]) -> None:
    if not poller.cancelled() and (error := poller.exception()) is not None:
        _log.critical("the console's poller broke", exc_info=error)


async def _end_events(app: web.Application) -> None:
    app[FEED].close()


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(request.app[_HEADERS])
    # Ask again each time; the files' ETag makes that cheap, and nobody sees an old page.
    response.headers.setdefault("Cache-Control", "no-cache")


async def _page(_: web.Request) -> web.FileResponse:
    return web.FileResponse(_HERE / "static" / "index.html")


async def _snapshot(request: web.Request) -> web.Response:
    snapshot = request.app[FEED].snapshot()
    if snapshot is None:
        return _refusal(503, "the database has not answered yet")
    return _json(snapshot)


async def _events(request: web.Request) -> web.StreamResponse:
    feed = request.app[FEED]
    viewer = feed.subscribe()
    if viewer is None:
        return _refusal(503, "too many viewers")
    try:
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",  # nginx would hold events back
            }
        )
        await response.prepare(request)
        while (data := await _next(viewer)) is not None:
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                await response.write(data)
    except (ConnectionError, TimeoutError):
        pass  # the viewer is gone
    finally:
        feed.unsubscribe(viewer)
    return response


async def _next(viewer: Viewer) -> bytes | None:
    try:
        async with asyncio.timeout(_KEEPALIVE_S):
            return await viewer.get()
    except TimeoutError:
        return b":\n\n"


async def _series(request: web.Request) -> web.Response:
    try:
        sensor = _name(request, "sensor")
        quantity = _name(request, "quantity")
        minutes = _minutes(request)
    except ValueError as error:
        return _refusal(400, str(error))
    until = _now()
    try:
        chart = await request.app[CHARTS].read(
            sensor, quantity, until - timedelta(minutes=minutes), until
        )
    except BusyError:
        return _refusal(503, "too many charts are being drawn")
    except (psycopg.Error, OSError) as error:  # TimeoutError is an OSError
        _log.warning("no chart", extra={"error": str(error)})
        return _refusal(503, "the database does not answer")
    if chart is None:
        return _refusal(404, f"no series {quantity!r} of sensor {sensor!r}")
    return _json(msgspec.json.encode(chart))


async def _health(request: web.Request) -> web.Response:
    feed = request.app[FEED]
    frame = feed.frame
    live = frame is not None and feed.stale_since is None and _now() - frame.at < _HEALTHY_AGE
    body = {
        "status": "ok" if live else "stale",
        "at": frame.at if frame is not None else None,
        "viewers": feed.viewers,
    }
    return _json(msgspec.json.encode(body), 200 if live else 503)


def _name(request: web.Request, key: str) -> str:
    text = request.query.get(key, "")
    if not 0 < len(text) <= _MAX_NAME or "\0" in text:
        raise ValueError(f"{key}: expected 1 to {_MAX_NAME} characters, got {len(text)}")
    return text


def _minutes(request: web.Request) -> int:
    text = request.query.get("minutes", str(DEFAULT_MINUTES))
    # The length is checked first: int() of a long text is slow.
    if len(text) <= len(str(MAX_MINUTES)) and text.isascii() and text.isdigit():
        minutes = int(text)
        if 1 <= minutes <= MAX_MINUTES:
            return minutes
    raise ValueError(f"minutes: expected a whole number from 1 to {MAX_MINUTES}")


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(
        body=body,
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _refusal(status: int, reason: str) -> web.Response:
    body: dict[str, Any] = {"error": reason}
    return _json(msgspec.json.encode(body), status)

"""The API's HTTP side: one application, what every answer carries, and how much it takes in."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final

import psycopg
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paging.api import alerts, duty, orders, screens
from paging.api.connections import MOST, Impatient
from paging.api.forms import Health
from paging.api.guard import Failures
from paging.api.problems import Problem, answer, install, responses
from paging.renewal import RoutesFile, refused
from paging.routes import Routes
from paging.threads import in_thread
from storage.migrate import session_options

log = logging.getLogger(__name__)

# The largest request is a silence with a hundred patterns of each label.
MAX_BODY_BYTES: Final = 64 * 1024
_MAX_HEAD_BYTES: Final = 16 * 1024
# What staff and their tools ask of the database at once; more wait, and more are sent away.
_CONNECTIONS: Final = 8
_WAITING: Final = 64
_CONCURRENCY: Final = 256
_STATEMENT_TIMEOUT_MS: Final = 5_000
_LOCK_TIMEOUT_MS: Final = 3_000
_IDLE_TIMEOUT_MS: Final = 10_000
_POOL_TIMEOUT_S: Final = 3.0
_CONNECT_TIMEOUT_S: Final = 5
_STOP_S: Final = 5
_LOOK_EVERY_S: Final = 1.0
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Strict-Transport-Security": "max-age=31536000",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
_DESCRIPTION: Final = """\
For people and tools on duty. Every operation needs a token, `Authorization: Bearer cw_…`, and the
role that stands in its `security`: a `viewer` reads, a `responder` also acknowledges, marks,
silences and stands in, an `admin` also plans maintenance and sends test pages. What does not fit
the form of a request is answered with 422, what fits and cannot be with 400, both as problem
details (RFC 9457). Lists are read on with `after`, the `next` of the part before.
"""


def create_app(
    dsn: str,
    schema: str,
    routes: Routes,
    *,
    failures: Failures | None = None,
    routes_file: RoutesFile | None = None,
    look_every_s: float = _LOOK_EVERY_S,
) -> FastAPI:
    """Return the API of one namespace.

    Parameters
    ----------
    dsn : str
        The database, as a member of the namespace's `api` group.
    schema : str
        The namespace's schema, migrated.
    routes : Routes
        As the pager has them: rotations, people, policies, shifts and the link in pages.
    failures : Failures, optional
        The bound on wrong tokens.
    routes_file : RoutesFile, optional
        Where the routes were read, to be taken up when it changes.
    look_every_s : float
        How often it is looked at.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncConnectionPool(
            dsn,
            open=False,
            min_size=1,
            max_size=_CONNECTIONS,
            max_waiting=_WAITING,
            timeout=_POOL_TIMEOUT_S,
            # A connection that broke while it lay there is not handed out.
            check=AsyncConnectionPool.check_connection,
            kwargs={
                "autocommit": True,
                "application_name": "citywatch-api",
                "connect_timeout": _CONNECT_TIMEOUT_S,
                "options": f"{session_options(schema)} -c jit=off"
                f" -c statement_timeout={_STATEMENT_TIMEOUT_MS}"
                f" -c lock_timeout={_LOCK_TIMEOUT_MS}"
                f" -c idle_in_transaction_session_timeout={_IDLE_TIMEOUT_MS}",
            },
        ) as pool:
            app.state.pool = pool
            watcher = asyncio.create_task(_watch(app, routes_file, look_every_s))
            watcher.add_done_callback(partial(_note_end, app))
            try:
                yield
            finally:
                watcher.cancel()
                await asyncio.wait({watcher})

    app = FastAPI(
        title="Citywatch",
        version="1",
        description=_DESCRIPTION,
        lifespan=lifespan,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=responses(400, 401, 403, 413, 422, 429, 503),
    )
    app.state.routes = routes
    app.state.failures = failures or Failures()
    app.state.fault = None
    app.state.failed = asyncio.Event()
    app.add_api_route(
        "/healthz",
        _health,
        methods=["GET"],
        response_model=Health,
        responses={503: {"model": Health, "description": "The database does not answer"}},
        summary="Say whether the API can do its work",
        tags=["health"],
    )
    for router in (alerts.router, orders.router, duty.router):
        app.include_router(router)
    app.include_router(screens.router, include_in_schema=False)
    parts = (app, alerts.router, orders.router, duty.router, screens.router)
    app.state.operations = [
        route for part in parts for route in part.routes if isinstance(route, Route)
    ]
    install(app)
    app.add_middleware(Bounds)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


async def serve(
    app: FastAPI,
    host: str,
    port: int,
    stop: asyncio.Event,
    *,
    started: Callable[[str], object] | None = None,
) -> None:
    """Serve the API until `stop` is set; `started` is told the address once it listens.

    Raises
    ------
    OSError
        If the address cannot be bound.
    Exception
        If what goes on beside the requests has failed: better none than one that serves on with
        routes of which nobody knows how old they are.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="none",
        http=Impatient,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        # Whoever comes is who the socket says: of a forged header an attacker could make a new
        # address for every guess.
        proxy_headers=False,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
        timeout_graceful_shutdown=_STOP_S,
    )
    listening = _listen(host, port)
    server = _Server(config)
    try:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        if started is not None:
            shown = f"[{host}]" if ":" in host else host
            started(f"http://{shown}:{listening.getsockname()[1]}")
        stopping = asyncio.create_task(stop.wait())
        failing = asyncio.create_task(app.state.failed.wait())
        await asyncio.wait({serving, stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        stopping.cancel()
        failing.cancel()
        await serving
    finally:
        listening.close()
    if app.state.fault is not None:
        raise app.state.fault


def _listen(host: str, port: int) -> socket.socket:
    """Listen from here on: who comes while the rest starts waits, and is not refused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By name of the protocol, because asyncio turns Nagle's algorithm off by that name alone: with
    # it each small answer would wait 40 ms for the acknowledgement of its head.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(MOST)
    except OSError:
        listening.close()
        raise
    return listening


class _Server(uvicorn.Server):
    """One that leaves signals to the command line."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class Bounds:
    """Takes in so much of a body and so many requests at most; all answers get the same headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._asking = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def finish(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            body = await _body(receive)
        except ClientDisconnect:
            return
        if body is None:
            refusal = answer(
                413, f"{MAX_BODY_BYTES} bytes at most", headers={"Connection": "close"}
            )
            await refusal(scope, receive, finish)
            return
        # Only now: a request that does not come keeps nobody out.
        if self._asking >= _CONCURRENCY:
            refusal = answer(503, "too many ask at once", headers={"Retry-After": "1"})
            await refusal(scope, receive, finish)
            return
        self._asking += 1
        try:
            await self._app(scope, _given(body, receive), finish)
        finally:
            self._asking -= 1


async def _body(receive: Receive) -> bytes | None:
    """Return the whole body; None where it is too large.

    Raises
    ------
    ClientDisconnect
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _given(body: bytes, receive: Receive) -> Receive:
    """Return how the application takes in a body that is there already."""
    left = [body]

    async def take() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return take


async def _health(request: Request, response: Response) -> Health:
    """Answer without a token, and say nothing of the city."""
    try:
        async with request.app.state.pool.connection() as connection:
            await connection.execute("SELECT FROM api_token LIMIT 0")
    except (psycopg.Error, PoolTimeout, TooManyRequests) as error:
        log.warning("the database does not answer", extra={"error": type(error).__name__})
        response.status_code = 503
        return Health(status="away")
    return Health(status="ok")


async def _watch(app: FastAPI, file: RoutesFile | None, look_every_s: float) -> None:
    """Take up a routes file that has changed; one that cannot be used is said once."""
    while file is not None:
        await asyncio.sleep(look_every_s)
        try:
            # On a thread: the file may be large, and its disk may be away.
            routes = await in_thread(file.changed, "routes-file")
        except Exception as error:  # noqa: BLE001 - no file stops the API, whatever is in it
            refused(error)
            continue
        if routes is not None:
            app.state.routes = routes
            log.info("the routes file was taken up", extra={"routes": len(routes.routes)})


def _note_end(app: FastAPI, watcher: asyncio.Task[None]) -> None:
    """Let the API end by what has ended its watcher."""
    if not watcher.cancelled() and (fault := watcher.exception()) is not None:
        app.state.fault = fault
        app.state.failed.set()


def _document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        components = document["components"]["schemas"]
        components["Problem"] = Problem.model_json_schema(
            ref_template="#/components/schemas/{model}"
        )
        components |= components["Problem"].pop("$defs", {})
        # FastAPI's own form of a fault, which is not used here.
        for name in ("HTTPValidationError", "ValidationError"):
            components.pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema

"""Whoever opens connections and sends no request keeps nobody out."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from paging.api import connections, server
from paging.routes import Routes
from storage.migrate import session_options
from tests.paging.api.conftest import Api, served

pytestmark = pytest.mark.integration

HALF_A_HEAD = b"GET /v1/alerts HTTP/1.1\r\nHost: x\r\n"
HALF_A_BODY = b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\ntoken"

Serve = Callable[[], AbstractContextManager[Api]]


@pytest.fixture
def serve(api: Api, routes: Routes) -> Serve:
    """Return how to serve the same once more, by the bounds that a test has set."""

    @contextmanager
    def serve() -> Iterator[Api]:
        inside = make_conninfo(api.dsn, user=f"{api.schema}_service", password="secret")
        with served(inside, api.schema, routes) as url:
            yield Api(url, api.dsn, api.schema, api.table, api.tokens)

    return serve


def connected(api: Api, data: bytes) -> socket.socket:
    host, port = api.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(data)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Wait until the other side has closed."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def silence() -> dict[str, object]:
    ends = datetime.now(UTC) + timedelta(hours=1)
    return {"match": {"zone": "harbour"}, "ends_at": ends.isoformat(), "comment": "works"}


@contextmanager
def no_silence_can_be_made(api: Api) -> Iterator[Callable[[], None]]:
    """Hold up those who write one; the block gets how to let them go on."""
    with psycopg.connect(api.dsn, options=session_options(api.schema)) as connection:
        connection.execute("LOCK TABLE silence IN EXCLUSIVE MODE")
        yield connection.rollback


@pytest.mark.parametrize("part", [HALF_A_HEAD, HALF_A_BODY, b""], ids=["head", "body", "nothing"])
def test_three_hundred_half_requests_shut_nobody_out(api: Api, part: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connected(api, part))
        assert api.get("/v1/alerts").status_code == 200


def test_of_too_many_connections_the_oldest_without_a_request_goes(
    api: Api, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST", 10)
    monkeypatch.setattr(connections, "REQUEST_S", 60.0)
    with ExitStack() as stack:
        other = stack.enter_context(serve())
        release = stack.enter_context(no_silence_can_be_made(api))
        asking = stack.enter_context(ThreadPoolExecutor(1)).submit(
            other.post, "/v1/silences", silence()
        )
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = %s"
        while not api.table.execute(waits, f"{api.schema}_service"):
            time.sleep(0.01)
        held = [stack.enter_context(connected(other, HALF_A_HEAD)) for _ in range(40)]
        assert other.get("/v1/alerts").status_code == 200
        assert all(map(is_closed, held[:30]))
        held[-1].sendall(b"\r\n")
        assert held[-1].recv(12) == b"HTTP/1.1 401"
        release()
        assert asking.result().status_code == 201, "who asks is not cut off"


@pytest.mark.parametrize("part", [HALF_A_HEAD, HALF_A_BODY, b""], ids=["head", "body", "nothing"])
def test_a_request_that_does_not_come_is_not_waited_for(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, part: bytes
) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.5)
    with serve() as other:
        begun = time.monotonic()
        with connected(other, part) as connection:
            assert is_closed(connection)
        assert time.monotonic() - begun >= 0.5


def test_who_sends_a_letter_at_a_time_is_not_waited_for_either(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.5)
    with serve() as other, connected(other, HALF_A_HEAD) as connection:
        ends = time.monotonic() + 20
        with pytest.raises(OSError, match=r"pipe|reset"):  # noqa: PT012 - until it fails
            while time.monotonic() < ends:
                connection.sendall(b"X")
                time.sleep(0.05)


def test_an_answer_that_takes_long_is_waited_for(
    api: Api, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.2)
    with serve() as other, ThreadPoolExecutor(1) as pool, no_silence_can_be_made(api) as release:
        asking = pool.submit(other.post, "/v1/silences", silence())
        time.sleep(1.0)
        assert not asking.done()
        release()
        assert asking.result().status_code == 201


def test_but_not_for_ever(api: Api, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_S", 0.1)
    monkeypatch.setattr(connections, "ANSWER_S", 0.2)
    body = json.dumps(silence()).encode()
    head = (
        f"POST /v1/silences HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.tokens['responder']}"
        f"\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with (
        serve() as other,
        no_silence_can_be_made(api),
        connected(other, head.encode() + body) as connection,
    ):
        assert is_closed(connection)


def test_more_than_can_be_answered_are_told_so(
    api: Api, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_CONCURRENCY", 2)
    with serve() as other, ThreadPoolExecutor(6) as pool, no_silence_can_be_made(api) as release:
        asking = [pool.submit(other.post, "/v1/silences", silence()) for _ in range(6)]
        while sum(one.done() for one in asking) < 4:
            time.sleep(0.01)
        refused = [one.result() for one in asking if one.done()]
        release()
        assert sorted(one.result().status_code for one in asking) == [201, 201, 503, 503, 503, 503]
        assert other.get("/v1/alerts").status_code == 200
    for one in refused:
        assert one.headers["Content-Type"] == "application/problem+json"
        assert one.headers["X-Content-Type-Options"] == "nosniff"
        assert (one.json()["status"], one.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize(
    "sent", [b"sesame\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\r\n\r\n"]
)
def test_what_is_no_http_is_answered_as_all_else_is(api: Api, sent: bytes) -> None:
    with connected(api, sent) as connection:
        said = b"".join(iter(lambda: connection.recv(4_096), b""))
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    assert json.loads(body)["status"] == 400

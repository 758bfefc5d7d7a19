"""Pushing to Grafana, against a stand-in.

Grafana's own server is not to be had from a package registry, so these tests run against a small
HTTP server that keeps to the contract of Grafana's documented HTTP API: bearer tokens, 404 for
what is absent, 409 and 412 for what is there already, JSON answers. Whether a real Grafana takes
the same requests is not shown here.
"""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import dashboards.push
from dashboards.grafana import DASHBOARD_UID, DATASOURCE_UID, FOLDER_UID, overview
from dashboards.push import PushError, push

TOKEN = "glsa_a-token"
DSN = "postgresql://reader:s3cret@db.example:5433/city?sslmode=require"


class FakeGrafana(ThreadingHTTPServer):
    """Keeps folders, datasources and dashboards as the API's documentation says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: list[tuple[str, str]] = []
        self.folders: dict[str, Any] = {}
        self.datasources: dict[str, Any] = {}
        self.dashboards: dict[str, Any] = {}
        self.answer: tuple[int, bytes] | None = None
        self.hang = threading.Event()
        self.hangs = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeGrafana

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length) or b"null")
        self.server.calls.append((self.command, self.path))
        if self.server.hangs:
            self.server.hang.wait(10)
        status, answer = self.server.answer or self._answer(body)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = _handle  # noqa: N815 - names of the standard library

    def _answer(self, body: Any) -> tuple[int, Any]:  # noqa: C901, PLR0911 - one table of routes
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"message": "Invalid API key"}
        match self.command, self.path.removeprefix("/api/").split("/"):
            case "GET", ["folders", uid]:
                return self._look_up(self.server.folders, uid)
            case "POST", ["folders"]:
                if body["uid"] in self.server.folders:
                    return 409, {"message": "a folder with that uid exists"}
                self.server.folders[body["uid"]] = body
                return 200, body
            case "GET", ["datasources", "uid", uid]:
                return self._look_up(self.server.datasources, uid)
            case "POST", ["datasources"]:
                if body["uid"] in self.server.datasources:
                    return 409, {"message": "data source with the same name already exists"}
                self.server.datasources[body["uid"]] = body
                return 200, {"message": "Datasource added"}
            case "PUT", ["datasources", "uid", uid]:
                if uid not in self.server.datasources:
                    return 404, {"message": "Data source not found"}
                self.server.datasources[uid] = body
                return 200, {"message": "Datasource updated"}
            case "POST", ["dashboards", "db"]:
                return self._save(body)
        return 404, {"message": "Not found"}

    def _look_up(self, shelf: dict[str, Any], uid: str) -> tuple[int, Any]:
        return (200, shelf[uid]) if uid in shelf else (404, {"message": "not found"})

    def _save(self, body: Any) -> tuple[int, Any]:
        board = body["dashboard"]
        if body["folderUid"] not in self.server.folders:
            return 400, {"message": "folder not found"}
        if board["uid"] in self.server.dashboards and not body["overwrite"]:
            return 412, {"status": "name-exists", "message": "exists"}
        self.server.dashboards[board["uid"]] = body
        return 200, {"uid": board["uid"], "url": f"/d/{board['uid']}/x", "status": "success"}


@pytest.fixture
def grafana() -> Iterator[FakeGrafana]:
    server = FakeGrafana()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.hang.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_creates_folder_datasource_and_dashboard(grafana: FakeGrafana) -> None:
    assert push(grafana.url, TOKEN, dsn=DSN) == f"{grafana.url}/d/{DASHBOARD_UID}/x"
    assert grafana.calls == [
        ("GET", f"/api/folders/{FOLDER_UID}"),
        ("POST", "/api/folders"),
        ("GET", f"/api/datasources/uid/{DATASOURCE_UID}"),
        ("POST", "/api/datasources"),
        ("POST", "/api/dashboards/db"),
    ]
    saved = grafana.dashboards[DASHBOARD_UID]
    assert saved["folderUid"] == FOLDER_UID
    assert saved["dashboard"] == overview() | {"id": None}
    source = grafana.datasources[DATASOURCE_UID]
    assert source["url"] == "db.example:5433"
    assert source["user"] == "reader"
    assert source["jsonData"]["database"] == "city"
    assert source["jsonData"]["sslmode"] == "require"
    assert source["secureJsonData"] == {"password": "s3cret"}


def test_again_updates_and_makes_nothing_twice(grafana: FakeGrafana) -> None:
    push(grafana.url, TOKEN, dsn=DSN)
    grafana.calls.clear()
    push(grafana.url, TOKEN, dsn=DSN.replace("s3cret", "newer"))
    assert ("POST", "/api/folders") not in grafana.calls
    assert ("POST", "/api/datasources") not in grafana.calls
    assert grafana.datasources[DATASOURCE_UID]["secureJsonData"] == {"password": "newer"}
    assert len(grafana.folders) == len(grafana.datasources) == len(grafana.dashboards) == 1


def test_a_provisioned_datasource_is_left_alone(grafana: FakeGrafana) -> None:
    provisioned = {"uid": DATASOURCE_UID, "readOnly": True}
    grafana.datasources[DATASOURCE_UID] = provisioned
    push(grafana.url, TOKEN, dsn=DSN)
    assert grafana.datasources[DATASOURCE_UID] is provisioned


def test_without_a_dsn_the_datasource_must_be_there(grafana: FakeGrafana) -> None:
    with pytest.raises(PushError, match="no datasource 'citywatch-database'"):
        push(grafana.url, TOKEN)
    assert not grafana.dashboards
    grafana.datasources[DATASOURCE_UID] = {"uid": DATASOURCE_UID}
    push(grafana.url, TOKEN)
    assert grafana.dashboards


def test_a_path_prefix_is_kept(grafana: FakeGrafana) -> None:
    with pytest.raises(PushError, match="refused POST folders"):
        push(f"{grafana.url}/grafana/", TOKEN)
    assert grafana.calls[0] == ("GET", f"/grafana/api/folders/{FOLDER_UID}")


@pytest.mark.parametrize("token", [None, ""])
def test_no_token(grafana: FakeGrafana, token: str | None) -> None:
    with pytest.raises(PushError, match=r"no Grafana token: set grafana\.token"):
        push(grafana.url, token)
    assert not grafana.calls


def test_a_wrong_token(grafana: FakeGrafana) -> None:
    with pytest.raises(PushError, match="401") as caught:
        push(grafana.url, "another")
    assert "another" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (403, b'{"message": "no"}', "role Admin"),
        (400, b'{"message": "bad"}', "refused GET folders"),
        (412, b'{"status": "version-mismatch", "message": "m"}', "refused GET folders"),
        (500, b"oops", "failed at GET folders"),
        (200, b"<html>a proxy</html>", "does not answer as Grafana does"),
    ],
)
def test_other_answers(grafana: FakeGrafana, status: int, body: bytes, words: str) -> None:
    grafana.answer = status, body
    with pytest.raises(PushError, match=words):
        push(grafana.url, TOKEN)


def test_an_empty_answer_is_a_yes(grafana: FakeGrafana) -> None:
    grafana.answer = 204, b""
    assert push(grafana.url, TOKEN, dsn=DSN).endswith(f"/d/{DASHBOARD_UID}")


def test_nobody_there() -> None:
    with socket.socket() as taken:  # bound and not listening: refused for sure
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(PushError, match="cannot be reached"):
            push(f"http://127.0.0.1:{taken.getsockname()[1]}", TOKEN)


def test_too_slow(grafana: FakeGrafana, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboards.push, "TIMEOUT_S", (1.0, 0.2))
    grafana.hangs = True
    with pytest.raises(PushError, match="does not answer in time"):
        push(grafana.url, TOKEN)


@pytest.mark.parametrize("url", ["grafana:3000", "ftp://x", "http://", "http://x:port"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(PushError, match=r"grafana\.url"):
        push(url, TOKEN)


def test_a_dsn_that_is_none_does_not_show_its_password(grafana: FakeGrafana) -> None:
    with pytest.raises(PushError) as caught:
        push(grafana.url, TOKEN, dsn="host=x password=hush nonsense")
    assert "hush" not in str(caught.value)

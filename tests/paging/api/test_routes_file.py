"""The API has the routes as they are, while it serves."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from psycopg.conninfo import make_conninfo

from paging.api.server import create_app, serve
from paging.hooks.kinds import KINDS
from paging.renewal import RoutesFile
from paging.routes import Routes, read_routes
from tests.paging.api.conftest import ROUTES, Api, served

pytestmark = pytest.mark.integration

_BOUND_S = 20.0


def soon(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + _BOUND_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_changed_file_is_taken_up_and_a_faulty_one_is_not(
    api: Api, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(ROUTES, encoding="utf-8")
    file = RoutesFile(path, lambda text: read_routes(text, KINDS))
    inside = make_conninfo(api.dsn, user=f"{api.schema}_service", password="secret")
    headers = {"Authorization": f"Bearer {api.tokens['viewer']}"}
    look = {"routes_file": file, "look_every_s": 0.05}
    with (
        served(inside, api.schema, file.read(), **look) as url,
        pytest.MonkeyPatch.context() as patch,
    ):

        def rotations() -> list[str]:
            answer = requests.get(f"{url}/v1/oncall", headers=headers, timeout=20)
            return [one["rotation"] for one in answer.json()]

        assert rotations() == ["primary"]
        path.write_text(ROUTES.replace("rotation.primary", "rotation.night"), encoding="utf-8")
        soon(lambda: "cannot be used" in caplog.text)
        assert rotations() == ["primary"], "policies lead to a rotation that is not there"

        path.write_text(ROUTES.replace("primary", "night"), encoding="utf-8")
        soon(lambda: rotations() == ["night"])

        caplog.clear()
        patch.setattr(file, "_parse", fails)
        path.write_text(ROUTES, encoding="utf-8")
        soon(lambda: "in fails" in caplog.text)
        assert rotations() == ["night"], "what nobody foresaw leaves the last good one in force"
        patch.undo()
        path.write_text(ROUTES + "\n", encoding="utf-8")
        soon(lambda: rotations() == ["primary"])


def fails(_text: str) -> Routes:
    raise KeyError("a fault of the program")


class Broken(RoutesFile):
    """A routes file that ends whoever looks at it."""

    def changed(self) -> Routes | None:
        raise SystemError("a fault of the program")


def test_an_api_that_nobody_tells_of_changes_any_more_ends(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(error: Exception) -> None:
        raise error

    monkeypatch.setattr("paging.api.server.refused", again)
    file = Broken(tmp_path / "routes.toml", fails)
    app = create_app(
        api.dsn, api.schema, read_routes(ROUTES, KINDS), routes_file=file, look_every_s=0.05
    )

    async def work() -> None:
        async with asyncio.timeout(_BOUND_S):
            await serve(app, "127.0.0.1", 0, asyncio.Event())

    with pytest.raises(SystemError, match="a fault of the program"):
        asyncio.run(work())

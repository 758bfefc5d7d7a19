"""The API has the routes as they are, while it serves."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from psycopg.conninfo import make_conninfo

from paging.hooks.kinds import KINDS
from paging.renewal import RoutesFile
from paging.routes import read_routes
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
    with served(inside, api.schema, file.read(), **look) as url:

        def rotations() -> list[str]:
            answer = requests.get(f"{url}/v1/oncall", headers=headers, timeout=20)
            return [one["rotation"] for one in answer.json()]

        assert rotations() == ["primary"]
        path.write_text(ROUTES.replace("rotation.primary", "rotation.night"), encoding="utf-8")
        soon(lambda: "cannot be used" in caplog.text)
        assert rotations() == ["primary"], "policies lead to a rotation that is not there"

        path.write_text(ROUTES.replace("primary", "night"), encoding="utf-8")
        soon(lambda: rotations() == ["night"])

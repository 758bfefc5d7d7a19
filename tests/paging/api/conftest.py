import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import requests
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from ingest.topics import database_schema
from paging.api.guard import Failures
from paging.api.server import create_app, serve
from paging.api.tokens import ROLES, Role, create
from paging.hooks.kinds import KINDS
from paging.routes import Routes, read_routes
from storage.migrate import migrate, session_options
from storage.roles import GROUPS, grant, group_role
from tests.paging.scaffold import Table

ROUTES = """
[pager]
link = "http://127.0.0.1:8081"
[hook.control]
type = "webhook"
url = { env = "NOBODY" }
[hook.phone]
type = "webhook"
url = { env = "NOBODY" }
[person.anna]
phone = "+1"
[person.bo]
phone = "+2"
[person.carl]
control = true
[rotation.primary]
people = ["anna", "bo"]
first_day = 2026-01-05
[policy.day]
steps = [{ to = ["hook:control", "oncall:primary"] }, { after = "5m", to = ["person:bo"] }]
[policy.night]
steps = [{ to = ["oncall:primary/phone"] }]
[[route]]
name = "city"
policy = "day"
"""


@dataclass
class Api:
    """An API that serves, its database, and a token of each role."""

    url: str
    dsn: str
    schema: str
    table: Table
    tokens: dict[str, str] = field(default_factory=dict)

    def ask(self, role: str | None, method: str, path: str, **more: Any) -> requests.Response:
        headers = more.pop("headers", {})
        if role is not None:
            headers = headers | {"Authorization": f"Bearer {self.tokens.get(role, role)}"}
        return requests.request(
            method,
            self.url + path,
            headers=headers,
            timeout=20,
            **{"allow_redirects": False} | more,
        )

    def get(self, path: str, role: str | None = "viewer", **more: Any) -> requests.Response:
        return self.ask(role, "GET", path, **more)

    def post(self, path: str, body: Any, role: str | None = "responder") -> requests.Response:
        return self.ask(role, "POST", path, json=body)

    def token(self, name: str, role: Role, days: int = 1) -> str:
        """Make a token as the owner of the schema does."""

        async def make() -> str:
            async with await psycopg.AsyncConnection.connect(
                self.dsn, options=session_options(self.schema), autocommit=True
            ) as connection:
                return (await create(connection, name, role, days))[0]

        return asyncio.run(make())


@pytest.fixture(scope="module")
def routes() -> Routes:
    return read_routes(ROUTES, KINDS)


@pytest.fixture(scope="module")
def api(dsn: str, routes: Routes) -> Iterator[Api]:
    """Serve the API of a namespace of the module's own, with the rights of its group alone."""
    schema = database_schema(f"replay-a{uuid4().hex[:12]}")
    login = f"{schema}_service"
    migrate(dsn, schema)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(Identifier(login)))
        try:
            # As in the live city, which alone has such a group.
            assert grant(dsn, schema, {"api": [login]}, is_live=True) == []
            table = Table(dsn, schema)
            inside = make_conninfo(dsn, user=login, password="secret")
            with served(inside, schema, routes) as url:
                made = Api(url, dsn, schema, table)
                for role in ROLES:
                    made.tokens[role] = made.token(
                        f"{'an' if role == 'admin' else 'a'}-{role}", role
                    )
                yield made
            table.close()
        finally:
            connection.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(schema)))
            for role in (login, *(group_role(schema, group) for group in GROUPS)):
                connection.execute(SQL("DROP ROLE IF EXISTS {}").format(Identifier(role)))


class served:  # noqa: N801 - it is used as a function
    """Serve an API on a thread of its own for the time of the block; the block gets its address."""

    def __init__(
        self, dsn: str, schema: str, routes: Routes, failures: Failures | None = None, **more: Any
    ) -> None:
        # Tests are refused more often than people.
        bound = failures or Failures(burst=1_000_000)
        self._app = create_app(dsn, schema, routes, failures=bound, **more)
        self._url = ""
        self._ready = threading.Event()
        self._end: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name="api")

    def __enter__(self) -> str:
        self._thread.start()
        assert self._ready.wait(20)
        return self._url

    def __exit__(self, *_: object) -> None:
        self._end()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        async def run() -> None:
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            self._end = lambda: loop.call_soon_threadsafe(stop.set)

            def started(url: str) -> None:
                self._url = url
                self._ready.set()

            await serve(self._app, "127.0.0.1", 0, stop, started=started)

        asyncio.run(run())


def served_securely(api: Api, routes: Routes) -> served:
    """Serve the same behind a proxy that people reach by TLS."""
    inside = make_conninfo(api.dsn, user=f"{api.schema}_service", password="secret")
    return served(inside, api.schema, replace(routes, link="https://duty.city.example"))

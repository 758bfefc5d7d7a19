"""Hosts that have names, and a name service that does not answer."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from paging.hooks import Retry
from paging.hooks.http import Poster, checked_url
from paging.hooks.kinds import KINDS
from paging.pager import Pager
from paging.routes import read_routes
from tests.paging.scaffold import Table, eventually, hooked, page_of, running
from tests.paging.test_renewal import routes_text

PagerOf = Callable[..., Pager]
# More than the event loop's pool ever has threads.
DEAD = 33


class NameService:
    """The system's, of which some names hang until it is let go."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.may_answer = threading.Event()
        self._ask = socket.getaddrinfo

    def __call__(self, host: Any, *rest: Any, **more: Any) -> Any:
        if not str(host).endswith(".city.example"):
            return self._ask(host, *rest, **more)
        self.asked[host] += 1
        self.may_answer.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameService]:
    """Stand in for a name service that is dead: where it is, only the system's owner can say."""
    service = NameService()
    monkeypatch.setattr(socket, "getaddrinfo", service)
    yield service
    service.may_answer.set()


@pytest.mark.integration
def test_hooks_whose_names_hang_delay_no_other(
    table: Table, pager_of: PagerOf, names: NameService
) -> None:
    async def work() -> None:
        async with hooked() as (hook, url):
            urls = {f"dead{one}": f"http://dead{one}.city.example/" for one in range(DEAD)}
            urls["well"] = url.replace("127.0.0.1", "localhost")
            text = routes_text(**urls).replace(
                'type = "webhook"', 'type = "webhook"\ntimeout_s = 0.5'
            )
            routes = read_routes(text, KINDS)
            try:
                async with running(pager_of(routes=routes)):
                    table.put(page_of(sensor="first"))
                    await eventually(lambda: len(names.asked) == DEAD)
                    # Of the dead ones attempts are over, and their look-ups are not.
                    late = "hook <> 'well' AND last_error = 'not told within 0.5 s'"
                    await eventually(lambda: table.count(late) == DEAD)
                    table.put(page_of(sensor="second"))
                    await eventually(
                        lambda: table.count("hook = 'well' AND delivered_at IS NOT NULL") == 2
                    )
                    assert hook.posts == 2
            finally:
                names.may_answer.set()

    async def main() -> None:
        async with asyncio.timeout(40):
            await work()

    asyncio.run(main())


def test_attempts_that_want_one_name_ask_once(names: NameService) -> None:
    async def work() -> list[BaseException | None]:
        async with Poster(timeout_s=0.2) as poster:
            url = checked_url("http://hangs.city.example/")
            posts = [poster.post(url, b"", {}) for _ in range(20)]
            return await asyncio.gather(*posts, return_exceptions=True)

    found = asyncio.run(work())
    assert {type(one) for one in found} == {Retry}
    assert names.asked == {"hangs.city.example": 1}


def test_who_has_no_name_is_tried_again_and_said_by_host(names: NameService) -> None:
    async def work() -> None:
        names.may_answer.set()
        async with Poster() as poster:
            with pytest.raises(Retry, match=r"^none\.city\.example: ClientConnectorDNSE") as caught:
                await poster.post(checked_url("http://none.city.example/x"), b"", {})
            assert not caught.value.may_have_come

    asyncio.run(work())

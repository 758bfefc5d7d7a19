"""Real pager, real API: whoever says that they have a page has it, whatever kind of page it is."""

import asyncio
from collections.abc import Awaitable
from typing import Any
from uuid import uuid4

import pytest

from paging.hooks.kinds import KINDS
from paging.pager import Pager, PagerConfig
from paging.routes import read_routes
from paging.sender import SenderConfig
from storage.pages import Page
from tests.paging.api.conftest import Api
from tests.paging.conftest import QUICK
from tests.paging.scaffold import Hook, hooked, page_of, running

pytestmark = pytest.mark.integration

LADDER = """
[hook.phone]
type = "webhook"
url = "{url}"
[person.anna]
phone = "1"
[person.bo]
phone = "2"
[policy.ladder]
steps = [{{ to = ["person:anna"] }}, {{ after = "{after}", to = ["person:bo"] }}]
[[route]]
name = "all"
policy = "ladder"
group_by = ["zone"]
group_wait = "0s"
{more}
"""


def pager(api: Api, url: str, *, after: str = "1h", more: str = "") -> Pager:
    # What other tests left is not told here.
    api.table.execute("UPDATE outbox SET decided_at = now() WHERE decided_at IS NULL")
    routes = read_routes(LADDER.format(url=url, after=after, more=more), KINDS)
    config = PagerConfig(routes=routes, sender=SenderConfig(**QUICK))
    return Pager(api.dsn, api.schema, "live", config)


def alone(**facts: Any) -> Page:
    """Return a page of a zone that no other test has."""
    zone = f"zone-{uuid4().hex[:8]}"
    return page_of(**{"zone": zone, "sensor": f"traffic-{zone}"} | facts)


def lasting(night: Awaitable[None], seconds: float = 40) -> None:
    async def main() -> None:
        async with asyncio.timeout(seconds):
            await night

    asyncio.run(main())


async def ask(api: Api, method: str, path: str, body: Any = None) -> Any:
    answer = await asyncio.to_thread(api.ask, "responder", method, path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def heard(hook: Hook, count: int) -> list[tuple[str, str | None]]:
    """Return what people were told, once it is so much: each event, and who has it."""
    await hook.wait_for(lambda hook: hook.posts >= count)
    return [(one.notice.event, one.notice.actor) for one in hook.arrivals]


def test_a_summary_leads_to_all_that_it_speaks_for(api: Api) -> None:
    first, second, third = alone(), alone(), alone()

    async def night() -> None:
        budget = "[shift]\nbudget = 1"
        async with hooked() as (hook, url), running(pager(api, url, more=budget)):
            api.table.put(first)
            await hook.wait_for(lambda hook: hook.posts == 1)
            api.table.put(second)
            await hook.wait_for(lambda hook: hook.posts == 2)
            summary = hook.arrivals[-1].notice
            assert summary.cause == "budget"
            # What joins a cause that it speaks for already, too.
            joined = alone(zone=second.zone)
            api.table.put(third, joined)
            wanted = {str(one.alert_id) for one in (second, third, joined)}
            path = f"/v1/pages/{summary.group}"
            members: set[str] = set()
            while members != wanted:
                page = await ask(api, "GET", path)
                members = {one["alert_id"] for one in page["members"]}
            changed = await ask(api, "POST", f"{path}/acknowledgement", {})
            assert changed["changed"] == 3
            await hook.wait_for(lambda hook: hook.arrivals[-1].notice.event == "acknowledge")
            assert hook.arrivals[-1].notice.actor == "a-responder"
            marked = await ask(api, "PUT", f"/v1/alerts/{third.alert_id}/mark", {})
            assert marked == {"pages": [summary.group]}

    lasting(night())

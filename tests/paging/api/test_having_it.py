"""Real pager, real API: whoever says that they have a page has it, whatever kind of page it is."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
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
from tests.paging.scaffold import Hook, eventually, hooked, page_of, resolution_of, running

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


def test_what_somebody_has_while_it_is_silenced_wakes_nobody_later(api: Api) -> None:
    one = alone()

    async def night() -> None:
        async with hooked() as (hook, url), running(pager(api, url)):
            silence = {
                "match": {"zone": one.zone},
                "ends_at": (datetime.now(UTC) + timedelta(seconds=4)).isoformat(),
                "comment": "works",
            }
            made = await asyncio.to_thread(api.post, "/v1/silences", silence)
            assert made.status_code == 201
            api.table.put(one)
            await eventually(lambda: bool(api.table.said(one)))
            path = f"/v1/alerts/{one.alert_id}/acknowledgement"
            assert (await ask(api, "POST", path, {}))["changed"] == 1
            await eventually(
                lambda: "escalation: a-responder has all that is left of it" in api.table.said(one)
            )
            assert hook.posts == 0

    lasting(night())


@pytest.mark.parametrize("what", ["pages", "alerts"])
def test_a_page_that_is_held_open_can_be_acknowledged(api: Api, what: str) -> None:
    zone = alone().zone
    pages = [page_of(zone=zone, sensor=zone) for _ in range(2)]
    flapping = '[flapping]\ntimes = 1\nwithin = "1h"'

    async def night() -> None:
        async with hooked() as (hook, url), running(pager(api, url, more=flapping)):
            for page in pages:
                api.table.put(page)
                await hook.wait_for(lambda hook: is_told(hook, "trigger"))
                api.table.put(resolution_of(page))
                api.table.execute(
                    "UPDATE alert SET state = 'resolved', resolved_at = now() WHERE alert_id = %s",
                    page.alert_id,
                )
                if page is pages[0]:
                    await hook.wait_for(lambda hook: is_told(hook, "resolve"))
            await eventually(lambda: any("it flaps" in one for one in api.table.said(pages[1])))
            # The second is held open.
            (key,) = {one.notice.group for one in hook.arrivals[2:]}
            screen = await asyncio.to_thread(_screen, api, f"/groups/{key}")
            assert "I have it" in screen
            screen = await asyncio.to_thread(_screen, api, f"/alerts/{pages[1].alert_id}")
            assert "I have it" in screen
            of = key if what == "pages" else pages[1].alert_id
            path = f"/v1/{what}/{of}/acknowledgement"
            assert (await ask(api, "POST", path, {}))["changed"] == (what == "alerts")
            await hook.wait_for(lambda hook: hook.posts == 4)
            last = hook.arrivals[-1].notice
            assert (last.event, last.actor) == ("acknowledge", "a-responder")
            (group,) = api.table.execute("SELECT body FROM page_group WHERE group_key = %s", key)
            assert "next_step_at" not in group["body"]
            # Once more changes nothing.
            before = api.table.count("true", "outbox")
            await asyncio.to_thread(api.post, path, {})
            assert api.table.count("true", "outbox") == before
            screen = await asyncio.to_thread(_screen, api, f"/groups/{key}")
            assert "I have it" not in screen

    lasting(night())


def is_told(hook: Hook, event: str) -> bool:
    return bool(hook.arrivals) and hook.arrivals[-1].notice.event == event


def _screen(api: Api, path: str) -> str:
    token = api.tokens["responder"]
    return api.get(path, None, cookies={"citywatch": token}).text

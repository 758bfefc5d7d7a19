"""Two pagers that are killed at random: nothing is lost, and no key means two things.

The long run of this is `make bench-paging`.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from paging.receiver import serve
from tests.paging.scaffold import Hook, Table, eventually, page_of, resolution_of
from tests.paging.test_pager import ONE_HOOK, within

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
ALERTS = 120
KILLS = 12


class Slow(Hook):
    """A hook that sometimes fails, and often answers so late that its pager is dead by then."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    async def handle(self, request: web.Request) -> web.Response:
        if self._chance.random() < 0.1:
            return web.Response(status=503)
        answer = await super().handle(request)
        await asyncio.sleep(self._chance.uniform(0.0, 0.3))
        return answer


def start(table: Table, url: str) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("pager_process.py")
    return subprocess.Popen(
        [sys.executable, str(script), table.dsn, table.schema, ONE_HOOK.format(url=url)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


async def kill_at_random(
    pagers: list[subprocess.Popen[bytes]], table: Table, url: str, chance: random.Random
) -> None:
    for _ in range(KILLS):
        await asyncio.sleep(chance.uniform(0.3, 1.2))
        index = chance.randrange(len(pagers))
        pagers[index].send_signal(signal.SIGKILL)
        await asyncio.to_thread(pagers[index].wait)
        pagers[index] = start(table, url)


@pytest.mark.timeout(150)
def test_two_pagers_that_are_killed_lose_no_page(table: Table) -> None:
    chance = random.Random(7)
    pages = [page_of(sensor=f"s{number}") for number in range(ALERTS)]

    async def work() -> None:
        hook = Slow(chance)
        async with serve(hook) as url:
            pagers = [start(table, url) for _ in range(2)]
            try:
                killing = asyncio.create_task(kill_at_random(pagers, table, url, chance))
                for page in pages:
                    table.put(page)
                    await asyncio.sleep(0.05)
                await killing
                table.put(*map(resolution_of, pages))
                await eventually(lambda: table.count("decided_at IS NULL", "outbox") == 0)
                await eventually(
                    lambda: table.count("event = 'resolve' AND delivered_at IS NOT NULL") == ALERTS
                )
            finally:
                for pager in pagers:
                    pager.kill()
                    pager.wait()
            keys = {row["key"] for row in table.execute("SELECT key FROM delivery")}
            came = [arrival.key for arrival in hook.arrivals]
            assert len(came) == len(set(came))
            assert set(came) == keys
            # One trigger and one resolve a cause, under any number of kills.
            told = [(arrival.notice.group, arrival.notice.event) for arrival in hook.arrivals]
            assert len(told) == len(set(told)) == 2 * ALERTS
            assert table.count("abandoned_at IS NOT NULL") == 0

    within(work(), 140)

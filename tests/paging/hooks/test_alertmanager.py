"""What Alertmanager makes of what it is sent, asked of Alertmanager itself."""

import asyncio
import re
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from citywatch.embedded.process import ChildProcess
from citywatch.embedded.service import HOST, PROBE_TIMEOUT_S, Service, environment, write_private
from paging.hooks import Notifier
from paging.hooks.alertmanager import alerts_of
from paging.hooks.kinds import KINDS
from tests.paging.hooks.scaffold import AT, GROUP, KEY, notice_of, served

# It ends after a second what does not say when it ends.
CONFIG = """
global: {{ resolve_timeout: 1s }}
route:
  receiver: tests
  group_by: [group]
  group_wait: 50ms
  group_interval: 100ms
  repeat_interval: 1h
receivers:
  - name: tests
    webhook_configs: {webhooks}
"""


class Server(Service):
    """Alertmanager without a cluster.

    Parameters
    ----------
    webhook : str or None
        Where it tells what it was told.
    """

    name = "Alertmanager"

    def __init__(self, directory: Path, binary: str, webhook: str | None = None) -> None:
        super().__init__(directory, 0)
        self._binary = binary
        self._webhook = webhook

    @property
    def version(self) -> str:
        answer = subprocess.run([self._binary, "--version"], capture_output=True, check=True)
        return answer.stdout.decode().partition("\n")[0]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def _program(self, port: int) -> ChildProcess:
        config = self.directory / "alertmanager.yml"
        webhooks = [{"url": self._webhook, "send_resolved": True}] if self._webhook else []
        write_private(config, CONFIG.format(webhooks=msgspec.json.encode(webhooks).decode()))
        argv = [
            self._binary,
            f"--config.file={config}",
            f"--storage.path={self.directory / 'data'}",
            f"--web.listen-address={HOST}:{port}",
            "--cluster.listen-address=",
        ]
        return ChildProcess(self.name, argv, environment(), self.directory / "log")

    def _answers(self, port: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/-/ready", timeout=PROBE_TIMEOUT_S):
                return True
        except OSError:
            return False


@pytest.fixture(scope="module")
def binary() -> str:
    found = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if found is None:
        pytest.skip("Alertmanager is not installed (Debian: prometheus-alertmanager)")
    return found


@pytest.fixture(scope="module")
def server(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("alertmanager"), binary)
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def told(url: str, **options: Any) -> AsyncIterator[Notifier]:
    kind = KINDS["alertmanager"]
    async with kind.open(kind.read({"url": url} | options), {}) as notifier:
        yield notifier


async def alerts(url: str, group: str) -> list[dict[str, Any]]:
    """Return what Alertmanager says of a group."""
    asked = {"filter": f'group="{group}"'}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/api/v2/alerts", params=asked) as response,
    ):
        assert response.status == 200
        return list(await response.json())


async def gone(url: str, group: str) -> None:
    """Return when Alertmanager knows nothing of a group any more."""
    async with asyncio.timeout(20):
        while await alerts(url, group):  # noqa: ASYNC110 - nobody tells us when
            await asyncio.sleep(0.05)


def recently() -> datetime:
    return datetime.now(UTC) - timedelta(seconds=1)


def test_a_group_is_one_alert_from_trigger_to_resolve(server: Server) -> None:
    async def life() -> None:
        at = recently()
        async with told(server.url) as notifier:
            await notifier.send(notice_of(at=at, since=AT), KEY)
            first = await alerts(server.url, GROUP)
            assert [one["status"]["state"] for one in first] == ["active"]

            # Again, of another severity, and with more alerts: it stays the same one.
            later = notice_of(
                at=at, event="update", severity="critical", kind="several", revision=2
            )
            for notice in (notice_of(at=at), later):
                await notifier.send(notice, KEY)
            second = await alerts(server.url, GROUP)
            assert [one["fingerprint"] for one in second] == [first[0]["fingerprint"]]
            assert second[0]["annotations"]["severity"] == "critical"

            await notifier.send(notice_of(at=at, event="resolve", ended_at=at, revision=3), KEY)
            await gone(server.url, GROUP)

    asyncio.run(life())


def test_it_has_what_the_notice_says(server: Server) -> None:
    async def look() -> dict[str, Any]:
        group = "look"
        async with told(server.url, labels={"severity": "page", "zone": "weaker"}) as notifier:
            await notifier.send(notice_of(group=group, at=recently()), KEY)
            found = (await alerts(server.url, group))[0]
            await notifier.send(notice_of(group=group, event="resolve", at=recently()), KEY)
        return found

    alert = asyncio.run(look())
    assert alert["labels"] == {
        "alertname": "Citywatch",
        "group": "look",
        "cause": "sensors",
        "severity": "page",
        "zone": "harbour",
        "kind": "anomaly",
        "route": "traffic",
    }
    assert alert["annotations"]["summary"] == notice_of().title
    assert alert["annotations"]["description"] == notice_of().text
    assert alert["annotations"]["alerts"] == "2"
    assert alert["generatorURL"] == notice_of().link
    assert datetime.fromisoformat(alert["startsAt"]) == AT


def test_nothing_ends_because_nobody_speaks_of_it(server: Server) -> None:
    """Beside an alert that does not say when it ends, which is over after resolve_timeout."""

    async def outlive() -> None:
        async with aiohttp.ClientSession() as session, told(server.url) as notifier:
            await notifier.send(notice_of(group="stays", at=recently()), KEY)
            silent = [{"labels": {"alertname": "other", "group": "silent"}}]
            async with session.post(f"{server.url}/api/v2/alerts", json=silent) as response:
                assert response.status == 200
            await gone(server.url, "silent")
            assert len(await alerts(server.url, "stays")) == 1
            await notifier.send(notice_of(group="stays", event="resolve", at=recently()), KEY)
            await gone(server.url, "stays")

    asyncio.run(outlive())


def test_clocks_of_sensors_that_run_ahead_do_not_keep_an_alert_open(server: Server) -> None:
    async def end() -> None:
        ahead = datetime.now(UTC) + timedelta(minutes=5)
        async with told(server.url) as notifier:
            first = notice_of(group="ahead", at=recently(), since=ahead)
            await notifier.send(first, KEY)
            assert len(await alerts(server.url, "ahead")) == 1
            last = msgspec.structs.replace(first, event="resolve", at=recently(), ended_at=ahead)
            await notifier.send(last, KEY)
            await gone(server.url, "ahead")

    asyncio.run(end())


class People:
    """Whom Alertmanager notifies."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self._changed = asyncio.Event()

    async def hear(self, request: web.Request) -> web.Response:
        self.heard.append(await request.json())
        self._changed.set()
        return web.Response()

    async def hear_of(self, group: str, status: str, ring: str | None = None) -> None:
        """Return when the next thing that was heard is this of a group."""
        async with asyncio.timeout(20):
            while not (self.heard and self._is_last(group, status, ring)):
                self._changed.clear()
                await self._changed.wait()

    def _is_last(self, group: str, status: str, ring: str | None) -> bool:
        last = self.heard[-1]
        return bool(last["commonLabels"]["group"] == group) and any(
            one["status"] == status and one["labels"].get("ring") == ring for one in last["alerts"]
        )


@asynccontextmanager
async def notifying(binary: str, directory: Path) -> AsyncIterator[tuple[Notifier, People]]:
    people = People()
    async with served(people.hear) as base:
        server = Server(directory, binary, base)
        await asyncio.to_thread(server.start)
        try:
            async with told(server.url) as notifier:
                yield notifier, people
        finally:
            await asyncio.to_thread(server.stop)


def test_people_are_told_once_of_each(binary: str, tmp_path: Path) -> None:
    """Of two triggers, an update and two resolves: it is firing, it is resolved."""

    async def life() -> list[dict[str, Any]]:
        async with notifying(binary, tmp_path) as (notifier, people):
            await notifier.send(notice_of(at=recently()), KEY)
            await people.hear_of(GROUP, "firing")
            await notifier.send(notice_of(at=recently()), KEY)
            await notifier.send(notice_of(at=recently(), event="update", severity="critical"), KEY)
            for _ in range(2):
                await notifier.send(notice_of(at=recently(), event="resolve"), KEY)
            await people.hear_of(GROUP, "resolved")
            # What is told next is of another group: there was nothing more to say of this one.
            await notifier.send(notice_of(at=recently(), group="next"), KEY)
            await people.hear_of("next", "firing")
            return people.heard

    assert [(one["commonLabels"]["group"], one["status"]) for one in asyncio.run(life())] == [
        (GROUP, "firing"),
        (GROUP, "resolved"),
        ("next", "firing"),
    ]


def test_people_are_told_anew_when_it_rings_anew(binary: str, tmp_path: Path) -> None:
    """Of a trigger, another one of the next ring, an update and a resolve."""

    async def life() -> list[dict[str, Any]]:
        async with notifying(binary, tmp_path) as (notifier, people):
            await notifier.send(notice_of(at=recently()), KEY)
            await people.hear_of(GROUP, "firing")
            worse = notice_of(at=recently(), severity="critical", ring=1)
            await notifier.send(worse, KEY)
            await people.hear_of(GROUP, "firing", "1")
            more = notice_of(at=recently(), severity="critical", event="update", ring=1)
            await notifier.send(more, KEY)
            await notifier.send(notice_of(at=recently(), event="resolve", ring=1), KEY)
            await people.hear_of(GROUP, "resolved", "1")
            await notifier.send(notice_of(at=recently(), group="next"), KEY)
            await people.hear_of("next", "firing")
            return people.heard

    heard = asyncio.run(life())
    firing = [
        [one["labels"].get("ring") for one in body["alerts"] if one["status"] == "firing"]
        for body in heard
        if body["commonLabels"]["group"] == GROUP
    ]
    # At any time one of them; it may say by itself that the one before has ended.
    assert [rings for rings in firing if rings] == [[None], ["1"]]
    states = {
        one["labels"].get("ring"): one["status"]
        for body in heard
        for one in body["alerts"]
        if one["labels"]["group"] == GROUP
    }
    assert states == {None: "resolved", "1": "resolved"}


def test_who_slept_through_a_ring_has_one_alert(server: Server) -> None:
    """An Alertmanager of a later step, which hears of the second ring and not of the first."""

    async def rings() -> list[str | None]:
        return [one["labels"].get("ring") for one in await alerts(server.url, GROUP)]

    async def life() -> None:
        async with told(server.url) as notifier:
            await notifier.send(notice_of(at=recently()), KEY)
            assert await rings() == [None]
            await notifier.send(notice_of(at=recently(), ring=2), KEY)
            async with asyncio.timeout(20):
                while await rings() != ["2"]:  # noqa: ASYNC110 - nobody tells us when
                    await asyncio.sleep(0.05)
            await notifier.send(notice_of(at=recently(), event="resolve", ring=3), KEY)
            await gone(server.url, GROUP)

    asyncio.run(life())


@pytest.mark.parametrize(("is_ended", "state"), [(True, "active"), (False, "suppressed")])
def test_a_silence_may_end_with_the_next_ring(
    server: Server, *, is_ended: bool, state: str
) -> None:
    group = f"silenced-{state}"
    matchers = {"group": group} | ({"ring": ""} if is_ended else {})
    now = datetime.now(UTC)
    silence = {
        "matchers": [
            {"name": name, "value": value, "isRegex": False} for name, value in matchers.items()
        ],
        "startsAt": now.isoformat(),
        "endsAt": (now + timedelta(hours=1)).isoformat(),
        "createdBy": "anna",
        "comment": "known",
    }

    async def states() -> list[str]:
        found = await alerts(server.url, group)
        return [one["status"]["state"] for one in found]

    async def life() -> None:
        async with aiohttp.ClientSession() as session, told(server.url) as notifier:
            async with session.post(f"{server.url}/api/v2/silences", json=silence) as response:
                assert response.status == 200
            await notifier.send(notice_of(group=group, at=recently()), KEY)
            async with asyncio.timeout(20):
                while await states() != ["suppressed"]:  # noqa: ASYNC110 - nobody tells us when
                    await asyncio.sleep(0.05)
                await notifier.send(notice_of(group=group, at=recently(), ring=1), KEY)
                while await states() != [state]:  # noqa: ASYNC110 - the same
                    await asyncio.sleep(0.05)

    asyncio.run(life())


def test_after_its_restart_it_knows_a_group_again_by_the_next_trigger(
    binary: str, tmp_path: Path
) -> None:
    server = Server(tmp_path / "alertmanager", binary)

    async def tell() -> str:
        async with told(server.url) as notifier:
            await notifier.send(notice_of(at=recently()), KEY)
            return str((await alerts(server.url, GROUP))[0]["fingerprint"])

    server.start()
    try:
        first = asyncio.run(tell())
        server.restart()
        assert asyncio.run(alerts(server.url, GROUP)) == []
        assert asyncio.run(tell()) == first
    finally:
        server.stop()


@pytest.mark.parametrize("name", ["power-area", "", "1", "a b", "ü", "__x", "zone"])
def test_every_label_has_a_name_that_it_takes(server: Server, name: str) -> None:
    async def tell() -> None:
        group = "labels"
        async with told(server.url) as notifier:
            notice = notice_of(group=group, at=recently(), labels={name: "x"})
            await notifier.send(notice, KEY)
            assert len(await alerts(server.url, group)) == 1
            over = msgspec.structs.replace(notice, event="resolve", ended_at=AT)
            await notifier.send(over, KEY)
            await gone(server.url, group)

    asyncio.run(tell())


def test_a_path_before_its_api_is_kept() -> None:
    paths: list[str] = []

    async def look(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response()

    async def tell() -> None:
        async with served(look) as base:
            for url in (base, f"{base}/", f"{base}/alerts", f"{base}/alerts/"):
                async with told(url) as notifier:
                    await notifier.send(notice_of(), KEY)

    asyncio.run(tell())
    assert paths == [f"{path}/api/v2/alerts" for path in ("", "", "/alerts", "/alerts")]


def test_an_update_says_nothing_of_the_rings_before() -> None:
    """They have ended, and whoever is told so once more may be notified once more."""
    bodies: list[list[dict[str, Any]]] = []

    async def look(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.Response()

    async def tell() -> None:
        async with served(look) as base, told(base) as notifier:
            for event in ("trigger", "update", "resolve"):
                await notifier.send(notice_of(event=event, ring=2), KEY)

    asyncio.run(tell())
    rings = [[one["labels"].get("ring") for one in body] for body in bodies]
    assert rings == [[None, "1", "2"], ["2"], [None, "1", "2"]]


def test_nobody_waits_for_an_end_in_years_to_come() -> None:
    (firing,) = alerts_of(notice_of(), {})
    assert firing["endsAt"] - AT > timedelta(days=3_600)
    (over,) = alerts_of(notice_of(event="resolve", ended_at=AT - timedelta(hours=1)), {})
    assert over["endsAt"] == AT


def test_a_page_that_never_calms_down_is_still_told_in_few_words() -> None:
    *before, last = alerts_of(notice_of(ring=1_000_000), {})
    assert last["labels"]["ring"] == "1000000"
    assert last["endsAt"] - AT > timedelta(days=3_600)
    assert {one["endsAt"] for one in before} == {AT}
    assert 1 <= len(before) <= 20


@pytest.mark.parametrize("name", ["", "a-b", "1a", "ü"])
def test_what_is_no_label_is_refused(name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=re.escape(repr(name))):
        KINDS["alertmanager"].read({"url": "http://127.0.0.1:9093", "labels": {name: "x"}})

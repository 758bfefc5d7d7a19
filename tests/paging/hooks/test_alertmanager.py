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
from paging.hooks.alertmanager import alert_of
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


def test_people_are_told_once_of_each(binary: str, tmp_path: Path) -> None:
    """Of two triggers, an update and two resolves: it is firing, it is resolved."""
    heard: list[dict[str, Any]] = []
    changed = asyncio.Event()

    async def hear(request: web.Request) -> web.Response:
        heard.append(await request.json())
        changed.set()
        return web.Response()

    async def heard_next() -> None:
        async with asyncio.timeout(20):
            await changed.wait()
        changed.clear()

    async def life() -> None:
        async with served(hear) as base:
            server = Server(tmp_path / "alertmanager", binary, base)
            await asyncio.to_thread(server.start)
            try:
                await speak(server)
            finally:
                await asyncio.to_thread(server.stop)

    async def speak(server: Server) -> None:
        async with told(server.url) as notifier:
            await notifier.send(notice_of(at=recently()), KEY)
            await heard_next()
            await notifier.send(notice_of(at=recently()), KEY)
            await notifier.send(notice_of(at=recently(), event="update", severity="critical"), KEY)
            for _ in range(2):
                await notifier.send(notice_of(at=recently(), event="resolve"), KEY)
            await heard_next()
            # What is told next is of another group: there was nothing more to say of this one.
            await notifier.send(notice_of(at=recently(), group="next"), KEY)
            await heard_next()

    asyncio.run(life())
    assert [(one["commonLabels"]["group"], one["status"]) for one in heard] == [
        (GROUP, "firing"),
        (GROUP, "resolved"),
        ("next", "firing"),
    ]


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


def test_nobody_waits_for_an_end_in_years_to_come() -> None:
    firing = alert_of(notice_of(), {})
    assert firing["endsAt"] - AT > timedelta(days=3_600)
    over = alert_of(notice_of(event="resolve", ended_at=AT - timedelta(hours=1)), {})
    assert over["endsAt"] == AT


@pytest.mark.parametrize("name", ["", "a-b", "1a", "ü"])
def test_what_is_no_label_is_refused(name: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=re.escape(repr(name))):
        KINDS["alertmanager"].read({"url": "http://127.0.0.1:9093", "labels": {name: "x"}})

"""The pager in storms, under kill -9, with a hook away, under load: one page a cause, none lost.

STORM-GATEWAYS
    10,000 sensors of 20 gateways, each gateway in a zone of its own, go dark within 30 s and come
    back. Must be: 20 pages or fewer, each within 15 s of its area's first alert; every alert is
    listed; one resolve a page.
STORM-ZONE
    The same, with all gateways in one zone. Must be: one page, one resolve.
KILLED
    Two pagers, one of them killed at random every few seconds, and 1,000 alerts of as many causes.
    Must be: every delivery came, each key once after the receiver's own deduplication.
AWAY
    Two hooks are told the same, and one of them is away for ten minutes while alerts open and are
    over. Must be: nothing is lost and nothing comes twice under one key at either, of each cause
    its begin before its end; the other hook's time to page, p99, is what it is without the outage.
LOAD
    The demo at 2,000 messages a second. Must be: sensor to page p99 under 3 s, without the wait for
    more of the same, which is said.

Alerts come in the way workers write them (`storage/sink.py`), and leave by HTTP to a receiver here;
the pagers are processes, `citywatch pager`. Times are from the transaction that wrote an area's
first alert to the arrival of its page. Raw repeats are counted. The last line is one JSON object.

    python benchmarks/pager.py [--seconds 300] [--alerts 1000] [--away-s 600] [--only KILLED]
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import numpy as np
import psycopg
from aiohttp import web
from pipeline import machine, measure

from citywatch.embedded import EmbeddedStack
from ingest.topics import SeriesKey
from paging.notices import Notice
from paging.receiver import Receiver, serve
from storage.flush import Flush, Opened, Resolved, Step
from storage.migrate import migrate, session_options
from storage.pages import Page
from storage.rows import Rows
from storage.sink import Sink

ROOT: Final = Path(__file__).parents[1]
SCHEMA: Final = "live"
GATEWAYS: Final = 20
SENSORS: Final = 10_000
SPREAD_S: Final = 30.0
FLUSH_S: Final = 0.2
# Sensors of each zone that hang on no gateway, so that a dark gateway is no dark zone.
OTHERS: Final = 1_500
MAX_PAGE_S: Final = 15.0
MAX_P99_MS: Final = 3_000.0
# What the routes of the demo wait for more of the same (`webhook_routes`).
GROUP_WAIT_MS: Final = 1_000.0
DEADLINE_S: Final = 120.0
# One alert a second, each over some seconds after it was told.
ALERTS_S: Final = 1.0
OPEN_ALERTS: Final = 10
# Before and after an outage, where it is as long or longer.
BESIDE_S: Final = 60.0
# What a p99 of some dozens of pages may differ by, of two stretches of one undisturbed run.
P99_SLACK: Final = 1.25
P99_SLACK_S: Final = 0.25
FAULTS: Final = ("missing", "unknown", "twice_after_dedup", "changed", "end_before_begin")
EMPTY: Final = Rows.concatenate([])
ROUTES: Final = """
[hook.control]
type = "webhook"
url = "{url}"
per_minute = 60000
[policy.all]
steps = [{{ to = ["hook:control"] }}]
[[route]]
name = "all"
policy = "all"
group_by = {group_by}
{gateways}
"""
TWO_HOOKS: Final = """
[hook.steady]
type = "webhook"
url = "{steady}"
per_minute = 60000
[hook.away]
type = "webhook"
url = "{away}"
per_minute = 60000
[policy.all]
steps = [{{ to = ["hook:steady", "hook:away"] }}]
[[route]]
name = "all"
policy = "all"
group_by = ["sensor"]
"""


class Hook(Receiver):
    """A receiver that may be slow, or fail, by chance."""

    def __init__(self, chance: random.Random | None = None) -> None:
        super().__init__(lambda: datetime.now(UTC), 1_000_000)
        self._chance = chance
        self.failed = 0
        self.changed: list[str] = []
        self._notices: dict[str, Notice] = {}

    async def handle(self, request: web.Request) -> web.Response:
        """Take a notice at once and answer later, or not at all."""
        if self._chance is not None and self._chance.random() < 0.1:
            self.failed += 1
            return web.Response(status=503)
        answer = await super().handle(request)
        if self._chance is not None:
            await asyncio.sleep(self._chance.uniform(0.0, 0.5))
        return answer

    def take(self, key: str, notice: Notice) -> bool:
        """Note a key that means something else than before."""
        if self._notices.setdefault(key, notice) != notice:
            self.changed.append(key)
        return super().take(key, notice)

    def sensors(self, event: str) -> list[str]:
        """Return the first sensor of each notice of an event, in the order in which they came."""
        return [
            arrival.notice.alerts[0].sensor
            for arrival in self.arrivals
            if arrival.notice.event == event
        ]

    def count(self, event: str) -> int:
        """Return how many different notices of an event came."""
        return sum(arrival.notice.event == event for arrival in self.arrivals)


class City:
    """Sensors, and a worker that writes what becomes of them."""

    def __init__(self, dsn: str, sensors: Sequence[tuple[str, str]]) -> None:
        self.sensors = sensors
        self._dsn = dsn
        self._sink = Sink(dsn, SCHEMA, "bench")
        self._position = 0
        self._pages: dict[str, Page] = {}
        self._series: dict[str, int] = {}

    async def settle(self) -> None:
        """Make the sensors known."""
        keys = [SeriesKey("traffic", zone, name, "intensity") for name, zone in self.sensors]
        await self._sink.resume("bench", 0)
        for first in range(0, len(keys), 10_000):
            part = keys[first : first + 10_000]
            found = await self._sink.register(part)
            self._series |= {
                key.sensor: int(number) for key, number in zip(part, found, strict=True)
            }

    async def close(self) -> None:
        """Let go of the database."""
        await self._sink.close()

    async def open(self, names: Sequence[str], zones: dict[str, str], kind: str) -> float:
        """Open an alert of each sensor in one flush; return how long it took."""
        now = datetime.now(UTC)
        pages = {name: _page(name, zones[name], kind, now) for name in names}
        self._pages |= pages
        changes = [Opened(self._series[name], None, page) for name, page in pages.items()]
        return await self._flush(changes)

    async def close_alerts(self, names: Sequence[str]) -> float:
        """Resolve the alerts of sensors in one flush; return how long it took."""
        now = datetime.now(UTC)
        changes = []
        for name in names:
            page = self._pages.pop(name)
            facts = {field: getattr(page, field) for field in page.__struct_fields__}
            over = Page(**facts | {"event": "resolved", "resolved_at": now, "sentence": ""})
            changes.append(Resolved(self._series[name], "good readings", over))
        return await self._flush(changes)

    async def _flush(self, changes: Sequence[Opened | Resolved]) -> float:
        begun = time.monotonic()
        step = Step("bench", 0, self._position, self._position + 1)
        await self._sink.write(Flush([step], EMPTY, EMPTY, changes=changes))
        self._position += 1
        return time.monotonic() - begun


def _page(name: str, zone: str, kind: str, now: datetime) -> Page:
    is_dark = kind == "silence"
    return Page(
        namespace="live",
        alert_id=uuid4(),
        event="firing",
        category="sensor-health" if is_dark else "city",
        kind=kind,
        severity="minor" if is_dark else "major",
        sensor=name,
        quantity="intensity",
        unit="1",
        domain="traffic",
        zone=zone,
        since=now,
        seen=1.0,
    )


@contextmanager
def pagers(
    dsn: str, routes: str, folder: Path, count: int, *, backoff_cap_s: float = 5.0
) -> Iterator[list[Any]]:
    """Run pagers in processes of their own; the list yielded starts them again."""
    file = folder / "routes.toml"
    file.write_text(routes, encoding="utf-8")
    running = [start_pager(dsn, file, backoff_cap_s) for _ in range(count)]
    try:
        yield running
    finally:
        for pager in running:
            pager.kill()
            pager.wait()


def start_pager(dsn: str, file: Path, backoff_cap_s: float = 5.0) -> subprocess.Popen[bytes]:
    """Start `citywatch pager`."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("CITYWATCH_")
    } | {
        "CITYWATCH_DATABASE__DSN": dsn,
        "CITYWATCH_PAGER__ROUTES_FILE": str(file),
        "CITYWATCH_PAGER__LEASE_S": "10",
        "CITYWATCH_PAGER__BACKOFF_CAP_S": str(backoff_cap_s),
        "CITYWATCH_PAGER__METRICS_PORT": "0",
    }
    argv = [sys.executable, "-m", "citywatch", "pager"]
    return subprocess.Popen(argv, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def ask(dsn: str, query: str) -> list[tuple[Any, ...]]:
    """Ask the database one question."""
    with psycopg.connect(dsn, autocommit=True, options=session_options(SCHEMA)) as connection:
        return connection.execute(query).fetchall()


async def settled(dsn: str, hook: Hook, condition: Any) -> bool:
    """Wait until a condition holds, or for too long; say which."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        left = await asyncio.to_thread(
            ask,
            dsn,
            "SELECT (SELECT count(*) FROM outbox WHERE decided_at IS NULL)"
            " + (SELECT count(*) FROM delivery"
            "    WHERE delivered_at IS NULL AND abandoned_at IS NULL)",
        )
        if left[0][0] == 0 and condition(hook):
            return True
        await asyncio.sleep(0.2)
    return False


async def storm(dsn: str, folder: Path, *, is_one_zone: bool) -> dict[str, Any]:
    """Let everything go dark, and come back."""
    each = SENSORS // GATEWAYS
    zones = {
        f"s{gateway:02}-{number:03}": "harbour" if is_one_zone else f"zone-{gateway:02}"
        for gateway in range(GATEWAYS)
        for number in range(each)
    }
    others = (
        []
        if is_one_zone
        else [
            (f"other-{gateway:02}-{number}", f"zone-{gateway:02}")
            for gateway in range(GATEWAYS)
            for number in range(OTHERS)
        ]
    )
    city = City(dsn, [*zones.items(), *others])
    await city.settle()
    names = list(zones)
    random.Random(1).shuffle(names)
    gateways = "\n".join(
        f'[gateway.g{number:02}]\nsensors = ["s{number:02}-*"]' for number in range(GATEWAYS)
    )
    hook = Hook()
    flushes = round(SPREAD_S / FLUSH_S)
    slowest_s = 0.0
    causes = 1 if is_one_zone else GATEWAYS
    async with serve(hook) as url:
        routes = ROUTES.format(url=url, group_by='["zone", "kind"]', gateways=gateways)
        with pagers(dsn, routes, folder, 2):
            begun = time.monotonic()
            for number in range(flushes):
                await asyncio.sleep(max(0.0, begun + number * FLUSH_S - time.monotonic()))
                part = names[number * SENSORS // flushes : (number + 1) * SENSORS // flushes]
                slowest_s = max(slowest_s, await city.open(part, zones, "silence"))
            is_told = await settled(dsn, hook, lambda hook: hook.count("trigger") >= causes)
            listed = ask(dsn, "SELECT count(DISTINCT alert_id) FROM page_member")[0][0]
            pages = hook.count("trigger")
            for number in range(flushes):
                part = names[number * SENSORS // flushes : (number + 1) * SENSORS // flushes]
                slowest_s = max(slowest_s, await city.close_alerts(part))
            is_over = await settled(dsn, hook, lambda hook: hook.count("resolve") >= pages)
    first = dict(
        ask(
            dsn,
            "SELECT m.group_key, min(o.created_at) FROM page_member m"
            " JOIN outbox o ON o.alert_id = m.alert_id AND o.event = 'firing' GROUP BY 1",
        )
    )
    waits = [
        (arrival.at - first[arrival.notice.group]).total_seconds()
        for arrival in hook.arrivals
        if arrival.notice.event == "trigger"
    ]
    await city.close()
    facts = {
        "pages": pages,
        "resolves": hook.count("resolve"),
        "updates": hook.count("update"),
        "listed": listed,
        "page_s_worst": round(max(waits, default=-1.0), 2),
        "page_s_median": round(float(np.median(waits)), 2) if waits else None,
        "flush_s_worst": round(slowest_s, 2),
        "raw_repeats": hook.repeats,
    }
    ok = (
        is_told
        and is_over
        and 1 <= pages <= causes
        and facts["resolves"] == pages
        and facts["updates"] == 0
        and listed == SENSORS
        and facts["page_s_worst"] < MAX_PAGE_S
    )
    return facts | {"ok": ok}


async def killed(dsn: str, folder: Path, alerts: int, seconds: float) -> dict[str, Any]:
    """Kill two pagers at random while alerts open and are over."""
    chance = random.Random(2)
    zones = {f"s{number}": f"zone-{number % 12}" for number in range(alerts)}
    city = City(dsn, list(zones.items()))
    await city.settle()
    hook = Hook(chance)
    kills = 0
    async with serve(hook) as url:
        routes = ROUTES.format(url=url, group_by='["sensor"]', gateways="")
        with pagers(dsn, routes, folder, 2) as running:
            begun = time.monotonic()
            names = list(zones)
            opened = 0
            over: set[str] = set()
            next_kill = begun + 2.0
            while (elapsed := time.monotonic() - begun) < seconds or opened < alerts:
                due = min(alerts, round(alerts * elapsed / (seconds * 0.9)))
                if due > opened:
                    await city.open(names[opened:due], zones, "level")
                    # What was told a while ago is over, so both words are on their way all the
                    # time; what is over before it was told would be told to nobody.
                    past = [name for name in hook.sensors("trigger")[:-20] if name not in over]
                    if past:
                        await city.close_alerts(past)
                        over.update(past)
                    opened = due
                if time.monotonic() > next_kill:
                    index = chance.randrange(2)
                    running[index].send_signal(signal.SIGKILL)
                    await asyncio.to_thread(running[index].wait)
                    running[index] = start_pager(dsn, folder / "routes.toml")
                    kills += 1
                    next_kill = time.monotonic() + chance.uniform(1.0, 5.0)
                await asyncio.sleep(0.1)
            await settled(dsn, hook, lambda hook: hook.count("trigger") >= alerts)
            await city.close_alerts([name for name in names if name not in over])
            is_told = await settled(dsn, hook, lambda hook: hook.count("resolve") >= alerts)
    await city.close()
    keys = {key for (key,) in ask(dsn, "SELECT key FROM delivery")}
    came = [arrival.key for arrival in hook.arrivals]
    words = [(arrival.notice.group, arrival.notice.event) for arrival in hook.arrivals]
    facts = {
        "alerts": alerts,
        "kills": kills,
        "deliveries": len(keys),
        "missing": len(keys - set(came)),
        "unknown": len(set(came) - keys),
        "twice_after_dedup": len(words) - len(set(words)),
        "changed": len(hook.changed),
        "raw_repeats": hook.repeats,
        "posts": hook.posts + hook.failed,
        "refused_by_chance": hook.failed,
        "triggers": hook.count("trigger"),
        "resolves": hook.count("resolve"),
    }
    ok = (
        is_told
        and facts["triggers"] == facts["resolves"] == alerts
        and not any(facts[name] for name in ("missing", "unknown", "twice_after_dedup", "changed"))
    )
    return facts | {"ok": ok}


async def away(dsn: str, folder: Path, seconds: float) -> dict[str, Any]:
    """Close the port of one of two hooks for a while."""
    beside_s = min(BESIDE_S, seconds)
    alerts = 1 + round((seconds + 2 * beside_s) * ALERTS_S)
    zones = {f"s{number}": f"zone-{number % 12}" for number in range(alerts)}
    city = City(dsn, list(zones.items()))
    await city.settle()
    steady, gone = Hook(), Hook()
    names = list(zones)
    # The first one shows that the pagers are up.
    opened = 1
    over: set[str] = set()

    async def live(until: float) -> None:
        nonlocal opened
        while time.monotonic() < until:
            due = min(alerts, 1 + round((time.monotonic() - begun) * ALERTS_S))
            if due > opened:
                await city.open(names[opened:due], zones, "level")
                opened = due
                past = [
                    name for name in steady.sensors("trigger")[:-OPEN_ALERTS] if name not in over
                ]
                if past:
                    await city.close_alerts(past)
                    over.update(past)
            await asyncio.sleep(0.1)

    async with AsyncExitStack() as exits:
        steady_url = await exits.enter_async_context(serve(steady))
        present = await exits.enter_async_context(AsyncExitStack())
        gone_url = await present.enter_async_context(serve(gone))
        port = urlsplit(gone_url).port or 0
        routes = TWO_HOOKS.format(steady=steady_url, away=gone_url)
        exits.enter_context(pagers(dsn, routes, folder, 2, backoff_cap_s=60.0))
        await city.open(names[:1], zones, "level")
        await settled(dsn, gone, lambda hook: hook.count("trigger") == 1)
        begun = time.monotonic()
        await live(begun + beside_s)
        left_at = datetime.now(UTC)
        await present.aclose()
        before = gone.posts
        await live(begun + beside_s + seconds)
        posts_away = gone.posts - before
        await exits.enter_async_context(serve(gone, port=port))
        back_at = datetime.now(UTC)
        await live(begun + 2 * beside_s + seconds)
        # What is over before it was told would be told to nobody.
        await settled(dsn, steady, lambda hook: hook.count("trigger") == opened)
        await city.close_alerts([name for name in names[:opened] if name not in over])
        is_told = await settled(
            dsn, steady, lambda hook: hook.count("resolve") == gone.count("resolve") == opened
        )
    await city.close()
    facts = _outage(dsn, steady, gone, (left_at, back_at)) | {"posts_while_away": posts_away}
    bound_s = facts["steady_page_s_p99_beside"]
    bound_s = max(P99_SLACK * bound_s, bound_s + P99_SLACK_S)
    ok = (
        is_told
        and steady.count("trigger") == gone.count("trigger") == opened == alerts
        and facts["steady_page_s_p99_away"] <= bound_s
        and not any(facts[name] for name in ("posts_while_away", "abandoned", *FAULTS))
    )
    return {"alerts": opened} | facts | {"ok": ok}


def _outage(dsn: str, steady: Hook, gone: Hook, span: tuple[datetime, datetime]) -> dict[str, Any]:
    """Return how two hooks were told, of which one was away for a while."""
    left_at, back_at = span
    written = dict(
        ask(
            dsn,
            "SELECT m.group_key, o.created_at FROM page_member m"
            " JOIN outbox o ON o.alert_id = m.alert_id AND o.event = 'firing'",
        )
    )
    waits: dict[bool, list[float]] = {True: [], False: []}
    for arrival in steady.arrivals:
        if arrival.notice.event == "trigger" and arrival is not steady.arrivals[0]:
            at = written[arrival.notice.group]
            waits[left_at <= at < back_at].append((arrival.at - at).total_seconds())
    late = [one.at for one in gone.arrivals if one.notice.at < back_at <= one.at]
    ((attempts,),) = ask(dsn, "SELECT sum(attempts) FROM delivery WHERE hook = 'away'")
    p99 = {is_away: round(float(np.percentile(found, 99)), 3) for is_away, found in waits.items()}
    return {
        "away_s": round((back_at - left_at).total_seconds(), 1),
        "told_late": len(late),
        "attempts_in_vain": int(attempts) - gone.posts,
        "caught_up_s": round((max(late, default=back_at) - back_at).total_seconds(), 1),
        "abandoned": len(ask(dsn, "SELECT FROM delivery WHERE abandoned_at IS NOT NULL")),
        **_faults(dsn, {"steady": steady, "away": gone}),
        "steady_page_s_p99_beside": p99[False],
        "steady_page_s_p99_away": p99[True],
    }


def _faults(dsn: str, hooks: dict[str, Hook]) -> dict[str, int]:
    """Return what is wrong with what came at some hooks, and what came again."""
    found = dict.fromkeys((*FAULTS, "raw_repeats"), 0)
    for name, hook in hooks.items():
        keys = {key for key, whose in ask(dsn, "SELECT key, hook FROM delivery") if whose == name}
        came = {arrival.key for arrival in hook.arrivals}
        words = [(arrival.notice.group, arrival.notice.event) for arrival in hook.arrivals]
        first = {word: number for number, word in reversed(list(enumerate(words)))}
        found["missing"] += len(keys - came)
        found["unknown"] += len(came - keys)
        found["twice_after_dedup"] += len(words) - len(set(words))
        found["changed"] += len(hook.changed)
        found["end_before_begin"] += sum(
            number < first.get((group, "trigger"), len(words))
            for (group, event), number in first.items()
            if event == "resolve"
        )
        found["raw_repeats"] += hook.repeats
    return found


def load(seconds: float) -> dict[str, Any]:
    """Run the demo at 2,000 messages a second."""
    facts = measure(2_000.0, 2_000, seconds, "auto")
    p99 = facts["page_latency_ms"]["p99"]
    without = None if p99 is None else p99 - GROUP_WAIT_MS
    return {
        "sensor_to_page_ms": facts["page_latency_ms"],
        "group_wait_ms": GROUP_WAIT_MS,
        "p99_without_group_wait_ms": without,
        "pages": facts["pages_delivered"],
        "complaints": facts["complaints"],
        "ok": bool(facts["ok"]) and without is not None and without < MAX_P99_MS,
    }


def main() -> None:
    """Run what was asked for, print it, end with one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--alerts", type=int, default=1_000)
    parser.add_argument("--away-s", type=float, default=600.0)
    parser.add_argument("--only", action="append")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    scenarios = options.only or ["STORM-GATEWAYS", "STORM-ZONE", "KILLED", "AWAY", "LOAD"]
    for name in scenarios:
        if name == "LOAD":
            found[name] = load(60.0)
        else:
            with TemporaryDirectory(prefix="citywatch-paging-") as folder:
                found[name] = on_a_stack(name, Path(folder), options)
        print(f"{name:16}", json.dumps(found[name]))
    ok = all(one["ok"] for one in found.values())
    print(json.dumps({**machine(), "scenarios": found, "ok": ok}))
    raise SystemExit(0 if ok else 1)


def on_a_stack(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run a scenario on a database of its own."""
    (folder / "stack").mkdir()
    stack = EmbeddedStack(folder / "stack", fast=True)
    try:
        stack.postgres.start()
        dsn = stack.postgres.dsn
        migrate(dsn, SCHEMA)
        if name == "KILLED":
            return asyncio.run(killed(dsn, folder, options.alerts, options.seconds))
        if name == "AWAY":
            return asyncio.run(away(dsn, folder, options.away_s))
        return asyncio.run(storm(dsn, folder, is_one_zone=name == "STORM-ZONE"))
    finally:
        stack.remove()


if __name__ == "__main__":
    main()

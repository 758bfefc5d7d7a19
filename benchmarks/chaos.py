"""CHAOS: everything is killed, frozen and restarted under load; then the books must balance.

A simulated city with faults publishes 1,000 messages a second, some late, twice or broken, and
some sensors go dark and come back, while a
seeded plan kills bridge, workers, pager and database with SIGKILL, freezes workers until they wake
up as zombies, and restarts database and Kafka. Meanwhile the rules of the detectors are changed
three times, with shadows that begin and end. This script is the supervisor that starts again
what has died. Afterwards

| figure | must be |
| --- | --- |
| lost | 0: every sound reading that was published is stored with its value |
| doubled | 0: nothing is stored, or counted, that was not published, or was already |
| audit | balanced |
| pages | each alert is decided on, and each delivery has come at least once under its key |
| identical | scores, alerts, transitions, pages, ledger, dead letters, rules and what shadows |
|  | found equal, to the bit, those of one undisturbed worker that reads the same Kafka log |
|  | from its beginning into a fresh namespace |

On Apache Kafka where Java and its jars are there (`make kafka-jars`), which is restarted and killed
as well; else on the embedded broker, whose log would not survive that. The last line is one JSON
object.

One module of some length, because it is one story: what starts, what strikes it, what must be true.
"""

import argparse
import asyncio
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg
from aiohttp import web
from blows import KINDS, WORKERS, plan
from load import PARTITIONS, ROOT
from pipeline import machine
from reckoning import (
    Ends,
    KafkaLog,
    alerts,
    differences,
    examples,
    pages,
    positions,
    recounted,
    stored,
)
from restless import LAST, RestlessCity
from supervision import Process, Supervisor

from citywatch.embedded import EmbeddedError
from citywatch.embedded.apache_kafka import JARS, ApacheKafka, find_apache_kafka
from citywatch.embedded.kafka import Tansu
from citywatch.embedded.mqtt import make_mqtt
from citywatch.embedded.postgres import Postgres
from citywatch.embedded.service import HOST
from ingest.topics import database_schema
from paging.notices import Notice
from paging.receiver import Receiver, serve
from simulators.publish import Published
from storage.migrate import migrate, session_options

# The only one that pages; the stack is the run's own.
NAMESPACE: Final = "live"
REPLAY: Final = "replay-undisturbed"
_READY_S: Final = 60.0
# A pager that was killed holds its leases for 30 s; a group needs up to 17 s to find itself.
_DRAIN_S: Final = 180.0
_UNDISTURBED_S: Final = 300.0
# Comparisons and copies, on top of all that.
_REST_S: Final = 600.0
_POLL_S: Final = 1.0
_LINE_S: Final = 10.0
_MAX_PAGES: Final = 1_000_000
# Half of what a pager waits for an answer, nearly.
_HOOK_S: Final = 2.0
# Of a look at the database while it is struck.
_PATIENT: Final = "-c statement_timeout=20000"
_ARRIVED: Final = "SELECT count(*) > 0 FROM dead_letter WHERE mqtt_topic = %s"
_NOTHING_PENDING: Final = """
    SELECT NOT EXISTS (SELECT FROM outbox WHERE decided_at IS NULL)
       AND NOT EXISTS (SELECT FROM delivery WHERE delivered_at IS NULL AND abandoned_at IS NULL)
       AND NOT EXISTS (SELECT FROM page_track WHERE coalesce(body ->> 'phase', 'held') = 'held')
       AND NOT EXISTS (SELECT FROM page_group WHERE closed_at IS NULL AND told_at IS NULL)
"""
_TAKEN_UP: Final = "SELECT count(*) = %s FROM stream_position"
_COUNTS: Final = """
    SELECT (SELECT coalesce(sum(stored), 0) FROM ledger), (SELECT count(*) FROM alert)
"""
_TIMESCALEDB: Final = "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"
# When they are applied, as a share of the load, and what they say.
_RULES: Final = (
    (
        0.2,
        """
        [quantity.intensity]
        city_open_after = 2
        severity = { level = "critical" }
        [shadow.tight.suite]
        city_open_spreads = 3.2
        [shadow.calm]
        detectors = { level = false }
        """,
    ),
    (
        0.5,
        """
        [suite]
        close_after = 3
        [detectors]
        flatline = false
        [shadow.tight.suite]
        city_open_spreads = 3.0
        """,
    ),
    (0.8, "[shadow.calm.suite]\nsilence_factor = 2.0\n"),
)
_TOLD: Final = "SELECT count(*) = %s FROM rules_applied"
_SHADOWED: Final = "SELECT count(*) FROM shadow_alert"
# So close that everything before these cameras is a crowd, which takes two minutes to be told.
_CITY: Final = f"""
[groups.market]
kind = "place"
sensors = {[f"camera-{number:04}" for number in range(1, 41)]}
area_m2 = 10.0
"""
Facts = dict[str, Any]


class ChaosError(Exception):
    """The run did not come to a verdict, or to a bad one at once."""


class SlowHook(Receiver):
    """A hook that takes its time, so that a pager is killed with pages on their way."""

    def __init__(self) -> None:
        super().__init__(lambda: datetime.now(UTC), _MAX_PAGES)
        self._notices: dict[str, Notice] = {}
        self.changed: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        """Take a page at once and answer later."""
        answer = await super().handle(request)
        await asyncio.sleep(_HOOK_S)
        return answer

    def take(self, key: str, notice: Notice) -> bool:
        """Note a notice that says something else than before under the same key."""
        if self._notices.setdefault(key, notice) != notice:
            self.changed.append(key)
        return super().take(key, notice)


class Chaos:
    """One run.

    Parameters
    ----------
    folder : Path
        Of everything but the logs.
    logs : Path
    options : argparse.Namespace
    """

    def __init__(self, folder: Path, logs: Path, options: argparse.Namespace) -> None:
        self._options = options
        self._logs = logs
        self._published_file = folder / "published"
        self._rules_file = folder / "rules.toml"
        self._settings_file = folder / "city.toml"
        self._settings_file.write_text(_CITY)
        self._begun = time.monotonic()
        self._mqtt = make_mqtt(folder / "mqtt", 0, "auto")
        self._postgres = Postgres(folder / "postgres", 0, fast=False)
        self._kafka = _kafka(folder, options)
        self._receiver = SlowHook()
        self._environment: dict[str, str] = {}
        self._ends: Ends = {}

    @property
    def _is_apache(self) -> bool:
        return isinstance(self._kafka, ApacheKafka)

    async def run(self) -> Facts:
        """Load, strike, drain, compare; return the figures."""
        options = self._options
        async with AsyncExitStack() as exits:
            self._say(f"{self._mqtt.version}, {self._kafka.version}, {self._postgres.version}")
            exits.callback(self._postgres.remove)
            for service in (self._mqtt, self._kafka, self._postgres):
                exits.callback(service.stop)
                await asyncio.to_thread(service.start)
            for namespace in (NAMESPACE, REPLAY):
                migrate(self._postgres.dsn, database_schema(namespace))
            url = await exits.enter_async_context(serve(self._receiver))
            self._environment = self._settings(url)
            processes = {
                name: Process(name, self._environment, self._logs)
                for name in ("bridge", *WORKERS, "pager")
            }
            struck = {"database": self._postgres}
            if isinstance(self._kafka, ApacheKafka):
                struck["kafka"] = self._kafka
            supervisor = Supervisor(processes, struck, self._say)
            exits.callback(supervisor.stop)
            for process in processes.values():
                process.start()
            await self._taken_up()
            keeping = asyncio.create_task(supervisor.keep())
            exits.callback(keeping.cancel)
            published = await self._load(supervisor, keeping)
            facts = await self._drained(supervisor, keeping)
            keeping.cancel()
            codes = await supervisor.end()
            facts |= {
                # Before its handler is in place SIGTERM kills a process: it has done nothing then.
                "ended_well": set(codes.values()) <= {0, -signal.SIGTERM},
                "exit_codes": codes,
                "published": asdict(published),
                "kills": dict(sorted(supervisor.struck.items())),
                "ended_by_themselves": dict(supervisor.ended.most_common()),
                **self._versions(),
                "seed": options.seed,
                "duration_s": options.duration,
            }
            return facts | await self._judged(published, facts)

    async def _load(self, supervisor: Supervisor, keeping: asyncio.Task[None]) -> Published:
        options = self._options
        kinds = [
            name for name, kind in KINDS.items() if self._is_apache or "kafka" not in kind.targets
        ]
        blows = plan(options.seed, options.duration, kinds)
        self._say(f"{len(blows)} blows in {options.duration:g} s of load, seed {options.seed}")
        city = RestlessCity(
            self._mqtt.port,
            NAMESPACE,
            options.seed,
            options.rate,
            options.duration,
            self._published_file,
        )
        with city:
            publishing = asyncio.wrap_future(city.publishing)
            striking = asyncio.create_task(supervisor.strike(blows, publishing.done))
            ruling = asyncio.create_task(self._rule())
            waiting: set[asyncio.Future[Any]] = {publishing, striking, ruling}
            try:
                while waiting:
                    done, _ = await asyncio.wait(
                        {*waiting, keeping},
                        timeout=_LINE_S,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    for one in done:
                        one.result()
                    waiting -= done
                    self._line(city.so_far)
            finally:
                striking.cancel()
                ruling.cancel()
            return publishing.result()

    async def _rule(self) -> None:
        """Change the rules now and then, each time until all partitions have them."""
        begun = time.monotonic()
        for share, text in _RULES:
            await asyncio.sleep(begun + share * self._options.duration - time.monotonic())
            self._rules_file.write_text(text, encoding="utf-8")
            code: int | None = None
            while code != 0:
                if code is not None:
                    await asyncio.sleep(_POLL_S)
                code, _ = await self._command("rules", "apply", str(self._rules_file))
            self._say("other rules are applied")

    async def _drained(self, supervisor: Supervisor, keeping: asyncio.Task[None]) -> Facts:
        """Wait until the last message has come all the way, and every page has."""
        self._say("the load has ended; draining")
        begun = time.monotonic()
        schema = database_schema(NAMESPACE)
        complaints = []
        if not await self._until(lambda c: _value(c, _ARRIVED, LAST), _DRAIN_S, keeping):
            complaints.append("the last message has not come through")
        # It goes on vouching, and the log would have no end.
        await supervisor.retire("bridge")
        log = KafkaLog(self._bootstrap, NAMESPACE, PARTITIONS, self._is_apache)
        self._ends = await log.ends(self._positions())
        if not await self._until(lambda c: positions(c, schema) == self._ends, _DRAIN_S, keeping):
            stands = self._positions()
            behind = {
                place: (stands.get(place), end)
                for place, end in self._ends.items()
                if stands.get(place) != end
            }
            complaints.append(f"not stored to the end of the log: {behind}")
        if not self._asked(lambda c: _value(c, _TOLD, len(_RULES) * PARTITIONS)):
            complaints.append("not every partition has noted every change of the rules")
        if not await self._until(lambda c: _value(c, _NOTHING_PENDING), _DRAIN_S, keeping):
            complaints.append("pages are still pending")
        self._say(f"drained after {time.monotonic() - begun:.1f} s")
        return {"drained_s": round(time.monotonic() - begun, 1), "complaints": complaints}

    async def _judged(self, published: Published, facts: Facts) -> Facts:
        complaints: list[str] = facts["complaints"]
        dsn, schema = self._postgres.dsn, database_schema(NAMESPACE)
        balanced = await self._audit()
        self._say(f"audit balanced: {balanced}")
        found = await asyncio.to_thread(stored, dsn, schema, self._published_file)
        self._say(f"{found}")
        told = pages(dsn, schema, {one.key for one in self._receiver.arrivals})
        self._say(f"{told.due} pages due, {self._receiver.repeats} came again")
        complaints += told.missing[:10]
        complaints += [f"{key} told something else later" for key in self._receiver.changed]
        await self._undisturbed()
        differ = await asyncio.to_thread(differences, dsn, schema, database_schema(REPLAY))
        for table, counts in differ.items():
            self._say(f"undisturbed, {table}: {counts[0]} rows more, {counts[1]} less")
            for one, other in ((NAMESPACE, REPLAY), (REPLAY, NAMESPACE)):
                if any(counts):
                    for row in examples(dsn, database_schema(one), database_schema(other), table):
                        self._say(f"  only {one}: {row}")
        identical = not any(map(any, differ.values()))
        kinds, stale = alerts(dsn, schema)
        twice = recounted(dsn, schema, database_schema(REPLAY))
        doubled = found.unheard + max(found.miscounted, 0) + max(twice, 0)
        if published.refused or published.unacknowledged:
            complaints.append("the MQTT broker has not taken everything")
        return {
            "readings_published": found.published,
            "lost": found.lost,
            "doubled": doubled,
            "rows_unheard_of": found.unheard,
            "rows_miscounted": found.miscounted,
            "readings_recounted": twice,
            "balanced": balanced,
            "alerts": kinds,
            "alerts_stale": stale,
            "shadow_alerts": self._asked(lambda c: _value(c, _SHADOWED)),
            "pages_due": told.due,
            "pages_missing": len(told.missing),
            "pages_come_again": self._receiver.repeats,
            "identical": identical,
            "differing": {name: counts for name, counts in differ.items() if any(counts)},
            "run_s": round(time.monotonic() - self._begun),
            "ok": not complaints
            and balanced
            and identical
            and facts["ended_well"]
            and found.lost == 0
            and doubled == 0
            and found.miscounted == 0
            and not told.missing,
        }

    async def _undisturbed(self) -> None:
        """Let one worker read a copy of the log from its beginning, disturbed by nothing."""
        log = KafkaLog(self._bootstrap, NAMESPACE, PARTITIONS, self._is_apache)
        await log.copy(self._ends, REPLAY, idempotence=self._is_apache)
        ends = {
            (topic.replace(f"{NAMESPACE}.", f"{REPLAY}.", 1), number): end
            for (topic, number), end in self._ends.items()
        }
        copied = KafkaLog(self._bootstrap, REPLAY, PARTITIONS, self._is_apache)
        if await log.digests(self._ends) != await copied.digests(ends):
            raise ChaosError("the copy of the log is not its original")
        self._say(f"{sum(ends.values())} records copied; one undisturbed worker reads them")
        environment = {**self._environment, "CITYWATCH_NAMESPACE": REPLAY}
        worker = Process("worker-undisturbed", environment, self._logs)
        schema = database_schema(REPLAY)
        try:
            worker.start()
            done = await self._until(lambda c: positions(c, schema) == ends, _UNDISTURBED_S, None)
            worker.child.check()
        finally:
            code = await asyncio.to_thread(worker.stop)
        if not done or code != 0:
            raise ChaosError(f"the undisturbed worker ended with {code}: {worker.last_words()}")

    async def _taken_up(self) -> None:
        if not await self._until(lambda c: _value(c, _TAKEN_UP, 2 * PARTITIONS), _READY_S, None):
            raise ChaosError("the workers do not take up their partitions")

    async def _until(
        self,
        holds: Callable[[Any], object],
        patience_s: float,
        keeping: asyncio.Task[None] | None,
    ) -> bool:
        """Wait until something holds of the database; say whether it came to it."""
        end = time.monotonic() + patience_s
        line_at = time.monotonic() + _LINE_S
        while time.monotonic() < end:
            if keeping is not None and keeping.done():
                keeping.result()
            if await asyncio.to_thread(self._asked, holds):
                return True
            if time.monotonic() > line_at:
                line_at += _LINE_S
                self._line(None)
            await asyncio.sleep(_POLL_S)
        return False

    def _asked(self, question: Callable[[Any], Any]) -> Any:
        """Return what the database says, None while it is away."""
        with (
            suppress(psycopg.Error),
            psycopg.connect(
                self._postgres.dsn,
                autocommit=True,
                connect_timeout=3,
                options=f"{session_options(database_schema(NAMESPACE))} {_PATIENT}",
            ) as connection,
        ):
            return question(connection)
        return None

    def _positions(self) -> Ends:
        return self._asked(lambda c: positions(c, database_schema(NAMESPACE))) or {}

    def _line(self, so_far: Published | None) -> None:
        found = self._asked(lambda c: c.execute(_COUNTS).fetchone())
        inside = f"{found[0]} stored, {found[1]} alerts" if found else "the database is away"
        sent = f"{so_far.readings} readings published, " if so_far else ""
        self._say(f"{sent}{inside}, {len(self._receiver.arrivals)} pages")

    async def _audit(self) -> bool:
        code, told = await self._command("audit", "--json")
        if code:
            self._say(f"audit: {json.loads(told)['faults'][:10]}" if told else "no audit")
        return code == 0

    async def _command(self, *words: str) -> tuple[int | None, bytes]:
        """Run a command of the command line; return its exit code and what it said."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "citywatch",
            *words,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await process.communicate()
        return process.returncode, told

    @property
    def _bootstrap(self) -> str:
        return f"{HOST}:{self._kafka.port}"

    def _settings(self, webhook: str) -> dict[str, str]:
        inherited = {
            name: text for name, text in os.environ.items() if not name.startswith("CITYWATCH_")
        }
        return inherited | {
            "CITYWATCH_SETTINGS": str(self._settings_file),
            "CITYWATCH_NAMESPACE": NAMESPACE,
            "CITYWATCH_MQTT__PORT": str(self._mqtt.port),
            "CITYWATCH_KAFKA__BOOTSTRAP": self._bootstrap,
            "CITYWATCH_KAFKA__IDEMPOTENCE": str(self._is_apache).lower(),
            "CITYWATCH_KAFKA__PARTITIONS": str(PARTITIONS),
            "CITYWATCH_KAFKA__LOG_ID": self._kafka.log_id,
            "CITYWATCH_DATABASE__DSN": self._postgres.dsn,
            "CITYWATCH_PAGER__WEBHOOK_URL": webhook,
        }

    def _versions(self) -> Facts:
        return {
            "mqtt": self._mqtt.version,
            "kafka": self._kafka.version,
            "database": self._postgres.version,
            "timescaledb": self._asked(lambda c: _value(c, _TIMESCALEDB)),
        }

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._begun:6.1f} s  {text}", flush=True)


def _value(connection: Any, query: str, *values: Any) -> Any:
    row = connection.execute(query, values).fetchone()
    return row[0] if row else None


def _kafka(folder: Path, options: argparse.Namespace) -> ApacheKafka | Tansu:
    jars = ROOT / JARS
    if options.kafka != "tansu":
        try:
            find_apache_kafka(jars)
            return ApacheKafka(folder / "kafka", 0, jars=jars)
        except EmbeddedError as error:
            if options.kafka == "apache":
                raise
            print(f"{error}; on the embedded broker, which is not restarted", flush=True)
    return Tansu(folder / "kafka", 0)


def main() -> None:
    """Run once; the last line is one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--duration", type=float, default=600.0, help="of the load, seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1_000.0, help="messages a second")
    parser.add_argument("--kafka", choices=["auto", "apache", "tansu"], default="auto")
    options = parser.parse_args()
    # Of services that are away on purpose.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logs = ROOT / ".citywatch" / f"chaos-{options.seed}"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    bound_s = options.duration + _READY_S + 3 * _DRAIN_S + _UNDISTURBED_S + _REST_S

    async def bounded(folder: Path) -> Facts:
        async with asyncio.timeout(bound_s):
            return await Chaos(folder, logs, options).run()

    with tempfile.TemporaryDirectory(prefix="citywatch-chaos-") as text:
        folder = Path(text)
        folder.chmod(0o711)  # root's database runs as another user
        try:
            facts = asyncio.run(bounded(folder))
        except Exception as error:  # noqa: BLE001 - the last line is the verdict, whatever happens
            traceback.print_exc()
            fault = f"{type(error).__name__}: {error}"
            facts = {"seed": options.seed, "complaints": [fault], "ok": False}
    if facts["ok"]:
        shutil.rmtree(logs)
    else:
        print(f"logs of all lives: {logs}", flush=True)
    print(json.dumps({**facts, **machine(), "scenario": "CHAOS"}))
    if not facts["ok"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""The whole system on the embedded stack, watched from outside.

The demo starts the very processes that a deployment runs, feeds them a simulated city and real
recordings through the front door, receives the pages, and has the run judged by what publisher,
database and receiver say, not by what the parts say of themselves.

One long module: it is one story, from the first start to the last stop, told in its order.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
import psycopg

from citywatch.embedded import Addresses, EmbeddedError, EmbeddedStack
from citywatch.embedded.mqtt import MqttChoice
from citywatch.embedded.process import ChildProcess
from citywatch.embedded.supervision import Supervised
from citywatch.memory import peak_rss_mib, pss_mib
from citywatch.verdict import Expected, Verdict, judge
from ingest.topics import database_schema
from paging.receiver import Receiver, serve
from simulators.city import City
from simulators.faults import read_labels
from simulators.publish import Published
from simulators.recording import bundled
from simulators.surroundings import as_toml, surroundings
from storage.expiry import expire
from storage.migrate import migrate, session_options
from storage.standing import Standing, standing

NAMESPACE: Final = "live"
_BRIDGE: Final = "demo-bridge"
# How long the parts may need to work off what was published, once publishing has ended.
# The pager may hold what fell silent for ten seconds of it.
_DRAIN_S: Final = 45.0
_POLL_S: Final = 0.25
_LINE_S: Final = 1.0
# The demo's database would otherwise grow by gigabytes a day; plain PostgreSQL has no retention.
_KEEP: Final = timedelta(hours=2)
_PRUNE_S: Final = 600.0
_READY_S: Final = 60.0
_END_S: Final = 20.0
# Five minutes of a recording pass in a second.
_TIME_LAPSE: Final = 300
# A little of everything that must be counted: broken messages, repeats, forbidden fields.
_MISCHIEF: Final = ("--bad-share", "0.001", "--duplicate-share", "0.002", "--privacy-probe")
_TAKEN_UP: Final = "SELECT count(*) > 0 FROM stream_position WHERE log_id = %s"


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """How the demo runs.

    Parameters
    ----------
    data_dir : Path
        Kept from run to run.
    duration_s : float or None
        How long the city reports; None runs until it is told to stop.
    sensors, rate, seed, faults : int, float, int, int
        The simulated city: sensors, messages per second, and labelled faults. In an endless run
        the faults fall into the first hour.
    events : tuple of str
        Kinds of events to stage in it.
    recordings : bool
        Whether the bundled recordings are replayed beside it, as a time lapse.
    mqtt_port, kafka_port, postgres_port, console_port : int
        0 takes a free one.
    mqtt : {"auto", "mosquitto", "rumqttd"}
    """

    data_dir: Path
    duration_s: float | None
    sensors: int
    rate: float
    seed: int
    faults: int
    events: tuple[str, ...]
    recordings: bool
    mqtt_port: int
    kafka_port: int
    postgres_port: int
    console_port: int
    mqtt: MqttChoice


@dataclass(frozen=True, slots=True)
class Line:
    """The live line: totals of the run so far.

    Parameters
    ----------
    elapsed_s : float
    messages_per_s : float
        Over the last second.
    messages, stored, alerts, pages : int
    newest_age_s : float or None
        Age of the newest row.
    """

    elapsed_s: float
    messages_per_s: float
    messages: int
    stored: int
    alerts: int
    pages: int
    newest_age_s: float | None


class DemoError(Exception):
    """A part of the demo has died or could not start."""


class Demo:
    """One run of the demo.

    Parameters
    ----------
    config : DemoConfig
    say : callable
        Told what is being started.
    progress : callable
        Told the live line.
    """

    def __init__(
        self,
        config: DemoConfig,
        say: Callable[[str], object],
        progress: Callable[[Line], object],
    ) -> None:
        self._config = config
        self._say = say
        self._progress = progress
        self._stack = EmbeddedStack(
            config.data_dir,
            mqtt_port=config.mqtt_port,
            kafka_port=config.kafka_port,
            postgres_port=config.postgres_port,
            mqtt=config.mqtt,
        )
        self._children: dict[str, ChildProcess] = {}
        self._sources: dict[str, ChildProcess] = {}
        # Once all are up: what ends before then could not start at all.
        self._supervised: list[Supervised] = []
        self._receiver = Receiver(lambda: datetime.now(UTC))
        self._peak_rss: dict[str, float] = {}
        self._console_port = config.console_port or _free_port()
        self._metrics_port = _free_port()
        self._environment: Mapping[str, str] = {}
        self._stop_early = asyncio.Event()

    @property
    def console_url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self._console_port}"

    @property
    def metrics_url(self) -> str:
        """Address of the worker's metrics."""
        return f"http://127.0.0.1:{self._metrics_port}/metrics"

    async def run(self, stop: asyncio.Event, up: Callable[[], object]) -> Verdict:
        """Start everything, run, drain, judge, stop everything.

        Parameters
        ----------
        stop : asyncio.Event
            Ends the run early.
        up : callable
            Called once everything is up.

        Raises
        ------
        DemoError
            If a part cannot start or dies again and again; the rest is stopped then, too.
        """
        try:
            async with AsyncExitStack() as exits:
                return await self._run(stop, up, exits)
        except EmbeddedError as error:
            raise DemoError(str(error)) from error

    async def _run(
        self, stop: asyncio.Event, up: Callable[[], object], exits: AsyncExitStack
    ) -> Verdict:
        started = time.monotonic()
        self._stop_early = stop
        self._say("starting MQTT broker, Kafka broker and database")
        exits.push_async_callback(asyncio.to_thread, self._stack.stop)
        addresses = await asyncio.to_thread(self._stack.start)
        schema = database_schema(NAMESPACE)
        await asyncio.to_thread(migrate, addresses.dsn, schema)
        connection = await exits.enter_async_context(
            await psycopg.AsyncConnection.connect(
                addresses.dsn, autocommit=True, options=session_options(schema)
            )
        )
        receiver_url = await exits.enter_async_context(serve(self._receiver))
        self._environment = self._settings(addresses, receiver_url)
        self._say("starting bridge, worker, pager and console")
        exits.push_async_callback(self._stop_all)
        for name in ("bridge", "worker", "pager", "console"):
            await self._start(self._children, name, [name])
        await self._console_answers()
        await self._worker_ready(connection, addresses.log_id)
        before = await self._quiet(connection)
        begun = datetime.now(UTC)
        await self._start_sources()
        self._stop_early = asyncio.Event()  # from here on a stop ends in a verdict
        self._supervised = [Supervised(child) for child in self._children.values()]
        self._say(f"everything is up after {time.monotonic() - started:.1f} s")
        up()
        await self._watch(connection, before, stop)
        await self._end_sources()
        expected = self._expected()
        await self._drain(connection, before, expected)
        self._measure()
        return await judge(
            connection,
            expected=expected,
            before=before,
            begun=begun,
            arrivals=self._receiver.arrivals,
            repeats=self._receiver.repeats,
            peak_rss_mib=self._peak_rss,
        )

    def _settings(self, addresses: Addresses, receiver_url: str) -> dict[str, str]:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("CITYWATCH_")
        }
        config = self._config
        if config.events:
            text = as_toml(surroundings(City(config.sensors, config.seed)))
            self._city_settings.write_text(text, encoding="utf-8")
            inherited["CITYWATCH_SETTINGS"] = str(self._city_settings)
        return inherited | {
            "CITYWATCH_NAMESPACE": NAMESPACE,
            "CITYWATCH_MQTT__HOST": addresses.mqtt_host,
            "CITYWATCH_MQTT__PORT": str(addresses.mqtt_port),
            "CITYWATCH_KAFKA__BOOTSTRAP": addresses.kafka_bootstrap,
            "CITYWATCH_KAFKA__IDEMPOTENCE": "false",
            "CITYWATCH_KAFKA__LOG_ID": addresses.log_id,
            "CITYWATCH_DATABASE__DSN": addresses.dsn,
            "CITYWATCH_BRIDGE__CLIENT_ID": _BRIDGE,
            "CITYWATCH_PAGER__WEBHOOK_URL": receiver_url,
            "CITYWATCH_CONSOLE__PORT": str(self._console_port),
            "CITYWATCH_WORKER__METRICS_PORT": str(self._metrics_port),
            "CITYWATCH_PAGER__METRICS_PORT": "0",
        }

    async def _start(self, group: dict[str, ChildProcess], name: str, arguments: list[str]) -> None:
        logs = self._config.data_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "citywatch", *arguments]
        child = ChildProcess(name, argv, self._environment, logs / f"{name}.log")
        group[name] = child
        await asyncio.to_thread(child.start)

    async def _start_sources(self) -> None:
        config = self._config
        for path in (*self._reports, self._labels):
            path.unlink(missing_ok=True)
        length = [] if config.duration_s is None else ["--duration", str(config.duration_s)]
        city, replayed = self._reports
        numbers: dict[str, object] = {
            "--sensors": config.sensors,
            "--rate": config.rate,
            "--seed": config.seed,
            "--faults": config.faults,
            "--labels": self._labels,
            "--report": city,
        }
        if config.events:
            numbers["--events"] = ",".join(config.events)
        options = [str(part) for pair in numbers.items() for part in pair]
        await self._start(self._sources, "simulate", ["simulate", *options, *length, *_MISCHIEF])
        if config.recordings:
            lapse = ["--speed", str(_TIME_LAPSE), "--time-lapse", "--report", str(replayed)]
            await self._start(self._sources, "replay", ["replay", *lapse])

    @property
    def _reports(self) -> tuple[Path, Path]:
        return (self._config.data_dir / "city.json", self._config.data_dir / "recordings.json")

    @property
    def _labels(self) -> Path:
        return self._config.data_dir / "labels.json"

    @property
    def _city_settings(self) -> Path:
        return self._config.data_dir / "city.toml"

    async def _console_answers(self) -> None:
        deadline = time.monotonic() + _READY_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while time.monotonic() < deadline:
                self._check()
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{self.console_url}/healthz") as answer:
                        if answer.ok:
                            return
                await asyncio.sleep(_POLL_S)
        raise DemoError(f"the console does not answer at {self.console_url}")

    async def _worker_ready(self, connection: psycopg.AsyncConnection[Any], log_id: str) -> None:
        """Wait until the worker has taken up every partition."""
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            self._check()
            cursor = await connection.execute(_TAKEN_UP, (log_id,))
            row = await cursor.fetchone()
            if row is not None and row[0]:
                return
            await asyncio.sleep(_POLL_S)
        raise DemoError("the worker does not take up its partitions")

    async def _quiet(self, connection: psycopg.AsyncConnection[Any]) -> Standing:
        """Return the totals once nothing of an earlier run is still coming in."""
        deadline = time.monotonic() + _READY_S
        settled = await standing(connection)
        while time.monotonic() < deadline:
            await asyncio.sleep(2 * _POLL_S)
            self._check()
            now = await standing(connection)
            if now == settled:
                return now
            settled = now
        raise DemoError("messages of an earlier run do not stop coming in")

    async def _watch(
        self, connection: psycopg.AsyncConnection[Any], before: Standing, stop: asyncio.Event
    ) -> None:
        """Tell the live line until the city has ended or `stop` is set."""
        started = pruned = time.monotonic()
        last_messages, last_at = before.messages, started
        while not stop.is_set() and self._sources["simulate"].running:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LINE_S)
            self._check()
            self._measure()
            now = await standing(connection)
            at = time.monotonic()
            self._progress(
                Line(
                    elapsed_s=at - started,
                    messages_per_s=(now.messages - last_messages) / (at - last_at),
                    messages=now.messages - before.messages,
                    stored=now.stored - before.stored,
                    alerts=now.alerts_opened - before.alerts_opened,
                    pages=sum(one.notice.event == "trigger" for one in self._receiver.arrivals),
                    newest_age_s=_age_s(now.newest_at),
                )
            )
            last_messages, last_at = now.messages, at
            if at - pruned > _PRUNE_S:
                pruned = at
                await expire(connection, datetime.now(UTC) - _KEEP)

    async def _end_sources(self) -> None:
        """Let the publishers finish; their reports say what they have sent."""
        for name, child in self._sources.items():
            await asyncio.to_thread(child.stop)
            # Before its handler is in place SIGTERM kills it: then it has published nothing.
            if child.exit_code not in (0, -signal.SIGTERM):
                raise DemoError(
                    f"{name} ended with exit code {child.exit_code}\n{child.log_tail()}"
                )

    def _expected(self) -> Expected:
        ended_ns = time.time_ns()
        published = [
            msgspec.json.decode(path.read_bytes(), type=Published)
            for path in self._reports
            if path.exists()
        ]
        labels = read_labels(self._labels) if self._labels.exists() else None
        faults = [one for one in labels.faults if one.end_ns <= ended_ns] if labels else []
        events = [one for one in labels.events if one.start_ns <= ended_ns] if labels else []
        recorded = frozenset(one.sensor.name for one in bundled())
        return Expected(published, faults, recorded, events, ended_ns)

    async def _drain(
        self, connection: psycopg.AsyncConnection[Any], before: Standing, expected: Expected
    ) -> None:
        """Wait until everything published is stored and everything to be told is told."""
        deadline = time.monotonic() + _DRAIN_S
        readings = expected.total("readings")
        while time.monotonic() < deadline:
            self._check()
            now = await standing(connection)
            if now.stored - before.stored >= readings and now.pages_pending == 0:
                # What is counted but not stored travels with what is: one more flush.
                await asyncio.sleep(1.0)
                return
            await asyncio.sleep(_POLL_S)

    def _check(self) -> None:
        if self._stop_early.is_set():
            raise DemoError("stopped before everything was up")
        self._stack.check()
        if not self._supervised:
            for child in self._children.values():
                child.check()
        for one in self._supervised:
            said = one.look(time.monotonic())
            if said is not None:
                self._say(said)
        for source in self._sources.values():
            if source.exit_code not in (None, 0, -signal.SIGTERM):
                source.check()

    def _measure(self) -> None:
        """Note the peak memory of every process; a database is many, counted by their shares."""
        for name, child in {**self._children, **self._sources}.items():
            if child.pid is not None and child.running:
                self._note_peak(name, peak_rss_mib(child.pid))
        for name in ("mqtt", "kafka"):
            pid = getattr(self._stack, name).pid
            if pid is not None:
                self._note_peak(name, peak_rss_mib(pid))
        if self._stack.postgres.pid is not None:
            self._note_peak("postgres", pss_mib(self._stack.postgres.pid))

    def _note_peak(self, name: str, size: float) -> None:
        self._peak_rss[name] = max(self._peak_rss.get(name, 0.0), size)

    async def _stop_all(self) -> None:
        """Stop in the direction of the flow, so that each part can finish what it took."""
        for child in (*self._sources.values(), *self._children.values()):
            await asyncio.to_thread(child.stop)


def _age_s(moment: datetime | None) -> float | None:
    return (datetime.now(UTC) - moment).total_seconds() if moment else None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port

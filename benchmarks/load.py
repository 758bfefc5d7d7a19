"""What the benchmarks of the front door stand on: a load, brokers, bridges, and the Kafka log."""

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
from aiokafka import AIOKafkaConsumer, TopicPartition
from paho.mqtt.enums import CallbackAPIVersion

from citywatch.embedded.mqtt import MqttService, find_mosquitto
from citywatch.embedded.process import ChildProcess
from citywatch.embedded.service import HOST, Service
from citywatch.memory import peak_rss_mib
from ingest.batch import decode
from ingest.kafka import ensure_topics
from ingest.records import Provenance
from ingest.topics import SeriesKey, dead_letters_topic, readings_topic

ROOT = Path(__file__).parents[1]
PARTITIONS = 4
SENSORS = 500
PATIENCE_S = 300.0
# Beyond it paho slows down to a third; see the architecture page.
_INFLIGHT = 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Reading = tuple[str, int]


class Load:
    """Sensors that publish single readings, each with a time of its own.

    Parameters
    ----------
    port : int
        Of the MQTT broker.
    namespace : str
    user : (str, str) or None
        Name and password.
    pad : int
        Bytes of an attribute that nobody asked for, in each message.
    """

    def __init__(
        self, port: int, namespace: str, user: tuple[str, str] | None = None, pad: int = 0
    ) -> None:
        self._namespace = namespace
        self._pad = b"x" * pad
        self._prefix = "large" if pad else "s"
        self._start = datetime.now(UTC)
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._publishing: Future[None] | None = None
        self.sent = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.max_inflight_messages_set(_INFLIGHT)
        if user:
            self._client.username_pw_set(*user)
        self._client.connect(HOST, port)
        self._client.loop_start()

    def publish(self, count: int, rate: float | None = None) -> None:
        """Publish `count` messages more, at `rate` a second or as fast as the broker takes them."""
        begin = time.perf_counter()
        infos = []
        for number in range(count):
            if self._stop.is_set():
                break
            infos.append(self._client.publish(*self._message(self.sent), qos=1))
            self.sent += 1
            if rate is not None:
                wait = begin + number / rate - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
            elif len(infos) > 2000:
                infos[-1000].wait_for_publish(PATIENCE_S)
            del infos[:-2000]
        for info in infos:
            info.wait_for_publish(PATIENCE_S)
            assert info.is_published(), "the broker did not take a message"

    def begin(self, rate: float) -> None:
        """Publish in the background until `end`."""
        self._publishing = self._thread.submit(self.publish, 10**9, rate)

    def end(self) -> None:
        """Stop publishing, and return when the broker has taken all."""
        self._stop.set()
        if self._publishing:
            self._publishing.result()

    def close(self) -> None:
        """Disconnect."""
        self.end()
        self._thread.shutdown()
        self._client.disconnect()
        self._client.loop_stop()

    def readings(self) -> set[Reading]:
        """Return (sensor, time in ns) of everything published."""
        return {
            (self._sensor(number), _time_ns(number, self._start)) for number in range(self.sent)
        }

    def _message(self, number: int) -> tuple[str, bytes]:
        sensor = self._sensor(number)
        moment = self._start + timedelta(microseconds=number)
        return (
            f"city/{self._namespace}/traffic/centre/{sensor}",
            b'{"id":"urn:ngsi-ld:TrafficFlowObserved:%b","type":"TrafficFlowObserved",'
            b'"dateObserved":"%b","intensity":%d,"description":"%b"}'
            % (sensor.encode(), moment.isoformat().encode(), number % 1000, self._pad),
        )

    def _sensor(self, number: int) -> str:
        return f"{self._prefix}{number % SENSORS:03}"


def _time_ns(number: int, start: datetime) -> int:
    since = start + timedelta(microseconds=number) - _EPOCH
    return since // timedelta(microseconds=1) * 1000


@contextmanager
def load(
    port: int, namespace: str, user: tuple[str, str] | None = None, pad: int = 0
) -> Iterator[Load]:
    """Return a load that is closed at the end of the block."""
    made = Load(port, namespace, user, pad)
    try:
        yield made
    finally:
        made.close()


class ShippedMosquitto(MqttService):
    """Mosquitto with deploy/mosquitto.conf; only its paths and addresses are this machine's."""

    name = "Mosquitto as shipped"
    version = "Mosquitto"
    users = {"bridge": "b" * 16, "gateway@centre": "g" * 16}  # noqa: RUF012 - of a broker that is thrown away

    def _program(self, port: int) -> ChildProcess:
        (self.directory / "data").mkdir(exist_ok=True)
        acl, passwords = self.directory / "acl", self.directory / "passwords"
        shipped = (ROOT / "deploy/mosquitto.acl").read_text(encoding="utf-8")
        gateway = "\nuser gateway@centre\ntopic write city/live/+/centre/#\n"
        assert shipped.count("\npattern ") == 1
        # Patterns hold for everybody and come last.
        acl.write_text(shipped.replace("\npattern ", f"{gateway}\npattern "), encoding="utf-8")
        acl.chmod(0o600)
        passwords.write_text("".join(f"{user}:{word}\n" for user, word in self.users.items()))
        passwords.chmod(0o600)
        tool = shutil.which("mosquitto_passwd") or "/usr/bin/mosquitto_passwd"
        subprocess.run([tool, "-U", passwords], check=True)
        text = (ROOT / "deploy/mosquitto.conf").read_text(encoding="utf-8")
        for shipped_text, own in {
            "/run/secrets/mosquitto_passwords": str(passwords),
            "/mosquitto/config/mosquitto.acl": str(acl),
            "/mosquitto/data/": f"{self.directory}/data/",
            "\nlistener 1883\n": f"\nlistener {port} {HOST}\n",
        }.items():
            assert text.count(shipped_text) == 1, shipped_text
            text = text.replace(shipped_text, own)
        conf = self.directory / "mosquitto.conf"
        conf.write_text(f"{text}\nuser root\n" if os.geteuid() == 0 else text, encoding="utf-8")
        return ChildProcess(
            self.name,
            [find_mosquitto() or "mosquitto", "-c", str(conf)],
            dict(os.environ),
            self.directory / "mosquitto.log",
        )

    def _answers(self, port: int) -> bool:
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        try:
            return client.connect(HOST, port) == paho.MQTT_ERR_SUCCESS
        except OSError:
            return False
        finally:
            client.disconnect()


class Bridge:
    """A `citywatch bridge` process."""

    def __init__(
        self, directory: Path, mqtt_port: int, bootstrap: str, namespace: str, **settings: str
    ) -> None:
        self._environment = {
            **{
                name: text for name, text in os.environ.items() if not name.startswith("CITYWATCH_")
            },
            "CITYWATCH_NAMESPACE": namespace,
            "CITYWATCH_MQTT__PORT": str(mqtt_port),
            "CITYWATCH_KAFKA__BOOTSTRAP": bootstrap,
            "CITYWATCH_KAFKA__PARTITIONS": str(PARTITIONS),
            **{f"CITYWATCH_{name}": text for name, text in settings.items()},
        }
        self._argv = [sys.executable, "-m", "citywatch", "bridge"]
        self._log = directory / f"bridge-{id(self)}.log"
        self.child = self._make()
        self.peak_mib = 0.0

    def _make(self) -> ChildProcess:
        return ChildProcess("bridge", self._argv, self._environment, self._log)

    def __enter__(self) -> Self:
        self.child.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id."""
        assert self.child.pid is not None
        return self.child.pid

    def weigh(self) -> float:
        """Return the peak resident set so far, MiB."""
        if self.child.running:
            self.peak_mib = max(self.peak_mib, peak_rss_mib(self.pid))
        return self.peak_mib

    def stop(self) -> None:
        """End it in good order."""
        self.weigh()
        self.child.stop()

    def kill(self) -> None:
        """Kill it with SIGKILL, and start another."""
        self.weigh()
        self.child.kill()
        self.child.stop()
        self.child = self._make()
        self.child.start()

    def wait_subscribed(self) -> None:
        """Wait until the log tells of the connection; the subscription follows at once."""
        self.child.wait_ready(lambda: "mqtt connected" in self.child.log_tail(), 30)


class Log:
    """What Kafka holds of a namespace, read from the beginning of the topics.

    Attributes
    ----------
    found : Counter of (sensor, time in ns)
    messages : Counter of bridge
    """

    def __init__(self, consumer: AIOKafkaConsumer, namespace: str) -> None:
        self._consumer = consumer
        self._namespace = namespace
        self.found: Counter[Reading] = Counter()
        self.messages: Counter[str] = Counter()

    async def read(self, timeout_s: float = 0.2) -> None:
        """Read what is there."""
        batch = await self._consumer.getmany(timeout_ms=round(timeout_s * 1000))
        for records in batch.values():
            for record in records:
                self._take(record)

    async def until(
        self, condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S
    ) -> None:
        """Read on until `condition` holds."""
        end = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(
                    f"not within {patience_s:g} s: {what} ({len(self.found)} readings found)"
                )
            await self.read()

    def _take(self, record: Any) -> None:
        provenance = Provenance.read(dict(record.headers), self._namespace)
        self.messages[provenance.bridge] += sum(tally.messages for tally in provenance.tallies)
        if record.topic != readings_topic(self._namespace):
            return
        batch = decode(record.value)
        sensors = [SeriesKey.parse(key).sensor for key in batch.keys]
        self.found.update(
            zip(
                [sensors[code] for code in batch.series.tolist()],
                batch.time_ns.tolist(),
                strict=True,
            )
        )


@asynccontextmanager
async def kafka_log(bootstrap: str, namespace: str) -> AsyncIterator[Log]:
    """Return the log of a namespace, its topics made."""
    await ensure_topics(bootstrap, namespace, PARTITIONS, 1)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        # The embedded broker answers after half of it, whatever it has.
        fetch_max_wait_ms=20,
    )
    await consumer.start()
    try:
        topics = readings_topic(namespace), dead_letters_topic(namespace)
        consumer.assign(
            [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]
        )
        yield Log(consumer, namespace)
    finally:
        await consumer.stop()


@contextmanager
def started(*services: Service) -> Iterator[None]:
    """Run services for the length of the block."""
    try:
        for service in services:
            service.start()
        yield
    finally:
        for service in reversed(services):
            service.stop()


async def pause(seconds: float, log: Log | None = None) -> None:
    """Let time pass, reading the log meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if log is None:
            await asyncio.sleep(min(0.2, max(0.0, end - time.monotonic())))
        else:
            await log.read()

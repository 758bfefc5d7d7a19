"""A town whose bridge and workers are processes, and the comparison of what it says and stores."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from citywatch.embedded import Addresses
from citywatch.embedded.process import ChildProcess
from ingest.quantities import QUANTITIES
from simulators.city import City
from simulators.front_door import Address, FrontDoor
from simulators.payloads import Composer, Message, Mischief
from simulators.publish import Published, run_city
from tests.simulators.entities import plain
from tests.storage.database import Database

DEADLINE_S = 60.0
PARTITIONS = 4
RATE = 500.0
# Longer than any test lets it publish.
LOAD_S = 170.0
Reading = tuple[str, str, datetime, float]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def ask(port: int, path: str) -> tuple[int, str]:
    """Ask the endpoint of a worker; (0, "") where it does not answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()


def metric(port: int, name: str) -> float:
    """Return a metric, summed over its labels."""
    _, text = ask(port, "/metrics")
    families = text_string_to_metric_families(text)
    return sum(each.value for one in families for each in one.samples if each.name == name)


class Recorder(Composer):
    """Writes the messages of a city and keeps a copy of all that are published."""

    copies: list[Message]

    def messages(self, *block: Any) -> list[Message]:
        written = super().messages(*block)
        self.copies += written
        return written


class Town:
    """Bridge and workers as processes, a publisher as a thread, and the database to look into."""

    def __init__(
        self,
        addresses: Addresses,
        namespace: str,
        database: Database,
        folder: Path,
        *,
        idempotence: bool,
        **settings: str,
    ) -> None:
        self.addresses = addresses
        self.namespace = namespace
        self.database = database
        self._folder = folder
        self._children: dict[str, ChildProcess] = {}
        self.endings: list[str] = []
        self._stop = threading.Event()
        self._publisher = ThreadPoolExecutor(1)
        self._publishing: Future[Published] | None = None
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("CITYWATCH_")
        }
        self._environment = inherited | {
            "CITYWATCH_NAMESPACE": namespace,
            "CITYWATCH_MQTT__HOST": addresses.mqtt_host,
            "CITYWATCH_MQTT__PORT": str(addresses.mqtt_port),
            "CITYWATCH_KAFKA__BOOTSTRAP": addresses.kafka_bootstrap,
            "CITYWATCH_KAFKA__IDEMPOTENCE": str(idempotence).lower(),
            "CITYWATCH_KAFKA__PARTITIONS": str(PARTITIONS),
            "CITYWATCH_KAFKA__LOG_ID": addresses.log_id,
            "CITYWATCH_DATABASE__DSN": addresses.dsn,
            "CITYWATCH_BRIDGE__CLIENT_ID": f"bridge-{namespace}",
            "CITYWATCH_WORKER__STATE_INTERVAL_S": "2",
            "CITYWATCH_WORKER__METRICS_PORT": "0",
            **settings,
        }

    def start(self, name: str) -> ChildProcess:
        command = name.split("-", maxsplit=1)[0]
        argv = [sys.executable, "-m", "citywatch", command]
        child = ChildProcess(name, argv, self._environment, self._folder / f"{name}.log")
        self._children[name] = child
        child.start()
        return child

    def kill(self, name: str) -> None:
        child = self._children.pop(name)
        child.check()
        child.kill()
        child.stop()

    def end(self, name: str) -> None:
        """End a process in good order."""
        child = self._children.pop(name)
        child.check()
        child.stop()
        assert child.exit_code == 0, child.log_tail()

    def freeze(self, name: str) -> None:
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self._signal(name, signal.SIGCONT)

    def _signal(self, name: str, number: signal.Signals) -> None:
        pid = self._children[name].pid
        assert pid is not None
        os.kill(pid, number)

    def backend(self, name: str) -> tuple[int, str] | None:
        """Return process id and state of the database's end of a worker's connection."""
        ports = {
            connection.laddr.port
            for connection in psutil.Process(self._children[name].pid).net_connections("tcp")
        }
        query = """
            SELECT pid, state FROM pg_stat_activity
            WHERE application_name = 'citywatch worker' AND client_port = ANY(%s)
        """
        found = self.database.all(query, list(ports))
        return found[0] if found else None

    def workers(self) -> list[str]:
        return [name for name in self._children if name.startswith("worker")]

    def positions(self) -> dict[tuple[str, int], int]:
        query = "SELECT topic, partition, next_offset FROM stream_position"
        return {(topic, number): offset for topic, number, offset in self.database.all(query)}

    def until_read_on(self, *restarted: str) -> None:
        """Wait until every partition of readings has come further."""
        before = {place: at for place, at in self.positions().items() if "readings" in place[0]}
        assert len(before) == PARTITIONS
        self.until(
            lambda: all(self.positions()[place] > at for place, at in before.items()),
            "every partition is read",
            *restarted,
        )

    def close(self) -> None:
        self._stop.set()
        self._publisher.shutdown()
        for child in self._children.values():
            child.stop()

    def until(self, holds: Callable[[], bool], what: str, *restarted: str) -> None:
        """Wait until something holds; of all processes only those in `restarted` may end.

        They are started again, as their supervisor would, and their logs kept in `endings`.
        """
        end = time.monotonic() + DEADLINE_S
        while not holds():
            self.look(*restarted)
            if self._publishing and self._publishing.done():
                self._publishing.result()
            if time.monotonic() > end:
                tails = [f"{name}:\n{one.log_tail()}" for name, one in self._children.items()]
                pytest.fail("\n".join([f"not within {DEADLINE_S} s: {what}", *tails]))
            time.sleep(0.1)

    def look(self, *restarted: str) -> None:
        """Look after the processes."""
        for name, child in self._children.items():
            if name not in restarted:
                child.check()
            elif not child.running:
                self.endings.append(child.log_path.read_text(errors="replace"))
                assert child.exit_code == 1, child.log_tail()
                child.start()

    def until_open(self) -> None:
        """Wait until a message goes all the way; it is malformed, so it stores no reading."""
        door = FrontDoor(Address(self.addresses.mqtt_host, self.addresses.mqtt_port), self._stop)
        door.open()

        def knock() -> bool:
            door.send(f"city/{self.namespace}/traffic/harbour/probe", b"{")
            door.serve(0.2)
            return bool(self.database.one("SELECT count(*) FROM dead_letter"))

        try:
            self.until(knock, "the bridge and the worker are up")
            door.drain(5.0)
        finally:
            door.close()

    def publish(self) -> None:
        """Publish until `publish_no_more`."""
        self._publishing = self._publisher.submit(
            run_city,
            host=self.addresses.mqtt_host,
            port=self.addresses.mqtt_port,
            namespace=self.namespace,
            city=City(60, 5),
            rate=RATE,
            duration_s=LOAD_S,
            seed=5,
            fault_count=4,
            labels_file=None,
            stop=self._stop,
            mischief=Mischief(bad_share=0.01, duplicate_share=0.02, privacy_probe=True),
        )

    def publish_no_more(self) -> Published:
        """End it and return what was published."""
        self._stop.set()
        assert self._publishing is not None
        return self._publishing.result(DEADLINE_S)

    def stored(self) -> int:
        return int(self.database.one("SELECT coalesce(sum(stored), 0) FROM ledger"))

    def until_stored(self, more: int) -> None:
        goal = self.stored() + more
        self.until(lambda: self.stored() >= goal, f"{goal} readings are stored")

    def until_workers(self, least: int) -> None:
        """Wait until so many workers at least hold partitions: each has a connection then.

        Who comes last may be left without: Faust gives each at most its share, rounded up, and
        takes nobody what is within it. Three workers may have two, two and none of four.
        """
        query = """
            SELECT count(*) FROM pg_stat_activity WHERE application_name = 'citywatch worker'
        """
        self.until(lambda: self.database.one(query) >= least, f"{least} workers have partitions")

    def audit(self) -> dict[str, Any]:
        done = self.command("audit", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the command line to its end."""
        return subprocess.run(
            [sys.executable, "-m", "citywatch", *words],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )

    def check(self, published: Published, sent: list[Message]) -> None:
        """Wait for the last reading, end everything in good order, compare."""
        assert (published.refused, published.unacknowledged) == (0, 0)
        total = published.readings + published.duplicate_readings
        arrived = "SELECT coalesce(sum(readings), 0) FROM ledger"
        self.until(lambda: self.database.one(arrived) >= total, "everything has arrived")
        for name in list(self._children):
            self.end(name)
        readings = readings_of(sent)
        assert len(readings) == published.readings > 2000
        stored = self.database.all(
            "SELECT sensor, quantity, time, value FROM reading_scored ORDER BY 1, 2, 3"
        )
        assert stored == sorted(readings)
        audit = self.audit()
        assert audit["balanced"]
        assert sum(line["stored"] for line in audit["lines"]) == published.readings
        duplicates = sum(line["duplicates"] for line in audit["lines"])
        # QoS 1 may deliver what was published once more than once.
        assert duplicates >= published.duplicate_readings
        assert sum(line["late_conflicts"] for line in audit["lines"]) == 0
        letters = self.database.one(
            "SELECT count(*) FROM dead_letter WHERE mqtt_topic NOT LIKE '%%/probe'"
        )
        assert letters >= published.bad > 0


def readings_of(sent: list[Message]) -> set[Reading]:
    """Read the sound payloads without the code that the bridge reads them with."""
    found: set[Reading] = set()
    for message in sent:
        if not message.bad:
            entity = plain(message.payload)
            at = datetime.fromisoformat(entity["dateObserved"])
            sensor = message.topic.rpartition("/")[2]
            found |= {
                (sensor, name, at, float(entity[name])) for name in entity if name in QUANTITIES
            }
    return found

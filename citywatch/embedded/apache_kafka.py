"""Apache Kafka on this machine without containers: one node, broker and controller in one JVM.

For what the in-memory broker cannot show: idempotent producers, retention, and a log that is
still there after a restart. Its jars are no wheel; `make kafka-jars` fetches them. As a command
it serves until Ctrl-C:

    python -m citywatch.embedded.apache_kafka --data-dir .citywatch/apache-kafka --port 9092
"""

import argparse
import base64
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

from citywatch.embedded.errors import EmbeddedError
from citywatch.embedded.process import ChildProcess
from citywatch.embedded.service import HOST, Service, environment, exchange, write_private

# Where `make kafka-jars` puts them.
JARS: Final = Path(".citywatch/kafka-jars")
_DATA_DIR: Final = Path(".citywatch/apache-kafka")
_MIN_JAVA: Final = 17
_JAVA_TIMEOUT_S: Final = 30.0
# A bound, not a need: 43 MB were live after 250 MB of records, with 200 MB resident in all.
_MAX_HEAP: Final = "512m"
# Serial collector and first compiler alone: 60 MB less than by default, and up in 2.0 s, not 3.2.
_JVM: Final = (
    "-Xms64m",
    f"-Xmx{_MAX_HEAP}",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    # Native libraries are unpacked there; a JVM that is killed leaves them behind.
    "-Djava.io.tmpdir=unpacked",
    "-Dlog4j2.configurationFile=log4j2.properties",
)
_FORMAT_DEADLINE_S: Final = 60.0
# Closing a full log takes Kafka longer than the other parts need.
_STOP_GRACE_S: Final = 30.0
# Its predecessor may still be going down when the parent was killed.
_RELEASE_DEADLINE_S: Final = 10.0
_POLL_S: Final = 0.05
_PORT_ATTEMPTS: Final = 3
_CHECK_INTERVAL_S: Final = 0.5

# ApiVersions v0: size, key 18, version 0, correlation id 7, no client id.
_API_VERSIONS: Final = bytes.fromhex("0000000a 0012 0000 00000007 ffff")
# Answer: size, correlation id, error code.
_ANSWER_HEAD: Final = 10
_ANSWER_TAIL: Final = bytes.fromhex("00000007 0000")

# Paths are relative to the folder, the JVM's working directory: no name of a folder above can
# then need escaping, and the folder can be moved.
_SERVER: Final = """\
process.roles=broker,controller
node.id=1
listeners=BROKER://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=BROKER://{host}:{port}
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.quorum.voters=1@{host}:{controller_port}
log.dirs={log}
# A start after kill -9 waits for the dead broker's session to end: 9 s by default.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# A misspelt topic must fail, not be made.
auto.create.topics.enable=false
# Of Kafka's own topics: one copy, and few partitions, each of which costs files and memory.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
# 128 MiB of heap by default, for a few thousand offsets.
log.cleaner.dedupe.buffer.size=4194304
# A week to repair a database that is away, and 2 GiB a partition, whichever comes first.
log.retention.hours=168
log.retention.bytes=2147483648
log.segment.bytes=134217728
{durability}
"""
# No second copy exists, so what is acknowledged must be on the disk.
_DURABLE: Final = "log.flush.interval.messages=1"

_LOG4J: Final = """\
status=warn
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %c{1} %m%n
rootLogger.level=info
rootLogger.appenderRef.out.ref=out
# Hundreds of lines of settings at each start.
logger.settings.name=org.apache.kafka.common.config
logger.settings.level=warn
"""


class Installation(NamedTuple):
    """What is needed to run Apache Kafka.

    Parameters
    ----------
    java : Path
        The program.
    jars : Path
        Folder of Kafka's jars and those they need.
    version : str
        Of Kafka.
    """

    java: Path
    jars: Path
    version: str


def find_apache_kafka(jars: Path = JARS) -> Installation:
    """Return where Java and Kafka's jars are.

    Raises
    ------
    EmbeddedError
        If either is missing, or Java is too old.
    """
    found = sorted(jars.glob("kafka_*-*.jar"))
    if not found:
        raise EmbeddedError(f"no Apache Kafka in {jars}: make kafka-jars")
    if len(found) > 1:
        raise EmbeddedError(f"more than one Apache Kafka in {jars}: remove it; make kafka-jars")
    return Installation(_find_java(), jars.absolute(), found[0].stem.rpartition("-")[2])


class ApacheKafka(Service):
    """A Kafka broker that keeps its log.

    Parameters
    ----------
    directory : Path
        Its own folder; formatted at the first start, kept for the next.
    port : int
        TCP port; 0 takes a free one at the first start and keeps it. A second one, for the
        controller, is chosen anew at every start.
    jars : Path
        What `make kafka-jars` fetched.
    fast : bool
        For tests: what is acknowledged is safe from a crash of Kafka, not of the machine.
    """

    name = "Apache Kafka"

    def __init__(
        self, directory: Path, port: int, *, jars: Path = JARS, fast: bool = False
    ) -> None:
        super().__init__(directory.absolute(), port)
        self._jars = jars
        self._fast = fast
        self._controller_port = 0

    @property
    def version(self) -> str:
        """Name and version of the jars."""
        return f"Apache Kafka {find_apache_kafka(self._jars).version}"

    @property
    def log_id(self) -> str:
        """The cluster id: it names this log as long as the folder exists; "" before the first."""
        try:
            text = (self._log / "meta.properties").read_text()
        except FileNotFoundError:
            return ""
        return text.partition("cluster.id=")[2].partition("\n")[0]

    @property
    def _log(self) -> Path:
        return self.directory / "log"

    def _prepare(self) -> None:
        installation = find_apache_kafka(self._jars)
        super()._prepare()
        self._wait_for_release()
        shutil.rmtree(self.directory / "unpacked", ignore_errors=True)
        (self.directory / "unpacked").mkdir(mode=0o700)
        write_private(self.directory / "log4j2.properties", _LOG4J)
        if not self._log.exists():
            self._format(installation)

    def _wait_for_release(self) -> None:
        """Wait until no other Kafka holds the log: it locks a file as long as it lives."""
        end = time.monotonic() + _RELEASE_DEADLINE_S
        while _is_locked(self._log / ".lock"):
            if time.monotonic() > end:
                raise EmbeddedError(f"{self.directory} is in use by another {self.name}")
            time.sleep(_POLL_S)

    def _format(self, installation: Installation) -> None:
        """Lay out an empty log. It gets its name when it is whole."""
        draft = self._log.with_name("log.new")
        shutil.rmtree(draft, ignore_errors=True)
        # The ports of a draft count for nothing, but must be two.
        settings = self._settings(draft, port=1, controller_port=2)
        write_private(self.directory / "format.properties", settings)
        arguments = ["kafka.tools.StorageTool", "format", "--config", "format.properties"]
        arguments += [f"--cluster-id={_new_cluster_id()}"]
        with self._java(installation, arguments, "format") as tool:
            if tool.wait(_FORMAT_DEADLINE_S) != 0:
                raise EmbeddedError(f"{self.name}: no log can be made\n{tool.log_tail()}")
        draft.rename(self._log)

    def _start_at(self, port: int) -> None:
        for left in reversed(range(_PORT_ATTEMPTS)):
            self._controller_port = _free_port(port)
            try:
                super()._start_at(port)
            except EmbeddedError:
                # Somebody took it between its choice and the JVM's bind.
                if left and _is_taken(self._controller_port):
                    continue
                raise
            return

    def _program(self, port: int) -> ChildProcess:
        settings = self._settings(self._log, port=port, controller_port=self._controller_port)
        write_private(self.directory / "server.properties", settings)
        installation = find_apache_kafka(self._jars)
        return self._java(installation, ["kafka.Kafka", "server.properties"], "kafka")

    def _settings(self, log: Path, *, port: int, controller_port: int) -> str:
        return _SERVER.format(
            host=HOST,
            port=port,
            controller_port=controller_port,
            log=log.name,
            durability="" if self._fast else _DURABLE,
        )

    def _java(
        self, installation: Installation, arguments: Sequence[str], log_name: str
    ) -> ChildProcess:
        class_path = str(installation.jars / "*")
        return ChildProcess(
            self.name,
            [str(installation.java), *_JVM, "-cp", class_path, *arguments],
            environment(),
            self.directory / f"{log_name}.log",
            cwd=self.directory,
            grace_s=_STOP_GRACE_S,
        )

    def _answers(self, port: int) -> bool:
        # It opens this port only when the controller has let it serve.
        head = exchange(port, _API_VERSIONS, _ANSWER_HEAD)
        return head is not None and head.endswith(_ANSWER_TAIL)


def _find_java() -> Path:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None)
    if found is None:
        where = f"in JAVA_HOME={home}" if home else "on the PATH"
        raise EmbeddedError(f"no Java {where}: Apache Kafka needs {_MIN_JAVA} or later")
    try:
        told = subprocess.run(
            [found, "-version"],
            capture_output=True,
            check=True,
            env=environment(),
            timeout=_JAVA_TIMEOUT_S,
            text=True,
        ).stderr
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"{found} does not run: {error}") from error
    match = re.search(r'version "(\d+)', told)
    if match is None or int(match[1]) < _MIN_JAVA:
        first = told.partition("\n")[0]
        raise EmbeddedError(f"{found} is {first}: Apache Kafka needs {_MIN_JAVA} or later")
    return Path(found)


def _new_cluster_id() -> str:
    """Return a random id as Kafka writes its own: 16 bytes in URL-safe base64."""
    return base64.urlsafe_b64encode(uuid4().bytes).rstrip(b"=").decode()


def _is_locked(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # As Java's FileChannel locks.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(file)


def _free_port(other: int) -> int:
    """Return a port that is free now, and not `other`."""
    while True:
        with socket.create_server((HOST, 0)) as probe:
            port: int = probe.getsockname()[1]
        if port != other:
            return port


def _is_taken(port: int) -> bool:
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return True
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM; return 1 if Kafka cannot start or dies."""
    parser = argparse.ArgumentParser(
        prog="python -m citywatch.embedded.apache_kafka",
        description="Run Apache Kafka on 127.0.0.1 until Ctrl-C.",
    )
    parser.add_argument("--data-dir", type=Path, default=_DATA_DIR, help="kept from run to run")
    parser.add_argument("--port", type=int, default=9092, help="0 takes a free one")
    parser.add_argument("--jars", type=Path, default=JARS, help="from make kafka-jars")
    parser.add_argument("--fast", action="store_true", help="for tests: do not wait for the disk")
    options = parser.parse_args(arguments)
    kafka = ApacheKafka(options.data_dir, options.port, jars=options.jars, fast=options.fast)
    # SIGINT too: a shell starts what it puts in the background with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        options.data_dir.parent.mkdir(parents=True, exist_ok=True)
        _say(f"{kafka.version} starts in {options.data_dir}")
        kafka.start()
        _say(f"{HOST}:{kafka.port} serves the log {kafka.log_id}; Ctrl-C stops it")
        while True:
            time.sleep(_CHECK_INTERVAL_S)
            kafka.check()
    except KeyboardInterrupt:
        return 0
    except (EmbeddedError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        kafka.stop()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

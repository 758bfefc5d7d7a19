"""The three parts together: started at once, held by a lock, stopped together."""

import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from citywatch.embedded.errors import EmbeddedError
from citywatch.embedded.kafka import Tansu
from citywatch.embedded.mqtt import MqttChoice, MqttService, make_mqtt
from citywatch.embedded.postgres import Postgres
from citywatch.embedded.service import HOST, Service


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the parts can be reached.

    Parameters
    ----------
    mqtt_host, mqtt_port : str, int
        The MQTT broker.
    kafka_bootstrap : str
        `host:port` of the Kafka broker.
    log_id : str
        Names this incarnation of the Kafka log.
    dsn : str
        Connection string of the database; holds the password and is never shown.
    """

    mqtt_host: str
    mqtt_port: int
    kafka_bootstrap: str
    log_id: str
    dsn: str = field(repr=False)


class EmbeddedStack:
    """MQTT broker, Kafka broker and database as children of this process, on 127.0.0.1.

    They die with this process, however it ends. Database and MQTT queues are kept in `data_dir`;
    what is in Kafka is lost when it stops.

    Parameters
    ----------
    data_dir : Path
        Made if missing. One stack at a time can use it.
    mqtt_port, kafka_port, postgres_port : int
        TCP ports; 0 takes a free one.
    mqtt : {"auto", "mosquitto", "rumqttd"}
        Which MQTT broker; "auto" takes Mosquitto where it is installed.
    fast : bool
        For tests: the database does not wait for the disk.
    """

    mqtt: MqttService
    kafka: Tansu
    postgres: Postgres

    def __init__(
        self,
        data_dir: Path,
        *,
        mqtt_port: int = 0,
        kafka_port: int = 0,
        postgres_port: int = 0,
        mqtt: MqttChoice = "auto",
        fast: bool = False,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.mqtt = make_mqtt(self.data_dir / "mqtt", mqtt_port, mqtt)
        self.kafka = Tansu(self.data_dir / "kafka", kafka_port)
        self.postgres = Postgres(self.data_dir / "postgres", postgres_port, fast=fast)
        self._lock: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def addresses(self) -> Addresses:
        """Where the parts are now; `log_id` changes when Kafka restarts."""
        return Addresses(
            mqtt_host=HOST,
            mqtt_port=self.mqtt.port,
            kafka_bootstrap=f"{HOST}:{self.kafka.port}",
            log_id=self.kafka.log_id,
            dsn=self.postgres.dsn,
        )

    def start(self) -> Addresses:
        """Start all parts and return when all of them answer.

        Raises
        ------
        EmbeddedError
            If the data directory is in use, or a part does not start; none is left running.
        """
        if self._lock is not None:
            raise EmbeddedError("the embedded stack is running already")
        self._lock = _lock(self.data_dir)
        try:
            _together([part.start for part in self._parts])
        except BaseException:
            self.stop()
            raise
        return self.addresses

    def stop(self) -> None:
        """Stop all parts in good order; no error if they do not run."""
        if self._lock is None:
            return
        try:
            _together([part.stop for part in self._parts])
        finally:
            os.close(self._lock)
            self._lock = None

    def check(self) -> None:
        """Raise EmbeddedError, with the tail of its log, if a part has died."""
        for part in self._parts:
            part.check()

    def remove(self) -> None:
        """Stop, and delete the data directory and all that belongs to it."""
        self.stop()
        self.postgres.remove()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    @property
    def _parts(self) -> Sequence[Service]:
        return (self.postgres, self.kafka, self.mqtt)


def _together(actions: Sequence[Callable[[], None]]) -> None:
    with ThreadPoolExecutor(max_workers=len(actions)) as threads:
        futures = [threads.submit(action) for action in actions]
    faults = [fault for future in futures if (fault := future.exception()) is not None]
    for fault in faults:
        if not isinstance(fault, EmbeddedError):
            raise fault
    if faults:
        raise EmbeddedError("\n".join(map(str, faults)))


def _lock(data_dir: Path) -> int:
    """Take the data directory for this process; the kernel gives it back when it ends."""
    try:
        # Root's database runs as another user, who has to pass through.
        data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        if data_dir.stat().st_mode & stat.S_IWOTH:
            raise EmbeddedError(f"{data_dir} can be written to by everybody")
        file = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise EmbeddedError(f"{data_dir} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(file, 32).decode(errors="replace")
        os.close(file)
        raise EmbeddedError(f"{data_dir} is in use by process {holder}") from error
    os.ftruncate(file, 0)
    os.write(file, str(os.getpid()).encode())
    return file

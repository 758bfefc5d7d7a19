"""The embedded stack with its real parts: it serves, survives, is guarded, and leaves nothing."""

import asyncio
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import Self

import psutil
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from paho.mqtt import client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from citywatch.embedded import Addresses, EmbeddedError, EmbeddedStack
from citywatch.embedded.mqtt import MqttChoice, MqttService, find_mosquitto
from citywatch.embedded.postgres import can_reach
from citywatch.embedded.process import Owner

pytestmark = pytest.mark.integration

DEADLINE_S = 20.0

# A program that starts a stack in argv[1], tells the pids of its parts, and stops it at EOF.
HOLDER = """
import json, sys
from pathlib import Path
from citywatch.embedded import EmbeddedStack
stack = EmbeddedStack(Path(sys.argv[1]), fast=True)
with stack:
    parts = (stack.mqtt, stack.kafka, stack.postgres)
    told = {"pids": [part.pid for part in parts], "dsn": stack.addresses.dsn}
    print(json.dumps(told), flush=True)
    sys.stdin.read()
"""


class Client:
    """An MQTT v5 client with a persistent session, and what it received."""

    def __init__(self, port: int, client_id: str) -> None:
        self.received: Queue[bytes] = Queue()
        self._connected: Queue[bool] = Queue()
        self._subscribed: Queue[bool] = Queue()
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5
        )
        self._client.on_connect = lambda *call: self._connected.put(call[2].session_present)
        self._client.on_subscribe = lambda *_: self._subscribed.put(True)
        self._client.on_message = lambda *call: self.received.put(call[2].payload)
        self._port = port

    def __enter__(self) -> Self:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", self._port, clean_start=False, properties=properties)
        self._client.loop_start()
        self.session_present = self._connected.get(timeout=DEADLINE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, topic: str) -> None:
        self._client.subscribe(topic, qos=1)
        self._subscribed.get(timeout=DEADLINE_S)

    def publish(self, topic: str, payload: bytes) -> None:
        self._client.publish(topic, payload, qos=1).wait_for_publish(DEADLINE_S)


def check_mqtt(port: int, topic: str) -> None:
    with Client(port, f"{topic}-receiver") as receiver, Client(port, f"{topic}-sender") as sender:
        receiver.subscribe(f"{topic}/#")
        sender.publish(f"{topic}/a", b"hello")
        assert receiver.received.get(timeout=DEADLINE_S) == b"hello"


async def check_kafka(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        made = await admin.create_topics([NewTopic(topic, 3, 1)])
        assert [error[:2] for error in made.topic_errors] == [(topic, 0)]
    finally:
        await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", compression_type="lz4")
    await producer.start()
    try:
        sent = await producer.send_and_wait(
            topic, b"value", key=b"key", partition=2, headers=[("schema", b"1")]
        )
    finally:
        await producer.stop()
    assert sent.offset == 0
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 2)])
        got = await asyncio.wait_for(consumer.getone(), DEADLINE_S)
    finally:
        await consumer.stop()
    assert (got.offset, got.key, got.value) == (0, b"key", b"value")
    assert tuple(got.headers) == (("schema", b"1"),)


def check_all(addresses: Addresses, name: str) -> None:
    check_mqtt(addresses.mqtt_port, name)
    asyncio.run(check_kafka(addresses.kafka_bootstrap, name))
    assert read(addresses.dsn, "SELECT current_user, current_database()") == [
        ("citywatch", "citywatch")
    ]


def read(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query).fetchall()


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(statement)


def processes(stack: EmbeddedStack) -> list[psutil.Process]:
    own = [psutil.Process(part.pid) for part in (stack.mqtt, stack.kafka, stack.postgres)]
    return own + [child for process in own for child in process.children(recursive=True)]


def still_there(found: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(found, timeout=DEADLINE_S)
    # Orphans stay zombies where process 1 does not reap.
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_the_session_stack_serves(services: Addresses, namespace: str) -> None:
    check_all(services, namespace)


def test_namespaces_have_schemas_of_their_own(dsn: str, schema: str) -> None:
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s"
    with psycopg.connect(dsn) as connection:
        names = {name for (name,) in connection.execute(tables, [schema])}
    assert {"reading", "alert", "outbox", "stream_position"} <= names


def test_settings_of_the_database(own_stack: EmbeddedStack) -> None:
    dsn = own_stack.addresses.dsn
    names = "listen_addresses", "unix_socket_directories", "track_commit_timestamp", "jit", "fsync"
    shown = [read(dsn, f"SHOW {name}")[0][0] for name in names]
    assert shown == ["127.0.0.1", "", "on", "off", "off"]
    assert read(dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == [(False,)]


@pytest.mark.parametrize("user", ["citywatch", "postgres"])
def test_nobody_comes_in_without_the_password(own_stack: EmbeddedStack, user: str) -> None:
    port = own_stack.postgres.port
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://{user}:wrong@127.0.0.1:{port}/citywatch")


def test_secrets_are_readable_by_the_owner_only(own_stack: EmbeddedStack) -> None:
    password = own_stack.data_dir / "postgres" / "password"
    assert password.stat().st_mode & 0o777 == 0o600
    assert password.read_text() not in repr(own_stack.addresses)


def test_everything_listens_on_the_loopback_only(own_stack: EmbeddedStack) -> None:
    listening = [
        connection.laddr
        for process in processes(own_stack)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    parts = (own_stack.mqtt, own_stack.kafka, own_stack.postgres)
    assert {address.port for address in listening} == {part.port for part in parts}
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_stop_leaves_no_process_and_the_next_start_finds_the_data(own_stack: EmbeddedStack) -> None:
    first = own_stack.addresses
    execute(first.dsn, "CREATE TABLE kept AS SELECT 7 AS seven")
    found = processes(own_stack)
    own_stack.stop()
    assert still_there(found) == []
    second = own_stack.start()
    assert read(second.dsn, "SELECT seven FROM kept") == [(7,)]
    assert second.log_id != first.log_id


def test_start_after_all_parts_were_killed(own_stack: EmbeddedStack) -> None:
    execute(own_stack.addresses.dsn, "CREATE TABLE kept AS SELECT 7 AS seven")
    for part in (own_stack.mqtt, own_stack.kafka, own_stack.postgres):
        part.kill()
    assert (own_stack.postgres._cluster / "postmaster.pid").exists()
    own_stack.stop()
    addresses = own_stack.start()
    assert read(addresses.dsn, "SELECT seven FROM kept") == [(7,)]
    check_all(addresses, "again")


def test_a_lock_file_that_names_a_stranger_does_not_stop_the_database(
    own_stack: EmbeddedStack,
) -> None:
    own_stack.postgres.kill()
    lock = own_stack.postgres._cluster / "postmaster.pid"
    stranger = subprocess.Popen(["/bin/sleep", "600"], process_group=0)
    try:
        lines = lock.read_text().splitlines()
        lock.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        own_stack.postgres.restart()
    finally:
        stranger.kill()
        stranger.wait()
    assert read(own_stack.addresses.dsn, "SELECT 1") == [(1,)]


@pytest.mark.parametrize("name", ["mqtt", "kafka", "postgres"])
def test_a_crash_is_noticed_and_mended(own_stack: EmbeddedStack, name: str) -> None:
    own_stack.check()
    part = getattr(own_stack, name)
    port = part.port
    part.kill()
    with pytest.raises(EmbeddedError, match=f"{part.name} was killed by SIGKILL"):
        own_stack.check()
    part.restart()
    own_stack.check()
    assert part.port == port
    check_all(own_stack.addresses, f"after-{name}")


def test_a_second_stack_in_the_same_folder_is_refused(own_stack: EmbeddedStack) -> None:
    with pytest.raises(EmbeddedError, match=f"in use by process {os.getpid()}"):
        EmbeddedStack(own_stack.data_dir, fast=True).start()
    own_stack.check()


def test_a_port_in_use_is_told_and_nothing_is_left_running(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        stack = EmbeddedStack(tmp_path / "data", kafka_port=port, fast=True)
        try:
            with pytest.raises(EmbeddedError, match=f"Tansu: port {port} of 127.0.0.1 is in use"):
                stack.start()
            assert (stack.mqtt.pid, stack.kafka.pid, stack.postgres.pid) == (None, None, None)
        finally:
            stack.remove()


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    stack = EmbeddedStack(tmp_path / "data", fast=True)
    argv = [sys.executable, "-c", HOLDER, str(stack.data_dir)]
    try:
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
            told = json.loads(parent.stdout.readline())
            execute(told["dsn"], "CREATE TABLE kept AS SELECT 7 AS seven")
            found = [psutil.Process(pid) for pid in told["pids"]]
            found += [child for process in found for child in process.children(recursive=True)]
            parent.kill()
        # At once: the next start has to wait for what is still going down.
        with stack:
            assert read(stack.addresses.dsn, "SELECT seven FROM kept") == [(7,)]
        assert still_there(found) == []
    finally:
        stack.remove()


def test_rumqttd_serves_v5_and_keeps_sessions_over_a_reconnect(tmp_path: Path) -> None:
    with MqttPart(tmp_path, "rumqttd") as part:
        check_mqtt(part.port, "rumqttd")
        check_absent_client(part.port)


@pytest.mark.skipif(find_mosquitto() is None, reason="Mosquitto is not installed")
def test_mosquitto_keeps_what_waits_for_an_absent_client_over_a_restart(tmp_path: Path) -> None:
    with MqttPart(tmp_path, "mosquitto") as part:
        check_absent_client(part.port)
        check_absent_client(part.port, between=part.restart)


class MqttPart:
    """The MQTT part alone; the others would only cost time."""

    def __init__(self, tmp_path: Path, choice: MqttChoice) -> None:
        self._part = EmbeddedStack(tmp_path, mqtt=choice).mqtt

    def __enter__(self) -> MqttService:
        self._part.start()
        return self._part

    def __exit__(self, *_: object) -> None:
        self._part.stop()


def check_absent_client(port: int, between: Callable[[], None] = lambda: None) -> None:
    with Client(port, "absent") as client:
        client.subscribe("absent/#")
    with Client(port, "sender") as sender:
        for number in range(2000):
            sender._client.publish("absent/x", f"{number}", qos=1)
        sender.publish("absent/x", b"last")
    between()
    with Client(port, "absent") as client:
        assert client.session_present
        got = [client.received.get(timeout=DEADLINE_S) for _ in range(2001)]
    assert got == [*(f"{number}".encode() for number in range(2000)), b"last"]


def pythons() -> list[Path]:
    """Return this Python, and the system's if it is the same version: extensions need it."""
    major, minor = sys.version_info[:2]
    return [Path(sys.executable), Path(f"/usr/bin/python{major}.{minor}")]


@pytest.mark.skipif(
    os.geteuid() != 0, reason="not root: every other test here runs as an ordinary user"
)
def test_an_ordinary_user_can_run_it() -> None:
    entry = pwd.getpwnam("nobody")
    owner = Owner(entry.pw_uid, entry.pw_gid)
    python = next((path for path in pythons() if can_reach(path, owner)), None)
    needed = [Path(__file__).parent, Path(psycopg.__file__).parent]
    if python is None or not all(can_reach(path, owner) for path in needed):
        pytest.skip("Python, its packages or the sources are out of reach of user nobody")
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        os.chown(folder, *owner)
        with subprocess.Popen(
            [python, "-B", "-c", HOLDER, str(folder / "data")],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            user=owner.uid,
            group=owner.gid,
            extra_groups=(),
            cwd="/",
        ) as holder:
            told = json.loads(holder.stdout.readline())
            uids = {psutil.Process(pid).uids().real for pid in told["pids"]}
            assert read(told["dsn"], "SELECT 1") == [(1,)]
            holder.stdin.close()
        assert holder.returncode == 0
        assert uids == {owner.uid}
    finally:
        shutil.rmtree(folder)

"""Apache Kafka as it is, and what the bridge's sender makes of it: nothing lost, nothing twice."""

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

import ingest.kafka
from citywatch.embedded import EmbeddedError, apache_kafka
from citywatch.embedded.apache_kafka import JARS, ApacheKafka, find_apache_kafka
from ingest.kafka import RecordSender, RecordSizeError, TopicError, ensure_topics
from ingest.records import KafkaRecord
from ingest.topics import readings_topic

ROOT = Path(__file__).parents[2]
FOUND = ROOT / JARS
DEADLINE_S = 60.0
PARTITIONS = 2


def missing() -> str:
    try:
        find_apache_kafka(FOUND)
    except EmbeddedError as error:
        return str(error)
    return ""


pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("apache-kafka")]
needs_apache_kafka = pytest.mark.skipif(
    bool(missing()), reason=f"needs Apache Kafka: make kafka-jars ({missing()})"
)


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """Return a broker that a test may freeze and kill, if it leaves it running."""
    broker = ApacheKafka(tmp_path_factory.mktemp("apache-kafka") / "k", 0, jars=FOUND, fast=True)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def bootstrap_of(kafka: ApacheKafka) -> str:
    return f"127.0.0.1:{kafka.port}"


def records(topic: str, *numbers: int) -> list[KafkaRecord]:
    return [KafkaRecord(topic, number % PARTITIONS, b"%d" % number, []) for number in numbers]


@asynccontextmanager
async def sender_to(kafka: ApacheKafka, namespace: str) -> AsyncIterator[RecordSender]:
    """Return an idempotent sender, the topics of its namespace made."""
    await ensure_topics(bootstrap_of(kafka), namespace, PARTITIONS, 1)
    sender = RecordSender(bootstrap_of(kafka), idempotence=True)
    try:
        await sender.start()
        yield sender
    finally:
        await sender.stop()


async def log_of(kafka: ApacheKafka, topic: str) -> list[int]:
    """Return the numbers that Kafka holds, a partition after the other."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_of(kafka), auto_offset_reset="earliest", group_id=None
    )
    await consumer.start()
    found: list[int] = []
    try:
        for number in range(PARTITIONS):
            place = TopicPartition(topic, number)
            consumer.assign([place])
            end = (await consumer.end_offsets([place]))[place]
            async with asyncio.timeout(DEADLINE_S):
                while await consumer.position(place) < end:
                    batches = await consumer.getmany(timeout_ms=200)
                    found += [int(record.value) for batch in batches.values() for record in batch]
    finally:
        await consumer.stop()
    return found


def in_order(*numbers: int) -> list[int]:
    return sorted(numbers, key=lambda number: number % PARTITIONS)


def send_signal(kafka: ApacheKafka, number: int) -> None:
    assert kafka.pid is not None
    os.kill(kafka.pid, number)


@needs_apache_kafka
def test_the_log_outlives_kill_9_and_the_sender_too(kafka: ApacheKafka, namespace: str) -> None:
    topic = readings_topic(namespace)
    log_id, port = kafka.log_id, kafka.port

    async def scenario() -> list[int]:
        async with sender_to(kafka, namespace) as sender:
            await sender.send(records(topic, *range(100)))
            await asyncio.to_thread(kafka.kill)
            with pytest.raises(EmbeddedError, match="was killed by SIGKILL"):
                kafka.check()
            sending = asyncio.create_task(sender.send(records(topic, *range(100, 200))))
            await asyncio.to_thread(kafka.restart)
            await asyncio.wait_for(sending, DEADLINE_S)
            return await log_of(kafka, topic)

    assert asyncio.run(scenario()) == in_order(*range(200))
    assert log_id
    assert (kafka.log_id, kafka.port) == (log_id, port)


@needs_apache_kafka
def test_an_orderly_restart_keeps_the_log(kafka: ApacheKafka, namespace: str) -> None:
    topic = readings_topic(namespace)
    log_id = kafka.log_id

    async def scenario() -> list[int]:
        async with sender_to(kafka, namespace) as sender:
            await sender.send(records(topic, *range(10)))
        await asyncio.to_thread(kafka.restart)
        return await log_of(kafka, topic)

    assert asyncio.run(scenario()) == in_order(*range(10))
    assert kafka.log_id == log_id


@needs_apache_kafka
def test_frozen_for_longer_than_a_request_may_take_nothing_is_lost_and_nothing_twice(
    kafka: ApacheKafka,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The command line silences it, and may have been called by another test.
    caplog.set_level(logging.WARNING, logger="aiokafka")
    # Ten seconds otherwise; the batch is then sent again though the broker may have it.
    monkeypatch.setattr(ingest.kafka, "_REQUEST_TIMEOUT_MS", 500)
    monkeypatch.setattr(ingest.kafka, "_REPORT_INTERVAL_S", 0.2)
    topic = readings_topic(namespace)

    async def frozen_for_three_requests(sender: RecordSender, start: int) -> None:
        send_signal(kafka, signal.SIGSTOP)
        try:
            sending = asyncio.create_task(sender.send(records(topic, *range(start, start + 200))))
            end = time.monotonic() + DEADLINE_S
            while caplog.text.count("Got error produce response") < 3:
                assert time.monotonic() < end
                await asyncio.sleep(0.02)
            assert not sending.done()
        finally:
            send_signal(kafka, signal.SIGCONT)
        await asyncio.wait_for(sending, DEADLINE_S)

    async def scenario() -> list[int]:
        async with sender_to(kafka, namespace) as sender:
            await sender.send(records(topic, *range(200)))
            for start in range(200, 800, 200):
                caplog.clear()
                await frozen_for_three_requests(sender, start)
                assert "kafka has not taken 200 records yet" in caplog.text
            return await log_of(kafka, topic)

    assert asyncio.run(scenario()) == in_order(*range(800))


@needs_apache_kafka
def test_a_sender_told_to_stop_does_not_wait_for_a_frozen_kafka(
    kafka: ApacheKafka, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest.kafka, "_STOP_GRACE_S", 0.2)
    monkeypatch.setattr(ingest.kafka, "_CANCEL_GRACE_S", 0.2)
    topic = readings_topic(namespace)

    async def scenario() -> float:
        async with sender_to(kafka, namespace) as sender:
            send_signal(kafka, signal.SIGSTOP)
            try:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(sender.send(records(topic, *range(10))), 0.5)
                started = time.monotonic()
                await sender.stop()
                return time.monotonic() - started
            finally:
                send_signal(kafka, signal.SIGCONT)

    # A request may take ten seconds.
    assert asyncio.run(scenario()) < 5


@needs_apache_kafka
def test_a_gap_in_the_numbers_is_got_over(
    kafka: ApacheKafka, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    topic = readings_topic(namespace)

    async def scenario() -> list[int]:
        async with sender_to(kafka, namespace) as sender:
            await sender.send(records(topic, *range(10)))
            numbers = sender._producer._txn_manager
            for partition in range(PARTITIONS):
                numbers.increment_sequence_number(TopicPartition(topic, partition), 7)
            await asyncio.wait_for(sender.send(records(topic, *range(10, 20))), DEADLINE_S)
            return await log_of(kafka, topic)

    assert asyncio.run(scenario()) == in_order(*range(20))
    assert "OutOfOrderSequenceNumber" in caplog.text


@needs_apache_kafka
def test_a_record_too_large_is_an_error_and_the_next_ones_arrive(
    kafka: ApacheKafka, namespace: str
) -> None:
    topic = readings_topic(namespace)
    too_large = KafkaRecord(topic, 0, os.urandom(20_000), [])

    async def scenario() -> list[int]:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_of(kafka))
        await admin.start()
        settings = {"max.message.bytes": "10000"}
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs=settings)])
        await admin.close()
        async with sender_to(kafka, namespace) as sender:
            await sender.send(records(topic, *range(4)))
            with pytest.raises(RecordSizeError, match=f"{topic} .* 20000 bytes"):
                await asyncio.wait_for(sender.send([too_large]), DEADLINE_S)
            await asyncio.wait_for(sender.send(records(topic, *range(4, 8))), DEADLINE_S)
            return await log_of(kafka, topic)

    assert asyncio.run(scenario()) == in_order(*range(8))


@needs_apache_kafka
def test_records_are_compressed(kafka: ApacheKafka, namespace: str) -> None:
    topic = readings_topic(namespace)

    async def send() -> None:
        async with sender_to(kafka, namespace) as sender:
            await sender.send([KafkaRecord(topic, 0, b"7" * 400_000, [])])

    asyncio.run(send())
    segments = list(kafka.directory.rglob(f"{topic}-0/*.log"))
    assert 0 < sum(segment.stat().st_size for segment in segments) < 40_000


@needs_apache_kafka
def test_topics_are_made_by_the_fastest_and_checked_by_the_others(
    kafka: ApacheKafka, namespace: str
) -> None:
    async def scenario() -> None:
        address = bootstrap_of(kafka)
        await asyncio.gather(*(ensure_topics(address, namespace, 3, 1) for _ in range(4)))
        with pytest.raises(TopicError, match=r"has 3 partitions, kafka.partitions says 4"):
            await ensure_topics(address, namespace, 4, 1)

    asyncio.run(scenario())


@needs_apache_kafka
def test_it_listens_on_the_loopback_only_and_says_its_version(kafka: ApacheKafka) -> None:
    listening = [
        connection.laddr
        for connection in psutil.Process(kafka.pid).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    # Java may serve IPv4 through a socket of IPv6.
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert {address.port for address in listening} == {kafka.port, kafka._controller_port}
    assert kafka.version.startswith("Apache Kafka 4.")


@needs_apache_kafka
def test_a_second_one_in_the_same_folder_is_refused(
    kafka: ApacheKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apache_kafka, "_RELEASE_DEADLINE_S", 0.2)
    with pytest.raises(EmbeddedError, match="in use by another Apache Kafka"):
        ApacheKafka(kafka.directory, 0, jars=FOUND).start()
    kafka.check()


@needs_apache_kafka
def test_a_controller_port_that_was_snatched_is_chosen_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1]]
        choose = apache_kafka._free_port
        monkeypatch.setattr(
            apache_kafka, "_free_port", lambda other: ports.pop() if ports else choose(other)
        )
        broker = ApacheKafka(tmp_path / "k", 0, jars=FOUND, fast=True)
        try:
            broker.start()
            assert broker._controller_port != taken.getsockname()[1]
            assert not ports
        finally:
            broker.stop()


def test_the_jars_are_of_the_version_that_compose_runs() -> None:
    pom = (ROOT / "deploy/kafka/pom.xml").read_text()
    image = re.search(r"image: apache/kafka:(\S+)", (ROOT / "docker-compose.yml").read_text())
    jars = (ROOT / "deploy/kafka/jars.sha256").read_text()
    assert f"<version>{image[1]}</version>" in pom
    assert f" kafka_2.13-{image[1]}.jar\n" in jars


def test_without_jars_it_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="make kafka-jars"):
        ApacheKafka(tmp_path / "k", 0, jars=tmp_path).start()
    assert not (tmp_path / "k").exists()


def test_two_versions_side_by_side_are_refused(tmp_path: Path) -> None:
    for version in ("4.1.0", "4.2.0"):
        (tmp_path / f"kafka_2.13-{version}.jar").touch()
    with pytest.raises(EmbeddedError, match="more than one"):
        find_apache_kafka(tmp_path)


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ("echo 'openjdk version \"11.0.2\" 2019-01-15' >&2", 'version "11.0.2".* needs 17'),
        ("exit 3", "does not run"),
        (None, "no Java in JAVA_HOME"),
    ],
)
def test_a_java_that_will_not_do_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None, fault: str
) -> None:
    (tmp_path / "kafka_2.13-4.2.0.jar").touch()
    (tmp_path / "bin").mkdir()
    if told:
        java = tmp_path / "bin" / "java"
        java.write_text(f"#!/bin/sh\n{told}\n")
        java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(EmbeddedError, match=fault):
        find_apache_kafka(tmp_path)


@needs_apache_kafka
def test_the_command_serves_until_ctrl_c(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "citywatch.embedded.apache_kafka", "--port", "0", "--fast"]
    argv += ["--data-dir", str(tmp_path / "new" / "k"), "--jars", str(FOUND)]
    with subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        try:
            assert command.stdout.readline().startswith("Apache Kafka 4.")
            address = command.stdout.readline().partition(" ")[0]
            host, _, port = address.partition(":")
            socket.create_connection((host, int(port))).close()
            children = psutil.Process(command.pid).children(recursive=True)
            assert children
            command.send_signal(signal.SIGINT)
            _, errors = command.communicate(timeout=DEADLINE_S)
        finally:
            command.kill()
    assert (command.returncode, errors) == (0, "")
    assert psutil.wait_procs(children, timeout=DEADLINE_S)[1] == []


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "citywatch.embedded.apache_kafka", "--jars", str(tmp_path)]
    argv += ["--data-dir", str(tmp_path / "k")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert "make kafka-jars" in done.stderr
    assert "Traceback" not in done.stderr

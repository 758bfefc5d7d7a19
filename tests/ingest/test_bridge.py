"""The bridge between real brokers: everything arrives, whatever is killed on the way."""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ingest.bridge
from citywatch.embedded import Addresses
from citywatch.embedded.process import ChildProcess
from ingest import mqtt, reject
from ingest.batch import decode
from ingest.bridge import run
from ingest.topics import SeriesKey
from tests.ingest import strategies
from tests.ingest.scaffold import (
    PARTITIONS,
    PATIENCE_S,
    Brokers,
    Log,
    Publisher,
    bridge_config,
    eventually,
    flows,
    kafka_log,
    mqtt_config,
    needs_mosquitto,
    publish,
    running,
)

pytestmark = [pytest.mark.integration, pytest.mark.kafka]
ROOT = Path(__file__).parents[2]

# Judged by the clock: what is old is refused. Whole milliseconds, a minute ago.
NOW_NS = (time.time_ns() // 1_000_000 - 60_000) * 1_000_000


def payload(kind: str, sensor: str, time_ns: int = NOW_NS, **attributes: Any) -> bytes:
    return strategies.payload(kind, sensor, time_ns, **attributes)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect without the second that is kind to a real broker."""
    monkeypatch.setattr(mqtt, "_RECONNECT_MIN_S", 0.05)


def config_of(
    services: Addresses, namespace: str, *, idempotence: bool
) -> ingest.bridge.BridgeConfig:
    subscription = mqtt_config(services.mqtt_port, namespace, host=services.mqtt_host)
    return bridge_config(subscription, services.kafka_bootstrap, namespace, idempotence=idempotence)


def test_a_bridge_that_has_nothing_waiting_says_how_far_everything_has_come(
    services: Addresses, namespace: str, idempotence: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config_of(services, namespace, idempotence=idempotence), vouch_interval_s=0.1)
    begun_ns = time.time_ns()

    async def scenario() -> Log:
        async with (
            kafka_log(services.kafka_bootstrap, namespace) as log,
            running(config, monkeypatch),
        ):
            # Time enough for it to vouch, if it did before it knows how long messages take.
            await asyncio.sleep(0.5)
            assert log.records == []
            sensor = f"city/{namespace}/traffic/centre/t1"
            data = payload("TrafficFlowObserved", "t1", intensity=12)
            await asyncio.to_thread(publish, services.mqtt_port, [(sensor, data)])
            words = lambda: [  # noqa: E731 - read anew at every look
                (record.partition, log.provenance(record).complete_ns)
                for record in log.records
                if log.provenance(record).complete_ns is not None
            ]
            await log.until(lambda: len(words()) >= 3 * PARTITIONS)
            assert {partition for partition, _ in words()} == set(range(PARTITIONS))
            return log

    log = asyncio.run(scenario())
    (taken,) = [one for one in log.records if log.provenance(one).tallies]
    arrived_ns = log.provenance(taken).arrived_ns
    assert arrived_ns is not None
    assert begun_ns <= arrived_ns <= time.time_ns()
    for record in log.records:
        provenance = log.provenance(record)
        if provenance.complete_ns is not None:
            # Twice what the one message took, and half a minute.
            wanted_ns = provenance.arrived_ns - 2 * (arrived_ns - NOW_NS) - 30 * 10**9
            assert provenance.complete_ns == wanted_ns
            assert len(decode(record.value)) == 0
            assert provenance.tallies == []


def test_a_bridge_vouches_after_two_quiet_intervals_and_not_more_often() -> None:
    voucher = ingest.bridge._Voucher(10.0)
    quiet = [True] * 40 + [False] + [True] * 40
    due = [second for second, one in enumerate(quiet) if voucher.is_due(100.0 + second, quiet=one)]
    assert due == [20, 30, 61, 71]
    never = ingest.bridge._Voucher(None)
    assert not any(never.is_due(second, quiet=True) for second in range(100))


def test_a_bridge_whose_clock_was_set_hears_before_it_vouches_again() -> None:
    voucher = ingest.bridge._Voucher(10.0)
    assert not voucher.was_set(100.0, 5_000.0)
    assert not voucher.was_set(160.0, 5_060.4)  # slewed
    assert not any(voucher.is_due(160.0 + second, quiet=True) for second in range(19))
    assert voucher.was_set(179.0, 5_079.4 + 86_400)
    assert not voucher.was_set(180.0, 5_080.4 + 86_400)
    due = [second for second in range(30) if voucher.is_due(180.0 + second, quiet=True)]
    assert due == [20]


def test_messages_arrive_exactly_as_published(
    services: Addresses, namespace: str, monkeypatch: pytest.MonkeyPatch, idempotence: bool
) -> None:
    root = f"city/{namespace}"
    face = b"CANARY-FACE"
    sound = [
        (f"{root}/traffic/centre/t1", payload("TrafficFlowObserved", "t1", intensity=12)),
        (
            f"{root}/traffic/centre/t1",
            payload("TrafficFlowObserved", "t1", NOW_NS + 1_000, intensity=-3, occupancy=0.25),
        ),
        (f"{root}/environment/west/e1", payload("NoiseLevelObserved", "e1", LAeq=61.5)),
        (
            f"{root}/cameras/centre/c1",
            payload("CrowdFlowObserved", "c1", peopleCount=7, faceId=face.decode()),
        ),
    ]
    broken = [
        (f"{root}/traffic/centre/t1", b"{", reject.MALFORMED, "$"),
        (f"{root}/traffic/centre/t1", b" " * 1_001, reject.TOO_LARGE, "$"),
        (f"{root}/traffic", b"{}", reject.TOPIC, "topic"),
        (f"{root}/cameras/centre/c1", face, reject.MALFORMED, "$"),
        (
            f"{root}/environment/west/e1",
            payload("NoiseLevelObserved", "e1", LAeq="61,5"),
            reject.VALUE,
            "$.LAeq",
        ),
    ]
    kept = {broken[4][1]}
    messages = sound + [(topic, data) for topic, data, *_ in broken]

    async def scenario() -> Log:
        async with (
            kafka_log(services.kafka_bootstrap, namespace) as log,
            running(config_of(services, namespace, idempotence=idempotence), monkeypatch),
        ):
            await asyncio.to_thread(publish, services.mqtt_port, messages)
            await log.until(lambda: log.messages() >= len(messages))
            return log

    log = asyncio.run(scenario())
    assert sorted(log.values()) == [
        ("cameras/centre/c1/peopleCount", NOW_NS, 7.0, 1),
        ("environment/west/e1/LAeq", NOW_NS, 61.5, 1),
        ("traffic/centre/t1/intensity", NOW_NS, 12.0, 1),
        ("traffic/centre/t1/intensity", NOW_NS + 1_000, -3.0, 4),
        ("traffic/centre/t1/occupancy", NOW_NS + 1_000, 0.25, 1),
    ]
    letters = {(each.mqtt_topic, each.reason, each.place, each.payload) for each in log.letters()}
    assert letters == {
        (topic, reason, place, data if data in kept else None)
        for topic, data, reason, place in broken
    }
    counts: Counter[str] = Counter()
    for tally in log.tallies():
        for name in ("messages", "readings", "rejected", "withheld"):
            counts[name] += getattr(tally, name)
    assert counts == {"messages": 9, "readings": 5, "rejected": 5, "withheld": 1}
    parts = [part for each in log.records for part in (each.value, *dict(each.headers).values())]
    assert not any(face in part for part in parts)


def test_thousands_arrive_once_each(
    services: Addresses, namespace: str, monkeypatch: pytest.MonkeyPatch, idempotence: bool
) -> None:
    sent = flows(namespace, [NOW_NS - n * 1_000_000 for n in range(3_000)], sensors=40)

    async def scenario() -> Log:
        async with (
            kafka_log(services.kafka_bootstrap, namespace) as log,
            running(config_of(services, namespace, idempotence=idempotence), monkeypatch) as bridge,
        ):
            await asyncio.to_thread(publish, services.mqtt_port, [message for message, _ in sent])
            await log.until(lambda: log.messages() >= len(sent))
            await eventually(lambda: bridge.subscriber.acknowledged == len(sent))
            return log

    log = asyncio.run(scenario())
    found = [(SeriesKey.parse(key).sensor, time_ns) for key, time_ns, *_ in log.values()]
    assert sorted(found) == sorted(reading for _, reading in sent)
    assert len({record.partition for record in log.records}) == PARTITIONS


class Child:
    """`citywatch bridge` as its own process."""

    def __init__(
        self, services: Addresses, namespace: str, folder: Path, *, idempotence: bool
    ) -> None:
        env = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")} | {
            "PYTHONPATH": str(ROOT),
            "CITYWATCH_NAMESPACE": namespace,
            "CITYWATCH_MQTT__HOST": services.mqtt_host,
            "CITYWATCH_MQTT__PORT": str(services.mqtt_port),
            "CITYWATCH_KAFKA__BOOTSTRAP": services.kafka_bootstrap,
            "CITYWATCH_KAFKA__IDEMPOTENCE": str(idempotence).lower(),
            "CITYWATCH_KAFKA__PARTITIONS": str(PARTITIONS),
            "CITYWATCH_BRIDGE__CLIENT_ID": f"child-{namespace}",
            "CITYWATCH_BRIDGE__RECEIVE_MAXIMUM": "400",
            "CITYWATCH_BRIDGE__FLUSH_INTERVAL_S": "0.05",
        }
        argv = [sys.executable, "-m", "citywatch", "bridge"]
        self.process = ChildProcess("bridge", argv, env, folder / "bridge.log", cwd=folder)

    async def __aenter__(self) -> ChildProcess:
        await asyncio.to_thread(self.process.start)
        return self.process

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.process.stop)


async def subscribed(log: Log, port: int) -> None:
    """Wait until what is published arrives: a first message counts from the subscription on."""
    ((hello, _),) = flows(log.namespace, [NOW_NS])

    async def heard() -> None:
        await log.until(lambda: log.records, 0.3)

    for _ in range(100):
        await asyncio.to_thread(publish, port, [hello])
        try:
            await heard()
        except AssertionError:
            continue
        return
    raise AssertionError("the bridge does not listen")


@needs_mosquitto
def test_nothing_is_lost_when_the_bridge_is_killed_under_load(
    own_brokers: Brokers, namespace: str, tmp_path: Path, idempotence: bool
) -> None:
    services = own_brokers.addresses
    sent = flows(namespace, [NOW_NS - n * 1_000_000 for n in range(1, 6_001)], sensors=50)
    parts = [sent[start : start + 2_000] for start in (0, 2_000, 4_000)]
    wanted = {reading for _, reading in sent}

    async def scenario() -> Log:
        async with (
            kafka_log(services.kafka_bootstrap, namespace) as log,
            Child(services, namespace, tmp_path, idempotence=idempotence) as child,
        ):
            await subscribed(log, services.mqtt_port)
            with Publisher(services.mqtt_port) as publisher:
                for (topic, data), _ in parts[0]:
                    publisher.send(topic, data)
                # Some have arrived, the rest is on its way.
                arrived = {reading for _, reading in parts[0]}
                await log.until(lambda: log.readings() & arrived)
                await asyncio.to_thread(child.kill)
                assert child.exit_code == -signal.SIGKILL
                await asyncio.to_thread(child.start)
            await log.until(lambda: arrived <= log.readings())

            # Once more with Kafka asleep: what the bridge has taken now is nowhere else.
            own_brokers.signal_kafka(signal.SIGSTOP)
            try:
                messages = [message for message, _ in parts[1]]
                await asyncio.to_thread(publish, services.mqtt_port, messages)
                await asyncio.to_thread(child.kill)
            finally:
                own_brokers.signal_kafka(signal.SIGCONT)
            await asyncio.to_thread(child.start)
            messages = [message for message, _ in parts[2]]
            await asyncio.to_thread(publish, services.mqtt_port, messages)
            await log.until(lambda: wanted <= log.readings())
            return log

    log = asyncio.run(scenario())
    # Whatever came twice is counted twice: the account balances all the same.
    assert sum(tally.readings for tally in log.tallies()) == len(log.values())
    values = {(SeriesKey.parse(key).sensor, at): value for key, at, value, _ in log.values()}
    for number, (_, reading) in enumerate(sent):
        assert values[reading] == number % 1000


@needs_mosquitto
def test_a_bridge_told_to_stop_finishes_what_it_took(
    services: Addresses, namespace: str, tmp_path: Path, idempotence: bool
) -> None:
    sent = flows(namespace, [NOW_NS - n * 1_000_000 for n in range(1, 1_002)])
    *first, last = sent

    async def scenario() -> Log:
        async with (
            kafka_log(services.kafka_bootstrap, namespace) as log,
            Child(services, namespace, tmp_path, idempotence=idempotence) as child,
        ):
            await subscribed(log, services.mqtt_port)
            await asyncio.to_thread(publish, services.mqtt_port, [message for message, _ in first])
            await log.until(lambda: {reading for _, reading in first} <= log.readings())
            await asyncio.to_thread(child.stop)
            assert child.exit_code == 0
            await asyncio.to_thread(publish, services.mqtt_port, [last[0]])
            await asyncio.to_thread(child.start)
            await log.until(lambda: last[1] in log.readings())
            return log

    log = asyncio.run(scenario())
    found = Counter((SeriesKey.parse(key).sensor, at) for key, at, *_ in log.values())
    # All that had reached Kafka was acknowledged: the successor gets the last message alone.
    assert {found[reading] for _, reading in sent} == {1}


def test_kafka_away_nothing_is_acknowledged_what_waits_is_bounded_and_nothing_is_lost(
    own_brokers: Brokers, namespace: str, monkeypatch: pytest.MonkeyPatch, idempotence: bool
) -> None:
    before = flows(namespace, [NOW_NS - n * 1_000 for n in range(1, 51)])
    during = flows(namespace, [NOW_NS - n * 1_000 for n in range(51, 1_051)])
    subscription = mqtt_config(own_brokers.mqtt.port, namespace, receive_maximum=60)
    config = bridge_config(
        subscription,
        own_brokers.addresses.kafka_bootstrap,
        namespace,
        idempotence=idempotence,
    )
    wanted = {reading for _, reading in before + during}

    async def scenario() -> None:
        port = own_brokers.mqtt.port
        async with (
            kafka_log(own_brokers.addresses.kafka_bootstrap, namespace) as log,
            running(config, monkeypatch) as bridge,
        ):
            watched = bridge.subscriber
            await asyncio.to_thread(publish, port, [message for message, _ in before])
            await log.until(lambda: len(log.readings()) == len(before))
            await eventually(lambda: watched.acknowledged == len(before))
            own_brokers.signal_kafka(signal.SIGSTOP)
            try:
                # The sensors notice nothing: their broker takes it all.
                await asyncio.to_thread(publish, port, [message for message, _ in during])
                # The broker's window is full: it sends no more before it is acknowledged.
                await eventually(lambda: watched.received >= len(before) + 60)
                assert watched.acknowledged == len(before)
            finally:
                own_brokers.signal_kafka(signal.SIGCONT)
            await log.until(lambda: wanted <= log.readings())
            await eventually(lambda: watched.acknowledged >= len(wanted))
            assert watched.longest <= 60

    asyncio.run(scenario())


@needs_mosquitto
def test_a_restart_of_the_mqtt_broker_loses_nothing(
    own_brokers: Brokers, namespace: str, monkeypatch: pytest.MonkeyPatch, idempotence: bool
) -> None:
    sent = flows(namespace, [NOW_NS - n * 1_000 for n in range(1, 601)])
    parts = [[message for message, _ in sent[start : start + 200]] for start in (0, 200, 400)]
    subscription = mqtt_config(own_brokers.mqtt.port, namespace, receive_maximum=50)
    config = bridge_config(
        subscription,
        own_brokers.addresses.kafka_bootstrap,
        namespace,
        idempotence=idempotence,
    )
    wanted = {reading for _, reading in sent}

    async def scenario() -> None:
        port = own_brokers.mqtt.port
        async with (
            kafka_log(own_brokers.addresses.kafka_bootstrap, namespace) as log,
            running(config, monkeypatch) as bridge,
        ):
            watched = bridge.subscriber
            await asyncio.to_thread(publish, port, parts[0])
            await eventually(lambda: watched.acknowledged == len(parts[0]))
            # With Kafka asleep the messages are nowhere but in the broker and the bridge.
            own_brokers.signal_kafka(signal.SIGSTOP)
            try:
                await asyncio.to_thread(publish, port, parts[1])
                await eventually(lambda: watched.received >= len(parts[0]) + 50)
                await asyncio.to_thread(own_brokers.mqtt.restart)
                # The bridge need not be back for the broker to keep what comes for it.
                await asyncio.to_thread(publish, port, parts[2])
            finally:
                own_brokers.signal_kafka(signal.SIGCONT)
            await log.until(lambda: wanted <= log.readings())
            await eventually(watched.connected.is_set)
            assert watched._connection > 0

    asyncio.run(scenario())


def test_a_bridge_waiting_for_kafka_can_be_stopped(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    async def away(*arguments: object) -> None:
        tried.append(arguments)
        raise ConnectionRefusedError

    monkeypatch.setattr(ingest.bridge, "ensure_topics", away)
    config = bridge_config(mqtt_config(1, namespace), "127.0.0.1:1", namespace)

    async def scenario() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(run(config, stop))
        await eventually(lambda: len(tried) > 2)
        stop.set()
        await asyncio.wait_for(task, PATIENCE_S)

    asyncio.run(scenario())


def test_a_bridge_that_hears_nothing_any_more_ends(
    services: Addresses, namespace: str, monkeypatch: pytest.MonkeyPatch, idempotence: bool
) -> None:
    async def scenario() -> None:
        async with running(
            config_of(services, namespace, idempotence=idempotence), monkeypatch
        ) as bridge:

            def dead(_limit: int) -> None:
                raise mqtt.SubscriberError("the MQTT thread has ended")

            monkeypatch.setattr(bridge.subscriber, "take", dead)
            await asyncio.wait({bridge.task}, timeout=PATIENCE_S)
            assert bridge.task.done()

    with pytest.raises(mqtt.SubscriberError):
        asyncio.run(scenario())


def test_large_rejects_do_not_pile_up(
    services: Addresses, namespace: str, monkeypatch: pytest.MonkeyPatch, idempotence: bool
) -> None:
    monkeypatch.setattr(ingest.bridge, "_MAX_FLUSH_BYTES", 1_000)
    monkeypatch.setattr(ingest.bridge, "_SLICE", 1)
    sizes: list[int] = []
    real = ingest.bridge.RecordSender.send

    async def noted(sender: Any, records: Any) -> None:
        sizes.append(len(records))
        await real(sender, records)

    monkeypatch.setattr(ingest.bridge.RecordSender, "send", noted)
    bad = json.dumps({"type": "x" * 480}).encode()
    messages = [(f"city/{namespace}/traffic/centre/s1", bad)] * 60

    async def scenario() -> Log:
        async with (
            kafka_log(services.kafka_bootstrap, namespace) as log,
            running(config_of(services, namespace, idempotence=idempotence), monkeypatch),
        ):
            await asyncio.to_thread(publish, services.mqtt_port, messages)
            await log.until(lambda: log.messages() >= len(messages))
            return log

    log = asyncio.run(scenario())
    # Of a type nobody knows: counted, not kept.
    assert [letter.payload for letter in log.letters()] == [None] * len(messages)
    assert max(sizes) <= 3

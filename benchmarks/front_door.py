"""ING: the front door at its limits, on real brokers, everything on this machine.

| scenario | what must hold |
| --- | --- |
| ING-RATE | to Kafka's acknowledgement 1.4 x plain paho's receiving alone; 110 us CPU a message |
| ING-SENML | packs of 100 readings: 300,000 readings/s through decode and encode |
| ING-KILL | the bridge killed ten times under load: nothing lost, each reading stored once |
| ING-KAFKA | Kafka away for 60 s under load: nothing lost, memory within its bound |
| ING-SHARE | two bridges on a shared subscription: nothing lost, each 40 to 60 % |
| ING-OFFLINE | the bridge away for five minutes: everything arrives, on Mosquitto as shipped |

Prints a table; the last line is one JSON object. Rates are taken in turns in one run.
"""

import argparse
import asyncio
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import psycopg
from load import (
    PARTITIONS,
    Bridge,
    Log,
    ShippedMosquitto,
    kafka_log,
    load,
    pause,
    started,
)
from pipeline import machine

from citywatch.embedded import EmbeddedError, EmbeddedStack
from citywatch.embedded.apache_kafka import ApacheKafka
from citywatch.embedded.kafka import Tansu
from citywatch.embedded.mqtt import make_mqtt
from citywatch.embedded.process import ChildProcess
from citywatch.embedded.service import HOST
from ingest.arrival import Arrival
from ingest.assembly import Assembler, AssemblyConfig
from ingest.batch import decode
from storage.migrate import migrate

RECEIVE_MAXIMUM = 5_000
MIN_RATIO = 1.4
MAX_CPU_US = 110.0
MIN_SENML = 300_000.0
# Queue and flush of the bridge hold 64 MiB of payloads each; as objects those weigh twice that.
MAX_GROWTH_MIB = 256.0
# A few of the bridge's flushes.
_FROZEN_S = 0.3
# Beside the small messages: a minute of these is more than a bridge may hold (64 MiB in its queue,
# as much in a flush), and less than the broker does.
_LARGE_BYTES = 60_000
_LARGE_PER_S = 50.0
Facts = dict[str, Any]


def mosquitto_sub(port: int, namespace: str, client_id: str, count: int) -> Facts | None:
    """Return what the C client takes for the same, its start included; None without it."""
    if shutil.which("mosquitto_sub") is None:
        return None
    begin = time.perf_counter()
    argv = ["mosquitto_sub", "-p", str(port), "-V", "5", "-q", "1", "-c", "-x", "3600"]
    argv += ["-i", client_id, "-t", f"city/{namespace}/#"]
    argv += ["-D", "connect", "receive-maximum", str(RECEIVE_MAXIMUM)]
    argv += ["-E"] if count == 0 else ["-C", str(count)]
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True, timeout=300)
    return {"messages": count, "wall_s": time.perf_counter() - begin, "cpu_s": 0.0}


def plain_paho(port: int, namespace: str, client_id: str, count: int) -> Facts:
    """Return what paho takes as it comes."""
    script = Path(__file__).with_name("plain_paho.py")
    argv = [sys.executable, str(script), str(port), client_id, f"city/{namespace}/#"]
    argv += [str(RECEIVE_MAXIMUM), str(count)]
    ended = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=300)
    facts: Facts = json.loads(ended.stdout)
    return facts


async def through_bridge(bridge: Bridge, log: Log, count: int) -> Facts:
    """Return what the bridge takes, from its connection to the last record in Kafka."""
    before = log.messages.total()
    with bridge:
        process = psutil.Process(bridge.pid)
        # Messages come with the connection; nothing of them is left out of the time.
        bridge.wait_subscribed()
        begin, cpu_s = time.perf_counter(), _cpu_s(process)
        while (taken := log.messages.total() - before) < count:
            await log.read()
            if time.perf_counter() - begin > 300:
                raise SystemExit(f"only {taken} of {count} messages came through the bridge")
        return {
            "messages": taken,
            "wall_s": time.perf_counter() - begin,
            "cpu_s": _cpu_s(process) - cpu_s,
        }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def rate(folder: Path, options: argparse.Namespace) -> Facts:
    """Take three rounds of the same messages, waiting in three sessions, by turns."""
    mqtt, kafka = make_mqtt(folder / "mqtt", 0, "mosquitto"), Tansu(folder / "kafka", 0)
    namespace, count = "replay-rate", options.messages
    found: dict[str, list[Facts]] = {"bridge": [], "paho": []}
    c_rates: list[float] = []
    with started(mqtt, kafka):
        bootstrap = f"{HOST}:{kafka.port}"
        bridge = Bridge(folder, mqtt.port, bootstrap, namespace, **_tansu())
        async with kafka_log(bootstrap, namespace) as log:
            with bridge:
                bridge.wait_subscribed()
            plain_paho(mqtt.port, namespace, "paho", 0)
            mosquitto_sub(mqtt.port, namespace, "sub", 0)
            with load(mqtt.port, namespace) as sensors:
                for _ in range(options.rounds):
                    await asyncio.to_thread(sensors.publish, count)
                    found["paho"].append(
                        await asyncio.to_thread(plain_paho, mqtt.port, namespace, "paho", count)
                    )
                    found["bridge"].append(await through_bridge(bridge, log, count))
                    facts = await asyncio.to_thread(
                        mosquitto_sub, mqtt.port, namespace, "sub", count
                    )
                    if facts:
                        c_rates.append(facts["messages"] / facts["wall_s"])
                await log.until(lambda: len(log.found) >= sensors.sent, "all readings")
                assert set(log.found) == sensors.readings()
    rates = {
        name: median(facts["messages"] / facts["wall_s"] for facts in rounds)
        for name, rounds in found.items()
    }
    cpu_us = {
        name: median(1e6 * facts["cpu_s"] / facts["messages"] for facts in found[name])
        for name in ("bridge", "paho")
    }
    ratio = rates["bridge"] / rates["paho"]
    return {
        "bridge_per_s": round(rates["bridge"]),
        "paho_per_s": round(rates["paho"]),
        "mosquitto_sub_per_s": round(median(c_rates)) if c_rates else "not installed",
        "ratio_to_paho": round(ratio, 2),
        "bridge_cpu_us": round(cpu_us["bridge"], 1),
        "paho_cpu_us": round(cpu_us["paho"], 1),
        "ok": ratio >= MIN_RATIO and cpu_us["bridge"] <= MAX_CPU_US,
    }


async def senml(_: Path, options: argparse.Namespace) -> Facts:
    """Take packs of a gateway with 100 sensors, and of one sensor with 100 times, to records."""
    rates = {
        shape: median(_taken_per_s(shape, options.packs) for _ in range(options.rounds))
        for shape in ("100 sensors", "100 times")
    }
    return {
        "readings_per_s": {shape: round(value) for shape, value in rates.items()},
        "ok": min(rates.values()) >= MIN_SENML,
    }


def _taken_per_s(shape: str, count: int) -> float:
    packs = [_pack(shape, number) for number in range(count)]
    made = Assembler(AssemblyConfig("live", "bench", PARTITIONS, 1 << 20))
    records = []
    begin = time.perf_counter()
    for index, arrival in enumerate(packs):
        made.add(arrival)
        if index % 50 == 49:
            records += made.take()
    records += made.take()
    taken_s = time.perf_counter() - begin
    rows = sum(len(decode(record.value)) for record in records)
    assert rows == made.readings == 100 * count, (rows, made.readings, made.rejected)
    return rows / taken_s


def _pack(shape: str, number: int) -> Arrival:
    now_s = 1_790_000_000 + number
    if shape == "100 sensors":
        head = f'{{"bn":"gw-1:","bt":{now_s},"bu":"Cel",'
        rows = (f'"n":"s{row}/temperature","v":{20 + row / 7:.3f}}}' for row in range(100))
    else:
        head = f'{{"bn":"gw-1/temperature","bt":{now_s},"bu":"Cel",'
        rows = (f'"t":{-row / 100},"v":{20 + row / 7:.3f}}}' for row in range(100))
    body = f"[{head}" + ",{".join(rows) + "]"
    return Arrival("city/live/environment/north/gw-1", body.encode(), (now_s + 1) * 10**9)


async def kill(folder: Path, options: argparse.Namespace) -> Facts:
    """Kill the bridge again and again; compare the database with what was published."""
    namespace, schema = "replay-kill", "replay_kill"
    stack = EmbeddedStack(folder / "stack")
    try:
        at = await asyncio.to_thread(stack.start)
        migrate(at.dsn, schema)
        bridge = Bridge(folder, at.mqtt_port, at.kafka_bootstrap, namespace, **_tansu())
        environment = {
            **os.environ,
            "CITYWATCH_NAMESPACE": namespace,
            "CITYWATCH_KAFKA__BOOTSTRAP": at.kafka_bootstrap,
            "CITYWATCH_KAFKA__LOG_ID": at.log_id,
            "CITYWATCH_KAFKA__PARTITIONS": str(PARTITIONS),
            "CITYWATCH_DATABASE__DSN": at.dsn,
        }
        argv = [sys.executable, "-m", "citywatch"]
        async with kafka_log(at.kafka_bootstrap, namespace) as log:
            with (
                bridge,
                ChildProcess("worker", [*argv, "worker"], environment, folder / "worker.log"),
            ):
                bridge.wait_subscribed()
                with load(at.mqtt_port, namespace) as sensors:
                    sensors.begin(options.rate)
                    for _ in range(options.kills):
                        await pause(options.kill_every_s, log)
                        await _kill_between(bridge, stack.kafka, log)
                    await pause(options.kill_every_s, log)
                    sensors.end()
                    published = sensors.readings()
                await log.until(lambda: log.found.keys() >= published, "all readings in Kafka")
                sent_twice = log.found.total() - len(log.found)
                stored = await _stored(at.dsn, schema, len(published))
        audit = await asyncio.create_subprocess_exec(
            *argv, "audit", "--json", env=environment, stdout=asyncio.subprocess.DEVNULL
        )
        balances = await audit.wait() == 0
    finally:
        stack.remove()
    lost = len(published - set(stored))
    doubled = len(stored) - len(set(stored))
    return {
        "kills": options.kills,
        "published": len(published),
        "lost": lost,
        "stored_twice": doubled,
        "sent_to_kafka_twice": sent_twice,
        "audit_balances": balances,
        # Without a redelivery the rest would say little.
        "ok": lost == doubled == 0 < sent_twice and set(stored) == published and balances,
    }


async def _kill_between(bridge: Bridge, kafka: Tansu, log: Log) -> None:
    """Kill the bridge when Kafka has got messages that MQTT has no acknowledgement for.

    Kafka is frozen for a moment: what the bridge sends it lies in its socket, and is read when the
    bridge is dead.
    """
    taken = log.messages.total()
    await log.until(lambda: log.messages.total() > taken, "messages after the last kill")
    assert kafka.pid is not None
    os.kill(kafka.pid, signal.SIGSTOP)
    await asyncio.sleep(_FROZEN_S)
    bridge.kill()
    os.kill(kafka.pid, signal.SIGCONT)


async def _stored(dsn: str, schema: str, wanted: int) -> list[tuple[str, int]]:
    query = """
        SELECT s.name, (extract(epoch FROM r.time) * 1000000)::bigint * 1000
        FROM reading r JOIN series USING (series_id) JOIN sensor s USING (sensor_id)
    """
    end = time.monotonic() + 120
    with psycopg.connect(dsn, options=f"-c search_path={schema}", autocommit=True) as connection:
        while True:
            rows = connection.execute(query).fetchall()
            if len(rows) >= wanted or time.monotonic() > end:
                return rows
            await asyncio.sleep(0.5)


async def kafka_away(folder: Path, options: argparse.Namespace) -> Facts:
    """Stop Kafka under load; Tansu, which forgets when it ends, is frozen instead."""
    mqtt = make_mqtt(folder / "mqtt", 0, "mosquitto")
    kafka: ApacheKafka | Tansu = ApacheKafka(folder / "kafka", 0)
    try:
        name, settings = kafka.version, {}
    except EmbeddedError:
        kafka = Tansu(folder / "kafka", 0)
        name, settings = f"{kafka.version}, frozen", _tansu()
    namespace = "replay-kafka"
    with started(mqtt, kafka):
        bootstrap = f"{HOST}:{kafka.port}"
        async with kafka_log(bootstrap, namespace) as log:
            with Bridge(folder, mqtt.port, bootstrap, namespace, **settings) as bridge:
                bridge.wait_subscribed()
                with (
                    load(mqtt.port, namespace) as sensors,
                    load(mqtt.port, namespace, pad=_LARGE_BYTES) as large,
                ):
                    sensors.begin(options.rate)
                    large.begin(_LARGE_PER_S)
                    await pause(10, log)
                    before = bridge.weigh()
                    if isinstance(kafka, Tansu):
                        assert kafka.pid is not None
                        os.kill(kafka.pid, signal.SIGSTOP)
                        await pause(options.away_s)
                        os.kill(kafka.pid, signal.SIGCONT)
                    else:
                        await asyncio.to_thread(kafka.stop)
                        await pause(options.away_s)
                        await asyncio.to_thread(kafka.start)
                    await pause(10, log)
                    sensors.end()
                    large.end()
                    published = sensors.readings() | large.readings()
                    await log.until(lambda: log.found.keys() >= published, "all readings in Kafka")
                growth = bridge.weigh() - before
    return {
        "kafka": name,
        "away_s": options.away_s,
        "published": len(published),
        "lost": len(published - log.found.keys()),
        "sent_to_kafka_twice": log.found.total() - len(log.found),
        "memory_before_mib": round(before, 1),
        "memory_growth_mib": round(growth, 1),
        "ok": published == log.found.keys() and growth <= MAX_GROWTH_MIB,
    }


async def share(folder: Path, options: argparse.Namespace) -> Facts:
    """Let two bridges split the load."""
    mqtt, kafka = make_mqtt(folder / "mqtt", 0, "mosquitto"), Tansu(folder / "kafka", 0)
    namespace = "replay-share"
    with started(mqtt, kafka):
        bootstrap = f"{HOST}:{kafka.port}"
        settings = {**_tansu(), "BRIDGE__SHARE_GROUP": "bridges"}
        first, second = (
            Bridge(
                folder, mqtt.port, bootstrap, namespace, **settings, BRIDGE__CLIENT_ID=f"bridge-{n}"
            )
            for n in (1, 2)
        )
        async with kafka_log(bootstrap, namespace) as log:
            with first, second:
                first.wait_subscribed()
                second.wait_subscribed()
                with load(mqtt.port, namespace) as sensors:
                    await asyncio.to_thread(sensors.publish, options.messages, 2 * options.rate)
                    published = sensors.readings()
                await log.until(lambda: log.found.keys() >= published, "all readings in Kafka")
    shares = {name: count / log.messages.total() for name, count in sorted(log.messages.items())}
    return {
        "published": len(published),
        "lost": len(published - log.found.keys()),
        "sent_to_kafka_twice": log.found.total() - len(log.found),
        "shares": {name: round(part, 3) for name, part in shares.items()},
        "ok": published == log.found.keys()
        and len(shares) == 2
        and all(0.4 <= part <= 0.6 for part in shares.values()),
    }


async def offline(folder: Path, options: argparse.Namespace) -> Facts:
    """Publish while the bridge is away, on Mosquitto as shipped."""
    mqtt, kafka = ShippedMosquitto(folder / "mqtt", 0), Tansu(folder / "kafka", 0)
    with started(mqtt, kafka):
        bootstrap = f"{HOST}:{kafka.port}"
        login = {
            "MQTT__USERNAME": "bridge",
            "MQTT__PASSWORD": mqtt.users["bridge"],
        }
        bridge = Bridge(folder, mqtt.port, bootstrap, "live", **_tansu(), **login)
        async with kafka_log(bootstrap, "live") as log:
            with bridge:
                bridge.wait_subscribed()
            gateway = "gateway@centre", mqtt.users["gateway@centre"]
            with load(mqtt.port, "live", gateway) as sensors:
                sensors.begin(options.rate)
                await pause(options.offline_s)
                begin = time.perf_counter()
                with bridge:
                    sensors.end()
                    published = sensors.readings()
                    await log.until(lambda: log.found.keys() >= published, "all readings in Kafka")
                    caught_up_s = time.perf_counter() - begin
    return {
        "offline_s": options.offline_s,
        "published": len(published),
        "lost": len(published - log.found.keys()),
        "sent_to_kafka_twice": log.found.total() - len(log.found),
        "caught_up_s": round(caught_up_s, 1),
        "ok": published == log.found.keys(),
    }


def _tansu() -> dict[str, str]:
    return {"KAFKA__IDEMPOTENCE": "false"}


SCENARIOS: dict[str, Callable[[Path, argparse.Namespace], Awaitable[Facts]]] = {
    "ING-RATE": rate,
    "ING-SENML": senml,
    "ING-SHARE": share,
    "ING-KILL": kill,
    "ING-KAFKA": kafka_away,
    "ING-OFFLINE": offline,
}


def main() -> None:
    """Run the scenarios, print a table, end with one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=SCENARIOS, metavar="SCENARIO")
    parser.add_argument("--messages", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--packs", type=int, default=5_000)
    parser.add_argument("--rate", type=float, default=1_000.0, help="messages a second")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--kill-every-s", type=float, default=5.0)
    parser.add_argument("--away-s", type=float, default=60.0)
    parser.add_argument("--offline-s", type=float, default=300.0)
    options = parser.parse_args()
    # Of a Kafka that is away on purpose.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    chosen = options.only or list(SCENARIOS)
    results: dict[str, Facts] = {}
    for name in chosen:
        print(f"{name} is running ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="citywatch-ingest-") as text:
            folder = Path(text)
            folder.chmod(0o711)  # root's database runs as another user
            results[name] = asyncio.run(SCENARIOS[name](folder, options))
        for fact, value in results[name].items():
            print(f"{name:12} {fact.replace('_', ' '):22} {value}", flush=True)
    ok = all(facts["ok"] for facts in results.values())
    print(json.dumps({**results, **machine(), "ok": ok}))
    if not ok:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

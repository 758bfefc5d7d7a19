"""Dead letters through the worker into the table, decoded anew, and through the worker again."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

import citywatch.commands
import citywatch.demo_command  # noqa: F401 - adds its command
from citywatch import rejects
from citywatch.cli import app
from citywatch.embedded import Addresses
from citywatch.embedded.process import ChildProcess
from citywatch.rejects import BRIDGE, Replayed, ReplayError, replay
from ingest.arrival import Arrival
from ingest.assembly import Assembler, AssemblyConfig
from ingest.kafka import RecordSender, ensure_topics
from ingest.message import Acceptance
from ingest.quantities import QUANTITIES, Quantity
from ingest.records import KafkaRecord
from storage.audit import audit
from storage.migrate import session_options
from storage.rejects import Wanted
from tests.storage.database import Database
from tests.streams.citylog import NAMESPACE, READINGS, START_NS, Log, batch_message
from tests.streams.sessions import Kafka, Session

pytestmark = pytest.mark.integration

run = CliRunner().invoke
SECOND_NS = 10**9
STRICT = AssemblyConfig(NAMESPACE, "bridge-1", 4, 10_000)
# The fix: the gateway may speak for others.
MENDED = replace(STRICT, acceptance=Acceptance(gateways=frozenset({"gw-1"})))
TOPIC = f"city/{NAMESPACE}/traffic/harbour/gw-1"


def pack(*records: tuple[str, str, float], at_ns: int = START_NS) -> bytes:
    """Return a SenML pack of (name, unit, value), a second apart."""
    return json.dumps(
        [
            {"n": name, "u": unit, "v": value, "t": at_ns / SECOND_NS + n}
            for n, (name, unit, value) in enumerate(records)
        ]
    ).encode()


OWN, OTHER = ("intensity", "1", 1.0), ("loop-1:intensity", "1", 2.0)
# Wrong before and after the fix: once kept, once not.
WRONG_UNIT, FOREIGN = ("intensity", "kg", 3.0), ("speedOfLight", "1", 4.0)
BROKEN = pack(WRONG_UNIT)


@dataclass
class Pipe:
    """A bridge and a worker around a log, and the database behind them."""

    database: Database
    log: Log = field(default_factory=Log)
    sent: list[KafkaRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kafka = Kafka(self.log, self.database)

    async def send(self, records: Sequence[KafkaRecord]) -> None:
        """Be the sender of a replay."""
        self.sent += records
        for record in records:
            self.log.add((record.topic, record.partition), record.headers, record.value)

    def publish(self, *messages: tuple[str, bytes], config: AssemblyConfig = STRICT) -> None:
        """Let messages arrive, a second apart, and the worker take what came of them."""
        assembler = Assembler(config)
        for number, (topic, payload) in enumerate(messages):
            assembler.add(Arrival(topic, payload, START_NS + number * SECOND_NS))
        asyncio.run(self.send(assembler.take()))
        self.sent.clear()
        self.work()

    def work(self) -> None:
        async def taken() -> None:
            async with Session(self.kafka) as session:
                session.assign()
                await session.finish()

        asyncio.run(taken())

    def connected(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        async def call() -> Any:
            async with await psycopg.AsyncConnection.connect(
                self.database.dsn,
                options=session_options(self.database.schema),
                autocommit=True,
            ) as connection:
                return await work(connection)

        return asyncio.run(call())

    def replay(
        self,
        config: AssemblyConfig = MENDED,
        *,
        dry_run: bool = False,
        sender: Any = None,
        progress: Callable[[Replayed], object] = lambda _: None,
        **wanted: Any,
    ) -> Replayed:
        taker = None if dry_run else sender or self
        return self.connected(
            lambda connection: replay(connection, taker, config, Wanted(**wanted), progress)
        )

    def faults(self) -> list[str]:
        return self.connected(lambda connection: audit(connection, None, None)).faults

    def readings(self) -> list[tuple[str, float]]:
        return self.database.all("SELECT sensor, value FROM reading_scored ORDER BY 1, 2")

    def letters(self) -> list[tuple[Any, ...]]:
        """Return bridge, reason, records, and whether it was replayed, in order of arrival."""
        return self.database.all(
            "SELECT bridge, reason, records, replayed_at IS NOT NULL FROM dead_letter"
            " ORDER BY received_at, dead_letter_id"
        )


@pytest.fixture
def pipe(dsn: str, schema: str) -> Iterator[Pipe]:
    with Database(dsn, schema) as database:
        yield Pipe(database)


# Replaying


def test_letters_are_taken_after_a_fix_and_everything_balances(pipe: Pipe) -> None:
    pipe.publish((TOPIC, pack(OTHER)), (TOPIC, pack(OWN)), (TOPIC, BROKEN))
    assert pipe.readings() == [("gw-1", 1.0)]
    before = [
        ("bridge-1", "identity-mismatch", 0, False),
        ("bridge-1", "unknown-unit", 0, False),
    ]
    assert (pipe.letters(), pipe.faults()) == (before, [])

    done = pipe.replay()
    assert (done.letters, done.readings, done.refused) == (1, 1, 0)
    assert done.rejected == {"unknown-unit": 1}
    pipe.work()
    assert pipe.readings() == [("gw-1", 1.0), ("loop-1", 2.0)]
    after = [("bridge-1", "identity-mismatch", 0, True), before[1]]
    assert (pipe.letters(), pipe.faults()) == (after, [])
    assert pipe.database.unbalanced() == []
    # As a bridge of its own, in the minute in which it first came.
    minute = datetime.fromtimestamp(START_NS // SECOND_NS // 60 * 60, UTC)
    assert pipe.database.all(
        "SELECT minute, messages, passed, readings, stored FROM ledger WHERE bridge = %s", BRIDGE
    ) == [(minute, 1, 1, 1, 1)]

    # What was replayed is not replayed again.
    again = pipe.replay()
    assert (again.letters, again.rejected) == (0, {"unknown-unit": 1})


def test_time_is_judged_as_when_it_came(pipe: Pipe) -> None:
    """All of this came years ago; of that day it was, and too old for it then it still is."""
    old = START_NS - 40 * 86_400 * SECOND_NS
    pipe.publish((TOPIC, pack(OTHER)), (TOPIC, pack(OTHER, at_ns=old)))
    done = pipe.replay()
    assert (done.letters, done.rejected) == (1, {"time-in-past": 1})


def test_records_of_a_message_are_taken_after_a_fix(pipe: Pipe) -> None:
    pipe.publish((TOPIC, pack(OWN, OTHER, OTHER)))
    assert pipe.letters() == [("bridge-1", "identity-mismatch", 2, False)]
    assert pipe.faults() == []
    done = pipe.replay()
    assert (done.letters, done.readings) == (1, 2)
    pipe.work()
    assert pipe.readings() == [("gw-1", 1.0), ("loop-1", 2.0), ("loop-1", 2.0)]
    assert pipe.letters() == [("bridge-1", "identity-mismatch", 2, True)]
    assert pipe.faults() == []


def test_what_is_refused_once_more_of_a_letter_gets_a_letter_of_its_own(pipe: Pipe) -> None:
    pipe.publish((TOPIC, pack(OTHER, WRONG_UNIT)))
    assert pipe.letters() == [("bridge-1", "identity-mismatch", 0, False)]
    done = pipe.replay()
    assert (done.letters, done.readings, done.refused) == (1, 1, 1)
    pipe.work()
    assert pipe.readings() == [("loop-1", 2.0)]
    assert sorted(pipe.letters()) == [
        ("bridge-1", "identity-mismatch", 0, True),
        (BRIDGE, "unknown-unit", 1, False),
    ]
    assert pipe.faults() == []


def test_a_letter_of_which_nothing_is_taken_stays_as_it_is(pipe: Pipe) -> None:
    pipe.publish((TOPIC, pack(OWN, OTHER)))
    letters = pipe.letters()
    done = pipe.replay(STRICT)
    assert (done.letters, done.readings, done.refused) == (0, 0, 0)
    assert done.rejected == {"identity-mismatch": 1}
    assert (pipe.sent, pipe.letters()) == ([], letters)


def test_a_crash_before_the_letters_are_marked_stores_nothing_twice(pipe: Pipe) -> None:
    class Killed(Pipe):
        async def send(self, records: Sequence[KafkaRecord]) -> None:
            await super().send(records)
            raise KeyboardInterrupt

    pipe.publish((TOPIC, pack(OTHER)))
    with pytest.raises(KeyboardInterrupt):
        pipe.replay(sender=Killed(pipe.database, pipe.log))
    assert pipe.letters() == [("bridge-1", "identity-mismatch", 0, False)]
    assert pipe.replay().letters == 1
    pipe.work()
    assert pipe.readings() == [("loop-1", 2.0)]
    assert pipe.database.all(
        "SELECT messages, passed, readings, stored, duplicates FROM ledger WHERE bridge = %s",
        BRIDGE,
    ) == [(2, 2, 2, 1, 1)]
    assert pipe.faults() == []


def test_a_kafka_that_does_not_answer_leaves_the_letters(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        async def send(self, _: Sequence[KafkaRecord]) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(rejects, "_SEND_S", 0.05)
    pipe.publish((TOPIC, pack(OTHER)))
    with pytest.raises(ReplayError, match="not marked"):
        pipe.replay(sender=Away())
    assert pipe.letters() == [("bridge-1", "identity-mismatch", 0, False)]


def test_two_replays_share_the_letters(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejects, "_BATCH", 2)
    pipe.publish(*((TOPIC, pack(("loop-1:intensity", "1", float(n)))) for n in range(8)))
    meeting = asyncio.Barrier(2)

    class Slow(Pipe):
        met = False

        async def send(self, records: Sequence[KafkaRecord]) -> None:
            # Both hold letters at once, or neither gets any further.
            if not self.met:
                self.met = True
                await asyncio.wait_for(meeting.wait(), 20)
            await super().send(records)

    async def one() -> Replayed:
        async with await psycopg.AsyncConnection.connect(
            pipe.database.dsn, options=session_options(pipe.database.schema), autocommit=True
        ) as connection:
            sender = Slow(pipe.database, pipe.log)
            return await replay(connection, sender, MENDED, Wanted(), lambda _: None)

    async def both() -> list[Replayed]:
        return await asyncio.gather(one(), one())

    found = asyncio.run(both())
    assert min(done.letters for done in found) >= 2
    assert sum(done.letters for done in found) == 8
    pipe.work()
    assert pipe.database.all("SELECT sum(readings), sum(duplicates) FROM ledger") == [(8, 0)]
    assert pipe.faults() == []


def test_batches_go_on_behind_what_stays(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejects, "_BATCH", 3)
    pipe.publish(
        *((TOPIC, BROKEN) for _ in range(4)),
        *((TOPIC, pack(("loop-1:intensity", "1", float(n)))) for n in range(4)),
    )
    told: list[int] = []
    done = pipe.replay(progress=lambda done: told.append(done.letters + done.rejected.total()))
    assert (done.letters, done.rejected) == (4, {"unknown-unit": 4})
    assert told == [3, 6, 8]


def test_large_letters_are_drawn_few_at_a_time(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.rejects._MAX_DRAW_BYTES", 100)
    pipe.publish(*((TOPIC, pack(OTHER)) for _ in range(3)))
    told: list[int] = []
    assert pipe.replay(progress=lambda done: told.append(done.letters)).letters == 3
    assert told == [1, 2, 3]


def test_only_what_is_wanted_is_replayed(pipe: Pipe) -> None:
    pipe.publish(*((TOPIC, pack(OTHER)) for _ in range(5)), (TOPIC, BROKEN))
    begin = datetime.fromtimestamp(START_NS // SECOND_NS, UTC)
    ids = [number for (number,) in pipe.database.all("SELECT dead_letter_id FROM dead_letter")]

    def found(**wanted: Any) -> tuple[int, int]:
        done = pipe.replay(dry_run=True, **wanted)
        return done.letters, done.rejected.total()

    assert found() == (5, 1)
    assert found(reason="unknown-unit") == (0, 1)
    assert sum(found(ids=[ids[0], ids[3], 10**15])) == 2
    assert found(since=begin + timedelta(seconds=1)) == (4, 1)
    assert found(until=begin + timedelta(seconds=1)) == (1, 0)


def test_a_dry_run_changes_nothing(pipe: Pipe) -> None:
    pipe.publish((TOPIC, pack(OTHER)), (TOPIC, BROKEN))
    before = pipe.database.contents()
    done = pipe.replay(dry_run=True)
    assert (done.letters, done.readings, done.rejected) == (1, 1, {"unknown-unit": 1})
    assert (pipe.sent, pipe.database.contents()) == ([], before)


def test_what_was_not_kept_is_counted_and_left(pipe: Pipe) -> None:
    pipe.publish((f"city/{NAMESPACE}/cameras/harbour/cam-1", b"{"), (TOPIC, pack(OTHER)))
    done = pipe.replay()
    assert (done.letters, done.not_kept, done.rejected) == (1, 1, {})


def test_no_sensor_is_announced_by_a_message_of_the_past(pipe: Pipe) -> None:
    """Its place and its clock may be other ones by now."""
    pipe.publish((TOPIC, pack(OTHER)))
    pipe.replay()
    assert pipe.sent
    assert not any(name == "sensors" for record in pipe.sent for name, _ in record.headers)
    pipe.work()
    assert pipe.database.all("SELECT name, domain, zone FROM sensor") == [
        ("loop-1", "traffic", "harbour")
    ]


def test_a_batch_that_the_worker_could_not_read_is_stored_after_a_fix(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bridge that was updated before the worker."""
    readings = [
        ("traffic/harbour/loop-1/vehicleWeight", START_NS, 7.0),
        ("traffic/harbour/loop-1/intensity", START_NS, 8.0),
        ("environment/park/air-1/no2", START_NS, 9.0),
    ]
    pipe.log.add((READINGS, 0), *batch_message(readings))
    pipe.work()
    assert pipe.readings() == []
    assert pipe.letters() == [
        ("bridge-1", "unreadable-batch", 2, False),
        ("bridge-1", "unreadable-batch", 1, False),
    ]
    assert pipe.faults() == []
    assert pipe.replay().rejected == {"unreadable-batch": 2}

    weight = Quantity("vehicleWeight", "t", 0.0, 100.0, 1e9, "traffic", 60.0)
    monkeypatch.setitem(QUANTITIES, "vehicleWeight", weight)
    assert (pipe.replay(reason="unreadable-batch").readings) == 3
    pipe.work()
    assert pipe.readings() == [("air-1", 9.0), ("loop-1", 7.0), ("loop-1", 8.0)]
    assert pipe.database.one("SELECT sum(duplicates) FROM ledger") == 0
    assert pipe.faults() == []


# The commands


@pytest.fixture
def told(pipe: Pipe, monkeypatch: pytest.MonkeyPatch, namespace: str) -> Pipe:
    """Return a pipe whose database the command line finds."""
    monkeypatch.setenv("CITYWATCH_DATABASE__DSN", pipe.database.dsn)
    monkeypatch.setenv("CITYWATCH_NAMESPACE", namespace)
    return pipe


def test_letters_are_listed_newest_first_and_counted(told: Pipe) -> None:
    told.publish(
        *((TOPIC, BROKEN) for _ in range(3)),
        (TOPIC, pack(OWN, OTHER)),
        ("city/\x1b[2Jelsewhere" + "/x" * 200, b"secret"),
    )
    text = run(app, ["rejects", "list", "--limit", "2"]).output
    assert [line.split()[4:6] for line in text.splitlines()[1:3]] == [
        ["topic", "topic"],
        ["identity-mismatch", "$[1].n"],
    ]
    assert "\x1b" not in text
    # The counts are of all, not of those that were listed.
    assert ["unknown-unit", "3", "0", "3", "0"] in map(str.split, text.splitlines())
    assert max(map(len, text.splitlines())) < 250
    assert '"v"' not in text

    shown = run(app, ["rejects", "list", "--payload", "--reason", "identity-mismatch"]).output
    assert '"loop-1:intensity"' in shown
    assert "unknown-unit" not in shown


def test_letters_are_listed_as_json(told: Pipe) -> None:
    told.publish((TOPIC, BROKEN), (TOPIC, pack(OWN, OTHER)))
    whole = json.loads(run(app, ["rejects", "list", "--json", "--payload"]).output)
    assert [
        (one["reason"], one["records"], one["payload"][0], one["received_at"][:19])
        for one in whole["rejects"]
    ] == [
        ("identity-mismatch", 1, "[", "2023-11-14T22:13:21"),
        ("unknown-unit", 0, "[", "2023-11-14T22:13:20"),
    ]
    assert [(one["reason"], one["letters"]) for one in whole["reasons"]] == [
        ("identity-mismatch", 1),
        ("unknown-unit", 1),
    ]
    bare = json.loads(
        run(app, ["rejects", "list", "--json", "--until", "2023-11-14T22:13:21"]).output
    )
    assert [one["reason"] for one in bare["rejects"]] == ["unknown-unit"]
    assert "payload" not in bare["rejects"][0]


@pytest.mark.parametrize(
    ("tampering", "place"),
    [
        ("DELETE FROM reading", "traffic in storage: rows missing from storage: 1"),
        (
            "DELETE FROM dead_letter",
            "traffic 2023-11-14T22:00 bridge-1: dead letters missing: 1, from 22:13 on",
        ),
        (
            "UPDATE ledger SET readings = readings + 3",
            "traffic 2023-11-14T22:00 bridge-1: 3 readings unaccounted for, from 22:13 on",
        ),
    ],
)
def test_the_audit_says_where_it_does_not_balance(told: Pipe, tampering: str, place: str) -> None:
    told.publish((TOPIC, pack(OWN)), (TOPIC, BROKEN))
    sound = run(app, ["audit"])
    assert (sound.exit_code, sound.output.splitlines()[-1]) == (0, "balanced")
    assert "not taken: 1 unknown-unit" in sound.output
    told.database.connection.execute(tampering)
    text, as_json = run(app, ["audit"]), run(app, ["audit", "--json"])
    assert text.exit_code == as_json.exit_code == 1
    assert f"NOT balanced: {place}" in text.output.splitlines()
    found = json.loads(as_json.output)
    assert (found["balanced"], found["faults"]) == (False, [place])


def test_an_audit_of_a_part_of_the_time_says_what_it_leaves_out(told: Pipe) -> None:
    told.publish((TOPIC, pack(OWN)))
    told.database.connection.execute("DELETE FROM reading")
    text = run(app, ["audit", "--since", "2023-11-14"])
    assert text.exit_code == 0
    assert "rows in storage: not counted" in text.output
    found = json.loads(run(app, ["audit", "--until", "2099-01-01", "--json"]).output)
    assert (found["balanced"], found["storage"], len(found["lines"])) == (True, None, 1)


def test_a_kafka_that_is_away_is_said_in_a_sentence(
    told: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITYWATCH_KAFKA__BOOTSTRAP", "127.0.0.1:9")
    told.publish((TOPIC, pack(OTHER)))
    result = run(app, ["rejects", "replay"])
    assert result.exit_code == 1
    assert "Not replayed to the end: " in result.output
    assert "Traceback" not in result.output
    assert told.letters()[0][-1] is False


# The whole way, with a broker and a worker of their own


def until(holds: Callable[[], bool], what: str, child: ChildProcess) -> None:
    end = monotonic() + 60
    while not holds():
        child.check()
        assert monotonic() < end, f"not in time: {what}\n{child.log_tail()}"
        sleep(0.1)


@pytest.mark.slow
@pytest.mark.kafka
def test_over_kafka_and_a_worker_of_its_own(
    services: Addresses,
    idempotence: bool,
    namespace: str,
    schema: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.startswith("CITYWATCH_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "NAMESPACE": namespace,
        "KAFKA__BOOTSTRAP": services.kafka_bootstrap,
        "KAFKA__IDEMPOTENCE": str(idempotence).lower(),
        "KAFKA__LOG_ID": services.log_id,
        "DATABASE__DSN": services.dsn,
    }.items():
        monkeypatch.setenv(f"CITYWATCH_{name}", value)
    topic = TOPIC.replace(NAMESPACE, namespace)

    async def publish(messages: Iterable[bytes]) -> None:
        await ensure_topics(services.kafka_bootstrap, namespace, 4, 1)
        assembler = Assembler(replace(STRICT, namespace=namespace))
        for payload in messages:
            assembler.add(Arrival(topic, payload, START_NS))
        sender = RecordSender(services.kafka_bootstrap, idempotence=idempotence)
        await sender.start()
        try:
            await sender.send(assembler.take())
        finally:
            await sender.stop()

    asyncio.run(publish([pack(OWN), pack(OTHER), pack(OWN, OTHER, FOREIGN), BROKEN]))
    worker = ChildProcess(
        "worker", [sys.executable, "-m", "citywatch", "worker"], os.environ, tmp_path / "log"
    )
    worker.start()
    try:
        with Database(services.dsn, schema) as database:
            letters = "SELECT count(*) FROM dead_letter"
            stored = "SELECT coalesce(sum(stored), 0) FROM ledger"
            until(lambda: database.one(letters) == 4, "the dead letters are there", worker)
            until(lambda: database.one(stored) == 1, "what was taken is stored", worker)
            assert run(app, ["audit"]).exit_code == 0

            monkeypatch.setenv("CITYWATCH_BRIDGE__GATEWAYS", "gw-1")
            dry = run(app, ["rejects", "replay", "--dry-run"])
            assert dry.output.splitlines()[-3].startswith("would be replayed: 2 dead letters")
            replayed = run(app, ["rejects", "replay"])
            assert replayed.exit_code == 0, replayed.output
            assert replayed.output.splitlines()[-3:] == [
                "replayed: 2 dead letters with 2 readings; 0 records of them refused once more",
                "still rejected: 1 unknown-unit",
                "not kept: 1",
            ]
            done = "SELECT coalesce(sum(readings), 0) FROM ledger WHERE bridge = %s"
            until(lambda: database.one(done, BRIDGE) == 2, "the replay has arrived", worker)
            audited = run(app, ["audit"])
            assert audited.exit_code == 0, audited.output
            assert database.unbalanced() == []
            assert database.one("SELECT count(*) FROM dead_letter WHERE replayed_at IS NULL") == 2
    finally:
        worker.stop()

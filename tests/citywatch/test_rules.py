"""Rules from a file into the log, what holds where, and a shadow beside what people are told."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaError
from typer.testing import CliRunner

import citywatch.commands
import citywatch.demo_command  # noqa: F401 - adds its command
from citywatch.cli import app
from citywatch.rules import apply, by_partition, differ, read_rules
from detectors import KIND_NAMES
from ingest.kafka import RecordSizeError
from ingest.records import KafkaRecord
from storage.rules import Present
from streams.facts import CityFacts
from streams.rules import BY_MINUTES, Rules, RulesError, rules_record
from tests.storage.database import Database
from tests.streams.citylog import city_log
from tests.streams.sessions import undisturbed

run = CliRunner().invoke
TIGHT = {
    "quantity": {"intensity": {"city_open_after": 2}},
    "shadow": {
        "tight": {
            "suite": {"city_open_spreads": 2.0, "city_close_spreads": 1.0, "city_open_after": 1}
        },
        "calm": {"detectors": {"level": False, "range": False, "flatline": False}},
        "obstacles": {"detectors": {"incident": True, "service-level": False}},
    },
    "detectors": {"incident": False},
}
FILE = """
[suite]
close_after = 4
[shadow.tight.suite]
city_open_spreads = 3.0
warm_up = 5
"""


# Files


def test_a_file_that_can_be_applied_is_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(FILE, encoding="utf-8")
    wanted = read_rules(file).of(CityFacts(time_zone="Europe/Madrid"))
    monkeypatch.setenv("CITYWATCH_CITY__TIME_ZONE", "Europe/Madrid")
    result = run(app, ["rules", "check", str(file)])
    assert result.exit_code == 0
    assert result.output.endswith(f"can be applied: {wanted.fingerprint[:12]}\n")


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("[suite]\nwarm_up = 0\nfoo = 1", ["suite.warm_up: ", "suite.foo: no such rule"]),
        ("[suite]\ncity_open_spreads = 2", ["suite: city_close_spreads must not exceed"]),
        (
            (
                "[shadow.x.sensor.a]\nseverity = { level = 'minor' }\n"
                "[quantity.pm25]\ndetectors = { crowd = false, drift = false }\n"
                "[shadow.x.sensor.a.quantity.LAeq]\ndetectors = { incident = true }\n"
            ),
            [
                "shadow.x.sensor.a.severity: a shadow pages nobody, so it has no severity",
                "quantity.pm25.detectors.crowd: crowd does not judge pm25",
                "shadow.x.sensor.a.quantity.LAeq.detectors.incident: incident does not judge LAeq",
            ],
        ),
        (
            (
                "[quantity.signalLoss]\nmax_rate = 2.0\ndetectors = { level = false }\n"
                "[sensor.a.quantity.signalLoss]\nsilence_factor = 2\n[shadow.x]\n"
            ),
            [
                "quantity.signalLoss.detectors.level: level does not judge signalLoss",
                "quantity.signalLoss.max_rate: signalLoss is a state, judged by its range alone",
                "sensor.a.quantity.signalLoss.silence_factor: signalLoss is a state",
                "shadow.x: says nothing that the present rules do not",
            ],
        ),
        ("[city]\ntime_zone = 'UTC'\n", ["city: stands in the settings"]),
        ("[suite\n", ["at line 1, column 7"]),
        ("a = " + "[" * 5000, ["rec"]),
        ("\xff", ["utf-8"]),
        (f"# {'x' * (2 << 20)}", ["larger than 1048576 bytes"]),
    ],
    ids=[
        "keys",
        "contradiction",
        "no effect",
        "of a state",
        "city",
        "syntax",
        "deep",
        "encoding",
        "size",
    ],
)
def test_a_file_that_cannot_be_applied_is_told_every_fault(
    tmp_path: Path, text: str, faults: list[str]
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(text, encoding="latin-1")
    for command in ("check", "apply"):
        result = run(app, ["rules", command, str(file)])
        assert result.exit_code == 1
        lines = result.output.splitlines()
        assert lines[0] == f"{file} cannot be applied:"
        for fault in faults:
            assert any(fault in line for line in lines[1:]), result.output


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="No such file"):
        read_rules(tmp_path / "none.toml")


# Into the log


class Picky:
    """A Kafka that takes what it likes."""

    def __init__(self) -> None:
        self.taken: list[KafkaRecord] = []

    async def send(self, records: Sequence[KafkaRecord]) -> None:
        (record,) = records
        if record.partition == 1:
            raise KafkaError("no leader")
        if record.partition == 2:
            await asyncio.Event().wait()
        if record.partition == 3:
            raise RecordSizeError("set its max.message.bytes")
        self.taken.append(record)


def test_each_partition_says_whether_it_has_them() -> None:
    rules, kafka = Rules.read(TIGHT), Picky()
    done = asyncio.run(apply(rules, kafka, "live", 5, deadline_s=0.05))
    assert kafka.taken == [rules_record(rules, "live", number) for number in (0, 4)]
    assert done == {
        0: None,
        1: "KafkaError: no leader",
        2: "not taken within 0.05 s",
        3: "set its max.message.bytes",
        4: None,
    }


def held(partition: int, rules: Rules) -> Present:
    return Present(partition, rules.fingerprint, {}, 0, None, datetime.now(UTC))


def test_partitions_that_were_told_nothing_have_the_defaults() -> None:
    one, two = held(0, Rules.read(TIGHT)), held(1, Rules.read(TIGHT))
    assert not differ(by_partition([], 4))
    assert not differ(by_partition([one, two], 2))
    assert differ(by_partition([one, two], 3))
    assert by_partition([two], 2) == {0: None, 1: two}
    assert not differ(by_partition([held(0, Rules())], 2))


@pytest.mark.integration
def test_a_kafka_that_is_away_is_said_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CITYWATCH_KAFKA__BOOTSTRAP", "127.0.0.1:9")
    file = tmp_path / "rules.toml"
    file.write_text(FILE, encoding="utf-8")
    result = run(app, ["rules", "apply", str(file)])
    assert result.exit_code == 1
    assert "Not applied: " in result.output
    assert "Traceback" not in result.output


# What holds, and what a shadow finds


@pytest.fixture
def told(
    dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> Iterator[Database]:
    """Return a database that the command line finds, after a log with rules in it."""
    monkeypatch.setenv("CITYWATCH_DATABASE__DSN", dsn)
    monkeypatch.setenv("CITYWATCH_NAMESPACE", namespace)
    monkeypatch.setenv("CITYWATCH_KAFKA__PARTITIONS", "2")
    with Database(dsn, schema) as database:
        undisturbed(city_log(11, messages=60, rules={8: Rules.read(TIGHT)}), database)
        yield database


@pytest.mark.integration
def test_it_is_shown_what_holds_where(told: Database) -> None:
    result = run(app, ["rules", "show"])
    assert result.exit_code == 0, result.output
    fingerprint = Rules.read(TIGHT).fingerprint[:12]
    lines = result.output.splitlines()
    assert lines[0].split() == ["partition", "rules", "from", "offset", "event", "time"]
    assert [line.split() for line in lines[1:3]] == [
        ["0", fingerprint, "8", "2023-11-14T22:18"],
        ["1", fingerprint, "8", "2023-11-14T22:18"],
    ]
    whole = result.output.partition(f"{fingerprint}:\n")[2]
    assert Rules.read(json.loads(whole)) == Rules.read(TIGHT)
    told.connection.execute("UPDATE rules_applied SET fingerprint = 'x' WHERE partition = 1")
    result = run(app, ["rules", "show", "--json"])
    assert result.exit_code == 1
    assert "WARNING: partitions have different rules" in result.output
    facts = json.loads(result.stdout)
    assert facts["differ"]
    assert facts["partitions"]["1"]["fingerprint"] == "x"


@pytest.mark.integration
def test_a_namespace_that_was_told_nothing_has_the_defaults(
    dsn: str, schema: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert schema
    monkeypatch.setenv("CITYWATCH_DATABASE__DSN", dsn)
    monkeypatch.setenv("CITYWATCH_NAMESPACE", namespace)
    result = run(app, ["rules", "show"])
    assert result.exit_code == 0
    assert [line.split()[:2] for line in result.output.splitlines()[1:]] == [
        [str(number), "defaults"] for number in range(4)
    ]
    result = run(app, ["rules", "compare", "tight"])
    assert result.exit_code == 1
    assert "no shadow 'tight' runs" in result.output


def alerts(database: Database, shadow: str) -> tuple[list[Any], list[Any]]:
    far = datetime.max.replace(tzinfo=UTC)
    # Who says nothing of the minutes has no view of what they say.
    kinds = [*KIND_NAMES, *(BY_MINUTES if shadow == "obstacles" else ())]
    live = database.all(
        "SELECT series_id, category, kind, opened_at, resolved_at FROM alert WHERE kind = ANY(%s)",
        kinds,
    )
    theirs = database.all(
        "SELECT series_id, category, kind, opened_at, closed_at FROM shadow_alert"
        " WHERE shadow = %s",
        shadow,
    )
    return tuple(  # type: ignore[return-value]
        [
            ((series, category, kind if kind in BY_MINUTES else ""), begin, end or far)
            for series, category, kind, begin, end in rows
        ]
        for rows in (live, theirs)
    )


def overlap(one: Any, other: Any) -> bool:
    return bool(one[0] == other[0] and one[1] <= other[2] and other[1] <= one[2])


@pytest.mark.integration
@pytest.mark.parametrize("shadow", ["tight", "calm", "obstacles"])
@pytest.mark.parametrize("since", [None, "2023-11-14T22:40:00"])
def test_a_shadow_is_compared_with_what_people_were_told(
    told: Database, shadow: str, since: str | None
) -> None:
    words = ["rules", "compare", shadow, "--limit", "3"] + (["--since", since] if since else [])
    result = run(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    began = told.one("SELECT max(watermark) FROM rules_applied")
    begin = datetime.fromisoformat(since).replace(tzinfo=UTC) if since else began
    assert datetime.fromisoformat(facts["since"]) == begin > datetime.min.replace(tzinfo=UTC)
    assert facts["partitions"] == [0, 1]
    live, theirs = alerts(told, shadow)
    wanted = {
        "both, of those told": [a for a in live if any(overlap(a, b) for b in theirs)],
        "both, of the shadow's": [b for b in theirs if any(overlap(a, b) for a in live)],
        "told only": [a for a in live if not any(overlap(a, b) for b in theirs)],
        "shadow only": [b for b in theirs if not any(overlap(a, b) for a in live)],
    }
    counts = {name: sum(one[1] >= begin for one in found) for name, found in wanted.items()}
    assert facts["counts"] == counts
    assert counts["told only" if shadow == "calm" else "shadow only"] > 0
    of_minutes = {(side, one[0][2]) for side in wanted for one in wanted[side] if one[0][2]}
    if shadow == "obstacles":
        assert ("shadow only", "incident") in of_minutes
        assert ("told only", "service-level") in of_minutes
    else:
        assert not of_minutes
    assert len(facts["examples"]) == sum(min(3, count) for count in counts.values())
    text = run(app, words)
    assert text.exit_code == 0
    assert all(one["sentence"] in text.output for one in facts["examples"])


@pytest.mark.integration
def test_a_shadow_pages_nobody(told: Database) -> None:
    """As many pages as without it, of the same alerts."""
    assert told.one("SELECT count(*) FROM shadow_alert") > 5
    pages = told.all("SELECT alert_id, event, payload FROM outbox ORDER BY 1, 2")
    told.clear()
    without = Rules.read({name: TIGHT[name] for name in ("quantity", "detectors")})
    undisturbed(city_log(11, messages=60, rules={8: without}), told)
    assert told.all("SELECT alert_id, event, payload FROM outbox ORDER BY 1, 2") == pages
    assert told.one("SELECT count(*) FROM shadow_alert") == 0

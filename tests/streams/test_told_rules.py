"""Rules that are applied while bridge and worker run, over a broker and a database."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from citywatch.rules import read_rules
from ingest.kafka import RecordSender
from simulators.payloads import Message
from streams.facts import CityFacts
from streams.rules import Rules, rules_record
from tests.streams.town import PARTITIONS, Town

pytestmark = [pytest.mark.integration, pytest.mark.kafka, pytest.mark.slow]

FILE = """
[suite]
close_after = 4
[shadow.tight.suite]
city_open_spreads = 3.0
warm_up = 5
"""


def test_rules_are_obeyed_by_workers_that_run_and_by_those_that_come_later(
    town: Town, sent: list[Message], tmp_path: Path, idempotence: bool
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(FILE, encoding="utf-8")
    rules = read_rules(file).of(CityFacts())
    town.start("bridge")
    town.start("worker-1")
    town.until_open()
    town.publish()
    town.until_stored(1000)
    for _ in range(2):  # the second time it changes nothing
        done = town.command("rules", "apply", str(file))
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            *(f"partition {number}: written" for number in range(PARTITIONS)),
            f"applied to {town.namespace}: {rules.fingerprint[:12]}",
        ]
    applied = "SELECT partition, fingerprint FROM rules_applied ORDER BY partition"
    town.until(lambda: len(town.database.all(applied)) == PARTITIONS, "rules are obeyed")
    asyncio.run(_send_damaged(town, rules, idempotence=idempotence))
    refused = "SELECT count(*) FROM dead_letter WHERE reason = 'unreadable-rules'"
    town.until(lambda: town.database.one(refused) == 1, "damaged rules are buried")
    town.kill("worker-1")
    town.start("worker-2")
    town.until_stored(1000)
    assert town.database.all(applied) == [
        (number, rules.fingerprint) for number in range(PARTITIONS)
    ]
    shown = town.command("rules", "show")
    assert (shown.returncode, shown.stderr) == (0, "")
    compared = town.command("rules", "compare", "tight")
    assert compared.returncode == 0, compared.stderr
    town.check(town.publish_no_more(), sent)


async def _send_damaged(town: Town, rules: Rules, *, idempotence: bool) -> None:
    record = rules_record(rules, town.namespace, 0)
    sender = RecordSender(town.addresses.kafka_bootstrap, idempotence=idempotence)
    await sender.start()
    try:
        await sender.send([replace(record, value=record.value[:-9])])
    finally:
        await sender.stop()

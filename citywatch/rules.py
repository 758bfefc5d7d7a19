"""Rules from a file to the log: checked here, obeyed by workers at their offset."""

import asyncio
import tomllib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from aiokafka.errors import KafkaError
from psycopg import AsyncConnection

from detectors import KIND_NAMES, SuiteConfig
from ingest.kafka import KafkaSetupError
from ingest.records import KafkaRecord
from storage.rules import Comparison, Present, compare, rules_of_shadow
from streams.rules import (
    BY_MINUTES,
    MAX_RULES_BYTES,
    Rules,
    RulesError,
    rules_record,
    without_effect,
)
from streams.ruling import Ruling

# A person waits for it.
_SEND_S: Final = 10.0
# Comments and white space do not go through the log.
_MAX_FILE_BYTES: Final = 4 * MAX_RULES_BYTES


class Sender(Protocol):
    """Takes records to Kafka, and returns when they are safe there."""

    async def send(self, records: Sequence[KafkaRecord]) -> None:
        """Send the records."""


def read_rules(file: Path) -> Rules:
    """Read a file of rules, and check what it says over a worker's defaults.

    Raises
    ------
    RulesError
        With every fault and its place.
    """
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_FILE_BYTES + 1)
        if len(text) > _MAX_FILE_BYTES:
            raise RulesError([f"larger than {_MAX_FILE_BYTES} bytes"])
        values = tomllib.loads(text.decode())
    except OSError as error:
        raise RulesError([str(error.strerror)]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RulesError([str(error)]) from error
    if "city" in values:
        raise RulesError(["city: stands in the settings, and goes to the log with the rules"])
    rules = Rules.read(values)
    Ruling(rules, SuiteConfig())
    if faults := without_effect(rules):
        raise RulesError(faults)
    return rules


async def apply(
    rules: Rules, sender: Sender, namespace: str, partitions: int, deadline_s: float = _SEND_S
) -> dict[int, str | None]:
    """Write rules into every partition of a namespace's readings.

    One partition that does not take them keeps no other from having them. It is safe to do it
    again: workers pass over rules that hold already.

    Returns
    -------
    dict of int to str or None
        Why a partition may not have them, by its number.
    """
    faults: dict[int, str | None] = {}
    for number in range(partitions):
        faults[number] = None
        try:
            async with asyncio.timeout(deadline_s):
                await sender.send([rules_record(rules, namespace, number)])
        except TimeoutError:
            faults[number] = f"not taken within {deadline_s:g} s"
        except (KafkaError, KafkaSetupError, OSError) as error:
            faults[number] = str(error) or repr(error)
    return faults


async def compared(
    connection: AsyncConnection[Any], shadow: str, since: datetime | None, limit: int
) -> Comparison:
    """Compare a shadow with what people were told, by the kinds of alerts that it looks for.

    Raises
    ------
    ShadowUnknownError
        As `storage.rules.compare` does.
    """
    layer = Rules.read(await rules_of_shadow(connection, shadow)).shadow.get(shadow)
    others = BY_MINUTES if layer is not None and layer.is_about_minutes else ()
    return await compare(connection, shadow, KIND_NAMES, others, since, limit)


def by_partition(present: Sequence[Present], partitions: int) -> dict[int, Present | None]:
    """Return what holds in each partition; None where its worker's defaults do."""
    numbers = {*range(partitions), *(one.partition for one in present)}
    known = {one.partition: one for one in present}
    return {number: known.get(number) for number in sorted(numbers)}


def differ(held: dict[int, Present | None]) -> bool:
    """Say whether partitions are judged by different rules."""
    defaults = Rules().fingerprint
    return len({one.fingerprint if one else defaults for one in held.values()}) > 1


def distinct(held: dict[int, Present | None]) -> dict[str, Any]:
    """Return the rules that hold anywhere, by their fingerprints."""
    return {one.fingerprint: one.rules for one in held.values() if one is not None}

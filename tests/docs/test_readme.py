"""What the README and the documents name exists."""

import re
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import citywatch.commands
import citywatch.demo_command
import citywatch.duty_commands  # noqa: F401 - adds its commands
from citywatch.cli import app
from citywatch.rules import read_rules
from citywatch.settings import read_settings
from detectors import Terms
from ingest.decode import decode
from ingest.message import Message
from ingest.ngsi import ENTITIES
from ingest.quantities import QUANTITIES
from ingest.topics import MqttTopic
from paging.notices import decode_notice
from streams.rules import SWITCHES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def commands() -> set[str]:
    group = typer.main.get_command(app)
    names = set()
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {})
        names |= {f"{name} {sub}" for sub in inner} or {name}
        # A group that does something by itself as well.
        names |= {name} if getattr(command, "invoke_without_command", False) else set()
    return names


def test_the_table_of_commands_is_complete() -> None:
    told = set()
    for row in re.findall(r"^\| (`citywatch [^|]+) \|", README, re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", row)
        base = first.removeprefix("citywatch ")
        told |= {base, *(f"{base.split()[0]} {other}" for other in others)}

    assert told == commands()


def test_every_command_in_a_console_block_is_understood() -> None:
    lines = re.findall(r"^\$ \.venv/bin/citywatch (.+)$", README, re.MULTILINE)

    assert lines
    for line in lines:
        words = line.split()
        assert CliRunner().invoke(app, [words[0], "--help"]).exit_code == 0
        text = CliRunner().invoke(app, [words[0], "--help"], env={"COLUMNS": "200"}).output
        for option in (word for word in words if word.startswith("--")):
            assert option in text


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"`make ([a-z-]+)", text) + re.findall(r"\$ make ([a-z-]+)", text):
            assert target in targets, (document.name, target)


def test_every_setting_named_in_the_documents_exists() -> None:
    text = "".join(document.read_text("utf-8") for document in DOCUMENTS)
    names = set(re.findall(r"`(CITYWATCH_[A-Z]+__[A-Z_]+)`", text))

    assert names
    for name in names:
        read_settings(None, {name: "1"})


def test_the_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))
        for link in links:
            assert (document.parent / link).exists(), (document.name, link)


def test_the_quantities_are_those_that_are_taken() -> None:
    for entity, known in ENTITIES.items():
        row = next(line for line in README.splitlines() if f"`{entity}` |" in line)
        domain, _, quantities = row.strip("| ").split(" | ")
        assert domain == f"`{known.domain}`"
        assert re.findall(r"`([A-Za-z0-9]+)`", quantities) == list(known.quantities)


def examples(kind: str, text: str = README) -> list[bytes]:
    blocks = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    return [block.encode() for block in blocks if kind in block]


ARRIVAL_NS = 1_772_348_401 * 10**9  # a second after the examples
PAYLOADS = (ROOT / "docs/payloads.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("example", "topic", "expected"),
    [
        (
            examples("dateObserved")[0],
            MqttTopic("live", "traffic", "centre", "loop-17"),
            {
                ("loop-17", "intensity"): 412.0,
                ("loop-17", "occupancy"): 0.11,
                ("loop-17", "averageVehicleSpeed"): 46.2,
            },
        ),
        (
            examples("dateObserved", PAYLOADS)[0],
            MqttTopic("live", "environment", "centre", "mast-4"),
            {("mast-4", "no2"): 21.5, ("mast-4", "temperature"): 6.5},
        ),
        (
            examples('"bn"', PAYLOADS)[0],
            MqttTopic("live", "environment", "centre", "gw-1"),
            {
                ("gw-1:s1", "temperature"): 6.5,
                ("gw-1:s1", "relativeHumidity"): 0.81,
                ("gw-1:s2", "no2"): 11.2 * 46.0055 / 24.055,
            },
        ),
    ],
    ids=["key-values", "normalised", "senml"],
)
def test_an_example_message_is_taken(
    example: bytes, topic: MqttTopic, expected: dict[tuple[str, str], float]
) -> None:
    taken = decode(example, topic, ARRIVAL_NS)
    assert isinstance(taken, Message)
    assert dict(zip(taken.channels, taken.value, strict=True)) == pytest.approx(expected, rel=1e-3)
    assert (taken.refused, taken.withheld) == ([], {})


def test_the_example_event_is_taken() -> None:
    (example,) = examples("UtcTime", PAYLOADS)
    topic = MqttTopic(
        "live", "cameras", "centre", "cam-1", "RuleEngine/CountAggregation/OccupancyCounter"
    )
    taken = decode(example, topic, ARRIVAL_NS)
    assert isinstance(taken, Message)
    assert [channel.quantity for channel in taken.channels] == ["occupancyCount"]
    assert taken.value == [12.0]


def test_every_quantity_of_an_event_is_told() -> None:
    events = {name for name, row in QUANTITIES.items() if row.domain == "cameras"}
    told = set(re.findall(r"`(\w+)`", PAYLOADS + README))
    assert events <= told


def test_the_example_page_is_a_page() -> None:
    (example,) = examples("alert_id")

    notice = decode_notice(example)

    assert notice.title == notice.alerts[0].sentence
    assert notice.counts.total == len(notice.alerts)


def test_the_version_is_told_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    assert CliRunner().invoke(app, ["--version"]).output.split()[1] == project["project"]["version"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_begins_with_its_title(document: Path) -> None:
    assert document.read_text(encoding="utf-8").startswith("# ")


def test_the_examples_of_rules_are_understood(tmp_path: Path) -> None:
    text = (ROOT / "docs/rules.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        file = tmp_path / "rules.toml"
        file.write_text(example, encoding="utf-8")
        read_rules(file)
    for name in (*Terms._fields, *SWITCHES):
        assert name in text

"""What the README and the documents name exists."""

import re
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import citywatch.commands
import citywatch.demo_command  # noqa: F401 - adds its command
from citywatch.cli import app
from citywatch.settings import read_settings
from ingest.ngsi import ENTITIES, Decoded, decode
from ingest.topics import MqttTopic
from storage.pages import decode_page

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def commands() -> set[str]:
    group = typer.main.get_command(app)
    names = set()
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {})
        names |= {f"{name} {sub}" for sub in inner} or {name}
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


def examples(kind: str) -> list[str]:
    return [block for block in re.findall(r"```json\n(.*?)```", README, re.DOTALL) if kind in block]


def test_the_example_message_is_taken() -> None:
    (example,) = examples("dateObserved")

    topic = MqttTopic("live", "traffic", "centre", "loop-17")
    taken = decode(example.encode(), topic, 2 * 10**18)

    assert isinstance(taken, Decoded)
    assert taken.quantities == ["intensity", "occupancy", "averageVehicleSpeed"]


def test_the_example_page_is_a_page() -> None:
    (example,) = examples("alert_id")
    full = example.replace("0d5e…", "0d5e2a3c-8a52-5d5c-9a0e-0a4f6d6f7f11")

    page = decode_page(full.encode())

    assert (
        page.sentence
        == decode_page(re.sub(r'"sentence": ".*"', '"sentence": ""', full).encode()).sentence
    )


def test_the_version_is_told_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    assert CliRunner().invoke(app, ["--version"]).output.split()[1] == project["project"]["version"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_begins_with_its_title(document: Path) -> None:
    assert document.read_text(encoding="utf-8").startswith("# ")

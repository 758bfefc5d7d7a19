import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import citywatch.commands
import citywatch.demo_command
import citywatch.duty_commands  # noqa: F401 - adds its commands
from citywatch.cli import app
from storage.migrate import migrate

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "demo",
    "evaluate",
    "bridge",
    "worker",
    "pager",
    "console",
    "api",
    "token",
    "alerts",
    "silence",
    "maintenance",
    "oncall",
    "duty",
    "dashboards",
    "simulate",
    "replay",
    "audit",
    "db",
    "rejects",
    "rules",
    "status",
}

run = CliRunner().invoke


def test_the_help_lists_the_commands_and_no_others() -> None:
    text = run(app, ["--help"]).output

    listed = {match[1] for match in re.finditer(r"^│ ([a-z]+) ", text, re.MULTILINE)}
    assert listed == COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str) -> None:
    result = run(app, [command, "--help"])

    assert result.exit_code == 0
    assert "Usage" in result.output


def test_wrong_settings_end_with_every_fault_and_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYWATCH_MQTT__PORT", "none")
    monkeypatch.setenv("CITYWATCH_NO_SUCH", "1")

    result = run(app, ["bridge"])

    assert result.exit_code == 2
    assert "mqtt.port" in result.output
    assert "CITYWATCH_NO_SUCH: no such setting" in result.output


def test_a_pager_refuses_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYWATCH_NAMESPACE", "replay-monday")
    monkeypatch.setenv("CITYWATCH_PAGER__WEBHOOK_URL", "http://127.0.0.1:9/")

    result = run(app, ["pager"])

    assert result.exit_code == 1
    assert "replay-monday" in result.output


def test_a_database_that_is_away_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITYWATCH_DATABASE__DSN", "postgresql://u:hunter2@127.0.0.1:9/d")

    result = run(app, ["status"])

    assert result.exit_code == 1
    assert result.output.startswith("The database refused: ")
    assert "hunter2" not in result.output


def test_migrate_status_and_audit_of_an_empty_schema(
    monkeypatch: pytest.MonkeyPatch, dsn: str, namespace: str, schema: str
) -> None:
    assert migrate(dsn, schema) == []
    monkeypatch.setenv("CITYWATCH_DATABASE__DSN", dsn)
    monkeypatch.setenv("CITYWATCH_NAMESPACE", namespace)

    assert "up to date" in run(app, ["db", "migrate"]).output
    assert '"stored": 0' in run(app, ["status", "--json"]).output
    audited = run(app, ["audit", "--json"])
    assert (audited.exit_code, json.loads(audited.output)) == (
        0,
        {"balanced": True, "faults": [], "lines": [], "storage": []},
    )
    assert run(app, ["audit"]).output.splitlines()[-1] == "balanced"


def test_the_database_is_tended_by_its_owner(
    monkeypatch: pytest.MonkeyPatch, dsn: str, namespace: str, schema: str
) -> None:
    monkeypatch.setenv("CITYWATCH_DATABASE__DSN", dsn)
    monkeypatch.setenv("CITYWATCH_NAMESPACE", namespace)

    assert run(app, ["db", "expire"]).output == "what was old is gone\n"
    granted = run(app, ["db", "grant", "--reader", "citywatch"])
    assert (granted.exit_code, granted.output) == (0, f"the roles of {schema} have their rights\n")
    nobody = run(app, ["db", "grant", "--writer", "nobody-there"])
    assert nobody.exit_code == 1
    assert "nobody-there" in nobody.output


def test_the_module_is_the_command_line() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "citywatch", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )

    assert re.fullmatch(r"citywatch \d+\.\d+\.\d+", told.stdout.strip())
